"""
Frames resized, scaled and laid into patches many at a time, as bytes: what image processors do one by one, in floats.

A base's own image processor is asked, once for a size of frames and its settings, what it makes of two test pictures.
Where plain resizing of the whole frame, scaling, and patches as Qwen2-VL lays them give the same, within 2 levels of
255, all further frames are made so; where not, every frame goes through the base's own.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import LinVTInputError


LEVELS = 2  # of 255, by which a pixel may differ from the base's own
LEAST_PIXELS = 128 * 128  # frames smaller than this cost next to nothing, and stay exactly the base's own

_MODES = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic", None: "bilinear"}
_PIXELS, _GRID = "pixel_values", "image_grid_thw"
_MOST_RECIPES = 64


@dataclass(frozen=True)
class Recipe:
    """
    How an image processor prepares frames of one size.

    Attributes:
        size (`tuple[int, int]`): height and width that a frame is resized to.
        mode (`str`): `"bilinear"` or `"bicubic"`.
        scale, shift (`torch.Tensor` of shape `(3,)`): a pixel becomes `pixel * scale - shift`.
        patch (`tuple[int, int, int]`, *optional*): side of a patch, patches along a side of those that become one
            token, and copies of a frame in a patch.
        shape (`tuple[int, ...]`): of the pixels of one frame.
        others (`dict`): what else belongs to a frame: the same for every one.
    """

    size: tuple[int, int]
    mode: str
    scale: torch.Tensor
    shift: torch.Tensor
    patch: tuple[int, int, int] | None
    shape: tuple[int, ...]
    others: Mapping[str, torch.Tensor]

    def prepare(self, frames: np.ndarray) -> dict[str, torch.Tensor]:
        """The outputs of the image processor for frames `(num_frames, height, width, 3)`, `uint8`."""
        resized, patch = self._resize(frames), self.patch
        if patch is None:
            pixels = self._scaled(resized, 1)
        else:
            pixels = self._scaled(_patches(resized, patch), 1).unsqueeze(2).expand(-1, -1, patch[2], -1, -1)
        others = {name: rows.repeat(len(frames), *[1] * (rows.ndim - 1)) for name, rows in self.others.items()}
        return {_PIXELS: pixels.reshape(len(frames) * self.shape[0], *self.shape[1:]), **others}

    def prepare_steps(self, frames: np.ndarray) -> dict[str, torch.Tensor]:
        """The same with every patch holding frames that follow each other, not copies; the last one fills up."""
        if self.patch is None:
            raise LinVTInputError("Pictures without patches have no steps of time. Use frame_path='image'.")
        copies = self.patch[2]
        patches = _patches(self._resize(frames), self.patch).unflatten(0, (len(frames), -1))
        patches = torch.cat([patches, patches[-1:].expand(-len(frames) % copies, *patches.shape[1:])])
        steps = patches.unflatten(0, (-1, copies))
        steps = steps.permute(0, 2, 3, 1, 4, 5)  # step, patch, colour, frame, y, x
        pixels = self._scaled(steps, 2)
        others = {name: rows.repeat(len(steps), *[1] * (rows.ndim - 1)) for name, rows in self.others.items()}
        return {_PIXELS: pixels.reshape(len(steps) * self.shape[0], *self.shape[1:]), **others}

    def _scaled(self, pixels: torch.Tensor, axis: int) -> torch.Tensor:
        """Bytes as the numbers that the model takes; the colours lie along `axis`."""
        shape = (3, *[1] * (pixels.ndim - 1 - axis))
        numbers = pixels.to(torch.float32, memory_format=torch.contiguous_format)  # in place from here: memory is slow
        return numbers.mul_(self.scale.view(shape)).sub_(self.shift.view(shape))

    def _resize(self, frames: np.ndarray) -> torch.Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        if pixels.shape[2:] == self.size:
            return pixels
        return F.interpolate(pixels, size=self.size, mode=self.mode, antialias=True)


def _patches(resized: torch.Tensor, patch: tuple[int, int, int]) -> torch.Tensor:
    """Pixels `(num_frames, 3, height, width)` -> patches `(total, 3, side, side)`, those of a token together."""
    side, merge, _ = patch
    blocks = resized.unflatten(3, (-1, merge, side)).unflatten(2, (-1, merge, side))
    return blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(0, 4)


class RecipeBook:
    """The recipes that were found, by image processor, settings and size of frames; safe for several threads."""

    def __init__(self) -> None:
        self._recipes: OrderedDict[str, Recipe | None] = OrderedDict()
        self._lock = threading.Lock()

    def find(
        self, image_processor: Any, settings: Mapping[str, Any], shape: Sequence[int], own: Callable[[list], Any]
    ) -> Recipe | None:
        """
        How frames of a shape are prepared; None where they have to go through the image processor.

        Args:
            image_processor: of the base.
            settings: what it is called with.
            shape: of a frame, `(height, width, 3)`.
            own: what it makes of a list of frames.
        """
        if not type(image_processor).__module__.startswith("transformers.") or shape[0] * shape[1] < LEAST_PIXELS:
            return None
        key = f"{type(image_processor)} {image_processor.to_dict()} {settings} {tuple(shape)}"
        with self._lock:
            if key in self._recipes:
                self._recipes.move_to_end(key)
                return self._recipes[key]
        recipe = find_recipe(image_processor, settings, shape, own)
        with self._lock:
            self._recipes[key] = recipe
            while len(self._recipes) > _MOST_RECIPES:
                self._recipes.popitem(last=False)
        return recipe


def find_recipe(
    image_processor: Any, settings: Mapping[str, Any], shape: Sequence[int], own: Callable[[list], Any]
) -> Recipe | None:
    """As [`RecipeBook.find`], without a memory: runs the image processor on two test pictures."""

    def setting(name: str) -> Any:
        return settings[name] if settings.get(name) is not None else getattr(image_processor, name, None)

    pictures = [_picture(shape, seed) for seed in (0, 1)]
    made = dict(own(pictures))
    pixels, others = made.pop(_PIXELS, None), _of_one_frame(made)
    resample = setting("resample")
    mode = _MODES.get(getattr(resample, "value", resample))
    if not isinstance(pixels, torch.Tensor) or pixels.dtype != torch.float32 or len(pixels) % 2:
        return None
    if mode is None or others is None or pixels.ndim < 2:
        return None
    factor = float(setting("rescale_factor") or 1.0) if setting("do_rescale") else 1.0
    mean, std = (setting("image_mean"), setting("image_std")) if setting("do_normalize") else (0.0, 1.0)
    mean, std = (torch.as_tensor(one, dtype=torch.float32).expand(3) for one in (mean, std))
    patch, (height, width) = None, pixels.shape[-2:]
    if pixels.ndim == 2:
        sides = [setting(name) for name in ("patch_size", "merge_size", "temporal_patch_size")]
        if _GRID not in others or not all(isinstance(side, int) for side in sides):
            return None
        side, merge, copies = patch = (sides[0], sides[1], sides[2])
        height, width = (int(count) * side for count in others[_GRID][0, -2:])
        if pixels.shape != (2 * height * width // side**2, 3 * copies * side**2):
            return None
        if height % (side * merge) or width % (side * merge):
            return None
    elif pixels.ndim < 4 or pixels.shape[-3] != 3 or pixels.numel() != 2 * 3 * height * width:
        return None
    scale, shape_of_one = factor / std, (len(pixels) // 2, *pixels.shape[1:])
    recipe = Recipe((height, width), mode, scale, mean / std, patch, shape_of_one, others)
    ours = recipe.prepare(np.stack(pictures))
    allowed = LEVELS * float(scale.max()) * (1 + 1e-3)
    return recipe if float((ours[_PIXELS] - pixels).abs().max()) <= allowed else None


def _picture(shape: Sequence[int], seed: int) -> np.ndarray:
    """A picture in which every place and colour is another: patches of noise, and finer noise over them."""
    rng = np.random.default_rng(seed)
    height, width, colours = shape
    coarse = rng.integers(0, 192, (-(-height // 8), -(-width // 8), colours), dtype=np.uint8)
    coarse = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return coarse + rng.integers(0, 64, (height, width, colours), dtype=np.uint8)


def _of_one_frame(made: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """The rows of one of two frames in every output; None where they are not the same for both."""
    others = {}
    for name, value in made.items():
        if not isinstance(value, torch.Tensor) or value.ndim < 1 or len(value) % 2:
            return None
        first, second = value.chunk(2)
        if not torch.equal(first, second):
            return None
        others[name] = first.clone()
    return others


__all__ = ["Recipe", "RecipeBook", "find_recipe"]
