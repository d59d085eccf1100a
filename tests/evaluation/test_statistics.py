"""Intervals and paired differences: against values computed by hand, and against what they promise over many draws."""

import numpy as np
import pytest

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation.statistics import clustered_interval, paired_difference, wilson


def test_wilson_is_the_interval_of_the_textbook():
    assert wilson(95, 100) == pytest.approx((88.82, 97.85), abs=0.01)  # Brown, Cai and DasGupta's formula by hand
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 100


@pytest.mark.parametrize(("right", "asked"), [(3, 2), (-1, 2), (0, 0)])
def test_what_is_no_share_is_refused(right, asked):
    with pytest.raises(LinVTInputError, match=f"{right} right answers of {asked}"):
        wilson(right, asked)


def test_questions_about_one_clip_that_are_right_together_widen_the_interval():
    rng = np.random.default_rng(1)
    clips = rng.random(60) < 0.7
    together = [[bool(clip)] * 4 for clip in clips]
    apart = [[bool(value) for value in row] for row in rng.random((60, 4)) < 0.7]
    width = [np.diff(clustered_interval(one)).item() for one in (together, apart)]
    assert width[0] == pytest.approx(2 * width[1], rel=0.2)  # four questions count as one


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(100):
        truths = rng.choice([0.5, 0.9], 50)  # clips differ: what a Wilson interval over questions does not know
        right = [[bool(value) for value in rng.random(3) < truth] for truth in truths]
        low, high = clustered_interval(right)
        inside += low <= 70 <= high
    assert 88 <= inside <= 99


def test_where_all_is_right_the_interval_is_that_of_as_many_questions_as_clips():
    assert clustered_interval([[True] * 5] * 20) == wilson(20, 20)


def test_a_paired_difference_counts_clip_by_clip():
    first = [[True, False]] * 30 + [[False, False]] * 10
    second = [[True, True]] * 30 + [[False, True]] * 9 + [[False, False]]
    found = paired_difference(first, second)
    assert found.points == pytest.approx(100 * 39 / 80)
    assert (found.only_first, found.only_second) == (0, 39)
    assert 0 < found.low < found.points < found.high
    assert found.p_value == pytest.approx(2 / 2**39)


def test_two_models_that_are_as_good_differ_by_nothing():
    rng = np.random.default_rng(3)
    first, second = ([[bool(value)] for value in rng.random(200) < 0.5] for _ in range(2))
    found = paired_difference(first, second)
    assert found.low < 0 < found.high
    assert found.p_value > 0.05


def test_no_difference_in_few_clips_is_no_proof_of_none():
    few, many = (paired_difference([[True, False]] * count, [[True, False]] * count) for count in (12, 1200))
    assert (few.points, few.first, few.second, few.asked) == (0, 50, 50, 24)
    assert few.high == pytest.approx(wilson(0, 12)[1]) and few.low == -few.high
    assert 0 < many.high < 1
    all_lost = paired_difference([[True]] * 12, [[False]] * 12)
    assert all_lost.low == all_lost.points == -100 < all_lost.high == pytest.approx(-100 + wilson(0, 12)[1])


def test_what_was_not_asked_alike_cannot_be_paired():
    with pytest.raises(LinVTInputError, match="1 clips with 2 answers cannot be paired with 2 clips with 2"):
        paired_difference([[True, True]], [[True], [True]])
