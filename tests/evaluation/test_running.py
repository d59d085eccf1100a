"""
An evaluation: 100 for who knows, chance for a constant, the same JSON after a kill, and no comparison of what differs.

Who knows is a table of right answers by pixels and question; the embedded model answers in the last tests.
"""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from transformers_linvt import LinVTProcessor, cli, embedded_base_path, embedded_model_path
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import (
    Answerer,
    EvaluationSettings,
    compare,
    comparison_card,
    differences_of,
    evaluate,
    make_clips,
    parse_answer,
    read_report,
    table_of_results,
    told_of,
)
from transformers_linvt.evaluation.answering import Reply, Shown
from transformers_linvt.evaluation.diagnostics import FRAMES_PER_SECOND


SETTINGS = EvaluationSettings(
    diagnostics=("pictures", "needle", "order", "moment", "length"),
    num_frames=(8,),
    lengths=(16,),
    num_clips=5,
    size=16,
    num_scripts=60,
)
WEAKER = 3  # of so many questions one is answered by the weaker reader of the comparison as if it knew nothing


class Table:
    """Answers by looking up pixels and question; what it gets wrong, and when it breaks down, is for a test to say."""

    batch_size, instruction, max_new_tokens, policy = 1, "", 16, None

    def __init__(self, constant=None, breaks_after=None, every=0):
        self.constant, self.left, self.every, self.asked = constant, breaks_after, every, 0
        self.known = {}
        for cell in SETTINGS.cells():
            for clip in make_clips(cell[0], SETTINGS.num_clips, cell[1]):
                frames = clip.frames(SETTINGS.size).tobytes()
                self.known |= {(frames, question.question): question.answer for question in clip.questions}

    def identity(self):
        return {"class": "Table", "arm": "linvt"}

    def answer(self, clips):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return [[Reply(self._one(clip, text), 7) for text in clip.questions] for clip in clips]

    def _one(self, clip, text):
        self.asked += 1
        if self.constant is not None:
            return self.constant
        return (
            "" if self.every and self.asked % self.every == 0 else f"It is {self.known[clip.frames.tobytes(), text]}."
        )


def test_who_knows_has_a_hundred_percent_and_a_constant_has_chance(tmp_path):
    knows = evaluate(Table(), SETTINGS, tmp_path / "knows.json")
    assert {one["percent"] for one in knows["results"]} == {100}
    assert {one["unparsed"] for one in knows["results"]} == {0}
    constant = evaluate(Table("yes"), SETTINGS, tmp_path / "constant.json")
    shares = {one["percent"] for one in constant["results"] if one["question"] == "existence"}
    assert max(shares) <= 60 and min(shares) >= 40
    others = [one for one in constant["results"] if one["question"] == "colour"]
    assert {(one["percent"], one["unparsed"]) for one in others} == {(0, one["asked"]) for one in others[:1]}


def test_beside_every_score_stand_baselines_ceilings_and_an_interval(tmp_path):
    report = evaluate(Table(), SETTINGS, tmp_path / "knows.json")
    for one in report["results"]:
        low, high = one["interval"]
        assert 0 <= low <= one["percent"] <= high <= 100
        assert {"chance", "constant"} <= set(one["baselines"])
        if one["variant"] != "with its reverse":
            assert {"question only", "middle frame", "uniform 8", "bag of frames", "all"} <= set(one["baselines"])
    pairs = [one for one in report["results"] if one["variant"] == "with its reverse"]
    assert [(one["question"], one["baselines"]["chance"]) for one in pairs] == [("order", 25)]
    assert len(table_of_results(report)) == 1 + len(report["results"])


