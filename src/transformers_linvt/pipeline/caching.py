"""
Videos that were encoded before, found again by what they are: in memory, and in a folder where one is named.

A key is a digest of everything that frame tokens depend on: the bytes of the video (or its frames, where it is no
file), how it is sampled, how the processor prepares frames, and the weights that they go through. What is found under
a key is what encoding would give.
"""

import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging

from ..errors import LinVTInputError, shown
from ..model.features import VideoFeatures
from ..video.frames import VideoFrames
from ..video.media_address import is_address


logger = logging.get_logger(__name__)

_CHUNK = 1 << 22  # bytes read at once
_SETTLED_SECONDS = 2.0  # a file that was written this long ago has a time stamp that a change would change
_SUFFIX = ".safetensors"
_VERSIONS = transformers.__version__, torch.__version__  # another may compute a little otherwise


@dataclass
class SeenVideo:
    """
    A video as far as it was looked at.

    Attributes:
        video ([`VideoFrames`]): its frames; of one pixel each where `features` are all that is needed.
        features ([`VideoFeatures`], *optional*): where it was encoded before.
        key (`str`, *optional*): what it is found under.
        has_pixels (`bool`): whether the frames are there, and not only how many.
    """

    video: VideoFrames
    features: VideoFeatures | None = None
    key: str | None = None
    has_pixels: bool = True

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
        self.num_videos, self.num_bytes, self.folder_bytes = num_videos, num_bytes, folder_bytes
        self.folder = None if folder is None else _folder(folder)
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
        features = features.to("cpu")
        seen = SeenVideo(replace(video, frames=_no_pixels(len(video.frames))), features, key, False)
        self._keep(key, seen)
        if self.folder is not None:
            self._to_folder(self.folder, key, with_about(features, seen.video))

    def _keep(self, key: str, seen: SeenVideo) -> None:
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            sizes = {name: bytes_of(one.features) for name, one in self._kept.items() if one.features is not None}
            while self._kept and (len(self._kept) > self.num_videos or sum(sizes.values()) > self.num_bytes):
                sizes.pop(self._kept.popitem(last=False)[0])

    # -- the folder --

    def _from_folder(self, folder: Path, key: str) -> SeenVideo | None:
        # the rest of a name is the digest of the file, so that one which was damaged is not taken
        for path in folder.glob(f"{key}.*{_SUFFIX}"):
            try:
                if digest_of_file(path) != path.name.split(".")[1]:
                    raise LinVTInputError(f"{path} is damaged.")
                features = VideoFeatures.load(path)
                video = _video_of(features)
                os.utime(path)
            except FileNotFoundError:  # another process made room
                continue
            except (LinVTInputError, OSError, KeyError, TypeError, ValueError) as error:
                logger.warning(f"A file of cache_dir is not used, and the video encoded again: {error}")
                path.unlink(missing_ok=True)
                continue
            return SeenVideo(video, features, key, has_pixels=False)
        return None

    def _to_folder(self, folder: Path, key: str, features: VideoFeatures) -> None:
        if any(folder.glob(f"{key}.*{_SUFFIX}")):  # another process was faster
            return
        partial = folder / f".{key}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            features.save(partial)
            size = partial.stat().st_size
            if size <= self.folder_bytes:
                self._make_room(folder, size)
                os.replace(partial, folder / f"{key}.{digest_of_file(partial)}{_SUFFIX}")
        except (LinVTInputError, OSError) as error:  # a full disk costs the file, not the answer
            logger.warning(f"An encoded video was not kept in cache_dir={str(folder)!r}: {error}")
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, folder: Path, size: int) -> None:
        files = []
        for path in folder.glob(f"*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size_of_file for _, size_of_file, _ in files)
        for _, size_of_file, path in sorted(files):
            if total + size <= self.folder_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size_of_file


def _folder(folder: str | os.PathLike) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LinVTInputError(
            f"cache_dir={os.fspath(folder)!r} cannot be made: {error.strerror}. Name a folder."
        ) from error
    return path


def _no_pixels(num_frames: int) -> np.ndarray:
    return np.zeros((num_frames, 1, 1, 3), dtype=np.uint8)


def with_about(features: VideoFeatures, video: VideoFrames, **more: str) -> VideoFeatures:
    """An encoded video that knows what it was read from."""
    told = {name: getattr(video, name) for name in ("video_backend", "duration", "total_frames", "average_fps")}
    told |= {"timestamps": [float(time) for time in video.timestamps]}
    return replace(features, about={**features.about, "video": json.dumps(told), **more})


def seen_of_features(features: VideoFeatures, frames_per_step: int) -> SeenVideo:
    """An encoded video that was given as one: what it was read from is in it, or follows from its steps of time."""
    if "video" in features.about:
        return SeenVideo(_video_of(features), features, has_pixels=False)
    count = features.num_frames * frames_per_step
    times = np.zeros(count) if features.timestamps is None else features.timestamps.double().numpy()
    times = times if len(times) == count else np.repeat(times, frames_per_step)
    video = VideoFrames(
        _no_pixels(count), times, "<encoded video>", "memory", float(times[-1] - times[0]), count, None
    )
    return SeenVideo(video, features, has_pixels=False)


def _video_of(features: VideoFeatures) -> VideoFrames:
    told = json.loads(features.about["video"])
    times = np.asarray(told.pop("timestamps"), dtype=np.float64)
    return VideoFrames(_no_pixels(len(times)), times, source="<encoded video>", **told)


def bytes_of(features: VideoFeatures) -> int:
    """Memory that an encoded video takes."""
    return sum(
        one.numel() * one.element_size() for one in (*features.refined.to_tensors().values(), *features.deepstack)
    )


# ---------------------------------------------------------------------------------------------------------------------
# Digests
# ---------------------------------------------------------------------------------------------------------------------


def digest_of_file(path: str | os.PathLike) -> str:
    """The digest of the bytes of a file, 32 hexadecimal digits."""
    digest = _new_digest()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def digest_of(*parts: Any) -> str:
    """The digest of anything that prints itself, 32 hexadecimal digits."""
    digest = _new_digest()
    for part in parts:
        digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()


class FileDigests:
    """Digests of files, taken once for as long as a file is not written again."""

    def __init__(self) -> None:
        self._taken: dict[tuple, str] = {}

    def of(self, source: Any) -> tuple[str, tuple] | None:
        """Digest and identity of the file that a source names; None where it names no file."""
        if not isinstance(source, str | os.PathLike) or is_address(os.fspath(source)):
            return None
        try:
            identity = identity_of(source)
            if (digest := self._taken.get(identity)) is None:
                digest = digest_of_file(source)
                if time.time() - identity[-1] / 1e9 > _SETTLED_SECONDS:
                    self._taken[identity] = digest
        except (OSError, ValueError):  # the reader says best what is wrong
            return None
        return digest, identity


def identity_of(path: str | os.PathLike) -> tuple:
    """What changes when a file is written again."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def digest_of_frames(video: VideoFrames) -> str:
    """The key of frames in memory and their times."""
    digest = _new_digest()
    for array in (video.frames, video.timestamps):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def digest_of_processor(processor: Any) -> str:
    """The digest of the settings that decide how frames are prepared."""
    prepares = getattr(processor.base_processor, "image_processor", processor.base_processor)
    settings = prepares.to_dict() if hasattr(prepares, "to_dict") else vars(prepares)
    names = sorted((name, repr(value)) for name, value in settings.items())
    sizes = processor.max_frame_tokens, processor.max_total_frame_tokens
    return digest_of(type(prepares).__name__, names, sizes, processor.frames_per_step, processor.base_model_type)


def state_of_weights(model: Any) -> tuple:
    """What changes when a weight of a model is changed in place or put in another place; cheap."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype)
        for weight in _weights_of_frames(model).values()
    )


