"""
The one parser of chats, for the processor, the pipeline and training: what a message may hold, and what it means.

A message part is what transformers and OpenAI document:

- `{"type": "text", "text": ...}`;
- `{"type": "video", ...}` with one source under `video`, `path`, `url` or `frames`, with sampling arguments of its own
  and with `subtitles`; a list of files under `video` or `frames` is one video, a picture per frame;
- `{"type": "image", ...}` with one source under `image`, `path`, `url` or `base64`;
- `{"type": "video_url", "video_url": {"url": ...}}` and `{"type": "image_url", "image_url": {"url": ...}}`.

Any other key is refused with the nearest name that is known. A key that is `None` counts as not given: `datasets`
gives every part the keys of all others.

What `path`, `video` and `image` name is the caller's own and opened wherever it lies. `url`, `video_url` and
`image_url` are what servers pass on from others: they hold an address (`https://`, `data:`, `file://`), and a file of
this machine is opened by them only below a folder that the caller names (`video_root`).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import LinVTInputError, VideoReadError, advice, nearest_name, shown
from ..video.media_address import is_address, is_data_url, path_below, path_of_file_url, scheme_of


VIDEO_KEYS = ("video", "path", "url", "frames")
PICTURE_KEYS = ("image", "path", "url", "base64")
SAMPLING_ARGUMENTS = (
    "num_frames",
    "fps",
    "start",
    "end",
    "max_frames",
    "video_backend",
    "limits",
    "allow_urls",
    "timestamps",
    "do_sample_frames",
    "video_metadata",
)
# What is written beside a video; the frames do not depend on it.
SUBTITLE_ARGUMENTS = ("subtitles", "max_subtitle_tokens")
SOURCE_KEYS = {"video": VIDEO_KEYS, "image": PICTURE_KEYS}

_PART_KEYS = {
    "text": ("type", "text"),
    "image": ("type", *PICTURE_KEYS),
    "video": ("type", *VIDEO_KEYS, *SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS),
    "image_url": ("type", "image_url"),
    "video_url": ("type", "video_url", *SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS),
}
# Keys that the documentation of others teaches and that mean nothing here: what to do instead.
_INSTEAD = {
    "uuid": "A video that was encoded before is found again by its content: leave it out.",
    "cache_control": "A video that was encoded before is found again by its content: leave it out.",
    "max_pixels": "The size of frames is set for a processor (max_frame_tokens) or a call (size, max_pixels).",
    "min_pixels": "The size of frames is set for a processor (max_frame_tokens) or a call (size, min_pixels).",
    "total_pixels": "The tokens of all frames are set for a processor: max_total_frame_tokens.",
    "resized_height": "The size of frames is set for a processor (max_frame_tokens) or a call (size).",
    "resized_width": "The size of frames is set for a processor (max_frame_tokens) or a call (size).",
    "sample_fps": "The rate of frames that were sampled before is fps.",
    "raw_fps": "The rate of a file that frames were sampled from is video_metadata={'fps': ...}.",
}
# Parts that the documentation of others teaches.
_OTHER_PARTS = {
    "input_text": "OpenAI's Responses write it so; in a chat it is {'type': 'text', 'text': ...}.",
    "output_text": "OpenAI's Responses write it so; in a chat it is {'type': 'text', 'text': ...}.",
    "input_image": "OpenAI's Responses write it so; in a chat it is {'type': 'image_url', 'image_url': {'url': ...}}.",
    "input_video": "In a chat it is {'type': 'video_url', 'video_url': {'url': ...}}.",
    "input_audio": "Sound is not heard; what is said can be given as subtitles=... of the video.",
    "audio_url": "Sound is not heard; what is said can be given as subtitles=... of the video.",
    "audio": "Sound is not heard; what is said can be given as subtitles=... of the video.",
    "image_pil": "A picture in memory is {'type': 'image', 'image': ...}.",
    "image_embeds": "Encoded pictures are not taken; give the picture.",
    "prompt_embeds": "Embeddings of prompts are not taken; give the messages.",
    "file": "A video is {'type': 'video_url', 'video_url': {'url': 'data:video/mp4;base64,...'}}.",
    "input_file": "A video is {'type': 'video_url', 'video_url': {'url': 'data:video/mp4;base64,...'}}.",
    "refusal": "What the assistant refused is text: {'type': 'text', 'text': ...}.",
}
# What stands inside of {"image_url": {...}}; OpenAI's `detail` is taken where it asks for nothing.
_ADDRESS_KEYS = {"image_url": ("url", "detail"), "video_url": ("url",)}


Messages = list[dict[str, Any]]


# ---------------------------------------------------------------------------------------------------------------------
# Names that nobody knows
# ---------------------------------------------------------------------------------------------------------------------


def check_keys(entry: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """
    Refuse a key that is not known.

    Args:
        entry: a part of a message, or another dictionary that a user wrote.
        known: its keys.
        what: how the sentence calls it, such as `"A video part of message 1"`.

    Raises:
        LinVTInputError: names the key, and the one that was meant.
    """
    for key in entry:
        if key not in known:
            instead = _INSTEAD.get(key) if isinstance(key, str) else None
            raise LinVTInputError(f"{what} has the key {key!r}, which is not known. {instead or advice(key, known)}")


# ---------------------------------------------------------------------------------------------------------------------
# Messages and their parts
# ---------------------------------------------------------------------------------------------------------------------


def parse_conversations(conversation: Any, video_root: str | os.PathLike | None = None) -> tuple[list[Messages], bool]:
    """
    One conversation or several -> checked copies, and whether there were several.

    Args:
        conversation: a list of messages, or a list of such lists.
        video_root (*optional*): see [`parse_messages`].

    Raises:
        LinVTInputError: see [`parse_messages`].
    """
    if isinstance(conversation, str | Mapping) or not isinstance(conversation, Sequence) or not conversation:
        raise LinVTInputError(
            "A conversation is a list of messages such as {'role': 'user', 'content': ...}, not "
            f"{shown(conversation)}."
        )
    is_batched = isinstance(conversation[0], list | tuple)
    several = conversation if is_batched else [conversation]
    return [parse_messages(messages, video_root) for messages in several], is_batched


def parse_messages(messages: Any, video_root: str | os.PathLike | None = None, first: int = 1) -> Messages:
    """
    The messages of one conversation, checked and brought into one form.

    In that form the content is text or a list of parts of the types `text`, `image` and `video`; keys whose value is
    `None` are gone, and with them a content of `None`, which an assistant's turn may have that calls tools. Chat
    templates ask whether a key is there.

    Args:
        messages (`list[dict]`): with `role`, and `content` or `tool_calls`; other keys are left to the chat template.
        video_root (*optional*): folder that relative paths start from, and that the files named by `url`, `video_url`
            and `image_url` have to lie in. Without one these open no files.
        first (`int`, defaults to 1): number that errors give to the first message.

    Returns:
        `list[dict]`: copies; what was given is not changed.

    Raises:
        LinVTInputError: a message without role or content, a part of an unknown type, a key that is not known, two
            sources in one part, an address that cannot be used or leads out of `video_root`.

    Example:

    >>> part = {"type": "video_url", "video_url": {"url": "https://example.com/clip.mp4"}, "num_frames": 8}
    >>> parse_messages([{"role": "user", "content": [part]}])[0]["content"]
    [{'type': 'video', 'url': 'https://example.com/clip.mp4', 'num_frames': 8}]
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise LinVTInputError(
            f"A conversation of the batch is {shown(messages)}. Give one list of messages, or a list of such lists."
        )
    return [_parsed_message(message, number, video_root) for number, message in enumerate(messages, first)]


