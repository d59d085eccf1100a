"""
Key frames and what changes: which tokens of a video are new, and which older token every other one repeats.

It is what a video codec does. The first frame is new. After it, a token is new when it differs enough from the token
of its place that last was; until the next new one, what stands there is a *run*, and the run is averaged. How much is
enough is chosen per video, so that what is new fits the budget, but never below what a codec, a sensor or a shaking
hand make of something that stands still. Where even that is too much, neighbours are taken together in blocks, in
every frame alike: no frame is cut off because another one came first.

Nothing here has parameters, and nothing is transformed: a run is an average of frame tokens. Ours, not the paper's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .precision import accumulation_dtype, without_autocast


# Levels that the threshold of novelty is chosen from, in the unit of `relative_distance`. Measured with an ImageNet
# network on real clips (benchmarks/coverage.py): what H.264 and sensor noise make of a still picture stays below 0.5
# in 99 of 100 tokens, and two unrelated tokens are more than 1.15 apart in four of five. Above that, something that
# really happened would be taken for noise.
NOVELTY_LEVELS = tuple(0.5 * 2.3 ** (level / 5) for level in range(6))

# Sharpness of the gate: the score of a token is so many times what its novelty exceeds the threshold by.
KEYFRAME_GAIN = 16.0

# Significance of what is surely new is sigmoid(4) = 0.98 and no more: a score that is learned on top still has a
# gradient there.
SCORE_CEILING = 4.0

# New tokens that a video may have before the threshold is raised, per video token: where a frame fits into the video
# tokens, and where it does not. Chosen on real clips, see benchmarks/coverage.py.
BUDGET_PER_TOKEN, BUDGET_PER_TOKEN_OF_LARGE_FRAMES = 1.5, 4.0
KEPT_PER_VIDEO_TOKEN = 4  # k where nobody sets it

FRAMES_PER_CHUNK = 32  # frames that are averaged at once: the products are as large as the frames


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

    Frames come one by one; a video may be left and gone on with. The references are kept for several thresholds at
    once, because the right one is known only when the video has been seen.

    Args:
        levels (`Sequence[float]`, *optional*, defaults to `NOVELTY_LEVELS`):
            Thresholds, ascending, in the unit of `relative_distance`.

    Example:

    >>> scan = NoveltyScan(levels=(0.5,))
    >>> frames = torch.tensor([[[1.0, 0.0]], [[1.0, 0.1]], [[0.0, 1.0]]])  # 3 frames of one token
    >>> [scan.feed(frame[None])[1].flatten().tolist() for frame in frames]
    [[True], [False], [True]]
    """

    def __init__(self, levels: Sequence[float] = NOVELTY_LEVELS) -> None:
        self.levels = tuple(levels)
        self.references: torch.Tensor | None = None  # (batch, places, levels, dim)
        self.squares: torch.Tensor | None = None  # of their lengths, (batch, places, levels)
        self.seen: torch.Tensor | None = None  # (batch, places)

    @torch.no_grad()
    def feed(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, allowance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The next frame.

        Args:
            tokens (`torch.Tensor` of shape `(batch, places, dim)`):
                Its tokens.
            mask (`torch.Tensor` of shape `(batch, places)`, *optional*):
                True where there is a token.
            allowance (`torch.Tensor` of shape `(batch, places)`, *optional*):
                What to add to every threshold; negative makes a token new more easily.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`, both `(batch, places, levels)`: the distance to the reference (2, the
            largest there is, for the first token of a place), and whether the token is new.
        """
        dtype = accumulation_dtype(tokens.dtype)
        tokens = tokens.to(dtype)
        squares = tokens.square().sum(-1)
        if self.references is None:
            batch, places, dim = tokens.shape
            self.references = tokens.new_zeros(batch, places, len(self.levels), dim)
            self.squares = tokens.new_zeros(batch, places, len(self.levels))
            self.seen = torch.zeros(batch, places, dtype=torch.bool, device=tokens.device)
        with without_autocast(tokens.device):  # in bfloat16 equal tokens would be a tenth of their length apart
            products = (self.references @ tokens.unsqueeze(-1)).squeeze(-1)
        novelty = _distance(products, squares.unsqueeze(-1), self.squares)
        novelty = torch.where(self.seen.unsqueeze(-1), novelty, 2.0)
        levels = torch.tensor(self.levels, dtype=dtype, device=tokens.device)
        is_new = novelty > (levels if allowance is None else levels + allowance.unsqueeze(-1).to(dtype))
        is_new = is_new | ~self.seen.unsqueeze(-1)
        if mask is not None:
            is_new = is_new & mask.unsqueeze(-1)
            self.seen = self.seen | mask
        else:
            self.seen = torch.ones_like(self.seen)
        self.references = torch.where(is_new.unsqueeze(-1), tokens.unsqueeze(2), self.references)
        self.squares = torch.where(is_new, squares.unsqueeze(-1), self.squares)
        return novelty, is_new


@dataclass
class NewTokens:
    """
    Which tokens of a batch of videos are new.

    Args:
        novelty (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Distance of every token to the one of its place that was new before it; 2 for the first of a place.
        is_new (`torch.Tensor` of the same shape):
            True where the token starts a run.
        threshold (`torch.Tensor` of shape `(batch,)`):
            The level that was chosen for the video.
        side (`torch.Tensor` of shape `(batch,)`):
            Side of the blocks in which neighbours are taken together; 1 where every new token stands for itself.
    """

    novelty: torch.Tensor
    is_new: torch.Tensor
    threshold: torch.Tensor
    side: torch.Tensor


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
    Scan videos and choose, for each, the threshold and the blocks with which what is new fits its budget.

    The lowest level is taken at which the new tokens are at most 1.5 per video token, or 4 where a frame has more
    tokens than the video gets; the highest if there is none. If more than `num_kept_tokens` (or one per frame) are
    new even so, the sides of the blocks are doubled, in all frames of the video, until they fit.

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
    scan, found = NoveltyScan(), []
    for frame in range(frame_tokens.shape[1]):
        allowed = None if allowance is None else allowance[:, frame]
        found.append(scan.feed(frame_tokens[:, frame], mask[:, frame], allowed))
    novelty, is_new = (torch.stack(parts, dim=1) for parts in zip(*found, strict=True))  # (B, T, N, levels)

    device = frame_tokens.device
    rows, columns = places_in_grid(grid_sizes, frame_tokens.shape[2], device)
    whole = mask.any(dim=1)  # a frame, with what comes after its grid
    extent = 1 + int(torch.where(whole, torch.maximum(rows, columns), 0).amax())
    sides = [2**power for power in range(1 + math.ceil(math.log2(extent)))]  # the last one holds a frame
    budget = torch.where(
        whole.sum(1) <= num_video_tokens,
        round(BUDGET_PER_TOKEN * num_video_tokens),
        round(BUDGET_PER_TOKEN_OF_LARGE_FRAMES * num_video_tokens),
    ).clamp(max=num_kept_tokens)

    def count_at_every_side(tokens: torch.Tensor) -> torch.Tensor:
        """`(sides, batch, levels)`: blocks that hold any of the tokens."""
        return torch.stack([_count_blocks(tokens, rows // side, columns // side) for side in sides])

    counts = count_at_every_side(is_new)
    one_frame = count_at_every_side(whole[:, None, :, None]).squeeze(-1)
    least = (one_frame <= budget).int().argmax(0)  # the smallest blocks with which one whole frame fits, as a power
    video = torch.arange(len(budget), device=device)
    fits = counts[least, video] <= budget.unsqueeze(1)
    level = torch.where(fits.any(1), fits.int().argmax(1), len(NOVELTY_LEVELS) - 1)
    most = mask.any(2).sum(1).clamp(min=num_kept_tokens)
    enough = counts[:, video, level] <= most  # (sides, B); at the last side it always is
    enough = enough & (torch.arange(len(sides), device=device).unsqueeze(1) >= least)
    power = torch.where(enough.any(0), enough.int().argmax(0), len(sides) - 1)
    return NewTokens(
        novelty=novelty[video, :, :, level],
        is_new=is_new[video, :, :, level],
        threshold=torch.tensor(NOVELTY_LEVELS, device=device, dtype=novelty.dtype)[level],
        side=2**power,
    )


def places_in_grid(
    grid_sizes: Sequence[tuple[int, int]], tokens_per_frame: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Row and column of every token, `(batch, tokens_per_frame)` each, as integers; what comes after the grid (a newline
    token) starts a row of its own.

    Example:

    >>> [places.tolist() for places in places_in_grid([(2, 2)], 5, torch.device("cpu"))]
    [[[0, 0, 1, 1, 2]], [[0, 1, 0, 1, 0]]]
    """
    columns = torch.tensor([grid[1] for grid in grid_sizes], device=device).unsqueeze(1)
    index = torch.arange(tokens_per_frame, device=device)
    return index // columns, index % columns


def _count_blocks(is_new: torch.Tensor, block_rows: torch.Tensor, block_columns: torch.Tensor) -> torch.Tensor:
    """How many pairs of frame and block hold a new token: `(batch, levels)` of `(batch, frames, places, levels)`."""
    batch, num_frames, places, levels = is_new.shape
    width = block_columns.amax(1, keepdim=True) + 1
    block = block_rows * width + block_columns  # never more than places
    index = block[:, None, :, None].expand(batch, num_frames, places, levels)
    hits = torch.zeros(is_new.shape, dtype=torch.int32, device=is_new.device)
    return hits.scatter_add_(2, index, is_new.int()).gt(0).sum(dim=(1, 2))


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
            Index of the token that a slot starts with. Slots stand in the order of time and, within a frame, in
            reading order, block after block. Empty slots come last and repeat the first.
        filled (`torch.Tensor` of shape `(batch, num_slots)`):
            True where the slot holds anything.
        mass (`torch.Tensor` of shape `(batch, num_slots)`):
            Sum of the significance of the tokens that start the slot, with gradient; 0 in empty slots.
    """

    slots: torch.Tensor
    weights: torch.Tensor
    starts: torch.Tensor
    filled: torch.Tensor
    mass: torch.Tensor


def gather_runs(
    new: NewTokens,
    significance: torch.Tensor,
    mask: torch.Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_video_tokens: int,
) -> Runs:
    """
    Put every frame token into the slot of the run it belongs to.

    A run is a new token and what follows at its place until the next new one; it is averaged over time. Runs that
    start in the same frame and the same block share a slot, each by the significance of its start. Where a video token
    has to hold several slots, slots are ordered in blocks of about as many, so that it holds a patch of the picture
    and no strip of a row.

    Args:
        new ([`NewTokens`]):
            Of `find_new_tokens`.
        significance (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            Significance of every token in [0, 1]; only that of new tokens is looked at.
        mask (`torch.Tensor` of the same shape):
            True where the token exists.
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video.
        num_video_tokens (`int`):
            M.

    Returns:
        [`Runs`]
    """
    batch, num_frames, places = mask.shape
    order, first_of_block = _order_of_places(new, significance, grid_sizes, num_video_tokens)
    along = order.unsqueeze(1).expand(-1, num_frames, -1)
    is_new, exists, weight = (values.gather(2, along) for values in (new.is_new, mask, significance))

    # the slot of a new token: how many (frame, block) pairs with a new token come before its own
    so_far = is_new.long().cumsum(2)
    before_block = F.pad(so_far, (1, 0)).gather(2, first_of_block.unsqueeze(1).expand(-1, num_frames, -1))
    opens = is_new & (so_far - before_block == 1)
    slot = (opens.flatten(1).long().cumsum(1) - 1).view_as(so_far)
    num_slots = int(opens.flatten(1).sum(1).amax())

    # every other token belongs where the last new one of its place belongs
    frame = torch.arange(num_frames, device=mask.device).view(1, -1, 1)
    started = torch.where(is_new, frame, -1).cummax(dim=1).values.clamp(min=0)
    slot = slot.gather(1, started).clamp(min=0)
    length = torch.zeros_like(weight).scatter_add_(1, started, exists.to(weight.dtype)).gather(1, started)
    # a score that was learned may be so low that nothing of its significance is left; a slot is an average even so
    share = weight.detach().clamp(min=1e-30).gather(1, started) / length.clamp(min=1) * exists
    total = share.new_zeros(batch, num_slots).scatter_add_(1, slot.flatten(1), share.flatten(1))
    share = share / total.gather(1, slot.flatten(1)).view_as(share).clamp(min=torch.finfo(share.dtype).tiny)

    position = (opens.flatten(1).long().cumsum(1) - 1).where(opens.flatten(1), num_slots)
    index = (frame * places + along).flatten(1)
    starts = index.new_zeros(batch, num_slots + 1).scatter_(1, position, index)[:, :num_slots]
    filled = torch.arange(num_slots, device=mask.device) < opens.flatten(1).sum(1, keepdim=True)
    mass = torch.zeros_like(total).scatter_add(1, slot.flatten(1), (weight * is_new).flatten(1))
    back = order.argsort(dim=1).unsqueeze(1).expand(-1, num_frames, -1)
    return Runs(
        slots=slot.gather(2, back).flatten(1) * mask.flatten(1),
        weights=share.gather(2, back).flatten(1),
        starts=torch.where(filled, starts, starts[:, :1]),
        filled=filled,
        mass=mass,
    )


def _order_of_places(
    new: NewTokens, significance: torch.Tensor, grid_sizes: Sequence[tuple[int, int]], num_video_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The places of a frame in the order of their slots, `(batch, places)`, and for each position in it the first
    position of the same block.
    """
    places = new.is_new.shape[2]
    rows, columns = places_in_grid(grid_sizes, places, new.is_new.device)
    per_video_token = (significance.detach() * new.is_new).sum(dim=(1, 2)) / num_video_tokens
    side = 2 ** per_video_token.clamp(min=1).sqrt().log2().round().long()
    side, inner = torch.maximum(side, new.side).unsqueeze(1), new.side.unsqueeze(1)
    width = columns.amax(1, keepdim=True) + 1
    inner_block = rows // inner * width + columns // inner
    order = inner_block.argsort(dim=1, stable=True)
    outer_block = (rows // side * width + columns // side).gather(1, order)
    order = order.gather(1, outer_block.argsort(dim=1, stable=True))
    block = inner_block.gather(1, order)
    position = torch.arange(places, device=block.device).expand_as(block)
    changes = F.pad(block[:, 1:] != block[:, :-1], (1, 0), value=True)
    return order, torch.where(changes, position, 0).cummax(dim=1).values


def single_tokens(indices: torch.Tensor, filled: torch.Tensor, significance: torch.Tensor) -> Runs:
    """
    Tokens that are kept one by one, as runs of length 1: what a selection without key frames keeps.

    Args:
        indices, filled (`torch.Tensor` of shape `(batch, num_slots)`):
            The kept tokens, ascending, and which slots are filled; all indices of a row differ where they are.
        significance (`torch.Tensor` of shape `(batch, num_frames * tokens_per_frame)`):
            Significance of every token, the mass of those that are kept.

    Returns:
        [`Runs`]
    """
    batch, num_tokens = significance.shape
    slot = torch.arange(indices.shape[1], device=indices.device).expand_as(indices)
    target = indices.where(filled, num_tokens)  # empty slots write beside the video
    slots = indices.new_zeros(batch, num_tokens + 1).scatter_(1, target, slot)[:, :num_tokens]
    weights = significance.new_zeros(batch, num_tokens + 1).scatter_(1, target, 1.0)[:, :num_tokens]
    return Runs(
        slots=slots,
        weights=weights.detach(),
        starts=indices,
        filled=filled,
        mass=significance.gather(1, indices) * filled,
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
    batch, num_frames, places, width = values.shape
    dtype = accumulation_dtype(values.dtype)
    sums = torch.zeros(batch, num_slots, width, dtype=dtype, device=values.device)
    for start in range(0, num_frames, FRAMES_PER_CHUNK):
        chunk = values[:, start : start + FRAMES_PER_CHUNK].flatten(1, 2).to(dtype)
        inside = slice(start * places, start * places + chunk.shape[1])
        index = slots[:, inside].unsqueeze(-1).expand(-1, -1, width)
        sums = sums.scatter_add(1, index, chunk * weights[:, inside].unsqueeze(-1).to(dtype))
    return sums.to(values.dtype)


def positions_on_mass(log_mass: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """
    Where every slot lies on the axis of mass: the mass before it and half of its own, over all mass.

    Args:
        log_mass (`torch.Tensor` of shape `(batch, num_slots)`):
            Log of the mass of the slots.
        mask (`torch.Tensor` of the same shape):
            True where the slot is filled.

    Returns:
        `torch.Tensor` of shape `(batch, num_slots)` in [0, 1]; 1 in empty slots.

    Example:

    >>> mass = torch.tensor([[1.0, 2.0, 1.0]])
    >>> positions_on_mass(mass.log(), torch.ones(1, 3, dtype=torch.bool)).tolist()
    [[0.125, 0.5, 0.875]]
    """
    mass = log_mass.exp().masked_fill(~mask, 0.0)
    total = mass.sum(dim=1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    return (mass.cumsum(dim=1) - mass / 2) / total
