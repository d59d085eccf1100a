"""
What the video reader does with everything that is not a healthy file: sampling arithmetic, frames in memory, limits,
damage, addresses. Each expected failure is one `VideoReadError` that names the file or argument, comes within a time
limit, writes nothing to the terminal and leaves no temporary file.
"""

import base64
import gc
import http.server
import io
import logging
import os
import random
import signal
import socket
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from transformers_linvt.errors import LinVTError, LinVTInputError, VideoReadError
from transformers_linvt.video import reading as video_reading
from transformers_linvt.video.frames import uniform_indices
from transformers_linvt.video.limits import VideoLimits
from transformers_linvt.video.reading import read_video
from transformers_linvt.video.times import mend_time_stamps
from zoo import (
    HEIGHT,
    NUM_FRAMES,
    RECIPES,
    WIDTH,
    Recipe,
    draw,
    encode,
    read_numbers,
    remux,
    set_block_times,
    set_edits,
)


pytestmark = pytest.mark.timeout(30)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    encode(folder / "clip.mp4", Recipe())
    encode(folder / "moov_first.mp4", Recipe(container_options={"movflags": "faststart"}))
    encode(folder / "fragmented.mp4", Recipe(container_options={"movflags": "frag_keyframe+empty_moov"}))
    encode(folder / "clip.mkv", Recipe())
    encode(folder / "clip.avi", Recipe("mpeg4", gop=12))
    encode(folder / "one_frame.mp4", Recipe(ticks=[0]))
    return folder


@pytest.fixture(autouse=True)
def nothing_is_left_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> Iterator[None]:
    """Every test of this file runs with its own temporary folder, which has to be empty afterwards; so has stderr."""
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    yield
    # torch keeps a folder there once it is imported; it is not the reader's
    assert [name for name in os.listdir(scratch) if not name.startswith("torchinductor")] == []
    if descriptors is not None:
        for _ in range(100):  # the threads of the test server close theirs a little later
            if len(os.listdir("/proc/self/fd")) <= descriptors:
                break
            time.sleep(0.02)
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")


def refusal(video: object, **arguments: object) -> str:
    with pytest.raises(VideoReadError) as caught:
        read_video(video, **arguments)
    message = str(caught.value)
    assert isinstance(caught.value, LinVTError) and isinstance(caught.value, ValueError)
    assert "\n" not in message and 20 < len(message) < 600 and message[-1] in ".?`"
    return message


# Sampling ------------------------------------------------------------------------------------------------------------


def test_uniform_indices_are_the_middles_of_equal_segments() -> None:
    assert uniform_indices(8, 4) == [1, 3, 5, 7]
    assert uniform_indices(10, 4) == [1, 3, 6, 8]
    assert uniform_indices(9, 1) == [4]
    assert uniform_indices(1, 1) == [0]
    assert uniform_indices(120, 5) == [12, 36, 60, 84, 108]


def test_uniform_indices_are_always_that_many_and_distinct_or_all_there_are() -> None:
    for total in range(1, 70):
        for count in range(1, 80):
            indices = uniform_indices(total, count)
            assert len(set(indices)) == len(indices) == min(total, count)
            assert indices == sorted(indices) and indices[0] >= 0 and indices[-1] < total
            if count >= total:
                assert indices == list(range(total))


def test_no_moment_is_further_from_a_sample_than_half_a_segment() -> None:
    for total, count in ((97, 8), (100, 7), (31, 30), (3600, 64)):
        indices = np.asarray(uniform_indices(total, count))
        distance = np.abs(np.arange(total)[:, None] - indices).min(axis=1).max()
        assert distance <= total / (2 * count) + 1
        np.testing.assert_array_less(np.abs(indices[::-1] + indices - (total - 1)), 2)  # the same seen backwards


def test_huge_counts_stay_exact_where_floating_point_would_not() -> None:
    total, count = 10**17 + 3, 7
    assert uniform_indices(total, count)[3] == total // 2


def test_more_frames_than_there_are_gives_all(files: Path) -> None:
    video = read_video(files / "clip.mp4", num_frames=500)
    assert read_numbers(video.frames) == list(range(NUM_FRAMES))


def test_without_arguments_thirty_two_frames_are_sampled(files: Path) -> None:
    assert read_numbers(read_video(files / "clip.mp4").frames) == uniform_indices(NUM_FRAMES, 32)
    assert len(read_video(files / "clip.mp4", max_frames=5)) == 5


def test_the_limit_of_frames_looks_at_those_returned_not_at_those_asked_for(files: Path) -> None:
    limits = VideoLimits(max_frames=NUM_FRAMES)
    assert len(read_video(files / "clip.mp4", num_frames=2000)) == NUM_FRAMES
    assert len(read_video(files / "clip.mp4", num_frames=NUM_FRAMES + 1, limits=limits)) == NUM_FRAMES
    assert len(read_video(files / "clip.mp4", fps=25, max_frames=NUM_FRAMES + 1, limits=limits)) == NUM_FRAMES
    limits = VideoLimits(max_frames=NUM_FRAMES - 1)
    for arguments in ({"num_frames": 2000}, {"fps": 25, "max_frames": 2000}):
        message = refusal(files / "clip.mp4", limits=limits, **arguments)
        assert f"{NUM_FRAMES} frames are over the limit of {NUM_FRAMES - 1} frames" in message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"backend": "pyav"}, "'backend'.*Did you mean 'video_backend'"),
        ({"nframe": 4}, "'nframe'.*Did you mean 'num_frames'"),
        ({"colour": 1}, "'colour'.*Known are num_frames, fps, .*num_threads"),
    ],
)
def test_an_argument_that_nobody_knows_is_refused_with_the_one_that_was_meant(given: dict, told: str) -> None:
    with pytest.raises(LinVTInputError, match=told):
        read_video(np.zeros((2, 4, 8, 3), np.uint8), **given)


def test_sampling_by_rate_follows_the_clock(files: Path) -> None:
    assert read_numbers(read_video(files / "clip.mp4", fps=5).frames) == list(range(0, NUM_FRAMES, 5))
    # 25 frames per second do not divide by 4: 0, 0.25, 0.5 s are on screen in frames 0, 6 (0.24 s), 12 (0.48 s)
    assert read_numbers(read_video(files / "clip.mp4", fps=4, end=1.0).frames) == [0, 6, 12, 18, 25]
    assert read_numbers(read_video(files / "clip.mp4", fps=2, start=1.1).frames) == [27, 40, 52, 65]
    assert read_numbers(read_video(files / "clip.mp4", fps=0.01).frames) == [0]


@pytest.mark.parametrize(
    "rate", [Fraction(5, 2), Decimal("2.5"), np.float32(2.5), np.float64(2.5), np.array(2.5), 2.5]
)
def test_a_rate_is_a_real_number_of_any_type(rate: object, files: Path) -> None:
    assert read_numbers(read_video(files / "clip.mp4", fps=rate).frames) == list(range(0, NUM_FRAMES, 10))
    limits = VideoLimits(max_duration=rate)
    assert "over the limit" in refusal(files / "clip.mp4", limits=limits)


def test_a_rate_as_pyav_gives_it_is_a_number(files: Path) -> None:
    with av.open(str(files / "clip.mp4")) as container:
        rate = container.streams.video[0].average_rate
    assert read_numbers(read_video(files / "clip.mp4", fps=rate).frames) == list(range(NUM_FRAMES))


def test_a_rate_above_that_of_the_file_gives_each_frame_once(files: Path) -> None:
    assert read_numbers(read_video(files / "clip.mp4", fps=1e12).frames) == list(range(NUM_FRAMES))


def test_a_rate_that_gives_too_many_frames_falls_back_to_uniform(files: Path) -> None:
    video = read_video(files / "clip.mp4", fps=5, max_frames=4)
    assert read_numbers(video.frames) == uniform_indices(NUM_FRAMES, 4)


