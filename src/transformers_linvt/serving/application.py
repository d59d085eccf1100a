"""
The HTTP side of `linvt serve`: OpenAI's chat completions over one pipeline.

Built on Starlette and uvicorn, not on the classes of `transformers serve` (5.23). Those decide by tables in their own
source which classes of models they serve, so that ours would have to be written into them from outside. An error of a
processor is status 500 there, there is no place for a limit of the queue, for addresses that are allowed or for videos
that were encoded before, and any client may have any model loaded. What would be left is the shape of the JSON.
"""

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ..lazy import required
from .answering_requests import Answering, Place, Reply
from .chat import ChatRequest, RequestError, chat_request
from .settings import ServerSettings
from .watching import Watcher


logger = logging.getLogger(__name__)

_DRAINED_BYTES = 4 << 20  # of a body that is too large: read, so that the client gets to see the answer
_POLL_SECONDS = 0.2  # between two looks at whether a client is still there
_DONE = object()


def make_application(pipe: Any, settings: ServerSettings) -> Any:
    """
    The application, for uvicorn or any other ASGI server.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]): what answers.
        settings ([`ServerSettings`]): what clients may.

    Raises:
        LinVTInputError: Starlette is not installed.
    """
    required("starlette", "serving")
    return _Server(Answering(pipe, settings), settings).application()


class _Server:
    def __init__(self, answering: Answering, settings: ServerSettings) -> None:
        self.answering, self.settings = answering, settings
        self.responses = required("starlette.responses", "serving")
        self.started = int(time.time())

    def application(self) -> Any:
        routing, applications = required("starlette.routing", "serving"), required("starlette.applications", "serving")
        errors = required("starlette.exceptions", "serving")

        @asynccontextmanager
        async def lifespan(_: Any) -> AsyncIterator[None]:
            yield
            self.answering.close()

        routes = [
            routing.Route("/health", self.health, methods=["GET"]),
            routing.Route("/v1/models", self.guarded(self.models), methods=["GET"]),
            routing.Route("/v1/models/{name:path}", self.guarded(self.model), methods=["GET"]),
            routing.Route("/v1/chat/completions", self.guarded(self.chat), methods=["POST"]),
        ]
        handlers = {errors.HTTPException: self.other_error}
        return applications.Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    # -- routes --

    async def health(self, _: Any) -> Any:
        return self.responses.JSONResponse({"status": "ok", "waiting": self.answering.num_waiting})

    async def models(self, _: Any) -> Any:
        return self.responses.JSONResponse({"object": "list", "data": [self._about_model()]})

    async def model(self, request: Any) -> Any:
        name = request.path_params["name"]
        if name != self.settings.name:
            raise RequestError(f"The model {name!r:.60} is not served here.", 404, "model", "model_not_found")
        return self.responses.JSONResponse(self._about_model())

    def _about_model(self) -> dict[str, Any]:
        return {
            "id": self.settings.name,
            "object": "model",
            "created": self.started,
            "owned_by": "transformers-linvt",
        }

    async def chat(self, request: Any) -> Any:
        place = self.answering.take_place()
        try:
            # a body of many megabytes would keep all others waiting
            asked = await asyncio.to_thread(self._understood, await self._body_of(request))
            identity = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.settings.name}
            if not asked.is_streamed:
                return await self._whole(request, asked, identity)
            answer, place = self._streamed(request, asked, identity, place), None
            return await answer
        finally:
            if place is not None:
                place.give_back()

    async def _whole(self, request: Any, asked: ChatRequest, identity: dict[str, Any]) -> Any:
        """The answer in one object."""
        watcher = self.answering.watcher(asked)
        reply = await _while_client_is_there(request, self.answering.answer(asked, watcher), watcher)
        message = {"role": "assistant", "content": reply.text}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": None}
        told = {**identity, "object": "chat.completion", "choices": [choice], "usage": _usage(reply)}
        return self.responses.JSONResponse({**told, "linvt": reply.about})

    def _understood(self, body: bytes) -> ChatRequest:
        try:
            decoded = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"The body is not JSON: {str(error)[:200]}.") from error
        return chat_request(decoded, self.settings)

    # -- streaming --

    async def _streamed(self, request: Any, asked: ChatRequest, identity: dict[str, Any], place: Place) -> Any:
        """Server-sent events; what goes wrong before the first word is an error like any other."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        watcher = self.answering.watcher(asked, lambda text: loop.call_soon_threadsafe(queue.put_nowait, text))
        task = asyncio.create_task(self.answering.answer(asked, watcher))
        task.add_done_callback(place.give_back)
        # by the loop's next turn, so that what was told before comes before
        task.add_done_callback(lambda _: loop.call_soon(queue.put_nowait, _DONE))
        first = await _while_client_is_there(request, queue.get(), watcher)
        if first is _DONE and (error := task.exception()) is not None:
            raise error

        def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
            return _event({**identity, "object": "chat.completion.chunk", "choices": [choice], **more})

        async def events() -> AsyncIterator[str]:
            try:
                yield event({"role": "assistant", "content": ""})
                item = first
                while item is not _DONE:
                    yield event({"content": item})
                    item = await queue.get()
                if (error := task.exception()) is not None:
                    yield _event(_error_of(_own(error)))
                    return
                reply = task.result()
                yield event({}, reply.finish_reason, linvt=reply.about)
                if asked.wants_usage:
                    usage = {"choices": [], "usage": _usage(reply)}
                    yield _event({**identity, "object": "chat.completion.chunk", **usage})
                yield "data: [DONE]\n\n"
            finally:  # also where the client left, of which Starlette tells by ending this
                watcher.cancel()

        return self.responses.StreamingResponse(
            events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
        )

    # -- bodies, keys and errors --

    async def _body_of(self, request: Any) -> bytes:
        """The body, never more of it in memory than is allowed, whatever length was announced."""
        most = self.settings.max_body_bytes
        announced = request.headers.get("content-length", "0")
        is_over = announced.isdigit() and int(announced) > most
        chunks, size = [], 0
        async for chunk in request.stream():
            size += len(chunk)
            if is_over or size > most:
                chunks.clear()
                is_over = True
                if size > (0 if announced.isdigit() and int(announced) > most else most) + _DRAINED_BYTES:
                    break
                continue
            chunks.append(chunk)
        if is_over:
            raise RequestError(
                f"The body is larger than the limit of {most} bytes. Send a shorter or smaller video, or an address.",
                413,
                code="request_too_large",
            )
        return b"".join(chunks)

    def guarded(self, route: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """A route that asks for the key, and whose errors have OpenAI's form."""

        async def run(request: Any) -> Any:
            try:
                self._check_key(request)
                return await route(request)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                return self._told(_own(error))

        return run

    def _check_key(self, request: Any) -> None:
        if (key := self.settings.api_key) is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not secrets.compare_digest(given.encode(), key.encode()):
            raise RequestError("The API key is not right. Send it as Authorization: Bearer ...", 401)

    def _told(self, error: RequestError) -> Any:
        headers = {"Retry-After": "1"} if error.status in (429, 503) else None
        return self.responses.JSONResponse(_error_of(error), status_code=error.status, headers=headers)

    async def other_error(self, _: Any, error: Any) -> Any:
        """An error of Starlette: no such route, or no such method."""
        known = "/v1/chat/completions, /v1/models and /health"
        return self._told(RequestError(f"{error.detail}. This server knows {known}.", error.status_code))


