"""
The recipe that makes training sure: what a trainer does besides lowering a loss (docs/train.md has the comparison).

A token that is not kept sends no gradient to its score. Training therefore starts with all tokens kept and lets k
shrink to `num_kept_tokens`: by then the scores know what the aggregation looked at.
"""

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..model.linear_video_tokenizer import LinearVideoTokenizer


def find_linvt(model: nn.Module) -> LinearVideoTokenizer:
    """
    The tokenizer that trains inside a model, whatever wraps it (PEFT keeps a frozen twin beside it; DDP, FSDP).

    Raises:
        `ValueError`: if there is none.
    """
    found = [module for module in model.modules() if isinstance(module, LinearVideoTokenizer)]
    training = [module for module in found if any(parameter.requires_grad for parameter in module.parameters())]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no LinearVideoTokenizer. Pass a LinVTForVideoQA.")
    return (training or found)[-1]


class SelectionSchedule(TrainerCallback):
    """
    Lets k shrink from all tokens to `num_kept_tokens`, evenly on a logarithmic scale, in the first part of training.

    Depends on the step alone, so a resumed run goes on where it stopped. Evaluation always keeps `num_kept_tokens`.

    Args:
        warmup_ratio (`float`):
            Share of the training steps in [0, 1] during which k shrinks; 0 switches the schedule off.
    """

    def __init__(self, warmup_ratio: float) -> None:
        self.warmup_ratio = warmup_ratio

    def relaxation(self, step: int, max_steps: int) -> float:
        """1 at the first step, 0 from the end of the warmup on."""
        warmup = self.warmup_ratio * max_steps
        return max(0.0, 1.0 - step / warmup) if warmup > 0 else 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set k for the step."""
        find_linvt(kwargs["model"]).selection_relaxation = self.relaxation(state.global_step, state.max_steps)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the module as it was."""
        find_linvt(kwargs["model"]).selection_relaxation = 0.0
