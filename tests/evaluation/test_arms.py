"""Arms without learned weights: averages within the budget, of the tokens that each is named after."""

import pytest
import torch

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation.arms import PLAIN_ARMS, plain_weights


FRAMES, PLACES, DIM = 6, 5, 3


@pytest.fixture
def tokens():
    return torch.randn(FRAMES, PLACES, DIM, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("arm", PLAIN_ARMS)
@pytest.mark.parametrize("budget", [1, 4, 11, 99])
def test_every_arm_averages_within_its_budget(arm, budget, tokens):
    weights = plain_weights(arm, tokens, budget)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
    assert len(weights) <= budget or arm == "all"
    assert weights.shape[1] == FRAMES * PLACES


def test_each_is_what_it_is_named_after(tokens):
    flat = tokens.flatten(0, 1)
    torch.testing.assert_close(plain_weights("mean over time", tokens, PLACES) @ flat, tokens.mean(0))
    torch.testing.assert_close(plain_weights("middle frame", tokens, PLACES) @ flat, tokens[3])
    two = plain_weights("uniform frames", tokens, 2 * PLACES) @ flat
    torch.testing.assert_close(two, torch.cat([tokens[1], tokens[4]]))
    torch.testing.assert_close(plain_weights("all", tokens, 1) @ flat, flat)
    lattice = plain_weights("lattice", tokens, 4) @ flat  # two halves of time by two of place
    torch.testing.assert_close(lattice[0], tokens[:3, :3].mean((0, 1)))


def test_k_means_finds_what_is_there_in_the_order_of_time():
    things = torch.eye(4)[:3] * 9
    tokens = things[torch.tensor([[2, 2], [0, 2], [1, 0]])]
    found = plain_weights("k-means", tokens, 3) @ tokens.flatten(0, 1)
    torch.testing.assert_close(found, things[[2, 0, 1]])
    assert len(plain_weights("k-means", tokens, 5)) == 3  # no cluster without a token


@pytest.mark.parametrize(("arm", "budget", "message"), [("k-mean", 4, "'k-means'"), ("all", 0, "num_tokens=0")])
def test_what_is_no_arm_is_refused(arm, budget, message):
    with pytest.raises(LinVTInputError, match=message):
        plain_weights(arm, torch.zeros(2, 2, 2), budget)
