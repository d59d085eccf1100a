"""
What a PEFT configuration asks for is trained, saved and brought back exactly by every way of loading, or it is refused
before the first step.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModel

from promises import QUESTION, Wrapped, check_refused, relative_difference, user, wrapped
from training_runs import examples, stream
from transformers_linvt import CheckpointError, LinVTInputError, LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.lora import load_for_training, lora_config, merge
from transformers_linvt.training.stages import apply_stage


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
# Merging adds two float32 matrices before the product instead of after it.
ROUNDING = 1e-4

# What is given to lora_config -> a part of the name of what trains because of it.
OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True, "use_rslora": True}, "lora_magnitude_vector"),
    "rows of tokens": ({"trainable_token_indices": list(range(60, 300))}, "trainable_tokens_delta"),
    "the head": ({"modules_to_save": ["linvt", "lm_head"]}, "lm_head.modules_to_save"),
    "LoRA on embeddings": ({"target_modules": ["q_proj", "embed_tokens"]}, "lora_embedding_A"),
}
MORE_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "gaussian start": ({"init_lora_weights": "gaussian"}, "lora_A"),
    "orthogonal start": ({"init_lora_weights": "orthogonal", "r": 4}, "lora_A"),
    "random start": ({"init_lora_weights": False}, "lora_A"),
    "ranks by pattern": ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 7}}, "lora_A"),
    "one layer": ({"target_modules": ["q_proj"], "layers_to_transform": [0]}, "layers.0.self_attn.q_proj.lora_A"),
    "all linear layers": ({"target_modules": "all-linear"}, "mlp.fc1.lora_A"),
    "a regular expression": ({"target_modules": r".*language_model.*\.(q|v)_proj"}, "v_proj.lora_A"),
    "biases of LoRA": ({"lora_bias": True}, "lora_B.default.bias"),
    "embeddings as a whole": ({"modules_to_save": ["embed_tokens"]}, "embed_tokens.modules_to_save"),
    "norms": ({"modules_to_save": ["input_layernorm"]}, "input_layernorm.modules_to_save"),
}


def trainer_of(family: Wrapped, folder: Path, peft_config: Any, model: Any = None, **kwargs: Any) -> LinVTSFTTrainer:
    given = {
        "max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "num_frames": 32, **kwargs,
    }  # fmt: skip
    return LinVTSFTTrainer(
        model if model is not None else family.model,
        LinVTSFTConfig(str(folder), **given),
        train_dataset=stream(examples(family)[:2], 100),
        processing_class=family.processor,
        peft_config=peft_config,
    )


def check_comes_back(given: dict[str, Any], trains: str, folder: Path) -> None:
    family = wrapped("llava_phi")
    config = lora_config(family.model, **{"r": 3, "lora_dropout": 0.0, **given})
    # the first step moves B alone, as B is zero where it starts
    trainer = trainer_of(family, folder / "result", config, max_steps=2 if trains.endswith("lora_A") else 1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if trains in name}
    trainer.train()
    now = dict(trainer.model.named_parameters())
    assert before and any(not torch.equal(now[name], value) for name, value in before.items())
    trainer.save_model()
    inputs = family.inputs(user(family.clip(5), QUESTION))
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs).logits
        loaded = AutoModel.from_pretrained(folder / "result")
        assert torch.equal(loaded(**inputs).logits, expected)
        more = load_for_training(folder / "result")
        assert torch.equal(more.eval()(**inputs).logits, expected)
        assert apply_stage(more, "instruct")["kinds"] == trainer.parameter_counts["kinds"]
        merged = merge(loaded)
        merged.save_pretrained(folder / "merged")
        again = AutoModel.from_pretrained(folder / "merged")
        assert relative_difference(again(**inputs).logits, expected) < ROUNDING


@pytest.mark.parametrize("name", OPTIONS)
def test_what_an_option_trains_comes_back(name: str, tmp_path: Path):
    check_comes_back(*OPTIONS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_OPTIONS)
def test_what_a_rarer_option_trains_comes_back(name: str, tmp_path: Path):
    check_comes_back(*MORE_OPTIONS[name], tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"init_lora_weights": "pissa"}, CheckpointError, ("weights of the base have changed",)),
        ({"init_lora_weights": "olora"}, CheckpointError, ("weights of the base have changed",)),
        ({"bias": "all"}, LinVTInputError, ("bias='all'", "lora_bias")),
        ({"target_parameters": ["q_proj.weight"]}, LinVTInputError, ("target_parameters", "target_modules")),
    ],
)
def test_what_would_not_come_back_is_refused_before_the_first_step(
    given: dict[str, Any], error: type, words: tuple[str, ...], tmp_path: Path
):
    family = wrapped("llava_phi")
    config = LoraConfig(r=3, target_modules=["q_proj"], **given)
    check_refused(lambda: trainer_of(family, tmp_path, config), error, *words)


def test_a_base_that_the_adapters_start_changes_is_saved_with_it(tmp_path: Path):
    family = wrapped("llava_phi")
    family.model.config.includes_base = True
    trainer = trainer_of(family, tmp_path, lora_config(family.model, r=3, init_lora_weights="pissa"))
    trainer.train()
    trainer.save_model()
    inputs = family.inputs(user(family.clip(5), QUESTION))
    with torch.no_grad():
        again = AutoModel.from_pretrained(tmp_path)
        assert relative_difference(again(**inputs).logits, trainer.model.eval()(**inputs).logits) < 1e-6


def test_linvt_is_added_to_a_configuration_that_leaves_it_out(tmp_path: Path):
    family = wrapped("llava_phi")
    config = LoraConfig(r=3, target_modules=["q_proj"])
    trainer = trainer_of(family, tmp_path, config, save_strategy="steps", save_steps=1)
    trainer.train()
    assert config.modules_to_save is None  # the caller's own stays as it is
    resumed = trainer_of(wrapped("llava_phi"), tmp_path, config, max_steps=1)
    resumed._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    trained, found = trainer.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(found[name], trained[name]) for name in trained if "modules_to_save" in name)


def test_adapters_that_cannot_have_linvt_beside_them_are_refused(tmp_path: Path):
    family = wrapped("llava_phi")
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    check_refused(lambda: trainer_of(family, tmp_path, prompts), LinVTInputError, "PROMPT_TUNING", "lora_config")
    model = get_peft_model(family.model, LoraConfig(r=3, target_modules=["q_proj"]))
    check_refused(lambda: trainer_of(family, tmp_path, None, model), LinVTInputError, "modules_to_save", "lora_config")


def test_what_was_set_to_train_is_not_frozen_in_silence():
    family = wrapped("llava_phi")
    family.base.lm_head.requires_grad_(True)
    check_refused(lambda: apply_stage(family.model, "align"), LinVTInputError, "1 parameters", "lm_head", "'align'")
    with_lora = wrapped("llava_phi")
    model = get_peft_model(with_lora.model, lora_config(with_lora.model, r=3))
    check_refused(lambda: apply_stage(model, "align"), LinVTInputError, "lora_", "instruct")


def test_what_would_train_and_not_be_saved_is_refused():
    family = wrapped("llava_phi")
    model = get_peft_model(family.model, lora_config(family.model, r=3))
    family.base.model.vision_tower.requires_grad_(True)
    check_refused(lambda: apply_stage(model, "instruct"), LinVTInputError, "not be saved", "vision_tower")
