"""
From a video file to sampled frames and their time stamps: exactly the frames asked for, or one clear error.

The way of a file: a table of all frames is made from its packets (no picture is decoded for that), the frames to read
are chosen from the table with integer arithmetic, and then each is decoded after a seek to the key frame before it. A
decoded frame is accepted only if its own time stamp is the one wanted; where a container cannot promise that (MPEG-TS,
AVI, intra-refresh streams, lying headers) the file is decoded from its start instead. Damage is followed from the
broken packet to the next key frame, so that a picture built on a broken one is never returned as if it were whole.

decord and torchcodec are asked for the frames of the same table, on the files where they are known to be right, and
after PyAV has decoded what is wanted and met no damage (neither of the two tells of any); they refuse on all
others. Everything here is ours; the paper does not say how its videos were read.
"""

import bisect
import io
import logging
import math
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import PIL.Image

from ..errors import VideoReadError
from .download import check_url_allowed, download_video
from .limits import VideoLimits, as_number, shorten_name
from .media_address import is_data_url, name_of_address, path_of_file_url, read_data_url, scheme_of
from .times import increasing_part, mend_time_stamps, not_among, usual_gap


logger = logging.getLogger(__name__)

DEFAULT_NUM_FRAMES = 32
VIDEO_BACKENDS = ("auto", "pyav", "decord", "torchcodec")

# Seconds; time stamps of a file are multiples of its time base (1/90000 s or coarser), users type decimals.
_TIME_TOLERANCE = 1e-6
# An annotated end is often rounded up to a whole second, so an `end` at most this far behind the last frame is taken.
_END_TOLERANCE = 1.0
# H.264 and HEVC reorder at most 16 pictures: a picture cannot depend on one that is shown more than 16 later.
_MAX_REORDERED = 16
_MAX_READ_ERRORS_IN_A_ROW = 16

# FFmpeg chooses the demuxer by content. Play lists (HLS, DASH, concat) would open other files and addresses, so only
# formats that hold their data themselves are on this list; the audio ones are there for a better message.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mpegvideo,h264,hevc,m4v,ivf,obu,mxf,nut,rm,"
    "dv,yuv4mpegpipe,mp3,wav,flac,aac,ac3,aiff"
)
# Seeking is trusted, and then verified, where packets carry presentation time stamps and the container an index.
_SEEKABLE_FORMATS = {"mov", "matroska"}
# AVI stores no time stamps: a frame is shown at the place of its chunk among all chunks, the empty ones counted. What
# FFmpeg makes of that is wrong where B frames are packed together, and late by the delay of the decoder with H.264.
_FORMATS_WITHOUT_TIME_STAMPS = {"avi"}
# VP8 stores invisible pictures as packets of their own, so its packets are not its frames.
_CODECS_WITH_INVISIBLE_PACKETS = {"vp8", "libvpx"}
_CODECS_OF_OTHER_BACKENDS = {
    "decord": {"h264", "hevc", "vp9", "mpeg4", "mjpeg"},
    "torchcodec": {"h264", "hevc", "vp9", "mpeg4", "mjpeg", "av1"},
}
# Codings of single pictures, in which thumbnails are stored (and some videos, too).
_PICTURE_CODECS = {"mjpeg", "png", "bmp", "webp", "gif", "tiff", "jpeg2000", "libopenjpeg", "ljpeg", "apng"}
_CHANNELS = 3
_COPY_CHUNK = 1 << 20  # bytes


@dataclass
class VideoFrames:
    """
    Sampled frames of one video, whatever it was read from.

    Args:
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`): RGB, `uint8`, upright (rotation applied).
        timestamps (`np.ndarray` of shape `(num_frames,)`):
            Seconds, `float64`, increasing, counted from the first frame of the video.
        source (`str`): Path or address, or `"<frames in memory>"`, `"<bytes in memory>"`, `"<file object>"`.
        backend (`str`): `"pyav"`, `"decord"`, `"torchcodec"` or `"memory"`.
        duration (`float`): Seconds from the first frame to the end of the last, of the whole video.
        total_frames (`int`): Frames of the whole video.
        average_fps (`float`, *optional*): `total_frames / duration`; `None` where the duration is 0.
        num_broken_packets (`int`, defaults to 0):
            Damaged packets met while reading. Those outside of what had to be read are not seen, so not counted.
        num_guessed_timestamps (`int`, defaults to 0):
            Frames of the whole video whose time the file does not say: their time stamp is missing, repeated or goes
            back. They are placed between their neighbours, whose times are the file's own.
    """

    frames: np.ndarray
    timestamps: np.ndarray
    source: str
    backend: str
    duration: float
    total_frames: int
    average_fps: float | None
    num_broken_packets: int = 0
    num_guessed_timestamps: int = 0

    def __len__(self) -> int:
        return len(self.frames)


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


def read_video(
    video: Any,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    backend: str = "auto",
    limits: VideoLimits | None = None,
    allow_urls: bool = False,
    timestamps: Sequence[float] | np.ndarray | None = None,
    num_threads: int = 1,
) -> VideoFrames:
    """
    Read sampled frames of a video: exactly the frames that the arguments describe, or a [`VideoReadError`].

    Sampling is uniform with `num_frames` (see [`uniform_indices`]) or by time with `fps`: the frames on screen at
    `start`, `start + 1 / fps`, ... seconds, each once, and `max_frames` of the window uniformly if those are more.
    With neither, 32 frames uniformly. Time stamps are those of the file (variable rates included), counted from its
    first frame. One that is missing, repeated or goes back is replaced by a time between its neighbours, and a warning
    and `num_guessed_timestamps` say so.

    A damaged file is read around the damage: a frame that is broken, or depends on a broken one, is taken out of the
    choice, the frames are sampled among the intact ones with their true time stamps, and a warning and
    `num_broken_packets` say so. The first frame of the file stays second 0 where it cannot be shown itself, so that
    `start` and `end` mean what they mean on the whole file. If nothing in the window is intact, or the file is cut off
    before the end of the window, that is an error.

    Args:
        video:
            A path; `bytes` or a file object holding a video file (read from its position to its end); a `datasets`
            video, i.e. `{"path": ..., "bytes": ...}` or a torchcodec `VideoDecoder`; an address: `data:` (decoded
            within `limits.max_bytes`), `file://` (a path), http or https with `allow_urls=True`; or frames in memory:
            an array or tensor of shape `(num_frames, height, width, 3)` or `(num_frames, 3, height, width)`, `uint8`
            or floating point in [0, 1], or a list of PIL images or of arrays of one frame each (PIL images with more
            than 8 bits count as arrays of their type).
        num_frames (`int`, *optional*): Frames to sample uniformly. All frames if the window has fewer.
            `limits.max_frames` looks at the frames that would be returned.
        fps (`float`, *optional*):
            Frames to sample per second, a real number of any type (`Fraction`, ...). For frames in memory without
            `timestamps` it is instead the rate of the given frames, which are then all kept.
        start (`float`, *optional*): Beginning of the window in seconds; the frame on screen then is its first.
        end (`float`, *optional*): End of the window in seconds, inclusive; at most one second behind the video's end.
        max_frames (`int`, *optional*): Most frames that sampling by `fps` returns. `limits.max_frames` if not given.
        backend (`str`, defaults to `"auto"`):
            `"pyav"` (what `"auto"` means), `"decord"` or `"torchcodec"`. The other two return the frames that
            `"pyav"` returns or refuse. They do not tell of damage, so PyAV decodes what is wanted before them: they
            are slower than `"pyav"`, by about the time that they take themselves.
        limits ([`VideoLimits`], *optional*): What the video may cost at most.
        allow_urls (`bool`, defaults to `False`): Whether `video` may be an http or https address.
        timestamps (`Sequence[float]`, *optional*):
            Seconds of each given frame, for frames in memory only. Without them and without `fps` one frame per second
            is assumed, and a warning says so.
        num_threads (`int`, defaults to 1): Decoding threads; 1 is right inside data loader workers.

    Returns:
        [`VideoFrames`].

    Raises:
        [`VideoReadError`]: for every expected failure; the message names the file, what was found and what to do.

    Example:

    >>> import numpy as np
    >>> clip = np.zeros((6, 4, 8, 3), dtype=np.uint8)
    >>> read_video(clip, num_frames=3, timestamps=[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]).timestamps.tolist()
    [0.5, 1.5, 2.5]
    """
    limits = VideoLimits() if limits is None else limits
    if not isinstance(limits, VideoLimits):
        raise VideoReadError(f"limits={limits!r:.100} is no VideoLimits; pass limits=VideoLimits(max_duration=...).")
    request = _Request(num_frames, fps, start, end, max_frames, limits)
    if backend not in VIDEO_BACKENDS:
        raise VideoReadError(f"backend={backend!r} is not known; choose one of {', '.join(VIDEO_BACKENDS)}.")
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise VideoReadError(f"num_threads={num_threads!r}: give a whole number of threads, 1 or more.")
    if _is_frames(video):
        return _read_memory(video, request, timestamps)
    if timestamps is not None:
        raise VideoReadError(
            "timestamps were given together with a video file. A file brings its own time stamps; leave the argument "
            "out, or hand over decoded frames."
        )
    with _opened_source(video, limits, allow_urls) as source:
        if not isinstance(source, _Source):
            return _read_decoder(source, request)
        return _read_source(source, request, "pyav" if backend == "auto" else backend, num_threads)


