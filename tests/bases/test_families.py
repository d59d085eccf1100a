"""
The seam by itself: which models are refused as a base and why, and its pieces against results worked out by hand.

The refused models are tiny and built in memory; a reason is part of every refusal.
"""

import importlib.util
import inspect
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from base_specs import ALL_BASES, BASES
from promises import LINVT, check_refused
from refused_bases import audio, blip_with_t5, captioner, encoder_decoder, florence2, idefics, text_only
from tiny_bases import build_model, build_processor, model_type_of, save_base
from transformers_linvt import CheckpointError, LinVTForVideoQA, LinVTInputError, LinVTProcessor, UnsupportedBaseError
from transformers_linvt.bases import fingerprint
from transformers_linvt.bases.base import _BUILT_IN, BaseBridge
from transformers_linvt.bases.families import DENIED, FAMILIES, Family, family_of
from transformers_linvt.bases.fingerprint import changed_weights, fingerprint_weights
from transformers_linvt.bases.layouts import FrameLayout, PatchGrid
from transformers_linvt.bases.loading import check_base, context_length, load_base
from transformers_linvt.bases.positions import grids_with_videos, pass_over, positions_of_what_is_seen
from transformers_linvt.bases.registry import bridge_of
from transformers_linvt.bases.visuals import encoder_inputs, pack_visuals
from transformers_linvt.model.placing import _interleave


ROOT = Path(__file__).parents[2]


# ---------------------------------------------------------------------------------------------------------------------
# Refusals
# ---------------------------------------------------------------------------------------------------------------------


def without_image_token() -> nn.Module:
    base = build_model("llava_phi")
    base.config.image_token_id = None
    return base


def linvt() -> nn.Module:
    return LinVTForVideoQA.from_base(build_model("llava_phi"), **LINVT)


def headless() -> nn.Module:
    return build_model("llava_phi").model


REFUSED = {
    encoder_decoder: ("encoder-decoder",),
    captioner: ("encoder-decoder",),
    text_only: ("llama", "mm_encoder_outputs"),
    audio: ("qwen2_audio",),
    florence2: ("florence2", "encoder-decoder", "nothing behind a prompt has logits"),
    idefics: ("idefics", "cross-attention", "Mllama"),
    without_image_token: ("image_token_id is None",),
    linvt: ("LinVT model already",),
    headless: ("language head", "AutoModelForImageTextToText"),
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_base_that_cannot_work_is_refused_with_the_reason(make: Any):
    base = make()
    check_refused(lambda: LinVTForVideoQA.from_base(base, **LINVT), UnsupportedBaseError, *REFUSED[make])
    check_refused(lambda: check_base(base), UnsupportedBaseError, *REFUSED[make])


def test_florence2_takes_video_tokens_and_has_no_logits_behind_a_prompt():
    """What was tried before it was refused: both halves of the reason that it is refused with."""
    base, generator = florence2(), torch.Generator().manual_seed(0)
    for parameter in base.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    frame_tokens = base.get_image_features(torch.randn(3, 3, 16, 16, generator=generator)).pooler_output.detach()
    logits_of_w = torch.randn(4, frame_tokens.shape[0] * frame_tokens.shape[1], generator=generator).requires_grad_()
    video_tokens = (logits_of_w.softmax(-1) @ frame_tokens.flatten(0, 1))[None]
    prompt = torch.tensor([[22] * 4 + [5, 6, 7, 2]])
    greedy = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": 1, "output_logits": True}
    first, other = (
        base.generate(
            input_ids=prompt,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens.detach())},
            return_dict_in_generate=True,
            **greedy,
        ).logits[-1]
        for tokens in (video_tokens, -video_tokens)
    )
    assert not torch.allclose(first, other, atol=1e-3)
    embeds = base.get_input_embeddings()(prompt)
    embeds = embeds.masked_scatter((prompt == 22).unsqueeze(-1), video_tokens)
    answer = torch.tensor([[8, 9, 2]])
    output = base(inputs_embeds=embeds, labels=answer)
    output.loss.backward()
    assert bool(logits_of_w.grad.abs().max() > 0)
    assert output.logits.shape[1] == answer.shape[1]
    together = torch.cat([prompt, answer], dim=1)  # as LinVT and TRL train
    assert base.base_model(input_ids=together).last_hidden_state.shape[1] == 1
    assert "mm_encoder_outputs" not in inspect.signature(base.forward).parameters


