"""
LinVT beside other ways of making few tokens of many: mean over time, some frames, one frame, and all tokens.

    python benchmarks/studies/pooling.py --tokens TOKENS --folder FOLDER [--page docs/results.md] [--plot bars.png]

Every arm is trained on the same clips in the same steps with the same budget of 32 tokens, beside the same frozen base
and with the same LoRA; arms other than LinVT have a residual adapter with as many weights as LinVT behind their
tokens. "all" is the upper reference: it shows every token, and its cost stands beside it.
"""

from pathlib import Path

from trained import finish, parser_of, plot, run_all, table


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
    """Run what is missing, and make table and plot."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    runs = run_all(ARMS, arguments)
    finish(arguments, "pooling", table(runs, "LinVT"))
    if arguments.plot:
        plot(runs, arguments.plot)


if __name__ == "__main__":
    main()