# ---------------------------------------------------------------------------------------------------------------------
# What is asked for
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Request:
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
            chosen = within[self._is_on_screen_at_a_target(seconds[within], duration)]
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

    def _is_on_screen_at_a_target(self, seconds: np.ndarray, duration: float) -> np.ndarray:
        """
        For each frame whether one of the times `origin + i / fps` falls between it and the next frame.

        Counting the targets before each change of picture costs one array, however large `fps` is.
        """
        origin = float(seconds[0]) if self.start is None else self.start
        before = np.ceil((seconds - origin) * self.fps - _TIME_TOLERANCE)
        before[0] = 0.0  # the frame on screen at `start` may have come earlier
        if self.end is None:
            num_targets = np.ceil((duration - origin) * self.fps - _TIME_TOLERANCE)
        else:
            num_targets = np.floor((min(self.end, duration) - origin) * self.fps + _TIME_TOLERANCE) + 1
        return np.append(before[1:], max(num_targets, 1.0)) > before


class _Clock:
    """Stops a read that takes longer than the limit. It is asked between packets: a single packet cannot be cut."""

    def __init__(self, name: str, seconds: float | None) -> None:
        self.name = name
        self.seconds = seconds
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise VideoReadError(
                f"{self.name}: reading took longer than the limit of {self.seconds} s. Ask for fewer frames or a "
                "shorter window, re-encode the video smaller, or raise VideoLimits(max_decode_seconds=...)."
            )


# ---------------------------------------------------------------------------------------------------------------------
# Where it comes from
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class _Source:
    """A video file as a path or as bytes, under its full name and the one that messages use for it."""

    full_name: str
    path: str | None = None
    data: bytes | None = None
    head: bytes = field(default=b"", repr=False)
    num_bytes: int = 0

    @property
    def name(self) -> str:
        return shorten_name(self.full_name)

    def for_reading(self) -> str | io.BytesIO:
        """What PyAV and decord open; each call gives an independent reader."""
        return self.path if self.data is None else io.BytesIO(self.data)

    def open_binary(self) -> Any:
        return open(self.path, "rb") if self.data is None else io.BytesIO(self.data)


def _check_num_bytes(name: str, num_bytes: int, limits: VideoLimits) -> None:
    if num_bytes == 0:
        raise VideoReadError(f"{name} is empty (0 bytes). Copy or download it again.")
    if limits.max_bytes is not None and num_bytes > limits.max_bytes:
        raise VideoReadError(
            f"{name} has {num_bytes} bytes, over the limit of {limits.max_bytes}. Cut or re-encode it, or pass "
            f"limits=VideoLimits(max_bytes=...)."
        )


def _source_from_path(path: str, limits: VideoLimits, name: str | None = None) -> _Source:
    """Check that `path` is a readable file of a bearable size, before any decoder sees it."""
    full_name = path if name is None else name
    name = shorten_name(full_name)
    if "\0" in path:
        raise VideoReadError(f"{name!r} holds a null character, which no file name can. Was it meant as bytes?")
    # An absolute path cannot be taken for a protocol ("concat:a|b") by the decoders.
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoReadError(f"{name} is a directory, not a video file. Give the path of one file in it.")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            raise VideoReadError(f"{name} is a pipe or a device, not a file. Save the video to a file first.")
        with open(path, "rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise VideoReadError(
            f"{name} does not exist. Check the path (the working directory is {os.getcwd()})."
        ) from error
    except PermissionError as error:
        raise VideoReadError(
            f"{name} cannot be opened: no permission to read it. Change its mode or owner."
        ) from error
    except OSError as error:
        raise VideoReadError(f"{name} cannot be opened: {error.strerror or error}.") from error
    _check_num_bytes(name, status.st_size, limits)
    return _Source(full_name=full_name, path=path, head=head, num_bytes=status.st_size)


def _source_from_bytes(data: Any, limits: VideoLimits, name: str) -> _Source:
    data = bytes(data)
    _check_num_bytes(name, len(data), limits)
    return _Source(full_name=name, data=data, head=data[:4096], num_bytes=len(data))


@contextmanager
def _temporary_path() -> Iterator[str]:
    """Path of an empty file that is gone afterwards, whatever happens. Not open: Windows opens a file only once."""
    handle, path = tempfile.mkstemp(prefix="linvt_video_")
    os.close(handle)
    try:
        yield path
    finally:
        os.unlink(path)


def _copy_file_object(reader: Any, path: str, name: str, limits: VideoLimits) -> None:
    num_bytes = 0
    with open(path, "wb") as file:
        while True:
            chunk = reader.read(_COPY_CHUNK)
            if isinstance(chunk, str):
                raise VideoReadError(f"{name} delivers text, not bytes. Open the file in binary mode ('rb').")
            if not chunk:
                _check_position(reader, name, num_bytes)
                return
            num_bytes += len(chunk)
            if limits.max_bytes is not None and num_bytes > limits.max_bytes:
                raise VideoReadError(
                    f"{name} delivers more than the limit of {limits.max_bytes} bytes. Cut or re-encode the video, or "
                    "pass limits=VideoLimits(max_bytes=...)."
                )
            file.write(chunk)


def _check_position(reader: Any, name: str, num_bytes: int) -> None:
    """Say of a file object that was read before that it was: it is not empty, it stands at its end."""
    position = 0
    with suppress(Exception):  # a reader from anywhere may know no position, or raise anything
        position = int(reader.tell())
    if num_bytes == 0 and position > 0:
        raise VideoReadError(
            f"{name} has nothing left to read: it stands at byte {position}, its end. Call seek(0) before giving it "
            "again."
        )


@contextmanager
def _opened_source(video: Any, limits: VideoLimits, allow_urls: bool) -> Iterator[Any]:
    """A [`_Source`] for anything that holds a video file, or the decoder itself if its file cannot be reached."""
    if isinstance(video, dict):
        video = _from_datasets_dict(video)
    elif hasattr(video, "get_frame_at") and hasattr(video, "metadata"):
        encoded = getattr(video, "_hf_encoded", None)
        if not isinstance(encoded, dict):
            yield video
            return
        video = _from_datasets_dict(encoded)
    if isinstance(video, os.PathLike):
        video = os.fspath(video)
    with ExitStack() as stack:
        if isinstance(video, str):
            if is_data_url(video):
                yield _source_from_bytes(read_data_url(video, limits.max_bytes), limits, name_of_address(video))
                return
            scheme = scheme_of(video)
            if scheme in (None, "file"):
                yield _source_from_path(video if scheme is None else path_of_file_url(video), limits)
                return
            check_url_allowed(video, scheme, allow_urls)
            path = stack.enter_context(_temporary_path())
            name = download_video(video, path, limits)
            yield _source_from_path(path, limits, name=name)
        elif isinstance(video, bytes | bytearray | memoryview):
            yield _source_from_bytes(video, limits, "<bytes in memory>")
        elif hasattr(video, "read"):
            path = stack.enter_context(_temporary_path())
            name = getattr(video, "name", None)
            name = name if isinstance(name, str) else "<file object>"
            _copy_file_object(video, path, shorten_name(name), limits)
            yield _source_from_path(path, limits, name=name)
        else:
            raise VideoReadError(
                f"A video of type {type(video).__name__} is not understood. Give a path, bytes, a file object, an "
                "array or tensor of frames, a list of PIL images, or an entry of a `datasets` video column."
            )


def _from_datasets_dict(entry: dict) -> Any:
    data, path = entry.get("bytes"), entry.get("path")
    if data is not None:
        return data
    if path is not None:
        return path
    raise VideoReadError(
        f"A dictionary with the keys {sorted(map(str, entry))} holds no video: 'bytes' or 'path' must be there and "
        "not None, as in a `datasets` video column."
    )


# ---------------------------------------------------------------------------------------------------------------------
# The file as PyAV sees it
# ---------------------------------------------------------------------------------------------------------------------


def _describe_non_video(source: _Source) -> str:
    """What a file that no demuxer takes looks like, and what to do about it."""
    head = source.head.lstrip().lower()
    declared = _declared_num_bytes(source)
    if declared is not None and declared > source.num_bytes:
        return f"it is cut off, only {source.num_bytes} of its {declared} bytes are there. Download it again"
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")):
        return (
            "it is a web page (HTML), probably an error or log-in page saved in place of the video. Download it again"
        )
    if head.startswith((b"#extm3u", b"ffconcat", b"<mpd")):
        return "it is a play list that refers to other files, which are not followed. Give the video file itself"
    if source.head[4:8] == b"ftyp":
        return (
            "it begins like an MP4 but its index ('moov') is missing or damaged: the file is cut off or its recording "
            "was not finished. Download it again"
        )
    if not source.head.strip(b"\0"):
        return "it holds only zeros, as an unfinished download does. Download it again"
    return "its content is not that of a video file, or it is damaged at the very beginning. Check where it comes from"


def _open_container(file: str | io.BytesIO, **options: str) -> Any:
    """
    `av.open` with what every PyAV from 15 on takes, and further options of the demuxer.

    Before 19 it fails on a title that is not UTF-8 unless told what to do about it; 19 has no such argument.
    """
    # not `options`: PyAV 15 crashes on them where streams are found late (MPEG program streams)
    container_options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **options}
    try:
        return av.open(file, container_options=container_options, metadata_errors="replace")
    except TypeError:
        return av.open(file, container_options=container_options)


def _is_thumbnail(stream: Any) -> bool:
    """Whether a video stream is likely to be a single picture: in a coding of pictures, and not said to hold more."""
    context = stream.codec_context
    return context is not None and context.name in _PICTURE_CODECS and stream.frames <= 1


class _File:
    """One opened video file: its video stream, its packets, and an end to both."""

    def __init__(self, source: _Source, clock: _Clock, num_threads: int = 1, **options: str) -> None:
        self.source, self.clock = source, clock
        try:
            self.container = _open_container(source.for_reading(), **options)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise VideoReadError(f"{source.name} cannot be read: {_describe_non_video(source)}.") from error
        try:
            self.stream = self._video_stream()
            context = self.stream.codec_context
            declared = _declared_num_bytes(source) if context is None else None
            if declared is not None and declared > source.num_bytes:
                raise VideoReadError(f"{source.name} cannot be read: {_describe_non_video(source)}.")
            if context is None:
                raise VideoReadError(
                    f"{source.name}: its video is in a codec that this build of FFmpeg does not know. Re-encode it, "
                    "for example to H.264."
                )
            if self.codec == "hevc":  # this decoder keeps most errors to itself otherwise
                context.options = {"err_detect": "explode"}
            context.thread_count = num_threads
            context.thread_type = "AUTO" if num_threads > 1 else "SLICE"
        except BaseException:
            self.container.close()
            raise

    def _video_stream(self) -> Any:
        """
        The first stream that is no thumbnail, one that is marked as default before one that is not.

        Not simply the first: some programs put a thumbnail in front of the video as a stream of its own.
        """
        # A cover picture in an audio file is stored as a video stream of one frame.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self.container.streams.video if not stream.disposition & cover]
        if not streams:
            kinds = sorted({stream.type for stream in self.container.streams}) or ["nothing"]
            raise VideoReadError(
                f"{self.source.name} holds no video, only {', '.join(kinds)}. Give a file with a picture track."
            )

        def rank(stream: Any) -> tuple[bool, bool]:
            return _is_thumbnail(stream), not stream.disposition & av.stream.Disposition.default

        return min(streams, key=rank)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *exception: object) -> None:
        self.container.close()

    @property
    def format(self) -> str:
        return self.container.format.name.split(",")[0]

    @property
    def has_places_only(self) -> bool:
        """Whether the times of frames are the places of their packets, which the decoder is told as time stamps."""
        return self.format in _FORMATS_WITHOUT_TIME_STAMPS

    @property
    def codec(self) -> str:
        """Name of the coding, not of the decoder: `"av1"` where the decoder is libdav1d."""
        context = self.stream.codec_context
        return getattr(context.codec, "canonical_name", None) or context.name

    def packets(self) -> Iterator[Any]:
        """
        Packets of the video stream in file order, the last one empty (it flushes the decoder).

        `None` stands for a place that could not be read; reading goes on behind it, but not for ever.
        """
        errors = 0
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    self.clock.check()
                    errors = 0
                    yield packet
                return
            except (av.error.FFmpegError, OSError):
                self.clock.check()
                yield None
                errors += 1
                if errors >= _MAX_READ_ERRORS_IN_A_ROW:
                    return


@dataclass
class _FrameTable:
    """
    All frames of a video in the order in which they are shown, made from its packets alone.

    Args:
        pts (`list[int]`): Presentation time stamps in units of `time_base`, strictly increasing; empty if unusable.
        stamps (`list[int]`):
            What the packets say, usable or not: sorted, less what is out of all order. In AVI the places of the chunks
            that hold a picture.
        keys (`list[tuple[int, int]]`):
            Presentation and decoding time stamps of the key frames, those hidden in front of an edit included; sorted.
        first_pts, time_base: `seconds = (pts - first_pts) * time_base`.
        duration (`float`): Seconds.
        last_duration (`float`): Seconds that the last frame stays; 0 if nothing tells.
        cut_off (`str`, *optional*): What is missing of a file that stops too early.
        has_hidden_packets (`bool`): Whether an edit list hides packets (a file trimmed without re-encoding).
        has_leading_frames (`bool`): Whether frames are shown before the key frame they are stored behind (open GOP).
    """

    pts: list[int]
    stamps: list[int]
    keys: list[tuple[int, int]]
    time_base: float
    duration: float
    last_duration: float = 0.0
    cut_off: str | None = None
    has_hidden_packets: bool = False
    has_leading_frames: bool = False
    can_seek: bool = False
    format: str = ""
    codec: str = ""
    stream_index: int = 0
    num_video_streams: int = 1

    def key_before(self, pts: int) -> int | None:
        """Position in `keys` of the key frame at or before a time stamp; `None` if there is none."""
        position = bisect.bisect_right(self.keys, pts, key=lambda key: key[0]) - 1
        return None if position < 0 else position

    @property
    def seconds(self) -> np.ndarray:
        return (np.asarray(self.pts, dtype=np.float64) - (self.pts[0] if self.pts else 0)) * self.time_base


def _check_duration(name: str, seconds: float, limits: VideoLimits) -> None:
    if limits.max_duration is not None and seconds > limits.max_duration:
        raise VideoReadError(
            f"{name} lasts {seconds:.0f} s by its time stamps, over the limit of {limits.max_duration:.0f} s. Cut it, "
            f"or pass limits=VideoLimits(max_duration={math.ceil(seconds)})."
        )


def _check_frame_size(name: str, height: int, width: int, limits: VideoLimits) -> None:
    if limits.max_pixels is not None and height * width > limits.max_pixels:
        raise VideoReadError(
            f"{name} has frames of {width}x{height} = {width * height} pixels, over the limit of {limits.max_pixels}. "
            "Scale it down, or pass limits=VideoLimits(max_pixels=...)."
        )


def _declared_num_bytes(source: _Source) -> int | None:
    """
    How long the file says it is: the end of its last MP4 box, Matroska segment or RIFF chunk; `None` if it does not.

    Demuxers read a cut-off Matroska or fragmented MP4 file to where it stops and report no error at all.
    """
    with source.open_binary() as file:
        if source.head[:4] == b"\x1aE\xdf\xa3":
            return _declared_matroska_bytes(source.head)
        is_riff = source.head[:4] == b"RIFF"
        if not is_riff and source.head[4:8] not in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return None
        position = 0
        while position < source.num_bytes:
            file.seek(position)
            header = file.read(16)
            if is_riff:
                if header[:4] != b"RIFF" or len(header) < 8:
                    break
                size = 8 + int.from_bytes(header[4:8], "little")
                size += size % 2
            else:
                size = int.from_bytes(header[:4], "big")
                if size == 1:
                    size = int.from_bytes(header[8:16], "big")
                # A box of size 0 reaches to the end of the file; anything else below 8 is not a box.
                if size < 8 or len(header) < 8 or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", header[4:8]):
                    break
            position += size
        return max(position, source.num_bytes)


