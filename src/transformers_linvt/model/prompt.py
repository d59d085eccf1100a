"""Chat messages -> the base's prompt, with a video where one stands, and where question and answer stand in it."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from transformers.utils import logging
from transformers.utils.chat_template_utils import render_jinja_template

from ..errors import LinVTInputError, in_our_words, shown
from ..video.frames import VideoFrames
from .base_parts import HasBaseProcessor
from .messages import Messages, parts_of, texts_of
from .subtitle_words import words_beside


logger = logging.get_logger(__name__)

VIDEO_TOKEN = (
    "<|linvt_video|>"  # stands for a video in rendered text, until it is expanded; never reaches the tokenizer
)
# Written around the question while a template renders, to see where it ends up. Private-use characters: templates
# neither strip nor change them.
_QUESTION_START, _QUESTION_END = "\U000f5a01", "\U000f5a02"

Span = tuple[int, int]


class RenderedPrompt(str):
    """
    A rendered prompt that remembers where the question stands in it, and the assistant's words if asked for.

    It is a `str` in every other respect; one that was cut or glued together is a plain `str` and remembers nothing.

    Attributes:
        question_spans (`tuple[tuple[int, int], ...]`): first character and the one behind the last.
        assistant_spans (`tuple[tuple[int, int], ...]`, *optional*): None where they were not asked for.
    """

    question_spans: tuple[Span, ...]
    assistant_spans: tuple[Span, ...] | None

    def __new__(
        cls, text: str, question_spans: Iterable[Span] = (), assistant_spans: Iterable[Span] | None = None
    ) -> "RenderedPrompt":
        self = super().__new__(cls, text)
        self.question_spans = tuple(question_spans)
        self.assistant_spans = None if assistant_spans is None else tuple(assistant_spans)
        return self

    def replace_at(self, pieces: Sequence[tuple[int, int, str]]) -> "RenderedPrompt":
        """Write `new` over the characters `first` to `last` of every piece `(first, last, new)`; spans move along."""
        written, position, begins, ends, gained = [], 0, [], [], [0]
        for first, last, new in pieces:
            written += [self[position:first], new]
            position = last
            begins.append(first)
            ends.append(last)
            gained.append(gained[-1] + len(new) - (last - first))

        def moved(spans: Iterable[Span]) -> list[Span]:
            # What is written between two spans belongs to neither.
            return [
                (start + gained[bisect_right(ends, start)], stop + gained[bisect_left(begins, stop)])
                for start, stop in spans
            ]

        text = "".join([*written, self[position:]])
        return RenderedPrompt(
            text,
            moved(self.question_spans),
            None if self.assistant_spans is None else moved(self.assistant_spans),
        )


@dataclass
class Conversation:
    """One conversation, rewritten for the base: videos are pictures now; what was rewritten is listed in order."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    marked_messages: list[dict[str, Any]] = field(default_factory=list)  # with the question between private characters
    visuals: list[str] = field(default_factory=list)  # "picture" or "video"
    questions: list[str] = field(default_factory=list)  # text parts of the last user turn that has text


