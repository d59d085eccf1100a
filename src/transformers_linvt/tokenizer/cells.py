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


# Cells are tried in sizes of 2^(1/8) from one side to the next. Below two new tokens per video token they stay single
# places: to average two neighbours of many is less of a loss than to average all of them by four.
STEPS_PER_DOUBLING = 8
NEW_TOKENS_PER_VIDEO_TOKEN_IN_SINGLE_PLACES = 2.0


class CellLattices:
    """
    All the lattices that the frames of a batch of videos can be divided into: at step 0 every place is a cell of its
    own, at the last one the whole frame is one.

    Args:
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video, tokens in reading order. What comes after the grid (a newline token) is in its last
            cell, but for step 0.
        whole (`torch.Tensor` of shape `(batch, tokens_per_frame)`):
            True at places that exist in any frame.

    Attributes:
        cells (`torch.Tensor` of shape `(steps, batch, tokens_per_frame)`): number of the cell of every place.
        shares (`torch.Tensor` of the same shape): one over the number of places in that cell, float32.
    """

    def __init__(self, grid_sizes: Sequence[tuple[int, int]], whole: torch.Tensor) -> None:
        self.grid = torch.tensor(grid_sizes, device=whole.device)  # (batch, 2)
        self.counts = _lattice_counts(grid_sizes, whole.device)  # (steps, batch, 2)
        places = torch.arange(whole.shape[1], device=whole.device)
        self.cells = torch.stack(
            [places.expand(whole.shape), *(_cells(self.grid, step, len(places)) for step in self.counts[1:])]
        )
        self.shares = torch.stack([cell_shares(cell, whole) for cell in self.cells])
        self.cells_of_frame = (self.shares * whole).sum(2).round()  # (steps, batch)

    def shares_within(self, budget: torch.Tensor) -> torch.Tensor:
        """Shares `(batch, tokens_per_frame)` of the smallest cells of which a frame has at most `budget (batch,)`."""
        step = (self.cells_of_frame <= budget).int().argmax(0)
        return self.shares[step, torch.arange(len(step), device=step.device)]


@dataclass
class Cells:
    """
    The cells that were chosen for a batch of videos.

    Args:
        cell (`torch.Tensor` of shape `(batch, tokens_per_frame)`):
            Number of the cell of every place, in reading order.
        part (`torch.Tensor` of the same shape):
            Number of the part of the frame that the place shares a slot with; parts lie inside of cells, and are
            single places unless more are new than can be kept.
        share (`torch.Tensor` of the same shape):
            One over the number of places in the cell: a cell that is all new has mass 1.
    """

    cell: torch.Tensor
    part: torch.Tensor
    share: torch.Tensor


@torch.no_grad()
def choose_cells(
    lattices: CellLattices,
    is_new: torch.Tensor,
    significance: torch.Tensor,
    num_video_tokens: int,
    num_kept: torch.Tensor,
) -> Cells:
    """
    The smallest cells with which what is new has at most one unit of mass per video token, and can be kept.

    Args:
        lattices ([`CellLattices`]):
            Those to choose from.
        is_new (`torch.Tensor` of shape `(batch, num_frames, tokens_per_frame)`):
            True where a token is new.
        significance (`torch.Tensor` of the same shape):
            Its significance in [0, 1].
        num_video_tokens (`int`):
            M.
        num_kept (`torch.Tensor` of shape `(batch,)`):
            Most slots, at least one per frame that has a token.

    Returns:
        [`Cells`]
    """
    cells, places = lattices.cells, is_new.shape[2]
    per_place = (significance * is_new).sum(dim=1)  # (batch, places)
    fits = (per_place * lattices.shares).sum(2) <= num_video_tokens * (1 + 1e-3)
    fits[0] = per_place.sum(1) < NEW_TOKENS_PER_VIDEO_TOKEN_IN_SINGLE_PLACES * num_video_tokens
    fits &= torch.stack([count_cells(is_new, cell) for cell in cells]) <= num_kept
    step = torch.where(fits.any(0), fits.int().argmax(0), len(cells) - 1)
    video = torch.arange(len(step), device=step.device)
    cell = part = cells[step, video]
    halves = [
        torch.minimum(lattices.counts[step, video] * 2**halvings, lattices.grid)
        for halvings in range(1, len(cells) // STEPS_PER_DOUBLING + 1)
    ]
    for smaller in (*(_cells(lattices.grid, counts, places) for counts in halves), cells[0]):
        can_be_kept = count_cells(is_new, smaller) <= num_kept
        part = torch.where(can_be_kept.unsqueeze(1), smaller, part)
    return Cells(cell, part, lattices.shares[step, video])


def _lattice_counts(grid_sizes: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
    """Rows and columns of cells at every step, `(steps, batch, 2)`: of single places, at last of the whole frame."""
    doublings = math.ceil(math.log2(max(max(grid) for grid in grid_sizes)))
    sides = [2 ** (step / STEPS_PER_DOUBLING) for step in range(1, STEPS_PER_DOUBLING * doublings)]
    counts = [[[math.ceil(length / side) for length in grid] for grid in grid_sizes] for side in sides]
    return torch.tensor([[list(grid) for grid in grid_sizes], *counts, [[1, 1]] * len(grid_sizes)], device=device)


def _cells(grid: torch.Tensor, counts: torch.Tensor, places: int) -> torch.Tensor:
    """
    Number of the cell of every place, `(batch, places)`, of a `grid` of `counts` cells, both `(batch, 2)`.

    Cells are as equal as whole places allow: of twice as many, each lies inside of one.
    """
    (rows, columns), (cell_rows, cell_columns) = grid.T.unsqueeze(2), counts.T.unsqueeze(2)
    # what comes after the grid is where its last place is
    index = torch.arange(places, device=grid.device).minimum(rows * columns - 1)
    return index // columns * cell_rows // rows * cell_columns + index % columns * cell_columns // columns


def cell_shares(cell: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """One over the number of places in the cell of every place, float32."""
    sizes = torch.zeros(whole.shape, device=cell.device).scatter_add_(1, cell, whole.float())
    return 1 / sizes.gather(1, cell).clamp(min=1)


def count_cells(is_new: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """How many pairs of a frame and a cell hold something new, `(batch,)`."""
    hits = torch.zeros(is_new.shape, dtype=torch.int32, device=is_new.device)
    return hits.scatter_add_(2, cell.unsqueeze(1).expand_as(is_new), is_new.int()).gt(0).sum(dim=(1, 2))
