"""
Every option of the training scripts has an effect or is refused, and what a checkpoint decides is not contradicted.

The options are TRL's (`ModelConfig`, `ScriptArguments`); a new one of a later TRL fails here until it is looked at.
"""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn
from trl import ModelConfig, ScriptArguments, SFTConfig

from promises import Wrapped, check_refused, wrapped
from transformers_linvt import LinVTError, LinVTInputError, LinVTSFTConfig
from transformers_linvt.training.arguments import (
    LINVT_OPTIONS,
    LinVTModelConfig,
    LinVTScriptArguments,
    ignore_bias_buffers,
    load_datasets,
    load_model,
    load_model_with_lora,
)
from transformers_linvt.training.lora import lora_config, save_instructed


# peft 0.21 asks whether checkpointing is on by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
SIZES = {
    "num_video_tokens": 6, "num_kept_tokens": 20, "scale_mode": "single", "pooling_scales": [1], "bottleneck_size": 16,
    "num_heads": 2, "num_scorer_layers": 1, "num_aggregator_layers": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def family() -> Wrapped:
    return wrapped("llava_phi")


def loaded(family: Wrapped, **options: Any) -> tuple[Any, Any, Any]:
    return load_model_with_lora(LinVTModelConfig(str(family.base_folder), **SIZES, **options))


def refused(*words: str, **options: Any) -> Callable[[Wrapped], None]:
    return lambda family: check_refused(lambda: loaded(family, **options), LinVTInputError, *words)


def in_lora(attribute: str, found: Callable[[Any], Any] = lambda value: value, **option: Any) -> Callable:
    (value,) = option.values()

    def check(family: Wrapped) -> None:
        assert found(getattr(loaded(family, **option)[2], attribute)) == value
        assert found(getattr(loaded(family)[2], attribute)) != value

    return check


def quantised(name: str) -> Callable[[Wrapped], None]:
    """With bitsandbytes the base is quantised; without, the error names it."""

    def check(family: Wrapped) -> None:
        try:
            model = loaded(family, **{f"load_in_{name}": True})[0]
        except LinVTError as error:
            assert "bitsandbytes" in str(error)
        else:
            assert getattr(model, f"is_loaded_in_{name}")

    return check


def check_dtype(family: Wrapped) -> None:
    assert loaded(family, dtype="bfloat16")[0].dtype == torch.bfloat16
    assert loaded(family)[0].dtype == torch.float32


def check_attention(family: Wrapped) -> None:
    kinds = [loaded(family, **one)[0].base_vlm.config._attn_implementation for one in ({}, EAGER)]
    assert kinds[0] != "eager" and kinds[1] == "eager"


def check_targets(family: Wrapped) -> None:
    names = loaded(family, lora_target_modules="q_proj")[2].target_modules
    assert names and all(".language_model.layers." in name and name.endswith(".q_proj") for name in names)


EAGER = {"attn_implementation": "eager"}
OF_THE_MODEL = {
    "model_name_or_path": lambda family: check_refused(LinVTModelConfig, LinVTInputError, "--model_name_or_path"),
    "model_revision": refused("--model_revision old", model_revision="old"),
    "dtype": check_dtype,
    "attn_implementation": check_attention,
    "use_peft": lambda family: check_same(loaded(family, use_peft=False)[2], None),
    "lora_r": in_lora("r", lora_r=5),
    "lora_alpha": in_lora("lora_alpha", lora_alpha=7),
    "lora_dropout": in_lora("lora_dropout", lora_dropout=0.25),
    "lora_target_modules": check_targets,
    "lora_target_parameters": refused("target_parameters", lora_target_parameters=["q_proj.weight"]),
    "lora_modules_to_save": in_lora(
        "modules_to_save", lambda names: [one for one in names if one != "linvt"], lora_modules_to_save=["lm_head"]
    ),
    "lora_task_type": refused("--lora_task_type SEQ_CLS", lora_task_type="SEQ_CLS"),
    "use_rslora": in_lora("use_rslora", use_rslora=True),
    "use_dora": in_lora("use_dora", use_dora=True),
    "load_in_8bit": quantised("8bit"),
    "load_in_4bit": quantised("4bit"),
    "bnb_4bit_quant_type": refused("--bnb_4bit_quant_type fp4", "--load_in_4bit", bnb_4bit_quant_type="fp4"),
    "use_bnb_nested_quant": refused("--use_bnb_nested_quant", "--load_in_4bit", use_bnb_nested_quant=True),
    "bnb_4bit_quant_storage": refused("--bnb_4bit_quant_storage", bnb_4bit_quant_storage="bfloat16"),
}


def check_same(found: Any, expected: Any) -> None:
    assert found == expected


@pytest.mark.parametrize("name", [one.name for one in fields(ModelConfig)])
def test_every_option_of_the_model_has_an_effect_or_is_refused(name: str, family: Wrapped):
    OF_THE_MODEL[name](family)


def test_both_ways_to_quantise_at_once_are_refused(family: Wrapped):
    refused("--load_in_4bit", "alternatives", load_in_4bit=True, load_in_8bit=True)(family)


def test_stage_one_takes_no_option_of_lora(family: Wrapped):
    for option, value in (("lora_r", 4), ("use_dora", True), ("use_peft", True), ("lora_modules_to_save", ["a"])):
        arguments = LinVTModelConfig(str(family.base_folder), **{option: value})
        check_refused(lambda a=arguments: a.check_without_lora("no LoRA"), LinVTInputError, f"--{option}", "no LoRA")
    LinVTModelConfig(str(family.base_folder)).check_without_lora("no LoRA")


# --- what a checkpoint decides ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a LinVT of its sizes and LoRA of rank 3."""
    folder, family = tmp_path_factory.mktemp("instructed"), wrapped("llava_phi")
    save_instructed(get_peft_model(family.model, lora_config(family.model, r=3, use_rslora=True)), folder)
    family.processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("option", "other", "its_own"),
    [
        ("num_video_tokens", 32, 6), ("bottleneck_size", 64, 16), ("init", "free", "keyframes"), ("lora_r", 64, 3),
        ("use_rslora", False, True), ("use_dora", True, False), ("lora_target_modules", ["q_proj"], None),
        ("lora_modules_to_save", ["lm_head"], ["linvt"]),
    ],
)  # fmt: skip
def test_a_checkpoint_is_not_contradicted(instructed: Path, option: str, other: Any, its_own: Any):
    def load(value: Any) -> Any:
        return load_model_with_lora(LinVTModelConfig(str(instructed), **{option: value}))

    check_refused(lambda: load(other), LinVTInputError, f"--{option}", str(instructed))
    model, _, peft_config = load(its_own)
    assert peft_config is None and model.peft_config["default"].r == 3
    if option in LINVT_OPTIONS:
        arguments = LinVTModelConfig(str(instructed), **{option: other})
        check_refused(lambda: load_model(arguments), LinVTInputError, f"--{option}", str(instructed))


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("train", "test", "more"):
        row = {"video": f"{name}.mp4", "prompt": "What?", "completion": name}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def datasets_of(data: Path, eval_strategy: str = "no", **options: Any) -> dict[str, Any]:
    arguments = LinVTScriptArguments(dataset_name=str(data), **options)
    return load_datasets(arguments, LinVTSFTConfig("out", eval_strategy=eval_strategy, use_cpu=True))


