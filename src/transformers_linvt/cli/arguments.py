"""The arguments of every command, and their types."""

import argparse
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

import transformers_linvt

from ..errors import nearest_name
from ..video.limits import VideoLimits
from . import asking, benching, demonstration, evaluating, running, serving, web, wrapping
from .fields import add_fields
from .output import quiet


_DTYPES = ("auto", "float32", "bfloat16", "float16")
# of those that are numbers; which codings and hosts are allowed has options of its own, or none
_LIMITS = tuple(entry.name for entry in fields(VideoLimits) if entry.name.startswith("max_"))
_BACKENDS = ("auto", "pyav", "decord", "torchcodec")


class _Parser(argparse.ArgumentParser):
    """
    Says what is wrong in one line, without the whole usage.

    Args:
        more: adds arguments when this parser is used, which takes loading torch to know.
    """

    def __init__(self, *args: Any, more: Callable[[argparse.ArgumentParser], None] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.more = more

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        if self.more is not None:
            with quiet(False, []):  # of what is loaded here, as of what is loaded later
                self.more(self)
            self.more = None
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"linvt: {' '.join(message.split())} (see {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="linvt",
        description="Questions about videos for image-text models, and the frames and places answers depended on.",
    )
    parser.add_argument("--version", action="version", version=f"linvt {transformers_linvt.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    asking_commands = (_add_ask, _add_run, _add_bench, _add_encode, _add_inspect)
    for add in (*asking_commands, _add_wrap, _add_convert, _add_eval, _add_demo, _add_serve, _add_web):
        add(commands)
    return parser


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="answer questions about a video, or about several")
    ask.add_argument(
        "video",
        metavar="VIDEO",
        help="a video file, a URL with --allow-urls, or a file that linvt encode wrote; one or several",
    )
    ask.add_argument(
        "questions",
        type=_question,
        metavar="QUESTION",
        nargs="+",
        help="the video is decoded and encoded once for all",
    )
    _add_model_arguments(ask)
    _add_sampling_arguments(ask)
    ask.add_argument(
        "--cache-dir", metavar="DIR", help="remembers encoded videos, so that a further question is answered sooner"
    )
    ask.add_argument(
        "--subtitles",
        metavar="FILE",
        help="an SRT or WebVTT file of the video; its words are written beside the video",
    )
    ask.add_argument(
        "--max-subtitle-tokens", type=_positive_integer, metavar="N", help="most tokens that they take (1024)"
    )
    ask.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="length of an answer at most")
    ask.add_argument(
        "--evidence",
        metavar="OUT.png",
        nargs="?",
        const="",
        help="say, and draw, which frames and places the answer depended on (integrated gradients through the exact "
        "weights, a dozen more passes of the language model); for several answers OUT-1.png, OUT-2.png, ...",
    )
    ask.add_argument("--stream", action="store_true", help="print the words of an answer as they come")
    ask.add_argument("--json", action="store_true", help="print one JSON object; with --evidence its numbers too")
    ask.set_defaults(run=asking.ask)


def _add_bench(commands: Any) -> None:
    bench = commands.add_parser(
        "bench", help="measure what questions about a video cost here, with a model and with its base alone"
    )
    bench.add_argument(
        "video", metavar="VIDEO", nargs="?", help="a video file; a clip of 256x256 is drawn without one"
    )
    _add_model_arguments(bench)
    numbers = {"type": _positive_integer, "nargs": "+", "metavar": "N"}
    bench.add_argument("--num-frames", **numbers, default=[8, 32], help="frames (8 32)")
    bench.add_argument("--video-tokens", **numbers, help="M; another than the model's is measured untrained")
    bench.add_argument(
        "--ways", nargs="+", metavar="WAY", help="to ask: linvt, 'all frames', 'fewer frames', 'own video path' (all)"
    )
    bench.add_argument("--answer-tokens", type=_positive_integer, default=8, metavar="N", help="to time one on (8)")
    bench.add_argument("--repeats", type=_positive_integer, default=3, metavar="N", help="the median counts (3)")
    bench.add_argument("--json", action="store_true", help="print a JSON object for each row")
    bench.set_defaults(run=benching.bench)


