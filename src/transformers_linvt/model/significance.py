"""
SVR, the spatio-temporal visual token refiner: score every frame token, keep the most significant, pool at scales.

Everything in this file decides *weights* or *which tokens*; the frame tokens themselves are never changed. That is
what lets every video token be a weighted average of frame tokens (see `linear_video_tokenizer.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from .errors import LinVTInputError
from .keyframes import KEYFRAME_GAIN, SCORE_CEILING, NewTokens, average_runs
from .precision import accumulation_dtype, without_autocast


# Wavelengths of the sinusoidal embeddings, ours. Seconds: as in "Attention Is All You Need" from 2 pi, which is no
# multiple of a second, so that one frame per second does not land on the zeros of the sine, up to hours. Relative
# positions: from a hundredth of a video and a sixteenth of a picture up to 2, so that the longest is monotone.
SECONDS_WAVELENGTHS = (2 * math.pi, 10_000.0)
RELATIVE_TIME_WAVELENGTHS = (1 / 128, 2.0)
PLACE_WAVELENGTHS = (1 / 16, 2.0)

# 2**32 divided by the golden ratio: its multiples modulo 2**32 fall evenly (a low-discrepancy sequence in integers).
GOLDEN_STEP = 2_654_435_769

# The memory-efficient attention kernel of CUDA takes at most 65,535 rows; one row here is a frame or a place.
MAX_ATTENTION_ROWS = 2**15


# ---------------------------------------------------------------------------------------------------------------------
# Where a token is: time, row and column
# ---------------------------------------------------------------------------------------------------------------------


def infer_grid_size(tokens_per_frame: int) -> tuple[int, int]:
    """
    Rows and columns of a frame's tokens when only their number is known.

    A square number is a square. One more than a square (from 5 on) is a square and an extra last token, which is how
    LLaVA ends a picture (`image_newline`). Anything else becomes the flattest near-square grid that holds all tokens;
    its last row may be short. Ours; pass the real grid where it is known.

    Args:
        tokens_per_frame (`int`):
            Number of tokens of one frame, at least 1.

    Returns:
        `tuple[int, int]`: rows and columns, in reading order.

    Example:

    >>> [infer_grid_size(n) for n in (16, 17, 6, 7, 1, 2)]
    [(4, 4), (4, 4), (2, 3), (2, 4), (1, 1), (1, 2)]
    """
    root = math.isqrt(tokens_per_frame)
    if root * root == tokens_per_frame:
        return root, root
    root_without_newline = math.isqrt(tokens_per_frame - 1)
    if root_without_newline > 1 and root_without_newline**2 == tokens_per_frame - 1:
        return root_without_newline, root_without_newline
    return root, math.ceil(tokens_per_frame / root)


def token_places(grid_sizes: Sequence[tuple[int, int]], tokens_per_frame: int, device: torch.device) -> torch.Tensor:
    """
    Row and column of every token as fractions of the picture: cell centres, so any grid covers the same square.

    Args:
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video, tokens in reading order.
        tokens_per_frame (`int`):
            Tokens per frame, padding included. Tokens beyond `rows * columns` belong to no cell and get place (1, 1).
        device (`torch.device`):
            Where the result is needed.

    Returns:
        `torch.Tensor` of shape `(batch, tokens_per_frame, 2)`, float32, in [0, 1].

    Example:

    >>> token_places([(1, 2)], 3, torch.device("cpu")).tolist()
    [[[0.5, 0.25], [0.5, 0.75], [1.0, 1.0]]]
    """
    rows, columns = torch.tensor(grid_sizes, device=device).view(-1, 2, 1).unbind(1)  # (batch, 1) each
    index = torch.arange(tokens_per_frame, device=device)
    places = torch.stack([(index // columns + 0.5) / rows, (index % columns + 0.5) / columns], dim=-1)
    return places.masked_fill((index >= rows * columns).unsqueeze(-1), 1.0)


def frame_times(timestamps: torch.Tensor | None, frame_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Time of every frame, in seconds and as a fraction of the video.

    A frame stands for the interval around it: of T frames at equal distances, frame i is at (i + 0.5) / T, whatever
    the distance in seconds. Unequal distances keep their proportions.

    Args:
        timestamps (`torch.Tensor` of shape `(batch, num_frames)`, *optional*):
            Seconds. Without them frame i counts as second i.
        frame_mask (`torch.Tensor` of shape `(batch, num_frames)`):
            True where the frame exists.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: seconds and fractions in [0, 1], both `(batch, num_frames)`, float32; 0
        for frames that do not exist.

    Example:

    >>> seconds, fractions = frame_times(torch.tensor([[3.0, 5.0, 7.0, 9.0]]), torch.ones(1, 4, dtype=torch.bool))
    >>> fractions.tolist()
    [[0.125, 0.375, 0.625, 0.875]]
    """
    index = frame_mask.cumsum(dim=1) - 1
    count = frame_mask.sum(dim=1, keepdim=True)
    fractions = (index + 0.5) / count
    if timestamps is None:
        seconds = index.float()
    else:
        seconds = timestamps.float()
        first = seconds.masked_fill(~frame_mask, torch.inf).amin(dim=1, keepdim=True)
        last = seconds.masked_fill(~frame_mask, -torch.inf).amax(dim=1, keepdim=True)
        span = last - first
        interval = span / (count - 1).clamp(min=1)
        by_seconds = (seconds - first + interval / 2) / (span + interval)
        # one frame, or all at the same second: there is no distance to go by, only the order
        fractions = torch.where(span > 0, by_seconds, fractions)
    return seconds.masked_fill(~frame_mask, 0.0), fractions.masked_fill(~frame_mask, 0.0).float()


