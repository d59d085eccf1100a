"""
Videos that were encoded before, found again by what they are: in memory, and in a folder where one is named.

A key is a digest of everything that frame tokens depend on: the bytes of the video (or its frames, where it is no
file), how it is sampled, how the processor prepares frames, and the weights that they go through. What is found under
a key is what encoding would give.
"""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LinVTInputError, shown
from ..model.digests import (
    VERSIONS,
    FileDigests,
    digest_of,
    digest_of_frames,
    digest_of_processor,
    digest_of_settings,
    digest_of_weights,
    is_still,
    state_of_weights,
    weights_of_frames,
)
from ..model.features import VideoFeatures
from ..store import FolderStore
from ..video.frames import VideoFrames, no_pixels
from ..video.record import UnseenFrames, record_of


@dataclass
class SeenVideo:
    """
    A video as far as it was looked at.

    Attributes:
        video ([`VideoFrames`]): its frames; [`UnseenFrames`] where `features` are all that is needed.
        features ([`VideoFeatures`], *optional*): where it was encoded before.
        key (`str`, *optional*): what it is found under.
        unread (*optional*): its source and sampling, where it is encoded while it is read; `video` is empty till then.
        identity (*optional*): of its file as the key was made.
    """

    video: VideoFrames
    features: VideoFeatures | None = None
    key: str | None = None
    unread: tuple[Any, Mapping[str, Any]] | None = None
    identity: tuple | None = None

    @classmethod
    def to_be_read(
        cls, source: Any, sampling: Mapping[str, Any], key: str | None, identity: tuple | None
    ) -> "SeenVideo":
        """A video that nothing was read of."""
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else f"<{type(source).__name__}>"
        empty = UnseenFrames(no_pixels(0), np.zeros(0), name, "pyav", 0.0, 0, None)
        return cls(empty, key=key, unread=(source, sampling), identity=identity)

    @property
    def has_changed(self) -> bool:
        """Whether its file is another than the key was made of."""
        return self.unread is not None and self.identity is not None and not is_still(self.unread[0], self.identity)

    @property
    def has_pixels(self) -> bool:
        """Whether the frames are there, and not only their times."""
        return not isinstance(self.video, UnseenFrames)

    def named(self, source: str) -> "SeenVideo":
        """The same under the name that it was asked for by."""
        return replace(self, video=replace(self.video, source=source))


