"""
The stages of training as data: which parameters move, by name.

Two stages as in the paper: alignment moves LinVT alone, instruction tuning LinVT and adapters of the language model.
Vision tower and projector never move by themselves; what a PEFT configuration asks for moves, or is refused.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
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
        adapters (`bool`): whether all that PEFT lets move moves (LoRA, rows of tokens, biases, `modules_to_save`).
    """

    name: str
    trainable: tuple[str, ...]
    needed: tuple[str, ...] = (_LINVT,)
    adapters: bool = False

    def moves(self, parameter_name: str) -> bool:
        """Whether a parameter of this name is trained."""
        return any(re.search(pattern, parameter_name) for pattern in self.trainable)


STAGES = {
    "align": Stage("align", (_LINVT, _HEAD)),
    "instruct": Stage("instruct", (_LINVT, r"\.lora_"), adapters=True),
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


def apply_stage(model: nn.Module, stage: "str | Stage") -> dict[str, Any]:
    """
    Let exactly the parameters of a stage move, and bring them to float32.

    Updates are small against the weights: in bfloat16 most of them would be rounded away. LinVT computes in the dtype
    of its weights, and its tokens go to the language model in the base's dtype.

    Args:
        model: a [`LinVTForVideoQA`], maybe with PEFT around it.
        stage (`str` or [`Stage`]): of `STAGES`.

    Returns:
        `dict`: the numbers of `trainable` and of all parameters (`total`), and those that move by kind (`kinds`).

    Raises:
        `LinVTInputError`: an unknown stage, a model without the parameters that it moves, or parameters that were set
            to train and that the stage would freeze, or train without their being saved.
    """
    stage = find_stage(stage)
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    moves = {
        name
        for name, parameter in model.named_parameters()
        if (stage.moves(name) or (stage.adapters and name in asked and isinstance(model, PeftModel)))
        and not _is_of_linvt_and_rests(name, stage)
        and (parameter.is_floating_point() or parameter.is_complex())
    }
    _check_needed(model, stage, moves)
    _check_asked(stage, sorted(name for name in asked - moves if not _is_of_linvt(name)))
    _check_saved(model, moves)
    kinds: Counter[str] = Counter()
    total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        parameter.requires_grad_(name in moves)
        if name in moves:
            kinds[_kind(name)] += parameter.numel()
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()
    counts = {"trainable": kinds.total(), "total": total, "kinds": dict(kinds)}
    logger.info(what_moves(stage.name, counts))
    return counts


def what_moves(stage: str, counts: Mapping[str, Any]) -> str:
    """
    What [`apply_stage`] returned, as a line.

    >>> what_moves("instruct", {"trainable": 1500, "total": 20000, "kinds": {"LinVT": 1200, "lora_A": 300}})
    'Stage instruct moves 1,500 of 20,000 parameters: LinVT 1,200, lora_A 300.'
    """
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in counts["kinds"].items())
    return f"Stage {stage} moves {counts['trainable']:,} of {counts['total']:,} parameters: {kinds}."


def _check_needed(model: nn.Module, stage: Stage, moves: Collection[str]) -> None:
    for pattern in stage.needed:
        if not any(re.search(pattern, name) for name in moves):
            raise LinVTInputError(
                f"Stage {stage.name!r} has nothing to train: no parameter of {type(model).__name__} matches "
                f"{pattern!r}. Pass a LinVTForVideoQA, with modules_to_save=['linvt'] in a PEFT config (lora_config)."
            )


def _check_asked(stage: Stage, frozen: Sequence[str]) -> None:
    """Nothing that was set to train is frozen without a word."""
    if frozen:
        raise LinVTInputError(
            f"{len(frozen)} parameters were set to train, such as {frozen[0]!r}, and stage {stage.name!r} keeps them "
            "as they are. Freeze them (requires_grad_(False)), take the adapter off, choose stage='instruct' for an "
            "adapter, or pass a Stage that moves them."
        )


def _check_saved(model: nn.Module, moves: Collection[str]) -> None:
    """What moves beside LinVT is saved by PEFT, or with the base."""
    if isinstance(model, PeftModel):
        saved = {value.data_ptr() for value in get_peft_model_state_dict(model).values()}
        lost = [name for name, value in model.named_parameters() if name in moves and value.data_ptr() not in saved]
        remedy = "Put modules_to_save=['linvt'] (lora_config does) and what else should train into the PEFT config"
    else:
        config = getattr(model, "config", None)
        lost = [] if getattr(config, "includes_base", False) else [one for one in moves if not _is_of_linvt(one)]
        remedy = "Train them with an adapter, or set model.config.includes_base = True, which saves the base too"
    if lost:
        raise LinVTInputError(
            f"{len(lost)} parameters would be trained and not be saved, such as {min(lost)!r}. {remedy}."
        )


def _is_of_linvt(name: str) -> bool:
    return re.search(r"(^|\.)linvt\.", name) is not None


def _is_of_linvt_and_rests(name: str, stage: Stage) -> bool:
    """Whether PEFT lets a part of LinVT move that the stage does not: the head of another stage, a frozen twin."""
    return _is_of_linvt(name) and not stage.moves(name)


def _kind(name: str) -> str:
    """How a log line calls the kind of a parameter."""
    if re.search(_HEAD, name):
        return "contrastive head"
    if _is_of_linvt(name):
        return "LinVT"
    if copied := re.search(r"([^.]+)\.modules_to_save\.", name):
        return copied[1]
    if inserted := re.search(r"\.((?:lora|ia3|trainable_tokens)_\w+)", name):
        return inserted[1]
    return "biases" if name.endswith(".bias") else name.rpartition(".")[0]


def find_linvt(model: nn.Module) -> LinearVideoTokenizer:
    """
    The tokenizer that trains inside a model, whatever wraps it (PEFT keeps a frozen twin beside it; DDP, FSDP).

    Raises:
        `ValueError`: if the model holds no LinVT.
    """
    found = [module for module in model.modules() if isinstance(module, LinearVideoTokenizer)]
    training = [module for module in found if any(parameter.requires_grad for parameter in module.parameters())]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no LinearVideoTokenizer. Pass a LinVTForVideoQA.")
    return (training or found)[-1]
