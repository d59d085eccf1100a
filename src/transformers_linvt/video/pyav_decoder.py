"""
Frames decoded with PyAV: by seeking where the table of frames is sure, else from the start, else by decoding all.

A decoded frame is accepted only if its own time stamp is the one wanted; where a container cannot promise that
(MPEG-TS, AVI, intra-refresh streams, lying headers) the file is decoded from its start instead.
"""

import bisect
import logging
from typing import Any

import av
import av.error
import numpy as np

from ..errors import VideoReadError
from .album import Album, MakeAlbum, album_of_all, finish
from .container import VideoFile
from .damage import B_FRAME, Damage, decoded, is_intra
from .frames import Request, VideoFrames
from .limits import Clock, check_duration
from .source import VideoSource
from .table import MAX_REORDERED, FrameTable
from .timeline import lay_out


logger = logging.getLogger(__name__)


class PyAVReader:
    """Reads chosen frames of one file: by seeking if the table allows it, else from the start."""

    def __init__(
        self, source: VideoSource, table: FrameTable, request: Request, clock: Clock, num_threads: int
    ) -> None:
        self.source, self.request, self.clock, self.num_threads = source, request, clock, num_threads
        self.table = table
        self.follows = dict(zip(table.pts, table.pts[1:], strict=False))
        self.key_pts = {pts for pts, _ in table.keys}
        self.damage = Damage()
        self.sought: int | None = None  # time stamp of the key frame that the file was last moved to

    def open(self) -> VideoFile:
        return VideoFile(self.source, self.clock, self.request.limits, self.num_threads)

    def may_begin_with(self, frame: Any) -> bool:
        """Whether decoding rightly began at this frame, the first after a seek."""
        if self.table.has_hidden_packets and frame.pts == self.table.pts[0]:
            return True  # a key frame hidden in front of an edit was decoded before it and did not come out
        return is_intra(frame) and frame.pts in self.key_pts

    def collect(self, file: VideoFile, wanted: dict[int, int], album: Album, has_sought: bool) -> bool:
        """
        Decode from where `file` stands until every frame of `wanted` (time stamp -> place) is in the album.

        False as soon as one is found to be missing or damaged, or if the first picture after a seek is not that of a
        key frame (`has_sought`).
        """
        targets = sorted(wanted)
        follows = self.follows
        num_found, since_last, is_first = 0, 0, has_sought
        previous: int | None = None
        for frame in decoded(file, self.damage):
            if frame.pts is None or (is_first and not self.may_begin_with(frame)):
                return False
            if previous is not None and follows.get(previous) != frame.pts:  # one is missing, or not in its order
                return False
            if frame.pts == self.sought and not is_intra(frame):  # intra-refresh: this is no whole picture
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
            is_b = frame.pict_type == B_FRAME
            if num_found == len(targets) and (not is_b or since_last >= MAX_REORDERED):
                return True
        return num_found == len(targets)

    def by_seeking(self, wanted: dict[int, int], album: Album) -> bool:
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
                self.sought = table.keys[position][0]
                try:
                    file.container.seek(self.sought, stream=file.stream)
                except (av.error.FFmpegError, OSError):
                    return False
                if not self.collect(file, group, album, has_sought=True):
                    return False
        return True

    def from_start(self, wanted: dict[int, int], album: Album) -> bool:
        self.damage.restart()
        self.sought = None
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
            for frame in decoded(file, self.damage):
                is_intact, revoked = self.damage.frame_came(frame)
                intact[len(intact) - len(revoked) :] = [False] * len(revoked)
                stamps.append(frame.pts)
                intact.append(is_intact)
                kinds.append("I" if is_intra(frame) else "B" if frame.pict_type == B_FRAME else "P")
            num_revoked = len(self.damage.revoked())
            intact[len(intact) - num_revoked :] = [False] * num_revoked
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) == len(stamps) and known == sorted(known):
            self._doubt_neighbours_of_missing(known, intact, kinds)
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

    def by_order(self, places: dict[int, int], album: Album) -> None:
        """Decode from the start and keep the frames whose position in the order shown is wanted."""
        last = max(places)
        with self.open() as file:
            for position, frame in enumerate(decoded(file, Damage())):
                if position in places:
                    album.put_frame(places[position], frame)
                if position == last:
                    return


def read_pyav(
    source: VideoSource,
    table: FrameTable,
    request: Request,
    clock: Clock,
    num_threads: int,
    make_album: MakeAlbum = album_of_all,
) -> VideoFrames:
    """Frames of the packet table by seeking, else from the start; else of a table made by decoding the whole file."""
    reader = PyAVReader(source, table, request, clock, num_threads)
    if table.pts:
        seconds = table.seconds
        check_duration(source.name, table.duration, request.limits)
        chosen = request.choose(seconds, table.duration, source.name)
        wanted = {table.pts[index]: place for place, index in enumerate(chosen)}
        album = make_album(source.name, seconds[chosen], request.limits)
        done = table.can_seek and reader.by_seeking(wanted, album)
        if done or reader.from_start(wanted, album):
            return finish(source.name, "pyav", album, seconds, chosen, table.duration, table, reader.damage)
    return read_by_order(source, table, request, reader, make_album)


def read_by_order(
    source: VideoSource, table: FrameTable, request: Request, reader: PyAVReader, make_album: MakeAlbum
) -> VideoFrames:
    """For packets without usable time stamps, and for damage: decode all, then choose among what came out intact."""
    stamps, is_intact, nominal = reader.shown()
    num_broken = len(reader.damage.broken)
    if not stamps:
        raise VideoReadError(
            f"{source.name}: none of its frames could be decoded (codec {table.codec}, {num_broken} broken packets). "
            "Copy or download it again, or re-encode it."
        )
    line = lay_out(table, stamps, is_intact, nominal, num_broken > 0)
    if num_broken and line.num_guessed == len(stamps):
        raise VideoReadError(
            f"{source.name} is damaged ({num_broken} broken packets) and has no time stamps, so that what follows the "
            "damage cannot be placed in time. Copy or download it again."
        )
    seconds = line.seconds
    duration = float(seconds[-1]) + (table.last_duration or nominal)
    check_duration(source.name, duration, request.limits)
    first, last = request.window(seconds, duration, source.name)
    if not line.is_intact[first : last + 1].any():
        raise VideoReadError(
            f"{source.name}: all {last - first + 1} frames of the window are damaged ({num_broken} broken packets). "
            "Choose another window, or copy or download it again."
        )
    chosen = request.choose(seconds, duration, source.name, line.is_intact)
    album = make_album(source.name, seconds[chosen], request.limits)
    reader.by_order({int(line.position[index]): place for place, index in enumerate(chosen)}, album)
    num_damaged = int((~line.is_intact).sum())
    result = finish(source.name, "pyav", album, seconds, chosen, duration, table, reader.damage, num_damaged)
    if line.num_guessed:
        result.num_guessed_timestamps = line.num_guessed
        logger.warning(
            f"{source.name}: the file does not say when {line.num_guessed} of its {len(seconds)} frames are shown "
            "(time stamps that are missing, repeated or go back); they are placed between the frames around them, or "
            "at its nominal rate. Remux or re-encode it if their times matter."
        )
    return result