@pytest.mark.parametrize("is_said", [True, False])
@pytest.mark.parametrize("is_instructed", [True, False])
def test_a_q_former_with_flan_t5_is_refused_whatever_its_config_says(is_instructed: bool, is_said: bool):
    """InstructBLIP's does not, and was wrapped once; generate() failed and the loss was wrong."""
    base = blip_with_t5(is_instructed)
    base.config.is_encoder_decoder = is_said
    words = ("Flan-T5", "encoder-decoder", "blip2-opt-2.7b", "instructblip-vicuna-7b")
    check_refused(lambda: LinVTForVideoQA.from_base(base, **LINVT), UnsupportedBaseError, *words)


def test_a_model_whose_own_code_was_trusted_is_not_told_to_pass_the_flag(tmp_path: Path):
    code = "from transformers import PreTrainedConfig as C\nclass OddConfig(C):\n    model_type = 'odd_vlm'\n"
    (tmp_path / "code.py").write_text(code)
    auto_map = {"AutoConfig": "code.OddConfig", "AutoModelForCausalLM": "code.OddModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd_vlm", "auto_map": auto_map}))
    with pytest.raises(UnsupportedBaseError, match="register_base") as raised:
        load_base(str(tmp_path), trust_remote_code=True)
    assert "odd_vlm" in str(raised.value) and "trust_remote_code" not in str(raised.value)


def test_what_a_base_computes_from_its_config_alone_is_there_after_loading(tmp_path: Path):
    """Falcon-H1 fills its multipliers as it is initialised: they were memory of anything once, and logits NaN."""
    text = {"model_type": "falcon_h1", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 40, "head_dim": 16}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "mamba_d_ssm": 32}
    text |= {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 1}
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=3)
    model = LinVTForVideoQA.from_base(transformers.LlavaForConditionalGeneration(config).eval(), **LINVT)
    model.save_pretrained(tmp_path, include_base=True)
    again, ids = LinVTForVideoQA.from_pretrained(tmp_path), torch.arange(4, 11)[None]
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("base", [nn.Linear(2, 3), "a string that is no folder/or repository/of anything", None])
def test_what_is_no_model_is_refused_with_its_kind(base: Any):
    check_refused(lambda: check_base(base), UnsupportedBaseError, type(base).__name__, "Qwen2-VL")


def test_what_cannot_be_loaded_is_refused_without_a_traceback_of_a_library(tmp_path: Path):
    """Each of them once ended in an error of transformers that named nothing to do."""
    for name, change, error, words in (
        (
            "unknown",
            {"model_type": "foobar"},
            UnsupportedBaseError,
            ("foobar", "newer transformers", "register_base"),
        ),
        ("sizes", {"hidden_size": 24}, CheckpointError, ("weights and the config", "disagree")),
        (
            "quantised",
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            CheckpointError,
            ("bitsandbytes", "quantised"),
        ),
    ):
        if name == "quantised" and importlib.util.find_spec("bitsandbytes"):
            continue
        folder = save_base("llava", tmp_path / name)
        config = json.loads((folder / "config.json").read_text())
        (config["text_config"] if name == "sizes" else config).update(change)
        (folder / "config.json").write_text(json.dumps(config))
        check_refused(lambda folder=folder: load_base(str(folder)), error, str(folder), *words)


def test_a_refused_base_is_left_as_it_was():
    base = text_only()
    with pytest.raises(UnsupportedBaseError):
        LinVTForVideoQA.from_base(base, **LINVT)
    assert all(p.requires_grad for p in base.parameters())


@pytest.mark.parametrize("name", BASES)
def test_the_nine_families_are_accepted(name: str):
    check_base(build_model(name))


