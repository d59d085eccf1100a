"""
Proves SVR: where tokens are, what novelty and significance are, which tokens are kept and in which order, how they are
pooled, and that cost, padding and neighbours in the batch behave as promised. Values are computed by hand.
"""

import doctest

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.tokenizer import attention, places, pooling, selection, significance
from transformers_linvt.tokenizer.attention import MultiHeadAttention, SpatioTemporalBlock
from transformers_linvt.tokenizer.places import frame_times, infer_grid_size, sinusoidal_embedding, token_places
from transformers_linvt.tokenizer.pooling import (
    count_windows,
    pool_at_scale,
    pool_slots,
    pooling_weights,
    windows_of_slots,
)
from transformers_linvt.tokenizer.selection import RefinedVideo, select_most_significant, select_uniformly
from transformers_linvt.tokenizer.significance import SignificanceScorer, token_novelty


BATCH, FRAMES, TOKENS, DIM = 2, 5, 6, 11
WIDTH, HEADS, WINDOW = 8, 2, 4
CPU = torch.device("cpu")


def all_true(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bool)


def make_scorer(**changes) -> SignificanceScorer:
    settings = dict(
        dim=DIM,
        bottleneck_size=WIDTH,
        num_heads=HEADS,
        num_layers=2,
        temporal_window=WINDOW,
        selection="learned",
        init="free",
    )
    torch.manual_seed(0)
    return SignificanceScorer(**{**settings, **changes})


def score(scorer: SignificanceScorer, video: torch.Tensor, mask: torch.Tensor | None = None):
    """States and scores of a video without timestamps."""
    everything = all_true(*video.shape[:3]) if mask is None else mask
    seconds, fractions = frame_times(None, everything.any(dim=2))
    counts = (everything.any(dim=1) * torch.arange(1, video.shape[2] + 1)).amax(dim=1).tolist()
    places = token_places([infer_grid_size(count) for count in counts], video.shape[2], CPU)
    return scorer(video, mask, seconds, fractions, places)


@pytest.fixture
def video() -> torch.Tensor:
    return torch.randn(BATCH, FRAMES, TOKENS, DIM, generator=torch.Generator().manual_seed(1))


def test_the_examples_in_the_docstrings_are_true():
    results = [doctest.testmod(module) for module in (attention, places, pooling, selection, significance)]
    assert sum(result.attempted for result in results) > 5
    assert sum(result.failed for result in results) == 0


# ---- where a token is


@pytest.mark.parametrize(
    ("tokens_per_frame", "grid"),
    [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 2)), (7, (2, 4)), (12, (3, 4)), (196, (14, 14))]
    + [(197, (14, 14)), (729, (27, 27)), (730, (27, 27)), (8, (2, 4)), (11, (3, 4)), (120, (10, 12))],
)
def test_a_grid_is_inferred_from_the_number_of_tokens(tokens_per_frame, grid):
    assert infer_grid_size(tokens_per_frame) == grid
    newline = 1 if grid[0] * grid[1] == tokens_per_frame - 1 else 0
    assert grid[0] * grid[1] >= tokens_per_frame - newline


def test_places_are_cell_centres_in_reading_order_and_the_newline_token_is_in_the_last_corner():
    places = token_places([(2, 3), (2, 2)], 7, CPU)
    sixth, half = 1 / 6, 0.5
    wide = [(0.25, sixth), (0.25, half), (0.25, 1 - sixth), (0.75, sixth), (0.75, half), (0.75, 1 - sixth), (1, 1)]
    square = [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75), (1, 1), (1, 1), (1, 1)]
    torch.testing.assert_close(places, torch.tensor([wide, square]))


@pytest.mark.parametrize("interval", [0.04, 1.0, 37.5])
def test_frames_at_equal_distances_are_at_cell_centres_whatever_the_distance(interval):
    seconds, fractions = frame_times(3.0 + interval * torch.arange(5.0)[None], all_true(1, 5))
    torch.testing.assert_close(fractions, torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]]))
    torch.testing.assert_close(seconds, 3.0 + interval * torch.arange(5.0)[None])


