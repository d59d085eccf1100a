"""How large frames are made: capped, and not enlarged, as the base's own video processor makes those of a video."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import ProcessorMixin


@dataclass(frozen=True)
class FrameBudget:
    """
    Tokens that frames may have, for a base whose tokens per frame follow from the size of the frame.

    The numbers of a family are those of its own video processor in transformers (5.23).

    Args:
        per_frame (`int`, *optional*): most tokens of one frame.
        total (`int`, *optional*): most tokens of all frames of a video together.
        counts_time:
            Whether the image processor's `size` counts the pixels of a patch's copies of a frame as well (GLM-4V).
    """

    per_frame: int | None = None
    total: int | None = None
    counts_time: bool = False

    def tokens_per_frame(self, num_frames: int) -> int | None:
        """
        Most tokens of each of `num_frames` frames.

        >>> FrameBudget(768, 24_576).tokens_per_frame(16), FrameBudget(768, 24_576).tokens_per_frame(64)
        (768, 384)
        """
        limits = [self.per_frame, None if self.total is None else max(1, self.total // num_frames)]
        return min((limit for limit in limits if limit is not None), default=None)


def pixels_per_token(processor: ProcessorMixin) -> int | None:
    """Pixels of the square that becomes one token, or None where every frame has as many tokens."""
    image_processor = processor.image_processor
    size = dict(getattr(image_processor, "size", None) or {})
    sides = [getattr(image_processor, name, None) for name in ("patch_size", "merge_size")]
    pixels = [side for side in sides if isinstance(side, int)]
    if not {"shortest_edge", "longest_edge"} <= set(size) or len(pixels) < len(sides):
        return None
    return math.prod(pixels) ** 2


def size_of_square(processor: ProcessorMixin) -> dict[str, Any]:
    """
    Options of an image processor that enlarges a picture for its tiles, where a frame becomes one small square anyway.

    So do SmolVLM and Idefics3, which would make every frame 2048 pixels wide first. SmolVLM's own video path has the
    frame no larger than the square on the way.

    Returns:
        `{"size": ...}`, or nothing for an image processor of another kind.
    """
    square = getattr(processor.image_processor, "max_image_size", None)
    size = dict(getattr(processor.image_processor, "size", None) or {})
    if not isinstance(square, Mapping) or "longest_edge" not in square:
        return {}
    edges = {name: value for name, value in size.items() if value is not None}
    if set(edges) != {"longest_edge"} or edges["longest_edge"] <= square["longest_edge"]:
        return {}
    return {"size": {"longest_edge": square["longest_edge"]}}


def size_within(processor: ProcessorMixin, budget: FrameBudget, num_frames: int) -> dict[str, Any]:
    """
    Options of the image processor under which each of `num_frames` frames keeps the budget.

    A frame is never made larger than the image processor makes a picture, and never smaller than its least.

    Returns:
        `{"size": ...}`, or nothing where the budget or the tokens of a frame are not known; that of [`size_of_square`]
        where every frame has as many.
    """
    pixels, tokens = pixels_per_token(processor), budget.tokens_per_frame(num_frames)
    if pixels is None:
        return size_of_square(processor)
    if tokens is None:
        return {}
    image_processor = processor.image_processor
    size = dict(image_processor.size)
    most = tokens * pixels * (image_processor.temporal_patch_size if budget.counts_time else 1)
    longest = max(min(size["longest_edge"], most), size["shortest_edge"])
    return {} if longest == size["longest_edge"] else {"size": {**size, "longest_edge": longest}}


__all__ = ["FrameBudget", "pixels_per_token", "size_of_square", "size_within"]
