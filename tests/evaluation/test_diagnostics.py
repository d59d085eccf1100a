"""Diagnostics: the same from the same seed, balanced, at any length, and what a policy lets through is all it gets."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from transformers_linvt.demo import shapes
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import DIAGNOSTICS, ceilings, constant_score, make_clips, policies_for, write_clips
from transformers_linvt.evaluation.diagnostics import PLACES, chance_of, options_of
from transformers_linvt.evaluation.limits import group_of
from transformers_linvt.video.reading import read_video


FRAMES, CLIPS = 12, 3
SCRIPTED = [name for name in DIAGNOSTICS if name not in ("drift", "camera")]  # those are filmed otherwise, no more


def by_group(clips):
    groups = defaultdict(list)
    for clip in clips:
        for question in clip.questions:
            groups[group_of(clip.variant, question)].append(question)
    return groups


@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_the_same_seed_gives_the_same_clips_and_another_does_not(name):
    first, again, other = (make_clips(name, CLIPS, FRAMES, seed) for seed in (0, 0, 1))
    assert first == again
    assert [clip.script for clip in first] != [clip.script for clip in other]
    assert all(np.array_equal(a.frames(16), b.frames(16)) for a, b in zip(first[:2], again[:2], strict=True))


@pytest.mark.parametrize("name", DIAGNOSTICS)
@pytest.mark.parametrize("num_frames", [8, 37])
def test_a_clip_has_as_many_frames_as_were_asked_for(name, num_frames):
    for clip in make_clips(name, 2, num_frames):
        assert clip.num_frames == (1 if name == "pictures" else num_frames)
        assert clip.frames(20).shape == (clip.num_frames, 20, 20, 3)


@pytest.mark.parametrize("name", SCRIPTED)
def test_a_constant_is_at_chance(name):
    """Of sixty, the most frequent answer is at most 4 more than its share; counts of one kind go from 0 to 3."""
    for (variant, subject, kind), questions in by_group(make_clips(name, 60, 16)).items():
        chance = np.mean([chance_of(question) for question in questions])
        slack = {"attribute_count": 14, "count": 10}.get(kind, 5)
        assert constant_score(questions) <= chance + slack, (variant, subject, kind, Counter(questions))


@pytest.mark.parametrize("name", SCRIPTED)
def test_words_of_questions_give_little_away_and_what_they_do_is_told(name):
    """Of the questions that training asks about existence, three quarters could be answered unseen."""
    for (variant, subject, kind), found in ceilings(
        name, 16, ("all",), 1500 if name in ("length", "pictures") else 400
    ).items():
        chance = {"existence": 50, "order": 50}.get(kind, 25)
        more = 10 * (kind == "attribute_count")  # few kinds are there three times
        assert found["question only"] <= chance + 13 + more, (variant, subject, kind)


@pytest.mark.parametrize("name", SCRIPTED)
def test_who_sees_everything_in_order_can_know_everything(name):
    for (variant, _, _), found in ceilings(name, 16, ("all",), 400).items():
        if variant != "shuffled":
            assert found["all"] == 100


def test_ceilings_are_those_of_ideal_readers_that_were_simulated_before():
    """Chance of an object being among K of T frames, and a guess for the rest; of four needles one or two kept."""
    needle = ceilings("needle", 32, ("middle frame", "uniform 8", "bag of frames"), 1500)["", "", "colour"]
    seen = np.mean([min(1, (1 + (length - 1) / 4) / 4) for length in (1, 2, 3, 4)])  # about one of eight segments
    assert needle["bag of frames"] == 100
    assert 25 + 75 * seen - 12 < needle["uniform 8"] < 100
    assert 25 < needle["middle frame"] < 40
    needles = ceilings("needles", 32, ("blind keep 1", "blind keep 2", "blind keep 4"), 1500)["", "", "colour"]
    # with one known, a guess among the three colours that are left where it was another: 1/4 + 3/4 * 1/3; and so on
    assert [round(needles[f"blind keep {n}"]) for n in (1, 2, 4)] == pytest.approx([50, 75, 100], abs=4)


@pytest.mark.parametrize(("name", "ceiling"), [("direction", 50), ("traverse", 50), ("order", 60), ("count", 45)])
def test_without_their_order_frames_do_not_tell_what_happened(name, ceiling):
    kind = {"order": "order", "count": "occurrences"}.get(name, "direction")
    found = ceilings(name, 16, ("bag of frames", "all"), 1000)
    assert found["", "", kind]["bag of frames"] <= ceiling + 3
    assert found["shuffled", "", kind]["all"] <= ceiling + 3


def test_backwards_every_answer_that_depends_on_order_is_another():
    for name in ("order", "traverse", "direction"):
        clips = make_clips(name, CLIPS, FRAMES)
        for clip in clips:
            if clip.variant == "backwards":
                forwards = next(one for one in clips if (one.number, one.variant) == (clip.number, ""))
                assert np.array_equal(clip.script.pictures, forwards.script.pictures[::-1]) or (
                    clip.script.pictures == forwards.script.pictures[::-1]
                )
                assert clip.questions[0].answer != forwards.questions[0].answer


def test_shuffled_frames_are_the_frames_of_the_clip():
    clip, shuffled = (
        next(one for one in make_clips("count", 1, FRAMES) if one.variant == variant) for variant in ("", "shuffled")
    )
    assert shuffled.order != clip.order and sorted(shuffled.order) == list(clip.order)
    assert np.array_equal(shuffled.frames(16), clip.frames(16)[list(shuffled.order)])


def test_light_drifts_and_the_camera_moves_while_nothing_else_does():
    still, drift, camera = (make_clips(name, 1, FRAMES)[0] for name in ("moment", "drift", "camera"))
    assert still.script == drift.script == camera.script
    frames = {clip.diagnostic: clip.frames().astype(float) for clip in (still, drift, camera)}
    change = {name: np.abs(one[-1] - one[0]).mean() for name, one in frames.items()}
    assert change["drift"] > 40 > 15 > change["moment"]
    steps = {name: [np.abs(a - b).mean() for a, b in zip(one, one[1:], strict=False)] for name, one in frames.items()}
    # what changes from frame to frame is the noise, of a moving camera the edges too
    assert np.median(steps["camera"]) > np.median(steps["moment"])


def test_the_needle_of_a_long_clip_is_where_its_question_says():
    clips = make_clips("length", 2, 41)
    assert len(clips) == 2 * len(PLACES)
    for clip in clips:
        (when,) = (time for time, picture in enumerate(clip.script.pictures) if picture)
        assert {question.subject for question in clip.questions} == {f"at {when / 40:.0%}"}


def test_clips_as_files_are_what_they_are_as_arrays(tmp_path):
    clips = [*make_clips("needle", 2, 8), *make_clips("pictures", 1, 1)[:1]]
    lines = [json.loads(line) for line in write_clips(tmp_path, clips).read_text().splitlines()]
    assert len(lines) == sum(len(clip.questions) for clip in clips)
    video = read_video(tmp_path / lines[0]["video"], num_frames=8)
    assert len(video.frames) == 8
    assert lines[-1]["image"].endswith(".png") and lines[0]["answer"] in lines[0]["options"]


def test_no_clip_is_one_that_training_or_a_figure_is_made_of():
    assert len({shapes.script_clip("needle", 5, 8, split) for split in shapes.CLIP_SPLITS}) == len(shapes.CLIP_SPLITS)
    assert all(clip.script != shapes.script_clip("needle", clip.number, 8) for clip in make_clips("needle", 3, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("needel", 1, 8), "Did you mean 'needle'"),
        (("needle", 0, 8), "num_clips=0"),
        (("traverse", 1, 3), "num_frames=3 is too few for 'traverse'"),
        (("needle", 1, 8, -1), "seed=-1"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, message):
    with pytest.raises(LinVTInputError, match=message):
        make_clips(*arguments)


def test_an_unknown_policy_is_refused():
    with pytest.raises(LinVTInputError, match="uniform -3"):
        ceilings("needle", 8, ("uniform -3",), 1)
    assert "uniform 5" in policies_for(5, 3)


def test_options_of_an_order_are_the_two_that_are_named():
    question = shapes.Question(
        "order", "Look at the image. Which was shown last: the red object or the blue object?", ""
    )
    assert options_of(question) == ("red", "blue")
