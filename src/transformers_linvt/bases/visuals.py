"""Visual tokens in the containers of the base: what its image encoder gives, and what its head takes."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


PICTURES = {"pixel_values", "pixel_values_images"}  # names of the pictures themselves; the second is Video-LLaVA's


def image_encoder(base: PreTrainedModel) -> Any:
    """`get_image_features` of the backbone, or of the head where only that has it."""
    for module in (base.base_model, base):
        if callable(encoder := getattr(module, "get_image_features", None)):
            return encoder
    return None


def encoder_inputs(base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `inputs` that the base's image encoder takes."""
    accepted = inspect.signature(image_encoder(base)).parameters
    return {name: value for name, value in inputs.items() if name in accepted and value is not None}


@dataclass
class EncodedVisuals(BaseModelOutputWithPooling):
    """What the base finds in `mm_encoder_outputs["image"]`: tokens in placeholder order, in its own container."""

    deepstack_features: list | None = None
    router_logits: torch.Tensor | None = None  # of Granite Docling, which reads them whatever they are
    visual_indicator_features: torch.Tensor | None = None


def pack_visuals(
    tokens: torch.Tensor,
    deepstack: Sequence[torch.Tensor],
    lengths: Sequence[int],
    container: str,
) -> EncodedVisuals:
    """
    Visual tokens of a batch, in placeholder order -> the base's container.

    Args:
        tokens (`torch.Tensor` of shape `(total, D)`).
        deepstack: tensors of the same shape, one per deep layer.
        lengths: tokens of each group; a row of the batch holds whole groups. Their sum is `total`.
        container: `"tensor"`, `"list"` or `"tuple"`.
    """
    if container == "tensor":
        # One tensor needs groups of one size; beam search repeats whole groups, so they may not cross rows.
        return EncodedVisuals(pooler_output=tokens.reshape(-1, math.gcd(*lengths), tokens.shape[-1]))
    pack: Any = tuple if container == "tuple" else list
    layers: list[Any] = [pack(layer.split(list(lengths))) for layer in deepstack]
    return EncodedVisuals(pooler_output=pack(tokens.split(list(lengths))), deepstack_features=layers or None)


def encode_images(base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
    """What the base's image encoder makes of its inputs: tokens, the same per deep layer, and their container."""
    output = image_encoder(base)(**encoder_inputs(base, inputs), return_dict=True)
    features, layers = output.pooler_output, getattr(output, "deepstack_features", None) or []
    return features, list(layers), container_of(features)


def container_of(features: Any) -> str:
    """How visual tokens of several pictures are packed: `"tensor"`, `"list"` or `"tuple"`."""
    return type(features).__name__ if isinstance(features, list | tuple) else "tensor"


def flat_rows(features: Any) -> torch.Tensor:
    """Visual tokens in any container -> one row per token, `(total, D)`."""
    if isinstance(features, list | tuple):
        features = torch.cat(list(features))
    return features.reshape(-1, features.shape[-1])


__all__ = [
    "PICTURES",
    "EncodedVisuals",
    "container_of",
    "encode_images",
    "encoder_inputs",
    "flat_rows",
    "image_encoder",
    "pack_visuals",
]
