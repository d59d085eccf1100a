"""
M where nobody says it: as many video tokens as one frame of the base has; and a word about videos with fewer tokens.

A picture of 360 or 576 tokens squeezed into 256 was no picture any more, and 128 frame tokens became 256 video tokens
without a word.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from base_specs import QUICK
from promises import BY_DEFAULT, LINVT, QUESTION, Wrapped, base_folder, user, wrapped
from tiny_bases import build_model, build_processor, save_base
from transformers_linvt import (
    EmbeddingsBridge,
    LinVTForVideoQA,
    LinVTProcessor,
    VideoFeatures,
    VideoFrames,
    cli,
    plan_wrap,
)
from transformers_linvt.bases import base as seam
from transformers_linvt.bases import video_tokens
from transformers_linvt.demo.shapes import write_clip


WITHOUT_M = {name: value for name, value in BY_DEFAULT.items() if name != "num_video_tokens"}
# A grid of 4 x 8 tokens from a frame of 640 x 360, of 3 x 5 from one of 80 x 48: what depends on the size shows.
GRID, TOKENS, TOKENS_OF_SMALL = "qwen2_vl", 32, 15


def common_video(num_frames: int) -> VideoFrames:
    """Frames of 640 x 360 random pixels, one per second."""
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, 360, 640, 3), dtype=np.uint8)
    return VideoFrames(frames, np.arange(num_frames) * 1.0, "<frames>", "memory", float(num_frames), num_frames, None)


def tokens_when_run(model: LinVTForVideoQA, processor: LinVTProcessor) -> int:
    """Tokens of one common frame that come out of the vision tower and projector."""
    return model.encode_video(**processor.video_inputs(common_video(1))).refined.tokens_per_frame


# ---- the number


@pytest.mark.parametrize("name", QUICK)
def test_a_video_has_as_many_tokens_as_one_frame_gives_when_run(name: str, tmp_path: Path):
    folder = base_folder(name)
    model, processor = LinVTForVideoQA.from_base(folder, **WITHOUT_M), LinVTProcessor.from_base(folder)
    assert model.config.num_video_tokens == tokens_when_run(model, processor) == processor.num_video_tokens
    assert model.linvt.num_video_tokens == model.config.num_video_tokens
    processor.check_fits(model.config)

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert again[0].config.num_video_tokens == again[1].num_video_tokens == processor.num_video_tokens
    assert f"into {processor.num_video_tokens} tokens" in (tmp_path / "README.md").read_text()

    family = Wrapped(name, model, processor, folder)
    inputs = family.inputs(user(common_video(2), QUESTION))
    words = 1 if name == "mllama" else processor.num_video_tokens  # there a video is keys beside one word
    assert int(inputs["video_mask"].sum()) == words
    assert bool(torch.isfinite(model(**inputs).logits).any())


@pytest.mark.parametrize("name", QUICK)
def test_loaded_parts_have_the_number_of_named_ones(name: str):
    folder = base_folder(name)
    named = LinVTProcessor.from_base(folder)
    loaded = named.bridge.load_processor(str(folder))
    assert LinVTProcessor.from_base(loaded, base_model_type=named.base_model_type).num_video_tokens == (
        named.num_video_tokens
    )
    base = named.bridge.load(str(folder))
    assert LinVTForVideoQA.from_base(base, **WITHOUT_M).config.num_video_tokens == named.num_video_tokens


def test_a_base_whose_frames_differ_takes_a_common_one():
    model = LinVTForVideoQA.from_base(base_folder(GRID), **WITHOUT_M)
    processor = LinVTProcessor.from_base(base_folder(GRID))
    assert model.config.num_video_tokens == processor.num_video_tokens == TOKENS
    small = processor.bridge.tokens_of_frame(processor.base_processor, np.zeros((48, 80, 3), np.uint8))
    assert small == TOKENS_OF_SMALL


def test_steps_of_several_frames_have_the_number_of_a_frame():
    fields = {**WITHOUT_M, "frame_path": "video"}
    model = LinVTForVideoQA.from_base(base_folder(GRID), **fields)
    processor = LinVTProcessor.from_base(base_folder(GRID), frame_path="video")
    features = model.encode_video(**processor.video_inputs(common_video(2)))
    assert features.refined.tokens_per_frame == TOKENS == model.config.num_video_tokens == processor.num_video_tokens


def test_a_given_number_is_obeyed_and_no_frame_is_counted(monkeypatch: pytest.MonkeyPatch):
    def counted(*arguments: Any) -> None:
        raise AssertionError("A frame was counted although the number was given.")

    monkeypatch.setattr(seam.BaseBridge, "tokens_of_frame", counted)
    monkeypatch.setattr("transformers_linvt.model.checkpoint_loading.default_video_tokens_at", counted)
    model = LinVTForVideoQA.from_base(base_folder(GRID), **{**LINVT, "num_video_tokens": 7})
    assert model.config.num_video_tokens == model.linvt.num_video_tokens == 7
    assert LinVTProcessor.from_base(base_folder(GRID), num_video_tokens=7).num_video_tokens == 7


def test_the_processor_of_a_loaded_base_is_that_of_its_commit(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def load(name: str, loading: dict[str, Any], model_type: str | None = None) -> tuple[Any, str]:
        asked.append((name, loading))
        return build_processor(GRID), GRID

    monkeypatch.setattr(video_tokens, "load_processor_at", load)
    base = build_model(GRID)
    base.name_or_path, base.config._commit_hash = "somebody/base", "c0ffee"
    assert LinVTForVideoQA.from_base(base, **WITHOUT_M).config.num_video_tokens == TOKENS
    vouched = {"base_model_name_or_path": "somebody/else", "base_revision": "v2"}
    assert LinVTForVideoQA.from_base(base, **vouched, **WITHOUT_M).config.num_video_tokens == TOKENS
    assert asked == [("somebody/base", {"revision": "c0ffee"}), ("somebody/else", {"revision": "v2"})]


# ---- where it cannot be known


def without_processor(folder: Path) -> Any:
    """A base in a folder that has weights and config only."""
    save_base("llava_phi", folder)
    for file in folder.iterdir():
        if not file.name.startswith(("config", "generation", "model")):
            file.unlink()
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: build_model("llava_phi"), ("without a name",)),
        (without_processor, ("preprocessor_config.json",)),
        (
            lambda folder: AutoModelForImageTextToText.from_pretrained(without_processor(folder)),
            ("preprocessor_config.json",),
        ),
    ],
    ids=["loaded, without a name", "no processor", "loaded, no processor"],
)
def test_without_an_image_processor_it_is_256_with_a_warning(
    make: Callable[[Path], Any], words: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    base = make(tmp_path / "base")
    caplog.clear()
    assert LinVTForVideoQA.from_base(base, **WITHOUT_M).config.num_video_tokens == 256
    (warned,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert all(word in warned for word in ("num_video_tokens=256", "model and processor", *words)), warned


def test_a_processor_that_does_not_count_gives_256_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    class Silent(EmbeddingsBridge):
        def tokens_of_frame(self, processor: Any, frame: np.ndarray) -> int:
            raise KeyError("how many")

    monkeypatch.setitem(seam._REGISTERED, "llava", Silent())
    assert LinVTProcessor.from_base(build_processor("llava_phi")).num_video_tokens == 256
    assert "LlavaProcessor does not count them" in caplog.text and "num_video_tokens=256" in caplog.text


def test_the_number_is_logged_once_with_its_reason(caplog: pytest.LogCaptureFixture):
    type(video_tokens.logger).info_once.cache_clear()
    with caplog.at_level(logging.INFO, "transformers_linvt"):
        LinVTForVideoQA.from_base(base_folder(GRID), **WITHOUT_M)
        LinVTProcessor.from_base(base_folder(GRID))
    said = [one.getMessage() for one in caplog.records if "num_video_tokens" in one.getMessage()]
    assert len(said) == 1 and "num_video_tokens=32" in said[0] and "one frame of 360 x 640 pixels" in said[0]
    assert {one.levelno for one in caplog.records if one.getMessage() in said} == {logging.INFO}


# ---- the command line


def test_a_plan_without_a_number_has_that_of_a_frame_and_says_so(capsys: pytest.CaptureFixture):
    folder = str(base_folder(GRID))
    plan = plan_wrap(folder, 3, (48, 80), **WITHOUT_M)
    assert (plan.tokens_per_frame, plan.num_video_tokens) == (TOKENS_OF_SMALL, TOKENS)
    assert plan.notes[0] == "32 video tokens by default: as many as one frame of 360 x 640 pixels has"
    assert "by default" not in " ".join(plan_wrap(folder, 3, (48, 80), **{**WITHOUT_M, "num_video_tokens": 32}).notes)
    assert cli.main(["wrap", folder, "--dry-run"]) == 0
    assert "note: 32 video tokens by default: as many as one frame of 360 x 640 pixels" in capsys.readouterr().out


def test_a_plan_says_where_not_even_a_picture_fits():
    folder = str(base_folder(GRID))
    tight = plan_wrap(folder, 3, (48, 80), **{**LINVT, "num_video_tokens": TOKENS_OF_SMALL - 1})
    assert "one frame is 15 tokens, more than the 14 video tokens: not even a picture fits without loss" in tight.notes
    enough = plan_wrap(folder, 3, (48, 80), **{**LINVT, "num_video_tokens": TOKENS_OF_SMALL})
    assert not any("picture" in note for note in enough.notes)


@pytest.mark.parametrize(("words", "number"), [((), TOKENS), (("--num-video-tokens", "7"), 7)])
def test_wrap_prints_the_number_and_that_of_a_frame(
    words: tuple[str, ...], number: int, tmp_path: Path, capsys: pytest.CaptureFixture
):
    out = tmp_path / "out"
    words = ("--num-heads", "2", "--bottleneck-size", "16", *words)
    assert cli.main(["wrap", str(base_folder(GRID)), str(out), *words]) == 0
    line = f"a video becomes {number} tokens of the language model, however long it is"
    printed = capsys.readouterr()
    assert f"{line}; one frame of 360 x 640 pixels is {TOKENS}" in printed.out and printed.err == ""
    model, processor = AutoModel.from_pretrained(out), AutoProcessor.from_pretrained(out)
    assert model.config.num_video_tokens == processor.num_video_tokens == number


# ---- videos with fewer tokens than that


@pytest.fixture
def roomy(caplog: pytest.LogCaptureFixture) -> Iterator[Wrapped]:
    """A model with 40 video tokens, all of them used, of a base with 25 tokens per frame."""
    folder = base_folder("llava_phi")
    model = LinVTForVideoQA.from_base(folder, **{**LINVT, "num_video_tokens": 40, "init": "anchored"})
    caplog.clear()
    return Wrapped("llava_phi", model, LinVTProcessor.from_base(folder, num_video_tokens=40), folder)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def ways(folder: Path) -> dict[str, Callable[[Wrapped, VideoFrames], Any]]:
    """Everything that makes video tokens of a clip."""

    def of_file(family: Wrapped, video: VideoFrames) -> None:
        family.model.encode_video(**family.processor.video_inputs(video)).save(folder / "features.safetensors")
        features = VideoFeatures.load(folder / "features.safetensors")
        family.model.answer(features, QUESTION, family.processor, max_new_tokens=1)

    return {
        "forward": lambda family, video: family.model(**family.inputs(user(video, QUESTION))),
        "generate": lambda family, video: family.model.generate(
            **family.inputs(user(video, QUESTION)), max_new_tokens=1
        ),
        "backbone": lambda family, video: family.model.model(**family.inputs(user(video, QUESTION))),
        "encode_video": of_file,
    }


@pytest.mark.parametrize("way", ["forward", "generate", "backbone", "encode_video"])
def test_a_video_with_fewer_tokens_is_named_once_with_its_numbers(
    roomy: Wrapped, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = ways(tmp_path)[way]
    run(roomy, roomy.clip(2))
    assert warned(caplog) == []  # 50 tokens are enough for 40
    for _ in range(2):
        run(roomy, roomy.clip(1))
    (message,) = warned(caplog)
    for words in ("has 25 frame tokens (frames: 1, tokens of each: 25)", "40 video tokens", "Sample 2 frames"):
        assert words in message, message


def test_as_many_tokens_as_there_were_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture):
    family = wrapped("llava_phi")
    model = LinVTForVideoQA.from_base(family.base, **{**LINVT, "num_video_tokens": 25})
    processor = LinVTProcessor.from_base(family.base_folder)
    caplog.clear()
    model(**Wrapped("llava_phi", model, processor, family.base_folder).inputs(user(family.clip(1), QUESTION)))
    assert warned(caplog) == []


def test_tokens_that_are_left_over_are_not_used_and_no_reason_to_warn(caplog: pytest.LogCaptureFixture):
    folder = base_folder("llava_phi")
    model = LinVTForVideoQA.from_base(folder, **{**LINVT, "num_video_tokens": 40})
    processor = LinVTProcessor.from_base(folder, num_video_tokens=40)
    family = Wrapped("llava_phi", model, processor, folder)
    caplog.clear()
    model(**family.inputs(user(family.clip(1), QUESTION)))
    assert warned(caplog) == []


def test_one_short_video_of_a_batch_is_noticed(roomy: Wrapped, caplog: pytest.LogCaptureFixture):
    """Padded beside the long one it has as many frames."""
    roomy.model(**roomy.inputs(user(roomy.clip(3), QUESTION), user(roomy.clip(1), QUESTION)))
    assert len(warned(caplog)) == 1 and "(frames: 1, tokens of each: 25)" in warned(caplog)[0]


def test_ask_says_it_in_a_line(roomy: Wrapped, tmp_path: Path, capsys: pytest.CaptureFixture):
    roomy.model.save_pretrained(tmp_path / "model")
    roomy.processor.save_pretrained(tmp_path / "model")
    clip = str(tmp_path / "clip.mp4")
    write_clip(clip, np.random.default_rng(0).integers(0, 256, (4, 48, 80, 3), dtype=np.uint8))
    said = {}
    for num_frames in ("1", "2"):
        words = ["--model", str(tmp_path / "model"), "--num-frames", num_frames, "--max-new-tokens", "1"]
        assert cli.main(["ask", clip, QUESTION, QUESTION, *words]) == 0
        said[num_frames] = capsys.readouterr().err
    assert said["2"] == "" and said["1"].count("linvt: note: A video has 25 frame tokens") == 1
