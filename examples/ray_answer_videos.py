# /// script
# dependencies = ["transformers-linvt", "ray[data]"]
# ///
"""
The questions of a file, answered by a Ray cluster: what `linvt run` does, where machines come and go.

    python examples/ray_answer_videos.py INPUT.jsonl OUTPUT.jsonl --workers 2
    python examples/ray_answer_videos.py INPUT.jsonl OUTPUT.jsonl --workers 8 --gpus-per-worker 1 --model CHECKPOINT

Each line of INPUT.jsonl is a row, `{"id": ..., "video": ..., "question": ...}`, with sampling arguments as the
pipeline takes them; videos have to be where every worker can read them. A worker that dies is started again, and its
rows are answered by it or by another: none is lost and none is there twice. The output has the rows in the order of
the input, and is the file that `linvt run` writes.

`RAY_ADDRESS` names a running cluster; without it one is started here.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from transformers import pipeline

from transformers_linvt import embedded_model_path
from transformers_linvt.pipeline.answer_file import AnswerFile, Row, answer_units, lines_of_errors, read_rows


class Answers:
    """One worker: holds a model, answers units of rows."""

    def __init__(self, model: str, batch_size: int, how: dict[str, Any]) -> None:
        self.pipe = pipeline("video-question-answering", model=model)
        self.batch_size, self.how = batch_size, how

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """The lines of the output for a unit of the input; both travel as text, since rows differ in their keys."""
        unit = [Row(**row) for row in json.loads(item["unit"])]
        (lines,) = answer_units(self.pipe, [unit], self.batch_size, **self.how)
        return {"lines": b"".join(lines).decode()}


def answered(units: list[list[Row]], arguments: argparse.Namespace) -> Iterator[list[bytes]]:
    """Lines of the output, as they come."""
    how: dict[str, Any] = {"progress_bar": False}
    for name in ("num_frames", "max_new_tokens", "video_root"):
        if (value := getattr(arguments, name)) is not None:
            how[name] = value
    data = ray.data.from_items([{"unit": json.dumps([vars(row) for row in unit])} for unit in units])
    data = data.map(
        Answers,
        fn_constructor_args=(arguments.model, arguments.batch_size, how),
        num_gpus=arguments.gpus_per_worker or None,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
    )
    for item in data.iter_rows():
        yield [item["lines"].encode()]


def main() -> None:
    """Answer, and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--model", default=embedded_model_path())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus-per-worker", type=float, default=0)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-frames", type=int)
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--video-root", type=os.path.abspath, help="folder that relative paths of videos start from")
    arguments = parser.parse_args()
    rows = read_rows(arguments.input)
    settings = {name: value for name, value in vars(arguments).items() if name not in ("input", "output", "workers")}
    output = AnswerFile(Path(arguments.output).absolute(), rows, settings)
    units, silent = output.open_units(arguments.batch_size)
    output.append(0, [lines_of_errors(silent)])
    if units:
        ray.init(address=os.environ.get("RAY_ADDRESS") or None, log_to_driver=False)
        output.append(0, answered(units, arguments))
    errors = output.finish()
    print(f"{arguments.output}: {len(rows)} rows, {errors} with an error")


if __name__ == "__main__":
    main()
