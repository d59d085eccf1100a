"""`linvt eval`: diagnostics whose answers are known, and two models compared on them."""

import argparse
import sys
from pathlib import Path
from typing import Any

import huggingface_hub

import transformers_linvt

from .. import evaluation
from ..errors import LinVTInputError
from .loading import check_reachable, trusted


_REPORT = ".json"


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
    asks = not arguments.write_clips and not all(name.endswith(_REPORT) for name in arguments.compare or [""])
    if arguments.skip_duplicate_frames is not None and not asks:
        raise LinVTInputError("--skip-duplicate-frames has no effect where no model is asked. Leave it out.")
    if arguments.write_clips:
        _write(arguments)
        return
    if arguments.compare:
        if arguments.model:
            raise LinVTInputError("--compare takes two evaluations or models, and no other: linvt eval --compare A B.")
        reports = [_report_of(name, arguments) for name in arguments.compare]
        print(f"{arguments.compare[1]} less {arguments.compare[0]}, in points of a percent, on the same questions")
        print(evaluation.aligned(evaluation.table_of_differences(evaluation.compare(*reports))))
        return
    report = _evaluate(arguments.model or transformers_linvt.embedded_model_path(), Path(arguments.output), arguments)
    _print(report)
    print(f"{arguments.output}: versions, settings, intervals and every single answer")


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
    return transformers_linvt.EvaluationSettings(**{name: value for name, value in named.items() if value is not None})


def _evaluate(name: str, output: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    settings = _settings(arguments)  # refuses bad numbers before a model is loaded
    if not output.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {output.absolute().parent} does not exist. Make it first.")
    if output.exists() and not arguments.restart:
        raise LinVTInputError(f"{output} exists already. Name another file with --output, or say --restart.")
    check_reachable(name)
    answerer = transformers_linvt.Answerer.from_pretrained(
        name,
        device=arguments.device,
        dtype=arguments.dtype,
        loading=trusted(arguments),
        arm=arguments.arm,
        skip_duplicate_frames=arguments.skip_duplicate_frames,
        batch_size=arguments.batch_size,
        num_uniform=settings.num_uniform,
        max_new_tokens=settings.max_new_tokens,
        instruction=settings.instruction,
    )
    with huggingface_hub.utils.tqdm(unit="clip", disable=not sys.stderr.isatty(), leave=False) as bar:

        def tell(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        # where the package lies says nothing about the model that it carries
        shown = "embedded" if name == transformers_linvt.embedded_model_path() else name
        return transformers_linvt.evaluate(answerer, settings, output, shown, tell, arguments.restart)


def _report_of(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """An evaluation from its file, or of a checkpoint, which is asked first."""
    if name.endswith(_REPORT):
        return evaluation.read_report(name)
    output = Path(f"{Path(name).name}{_REPORT}")
    print(f"{name} is asked; what it answers goes to {output}")
    return _evaluate(name, output, arguments)


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
