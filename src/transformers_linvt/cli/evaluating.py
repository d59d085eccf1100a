"""`linvt eval`: diagnostics whose answers are known, and two models compared on them."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import transformers_linvt

from .. import evaluation
from ..errors import LinVTInputError
from ..files import replacing
from .loading import check_reachable, trusted


_REPORT = ".json"
_DEFAULT = "evaluation.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Names of diagnostics and ways of asking; loading them loads torch."""
    parser.add_argument(
        "--diagnostics",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(evaluation.DIAGNOSTICS)}; all if not given",
    )
    arms = "; ".join(f"{name}: {shows}" for name, shows in evaluation.ARMS.items())
    parser.add_argument("--arm", choices=evaluation.ARMS, help=f"how clips are shown ({arms})")


def run(arguments: argparse.Namespace) -> None:
    """Ask one model, or compare two."""
    if arguments.write_clips:
        _check_unused(arguments, "--write-clips DIR asks no model")
        _write(arguments)
        return
    if arguments.compare:
        _compare(arguments)
        return
    output = Path(arguments.output or _DEFAULT)
    report = _evaluate(arguments.model or transformers_linvt.embedded_model_path(), output, arguments)
    _print(report)
    print(f"{output}: versions, settings, intervals and every single answer")


def _compare(arguments: argparse.Namespace) -> None:
    """Print the comparison card of two evaluations, and write it where that is wanted."""
    if arguments.model:
        raise LinVTInputError("--compare takes two evaluations or models, and no other: linvt eval --compare A B.")
    one, other = arguments.compare
    if one == other:
        raise LinVTInputError(f"--compare was given {one} twice. Name two evaluations or models.")
    if all(name.endswith(_REPORT) for name in arguments.compare):
        given = [flag for flag, value in _of_clips(arguments).items() if value is not None]
        if given:
            raise LinVTInputError(
                f"{given[0]} says what is asked, and two evaluations that are there already were asked before. Leave "
                "it out, or name two models."
            )
        but = ("--compare", "--output", "--restart")[: 3 if arguments.output else 2]
        _check_unused(arguments, "two evaluations that are there already ask no model", but)
    output = Path(arguments.output) if arguments.output else None
    if output:
        _check_output(output, arguments.restart)
    files = _report_files(arguments.compare, output.parent if output else Path())
    card = evaluation.comparison_card(
        *(_report_of(name, file, arguments) for name, file in zip(arguments.compare, files, strict=True))
    )
    print(evaluation.told_of(card))
    print("Percent of right answers of each, how many points the second has more on the same questions, with 95 %")
    print("intervals over clips, and how many questions only one of them answered rightly; p is of McNemar's exact")
    print("test, which takes questions for independent: where nothing differs, one row in twenty has less than 0.05.")
    print(evaluation.aligned(evaluation.table_of_differences(evaluation.differences_of(card))))
    if output:
        with replacing(output) as whole:
            whole.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        print(f"{output}: the same as JSON")


