"""
With and without the question, at a budget where it must matter: four tokens, four needles, one of them asked for.

    python benchmarks/studies/question.py --tokens TOKENS --folder FOLDER [--page docs/results.md]
"""

from shared import finish
from trained import parser_of, result_of, run_all


ARMS = {"with the question": {}, "without": {"text_conditioned": False}}
# as the arms "question seen" and "question unseen" of training_recipe.py
FEW_TOKENS = {
    "num_video_tokens": 4,
    "num_kept_tokens": 64,
    "picture_share": 0.0,
    "mix": (("needle", None, 1), ("needles", None, 2)),
}


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=300, questions=32, frames=32)
    parser.set_defaults(kinds=["needle", "needles"])
    arguments = parser.parse_args()
    finish(arguments, "question", result_of(run_all(ARMS, arguments, FEW_TOKENS), "with the question"))


if __name__ == "__main__":
    main()
