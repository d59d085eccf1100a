"""The weights of the video tokens in factored form: kept tokens, runs, pooling, aggregation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch

from ..errors import LinVTInputError
from ..summaries import short_repr
from .keyframes import average_runs
from .pooling import count_windows, windows_of_slots
from .precision import accumulation_dtype, without_autocast


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
        used (`torch.Tensor` of shape `(batch, num_video_tokens)`):
            True at the video tokens that a language model is to see. Where a video has less that is new than M, the
            others repeat the last one of their group.
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
    used: torch.Tensor
    scales: tuple[int, ...]
    scales_of_groups: tuple[tuple[int, ...], ...]
    num_frames: int
    tokens_per_frame: int
    shift: bool = False
    is_exact: bool = True

    __repr__ = short_repr  # numbers by the thousand say nothing

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

    def average_each(self, videos: Sequence[torch.Tensor]) -> torch.Tensor:
        """`average` for the values of each video without padding, `(num_frames, tokens_per_frame, width)`."""
        shape, averages = (len(self.run_slots), self.num_frames, self.tokens_per_frame), []
        slots, weights = self.run_slots.view(shape), self.run_weights.view(shape)
        for number, values in enumerate(videos):
            frames, tokens = values.shape[:2]
            own_slots, own_weights = (one[number, :frames, :tokens].reshape(1, -1) for one in (slots, weights))
            averages.append(average_runs(values.unsqueeze(0), own_slots, own_weights, self.kept_indices.shape[1]))
        return torch.cat(averages)

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