@pytest.mark.parametrize("family", ["Qwen2_5Omni", "Qwen3OmniMoe"])
def test_of_a_model_that_speaks_the_thinker_is_the_base(family: str, tmp_path: Path):
    name = {"Qwen2_5Omni": "qwen2_5_omni_thinker", "Qwen3OmniMoe": "qwen3_omni_moe_thinker"}[family]
    thinker = build_model(name)
    config = getattr(transformers, f"{family}Config")(
        thinker_config=thinker.config.to_dict(), enable_audio_output=False
    )
    whole = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    whole.thinker.load_state_dict(thinker.state_dict())
    check_refused(lambda: check_base(whole), UnsupportedBaseError, "model.thinker")
    whole.save_pretrained(tmp_path / "base")
    build_processor(name).save_pretrained(tmp_path / "base")

    base = load_base(str(tmp_path / "base"))
    assert base.config.model_type == name
    assert not changed_weights(base, fingerprint_weights(thinker))
    assert LinVTProcessor.from_base(tmp_path / "base").base_model_type == name
    model = LinVTForVideoQA.from_base(tmp_path / "base", **LINVT)
    model.save_pretrained(tmp_path / "linvt")
    again = LinVTForVideoQA.from_pretrained(tmp_path / "linvt")
    assert not changed_weights(again, fingerprint_weights(model))


# ---------------------------------------------------------------------------------------------------------------------
# The table of families
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASES)
def test_the_table_says_what_the_tiny_bases_say(name: str):
    spec, family = BASES[name], bridge_of(build_model(name).config.model_type).family
    assert dict(family.one_tile) == dict(spec.one_tile)
    nested = {"flat": [1, 2, 3], "per_frame": [[1], [2], [3]], "per_video": [[1, 2, 3]]}[spec.frame_nesting]
    assert family.layout.nested([1, 2, 3]) == nested


def test_every_listed_architecture_exists_and_none_is_denied_as_well():
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    odd = set(_BUILT_IN) - {"molmo"}  # its code comes with its weights
    assert set(FAMILIES) | odd | set(DENIED) <= set(known)
    assert not set(FAMILIES) & odd
    assert not (set(FAMILIES) | odd) & set(DENIED)


PINNED = re.search(r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
IS_NEWER = Version(transformers.__version__) > Version(PINNED)


def unlisted_architectures() -> set[str]:
    """Those that AutoModelForImageTextToText can load and that neither a test nor a reason names."""
    return set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - {model_type_of(name) for name in ALL_BASES} - set(DENIED)


def test_every_image_text_architecture_is_either_tested_or_refused():
    """None that AutoModelForImageTextToText can load is left to chance (tests of all: `make test-bases`)."""
    assert not {model_type_of(name) for name in ALL_BASES} & set(DENIED)
    if not IS_NEWER:  # what a newer transformers brings is for the next test
        assert not unlisted_architectures(), f"new in transformers {transformers.__version__}"


@pytest.mark.parametrize("name", sorted(unlisted_architectures() | {"llava", "idefics"}))
def test_an_architecture_that_nobody_has_tried_is_taken_as_the_common_kind_or_refused_with_a_reason(name: str):
    """Of a transformers newer than the one tested with, those it adds; of the tested one, two that are known."""
    bridge = bridge_of(name)
    assert name in DENIED or name in FAMILIES or (type(bridge) is BaseBridge and bridge.family == Family())
    with torch.device("meta"):  # of its own size, without weights
        base = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[name]())
    try:
        bridge.check(base)
    except UnsupportedBaseError as error:
        assert name in str(error) and name != "llava"
    else:
        assert name != "idefics"


def test_an_architecture_that_is_not_listed_has_the_common_traits():
    assert family_of("something_new") == Family()
    assert (
        Family().layout == FrameLayout() and Family().layout.nested([1, 2]) == [1, 2] and Family().video_type_id == 1
    )


def test_positions_are_counted_without_padding_where_the_family_says_so():
    ids, mask = torch.zeros(2, 4, dtype=torch.long), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    no_video = torch.zeros(2, 4, dtype=torch.bool)
    assert positions_of_what_is_seen(Family(), ids, no_video, mask) == {}
    positions = positions_of_what_is_seen(Family(counts_padding=True), ids, no_video, mask)["position_ids"]
    assert positions.tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]


