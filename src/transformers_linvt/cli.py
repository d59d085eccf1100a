"""
The command `linvt`: ask, inspect, wrap, convert, demo. Thin layers over the Python API.

Every expected failure is one line on stderr and an exit status: 1 for what is wrong with files and models, 2 for what
is wrong with the command, 130 when interrupted. Files appear whole or not at all.
"""

import argparse
import contextlib
import json
import logging
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import transformers

import transformers_linvt

from .demo.embedded import EMBEDDED_MODEL_KNOWS
from .demo.shapes import make_clip, write_clip
from .errors import CheckpointError, LinVTError, LinVTInputError, check_folder
from .evidence.evidence import check_picture_path
from .video.limits import VideoLimits


# What may go wrong with a user's files and models; anything else is a mistake of ours and keeps its traceback.
_EXPECTED = (LinVTError, OSError)
# They tell of every attempt to reach the network; how it ends is in the error.
# torchao, which PEFT loads where it is installed, says which of its kernels this machine has no use for
_TALKATIVE = (
    "filelock",
    "httpcore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "torch.utils._pytree",
    "torchao",
    "urllib3",
)
_CONNECT_SECONDS = 10
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_BACKENDS = ("auto", "pyav", "decord", "torchcodec")
# Kinds of clips of the demo with what they show. The first seed of each kind: nothing was picked.
_DEMO_CLIPS = {
    "static": "one picture all along",
    "scenes": "four scenes, one after the other",
    "order": "one object, then another",
    "needle": "one object, for a moment only",
    "moment": "two objects stand still, a third is there for a moment",
    "count": "one object comes and goes",
    "traverse": "one object crosses the picture",
}
_DEMO_FRAMES, _DEMO_FPS = 32, 8


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*):
            Arguments without the name of the program; those of the process if not given.

    Returns:
        `int`: The exit status.
    """
    arguments = _parser().parse_args(argv)
    notes: list[str] = []
    try:
        with _quiet(arguments.verbose, notes):
            arguments.run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # whoever read has seen enough; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _EXPECTED as error:
        if arguments.verbose:
            traceback.print_exc()
        _complain(str(error) or type(error).__name__)
        return 1
    for note in dict.fromkeys(notes):
        _complain(f"note: {note}")
    return 0


def _complain(message: str) -> None:
    """One line on stderr, whatever the message looks like."""
    print("linvt:", " ".join(message.split()), file=sys.stderr)


@contextlib.contextmanager
def _quiet(verbose: bool, notes: list[str]) -> Iterator[None]:
    """Keep the libraries silent, and our own warnings for the end, so that a failure is one line."""
    if verbose:
        yield
        return

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    own, collector = logging.getLogger(transformers_linvt.__name__), Collector(logging.WARNING)
    log, had_bars, propagated = transformers.logging, transformers.logging.is_progress_bar_enabled(), own.propagate
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    own.addHandler(collector)
    own.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.removeHandler(collector)
        own.propagate = propagated
        log.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if had_bars:
            log.enable_progress_bar()


# ---------------------------------------------------------------------------------------------------------------------
# The arguments
# ---------------------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"linvt: {' '.join(message.split())} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="linvt",
        description="Questions about videos for image-text models, and the frames and places answers depended on.",
    )
    parser.add_argument("--version", action="version", version=f"linvt {transformers_linvt.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    ask = commands.add_parser("ask", help="answer questions about a video")
    ask.add_argument("video", metavar="VIDEO", help="a video file, or a URL with --allow-urls")
    ask.add_argument(
        "questions",
        type=_question,
        metavar="QUESTION",
        nargs="+",
        help="the video is decoded and encoded once for all",
    )
    _add_model_arguments(ask)
    _add_sampling_arguments(ask)
    ask.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="length of an answer at most")
    ask.add_argument(
        "--evidence",
        metavar="OUT.png",
        help="draw which frames and places the answer depended on (integrated gradients through the exact weights, a "
        "dozen more passes of the language model); for several questions OUT-1.png, OUT-2.png, ...",
    )
    ask.add_argument("--json", action="store_true", help="print one JSON object, with the evidence as numbers")
    ask.set_defaults(run=_ask)

    inspect = commands.add_parser(
        "inspect", help="draw what is kept of a video, and how much of each frame is in the video tokens"
    )
    inspect.add_argument("video", metavar="VIDEO", help="a video file, or a URL with --allow-urls")
    inspect.add_argument("output", metavar="OUT.png", help="the picture to write")
    inspect.add_argument("--question", type=_question, metavar="Q", help="what the video tokens are to be weighed for")
    _add_model_arguments(inspect)
    _add_sampling_arguments(inspect)
    inspect.set_defaults(run=_inspect)

    _add_wrap(commands)

    convert = commands.add_parser(
        "convert", help="make a published Mipha, Aquila-VL or BLIP-3 one that LinVT can wrap"
    )
    convert.add_argument("source", metavar="SOURCE", help="folder with the checkpoint as it was published")
    convert.add_argument("output", metavar="OUT", help="folder to make; must not exist or be empty")
    _add_verbose(convert)
    convert.set_defaults(run=_convert)

    demo = commands.add_parser("demo", help="draw clips, ask about them, and compare with the right answers")
    demo.add_argument("--output", metavar="DIR", default="demo", help="folder for the files (default: %(default)s)")
    _add_verbose(demo)
    demo.set_defaults(run=_demo)
    return parser


def _add_wrap(commands: Any) -> None:
    wrap = commands.add_parser("wrap", help="put an untrained LinVT around an image-text model and save it")
    wrap.add_argument("base", metavar="BASE", help="repository id or folder of an image-text model")
    wrap.add_argument("output", metavar="OUT", nargs="?", help="folder to make; must not exist or be empty")
    wrap.add_argument("--dry-run", action="store_true", help="say what it would cost; no weights are read or written")
    wrap.add_argument("--frames", type=_positive_integer, default=64, metavar="N", help="of --dry-run (%(default)s)")
    wrap.add_argument("--frame-size", type=_size, default=(360, 640), metavar="HxW", help="of --dry-run (360x640)")
    wrap.add_argument("--include-base", action="store_true", help="save the base's weights too, not only a reference")
    wrap.add_argument("--revision", help="of the base: branch, tag or commit")
    wrap.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base (Molmo)")
    wrap.add_argument("--dtype", choices=_DTYPES, default="auto", help="precision to load in (default: %(default)s)")
    fields = wrap.add_argument_group("fields of LinVTConfig, which has their defaults")
    for name, what in (
        ("num-video-tokens", "tokens the language model gets per video (default: those of one frame of the base)"),
        ("num-kept-tokens", "frame tokens kept before they are aggregated"),
        ("bottleneck-size", "width of the branch that computes the weights"),
        ("num-heads", "attention heads in that branch"),
        ("num-scorer-layers", "blocks that score the frame tokens"),
        ("num-aggregator-layers", "blocks in which the queries look at video and question"),
        ("temporal-window", "frames that see each other in the scorer"),
        ("max-frames", "frames per video at most"),
    ):
        kind = _natural_integer if name == "num-scorer-layers" else _positive_integer
        fields.add_argument(f"--{name}", type=kind, metavar="N", help=what)
    fields.add_argument("--pooling-scales", type=_scales, metavar="N,N,...", help="kept tokens per pooling window")
    fields.add_argument("--scale-mode", choices=("single", "shared", "specific"), help="queries per pooling scale")
    fields.add_argument("--selection", choices=("learned", "novelty", "uniform", "none"), help="how tokens are kept")
    fields.add_argument("--aggregation", choices=("linear", "nonlinear"), help="nonlinear gives up the invariant")
    fields.add_argument(
        "--init", choices=("keyframes", "anchored", "free"), help="what an untrained model does (keyframes)"
    )
    fields.add_argument("--frame-path", choices=("image", "video"), help="video: merged as the base's own video path")
    fields.add_argument("--video-positions", choices=("text", "grid"), help="grid: laid out in time, row and column")
    fields.add_argument(
        "--no-text-conditioned",
        dest="text_conditioned",
        action="store_false",
        default=None,
        help="ignore the question",
    )
    _add_verbose(wrap)
    wrap.set_defaults(run=_wrap)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="PATH_OR_ID", help="a LinVT checkpoint; the embedded one if not given")
    group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ...; the fastest there is if not given")
    group.add_argument("--dtype", choices=_DTYPES, default="auto", help="precision (default: %(default)s)")
    group.add_argument("--trust-remote-code", action="store_true", help="run code that comes with its base (Molmo)")
    _add_verbose(parser)


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="show warnings of the libraries, and tracebacks")


def _add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    how_many = group.add_mutually_exclusive_group()
    how_many.add_argument("--num-frames", type=_positive_integer, metavar="N", help="frames, spread evenly")
    how_many.add_argument("--fps", type=_positive_number, metavar="F", help="frames per second of the video")
    group.add_argument("--max-frames", type=_positive_integer, metavar="N", help="most frames with --fps")
    group.add_argument("--start", type=_natural_number, metavar="S", help="first second of the part to look at")
    group.add_argument("--end", type=_positive_number, metavar="S", help="last second of the part to look at")
    group.add_argument("--video-backend", choices=_BACKENDS, metavar="B", help=", ".join(_BACKENDS))
    group.add_argument("--allow-urls", action="store_true", default=None, help="VIDEO may be an http or https URL")


def _question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty")
    return text


def _positive_integer(text: str) -> int:
    return _number(text, int, "a whole number of 1 or more", 1)


def _natural_integer(text: str) -> int:
    return _number(text, int, "a whole number of 0 or more", 0)


def _positive_number(text: str) -> float:
    return _number(text, float, "a number above 0", 1e-9)


def _natural_number(text: str) -> float:
    return _number(text, float, "a number of 0 or more", 0.0)


def _scales(text: str) -> tuple[int, ...]:
    return tuple(_positive_integer(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    most = VideoLimits().max_pixels
    sides = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip().lower())
    height, width = map(int, sides.groups()) if sides else (0, 0)
    if not 1 <= height * width <= most:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HxW, height and width in pixels such as 360x640 (at most {most:,} pixels)"
        )
    return height, width


def _number(text: str, kind: type, what: str, least: float) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


# ---------------------------------------------------------------------------------------------------------------------
# The commands
# ---------------------------------------------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace) -> None:
    pictures = _pictures(arguments.evidence, len(arguments.questions))
    _check_video(arguments)
    pipe = _load(arguments.model, arguments.device, arguments.dtype, **_trust(arguments))
    given = {"max_new_tokens": arguments.max_new_tokens} if arguments.max_new_tokens else {}
    results = pipe(
        video=arguments.video,
        question=arguments.questions,
        return_evidence=bool(pictures) or arguments.json,
        **_sampling(arguments),
        **given,
    )
    for result, picture in zip(results, pictures, strict=False):
        result["evidence"].save(picture)
    if arguments.json:
        _print_json(arguments, results, pictures)
        return
    for number, result in enumerate(results):
        if len(results) > 1:
            print(f"{result['question']}\n  {result['answer']}")
        else:
            print(result["answer"])
        if pictures:
            print(f"  evidence: {pictures[number]}")
            for line in _owed(result["evidence"]):
                print(f"  {line}")
    sys.stdout.flush()
    if arguments.model is None:
        _complain(f"{EMBEDDED_MODEL_KNOWS} Name another with --model.")


def _owed(evidence: Any) -> list[str]:
    """The frames that an answer owes most to; why nothing is known of it; or nothing, of chats."""
    if evidence.attribution is None:
        return [evidence.no_attribution] if evidence.no_attribution else []
    top = [share for share in evidence.top_frames(3) if share.attribution > 0]
    return [f"{share.seconds:8.2f} s  {share.attribution:6.3f} nats of the answer's log-probability" for share in top]


def _print_json(arguments: argparse.Namespace, results: list[dict[str, Any]], pictures: list[Path]) -> None:
    """One object; the evidence as numbers, without the frames."""
    answers = []
    for number, result in enumerate(results):
        result = {**result, "evidence": result["evidence"].to_dict()}
        if pictures:
            result["evidence_picture"] = str(pictures[number])
        answers.append(result)
    model = arguments.model if arguments.model is not None else "embedded"
    print(json.dumps({"video": arguments.video, "model": model, "answers": answers}, indent=2, ensure_ascii=False))


def _inspect(arguments: argparse.Namespace) -> None:
    picture = check_picture_path(arguments.output)
    _check_video(arguments)
    pipe = _load(arguments.model, arguments.device, arguments.dtype, **_trust(arguments))
    evidence = pipe.inspect(arguments.video, arguments.question, **_sampling(arguments))
    evidence.save(picture)
    total = evidence.num_frames * evidence.tokens_per_frame
    print(
        f"{picture}: {evidence.num_frames} frames, {len(evidence.kept_indices)} of {total} frame tokens kept, "
        f"{evidence.num_video_tokens} video tokens"
    )
    for share in evidence.top_frames(3):
        print(f"  {share.seconds:8.2f} s  {100 * share.weight:5.1f} % of the weight in the video tokens")


def _wrap(arguments: argparse.Namespace) -> None:
    options = {name: value for name, value in vars(arguments).items() if value is not None}
    given = {name: options[name] for name in transformers_linvt.LinVTConfig.__annotations__ if name in options}
    hub = {**({"revision": arguments.revision} if arguments.revision else {}), **_trust(arguments)}
    if arguments.dry_run:
        _check_reachable(arguments.base, arguments.revision)
        _print_plan(_plan(arguments, given, hub))
        return
    if arguments.output is None:
        raise LinVTInputError("Name the folder to make: linvt wrap BASE OUT. With --dry-run none is made.")
    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LinVTInputError(f"{output} exists already. Name a folder that does not, or an empty one.")
    if not output.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {output.absolute().parent} does not exist. Make it first.")
    transformers_linvt.LinVTConfig(**given)  # refuses bad numbers before a repository is asked for
    _check_reachable(arguments.base, arguments.revision)
    # what --dry-run refuses
    planning = transformers_linvt.planning
    config, _, processor = planning.check_wrap(arguments.base, **hub, **given)
    given["num_video_tokens"] = config.num_video_tokens
    model = transformers_linvt.LinVTForVideoQA.from_base(arguments.base, dtype=arguments.dtype, **given, **hub)
    partial = output.absolute().with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        model.save_pretrained(partial, include_base=arguments.include_base)
        processor.save_pretrained(partial)
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    weights = sum(parameter.numel() for parameter in model.linvt.parameters())
    of_frame = planning.tokens_of_common_frame(processor.base_processor, processor.base_model_type)
    height, width = planning.COMMON_FRAME
    frame = f"; one frame of {height} x {width} pixels is {of_frame}" if of_frame is not None else ""
    print(f"{output}: LinVT with {weights:,} parameters, untrained, around {arguments.base}")
    print(f"  a video becomes {config.num_video_tokens} tokens of the language model, however long it is{frame}")
    print(
        "  the base's weights are in the folder too" if arguments.include_base else "  the base is referred to by name"
    )


def _convert(arguments: argparse.Namespace) -> None:
    transformers_linvt.convert_checkpoint(arguments.source, arguments.output)
    print(f"{arguments.output}: loads with AutoModelForImageTextToText; put LinVT around it with linvt wrap")


def _plan(arguments: argparse.Namespace, given: dict[str, Any], hub: dict[str, Any]) -> Any:
    return transformers_linvt.plan_wrap(
        arguments.base,
        num_frames=arguments.frames,
        frame_size=arguments.frame_size,
        dtype=arguments.dtype,
        **hub,
        **given,
    )


def _print_plan(plan: Any) -> None:
    """What a video costs the language model, before and after."""
    height, width = plan.frame_size
    print(f"{plan.base}: {plan.architecture}, {plan.parameters_of_base:,} parameters")
    print(f"  LinVT adds {plan.parameters_added:,} parameters")
    size, frames = f"{height} x {width} pixels", f"{plan.num_frames} frames"
    if plan.frames_per_step == 1:
        print(f"  a frame of {size} is {plan.tokens_per_frame} tokens, {frames}:")
    else:
        step = f"a step of {plan.frames_per_step} frames of {size}"
        print(f"  {step} is {plan.tokens_per_frame} tokens, {frames} are {plan.num_steps} steps:")
    rows = [("", "frame by frame" if plan.frames_per_step == 1 else "step by step", "with LinVT", "")]
    for name, before, after, unit in (
        ("visual tokens", plan.frame_tokens, plan.num_video_tokens, ""),
        ("prefill", plan.prefill_flops_before, plan.prefill_flops, "FLOP"),
        ("KV cache", plan.cache_bytes_before, plan.cache_bytes, "B"),
    ):
        known = before is not None and after is not None
        figures = [_figure(value, unit) if known else "not known" for value in (before, after)]
        rows.append((name, *figures, _compared(before, after) if known else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for note in plan.notes:
        print(f"  note: {note}")


def _compared(before: float, after: float) -> str:
    """What LinVT saves, or costs where the frames are fewer than its tokens."""
    larger, smaller = max(before, after), max(min(before, after), 1)
    times = f"{larger / smaller:,.0f}" if larger >= 2 * smaller else f"{larger / smaller:.2g}"
    return "as much" if times == "1" else f"{times} times {'less' if before > after else 'more'}"


def _figure(value: float, unit: str) -> str:
    """A number as people write it: 16,384 or 3.05 TFLOP."""
    if not unit:
        return f"{value:,}"
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while value >= 1000 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}"


def _demo(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    pipe = _load(None, None, "auto")
    print(f"{EMBEDDED_MODEL_KNOWS} Its LinVT was trained on clips of 16 frames; these have {_DEMO_FRAMES}.")
    print("What it gets wrong is shown like what it gets right.\n")
    files, right, asked = [], 0, 0
    for kind, shows in _DEMO_CLIPS.items():
        frames, questions = make_clip(kind, seed=0, num_frames=_DEMO_FRAMES)
        video, picture = folder / f"{kind}.mp4", folder / f"{kind}.png"
        write_clip(video, frames, fps=_DEMO_FPS)
        results = pipe(
            video=str(video), question=[text for text, _ in questions], num_frames=_DEMO_FRAMES, return_evidence=True
        )
        results[0]["evidence"].save(picture)
        files += [video, picture]
        right += _print_answers(video, shows, results, [answer for _, answer in questions])
        asked += len(questions)
    print(
        f"{right} of {asked} right, in {time.monotonic() - began:.0f} s. Videos, and evidence for the first answers:"
    )
    for video, picture in zip(files[::2], files[1::2], strict=True):
        print(f"  {video}  {picture}")


def _print_answers(video: Path, shows: str, results: list[dict[str, Any]], right_answers: list[str]) -> int:
    """A table of answers beside the right ones; returns how many are right."""
    first = results[0]
    seconds = _DEMO_FRAMES / _DEMO_FPS
    print(f"{video} ({seconds:g} s of H.264: {shows})")
    before, after = first["frame_tokens"], first["video_tokens"]
    print(f"  {first['frames_seen']} frames, {before} frame tokens -> {after} video tokens")
    rows = [("question", "answer", "right answer", "")]
    for result, answer in zip(results, right_answers, strict=True):
        verdict = "ok" if result["answer"] == answer else "wrong"
        rows.append((result["question"], result["answer"] or "(nothing)", answer, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print()
    return sum(row[3] == "ok" for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# What they share
# ---------------------------------------------------------------------------------------------------------------------


def _load(model: str | None, device: str | None, dtype: str, **trust: bool) -> Any:
    """The pipeline; what transformers and torch say about a bad name or device becomes an error of ours."""
    name = transformers_linvt.embedded_model_path() if model is None else model
    check_folder(name)
    _check_reachable(name)
    kind = _kind_of(name)
    if kind not in (None, transformers_linvt.LinVTConfig.model_type):
        raise LinVTInputError(
            f"{name!r} ({kind}) is no LinVT model. Put LinVT around it with linvt wrap, or with "
            "LinVTForVideoQA.from_base(model) in Python."
        )
    try:
        return transformers.pipeline("video-question-answering", model=name, device=device, dtype=dtype, **trust)
    except LinVTError:
        raise
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        on = f" on the device {device!r}" if device else ""
        raise CheckpointError(f"The model {name!r} could not be loaded{on}: {error}") from error


def _kind_of(name: str) -> Any:
    """`model_type` of a config; None where there is none to be read, which the loader says best."""
    try:
        settings = transformers.PreTrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError, TypeError):
        return None
    return settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__


def _trust(arguments: argparse.Namespace) -> dict[str, bool]:
    return {"trust_remote_code": True} if arguments.trust_remote_code else {}


def _check_reachable(name: str, revision: str | None = None) -> None:
    """
    Ask once for a repository that is to be downloaded, without trying again.

    The loaders try six times for each of a dozen files, which takes minutes where there is no network.
    """
    hub = huggingface_hub
    if os.path.exists(name) or name.startswith(("/", ".", "~")) or hub.constants.HF_HUB_OFFLINE:
        return
    try:
        hub.utils.validate_repo_id(name)
    except ValueError:  # no id of a repository: the loader says so
        return
    if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json", revision=revision), timeout=_CONNECT_SECONDS)
    except hub.errors.EntryNotFoundError:  # there, without this file: the loader says what is missing
        return
    except hub.errors.HfHubHTTPError as error:
        reason = str(error).strip()
        raise CheckpointError(
            f"The model {name!r} could not be loaded: the hub answered {reason} Check the name, and that you may "
            "read it."
        ) from error
    except Exception as error:  # of the HTTP library, which is not the same in all versions of the hub's
        raise CheckpointError(
            f"The model {name!r} could not be loaded: {hub.constants.ENDPOINT} was not reached "
            f"({error or type(error).__name__}). Check the network, or give a folder."
        ) from error


def _sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("num_frames", "fps", "max_frames", "start", "end", "video_backend", "allow_urls")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _check_video(arguments: argparse.Namespace) -> None:
    """Refuse what is no file at all before a model is loaded, which can take minutes."""
    if os.path.isfile(arguments.video) or (arguments.allow_urls and "://" in arguments.video):
        return
    transformers_linvt.read_video(arguments.video, num_frames=1)


def _pictures(output: str | None, count: int) -> list[Path]:
    """Where the evidence of each question goes, checked before anything is run."""
    if output is None:
        return []
    path = check_picture_path(output)
    if count == 1:
        return [path]
    return [check_picture_path(path.with_name(f"{path.stem}-{number + 1}{path.suffix}")) for number in range(count)]


if __name__ == "__main__":
    sys.exit(main())
