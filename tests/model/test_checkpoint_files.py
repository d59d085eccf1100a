"""
The files of a checkpoint: whole or not at all, whatever happens while they are written, and nothing outside of them.

A save is interrupted in two ways: by an error at each of its steps in this process, and by `SIGKILL` in a child.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

from promises import LINVT, QUESTION, Wrapped, check_refused, user, wrapped
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    embedded_base_path,
)
from transformers_linvt.model import whole_folder


@pytest.fixture
def family() -> Wrapped:
    return wrapped("llava_phi")


@pytest.fixture
def folder(family: Wrapped, tmp_path: Path) -> Path:
    family.model.save_pretrained(tmp_path / "model")
    family.processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


# --- whole or not at all ---------------------------------------------------------------------------------------------


def other_model(family: Wrapped) -> LinVTForVideoQA:
    """Another model that lies in the same folder: more video tokens, and other weights."""
    return LinVTForVideoQA.from_base(family.base_folder, **{**LINVT, "num_video_tokens": 8})


@pytest.mark.parametrize("step", ["write_code", "make_card"])
def test_a_save_that_fails_leaves_what_was_there(
    family: Wrapped, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    (folder / "README.md").unlink()  # so that a card is made
    before = contents(folder)
    monkeypatch.setattr(f"transformers_linvt.model.checkpoint_saving.{step}", full)
    words = ("cannot be saved", "No space left", "still there")
    check_refused(lambda: other_model(family).save_pretrained(folder), CheckpointError, *words)
    assert contents(folder) == before
    check_refused(lambda: other_model(family).save_pretrained(folder / "new"), CheckpointError, *words)
    assert not (folder / "new").exists()


def test_a_processor_that_cannot_be_saved_leaves_what_was_there(
    family: Wrapped, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*args: Any, **kwargs: Any) -> None:
        raise Exception("No space left on device")  # as tokenizers raises it

    before = contents(folder)
    monkeypatch.setattr(family.processor.tokenizer, "save_pretrained", full)
    check_refused(lambda: family.processor.save_pretrained(folder), CheckpointError, "No space left", "still there")
    assert contents(folder) == before


@pytest.mark.parametrize("num_moved", [0, 1, 2, 5])
@pytest.mark.parametrize("load", [LinVTForVideoQA.from_pretrained, AutoModel.from_pretrained])
def test_a_save_that_was_interrupted_while_moving_is_finished_by_who_loads(
    family: Wrapped, folder: Path, monkeypatch: pytest.MonkeyPatch, num_moved: int, load: Any
):
    moves, replace = [], os.replace

    def interrupted(source: Path, target: Path) -> None:
        if "/.saved/" in str(source):
            if len(moves) == num_moved:
                raise KeyboardInterrupt
            moves.append(target)
        replace(source, target)

    family.model.save_pretrained(folder, max_shard_size="20KB")  # of which nothing may remain beside one file
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(whole_folder.os, "replace", interrupted)
        other_model(family).save_pretrained(folder)
    loaded = load(folder)
    assert loaded.config.num_video_tokens == loaded.linvt.num_video_tokens == 8
    names = contents(folder)
    assert [name for name in names if name.startswith(".")] == []
    assert [name for name in names if "safetensors" in name] == ["model.safetensors"]


def test_what_a_killed_process_left_is_cleared_away(family: Wrapped, folder: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = whole_folder.socket.gethostname()
    dead, alive = (folder / f".saving-{host}-{number}-x" for number in (ended.pid, os.getpid()))
    for path in (dead, alive):
        path.mkdir()
    family.model.save_pretrained(folder)
    assert not dead.exists() and alive.exists()


SAVE_AND_KILL = """
import os, random, signal, sys, time, torch
from transformers_linvt import LinVTForVideoQA, LinVTProcessor
torch.set_num_threads(1)
folder, base, times, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
models = [LinVTForVideoQA.from_base(base, num_video_tokens=n, bottleneck_size=8 * n, num_heads=2) for n in (4, 6)]
processors = [LinVTProcessor.from_base(base, num_video_tokens=n) for n in (4, 6)]
for model in models:
    for weight in model.linvt.parameters():
        torch.nn.init.normal_(weight, mean=model.config.num_video_tokens, std=0.01)

def save():
    for model, processor in zip(models, processors):
        model.save_pretrained(folder, include_base=True)
        processor.save_pretrained(folder)

start = time.perf_counter()
save()  # a first checkpoint to lose
duration, moments = time.perf_counter() - start, random.Random(seed)
for _ in range(times):
    child = os.fork()
    while not child:
        save()
    time.sleep(moments.uniform(0.0, 1.5 * duration))
    os.kill(child, signal.SIGKILL)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
    sys.stdin.readline()
