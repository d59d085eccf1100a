"""
Proves the invariant and the promises of the whole tokenizer, for every start, scale mode, selection and shift: tokens
are weighted averages of frame tokens by weights that compose exactly, one video never sees another, padding changes
nothing, everything trainable trains, and the cost is linear in the number of frames. Each promise has a broken variant
that its check must notice.
"""

import doctest
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from transformers_linvt.errors import LinVTError, LinVTInputError
from transformers_linvt.tokenizer import linear_video_tokenizer
from transformers_linvt.tokenizer.checks import CHOICES, bottleneck_width
from transformers_linvt.tokenizer.keyframes import average_runs
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer, LinearVideoTokenizerOutput
from transformers_linvt.tokenizer.places import infer_grid_size
from transformers_linvt.tokenizer.selection import RefinedVideo
from transformers_linvt.tokenizer.weights import FactoredWeights


BATCH, FRAMES, TOKENS, DIM, WORDS = 2, 5, 7, 12, 3
SETTINGS = dict(
    num_video_tokens=6,
    num_kept_tokens=13,
    pooling_scales=(1, 2, 4),
    bottleneck_size=8,
    num_heads=2,
    num_scorer_layers=2,
    num_aggregator_layers=2,
    temporal_window=4,
)
EVERY_COMBINATION = [
    dict(zip(("init", "scale_mode", "selection", "shift_windows"), values, strict=True))
    for values in itertools.product(CHOICES["init"], CHOICES["scale_mode"], CHOICES["selection"], (False, True))
]


def describe(changes: dict) -> str:
    return "-".join(map(str, changes.values()))


every_combination = pytest.mark.parametrize("changes", EVERY_COMBINATION, ids=describe)


def make_tokenizer(dim: int = DIM, **changes) -> LinearVideoTokenizer:
    torch.manual_seed(0)
    return LinearVideoTokenizer(dim, **{**SETTINGS, **changes})


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def video() -> torch.Tensor:
    return random(BATCH, FRAMES, TOKENS, DIM)


@pytest.fixture
def question() -> torch.Tensor:
    return random(BATCH, WORDS, DIM, seed=2)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second video has 3 frames of 4 tokens, fewer than are kept."""
    mask = torch.ones(BATCH, FRAMES, TOKENS, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:] = False, False
    return mask


# ---- the checks, each with something broken that it must notice


def assert_weighted_average(video: torch.Tensor, output: LinearVideoTokenizerOutput, mask: torch.Tensor | None = None):
    """Rows of W are non-negative, sum to 1 and use valid tokens only; Y = W V; every channel of Y is in V's range."""
    weights, tokens = output.weights.dense(), video.flatten(1, 2)
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask.flatten(1)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:2]), atol=1e-6, rtol=0)
    assert (weights * ~valid.unsqueeze(1)).abs().max() == 0
    torch.testing.assert_close(weights @ tokens, output.video_tokens, atol=1e-6, rtol=1e-6)
    lowest = tokens.masked_fill(~valid.unsqueeze(-1), torch.inf).amin(dim=1, keepdim=True)
    highest = tokens.masked_fill(~valid.unsqueeze(-1), -torch.inf).amax(dim=1, keepdim=True)
    assert (output.video_tokens >= lowest - 1e-6).all() and (output.video_tokens <= highest + 1e-6).all()


def assert_one_video_does_not_see_another(tokenize, video: torch.Tensor):
    changed = video.clone()
    changed[1] = changed[1].flip(0) * 3 + 1
    assert torch.equal(tokenize(video)[0], tokenize(changed)[0])
    assert not torch.equal(tokenize(video)[1], tokenize(changed)[1])


def assert_constant_video_gives_constant_tokens(tokenizer: LinearVideoTokenizer):
    constant = random(DIM, seed=4) * 5
    tokens = tokenizer(constant.expand(BATCH, FRAMES, TOKENS, DIM)).video_tokens
    torch.testing.assert_close(tokens, constant.expand_as(tokens), atol=2e-6, rtol=1e-6)


@every_combination
def test_every_video_token_is_a_weighted_average_of_frame_tokens(video, question, mask, changes):
    tokenizer = make_tokenizer(**changes)
    for frame_mask in (None, mask):
        assert_weighted_average(video, tokenizer(video, frame_mask, question_embeds=question), frame_mask)
    assert_constant_video_gives_constant_tokens(tokenizer)


def test_the_checks_notice_weights_per_head(video):
    """The authors' aggregation: two heads, each averaging its half of the channels by weights of its own."""
    tokenizer = make_tokenizer(init="free")
    output = tokenizer(video)
    half = DIM // 2
    other_weights = tokenizer(video.flip(1)).weights.dense()
    output.video_tokens[..., half:] = other_weights @ video.flatten(1, 2)[..., half:]
    with pytest.raises(AssertionError):
        assert_weighted_average(video, output)


def test_the_checks_notice_transformed_tokens(video):
    """The authors' selection gathers refined states in place of the tokens."""
    tokenizer = make_tokenizer(init="free")
    refined = tokenizer.refine(video)
    refined.kept_tokens = refined.kept_tokens + torch.nn.Linear(DIM, DIM)(refined.kept_tokens)
    with pytest.raises(AssertionError):
        assert_weighted_average(video, tokenizer.aggregate(refined))


def test_the_checks_notice_rows_that_do_not_sum_to_one(video):
    tokenizer = make_tokenizer(init="free")
    output = tokenizer(video)
    output.weights.aggregation = tuple(group.sigmoid() for group in output.weights.aggregation)
    with pytest.raises(AssertionError):
        assert_weighted_average(video, output)


