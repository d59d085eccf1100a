"""
When each frame of a file is shown: what its time stamps say, and what becomes of those that cannot be right.

One bad stamp is one bad stamp. Whatever can be placed in order stays as the file has it; a frame whose own stamp is
missing, repeated or goes back is put between its neighbours, and counted as a guess.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np


# More frames than this in a row out of order are no slips of single stamps: the clock of the file was set back there,
# as where two recordings were put one behind the other.
_MAX_SLIPS_IN_A_ROW = 16
# Packets stand at equal distances if there are so many of them, and so many distances are the usual one.
_LEAST_TO_CALL_EVEN = 10
_SHARE_TO_CALL_EVEN = 0.8


def increasing_part(stamps: Sequence[int]) -> list[int]:
    """
    Places of the most time stamps that increase from each to the next, the nearest and earliest if there is a choice.

    Args:
        stamps (`Sequence[int]`): Time stamps, in any unit.

    Returns:
        `list[int]`, increasing: the places of the stamps that agree with one another. The others do not fit.

    Example:

    >>> increasing_part([0, 33, 33, 9000, 100, 20, 133])
    [0, 1, 4, 6]
    """
    # Patience sorting. From the start it tells the lowest end of a longest chain, so that a stamp that is absurdly
    # high does not win against the true one behind it; from there back it tells the chain with the latest start, and
    # of two stamps that exclude each other the earlier one stays.
    ends: list[int] = []
    for stamp in stamps:
        at = bisect.bisect_left(ends, stamp)
        ends[at : at + 1] = [stamp]
    tails: list[int] = []
    places: list[int] = []
    follower: dict[int, int | None] = {}
    for place in range(len(stamps) - 1, -1, -1):
        if stamps[place] > ends[-1]:
            continue
        at = bisect.bisect_left(tails, -stamps[place])
        follower[place] = places[at - 1] if at else None
        tails[at : at + 1], places[at : at + 1] = [-stamps[place]], [place]
    chain: list[int] = []
    at_place = places[-1] if places else None
    while at_place is not None:
        chain.append(at_place)
        at_place = follower[at_place]
    return chain


def skipped_places(ticks: Sequence[int]) -> int | None:
    """
    Places of an even clock that no packet stands at: what a lost packet leaves, or a frame that was never recorded.

    Args:
        ticks (`Sequence[int]`): Time stamps of all packets, in any order.

    Returns:
        `int`, or `None` where the packets do not stand at equal distances, so that nothing can be told.

    Example:

    >>> skipped_places([0, 33, 67, 100, 133, 167, 200, 300, 333, 367]), skipped_places([0, 5, 9, 30])
    (2, None)
    """
    if len(ticks) < _LEAST_TO_CALL_EVEN:
        return None
    gaps = np.diff(np.sort(np.asarray(ticks, dtype=np.float64)))
    usual = float(np.median(gaps))
    if usual <= 0:
        return None
    usual = float(gaps[np.abs(gaps - usual) <= 1].mean())  # 33 and 34 milliseconds are a thirtieth of a second
    steps = np.rint(gaps / usual)
    if (steps < 1).any() or (np.abs(gaps - steps * usual) > 1).any() or (steps == 1).mean() < _SHARE_TO_CALL_EVEN:
        return None
    return int((steps - 1).sum())


def mend_time_stamps(stamps: Sequence[int | None], step: float) -> tuple[np.ndarray, np.ndarray]:
    """
    Strictly increasing times for frames in the order in which they are shown, and which of them are guesses.

    Stamps that agree with one another stay as they are. A repeated one is moved on by one unit, or less where the next
    frame comes sooner; missing ones and those that go back are spread evenly between their neighbours; at both ends
    the frames are `step` apart. Where the clock is set back for good, the times count on from there.

    Args:
        stamps (`Sequence[int | None]`): One per frame, `None` where the file has none.
        step (`float`): Usual time from one frame to the next in the unit of the stamps; if it is not above 0, 1.

    Returns:
        `np.ndarray` of shape `(num_frames,)`, `float64`, in the unit of the stamps, and `np.ndarray` of shape
        `(num_frames,)`, `bool`: where the time is a guess.

    Example:

    >>> times, is_guess = mend_time_stamps([0, 33, 33, 100, None, 20, 160], step=33)
    >>> times.tolist(), is_guess.tolist()
    ([0.0, 33.0, 34.0, 100.0, 120.0, 140.0, 160.0], [False, False, True, False, True, True, False])
    """
    step = step if step > 0 else 1.0
    told = {place: stamp for place, stamp in enumerate(stamps) if stamp is not None}
    known = list(told)
    chain = [known[at] for at in increasing_part(list(told.values()))]
    if not chain:
        return np.arange(len(stamps)) * step, np.ones(len(stamps), dtype=bool)
    origin = told[chain[len(chain) // 2]]  # differences of whole numbers are exact, however large the stamps are
    relative = [None if stamp is None else stamp - origin for stamp in stamps]
    if _longest_gap(known, set(chain)) > _MAX_SLIPS_IN_A_ROW:
        times, is_guess = _count_on(relative, step)
    else:
        times, is_guess = _fill_between(relative, chain, step)
    return times + float(origin), is_guess


def _longest_gap(known: list[int], kept: set[int]) -> int:
    """Most stamps in a row that were not kept."""
    longest = now = 0
    for place in known:
        now = 0 if place in kept else now + 1
        longest = max(longest, now)
    return longest


def _fill_between(stamps: list[Any], chain: list[int], step: float) -> tuple[np.ndarray, np.ndarray]:
    """The stamps of `chain` as they are, all others between them."""
    times = np.zeros(len(stamps))
    is_guess = np.ones(len(stamps), dtype=bool)
    times[chain], is_guess[chain] = [stamps[place] for place in chain], False
    edges: list[Any] = [None, *chain, None]
    for left, right in itertools.pairwise(edges):
        first, last = 0 if left is None else left + 1, len(stamps) if right is None else right
        count = last - first
        if not count:
            continue
        ahead = np.arange(1, count + 1)
        if left is None:
            times[first:last] = stamps[last] - step * ahead[::-1]
            continue
        is_repeat = all(stamp == stamps[left] for stamp in stamps[first:last])
        unit = 1.0 if is_repeat else step if right is None else np.inf
        room = np.inf if right is None else (stamps[right] - stamps[left]) / (count + 1)
        times[first:last] = stamps[left] + min(unit, room) * ahead
    return times, is_guess


def _count_on(stamps: list[int | None], step: float) -> tuple[np.ndarray, np.ndarray]:
    """The stamps up to where the clock is set back; behind it their differences, and `step` at the break itself."""
    times, is_guess = np.zeros(len(stamps)), np.zeros(len(stamps), dtype=bool)
    last, shift, was_set_back = None, 0.0, False
    for place, stamp in enumerate(stamps):
        before = times[place - 1] if place else -step
        if stamp is None or (last is not None and stamp <= last):
            was_set_back |= stamp is not None
            times[place], is_guess[place] = before + step, True
            shift = shift if stamp is None else times[place] - stamp
        else:
            times[place] = stamp + shift if place else stamp
            if times[place] <= before and place:
                times[place] = before + step
            is_guess[place] = was_set_back
        last = last if stamp is None else stamp
    return times, is_guess


def not_among(stamps: Sequence[int], others: Sequence[int | None]) -> list[int]:
    """
    The time stamps without those of `others`, each taken away as often as it is there.

    Example:

    >>> not_among([0, 33, 33, 66], [66, 33, None])
    [0, 33]
    """
    return sorted((Counter(stamps) - Counter(other for other in others if other is not None)).elements())


def usual_gap(stamps: Sequence[int]) -> float:
    """
    The median time between neighbours of sorted time stamps that differ; 0 if there are none.

    Example:

    >>> usual_gap([0, 100, 200, 3000, 3100])
    100.0
    """
    gaps = np.diff(np.asarray(sorted(set(stamps)), dtype=np.float64))
    return float(np.median(gaps)) if len(gaps) else 0.0
