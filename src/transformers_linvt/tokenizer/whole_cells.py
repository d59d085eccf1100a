"""
Whole cells: what is new in a video whose frames have more tokens than the video gets.

Tokens that are looked at one by one do not become new together. Where a video token has to hold a patch of the
picture, that leaves it with bits of several patches. So the patches are fixed first, as cells of a tree that knows the
picture; a cell is new in a frame when enough of it is, and then what is new in it gets a video token of its own. How
many cells and how much is enough are chosen together: as many pairs of a frame and a cell may be new as the video has
tokens.

A small thing may be too little of a large cell. So whole cells are taken where they can be without raising the
threshold above what noise makes, or where more is new than can be looked at token by token: then small things cannot
each have a video token anyway. Everything here is a few more scans, linear in time. Ours, not the paper's.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from .cell_tree import CellTree, grow_cell_tree
from .cells import Cells, cell_shares, count_cells
from .keyframes import (
    FRAMES_COMPARED_AT_ONCE,
    NOVELTY_LEVELS,
    NewTokens,
    NoveltyScan,
    contrast,
    find_new_tokens,
)
from .precision import accumulation_dtype


# A cell is as new as the mean of the fourth powers of its tokens' novelty, to the power of a quarter: one token that
# has nothing to do with what was there makes cells of up to 60 places new at the lowest threshold, and what noise does
# in many of them stays below. With squares, cells of 8 places hide that token; where any token decides, what moves a
# little makes so much new that cells are far larger.
POWER = 4

# Numbers of cells are tried in eight steps: M, each by the square root of 2 smaller, at last one.
STEPS_BETWEEN_NUMBERS = 8

# The threshold is the lowest with which there are at least so many cells as a share of what the highest allows.
SHARE_OF_THE_MOST_CELLS = 0.8

ScanVideos = Callable[[NoveltyScan], Iterator[tuple[torch.Tensor, torch.Tensor]]]


class CellScan(NoveltyScan):
    """
    The state of looking at videos frame after frame and cell by cell, for several divisions into cells at once.

    A token is new where its cell is new and it is itself further from its reference than the threshold.

    Args:
        unit (`torch.Tensor` of shape `(batch,)`):
            As of [`NoveltyScan`].
        cells (`torch.Tensor` of shape `(batch, divisions, places)`):
            For every division the cell of every place, a number below that of places.
        levels (`torch.Tensor` of shape `(batch, divisions)`):
            The threshold of every division.

    Attributes:
        num_new (`torch.Tensor` of shape `(batch, divisions)`): pairs of a frame and a cell that were new until now.

    Example:

    >>> scan = CellScan(torch.ones(1), torch.tensor([[[0, 0], [0, 1]]]), torch.tensor([[1.3, 1.3]]))
    >>> frames = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])  # the second token turns
    >>> scan.feed(frames[None])[1].tolist()
    [[[[True, True], [True, True]], [[False, False], [False, True]]]]
    >>> scan.num_new.tolist()
    [[1, 3]]
    """

    def __init__(self, unit: torch.Tensor, cells: torch.Tensor, levels: torch.Tensor) -> None:
        super().__init__(unit, levels.unsqueeze(1))
        self.cells = cells
        self.num_new = torch.zeros_like(levels, dtype=torch.long)

    def feed(
        self, tokens: torch.Tensor, mask: torch.Tensor | None = None, allowance: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next frames, as [`NoveltyScan.feed`]; `levels` are divisions."""
        novelty, is_new = super().feed(tokens, mask, allowance)
        for found in is_new.unbind(1):
            hits = torch.zeros_like(self.cells).scatter_add_(2, self.cells, found.transpose(1, 2).to(self.cells.dtype))
            self.num_new = self.num_new + (hits > 0).sum(2)
        return novelty, is_new

    def _decide(
        self, is_far: torch.Tensor, novelty: torch.Tensor, mask: torch.Tensor, allowance: torch.Tensor | None
    ) -> torch.Tensor:
        excess = novelty if allowance is None else novelty - allowance.unsqueeze(-1).to(novelty.dtype)
        power = (excess.clamp(min=0.0).pow(POWER) * mask.unsqueeze(-1)).transpose(1, 2)  # (batch, divisions, places)
        there = mask.unsqueeze(1).expand_as(power).to(power.dtype)
        total, count = (torch.zeros_like(power).scatter_add_(2, self.cells, part) for part in (power, there))
        of_cell = (total / count.clamp(min=1)).pow(1 / POWER)
        cell_is_new = of_cell > self.levels.transpose(1, 2)
        return is_far & cell_is_new.gather(2, self.cells).transpose(1, 2)


