"""
Videos longer than any that was trained on: right answers by number of frames and by the place of the needle.

    python benchmarks/studies/length.py --folder FOLDER [--lengths 16 64 160 1024] [--plot heat.png]

One object is there for one frame of T, at a given place; the questions are its colour, shape, position, and whether
something is there. Beside it, at the same lengths, several needles, order and count, which say how it degrades. Killed
and called again it goes on.
"""

from pathlib import Path

import numpy as np
from shared import SCRIPTS, Result, answers_of, finish, kept, load_pyplot, parser_of, save, share

from transformers_linvt import embedded_model_path
from transformers_linvt.evaluation import Answerer, EvaluationSettings, clustered_interval


OTHERS = ("needles", "order", "count")


def merged(answers: dict, chosen) -> dict:
    """All questions of the chosen cells, by clip."""
    found: dict = {}
    for cell, by_clip in answers.items():
        for clip, right in by_clip.items() if chosen(cell) else ():
            found.setdefault(clip, []).extend(right)
    return found


def table(answers: dict, lengths: list[int]) -> list[tuple[str, ...]]:
    """A row per place and per other kind of clip, a column per number of frames."""
    places = sorted({cell[3] for cell in answers if cell[0] == "length"}, key=lambda text: int(text[3:-1]))
    rows: list[tuple[str, ...]] = [("clips", *(f"{length} frames" for length in lengths))]
    wanted = [(f"needle {place}", "length", place, None) for place in places]
    wanted += [(name, name, "", {"order": "order", "count": "occurrences"}.get(name)) for name in OTHERS]
    for title, name, place, kind in wanted:
        cells = []
        for length in lengths:
            own = merged(
                answers,
                lambda cell, key=(name, length, "", place), kind=kind: cell[:4] == key and kind in (None, cell[4]),
            )
            low, high = clustered_interval(list(own.values()))
            cells.append(f"{share(own):.1f} [{low:.0f}, {high:.0f}]")
        rows.append((title, *cells))
    return rows


def plot(answers: dict, lengths: list[int], path: Path) -> None:
    """The heat map over number of frames and place of the needle."""
    places = sorted({cell[3] for cell in answers if cell[0] == "length"}, key=lambda text: int(text[3:-1]))
    shares = np.array(
        [
            [share(merged(answers, lambda cell, key=("length", n, "", place): cell[:4] == key)) for n in lengths]
            for place in places
        ]
    )
    figure, axis = load_pyplot().subplots(figsize=(8, 0.5 * len(places) + 1.2), layout="constrained")
    image = axis.imshow(shares, vmin=0, vmax=100, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(lengths)), lengths)
    axis.set_yticks(range(len(places)), places)
    axis.set(xlabel="frames", ylabel="place of the needle")
    for row, column in np.ndindex(*shares.shape):
        dark = shares[row, column] < 60
        text = f"{shares[row, column]:.0f}"
        axis.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    figure.colorbar(image, label="right answers, %")
    save(figure, path)


def main() -> None:
    """Run what is missing, and make table and plot."""
    parser = parser_of(__doc__.split("\n\n")[0], clips=50)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 160, 1024])
    arguments = parser.parse_args()
    checkpoint, lengths = arguments.checkpoint or embedded_model_path(), tuple(arguments.lengths)
    reports = []
    for seed in arguments.seeds:
        settings = EvaluationSettings(
            ("length", *OTHERS), lengths, lengths, num_clips=arguments.clips, seed=seed, num_scripts=SCRIPTS
        )
        options = {"device": arguments.device, "batch_size": arguments.batch_size}
        asked = None if arguments.table else lambda: Answerer.from_pretrained(checkpoint, **options)  # noqa: B023
        reports.append(kept(arguments.folder / f"length_{seed}.json", settings, asked, f"length, seed {seed}"))
    answers = answers_of(reports)
    draw = lambda path: plot(answers, list(lengths), path)  # noqa: E731
    finish(arguments, "length", Result(table(answers, list(lengths)), draw=draw))


if __name__ == "__main__":
    main()