def _add_encode(commands: Any) -> None:
    encode = commands.add_parser("encode", help="encode a video once, to ask about it with linvt ask OUT.safetensors")
    encode.add_argument("video", metavar="VIDEO", help="a video file, or a URL with --allow-urls")
    encode.add_argument("output", metavar="OUT.safetensors", help="the file to write; asked by the same model only")
    _add_model_arguments(encode)
    _add_sampling_arguments(encode)
    encode.set_defaults(run=asking.encode)


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="answer the questions of a file; goes on where it was stopped, in several processes by accelerate"
    )
    run.add_argument(
        "input", metavar="INPUT.jsonl", help='a row on each line: {"id": ..., "video": ..., "question": ...}'
    )
    run.add_argument(
        "output", metavar="OUTPUT.jsonl", help="the file to write; OUTPUT.jsonl.part-* until all is there"
    )
    _add_model_arguments(run)
    _add_sampling_arguments(run)
    run.add_argument("--video-root", metavar="DIR", help="folder that relative paths of videos start from")
    run.add_argument("--batch-size", type=_positive_integer, default=1, metavar="N", help="rows answered at once (1)")
    run.add_argument("--num-workers", type=_whole_number, default=0, metavar="N", help="threads that read ahead (0)")
    run.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="length of an answer at most")
    run.add_argument("--retry-errors", action="store_true", help="answer rows again that have an error")
    run.set_defaults(run=running.run)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect", help="draw what is kept of a video, and how much of each frame is in the video tokens"
    )
    inspect.add_argument("video", metavar="VIDEO", help="a video file, or a URL with --allow-urls")
    inspect.add_argument("output", metavar="OUT.png", help="the picture to write")
    inspect.add_argument("--question", type=_question, metavar="Q", help="what the video tokens are to be weighed for")
    _add_model_arguments(inspect)
    _add_sampling_arguments(inspect)
    inspect.set_defaults(run=asking.inspect)


def _add_wrap(commands: Any) -> None:
    wrap = commands.add_parser(
        "wrap", more=add_fields, help="put an untrained LinVT around an image-text model and save it"
    )
    wrap.add_argument("base", metavar="BASE", help="repository id or folder of an image-text model")
    wrap.add_argument("output", metavar="OUT", nargs="?", help="folder to make; must not exist or be empty")
    wrap.add_argument("--dry-run", action="store_true", help="say what it would cost; no weights are read or written")
    wrap.add_argument("--frames", type=_positive_integer, default=64, metavar="N", help="of --dry-run (%(default)s)")
    wrap.add_argument("--frame-size", type=_size, default=(360, 640), metavar="HxW", help="of --dry-run (360x640)")
    wrap.add_argument("--measure", action="store_true", help="of --dry-run: seconds on this machine, which it tries")
    wrap.add_argument("--include-base", action="store_true", help="save the base's weights too, not only a reference")
    wrap.add_argument("--revision", help="of the base: branch, tag or commit")
    wrap.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base (Molmo)")
    wrap.add_argument("--dtype", choices=_DTYPES, default="auto", help="precision to load in (default: %(default)s)")
    _add_verbose(wrap)
    wrap.set_defaults(run=wrapping.wrap)