def test_frames_at_unequal_distances_keep_their_proportions():
    # span 6 s in 2 intervals: 3 s each, so the video is 9 s long and starts 1.5 s before its first frame
    _, fractions = frame_times(torch.tensor([[10.0, 11.0, 16.0]]), all_true(1, 3))
    torch.testing.assert_close(fractions, torch.tensor([[1.5 / 9, 2.5 / 9, 7.5 / 9]]))


def test_one_frame_is_in_the_middle_and_equal_times_go_by_order():
    assert frame_times(torch.tensor([[7.0]]), all_true(1, 1))[1].tolist() == [[0.5]]
    torch.testing.assert_close(
        frame_times(torch.full((1, 4), 7.0), all_true(1, 4))[1], torch.tensor([[0.125, 0.375, 0.625, 0.875]])
    )


def test_frames_that_do_not_exist_count_for_nothing_even_if_their_time_is_nan():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    seconds, fractions = frame_times(torch.tensor([[0.0, 2.0, torch.nan], [0.0, 2.0, 4.0]]), mask)
    torch.testing.assert_close(fractions[0], torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(seconds[0], torch.tensor([0.0, 2.0, 0.0]))
    assert frame_times(None, mask)[0].tolist() == [[0.0, 1.0, 0.0], [0.0, 1.0, 2.0]]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_sinusoidal_embeddings_have_any_width_and_tell_positions_apart(size):
    values = torch.linspace(0.0, 0.9, 7)
    embedding = sinusoidal_embedding(values, size, (0.25, 4.0))
    assert embedding.shape == (7, size)
    assert torch.pdist(embedding).min() > 0.01
    torch.testing.assert_close(embedding[:, 0], (values * 2 * torch.pi / 4).sin())


# ---- attention


def test_a_row_that_sees_nothing_gets_exactly_zero_and_finite_gradients():
    torch.manual_seed(0)
    attention = MultiHeadAttention(WIDTH, HEADS)
    attention.init_weights()
    torch.nn.init.ones_(attention.output.bias)  # zero must not come from a zero bias
    queries, context = torch.randn(3, 2, WIDTH), torch.randn(3, 4, WIDTH, requires_grad=True)
    mask = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    attended = attention(queries, context, mask)
    assert attended[1].abs().max() == 0 and attended[0].abs().min() > 0
    attended.sum().backward()
    assert context.grad.isfinite().all() and context.grad[1].abs().max() == 0
    assert context.grad[0, 1].abs().max() == 0 and context.grad[0, 0].abs().max() > 0
    assert all(parameter.grad.isfinite().all() for parameter in attention.parameters())


def test_attention_over_many_rows_in_pieces_equals_attention_at_once(monkeypatch):
    torch.manual_seed(0)
    attention = MultiHeadAttention(WIDTH, HEADS)
    states, mask = torch.randn(7, 3, WIDTH), torch.rand(7, 3) > 0.4
    at_once = attention(states, states, mask), attention(states, states)
    monkeypatch.setattr("transformers_linvt.tokenizer.attention.MAX_ATTENTION_ROWS", 2)
    torch.testing.assert_close((attention(states, states, mask), attention(states, states)), at_once)


def frames_that_change(block: torch.nn.Module, frame: int, num_frames: int = 11) -> list[int]:
    """Which frames' states move when one frame's states are changed."""
    hidden = torch.randn(1, num_frames, 3, WIDTH, generator=torch.Generator().manual_seed(2))
    changed = hidden.clone()
    changed[:, frame] += 1.0
    difference = (block(hidden) - block(changed)).abs().amax(dim=(0, 2, 3))
    return [index for index, value in enumerate(difference.tolist()) if value > 0]


def make_block(window: int, offset: int) -> SpatioTemporalBlock:
    torch.manual_seed(0)
    block = SpatioTemporalBlock(WIDTH, HEADS, window, offset)
    block.init_weights()
    return block


def test_temporal_attention_stays_in_its_window_and_shifted_windows_join_what_others_separate():
    assert frames_that_change(make_block(4, 0), 5) == [4, 5, 6, 7]
    assert frames_that_change(make_block(4, 0), 9) == [8, 9, 10]
    assert frames_that_change(make_block(4, 2), 0) == [0, 1]
    assert frames_that_change(make_block(4, 2), 5) == [2, 3, 4, 5]
    both = torch.nn.Sequential(make_block(4, 0), make_block(4, 2))
    assert frames_that_change(both, 5) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert frames_that_change(make_block(5, 2), 0) == [0, 1, 2]


@pytest.mark.parametrize(("num_layers", "reached"), [(1, [4, 5, 6, 7]), (2, [2, 3, 4, 5, 6, 7, 8, 9])])
def test_every_second_layer_of_the_scorer_is_shifted(num_layers, reached):
    scorer = make_scorer(num_layers=num_layers)
    frames = torch.randn(1, 11, 3, DIM, generator=torch.Generator().manual_seed(2))
    changed = frames.clone()
    changed[:, 5] += torch.randn(DIM, generator=torch.Generator().manual_seed(3))
    difference = (score(scorer, frames)[1] - score(scorer, changed)[1]).abs().amax(dim=(0, 2))
    assert difference.nonzero().flatten().tolist() == reached


def test_a_window_of_one_frame_has_no_temporal_attention():
    block = make_block(1, 0)
    assert frames_that_change(block, 5) == [5]
    assert not [name for name, _ in block.named_parameters() if "temporal" in name]


@pytest.mark.parametrize("offset", [0, 2])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 6, 7, 9])
def test_padding_a_block_changes_nothing_at_any_length(num_frames, offset):
    block = make_block(4, offset)
    hidden = torch.randn(1, num_frames, 3, WIDTH)
    padded = F.pad(hidden, (0, 0, 0, 2, 0, 9))
    mask = F.pad(all_true(1, num_frames, 3), (0, 2, 0, 9))
    torch.testing.assert_close(block(padded, mask)[:, :num_frames, :3], block(hidden), atol=1e-6, rtol=1e-6)
    assert block(padded, mask)[:, num_frames:].abs().max() == 0