def test_killed_and_started_again_it_ends_in_the_same_json(tmp_path):
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    evaluate(Table(every=3), SETTINGS, whole)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Table(breaks_after=3), SETTINGS, cut)
    assert not cut.exists()
    partial = tmp_path / "cut.json.partial.jsonl"
    with partial.open("a") as file:
        file.write('{"key": "order 8 0", "ro')  # killed in the middle of a line
    rest = Table()
    evaluate(rest, SETTINGS, cut)
    assert rest.asked < Table().asked + sum(1 for _ in json.loads(cut.read_text())["answers"])
    evaluate(Table(), SETTINGS, tmp_path / "again.json")
    assert cut.read_bytes() == (tmp_path / "again.json").read_bytes() != whole.read_bytes()
    assert not partial.exists()


def test_answers_to_other_settings_are_not_gone_on_with(tmp_path):
    output = tmp_path / "out.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(Table(breaks_after=2), SETTINGS, output)
    other = EvaluationSettings(**{**vars(SETTINGS), "seed": 4})
    with pytest.raises(LinVTInputError, match=r"settings seed=0, and now seed=4"):
        evaluate(Table(), other, output)
    evaluate(Table(), SETTINGS, output, restart=True)
    with pytest.raises(LinVTInputError, match="exists already"):
        evaluate(Table(), SETTINGS, output)


def test_two_evaluations_are_compared_question_by_question(tmp_path):
    knows = evaluate(Table(), SETTINGS, tmp_path / "knows.json")
    weaker = evaluate(Table(every=WEAKER), SETTINGS, tmp_path / "weaker.json")
    found = compare(read_report(tmp_path / "weaker.json"), read_report(tmp_path / "knows.json"))
    wrong = sum(not row[-1] for row in weaker["answers"])
    overall = [one for cell, one in found.items() if cell[-1] == "all"]
    assert sum(one.only_second for one in overall) == wrong > 0
    assert all(one.low <= one.points <= one.high for one in found.values())
    assert compare(knows, knows)["needle", 8, "", "", "all"].points == 0


def test_a_card_says_who_was_compared_and_counts_clips_that_are_right_both_ways(tmp_path):
    knows = evaluate(Table(), SETTINGS, tmp_path / "knows.json", "one that knows")
    weaker = evaluate(Table(every=WEAKER), SETTINGS, tmp_path / "weaker.json", "a weaker one")
    card = comparison_card(weaker, {**knows, "versions": {**knows["versions"], "torch": "9.9"}})
    found = differences_of(json.loads(json.dumps(card)))
    assert found == compare(weaker, knows)
    both = found["order", 8, "with its reverse", "", "order"]
    right = {}
    for diagnostic, _, number, variant, _, kind, *_, is_right in weaker["answers"]:
        if diagnostic == kind == "order" and variant in ("", "backwards"):
            right.setdefault(number, []).append(is_right)
    assert both.asked == len(right) == 5 and {len(of_clip) for of_clip in right.values()} == {2}
    assert both.first == pytest.approx(100 * np.mean([all(of_clip) for of_clip in right.values()]))
    assert both.second == 100
    variants = [cell[2] for cell in found if cell[0] == "order"]
    assert list(dict.fromkeys(variants)) == ["", "backwards", "with its reverse", "shuffled"]
    told = told_of(card).splitlines()
    assert told[0].startswith("first:  a weaker one (Table, arm linvt), 7 visual tokens a question, ")
    unparsed = sum(row[7] == "" for row in weaker["answers"])
    assert told[0].endswith(f"{unparsed} of {len(weaker['answers'])} unparsed")
    assert told[2] == "asked:  5 clips of each kind and length, seed 0, 16 pixels"
    assert told[3] == f"The two were made with different versions: torch {knows['versions']['torch']} and 9.9."


def test_what_was_answered_the_same_way_before_is_not_asked_again(tmp_path):
    output, again = tmp_path / "knows.json", Table()
    report = evaluate(Table(), SETTINGS, output)
    assert evaluate(again, SETTINGS, output, reuse=True) == report and again.asked == 0
    with pytest.raises(LinVTInputError, match="given with settings num_scripts=60, and now num_scripts=70"):
        evaluate(again, EvaluationSettings(**{**vars(SETTINGS), "num_scripts": 70}), output, reuse=True)


