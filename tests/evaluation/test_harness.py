"""
lmms-eval with LinVT in it, on miniatures: it finds the model by name, runs every task, and the results have their n.

The exit status of lmms-eval says nothing (it is 0 after a crash), so results are read. Needs the extra `evaluation` in
an environment of its own: `make test-harness`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from judge_server import judge_server
from miniature_benchmarks import make, write_miniature
from stock_benchmarks import MVBENCH, STOCK, asked_of, right_answer, write_stock
from transformers_linvt import embedded_model_path
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation.benchmarks import BENCHMARKS


pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_eval.tasks import __file__ as stock_file

from transformers_linvt.evaluation.harness_models import LinVTChat, LinVTSimple


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ROWS = 4


class Reader(lmms):
    """Answers from the annotations (`constant=None`), or always the same."""

    is_simple = True

    def __init__(self, constant=None):
        super().__init__()
        self.constant = constant

    def generate_until(self, requests):
        answers = []
        for request in requests:
            _, _, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            assert all(Path(video).exists() for video in doc_to_visual(doc))
            answers.append(GenerationResult(doc["answer"] if self.constant is None else self.constant))
        return answers

    def loglikelihood(self, requests):
        raise AssertionError

    def generate_until_multi_round(self, requests):
        raise AssertionError


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The tasks of all sets, with real clips of a needle; the right answers are those of the clips."""
    folder = tmp_path_factory.mktemp("sets")
    for name in BENCHMARKS:
        annotations, videos = write_miniature(folder / name, name, ROWS)
        clips = [make_clip("needle", seed, 8) for seed in range(ROWS)]
        asked = [
            next((q, a) for q, a in questions if "colo" in q or "hich" in q or "hat" in q) for _, questions in clips
        ]
        for path, (frames, _) in zip(sorted(videos.iterdir()), clips, strict=True):
            path.unlink()
            write_clip(path if path.suffix == ".mp4" else path.with_suffix(".mp4"), frames)
        if name == "tgif_qa":
            heading, *lines = [line.split("\t") for line in annotations.read_text().splitlines()]
            rows = [[line[0], *pair, *line[3:]] for line, pair in zip(lines, asked, strict=True)]
            annotations.write_text("\n".join("\t".join(row) for row in [heading, *rows]) + "\n")
        else:
            rows = json.loads(annotations.read_text())
            for number, (row, (question, answer)) in enumerate(zip(rows, asked, strict=True)):
                row |= {"Question": question} if name == "videovista" else {"question": question, "answer": answer}
                if name == "videovista":
                    row["Answer_Choices"], row["Answer"] = (
                        [f"no {answer}", answer][:: (1, -1)[number % 2]],
                        (1, 0)[number % 2],
                    )
            annotations.write_text(json.dumps(rows))
        assert make(folder / name, name) == 0
    return folder


