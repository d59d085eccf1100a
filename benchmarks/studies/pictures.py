"""
What becomes of the image ability: before and after, adapters on and off, as pictures and as still clips.

    python benchmarks/studies/pictures.py --folder FOLDER [--checkpoint CHECKPOINT] [--page docs/results.md]

The base alone, the checkpoint with its adapters off and on, on the same pictures; and still clips through LinVT beside
their first frame as a picture, adapters on. Differences are paired, with 95 % intervals over pictures or clips. Killed
and called again it goes on.
"""

from pathlib import Path

from shared import (
    NAMES,
    SCRIPTS,
    Figure,
    Result,
    answers_of,
    difference,
    figure_of,
    finish,
    kept,
    parser_of,
    share,
    told,
)

from transformers_linvt import embedded_model_path
from transformers_linvt.evaluation import Answerer, EvaluationSettings


CONDITIONS = ("base", "adapters off", "adapters on")


def make(checkpoint: str, condition: str, arm: str | None, arguments) -> Answerer:
    """The model of one condition."""
    options = {"device": arguments.device, "batch_size": arguments.batch_size}
    answerer = Answerer.from_pretrained(checkpoint, arm=arm, **options)
    if condition == "base":
        base, processor = answerer.model.base_vlm, answerer.processor.base_processor
        if getattr(answerer.model, "peft_config", None):
            answerer.model.disable_adapters()
        return Answerer(base, processor, arm="all", batch_size=arguments.batch_size)
    if condition == "adapters off" and getattr(answerer.model, "peft_config", None):
        answerer.model.disable_adapters()
    return answerer


def table(pictures: dict, clips: dict) -> Result:
    """Percent of right answers, and what differs."""
    panels: dict[str, dict[str, Figure]] = {}
    rows: list[tuple[str, ...]] = [
        ("question", *CONDITIONS, "off less base", "on less base", "still clip", "its picture", "clip less picture")
    ]
    base, off, on = (answers_of(pictures[condition]) for condition in CONDITIONS)
    through, beside = (answers_of(clips[arm]) for arm in ("linvt", "middle"))
    for cell in base:
        still = next(one for one in through if one[4] == cell[4])
        shown = (base[cell], off[cell], on[cell], through[still], beside[still])
        names = (*CONDITIONS, "still clip", "its picture")
        panels[NAMES.get(cell[4], cell[4])] = dict(zip(names, map(figure_of, shown), strict=True))
        rows.append(
            (
                NAMES.get(cell[4], cell[4]),
                *(f"{share(one[cell]):.1f}" for one in (base, off, on)),
                told(difference(base[cell], off[cell])),
                told(difference(base[cell], on[cell])),
                f"{share(through[still]):.1f}",
                f"{share(beside[still]):.1f}",
                told(difference(beside[still], through[still])),
            )
        )
    return Result(rows, panels)


def main() -> None:
    """Run what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], clips=200)
    parser.add_argument("--frames", type=int, default=16, help="of a still clip (%(default)s)")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or embedded_model_path()
    pictures: dict = {condition: [] for condition in CONDITIONS}
    clips: dict = {"linvt": [], "middle": []}

    def run(name: str, diagnostic: str, seed: int, condition: str, arm: str | None) -> dict:
        settings = EvaluationSettings(
            (diagnostic,), (arguments.frames,), num_clips=arguments.clips, seed=seed, num_scripts=SCRIPTS
        )
        path: Path = arguments.folder / f"{diagnostic} {name} {seed}.json".replace(" ", "_")
        asked = None if arguments.table else lambda: make(checkpoint, condition, arm, arguments)
        return kept(path, settings, asked, f"{diagnostic} {name}, seed {seed}")

    for seed in arguments.seeds:
        for condition in CONDITIONS:
            pictures[condition].append(run(condition, "pictures", seed, condition, None))
        for arm in clips:
            clips[arm].append(run(arm, "static", seed, "adapters on", arm))
    finish(arguments, "pictures", table(pictures, clips))


if __name__ == "__main__":
    main()
