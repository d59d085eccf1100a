"""
Proves how a frame is divided where a video token holds several tokens: which lattices there are, by hand, which of
them is chosen, that parts lie inside of cells, that k is obeyed, and that no video sees the grids beside it.
"""

import pytest
import torch

from transformers_linvt.tokenizer import cells as cells_module
from transformers_linvt.tokenizer.cells import CellLattices, Cells, choose_cells


def all_true(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def lattices_of(rows: int, columns: int, extra: int = 0) -> CellLattices:
    return CellLattices([(rows, columns)], all_true(1, rows * columns + extra))


def choose(
    grid: tuple[int, int],
    is_new: torch.Tensor,
    num_video_tokens: int,
    num_kept: int,
    significance: float | torch.Tensor = 1.0,
) -> Cells:
    """The cells of one video, all of whose places exist; `is_new` is `(frames, places)`."""
    lattices = CellLattices([grid], all_true(1, is_new.shape[1]))
    significance = torch.as_tensor(significance).expand(is_new.shape)
    return choose_cells(lattices, is_new[None], significance[None], num_video_tokens, torch.tensor([num_kept]))


def numbered(groups: torch.Tensor) -> list[int]:
    """Groups by the order in which they first come: 0, 1, 2 …"""
    found: dict[int, int] = {}
    return [found.setdefault(group, len(found)) for group in groups.tolist()]


def lattice(rows: list[int], columns: list[int]) -> list[int]:
    """Numbers of the cells of a grid whose cells have these heights and widths."""
    row, column = (torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)) for sizes in (rows, columns))
    return (row.unsqueeze(1) * len(columns) + column).flatten().tolist()


# ---- all lattices


def test_sides_of_cells_grow_by_an_eighth_of_a_doubling():
    """8 over 1, 1.09, 1.19 … 1.83, rounded up; then over twice and four times that; at last the whole frame."""
    first, second, third = [8, 8, 7, 7, 6, 6, 5, 5], [4, 4, 4, 4, 3, 3, 3, 3], [2] * 8
    assert lattices_of(8, 8).counts[:, 0].tolist() == [[n, n] for n in [*first, *second, *third, 1]]
    one_row = lattices_of(1, 4).counts[:, 0].tolist()
    assert one_row == [[1, n] for n in [*[4] * 4, *[3] * 4, *[2] * 8, 1]]
    assert lattices_of(1, 1).counts[:, 0].tolist() == [[1, 1], [1, 1]]


def test_cells_are_as_equal_as_whole_places_allow():
    """14 in 8: places 0 and 1, 2 and 3, 4 and 5, 6; the same again. 3 x 5 in 2 x 3."""
    counts = torch.tensor([[8, 8]])
    found = cells_module._cells(torch.tensor([[14, 14]]), counts, 196)[0]
    halves = [2, 2, 2, 1, 2, 2, 2, 1]
    assert found.tolist() == lattice(halves, halves)
    found = cells_module._cells(torch.tensor([[3, 5]]), torch.tensor([[2, 3]]), 15)[0]
    assert found.tolist() == lattice([2, 1], [2, 2, 1])
    assert found.tolist() == [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]


def test_a_share_is_one_over_the_places_that_the_cell_has():
    """3 x 5 in 2 x 3, without the last place, which exists in no frame: cells of 4, 4, 2, 2, 2 and no place."""
    whole = all_true(1, 15)
    whole[0, 14] = False
    lattices = CellLattices([(3, 5)], whole)
    step = lattices.counts[:, 0].tolist().index([2, 3])
    quarters, halves = 1 / 4, 1 / 2
    by_hand = [*[quarters] * 4, halves] * 2 + [halves] * 4
    assert lattices.shares[step, 0, :14].tolist() == by_hand
    assert lattices.cells_of_frame[step].tolist() == [5]
    assert lattices.cells_of_frame[0].tolist() == [14] and lattices.cells_of_frame[-1].tolist() == [1]
    for share, cell in zip(lattices.shares[:, 0], lattices.cells[:, 0], strict=True):
        for number in cell[:14].unique():  # a cell that is all new has mass 1
            assert share[:14][cell[:14] == number].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (2, 4), (5, 2), (1, 6)])
def test_a_newline_token_is_alone_among_single_places_and_else_in_the_last_cell(rows, columns):
    """It was in the first cell of the last row."""
    lattices, last = lattices_of(rows, columns, extra=2), rows * columns - 1
    assert lattices.cells[0, 0].tolist() == list(range(rows * columns + 2))
    for cell in lattices.cells[1:, 0]:
        assert cell[last] == cell[last + 1] == cell[last + 2] == cell.max()


