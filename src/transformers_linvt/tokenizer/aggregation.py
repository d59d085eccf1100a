"""
TTA, the text-conditioned token aggregator: learnable queries look at the pooled video and the question and decide how
much of every kept token goes into every video token.

What comes out of this file is weights, one per kept token and video token, and never a transformed token; the one
exception is the resampler of `aggregation="nonlinear"`, which exists to be compared with.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from .attention import MultiHeadAttention, fill_parameter, init_layer_norm, init_linear
from .pooling import PooledTokens, pool_slots
from .precision import accumulation_dtype, without_autocast


# Anchors' widths stay within these shares of the video: their squares and their gradients must be finite numbers.
ANCHOR_WIDTH_LIMITS = (1e-4, 1e4)

# How soft the edges of a stretch of the axis of mass start, in units of its length: a token in the middle of the next
# stretch has e^-12.5 of the weight, so that as many tokens as queries come out as they went in.
STRETCH_SOFTNESS = 0.04


def split_into_groups(num_video_tokens: int, num_groups: int) -> list[int]:
    """
    Sizes of the query groups: half of the queries for the finest scale, a quarter for the next, the last two equal.

    Every group gets at least one query; what rounding leaves over goes to the first. Ours: a scale of s tokens per
    window has 1/s as many windows to describe.

    Args:
        num_video_tokens (`int`):
            Number of queries, at least `num_groups`.
        num_groups (`int`):
            Number of groups.

    Returns:
        `list[int]` of length `num_groups`, with sum `num_video_tokens`.

    Example:

    >>> split_into_groups(256, 3), split_into_groups(7, 3), split_into_groups(5, 1)
    ([128, 64, 64], [5, 1, 1], [5])
    """
    if num_groups == 1:
        return [num_video_tokens]
    others = [max(1, num_video_tokens >> (group + 1)) for group in range(1, num_groups - 1)]
    others.append(others[-1] if others else num_video_tokens // 2)
    if sum(others) >= num_video_tokens:  # about as many groups as queries
        others = [1] * (num_groups - 1)
    return [num_video_tokens - sum(others), *others]


def lattice_shape(num_anchors: int) -> tuple[int, int, int]:
    """
    How many (time, row, column) cells a group's anchors tile the video into: as close to a cube as divisors allow.

    Rows and columns get the largest r up to the rounded cube root whose square divides the number; time gets the rest.
    A number without a square divisor tiles time alone.

    Example:

    >>> [lattice_shape(n) for n in (128, 64, 16, 8, 7)]
    [(8, 4, 4), (4, 4, 4), (4, 2, 2), (2, 2, 2), (7, 1, 1)]
    """
    side = max(1, round(num_anchors ** (1 / 3)))
    while num_anchors % (side * side):
        side -= 1
    return num_anchors // (side * side), side, side


def anchor_lattice(num_anchors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Anchors at the cell centres of `lattice_shape(num_anchors)`, in reading order, and the spacing of the cells.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: centres and spacings, both `(num_anchors, 3)` as (time, row, column) in
        [0, 1], float32, on the CPU.

    Example:

    >>> anchor_lattice(8)[0][:3].tolist()
    [[0.25, 0.25, 0.25], [0.25, 0.25, 0.75], [0.25, 0.75, 0.25]]
    """
    shape = lattice_shape(num_anchors)
    axes = [(torch.arange(cells, device="cpu", dtype=torch.float32) + 0.5) / cells for cells in shape]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(num_anchors, 3)
    spacing = torch.tensor([1 / cells for cells in shape], device="cpu", dtype=torch.float32)
    return centres, spacing.expand(num_anchors, 3).contiguous()


def lattice_cells(group_sizes: Sequence[int]) -> torch.Tensor:
    """
    Cell of every query's anchor in the lattice of the first group, which is the finest: `(num_queries, 3)`, integers.

    What queries of two groups see at the same time and place gets the same cell.

    Example:

    >>> lattice_cells([8, 1]).tolist()[-3:]
    [[1, 1, 0], [1, 1, 1], [1, 1, 1]]
    """
    shape = torch.tensor(lattice_shape(group_sizes[0]))
    centres = torch.cat([anchor_lattice(size)[0] for size in group_sizes])
    return torch.minimum((centres * shape).floor().long(), shape - 1)


