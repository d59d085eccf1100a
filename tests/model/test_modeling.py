"""
The model as transformers uses it: loading arguments, freezing, checkpointing, adapters, saving, and what it refuses.

One or two families stand for all here (Qwen3-VL has the deepest seam, LLaVA the plainest); what depends on the family
is in `test_bases.py`.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForImageTextToText

from promises import (
    CHAT,
    FAMILIES,
    LINVT,
    NUM_VIDEO_TOKENS,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    base_folder,
    check_comes_back,
    check_only_linvt_moved,
    check_refused,
    labels_of,
    language_linears,
    realigned,
    relative_difference,
    snapshot,
    stir,
    user,
    wrapped,
)
from tiny_bases import build_model, save_base
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTModel,
    LinVTProcessor,
    UnsupportedBaseError,
    VideoEvidence,
)
from transformers_linvt.bases import base as seam
from transformers_linvt.bases.cache import CACHE_NAME


PLAIN, DEEP = "llava_phi", "qwen3_vl"


@pytest.fixture
def family() -> Wrapped:
    return wrapped(PLAIN)


@pytest.fixture
def deep() -> Wrapped:
    return wrapped(DEEP)


def ask(family: Wrapped, num_frames: int = 5) -> dict[str, Any]:
    return family.inputs(user(family.clip(num_frames), QUESTION))


def saved(family: Wrapped, folder: Path, include_base: bool = False) -> Path:
    family.model.save_pretrained(folder, include_base=include_base)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Gradient checkpointing, modes, resizing
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PLAIN, DEEP])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_is_active_in_base_and_linvt_and_changes_no_gradient(name: str, use_reentrant: bool):
    family = wrapped(name)
    model, inputs = family.model.train(), ask(family)
    inputs["labels"] = labels_of(model, inputs)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(**inputs).loss.backward()
        return {name: p.grad.clone() for name, p in model.linvt.named_parameters()}

    without = gradients()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": use_reentrant})
    calls: Counter[str] = Counter()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = _counting(module._gradient_checkpointing_func, module, calls)
    with_checkpointing = gradients()
    layers = {type(layer).__name__ for layer in model.get_decoder().layers}
    assert sum(calls[layer] for layer in layers) == len(model.get_decoder().layers)
    assert calls["SignificanceScorer"] == LINVT["num_scorer_layers"]
    assert calls["TextConditionedTokenAggregator"] == LINVT["num_aggregator_layers"]
    for name, gradient in without.items():
        torch.testing.assert_close(with_checkpointing[name], gradient, atol=1e-7, rtol=1e-4, msg=name)
    model.activation_checkpointing_disable()
    calls.clear()
    gradients()
    assert not calls


def _counting(function: Any, module: torch.nn.Module, calls: Counter[str]) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[type(module).__name__] += 1
        return function(*args, **kwargs)

    return counted


def test_train_and_eval_reach_base_and_linvt(family: Wrapped):
    assert not any(module.training for module in family.model.modules())
    family.model.train()
    assert all(module.training for module in (family.base, family.model.linvt, family.model.get_decoder()))
    assert not any(p.requires_grad for p in family.base.parameters())
    family.model.eval()
    assert not any(module.training for module in family.model.modules())


def test_resized_embeddings_reach_the_base_and_its_config(deep: Wrapped, tmp_path: Path):
    inputs = ask(deep)
    before = deep.model(**inputs).logits
    deep.model.resize_token_embeddings(333, mean_resizing=False)
    logits = deep.model(**inputs).logits
    assert logits.shape[-1] == 333
    assert relative_difference(logits[..., : before.shape[-1]], before) < 1e-6
    assert deep.base.config.get_text_config().vocab_size == 333
    deep.model.model.freeze_base()
    check_comes_back(saved(deep, tmp_path / "whole", include_base=True), inputs, logits)
    with pytest.raises(CheckpointError, match="include_base=True"):
        deep.model.save_pretrained(tmp_path / "small", include_base=False)
    # Where a checkpoint refers to a base with another vocabulary, loading says so and puts nothing in silently.
    deep.model._base_as_loaded = {}
    with pytest.raises(CheckpointError, match="vocabulary is 311, not 333"):
        AutoModel.from_pretrained(saved(deep, tmp_path / "small"))


def test_the_head_is_the_bases_own(deep: Wrapped):
    assert deep.model.get_output_embeddings() is deep.base.get_output_embeddings()
    assert deep.model.get_input_embeddings() is deep.base.get_input_embeddings()
    assert deep.model.get_decoder() is deep.base.get_decoder()
    assert deep.model.base_model is deep.model.model
    assert deep.model.config.get_text_config() is deep.base.config.get_text_config()
    assert deep.model.accepts_loss_kwargs == deep.base.accepts_loss_kwargs
    assert deep.model.can_generate()


def test_encode_video_refuses_what_belongs_to_a_prompt(family: Wrapped):
    with pytest.raises(LinVTInputError, match="input_ids.*belongs to a prompt"):
        family.model.encode_video(**ask(family))


# ---------------------------------------------------------------------------------------------------------------------
# A reference to the base is saved only where it brings back the same model
# ---------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_held_its_base_holds_it_again_when_saved(family: Wrapped, tmp_path: Path):
    with torch.no_grad():
        family.model.get_output_embeddings().weight[3:5] += 1.0
    inputs = ask(family)
    logits = family.model(**inputs).logits
    loaded = AutoModel.from_pretrained(saved(family, tmp_path / "whole", include_base=True))
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(realigned(AutoModel.from_pretrained(tmp_path / "again"))(**inputs).logits, logits)
    with pytest.raises(CheckpointError, match="include_base=True"):
        loaded.save_pretrained(tmp_path / "lost", include_base=False)


def test_saving_whole_once_does_not_make_the_next_save_whole(family: Wrapped, tmp_path: Path):
    saved(family, tmp_path / "whole", include_base=True)
    family.model.save_pretrained(tmp_path / "small")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "small")]
    assert sizes[0] > sizes[1]
    assert not json.loads((tmp_path / "small" / "config.json").read_text())["includes_base"]


def test_a_change_in_any_row_of_the_base_is_noticed(family: Wrapped, tmp_path: Path):
    with torch.no_grad():
        family.model.get_output_embeddings().weight[7, 11] += 1e-3
    with pytest.raises(CheckpointError, match="1 weights of the base have changed"):
        saved(family, tmp_path / "lost")


def test_a_loaded_base_is_referred_to_only_if_somebody_vouches_for_its_name(family: Wrapped, tmp_path: Path):
    base = AutoModelForImageTextToText.from_pretrained(family.base_folder)
    with pytest.raises(CheckpointError, match="came as a loaded model"):
        LinVTForVideoQA.from_base(base).save_pretrained(tmp_path / "lost")
    vouched = LinVTForVideoQA.from_base(base, base_model_name_or_path=str(family.base_folder))
    vouched.save_pretrained(tmp_path / "small")
    again = AutoModel.from_pretrained(tmp_path / "small")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), vouched.parameters(), strict=True))


def test_the_backbone_loads_with_its_base_and_never_with_a_random_one(family: Wrapped, tmp_path: Path):
    backbone, report = LinVTModel.from_pretrained(saved(family, tmp_path / "small"), output_loading_info=True)
    assert not report["missing_keys"]
    inputs = ask(family)
    assert torch.equal(backbone(**inputs).last_hidden_state, family.model.model(**inputs).last_hidden_state)


def test_the_backbone_is_saved_by_the_model_around_it(family: Wrapped, tmp_path: Path):
    with pytest.raises(CheckpointError, match="Save that one"):
        family.model.model.save_pretrained(tmp_path / "inside")
    assert not (tmp_path / "inside").exists()


@pytest.mark.parametrize("include_base", [False, True])
def test_nothing_is_loaded_where_tensors_have_no_values(family: Wrapped, tmp_path: Path, include_base: bool):
    family.model.save_pretrained(tmp_path / "model", include_base=include_base)
    with torch.device("meta"), pytest.raises(CheckpointError, match="default device is 'meta'"):
        LinVTForVideoQA.from_pretrained(tmp_path / "model")


def test_a_truncated_base_is_one_clear_error(family: Wrapped, tmp_path: Path):
    shutil.copytree(family.base_folder, tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        LinVTForVideoQA.from_base(tmp_path / "base")


def test_saving_onto_a_file_is_refused(family: Wrapped, tmp_path: Path):
    (tmp_path / "taken").write_text("kept")
    with pytest.raises(CheckpointError, match="is a file"):
        saved(family, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "kept"


def test_a_misspelt_field_and_a_wrong_value_are_refused_with_a_hint(family: Wrapped):
    with pytest.raises(LinVTInputError, match="Did you mean 'num_video_tokens'"):
        LinVTForVideoQA.from_base(family.base_folder, num_video_token=8)
    with pytest.raises(LinVTInputError, match="init"):
        LinVTForVideoQA.from_base(family.base_folder, init="x")


def test_a_folder_of_another_model_is_named_as_such(family: Wrapped, tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds a llava model, no LinVT checkpoint"):
        LinVTForVideoQA.from_pretrained(family.base_folder)
    with pytest.raises(CheckpointError, match="config.json"):
        LinVTForVideoQA.from_pretrained(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Loading arguments
# ---------------------------------------------------------------------------------------------------------------------


def attention_of(model: LinVTForVideoQA) -> set[str]:
    config = model.base_vlm.config
    return {c._attn_implementation for c in (config, config.get_text_config(), config.vision_config)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attn_implementation_reaches_every_part_of_the_base(deep: Wrapped, tmp_path: Path, attention: str):
    assert attention_of(LinVTForVideoQA.from_base(deep.base_folder, attn_implementation=attention, **LINVT)) == {
        attention
    }
    for include_base in (False, True):
        folder = saved(deep, tmp_path / str(include_base), include_base)
        for load in (AutoModel, AutoModelForImageTextToText, LinVTForVideoQA):
            assert attention_of(load.from_pretrained(folder, attn_implementation=attention)) == {attention}


def test_attn_implementation_is_never_none(deep: Wrapped, tmp_path: Path):
    """None means no causal mask."""
    for model in (
        LinVTForVideoQA.from_base(deep.base_folder, **LINVT),
        LinVTForVideoQA.from_base(build_model(DEEP), **LINVT),
        AutoModel.from_pretrained(saved(deep, tmp_path / "small")),
        AutoModel.from_pretrained(saved(deep, tmp_path / "whole", include_base=True)),
    ):
        assert attention_of(model) == {"sdpa"}


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_works_end_to_end(name: str, tmp_path: Path):
    family = wrapped(name)
    model = stir(LinVTForVideoQA.from_base(family.base_folder, dtype=torch.bfloat16, **LINVT))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    inputs = ask(family)
    logits = model(**inputs).logits
    assert logits.dtype == torch.bfloat16
    assert bool(logits.isfinite().all())
    weights = model.model.prepare(**inputs)[1].outputs.weights
    torch.testing.assert_close(weights.dense().sum(-1), torch.ones(1, NUM_VIDEO_TOKENS), atol=1e-5, rtol=0)
    mixed = family.inputs(user(family.clip(3), family.picture(), QUESTION))
    assert model.generate(**mixed, max_new_tokens=2).shape[1] >= mixed["input_ids"].shape[1]
    features = model.encode_video(**family.processor.video_inputs(family.clip(5)))
    assert isinstance(model.answer(features, QUESTION, processor=family.processor, max_new_tokens=2), str)
    model.save_pretrained(tmp_path)
    check_comes_back(tmp_path, inputs, logits, dtype=torch.bfloat16)


@pytest.mark.parametrize("include_base", [False, True])
def test_dtype_reaches_base_and_linvt_at_loading(family: Wrapped, tmp_path: Path, include_base: bool):
    folder = saved(family, tmp_path, include_base)
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in AutoModel.from_pretrained(folder, dtype="auto").parameters()} == {torch.float32}


@pytest.mark.parametrize("include_base", [False, True])
def test_device_map_with_offload_to_disk_gives_the_same(deep: Wrapped, tmp_path: Path, include_base: bool):
    inputs = ask(deep)
    device_map = {
        "model.base_vlm.model.visual": "cpu",
        "model.base_vlm.model.language_model": "disk",
        "model.base_vlm.lm_head": "cpu",
        "model.linvt": "cpu",
    }
    folder = saved(deep, tmp_path / "model", include_base)
    model = AutoModel.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    assert next(model.get_decoder().parameters()).device.type == "meta"
    assert {name: str(place) for name, place in model.hf_device_map.items()} == device_map
    assert relative_difference(model(**inputs).logits, deep.model(**inputs).logits) < 1e-6
    kwargs = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **kwargs), deep.model.generate(**inputs, **kwargs))


def test_device_map_reaches_the_base_through_from_base(deep: Wrapped, tmp_path: Path):
    torch.manual_seed(0)
    whole = LinVTForVideoQA.from_base(deep.base_folder, device_map="cpu", **LINVT)
    torch.manual_seed(0)
    device_map = {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "cpu"}
    model = LinVTForVideoQA.from_base(deep.base_folder, device_map=device_map, offload_folder=tmp_path, **LINVT)
    assert set(model.hf_device_map) == {*(f"model.base_vlm.{name}" for name in device_map), "model.linvt"}
    assert torch.equal(model(**ask(deep)).logits, whole(**ask(deep)).logits)


def test_loading_arguments_reach_the_base(family: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """That they arrive; what a quantised base then does is in test_bases_quantised.py."""
    folder, given, load = saved(family, tmp_path), {}, seam.load_base

    def stub(name: str, **kwargs: Any) -> Any:
        given.update(kwargs, name=name)
        return load(name)

    monkeypatch.setattr(seam, "load_base", stub)
    config = object()
    arguments = {"quantization_config": config, "device_map": "auto", "dtype": "auto", "low_cpu_mem_usage": True}
    for load_model in (
        lambda: LinVTForVideoQA.from_base(family.base_folder, **arguments, **LINVT),
        lambda: LinVTForVideoQA.from_pretrained(folder, **arguments),
    ):
        model = load_model()
        assert given.pop("name") == str(family.base_folder)
        assert given["quantization_config"] is config
        # "auto" is the precision of the checkpoint, where it says one
        assert given["dtype"] in ("auto", model.config.dtype)
        assert {**arguments, "dtype": given["dtype"]}.items() <= given.items()
        assert model.config.num_video_tokens == NUM_VIDEO_TOKENS
        given.clear()


def test_a_config_field_may_be_given_at_loading(family: Wrapped, tmp_path: Path):
    folder = saved(family, tmp_path)
    for load in (AutoModel, LinVTForVideoQA):
        model = load.from_pretrained(folder, max_frames=4)
        check_refused(lambda model=model: model(**ask(family)), LinVTInputError, "5 frames", "1 to 4")


def test_from_base_takes_no_loading_arguments_for_a_loaded_base():
    check_refused(
        lambda: LinVTForVideoQA.from_base(build_model(PLAIN), dtype=torch.bfloat16, **LINVT), LinVTInputError, "dtype"
    )


def test_from_base_wraps_a_loaded_base_without_copying_it():
    base = build_model(PLAIN)
    model = LinVTForVideoQA.from_base(base, **LINVT)
    assert model.base_vlm is base
    assert model.config.base_config is base.config
    assert not any(p.requires_grad for p in base.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints
# ---------------------------------------------------------------------------------------------------------------------


def test_the_small_checkpoint_holds_linvt_only(family: Wrapped, tmp_path: Path):
    from safetensors import safe_open

    saved(family, tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert names == {f"model.linvt.{name}" for name in family.model.linvt.state_dict()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["base_model_name_or_path"] == str(family.base_folder)
    assert config["includes_base"] is False


def test_the_whole_checkpoint_needs_no_base(family: Wrapped, tmp_path: Path):
    inputs, folder = ask(family), tmp_path / "base"
    shutil.copytree(family.base_folder, folder)
    model = stir(LinVTForVideoQA.from_base(folder, **LINVT))
    model.save_pretrained(tmp_path / "model", include_base=True)
    shutil.rmtree(folder)
    check_comes_back(tmp_path / "model", inputs, model(**inputs).logits)


@pytest.mark.parametrize("include_base", [False, True])
def test_a_sharded_checkpoint_comes_back(deep: Wrapped, tmp_path: Path, include_base: bool):
    inputs = ask(deep)
    deep.model.save_pretrained(tmp_path, include_base=include_base, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    check_comes_back(tmp_path, inputs, deep.model(**inputs).logits)


@pytest.mark.parametrize("include_base", [False, True])
def test_a_reloaded_model_trains_linvt_only(family: Wrapped, tmp_path: Path, include_base: bool):
    """Freezing in __init__ is undone by from_pretrained of transformers."""
    model = AutoModel.from_pretrained(saved(family, tmp_path, include_base)).train()
    inputs, before = ask(family), snapshot(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(**inputs, labels=labels_of(model, inputs)).loss.backward()
        optimizer.step()
    check_only_linvt_moved(model, before)


def test_a_checkpoint_with_its_base_beside_it_can_be_moved(family: Wrapped, tmp_path: Path):
    inputs = ask(family)
    save_base(PLAIN, tmp_path / "here" / "base")
    family.model.config.base_model_name_or_path = "./base"
    saved(family, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    check_comes_back(tmp_path / "there", inputs, family.model(**inputs).logits)


def test_a_loaded_base_may_stand_in_for_the_one_named(family: Wrapped, tmp_path: Path):
    inputs = ask(family)
    family.model.config.base_model_name_or_path = "nobody/has-this"
    base = build_model(PLAIN)
    model = LinVTForVideoQA.from_pretrained(saved(family, tmp_path), base_vlm=base)
    assert torch.equal(model(**inputs).logits, family.model(**inputs).logits)
    assert model.config.base_config is base.config
    with pytest.raises(CheckpointError, match="architecture is qwen3_vl, not llava"):
        LinVTForVideoQA.from_pretrained(tmp_path, base_vlm=build_model(DEEP))


def test_a_missing_base_is_an_error_that_names_it(family: Wrapped, tmp_path: Path):
    family.model.config.base_model_name_or_path = str(tmp_path / "gone")
    saved(family, tmp_path / "model")
    for load in (AutoModel, AutoModelForImageTextToText, LinVTForVideoQA):
        check_refused(lambda load=load: load.from_pretrained(tmp_path / "model"), CheckpointError, "gone")
    check_refused(lambda: LinVTForVideoQA.from_base(tmp_path / "gone", **LINVT), CheckpointError, "gone")


def test_a_base_of_another_architecture_is_an_error(family: Wrapped, tmp_path: Path):
    family.model.config.base_model_name_or_path = str(base_folder(DEEP))
    saved(family, tmp_path)
    words = ("architecture is qwen3_vl", "not llava")
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, *words)


@pytest.mark.parametrize("include_base", [False, True])
def test_damaged_or_absent_weights_are_an_error(family: Wrapped, tmp_path: Path, include_base: bool):
    weights = saved(family, tmp_path, include_base) / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b""):
        weights.write_bytes(content)
        check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, str(tmp_path))
    weights.unlink()
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, str(tmp_path))


def test_weights_that_do_not_fit_are_an_error(family: Wrapped, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    path = saved(family, tmp_path) / "model.safetensors"
    weights = load_file(path)
    first = sorted(weights)[0]
    for changed, word in (
        ({name: value for name, value in weights.items() if name != first}, "1 missing"),
        ({**weights, "model.linvt.other": torch.ones(1)}, "1 unexpected"),
        ({**weights, first: torch.ones(13, 7)}, "1 of another shape"),
    ):
        save_file(changed, path, metadata={"format": "pt"})
        check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, word)


def test_a_whole_checkpoint_that_lacks_weights_of_the_base_is_an_error(family: Wrapped, tmp_path: Path):
    saved(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "includes_base": True}))
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, "missing", "include_base=True")


def test_a_config_without_a_base_is_an_error(family: Wrapped, tmp_path: Path):
    saved(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, "base_vlm=")


def test_saving_without_a_name_for_the_base_is_an_error_and_writes_nothing(tmp_path: Path):
    model = LinVTForVideoQA.from_base(build_model(PLAIN), **LINVT)
    check_refused(lambda: model.save_pretrained(tmp_path / "out"), CheckpointError, "include_base=True")
    assert not (tmp_path / "out").exists()
    model.save_pretrained(tmp_path / "out", include_base=True)


def test_another_revision_of_the_checkpoint_is_not_asked_of_the_base(
    family: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    family.model.config.base_revision = "abc"
    given, load = {}, seam.load_base
    monkeypatch.setattr(seam, "load_base", lambda name, **kwargs: given.update(kwargs) or load(name))
    LinVTForVideoQA.from_pretrained(saved(family, tmp_path), revision="main")
    assert given["revision"] == "abc"


# ---------------------------------------------------------------------------------------------------------------------
# Adapters
# ---------------------------------------------------------------------------------------------------------------------


# peft 0.21 asks whether checkpointing is on by the old name.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_an_adapter_of_a_model_that_was_never_saved_is_not_loaded_onto_the_plain_base(family: Wrapped, tmp_path: Path):
    adapter = LoraConfig(target_modules=language_linears(family.model), modules_to_save=["linvt"])
    get_peft_model(LinVTForVideoQA.from_base(family.base_folder), adapter).save_pretrained(tmp_path)
    assert not json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_an_adapter_saves_merges_and_comes_back(family: Wrapped, tmp_path: Path):
    inputs = ask(family)
    folder = saved(family, tmp_path / "model")
    adapter = LoraConfig(target_modules=language_linears(family.model), modules_to_save=["linvt"])
    model = realigned(get_peft_model(AutoModel.from_pretrained(folder), adapter))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "linvt.modules_to_save" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    logits = model(**inputs).logits
    assert relative_difference(logits, family.model(**inputs).logits) > 1e-2
    model.save_pretrained(tmp_path / "adapter")

    again = PeftModel.from_pretrained(AutoModel.from_pretrained(folder), tmp_path / "adapter")
    assert torch.equal(realigned(again)(**inputs).logits, logits)
    by_itself = realigned(AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter"))
    assert isinstance(by_itself, LinVTForVideoQA)
    assert torch.equal(by_itself(**inputs).logits, logits)
    assert torch.equal(
        by_itself.generate(**inputs, max_new_tokens=3, do_sample=False),
        model.generate(**inputs, max_new_tokens=3, do_sample=False),
    )
    merged = model.merge_and_unload()
    assert isinstance(merged, LinVTForVideoQA)
    assert relative_difference(merged(**inputs).logits, logits) < 1e-5
    with pytest.raises(CheckpointError, match="include_base=True"):
        merged.save_pretrained(tmp_path / "lost", include_base=False)
    assert not (tmp_path / "lost").exists()
    merged.save_pretrained(tmp_path / "merged", include_base=True)
    reloaded = realigned(AutoModel.from_pretrained(tmp_path / "merged"))
    assert torch.equal(reloaded(**inputs).logits, realigned(merged)(**inputs).logits)


# ---------------------------------------------------------------------------------------------------------------------
# Inputs that do not fit together
# ---------------------------------------------------------------------------------------------------------------------


def test_another_number_of_video_tokens_in_the_processor_is_refused_with_both_numbers(family: Wrapped):
    processor = LinVTProcessor.from_base(family.base_folder, num_video_tokens=7)
    inputs = processor.apply_chat_template(user(family.clip(5), QUESTION), **CHAT)
    for call in (family.model, family.model.generate, family.model.model):
        check_refused(lambda call=call: call(**inputs), LinVTInputError, "7 video placeholders", "need 6")
    features = family.model.encode_video(**processor.video_inputs(family.clip(5)))
    check_refused(lambda: family.model.answer(features, QUESTION, processor=processor), LinVTInputError, "7", "has 6")


def test_a_cut_prompt_is_refused(family: Wrapped):
    inputs = ask(family)
    cut = int(inputs["video_mask"][0].nonzero()[2])
    for name in ("input_ids", "attention_mask", "video_mask", "question_mask"):
        inputs[name] = inputs[name][:, :cut]
    check_refused(lambda: family.model(**inputs), LinVTInputError, "2 video placeholders", "need 6")


def test_text_moved_after_the_processor_is_refused(family: Wrapped):
    inputs = ask(family)
    inputs["video_mask"] = inputs["video_mask"].roll(1, dims=1)
    check_refused(lambda: family.model(**inputs), LinVTInputError, "video_mask", "image placeholders")


def test_too_many_frames_are_refused_with_both_numbers(family: Wrapped):
    family.model.config.max_frames = 4
    for call in (family.model, family.model.generate):
        check_refused(lambda call=call: call(**ask(family)), LinVTInputError, "5 frames", "1 to 4")
    video = family.processor.video_inputs(family.clip(5))
    check_refused(lambda: family.model.encode_video(**video), LinVTInputError, "5 frames", "1 to 4")


def test_frames_and_their_numbers_that_differ_are_refused(deep: Wrapped):
    inputs = ask(deep)
    times = inputs["video_timestamps"][:4]
    for changed, words in (
        ({"frames_per_video": torch.tensor([4]), "video_timestamps": times}, ("rows", "4 frames")),
        ({"video_timestamps": times}, ("4 entries", "5 frames")),
        ({"frames_per_video": None}, ("frames_per_video",)),
        ({"frame_image_grid_thw": None}, ("frame_image_grid_thw missing",)),
        ({"frame_pixel_values": None, "frame_image_grid_thw": None}, ("frame_pixel_values, frame_image_grid_thw",)),
    ):
        given = {name: value for name, value in {**inputs, **changed}.items() if value is not None}
        check_refused(lambda given=given: deep.model(**given), LinVTInputError, *words)


def test_a_picture_beside_a_video_without_video_mask_is_refused(family: Wrapped):
    inputs = family.inputs(user(family.clip(5), family.picture(), QUESTION))
    del inputs["video_mask"]
    check_refused(lambda: family.model(**inputs), LinVTInputError, "video_mask")


def test_without_video_mask_a_video_alone_takes_every_placeholder(family: Wrapped):
    inputs = ask(family)
    logits = family.model(**inputs).logits
    del inputs["video_mask"]
    assert torch.equal(family.model(**inputs).logits, logits)


def test_a_picture_that_is_missing_is_refused(family: Wrapped):
    inputs = family.inputs(user(family.clip(5), family.picture(), QUESTION))
    del inputs["pixel_values"]
    check_refused(lambda: family.model(**inputs), LinVTInputError, "25 image placeholders")


def test_a_video_without_input_ids_is_refused(family: Wrapped):
    inputs = ask(family)
    inputs["inputs_embeds"] = family.model.get_input_embeddings()(inputs.pop("input_ids"))
    check_refused(lambda: family.model(**inputs), LinVTInputError, "input_ids")


@pytest.mark.parametrize("other", ["qwen2_vl", "gemma3", "molmo2", "smolvlm"])
def test_the_processor_of_another_base_is_refused(family: Wrapped, other: str):
    inputs = wrapped(other).inputs(user(family.clip(5), QUESTION))
    check_refused(lambda: family.model(**inputs), LinVTInputError)


def test_a_prompt_beyond_the_bases_context_is_refused_with_both_numbers(family: Wrapped):
    inputs = ask(family)
    length = inputs["input_ids"].shape[1]
    family.base.config.get_text_config().max_position_embeddings = length - 1
    for call in (family.model, family.model.generate, family.model.model):
        words = (f"{length} tokens", f"takes {length - 1}")
        check_refused(lambda call=call: call(**inputs), LinVTInputError, *words)
    features = family.model.encode_video(**family.processor.video_inputs(family.clip(5)))
    check_refused(lambda: family.model.answer(features, QUESTION * 9, family.processor), LinVTInputError, "tokens")
    family.base.config.get_text_config().max_position_embeddings = length
    assert family.model(**inputs).logits.shape[1] == length


def test_a_question_of_no_tokens_is_no_question(family: Wrapped):
    inputs = ask(family)
    inputs["question_mask"] = torch.zeros_like(inputs["question_mask"])
    without = family.model(**inputs).logits
    del inputs["question_mask"]
    assert torch.equal(family.model(**inputs).logits, without)


def test_without_text_conditioning_the_question_changes_no_weight(family: Wrapped):
    model = stir(LinVTForVideoQA.from_base(family.base, **{**LINVT, "text_conditioned": False}))
    weights = [
        model.model.prepare(**family.inputs(user(family.clip(5), question)))[1].outputs.weights.dense()
        for question in (QUESTION, OTHER_QUESTION)
    ]
    assert torch.equal(*weights)


def test_an_encoded_video_of_another_model_is_refused(family: Wrapped, deep: Wrapped):
    features = deep.model.encode_video(**deep.processor.video_inputs(deep.clip(5)))
    check_refused(lambda: family.model.answer(features, QUESTION, family.processor), LinVTInputError, "56", "64")


@pytest.mark.parametrize("count", [0, 2])
def test_encode_video_takes_one_video(family: Wrapped, count: int):
    inputs = family.processor.video_inputs(family.clip(5))
    inputs["frames_per_video"] = torch.tensor([5] * count)
    check_refused(lambda: family.model.encode_video(**inputs), LinVTInputError, f"{count} were given")


def dense_weights(evidence: VideoEvidence) -> torch.Tensor:
    """W `(num_video_tokens, num_frame_tokens)`: what becomes of one frame token at a time."""
    total = evidence.significance.size
    each = np.eye(total, dtype=np.float32).reshape(*evidence.significance.shape, total)
    return torch.from_numpy(evidence.apply(each))


def test_an_answer_comes_with_the_weights_that_made_it(family: Wrapped):
    features = family.model.encode_video(**family.processor.video_inputs(family.clip(5)))
    answers, evidence = family.model.answer_with_evidence(
        features, [QUESTION, OTHER_QUESTION], family.processor, max_new_tokens=2
    )
    assert len(answers) == 2
    for row, question in enumerate((QUESTION, OTHER_QUESTION)):
        inputs = family.inputs(user(family.clip(5), question))
        expected = family.model.model.prepare(**inputs)[1].outputs.weights.dense()[0]
        torch.testing.assert_close(dense_weights(evidence[row]), expected, atol=1e-6, rtol=1e-4)
    # the door to evidence takes what the door to an answer takes
    frames = family.processor.read_video(family.clip(5))
    answer, of_frames = family.model.answer_with_evidence(frames, QUESTION, family.processor, max_new_tokens=2)
    assert (answer, of_frames.num_frames) == (answers[0], evidence[0].num_frames)


# ---------------------------------------------------------------------------------------------------------------------
# A process where the package is not installed
# ---------------------------------------------------------------------------------------------------------------------

WITHOUT_THE_PACKAGE = """
import sys
sys.modules["transformers_linvt"] = None  # importing it fails, wherever it is installed
import numpy as np, torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
torch.set_num_threads(1)
frames = np.load("frames.npy")
messages = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": sys.argv[1]}]}]
for folder in ("small", "whole"):
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    logits = []
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        model, report = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
        assert not any(report.values()), report
        assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
        logits.append(model(**inputs).logits)
    assert torch.equal(*logits)
    torch.save(logits[0], f"{folder}/logits.pt")
    model.generate(**inputs, max_new_tokens=2)
    model.save_pretrained(f"{folder}-again", include_base=folder == "whole")
    processor.save_pretrained(f"{folder}-again")
    again = AutoModel.from_pretrained(f"{folder}-again", trust_remote_code=True)
    assert torch.equal(again(**inputs).logits, logits[0])
