"""The model card of a training run: what `push_to_hub` of the trainers writes beside the weights."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel
from torch import nn

from ..model.model_card import make_card
from .lora import as_one_checkpoint, unwrap


# Settings that change the result, by their names in transformers' `TrainingArguments` and in ours.
REPORTED_SETTINGS = (
    "stage",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "linvt_learning_rate",
    "scorer_learning_rate",
    "lr_scheduler_type",
    "num_frames",
    "fps",
    "contrastive_weight",
    "cross_entropy_weight",
    "seed",
)


def create(
    model: nn.Module,
    *,
    repo_id: str | None = None,
    args: Any = None,
    datasets: str | Sequence[str] | None = None,
    log_history: Iterable[Mapping[str, Any]] = (),
    figures: Mapping[str, Any] | None = None,
    tags: Sequence[str] | None = None,
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> ModelCard:
    """
    The card of a model that was trained; `card.save(os.path.join(output_dir, "README.md"))` writes it.

    Args:
        model: the trained [`LinVTForVideoQA`], or the [`~peft.PeftModel`] around it.
        repo_id: where it is going to be loaded from.
        args: the training arguments: their stage and the settings of `REPORTED_SETTINGS` that they have.
        datasets: names of data sets on the Hub, or a few words on the data.
        log_history: `trainer.state.log_history`; the last evaluation and the last training loss go into the table.
        figures: further results by name.
        tags: more tags.
        license, language: see [`make_card`].
    """
    inner, has_adapter = unwrap(model), isinstance(model, PeftModel)
    settings = {name: getattr(args, name, None) for name in REPORTED_SETTINGS if name != "stage"}
    with as_one_checkpoint(inner) if has_adapter else nullcontext():
        return make_card(
            inner.config,
            repo_id,
            stage=getattr(args, "stage", None),
            datasets=datasets,
            settings={name: getattr(value, "value", value) for name, value in settings.items() if value is not None},
            figures={**last_figures(log_history), **(figures or {})},
            tags=tags or (),
            license=license,
            language=language,
        )


def license_of_base(model: nn.Module) -> str | None:
    """
    The licence that the card of the base names, in its folder or on the Hub; None where there is none to be had.

    Args:
        model: see [`create`].
    """
    base = unwrap(model).config.base_model_name_or_path or ""
    card = os.path.join(base, "README.md") if os.path.isdir(base) else base
    if os.path.isdir(base) and not os.path.isfile(card):
        return None
    try:
        found = getattr(ModelCard.load(card, ignore_metadata_errors=True).data, "license", None)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError):
        return None
    return found if isinstance(found, str) else None


def last_figures(log_history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of the training loss and of every evaluation metric in a trainer's log."""
    last: dict[str, float] = {}
    for entry in log_history:
        for name, value in entry.items():
            is_wanted = name in ("loss", "train_loss") or name.startswith("eval_")
            if is_wanted and isinstance(value, int | float) and "per_second" not in name and "runtime" not in name:
                last[name] = value
    return last


__all__ = ["create", "last_figures", "license_of_base"]