def _of_clips(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flags that say what clips there are, with what was given for them."""
    names = ("diagnostics", "frames", "lengths", "clips", "size", "seed")
    return {f"--{name}": getattr(arguments, name) for name in names}


def _check_unused(arguments: argparse.Namespace, why: str, but: Sequence[str] = ()) -> None:
    """
    Refuse what says which model is asked, and how, where none is.

    Raises:
        LinVTInputError: an argument that would have no effect.
    """
    asking = ("instruction", "max_new_tokens", "arm", "uniform_frames", "batch_size", "skip_duplicate_frames")
    names = ("compare", "output", "restart", *asking, "device", "dtype", "trust_remote_code")
    flags = {f"--{name.replace('_', '-')}": getattr(arguments, name) for name in names}
    unset = {"--dtype": "auto", "--restart": False, "--trust-remote-code": False}
    for flag, value in {"MODEL": arguments.model, **flags}.items():
        if value != unset.get(flag) and flag not in but:
            raise LinVTInputError(f"{flag} has no effect: {why}. Leave it out.")


def _report_files(names: Sequence[str], folder: Path) -> list[Path]:
    """
    Where the evaluation of each model goes: its name, with the folder that it is in where both have one name.

    >>> [path.name for path in _report_files(["runs/a/stage_2", "runs/b/stage_2"], Path())]
    ['a-stage_2.json', 'b-stage_2.json']
    """
    parts = [Path(name).absolute().parts for name in names]
    count = next(n for n in range(1, 99) if parts[0][-n:] != parts[1][-n:])
    return [folder / f"{'-'.join(of_name[-count:])}{_REPORT}" for of_name in parts]


def _settings(arguments: argparse.Namespace) -> Any:
    given = {
        "diagnostics": arguments.diagnostics,
        "num_frames": arguments.frames,
        "lengths": arguments.lengths,
        "num_clips": arguments.clips,
        "size": arguments.size,
        "seed": arguments.seed,
        "instruction": arguments.instruction,
        "max_new_tokens": arguments.max_new_tokens,
        "num_uniform": arguments.uniform_frames,
    }
    named: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    settings = transformers_linvt.EvaluationSettings(
        **{name: value for name, value in named.items() if value is not None}
    )
    asked = set(settings.diagnostics)
    for flag, value, is_used, whose in (
        (
            "--frames",
            arguments.frames,
            asked - {"pictures", "length"},
            "pictures have one frame, length has --lengths",
        ),
        ("--lengths", arguments.lengths, "length" in asked, "it is of the clips of length"),
    ):
        if value is not None and not is_used:
            told = " ".join(settings.diagnostics)
            raise LinVTInputError(f"{flag} has no effect with --diagnostics {told}: {whose}. Leave it out.")
    return settings


def _evaluate(name: str, output: Path, arguments: argparse.Namespace, reuse: bool = False) -> dict[str, Any]:
    settings = _settings(arguments)  # refuses bad numbers before a model is loaded
    _check_output(output, arguments.restart or reuse)
    check_reachable(name)
    answerer = transformers_linvt.Answerer.from_pretrained(
        name,
        device=arguments.device,
        dtype=arguments.dtype,
        loading=trusted(arguments),
        arm=arguments.arm,
        skip_duplicate_frames=arguments.skip_duplicate_frames,
        **({} if arguments.batch_size is None else {"batch_size": arguments.batch_size}),
        num_uniform=settings.num_uniform,
        max_new_tokens=settings.max_new_tokens,
        instruction=settings.instruction,
    )
    # tqdm's own: those of transformers and the hub are switched off while a command runs
    with tqdm(unit="clip", disable=None, leave=False) as bar:

        def tell(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        # where the package lies says nothing about the model that it carries
        shown = "embedded" if name == transformers_linvt.embedded_model_path() else name
        try:
            return transformers_linvt.evaluate(answerer, settings, output, shown, tell, arguments.restart, reuse)
        except KeyboardInterrupt:
            bar.close()
            print("What was answered is kept; the same command goes on where it was.", file=sys.stderr)
            raise


def _check_output(output: Path, may_exist: bool) -> None:
    if not output.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {output.absolute().parent} does not exist. Make it first.")
    if output.exists() and not may_exist:
        raise LinVTInputError(f"{output} exists already. Name another file with --output, or say --restart.")


def _report_of(name: str, file: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """An evaluation from its file, or of a checkpoint, which is asked first unless that was done before."""
    if name.endswith(_REPORT):
        return evaluation.read_report(name)
    print(f"{name}: what it answers goes to {file}", file=sys.stderr)
    return _evaluate(name, file, arguments, reuse=True)


def _print(report: dict[str, Any]) -> None:
    model, settings = report["model"], report["settings"]
    about = f"{model['name']} ({model['class']}, arm {model['arm']}), seed {settings['seed']}"
    print(f"{about}: percent of right answers, 95 % intervals over clips; beside")
    print(
        "them chance, a constant, what the words of the question give away, and the most that an ideal reader reaches"
    )
    print("behind each policy.")
    print(evaluation.aligned(evaluation.table_of_results(report)))


def _write(arguments: argparse.Namespace) -> None:
    """Clips and questions as files, for whatever else is to be asked."""
    settings = _settings(arguments)
    clips = [
        clip
        for name, num_frames in settings.cells()
        for clip in evaluation.make_clips(name, settings.num_clips, num_frames, settings.seed)
    ]
    path = evaluation.write_clips(arguments.write_clips, clips, settings.size)
    print(f"{path}: {sum(len(clip.questions) for clip in clips)} questions about {len(clips)} clips and pictures")
