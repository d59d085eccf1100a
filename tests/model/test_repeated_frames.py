"""Frames that repeat the one before are encoded once, and everything else is as if each had been."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from promises import QUESTION, Wrapped, check_refused, user, wrapped
from transformers_linvt import LinVTInputError, LinVTProcessor, VideoFeatures, VideoFrames, VideoStream
from transformers_linvt.bases.base import BaseBridge
from transformers_linvt.model import video_inputs
from transformers_linvt.model.digests import digest_of_processor
from transformers_linvt.tokenizer import stream


SHOWN = (0, 0, 1, 1, 1, 2, 0)  # which of three pictures each frame shows


def repeating(family: Wrapped, shown: Sequence[int] = SHOWN, seed: int = 0) -> VideoFrames:
    clip = family.clip(len(shown))
    pictures = family.clip(max(shown) + 1, seed).frames
    return replace(clip, frames=pictures[list(shown)])


def encoding_all(family: Wrapped) -> Wrapped:
    """The same with a processor that skips nothing."""
    processor = LinVTProcessor(
        family.processor.base_processor, family.processor.num_video_tokens, family.processor.base_model_type,
        frame_path=family.processor.frame_path, skip_duplicate_frames=False,
    )  # fmt: skip
    return replace(family, processor=processor)


def merging(name: str) -> Wrapped:
    """A family whose frames are merged in pairs."""
    family = wrapped(name)
    processor = LinVTProcessor(
        family.processor.base_processor, family.processor.num_video_tokens, frame_path="video"
    )  # fmt: skip
    family.model.config.frame_path = "video"
    return replace(family, processor=processor)


@pytest.fixture
def encoded_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames (steps of time) went through the vision tower, call by call."""
    counts, encode_frames = [], BaseBridge.encode_frames

    def counts_frames(self, base, inputs, num_frames, frames_per_chunk):
        encoded = encode_frames(self, base, inputs, num_frames, frames_per_chunk)
        assert len(encoded.tokens) == num_frames  # as many as were said
        counts.append(num_frames)
        return encoded

    monkeypatch.setattr(BaseBridge, "encode_frames", counts_frames)
    return counts


def check_alike(features: VideoFeatures, expected: VideoFeatures) -> None:
    for name, value in expected.refined.to_tensors().items():
        assert_close(features.refined.to_tensors()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    for layer, value in zip(features.deepstack, expected.deepstack, strict=True):
        assert_close(layer, value, atol=1e-5, rtol=1e-4)
    assert torch.equal(features.timestamps, expected.timestamps)


@pytest.mark.parametrize("name", ["qwen3_vl", "internvl", "molmo2", "llava_next"])
def test_skipping_changes_nothing_but_the_work(name: str, encoded_frames: list[int]):
    family, video = wrapped(name), repeating(wrapped(name))
    features = family.model.encode_video(video, family.processor)
    assert sum(encoded_frames) == features.num_encoded_frames == 4
    assert features.is_new.tolist() == [True, False, True, False, False, True, True]
    other = encoding_all(family)
    whole = other.model.encode_video(video, other.processor)
    assert sum(encoded_frames) == 4 + 7 and whole.is_new is None and whole.num_encoded_frames == 7
    check_alike(features, whole)
    del encoded_frames[:]
    logits, expected = (one.model(**one.inputs(user(video, QUESTION))).logits for one in (family, other))
    assert encoded_frames == [4, 7]
    assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_a_still_video_costs_one_frame(encoded_frames: list[int]):
    family = wrapped("internvl")
    tower, rows = family.base.base_model.vision_tower, []

    def counts_rows(_, given, named):
        rows.append(len(given[0] if given else named["pixel_values"]))

    tower.register_forward_pre_hook(counts_rows, with_kwargs=True)
    family.model.generate(**family.inputs(user(repeating(family, [0] * 40), QUESTION)), max_new_tokens=2)
    assert rows == encoded_frames == [1]


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, encoded_frames: list[int]):
    """Also where a piece has nothing new, and where the tokens go through a file."""
    family = wrapped("qwen3_vl")
    video = repeating(family, (0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2))
    whole = family.model.encode_video(video, family.processor, stream=False)
    monkeypatch.setattr(video_inputs, "CHUNK_BYTES", 1)  # a frame a piece
    monkeypatch.setattr(stream, "TOKENS_AT_ONCE", 0)
    features = family.model.encode_video(video, family.processor)
    assert sum(encoded_frames) == 2 * 3
    check_alike(features, whole)
    assert features.origin == whole.origin and torch.equal(features.is_new, whole.is_new)


def test_the_digest_says_which_frames_repeat():
    family = wrapped("qwen3_vl")
    one, other, none = (
        family.model.encode_video(repeating(family, shown), family.processor).origin.video
        for shown in ((0, 0, 1, 1), (0, 1, 1, 1), (0, 1, 2, 0))
    )
    assert len({one, other, none}) == 3
    whole = encoding_all(family)
    assert whole.model.encode_video(repeating(whole, (0, 1, 2, 0)), whole.processor).origin.video == none


