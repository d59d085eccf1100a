"""Ovis2, whose image encoder also says what stands at the markers around a picture."""

from typing import Any

import torch

from ..base import BaseBridge, built_in
from ..families import Family


class Ovis2Bridge(BaseBridge):
    """Ovis2."""

    def hand_over(self, base: Any, *args: Any) -> dict[str, Any]:
        """As the common kind, with the markers."""
        prepared = super().hand_over(base, *args)
        prepared["mm_encoder_outputs"]["image"].visual_indicator_features = visual_indicators(base)
        return prepared


def visual_indicators(base: Any) -> torch.Tensor:
    """What stands at the markers around a picture: `(markers, D)`."""
    # The same for every picture, and not kept with encoded videos: the last rows of a table of visual words.
    table = base.base_model.visual_embeddings_table
    first = table.num_embeddings - base.config.vision_config.num_visual_indicator_tokens
    return table(torch.arange(first, table.num_embeddings, device=table.weight.device))


built_in(Ovis2Bridge(Family(one_tile={"crop_to_patches": False})), "ovis2")

__all__ = ["Ovis2Bridge"]
