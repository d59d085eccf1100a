"""LinVT under transformers' own `Trainer`, as a base is under it."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from promises import QUESTION, user, wrapped
from training_runs import ForOthers, check_accumulation, examples
from transformers_linvt.training.lora import lora_config


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@pytest.mark.parametrize("has_lora", [False, True])
def test_four_examples_at_once_are_four_one_after_the_other(tmp_path: Path, has_lora: bool):
    family = wrapped("llava_phi")
    torch.manual_seed(0)
    lora = lora_config(family.model, r=3, lora_dropout=0.0)
    trainer = Trainer(
        get_peft_model(family.model, lora) if has_lora else family.model,
        TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, bf16=False),
        data_collator=ForOthers(family.processor, num_frames=32),
    )
    check_accumulation(trainer, examples(family)[:4])


def test_a_frozen_base_that_is_trained_without_a_video_is_told_of_once(caplog: pytest.LogCaptureFixture):
    """With checkpointing the inputs carry a gradient, so that torch does not complain either."""
    family = wrapped("llava_phi")
    model = family.model.train()
    told = "nothing is learnt from it"

    def train_on(model: torch.nn.Module, *content) -> int:
        inputs = family.inputs(user(*content, QUESTION))
        model(**inputs, labels=inputs["input_ids"])
        return caplog.text.count(told)

    assert train_on(model, family.clip(3)) == 0
    with torch.no_grad():
        assert train_on(model, family.picture()) == 0
    assert train_on(model, family.picture()) == 1 and train_on(model) == 1
    model.model._has_told_of_nothing_to_learn = False
    assert train_on(get_peft_model(model, lora_config(model, r=3)), family.picture()) == 1
