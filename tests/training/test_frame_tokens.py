"""
With a cache of frame tokens a run learns what it learns without, and reads and encodes every video once.

Never a wrong token: what changes frame tokens changes what they are found by, what is damaged is made again, and what
trains the vision side is refused.
"""

import json
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import TrainerCallback

from promises import Wrapped, wrapped
from transformers_linvt import (
    LinVTContrastiveConfig,
    LinVTContrastiveTrainer,
    LinVTInputError,
    LinVTSFTConfig,
    LinVTSFTTrainer,
    load_video_dataset,
    lora_config,
)
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.model import video_inputs
from transformers_linvt.training.collator import LinVTDataCollator
from transformers_linvt.training.frame_tokens import FrameTokens


# peft 0.21 asks whether checkpointing is on by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
CAPTIONS = ("a cat", "two red cars on a road", "rain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of different length, and their captions."""
    folder = tmp_path_factory.mktemp("clips")
    with (folder / "train.jsonl").open("w") as file:
        for seed, caption in enumerate(CAPTIONS):
            write(folder / f"{seed}.mp4", seed)
            file.write(json.dumps({"video": f"{seed}.mp4", "prompt": "What?", "completion": caption}) + "\n")
    return folder


def write(path: Path, seed: int) -> None:
    write_clip(path, make_clip("scenes", seed, 4 + seed)[0], scale=1)
    os.utime(path, (1e9, 1e9))  # long ago, as most files are


def trainer_of(
    family: Wrapped, folder: Path, output: Path, stage: str = "instruct", peft: LoraConfig | None = None, **kwargs: Any
) -> LinVTSFTTrainer:
    """A run of two epochs with two batches each, of which one has two examples."""
    own = {name: kwargs.pop(name) for name in ("callbacks", "data_collator", "train_dataset") if name in kwargs}
    torch.manual_seed(0)
    shared = {
        "train_dataset": load_video_dataset(folder / "train.jsonl"),
        "processing_class": family.processor,
        **own,
    }
    arguments = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_frames": 5,
        **kwargs,
    }
    if stage == "align":
        args = LinVTContrastiveConfig(
            str(output), contrastive_size=8, contrastive_mini_batch_size=1, dataloader_drop_last=False, **arguments
        )
        return LinVTContrastiveTrainer(family.model, args, **shared)
    peft = lora_config(family.model, r=3, lora_dropout=0.0) if peft is None else peft
    return LinVTSFTTrainer(family.model, LinVTSFTConfig(str(output), **arguments), peft_config=peft, **shared)


