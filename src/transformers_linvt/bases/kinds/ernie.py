"""ERNIE 4.5 VL, whose experts are told by further type ids which tokens are a picture's."""

from collections.abc import Sequence
from typing import Any

from ..base import BaseBridge, built_in
from ..families import Family
from ..frame_size import FrameBudget
from ..layouts import PatchGrid


class ErnieBridge(BaseBridge):
    """ERNIE 4.5 VL; to its experts a video is a picture."""

    def type_ids(self, processor: Any, ids: Sequence[Sequence[int]], *args: Any, **kwargs: Any) -> Any:
        types = super().type_ids(processor, ids, *args, **kwargs)
        if types:
            types["moe_mm_token_type_ids"] = [processor.create_moe_mm_token_type_ids([list(row)])[0] for row in ids]
        return types


built_in(
    ErnieBridge(
        Family(
            layout=PatchGrid(),
            video_type_id=0,
            frame_budget=FrameBudget(1196),
            notes=("generate() fails with use_cache=False, with and without LinVT",),
        )
    ),
    "ernie4_5_vl_moe",
)

__all__ = ["ErnieBridge"]