def test_evaluations_with_different_settings_are_not_compared(tmp_path):
    one = evaluate(Table(), SETTINGS, tmp_path / "one.json")
    other = {**one, "settings": {**one["settings"], "seed": 9, "size": 64}}
    with pytest.raises(LinVTInputError, match="seed: 0 and 9; size: 16 and 64"):
        compare(one, other)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_what_is_no_evaluation_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(LinVTInputError, match="other.json"):
        read_report(path)


@pytest.mark.parametrize(
    ("text", "options", "meant"),
    [
        ("Red.", ("red", "blue"), "red"),
        ("It is 3", ("two", "three"), "three"),
        ("on the upper-right", ("top left", "top right"), "top right"),
        ("", ("red", "blue"), None),
        ("neither red nor blue", ("red", "blue"), None),
        ("scarred", ("red", "blue"), None),
        ("No, there is none.", ("yes", "no"), "no"),
    ],
)
def test_an_answer_is_what_it_names_and_nothing_if_it_names_two(text, options, meant):
    assert parse_answer(text, options) == meant


@pytest.fixture(scope="module")
def answerer():
    return Answerer.from_pretrained(embedded_model_path(), batch_size=7)


def shown(name, num_frames, count=2):
    clips = [one for one in make_clips(name, count, num_frames) if not one.variant]
    return clips, [Shown(clip.frames(), [question.question for question in clip.questions]) for clip in clips]


def test_the_embedded_model_sees_a_needle_and_a_blind_one_does_not(answerer):
    clips, given = shown("needle", 16)
    replies = answerer.answer(given)
    right = [
        parse_answer(reply.text, (question.answer,)) == question.answer
        for clip, of_clip in zip(clips, replies, strict=True)
        for question, reply in zip(clip.questions, of_clip, strict=True)
    ]
    assert np.mean(right) >= 0.8  # docs/results.md: 100
    assert {reply.visual_tokens for of_clip in replies for reply in of_clip} == {
        answerer.model.config.num_video_tokens
    }
    blind = Answerer(answerer.model, answerer.processor, arm="text", batch_size=7)
    assert {reply.visual_tokens for of_clip in blind.answer(given) for reply in of_clip} == {0}


def test_answers_do_not_depend_on_the_size_of_a_batch(answerer):
    _, given = shown("needles", 9)
    one_by_one = Answerer(answerer.model, answerer.processor, batch_size=1)
    assert one_by_one.answer(given) == answerer.answer(given)


def test_a_processor_that_writes_times_is_asked_with_them(answerer, monkeypatch):
    timed = LinVTProcessor.from_pretrained(embedded_model_path(), add_timestamps=True)
    one, prompts, generate = Answerer(answerer.model, timed, batch_size=1), [], answerer.model.generate
    monkeypatch.setattr(
        answerer.model, "generate", lambda **given: prompts.append(given["input_ids"]) or generate(**given)
    )
    given = [Shown(shown("needle", count, 1)[1][0].frames, ["What colour is it?"]) for count in (6, 9)]
    one.answer(given)
    for prompt, count in zip(prompts, (6, 9), strict=True):
        seconds = [frame / FRAMES_PER_SECOND for frame in range(count)]
        assert torch.equal(prompt, timed.question_inputs(["What colour is it?"], seconds)["input_ids"])
    assert prompts[0].shape[1] < prompts[1].shape[1]
    together = Answerer(answerer.model, timed, batch_size=7)
    assert together.answer(given) == one.answer(given)
    assert one.identity() == answerer.identity() | {"add_timestamps": True}