def _declared_matroska_bytes(head: bytes) -> int | None:
    def number(position: int) -> tuple[int | None, int]:
        """An EBML number: the leading zero bits of its first byte say how many bytes it has."""
        first = head[position] if position < len(head) else 0
        length = 9 - first.bit_length()
        raw = int.from_bytes(head[position : position + length], "big")
        value = raw & ((1 << (7 * length)) - 1)
        unknown = first == 0 or value == (1 << (7 * length)) - 1  # all ones: written by a live recording
        return (None if unknown else value), position + length

    size, position = number(4)
    segment = head.find(b"\x18S\x80g", position + (size or 0))
    if segment < 0:
        return None
    size, position = number(segment + 4)
    return None if size is None else position + size


@dataclass
class _Tally:
    """What was counted and noted while the packets of a file were read."""

    order: list[int] = field(default_factory=list)  # time stamps of what is to be shown, in the order of the file
    keys: list[tuple[int, int]] = field(default_factory=list)
    num_read: int = 0
    num_corrupt: int = 0
    num_hidden: int = 0
    num_errors: int = 0
    num_without_stamp: int = 0
    num_before_decoding: int = 0  # frames that would be shown before they are decoded
    has_leading_frames: bool = False
    last_duration: int = 0

    def add(self, packet: Any) -> None:
        """Note a packet that holds a picture."""
        self.num_read += 1
        self.num_corrupt += packet.is_corrupt
        pts, dts = packet.pts, packet.dts
        if pts is None:
            self.num_without_stamp += 1
            return
        self.has_leading_frames |= bool(self.keys) and pts < self.keys[-1][0]
        self.num_before_decoding += dts is not None and pts < dts
        if packet.is_keyframe:
            self.keys.append((pts, pts if dts is None else dts))
        if packet.is_discard:
            self.num_hidden += 1
            return
        self.order.append(pts)
        self.last_duration = packet.duration or 0

    def plausible(self, max_reordered: int) -> list[int]:
        """The stamps in the order shown, less those that stand further from their place in the file than possible."""
        if max_reordered == 0:
            return [self.order[place] for place in increasing_part(self.order)]
        by_stamp = sorted(range(len(self.order)), key=self.order.__getitem__)
        return [self.order[place] for rank, place in enumerate(by_stamp) if abs(rank - place) <= max_reordered]


def _read_packets(file: _File, limits: VideoLimits) -> _Tally:
    """Read every packet of a file; a film over the limit of duration is refused as soon as it is seen to be one."""
    tally = _Tally()
    time_base, lowest, num_beyond = float(file.stream.time_base), None, 0
    for packet in file.packets():
        if packet is None:
            tally.num_errors += 1
            continue
        if packet.size == 0:  # the flush packet, or in AVI a place where the picture before stays
            continue
        if file.has_places_only:
            packet.pts = packet.dts
        tally.add(packet)
        if packet.pts is None or packet.is_discard:
            continue
        lowest = packet.pts if lowest is None else min(lowest, packet.pts)
        seconds = (packet.pts - lowest) * time_base
        num_beyond += limits.max_duration is not None and seconds > limits.max_duration
        if num_beyond > _MAX_REORDERED:  # a few may have a false time stamp
            _check_duration(file.source.name, seconds, limits)
    return tally


def _missing_part(source: _Source, file: _File, tally: _Tally, clock: _Clock) -> str | None:
    """What a file lacks that stops too early, in words; `None` if it is whole or says nothing about its length."""
    expected = file.stream.frames if file.format == "mov" else 0
    declared = _declared_num_bytes(source)
    is_short = declared is not None and declared > source.num_bytes
    if expected and tally.num_read < expected:  # the header counts what an edit list keeps from being shown, too
        with _File(source, clock, ignore_editlist="1") as whole:
            tally = _read_packets(whole, VideoLimits(max_duration=None))
    num_intact = tally.num_read - tally.num_corrupt
    if expected and num_intact < expected and (is_short or tally.num_errors or tally.num_read < expected):
        return f"only {num_intact} of its {expected} frames are there"
    if is_short and not expected:
        return f"{source.num_bytes} of its {declared} bytes are there, with {num_intact} frames"
    return None


def _scan(source: _Source, clock: _Clock, limits: VideoLimits) -> _FrameTable:
    """Read all packets once, without decoding, and lay out the frames they will give."""
    with _File(source, clock) as file:
        context = file.stream.codec_context
        _check_frame_size(source.name, context.height or 0, context.width or 0, limits)
        tally = _read_packets(file, limits)
        if tally.num_read == 0 and tally.num_errors == 0:
            raise VideoReadError(f"{source.name} has a video track with no frame in it. Record or export it again.")
        time_base = float(file.stream.time_base)
        pts = sorted(tally.order)
        stamps = tally.plausible(_MAX_REORDERED if context.has_b_frames else 0)
        usable = (
            0 < len(pts) == len(stamps)
            and tally.num_without_stamp == tally.num_before_decoding == 0
            and all(a < b for a, b in zip(pts, pts[1:], strict=False))
            and file.codec not in _CODECS_WITH_INVISIBLE_PACKETS
            and not file.has_places_only
        )
        last_duration = (tally.last_duration or usual_gap(stamps)) * time_base
        return _FrameTable(
            pts=pts if usable else [],
            stamps=stamps,
            keys=sorted(tally.keys),
            time_base=time_base,
            duration=(pts[-1] - pts[0]) * time_base + last_duration if usable else 0.0,
            last_duration=last_duration,
            has_hidden_packets=tally.num_hidden > 0,
            has_leading_frames=tally.has_leading_frames,
            can_seek=usable and file.format in _SEEKABLE_FORMATS and tally.num_errors == 0 and tally.num_corrupt == 0,
            format=file.format,
            codec=file.codec,
            stream_index=file.stream.index,
            num_video_streams=len(file.container.streams.video),
            cut_off=_missing_part(source, file, tally, clock),
        )


# ---------------------------------------------------------------------------------------------------------------------
# Decoding with PyAV
# ---------------------------------------------------------------------------------------------------------------------


_B = av.video.frame.PictureType.B


def _is_intra(frame: Any) -> bool:
    """Whether decoding can start at a frame: marked as a key frame, and a whole picture (intra-refresh has none)."""
    return bool(frame.key_frame) and frame.pict_type == av.video.frame.PictureType.I


class _Damage:
    """
    Follows damage through a stream: which decoded frames are broken or built on something broken.

    From a packet that the decoder refuses, everything is doubtful until a key frame comes out that went in later. From
    a frame that comes out marked corrupt, everything until the next key frame, and the B frames just before it, which
    may have referred to it. Damage that a decoder does not notice (flipped bits that still decode) stays unseen.
    """

    def __init__(self) -> None:
        self.broken: set[object] = set()  # one entry per broken packet, also when it is read twice
        self.restart()

    def restart(self) -> None:
        """A seek: what follows begins at a key frame and owes nothing to what was decoded before."""
        self.num_fed = 0
        self.fed_at: dict[int, int] = {}
        self.doubtful_since: int | None = None
        self.b_frames: list[int | None] = []

    def feed(self, packet: Any) -> None:
        self.num_fed += 1
        if packet.pts is not None:
            self.fed_at[packet.pts] = self.num_fed
        if packet.is_corrupt:
            self.packet_broke(packet.pts)

    def packet_broke(self, pts: int | None) -> None:
        self.broken.add(("packet", self.num_fed) if pts is None else pts)
        self.doubtful_since = self.num_fed

    def frame_came(self, frame: Any) -> tuple[bool, list[int | None]]:
        """Whether this frame is intact, and the time stamps of earlier ones that turn out not to be."""
        if (
            self.doubtful_since is not None
            and _is_intra(frame)
            and self.fed_at.get(frame.pts, -1) > self.doubtful_since
        ):
            self.doubtful_since = None
        revoked: list[int | None] = []
        if frame.is_corrupt:
            revoked, self.b_frames = self.b_frames, []
            self.packet_broke(frame.pts)
            # the key frame after a corrupt one was fed after it, whatever else is already inside the decoder
            self.doubtful_since = self.fed_at.get(frame.pts, self.num_fed)
        if frame.pict_type == _B:
            self.b_frames.append(frame.pts)
        else:
            self.b_frames = []
        return self.doubtful_since is None, revoked


