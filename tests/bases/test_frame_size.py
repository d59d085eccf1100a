"""Large frames are made small enough: by default as the base's own video processor caps them, else as asked."""

import math
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from promises import check_refused
from tiny_bases import build_processor
from transformers_linvt import LinVTInputError, LinVTProcessor
from transformers_linvt.bases.families import FAMILIES
from transformers_linvt.bases.frame_size import FrameBudget, size_within


def processor_of(name: str, **settings) -> LinVTProcessor:
    base = build_processor(name)
    base.image_processor.size = {"shortest_edge": 4 * side_of(base) ** 2, "longest_edge": 2_000 * side_of(base) ** 2}
    return LinVTProcessor(base, num_video_tokens=5, **{"frame_path": "image", **settings})


def side_of(base) -> int:
    return base.image_processor.patch_size * base.image_processor.merge_size


def tokens_of(processor: LinVTProcessor, tokens_high: int, tokens_wide: int, num_frames: int, **options) -> int:
    """Visual tokens that one of several frames (or steps) of `tokens_high` x `tokens_wide` tokens gets."""
    side = side_of(processor.base_processor)
    frames = np.zeros((num_frames, tokens_high * side, tokens_wide * side, 3), dtype=np.uint8)
    frames += np.arange(num_frames, dtype=np.uint8)[:, None, None, None]  # what repeats is not prepared again
    grids = processor.frame_inputs([processor.read_video(frames, timestamps=list(range(num_frames)))], options)
    grid = grids["frame_image_grid_thw"]
    assert len(grid) == math.ceil(num_frames / processor.frames_per_step)
    return int(grid[0, 1:].prod()) // processor.image_processor.merge_size**2


def resized(tokens_high: int, tokens_wide: int, most: int) -> int:
    """Tokens after the shrinking of Qwen2-VL: both sides by the same factor, rounded down to whole tokens."""
    factor = math.sqrt(tokens_high * tokens_wide / most)
    return math.floor(tokens_high / factor) * math.floor(tokens_wide / factor)


@pytest.mark.parametrize("frame_path", ["image", "video"])
@pytest.mark.parametrize(("frames", "most"), [(1, 768), (3, 768)])
def test_a_large_frame_has_no_more_tokens_than_in_the_bases_own_video_path(frames: int, most: int, frame_path: str):
    processor = processor_of("qwen2_vl", frame_path=frame_path)
    assert tokens_of(processor, 25, 45, frames) == resized(25, 45, most) <= most < 25 * 45
    assert tokens_of(processor, 13, 23, frames) == 13 * 23  # what fits stays as it is


@pytest.mark.parametrize("name", ["smolvlm", "idefics3"])
@pytest.mark.parametrize("size", [(20, 64), (60, 45), (300, 200)])
def test_a_frame_is_made_a_square_without_being_enlarged_for_tiles_first(name: str, size: tuple[int, int]):
    """As SmolVLM's own video path does it: to the width of the square, then to the square."""
    base = build_processor(name)
    side, tiles = base.image_processor.max_image_size["longest_edge"], base.image_processor.size["longest_edge"]
    assert tiles > side
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    processor = LinVTProcessor(base, num_video_tokens=5)
    made = processor.video_inputs(frames, timestamps=[0.0, 1.0])["frame_pixel_values"]
    by_hand = [as_its_video_path(base.image_processor, frame, side) for frame in frames]
    theirs = np.stack(by_hand).reshape(made.shape)
    levels = 255 * base.image_processor.image_std[0]
    assert float(np.abs(made.numpy() - theirs).max()) * levels <= 2
    video = processor.read_video(frames, timestamps=[0.0, 1.0])
    enlarged = processor.frame_inputs([video], {"size": {"longest_edge": tiles}})["frame_pixel_values"]
    assert float((enlarged - made).abs().max()) * levels > 2  # what was made of them before


