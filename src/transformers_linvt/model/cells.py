"""
Cells: which places of a frame share a stretch of the axis of mass where a video token has to hold several tokens.

Where every new token can have a video token of its own, a cell is one place. Where it cannot, a frame is divided into
a lattice of cells, as large as it takes, so that a video token averages a patch of the picture and no strip of a row.
All frames of a video have the same cells: none is squeezed because another one came first. Ours, not the paper's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


# Cells are tried in sizes of 2^(1/4) from one side to the next. Below two new tokens per video token they stay single
# places: to average two neighbours of many is less of a loss than to average all of them by four.
STEPS_PER_DOUBLING = 4
NEW_TOKENS_PER_VIDEO_TOKEN_IN_SINGLE_PLACES = 2.0


@dataclass
class Cells:
    """
    The cells of a batch of videos.

    Args:
        cell (`torch.Tensor` of shape `(batch, tokens_per_frame)`):
            Number of the cell of every place, in reading order.
        part (`torch.Tensor` of the same shape):
            Number of the part of the frame that the place shares a slot with; parts lie inside of cells, and are single
            places unless more are new than can be kept. In reading order of cells, then inside of each.
        share (`torch.Tensor` of the same shape):
            One over the number of places in the cell: a cell that is all new has mass 1.
    """

    cell: torch.Tensor
    part: torch.Tensor
    share: torch.Tensor


def choose_cells(
    is_new: torch.Tensor,
    significance: torch.Tensor,
    whole: torch.Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_video_tokens: int,
    num_kept: torch.Tensor,
) -> Cells:
    """
    The smallest cells with which what is new has at most one unit of mass per video token, and can be kept.

    Args:
        is_new (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            True where a token is new.
        significance (`torch.Tensor` of the same shape):
            Its significance in [0, 1].
        whole (`torch.Tensor` of shape `(batch, tokens_per_frame)`):
            True at places that exist in any frame.
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video, tokens in reading order; what comes after the grid (a newline token) is in its last
            cell, but for single places.
        num_video_tokens (`int`):
            M.
        num_kept (`torch.Tensor` of shape `(batch,)`):
            Most slots, at least one per frame that has a token.

    Returns:
        [`Cells`]
    """
    lattice = _Lattice(grid_sizes, whole)
    per_place = (significance.detach() * is_new).sum(dim=1)  # (batch, places)
    crowded = per_place.sum(1) >= NEW_TOKENS_PER_VIDEO_TOKEN_IN_SINGLE_PLACES * num_video_tokens
    steps = range(lattice.num_steps)
    fits = torch.stack(
        [
            ((per_place * lattice.shares(step)).sum(1) <= num_video_tokens * (1 + 1e-3) if step else ~crowded)
            & (lattice.count(is_new, step) <= num_kept)
            for step in steps
        ]
    )
    step = torch.where(fits.any(0), fits.int().argmax(0), lattice.num_steps - 1)  # (batch,)
    cell = lattice.pick(lattice.cells, step)
    part = _smallest_parts(lattice, is_new, step, num_kept)
    return Cells(cell, part, lattice.pick(lattice.shares, step))


def _smallest_parts(
    lattice: "_Lattice", is_new: torch.Tensor, step: torch.Tensor, num_kept: torch.Tensor
) -> torch.Tensor:
    """Parts of the chosen cells, halved as often as what is new can still be kept."""
    best = lattice.pick(lattice.cells, step)
    for halvings in range(1, lattice.num_halvings + 1):
        parts = lattice.pick(lambda one, halvings=halvings: lattice.cells(one, halvings), step)
        fits = _count(is_new, parts) <= num_kept
        best = torch.where(fits.unsqueeze(1), parts, best)
    return best


class _Lattice:
    """All the cells that a frame of each video can be divided into: step 0 is single places, the last the frame."""

    def __init__(self, grid_sizes: Sequence[tuple[int, int]], whole: torch.Tensor) -> None:
        self.whole = whole
        self.grid = torch.tensor(grid_sizes, device=whole.device)  # (batch, 2)
        extent = max(max(grid) for grid in grid_sizes)
        self.num_halvings = math.ceil(math.log2(extent)) if extent > 1 else 0
        self.num_steps = 1 + STEPS_PER_DOUBLING * self.num_halvings
        index = torch.arange(whole.shape[1], device=whole.device)
        columns = self.grid[:, 1:]
        self.index, self.row, self.column = index, index // columns, index % columns

    def cells(self, step: int, halvings: int = 0) -> torch.Tensor:
        """Number of the cell of every place, `(batch, places)`, with both sides of the cells halved so many times."""
        if step == 0:
            return self.index.expand_as(self.row)
        sides = 2 ** (step / STEPS_PER_DOUBLING)
        if step == self.num_steps - 1:
            counts = torch.ones_like(self.grid)
        else:
            counts = (self.grid / sides).ceil().long()
        counts = counts * 2**halvings  # a half lies inside of a cell: floor(floor(2 x) / 2) = floor(x)
        outer = torch.ones_like(counts) if not halvings else counts // 2**halvings
        row = (self.row * counts[:, :1] // self.grid[:, :1]).clamp(max=counts[:, :1] - 1)
        column = self.column * counts[:, 1:] // self.grid[:, 1:]
        if not halvings:
            return row * counts[:, 1:] + column
        parts = 2**halvings
        cell = (row // parts) * outer[:, 1:] + column // parts
        return cell * parts**2 + row % parts * parts + column % parts

    def shares(self, step: int) -> torch.Tensor:
        """One over the number of places in the cell of every place."""
        cell = self.cells(step)
        sizes = torch.zeros(cell.shape, device=cell.device).scatter_add_(1, cell, self.whole.float())
        return 1 / sizes.gather(1, cell).clamp(min=1)

    def count(self, is_new: torch.Tensor, step: int) -> torch.Tensor:
        """How many pairs of frame and cell hold something new, `(batch,)`."""
        return _count(is_new, self.cells(step))

    def pick(self, at_step, steps: torch.Tensor) -> torch.Tensor:
        """For every video its row of `at_step(its step)`."""
        needed = sorted(set(steps.tolist()))
        rows = {step: at_step(step) for step in needed}
        return torch.stack([rows[step][video] for video, step in enumerate(steps.tolist())])


def _count(is_new: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Pairs of a frame and a group of places that hold something new, `(batch,)`; groups are numbered in any way."""
    compact = torch.stack([group.unique(return_inverse=True)[1] for group in groups])
    hits = torch.zeros(is_new.shape, dtype=torch.int32, device=is_new.device)
    hits.scatter_add_(2, compact.unsqueeze(1).expand_as(is_new), is_new.int())
    return hits.gt(0).sum(dim=(1, 2))
