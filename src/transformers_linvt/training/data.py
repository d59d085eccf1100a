"""
Training examples: the formats people have, brought into one; reading them from files; checking them before training.
"""

import glob
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from ..errors import LinVTInputError, VideoReadError
from ..model.messages import parse_messages, parts_of, resolved, sampling_of, source_of, texts_of
from ..video.frames import VideoFrames
from ..video.media_address import is_address, is_data_url, name_of_address
from ..video.reading import read_video
from .identity import content_id, frames_content


logger = logging.get_logger(__name__)

FORMATS = "'messages', 'prompt' and 'completion', or LLaVA's 'conversations' (with 'video')"
LLAVA_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
VIDEO_MARK, IMAGE_MARK = "<video>", "<image>"
USED_COLUMNS = ("messages", "prompt", "completion", "conversations", "video", "videos", "image", "images")
MOST_CHECKED_FILES = 100_000  # looking for a file costs microseconds
PROBED_VIDEOS = 5
_LOOKED_AT = 64  # examples


@dataclass
class Example:
    """
    One example in the form that the collator works with.

    Args:
        messages (`list[dict]`): the conversation; video parts are `{"type": "video"}` without a source.
        videos (`list`): the source of every video, paths joined to the root.
        sampling (`list[dict]`): sampling arguments of each video's own.
        completion_start (`int`, *optional*): the first message of the completion; `None` for whole conversations, in
            which every turn of the assistant is learned.
    """

    messages: list[dict[str, Any]]
    videos: list[Any] = field(default_factory=list)
    sampling: list[dict[str, Any]] = field(default_factory=list)
    completion_start: int | None = None

    def learned_turns(self, assistant_only: bool = False) -> list[int]:
        """Positions of the messages that are learned."""
        start = self.completion_start or 0
        return [
            number
            for number, message in enumerate(self.messages)
            if number >= start
            and (message["role"] == "assistant" or (self.completion_start is not None and not assistant_only))
        ]

    def picture_parts(self) -> list[dict[str, Any]]:
        """The content parts that are pictures, to be changed in place."""
        return list(parts_of(self.messages, "image"))

    def answer_text(self) -> str:
        """The words to learn: what makes two captions the same caption."""
        turns = ("\n".join(texts_of([self.messages[turn]])).strip() for turn in self.learned_turns())
        return "\n".join(turns)

    def video_id(self) -> int:
        """A number that is the same for the same videos, in every process."""
        return content_id(b"\n".join(_identity(video) for video in self.videos))

    def name(self) -> str:
        """How messages call the example: by its videos and pictures."""
        pictures = [source_of(part, is_needed=False) for part in self.picture_parts()]
        files = [*self.videos, *(one for one in pictures if isinstance(one, str))]
        return ", ".join(_shown(file) for file in files) or "an example without a video"


def parse_example(example: Mapping[str, Any], video_root: str | os.PathLike | None = None) -> Example:
    """
    A row of a dataset in any of the formats -> [`Example`].

    Formats:
        - `messages`: chat messages as [`LinVTProcessor.apply_chat_template`] takes them, read by the same parser;
          a part `{"type": "video"}` without a source takes it from the column `video` or `videos`.
        - `prompt` and `completion`: strings or lists of messages.
        - `conversations`: LLaVA's `{"from": "human", "value": "<video>\\nWhat happens?"}`.

    Videos of the column `video` (or `videos`) that no part asks for stand in front of the first user's text. Pictures
    go the same way, in parts `{"type": "image", ...}` or the column `image` (or `images`).

    Args:
        example: the row.
        video_root (*optional*): folder that relative paths start from, and that the files named by `url`, `video_url`
            and `image_url` have to lie in.

    Raises:
        `LinVTInputError`: for anything else; the message names the keys that were found.
    """
    if not isinstance(example, Mapping):
        raise LinVTInputError(f"An example is a dictionary with {FORMATS}, not a {type(example).__name__}.")
    example = {name: value for name, value in example.items() if value is not None}
    start = None
    if "messages" in example:
        if isinstance(example["messages"], str):
            raise LinVTInputError("'messages' is a string. Give a list of messages, or 'prompt' and 'completion'.")
        messages = _as_messages(example["messages"], "user", video_root)
    elif "prompt" in example and "completion" in example:
        prompt = _as_messages(example["prompt"], "user", video_root)
        start = len(prompt)
        messages = prompt + _as_messages(example["completion"], "assistant", video_root, start + 1)
    elif "conversations" in example:
        turns = example["conversations"]
        # LLaVA-Video's data write <image> where the video goes
        is_video = not any(name in example for name in ("image", "images")) and VIDEO_MARK not in str(turns)
        messages = [_from_llava(turn, "video" if is_video else "image") for turn in turns]
    else:
        raise LinVTInputError(
            f"The example has the keys {', '.join(map(repr, example)) or 'none'}; none of the known formats is there: "
            f"{FORMATS}."
        )
    result = Example(messages, completion_start=start)
    _take_videos_out(result, [resolved(source, video_root) for source in _column(example, "video")])
    _put_pictures_in(result, [resolved(source, video_root) for source in _column(example, "image")])
    if not result.learned_turns():
        raise LinVTInputError(
            "The example has no answer to learn: no message of the assistant, or an empty completion. Found roles: "
            f"{', '.join(str(message.get('role')) for message in messages)}."
        )
    return result


