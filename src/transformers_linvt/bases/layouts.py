"""
How the picture inputs of a base lie along their first axis: which rows are a frame's, and where its tokens stand.

A [`FrameLayout`] belongs to a [`Family`] and holds no state. What is here serves several architectures; a layout that
only one has stands in its file of `kinds/`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from ..errors import LinVTInputError
from ..tokenizer.places import infer_grid_size
from .visuals import flat_rows


FRAME_PREFIX = "frame_"  # the base's picture inputs come twice: as they are for pictures, with this prefix for frames


@dataclass
class EncodedFrames:
    """
    Visual tokens of the frames of one video, as the language model would get them.

    Attributes:
        tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, D)`).
        deepstack (`list` of such tensors):
            Tokens that the base adds in deeper layers (Qwen3-VL), one entry per layer; empty for other families.
        grid_size (`tuple[int, int]`):
            Rows and columns of a frame's tokens: from the base where it says so, else the nearest square.
        container (`str`):
            `"tensor"`, `"list"` or `"tuple"`: how the base packs the tokens of several pictures.
    """

    tokens: torch.Tensor
    deepstack: list[torch.Tensor]
    grid_size: tuple[int, int]
    container: str


@dataclass(frozen=True)
class FrameLayout:
    """
    One row per frame in every input, made of a flat list of frames: the common layout.

    Args:
        grid_input: the input that says how many rows and columns of patches a picture has, as its last two numbers.
    """

    grid_input: str = "image_grid_thw"

    # Whether the base's processor splits a picture, and has to be asked by a frame how many tokens one has.
    splits_pictures: ClassVar[bool] = False

    @property
    def needed(self) -> tuple[str, ...]:
        """The inputs that frames cannot do without."""
        return ("pixel_values",)

    def names(self, names: frozenset[str]) -> frozenset[str]:
        """Those names of the image processor's outputs that frames are cut and encoded by."""
        return names | set(self.needed)

    # -- from the image processor --

    def nested(self, frames: list[np.ndarray]) -> list[Any]:
        """The frames of one video as the image processor takes them."""
        return frames

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """What the image processor made of frames of `height` x `width` pixels -> the form that is cut into frames."""
        return inputs

    def tokens_of_frame(self, processor: ProcessorMixin, inputs: Mapping[str, Any], token: str) -> int:
        """Tokens that the base's processor writes for the first of prepared frames."""
        return processor.replace_image_token(dict(inputs), image_idx=0).count(token)

    # -- cutting --

    def rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        """
        For every input, how many rows of its first axis belong to each frame.

        Raises:
            LinVTInputError: an input is missing, or its rows do not fit the frames.
        """
        if missing := [FRAME_PREFIX + name for name in self.needed if inputs.get(name) is None]:
            raise LinVTInputError(
                f"The frames of the video are incomplete: {', '.join(missing)} missing, got "
                f"{', '.join(FRAME_PREFIX + name for name in inputs) or 'none'}. Use the processor of this base, and "
                "pass everything it returned."
            )
        rows = self.count_rows(inputs, num_frames)
        for name, counts in rows.items():
            if len(counts) != num_frames or sum(counts) != len(inputs[name]):
                raise LinVTInputError(
                    f"{FRAME_PREFIX}{name} has {len(inputs[name])} rows, which do not fit {num_frames} frames. Pass "
                    "the frames through LinVTProcessor, and frames_per_video unchanged."
                )
        return rows

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        """As [`rows`], unchecked."""
        return {name: [1] * num_frames for name in inputs}

    def split(
        self, inputs: Mapping[str, torch.Tensor], frames_per_video: Sequence[int]
    ) -> list[dict[str, torch.Tensor]]:
        """Frames of several videos, one after the other in every tensor -> one dictionary per video."""
        rows = self.rows(inputs, sum(frames_per_video))
        videos, start = [], 0
        for num_frames in frames_per_video:
            videos.append(_cut(inputs, rows, start, start + num_frames))
            start += num_frames
        return videos

    def slice(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        """The inputs of frames `start` to `stop` of one video, as the image encoder takes them."""
        return _cut(inputs, rows, start, stop)

    # -- encoding --

    def as_pictures(self, base: PreTrainedModel, chunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A slice as the pictures that the encoder of this base takes."""
        return chunk

    def by_frame(self, base: PreTrainedModel, features: Any, num_frames: int) -> torch.Tensor:
        """
        Visual tokens of `num_frames` frames, however packed -> `(num_frames, tokens_per_frame, D)`.

        Raises:
            LinVTInputError: the encoder returned a number of tokens that does not divide among the frames.
        """
        rows = flat_rows(features)
        if len(rows) % num_frames:
            raise LinVTInputError(
                f"The base made {len(rows)} visual tokens of {num_frames} frames, which is no whole number per frame: "
                "the frames of one video must have one size and be one tile each. Pass them through LinVTProcessor."
            )
        return rows.reshape(num_frames, -1, rows.shape[-1])

    # -- places --

    def grid(self, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        """
        Rows and columns of a frame's tokens: from the grid of its patches, of which squares become one token.

        Families name the side of these squares in ways of their own, so it is read off the numbers. Where no grid
        fits, the nearest square, of whole rows: 13 tokens are 3 x 4, and one that has no place.
        """
        positions = inputs.get("image_position_ids")
        if positions is not None:  # (x, y) of every patch; -1 is padding (Gemma 4)
            width, height = (positions[0].amax(0) + 1).tolist()
        elif (grid := inputs.get(self.grid_input)) is not None:
            height, width = grid[0, -2:].tolist()
        else:
            height, width = infer_grid_size(num_tokens)
        merge = max(1, round(math.sqrt(height * width / num_tokens)))
        rows, columns = math.ceil(height / merge), math.ceil(width / merge)
        if rows * columns > num_tokens:
            rows, columns = infer_grid_size(num_tokens)
        return rows, num_tokens // rows if rows * columns != num_tokens else columns


def _cut(
    inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
) -> dict[str, torch.Tensor]:
    return {name: inputs[name][sum(counts[:start]) : sum(counts[:stop])] for name, counts in rows.items()}


@dataclass(frozen=True)
class FramePerSample(FrameLayout):
    """A row per frame, for image processors that put the pictures of one sample together: each frame is a sample."""

    def nested(self, frames: list[np.ndarray]) -> list[Any]:
        return [[frame] for frame in frames]


@dataclass(frozen=True)
class PatchGrid(FrameLayout):
    """
    A row per patch, and for every picture the numbers of its rows and columns of patches.

    Args:
        grid_input: their name.
        merges_frames: how a row of patches holds the frames that the base's own video path merges: by colour and then
            by frame, or by frame first. Families that have no such path, or one that is another tower or pooling,
            have nothing here.
    """

    merges_frames: Literal["colour_first", "frame_first"] | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        return ("pixel_values", self.grid_input)

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        rows = super().count_rows(inputs, num_frames)
        return {**rows, "pixel_values": inputs[self.grid_input].prod(-1).tolist()}

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """Numbers of patches alone (Inkling) become rows and columns of the frame's shape."""
        counts = inputs.get(self.grid_input)
        if counts is None or counts.dim() > 1:
            return inputs
        grids = [_factors(count, height / width) for count in counts.tolist()]
        return {**inputs, self.grid_input: torch.tensor(grids)}

    def merge_frames(self, inputs: Mapping[str, torch.Tensor], num_merged: int) -> dict[str, torch.Tensor]:
        """
        Patches of single frames -> patches of `num_merged` frames each, as the base's own video path has them.

        The image path of these families fills a patch with copies of its one frame; here every copy is another frame,
        and the vision tower sees one step of time instead of `num_merged` pictures. The last frame is repeated to fill
        its group, as the base's video processor does.

        Args:
            inputs: what the image processor made of the frames of one video.
            num_merged: frames in a patch (`temporal_patch_size`).

        Returns:
            The same inputs for `ceil(num_frames / num_merged)` steps of time.

        Raises:
            LinVTInputError: patches that do not hold copies of one frame.
        """
        pixels, grid = inputs["pixel_values"], inputs[self.grid_input]
        num_frames, is_frame_first = len(grid), self.merges_frames == "frame_first"
        inside = (num_merged, -1) if is_frame_first else (3, num_merged, pixels.shape[-1] // (3 * num_merged))
        copies = pixels.reshape(num_frames, int(grid[0].prod()), *inside)
        axis = 2 if is_frame_first else 3
        if not bool((copies == copies.select(axis, 0).unsqueeze(axis)).all()):
            raise LinVTInputError(
                "The image processor does not fill a patch with copies of one frame, so frames cannot be merged: use "
                "frame_path='image'."
            )
        frames = copies.select(axis, 0)
        frames = torch.cat([frames, frames[-1:].expand(-num_frames % num_merged, *frames.shape[1:])])
        steps = frames.unflatten(0, (-1, num_merged)).movedim(1, axis)
        return {**inputs, "pixel_values": steps.reshape(-1, pixels.shape[-1]), self.grid_input: grid[: len(steps)]}


def _factors(count: int, ratio: float) -> tuple[int, int]:
    """Rows and columns that make `count`, with rows / columns nearest to `ratio`."""
    pairs = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)))


@dataclass(frozen=True)
class PatchStrip(PatchGrid):
    """All patches side by side, as one strip of pixels `(1, channels, patch, columns)`, instead of one per row."""

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """The strip is laid down: one column of pixels per row."""
        inputs = super().prepare(inputs, num_frames, height, width)
        return {**inputs, "pixel_values": inputs["pixel_values"].movedim(-1, 0)}

    def count_rows(self, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
        """A patch is as many columns of pixels as it is high."""
        rows = super().count_rows(inputs, num_frames)
        patch_size = inputs["pixel_values"].shape[-1]
        return {**rows, "pixel_values": [patches * patch_size for patches in rows["pixel_values"]]}

    def slice(
        self, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
    ) -> dict[str, torch.Tensor]:
        chunk = super().slice(inputs, rows, start, stop)
        return {**chunk, "pixel_values": chunk["pixel_values"].movedim(0, -1)}


@dataclass(frozen=True)
class PictureTiles(FrameLayout):
    """
    A row per frame, which takes the place of a tile: for families that encode a picture as a whole and in tiles, two
    at least, by its size. They encode each of them alone, so what they make of a frame in any of these places is what
    they make of a picture as a whole.
    """

    splits_pictures = True

    @property
    def needed(self) -> tuple[str, ...]:
        return ("pixel_values", "image_sizes")

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """The frame as a whole, before its tiles."""
        return {**inputs, "pixel_values": inputs["pixel_values"][:, :1]}

    def tokens_of_frame(self, processor: Any, inputs: Mapping[str, Any], token: str) -> int:
        """Those of one tile; the processor would count a picture's other tiles as well."""
        pixels, rate = inputs["pixel_values"].shape[-1], getattr(processor, "downsample_rate", None)
        return tokens_along_tile(pixels, processor.patch_size, rate) ** 2

    def as_pictures(self, base: PreTrainedModel, chunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As few pictures as it takes, the last frame repeated to fill them."""
        (height, width), rows, columns = _smallest_tiling(base)
        frames, tiles = chunk["pixel_values"][:, 0], 1 + rows * columns
        missing = -len(frames) % tiles
        frames = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
        sizes = chunk["image_sizes"].new_tensor([[height, width]]).expand(len(frames) // tiles, 2)
        return {**chunk, "pixel_values": frames.unflatten(0, (-1, tiles)), "image_sizes": sizes}

    def by_frame(self, base: PreTrainedModel, features: Any, num_frames: int) -> torch.Tensor:
        """The tokens of the pictures of [`as_pictures`], without the repeated frames."""
        _, rows, columns = _smallest_tiling(base)
        vision = base.config.vision_config
        side = tokens_along_tile(vision.image_size, vision.patch_size, getattr(base.config, "downsample_rate", None))
        frames = []
        for picture in features:
            # the picture as a whole, then all tiles line by line, each line of the picture with a token at its end
            whole, lines = picture[: side * side], picture[side * side :]
            lines = lines.unflatten(0, (rows, side, columns * side + 1))[:, :, :-1]
            frames += [whole[None], lines.unflatten(2, (columns, side)).transpose(1, 2).flatten(2, 3).flatten(0, 1)]
        return torch.cat(frames)[:num_frames]


def tokens_along_tile(pixels: int, patch_size: int, downsample_rate: str | None) -> int:
    """Tokens along a side of a tile; `downsample_rate` is that of Granite 4 Vision, such as "1/2"."""
    return int(pixels // patch_size * Fraction(downsample_rate or 1))


def _smallest_tiling(base: PreTrainedModel) -> tuple[tuple[int, int], int, int]:
    """The size in pixels that the base splits into the fewest tiles, and their rows and columns."""
    height, width = min(base.config.image_grid_pinpoints, key=math.prod)
    side = base.config.vision_config.image_size
    return (height, width), height // side, width // side


__all__ = [
    "FRAME_PREFIX",
    "EncodedFrames",
    "FrameLayout",
    "FramePerSample",
    "PatchGrid",
    "PatchStrip",
    "PictureTiles",
    "tokens_along_tile",
]
