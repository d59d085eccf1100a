"""
Proves the tree of cells: by hand on small pictures, that its order is that of always making the best cut, that cells
are boxes and those of more cuts lie inside of those of fewer, and what becomes of places that are missing.
"""

import doctest
import heapq
import itertools

import pytest
import torch

from transformers_linvt.tokenizer import cell_tree
from transformers_linvt.tokenizer.cell_tree import CellTree, grow_cell_tree


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grow(picture: torch.Tensor, grid: tuple[int, int]) -> CellTree:
    return grow_cell_tree(picture, torch.ones(len(picture), dtype=torch.bool), grid)


def cells_of(tree: CellTree, number: int, num_places: int) -> list[int]:
    return tree.cells(torch.tensor([number]), num_places)[0].tolist()


def within(picture: torch.Tensor, box: tuple[int, int, int, int]) -> float:
    """Squared distances to the mean of a box of a picture `(rows, columns, dim)`."""
    top, bottom, left, right = box
    tokens = picture[top:bottom, left:right].flatten(0, 1).double()
    return (tokens - tokens.mean(0)).square().sum().item()


def best_cut(picture: torch.Tensor, box: tuple[int, int, int, int]) -> tuple[float, tuple]:
    top, bottom, left, right = box
    halves = [((top, cut, left, right), (cut, bottom, left, right)) for cut in range(top + 1, bottom)]
    halves += [((top, bottom, left, cut), (top, bottom, cut, right)) for cut in range(left + 1, right)]
    whole = within(picture, box)
    return max(((whole - sum(within(picture, half) for half in pair), pair) for pair in halves), default=(-1.0, ()))


def greedy(picture: torch.Tensor, number: int) -> list[int]:
    """Cells by the definition: always the cut that leaves least, until there are so many; one box after the other."""
    rows, columns, _ = picture.shape
    counter = itertools.count()
    heap = []

    def push(box: tuple[int, int, int, int]) -> None:
        gain, halves = best_cut(picture, box)
        heapq.heappush(heap, (-gain, next(counter), box, halves))

    push((0, rows, 0, columns))
    while len(heap) < number:
        *_, halves = heapq.heappop(heap)
        for half in halves:
            push(half)
    cell = torch.zeros(rows, columns, dtype=torch.long)
    for *_, (top, bottom, left, right), _ in heap:
        cell[top:bottom, left:right] = top * columns + left
    return cell.flatten().tolist()


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(cell_tree)
    assert result.attempted > 2 and result.failed == 0


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (4, 4), (5, 3)])
def test_the_cells_are_those_of_always_making_the_best_cut(grid):
    picture = random(grid[0] * grid[1], 6, seed=sum(grid)) + 0.3 * torch.arange(grid[0] * grid[1]).unsqueeze(1)
    tree = grow(picture, grid)
    for number in range(1, len(picture) + 1):
        cell = cells_of(tree, number, len(picture))
        assert cell == greedy(picture.unflatten(0, grid), number)
        assert len(set(cell)) == number
    assert cells_of(tree, 10_000, len(picture)) == list(range(len(picture)))


def test_the_check_of_cuts_notices_cuts_in_the_middle(monkeypatch):
    """Where the place counts and not the token, cells are halved."""
    monkeypatch.setattr(cell_tree, "SHARE_OF_THE_PLACE", 1e3)
    with pytest.raises(AssertionError):
        test_the_cells_are_those_of_always_making_the_best_cut((4, 4))


def test_a_cut_that_gains_much_waits_for_the_one_that_makes_its_cell():
    """
    By hand: 0 9 0 | 5 5 5, of which no cut gains much but those around the 9, two of which have to be made.

    The first cut is behind the 9 or before the 5s; the cell of the 9 comes before anything else is cut.
    """
    picture = torch.tensor([0.0, 9.0, 0.0, 5.0, 5.0, 5.0]).unsqueeze(1)
    tree = grow(picture, (1, 6))
    assert cells_of(tree, 4, 6) == [0, 1, 2, 3, 3, 3]
    assert cells_of(tree, 4, 6) == greedy(picture.unflatten(0, (1, 6)), 4)


def test_a_picture_that_is_the_same_everywhere_is_halved_in_the_middle():
    for picture in (torch.zeros(16, 3), torch.full((16, 3), 0.1), random(1, 3).expand(16, 3)):
        tree = grow(picture, (4, 4))
        quarters = [0, 0, 2, 2, 0, 0, 2, 2, 8, 8, 10, 10, 8, 8, 10, 10]
        assert cells_of(tree, 4, 16) == quarters


def test_cells_of_more_cuts_lie_inside_of_those_of_fewer():
    tree = grow(random(77, 5), (7, 11))
    cells = tree.cells(torch.arange(1, 78), 77)
    for fewer, more in itertools.pairwise(cells):
        assert len(torch.stack([fewer, more]).unique(dim=1)[0]) == len(more.unique()) == len(fewer.unique()) + 1


def test_what_comes_after_the_grid_is_in_its_last_cell_and_a_short_last_row_ends_there():
    picture = random(14, 5)
    tree = grow(picture, (3, 4))
    for number in (1, 3, 12):
        cell = cells_of(tree, number, 14)
        assert cell[11] == cell[12] == cell[13]
    assert cells_of(grow(picture[:12], (3, 4)), 5, 12) == cells_of(tree, 5, 14)[:12]
    short = grow(picture[:11], (3, 4)).cells(torch.tensor([4]), 11)
    assert short.shape == (1, 11)


def test_places_without_a_token_count_nothing():
    """Whatever stands there: a huge number changes no cell of the others."""
    picture, exists = random(20, 5), torch.ones(20, dtype=torch.bool)
    exists[[3, 8]] = False
    empty, full = picture.clone(), picture.clone()
    empty[~exists], full[~exists] = 0.0, 1e6
    numbers = torch.arange(1, 21)
    found = [grow_cell_tree(picture, exists, (4, 5)).cells(numbers, 20) for picture in (empty, full)]
    assert torch.equal(*found)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_token_that_is_no_number_does_not_stop_the_growth(wrong):
    picture = random(6, 4)
    picture[2] = wrong
    assert cells_of(grow(picture, (2, 3)), 6, 6) == list(range(6))
