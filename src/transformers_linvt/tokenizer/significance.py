"""
SVR, the spatio-temporal visual token refiner: the significance of every frame token.

What is decided here are *weights*; the frame tokens themselves are never changed. That is what lets every video token
be a weighted average of frame tokens (see `linear_video_tokenizer.py`).
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from .attention import SpatioTemporalBlock, init_layer_norm, init_linear
from .keyframes import KEYFRAME_GAIN, SCORE_CEILING, NewTokens
from .places import PLACE_WAVELENGTHS, RELATIVE_TIME_WAVELENGTHS, SECONDS_WAVELENGTHS, sinusoidal_embedding
from .precision import accumulation_dtype, without_autocast


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
        block: Any
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
        if self._rounds_by_shape(frame_tokens.device):
            return self._one_by_one(frame_tokens, mask, seconds, fractions, places)
        return self._together(frame_tokens, mask, seconds, fractions, places)

    def _rounds_by_shape(self, device: torch.device) -> bool:
        """Whether products are rounded so coarsely that the shape of a matrix decides between tokens nearly alike."""
        is_half = self.input_norm.weight.dtype.itemsize < 4
        return is_half or (torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type))

    def _one_by_one(
        self,
        frame_tokens: torch.Tensor,
        mask: torch.Tensor | None,
        seconds: torch.Tensor,
        fractions: torch.Tensor,
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Every video in its own shape, without its padding: the same states and scores alone and in any batch."""
        batch, num_frames, num_places, _ = frame_tokens.shape
        found = []
        for video in range(batch):
            frames, tokens = num_frames, num_places
            own = None if mask is None else mask[video : video + 1]
            if own is not None:
                frames = int(own.any(2).nonzero()[-1, 1]) + 1
                tokens = int(own.any(1).nonzero()[-1, 1]) + 1
                own = own[:, :frames, :tokens]
                own = None if bool(own.all()) else own
            hidden, scores = self._together(
                frame_tokens[video : video + 1, :frames, :tokens],
                own,
                seconds[video : video + 1, :frames],
                fractions[video : video + 1, :frames],
                places[video : video + 1, :tokens],
            )
            padding = (0, num_places - tokens, 0, num_frames - frames)
            found.append((F.pad(hidden, (0, 0, *padding)), None if scores is None else F.pad(scores, padding)))
        states, scores = zip(*found, strict=True)
        return torch.cat(states), None if scores[0] is None else torch.cat(scores)

    def _together(
        self,
        frame_tokens: torch.Tensor,
        mask: torch.Tensor | None,
        seconds: torch.Tensor,
        fractions: torch.Tensor,
        places: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
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
        scores: Any = 0.0
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
        hook = getattr(self, "_hf_hook", None) if self.novelty_gain.is_meta else None
        if hook is not None:  # accelerate fetches offloaded weights for a forward, and this is outside of one
            hook.pre_forward(self)
        gain = self.novelty_gain.to(dtype).clamp(min=1.0)  # a gate that training turned round would let nothing in
        if hook is not None:
            hook.post_forward(self, None)
        return gain


class ScoringStream:
    """
    A [`SignificanceScorer`] that is fed the frames of one video as they come, and forgets them.

    The states of a frame come out when the last frame of its windows was seen. They are those of the video as a whole,
    up to rounding. For scorers that start from key frames: the others compare with the whole video.

    Args:
        scorer ([`SignificanceScorer`]): the scorer.
    """

    def __init__(self, scorer: SignificanceScorer) -> None:
        self.scorer = scorer
        self.waiting: list[torch.Tensor | None] = [None] * len(scorer.blocks)
        self.first = [0] * len(scorer.blocks)  # place of the first frame that waits for each block

    def feed(
        self,
        frame_tokens: torch.Tensor,
        seconds: torch.Tensor,
        fractions: torch.Tensor,
        places: torch.Tensor,
        is_last: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        The next frames: arguments as of the scorer, without a mask, and whether the video ends with them.

        Returns:
            States and scores as of the scorer, of the frames that are finished now (which may be none).
        """
        hidden = self.scorer._embed(frame_tokens, seconds, fractions, places)
        for number, block in enumerate(self.scorer.blocks):
            waiting = self.waiting[number]
            hidden = hidden if waiting is None else torch.cat([waiting, hidden], dim=1)
            count, first = hidden.shape[1], self.first[number]
            finished = count if is_last else cast(SpatioTemporalBlock, block).num_finished(first, count)
            self.waiting[number] = hidden[:, finished:].clone()
            self.first[number] += finished
            hidden = hidden[:, :finished]
            if finished:
                hidden = block(hidden, None, first > 0)
        return hidden, self.scorer._score(hidden, frame_tokens, None)
