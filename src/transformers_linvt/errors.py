"""Errors of the package: one family, so that one `except LinVTError` catches every expected failure."""

import os
from collections.abc import Callable
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
    """Refuse what can only be a folder and is none: the libraries take it for a repository and say it has a bad id."""
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
