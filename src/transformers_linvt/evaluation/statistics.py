"""Shares of right answers with intervals, and differences between two models on the same questions; all in percent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import LinVTInputError


Z = 1.96  # of a two-sided 95 % interval of the normal distribution
NUM_DRAWS = 2000  # ours: the bounds of a bootstrap move by less than half a point between seeds


def wilson(right: float, asked: float) -> tuple[float, float]:
    """
    95 % interval of a share, in percent (Wilson, 1927): right also where the share is 0 or 100.

    >>> [round(bound, 1) for bound in wilson(95, 100)]
    [88.8, 97.8]
    """
    if not 0 <= right <= asked or not asked:
        raise LinVTInputError(f"{right} right answers of {asked} are no share. Give 0 <= right <= asked, asked > 0.")
    share = right / asked
    centre = (share + Z * Z / (2 * asked)) / (1 + Z * Z / asked)
    half = Z * math.sqrt(share * (1 - share) / asked + Z * Z / (4 * asked * asked)) / (1 + Z * Z / asked)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def clustered_interval(right: Sequence[Sequence[bool]], seed: int = 0) -> tuple[float, float]:
    """
    95 % interval of the share of right answers where several questions are about one clip, in percent.

    A bootstrap over clips: questions about one clip are right and wrong together. Where every answer is right, or
    every one wrong, a bootstrap knows no doubt; the interval is then Wilson's with as many questions as clips.

    Args:
        right: for every clip, whether each of its questions was answered rightly.
        seed: of the draws.
    """
    sums, counts = _by_clip(right)
    if sums.sum() in (0, counts.sum()):
        return wilson(len(sums) * float(sums.sum() > 0), len(sums))
    drawn = np.random.default_rng(seed).integers(len(sums), size=(NUM_DRAWS, len(sums)))
    shares = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(shares, (2.5, 97.5))
    return 100 * float(low), 100 * float(high)


@dataclass(frozen=True)
class PairedDifference:
    """
    The second model's share less the first's on the same questions, in points of a percent.

    Attributes:
        points, low, high (`float`): the difference and its 95 % interval, a bootstrap over clips.
        first, second (`float`): percent of right answers of each.
        asked (`int`): questions.
        only_first, only_second (`int`): questions that only one of them answered rightly.
        p_value (`float`): of McNemar's exact test, which takes questions for independent.
    """

    points: float
    low: float
    high: float
    first: float
    second: float
    asked: int
    only_first: int
    only_second: int
    p_value: float


def paired_difference(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], seed: int = 0
) -> PairedDifference:
    """
    How much more often the second model is right than the first, on the same questions about the same clips.

    Where every clip has the same difference, mostly none, a bootstrap knows no doubt; the interval then reaches as far
    to both sides as Wilson's does for none of as many questions as there are clips: that 12 clips show no difference
    rules out one of 25 points, and no smaller one.

    Args:
        first, second: for every clip, whether each of its questions was answered rightly; of the same shape.
        seed: of the draws.

    Raises:
        LinVTInputError: the two were not asked the same number of questions about every clip.

    Example:

    >>> paired_difference([[True], [False]] * 50, [[True], [True]] * 50).points
    50.0
    """
    if list(map(len, first)) != list(map(len, second)) or not len(first):
        raise LinVTInputError(
            f"{len(first)} clips with {sum(map(len, first))} answers cannot be paired with {len(second)} clips with "
            f"{sum(map(len, second))}. Ask both models the same."
        )
    (sums, counts), (others, _) = _by_clip(first), _by_clip(second)
    gains = others - sums
    drawn = np.random.default_rng(seed).integers(len(gains), size=(NUM_DRAWS, len(gains)))
    low, high = np.percentile(gains[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    if np.ptp(gains / counts) == 0:
        reach, every = wilson(0, len(gains))[1] / 100, gains[0] / counts[0]
        low, high = max(-1.0, every - reach), min(1.0, every + reach)
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    only_first = sum(bool(a) and not b for a, b in pairs)
    only_second = sum(bool(b) and not a for a, b in pairs)
    return PairedDifference(
        points=100 * float(gains.sum() / counts.sum()),
        low=100 * float(low),
        high=100 * float(high),
        first=100 * float(sums.sum() / counts.sum()),
        second=100 * float(others.sum() / counts.sum()),
        asked=len(pairs),
        only_first=only_first,
        only_second=only_second,
        p_value=_mcnemar(only_first, only_second),
    )


def _by_clip(right: Sequence[Sequence[bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and questions of every clip."""
    if not len(right) or not all(len(of_clip) for of_clip in right):
        raise LinVTInputError("There is a clip without a question, or no clip at all. Leave it out.")
    return np.array([sum(map(bool, of_clip)) for of_clip in right]), np.array([len(of_clip) for of_clip in right])


def _mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p value: how likely a fair coin falls at least this unevenly on the questions that differ."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(fewer + 1)) / 2**total
    return min(1.0, 2 * tail)
