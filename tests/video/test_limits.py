"""What a video and a request may cost: each limit is on by default, holds before the cost, and is a clear error."""

import base64
import contextlib
import io
import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest

from transformers_linvt.demo.embedded import embedded_model_path
from transformers_linvt.errors import LinVTInputError, VideoReadError
from transformers_linvt.model.pictures import read_picture
from transformers_linvt.model.processing_linvt import LinVTProcessor
from transformers_linvt.video.container import VideoFile
from transformers_linvt.video.limits import ALLOWED_CODECS, Clock, VideoLimits, one_request
from transformers_linvt.video.reading import read_video
from transformers_linvt.video.source import opened_source
from zoo import Recipe, encode


pytestmark = pytest.mark.timeout(30)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("limits") / "clip.mp4"
    encode(path, Recipe(ticks=list(range(20))))
    return path


# --- of a request ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share", "words"),
    [
        ("max_request_frames", 15, "over the limit of 5 frames"),
        ("max_request_output_bytes", 15 * 160 * 96 * 3, "over the limit of 230400"),
        ("max_request_bytes", None, "bytes, over the limit of"),
    ],
)
def test_the_videos_of_a_request_share_its_limits(name: str, share: int | None, words: str, clip: Path) -> None:
    share = clip.stat().st_size * 3 // 2 if share is None else share
    limits = VideoLimits(**{name: share})
    with one_request():
        first = read_video(clip, num_frames=10, limits=limits)
        with pytest.raises(VideoReadError) as caught:
            read_video(clip, num_frames=10, limits=limits)
        assert words in str(caught.value) and f"VideoLimits({name})" in str(caught.value)
    # each in a request of its own is fine, and so it is without that limit
    again = read_video(clip, num_frames=10, limits=limits)
    np.testing.assert_array_equal(first.frames, again.frames)
    with one_request():
        for _ in range(3):
            read_video(clip, num_frames=10, limits=VideoLimits(**{name: None}))


def test_a_request_that_has_spent_everything_is_told_which_limit(clip: Path) -> None:
    limits = VideoLimits(max_request_frames=10)
    with one_request():
        read_video(clip, num_frames=10, limits=limits)
        with pytest.raises(VideoReadError, match=r"of one request are over the limit of 10 frames together.*=\.\.\."):
            read_video(clip, num_frames=1, limits=limits)


def test_time_counts_for_refused_videos_too(clip: Path) -> None:
    class Slow(io.BytesIO):
        def read(self, *arguments: object) -> bytes:
            time.sleep(0.06)
            return super().read(*arguments)

    limits = VideoLimits(max_request_decode_seconds=0.1)
    with one_request():
        with pytest.raises(VideoReadError, match="cannot be read"):
            read_video(Slow(b"no video"), limits=limits)
        with pytest.raises(VideoReadError, match=r"over the limit of 0\.1 decode seconds"):
            read_video(clip, limits=limits)


def test_requests_inside_of_a_request_are_part_of_it(clip: Path) -> None:
    limits = VideoLimits(max_request_frames=15)
    with one_request():
        with one_request():
            read_video(clip, num_frames=10, limits=limits)
        with pytest.raises(VideoReadError, match="over the limit of 5 frames"):
            read_video(clip, num_frames=10, limits=limits)


def test_a_conversation_is_a_request_and_a_batch_is_several(clip: Path) -> None:
    processor = LinVTProcessor.from_pretrained(embedded_model_path())
    part = {"type": "video", "path": str(clip), "num_frames": 4}
    question = {"type": "text", "text": "What is it?"}

    def ask(*conversations: list) -> None:
        chats = [[{"role": "user", "content": [*parts, question]}] for parts in conversations]
        processor.apply_chat_template(
            chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
            limits=VideoLimits(max_request_frames=10), padding=True,
        )  # fmt: skip

    ask([part, part], [part, part])
    with pytest.raises(VideoReadError, match="over the limit of 2 frames"):
        ask([part, part, part])


# --- codings ---------------------------------------------------------------------------------------------------------


def test_a_coding_that_hardly_anybody_has_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    encode(tmp_path / "odd.avi", Recipe("magicyuv", pixel_format="yuv420p", ticks=list(range(4))))
    with pytest.raises(VideoReadError, match=r"coded as magicyuv.*allowed_codecs=\('magicyuv',\)"):
        read_video(tmp_path / "odd.avi")
    for allowed in (("magicyuv",), None):
        assert len(read_video(tmp_path / "odd.avi", limits=VideoLimits(allowed_codecs=allowed))) == 4


def test_only_the_codings_that_are_named_are_decoded(clip: Path) -> None:
    with pytest.raises(VideoReadError, match="coded as h264"):
        read_video(clip, limits=VideoLimits(allowed_codecs=("vp9", "av1")))
    assert {"h264", "hevc", "av1", "vp9", "prores"} <= set(ALLOWED_CODECS)
    assert not {"magicyuv", "exr", "dpx", "snow", "cfhd", "zmbv", "flashsv", "vvc", "jpeg2000"} & set(ALLOWED_CODECS)


