"""
The right frames from every kind of file, or an error: proved on files whose frames carry their own number.

PyAV has to be exact on all of them. decord and torchcodec have to be exact or to refuse; that they return another
frame than the one asked for is the one outcome that must not happen. The real clips are read where they are present.
"""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest

from transformers_linvt.errors import VideoReadError
from transformers_linvt.video import pyav_decoder
from transformers_linvt.video.container import VideoFile
from transformers_linvt.video.frames import VideoFrames, uniform_indices
from transformers_linvt.video.reading import read_video
from zoo import EDITS, MATRICES, NUM_FRAMES, RECIPES, Exhibit, build_zoo, read_numbers


NAMES = [
    *RECIPES, *MATRICES, "trimmed.mp4", "packed_b.avi", "vp8_hidden.webm", "false_keys.mp4", "two_streams.mp4",
    "thumbnail_first.mov", "thumbnail_first.mkv", "long_sound.mkv", "false_duration.mkv", "repeated_stamp.mkv",
    "missing_stamp.ts", *(name for name, *_ in EDITS),
]  # fmt: skip

# Exact with the backend beside PyAV; on every other file it has to refuse.
EXACT = {
    "decord": {
        "h264.mp4", "h264_moov_first.mp4", "vp9.webm", "h264.mkv", "fragmented.mp4", "odd_size.mp4",
        "start_at_3s.mp4", "start_at_3s.mkv", "vfr.mp4", "vfr.mkv", "h264_10bit.mp4", "rotated_90.mp4",
        "rotated_180.mp4", "rotated_270.mp4", "start_at_100000s.mkv", "long_sound.mkv", "false_duration.mkv",
    },
    "torchcodec": {
        "h264.mp4", "h264_moov_first.mp4", "hevc.mp4", "hevc_10bit.mp4", "vp9.webm", "h264.mkv", "open_gop.mp4",
        "short_gop.mp4", "fragmented.mp4", "odd_size.mp4", "start_at_3s.mp4", "start_at_3s.mkv", "av1.mp4", "vfr.mp4",
        "vfr.mkv", "h264_10bit.mp4", "rotated_90.mp4", "rotated_180.mp4", "rotated_270.mp4", "two_streams.mp4",
        "start_at_100000s.mkv", "long_sound.mkv", "false_duration.mkv", "thumbnail_first.mov", "thumbnail_first.mkv",
    },
}  # fmt: skip

# Frames as counted by decoding every one with another program, and the size of a frame.
REAL_CLIPS = {
    "baby_reads.mp4": (243, (360, 640)),
    "sample_demo_3.mp4": (146, (360, 640)),
    "sample_demo_9.mp4": (219, (336, 596)),
    "juggle.mp4": (247, (720, 1280)),
    "nasa_13013.mp4": (325, (180, 320)),
    "av1_video.mkv": (125, (360, 640)),
    "h265_video.mp4": (10, (128, 128)),
    "h264_10bits.mp4": (30, (200, 200)),
}
REFUSED_REAL_CLIPS = {
    ("nasa_13013.mp4", "decord"): "2 video streams",
    ("av1_video.mkv", "decord"): "codec av1",
    ("h265_video.mp4", "decord"): "open GOP",
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exhibit]:
    return build_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module", params=["pyav", "decord", "torchcodec"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param != "pyav":
        try:
            __import__(request.param if request.param == "decord" else "torchcodec.decoders")
        except Exception as error:
            pytest.skip(f"{request.param} does not load on this machine: {str(error).splitlines()[:1]}")
    return request.param


def assert_shows(video: VideoFrames, exhibit: Exhibit, indices: list[int]) -> None:
    assert read_numbers(video.frames) == [exhibit.numbers[index] for index in indices]
    np.testing.assert_allclose(video.timestamps, [exhibit.seconds[index] for index in indices], atol=2e-3)
    assert video.frames.dtype == np.uint8 and video.frames.shape == (len(indices), *exhibit.size, 3)
    assert video.total_frames == len(exhibit.numbers)
    assert video.num_broken_packets == 0
    assert video.num_guessed_timestamps == exhibit.num_guessed


