"""Options for the fields of [`LinVTConfig`], made from its annotations; what they do is said beside their defaults."""

import argparse
import ast
import inspect
import re
import typing
from typing import Any

import transformers_linvt


# Written by whoever makes a checkpoint, not chosen.
_NOT_CHOSEN = ("base_config", "base_model_name_or_path", "base_revision", "includes_base", "adapter_subfolder")
# What `linvt wrap` does where a field is not given and the config's own default is another.
_SAID_HERE = {
    "num_video_tokens": "tokens the language model gets per video; default: those of one frame of the base",
    "frame_path": "what is condensed: frames as pictures (image), or steps of several frames as the base's own video "
    "path merges them (video); default: video where the base has such a path",
}


def add_fields(parser: argparse.ArgumentParser) -> None:
    """An option for every field that may be chosen; one that is not given is None."""
    config = transformers_linvt.LinVTConfig
    told = _comments_of(config)
    group = parser.add_argument_group("fields of LinVTConfig, which has their defaults")
    for name, annotation in config.__annotations__.items():
        if name in _NOT_CHOSEN:
            continue
        default = getattr(config, name)
        text = _SAID_HERE.get(name) or told[name] + (f" (default: {_shown(default)})" if default is not None else "")
        group.add_argument(
            f"--{name.replace('_', '-')}", default=None, help=text.replace("%", "%%"), **_kind_of(annotation)
        )


def _kind_of(annotation: Any) -> dict[str, Any]:
    """How a field is read from the command line."""
    choices = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return {"choices": choices}
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if any(typing.get_origin(one) is tuple for one in choices):
        return {"type": _whole_numbers, "metavar": "N,N,..."}
    return {"type": _whole_number, "metavar": "N"}


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(map(_whole_number, text.split(",")))


def _comments_of(config: type) -> dict[str, str]:
    """Field: the comment behind its default, after those in the lines before it; nothing where there is no source."""
    try:
        source = inspect.getsource(config)
    except OSError:  # frozen into one file
        return dict.fromkeys(config.__annotations__, "")
    lines, told = source.splitlines(), {}
    (of_class,) = ast.parse(source).body
    for node in ast.iter_child_nodes(of_class):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above = node.lineno - 2
        while re.match(r"\s*# (?!--)", lines[above]):
            above -= 1
        behind = re.search(r"(?<=  )# .*", lines[(node.end_lineno or node.lineno) - 1])
        comments = [*lines[above + 1 : node.lineno - 1], *([behind[0]] if behind else [])]
        told[node.target.id] = " ".join(line.strip().removeprefix("# ") for line in comments)
    return told