@dataclass
class WholeCells:
    """
    What is new in a batch of videos by cells.

    Args:
        novelty, is_new, threshold (`torch.Tensor`):
            As of [`NewTokens`]. The novelty of what is not new is at most the threshold, also where the token alone
            is further away.
        cells ([`Cells`]):
            Those that were chosen.
        fits (`torch.Tensor` of shape `(batch,)`):
            True where no more pairs of a frame and a cell are new than there are video tokens and slots.
        is_lowest (`torch.Tensor` of shape `(batch,)`):
            True where the threshold is the lowest.
    """

    novelty: torch.Tensor
    is_new: torch.Tensor
    threshold: torch.Tensor
    cells: Cells
    fits: torch.Tensor
    is_lowest: torch.Tensor


@dataclass
class CellSearch:
    """
    The search for the number of cells and the threshold of a batch of videos.

    Args:
        scan_videos (callable):
            Feeds a scan all frames of the videos, some at once, and yields what it returns for those.
        unit (`torch.Tensor` of shape `(batch,)`):
            Their contrast.
        trees (sequence of [`CellTree`]):
            Their trees.
        whole (`torch.Tensor` of shape `(batch, places)`):
            True at places that exist in any frame.
        num_video_tokens (`int`):
            M.
        num_kept (`torch.Tensor` of shape `(batch,)`):
            Most slots.
        allowance (`torch.Tensor` of shape `(batch, num_frames, places)`, *optional*):
            What to add to the threshold of every token.
    """

    scan_videos: ScanVideos
    unit: torch.Tensor
    trees: Sequence[CellTree]
    whole: torch.Tensor
    num_video_tokens: int
    num_kept: torch.Tensor
    allowance: torch.Tensor | None = None

    @classmethod
    def of_videos(
        cls,
        scan_videos: ScanVideos,
        unit: torch.Tensor,
        pictures: torch.Tensor,
        whole: torch.Tensor,
        grid_sizes: Sequence[tuple[int, int]],
        num_video_tokens: int,
        num_kept: torch.Tensor,
        allowance: torch.Tensor | None = None,
    ) -> "CellSearch":
        """With the trees of their mean pictures, `(batch, places, dim)`, and grids `(rows, columns)`."""
        trees = [grow_cell_tree(*video) for video in zip(pictures, whole, grid_sizes, strict=True)]
        return cls(scan_videos, unit, trees, whole, num_video_tokens, num_kept, allowance)

    @torch.no_grad()
    def search(self) -> WholeCells:
        """
        Four scans: how many cells fit at the highest threshold; the lowest threshold at which nearly as many do; how
        many fit there; and what is new with them.
        """
        levels = self.unit.new_tensor(NOVELTY_LEVELS)
        numbers = [self.num_video_tokens / 2 ** (step / 2) for step in range(STEPS_BETWEEN_NUMBERS - 1)]
        numbers = torch.tensor([*numbers, 1.0], device=self.unit.device).round().long().clamp(min=1)
        numbers = numbers.expand(len(self.unit), -1)
        fits = self._fits(numbers, levels[-1:].expand(numbers.shape))
        step = fits.int().argmax(1, keepdim=True)
        most, too_many = numbers.gather(1, step), numbers.gather(1, (step - 1).clamp(min=0))
        least = (most * SHARE_OF_THE_MOST_CELLS).ceil().long()
        at_levels = self._fits(least.expand(-1, len(levels)), levels.expand(len(least), -1))
        level = at_levels.int().argmax(1, keepdim=True)
        share = torch.linspace(1.0, 0.0, STEPS_BETWEEN_NUMBERS, device=self.unit.device)
        numbers = (least * (too_many / least) ** share).round().long()
        found = self._fits(numbers, levels[level].expand(numbers.shape))
        number = numbers.gather(1, found.int().argmax(1, keepdim=True))
        return self._with(number, levels[level], fits.any(1) & at_levels.any(1) & found.any(1), level.squeeze(1) == 0)

    def _cells(self, numbers: torch.Tensor) -> torch.Tensor:
        places = self.whole.shape[1]
        return torch.stack([tree.cells(row, places) for tree, row in zip(self.trees, numbers, strict=True)])

    def _fits(self, numbers: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Whether what is new in so many cells has a video token and a slot, `(batch, divisions)` as the arguments."""
        scan = CellScan(self.unit, self._cells(numbers), levels)
        for _ in self.scan_videos(scan):
            pass
        return scan.num_new <= self.num_kept.clamp(max=self.num_video_tokens).unsqueeze(1)

    def _with(
        self, number: torch.Tensor, level: torch.Tensor, fits: torch.Tensor, is_lowest: torch.Tensor
    ) -> WholeCells:
        """What is new in this number of cells at this threshold, both `(batch, 1)`."""
        cell = self._cells(number)
        found = zip(*self.scan_videos(CellScan(self.unit, cell, level)), strict=True)
        novelty, is_new = (torch.cat(parts, dim=1).squeeze(-1) for parts in found)
        cell = part = cell.squeeze(1)
        num_places = torch.tensor([len(tree.corners) for tree in self.trees], device=cell.device).unsqueeze(1)
        share = torch.linspace(0.0, 1.0, 2 * STEPS_BETWEEN_NUMBERS, device=cell.device)
        finer = (number * (num_places / number) ** share).round().long()
        singles = torch.arange(cell.shape[1], device=cell.device).expand_as(cell)
        for smaller in (*self._cells(finer).unbind(1), singles):  # each lies inside of those before
            can_be_kept = count_cells(is_new, smaller) <= self.num_kept
            part = torch.where(can_be_kept.unsqueeze(1), smaller, part)
        threshold = level.unsqueeze(2) if self.allowance is None else level.unsqueeze(2) + self.allowance
        return WholeCells(
            novelty=torch.where(is_new, novelty, torch.minimum(novelty, threshold.to(novelty.dtype))),
            is_new=is_new,
            threshold=level.squeeze(1),
            cells=Cells(cell, part, cell_shares(cell, self.whole)),
            fits=fits,
            is_lowest=is_lowest,
        )


@torch.no_grad()
def find_what_is_new(
    frame_tokens: torch.Tensor,
    mask: torch.Tensor,
    grid_sizes: Sequence[tuple[int, int]],
    num_video_tokens: int,
    num_kept_tokens: int,
    allowance: torch.Tensor | None = None,
) -> NewTokens:
    """
    `find_new_tokens`, and where a frame has more tokens than the video gets, by whole cells if that is better.

    Args:
        frame_tokens, mask, grid_sizes, num_video_tokens, num_kept_tokens, allowance:
            As of [`find_new_tokens`].

    Returns:
        [`NewTokens`]
    """
    new = find_new_tokens(frame_tokens, mask, grid_sizes, num_video_tokens, num_kept_tokens, allowance=allowance)
    rows = (mask.any(dim=1).sum(1) > num_video_tokens).nonzero().flatten()
    if not len(rows):
        return new

    def scan_videos(scan: NoveltyScan) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, frame_tokens.shape[1], FRAMES_COMPARED_AT_ONCE):
            now = slice(start, start + FRAMES_COMPARED_AT_ONCE)
            allowed = None if allowance is None else allowance[rows, now]
            yield scan.feed(frame_tokens[rows, now], mask[rows, now], allowed)

    search = CellSearch.of_videos(
        scan_videos,
        unit=contrast(frame_tokens, mask)[rows],
        pictures=mean_pictures(frame_tokens, mask, rows),
        whole=mask[rows].any(dim=1),
        grid_sizes=[grid_sizes[row] for row in rows.tolist()],
        num_video_tokens=num_video_tokens,
        num_kept=mask[rows].any(2).sum(1).clamp(min=num_kept_tokens),
        allowance=None if allowance is None else allowance[rows],
    )
    return with_whole_cells(new, rows, search.search())


def mean_pictures(frame_tokens: torch.Tensor, mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mean over time of what stands at every place of the videos `rows`, `(len(rows), places, dim)`, in float32."""
    total: torch.Tensor | float = 0.0
    for frame in range(frame_tokens.shape[1]):  # one by one: the sum does not depend on the padding
        tokens = frame_tokens[rows, frame].to(accumulation_dtype(frame_tokens.dtype))
        total = total + tokens.masked_fill(~mask[rows, frame].unsqueeze(-1), 0.0)
    return total / mask[rows].sum(1).clamp(min=1).unsqueeze(-1)


def with_whole_cells(new: NewTokens, rows: torch.Tensor, found: WholeCells) -> NewTokens:
    """
    What is new token by token, and instead of it by whole cells in those of the videos `rows` where that is better.

    It is where they fit at the lowest threshold, so that nothing is lost, or where tokens one by one do not.
    """
    use = found.fits & (found.is_lowest | (new.threshold[rows] > NOVELTY_LEVELS[0]))
    videos = rows[use]
    by_cell = torch.zeros_like(new.threshold, dtype=torch.bool).index_fill(0, videos, True)

    def put(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return others.index_copy(0, videos, values[use].to(others.dtype))

    places = new.is_new.new_zeros(len(by_cell), new.is_new.shape[2])
    return replace(
        new,
        novelty=put(found.novelty, new.novelty),
        is_new=put(found.is_new, new.is_new),
        threshold=put(found.threshold, new.threshold),
        cells=Cells(
            cell=put(found.cells.cell, places.long()),
            part=put(found.cells.part, places.long()),
            share=put(found.cells.share, places.float()),
        ),
        by_cell=by_cell,
    )
