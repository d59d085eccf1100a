"""Which frame tokens are kept, and the refined video that they make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.utils.checkpoint
from torch.nn import functional

from ..errors import LinVTInputError
from ..summaries import short_repr
from .keyframes import Runs, average_runs


# 2**32 divided by the golden ratio: its multiples modulo 2**32 fall evenly (a low-discrepancy sequence in integers).
GOLDEN_STEP = 2_654_435_769


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


# What has one row for every slot
_OF_SLOTS = ("kept_tokens", "kept_features", "kept_indices", "log_significance", "places", "mass_positions")


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
        num_used (`torch.Tensor` of shape `(batch,)`):
            Video tokens that the video needs, at most M; with key frames fewer where less is new.
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
    num_used: torch.Tensor
    run_slots: torch.Tensor
    run_weights: torch.Tensor
    significance: torch.Tensor

    __repr__ = short_repr  # numbers by the thousand say nothing

    @classmethod
    def of_runs(
        cls,
        runs: Runs,
        kept_tokens: torch.Tensor,
        kept_features: torch.Tensor,
        places: torch.Tensor,
        significance: torch.Tensor,
    ) -> "RefinedVideo":
        """A refined video of the runs of a batch, and what was averaged over them; shapes as above."""
        mass = runs.mass.clamp(min=torch.finfo(runs.mass.dtype).tiny)
        return cls(
            kept_tokens=kept_tokens,
            kept_features=kept_features,
            kept_indices=runs.starts,
            kept_mask=runs.filled,
            log_significance=mass.log().masked_fill(~runs.filled, 0.0),
            places=places,
            mass_positions=runs.positions,
            num_used=runs.num_used,
            run_slots=runs.slots,
            run_weights=runs.weights,
            significance=significance,
        )

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

    @classmethod
    def stack(cls, videos: "Sequence[RefinedVideo]") -> "RefinedVideo":
        """
        Several of these as one batch, padded as `refine` pads: empty slots repeat the first and are masked, and frames
        and tokens that are not there have no significance.

        Args:
            videos: of one width, whatever their frames, tokens of a frame, and kept tokens.
        """
        num_kept = max(video.kept_indices.shape[1] for video in videos)
        num_frames = max(video.num_frames for video in videos)
        tokens_per_frame = max(video.tokens_per_frame for video in videos)
        padded = [video._padded(num_kept, num_frames, tokens_per_frame) for video in videos]
        return cls(
            **{field.name: torch.cat([getattr(video, field.name) for video in padded]) for field in fields(cls)}
        )

    def _padded(self, num_kept: int, num_frames: int, tokens_per_frame: int) -> "RefinedVideo":
        """With so many slots, frames, and tokens of a frame."""
        empty = num_kept - self.kept_indices.shape[1]
        slots = torch.arange(num_kept, device=self.kept_indices.device) * (
            torch.arange(num_kept, device=self.kept_indices.device) < num_kept - empty
        )
        more = (0, tokens_per_frame - self.tokens_per_frame, 0, num_frames - self.num_frames)
        shape = (-1, self.num_frames, self.tokens_per_frame)
        frame, place = self.kept_indices // self.tokens_per_frame, self.kept_indices % self.tokens_per_frame
        moved = replace(self, kept_indices=frame * tokens_per_frame + place)
        return replace(
            moved,
            **{name: getattr(moved, name).index_select(1, slots) for name in _OF_SLOTS},
            kept_mask=functional.pad(self.kept_mask, (0, empty)),
            run_slots=functional.pad(self.run_slots.reshape(shape), more).flatten(1),
            run_weights=functional.pad(self.run_weights.reshape(shape), more).flatten(1),
            significance=functional.pad(self.significance, more),
        )

    def select(self, videos: torch.Tensor | Sequence[int]) -> "RefinedVideo":
        """The videos at these positions of the batch, repeated as often as they are named (one row per question)."""
        index = torch.as_tensor(videos, dtype=torch.long, device=self.kept_indices.device)
        return self._map(lambda tensor: tensor.index_select(0, index))

    def to(self, device: torch.device | str) -> "RefinedVideo":
        """The same on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "RefinedVideo":
        return replace(self, **{field.name: function(getattr(self, field.name)) for field in fields(self)})