def test_video_tokens_that_are_not_used_are_masked_and_not_counted():
    """Two videos of two tokens in a row behind padding, and one in another: the first and the last use one of two."""
    ids = torch.zeros(2, 6, dtype=torch.long)
    is_video = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0]]).bool()
    used = torch.tensor([[True, False], [True, True], [True, False]])
    padding = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    mask = pass_over(ids, is_video, used, padding)["attention_mask"]
    assert mask.tolist() == [[0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 1]] and padding.sum() == 11
    positions = positions_of_what_is_seen(Family(), ids, is_video, mask)["position_ids"]
    assert positions.tolist() == [[0, 0, 1, 1, 2, 3], [0, 1, 1, 2, 3, 4]]
    cached = pass_over(ids, is_video, used, torch.ones(2, 8, dtype=torch.long))["attention_mask"]
    assert cached[:, 2:].tolist() == [[1, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 1]] and cached[:, :2].all()
    assert pass_over(ids, is_video, torch.ones_like(used), padding) == {}


# ---------------------------------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------------------------------


def test_videos_are_split_by_frames():
    videos = family_of("llava").layout.split({"pixel_values": torch.arange(5)}, [2, 3])
    assert [video["pixel_values"].tolist() for video in videos] == [[0, 1], [2, 3, 4]]


def test_videos_of_a_grid_family_are_split_by_the_patches_of_their_frames():
    """Two frames of 1 x 2 patches, one of 2 x 2: 8 rows of patches, 3 of grids."""
    grids = torch.tensor([[1, 1, 2], [1, 1, 2], [1, 2, 2]])
    videos = family_of("qwen2_vl").layout.split({"pixel_values": torch.arange(8), "image_grid_thw": grids}, [2, 1])
    assert [video["pixel_values"].tolist() for video in videos] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [len(video["image_grid_thw"]) for video in videos] == [2, 1]


def test_of_frames_of_molmo2_the_first_view_is_kept_with_the_indices_of_its_patches():
    """Frames of 2 and 3 crops of two patches; the views of the whole have 1 x 1 and 1 x 2 tokens, of two patches."""
    layout = bridge_of("molmo2").family.layout
    inputs = {
        "pixel_values": torch.arange(5)[:, None].expand(5, 2),
        "image_num_crops": torch.tensor([2, 3]),
        "image_grids": torch.tensor([[1, 1, 1, 2], [1, 2, 2, 1]]),
        "image_token_pooling": torch.tensor([[0, 1], [2, -1], [3, -1], [4, -1], [5, -1], [6, 7], [8, 9]]),
    }
    prepared = layout.prepare(inputs, 2, 6, 6)
    assert prepared["pixel_values"][:, 0].tolist() == [0, 2]
    assert prepared["image_grids"].tolist() == [[1, 1, 0, 0], [1, 2, 0, 0]]
    assert prepared["image_token_pooling"].tolist() == [[0, 1], [2, -1], [3, -1]]
    videos = layout.split(prepared, [1, 1])
    assert [len(video["image_token_pooling"]) for video in videos] == [1, 2]
    rows = layout.rows(prepared, 2)
    assert layout.slice(prepared, rows, 1, 2)["image_token_pooling"].tolist() == [[0, -1], [1, -1]]


def test_a_strip_of_patches_is_split_by_columns_of_pixels_and_joined_again():
    """MiniCPM-V: frames of 1 x 2, 1 x 2 and 2 x 2 patches of 3 pixels are one strip 24 pixels wide."""
    strip = torch.arange(24.0).expand(1, 2, 3, 24)
    sizes = torch.tensor([[1, 2], [1, 2], [2, 2]])
    layout = family_of("minicpmv4_6").layout
    inputs = layout.prepare({"pixel_values": strip, "target_sizes": sizes}, 3, 6, 6)
    first, second = layout.split(inputs, [2, 1])
    assert first["pixel_values"][:, 0, 0, 0].tolist() == list(range(12))
    assert second["pixel_values"][:, 0, 0, 0].tolist() == list(range(12, 24))
    calls: list[torch.Tensor] = []

    def get_image_features(pixel_values: torch.Tensor, target_sizes: torch.Tensor, return_dict: bool) -> Any:
        calls.append(pixel_values)
        return SimpleNamespace(pooler_output=[torch.ones(2, 5)] * len(target_sizes))

    base = SimpleNamespace(base_model=SimpleNamespace(get_image_features=get_image_features))
    assert bridge_of("minicpmv4_6").encode_frames(base, first, 2, 1).tokens.shape == (2, 2, 5)
    assert torch.equal(torch.cat(calls, dim=-1), strip[..., :12])