def test_a_resampler_breaks_the_invariant_and_says_so(video, question):
    tokenizer = make_tokenizer(init="free", aggregation="nonlinear")
    output = tokenizer(video, question_embeds=question)
    assert output.weights.is_exact is False and make_tokenizer()(video).weights.is_exact is True
    assert output.video_tokens.shape == (BATCH, 6, DIM)
    with pytest.raises(AssertionError):
        assert_weighted_average(video, output)
    with pytest.raises(AssertionError):
        assert_constant_video_gives_constant_tokens(tokenizer)
    torch.testing.assert_close(output.weights.dense().sum(dim=-1), torch.ones(BATCH, 6))  # the mean over its heads


@pytest.mark.parametrize("aggregation", CHOICES["aggregation"])
@pytest.mark.parametrize("selection", CHOICES["selection"])
def test_one_video_does_not_see_another(video, question, selection, aggregation):
    tokenizer = make_tokenizer(init="keyframes", selection=selection, aggregation=aggregation)
    assert_one_video_does_not_see_another(
        lambda frames: tokenizer(frames, question_embeds=question).video_tokens, video
    )


def test_the_check_of_separation_notices_attention_over_the_batch(video):
    """The authors' attention without `batch_first`."""
    tokenizer = make_tokenizer(init="free")
    attention = torch.nn.MultiheadAttention(DIM, 2)
    with pytest.raises(AssertionError):
        assert_one_video_does_not_see_another(
            lambda frames: (
                tokenizer(attention(*[frames.flatten(1, 2)] * 3, need_weights=False)[0].view_as(frames)).video_tokens
            ),
            video,
        )


# ---- batches and padding


def pad_together(videos: list[torch.Tensor], value: float) -> tuple[torch.Tensor, torch.Tensor]:
    frames, tokens = (max(video.shape[axis] for video in videos) for axis in (0, 1))
    padded = torch.stack(
        [F.pad(video, (0, 0, 0, tokens - video.shape[1], 0, frames - video.shape[0]), value=value) for video in videos]
    )
    mask = torch.stack(
        [
            F.pad(torch.ones(v.shape[:2], dtype=torch.bool), (0, tokens - v.shape[1], 0, frames - v.shape[0]))
            for v in videos
        ]
    )
    return padded, mask


def assert_batch_equals_single(tokenizer: LinearVideoTokenizer, use_mask: bool = True, value: float = 7.0):
    videos = [random(5, 6, DIM, seed=5), random(3, 7, DIM, seed=6), random(1, 1, DIM, seed=7)]
    questions = [random(words, DIM, seed=8 + words) for words in (3, 1, 5)]
    seconds = [torch.tensor([0.0, 1.5, 3.0, 5.0, 9.0]), torch.tensor([2.0, 4.0, 6.0]), torch.tensor([8.0])]
    padded, mask = pad_together(videos, value)
    output = tokenizer(
        padded,
        mask if use_mask else None,
        torch.stack([F.pad(times, (0, 5 - len(times)), value=99.0) for times in seconds]),
        question_embeds=torch.stack([F.pad(words, (0, 0, 5 - len(words), 0), value=value) for words in questions]),
        question_mask=torch.stack([F.pad(torch.ones(len(words)), (5 - len(words), 0)) for words in questions]),
    )
    close = dict(atol=2e-6, rtol=2e-6)
    for row, (video, words, times) in enumerate(zip(videos, questions, seconds, strict=True)):
        single = tokenizer(video[None], timestamps=times[None], question_embeds=words[None])
        frames, tokens = video.shape[:2]
        torch.testing.assert_close(output.video_tokens[row], single.video_tokens[0], **close)
        torch.testing.assert_close(output.significance[row, :frames, :tokens], single.significance[0], **close)
        assert output.significance[row][~mask[row]].count_nonzero() == 0
        weights = output.weights.dense()[row].unflatten(-1, padded.shape[1:3])
        torch.testing.assert_close(weights[:, :frames, :tokens].flatten(1), single.weights.dense()[0], **close)


@every_combination
def test_a_batch_of_different_videos_equals_each_alone(changes):
    assert_batch_equals_single(make_tokenizer(**changes))


@pytest.mark.parametrize("aggregation", CHOICES["aggregation"])
def test_what_stands_in_the_padding_does_not_matter(aggregation):
    assert_batch_equals_single(make_tokenizer(init="keyframes", aggregation=aggregation), value=torch.nan)


def test_the_check_of_padding_notices_a_mask_that_is_ignored():
    with pytest.raises(AssertionError):
        assert_batch_equals_single(make_tokenizer(init="keyframes"), use_mask=False)


def test_masks_may_be_numbers_and_a_full_mask_is_no_mask(video):
    tokenizer = make_tokenizer(init="keyframes")
    full = torch.ones(BATCH, FRAMES, TOKENS, dtype=torch.long)
    torch.testing.assert_close(tokenizer(video, full).video_tokens, tokenizer(video).video_tokens)


@pytest.mark.parametrize("selection", CHOICES["selection"])
@pytest.mark.parametrize("init", CHOICES["init"])
def test_fewer_tokens_than_are_kept_are_all_kept(init, selection):
    output = make_tokenizer(num_kept_tokens=100, selection=selection, init=init)(random(BATCH, 3, 4, DIM))
    if init == "keyframes" and selection in ("learned", "novelty"):  # what repeats is in a run and has no slot
        assert (output.weights.run_weights > 0).all() and output.kept_indices[:, :4].tolist() == [[0, 1, 2, 3]] * BATCH
        assert (output.weights.dense().sum(dim=1) > 1e-3).all()
    else:
        assert output.kept_indices.tolist() == [list(range(12))] * BATCH


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (1, 9), (8, 1), (2, 2)])
@pytest.mark.parametrize("init", CHOICES["init"])
def test_one_frame_and_one_token_are_videos_too(init, frames, tokens):
    still = random(BATCH, frames, tokens, DIM)
    output = make_tokenizer(init=init)(still)
    assert_weighted_average(still, output)
    if frames * tokens == 1:
        torch.testing.assert_close(output.video_tokens, still.flatten(1, 2).expand(-1, 6, -1))


