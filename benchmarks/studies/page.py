"""
Every study of docs/results.md with the settings that stand there: table, figures and plot, from kept runs or anew.

    python benchmarks/studies/page.py --runs FOLDER [--tokens TOKENS] [--only NAME ...] [--page docs/results.md]

What has no place on the page is left out. Studies that train need `--tokens`, the frame tokens of `recipe_data.py`;
without it they are left as they are. Figures go to `docs/results/STUDY.json`, from which
`benchmarks/results_page.py` writes the table again without any run.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers_linvt.errors import LinVTInputError, unknown_argument


STUDIES = Path(__file__).resolve().parent
COMMANDS = {
    "alignment": ("--clips", "10", "--models", "linear=", "nonlinear=", "linear, the embedded model={embedded}"),
    "pictures": ("--clips", "50"),
    "length": ("--clips", "20"),
    "camera": (),
}
TRAINED = {
    "pooling": ("--clips", "60"),
    "question": (),
    "aggregation": ("--clips", "60"),
    "scales": ("--clips", "60"),
    "starts": ("--clips", "60"),
    "sizes": ("--clips", "60"),
    "order": ("--clips", "60"),
    "pretrained": ("--clips", "50", "--steps", "1200"),
}
EMBEDDED = "src/transformers_linvt/demo/assets/linvt_shapes"


def commands(runs: Path, tokens: Path | None, page: Path, only: Sequence[str] = ()) -> list[list[str]]:
    """
    What is to be run, one after the other.

    Args:
        runs: folder of what was answered.
        tokens: frame tokens, without which no study that trains is run.
        page: where the tables stand.
        only: names of studies, all that the page has a place for if there are none.
    """
    found = []
    marked = only or re.findall(r"<!-- study: (\w+) -->", page.read_text(encoding="utf-8"))
    known = {**COMMANDS, **TRAINED}
    if unknown := [name for name in marked if name not in known]:
        raise LinVTInputError(unknown_argument(unknown[0], known))
    for name, options in known.items():
        if name not in marked or (name in TRAINED and tokens is None):
            continue
        command = [sys.executable, str(STUDIES / f"{name}.py"), "--page", str(page)]
        if name in TRAINED:
            command += ["--tokens", str(tokens), "--folder", str(runs / "trained")]
        else:
            command += ["--folder", str(runs / name)]
        found.append([*command, *(option.format(embedded=EMBEDDED) for option in options)])
    return found


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of what was answered, one per study")
    parser.add_argument("--tokens", type=Path, help="frame tokens, for studies that train")
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="some of the studies")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    for command in commands(arguments.runs, arguments.tokens, arguments.page, arguments.only):
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
