"""
Proves what is new where frames have more tokens than the video gets: by hand when a cell is new, that what is new in
it gets a video token of its own, that small things are not lost where tokens can be looked at one by one, and the
promises of the tokenizer: a batch as each alone, nothing unseen, linear in time, the same in bfloat16.
"""

import doctest

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from transformers_linvt.tokenizer import whole_cells
from transformers_linvt.tokenizer.keyframes import NewTokens, NoveltyScan, find_new_tokens
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer, LinearVideoTokenizerOutput
from transformers_linvt.tokenizer.whole_cells import CellScan, find_what_is_new


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def find(video: torch.Tensor, grid: tuple[int, int], num_video_tokens: int, **changes: torch.Tensor) -> NewTokens:
    """One video, `(frames, places, dim)`, all of whose tokens exist."""
    mask = torch.ones(1, *video.shape[:2], dtype=torch.bool)
    return find_what_is_new(video[None], mask, [grid], num_video_tokens, 4 * num_video_tokens, **changes)


def make_tokenizer(num_video_tokens: int, dim: int, **changes: object) -> LinearVideoTokenizer:
    torch.manual_seed(0)
    settings = dict(bottleneck_size=8, num_heads=2, num_scorer_layers=1, num_aggregator_layers=1, temporal_window=4)
    return LinearVideoTokenizer(dim, num_video_tokens, **{**settings, **changes})


@torch.no_grad()
def tokenize(video: torch.Tensor, grid: tuple[int, int], num_video_tokens: int) -> LinearVideoTokenizerOutput:
    return make_tokenizer(num_video_tokens, video.shape[-1])(video[None], grid_sizes=[grid])


def scene_with(needles: list[tuple[int, int]], places: int, num_frames: int = 24, dim: int = 64) -> torch.Tensor:
    """A scene that stands still, but for one token in one frame: `(frame, place)` each."""
    clip = random(places, dim, seed=5).expand(num_frames, -1, -1).clone()
    for number, (frame, place) in enumerate(needles):
        clip[frame, place] = random(dim, seed=10 + number)
    return clip


def busy(num_frames: int = 16, side: int = 8, dim: int = 48) -> torch.Tensor:
    """Noise that is a little new everywhere all the time, in front of it a square of 2 x 2 that moves along a row."""
    scene = F.normalize(random(side, side, dim, seed=3), dim=-1)
    clip = scene + 0.55 * F.normalize(random(num_frames, side, side, dim, seed=4), dim=-1)
    square = F.normalize(random(2, 2, dim, seed=6), dim=-1)
    for frame in range(num_frames):
        column = frame * (side - 2) // (num_frames - 1)
        clip[frame, 3:5, column : column + 2] = square
    return clip.flatten(1, 2)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(whole_cells)
    assert result.attempted > 3 and result.failed == 0


# ---- when a cell is new


def turned(angle: float, share: int, places: int) -> torch.Tensor:
    """Two frames of one direction; in the second the first `share` places are turned: `2 sin(angle / 2)` away."""
    angles = torch.where(torch.arange(places) < share, torch.tensor(angle), torch.tensor(0.0))
    second = torch.stack([angles.cos(), angles.sin()], dim=-1)
    return torch.stack([torch.tensor([[1.0, 0.0]]).expand(places, -1), second])


@pytest.mark.parametrize(
    ("distance", "share", "places", "is_new"),
    [
        (1.4, 1, 60, True),  # 1.4 / 60^(1/4) is 0.503
        (1.4, 1, 62, False),  # and of 62 places 0.499
        (0.6, 1, 2, True),  # 0.6 / 2^(1/4) is 0.505
        (0.6, 1, 3, False),
        (0.49, 8, 8, False),
        (0.51, 8, 8, True),
        (0.55, 6, 8, True),  # 0.55 x (6 / 8)^(1/4) is 0.512
        (0.55, 5, 8, False),
    ],
)
def test_a_cell_is_new_by_the_fourth_powers_of_the_novelty_of_its_tokens(distance, share, places, is_new):
    """One cell of all places, at a threshold of 0.5: new in it are the tokens that moved and no others."""
    video = turned(2 * torch.tensor(distance / 2).asin().item(), share, places)
    scan = CellScan(torch.ones(1), torch.zeros(1, 1, places, dtype=torch.long), torch.tensor([[0.5]]))
    _, found = scan.feed(video[None])
    assert found[0, -1, :, 0].tolist() == [is_new and place < share for place in range(places)]
    assert scan.num_new.tolist() == [[1 + is_new]]