def test_without_selection_all_tokens_are_kept_whatever_the_limit(video):
    output = make_tokenizer(num_kept_tokens=3, selection="none", init="free")(video)
    assert output.kept_indices.tolist() == [list(range(FRAMES * TOKENS))] * BATCH
    assert output.significance.std() > 0.01  # learned scores still weigh


def test_uniform_selection_weighs_all_tokens_alike(video, mask):
    output = make_tokenizer(selection="uniform")(video, mask)
    assert torch.equal(output.significance, mask.float())


def test_the_most_significant_tokens_of_the_whole_video_are_the_kept_ones(video, mask):
    output = make_tokenizer(init="free")(video, mask)
    for row, count in enumerate((13, 12)):
        highest = output.significance[row].flatten().topk(count).indices.sort().values
        assert output.kept_indices[row, :count].tolist() == highest.tolist()
        assert output.weights.kept_mask[row].sum() == count


# ---- the untrained anchored start, computed by hand


def test_an_untrained_anchored_tokenizer_averages_a_still_video_in_place():
    frame = random(4, DIM)  # a grid of 2 x 2
    tokenizer = make_tokenizer(num_video_tokens=8, scale_mode="single", num_kept_tokens=1000, init="anchored")
    tokens = tokenizer(frame.expand(1, FRAMES, 4, DIM)).video_tokens[0]
    # 8 anchors are 2 x 2 x 2; cells are 1/2 apart and a third of that wide: the neighbour is 3 widths away
    near = math.exp(-4.5)
    kernel = torch.tensor([[1, near, near, near**2], [near, 1, near**2, near], [near, near**2, 1, near]])
    kernel = torch.cat([kernel, torch.tensor([[near**2, near, near, 1]])])
    expected = kernel @ frame / (1 + near) ** 2
    torch.testing.assert_close(tokens, torch.cat([expected, expected]))


