"""Frames that show what the frame before them showed: found by their pixels, before anything is made of them. Ours."""

from collections.abc import Sequence

import numpy as np

from ..errors import LinVTInputError, shown


SQUARE = 16  # side in pixels: what is smaller than that has to differ the more; about a token of a frame of 360p
_ROWS = 4 * SQUARE  # rows that are compared at once
_GLANCE = 31  # every so many rows are compared first: frames that differ mostly differ there


class DuplicateFinder:
    """
    Finds the frames of a video, fed in order, that repeat the last one that did not.

    With `levels` a frame repeats another where no square of 16 x 16 pixels differs by more, averaged over its pixels
    and colours. It is always compared with the frame that stands for it and not with the one before, so a slow change
    does not add up: whatever is skipped is at most `levels` from what is shown in its place.

    Args:
        levels (`float`, *optional*): of 255; 0 for frames of which every pixel is the same, None for none.

    Example:

    >>> finder = DuplicateFinder(levels=1.0)
    >>> frames = np.zeros((4, 32, 32, 3), np.uint8)
    >>> frames[1:] += 1  # by one level everywhere
    >>> frames[3, :8, :8] = 99  # a quarter of one square
    >>> finder.find(frames).tolist(), finder.num_seen, finder.num_new, finder.largest
    ([True, False, False, True], 4, 2, 1.0)
    """

    def __init__(self, levels: float | None) -> None:
        self.levels = levels
        self.num_seen = self.num_new = 0
        self.largest = 0.0  # levels between a frame that was skipped and the one that stands for it
        self._shown: np.ndarray | None = None

    def find(self, frames: np.ndarray, frames_per_step: int = 1) -> np.ndarray:
        """
        Which of the next frames are new.

        Args:
            frames (`np.ndarray` of shape `(num_frames, height, width, 3)`): RGB, `uint8`.
            frames_per_step (`int`): frames that are encoded together, and so repeated together; the last step may
                have fewer, and is filled up with its last frame.

        Returns:
            `np.ndarray` of shape `(num_steps,)`: True where a step is new; the first of a video is.
        """
        steps = [frames[start : start + frames_per_step] for start in range(0, len(frames), frames_per_step)]
        found = np.array([self._is_new(step) for step in steps], dtype=bool)
        self.num_seen += len(found)
        self.num_new += int(found.sum())
        if self._shown is not None:
            self._shown = self._shown.copy()  # not the whole piece that it lies in
        return found

    def _is_new(self, step: np.ndarray) -> bool:
        if self.levels is None:
            return True
        before = self._shown
        if before is not None and before.shape[1:] == step.shape[1:]:
            if len(step) < len(before):
                step = np.concatenate([step, *[step[-1:]] * (len(before) - len(step))])
            apart = [self._apart(one, other) for one, other in zip(step, before, strict=True)]
            if max(apart) <= self.levels:
                self.largest = max(self.largest, *apart)
                return False
        self._shown = step
        return True

    def _apart(self, frame: np.ndarray, other: np.ndarray) -> float:
        """Levels between two frames; infinite as soon as they are known to be no duplicates."""
        if np.array_equal(frame[::_GLANCE], other[::_GLANCE]) and np.array_equal(frame, other):
            return 0.0
        if not self.levels:
            return float("inf")
        furthest = 0.0
        for start in range(0, len(frame), _ROWS):  # most frames that differ do so near the top already
            rows = slice(start, start + _ROWS)
            furthest = max(furthest, levels_apart(frame[rows], other[rows]))
            if furthest > self.levels:
                break
        return furthest


def levels_apart(frame: np.ndarray, other: np.ndarray) -> float:
    """
    How far two frames are apart where they are furthest: the mean difference in that square of 16 x 16 pixels.

    Args:
        frame, other (`np.ndarray` of shape `(height, width, 3)`): RGB, `uint8`.

    Returns:
        `float`, of 255.
    """
    apart = np.maximum(frame, other) - np.minimum(frame, other)
    height, width, colours = apart.shape
    rows, columns = np.arange(0, height, SQUARE), np.arange(0, width, SQUARE)
    strips = np.add.reduceat(apart.reshape(height, -1), rows, axis=0, dtype=np.uint16)  # at most 16 * 255
    strips = strips.reshape(len(rows), width, colours).sum(axis=2, dtype=np.uint32)
    sums = np.add.reduceat(strips, columns, axis=1)
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width])) * colours
    return float((sums / areas).max())


def levels_of(skip_duplicate_frames: bool | float) -> float | None:
    """
    The setting as [`DuplicateFinder`] takes it.

    Raises:
        LinVTInputError: neither True nor False nor a number of levels.
    """
    if isinstance(skip_duplicate_frames, bool):
        return 0.0 if skip_duplicate_frames else None
    if not isinstance(skip_duplicate_frames, int | float) or not 0 <= skip_duplicate_frames <= 255:
        raise LinVTInputError(
            f"skip_duplicate_frames={shown(skip_duplicate_frames)}: give True for frames that are identical, False "
            "for none, or by how many levels of 255 a frame may differ, such as 2.0."
        )
    return float(skip_duplicate_frames)


def frames_of_steps(frames: np.ndarray, is_new: Sequence[bool] | np.ndarray, frames_per_step: int) -> np.ndarray:
    """The frames of the steps that are new; the same array where all are."""
    if np.all(is_new):
        return frames
    return frames[np.repeat(np.asarray(is_new), frames_per_step)[: len(frames)]]


__all__ = ["DuplicateFinder", "frames_of_steps", "levels_apart", "levels_of"]