# ---- novelty and scores


def test_novelty_is_the_change_from_the_frame_before_in_units_of_the_mean_length():
    # one place moves 3 -> 0 -> 4, the other stays 5: lengths 3, 0, 4, 5, 5, 5, mean 22/6
    frames = torch.tensor([[3.0, 5.0], [0.0, 5.0], [4.0, 5.0]]).view(1, 3, 2, 1)
    unit = 22 / 6
    expected = torch.tensor([[[4 / unit, 4 / unit], [3 / unit, 0.0], [4 / unit, 0.0]]])
    torch.testing.assert_close(token_novelty(frames, all_true(1, 3, 2)), expected)


def test_novelty_ignores_padding_and_treats_a_token_without_predecessor_as_the_newest(video):
    alone = token_novelty(video[:1, :3, :4], all_true(1, 3, 4))
    padded = F.pad(video[:1, :3, :4], (0, 0, 0, 2, 0, 1), value=99.0)
    mask = F.pad(all_true(1, 3, 4), (0, 2, 0, 1))
    torch.testing.assert_close(token_novelty(padded, mask)[:, :3, :4], alone)
    assert token_novelty(padded, mask)[:, 3:].abs().max() == 0
    mask[0, 1, 2] = False
    novelty = token_novelty(padded, mask)
    assert novelty[0, 1, 2] == 0
    torch.testing.assert_close(novelty[0, 2, 2], novelty[0, 0, 0])