def trained(trainer: LinVTSFTTrainer) -> dict[str, torch.Tensor]:
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and len(one) > 20
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@contextmanager
def costs(trainer: LinVTSFTTrainer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Counts videos that are read and videos that are encoded, from now on."""
    counter: Counter = Counter()
    backbone = getattr(trainer.model, "get_base_model", lambda: trainer.model)().model
    read, encode = video_inputs.read_video, backbone.encode_videos

    def counted_read(*args: Any, **kwargs: Any) -> Any:
        counter["read"] += 1
        return read(*args, **kwargs)

    def counted_encode(frames_per_video: Any, inputs: Any) -> Any:
        counter["encoded"] += len(frames_per_video)
        return encode(frames_per_video, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(video_inputs, "read_video", counted_read)
        patch.setattr(backbone, "encode_videos", counted_encode)
        yield counter


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# --- the same training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stage"), [("llava_phi", "align"), ("qwen3_vl", "instruct")])
def test_a_run_learns_the_same_bit_by_bit_and_meets_every_video_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stage: str
):
    """Qwen3-VL has tokens of deeper layers too; stage 1 takes batches apart."""
    expected = trained(trainer_of(wrapped(name), folder, tmp_path / "out", stage))
    cache = {"cache_frame_tokens": str(tmp_path / "cache"), "cache_frame_tokens_dtype": "auto"}
    trainer = trainer_of(wrapped(name), folder, tmp_path / "out", stage, **cache)
    with costs(trainer, monkeypatch) as counter:
        assert_same(trained(trainer), expected)
    assert counter == {"read": len(CAPTIONS), "encoded": len(CAPTIONS)}
    again = trainer_of(wrapped(name), folder, tmp_path / "out", stage, dataloader_num_workers=1, **cache)
    with costs(again, monkeypatch) as counter:
        assert_same(trained(again), expected)
    assert counter == {}  # nor in the worker, which has no pixels to send


def test_bfloat16_rounds_and_a_run_does_not_depend_on_what_was_there(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    family = wrapped("llava_phi")
    trainer = trainer_of(family, folder, tmp_path / "out", cache_frame_tokens=str(tmp_path / "cache"))
    assert "MB for the first example" in caplog.text and "GB for 3 like it" in caplog.text
    batch = trainer.data_collator([trainer.train_dataset[0]])
    exact = family.model.model.encode_videos(
        batch["frames_per_video"].tolist(), {"pixel_values": batch["frame_pixel_values"]}
    )
    kept = trainer._prepare_inputs(dict(batch))["encoded_frames"]
    assert kept[0].tokens.dtype is torch.bfloat16
    error = (kept[0].tokens - exact[0].tokens).abs() / exact[0].tokens.abs().clamp(min=1e-6)
    assert 0 < error.max() <= 2**-8
    (path,) = files_of(tmp_path / "cache")
    assert path.stat().st_size < exact[0].tokens.numel() * 2 + 1000
    first = trained(trainer)
    assert_same(
        trained(
            trainer_of(wrapped("llava_phi"), folder, tmp_path / "out", cache_frame_tokens=str(tmp_path / "cache"))
        ),
        first,
    )


def test_examples_without_a_video_and_unreadable_ones_go_their_way(folder: Path, tmp_path: Path):
    rows = [
        {"video": None, "prompt": "Who?", "completion": "you"},
        {"video": str(folder / "0.mp4"), "prompt": "What?", "completion": "a cat"},
        {"video": str(tmp_path / "broken.mp4"), "prompt": "What?", "completion": "rain"},
    ]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    options = {"train_dataset": Dataset.from_list(rows), "max_unreadable_share": 1.0, "per_device_train_batch_size": 3}
    expected = trained(trainer_of(wrapped("llava_phi"), folder, tmp_path / "out", **options))
    cache = {"cache_frame_tokens": str(tmp_path / "cache"), "cache_frame_tokens_dtype": "auto"}
    assert_same(trained(trainer_of(wrapped("llava_phi"), folder, tmp_path / "out", **options, **cache)), expected)


# --- never a wrong token ---------------------------------------------------------------------------------------------


def collated(
    folder: Path, tmp_path: Path, family: Wrapped | None = None, **kwargs: Any
) -> tuple[LinVTSFTTrainer, Any]:
    """A run before its first step, and its first example as a batch."""
    family = wrapped("llava_phi") if family is None else family
    trainer = trainer_of(family, folder, tmp_path / "out", cache_frame_tokens=str(tmp_path / "cache"), **kwargs)
    return trainer, trainer.data_collator([trainer.train_dataset[0]])


def is_known(batch: dict[str, Any]) -> bool:
    (one,) = batch["frame_tokens"]
    assert (one.encoded is None) == any(name.startswith("frame_pixel") for name in batch)
    return one.encoded is not None


def test_whatever_changes_frame_tokens_is_encoded_again(folder: Path, tmp_path: Path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    trainer, batch = collated(copy, tmp_path)
    assert not is_known(batch)
    trainer._prepare_inputs(batch)
    shutil.move(copy / "0.mp4", copy / "other.mp4")
    (copy / "train.jsonl").write_text((copy / "train.jsonl").read_text().replace("0.mp4", "other.mp4"))
    assert is_known(collated(copy, tmp_path)[1])  # another name is the same video
    assert not is_known(collated(copy, tmp_path, num_frames=3)[1])
    assert not is_known(collated(copy, tmp_path, cache_frame_tokens_dtype="auto")[1])
    family = wrapped("llava_phi")
    family.processor.base_processor.image_processor.image_mean = [0.25, 0.5, 0.75]
    assert not is_known(collated(copy, tmp_path, family)[1])
    family = wrapped("llava_phi")
    next(weight for name, weight in family.base.named_parameters() if "vision" in name).detach().mul_(2)
    family.model.config.includes_base = True  # or the result could not be saved
    assert not is_known(collated(copy, tmp_path, family)[1])
    family = wrapped("llava_phi")
    family.base.config.vision_feature_layer = -1
    assert not is_known(collated(copy, tmp_path, family)[1])
    write(copy / "other.mp4", seed=7)
    assert not is_known(collated(copy, tmp_path)[1])


def test_a_video_that_is_written_while_it_is_read_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    trainer, _ = collated(copy, tmp_path)
    read = video_inputs.read_video

    def and_written(*args: Any, **kwargs: Any) -> Any:
        video = read(*args, **kwargs)
        write(copy / "0.mp4", seed=2)
        os.utime(copy / "0.mp4", (2e9, 2e9))
        return video

    monkeypatch.setattr(video_inputs, "read_video", and_written)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert len(trainer._prepare_inputs(batch)["encoded_frames"]) == 1
    assert files_of(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another's"])
def test_a_damaged_file_is_made_again(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str):
    trainer, batch = collated(folder, tmp_path)
    expected = trainer._prepare_inputs(batch)["encoded_frames"][0].tokens
    (path,) = files_of(tmp_path / "cache")
    data = path.read_bytes()
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    path.write_bytes({"cut": data[:-9], "flipped": flipped, "empty": b"", "another's": b"{}"}[damage])
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert not is_known(batch) and "encoded again" in caplog.text
    assert torch.equal(trainer._prepare_inputs(batch)["encoded_frames"][0].tokens, expected)
    assert is_known(trainer.data_collator([trainer.train_dataset[0]]))


def test_a_full_disk_costs_the_files_and_not_the_run(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trainer, _ = collated(folder, tmp_path)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # no file grows beyond
    try:
        for row in trainer.train_dataset:
            batch = trainer.data_collator([row])
            assert len(trainer._prepare_inputs(batch)["encoded_frames"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caplog.text.count("was not kept in cache_frame_tokens=") == 1
    assert files_of(tmp_path / "cache") == []


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_vision_side_that_trains_is_refused(folder: Path, tmp_path: Path):
    on_vision = LoraConfig(r=3, target_modules=r".*vision.*\.q_proj", modules_to_save=["linvt"])
    with pytest.raises(LinVTInputError, match="something in it is trained"):
        collated(folder, tmp_path, peft=on_vision)
    on_projector = LoraConfig(r=3, target_modules=r".*projector.*linear_1", modules_to_save=["linvt"])
    with pytest.raises(LinVTInputError, match="something in it is trained"):
        collated(folder, tmp_path, peft=on_projector)


def test_a_vision_side_that_changes_in_the_run_stops_it(folder: Path, tmp_path: Path):
    family = wrapped("llava_phi")
    weight = next(weight for name, weight in family.base.named_parameters() if "vision" in name)

    class Changes(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            weight.detach().mul_(2.0)

    trainer, _ = collated(folder, tmp_path, family, callbacks=[Changes()])
    with pytest.raises(LinVTInputError, match="changed during the training"):
        trainer.train()


def test_a_collator_of_ones_own_is_refused(folder: Path, tmp_path: Path):
    family = wrapped("llava_phi")
    with pytest.raises(LinVTInputError, match="data_collator of your own"):
        collated(folder, tmp_path, family, data_collator=LinVTDataCollator(family.processor))


def test_frame_tokens_of_another_trainers_cache_are_refused(folder: Path, tmp_path: Path):
    cached, _ = collated(folder, tmp_path)
    without = trainer_of(wrapped("llava_phi"), folder, tmp_path / "other", data_collator=cached.data_collator)
    with pytest.raises(LinVTInputError, match="frame tokens of another trainer's cache_frame_tokens"):
        without.train()


def test_a_file_that_holds_none_is_refused(tmp_path: Path):
    path = tmp_path / "clip.safetensors"
    with pytest.raises(LinVTInputError, match="clip.safetensors is not encoded yet"):
        FrameTokens("key", "{}").save(path)
    assert not path.exists()
    save_file({"tokens": torch.zeros(2, 3)}, path, {"format": "something else"})
    with pytest.raises(LinVTInputError, match="clip.safetensors holds no frame tokens of this version"):
        FrameTokens.load(path, "key")


def test_settings_that_cannot_be_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(LinVTInputError, match="choose one of 'auto', 'bfloat16'"):
        LinVTSFTConfig(str(tmp_path), use_cpu=True, cache_frame_tokens="x", cache_frame_tokens_dtype="int8")
    with pytest.raises(LinVTInputError, match="no effect without cache_frame_tokens"):
        LinVTSFTConfig(str(tmp_path), use_cpu=True, cache_frame_tokens_dtype="auto")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LinVTInputError, match="cache_frame_tokens=.*cannot be made"):
        collated(folder, tmp_path)
