"""
Stage 2 with PEFT: LoRA sits on the language model and nowhere else, LinVT trains beside it, and both come back.

A checkpoint of LinVT with its adapter is one folder: loaded whole, with the adapter off it is the base bit by bit on
pictures, and it can be saved, trained on and merged again.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, pipeline

from promises import FAMILIES, NUM_VIDEO_TOKENS, QUESTION, Wrapped, check_refused, relative_difference, user, wrapped
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    embedded_base_path,
    embedded_model_path,
)
from transformers_linvt.training.lora import (
    language_model_targets,
    load_for_training,
    lora_config,
    merge,
    save_instructed,
)
from transformers_linvt.training.stages import apply_stage


# peft 0.21 asks whether checkpointing is on by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
PLAIN = "llava_phi"  # language model with names of its own
# Rounding differs with where in memory the weights of a file lie; the weights themselves are compared bit by bit.
ROUNDING = 1e-5


@pytest.fixture
def family() -> Wrapped:
    return wrapped(PLAIN)


def trained(family: Wrapped, **kwargs: object) -> PeftModel:
    """A model with LoRA whose adapter and LinVT both differ from their start."""
    model = get_peft_model(family.model, lora_config(family.model, r=3, **kwargs)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "linvt.modules_to_save" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def video_of(family: Wrapped) -> dict:
    return family.inputs(user(family.clip(5), QUESTION))


def picture_of(family: Wrapped) -> dict:
    return family.inputs(user(family.picture(), QUESTION))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- where LoRA goes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_targets_are_the_projections_of_the_language_model_and_nothing_else(name: str):
    model = wrapped(name).model
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    inside = {id(module) for module in decoder.modules()}
    targets = language_model_targets(model)
    modules = [model.get_submodule(target) for target in targets]
    assert all(isinstance(module, nn.Linear) and id(module) in inside and module is not head for module in modules)
    text = model.config.get_text_config()
    per_layer = {"llava_phi": 6}.get(name, 7)  # q k v o and gate up down; Phi: q k v dense and fc1 fc2
    assert len(targets) == len(set(targets)) == text.num_hidden_layers * per_layer
    every_linear = {id(module) for module in decoder.modules() if isinstance(module, nn.Linear)}
    assert {id(module) for module in modules} == every_linear
    adapted = {name for name, _ in get_peft_model(model, lora_config(model)).named_parameters() if "lora_A" in name}
    assert len(adapted) == len(targets)
    assert not [name for name in adapted if "linvt" in name or "vision" in name or "visual" in name or "head" in name]


def test_the_targets_are_the_same_with_an_adapter_around(family: Wrapped):
    before = language_model_targets(family.model)
    model = get_peft_model(family.model, lora_config(family.model))
    assert language_model_targets(model) == before


def test_a_fused_projection_and_a_router_are_told_apart(family: Wrapped):
    block = family.model.get_decoder().layers[1]
    block.self_attn.qkv_proj, block.mlp.router = nn.Linear(3, 9), nn.Linear(3, 2)
    names = [name.rpartition(".")[2] for name in language_model_targets(family.model)]
    assert names.count("qkv_proj") == 1 and "router" not in names


def test_another_model_has_no_targets(family: Wrapped):
    check_refused(lambda: language_model_targets(family.base), LinVTInputError, "LinVTForVideoQA")


def test_lora_and_linvt_train_and_nothing_else(family: Wrapped):
    model = get_peft_model(family.model, lora_config(family.model, r=3, use_rslora=True))
    assert model.peft_config["default"].use_rslora and model.peft_config["default"].r == 3
    inputs = video_of(family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # lora_B starts at zero, so lora_A moves from the second step on
        optimizer.zero_grad()
        model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["video_mask"].bool(), -100)).loss.backward()
        optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    wanted = {name for name, _ in model.named_parameters() if "lora_" in name or "linvt.modules_to_save." in name}
    assert moved == wanted


# --- one folder ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava_phi", "qwen2_vl"])
def test_linvt_and_its_adapter_come_back_from_one_folder(name: str, tmp_path: Path):
    family = wrapped(name)
    video, picture = video_of(family), picture_of(family)
    plain = family.base(**picture).logits
    answer = family.base.generate(**picture, max_new_tokens=3, do_sample=False)
    model = trained(family)
    expected, tuned = model(**video).logits, model(**picture).logits
    assert not torch.equal(tuned, plain)
    save_instructed(model, tmp_path)
    assert model.config.adapter_subfolder is None, "saving has changed the model"
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(again, LinVTForVideoQA) and not any(report.values()) and not again.training
    assert relative_difference(again(**video).logits, expected) < ROUNDING
    linvt = model.get_base_model().linvt.modules_to_save["default"]
    assert same_weights(again.linvt, linvt)
    assert not [n for n, p in again.base_vlm.named_parameters() if p.requires_grad], "the loaded adapter would train"
    again.disable_adapters()
    assert torch.equal(again(**picture).logits, plain)
    assert torch.equal(again.generate(**picture, max_new_tokens=3, do_sample=False), answer)
    again.enable_adapters()
    assert relative_difference(again(**picture).logits, tuned) < ROUNDING


def test_the_folder_holds_linvt_the_adapter_and_a_reference(family: Wrapped, tmp_path: Path):
    save_instructed(trained(family), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["adapter_subfolder"] == "lora" and not config["includes_base"]
    assert config["base_model_name_or_path"] == str(family.base_folder)
    assert {name.split(".")[1] for name in load_file(tmp_path / "model.safetensors")} == {"linvt"}
    adapter = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert adapter and all(".lora_" in name and "linvt" not in name for name in adapter)
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert settings["modules_to_save"] is None and settings["r"] == 3 and settings["base_model_name_or_path"] is None
    assert sorted(settings["target_modules"]) == sorted(language_model_targets(family.model))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_what_a_trainer_left_in_the_folder_is_not_loaded_instead(family: Wrapped, tmp_path: Path):
    model = trained(family)
    model.save_pretrained(tmp_path)
    save_instructed(model, tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("adapter_")]
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.adapter_subfolder == "lora"
    assert not [name for name in again.state_dict() if "modules_to_save" in name]


@torch.no_grad()
def test_what_was_loaded_is_saved_whole_again(family: Wrapped, tmp_path: Path):
    save_instructed(trained(family), tmp_path / "first")
    first = AutoModel.from_pretrained(tmp_path / "first")
    first.save_pretrained(tmp_path / "second")
    second = AutoModel.from_pretrained(tmp_path / "second")
    assert same_weights(first, second)
    first.disable_adapters()  # off while saving is not gone
    first.save_pretrained(tmp_path / "whole", include_base=True)
    shutil.rmtree(tmp_path / "first")
    whole = AutoModel.from_pretrained(tmp_path / "whole")
    assert whole.config.includes_base and same_weights(whole, second) and not whole.training
    picture = picture_of(family)
    whole.disable_adapters()
    second.disable_adapters()
    assert relative_difference(whole(**picture).logits, second(**picture).logits) < ROUNDING
    whole.save_pretrained(tmp_path / "whole again")
    assert same_weights(AutoModel.from_pretrained(tmp_path / "whole again"), whole)


@torch.no_grad()
def test_without_its_adapter_the_model_loads_and_is_saved_as_an_ordinary_one(family: Wrapped, tmp_path: Path):
    save_instructed(trained(family), tmp_path / "tuned")
    model = LinVTForVideoQA.from_pretrained(tmp_path / "tuned", adapter_subfolder=None)
    assert not [name for name in model.state_dict() if "lora_" in name]
    loaded = LinVTForVideoQA.from_pretrained(tmp_path / "tuned")
    loaded.delete_adapter("default")
    for number, plain in enumerate((model, loaded)):
        plain.save_pretrained(tmp_path / f"{number}")
        assert json.loads((tmp_path / f"{number}" / "config.json").read_text())["adapter_subfolder"] is None
        assert not (tmp_path / f"{number}" / "lora").exists()
        assert same_weights(AutoModel.from_pretrained(tmp_path / f"{number}"), model)


def test_bfloat16_comes_back_and_runs(family: Wrapped, tmp_path: Path):
    save_instructed(trained(family), tmp_path)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    logits = model(**video_of(family)).logits
    assert logits.dtype == torch.bfloat16 and bool(logits.isfinite().all())


def test_a_base_that_changed_under_the_adapter_is_not_referred_to(family: Wrapped, tmp_path: Path):
    model = trained(family)
    layer = model.get_base_model().get_submodule(language_model_targets(family.model)[0])
    with torch.no_grad():
        layer.get_base_layer().weight.add_(0.25)
    check_refused(lambda: save_instructed(model, tmp_path / "out"), CheckpointError, "1 weights", "include_base=True")
    assert not (tmp_path / "out").exists()
    save_instructed(model, tmp_path / "out", include_base=True)
    assert AutoModel.from_pretrained(tmp_path / "out").config.adapter_subfolder == "lora"


def test_a_base_beside_the_checkpoint_is_found_from_there_and_from_elsewhere(tmp_path: Path):
    shutil.copytree(embedded_base_path(), tmp_path / "here" / "shapes_vlm")
    shutil.copytree(embedded_model_path(), tmp_path / "here" / "linvt_shapes")
    model = LinVTForVideoQA.from_pretrained(tmp_path / "here" / "linvt_shapes")
    peft_model = get_peft_model(model, lora_config(model))
    save_instructed(peft_model, tmp_path / "here" / "tuned")
    save_instructed(peft_model, tmp_path / "elsewhere" / "far" / "tuned")
    beside = AutoModel.from_pretrained(tmp_path / "here" / "tuned")
    far = AutoModel.from_pretrained(tmp_path / "elsewhere" / "far" / "tuned")
    assert beside.config.base_model_name_or_path == "../shapes_vlm"
    assert far.config.base_model_name_or_path == str(tmp_path / "here" / "shapes_vlm")
    assert model.config.base_model_name_or_path == "../shapes_vlm"
    (tmp_path / "here").rename(tmp_path / "moved")
    assert same_weights(AutoModel.from_pretrained(tmp_path / "moved" / "tuned"), beside)


@pytest.mark.parametrize("damage", ["missing", "cut", "other names", "other shapes"])
def test_a_damaged_adapter_is_named_and_never_left_out(family: Wrapped, tmp_path: Path, damage: str):
    save_instructed(trained(family), tmp_path)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    weights = load_file(file)
    if damage == "missing":
        shutil.rmtree(tmp_path / "lora")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif damage == "other names":
        save_file({name.replace("layers.0.", "layers.9."): value for name, value in weights.items()}, file)
    else:
        save_file({name: torch.zeros(2, 5) for name in weights}, file)
    check_refused(lambda: AutoModel.from_pretrained(tmp_path), CheckpointError, "lora", str(tmp_path))
    AutoModel.from_pretrained(tmp_path, adapter_subfolder=None)


def test_what_cannot_be_saved_as_one_is_refused(family: Wrapped, tmp_path: Path):
    check_refused(lambda: save_instructed(family.model, tmp_path), CheckpointError, "no adapter", "save_pretrained")
    check_refused(lambda: merge(family.model), CheckpointError, "no adapter")
    model = trained(family)
    model.add_adapter("second", LoraConfig(target_modules=language_model_targets(family.model)[:1]))
    check_refused(lambda: save_instructed(model, tmp_path), CheckpointError, "2 adapters", "second")


# --- onwards ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("how", ["trained", "loaded", "loaded and off"])
def test_merging_keeps_the_answers_and_saves_the_base(family: Wrapped, tmp_path: Path, how: str):
    video = video_of(family)
    model = trained(family)
    expected = model(**video).logits
    save_instructed(model, tmp_path / "tuned")
    if how != "trained":
        model = AutoModel.from_pretrained(tmp_path / "tuned")
    if how == "loaded and off":
        model.disable_adapters()
    merged = merge(model)
    assert isinstance(merged, LinVTForVideoQA)
    assert not [name for name in merged.state_dict() if "lora_" in name or "base_layer" in name]
    assert not [name for name, p in merged.base_vlm.named_parameters() if p.requires_grad]
    assert relative_difference(merged(**video).logits, expected) < ROUNDING
    merged.save_pretrained(tmp_path / "merged")
    assert same_weights(AutoModel.from_pretrained(tmp_path / "merged"), merged)


def test_a_loaded_checkpoint_goes_on_training(family: Wrapped, tmp_path: Path):
    video = video_of(family)
    save_instructed(trained(family), tmp_path / "tuned")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path / "tuned")(**video).logits
    model = load_for_training(tmp_path / "tuned")
    with torch.no_grad():
        assert relative_difference(model.eval()(**video).logits, expected) < ROUNDING
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {n for n, _ in model.named_parameters() if "lora_" in n or "linvt.modules_to_save." in n}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(**video, labels=video["input_ids"].masked_fill(video["video_mask"].bool(), -100)).loss.backward()
    optimizer.step()
    with torch.no_grad():
        moved = model.eval()(**video).logits
        assert relative_difference(moved, expected) > 1e-3
        model.save_pretrained(tmp_path / "adapter")  # PEFT's own format refers to the folder it came from
        alone = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapter")
        assert relative_difference(alone(**video).logits, moved) < ROUNDING
        save_instructed(model, tmp_path / "again")
        assert relative_difference(AutoModel.from_pretrained(tmp_path / "again")(**video).logits, moved) < ROUNDING


def test_a_checkpoint_without_an_adapter_has_none_to_go_on_with(family: Wrapped, tmp_path: Path):
    family.model.save_pretrained(tmp_path)
    check_refused(lambda: load_for_training(tmp_path), CheckpointError, "no adapter", "lora_config")


@torch.no_grad()
def test_an_adapter_folder_of_peft_is_merged_too(family: Wrapped, tmp_path: Path):
    family.model.save_pretrained(tmp_path / "model")
    model = trained(
        Wrapped(PLAIN, AutoModel.from_pretrained(tmp_path / "model"), family.processor, family.base_folder)
    )
    model.save_pretrained(tmp_path / "adapter")
    expected = model(**video_of(family)).logits
    loaded = LinVTForVideoQA.from_pretrained(tmp_path / "model")
    loaded.load_adapter(str(tmp_path / "adapter"))
    save_instructed(loaded, tmp_path / "one")
    again = AutoModel.from_pretrained(tmp_path / "one")
    assert relative_difference(again(**video_of(family)).logits, expected) < ROUNDING
    merged = merge(loaded)
    assert relative_difference(merged(**video_of(family)).logits, expected) < ROUNDING
    assert set(merged.state_dict()) == set(family.model.state_dict())


def test_the_pipeline_loads_the_adapter(family: Wrapped, tmp_path: Path):
    save_instructed(trained(family), tmp_path)
    family.processor.save_pretrained(tmp_path)
    ask = pipeline("video-question-answering", model=str(tmp_path), device="cpu")
    assert ask.model.active_adapters() == ["default"]
    assert isinstance(ask.processor, LinVTProcessor) and ask.processor.num_video_tokens == NUM_VIDEO_TOKENS


def test_contrastive_heads_of_the_first_stage_are_frozen_and_come_along_unchanged(family: Wrapped, tmp_path: Path):
    family.model.add_contrastive_head(5)
    head = {name: value.clone() for name, value in family.model.linvt.contrastive_head.state_dict().items()}
    model = get_peft_model(family.model, lora_config(family.model))
    apply_stage(model, "instruct")
    trains = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("lora_" in name for name in trains) and any("linvt.modules_to_save" in name for name in trains)
    assert not [name for name in trains if "contrastive_head" in name]
    with torch.no_grad():
        for parameter in trains.values():
            parameter.add_(0.05)
    save_instructed(model, tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    found = again.linvt.contrastive_head.state_dict()
    assert again.config.contrastive_size == 5 and head and found.keys() == head.keys()
    assert all(torch.equal(found[name], head[name]) for name in head)
    assert not torch.equal(again.linvt.aggregator.queries, family.model.linvt.original_module.aggregator.queries)


class OwnLayer(nn.Module):
    """A layer of somebody's own, which PEFT does not know."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight.T


def test_a_language_model_without_linear_layers_is_refused_with_the_way_out():
    family = wrapped("llava")
    decoder = family.model.get_decoder()
    for module in list(decoder.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, OwnLayer(layer.weight))
    check_refused(
        lambda: lora_config(family.model),
        LinVTInputError,
        type(decoder).__name__,
        "no torch.nn.Linear",
        "target_modules",
    )