class WritesPrompts(HasBaseProcessor):
    """What [`LinVTProcessor`] does with chat messages: render them, and find question and answer again."""

    steps_of: Any  # of ReadsVideos

    @cached_property
    def _placeholders(self) -> tuple[str, ...]:
        """Texts that stand for something else in every prompt of this base."""
        own = (VIDEO_TOKEN, self.markers.placeholder, self.markers.token)
        return tuple(dict.fromkeys(map(str, [*own, *self.base_processor.all_special_multimodal_tokens])))

    @cached_property
    def _marker_tokens(self) -> tuple[str, ...]:
        """Special tokens that the base writes around a picture."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        ids = [i for i in self.base_processor.image_token_ids if i is not None]
        tokens = [
            *self.tokenizer.convert_ids_to_tokens(ids),
            *self.tokenizer.tokenize(self.markers.before),
            *self.tokenizer.tokenize(self.markers.after),
        ]
        return tuple(dict.fromkeys(token for token in tokens if token in added))

    @cached_property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Ids of everything that stands for a picture or around one; nobody says these words."""
        ids = [self.markers.token_id, *self.base_processor.image_token_ids]
        return tuple({i for i in [*ids, *self.tokenizer.convert_tokens_to_ids(self._marker_tokens)] if i is not None})

    def _template(self, chat_template: str | None) -> str:
        """The template to render: a given one, the base's own, or the one of several that has the given name."""
        own = self.chat_template
        if isinstance(own, Mapping):
            name = "default" if chat_template is None else chat_template
            if chat_template is None and name not in own:
                raise LinVTInputError(
                    f"The base has several chat templates ({', '.join(own)}), none named 'default'. Name one with "
                    "chat_template=..."
                )
            return own.get(name, name)
        if chat_template is not None:
            return chat_template
        if own is None:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} has no chat template. Pass chat_template=..., or set "
                "processor.chat_template."
            )
        return own

    def _check_texts(self, conversations: Sequence[Sequence[Mapping[str, Any]]], has_video: bool) -> None:
        """Refuse texts that hold what stands for a picture or a video."""
        refused = (*self._placeholders, *(self._marker_tokens if has_video else ()))
        for messages in conversations:
            beside = [words_beside(part) for part in parts_of(messages, "video")]
            for text in (*texts_of(messages), *beside):
                if token := next((token for token in refused if token in text), None):
                    raise LinVTInputError(
                        f"The text {shown(text)} holds {token!r}, which stands for a picture or video in prompts of "
                        "this base. Remove it; videos and pictures are content parts of their own."
                    )

    def _rewrite(
        self, messages: Sequence[Mapping[str, Any]], videos: Sequence[VideoFrames] | None = None
    ) -> Conversation:
        """Videos become pictures for the base's template; with `videos`, their times are written behind them."""
        if videos is None:
            return rewritten(messages, None)
        return rewritten(messages, [line_of_times(self.steps_of(one).timestamps, one.duration) for one in videos])

    def _render(
        self,
        conversation: Conversation,
        template: str | None,
        flags: Mapping[str, Any],
        with_assistant_spans: bool = False,
        with_question_spans: bool = True,
    ) -> RenderedPrompt:
        """The base's template, with `<|linvt_video|>` where a video stands, and where the question stands in it."""
        template = self._template(template)
        is_asked = any(question.strip() for question in conversation.questions)
        if flags.get("add_generation_prompt") and not is_asked:
            raise LinVTInputError("The question is empty. Ask something about the video.")

        def write(messages: list[dict[str, Any]]) -> str:
            """One conversation through the template."""
            refused = "The chat template refused the conversation"
            render = self.base_processor.apply_chat_template

            def make(chats: Sequence[Messages]) -> str:
                return in_our_words(refused, render, chats[0], chat_template=template, tokenize=False, **flags)

            return made_of_silent_turns(make, [messages])

        text = write(conversation.messages)
        spans: list[Span] = []
        if is_asked and with_question_spans:
            without_marks, spans = _take_marks_out(write(conversation.marked_messages))
            if without_marks != text or not spans:
                logger.warning_once("The chat template changes the text of the question, so its tokens are not known.")
                spans = [(0, len(text))] if flags.get("add_generation_prompt") else []
        assistant = self._assistant_spans(conversation, template, flags, text) if with_assistant_spans else None
        if self.bridge.family.prepends_visuals:
            front = self.markers.placeholder * len(conversation.visuals)
            text, spans = front + text, [(start + len(front), stop + len(front)) for start, stop in spans]
            if assistant is not None:
                assistant = [(start + len(front), stop + len(front)) for start, stop in assistant]
        places = [match.start() for match in re.finditer(re.escape(self.markers.placeholder), text)]
        if len(places) != len(conversation.visuals):
            raise LinVTInputError(
                f"The chat template wrote {len(places)} placeholders {self.markers.placeholder!r} for "
                f"{len(conversation.visuals)} videos and pictures. It may not support them, or not several of them, "
                "where they stand."
            )
        length = len(self.markers.placeholder)
        pieces = [
            (place, place + length, VIDEO_TOKEN)
            for place, kind in zip(places, conversation.visuals, strict=True)
            if kind == "video"
        ]
        return RenderedPrompt(text, spans, assistant).replace_at(pieces)

    def _answer_span(
        self,
        messages: Sequence[Mapping[str, Any]],
        turn: int,
        videos: Sequence[VideoFrames] | None,
        template: str,
        flags: Mapping[str, Any],
        prompt: str,
    ) -> Span:
        """Where message number `turn` stands in the rendered conversation."""

        def render(number: int, **more: Any) -> str:
            """The first `number` messages alone."""
            if number == 0:
                return ""
            part = messages[:number]
            frames = videos[: len(list(parts_of(part, "video")))] if videos is not None else None
            conversation = self._rewrite(part, frames)
            return str(self._render(conversation, template, {**flags, **more}, with_question_spans=False))

        is_answer, is_last = messages[turn]["role"] == "assistant", turn + 1 == len(messages)
        before, behind = render(turn, add_generation_prompt=is_answer), prompt if is_last else render(turn + 1)
        if is_answer and behind.startswith(before + self.added.last):
            before += self.added.last  # which the base's processor would write there
        if is_answer and not behind.startswith(before):
            before = _up_to_text(render(turn), behind, messages[turn])
        if not (behind.startswith(before) and prompt.startswith(behind)):
            raise LinVTInputError(
                f"The chat template writes message {turn + 1} differently when other messages follow, so its tokens "
                "cannot be told. Pass a chat template with {% generation %} tags and assistant_only_loss=True."
            )
        return len(before), len(behind)

    def _assistant_spans(
        self, conversation: Conversation, template: str, flags: Mapping[str, Any], text: str
    ) -> list[Span]:
        """Where the assistant's words stand in `text`: what the template has between its generation tags."""
        if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
            raise LinVTInputError(
                "return_assistant_tokens_mask=True needs a chat template that marks the assistant's words with "
                "{% generation %} and {% endgeneration %}, and this one does not. Pass one as chat_template=..."
            )
        if flags.get("continue_final_message"):
            raise LinVTInputError("return_assistant_tokens_mask and continue_final_message do not go together.")
        written, spans = in_our_words(
            "The chat template refused the conversation",
            render_jinja_template,
            conversations=[conversation.messages],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **flags},
        )
        if written[0] != text:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} does not render its chat template as it is, so the assistant's "
                "words cannot be found in the prompt. Leave return_assistant_tokens_mask out."
            )
        return [tuple(span) for span in spans[0]]


def rewritten(messages: Sequence[Mapping[str, Any]], times_of_videos: Sequence[str] | None) -> Conversation:
    """Messages with a picture for every video; its subtitles stand behind it, and before them its times, in words."""
    result, told = Conversation(), iter(times_of_videos or ())
    asked = _question_turn(messages)
    for number, message in enumerate(messages):
        mark = _marked if number == asked else str
        content = message.get("content")
        if isinstance(content, str):
            result.questions += [content] if number == asked else []
            plain, marked = content, mark(content)
        else:
            plain, marked, times = [], [], ""
            for part in content or ():
                if part["type"] == "text":
                    # Times and text are one part: a template that strips texts would glue two together.
                    plain.append({**part, "text": times + part["text"]})
                    marked.append({**part, "text": times + mark(part["text"])})
                    result.questions += [part["text"]] if number == asked else []
                    times = ""
                    continue
                for target in (plain, marked):
                    target += [{"type": "text", "text": times}] if times else []
                    target.append({"type": "image"})
                result.visuals.append("video" if part["type"] == "video" else "picture")
                is_timed = part["type"] == "video" and times_of_videos is not None
                times = (next(told) if is_timed else "") + words_beside(part)
            for target in (plain, marked):
                target += [{"type": "text", "text": times}] if times else []
        has_content = "content" in message
        result.messages.append({**message, "content": plain} if has_content else dict(message))
        result.marked_messages.append({**message, "content": marked} if has_content else dict(message))
    return result


