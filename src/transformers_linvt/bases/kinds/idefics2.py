"""Idefics2, whose processor writes the tokens of all tiles, whatever its options."""

from typing import Any

import numpy as np

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import FramePerSample


class Idefics2Bridge(BaseBridge):
    """Idefics2: a frame is what its resampler makes of one tile."""

    def tokens_of_frame(self, processor: Any, frame: np.ndarray) -> int:
        return processor.image_seq_len


built_in(Idefics2Bridge(Family(one_tile={"do_image_splitting": False}, layout=FramePerSample())), "idefics2")

__all__ = ["Idefics2Bridge"]
