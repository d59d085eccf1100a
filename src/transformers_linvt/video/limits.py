"""What a video, and all videos of one request, may cost at most, and how long a name may be in a message."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import VideoReadError


_MAX_NAME_LENGTH = 200

# Codings in which people have videos, by the names that FFmpeg has for them. It knows more than 200 others, mostly of
# games and of single programs: hardly anybody has them and hardly anybody looks after them, and a file that writes
# into memory where it must not needs only one that is wrong (that of MagicYUV was, in 2026).
ALLOWED_CODECS = (
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3",
    "h261", "h263", "h263p", "flv1", "vp6", "vp6a", "vp6f", "wmv1", "wmv2", "wmv3", "vc1", "theora", "rv30", "rv40",
    "svq1", "svq3", "cinepak", "qtrle", "mjpeg", "png", "gif", "tiff", "bmp", "prores", "dnxhd", "dvvideo", "ffv1",
    "ffvhuff", "huffyuv", "utvideo", "rawvideo", "v210",
)  # fmt: skip


def shorten_name(name: str) -> str:
    """
    A path or an address as messages show it: its beginning and end if it has more than 200 characters.

    Args:
        name (`str`): Whatever was given, of any length.

    Returns:
        `str` of at most 200 characters.

    Example:

    >>> shorten_name("clip.mp4"), len(shorten_name("a" * 5000))
    ('clip.mp4', 183)
    """
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[:120]}...{name[-60:]}"


def as_number(value: Any) -> float | None:
    """
    A real number of any type as a `float`; `None` for anything else.

    Args:
        value (`object`): Anything: `int`, `float`, `Fraction`, `Decimal`, a number of NumPy, torch or PyAV.

    Returns:
        `float`, infinite where `value` is too large for one, or `None` for truth values, text and all else.

    Example:

    >>> from fractions import Fraction
    >>> as_number(Fraction(1, 8)), as_number(True), as_number("2")
    (0.125, None, None)
    """
    if isinstance(value, bool | complex | str | bytes) or getattr(value, "ndim", 0) != 0:
        return None
    if not hasattr(value, "__float__") or getattr(getattr(value, "dtype", None), "kind", "f") not in "iuf":
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return None


@dataclass(frozen=True)
class VideoLimits:
    """
    What a video may cost at most. Every limit is on by default; `None` switches one off.

    The numbers are ours: they let through an hour of 4K and stop what would fill a machine or keep it busy for hours.

    Args:
        max_bytes (`int`, defaults to 2 GiB): Size of the file, or of what a URL or a file object may deliver.
        max_duration (`float`, defaults to 3600): Length of the video in seconds, whatever part of it is asked for.
        max_pixels (`int`, defaults to 4096 * 2304): Height times width of a frame.
        max_picture_pixels (`int`, defaults to 89,478,485): The same of a picture beside videos; Pillow's own bound.
        max_frames (`int`, defaults to 1024): Frames returned, however many were asked for.
        max_output_bytes (`int`, defaults to 4 GiB): Memory of the returned frames together.
        max_decode_seconds (`float`, defaults to 120): Wall time for reading and decoding, looked at between packets.
        max_download_seconds (`float`, defaults to 120): Wall time for fetching a URL.
        max_request_bytes, max_request_frames, max_request_output_bytes, max_request_decode_seconds (*optional*):
            The same for all videos of one request (a conversation, an example of a data set) together: 4 GiB, 4096
            frames, 4 GiB, 240 seconds. A read of its own is a request of one video.
        allowed_codecs (`tuple[str, ...]`, *optional*):
            Codings that are decoded, by FFmpeg's names. By default those in which people have videos, and not the
            further 200 and more that FFmpeg has decoders for.
        allowed_hosts (`tuple[str, ...]`, *optional*):
            Hosts that a URL may lead to, also behind redirects: `"example.com"` with https, `"*.example.com"` for all
            names below it, `"http://example.com"` without encryption too. By default any.
        allow_private_addresses (`bool`, defaults to `False`):
            Whether a URL may lead to loopback, private, link-local or reserved addresses.

    Raises:
        [`VideoReadError`]: if a limit is not a positive number or `None`, or the codings are not a tuple of names.

    Example:

    >>> VideoLimits(max_duration=7200.0).max_duration
    7200.0
    """

    max_bytes: int | None = 2 << 30
    max_duration: float | None = 3600.0
    max_pixels: int | None = 4096 * 2304
    max_picture_pixels: int | None = 89_478_485
    max_frames: int | None = 1024
    max_output_bytes: int | None = 4 << 30
    max_decode_seconds: float | None = 120.0
    max_download_seconds: float | None = 120.0
    max_request_bytes: int | None = 4 << 30
    max_request_frames: int | None = 4096
    max_request_output_bytes: int | None = 4 << 30
    max_request_decode_seconds: float | None = 240.0
    allowed_codecs: tuple[str, ...] | None = ALLOWED_CODECS
    allowed_hosts: tuple[str, ...] | None = None
    allow_private_addresses: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "allow_private_addresses" or value is None:
                continue
            if entry.name == "allowed_codecs":
                self._check_codecs(value)
                continue
            if entry.name == "allowed_hosts":
                self._check_hosts(value)
                continue
            number = as_number(value)
            if number is None or not number > 0:
                raise VideoReadError(
                    f"VideoLimits({entry.name}={value!r}): a limit is a positive number, or None for no limit."
                )
            if not isinstance(value, int | float):  # a Fraction cannot be added to a float's clock or formatted as one
                object.__setattr__(self, entry.name, number)

    @staticmethod
    def _check_codecs(value: object) -> None:
        if not isinstance(value, tuple | list) or not value or not all(isinstance(name, str) for name in value):
            raise VideoReadError(
                f"VideoLimits(allowed_codecs={value!r:.100}): give a tuple of names as FFmpeg has them, like "
                "('h264', 'hevc'), or None for all."
            )

    @staticmethod
    def _check_hosts(value: object) -> None:
        form = re.compile(r"(https?://)?(\*\.)?[\w.-]+")
        if not isinstance(value, tuple | list) or not all(isinstance(n, str) and form.fullmatch(n) for n in value):
            raise VideoReadError(
                f"VideoLimits(allowed_hosts={value!r:.100}): give a tuple of names such as 'example.com' or "
                "'*.example.com', without port and path, or None for any host."
            )

    def allows_host(self, scheme: str, host: str) -> bool:
        """
        Whether a URL may lead to a host.

        Example:

        >>> limits = VideoLimits(allowed_hosts=("example.com", "*.example.org"))
        >>> [limits.allows_host("https", host) for host in ("example.com", "a.example.com", "a.b.example.org")]
        [True, False, True]
        >>> limits.allows_host("http", "example.com")
        False
        """
        if self.allowed_hosts is None:
            return True
        host = host.lower().rstrip(".")
        for entry in self.allowed_hosts:
            allowed_scheme, _, name = entry.lower().rpartition("://")
            is_host = host.endswith(name[1:]) if name.startswith("*.") else host == name
            if is_host and (scheme == "https" or allowed_scheme == "http"):
                return True
        return False


class Spending:
    """
    What the videos of one request have cost so far.

    Args:
        num_bytes, num_frames, output_bytes (`int`): Of the files, and of the frames returned.
        decode_seconds (`float`): Wall time for reading and decoding, that of refused videos included.
    """

    _NAMES = ("bytes", "frames", "output_bytes", "decode_seconds")

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(self._NAMES, 0)

    def add(self, **cost: float) -> None:
        """Count what a video cost."""
        for name, value in cost.items():
            self.spent[name] += value

    def left_of(self, limits: VideoLimits) -> tuple[VideoLimits, dict[str, float]]:
        """
        The limits of the next video, lowered to what is left, and the limits of the request that did it with that.

        Raises:
            [`VideoReadError`]: nothing is left.
        """
        lowered, because = {}, {}
        for name in self._NAMES:
            most, of_request = getattr(limits, f"max_{name}"), getattr(limits, f"max_request_{name}")
            if of_request is None or not self.spent[name] and most is not None and most <= of_request:
                continue
            left = of_request - self.spent[name]
            if left <= 0:
                raise VideoReadError(
                    f"The videos of one request are over the limit of {of_request} {name.replace('_', ' ')} together. "
                    f"Give fewer or shorter videos, or pass limits=VideoLimits(max_request_{name}=...)."
                )
            if most is None or left < most:
                lowered[f"max_{name}"] = because[f"max_request_{name}"] = left
        return replace(limits, **lowered), because


_SPENDING: ContextVar[Spending | None] = ContextVar("videos of one request", default=None)


@contextmanager
def one_request() -> Iterator[Spending]:
    """
    Everything that is read inside belongs to one request, and its videos share the limits `max_request_...`.

    Inside of another request it is part of that.
    """
    outer = _SPENDING.get()
    if outer is not None:
        yield outer
        return
    spending = Spending()
    token = _SPENDING.set(spending)
    try:
        yield spending
    finally:
        _SPENDING.reset(token)


def check_num_bytes(name: str, num_bytes: int, limits: VideoLimits) -> None:
    """Refuse a file that is empty or larger than `limits.max_bytes`."""
    if num_bytes == 0:
        raise VideoReadError(f"{name} is empty (0 bytes). Copy or download it again.")
    if limits.max_bytes is not None and num_bytes > limits.max_bytes:
        raise VideoReadError(
            f"{name} has {num_bytes} bytes, over the limit of {limits.max_bytes}. Cut or re-encode it, or pass "
            f"limits=VideoLimits(max_bytes=...)."
        )


def check_duration(name: str, seconds: float, limits: VideoLimits) -> None:
    """Refuse a video that lasts longer than `limits.max_duration`."""
    if limits.max_duration is not None and seconds > limits.max_duration:
        raise VideoReadError(
            f"{name} lasts {seconds:.0f} s by its time stamps, over the limit of {limits.max_duration:.0f} s. Cut it, "
            f"or pass limits=VideoLimits(max_duration={math.ceil(seconds)})."
        )


def check_frame_size(name: str, height: int, width: int, limits: VideoLimits) -> None:
    """Refuse frames of more than `limits.max_pixels`, before they are converted."""
    if limits.max_pixels is not None and height * width > limits.max_pixels:
        raise VideoReadError(
            f"{name} has frames of {width}x{height} = {width * height} pixels, over the limit of {limits.max_pixels}. "
            "Scale it down, or pass limits=VideoLimits(max_pixels=...)."
        )


class Clock:
    """Stops a read that takes longer than the limit. It is asked between packets: a single packet cannot be cut."""

    def __init__(self, name: str, seconds: float | None) -> None:
        self.name = name
        self.seconds = seconds
        self.restart()
        self.waited = 0.0  # seconds
        self.check_wanted: Callable[[], None] | None = None  # raises where nobody wants the frames any more

    def restart(self) -> None:
        """The time begins now."""
        self.deadline = math.inf if self.seconds is None else time.monotonic() + self.seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time: waiting for whoever takes the frames is no reading."""
        began = time.monotonic()
        try:
            yield
        finally:
            waited = time.monotonic() - began
            self.waited += waited
            self.deadline += waited

    def check(self) -> None:
        """Raise a [`VideoReadError`] if the time is over, and whatever ends the read before."""
        if self.check_wanted is not None:
            self.check_wanted()
        if time.monotonic() > self.deadline:
            raise VideoReadError(
                f"{self.name}: reading took longer than the limit of {self.seconds} s. Ask for fewer frames or a "
                "shorter window, re-encode the video smaller, or raise VideoLimits(max_decode_seconds=...)."
            )
