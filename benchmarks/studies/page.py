"""
Every table of studies in docs/results.md, with the settings that stand there, from what is kept or by asking again.

    python benchmarks/studies/page.py --runs FOLDER [--tokens TOKENS] [--page docs/results.md]

Studies that train need `--tokens`, the frame tokens of `recipe_data.py`; without it they are left as they are.
"""

import argparse
import subprocess
import sys
from pathlib import Path


STUDIES = Path(__file__).resolve().parent
COMMANDS = {
    "alignment": ("--clips", "10", "--models", "linear=", "nonlinear=", "linear, the embedded model={embedded}"),
    "pictures": ("--clips", "50"),
    "length": ("--clips", "5", "--lengths", "16", "160"),
    "camera": (),
}
TRAINED = {"pooling": ("--clips", "60", "--arms", "LinVT", "mean over time"), "pretrained": ("--clips", "50")}
FOLDERS = {"pooling": "trained"}  # shared with other studies; a folder of its own for every other
EMBEDDED = "src/transformers_linvt/demo/assets/linvt_shapes"


def commands(runs: Path, tokens: Path | None, page: Path) -> list[list[str]]:
    """What is to be run, one after the other."""
    found = []
    for name, options in (*COMMANDS.items(), *(TRAINED.items() if tokens else ())):
        command = [sys.executable, str(STUDIES / f"{name}.py"), "--page", str(page)]
        command += ["--tokens", str(tokens)] if name in TRAINED else []
        command += ["--folder", str(runs / FOLDERS.get(name, name))]
        found.append([*command, *(option.format(embedded=EMBEDDED) for option in options)])
    return found


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder of what was answered, one per study")
    parser.add_argument("--tokens", type=Path, help="frame tokens, for studies that train")
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    arguments = parser.parse_args()
    for command in commands(arguments.runs, arguments.tokens, arguments.page):
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
