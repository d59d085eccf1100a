"""What the arguments of the tokenizer have to be, with the sentence that says so."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import LinVTInputError
from .places import infer_grid_size
from .selection import RefinedVideo


CHOICES = {
    "scale_mode": ("single", "shared", "specific"),
    "selection": ("learned", "novelty", "uniform", "none"),
    "aggregation": ("linear", "nonlinear"),
    "init": ("keyframes", "anchored", "free"),
}


def check_integers(minimum: int, **values: int) -> None:
    """Refuse anything but integers of at least `minimum`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise LinVTInputError(f"{name} must be an integer of at least {minimum}, got {value!r}.")


def check_choices(**values: str) -> None:
    """Refuse values that are not among `CHOICES`."""
    for name, value in values.items():
        if value not in CHOICES[name]:
            raise LinVTInputError(f"{name} must be one of {', '.join(map(repr, CHOICES[name]))}, got {value!r}.")


def check_flags(**values: bool) -> None:
    """Refuse anything but True and False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise LinVTInputError(f"{name} must be True or False, got {value!r}.")


def check_scales(pooling_scales: Sequence[int], scale_mode: str, num_video_tokens: int) -> tuple[int, ...]:
    """The scales in use: the first for `scale_mode="single"`, else all; distinct, and with a query for each."""
    if not isinstance(pooling_scales, Sequence) or isinstance(pooling_scales, str) or not pooling_scales:
        raise LinVTInputError(
            f"pooling_scales must be a list of window sizes such as (1, 2, 4), got {pooling_scales!r}."
        )
    for position, scale in enumerate(pooling_scales):
        check_integers(minimum=1, **{f"pooling_scales[{position}]": scale})
    if len(set(pooling_scales)) < len(pooling_scales):
        raise LinVTInputError(
            f"pooling_scales must differ from each other, got {tuple(pooling_scales)}. Drop the copies."
        )
    scales = tuple(pooling_scales[:1] if scale_mode == "single" else pooling_scales)
    if scale_mode == "specific" and num_video_tokens < len(scales):
        raise LinVTInputError(
            f"num_video_tokens={num_video_tokens} leaves some of the {len(scales)} pooling scales without a query, "
            f'which scale_mode="specific" needs. Use at least {len(scales)} video tokens, fewer scales or '
            'scale_mode="shared".'
        )
    return scales


def bottleneck_width(dim: int, bottleneck_size: int, num_heads: int) -> int:
    """`bottleneck_size`, at most `dim`, rounded down to a multiple of `num_heads`."""
    width = min(dim, bottleneck_size) // num_heads * num_heads
    if width == 0:
        raise LinVTInputError(
            f"num_heads={num_heads} heads do not fit into a width of {min(dim, bottleneck_size)} "
            f"(dim={dim}, bottleneck_size={bottleneck_size}). Use at most {min(dim, bottleneck_size)} heads."
        )
    return width


def check_frame_tokens(frame_tokens: torch.Tensor, dim: int) -> None:
    """Refuse anything but floating `(batch, num_frames, tokens_per_frame, dim)` with at least one token."""
    shape = tuple(frame_tokens.shape)
    if len(shape) != 4 or shape[-1] != dim or 0 in shape or not frame_tokens.is_floating_point():
        raise LinVTInputError(
            f"frame_tokens must be floating-point of shape (batch, num_frames, tokens_per_frame, {dim}) with nothing "
            f"empty, got {shape} of {frame_tokens.dtype}."
        )


def check_frame_mask(frame_mask: torch.Tensor | None, frame_tokens: torch.Tensor) -> torch.Tensor | None:
    """The mask as bool; every video must have at least one token."""
    if frame_mask is None:
        return None
    if frame_mask.shape != frame_tokens.shape[:3]:
        raise LinVTInputError(
            f"frame_mask must have one entry per frame token, shape {tuple(frame_tokens.shape[:3])}, got "
            f"{tuple(frame_mask.shape)}."
        )
    frame_mask = frame_mask.to(device=frame_tokens.device, dtype=torch.bool)
    empty = (~frame_mask.flatten(1).any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise LinVTInputError(f"frame_mask hides every token of video {empty[0]} of the batch. Leave that video out.")
    return frame_mask


def check_timestamps(timestamps: torch.Tensor | None, mask: torch.Tensor) -> None:
    """Refuse timestamps of another shape, or not finite for a frame that exists."""
    if timestamps is None:
        return
    if timestamps.shape != mask.shape[:2]:
        raise LinVTInputError(
            f"timestamps must have one entry per frame, shape {tuple(mask.shape[:2])}, got {tuple(timestamps.shape)}."
        )
    if not bool((timestamps.isfinite() | ~mask.any(dim=2)).all()):
        raise LinVTInputError("timestamps must be finite seconds, got NaN or infinity. Leave them out if unknown.")


def check_grid_sizes(
    grid_sizes: Sequence[tuple[int, int]] | None, mask: torch.Tensor | None, batch: int, tokens_per_frame: int
) -> list[tuple[int, int]]:
    """Rows and columns of each video; inferred from the number of places that are ever used if not given."""
    if grid_sizes is None:
        if mask is None:
            return [infer_grid_size(tokens_per_frame)] * batch
        places = torch.arange(1, tokens_per_frame + 1, device=mask.device)
        return [infer_grid_size(count) for count in (mask.any(dim=1) * places).amax(dim=1).tolist()]
    grids: list[Any] = [tuple(int(size) for size in grid) for grid in grid_sizes]
    if len(grids) != batch:
        raise LinVTInputError(f"grid_sizes must name a grid for each of the {batch} videos, got {len(grids)}.")
    for grid in grids:
        # the last row may be short, as `infer_grid_size` makes it
        if len(grid) != 2 or min(grid) < 1 or (grid[0] - 1) * grid[1] >= tokens_per_frame:
            raise LinVTInputError(
                "A grid is (rows, columns), both at least 1 and with one of the "
                f"{tokens_per_frame} tokens of a frame in every row, got {grid}."
            )
    return grids


def check_refined(refined: RefinedVideo, dim: int, bottleneck_size: int) -> None:
    """Refuse a refined video of a tokenizer of other widths."""
    given = (refined.kept_tokens.shape[-1], refined.kept_features.shape[-1])
    if given != (dim, bottleneck_size):
        raise LinVTInputError(
            f"This video was refined by another model: its tokens and states are {given[0]} and {given[1]} wide, this "
            f"tokenizer's {dim} and {bottleneck_size}. Encode the video with the model that answers."
        )


def check_question(
    question_embeds: torch.Tensor | None, question_mask: torch.Tensor | None, batch: int, dim: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The question and its mask as bool; an empty question counts as no question."""
    if question_embeds is None:
        return None, None
    shape = tuple(question_embeds.shape)
    if len(shape) != 3 or shape[0] != batch or shape[-1] != dim:
        raise LinVTInputError(
            f"question_embeds must be of shape ({batch}, num_text_tokens, {dim}), one row per video, got {shape}."
        )
    if question_mask is not None and question_mask.shape != question_embeds.shape[:2]:
        raise LinVTInputError(
            f"question_mask must have one entry per question token, shape {shape[:2]}, got "
            f"{tuple(question_mask.shape)}."
        )
    if shape[1] == 0:
        return None, None
    if question_mask is not None:
        question_mask = question_mask.to(device=question_embeds.device, dtype=torch.bool)
    return question_embeds, question_mask
