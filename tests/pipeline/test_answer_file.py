"""
`linvt run`: every row of the input is in the output once, whatever was killed in between and however many processes
shared the work, and what one row does wrong costs no other row its answer.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from transformers_linvt import LinVTInputError
from transformers_linvt.cli import main
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.pipeline.answer_file import answer_file, read_rows, share_of


class Clock:
    """In place of a pipeline: answers with the question and the size of its batch, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.asked = seconds, 0

    def __call__(self, inputs: Any, batch_size: int, **how: Any) -> Iterator[list[dict[str, Any]]]:
        inputs = iter(inputs)
        while batch := list(itertools.islice(inputs, batch_size)):
            time.sleep(self.seconds)
            for one in batch:
                self.asked += 1
                questions = one["question"] if isinstance(one["question"], list) else [one["question"]]
                yield [
                    {"answer": f"{each} {[two['question'] for two in batch]}", "frames_seen": 3} for each in questions
                ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path, [{"id": f"q{i}", "video": f"{i // 3}.mp4", "question": f"What is {i}?"} for i in range(23)])


def write(folder: Path, rows: list[Any]) -> Path:
    path = folder / "input.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(source: Path, target: Path, pipe: Any = None, **options: Any) -> tuple[int, int]:
    pipe = Clock() if pipe is None else pipe
    return answer_file(lambda: pipe, source, target, {"model": "clock"}, **{"batch_size": 2, **options})


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- every row once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 2, 3, 40])
def test_shared_work_gives_the_file_of_one_process(source: Path, tmp_path: Path, num_processes: int):
    assert answer(source, tmp_path / "alone.jsonl") == (23, 0)
    rows = read(tmp_path / "alone.jsonl")
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(23)]
    assert rows[4]["video"] == "1.mp4" and rows[4]["answer"] == "What is 4? ['What is 4?', 'What is 5?']"
    assert files_of(tmp_path) == {"input.jsonl", "alone.jsonl"}
    together = threading.Barrier(num_processes)
    threads = [
        threading.Thread(
            target=answer,
            args=(source, tmp_path / "shared.jsonl"),
            kwargs={"process": process, "num_processes": num_processes, "wait": lambda: together.wait(60)},
        )
        for process in range(num_processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert files_of(tmp_path) == {"input.jsonl", "alone.jsonl", "shared.jsonl"}


def test_a_process_that_never_came_leaves_a_run_that_goes_on(source: Path, tmp_path: Path):
    answer(source, tmp_path / "alone.jsonl")
    with pytest.raises(LinVTInputError, match="11 of 23 rows are not answered.*Run the same command again"):
        answer(source, tmp_path / "shared.jsonl", process=0, num_processes=2)
    assert not (tmp_path / "shared.jsonl").exists()
    answer(source, tmp_path / "shared.jsonl")
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_shares_are_neighbours_and_all_there_is():
    for count in (0, 1, 7, 23):
        for processes in (1, 2, 5):
            shares = [share_of(range(count), process, processes) for process in range(processes)]
            assert [one for share in shares for one in share] == list(range(count))


def test_kill_9_loses_no_row_and_doubles_none(source: Path, tmp_path: Path):
    answer(source, tmp_path / "whole.jsonl")
    target, part, dice, kills = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.part-0", random.Random(0), 0
    while not target.exists():
        before = part.stat().st_size if part.exists() else 0
        child = os.fork()
        if not child:
            try:
                answer(source, target, Clock(seconds=0.01))
            finally:
                os._exit(0)
        while not target.exists() and (not part.exists() or part.stat().st_size <= before):
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.03))  # anywhere in the rows that follow
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if part.exists() and dice.random() < 0.5:  # what a kill in the midst of a write leaves
            with part.open("ab") as file:
                file.write(b'{"id": "q2", "ans')
        assert kills < 30
    assert kills > 2
    answer(source, target)  # the last kill may have come before the parts were put away
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert files_of(tmp_path) == {"input.jsonl", "whole.jsonl", "killed.jsonl"}


def test_a_batch_of_which_a_row_is_missing_is_answered_as_it_was(source: Path, tmp_path: Path):
    """Alone in its batch a row may be rounded otherwise."""
    answer(source, tmp_path / "whole.jsonl", batch_size=4)

    class Dies(Clock):
        def __call__(self, inputs: Any, batch_size: int, **how: Any) -> Iterator[Any]:
            for number, one in enumerate(super().__call__(inputs, batch_size, **how)):
                if number == 9:
                    raise KeyboardInterrupt
                yield one

    with pytest.raises(KeyboardInterrupt):
        answer(source, tmp_path / "out.jsonl", Dies(), batch_size=4)
    with (tmp_path / "out.jsonl.part-0").open("ab") as file:  # a part that ends within a batch
        file.write((tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)[8])
    pipe = Clock()
    answer(source, tmp_path / "out.jsonl", pipe, batch_size=4)
    assert pipe.asked == 23 - 8
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_done_is_not_done_again_and_new_rows_are(source: Path, tmp_path: Path):
    answer(source, tmp_path / "out.jsonl")
    pipe = Clock()
    answer(source, tmp_path / "out.jsonl", pipe)
    assert pipe.asked == 0
    with source.open("a") as file:
        file.write(json.dumps({"id": 99, "video": "a.mp4", "question": "New?"}) + "\n")
    answer(source, tmp_path / "out.jsonl", pipe)
    assert pipe.asked == 2  # with the last of before, whose batch it is
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == [*(f"q{i}" for i in range(23)), 99]


