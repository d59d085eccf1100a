"""What a call of the pipeline may be given, as requests: a video with questions, or a chat."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from ..errors import LinVTInputError, nearest_name
from ..model.messages import (
    SAMPLING_ARGUMENTS,
    SUBTITLE_ARGUMENTS,
    check_keys,
    parse_messages,
    parts_of,
    resolved,
    sampling_of,
    source_of,
    texts_of,
)
from ..video.media_address import is_data_url, name_of_address


# A key of an input is taken for a misspelt one from this likeness on (0 to 1, as difflib counts): more than that of
# 'video_id' and 'question_id', which many datasets have. Ours.
_LIKENESS_OF_KEYS = 0.85
_OF_OTHER_PACKAGES = ("max_pixels", "min_pixels", "total_pixels")  # Qwen's, for the size of frames
# What other pipelines call the arguments of a call.
OTHER_NAMES = {
    "videos": "video", "frames": "video", "path": "video", "url": "video", "inputs": "video", "questions": "question",
    "prompt": "question", "prompts": "question", "query": "question", "chat": "messages", "chats": "messages",
    "conversation": "messages", "conversations": "messages",
}  # fmt: skip


@dataclass
class Request:
    """
    One input: questions about a video, or one chat that a reply is wanted for; or why it is neither.

    `messages` is the chat as the parser understands it, `chat` as it was given.
    """

    video: Any = None
    questions: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    subtitles: dict[str, Any] = field(default_factory=dict)
    chat: Sequence[Mapping[str, Any]] | None = None
    error: Exception | None = None

    def names_of_videos(self) -> list[str]:
        """How results name the videos that could not be read."""
        if self.messages is None:
            return [_name_of(self.video)]
        return [_name_of(source_of(part, is_needed=False)) for part in parts_of(self.messages, "video")]


def requests_of(
    video: Any, question: Any, messages: Any, video_root: str | os.PathLike | None = None
) -> "Request | list[Request] | Dataset | Iterator[Request]":
    """
    The arguments of a call as one request, a list of them, or a lazy stream of them.

    A single input that makes no request is an error; one of several becomes a request that holds its error, so that
    the others are answered.
    """
    if messages is None and question is None and _is_collection(video):
        messages = video if is_chat(video) or is_list_of_chats(video) else None
        video = None if messages is not None else video
    if messages is not None:
        if video is not None or question is not None:
            raise LinVTInputError(
                "Chat messages were given together with a video or a question. Put both into the messages: "
                '{"role": "user", "content": [{"type": "video", "path": ...}, {"type": "text", "text": ...}]}.'
            )
        return _chat_requests(messages, video_root)
    if video is None:
        raise LinVTInputError(
            'No video was given. Call pipe(video="clip.mp4", question="..."), or pass chat messages.'
        )
    if _is_dataset(video):
        make = _RequestDataset if hasattr(video, "__len__") else _streamed
        return make(video, question, video_root)
    if isinstance(video, Iterator) and not hasattr(video, "read"):
        return _streamed(video, question, video_root)
    if not _is_several(video):
        return _request_of(video, question, video_root)
    videos: Any = video
    if question is None or isinstance(question, str):
        return [_one_of_several(one, question, video_root) for one in videos]
    if _is_dataset(question) or not isinstance(question, list | tuple) or len(question) != len(videos):
        given = f"{len(question)} of them" if hasattr(question, "__len__") else type(question).__name__
        raise LinVTInputError(
            f"{len(videos)} videos need one question for all, or a list with an entry per video; got {given}."
        )
    return [_one_of_several(one, about, video_root) for one, about in zip(videos, question, strict=True)]


def _chat_requests(messages: Any, video_root: str | os.PathLike | None) -> "Request | list[Request]":
    if not isinstance(messages, list | tuple) or not messages:
        raise LinVTInputError(
            f"messages must be a chat, a list of dictionaries with role and content, or a list of chats; got "
            f"{_described(messages)}."
        )
    if isinstance(messages[0], list | tuple):
        return [_one_of_several(chat, None, video_root) for chat in messages]
    return _chat_request(messages, video_root)


def _chat_request(
    messages: Any, video_root: str | os.PathLike | None, sampling: Mapping[str, Any] | None = None
) -> Request:
    """Check what can be checked of a chat before anything is read."""
    parsed = parse_messages(messages, video_root)
    return Request(messages=parsed, chat=list(messages), sampling=dict(sampling or {}))


def _request_of(item: Any, question: Any, video_root: str | os.PathLike | None) -> Request:
    """One input of any form but a stream."""
    if is_chat(item):
        if question is not None:
            raise LinVTInputError("A chat holds its own question; leave the argument question out.")
        return _chat_request(item, video_root)
    sampling: dict[str, Any] = {}
    subtitles: dict[str, Any] = {}
    if isinstance(item, Mapping) and "video" in item:
        if question is not None and item.get("question") is not None:
            raise LinVTInputError("The input names a question of its own; leave the argument question out.")
        if "messages" in item:
            raise LinVTInputError("An input has both a video and messages. Put the video into the messages.")
        _check_input(item, ("video", "question", *SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS))
        sampling = sampling_of(item, {})
        subtitles = {name: item[name] for name in SUBTITLE_ARGUMENTS if item.get(name) is not None}
        question = item.get("question") if question is None else question
        item = item["video"]
    elif isinstance(item, Mapping) and "messages" in item:
        _check_input(item, ("messages", *SAMPLING_ARGUMENTS))
        return _chat_request(item["messages"], video_root, sampling_of(item, {}))
    elif isinstance(item, Mapping) and not {"path", "bytes"} & item.keys():
        raise LinVTInputError(
            f"An input has no 'video' and no 'messages'; it has {', '.join(map(repr, item)) or 'nothing'}."
        )
    if item is None:
        raise LinVTInputError("The video of an input is None. Give a path, frames, or what else read_video takes.")
    return Request(video=item, questions=questions_of(question), sampling=sampling, subtitles=subtitles)


def _check_input(item: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that was meant to do something and would not; an id or the right answer may stand beside."""
    meant = {key for key in item if key in _OF_OTHER_PACKAGES or nearest_name(key, known, _LIKENESS_OF_KEYS)}
    check_keys({key: item[key] for key in item if key in meant}, known, "An input")