def _as_messages(
    value: Any, role: str, video_root: str | os.PathLike | None = None, first: int = 1
) -> list[dict[str, Any]]:
    """A text as one message of `role`, or checked messages; `first` is the number that errors give to the first."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if not isinstance(value, Sequence):
        raise LinVTInputError(
            f"Messages are a list of dictionaries with 'role' and 'content', not {str(value)[:120]}."
        )
    return [_with_whole_calls(one) for one in parse_messages(list(value), video_root, first)] if value else []


def _with_whole_calls(message: dict[str, Any]) -> dict[str, Any]:
    """A message without the empty arguments that `datasets` gives a tool call because another row's call has them."""

    def pruned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: pruned(one) for key, one in value.items() if one is not None}
        return [pruned(one) for one in value] if isinstance(value, list) else value

    return {**message, "tool_calls": pruned(message["tool_calls"])} if "tool_calls" in message else message


def _column(example: Mapping[str, Any], name: str) -> list[Any]:
    """The sources of a column, whose name is that of one or, with an s, of several."""
    value = example.get(f"{name}s", example.get(name))
    if value is None:
        return []
    is_list = isinstance(value, list | tuple)
    # in the column of one, a list of anything but files is one video, given as its frames
    if is_list and (f"{name}s" in example or all(isinstance(one, str | bytes | os.PathLike) for one in value)):
        return list(value)
    return [value]


def _from_llava(turn: Mapping[str, Any], image_mark: str) -> dict[str, Any]:
    """A LLaVA turn as a message; `<video>` and `<image>` become parts where they stand."""
    if not isinstance(turn, Mapping) or turn.get("from") not in LLAVA_ROLES or not isinstance(turn.get("value"), str):
        raise LinVTInputError(
            f"A turn of 'conversations' is {{'from': 'human' or 'gpt', 'value': text}}, not {str(turn)[:120]}."
        )
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(turn["value"].split(VIDEO_MARK)):
        parts += [{"type": "video"}] if number else []
        for place, text in enumerate(piece.split(IMAGE_MARK)):
            parts += [{"type": image_mark}] if place else []
            parts += [{"type": "text", "text": text.strip()}] if text.strip() else []
    return {"role": LLAVA_ROLES[turn["from"]], "content": parts}


def _take_videos_out(example: Example, column: list[Any]) -> None:
    """Move the sources from the parts and the column to `example.videos`, in the order of the parts."""
    waiting = list(column)
    for part in parts_of(example.messages, "video"):
        source = source_of(part, not waiting, ", or a column 'video' or 'videos'")
        example.videos.append(waiting.pop(0) if source is None else source)
        example.sampling.append(sampling_of(part, {}))
        part.clear()
        part["type"] = "video"
    if waiting:
        _put_in_front(example, [{"type": "video"} for _ in waiting])
        example.videos[:0] = waiting
        example.sampling[:0] = [{} for _ in waiting]


def _put_pictures_in(example: Example, column: list[Any]) -> None:
    """Give the parts that name no picture those of the column."""
    waiting = list(column)
    for part in example.picture_parts():
        if source_of(part, not waiting, ", or a column 'image' or 'images'") is None:
            part["image"] = waiting.pop(0)
    if waiting:
        _put_in_front(example, [{"type": "image", "image": source} for source in waiting])


def _put_in_front(example: Example, parts: list[dict[str, Any]]) -> None:
    """Parts that no message asked for stand before the first user's words."""
    user = next((message for message in example.messages if message.get("role") == "user"), None)
    if user is None:
        raise LinVTInputError(
            f"The example has a {parts[0]['type']} and no message of a user that it could belong to."
        )
    content = user["content"]
    words = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    user["content"] = parts + words


