"""LightOnOCR, which leaves out the last row and column of patches where their number is odd."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FrameLayout


@dataclass(frozen=True)
class WholeSquares(FrameLayout):
    """A row per frame; of its patches whole squares alone become tokens."""

    grid_input: str = "image_sizes"

    def grid(self, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        side = base.config.vision_config.patch_size * base.config.spatial_merge_size
        height, width = inputs[self.grid_input][0].tolist()
        return height // side, width // side


built_in(BaseBridge(Family(layout=WholeSquares())), "lighton_ocr")

__all__ = ["WholeSquares"]