def test_numbers_of_patches_become_rows_and_columns_of_the_frames_shape():
    """Inkling: 18 patches of a frame of 48 x 80 are 3 x 6, of one of 80 x 48 they are 6 x 3."""
    layout = family_of("inkling_mm_model").layout
    for height, width, grid in ((48, 80, [3, 6]), (80, 48, [6, 3])):
        assert layout.prepare({"num_patches": torch.tensor([18])}, 1, height, width)["num_patches"].tolist() == [grid]


@pytest.mark.parametrize(
    ("num_tokens", "patches", "grid"),
    [
        (15, [[1, 6, 10]], (3, 5)),  # squares of 2 x 2 patches
        (15, [[1, 3, 5]], (3, 5)),  # Inkling 2 counts tokens and not patches
        (8, [[3, 8]], (2, 4)),  # LFM2-VL fills the last square up
        (7, [[4, 4]], (2, 3)),  # a resampler has no grid
        (17, None, (4, 4)),
        (13, None, (3, 4)),  # Unlimited-OCR: a token ends each row and one the picture
    ],
)
def test_the_grid_of_a_frame_has_no_more_cells_than_tokens(num_tokens: int, patches: Any, grid: tuple[int, int]):
    """13 tokens were a grid of 3 x 5 once, which LinVT itself refused."""
    inputs = {"image_grid_thw": torch.tensor(patches)} if patches else {}
    assert PatchGrid().grid(None, inputs, num_tokens) == grid


@pytest.mark.parametrize("frames_per_video", [[2, 2], [6], [1]])
def test_frames_that_are_too_many_or_too_few_are_refused_with_both_numbers(frames_per_video: list[int]):
    check_refused(
        lambda: family_of("llava").layout.split({"pixel_values": torch.arange(5)}, frames_per_video),
        LinVTInputError,
        "5 rows",
        f"{sum(frames_per_video)} frames",
    )


def test_missing_frames_are_named():
    check_refused(
        lambda: family_of("qwen2_vl").layout.split({"pixel_values": torch.arange(5)}, [5]),
        LinVTInputError,
        "frame_image_grid_thw missing",
    )


class CountingBase:
    """Makes `tokens_per_frame` tokens of every frame, each with the frame's value; notes the frames of every call."""

    def __init__(self, tokens_per_frame: int = 3, extra: int = 0) -> None:
        self.config = SimpleNamespace(model_type="llava")
        self.base_model = self
        self.calls: list[list[float]] = []
        self.tokens_per_frame, self.extra = tokens_per_frame, extra

    def get_image_features(self, pixel_values: torch.Tensor, return_dict: bool = True) -> Any:
        self.calls.append(pixel_values.tolist())
        rows = pixel_values.repeat_interleave(self.tokens_per_frame)[:, None].repeat(1, 2)
        return SimpleNamespace(pooler_output=torch.cat([rows, rows[: self.extra]])[None])


