"""Requests that wait, are read by several threads, and answered by the one that the model belongs to."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteriaList

from ..errors import LinVTError
from ..pipeline.requests import requests_of
from .chat import ChatRequest, RequestError, told_to_client, without_folders
from .settings import ServerSettings
from .watching import Watcher


logger = logging.getLogger(__name__)


@dataclass
class Reply:
    """
    What became of a request.

    Attributes:
        text: the answer.
        finish_reason: `"stop"` or `"length"`.
        num_prompt_tokens, num_answer_tokens: in the language model.
        about: numbers of videos, and the evidence where it was asked for.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_answer_tokens: int
    about: dict[str, Any] = field(default_factory=dict)


class Place:
    """A place among the requests that are answered or wait; given back once, however often that is asked for."""

    def __init__(self, answering: "Answering") -> None:
        self._answering: Answering | None = answering
        answering.num_waiting += 1

    def give_back(self, *_: Any) -> None:
        """Let another request have it."""
        if self._answering is not None:
            self._answering.num_waiting -= 1
            self._answering = None


class Answering:
    """
    Answers requests with a pipeline: videos are read while other requests are answered, answers come one by one.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]): its cache keeps a video that is asked about again from being encoded
            again.
        settings ([`ServerSettings`]).
    """

    def __init__(self, pipe: Any, settings: ServerSettings) -> None:
        self.pipe, self.settings = pipe, settings
        self.num_waiting = 0
        self._readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="linvt-read")
        # torch compiles and captures for the thread that it runs in, and a GPU does one thing at a time anyway
        self._model = ThreadPoolExecutor(1, thread_name_prefix="linvt-answer")
        ends = pipe.model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def close(self) -> None:
        """Wait for what runs, and start nothing more."""
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._model.shutdown(wait=True, cancel_futures=True)

    def watcher(self, request: ChatRequest, tell: Callable[[str], object] | None = None) -> Watcher:
        """What follows the answer to a request."""
        tokenizer = self.pipe.processor.tokenizer
        return Watcher(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), request.stops, tell)

    def take_place(self) -> Place:
        """
        A place for a request, before anything of it is read: bodies that wait take memory.

        Raises:
            RequestError: too many wait.
        """
        if self.num_waiting >= self.settings.max_waiting:
            raise RequestError(
                f"{self.num_waiting} requests are being answered or wait. Try again in a moment.",
                429,
                code="rate_limit_exceeded",
            )
        return Place(self)

    async def answer(self, request: ChatRequest, watcher: Watcher) -> Reply:
        """
        The reply to a request, which may have to wait.

        Args:
            request: see [`chat_request`].
            watcher: of this request; cancelling it ends the work on it at the next step.

        Raises:
            RequestError: the request cannot be answered, in words for the client.
        """
        loop = asyncio.get_running_loop()
        try:
            read, how = await loop.run_in_executor(self._readers, self._read, request, watcher)
            return await loop.run_in_executor(self._model, self._answer, request, read, how, watcher)
        except asyncio.CancelledError:
            watcher.cancel()
            raise

    def _read(self, request: ChatRequest, watcher: Watcher) -> tuple[Any, dict[str, Any]]:
        self._check_is_wanted(watcher)
        settings = self.settings
        try:
            reading, how, _ = self.pipe._sanitize_parameters(
                **request.sampling,
                **request.generation,
                limits=settings.limits,
                allow_urls=bool(settings.allowed_domains) or None,
                return_evidence=request.wants_evidence or None,
                streamer=watcher,
                stopping_criteria=StoppingCriteriaList([watcher]),
            )
            # evidence is told in numbers; and frames are read here, not by the thread that the model belongs to
            here = {"with_pixels": False, "stream": False}
            reading = {**self.pipe._preprocess_params, **reading, **here}
            asked = requests_of(None, None, request.messages, settings.media_root)
            read = self.pipe.preprocess(asked, **reading)
            if read.error is not None:
                raise read.error
            return read, {**self.pipe._forward_params, **how}
        except LinVTError as error:
            raise told_to_client(error, settings.media_root) from error

    def _answer(self, request: ChatRequest, read: Any, how: dict[str, Any], watcher: Watcher) -> Reply:
        self._check_is_wanted(watcher)
        seeded = torch.random.fork_rng() if request.seed is not None else nullcontext()
        try:
            with seeded:
                if request.seed is not None:
                    torch.manual_seed(request.seed)
                (answered,) = self.pipe.forward([read], **how)
                (result,) = self.pipe.postprocess((read, answered))
        except LinVTError as error:
            raise told_to_client(error, self.settings.media_root) from error
        except torch.OutOfMemoryError as error:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise RequestError(
                "The memory of the device is not enough for this request. Ask with fewer frames or videos.",
                503,
                code="out_of_memory",
            ) from error
        watcher.finish()
        return self._reply(request, result, watcher)

    def _reply(self, request: ChatRequest, result: dict[str, Any], watcher: Watcher) -> Reply:
        count = len(watcher.tokens)
        is_ended = watcher.found_stop or (count > 0 and watcher.tokens[-1] in self._ends)
        is_full = count >= request.generation["max_new_tokens"]
        about = {name: result[name] for name in ("frames_seen", "frame_tokens", "video_tokens", "subtitle_tokens")
                 if name in result}  # fmt: skip
        if request.wants_evidence:
            root, told = self.settings.media_root, [one.to_dict() for one in result["evidence"]]
            about["evidence"] = [{**one, "source": without_folders(one["source"] or "", root)} for one in told]
        reason = "length" if is_full and not is_ended else "stop"
        return Reply(watcher.text, reason, watcher.num_prompt_tokens, count, about)

    @staticmethod
    def _check_is_wanted(watcher: Watcher) -> None:
        """Nobody waits for the answer of a client that left."""
        if watcher.is_cancelled:
            raise RequestError("The client left.", 499)


__all__ = ["Answering", "Reply"]
