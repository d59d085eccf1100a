"""
Proves TTA: how queries are grouped and anchored, what they see and do not see, how the question enters and how an
empty one does not, and that the weights that come out are float32 rows with sum 1 whatever goes in.
"""

import doctest
import math

import pytest
import torch
import torch.nn.functional as F

from transformers_linvt.tokenizer import aggregation
from transformers_linvt.tokenizer.aggregation import (
    TextConditionedTokenAggregator,
    anchor_lattice,
    gaussian_log_prior,
    lattice_shape,
    split_into_groups,
    stretch_log_prior,
)
from transformers_linvt.tokenizer.pooling import PooledTokens, pool_at_scale
from transformers_linvt.tokenizer.selection import RefinedVideo


BATCH, KEPT, DIM, WIDTH, HEADS, QUERIES, WORDS = 2, 9, 11, 8, 2, 7, 4
SCALES = (1, 2, 4)


def make_aggregator(**changes) -> TextConditionedTokenAggregator:
    settings = dict(
        dim=DIM,
        num_video_tokens=QUERIES,
        scales=SCALES,
        scale_mode="specific",
        bottleneck_size=WIDTH,
        num_heads=HEADS,
        num_layers=1,
        aggregation="linear",
        text_conditioned=True,
        init="free",
    )
    torch.manual_seed(0)
    return TextConditionedTokenAggregator(**{**settings, **changes})


def make_pools(num_kept: int = KEPT, seed: int = 1, num_filled: int | None = None) -> list[PooledTokens]:
    """Pools of all scales, whose slots lie on the axis of mass by their significance alone."""
    generator = torch.Generator().manual_seed(seed)
    filled = (torch.arange(num_kept) < (num_filled or num_kept)).expand(BATCH, -1)
    log_significance = -torch.rand(BATCH, num_kept, generator=generator)
    mass = log_significance.exp() * filled
    refined = RefinedVideo(
        kept_tokens=torch.randn(BATCH, num_kept, DIM, generator=generator),
        kept_features=torch.randn(BATCH, num_kept, WIDTH, generator=generator),
        kept_indices=torch.arange(num_kept).expand(BATCH, -1),
        kept_mask=filled,
        log_significance=log_significance,
        places=torch.rand(BATCH, num_kept, 3, generator=generator),
        mass_positions=((mass.cumsum(1) - mass / 2) / mass.sum(1, keepdim=True)).masked_fill(~filled, 1.0),
        num_used=torch.full((BATCH,), QUERIES),
        run_slots=torch.arange(num_kept).repeat(3).expand(BATCH, -1),
        run_weights=torch.full((BATCH, 3 * num_kept), 1 / 3),
        significance=torch.rand(BATCH, 3, num_kept, generator=generator),
    )
    return [pool_at_scale(refined, scale) for scale in SCALES]


@pytest.fixture
def pools() -> list[PooledTokens]:
    return make_pools()


@pytest.fixture
def question() -> torch.Tensor:
    return torch.randn(BATCH, WORDS, DIM, generator=torch.Generator().manual_seed(2))


def assert_rows_sum_to_one(weights: list[torch.Tensor]) -> None:
    for group in weights:
        assert group.dtype == torch.float32
        assert (group >= 0).all()
        torch.testing.assert_close(group.sum(dim=-1), torch.ones(group.shape[:-1]), atol=1e-6, rtol=0)


def assert_differ(first: torch.Tensor, second: torch.Tensor) -> None:
    assert (first - second).abs().max() > 1e-4


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(aggregation)
    assert result.attempted > 3 and result.failed == 0


# ---- groups and anchors


@pytest.mark.parametrize(
    ("num_video_tokens", "num_groups", "sizes"),
    [
        (256, 3, [128, 64, 64]),
        (64, 3, [32, 16, 16]),
        (4, 3, [2, 1, 1]),
        (3, 3, [1, 1, 1]),
        (6, 3, [4, 1, 1]),
        (10, 3, [6, 2, 2]),
        (7, 2, [4, 3]),
        (1, 1, [1]),
        (32, 4, [16, 8, 4, 4]),
        (8, 8, [1] * 8),
        (12, 11, [2] + [1] * 10),
    ],
)
def test_queries_are_split_by_halves_and_no_group_is_empty(num_video_tokens, num_groups, sizes):
    assert split_into_groups(num_video_tokens, num_groups) == sizes


