"""
A zoo of video files, written with PyAV, whose frames say which they are.

Every frame carries its number as a barcode (eight bits above, their complement below, in cells of 20 x 48 pixels) over
a moving background, so that a reader which returns another frame than the one asked for is caught whatever the codec
did to the picture. `python tests/support/zoo.py` prints, for each file and backend, whether the frames are exact
or refused.
"""

import argparse
import io
import os
import random
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


WIDTH, HEIGHT, NUM_FRAMES, RATE = 160, 96, 72, 25
NUM_BITS = 8


@dataclass(frozen=True)
class Exhibit:
    """
    One file: where it is, which numbers its frames carry in the order shown, and when each is shown (seconds).

    `num_guessed` of the times are not in the file. The frames at the places `lost` are damaged, and may not be shown.
    """

    name: str
    path: Path
    numbers: list[int]
    seconds: list[float]
    size: tuple[int, int] = (HEIGHT, WIDTH)
    num_guessed: int = 0
    lost: tuple[int, ...] = ()


def draw(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A frame of shape (height, width, 3) that carries `number` (0 to 255)."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    ramp = (np.arange(width) * 255 // width + 5 * number) % 256
    image[..., 0], image[..., 1], image[..., 2] = ramp, 255 - ramp, 128
    edges = [bit * width // NUM_BITS for bit in range(NUM_BITS + 1)]
    for bit in range(NUM_BITS):
        value = 230 if number >> bit & 1 else 20
        # a margin shows the moving background between the cells
        inside = slice(edges[bit] + 2, edges[bit + 1] - 2)
        image[4 : height // 2 - 2, inside] = value
        image[height // 2 + 2 : height - 4, inside] = 250 - value
    return image


def read_number(image: np.ndarray) -> int:
    """The number a frame of shape (height, width, 3) carries, or -1 if code and complement disagree (damage)."""
    height, width = image.shape[:2]
    grey = image.astype(np.float32).mean(axis=-1)
    number = 0
    for bit in range(NUM_BITS):
        low, high = bit * width // NUM_BITS, (bit + 1) * width // NUM_BITS
        inside = slice(low + (high - low) // 3, high - (high - low) // 3)
        above = grey[height // 6 : height // 2 - height // 8, inside].mean()
        below = grey[height // 2 + height // 8 : height - height // 6, inside].mean()
        if abs(above - below) < 60:
            return -1
        number |= int(above > below) << bit
    return number


def read_numbers(frames: np.ndarray) -> list[int]:
    """The numbers of frames of shape (T, height, width, 3)."""
    return [read_number(frame) for frame in frames]


@dataclass
class Recipe:
    """How a file is encoded: container options, codec and its options, and the time stamp of each frame in ticks."""

    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    ticks: list[int] = field(default_factory=lambda: list(range(NUM_FRAMES)))
    rate: int = RATE
    gop: int = 24
    bframes: int = 2
    size: tuple[int, int] = (HEIGHT, WIDTH)
    container: str | None = None
    container_options: dict[str, str] = field(default_factory=dict)
    audio: bool = False


def encode(path: Path, recipe: Recipe) -> None:
    """Write a file of barcoded frames."""
    os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder writes its settings to the terminal
    options = dict(recipe.options)
    if recipe.codec == "libx264":
        options = {"preset": "ultrafast", "bf": str(recipe.bframes), "crf": "23", "threads": "1", **options}
    height, width = recipe.size
    with av.open(str(path), "w", format=recipe.container, options=recipe.container_options) as container:
        stream = container.add_stream(recipe.codec, rate=recipe.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, recipe.pixel_format
        context = stream.codec_context
        context.gop_size, context.thread_count = recipe.gop, 1
        if recipe.codec in ("mpeg4", "mpeg2video"):
            context.max_b_frames, context.bit_rate = recipe.bframes, 1_500_000
        context.time_base = Fraction(1, recipe.rate)
        if recipe.audio:
            sound = container.add_stream("aac", rate=16000)
        for number, tick in enumerate(recipe.ticks):
            frame = av.VideoFrame.from_ndarray(draw(number, height, width), format="rgb24")
            frame = frame.reformat(format=recipe.pixel_format)
            frame.pts, frame.time_base = tick, Fraction(1, recipe.rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if recipe.audio:
            samples = np.zeros((1, 16000 * len(recipe.ticks) // recipe.rate), dtype=np.float32)
            tone = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = 16000, 0, Fraction(1, 16000)
            container.mux(sound.encode(tone))
            container.mux(sound.encode())


def remux(
    source: Path, target: Path, change: Callable[[av.Packet], av.Packet | None] | None = None, **open_options: object
) -> None:
    """Copy the packets of the first video stream, each through `change` (which may drop it by returning `None`)."""
    with av.open(str(source)) as reader, av.open(str(target), "w", **open_options) as writer:
        template = reader.streams.video[0]
        # PyAV looks for an encoder of the decoder's name, and there is none of that of AV1's
        has_no_encoder = template.codec_context.name == "libdav1d"
        stream = writer.add_stream_from_template(template, **({"opaque": True} if has_no_encoder else {}))
        for packet in reader.demux(template):
            if packet.dts is None:
                continue
            packet = packet if change is None else change(packet)
            if packet is not None:
                packet.stream = stream
                writer.mux(packet)


def set_display_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write (a, b, c, d) of the display matrix into the track header of an MP4 file, as a telephone does."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4  # version 0: flags 4, times and ids 20, reserved and volume 16, then the matrix
    a, b, c, d = (value * 65536 for value in matrix)
    for place, value in enumerate((a, b, 0, c, d, 0)):
        data[start + 40 + 4 * place : start + 44 + 4 * place] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)


def mark_every_packet_as_key_frame(path: Path) -> None:
    """Take the list of key frames ('stss') out of an MP4 file: without one, all packets count as key frames."""
    data = path.read_bytes()
    assert data.count(b"stss") == 1
    path.write_bytes(data.replace(b"stss", b"free"))


def trim_without_encoding(source: Path, target: Path, seconds: Fraction) -> None:
    """What `ffmpeg -ss SECONDS -c copy` does: keep packets from the key frame before on, hide those before the cut."""
    with av.open(str(source)) as reader:
        stream = reader.streams.video[0]
        cut = int(seconds / stream.time_base)
        key = max(p.pts for p in reader.demux(stream) if p.pts is not None and p.is_keyframe and p.pts <= cut)

    def shift(packet: av.Packet) -> av.Packet | None:
        if packet.pts < key:
            return None
        packet.pts -= cut
        packet.dts -= cut
        return packet

    remux(source, target, shift)


def hide_vp8_frames(source: Path, target: Path) -> None:
    """Put a packet that is decoded but never shown before every later key frame, like VP8's alternate references."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is None:
                continue
            if packet.is_keyframe and packet.pts > 0:
                data = bytearray(bytes(packet))
                data[0] &= ~0x10  # show_frame
                hidden = av.Packet(bytes(data))
                hidden.stream, hidden.time_base = stream, packet.time_base
                hidden.pts = hidden.dts = packet.pts - 1
                writer.mux(hidden)
            packet.stream = stream
            writer.mux(packet)


def set_block_times(source: Path, target: Path, times: dict[int, int]) -> None:
    """Give packets of a Matroska file other time stamps: place in the file -> milliseconds after its cluster's."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]
    for number, milliseconds in times.items():
        assert data.count(packets[number]) == 1
        start = data.index(packets[number])  # in front of it: the time relative to the cluster, and a byte of flags
        data[start - 3 : start - 1] = milliseconds.to_bytes(2, "big", signed=True)
    target.write_bytes(data)


def set_edits(source: Path, target: Path, rows: list[tuple[float, float]]) -> None:
    """Show other pieces of an MP4 file whose index is at its end: `(duration, start)` of each in seconds."""
    data = bytearray(source.read_bytes())
    start = data.index(b"elst") - 4
    old = int.from_bytes(data[start : start + 4], "big")

    first = int.from_bytes(data[start + 20 : start + 24], "big")  # where second 0 is, with the delay of B frames

    def scale(header: bytes) -> int:
        place = data.index(header) + 16  # version 0: flags 4, times 8
        return int.from_bytes(data[place : place + 4], "big")

    body = b""
    for duration, begin in rows:
        body += round(duration * scale(b"mvhd")).to_bytes(4, "big")
        body += (first + round(begin * scale(b"mdhd"))).to_bytes(4, "big") + b"\0\1\0\0"
    box = (16 + len(body)).to_bytes(4, "big") + b"elst" + bytes(4) + len(rows).to_bytes(4, "big") + body
    data[start : start + old] = box
    for name in (b"edts", b"trak", b"moov"):
        place = data.index(name) - 4
        size = int.from_bytes(data[place : place + 4], "big") + len(box) - old
        data[place : place + 4] = size.to_bytes(4, "big")
    target.write_bytes(data)


def encode_thumbnail_first(path: Path) -> None:
    """A video behind a stream of one small picture, which is neither the default nor marked as a cover."""
    with av.open(str(path), "w") as container:
        small = container.add_stream("mjpeg", rate=RATE)
        small.height, small.width, small.pix_fmt = 32, 32, "yuvj420p"
        video = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "threads": "1"})
        video.height, video.width, video.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        small.disposition, video.disposition = 0, av.stream.Disposition.default.value  # PyAV 15 takes numbers only
        frame = av.VideoFrame.from_ndarray(draw(255, 32, 32), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        container.mux([*small.encode(frame), *small.encode()])
        for number in range(NUM_FRAMES):
            container.mux(video.encode(av.VideoFrame.from_ndarray(draw(number), format="rgb24")))
        container.mux(video.encode())


def pack_b_frames(source: Path, target: Path) -> None:
    """
    Rewrite MPEG-4 with one B frame between others as "packed bitstream", as old DivX encoders did in AVI.

    The B frame travels in the packet of the frame it refers to, and an empty one (not coded) holds its place.
    """
    with av.open(str(source)) as reader:
        stream = reader.streams.video[0]
        header = bytes(stream.codec_context.extradata or b"")
        packets = [bytes(packet) for packet in reader.demux(stream) if packet.size]
    tag = b"\x00\x00\x01\xb2DivX503b1393p"
    first = packets[0]
    start = first.index(b"\x00\x00\x01\xb6")
    packets[0] = (first[:start] if header[:4] not in first[:start] else first[:start]) + tag + first[start:]

    def kind(packet: bytes) -> int:
        return packet[packet.index(b"\x00\x00\x01\xb6") + 4] >> 6  # 0 I, 1 P, 2 B

    # time increment resolution 25 takes 5 bits: type P, no whole seconds, marker, 5 bits of time, marker, not coded
    empty = b"\x00\x00\x01\xb6" + bytes([0b01_0_1_0000, 0b0_1_0_11111])
    chunks: list[bytes] = []
    for packet in packets:
        if kind(packet) == 2:
            chunks[-1] += packet
            chunks.append(empty)
        else:
            chunks.append(packet)
    with av.open(str(target), "w", format="avi") as writer, av.open(str(source)) as reader:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        stream.codec_context.codec_tag = "DX50"
        for number, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.stream, packet.time_base = stream, Fraction(1, RATE)
            packet.pts = packet.dts = number
            packet.is_keyframe = kind(chunk) == 0
            writer.mux(packet)


def _even(count: int = NUM_FRAMES, rate: int = RATE) -> list[float]:
    return [number / rate for number in range(count)]


# Ticks of 1/100 s: a camera that slows down in the dark, and a still that lasts.
_VARIABLE_TICKS = [0]
for _number in range(1, NUM_FRAMES):
    _VARIABLE_TICKS.append(_VARIABLE_TICKS[-1] + (4, 4, 9, 3, 40)[_number % 5])

# A camera that loses frames: single ones, and a second at a time.
_DROPPED_TICKS = [0]
for _number in range(1, NUM_FRAMES):
    _DROPPED_TICKS.append(_DROPPED_TICKS[-1] + (1, 1, 3, 1, 25)[_number % 5])

_LARGE = (358, 638)
_HEVC = {"preset": "ultrafast", "x265-params": "bframes=2:keyint=24:min-keyint=24:log-level=none:pools=1"}
_VP9 = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1", "crf": "30"}
_VP8 = {"deadline": "good", "cpu-used": "5", "b:v": "1500k"}
_AV1 = {"preset": "12", "crf": "35", "svtav1-params": "lp=1"}
_FIXED_GOP = "min-keyint=24:scenecut=0"

RECIPES: dict[str, Recipe] = {
    "h264.mp4": Recipe(audio=True),
    "h264_moov_first.mp4": Recipe(container_options={"movflags": "faststart"}),
    "hevc.mp4": Recipe("libx265", _HEVC),
    "hevc_10bit.mp4": Recipe("libx265", _HEVC, "yuv420p10le"),
    "vp9.webm": Recipe("libvpx-vp9", _VP9),
    "vp8.webm": Recipe("libvpx", _VP8),
    "h264.mkv": Recipe(audio=True),
    "open_gop.mp4": Recipe(options={"x264-params": f"open-gop=1:bframes=3:b-adapt=0:{_FIXED_GOP}"}, bframes=3),
    "short_gop.mp4": Recipe(options={"x264-params": "open-gop=1:keyint=2:bframes=1:b-adapt=0:min-keyint=1"}, gop=2),
    "fragmented.mp4": Recipe(container_options={"movflags": "frag_keyframe+empty_moov"}),
    "odd_size.mp4": Recipe(size=_LARGE),
    "start_at_3s.mp4": Recipe(ticks=[75 + number for number in range(NUM_FRAMES)]),
    "start_at_3s.mkv": Recipe(ticks=[75 + number for number in range(NUM_FRAMES)]),
    "start_at_100000s.mkv": Recipe(ticks=[2_500_000 + number for number in range(NUM_FRAMES)]),
    "av1.mp4": Recipe("libsvtav1", _AV1),
    "vfr.mp4": Recipe(ticks=_VARIABLE_TICKS, rate=100),
    "vfr.mkv": Recipe(ticks=_VARIABLE_TICKS, rate=100),
    "mpegts.ts": Recipe(),
    "mpeg4_b.avi": Recipe("mpeg4", gop=12),
    "mjpeg.avi": Recipe("mjpeg", pixel_format="yuvj420p"),
    "dropped.avi": Recipe(ticks=_DROPPED_TICKS, bframes=0),
    "dropped_mpeg4.avi": Recipe("mpeg4", ticks=_DROPPED_TICKS, gop=12, bframes=0),
    "mpeg2.mpg": Recipe("mpeg2video", gop=12),
    "h264.flv": Recipe(),
    "raw.h264": Recipe(container="h264"),
    "intra_refresh.mp4": Recipe(options={"x264-params": "intra-refresh=1:keyint=24:bframes=0"}, bframes=0),
    "h264_10bit.mp4": Recipe(options={"profile": "high10"}, pixel_format="yuv420p10le"),
}
# Turned by the header, as stored by a telephone: matrix, and what it does to an upright picture that is stored.
MATRICES: dict[str, tuple[int, int, int, int]] = {
    "rotated_90.mp4": (0, 1, -1, 0),
    "rotated_180.mp4": (-1, 0, 0, -1),
    "rotated_270.mp4": (0, -1, 1, 0),
    "mirrored.mp4": (-1, 0, 0, 1),
}


def stored_for_display(image: np.ndarray, name: str) -> np.ndarray:
    """How an upright picture has to be stored so that the header of this file turns it upright again."""
    if name == "rotated_90.mp4":
        return np.rot90(image, 1)  # the header turns it clockwise, so it lies counterclockwise
    if name == "rotated_180.mp4":
        return np.rot90(image, 2)
    if name == "rotated_270.mp4":
        return np.rot90(image, -1)
    return image[:, ::-1]


def encode_turned(path: Path, name: str) -> None:
    """A file whose pictures lie on their side (or are mirrored) until its display matrix is applied."""
    first = np.ascontiguousarray(stored_for_display(draw(0), name))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "bf": "2", "threads": "1"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 24
        for number in range(NUM_FRAMES):
            image = np.ascontiguousarray(stored_for_display(draw(number), name))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    set_display_matrix(path, MATRICES[name])


def build_zoo(folder: Path) -> dict[str, Exhibit]:
    """Write every file of the zoo into `folder` (about 2 MB)."""
    zoo: dict[str, Exhibit] = {}
    numbers = list(range(NUM_FRAMES))
    for name, recipe in RECIPES.items():
        encode(folder / name, recipe)
        seconds = [(tick - recipe.ticks[0]) / recipe.rate for tick in recipe.ticks]
        num_guessed = NUM_FRAMES if name == "raw.h264" else 0  # it has no time stamps: they are of its nominal rate
        zoo[name] = Exhibit(name, folder / name, numbers, seconds, recipe.size, num_guessed)
    for name in MATRICES:
        encode_turned(folder / name, name)
        zoo[name] = Exhibit(name, folder / name, numbers, _even())
    trim_without_encoding(folder / "h264.mp4", folder / "trimmed.mp4", Fraction(6, 5))
    zoo["trimmed.mp4"] = Exhibit("trimmed.mp4", folder / "trimmed.mp4", numbers[30:], _even(NUM_FRAMES - 30))
    single = folder / "one_b_frame.avi"
    encode(single, Recipe("mpeg4", gop=12, bframes=1))
    pack_b_frames(single, folder / "packed_b.avi")
    zoo["packed_b.avi"] = Exhibit("packed_b.avi", folder / "packed_b.avi", numbers, _even())
    encode(folder / "false_keys.mp4", Recipe("mpeg4", gop=12, bframes=0))
    mark_every_packet_as_key_frame(folder / "false_keys.mp4")
    zoo["false_keys.mp4"] = Exhibit("false_keys.mp4", folder / "false_keys.mp4", numbers, _even())
    hide_vp8_frames(folder / "vp8.webm", folder / "vp8_hidden.webm")
    zoo["vp8_hidden.webm"] = Exhibit("vp8_hidden.webm", folder / "vp8_hidden.webm", numbers, _even())
    encode_two_streams(folder / "two_streams.mp4")
    zoo["two_streams.mp4"] = Exhibit("two_streams.mp4", folder / "two_streams.mp4", numbers, _even())
    for name in ("thumbnail_first.mov", "thumbnail_first.mkv"):
        encode_thumbnail_first(folder / name)
        zoo[name] = Exhibit(name, folder / name, numbers, _even())
    encode_long_sound(folder / "long_sound.mkv")
    zoo["long_sound.mkv"] = Exhibit("long_sound.mkv", folder / "long_sound.mkv", numbers, _even())
    encode(folder / "false_duration.mkv", Recipe())
    set_matroska_duration(folder / "false_duration.mkv", 9.9e6)
    zoo["false_duration.mkv"] = Exhibit("false_duration.mkv", folder / "false_duration.mkv", numbers, _even())
    for name, bframes, pieces in EDITS:
        encode(folder / "unedited.mp4", Recipe(gop=10, bframes=bframes))
        set_edits(
            folder / "unedited.mp4", folder / name, [((end - begin) / RATE, begin / RATE) for begin, end in pieces]
        )
        shown = [number for begin, end in pieces for number in range(begin, end)]
        zoo[name] = Exhibit(name, folder / name, shown, _even(len(shown)))
    encode(folder / "no_b_frames.mkv", Recipe(bframes=0))
    set_block_times(folder / "no_b_frames.mkv", folder / "repeated_stamp.mkv", {10: 360})
    seconds = [*_even(10), 0.361, *_even()[11:]]
    zoo["repeated_stamp.mkv"] = Exhibit(
        "repeated_stamp.mkv", folder / "repeated_stamp.mkv", numbers, seconds, num_guessed=1
    )
    encode(folder / "no_b_frames.ts", Recipe(bframes=0))
    remove_time_stamp(folder / "no_b_frames.ts", folder / "missing_stamp.ts", 10)
    zoo["missing_stamp.ts"] = Exhibit("missing_stamp.ts", folder / "missing_stamp.ts", numbers, _even(), num_guessed=1)
    return zoo


def build_damaged_zoo(folder: Path) -> dict[str, Exhibit]:
    """Write files in which something is broken or lost; key frames are 0, 24 and 48."""
    zoo: dict[str, Exhibit] = {}
    numbers = list(range(NUM_FRAMES))

    def add(name: str, source: str, lost: range, change: Callable[[int, bytes], bytes | None]) -> None:
        encode(folder / source, RECIPES.get(source, Recipe("mpeg4", gop=12, bframes=0)))
        rewrite(folder / source, folder / name, change)
        zoo[name] = Exhibit(name, folder / name, numbers, _even(), lost=tuple(lost))

    for source in ("h264.mp4", "hevc.mp4", "mpegts.ts", "av1.mp4"):
        lost = range(
            48 if source == "hevc.mp4" else 24
        )  # key frames of HEVC are of open groups: the next goes as well
        add(
            f"first_key_broken_{source}",
            source,
            lost,
            lambda at, data: data[:5].ljust(len(data), b"\0") if at == 0 else data,
        )
    for source, number in (("h264.mp4", 28), ("mpegts.ts", 28), ("h264.flv", 28), ("open_gop.mp4", 29)):
        add(
            f"packet_lost_{source}",
            source,
            range(24, 48),
            lambda at, data, number=number: None if at == number else data,
        )
    # a picture that is not coded: nothing comes out, and the decoder does not mind
    hole = b"\0\0\1\xb6\x50\x5f"
    add("not_coded_mpeg4.mp4", "mpeg4.mp4", range(24, 36), lambda at, data: hole if at == 28 else data)
    # the decoder makes a picture of half a key frame, and complains about the next ones
    noise = random.Random(1).randbytes(10**5)
    add(
        "half_key_broken_av1.mp4",
        "av1.mp4",
        range(24),
        lambda at, data: data[: len(data) // 2] + noise[: len(data) - len(data) // 2] if at == 0 else data,
    )
    # what goes in behind the hole comes out late, behind a key frame that is whole
    add("packet_lost_short_gop.mp4", "short_gop.mp4", range(15, 30), lambda at, data: None if 17 <= at < 20 else data)
    # the hole is in front of a key frame that begins no new count
    add("group_end_lost_open_gop.mp4", "open_gop.mp4", range(13, 24), lambda at, data: None if 17 <= at < 21 else data)
    # the pictures that were to be in the store are not there: what is shown out of it is an older one
    add("shown_again_av1.mp4", "av1.mp4", range(24), lambda at, data: None if at == 17 else data)
    add("called_key_frame_av1.mp4", "av1.mp4", range(24, 48), lambda at, data: None if at == 25 else data)
    return zoo


def rewrite(source: Path, target: Path, change: Callable[[int, bytes], bytes | None]) -> None:
    """Copy a file, each packet as `change` makes it of its place in the file and its bytes; `None` loses it."""
    places = iter(range(10**6))

    def other(packet: av.Packet) -> av.Packet | None:
        data = change(next(places), bytes(packet))
        if data is None:
            return None
        copy = av.Packet(data)
        copy.pts, copy.dts, copy.time_base, copy.duration = packet.pts, packet.dts, packet.time_base, packet.duration
        copy.is_keyframe = packet.is_keyframe
        return copy

    remux(source, target, other)


def remove_time_stamp(source: Path, target: Path, number: int) -> None:
    """Take the time stamp of one picture out of an MPEG-TS file: its header says that it has none."""
    data, start = bytearray(source.read_bytes()), -1
    for _ in range(number + 1):
        start = data.index(b"\0\0\1\xe0", start + 1)
    data[start + 7] &= 0x3F
    target.write_bytes(data)


# Files trimmed in place: the frames that are shown, first and behind the last; a group of pictures has ten.
EDITS: list[tuple[str, int, list[tuple[int, int]]]] = [
    ("edited_both_ends.mp4", 2, [(12, 54)]),
    ("edited_beginning.mp4", 2, [(25, 72)]),
    ("edited_end.mp4", 2, [(0, 45)]),
    ("edited_at_key_frames.mp4", 0, [(10, 60)]),
    ("edited_pieces.mp4", 0, [(5, 25), (30, 55)]),
    ("edited_backwards.mp4", 0, [(42, 65), (3, 25)]),
]


def set_matroska_duration(path: Path, ticks: float) -> None:
    """Write another duration into the header of a Matroska file."""
    data = bytearray(path.read_bytes())
    place = data.index(b"\x44\x89\x88") + 3  # the element, with 8 bytes of content
    data[place : place + 8] = struct.pack(">d", ticks)
    path.write_bytes(data)


def encode_long_sound(path: Path) -> None:
    """A video beside a sound track that goes on for two hours: two short tones, the second at its end."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=8000)
        for number in range(NUM_FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number), format="rgb24")))
        container.mux(stream.encode())
        for seconds in (0, 7300):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
            tone.sample_rate, tone.pts, tone.time_base = 8000, 8000 * seconds, Fraction(1, 8000)
            container.mux(sound.encode(tone))
        container.mux(sound.encode())


def encode_two_streams(path: Path) -> None:
    """A second, larger video stream of other numbers behind the first."""
    with av.open(str(path), "w") as container:
        streams = []
        for height, width in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)):
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "threads": "1"})
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            streams.append(stream)
        for number in range(NUM_FRAMES):
            for place, stream in enumerate(streams):
                image = draw(number + 100 * place, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())


def main() -> None:
    """Print the table of files and backends."""
    from transformers_linvt.errors import VideoReadError
    from transformers_linvt.video.reading import read_video

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, help="write the files here and keep them")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        folder = folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        zoo = build_zoo(folder)
        out = io.StringIO()
        counts = {backend: {"exact": 0, "refused": 0, "WRONG": 0} for backend in ("pyav", "decord", "torchcodec")}
        for name, exhibit in zoo.items():
            row = f"{name:24}"
            for backend in counts:
                try:
                    video = read_video(exhibit.path, num_frames=NUM_FRAMES, video_backend=backend)
                    shown = list(zip(read_numbers(video.frames), video.timestamps.round(6).tolist(), strict=True))
                    wanted = list(zip(exhibit.numbers, np.round(exhibit.seconds, 6).tolist(), strict=True))
                    verdict = "exact" if shown == wanted else "WRONG"
                    note = ""
                except VideoReadError as error:
                    verdict, note = "refused", str(error).removeprefix(str(exhibit.path))[:100]
                counts[backend][verdict] += 1
                row += f" {backend}: {verdict}{note}"
            out.write(row + "\n")
        out.write(f"{counts}\n")
        sys.stdout.write(out.getvalue())


if __name__ == "__main__":
    main()