def gaussian_log_prior(places: torch.Tensor, anchors: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """
    Log of an unnormalised Gaussian around every anchor, at every place.

    Args:
        places (`torch.Tensor` of shape `(batch, num_places, 3)`):
            Time, row and column in [0, 1].
        anchors (`torch.Tensor` of shape `(num_anchors, 3)`):
            Centres in the same coordinates.
        widths (`torch.Tensor` of shape `(num_anchors, 3)`):
            Standard deviation along each axis.

    Returns:
        `torch.Tensor` of shape `(batch, num_anchors, num_places)`, at most 0.

    Example:

    >>> place, anchor = torch.tensor([[[0.75, 0.5, 0.5]]]), torch.tensor([[0.25, 0.5, 0.5]])
    >>> gaussian_log_prior(place, anchor, torch.full((1, 3), 0.25)).tolist()
    [[[-2.0]]]
    """
    distances = (places.unsqueeze(1) - anchors.unsqueeze(1)) / widths.unsqueeze(1)
    return -0.5 * distances.square().sum(dim=-1)


def stretch_log_prior(
    positions: torch.Tensor,
    shifts: torch.Tensor,
    log_softness: torch.Tensor,
    mask: torch.Tensor | None = None,
    num_stretches: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Log of an unnormalised window around every query's stretch of the axis of mass, at every position.

    G queries share the axis evenly: query m has the stretch from m / G to (m + 1) / G, flat inside, and falling off
    beyond its edges as a logistic function does. So every query gets the same share of what is new, wherever in the
    video that is. Where positions are at least a stretch apart, there are queries enough for each to have its own: a
    stretch lies around the nearest one then, or a token in reach of two of them would be blurred by the next.

    Args:
        positions (`torch.Tensor` of shape `(batch, num_places)`):
            Positions on the axis, in [0, 1].
        shifts (`torch.Tensor` of shape `(num_queries,)`):
            How far each stretch is moved, in units of its length; 0 for even stretches.
        log_softness (`torch.Tensor` of shape `(num_queries,)`):
            Log of the softness of the edges, in units of the length of a stretch.
        mask (`torch.Tensor` of shape `(batch, num_places)`, *optional*):
            True where there is something.
        num_stretches (`torch.Tensor` of shape `(batch,)`, *optional*):
            How many queries share the axis, the first ones; all of them by default.

    Returns:
        `torch.Tensor` of shape `(batch, num_queries, num_places)`, at most 0.

    Example:

    >>> position, shifts = torch.tensor([[0.25, 0.5, 0.75]]), torch.zeros(2)
    >>> stretch_log_prior(position, shifts, torch.full((2,), 0.05).log())[0].exp().round(decimals=2).tolist()
    [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    """
    num_queries = len(shifts)
    positions = positions * (num_queries if num_stretches is None else num_stretches.unsqueeze(1))
    middles = torch.arange(num_queries, device=shifts.device, dtype=shifts.dtype) + 0.5
    there = positions if mask is None else positions.masked_fill(~mask, 4.0 * num_queries)
    middles = _nearest_if_apart(there, middles)
    distances = positions.unsqueeze(1) - (middles + shifts).unsqueeze(2)
    sharpness = (-log_softness).exp().unsqueeze(1)
    return F.logsigmoid((0.5 + distances) * sharpness) + F.logsigmoid((0.5 - distances) * sharpness)


def _nearest_if_apart(positions: torch.Tensor, middles: torch.Tensor) -> torch.Tensor:
    """
    For every middle the nearest position, if that is at least 1 from all others, else the middle itself.

    Positions that are the same (slots of one cell) are one.
    """
    ordered = positions.sort(dim=1).values
    gap = F.pad(ordered.diff(dim=1), (1, 1), value=torch.inf)  # before every position, and behind the last
    place = torch.arange(ordered.shape[1], device=ordered.device)
    differs = gap > 1e-4
    first = torch.where(differs[:, :-1], place, 0).cummax(dim=1).values
    last = torch.where(differs[:, 1:], place, len(place)).flip(1).cummin(dim=1).values.flip(1)
    room = torch.minimum(gap.gather(1, first), gap.gather(1, last + 1))
    nearest = (ordered.unsqueeze(1) - middles.unsqueeze(1)).abs().argmin(dim=2)
    is_apart = room.gather(1, nearest) > 1 - 1e-3  # as many tokens as queries are 1 apart but for rounding
    return torch.where(is_apart, ordered.gather(1, nearest), middles)


class AggregatorBlock(nn.Module):
    """
    One round of interaction: among the queries, with the video, with the question, feed-forward; pre-norm, residual.

    All groups share the parameters and see each other in self-attention; in the visual attention each group sees its
    own pool. The authors' code has neither feed-forward nor groups.

    Args:
        dim (`int`):
            Width of the states.
        num_heads (`int`):
            Attention heads.
        text_conditioned (`bool`):
            Whether there is an attention to the question.
    """

    def __init__(self, dim: int, num_heads: int, text_conditioned: bool) -> None:
        super().__init__()
        self.text_conditioned = text_conditioned
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, num_heads)
        self.visual_norm = nn.LayerNorm(dim)
        self.visual_attention = MultiHeadAttention(dim, num_heads)
        if text_conditioned:
            self.text_norm = nn.LayerNorm(dim)
            self.text_attention = MultiHeadAttention(dim, num_heads)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward_in = nn.Linear(dim, 4 * dim)
        self.feed_forward_out = nn.Linear(4 * dim, dim)

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        for module in self.children():
            if isinstance(module, MultiHeadAttention):
                module.init_weights()
            elif isinstance(module, nn.LayerNorm):
                init_layer_norm(module)
            elif isinstance(module, nn.Linear):
                init_linear(module)

    def forward(
        self,
        queries: torch.Tensor,
        group_sizes: list[int],
        pools: list[torch.Tensor],
        pool_masks: list[torch.Tensor],
        text: torch.Tensor | None,
        text_mask: torch.Tensor | None,
        used: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            queries (`torch.Tensor` of shape `(batch, num_video_tokens, dim)`):
                States of the queries, group after group.
            group_sizes (`list[int]`):
                Queries per group.
            pools (`list[torch.Tensor]` of shapes `(batch, num_windows, dim)`):
                What each group sees of the video.
            pool_masks (`list[torch.Tensor]` of shapes `(batch, num_windows)`):
                True where there is something to see.
            text (`torch.Tensor` of shape `(batch, num_text_tokens, dim)`, *optional*):
                The projected question.
            text_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*):
                True at the question's tokens.
            used (`torch.Tensor` of shape `(batch, num_video_tokens)`, *optional*):
                True at the queries that the others see.

        Returns:
            `torch.Tensor` of the shape of `queries`.
        """
        normalised = self.self_norm(queries)
        queries = queries + self.self_attention(normalised, normalised, used)
        groups = self.visual_norm(queries).split(group_sizes, dim=1)
        seen = [self.visual_attention(*group) for group in zip(groups, pools, pool_masks, strict=True)]
        queries = queries + torch.cat(seen, dim=1)
        if self.text_conditioned and text is not None:
            queries = queries + self.text_attention(self.text_norm(queries), text, text_mask)
        expanded = F.gelu(self.feed_forward_in(self.feed_forward_norm(queries)))
        return queries + self.feed_forward_out(expanded)


class TextConditionedTokenAggregator(nn.Module):
    """
    Text-conditioned token aggregation (TTA): the weights of the kept tokens in every video token.

    Args:
        dim (`int`):
            Width of frame tokens and question embeddings (the LLM's).
        num_video_tokens (`int`):
            Number of queries, and of video tokens.
        scales (`tuple[int, ...]`):
            Pooling scales in use.
        scale_mode (`str`):
            `"specific"`: one group of queries per scale. `"shared"` and `"single"`: one group that sees all of them.
        bottleneck_size (`int`):
            Width of the states; a multiple of `num_heads`.
        num_heads (`int`):
            Attention heads of the interaction (the aggregation itself has one, unless nonlinear).
        num_layers (`int`):
            Number of `AggregatorBlock`s.
        aggregation (`str`):
            `"linear"` or `"nonlinear"`.
        text_conditioned (`bool`):
            Whether the question is looked at.
        init (`str`):
            `"keyframes"`: every query has a stretch of the axis of mass. `"anchored"`: a cell of a lattice over time,
            rows and columns. `"free"`: neither.
    """

    def __init__(
        self,
        dim: int,
        num_video_tokens: int,
        scales: tuple[int, ...],
        scale_mode: str,
        bottleneck_size: int,
        num_heads: int,
        num_layers: int,
        aggregation: str,
        text_conditioned: bool,
        init: str,
    ) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.text_conditioned = text_conditioned
        self.init = init
        self.scales_of_groups = [(scale,) for scale in scales] if scale_mode == "specific" else [scales]
        self.group_sizes = split_into_groups(num_video_tokens, len(self.scales_of_groups))
        self.num_aggregation_heads = 1 if aggregation == "linear" else num_heads
        self.uses_all_queries = False  # for a language model that cannot be told to pass tokens over
        self.gradient_checkpointing = False  # transformers switches it on by this name
        self._gradient_checkpointing_func: Callable = torch.utils.checkpoint.checkpoint

        self.queries = nn.Parameter(torch.empty(num_video_tokens, bottleneck_size))
        self.video_norm = nn.LayerNorm(bottleneck_size)
        if text_conditioned:
            self.text_norm = nn.LayerNorm(dim)
            self.text_projection = nn.Linear(dim, bottleneck_size)
        self.blocks = nn.ModuleList(
            AggregatorBlock(bottleneck_size, num_heads, text_conditioned) for _ in range(num_layers)
        )
        self.query_norm = nn.LayerNorm(bottleneck_size)
        self.aggregation_query = nn.Linear(bottleneck_size, bottleneck_size)
        self.aggregation_key = nn.Linear(bottleneck_size, bottleneck_size, bias=False)
        if init == "anchored":
            self.anchors = nn.Parameter(torch.empty(num_video_tokens, 3))
            self.anchor_log_widths = nn.Parameter(torch.empty(num_video_tokens, 3))
        elif init == "keyframes":
            # moved from even stretches, and not their places: those are finer than bfloat16 near the end of the axis
            self.stretch_shifts = nn.Parameter(torch.empty(num_video_tokens))
            self.stretch_log_softness = nn.Parameter(torch.empty(num_video_tokens))
        if aggregation == "nonlinear":
            self.resampler = Resampler(dim, bottleneck_size, num_heads)
        self.init_weights()

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        # as long as after a LayerNorm: at the authors' 0.02, what all queries see alike drowns what tells them apart
        nn.init.normal_(self.queries, std=1.0)
        for norm in (self.video_norm, self.query_norm):
            init_layer_norm(norm)
        if self.text_conditioned:
            init_layer_norm(self.text_norm)
            init_linear(self.text_projection)
        block: Any
        for block in self.blocks:
            block.init_weights()
        init_linear(self.aggregation_query)
        init_linear(self.aggregation_key)
        if self.init != "free":  # learned logits start at zero: untrained, the prior decides alone
            nn.init.zeros_(self.aggregation_query.weight)
        if self.init == "anchored":
            lattices = [anchor_lattice(size) for size in self.group_sizes]
            centres, spacings = (torch.cat(parts) for parts in zip(*lattices, strict=True))
            fill_parameter(self.anchors, centres)
            fill_parameter(self.anchor_log_widths, (spacings / 3).log())
        elif self.init == "keyframes":
            nn.init.zeros_(self.stretch_shifts)
            nn.init.constant_(self.stretch_log_softness, math.log(STRETCH_SOFTNESS))
        if self.aggregation == "nonlinear":
            self.resampler.init_weights()

    def forward(
        self,
        pools: list[PooledTokens],
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        used: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """
        Args:
            pools (`list[PooledTokens]`):
                The kept tokens at every scale in use.
            question_embeds (`torch.Tensor` of shape `(batch, num_text_tokens, dim)`, *optional*):
                Input embeddings of the question.
            question_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*):
                True at the question's tokens. A video whose row has none is treated as if there were no question.
            used (`torch.Tensor` of shape `(batch, num_video_tokens)`, *optional*):
                Of `used_queries`; all of them by default.

        Returns:
            `list[torch.Tensor]`: for each group, the weights of its windows, `(batch, num_aggregation_heads,
            queries_of_the_group, num_windows)`, float32; every row sums to 1. Queries that are not used repeat the
            last one of their group that is.
        """
        groups = self._group(pools)
        if used is None:
            used = pools[0].mask.new_ones(len(pools[0].mask), sum(self.group_sizes))
        where = "mass_positions" if self.init == "keyframes" else "places"
        states, log_significance, places, masks = (
            [torch.cat([getattr(pool, name) for pool in group], dim=1) for group in groups]
            for name in ("features", "log_significance", where, "mask")
        )
        states = [self.video_norm(features.to(self.video_norm.weight.dtype)) for features in states]
        queries = self._interact(states, masks, used, question_embeds, question_mask)
        used_of_groups = used.split(self.group_sizes, dim=1)
        priors = self._log_priors(places, masks, used_of_groups)
        grouped_queries = self.aggregation_query(self.query_norm(queries)).split(self.group_sizes, dim=1)
        weights = []
        for query, state, significance, prior, mask, is_used in zip(
            grouped_queries, states, log_significance, priors, masks, used_of_groups, strict=True
        ):
            logits = self._learned_logits(query, self.aggregation_key(state))
            logits = logits + (prior + significance.unsqueeze(1)).unsqueeze(1)
            logits = logits.masked_fill(~mask[:, None, None, :], torch.finfo(logits.dtype).min)
            weights.append(_repeat_last_used(logits.softmax(dim=-1), is_used))
        return weights

    @property
    def counts_what_is_new(self) -> bool:
        """Whether any query can be left out, because less is new in a video than there are queries."""
        return any(self._counts(scales) for scales in self.scales_of_groups)

    def _counts(self, scales: tuple[int, ...]) -> bool:
        return self.init == "keyframes" and scales == (1,) and not self.uses_all_queries

    def used_queries(self, num_used: torch.Tensor) -> torch.Tensor:
        """
        Which queries a batch of videos uses.

        With key frames a group that sees single slots uses its first queries, one for every slot (or cell) where there
        are fewer than queries; everything else uses all.

        Args:
            num_used (`torch.Tensor` of shape `(batch,)`):
                Of [`RefinedVideo`].

        Returns:
            `torch.Tensor` of shape `(batch, num_video_tokens)`, bool.
        """
        used = []
        for size, scales in zip(self.group_sizes, self.scales_of_groups, strict=True):
            number = torch.arange(size, device=num_used.device).expand(len(num_used), -1)
            everything = torch.ones_like(number, dtype=torch.bool)
            used.append(number < num_used.unsqueeze(1) if self._counts(scales) else everything)
        return torch.cat(used, dim=1)

    def resample(
        self, kept_tokens: torch.Tensor, pools: list[PooledTokens], weights: list[torch.Tensor]
    ) -> torch.Tensor:
        """
        The video tokens of `aggregation="nonlinear"`, from the weights that `forward` returned: not an average.

        Args:
            kept_tokens (`torch.Tensor` of shape `(batch, num_kept, dim)`):
                The kept frame tokens.
            pools (`list[PooledTokens]`):
                The kept tokens at every scale in use.
            weights (`list[torch.Tensor]`):
                For each group `(batch, num_aggregation_heads, queries_of_the_group, num_windows)`.

        Returns:
            `torch.Tensor` of shape `(batch, num_video_tokens, dim)`, in the dtype of `kept_tokens`.
        """
        return self.resampler(kept_tokens, self._group(pools), weights)

    def _group(self, pools: list[PooledTokens]) -> list[list[PooledTokens]]:
        """For each group of queries, the pools it sees."""
        by_scale = {pool.scale: pool for pool in pools}
        return [[by_scale[scale] for scale in scales] for scales in self.scales_of_groups]

    def _interact(
        self,
        states: list[torch.Tensor],
        masks: list[torch.Tensor],
        used: torch.Tensor,
        question_embeds: torch.Tensor | None,
        question_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        text = None
        if self.text_conditioned and question_embeds is not None:
            if question_mask is not None:  # what stands in the padding must not matter, not even if it is NaN
                question_embeds = question_embeds.masked_fill(~question_mask.unsqueeze(-1), 0.0)
            text = self.text_projection(self.text_norm(question_embeds.to(self.text_norm.weight.dtype)))
        queries = self.queries.expand(states[0].shape[0], -1, -1)
        for block in self.blocks:
            inputs = (queries, self.group_sizes, states, masks, text, question_mask, used)
            if self.gradient_checkpointing and self.training:
                queries = self._gradient_checkpointing_func(block.__call__, *inputs, use_reentrant=False)
            else:
                queries = block(*inputs)
        return queries

    def _learned_logits(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """`(batch, heads, queries, windows)` in float32."""
        dtype = accumulation_dtype(query.dtype)
        with without_autocast(query.device):
            query, key = (
                states.to(dtype).unflatten(-1, (self.num_aggregation_heads, -1)).transpose(1, 2)
                for states in (query, key)
            )
            return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5

    def _log_priors(
        self, places: list[torch.Tensor], masks: list[torch.Tensor], used: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """For each group `(batch, queries, windows)`: what the start of the queries says about every window."""
        dtype, narrowest, widest = places[0].dtype, *(math.log(limit) for limit in ANCHOR_WIDTH_LIMITS)
        if self.init == "keyframes":
            shifts = self.stretch_shifts.to(dtype).split(self.group_sizes)
            softness = self.stretch_log_softness.to(dtype).clamp(narrowest, widest).split(self.group_sizes)
            return [
                stretch_log_prior(place.squeeze(-1), shift, soft, mask, is_used.sum(1))
                for place, shift, soft, mask, is_used in zip(places, shifts, softness, masks, used, strict=True)
            ]
        if self.init == "anchored":
            anchors = self.anchors.to(dtype).split(self.group_sizes)
            widths = self.anchor_log_widths.to(dtype).clamp(narrowest, widest).exp().split(self.group_sizes)
            return [gaussian_log_prior(*group) for group in zip(places, anchors, widths, strict=True)]
        return [
            place.new_zeros(place.shape[0], size, place.shape[1])
            for place, size in zip(places, self.group_sizes, strict=True)
        ]


def _repeat_last_used(weights: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Weights `(batch, heads, queries, windows)`, those of unused queries replaced by the last used one's."""
    number = torch.arange(used.shape[1], device=used.device)
    source = torch.minimum(number, used.sum(1, keepdim=True) - 1)
    return weights.gather(2, source[:, None, :, None].expand_as(weights))


class Resampler(nn.Module):
    """
    The ablation `aggregation="nonlinear"`: value and output projections around the same weights, one set per head.

    Its tokens are **not** weighted averages of frame tokens: a constant video does not give constant tokens, and the
    tokens may leave what the LLM knows as visual tokens. It exists to measure what linearity costs or brings.

    Args:
        dim (`int`):
            Width of the tokens.
        bottleneck_size (`int`):
            Width of the values, a multiple of `num_heads`.
        num_heads (`int`):
            Number of heads.
    """

    def __init__(self, dim: int, bottleneck_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.value = nn.Linear(dim, bottleneck_size)
        self.output = nn.Linear(bottleneck_size, dim)

    def init_weights(self) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        init_linear(self.value)
        init_linear(self.output)

    def forward(
        self, kept_tokens: torch.Tensor, groups: list[list[PooledTokens]], weights: list[torch.Tensor]
    ) -> torch.Tensor:
        """
        Args:
            kept_tokens (`torch.Tensor` of shape `(batch, num_kept, dim)`):
                The kept frame tokens.
            groups (`list[list[PooledTokens]]`):
                The pools each group sees.
            weights (`list[torch.Tensor]`):
                What the aggregator returned, `(batch, num_heads, queries_of_the_group, num_windows)` per group.

        Returns:
            `torch.Tensor` of shape `(batch, num_video_tokens, dim)`, in the dtype of `kept_tokens`.
        """
        values = self.value(kept_tokens.to(self.value.weight.dtype))
        tokens = []
        for group, group_weights in zip(groups, weights, strict=True):
            pooled = torch.cat([pool_slots(values, pool.weights, pool.scale, pool.shift) for pool in group], dim=1)
            heads = pooled.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            tokens.append((group_weights.to(heads.dtype) @ heads).transpose(1, 2).flatten(2))
        return self.output(torch.cat(tokens, dim=1)).to(kept_tokens.dtype)
