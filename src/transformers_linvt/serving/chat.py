"""The body of a chat completion -> what the pipeline is asked, or the error that the client gets."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import LinVTError, LinVTInputError, VideoReadError, advice, shown
from ..model.messages import SUBTITLE_ARGUMENTS, Messages, parse_messages, parts_of, texts_of
from ..video.limits import as_number
from ..video.media_address import is_address, is_data_url, scheme_of
from .settings import ServerSettings


# A client may say which frames are sampled; with what they are read, and within which limits, is the server's.
_SAMPLING = ("num_frames", "fps", "start", "end", "max_frames")
_VISUAL_KEYS = {
    "video": ("type", "url", *_SAMPLING, *SUBTITLE_ARGUMENTS),
    "image": ("type", "url"),
}
_OWN = ("model", "messages", "stream", "stream_options", "stop", "seed", "evidence")
_NUMBERS = ("temperature", "top_p", "max_tokens", "max_completion_tokens")
_NAMES_OF_VLLM = ("mm_processor_kwargs", "media_io_kwargs")
# What clients send to be found again in somebody's records. Nothing is recorded here.
_LABELS = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier")
# What would change the answer and cannot here, with the values that ask for nothing.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "reasoning_effort": (None, "none"),
    "modalities": (None, ["text"]),
}
_MAX_STOPS, _MAX_TEMPERATURE = 4, 2.0  # OpenAI's


class RequestError(LinVTError):
    """
    What a client did wrong, as it is told.

    Attributes:
        status (`int`): of HTTP.
        param (`str`, *optional*): the field that is to blame.
        code (`str`, *optional*): of OpenAI's errors.
    """

    def __init__(self, message: str, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@dataclass
class ChatRequest:
    """
    One chat completion that is wanted.

    Attributes:
        messages: as the pipeline takes them, with paths below the media root in place of `file:` addresses.
        sampling: of all videos that say nothing of their own.
        generation: arguments of `generate()`.
        stops: texts that end an answer.
        seed (`int`, *optional*): of sampled answers.
        is_streamed, wants_usage, wants_evidence (`bool`): how the answer is told.
    """

    messages: Messages
    sampling: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    seed: int | None = None
    is_streamed: bool = False
    wants_usage: bool = False
    wants_evidence: bool = False


def chat_request(body: Any, settings: ServerSettings) -> ChatRequest:
    """
    What a body asks for.

    Args:
        body: decoded JSON.
        settings: what the server allows.

    Raises:
        RequestError: anything that is not understood, cannot be followed or is not allowed.
    """
    if not isinstance(body, Mapping):
        raise RequestError(f"The body is {shown(body)}. Send an object with 'model' and 'messages'.")
    known = (*_OWN, *_NUMBERS, *_SAMPLING, *_NAMES_OF_VLLM, *_LABELS, *_WITHOUT_EFFECT)
    for name in body:
        if name not in known:
            raise RequestError(f"The field {name!r:.60} is not known. {advice(name, known)}", param=str(name)[:60])
    for name, idle in _WITHOUT_EFFECT.items():
        if body.get(name) not in idle:
            raise RequestError(f"{name}={shown(body[name])} cannot be followed here. Leave it out.", param=name)
    model = body.get("model")
    if model != settings.name:
        raise RequestError(
            f"The model {shown(model)} is not served here; it is {settings.name!r}.", 404, "model", "model_not_found"
        )
    stream_options = _object(body, "stream_options", ("include_usage", "include_obfuscation"))
    return ChatRequest(
        messages=_messages(body.get("messages"), settings),
        sampling=_sampling(body),
        generation=_generation(body, settings),
        stops=_stops(body.get("stop")),
        seed=_whole_number(body, "seed", least=-(1 << 63)),
        is_streamed=_flag(body, "stream"),
        wants_usage=bool(stream_options.get("include_usage")),
        wants_evidence=_flag(body, "evidence"),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Messages
# ---------------------------------------------------------------------------------------------------------------------


def _messages(given: Any, settings: ServerSettings) -> Messages:
    """The chat, after every address and every count in it was looked at; nothing was opened."""
    if not isinstance(given, list) or not given:
        raise RequestError(f"messages is {shown(given)}. Send a list of messages.", param="messages")
    for number, message in enumerate(given, 1):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else ():
            _check_addresses(part, number, settings)
    try:
        messages = parse_messages(given, settings.media_root)
    except LinVTInputError as error:
        raise told_to_client(error, settings.media_root) from error
    for kind, most, what in (("video", settings.max_videos, "videos"), ("image", settings.max_pictures, "pictures")):
        if (count := sum(1 for _ in parts_of(messages, kind))) > most:
            raise RequestError(
                f"The messages have {count} {what}; this server takes {most} in one request.", param="messages"
            )
    if (length := sum(map(len, texts_of(messages)))) > settings.max_text_length:
        raise RequestError(
            f"The texts have {length} characters; this server takes {settings.max_text_length}.", param="messages"
        )
    return messages


def _check_addresses(part: Any, number: int, settings: ServerSettings) -> None:
    """Refuse what is no address, and an address that this server does not open, in words for its clients."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind.removesuffix("_url") not in _VISUAL_KEYS:
        return  # the parser says what is wrong
    what = f"The {kind} part of message {number}"
    for key in part:
        allowed = _VISUAL_KEYS[kind.removesuffix("_url")]
        if part[key] is not None and key != kind and key not in allowed and key in _LOCAL_KEYS:
            raise RequestError(
                f"{what} has {key!r}, which is not taken from clients. Name the file by an address: {{'type': "
                f"'{kind.removesuffix('_url')}_url', '{kind.removesuffix('_url')}_url': {{'url': ...}}}}.",
                param="messages",
            )
    address = part.get(kind) if kind.endswith("_url") else part.get("url")
    address = address.get("url") if isinstance(address, Mapping) else address
    for one in (address, part.get("subtitles")):
        if isinstance(one, str):
            _check_address(one, what, settings)
    if address is None:
        raise RequestError(f"{what} has no address. Write {{'url': 'https://...'}}.", param="messages")


