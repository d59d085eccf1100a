"""LinVT under TRL: under its own `SFTTrainer`, and under ours, which is one."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from promises import Wrapped, wrapped
from training_runs import ForOthers, check_accumulation, examples, stream
from transformers_linvt import LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.lora import lora_config


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def trl_trainer(family: Wrapped, folder: Path) -> SFTTrainer:
    arguments = SFTConfig(
        str(folder),
        max_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return SFTTrainer(
        family.model,
        arguments,
        data_collator=ForOthers(family.processor, num_frames=32),
        train_dataset=Dataset.from_list([{"row": 0}]),
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0),
    )


def our_trainer(family: Wrapped, folder: Path) -> LinVTSFTTrainer:
    return LinVTSFTTrainer(
        family.model,
        LinVTSFTConfig(str(folder), max_steps=1, report_to="none", use_cpu=True, num_frames=32),
        train_dataset=stream(examples(family), 9),
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0),
    )


@pytest.mark.parametrize("make", [trl_trainer, our_trainer])
def test_four_examples_at_once_are_four_one_after_the_other(tmp_path: Path, make):
    family = wrapped("llava_phi")
    torch.manual_seed(0)
    check_accumulation(make(family, tmp_path), examples(family)[:4])