@pytest.mark.parametrize(
    ("frames_per_chunk", "calls"),
    [(1, [[0.0], [1.0], [2.0], [3.0], [4.0]]), (2, [[0.0, 1.0], [2.0, 3.0], [4.0]]), (9, [[0.0, 1.0, 2.0, 3.0, 4.0]])],
)
def test_frames_are_encoded_chunk_by_chunk_and_come_back_in_order(frames_per_chunk: int, calls: list[list[float]]):
    base = CountingBase()
    video = bridge_of("llava").encode_frames(base, {"pixel_values": torch.arange(5.0)}, 5, frames_per_chunk)
    assert base.calls == calls
    assert video.tokens.shape == (5, 3, 2)
    assert video.tokens[:, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert video.grid_size == (1, 3) and video.container == "tensor" and video.deepstack == []


def test_tokens_that_do_not_divide_among_the_frames_are_refused():
    base = CountingBase(extra=1)
    check_refused(
        lambda: bridge_of("llava").encode_frames(base, {"pixel_values": torch.arange(5.0)}, 5, 5),
        LinVTInputError,
        "16 visual tokens of 5 frames",
    )


def test_the_encoder_gets_only_what_it_takes():
    inputs = {"pixel_values": 1, "image_sizes": None, "attention_mask": 2, "return_dict": None}
    assert encoder_inputs(CountingBase(), inputs) == {"pixel_values": 1}


# ---------------------------------------------------------------------------------------------------------------------
# Handing over
# ---------------------------------------------------------------------------------------------------------------------

TOKENS = torch.arange(30.0).view(10, 3)


def test_a_tensor_container_has_groups_of_the_greatest_common_divisor():
    """Rows with 4 and 6 tokens: groups of 2, none across the rows."""
    packed = pack_visuals(TOKENS, [], [4, 6], "tensor").pooler_output
    assert packed.shape == (5, 2, 3)
    assert torch.equal(packed.flatten(0, 1), TOKENS)


@pytest.mark.parametrize(("container", "kind"), [("list", list), ("tuple", tuple)])
def test_other_containers_have_one_entry_per_row_and_layer(container: str, kind: type):
    packed = pack_visuals(TOKENS, [TOKENS + 1, TOKENS + 2], [4, 6], container)
    assert type(packed.pooler_output) is kind
    assert [len(part) for part in packed.pooler_output] == [4, 6]
    assert torch.equal(torch.cat(list(packed.pooler_output)), TOKENS)
    assert len(packed.deepstack_features) == 2
    for added, layer in zip((1, 2), packed.deepstack_features, strict=True):
        assert torch.equal(torch.cat(list(layer)), TOKENS + added)


def test_no_deep_layers_are_none():
    assert pack_visuals(TOKENS, [], [10], "list").deepstack_features is None


def test_a_video_is_a_strip_among_the_grids_of_pictures():
    """Two pictures of 2 x 3 and 1 x 2 tokens, of four patches each, and two videos of 5 tokens."""
    base = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)))
    pictures, strip, shorter = torch.tensor([[1, 4, 6], [1, 2, 4]]), [1, 2, 10], [1, 2, 6]
    is_video = torch.tensor([0] * 6 + [1] * 10 + [0] * 2).bool()
    used = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    assert grids_with_videos(base, is_video, used, pictures).tolist() == [[1, 4, 6], strip, shorter, [1, 2, 4]]
    assert grids_with_videos(base, is_video[6:16], torch.ones_like(used), None).tolist() == [strip, strip]


def test_videos_and_pictures_are_interleaved_in_the_order_of_the_mask():
    is_video = torch.tensor([False, True, True, False, True])
    merged = _interleave(is_video, torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[-1.0], [-2.0]]))
    assert merged.flatten().tolist() == [-1.0, 1.0, 2.0, -2.0, 3.0]


def test_the_context_is_the_language_models():
    base = build_model("llava_phi")
    assert context_length(base) == base.config.text_config.max_position_embeddings
    unknown = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace()))
    assert context_length(unknown) is None


# ---------------------------------------------------------------------------------------------------------------------
# Whether a base is still what it was
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 3, 8, 21])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_change_of_any_one_number_is_noticed(dtype: torch.dtype, size: int, offset: int):
    base = torch.nn.Module()
    base.weight = torch.nn.Parameter(torch.randn(size + offset).to(dtype)[offset:])
    before = fingerprint_weights(base)
    assert changed_weights(base, before) == []
    for index in range(size):
        kept = base.weight[index].item()
        base.weight.data[index] = kept + 1.0
        assert changed_weights(base, before) == ["weight"]
        base.weight.data[index] = kept
    assert changed_weights(base, before) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_change_that_moves_bytes_of_the_last_number_is_noticed(size: int):
    """The bytes behind the last whole word were added up one by one: by chance, numbers with the same sum came out."""
    base = torch.nn.Module()
    base.weight = torch.nn.Parameter(torch.arange(1.0, size + 1))
    before = fingerprint_weights(base)
    data = base.weight.data.view(torch.uint8)
    data[-2:] = data[-2:].flip(0)
    assert changed_weights(base, before) == ["weight"]


