"""What is checked before the first step, so that no run trains for hours towards nothing."""

from collections.abc import Mapping
from typing import Any

from datasets import IterableDataset
from transformers.trainer_utils import has_length

from ..errors import LinVTInputError
from ..model.modeling_linvt import LinVTForVideoQA
from ..model.processing_linvt import LinVTProcessor


def check_agreement(model: LinVTForVideoQA, processor: Any) -> None:
    """
    Whether a processor makes what a model takes.

    Raises:
        `LinVTInputError`: it is of another base, has another number of video tokens, or no chat template.
    """
    if not isinstance(processor, LinVTProcessor):
        raise LinVTInputError(f"processing_class must be a LinVTProcessor, not a {type(processor).__name__}.")
    processor.check_fits(model.config)
    if processor.chat_template is None:
        raise LinVTInputError(
            "The base has no chat template, so it is not known how a question is asked. Set processor.chat_template, "
            "or train from a base that was tuned to chat."
        )


def check_has_steps(args: Any, train_dataset: Any) -> None:
    """
    Whether the training has a step to make, as far as that can be known.

    Args:
        args ([`LinVTSFTConfig`]).
        train_dataset: a dataset, or a stream of unknown length.

    Raises:
        `LinVTInputError`: fewer examples than a batch where smaller batches are left out, or a stream without
            `max_steps`.
    """
    if not has_length(train_dataset) or isinstance(train_dataset, IterableDataset):
        if args.max_steps <= 0:
            raise LinVTInputError("A stream has no length, so the run would not know its end. Set max_steps.")
        return
    batch = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(train_dataset) < batch:
        raise LinVTInputError(
            f"There are {len(train_dataset)} examples to train on and a batch has {batch} "
            f"({_as_product(args.per_device_train_batch_size, args)}). dataloader_drop_last=True leaves smaller "
            f"batches out, so nothing would be trained. Set per_device_train_batch_size to at most "
            f"{len(train_dataset) * args.per_device_train_batch_size // batch}, or bring more examples."
        )


def check_has_figures(args: Any, eval_datasets: Mapping[str, Any]) -> None:
    """
    Whether evaluation has a batch to evaluate on.

    Args:
        args ([`LinVTSFTConfig`]).
        eval_datasets: by name.

    Raises:
        `LinVTInputError`: fewer examples than a batch where smaller batches are left out.
    """
    batch = args.eval_batch_size * args.world_size
    for name, dataset in eval_datasets.items():
        if args.dataloader_drop_last and has_length(dataset) and len(dataset) < batch:
            raise LinVTInputError(
                f"The dataset {name!r} to evaluate on has {len(dataset)} examples and a batch has {batch} "
                f"({_as_product(args.per_device_eval_batch_size, args)}). dataloader_drop_last=True leaves smaller "
                f"batches out, so there would be no figures. Set per_device_eval_batch_size to at most "
                f"{len(dataset) * args.per_device_eval_batch_size // batch}."
            )


def _as_product(per_device: int, args: Any) -> str:
    return f"{per_device} per device x {max(1, args.n_gpu) * args.world_size} devices"


def named_datasets(eval_dataset: Any) -> dict[str, Any]:
    """The datasets to evaluate on, by name: none, one, or several that have names already."""
    if eval_dataset is None:
        return {}
    return dict(eval_dataset) if isinstance(eval_dataset, Mapping) else {"eval": eval_dataset}