def _decoded(file: _File, damage: _Damage) -> Iterator[Any]:
    """Frames in the order shown, from where the file stands to its end; what does not decode is noted and skipped."""
    for packet in file.packets():
        if packet is None:
            damage.packet_broke(None)
            continue
        is_flush = packet.dts is None and packet.pts is None
        if packet.size == 0 and not is_flush:  # an empty packet would end decoding
            continue
        if packet.size:
            if file.has_places_only:
                packet.pts = packet.dts
            damage.feed(packet)
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            damage.packet_broke(packet.pts)
            continue
        yield from frames


def _upright(image: np.ndarray, matrix: tuple[int, int, int, int], name: str) -> np.ndarray:
    """
    Apply a display matrix: `x' = a x + c y`, `y' = b x + d y`, in 16.16 fixed point, y pointing down.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): As stored.
        matrix (`tuple[int, int, int, int]`): `(a, b, c, d)`.
        name (`str`): The file, for the message.

    Example:

    >>> one = 65536
    >>> _upright(np.arange(6).reshape(2, 3, 1), (0, one, -one, 0), "clip.mp4")[..., 0].tolist()  # turned to the right
    [[3, 0], [4, 1], [5, 2]]
    """
    a, b, c, d = matrix
    along, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    rest = max(abs(b), abs(c)) if along else max(abs(a), abs(d))
    if rest * 50 > max(along, across):
        raise VideoReadError(
            f"{name} is to be shown turned by an angle that is no multiple of 90 degrees (display matrix {matrix}). "
            "Re-encode it upright."
        )
    flip_x, flip_y = a < 0, d < 0
    if across > along:
        image, flip_x, flip_y = image.swapaxes(0, 1), c < 0, b < 0
    if flip_x:
        image = image[:, ::-1]
    return image[::-1] if flip_y else image


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    try:
        side_data = frame.side_data
    except ValueError:
        _name_unknown_side_data()
        side_data = frame.side_data
    # by name: what iterating gives differs between versions of PyAV
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return (a, b, c, d)


def _name_unknown_side_data() -> None:
    """
    Give PyAV names for the kinds of side data that it does not know, as PyAV 19 has them itself.

    Before, one kind that is newer than PyAV (EXIF in the frames of a camera) keeps all others from being looked at.
    """
    kinds = av.sidedata.sidedata.Type

    def named(cls: type, value: object) -> Any:
        if not isinstance(value, int):
            return None
        member = object.__new__(cls)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return cls._value2member_map_.setdefault(value, member)

    kinds._missing_ = classmethod(named)


class _Album:
    """The returned frames, one array made when the first frame shows its size; a second copy is never held."""

    def __init__(self, name: str, count: int, limits: VideoLimits) -> None:
        self.name, self.count, self.limits = name, count, limits
        self.frames: np.ndarray | None = None
        # One for all frames, and not each frame's own: a frame whose side data were looked at lies in a reference
        # cycle, and its scaler has threads. A forked data loader worker that collects it waits for them for ever.
        self.reformatter = av.video.reformatter.VideoReformatter()

    def put(self, place: int, image: np.ndarray) -> None:
        """Copy one upright frame of shape `(height, width, 3)` into its place."""
        if self.frames is None:
            num_bytes = self.count * image.size
            if self.limits.max_output_bytes is not None and num_bytes > self.limits.max_output_bytes:
                raise VideoReadError(
                    f"{self.name}: {self.count} frames of {image.shape[1]}x{image.shape[0]} take {num_bytes} bytes, "
                    f"over the limit of {self.limits.max_output_bytes}. Ask for fewer frames, scale the video down, "
                    "or pass limits=VideoLimits(max_output_bytes=...)."
                )
            self.frames = np.empty((self.count, *image.shape), dtype=np.uint8)
        if image.shape != self.frames.shape[1:]:
            raise VideoReadError(
                f"{self.name} changes its frame size from {self.frames.shape[2]}x{self.frames.shape[1]} to "
                f"{image.shape[1]}x{image.shape[0]} on the way. Choose a window with start and end, or re-encode it."
            )
        self.frames[place] = image

    def put_frame(self, place: int, frame: Any) -> None:
        _check_frame_size(self.name, frame.height, frame.width, self.limits)
        # Said aloud because PyAV 15 does not look at the frame for them: BT.709 in most HD video, full range in some.
        image = self.reformatter.reformat(
            frame,
            format="rgb24",
            src_color_range=frame.color_range,
            dst_colorspace=av.video.reformatter.Colorspace.DEFAULT,
        ).to_ndarray()
        matrix = _display_matrix(frame)
        self.put(place, image if matrix is None else _upright(image, matrix, self.name))


class _NoAlbum(_Album):
    """Takes frames and keeps none: for decoding that only looks for damage."""

    def put_frame(self, place: int, frame: Any) -> None:
        _check_frame_size(self.name, frame.height, frame.width, self.limits)


class _PyAVReader:
    """Reads chosen frames of one file: by seeking if the table allows it, else from the start."""

    def __init__(
        self, source: _Source, table: _FrameTable, request: _Request, clock: _Clock, num_threads: int
    ) -> None:
        self.source, self.request, self.clock, self.num_threads = source, request, clock, num_threads
        self.table = table
        self.follows = dict(zip(table.pts, table.pts[1:], strict=False))
        self.key_pts = {pts for pts, _ in table.keys}
        self.damage = _Damage()

    def open(self) -> _File:
        return _File(self.source, self.clock, self.num_threads)

    def may_begin_with(self, frame: Any) -> bool:
        """Whether decoding rightly began at this frame, the first after a seek."""
        if self.table.has_hidden_packets and frame.pts == self.table.pts[0]:
            return True  # a key frame hidden in front of an edit was decoded before it and did not come out
        return _is_intra(frame) and frame.pts in self.key_pts

    def collect(self, file: _File, wanted: dict[int, int], album: _Album, has_sought: bool) -> bool:
        """
        Decode from where `file` stands until every frame of `wanted` (time stamp -> place) is in the album.

        False as soon as one is found to be missing or damaged, or if the first picture after a seek is not that of a
        key frame (`has_sought`).
        """
        targets = sorted(wanted)
        follows = self.follows
        num_found, since_last, is_first = 0, 0, has_sought
        previous: int | None = None
        for frame in _decoded(file, self.damage):
            if frame.pts is None or (is_first and not self.may_begin_with(frame)):
                return False
            if previous is not None and follows.get(previous) != frame.pts:  # one is missing, or not in its order
                return False
            is_first, previous = False, frame.pts
            is_intact, revoked = self.damage.frame_came(frame)
            if any(pts in wanted for pts in revoked):
                return False
            if num_found == len(targets):
                since_last += 1
            elif frame.pts > targets[num_found] or (frame.pts == targets[num_found] and not is_intact):
                return False
            elif frame.pts == targets[num_found]:
                album.put_frame(wanted[frame.pts], frame)
                num_found += 1
            # The last one is certain when the picture behind it, to which it may refer, came out without a complaint.
            is_b = frame.pict_type == _B
            if num_found == len(targets) and (not is_b or since_last >= _MAX_REORDERED):
                return True
        return num_found == len(targets)

    def by_seeking(self, wanted: dict[int, int], album: _Album) -> bool:
        """One seek per group of wanted frames that share a key frame."""
        table = self.table
        groups: dict[int, dict[int, int]] = {}
        for pts, place in wanted.items():
            position = table.key_before(pts)
            if position is None:
                return False
            groups.setdefault(position, {})[pts] = place
        with self.open() as file:
            for position, group in groups.items():
                self.damage.restart()
                try:
                    file.container.seek(table.keys[position][0], stream=file.stream)
                except (av.error.FFmpegError, OSError):
                    return False
                if not self.collect(file, group, album, has_sought=True):
                    return False
        return True

    def from_start(self, wanted: dict[int, int], album: _Album) -> bool:
        self.damage.restart()
        with self.open() as file:
            return self.collect(file, wanted, album, has_sought=False)

    def shown(self) -> tuple[list[int | None], np.ndarray, float]:
        """Decode everything, keep nothing: time stamp and intactness of each frame, and the nominal seconds of one."""
        stamps: list[int | None] = []
        intact: list[bool] = []
        kinds: list[str] = []
        self.damage.restart()
        with self.open() as file:
            rate = file.stream.average_rate or file.stream.guessed_rate or file.stream.base_rate
            for frame in _decoded(file, self.damage):
                is_intact, revoked = self.damage.frame_came(frame)
                intact[len(intact) - len(revoked) :] = [False] * len(revoked)
                stamps.append(frame.pts)
                intact.append(is_intact)
                kinds.append("I" if _is_intra(frame) else "B" if frame.pict_type == _B else "P")
        if None not in stamps and stamps == sorted(stamps):
            self._doubt_neighbours_of_missing(stamps, intact, kinds)
        return stamps, np.asarray(intact, dtype=bool), 1.0 / float(rate) if rate else 0.0

    def _doubt_neighbours_of_missing(self, stamps: list[int], intact: list[bool], kinds: list[str]) -> None:
        """A packet that gave no frame and no error either broke: doubt what may refer to it, as with any other."""
        missing = sorted(set(self.table.pts) - set(stamps))
        first_key = self.table.keys[0][0] if self.table.keys else 0
        for pts in missing:
            if pts < first_key:  # shown before the first key frame: it refers to what was cut off in front of the file
                continue
            self.damage.broken.add(pts)
            behind = bisect.bisect_right(stamps, pts)
            place = behind - 1
            while place >= 0 and kinds[place] == "B":
                intact[place] = False
                place -= 1
            place = behind
            while place < len(stamps) and kinds[place] != "I":
                intact[place] = False
                place += 1

    def by_order(self, places: dict[int, int], album: _Album) -> None:
        """Decode from the start and keep the frames whose position in the order shown is wanted."""
        last = max(places)
        with self.open() as file:
            for position, frame in enumerate(_decoded(file, _Damage())):
                if position in places:
                    album.put_frame(places[position], frame)
                if position == last:
                    return


