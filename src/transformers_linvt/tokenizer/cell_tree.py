"""
A tree of cells: a frame is halved again and again where that separates most of what differs in it.

A lattice does not know the picture. Where a frame has more tokens than the video gets, cells are large where little
is to be seen and small where much is: of all straight cuts through all cells the next is always the one that leaves
least within the cells, in the mean picture over time. The cells of fewer cuts are those of more cuts taken together.
It is a k-d tree over the places of a frame (as in colour quantisation). Ours, not the paper's.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


# What the place of a token counts beside the token, as a share of the tokens' own spread: where nothing is to be seen,
# or the same everywhere, cells are cut in the middle and not by rounding errors.
SHARE_OF_THE_PLACE = 1e-3
LEAST_SPREAD = 1e-3  # as a share of the tokens' length: less is rounding


@dataclass
class CellTree:
    """
    All the ways to divide a frame into cells, from the whole frame to single places.

    Args:
        ranks (`torch.Tensor` of shape `(num_places, depth)`):
            For every place, the cuts through the cells that it is in, from the whole frame on: each by its number in
            the order in which cuts are made; as many as there are places where there is no further one.
        corners (`torch.Tensor` of shape `(num_places, depth + 1)`):
            The first place, in reading order, of the cell that the place is in after so many of those cuts.
    """

    ranks: torch.Tensor
    corners: torch.Tensor

    def cells(self, numbers: torch.Tensor, num_places: int) -> torch.Tensor:
        """
        The frame in so many cells.

        Args:
            numbers (`torch.Tensor` of shape `(divisions,)`):
                Number of cells of every division; with more than there are places, every place is one.
            num_places (`int`):
                Places of the result. What comes after the grid (a newline token) is in its last cell.

        Returns:
            `torch.Tensor` of shape `(divisions, num_places)`: for every place the first place of its cell.
        """
        cuts = (self.ranks < numbers.view(-1, 1, 1) - 1).sum(2)  # (divisions, places): those on the way to its cell
        cell = self.corners.expand(len(numbers), -1, -1).gather(2, cuts.unsqueeze(2)).squeeze(2)
        index = torch.arange(num_places, device=cell.device).clamp(max=cell.shape[1] - 1)
        return cell[:, index]


@torch.no_grad()
def grow_cell_tree(picture: torch.Tensor, exists: torch.Tensor, grid_size: tuple[int, int]) -> CellTree:
    """
    The tree of one video, made on the CPU whatever the device, so that it is the same on all.

    Args:
        picture (`torch.Tensor` of shape `(num_places, dim)`):
            Mean over time of what stands at every place, in reading order. Tokens after the grid are not looked at.
        exists (`torch.Tensor` of shape `(num_places,)`):
            True where there is a token in any frame.
        grid_size (`(rows, columns)`):
            The grid; its last places may be missing.

    Returns:
        [`CellTree`] on the device of `picture`.

    Example:

    >>> picture = torch.tensor([[0.0], [0.0], [9.0], [7.0]])
    >>> tree = grow_cell_tree(picture, torch.ones(4, dtype=torch.bool), (1, 4))
    >>> tree.cells(torch.tensor([1, 2, 3, 4]), 4).tolist()
    [[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 3], [0, 1, 2, 3]]
    """
    growth = _Growth(picture.float().cpu(), exists.cpu(), grid_size)
    while growth.cut_all():
        pass
    tree = growth.tree()
    return CellTree(tree.ranks.to(picture.device), tree.corners.to(picture.device))


class _Growth:
    """
    A tree that grows level by level: every cell of more than one place is cut in two at its best place.

    A cut never comes before that which made its cell, however much it separates: the gain that orders it is at most
    that of the cuts above it. So the order is that of always making the best cut of those that can be made.
    """

    def __init__(self, picture: torch.Tensor, exists: torch.Tensor, grid_size: tuple[int, int]) -> None:
        rows, columns = grid_size
        num_places = rows * columns
        missing = max(0, num_places - len(picture))
        picture, exists = F.pad(picture[:num_places], (0, 0, 0, missing)), F.pad(exists[:num_places], (0, missing))
        place = torch.arange(num_places)
        self.columns, self.row, self.column = columns, place // columns, place % columns
        there = exists.float().unsqueeze(1)
        values = (picture - (picture * there).sum(0) / there.sum().clamp(min=1)) * there
        size, spread = ((part.square().sum() / there.sum().clamp(min=1)).sqrt() for part in (picture * there, values))
        unit = SHARE_OF_THE_PLACE * torch.maximum(spread, LEAST_SPREAD * size.clamp(min=1e-9))
        middle = torch.stack([(self.row + 0.5) / rows, (self.column + 0.5) / columns], dim=1) - 0.5
        values = torch.cat([values, unit * middle * there], dim=1)
        self.sums, self.counts = (_integral(table.unflatten(0, grid_size)) for table in (values, there))

        self.boxes = torch.tensor([[0, rows, 0, columns]])  # first row, row behind the last, the same of columns
        self.box = torch.zeros(num_places, dtype=torch.long)  # that every place is in
        self.limit = torch.full((1,), math.inf)  # for every box, the smallest gain of a cut above it
        self.gains: list[torch.Tensor] = []
        self.paths: list[torch.Tensor] = []
        self.corners = [torch.zeros(num_places, dtype=torch.long)]

    def cut_all(self) -> bool:
        """Cut every box of more than one place; False where there is none."""
        cut_box, first = self._cuts()
        if not len(cut_box):
            return False
        gain = self._gain(self.boxes[cut_box], first)
        best = gain.new_full((len(self.boxes),), -math.inf).scatter_reduce_(0, cut_box, gain, "amax")
        number = torch.arange(len(gain)).where(gain == best[cut_box], len(gain))
        chosen = number.new_full((len(self.boxes),), len(gain)).scatter_reduce_(0, cut_box, number, "amin")
        is_cut = chosen < len(gain)
        chosen, parents = chosen[is_cut], is_cut.nonzero().flatten()
        first, second = first[chosen], self.boxes[parents].clone()
        by_row = first[:, 1] < second[:, 1]
        second[:, 0] = torch.where(by_row, first[:, 1], second[:, 0])
        second[:, 2] = torch.where(by_row, second[:, 2], first[:, 3])

        of_box = torch.full((len(self.boxes),), -1)
        of_box[parents] = torch.arange(len(parents))
        cut = of_box[self.box]  # that goes through the box of every place, -1 without any
        self.paths.append(torch.where(cut >= 0, cut + sum(len(gains) for gains in self.gains), -1))
        self.gains.append(torch.minimum(gain[chosen], self.limit[parents]))
        inside = first[cut]
        is_first = (self.row < inside[:, 1]) & (self.column < inside[:, 3])
        halves = len(self.boxes) + cut + torch.where(is_first, 0, len(parents))
        used, self.box = torch.where(cut >= 0, halves, self.box).unique(return_inverse=True)
        self.boxes = torch.cat([self.boxes, first, second])[used]
        self.limit = torch.cat([self.limit, self.gains[-1], self.gains[-1]])[used]
        self.corners.append((self.boxes[:, 0] * self.columns + self.boxes[:, 2])[self.box])
        return True

    def tree(self) -> CellTree:
        """What has grown."""
        num_places = len(self.box)
        if not self.paths:
            return CellTree(torch.zeros(num_places, 0, dtype=torch.long), torch.stack(self.corners, dim=1))
        order = torch.cat(self.gains).argsort(descending=True, stable=True)  # stable: those above come first
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        paths = torch.stack(self.paths, dim=1)
        return CellTree(
            torch.where(paths >= 0, rank[paths.clamp(min=0)], num_places), torch.stack(self.corners, dim=1)
        )

    def _cuts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All cuts through all boxes: the number of the box, `(cuts,)`, and its first half, `(cuts, 4)`."""
        box = self.boxes[self.box]
        by_row = ((self.column == box[:, 2]) & (self.row > box[:, 0])).nonzero().flatten()
        by_column = ((self.row == box[:, 0]) & (self.column > box[:, 2])).nonzero().flatten()
        above, left = box[by_row], box[by_column]
        above[:, 1], left[:, 3] = self.row[by_row], self.column[by_column]
        return self.box[torch.cat([by_row, by_column])], torch.cat([above, left])

    def _gain(self, boxes: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """How much less is left within two halves than within a box, in squared distance to the mean, `(cuts,)`."""
        sums, counts = (_within(table, boxes) for table in (self.sums, self.counts))
        sums_of_first, counts_of_first = (_within(table, first) for table in (self.sums, self.counts))
        halves = ((sums_of_first, counts_of_first), (sums - sums_of_first, counts - counts_of_first))
        whole, *parts = (
            total.square().sum(1) / count.squeeze(1).clamp(min=1) for total, count in ((sums, counts), *halves)
        )
        gain = parts[0] + parts[1] - whole
        return gain.nan_to_num(0.0, 0.0, 0.0)  # where tokens are no numbers any cut will do


def _integral(table: torch.Tensor) -> torch.Tensor:
    """Sums of everything above and left of every corner of a grid: `(rows + 1, columns + 1, width)`."""
    return F.pad(table.cumsum(0).cumsum(1), (0, 0, 1, 0, 1, 0))


def _within(integral: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Sums within boxes `(boxes, 4)`: `(boxes, width)`."""
    top, bottom, left, right = boxes.T
    return integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
