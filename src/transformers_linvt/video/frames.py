"""Sampled frames of a video, and the choice of them: which frames a request means, given when each is shown."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import VideoReadError
from ..summaries import short_repr
from .limits import VideoLimits, as_number


DEFAULT_NUM_FRAMES = 32
# Seconds; time stamps of a file are multiples of its time base (1/90000 s or coarser), users type decimals.
_TIME_TOLERANCE = 1e-6
# An annotated end is often rounded up to a whole second, so an `end` at most this far behind the last frame is taken.
_END_TOLERANCE = 1.0


@dataclass
class VideoFrames:
    """
    Sampled frames of one video, whatever it was read from.

    Args:
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`): RGB, `uint8`, upright (rotation applied).
        timestamps (`np.ndarray` of shape `(num_frames,)`):
            Seconds, `float64`, increasing, counted from the first frame of the video.
        source (`str`): Path or address, or `"<frames in memory>"`, `"<bytes in memory>"`, `"<file object>"`.
        video_backend (`str`): `"pyav"`, `"decord"`, `"torchcodec"` or `"memory"`.
        duration (`float`): Seconds from the first frame to the end of the last, of the whole video.
        total_frames (`int`): Frames of the whole video.
        average_fps (`float`, *optional*): `total_frames / duration`; `None` where the duration is 0.
        num_broken_packets (`int`, defaults to 0):
            Broken and lost packets seen while reading. Those outside of what had to be read are not seen, and not all
            damage that decodes to a picture is, so 0 does not say that there is none.
        num_gaps (`int`, *optional*):
            Places where a frame may be missing: the packets of the file stand at equal distances, and there at a
            multiple of it. A packet was lost, or the recorder dropped a frame. `None` where distances differ.
        is_intact (`bool`, *optional*):
            False where damage was seen. True only where it was ruled out: every picture that was decoded carries a
            checksum of its pixels, and it was right (HEVC with MD5). `None`, the rule, where nobody can know.
        num_guessed_timestamps (`int`, defaults to 0):
            Frames of the whole video whose time the file does not say: their time stamp is missing, repeated or goes
            back. They are placed between their neighbours, whose times are the file's own.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    source: str
    video_backend: str
    duration: float
    total_frames: int
    average_fps: float | None
    num_broken_packets: int = 0
    num_guessed_timestamps: int = 0
    num_gaps: int | None = None
    is_intact: bool | None = None

    __repr__ = short_repr  # numbers by the thousand say nothing

    def __len__(self) -> int:
        return len(self.frames)


def no_pixels(num_frames: int) -> np.ndarray:
    """Stands in for frames that are not kept: as many of them, of one black pixel each."""
    return np.zeros((num_frames, 1, 1, 3), dtype=np.uint8)


def uniform_indices(total: int, count: int) -> list[int]:
    """
    The middle frames of `count` equal segments of a video: always exactly `count` distinct frames, or all there are.

    Middles, because then the longest time between any moment of the video and the nearest sampled frame is as short as
    it can be, no sample is spent on the black frames many videos begin and end with, and the choice is the same when
    the video runs backwards (up to rounding). Integer arithmetic, because `int(i * total / count)` depends on it.
    The paper does not say how it spaces its frames; the scheme is ours.

    Args:
        total (`int`): Frames there are.
        count (`int`): Frames wanted.

    Returns:
        `list[int]`, increasing, of length `min(total, count)`: `(2 * i + 1) * total // (2 * count)`.

    Example:

    >>> uniform_indices(10, 4)
    [1, 3, 6, 8]
    >>> uniform_indices(3, 8)
    [0, 1, 2]
    """
    count = min(total, count)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


@dataclass
class Request:
    """The sampling arguments, checked once, and the choice they make on a table of frames."""

    num_frames: int | None
    fps: float | None
    start: float | None
    end: float | None
    max_frames: int | None
    limits: VideoLimits

    def __post_init__(self) -> None:
        for name in ("num_frames", "max_frames"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise VideoReadError(f"{name}={value!r}: give a whole number of frames, 1 or more.")
            setattr(self, name, int(value))
        if self.num_frames is not None and self.fps is not None:
            raise VideoReadError(
                f"num_frames={self.num_frames} and fps={self.fps} were both given. Choose one: num_frames spreads "
                "that many frames over the video, fps takes one every 1 / fps seconds (max_frames caps it)."
            )
        if self.num_frames is not None and self.max_frames is not None and self.num_frames > self.max_frames:
            raise VideoReadError(
                f"num_frames={self.num_frames} is more than max_frames={self.max_frames}. Lower the one or "
                "raise the other."
            )
        for name, smallest in (("fps", "above 0"), ("start", "0 or more"), ("end", "above 0")):
            value = getattr(self, name)
            if value is None:
                continue
            number = as_number(value)
            if number is None or not math.isfinite(number) or number < 0 or (number == 0 and name != "start"):
                unit = "frames per second" if name == "fps" else "seconds"
                raise VideoReadError(f"{name}={value!r:.100}: give a finite number of {unit}, {smallest}.")
            setattr(self, name, number)
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise VideoReadError(f"start={self.start} s is not before end={self.end} s; swap or widen them.")

    @property
    def cap(self) -> int | None:
        """Most frames that sampling by time may return."""
        return self.limits.max_frames if self.max_frames is None else self.max_frames

    def check_count(self, count: int, name: str) -> None:
        """Refuse to return more frames than the limit; asking for more than there are costs nothing."""
        limit = self.limits.max_frames
        if limit is not None and count > limit:
            raise VideoReadError(
                f"{name}: {count} frames are over the limit of {limit} frames. Ask for fewer, or pass "
                f"limits=VideoLimits(max_frames={count})."
            )

    def window(self, seconds: np.ndarray, duration: float, name: str) -> tuple[int, int]:
        """First and last index of the frames on screen between `start` and `end`, both inclusive."""
        first, last = 0, len(seconds) - 1
        if self.start is not None:
            if self.start >= max(duration, _TIME_TOLERANCE):
                raise VideoReadError(
                    f"{name}: start={self.start} s is beyond its end, it lasts {duration:.3f} s. Choose an earlier "
                    "start."
                )
            first = max(0, int(np.searchsorted(seconds, self.start + _TIME_TOLERANCE, side="right")) - 1)
        if self.end is not None:
            if self.end > duration + _END_TOLERANCE:
                raise VideoReadError(
                    f"{name}: end={self.end} s is beyond its end, it lasts {duration:.3f} s. Choose an earlier end, "
                    "or leave it out to read to the end."
                )
            last = max(first, int(np.searchsorted(seconds, self.end + _TIME_TOLERANCE, side="right")) - 1)
        return first, last

    def choose(
        self, seconds: np.ndarray, duration: float, name: str, is_intact: np.ndarray | None = None
    ) -> list[int]:
        """Indices of the frames to read, increasing and distinct, out of frames shown at `seconds` (sorted)."""
        first, last = self.window(seconds, duration, name)
        within = np.arange(first, last + 1)
        if is_intact is not None:
            within = within[is_intact[within]]
        if self.fps is not None:
            chosen = within[self._is_on_screen_at_a_target(seconds[within], duration, self.fps)]
            if self.cap is None or len(chosen) <= self.cap:
                self.check_count(len(chosen), name)
                return chosen.tolist()
            count = self.cap
        elif self.num_frames is not None:
            count = self.num_frames
        else:
            count = DEFAULT_NUM_FRAMES if self.cap is None else min(DEFAULT_NUM_FRAMES, self.cap)
        count = min(count, len(within))
        self.check_count(count, name)
        return within[uniform_indices(len(within), count)].tolist()

    def _is_on_screen_at_a_target(self, seconds: np.ndarray, duration: float, fps: float) -> np.ndarray:
        """
        For each frame whether one of the times `origin + i / fps` falls between it and the next frame.

        Counting the targets before each change of picture costs one array, however large `fps` is.
        """
        origin = float(seconds[0]) if self.start is None else self.start
        before = np.ceil((seconds - origin) * fps - _TIME_TOLERANCE)
        before[0] = 0.0  # the frame on screen at `start` may have come earlier
        if self.end is None:
            num_targets = np.ceil((duration - origin) * fps - _TIME_TOLERANCE)
        else:
            num_targets = np.floor((min(self.end, duration) - origin) * fps + _TIME_TOLERANCE) + 1
        return np.append(before[1:], max(num_targets, 1.0)) > before
