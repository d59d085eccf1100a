"""Pooling of the kept tokens at several scales, as weights (multi-scale pooling of SVR)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils.checkpoint

from .selection import RefinedVideo


def windows_of_slots(num_slots: int, scale: int, shift: bool, device: torch.device | None = None) -> torch.Tensor:
    """
    Which pooling window each kept slot falls into.

    Windows hold `scale` consecutive slots and do not overlap. With `shift` they start half a window earlier, so that
    the first one is half as long. (The paper says "shifted-window average pooling" and its public code has no shift;
    sizes 1, 2, 4 are the code's, the shift is our reading.)

    Example:

    >>> windows_of_slots(5, scale=4, shift=True).tolist()
    [0, 0, 1, 1, 1]
    """
    return (torch.arange(num_slots, device=device) + _slots_before(scale, shift)) // scale


def count_windows(num_slots: int, scale: int, shift: bool) -> int:
    """Number of pooling windows over `num_slots` slots."""
    return (num_slots - 1 + _slots_before(scale, shift)) // scale + 1


def _slots_before(scale: int, shift: bool) -> int:
    return scale // 2 if shift else 0


def _split_into_windows(values: torch.Tensor, scale: int, shift: bool) -> torch.Tensor:
    """`(batch, num_slots, ...)` to `(batch, num_windows, scale, ...)`, zeros (False) where a window is not full."""
    before = _slots_before(scale, shift)
    after = -(before + values.shape[1]) % scale
    return F.pad(values, (0, 0) * (values.dim() - 2) + (before, after)).unflatten(1, (-1, scale))


def pooling_weights(
    log_significance: torch.Tensor, mask: torch.Tensor, scale: int, shift: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Weight of each slot in its window (softmax of the log-significance: proportional to significance), and the windows'
    own log-significance.

    Equal significance gives the plain average. The significance of a window is the mean over its tokens, in logs
    `logsumexp - log(count)`: windows of equally significant tokens are as significant as one such token, whatever the
    scale, so no scale is favoured for being coarse.

    Args:
        log_significance (`torch.Tensor` of shape `(batch, num_slots)`):
            Log-significance of the kept tokens, float32.
        mask (`torch.Tensor` of shape `(batch, num_slots)`):
            True where the slot is filled.
        scale (`int`):
            Slots per window.
        shift (`bool`, *optional*, defaults to `False`):
            Start half a window earlier.

    Returns:
        `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: weights `(batch, num_slots)`, 0 in empty slots;
        log-significance `(batch, num_windows)`; True for the windows that hold anything, `(batch, num_windows)`.

    Example:

    >>> log_significance = torch.tensor([[0.5, 0.25, 0.25]]).log()
    >>> weights, pooled, _ = pooling_weights(log_significance, torch.ones(1, 3, dtype=torch.bool), scale=2)
    >>> [round(weight, 4) for weight in weights[0].tolist()], [round(value, 4) for value in pooled[0].exp().tolist()]
    ([0.6667, 0.3333, 1.0], [0.375, 0.25])
    """
    inside = _split_into_windows(mask, scale, shift)
    logits = _split_into_windows(log_significance, scale, shift)
    logits = logits.masked_fill(~inside, torch.finfo(logits.dtype).min)  # -inf would make empty windows NaN
    weights = logits.softmax(dim=-1) * inside
    count = inside.sum(dim=-1)
    pooled = logits.logsumexp(dim=-1) - count.clamp(min=1).log()
    before = _slots_before(scale, shift)
    return (
        weights.flatten(1)[:, before : before + mask.shape[1]],
        torch.where(count > 0, pooled, 0.0),
        count > 0,
    )


def pool_slots(values: torch.Tensor, weights: torch.Tensor, scale: int, shift: bool = False) -> torch.Tensor:
    """
    Weighted sum of the slots of each window.

    Args:
        values (`torch.Tensor` of shape `(batch, num_slots, width)`):
            What to pool.
        weights (`torch.Tensor` of shape `(batch, num_slots)`):
            From `pooling_weights` with the same `scale` and `shift`.
        scale (`int`):
            Slots per window.
        shift (`bool`, *optional*, defaults to `False`):
            Start half a window earlier.

    Returns:
        `torch.Tensor` of shape `(batch, num_windows, width)`, in the dtype of `values`.
    """
    weighted = values * weights.unsqueeze(-1).to(values.dtype)
    return _split_into_windows(weighted, scale, shift).sum(dim=2)


@dataclass
class PooledTokens:
    """
    The kept tokens of a batch of videos at one scale, as the aggregation sees them.

    Args:
        features (`torch.Tensor` of shape `(batch, num_windows, bottleneck_size)`):
            Pooled states.
        log_significance (`torch.Tensor` of shape `(batch, num_windows)`):
            Log of the windows' significance, float32.
        places (`torch.Tensor` of shape `(batch, num_windows, 3)`):
            Pooled time, row and column in [0, 1], float32.
        mass_positions (`torch.Tensor` of shape `(batch, num_windows, 1)`):
            Pooled position on the axis of mass, in [0, 1], float32.
        mask (`torch.Tensor` of shape `(batch, num_windows)`):
            True for windows that hold anything.
        weights (`torch.Tensor` of shape `(batch, num_kept)`):
            Weight of each kept token in its window.
        scale (`int`):
            Kept tokens per window.
        shift (`bool`):
            Whether windows start half a window earlier.
    """

    features: torch.Tensor
    log_significance: torch.Tensor
    places: torch.Tensor
    mass_positions: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor
    scale: int
    shift: bool


def pool_at_scale(refined: RefinedVideo, scale: int, shift: bool = False) -> PooledTokens:
    """Pool states, places and significance of the kept tokens over windows of `scale` slots, by one set of weights."""
    weights, log_significance, mask = pooling_weights(refined.log_significance, refined.kept_mask, scale, shift)
    features = pool_slots(refined.kept_features, weights, scale, shift)
    places = pool_slots(refined.places, weights, scale, shift)
    positions = pool_slots(refined.mass_positions.unsqueeze(-1), weights, scale, shift)
    return PooledTokens(features, log_significance, places, positions, mask, weights, scale, shift)
