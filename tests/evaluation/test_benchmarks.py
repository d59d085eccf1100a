"""
Published annotations become tasks, whichever layout they come in, and what is wrong with them is named by row.

The miniatures are made here in the layout of each set; `test_harness.py` runs the tasks where lmms-eval is installed.
"""

import json
import re
import socket
from pathlib import Path

import pytest

from judge_server import judge_server
from miniature_benchmarks import make, write_miniature
from stock_benchmarks import STOCK, asked_of
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation.benchmarks import BENCHMARKS, letter_of, percent, process_letter, process_open
from transformers_linvt.evaluation.judging import JudgeError, judge, predictions_of


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_set_as_it_is_published_becomes_a_task(name, tmp_path):
    write_miniature(tmp_path, name)
    assert make(tmp_path, name) == 0
    folder = tmp_path / "tasks" / f"linvt_{name}"
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and len({row["video"] for row in rows}) == 3
    assert {row["answer"] for row in rows} == {"B" if name == "videovista" else "red"}
    assert f"task: linvt_{name}\n" in (folder / f"linvt_{name}.yaml").read_text()


def test_questions_and_answers_in_two_files_are_joined_and_names_of_videos_looked_up(tmp_path):
    _, videos = write_miniature(tmp_path, "msvd_qa", rows=1)
    (videos / "clip_abc.avi").touch()
    (tmp_path / "test_qa.json").write_text(json.dumps([{"video_name": "vid9", "question_id": 5, "question": "Who?"}]))
    answers, mapping = tmp_path / "test_a.json", tmp_path / "youtube_mapping.txt"
    answers.write_text(json.dumps([{"question_id": 5, "answer": "man", "type": 1}]))
    mapping.write_text("clip_abc vid9\n")
    assert make(tmp_path, "msvd_qa", "--answers", answers, "--mapping", mapping) == 0
    (row,) = map(json.loads, (tmp_path / "tasks" / "linvt_msvd_qa" / "questions.jsonl").read_text().splitlines())
    assert row["answer"] == "man" and row["video"].endswith("clip_abc.avi")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1].pop("answer"), "row 1 has no field 'answer'"),
        (lambda rows: rows[2].update(video_id=5), "the video of row 2 is missing: no vid5 or 5"),
        (lambda rows: rows.clear(), "has no question"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_by_row(change, message, tmp_path, capsys):
    annotations, _ = write_miniature(tmp_path, "msvd_qa")
    rows = json.loads(annotations.read_text())
    change(rows)
    annotations.write_text(json.dumps(rows))
    assert make(tmp_path, "msvd_qa") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tasks" / "linvt_msvd_qa" / "questions.jsonl").exists()


def test_what_is_wrong_with_the_other_files_of_a_set_is_named(tmp_path, capsys):
    annotations, _ = write_miniature(tmp_path / "msvd", "msvd_qa")
    mapping = tmp_path / "youtube_mapping.txt"
    assert make(tmp_path / "msvd", "msvd_qa", "--mapping", mapping) == 1
    assert "youtube_mapping.txt cannot be read as a mapping" in capsys.readouterr().err
    mapping.write_text("clip_abc vid9\nclip_def\n")
    assert make(tmp_path / "msvd", "msvd_qa", "--mapping", mapping) == 1
    assert "row 1 is no pair" in capsys.readouterr().err
    annotations.write_text("{")
    assert make(tmp_path / "msvd", "msvd_qa") == 1
    assert "cannot be read as annotations" in capsys.readouterr().err
    table, _ = write_miniature(tmp_path / "tgif", "tgif_qa")
    heading, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join([heading, first, rest[0].replace("\tred\t", "\t\t") + "\tone too many", *rest[1:]]))
    assert make(tmp_path / "tgif", "tgif_qa") == 1
    assert "row 1 has no field 'answer'" in capsys.readouterr().err


@pytest.mark.parametrize("choices", ["['blue', 'red']", '["blue", "red"]', "blue or red", "3"])
def test_choices_are_a_list_in_whichever_way_it_is_written(choices, tmp_path, capsys):
    annotations, _ = write_miniature(tmp_path, "videovista")
    rows = json.loads(annotations.read_text())
    rows[1]["Answer_Choices"] = choices
    annotations.write_text(json.dumps(rows))
    is_list = choices.startswith("[")
    assert make(tmp_path, "videovista") == (0 if is_list else 1)
    if is_list:
        made = (tmp_path / "tasks" / "linvt_videovista" / "questions.jsonl").read_text().splitlines()
        assert "A. blue\nB. red\n" in json.loads(made[1])["question"]
    else:
        assert "the choices of row 1 are no list" in capsys.readouterr().err