def test_a_bare_base_is_shown_pictures():
    base = Answerer.from_pretrained(embedded_base_path(), num_uniform=3)
    clips, given = shown("needle", 6, count=1)
    assert base.arm == "uniform" and base.policy == "uniform 3"
    tokens = {
        arm: Answerer(base.model, base.processor, arm, num_uniform=3).answer(given)[0][0].visual_tokens
        for arm in ("middle", "uniform", "all", "text")
    }
    assert tokens == {"middle": 16, "uniform": 48, "all": 96, "text": 0}
    with pytest.raises(LinVTInputError, match="arm='linvt' needs a LinVT, not a LlavaForConditionalGeneration"):
        Answerer(base.model, base.processor, arm="linvt")


def test_the_command_asks_writes_and_compares(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--diagnostics", "needle", "--frames", "8", "--clips", "2"]
    assert cli.main(["eval", *asked, "--output", "a.json"]) == 0
    assert "needle" in capsys.readouterr().out
    report = read_report("a.json")
    assert report["model"]["name"] == "embedded" and report["versions"]["torch"]
    assert cli.main(["eval", *asked, "--output", "b.json", "--arm", "text"]) == 0
    assert cli.main(["eval", "--compare", "a.json", "b.json", "--output", "card.json"]) == 0
    printed = capsys.readouterr().out
    assert "arm text), 0 visual tokens" in printed and "needle with" not in printed
    assert len(json.loads((tmp_path / "card.json").read_text())["differences"]) == 5
    for refused, why in (
        (("a.json", "a.json"), "was given a.json twice"),
        (("a.json", "b.json", "--frames", "8"), "--frames says what is asked"),
        (("a.json", "b.json", "--output", "card.json"), "card.json exists already"),
        (("a.json", "c.json"), "c.json cannot be read as an evaluation"),
    ):
        assert cli.main(["eval", "--compare", *refused]) == 1
        assert why in capsys.readouterr().err
    assert cli.main(["eval", *asked, "--output", "a.json"]) == 1
    assert "a.json exists already" in capsys.readouterr().err
    assert cli.main(["eval", "--diagnostics", "needel", "--output", "c.json"]) == 1
    assert "Did you mean 'needle'" in capsys.readouterr().err
    assert cli.main(["eval", "--diagnostics", "pictures", "--clips", "1", "--write-clips", "clips"]) == 0
    assert len(list((tmp_path / "clips").glob("*.png"))) == 6


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self):
        return True


def test_at_a_terminal_a_bar_says_what_is_asked_and_an_interrupt_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--diagnostics", "needle", "order", "--frames", "4", "--clips", "9"]
    answer, asked = Answerer.answer, []

    def interrupted(self, clips):
        asked.append(len(clips))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer(self, clips)

    monkeypatch.setattr(Answerer, "answer", interrupted)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert cli.main(command) == 130
    shown = sys.stderr.getvalue()
    assert "needle, 4 frames" in shown and "/36" in shown  # 9 and three times 9 clips
    assert "the same command goes on where it was" in shown and not (tmp_path / "evaluation.json").exists()
    assert cli.main(command) == 0
    assert sum(asked) == 36 + 8  # the eight that were being asked about are asked again
    assert read_report("evaluation.json")["results"]


def test_two_checkpoints_of_one_name_are_asked_once_each(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("before", "after"):
        shutil.copytree(embedded_model_path(), tmp_path / run / "stage_2")
        shutil.copytree(embedded_base_path(), tmp_path / run / Path(embedded_base_path()).name)  # which it names
    command = ["eval", "--compare", "before/stage_2", "after/stage_2", "--diagnostics", "needle"]
    command += ["--frames", "4", "--clips", "1"]
    assert cli.main(command) == 0
    assert {path.name for path in tmp_path.glob("*.json")} == {"before-stage_2.json", "after-stage_2.json"}
    capsys.readouterr()
    monkeypatch.setattr(Answerer, "answer", lambda *_: pytest.fail("asked again"))
    assert cli.main(command) == 0
    assert "+0.0" in capsys.readouterr().out