def test_a_still_video_has_no_novelty_and_finite_gradients():
    frames = torch.randn(1, 1, TOKENS, DIM).expand(1, FRAMES, -1, -1).clone().requires_grad_()
    novelty = token_novelty(frames, all_true(1, FRAMES, TOKENS))
    assert novelty.abs().max() == 0
    novelty.sum().backward()
    assert frames.grad.isfinite().all()
    assert token_novelty(torch.zeros(1, 2, 3, 4), all_true(1, 2, 3)).abs().max() == 0
    assert token_novelty(torch.randn(1, 1, 3, 4), all_true(1, 1, 3)).tolist() == [[[0.0, 0.0, 0.0]]]


def test_the_anchored_start_scores_by_novelty_alone(video):
    scorer = make_scorer(init="anchored")
    novelty = token_novelty(video, all_true(*video.shape[:3]))
    torch.testing.assert_close(score(scorer, video)[1], novelty, atol=0, rtol=0)
    torch.nn.init.constant_(scorer.novelty_gain, 3.0)
    torch.testing.assert_close(score(scorer, video)[1], 3 * novelty)
    torch.testing.assert_close(score(make_scorer(selection="novelty"), video)[1], novelty, atol=0, rtol=0)


@pytest.mark.parametrize("init", ["free", "mixed"])
def test_other_starts_score_by_the_learned_head_alone(video, init):
    scorer = make_scorer(init=init)
    hidden, scores = score(scorer, video)
    expected = scorer.score_norm(hidden) @ scorer.score_weight + scorer.score_bias
    torch.testing.assert_close(scores, expected)
    assert scores.std() > 0.1


@pytest.mark.parametrize(
    ("selection", "init", "names"),
    [
        ("learned", "free", {"score_norm.weight", "score_norm.bias", "score_weight", "score_bias"}),
        ("none", "mixed", {"score_norm.weight", "score_norm.bias", "score_weight", "score_bias"}),
        ("novelty", "anchored", set()),
        ("uniform", "free", set()),
        (
            "learned",
            "anchored",
            {"score_norm.weight", "score_norm.bias", "score_weight", "score_bias", "novelty_gain"},
        ),
    ],
)
def test_a_scorer_has_only_the_parameters_it_uses(selection, init, names):
    parameters = {name for name, _ in make_scorer(selection=selection, init=init).named_parameters()}
    assert {name for name in parameters if name.startswith(("score", "novelty"))} == names


def test_nothing_is_sized_by_a_number_of_frames_or_tokens():
    scorer = make_scorer()
    assert list(scorer.buffers()) == []
    for frames, tokens in ((1, 1), (3, 7), (9, 16), (2, 17)):
        assert score(scorer, torch.randn(1, frames, tokens, DIM))[1].shape == (1, frames, tokens)


def test_the_score_depends_on_when_and_where_a_token_is():
    scorer = make_scorer(num_layers=0)
    same_everywhere = torch.randn(1, 1, 1, DIM).expand(1, FRAMES, TOKENS, DIM)
    scores = score(scorer, same_everywhere)[1]
    assert scores.flatten().unique().numel() == FRAMES * TOKENS


def test_scores_are_float32_in_a_bfloat16_module_and_under_autocast(video):
    assert score(make_scorer().bfloat16(), video.bfloat16())[1].dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = score(make_scorer(), video)[1]
    assert scores.dtype == torch.float32
    # scores rounded to bfloat16 would not change when rounded again
    assert (scores.bfloat16().float() != scores).float().mean() > 0.9