def _one_of_several(item: Any, question: Any, video_root: str | os.PathLike | None) -> Request:
    """The request of an input, or one that holds its error, with as much of it as a result can name."""
    try:
        return _request_of(item, question, video_root)
    except LinVTInputError as error:
        if is_chat(item) or isinstance(item, list | tuple) or (isinstance(item, Mapping) and "messages" in item):
            return Request(messages=[], error=error)
        if isinstance(item, Mapping) and "video" in item:
            question = item.get("question") if question is None else question
            item = item["video"]
        questions = question if isinstance(question, list | tuple) else [question]
        asked = [one for one in questions if isinstance(one, str)] or [""]
        return Request(video=item, questions=asked, error=error)


def questions_of(question: Any) -> list[str]:
    """The questions of an input as a list; what holds none is refused."""
    if question is None:
        raise LinVTInputError("No question was given. Ask something about the video: question='...'.")
    questions = [question] if isinstance(question, str) else question
    if not isinstance(questions, list | tuple) or not all(isinstance(one, str) for one in questions):
        raise LinVTInputError(f"question must be text or a list of texts, got {_described(question)}.")
    if not questions:
        raise LinVTInputError("question is an empty list. Ask something about the video.")
    for one in questions:
        if not one.strip():
            raise LinVTInputError("The question is empty. Ask something about the video.")
    return list(questions)


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {', '.join(sorted({type(one).__name__ for one in value}))}"
    return type(value).__name__


class _RequestDataset(Dataset):
    """A dataset of videos or of dictionaries, with one question for all or a dataset of them beside it."""

    def __init__(self, videos: Any, questions: Any, video_root: str | os.PathLike | None) -> None:
        self.videos, self.questions, self.video_root = videos, questions, video_root
        self.is_paired = _is_dataset(questions)
        if self.is_paired and len(questions) != len(videos):
            raise LinVTInputError(f"{len(videos)} videos and {len(questions)} questions were given. Pair them.")

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> Request:
        try:
            question = self.questions[index] if self.is_paired else self.questions
            video = self.videos[index]
        except Exception as error:  # of a dataset that decodes, or downloads, where a row is asked for
            asked = [self.questions] if isinstance(self.questions, str) else [""]
            return Request(video=f"<row {index}>", questions=asked, error=error)
        return _one_of_several(video, question, self.video_root)


def _streamed(items: Iterable[Any], question: Any, video_root: str | os.PathLike | None) -> Iterator[Request]:
    # a generator, which is what Pipeline.__call__ recognises as a stream
    yield from (_one_of_several(item, question, video_root) for item in items)


def _is_message(value: Any) -> bool:
    """Whether a dictionary is meant as a message, be it a good one or not."""
    return isinstance(value, Mapping) and bool({"role", "content"} & value.keys()) and "video" not in value


def is_chat(value: Any) -> bool:
    """Whether a list is a chat: messages, be they good ones or not."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_message(one) for one in value)


def is_list_of_chats(value: Any) -> bool:
    """Whether a list holds chats."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(is_chat(one) for one in value)


def _is_collection(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_several(video: Any) -> bool:
    """Whether a list holds several videos: one of pictures is the frames of a single one."""
    if not _is_collection(video):
        return False
    return not any(hasattr(one, "getbands") or getattr(one, "ndim", None) == 3 for one in video[:1])


def _is_dataset(value: Any) -> bool:
    """A torch dataset (KeyDataset is one), or anything of the library `datasets`."""
    return isinstance(value, Dataset) or type(value).__module__.partition(".")[0] == "datasets"


def _name_of(video: Any) -> str:
    if isinstance(video, Mapping):
        video = video.get("path")
    if isinstance(video, str) and is_data_url(video):
        return name_of_address(video)
    return str(video) if isinstance(video, str) or hasattr(video, "__fspath__") else f"<{type(video).__name__}>"


def as_chat(request: Request, video_root: str | os.PathLike | None = None) -> list[dict[str, Any]]:
    """The chat of a request; a video by itself is one without its source and its question."""
    if request.messages is not None:
        return request.messages
    own = {name: resolved(value, video_root) for name, value in request.subtitles.items()}
    return [{"role": "user", "content": [{"type": "video", **own}]}]


def is_continued(messages: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether a chat ends with the assistant, whose turn is to be continued."""
    return bool(messages) and messages[-1]["role"] == "assistant"


def last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    """The words of the last turn of the user."""
    return next((" ".join(texts_of([one])).strip() for one in reversed(messages) if one["role"] == "user"), "")


def with_reply(chat: Sequence[Mapping[str, Any]], reply: str) -> list[dict[str, Any]]:
    """The chat with the reply: as a message of its own, or at the end of the one that it continues."""
    messages = [dict(message) for message in chat]
    if not is_continued(messages):
        return [*messages, {"role": "assistant", "content": reply}]
    content = messages[-1].get("content") or ""
    messages[-1]["content"] = (
        content + reply if isinstance(content, str) else [*content, {"type": "text", "text": reply}]
    )
    return messages
