"""
The tables of docs/results.md, from what training_recipe.py wrote.

    python benchmarks/results_tables.py seeds RESULTS.jsonl [--frames 16 32]
    python benchmarks/results_tables.py crowds | pictures | untrained | question | intervals RESULTS.jsonl
    python benchmarks/results_tables.py words

`seeds`, `crowds` and `pictures` have a row per run, `untrained` a row per number of video tokens, `question` compares
runs that saw the question with those that did not, `intervals` gives every kind of question of one run with 95 %
intervals. `words` needs no run: it says how often a guess from the words of a question alone is right.
`results_page.py` writes the tables into the page.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from transformers_linvt.demo.shapes import COLOURS, SHAPES, script_clip
from transformers_linvt.evaluation.statistics import wilson


FOUR = ("colour", "shape", "position", "existence")
SIX = (*FOUR, "count", "attribute_count")
NAMES = {
    "order": "which came first",
    "occurrences": "how often",
    "attribute_count": "count of one kind",
    "direction": "which way",
}
COLUMNS = (
    "static: colour/shape/position/existence/count/count of one kind",
    "the same clips as pictures",
    "needle",
    "needles",
    "scenes",
    "which first",
    "appearances (shuffled)",
    "traverse (shuffled; backwards)",
    "torus (shuffled)",
    "still objects beside a moment; the moment; absent",
)
ROWS = (
    ("needle: one object for a moment", "needle", FOUR),
    ("needles: four, one after the other, the question names one", "needles", FOUR),
    ("scenes: four, one after the other (never trained on)", "scenes", FOUR),
    ("static: one picture all along", "static", SIX),
    ("the same clips, their first frame as a picture", "static as a picture", SIX),
    ("moment: two objects stand still, a third is there for a moment; about the still ones", "moment still", FOUR),
    ("about the one that is there for a moment", "moment short", FOUR),
    ("about what is not there", "moment absent", ("existence",)),
    ("order: one object, then another", "order", ("order",)),
    ("count: how often something appears", "count", ("occurrences",)),
    ("the same, frames shuffled", "count shuffled", ("occurrences",)),
    ("traverse: one object crosses the picture once; which way", "traverse", ("direction",)),
    ("the same, frames shuffled", "traverse shuffled", ("direction",)),
    ("the same, played backwards (answer reversed)", "traverse backwards", ("direction",)),
    ("direction: eight steps round a torus; which way", "direction", ("direction",)),
    ("the same, frames shuffled", "direction shuffled", ("direction",)),
    ("crowd: eight to sixteen, one after the other, the question names one", "crowd", ("position", "existence")),
)

Counts = dict[str, Sequence[int]]  # "kind of clip | kind of question" -> right answers, questions


def percent(counts: Counts, kind: str, questions: Sequence[str]) -> str:
    """Right answers about a kind of clip over all these questions, in percent; nothing where none was asked."""
    found = [counts[f"{kind} | {question}"] for question in questions if f"{kind} | {question}" in counts]
    right, asked = (sum(count[index] for count in found) for index in (0, 1))
    if not asked:
        return ""
    return f"{100 * right / asked:g}" if asked in (100, 200) else f"{100 * right / asked:.1f}"


def each(counts: Counts, kind: str, questions: Sequence[str]) -> str:
    """Right answers about a kind of clip, question by question."""
    return "/".join(percent(counts, kind, (question,)) for question in questions)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def seeds(runs: list[dict], frames: list[str]) -> str:
    """A row per run and number of frames, by seed, or by the number of video tokens where all runs have one seed."""
    is_one_seed = len(runs) > 1 and len({run["seed"] for run in runs}) == 1
    rows = []
    for run in runs:
        for num_frames in frames:
            if (counts := run["clips"].get(num_frames)) is None:
                continue
            way, often = ("direction",), ("occurrences",)
            crossing, torus, times = (
                [percent(counts, f"{kind}{how}", question) for how in ("", " shuffled", " backwards")]
                for kind, question in (("traverse", way), ("direction", way), ("count", often))
            )
            moment = [percent(counts, f"moment {what}", FOUR) for what in ("still", "short", "absent")]
            rows.append(
                [
                    run["recipe"]["num_video_tokens"] if is_one_seed else run["seed"],
                    num_frames,
                    each(counts, "static", SIX),
                    each(counts, "static as a picture", SIX),
                    *(percent(counts, kind, FOUR) for kind in ("needle", "needles", "scenes")),
                    percent(counts, "order", ("order",)),
                    f"{times[0]} ({times[1]})",
                    f"{crossing[0]} ({crossing[1]}; {crossing[2]})",
                    f"{torus[0]} ({torus[1]})",
                    "; ".join(moment),
                ]
            )
    return table(("M" if is_one_seed else "seed", "T", *COLUMNS), rows)


def crowds(runs: list[dict], frames: list[str]) -> str:
    """Where something in a crowd is, and whether it is there: a row per run, two columns per number of frames."""
    asked = ("position", "existence")
    found = [t for t in frames if any(percent(run["clips"].get(t, {}), "crowd", asked) for run in runs)]
    cells = [[each(run["clips"].get(t, {}), "crowd", asked) for t in found] for run in runs]
    rows = [[run["seed"], *of_run] for run, of_run in zip(runs, cells, strict=True)]
    return table(("seed", *(f"{t} frames: position/existence" for t in found)), rows)


def pictures(runs: list[dict], frames: list[str]) -> str:
    """A row per run."""
    rows = [[run["seed"], *(percent(run["pictures"], "pictures", (kind,)) for kind in SIX)] for run in runs]
    return table(("seed", *(NAMES.get(kind, kind) for kind in SIX)), rows)


def untrained(runs: list[dict], frames: list[str]) -> str:
    """A row per run and number of frames, by the number of video tokens."""
    rows = []
    for run in runs:
        for num_frames in frames:
            counts = run["clips"][num_frames]
            moment = [percent(counts, f"moment {what}", FOUR) for what in ("still", "short", "absent")]
            kinds = [percent(counts, kind, FOUR) for kind in ("needle", "needles", "scenes")]
            still = [each(counts, kind, SIX) for kind in ("static", "static as a picture")]
            rows.append([run["recipe"]["num_video_tokens"], num_frames, *still, *kinds, "; ".join(moment)])
    columns = ("M", "T", "static", "its pictures", "needle", "needles", "scenes", COLUMNS[-1])
    return table(columns, rows)


def question(runs: list[dict], frames: list[str]) -> str:
    """With the question and without, per seed and number of frames, for all kinds of clips that were asked about."""
    kinds = ("needle", "needles", "crowd")
    by_seed: dict[int, dict[bool, dict]] = {}
    for run in runs:
        by_seed.setdefault(run["seed"], {})[run["recipe"]["text_conditioned"]] = run
    kinds = tuple(kind for kind in kinds if any(percent(runs[0]["clips"][t], kind, FOUR) for t in runs[0]["clips"]))
    rows = []
    for seed, pair in sorted(by_seed.items()):
        for num_frames in frames:
            if len(pair) == 2 and num_frames in pair[True]["clips"]:
                found = (pair[seen]["clips"][num_frames] for seen in (True, False))
                cells = (" / ".join(percent(counts, kind, FOUR) for kind in kinds) for counts in found)
                rows.append([seed, num_frames, *cells])
    names = " / ".join(kinds)
    return table(("seed", "T", f"with the question: {names}", f"without: {names}"), rows)


def intervals(runs: list[dict], frames: list[str]) -> str:
    """Every kind of question of the last run."""
    clips, rows = runs[-1]["clips"], []
    frames = [num_frames for num_frames in frames if num_frames in clips]
    for title, kind, questions in ROWS:
        for asked in questions:
            found = [clips[num_frames].get(f"{kind} | {asked}") for num_frames in frames]
            if any(found):
                cells = [
                    f"{100 * count[0] / count[1]:g} [{wilson(*count)[0]:.0f}, {wilson(*count)[1]:.0f}]"
                    if count
                    else ""
                    for count in found
                ]
                rows.append([title, NAMES.get(asked, asked), *cells])
                title = ""  # once per kind of clip
    return table(("clips", "question", *(f"{num_frames} frames" for num_frames in frames)), rows)


def words(runs: list[dict], frames: list[str], num_clips: int = 400) -> str:
    """
    Questions of existence that are right for who hears the words and sees nothing.

    There is one answer for questions that name a colour, one for those that name a shape and one for those that name
    both: each time the more frequent one.
    """
    rows = []
    for kind in ("needle", "needles", "scenes", "static", "moment", "crowd"):
        answers: dict[tuple[bool, bool], Counter[str]] = defaultdict(Counter)
        for seed in range(1000, 1000 + num_clips):
            for asked in script_clip(kind, seed, 16).questions:
                if asked.kind == "existence":
                    named = set(re.findall(r"[a-z]+", asked.question.lower()))
                    answers[bool(named & set(COLOURS)), bool(named & set(SHAPES))][asked.answer] += 1
        right = sum(max(counts.values()) for counts in answers.values())
        rows.append([kind, f"{100 * right / sum(counts.total() for counts in answers.values()):.0f}"])
    return table(("clips", "existence, from the words alone"), rows)


TABLES = {one.__name__: one for one in (seeds, crowds, pictures, untrained, question, intervals, words)}


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("results", type=Path, nargs="*", help="written by training_recipe.py --results")
    parser.add_argument("--frames", nargs="+", default=["8", "16", "32", "64"])
    arguments = parser.parse_args()
    if not arguments.results and arguments.table != "words":
        parser.error(f"{arguments.table} needs the results of a run")
    lines = [line for path in arguments.results for line in path.read_text(encoding="utf-8").splitlines()]
    print(TABLES[arguments.table](sorted(map(json.loads, lines), key=lambda run: run["seed"]), arguments.frames))


if __name__ == "__main__":
    main()
