"""The table of all frames of a file, made from its packets: no picture is decoded for it."""

import bisect
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import VideoReadError
from .container import VideoFile, declared_num_bytes
from .limits import Clock, VideoLimits, check_duration, check_frame_size
from .source import VideoSource
from .times import increasing_part, skipped_places, usual_gap


# H.264 and HEVC reorder at most 16 pictures: a picture cannot depend on one that is shown more than 16 later.
MAX_REORDERED = 16
# Seeking is trusted, and then verified, where packets carry presentation time stamps and the container an index.
SEEKABLE_FORMATS = {"mov", "matroska"}
# VP8 stores invisible pictures as packets of their own, so its packets are not its frames.
CODECS_WITH_INVISIBLE_PACKETS = {"vp8", "libvpx"}
# Codings whose bitstream or decoder tells by itself of lost pictures that others need.
CODECS_THAT_TELL_OF_LOSS = {"h264", "hevc"}


@dataclass
class FrameTable:
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
        num_gaps (`int`, *optional*): See [`skipped_places`]; `None` also where a gap means a pause (GIF, AVI).
        may_have_lost (`bool`): Whether there are gaps, and a lost packet would harm others and show nowhere else.
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
    num_gaps: int | None = None
    may_have_lost: bool = False
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
    def half_gap(self) -> float:
        """Seconds: two time stamps further apart than this cannot be those of the same frame."""
        gaps = np.diff(self.seconds)
        return 0.5 * float(gaps.min()) if len(gaps) else 0.5

    @property
    def seconds(self) -> np.ndarray:
        return (np.asarray(self.pts, dtype=np.float64) - (self.pts[0] if self.pts else 0)) * self.time_base


@dataclass
class Tally:
    """What was counted and noted while the packets of a file were read."""

    order: list[int] = field(default_factory=list)  # time stamps of what is to be shown, in the order of the file
    decoding: list[int] = field(default_factory=list)  # time stamps of decoding, of all packets that have one
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
        if dts is not None:
            self.decoding.append(dts)
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

    def gaps(self, file: VideoFile) -> int | None:
        """Places of the clock without a packet; see [`FrameTable`]."""
        if file.has_places_only or file.format == "gif" or self.num_without_stamp:
            return None
        return skipped_places(self.decoding if len(self.decoding) == self.num_read else self.order)

    def plausible(self, max_reordered: int) -> list[int]:
        """The stamps in the order shown, less those that stand further from their place in the file than possible."""
        if max_reordered == 0:
            return [self.order[place] for place in increasing_part(self.order)]
        by_stamp = sorted(range(len(self.order)), key=self.order.__getitem__)
        return [self.order[place] for rank, place in enumerate(by_stamp) if abs(rank - place) <= max_reordered]


def scan(source: VideoSource, clock: Clock, limits: VideoLimits) -> FrameTable:
    """Read all packets once, without decoding, and lay out the frames they will give."""
    with VideoFile(source, clock, limits) as file:
        context = file.stream.codec_context
        check_frame_size(source.name, context.height or 0, context.width or 0, limits)
        tally = read_packets(file, limits)
        if tally.num_read == 0 and tally.num_errors == 0:
            raise VideoReadError(f"{source.name} has a video track with no frame in it. Record or export it again.")
        time_base = float(file.stream.time_base)
        pts = sorted(tally.order)
        stamps = tally.plausible(MAX_REORDERED if context.has_b_frames else 0)
        usable = (
            0 < len(pts) == len(stamps)
            and tally.num_without_stamp == tally.num_before_decoding == 0
            and all(a < b for a, b in zip(pts, pts[1:], strict=False))
            and file.codec not in CODECS_WITH_INVISIBLE_PACKETS
            and not file.has_places_only
        )
        # a stamp that was mended is no place on the clock
        num_gaps = tally.gaps(file) if len(stamps) == len(pts) else None
        last_duration = (tally.last_duration or usual_gap(stamps)) * time_base
        return FrameTable(
            pts=pts if usable else [],
            stamps=stamps,
            keys=sorted(tally.keys),
            time_base=time_base,
            duration=(pts[-1] - pts[0]) * time_base + last_duration if usable else 0.0,
            last_duration=last_duration,
            has_hidden_packets=tally.num_hidden > 0,
            has_leading_frames=tally.has_leading_frames,
            num_gaps=num_gaps,
            may_have_lost=bool(num_gaps)
            and file.codec not in CODECS_THAT_TELL_OF_LOSS
            and len(tally.keys) < tally.num_read,
            can_seek=usable and file.format in SEEKABLE_FORMATS and tally.num_errors == 0 and tally.num_corrupt == 0,
            format=file.format,
            codec=file.codec,
            stream_index=file.stream.index,
            num_video_streams=len(file.container.streams.video),
            cut_off=missing_part(source, file, tally, clock, limits),
        )


def read_packets(file: VideoFile, limits: VideoLimits) -> Tally:
    """Read every packet of a file; a film over the limit of duration is refused as soon as it is seen to be one."""
    tally = Tally()
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
        if num_beyond > MAX_REORDERED:  # a few may have a false time stamp
            check_duration(file.source.name, seconds, limits)
    return tally


def missing_part(source: VideoSource, file: VideoFile, tally: Tally, clock: Clock, limits: VideoLimits) -> str | None:
    """What a file lacks that stops too early, in words; `None` if it is whole or says nothing about its length."""
    expected = file.stream.frames if file.format == "mov" else 0
    declared = declared_num_bytes(source, clock)
    is_short = declared is not None and declared > source.num_bytes
    if expected and tally.num_read < expected:  # the header counts what an edit list keeps from being shown, too
        with VideoFile(source, clock, limits, ignore_editlist="1") as whole:
            tally = read_packets(whole, replace(limits, max_duration=None))
    num_intact = tally.num_read - tally.num_corrupt
    if expected and num_intact < expected and (is_short or tally.num_errors or tally.num_read < expected):
        return f"only {num_intact} of its {expected} frames are there"
    if is_short and not expected:
        return f"{source.num_bytes} of its {declared} bytes are there, with {num_intact} frames"
    return None
