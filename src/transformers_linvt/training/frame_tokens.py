"""
Frame tokens that outlast an epoch: what the frozen vision side makes of a video, made once and read from a folder.

The collator looks a video up, in the data loader's workers, and reads its frames only where it is not there; the
trainer encodes what is missing and keeps it. What is found is what encoding would give, rounded to the cache's dtype;
a video that is encoded in this step is rounded alike, so that a run does not depend on what was there before.
"""

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.trainer_utils import has_length
from transformers.utils import logging

from ..bases.layouts import FRAME_PREFIX, EncodedFrames
from ..errors import LinVTInputError, VideoReadError
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
from ..model.processing_linvt import LinVTProcessor
from ..store import FolderStore
from ..video.frames import VideoFrames
from ..video.record import UnseenFrames, record_of


logger = logging.get_logger(__name__)

FRAME_TOKENS = "frame_tokens"  # what of a batch holds them
DTYPES = {"auto": None, "bfloat16": torch.bfloat16}
_FORMAT = "linvt-frame-tokens-1"
_PROBED = 64  # examples that are looked through for one whose videos can be read


@dataclass
class FrameTokens:
    """
    One video of a batch, as far as the collator came.

    Attributes:
        key (`str`, *optional*): what it is kept under; None where it is not to be kept.
        record (`str`): its number of frames and their times, see `record_of`.
        encoded ([`EncodedFrames`], *optional*): where it was there.
    """

    key: str | None
    record: str
    encoded: EncodedFrames | None = None

    def save(self, path: Path) -> None:
        """
        Write to one safetensors file.

        Raises:
            LinVTInputError: the file cannot be written, or there is nothing to write.
        """
        encoded = self.encoded
        if encoded is None:
            raise LinVTInputError(f"The video of {path.name} is not encoded yet. Save its frame tokens after that.")
        tensors = {"tokens": encoded.tokens} | {f"deepstack.{i}": one for i, one in enumerate(encoded.deepstack)}
        rows, columns = encoded.grid_size
        about = {"format": _FORMAT, "container": encoded.container, "video": self.record}
        about |= {"rows": str(rows), "columns": str(columns)}
        try:
            save_file({name: one.detach().to("cpu").contiguous() for name, one in tensors.items()}, path, about)
        except SafetensorError as error:
            raise LinVTInputError(str(error)) from error

    @classmethod
    def load(cls, path: Path, key: str) -> "FrameTokens":
        """
        Read a file that `save` wrote.

        Raises:
            LinVTInputError, KeyError, ValueError: the file is of another format.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise LinVTInputError(f"{path}: {error}") from error
        if about.get("format") != _FORMAT:
            raise LinVTInputError(f"{path} holds no frame tokens of this version.")
        tokens = tensors.pop("tokens")
        layers = [tensors[f"deepstack.{i}"] for i in range(len(tensors))]
        grid = int(about["rows"]), int(about["columns"])
        return cls(key, about["video"], EncodedFrames(tokens, layers, grid, about["container"]))


@dataclass
class LookedUp:
    """
    A video that was looked up.

    Attributes:
        video ([`VideoFrames`]): without pixels where its tokens are there.
        tokens ([`FrameTokens`], *optional*): None where nothing is kept.
    """

    video: VideoFrames
    tokens: FrameTokens | None = None


class FrameTokenCache:
    """
    The frame tokens of the videos that one training meets.

    Args:
        folder: where they are kept, for this run and others; made if missing.
        model ([`LinVTForVideoQA`]): whose frozen vision side makes them.
        processor ([`LinVTProcessor`]): which prepares the frames.
        dtype (`str`): `"bfloat16"`, or `"auto"` for that in which the vision side gives them.
        precision (`str`): of the computation, such as `"bf16"`: it is part of what tokens are found by.

    Raises:
        LinVTInputError: the folder cannot be made, or an unknown dtype.
    """

    def __init__(
        self, folder: str, model: Any, processor: LinVTProcessor, dtype: str = "bfloat16", precision: str = "no"
    ) -> None:
        self.store = FolderStore(folder, "cache_frame_tokens")
        self.dtype = DTYPES[dtype]
        self._files = FileDigests()
        # What trains has no part in frame tokens (`check` sees to that), so only what rests is told apart by.
        linvt = {id(weight) for weight in model.linvt.parameters()}
        self._weights = {
            name: weight
            for name, weight in weights_of_frames(model).items()
            if id(weight) not in linvt and not weight.requires_grad
        }
        self._state, self._digest = state_of_weights(self._weights), digest_of_weights(self._weights)
        sizes = processor.num_frames, model.config.max_frames
        settings = digest_of_settings(model.config), digest_of_processor(processor), sizes
        self._encoder = digest_of(self._digest, settings, dtype, precision, VERSIONS)

    def __getstate__(self) -> dict[str, Any]:
        """For the data loader's workers, which look up and never encode."""
        return {**vars(self), "_weights": {}, "_state": None}

    # -- in the workers --

    def look_up(self, processor: LinVTProcessor, source: Any, sampling: Mapping[str, Any]) -> LookedUp:
        """A video: as it was encoded before where that is known, else its frames."""
        given = sorted((name, repr(value)) for name, value in sampling.items() if value is not None)
        of_file = self._files.of(source)
        key = None if of_file is None else digest_of(of_file[0], given, self._encoder)
        if key is not None and (found := self._get(key)) is not None:
            return LookedUp(UnseenFrames.from_record(found.record, str(source)), found)
        video = processor.read_video(source, **sampling)
        if of_file is None:
            key = digest_of(digest_of_frames(video), self._encoder)
            if (found := self._get(key)) is not None:
                return LookedUp(UnseenFrames.of(video), found)
        elif not is_still(source, of_file[1]):  # it was written while it was read
            key = None
        return LookedUp(video, FrameTokens(key, record_of(video)))

    def _get(self, key: str) -> FrameTokens | None:
        return self.store.get(key, lambda path: FrameTokens.load(path, key))

    # -- in the trainer --

    def fill(self, model: Any, batch: dict[str, Any], seen: Sequence[FrameTokens]) -> list[EncodedFrames]:
        """
        The frame tokens of all videos of a batch; those that were not there are encoded and kept.

        Args:
            model ([`LinVTForVideoQA`]).
            batch: of which the frames are taken out: they have served.
            seen: the videos of the batch, in order.

        Raises:
            LinVTInputError: a weight that frames go through has changed since the start of the training.
        """
        self._check_rests()
        frames = {
            name.removeprefix(FRAME_PREFIX): batch.pop(name) for name in list(batch) if name.startswith(FRAME_PREFIX)
        }
        device, counts = batch["input_ids"].device, batch["frames_per_video"].tolist()
        found = {number: one.encoded for number, one in enumerate(seen) if one.encoded is not None}
        missing = [number for number in range(len(seen)) if number not in found]
        if missing:
            with _resting(model.base_vlm):
                made = model.model.encode_videos([counts[number] for number in missing], frames)
            for number, encoded in zip(missing, made, strict=True):
                one, found[number] = seen[number], _in(encoded, dtype=self.dtype)
                one.encoded = found[number]
                if one.key is not None:
                    self.store.put(one.key, one.save)
        return [_in(found[number], device) for number in range(len(seen))]

    def _check_rests(self) -> None:
        """Whether what frames go through is what it was: a callback, or a checkpoint, may have changed it."""
        if (state := state_of_weights(self._weights)) == self._state:
            return
        if digest_of_weights(self._weights) != self._digest:
            raise LinVTInputError(
                "The base's weights that frames go through changed during the training, so the frame tokens in "
                "cache_frame_tokens are no longer theirs. Leave cache_frame_tokens out."
            )
        self._state = state

    # -- before the first step --

    def check(self, model: Any, collate: Any, dataset: Any, is_told: bool = True) -> None:
        """
        Encode the videos of one example: to see that nothing that trains has a part in it, and to say the size.

        Args:
            model ([`LinVTForVideoQA`]).
            collate: makes a batch of examples, frames included.
            dataset: to train on.
            is_told: whether the size is named, as one process of several does it.

        Raises:
            LinVTInputError: a parameter that is trained moves frame tokens.
        """
        batch = next(_with_frames(collate, itertools.islice(dataset, _PROBED)), None)
        if batch is None:
            logger.warning(f"cache_frame_tokens: none of the first {_PROBED} examples has a video that can be read.")
            return
        frames = {
            name.removeprefix(FRAME_PREFIX): one.to(model.working_device)
            for name, one in batch.items()
            if name.startswith(FRAME_PREFIX)
        }
        with torch.enable_grad():
            encoded = model.model.encode_videos(batch["frames_per_video"].tolist(), frames)
        tensors = [tensor for one in encoded for tensor in (one.tokens, *one.deepstack)]
        if any(tensor.requires_grad for tensor in tensors):
            raise LinVTInputError(
                "cache_frame_tokens keeps what the vision side makes of a video, and something in it is trained: the "
                "vision tower, the projector, or an adapter on them. Freeze it (target_modules of the language model "
                "only, as lora_config has them), or leave cache_frame_tokens out."
            )
        if is_told:
            self._say_size(sum(one.numel() * (self.dtype or one.dtype).itemsize for one in tensors), _count(dataset))

    def _say_size(self, num_bytes: int, count: int | None) -> None:
        free = shutil.disk_usage(self.store.folder).free
        text = f"{num_bytes / 1e6:,.2f} MB for the first example"
        if count is not None:
            text += f", about {count * num_bytes / 1e9:,.2f} GB for {count:,} like it"
        lacks = count is not None and count * num_bytes > free
        advice = " That does not fit: the rest will be encoded again in every epoch." if lacks else ""
        logger.warning(
            f"cache_frame_tokens={str(self.store.folder)!r} takes {text}; {free / 1e9:,.2f} GB are free.{advice}"
        )


def _with_frames(collate: Any, examples: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Batches of one example whose videos can be read."""
    for example in examples:
        try:
            batch = collate([example])
        except VideoReadError:
            continue
        if "frames_per_video" in batch:
            yield batch


def _count(dataset: Any) -> int | None:
    """Examples of a dataset with different videos, as far as that can be known without reading it."""
    if not has_length(dataset):
        return None
    column = (getattr(dataset, "features", None) or {}).get("video")
    if getattr(column, "dtype", None) == "string":
        return len(cast(Any, dataset).unique("video"))
    return len(dataset)


def _in(encoded: EncodedFrames, device: Any = None, dtype: torch.dtype | None = None) -> EncodedFrames:
    tokens, *layers = (one.detach().to(device, dtype) for one in (encoded.tokens, *encoded.deepstack))
    return replace(encoded, tokens=tokens, deepstack=layers)


@contextmanager
def _resting(base: nn.Module) -> Iterator[None]:
    """Without a gradient and without dropout, of which an epoch would keep the draw of the first."""
    modes = {module: module.training for module in base.modules()}
    try:
        base.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


__all__ = ["DTYPES", "FRAME_TOKENS", "FrameTokenCache", "FrameTokens", "LookedUp"]
