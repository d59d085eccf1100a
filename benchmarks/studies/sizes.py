"""
How many video tokens, kept tokens, layers and how wide: right answers beside tokens of a clip and work of a question.

    python benchmarks/studies/sizes.py --tokens TOKENS --folder FOLDER [--page docs/results.md]

The work is what LinVT and the language model compute for one question about a clip whose frames are tokens already
(those are the same for every arm), in millions of floating point operations, counted by torch: two for each product of
matrices' elements. Under the table stands which setting is the best of each column, and which are the best of all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from shared import Result, finish, load_pyplot, save, share
from torch.utils.flop_counter import FlopCounterMode
from trained import (
    Recipe,
    SmallModel,
    answers_of,
    best_of,
    columns_of,
    evaluated_clips,
    parser_of,
    replace,
    result_of,
    run_all,
    stored_clips,
)


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
WORK = "MFLOPs of a question"


@torch.no_grad()
def work_of(changed: Mapping, frame_tokens: torch.Tensor, question) -> float:
    """
    Millions of floating point operations for one question about one clip.

    Args:
        changed: what the arm changes of the recipe.
        frame_tokens (`torch.Tensor` of shape `(num_frames, 16, 128)`): of the clip.
        question (`Question`): with its answer, whose tokens are read too.
    """
    model = SmallModel(replace(Recipe(), **changed), 0)
    model.model.eval().requires_grad_(False)  # else the counter looks for gradients
    with FlopCounterMode(display=False) as counter:
        refined = model.refine(frame_tokens[None].float())
        prompts = model.prompts([(question.question, question.answer)], model.numbers_of_tokens(refined))
        model.logits(prompts, model.condense(refined, prompts))
    return counter.get_total_flops() / 1e6


def plot(runs: Mapping[str, Sequence[Mapping]], work: Mapping[str, float], path: Path) -> None:
    """Mean of all columns over tokens of a clip and over the work of a question, a point per arm."""
    figure, axes = load_pyplot().subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
    columns = columns_of(runs, "LinVT")
    for number, (name, of_arm) in enumerate(runs.items()):
        own = answers_of(of_arm)
        right = np.mean([share(own[column]) for column in columns])
        style = {"color": f"C{number % 10}", "marker": "os"[number // 10], "linestyle": ""}
        axes[0].plot(np.mean([run["tokens"] for run in of_arm]), right, **style, label=name)
        axes[1].plot(work[name], right, **style)
    axes[0].set(xlabel="tokens of a clip", ylabel="right answers, %, mean of the columns")
    axes[1].set(xlabel=WORK)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    save(figure, path)


def summary(runs: Mapping[str, Sequence[Mapping]], work: Mapping[str, float]) -> Result:
    """The table with the work of a question, and what is best."""
    result = result_of(runs, "LinVT", {WORK: {name: f"{value:.0f}" for name, value in work.items()}})
    result.note = best_of(runs, columns_of(runs, "LinVT"))
    result.draw = lambda path: plot(runs, work, path)
    return result


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], seeds=(101, 102, 103), steps=200, questions=24, frames=32)
    arguments = parser.parse_args()
    runs = run_all(ARMS, arguments)
    kind = arguments.kinds[0]
    clips = stored_clips(*evaluated_clips(arguments.tokens, "clip", arguments.frames, kind, 100))
    asked = clips.tokens[0], clips.scripts[0].questions[0]
    finish(arguments, "sizes", summary(runs, {name: work_of(ARMS[name], *asked) for name in runs}))


if __name__ == "__main__":
    main()
