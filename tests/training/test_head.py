"""
The loss that is trained is the loss that `forward` gives, also for bases whose head does more than a matrix, which TRL
does not see: Chameleon forbids codes of pictures, Inkling divides by a width.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from promises import Wrapped, wrapped
from training_runs import ForOthers, check_trains_the_loss_of_forward, examples, stream
from transformers_linvt import LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.head import ThroughTheHead, WhereThereIsATarget, does_more
from transformers_linvt.training.lora import lora_config


pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
NEEDS = {"inkling_mm_model": ("torchvision", "scipy")}


def trainer_of(family: Wrapped, folder: Path, **options: Any) -> LinVTSFTTrainer:
    return LinVTSFTTrainer(
        family.model,
        LinVTSFTConfig(str(folder), max_steps=1, report_to="none", use_cpu=True, num_frames=32, **options),
        train_dataset=stream(examples(family), 9),
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0),
    )


@pytest.mark.parametrize(
    ("name", "more"),
    [("llava_phi", False), ("chameleon", True), pytest.param("inkling_mm_model", True, marks=pytest.mark.bases)],
)
def test_the_loss_and_the_gradient_are_those_of_forward(name: str, more: bool, tmp_path: Path):
    """Of all supported bases: tests/bases/test_bases.py."""
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package)
    assert check_trains_the_loss_of_forward(wrapped(name), tmp_path)._head_does_more is more


def test_the_figures_of_a_step_are_those_of_trl_where_it_knows_the_head(tmp_path: Path):
    """The way through the head, taken where it would not have to be."""
    found = []
    for more in (False, True):
        family = wrapped("llava_phi")
        torch.manual_seed(0)
        trainer = trainer_of(family, tmp_path, loss_type="dft")
        trainer._head_does_more = more
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples(family)[:3]))
        found.append({"loss": loss.item(), **{key: value[-1] for key, value in trainer._metrics["train"].items()}})
    assert found[0] == pytest.approx(found[1], rel=1e-4) and {"entropy", "mean_token_accuracy"} < set(found[0])


def test_a_batch_without_a_target_trains_on_nothing_and_compares_nothing(tmp_path: Path):
    family = wrapped("llava_phi")
    trainer = trainer_of(family, tmp_path)
    inputs = ForOthers(family.processor, num_frames=32)(examples(family)[:2])
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    through_head = ThroughTheHead(trainer.model, keeps=True)
    assert not does_more(trainer.model, through_head, inputs, torch.float32)
    output = through_head(**inputs, fused_lm_head=True)
    assert output.loss == 0 and not output.label_mask.any()


@pytest.mark.parametrize("targets", ["answers of several lengths", "none in a row", "none"])
def test_only_states_with_a_target_are_multiplied_with_the_vocabulary(targets: str, tmp_path: Path):
    """And what TRL makes of them is what it makes of all: the loss, its gradient, and the sums of its figures."""
    family = wrapped("llava_phi")
    model = trainer_of(family, tmp_path).model.eval()
    inputs = ForOthers(family.processor, num_frames=32)(examples(family)[:3])
    length = inputs["labels"].shape[1]
    inputs["labels"][0, -2:] = inputs["input_ids"][0, -2:]  # apart from the others of the row
    if targets != "answers of several lengths":
        inputs["labels"][slice(1, 2) if targets == "none in a row" else slice(None)] = -100
    most = int((inputs["labels"][:, 1:] != -100).sum(1).max())
    found = []
    for one in (model, WhereThereIsATarget(model)):
        output = one(**inputs, fused_lm_head=True)
        model.zero_grad()
        output.log_probs.sum().backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        sums = [output.log_probs.sum(), output.entropy.sum(), output.is_top1.sum(), output.label_mask.sum()]
        found.append([output.loss, *sums, torch.cat([one.flatten() for one in gradients])])
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-4)
    assert output.log_probs.shape == (3, max(1, most)) and most < length - 1
    assert found[0][-1].any().item() is (targets != "none")


def test_a_model_that_is_not_asked_for_log_probabilities_is_called_as_it_is(tmp_path: Path):
    family = wrapped("llava_phi")
    model = trainer_of(family, tmp_path).model.eval()
    inputs = ForOthers(family.processor, num_frames=32)(examples(family)[:2])
    output = WhereThereIsATarget(model)(**inputs)
    assert output.logits.shape[:2] == inputs["input_ids"].shape and output.loss > 0
