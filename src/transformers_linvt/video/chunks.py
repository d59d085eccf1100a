"""Frames of a video in pieces, decoded ahead in a thread: however long it is, only a few are held at once."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .album import Album, Relay
from .background import Channel, Workers
from .frames import VideoFrames
from .limits import Clock, VideoLimits
from .reading import read_into
from .record import UnseenFrames


AHEAD_BYTES, AHEAD_FRAMES = 8 << 20, 32  # decoded frames that wait for whoever takes them

_SAMPLING = ("num_frames", "fps", "start", "end", "max_frames")


@dataclass
class FrameChunk:
    """
    Some of the frames of a video, one behind the other.

    Attributes:
        frames (`np.ndarray` of shape `(count, height, width, 3)`): RGB, `uint8`.
        start (`int`): place of the first of them among all frames. 0 where the video begins, which may be twice: where
            damage was found behind what came before, all of that is void.
        timestamps (`np.ndarray` of shape `(num_frames,)`): seconds of all frames of the video.
        source (`str`): name of the video.
    """

    frames: np.ndarray
    start: int
    timestamps: np.ndarray
    source: str

    @property
    def stop(self) -> int:
        """Place behind the last of the frames."""
        return self.start + len(self.frames)


def start_reading(workers: Workers, video: Any, sampling: Mapping[str, Any]) -> Channel:
    """
    Decode a video in a thread of `workers`.

    Args:
        workers ([`Workers`]): ends the thread.
        video, sampling: what [`read_video`] takes; or [`VideoFrames`].

    Returns:
        [`Channel`] of [`FrameChunk`]s of one frame each, and at last the [`VideoFrames`], without their pixels.
    """

    def read(channel: Channel) -> None:
        if isinstance(video, VideoFrames):
            _pass_on(channel, video)
            return
        clock = Clock("the video", None)
        clock.check_wanted = channel.check
        relays: list[Relay] = []

        def make_album(name: str, timestamps: np.ndarray, limits: VideoLimits) -> Album:
            def take(place: int, image: np.ndarray) -> None:
                chunk = FrameChunk(np.ascontiguousarray(image)[None], place, timestamps, name)
                with clock.paused():
                    channel.put(chunk, max(image.nbytes, AHEAD_BYTES // AHEAD_FRAMES))

            relays.append(Relay(name, len(timestamps), limits, take))
            return relays[-1]

        chosen = {name: sampling.get(name) for name in _SAMPLING}
        options = {name: value for name, value in sampling.items() if name not in chosen and value is not None}
        result = read_into(make_album, video, chosen, clock=clock, **options)
        if relays:
            channel.put(UnseenFrames.of(result), 0)
        else:  # another decoder gave them together
            _pass_on(channel, result)

    return workers.start(read, AHEAD_BYTES)


def _pass_on(channel: Channel, video: VideoFrames) -> None:
    """Frames that are in memory already."""
    for place in range(len(video)):
        channel.put(FrameChunk(video.frames[place : place + 1], place, video.timestamps, video.source), 0)
    channel.put(UnseenFrames.of(video), 0)


def in_chunks(
    items: "Iterator[FrameChunk | VideoFrames]", max_frames: int, max_bytes: int, multiple: int = 1
) -> "Iterator[FrameChunk | VideoFrames]":
    """
    Single frames put together.

    Args:
        items: of [`start_reading`].
        max_frames (`int`): most frames of a chunk.
        max_bytes (`int`): most memory of its pixels, where that is more than one frame.
        multiple (`int`): what the frames of every chunk but the last are a multiple of.
    """
    chunk, num_filled = None, 0
    for item in items:
        if isinstance(item, VideoFrames):
            if chunk is not None:
                yield replace(chunk, frames=chunk.frames[:num_filled])
            yield item
            return
        if chunk is None or item.start == 0:  # what was read before is void
            fitting = max(1, min(max_frames, max_bytes // max(item.frames.nbytes, 1)) // multiple) * multiple
            fitting = min(fitting, len(item.timestamps) - item.start)
            # one piece of memory, and each frame is free again when it was copied there
            chunk, num_filled = replace(item, frames=np.empty((fitting, *item.frames.shape[1:]), np.uint8)), 0
        chunk.frames[num_filled] = item.frames[0]
        num_filled += 1
        if num_filled == len(chunk.frames):
            yield chunk
            chunk = None


__all__ = ["FrameChunk", "in_chunks", "start_reading"]