def _own(error: BaseException) -> RequestError:
    """An error as the client gets it; of one that is not ours the client hears only that there was one."""
    if isinstance(error, RequestError):
        return error
    logger.error("A request met an error of the server.", exc_info=error)
    return RequestError("The server met an error that it did not expect. Its log has it.", 500)


def _error_of(error: RequestError) -> dict[str, Any]:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code}}


def _event(told: dict[str, Any]) -> str:
    return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"


def _usage(reply: Reply) -> dict[str, Any]:
    details = {name: reply.about[name] for name in ("video_tokens", "subtitle_tokens") if name in reply.about}
    return {
        "prompt_tokens": reply.num_prompt_tokens,
        "completion_tokens": reply.num_answer_tokens,
        "total_tokens": reply.num_prompt_tokens + reply.num_answer_tokens,
        "prompt_tokens_details": details,
    }


async def _while_client_is_there(request: Any, work: Any, watcher: Watcher) -> Any:
    """The result of `work`, unless the client leaves before it is there."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_POLL_SECONDS)
            if not task.done() and await request.is_disconnected():
                watcher.cancel()
                task.cancel()
                with suppress(asyncio.CancelledError, RequestError):
                    await task
                raise RequestError("The client left.", 499)
        return task.result()
    except asyncio.CancelledError:
        watcher.cancel()
        task.cancel()
        raise


__all__ = ["make_application"]
