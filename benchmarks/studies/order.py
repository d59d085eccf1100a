"""
How many steps it takes until order in time is learned, by what the language model sees of the video.

    python benchmarks/studies/order.py --tokens TOKENS --folder FOLDER [--page docs/results.md]

Which of two objects came first is the one question of the other studies that their few steps do not teach. Here six
questions of a step's sixteen are about it, as many as in the recipe of the examples, and every arm is trained anew for
every number of steps, with its own schedule.
"""

import argparse

from shared import Figure, Result, difference, figure_of, finish, told
from trained import answers_of, parser_of, run_all


ARMS = {
    "LinVT": {},
    "every query used": {"uses_all_queries": True},  # also where less is new than there are video tokens
    "tokens spaced": {"spaces_tokens": True},  # those in use, over the positions that all would take
    "k-means": {"condenser": "k-means"},
}
STEPS = (200, 400)
MIX = (
    ("needle", None, 1),
    ("needles", None, 3),
    ("order", "order", 6),
    ("order", None, 1),
    ("static", None, 3),
    ("moment", None, 2),
)
ASKED = "which came first"


def result_of(runs: dict[int, dict[str, list]], reference: str = "LinVT") -> Result:
    """
    Right answers to which came first by steps.

    Args:
        runs: by number of steps, then by arm.
    """
    own = {
        steps: {name: answers_of(of_arm)[ASKED] for name, of_arm in of_steps.items()}
        for steps, of_steps in runs.items()
    }
    names = list(next(iter(own.values())))
    panels: dict[str, dict[str, Figure]] = {
        f"{steps} steps": {name: figure_of(of_steps[name]) for name in names} for steps, of_steps in own.items()
    }
    rows: list[tuple] = [("", *panels)]
    for name in names:
        rows.append((name, *("{:.1f} [{:.0f}, {:.0f}]".format(*panel[name]) for panel in panels.values())))
    for name in names:
        if name != reference:
            gains = (told(difference(of_steps[name], of_steps[reference])) for of_steps in own.values())
            rows.append((f"{reference} less {name}", *gains))
    return Result(rows, panels)


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=STEPS, questions=24, frames=32)
    parser.set_defaults(kinds=["needles", "order"])
    arguments = parser.parse_args()
    arguments.folder /= "order"  # the other studies have other questions
    own = {steps: argparse.Namespace(**{**vars(arguments), "steps": steps}) for steps in arguments.steps}
    runs = {steps: run_all(ARMS, one, {"mix": MIX}) for steps, one in own.items()}
    finish(arguments, "order", result_of(runs))


if __name__ == "__main__":
    main()
