"""Frames decoded with torchcodec, an optional library, or by a decoder object of it that somebody else made."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import VideoReadError
from .album import Album, differs_in_size, finish
from .frames import Request, VideoFrames
from .limits import Clock, check_duration, check_frame_size
from .memory import channels_last
from .source import VideoSource
from .table import FrameTable


def fill_from_torchcodec(
    library: Any,
    source: VideoSource,
    table: FrameTable,
    num_threads: int,
    chosen: list[int],
    album: Album,
    shape: Sequence[int],
    clock: Clock,
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
    tolerance = table.half_gap
    for place, index in enumerate(chosen):
        clock.check()
        frame = decoder.get_frame_at(index)
        if abs(frame.pts_seconds - table.pts[index] * table.time_base) > tolerance:
            return f"it gives the frame of {frame.pts_seconds:.3f} s for that of {table.seconds[index]:.3f} s"
        image = frame.data.numpy()
        reason = differs_in_size(image.shape, shape)
        if reason is not None:
            return reason
        album.put(place, image)
    return None


def read_decoder_object(decoder: Any, request: Request) -> VideoFrames:
    """Frames by position from a torchcodec `VideoDecoder` whose file cannot be reached to make a table of it."""
    name = f"<{type(decoder).__name__}>"
    if request.fps is not None or request.start is not None or request.end is not None:
        raise VideoReadError(
            f"{name}: fps, start and end need the time stamps of all frames, which this object does not tell. Use "
            "num_frames, or give the path or the bytes of the video."
        )
    clock = Clock(name, request.limits.max_decode_seconds)
    try:
        total = int(decoder.metadata.num_frames)
        if total < 1:
            raise VideoReadError(f"{name} has no frames. Check the video it was made from.")
        first, last = decoder.get_frame_at(0), decoder.get_frame_at(total - 1)
        duration = float(last.pts_seconds + last.duration_seconds - first.pts_seconds)
        check_duration(name, duration, request.limits)
        chosen = request.choose(np.zeros(total), duration, name)
        album = Album(name, len(chosen), request.limits)
        seconds = np.zeros(total)
        for place, index in enumerate(chosen):
            clock.check()
            frame = decoder.get_frame_at(index)
            image = channels_last(frame.data.numpy()[None], name)[0]
            check_frame_size(name, image.shape[0], image.shape[1], request.limits)
            album.put(place, image)
            seconds[index] = float(frame.pts_seconds) - float(first.pts_seconds)
    except VideoReadError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise VideoReadError(
            f"{name} did not deliver its frames: {lines[0][:200]}. Give the path or the bytes of the video instead."
        ) from error
    return finish(name, "torchcodec", album, seconds, chosen, duration)