def _add_convert(commands: Any) -> None:
    convert = commands.add_parser(
        "convert", help="make a published InternVL, Mipha, Aquila-VL or BLIP-3 one that LinVT can wrap"
    )
    convert.add_argument("source", metavar="SOURCE", help="folder with the checkpoint as it was published")
    convert.add_argument("output", metavar="OUT", help="folder to make; must not exist or be empty")
    convert.add_argument(
        "--vision-config",
        metavar="FILE",
        help="config.json of the vision tower, where SOURCE names one without its sizes",
    )
    _add_verbose(convert)
    convert.set_defaults(run=wrapping.convert)


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        more=evaluating.add_arguments,
        help="ask about drawn clips whose answers are known, or compare two models",
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="a LinVT checkpoint or an image-text model; the embedded one if none"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two evaluations (.json), or two models, which are asked first: paired differences",
    )
    parser.add_argument(
        "--output", metavar="OUT.json", help="evaluation.json if not given; with --compare the comparison, if given"
    )
    parser.add_argument(
        "--restart", action="store_true", help="throw away what was answered before, instead of going on with it"
    )
    asked = parser.add_argument_group("what is asked")
    asked.add_argument("--frames", nargs="+", type=_positive_integer, metavar="N", help="lengths of clips (16 32)")
    asked.add_argument(
        "--lengths", nargs="+", type=_positive_integer, metavar="N", help="of the clips of length (64 256 1024)"
    )
    asked.add_argument("--clips", type=_positive_integer, metavar="N", help="of every kind and length (100)")
    asked.add_argument("--size", type=_positive_integer, metavar="N", help="pixels per side, a multiple of 4 (64)")
    asked.add_argument("--seed", type=_whole_number, metavar="N", help="of the clips (0)")
    asked.add_argument("--instruction", metavar="TEXT", help='behind every question, as "Answer with one word."')
    asked.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="length of an answer (16)")
    asked.add_argument(
        "--write-clips", metavar="DIR", help="only write the clips and the questions as files, and ask nobody"
    )
    how = parser.add_argument_group("how it is asked")
    how.add_argument("--uniform-frames", type=_positive_integer, metavar="N", help="pictures of the arm uniform (8)")
    how.add_argument("--batch-size", type=_positive_integer, metavar="N", help="prompts at once (16)")
    _add_repeats(how)
    _add_loading(how)
    _add_verbose(parser)
    parser.set_defaults(run=evaluating.run)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="draw clips, ask about them, and compare with the right answers")
    demo.add_argument("--output", metavar="DIR", default="demo", help="folder for the files (default: %(default)s)")
    _add_verbose(demo)
    demo.set_defaults(run=demonstration.demo)


def _add_loading(parser: Any) -> None:
    """How a model is loaded; of a parser or a group of arguments."""
    parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, mps ...; the fastest there is if not given")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="precision (default: %(default)s)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with its base (Molmo)")