def sinusoidal_embedding(values: torch.Tensor, size: int, wavelengths: tuple[float, float]) -> torch.Tensor:
    """
    Sines and cosines of `values` at wavelengths spread geometrically between two bounds; works for any value.

    Args:
        values (`torch.Tensor` of any shape):
            Positions, float32.
        size (`int`):
            Width of the embedding, any number (an odd one lacks the last cosine).
        wavelengths (`tuple[float, float]`):
            Shortest and longest wavelength, in the unit of `values`.

    Returns:
        `torch.Tensor` of shape `(*values.shape, size)`, float32.

    Example:

    >>> sinusoidal_embedding(torch.tensor([0.0]), 4, (1.0, 2.0)).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    num_wavelengths = (size + 1) // 2
    shortest, longest = wavelengths
    exponents = torch.linspace(
        1.0, 0.0, num_wavelengths, device=values.device
    )  # longest first: it is the one kept if alone
    lengths = shortest * (longest / shortest) ** exponents
    angles = values.unsqueeze(-1) * (2 * math.pi / lengths)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :size]


# ---------------------------------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------------------------------


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

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            hidden (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
                One state per token.
            mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True where the token exists.

        Returns:
            `torch.Tensor` of the shape of `hidden`, zero where no token exists.
        """
        hidden = hidden + self._attend_within_frames(self.spatial_norm(hidden), mask)
        if self.temporal_window > 1:
            hidden = hidden + self._attend_over_time(self.temporal_norm(hidden), mask)
        return hidden if mask is None else hidden.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _attend_within_frames(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        frames = states.flatten(0, 1)
        attended = self.spatial_attention(frames, frames, None if mask is None else mask.flatten(0, 1))
        return attended.view_as(states)

    def _attend_over_time(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, num_frames, tokens_per_frame, _ = states.shape
        before, window, after = self._windows(num_frames)
        if mask is None and before + after:
            mask = states.new_ones(states.shape[:-1], dtype=torch.bool)
        # (batch, frames, places, dim) -> (batch, places, frames, dim) -> one row per window of one place
        windows = F.pad(states.transpose(1, 2), (0, 0, before, after)).reshape(-1, window, states.shape[-1])
        if mask is not None:
            mask = F.pad(mask.transpose(1, 2), (before, after)).reshape(-1, window)
        attended = self.temporal_attention(windows, windows, mask)
        attended = attended.reshape(batch, tokens_per_frame, before + num_frames + after, -1)
        return attended[:, :, before : before + num_frames].transpose(1, 2)

    def _windows(self, num_frames: int) -> tuple[int, int, int]:
        """Empty frames before, window length, empty frames after; a video inside the first window needs none."""
        if num_frames <= self.temporal_window - self.window_offset:
            return 0, num_frames, 0
        return self.window_offset, self.temporal_window, -(self.window_offset + num_frames) % self.temporal_window


# ---------------------------------------------------------------------------------------------------------------------
# Significance
# ---------------------------------------------------------------------------------------------------------------------


def token_novelty(frame_tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    How much every token differs from the token at the same place in the frame before, in units of a token's length.

    The first frame has no frame before: all of it is new, as new as the newest of the other tokens (0 in a video of
    one frame), and so is any token whose predecessor is masked. What stands still from the first frame on is then kept
    once; with less it would be lost among the changes. Ours: a score that needs no training and that any constant
    offset of the encoder leaves alone.

    Args:
        frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
            Visual tokens.
        mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            True where the token exists.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, float32, at least 0.

    Example:

    >>> frames = torch.tensor([1.0, 1.0, 4.0]).view(1, 3, 1, 1)  # mean length 2
    >>> token_novelty(frames, torch.ones(1, 3, 1, dtype=torch.bool)).flatten().tolist()
    [1.5, 0.0, 1.5]
    """
    dtype = accumulation_dtype(frame_tokens.dtype)
    lengths = torch.linalg.vector_norm(frame_tokens, dim=-1, dtype=dtype)
    mean_length = _masked_mean(lengths, mask)
    change = torch.linalg.vector_norm(frame_tokens[:, 1:] - frame_tokens[:, :-1], dim=-1, dtype=dtype)
    novelty = F.pad(change / mean_length.clamp(min=torch.finfo(dtype).tiny), (0, 0, 1, 0))
    has_predecessor = F.pad(mask[:, 1:] & mask[:, :-1], (0, 0, 1, 0))
    newest = novelty.masked_fill(~has_predecessor, 0.0).amax(dim=(1, 2), keepdim=True)
    return torch.where(has_predecessor, novelty, newest).masked_fill(~mask, 0.0)


def _masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of each video's masked-in values, `(batch, 1, 1)`; 0 where there are none."""
    total = values.masked_fill(~mask, 0.0).sum(dim=(1, 2), keepdim=True)
    return total / mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)


class SignificanceScorer(nn.Module):
    """
    Spatio-temporal significance scoring (SSS): one score per frame token, from attention in a narrow side branch.

    Differs from the authors' code where that cannot work: there the refined states replace the tokens (so the output
    is no average of the input), no residual and no norm let all states collapse to one, and the scores never get a
    gradient. Here the states only decide weights.

    Args:
        dim (`int`):
            Width of the frame tokens (the LLM's).
        bottleneck_size (`int`):
            Width of the states; a multiple of `num_heads`.
        num_heads (`int`):
            Attention heads.
        num_layers (`int`):
            Number of `SpatioTemporalBlock`s; 0 scores every token by itself.
        temporal_window (`int`):
            Frames that see each other in one temporal attention.
        selection (`str`):
            `"learned"` and `"none"` have a score head; `"novelty"` and `"uniform"` have none.
        init (`str`):
            With `"anchored"` the score is `novelty_gain * novelty` plus a head that starts at zero; with `"keyframes"`
            it is the head alone, and `score_new_tokens` adds what the key frames say.
    """

    def __init__(
        self,
        dim: int,
        bottleneck_size: int,
        num_heads: int,
        num_layers: int,
        temporal_window: int,
        selection: str,
        init: str,
    ) -> None:
        super().__init__()
        self.selection = selection
        self.learns_scores = selection in ("learned", "none")
        self.starts_from_novelty = self.learns_scores and init == "anchored"
        self.starts_from_keyframes = selection != "uniform" and init == "keyframes"
        self.gradient_checkpointing = False  # transformers switches it on by this name
        self._gradient_checkpointing_func: Callable = torch.utils.checkpoint.checkpoint

        self.input_norm = nn.LayerNorm(dim)
        self.input_projection = nn.Linear(dim, bottleneck_size)
        self.time_projection = nn.Linear(bottleneck_size, bottleneck_size, bias=False)
        self.place_projection = nn.Linear(bottleneck_size, bottleneck_size, bias=False)
        self.blocks = nn.ModuleList(
            SpatioTemporalBlock(bottleneck_size, num_heads, temporal_window, layer % 2 * (temporal_window // 2))
            for layer in range(num_layers)
        )
        if self.learns_scores:
            self.score_norm = nn.LayerNorm(bottleneck_size)
            # plain parameters and not a Linear: the score is computed in float32 whatever the module's dtype, because
            # bfloat16 has 256 values between 1 and 2 and a selection among 16,000 tokens would be made of ties
            self.score_weight = nn.Parameter(torch.empty(bottleneck_size))
            self.score_bias = nn.Parameter(torch.empty(1))
        if self.starts_from_novelty or self.starts_from_keyframes:
            self.novelty_gain = nn.Parameter(torch.empty(1))
        self.init_weights()

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        init_layer_norm(self.input_norm)
        for linear in (self.input_projection, self.time_projection, self.place_projection):
            init_linear(linear)
        for block in self.blocks:
            block.init_weights()
        if self.learns_scores:
            init_layer_norm(self.score_norm)
            # a normalised state has length sqrt(bottleneck_size): scores start with standard deviation 1
            starts_at_zero = self.starts_from_novelty or self.starts_from_keyframes
            std = 0.0 if starts_at_zero else self.score_weight.numel() ** -0.5
            nn.init.normal_(self.score_weight, std=std)
            nn.init.zeros_(self.score_bias)
        if self.starts_from_novelty:
            nn.init.ones_(self.novelty_gain)
        if self.starts_from_keyframes:
            nn.init.constant_(self.novelty_gain, KEYFRAME_GAIN)

    def forward(
        self,
        frame_tokens: torch.Tensor,
        mask: torch.Tensor | None,
        seconds: torch.Tensor,
        fractions: torch.Tensor,
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
                Visual tokens.
            mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True where the token exists.
            seconds (`torch.Tensor` of shape `(batch, num_frames)`):
                Time of each frame.
            fractions (`torch.Tensor` of shape `(batch, num_frames)`):
                Time of each frame as a fraction of the video.
            places (`torch.Tensor` of shape `(batch, tokens_per_frame, 2)`):
                Row and column of each token in [0, 1].

        Returns:
            `tuple[torch.Tensor, torch.Tensor | None]`: the states `(batch, num_frames, tokens_per_frame,
            bottleneck_size)` and the scores `(batch, num_frames, tokens_per_frame)` in float32, any real number, None
            where nothing scores: `selection="uniform"`, and `"novelty"` with key frames.
        """
        if mask is not None:  # what stands in the padding must not matter, not even if it is NaN
            frame_tokens = frame_tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        hidden = self._embed(frame_tokens, seconds, fractions, places)
        if mask is not None:
            hidden = hidden.masked_fill(~mask.unsqueeze(-1), 0.0)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                hidden = self._gradient_checkpointing_func(block.__call__, hidden, mask, use_reentrant=False)
            else:
                hidden = block(hidden, mask)
        return hidden, self._score(hidden, frame_tokens, mask)

    def _embed(
        self, frame_tokens: torch.Tensor, seconds: torch.Tensor, fractions: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        dtype = self.input_norm.weight.dtype
        half = self.time_projection.in_features // 2
        other_half = self.time_projection.in_features - half
        time = torch.cat(
            [
                sinusoidal_embedding(seconds, other_half, SECONDS_WAVELENGTHS),
                sinusoidal_embedding(fractions, half, RELATIVE_TIME_WAVELENGTHS),
            ],
            dim=-1,
        )
        place = torch.cat(
            [
                sinusoidal_embedding(places[..., 0], other_half, PLACE_WAVELENGTHS),
                sinusoidal_embedding(places[..., 1], half, PLACE_WAVELENGTHS),
            ],
            dim=-1,
        )
        hidden = self.input_projection(self.input_norm(frame_tokens.to(dtype)))
        return (
            hidden
            + self.time_projection(time.to(dtype)).unsqueeze(2)
            + self.place_projection(place.to(dtype)).unsqueeze(1)
        )

    def _score(
        self, hidden: torch.Tensor, frame_tokens: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        if not self.learns_scores and (self.selection == "uniform" or self.starts_from_keyframes):
            return None
        scores = 0.0
        if self.starts_from_novelty or (self.selection == "novelty" and not self.starts_from_keyframes):
            everything = frame_tokens.new_ones(frame_tokens.shape[:-1], dtype=torch.bool) if mask is None else mask
            scores = token_novelty(frame_tokens, everything)
        if self.starts_from_novelty:
            scores = scores * self.novelty_gain.to(scores.dtype)
        if self.learns_scores:
            normalised = self.score_norm(hidden)
            dtype = accumulation_dtype(normalised.dtype)
            with without_autocast(normalised.device):
                learned = F.linear(normalised.to(dtype), self.score_weight.to(dtype)[None], self.score_bias.to(dtype))
            scores = scores + learned.squeeze(-1)
        return scores

    def allowance(self, learned: torch.Tensor | None) -> torch.Tensor | None:
        """How much further than the threshold a token must be from its reference, so that the learned score counts."""
        return None if learned is None else -learned.detach() / self._gain(learned.dtype)

    def score_new_tokens(self, new: NewTokens, learned: torch.Tensor | None) -> torch.Tensor:
        """
        The score of every token of a video of key frames: positive where it starts a run.

        `novelty_gain * (novelty - threshold)`, bounded by +-`SCORE_CEILING`, plus the learned score. So the gate is
        sharp, everything that is surely new has the same significance, and the learned score moves both.

        Args:
            new ([`NewTokens`]):
                What is new, and by how much.
            learned (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                The scores that `forward` returned.

        Returns:
            `torch.Tensor` of the shape of `new.novelty`, float32.
        """
        excess = (new.novelty - new.threshold.view(-1, 1, 1)) * self._gain(new.novelty.dtype)
        scores = SCORE_CEILING * (excess / SCORE_CEILING).tanh()
        return scores if learned is None else scores + learned

    def _gain(self, dtype: torch.dtype) -> torch.Tensor:
        return self.novelty_gain.to(dtype).clamp(min=1.0)  # a gate that training turned round would let nothing in


# ---------------------------------------------------------------------------------------------------------------------
# Selection
# ---------------------------------------------------------------------------------------------------------------------


def select_most_significant(
    scores: torch.Tensor, mask: torch.Tensor, num_kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The `num_kept` highest-scoring tokens of each video, in (time, place) order.

    The order is kept because pooling averages neighbours, and neighbours have to be neighbours in time and place, not
    in rank. Ties are broken evenly over the video (a low-discrepancy sequence over the valid tokens) and always the
    same way: of a video in which nothing moves, the kept tokens are spread, not the first ones.

    Args:
        scores (`torch.Tensor` of shape `(batch, num_tokens)`):
            Score of each token, any real number.
        mask (`torch.Tensor` of shape `(batch, num_tokens)`):
            True where the token exists.
        num_kept (`int`):
            Slots in the result, at most `num_tokens`. A video with fewer tokens keeps all and leaves slots empty.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: indices `(batch, num_kept)`, ascending, and the mask of filled slots of
        the same shape. Empty slots come last and repeat the video's first kept index.

    Example:

    >>> scores = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.7]])
    >>> select_most_significant(scores, torch.ones_like(scores, dtype=torch.bool), num_kept=3)[0].tolist()
    [[1, 3, 4]]
    """
    rank = mask.cumsum(dim=1) - 1
    # by score, equal ones by tie key: sort by the lesser key first, then stably by the greater
    order = (rank * GOLDEN_STEP % 2**32).argsort(dim=1, stable=True)
    scores = scores.detach().masked_fill(~mask, -torch.inf).gather(1, order)
    order = order.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return _in_order(order[:, :num_kept], mask)


def select_uniformly(mask: torch.Tensor, num_kept: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    `num_kept` tokens at equal distances over each video's tokens in (time, place) order; arguments and results as in
    `select_most_significant`.

    Example:

    >>> select_uniformly(torch.ones(1, 6, dtype=torch.bool), num_kept=3)[0].tolist()
    [[1, 3, 5]]
    """
    valid_first = (~mask).int().argsort(dim=1, stable=True)
    num_valid = mask.sum(dim=1, keepdim=True)
    num_filled = num_valid.clamp(min=1, max=num_kept)
    slots = torch.arange(num_kept, device=mask.device)
    rank = (2 * slots + 1) * num_valid // (2 * num_filled)  # middles of equal parts, in integers
    return _in_order(valid_first.gather(1, rank.clamp(max=mask.shape[1] - 1)), mask)


def _in_order(chosen: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the chosen indices; empty slots come last and point at the first kept token (a valid one: never NaN)."""
    num_kept, num_tokens = chosen.shape[1], mask.shape[1]
    filled = torch.arange(num_kept, device=mask.device) < mask.sum(dim=1, keepdim=True)
    indices = chosen.masked_fill(~filled, num_tokens).sort(dim=1).values
    return torch.where(filled, indices, indices[:, :1]), filled


@dataclass
class RefinedVideo:
    """
    What SVR makes of a batch of videos: everything the aggregation needs, and nothing that depends on a question.

    Answer many questions from one of these: `select` repeats videos, `to_tensors` makes it storable.

    Args:
        kept_tokens (`torch.Tensor` of shape `(batch, num_kept, dim)`):
            The kept frame tokens; with key frames averages of them, one per run.
        kept_features (`torch.Tensor` of shape `(batch, num_kept, bottleneck_size)`):
            The scorer's states of the kept tokens, averaged alike.
        kept_indices (`torch.Tensor` of shape `(batch, num_kept)`):
            Index of each kept token, or of the first of each run, in the flattened `(num_frames, tokens_per_frame)`
            video, in the order of time; empty slots come last and repeat the first.
        kept_mask (`torch.Tensor` of shape `(batch, num_kept)`):
            True where the slot is filled.
        log_significance (`torch.Tensor` of shape `(batch, num_kept)`):
            Log of the significance of the kept tokens, float32; of a slot of several runs, of their sum.
        places (`torch.Tensor` of shape `(batch, num_kept, 3)`):
            Time, row and column of the kept tokens in [0, 1], float32; averaged alike.
        mass_positions (`torch.Tensor` of shape `(batch, num_kept)`):
            Where the kept tokens lie on the axis of mass, in [0, 1], float32.
        run_slots (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            For every frame token the slot it is averaged into; 0 where it is in none.
        run_weights (`torch.Tensor` of the same shape):
            Its weight there, float32; 0 where it is in none.
        significance (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Significance of every token in [0, 1]; 0 where there is none.
    """

    kept_tokens: torch.Tensor
    kept_features: torch.Tensor
    kept_indices: torch.Tensor
    kept_mask: torch.Tensor
    log_significance: torch.Tensor
    places: torch.Tensor
    mass_positions: torch.Tensor
    run_slots: torch.Tensor
    run_weights: torch.Tensor
    significance: torch.Tensor

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """Bring anything with one row per frame token, `(batch, T, N, width)`, to the slots, as the tokens were."""
        return average_runs(values, self.run_slots, self.run_weights, self.kept_indices.shape[1])

    @property
    def num_frames(self) -> int:
        """Frames per video, padding included."""
        return self.significance.shape[1]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens per frame, padding included."""
        return self.significance.shape[2]

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """Detached, contiguous tensors by name, ready for `safetensors.torch.save_file`."""
        return {field.name: getattr(self, field.name).detach().contiguous() for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> "RefinedVideo":
        """
        The inverse of `to_tensors`; further names are ignored.

        Raises:
            `LinVTInputError`: if a tensor is missing.
        """
        missing = [field.name for field in fields(cls) if field.name not in tensors]
        if missing:
            raise LinVTInputError(
                f"These are not the tensors of a refined video: {', '.join(missing)} missing, got "
                f"{', '.join(sorted(tensors)) or 'none'}. Save them with RefinedVideo.to_tensors()."
            )
        return cls(**{field.name: tensors[field.name] for field in fields(cls)})

    def select(self, videos: torch.Tensor | Sequence[int]) -> "RefinedVideo":
        """The videos at these positions of the batch, repeated as often as they are named (one row per question)."""
        index = torch.as_tensor(videos, dtype=torch.long, device=self.kept_indices.device)
        return self._map(lambda tensor: tensor.index_select(0, index))

    def to(self, device: torch.device | str) -> "RefinedVideo":
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "RefinedVideo":
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})


# ---------------------------------------------------------------------------------------------------------------------
# Multi-scale pooling (MTP)
# ---------------------------------------------------------------------------------------------------------------------


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