def test_windows_include_the_frames_on_screen_at_both_ends(files: Path) -> None:
    assert read_numbers(read_video(files / "clip.mp4", start=0.4, end=0.6).frames) == [10, 11, 12, 13, 14, 15]
    assert read_numbers(read_video(files / "clip.mp4", start=0.41, end=0.43).frames) == [10]
    assert read_numbers(read_video(files / "clip.mp4", start=2.8).frames) == [70, 71]
    assert read_numbers(read_video(files / "clip.mp4", start=2.8, end=3.5).frames) == [70, 71]  # rounded up


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": -1.0}, "start=-1.0"),
        ({"start": float("nan")}, "start=nan"),
        ({"end": float("inf")}, "end=inf"),
        ({"start": "1"}, "start='1'"),
        ({"start": np.array([1.0])}, "start=array([1.])"),
        ({"start": np.bool_(True)}, "True"),
        ({"fps": 10**400}, "fps=1000"),
        ({"fps": 1j}, "fps=1j"),
        ({"limits": 5}, "limits=5 is no VideoLimits"),
        ({"limits": {}}, "limits={} is no VideoLimits"),
        ({"end": 0}, "end=0"),
        ({"start": 2.0, "end": 1.0}, "not before end=1.0"),
        ({"start": 1.0, "end": 1.0}, "not before"),
        ({"start": 2.88}, "beyond its end, it lasts 2.880 s"),
        ({"start": 50.0}, "beyond its end"),
        ({"end": 50.0}, "beyond its end"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 2.5}, "num_frames=2.5"),
        ({"num_frames": True}, "num_frames=True"),
        ({"num_frames": 8, "fps": 1.0}, "both given"),
        ({"num_frames": 8, "max_frames": 4}, "more than max_frames=4"),
        ({"fps": 0.0}, "fps=0.0"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"max_frames": -3}, "max_frames=-3"),
        ({"video_backend": "opencv"}, "choose one of auto, pyav, decord, torchcodec"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"timestamps": [0.0]}, "brings its own time stamps"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict, words: str, files: Path) -> None:
    assert words in refusal(files / "clip.mp4", **arguments)


# Frames in memory ----------------------------------------------------------------------------------------------------

COUNT = 7


@pytest.fixture
def clip() -> np.ndarray:
    return np.stack([draw(number) for number in range(COUNT)])


def test_frames_in_memory_come_back_as_they_were(clip: np.ndarray) -> None:
    video = read_video(clip, timestamps=[1.0, 1.5, 2.0, 4.0, 4.1, 4.2, 9.0])
    np.testing.assert_array_equal(video.frames, clip)
    assert video.timestamps.tolist() == pytest.approx([0.0, 0.5, 1.0, 3.0, 3.1, 3.2, 8.0])
    assert (video.video_backend, video.source, video.total_frames) == ("memory", "<frames in memory>", COUNT)
    assert video.timestamps.dtype == np.float64


def test_all_layouts_and_types_of_frames_give_the_same(clip: np.ndarray) -> None:
    torch = pytest.importorskip("torch", reason="tensors are accepted, torch is not needed")
    channels_first = np.ascontiguousarray(clip.transpose(0, 3, 1, 2))
    variants = [
        channels_first,
        clip.astype(np.float32) / 255,
        clip.astype(np.float64) / 255,
        torch.from_numpy(clip),
        torch.from_numpy(channels_first).float().div(255).requires_grad_(),
        [PIL.Image.fromarray(frame) for frame in clip],
        [PIL.Image.fromarray(frame).convert("RGBA") for frame in clip],
        list(clip),
        tuple(torch.from_numpy(frame) for frame in channels_first),
    ]
    for variant in variants:
        np.testing.assert_array_equal(read_video(variant, fps=2.0).frames, clip)
    for half in (clip.astype(np.float16) / np.float16(255), torch.from_numpy(clip).bfloat16() / 255):
        assert np.abs(read_video(half, fps=2.0).frames.astype(int) - clip).max() <= 1


