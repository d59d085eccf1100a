"""
Checkpoints in the layouts of Mipha, Aquila-VL and xGen-MM (BLIP-3) become ones that load, with every tensor in place.

The checkpoints are small and random, written here in the published layout: names, config and tokenizer. That the
published code computes the same was measured outside of the tests; here the logits are checked against a computation
by hand where transformers would lose something without a word.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

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
from tiny_bases import build_tokenizer, randomise
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    UnsupportedBaseError,
    VideoFrames,
    cli,
    convert_checkpoint,
)
from transformers_linvt.bases.biased_llava.configuration_biased_llava import BiasedLlavaConfig
from transformers_linvt.bases.biased_llava.modeling_biased_llava import BiasedLlavaForConditionalGeneration


VISION = {
    "hidden_size": 36,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
NUM_ROWS = 520
KINDS = ("mipha_phi", "llava_qwen", "xgenmm")


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer("qwen2_vl")  # ChatML; without a token for pictures of the kind that is added
    assert "<image>" not in tokenizer.get_vocab() and len(tokenizer) < NUM_ROWS - 8
    return tokenizer


def published_mipha(folder: Path) -> nn.Module:
    text = {**TEXT, "vocab_size": NUM_ROWS, "partial_rotary_factor": 0.5, "bos_token_id": 1, "eos_token_id": 2}
    model = BiasedLlavaForConditionalGeneration(
        BiasedLlavaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION},
            text_config={"model_type": "phi", **text},
            image_token_index=5,
            vision_feature_select_strategy="full",
            tie_word_embeddings=False,
        )
    )
    tower = {**VISION, "mm_vision_select_layer": -2, "vision_model_name_or_path": "google/siglip-so400m-patch14-384"}
    config = {
        **text,
        "model_type": "mipha_phi",
        "vision_config": {"vision_tower": tower, "mm_projector": {"mm_projector_type": "mlp2x_gelu"}},
    }
    names = {
        r"model\.vision_tower\.": "model.vision_tower.vision_model.",
        r"model\.multi_modal_projector\.linear_1": "model.mm_projector.0",
        r"model\.multi_modal_projector\.linear_2": "model.mm_projector.2",
        r"model\.language_model\.": "model.",
    }
    return _write(folder, model, config, names)


def published_aquila(folder: Path) -> nn.Module:
    text = {**TEXT, "num_key_value_heads": 2, "vocab_size": NUM_ROWS, "tie_word_embeddings": True}
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                **VISION,
                "num_hidden_layers": VISION["num_hidden_layers"] - 1,
                "vision_use_head": False,
            },
            text_config={"model_type": "qwen2", **text},
            image_token_index=5,
            video_token_index=6,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )
    config = {
        **text,
        "model_type": "llava_qwen",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]],
    }
    names = {
        r"model\.vision_tower\.": "model.vision_tower.vision_tower.vision_model.",
        r"model\.multi_modal_projector\.linear_1": "model.mm_projector.0",
        r"model\.multi_modal_projector\.linear_2": "model.mm_projector.2",
        r"model\.language_model\.": "model.",
    }
    return _write(folder, model, config, names)


def published_xgenmm(folder: Path) -> nn.Module:
    num_words = len(_tokenizer())
    text = {**TEXT, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    model = BiasedLlavaForConditionalGeneration(
        BiasedLlavaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION},
            text_config={"model_type": "phi3", **text, "vocab_size": num_words + 3},
            image_token_index=5,
            num_latents=7,
            tie_word_embeddings=False,
        )
    )
    config = {
        "model_type": "xgenmm",
        "text_config": {**text, "model_type": "phi3", "vocab_size": NUM_ROWS, "initial_tokenizer_len": num_words},
        "vision_encoder_config": {"model_type": "xgenmm_vision_encoder"},
        "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer", "num_vis_tokens": 7},
    }
    names = {
        r"model\.vision_tower\.": "vlm.vision_encoder.",
        r"model\.multi_modal_projector\.layers\.(\d+)\.mlp\.": r"vlm.vision_tokenizer.layers.\1.1.",
        r"model\.multi_modal_projector\.layers\.(\d+)\.": r"vlm.vision_tokenizer.layers.\1.0.",
        r"model\.multi_modal_projector\.": "vlm.vision_tokenizer.",
        r"model\.language_model\.": "vlm.lang_model.model.",
        r"lm_head\.": "vlm.lang_model.lm_head.",
    }
    return _write(folder, model, config, names, split_at=num_words)


def _write(folder: Path, model: nn.Module, config: dict, names: dict[str, str], split_at: int | None = None) -> Any:
    """A folder in the published layout with the weights of `model`, in two files; returns the model."""
    folder.mkdir()
    randomise(model, 0)
    weights = {}
    for name, value in model.state_dict().items():
        pattern = next((one for one in names if re.match(one, name)), None)
        weights[re.sub(f"^{pattern}", names[pattern], name) if pattern else name] = value.clone()
    if split_at is not None:  # the last rows are tables of their own, and the first have rows nobody uses
        for name, added in (
            ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
            ("lm_head.weight", "lm_head.additional_fc.weight"),
            ("lm_head.bias", "lm_head.additional_fc.bias"),
        ):
            whole = weights[f"vlm.lang_model.{name}"]
            weights[f"vlm.lang_model.{added}"] = whole[split_at:].clone()
            unused = torch.full((NUM_ROWS - split_at, *whole.shape[1:]), 99.0)
            weights[f"vlm.lang_model.{name}"] = torch.cat([whole[:split_at], unused])
    ordered, files = sorted(weights), {}
    for number, part in enumerate((ordered[::2], ordered[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    _tokenizer().save_pretrained(folder)
    return model.eval()


PUBLISHED: dict[str, Callable[[Path], nn.Module]] = {
    "mipha_phi": published_mipha,
    "llava_qwen": published_aquila,
    "xgenmm": published_xgenmm,
}


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
    check_refused(convert, UnsupportedBaseError, "somebody/tower", "vision_config")


@pytest.mark.parametrize(
    ("write", "name"), [(published_aquila, "mm_patch_merge_type"), (published_xgenmm, "text_config")]
)
def test_a_value_of_another_kind_is_named(write: Callable, name: str, tmp_path: Path):
    """It once ended in a TypeError."""
    write(tmp_path / "source")
    _change_config(tmp_path / "source", **{name: None})
    convert = lambda: convert_checkpoint(tmp_path / "source", tmp_path / "out")  # noqa: E731
    check_refused(convert, CheckpointError, "config.json", f"{name}=None")


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
