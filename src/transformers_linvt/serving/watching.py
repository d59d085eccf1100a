"""An answer while it is generated: its words as they become certain, its end, and the hand that stops it."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class Watcher(StoppingCriteria, BaseStreamer):
    """
    Given to `generate()` as streamer and as stopping criterion, for one row.

    Stop texts are looked for in the decoded answer: transformers' own `stop_strings` needs a tokenizer that can write
    any text, which one of whole words cannot.

    Args:
        decode: token ids -> text.
        stops: texts that end the answer and are no part of it.
        tell (*optional*): called with every piece of text that will not change any more, in the thread that generates.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        stops: Sequence[str] = (),
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.decode, self.stops, self.tell = decode, tuple(stops), tell
        self.num_prompt_tokens = 0
        self.tokens: list[int] = []
        self.found_stop = False
        self._cancelled = threading.Event()
        self._has_prompt = False
        self._previous, self._told = "", 0

    def cancel(self) -> None:
        """End the answer at its next token; from any thread."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody did."""
        return self._cancelled.is_set()

    @property
    def text(self) -> str:
        """The answer so far, up to a stop text."""
        return self._cut(self._decoded())[0].strip()

    def put(self, value: torch.Tensor) -> None:
        """What `generate()` gives a streamer: the prompt first, then each token."""
        if not self._has_prompt:
            self._has_prompt, self.num_prompt_tokens = True, value.numel()
            return
        self.tokens += value.flatten().tolist()
        if self.tell is None and not self.stops:
            return
        text, self.found_stop = self._cut(self._decoded())
        # A token may end within a character, and decoders tidy up blanks: what two steps agree upon stays.
        certain = len(os.path.commonprefix([self._previous, text])) if not self.found_stop else len(text)
        self._previous = text
        if not self.found_stop:
            certain = min(certain, len(text) - self._may_begin_a_stop(text))
        self._tell(text[:certain].rstrip())  # blanks at the end of an answer are no part of it

    def end(self) -> None:
        """Called by `generate()` behind the last token."""

    def finish(self) -> None:
        """Tell what is left; by whoever called `generate()`."""
        self._tell(self._cut(self._decoded())[0].rstrip())

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Whether each row is done."""
        is_done = self.found_stop or self.is_cancelled
        return torch.full((input_ids.shape[0],), is_done, device=input_ids.device, dtype=torch.bool)

    def _decoded(self) -> str:
        return self.decode(self.tokens).lstrip()

    def _cut(self, text: str) -> tuple[str, bool]:
        places = [place for place in (text.find(stop) for stop in self.stops) if place >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def _may_begin_a_stop(self, text: str) -> int:
        """How many characters at the end of a text are the beginning of a stop text."""
        longest = 0
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest

    def _tell(self, text: str) -> None:
        if len(text) > self._told:
            piece, self._told = text[self._told :], len(text)
            if self.tell is not None:
                self.tell(piece)


__all__ = ["Watcher"]