def read_or_refuse(exhibit: Exhibit, backend: str, **sampling: object) -> VideoFrames | None:
    """The frames, or `None` if this backend refuses this file as it should."""
    if backend == "pyav" or exhibit.name in EXACT[backend]:
        return read_video(exhibit.path, video_backend=backend, **sampling)
    try:
        video = read_video(exhibit.path, video_backend=backend, **sampling)
    except VideoReadError as error:
        assert f"{exhibit.name} is not read with {backend}: " in str(error) and 'video_backend="pyav"' in str(error)
        return None
    # a single frame may lie just where such a file is in order; then it has to be the right one
    assert len(video) == 1, f"{backend} did not refuse {exhibit.name}"
    return video


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_all_frames_in_order_are_exact_or_refused(name: str, backend: str, zoo: dict[str, Exhibit]) -> None:
    video = read_or_refuse(zoo[name], backend, num_frames=NUM_FRAMES + 5)
    if video is not None:
        assert_shows(video, zoo[name], list(range(len(zoo[name].numbers))))
        assert video.video_backend == backend and video.source == str(zoo[name].path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_eight_uniform_frames_are_exact_or_refused(name: str, backend: str, zoo: dict[str, Exhibit]) -> None:
    video = read_or_refuse(zoo[name], backend, num_frames=8)
    if video is not None:
        assert_shows(video, zoo[name], uniform_indices(len(zoo[name].numbers), 8))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_single_frames_out_of_the_blue_are_exact_or_refused(name: str, backend: str, zoo: dict[str, Exhibit]) -> None:
    exhibit = zoo[name]
    # behind the first key frames: a stream with intra-refresh can be read from its start, and is
    choices = random.Random(name).sample(range(26, len(exhibit.numbers) - 1), 4)
    for index in choices:
        middle = (exhibit.seconds[index] + exhibit.seconds[index + 1]) / 2
        early = exhibit.seconds[index] + (middle - exhibit.seconds[index]) / 2
        video = read_or_refuse(exhibit, backend, start=early, end=middle)
        if video is not None:
            assert_shows(video, exhibit, [index])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", NAMES)
def test_windows_begin_and_end_where_they_should(name: str, backend: str, zoo: dict[str, Exhibit]) -> None:
    exhibit = zoo[name]
    first, last = 13, 37
    video = read_or_refuse(exhibit, backend, start=exhibit.seconds[first], end=exhibit.seconds[last], num_frames=6)
    if video is not None:
        assert_shows(video, exhibit, [first + index for index in uniform_indices(last - first + 1, 6)])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["h264.mp4", "vfr.mp4", "vfr.mkv", "mpegts.ts", "packed_b.avi", "trimmed.mp4"])
def test_sampling_by_rate_takes_the_frame_on_screen_at_each_time(
    name: str, backend: str, zoo: dict[str, Exhibit]
) -> None:
    exhibit = zoo[name]
    video = read_or_refuse(exhibit, backend, fps=3.0)
    if video is not None:
        duration = video.duration
        targets = np.arange(0, duration - 1e-9, 1 / 3)
        shown = [max(i for i, s in enumerate(exhibit.seconds) if s <= target + 1e-3) for target in targets]
        assert_shows(video, exhibit, sorted(set(shown)))


SOUGHT = [
    "h264.mp4", "h264_moov_first.mp4", "hevc.mp4", "hevc_10bit.mp4", "vp9.webm", "h264.mkv", "open_gop.mp4",
    "short_gop.mp4", "fragmented.mp4", "start_at_3s.mp4", "start_at_3s.mkv", "av1.mp4", "vfr.mp4", "vfr.mkv",
    "rotated_90.mp4", "trimmed.mp4",
]  # fmt: skip


