"""Errors of the package: one family, so that one `except LinVTError` catches every expected failure."""


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
