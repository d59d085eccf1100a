"""
From a video file to sampled frames and their time stamps: exactly the frames asked for, or one clear error.

The way of a file: its `source`, then a `table` of all frames made from its packets, then the choice of `frames`, which
are decoded by PyAV (`pyav_decoder`) or by one of the `other_decoders`. Everything here is ours; the paper does not say
how its videos were read.
"""

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import av.error
import numpy as np

from ..errors import LinVTInputError, VideoReadError, first_line, unknown_argument
from .album import MakeAlbum, album_of_all
from .frames import Request, VideoFrames
from .limits import Clock, Spending, VideoLimits, one_request
from .memory import is_frames, read_memory
from .other_decoders import read_other
from .pyav_decoder import read_pyav
from .source import VideoSource, opened_source
from .table import scan
from .torchcodec_decoder import read_decoder_object


_MAX_THREADS = 1024
VIDEO_BACKENDS = ("auto", "pyav", "decord", "torchcodec")


def read_video(
    video: Any,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    max_frames: int | None = None,
    video_backend: str = "auto",
    limits: VideoLimits | None = None,
    allow_urls: bool = False,
    timestamps: Sequence[float] | np.ndarray | None = None,
    num_threads: int = 1,
    **unknown: Any,
) -> VideoFrames:
    """
    Read sampled frames of a video: exactly the frames that the arguments describe, or a [`VideoReadError`].

    Sampling is uniform with `num_frames` (see [`uniform_indices`]) or by time with `fps`: the frames on screen at
    `start`, `start + 1 / fps`, ... seconds, each once, and `max_frames` of the window uniformly if those are more.
    With neither, 32 frames uniformly. Time stamps are those of the file (variable rates included), counted from its
    first frame. One that is missing, repeated or goes back is replaced by a time between its neighbours, and a warning
    and `num_guessed_timestamps` say so.

    A damaged file is read around the damage: a frame that is broken, or depends on a broken one, is taken out of the
    choice, the frames are sampled among the others with their true time stamps, and a warning and
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
        video_backend (`str`, defaults to `"auto"`):
            `"pyav"` (what `"auto"` means), `"decord"` or `"torchcodec"`. The other two return the frames that
            `"pyav"` returns or refuse. They do not tell of damage, so PyAV decodes what is wanted before them: they
            are slower than `"pyav"`, by about the time that they take themselves.
        limits ([`VideoLimits`], *optional*): What the video may cost at most.
        allow_urls (`bool`, defaults to `False`): Whether `video` may be an http or https address.
        timestamps (`Sequence[float]`, *optional*):
            Seconds of each given frame, for frames in memory only. Without them and without `fps` one frame per second
            is assumed, and a warning says so.
        num_threads (`int`, defaults to 1): Decoding threads; 1 is right inside data loader workers.
        unknown: Any other argument is refused, with the name of the one that was meant.

    Returns:
        [`VideoFrames`].

    Raises:
        [`VideoReadError`]: for every expected failure; the message names the file, what was found and what to do.
        [`LinVTInputError`]: for an argument that does not exist.

    Example:

    >>> import numpy as np
    >>> clip = np.zeros((6, 4, 8, 3), dtype=np.uint8)
    >>> read_video(clip, num_frames=3, timestamps=[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]).timestamps.tolist()
    [0.5, 1.5, 2.5]
    """
    for name in unknown:
        known = inspect.signature(read_video).parameters.values()
        raise LinVTInputError(unknown_argument(name, [one.name for one in known if one.kind is one.KEYWORD_ONLY]))
    sampling = {"num_frames": num_frames, "fps": fps, "start": start, "end": end, "max_frames": max_frames}
    return read_into(
        album_of_all,
        video,
        sampling,
        video_backend=video_backend,
        limits=limits,
        allow_urls=allow_urls,
        timestamps=timestamps,
        num_threads=num_threads,
    )


