"""Damage: what is broken or lost is seen where a bitstream lets one see it, and no frame built on it is returned."""

import logging
import random
import re
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from transformers_linvt.errors import VideoReadError
from transformers_linvt.video.continuity import H264Continuity
from transformers_linvt.video.damage import Damage
from transformers_linvt.video.reading import read_video
from transformers_linvt.video.times import skipped_places
from zoo import NUM_FRAMES, RECIPES, Exhibit, Recipe, build_damaged_zoo, encode, read_numbers, rewrite


pytestmark = pytest.mark.timeout(60)

DAMAGED = [
    "first_key_broken_h264.mp4", "first_key_broken_hevc.mp4", "first_key_broken_mpegts.ts", "first_key_broken_av1.mp4",
    "packet_lost_h264.mp4", "packet_lost_mpegts.ts", "packet_lost_h264.flv", "packet_lost_open_gop.mp4",
    "not_coded_mpeg4.mp4", "shown_again_av1.mp4", "called_key_frame_av1.mp4", "packet_lost_short_gop.mp4",
    "group_end_lost_open_gop.mp4", "half_key_broken_av1.mp4",
]  # fmt: skip


@pytest.fixture(scope="module")
def damaged_zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exhibit]:
    return build_damaged_zoo(tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("name", DAMAGED)
def test_frames_beside_damage_are_right_and_at_their_times(name: str, damaged_zoo: dict[str, Exhibit]) -> None:
    exhibit = damaged_zoo[name]
    for arguments in ({"num_frames": 100}, {"num_frames": 7}, {"start": 1.3, "end": 2.5, "num_frames": 40}):
        video = read_video(exhibit.path, **arguments)
        numbers = read_numbers(video.frames)
        np.testing.assert_allclose(video.timestamps, [number / 25 for number in numbers], atol=1e-3)
    whole = read_numbers(read_video(exhibit.path, num_frames=100).frames)
    assert set(range(NUM_FRAMES)) - set(exhibit.lost) <= set(whole) < set(range(NUM_FRAMES))


@pytest.mark.parametrize("name", [name for name in DAMAGED if not name.endswith("broken_mpegts.ts")])
def test_damage_is_counted_and_nothing_is_called_intact(
    name: str, damaged_zoo: dict[str, Exhibit], caplog: pytest.LogCaptureFixture
) -> None:
    video = read_video(damaged_zoo[name].path, num_frames=100)
    assert video.num_broken_packets > 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(f"{video.num_broken_packets} broken or lost packets" in warning for warning in warnings) == 1
    assert not any("intact" in warning for warning in warnings)


def test_every_lost_packet_of_h264_that_others_need_is_seen(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", Recipe(gop=12))
    num_seen = 0
    for lost in range(1, 40, 4):
        path = tmp_path / "lost.mp4"
        rewrite(tmp_path / "whole.mp4", path, lambda at, data, lost=lost: None if at == lost else data)
        video = read_video(path, num_frames=100)
        numbers = read_numbers(video.frames)
        assert -1 not in numbers and numbers == sorted(numbers)
        num_seen += video.num_broken_packets > 0
        # of a picture that no other refers to nothing else is lost
        assert video.num_broken_packets > 0 or len(numbers) == NUM_FRAMES - 1
    assert 0 < num_seen < 10


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.flv", "mpegts.ts", "h264.mkv", "h264_10bit.mp4", "intra_refresh.mp4"]
)
def test_numbers_of_whole_files_of_h264_have_no_hole(name: str, tmp_path: Path) -> None:
    """With parameter sets in front of the file (MP4, Matroska, FLV) and among the packets (MPEG-TS)."""
    encode(tmp_path / name, RECIPES[name])
    with av.open(str(tmp_path / name)) as container:
        stream = container.streams.video[0]
        follower = H264Continuity(stream.codec_context.extradata)
        packets = [packet for packet in container.demux(stream) if packet.size]
    assert not any(follower.has_hole(packet)[0] for packet in packets)
    assert follower.reference is not None  # it did read them


def test_broken_parameter_sets_and_slices_of_h264_are_left_to_the_decoder() -> None:
    noise = random.Random(3)
    for _ in range(300):
        follower = H264Continuity(b"\x01\x64\x00\x0a\xff\xe1" + noise.randbytes(noise.randrange(60)))
        for _ in range(4):
            packet = noise.randbytes(3) + bytes([noise.choice([1, 5, 7, 8, 0x65, 0x41])]) + noise.randbytes(40)
            assert isinstance(follower.has_hole(packet)[0], bool)  # an answer, and no exception
            H264Continuity(b"").has_hole(b"\0\0\1" + packet[3:])


def test_an_old_picture_of_av1_is_not_shown_for_the_one_that_is_lost(damaged_zoo: dict[str, Exhibit]) -> None:
    """One by one: the decoder complains only later, when what is wanted has come out."""
    num_refused = 0
    for number in range(15, 26):
        try:
            video = read_video(
                damaged_zoo["shown_again_av1.mp4"].path, start=number / 25 + 0.01, end=number / 25 + 0.02
            )
        except VideoReadError:
            num_refused += 1
        else:
            assert read_numbers(video.frames) == [round(25 * video.timestamps[0])]
    assert num_refused > 0


def test_a_complaint_at_the_end_of_the_file_is_one_about_all_since_the_key_frame(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", RECIPES["av1.mp4"])
    rewrite(
        tmp_path / "whole.mp4",
        tmp_path / "hurt.mp4",
        lambda at, data: data[:2] + bytes(len(data) - 2) if at == NUM_FRAMES - 1 else data,
    )
    video = read_video(tmp_path / "hurt.mp4", num_frames=100)
    assert video.num_broken_packets > 0 and read_numbers(video.frames) == list(range(48))


def spoil(source: Path, target: Path, number: int, filling: bytes) -> None:
    """Overwrite the last two thirds of one packet."""
    rewrite(
        source,
        target,
        lambda at, data: data[: len(data) // 3] + filling[len(data) // 3 : len(data)] if at == number else data,
    )


def test_slices_of_hevc_that_stop_early_are_seen(tmp_path: Path) -> None:
    encode(tmp_path / "whole.mp4", RECIPES["hevc.mp4"])
    seen = 0
    for number in (10, 13, 25, 40):
        spoil(tmp_path / "whole.mp4", tmp_path / "hurt.mp4", number, bytes(10**5))
        seen += read_video(tmp_path / "hurt.mp4", num_frames=100).num_broken_packets > 0
    assert seen >= 2


def test_slices_of_h264_that_go_wrong_without_a_complaint_are_seen(tmp_path: Path) -> None:
    """The decoder makes up what it misses and returns a whole picture; it only notes that it did."""
    encode(tmp_path / "whole.mp4", Recipe())
    noise, seen = random.Random(5), 0
    for number in (3, 10, 25, 40, 55):
        spoil(tmp_path / "whole.mp4", tmp_path / "hurt.mp4", number, noise.randbytes(10**5))
        video = read_video(tmp_path / "hurt.mp4", num_frames=100)
        numbers = read_numbers(video.frames)
        assert -1 not in numbers and numbers == sorted(numbers)
        seen += video.num_broken_packets > 0
    assert seen == 5


def flip_a_bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def test_all_damage_of_hevc_is_seen_where_the_stream_has_checksums(tmp_path: Path) -> None:
    settings = "bframes=2:keyint=24:min-keyint=24:log-level=none:pools=1:hash=1"
    encode(tmp_path / "whole.mp4", Recipe("libx265", {"preset": "ultrafast", "x265-params": settings}))
    for number in (10, 13, 25, 40):
        rewrite(
            tmp_path / "whole.mp4",
            tmp_path / "hurt.mp4",
            lambda at, data, number=number: flip_a_bit(data, len(data) // 2) if at == number else data,
        )
        video = read_video(tmp_path / "hurt.mp4", num_frames=100)
        numbers = read_numbers(video.frames)
        assert video.num_broken_packets > 0 and -1 not in numbers and numbers == sorted(numbers)


def test_a_last_frame_is_certain_only_when_what_it_may_refer_to_came_out(tmp_path: Path) -> None:
    """B frames come out before the frame behind them, which went into the decoder first and may be broken."""
    encode(tmp_path / "whole.mp4", Recipe())
    with av.open(str(tmp_path / "whole.mp4")) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        numbers = [round(float(packet.pts * packet.time_base) * 25) for packet in packets]
    hurt = next(at for at in range(30, 40) if numbers[at] > numbers[at + 1])  # a frame with B frames in front of it
    rewrite(
        tmp_path / "whole.mp4",
        tmp_path / "hurt.mp4",
        lambda at, data: data[: len(data) // 2].ljust(len(data), b"\0") if at == hurt else data,
    )
    before = numbers[hurt] - 1
    with pytest.raises(VideoReadError, match="are damaged"):
        read_video(tmp_path / "hurt.mp4", start=before / 25 + 0.01, end=before / 25 + 0.02)
    assert read_numbers(read_video(tmp_path / "whole.mp4", start=before / 25 + 0.01, end=before / 25 + 0.02).frames)


def test_a_picture_ends_doubt_only_if_its_packet_is_marked_as_a_key_frame_too() -> None:
    def packet(pts: int, is_keyframe: bool) -> SimpleNamespace:
        return SimpleNamespace(pts=pts, dts=pts, is_keyframe=is_keyframe, is_corrupt=False)

    def picture(pts: int) -> SimpleNamespace:
        return SimpleNamespace(
            pts=pts, key_frame=True, pict_type=av.video.frame.PictureType.I, is_corrupt=False, planes=[]
        )

    damage = Damage()
    shown = []
    for pts, is_keyframe in ((0, True), (1, False), (2, False), (3, True)):
        damage.feed(packet(pts, is_keyframe))
        if pts == 1:
            damage.packet_broke(pts)
        else:
            shown.append(damage.frame_came(picture(pts))[0])
    assert shown == [True, False, True]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_damage_without_time_stamps_is_refused_because_nothing_behind_it_has_a_time(
    share: float, tmp_path: Path
) -> None:
    """A bare stream has places alone, and where pictures are lost the others stand at places that are not theirs."""
    encode(tmp_path / "raw.h264", RECIPES["raw.h264"])
    whole = read_video(tmp_path / "raw.h264", num_frames=100)
    assert read_numbers(whole.frames) == list(range(NUM_FRAMES)) and whole.num_guessed_timestamps == NUM_FRAMES
    data = bytearray((tmp_path / "raw.h264").read_bytes())
    hurt = int(share * len(data))
    data[hurt : hurt + 300] = random.Random(1).randbytes(300)
    (tmp_path / "hurt.h264").write_bytes(data)
    with pytest.raises(VideoReadError, match=r"hurt.h264 is damaged \(\d+ broken packets\) and has no time stamps"):
        read_video(tmp_path / "hurt.h264", num_frames=5)


# --- what is said about it -------------------------------------------------------------------------------------------


def lose(source: Path, target: Path, *numbers: int) -> Path:
    rewrite(source, target, lambda at, data: None if at in numbers else data)
    return target


@pytest.mark.parametrize(
    ("name", "recipe", "warns"),
    [
        ("vp9.webm", RECIPES["vp9.webm"], True),
        ("mpeg4.mp4", Recipe("mpeg4", gop=12), True),
        ("mpeg2.ts", Recipe("mpeg2video", gop=12, bframes=0), True),
        ("h264.mp4", RECIPES["h264.mp4"], False),  # it numbers its pictures
        ("mjpeg.mov", Recipe("mjpeg", pixel_format="yuvj420p"), False),  # no picture refers to another
    ],
)
def test_a_packet_that_is_missing_from_an_even_clock_is_told(
    name: str, recipe: Recipe, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode(tmp_path / name, recipe)
    whole = read_video(tmp_path / name, num_frames=3)
    assert whole.num_gaps == 0 and whole.is_intact is None and not caplog.records
    hurt = read_video(lose(tmp_path / name, tmp_path / f"lost_{name}", 30, 31, 45), num_frames=3)
    assert hurt.num_gaps == 3 and not hurt.is_intact
    assert sum("missing from its even clock" in record.getMessage() for record in caplog.records) == warns


def test_of_an_uneven_clock_nothing_is_told(tmp_path: Path) -> None:
    for name in ("vfr.mkv", "dropped.avi", "raw.h264"):
        encode(tmp_path / name, RECIPES[name])
        assert read_video(tmp_path / name, num_frames=3).num_gaps is None
    assert skipped_places([0, 40, 80]) is None  # too few to call anything even
    assert skipped_places([0] * 20) is None
    even = [round(1000 * at / 30) for at in range(60)]
    assert skipped_places(even) == 0 and skipped_places(even[:20] + even[23:]) == 3
    assert skipped_places(even[:20] + [even[20] + 9] + even[21:]) is None
    assert skipped_places(sorted({*even[:10], *even[10::2]})) is None  # half of them are the rule and no gaps


@pytest.mark.parametrize(("kind", "is_checked"), [(1, True), (2, False), (3, False)])
def test_intact_is_what_carries_a_checksum_that_was_looked_at(kind: int, is_checked: bool, tmp_path: Path) -> None:
    """Of the three kinds that HEVC has FFmpeg looks at MD5."""
    settings = f"bframes=2:keyint=24:min-keyint=24:log-level=none:pools=1:hash={kind}"
    encode(tmp_path / "whole.mp4", Recipe("libx265", {"preset": "ultrafast", "x265-params": settings}))
    assert read_video(tmp_path / "whole.mp4", num_frames=9).is_intact is (True if is_checked else None)
    for number in (10, 31):
        rewrite(
            tmp_path / "whole.mp4",
            tmp_path / "hurt.mp4",
            lambda at, data, number=number: flip_a_bit(data, len(data) // 2) if at == number else data,
        )
        video = read_video(tmp_path / "hurt.mp4", num_frames=100)
        assert video.is_intact is (False if video.num_broken_packets else None)
        assert video.num_broken_packets or not is_checked


def test_one_picture_without_its_checksum_leaves_the_question_open(tmp_path: Path) -> None:
    settings = "bframes=2:keyint=24:min-keyint=24:log-level=none:pools=1:hash=1"
    encode(tmp_path / "whole.mp4", Recipe("libx265", {"preset": "ultrafast", "x265-params": settings}))

    def without(at: int, data: bytes) -> bytes:
        return re.sub(rb"\0\0\0.\x50\x01\x84.*", b"", data, flags=re.S) if at == 20 else data

    rewrite(tmp_path / "whole.mp4", tmp_path / "some.mp4", without)
    assert (tmp_path / "some.mp4").stat().st_size < (tmp_path / "whole.mp4").stat().st_size
    assert read_video(tmp_path / "some.mp4", num_frames=100).is_intact is None
    assert read_video(tmp_path / "some.mp4", start=1.2, num_frames=100).is_intact is True  # it was not decoded