@pytest.mark.parametrize("name", SOUGHT)
def test_the_common_kinds_of_file_are_read_by_seeking(
    name: str, zoo: dict[str, Exhibit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding from the start would hide a seek that never works: the frames are right, and an hour takes minutes."""

    def never(*arguments: object) -> None:
        raise AssertionError("decoded from the start")

    monkeypatch.setattr(pyav_decoder.PyAVReader, "from_start", never)
    monkeypatch.setattr(pyav_decoder, "read_by_order", never)
    video = read_video(zoo[name].path, num_frames=5, start=1.1)
    count = len(zoo[name].numbers)
    first = sum(seconds <= 1.1 for seconds in zoo[name].seconds) - 1
    assert_shows(video, zoo[name], [first + index for index in uniform_indices(count - first, 5)])


class Seeking:
    """A container of PyAV whose `seek` is another; everything else is its own."""

    def __init__(self, container: Any, seek: Callable[..., None]) -> None:
        self.container, self.other = container, seek

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def seek(self, pts: int, **options: Any) -> None:
        self.other(self.container, pts, **options)


def fails_to_seek(container: Any, pts: int, **options: Any) -> None:
    raise av.error.PermissionError(1, "Operation not permitted", "a damaged index")


def stays_where_it_is(container: Any, pts: int, **options: Any) -> None:
    pass


def lands_at_the_end(container: Any, pts: int, **options: Any) -> None:
    container.seek(1 << 40, **options)


@pytest.mark.parametrize("seek", [fails_to_seek, stays_where_it_is, lands_at_the_end])
def test_where_seeking_fails_the_same_frames_are_found_from_the_start(
    seek: Callable[..., None], backend: str, zoo: dict[str, Exhibit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg seeks by the index of a file, which may be damaged where the pictures are not."""
    opened, num_sought = pyav_decoder.PyAVReader.open, 0

    def open_with_bad_index(self: pyav_decoder.PyAVReader) -> VideoFile:
        def counted(*arguments: Any, **options: Any) -> None:
            nonlocal num_sought
            num_sought += 1
            seek(*arguments, **options)

        file = opened(self)
        file.container = Seeking(file.container, counted)
        return file

    monkeypatch.setattr(pyav_decoder.PyAVReader, "open", open_with_bad_index)
    exhibit = zoo["h264.mp4"]
    if backend != "pyav":  # they seek by the same index
        with pytest.raises(VideoReadError, match=f"is not read with {backend}: decoding cannot start at its key"):
            read_video(exhibit.path, num_frames=5, start=1.1, video_backend=backend)
        return
    video = read_video(exhibit.path, num_frames=5, start=1.1, video_backend=backend)
    assert num_sought
    assert_shows(video, exhibit, [27 + index for index in uniform_indices(NUM_FRAMES - 27, 5)])


def test_duration_and_rate_come_from_the_time_stamps(zoo: dict[str, Exhibit]) -> None:
    constant = read_video(zoo["start_at_3s.mp4"].path, num_frames=1)
    assert constant.duration == pytest.approx(72 / 25) and constant.average_fps == pytest.approx(25)
    variable = read_video(zoo["vfr.mp4"].path, num_frames=1)
    assert variable.duration == pytest.approx(zoo["vfr.mp4"].seconds[-1], abs=0.5)
    assert variable.average_fps == pytest.approx(72 / variable.duration)


def test_bytes_and_file_objects_give_what_the_path_gives(backend: str, zoo: dict[str, Exhibit]) -> None:
    path = zoo["h264.mp4"].path
    wanted = read_video(path, num_frames=5, video_backend=backend)
    from_bytes = read_video(path.read_bytes(), num_frames=5, video_backend=backend)
    with path.open("rb") as file:
        from_file = read_video(file, num_frames=5, video_backend=backend)
    for video in (from_bytes, from_file, read_video({"path": str(path), "bytes": None}, num_frames=5)):
        np.testing.assert_array_equal(video.timestamps, wanted.timestamps)
        np.testing.assert_array_equal(video.frames, wanted.frames)


def test_several_threads_give_the_same_frames(zoo: dict[str, Exhibit]) -> None:
    for name in ("h264.mp4", "hevc.mp4", "vp9.webm", "mpegts.ts"):
        video = read_video(zoo[name].path, num_frames=9, num_threads=3)
        assert_shows(video, zoo[name], uniform_indices(NUM_FRAMES, 9))


def test_the_zoo_has_what_its_names_say(zoo: dict[str, Exhibit]) -> None:
    """The files are only worth something if they really have the property that they are there for."""

    def packets(name: str) -> list[av.Packet]:
        with av.open(str(zoo[name].path)) as container:
            return [packet for packet in container.demux(container.streams.video[0]) if packet.size]

    assert any(packet.is_discard for packet in packets("trimmed.mp4"))
    assert sum(len(bytes(packet)) <= 10 for packet in packets("packed_b.avi")) >= 20
    assert len(packets("vp8_hidden.webm")) > NUM_FRAMES
    with av.open(str(zoo["packed_b.avi"].path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    assert len(stamps) == NUM_FRAMES and stamps != sorted(stamps)
    assert all(packet.pts is None for packet in packets("raw.h264"))
    assert any(packet.pts != packet.dts for packet in packets("h264.mp4"))
    leading = packets("open_gop.mp4")
    keys = [position for position, packet in enumerate(leading) if packet.is_keyframe]
    assert len(keys) > 2 and leading[keys[1] + 1].pts < leading[keys[1]].pts
    with av.open(str(zoo["intra_refresh.mp4"].path)) as container:
        assert sum(frame.pict_type == av.video.frame.PictureType.I for frame in container.decode(video=0)) == 1
    assert sum(packet.is_keyframe for packet in packets("intra_refresh.mp4")) > 1


@pytest.fixture(scope="module")
def clips() -> Iterator[Path]:
    folder = os.environ.get("LINVT_TEST_VIDEOS")
    if not folder:
        pytest.skip("LINVT_TEST_VIDEOS does not name the folder of real clips")
    yield Path(folder)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", REAL_CLIPS)
def test_every_backend_gives_the_same_frames_of_a_real_clip(name: str, backend: str, clips: Path) -> None:
    count, size = REAL_CLIPS[name]
    wanted = read_video(clips / name, num_frames=12)
    assert wanted.total_frames == count and wanted.frames.shape == (min(12, count), *size, 3)
    assert (np.diff(wanted.timestamps) > 0).all()
    reason = REFUSED_REAL_CLIPS.get((name, backend))
    if reason is not None:
        with pytest.raises(VideoReadError, match=reason):
            read_video(clips / name, num_frames=12, video_backend=backend)
        return
    video = read_video(clips / name, num_frames=12, video_backend=backend)
    np.testing.assert_array_equal(video.timestamps, wanted.timestamps)
    if name == "h264_10bits.mp4":
        # From 10 bits the builds of FFmpeg round and place colour differently: each frame must be nearest to its own.
        gap = np.abs(video.frames[:, None].astype(np.int16) - wanted.frames[None]).mean(axis=(2, 3, 4))
        assert gap.argmin(axis=1).tolist() == list(range(12)) and gap.diagonal().max() < 5
    else:
        np.testing.assert_array_equal(video.frames, wanted.frames)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", REAL_CLIPS)
def test_frames_found_by_seeking_are_those_found_by_reading_on(name: str, clips: Path) -> None:
    """The file is decoded once in a row with another loop, and compared picture by picture."""
    import av

    video = read_video(clips / name, num_frames=7)
    with av.open(str(clips / name)) as container:
        stream = container.streams.video[0]
        shown = {}
        for frame in container.decode(stream):
            seconds = round(float((frame.pts - stream.start_time) * stream.time_base), 6)
            if seconds in video.timestamps.round(6):
                shown[seconds] = frame.to_ndarray(format="rgb24", dst_colorspace="ITU601")
    assert sorted(shown) == video.timestamps.round(6).tolist()
    for seconds, image in zip(video.timestamps.round(6), video.frames, strict=True):
        np.testing.assert_array_equal(shown[seconds], image)