def _add_listening(parser: argparse.ArgumentParser, port: int) -> None:
    """The model of an endpoint or of a page, and where it listens."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a LinVT checkpoint, folder or repository id; the embedded one if not given",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=port, metavar="N", help="0 for any that is free (default: %(default)s)"
    )
    _add_loading(parser)


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="an endpoint with OpenAI's chat completions")
    _add_listening(serve, port=8000)
    serve.add_argument("--served-name", metavar="NAME", help="what clients call the model (the last part of MODEL)")
    serve.add_argument("--cache-dir", metavar="DIR", help="remembers encoded videos from one start to the next")
    group = serve.add_argument_group("what clients may")
    group.add_argument("--media-root", metavar="DIR", help="file: addresses may name files below DIR; else none")
    group.add_argument(
        "--allow-domain",
        action="append",
        metavar="HOST",
        help="https: addresses may lead to HOST (*.HOST: to all below it); may be given several times; else none",
    )
    group.add_argument(
        "--max-waiting", type=_positive_integer, metavar="N", help="requests at once; more get 429 (64)"
    )
    group.add_argument("--readers", type=_positive_integer, metavar="N", help="threads that read videos (2)")
    group.add_argument("--max-videos", type=_positive_integer, metavar="N", help="of one request (8)")
    group.add_argument("--max-pictures", type=_positive_integer, metavar="N", help="of one request (32)")
    group.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="of one answer (2048)")
    group.add_argument("--max-body-bytes", type=_positive_integer, metavar="N", help="of one request (134217728)")
    _add_limits(group)
    _add_verbose(serve)
    serve.set_defaults(run=serving.serve)


def _add_web(commands: Any) -> None:
    page = commands.add_parser("web", help="a page to ask about a clip and see the moments an answer depended on")
    _add_listening(page, port=7860)
    group = page.add_argument_group("what who opens the page may")
    group.add_argument("--max-waiting", type=_positive_integer, metavar="N", help="questions that wait (16)")
    group.add_argument("--max-new-tokens", type=_positive_integer, metavar="N", help="of one answer (256)")
    group.add_argument("--max-file-bytes", type=_positive_integer, metavar="N", help="of a clip (536870912)")
    _add_limits(group)
    _add_verbose(page)
    page.set_defaults(run=web.show)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="PATH_OR_ID", help="a LinVT checkpoint; the embedded one if not given")
    _add_loading(group)
    _add_verbose(parser)


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument("--verbose", action="store_true", help="show warnings of the libraries, and tracebacks")
    how_much.add_argument("--quiet", action="store_true", help="no bars and no notes, only results and errors")


def _add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    how_many = group.add_mutually_exclusive_group()
    how_many.add_argument("--num-frames", type=_positive_integer, metavar="N", help="frames, spread evenly")
    how_many.add_argument("--fps", type=_positive_number, metavar="F", help="frames per second of the video")
    group.add_argument("--max-frames", type=_positive_integer, metavar="N", help="most frames with --fps")
    group.add_argument("--start", type=_natural_number, metavar="S", help="first second of the part to look at")
    group.add_argument("--end", type=_positive_number, metavar="S", help="last second of the part to look at")
    group.add_argument("--video-backend", choices=_BACKENDS, metavar="B", help=", ".join(_BACKENDS))
    _add_repeats(group)
    _add_limits(group)
    group.add_argument("--allow-urls", action="store_true", default=None, help="VIDEO may be an http or https URL")


def _add_repeats(group: Any) -> None:
    group.add_argument(
        "--skip-duplicate-frames",
        type=_levels,
        metavar="L",
        help="what is encoded once: frames that differ from the one before by at most L levels of 255 in no square "
        "of 16x16 pixels; yes for identical ones, no for none (as the checkpoint says, else yes)",
    )


def _add_limits(group: Any) -> None:
    group.add_argument(
        "--limit",
        dest="limits",
        action="append",
        type=_limit,
        metavar="NAME=N",
        help=f"what a video may cost at most ({', '.join(_LIMITS)}), or none; may be given several times",
    )


def _levels(text: str) -> bool | float:
    if text.lower() in ("yes", "no"):
        return text.lower() == "yes"
    number = _number(text, float, "yes, no, or a number of levels from 0 to 255", 0.0)
    if number > 255:
        raise argparse.ArgumentTypeError(f"{text!r} is not yes, no, or a number of levels from 0 to 255")
    return number


def _port(text: str) -> int:
    number = _number(text, int, "a port, 0 to 65535", 0)
    if number > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 0 to 65535")
    return number


def _question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the question is empty")
    return text


def _limit(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    if name not in _LIMITS:
        meant = nearest_name(name, _LIMITS, least_likeness=0.6)
        hint = f"did you mean {meant}?" if meant else f"known are {', '.join(_LIMITS)}"
        raise argparse.ArgumentTypeError(f"{text!r} names no limit of VideoLimits: {hint}")
    if value.lower() == "none":
        return name, None
    kind = int if isinstance(getattr(VideoLimits(), name), int) else float
    return name, _number(value, kind, "a number above 0, or none", 1e-9)


def _positive_integer(text: str) -> int:
    return _number(text, int, "a whole number of 1 or more", 1)


def _whole_number(text: str) -> int:
    return _number(text, int, "a whole number of 0 or more", 0)


def _positive_number(text: str) -> float:
    return _number(text, float, "a number above 0", 1e-9)


def _natural_number(text: str) -> float:
    return _number(text, float, "a number of 0 or more", 0.0)


def _size(text: str) -> tuple[int, int]:
    most = VideoLimits().max_pixels
    sides = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip().lower())
    height, width = map(int, sides.groups()) if sides else (0, 0)
    if height * width < 1 or (most is not None and height * width > most):
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
