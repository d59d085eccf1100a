"""
Every table of docs/results.md, from the figures of the runs that are kept in docs/results/.

    python benchmarks/results_page.py
    python benchmarks/results_page.py --keep recipe RESULTS.jsonl ...
    python benchmarks/results_page.py --runs FOLDER [--tokens TOKENS]

Alone it needs no run. `--keep` first takes the runs of one of `KEPT` from what `training_recipe.py` wrote, `--runs`
first makes the studies again (`studies/page.py`). Tables stand between `<!-- table: NAME -->` or
`<!-- study: NAME -->` and `<!-- end of NAME -->`; whatever stands there is replaced.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from results_tables import crowds, intervals, pictures, question, seeds, untrained
from studies.shared import block, write_into

from transformers_linvt.errors import LinVTInputError, unknown_argument
from transformers_linvt.files import replacing


PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
EMBEDDED = "../linvt_shapes/report.json"  # made by make train-linvt-shapes


@dataclass(frozen=True)
class Table:
    """A table of the page: from which kept runs it is made, by what, and at which numbers of frames."""

    runs: str
    make: Callable[[list[dict], list[str]], str]
    frames: Sequence[str] = ("8", "16", "32", "64")


# what is kept of runs, and what each line of it was; the page says with which command
KEPT = {
    "one_command": "`make train-linvt-shapes` run again on another CPU",
    "untrained": "an untrained LinVT with 16 and with 32 video tokens",
    "recipe": "the recipe as it is, seeds used for nothing else",
    "sixteen": "16 video tokens, without crowds",
    "more_tokens": "24 and 32 video tokens, 500 steps",
    "without_crowds": "32 video tokens, without crowds",
    "sixty_four": "64 video tokens, without crowds",
    "question": "four video tokens, with the question and without",
    "crowd_question": "crowds and 16 video tokens, with the question and without",
}
TABLES = {
    "embedded": Table(EMBEDDED, intervals),
    "one_command": Table("one_command", seeds),
    "one_command_pictures": Table("one_command", pictures),
    "untrained": Table("untrained", untrained),
    "recipe": Table("recipe", seeds),
    "recipe_crowds": Table("recipe", crowds),
    "recipe_pictures": Table("recipe", pictures),
    "sixteen": Table("sixteen", seeds),
    "sixteen_pictures": Table("sixteen", pictures),
    "more_tokens": Table("more_tokens", seeds, ("16", "32")),
    "without_crowds": Table("without_crowds", seeds),
    "without_crowds_pictures": Table("without_crowds", pictures),
    "sixty_four": Table("sixty_four", seeds),
    "question": Table("question", question),
    "crowd_question": Table("crowd_question", question, ("16", "32")),
}


def keep(name: str, results: Sequence[Path], folder: Path) -> Path:
    """
    Keep the figures of runs: right answers by kind of clip and question, and how each run was made.

    Args:
        name: of `KEPT`.
        results: written by `training_recipe.py`, one run a line.
        folder: of the page's figures.
    """
    if name not in KEPT:
        raise LinVTInputError(unknown_argument(name, KEPT))
    runs = [json.loads(line) for path in results for line in path.read_text(encoding="utf-8").splitlines()]
    lines = []
    for run in sorted(runs, key=lambda run: (run["recipe"]["num_video_tokens"], run["seed"], run["arm"])):
        recipe = {key: value for key, value in run["recipe"].items() if key != "mix"}
        own = ("arm", "seed", "split", "cpu_seconds_per_step", "clips", "pictures")
        lines.append(json.dumps({**{key: run[key] for key in own if key in run}, "recipe": recipe}))
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"{name}.jsonl") as whole:
        whole.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / f"{name}.jsonl"


def table_of(name: str, folder: Path) -> str:
    """A table of the page as Markdown, from what is kept in the folder of its figures."""
    if name not in TABLES:
        raise LinVTInputError(unknown_argument(name, TABLES))
    table = TABLES[name]
    path = folder / table.runs if table.runs.endswith(".json") else folder / f"{table.runs}.jsonl"
    text = path.read_text(encoding="utf-8")
    runs = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return table.make(runs, list(table.frames))


def write_page(page: Path) -> list[str]:
    """Write every table between its marks again; their names."""
    folder, written = page.with_suffix(""), []
    for kind, name in re.findall(r"<!-- (table|study): (\w+) -->", page.read_text(encoding="utf-8")):
        write_into(page, name, block(folder, name) if kind == "study" else table_of(name, folder), kind)
        written.append(name)
    return written


def main() -> None:
    """Keep what is to be kept, run what is to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--keep", nargs="+", metavar=("NAME", "RESULTS.jsonl"), help=f"one of {', '.join(KEPT)}")
    parser.add_argument("--runs", help="make the studies again, as studies/page.py does")
    parser.add_argument("--tokens", help="frame tokens, for studies that train")
    arguments = parser.parse_args()
    if arguments.keep:
        name, *results = arguments.keep
        if not results:
            parser.error(f"--keep {name} needs files that training_recipe.py wrote")
        print(keep(name, list(map(Path, results)), arguments.page.with_suffix("")))
    if arguments.runs:
        command = [sys.executable, str(Path(__file__).parent / "studies" / "page.py"), "--page", str(arguments.page)]
        command += ["--runs", arguments.runs, *(("--tokens", arguments.tokens) if arguments.tokens else ())]
        subprocess.run(command, check=True)
    print(f"{arguments.page}: {', '.join(write_page(arguments.page))}")


if __name__ == "__main__":
    main()