def run(model, tasks, name):
    manager = TaskManager(include_path=str(tasks / name / "tasks"), include_defaults=False)
    found = simple_evaluate(
        model=model, tasks=[f"linvt_{name}"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    assert found["n-samples"][f"linvt_{name}"]["effective"] == ROWS
    return found["results"][f"linvt_{name}"], found["samples"][f"linvt_{name}"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_who_knows_has_a_hundred_and_a_constant_has_chance(name, tasks):
    scores, _ = run(Reader(), tasks, name)
    assert (scores["exact_score,none"], scores["unparsed,none"]) == (100, 0)
    constant, _ = run(Reader("B"), tasks, name)
    assert constant["exact_score,none"] == (50 if name == "videovista" else 0)
    silent, _ = run(Reader(""), tasks, name)
    assert (silent["exact_score,none"], silent["unparsed,none"]) == (0, 100)


@pytest.mark.parametrize("kind", [LinVTChat, LinVTSimple])
def test_the_embedded_model_answers_and_reports_its_visual_tokens(kind, tasks):
    model = kind(pretrained=embedded_model_path(), num_frames=8, device="cpu")
    num_video_tokens = model.model.config.num_video_tokens  # the harness takes the model away when it is done
    scores, samples = run(model, tasks, "msvd_qa")
    assert scores["exact_score,none"] >= 75  # docs/results.md: 100 on needles
    counts = [count for sample in samples for count in sample["token_counts"]]
    assert {count["input_tokens"] for count in counts} == {num_video_tokens}


def test_frames_as_pictures_for_comparison(tasks):
    model = LinVTSimple(pretrained=embedded_model_path(), num_frames=3, arm="uniform", device="cpu")
    _, samples = run(model, tasks, "msrvtt_qa")
    assert {count["input_tokens"] for sample in samples for count in sample["token_counts"]} == {3 * 16}


def test_the_harness_finds_linvt_by_its_name():
    assert get_model("linvt") is LinVTChat
    assert get_model("linvt", force_simple=True) is LinVTSimple


@pytest.mark.slow
def test_one_command_writes_results_with_the_right_n(tasks, tmp_path):
    command = [sys.executable, "-m", "lmms_eval", "--model", "linvt", "--tasks", "linvt_tgif_qa", "--log_samples"]
    command += ["--model_args", f"pretrained={embedded_model_path()},num_frames=8", "--batch_size", "1"]
    command += ["--include_path", str(tasks / "tgif_qa" / "tasks"), "--output_path", str(tmp_path), "--device", "cpu"]
    subprocess.run(command, check=True, timeout=280)
    (path,) = tmp_path.rglob("*_results.json")
    results = json.loads(path.read_text())
    assert results["n-samples"]["linvt_tgif_qa"]["effective"] == ROWS
    assert results["results"]["linvt_tgif_qa"]["exact_score,none"] >= 75


class StockReader(Reader):
    """As [`Reader`], for the sets that lmms-eval has."""

    def generate_until(self, requests):
        answers = []
        for request in requests:
            _, _, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            for visual in doc_to_visual(doc):
                assert not isinstance(visual, str) or Path(visual).exists()
            answers.append(GenerationResult(right_answer(doc) if self.constant is None else self.constant))
        return answers


@pytest.fixture(scope="module")
def judge():
    """The address of a judge on this machine, in whose eyes two answers are the same if their words are."""

    def reply(asked):
        (right,) = re.findall(r"(?:Correct|Ground-Truth) Answer: (.*)", asked)
        (said,) = re.findall(r"(?:Predicted Answer|Model Prediction): (.*)", asked)
        is_right = right.strip().lower() == said.strip().lower()
        if "Ground-Truth" in asked:  # TempCompass
            return "Correct" if is_right else "Incorrect"
        return "{'pred': 'yes', 'score': 5}" if is_right else "{'pred': 'no', 'score': 0}"

    with judge_server(reply) as server:
        yield f"{server.address}/chat/completions"


@pytest.fixture
def stock(judge, tmp_path, monkeypatch):
    """What a model scores on some sets in miniature, in percent of the most, and how many questions it was asked."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OPENAI_API_URL", judge)
    monkeypatch.chdir(tmp_path)  # some scorers write a submission into the folder that they are run in

    def run(model, names, specific=None):
        for name in names:
            if not (tmp_path / "tasks" / name).exists():
                write_stock(name, tmp_path / "tasks", tmp_path / "home", Path(stock_file).parent)
        manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
        tasks = [f"linvt_mini_{name}" for name in names]
        found = simple_evaluate(model=model, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True)
        for name, task in zip(names, tasks, strict=True):
            assert found["n-samples"][task]["effective"] == asked_of(name)
        scores = [
            found["results"][f"linvt_mini_{one}"][f"{STOCK[one].metric},none"] / STOCK[one].most for one in names
        ]
        return 100 * sum(scores) / len(scores), found["samples"]

    run.home = tmp_path / "home"
    return run


SETS = {"mvbench": [f"mvbench_{name}" for name in MVBENCH]}
SETS |= {name: [name] for name in STOCK if name not in SETS["mvbench"]}


@pytest.mark.parametrize("name", SETS)
def test_a_set_of_the_harness_runs_on_its_miniature(name, stock):
    if name.startswith("longvideobench"):
        pytest.importorskip("decord")  # the harness reads its videos with it
    names = SETS[name]
    score, _ = stock(StockReader(), names)
    assert score == 100
    about = STOCK[names[0]]
    constant, _ = stock(StockReader(about.constant), names)
    assert constant == pytest.approx(100 * about.chance)
    model = LinVTChat(pretrained=embedded_model_path(), num_frames=4, device="cpu")
    score, samples = stock(model, names[:2])
    assert 0 <= score <= 100  # it knows colours and no letters: that it is asked is what is tested here
    if about.place:
        counts = [count["input_tokens"] for one in samples.values() for s in one for count in s["token_counts"]]
        assert set(counts) == {32} and len(counts) == sum(map(asked_of, names[:2]))


SRT = '1\n00:00:00,200 --> 00:00:00,400\n<font color="white" size=".72c">is it red ?</font>\n\n'


def write_subtitles(home, name):
    """Of every video but one that Video-MME has no file of; in the layout of each set."""
    folder = home / ("datasets/longvideobench/subtitles" if name.startswith("long") else "videomme/subtitle")
    folder.mkdir(parents=True)
    for number in range(1, STOCK[name].rows):
        if name == "longvideobench_val_v":
            entries = [{"timestamp": [100.2, 100.4], "text": "is it red ?"}, {"timestamp": [99.0, 99.5], "text": "no"}]
            entries = entries if number % 2 else [{"start": "00:01:40.2", "end": "00:01:40.4", "line": "is it red ?"}]
            (folder / f"clip{number}_en.json").write_text(json.dumps(entries))
        else:
            (folder / f"clip{number}.srt").write_text(SRT)
    if name == "longvideobench_val_v":
        (folder / "clip0_en.json").write_text("[]")
    return folder


@pytest.mark.parametrize("kind", [LinVTChat, LinVTSimple])
@pytest.mark.parametrize("arm", ["linvt", "uniform"])
@pytest.mark.parametrize("name", ["videomme_long", "longvideobench_val_v"])
def test_subtitles_are_written_as_the_product_writes_them(name, arm, kind, stock):
    if name.startswith("longvideobench"):
        pytest.importorskip("decord")
    folder = write_subtitles(stock.home, name)
    options = {"subtitles": str(folder), "max_subtitle_tokens": 40, "num_frames": 4, "arm": arm}
    model = kind(pretrained=embedded_model_path(), device="cpu", **options)
    prompts, template = [], model.processor.apply_chat_template
    model.processor.apply_chat_template = lambda *args, **how: prompts.append(template(*args, **how)) or prompts[-1]
    tokenizer = model.processor.tokenizer
    stock(model, [name])
    words = [tokenizer.decode(one["input_ids"][0]) for one in prompts]
    said = tokenizer.decode(tokenizer("0.2 s: is it red ?").input_ids)
    assert [said in one for one in words] == [False] + [True] * (asked_of(name) - 1)


def test_subtitles_that_are_nowhere_or_twice_are_refused(stock, tmp_path):
    options = {"pretrained": embedded_model_path(), "device": "cpu", "num_frames": 4}
    with pytest.raises(LinVTInputError, match="no such folder"):
        LinVTChat(subtitles=str(tmp_path / "nowhere"), **options)
    with pytest.raises(LinVTInputError, match="needs subtitles=FOLDER"):
        LinVTChat(max_subtitle_tokens=5, **options)
    (tmp_path / "empty").mkdir()
    model = LinVTChat(subtitles=str(tmp_path / "empty"), **options)
    with pytest.raises(LinVTInputError, match="nothing for 8 questions: none is named as clip7.mp4"):
        stock(model, ["videomme"])
    with pytest.raises(LinVTInputError, match="writes subtitles itself"):
        stock(LinVTChat(subtitles=str(tmp_path / "empty"), **options), ["videomme_w_subtitle"])