_LOCAL_KEYS = ("video", "image", "path", "frames", "base64", "limits", "allow_urls", "video_backend", "timestamps",
               "video_metadata", "do_sample_frames")  # fmt: skip


def _check_address(address: str, what: str, settings: ServerSettings) -> None:
    scheme = scheme_of(address)
    if is_data_url(address):
        return
    if scheme in ("http", "https"):
        if not settings.allowed_domains:
            raise RequestError(
                f"{what}: this server fetches nothing from the network. Send the file as a data: address; or the "
                "server has to be started with --allow-domain.",
                param="messages",
            )
        host = address.partition("://")[2].partition("/")[0].rpartition("@")[2]
        host = host.partition(":")[0] if not host.startswith("[") else host
        if not settings.limits.allows_host(scheme, host):
            raise RequestError(
                f"{what}: {shown(f'{scheme}://{host}')} is no domain that this server fetches from. Send the file as "
                "a data: address.",
                param="messages",
            )
        return
    if is_address(address) and scheme != "file":
        raise RequestError(
            f"{what}: addresses of the kind {shown(scheme)} are not opened. Send https:, data: or file:.",
            param="messages",
        )
    if settings.media_root is None:
        raise RequestError(
            f"{what}: this server opens no files of its own. Send the file as a data: address, or start it with "
            "--media-root.",
            param="messages",
        )


# ---------------------------------------------------------------------------------------------------------------------
# Numbers and flags
# ---------------------------------------------------------------------------------------------------------------------


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    """`num_frames`, `fps` and the others, by themselves or where vLLM has them."""
    found = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    for outer in _NAMES_OF_VLLM:
        given = _object(body, outer, ("video",) if outer == "media_io_kwargs" else _SAMPLING)
        if outer == "media_io_kwargs":
            given = _object(given, "video", _SAMPLING)
        for name, value in given.items():
            if name in found:
                raise RequestError(f"{name} is given twice, once in {outer}. Leave one out.", param=outer)
            found[name] = value
    for name, value in found.items():
        if as_number(value) is None:
            raise RequestError(f"{name}={shown(value)}: send a number.", param=name)
    return found


def _generation(body: Mapping[str, Any], settings: ServerSettings) -> dict[str, Any]:
    most = next((name for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None), "max_tokens")
    count = _whole_number(body, most, least=1) or settings.default_new_tokens
    if count > settings.max_new_tokens:
        raise RequestError(f"{most}={count}: this server gives at most {settings.max_new_tokens} tokens.", param=most)
    result: dict[str, Any] = {"max_new_tokens": count}
    temperature, top_p = (
        _real_number(body, "temperature", 0.0, _MAX_TEMPERATURE),
        _real_number(body, "top_p", 0.0, 1.0),
    )
    if temperature is not None:
        result |= {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    if top_p is not None:
        if top_p == 0.0:
            raise RequestError("top_p=0 leaves no token. Send a number above 0, at most 1.", param="top_p")
        result = {"do_sample": True, **result, "top_p": top_p}  # it means nothing where nothing is drawn
    return result


def _stops(given: Any) -> tuple[str, ...]:
    stops = (given,) if isinstance(given, str) else given or ()
    if not isinstance(stops, list | tuple) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError(f"stop={shown(given)}: send a text or a list of texts, none of them empty.", param="stop")
    if len(stops) > _MAX_STOPS:
        raise RequestError(f"stop has {len(stops)} texts; send at most {_MAX_STOPS}.", param="stop")
    return tuple(stops)


def _object(body: Mapping[str, Any], name: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"{name}={shown(value)}: send an object.", param=name)
    for key in value:
        if key not in known:
            raise RequestError(f"{name} has {key!r:.60}, which is not known. {advice(key, known)}", param=name)
    return {key: entry for key, entry in value.items() if entry is not None}


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False) or isinstance(value, int) and not isinstance(value, bool):
        raise RequestError(f"{name}={shown(value)}: send true or false.", param=name)
    return bool(value)


def _whole_number(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise RequestError(f"{name}={shown(value)}: send a whole number, {least} or more.", param=name)
    return value


def _real_number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if (number := as_number(value)) is None or not least <= number <= most:
        raise RequestError(f"{name}={shown(value)}: send a number from {least:g} to {most:g}.", param=name)
    return number


def told_to_client(error: Exception, media_root: str | None) -> RequestError:
    """
    An error of reading or answering as the client gets it, without the folders of this machine.

    Args:
        error: what was raised.
        media_root: of the server.
    """
    if isinstance(error, RequestError):
        return error
    message = re.sub(r" \(the working directory is [^)]*\)", "", str(error))
    if media_root is not None:
        message = without_folders(message, media_root).replace("video_root=", "the folder ")
    return RequestError(message, param="messages" if isinstance(error, LinVTInputError | VideoReadError) else None)


def without_folders(text: str, media_root: str | None) -> str:
    """A text with `<media root>` in place of where that folder lies on this machine."""
    for folder in () if media_root is None else (os.path.realpath(media_root), media_root):
        text = text.replace(folder, "<media root>")
    return text


__all__ = ["ChatRequest", "RequestError", "chat_request", "told_to_client", "without_folders"]