"""


def kill_while_saving(folder: Path, times: int, seed: int) -> None:
    """Kill processes that save two models in turn at random moments; the folder has to hold one of them each time."""
    arguments = [sys.executable, "-c", SAVE_AND_KILL, folder, embedded_base_path(), str(times), str(seed)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(list(map(str, arguments)), **pipes, text=True) as program:
        for _ in range(times):
            assert program.stdout.readline() == f"{int(signal.SIGKILL)}\n"
            model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
            assert model.config.num_video_tokens == model.linvt.num_video_tokens in (4, 6)
            mean = torch.cat([weight.detach().flatten() for weight in model.linvt.parameters()]).mean()
            assert round(float(mean)) == model.config.num_video_tokens, "config and weights are of two saves"
            assert processor.num_video_tokens in (4, 6)  # saved by itself: it may be one behind
            assert processor.tokenizer("red")["input_ids"]
            program.stdin.write("\n")
            program.stdin.flush()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_killed_process_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path):
    kill_while_saving(tmp_path / "model", times=4, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1500)  # a process each, most of which is importing
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forty_killed_processes_leave_forty_good_checkpoints(tmp_path: Path):
    kill_while_saving(tmp_path / "model", times=40, seed=4)


# --- nothing outside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subfolder", ["../victim", "/victim", "a/../../victim", "..\\victim", "C:\\victim"])
def test_an_adapter_folder_outside_of_the_checkpoint_is_refused(family: Wrapped, folder: Path, subfolder: str):
    change(folder / "config.json", adapter_subfolder=subfolder)
    check_refused(lambda: AutoModel.from_pretrained(folder), CheckpointError, "inside of the checkpoint")
    model = other_model(family)
    model.config.adapter_subfolder = subfolder
    check_refused(lambda: model.save_pretrained(folder), CheckpointError, "inside of the checkpoint")


@pytest.mark.parametrize("include_base", [False, True])
@pytest.mark.parametrize("name", ["../victim.safetensors", "/victim.safetensors", "..\\victim.safetensors"])
def test_an_index_that_leads_out_of_the_checkpoint_is_refused(
    family: Wrapped, tmp_path: Path, include_base: bool, name: str
):
    family.model.save_pretrained(tmp_path / "model", include_base=include_base, max_shard_size="20KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    shard = json.loads(index.read_text())
    first = next(weight for weight in shard["weight_map"] if weight.startswith("model.linvt."))
    (tmp_path / "model" / shard["weight_map"][first]).rename(tmp_path / "victim.safetensors")
    shard["weight_map"][first] = name
    index.write_text(json.dumps(shard))
    check_refused(lambda: AutoModel.from_pretrained(tmp_path / "model"), CheckpointError, "no file of the checkpoint")


@pytest.mark.parametrize("base", [".", "../model", "{folder}"])
def test_a_checkpoint_that_is_its_own_base_is_refused(folder: Path, base: str):
    change(folder / "config.json", base_model_name_or_path=base.format(folder=folder))
    check_refused(lambda: AutoModel.from_pretrained(folder), CheckpointError, "holds a LinVT itself", "base_vlm=")


def test_a_base_beside_a_linked_checkpoint_is_found(family: Wrapped, tmp_path: Path):
    (tmp_path / "real").mkdir()
    os.symlink(family.base_folder, tmp_path / "real" / "base")
    family.model.save_pretrained(tmp_path / "real" / "model")
    change(tmp_path / "real" / "model" / "config.json", base_model_name_or_path="../base")
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "real" / "model", tmp_path / "elsewhere" / "link")
    LinVTForVideoQA.from_pretrained(tmp_path / "elsewhere" / "link")


def test_a_base_among_temporary_files_is_told_of_when_a_checkpoint_outlives_it(
    family: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    shutil.copytree(family.base_folder, tmp_path / "temporary" / "base")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    model = LinVTForVideoQA.from_base(
        tmp_path / "temporary" / "base", num_video_tokens=6, bottleneck_size=16, num_heads=2
    )
    model.save_pretrained(tmp_path / "temporary" / "model")  # both go at once
    model.save_pretrained(tmp_path / "whole", include_base=True)
    assert "temporary" not in caplog.text
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path / "temporary" / "base") in caplog.text and "include_base=True" in caplog.text


# --- bad files -------------------------------------------------------------------------------------------------------

BAD_JSON = ["", "{", "[]", "7", "null", '"text"', "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")]


@pytest.mark.parametrize("content", BAD_JSON)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_a_file_that_is_no_json_of_ours_is_our_error(folder: Path, name: str, content: str | bytes):
    if name.startswith("model"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(lambda: LinVTForVideoQA.from_pretrained(folder), CheckpointError, str(folder))


@pytest.mark.parametrize("content", BAD_JSON)
def test_a_processor_file_that_is_none_of_ours_is_our_error(folder: Path, content: str | bytes):
    path = folder / "processor_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(lambda: LinVTProcessor.from_pretrained(folder), CheckpointError, str(folder))


@pytest.mark.parametrize("settings", [7, [], "x", {"base_model_type": 7}, {"base_model_type": ["llava"]}])
def test_settings_of_a_processor_that_are_none_are_our_error(folder: Path, settings: Any):
    change(folder / "processor_config.json", linvt=settings)
    check_refused(lambda: LinVTProcessor.from_pretrained(folder), CheckpointError, str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_video_tokens", "six"),
        ("num_video_tokens", None),
        ("num_video_tokens", 0),
        ("num_video_tokens", -3),
        ("pooling_scales", 7),
        ("pooling_scales", ["a"]),
        ("init", "magic"),
        ("text_conditioned", "maybe"),
        ("base_config", None),
        ("base_config", []),
        ("base_config", {"model_type": 7}),
        ("base_model_name_or_path", 7),
        ("model_type", 7),
        ("dtype", "float7"),
    ],
)
def test_a_config_with_impossible_values_is_our_error(folder: Path, field: str, value: Any):
    change(folder / "config.json", **{field: value})
    check_refused(lambda: LinVTForVideoQA.from_pretrained(folder), CheckpointError)


@pytest.mark.parametrize("weight_map", [7, [], {"model.linvt.x": 7}, {"model.linvt.x": None}])
def test_an_index_without_a_map_is_our_error(folder: Path, weight_map: Any):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    check_refused(lambda: LinVTForVideoQA.from_pretrained(folder), CheckpointError, str(folder))


@pytest.mark.parametrize("include_base", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(family: Wrapped, tmp_path: Path, include_base: bool, value: float):
    family.model.save_pretrained(tmp_path, include_base=include_base)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(one for one in weights if one.startswith("model.linvt."))
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    words = ("NaN or infinity", name.removeprefix("model.linvt.").split(".")[0])
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, *words)


# --- doors -----------------------------------------------------------------------------------------------------------


def test_a_video_comes_in_by_every_door(family: Wrapped):
    video, processor, model = family.clip(5), family.processor, family.model
    inputs = processor.video_inputs(video)
    features = model.encode_video(**inputs)
    expected = model.answer(features, QUESTION, processor, max_new_tokens=3)
    for again in (model.encode_video(inputs), model.encode_video(dict(inputs)), model.encode_video(video, processor)):
        assert again.origin == features.origin
    assert model.answer(video, QUESTION, processor, max_new_tokens=3) == expected
    assert model.answer(inputs, [QUESTION], processor, max_new_tokens=3) == [expected]
    assert model.encode_video(video.frames, processor, num_frames=2, timestamps=video.timestamps).num_frames == 2


def test_an_encoded_video_is_asked_by_the_path_of_its_file(family: Wrapped, tmp_path: Path):
    features = family.model.encode_video(family.clip(5), family.processor)
    features.save(tmp_path / "clip.safetensors")
    asked = family.model.answer(tmp_path / "clip.safetensors", QUESTION, family.processor, max_new_tokens=3)
    assert asked == family.model.answer(features, QUESTION, family.processor, max_new_tokens=3)


def test_what_does_not_fit_a_door_is_refused_in_our_words(family: Wrapped):
    model, processor, video = family.model, family.processor, family.clip(3)
    inputs = processor.video_inputs(video)
    nine = LinVTProcessor(processor.base_processor, 9)
    refused = {
        "Pass processor=": lambda: model.encode_video("clip.mp4"),
        "encode_video(**processor.video_inputs(video))": lambda: model.encode_video(video),
        "Did you mean 'num_frames'": lambda: model.encode_video(video, processor, num_frame=3),
        "not both": lambda: model.encode_video(inputs, **inputs),
        "takes one video": lambda: model.encode_video({}),
        "belongs to a prompt": lambda: model.encode_video(family.inputs(user(video, QUESTION))),
        "the LinVTProcessor of this model": lambda: model.answer(video, QUESTION),
        "Make both with the same number": lambda: model.answer(video, QUESTION, nine),
    }  # fmt: skip
    for words, call in refused.items():
        check_refused(call, LinVTInputError, words)


def test_a_setting_of_the_other_half_says_where_it_belongs(family: Wrapped):
    base, processor = family.base_folder, family.processor.base_processor
    wrong = {
        "Did you mean 'num_video_tokens'": lambda: LinVTForVideoQA.from_base(base, num_tokens=64),
        "LinVTProcessor.from_base(..., num_frames=...)": lambda: LinVTForVideoQA.from_base(base, num_frames=64),
        "LinVTForVideoQA.from_base(..., num_kept_tokens=...)": lambda: LinVTProcessor.from_base(
            processor, num_kept_tokens=9
        ),
    }
    for words, call in wrong.items():
        check_refused(call, LinVTInputError, words)
