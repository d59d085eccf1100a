"""
LinVT beside other ways of making few tokens of many: mean over time, some frames, one frame, and all tokens.

    python benchmarks/studies/pooling.py --tokens TOKENS --folder FOLDER [--page docs/results.md] [--plot bars.png]

Every arm is trained on the same clips in the same steps with the same budget of 32 tokens, beside the same frozen base
and with the same LoRA; arms other than LinVT have a residual adapter with as many weights as LinVT behind their
tokens. "all" is the upper reference: it shows every token, and its cost stands beside it.
"""

from shared import finish
from trained import parser_of, result_of, run_all


ARMS = {
    "LinVT": {},
    "mean over time": {"condenser": "mean over time"},
    "uniform frames": {"condenser": "uniform frames"},
    "middle frame": {"condenser": "middle frame"},
    "all": {"condenser": "all"},
    "lattice": {"condenser": "lattice"},
    "k-means": {"condenser": "k-means"},
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    finish(arguments, "pooling", result_of(run_all(ARMS, arguments), "LinVT"))


if __name__ == "__main__":
    main()
