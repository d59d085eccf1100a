"""
Checkpoints in the layouts of Mipha, Aquila-VL and xGen-MM (BLIP-3) become ones that load, with every tensor in place.

The checkpoints are small and random, written here in the published layout: names, config and tokenizer. That the
published code computes the same was measured outside of the tests; here the logits are checked against a computation
by hand where transformers would lose something without a word.
"""

import json
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from promises import (
    LINVT,
    NUM_VIDEO_TOKENS,
    QUESTION,
    Wrapped,
    check_generation,
    check_refused,
    check_same_as_base,
    clip,
    relative_difference,
    stir,
    user,
)
from published_layouts import PUBLISHED, VISION, published_aquila, published_mipha, published_xgenmm
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    UnsupportedBaseError,
    VideoFrames,
    cli,
    convert_checkpoint,
    plan_wrap,
)
from transformers_linvt.bases.conversion import LAYOUTS, weights
from transformers_linvt.bases.convertible import CONVERTIBLE


KINDS = ("mipha_phi", "llava_qwen", "xgenmm")


class Converted(Wrapped):
    """A converted base with LinVT around it."""

    def clip(self, num_frames: int, seed: int = 0) -> VideoFrames:
        return clip("llava", num_frames, seed)


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module, Path]:
    """The kind, the model whose weights were published, and the converted folder."""
    folder = tmp_path_factory.mktemp(request.param)
    model = PUBLISHED[request.param](folder / "published")
    convert_checkpoint(folder / "published", folder / "converted", vision_config=VISION)
    return request.param, model, folder / "converted"


@pytest.fixture
def family(made: tuple[str, nn.Module, Path]) -> Converted:
    kind, _, folder = made
    torch.manual_seed(0)
    model = stir(LinVTForVideoQA.from_base(folder, **LINVT))
    return Converted(kind, model, LinVTProcessor.from_base(folder, num_video_tokens=NUM_VIDEO_TOKENS), folder)


def test_every_tensor_comes_back_bit_for_bit(made: tuple[str, nn.Module, Path]):
    _, original, folder = made
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert type(model) is type(original)
    expected, found = original.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not list(folder.parent.glob(".*partial"))


@pytest.mark.parametrize("kind", ["mipha_phi_fused", "mipha_phi3", "mipha_gemma"])
@torch.no_grad()
def test_the_other_miphas_come_back_and_compute_the_same(kind: str, tmp_path: Path):
    original = PUBLISHED[kind](tmp_path / "published")
    convert_checkpoint(tmp_path / "published", tmp_path / "converted")
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted", output_loading_info=True)
    assert not any(report.values()) and type(model) is type(original), report
    assert all(torch.equal(model.state_dict()[name], value) for name, value in original.state_dict().items())
    image_id = model.config.image_token_id
    original.config.image_token_id = original.model.config.image_token_id = image_id
    ids, pixels = torch.tensor([[9, *[image_id] * 16, 7, 8]]), torch.randn(1, 3, 32, 32)
    inputs = {"input_ids": ids, "pixel_values": pixels}
    assert relative_difference(model(**inputs).logits, original(**inputs).logits) < 1e-6


def test_gemma_sees_pictures_scaled_as_words_are(tmp_path: Path):
    published_mipha(tmp_path / "published", kind="gemma", head_dim=12)
    convert_checkpoint(tmp_path / "published", tmp_path / "converted")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    pixels, scaled = torch.randn(1, 3, 32, 32), 48**0.5
    by_hand = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    by_hand = model.model.multi_modal_projector(by_hand) * scaled
    torch.testing.assert_close(torch.stack(list(model.get_image_features(pixels).pooler_output)), by_hand)


@torch.no_grad()
def test_a_picture_gives_the_logits_of_the_model_that_was_published(made: tuple[str, nn.Module, Path], family: Any):
    _, original, folder = made
    inputs = family.inputs(user(family.picture(), QUESTION))
    original.config.image_token_id = original.model.config.image_token_id = family.base.config.image_token_id
    original.config.image_grid_pinpoints = getattr(family.base.config, "image_grid_pinpoints", None)
    assert relative_difference(family.base(**inputs).logits, original(**inputs).logits) < 1e-6
    assert inputs["input_ids"].eq(family.base.config.image_token_id).sum() >= 7


@pytest.mark.parametrize("kind", ["mipha_phi", "xgenmm"])
@torch.no_grad()
def test_the_bias_of_the_head_counts(kind: str, tmp_path: Path):
    # transformers' own LLaVA loads such a checkpoint and leaves the bias out, with a line in the log
    original = PUBLISHED[kind](tmp_path / "published")
    convert_checkpoint(tmp_path / "published", tmp_path / "converted", vision_config=VISION)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    ids = torch.tensor([[7, 8, 9, 11]])
    hidden = model.model(input_ids=ids).last_hidden_state
    by_hand = hidden @ original.lm_head.weight.T + original.lm_head.bias
    torch.testing.assert_close(model(input_ids=ids).logits, by_hand)
    assert float(original.lm_head.bias.abs().max()) > 0.1


