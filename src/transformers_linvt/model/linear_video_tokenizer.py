"""
The linear video tokenizer: SVR and TTA put together, and the weights they compose to.

`video_tokens = W @ frame_tokens`, every row of W non-negative with sum 1. This file is the only place where frame
tokens are multiplied by anything.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import nn

from .aggregation import TextConditionedTokenAggregator
from .contrastive_head import ContrastiveEmbeddings, ContrastiveHead
from .errors import LinVTInputError
from .keyframes import KEPT_PER_VIDEO_TOKEN, Runs, average_runs, find_new_tokens, gather_runs, single_tokens
from .precision import accumulation_dtype, without_autocast
from .significance import (
    RefinedVideo,
    SignificanceScorer,
    count_windows,
    frame_times,
    infer_grid_size,
    pool_at_scale,
    select_most_significant,
    select_uniformly,
    token_places,
    windows_of_slots,
)


CHOICES = {
    "scale_mode": ("single", "shared", "specific"),
    "selection": ("learned", "novelty", "uniform", "none"),
    "aggregation": ("linear", "nonlinear"),
    "init": ("keyframes", "anchored", "free"),
}


@dataclass
class FactoredWeights:
    """
    The weights `W` of a batch of videos, `video_tokens = W @ frame_tokens`, kept as the factors they come from: frame
    tokens are averaged into slots (runs of a token that repeats, or a kept token by itself), slots are pooled in
    windows, and windows are aggregated.

    W says, exactly, how much of which frame and place is in every video token. It is the same map for anything aligned
    with the frame tokens: `apply` moves deepstack features, times or positions as it moves the tokens.

    Args:
        kept_indices (`torch.Tensor` of shape `(batch, num_kept)`):
            Index of the kept token of each slot, or of the first token of its run, in the flattened `(num_frames,
            tokens_per_frame)` video: frame `index // tokens_per_frame`, place `index % tokens_per_frame`. Empty slots
            repeat the first.
        kept_mask (`torch.Tensor` of shape `(batch, num_kept)`):
            True where the slot is filled.
        run_slots (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            For every frame token the slot it is averaged into; 0 where it is in none.
        run_weights (`torch.Tensor` of the same shape):
            Its weight in that slot, float32; they sum to 1 in every filled slot.
        pooling (`tuple[torch.Tensor, ...]` of shapes `(batch, num_kept)`):
            For each of `scales`, the weight of each slot in its window.
        aggregation (`tuple[torch.Tensor, ...]` of shapes `(batch, tokens_of_the_group, num_windows)`):
            For each group of video tokens, the weights of the windows it sees, scale after scale.
        scales (`tuple[int, ...]`):
            Kept tokens per window.
        scales_of_groups (`tuple[tuple[int, ...], ...]`):
            The scales each group sees.
        num_frames (`int`):
            Frames per video, padding included.
        tokens_per_frame (`int`):
            Tokens per frame, padding included.
        shift (`bool`):
            Whether windows start half a window earlier.
        is_exact (`bool`):
            False for `aggregation="nonlinear"`: there the weights are the mean over the resampler's heads, and the
            video tokens are *not* `W @ frame_tokens`.
    """

    kept_indices: torch.Tensor
    kept_mask: torch.Tensor
    run_slots: torch.Tensor
    run_weights: torch.Tensor
    pooling: tuple[torch.Tensor, ...]
    aggregation: tuple[torch.Tensor, ...]
    scales: tuple[int, ...]
    scales_of_groups: tuple[tuple[int, ...], ...]
    num_frames: int
    tokens_per_frame: int
    shift: bool = False
    is_exact: bool = True

    def kept(self) -> torch.Tensor:
        """Weight of every slot in every video token: `(batch, num_video_tokens, num_kept)`, float32."""
        pooling = dict(zip(self.scales, self.pooling, strict=True))
        num_slots, device = self.kept_indices.shape[1], self.kept_indices.device
        groups = []
        for weights, scales in zip(self.aggregation, self.scales_of_groups, strict=True):
            sizes = [count_windows(num_slots, scale, self.shift) for scale in scales]
            composed = 0.0
            for part, scale in zip(weights.split(sizes, dim=-1), scales, strict=True):
                per_slot = part.index_select(-1, windows_of_slots(num_slots, scale, self.shift, device))
                composed = composed + per_slot * pooling[scale].unsqueeze(1)
            groups.append(composed)
        return torch.cat(groups, dim=1)

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """
        Share what slots have among the frame tokens that were averaged into them, by their weight there.

        Args:
            values (`torch.Tensor` of shape `(batch, rows, num_kept)`):
                One value per slot.

        Returns:
            `torch.Tensor` of shape `(batch, rows, num_frames * tokens_per_frame)`; sums over tokens are those over
            the filled slots.
        """
        index = self.run_slots.unsqueeze(1).expand(-1, values.shape[1], -1)
        return values.gather(-1, index) * self.run_weights.unsqueeze(1).to(values.dtype)

    def dense(self) -> torch.Tensor:
        """W itself, `(batch, num_video_tokens, num_frames * tokens_per_frame)`, float32; every row sums to 1."""
        return self.spread(self.kept())

    def per_frame(self) -> torch.Tensor:
        """Share of every frame in every video token: `(batch, num_video_tokens, num_frames)`, rows sum to 1."""
        weights = self.kept()
        frame = torch.arange(self.run_slots.shape[1], device=weights.device) // self.tokens_per_frame
        frames_of_slots = weights.new_zeros(len(weights), weights.shape[2] * self.num_frames)
        frames_of_slots.scatter_add_(1, self.run_slots * self.num_frames + frame, self.run_weights.to(weights.dtype))
        return weights @ frames_of_slots.view(len(weights), -1, self.num_frames)

    def cells(self, grid_sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """
        Time, row and column of every video token: where the slot begins that weighs most in it.

        Times are counted, not measured: 0 for the video tokens of the earliest frame that has any, 1 for those of the
        next. So of a still video they are the rows and columns of its picture.

        Args:
            grid_sizes (sequence of `(rows, columns)`):
                Grid of each video, tokens in reading order.

        Returns:
            `torch.Tensor` of shape `(batch, num_video_tokens, 3)`, integers.
        """
        start = self.kept_indices.gather(1, self.kept().argmax(dim=-1))
        frame, place = start // self.tokens_per_frame, start % self.tokens_per_frame
        columns = torch.tensor([grid[1] for grid in grid_sizes], device=start.device).unsqueeze(1)
        time = torch.stack([video.unique(return_inverse=True)[1] for video in frame])
        return torch.stack([time, place // columns, place % columns], dim=-1)

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """
        Condense anything that has one row per frame token, exactly as the frame tokens were condensed.

        Args:
            values (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, width)`):
                Values aligned with the frame tokens.

        Returns:
            `torch.Tensor` of shape `(batch, num_video_tokens, width)`, in the dtype of `values`; computed in float32.

        Raises:
            `LinVTInputError`: if the values are not aligned with the frame tokens.
        """
        return self.apply_to_kept(self.average(values))

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """
        The first factor of `apply`: the average of every slot, `(batch, num_kept, width)`.

        Args and errors: as `apply`.
        """
        expected = (self.kept_indices.shape[0], self.num_frames, self.tokens_per_frame)
        if values.dim() != 4 or values.shape[:3] != expected:
            raise LinVTInputError(
                f"Values must have one row per frame token, shape ({', '.join(map(str, expected))}, width), got "
                f"{tuple(values.shape)}. Pad them as the frame tokens were padded."
            )
        return average_runs(values, self.run_slots, self.run_weights, self.kept_indices.shape[1])

    def apply_to_kept(self, values: torch.Tensor) -> torch.Tensor:
        """`apply` for values `(batch, num_kept, width)` that were averaged over the runs of the slots before."""
        dtype = accumulation_dtype(values.dtype)
        # one product in float32, autocast or not: in bfloat16 the rows of W would sum to 1 within 1 % only
        with without_autocast(values.device):
            return (self.kept().to(dtype) @ values.to(dtype)).to(values.dtype)

    def select(self, videos: torch.Tensor | Sequence[int]) -> "FactoredWeights":
        """The weights of the videos at these positions of the batch."""
        index = torch.as_tensor(videos, dtype=torch.long, device=self.kept_indices.device)
        return self._map(lambda tensor: tensor.index_select(0, index))

    def to(self, device: torch.device | str) -> "FactoredWeights":
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def detach(self) -> "FactoredWeights":
        """The same without the graph that computed it."""
        return self._map(lambda tensor: tensor.detach())

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "FactoredWeights":
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                changed[field.name] = function(value)
            elif field.name in ("pooling", "aggregation"):
                changed[field.name] = tuple(function(tensor) for tensor in value)
        return replace(self, **changed)


@dataclass
class LinearVideoTokenizerOutput:
    """
    What `LinearVideoTokenizer` returns.

    Args:
        video_tokens (`torch.Tensor` of shape `(batch, num_video_tokens, dim)`):
            The condensed video, in the dtype of the frame tokens.
        kept_indices (`torch.Tensor` of shape `(batch, num_kept)`):
            Which tokens were kept; see `FactoredWeights`.
        significance (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Significance of every token in [0, 1], float32.
        weights (`FactoredWeights`):
            `W`.
        contrast (`ContrastiveEmbeddings`, *optional*):
            Of videos and captions, where captions were given.
        kept_tokens (`torch.Tensor` of shape `(batch, num_kept, dim)`, *optional*):
            What the video tokens are averages of, `weights.kept() @ kept_tokens`.
        attribution (`torch.Tensor` of shape `(batch, num_kept)`, *optional*):
            How much of an answer's log-probability is due to each slot, in nats, float32; 0 where the slot is empty.
            Filled where there is an answer, see `attribution.py`.
        answer_log_probs (`torch.Tensor` of shape `(batch, 2)`, *optional*):
            Log-probability of the answer with the video, and with the mean frame token in place of every video token;
            the attribution sums to the difference.
    """

    video_tokens: torch.Tensor
    kept_indices: torch.Tensor
    significance: torch.Tensor
    weights: FactoredWeights
    contrast: ContrastiveEmbeddings | None = None
    kept_tokens: torch.Tensor | None = None
    attribution: torch.Tensor | None = None
    answer_log_probs: torch.Tensor | None = None


class LinearVideoTokenizer(nn.Module):
    """
    Condense the frame tokens of a video into a fixed number of video tokens, each a weighted average of frame tokens.

    Relations: SVR scores and keeps tokens without knowing the question (`refine`), TTA weighs them knowing it
    (`aggregate`); `forward` is the one after the other. In the paper's terms *k* is `num_kept_tokens`, *d* is
    `bottleneck_size`. All learned projections live in the branch that computes the weights, `bottleneck_size` wide.

    Args:
        dim (`int`):
            Width of the frame tokens and of the question's embeddings: the LLM's.
        num_video_tokens (`int`, *optional*, defaults to 256):
            Tokens a video becomes. Ours (the paper's value is not public; its code has 16, 32 and 64).
        num_kept_tokens (`int`, *optional*):
            Most slots kept before aggregation: runs with key frames, else tokens, and at most all there are. Four per
            video token by default, which is 1,024 of 256, as in the paper's code.
        pooling_scales (`tuple[int, ...]`, *optional*, defaults to `(1, 2, 4)`):
            Kept tokens per pooling window, at each scale. The paper's code.
        scale_mode (`str`, *optional*, defaults to `"single"`):
            `"specific"`: one group of queries per scale (the paper's best, "Multi-C"); each group shares the whole
            video among its own queries, so that a still picture comes out three times, at half and a quarter of M.
            `"shared"`: one group that sees all scales at once. `"single"`: the first scale only; a still picture comes
            out as it is. The paper's A and B are not defined publicly; these are our reading.
        bottleneck_size (`int`, *optional*, defaults to 512):
            Width of the weight branch; never more than `dim`, rounded down to a multiple of `num_heads`. Ours (the
            paper's code works at full width and has 2 billion parameters at `dim=3584`).
        num_heads (`int`, *optional*, defaults to 8):
            Attention heads of the weight branch. The paper's demos (its training code passes 4, apparently swapped
            with the layers).
        num_scorer_layers (`int`, *optional*, defaults to 2):
            Blocks of the scorer; 0 scores every token by itself. Ours.
        num_aggregator_layers (`int`, *optional*, defaults to 4):
            Blocks of the aggregator, at least 1. The paper's demos.
        temporal_window (`int`, *optional*, defaults to 16):
            Frames that see each other in one temporal attention; 1 switches temporal attention off. Ours.
        selection (`str`, *optional*, defaults to `"learned"`):
            How tokens are kept: by `"learned"` scores (the paper), by `"novelty"` (parameter-free), `"uniform"`ly, or
            `"none"`: all of them, with learned scores as weights only. The last three are ablations of ours.
        aggregation (`str`, *optional*, defaults to `"linear"`):
            `"nonlinear"` is the ablation that **gives up the invariant**: value and output projections and several
            heads, a resampler.
        text_conditioned (`bool`, *optional*, defaults to `True`):
            Whether the question is looked at. The paper's ablation.
        init (`str`, *optional*, defaults to `"keyframes"`):
            `"keyframes"`: untrained, the tokens are the first frame and then what changes, in the order of time, and
            what repeats is averaged; for use without training. `"anchored"`: local averages over a lattice of time,
            rows and columns, weighted by novelty. `"free"`: usual initialisation. Ours.
        shift_windows (`bool`, *optional*, defaults to `False`):
            Start pooling windows half a window earlier. The paper says "shifted-window", its code has no shift.
        contrastive_size (`int`, *optional*, defaults to 0):
            Width of the space in which stage 1 compares videos and captions; 0 is no head for that. Ours.

    Raises:
        `LinVTInputError`: for values that make no tokenizer.

    Example:

    >>> tokenizer = LinearVideoTokenizer(dim=16, num_video_tokens=4, bottleneck_size=8, num_heads=2)
    >>> output = tokenizer(torch.ones(1, 3, 6, 16))  # 3 frames that repeat are 6 runs
    >>> output.video_tokens.shape, output.kept_indices.shape
    (torch.Size([1, 4, 16]), torch.Size([1, 6]))
    >>> bool((output.weights.dense().sum(-1) - 1).abs().max() < 1e-6)
    True
    """

    def __init__(
        self,
        dim: int,
        num_video_tokens: int = 256,
        num_kept_tokens: int | None = None,
        pooling_scales: Sequence[int] = (1, 2, 4),
        scale_mode: str = "single",
        bottleneck_size: int = 512,
        num_heads: int = 8,
        num_scorer_layers: int = 2,
        num_aggregator_layers: int = 4,
        temporal_window: int = 16,
        selection: str = "learned",
        aggregation: str = "linear",
        text_conditioned: bool = True,
        init: str = "keyframes",
        shift_windows: bool = False,
        contrastive_size: int = 0,
    ) -> None:
        super().__init__()
        check_integers(
            minimum=1,
            dim=dim,
            num_video_tokens=num_video_tokens,
            num_kept_tokens=1 if num_kept_tokens is None else num_kept_tokens,
            bottleneck_size=bottleneck_size,
            num_heads=num_heads,
            num_aggregator_layers=num_aggregator_layers,
            temporal_window=temporal_window,
        )
        check_integers(minimum=0, num_scorer_layers=num_scorer_layers, contrastive_size=contrastive_size)
        check_choices(scale_mode=scale_mode, selection=selection, aggregation=aggregation, init=init)
        check_flags(text_conditioned=text_conditioned, shift_windows=shift_windows)
        scales = check_scales(pooling_scales, scale_mode, num_video_tokens)

        self.dim = dim
        self.num_video_tokens = num_video_tokens
        self.num_kept_tokens = KEPT_PER_VIDEO_TOKEN * num_video_tokens if num_kept_tokens is None else num_kept_tokens
        self.scales = scales
        self.scale_mode = scale_mode
        self.bottleneck_size = bottleneck_width(dim, bottleneck_size, num_heads)
        self.selection = selection
        self.aggregation = aggregation
        self.text_conditioned = text_conditioned
        self.init = init
        self.shift_windows = shift_windows
        self.scorer = SignificanceScorer(
            dim, self.bottleneck_size, num_heads, num_scorer_layers, temporal_window, selection, init
        )
        self.aggregator = TextConditionedTokenAggregator(
            dim,
            num_video_tokens,
            scales,
            scale_mode,
            self.bottleneck_size,
            num_heads,
            num_aggregator_layers,
            aggregation,
            text_conditioned,
            init,
        )
        self.contrastive_head = ContrastiveHead(dim, contrastive_size) if contrastive_size else None

    @property
    def scorer_blocks(self) -> nn.ModuleList:
        """The blocks of SVR."""
        return self.scorer.blocks

    @property
    def aggregator_blocks(self) -> nn.ModuleList:
        """The blocks of TTA."""
        return self.aggregator.blocks

    def init_weights(self) -> None:
        """
        (Re)initialise everything; the same torch seed gives the same weights.

        To be called again after a module built on the meta device was given memory. Parameters that transformers
        marked as loaded from a checkpoint stay as they are while its initialisation runs.
        """
        self.scorer.init_weights()
        self.aggregator.init_weights()
        if self.contrastive_head is not None:
            self.contrastive_head.init_weights()

    def extra_repr(self) -> str:
        """The numbers that the submodules do not show."""
        return (
            f"dim={self.dim}, num_video_tokens={self.num_video_tokens}, num_kept_tokens={self.num_kept_tokens}, "
            f"scales={self.scales}, scale_mode={self.scale_mode!r}, bottleneck_size={self.bottleneck_size}, "
            f"selection={self.selection!r}, aggregation={self.aggregation!r}, "
            f"text_conditioned={self.text_conditioned}, init={self.init!r}, shift_windows={self.shift_windows}"
        )

    def forward(
        self,
        frame_tokens: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        grid_sizes: Sequence[tuple[int, int]] | None = None,
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        caption_embeds: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
    ) -> LinearVideoTokenizerOutput:
        """
        `aggregate(refine(...))`; see there for the arguments. With captions, `contrast` compares them with the videos
        as condensed without a question (which would give the caption's words away); SVR runs once for both.

        Args:
            frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
                Visual tokens of the sampled frames.
            frame_mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True where a token exists.
            timestamps (`torch.Tensor` of shape `(batch, num_frames)`, *optional*):
                Seconds.
            grid_sizes (sequence of `(rows, columns)`, *optional*):
                Grid of each video's tokens.
            question_embeds (`torch.Tensor` of shape `(batch, num_text_tokens, dim)`, *optional*):
                Input embeddings of the question.
            question_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*):
                True at the question's tokens.
            caption_embeds (`torch.Tensor` of shape `(batch, length, dim)`, *optional*):
                Input embeddings that hold the caption of each video.
            caption_mask (`torch.Tensor` of shape `(batch, length)`, *optional*):
                True at the caption's tokens.

        Returns:
            [`LinearVideoTokenizerOutput`]

        Raises:
            `LinVTInputError`: captions without a contrastive head.
        """
        refined = self.refine(frame_tokens, frame_mask, timestamps, grid_sizes)
        output = self.aggregate(refined, question_embeds, question_mask)
        if caption_embeds is None:
            return output
        if self.contrastive_head is None or caption_mask is None:
            raise LinVTInputError(
                "Captions need caption_mask and a contrastive head: make the model with contrastive_size=256, or call "
                "model.add_contrastive_head()."
            )
        blind = output if question_embeds is None else self.aggregate(refined)
        return replace(output, contrast=self.contrastive_head(blind.video_tokens, caption_embeds, caption_mask))

    def refine(
        self,
        frame_tokens: torch.Tensor,
        frame_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        grid_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RefinedVideo:
        """
        SVR: score all tokens and keep the most significant, jointly over frames and places. Knows no question.

        Videos of different length or size are padded at the end of both axes and masked; padding changes nothing.

        Args:
            frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
                Visual tokens of the sampled frames, as the LLM would get them.
            frame_mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True (or 1) where a token exists; everywhere by default.
            timestamps (`torch.Tensor` of shape `(batch, num_frames)`, *optional*):
                Seconds of each frame. Without them frame i counts as second i.
            grid_sizes (sequence of `(rows, columns)`, *optional*):
                Grid of each video's tokens, in reading order; tokens beyond it (a newline token) are placed in the
                last corner. Inferred by `infer_grid_size` if not given.

        Returns:
            [`RefinedVideo`]

        Raises:
            `LinVTInputError`: for shapes that do not fit together, a video without a single token, or timestamps that
            are not finite.
        """
        check_frame_tokens(frame_tokens, self.dim)
        batch, num_frames, tokens_per_frame, _ = frame_tokens.shape
        mask = check_frame_mask(frame_mask, frame_tokens)
        full_mask = frame_tokens.new_ones(frame_tokens.shape[:3], dtype=torch.bool) if mask is None else mask
        check_timestamps(timestamps, full_mask)
        grids = check_grid_sizes(grid_sizes, mask, batch, tokens_per_frame)
        if mask is not None:  # what stands in the padding has weight 0, and must not matter even if it is NaN
            frame_tokens = frame_tokens.masked_fill(~mask.unsqueeze(-1), 0.0)

        seconds, fractions = frame_times(timestamps, full_mask.any(dim=2))
        places = token_places(grids, tokens_per_frame, frame_tokens.device)
        hidden, scores = self.scorer(frame_tokens, mask, seconds, fractions, places)
        log_significance, kept = self._keep(frame_tokens, full_mask, grids, scores)
        positions = torch.cat(
            [
                fractions[:, :, None, None].expand(-1, -1, tokens_per_frame, -1),
                places.unsqueeze(1).expand(-1, num_frames, -1, -1),
            ],
            dim=-1,
        )
        num_slots = kept.starts.shape[1]
        kept_tokens, kept_features, kept_places = (
            average_runs(values, kept.slots, kept.weights, num_slots) for values in (frame_tokens, hidden, positions)
        )
        mass = kept.mass.clamp(min=torch.finfo(kept.mass.dtype).tiny)
        return RefinedVideo(
            kept_tokens=kept_tokens,
            kept_features=kept_features,
            kept_indices=kept.starts,
            kept_mask=kept.filled,
            log_significance=mass.log().masked_fill(~kept.filled, 0.0),
            places=kept_places,
            mass_positions=kept.positions,
            run_slots=kept.slots,
            run_weights=kept.weights,
            significance=log_significance.exp().masked_fill(~full_mask, 0.0),
        )

    def _keep(
        self,
        frame_tokens: torch.Tensor,
        mask: torch.Tensor,
        grids: Sequence[tuple[int, int]],
        scores: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Runs]:
        """Log-significance of every frame token, and what is kept of the video."""
        new = None
        if self.scorer.starts_from_keyframes:
            allowance = self.scorer.allowance(scores)
            sizes = (self.num_video_tokens, self.num_kept_tokens)
            new = find_new_tokens(frame_tokens, mask, grids, *sizes, allowance=allowance)
            scores = self.scorer.score_new_tokens(new, scores)
        log_significance = torch.zeros_like(mask, dtype=torch.float32) if scores is None else F.logsigmoid(scores)
        if new is not None and self.selection != "none":
            return log_significance, gather_runs(new, log_significance.exp(), mask, *sizes)
        flat_mask = mask.flatten(1)
        num_tokens = flat_mask.shape[1]
        num_slots = num_tokens if self.selection == "none" else min(self.num_kept_tokens, num_tokens)
        if self.selection in ("uniform", "none"):
            indices, filled = select_uniformly(flat_mask, num_slots)
        else:
            indices, filled = select_most_significant(scores.flatten(1), flat_mask, num_slots)
        return log_significance, single_tokens(indices, filled, log_significance.exp().flatten(1))

    def aggregate(
        self,
        refined: RefinedVideo,
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> LinearVideoTokenizerOutput:
        """
        TTA: condense refined videos, knowing the question.

        Args:
            refined ([`RefinedVideo`]):
                What `refine` returned, one row per question (`RefinedVideo.select` repeats rows).
            question_embeds (`torch.Tensor` of shape `(batch, num_text_tokens, dim)`, *optional*):
                Input embeddings of the question. Not looked at with `text_conditioned=False`.
            question_mask (`torch.Tensor` of shape `(batch, num_text_tokens)`, *optional*):
                True (or 1) at the question's tokens; everywhere by default. A row without any is treated exactly as if
                there were no question.

        Returns:
            [`LinearVideoTokenizerOutput`]

        Raises:
            `LinVTInputError`: for shapes that do not fit together.
        """
        check_refined(refined, self.dim, self.bottleneck_size)
        question_embeds, question_mask = check_question(
            question_embeds, question_mask, refined.kept_tokens.shape[0], self.dim
        )
        pools = [pool_at_scale(refined, scale, self.shift_windows) for scale in self.scales]
        aggregation = self.aggregator(pools, question_embeds, question_mask)
        weights = FactoredWeights(
            kept_indices=refined.kept_indices,
            kept_mask=refined.kept_mask,
            run_slots=refined.run_slots,
            run_weights=refined.run_weights,
            pooling=tuple(pool.weights for pool in pools),
            aggregation=tuple(group.mean(dim=1) for group in aggregation),
            scales=self.scales,
            scales_of_groups=tuple(self.aggregator.scales_of_groups),
            num_frames=refined.num_frames,
            tokens_per_frame=refined.tokens_per_frame,
            shift=self.shift_windows,
            is_exact=self.aggregation == "linear",
        )
        if self.aggregation == "linear":
            video_tokens = weights.apply_to_kept(refined.kept_tokens)
        else:
            video_tokens = self.aggregator.resample(refined.kept_tokens, pools, aggregation)
        return LinearVideoTokenizerOutput(
            video_tokens,
            refined.kept_indices,
            refined.significance,
            weights,
            kept_tokens=refined.kept_tokens,
        )


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


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
    grids = [tuple(int(size) for size in grid) for grid in grid_sizes]
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
    """The question and its mask as bool; an empty one is none."""
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