def test_group_sizes_always_add_up():
    for num_video_tokens in range(1, 70):
        for num_groups in range(1, num_video_tokens + 1):
            sizes = split_into_groups(num_video_tokens, num_groups)
            assert sum(sizes) == num_video_tokens and len(sizes) == num_groups and min(sizes) >= 1


@pytest.mark.parametrize(
    ("num_anchors", "shape"),
    [
        (1, (1, 1, 1)),
        (2, (2, 1, 1)),
        (4, (1, 2, 2)),
        (8, (2, 2, 2)),
        (12, (3, 2, 2)),
        (16, (4, 2, 2)),
        (13, (13, 1, 1)),
    ]
    + [(27, (3, 3, 3)), (32, (8, 2, 2)), (64, (4, 4, 4)), (128, (8, 4, 4)), (256, (16, 4, 4)), (36, (4, 3, 3))],
)
def test_anchors_tile_the_video_as_close_to_a_cube_as_divisors_allow(num_anchors, shape):
    assert lattice_shape(num_anchors) == shape
    assert math.prod(shape) == num_anchors


def test_anchors_are_cell_centres_in_time_row_column_order():
    centres, spacing = anchor_lattice(12)
    times, sides = (1 / 6, 1 / 2, 5 / 6), (1 / 4, 3 / 4)
    expected = [(time, row, column) for time in times for row in sides for column in sides]
    torch.testing.assert_close(centres, torch.tensor(expected))
    torch.testing.assert_close(spacing, torch.tensor([(1 / 3, 1 / 2, 1 / 2)] * 12))


def test_the_prior_is_a_gaussian_with_a_width_for_each_axis():
    places = torch.tensor([[[0.5, 0.5, 0.5], [0.7, 0.1, 0.5]]])
    anchors, widths = (
        torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 1.0]]),
        torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.5]]),
    )
    expected = [[[0.0, -0.5 * (4 + 4)], [-0.5 * 1, -0.5 * (4 + 4 + 1)]]]
    torch.testing.assert_close(gaussian_log_prior(places, anchors, widths), torch.tensor(expected))


def test_each_group_has_its_own_lattice_with_widths_of_a_third_of_the_spacing():
    aggregator = make_aggregator(init="anchored")
    lattices = [anchor_lattice(size) for size in (5, 1, 1)]
    torch.testing.assert_close(aggregator.anchors.data, torch.cat([centres for centres, _ in lattices]))
    widths = torch.cat([spacing for _, spacing in lattices]) / 3
    torch.testing.assert_close(aggregator.anchor_log_widths.data.exp(), widths)


def test_a_free_start_has_no_anchors_and_the_others_learn_theirs(pools):
    names = [name for name, _ in make_aggregator(init="free").named_parameters()]
    assert not [name for name in names if "anchor" in name or "stretch" in name]
    for init, learned in (
        ("anchored", ("anchors", "anchor_log_widths")),
        ("keyframes", ("stretch_shifts", "stretch_log_softness")),
    ):
        aggregator = make_aggregator(init=init)
        sum(group.square().sum() for group in aggregator(pools)).backward()
        for name in learned:
            assert (getattr(aggregator, name).grad.abs().reshape(QUERIES, -1).amax(dim=1) > 0).all()


@pytest.mark.parametrize(("init", "where"), [("anchored", "places"), ("keyframes", "mass_positions")])
def test_an_untrained_aggregation_is_the_softmax_of_prior_and_significance(pools, question, init, where):
    aggregator = make_aggregator(init=init, num_layers=3)
    used = torch.ones(BATCH, QUERIES, dtype=torch.bool).split(aggregator.group_sizes, dim=1)
    priors = aggregator._log_priors([getattr(pool, where) for pool in pools], [pool.mask for pool in pools], used)
    for group, pool, prior in zip(aggregator(pools, question), pools, priors, strict=True):
        unnormalised = prior.exp() * pool.log_significance.exp().unsqueeze(1)
        torch.testing.assert_close(group.squeeze(1), unnormalised / unnormalised.sum(dim=-1, keepdim=True))


@pytest.mark.parametrize("log_width", [-3.0, -40.0, -1000.0, 1000.0])
def test_anchors_far_from_every_token_and_extreme_widths_give_no_nan(pools, log_width):
    aggregator = make_aggregator(init="anchored")
    torch.nn.init.constant_(aggregator.anchors, 900.0)
    torch.nn.init.constant_(aggregator.anchor_log_widths, log_width)
    weights = aggregator(pools)
    assert_rows_sum_to_one(weights)
    sum(group.square().sum() for group in weights).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in aggregator.parameters())


