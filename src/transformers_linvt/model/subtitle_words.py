"""Subtitles as words of the prompt: written at their times beside the video, counted in tokens, cut by a budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers.utils import logging

from ..errors import LinVTInputError, in_our_words, shown
from ..video.frames import uniform_indices
from ..video.subtitles import read_subtitles, within
from .base_parts import HasBaseProcessor
from .messages import Messages


logger = logging.get_logger(__name__)

MAX_SUBTITLE_TOKENS = 1024  # where a call says nothing; ours: about ten minutes of talk


@dataclass(frozen=True)
class SubtitleWords:
    """
    What is written beside a video.

    Attributes:
        text (`str`): a line per subtitle, `"12.5 s: words"`; empty where there is none.
        num_tokens (`int`): tokens of the text by itself.
        num_written, num_given (`int`): subtitles in the text, and in the part of the video that is looked at.
    """

    text: str
    num_tokens: int
    num_written: int
    num_given: int


class WritesSubtitles(HasBaseProcessor):
    """What [`LinVTProcessor`] does with subtitles."""

    def subtitle_words(
        self,
        subtitles: Any,
        start: float | None = None,
        end: float | None = None,
        max_subtitle_tokens: int | None = None,
        number: int | None = None,
    ) -> SubtitleWords:
        """
        Subtitles as they are written beside a video.

        Where they do not fit into the budget, as many as fit are written, spread evenly over those there are: the end
        of a video counts as much as its beginning. A warning says so.

        Args:
            subtitles: what [`read_subtitles`] takes: an SRT or
                WebVTT file, or pairs of seconds and words. What this returned before comes back as it is.
            start, end (*optional*): the part of the video that is looked at, in seconds.
            max_subtitle_tokens (`int`, defaults to 1,024): most tokens that they may take.
            number (`int`, *optional*): of the video among several, named in the title: some templates (LLaVA's) write
                all videos of a turn in front of its texts.

        Raises:
            LinVTInputError: a budget that is not a whole number above 0.
            VideoReadError: the file holds no subtitles, or an entry is not times and words.
        """
        if isinstance(subtitles, SubtitleWords):
            return subtitles
        budget = MAX_SUBTITLE_TOKENS if max_subtitle_tokens is None else max_subtitle_tokens
        if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
            raise LinVTInputError(f"max_subtitle_tokens={shown(budget)}: give a whole number of tokens, 1 or more.")
        found = within(read_subtitles(subtitles), start, end)
        if not found:
            return SubtitleWords("", 0, 0, 0)
        lines = [f"{one.start:.1f} s: {one.text}\n" for one in found]
        lengths = [len(ids) for ids in self._ids_of(lines)]
        title = "Subtitles:\n" if number is None else f"Subtitles of video {number}:\n"
        # lines by themselves may be a token shorter or longer than side by side: the whole is counted at the end
        count, written, num_tokens = _how_many(lengths, budget - len(self._ids_of([title])[0])), "", 0
        while count > 0:
            written = title + "".join(lines[i] for i in uniform_indices(len(lines), count))
            if (num_tokens := len(self._ids_of([written])[0])) <= budget:
                break
            count -= 1
        if count < len(lines):
            logger.warning(
                f"Of {len(lines)} subtitles {count} are written, spread over all of them: more do not fit into "
                f"max_subtitle_tokens={budget}."
            )
        return SubtitleWords(written, num_tokens, count, len(lines)) if count else SubtitleWords("", 0, 0, len(lines))

    def _ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        refused = "The tokenizer refused the subtitles"
        return in_our_words(refused, self.tokenizer, list(texts), add_special_tokens=False)["input_ids"]

    def with_subtitles(self, messages: Messages, of_call: Mapping[str, Any]) -> Messages:
        """
        Parsed messages whose video parts have their subtitles in words.

        Args:
            messages: see [`parse_messages`].
            of_call: `subtitles` and `max_subtitle_tokens` of the call, for a conversation with one video; and `start`
                and `end`.

        Raises:
            LinVTInputError: subtitles for the whole call, and several videos or none that they could be of.
        """
        count = sum(part["type"] == "video" for one in messages for part in _parts(one))
        if of_call.get("subtitles") is not None and count != 1:
            raise LinVTInputError(
                f"subtitles were given for a conversation with {count} videos. Write them into the part of the video "
                "that they are of: {'type': 'video', ..., 'subtitles': ...}."
            )
        numbers = iter(range(1, count + 1) if count > 1 else [None])
        return [
            {**one, "content": [self._part_in_words(part, of_call, numbers) for part in _parts(one)]}
            if _parts(one)
            else one
            for one in messages
        ]

    def _part_in_words(
        self, part: dict[str, Any], of_call: Mapping[str, Any], numbers: Iterator[int | None]
    ) -> dict[str, Any]:
        if part["type"] != "video":
            return part
        number = next(numbers)
        names = ("subtitles", "start", "end", "max_subtitle_tokens")
        given = {name: part[name] if part.get(name) is not None else of_call.get(name) for name in names}
        own = {name: value for name, value in part.items() if name not in ("subtitles", "max_subtitle_tokens")}
        if given["subtitles"] is None:
            if part.get("max_subtitle_tokens") is not None:
                raise LinVTInputError("A video part has max_subtitle_tokens and no subtitles. Give both, or neither.")
            return own
        return {**own, "subtitles": self.subtitle_words(**given, number=number)}


def words_beside(part: Mapping[str, Any]) -> str:
    """The subtitles of a video part that went through `with_subtitles`; empty where it has none."""
    words = part.get("subtitles")
    return words.text if isinstance(words, SubtitleWords) else ""


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _how_many(lengths: Sequence[int], room: int) -> int:
    """How many lines, spread evenly over all, fit into a number of tokens."""
    low, high = 0, len(lengths)
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(lengths[i] for i in uniform_indices(len(lengths), middle)) <= room
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


__all__ = ["MAX_SUBTITLE_TOKENS", "SubtitleWords", "WritesSubtitles", "words_beside"]