def test_rows_with_an_error_are_tried_again_where_that_is_asked_for(source: Path, tmp_path: Path):
    class Fails(Clock):
        def __call__(self, inputs: Any, batch_size: int, **how: Any) -> Iterator[Any]:
            for (one,) in super().__call__(inputs, batch_size, **how):
                yield [{"answer": None, "error": "no such file"}] if "What is 5?" in one["answer"][:11] else [one]

    assert answer(source, tmp_path / "out.jsonl", Fails()) == (23, 1)
    assert answer(source, tmp_path / "out.jsonl") == (23, 1)
    pipe = Clock()
    assert answer(source, tmp_path / "out.jsonl", pipe, retries_errors=True) == (23, 0)
    assert pipe.asked == 2
    assert answer(source, tmp_path / "again.jsonl", Fails(), retries_errors=True) == (23, 1)


# --- rows that are none ----------------------------------------------------------------------------------------------


def test_bad_rows_have_an_error_and_cost_no_other_row(tmp_path: Path):
    source = write(
        tmp_path,
        [
            {"video": "a.mp4", "question": "One?"},
            '{"video": "a.mp4", "question": ',
            "[1, 2]",
            "",
            {"id": 1.5, "video": "a.mp4", "question": "Two?"},
            {"video": "a.mp4", "question": ["Three?", "Four?"]},
            {"video": "a.mp4", "question": "\ud800?"},
        ],
    )
    assert answer(source, tmp_path / "out.jsonl") == (6, 3)
    rows = read(tmp_path / "out.jsonl")
    assert [row["id"] for row in rows] == [1, 2, 3, 5, 6, 7]
    assert [row.get("error", "")[:22] for row in rows] == [
        "",
        "Line 2 is no JSON: Exp",
        "Line 3 is no row, but ",
        "The id of line 5 is 1.",
        "",
        "",
    ]
    assert len(rows[4]["answer"]) == 2 and rows[0]["frames_seen"] == 3
    assert answer(source, tmp_path / "out.jsonl") == (6, 3)


def test_what_cannot_be_a_run_is_refused(source: Path, tmp_path: Path):
    with pytest.raises(LinVTInputError, match="cannot be read"):
        read_rows(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(LinVTInputError, match="has no row"):
        read_rows(tmp_path / "empty.jsonl")
    with pytest.raises(LinVTInputError, match="folder .* does not exist"):
        answer(source, tmp_path / "missing" / "out.jsonl")
    twice = write(tmp_path / ".", [{"id": 1, "video": "a.mp4", "question": "One?"}] * 2)
    with pytest.raises(LinVTInputError, match="Lines 1 and 2 .* same id 1"):
        read_rows(twice)


def test_an_output_of_another_run_is_refused(source: Path, tmp_path: Path):
    (tmp_path / "out.jsonl").write_text("some text\n")
    with pytest.raises(LinVTInputError, match="holds something else"):
        answer(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").write_text(json.dumps({"id": "q0", "video": "0.mp4", "question": "Another?"}) + "\n")
    with pytest.raises(LinVTInputError, match="not one of this input"):
        answer(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl").unlink()
    (tmp_path / "out.jsonl.part-0").write_text(json.dumps({"linvt_run": {"model": "clock", "batch_size": 3}}) + "\n")
    with pytest.raises(LinVTInputError, match="begun with batch_size=3, now it is batch_size=2"):
        answer(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.part-0").write_text("{}\n")
    with pytest.raises(LinVTInputError, match="is no part of a run"):
        answer(source, tmp_path / "out.jsonl")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_two_processes_of_accelerate_write_what_the_command_alone_writes(tmp_path: Path, capsys: Any):
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        frames, questions = make_clip("static", seed, num_frames=4)
        write_clip(tmp_path / f"{seed}.mp4", frames)
        rows += [{"video": f"{seed}.mp4", "question": question} for question, _ in questions[:2]]
    rows.insert(2, {"video": "missing.mp4", "question": "Where?", "id": "lost"})
    rows[-1]["num_frames"] = 2
    source = write(tmp_path, rows)
    arguments = ["--video-root", str(tmp_path), "--device", "cpu", "--num-frames", "3"]
    assert main(["run", str(source), str(tmp_path / "alone.jsonl"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert out.endswith("alone.jsonl: 7 rows, 1 with an error\n") and "--retry-errors" in err
    found = read(tmp_path / "alone.jsonl")
    assert [row["frames_seen"] for row in found] == [3, 3, 0, 3, 3, 3, 2]
    assert [row["answer"] is None for row in found] == [False, False, True, False, False, False, False]
    assert "missing.mp4" in found[2]["error"]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "transformers_linvt.cli"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "run", str(source), str(tmp_path / "shared.jsonl"), *arguments],
        capture_output=True, text=True, env=env, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert list(tmp_path.glob("*.part-*")) == []