@pytest.fixture
def remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the sums of bases of any size are remembered."""
    monkeypatch.setattr(fingerprint.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fingerprint, "_LEAST_BYTES", 1)
    return tmp_path / "home" / "linvt" / "fingerprints"


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every tensor that is summed."""
    calls, original = [], fingerprint._sum_of_bits
    monkeypatch.setattr(fingerprint, "_sum_of_bits", lambda weight: calls.append(1) or original(weight))
    return calls


def test_the_sums_of_a_base_are_taken_once_and_a_change_is_noticed_all_the_same(
    tmp_path: Path, remembered: Path, summed: list[int]
):
    folder = save_base("llava_phi", tmp_path / "base")
    LinVTForVideoQA.from_base(folder, **LINVT).save_pretrained(tmp_path / "linvt")
    first = next(remembered.iterdir()).read_text()
    summed.clear()
    model = LinVTForVideoQA.from_pretrained(tmp_path / "linvt")
    assert len(summed) == len(list(model.linvt.parameters()))  # of LinVT alone, whose weights are few
    assert next(remembered.iterdir()).read_text() == first
    assert not changed_weights(model.base_vlm, model._base_as_loaded)
    model.base_vlm.lm_head.weight.data[3, 2] += 1.0  # in evaluation mode, and without autograd's knowledge
    with pytest.raises(CheckpointError, match="1 weights of the base have changed .*lm_head"):
        model.save_pretrained(tmp_path / "changed", include_base=False)


def test_sums_of_other_files_and_of_other_precision_are_others(tmp_path: Path, remembered: Path, summed: list[int]):
    folder = save_base("llava_phi", tmp_path / "base")
    load = lambda **kwargs: LinVTForVideoQA.from_base(folder, **LINVT, **kwargs)._base_as_loaded  # noqa: E731
    first = load()
    load(dtype=torch.bfloat16)
    assert len(list(remembered.iterdir())) == 2
    changed = build_model("llava_phi", seed=1)
    changed.save_pretrained(folder)
    summed.clear()
    other = load()
    assert summed and len(list(remembered.iterdir())) == 3
    assert any(other[name] != first[name] for name in first)
    summed.clear()
    load(dtype=torch.bfloat16, key_mapping={"nothing": "nowhere"})  # it could change what becomes of the files
    assert summed and len(list(remembered.iterdir())) == 3


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', '{"a": [[2], "no_dtype", 3]}'])
def test_damaged_sums_are_taken_again(tmp_path: Path, remembered: Path, summed: list[int], damage: str):
    folder = save_base("llava_phi", tmp_path / "base")
    expected = LinVTForVideoQA.from_base(folder, **LINVT)._base_as_loaded
    file = next(remembered.iterdir())
    file.write_text(damage)
    summed.clear()
    assert LinVTForVideoQA.from_base(folder, **LINVT)._base_as_loaded == expected
    assert summed and file.read_text() != damage


def test_sums_that_cannot_be_written_are_taken_every_time(tmp_path: Path, remembered: Path):
    remembered.parent.parent.mkdir()
    remembered.parent.write_text("a file where the folder would be")
    folder = save_base("llava_phi", tmp_path / "base")
    assert LinVTForVideoQA.from_base(folder, **LINVT)._base_as_loaded


def test_the_sums_that_were_not_used_for_longest_go(remembered: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fingerprint, "_MOST_REMEMBERED", 2)
    for number in range(4):
        fingerprint._write(remembered / f"{number}.json", {})
        os.utime(remembered / f"{number}.json", (number, number))
    assert {file.name for file in remembered.iterdir()} <= {"1.json", "2.json", "3.json"}
    assert len(list(remembered.iterdir())) == 2
