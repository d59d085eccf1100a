"""LinVT under PEFT: what PEFT saves, loads and merges by itself, without our own functions."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModel

from promises import QUESTION, user, wrapped
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
