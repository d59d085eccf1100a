"""Digests of what an encoded video depends on: its file or frames, how it is prepared, the weights that it meets."""

import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import transformers

from ..store import digest_of_file
from ..video.duplicates import levels_of
from ..video.frames import VideoFrames
from ..video.media_address import is_address


VERSIONS = transformers.__version__, torch.__version__  # another may compute a little otherwise
_CHUNK = 1 << 22  # bytes read at once
# What a base's config says of other things than its frames
_NOT_OF_FRAMES = {
    "_name_or_path", "architectures", "dtype", "id2label", "label2id", "text_config", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
_SETTLED_SECONDS = 2.0  # a file that was written this long ago has a time stamp that a change would change


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def digest_of(*parts: Any) -> str:
    """A digest of anything that prints itself, 32 hexadecimal digits."""
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


def is_still(path: str | os.PathLike, identity: tuple) -> bool:
    """Whether a file is the one that it was, and was not written since."""
    try:
        return identity_of(path) == identity
    except OSError:
        return False


def digest_of_frames(video: VideoFrames) -> str:
    """A digest of frames in memory and their times."""
    digest = _new_digest()
    for array in (video.frames, video.timestamps):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def digest_of_processor(processor: Any, counts_repeats: bool = True) -> str:
    """A digest of the settings that decide how frames are prepared, and of which are left out as repeats."""
    prepares = getattr(processor.base_processor, "image_processor", processor.base_processor)
    settings = prepares.to_dict() if hasattr(prepares, "to_dict") else vars(prepares)
    names = sorted((name, repr(value)) for name, value in settings.items())
    sizes = processor.max_frame_tokens, processor.max_total_frame_tokens
    levels = levels_of(processor.skip_duplicate_frames) if counts_repeats else None
    levels = levels or 0.0  # frames that are identical give the same either way
    steps, kind = processor.frames_per_step, processor.base_model_type
    return digest_of(type(prepares).__name__, names, sizes, steps, kind, levels)


def digest_of_settings(config: Any) -> str:
    """
    A digest of the base's settings beside its weights, such as which layer of the vision tower counts.

    Args:
        config ([`LinVTConfig`]).
    """
    return digest_of(_told(config.base_config.to_dict()), config.frame_path)


def _told(value: Any) -> Any:
    """Settings in one order, without those that no frame depends on."""
    if not isinstance(value, Mapping):
        return value
    return sorted((str(name), _told(one)) for name, one in value.items() if name not in _NOT_OF_FRAMES)


def weights_of_frames(model: Any) -> dict[str, torch.Tensor]:
    """All of a [`LinVTForVideoQA`] but the layers of the language model, which frames do not go through."""
    decoder = model.model.bridge.decoder(model.base_vlm)
    layers = getattr(decoder, "layers", None)
    behind = {id(weight) for weight in layers.parameters()} if layers is not None else set()
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: weight for name, weight in found.items() if id(weight) not in behind and not weight.is_meta}


def state_of_weights(weights: Mapping[str, torch.Tensor]) -> tuple:
    """What changes when a weight is changed in place or put in another place; cheap."""
    return tuple(
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.dtype)
        for weight in weights.values()
    )


def digest_of_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """A digest of the values of weights; reads them."""
    digest = _new_digest()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name.replace('.base_layer.', '.')}{tuple(weight.shape)}{weight.dtype}".encode())
        values = weight.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, len(values), _CHUNK):
            digest.update(values[start : start + _CHUNK].numpy().data)
    return digest.hexdigest()
