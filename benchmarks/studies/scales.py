"""
One scale or several: our reading of the paper's variants A, B and C, by how much happens in the clips.

    python benchmarks/studies/scales.py --tokens TOKENS --folder FOLDER [--page docs/results.md]

"single" pools nothing, "shared" puts windows of 1, 2 and 4 kept tokens into one pool, "specific" gives each its own
queries. Columns stand in the order of what is new in a clip: a needle, several, a moment beside what stands still,
whole scenes.
"""

from shared import finish
from trained import parser_of, result_of, run_all


SCALES = (1, 2, 4)
ARMS = {
    "LinVT": {},  # one scale
    "shared scales": {"scale_mode": "shared", "pooling_scales": SCALES},
    "specific scales": {"scale_mode": "specific", "pooling_scales": SCALES},
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    finish(arguments, "scales", result_of(run_all(ARMS, arguments), "LinVT"))


if __name__ == "__main__":
    main()
