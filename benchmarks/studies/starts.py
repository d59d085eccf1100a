"""
What decides the weights at the start and which tokens are kept: every start and every selection, trained alike.

    python benchmarks/studies/starts.py --tokens TOKENS --folder FOLDER [--page docs/results.md]

Where tokens are kept by rank (every start but key frames), k shrinks from all tokens in the first half of the steps.
"""

from shared import finish
from trained import parser_of, result_of, run_all


ARMS = {
    "LinVT": {},  # from key frames, with a learned selection
    "anchored": {"init": "anchored", "kept_at_start": 256},
    "free": {"init": "free", "kept_at_start": 256},
    "novelty alone": {"selection": "novelty"},
    "uniform selection": {"selection": "uniform"},
    "every token kept": {"selection": "none"},
    "without the question": {"text_conditioned": False},
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    finish(arguments, "starts", result_of(run_all(ARMS, arguments), "LinVT"))


if __name__ == "__main__":
    main()
