"""Qwen Omni, whose thinker places everything at picture placeholders by a grid, whatever the type ids say."""

from typing import Any

import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..frame_size import FrameBudget
from ..layouts import PatchGrid
from ..positions import grids_with_videos


class QwenOmniBridge(BaseBridge):
    """The thinker of Qwen2.5 Omni and Qwen3 Omni: a video needs a grid too."""

    def place_videos(
        self, base: PreTrainedModel, is_video: torch.Tensor, used: torch.Tensor, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        grid = self.family.layout.grid_input
        return {**inputs, grid: grids_with_videos(base, is_video, used, inputs.get(grid))}


built_in(
    QwenOmniBridge(Family(layout=PatchGrid(merges_frames="colour_first"), frame_budget=FrameBudget(768, 230_400))),
    "qwen2_5_omni_thinker",
    "qwen3_omni_moe_thinker",
)

__all__ = ["QwenOmniBridge"]
