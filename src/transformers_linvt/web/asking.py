"""A question from the page: read, answered word by word, traced to its moments, and put to the base alone."""

import logging
import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from ..errors import LinVTError, LinVTInputError
from ..serving.watching import Watcher
from .base_alone import AloneReply, ask_base_alone
from .settings import PageSettings


logger = logging.getLogger(__name__)

_PULSE_SECONDS = 0.5  # a step of an answer comes at least as often; ours


@dataclass(frozen=True)
class Shown:
    """
    What the page shows of a question; every step has all that is known by then.

    Attributes:
        stage: what is done now, in words; empty when nothing is.
        answer: the words so far.
        result: of the pipeline, with the evidence, when the answer is whole.
        alone_answer, alone: the words of the base alone, and its reply when it is whole.
        error: what went wrong, in words.
    """

    stage: str = ""
    answer: str = ""
    result: dict[str, Any] | None = None
    alone_answer: str = ""
    alone: AloneReply | None = None
    error: str = ""


class Asking:
    """
    Answers the questions of a page with a pipeline, one after the other, in one thread.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]): its cache keeps a clip that is asked about again from being encoded
            again.
        settings ([`PageSettings`]): what is allowed.
    """

    def __init__(self, pipe: Any, settings: PageSettings) -> None:
        self.pipe, self.settings = pipe, settings
        # torch compiles and captures for the thread that it runs in
        self._model = ThreadPoolExecutor(1, thread_name_prefix="linvt-page")

    def close(self) -> None:
        """Wait for what runs, and start nothing more."""
        self._model.shutdown(wait=True, cancel_futures=True)

    def ask(self, video: str | None, question: str, num_frames: int, compares: bool) -> Iterator[Shown]:
        """
        The steps of an answer. Who stops taking them ends the work at the next token.

        Args:
            video (`str`, *optional*): file of the clip.
            question (`str`): what is asked.
            num_frames (`int`): frames to look at.
            compares (`bool`): whether the base alone is asked as well.
        """
        shown = Shown(stage="Reading the clip ...")
        try:
            if not video:
                raise LinVTInputError("There is no clip yet. Drop a video above, or take an example.")
            if not (question or "").strip():
                raise LinVTInputError("There is no question yet. Write one, then ask.")
            yield shown
            for step in self._answered(shown, video, question, int(num_frames)):
                yield (shown := step)
            if compares:
                yield from self._compared(shown, question)
        except (LinVTError, torch.OutOfMemoryError) as error:
            yield replace(shown, stage="", error=self._in_words(error, video))
        except Exception as error:  # a mistake of ours or of a library: told as one, with the place in the log
            logger.exception("A question of the page was not answered.")
            yield replace(shown, stage="", error=f"Something went wrong here ({type(error).__name__}: {error}).")

    def _answered(self, shown: Shown, video: str, question: str, num_frames: int) -> Iterator[Shown]:
        def work(watcher: Watcher) -> Any:
            (result,) = self.pipe(
                video=video, question=question, num_frames=num_frames, return_evidence=True,
                max_new_tokens=self.settings.max_new_tokens, limits=self.settings.limits, progress_bar=False,
                streamer=watcher, stopping_criteria=StoppingCriteriaList([watcher]),
            )  # fmt: skip
            return result

        for text, result in self._streamed(work):
            stage = "Answering ..." if result is None else ""
            shown = replace(shown, stage=stage, answer=text if result is None else result["answer"], result=result)
            yield shown

    def _compared(self, shown: Shown, question: str) -> Iterator[Shown]:
        assert shown.result is not None  # the answer is whole
        frames = shown.result["evidence"].frames

        def work(watcher: Watcher) -> AloneReply:
            return ask_base_alone(self.pipe, frames, question, self.settings.max_new_tokens, watcher)

        shown = replace(shown, stage="Asking the base alone ...")
        yield shown
        for text, reply in self._streamed(work):
            words = text if reply is None else reply.text
            shown = replace(shown, stage=shown.stage if reply is None else "", alone_answer=words, alone=reply)
            yield shown

    def _streamed(self, work: Callable[[Watcher], Any]) -> Iterator[tuple[str, Any]]:
        """The words so far with None, while the model's thread works; then all of them with what it returned."""
        words: queue.Queue[str | None] = queue.Queue()
        tokenizer = self.pipe.processor.tokenizer
        watcher = Watcher(lambda ids: tokenizer.decode(ids, skip_special_tokens=True), tell=words.put)
        done: Future = self._model.submit(work, watcher)
        done.add_done_callback(lambda _: words.put(None))
        text = ""
        try:
            while (piece := self._next_of(words)) is not None:
                text += piece
                yield text, None
            yield text, done.result()
        finally:
            watcher.cancel()

    @staticmethod
    def _next_of(words: "queue.Queue[str | None]") -> str | None:
        """The next words; none of them after a while, so that whoever takes the steps can stop taking them."""
        try:
            return words.get(timeout=_PULSE_SECONDS)
        except queue.Empty:
            return ""

    def _in_words(self, error: Exception, video: str | None) -> str:
        """An error as who sits before the page gets it, without the folders of this machine."""
        if isinstance(error, torch.OutOfMemoryError):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return "The memory of the device is not enough for this. Ask with fewer frames."
        message = str(error)
        if video:
            for path in (os.path.realpath(video), video):
                message = message.replace(path, os.path.basename(path))
        return message.partition(" (the working directory is ")[0] if "working directory" in message else message


__all__ = ["Asking", "Shown"]
