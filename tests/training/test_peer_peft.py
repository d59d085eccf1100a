"""LinVT under PEFT: what PEFT saves, loads and merges by itself, without our own functions."""

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel

from promises import QUESTION, check_refused, user, wrapped
from transformers_linvt import CheckpointError, LinVTForVideoQA
from transformers_linvt.training.lora import lora_config


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def test_what_peft_saves_it_loads_around_the_saved_model(tmp_path: Path):
    family = wrapped("llava_phi")
    family.model.save_pretrained(tmp_path / "model")
    model = get_peft_model(
        AutoModel.from_pretrained(tmp_path / "model"), lora_config(family.model, r=3, use_dora=True)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.eval().save_pretrained(tmp_path / "adapter")
        inputs = family.inputs(user(family.clip(5), QUESTION))
        expected = model(**inputs).logits
        again = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "model"), str(tmp_path / "adapter"))
        assert torch.equal(again.eval()(**inputs).logits, expected)
        by_its_folder = AutoModel.from_pretrained(tmp_path / "adapter")  # names the model by its whole path
        assert torch.equal(by_its_folder(**inputs).logits, expected)


@torch.no_grad()
def change_linvt(model: LinVTForVideoQA) -> None:
    for parameter in model.linvt.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("load", [LinVTForVideoQA.from_pretrained, AutoModel.from_pretrained])
@pytest.mark.parametrize("kind", ["changed", "never saved"])
def test_an_adapter_is_not_saved_without_the_linvt_that_it_belongs_to(kind: str, load, tmp_path: Path, caplog):
    """transformers saves an added adapter alone, with the name of a checkpoint that has another LinVT."""
    family = wrapped("llava_phi")
    model = family.model
    if kind == "changed":
        model.save_pretrained(tmp_path / "model")
        model = LinVTForVideoQA.from_pretrained(tmp_path / "model")
        change_linvt(model)
    targets = lora_config(model).target_modules
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    inputs = family.inputs(user(family.clip(5), QUESTION))
    model.eval().save_pretrained(tmp_path / "saved")
    assert "adapter alone would lose it" in caplog.text and model.config.adapter_subfolder is None
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "saved")(**inputs).logits, model(**inputs).logits)


def test_an_adapter_that_holds_linvt_or_belongs_to_what_was_loaded_is_saved_alone(tmp_path: Path):
    family = wrapped("llava_phi")
    family.model.save_pretrained(tmp_path / "model")
    inputs = family.inputs(user(family.clip(5), QUESTION))
    for name, modules in (("alone", None), ("with linvt", ["linvt"])):
        model = LinVTForVideoQA.from_pretrained(tmp_path / "model")
        targets = lora_config(model).target_modules
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False, modules_to_save=modules))
        if modules:
            change_linvt(model)
        model.eval().save_pretrained(tmp_path / name)
        assert not (tmp_path / name / "config.json").exists()
        with torch.no_grad():
            expected = model(**inputs).logits
            torch.testing.assert_close(LinVTForVideoQA.from_pretrained(tmp_path / name)(**inputs).logits, expected)


def test_an_adapter_that_cannot_lie_beside_a_changed_linvt_is_refused(tmp_path: Path):
    model = wrapped("llava_phi").model
    model.add_adapter(IA3Config(target_modules=lora_config(model).target_modules, feedforward_modules=[]))
    check_refused(lambda: model.save_pretrained(tmp_path / "x"), CheckpointError, "(IA3)", "would be lost")
    assert not (tmp_path / "x").exists()