def test_the_smallest_cells_within_a_budget_are_those_of_which_a_frame_has_no_more():
    """8 x 8 can be 64, 49, 36, 25, 16, 9, 4 cells or one; a newline token makes 65."""
    for extra in (0, 1):
        lattices = lattices_of(8, 8, extra)
        for budget, cells in (
            (64 + extra, 64 + extra),
            (63, 49),
            (49, 49),
            (48, 36),
            (16, 16),
            (15, 9),
            (3, 1),
            (1, 1),
        ):
            assert lattices.shares_within(torch.tensor([budget])).sum().item() == pytest.approx(cells)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 11, 14])
def test_of_twice_as_many_cells_each_lies_inside_of_one(rows):
    for columns in range(1, 15):
        grid = torch.tensor([[rows, columns]])
        places = rows * columns + 1
        for counts in lattices_of(rows, columns).counts:
            outer = cells_module._cells(grid, counts, places)[0]
            while (counts < grid).any():
                counts = torch.minimum(counts * 2, grid)
                inner = cells_module._cells(grid, counts, places)[0]
                assert len(torch.stack([outer, inner]).unique(dim=1)[0]) == len(inner.unique())
                outer = inner


# ---- which is chosen


@pytest.mark.parametrize(("num_video_tokens", "side"), [(64, 1), (33, 1), (32, 2), (16, 2), (15, 3), (4, 4), (3, 8)])
def test_a_new_frame_is_divided_into_as_many_cells_as_there_are_video_tokens(num_video_tokens, side):
    """8 x 8 tokens, all new: of 33 video tokens on (fewer than two each) single places, else 25, 16, 9, 4 or 1."""
    cells = choose((8, 8), all_true(1, 64), num_video_tokens, num_kept=64)
    sizes = {1: [1] * 8, 2: [2] * 4, 3: [3, 3, 2], 4: [4, 4], 8: [8]}[side]
    if num_video_tokens == 32:
        sizes = [2, 2, 1, 2, 1]
    assert numbered(cells.cell[0]) == lattice(sizes, sizes)
    assert cells.part[0].tolist() == list(range(64))
    for number in cells.cell[0].unique():
        assert cells.share[0][cells.cell[0] == number].sum().item() == pytest.approx(1.0)


def test_14_by_14_tokens_are_8_by_8_cells_for_64_video_tokens():
    cells = choose((14, 14), all_true(1, 196), 64, num_kept=256)
    halves = [2, 2, 2, 1, 2, 2, 2, 1]
    assert numbered(cells.cell[0]) == lattice(halves, halves)
    share = cells.share.view(14, 14)
    assert (share[0, 0], share[0, 6], share[6, 0], share[6, 6]) == (1 / 4, 1 / 2, 1 / 2, 1)


