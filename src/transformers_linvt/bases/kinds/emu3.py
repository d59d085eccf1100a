"""Emu3, which writes a picture as the codes of a codebook, with a code for the end of every line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FrameLayout


@dataclass(frozen=True)
class LinesOfCodes(FrameLayout):
    """A row per frame; the end of a line counts as one column more."""

    grid_input: str = "image_sizes"

    def grid(self, base: Any, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        side = base.base_model.vqmodel.vision_spatial_factor
        height, width = inputs[self.grid_input][0].tolist()
        return height // side, width // side + 1


built_in(
    BaseBridge(
        # Told where the channels are, its image processor looks for the size of a picture in the wrong place (5.23).
        Family(one_tile={"input_data_format": None}, begins_with_bos=True, layout=LinesOfCodes())
    ),
    "emu3",
)

__all__ = ["LinesOfCodes"]
