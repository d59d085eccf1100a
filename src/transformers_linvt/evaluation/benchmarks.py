"""
Public benchmarks that lmms-eval lacks, made tasks of it from the files in which they are published.

    python -m transformers_linvt.evaluation.benchmarks msvd_qa --annotations test_qa.json --videos DIR --output tasks

writes `tasks/linvt_msvd_qa/` with the questions as lines of JSON and a task for
`lmms-eval --include_path tasks --tasks linvt_msvd_qa`. Open answers are scored by exact match and token F1, which need
no judge; letters by the letter. Nothing is downloaded.
"""

import argparse
import ast
import csv
import json
import os
import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..demo.questions import NUMBERS
from ..errors import LinVTError, LinVTInputError, unknown_argument
from ..files import replacing


_ARTICLES = ("a", "an", "the")
_DIGITS = {word: str(number) for number, word in enumerate((*NUMBERS, "five", "six", "seven", "eight", "nine", "ten"))}
_VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")
_TEMPLATE = """\
# made by transformers_linvt.evaluation.benchmarks
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions.jsonl
test_split: test
output_type: generate_until
cluster_key: video
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: answer
process_results: !function utils.process_{kind}
generation_kwargs:
  until: []
  max_new_tokens: {max_new_tokens}
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_score
    aggregation: !function utils.percent
    higher_is_better: true
  - metric: f1_score
    aggregation: !function utils.percent
    higher_is_better: true
  - metric: unparsed
    aggregation: !function utils.percent
    higher_is_better: false
metadata:
  version: 1.0
"""
_UTILS = '"""Made by transformers_linvt.evaluation.benchmarks."""\n\n'
_UTILS += "from transformers_linvt.evaluation.benchmarks import (\n"
_UTILS += "    doc_to_text,\n    doc_to_visual,\n    percent,\n    process_letter,\n    process_open,\n)\n"


@dataclass(frozen=True)
class Benchmark:
    """
    How a set is published, and how it is asked.

    Attributes:
        name (`str`), about (`str`).
        fields (`Mapping[str, tuple[str, ...]]`): our names and theirs, the first that a row has.
        kind (`str`): `"open"` or `"letter"`.
        tail (`str`): written behind every question.
        video_names (`Callable`): a row -> the names that its video may have, with or without ending.
    """

    name: str
    about: str
    fields: Mapping[str, tuple[str, ...]]
    kind: str
    tail: str
    video_names: Callable[[Mapping[str, Any]], Sequence[str]]


_OPEN_TAIL = "Answer the question using a single word or phrase."
_LETTER_TAIL = "Answer with the option's letter from the given choices directly."
_OPEN = {"question": ("question",), "answer": ("answer",), "id": ("id", "question_id", "vid_id")}
BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(
            "msvd_qa",
            "test_qa.json of MSVD-QA, or test_q.json with --answers test_a.json; videos named as in the annotations, "
            "or as in youtube_mapping.txt (--mapping)",
            {**_OPEN, "video": ("video_id", "video_name", "video")},
            "open",
            _OPEN_TAIL,
            lambda row: (f"vid{row['video']}", str(row["video"])),
        ),
        Benchmark(
            "msrvtt_qa",
            "test_qa.json of MSRVTT-QA, or test_q.json with --answers test_a.json; videos video7010.mp4 ...",
            {**_OPEN, "video": ("video_id", "video_name", "video")},
            "open",
            _OPEN_TAIL,
            lambda row: (f"video{row['video']}", str(row["video"])),
        ),
        Benchmark(
            "tgif_qa",
            "Test_frameqa_question.csv of TGIF-QA (tabs between columns), or test_q.json with --answers test_a.json; "
            "GIFs by their names",
            {**_OPEN, "video": ("gif_name", "video_name")},
            "open",
            _OPEN_TAIL,
            lambda row: (str(row["video"]),),
        ),
        Benchmark(
            "videovista",
            "VideoVista.json; videos by their names",
            {
                "question": ("Question", "question"),
                "answer": ("Answer", "answer"),
                "choices": ("Answer_Choices", "answer_choices", "options"),
                "id": ("video_part_name", "question_id", "id", "video_name"),
                "video": ("video_name", "video"),
            },
            "letter",
            _LETTER_TAIL,
            lambda row: (str(row["video"]),),
        ),
    )
}


# ---------------------------------------------------------------------------------------------------------------------
# From published files to a task
# ---------------------------------------------------------------------------------------------------------------------