def _question_turn(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """The last turn of the user that has text."""
    turns = [
        i for i, one in enumerate(messages) if one["role"] == "user" and any(text.strip() for text in texts_of([one]))
    ]
    return turns[-1] if turns else None


def made_of_silent_turns(make: Callable[[Sequence[Messages]], Any], conversations: Sequence[Messages]) -> Any:
    """What is made of conversations; turns without content get an empty text where a template needs one (SmolVLM)."""
    try:
        return make(conversations)
    except LinVTInputError:
        if all("content" in message for messages in conversations for message in messages):
            raise
        empty = {"content": [{"type": "text", "text": ""}]}
        return make([[{**empty, **message} for message in messages] for messages in conversations])


def warn_of_lost_tool_calls(conversations: Sequence[Sequence[Mapping[str, Any]]], template: str) -> None:
    """Tool calls that a template has no words for would vanish without a sign."""
    if "tool_calls" not in template and any(one.get("tool_calls") for messages in conversations for one in messages):
        logger.warning_once(
            "The chat template of this base does not write tool calls, so the model does not see which were made. Put "
            "them into the text of the turn, or pass a chat_template that writes message.tool_calls."
        )


def _up_to_text(before: str, behind: str, message: Mapping[str, Any]) -> str:
    """
    `behind` up to the words of its last message, for templates that open an answer in two ways.

    LLaVA-OneVision's asks for an answer with `assistant\\n` and writes one that is there as `assistant \\n`.
    """
    words = next(iter(texts_of([message])), "").strip()
    place = behind.find(words, len(before)) if behind.startswith(before) else -1
    return behind[:place] if words and place >= 0 else before


def _marked(text: str) -> str:
    """A text between marks; blanks at its ends stay outside, where a template may strip them."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    return text[:start] + _QUESTION_START + inner + _QUESTION_END + text[start + len(inner) :]


def _take_marks_out(text: str) -> tuple[str, list[Span]]:
    """A text without its marks, and the spans that were between them."""
    pieces = re.split(f"({_QUESTION_START}|{_QUESTION_END})", text)
    spans, clean, start = [], "", 0
    for piece in pieces:
        if piece == _QUESTION_START:
            start = len(clean)
        elif piece == _QUESTION_END:
            spans.append((start, len(clean)))
        else:
            clean += piece
    return clean, spans


def line_of_times(timestamps: Any, duration: float | None = None) -> str:
    """
    What `add_timestamps=True` writes behind a video: the seconds of its frames, and how long it is.

    Without `duration` it is as many mean steps long as there are frames: exact where frames are spread evenly.
    """
    seconds = [float(one) for one in timestamps]
    if duration is None:
        duration = (seconds[-1] - seconds[0]) * len(seconds) / max(1, len(seconds) - 1)
    times = ", ".join(f"{one:.1f}" for one in seconds)
    return f"Video of {duration:.1f} seconds, frames at {times} seconds.\n"


def with_questions(texts: Sequence[str], question: str | Sequence[str] | None) -> list[RenderedPrompt]:
    """Prompts that know their question: the given one where it stands last, their own, or none."""
    if question is None:
        if any(VIDEO_TOKEN in one and not isinstance(one, RenderedPrompt) for one in texts):
            # all of the text would be a leak: it holds the answer when the prompt is one to learn from
            logger.warning_once(
                "A prompt is a plain string, in which the question cannot be told from an answer, so no question is "
                "marked and the video tokens are not conditioned on it. Pass question=..., or what "
                "apply_chat_template returned, neither cut nor joined."
            )
        return [one if isinstance(one, RenderedPrompt) else RenderedPrompt(one) for one in texts]
    questions = [question] if isinstance(question, str) else list(question)
    if len(questions) != len(texts) or not all(isinstance(one, str) for one in questions):
        raise LinVTInputError(
            f"question has {len(questions)} entries for {len(texts)} prompts. Give a string for each."
        )
    prompts = []
    for text, asked in zip(texts, questions, strict=True):
        start = text.rfind(asked.strip())
        if start < 0 or not asked.strip():
            raise LinVTInputError(f"The question {shown(asked)} does not stand in its prompt {shown(text)}.")
        spans = getattr(text, "assistant_spans", None)
        prompts.append(RenderedPrompt(text, [(start, start + len(asked.strip()))], spans))
    return prompts