@pytest.mark.parametrize(("num_columns", "num_video_tokens", "cells"), [(12, 6, 6), (12, 7, 1), (9, 2, 2), (5, 1, 1)])
def test_a_row_is_divided_as_well(num_columns, num_video_tokens, cells):
    """12 for 6: two each, in pairs. 12 for 7 are fewer than two each: single places. 9 for 2: 5 and 4."""
    found = choose((1, num_columns), all_true(1, num_columns), num_video_tokens, num_kept=99).cell[0]
    if num_video_tokens == 7:
        assert found.tolist() == list(range(12))
    else:
        assert numbered(found) == [place * cells // num_columns for place in range(num_columns)]


def test_the_mass_of_what_is_new_decides_and_not_how_many_cells_it_touches():
    """
    2 frames of 4 x 4: a key frame and a square of 2 x 2 in the middle, 16 + 4 new tokens.

    In cells of 2 x 2 the key frame has mass 4; the square has a place in each of them, mass 1. That of 3 x 3, in
    cells of 2, 1 and 1 places a side, has 9 and 1 / 4 + 1 / 2 + 1 / 2 + 1. By the cells that are touched it would be
    4 + 4 and 9 + 4.
    """
    is_new = all_true(2, 16)
    is_new[1] = False
    is_new[1, [5, 6, 9, 10]] = True
    whole, quarters, single = [0] * 16, lattice([2, 2], [2, 2]), list(range(16))
    for num_video_tokens, significance, cells in (
        (11, 1.0, single),  # fewer than two new tokens each
        (10, 1.0, quarters),  # 11.25 are more than 10
        (5, 1.0, quarters),
        (4, 1.0, whole),
        (4, 0.8, quarters),  # 5 x 0.8
        (4, 0.39, single),  # 20 x 0.39 are 7.8
    ):
        assert numbered(choose((4, 4), is_new, num_video_tokens, 99, significance).cell[0]) == cells


def test_exactly_two_new_tokens_per_video_token_are_too_many_for_single_places():
    new = all_true(1, 8)
    assert numbered(choose((2, 4), new, 4, 99).cell[0]) == lattice([2], [2, 2])  # 2 x 3 are too many as well
    assert choose((2, 4), new, 4, 99, significance=0.99).cell[0].tolist() == list(range(8))


# ---- what is kept


@pytest.mark.parametrize(
    ("num_kept", "cells_per_frame", "parts_per_frame"),
    [(252, 4, 36), (251, 4, 16), (112, 4, 16), (111, 4, 4), (28, 4, 4), (27, 1, 1), (7, 1, 1)],
)
def test_parts_are_cells_halved_as_often_as_can_be_kept(num_kept, cells_per_frame, parts_per_frame):
    """7 frames of 6 x 6 that are all new, for 36 video tokens: 4 cells of 3 x 3 each, in 36, 16 or 4 parts."""
    cells = choose((6, 6), all_true(7, 36), 36, num_kept)
    by_number = {1: lattice([6], [6]), 4: lattice([3, 3], [3, 3]), 16: lattice([2, 1, 2, 1], [2, 1, 2, 1])}
    assert numbered(cells.cell[0]) == by_number[cells_per_frame]
    assert numbered(cells.part[0]) == by_number.get(parts_per_frame, list(range(36)))


def random_videos(seed: int) -> tuple[list[tuple[int, int]], torch.Tensor, torch.Tensor]:
    """3 videos of different grids, with up to 2 tokens behind them: grids, places that exist, what is new."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    grids = [(draw(1, 9), draw(1, 9)) for _ in range(3)]
    sizes = torch.tensor([rows * columns + draw(0, 3) for rows, columns in grids])
    frames, places = draw(1, 7), int(sizes.max())
    whole = torch.arange(places) < sizes.unsqueeze(1)
    share = torch.rand(3, frames, 1, generator=generator)
    is_new = torch.rand(3, frames, places, generator=generator) < share
    is_new[:, 0] = True
    return grids, whole, is_new & whole.unsqueeze(1)


def cells_of(batch: tuple, num_video_tokens: int, num_kept: int) -> Cells:
    grids, whole, is_new = batch
    most = torch.full((len(grids),), max(num_kept, is_new.shape[1]))
    return choose_cells(CellLattices(grids, whole), is_new, is_new.float(), num_video_tokens, most)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("num_video_tokens", "num_kept"), [(1, 1), (3, 5), (8, 32), (40, 40)])
def test_k_is_obeyed_or_a_slot_per_frame_and_parts_lie_inside_of_cells(seed, num_video_tokens, num_kept):
    """A grid of one place with a newline token could not be taken as one cell, and had two slots per frame."""
    batch = random_videos(seed)
    grids, whole, is_new = batch
    cells = cells_of(batch, num_video_tokens, num_kept)
    for row in range(3):
        frame, place = is_new[row].nonzero().T
        slots = torch.stack([frame, cells.part[row, place]]).unique(dim=1)
        assert slots.shape[1] <= max(num_kept, is_new.shape[1])
        part, cell = cells.part[row][whole[row]], cells.cell[row][whole[row]]
        assert len(torch.stack([part, cell]).unique(dim=1)[0]) == len(part.unique())
        mass = (is_new[row].float() @ cells.share[row]).sum().item()
        few = is_new[row].sum() < 2 * num_video_tokens
        assert few or mass <= num_video_tokens * 1.001 or cell.unique().numel() == 1


@pytest.mark.parametrize("seed", range(20))
def test_grids_of_other_videos_change_nothing(seed):
    batch = random_videos(seed)
    grids, whole, is_new = batch
    for num_video_tokens, num_kept in ((1, 1), (3, 5), (8, 32)):
        together = cells_of(batch, num_video_tokens, num_kept)
        for row, grid in enumerate(grids):
            size = int(whole[row].sum())
            alone = cells_of(
                ([grid], whole[row : row + 1, :size], is_new[row : row + 1, :, :size]), num_video_tokens, num_kept
            )
            for name in ("cell", "part", "share"):
                assert torch.equal(getattr(together, name)[row, :size], getattr(alone, name)[0])


def test_the_check_of_grids_notices_cells_of_the_largest_grid(monkeypatch):
    cells = cells_module._cells
    monkeypatch.setattr(
        cells_module, "_cells", lambda grid, counts, places: cells(grid.amax(0).expand_as(grid), counts, places)
    )
    with pytest.raises(AssertionError):
        for seed in range(20):
            test_grids_of_other_videos_change_nothing(seed)