def _parsed_message(message: Any, number: int, video_root: str | os.PathLike | None) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise LinVTInputError(f"Message {number} is {shown(message)}, not a dictionary with 'role' and 'content'.")
    message = {key: value for key, value in message.items() if value is not None}
    if not isinstance(message.get("role"), str):
        raise LinVTInputError(f"Message {number} has no role: {shown(message)}. Give 'user', 'assistant' or 'system'.")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise LinVTInputError(
            f"Message {number} ({message['role']}) has no content. Give a text or a list of parts; only a turn with "
            "'tool_calls' may go without."
        )
    if isinstance(content, list | tuple):
        message["content"] = [_parsed_part(part, number, video_root) for part in content]
    elif content is not None and not isinstance(content, str):
        raise LinVTInputError(
            f"The content of message {number} is {shown(content)}. Give a text or a list of parts such as "
            "{'type': 'text', 'text': ...}."
        )
    return message


def _parsed_part(part: Any, number: int, video_root: str | os.PathLike | None) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise LinVTInputError(
            f"A content part of message {number} is {shown(part)}, not a dictionary such as "
            "{'type': 'text', 'text': ...}."
        )
    part = {key: value for key, value in part.items() if value is not None}
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in _PART_KEYS:
        raise LinVTInputError(
            f"A content part of message {number} has type {shown(kind)}; 'video', 'image', 'text', 'video_url' and "
            f"'image_url' are known.{_meant_by(kind, part)}"
        )
    article = "An" if kind.startswith("image") else "A"
    what = f"{article} {kind} part of message {number}"
    check_keys(part, _PART_KEYS[kind], what)
    if kind in _ADDRESS_KEYS:
        part = _from_openai(part, kind, what)
    elif kind == "text" and not isinstance(part.get("text"), str):
        raise LinVTInputError(f"A text part of message {number} has no text, or none that is a string: {shown(part)}.")
    return part if kind == "text" else _with_source(part, what, video_root)