def test_padding_changes_no_score_even_if_it_holds_nan(video):
    scorer = make_scorer(init="anchored")
    torch.nn.init.normal_(scorer.score_weight)
    padded = F.pad(video[:, :3, :4], (0, 0, 0, 3, 0, 6), value=torch.nan)
    mask = F.pad(all_true(BATCH, 3, 4), (0, 3, 0, 6))
    hidden, scores = score(scorer, padded, mask)
    alone_hidden, alone_scores = score(scorer, video[:, :3, :4])
    torch.testing.assert_close(scores[:, :3, :4], alone_scores, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(hidden[:, :3, :4], alone_hidden, atol=1e-6, rtol=1e-6)
    scores.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in scorer.parameters())


def test_gradient_checkpointing_changes_no_gradient(video):
    gradients = []
    for checkpointing in (False, True):
        scorer = make_scorer().train()
        scorer.gradient_checkpointing = checkpointing
        score(scorer, video)[1].square().sum().backward()
        gradients.append([parameter.grad for parameter in scorer.parameters()])
    torch.testing.assert_close(*gradients)


def flops_of_scoring(num_frames: int, temporal_window: int) -> int:
    scorer = make_scorer(temporal_window=temporal_window)
    # the plain kernel, because the fused one of the CPU is not counted everywhere
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        score(scorer, torch.randn(1, num_frames, TOKENS, DIM))
    return counter.get_total_flops()


def assert_cost_is_linear(temporal_window: int) -> None:
    at_32, at_64, at_128 = (flops_of_scoring(num_frames, temporal_window) for num_frames in (32, 64, 128))
    # the shifted layer has one window more than the other: a constant, so differences double exactly
    assert at_128 - at_64 == 2 * (at_64 - at_32)


def test_the_cost_of_scoring_is_linear_in_the_number_of_frames():
    assert_cost_is_linear(temporal_window=8)


def test_the_check_of_linear_cost_notices_attention_over_all_frames():
    with pytest.raises(AssertionError):
        assert_cost_is_linear(temporal_window=256)


# ---- selection


def assert_kept_in_order(indices: torch.Tensor, filled: torch.Tensor) -> None:
    """Filled slots first, their indices strictly ascending."""
    assert (filled.int().diff(dim=1) <= 0).all()
    assert (indices.diff(dim=1)[filled[:, 1:]] > 0).all()


def test_the_highest_scores_are_kept_in_their_original_order():
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.7], [5.0, -1.0, 4.0, 3.0, -2.0]])
    indices, filled = select_most_significant(scores, all_true(2, 5), 3)
    assert indices.tolist() == [[1, 3, 4], [0, 2, 3]]
    assert filled.all()
    assert_kept_in_order(indices, filled)


def test_the_check_of_order_notices_indices_in_order_of_score():
    scores = torch.tensor([[0.1, 0.9, 0.2, 0.8, 0.95]])
    with pytest.raises(AssertionError):
        assert_kept_in_order(scores.topk(3, dim=1).indices, all_true(1, 3))


