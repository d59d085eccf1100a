"""
The stages of training as data: which parameters move, by name.

Two stages as in the paper: alignment moves LinVT alone, instruction tuning LinVT and adapters of the language model.
Vision tower and projector never move.
"""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import logging

from ..errors import LinVTInputError
from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizer


logger = logging.get_logger(__name__)

# PEFT keeps the module as it was beside the copy that it trains; that one stays as it is.
_COPY = r"(modules_to_save\.[^.]+\.)?"
_LINVT = rf"(^|\.)linvt\.{_COPY}(?!original_module\.|modules_to_save\.|contrastive_head\.)"
_HEAD = rf"(^|\.)linvt\.{_COPY}contrastive_head\."


@dataclass(frozen=True)
class Stage:
    """
    What moves in a stage.

    Args:
        name (`str`): of the stage.
        trainable (`tuple[str, ...]`): regular expressions; a parameter moves if one is found in its name.
        needed (`tuple[str, ...]`): those that must be found at least once.
    """

    name: str
    trainable: tuple[str, ...]
    needed: tuple[str, ...] = (_LINVT,)

    def moves(self, parameter_name: str) -> bool:
        """Whether a parameter of this name is trained."""
        return any(re.search(pattern, parameter_name) for pattern in self.trainable)


STAGES = {
    "align": Stage("align", (_LINVT, _HEAD)),
    "instruct": Stage("instruct", (_LINVT, r"\.lora_", r"\.lora_magnitude_vector")),
    "linvt": Stage("linvt", (_LINVT,)),
}


def find_stage(name: "str | Stage") -> Stage:
    """
    The stage of a name.

    Raises:
        `LinVTInputError`: for an unknown one.
    """
    if isinstance(name, Stage):
        return name
    if name not in STAGES:
        raise LinVTInputError(f"stage={name!r} is no stage. Use one of {', '.join(map(repr, STAGES))}, or a Stage.")
    return STAGES[name]


def apply_stage(model: nn.Module, stage: "str | Stage") -> dict[str, int]:
    """
    Let exactly the parameters of a stage move, and bring them to float32.

    Updates are small against the weights: in bfloat16 most of them would be rounded away. LinVT computes in the dtype
    of its weights, and its tokens go to the language model in the base's dtype.

    Args:
        model: a [`LinVTForVideoQA`], maybe with PEFT around it.
        stage (`str` or [`Stage`]): of `STAGES`.

    Returns:
        `dict[str, int]`: the numbers of `trainable` and of all parameters.

    Raises:
        `LinVTInputError`: an unknown stage, or a model without the parameters that it moves.
    """
    stage = find_stage(stage)
    trainable, total = 0, 0
    names = []
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        moves = stage.moves(name) and (parameter.is_floating_point() or parameter.is_complex())
        parameter.requires_grad_(moves)
        if moves:
            names.append(name)
            trainable += parameter.numel()
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
    for pattern in stage.needed:
        if not any(re.search(pattern, name) for name in names):
            raise LinVTInputError(
                f"Stage {stage.name!r} has nothing to train: no parameter of {type(model).__name__} matches "
                f"{pattern!r}. Pass a LinVTForVideoQA, with modules_to_save=['linvt'] in a PEFT config (lora_config)."
            )
    logger.info(f"Stage {stage.name}: {trainable:,} of {total:,} parameters move.")
    return {"trainable": trainable, "total": total}


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