@pytest.mark.parametrize("log_softness", [3.0, -3.0, -40.0, -1000.0, 1000.0])
def test_stretches_far_from_every_token_and_extreme_softness_give_no_nan(pools, log_softness):
    aggregator = make_aggregator(init="keyframes")
    torch.nn.init.constant_(aggregator.stretch_shifts, 900.0)
    torch.nn.init.constant_(aggregator.stretch_log_softness, log_softness)
    weights = aggregator(pools)
    assert_rows_sum_to_one(weights)
    sum(group.square().sum() for group in weights).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in aggregator.parameters())


def test_a_stretch_is_flat_inside_and_falls_off_as_a_logistic_function():
    """By hand: 3 queries, so query 1 has the stretch from 1/3 to 2/3; soft by a tenth of that."""
    positions = torch.tensor([[0.30, 0.35, 0.40, 0.50, 0.60, 0.65, 0.70]])
    prior = stretch_log_prior(positions, torch.tensor([0.0, 0.0, 0.5]), torch.full((3,), 0.1).log())[0]

    def window(position: float, middle: float) -> float:
        from_left, from_right = (position * 3 - middle + 0.5) / 0.1, (middle + 0.5 - position * 3) / 0.1
        return 1 / (1 + math.exp(-from_left)) / (1 + math.exp(-from_right))

    for query, middle in enumerate((0.5, 1.5, 3.0)):  # the last one is moved by half a stretch
        expected = torch.tensor([window(position, middle) for position in positions[0].tolist()])
        torch.testing.assert_close(prior[query].exp(), expected, atol=1e-6, rtol=1e-4)


def test_where_positions_are_a_stretch_apart_each_lies_in_the_middle_of_one():
    """5 tokens for 6 queries: the edge between two stretches fell on the middle token and blurred it with the next."""
    positions = (torch.arange(5)[None] + 0.5) / 5
    weights = stretch_log_prior(positions, torch.zeros(6), torch.full((6,), 0.04).log())[0].softmax(dim=-1)
    assert weights.argmax(dim=1).tolist() == [0, 1, 2, 2, 3, 4]
    assert weights.amax(dim=1).min() > 1 - 1e-6
    crowded = (torch.arange(7)[None] + 0.5) / 7  # more tokens than queries: some share a query, none is left out
    weights = stretch_log_prior(crowded, torch.zeros(6), torch.full((6,), 0.04).log())[0].softmax(dim=-1)
    assert weights.sum(dim=0).min() > 0.4
    padded = F.pad(positions, (0, 3), value=0.1)
    mask = torch.arange(8)[None] < 5
    expected = stretch_log_prior(positions, torch.zeros(6), torch.zeros(6))
    assert torch.equal(stretch_log_prior(padded, torch.zeros(6), torch.zeros(6), mask)[..., :5], expected)


def test_positions_that_are_the_same_are_one_and_need_no_room_from_each_other():
    """
    3 points for 4 queries, at 1/6, 1/2 and 5/6, which are 2/3, 2 and 10/3 stretches along; 3 slots lie at the second.

    The edge between the second stretch and the third falls on it: by itself each would share its weight with what lies
    beside. Were the three slots taken for three that are no distance apart, they would have no room.
    """
    positions = torch.tensor([[1 / 6, 1 / 2, 1 / 2 + 1e-7, 1 / 2, 5 / 6]])
    middles = torch.arange(4) + 0.5
    by_hand = torch.tensor([[4 / 6, 2.0, 2.0, 20 / 6]])
    torch.testing.assert_close(aggregation._nearest_if_apart(positions * 4, middles), by_hand)
    weights = stretch_log_prior(positions, torch.zeros(4), torch.full((4,), 0.04).log())[0].softmax(dim=-1)
    shares = torch.tensor(
        [[1.0, 0, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 0, 1]]
    )
    torch.testing.assert_close(weights, shares, atol=1e-4, rtol=0)
    apart = torch.tensor([[1 / 6, 1 / 2 - 0.01, 1 / 2, 1 / 2 + 0.01, 5 / 6]])  # three points, in each other's way
    by_hand = torch.tensor([[4 / 6, 1.5, 2.5, 20 / 6]])
    torch.testing.assert_close(aggregation._nearest_if_apart(apart * 4, middles), by_hand)