def _read_pyav(source: _Source, table: _FrameTable, request: _Request, clock: _Clock, num_threads: int) -> VideoFrames:
    """Frames of the packet table by seeking, else from the start; else of a table made by decoding the whole file."""
    reader = _PyAVReader(source, table, request, clock, num_threads)
    if table.pts:
        seconds = table.seconds
        _check_duration(source.name, table.duration, request.limits)
        chosen = request.choose(seconds, table.duration, source.name)
        wanted = {table.pts[index]: place for place, index in enumerate(chosen)}
        album = _Album(source.name, len(chosen), request.limits)
        done = table.can_seek and reader.by_seeking(wanted, album)
        if done or reader.from_start(wanted, album):
            return _finish(source.name, "pyav", album, seconds, chosen, table.duration, reader.damage)
    return _read_by_order(source, table, request, reader)


@dataclass
class _Timeline:
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
    has_b_frames = None not in stamps and stamps != sorted(stamps)
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

    It is taken for a B frame where there are such: if it was none, what follows is damaged up to the next key frame,
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


def _lay_out(
    table: _FrameTable, stamps: list[int | None], is_intact: np.ndarray, nominal: float, is_damaged: bool
) -> _Timeline:
    """Place the frames that came out of decoding (their time stamps in the order shown), and those that did not."""
    ticks, lost = stamps, not_among(table.stamps, stamps)
    if table.format in _FORMATS_WITHOUT_TIME_STAMPS:
        ticks, lost = _places_of_frames(stamps, table.stamps)
        lost = lost if is_damaged else []  # some programs fill places with chunks that only say "as before"
    elif table.codec in _CODECS_WITH_INVISIBLE_PACKETS:
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
    return _Timeline(
        seconds=(everything[order] - everything[order[0]]) * table.time_base,
        is_intact=np.concatenate([is_intact, np.zeros(len(missing), dtype=bool)])[order],
        position=position,
        num_guessed=int(is_guess.sum()),
    )


def _read_by_order(source: _Source, table: _FrameTable, request: _Request, reader: _PyAVReader) -> VideoFrames:
    """For packets without usable time stamps, and for damage: decode all, then choose among what came out intact."""
    stamps, is_intact, nominal = reader.shown()
    num_broken = len(reader.damage.broken)
    if not stamps:
        raise VideoReadError(
            f"{source.name}: none of its frames could be decoded (codec {table.codec}, {num_broken} broken packets). "
            "Copy or download it again, or re-encode it."
        )
    line = _lay_out(table, stamps, is_intact, nominal, num_broken > 0)
    if num_broken and line.num_guessed == len(stamps):
        raise VideoReadError(
            f"{source.name} is damaged ({num_broken} broken packets) and has no time stamps, so that what follows the "
            "damage cannot be placed in time. Copy or download it again."
        )
    seconds = line.seconds
    duration = float(seconds[-1]) + (table.last_duration or nominal)
    _check_duration(source.name, duration, request.limits)
    first, last = request.window(seconds, duration, source.name)
    if not line.is_intact[first : last + 1].any():
        raise VideoReadError(
            f"{source.name}: all {last - first + 1} frames of the window are damaged ({num_broken} broken packets). "
            "Choose another window, or copy or download it again."
        )
    chosen = request.choose(seconds, duration, source.name, line.is_intact)
    album = _Album(source.name, len(chosen), request.limits)
    reader.by_order({int(line.position[index]): place for place, index in enumerate(chosen)}, album)
    num_damaged = int((~line.is_intact).sum())
    result = _finish(source.name, "pyav", album, seconds, chosen, duration, reader.damage, num_damaged)
    if line.num_guessed:
        result.num_guessed_timestamps = line.num_guessed
        logger.warning(
            f"{source.name}: the file does not say when {line.num_guessed} of its {len(seconds)} frames are shown "
            "(time stamps that are missing, repeated or go back); they are placed between the frames around them, or "
            "at its nominal rate. Remux or re-encode it if their times matter."
        )
    return result


def _finish(
    name: str,
    backend: str,
    album: _Album,
    seconds: np.ndarray,
    chosen: list[int],
    duration: float,
    damage: _Damage | None = None,
    num_damaged: int = 0,
) -> VideoFrames:
    num_broken = 0 if damage is None else len(damage.broken)
    if num_broken:
        logger.warning(
            f"{name}: {num_broken} broken packets; {num_damaged} of its {len(seconds)} frames are damaged by them and "
            "were left out, the frames returned are intact. Copy or download the file again to see all of it."
        )
    return VideoFrames(
        frames=album.frames,
        timestamps=seconds[chosen],
        source=name,
        backend=backend,
        duration=duration,
        total_frames=len(seconds),
        average_fps=len(seconds) / duration if duration > 0 else None,
        num_broken_packets=num_broken,
    )


def _read_source(source: _Source, request: _Request, backend: str, num_threads: int) -> VideoFrames:
    clock = _Clock(source.name, request.limits.max_decode_seconds)
    table = _scan(source, clock, request.limits)
    if table.cut_off is not None:
        raise VideoReadError(
            f"{source.name} is cut off: {table.cut_off}. Download it again, or keep what is there with "
            "`ffmpeg -i FILE -c copy NEW_FILE`."
        )
    if backend == "pyav":
        result = _read_pyav(source, table, request, clock, num_threads)
    else:
        result = _read_other(source, table, request, clock, num_threads, backend)
    result.source = source.full_name  # messages have it shorter
    return result


# ---------------------------------------------------------------------------------------------------------------------
# The other backends: the frames of the same table, or a refusal
# ---------------------------------------------------------------------------------------------------------------------


def _why_not(backend: str, source: _Source, table: _FrameTable) -> str | None:
    """Why this backend would not give the right frames of this file; `None` if it does."""
    if table.format not in _SEEKABLE_FORMATS:
        return f"it counts or seeks wrongly in {table.format} files"
    if table.codec not in _CODECS_OF_OTHER_BACKENDS[backend]:
        return f"the codec {table.codec} is not among those it was found right on"
    if table.has_hidden_packets:
        return "the file was trimmed without re-encoding (edit list), and it gives the frames that are to be hidden"
    if not table.can_seek:
        return "the packets of the file are damaged or carry no usable time stamps"
    if backend == "decord" and table.has_leading_frames:
        # It numbers key frames by their place in the file, which is off by the frames stored behind but shown before.
        return "frames are stored behind the key frame they are shown before (open GOP), and it miscounts those"
    if backend == "decord" and table.num_video_streams > 1:
        return f"the file has {table.num_video_streams} video streams, of which it may take another"
    return None


