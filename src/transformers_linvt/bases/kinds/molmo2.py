"""Molmo2, which sees every picture twice: as a whole, and in crops whose patches it pools by a list of indices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FrameLayout


@dataclass(frozen=True)
class Molmo2View(FrameLayout):
    """
    A row per frame in all inputs but the pooling, which has a row per token.

    Of a frame the view of the whole is taken, as of the frames of Molmo2's own video path. With one crop
    (`max_crops=1`) that crop would hold the same pixels again, and its tokens would be the same numbers again.
    """

    splits_pictures = True

    @property
    def needed(self) -> tuple[str, ...]:
        return ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops")

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """The first crop of every frame, its rows and columns, and the indices of its patches."""
        grids, crops = inputs["image_grids"], inputs["image_num_crops"]
        num_tokens, num_all = grids[:, 0] * grids[:, 1], grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]
        patches, before = inputs["pixel_values"].shape[1], crops.cumsum(0) - crops
        pooling = []
        for frame, rows in enumerate(inputs["image_token_pooling"].split(num_all.tolist())):
            whole = rows[: num_tokens[frame]]
            pooling.append(torch.where(whole >= 0, whole - patches * (before[frame] - frame), whole))
        return {
            **inputs,
            "pixel_values": inputs["pixel_values"][before],
            "image_token_pooling": torch.cat(pooling),
            "image_grids": torch.cat([grids[:, :2], torch.zeros_like(grids[:, 2:])], dim=1),
            "image_num_crops": torch.ones_like(crops),
        }

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        rows, grids = super().count_rows(inputs, num_frames), inputs["image_grids"]
        return {**rows, "image_token_pooling": (grids[:, 0] * grids[:, 1]).tolist()}

    def slice(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """With indices that count patches from the first frame of the slice, not of the video."""
        chunk = super().slice(inputs, rows, start, stop)
        patches, pooling = inputs["pixel_values"].shape[1] * start, chunk["image_token_pooling"]
        return {**chunk, "image_token_pooling": torch.where(pooling >= 0, pooling - patches, pooling)}

    def grid(self, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        rows, columns = inputs["image_grids"][0, :2].tolist()
        return rows, columns


built_in(BaseBridge(Family(one_tile={"max_crops": 1}, layout=Molmo2View(), begins_with_bos=True)), "molmo2")

__all__ = ["Molmo2View"]
