"""
Averages against a resampler of the same size: gain on videos, and damage to pictures that were trained beside them.

    python benchmarks/studies/aggregation.py --tokens TOKENS --folder FOLDER [--page docs/results.md]

A third of the questions of training are about pictures, but for "videos alone". What is lost on pictures is lost
through LoRA: no picture goes through LinVT.
"""

from shared import finish
from trained import parser_of, result_of, run_all


ARMS = {
    "LinVT": {},
    "a resampler": {"aggregation": "nonlinear"},
    "LinVT, videos alone": {"picture_share": 0.0},
    "a resampler, videos alone": {"aggregation": "nonlinear", "picture_share": 0.0},
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    finish(arguments, "aggregation", result_of(run_all(ARMS, arguments), "LinVT"))


if __name__ == "__main__":
    main()