def as_its_video_path(image_processor: Any, frame: np.ndarray, side: int) -> np.ndarray:
    """In two steps of PIL: the longest edge to the side of the square, the other in proportion; then the square."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    between = [int(round_even(edge, longest, side)) for edge in (width, height)]
    picture = PIL.Image.fromarray(frame).resize(between, image_processor.resample)
    pixels = np.asarray(picture.resize((side, side), image_processor.resample), dtype=np.float32) / 255
    return ((pixels - image_processor.image_mean) / image_processor.image_std).transpose(2, 0, 1)


def round_even(edge: int, longest: int, side: int) -> int:
    """The shorter edge in proportion, cut to a whole number, and an even one (SmolVLM and Idefics3)."""
    scaled = side if edge == longest else int(edge * side / longest)
    return scaled + scaled % 2 if edge != longest else scaled


@pytest.mark.bases
def test_a_frame_of_smolvlm_is_that_of_its_own_video_path():
    base = build_processor("smolvlm")
    frames = np.random.default_rng(0).integers(0, 256, (3, 90, 160, 3), dtype=np.uint8)
    made = LinVTProcessor(base, num_video_tokens=5).video_inputs(frames, timestamps=[0.0, 1.0, 2.0])
    side = {"longest_edge": base.image_processor.max_image_size["longest_edge"]}
    video = torch.from_numpy(frames).movedim(-1, 1)
    own = base.video_processor([video], size=side, do_sample_frames=False, return_tensors="pt")["pixel_values"]
    levels = 255 * base.image_processor.image_std[0]
    difference = (made["frame_pixel_values"].reshape(own[0].shape) - own[0]).abs() * levels
    assert float(difference.max()) <= 2


def test_many_frames_share_what_all_may_have_together():
    budget, base = FAMILIES["qwen2_vl"].frame_budget, build_processor("qwen2_vl")
    base.image_processor.size = {"shortest_edge": 4 * side_of(base) ** 2, "longest_edge": 2_000 * side_of(base) ** 2}
    for num_frames, tokens in ((1, 768), (300, 768), (301, 765), (1_024, 225)):
        size = size_within(base, budget, num_frames)["size"]
        assert size == {"shortest_edge": 4 * side_of(base) ** 2, "longest_edge": tokens * side_of(base) ** 2}


def test_limits_that_are_given_hold_for_one_frame_and_for_all():
    assert tokens_of(processor_of("qwen2_vl", max_frame_tokens=30), 9, 13, 2) == resized(9, 13, 30)
    assert tokens_of(processor_of("qwen2_vl", max_total_frame_tokens=30), 9, 13, 2) == resized(9, 13, 15)
    both = processor_of("qwen2_vl", max_frame_tokens=10, max_total_frame_tokens=30)
    assert tokens_of(both, 9, 13, 2) == resized(9, 13, 10)
    assert tokens_of(processor_of("qwen2_vl", max_frame_tokens=1_500), 25, 45, 1) == 25 * 45


@pytest.mark.parametrize(("frames", "of_a_step"), [(1, 30), (2, 30), (3, 15), (4, 15), (5, 10)])
def test_what_all_frames_may_have_is_counted_in_steps_where_frames_are_merged(frames: int, of_a_step: int):
    processor = processor_of("qwen2_vl", max_total_frame_tokens=30, frame_path="video")
    assert tokens_of(processor, 9, 13, frames) == resized(9, 13, of_a_step)


def test_a_frame_is_not_made_smaller_than_the_least_picture():
    processor = processor_of("qwen2_vl", max_total_frame_tokens=6)
    assert tokens_of(processor, 8, 8, 4) == 4  # 6 / 4 is one token, and the least picture has four


def test_a_size_in_the_call_comes_before_the_limits():
    processor = processor_of("qwen2_vl", max_frame_tokens=10)
    side = side_of(processor.base_processor)
    size = {"shortest_edge": side**2, "longest_edge": 80 * side**2}
    assert tokens_of(processor, 9, 13, 2, size=size) == resized(9, 13, 80)


def test_copies_of_a_frame_in_a_patch_are_no_tokens_of_their_own():
    """GLM-4V's size counts the pixels of both copies."""
    base = build_processor("glm4v")
    base.image_processor.size = {"shortest_edge": 1, "longest_edge": 10**9}
    budget = FrameBudget(per_frame=20, counts_time=True)
    assert size_within(base, budget, 3)["size"]["longest_edge"] == 20 * side_of(base) ** 2 * 2
    processor = LinVTProcessor(base, num_video_tokens=5, max_frame_tokens=20, frame_path="image")
    assert 12 <= tokens_of(processor, 9, 13, 2) <= 20


def test_limits_are_saved_and_loaded(tmp_path):
    processor_of("qwen2_vl", max_frame_tokens=30, max_total_frame_tokens=70).save_pretrained(tmp_path)
    again = LinVTProcessor.from_pretrained(tmp_path)
    assert (again.max_frame_tokens, again.max_total_frame_tokens) == (30, 70)
    assert tokens_of(again, 9, 13, 2) == resized(9, 13, 30)


@pytest.mark.parametrize("name", ["max_frame_tokens", "max_total_frame_tokens"])
def test_a_limit_without_effect_or_sense_is_refused(name: str):
    for value in (0, -3, 2.5, True, "7"):
        check_refused(
            lambda value=value: processor_of("qwen2_vl", **{name: value}), LinVTInputError, name, repr(value)
        )
    base = build_processor("llava_phi")
    check_refused(
        lambda: LinVTProcessor(base, num_video_tokens=5, **{name: 9}), LinVTInputError, f"{name}=9", "no effect"
    )