VIDEO_SETS = ["MVBench", "NExT-QA", "EgoSchema", "TempCompass", "VideoVista", "Video-MME", "MLVU", "LongVideoBench"]
VIDEO_SETS += ["MSVD-QA", "MSRVTT-QA", "ActivityNet-QA", "TGIF-QA"]
PICTURE_SETS = ["MME", "MMBench", "POPE", "SEED", "ScienceQA"]


def test_every_set_of_the_docs_names_tasks_that_are_run_on_miniatures():
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    table = page.partition("| benchmark | `--tasks` |\n|---|---|\n")[2].partition("\n\n")[0]
    rows = dict(line.strip("| ").split(" | ", 1) for line in table.splitlines())
    assert list(rows) == [*VIDEO_SETS, *PICTURE_SETS]
    tried = {"mvbench", *STOCK, *(f"linvt_{name}" for name in BENCHMARKS)}
    named = {
        task for cell in rows.values() for part in re.findall(r"`([a-z0-9_,]+)`", cell) for task in part.split(",")
    }
    assert named <= tried
    assert len([name for name in STOCK if name.startswith("mvbench_")]) == 20
    # a constant has chance, and a reader 100: each miniature has more than one answer
    assert all(0 <= STOCK[name].chance < 1 and asked_of(name) >= 4 for name in named & set(STOCK))


def test_an_answer_without_a_word_is_wrong_and_counted():
    doc = {"answer": "two dogs", "num_choices": 4}
    assert process_open(doc, ["The 2 dogs."]) == {"exact_score": 1, "f1_score": 1, "unparsed": 0}
    assert process_open(doc, ["2 cats"]) == {"exact_score": 0, "f1_score": 0.5, "unparsed": 0}
    assert process_open(doc, [" "]) == {"exact_score": 0, "f1_score": 0, "unparsed": 1}
    assert process_letter({"answer": "A", "num_choices": 3}, ["A red ball"])["unparsed"] == 1
    assert percent([1, 0, 1, 1]) == 75


def test_a_letter_is_read_where_it_is_one():
    assert [letter_of(text, 3) for text in ("C", "b", "I think C because D is wrong", "A or B")] == [
        "C",
        None,
        "C",  # there is no D
        None,
    ]


@pytest.fixture
def judge_of_red():
    """A judge on this machine that says yes to "red"."""

    def reply(asked):
        return 'Verdict: {"pred": "yes", "score": 5}' if "Predicted answer: red" in asked else NO

    with judge_server(reply) as server:
        yield server


NO = 'Verdict: {"pred": "no", "score": 1}'


def samples(tmp_path, answers):
    log = tmp_path / "samples.jsonl"
    doc = {"question": "What colour?", "answer": "red"}
    lines = [json.dumps({"doc": {**doc, "id": n}, "filtered_resps": [text]}) for n, text in enumerate(answers)]
    log.write_text("\n".join(lines) + "\n")
    return predictions_of(log, tmp_path / "predictions.jsonl")


def test_a_judge_that_goes_away_costs_only_what_is_still_open(judge_of_red, tmp_path):
    predictions, verdicts = samples(tmp_path, ["red", "blue", "", "red"]), tmp_path / "verdicts.jsonl"
    judge_of_red.answers_left = 2
    with pytest.raises(JudgeError, match="did not answer.*503"):
        judge(predictions, verdicts, judge_of_red.address, "some-judge")
    judge_of_red.answers_left, before = 100, len(judge_of_red.asked)
    found = judge(predictions, verdicts, judge_of_red.address, "some-judge")
    assert len(judge_of_red.asked) == before + 1  # the empty one is wrong without being judged
    assert found == {"judge": "some-judge", "asked": 4, "accuracy": 50, "score": 2.75, "empty": 1, "unjudged": 0}