def test_tokens_that_are_missing_make_a_cell_neither_new_nor_old():
    """One of 60 places that moves is new, and of 3 that are there the more: 0.6 / 3^(1/4) is not, of 2 it is."""
    video = turned(2 * torch.tensor(0.3).asin().item(), 1, 3)
    cells = torch.zeros(1, 1, 3, dtype=torch.long)
    for there, is_new in (([True, True, True], False), ([True, True, False], True), ([False, True, True], False)):
        scan = CellScan(torch.ones(1), cells, torch.tensor([[0.5]]))
        scan.feed(video[None, :1])
        _, found = scan.feed(video[None, 1:], torch.tensor([[there]]))
        assert found.any().item() is is_new


def test_the_first_token_of_a_place_is_new_whenever_it_comes():
    scan = CellScan(torch.ones(1), torch.zeros(1, 1, 2, dtype=torch.long), torch.tensor([[1.3]]))
    frames = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(1, 3, 2, 2)
    found = scan.feed(frames, torch.tensor([[[True, late] for late in (False, True, True)]]))[1][0, :, :, 0].tolist()
    assert found == [[True, False], [False, True], [False, False]]
    assert scan.num_new.tolist() == [[2]]


def test_what_is_allowed_for_a_token_counts_in_its_cell():
    """A token 0.6 away in a cell of three is not new; with a learned score of 0.2 for it, it is as if 0.8 away."""
    video = turned(2 * torch.tensor(0.3).asin().item(), 1, 3)
    for allowance, is_new in ((0.0, False), (-0.2, True), (0.2, False)):
        scan = CellScan(torch.ones(1), torch.zeros(1, 1, 3, dtype=torch.long), torch.tensor([[0.5]]))
        scan.feed(video[None, :1])
        found = scan.feed(video[None, 1:], allowance=torch.tensor([[[allowance, 0.0, 0.0]]]))[1]
        assert found[0, 0, :, 0].tolist() == [is_new, False, False]