print("loaded")
"""


def test_a_process_without_the_package_loads_the_code_from_the_checkpoint(tmp_path: Path):
    family = wrapped("qwen2_vl")
    for folder in ("small", "whole"):
        family.model.save_pretrained(tmp_path / folder, include_base=folder == "whole")
        family.processor.save_pretrained(tmp_path / folder)
    frames = family.clip(5).frames
    np.save(tmp_path / "frames.npy", frames)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, QUESTION],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "loaded"
    assert "Do you wish to run" not in result.stdout + result.stderr
    messages = [{"role": "user", "content": [{"type": "video", "video": frames}, {"type": "text", "text": QUESTION}]}]
    inputs = family.processor.apply_chat_template(messages, **CHAT)
    logits = family.model(**inputs).logits
    for folder in ("small", "whole"):
        assert relative_difference(torch.load(tmp_path / folder / "logits.pt"), logits) < 1e-6


def test_a_folder_that_is_no_image_text_model_is_refused_as_base(tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=13, n_positions=11, n_embd=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    check_refused(lambda: LinVTForVideoQA.from_base(tmp_path, **LINVT), UnsupportedBaseError, "no image-text model")


@torch.no_grad()
def test_a_cache_is_taken_under_the_old_name_and_under_the_new_one(family: Wrapped):
    """transformers 5.24 calls `cache` what was `past_key_values`; callers say the one or the other."""
    inputs = ask(family)
    cached = family.model(**inputs, use_cache=True)[CACHE_NAME]
    length, token = cached.get_seq_length(), inputs["input_ids"][:, -1:]
    logits = []
    for name in ("past_key_values", "cache"):
        logits.append(family.model(input_ids=token, **{name: copy.deepcopy(cached)}, use_cache=True).logits)
        assert cached.get_seq_length() == length
    assert torch.equal(*logits)
    without = family.model(input_ids=token, use_cache=True).logits
    assert not torch.allclose(logits[0], without)
    check_refused(
        lambda: family.model(input_ids=token, past_key_values=cached, cache=cached),
        LinVTInputError,
        "twice",
        CACHE_NAME,
    )
