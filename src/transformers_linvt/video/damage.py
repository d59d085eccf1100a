"""Damage, followed from a broken packet to the next key frame, so that no picture built on a broken one is shown."""

from collections.abc import Iterator
from typing import Any

import av

from .container import VideoFile


B_FRAME = av.video.frame.PictureType.B


def is_intra(frame: Any) -> bool:
    """Whether decoding can start at a frame: marked as a key frame, and a whole picture (intra-refresh has none)."""
    return bool(frame.key_frame) and frame.pict_type == av.video.frame.PictureType.I


class Damage:
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
        """Note a packet that is about to be decoded."""
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
            and is_intra(frame)
            and self.fed_at.get(frame.pts, -1) > self.doubtful_since
        ):
            self.doubtful_since = None
        revoked: list[int | None] = []
        if frame.is_corrupt:
            revoked, self.b_frames = self.b_frames, []
            self.packet_broke(frame.pts)
            # the key frame after a corrupt one was fed after it, whatever else is already inside the decoder
            self.doubtful_since = self.fed_at.get(frame.pts, self.num_fed)
        if frame.pict_type == B_FRAME:
            self.b_frames.append(frame.pts)
        else:
            self.b_frames = []
        return self.doubtful_since is None, revoked


def decoded(file: VideoFile, damage: Damage) -> Iterator[Any]:
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
