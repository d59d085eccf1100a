"""Frames decoded with decord, an optional library."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .album import Album, differs_in_size
from .limits import Clock
from .source import VideoSource
from .table import FrameTable


def fill_from_decord(
    library: Any,
    source: VideoSource,
    table: FrameTable,
    num_threads: int,
    chosen: list[int],
    album: Album,
    shape: Sequence[int],
    clock: Clock,
) -> str | None:
    """Fill the album with decord, or say why not. Its own list of frames has to be that of the table."""
    reader = library.VideoReader(source.for_reading(), ctx=library.cpu(0), num_threads=num_threads)
    if len(reader) != len(table.pts):
        return f"it counts {len(reader)} frames where the packets of the file give {len(table.pts)}"
    starts = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))), dtype=np.float64)[:, 0]
    if np.abs(starts - starts[0] - table.seconds).max() > table.half_gap:
        return "its time stamps are not those of the file"
    for place, index in enumerate(chosen):
        clock.check()
        image = reader[index].asnumpy()
        reason = differs_in_size(image.shape, shape)
        if reason is not None:
            return reason
        album.put(place, image)
    return None
