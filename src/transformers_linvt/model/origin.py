"""What video features come from: digests of the model that made them and of what it saw."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


_SAMPLED = 64  # values of every weight of the vision tower that count; ours: a few thousand numbers tell models apart


def digest_of_video(inputs: Mapping[str, Any], timestamps: torch.Tensor | None) -> str:
    """
    Of the frames as the image processor gave them, and their times: other for another video, sampling or processor.

    Args:
        inputs: what the processor made of the frames.
        timestamps (`torch.Tensor`, *optional*): their times in seconds.

    Returns:
        32 hexadecimal digits.

    Example:

    >>> frames = {"frame_pixel_values": torch.zeros(2, 3)}
    >>> digest_of_video(frames, None) == digest_of_video(frames, torch.tensor([0.0, 1.0]))
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    tensors = {**inputs, **({} if timestamps is None else {"video_timestamps": timestamps})}
    for name, value in sorted(tensors.items()):
        value = torch.as_tensor(value).detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_model(model: Any) -> str | None:
    """
    Of all of LinVT's weights, and of some numbers of every weight of the base that frames go through.

    Weights count as they are in bfloat16, so that a model in float32 is the same as in bfloat16. It is computed again
    when a weight has changed.

    Args:
        model ([`LinVTModel`]).

    Returns:
        32 hexadecimal digits; None for a model in float16, whose rounding is another, and for one with weights that
        are not in memory (offloaded, sharded): those cannot be compared.
    """
    language = {id(weight) for weight in model.bridge.decoder(model.base_vlm).parameters()}
    language |= {id(weight) for weight in (model.bridge.head(model.base_vlm) or nn.Identity()).parameters()}
    weights: list[tuple[str, torch.Tensor, int | None]]
    weights = [(f"linvt.{name}", weight, None) for name, weight in model.linvt.named_parameters()]
    weights += [
        (name, weight, _SAMPLED)
        for name, weight in model.base_vlm.named_parameters()
        if id(weight) not in language and weight.is_floating_point() and ".lora_" not in name
    ]
    if any(type(one) is not nn.Parameter or one.is_meta or one.dtype is torch.float16 for _, one, _ in weights):
        return None
    state = tuple((id(one), one.data_ptr(), 0 if one.is_inference() else one._version) for _, one, _ in weights)
    known = getattr(model, "_digest", None)
    if known is None or known[0] != state:
        model._digest = known = (state, _digest_of_weights(weights))
    return known[1]


def _digest_of_weights(weights: list[tuple[str, torch.Tensor, int | None]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, weight, num_values in sorted(weights, key=lambda one: one[0].replace(".base_layer.", ".")):
        values = weight.detach().reshape(-1)[:num_values].to("cpu", torch.bfloat16)
        digest.update(f"{name.replace('.base_layer.', '.')} {tuple(weight.shape)} ".encode())
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
