"""
How many video tokens, kept tokens, layers and how wide: right answers beside tokens of a clip and time of a step.

    python benchmarks/studies/sizes.py --tokens TOKENS --folder FOLDER [--page docs/results.md]
"""

from trained import finish, parser_of, run_all, table


ARMS = {
    "LinVT": {},  # 32 video tokens of at most 128 kept ones, two layers each, 64 wide
    "M=8": {"num_video_tokens": 8},
    "M=16": {"num_video_tokens": 16},
    "M=64": {"num_video_tokens": 64},
    "k=32": {"num_kept_tokens": 32},
    "k=all": {"num_kept_tokens": 512},
    "one layer": {"num_scorer_layers": 1, "num_aggregator_layers": 1},
    "no scorer": {"num_scorer_layers": 0},
    "four layers": {"num_scorer_layers": 4, "num_aggregator_layers": 4},
    "d=32": {"bottleneck_size": 32},
    "d=128": {"bottleneck_size": 128},
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    finish(arguments, "sizes", table(run_all(ARMS, arguments), "LinVT"))


if __name__ == "__main__":
    main()