def write_task(
    name: str,
    annotations: str | os.PathLike,
    videos: str | os.PathLike,
    output: str | os.PathLike,
    answers: str | os.PathLike | None = None,
    mapping: str | os.PathLike | None = None,
) -> Path:
    """
    A folder with a task of lmms-eval and its questions.

    Args:
        name (`str`): one of `BENCHMARKS`.
        annotations, answers, mapping: files as they are published; answers where they are in a file of their own.
        videos: the folder with the videos.
        output: the folder for tasks, to be given to lmms-eval as `--include_path`.

    Returns:
        The folder that was written.

    Raises:
        LinVTInputError: an unknown name, a file that cannot be read, a row without a field, a video that is missing;
            it names the row.
    """
    if name not in BENCHMARKS:
        raise LinVTInputError(unknown_argument(name, BENCHMARKS))
    benchmark, videos = BENCHMARKS[name], Path(videos)
    rows = _read_rows(Path(annotations))
    if answers is not None:
        rows = _joined(rows, _read_rows(Path(answers)), Path(answers))
    names = _mapped(Path(mapping)) if mapping is not None else {}
    if not videos.is_dir():
        raise LinVTInputError(f"There is no folder {videos} with videos.")
    files = {path.stem: path for path in sorted(videos.rglob("*")) if path.suffix.lower() in _VIDEO_ENDINGS}
    found = [_checked(benchmark, row, number, Path(annotations), files, names) for number, row in enumerate(rows)]
    if not found:
        raise LinVTInputError(f"{annotations} has no question.")
    folder = Path(output) / f"linvt_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    task = _TEMPLATE.format(
        task=folder.name, kind=benchmark.kind, max_new_tokens=16 if benchmark.kind == "letter" else 64
    )
    texts = {f"{folder.name}.yaml": task, "utils.py": _UTILS, "questions.jsonl": "".join(_lines(found))}
    for file, text in texts.items():
        with replacing(folder / file) as partial:
            partial.write_text(text, encoding="utf-8")
    return folder


def _lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row) + "\n"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".csv", ".tsv"):
            return list(csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in text.partition("\n")[0] else ","))
        rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError) as error:
        raise LinVTInputError(f"{path} cannot be read as annotations: {error}") from error
    if isinstance(rows, dict):  # by id
        rows = [{"id": key, **row} for key, row in rows.items() if isinstance(row, dict)]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LinVTInputError(f"{path} is no list of questions.")
    return rows


def _joined(rows: list[dict], answers: list[dict], path: Path) -> list[dict]:
    by_id = {str(row.get("question_id")): row for row in answers}
    joined = []
    for number, row in enumerate(rows):
        answer = by_id.get(str(row.get("question_id")))
        if answer is None:
            raise LinVTInputError(f"{path} has no answer to row {number} (question_id={row.get('question_id')!r}).")
        joined.append({**answer, **row})
    return joined