def digest_of_weights(model: Any) -> str:
    """Of the values of all weights that frames go through; reads them."""
    digest = _new_digest()
    for name, weight in sorted(_weights_of_frames(model).items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        values = weight.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(values), _CHUNK):
            digest.update(values[start : start + _CHUNK].numpy().data)
    return digest.hexdigest()


def _weights_of_frames(model: Any) -> Mapping[str, torch.Tensor]:
    """All but the layers of the language model, which frames do not go through."""
    decoder = model.model.bridge.decoder(model.base_vlm)
    layers = getattr(decoder, "layers", None)
    behind = {id(weight) for weight in layers.parameters()} if layers is not None else set()
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: weight for name, weight in found.items() if id(weight) not in behind and not weight.is_meta}


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
        return digest_of(found[0], given, self.of_encoder(), _VERSIONS), found[1]

    def of_frames(self, video: VideoFrames) -> str:
        """The key of frames, wherever they are from."""
        return digest_of(digest_of_frames(video), self.of_encoder(), _VERSIONS)

    def of_encoder(self) -> str:
        """What frames go through: how they are prepared, and the weights."""
        state = state_of_weights(self.model)
        if self._weights is None or self._weights[0] != state:
            digest = digest_of_weights(self.model) if self.for_files else digest_of(state)
            self._weights = state, digest
        config = self.model.config
        settings = sorted(config.tokenizer_kwargs.items()), config.frame_path
        return digest_of(self._weights[1], settings, digest_of_processor(self.processor))


__all__ = ["FeatureCache", "Keys", "SeenVideo"]
