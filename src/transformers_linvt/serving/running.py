"""A server from its port to its end: the port is taken first, the model loaded then, requests finished at the end."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import LinVTInputError
from ..lazy import required
from .application import make_application
from .settings import ServerSettings


_GRACE_SECONDS = 30  # for requests that are being answered when the server is asked to stop; ours


def take_port(host: str, port: int) -> socket.socket:
    """
    A socket that listens where no other server does.

    Args:
        host: name or address of this machine.
        port: 0 for any that is free.

    Raises:
        LinVTInputError: it is taken, may not be used, or the host is not this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError) as error:
        raise LinVTInputError(f"host={host!r} is no address of this machine: {error}.") from error
    try:
        # a port in the wait after a server's end may be taken, one that a server listens on may not
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(1024)
    except OSError as error:
        taken.close()
        raise LinVTInputError(
            f"The port {port} of {host} cannot be used: {error.strerror}. Another server may run there; choose "
            "another port, or 0 for any that is free."
        ) from error
    return taken


def run_server(
    load: Callable[[], Any],
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """
    Serve until the process is asked to stop (SIGINT, SIGTERM); requests that are being answered are finished.

    Args:
        load: gives the pipeline; called when the port is known to be free.
        settings ([`ServerSettings`]): what clients may.
        host, port: where to listen; port 0 for any that is free.
        ready (*optional*): called with the address, and with what stops the server, when requests can come.

    Raises:
        LinVTInputError: the port is taken, or the extra `serving` is not installed.
        CheckpointError: of `load`.
    """
    required("uvicorn", "serving")
    required("starlette", "serving")

    def told(address: str, stop: Callable[[], None]) -> None:
        if ready is not None:
            ready(f"{address}/v1", stop)

    run_application(lambda: make_application(load(), settings), host, port, told)


def run_application(
    make: Callable[[], Any], host: str, port: int, ready: Callable[[str, Callable[[], None]], None]
) -> None:
    """
    Run an ASGI application as [`run_server`] does.

    Args:
        make: gives the application; called when the port is known to be free.
        host, port, ready: see [`run_server`]; the address ends behind the port.

    Raises:
        LinVTInputError: the port is taken, or uvicorn is not installed.
    """
    uvicorn = required("uvicorn", "serving")
    with contextlib.closing(take_port(host, port)) as listening:
        config = uvicorn.Config(make(), log_level="warning", timeout_graceful_shutdown=_GRACE_SECONDS)
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}", lambda: setattr(server, "should_exit", True))
        with _stopped_by_signals():
            server.run(sockets=[listening])


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when it is done; here that is the end that was asked for."""
    if threading.current_thread() is not threading.main_thread():  # only this one may say what a signal does
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["run_application", "run_server", "take_port"]