@pytest.mark.parametrize("name", ["qwen2_vl", "glm4v"])
def test_pairs_repeat_as_pairs(name: str, encoded_frames: list[int], monkeypatch: pytest.MonkeyPatch):
    family = merging(name)
    video = repeating(family, (0, 1, 0, 1, 1, 0, 2, 2, 2))
    features = family.model.encode_video(video, family.processor)
    assert features.is_new.tolist() == [True, False, True, True, False]
    assert sum(encoded_frames) == 3
    other = encoding_all(family)
    check_alike(features, other.model.encode_video(video, other.processor))
    monkeypatch.setattr(video_inputs, "CHUNK_BYTES", 1)
    in_pieces = family.model.encode_video(video, family.processor)
    check_alike(in_pieces, features)
    assert in_pieces.origin == features.origin


def test_videos_of_a_batch_repeat_each_for_itself(encoded_frames: list[int]):
    """The last frame of one video is the first of the next, and is not taken from it."""
    family = wrapped("qwen3_vl")
    videos = [repeating(family, shown) for shown in ((0, 1, 1), (1, 2, 2, 2), (2, 0))]
    batch = family.inputs(*(user(video, QUESTION) for video in videos))
    assert batch["frame_is_new"].tolist() == [True, True, False, True, True, False, False, True, True]
    logits = family.model(**batch).logits[:, -1]
    assert encoded_frames == [2, 2, 2]
    other = encoding_all(family)
    alone = [other.model(**other.inputs(user(video, QUESTION))).logits[0, -1] for video in videos]
    assert_close(logits, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_a_video_without_repeats_has_the_inputs_it_always_had():
    family = wrapped("qwen3_vl")
    inputs, expected = (one.processor.video_inputs(family.clip(5)) for one in (family, encoding_all(family)))
    assert inputs.keys() == expected.keys() and "frame_is_new" not in inputs
    assert all(torch.equal(inputs[name], expected[name]) for name in inputs)


def test_similar_frames_are_skipped_where_levels_say_so(encoded_frames: list[int]):
    family = wrapped("qwen3_vl")
    video = repeating(family, (0, 0, 0, 0, 1, 1))
    frames = np.minimum(video.frames, 250) + np.array([0, 1, 0, 2, 1, 0], np.uint8)[:, None, None, None]
    video = replace(video, frames=frames)
    family.processor.skip_duplicate_frames = 2.0
    features = family.model.encode_video(video, family.processor)
    assert features.is_new.tolist() == [True, False, False, False, True, False] and sum(encoded_frames) == 2
    # what is shown in their place is the frame that stands for them, exactly
    other = encoding_all(family)
    stands = replace(video, frames=frames[[0, 0, 0, 0, 4, 4]])
    check_alike(features, other.model.encode_video(stands, other.processor))


def test_the_setting_is_kept_told_and_part_of_what_videos_are_found_by(tmp_path: Path):
    family = wrapped("internvl")
    digests = []
    for given in (True, False, 2.0, 3.0):
        family.processor.skip_duplicate_frames = given
        digests.append(digest_of_processor(family.processor))
    assert digests[0] == digests[1] and len(set(digests)) == 3
    family.processor.save_pretrained(tmp_path)
    assert LinVTProcessor.from_pretrained(tmp_path).skip_duplicate_frames == 3.0
    again = LinVTProcessor.from_pretrained(tmp_path, skip_duplicate_frames=False)
    assert again.skip_duplicate_frames is False and "skip_duplicate_frames=False" in repr(again)
    check_refused(
        lambda: LinVTProcessor.from_pretrained(tmp_path, skip_duplicate_frames="2"), LinVTInputError, "'2'", "levels"
    )


def test_a_file_of_features_says_which_frames_were_encoded(tmp_path: Path):
    family = wrapped("internvl")
    features = family.model.encode_video(repeating(family), family.processor)
    features.save(tmp_path / "clip.safetensors")
    loaded = VideoFeatures.load(tmp_path / "clip.safetensors")
    assert torch.equal(loaded.is_new, features.is_new) and loaded.num_encoded_frames == 4
    replace(features, is_new=features.is_new[:-1]).save(tmp_path / "bad.safetensors")
    check_refused(lambda: VideoFeatures.load(tmp_path / "bad.safetensors"), LinVTInputError, "is_new of shape (6,)")


def test_inputs_that_do_not_fit_are_refused():
    family = wrapped("qwen3_vl")
    inputs = family.processor.video_inputs(repeating(family))
    encode = family.model.encode_video
    first = torch.tensor([False, *inputs["frame_is_new"][1:].tolist()])
    for wrong, words in (
        (inputs["frame_is_new"][:-1], ("shape (6,)", "7 frames")),
        (torch.ones(7, dtype=torch.bool), ("do not fit 7 frames",)),
        (first, ("do not fit 3 frames",)),
    ):
        check_refused(lambda wrong=wrong: encode(**{**inputs, "frame_is_new": wrong}), LinVTInputError, *words)


def test_a_stream_encodes_what_is_pushed_again_once(encoded_frames: list[int]):
    family = wrapped("qwen3_vl")
    video = repeating(family, (0,) * 20 + (1,) * 5 + (0,))
    live = VideoStream(family.model, family.processor)
    for frame, seconds in zip(video.frames, video.timestamps, strict=True):
        live.push(frame, float(seconds))
    features = live.features()
    assert sum(encoded_frames) == 3
    check_alike(features, family.model.encode_video(video, family.processor))