def _mapped(path: Path) -> dict[str, str]:
    """`youtube_mapping.txt`: a name of a file and the name in the annotations on every line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LinVTInputError(f"{path} cannot be read as a mapping of names: {error}") from error
    found = {}
    for number, line in enumerate(lines):
        pair = line.split()
        if len(pair) not in (0, 2):
            raise LinVTInputError(f"{path}: row {number} is no pair of a file's name and the set's: {line!r}.")
        found |= {pair[1]: pair[0]} if pair else {}
    return found


def _checked(
    benchmark: Benchmark,
    row: Mapping[str, Any],
    number: int,
    path: Path,
    files: Mapping[str, Path],
    names: Mapping[str, str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for own, theirs in benchmark.fields.items():
        value = next((row[name] for name in theirs if row.get(name) not in (None, "")), None)
        if value is None and own != "id":
            raise LinVTInputError(
                f"{path}: row {number} has no field {' or '.join(map(repr, theirs))}; it has "
                f"{', '.join(map(str, row))}."
            )
        found[own] = number if value is None else value
    candidates = [names.get(name, name) for name in benchmark.video_names(found)]
    stems = [Path(name).stem if name.lower().endswith(_VIDEO_ENDINGS) else name for name in candidates]
    video = next((files[stem] for stem in stems if stem in files), None)
    if video is None:
        raise LinVTInputError(f"{path}: the video of row {number} is missing: no {' or '.join(stems)} with an ending.")
    question = str(found["question"]).strip()
    made: dict[str, Any] = {
        "id": str(found["id"]),
        "video": str(video.absolute()),
        "answer": str(found["answer"]).strip().lower(),
    }
    if benchmark.kind == "letter":
        choices = _choices_of(found["choices"])
        if choices is None:
            raise LinVTInputError(f"{path}: the choices of row {number} are no list: {found['choices']!r}.")
        index = _index_of(found["answer"], choices)
        if index is None:
            raise LinVTInputError(f"{path}: the answer of row {number}, {found['answer']!r}, is none of {choices}.")
        letters = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
        question, made["answer"] = "\n".join([question, *letters]), string.ascii_uppercase[index]
        made["num_choices"] = len(choices)
    return {
        **made,
        "question": f"{question}\n{benchmark.tail}" if benchmark.kind == "letter" else f"{question} {benchmark.tail}",
    }


def _choices_of(given: Any) -> list[Any] | None:
    """A list, also where it is written as JSON or as Python writes it."""
    if isinstance(given, str):
        try:
            given = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            return None
    return list(given) if isinstance(given, list | tuple) else None


def _index_of(answer: Any, choices: Sequence[Any]) -> int | None:
    """Which choice is right: its number, its letter or its text."""
    text = str(answer).strip()
    if text.isdigit() and int(text) < len(choices):
        return int(text)
    if re.fullmatch(r"\(?[A-Z]\)?\.?", text) and (index := string.ascii_uppercase.index(text.strip("(.)"))) < len(
        choices
    ):
        return index
    return next((index for index, choice in enumerate(choices) if str(choice).strip() == text), None)


# ---------------------------------------------------------------------------------------------------------------------
# What the tasks call
# ---------------------------------------------------------------------------------------------------------------------


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The path of the video."""
    return [doc["video"]]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question, with how to answer it."""
    return doc["question"]


def process_open(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Exact match and token F1 after normalisation; an answer without a word is wrong, and counted as unparsed."""
    given, right = normalised(results[0]), normalised(doc["answer"])
    return {
        "exact_score": float(bool(given) and given == right),
        "f1_score": token_f1(given, right),
        "unparsed": float(not given),
    }


def process_letter(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The letter that an answer begins with, or the only one in it; another text is wrong, and counted as unparsed."""
    letter = letter_of(results[0], doc["num_choices"])
    right = float(letter == doc["answer"])
    return {"exact_score": right, "f1_score": right, "unparsed": float(letter is None)}


def percent(scores: Sequence[float]) -> float:
    """A mean, in percent."""
    return 100 * sum(scores) / len(scores)


def normalised(text: str) -> str:
    """
    Lower case, without punctuation and articles, numbers in digits.

    >>> normalised("The two Dogs!")
    '2 dogs'
    """
    words = re.sub(r"[^\w\s]", " ", str(text).lower()).split()
    return " ".join(_DIGITS.get(word, word) for word in words if word not in _ARTICLES)


def token_f1(given: str, right: str) -> float:
    """
    Harmonic mean of how many of the given words are right and how many of the right words are given.

    >>> token_f1("red car", "car")
    0.6666666666666666
    """
    one, other = Counter(given.split()), Counter(right.split())
    common = sum((one & other).values())
    return 2 * common / (sum(one.values()) + sum(other.values())) if common else 0.0


def letter_of(text: str, num_choices: int) -> str | None:
    """
    The letter that an answer means, or None.

    >>> [letter_of(text, 4) for text in ("B", "(C) a dog", "The answer is D.", "A red ball", "E", "")]
    ['B', 'C', 'D', None, None, None]
    """
    letters = string.ascii_uppercase[:num_choices]
    text = text.strip()
    if match := re.match(rf"\(?([{letters}])(?:[).:]|$)", text):
        return match[1]
    found = set(re.findall(rf"\b[{letters}]\b", text))
    is_article = found == {"A"} and not re.search(r"\bA\b(?! [a-z])", text)
    return found.pop() if len(found) == 1 and not is_article else None


def main(argv: Sequence[str] | None = None) -> int:
    """Write a task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "benchmark", choices=list(BENCHMARKS), help="; ".join(f"{n}: {b.about}" for n, b in BENCHMARKS.items())
    )
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--answers", type=Path, help="where they are in a file of their own")
    parser.add_argument("--mapping", type=Path, help="youtube_mapping.txt of MSVD")
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(argv)
    try:
        write_task(given.benchmark, given.annotations, given.videos, given.output, given.answers, given.mapping)
    except LinVTError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
