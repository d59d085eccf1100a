"""Damage, followed from a broken packet to the next key frame, so that no picture built on a broken one is shown."""

import hashlib
from collections.abc import Iterator
from typing import Any

import av
import av.error
import av.video.frame

from .container import VideoFile
from .continuity import H264Continuity, has_checksum


_CODECS_WITH_LATE_COMPLAINTS = {"av1", "vp8", "vp9"}

B_FRAME = av.video.frame.PictureType.B


def is_intra(frame: Any) -> bool:
    """Whether decoding can start at a frame: marked as a key frame, and a whole picture (intra-refresh has none)."""
    return bool(frame.key_frame) and frame.pict_type == av.video.frame.PictureType.I


class Damage:
    """
    Follows damage through a stream: which decoded frames are broken or built on something broken.

    From a packet that the decoder refuses, and from a hole where a picture is missing that others refer to, everything
    is doubtful until a key frame comes out whose packet is marked as one and went in later. (A picture of AV1 that is
    shown again calls itself a key frame, whatever it was made from.) From a frame that comes out marked corrupt,
    everything until the next key frame, and the B frames just before it, which may have referred to it. The decoders
    of AV1, VP8 and VP9 complain late, about what they cannot make of a picture that was broken before: there
    everything since the key frame before is doubtful as well. Damage that a decoder does not notice (flipped bits that
    still decode, lost packets where pictures are not numbered) stays unseen.
    """

    def __init__(self) -> None:
        self.broken: set[object] = set()  # one entry per broken packet, also when it is read twice
        self.has_checksums = True  # of all packets so far
        self.continuity: H264Continuity | None = None
        self.may_show_again = False
        self.is_noticed_late = False
        self.is_hevc = False
        self.restart()

    def begin(self, file: VideoFile) -> None:
        """A file is decoded from where it stands."""
        self.may_show_again = file.codec == "av1"
        self.is_hevc = file.codec == "hevc"
        self.is_noticed_late = file.codec in _CODECS_WITH_LATE_COMPLAINTS
        if self.continuity is None and file.codec == "h264":
            self.continuity = H264Continuity(file.stream.codec_context.extradata)

    def restart(self) -> None:
        """A seek: what follows begins at a key frame and owes nothing to what was decoded before."""
        self.num_fed = 0
        self.fed_at: dict[int, int] = {}
        self.keys_fed: set[int] = set()
        self.doubtful_since: int | None = None
        self.doubtful: list[tuple[int, int]] = []  # what went in from the first up to the last is, if it comes later
        self.b_frames: list[int | None] = []
        self.group: list[int | None] = []
        self.num_revoked = 0
        self.key_picture: bytes | None = None
        if self.continuity is not None:
            self.continuity.restart()

    def feed(self, packet: Any) -> None:
        """Note a packet that is about to be decoded."""
        self.has_checksums &= self.is_hevc and has_checksum(bytes(packet))
        self.num_fed += 1
        if packet.pts is not None:
            self.fed_at[packet.pts] = self.num_fed
            if packet.is_keyframe:
                self.keys_fed.add(packet.pts)
        if packet.is_corrupt:
            self.packet_broke(packet.pts)
        if self.continuity is not None:
            has_hole, is_intra = self.continuity.has_hole(packet)
            if has_hole:
                self.broken.add(("hole", packet.pts or packet.dts or self.num_fed))
                self.doubtful_since = self.num_fed - is_intra  # an intra picture does not refer to what is missing

    @property
    def is_ruled_out(self) -> bool:
        """Whether all that was decoded was held against a checksum of its pixels, and none was wrong."""
        return self.num_fed > 0 and self.has_checksums and not self.broken

    def packet_broke(self, pts: int | None) -> None:
        """From this packet on, everything is doubtful."""
        self.broken.add(("packet", self.num_fed) if pts is None else pts)
        self.doubtful_since = self.num_fed
        if self.is_noticed_late:
            self.num_revoked = len(self.group)

    def revoked(self) -> list[int | None]:
        """Time stamps of the last frames that came, if something since then says that they are not intact."""
        revoked, self.num_revoked = self.group[: self.num_revoked], 0
        return revoked

    def frame_came(self, frame: Any) -> tuple[bool, list[int | None]]:
        """Whether this frame is intact, and the time stamps of earlier ones that turn out not to be."""
        if (
            self.doubtful_since is not None
            and is_intra(frame)
            and frame.pts in self.keys_fed
            and self.fed_at[frame.pts] > self.doubtful_since
        ):
            self.doubtful.append((self.doubtful_since, self.fed_at[frame.pts]))
            self.doubtful_since = None
        fed_at = self.fed_at.get(frame.pts, self.num_fed)
        is_late = any(first <= fed_at < last for first, last in self.doubtful)
        if self.may_show_again and is_intra(frame):
            self._look_at_key_picture(frame)
        revoked = self.revoked()
        if revoked or frame.pts in self.keys_fed:
            self.group = []
        self.group.append(frame.pts)
        if frame.is_corrupt:
            revoked, self.b_frames = revoked or self.b_frames, []
            self.packet_broke(frame.pts)
            # the key frame after a corrupt one was fed after it, whatever else is already inside the decoder
            self.doubtful_since = fed_at
        if frame.pict_type == B_FRAME:
            self.b_frames.append(frame.pts)
        else:
            self.b_frames = []
        return self.doubtful_since is None and not is_late, revoked

    def _look_at_key_picture(self, frame: Any) -> None:
        """
        Note the picture of a key frame; if one that was shown comes out once more, what should be there is missing.

        AV1 shows pictures out of its store. Where the one that was to be put there is lost, the key frame lies there.
        """
        picture = hashlib.blake2b(memoryview(frame.planes[0])).digest()
        if frame.pts in self.keys_fed:
            self.key_picture = picture
        elif picture == self.key_picture:
            self.packet_broke(frame.pts)
            self.doubtful_since = self.fed_at.get(frame.pts, self.num_fed)


def decoded(file: VideoFile, damage: Damage) -> Iterator[Any]:
    """Frames in the order shown, from where the file stands to its end; what does not decode is noted and skipped."""
    damage.begin(file)
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
