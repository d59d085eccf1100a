"""
The linear video tokenizer: SVR and TTA put together, and the weights they compose to.

`video_tokens = W @ frame_tokens`, every row of W non-negative with sum 1. This file is the only place where frame
tokens are multiplied by anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import LinVTInputError
from ..summaries import short_repr
from .aggregation import TextConditionedTokenAggregator
from .checks import (
    bottleneck_width,
    check_choices,
    check_flags,
    check_frame_mask,
    check_frame_tokens,
    check_grid_sizes,
    check_integers,
    check_question,
    check_refined,
    check_scales,
    check_timestamps,
)
from .contrastive_head import ContrastiveEmbeddings, ContrastiveHead
from .keyframes import KEPT_PER_VIDEO_TOKEN, Runs, average_runs, gather_runs, single_tokens
from .places import frame_times, positions_of, token_places
from .pooling import pool_at_scale
from .selection import RefinedVideo, select_most_significant, select_uniformly
from .significance import SignificanceScorer
from .weights import FactoredWeights
from .whole_cells import find_what_is_new


@dataclass
class LinearVideoTokenizerOutput:
    """
    What `LinearVideoTokenizer` returns.

    Args:
        video_tokens (`torch.Tensor` of shape `(batch, num_video_tokens, dim)`):
            The condensed video, in the dtype of the frame tokens. Only those of `weights.used` are to be seen.
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
    """

    video_tokens: torch.Tensor
    kept_indices: torch.Tensor
    significance: torch.Tensor
    weights: FactoredWeights
    contrast: ContrastiveEmbeddings | None = None
    kept_tokens: torch.Tensor | None = None

    __repr__ = short_repr  # numbers by the thousand say nothing


class LinearVideoTokenizer(nn.Module):
    """
    Condense the frame tokens of a video into a fixed number of video tokens, each a weighted average of frame tokens.

    Relations: SVR scores and keeps tokens without knowing the question (`refine`), TTA weighs them knowing it
    (`aggregate`); `forward` is the one after the other. In the paper's terms *k* is `num_kept_tokens`, *d* is
    `bottleneck_size`. All learned projections live in the branch that computes the weights, `bottleneck_size` wide.

    Where a default is from, the paper, its code or ours, is said once, in [`~transformers_linvt.LinVTConfig`].

    Args:
        dim (`int`):
            Width of the frame tokens and of the question's embeddings: the LLM's.
        num_video_tokens (`int`, *optional*, defaults to 256):
            Tokens a video becomes.
        num_kept_tokens (`int`, *optional*):
            Most slots kept before aggregation: runs with key frames, else tokens, and at most all there are. Four per
            video token by default.
        pooling_scales (`tuple[int, ...]`, *optional*, defaults to `(1, 2, 4)`):
            Kept tokens per pooling window, at each scale.
        scale_mode (`str`, *optional*, defaults to `"single"`):
            `"specific"`: one group of queries per scale (the paper's best, "Multi-C"); each group shares the whole
            video among its own queries, so that a still picture comes out three times, at half and a quarter of M.
            `"shared"`: one group that sees all scales at once. `"single"`: the first scale only; a still picture comes
            out as it is. The paper's A and B are not defined publicly; these are our reading.
        bottleneck_size (`int`, *optional*, defaults to 512):
            Width of the weight branch; never more than `dim`, rounded down to a multiple of `num_heads`. (At full
            width, as in the paper's code, it would be 2 billion parameters at `dim=3584`.)
        num_heads (`int`, *optional*, defaults to 8):
            Attention heads of the weight branch.
        num_scorer_layers (`int`, *optional*, defaults to 2):
            Blocks of the scorer; 0 scores every token by itself.
        num_aggregator_layers (`int`, *optional*, defaults to 4):
            Blocks of the aggregator, at least 1.
        temporal_window (`int`, *optional*, defaults to 16):
            Frames that see each other in one temporal attention; 1 switches temporal attention off.
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
            rows and columns, weighted by novelty. `"free"`: usual initialisation.
        shift_windows (`bool`, *optional*, defaults to `False`):
            Start pooling windows half a window earlier.
        contrastive_size (`int`, *optional*, defaults to 0):
            Width of the space in which stage 1 compares videos and captions; 0 is no head for that.

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
        queries = (num_video_tokens, scales, scale_mode)
        width = (self.bottleneck_size, num_heads, num_aggregator_layers)
        self.aggregator = TextConditionedTokenAggregator(dim, *queries, *width, aggregation, text_conditioned, init)
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
        frame_tokens: torch.Tensor | Sequence[torch.Tensor],
        frame_mask: torch.Tensor | None = None,
        timestamps: torch.Tensor | Sequence[torch.Tensor] | None = None,
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
                Visual tokens of the sampled frames; or a sequence of videos of any shapes `(num_frames,
                tokens_per_frame, dim)`, which cost what each of them costs and not what the longest does.
            frame_mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
                True where a token exists; not with a sequence.
            timestamps (`torch.Tensor` of shape `(batch, num_frames)`, *optional*):
                Seconds; of a sequence of videos a sequence.
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
        if isinstance(frame_tokens, torch.Tensor):
            if timestamps is not None and not isinstance(timestamps, torch.Tensor):
                raise LinVTInputError(
                    f"timestamps of {len(frame_tokens)} videos in one tensor came as a {type(timestamps).__name__}. "
                    "Stack them, (batch, num_frames)."
                )
            refined = self.refine(frame_tokens, frame_mask, timestamps, grid_sizes)
        else:
            if frame_mask is not None:
                raise LinVTInputError(
                    "A sequence of videos has no padding, so frame_mask has no meaning. Leave it out."
                )
            refined = self.refine_each(frame_tokens, timestamps, grid_sizes)
        output = self.aggregate(refined, question_embeds, question_mask)
        if caption_embeds is None:
            return output
        if self.contrastive_head is None or caption_mask is None:
            raise LinVTInputError(
                "Captions need caption_mask and a contrastive head: make the model with contrastive_size=256, or call "
                "model.add_contrastive_head()."
            )
        blind = output if question_embeds is None else self.aggregate(refined)
        return replace(
            output,
            contrast=self.contrastive_head(blind.video_tokens, blind.weights.used, caption_embeds, caption_mask),
        )

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
        batch, _, tokens_per_frame, _ = frame_tokens.shape
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
        positions = positions_of(fractions, places)
        num_slots = kept.starts.shape[1]
        kept_tokens, kept_features, kept_places = (
            average_runs(values, kept.slots, kept.weights, num_slots) for values in (frame_tokens, hidden, positions)
        )
        significance = log_significance.exp().masked_fill(~full_mask, 0.0)
        return RefinedVideo.of_runs(kept, kept_tokens, kept_features, kept_places, significance)

    def refine_each(
        self,
        videos: Sequence[torch.Tensor],
        timestamps: Sequence[torch.Tensor] | torch.Tensor | None = None,
        grid_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> RefinedVideo:
        """
        `refine` for videos of different shapes, of which only what is kept is padded to one batch.

        Videos of one shape go through SVR together. In several processes each goes by itself: where weights are
        sharded, all processes have to make as many calls, whatever the shapes of their videos.

        Args:
            videos (sequence of `torch.Tensor` of shapes `(num_frames, tokens_per_frame, dim)`).
            timestamps (sequence of `torch.Tensor` of shapes `(num_frames,)`, *optional*): seconds.
            grid_sizes (sequence of `(rows, columns)`, *optional*): see `refine`.

        Raises:
            `LinVTInputError`: see `refine`.
        """
        groups: dict[object, list[int]] = {}
        for number, video in enumerate(videos):
            groups.setdefault(number if _in_several_processes() else video.shape[:2], []).append(number)
        refined: dict[int, RefinedVideo] = {}
        for numbers in groups.values():
            together = self.refine(
                torch.stack([videos[number] for number in numbers]),
                timestamps=torch.stack([timestamps[number] for number in numbers]) if timestamps is not None else None,
                grid_sizes=[grid_sizes[number] for number in numbers] if grid_sizes is not None else None,
            )
            if len(groups) == 1:
                return together
            for row, number in enumerate(numbers):
                refined[number] = together if len(numbers) == 1 else together.select([row])
        return RefinedVideo.stack([refined[number] for number in range(len(videos))])

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
            new = find_what_is_new(frame_tokens, mask, grids, *sizes, allowance=allowance)
            scores = self.scorer.score_new_tokens(new, scores)
        log_significance = torch.zeros_like(mask, dtype=torch.float32) if scores is None else F.logsigmoid(scores)
        if new is not None and self.selection != "none":
            return log_significance, gather_runs(new, log_significance.exp(), mask, *sizes)
        flat_mask = mask.flatten(1)
        num_tokens = flat_mask.shape[1]
        num_slots = num_tokens if self.selection == "none" else min(self.num_kept_tokens, num_tokens)
        if scores is None or self.selection in ("uniform", "none"):
            indices, filled = select_uniformly(flat_mask, num_slots)
        else:
            indices, filled = select_most_significant(scores.flatten(1), flat_mask, num_slots)
        return log_significance, single_tokens(
            indices, filled, log_significance.exp().flatten(1), self.num_video_tokens
        )

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
        used = self.aggregator.used_queries(refined.num_used)
        aggregation = self.aggregator(pools, question_embeds, question_mask, used)
        weights = FactoredWeights(
            kept_indices=refined.kept_indices,
            kept_mask=refined.kept_mask,
            run_slots=refined.run_slots,
            run_weights=refined.run_weights,
            pooling=tuple(pool.weights for pool in pools),
            aggregation=tuple(group.mean(dim=1) for group in aggregation),
            used=used,
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


def _in_several_processes() -> bool:
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )
