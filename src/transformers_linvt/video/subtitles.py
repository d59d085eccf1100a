"""
Subtitles: the words of an SRT or WebVTT file, or of pairs of times and words, in the order of time.

FFmpeg, which PyAV brings, takes the files apart; it is told the format, so that no other of its readers sees them.
"""

import html
import io
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import VideoReadError
from .limits import as_number, shorten_name
from .media_address import is_data_url, name_of_address, path_of_file_url, read_data_url, scheme_of


logger = logging.getLogger(__name__)

_MAX_BYTES = 8 << 20  # of a file of subtitles; ours. A film has about 100 kB.
_MAX_COUNT = 50_000  # subtitles of one video; ours
_LEAST_FIELDS, _MOST_FIELDS = 2, 3  # of an entry: start and words, or start, end and words
# What a player draws by and nobody reads: tags of both formats, times inside of a line, places of SubStation Alpha.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[0-9:.]+>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Subtitle:
    """
    Words and when they are said.

    Attributes:
        start, end (`float`): seconds from the first frame of the video.
        text (`str`): one line, without the markup of the file.
    """

    start: float
    end: float
    text: str


def read_subtitles(source: Any) -> list[Subtitle]:
    """
    The subtitles of a file, or of pairs of times and words.

    Words that are on screen again right behind themselves, as automatic captions repeat each line, count once.

    Args:
        source: path or `file://` address of an SRT or WebVTT file in UTF-8, a `data:` address or the bytes of one, or
            a list of `(seconds, words)`, `(start, end, words)` or of dictionaries with `start`, `text` and
            *optionally* `end`.

    Returns:
        `list[Subtitle]`, by `start`.

    Raises:
        [`VideoReadError`]: no such file, one that holds no subtitles, or an entry that is not times and words.

    Example:

    >>> read_subtitles([(4.0, "Bye."), (1.5, 3.0, "Hello  there.")])
    [Subtitle(start=1.5, end=3.0, text='Hello there.'), Subtitle(start=4.0, end=4.0, text='Bye.')]
    """
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    if isinstance(source, str | bytes | bytearray):
        found = _from_file(source)
    elif isinstance(source, Sequence):
        found = [_from_entry(entry, number) for number, entry in enumerate(source, 1)]
    else:
        raise VideoReadError(
            f"Subtitles of type {type(source).__name__} are not understood. Give an SRT or WebVTT file, or a list of "
            "pairs (seconds, words)."
        )
    if len(found) > _MAX_COUNT:
        raise VideoReadError(f"{len(found)} subtitles are over the limit of {_MAX_COUNT}. Give those of this video.")
    kept: list[Subtitle] = []
    for one in sorted(found, key=lambda subtitle: subtitle.start):
        if not one.text:
            continue
        if kept and kept[-1].text == one.text:
            kept[-1] = Subtitle(kept[-1].start, max(kept[-1].end, one.end), one.text)
        else:
            kept.append(one)
    return kept


def within(subtitles: Sequence[Subtitle], start: float | None, end: float | None) -> list[Subtitle]:
    """
    The subtitles of a part of a video.

    Args:
        subtitles: see [`read_subtitles`].
        start, end (*optional*): seconds, as of [`read_video`].

    Example:

    >>> [one.text for one in within([Subtitle(0, 1, "a"), Subtitle(2, 5, "b"), Subtitle(6, 7, "c")], 3.0, 5.5)]
    ['b']
    """
    return [one for one in subtitles if (start is None or one.end >= start) and (end is None or one.start <= end)]


# ---------------------------------------------------------------------------------------------------------------------
# Lists
# ---------------------------------------------------------------------------------------------------------------------


def _from_entry(entry: Any, number: int) -> Subtitle:
    if isinstance(entry, Mapping):
        if unknown := [key for key in entry if key not in ("start", "end", "text")]:
            raise VideoReadError(
                f"Subtitle {number} has the key {unknown[0]!r:.60}, which is not known. Known are start, end, text."
            )
        entry = [entry.get("start"), *([entry["end"]] if entry.get("end") is not None else []), entry.get("text")]
    if isinstance(entry, str) or not isinstance(entry, Sequence) or not _LEAST_FIELDS <= len(entry) <= _MOST_FIELDS:
        raise VideoReadError(
            f"Subtitle {number} is {entry!r:.100}. Write (seconds, words), or (start, end, words) in seconds."
        )
    numbers = [as_number(value) for value in entry[:-1]]
    times = [time for time in numbers if time is not None and 0 <= time < float("inf")]
    if len(times) < len(numbers) or not isinstance(entry[-1], str):
        raise VideoReadError(
            f"Subtitle {number} is {entry!r:.100}: its times have to be seconds, 0 or more, and its words text."
        )
    if times[-1] < times[0]:
        raise VideoReadError(f"Subtitle {number} ends at {times[-1]} s, before it starts at {times[0]} s. Swap them.")
    return Subtitle(times[0], times[-1], _plain(entry[-1]))


def _plain(text: str) -> str:
    """One line without markup; `&amp;` and the like are what they stand for."""
    return " ".join(html.unescape(_MARKUP.sub("", text)).split())


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def _from_file(source: str | bytes | bytearray) -> list[Subtitle]:
    name, data = _bytes_of(source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VideoReadError(
            f"{name} is not text in UTF-8 ({error.reason} at byte {error.start}). Save the subtitles as UTF-8."
        ) from error
    is_vtt = text.startswith("WEBVTT")
    found, reason = [], ""
    import av  # not above: the command line asks for its arguments without it

    try:
        with av.open(io.BytesIO(text.encode()), mode="r", format="webvtt" if is_vtt else "srt") as container:
            (stream,) = container.streams.subtitles
            for packet in container.demux(stream):
                if packet.size and packet.pts is not None and packet.time_base is not None:
                    start = max(float(packet.pts * packet.time_base), 0.0)
                    length = float((packet.duration or 0) * packet.time_base)
                    words = bytes(packet).decode("utf-8", errors="replace")
                    found.append(Subtitle(start, start + max(length, 0.0), _plain(words)))
    except (av.FFmpegError, ValueError) as error:
        reason = f" ({error})"
    if not found:
        raise VideoReadError(
            f"{name} holds no subtitles{reason}. Give an SRT file ('00:00:01,000 --> 00:00:02,500') or a WebVTT file, "
            "whose first line is WEBVTT."
        )
    _warn_of_lost(name, text, len(found))
    return found


def _warn_of_lost(name: str, text: str, num_found: int) -> None:
    """FFmpeg passes over what it cannot read without a word."""
    written = text.count("-->")
    if num_found < written:
        logger.warning(
            f"{name} has {written} lines with '-->', of which {num_found} could be read as subtitles. Look at the "
            "times of the others."
        )


def _bytes_of(source: str | bytes | bytearray) -> tuple[str, bytes]:
    """How messages name the file, and what it holds, checked before it is read."""
    if not isinstance(source, str):
        name, data = "<subtitles in memory>", bytes(source)
        if len(data) > _MAX_BYTES:
            raise VideoReadError(_too_large(name, len(data)))
        return name, data
    if is_data_url(source):
        return name_of_address(source), read_data_url(source, _MAX_BYTES)
    name, scheme = shorten_name(source), scheme_of(source)
    if scheme not in (None, "file"):
        raise VideoReadError(f"Subtitles are not fetched from {name}. Download the file and give its path.")
    path = source if scheme is None else path_of_file_url(source)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise VideoReadError(f"{name} is no file. Give the path of an SRT or WebVTT file.")
        if status.st_size > _MAX_BYTES:
            raise VideoReadError(_too_large(name, status.st_size))
        with open(path, "rb") as file:
            return name, file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise VideoReadError(
            f"The subtitles {name} do not exist. Check the path, or write the line breaks."
        ) from error
    except (OSError, ValueError) as error:
        raise VideoReadError(f"The subtitles {name} cannot be opened: {getattr(error, 'strerror', error)}.") from error


def _too_large(name: str, num_bytes: int) -> str:
    return f"{name} has {num_bytes} bytes, over the limit of {_MAX_BYTES} for subtitles. Is it a file of subtitles?"


__all__ = ["Subtitle", "read_subtitles", "within"]
