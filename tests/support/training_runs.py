"""What the tests of the trainers share: examples of clips in memory, one step by hand, distances between gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from datasets import IterableDataset
from transformers import Trainer

from promises import Wrapped


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
