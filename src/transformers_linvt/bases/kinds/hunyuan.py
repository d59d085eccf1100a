"""HunYuan-VL, which sets a token in front of a picture, one at the end of every line, and one behind."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import PatchGrid


@dataclass(frozen=True)
class LinesWithEnds(PatchGrid):
    """
    A row per patch. What stands between two lines counts as a first column, which the token in front begins; the end
    of the last line and the token behind belong to no cell.
    """

    def grid(self, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        side = base.config.vision_config.spatial_merge_size
        rows, columns = (length // side for length in inputs[self.grid_input][0, -2:].tolist())
        return rows, columns + 1


built_in(BaseBridge(Family(layout=LinesWithEnds(), video_type_id=0, counts_padding=True)), "hunyuan_vl")

__all__ = ["LinesWithEnds"]
