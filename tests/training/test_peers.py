"""
LinVT with the tools of others as a base is with them: accumulation under our trainer, which is TRL's, what PEFT saves
and loads by itself, accelerate's own states. transformers' plain trainer has its place in tests/model.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model
from transformers import AutoModel

from promises import QUESTION, Wrapped, user, wrapped
from training_runs import ROUNDING, examples, relative_error, step, stream
from transformers_linvt import LinVTDataCollator, LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.collator import BOOKKEEPING_KEYS
from transformers_linvt.training.lora import lora_config


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
ROWS = 4


class ForOthers(LinVTDataCollator):
    """The collator without what it keeps for our own trainers."""

    def __call__(self, examples: Any) -> dict[str, Any]:
        return {name: value for name, value in super().__call__(examples).items() if name not in BOOKKEEPING_KEYS}


def our_trainer(family: Wrapped, folder: Path) -> LinVTSFTTrainer:
    return LinVTSFTTrainer(
        family.model,
        LinVTSFTConfig(str(folder), max_steps=1, report_to="none", use_cpu=True, num_frames=32),
        train_dataset=stream(examples(family), 9),
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0),
    )


def test_four_examples_at_once_are_four_one_after_the_other(tmp_path: Path):
    family = wrapped("llava_phi")
    torch.manual_seed(0)
    trainer, rows = our_trainer(family, tmp_path), examples(family)[:ROWS]
    trainer.model.train()
    loss, whole = step(trainer, rows)
    for size in (2, 1):
        parts = [rows[start : start + size] for start in range(0, ROWS, size)]
        parts_loss, found = step(trainer, *parts)
        assert parts_loss == pytest.approx(loss, rel=ROUNDING)
        assert relative_error(found, whole) < ROUNDING


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


def test_accelerate_saves_and_loads_the_state_of_what_trains(tmp_path: Path):
    family = wrapped("llava_phi")
    accelerator = Accelerator(cpu=True)
    trained = [parameter for parameter in family.model.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(family.model, torch.optim.AdamW(trained, lr=0.01))
    batch = ForOthers(family.processor, num_frames=32)(examples(family)[:2])
    accelerator.backward(model(**batch).loss)
    optimizer.step()
    accelerator.save_state(str(tmp_path))
    expected = {name: value.clone() for name, value in model.linvt.state_dict().items()}
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(1.0)
    accelerator.load_state(str(tmp_path))
    assert all(torch.equal(model.linvt.state_dict()[name], value) for name, value in expected.items())
