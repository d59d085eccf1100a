"""Which parts of a base leave out numbers at random while training: a frozen base would only train LinVT on noise."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel


# LoRA has a dropout of its own inside the base's layers, which is asked for.
_OF_ADAPTERS = "lora_"


def modules_with_dropout(base: PreTrainedModel) -> Iterator[nn.Module]:
    """
    The modules of a base that drop anything in training mode, by a layer, a rate of their own or their config's.

    Modules of an adapter (LoRA) are left out. Each is meant without its children.
    """
    for name, module in base.named_modules():
        if _OF_ADAPTERS not in name and _drops(module):
            yield module


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if any(_is_rate(name, value) for name, value in vars(module).items()):
        return True
    # attention that reads the rate off its config when it runs
    config = getattr(module, "config", None)
    if config is None or isinstance(module, PreTrainedModel) or "attention" not in type(module).__name__.lower():
        return False
    return any(_is_rate(name, value) for name, value in vars(config).items())


def _is_rate(name: str, value: object) -> bool:
    return "drop" in name and isinstance(value, float) and value > 0


__all__ = ["modules_with_dropout"]
