"""Two evaluations of the same questions: how much the second is better, with intervals; and tables for a terminal."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import LinVTInputError
from .statistics import PairedDifference, paired_difference


Cell = tuple[str, int, str, str, str]  # diagnostic, number of frames, variant, subject, kind of question


def check_comparable(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    """
    Refuse two evaluations that did not ask the same.

    Raises:
        LinVTInputError: the settings differ; it names them.
    """
    one, other = first["settings"], second["settings"]
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    if different:
        told = "; ".join(f"{name}: {one.get(name)!r} and {other.get(name)!r}" for name in different)
        raise LinVTInputError(
            f"The two evaluations did not ask the same ({told}). Run both with the same settings, then compare."
        )


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[Cell, PairedDifference]:
    """
    For every kind of question, how much more often the second model was right: paired, on the same clips.

    Args:
        first, second: what [`evaluate`] returned or [`read_report`] read.

    Returns:
        A difference per kind of question, in the order in which they were asked; at the end of each diagnostic and
        length one over all of its questions, with the kind `"all"`.

    Raises:
        LinVTInputError: the two did not ask the same.
    """
    check_comparable(first, second)
    answers = [report["answers"] for report in (first, second)]
    if [row[:7] for row in answers[0]] != [row[:7] for row in answers[1]]:
        raise LinVTInputError(
            "The two evaluations have the same settings and other questions: they were made with different versions "
            f"({first['versions']} and {second['versions']}). Run both with the same."
        )
    pairs: dict[Cell, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    for one, other in zip(*answers, strict=True):
        diagnostic, num_frames, number, variant, subject, kind = one[:6]
        subject = "" if kind == "existence" and subject in ("still", "short", "absent") else subject
        for cell in ((variant, subject, kind), (variant, "", "all")):
            pairs[diagnostic, num_frames, *cell][number].append((one[-1], other[-1]))
    found = {}
    for cell, by_clip in pairs.items():
        one, other = ([[pair[i] for pair in of_clip] for of_clip in by_clip.values()] for i in (0, 1))
        found[cell] = paired_difference(one, other)
    order = {cell: index for index, cell in enumerate(found)}
    group = {cell[:3]: index for index, cell in reversed(list(enumerate(found)))}
    return dict(sorted(found.items(), key=lambda one: (group[one[0][:3]], one[0][4] == "all", order[one[0]])))


def table_of_results(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Rows for a terminal or a page, headings first."""
    policies: list[str] = [name for name in report["results"][0]["baselines"] if name not in ("chance", "constant")]
    titles = {"question only": "words", "first frame": "first", "middle frame": "middle", "bag of frames": "bag"}
    columns = ("clips", "T", "question", "right", "95 %", "asked", "unparsed", "chance", "constant")
    rows: list[tuple[str, ...]] = [(*columns, *(titles.get(name, name) for name in policies))]
    for one in report["results"]:
        low, high = one["interval"]
        rows.append(
            (
                " ".join(word for word in (one["diagnostic"], one["variant"]) if word),
                str(one["num_frames"]),
                " ".join(word for word in (one["subject"], one["question"].replace("_", " ")) if word),
                f"{one['percent']:.1f}" + (" above its ceiling" if one["above_ceiling"] else ""),
                f"{low:.0f} to {high:.0f}",
                str(one["asked"]),
                str(one["unparsed"]),
                *(_whole(one["baselines"].get(name)) for name in ("chance", "constant", *policies)),
            )
        )
    return rows


def table_of_differences(differences: Mapping[Cell, PairedDifference]) -> list[tuple[str, ...]]:
    """Rows for a terminal or a page, headings first."""
    rows = [("clips", "T", "question", "points", "95 %", "only first right", "only second right", "p")]
    for (diagnostic, num_frames, variant, subject, kind), one in differences.items():
        rows.append(
            (
                " ".join(word for word in (diagnostic, variant) if word),
                str(num_frames),
                " ".join(word for word in (subject, kind.replace("_", " ")) if word),
                f"{one.points:+.1f}",
                f"{one.low:+.1f} to {one.high:+.1f}",
                str(one.only_first),
                str(one.only_second),
                f"{one.p_value:.3f}",
            )
        )
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows with columns under each other; words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if column in (0, 2) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Iterable[Sequence[object]]) -> str:
    """Rows as a table of Markdown, the first as its heading."""
    heading, *others = ([str(cell) for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others))


def _whole(share: float | None) -> str:
    return "" if share is None else f"{share:.0f}"
