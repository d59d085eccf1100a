"""Two evaluations of the same questions: how much the second is better, with intervals; and tables for a terminal."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..errors import LinVTInputError
from .diagnostics import WITH_REVERSE
from .statistics import PairedDifference, paired_difference


COMPARISON_FORMAT = "linvt-comparison-1"

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
        length one over all of its questions, with the kind `"all"`. Clips that are also shown backwards have one in
        which both answers have to be right together (`"with its reverse"`).

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
    for cell, by_clip in {**pairs, **_together_with_reverse(pairs)}.items():
        one, other = ([[pair[i] for pair in of_clip] for of_clip in by_clip.values()] for i in (0, 1))
        found[cell] = paired_difference(one, other)
    order = {cell: index for index, cell in enumerate(found)}
    group = {cell[:3]: index for index, cell in reversed(list(enumerate(found)))}
    for diagnostic, num_frames, variant in list(group):  # what is right both ways stands below the clips backwards
        if variant == WITH_REVERSE:
            group[diagnostic, num_frames, variant] = group[diagnostic, num_frames, "backwards"]

    def place(cell: Cell) -> tuple:
        return group[cell[:3]], cell[2] == WITH_REVERSE, cell[4] == "all", order[cell]

    return {cell: found[cell] for cell in sorted(found, key=place)}


def _together_with_reverse(pairs: Mapping[Cell, Mapping[int, list]]) -> dict[Cell, dict[int, list]]:
    """For clips that were shown in both orders, whether each model answered both rightly."""
    found = {}
    for (diagnostic, num_frames, variant, subject, kind), backwards in pairs.items():
        if variant == "backwards" and kind != "all":
            forwards = pairs[diagnostic, num_frames, "", subject, kind]
            found[diagnostic, num_frames, WITH_REVERSE, subject, kind] = {
                number: [tuple(map(all, zip(*forwards[number], *backwards[number], strict=True)))]
                for number in backwards
            }
    return found


_CELL = ("diagnostic", "num_frames", "variant", "subject", "question")


def comparison_card(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """
    Two evaluations beside each other, as JSON: which models, what both were asked, and every difference.

    Args:
        first, second: what [`evaluate`] returned or [`read_report`] read.

    Raises:
        LinVTInputError: the two did not ask the same.
    """
    differences = compare(first, second)
    return {
        "format": COMPARISON_FORMAT,
        "first": _about(first),
        "second": _about(second),
        "settings": first["settings"],
        "differences": [{**dict(zip(_CELL, cell, strict=True)), **asdict(one)} for cell, one in differences.items()],
    }


def differences_of(card: Mapping[str, Any]) -> dict[Cell, PairedDifference]:
    """The differences of a card, as [`compare`] returns them."""
    found = {}
    for one in card["differences"]:
        named = {name: value for name, value in one.items() if name not in _CELL}
        found[tuple(one[name] for name in _CELL)] = PairedDifference(**named)
    return found


def told_of(card: Mapping[str, Any]) -> str:
    """What stands above the table of a comparison: the models, how they were shown clips, and what both were asked."""
    lines = []
    for place in ("first", "second"):
        one = card[place]
        model = one["model"]
        told = f"{place + ':':8}{model.get('name') or 'a model'} ({model['class']}, arm {model['arm']})"
        lines.append(
            f"{told}, {one['visual_tokens']:g} visual tokens a question, {one['unparsed']} of {one['asked']} unparsed"
        )
    settings = card["settings"]
    lines.append(
        f"asked:  {settings['num_clips']} clips of each kind and length, seed {settings['seed']}, "
        f"{settings['size']} pixels"
        + (f", with {settings['instruction']!r} behind every question" if settings["instruction"] else "")
    )
    versions = [card[place]["versions"] for place in ("first", "second")]
    if different := [name for name in versions[0] if versions[0][name] != versions[1].get(name)]:
        told = ", ".join(f"{name} {versions[0][name]} and {versions[1].get(name)}" for name in different)
        lines.append(f"The two were made with different versions: {told}.")
    return "\n".join(lines)


def _about(report: Mapping[str, Any]) -> dict[str, Any]:
    results = [one for one in report["results"] if one["variant"] != WITH_REVERSE]
    asked = sum(one["asked"] for one in results)
    tokens = sum(one["visual_tokens"] * one["asked"] for one in results) / asked
    unparsed = sum(one["unparsed"] for one in results)
    parts = {name: report[name] for name in ("model", "versions")}
    return {**parts, "asked": asked, "unparsed": unparsed, "visual_tokens": round(tokens, 1)}


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
    columns = ("clips", "T", "question", "asked", "first", "second", "points", "95 %")
    rows: list[tuple[str, ...]] = [(*columns, "only first", "only second", "p")]
    for (diagnostic, num_frames, variant, subject, kind), one in differences.items():
        rows.append(
            (
                " ".join(word for word in (diagnostic, variant) if word),
                str(num_frames),
                " ".join(word for word in (subject, kind.replace("_", " ")) if word),
                str(one.asked),
                f"{one.first:.1f}",
                f"{one.second:.1f}",
                f"{one.points:+.1f}",
                f"{one.low:+.1f} to {one.high:+.1f}",
                str(one.only_first),
                str(one.only_second),
                "<0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}",
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
