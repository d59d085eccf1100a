"""A video that is encoded while it is read: the same features, little memory, and a clean end."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from promises import QUESTION, Wrapped, check_refused, wrapped
from transformers_linvt import LinVTInputError, LinVTProcessor, VideoFeatures, VideoLimits, VideoReadError
from transformers_linvt.model import video_inputs
from transformers_linvt.model.origin import VideoDigest
from transformers_linvt.tokenizer import stream
from transformers_linvt.video.album import Album
from transformers_linvt.video.pyav_decoder import PyAVReader
from zoo import Recipe, encode


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "linvt-reader"] == []


@pytest.fixture
def family() -> Wrapped:
    return wrapped("qwen3_vl")


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "clip.mp4"
    encode(path, Recipe(ticks=list(range(30))))
    return path


def check_alike(features: VideoFeatures, expected: VideoFeatures) -> None:
    for name, value in expected.refined.to_tensors().items():
        assert_close(features.refined.to_tensors()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert len(features.deepstack) == len(expected.deepstack)
    for layer, value in zip(features.deepstack, expected.deepstack, strict=True):
        assert_close(layer, value, atol=1e-4, rtol=1e-3)
    assert torch.equal(features.timestamps, expected.timestamps)
    assert (features.grid_size, features.container) == (expected.grid_size, expected.container)


@pytest.fixture
def in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames a piece or one, and tokens that always go through the temporary file."""
    monkeypatch.setattr(video_inputs, "CHUNK_BYTES", 1)
    monkeypatch.setattr(stream, "TOKENS_AT_ONCE", 0)


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "molmo2", "minicpmv4_6", "llava_next"])
def test_a_video_in_pieces_gives_the_features_of_the_whole(name: str, in_small_pieces: None):
    family = wrapped(name)
    video = family.clip(7)
    whole = family.model.encode_video(video, family.processor, stream=False)
    check_alike(family.model.encode_video(video, family.processor), whole)


def test_steps_of_time_stay_together_in_every_piece(in_small_pieces: None):
    base = wrapped("qwen2_vl")
    processor = LinVTProcessor(base.processor.base_processor, base.processor.num_video_tokens, frame_path="video")
    base.model.config.frame_path = "video"
    family = replace(base, processor=processor)
    video = family.clip(7)
    whole = family.model.encode_video(video, family.processor, stream=False)
    assert whole.num_frames == 4
    features = family.model.encode_video(video, family.processor)
    check_alike(features, whole)
    assert features.origin == whole.origin


def test_a_file_is_never_together_in_memory(family: Wrapped, clip_file: Path, monkeypatch: pytest.MonkeyPatch):
    whole = family.model.encode_video(clip_file, family.processor, num_frames=9, stream=False)
    monkeypatch.setattr(Album, "put", lambda *_: pytest.fail("all frames were put into one array"))
    features = family.model.encode_video(clip_file, family.processor, num_frames=9)
    check_alike(features, whole)
    assert features.origin == whole.origin
    answers = [family.model.answer(one, QUESTION, family.processor, max_new_tokens=3) for one in (features, whole)]
    assert answers[0] == answers[1]


def test_frames_that_were_void_count_for_nothing(family: Wrapped, clip_file: Path, monkeypatch: pytest.MonkeyPatch):
    whole = family.model.encode_video(clip_file, family.processor, num_frames=9, stream=False)

    def fails(self, wanted, album):
        self.from_start(dict(list(wanted.items())[:4]), album)
        return False

    monkeypatch.setattr(PyAVReader, "by_seeking", fails)
    monkeypatch.setattr(video_inputs, "CHUNK_BYTES", 1)
    features = family.model.encode_video(clip_file, family.processor, num_frames=9)
    assert features.origin == whole.origin
    check_alike(features, whole)


def test_a_caller_raises_the_number_of_frames(family: Wrapped, clip_file: Path):
    family.model.config.max_frames = 4
    words = ("9 frames", "1 to 4", "VideoLimits(max_frames=9)")
    encode_clip = family.model.encode_video
    check_refused(lambda: encode_clip(clip_file, family.processor, num_frames=9), LinVTInputError, *words)
    for most in (9, None):
        features = encode_clip(clip_file, family.processor, num_frames=9, limits=VideoLimits(max_frames=most))
        assert features.num_frames == 9


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_stops_the_model_stops_the_reading(
    family: Wrapped, clip_file: Path, error: type, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(video_inputs, "CHUNK_BYTES", 1)
    calls, encode_frames = [], type(family.model.model.bridge).encode_frames

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return encode_frames(*arguments)

    monkeypatch.setattr(type(family.model.model.bridge), "encode_frames", stops)
    with pytest.raises(error):
        family.model.encode_video(clip_file, family.processor, num_frames=9)


def test_what_cannot_be_read_is_said_by_the_reader(family: Wrapped, tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"no video at all")
    check_refused(
        lambda: family.model.encode_video(tmp_path / "clip.mp4", family.processor), VideoReadError, "cannot be read"
    )
    check_refused(lambda: family.model.encode_video("nowhere.mp4", family.processor), VideoReadError, "does not exist")


def test_a_processor_that_refuses_a_frame_is_quoted(family: Wrapped, monkeypatch: pytest.MonkeyPatch):
    def refuses(*_, **__):
        raise ValueError("no such picture")

    monkeypatch.setattr(type(family.processor.base_processor.image_processor), "__call__", refuses)
    check_refused(
        lambda: family.model.encode_video(family.clip(3), family.processor), LinVTInputError, "no such picture"
    )


def test_a_digest_is_the_same_however_the_frames_are_cut():
    pixels, times = torch.arange(24.0).view(6, 4), torch.arange(6.0)
    digest = VideoDigest(times)
    for part in np.array_split(np.arange(6), 4):
        digest.feed({"pixel_values": pixels[part]})
    whole = VideoDigest(times)
    whole.feed({"frame_pixel_values": pixels})
    assert digest.hexdigest() == whole.hexdigest()
    other = VideoDigest(times + 1)
    other.feed({"pixel_values": pixels})
    assert digest.hexdigest() != other.hexdigest()
