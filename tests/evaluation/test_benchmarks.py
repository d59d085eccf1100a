"""
Published annotations become tasks, whichever layout they come in, and what is wrong with them is named by row.

The miniatures are made here in the layout of each set; `test_harness.py` runs the tasks where lmms-eval is installed.
"""

import http.server
import json
import threading

import pytest

from miniature_benchmarks import make, write_miniature
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
def server():
    """A judge on this machine that says yes to "red", until it is told to be silent."""

    class Judge(http.server.BaseHTTPRequestHandler):
        asked, answers_left, words = 0, 100, '{"pred": "%s", "score": %d}'

        def do_POST(self):
            prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][0]["content"]
            type(self).asked += 1
            if self.asked > self.answers_left:
                self.send_error(503)
                return
            is_right = "Predicted answer: red" in prompt
            text = self.words if "%" not in self.words else self.words % (("yes", 5) if is_right else ("no", 1))
            body = json.dumps({"choices": [{"message": {"content": f"Verdict: {text}"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Nothing is to be printed."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", Judge
        running.shutdown()


def samples(tmp_path, answers):
    log = tmp_path / "samples.jsonl"
    doc = {"question": "What colour?", "answer": "red"}
    lines = [json.dumps({"doc": {**doc, "id": n}, "filtered_resps": [text]}) for n, text in enumerate(answers)]
    log.write_text("\n".join(lines) + "\n")
    return predictions_of(log, tmp_path / "predictions.jsonl")


def test_a_judge_that_goes_away_costs_only_what_is_still_open(server, tmp_path):
    url, behaviour = server
    predictions = samples(tmp_path, ["red", "blue", "", "red"])
    behaviour.answers_left = 2
    with pytest.raises(JudgeError, match="did not answer.*503"):
        judge(predictions, tmp_path / "verdicts.jsonl", url, "some-judge")
    behaviour.answers_left, before = 100, behaviour.asked
    found = judge(predictions, tmp_path / "verdicts.jsonl", url, "some-judge")
    assert behaviour.asked == before + 1  # the empty one is wrong without being judged
    assert found == {"judge": "some-judge", "asked": 4, "accuracy": 50, "score": 2.75, "empty": 1, "unjudged": 0}


def test_a_judge_without_a_verdict_is_an_error_and_not_a_no(server, tmp_path):
    url, behaviour = server
    behaviour.words = '{"pred": "maybe", "score": 9}'
    with pytest.raises(JudgeError, match="gave no verdict"):
        judge(samples(tmp_path, ["red"]), tmp_path / "verdicts.jsonl", url, "some-judge")


def test_one_reply_that_is_no_verdict_costs_its_own_question(server, tmp_path):
    url, behaviour = server
    predictions, verdicts = samples(tmp_path, ["red", "blue"]), tmp_path / "verdicts.jsonl"
    behaviour.words = "{'pred': 'yes', 'score': 4.5}"  # as judges of this protocol write it
    judge(samples(tmp_path, ["red"]), verdicts, url, "some-judge")
    behaviour.words = "I cannot say"
    found = judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")
    assert (found["accuracy"], found["score"], found["unjudged"]) == (100, 4.5, 1)
    behaviour.words, before = '{"pred": "no", "score": 0}', behaviour.asked
    assert judge(predictions, verdicts, url, "some-judge")["unjudged"] == 0
    assert behaviour.asked == before + 1


def test_a_verdict_is_not_taken_for_another_prediction_with_the_same_id(server, tmp_path):
    url, behaviour = server
    verdicts = tmp_path / "verdicts.jsonl"
    assert judge(samples(tmp_path, ["red", "red"]), verdicts, url, "some-judge")["accuracy"] == 100
    with verdicts.open("a") as file:
        file.write('{"id": "1", "jud')  # killed in the middle of a line
    assert judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")["accuracy"] == 50
    assert behaviour.asked == 3
    assert judge(samples(tmp_path, ["red", "blue"]), verdicts, url, "some-judge")["accuracy"] == 50
    assert behaviour.asked == 3


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