@pytest.mark.parametrize(
    ("positions", "middles"),
    [
        ([0.5], [0.5, 0.5]),  # one position is apart from all others
        ([0.5, 0.5, 0.5], [0.5, 0.5]),  # and so are three that are one
        ([0.3, 1.3], [0.3, 1.3]),
        ([0.3, 1.2], [0.5, 1.5]),  # not apart: even stretches
        ([0.2, 0.2, 1.9, 1.9], [0.2, 1.9]),
        ([0.2, 0.2, 0.6, 1.9, 1.9], [0.5, 1.9]),  # the first two points are in each other's way, the third is not
        ([1.9, 0.2, 1.9, 0.2], [0.2, 1.9]),  # in any order
    ],
)
def test_a_stretch_lies_around_the_nearest_position_that_has_room(positions, middles):
    found = aggregation._nearest_if_apart(torch.tensor([positions]), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(found, torch.tensor([middles]))


# ---- what a query sees


def changed(pools: list[PooledTokens], scale: int) -> list[PooledTokens]:
    """The pools with other states at one scale."""
    other = make_pools(seed=9)
    return [theirs if ours.scale == scale else ours for ours, theirs in zip(pools, other, strict=True)]


@pytest.mark.parametrize("scale", SCALES)
def test_each_group_sees_its_own_scale_and_hears_of_the_others_through_the_queries(pools, scale):
    position = SCALES.index(scale)
    for num_layers in (1, 2):
        aggregator = make_aggregator(num_layers=num_layers)
        before, after = aggregator(pools), aggregator(changed(pools, scale))
        assert_differ(before[position], after[position])
        for other in set(range(3)) - {position}:
            if num_layers == 1:  # self-attention comes before the first look at the video
                assert torch.equal(before[other], after[other])
            else:
                assert not torch.equal(before[other], after[other])


def test_learned_logits_are_scaled_products_of_queries_and_states(pools):
    aggregator = make_aggregator(scale_mode="single", scales=(1,))
    looked = []
    aggregator.aggregation_query.register_forward_hook(lambda module, inputs, output: looked.append(output))
    weights = aggregator(pools)[0]
    keys = aggregator.aggregation_key(aggregator.video_norm(pools[0].features))
    for query, window in ((0, 3), (4, 8)):
        logits = [
            looked[0][1, query] @ keys[1, w] / math.sqrt(WIDTH) + pools[0].log_significance[1, w] for w in range(KEPT)
        ]
        total = sum(logit.exp() for logit in logits)
        torch.testing.assert_close(weights[1, 0, query, window], logits[window].exp() / total)


def test_a_shared_pool_holds_all_scales_and_has_one_group(pools):
    aggregator = make_aggregator(scale_mode="shared")
    weights = aggregator(pools)
    assert [group.shape for group in weights] == [(BATCH, 1, QUERIES, 9 + 5 + 3)]
    for scale in SCALES:
        assert_differ(weights[0], aggregator(changed(pools, scale))[0])


def test_a_single_scale_has_one_group_and_one_pool(pools):
    weights = make_aggregator(scale_mode="single", scales=(2,))(pools)
    assert [group.shape for group in weights] == [(BATCH, 1, QUERIES, 5)]


def test_empty_windows_get_exactly_no_weight():
    weights = make_aggregator()(make_pools(num_filled=3))
    assert_rows_sum_to_one(weights)
    for group, filled in zip(weights, (3, 2, 1), strict=True):
        assert group[..., filled:].abs().max() == 0


def test_more_significant_tokens_get_more_weight(pools):
    aggregator = make_aggregator(scale_mode="single", scales=(1,))
    before = aggregator(pools)[0]
    pools[0].log_significance[:, 4] += math.log(3.0)
    after = aggregator(pools)[0]
    odds = (after[..., 4] / (1 - after[..., 4])) / (before[..., 4] / (1 - before[..., 4]))
    torch.testing.assert_close(odds, torch.full_like(odds, 3.0), atol=1e-4, rtol=1e-4)


# ---- the question


def test_the_question_changes_the_weights(pools, question):
    aggregator = make_aggregator()
    assert_differ(aggregator(pools, question)[0], aggregator(pools)[0])
    assert_differ(aggregator(pools, question)[0], aggregator(pools, question.flip(0))[0])


def test_an_empty_question_is_exactly_no_question(pools, question):
    aggregator = make_aggregator(num_layers=2)
    torch.nn.init.ones_(aggregator.blocks[0].text_attention.output.bias)  # zero must not come from a zero bias
    mask = torch.tensor([[False] * WORDS, [True, True, False, False]])
    with_mask, without = aggregator(pools, question, mask), aggregator(pools)
    for ours, theirs in zip(with_mask, without, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert not torch.equal(ours[1], theirs[1])


def test_what_stands_in_the_padding_of_a_question_does_not_matter(pools, question):
    aggregator = make_aggregator(num_layers=2)
    mask = torch.ones(BATCH, WORDS, dtype=torch.bool)
    padded = F.pad(question, (0, 0, 3, 2), value=torch.nan)
    weights = aggregator(pools, padded, F.pad(mask, (3, 2)))
    torch.testing.assert_close(weights, aggregator(pools, question, mask), atol=1e-6, rtol=1e-6)
    sum(group.square().sum() for group in weights).backward()
    assert all(parameter.grad.isfinite().all() for parameter in aggregator.parameters())


def test_without_text_conditioning_there_is_nothing_that_could_look_at_the_question(pools, question):
    aggregator = make_aggregator(text_conditioned=False)
    assert not [name for name, _ in aggregator.named_parameters() if "text" in name]
    torch.testing.assert_close(aggregator(pools, question), aggregator(pools), atol=0, rtol=0)


# ---- precision, memory, nonlinearity


@pytest.mark.parametrize("init", ["free", "anchored", "keyframes"])
def test_weights_are_float32_in_a_bfloat16_module_and_under_autocast(pools, question, init):
    exact = make_aggregator(init=init)(pools, question)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = make_aggregator(init=init)(pools, question)
    for weights in (make_aggregator(init=init).bfloat16()(pools, question.bfloat16()), autocast):
        assert_rows_sum_to_one(weights)
        torch.testing.assert_close(weights, exact, atol=0.05, rtol=0.1)


def test_the_check_of_rows_notices_weights_in_bfloat16(pools):
    weights = [group.bfloat16().float() for group in make_aggregator()(pools)]
    with pytest.raises(AssertionError):
        assert_rows_sum_to_one(weights)


def test_gradient_checkpointing_changes_no_gradient(pools, question):
    gradients = []
    for checkpointing in (False, True):
        aggregator = make_aggregator(num_layers=2).train()
        aggregator.gradient_checkpointing = checkpointing
        sum(group.square().sum() for group in aggregator(pools, question)).backward()
        gradients.append([parameter.grad for parameter in aggregator.parameters()])
    torch.testing.assert_close(*gradients)


def test_untrained_queries_are_not_all_the_same(pools):
    """With the authors' initialisation (0.02) all queries ask for the same average; a video would be one token."""
    aggregator = make_aggregator(init="free", bottleneck_size=128, num_layers=4, scale_mode="single", scales=(1,))
    pools[0].features = torch.randn(BATCH, KEPT, 128, generator=torch.Generator().manual_seed(4))
    usual = aggregator(pools)[0].squeeze(1).std(dim=1).mean()
    torch.nn.init.normal_(aggregator.queries, std=0.02)
    assert usual > 2 * aggregator(pools)[0].squeeze(1).std(dim=1).mean()


def test_a_resampler_has_weights_for_every_head_and_pools_values_like_the_rest(pools):
    aggregator = make_aggregator(aggregation="nonlinear", scale_mode="shared")
    weights = aggregator(pools)
    assert weights[0].shape == (BATCH, HEADS, QUERIES, 9 + 5 + 3)
    assert_rows_sum_to_one(weights)
    kept_tokens = torch.randn(BATCH, KEPT, DIM)
    tokens = aggregator.resample(kept_tokens, pools, weights)
    # by hand, for one token: each head averages its half of the values over the windows it weighs
    values = aggregator.resampler.value(kept_tokens[0])
    windows = [(scale, start) for scale in SCALES for start in range(0, KEPT, scale)]
    pool_of = {pool.scale: pool for pool in pools}
    pooled = torch.stack(
        [
            (pool_of[scale].weights[0, start : start + scale, None] * values[start : start + scale]).sum(dim=0)
            for scale, start in windows
        ]
    )
    heads = [weights[0][0, head, 3] @ pooled[:, 4 * head : 4 * head + 4] for head in range(HEADS)]
    torch.testing.assert_close(tokens[0, 3], aggregator.resampler.output(torch.cat(heads)))
