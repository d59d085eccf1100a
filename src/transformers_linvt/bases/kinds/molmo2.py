"""Molmo2, which sees every picture twice: as a whole, and in crops whose patches it pools by a list of indices."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FrameLayout


@dataclass(frozen=True)
class Molmo2Crops(FrameLayout):
    """A row per crop in the pixels, a row per token in the pooling, a row per frame in everything else."""

    splits_pictures = True

    @property
    def needed(self) -> tuple[str, ...]:
        return ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops")

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        rows, grids = super().count_rows(inputs, num_frames), inputs["image_grids"]
        rows["pixel_values"] = inputs["image_num_crops"].tolist()
        rows["image_token_pooling"] = (grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]).tolist()
        return rows

    def slice(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """With indices that count patches from the first frame of the slice, not of the video."""
        chunk = super().slice(inputs, rows, start, stop)
        patches = inputs["pixel_values"].shape[1] * sum(rows["pixel_values"][:start])
        pooling = chunk["image_token_pooling"]
        return {**chunk, "image_token_pooling": torch.where(pooling >= 0, pooling - patches, pooling)}


built_in(BaseBridge(Family(one_tile={"max_crops": 1}, layout=Molmo2Crops(), begins_with_bos=True)), "molmo2")

__all__ = ["Molmo2Crops"]
