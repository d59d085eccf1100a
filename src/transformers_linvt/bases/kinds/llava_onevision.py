"""LLaVA-OneVision, which splits a lone picture of a prompt into tiles, and none of several."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FrameLayout


_FEWEST = 2  # pictures of one sample, that none of them is split


@dataclass(frozen=True)
class PicturesOfOneSample(FrameLayout):
    """A row per frame; all frames of a video, and of a slice of it, are pictures of one sample, two at least."""

    splits_pictures = True

    def names(self, names: frozenset[str]) -> frozenset[str]:
        """Without `batch_num_images`, which says which pictures belong together: see [`slice`]."""
        return super().names(names) - {"batch_num_images"}

    def nested(self, frames: list[np.ndarray]) -> list[Any]:
        return [frames + [frames[-1]] * (_FEWEST - len(frames))]

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        return {name: value if name == "batch_num_images" else value[:num_frames] for name, value in inputs.items()}

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        return {name: [1] * num_frames for name in inputs if name != "batch_num_images"}

    def slice(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """The last frame repeated where there are too few of them, and their number."""
        chunk = super().slice(inputs, rows, start, stop)
        repeats = max(0, _FEWEST - (stop - start))
        chunk = {
            name: torch.cat([value, value[-1:].expand(repeats, *value.shape[1:])]) for name, value in chunk.items()
        }
        return {**chunk, "batch_num_images": torch.tensor([stop - start + repeats])}

    def by_frame(self, base: PreTrainedModel, features: Any, num_frames: int) -> torch.Tensor:
        return super().by_frame(base, features, max(num_frames, _FEWEST))[:num_frames]


built_in(BaseBridge(Family(layout=PicturesOfOneSample())), "llava_onevision")

__all__ = ["PicturesOfOneSample"]
