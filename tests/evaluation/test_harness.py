"""
lmms-eval with LinVT in it, on miniatures: it finds the model by name, runs every task, and the results have their n.

The exit status of lmms-eval says nothing (it is 0 after a crash), so results are read. Needs the extra `evaluation` in
an environment of its own: `make test-harness`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from miniature_benchmarks import make, write_miniature
from stock_benchmarks import STOCK, right_answer, rows_of, write_stock
from transformers_linvt import embedded_model_path
from transformers_linvt.demo.shapes import make_clip, write_clip
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


@pytest.mark.parametrize("name", STOCK)
def test_a_set_of_the_harness_runs_on_its_miniature(name, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = write_stock(name, tmp_path / "tasks", tmp_path / "home", Path(stock_file).parent)
    *_, metric, most = STOCK[name]

    def score(model):
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found = simple_evaluate(model=model, tasks=[f"linvt_mini_{name}"], task_manager=manager, bootstrap_iters=0)
        assert found["n-samples"][f"linvt_mini_{name}"]["effective"] == rows_of(name)
        return found["results"][f"linvt_mini_{name}"][f"{metric},none"]

    assert score(StockReader()) == most
    # one of four letters; half of yes and no, and of MME nothing more where a picture's two are not both right
    others = {"pope": ("yes", 1 / 2), "mme": ("yes", 1 / 4), "mlvu_dev": ("B", 2 / 7)}
    constant, chance = others.get(name, ("B", 1 / 4))
    assert score(StockReader(constant)) == pytest.approx(chance * most)
    model = LinVTChat(pretrained=embedded_model_path(), num_frames=4, device="cpu")
    assert 0 <= score(model) <= most  # it knows colours and no letters: that it is asked is what is tested here