def test_the_times_of_frames_in_memory_are_never_guessed_in_silence(
    clip: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_video(clip, fps=4.0).timestamps.tolist() == [index / 4 for index in range(COUNT)]
    assert caplog.records == []
    assert read_video(clip).timestamps.tolist() == list(range(COUNT))
    assert "one frame per second is assumed" in caplog.text


def test_frames_in_memory_are_sampled_like_a_file(clip: np.ndarray) -> None:
    times = [0.0, 0.1, 0.2, 0.9, 1.0, 1.1, 3.0]
    assert read_numbers(read_video(clip, num_frames=3, timestamps=times).frames) == uniform_indices(COUNT, 3)
    assert read_numbers(read_video(clip, fps=2.0, timestamps=times).frames) == [0, 2, 4, 5, 6]
    assert read_numbers(read_video(clip, start=0.5, end=1.05, timestamps=times).frames) == [2, 3, 4]


def test_the_given_frames_are_not_changed_or_shared(clip: np.ndarray) -> None:
    before = clip.copy()
    read_video(clip, fps=1.0).frames[:] = 0
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda clip: clip[..., 0], "shape (7, 96, 160)"),
        (lambda clip: clip[..., :1], "grey frames"),
        (lambda clip: np.concatenate([clip, clip[..., :1]], axis=-1), "transparency"),
        (lambda clip: clip[0, :, :, 0], "one grey picture"),
        (lambda clip: clip[None], "batch of videos"),
        (lambda clip: clip[:, :3].transpose(0, 2, 1, 3)[:, :3], "could be"),
        (lambda clip: clip[:0], "empty"),
        (lambda clip: clip[:, :0], "empty"),
        (lambda clip: clip.astype(np.int64), "type int64"),
        (lambda clip: clip > 100, "type bool"),
        (lambda clip: clip.astype(np.complex64), "type complex64"),
        (lambda clip: clip.astype(object), "type object"),
        (lambda clip: clip.astype(np.float32), "divide by 255"),
        (lambda clip: clip.astype(np.float32) / 127.5 - 1, "Undo the normalisation"),
        (lambda clip: np.where(clip == clip[3], np.nan, clip / 255), "NaN"),
        (lambda clip: [], "empty list"),
        (lambda clip: [clip[0], clip[1, :50]], "differ in shape"),
        (lambda clip: ["a.mp4", "b.mp4"], "not one video"),
        (lambda clip: [PIL.Image.fromarray(clip[0]), clip[1]], "not one video"),
        (lambda clip: PIL.Image.fromarray(clip[0]), "A single picture"),
        (lambda clip: np.zeros((1, 4320, 7680, 3), dtype=np.uint8), "over the limit of 9437184"),
        (lambda clip: 42, "type int"),
        (lambda clip: None, "type NoneType"),
        (lambda clip: {"path": None, "bytes": None}, "holds no video"),
    ],
)
def test_frames_that_are_no_video_are_refused(
    change: Callable[[np.ndarray], object], words: str, clip: np.ndarray
) -> None:
    assert words in refusal(change(clip), fps=1.0)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pictures_with_more_than_eight_bits_are_taken_like_arrays_of_their_type(mode: str) -> None:
    """Pillow turns what is above 255 white: a depth map of 16 bits became 99.6 % white, in silence."""
    ramp = np.linspace(0, 65535, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    image = PIL.Image.fromarray(ramp.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    assert image.mode == mode
    words = "divide by 255" if mode == "F" else "65535 for 16 bits"
    assert words in refusal([image, image], fps=1.0)
    if mode == "F":
        scaled = PIL.Image.fromarray((ramp / 65535).astype(np.float32))
        frames = read_video([scaled, scaled], fps=1.0).frames
        np.testing.assert_array_equal(frames[1], np.rint(ramp / 257)[..., None].repeat(3, axis=-1))


def test_pictures_that_pillow_cannot_turn_into_rgb_are_refused(tmp_path: Path) -> None:
    assert "mode La" in refusal([PIL.Image.new("La", (WIDTH, HEIGHT))], fps=1.0)
    PIL.Image.fromarray(draw(1)).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    half = write(tmp_path, "half.png", data[: len(data) // 2])
    with PIL.Image.open(half) as image:
        assert "mode RGB" in refusal([image], fps=1.0)
    mixed = [PIL.Image.new("F", (WIDTH, HEIGHT)), PIL.Image.new("L", (WIDTH, HEIGHT))]
    assert "differ in type" in refusal(mixed, fps=1.0)


@pytest.mark.parametrize("times", [[0.0], [0, 1, 2, 3, 4, 5, 5], [0, 1, 2, 3, 4, 5, float("nan")], [[0.0] * COUNT]])
def test_times_that_do_not_fit_the_frames_are_refused(times: list, clip: np.ndarray) -> None:
    assert "timestamps" in refusal(clip, timestamps=times)


@pytest.mark.parametrize("times", [["x"] * 7, object(), [10**400] * 7])
def test_times_that_are_no_numbers_are_refused(times: object, clip: np.ndarray) -> None:
    assert "are not numbers" in refusal(clip, timestamps=times)


def test_too_many_frames_in_memory_are_refused_unless_sampled(clip: np.ndarray) -> None:
    limits = VideoLimits(max_frames=5)
    assert "Pass num_frames" in refusal(clip, fps=1.0, limits=limits)
    assert len(read_video(clip, num_frames=5, limits=limits)) == 5
    for arguments in ({"num_frames": 6}, {"num_frames": 2000}, {"max_frames": 2000}):
        assert "over the limit of 5" in refusal(clip, limits=limits, **arguments)
    assert len(read_video(clip, num_frames=2000)) == len(read_video(clip, max_frames=2000)) == COUNT


class _FakeDecoder:
    """Has the face of torchcodec's `VideoDecoder`, of which nobody knows the file."""

    class _Frame:
        def __init__(self, number: int) -> None:
            torch = pytest.importorskip("torch", reason="the decoder's frames are tensors")
            self.data = torch.from_numpy(draw(number).transpose(2, 0, 1).copy())
            self.pts_seconds, self.duration_seconds = 5 + number * 0.5, 0.5

    class metadata:
        num_frames = 11

    def get_frame_at(self, index: int) -> "_FakeDecoder._Frame":
        return self._Frame(index)


def test_a_decoder_object_is_read_by_its_file_or_else_frame_by_frame(files: Path) -> None:
    video = read_video(_FakeDecoder(), num_frames=3)
    assert read_numbers(video.frames) == uniform_indices(11, 3) == [1, 5, 9]
    assert video.timestamps.tolist() == [0.5, 2.5, 4.5] and video.duration == 5.5
    assert "give the path or the bytes" in refusal(_FakeDecoder(), fps=2.0)
    known = _FakeDecoder()
    known._hf_encoded = {"path": str(files / "clip.mp4"), "bytes": None}  # as `datasets` leaves it there
    assert read_video(known, num_frames=3).total_frames == NUM_FRAMES


@pytest.mark.parametrize("colour_range", [1, 2])
@pytest.mark.parametrize("colour_space", [1, 5])
def test_colours_follow_what_the_file_says_about_them(colour_range: int, colour_space: int, tmp_path: Path) -> None:
    """BT.709 or BT.601, limited or full range; PyAV 15 by itself takes BT.709 for BT.601 (red 184 instead of 198)."""
    image = np.full((HEIGHT, WIDTH, 3), (200, 30, 60), dtype=np.uint8)
    image[:, : WIDTH // 2] = (255, 255, 255)
    with av.open(str(tmp_path / "colour.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"qp": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_range, stream.codec_context.colorspace = colour_range, colour_space
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_color_range=colour_range, dst_colorspace=colour_space)
        frame.color_range, frame.colorspace = colour_range, colour_space
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shown = read_video(tmp_path / "colour.mp4").frames[0].astype(int)
    assert np.abs(shown[HEIGHT // 2, WIDTH // 4] - (255, 255, 255)).max() <= 4
    assert np.abs(shown[HEIGHT // 2, 3 * WIDTH // 4] - (200, 30, 60)).max() <= 4


def encode_camera_frames(path: Path, orientation: int | None = None) -> None:
    """Motion JPEG as some cameras write it: each picture with its EXIF data."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        exif = PIL.Image.Exif()
        exif[0x010F] = "A camera"
        if orientation is not None:
            exif[0x0112] = orientation
        for number in range(20):
            data = io.BytesIO()
            PIL.Image.fromarray(draw(number)).save(data, "jpeg", exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            container.mux(packet)


@pytest.mark.parametrize("name", ["camera.avi", "camera.mov", "camera.mkv"])
def test_frames_with_side_data_of_any_kind_are_read(name: str, tmp_path: Path) -> None:
    """EXIF is newer than PyAV 18's list of side data: a foreign "ValueError: 31 is not a valid Type" came out."""
    encode_camera_frames(tmp_path / name)
    for backend in ("pyav", "decord", "torchcodec"):
        try:
            video = read_video(tmp_path / name, num_frames=4, video_backend=backend)
        except VideoReadError as error:
            assert backend in str(error)
            continue
        assert read_numbers(video.frames) == uniform_indices(20, 4)


def test_a_picture_that_its_exif_data_turn_is_upright(tmp_path: Path) -> None:
    encode_camera_frames(tmp_path / "camera.mkv", orientation=3)
    with av.open(str(tmp_path / "camera.mkv")) as container:
        rotation = next(container.decode(video=0)).rotation
    if not rotation:
        pytest.skip("this FFmpeg does not look at the orientation that EXIF data give")
    frames = read_video(tmp_path / "camera.mkv", num_frames=4).frames
    assert read_numbers(frames[:, ::-1, ::-1]) == uniform_indices(20, 4)


# Files that are not what they seem -----------------------------------------------------------------------------------


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


def test_a_missing_file_a_directory_and_an_empty_file_are_told_apart(tmp_path: Path) -> None:
    assert "missing.mp4 does not exist" in refusal(tmp_path / "missing.mp4")
    assert "is a directory" in refusal(tmp_path)
    assert "is empty (0 bytes)" in refusal(write(tmp_path, "empty.mp4", b""))
    assert "<bytes in memory> is empty" in refusal(b"")
    assert "null character" in refusal("a\0b.mp4")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "a pipe or a device" in refusal(tmp_path / "pipe.mp4")


def test_a_file_without_permission_is_refused(files: Path, tmp_path: Path) -> None:
    path = write(tmp_path, "secret.mp4", (files / "clip.mp4").read_bytes())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # permissions do not hold for the superuser
        os.seteuid(65534)
    try:
        assert "no permission" in refusal(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page (HTML)"),
        (b"\n\n  <html>" + b" " * 5000, "web page (HTML)"),
        (random.Random(0).randbytes(50_000), "not that of a video file"),
        (b"\0" * 50_000, "only zeros"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "play list"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "play list"),
        (b"just some words about a video\n" * 100, "not that of a video file"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "begins like an MP4"),
    ],
)
def test_something_else_under_the_name_of_a_video_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, "fake.mp4", data)
    message = refusal(path)
    assert "fake.mp4" in message and words in message
    assert words in refusal(data)
    assert words in refusal(io.BytesIO(data))


def test_a_play_list_does_not_open_the_files_it_names(tmp_path: Path) -> None:
    """FFmpeg would follow it: a file named .mp4 could then read any other file of the machine, or an address."""
    encode(tmp_path / "clip.ts", Recipe(ticks=[0, 1, 2]))
    live = "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nclip.ts\n"  # without an end FFmpeg waits for more, for ever
    assert "play list" in refusal(write(tmp_path, "live.mp4", live.encode()))
    for text in ("ffconcat version 1.0\nfile clip.ts\n", live + "#EXT-X-ENDLIST\n"):
        path = write(tmp_path, "list.mp4", text.encode())
        with av.open(str(path), format="concat" if "concat" in text else "hls") as container:
            assert len(list(container.decode(video=0))) == 3  # it would be read
        assert "play list" in refusal(path)


def test_a_name_that_looks_like_a_protocol_is_only_a_name(files: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in refusal(f"concat:{files}/clip.mp4")
    write(tmp_path, "subfile,,start,0,end,9,,:clip.mp4", (files / "clip.mp4").read_bytes())
    assert len(read_video("subfile,,start,0,end,9,,:clip.mp4", num_frames=2)) == 2


def test_a_video_inside_a_string_is_the_file_that_was_put_there(files: Path) -> None:
    data = (files / "clip.mp4").read_bytes()
    expected, encoded = read_video(data, num_frames=3), base64.b64encode(data).decode()
    ways = (
        f"data:video/mp4;base64,{encoded}",
        f"DATA:video/x-matroska;codecs=avc1;BASE64,{encoded.rstrip('=')}",
        f"data:;base64,{urllib.parse.quote(encoded)}",
        f"data:video/mp4,{urllib.parse.quote_from_bytes(data)}",
    )
    for way in ways:
        video = read_video(way, num_frames=3, limits=VideoLimits(max_bytes=len(data)))
        assert np.array_equal(video.frames, expected.frames) and video.source.startswith("<data:"), way[:40]
        message = refusal(way, limits=VideoLimits(max_bytes=len(data) - 1))
        assert f"over the limit of {len(data) - 1}" in message and encoded[:20] not in message


@pytest.mark.parametrize("head", ["data:video/mp4;base64,", "DATA:video/x-matroska;codecs=avc1;base64,", "data:,"])
@pytest.mark.parametrize("body", ["AAAAIGZ0eXBpc29t/+" * 1000, "AAAAIGZ0eXBpc29t!" * 1000, ""])
def test_a_string_that_holds_no_video_is_refused_without_repeating_it(head: str, body: str) -> None:
    message = refusal(head + body)
    assert "<data:" in message and "GZ0eXBpc29t" not in message and "does not exist" not in message


def test_a_file_object_that_was_read_before_is_not_called_empty(files: Path) -> None:
    data = (files / "clip.mp4").read_bytes()
    stream = io.BytesIO(data)
    assert len(read_video(stream, num_frames=2)) == 2
    message = refusal(stream)
    assert f"stands at byte {len(data)}, its end. Call seek(0)" in message and "is empty" not in message
    stream.seek(0)
    assert len(read_video(stream, num_frames=3)) == 3
    assert "is empty (0 bytes)" in refusal(io.BytesIO())


def test_a_file_address_is_a_path(files: Path, tmp_path: Path) -> None:
    odd = write(tmp_path, "a b#c?d%20é.mp4", (files / "clip.mp4").read_bytes())
    expected = read_video(odd, num_frames=2)
    for address in (
        odd.as_uri(),
        odd.as_uri().replace("file://", "FILE://localhost"),
        f"file://{tmp_path}/a b#c?d%2520é.mp4",
    ):
        video = read_video(address, num_frames=2)
        assert np.array_equal(video.frames, expected.frames) and video.source == str(odd)
    assert "three slashes" in refusal("file://clip.mp4") and "three slashes" in refusal("file://host/clip.mp4")
    assert "does not exist" in refusal("file:///no/such/clip.mp4")


def test_a_path_that_begins_with_data_is_a_path(files: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:").mkdir()
    write(tmp_path / "data:", "a,b.mp4", (files / "clip.mp4").read_bytes())
    assert len(read_video("data:/a,b.mp4", num_frames=2)) == 2


def test_long_names_are_shortened_in_messages_but_not_in_the_result(files: Path, tmp_path: Path) -> None:
    long = "x" * 3000
    for name in (long, f"/{long}/clip.mp4", f"http://example.com/{long}.mp4", f"{long}://clip.mp4"):
        message = refusal(name)
        assert "..." in message and "x" * 200 not in message
    folder = tmp_path / ("y" * 240)
    folder.mkdir()
    path = write(folder, "clip.mp4", (files / "clip.mp4").read_bytes())
    assert "y" * 200 not in refusal(path, start=50.0)
    assert read_video(path, num_frames=2).source == str(path)


def test_a_file_object_in_text_mode_is_refused(files: Path) -> None:
    with open(files / "clip.mp4", encoding="latin-1") as file:
        assert "binary mode" in refusal(file)


class _Reader:
    """A file object that does what it was told to instead of reading."""

    def __init__(self, outcome: object) -> None:
        self.outcome = outcome

    def read(self, size: int) -> object:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (OSError("lost the line"), "broke off after 0 bytes (OSError: lost the line)"),
        (KeyError("part"), "broke off after 0 bytes"),
        (7, "delivers int, not bytes"),
        ([b"a"], "delivers list, not bytes"),
    ],
)
def test_a_file_object_that_fails_is_refused(outcome: object, words: str) -> None:
    assert words in refusal(_Reader(outcome))


def test_a_full_disk_is_said_to_be_one(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (files / "clip.mp4").open("rb") as file:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere/at/all")
        assert "No temporary file can be made" in refusal(file)
        monkeypatch.undo()
        if Path("/dev/full").exists():
            monkeypatch.setattr(tempfile, "mkstemp", lambda prefix: (os.open(os.devnull, os.O_RDONLY), "/dev/full"))
            monkeypatch.setattr(os, "unlink", lambda path: None)
            assert "cannot be copied to a temporary file" in refusal(file)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("table.declared_num_bytes", OSError(5, "Input/output error")),
        ("pyav_decoder.VideoFile", OSError(5, "Input/output error")),
        ("album.Album.put_frame", av.error.InvalidDataError(1, "Invalid data found when processing input")),
    ],
)
def test_a_disk_or_a_conversion_that_fails_is_an_error_of_ours(
    where: str, reason: Exception, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **named: object) -> None:
        raise reason

    monkeypatch.setattr(f"transformers_linvt.video.{where}", fails)
    message = refusal(files / "clip.mp4")
    assert "clip.mp4 could not be read to its end: " in message and reason.strerror in message


def test_half_of_a_surrogate_pair_in_a_name_is_refused() -> None:
    assert "no file name can" in refusal("clip\ud800.mp4")


@pytest.mark.parametrize("count", [0, -1, 1.0, True, 2**31])
def test_a_number_of_threads_that_cannot_be_is_refused(count: object, files: Path) -> None:
    assert "whole number of threads" in refusal(files / "clip.mp4", num_threads=count)


def test_audio_only_is_refused(tmp_path: Path) -> None:
    for name, codec in (("sound.mp4", "aac"), ("sound.wav", "pcm_s16le"), ("sound.mp3", "libmp3lame")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=16000)
            layout = "s16" if codec == "pcm_s16le" else "fltp"
            tone = av.AudioFrame.from_ndarray(
                np.zeros((1, 16000), dtype=np.int16 if layout == "s16" else np.float32), format=layout, layout="mono"
            )
            tone.sample_rate = 16000
            container.mux(stream.encode(tone))
            container.mux(stream.encode())
        assert "holds no video, only audio" in refusal(tmp_path / name)


def test_the_cover_of_a_song_is_not_taken_for_a_video(tmp_path: Path) -> None:
    cover, sound = io.BytesIO(), io.BytesIO()
    PIL.Image.fromarray(draw(7)).save(cover, "png")
    with av.open(sound, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=16000)
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        tone.sample_rate, tone.pts = 16000, 0
        container.mux([*stream.encode(tone), *stream.encode()])
    body = b"\0image/png\0\3\0" + cover.getvalue()
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    size = bytes(len(frame) >> 7 * place & 127 for place in (3, 2, 1, 0))  # seven bits in each byte
    path = write(tmp_path, "song.mp3", b"ID3\3\0\0" + size + frame + sound.getvalue())
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # which is how FFmpeg has it
    assert "holds no video, only" in refusal(path)


def test_a_video_track_without_frames_is_refused(tmp_path: Path, files: Path) -> None:
    for name in ("none.mp4", "none.mkv"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            sound = container.add_stream("aac", rate=16000)
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
            tone.sample_rate = 16000
            container.mux(sound.encode(tone))
            container.mux(sound.encode())
        message = refusal(tmp_path / name)
        assert "no frame" in message or "holds no video" in message


def test_a_title_that_is_not_utf8_does_not_keep_a_video_from_being_read(files: Path, tmp_path: Path) -> None:
    path = tmp_path / "titled.mp4"
    with av.open(str(files / "clip.mp4")) as reader, av.open(str(path), "w") as writer:
        writer.metadata["title"] = "Caf\N{LATIN SMALL LETTER E WITH ACUTE} in Paris"
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    data = path.read_bytes()
    assert data.count(b"Caf\xc3\xa9") == 1
    path.write_bytes(data.replace(b"Caf\xc3\xa9", b"Caf\xe9!"))  # Latin-1
    assert read_numbers(read_video(path, num_frames=4).frames) == uniform_indices(NUM_FRAMES, 4)


@pytest.mark.parametrize("has_metadata_errors", [True, False])
def test_a_file_is_opened_with_what_old_and_new_releases_of_pyav_take(
    has_metadata_errors: bool, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyAV 19 has no `metadata_errors`; before, a title that is not UTF-8 is an error without it."""
    original, calls = av.open, []

    def old(file, mode=None, format=None, options=None, container_options=None, metadata_errors="strict"):
        calls.append(metadata_errors)
        return original(file, container_options=container_options)

    def new(file, mode=None, format=None, options=None, container_options=None):
        calls.append(None)
        return original(file, container_options=container_options)

    monkeypatch.setattr(av, "open", old if has_metadata_errors else new)
    for video in (files / "clip.mp4", (files / "clip.mp4").read_bytes()):
        assert read_numbers(read_video(video, num_frames=4).frames) == uniform_indices(NUM_FRAMES, 4)
    assert set(calls) == ({"replace"} if has_metadata_errors else {None})


def test_one_frame_is_a_video(files: Path) -> None:
    video = read_video(files / "one_frame.mp4", num_frames=8)
    assert read_numbers(video.frames) == [0] and video.timestamps.tolist() == [0.0] and video.total_frames == 1
    assert video.duration == pytest.approx(1 / 25, abs=1e-3)
    assert len(read_video(files / "one_frame.mp4", fps=100.0)) == 1


def test_an_unknown_codec_is_refused(files: Path, tmp_path: Path) -> None:
    data = (files / "clip.mp4").read_bytes()
    assert data.count(b"avc1") >= 1
    path = write(tmp_path, "future.mp4", data.replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    assert "codec" in refusal(path)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("name", ["clip.mp4", "moov_first.mp4", "fragmented.mp4", "clip.mkv", "clip.avi"])
def test_a_cut_off_file_is_refused_with_how_much_is_there(
    name: str, share: float, files: Path, tmp_path: Path
) -> None:
    data = (files / name).read_bytes()
    message = refusal(write(tmp_path, name, data[: int(len(data) * share)]), num_frames=4)
    assert name in message and "cut off" in message and " of its " in message
    if name == "moov_first.mp4":
        assert "of its 72 frames" in message


def test_a_file_is_whole_with_something_behind_it(files: Path, tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.mkv"):
        path = write(tmp_path, name, (files / name).read_bytes() + b"\0\0\0\0trailing junk")
        assert read_numbers(read_video(path, num_frames=3).frames) == uniform_indices(NUM_FRAMES, 3)


# Damage --------------------------------------------------------------------------------------------------------------


def damaged(source: Path, target: Path, first: int, last: int, intact_share: float = 0.0) -> Path:
    """Overwrite packets `first` to `last` (in file order), each behind its first share, and leave the container."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        noise = random.Random(first)
        for packet in packets[first : last + 1]:
            start, kept = data.index(bytes(packet)), max(5, int(intact_share * packet.size))
            data[start + kept : start + packet.size] = noise.randbytes(packet.size - kept)
    target.write_bytes(data)
    return target


def test_frames_around_broken_packets_are_read_and_the_damage_is_reported(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Key frames are 0, 24 and 48: what is broken at 30 spoils up to 47, and nothing else."""
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 30, 33)
    video = read_video(path, num_frames=200)
    numbers = read_numbers(video.frames)
    assert numbers == sorted(numbers) and -1 not in numbers
    assert set(range(28)) | set(range(48, NUM_FRAMES)) <= set(numbers)
    assert not set(range(31, 48)) & set(numbers)
    np.testing.assert_allclose(video.timestamps, np.asarray(numbers) / 25, atol=1e-6)
    assert video.num_broken_packets >= 4 and video.total_frames >= NUM_FRAMES - 4
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "hurt.mp4" in warnings[0]
    assert f"{video.num_broken_packets} broken or lost packets" in warnings[0] and "intact" not in warnings[0]


def test_frames_that_the_decoder_patches_up_are_not_passed_off_as_intact(files: Path, tmp_path: Path) -> None:
    """Half a packet decodes to half a picture; FFmpeg fills the rest in, marks the frame, and goes on from there."""
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 30, 30, intact_share=0.5)
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == NUM_FRAMES and any(frame.is_corrupt for frame in decoded)
    numbers = read_numbers(read_video(path, num_frames=200).frames)
    assert set(range(28)) | set(range(48, NUM_FRAMES)) <= set(numbers)
    assert not set(range(34, 48)) & set(numbers)
    for index in (35, 41, 47):  # sought one by one, they come after the damage in their group of pictures
        assert "damaged" in refusal(path, start=index / 25 + 0.01, end=index / 25 + 0.02)
    assert read_video(path, start=0.0, end=1.0).num_broken_packets == 0


def test_sampling_goes_around_the_damage_and_still_gives_the_number_asked_for(files: Path, tmp_path: Path) -> None:
    video = read_video(damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 30, 33), num_frames=16)
    numbers = read_numbers(video.frames)
    assert len(set(numbers)) == 16 and -1 not in numbers
    np.testing.assert_allclose(video.timestamps, np.asarray(numbers) / 25, atol=1e-6)


def test_a_window_before_the_damage_is_read_as_if_nothing_were_there(files: Path, tmp_path: Path) -> None:
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 30, 33)
    for start, end, first in ((0.0, 0.8, 0), (2.0, 2.4, 50)):
        video = read_video(path, start=start, end=end)
        assert read_numbers(video.frames) == list(range(first, first + len(video)))
        assert video.num_broken_packets == 0


def test_a_window_with_nothing_intact_is_refused(files: Path, tmp_path: Path) -> None:
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 24, 47)
    message = refusal(path, start=1.2, end=1.6)
    assert "hurt.mp4" in message and "damaged" in message and "broken packets" in message


def test_other_backends_do_not_return_damaged_frames(files: Path, tmp_path: Path) -> None:
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 0, 71)
    for backend in ("pyav", "decord", "torchcodec"):
        refusal(path, video_backend=backend)


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_damage_that_pyav_reports_is_an_error_with_the_other_backends(
    backend: str, files: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend, exc_type=ImportError)
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", 30, 30, intact_share=0.5)
    for arguments in ({"num_frames": NUM_FRAMES}, {"num_frames": 4}):
        assert read_video(path, **arguments).num_broken_packets > 0
        message = refusal(path, video_backend=backend, **arguments)
        assert "the file is damaged" in message and 'video_backend="pyav"' in message


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize("intact_share", [0.0, 0.5])
@pytest.mark.parametrize("first", [26, 35, 47])
def test_damage_in_one_group_of_pictures_gives_the_frames_of_pyav_or_an_error(
    backend: str, intact_share: float, first: int, files: Path, tmp_path: Path
) -> None:
    pytest.importorskip(backend, exc_type=ImportError)
    path = damaged(files / "clip.mp4", tmp_path / "hurt.mp4", first, first, intact_share)
    num_read = 0
    for arguments in ({"num_frames": NUM_FRAMES}, {"num_frames": 4}, {"fps": 5}, {"end": 0.8}, {"start": 2.0}):
        try:
            expected = read_video(path, **arguments)
        except VideoReadError:
            expected = None
        if expected is None or expected.num_broken_packets:
            refusal(path, video_backend=backend, **arguments)
            continue
        try:
            video = read_video(path, video_backend=backend, **arguments)
        except VideoReadError:
            continue
        num_read += 1
        np.testing.assert_allclose(video.timestamps, expected.timestamps, atol=1e-6)
        assert np.abs(video.frames.astype(int) - expected.frames).mean(axis=(1, 2, 3)).max() < 1.0
    # decord reads on in a thread of its own, and whether it meets the damage there is a matter of chance
    assert num_read >= (0 if backend == "decord" else 2)


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_never_hangs_and_gives_frames_in_order_or_an_error(
    seed: int, files: Path, tmp_path: Path
) -> None:
    noise = random.Random(seed)
    name = noise.choice(["clip.mp4", "moov_first.mp4", "fragmented.mp4", "clip.mkv", "clip.avi"])
    data = bytearray((files / name).read_bytes())
    for _ in range(noise.choice([1, 10, 100, 1000])):
        data[noise.randrange(len(data))] = noise.randrange(256)
    began = time.monotonic()
    try:
        video = read_video(write(tmp_path, name, bytes(data)), num_frames=9)
        assert (np.diff(video.timestamps) > 0).all() and video.frames.shape[0] == len(video.timestamps) > 0
    except VideoReadError:
        pass
    assert time.monotonic() - began < 20


# Time stamps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "times", "guesses"),
    [
        ([0, 33, 67, 100], [0, 33, 67, 100], []),
        ([0, 33, 33, 100], [0, 33, 34, 100], [2]),  # one unit behind its twin
        ([0, 1, 1, 2], [0, 1, 1.5, 2], [2]),  # or less where there is no room
        ([0, 33, 33, 33, 5000], [0, 33, 34, 35, 5000], [2, 3]),
        ([0, 33, 10, 100], [0, 33, 66.5, 100], [2]),
        ([0, None, None, 90], [0, 30, 60, 90], [1, 2]),
        ([None, 33, 66, None], [-7, 33, 66, 106], [0, 3]),
        ([0, 40, 10**17, 120, 160], [0, 40, 80, 120, 160], [2]),
        ([0, 40, -(10**17), 120, 160], [0, 40, 80, 120, 160], [2]),
        ([0, 40, 80, 120, 0], [0, 40, 80, 120, 160], [4]),
        ([10**17, 40, 80, 120], [0, 40, 80, 120], [0]),
        ([None, None, None], [0, 40, 80], [0, 1, 2]),
        ([7], [7], []),
    ],
)
def test_one_bad_time_stamp_leaves_all_others_as_they_are(stamps: list, times: list, guesses: list) -> None:
    mended, is_guess = mend_time_stamps(stamps, step=40)
    assert mended.tolist() == times and np.flatnonzero(is_guess).tolist() == guesses


def test_where_the_clock_is_set_back_for_good_the_times_count_on() -> None:
    part = [0, 40, 90, *range(120, 2000, 40)]
    mended, is_guess = mend_time_stamps([*part, *part], step=40)
    assert mended.tolist() == [*part, *(part[-1] + 40 + stamp for stamp in part)]
    assert is_guess.tolist() == [False] * len(part) + [True] * len(part)


def test_any_time_stamps_become_increasing_times_and_good_ones_stay() -> None:
    noise = random.Random(1)
    for _ in range(300):
        true = sorted(noise.sample(range(10 ** noise.randrange(3, 12)), noise.randrange(1, 60)))
        stamps = [noise.choice([stamp, stamp, stamp, None, noise.randrange(-(10**6), 10**6)]) for stamp in true]
        mended, is_guess = mend_time_stamps(stamps, step=noise.choice([0, 0.5, 40]))
        assert (np.diff(mended) > 0).all() and mended.shape == is_guess.shape == (len(true),)
        assert np.isfinite(mended).all()
        assert mend_time_stamps(true, step=40)[0].tolist() == true


FLAWS = {"repeated": 160, "back": 60, "far back": -32000, "ahead": 290, "far ahead": 32000}  # of 200 ms


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("kind", ["h264", "h264 with B frames", "vp9", "vp8"])
def test_a_file_with_one_bad_time_stamp_is_read_by_its_other_ones(
    kind: str, flaw: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """K2 of the public bug reports: one repeated stamp and all frames were placed at a nominal rate, in silence."""
    recipe = {"vp9": RECIPES["vp9.webm"], "vp8": RECIPES["vp8.webm"]}.get(kind) or Recipe(bframes=2 * ("B" in kind))
    encode(tmp_path / "good.mkv", recipe)
    with av.open(str(tmp_path / "good.mkv")) as container:
        stamps = [packet.pts for packet in container.demux(container.streams.video[0]) if packet.size]
    place = stamps.index(200)
    set_block_times(tmp_path / "good.mkv", tmp_path / "bad.mkv", {place: FLAWS[flaw]})
    video = read_video(tmp_path / "bad.mkv", num_frames=NUM_FRAMES)
    assert read_numbers(video.frames) == list(range(NUM_FRAMES)) and (np.diff(video.timestamps) > 0).all()
    assert np.sum(np.abs(video.timestamps - np.arange(NUM_FRAMES) / 25) > 2e-3) <= 1
    assert video.duration == pytest.approx(2.88, abs=2e-3) and video.num_broken_packets == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == video.num_guessed_timestamps <= 1  # FFmpeg mends some of these itself
    assert all("bad.mkv" in text and "1 of its 72 frames" in text for text in warnings)
    for window in ({"start": 0.0, "end": 0.1}, {"start": 0.5, "end": 0.9}, {"start": 2.0, "end": 2.4}):
        good, bad = (read_video(tmp_path / name, num_frames=4, **window) for name in ("good.mkv", "bad.mkv"))
        np.testing.assert_array_equal(bad.frames, good.frames)
        np.testing.assert_allclose(bad.timestamps, good.timestamps, atol=2e-3)


def repeat_time_stamp(source: Path, target: Path) -> None:
    """Give the third frame the time stamp of the second; muxers of MP4 refuse that, so there the table is changed."""
    if source.suffix == ".mp4":
        data = bytearray(source.read_bytes())
        start = data.index(b"stts") + 12  # entries of a count and a time to the next frame, here of one frame each
        steps = [int.from_bytes(data[start + at : start + at + 4], "big") for at in (4, 12, 20)]
        for at, step in zip((12, 20), (0, steps[1] + steps[2]), strict=True):
            data[start + at : start + at + 4] = step.to_bytes(4, "big")
        target.write_bytes(data)
        return
    stamps: list[int] = []

    def repeat(packet: av.Packet) -> av.Packet:
        if len(stamps) == 2:
            packet.pts = packet.dts = stamps[-1]
        stamps.append(packet.pts)
        return packet

    remux(source, target, repeat)


@pytest.mark.parametrize("name", ["clip.mkv", "clip.webm", "clip.mp4", "clip.flv"])
def test_a_repeated_time_stamp_at_a_variable_rate_costs_nothing_else(name: str, tmp_path: Path) -> None:
    ticks = [0, 33, 67, 100, 134, 5000, 5033, 5067, 5100, 20000]  # a recording of a screen with two long pauses
    recipe = Recipe("libvpx-vp9", RECIPES["vp9.webm"].options) if name == "clip.webm" else Recipe(bframes=0)
    recipe.ticks, recipe.rate = ticks, 1000
    encode(tmp_path / f"good_{name}", recipe)
    repeat_time_stamp(tmp_path / f"good_{name}", tmp_path / name)
    video = read_video(tmp_path / name, num_frames=10)
    assert len(video) == 10 and video.num_guessed_timestamps == 1
    others = [place for place in range(10) if place != 2]
    np.testing.assert_allclose(video.timestamps[others], np.asarray(ticks)[others] / 1000, atol=2e-3)
    assert 0.033 < video.timestamps[2] < 0.1
    assert len(read_video(tmp_path / name, fps=1)) == 5  # on screen at 0, 1, 5, 6 and 20 s


@pytest.mark.parametrize("place", [0, 3, 40, NUM_FRAMES - 1])
@pytest.mark.parametrize("stamp", [-(1 << 60), 1 << 60])
def test_an_absurd_time_stamp_does_not_make_a_video_last_for_ages(place: int, stamp: int, tmp_path: Path) -> None:
    encode(tmp_path / "good.ivf", Recipe("libvpx-vp9", RECIPES["vp9.webm"].options))
    data = bytearray((tmp_path / "good.ivf").read_bytes())
    start = 32  # the header of the file; each frame has its size in 4 bytes and its time stamp in 8
    for _ in range(place):
        start += 12 + int.from_bytes(data[start : start + 4], "little")
    data[start + 4 : start + 12] = stamp.to_bytes(8, "little", signed=True)
    path = write(tmp_path, "bad.ivf", bytes(data))
    try:
        video = read_video(path, num_frames=NUM_FRAMES)
    except VideoReadError as error:
        assert "over the limit of 3600 s" in str(error)
        return
    numbers = np.asarray(read_numbers(video.frames))
    assert (np.diff(video.timestamps) > 0).all() and video.duration < 3
    np.testing.assert_allclose(video.timestamps, numbers / 25, atol=1e-3)


def test_a_last_frame_without_a_duration_does_not_get_that_of_the_gap_before_it(tmp_path: Path) -> None:
    """Seen from muxers in browsers: 6 s were said to be 8.9 s, because the frame before stays for 2.9 s."""
    ticks = [0, 100, 200, 300, 1000, 1100, 1200, 3000, 3100, 6000]
    encode(tmp_path / "clip.mp4", Recipe(ticks=ticks, rate=1000, bframes=0))
    data = bytearray((tmp_path / "clip.mp4").read_bytes())
    start = data.index(b"stts") + 8
    last = start + 4 + 8 * (int.from_bytes(data[start : start + 4], "big") - 1)
    data[last + 4 : last + 8] = bytes(4)
    video = read_video(write(tmp_path, "clip.mp4", bytes(data)), num_frames=10)
    assert video.timestamps.tolist() == pytest.approx([tick / 1000 for tick in ticks], abs=1e-3)
    assert video.duration == pytest.approx(6.1, abs=0.05)


FIRST_KEY = ["h264.mp4", "h264.mkv", "h264.flv", "hevc.mp4", "vp9.webm", "vp8.webm", "av1.mp4", "open_gop.mp4"]


@pytest.mark.parametrize("name", FIRST_KEY)
def test_a_broken_first_key_frame_does_not_move_the_clock(name: str, tmp_path: Path) -> None:
    """A window of 0 to 0.5 s gave the frames of 1.04 to 1.36 s once, under the times 0.08 to 0.40 s."""
    encode(tmp_path / name, RECIPES[name])
    # of VP9 the header stays: what a packet says about the size of its frames is believed
    path = damaged(tmp_path / name, tmp_path / f"hurt_{name}", 0, 0, intact_share=0.01 if "vp9" in name else 0.0)
    video = read_video(path, num_frames=NUM_FRAMES)
    numbers = np.asarray(read_numbers(video.frames))
    assert len(video) >= 24 and (numbers >= 24).all() and video.num_broken_packets > 0
    np.testing.assert_allclose(video.timestamps, numbers / 25, atol=2e-3)
    assert video.duration == pytest.approx(2.88, abs=0.01)
    assert video.total_frames == NUM_FRAMES or name == "vp8.webm"  # its packets are not its frames
    assert "of the window are damaged" in refusal(path, start=0.0, end=0.5)
    late = read_video(path, start=2.0, end=2.4, num_frames=3)
    np.testing.assert_allclose(late.timestamps, np.asarray(read_numbers(late.frames)) / 25, atol=2e-3)
    assert (late.timestamps >= 1.96).all() and (late.timestamps <= 2.4).all()


AVI = {
    "mjpeg": RECIPES["mjpeg.avi"],
    "mpeg4": Recipe("mpeg4", gop=12, bframes=0),
    "mpeg4 with B frames": RECIPES["mpeg4_b.avi"],
    "h264": Recipe(bframes=0),
    "h264 with B frames": Recipe(),
}


@pytest.mark.parametrize("first", [0, 29, 30, 47])
@pytest.mark.parametrize("kind", AVI)
def test_a_lost_chunk_of_an_avi_file_does_not_move_the_clock(kind: str, first: int, tmp_path: Path) -> None:
    """AVI has no time stamps, only places: those behind a lost picture were early by one each."""
    encode(tmp_path / "good.avi", AVI[kind])
    path = damaged(tmp_path / "good.avi", tmp_path / "hurt.avi", first, first)
    video = read_video(path, num_frames=NUM_FRAMES)
    numbers = np.asarray(read_numbers(video.frames))
    readable = numbers >= 0  # what decodes all the same is not noticed
    assert readable.sum() >= 47 and video.duration == pytest.approx(2.88, abs=0.01)
    np.testing.assert_allclose(video.timestamps[readable], numbers[readable] / 25, atol=1e-3)


def test_frames_of_an_avi_file_are_shown_at_the_places_of_its_chunks(tmp_path: Path) -> None:
    """Dropped frames are empty chunks; with B frames the frames are in another order than the chunks."""
    ticks = [0, 1, 2, 3, 10, 11, 12, 30, 31, 60]
    for bframes in (0, 2):
        encode(tmp_path / "clip.avi", Recipe(ticks=ticks, rate=10, bframes=bframes))
        with av.open(str(tmp_path / "clip.avi")) as container:
            places = [packet.dts for packet in container.demux(container.streams.video[0]) if packet.size]
        assert len(places) == 10 and places[-1] > 12
        video = read_video(tmp_path / "clip.avi", num_frames=10)
        assert video.timestamps.tolist() == pytest.approx([place / 10 for place in places])
        assert video.num_guessed_timestamps == 0
        if bframes == 0:
            assert places == ticks


def test_a_file_trimmed_in_place_and_cut_off_is_said_to_be_cut_off(files: Path, tmp_path: Path) -> None:
    encode(tmp_path / "clip.mp4", Recipe(gop=10))
    set_edits(tmp_path / "clip.mp4", tmp_path / "trimmed.mp4", [(1.0, 1.0)])
    data = (tmp_path / "trimmed.mp4").read_bytes()
    moov = data.rindex(b"moov") - 4
    # the index in front, as of a file made for streaming; only half of the pictures were downloaded
    index = bytearray(data[moov:])
    begin = data.index(b"mdat") - 4
    place = index.index(b"stco") + 8
    for number in range(int.from_bytes(index[place : place + 4], "big")):
        entry = slice(place + 4 + 4 * number, place + 8 + 4 * number)
        index[entry] = (int.from_bytes(index[entry], "big") + len(index)).to_bytes(4, "big")
    whole = write(tmp_path, "whole.mp4", data[:begin] + bytes(index) + data[begin:moov])
    assert read_numbers(read_video(whole, num_frames=NUM_FRAMES).frames) == list(range(25, 50))
    half = write(tmp_path, "half.mp4", whole.read_bytes()[: begin + len(index) + (moov - begin) // 2])
    message = refusal(half)
    assert "is cut off" in message and "of its 72 frames are there" in message


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_file_over_the_limit_of_bytes_is_refused_however_it_comes(files: Path) -> None:
    path, limits = files / "clip.mp4", VideoLimits(max_bytes=1000)
    assert "over the limit of 1000" in refusal(path, limits=limits)
    assert "over the limit of 1000" in refusal(path.read_bytes(), limits=limits)
    with path.open("rb") as file:
        assert "more than the limit of 1000 bytes" in refusal(file, limits=limits)


def test_a_video_of_two_hours_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    encode(path, Recipe(ticks=[number * 120 * 25 for number in range(61)]))
    began = time.process_time()
    message = refusal(path)
    assert "film.mp4" in message and "over the limit of 3600 s" in message
    assert time.process_time() - began < 2
    assert len(read_video(path, num_frames=4, limits=VideoLimits(max_duration=None))) == 4


def test_the_limit_of_duration_holds_for_the_last_frames_too(tmp_path: Path) -> None:
    encode(tmp_path / "slides.mkv", Recipe(ticks=[0, 25, 25 * 7200], bframes=0))
    assert "over the limit of 3600 s" in refusal(tmp_path / "slides.mkv")
    video = read_video(tmp_path / "slides.mkv", limits=VideoLimits(max_duration=8000))
    assert video.timestamps.tolist() == pytest.approx([0, 1, 7200])


def test_frames_of_8k_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(7680, 4320, "yuvj420p")))
        container.mux(stream.encode())
    assert "7680x4320" in refusal(path)


def test_memory_and_number_of_frames_are_limited(files: Path) -> None:
    assert "limit of 1000000" in refusal(files / "clip.mp4", num_frames=60, limits=VideoLimits(max_output_bytes=10**6))
    assert "limit of 4 frames" in refusal(files / "clip.mp4", num_frames=5, limits=VideoLimits(max_frames=4))
    assert len(read_video(files / "clip.mp4", fps=25, limits=VideoLimits(max_frames=4))) == 4
    assert len(read_video(files / "clip.mp4", limits=VideoLimits(max_frames=4))) == 4


def test_decoding_stops_when_its_time_is_over(files: Path) -> None:
    assert "took longer than the limit" in refusal(files / "clip.mp4", limits=VideoLimits(max_decode_seconds=1e-9))


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"max_duration": -1.0}, {"max_pixels": "many"}])
def test_limits_that_are_no_limits_are_refused(wrong: dict) -> None:
    with pytest.raises(VideoReadError, match="a limit is a positive number"):
        VideoLimits(**wrong)


def test_a_frame_size_that_changes_on_the_way_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two_sizes.h264"
    with path.open("wb") as target:
        for size in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH)):
            encode(tmp_path / "part.h264", Recipe(size=size, container="h264"))
            target.write((tmp_path / "part.h264").read_bytes())
    assert "changes its frame size from 160x96 to 320x192" in refusal(path)


def test_a_backend_that_is_not_installed_is_refused_with_the_way_out(files: Path, monkeypatch) -> None:
    import sys

    for name in ("decord", "torchcodec"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, f"{name}.decoders", None)
        message = refusal(files / "clip.mp4", video_backend=name)
        assert f'pip install "transformers-linvt[{name}]"' in message and 'video_backend="pyav"' in message


def test_the_tests_ask_for_decord_only_where_it_has_wheels() -> None:
    markers = pytest.importorskip("packaging.markers", reason="evaluates the condition")
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if '"decord>=0.6;' in line]
    (condition,) = {line.split(";", 1)[1].rstrip('",\n ') for line in lines}  # of every extra that asks for it
    marker = markers.Marker(condition.strip())
    expected = {
        ("Linux", "x86_64"): True,
        ("Linux", "aarch64"): False,
        ("Windows", "AMD64"): True,
        ("Windows", "ARM64"): False,
        ("Darwin", "arm64"): False,
    }
    for (system, machine), is_there in expected.items():
        assert marker.evaluate({"platform_system": system, "platform_machine": machine}) is is_there


def test_importing_the_reader_does_not_import_torch() -> None:
    import subprocess
    import sys

    source = Path(video_reading.__file__)
    code = (
        "import sys, types, importlib.util as u\n"
        "package = types.ModuleType('p'); package.__path__ = [sys.argv[1]]; sys.modules['p'] = package\n"
        "import p.video.reading\n"
        "assert not {'torch', 'decord', 'torchcodec', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(source.parents[1])], check=True, timeout=200)


# Addresses -----------------------------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    data: bytes = b""
    private: str = ""
    seen: list[tuple[str, str | None]] = []

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers.get("Host")))
        path = self.path.partition("?")[0]
        if path.startswith("/again"):
            left = int(path.removeprefix("/again") or 0)
            self._answer(302, Location=f"/again{left - 1}" if left > 1 else "/clip.mp4")
        elif path == "/to_file":
            self._answer(302, Location="file:///etc/hostname")
        elif path == "/to_private":
            self._answer(302, Location="http://10.1.2.3/clip.mp4")
        elif path == "/nowhere":
            self._answer(301)
        elif path == "/404":
            self._answer(404)
        elif path == "/rude":
            self.wfile.write(b"HTTP/1.1 500 \x1b[31mRUDE\r\n\r\n")
        elif path == "/no_status":
            self.wfile.write(b"\x1b[31mRUDE\r\n\r\n")
        elif path == "/to_rude":
            self._answer(302, Location="rude://RUDE/\x1b[31mRUDE")
        elif path == "/to_rude_host":
            self._answer(302, Location="http://RUDE.invalid/RUDE")
        elif path == "/clip.mp4":
            self._answer(200, self.data, Content_Length=str(len(self.data)))
        elif path == "/no_length":
            self._answer(200, self.data)
        elif path == "/endless":
            self._answer(200)
            self._drip(b"x" * 65536, 0.0)
        elif path == "/says_more":
            self._answer(200, self.data, Content_Length=str(2 * len(self.data)))
        elif path == "/says_huge":
            self._answer(200, Content_Length=str(1 << 50))
        elif path == "/says_less":
            self._answer(200, self.data, Content_Length="1000")
        elif path == "/slow":
            self._answer(200)
            self._drip(b"x", 0.05)
        elif path == "/page":
            self._answer(200, b"<html>please log in</html>")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def _drip(self, piece: bytes, pause: float) -> None:
        try:
            for _ in range(400):
                self.wfile.write(piece)
                time.sleep(pause)
        except OSError:
            pass


@pytest.fixture
def server(files: Path) -> Iterator[str]:
    _Handler.data, _Handler.seen = (files / "clip.mp4").read_bytes(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.block_on_close = False
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


LOCAL = VideoLimits(allow_private_addresses=True, max_bytes=1_000_000, max_download_seconds=10.0)


def test_an_address_is_refused_unless_allowed() -> None:
    message = refusal("https://user:secret@example.com/clip.mp4?token=secret#part")
    assert "allow_urls=True" in message and "example.com/clip.mp4" in message and "secret" not in message


@pytest.mark.parametrize(
    "url", ["files:///etc/hostname", "ftp://example.com/a.mp4", "rtsp://example.com/a", "s3://b/a"]
)
def test_other_protocols_are_refused_even_when_addresses_are_allowed(url: str) -> None:
    assert "only http and https" in refusal(url, allow_urls=True)


@pytest.mark.parametrize("path", ["/clip.mp4", "/no_length", "/again1", "/again5", "/clip.mp4?a=b c&d=%20"])
def test_a_video_is_read_from_an_address(path: str, server: str) -> None:
    video = read_video(server + path, num_frames=3, allow_urls=True, limits=LOCAL)
    assert read_numbers(video.frames) == uniform_indices(NUM_FRAMES, 3)
    assert video.source == server + path.partition("?")[0]
    assert _Handler.seen[0][1] == server.removeprefix("http://")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/again6", "redirects more than 5 times"),
        ("/to_file", "neither http nor https"),
        ("/nowhere", "without saying where to"),
        ("/404", "answered 404"),
        ("/endless", "more than the limit of 1000000 bytes"),
        ("/says_huge", "announces 1125899906842624 bytes"),
        ("/says_more", "broke off after"),
        ("/says_less", "cut off"),
        ("/page", "web page (HTML)"),
    ],
)
def test_addresses_that_answer_badly_are_refused(path: str, words: str, server: str) -> None:
    assert words in refusal(server + path, allow_urls=True, limits=LOCAL)


@pytest.mark.parametrize("path", ["/rude", "/no_status", "/to_rude", "/to_rude_host"])
def test_what_a_server_says_is_not_repeated(path: str, server: str) -> None:
    message = refusal(server + path, allow_urls=True, limits=LOCAL)
    assert "RUDE" not in message and "rude:" not in message and "\x1b" not in message and server in message


def test_a_server_that_answers_byte_by_byte_is_cut_off(server: str) -> None:
    began = time.monotonic()
    limits = VideoLimits(allow_private_addresses=True, max_download_seconds=0.5)
    assert "did not arrive within the limit of 0.5 s" in refusal(server + "/slow", allow_urls=True, limits=limits)
    assert time.monotonic() - began < 10  # all of it takes 20 s


def test_a_server_that_accepts_and_says_nothing_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/clip.mp4"
        limits = VideoLimits(allow_private_addresses=True, max_download_seconds=0.5)
        assert "did not arrive within" in refusal(url, allow_urls=True, limits=limits)


def test_an_address_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert "no connection" in refusal(f"http://127.0.0.1:{port}/a.mp4", allow_urls=True, limits=LOCAL)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "2130706433", "0x7f.1", "[::1]", "[::]",
        "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]",
        "[ff02::1]",
    ],
)  # fmt: skip
def test_private_local_and_reserved_addresses_are_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError(f"connected to {arguments}")

    monkeypatch.setattr(socket, "create_connection", never)
    message = refusal(f"http://{host}:8080/clip.mp4", allow_urls=True)
    assert "private, local or reserved" in message or "was not found" in message


@pytest.mark.parametrize(
    "url", ["http:///a.mp4", "http://a:b@93.184.216.34/", "http://93.184.216.34:99999/", "http://[::1/"]
)
def test_malformed_addresses_are_refused(url: str) -> None:
    refusal(url, allow_urls=True)


def answers(monkeypatch: pytest.MonkeyPatch, table: dict[str, list[str]]) -> list[str]:
    """Replace name resolution by a table (the last entry of a name repeats); the names asked for are returned."""
    asked: list[str] = []

    def resolve(host: str, port: int, *more: object, **named: object) -> list[tuple]:
        asked.append(host)
        found = table.get(host, [host])
        address = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (part, port)) for part in address.split()]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


def test_a_host_with_one_private_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"mixed.example": ["93.184.216.34 10.0.0.7"]})
    assert "leads to 10.0.0.7" in refusal("http://mixed.example/clip.mp4", allow_urls=True)


def test_the_connection_goes_to_the_address_that_was_checked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to a public address first and to a private one afterwards (DNS rebinding) gains nothing."""
    port = int(server.rpartition(":")[2])
    asked = answers(monkeypatch, {"rebind.example": ["93.184.216.34", "127.0.0.1"]})
    connected: list[tuple] = []

    def connect(address: tuple, timeout: float | None = None) -> socket.socket:
        connected.append(address)
        plain = socket.socket()
        plain.connect(("127.0.0.1", port))  # stands for the public server
        return plain

    monkeypatch.setattr(socket, "create_connection", connect)
    video = read_video(f"http://rebind.example:{port}/clip.mp4", num_frames=2, allow_urls=True)
    assert len(video) == 2
    assert connected == [("93.184.216.34", port)] and asked == ["rebind.example"]
    assert _Handler.seen == [("/clip.mp4", f"rebind.example:{port}")]


@pytest.mark.parametrize("path", ["/to_private", "/again2"])
def test_a_redirect_to_a_private_address_is_refused(path: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stop is public (the test server behind a public name); the next one is checked like the first."""
    port = int(server.rpartition(":")[2])
    answers(monkeypatch, {"public.example": ["93.184.216.34", "127.0.0.1"]})

    def connect(address: tuple, timeout: float | None = None) -> socket.socket:
        assert address[0] == "93.184.216.34"
        plain = socket.socket()
        plain.connect(("127.0.0.1", port))
        return plain

    monkeypatch.setattr(socket, "create_connection", connect)
    message = refusal(f"http://public.example:{port}{path}", allow_urls=True)
    assert "private, local or reserved" in message
    assert len(_Handler.seen) == 1


def test_https_checks_the_certificate_against_the_name(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loopback server speaks no TLS; what matters is that the handshake names the host and not the address."""
    import ssl

    names: list[str | None] = []
    original = ssl.SSLContext.wrap_socket

    def wrap(self: ssl.SSLContext, plain: socket.socket, **named: object) -> socket.socket:
        names.append(named.get("server_hostname"))
        assert self.verify_mode == ssl.CERT_REQUIRED and self.check_hostname
        return original(self, plain, **named)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    answers(monkeypatch, {"secure.example": ["127.0.0.1"]})
    port = server.rpartition(":")[2]
    assert "no connection" in refusal(f"https://secure.example:{port}/clip.mp4", allow_urls=True, limits=LOCAL)
    assert names == ["secure.example"]


def test_a_forked_process_can_clear_up_after_its_parents_reading(files: Path):
    """Data loader workers are forked after a dataset was checked; waiting for the parent's threads they would hang."""
    gc.collect()
    gc.freeze()  # what other tests left behind is not the child's to clear up
    gc.disable()  # what is left of the read is there when the child begins
    try:
        read_video(str(files / "clip.mp4"), num_frames=5, video_backend="pyav")
        child = os.fork()
        if child == 0:
            gc.collect()
            os._exit(7)
    finally:
        gc.enable()
        gc.unfreeze()
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 7
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")
