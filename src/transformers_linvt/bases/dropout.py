"""Which parts of a base leave out numbers at random while training: a frozen base would only train LinVT on noise."""

from torch import nn
from transformers import PreTrainedModel


# LoRA has a dropout of its own inside the base's layers, which is asked for.
_OF_ADAPTERS = "lora_"


def rest_what_is_frozen(base: PreTrainedModel) -> None:
    """
    Take out of training mode what would change, or drop, though nothing of it is trained.

    Norms that keep running averages keep them. Where no weight of the base itself has a gradient, modules that drop
    anything in training mode, by a layer, a rate of their own or their config's, drop nothing; those of an adapter
    (LoRA) do. Made once a step, so in one walk.
    """
    dropping, trains = [], False
    for name, module in base.named_modules():
        if vars(module).get("track_running_stats"):
            module.eval()
        if _OF_ADAPTERS in name:
            continue
        weights = module._parameters.items()
        trains = trains or any(
            weight is not None and weight.requires_grad and _OF_ADAPTERS not in own for own, weight in weights
        )
        if _drops(module):
            dropping.append(module)
    for module in () if trains else dropping:
        module.training = False  # without its children


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


__all__ = ["rest_what_is_frozen"]
