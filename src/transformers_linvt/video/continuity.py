"""
Lost packets, seen where a bitstream numbers its pictures: a hole in `frame_num` of H.264.

A decoder that misses a picture shows the next ones with what it has, and says nothing. H.264 counts the pictures that
others are predicted from; where that count jumps, one of them is missing. (Missing pictures that nothing refers to
harm no other.) HEVC decoders tell by themselves; VP8, VP9 and AV1 number nothing that would show a hole.
"""

import re
from typing import Any


_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8  # types of NAL units
_PROFILES_WITH_CHROMA = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_HEADER_BYTES = 64  # of a slice: its first numbers, which are all that is read
_INTRA_SLICES = {2, 4, 7, 9}


# A message of HEVC behind a picture (a NAL unit of type 40, payload 132) with the MD5 of each of its planes: the one
# kind of checksum that FFmpeg looks at. In front stands a start code, or the length of the unit.
_PICTURE_MD5 = re.compile(rb"(?:\x00\x00\x01|\x00\x00\x00[\x15-\x40])\x50\x01\x84[\x11\x31]\x00", re.S)


def has_checksum(packet: bytes) -> bool:
    """Whether a packet of HEVC carries the MD5 of the picture in it."""
    return _PICTURE_MD5.search(packet) is not None


class _Bits:
    """Numbers out of a NAL unit, from the most significant bit on; raises `IndexError` behind its end."""

    def __init__(self, unit: bytes) -> None:
        self.data = unit.replace(b"\x00\x00\x03", b"\x00\x00")  # escapes, so that no start code appears inside
        self.at = 0

    def take(self, count: int) -> int:
        """The next `count` bits as a number."""
        value = 0
        for _ in range(count):
            value = value << 1 | self.data[self.at >> 3] >> (7 - (self.at & 7)) & 1
            self.at += 1
        return value

    def unsigned(self) -> int:
        """An Exp-Golomb number."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        number = self.unsigned()
        return (number + 1) // 2 if number & 1 else -(number // 2)


def _skip_scaling_lists(bits: _Bits, count: int) -> None:
    for at in range(count):
        last = following = 8
        if not bits.take(1):
            continue
        for _ in range(16 if at < 6 else 64):
            if following:
                following = (last + bits.signed()) % 256
                last = following or last


def _sequence(unit: bytes) -> tuple[int, int, bool]:
    """What a sequence parameter set says: number, bits of `frame_num` (0 if it may jump), and separate colours."""
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    number, has_separate_colours = bits.unsigned(), False
    if profile in _PROFILES_WITH_CHROMA:
        chroma = bits.unsigned()
        has_separate_colours = chroma == 3 and bool(bits.take(1))
        bits.unsigned()
        bits.unsigned()
        bits.take(1)
        if bits.take(1):
            _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
    length = bits.unsigned() + 4
    order = bits.unsigned()
    if order == 0:
        bits.unsigned()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(bits.unsigned()):
            bits.signed()
    bits.unsigned()
    may_jump = bool(bits.take(1))
    return number, 0 if may_jump else length, has_separate_colours


class H264Continuity:
    """
    Follows `frame_num` from packet to packet.

    Args:
        extradata (`bytes`, *optional*): Of the stream: an `avcC` record, or NAL units with start codes.
    """

    def __init__(self, extradata: bytes | None) -> None:
        extradata = extradata or b""
        self.length_size = (extradata[4] & 3) + 1 if extradata[:1] == b"\x01" and len(extradata) > 6 else 0
        self.sequences: dict[int, tuple[int, bool]] = {}
        self.sequence_of: dict[int, int] = {}
        self.restart()
        if self.length_size:
            place = 5
            for mask in (0x1F, 0xFF):
                for _ in range(extradata[place] & mask if place < len(extradata) else 0):
                    place += 1
                    size = int.from_bytes(extradata[place : place + 2], "big")
                    self._note(extradata[place + 2 : place + 2 + size])
                    place += 1 + size
                place += 1
        else:
            for unit in self._units(extradata):
                self._note(unit)

    def restart(self) -> None:
        """What comes next does not follow what came last: a seek."""
        self.reference: int | None = None

    def has_hole(self, packet: Any) -> tuple[bool, bool]:
        """Whether a picture that others refer to is missing before this packet, and whether it is all intra itself."""
        hole, is_intra = False, True
        for unit in self._units(bytes(packet)):
            kind = unit[0] & 31 if unit else 0
            if kind in (_SEQUENCE, _PICTURE):
                self._note(unit)
            elif kind in (_SLICE, _IDR_SLICE):
                try:
                    jumps, is_intra_slice = self._follow(unit, kind == _IDR_SLICE)
                except (IndexError, KeyError):  # a broken slice is for the decoder to complain about
                    self.restart()
                    continue
                hole |= jumps
                is_intra &= is_intra_slice
        return hole, is_intra

    def _follow(self, unit: bytes, is_idr: bool) -> tuple[bool, bool]:
        bits = _Bits(unit[1:_HEADER_BYTES])
        bits.unsigned()
        is_intra = bits.unsigned() in _INTRA_SLICES
        length, has_separate_colours = self.sequences[self.sequence_of[bits.unsigned()]]
        if not length:
            self.restart()
            return False, is_intra
        bits.take(2 if has_separate_colours else 0)
        number, last = bits.take(length), self.reference
        if unit[0] >> 5 & 3:
            self.reference = number
        if is_idr or last is None:
            return False, is_intra
        return number not in (last, (last + 1) % (1 << length)), is_intra

    def _units(self, data: bytes) -> list[bytes]:
        if not self.length_size:
            return [unit for unit in re.split(rb"\x00\x00\x01", data)[1:] if unit]
        units, place = [], 0
        while place + self.length_size < len(data):
            size = int.from_bytes(data[place : place + self.length_size], "big")
            place += self.length_size
            units.append(data[place : place + min(size, 4096)])
            place += size
        return [unit for unit in units if unit]

    def _note(self, unit: bytes) -> None:
        """Keep what slices need of a parameter set."""
        try:
            if unit[0] & 31 == _SEQUENCE:
                number, length, has_separate_colours = _sequence(unit)
                self.sequences[number] = (length, has_separate_colours)
            elif unit[0] & 31 == _PICTURE:
                bits = _Bits(unit[1:_HEADER_BYTES])
                self.sequence_of[bits.unsigned()] = bits.unsigned()
        except IndexError:
            return
