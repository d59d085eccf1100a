"""
Proves the start from key frames and what changes: a still video is its picture however long it is, what differs is
not lost, noise and drift are told apart, no frame eats the budget of the others, and slots stand in the order of time.
Each promise is also broken on purpose (no threshold, novelty in units of a token's length, novelty against the frame
before, no averaging of runs, a cut by rank, strips of rows in place of cells), and its check has to notice.
"""

import doctest
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_linvt.demo.shapes import write_clip
from transformers_linvt.tokenizer import keyframes, linear_video_tokenizer, mass_axis, whole_cells
from transformers_linvt.tokenizer.aggregation import TextConditionedTokenAggregator
from transformers_linvt.tokenizer.cells import CellLattices, Cells
from transformers_linvt.tokenizer.keyframes import (
    LEAST_CONTRAST,
    NOVELTY_LEVELS,
    NewTokens,
    NoveltyScan,
    Runs,
    average_runs,
    contrast,
    find_new_tokens,
    gather_runs,
    relative_distance,
    single_tokens,
)
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer, LinearVideoTokenizerOutput
from transformers_linvt.tokenizer.mass_axis import positions_on_mass
from transformers_linvt.tokenizer.whole_cells import find_what_is_new
from transformers_linvt.video.reading import read_video


DIM = 24


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def all_true(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def make_tokenizer(num_video_tokens: int, dim: int, **changes) -> LinearVideoTokenizer:
    torch.manual_seed(0)
    settings = dict(bottleneck_size=8, num_heads=2, num_scorer_layers=1, num_aggregator_layers=1, temporal_window=4)
    return LinearVideoTokenizer(dim, num_video_tokens, **{**settings, **changes})


@torch.no_grad()
def tokenize(video: torch.Tensor, num_video_tokens: int, **changes) -> LinearVideoTokenizerOutput:
    """One video, `(frames, places, dim)`, by an untrained tokenizer with the default start."""
    grids = changes.pop("grid", None)
    tokenizer = make_tokenizer(num_video_tokens, video.shape[-1], **changes)
    return tokenizer(video[None], grid_sizes=None if grids is None else [grids])


def of_frames(output: LinearVideoTokenizerOutput) -> torch.Tensor:
    """Weight of every frame in every video token that is used."""
    return output.weights.per_frame()[0, output.weights.used[0]]


def of_start_frames(output: LinearVideoTokenizerOutput) -> torch.Tensor:
    """Weight of the slots that start in every frame, in every video token that is used."""
    frames = output.weights.kept_indices[0] // output.weights.tokens_per_frame
    return output.weights.kept()[0, output.weights.used[0]] @ F.one_hot(frames, output.weights.num_frames).float()


# ---- what the start would be without one of its parts


def always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """No threshold: whatever is not exactly the same is new."""
    levels = (1e-6,) * len(NOVELTY_LEVELS)
    monkeypatch.setattr(keyframes, "NoveltyScan", functools.partial(NoveltyScan, levels=levels))
    for module in (keyframes, whole_cells):
        monkeypatch.setattr(module, "NOVELTY_LEVELS", levels)


def never_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold that nothing passes: the first frame and nothing else."""
    levels = (3.0,) * len(NOVELTY_LEVELS)
    monkeypatch.setattr(keyframes, "NoveltyScan", functools.partial(NoveltyScan, levels=levels))
    monkeypatch.setattr(whole_cells, "NOVELTY_LEVELS", levels)


class ScanOfTheFrameBefore(NoveltyScan):
    """Novelty against the frame before, which the first product and the trial had."""

    def feed(self, tokens, mask=None, allowance=None):
        found = []
        for number, frame in enumerate(tokens.unbind(1)):
            now = slice(number, number + 1)
            of_frame = (None if values is None else values[:, now] for values in (mask, allowance))
            found.append(super().feed(tokens[:, now], *of_frame))
            self.references = frame.unsqueeze(2).expand_as(self.references).clone()
            self.squares = frame.square().sum(-1, keepdim=True).expand_as(self.squares).clone()
        return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))


def against_the_frame_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyframes, "NoveltyScan", ScanOfTheFrameBefore)


def without_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not new is dropped and not averaged."""

    def gather_starts(new, significance, *args):
        runs = gather_runs(new, significance, *args)
        weights = runs.weights * new.is_new.flatten(1)
        total = torch.zeros_like(runs.mass).scatter_add_(1, runs.slots, weights)
        runs.weights = weights / total.gather(1, runs.slots).clamp(min=1e-9)
        return runs

    monkeypatch.setattr(linear_video_tokenizer, "gather_runs", gather_starts)


def cut_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first k new tokens of the video instead of cells in all frames alike."""

    def find_the_first(tokens, mask, grids, num_video_tokens, num_kept_tokens, allowance=None):
        new = find_what_is_new(tokens, mask, grids, num_video_tokens, num_kept_tokens, allowance=allowance)
        rank = new.is_new.flatten(1).long().cumsum(1).view_as(new.is_new)
        new.is_new = new.is_new & (rank <= num_kept_tokens)
        return new

    monkeypatch.setattr(linear_video_tokenizer, "find_what_is_new", find_the_first)


def strips_for_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many places in a cell as before, but one after the other in reading order."""

    def strips(new, *sizes):
        chosen = cells_of(new, *sizes)
        order = chosen.cell.argsort(dim=1, stable=True)  # the first cell has the first places, and so on
        cell = chosen.cell.gather(1, order)
        return Cells(cell, torch.arange(cell.shape[1]).expand_as(cell), chosen.share.gather(1, order))

    cells_of = keyframes._cells_of
    monkeypatch.setattr(keyframes, "_cells_of", strips)


def in_units_of_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Novelty in units of a token's length, most of which all tokens of some encoders have in common."""
    monkeypatch.setattr(keyframes, "contrast", lambda tokens, mask: torch.ones(len(tokens)))


def assert_notices(check: Callable[[], None], break_it: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check holds, and does not when the start is broken."""
    check()
    with monkeypatch.context() as patch:
        break_it(patch)
        with pytest.raises(AssertionError):
            check()
    check()


def test_the_examples_in_the_docstrings_are_true():
    for module in (keyframes, mass_axis):
        result = doctest.testmod(module)
        assert result.attempted > 4 and result.failed == 0


# ---- how far apart tokens are


def test_distance_is_in_units_of_the_root_mean_square_of_both_lengths():
    """By hand: (3, 0) and (0, 4) are 5 apart, and their lengths are sqrt((9 + 16) / 2) in the root mean square."""
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert relative_distance(a, b).item() == pytest.approx(5 / math.sqrt(12.5))
    tokens, others = random(3, 5, 7), random(3, 5, 7, seed=2)
    expected = (tokens - others).norm(dim=-1) / ((tokens.square().sum(-1) + others.square().sum(-1)) / 2).sqrt()
    torch.testing.assert_close(relative_distance(tokens, others), expected)
    torch.testing.assert_close(relative_distance(tokens * 1e-3, others * 1e-3), expected)
    assert relative_distance(tokens, tokens).max() < 2e-3 and relative_distance(tokens, -tokens).min() > 2 - 1e-6
    assert relative_distance(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_distance(torch.zeros(2), b).item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_distances_are_computed_in_at_least_float32(dtype):
    tokens, others = (300 * random(4, 33, seed=seed).to(dtype) for seed in (1, 2))  # squares overflow in float16
    distance = relative_distance(tokens, others)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(distance.double(), relative_distance(tokens.double(), others.double()))


# ---- what is new


def turned(angles: torch.Tensor, dim: int = 4) -> torch.Tensor:
    """One place, `(1, frames, 1, dim)`, whose token is turned; by an angle `a` further it is `2 sin(a / 2)` away."""
    return F.pad(torch.stack([angles.cos(), angles.sin()], dim=-1), (0, dim - 2))[None, :, None]


def balanced(video: torch.Tensor) -> torch.Tensor:
    """With one more place, which stands still and makes the mean of all tokens zero: the contrast is 1."""
    rest = -video.sum(dim=(1, 2), keepdim=True) / video.shape[1]
    return torch.cat([video, rest.expand(-1, video.shape[1], -1, -1)], dim=2)


def new_frames(video: torch.Tensor) -> list[int]:
    video = balanced(video)
    mask = all_true(*video.shape[:3])
    return find_new_tokens(video, mask, [(1, 2)], 100, 400).is_new[0, :, 0].nonzero().flatten().tolist()


def test_a_slow_drift_becomes_new_when_it_has_added_up(monkeypatch):
    """0.05 rad per frame: 10 steps are 0.495 away from where they started, 11 steps are 0.544."""
    drift = turned(torch.arange(60) * 0.05)
    assert_notices(lambda: check(new_frames(drift) == [0, 11, 22, 33, 44, 55]), against_the_frame_before, monkeypatch)


def check(condition: bool) -> None:
    assert condition


def test_noise_around_a_token_never_becomes_new(monkeypatch):
    """To and fro by 0.2 rad, 0.4 apart: against the frame before nothing adds up either, without a threshold all."""
    shaking = turned(torch.tensor([0.0, 0.2, -0.2, 0.2, -0.2, 0.1] * 20))
    assert_notices(lambda: check(new_frames(shaking) == [0]), always_new, monkeypatch)


def test_what_comes_back_is_new_again_and_novelty_is_the_distance_to_what_was_new():
    video = balanced(turned(torch.tensor([0.0, 0.1, 1.0, 1.1, 0.0, 0.0])))
    new = find_new_tokens(video, all_true(1, 6, 2), [(1, 2)], 100, 400)
    assert new.is_new[0, :, 0].tolist() == [True, False, True, False, True, False]
    by_hand = [2.0, *(2 * math.sin(a / 2) for a in (0.1, 1.0, 0.1, 1.0, 0.0))]
    torch.testing.assert_close(new.novelty[0, :, 0], torch.tensor(by_hand), atol=1e-3, rtol=0)


def test_a_scan_measures_in_units_and_each_video_has_its_own():
    """Turned by 0.5 rad, 0.495 away: less than half a unit of 1, and 1.24 of 0.4; the first is 2, or 5, away."""
    video = turned(torch.tensor([0.0, 0.5])).expand(2, -1, -1, -1)
    scan = NoveltyScan(torch.tensor([1.0, 0.4]), levels=(0.5, 1.2, 1.3))
    first, is_new = (values.squeeze(1) for values in scan.feed(video[:, :1]))
    torch.testing.assert_close(first[:, 0], torch.tensor([[2.0] * 3, [5.0] * 3]))
    assert is_new.all()
    novelty, is_new = (values.squeeze(1) for values in scan.feed(video[:, 1:2]))
    by_hand = 2 * math.sin(0.25) / torch.tensor([[1.0], [0.4]])
    torch.testing.assert_close(novelty[:, 0], by_hand.expand(2, 3), atol=1e-4, rtol=0)
    assert is_new[:, 0].tolist() == [[False] * 3, [True, True, False]]


def scan_by_definition(video, mask, allowance, unit, levels):
    """Token by token: the distance to the last token of the place that was new, at every threshold by itself."""
    batch, num_frames, places, _ = video.shape
    novelty = torch.full((batch, num_frames, places, len(levels)), 2.0)
    is_new = torch.zeros(novelty.shape, dtype=torch.bool)
    for row, place, number in itertools.product(range(batch), range(places), range(len(levels))):
        reference = None
        for frame in range(num_frames):
            token = video[row, frame, place]
            at = row, frame, place, number
            if reference is not None:
                novelty[at] = relative_distance(token, reference)
            novelty[at] /= unit[row]
            is_far = novelty[at] > levels[number] + allowance[row, frame, place]
            is_new[at] = mask[row, frame, place] and (reference is None or is_far)
            reference = token if is_new[at] else reference
    return novelty, is_new


@pytest.mark.parametrize("pieces", [(1,) * 37, (37,), (5, 32), (16, 16, 5), (1, 30, 6)])
def test_frames_that_come_at_once_are_scanned_as_one_by_one(pieces: tuple[int, ...]):
    """More than are compared at once, with tokens that are missing and thresholds that differ by token."""
    video = random(2, 37, 3, 5, seed=3).cumsum(1)
    mask = random(2, 37, 3, seed=4) < 0.8
    allowance, unit, levels = 0.2 * random(2, 37, 3, seed=5), torch.tensor([0.9, 0.6]), (0.3, 0.5, 0.8, 1.2)
    scan, found = NoveltyScan(unit, levels), []
    for part in zip(*(values.split(pieces, dim=1) for values in (video, mask, allowance)), strict=True):
        found.append(scan.feed(*part))
    novelty, is_new = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    by_hand, new_by_hand = scan_by_definition(video, mask, allowance, unit, levels)
    torch.testing.assert_close(novelty, by_hand, atol=2e-3, rtol=0)
    assert torch.equal(is_new, new_by_hand)
    assert 0.1 < is_new.float().mean() < 0.7 and not mask[:, 0].all()


# ---- what the unit is


def test_contrast_is_the_standard_deviation_in_units_of_the_length():
    """By hand: (3, 4) and (3, -4) have (3, 0) in common, 9 of 25; with three of the one, (3, 2), 13 of 25."""
    up, down = torch.tensor([3.0, 4.0]), torch.tensor([3.0, -4.0])
    tokens = torch.stack([torch.stack([up, down, up, down]), torch.stack([up, up, up, down])]).view(2, 2, 2, 2)
    torch.testing.assert_close(contrast(tokens, all_true(2, 2, 2)).square(), torch.tensor([16 / 25, 12 / 25]))
    mask = all_true(2, 2, 2)
    mask[1, 0, 1] = False  # two of the one, (3, 4 / 3)
    tokens[1, 0, 1] = torch.nan
    torch.testing.assert_close(contrast(tokens, mask).square(), torch.tensor([16 / 25, (16 - 16 / 9) / 25]))
    video, few = 2 + random(3, 7, 5, 11), uniform(3, 7, 5) > 0.3
    expected = [
        (video[row][few[row]].var(dim=0, correction=0).sum() / video[row][few[row]].square().sum(-1).mean()).sqrt()
        for row in range(3)
    ]
    torch.testing.assert_close(contrast(video, few), torch.stack(expected))
    torch.testing.assert_close(contrast(video * 1e-3, few), torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_contrast_is_computed_in_at_least_float32(dtype):
    tokens = (300 * (2 + random(2, 4, 5, 33))).to(dtype)  # squares overflow in float16
    found = contrast(tokens, all_true(2, 4, 5))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), contrast(tokens.double(), all_true(2, 4, 5)), atol=1e-5, rtol=0)


def test_a_picture_that_is_blank_but_for_noise_has_the_least_contrast(monkeypatch):
    """
    Noise of 0.05 of the length is 0.07 from frame to frame: a third of the least contrast, and 1.4 of its own.

    Nothing but one token has no contrast either, and zeros have no more than 1.
    """
    blank = random(1, 1, 1, 64).expand(1, 20, 9, 64)
    noise = 0.05 * blank.norm(dim=-1, keepdim=True) * F.normalize(random(1, 20, 9, 64, seed=2), dim=-1)
    for video in (blank, blank + noise, blank[:, :1, :1]):
        assert contrast(video, all_true(*video.shape[:3])).item() == pytest.approx(LEAST_CONTRAST)
    assert contrast(torch.zeros(1, 2, 3, 4), all_true(1, 2, 3)).item() <= 1.0

    def check_noise() -> None:
        assert find_new_tokens(blank + noise, all_true(1, 20, 9), [(3, 3)], 9, 36).is_new[0].sum() == 9

    assert_notices(check_noise, lambda patch: patch.setattr(keyframes, "LEAST_CONTRAST", 1e-3), monkeypatch)


@pytest.mark.parametrize("common", [0.5, 2.0, 4.0])
def test_what_all_tokens_have_in_common_decides_nothing(common, monkeypatch):
    """
    A vector in a direction of its own, up to 4 times as long as the tokens, which all have the same length.

    Lengths grow from 1 to sqrt(1 + common^2), and the contrast shrinks by that: how new a token is stays the same.
    """
    video = F.pad(F.normalize(scenes_and_moments(), dim=-1), (0, 1))[None]
    shifted = video + common * F.one_hot(torch.tensor(24), 25)
    mask = all_true(1, 40, 12)

    def check_decisions() -> None:
        for num_video_tokens in (6, 12, 40):
            before, after = (
                find_new_tokens(tokens, mask, [(3, 4)], num_video_tokens, 4 * num_video_tokens)
                for tokens in (video, shifted)
            )
            assert torch.equal(before.is_new, after.is_new) and torch.equal(before.threshold, after.threshold)
            torch.testing.assert_close(before.novelty[:, 1:], after.novelty[:, 1:], atol=0.02, rtol=0)

    assert_notices(check_decisions, in_units_of_a_length, monkeypatch)


@pytest.mark.parametrize("frame", [1, 40, 63])
def test_where_tokens_have_most_in_common_a_frame_that_differs_gets_its_video_tokens(frame, monkeypatch):
    """As in a vision transformer: 80 % of the squared length are the same everywhere. One frame of 64 differs."""
    unrelated = torch.linalg.qr(random(64, 64, seed=5)).Q
    clip = unrelated[:16].expand(64, -1, -1).clone()
    clip[frame] = unrelated[16:32]
    clip = 0.2**0.5 * clip + 0.8**0.5 * unrelated[32]
    apart = relative_distance(clip[frame], clip[0])
    torch.testing.assert_close(apart, torch.full((16,), 0.4**0.5))  # of two lengths, 1.4 contrasts

    def check_needle() -> None:
        assert of_frames(tokenize(clip, 16, grid=(4, 4)))[:, frame].amax() > 0.9

    assert_notices(check_needle, in_units_of_a_length, monkeypatch)


def test_a_scan_goes_on_where_it_was_left():
    """A state per video and place: fed frame after frame, with pauses, in parts of the batch, it finds the same."""
    video, mask = random(3, 9, 5, 4), uniform(3, 9, 5) > 0.2
    together = NoveltyScan()
    found = [together.feed(*frame) for frame in zip(video.split(1, dim=1), mask.split(1, dim=1), strict=True)]
    for row in range(3):
        alone = NoveltyScan()
        for frame in range(9):
            at = slice(row, row + 1), slice(frame, frame + 1)
            novelty, is_new = alone.feed(video[at], mask[at])
            torch.testing.assert_close(novelty[0], found[frame][0][row])
            assert torch.equal(is_new[0], found[frame][1][row])
    assert not together.references.requires_grad


def test_every_level_has_references_of_its_own():
    """Turned by 0.6 and 1.2 rad: new twice at 0.5; at 0.7 the second time only, against the first token."""
    scan, video = NoveltyScan(levels=(0.5, 0.7)), turned(torch.tensor([0.0, 0.6, 1.2]))
    found = scan.feed(video)[1][0, :, 0]
    assert found.tolist() == [[True, True], [True, False], [True, True]]


def test_the_first_token_of_a_place_is_new_whenever_it_comes():
    """A place that exists from frame 3 on, one that has a hole, and one that never exists."""
    video = random(1, 1, 3, 8).expand(1, 6, 3, 8).clone()
    mask = all_true(1, 6, 3)
    mask[0, :3, 0], mask[0, 2:4, 1], mask[0, :, 2] = False, False, False
    video[~mask] = torch.nan
    new = find_new_tokens(video, mask, [(1, 3)], 4, 16)
    assert new.is_new[0].nonzero().tolist() == [[0, 1], [3, 0]]
    assert new.novelty[0, 3, 0] == new.novelty[0, 0, 1] == 2.0 / contrast(video, mask)
    runs = gather_runs(new, all_true(1, 6, 3).float(), mask, 4, 16)
    assert runs.starts.tolist() == [[1, 9]] and runs.filled.all()
    by_hand = torch.zeros(6, 3)
    by_hand[3:, 0], by_hand[[0, 1, 4, 5], 1] = 1 / 3, 1 / 4
    torch.testing.assert_close(runs.weights.view(6, 3), by_hand)


# ---- which threshold


def video_with(num_changes: int, angle: float, places: int = 8) -> torch.Tensor:
    """
    Two frames of `places` tokens and a contrast of 1; in the second so many are turned by an angle.

    The last place never changes and makes the mean zero.
    """
    first = turned(torch.zeros(places - 1)).transpose(1, 2)
    second = turned(torch.where(torch.arange(places - 1) < num_changes, angle, 0.0)).transpose(1, 2)
    return balanced(torch.cat([first, second], dim=1))


def angle_of(distance: float) -> float:
    return 2 * math.asin(distance / 2)


@pytest.mark.parametrize(
    ("num_changes", "distance", "level", "num_new"),
    [
        (0, 0.0, 0, 8),
        (4, 0.55, 0, 12),  # the budget of 8 video tokens for frames of 8 tokens is 12
        (5, 0.55, 1, 8),  # one more and the next level is taken, 0.573, which none of them passes
        (5, 0.7, 3, 8),  # 0.753
        (5, 0.8, 4, 8),  # 0.863
        (5, 1.2, 7, 8),  # 1.3
        (5, 1.4, 7, 13),  # really different: the highest level, and more than the budget
        (7, 1.4, 7, 15),
    ],
)
def test_the_lowest_threshold_is_taken_with_which_what_is_new_fits_the_budget(num_changes, distance, level, num_new):
    video = video_with(num_changes, angle_of(distance))
    assert contrast(video, all_true(1, 2, 8)).item() == pytest.approx(1.0)
    new = find_new_tokens(video, all_true(1, 2, 8), [(2, 4)], num_video_tokens=8, num_kept_tokens=32)
    assert new.threshold.item() == pytest.approx(0.5 * 2.6 ** (level / 7))
    assert int(new.is_new.sum()) == num_new


def test_thresholds_are_in_units_of_the_contrast():
    """
    Tokens (1, 1) and (1, -1) by turns have half of their squared length in common: 0.55 units are 0.39 lengths.

    They are turned around what they have in common, so that all keep it: of the two, one by the angle, one against it.
    """
    sign = torch.tensor([1.0, -1.0]).repeat(4)
    for num_changes, distance, level in ((4, 0.55, 0), (6, 0.55, 1), (4, 0.48, 0)):
        # around the common direction, a turn by an angle moves a token by that angle's chord, in units of the contrast
        angle = torch.where(torch.arange(8) < num_changes, angle_of(distance), 0.0)
        frames = [
            torch.stack([torch.ones(8), sign * turn.cos(), sign * turn.sin()], dim=-1) for turn in (angle * 0, angle)
        ]
        video = torch.stack(frames)[None]
        assert contrast(video, all_true(1, 2, 8)).item() == pytest.approx(0.5**0.5)
        new = find_new_tokens(video, all_true(1, 2, 8), [(2, 4)], num_video_tokens=8, num_kept_tokens=32)
        torch.testing.assert_close(new.novelty[0, 1, 0].item(), distance, atol=1e-4, rtol=0)
        assert new.threshold.item() == pytest.approx(0.5 * 2.6 ** (level / 7))
        assert int(new.is_new[0, 1].sum()) == (4 if (distance, level) == (0.55, 0) else 0)


def test_large_frames_have_the_larger_budget():
    """4 video tokens for frames of 8 tokens: 16 may be new, 8 of the first frame and 8 more; with 3, 12."""
    for num_video_tokens, level in ((4, 0), (3, 1)):
        video = video_with(7, angle_of(0.55))
        new = find_new_tokens(video, all_true(1, 2, 8), [(2, 4)], num_video_tokens, 4 * num_video_tokens)
        assert new.threshold.item() == pytest.approx(0.5 * 2.6 ** (level / 7))


def test_of_a_frame_beyond_the_budget_cells_are_counted_and_not_tokens():
    """
    4 x 5 tokens for 4 video tokens: the budget is 16, or k, and a frame may take two thirds of it: 9 cells, 3 x 3, of
    2, 1 and 1 rows and 2, 2 and 1 columns. That leaves 7, or 6 of 15, for what changes: the first 15 tokens are 6 of
    mass, 3 for the first two rows and 3 for the next, and two more of the last row are 1.
    """
    for num_changes, num_kept, level in ((0, 100, 0), (17, 100, 0), (18, 100, 1), (15, 15, 0), (16, 15, 1)):
        video = video_with(num_changes, angle_of(0.55), 20)
        new = find_new_tokens(video, all_true(1, 2, 20), [(4, 5)], num_video_tokens=4, num_kept_tokens=num_kept)
        assert new.threshold.item() == pytest.approx(0.5 * 2.6 ** (level / 7))


@pytest.mark.parametrize(("num_changes", "level"), [(2, 0), (14, 0), (15, 1)])
def test_a_newline_token_does_not_raise_the_threshold(num_changes, level):
    """
    The budget of 4 video tokens was 16 for 4 x 4 tokens and a newline token, 17: no level fitted, and the highest was
    taken.

    A frame is 9 cells, of 2, 1 and 1 rows and columns, with the newline token in the last: 7 are left, which the first
    14 tokens fill (1.5 for each of two rows, 3 for the third, 0.5 twice).
    """
    for places in (16, 17):
        video = video_with(num_changes, angle_of(0.55), places)
        new = find_new_tokens(video, all_true(1, 2, places), [(4, 4)], num_video_tokens=4, num_kept_tokens=16)
        assert new.threshold.item() == pytest.approx(0.5 * 2.6 ** (level / 7))
        assert int(new.is_new[0, 1].sum()) == (num_changes if level == 0 else 0)


# ---- runs and slots


def hand_made(is_new: torch.Tensor, grid: tuple[int, int], whole: torch.Tensor | None = None) -> NewTokens:
    """Videos of one grid, all of whose places exist unless `whole (batch, places)` says which."""
    batch, _, places = is_new.shape
    whole = all_true(batch, places) if whole is None else whole
    return NewTokens(is_new.float(), is_new, torch.full((batch,), 0.5), CellLattices([grid] * batch, whole))


def test_a_run_is_averaged_from_one_new_token_to_the_next():
    """2 places, 5 frames: place 0 is new at 0 and 3, place 1 at 0 and 1."""
    is_new = torch.tensor([[[1, 1], [0, 1], [0, 0], [1, 0], [0, 0]]]).bool()
    runs = gather_runs(hand_made(is_new, (1, 2)), torch.full((1, 5, 2), 0.9), all_true(1, 5, 2), 4, 16)
    assert runs.starts.tolist() == [[0, 1, 3, 6]]
    assert runs.slots.view(5, 2).tolist() == [[0, 1], [0, 2], [0, 2], [3, 2], [3, 2]]
    thirds, halves, quarters = 1 / 3, 1 / 2, 1 / 4
    by_hand = [[thirds, 1.0], [thirds, quarters], [thirds, quarters], [halves, quarters], [halves, quarters]]
    torch.testing.assert_close(runs.weights.view(5, 2), torch.tensor(by_hand))
    torch.testing.assert_close(runs.mass, torch.full((1, 4), 0.9))
    torch.testing.assert_close(runs.positions, torch.tensor([[1, 3, 5, 7]]) / 8)
    values = random(1, 5, 2, 3)
    averages = average_runs(values, runs.slots, runs.weights, 4)[0]
    torch.testing.assert_close(averages[0], values[0, :3, 0].mean(0))
    torch.testing.assert_close(averages[2], values[0, 1:, 1].mean(0))


@pytest.mark.parametrize("num_kept", [3, 5])
def test_what_is_new_in_a_frame_and_cell_lies_at_one_point_and_shares_a_slot_where_it_cannot_be_kept(num_kept):
    """
    A grid of 2 x 4 for one video token, in two cells: three places exist on the left, two on the right.

    In the first frame three tokens are new on the left, of significance 0.6, 0.3 and 0.1, and one on the right; in the
    second one on the right. These are 5 slots. Where 3 are kept, those of a cell share one, by their significance.
    """
    is_new = torch.tensor([[[1, 1, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]]).bool()
    weight = torch.zeros(1, 2, 8)
    weight[0, 0, [0, 1, 4, 3]], weight[0, 1, 6] = torch.tensor([0.6, 0.3, 0.1, 0.8]), 0.5
    mask = all_true(1, 2, 8)
    mask[0, :, [2, 5, 7]] = False
    new = hand_made(is_new, (2, 4), mask.any(1))
    mask[0, 0, 6] = mask[0, 1, 4] = False  # that run is half as long, and weighs as much
    runs = gather_runs(new, weight, mask, 1, num_kept)
    left, right, later = 1.0 / 3, 0.8 / 2, 0.5 / 2
    total = left + right + later
    points = torch.tensor([left / 2, left + right / 2, left + right + later / 2]) / total
    by_hand, slots = torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.long)
    if num_kept == 3:
        assert runs.starts.tolist() == [[0, 3, 14]]
        torch.testing.assert_close(runs.mass, torch.tensor([[left, right, later]]))
        torch.testing.assert_close(runs.positions[0], points)
        by_hand[:, 0], by_hand[:, 1], by_hand[0, 4], by_hand[:, 3], by_hand[1, 6] = 0.3, 0.15, 0.1, 0.5, 1.0
        slots[:, 3], slots[1, 6] = 1, 2
    else:
        assert runs.starts.tolist() == [[0, 1, 4, 3, 14]]  # cell after cell
        torch.testing.assert_close(runs.mass, torch.tensor([[0.2, 0.1, 0.1 / 3, right, later]]))
        torch.testing.assert_close(runs.positions[0], points[[0, 0, 0, 1, 2]])
        by_hand[:, [0, 1, 3]], by_hand[0, 4], by_hand[1, 6] = 0.5, 1.0, 1.0
        slots[:, 1], slots[0, 4], slots[:, 3], slots[1, 6] = 1, 2, 3, 4
    assert runs.filled.all()
    torch.testing.assert_close(runs.weights.view(2, 8), by_hand)
    assert torch.equal(runs.slots.view(2, 8) * by_hand.bool(), slots)


@pytest.mark.parametrize(
    ("num_kept", "num_slots"), [(252, 252), (251, 112), (112, 112), (111, 28), (28, 28), (27, 7), (1, 7)]
)
def test_all_frames_have_the_same_slots_at_most_k_in_all_or_one_each(num_kept, num_slots):
    """7 frames that have nothing in common, 6 x 6 tokens for 36 video tokens: 4 cells each, in 36, 16 or 4 parts."""
    video, mask = random(1, 7, 36, 2048), all_true(1, 7, 36)  # no two of which are similar
    new = find_new_tokens(video, mask, [(6, 6)], 36, num_kept)
    runs = gather_runs(new, mask.float(), mask, 36, num_kept)
    assert new.is_new.all() and runs.starts.shape[1] == num_slots
    assert (runs.starts[0] // 36).bincount(minlength=7).tolist() == [num_slots // 7] * 7
    cells = 28 if num_slots >= 28 else 7
    by_hand = ((torch.arange(cells) + 0.5) / cells).repeat_interleave(num_slots // cells)
    torch.testing.assert_close(runs.positions[0], by_hand)  # one point per frame and cell


@pytest.mark.parametrize("find", [find_new_tokens, find_what_is_new])
@pytest.mark.parametrize("num_kept", [1, 6, 20, 400])
@pytest.mark.parametrize("num_video_tokens", [1, 4, 30])
def test_slots_of_odd_videos_obey_k_and_lie_at_one_point_per_frame_and_cell(num_video_tokens, num_kept, find):
    """Grids of different sizes, newline tokens, places that come and go, scores of all sizes."""
    grids, sizes, frames = [(3, 4), (2, 3), (1, 7), (1, 1)], torch.tensor([12, 7, 7, 2]), 5
    mask = (torch.arange(12) < sizes.unsqueeze(1)).unsqueeze(1) & (uniform(4, frames, 12) > 0.2)
    video, score = random(4, frames, 12, 16), uniform(4, frames, 12, seed=2)
    new = find(video, mask, grids, num_video_tokens, num_kept)
    runs = gather_runs(new, score, mask, num_video_tokens, num_kept)
    most = mask.any(2).sum(1).clamp(min=num_kept)
    assert (runs.filled.sum(1) <= most).all()
    cells = keyframes._cells_of(new, score, num_video_tokens, most)
    frame, place = runs.starts // 12, runs.starts % 12
    point = torch.stack([frame, cells.cell.gather(1, place)], dim=-1)  # a frame and a cell
    for row in range(4):
        of_row = point[row][runs.filled[row]]
        found = runs.positions[row][runs.filled[row]]
        assert len(found.unique()) == len(of_row.unique(dim=0))
        assert len(torch.cat([of_row, found.unsqueeze(1)], dim=1).unique(dim=0)) == len(found.unique())
        assert (found.diff() >= 0).all() and (frame[row][runs.filled[row]].diff() >= 0).all()
        mass = (score[row] * new.is_new[row] * cells.share[row]).sum()
        torch.testing.assert_close(runs.mass[row].sum(), mass)


def test_empty_slots_come_last_and_repeat_the_first():
    is_new = torch.zeros(2, 2, 3, dtype=torch.bool)
    is_new[0, 0], is_new[1, 0, 1:] = True, True
    mask = all_true(2, 2, 3)
    mask[1, :, 0] = False
    runs = gather_runs(hand_made(is_new, (1, 3), mask.any(1)), torch.full((2, 2, 3), 0.5), mask, 3, 12)
    assert runs.starts.tolist() == [[0, 1, 2], [1, 2, 1]]
    assert runs.filled.tolist() == [[True] * 3, [True, True, False]]
    assert runs.mass[1].tolist() == [0.5, 0.5, 0.0]
    assert runs.positions[1].tolist() == [0.25, 0.75, 1.0]


def test_single_tokens_are_runs_of_one_frame():
    indices, filled = torch.tensor([[1, 4, 5], [0, 3, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    significance = uniform(2, 6)
    runs = single_tokens(indices, filled, significance, num_video_tokens=1)
    assert runs.weights.tolist() == [[0, 1, 0, 0, 1, 1], [1, 0, 0, 1, 0, 0]]
    assert (runs.slots * runs.weights.long()).tolist() == [[0, 0, 0, 0, 1, 2], [0, 0, 0, 1, 0, 0]]
    torch.testing.assert_close(runs.mass[1], torch.stack([significance[1, 0], significance[1, 3], torch.tensor(0.0)]))
    mass = runs.mass[1, :2]
    by_hand = [mass[0] / 2 / mass.sum(), (mass[0] + mass[1] / 2) / mass.sum(), torch.tensor(1.0)]
    torch.testing.assert_close(runs.positions[1], torch.stack(by_hand))
    values = random(2, 2, 3, 4)
    averages = average_runs(values, runs.slots, runs.weights, 3)
    assert torch.equal(averages[0], values[0].flatten(0, 1)[indices[0]])
    assert torch.equal(averages[1, :2], values[1].flatten(0, 1)[[0, 3]]) and averages[1, 2].count_nonzero() == 0


def test_averages_do_not_depend_on_the_chunks(monkeypatch):
    runs = Runs(*[None] * 7)
    values, runs.slots = random(2, 70, 3, 4), torch.randint(0, 5, (2, 210), generator=torch.Generator().manual_seed(3))
    runs.weights = uniform(2, 210)
    matrix = torch.zeros(2, 5, 210).scatter_(1, runs.slots.unsqueeze(1), runs.weights.unsqueeze(1))
    for size in (1, 32, 33, 1000):
        monkeypatch.setattr(keyframes, "FRAMES_PER_CHUNK", size)
        averages = average_runs(values, runs.slots, runs.weights, 5)
        torch.testing.assert_close(averages, matrix @ values.flatten(1, 2), atol=1e-5, rtol=1e-5)


def test_averages_of_low_precision_are_summed_in_float32():
    long = (100 + random(1, 3000, 1, 40)).half()  # a sum in float16 is off by several tenths at the end
    mean = average_runs(long, torch.zeros(1, 3000, dtype=torch.long), torch.full((1, 3000), 1 / 3000), 1)
    assert mean.dtype == torch.float16
    torch.testing.assert_close(mean[0, 0], long.double().mean(dim=(0, 1, 2)).half(), atol=0.07, rtol=0)


def test_positions_on_the_axis_of_mass_are_the_middles_of_what_each_group_has():
    mass = torch.tensor([[0.5, 0.25, 1.0, 0.25], [1.0, 3.0, 0.0, 0.0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    groups = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])
    positions = positions_on_mass(mass, mask, groups)
    torch.testing.assert_close(positions, torch.tensor([[0.125, 0.3125, 0.625, 0.9375], [0.125, 0.625, 1.0, 1.0]]))
    positions = positions_on_mass(mass, mask, torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]]))
    by_hand = [[0.1875, 0.1875, 0.6875, 0.6875], [0.5, 0.5, 1.0, 1.0]]
    torch.testing.assert_close(positions, torch.tensor(by_hand))


def boxes(weights: torch.Tensor, grid: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """What each row of W averages of a picture: first and last row and column, all of it alike and nothing else."""
    found = []
    for of_token in weights.unflatten(-1, grid):
        rows, columns = (of_token > 1e-3).nonzero().T
        box = rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()
        patch = torch.zeros(grid)
        patch[box[0] : box[1] + 1, box[2] : box[3] + 1] = 1.0
        assert (of_token - patch / patch.sum()).abs().max() < 1e-3
        found.append(box)
    return found


@pytest.mark.parametrize(("grid", "num_video_tokens"), [((8, 8), 4), ((8, 8), 13), ((8, 8), 24), ((14, 14), 64)])
def test_what_shares_a_video_token_is_a_patch_and_no_strip(grid, num_video_tokens, monkeypatch):
    """As many patches as there are video tokens, in reading order of their first places; together the picture."""
    frame = random(grid[0] * grid[1], 32)

    def check_patches() -> None:
        output = tokenize(frame[None], num_video_tokens, num_kept_tokens=4 * num_video_tokens, grid=grid)
        found = boxes(output.weights.dense()[0], grid)
        assert len(set(found)) == num_video_tokens and output.weights.used.all()
        assert sum((bottom - top + 1) * (right - left + 1) for top, bottom, left, right in found) == len(frame)
        assert [(top, left) for top, _, left, _ in found] == sorted((top, left) for top, _, left, _ in found)

    check_patches()
    if num_video_tokens == 13:
        assert_notices(check_patches, strips_for_cells, monkeypatch)


def test_patches_are_small_where_there_is_much_to_be_seen():
    """
    The left half of 4 x 8 tokens is one surface, on the right every token is another: 17 video tokens.

    A square of 4 tokens on the right is new in frame 9: four more cells, each with a video token of its own.
    """
    picture = random(32, 64).view(4, 8, 64)
    picture[:, :4] = picture[0, 0].clone()
    output = tokenize(picture.flatten(0, 1)[None], 17, grid=(4, 8))
    assert boxes(output.weights.dense()[0], (4, 8))[0] == (0, 3, 0, 3)
    clip = picture.expand(20, 4, 8, 64).clone()
    clip[9:, 1:3, 5:7] = random(2, 2, 64, seed=2)
    output = tokenize(clip.flatten(1, 2), 21, grid=(4, 8))
    places = clip.flatten(1, 2)
    expected = torch.cat(
        [picture[:1, 0], places[0].view(4, 8, 64)[:, 4:].flatten(0, 1), clip[9, 1:3, 5:7].flatten(0, 1)]
    )
    assert torch.cdist(expected, output.video_tokens[0]).amin(1).max() < 1e-3


# ---- a still video is its picture


def assert_is_the_picture(tokens: torch.Tensor, picture: torch.Tensor, error: float) -> None:
    """Token for token, with an error relative to the tokens' length."""
    lengths = picture.norm(dim=-1)
    assert tokens.shape == picture.shape
    assert ((tokens - picture).norm(dim=-1) / lengths).max() <= error


LENGTHS_OF_CLIPS = [1, 2, 16, 300]


@pytest.mark.parametrize("num_frames", LENGTHS_OF_CLIPS)
@pytest.mark.parametrize(("grid", "extra"), [((2, 3), 0), ((3, 4), 1), ((1, 1), 0)])
def test_copies_of_a_picture_are_the_picture(num_frames, grid, extra):
    picture = random(grid[0] * grid[1] + extra, 16)
    tokens = tokenize(picture.expand(num_frames, -1, -1), len(picture), grid=grid).video_tokens[0]
    torch.testing.assert_close(tokens, picture, atol=1e-5 * picture.abs().max().item(), rtol=0)


@pytest.mark.parametrize("init", ["anchored", "free"])
def test_the_check_of_stills_notices_the_other_starts(init):
    picture = random(6, 16)
    tokens = tokenize(picture.expand(16, -1, -1), 6, init=init, grid=(2, 3)).video_tokens[0]
    with pytest.raises(AssertionError):
        assert_is_the_picture(tokens, picture, 0.1)


@pytest.mark.parametrize("noise", [0.1, 0.3])
@pytest.mark.parametrize("num_frames", LENGTHS_OF_CLIPS)
def test_copies_with_noise_are_the_picture_within_the_noise_of_their_average(num_frames, noise, monkeypatch):
    picture = F.normalize(random(6, 256), dim=-1)
    clip = picture + noise * F.normalize(random(num_frames, 6, 256, seed=2), dim=-1)

    def check_still() -> None:
        tokens = tokenize(clip, 6, grid=(2, 3)).video_tokens[0]
        assert_is_the_picture(tokens, picture, 1.2 * noise / num_frames**0.5)

    check_still()
    if num_frames > 2:
        assert_notices(check_still, without_runs, monkeypatch)
        assert_notices(check_still, always_new, monkeypatch)


@pytest.mark.parametrize("num_frames", LENGTHS_OF_CLIPS)
@pytest.mark.parametrize("num_video_tokens", [7, 8, 11, 60])
def test_with_tokens_to_spare_every_token_of_the_picture_is_there_in_reading_order(num_frames, num_video_tokens):
    """7 for 6: edges between stretches fell on tokens, and some came out half blurred with their neighbour."""
    picture = random(6, 16)
    tokens = tokenize(picture.expand(num_frames, -1, -1), num_video_tokens, grid=(2, 3)).video_tokens[0]
    distances = (tokens.unsqueeze(1) - picture).norm(dim=-1)  # (video tokens, tokens of the picture)
    assert distances.amin(dim=0).max() < 1e-3
    assert (distances.argmin(dim=1).diff() >= 0).all()


def test_with_one_token_to_spare_none_is_blurred_also_in_a_large_picture():
    picture = random(243, 16)
    for num_video_tokens in (244, 256):
        tokens = tokenize(picture[None], num_video_tokens, num_scorer_layers=0).video_tokens[0]
        assert (tokens.unsqueeze(1) - picture).norm(dim=-1).amin(dim=0).max() < 1e-3


def patches_of(frames: np.ndarray, side: int = 32) -> torch.Tensor:
    """Every patch of the pixels as a token, around medium grey: an encoder that hides nothing of what a codec does."""
    pixels = torch.from_numpy(frames).float() / 127.5 - 1
    rows, columns = pixels.shape[1] // side, pixels.shape[2] // side
    pixels = pixels[:, : rows * side, : columns * side].unflatten(1, (rows, side)).unflatten(3, (columns, side))
    return pixels.transpose(2, 3).flatten(3).flatten(1, 2)


@pytest.fixture(scope="module")
def still_file(tmp_path_factory) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a textured picture and of 16 copies of it that have been through H.264."""
    path = tmp_path_factory.mktemp("stills") / "still.mp4"
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    write_clip(path, [picture] * 16)
    frames = read_video(path, num_frames=16).frames
    return patches_of(picture.repeat(4, 0).repeat(4, 1)[None])[0], patches_of(np.asarray(frames))


def test_copies_that_went_through_a_codec_are_the_picture(still_file, monkeypatch):
    picture, clip = still_file
    error = ((clip - picture).norm(dim=-1) / picture.norm(dim=-1)).mean().item()
    assert clip.shape == (16, 12, 3072) and 0.02 < error < 0.4 and clip.std(dim=0).max() > 1e-3

    def check_still() -> None:
        output = tokenize(clip, 12, grid=(3, 4))
        assert output.kept_indices.tolist() == [list(range(12))]
        torch.testing.assert_close(output.video_tokens[0], clip.mean(dim=0), atol=1e-4, rtol=0)
        assert_is_the_picture(output.video_tokens[0], picture, 1.5 * error)

    assert_notices(check_still, always_new, monkeypatch)


# ---- what differs is not lost


def scene_with(needle: torch.Tensor, num_frames: int, at: slice | int, places: slice | int = slice(None)):
    """A still scene, unrelated to the needle that takes some of its places for some frames."""
    clip = random(needle.shape[-2] if needle.dim() > 1 else 9, needle.shape[-1], seed=5)
    clip = clip.expand(num_frames, -1, -1).clone()
    clip[at, places] = needle
    return clip


@pytest.mark.parametrize("frame", [0, 200, 511])
@pytest.mark.parametrize("num_video_tokens", [4, 9, 20])
def test_one_frame_of_512_gets_a_video_token(frame, num_video_tokens, monkeypatch):
    clip = scene_with(random(9, 32), 512, frame)

    def check_needle() -> None:
        assert of_frames(tokenize(clip, num_video_tokens, grid=(3, 3)))[:, frame].max() > 0.5

    check_needle()
    if frame == 200:
        assert_notices(check_needle, never_new, monkeypatch)


@pytest.mark.parametrize("frame", [0, 200, 511])
@pytest.mark.parametrize("num_video_tokens", [9, 12, 20])
def test_one_token_of_one_frame_of_512_gets_a_video_token(frame, num_video_tokens, monkeypatch):
    clip = scene_with(random(32), 512, frame, places=4)

    def check_needle() -> None:
        weights = tokenize(clip, num_video_tokens, grid=(3, 3)).weights.dense()[0]
        assert weights[:, frame * 9 + 4].max() > 0.5

    check_needle()
    if frame == 200:
        assert_notices(check_needle, never_new, monkeypatch)


def test_beside_a_moment_the_key_frame_keeps_its_tokens():
    """16 tokens of a scene, 4 that differ in frame 30 and the same 4 when they are back: 24 slots for 24 tokens."""
    places = slice(5, 9)
    moment = random(4, 32)
    clip = random(16, 32, seed=5).expand(64, -1, -1).clone()
    scene = clip[0].clone()
    clip[30, places] = moment
    tokens = tokenize(clip, 24, grid=(4, 4)).video_tokens[0]
    expected = torch.cat([scene, moment, scene[places]])
    torch.testing.assert_close(tokens, expected, atol=1e-4, rtol=0)


# ---- what takes place in every clip does not eat the budget


def fade(scene: torch.Tensor, num_frames: int) -> torch.Tensor:
    """To black, which is a token too, and back."""
    black = F.normalize(random(1, 1, scene.shape[-1], seed=6), dim=-1)
    share = (torch.arange(num_frames) / (num_frames - 1) * 2 - 1).abs()[:, None, None]
    return share * scene + (1 - share) * black


def camera_shake(scene: torch.Tensor, num_frames: int) -> torch.Tensor:
    """The whole picture moves by up to 0.3 of a token: mixtures of neighbours."""
    grid = scene.unflatten(0, (4, 4))
    down, right = (0.3 * uniform(num_frames, 1, 1, 1, seed=seed) for seed in (7, 8))
    moved = (1 - down) * grid + down * grid.roll(1, 0)
    return ((1 - right) * moved + right * moved.roll(1, 2)).flatten(1, 2)


def flicker(scene: torch.Tensor, num_frames: int) -> torch.Tensor:
    return scene * torch.tensor([0.9, 1.1]).repeat(num_frames // 2 + 1)[:num_frames, None, None]


def sensor_noise(scene: torch.Tensor, num_frames: int) -> torch.Tensor:
    return scene + 0.3 * F.normalize(random(num_frames, *scene.shape, seed=9), dim=-1)


@pytest.mark.parametrize("disturb", [fade, camera_shake, flicker, sensor_noise])
def test_a_moment_gets_its_token_whatever_else_goes_on(disturb, monkeypatch):
    scene, moment = (F.normalize(random(16, 64, seed=seed), dim=-1) for seed in (10, 11))
    clip = disturb(scene, 256)
    clip[180] = moment

    def check_moment() -> None:
        assert of_frames(tokenize(clip, 16, grid=(4, 4)))[:, 180].max() >= 0.5

    assert_notices(check_moment, always_new, monkeypatch)


@pytest.mark.parametrize("disturb", [camera_shake, flicker, sensor_noise])
def test_what_shakes_or_flickers_is_hardly_ever_new(disturb):
    scene = F.normalize(random(16, 64, seed=10), dim=-1)
    new = find_new_tokens(disturb(scene, 256)[None], all_true(1, 256, 16), [(4, 4)], 16, 64)
    assert int(new.is_new.sum()) <= 24 and new.is_new[0, 0].all()


# ---- order and shares


def unrelated_frames(num_frames: int, grid: tuple[int, int], extra: int = 0, dim: int = 16) -> torch.Tensor:
    return random(num_frames, grid[0] * grid[1] + extra, dim, seed=num_frames)


def scenes_and_moments(num_frames: int = 40, places: int = 12) -> torch.Tensor:
    """Three scenes of different lengths with noise, a moment in two of them, and something that moves."""
    clip = random(3, places, 24, seed=12)[torch.arange(num_frames).mul(3 * 7).div(num_frames * 7).int().clamp(max=2)]
    clip = clip + 0.05 * random(num_frames, places, 24, seed=13)
    clip[5, 2:7], clip[33, :3] = random(5, 24, seed=14), random(3, 24, seed=15)
    clip[torch.arange(14, 26), torch.arange(12) % places] = random(24, seed=16)
    return clip


@pytest.mark.parametrize("num_video_tokens", [1, 5, 12, 31, 100])
@pytest.mark.parametrize("name", ["unrelated", "mixed", "still"])
def test_video_tokens_stand_in_the_order_of_what_they_start_with(name, num_video_tokens):
    clip = {
        "unrelated": unrelated_frames(9, (3, 4), dim=256),
        "mixed": scenes_and_moments(),
        "still": random(12, 16).expand(40, -1, -1),
    }[name]
    output = tokenize(clip, num_video_tokens, grid=(3, 4))
    starts = of_start_frames(output) @ torch.arange(len(clip)).float()
    assert (starts.diff() >= -1e-3).all()
    if name == "unrelated":  # every run is one frame long
        times = of_frames(output) @ torch.arange(len(clip)).float()
        assert (times.diff() >= -1e-3).all() and times[-1] - times[0] > (4 if num_video_tokens > 1 else -1)


def test_the_check_of_order_notices_slots_that_are_not_in_the_order_of_time():
    output = tokenize(scenes_and_moments(), 12, grid=(3, 4))
    output.weights.aggregation = (output.weights.aggregation[0].flip(1),)
    starts = of_start_frames(output) @ torch.arange(40).float()
    assert not (starts.diff() >= -1e-3).all()


@pytest.mark.parametrize("num_video_tokens", [3, 8, 30])
def test_the_share_of_a_frame_is_its_share_of_what_is_new(num_video_tokens, monkeypatch):
    clip = scenes_and_moments()
    mask = all_true(1, 40, 12)

    def check_shares() -> None:
        of_new = find_what_is_new(clip[None], mask, [(3, 4)], num_video_tokens, 4 * num_video_tokens).is_new[0].sum(1)
        shares = of_start_frames(tokenize(clip, num_video_tokens, grid=(3, 4))).mean(dim=0)
        assert (shares - of_new / of_new.sum()).abs().max() < 0.1

    check_shares()
    if num_video_tokens == 3:
        assert_notices(check_shares, cut_by_rank, monkeypatch)


GRIDS = {"8x8": ((8, 8), 0), "16x16": ((16, 16), 0), "27x27 and a newline": ((27, 27), 1), "26x46": ((26, 46), 0)}


@pytest.mark.parametrize("num_frames", [2, 8, 32, 64])
@pytest.mark.parametrize("name", GRIDS)
def test_no_frame_eats_the_budget_of_frames_that_have_nothing_in_common(name, num_frames, monkeypatch):
    """720p on Qwen2-VL is 26 x 46: the first product kept 1,023 tokens of the first frame and one of the others."""
    grid, extra = GRIDS[name]
    clip = unrelated_frames(num_frames, grid, extra)

    def check_frames() -> None:
        output = tokenize(clip, 256, grid=grid, num_scorer_layers=0)
        for shares in (of_frames(output).mean(dim=0), of_start_frames(output).mean(dim=0)):
            assert shares.min() > 0.5 / num_frames and (num_frames == 2 or shares.max() <= 2 / num_frames)

    check_frames()
    if (name, num_frames) == ("26x46", 8):
        assert_notices(check_frames, cut_by_rank, monkeypatch)


# ---- batches, padding, odd sizes


def odd_clips() -> list[tuple[torch.Tensor, torch.Tensor, tuple[int, int]]]:
    """Clips with their masks and grids: short last row, newline token, one token, holes in time and place."""
    masks = [all_true(7, 7), all_true(4, 10), all_true(1, 1), all_true(9, 6)]
    masks[3][:3, 4], masks[3][5], masks[3][7:, 1] = False, False, False
    grids = [(2, 4), (3, 3), (1, 1), (2, 3)]
    clips = [random(*mask.shape, 12, seed=20 + i) for i, mask in enumerate(masks)]
    clips[0][3:] = clips[0][2]
    clips[3][4:] = clips[3][4] + 0.05 * random(5, 6, 12)
    for clip, mask in zip(clips, masks, strict=True):
        clip[~mask] = torch.nan
    return list(zip(clips, masks, grids, strict=True))


@pytest.mark.parametrize("num_video_tokens", [1, 5, 7, 300])
@pytest.mark.parametrize("scale_mode", ["single", "shared", "specific"])
def test_a_batch_of_odd_clips_equals_each_alone_whatever_stands_in_the_padding(num_video_tokens, scale_mode):
    clips = odd_clips()
    tokenizer = make_tokenizer(max(num_video_tokens, 3 if scale_mode == "specific" else 1), 12, scale_mode=scale_mode)
    frames, places = 11, 13
    batch = torch.full((4, frames, places, 12), torch.nan)
    mask = torch.zeros(4, frames, places, dtype=torch.bool)
    for row, (clip, valid, _) in enumerate(clips):
        batch[row, : clip.shape[0], : clip.shape[1]], mask[row, : clip.shape[0], : clip.shape[1]] = clip, valid
    together = tokenizer(batch, mask, grid_sizes=[grid for *_, grid in clips])
    for row, (clip, valid, grid) in enumerate(clips):
        alone = tokenizer(clip[None], valid[None], grid_sizes=[grid])
        torch.testing.assert_close(together.video_tokens[row], alone.video_tokens[0], atol=2e-6, rtol=2e-6)
        weights = together.weights.dense()[row].unflatten(-1, (frames, places))
        torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(len(weights)), atol=1e-6, rtol=0)
        assert weights[:, ~mask[row]].count_nonzero() == 0
        assert (weights.sum(dim=0)[mask[row]] > 0).all() or num_video_tokens < 7  # no token is left unseen
        torch.testing.assert_close(
            weights[:, : clip.shape[0], : clip.shape[1]].flatten(1), alone.weights.dense()[0], atol=2e-6, rtol=2e-6
        )


@pytest.mark.parametrize("places", [1, 5])
@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("num_video_tokens", [1, 40])
def test_one_frame_one_place_and_one_token(places, num_frames, num_video_tokens):
    clip = random(num_frames, places, 12)
    output = tokenize(clip, num_video_tokens)
    torch.testing.assert_close(output.weights.dense()[0] @ clip.flatten(0, 1), output.video_tokens[0])
    if num_video_tokens == 1 and num_frames == 1:  # one token of everything is nearly the mean
        assert output.weights.dense().min() > 0.8 / places


def test_a_slot_is_an_average_also_where_nothing_of_its_significance_is_left():
    """Below e^-87 the weights of a run summed to less than 1, and with them the rows of W."""
    tokenizer, clip = make_tokenizer(4, 12), random(1, 5, 6, 12)
    tokenizer.scorer.score_bias.data.fill_(-95.0)
    output = tokenizer(clip, grid_sizes=[(2, 3)])
    torch.testing.assert_close(output.weights.dense().sum(-1), torch.ones(1, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_picture_comes_out_in_every_precision(dtype):
    picture = random(6, 16).to(dtype)
    tokenizer = make_tokenizer(6, 16)
    if dtype == torch.float64:
        tokenizer = tokenizer.double()
    tokens = tokenizer(picture.expand(1, 50, -1, -1), grid_sizes=[(2, 3)]).video_tokens[0]
    assert tokens.dtype == dtype
    torch.testing.assert_close(
        tokens, picture, atol=1e-5 * picture.abs().max().item() + 1e-5, rtol=torch.finfo(dtype).eps
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_of_what_is_new_and_how_it_is_averaged(dtype):
    clip = scenes_and_moments()
    tokenizer = make_tokenizer(12, 24)
    exact = tokenizer(clip[None], grid_sizes=[(3, 4)])
    with torch.autocast("cpu", dtype=dtype):
        output = tokenizer(clip[None], grid_sizes=[(3, 4)])
    assert torch.equal(output.kept_indices, exact.kept_indices)
    torch.testing.assert_close(output.video_tokens, exact.video_tokens, atol=1e-5, rtol=1e-5)


# ---- cost


class CountElements(TorchDispatchMode):
    """Sums up the elements of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        self.total += sum(part.numel() for part in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(part))
        return output


def elements(num_frames: int) -> int:
    """To find what is new in a clip, gather its runs and average them; always 9 slots."""
    clip, mask = random(9, 8).expand(1, num_frames, -1, -1).contiguous(), all_true(1, num_frames, 9)
    with CountElements() as count:
        new = keyframes.find_new_tokens(clip, mask, [(3, 3)], 9, 36)
        runs = gather_runs(new, mask.float(), mask, 9, 36)
        average_runs(clip, runs.slots, runs.weights, 9)
    return count.total


class ScanOfAllFramesBefore(NoveltyScan):
    """Novelty against every frame before, which is quadratic."""

    def _feed(self, tokens, mask, allowance):
        self.before = [*getattr(self, "before", []), tokens]
        torch.stack(self.before)
        return super()._feed(tokens, mask, allowance)


def test_the_work_is_linear_in_the_number_of_frames(monkeypatch):
    def check_work() -> None:
        at_32, at_64, at_96 = elements(32), elements(64), elements(96)
        assert abs((at_96 - at_64) - (at_64 - at_32)) < 0.001 * at_32

    assert_notices(
        check_work, lambda patch: patch.setattr(keyframes, "NoveltyScan", ScanOfAllFramesBefore), monkeypatch
    )


# ---- what a learned score does


def test_a_learned_score_moves_which_tokens_start_a_run():
    """The gain is 16: a score of 8 lowers every threshold by 0.5, one of -8 raises it as much."""
    video = balanced(turned(torch.tensor([0.0, 0.3, 0.0, angle_of(0.9), 0.0])))  # 0.3, 0.9 away from the first
    found = {}
    for score in (-100.0, -8.0, 0.0, 8.0):  # there is a key frame whatever the score
        tokenizer = make_tokenizer(100, 4)
        tokenizer.scorer.score_bias.data.fill_(score)
        kept = tokenizer(video).kept_indices[0]
        found[score] = (kept[kept % 2 == 0] // 2).tolist()  # frames in which the first place is new
    assert found == {-100.0: [0], -8.0: [0], 0.0: [0, 3, 4], 8.0: [0, 1, 2, 3, 4]}


def test_scores_are_the_excess_over_the_threshold_times_the_gain_within_soft_bounds():
    """By hand, with a gain of 16: 0.1 beyond 0.5 is 1.6, bounded to 1.52; 0.9 beyond 0.6 is 14.4, bounded to 3.99."""
    scorer = make_tokenizer(4, 4).scorer
    novelty = torch.tensor([[[0.6, 0.0]], [[1.5, 2.0]]])
    new = NewTokens(novelty, novelty > 0.5, torch.tensor([0.5, 0.6]), CellLattices([(1, 2)] * 2, all_true(2, 2)))
    by_hand = [[[4 * math.tanh(0.4), 4 * math.tanh(-2.0)]], [[4 * math.tanh(3.6), 4 * math.tanh(5.6)]]]
    scores = scorer.score_new_tokens(new, None)
    torch.testing.assert_close(scores, torch.tensor(by_hand))
    scores.sum().backward()
    assert scorer.novelty_gain.grad.abs() > 1e-2  # what is surely new has a gradient too
    learned = torch.tensor([[[0.3, -0.2]], [[2.0, 0.0]]])
    torch.testing.assert_close(scorer.score_new_tokens(new, learned), scores + learned)


def test_a_score_that_is_learned_for_one_token_moves_that_one_alone():
    video = turned(torch.full((4,), 0.3)).repeat(1, 1, 5, 1)
    video[0, 2] = turned(torch.zeros(1))[0, 0]
    video = balanced(video)
    allowance = torch.zeros(1, 4, 6)
    mask = all_true(1, 4, 6)
    assert find_new_tokens(video, mask, [(1, 6)], 9, 36, allowance).is_new[0].nonzero().tolist()[6:] == []
    allowance[0, 2, 3] = -0.25  # back in frame 3 it is new for having been new
    assert find_new_tokens(video, mask, [(1, 6)], 9, 36, allowance).is_new[0].nonzero().tolist()[6:] == [[2, 3]]


def gradients(clip: torch.Tensor, **changes) -> dict[str, torch.Tensor | None]:
    tokenizer = make_tokenizer(5, clip.shape[-1], **changes)
    tokens = tokenizer(clip[None], grid_sizes=[(3, 4)], question_embeds=random(1, 3, clip.shape[-1])).video_tokens
    (tokens * random(*tokens.shape, seed=30)).sum().backward()
    return {name: parameter.grad for name, parameter in tokenizer.named_parameters()}


@pytest.mark.parametrize("selection", ["learned", "novelty", "none"])
def test_gain_and_scores_get_a_gradient_where_something_changes(selection):
    found = gradients(scenes_and_moments(), selection=selection)
    assert [name for name, gradient in found.items() if gradient is None] == []
    assert found["scorer.novelty_gain"].abs().max() > 1e-8
    assert found["aggregator.stretch_shifts"].abs().min() > 0
    if selection != "novelty":
        assert found["scorer.score_weight"].abs().max() > 1e-6


def test_the_check_of_gradients_notices_mass_without_a_gradient(monkeypatch):
    def detached(*args):
        runs = gather_runs(*args)
        runs.mass, runs.positions = runs.mass.detach(), runs.positions.detach()
        return runs

    monkeypatch.setattr(linear_video_tokenizer, "gather_runs", detached)
    assert gradients(scenes_and_moments())["scorer.score_weight"] is None


# ---- queries left over


def changing(num_places: int, changes: Sequence[tuple[int, int]], num_frames: int = 8, seed: int = 0) -> torch.Tensor:
    """Frames of random tokens that stand still, but for `(frame, place)` from which on there is another token."""
    first, *others = random(1 + len(changes), num_places, DIM, seed=seed)
    video = first.expand(num_frames, -1, -1).clone()
    for (frame, place), other in zip(changes, others, strict=True):
        video[frame:, place] = other[place]
    return video


@pytest.mark.parametrize("num_video_tokens", [6, 9, 13, 40])
def test_a_still_video_uses_one_query_per_token_of_its_picture(num_video_tokens):
    video = changing(6, ())
    output = tokenize(video, num_video_tokens)
    assert output.weights.used.tolist() == [[True] * 6 + [False] * (num_video_tokens - 6)]
    torch.testing.assert_close(output.video_tokens[0, :6], video[0], atol=1e-4, rtol=0)
    # W keeps its promise for the others: they repeat the last one
    assert torch.equal(output.video_tokens[0, 6:], output.video_tokens[0, 5:6].expand(num_video_tokens - 6, -1))
    torch.testing.assert_close(output.weights.dense().sum(-1), torch.ones(1, num_video_tokens))


def test_what_is_new_is_there_once_and_in_order_where_it_fits():
    changes = [(2, 4), (3, 0), (3, 5), (6, 4)]
    video = changing(6, changes)
    output = tokenize(video, 16)
    assert int(output.weights.used.sum()) == 10
    expected = torch.cat([video[0], torch.stack([video[frame, place] for frame, place in changes])])
    torch.testing.assert_close(output.video_tokens[0, :10], expected, atol=1e-4, rtol=0)


def test_the_check_of_what_is_there_once_notices_queries_that_are_all_used(monkeypatch):
    monkeypatch.setattr(TextConditionedTokenAggregator, "_counts", lambda *_: False)
    video = changing(6, ())
    output = tokenize(video, 13)
    assert output.weights.used.all()
    similar = torch.cdist(output.video_tokens[0], video[0]) < 0.1
    assert (similar.sum(0) > 1).any()


def test_more_that_is_new_than_queries_uses_all_of_them():
    video = changing(6, [(frame, place) for frame in range(1, 8) for place in range(6)])
    assert tokenize(video, 16).weights.used.all()


def test_videos_of_a_batch_use_as_many_queries_as_each_alone():
    videos = [changing(6, ()), changing(6, [(2, 4), (5, 1)], seed=1), changing(6, [(1, 2)], num_frames=3, seed=2)]
    padded, mask = torch.zeros(3, 8, 6, DIM), torch.zeros(3, 8, 6, dtype=torch.bool)
    for row, video in enumerate(videos):
        padded[row, : len(video)], mask[row, : len(video)] = video, True
    together = make_tokenizer(12, DIM)(padded, mask)
    assert together.weights.used.sum(1).tolist() == [6, 8, 7]
    for row, video in enumerate(videos):
        torch.testing.assert_close(together.video_tokens[row], tokenize(video, 12).video_tokens[0], atol=1e-5, rtol=0)


def test_queries_left_over_get_no_gradient():
    tokenizer = make_tokenizer(9, DIM, num_aggregator_layers=2)
    torch.nn.init.normal_(tokenizer.aggregator.aggregation_query.weight, std=0.1)
    output = tokenizer(changing(6, [(2, 1)])[None])
    output.video_tokens[output.weights.used].square().sum().backward()
    of_queries = tokenizer.aggregator.queries.grad.abs().sum(1)
    assert (of_queries[:7] > 0).all() and of_queries[7:].count_nonzero() == 0


@pytest.mark.parametrize("changes", [{"init": "anchored"}, {"init": "free"}])
def test_other_starts_use_all_queries(changes):
    assert tokenize(changing(6, ()), 9, **changes).weights.used.all()


def test_groups_of_pooled_windows_use_all_their_queries():
    used = tokenize(changing(6, ()), 16, scale_mode="specific").weights.used[0]
    assert used.tolist() == [True] * 6 + [False] * 2 + [True] * 8
