"""
"When does it appear?": layouts of times keep to their budget; times are those of what appears; and the bar: the moment
of an answer's evidence is within a segment of the truth, with nothing written into the prompt.
"""

import sys
from pathlib import Path

import pytest
import torch

from transformers_linvt import LinVTForVideoQA, embedded_model_path
from transformers_linvt.demo import shapes
from transformers_linvt.model.time_marks import TIME_PLACES, first_frames
from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer


@pytest.fixture(scope="module")
def when():
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    try:
        import when as module

        yield module
    finally:
        sys.path.pop(0)


def written(layout) -> list[str]:
    return ["." if kind == "token" else f"{value:g}" for kind, value in layout]


def test_times_stand_where_a_layout_puts_them(when):
    times, frames = torch.tensor([0.0, 0.2, 9.0, 9.1, 12.0]), torch.arange(13.0)
    assert written(when.tokens(times, frames)) == ["0", ".", ".", "9", ".", ".", "12", "."]
    assert written(when.none(times, frames)) == ["."] * 5
    assert written(when.per_frame(times, frames[:3])) == [*"....."] + ["0", "1", "2"]
    even = when.even(torch.arange(32.0), frames)
    assert written(even)[:6] == ["0", ".", ".", ".", ".", "4"] and written(even).count(".") == 32
    assert written(when.behind(torch.arange(32.0), frames))[-8:] == ["0", "4", "8", "12", "16", "20", "24", "28"]


def test_the_budget_is_kept_and_spent_on_the_largest_steps(when):
    steps = torch.tensor([1.0] * 20 + [5.0] * 11)
    made = when.tokens(torch.cat([torch.zeros(1), steps.cumsum(0)]), torch.arange(76.0))
    told = [text for text in written(made) if text != "."]
    assert sum(map(len, told)) <= TIME_PLACES < sum(map(len, told)) + 2
    assert {"0", "25", "30", "75"} <= set(told)


def test_a_video_token_begins_when_what_it_is_made_of_begins():
    """One object comes at the fifth frame of eight and stays: its tokens are from then, not from its middle."""
    torch.manual_seed(0)
    tokenizer = LinearVideoTokenizer(16, num_video_tokens=8, num_kept_tokens=32, bottleneck_size=8, num_heads=2)
    tokens = torch.randn(1, 1, 4, 16).repeat(1, 8, 1, 1)
    tokens[:, 4:] = torch.randn(1, 1, 4, 16)
    weights = tokenizer(tokens, timestamps=torch.arange(8.0)[None] * 2).weights
    found = first_frames(weights)[weights.used].tolist()
    earlier = len(found) // 2
    assert sorted(found) == [0] * earlier + [4] * (len(found) - earlier)


def test_the_base_hardly_tells_one_digit_from_another(when):
    model = when.WhenModel("tokens", seed=1, with_digits=True)
    digits = torch.nn.functional.normalize(model.table[model.digits].detach(), dim=1)
    assert float((digits @ digits.T).min()) > 0.95


def test_a_model_learns_to_copy_the_time_of_what_it_is_asked_about(when):
    """A few steps on few clips: the loss falls, digits get rows of their own, LinVT and the base stay as they were."""
    from recipe_data import encode_clips, the_encoder

    seeds = range(1000, 1002)
    clips = {
        kind: when.EncodedClips(**encode_clips(the_encoder(), kind, seeds, 8, "clip_train")) for kind in when.KINDS
    }
    model = when.WhenModel("tokens", seed=1, with_digits=True)
    asked = model.condensed(when.Asked(clips))
    answers, gaps = [when._digits(one.row[3]) for one in asked], [1.0] * len(asked)

    def loss() -> float:
        with torch.no_grad():
            logits, wanted, cost = model.logits_of(asked, answers, gaps)
        assert max(cost) <= TIME_PLACES
        return float(torch.nn.functional.cross_entropy(logits, wanted[wanted != -100]))

    before, frozen = loss(), [one.clone() for one in model.linvt.parameters()]
    embedded = model.embed.weight.clone()
    model.train(asked, steps=12, seed=1, batch_size=8)
    assert loss() < before / 2
    assert bool(model.added.any()) and torch.equal(model.embed.weight, embedded)
    assert all(torch.equal(one, was) for one, was in zip(model.linvt.parameters(), frozen, strict=True))


def test_only_what_appears_is_asked_about(when):
    clips = {kind: when.EncodedClips(None, [shapes.script_clip(kind, 1000, 16)], []) for kind in when.KINDS}
    for kind, index, name, frame in when.Asked(clips).rows:
        pictures = clips[kind].scripts[index].pictures
        seen = [any((thing.colour, thing.shape) == name for thing in picture) for picture in pictures]
        assert seen.index(True) == frame and not all(seen)


def test_a_constant_is_right_about_what_begins_near_it(when):
    assert when.best_constant([0, 4, 9, 20], 4) == 50.0 and when.best_constant([3, 4, 5], 4) == 100.0


@pytest.mark.slow
def test_the_moment_of_an_answer_is_when_it_appears(when):
    clips = {
        kind: when.EncodedClips(None, [shapes.script_clip(kind, 1000 + i, when.EVALUATED) for i in range(5)], [])
        for kind in when.KINDS
    }
    asked = when.Asked(clips)
    model = LinVTForVideoQA.from_pretrained(embedded_model_path()).eval()
    told = when.report("evidence", asked, when.guesses_of_evidence(asked, "clip", model), [])
    assert told["within a segment"] >= 90 and told["tokens of times"] == 0
