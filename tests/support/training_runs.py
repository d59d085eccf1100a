"""What the tests of the trainers share: examples of clips in memory, one step by hand, distances between gradients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import IterableDataset
from torch import nn
from transformers import Trainer

from promises import Wrapped
from transformers_linvt import LinVTDataCollator, LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.collator import BOOKKEEPING_KEYS
from transformers_linvt.training.lora import lora_config


CAPTIONS = ("a cat", "two red cars on a road", "rain", "she opens the door", "an apple falls")
FRAMES = (3, 5, 4, 3, 6)
# Float32 sums in another order.
ROUNDING = 1e-5


def examples(family: Wrapped, captions: tuple[str, ...] = CAPTIONS) -> list[dict[str, Any]]:
    """Clips of different length with captions of different length."""
    return [
        {"prompt": "Describe it.", "completion": caption, "video": family.clip(FRAMES[i], i)}
        for i, caption in enumerate(captions)
    ]


def rows_again(rows: tuple[dict[str, Any], ...], times: int) -> Iterator[dict[str, Any]]:
    for _ in range(times):
        yield from rows


def stream(rows: list[dict[str, Any]], times: int = 1) -> IterableDataset:
    """Rows as a stream, which leaves frames in memory as they are. A list would be taken for a list of shards."""
    return IterableDataset.from_generator(rows_again, gen_kwargs={"rows": tuple(rows), "times": times})


class ForOthers(LinVTDataCollator):
    """The collator without what it keeps for our own trainers."""

    def __call__(self, examples: Any) -> dict[str, Any]:
        return {name: value for name, value in super().__call__(examples).items() if name not in BOOKKEEPING_KEYS}


def step(trainer: Trainer, *batches: list[dict[str, Any]]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of one step over some batches, as transformers makes it."""
    trainer.current_gradient_accumulation_steps = len(batches)
    collated = [trainer.data_collator(batch) for batch in batches]
    items = trainer._get_num_items_in_batch(collated, trainer.args.device)
    trainer.model.zero_grad()
    loss = sum(trainer.training_step(trainer.model, batch, items).item() for batch in collated)
    return loss, {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Length of the difference of all gradients as a share of the length of the expected ones."""
    assert found.keys() == expected.keys()
    difference = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    return (difference / sum(float(value.square().sum()) for value in expected.values())) ** 0.5


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def check_trains_the_loss_of_forward(family: Wrapped, folder: Path, with_lora: bool = True) -> LinVTSFTTrainer:
    """
    The loss of the trainer is the one that `forward` gives for the same batch, and so are its gradients.

    Returns:
        The trainer.
    """
    torch.manual_seed(0)
    trainer = LinVTSFTTrainer(
        family.model,
        LinVTSFTConfig(str(folder), max_steps=1, report_to="none", use_cpu=True, bf16=False, num_frames=32),
        train_dataset=stream(examples(family), 9),
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0) if with_lora else None,
    )
    batch = trainer.data_collator(examples(family)[:3])
    for_forward = {key: value for key, value in batch.items() if key not in BOOKKEEPING_KEYS}
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    found = gradients(trainer.model, loss)
    own = trainer.model(**for_forward).loss
    assert loss.item() == pytest.approx(own.item(), rel=ROUNDING)
    error = relative_error(found, gradients(trainer.model, own))
    assert error < ROUNDING, f"gradients {error:.1e} apart"
    assert any(".linvt." in name for name in found) and any("lora_" in name for name in found) is with_lora
    return trainer


def check_accumulation(trainer: Trainer, rows: list[dict[str, Any]]) -> None:
    """
    Four examples as 4x1, 2x2 and 1x4 give one loss and one gradient, under any trainer.

    The answers have to differ in length: of equal ones a mean of means is the mean.
    """
    assert len(rows) == 4 and len({len(row["completion"]) for row in rows}) == 4
    trainer.model.train()
    loss, whole = step(trainer, rows)
    assert any(".linvt." in name for name in whole)
    for size in (2, 1):
        parts = [rows[start : start + size] for start in range(0, 4, size)]
        parts_loss, found = step(trainer, *parts)
        assert parts_loss == pytest.approx(loss, rel=ROUNDING)
        assert relative_error(found, whole) < ROUNDING
