"""Attention between frame tokens in space and time, for the layers that score and the layers that look."""

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn


# The memory-efficient attention kernel of CUDA takes at most 65,535 rows; one row here is a frame or a place.
MAX_ATTENTION_ROWS = 2**15


def fill_parameter(parameter: nn.Parameter, values: torch.Tensor) -> None:
    """Set a parameter to given values, unless transformers has just loaded it from a checkpoint (it marks those)."""
    if not getattr(parameter, "_is_hf_initialized", False):
        with torch.no_grad():
            parameter.copy_(values)


def init_linear(linear: nn.Linear) -> None:
    """Xavier-uniform weight and zero bias, the initialisation in the authors' code."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_layer_norm(norm: nn.LayerNorm) -> None:
    """Scale one, shift zero."""
    nn.init.ones_(norm.weight)
    nn.init.zeros_(norm.bias)


class MultiHeadAttention(nn.Module):
    """
    Scaled dot-product attention with a mask that may hide everything.

    A row that sees nothing returns exactly zero, forward and backward, never NaN: this is how an empty question or a
    padded frame contributes nothing. Keys have no bias, because the softmax cancels it and it would never get a
    gradient.

    Args:
        dim (`int`):
            Width of queries, context and result; a multiple of `num_heads`.
        num_heads (`int`):
            Number of heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        for linear in (self.query, self.key, self.value, self.output):
            init_linear(linear)

    def forward(
        self, queries: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            queries (`torch.Tensor` of shape `(rows, num_queries, dim)`):
                Who looks.
            context (`torch.Tensor` of shape `(rows, num_context, dim)`):
                What is looked at.
            context_mask (`torch.Tensor` of shape `(rows, num_context)`, *optional*):
                True where the context may be seen.

        Returns:
            `torch.Tensor` of shape `(rows, num_queries, dim)`.
        """
        query, key, value = (
            projection(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, states in ((self.query, queries), (self.key, context), (self.value, context))
        )
        if context_mask is None:
            return self.output(attend(query, key, value, None).transpose(1, 2).flatten(2))
        sees_anything = context_mask.any(dim=-1, keepdim=True)
        # a row that sees nothing looks at everything and is then multiplied by zero: a softmax over nothing is NaN
        visible = (context_mask | ~sees_anything)[:, None, None, :]
        attended = self.output(attend(query, key, value, visible).transpose(1, 2).flatten(2))
        return attended * sees_anything.unsqueeze(-1)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`F.scaled_dot_product_attention` in pieces of at most `MAX_ATTENTION_ROWS` rows; see there."""
    if query.shape[0] <= MAX_ATTENTION_ROWS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    pieces = [states.split(MAX_ATTENTION_ROWS) for states in (query, key, value)]
    masks = [None] * len(pieces[0]) if mask is None else mask.split(MAX_ATTENTION_ROWS)
    return torch.cat([attend(*piece) for piece in zip(*pieces, masks, strict=True)])


class SpatioTemporalBlock(nn.Module):
    """
    Attention within every frame, then attention over time at every place; pre-norm, residual.

    Time is cut into windows counted from frame 0, so the cost is linear in the number of frames and padding at the end
    moves no boundary. Every second block starts its windows half a window earlier: what one block separates, the next
    one joins.

    Args:
        dim (`int`):
            Width.
        num_heads (`int`):
            Number of heads.
        temporal_window (`int`):
            Frames per window; 1 leaves the temporal attention out.
        window_offset (`int`):
            How many frames before frame 0 the first window starts.
    """

    def __init__(self, dim: int, num_heads: int, temporal_window: int, window_offset: int) -> None:
        super().__init__()
        self.temporal_window = temporal_window
        self.window_offset = window_offset
        self.spatial_norm = nn.LayerNorm(dim)
        self.spatial_attention = MultiHeadAttention(dim, num_heads)
        if temporal_window > 1:
            self.temporal_norm = nn.LayerNorm(dim)
            self.temporal_attention = MultiHeadAttention(dim, num_heads)

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        init_layer_norm(self.spatial_norm)
        self.spatial_attention.init_weights()
        if self.temporal_window > 1:
            init_layer_norm(self.temporal_norm)
            self.temporal_attention.init_weights()

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None, goes_on: bool = False) -> torch.Tensor:
        """
        Args:
            hidden (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
                One state per token.
            mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True where the token exists.
            goes_on (`bool`):
                Whether the first frame is not that of the video but of a later window.

        Returns:
            `torch.Tensor` of the shape of `hidden`, zero where no token exists.
        """
        hidden = hidden + self._attend_within_frames(self.spatial_norm(hidden), mask)
        if self.temporal_window > 1:
            offset = 0 if goes_on else self.window_offset
            hidden = hidden + self._attend_over_time(self.temporal_norm(hidden), mask, offset)
        return hidden if mask is None else hidden.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _attend_within_frames(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        frames = states.flatten(0, 1)
        attended = self.spatial_attention(frames, frames, None if mask is None else mask.flatten(0, 1))
        return attended.view_as(states)

    def _attend_over_time(self, states: torch.Tensor, mask: torch.Tensor | None, offset: int) -> torch.Tensor:
        batch, num_frames, tokens_per_frame, dim = states.shape
        # (batch, frames, places, dim) -> (batch, places, frames, dim) -> one row per window of one place
        states, mask = states.transpose(1, 2), None if mask is None else mask.transpose(1, 2)
        attended, start = [], 0
        for length, count in self._windows(num_frames, offset):
            inside = slice(start, start := start + length * count)
            windows = states[:, :, inside].reshape(-1, length, dim)
            own = None if mask is None else mask[:, :, inside].reshape(-1, length)
            attended.append(
                self.temporal_attention(windows, windows, own).reshape(batch, tokens_per_frame, length * count, dim)
            )
        return torch.cat(attended, dim=2).transpose(1, 2)

    def _windows(self, num_frames: int, offset: int) -> list[tuple[int, int]]:
        """Lengths of the windows in order, each with how many of them follow each other; none has an empty frame."""
        first = min(self.temporal_window - offset, num_frames) if offset else 0
        num_whole, last = divmod(num_frames - first, self.temporal_window)
        if first == last and not num_whole:
            return [(first, 2)]
        return [(length, n) for length, n in ((first, 1), (self.temporal_window, num_whole), (last, 1)) if length * n]

    def num_finished(self, first: int, num_frames: int) -> int:
        """How many of `num_frames` frames, from frame `first` of a video on, have complete windows."""
        if self.temporal_window == 1:
            return num_frames
        behind = (first + num_frames + self.window_offset) // self.temporal_window * self.temporal_window
        return max(0, behind - self.window_offset - first)
