"""Frames that are prepared many at a time are the base's own within 2 levels of 255, or go through the base's own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    SmolVLMImageProcessorPil,
)

from promises import wrapped
from transformers_linvt import LinVTProcessor
from transformers_linvt.bases import frame_pixels
from transformers_linvt.bases.frame_pixels import LEVELS, RecipeBook, find_recipe


HEIGHT, WIDTH = 134, 240


def natural(num_frames: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Slopes, edges and grain, each frame another: unlike the pictures that a recipe is tested with."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:height, :width]
    frames = []
    for number in range(num_frames):
        slope = (y * 0.8 + x * 0.4 + 20 * number) % 256
        edge = np.where((x // 17 + y // 23 + number) % 2 == 0, 60, 0)
        grain = rng.normal(0, 6, (height, width, 3))
        colours = np.stack([slope, 255 - slope, (slope * 2) % 256], axis=-1)
        frames.append(np.clip(colours + edge[..., None] + grain, 0, 255).astype(np.uint8))
    return np.stack(frames)


def own_of(image_processor: Any, settings: Mapping[str, Any]) -> Any:
    call = {"return_tensors": "pt", "input_data_format": "channels_last", **settings}
    return lambda frames: dict(image_processor(list(frames), **call))


def levels_apart(ours: torch.Tensor, theirs: torch.Tensor, image_processor: Any) -> float:
    """In levels of 255 of the channel with the largest factor."""
    factor = image_processor.rescale_factor / min(image_processor.image_std)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float((ours - theirs).abs().max()) / factor


@pytest.mark.parametrize(
    ("image_processor", "settings"),
    [
        (SiglipImageProcessorPil(), {}),
        (SiglipImageProcessorPil(size={"height": 150, "width": 300}, resample=2), {}),
        (GotOcr2ImageProcessorPil(size={"height": 112, "width": 112}), {"crop_to_patches": False}),
        (SiglipImageProcessorPil(do_normalize=False), {}),
        (Qwen2VLImageProcessorPil(), {}),
        (
            Qwen2VLImageProcessorPil(patch_size=16, merge_size=1),
            {"size": {"shortest_edge": 256, "longest_edge": 9000}},
        ),
        (CLIPImageProcessorPil(size={"height": 90, "width": 70}, do_center_crop=False), {}),
    ],
    ids=["siglip", "enlarged bilinear", "internvl", "not normalised", "qwen", "qwen without merging", "clip"],
)
def test_plain_processors_are_followed_within_two_levels(image_processor: Any, settings: dict[str, Any]):
    own = own_of(image_processor, settings)
    recipe = find_recipe(image_processor, settings, (HEIGHT, WIDTH, 3), own)
    assert recipe is not None
    frames = natural(3)
    ours, theirs = recipe.prepare(frames), own(frames)
    assert ours.keys() == theirs.keys()
    if not image_processor.do_normalize:
        image_processor = SiglipImageProcessorPil(image_std=[1.0] * 3)
    apart = levels_apart(ours.pop("pixel_values"), theirs.pop("pixel_values"), image_processor)
    assert 0 < apart <= LEVELS * 1.001
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


class Mirrors(SiglipImageProcessorPil):
    __module__ = "transformers.models.mirrors"  # as if transformers had it

    def _preprocess(self, images: list, **kwargs: Any) -> Any:
        return super()._preprocess([image[:, :, ::-1] for image in images], **kwargs)


class Swaps(Qwen2VLImageProcessorPil):
    __module__ = "transformers.models.swaps"

    def patchify(self, image: np.ndarray, *args: Any, **kwargs: Any) -> Any:
        patches, rows, columns = super().patchify(image, *args, **kwargs)
        return patches[::-1], rows, columns


@pytest.mark.parametrize(
    "image_processor",
    [
        Mirrors(),
        Swaps(),
        CLIPImageProcessorPil(),  # cuts the middle out
        SmolVLMImageProcessorPil(do_image_splitting=False),  # enlarges first
        SiglipImageProcessorPil(resample=1),  # Lanczos
        SiglipImageProcessorPil(do_rescale=False, do_normalize=False),  # stays bytes
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_not_plain_goes_through_the_processor_itself(image_processor: Any):
    nested = isinstance(image_processor, SmolVLMImageProcessorPil)
    call = own_of(image_processor, {})
    own = (lambda frames: call([[frame] for frame in frames])) if nested else call
    assert find_recipe(image_processor, {}, (HEIGHT, WIDTH, 3), own) is None


def test_a_processor_that_nobody_knows_and_a_small_frame_are_not_followed():
    class Own(SiglipImageProcessorPil):
        pass

    book, calls = RecipeBook(), []
    for image_processor, shape in ((Own(), (HEIGHT, WIDTH, 3)), (SiglipImageProcessorPil(), (100, 100, 3))):
        assert book.find(image_processor, {}, shape, calls.append) is None
    assert calls == []


def test_a_recipe_is_tried_once_for_a_size_and_its_settings():
    image_processor, calls = SiglipImageProcessorPil(), []
    own = own_of(image_processor, {})

    def counted(frames: list) -> Any:
        calls.append(1)
        return own(frames)

    book = RecipeBook()
    first = book.find(image_processor, {}, (HEIGHT, WIDTH, 3), counted)
    assert book.find(image_processor, {}, (HEIGHT, WIDTH, 3), counted) is first and len(calls) == 1
    book.find(image_processor, {}, (HEIGHT, WIDTH + 1, 3), counted)
    image_processor.image_mean = [0.1, 0.2, 0.3]
    assert not torch.equal(book.find(image_processor, {}, (HEIGHT, WIDTH, 3), counted).shift, first.shift)
    assert len(calls) == 3


@pytest.mark.parametrize("frame_path", ["image", "video"])
def test_frames_of_a_base_are_prepared_so_in_its_processor(frame_path: str, monkeypatch: pytest.MonkeyPatch):
    base = wrapped("qwen2_vl").processor.base_processor
    processor = LinVTProcessor(base, 16, frame_path=frame_path)
    frames = natural(5)
    monkeypatch.setattr("transformers_linvt.bases.base._RECIPES", RecipeBook())
    ours = processor.video_inputs(frames, timestamps=np.arange(5.0))
    monkeypatch.setattr(frame_pixels, "LEAST_PIXELS", 1 << 30)
    theirs = processor.video_inputs(frames, timestamps=np.arange(5.0))
    assert ours.keys() == theirs.keys()
    apart = levels_apart(ours.pop("frame_pixel_values"), theirs.pop("frame_pixel_values"), base.image_processor)
    assert 0 < apart <= LEVELS * 1.001
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
