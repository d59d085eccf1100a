"""When each frame of a file is shown that had to be decoded as a whole, those included that did not come out."""

from dataclasses import dataclass

import numpy as np

from .container import FORMATS_WITHOUT_TIME_STAMPS
from .table import CODECS_WITH_INVISIBLE_PACKETS, FrameTable
from .times import mend_time_stamps, not_among, usual_gap


@dataclass
class Timeline:
    """
    All frames of a video that was decoded as a whole, in the order shown, those included that did not come out.

    Args:
        seconds (`np.ndarray` of shape `(num_frames,)`): From the first frame, whether it can be shown or not.
        is_intact (`np.ndarray` of shape `(num_frames,)`): False also where no picture came out.
        position (`np.ndarray` of shape `(num_frames,)`): Place among the pictures that came out, -1 if it did not.
        num_guessed (`int`): Frames whose time the file does not say.
    """

    seconds: np.ndarray
    is_intact: np.ndarray
    position: np.ndarray
    num_guessed: int


def lay_out(
    table: FrameTable, stamps: list[int | None], is_intact: np.ndarray, nominal: float, is_damaged: bool
) -> Timeline:
    """Place the frames that came out of decoding (their time stamps in the order shown), and those that did not."""
    ticks, lost = stamps, not_among(table.stamps, stamps)
    if table.format in FORMATS_WITHOUT_TIME_STAMPS:
        ticks, lost = _places_of_frames(stamps, table.stamps)
        lost = lost if is_damaged else []  # some programs fill places with chunks that only say "as before"
    elif table.codec in CODECS_WITH_INVISIBLE_PACKETS:
        lost = lost[:1] if table.stamps[:1] == lost[:1] else []  # the first packet of a stream is always shown
    known = sorted(tick for tick in ticks if tick is not None)
    origin = known[len(known) // 2] if known else 0  # one that is not absurdly far away: what is near it stays exact
    step = usual_gap(table.stamps) or (nominal / table.time_base if table.time_base else 0.0)
    times, is_guess = mend_time_stamps([None if tick is None else tick - origin for tick in ticks], step)
    shown = set(times.tolist())
    missing = [tick - origin for tick in lost if tick - origin not in shown]
    everything = np.concatenate([times, np.asarray(missing, dtype=np.float64)])
    order = np.argsort(everything, kind="stable")
    position = np.concatenate([np.arange(len(times)), np.full(len(missing), -1)])[order]
    return Timeline(
        seconds=(everything[order] - everything[order[0]]) * table.time_base,
        is_intact=np.concatenate([is_intact, np.zeros(len(missing), dtype=bool)])[order],
        position=position,
        num_guessed=int(is_guess.sum()),
    )


def _places_of_frames(stamps: list[int | None], places: list[int]) -> tuple[list[int | None], list[int]]:
    """
    Times of the frames of an AVI file and of those that did not come out, given the chunk that each came out of.

    Frames are shown in the order in which they come out, each at the next of the `places` of all chunks, those that
    gave none among them. Where some gave none and others two, it cannot be told which place is whose: the times are
    `None`.
    """
    if len(stamps) == len(places):
        return list(places), []
    lost = set(not_among(places, stamps))
    order = list(stamps)
    known = [stamp for stamp in stamps if stamp is not None]
    has_b_frames = len(known) == len(stamps) and known != sorted(known)
    for before, chunk in zip([None, *places], places, strict=False):
        if chunk in lost:
            order.insert(_turn_of_lost(order, before, chunk, has_b_frames), chunk)
    if len(order) != len(places):
        return [None] * len(stamps), []
    is_lost = [chunk in lost for chunk in order]
    return (
        [place for place, gone in zip(places, is_lost, strict=True) if not gone],
        [place for place, gone in zip(places, is_lost, strict=True) if gone],
    )


def _turn_of_lost(order: list[int | None], before: int | None, chunk: int, has_b_frames: bool) -> int:
    """
    When a lost frame would have been shown: its position in `order`, the chunks of the frames shown.

    It is taken for a B frame where there are such: if it was not, what follows is damaged up to the next key frame,
    and does not come into question anyway.
    """
    if before is None or before not in order:
        return next((at for at, other in enumerate(order) if other is not None and other > chunk), len(order))
    at = order.index(before)
    is_b_frame = any(other is not None and other < before for other in order[at + 1 :])
    if is_b_frame or not has_b_frames:
        return at + 1
    # shown before the frame in front of it in the file, and before the other B frames behind it
    return next((earlier for earlier, other in enumerate(order[:at]) if other is not None and other > chunk), at)
