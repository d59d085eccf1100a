"""The page from its port to its end, and what is refused before Gradio sees it."""

import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..lazy import required
from ..serving.running import run_application
from .asking import Asking
from .page import make_page, write_examples
from .settings import PageSettings


_EVENT_BYTES = 1 << 20  # of what the page sends beside clips; ours

Message = MutableMapping[str, Any]


class OnlyUploads:
    """
    An ASGI layer that refuses events which name a file that was not uploaded.

    The page names a clip by where its upload was put. A page of Gradio that is mounted in an application (6.31) takes
    whatever file of the machine an event names, and fetches it where that is an address, from inside its network.

    Args:
        application: an ASGI application.
        folders: where uploads, and what the page itself offers, are.
    """

    def __init__(self, application: Callable[..., Awaitable[None]], folders: Sequence[str]) -> None:
        self.application = application
        self.folders = tuple(os.path.realpath(folder) for folder in folders)

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        """Read the body of an event before it is passed on."""
        is_event = scope["type"] == "http" and scope["method"] == "POST" and not scope["path"].endswith("/upload")
        if not is_event:
            await self.application(scope, receive, send)
            return
        body, more = b"", True
        while more and len(body) <= _EVENT_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > _EVENT_BYTES:
            await _refuse(send, 413, f"An event of the page has at most {_EVENT_BYTES} bytes.")
            return
        try:
            named = list(_files(json.loads(body)))
        except (ValueError, RecursionError):
            named = []  # Gradio says what is wrong with it
        for name in named:
            if "://" in name:
                await _refuse(send, 400, f"Addresses are not opened here ({name[:60]!r}). Upload the clip instead.")
                return
            if not self._is_inside(name):
                await _refuse(send, 403, f"{os.path.basename(name)[:60]!r} was not uploaded here. Upload the clip.")
                return
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        await self.application(scope, again, send)

    def _is_inside(self, name: str) -> bool:
        try:
            real = os.path.realpath(name)
        except ValueError:  # no name of a file, as one with a zero byte
            return False
        return any(Path(real).is_relative_to(folder) for folder in self.folders)


def _files(value: Any) -> Iterator[str]:
    """Whatever an event names as the path of a file."""
    if isinstance(value, dict):
        if isinstance(path := value.get("path"), str):
            yield path
        for one in value.values():
            yield from _files(one)
    elif isinstance(value, list):
        for one in value:
            yield from _files(one)


async def _refuse(send: Any, status: int, message: str) -> None:
    body = json.dumps({"detail": message, "error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def make_web_application(pipe: Any, settings: PageSettings) -> Iterator[Any]:
    """
    The page as an ASGI application, with the clips of its examples while it is used.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]): what answers.
        settings ([`PageSettings`]): what is allowed.

    Raises:
        LinVTInputError: Gradio is not installed.
    """
    gradio, fastapi = required("gradio", "web"), required("fastapi", "web")
    asking = Asking(pipe, settings)
    with tempfile.TemporaryDirectory(prefix="linvt-page-") as folder:
        examples = write_examples(Path(folder)) if settings.has_examples else []
        page = make_page(asking, settings, examples)
        application = gradio.mount_gradio_app(
            fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page.blocks, path="/",
            allowed_paths=[folder], max_file_size=settings.max_file_bytes, css=page.css, head=page.head,
            theme=page.theme, footer_links=[], run_history=False, ssr_mode=False, show_error=True,
        )  # fmt: skip
        try:
            yield OnlyUploads(application, [page.blocks.GRADIO_CACHE, folder])
        finally:
            asking.close()


def run_page(
    load: Callable[[], Any],
    settings: PageSettings,
    host: str = "127.0.0.1",
    port: int = 7860,
    ready: Callable[[str, Callable[[], None]], None] | None = None,
) -> None:
    """
    Show the page until the process is asked to stop (SIGINT, SIGTERM).

    Args:
        load: gives the pipeline; called when the port is known to be free.
        settings ([`PageSettings`]): what is allowed.
        host, port: where to listen; port 0 for any that is free.
        ready (*optional*): called with the address, and with what stops the page, when it can be opened.

    Raises:
        LinVTInputError: the port is taken, or the extra `web` is not installed.
        CheckpointError: of `load`.
    """
    required("gradio", "web")
    with ExitStack() as opened:
        run_application(
            lambda: opened.enter_context(make_web_application(load(), settings)),
            host,
            port,
            ready or (lambda *_: None),
        )


__all__ = ["make_web_application", "run_page"]