@torch.no_grad()
def test_a_perceiver_sees_what_is_behind_the_last_norm_of_the_tower(tmp_path: Path):
    published_xgenmm(tmp_path / "published")
    convert_checkpoint(tmp_path / "published", tmp_path / "converted", vision_config=VISION)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    pixels = torch.randn(2, 3, 32, 32)
    before = torch.stack(model.get_image_features(pixels).pooler_output)
    assert before.shape == (2, 7, 48)
    model.model.vision_tower.post_layernorm.bias += torch.randn(36)
    after = torch.stack(model.get_image_features(pixels).pooler_output)
    assert relative_difference(after, before) > 1e-2


def test_a_prompt_is_the_one_of_the_model(family: Converted):
    text = family.processor.apply_chat_template(
        user(family.clip(3), "What?"), tokenize=False, add_generation_prompt=True
    )
    polite = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    polite += "detailed, and polite answers to the user's questions."
    video = "<|linvt_video|>\nWhat?"
    expected = {
        "mipha_phi": f"{polite} USER: {video} ASSISTANT:",
        "llava_qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{video}<|im_end|>\n<|im_start|>assistant\n",
        "xgenmm": f"<|system|>\n{polite}<|end|>\n<|user|>\n{video}<|end|>\n<|assistant|>\n",
    }
    assert text == expected[family.name]


def test_linvt_goes_around_it(family: Converted):
    inputs = family.inputs(user(family.clip(5), QUESTION))
    assert bool(family.model(**inputs).logits.isfinite().all())
    per_frame = {"mipha_phi": 16, "llava_qwen": 17, "xgenmm": 7}  # with a token for the end of the picture
    videos = family.model.model.encode_videos([5], {n[6:]: v for n, v in inputs.items() if n.startswith("frame_")})
    assert videos[0].tokens.shape == (5, per_frame[family.name], 48)
    check_generation(family.model, inputs)
    check_same_as_base(family.model, family.base, family.inputs(user(family.picture(), QUESTION)))


def test_linvt_around_it_comes_back_with_the_base_inside(family: Converted, tmp_path: Path):
    inputs = family.inputs(user(family.clip(5), QUESTION))
    family.model.save_pretrained(tmp_path, include_base=True)
    again = LinVTForVideoQA.from_pretrained(tmp_path)
    with torch.no_grad():
        assert relative_difference(again(**inputs).logits, family.model(**inputs).logits) < 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "mipha"
    published_mipha(folder)
    return folder


def _change_config(folder: Path, **values: Any) -> None:
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def _drop_weight(folder: Path) -> None:
    file = next(folder.glob("model-00001*"))
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if name != sorted(weights)[0]}, file)