def _check_key_frames(
    backend: str, source: _Source, table: _FrameTable, wanted: list[int], clock: _Clock
) -> tuple[str | None, Any]:
    """
    Why decoding cannot start at the key frames before the wanted time stamps, or `None` and the first of them.

    In a stream with intra-refresh the packets marked as key frames are not whole pictures, and neither decord nor
    torchcodec notices. Each key frame needed is decoded alone, which costs one picture each.
    """
    needed = sorted({table.key_before(pts) for pts in wanted} - {None})
    first_frame = None
    with _File(source, clock) as file:
        for position in needed:
            pts = table.keys[position][0]
            if backend == "decord" and position + 1 < len(table.keys) and table.keys[position + 1][1] <= pts:
                # Seen on an HEVC file with a key frame every other picture: decord landed one key frame too far.
                return "its key frames follow each other so closely that it seeks past them", None
            file.container.seek(table.keys[position][0], stream=file.stream)
            damage = _Damage()
            frame = next((frame for frame in _decoded(file, damage) if frame.pts is None or frame.pts >= pts), None)
            if frame is None or frame.pts != pts or not _is_intra(frame) or frame.is_corrupt or damage.broken:
                return "decoding cannot start at its key frames (intra-refresh or damage)", None
            first_frame = frame if first_frame is None else first_frame
    matrix = None if first_frame is None else _display_matrix(first_frame)
    if matrix is not None and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0:
        return "the picture is to be shown mirrored, and it only turns", None
    return (None, first_frame) if first_frame is not None else ("it does not begin with a key frame", None)


def _why_damaged(
    source: _Source, table: _FrameTable, wanted: list[int], request: _Request, clock: _Clock, num_threads: int
) -> str | None:
    """
    Why the wanted frames are not all intact, or `None`: PyAV decodes them as if it were to return them.

    decord and torchcodec hand out what their decoder patched up for a broken picture, and say nothing. The pictures
    are decoded here once more for that, but not converted to RGB.
    """
    reader = _PyAVReader(source, table, request, clock, num_threads)
    places = {pts: place for place, pts in enumerate(wanted)}
    album = _NoAlbum(source.name, len(wanted), request.limits)
    is_whole = reader.by_seeking(places, album) or reader.from_start(places, album)
    if reader.damage.broken:
        return f"the file is damaged ({len(reader.damage.broken)} broken packets), which it does not tell"
    return None if is_whole else "not all the frames that its packets promise come out of decoding"


def _read_other(
    source: _Source, table: _FrameTable, request: _Request, clock: _Clock, num_threads: int, backend: str
) -> VideoFrames:
    """Frames of the table, decoded by decord or torchcodec after everything known to go wrong there was ruled out."""
    open_other = {"decord": _open_decord, "torchcodec": _open_torchcodec}[backend]
    library = _import_backend(backend)
    reason = _why_not(backend, source, table)
    album, chosen = None, []
    if reason is None:
        seconds = table.seconds
        _check_duration(source.name, table.duration, request.limits)
        chosen = request.choose(seconds, table.duration, source.name)
        wanted = [table.pts[index] for index in chosen]
        reason, first = _check_key_frames(backend, source, table, wanted, clock)
    if reason is None:
        reason = _why_damaged(source, table, wanted, request, clock, num_threads)
    if reason is None:
        _check_frame_size(source.name, first.height, first.width, request.limits)
        expected = _Album(source.name, 1, request.limits)
        expected.put_frame(0, first)
        album = _Album(source.name, len(chosen), request.limits)
        try:
            reason = open_other(library, source, table, num_threads, chosen, album, expected.frames.shape[1:], clock)
        except VideoReadError:
            raise
        except Exception as error:  # both raise a RuntimeError, an Exception subclass of their own, or a ValueError
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"it failed with: {lines[0][:200]}"
    if reason is not None:
        raise VideoReadError(
            f'{source.name} is not read with {backend}: {reason}. Use backend="pyav", which reads this kind of file '
            "exactly or says what is wrong with it."
        )
    return _finish(source.name, backend, album, seconds, chosen, table.duration)


def _import_backend(backend: str) -> Any:
    """Import decord or torchcodec. Being installed says little: torchcodec loads only with an FFmpeg that fits."""
    try:
        if backend == "decord":
            import decord

            decord.logging.set_level(decord.logging.QUIET)  # its FFmpeg writes to the terminal otherwise
            return decord
        import torchcodec.decoders

        return torchcodec.decoders
    except Exception as error:  # OSError and RuntimeError where a shared library is missing, besides ImportError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        how = {
            "decord": "`pip install decord` (Linux on x86-64, Windows on AMD64)",
            "torchcodec": "`pip install torchcodec` in the version that fits your torch, and FFmpeg 4 to 7",
        }
        raise VideoReadError(
            f'backend="{backend}" cannot be used: {lines[0][:200]}. Install it with {how[backend]}, or use '
            'backend="pyav", which is always there.'
        ) from error


def _check_same(image_shape: Sequence[int], shape: Sequence[int]) -> str | None:
    if tuple(image_shape) != tuple(shape):
        return (
            f"it gives frames of {image_shape[1]}x{image_shape[0]} where the video stream, shown upright, has "
            f"{shape[1]}x{shape[0]}"
        )
    return None


def _half_gap(table: _FrameTable) -> float:
    """Seconds: two time stamps further apart than this cannot be those of the same frame."""
    gaps = np.diff(table.seconds)
    return 0.5 * float(gaps.min()) if len(gaps) else 0.5


def _open_decord(
    library: Any,
    source: _Source,
    table: _FrameTable,
    num_threads: int,
    chosen: list[int],
    album: _Album,
    shape: Sequence[int],
    clock: _Clock,
) -> str | None:
    """Fill the album with decord, or say why not. Its own list of frames has to be that of the table."""
    reader = library.VideoReader(source.for_reading(), ctx=library.cpu(0), num_threads=num_threads)
    if len(reader) != len(table.pts):
        return f"it counts {len(reader)} frames where the packets of the file give {len(table.pts)}"
    starts = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
    if np.abs(starts - starts[0] - table.seconds).max() > _half_gap(table):
        return "its time stamps are not those of the file"
    for place, index in enumerate(chosen):
        clock.check()
        image = reader[index].asnumpy()
        reason = _check_same(image.shape, shape)
        if reason is not None:
            return reason
        album.put(place, image)
    return None


def _open_torchcodec(
    library: Any,
    source: _Source,
    table: _FrameTable,
    num_threads: int,
    chosen: list[int],
    album: _Album,
    shape: Sequence[int],
    clock: _Clock,
) -> str | None:
    """Fill the album with torchcodec, or say why not. Every frame brings its own time stamp, which is compared."""
    decoder = library.VideoDecoder(
        source.path if source.data is None else source.data,
        stream_index=table.stream_index,
        dimension_order="NHWC",
        num_ffmpeg_threads=num_threads,
        seek_mode="exact",
    )
    if len(decoder) != len(table.pts):
        return f"it counts {len(decoder)} frames where the packets of the file give {len(table.pts)}"
    tolerance = _half_gap(table)
    for place, index in enumerate(chosen):
        clock.check()
        frame = decoder.get_frame_at(index)
        if abs(frame.pts_seconds - table.pts[index] * table.time_base) > tolerance:
            return f"it gives the frame of {frame.pts_seconds:.3f} s for that of {table.seconds[index]:.3f} s"
        image = frame.data.numpy()
        reason = _check_same(image.shape, shape)
        if reason is not None:
            return reason
        album.put(place, image)
    return None


def _read_decoder(decoder: Any, request: _Request) -> VideoFrames:
    """Frames by position from a torchcodec `VideoDecoder` whose file cannot be reached to make a table of it."""
    name = f"<{type(decoder).__name__}>"
    if request.fps is not None or request.start is not None or request.end is not None:
        raise VideoReadError(
            f"{name}: fps, start and end need the time stamps of all frames, which this object does not tell. Use "
            "num_frames, or give the path or the bytes of the video."
        )
    clock = _Clock(name, request.limits.max_decode_seconds)
    try:
        total = int(decoder.metadata.num_frames)
        if total < 1:
            raise VideoReadError(f"{name} has no frames. Check the video it was made from.")
        first, last = decoder.get_frame_at(0), decoder.get_frame_at(total - 1)
        duration = float(last.pts_seconds + last.duration_seconds - first.pts_seconds)
        _check_duration(name, duration, request.limits)
        chosen = request.choose(np.zeros(total), duration, name)
        album = _Album(name, len(chosen), request.limits)
        seconds = np.zeros(total)
        for place, index in enumerate(chosen):
            clock.check()
            frame = decoder.get_frame_at(index)
            image = _channels_last(frame.data.numpy()[None], name)[0]
            _check_frame_size(name, image.shape[0], image.shape[1], request.limits)
            album.put(place, image)
            seconds[index] = float(frame.pts_seconds) - float(first.pts_seconds)
    except VideoReadError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise VideoReadError(
            f"{name} did not deliver its frames: {lines[0][:200]}. Give the path or the bytes of the video instead."
        ) from error
    return _finish(name, "torchcodec", album, seconds, chosen, duration)