def _meant_by(kind: Any, part: Mapping[str, Any]) -> str:
    """What to write instead of a part of a type that is not known."""
    if isinstance(kind, str) and kind in _OTHER_PARTS:
        return f" {_OTHER_PARTS[kind]}"
    # vLLM takes {"video_url": "https://..."} without a type
    if meant := nearest_name(kind, tuple(_PART_KEYS)) or next((one for one in _PART_KEYS if one in part), None):
        return f" Did you mean {meant!r}?" if kind is not None else f" Add 'type': {meant!r}."
    return ""


def _from_openai(part: Mapping[str, Any], kind: str, what: str) -> dict[str, Any]:
    """`{"type": "video_url", "video_url": {"url": ...}}`, or with a bare address, as a part with the key `url`."""
    address = part.get(kind)
    if isinstance(address, Mapping):
        address = {key: value for key, value in address.items() if value is not None}
        check_keys(address, _ADDRESS_KEYS[kind], f"{what}: {kind!r}")
        if address.get("detail", "auto") != "auto":
            raise LinVTInputError(
                f"{what} asks for detail={shown(address['detail'])}, which nothing here can follow: the size of "
                "pictures is set by arguments of the image processor. Leave it out."
            )
        address = address.get("url")
    if address is None:
        raise LinVTInputError(
            f"{what} has no address. Write {{'type': {kind!r}, {kind!r}: {{'url': 'https://...'}}}}."
        )
    own = {key: value for key, value in part.items() if key not in ("type", kind)}
    return {"type": kind.removesuffix("_url"), "url": address, **own}


def _with_source(part: dict[str, Any], what: str, video_root: str | os.PathLike | None) -> dict[str, Any]:
    """A video or picture part with its source as it is to be opened."""
    given = [key for key in SOURCE_KEYS[part["type"]] if key in part]
    if len(given) > 1:
        raise LinVTInputError(f"{what} names {len(given)} sources: {', '.join(given)}. Leave one of them.")
    if not given:
        return part
    key = given[0]
    if key == "url":
        opened, source = _from_address(part["url"], what, video_root, part["type"])
        part = {opened if name == "url" else name: value for name, value in part.items()}
        part[opened] = source
    elif key == "base64" and isinstance(part[key], str) and not is_data_url(part[key]):
        part["url"] = f"data:image/*;base64,{part.pop(key)}"
    else:
        part[key] = resolved(part[key], video_root)
    if "subtitles" in part:
        part["subtitles"] = _subtitles(part["subtitles"], what, video_root, is_from_others=key == "url")
    return part


def _subtitles(given: Any, what: str, video_root: str | os.PathLike | None, is_from_others: bool) -> Any:
    """Subtitles as they are to be opened: a file beside an address only where the address could be one."""
    if isinstance(given, str) and is_from_others:
        return _from_address(given, f"{what}: 'subtitles'", video_root, "video")[1]
    return resolved(given, video_root)


