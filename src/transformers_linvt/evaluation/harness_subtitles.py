"""Where benchmarks keep what is said in their videos, made what `subtitles=` of a video takes."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import LinVTInputError
from ..video.limits import as_number


_ENDINGS = (".srt", ".vtt")


def subtitles_beside(folder: Path, doc: Mapping[str, Any], video: str) -> Any:
    """
    The subtitles of the video that a question is about.

    Args:
        folder (`Path`): with the files of the set: `subtitle/` of Video-MME, `subtitles/` of LongVideoBench.
        doc (`Mapping`): a row of the set; its `subtitle_path`, where it has one, is a file of LongVideoBench.
        video (`str`): path of the video; without a `subtitle_path` the file of its name is taken.

    Returns:
        A path, or a list of `(start, end, words)` in seconds of the video; None where the video has no such file,
        which is so of a sixth of Video-MME.

    Raises:
        LinVTInputError: a file that the row names is missing or is none of LongVideoBench; it names it.
    """
    if doc.get("subtitle_path"):
        return list(_of_long_video_bench(folder / doc["subtitle_path"], doc))
    return next((str(path) for end in _ENDINGS if (path := folder / f"{Path(video).stem}{end}").is_file()), None)


def _of_long_video_bench(path: Path, doc: Mapping[str, Any]) -> Iterator[tuple[float, float, str]]:
    """
    Its videos are cut out of longer ones, of which the times are.

    Two layouts: `{"timestamp": [start, end], "text": ...}` in seconds, where the last end may be missing, and
    `{"start": "00:00:01.5", "end": ..., "line": ...}`.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LinVTInputError(f"The subtitles {path} cannot be read: {error}. Is it the folder of the set?") from error
    duration, cut = float(doc.get("duration") or "inf"), float(doc.get("starting_timestamp_for_subtitles") or 0)
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        try:
            first, last = entry["timestamp"] if "timestamp" in entry else (entry["start"], entry["end"])
            start, end, text = _seconds(first), _seconds(last), entry["text" if "timestamp" in entry else "line"]
        except (KeyError, TypeError, ValueError) as error:
            raise LinVTInputError(f"Entry {number} of {path} is {entry!r:.100}, no subtitle of this set.") from error
        if start is None:
            raise LinVTInputError(f"Entry {number} of {path} is {entry!r:.100}: it says not when it starts.")
        start, end = start - cut, duration if end is None else end - cut
        if end >= 0 and start <= duration:
            start, end = max(0.0, start), min(end, duration)
            yield start, max(start, end) if math.isfinite(end) else start, str(text)


def _seconds(value: Any) -> float | None:
    """`"1:02:03.5"` or a number in seconds."""
    if isinstance(value, str) and ":" in value:
        return sum(float(part) * 60**power for power, part in enumerate(reversed(value.split(":"))))
    seconds = as_number(value)
    return None if seconds is None or math.isnan(seconds) else seconds
