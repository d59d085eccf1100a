"""What the studies share: evaluations that are run once and kept, seeds put together, tables and their places."""

import argparse
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import (
    Answerer,
    EvaluationSettings,
    PairedDifference,
    clustered_interval,
    evaluate,
    markdown,
    paired_difference,
    read_report,
)
from transformers_linvt.files import replacing


sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the trainer, a script beside this folder

Report = Mapping
Figure = tuple[float, float, float]  # a value with its interval
PERCENT = "right answers, %"
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
    add_output_arguments(parser)
    return parser


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where table and plot go."""
    parser.add_argument(
        "--page", type=Path, help="a page to write table and plot into, between the marks of the study"
    )
    parser.add_argument("--plot", type=Path, help="a picture of the same figures, a PNG")
    parser.add_argument("--table", action="store_true", help="only make the table of what is there")


@dataclass
class Result:
    """
    What a study found.

    Attributes:
        rows: of the table, headings first.
        panels: what is drawn beside each other: a title, and by the name of a row a value with its interval.
        axis: what the values are.
        note: a sentence under the table.
        draw: draws another picture than panels into a file.
    """

    rows: list[Sequence[str]]
    panels: dict[str, dict[str, Figure]] = field(default_factory=dict)
    axis: str = PERCENT
    note: str = ""
    draw: Callable[[Path], None] | None = None

    @property
    def text(self) -> str:
        """The table and the note, as Markdown."""
        return "\n\n".join(part for part in (markdown(self.rows), self.note) if part)


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


def figure_of(by_clip: Mapping) -> Figure:
    """Percent of right answers, with an interval over clips."""
    return share(by_clip), *clustered_interval(list(by_clip.values()))


def plot(result: Result, path: Path) -> None:
    """
    A panel per column of the table with a row per arm, 800 pixels wide; or what the study draws itself.

    Panels of percents share their axis, others have one each.
    """
    if result.draw is not None:
        result.draw(path)
        return
    pyplot = load_pyplot()
    panels, names = result.panels, list(next(iter(result.panels.values())))
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    size = (8, lines * (0.17 * len(names) + 0.6) + 0.3)
    sharing = {"sharex": result.axis == PERCENT, "sharey": True, "squeeze": False}
    figure, axes = pyplot.subplots(lines, columns, figsize=size, layout="constrained", **sharing)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, rows) in zip(axes.flat, panels.items(), strict=False):
        for number, name in enumerate(names):
            if name in rows:
                value, low, high = rows[name]
                axis.plot((low, high), (number, number), color=f"C{number % 10}", linewidth=3, alpha=0.4)
                axis.plot(value, number, "o", color=f"C{number % 10}", markersize=5)
        axis.set_title(title.replace(", ", ",\n"), fontsize=9)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8, labelbottom=True)
        axis.grid(axis="x", alpha=0.3)
        axis.set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(result.axis, fontsize=9)
    save(figure, path)


def load_pyplot():
    """Matplotlib, drawing into files."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure, path: Path) -> None:
    """A figure as a PNG that is the same whenever the same is drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    load_pyplot().close(figure)


def write_into(page: Path, study: str, text: str, kind: str = "study") -> None:
    """Put a table between `<!-- study: NAME -->` (or another kind of table) and `<!-- end of NAME -->`."""
    before = page.read_text(encoding="utf-8")
    marks = f"<!-- {kind}: {study} -->", f"<!-- end of {study} -->"
    pattern = re.compile(rf"({re.escape(marks[0])}\n).*?({re.escape(marks[1])})", re.DOTALL)
    after, count = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", before)
    if count != 1:
        raise LinVTInputError(f"{page} has no place for the table: write {marks[0]} and {marks[1]} where it belongs.")
    page.write_text(after, encoding="utf-8")


def block(folder: Path, study: str) -> str:
    """What stands on the page of a study whose figures are in a folder beside the page: table, note and picture."""
    if not (path := folder / f"{study}.json").exists():
        raise LinVTInputError(
            f"There is no {path}. Run the study {study} with --page, or take its marks off the page."
        )
    found = json.loads(path.read_text(encoding="utf-8"))
    picture = f"![The same figures, drawn]({folder.name}/{study}.png)" if (folder / f"{study}.png").exists() else ""
    return "\n\n".join(part for part in (markdown(found["rows"]), found["note"], picture) if part)


def finish(arguments: argparse.Namespace, study: str, result: Result) -> None:
    """
    Print a table, draw its figures, and write both where they belong.

    With `--page` the figures stand in a folder beside the page, which has its name: `docs/results.md` has
    `docs/results/STUDY.json` and `docs/results/STUDY.png`.
    """
    print(result.text)
    if arguments.plot:
        plot(result, arguments.plot)
    if arguments.page:
        folder = arguments.page.with_suffix("")
        plot(result, folder / f"{study}.png")
        figures = {"study": study, "rows": result.rows, "note": result.note}
        with replacing(folder / f"{study}.json") as whole:
            whole.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_into(arguments.page, study, block(folder, study))


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
