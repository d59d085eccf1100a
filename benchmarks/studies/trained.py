"""
What the studies with training share: arms on the same data in the same steps, each kept question by question.

Frame tokens come from `recipe_data.py`, the training is that of `training_recipe.py`, with fewer steps and with the
kinds of clips that few steps suffice for. Every run is a file; what is there is not run again. Clips are of the split
"clip", which no training sees. Answers of all seeds about one clip are one cluster: intervals are over clips.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import shared  # first: it says where the trainer is
import torch
from recipe_data import evaluated_clips, load_training, stored_clips, stored_pictures
from training_recipe import Evaluator, Recipe, SmallModel, Trainer, variants

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.files import replacing


# what few steps suffice for: directions and how often something appears take a thousand
MIX = (("needle", None, 1), ("needles", None, 3), ("static", None, 1), ("moment", None, 2), ("order", None, 3))
KINDS = ("needle", "needles", "moment", "scenes", "static", "order")
COLUMNS = (*KINDS[:-1], "which came first", "pictures")

Answers = dict[str, dict[int, list[bool]]]  # column -> clip -> right or wrong, of all seeds


def parser_of(
    description: str, seeds: Sequence[int], steps: int | Sequence[int], questions: int, frames: int
) -> argparse.ArgumentParser:
    """The arguments that every study with training has; several numbers of steps where a study compares them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tokens", type=Path, required=True, help="frame tokens, made by recipe_data.py if missing")
    parser.add_argument("--folder", type=Path, required=True, help="for runs, which are made once and kept")
    parser.add_argument("--arms", nargs="+", help="some of the arms only")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    nargs = None if isinstance(steps, int) else "+"
    parser.add_argument("--steps", type=int, nargs=nargs, default=steps, help="of every run (%(default)s)")
    parser.add_argument("--questions", type=int, default=questions, help="of every step (%(default)s)")
    parser.add_argument("--frames", type=int, default=frames, help="of the clips asked about (%(default)s)")
    parser.add_argument("--clips", type=int, default=100, help="of every kind (%(default)s)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    shared.add_output_arguments(parser)
    return parser


def run_all(arms: Mapping[str, Mapping], arguments: argparse.Namespace, defaults: Mapping | None = None) -> dict:
    """
    Every arm on every seed; seeds first, so that what was stopped has whole comparisons.

    Args:
        arms: a name and what it changes of the recipe.
        defaults: what this study changes for all arms.

    Returns:
        Runs by arm.
    """
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    chosen = arguments.arms or list(arms)
    if unknown := [name for name in chosen if name not in arms]:
        raise LinVTInputError(f"{unknown[0]!r} is no arm of this study. Use {', '.join(arms)}.")
    common = {"mix": MIX, **(defaults or {}), "steps": arguments.steps, "batch_size": arguments.questions}
    runs: dict[str, list] = defaultdict(list)
    data: dict = {}
    for seed in arguments.seeds:
        for name in chosen:
            recipe = replace(Recipe(), **{**common, **arms[name]})
            if (run := _kept(recipe, seed, arguments)) is None:
                if arguments.table:
                    continue
                run = _run(recipe, seed, arguments, data)
                _keep(run, _path(recipe, seed, arguments))
                print(f"{name}, seed {seed}: {_told(run)}", flush=True)
            runs[name].append(run)
    if arguments.table:  # only seeds that every arm has
        both = set.intersection(*({run["seed"] for run in runs[name]} for name in chosen))
        runs = {name: [run for run in runs[name] if run["seed"] in both] for name in chosen}
        if not both:
            raise LinVTInputError("There is no seed that every arm was run on. Leave --table out, or name --arms.")
    return dict(runs)


def answers_of(runs: Sequence[Mapping]) -> Answers:
    """Right or wrong by column and clip, the seeds of one clip together, in the order of the seeds."""
    found: Answers = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, clip, _, kind, right in run["answers"]:
            column = "which came first" if name == "order" else name
            if name != "order" or kind == "order":
                found[column][clip].append(right)
    return {column: dict(by_clip) for column, by_clip in found.items()}


def result_of(
    runs: Mapping[str, Sequence[Mapping]], reference: str, more: Mapping[str, Mapping[str, str]] | None = None
) -> shared.Result:
    """
    Right answers with intervals, tokens and seconds; below each other arm how much the reference has more.

    Args:
        runs: by arm.
        reference: the arm that others are compared with.
        more: further columns before the right answers: a heading, and a cell for every arm.
    """
    own = {name: answers_of(of_arm) for name, of_arm in runs.items()}
    columns, more = columns_of(runs, reference), more or {}
    panels = {column: {name: shared.figure_of(own[name][column]) for name in runs} for column in columns}
    rows: list[tuple] = [("", "tokens of a clip", "ms per step", *more, *columns)]
    for name, of_arm in runs.items():
        tokens, seconds = (np.mean([run[key] for run in of_arm]) for key in ("tokens", "cpu_seconds_per_step"))
        cost = f"{tokens:.0f}", f"{1000 * seconds:.0f}", *(cells[name] for cells in more.values())
        cells = ("{:.1f} [{:.0f}, {:.0f}]".format(*panels[column][name]) for column in columns)
        rows.append((name, *cost, *cells))
    for name in runs:
        if name != reference:
            gains = (shared.told(shared.difference(own[name][column], own[reference][column])) for column in columns)
            rows.append((f"{reference} less {name}", "", "", *("" for _ in more), *gains))
    return shared.Result(rows, panels)


def columns_of(runs: Mapping[str, Sequence[Mapping]], reference: str) -> list[str]:
    """What was asked, in the order of the table."""
    asked = answers_of(runs[reference])
    return [column for column in COLUMNS if column in asked]


def best_of(runs: Mapping[str, Sequence[Mapping]], columns: Sequence[str]) -> str:
    """Which arm is the best of each column, and which are nowhere worse than it by more than the interval."""
    own = {name: answers_of(of_arm) for name, of_arm in runs.items()}
    good, told = list(runs), []
    for column in columns:
        shares = {name: shared.share(own[name][column]) for name in runs}
        best = [name for name in runs if shares[name] == max(shares.values())]
        told.append(f"{column}: {', '.join(best)}")
        good = [name for name in good if shared.difference(own[name][column], own[best[0]][column]).low <= 0]
    which = f"Within the interval of the best in every column: {', '.join(good)}." if good else ""
    return f"Best in {'; '.join(told)}. {which or 'No setting is within the interval of the best in every column.'}"


def _run(recipe: Recipe, seed: int, arguments: argparse.Namespace, data: dict) -> dict:
    """Train one arm and ask it everything."""
    if not data:
        data["train"] = load_training(arguments.tokens)
        data["clips"] = {
            kind: stored_clips(*evaluated_clips(arguments.tokens, "clip", arguments.frames, kind, 100))
            for kind in arguments.kinds
        }
        data["pictures"] = stored_pictures(arguments.tokens / "pictures_clip.pt", 200, "clip")
    model = SmallModel(recipe, seed, device=arguments.device)
    trained = Trainer(model, *data["train"], seed, lambda line: print(line, flush=True)).run()
    model.linvt.eval()
    start, evaluator = time.perf_counter(), Evaluator(model)
    answers, tokens = [], []
    for kind, encoded in data["clips"].items():
        name, frame_tokens, questions = next(variants(kind, encoded))  # as they are, not shuffled
        for first in range(0, arguments.clips, evaluator.clips_at_once):
            part = slice(first, min(first + evaluator.clips_at_once, arguments.clips))
            answers += _rows(name, first, questions[part], evaluator.right(frame_tokens[part], questions[part]))
            with torch.no_grad():
                shown = frame_tokens[part].to(model.device).float()
                tokens += model.numbers_of_tokens(model.refine(shown))
    first = 0
    for encoded in data["pictures"].values():
        questions = [[question] for question in encoded.questions]
        answers += _rows("pictures", first, questions, evaluator.right(encoded.tokens, questions))
        first += len(questions)
    about = {"seed": seed, "split": "clip", "frames": arguments.frames, "clips": arguments.clips}
    about |= {"tokens": float(np.mean(tokens)), "seconds_of_evaluation": round(time.perf_counter() - start, 1)}
    return {**about, **trained, "recipe": _plain(recipe), "answers": answers}


def _rows(name: str, first: int, questions: Sequence, right: Sequence[bool]) -> list[list]:
    asked = [(first + number, question) for number, several in enumerate(questions) for question in several]
    return [[name, clip, q.subject, q.kind, one] for (clip, q), one in zip(asked, right, strict=True)]


def _plain(recipe: Recipe) -> dict:
    return json.loads(json.dumps(asdict(recipe)))


def _path(recipe: Recipe, seed: int, arguments: argparse.Namespace) -> Path:
    """A run is where its whole recipe says: studies share the runs that they have in common."""
    changed = {name: value for name, value in _plain(recipe).items() if value != _plain(Recipe())[name]}
    changed.pop("mix", None)
    words = [f"{name}={value}" for name, value in changed.items()] + [f"T={arguments.frames}", f"seed={seed}"]
    return arguments.folder / ("_".join(words).replace(" ", "-") + ".json")


def _kept(recipe: Recipe, seed: int, arguments: argparse.Namespace) -> dict | None:
    path = _path(recipe, seed, arguments)
    if not path.exists():
        return None
    run = json.loads(path.read_text(encoding="utf-8"))
    asked = {"clips": arguments.clips, "frames": arguments.frames, "recipe": _plain(recipe)}
    different = [name for name, value in asked.items() if run[name] != value]
    if different or not {*arguments.kinds} <= {row[0] for row in run["answers"]}:
        raise LinVTInputError(f"{path} was made with other settings. Name another folder, or remove it.")
    run["answers"] = [row for row in run["answers"] if row[0] in (*arguments.kinds, "pictures")]
    return run


def _keep(run: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as whole:
        whole.write_text(json.dumps(run) + "\n", encoding="utf-8")


def _told(run: Mapping) -> str:
    shares = {column: shared.share(by_clip) for column, by_clip in answers_of([run]).items()}
    return ", ".join(f"{column} {percent:.1f}" for column, percent in shares.items())