def test_an_untrained_anchored_tokenizer_is_the_novelty_weighted_gaussian_average_in_reading_order(question):
    """Every step again in plain Python: novelty, significance, pooling over two scales, prior, softmax."""
    frames, places = 4, ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))
    video = random(1, frames, 4, DIM, seed=11)
    tokenizer = make_tokenizer(
        num_video_tokens=6, pooling_scales=(1, 2), num_kept_tokens=1000, init="anchored", scale_mode="specific"
    )
    tokens = tokenizer(video, question_embeds=question[:1]).video_tokens[0]

    rows = video[0].flatten(0, 1).tolist()
    length = sum(math.hypot(*row) for row in rows) / len(rows)
    novelty = [math.dist(rows[i], rows[i - 4]) / length for i in range(4, 16)]
    novelty = [max(novelty)] * 4 + novelty
    significance = [1 / (1 + math.exp(-value)) for value in novelty]
    where = [((i // 4 + 0.5) / frames, *places[i % 4]) for i in range(16)]
    # both groups of 3 queries have 3 anchors in time, 1 in rows and columns
    anchors = [((i + 0.5) / 3, 0.5, 0.5) for i in range(3)]
    expected = []
    for scale in (1, 2):
        windows = []
        for start in range(0, 16, scale):
            slots = range(start, start + scale)
            total = sum(significance[i] for i in slots)
            average = [sum(significance[i] * rows[i][c] for i in slots) / total for c in range(DIM)]
            place = [sum(significance[i] * where[i][axis] for i in slots) / total for axis in range(3)]
            windows.append((total / scale, place, average))
        for anchor in anchors:
            weights = [
                s
                * math.exp(
                    -0.5
                    * sum(((p - a) / w) ** 2 for p, a, w in zip(place, anchor, (1 / 9, 1 / 3, 1 / 3), strict=True))
                )
                for s, place, _ in windows
            ]
            expected.append(
                [
                    sum(w * v[c] for w, (_, _, v) in zip(weights, windows, strict=True)) / sum(weights)
                    for c in range(DIM)
                ]
            )
    torch.testing.assert_close(tokens, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_untrained_anchored_tokens_are_in_reading_order():
    tokenizer = make_tokenizer(num_video_tokens=8, scale_mode="single", num_kept_tokens=1000, init="anchored")
    places = torch.tensor([(t, r, c) for t in range(4) for r in range(4) for c in range(4)]).float()
    video = F.pad(places, (0, DIM - 3)).view(1, 4, 16, DIM)
    centres = tokenizer(video, grid_sizes=[(4, 4)]).video_tokens[0, :, :3]
    assert (centres > 1.5).int().tolist() == [[t, r, c] for t in (0, 1) for r in (0, 1) for c in (0, 1)]


def test_a_grid_may_end_in_a_short_row():
    """What `infer_grid_size` gives for 7 tokens was refused when given as `grid_sizes`, as every model does."""
    tokenizer, video = make_tokenizer(), random(1, 3, 7, DIM)
    given, inferred = (tokenizer(video, grid_sizes=grids).video_tokens for grids in ([infer_grid_size(7)], None))
    assert torch.equal(given, inferred)


@pytest.mark.parametrize("init", ["keyframes", "anchored"])
def test_the_grid_decides_where_a_token_is(init):
    tokenizer = make_tokenizer(num_video_tokens=8, scale_mode="single", num_kept_tokens=1000, init=init)
    video = random(1, 2, 16, DIM)
    wide, square = (tokenizer(video, grid_sizes=[grid]).video_tokens for grid in ((2, 8), (4, 4)))
    assert (wide - square).abs().max() > 0.1
    torch.testing.assert_close(square, tokenizer(video).video_tokens, atol=0, rtol=0)


# ---- refine, then aggregate


def test_forward_is_refine_then_aggregate_also_through_a_file(video, mask, question):
    tokenizer = make_tokenizer(init="keyframes")
    seconds = torch.arange(FRAMES).expand(BATCH, -1) * 0.5
    words = torch.tensor([[1, 1, 1], [0, 1, 1]])
    at_once = tokenizer(video, mask, seconds, [(2, 3), (2, 2)], question, words)
    refined = tokenizer.refine(video, mask, seconds, [(2, 3), (2, 2)])
    for stored in (refined, RefinedVideo.from_tensors(refined.to_tensors())):
        output = tokenizer.aggregate(stored, question, words)
        assert torch.equal(output.video_tokens, at_once.video_tokens)
        assert torch.equal(output.significance, at_once.significance)
        assert torch.equal(output.weights.dense(), at_once.weights.dense())


def test_kept_tokens_are_the_frame_tokens_themselves(video, mask):
    refined = make_tokenizer(init="free").refine(video, mask)
    assert torch.equal(refined.kept_tokens, refined.average(video))


def test_one_refined_video_answers_several_questions(video, question):
    tokenizer = make_tokenizer(init="free")
    asked_at_once = tokenizer.aggregate(tokenizer.refine(video[:1]).select([0, 0]), question)
    for row in range(BATCH):
        alone = tokenizer(video[:1], question_embeds=question[row : row + 1])
        torch.testing.assert_close(asked_at_once.video_tokens[row], alone.video_tokens[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("init", ["free", "keyframes"])
def test_the_question_decides_the_weights_and_not_what_is_kept(video, question, init):
    tokenizer = make_tokenizer(init=init)
    if init == "keyframes":  # untrained, the axis of mass decides alone: not one weight depends on the question
        assert torch.equal(tokenizer(video, question_embeds=question).video_tokens, tokenizer(video).video_tokens)
        torch.nn.init.xavier_uniform_(tokenizer.aggregator.aggregation_query.weight)
        torch.nn.init.zeros_(
            tokenizer.aggregator.stretch_log_softness
        )  # what is new fits: each has a token of its own
    without, asked, otherwise = (
        tokenizer(video, question_embeds=words) for words in (None, question, question.flip(0))
    )
    assert (asked.video_tokens - without.video_tokens).abs().max() > 1e-4
    assert (asked.video_tokens - otherwise.video_tokens).abs().max() > 1e-4
    assert torch.equal(asked.kept_indices, without.kept_indices)
    assert torch.equal(asked.significance, without.significance)


def test_an_empty_question_is_no_question(video, question):
    tokenizer = make_tokenizer(init="free")
    without = tokenizer(video).video_tokens
    nothing = torch.zeros(BATCH, WORDS)
    assert torch.equal(tokenizer(video, question_embeds=question, question_mask=nothing).video_tokens, without)
    assert torch.equal(tokenizer(video, question_embeds=question[:, :0]).video_tokens, without)


def test_without_text_conditioning_the_question_is_not_looked_at(video, question):
    tokenizer = make_tokenizer(init="free", text_conditioned=False)
    assert torch.equal(tokenizer(video, question_embeds=question).video_tokens, tokenizer(video).video_tokens)


# ---- the weights as an answer


def test_the_weights_move_anything_aligned_with_the_frame_tokens(video, mask):
    output = make_tokenizer(init="free")(video, mask)
    assert torch.equal(output.weights.apply(video), output.video_tokens)
    deepstack = random(BATCH, FRAMES, TOKENS, 4, seed=12)
    expected = output.weights.dense() @ deepstack.flatten(1, 2)
    torch.testing.assert_close(output.weights.apply(deepstack), expected)
    kept = average_runs(deepstack, output.weights.run_slots, output.weights.run_weights, output.kept_indices.shape[1])
    assert torch.equal(output.weights.apply_to_kept(kept), output.weights.apply(deepstack))
    with pytest.raises(LinVTInputError, match=r"\(2, 5, 7, width\), got \(2, 5, 6, 4\)"):
        output.weights.apply(deepstack[:, :, :6])


def dense_factors(weights: FactoredWeights, video: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A, P and R of one group of video tokens as plain matrices, entry by entry: aggregation, pooling and runs."""
    num_slots = weights.kept_indices.shape[1]
    runs = torch.zeros(num_slots, weights.run_slots.shape[1])
    for token, (slot, weight) in enumerate(
        zip(weights.run_slots[video].tolist(), weights.run_weights[video].tolist(), strict=True)
    ):
        runs[slot, token] += weight
    windows = []
    for scale in weights.scales_of_groups[group]:
        pooling, before = weights.pooling[weights.scales.index(scale)][video], scale // 2 if weights.shift else 0
        for start in range(-before, num_slots, scale):
            window = torch.zeros(num_slots)
            window[max(start, 0) : start + scale] = pooling[max(start, 0) : start + scale]
            windows.append(window)
    return weights.aggregation[group][video], torch.stack(windows), runs


def assert_weights_are_their_factors(output: LinearVideoTokenizerOutput, video: torch.Tensor):
    """W = A P R for every group, per frame and dense, and apply() moves what is aligned as W does."""
    weights, dense = output.weights, output.weights.dense()
    for row in range(BATCH):
        groups = []
        for group in range(len(weights.aggregation)):
            aggregation, pooling, runs = dense_factors(weights, row, group)
            groups.append(aggregation @ pooling @ runs)
        torch.testing.assert_close(dense[row], torch.cat(groups), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(
        weights.per_frame(), dense.unflatten(-1, (FRAMES, TOKENS)).sum(dim=-1), atol=1e-7, rtol=1e-5
    )
    times = torch.arange(FRAMES).view(1, -1, 1, 1).expand(BATCH, -1, TOKENS, 1).float()
    by_hand = (weights.per_frame() * torch.arange(FRAMES)).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(weights.apply(times), by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.apply(video), output.video_tokens, atol=0, rtol=0)


@every_combination
def test_weights_compose_exactly_from_aggregation_pooling_and_runs(video, mask, changes):
    frames = video.clone()
    frames[0, 2:4] = frames[0, 1]  # something that repeats
    assert_weights_are_their_factors(make_tokenizer(**changes)(frames, mask), frames.masked_fill(~mask[..., None], 0))


def test_the_check_of_factors_notices_runs_that_are_left_out(video):
    """Weights as they were before runs: all of a slot on the token that it starts with."""
    frames = video[:, :1] + 0.1 * video
    output = make_tokenizer(init="keyframes")(frames)
    assert_weights_are_their_factors(output, frames)
    runs = torch.zeros_like(output.weights.run_weights).scatter_(1, output.weights.kept_indices, 1.0)
    per_frame, output.weights.run_weights = output.weights.per_frame(), runs
    assert (per_frame - output.weights.per_frame()).abs().max() > 0.1
    with pytest.raises(AssertionError):
        assert_weights_are_their_factors(output, frames)


def test_weights_compose_from_their_factors_by_hand(video):
    output = make_tokenizer(init="free", num_kept_tokens=5, scale_mode="shared", shift_windows=True)(video)
    weights = output.weights
    assert weights.scales == (1, 2, 4) and weights.scales_of_groups == ((1, 2, 4),)
    aggregation, pooling = weights.aggregation[0][1, 3].tolist(), [scale[1].tolist() for scale in weights.pooling]
    assert len(aggregation) == 5 + 3 + 2  # windows of 5 slots: 5; 1, 2, 2; 2, 3
    windows = ((0, 1, 2, 3, 4), (5, 6, 6, 7, 7), (8, 8, 9, 9, 9))
    for slot in range(5):
        expected = sum(aggregation[windows[scale][slot]] * pooling[scale][slot] for scale in range(3))
        assert weights.kept()[1, 3, slot].item() == pytest.approx(expected, abs=1e-7)
        assert weights.dense()[1, 3, output.kept_indices[1, slot]].item() == pytest.approx(expected, abs=1e-7)


def test_weights_of_one_video_can_be_taken_out_of_the_batch(video):
    weights = make_tokenizer(init="free", scale_mode="specific")(video).weights
    one = weights.select([1]).detach().to("cpu")
    assert torch.equal(one.dense(), weights.dense()[1:]) and not one.dense().requires_grad
    assert (one.num_frames, one.tokens_per_frame, one.scales) == (FRAMES, TOKENS, (1, 2, 4))


# ---- training


RESAMPLERS = [
    {"init": init, "scale_mode": scale_mode, "aggregation": "nonlinear"}
    for init, scale_mode in itertools.product(CHOICES["init"], CHOICES["scale_mode"])
]


@pytest.mark.parametrize("changes", EVERY_COMBINATION + RESAMPLERS, ids=describe)
def test_every_parameter_gets_a_gradient_and_none_stays_zero(video, question, changes):
    tokenizer = make_tokenizer(**changes)
    for _ in range(2):  # what starts at zero holds the gradient of what is before it back for one step
        gradients = {}
        tokenizer.zero_grad(set_to_none=True)
        output = tokenizer(video, question_embeds=question)
        (output.video_tokens * random(*output.video_tokens.shape, seed=13)).sum().backward()
        for name, parameter in tokenizer.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            gradients[name] = parameter.grad.abs().max().item()
            parameter.data -= 0.1 * parameter.grad
    assert [name for name, largest in gradients.items() if largest == 0.0] == []


def test_the_scorer_learns_through_the_weights_what_is_significant(video):
    tokenizer = make_tokenizer(init="free", num_kept_tokens=1000)
    optimizer = torch.optim.Adam(tokenizer.scorer.parameters(), lr=0.01)
    needle = (slice(None), 2, 3)
    assert (tokenizer(video).significance[needle] < tokenizer(video).significance.amax(dim=(1, 2))).all()
    for _ in range(30):
        optimizer.zero_grad()
        (tokenizer(video).video_tokens - video[needle].unsqueeze(1)).square().mean().backward()
        optimizer.step()
    assert torch.equal(tokenizer(video).significance[needle], tokenizer(video).significance.amax(dim=(1, 2)))


def test_the_score_gets_its_gradient_from_the_log_significance_alone(video):
    """The authors' scores meet the tokens nowhere, and never learn: what the check of gradients must notice."""
    tokenizer = make_tokenizer(init="free")
    refined = tokenizer.refine(video)
    refined.log_significance = refined.log_significance.detach()
    tokenizer.aggregate(refined).video_tokens.sum().backward()
    assert tokenizer.scorer.score_weight.grad is None
    assert tokenizer.scorer.input_projection.weight.grad.abs().max() > 0


def test_gradients_are_the_derivatives(question):
    tokenizer = make_tokenizer(init="keyframes", selection="none", num_video_tokens=4).double()
    frames = random(1, 2, 3, DIM).double().requires_grad_()
    words = question[:1].double().requires_grad_()
    mask = torch.tensor([[[True, True, True], [True, True, False]]])
    assert torch.autograd.gradcheck(
        lambda *inputs: tokenizer(inputs[0], mask, question_embeds=inputs[1]).video_tokens,
        (frames, words),
        fast_mode=True,
    )


def test_gradient_checkpointing_changes_nothing_and_really_recomputes(video, question):
    outcomes = []
    for checkpointing in (False, True):
        tokenizer = make_tokenizer(init="keyframes").train()
        calls = []
        for block in (*tokenizer.scorer_blocks, *tokenizer.aggregator_blocks):
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        tokenizer.scorer.gradient_checkpointing = tokenizer.aggregator.gradient_checkpointing = checkpointing
        output = tokenizer(video, question_embeds=question)
        output.video_tokens.square().sum().backward()
        assert len(calls) == (8 if checkpointing else 4)
        outcomes.append([output.video_tokens, *[parameter.grad for parameter in tokenizer.parameters()]])
    torch.testing.assert_close(*outcomes)


# ---- precision


@pytest.mark.parametrize("init", CHOICES["init"])
def test_bfloat16_is_close_to_float32_and_weights_stay_exact(video, question, init):
    exact = make_tokenizer(init=init, selection="uniform")(video, question_embeds=question)
    tokenizer = make_tokenizer(init=init, selection="uniform").bfloat16()
    output = tokenizer(video.bfloat16(), question_embeds=question.bfloat16())
    assert output.video_tokens.dtype == torch.bfloat16 and output.weights.dense().dtype == torch.float32
    torch.testing.assert_close(output.video_tokens.float(), exact.video_tokens, atol=0.05, rtol=0.05)
    torch.testing.assert_close(output.weights.dense().sum(-1), torch.ones(BATCH, 6), atol=1e-6, rtol=0)
    composed = output.weights.dense() @ video.bfloat16().float().flatten(1, 2)
    # the only rounding is the last one
    torch.testing.assert_close(output.video_tokens.float(), composed, atol=1e-6, rtol=2**-8)


@pytest.mark.parametrize("selection", CHOICES["selection"])
def test_autocast_leaves_the_invariant_exact(video, question, selection):
    tokenizer = make_tokenizer(init="keyframes", selection=selection)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tokenizer(video, question_embeds=question)
    assert output.video_tokens.dtype == torch.float32
    assert_weighted_average(video, output)


def test_a_float32_module_takes_bfloat16_tokens_and_gives_them_back(video, question):
    output = make_tokenizer(init="keyframes")(video.bfloat16(), question_embeds=question.bfloat16())
    assert output.video_tokens.dtype == torch.bfloat16
    assert make_tokenizer(aggregation="nonlinear")(video.bfloat16()).video_tokens.dtype == torch.bfloat16


# ---- cost


def flops(num_frames: int, temporal_window: int = 4) -> int:
    tokenizer = make_tokenizer(temporal_window=temporal_window)
    # the plain kernel, because the fused one of the CPU is not counted everywhere
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokenizer(torch.randn(1, num_frames, TOKENS, DIM), question_embeds=torch.randn(1, WORDS, DIM))
    return counter.get_total_flops()


def test_the_cost_is_linear_in_the_number_of_frames_and_of_the_aggregation_constant():
    at_16, at_32, at_64 = flops(16), flops(32), flops(64)
    assert at_64 - at_32 == 2 * (at_32 - at_16)
    quadratic = [flops(frames, temporal_window=64) for frames in (16, 32, 64)]
    assert quadratic[2] - quadratic[1] > 2 * (quadratic[1] - quadratic[0])


SHAPES = ((33, 6), (3, 4), (5, 6), (3, 4))  # frames, tokens of a frame


@pytest.mark.parametrize("init", ["keyframes", "anchored"])
def test_videos_of_any_shape_come_out_as_they_do_alone(init):
    tokenizer = make_tokenizer(init=init)
    videos = [torch.randn(*shape, DIM) for shape in SHAPES]
    times = [torch.arange(frames) * 0.5 + number for number, (frames, _) in enumerate(SHAPES)]
    grids = [(2, tokens // 2) for _, tokens in SHAPES]
    questions = torch.randn(len(videos), WORDS, DIM)
    output = tokenizer(videos, timestamps=times, grid_sizes=grids, question_embeds=questions)
    for number, video in enumerate(videos):
        alone = tokenizer(
            video[None],
            timestamps=times[number][None],
            grid_sizes=[grids[number]],
            question_embeds=questions[number : number + 1],
        )
        torch.testing.assert_close(output.video_tokens[number], alone.video_tokens[0], rtol=1e-5, atol=1e-6)
    by_weights = output.weights.apply_to_kept(output.weights.average_each(videos))
    torch.testing.assert_close(by_weights, output.video_tokens, rtol=1e-5, atol=1e-6)
    with pytest.raises(LinVTInputError, match="frame_mask has no meaning"):
        tokenizer(videos, frame_mask=torch.ones(4, 33, 6))
    with pytest.raises(LinVTInputError, match="2 videos in one tensor came as a list. Stack them"):
        tokenizer(torch.stack([videos[0]] * 2), timestamps=[times[0]] * 2)


def test_a_mixed_batch_costs_what_its_parts_cost():
    """A batch in which one clip is long made every other one as long."""
    tokenizer = make_tokenizer(temporal_window=4)

    def cost(*shapes: tuple[int, int]) -> int:
        videos = [torch.randn(*shape, DIM) for shape in shapes]
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            tokenizer(videos, question_embeds=torch.randn(len(videos), WORDS, DIM))
        return counter.get_total_flops()

    parts = sum(cost(shape) for shape in SHAPES)
    assert cost(*SHAPES) <= 1.1 * parts
    mask = torch.zeros(4, 33, 6, dtype=torch.bool)
    for number, (frames, tokens) in enumerate(SHAPES):
        mask[number, :frames, :tokens] = True
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokenizer(torch.randn(4, 33, 6, DIM), mask, question_embeds=torch.randn(4, WORDS, DIM))
    assert counter.get_total_flops() > 2 * parts  # what padding costs


# ---- construction


def test_the_same_seed_gives_the_same_weights_also_after_the_meta_device():
    with torch.device("meta"):
        empty = LinearVideoTokenizer(DIM, **SETTINGS, init="keyframes", aggregation="nonlinear")
    assert all(parameter.is_meta for parameter in empty.parameters())
    direct = make_tokenizer(init="keyframes", aggregation="nonlinear")
    empty.to_empty(device="cpu")
    for parameter in empty.parameters():
        parameter.data.fill_(torch.nan)
    torch.manual_seed(0)
    empty.init_weights()
    first = {name: parameter.clone() for name, parameter in empty.named_parameters()}
    torch.manual_seed(0)
    direct.init_weights()
    for name, parameter in direct.named_parameters():
        assert torch.equal(parameter, first[name]), name


def test_a_parameter_that_transformers_has_loaded_is_not_set_again():
    tokenizer = make_tokenizer(init="anchored")
    tokenizer.aggregator.anchors.data.fill_(0.3)
    tokenizer.aggregator.anchors._is_hf_initialized = True
    tokenizer.init_weights()
    assert (tokenizer.aggregator.anchors == 0.3).all()
    assert (tokenizer.aggregator.anchor_log_widths < 0).all()


def test_names_of_the_state_are_stable():
    names = {name.split(".")[0] for name in make_tokenizer().state_dict()}
    assert names == {"scorer", "aggregator"}
    everything = set(make_tokenizer(init="anchored").state_dict())
    assert {
        "scorer.input_projection.weight",
        "scorer.blocks.1.temporal_attention.query.weight",
        "scorer.score_weight",
        "scorer.novelty_gain",
        "aggregator.queries",
        "aggregator.blocks.0.text_attention.output.bias",
        "aggregator.anchors",
        "aggregator.anchor_log_widths",
        "aggregator.aggregation_key.weight",
    } <= everything
    assert list(make_tokenizer().buffers()) == []


def test_no_parameter_is_a_scalar():
    """Fully sharded training splits the first axis of every parameter; there has to be one."""
    assert min(parameter.dim() for parameter in make_tokenizer().parameters()) == 1


@pytest.mark.parametrize(("dim", "millions"), [(896, 27.33), (3584, 30.09), (8192, 34.83)])
def test_the_number_of_parameters_hardly_grows_with_the_width_of_the_llm(dim, millions):
    with torch.device("meta"):
        tokenizer = LinearVideoTokenizer(dim)
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_the_bottleneck_is_never_wider_than_the_llm_and_holds_whole_heads():
    assert [bottleneck_width(*sizes) for sizes in ((896, 512, 8), (100, 512, 8), (11, 512, 1), (900, 70, 8))] == [
        512,
        96,
        11,
        64,
    ]
    odd = LinearVideoTokenizer(11, num_video_tokens=3, num_heads=1)
    assert odd.bottleneck_size == 11 and odd(torch.randn(1, 2, 3, 11)).video_tokens.shape == (1, 3, 11)


def test_the_representation_names_the_numbers():
    text = repr(make_tokenizer(init="keyframes", scale_mode="shared"))
    for part in ("dim=12", "num_video_tokens=6", "num_kept_tokens=13", "scales=(1, 2, 4)", "init='keyframes'"):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ({"num_video_tokens": 0}, "num_video_tokens .* got 0"),
        ({"num_video_tokens": 2.5}, "num_video_tokens .* got 2.5"),
        ({"num_video_tokens": True}, "num_video_tokens .* got True"),
        ({"num_kept_tokens": -1}, "num_kept_tokens .* got -1"),
        ({"num_scorer_layers": -1}, "num_scorer_layers must be an integer of at least 0"),
        ({"num_aggregator_layers": 0}, "num_aggregator_layers must be an integer of at least 1"),
        ({"temporal_window": 0}, "temporal_window"),
        ({"num_heads": 9}, "num_heads=9 heads do not fit into a width of 8 .* Use at most 8"),
        ({"pooling_scales": ()}, r"pooling_scales .* got \(\)"),
        ({"pooling_scales": 2}, "pooling_scales .* got 2"),
        ({"pooling_scales": "124"}, "pooling_scales .* got '124'"),
        ({"pooling_scales": (1, 0)}, r"pooling_scales\[1\] .* got 0"),
        ({"pooling_scales": (2, 1, 2)}, r"must differ from each other, got \(2, 1, 2\)"),
        (
            {"num_video_tokens": 2, "scale_mode": "specific"},
            "num_video_tokens=2 leaves some of the 3 pooling scales without a query",
        ),
        ({"scale_mode": "multi-c"}, "scale_mode must be one of 'single', 'shared', 'specific', got 'multi-c'"),
        ({"selection": None}, "selection must be one of .* got None"),
        ({"aggregation": "mean"}, "aggregation must be one of 'linear', 'nonlinear', got 'mean'"),
        ({"init": "random"}, "init must be one of 'keyframes', 'anchored', 'free', got 'random'"),
        ({"text_conditioned": 1}, "text_conditioned must be True or False, got 1"),
        ({"shift_windows": "yes"}, "shift_windows must be True or False, got 'yes'"),
    ],
)
def test_settings_that_make_no_tokenizer_are_refused(changes, message):
    with pytest.raises(LinVTInputError, match=message):
        make_tokenizer(**changes)


def test_few_video_tokens_are_fine_where_no_group_goes_empty(video):
    for changes in ({"scale_mode": "shared"}, {"scale_mode": "single"}):
        assert make_tokenizer(num_video_tokens=1, **changes)(video).video_tokens.shape == (BATCH, 1, DIM)
    assert make_tokenizer(num_video_tokens=3, scale_mode="specific")(video).video_tokens.shape == (BATCH, 3, DIM)
    assert make_tokenizer(pooling_scales=[4], num_scorer_layers=0)(video).video_tokens.shape == (BATCH, 6, DIM)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frame_tokens": torch.zeros(2, 5, 12)},
            r"frame_tokens must be .* \(batch, num_frames, tokens_per_frame, 12\)",
        ),
        ({"frame_tokens": torch.zeros(2, 5, 7, 13)}, r"got \(2, 5, 7, 13\)"),
        ({"frame_tokens": torch.zeros(2, 0, 7, 12)}, r"nothing empty, got \(2, 0, 7, 12\)"),
        ({"frame_tokens": torch.zeros(2, 5, 7, 12, dtype=torch.long)}, "torch.int64"),
        ({"frame_mask": torch.ones(2, 5)}, r"frame_mask .* \(2, 5, 7\), got \(2, 5\)"),
        ({"frame_mask": torch.arange(2)[:, None, None].expand(2, 5, 7)}, "hides every token of video 0"),
        ({"timestamps": torch.zeros(2, 4)}, r"timestamps .* \(2, 5\), got \(2, 4\)"),
        ({"timestamps": torch.full((2, 5), torch.nan)}, "timestamps must be finite"),
        ({"grid_sizes": [(1, 7)]}, "each of the 2 videos, got 1"),
        ({"grid_sizes": [(1, 7), (3, 4)]}, r"one of the 7 tokens of a frame in every row, got \(3, 4\)"),
        ({"grid_sizes": [(1, 7), (0, 4)]}, r"at least 1 .* got \(0, 4\)"),
        ({"grid_sizes": [(1, 7), (1, 2, 3)]}, r"got \(1, 2, 3\)"),
        ({"question_embeds": torch.zeros(1, 3, 12)}, r"question_embeds must be of shape \(2, num_text_tokens, 12\)"),
        ({"question_embeds": torch.zeros(2, 3, 8)}, r"got \(2, 3, 8\)"),
        ({"question_mask": torch.ones(2, 4)}, r"question_mask .* \(2, 3\), got \(2, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(video, question, changes, message):
    inputs = {"frame_tokens": video, "question_embeds": question, **changes}
    with pytest.raises(LinVTInputError, match=message) as error:
        make_tokenizer()(**inputs)
    assert isinstance(error.value, LinVTError) and isinstance(error.value, ValueError)


def test_a_video_refined_by_another_model_is_refused(video):
    refined = make_tokenizer().refine(video)
    with pytest.raises(LinVTInputError, match="refined by another model: .* 12 and 8 wide, this tokenizer's 12 and 6"):
        make_tokenizer(bottleneck_size=6).aggregate(refined)


def test_the_examples_in_the_docstrings_are_true():
    result = doctest.testmod(linear_video_tokenizer)
    assert result.attempted > 3 and result.failed == 0


def test_never_more_are_kept_than_there_are():
    tokenizer = make_tokenizer(num_kept_tokens=4, init="free")
    assert tokenizer.refine(random(2, 8, 9, DIM)).kept_indices.shape == (2, 4)
    assert tokenizer.refine(random(2, 1, 3, DIM)).kept_indices.shape == (2, 3)


def test_with_key_frames_no_token_is_dropped():
    tokenizer, frame_tokens = make_tokenizer(num_kept_tokens=4, init="keyframes").train(), random(2, 8, 9, DIM)
    assert tokenizer(frame_tokens).weights.dense().sum(dim=1).min() > 0


@pytest.mark.parametrize("init", ["keyframes", "anchored"])
def test_in_bfloat16_the_same_tokens_are_kept_alone_and_in_a_batch(init: str):
    """Random weights, three videos of other lengths and sizes: matrices of another shape are rounded otherwise."""
    for seed in range(3):
        torch.manual_seed(seed)
        fields = {"num_video_tokens": 16, "num_kept_tokens": 64, "bottleneck_size": 64, "num_heads": 4}
        tokenizer = LinearVideoTokenizer(96, init=init, **fields).eval()
        for name, parameter in tokenizer.named_parameters():
            if "norm" not in name:
                torch.nn.init.normal_(parameter, std=0.15 if parameter.dim() > 1 else 0.5)
        tokenizer.scorer.novelty_gain.data.fill_(4.0)
        tokenizer = tokenizer.to(torch.bfloat16)
        videos, grids = (
            [torch.randn(t, n, 96).bfloat16() for t, n in ((7, 30), (11, 30), (5, 42))],
            [(5, 6), (5, 6), (6, 7)],
        )
        padded, mask = torch.zeros(3, 11, 42, 96, dtype=torch.bfloat16), torch.zeros(3, 11, 42, dtype=torch.bool)
        for row, video in enumerate(videos):
            padded[row, : video.shape[0], : video.shape[1]], mask[row, : video.shape[0], : video.shape[1]] = (
                video,
                True,
            )
        with torch.no_grad():
            together = tokenizer.refine(padded, mask, grid_sizes=grids)
            for row, video in enumerate(videos):
                alone = tokenizer.refine(video[None], grid_sizes=[grids[row]])
                kept = alone.kept_indices[0][alone.kept_mask[0]]
                expected = kept // video.shape[1] * 42 + kept % video.shape[1]
                assert torch.equal(together.kept_indices[row][together.kept_mask[row]], expected)
                there = together.significance[row, : video.shape[0], : video.shape[1]]
                assert torch.equal(there, alone.significance[0])
