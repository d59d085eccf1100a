"""Where video tokens stand for a base: counted in the text, or in time, rows and columns as its pictures are."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import LinVTInputError
from .cache import CACHE_NAME
from .families import Family


def has_grid_positions(base: PreTrainedModel) -> bool:
    """
    Whether the base counts the positions of pictures in time, row and column (multimodal rotary positions).

    Those that count a fourth axis beside them (HunYuan-VL) do not.
    """
    text = getattr(base.config, "get_text_config", lambda: base.config)()
    sections = (getattr(text, "rope_parameters", None) or {}).get("mrope_section", (1, 1, 1))
    return callable(getattr(base.base_model, "get_rope_index", None)) and len(sections) == 3


def check_grid_positions(base: PreTrainedModel) -> None:
    """Refuse a base that has no place for `video_positions="grid"`."""
    if not has_grid_positions(base):
        raise LinVTInputError(
            "video_positions='grid' lays video tokens out in time, row and column, and the base "
            f"({base.config.model_type}) counts places in the text only. Use video_positions='text'. Qwen2-VL to "
            "Qwen3.5, GLM-4V, PaddleOCR-VL and ERNIE 4.5 VL take both."
        )


def lay_out_positions(
    base: PreTrainedModel,
    input_ids: torch.Tensor,
    video_mask: torch.Tensor,
    cells: torch.Tensor,
    inputs: Mapping[str, Any],
) -> torch.Tensor:
    """
    Positions of a prompt whose video tokens stand in time, row and column; what follows goes on behind them.

    The base is told where the next token stands (`rope_deltas`), so that it can go on from its cache.

    Args:
        base: a base of which `has_grid_positions` is true.
        input_ids (`torch.LongTensor` of shape `(batch, length)`).
        video_mask (`torch.Tensor` of shape `(batch, length)`): True at video tokens.
        cells (`torch.Tensor` of shape `(num_videos, num_video_tokens, 3)`): time, row and column of the tokens of
            every video, one after the other as they stand in the rows, integers.
        inputs: the base's other inputs; `attention_mask`, and type ids and grid of pictures where there are any.

    Returns:
        `torch.LongTensor` of shape `(4, batch, length)`: places in the text, and time, rows, columns.
    """
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask.to(input_ids.device)
    in_text = (mask.long().cumsum(-1) - 1).clamp(min=0)
    positions = _positions_of_pictures(base, input_ids, {**inputs, "attention_mask": mask})
    positions = in_text.expand(3, -1, -1).clone() if positions is None else positions.to(input_ids.device)
    num_tokens, of_videos = cells.shape[1], iter(cells.to(input_ids.device))
    for row, is_video in enumerate(video_mask.bool()):
        for start in is_video.nonzero().flatten()[::num_tokens].tolist():  # two videos side by side are two
            stop, first, offsets = start + num_tokens, positions[:, row, start].clone(), next(of_videos).T
            positions[:, row, stop:] += int(offsets.max()) + 1 - int(mask[row, start:stop].sum())
            positions[:, row, start:stop] = first[:, None] + offsets
    positions = positions.masked_fill(mask == 0, 0)
    base.base_model.rope_deltas = (positions.amax((0, 2)) + 1 - mask.sum(1)).unsqueeze(1)
    return torch.cat([in_text.unsqueeze(0), positions])


def _positions_of_pictures(
    base: PreTrainedModel, input_ids: torch.Tensor, inputs: Mapping[str, Any]
) -> torch.Tensor | None:
    """`(3, batch, length)` as the base counts them, with videos as text; None without a picture."""
    if inputs.get("image_grid_thw") is None:
        return None
    count: Any = base.base_model.get_rope_index
    accepted = inspect.signature(count).parameters
    return count(input_ids=input_ids, **{name: value for name, value in inputs.items() if name in accepted})[0]


def grids_with_videos(
    base: PreTrainedModel, is_video: torch.Tensor, used: torch.Tensor, picture_grids: torch.Tensor | None
) -> torch.Tensor:
    """
    Patch grids of pictures and videos in placeholder order; a video is a strip that is one token high.

    Args:
        base: the base model.
        is_video (`torch.Tensor` of shape `(num_placeholders,)`): whether a placeholder is a video's or a picture's.
        used (`torch.Tensor` of shape `(num_videos, num_video_tokens)`): True at the tokens of each video that the
            base sees: what its attention mask leaves out, it does not count.
        picture_grids (`torch.Tensor` of shape `(num_pictures, 3)`, *optional*): of the pictures alone.
    """
    merge = base.config.vision_config.spatial_merge_size
    strips = iter([[1, merge, merge * length] for length in used.sum(1).tolist()])
    pictures = iter([] if picture_grids is None else picture_grids.tolist())
    kinds, grids, place = is_video.tolist(), [], 0
    while place < len(kinds):
        grids.append(next(strips) if kinds[place] else next(pictures))
        place += used.shape[1] if kinds[place] else math.prod(grids[-1]) // merge**2
    return torch.tensor(grids, device=is_video.device)


def forget_positions(base: Any) -> None:
    """
    Drop the position offset that a family with multimodal rotary positions keeps from an earlier picture.

    Without a picture grid these families do not recompute it, and the next cached step would use the stale one.
    """
    if getattr(base.base_model, "rope_deltas", None) is not None:
        base.base_model.rope_deltas = None


def pass_over(
    input_ids: torch.Tensor, video_mask: torch.Tensor, used: torch.Tensor, attention_mask: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """
    The `attention_mask` with which a base does not see the video tokens that are not used; nothing where all are.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`).
        video_mask (`torch.Tensor` of shape `(batch, length)`): True at video tokens.
        used (`torch.Tensor` of shape `(num_videos, num_video_tokens)`): True at those that are used, of every video,
            one after the other as they stand in the rows.
        attention_mask (`torch.Tensor` of shape `(batch, at least length)`, *optional*): the one that was given; it may
            begin with what stands in a cache already.
    """
    if bool(used.all()):
        return {}
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.clone()
    mask[:, -input_ids.shape[1] :].masked_scatter_(video_mask.to(mask.device), used.to(mask))
    return {"attention_mask": mask}


def go_on_from(
    base: PreTrainedModel,
    input_ids: torch.Tensor,
    seen: torch.Tensor,
    inputs: Mapping[str, Any],
    takes_positions: bool,
) -> dict[str, torch.Tensor]:
    """
    What keeps a base from seeing, in a later step, the video tokens in its cache that were passed over before.

    Args:
        base: the base model.
        input_ids (`torch.LongTensor` of shape `(batch, length)`): of this step.
        seen (`torch.Tensor` of shape `(batch, seen_before)`): the attention mask of the step with the video.
        inputs: the base's other inputs.
        takes_positions: whether the base is told positions, and does not count them itself.

    Returns:
        `attention_mask`, and `position_ids` where none are given.
    """
    mask, past = inputs.get("attention_mask"), inputs[CACHE_NAME].get_seq_length()
    mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1]) if mask is None else mask.clone()
    mask[:, : seen.shape[1]] *= seen.to(mask)
    if not takes_positions or inputs.get("position_ids") is not None:
        return {"attention_mask": mask}
    positions = (mask.long().cumsum(-1) - 1)[:, -input_ids.shape[1] :]
    if (offset := getattr(base.base_model, "rope_deltas", None)) is not None:
        positions = torch.cat([positions[None], (positions + offset.to(positions)).expand(3, -1, -1)])
    return {"attention_mask": mask, "position_ids": positions}


def positions_of_what_is_seen(
    family: Family, input_ids: torch.Tensor, video_mask: torch.Tensor, attention_mask: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """
    The `position_ids` that generate() gives prompts, where forward() would count what the mask leaves out.

    In front of a prompt that is padding, and matters to few families: all positions move alike. Inside of a video it
    would move what follows away from it, and matters to all.
    """
    if attention_mask is None:
        return {}
    seen = attention_mask[:, -input_ids.shape[1] :].bool()
    if not family.counts_padding and bool(seen[video_mask].all()):
        return {}
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return {"position_ids": positions[:, -input_ids.shape[1] :]}


__all__ = [
    "check_grid_positions",
    "forget_positions",
    "go_on_from",
    "grids_with_videos",
    "has_grid_positions",
    "lay_out_positions",
    "pass_over",
    "positions_of_what_is_seen",
]
