"""Moments: the stretches of a video that an answer depended on, from numbers per frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


_SAME_MOMENT = 0.5  # a frame belongs to a moment with at least this share of its strongest frame; ours
_WORTH_NAMING = 0.1  # a moment is one with at least this share of the strongest moment; ours


class Moment(NamedTuple):
    """
    A stretch of a video, in seconds, its strongest frame and that frame's second, and its share of all there is.
    """

    start: float
    end: float
    seconds: float
    index: int
    share: float


def moments_of(values: np.ndarray, timestamps: Sequence[float] | np.ndarray, count: int = 3) -> list[Moment]:
    """
    Up to `count` moments, the strongest first.

    A moment is the strongest frame that no earlier moment has, with its neighbours that have at least half of it. A
    frame lasts until the next one begins, the last one as long as the one before it.

    Args:
        values (`np.ndarray` of shape `(num_frames,)`): what the answer owes to every frame; what is negative counts 0.
        timestamps (`(num_frames,)`): seconds of the frames, ascending.
        count (`int`, defaults to 3): the most moments.

    Example:

    >>> moments_of(np.array([0.0, 0.1, 0.4, 0.3, 0.0, 0.2]), [0, 1, 2, 3, 4, 5])[0]
    Moment(start=2.0, end=4.0, seconds=2.0, index=2, share=0.7)
    """
    left = np.maximum(np.asarray(values, dtype=np.float64), 0.0)
    total, times = left.sum(), np.asarray(timestamps, dtype=np.float64)
    last = times[-1] - times[-2] if len(times) > 1 else 0.0
    ends = np.append(times[1:], times[-1] + last)
    is_taken, found = np.zeros(len(left), dtype=bool), []
    while len(found) < count and not is_taken.all():
        peak = int(np.where(is_taken, -1.0, left).argmax())
        if left[peak] <= 0 or (found and left[peak] < _WORTH_NAMING * left[found[0].index]):
            break
        belongs = (left >= _SAME_MOMENT * left[peak]) & ~is_taken
        first = stop = peak
        while first > 0 and belongs[first - 1]:
            first -= 1
        while stop + 1 < len(left) and belongs[stop + 1]:
            stop += 1
        stretch = slice(first, stop + 1)
        is_taken[stretch] = True
        share = round(float(left[stretch].sum() / total), 6)
        found.append(Moment(float(times[first]), float(ends[stop]), float(times[peak]), peak, share))
    return found


__all__ = ["Moment", "moments_of"]
