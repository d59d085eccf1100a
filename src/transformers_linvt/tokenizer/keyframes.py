"""
Key frames and what changes: which tokens of a video are new, and which older token every other one repeats.

It is what a video codec does. The first frame is new. After it, a token is new when it differs enough from the token
of its place that last was; until the next new one, what stands there is a *run*, and the run is averaged. How much is
enough is chosen per video, so that what is new fits the budget, but never below what a codec, a sensor or a shaking
hand make of something that stands still. Where even that is too much, neighbours are taken together in blocks, in
every frame alike: no frame is cut off because another one came first.

Nothing here has parameters, and nothing is transformed: a run is an average of frame tokens. Ours, not the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F

from .cells import CellLattices, Cells, choose_cells
from .mass_axis import place_on_axis
from .precision import accumulation_dtype, without_autocast


# Levels that the threshold of novelty is chosen from. In units of the video's contrast two tokens that have nothing to
# do with each other are about 1.4 apart with any encoder. Measured with a convolutional ImageNet network on real clips
# (benchmarks/coverage.py): what H.264 and a sensor's noise make of a still picture stays below 0.5 in 99 of 100 tokens
# or more, and three of four pairs of unrelated tokens are more than 1.3 apart: above that, most of what really
# happened would be taken for noise.
NOVELTY_LEVELS = tuple(0.5 * 2.6 ** (level / 7) for level in range(8))

# A picture with less contrast than that is blank but for noise, which is no reason to call the noise new.
LEAST_CONTRAST = 0.2

# Sharpness of the gate: the score of a token is so many times what its novelty exceeds the threshold by.
KEYFRAME_GAIN = 16.0

# Significance of what is surely new is sigmoid(4) = 0.98 and no more: a score that is learned on top still has a
# gradient there.
SCORE_CEILING = 4.0

# New tokens that a video may have before the threshold is raised, per video token: where a frame fits into the video
# tokens, and where it does not. Chosen on real clips, see benchmarks/coverage.py.
BUDGET_PER_TOKEN, BUDGET_PER_TOKEN_OF_LARGE_FRAMES = 1.5, 4.0
LARGEST_SHARE_OF_ONE_FRAME = 2 / 3  # the rest is for what changes; where a frame has more tokens, cells are counted
KEPT_PER_VIDEO_TOKEN = 4  # k where nobody sets it

FRAMES_PER_CHUNK = 32  # frames that are averaged at once: the products are as large as the frames
FRAMES_COMPARED_AT_ONCE = 16  # each with all others and with the references, in one product of matrices


def relative_distance(tokens: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """
    How far tokens are apart, in units of the root mean square of their two lengths: between 0 and 2.

    Equal tokens are at 0, orthogonal ones of equal length at 1.41, opposite ones at 2. The unit is that of the pair:
    no frame of the video has to be known but the two.

    Args:
        tokens, others (`torch.Tensor` of shape `(..., dim)`):
            Tokens to compare; shapes that broadcast.

    Returns:
        `torch.Tensor` of shape `(...)`, float32.

    Example:

    >>> relative_distance(torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 4.0], [-3.0, -4.0]])).tolist()
    [0.0, 2.0]
    """
    dtype = accumulation_dtype(tokens.dtype)
    tokens, others = tokens.to(dtype), others.to(dtype)
    with without_autocast(tokens.device):
        products = torch.einsum("...d,...d->...", tokens, others)
    return _distance(products, tokens.square().sum(-1), others.square().sum(-1))


def _distance(products: torch.Tensor, squares: torch.Tensor, other_squares: torch.Tensor) -> torch.Tensor:
    total = squares + other_squares
    return (2 - 4 * products / total.clamp(min=torch.finfo(total.dtype).tiny)).clamp(min=0).sqrt() * (total > 0)


class NoveltyScan:
    """
    The state of looking at a video frame after frame: for every place, the token that last was new.

    Frames come one by one or several at once; a video may be left and gone on with. The references are kept for
    several thresholds at once, because the right one is known only when the video has been seen.

    Args:
        unit (`torch.Tensor` of shape `(batch,)`, *optional*):
            Distance that counts as 1, of `contrast`; 1 by default.
        levels (`Sequence[float]`, *optional*, defaults to `NOVELTY_LEVELS`):
            Thresholds, ascending; a tensor `(batch, 1, levels)` where they differ between videos.

    Example:

    >>> scan = NoveltyScan(levels=(0.5,))
    >>> frames = torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]])  # 3 frames of one token
    >>> scan.feed(frames[None])[1].flatten().tolist()
    [True, False, True]
    """

    def __init__(
        self, unit: torch.Tensor | None = None, levels: Sequence[float] | torch.Tensor = NOVELTY_LEVELS
    ) -> None:
        self.unit = unit
        self.levels = torch.as_tensor(levels)
        self.references: torch.Tensor | None = None  # (batch, places, levels, dim)
        self.squares: torch.Tensor  # of their lengths, (batch, places, levels)
        self.seen: torch.Tensor  # (batch, places)

    @torch.no_grad()
    def feed(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, allowance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The next frames.

        Args:
            tokens (`torch.Tensor` of shape `(batch, num_frames, places, dim)`):
                Their tokens.
            mask (`torch.Tensor` of shape `(batch, num_frames, places)`, *optional*):
                True where there is a token.
            allowance (`torch.Tensor` of shape `(batch, num_frames, places)`, *optional*):
                What to add to every threshold; negative makes a token new more easily.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`, both `(batch, num_frames, places, levels)`: the distance to the
            reference, in units (the largest there is for the first token of a place), and whether the token is new.
        """
        size = FRAMES_COMPARED_AT_ONCE
        masks, allowances = (
            [None] * -(-tokens.shape[1] // size) if values is None else values.split(size, dim=1)
            for values in (mask, allowance)
        )
        pieces = zip(tokens.split(size, dim=1), masks, allowances, strict=True)
        novelty, is_new = zip(*(self._feed(*piece) for piece in pieces), strict=True)
        return torch.cat(novelty, dim=1), torch.cat(is_new, dim=1)

    def _feed(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, allowance: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`feed` for a few frames: all that one of them may be compared with is a reference or another of them."""
        tokens = tokens.to(accumulation_dtype(tokens.dtype)).transpose(1, 2).contiguous()  # places before frames
        distances, squares = self._distances(tokens)
        num_levels, found = self.levels.shape[-1], []
        reference = torch.arange(num_levels, device=tokens.device).expand_as(self.squares)  # where in `distances`
        for frame in range(tokens.shape[2]):
            there = torch.ones_like(self.seen) if mask is None else mask[:, frame]
            allowed = None if allowance is None else allowance[:, frame]
            novelty = distances[:, :, frame].gather(2, reference)
            levels = self.levels if allowed is None else self.levels + allowed.unsqueeze(-1).to(novelty.dtype)
            is_new = self._decide(novelty > levels, novelty, there, allowed) | ~self.seen.unsqueeze(-1)
            is_new = is_new & there.unsqueeze(-1)
            self.seen = self.seen | there
            reference = torch.where(is_new, num_levels + frame, reference)
            found.append((novelty, is_new))
        is_other = reference >= num_levels
        other = (reference - num_levels).clamp(min=0)
        theirs = tokens.gather(2, other.unsqueeze(-1).expand(-1, -1, -1, tokens.shape[-1]))
        self.references = torch.where(is_other.unsqueeze(-1), theirs, cast(torch.Tensor, self.references))
        self.squares = torch.where(is_other, squares.gather(2, other), self.squares)
        novelty, is_new = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))
        return novelty, is_new

    def _distances(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        How far tokens `(batch, places, frames, dim)` are from the references and from each other, in units.

        Returns:
            The distances, `(batch, places, frames, levels + frames)`, the largest there is to a reference that does
            not exist yet; and the squares of the tokens' lengths, `(batch, places, frames)`.
        """
        squares = tokens.square().sum(-1)
        with without_autocast(tokens.device):  # in bfloat16 equal tokens would be a tenth of their length apart
            distances = _distance(tokens @ tokens.mT, squares.unsqueeze(-1), squares.unsqueeze(2))
            if self.references is None:
                batch, places, num_frames, dim = tokens.shape
                self.levels = self.levels.to(tokens.device, tokens.dtype)  # once: a copy to a GPU waits for what runs
                self.references = tokens.new_zeros(batch, places, self.levels.shape[-1], dim)
                self.squares = tokens.new_zeros(batch, places, self.levels.shape[-1])
                self.seen = torch.zeros(batch, places, dtype=torch.bool, device=tokens.device)
                old = tokens.new_full((batch, places, num_frames, self.levels.shape[-1]), 2.0)
            else:
                old = _distance(tokens @ self.references.mT, squares.unsqueeze(-1), self.squares.unsqueeze(2))
                old = torch.where(self.seen[:, :, None, None], old, 2.0)
        distances = torch.cat([old, distances], dim=-1)
        return distances if self.unit is None else distances / self.unit.view(-1, 1, 1, 1), squares

    def _decide(
        self, is_far: torch.Tensor, novelty: torch.Tensor, mask: torch.Tensor, allowance: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Which tokens of a frame are new of those that are far from their references: all of them, each for itself.

        Shapes are `(batch, places, levels)`, and `(batch, places)` of mask and allowance.
        """
        return is_far


def contrast(frame_tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    How much the tokens of a video differ among each other: their standard deviation, in units of their length.

    What all tokens of an encoder have in common says nothing about a video, and how much that is differs between
    encoders: a tenth of the squared length was measured in a convolutional network, more than half in a vision
    transformer. Two unrelated tokens are about 1.4 contrasts apart in both.

    Args:
        frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
            Visual tokens.
        mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            True where the token exists.

    Returns:
        `torch.Tensor` of shape `(batch,)`, float32, between `LEAST_CONTRAST` and 1.

    Example:

    >>> tokens = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).view(1, 1, 2, 2)  # half of the squared length in common
    >>> contrast(tokens, torch.ones(1, 1, 2, dtype=torch.bool)).square().round(decimals=4).tolist()
    [0.5]
    """
    sums = ContrastSums(frame_tokens)
    for start in range(0, frame_tokens.shape[1], FRAMES_PER_CHUNK):  # a video in float32 would double its memory
        chunk = slice(start, start + FRAMES_PER_CHUNK)
        sums.feed(frame_tokens[:, chunk], mask[:, chunk])
    return sums.contrast()


class ContrastSums:
    """
    What [`contrast`] is made of, summed up over the frames as they come.

    Args:
        like (`torch.Tensor` of shape `(batch, ..., dim)`): any tokens of the videos, for their width and type.
    """

    def __init__(self, like: torch.Tensor) -> None:
        self.dtype = accumulation_dtype(like.dtype)
        self.total = like.new_zeros(len(like), like.shape[-1], dtype=self.dtype)
        self.squares = self.total.new_zeros(len(like))
        self.count = torch.zeros(len(like), dtype=torch.long, device=like.device)

    def feed(self, frame_tokens: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        """Count further frames in; shapes as of [`contrast`]."""
        tokens = frame_tokens if mask is None else frame_tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        self.total = self.total + tokens.sum(dim=(1, 2), dtype=self.dtype)
        lengths = torch.linalg.vector_norm(tokens, dim=-1, dtype=self.dtype)  # without a copy of all their squares
        self.squares = self.squares + lengths.square().sum(dim=(1, 2))
        self.count = self.count + (tokens.shape[1] * tokens.shape[2] if mask is None else mask.sum(dim=(1, 2)))

    def copy(self) -> "ContrastSums":
        """One that goes its own way; the sums are never changed in place."""
        other = ContrastSums(self.total)
        other.total, other.squares, other.count = self.total, self.squares, self.count
        return other

    def contrast(self) -> torch.Tensor:
        """The contrast of what was seen so far, as [`contrast`] gives it."""
        count = self.count.clamp(min=1)
        common = (self.total / count.unsqueeze(1)).square().sum(dim=1)
        mean_square = (self.squares / count).clamp(min=torch.finfo(self.dtype).tiny)
        return (1 - common / mean_square).clamp(min=LEAST_CONTRAST**2, max=1.0).sqrt()


@dataclass
class NewTokens:
    """
    Which tokens of a batch of videos are new.

    Args:
        novelty (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Distance of every token to the one of its place that was new before it, in units of the video's contrast;
            the largest there is for the first of a place.
        is_new (`torch.Tensor` of the same shape):
            True where the token starts a run.
        threshold (`torch.Tensor` of shape `(batch,)`):
            The level that was chosen for the video.
        lattices ([`CellLattices`]):
            How frames can be divided into cells.
        cells ([`Cells`], *optional*):
            Cells that were chosen together with what is new, see `find_what_is_new`.
        by_cell (`torch.Tensor` of shape `(batch,)`, *optional*):
            True at the videos that they are chosen for.
    """

    novelty: torch.Tensor
    is_new: torch.Tensor
    threshold: torch.Tensor
    lattices: CellLattices
    cells: Cells | None = None
    by_cell: torch.Tensor | None = None


@torch.no_grad()
def find_new_tokens(
    frame_tokens: torch.Tensor,
    mask: torch.Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_video_tokens: int,
    num_kept_tokens: int,
    allowance: torch.Tensor | None = None,
) -> NewTokens:
    """
    Scan videos and choose, for each, the threshold with which what is new fits its budget.

    The lowest level is taken at which the new tokens are at most 1.5 per video token, or 4 where a frame has more
    tokens than the video gets; the highest if there is none. Where one frame would take more than two thirds of that
    budget, not tokens are counted but cells, the smallest of which a frame has no more.

    Args:
        frame_tokens (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, dim)`):
            Visual tokens.
        mask (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            True where the token exists.
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video, tokens in reading order.
        num_video_tokens (`int`), num_kept_tokens (`int`):
            M and k.
        allowance (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`, *optional*):
            What to add to the threshold of every token.

    Returns:
        [`NewTokens`]
    """
    novelty, is_new = NoveltyScan(contrast(frame_tokens, mask)).feed(frame_tokens, mask, allowance)
    level, lattices = choose_level(is_new.sum(1), mask.any(dim=1), grid_sizes, num_video_tokens, num_kept_tokens)
    video = torch.arange(len(level), device=level.device)
    return NewTokens(
        novelty=novelty[video, :, :, level],
        is_new=is_new[video, :, :, level],
        threshold=torch.tensor(NOVELTY_LEVELS, device=level.device, dtype=novelty.dtype)[level],
        lattices=lattices,
    )


def choose_level(
    num_new: torch.Tensor,
    whole: torch.Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_video_tokens: int,
    num_kept_tokens: int,
) -> tuple[torch.Tensor, CellLattices]:
    """
    The threshold with which what is new fits the budget, as [`find_new_tokens`] says it.

    Args:
        num_new (`torch.Tensor` of shape `(batch, tokens_per_frame, levels)`):
            How often something was new at a place.
        whole (`torch.Tensor` of shape `(batch, tokens_per_frame)`):
            True at places that exist in any frame: a frame, with what comes after its grid.
        grid_sizes, num_video_tokens, num_kept_tokens:
            As of [`find_new_tokens`].

    Returns:
        `tuple[torch.Tensor, CellLattices]`: the place in `NOVELTY_LEVELS`, `(batch,)`, and how frames can be divided.
    """
    lattices = CellLattices(grid_sizes, whole)
    budget = torch.where(
        whole.sum(1) <= num_video_tokens,
        round(BUDGET_PER_TOKEN * num_video_tokens),
        round(BUDGET_PER_TOKEN_OF_LARGE_FRAMES * num_video_tokens),
    ).clamp(max=num_kept_tokens)
    shares = lattices.shares_within(budget * LARGEST_SHARE_OF_ONE_FRAME)
    counts = torch.einsum("bnl,bn->bl", num_new.float(), shares)
    fits = counts <= budget.unsqueeze(1) + 1e-3
    return torch.where(fits.any(1), fits.int().argmax(1), len(NOVELTY_LEVELS) - 1), lattices


@dataclass
class Runs:
    """
    Runs of a batch of videos: which average every frame token belongs to, and with what weight.

    Args:
        slots (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            The slot of every frame token; 0 with weight 0 for tokens in no slot.
        weights (`torch.Tensor` of the same shape):
            Its weight in that slot, float32, not negative; they sum to 1 in every filled slot.
        starts (`torch.Tensor` of shape `(batch, num_slots)`):
            Index of the token that a slot starts with. Slots stand in the order of time and, within a frame, cell
            after cell in reading order. Empty slots come last and repeat the first.
        filled (`torch.Tensor` of shape `(batch, num_slots)`):
            True where the slot holds anything.
        mass (`torch.Tensor` of shape `(batch, num_slots)`):
            Sum of the significance of the tokens that start the slot, each divided by the number of places in its
            cell; with gradient, 0 in empty slots.
        positions (`torch.Tensor` of shape `(batch, num_slots)`):
            Where the slot lies on the axis of mass, in [0, 1]: the middle of what is new in its frame and cell.
        num_used (`torch.Tensor` of shape `(batch,)`):
            Video tokens that the video needs: one for every group of slots that lies at a point of its own, at most M.
    """

    slots: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    filled: torch.Tensor
    mass: torch.Tensor
    positions: torch.Tensor
    num_used: torch.Tensor


def gather_runs(
    new: NewTokens, significance: torch.Tensor, mask: torch.Tensor, num_video_tokens: int, num_kept_tokens: int
) -> Runs:
    """
    Put every frame token into the slot of the run it belongs to.

    A run is a new token and what follows at its place until the next new one; it is averaged over time. Where a video
    token has to hold several new tokens, what is new in a frame and a cell lies at one point of the axis of mass, so
    that a video token holds a patch of the picture. Where more are new than can be kept (`num_kept_tokens`, or one
    per frame), those of a part of a cell share a slot, each by its significance.

    Args:
        new ([`NewTokens`]):
            Of `find_new_tokens`.
        significance (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Significance of every token in [0, 1]; only that of new tokens is looked at.
        mask (`torch.Tensor` of the same shape):
            True where the token exists.
        num_video_tokens (`int`), num_kept_tokens (`int`):
            M and k.

    Returns:
        [`Runs`]
    """
    batch, num_frames, places = mask.shape
    most = mask.any(2).sum(1).clamp(min=num_kept_tokens)
    cells = _cells_of(new, significance, num_video_tokens, most)
    order = cells.part.argsort(dim=1, stable=True)
    order = order.gather(1, cells.cell.gather(1, order).argsort(dim=1, stable=True))
    along = order.unsqueeze(1).expand(-1, num_frames, -1)
    back = order.argsort(dim=1).unsqueeze(1).expand(-1, num_frames, -1)
    is_new, weight = (values.gather(2, along) for values in (new.is_new, significance))
    opens_slot = _first_new_of_each(is_new, cells.part.gather(1, order))
    opened = opens_slot.flatten(1)
    num_slots = int(opened.sum(1).amax())
    filled = torch.arange(num_slots, device=mask.device) < opened.sum(1, keepdim=True)
    groups = _of_slots(
        _first_new_of_each(is_new, cells.cell.gather(1, order)).flatten(1).cumsum(1).sub_(1).clamp_(min=0),
        opened,
        num_slots,
    )
    frame = torch.arange(num_frames, device=mask.device, dtype=torch.int32).view(1, -1, 1)
    starts = _of_slots((frame * places + along).flatten(1), opened, num_slots)

    # every other token belongs where the last new one of its place belongs
    slot = opened.cumsum(1).sub_(1).view(batch, num_frames, places)
    started = torch.where(is_new, frame, -1).cummax(dim=1).values.clamp_(min=0).long()
    slot = slot.gather(1, started).clamp_(min=0)
    share = _shares_of_runs(weight.detach(), started, mask.gather(2, along), slot, num_slots)
    del started  # a long video has as much memory as this takes, and no more
    weight = weight * cells.share.gather(1, order).unsqueeze(1) * is_new
    mass = weight.new_zeros(batch, num_slots).scatter_add(1, slot.flatten(1), weight.flatten(1))
    positions, num_used = place_on_axis(mass, filled, groups, num_video_tokens)
    return Runs(
        slots=slot.gather(2, back).flatten(1).mul_(mask.flatten(1)),
        weights=share.gather(2, back).flatten(1),
        starts=torch.where(filled, starts, starts[:, :1]),
        filled=filled,
        mass=mass,
        positions=positions,
        num_used=num_used,
    )


def _of_slots(values: torch.Tensor, opened: torch.Tensor, num_slots: int) -> torch.Tensor:
    """Values of the tokens that open a slot, by its number, of `(batch, num_frames * places)` of all tokens."""
    position = opened.cumsum(1).sub_(1).masked_fill_(~opened, num_slots)  # the others write beside the slots
    return values.new_zeros(len(values), num_slots + 1).scatter_(1, position, values)[:, :num_slots]


def _shares_of_runs(
    weight: torch.Tensor, started: torch.Tensor, exists: torch.Tensor, slot: torch.Tensor, num_slots: int
) -> torch.Tensor:
    """The weight of every token in its slot: what its run has of the slot, divided among the tokens of the run."""
    length = torch.zeros_like(weight).scatter_add_(1, started, exists.to(weight.dtype)).gather(1, started)
    # a score that was learned may be so low that nothing of its significance is left; a slot is an average even so
    share = weight.clamp(min=1e-30).gather(1, started).div_(length.clamp_(min=1)).mul_(exists)
    total = share.new_zeros(len(share), num_slots).scatter_add_(1, slot.flatten(1), share.flatten(1))
    return share.div_(total.gather(1, slot.flatten(1)).view_as(share).clamp_(min=torch.finfo(share.dtype).tiny))


def _cells_of(new: NewTokens, significance: torch.Tensor, num_video_tokens: int, most: torch.Tensor) -> Cells:
    """The cells that were chosen with what is new, and of other videos those that its mass and `most` slots allow."""
    cells = choose_cells(new.lattices, new.is_new, significance, num_video_tokens, most)
    if new.cells is None or new.by_cell is None:
        return cells
    by_cell = new.by_cell.unsqueeze(1)
    chosen = (
        torch.where(by_cell, getattr(new.cells, name), getattr(cells, name)) for name in ("cell", "part", "share")
    )
    return Cells(*chosen)


def _first_new_of_each(is_new: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """
    True where a new token is the first of its frame and group, `(batch, num_frames, places)`.

    Args:
        is_new (`torch.Tensor` of shape `(batch, num_frames, places)`):
            True at new tokens, ordered by group.
        group (`torch.Tensor` of shape `(batch, places)`):
            Their groups; equal ones stand side by side.
    """
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    changes = F.pad(group[:, 1:] != group[:, :-1], (1, 0), value=True)
    first = torch.where(changes, place, 0).cummax(dim=1).values.unsqueeze(1).expand_as(is_new)
    so_far = is_new.cumsum(2, dtype=torch.int32)
    before = F.pad(so_far, (1, 0)).gather(2, first)
    return is_new & (so_far.sub_(before) == 1)


def single_tokens(
    indices: torch.Tensor, filled: torch.Tensor, significance: torch.Tensor, num_video_tokens: int
) -> Runs:
    """
    Tokens that are kept one by one, as runs of length 1: what a selection without key frames keeps.

    Args:
        indices, filled (`torch.Tensor` of shape `(batch, num_slots)`):
            The kept tokens, ascending, and which slots are filled; all indices of a row differ where they are.
        significance (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            Significance of every token, the mass of those that are kept.
        num_video_tokens (`int`):
            M.

    Returns:
        [`Runs`]
    """
    batch, num_tokens = significance.shape
    slot = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
    target = indices.where(filled, num_tokens)  # empty slots write beside the video
    slots = indices.new_zeros(batch, num_tokens + 1).scatter_(1, target, slot)[:, :num_tokens]
    weights = significance.new_zeros(batch, num_tokens + 1).scatter_(1, target, 1.0)[:, :num_tokens]
    mass = significance.gather(1, indices) * filled
    positions, num_used = place_on_axis(mass, filled, slot, num_video_tokens)
    return Runs(
        slots=slots,
        weights=weights.detach(),
        starts=indices,
        filled=filled,
        mass=mass,
        positions=positions,
        num_used=num_used,
    )


def average_runs(values: torch.Tensor, slots: torch.Tensor, weights: torch.Tensor, num_slots: int) -> torch.Tensor:
    """
    Average anything that has one row per frame token over the slots of its runs.

    Args:
        values (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame, width)`):
            Values aligned with the frame tokens.
        slots, weights (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            As in [`Runs`].
        num_slots (`int`):
            Slots of the result.

    Returns:
        `torch.Tensor` of shape `(batch, num_slots, width)`, in the dtype of `values`; summed in float32.
    """
    sums = RunSums(values, slots, weights, num_slots)
    for start in range(0, values.shape[1], FRAMES_PER_CHUNK):
        sums.feed(values[:, start : start + FRAMES_PER_CHUNK])
    return sums.sums.to(values.dtype)


class RunSums:
    """
    The averages of [`average_runs`], summed up over the frames as they come, in float32.

    Args:
        like (`torch.Tensor` of shape `(batch, ..., width)`): any of the values, for their width and type.
        slots, weights, num_slots: as of [`average_runs`].
    """

    def __init__(self, like: torch.Tensor, slots: torch.Tensor, weights: torch.Tensor, num_slots: int) -> None:
        self.slots, self.weights, self.num_seen = slots, weights, 0
        dtype = accumulation_dtype(like.dtype)
        self.sums = torch.zeros(len(like), num_slots, like.shape[-1], dtype=dtype, device=like.device)

    def feed(self, values: torch.Tensor) -> None:
        """Add the values of the next frames, `(batch, num_frames, tokens_per_frame, width)`."""
        values = values.flatten(1, 2).to(self.sums.dtype)
        inside = slice(self.num_seen, self.num_seen + values.shape[1])
        self.num_seen = inside.stop
        index = self.slots[:, inside].unsqueeze(-1).expand_as(values)
        weighted = values * self.weights[:, inside].unsqueeze(-1).to(values.dtype)
        self.sums = self.sums.scatter_add(1, index, weighted)