def read_into(
    make_album: MakeAlbum,
    video: Any,
    sampling: Mapping[str, Any],
    *,
    video_backend: str = "auto",
    limits: VideoLimits | None = None,
    allow_urls: bool = False,
    timestamps: Sequence[float] | np.ndarray | None = None,
    num_threads: int = 1,
    clock: Clock | None = None,
) -> VideoFrames:
    """
    As [`read_video`], with the frames put into whatever `make_album` makes.

    Args:
        make_album: see `MakeAlbum`; it may be asked more than once, where damage makes another choice of frames.
        sampling: `num_frames`, `fps`, `start`, `end`, `max_frames`.
        clock ([`Clock`], *optional*): that of the read, for who stops it while frames wait, or ends the read early.
    """
    limits = VideoLimits() if limits is None else limits
    if not isinstance(limits, VideoLimits):
        raise VideoReadError(f"limits={limits!r:.100} is no VideoLimits; pass limits=VideoLimits(max_duration=...).")
    if video_backend not in VIDEO_BACKENDS:
        raise VideoReadError(
            f"video_backend={video_backend!r:.100} is not known; choose one of {', '.join(VIDEO_BACKENDS)}."
        )
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= _MAX_THREADS:
        raise VideoReadError(f"num_threads={num_threads!r:.40}: give a whole number of threads, 1 to {_MAX_THREADS}.")
    Request(**sampling, limits=limits)  # what makes no sense is no matter of what is left
    with one_request() as spending:
        limits, of_request = spending.left_of(limits)
        clock = Clock("the video", None) if clock is None else clock
        clock.seconds = limits.max_decode_seconds
        began = time.monotonic()
        read = _Read(
            Request(**sampling, limits=limits), video_backend, allow_urls, timestamps, num_threads, clock, make_album
        )
        try:
            result = _read(video, read, spending)
        except VideoReadError as error:
            reasons = [name for name, left in of_request.items() if f"limit of {left}" in str(error)]
            if reasons:
                raise VideoReadError(
                    f"{error} (Other videos of the request leave no more of VideoLimits({', '.join(reasons)}).)"
                ) from error
            raise
        finally:
            spending.add(decode_seconds=time.monotonic() - began - clock.waited)
        spending.add(frames=len(result), output_bytes=result.frames.nbytes)
        return result


@dataclass
class _Read:
    """How a video is to be read."""

    request: Request
    video_backend: str
    allow_urls: bool
    timestamps: Sequence[float] | np.ndarray | None
    num_threads: int
    clock: Clock
    make_album: MakeAlbum


def _read(video: Any, read: _Read, spending: Spending) -> VideoFrames:
    if is_frames(video):
        return read_memory(video, read.request, read.timestamps, read.make_album)
    if read.timestamps is not None:
        raise VideoReadError(
            "timestamps were given together with a video file. A file brings its own time stamps; leave the argument "
            "out, or hand over decoded frames."
        )
    with opened_source(video, read.request.limits, read.allow_urls) as source:
        if not isinstance(source, VideoSource):
            return read_decoder_object(source, read.request)
        spending.add(bytes=source.num_bytes)
        state = source.state
        try:
            result = _read_source(source, read)
        except VideoReadError:
            _check_unchanged(source, state)
            raise
        except (av.error.FFmpegError, OSError) as error:  # a disk that fails, a pixel format that nothing converts
            _check_unchanged(source, state)
            raise VideoReadError(
                f"{source.name} could not be read to its end: {first_line(error)}. Copy or download it again, or "
                "re-encode it, for example to H.264."
            ) from error
        _check_unchanged(source, state)
        return result


def _check_unchanged(source: VideoSource, state: tuple[int, ...]) -> None:
    """Refuse what was read, or went wrong, of two files."""
    if source.state != state:
        raise VideoReadError(
            f"{source.name} was changed, replaced or removed while it was read. Wait until it is complete, and read "
            "it again."
        )


def _read_source(source: VideoSource, read: _Read) -> VideoFrames:
    clock, request = read.clock, read.request
    clock.name = source.name
    clock.restart()  # fetching an address has a limit of its own
    table = scan(source, clock, request.limits)
    if table.cut_off is not None:
        raise VideoReadError(
            f"{source.name} is cut off: {table.cut_off}. Download it again, or keep what is there with "
            "`ffmpeg -i FILE -c copy NEW_FILE`."
        )
    backend = "pyav" if read.video_backend == "auto" else read.video_backend
    if backend == "pyav":
        result = read_pyav(source, table, request, clock, read.num_threads, read.make_album)
    else:
        result = read_other(source, table, request, clock, read.num_threads, backend)
    result.source = source.full_name  # messages have it shorter
    return result