def _identity(video: Any) -> bytes:
    if isinstance(video, str):
        return video.encode() if is_address(video) else os.path.abspath(video).encode()
    if isinstance(video, bytes):
        return video
    return frames_content(video.frames if isinstance(video, VideoFrames) else video)


def _shown(video: Any) -> str:
    if isinstance(video, str):
        return name_of_address(video) if is_data_url(video) else repr(video)
    return f"<{len(video)} bytes in memory>" if isinstance(video, bytes) else "<frames in memory>"


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def load_video_dataset(
    source: str | os.PathLike,
    *,
    config: str | None = None,
    split: str = "train",
    streaming: bool = False,
    video_root: str | os.PathLike | None = None,
) -> "datasets.Dataset | datasets.IterableDataset":
    """
    A dataset from what people have, with the videos left undecoded.

    Args:
        source:
            A `.jsonl` (or `.json`) file; a folder with `<split>.jsonl` or `metadata.jsonl` in it, whose videos may be
            named by `file_name` as in the folders of videos that `datasets` reads; WebDataset shards
            (`.tar` files: a path or address, with `{000..099}` or `*`, or a folder of them); or a dataset of the Hub.
            Relative paths of videos start from the folder of the jsonl.
        config (`str`, *optional*):
            Configuration of a Hub dataset; files and shards have none.
        split (`str`, defaults to `"train"`):
            Split of a Hub dataset, or name of the jsonl in a folder. A file or shards have no split but `"train"`.
        video_root (*optional*):
            Folder that relative paths of videos in a jsonl start from, instead of the jsonl's own.
        streaming (`bool`, defaults to `False`):
            Read while training; nothing is downloaded or held as a whole.

    Raises:
        `LinVTInputError`: nothing there, a line that is no JSON or no example (with file and line number).

    Example:

    >>> dataset = load_video_dataset("clips/instruct.jsonl")  # doctest: +SKIP
    """
    source = os.fspath(source)
    if split != "train" and source.endswith((".jsonl", ".json", ".tar")):
        raise LinVTInputError(
            f"{source!r} has no split {split!r}, it would be the data to train on. Give a folder with train.jsonl and "
            f"{split}.jsonl, or load both by themselves."
        )
    if config is not None and (os.path.exists(source) or source.endswith((".jsonl", ".json", ".tar"))):
        raise LinVTInputError(
            f"config={config!r} has no effect on {source!r}: configurations are of datasets of the Hub. Leave it out."
        )
    if source.endswith(".tar") or (os.path.isdir(source) and glob.glob(os.path.join(source, "*.tar"))):
        return _load_shards(source, streaming)
    if os.path.isdir(source):
        names = (f"{split}.jsonl", "metadata.jsonl") if split == "train" else (f"{split}.jsonl",)
        candidates = [os.path.join(source, name) for name in names]
        source = next((path for path in candidates if os.path.isfile(path)), candidates[0])
    if source.endswith((".jsonl", ".json")):
        if not os.path.isfile(source):
            raise LinVTInputError(f"{source!r} does not exist. Give a jsonl with a line per example.")
        if streaming:
            return datasets.IterableDataset.from_generator(
                _read_lines, gen_kwargs={"path": source, "root": video_root}
            )
        rows = list(_read_lines(source, video_root))
        names = list(dict.fromkeys(name for row in rows for name in row))  # from_list has those of the first row only
        return datasets.Dataset.from_dict({name: _column_of(rows, name, source) for name in names})
    if source.startswith((".", "~", "/")) and not os.path.isdir(source):
        raise LinVTInputError(f"{source!r} does not exist. Give a jsonl, a folder with one, or a dataset of the Hub.")
    return undecoded(datasets.load_dataset(source, config, split=split, streaming=streaming))


def _column_of(rows: Sequence[Mapping[str, Any]], name: str, path: str) -> list[Any]:
    """A column, whose values have to be of one kind."""
    values = [row.get(name) for row in rows]
    try:
        datasets.Dataset.from_dict({name: values})
    except (ValueError, TypeError) as error:  # what pyarrow raises
        if name not in USED_COLUMNS:  # ids that are numbers in one row and words in another
            return [None if value is None else json.dumps(value) for value in values]
        raise LinVTInputError(
            f"{path}: the values of {name!r} are of different kinds ({str(error).splitlines()[0]}). Write all of them "
            "the same way, all as text or all as lists."
        ) from error
    return values