@pytest.mark.parametrize("address", ["{closed}", "localhost/v1", "ftp://127.0.0.1:1/v1", "", "http://["])
def test_a_judge_that_was_never_there_is_an_error_in_words(address, judge_of_red, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = address.format(closed=f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
    predictions = samples(tmp_path, ["red"])
    with pytest.raises(JudgeError, match="'some-judge' at .* did not answer: .*call again to go on"):
        judge(predictions, tmp_path / "verdicts.jsonl", address, "some-judge")
    assert json.loads(predictions.read_text())["prediction"] == "red"


def test_a_judge_that_leaves_within_a_word_is_asked_again(judge_of_red, tmp_path):
    predictions, verdicts = samples(tmp_path, ["red", "red"]), tmp_path / "verdicts.jsonl"
    judge(samples(tmp_path, ["red"]), verdicts, judge_of_red.address, "some-judge")
    judge_of_red.cut = True
    with pytest.raises(JudgeError, match="did not answer: IncompleteRead"):
        judge(samples(tmp_path, ["red", "red"]), verdicts, judge_of_red.address, "some-judge")
    judge_of_red.cut, before = False, len(judge_of_red.asked)
    assert judge(predictions, verdicts, judge_of_red.address, "some-judge")["accuracy"] == 100
    assert len(judge_of_red.asked) == before + 1


def test_a_judge_without_a_verdict_is_an_error_and_not_a_no(judge_of_red, tmp_path):
    judge_of_red.reply = lambda asked: '{"pred": "maybe", "score": 9}'
    with pytest.raises(JudgeError, match="gave no verdict"):
        judge(samples(tmp_path, ["red"]), tmp_path / "verdicts.jsonl", judge_of_red.address, "some-judge")


def test_one_reply_that_is_no_verdict_costs_its_own_question(judge_of_red, tmp_path):
    verdicts, url = tmp_path / "verdicts.jsonl", judge_of_red.address
    judge_of_red.reply = lambda asked: "{'pred': 'yes', 'score': 4.5}"  # as judges of this protocol write it
    judge(samples(tmp_path, ["red"]), verdicts, url, "some-judge")
    judge_of_red.reply = lambda asked: "I cannot say"
    found = judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")
    assert (found["accuracy"], found["score"], found["unjudged"]) == (100, 4.5, 1)
    judge_of_red.reply, before = lambda asked: NO, len(judge_of_red.asked)
    assert judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")["unjudged"] == 0
    assert len(judge_of_red.asked) == before + 1


def test_a_verdict_is_not_taken_for_another_prediction_with_the_same_id(judge_of_red, tmp_path):
    verdicts, url = tmp_path / "verdicts.jsonl", judge_of_red.address
    assert judge(samples(tmp_path, ["red", "red"]), verdicts, url, "some-judge")["accuracy"] == 100
    with verdicts.open("a") as file:
        file.write('{"id": "1", "jud')  # killed in the middle of a line
    assert judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")["accuracy"] == 50
    assert len(judge_of_red.asked) == 3
    assert judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")["accuracy"] == 50
    assert len(judge_of_red.asked) == 3


def test_files_that_are_not_there_are_named(tmp_path):
    nowhere, address = tmp_path / "nowhere" / "file.jsonl", "http://127.0.0.1:1/v1"
    with pytest.raises(LinVTInputError, match="nowhere/file.jsonl cannot be read"):
        judge(nowhere, tmp_path / "verdicts.jsonl", address, "some-judge")
    with pytest.raises(LinVTInputError, match="nowhere/file.jsonl cannot be read"):
        predictions_of(nowhere, tmp_path / "predictions.jsonl")
    with pytest.raises(LinVTInputError, match="folder .*nowhere for verdicts does not exist"):
        judge(samples(tmp_path, ["red"]), nowhere, address, "some-judge")


def test_two_predictions_with_one_id_are_refused(tmp_path):
    predictions = samples(tmp_path, ["red"])
    predictions.write_text(predictions.read_text() * 2)
    with pytest.raises(LinVTInputError, match="rows 0 and 1 have the same id '0'"):
        judge(predictions, tmp_path / "verdicts.jsonl", "http://127.0.0.1:1/v1", "some-judge")


@pytest.mark.parametrize(("doc", "name"), [({"id": 5}, "5"), ({"question_id": "v_1_0"}, "v_1_0"), ({}, "17")])
def test_predictions_are_called_as_their_set_calls_them(tmp_path, doc, name):
    entry = {"doc_id": 17, "doc": {**doc, "question": "What?", "answer": "red"}, "filtered_resps": ["red"]}
    (tmp_path / "log.jsonl").write_text(json.dumps(entry) + "\n")
    (row,) = map(json.loads, predictions_of(tmp_path / "log.jsonl", tmp_path / "out.jsonl").read_text().splitlines())
    assert row == {"id": name, "question": "What?", "answer": "red", "prediction": "red"}


def test_a_log_without_answers_is_refused_by_row(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"doc": {"id": 1}}\n')
    with pytest.raises(LinVTInputError, match="row 0 has no 'filtered_resps'"):
        predictions_of(tmp_path / "log.jsonl", tmp_path / "out.jsonl")
