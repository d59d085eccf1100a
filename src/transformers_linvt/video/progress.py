"""How far the work on a video is, for whoever wants to show it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


# Called with what is done ("read", "encode"), how many frames are, and how many there will be.
Listener = Callable[[str, int, int], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("who is told how far the work on a video is", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """
    Tell `listener` how far the work on the videos inside is; it is called in the thread that works.

    Example:

    >>> with listening(print):
    ...     report("read", 3, 8)
    read 3 8
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def report(stage: str, done: int, total: int) -> None:
    """
    Say how far the work on a video is.

    Args:
        stage: what is done with the frames: `"read"` or `"encode"`.
        done, total: frames.
    """
    if (listener := _LISTENER.get()) is not None:
        listener(stage, done, total)


__all__ = ["listening", "report"]