def test_masked_tokens_are_never_kept_and_empty_slots_come_last_and_repeat_the_first():
    scores = torch.tensor([[9.0, 1.0, 9.0, 3.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    mask = torch.tensor([[False, True, False, True, True], [True] * 5])
    indices, filled = select_most_significant(scores, mask, 4)
    assert indices.tolist() == [[1, 3, 4, 1], [1, 2, 3, 4]]
    assert filled.tolist() == [[True, True, True, False], [True] * 4]
    indices, filled = select_most_significant(scores.fill_(torch.nan), mask, 4)
    assert indices[0, filled[0]].tolist() == [1, 3, 4]


def test_ties_are_broken_evenly_over_the_video_and_not_in_favour_of_its_start():
    num_tokens, num_kept = 640, 40
    indices, _ = select_most_significant(torch.zeros(1, num_tokens), all_true(1, num_tokens), num_kept)
    gaps = indices[0].diff()
    assert gaps.min() >= 8 and gaps.max() <= 32  # 16 on average; three different gaps (the three-distance theorem)
    assert gaps.unique().numel() <= 3
    assert indices[0, 0] < 16 and indices[0, -1] >= num_tokens - 32


def test_ties_are_broken_the_same_way_with_and_without_padding():
    alone, _ = select_most_significant(torch.zeros(1, 12), all_true(1, 12), 5)
    mask = F.pad(all_true(1, 3, 4), (0, 2, 0, 1)).flatten(1)  # (3, 4) inside (4, 6)
    padded, _ = select_most_significant(torch.zeros(1, 24), mask, 5)
    assert (padded // 6 * 4 + padded % 6).tolist() == alone.tolist()


def test_a_higher_score_beats_any_tie():
    scores = torch.zeros(1, 50)
    scores[0, 37] = 1e-6
    assert 37 in select_most_significant(scores, all_true(1, 50), 1)[0]


def test_uniform_selection_takes_the_middles_of_equal_parts_of_the_tokens_there_are():
    assert select_uniformly(all_true(1, 10), 4)[0].tolist() == [[1, 3, 6, 8]]
    mask = torch.tensor([[True, False, True, True, False, True, True], [True] * 7])
    indices, filled = select_uniformly(mask, 6)
    assert indices.tolist() == [[0, 2, 3, 5, 6, 0], [0, 1, 2, 4, 5, 6]]
    assert filled.tolist() == [[True] * 5 + [False], [True] * 6]
    assert_kept_in_order(indices, filled)
    assert select_uniformly(mask, 7)[0][1].tolist() == list(range(7))


# ---- pooling


@pytest.mark.parametrize(
    ("scale", "shift", "windows"),
    [
        (1, False, [0, 1, 2, 3, 4, 5, 6]),
        (1, True, [0, 1, 2, 3, 4, 5, 6]),
        (2, False, [0, 0, 1, 1, 2, 2, 3]),
        (2, True, [0, 1, 1, 2, 2, 3, 3]),
        (4, False, [0, 0, 0, 0, 1, 1, 1]),
        (4, True, [0, 0, 1, 1, 1, 1, 2]),
        (3, True, [0, 0, 1, 1, 1, 2, 2]),
    ],
)
def test_pooling_windows_of_equal_tokens_are_plain_averages(scale, shift, windows):
    assert windows_of_slots(7, scale, shift).tolist() == windows
    assert count_windows(7, scale, shift) == windows[-1] + 1
    values = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]).view(1, 7, 1)
    weights, pooled, inside = pooling_weights(torch.full((1, 7), -0.7), all_true(1, 7), scale, shift)
    means = [
        sum(v for v, w in zip(values.flatten().tolist(), windows, strict=True) if w == window) / windows.count(window)
        for window in range(windows[-1] + 1)
    ]
    torch.testing.assert_close(pool_slots(values, weights, scale, shift).flatten(), torch.tensor(means))
    torch.testing.assert_close(weights[0], torch.tensor([1 / windows.count(window) for window in windows]))
    torch.testing.assert_close(pooled, torch.full_like(pooled, -0.7))
    assert inside.all()


def test_unequal_significance_weighs_in_proportion_and_windows_are_as_significant_as_their_mean():
    significance_of_slots = torch.tensor([[0.6, 0.2, 0.1, 0.3, 0.5]])
    weights, pooled, _ = pooling_weights(significance_of_slots.log(), all_true(1, 5), 2)
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 0.25, 0.75, 1.0]]))
    torch.testing.assert_close(pooled.exp(), torch.tensor([[0.4, 0.2, 0.5]]))
    values = torch.tensor([[[4.0], [8.0], [4.0], [8.0], [7.0]]])
    torch.testing.assert_close(pool_slots(values, weights, 2), torch.tensor([[[5.0], [7.0], [7.0]]]))
    weights, pooled, _ = pooling_weights(significance_of_slots.log(), all_true(1, 5), 4, shift=True)
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25, 1 / 9, 3 / 9, 5 / 9]]))
    torch.testing.assert_close(pooled.exp(), torch.tensor([[0.4, 0.3]]))


