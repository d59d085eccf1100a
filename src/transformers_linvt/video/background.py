"""Work that runs ahead in threads: bounded queues between them, and an end that leaves no thread behind."""

import contextvars
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ..errors import VideoReadError


_LOOK_AGAIN_SECONDS = 1.0  # how often a reader that waits looks whether anybody still writes


class Stopped(Exception):
    """Whoever was to take the result has left: raised in a worker, to end it."""


class Channel:
    """
    What one thread puts in and another takes out, in order; the writer waits while too much lies there.

    Args:
        max_bytes (`int`): What may wait at most. One item is let in whatever its size.

    Example:

    >>> channel = Channel(max_bytes=10)
    >>> channel.put("frame", num_bytes=20)
    >>> channel.end()
    >>> list(channel)
    ['frame']
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: deque[tuple[Any, int]] = deque()
        self._num_bytes = 0
        self._changed = threading.Condition()
        self._is_ended = self._is_closed = False
        self._error: BaseException | None = None
        self.writer: threading.Thread | None = None

    def put(self, item: Any, num_bytes: int) -> None:
        """
        Add an item; wait until there is room.

        Raises:
            [`Stopped`]: the channel was closed.
        """
        with self._changed:
            while not self._is_closed and self._items and self._num_bytes + num_bytes > self.max_bytes:
                self._changed.wait()
            self.check()
            self._items.append((item, num_bytes))
            self._num_bytes += num_bytes
            self._changed.notify_all()

    def check(self) -> None:
        """Raise [`Stopped`] if the channel was closed: for a worker that is long between two items."""
        if self._is_closed:
            raise Stopped

    def end(self, error: BaseException | None = None) -> None:
        """Nothing comes any more; what is there is still taken, and then the error is raised, if there is one."""
        with self._changed:
            self._is_ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes anything any more; what is there is dropped."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                while not self._items and not self._is_ended and not self._is_closed:
                    self._changed.wait(_LOOK_AGAIN_SECONDS)
                    if self.writer is not None and not self.writer.is_alive() and not self._is_ended:
                        raise VideoReadError("The thread that reads the video ended without a result. Read it again.")
                self.check()
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item, num_bytes = self._items.popleft()
                self._num_bytes -= num_bytes
                self._changed.notify_all()
            yield item


class Workers:
    """
    Threads that hand things on from one to the next; leaving the `with` block, however, ends all of them.

    Example:

    >>> def count(channel):
    ...     for number in range(3):
    ...         channel.put(number, num_bytes=1)
    >>> with Workers() as workers:
    ...     print(list(workers.start(count, max_bytes=1)))
    [0, 1, 2]
    """

    def __init__(self) -> None:
        self._channels: list[Channel] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()
        for thread in self._threads:
            thread.join()

    def start(self, work: Callable[[Channel], None], max_bytes: int) -> Channel:
        """
        Run `work(channel)` in a thread of its own; what it raises is raised where the channel is read.

        Args:
            work: puts its results into the channel it is given.
            max_bytes (`int`): what may wait there at most.
        """
        channel = Channel(max_bytes)
        context = contextvars.copy_context()  # limits of a request hold in the thread as well

        def run() -> None:
            try:
                context.run(work, channel)
            except Stopped:
                channel.end()
            except BaseException as error:
                channel.end(error)
            else:
                channel.end()

        thread = threading.Thread(target=run, name="linvt-reader", daemon=True)
        channel.writer = thread
        self._channels.append(channel)
        with suppress(RuntimeError):  # no more threads: said by the reader of the channel, who finds no writer
            thread.start()
            self._threads.append(thread)
        return channel


__all__ = ["Channel", "Stopped", "Workers"]