def _add_weight(folder: Path) -> None:
    file = next(folder.glob("model-00001*"))
    save_file({**load_file(file), "model.extra.weight": torch.zeros(2)}, file)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda f: _change_config(f, model_type="qwen2_vl"), UnsupportedBaseError, ("qwen2_vl", "mipha_phi")),
        (lambda f: _change_config(f, hidden_size="gone"), CheckpointError, ("missing",)),
        (lambda f: _change_config(f, vocab_size="gone"), CheckpointError, ("vocab_size",)),
        (lambda f: _change_config(f, hidden_size=64), CheckpointError, ("another shape",)),
        (lambda f: (f / "config.json").unlink(), CheckpointError, ("config.json", "hf download")),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, ("config.json",)),
        (lambda f: (f / "config.json").write_text("[1]"), CheckpointError, ("config.json", "a list")),
        (lambda f: _change_config(f, model_type=["mipha_phi"]), UnsupportedBaseError, ("mipha_phi",)),
        (
            lambda f: _change_config(f, vision_config=5),
            CheckpointError,
            ("config.json", "vision_config=5", "an object"),
        ),
        (lambda f: _change_config(f, vocab_size="many"), CheckpointError, ("config.json", "vocab_size='many'")),
        (lambda f: _change_config(f, num_hidden_layers="x"), CheckpointError, ("config.json", "num_hidden_layers")),
        (lambda f: (f / "tokenizer.json").write_text("{"), CheckpointError, ("tokenizer",)),
        (lambda f: (f / "model.safetensors.index.json").unlink(), CheckpointError, ("model.safetensors", ".bin")),
        (lambda f: next(f.glob("model-00002*")).unlink(), CheckpointError, ("model-00002",)),
        (lambda f: next(f.glob("model-00002*")).write_bytes(b"x"), CheckpointError, ("damaged",)),
        (_drop_weight, CheckpointError, ("1 missing",)),
        (_add_weight, CheckpointError, ("1 unknown", "extra")),
    ],
)
def test_bad_checkpoints_are_one_error_and_nothing_is_written(
    published: Path, tmp_path: Path, spoil: Callable, error: type[Exception], words: tuple[str, ...]
):
    folder = Path(shutil.copytree(published, tmp_path / "source"))
    spoil(folder)
    check_refused(lambda: convert_checkpoint(folder, tmp_path / "out"), error, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_unknown_vision_tower_has_to_be_described(tmp_path: Path):
    published_aquila(tmp_path / "source")
    _change_config(tmp_path / "source", mm_vision_tower="somebody/tower")
    convert = lambda: convert_checkpoint(tmp_path / "source", tmp_path / "out")  # noqa: E731
    check_refused(convert, UnsupportedBaseError, "somebody/tower", "--vision-config")
    sizes = tmp_path / "tower.json"
    sizes.write_text(json.dumps({"model_type": "siglip", "vision_config": VISION}))
    assert cli.main(["convert", str(tmp_path / "source"), str(tmp_path / "out"), "--vision-config", str(sizes)]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vision_config"]["intermediate_size"] == 58


@pytest.mark.parametrize(
    ("write", "name"), [(published_aquila, "mm_patch_merge_type"), (published_xgenmm, "text_config")]
)
def test_a_value_of_another_kind_is_named(write: Callable, name: str, tmp_path: Path):
    """It once ended in a TypeError."""
    write(tmp_path / "source")
    _change_config(tmp_path / "source", **{name: None})
    convert = lambda: convert_checkpoint(tmp_path / "source", tmp_path / "out")  # noqa: E731
    check_refused(convert, CheckpointError, "config.json", f"{name}=None")


def test_every_layout_is_known_by_the_name_that_the_messages_use():
    assert tuple(LAYOUTS) == CONVERTIBLE


@pytest.mark.parametrize("kind", CONVERTIBLE)
def test_a_base_to_convert_first_is_refused_with_the_command(kind: str, tmp_path: Path):
    """It once was said to need trust_remote_code, which was passed."""
    auto_map = {"AutoConfig": "configuration.Config", "AutoModel": "modeling.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": auto_map}))
    for trust in (False, True):
        for load in (LinVTForVideoQA.from_base, LinVTProcessor.from_base, plan_wrap):
            call = partial(load, str(tmp_path), trust_remote_code=trust)
            check_refused(call, UnsupportedBaseError, kind, "linvt convert published converted")


def test_weights_are_read_and_written_piece_by_piece(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """In memory is one file of the new ones at a time, and every tensor is read once."""
    read, alive = [], []
    whole = weights.PublishedWeights.read

    def counted(self: Any, name: str) -> torch.Tensor:
        read.append(name)
        tensor = whole(self, name)
        alive.append(weakref.ref(tensor))
        most.append(sum(one().nbytes for one in alive if one() is not None))
        return tensor

    most: list[int] = []
    monkeypatch.setattr(weights.PublishedWeights, "read", counted)
    monkeypatch.setattr(weights, "MAX_FILE_SIZE", "60KB")
    convert_checkpoint(published, tmp_path / "out", show_progress=True)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    num_bytes = sum(one.nbytes for one in weights.PublishedWeights(published).shapes.values())
    assert len(files) > 4 and sorted(read) == sorted(set(read))
    largest = max(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert max(most) < 2 * largest < num_bytes
    assert "writing weights: 100%" in capsys.readouterr().err
    assert not any(AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)[1].values())


def test_a_conversion_that_breaks_off_leaves_nothing(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(self: Any, name: str) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.PublishedWeights, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(published, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=7))
    check_refused(lambda: convert_checkpoint(published, tmp_path / "out"), LinVTInputError, "GB")
    assert list(tmp_path.iterdir()) == []


def test_a_quantised_checkpoint_is_refused(published: Path, tmp_path: Path):
    folder = Path(shutil.copytree(published, tmp_path / "source"))
    _change_config(folder, quantization_config={"quant_method": "awq"})
    check_refused(lambda: convert_checkpoint(folder, tmp_path / "out"), UnsupportedBaseError, "quantised")


def test_what_exists_is_not_written_over(published: Path, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    check_refused(lambda: convert_checkpoint(published, tmp_path), LinVTInputError, "exists")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_command_line_converts_and_refuses_in_one_line(published: Path, tmp_path: Path, capsys: Any):
    assert cli.main(["convert", str(published), str(tmp_path / "out")]) == 0
    assert "linvt wrap" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert cli.main(["convert", str(published), str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