class FeatureCache:
    """
    The videos that were encoded last.

    Args:
        num_videos: how many are kept in memory; 0 for none.
        num_bytes: most bytes of memory that they take together.
        folder: where they are kept as well, from one process to the next; made if missing.
        folder_bytes: most bytes of the files in it; those that were not used for longest go first.
    """

    def __init__(
        self,
        num_videos: int = 8,
        num_bytes: int = 1 << 30,
        folder: str | os.PathLike | None = None,
        folder_bytes: int = 10 << 30,
    ) -> None:
        for name, value in (
            ("cache_size", num_videos), ("cache_bytes", num_bytes), ("cache_dir_bytes", folder_bytes),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise LinVTInputError(f"{name}={shown(value)}: give a whole number, 0 or more.")
        self.num_videos, self.num_bytes = num_videos, num_bytes
        self.folder = None if folder is None else FolderStore(folder, "cache_dir", folder_bytes)
        self.hits = self.misses = 0
        self._kept: OrderedDict[str, SeenVideo] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_on(self) -> bool:
        """Whether anything can be found."""
        return bool(self.num_videos and self.num_bytes) or self.folder is not None

    def clear(self) -> None:
        """Forget what is in memory; files stay."""
        with self._lock:
            self._kept.clear()

    def get(self, key: str | None) -> SeenVideo | None:
        """The video that was kept under a key."""
        if key is None:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
        if found is None and self.folder is not None and (found := self._from_folder(self.folder, key)) is not None:
            self._keep(key, found)
        with self._lock:
            self.hits, self.misses = self.hits + (found is not None), self.misses + (found is None)
        return found

    def put(self, key: str | None, video: VideoFrames, features: VideoFeatures) -> None:
        """Keep a video, on the CPU and without its pixels."""
        if key is None or not self.is_on:
            return
        unseen, features = UnseenFrames.of(video), features.to("cpu")
        self._keep(key, SeenVideo(unseen, features, key))
        if self.folder is not None:
            self.folder.put(key, with_about(features, unseen).save)

    def _keep(self, key: str, seen: SeenVideo) -> None:
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            sizes = {name: bytes_of(one.features) for name, one in self._kept.items() if one.features is not None}
            while self._kept and (len(self._kept) > self.num_videos or sum(sizes.values()) > self.num_bytes):
                sizes.pop(self._kept.popitem(last=False)[0])

    def _from_folder(self, folder: FolderStore, key: str) -> SeenVideo | None:
        def load(path: Path) -> SeenVideo:
            features = VideoFeatures.load(path)
            return SeenVideo(_video_of(features), features, key)

        return folder.get(key, load)


def with_about(features: VideoFeatures, video: VideoFrames, **more: str) -> VideoFeatures:
    """An encoded video that knows what it was read from."""
    return replace(features, about={**features.about, "video": record_of(video), **more})


def seen_of_features(features: VideoFeatures, frames_per_step: int) -> SeenVideo:
    """An encoded video that was given as one: what it was read from is in it, or follows from its steps of time."""
    if "video" in features.about:
        return SeenVideo(_video_of(features), features)
    count = features.num_frames * frames_per_step
    times = np.zeros(count) if features.timestamps is None else features.timestamps.double().numpy()
    times = times if len(times) == count else np.repeat(times, frames_per_step)
    record = {
        "video_backend": "memory",
        "duration": float(times[-1] - times[0]),
        "total_frames": count,
        "average_fps": None,
        "timestamps": times.tolist(),
    }
    return SeenVideo(UnseenFrames.from_record(json.dumps(record)), features)


def _video_of(features: VideoFeatures) -> UnseenFrames:
    return UnseenFrames.from_record(features.about["video"])


def bytes_of(features: VideoFeatures) -> int:
    """Memory that an encoded video takes."""
    return sum(
        one.numel() * one.element_size() for one in (*features.refined.to_tensors().values(), *features.deepstack)
    )


class Keys:
    """
    The keys that the videos of one model and one processor are found under.

    Args:
        model ([`LinVTForVideoQA`]).
        processor ([`LinVTProcessor`]).
        for_files: whether keys mean the same in another process; then the weights are read once.
    """

    def __init__(self, model: Any, processor: Any, for_files: bool) -> None:
        self.model, self.processor, self.for_files = model, processor, for_files
        self.files = FileDigests()
        self._weights: tuple[tuple, str] | None = None

    def of_file(self, source: Any, sampling: Mapping[str, Any]) -> tuple[str, tuple] | None:
        """The key of a file that is read so, and the file's identity; None where the source is no file."""
        if (found := self.files.of(source)) is None:
            return None
        told = {**sampling, "default": self.processor.num_frames}
        given = sorted((name, repr(value)) for name, value in told.items() if value is not None)
        return digest_of(found[0], given, self.of_encoder(), VERSIONS), found[1]

    def of_frames(self, video: VideoFrames) -> str:
        """The key of frames, wherever they are from."""
        return digest_of(digest_of_frames(video), self.of_encoder(), VERSIONS)

    def of_encoder(self, counts_repeats: bool = True) -> str:
        """What frames go through: how they are prepared, and the weights; and which are left out as repeats."""
        weights = weights_of_frames(self.model)
        state = state_of_weights(weights)
        if self._weights is None or self._weights[0] != state:
            self._weights = state, digest_of_weights(weights) if self.for_files else digest_of(state)
        config = self.model.config
        settings = sorted(config.tokenizer_kwargs.items()), digest_of_settings(config)
        return digest_of(self._weights[1], settings, digest_of_processor(self.processor, counts_repeats))


__all__ = ["FeatureCache", "Keys", "SeenVideo"]
