"""
What a base will cost, said before its weights are there: the figures against models that were built, and by hand.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from promises import BY_DEFAULT, LINVT, base_folder, check_refused
from refused_bases import audio, encoder_decoder, text_only
from tiny_bases import build_model, save_base
from transformers_linvt import (
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    UnsupportedBaseError,
    cli,
    plan_wrap,
    planning,
)
from transformers_linvt.errors import CheckpointError


FRAMES, SIZE, NUM_VIDEO_TOKENS = 7, (48, 80), 6


@pytest.fixture
def without_weights(tmp_path: Path) -> Path:
    """A base as it lies on the Hub, but for its weights."""
    folder = save_base("llava_phi", tmp_path / "base")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


def test_a_plan_needs_no_weights_and_says_what_the_built_model_has(without_weights: Path):
    plan = plan_wrap(str(without_weights), FRAMES, SIZE, dtype="float16", **LINVT)
    model = LinVTForVideoQA.from_base(build_model("llava_phi"), **LINVT)
    assert plan.architecture == "llava"
    assert plan.parameters_added == sum(p.numel() for p in model.linvt.parameters())
    assert plan.parameters_of_base == sum(p.numel() for p in model.base_vlm.parameters())
    assert (plan.tokens_per_frame, plan.frame_tokens, plan.num_video_tokens) == (25, 25 * FRAMES, NUM_VIDEO_TOKENS)


def test_flops_and_cache_are_those_counted_by_hand(without_weights: Path):
    """Phi: 4 d^2 projections and 2 d m feed-forward, QK^T and AV over the full square; all heads have keys."""
    plan = plan_wrap(str(without_weights), FRAMES, SIZE, dtype=torch.float16, **LINVT)
    text = build_model("llava_phi").config.get_text_config()
    layers, width = text.num_hidden_layers, text.hidden_size
    for tokens, flops, cache in (
        (25 * FRAMES, plan.prefill_flops_before, plan.cache_bytes_before),
        (NUM_VIDEO_TOKENS, plan.prefill_flops, plan.cache_bytes),
    ):
        linear = 4 * width * width + 2 * width * text.intermediate_size
        assert flops == 2 * tokens * layers * (linear + 2 * tokens * width)
        assert cache == 2 * layers * tokens * width * 2  # keys and values, two bytes each


def test_a_cache_in_the_precision_of_the_base_is_counted_so(without_weights: Path):
    single = plan_wrap(str(without_weights), FRAMES, SIZE, **LINVT)  # the tiny base is saved in float32
    half = plan_wrap(str(without_weights), FRAMES, SIZE, dtype="bfloat16", **LINVT)
    assert single.cache_bytes_before == 2 * half.cache_bytes_before
    assert single.prefill_flops == half.prefill_flops


def test_larger_frames_of_a_base_with_a_grid_are_more_tokens():
    folder = str(base_folder("qwen2_vl"))
    plans = [plan_wrap(folder, FRAMES, size, **LINVT) for size in ((48, 80), (32, 48))]
    assert [plan.tokens_per_frame for plan in plans] == [3 * 5, 2 * 3]


def test_what_will_not_fit_is_noted(without_weights: Path):
    plan = plan_wrap(str(without_weights), 100, SIZE, **{**LINVT, "num_video_tokens": 2048}, max_frames=50)
    notes = " | ".join(plan.notes)
    assert "100 frames are more than max_frames=50" in notes
    assert "2048 video tokens do not fit into the 2048 positions" in notes
    assert "without LinVT the frames would not fit" in notes
    plan = plan_wrap(str(without_weights), 1, SIZE, **{**LINVT, "num_video_tokens": 25})
    assert plan.notes == ("25 frame tokens are no more than 25 video tokens: ask for fewer",)


def test_the_command_prints_the_plan_and_writes_nothing(without_weights: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = ["wrap", str(without_weights), "--dry-run", "--frames", "7", "--frame-size", "48x80"]
    assert cli.main([*words, "--num-video-tokens", "6", "--dtype", "float16"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a frame of 48 x 80 pixels is 25 tokens, 7 frames:" in printed
    assert "visual tokens 175 6 29 times less" in printed
    assert "KV cache 134 kB 4.61 kB 29 times less" in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert cli.main(["wrap", str(without_weights)]) == 1
    assert "linvt wrap BASE OUT" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["wrap", str(without_weights), "--dry-run", "--frame-size", "48"])


# ---- refused: each with the reason, at construction and in the plan


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (text_only, ("no image-text model", "Qwen2-VL")),
        (audio, ("no image-text model", "Qwen2-VL")),
        (encoder_decoder, ("no image-text model", "Qwen2-VL")),
    ],
)
def test_a_folder_of_another_kind_of_model_is_refused(make, words, tmp_path: Path):
    make().save_pretrained(tmp_path)
    check_refused(lambda: plan_wrap(str(tmp_path)), UnsupportedBaseError, *words)
    check_refused(lambda: LinVTForVideoQA.from_base(tmp_path, **LINVT), UnsupportedBaseError, *words)


def test_an_encoder_decoder_that_reads_pictures_is_refused(tmp_path: Path):
    config = transformers.Florence2Config()
    config.save_pretrained(tmp_path)
    check_refused(lambda: plan_wrap(str(tmp_path)), UnsupportedBaseError, "florence2", "encoder-decoder")


def test_a_processor_of_another_base_is_refused(without_weights: Path):
    other = base_folder("qwen2_vl")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (without_weights / name).unlink(missing_ok=True)
        if (other / name).exists():
            shutil.copy(other / name, without_weights / name)
    check_refused(
        lambda: plan_wrap(str(without_weights), **LINVT), LinVTInputError, "disagree", "another base", "llava"
    )


def test_wrap_refuses_what_a_plan_refuses_and_writes_nothing(without_weights: Path, tmp_path: Path, capsys):
    """It once read the processor first, and wrote checkpoints that could not be loaded."""
    text_only().save_pretrained(tmp_path / "text")
    other = save_base("llava", tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "image_token_id": 99999, "image_token_index": 99999}))
    (without_weights / "config.json").write_text("[1]")
    bare = save_base("llava", tmp_path / "bare")
    (bare / "processor_config.json").unlink()
    capsys.readouterr()
    for folder, words in (
        (tmp_path / "text", "is no image-text model"),
        (other, "to the config (llava) it is 99999"),
        (without_weights, "is no model that transformers knows"),
        (bare, "the folder has no preprocessor_config.json"),
        (tmp_path / "nothing", "There is no folder"),
    ):
        said = []
        for command in (["--dry-run", str(folder)], [str(folder), str(tmp_path / "out")]):
            assert cli.main(["wrap", *command]) == 1
            said.append(capsys.readouterr().err)
        assert said[0] == said[1] and words in said[0] and "network" not in said[0], said
    assert not (tmp_path / "out").exists()


def test_steps_of_several_frames_are_counted_as_the_base_merges_them(capsys):
    folder = str(base_folder("qwen2_vl"))
    plan = plan_wrap(folder, 5, SIZE, **{**LINVT, "num_video_tokens": 60, "frame_path": "video"})
    assert (plan.num_steps, plan.frame_tokens) == (3, 3 * plan.tokens_per_frame) == (3, 45)
    assert "45 frame tokens are no more than 60 video tokens: ask for fewer" in plan.notes
    words = ["--frames", "5", "--frame-size", "48x80", "--num-video-tokens", "60"]
    assert cli.main(["wrap", "--dry-run", folder, *words]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "15 tokens, 5 frames are 3 steps:" in printed
    assert "visual tokens 45 60 1.3 times more" in printed
    assert cli.main(["wrap", "--dry-run", folder, *words, "--frame-path", "image"]) == 0
    assert "15 tokens, 5 frames: own" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("given", [(), ("--frame-path", "image")])
def test_wrap_says_whether_frames_are_merged(given: tuple[str, ...], tmp_path: Path, capsys):
    assert cli.main(["wrap", str(base_folder("qwen2_vl")), str(tmp_path / "out"), *given]) == 0
    is_merged, path = not given, "image" if given else "video"
    assert ("2 frames are one step of time, as in the base's own video path" in capsys.readouterr().out) == is_merged
    for name in ("config.json", "processor_config.json"):
        assert f'"frame_path": "{path}"' in (tmp_path / "out" / name).read_text()


def test_a_quantised_base_is_noted(without_weights: Path):
    config = json.loads((without_weights / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (without_weights / "config.json").write_text(json.dumps(config))
    assert "quantised (bitsandbytes)" in plan_wrap(str(without_weights), FRAMES, SIZE, **LINVT).notes[-1]


def test_of_qwen_omni_the_thinker_is_planned(tmp_path: Path):
    config = transformers.Qwen2_5OmniConfig()
    config.save_pretrained(tmp_path)
    assert planning._read_config(str(tmp_path), {}).model_type == "qwen2_5_omni_thinker"


def test_a_config_with_a_value_it_cannot_have_is_refused(without_weights: Path):
    """It once ended in a traceback out of huggingface_hub."""
    config = json.loads((without_weights / "config.json").read_text())
    del config["image_token_index"]
    (without_weights / "config.json").write_text(json.dumps({**config, "image_token_index": None}))
    for load in (plan_wrap, LinVTForVideoQA.from_base, LinVTProcessor.from_base):
        check_refused(lambda load=load: load(str(without_weights)), CheckpointError, "image_token_index")


def test_nothing_there_and_wrong_numbers_are_refused(tmp_path: Path, without_weights: Path):
    check_refused(lambda: plan_wrap(str(tmp_path / "nothing")), CheckpointError, "nothing")
    check_refused(lambda: plan_wrap(str(without_weights), num_frames=0), LinVTInputError, "num_frames=0")
    check_refused(lambda: plan_wrap(str(without_weights), frame_size=(3, -1)), LinVTInputError, "width=-1")
    for given, words in (
        ({"frame_size": 360}, "frame_size=360"),
        ({"frame_size": (100_000, 100_000)}, "10,000,000,000 pixels"),
        ({"dtype": "float99"}, "float99"),
        ({"init": "bogus"}, "bogus"),
        ({"num_video_token": 999}, "Did you mean 'num_video_tokens'"),
        ({"video_positions": "grid"}, "video_positions='grid'"),
    ):
        check_refused(lambda given=given: plan_wrap(str(without_weights), **given), LinVTInputError, words)
    narrow = lambda: plan_wrap(str(base_folder("qwen2_vl")), frame_size=(1, 1000))  # noqa: E731
    check_refused(narrow, LinVTInputError, "frame_size=(1, 1000)", "aspect ratio")


# ---- what frames cost before the language model


def counted_with_weights(name: str, num_frames: int) -> int:
    """FLOPs of the vision tower over frames of a base that has its weights."""
    base = build_model(name)
    processor = LinVTProcessor.from_base(str(base_folder(name)), num_video_tokens=6, frame_path="image")
    base.set_attn_implementation("eager")  # the CPU's own kernel of attention is not counted
    frames = np.random.default_rng(1).integers(0, 255, (num_frames, *SIZE, 3), dtype=np.uint8)
    inputs = processor.bridge.frame_inputs(processor.base_processor, list(frames), processor.frame_options(num_frames))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        processor.bridge.encode(base, inputs)
    return counter.get_total_flops()


def test_the_vision_tower_is_counted_as_it_runs(without_weights: Path):
    plan = plan_wrap(str(without_weights), FRAMES, SIZE, **LINVT)
    assert plan.vision_flops == plan.vision_flops_before == counted_with_weights("llava_phi", FRAMES)
    assert plan.linvt_flops == 2 * plan.parameters_added * 25 * FRAMES


def test_a_tower_that_looks_at_sizes_is_estimated_and_its_own_path_merges_frames():
    plan = plan_wrap(str(base_folder("qwen2_vl")), 6, SIZE, **LINVT)
    assert plan.own_step == 2 and plan.frame_tokens_before == 3 * 15 == plan.frame_tokens // 2
    assert plan.vision_flops == pytest.approx(counted_with_weights("qwen2_vl", 6), rel=0.35)
    assert plan.vision_flops_before == plan.vision_flops // 2
    merged = plan_wrap(str(base_folder("qwen2_vl")), 6, SIZE, **BY_DEFAULT)
    assert merged.vision_flops == merged.vision_flops_before == plan.vision_flops_before
    assert any("vision tower is estimated" in note for note in plan.notes)


def test_memory_grows_with_frames_and_holds_the_weights(without_weights: Path):
    few, many = (plan_wrap(str(without_weights), count, SIZE, **LINVT) for count in (8, 16))
    weights = 4 * (few.parameters_of_base + few.parameters_added)
    frame = 48 * 80 * 3 + 2 * 3 * 30 * 30 * 4 + 2 * 25 * 64 * 4  # pixels, what is made of them twice, tokens
    assert many.peak_bytes - few.peak_bytes == 8 * frame
    assert few.peak_bytes == weights + 8 * frame + few.cache_bytes


def test_seconds_are_those_of_this_machine_and_only_on_request(without_weights: Path, capsys):
    assert plan_wrap(str(without_weights), FRAMES, SIZE, **LINVT).seconds is None
    plan = plan_wrap(str(without_weights), FRAMES, SIZE, **LINVT, measure=True)
    assert set(plan.seconds) == {"preprocessing", "vision tower", "LinVT", "prefill"}
    assert all(0 < seconds < 60 for seconds in plan.seconds.values())
    ratio = plan.seconds["vision tower"] / plan.seconds["prefill"]
    assert ratio == pytest.approx(plan.vision_flops / plan.prefill_flops)
    words = [
        "wrap",
        str(without_weights),
        "--dry-run",
        "--measure",
        "--frame-size",
        "48x80",
        "--num-video-tokens",
        "6",
    ]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "preprocessing:" in printed and "s here (measured)" in printed and "vision tower" in printed
    assert cli.main(["wrap", str(without_weights), "out", "--measure"]) == 1
    assert "belongs to --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("include", [[], ["--include-base"]])
def test_a_precision_given_to_wrap_holds_at_loading(tmp_path: Path, include: list[str]):
    """A base that is referred to came back in the precision that it was saved in."""
    folder = str(tmp_path / "wrapped")
    words = ["--dtype", "bfloat16", "--num-video-tokens", "6", "--num-heads", "2", "--bottleneck-size", "8"]
    assert cli.main(["wrap", str(base_folder("llava_phi")), folder, *words, *include]) == 0
    model = LinVTForVideoQA.from_pretrained(folder)
    assert model.dtype == model.base_vlm.dtype == next(model.linvt.parameters()).dtype == torch.bfloat16
    assert LinVTForVideoQA.from_pretrained(folder, dtype="auto").dtype == torch.bfloat16
    assert LinVTForVideoQA.from_pretrained(folder, dtype=torch.float32).dtype == torch.float32
