"""What the studies share: evaluations that are run once and kept, seeds put together, tables and their places."""

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import (
    Answerer,
    EvaluationSettings,
    PairedDifference,
    evaluate,
    paired_difference,
    read_report,
)


sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the trainer, a script beside this folder

Report = Mapping
SCRIPTS = 20  # of ceilings, which no study looks at
NAMES = {"attribute_count": "count of one kind", "occurrences": "how often", "order": "which came first"}


def parser_of(description: str, clips: int) -> argparse.ArgumentParser:
    """The arguments that every study has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--folder", type=Path, required=True, help="for evaluations, which are run once and kept")
    parser.add_argument("--checkpoint", help="a LinVT; the embedded one if not given")
    parser.add_argument("--clips", type=int, default=clips, help="of every kind (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the clips (0 1 2)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device")
    parser.add_argument("--page", type=Path, help="a page to write the table into, between the marks of the study")
    parser.add_argument("--table", action="store_true", help="only make the table of what is there")
    return parser


def kept(path: Path, settings: EvaluationSettings, make: Callable[[], Answerer] | None, name: str) -> Report:
    """
    The evaluation in a file; without one it is run, and goes on where it was if it was killed before.

    Args:
        make: the model to ask; None if only what is there is wanted.
    """
    if path.exists():
        report = read_report(path)
        wanted = EvaluationSettings(**{key: _tuple(value) for key, value in report["settings"].items()})
        if wanted != settings:
            raise LinVTInputError(f"{path} was made with other settings. Name another folder, or remove it.")
        return report
    if make is None:
        raise LinVTInputError(f"There is no {path} to make a table of. Leave --table out to make it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    answerer = make()
    with torch.no_grad():
        return evaluate(
            answerer, settings, path, name, lambda done, total, what: print(f"{name}: {done} of {total}, {what}")
        )


def answers_of(reports: Sequence[Report]) -> dict[tuple, dict[tuple, list[bool]]]:
    """Right or wrong by (diagnostic, frames, variant, subject, question) and then by clip, of all seeds together."""
    found: dict = defaultdict(lambda: defaultdict(list))
    for seed, report in enumerate(reports):
        for diagnostic, num_frames, number, variant, subject, kind, *_, right in report["answers"]:
            found[diagnostic, num_frames, variant, subject, kind][seed, number].append(right)
    return found


def difference(first: Mapping[tuple, list[bool]], second: Mapping[tuple, list[bool]]) -> PairedDifference:
    """Of the same clips, by clip."""
    return paired_difference([first[clip] for clip in first], [second[clip] for clip in first])


def share(by_clip: Mapping[tuple, list[bool]]) -> float:
    """Percent of right answers."""
    right = [one for of_clip in by_clip.values() for one in of_clip]
    return 100 * sum(right) / len(right)


def told(one: PairedDifference) -> str:
    """A difference with its interval."""
    return f"{one.points:+.1f} [{one.low:+.1f}, {one.high:+.1f}]"


def write_into(page: Path, study: str, text: str) -> None:
    """Put a table between `<!-- study: NAME -->` and `<!-- end of NAME -->`."""
    before = page.read_text(encoding="utf-8")
    marks = f"<!-- study: {study} -->", f"<!-- end of {study} -->"
    pattern = re.compile(rf"({re.escape(marks[0])}\n).*?({re.escape(marks[1])})", re.DOTALL)
    after, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if count != 1:
        raise LinVTInputError(f"{page} has no place for the table: write {marks[0]} and {marks[1]} where it belongs.")
    page.write_text(after, encoding="utf-8")


def finish(arguments: argparse.Namespace, study: str, text: str) -> None:
    """Print a table, and write it where it belongs."""
    print(text)
    if arguments.page:
        write_into(arguments.page, study, text)


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