def test_there_are_as_many_other_codings_as_the_docs_say() -> None:
    names = set()
    for name in av.codecs_available:
        with contextlib.suppress(ValueError):  # one that only encodes
            codec = av.Codec(name, "r")
            names |= {codec.canonical_name} if codec.type == "video" else set()
    assert len(names - set(ALLOWED_CODECS)) > 200 and set(ALLOWED_CODECS) <= names


@pytest.mark.parametrize("wrong", ["h264", (), [264], 7])
def test_codings_that_are_no_names_are_refused(wrong: object) -> None:
    with pytest.raises(VideoReadError, match="allowed_codecs"):
        VideoLimits(allowed_codecs=wrong)


# --- the clock -------------------------------------------------------------------------------------------------------


def test_the_clock_runs_while_the_boxes_of_a_file_are_walked(tmp_path: Path) -> None:
    (tmp_path / "boxes.mp4").write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08free" * 600_000)
    began = time.monotonic()
    with pytest.raises(VideoReadError, match=r"longer than the limit of 0\.01 s"):
        read_video(tmp_path / "boxes.mp4", limits=VideoLimits(max_decode_seconds=0.01))
    assert time.monotonic() - began < 15


# --- pictures --------------------------------------------------------------------------------------------------------


def picture_of(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, (10, 200, 30)).save(file, kind)
    return file.getvalue()


def video_of_pictures(path: Path, kind: str, size: tuple[int, int]) -> Path:
    """Three pictures of one size, in a file that says they have 64 x 48."""
    if path.suffix == ".gif":
        path.write_bytes(picture_of(size, "GIF"))
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream({"PNG": "png", "JPEG": "mjpeg"}[kind], rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"PNG": "rgb24", "JPEG": "yuvj420p"}[kind]
        for number in range(3):
            packet = av.Packet(picture_of(size, kind))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 25), True
            packet.pts = packet.dts = number
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "kind"), [("png.mov", "PNG"), ("jpeg.mov", "JPEG"), ("jpeg.avi", "JPEG"), ("picture.gif", "GIF")]
)
def test_a_picture_inside_a_video_is_not_decoded_before_its_size_is_looked_at(name: str, kind: str, tmp_path: Path):
    large = video_of_pictures(tmp_path / name, kind, (120, 100))
    limits = VideoLimits(max_pixels=11_999)
    with pytest.raises(VideoReadError, match="120x100 = 12000 pixels, over the limit of 11999"):
        read_video(large, limits=limits)
    with opened_source(large, limits, False) as source, VideoFile(source, Clock(name, None), limits) as file:
        context = file.stream.codec_context
        assert context.pix_fmt is None  # which FFmpeg knows only from decoding
        assert (context.width, context.height) == ((120, 100) if kind == "GIF" else (64, 48))
    shown = read_video(large, limits=VideoLimits(max_pixels=12_000)).frames
    assert shown.shape[1:] == (100, 120, 3) and abs(shown.astype(int) - [10, 200, 30]).max() < 8


def test_the_decoder_of_pictures_is_held_to_the_limit_as_well(tmp_path: Path):
    """For pictures whose header Pillow cannot read."""
    limits, path = VideoLimits(max_pixels=2_000), video_of_pictures(tmp_path / "a.avi", "JPEG", (90, 70))
    with opened_source(path, limits, False) as source, VideoFile(source, Clock("a", None), limits) as file:
        packets = [packet for packet in file.container.demux(file.stream) if packet.size]
        with pytest.raises(av.error.FFmpegError):
            packets[0].decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
def test_a_picture_of_a_message_is_not_decoded_before_its_size_is_looked_at(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "picture"
    path.write_bytes(picture_of((40, 30), kind))
    decoded = []
    load = PIL.ImageFile.ImageFile.load
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", lambda self: decoded.append(self) or load(self))
    limits = {"limits": VideoLimits(max_picture_pixels=1_199)}
    for source in (path, path.read_bytes(), base64.b64encode(path.read_bytes()).decode()):
        with pytest.raises(LinVTInputError, match="40x30 = 1200 pixels, over the limit of 1199"):
            read_picture(source, limits)
        assert not decoded
        assert read_picture(source).size == (40, 30) and decoded
        decoded.clear()
    if kind == "GIF":  # as many as Pillow itself refuses
        with pytest.raises(LinVTInputError, match="DecompressionBombError: Image size \\(256000000 pixels"):
            read_picture(path.read_bytes()[:6] + struct.pack("<HH", 16000, 16000) + path.read_bytes()[10:])
        assert not decoded
