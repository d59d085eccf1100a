"""Errors of the package: one family, so that one `except LinVTError` catches every expected failure."""

import difflib
import os
from collections.abc import Callable, Collection
from typing import Any


class LinVTError(Exception):
    """Base of every error this package raises on purpose: the message says what was wrong, given, and to be done."""


class VideoReadError(LinVTError, ValueError):
    """A video could not be read: missing, not a video, damaged beyond use, over a limit, or not allowed."""


class UnsupportedBaseError(LinVTError, ValueError):
    """A base model LinVT cannot sit in; the message gives the reason and the nearest thing that works."""


class LinVTInputError(LinVTError, ValueError):
    """Inputs that do not fit together: placeholders, questions, frames, or a processor of another model."""


class CheckpointError(LinVTError, OSError):
    """A LinVT checkpoint that is incomplete, or whose base model cannot be found."""


class AttributionError(LinVTError, RuntimeError):
    """An answer whose gradient cannot be had, and so no attribution; the message says why, and what would work."""


def check_folder(name_or_path: str) -> None:
    """Refuse a folder that does not exist: the libraries take it for a repository and say that its id is bad."""
    if not os.path.exists(name_or_path) and name_or_path.startswith(("/", ".", "~")):
        raise CheckpointError(f"There is no folder {name_or_path!r}. Give a folder or a repository id.")


def shown(value: object) -> str:
    """
    What was given, short enough for a message.

    Example:

    >>> shown("a" * 100) == repr("a" * 60) + "...", shown(3.5), shown(b"")
    (True, '3.5', "b''")
    """
    if isinstance(value, str | bytes):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} {repr(value)[:60]}" if value else repr(value)
    return type(value).__name__


def first_line(error: Exception) -> str:
    """Kind and first line of an error of another library, at most 500 characters."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def in_our_words(complaint: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call something of a base that sees what the user gave; its complaints come out as ours, behind `complaint`."""
    try:
        return function(*args, **kwargs)
    except LinVTError:
        raise
    except Exception as error:  # a template or a processor from anywhere may raise anything
        raise LinVTInputError(f"{complaint}: {first_line(error)}") from error


# Names that other packages use for the same thing; too far from ours to be found by likeness.
_OTHER_NAMES = {
    "backend": "video_backend",
    "do_sample_frames": "num_frames",
    "end_time": "end",
    "frames": "num_frames",
    "nframes": "num_frames",
    "num_tokens": "num_video_tokens",
    "start_time": "start",
    "video_end": "end",
    "video_fps": "fps",
    "video_metadata": "timestamps",
    "video_start": "start",
}


def nearest_name(name: Any, known: Collection[str], least_likeness: float = 0.75) -> str | None:
    """
    The known name that was meant, where one is near; `None` otherwise.

    Args:
        name: what was given.
        known: the names to choose from.
        least_likeness (`float`, defaults to 0.75): from 0 to 1, as `difflib` counts it; ours.

    Example:

    >>> nearest_name("nframes", ("num_frames", "fps")), nearest_name("colour", ("num_frames", "fps"))
    ('num_frames', None)
    """
    if not isinstance(name, str):
        return None
    # a misspelt name of another package means what that name stands for, not the known one that looks most like it
    meant = {other: own for other, own in _OTHER_NAMES.items() if own in known} | {one: one for one in known}
    if (other := _OTHER_NAMES.get(name)) in known:
        return other
    return next((meant[one] for one in difflib.get_close_matches(name, meant, n=1, cutoff=least_likeness)), None)


def unknown_argument(name: str, known: Collection[str]) -> str:
    """The sentence that refuses an argument: with the name that was meant, or with all that are known."""
    return f"There is no argument {name!r} here. {advice(name, known)}"


def advice(name: Any, known: Collection[str]) -> str:
    """What to do about a name that is not known: the one that was meant, or all that are known."""
    meant = nearest_name(name, known)
    return f"Did you mean {meant!r}?" if meant else f"Known are {', '.join(known)}."