def _read_lines(path: str, root: str | os.PathLike | None = None) -> Iterator[dict[str, Any]]:
    """The examples of a jsonl (or of a JSON file with a list), checked, with paths that start from its folder."""
    folder = os.path.abspath(root) if root is not None else os.path.dirname(os.path.abspath(path))
    for number, line in _numbered_rows(path):
        where = f"{path}, {'line' if path.endswith('.jsonl') else 'entry'} {number}"
        try:
            row = _with_video_named(json.loads(line) if isinstance(line, str) else line)
            parse_example(row, folder)
        except json.JSONDecodeError as error:
            raise LinVTInputError(f"{where} is no JSON: {error}.") from error
        except (LinVTInputError, TypeError, ValueError, KeyError) as error:
            raise LinVTInputError(f"{where}: {error}") from error
        yield _uniform(row, folder)


def _with_video_named(row: Any) -> Any:
    """A row in which the file of `datasets`' folders of videos (`file_name`, `video_file_name`) is called `video`."""
    if not isinstance(row, Mapping) or row.keys() & {"video", "videos"}:
        return row
    new_names = {
        "file_name": "video",
        "video_file_name": "video",
        "file_names": "videos",
        "videos_file_names": "videos",
    }
    return {new_names.get(name, name): value for name, value in row.items()}