def test_every_division_has_cells_and_references_of_its_own():
    video = random(1, 30, 12, 8).cumsum(1)
    cells = torch.stack([torch.zeros(12), torch.arange(12) // 3 * 3, torch.arange(12)]).long()[None]
    levels = torch.tensor([[0.7, 0.5, 0.9]])
    together = CellScan(torch.ones(1), cells, levels)
    found = together.feed(video)[1]
    for division in range(3):
        alone = CellScan(torch.ones(1), cells[:, division, None], levels[:, division, None])
        assert torch.equal(alone.feed(video)[1][..., 0], found[..., division])
        assert alone.num_new[0, 0] == together.num_new[0, division]


# ---- which cells


@pytest.mark.parametrize("num_video_tokens", [9, 12, 40])
def test_frames_that_have_video_tokens_enough_are_looked_at_token_by_token(num_video_tokens):
    """Nothing of it is touched: not a bit of what a model with more video tokens than places answers."""
    video = random(6, 9, 16)
    mask = torch.ones(1, 6, 9, dtype=torch.bool)
    arguments = (video[None], mask, [(3, 3)], num_video_tokens, 4 * num_video_tokens)
    one_by_one, found = find_new_tokens(*arguments), find_what_is_new(*arguments)
    assert found.cells is None and found.by_cell is None
    for name in ("novelty", "is_new", "threshold"):
        assert torch.equal(getattr(found, name), getattr(one_by_one, name))


def test_a_moment_of_one_token_gets_a_video_token_beside_the_picture(monkeypatch):
    """8 x 8 places for 16 video tokens, one token that differs in frame 7: there and back are two of the 16."""
    clip = scene_with([(7, 27)], 64)

    def check() -> None:
        output = tokenize(clip, (8, 8), 16)
        weights = output.weights.dense()[0]
        assert weights[:, 7 * 64 + 27].max() > 0.95
        rest = weights[weights[:, 7 * 64 + 27] < 0.5].view(-1, 24, 64)
        assert (rest.sum(1).argmax(1).unique().numel()) >= 10  # and the picture most of the others

    check()
    monkeypatch.setattr(whole_cells, "NOVELTY_LEVELS", (1.3,) * 8)  # cells of 4 are not new by one of their tokens
    with pytest.raises(AssertionError):
        check()


def test_small_things_that_do_not_fit_by_cells_are_looked_at_one_by_one():
    """4 x 4 places for 4 video tokens, 3 moments of one token each: by cells 7 would be needed, at least."""
    clip = scene_with([(3, 2), (9, 9), (15, 14)], 16)
    new = find(clip, (4, 4), 4)
    assert new.by_cell.tolist() == [False] and new.threshold.item() == 0.5
    frames = new.is_new[0, 1:].nonzero().tolist()
    assert frames == [[2, 2], [3, 2], [8, 9], [9, 9], [14, 14], [15, 14]]
    kept = tokenize(clip, (4, 4), 4).weights.dense()[0].amax(0).view(24, 16)
    assert all(kept[frame, place] > 0.1 for frame, place in ((3, 2), (9, 9), (15, 14)))


@pytest.mark.parametrize("num_video_tokens", [12, 20, 40])
def test_of_a_busy_video_what_is_new_in_a_frame_and_cell_has_a_video_token_of_its_own(num_video_tokens):
    clip = busy()
    new = find(clip, (8, 8), num_video_tokens)
    assert new.by_cell.tolist() == [True]
    groups = {(frame, new.cells.cell[0, place].item()) for frame, place in new.is_new[0].nonzero().tolist()}
    assert len(groups) <= num_video_tokens
    output = tokenize(clip, (8, 8), num_video_tokens)
    assert int(output.weights.used.sum()) == len(groups) > 0.5 * num_video_tokens
    kept = output.weights.kept()[0, output.weights.used[0]]
    frame = output.kept_indices[0] // 64
    cell = new.cells.cell[0, output.kept_indices[0] % 64]
    pairs = [torch.stack([frame, cell])[:, row > 1e-3].unique(dim=1) for row in kept]
    assert {tuple(pair.flatten().tolist()) for pair in pairs} == groups  # one pair each


def test_the_threshold_rises_where_that_leaves_more_cells_and_no_further():
    """Noise that is new at the lowest threshold; without it, the square alone does not raise it."""
    noisy, calm = find(busy(), (8, 8), 20), find(scene_with([(9, 5)], 64), (8, 8), 20)
    assert calm.threshold.item() == 0.5 < noisy.threshold.item() < 1.3
    assert len(noisy.cells.cell.unique()) >= 8
    everywhere = find(random(4, 64, 48), (8, 8), 20)  # 4 frames that have nothing in common
    assert len(everywhere.cells.cell.unique()) == 5 and everywhere.is_new[0, 1:].float().mean() > 0.9


def test_the_score_of_what_is_not_new_is_below_that_of_what_is():
    """A token far from its reference, in a cell that is not new, has no significance that nothing is made of."""
    clip = busy()
    new = find(clip, (8, 8), 20)
    assert (new.novelty[new.is_new] > new.threshold).all() and (new.novelty[~new.is_new] <= new.threshold).all()


def test_k_is_obeyed_and_parts_lie_inside_of_cells():
    for num_kept in (16, 20, 50, 400):
        clip = busy()
        mask = torch.ones(1, 16, 64, dtype=torch.bool)
        new = find_what_is_new(clip[None], mask, [(8, 8)], 20, num_kept)
        slots = torch.stack([new.is_new[0].nonzero()[:, 0], new.cells.part[0, new.is_new[0].nonzero()[:, 1]]])
        assert not new.by_cell or slots.unique(dim=1).shape[1] <= num_kept
        if new.by_cell:
            both = torch.stack([new.cells.cell[0], new.cells.part[0]]).unique(dim=1)
            assert both.shape[1] == len(new.cells.part[0].unique())
            assert torch.zeros(64).scatter_add_(0, new.cells.cell[0], new.cells.share[0]).sum() == pytest.approx(
                len(new.cells.cell[0].unique())
            )


# ---- promises


@pytest.mark.parametrize("num_video_tokens", [5, 14])
def test_a_batch_of_videos_of_all_kinds_equals_each_alone(num_video_tokens):
    """Small and large frames, busy and still ones, a newline token, padding in time and place."""
    clips = [
        (busy(dim=24), (8, 8)),
        (scene_with([(3, 4)], 21, 9, 24), (4, 5)),
        (random(5, 6, 24), (2, 3)),
        (random(20, 16, 24).cumsum(0), (4, 4)),
    ]
    tokenizer = make_tokenizer(num_video_tokens, 24)
    batch, mask = torch.full((4, 22, 66, 24), torch.nan), torch.zeros(4, 22, 66, dtype=torch.bool)
    for row, (clip, _) in enumerate(clips):
        batch[row, : clip.shape[0], : clip.shape[1]], mask[row, : clip.shape[0], : clip.shape[1]] = clip, True
    together = tokenizer(batch, mask, grid_sizes=[grid for _, grid in clips])
    for row, (clip, grid) in enumerate(clips):
        alone = tokenizer(clip[None], grid_sizes=[grid])
        torch.testing.assert_close(together.video_tokens[row], alone.video_tokens[0], atol=2e-6, rtol=2e-6)
        weights = together.weights.dense()[row]
        assert (weights >= 0).all() and (weights.sum(-1) - 1).abs().max() < 1e-6
        torch.testing.assert_close(weights @ batch[row].flatten(0, 1).nan_to_num(), together.video_tokens[row])
        assert (weights.sum(0).view(22, 66)[mask[row]] > 0).all()  # nothing of the video is left unseen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing_of_what_is_new_and_how_it_is_averaged(dtype):
    clip, tokenizer = busy(), make_tokenizer(20, 48)
    exact = tokenizer(clip[None], grid_sizes=[(8, 8)])
    with torch.autocast("cpu", dtype=dtype):
        output = tokenizer(clip[None], grid_sizes=[(8, 8)])
    assert torch.equal(output.kept_indices, exact.kept_indices)
    torch.testing.assert_close(output.video_tokens, exact.video_tokens, atol=1e-5, rtol=1e-5)


def test_low_precision_gives_nearly_the_same():
    clip = busy()
    exact, low = find(clip, (8, 8), 20), find(clip.bfloat16(), (8, 8), 20)
    assert (exact.is_new == low.is_new).float().mean() > 0.97 and exact.by_cell.equal(low.by_cell)


def test_scores_that_are_learned_get_a_gradient():
    tokenizer = make_tokenizer(20, 48)
    tokens = tokenizer(busy()[None], grid_sizes=[(8, 8)], question_embeds=random(1, 3, 48)).video_tokens
    (tokens * random(*tokens.shape, seed=30)).sum().backward()
    assert [name for name, parameter in tokenizer.named_parameters() if parameter.grad is None] == []
    assert tokenizer.scorer.score_weight.grad.abs().max() > 1e-6
    assert tokenizer.scorer.novelty_gain.grad.abs().max() > 1e-8


class CountElements(TorchDispatchMode):
    """Sums up the elements of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        self.total += sum(part.numel() for part in torch.utils._pytree.tree_leaves(output) if torch.is_tensor(part))
        return output


class ScanOfAllFramesBefore(CellScan):
    """Novelty against every frame before, which is quadratic."""

    def _feed(self, tokens, mask, allowance):
        self.before = [*getattr(self, "before", []), tokens]
        torch.stack(self.before)
        return super()._feed(tokens, mask, allowance)


def elements(num_frames: int) -> int:
    clip = random(16, 8).expand(num_frames, -1, -1).contiguous()
    with CountElements() as count:
        find(clip, (4, 4), 8)
    return count.total


def test_the_work_is_linear_in_the_number_of_frames(monkeypatch):
    def bend() -> float:
        at_32, at_64, at_96 = elements(32), elements(64), elements(96)
        return abs((at_96 - at_64) - (at_64 - at_32)) / at_32

    assert bend() < 0.001
    monkeypatch.setattr(whole_cells, "CellScan", ScanOfAllFramesBefore)
    assert bend() > 0.01


def test_a_scan_of_cells_of_one_place_is_a_scan_of_tokens():
    video, cells = random(1, 12, 7, 5).cumsum(1), torch.arange(7).expand(1, 1, 7)
    by_cell, by_token = CellScan(torch.ones(1), cells, torch.tensor([[0.6]])), NoveltyScan(levels=(0.6,))
    assert torch.equal(by_cell.feed(video)[1], by_token.feed(video)[1])