def answers(found: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [row["completion"] for row in rows] for name, rows in found.items()}


class WithFlags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("flags", torch.ones(3, dtype=torch.bool))
        self.register_buffer("numbers", torch.ones(3))


def check_splits(data: Path) -> None:
    found = answers(datasets_of(data, "steps", dataset_train_split="more", dataset_test_split="train"))
    assert found == {"train_dataset": ["more"], "eval_dataset": ["train"]}


def check_test_split(data: Path) -> None:
    assert answers(datasets_of(data, "steps", dataset_test_split="more"))["eval_dataset"] == ["more"]
    check_refused(lambda: datasets_of(data, dataset_test_split="more"), LinVTInputError, "--eval_strategy")


def check_streaming(data: Path) -> None:
    assert not hasattr(datasets_of(data, dataset_streaming=True)["train_dataset"], "__len__")


def check_buffers(data: Path) -> None:
    for ignored in (False, True):
        model = WithFlags()
        ignore_bias_buffers(model, LinVTScriptArguments(dataset_name="a", ignore_bias_buffers=ignored))
        assert getattr(model, "_ddp_params_and_buffers_to_ignore", []) == (["flags"] if ignored else [])


OF_THE_DATA = {
    "dataset_name": lambda data: check_refused(LinVTScriptArguments, LinVTInputError, "--dataset_name"),
    "dataset_config": lambda data: check_refused(
        lambda: datasets_of(data, dataset_config="nonsense"), LinVTInputError, "'nonsense'", "no effect"
    ),
    "dataset_train_split": check_splits,
    "dataset_test_split": check_test_split,
    "dataset_streaming": check_streaming,
    "ignore_bias_buffers": check_buffers,
}


@pytest.mark.parametrize("name", [one.name for one in fields(ScriptArguments)])
def test_every_option_of_the_data_has_an_effect_or_is_refused(name: str, data: Path):
    OF_THE_DATA[name](data)


# --- the trainer's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model_init_kwargs", {"dtype": "float32"}), ("dataset_text_field", "words"), ("dataset_num_proc", 2),
        ("truncation_mode", "keep_end"), ("shuffle_dataset", True), ("packing_strategy", "wrapped"),
        ("eval_packing", True), ("pad_to_multiple_of", 8), ("pad_token", "<pad>"), ("dataset_kwargs", {"a": 1}),
    ],
)  # fmt: skip
def test_options_of_trl_without_an_effect_on_videos_are_refused(option: str, value: Any):
    assert option in {one.name for one in fields(SFTConfig)}
    check_refused(lambda: LinVTSFTConfig("out", use_cpu=True, **{option: value}), LinVTInputError, option, "no effect")