@pytest.mark.parametrize("shift", [False, True])
def test_empty_slots_have_no_weight_and_empty_windows_no_nan(shift):
    log_significance = torch.full((1, 9), -1.0, requires_grad=True)
    mask = torch.arange(9)[None] < 3
    weights, pooled, inside = pooling_weights(log_significance, mask, 4, shift)
    assert weights[0, 3:].abs().max() == 0
    assert inside.tolist() == ([[True, True, False]] if shift else [[True, False, False]])
    torch.testing.assert_close(weights.sum(), torch.tensor(2.0 if shift else 1.0))
    (pooled.sum() + weights.square().sum()).backward()
    assert log_significance.grad.isfinite().all() and log_significance.grad[0, 3:].abs().max() == 0


# ---- what SVR hands over


def make_refined(batch: int = BATCH, num_kept: int = 7) -> RefinedVideo:
    generator = torch.Generator().manual_seed(3)
    return RefinedVideo(
        kept_tokens=torch.randn(batch, num_kept, DIM, generator=generator),
        kept_features=torch.randn(batch, num_kept, WIDTH, generator=generator, requires_grad=True),
        kept_indices=torch.arange(num_kept).expand(batch, -1),
        kept_mask=all_true(batch, num_kept),
        log_significance=-torch.rand(batch, num_kept, generator=generator),
        places=torch.rand(batch, num_kept, 3, generator=generator),
        mass_positions=torch.rand(batch, num_kept, generator=generator).sort(dim=1).values,
        num_used=torch.full((batch,), 5),
        run_slots=torch.arange(FRAMES * TOKENS).remainder(num_kept).expand(batch, -1),
        run_weights=torch.rand(batch, FRAMES * TOKENS, generator=generator),
        significance=torch.rand(batch, FRAMES, TOKENS, generator=generator),
    )


def test_a_refined_video_survives_a_safetensors_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    refined = make_refined()
    safetensors.save_file(refined.to_tensors(), tmp_path / "video.safetensors")
    again = RefinedVideo.from_tensors(safetensors.load_file(tmp_path / "video.safetensors"))
    for name, tensor in refined.to_tensors().items():
        assert torch.equal(getattr(again, name), tensor) and not tensor.requires_grad and tensor.is_contiguous()
    assert (again.num_frames, again.tokens_per_frame) == (FRAMES, TOKENS)


def test_a_file_that_is_no_refined_video_is_refused_by_name():
    tensors = make_refined().to_tensors()
    del tensors["places"], tensors["mass_positions"]
    with pytest.raises(LinVTInputError, match="places, mass_positions missing"):
        RefinedVideo.from_tensors(tensors)


def test_videos_can_be_repeated_once_per_question():
    refined = make_refined()
    repeated = refined.select([1, 1, 0])
    assert torch.equal(repeated.kept_tokens, refined.kept_tokens[[1, 1, 0]])
    assert torch.equal(repeated.significance, refined.significance[[1, 1, 0]])
    assert repeated.to("cpu").kept_mask.shape == (3, 7)


def test_states_places_and_positions_are_pooled_by_the_same_weights():
    refined = make_refined()
    pooled = pool_at_scale(refined, 2, shift=True)
    first_pair = pooled.weights[:, 1:3].unsqueeze(-1)
    torch.testing.assert_close(first_pair.sum(dim=1), torch.ones(BATCH, 1))
    torch.testing.assert_close(pooled.features[:, 1], (first_pair * refined.kept_features[:, 1:3]).sum(dim=1))
    torch.testing.assert_close(pooled.places[:, 1], (first_pair * refined.places[:, 1:3]).sum(dim=1))
    on_mass = (first_pair.squeeze(-1) * refined.mass_positions[:, 1:3]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(pooled.mass_positions[:, 1], on_mass)
    torch.testing.assert_close(pooled.features[:, 0], refined.kept_features[:, 0])
