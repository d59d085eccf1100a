"""What video features come from: digests of the model that made them and of what it saw."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..bases.layouts import FRAME_PREFIX
from .repeated_frames import IS_NEW


_TIMES, _REPEATS = "video_timestamps", "repeats"
_SAMPLED = 64  # values of every weight of the vision tower that count; ours: a few thousand numbers tell models apart


class VideoDigest:
    """
    A digest of the prepared frames and their times: other for another video, sampling or processor,
    and the same however the frames are cut into pieces.

    Args:
        timestamps (`torch.Tensor`, *optional*): the times of all frames in seconds.

    Example:

    >>> whole, in_pieces = VideoDigest(None), VideoDigest(None)
    >>> whole.feed({"frame_pixel_values": torch.zeros(2, 3)})
    >>> for _ in range(2):
    ...     in_pieces.feed({"pixel_values": torch.zeros(1, 3)})
    >>> whole.hexdigest() == in_pieces.hexdigest()
    True
    """

    def __init__(self, timestamps: torch.Tensor | None) -> None:
        self._digests: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}
        self._num_frames = 0
        if timestamps is not None:
            self.feed({_TIMES: timestamps})

    def feed(self, inputs: Mapping[str, Any]) -> None:
        """The inputs of the next frames; the first axis of every tensor goes on where the last ended."""
        inputs = dict(inputs)
        if (is_new := inputs.pop(IS_NEW, inputs.pop(FRAME_PREFIX + IS_NEW, None))) is not None:
            repeats = torch.as_tensor(is_new).logical_not().nonzero()[:, 0].cpu() + self._num_frames
            self._num_frames += len(is_new)
            inputs |= {_REPEATS: repeats} if len(repeats) else {}  # a video without any is as if nobody had looked
        for name, value in inputs.items():
            name = name.removeprefix(FRAME_PREFIX)
            value = torch.as_tensor(value).detach().cpu().contiguous()
            if name not in self._digests:
                start = f"{name} {value.dtype} {tuple(value.shape[1:])} ".encode()
                self._digests[name], self._lengths[name] = hashlib.blake2b(start, digest_size=16), 0
            self._digests[name].update(value.reshape(-1).view(torch.uint8).numpy())
            self._lengths[name] += len(value)

    def hexdigest(self) -> str:
        """32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(self._digests):
            digest.update(f"{self._lengths[name]} ".encode() + self._digests[name].digest())
        return digest.hexdigest()


def digest_of_model(model: Any) -> str | None:
    """
    A digest of all of LinVT's weights, and of some numbers of every weight of the base that frames go through.

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