# ---------------------------------------------------------------------------------------------------------------------
# Frames in memory
# ---------------------------------------------------------------------------------------------------------------------

_IN_MEMORY = "<frames in memory>"


def _is_tensor(value: Any) -> bool:
    """A torch tensor, told by its methods: this file does not import torch."""
    return all(hasattr(value, method) for method in ("detach", "cpu", "numpy"))


def _is_frames(video: Any) -> bool:
    return isinstance(video, np.ndarray | list | tuple | PIL.Image.Image) or _is_tensor(video)


def _as_array(value: Any) -> np.ndarray:
    if _is_tensor(value):
        value = value.detach().cpu()
        try:
            return value.numpy()
        except TypeError:  # bfloat16 has no counterpart in numpy
            return value.float().numpy()
    return np.asarray(value)


def _channels_last(frames: np.ndarray, name: str = _IN_MEMORY) -> np.ndarray:
    """Bring frames of shape `(T, H, W, 3)` or `(T, 3, H, W)` to the former; any other shape is an error."""
    if frames.ndim == 4 and frames.shape[-1] == _CHANNELS and frames.shape[1] != _CHANNELS:
        return frames
    if frames.ndim == 4 and frames.shape[1] == _CHANNELS and frames.shape[-1] != _CHANNELS:
        return np.moveaxis(frames, 1, -1)
    if frames.ndim == 4 and frames.shape[-1] == _CHANNELS:
        raise VideoReadError(
            f"{name} of shape {frames.shape} could be (frames, height, width, 3) or (frames, 3, height, width). "
            "Frames three pixels high or wide are not accepted in an array; give a list of PIL images."
        )
    hint = {
        2: "this is one grey picture",
        3: "for one picture add an axis in front; for grey frames repeat them in three channels",
        5: "this is a batch of videos; give one video at a time",
    }.get(frames.ndim, "grey frames have to be repeated in three channels, and transparency dropped")
    raise VideoReadError(
        f"{name} have the shape {frames.shape}, expected (frames, height, width, 3) or (frames, 3, height, width) in "
        f"RGB; {hint}."
    )


def _to_uint8(frames: np.ndarray) -> np.ndarray:
    """Floating point frames in [0, 1] to bytes; anything that is neither those nor bytes is an error."""
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise VideoReadError(
            f"{_IN_MEMORY} are of type {frames.dtype}, expected uint8 in [0, 255] or floating point in [0, 1]. "
            "Divide them by the largest value that they can have (65535 for 16 bits) and give the floating point "
            "result, or, if they lie in [0, 255], convert them with .astype(np.uint8)."
        )
    if not np.isfinite(frames).all():
        bad = int((~np.isfinite(frames)).reshape(len(frames), -1).any(axis=1).sum())
        raise VideoReadError(
            f"{_IN_MEMORY}: {bad} of {len(frames)} frames hold NaN or infinite values. Look at what computed them."
        )
    low, high = float(frames.min()), float(frames.max())
    if low < 0.0 or high > 1.0:
        raise VideoReadError(
            f"{_IN_MEMORY} of type {frames.dtype} lie in [{low:.4g}, {high:.4g}], expected [0, 1]. Undo the "
            "normalisation, or divide by 255 (or convert to uint8) if they are bytes."
        )
    return np.rint(frames.astype(np.float32) * 255.0).astype(np.uint8)


def _picture(image: PIL.Image.Image) -> np.ndarray:
    """
    A PIL image as an array of shape `(height, width, 3)`: bytes, or the numbers of its own type if it has wider ones.

    Pillow cuts off what is above 255 of those (depth, heat); they are checked and scaled like arrays of the same type.
    """
    try:
        if image.mode == "F" or image.mode.startswith("I"):
            return np.repeat(np.asarray(image)[..., None], _CHANNELS, axis=-1)
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoReadError(
            f"{_IN_MEMORY}: a PIL image of mode {image.mode} cannot be turned into RGB ({str(error)[:200]}). Convert "
            "it, or look at the file that it is read from."
        ) from error


def _stack_frames(video: Sequence[Any]) -> np.ndarray:
    """A list of PIL images, or of arrays of one frame each, as one array."""
    if len(video) == 0:
        raise VideoReadError("An empty list holds no frames. Give at least one frame.")
    if all(isinstance(frame, PIL.Image.Image) for frame in video):
        arrays = [_picture(frame) for frame in video]
    elif all(isinstance(frame, np.ndarray) or _is_tensor(frame) for frame in video):
        arrays = [_as_array(frame) for frame in video]
    else:
        kinds = sorted({type(frame).__name__ for frame in video})
        raise VideoReadError(
            f"A list of {', '.join(kinds)} is not one video. Give one path, or a list of frames that are all PIL "
            "images or all arrays; several videos are read one at a time."
        )
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise VideoReadError(f"The frames of the list differ in shape: {shapes[:4]}. Bring them to one size.")
    kinds = sorted({str(array.dtype) for array in arrays})
    if len(kinds) > 1:
        raise VideoReadError(f"The frames of the list differ in type: {', '.join(kinds[:4])}. Bring them to one.")
    return np.stack(arrays)


def _memory_timestamps(
    count: int, fps: float | None, timestamps: Sequence[float] | np.ndarray | None
) -> tuple[np.ndarray, float | None]:
    """Seconds of each given frame from the first, and the rate they were given at, if it is known."""
    if timestamps is None:
        if fps is None:
            logger.warning(
                "The frames were given without their times; one frame per second is assumed. Pass timestamps=[...] in "
                "seconds, or fps=... if they are evenly spaced."
            )
        return np.arange(count) / (1.0 if fps is None else fps), fps
    seconds = np.asarray(_as_array(timestamps), dtype=np.float64)
    if seconds.shape != (count,):
        raise VideoReadError(
            f"timestamps have the shape {seconds.shape} for {count} frames. Give one number of seconds per frame."
        )
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise VideoReadError(
            "timestamps have to be finite seconds that increase from frame to frame. Sort the frames."
        )
    return seconds - seconds[0], None


def _read_memory(video: Any, request: _Request, timestamps: Sequence[float] | np.ndarray | None) -> VideoFrames:
    """Check frames in memory like those of a file, and sample them if fewer are asked for than there are."""
    if isinstance(video, PIL.Image.Image):
        raise VideoReadError("A single picture is not a video. Give it as a list of one frame, or as an image.")
    frames = _stack_frames(video) if isinstance(video, list | tuple) else _as_array(video)
    frames = _channels_last(frames)
    if frames.size == 0:
        raise VideoReadError(f"{_IN_MEMORY} of shape {frames.shape} are empty. Give at least one frame.")
    limits = request.limits
    _check_frame_size(_IN_MEMORY, frames.shape[1], frames.shape[2], limits)
    seconds, given_fps = _memory_timestamps(len(frames), request.fps, timestamps)
    gap = float(np.diff(seconds).mean()) if len(seconds) > 1 else 1.0 / (given_fps or 1.0)
    duration = float(seconds[-1]) + gap
    _check_duration(_IN_MEMORY, duration, limits)
    if request.num_frames is None and (request.fps is None or given_fps is not None):
        first, last = request.window(seconds, duration, _IN_MEMORY)
        chosen = list(range(first, last + 1))  # they were chosen by whoever made them
        if request.cap is not None and len(chosen) > request.cap:
            raise VideoReadError(
                f"{len(chosen)} frames in memory are over the limit of {request.cap}. Pass num_frames to sample them, "
                "or raise max_frames or VideoLimits(max_frames=...)."
            )
        request.check_count(len(chosen), _IN_MEMORY)
    else:
        chosen = request.choose(seconds, duration, _IN_MEMORY)
    album = _Album(_IN_MEMORY, len(chosen), limits)
    for place, index in enumerate(chosen):
        album.put(place, _to_uint8(frames[index : index + 1])[0])
    return _finish(_IN_MEMORY, "memory", album, seconds, chosen, duration)