def _numbered_rows(path: str) -> Iterator[tuple[int, Any]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        if path.endswith(".jsonl"):
            for number, line in enumerate(file, 1):
                if any("\udc80" <= letter <= "\udcff" for letter in line):
                    raise LinVTInputError(f"{path}, line {number} is not UTF-8. Save the file as UTF-8.")
                if line.strip():
                    yield number, line
            return
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise LinVTInputError(f"{path} is no JSON: {error}.") from error
        yield from enumerate(rows if isinstance(rows, list) else [rows], 1)


def _uniform(row: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The same row with contents as lists of parts, so that all rows have one type, and with absolute video paths."""
    result = dict(row)
    for name in ("messages", "prompt", "completion"):
        if isinstance(result.get(name), list):
            result[name] = [_uniform_message(message) for message in _as_messages(result[name], "", folder)]
    for name in ("video", "videos", "image", "images"):
        value = result.get(name)
        if isinstance(value, list):
            result[name] = [resolved(one, folder) for one in value]
        elif value is not None:
            result[name] = resolved(value, folder)
    return result


def _uniform_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return {**message, "content": content}


def _load_shards(source: str, streaming: bool) -> "datasets.Dataset | datasets.IterableDataset":
    if os.path.isdir(source):
        files = sorted(glob.glob(os.path.join(source, "*.tar")))
    else:
        files = [file for name in _numbered(source) for file in ([name] if "://" in name else sorted(glob.glob(name)))]
    if not files:
        raise LinVTInputError(f"{source!r} matches no file. Give the address or path of .tar shards.")
    dataset = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", streaming=streaming)
    dataset = undecoded(dataset)
    names = dataset.column_names or list(next(iter(dataset)))
    return dataset.map(_from_shard, remove_columns=names)


def _numbered(source: str) -> list[str]:
    """`{000..099}`, as WebDataset has it, written out."""
    if not (found := re.search(r"\{(\d+)\.\.(\d+)\}", source)):
        return [source]
    first, last = found.groups()
    return [
        name
        for number in range(int(first), int(last) + 1)
        for name in _numbered(f"{source[: found.start()]}{number:0{len(first)}}{source[found.end() :]}")
    ]


def _from_shard(row: Mapping[str, Any]) -> dict[str, Any]:
    """A WebDataset sample: the video under its extension, the example under `json`."""
    video = next((row[name] for name in ("mp4", "webm", "mkv", "mov", "avi") if row.get(name) is not None), None)
    example = row.get("json")
    if video is None or not isinstance(example, Mapping):
        raise LinVTInputError(
            f"Sample {row.get('__key__')!r} of {row.get('__url__')!r} has {', '.join(row)}; it needs a video (mp4, "
            f"webm, mkv, mov or avi) and json with {FORMATS}."
        )
    data = video.get("bytes") if isinstance(video, Mapping) else video
    return {**example, "video": {"bytes": data, "path": None}}


def undecoded(dataset: Any) -> Any:
    """`datasets` would decode by itself, with torchcodec only; here the collator does, and in the workers."""
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if (left_alone := _undecoded_feature(feature)) != feature:
            dataset = dataset.cast_column(name, left_alone)
    return dataset


def _undecoded_feature(feature: Any) -> Any:
    """The type of a column with every video in it, however deep, as path and bytes."""
    if isinstance(feature, datasets.Video):
        return datasets.Video(decode=False)
    if isinstance(feature, datasets.List | datasets.LargeList):
        return type(feature)(_undecoded_feature(feature.feature))
    if isinstance(feature, Mapping):
        return {name: _undecoded_feature(one) for name, one in feature.items()}
    if isinstance(feature, list):
        return [_undecoded_feature(one) for one in feature]
    return feature


# ---------------------------------------------------------------------------------------------------------------------
# Checking
# ---------------------------------------------------------------------------------------------------------------------


def check_dataset(
    dataset: Any, video_root: str | os.PathLike | None = None, max_unreadable_share: float = 0.05
) -> None:
    """
    Find before the first step what would stop the run later: no examples, no videos, missing or broken files.

    Of a stream only the first examples are looked at. A few missing files are a warning; more than
    `max_unreadable_share` of them, or a probe of which nothing can be read, are an error.

    Raises:
        `LinVTInputError`: empty, not of a known format, or without a video.
        `VideoReadError`: files missing or unreadable; the first of them are named.
    """
    if not hasattr(dataset, "__len__"):
        rows = dict(enumerate(itertools.islice(dataset, _LOOKED_AT)))
    else:
        spread = np.linspace(0, len(dataset) - 1, min(_LOOKED_AT, len(dataset))).astype(int)
        rows = {number: dataset[number] for number in spread.tolist()}
    if not rows:
        raise LinVTInputError("The dataset is empty: there is nothing to train on.")
    examples = []
    for number, row in rows.items():
        try:
            examples.append(parse_example(row, video_root))
        except (LinVTInputError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise LinVTInputError(f"Example {number} of the dataset: {error}") from error
    _need_videos(examples, list(rows[0]))
    if not hasattr(dataset, "__len__"):
        return
    _check_files(_paths(dataset, video_root, examples), max_unreadable_share)
    _probe([video for example in examples for video in example.videos])


def _need_videos(examples: Sequence[Example], columns: Sequence[str]) -> None:
    if not any(example.videos for example in examples):
        raise LinVTInputError(
            f"No example has a video: the columns are {', '.join(map(repr, columns))}. Name the video in a column "
            "'video' (or 'videos'), or as a content part {'type': 'video', 'path': ...} of the messages."
        )


def _paths(dataset: Any, root: str | os.PathLike | None, examples: Sequence[Example]) -> list[str]:
    """Files that the dataset names: of a column of paths all, else those of the examples that were looked at."""
    features = getattr(dataset, "features", None) or {}
    files = [video for example in examples for video in example.videos]
    for name in ("video", "image"):
        if isinstance(column := features.get(name), datasets.Value) and column.dtype in ("string", "large_string"):
            files += [resolved(path, root) for path in dataset.unique(name)[:MOST_CHECKED_FILES] if path is not None]
    return list(dict.fromkeys(path for path in files if isinstance(path, str) and not is_address(path)))


def _check_files(paths: Sequence[str], max_unreadable_share: float) -> None:
    missing = [path for path in paths if not os.path.exists(path)]
    if not missing:
        return
    text = (
        f"{len(missing)} of {len(paths)} files do not exist: {', '.join(map(repr, missing[:5]))}"
        f"{' ...' if len(missing) > 5 else ''}. Relative paths start from the jsonl's folder, or from video_root."
    )
    if len(missing) > max_unreadable_share * len(paths):
        raise VideoReadError(text)
    logger.warning(f"{text} They will be skipped.")


def _probe(videos: Sequence[Any]) -> None:
    """Read one frame of a few videos: if not one can be read, the run would not get far."""
    places = np.unique(np.linspace(0, len(videos) - 1, min(PROBED_VIDEOS, len(videos))).astype(int)).tolist()
    problems = []
    for place in places:
        try:
            if isinstance(videos[place], VideoFrames):
                return
            read_video(videos[place], num_frames=1)
            return
        except VideoReadError as error:
            problems.append(str(error))
    raise VideoReadError(f"None of {len(places)} videos that were tried can be read. " + " ".join(problems))


def lengths_of(dataset: Any, num_video_tokens: int, video_root: str | os.PathLike | None = None) -> list[int]:
    """
    About how many tokens each example has, for batches of examples of like length: a word counts as four letters.

    Args:
        dataset: with a length.
        num_video_tokens: tokens that a video becomes.
        video_root: see [`parse_example`].
    """
    lengths = []
    for row in dataset:
        example = parse_example(row, video_root)
        letters = sum(len(text) for text in texts_of(example.messages))
        pictures = len(example.videos) + len(example.picture_parts())
        lengths.append(pictures * num_video_tokens + letters // 4 + 1)
    return lengths