def _from_address(
    address: Any, what: str, video_root: str | os.PathLike | None, kind: str
) -> tuple[str, str | os.PathLike]:
    """The key and the source that an address stands for: itself, or the path of a file that it may open."""
    if isinstance(address, os.PathLike):
        address = os.fspath(address)
    if not isinstance(address, str):
        raise LinVTInputError(f"{what}: the address is {shown(address)}. Give text such as 'https://...'.")
    scheme = scheme_of(address)
    if is_data_url(address) or scheme not in (None, "file"):
        return "url", address
    if video_root is None:
        further = " (or base64 as 'base64')" if kind == "image" and scheme is None else ""
        raise LinVTInputError(
            f"{what}: the address {shown(address)} is a file of this machine, and an address opens such only below a "
            f"folder that the caller names. Give your own file as 'path'{further}, or pass video_root=... with the "
            "folder that files may come from."
        )
    try:
        path = path_below(path_of_file_url(address) if scheme else address, video_root)
    except VideoReadError as error:
        raise LinVTInputError(f"{what}: {error}") from error
    if path is None:
        raise LinVTInputError(
            f"{what}: the address {shown(address)} leads out of video_root={shown(os.fspath(video_root))}. Move the "
            "file below that folder."
        )
    return "path", path


def resolved(source: Any, video_root: str | os.PathLike | None = None) -> Any:
    """
    The caller's own source as it is to be opened.

    Args:
        source: a path, which is joined to `video_root` if it is relative; a list of paths, each of them; an undecoded
            file of `datasets`, which is its bytes or its path; anything else stays as it is.
        video_root (*optional*): folder that relative paths start from.

    Example:

    >>> resolved({"bytes": None, "path": "a.mp4"}, "clips"), resolved("https://example.com/a.mp4", "clips")
    ('clips/a.mp4', 'https://example.com/a.mp4')
    """
    if isinstance(source, Mapping):
        held = [source[key] for key in ("bytes", "path") if source.get(key) is not None]
        source = held[0] if held else source
    if isinstance(source, list | tuple) and source and all(isinstance(one, str | os.PathLike) for one in source):
        return [resolved(one, video_root) for one in source]
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str) and video_root is not None and not is_address(source):
        return os.path.join(video_root, source)
    return source


# ---------------------------------------------------------------------------------------------------------------------
# What parsed messages hold
# ---------------------------------------------------------------------------------------------------------------------


def parts_of(messages: Sequence[Mapping[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    """The parts of one type (`"video"`, `"image"` or `"text"`) of parsed messages, in order."""
    for message in messages:
        if isinstance(content := message.get("content"), list):
            yield from (part for part in content if part["type"] == kind)


def texts_of(messages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Every text of parsed messages, in order."""
    for message in messages:
        if isinstance(content := message.get("content"), str):
            yield content
        else:
            yield from (part["text"] for part in parts_of([message], "text"))


def source_of(part: Mapping[str, Any], is_needed: bool = True, or_else: str = "") -> Any:
    """
    The source that a parsed video or picture part names; `None` where there is none and none is needed.

    Args:
        part: of type `"video"` or `"image"`.
        is_needed: whether a part without one is an error.
        or_else: end of the sentence of that error: where else the source could stand.

    Raises:
        LinVTInputError: the part names no source.
    """
    kind = part["type"]
    for key in SOURCE_KEYS[kind]:
        if key in part:
            return part[key]
    if not is_needed:
        return None
    raise LinVTInputError(
        f"{'An' if kind == 'image' else 'A'} {kind} part names no source: give one of "
        f"{', '.join(SOURCE_KEYS[kind])}{or_else}. Found {', '.join(part)}."
    )


def sampling_of(own: Mapping[str, Any], of_call: Mapping[str, Any]) -> dict[str, Any]:
    """
    Sampling arguments of one video: its own (of its part, or of its dictionary) before those of the call.

    `num_frames` and `fps` are alternatives: one of a video's own replaces either of the call.

    Example:

    >>> sampling_of({"type": "video", "fps": 2}, {"num_frames": 8, "start": 1.0})
    {'start': 1.0, 'fps': 2}
    """
    own = {name: own[name] for name in SAMPLING_ARGUMENTS if own.get(name) is not None}
    if "num_frames" in own or "fps" in own:
        of_call = {name: value for name, value in of_call.items() if name not in ("num_frames", "fps")}
    return {**of_call, **own}
