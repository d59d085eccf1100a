"""The arguments of the processor's calls, by whom they are for; and what is given beside prompts, by prompt."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import PIL.Image
from transformers.processing_utils import TextKwargs

from ..bases.markers import VisualMarkers
from ..errors import LinVTInputError, nearest_name, unknown_argument
from .messages import SAMPLING_ARGUMENTS, SUBTITLE_ARGUMENTS
from .prompt import VIDEO_TOKEN


TOKENIZER_ARGUMENTS = (
    "padding",
    "padding_side",
    "truncation",
    "max_length",
    "pad_to_multiple_of",
    "add_special_tokens",
    "return_tensors",
    "return_mm_token_type_ids",
)


@dataclass
class Arguments:
    """Keyword arguments of one call, by whom they are for."""

    sampling: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    frames: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    subtitles: dict[str, Any] = field(default_factory=dict)
    add_timestamps: bool | str | None = None
    video_root: str | os.PathLike | None = None


def joined(kwargs: Mapping[str, Any], processor_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    The arguments of a call with those of its `processor_kwargs`.

    Raises:
        LinVTInputError: one is given in both.
    """
    more = dict(processor_kwargs or {})
    for name in more:
        if name in kwargs:
            raise LinVTInputError(_given_twice(name, "processor_kwargs"))
    return {**kwargs, **more}


def sort_arguments(kwargs: Mapping[str, Any], image_processor: Any, template: str | None) -> Arguments:
    """
    Keyword arguments by whom they are for; what nobody knows is the template's, if it is no misspelling.

    Raises:
        LinVTInputError: a misspelt argument, or one that is given by itself and in a group as well.
    """
    accepted = getattr(image_processor, "valid_kwargs", None)
    image_names = set(getattr(accepted, "__annotations__", ())) - {"return_tensors"}
    result, kwargs = Arguments(), dict(kwargs)
    groups = {
        group: dict(kwargs.pop(group, None) or {}) for group in ("text_kwargs", "images_kwargs", "videos_kwargs")
    }
    for group, given in groups.items():
        for name in given:
            if name in kwargs:
                raise LinVTInputError(_given_twice(name, group))
    result.text.update(groups["text_kwargs"])
    result.pictures.update(groups["images_kwargs"])
    for name, value in groups["videos_kwargs"].items():
        of_videos = (*SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS)
        if name not in of_videos and name not in image_names:
            raise LinVTInputError(f"videos_kwargs: {unknown_argument(name, (*of_videos, *image_names))}")
        _target(result, name)[name] = value
    own = ("add_timestamps", "video_root", "images", "videos", "text")
    known = (*SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS, *TOKENIZER_ARGUMENTS, *own)
    for name, value in kwargs.items():
        if name in SAMPLING_ARGUMENTS or name in SUBTITLE_ARGUMENTS:
            _target(result, name)[name] = value
        elif name in ("add_timestamps", "video_root"):
            setattr(result, name, value)
        elif name in TOKENIZER_ARGUMENTS or name in TextKwargs.__annotations__:
            result.text[name] = value
        elif name in image_names:
            result.pictures[name] = result.frames[name] = value
        elif template is not None and re.search(rf"\b{re.escape(name)}\b", template):
            result.template[name] = value
        elif nearest_name(name, known):
            raise LinVTInputError(unknown_argument(name, known))
        else:
            result.template[name] = value
    return result


def check_given_once(name: str, value: Any, group: Mapping[str, Any]) -> None:
    """
    Refuse an argument that a group has with another value.

    Raises:
        LinVTInputError: it does.
    """
    if group.get(name, value) != value:
        raise LinVTInputError(_given_twice(name, "text_kwargs or processor_kwargs"))


def _given_twice(name: str, group: str) -> str:
    return f"{name} is given twice: in {group}, and beside it. Give it in one of the two."


def _target(result: Arguments, name: str) -> dict[str, Any]:
    """Where an argument of videos goes."""
    if name in SAMPLING_ARGUMENTS:
        return result.sampling
    return result.subtitles if name in SUBTITLE_ARGUMENTS else result.frames


def _is_frame_list(videos: Any) -> bool:
    """Whether a list is the frames of one video rather than several videos."""
    if not isinstance(videos, list | tuple) or not videos:
        return False
    return getattr(videos[0], "ndim", None) == 3 or isinstance(videos[0], PIL.Image.Image)


def nested_videos(videos: Any) -> list[list[Any]]:
    """Videos as a list of lists: one list in all, or one per prompt where they were given so."""
    if videos is None:
        return []
    if getattr(videos, "ndim", None) == 5:
        videos = list(videos)  # (videos, frames, ...)
    if not isinstance(videos, list | tuple) or _is_frame_list(videos):
        return [[videos]]
    is_nested = any(isinstance(one, list | tuple) and not _is_frame_list(one) for one in videos)
    if not is_nested:
        return [list(videos)]
    rows = []
    for row in videos:
        if not isinstance(row, list | tuple) or _is_frame_list(row):
            row = [row]
        if any(isinstance(one, list | tuple) and not _is_frame_list(one) for one in row):
            raise LinVTInputError(
                "videos is nested too deep: give a list of videos, or one list of videos per prompt."
            )
        rows.append(list(row))
    return rows


def check_video_counts(texts: Sequence[str], videos: Sequence[Sequence[Any]]) -> None:
    """Refuse another number of videos than the prompts have placeholders, in all or prompt by prompt."""
    wanted, given = [text.count(VIDEO_TOKEN) for text in texts], [len(row) for row in videos]
    if sum(wanted) != sum(given) or (len(given) > 1 and given != wanted):
        raise LinVTInputError(
            f"The prompts have {sum(wanted)} video placeholders {VIDEO_TOKEN!r} {wanted}, {sum(given)} videos were "
            f"given {given}. Give one video for each."
        )


def pictures_per_prompt(images: Any, texts: Sequence[str], markers: VisualMarkers) -> list[list[Any]]:
    """Pictures given flat or nested -> a list per prompt, by the number of placeholders in each."""
    rows = images if isinstance(images, list | tuple) else [] if images is None else [images]
    flat = [one for row in rows for one in (row if isinstance(row, list | tuple) else [row])]
    counts = [text.count(markers.placeholder) for text in texts]
    is_nested = any(isinstance(row, list | tuple) for row in rows)
    if sum(counts) != len(flat) or (is_nested and counts != [len(row) for row in rows]):
        raise LinVTInputError(
            f"The prompts have {sum(counts)} picture placeholders {markers.placeholder!r} {counts}, {len(flat)} "
            "pictures were given" + (f" {[len(row) for row in rows]}." if is_nested else ".")
        )
    pictures = iter(flat)
    return [[next(pictures) for _ in range(count)] for count in counts]
