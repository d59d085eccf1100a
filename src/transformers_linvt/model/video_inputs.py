"""Videos -> sampled frames -> what the base's image processor makes of them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils import logging

from ..bases.layouts import FRAME_PREFIX
from ..errors import LinVTInputError, in_our_words, shown, unknown_argument
from ..video.background import Channel, Workers
from ..video.chunks import in_chunks, start_reading
from ..video.duplicates import DuplicateFinder, frames_of_steps, levels_of
from ..video.frames import VideoFrames
from ..video.limits import VideoLimits, one_request
from ..video.reading import read_video
from ..video.record import UnseenFrames
from .base_parts import HasBaseProcessor
from .frame_sources import as_read_video_takes_it
from .messages import SAMPLING_ARGUMENTS, resolved
from .origin import VideoDigest
from .repeated_frames import IS_NEW


logger = logging.get_logger(__name__)

_SIZES = {"size", "min_pixels", "max_pixels"}  # options of an image processor that say how large pictures are made


CHUNK_BYTES = 16 << 20  # decoded frames that are prepared, and then encoded, at once: 6 of 720p


@dataclass
class PreparedFrames:
    """
    Some frames of a video as the base's vision tower takes them.

    Attributes:
        inputs (`dict`): what the image processor made of those that are new, under the base's names.
        num_frames (`int`): how many they are (steps of time, with `frame_path="video"`).
        is_new (`torch.BoolTensor` of shape `(num_frames,)`): False where one repeats the one before, see
            `skip_duplicate_frames`.
        start (`int`): place of the first among all; 0 twice where all that came before is void.
        timestamps (`torch.Tensor`): seconds of all frames of the video.
        digest ([`VideoDigest`]): of all frames that were prepared so far, complete when the last was.
    """

    inputs: dict[str, torch.Tensor]
    num_frames: int
    is_new: torch.Tensor
    start: int
    timestamps: torch.Tensor
    digest: VideoDigest


class ReadsVideos(HasBaseProcessor):
    """What [`LinVTProcessor`] does with videos."""

    def read_video(self, video: Any, video_root: str | os.PathLike | None = None, **sampling: Any) -> VideoFrames:
        """
        Sampled frames of one video.

        Args:
            video: a path, bytes, frames in memory (array, tensor, list of pictures), a list of the files of its
                frames, a `datasets` video, a URL with `allow_urls=True`, or [`VideoFrames`], which come back as they
                are, whatever the sampling.
            video_root (*optional*): folder that a relative path starts from, instead of the current one.
            sampling: `num_frames` or `fps` (with `max_frames`), `start`, `end`, `video_backend`, `limits`,
                `allow_urls`, `timestamps` (seconds of each given frame, for frames in memory); see [`read_video`].
                With neither `num_frames` nor `fps` the processor's own `num_frames`, at most `max_frames`. Also what
                transformers has for frames that somebody else has read: `video_metadata` (their `fps` and
                `frames_indices`) in place of `timestamps`, and `do_sample_frames=False` for all frames as they are.

        Raises:
            LinVTInputError: an unknown argument.
            VideoReadError: see [`read_video`].
        """
        video, sampling = self._as_read_video_takes_it(video, video_root, sampling)
        return video if isinstance(video, VideoFrames) else read_video(video, **sampling)

    def _as_read_video_takes_it(
        self, video: Any, video_root: str | os.PathLike | None, given: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """A video and its sampling for [`read_video`], with the processor's own number of frames if none is given."""
        for name in given:
            if name not in SAMPLING_ARGUMENTS:
                raise LinVTInputError(unknown_argument(name, SAMPLING_ARGUMENTS))
        if isinstance(video, VideoFrames):
            _check_frames(video)
            return video, {}
        sampling = {name: value for name, value in given.items() if value is not None}
        video, sampling, is_sampled = as_read_video_takes_it(resolved(video, video_root), sampling)
        if is_sampled and "num_frames" not in sampling and "fps" not in sampling:
            most = sampling.get("max_frames")
            sampling["num_frames"] = min(self.num_frames, most) if isinstance(most, int) else self.num_frames
        return video, sampling

    def prepare_ahead(
        self, workers: Workers, video: Any, frames_per_chunk: int, sampling: Mapping[str, Any]
    ) -> Channel:
        """
        Read and prepare a video in threads, a few frames ahead of whoever takes them.

        Args:
            workers: ends the threads.
            video, sampling: as in [`read_video`](LinVTProcessor.read_video).
            frames_per_chunk: most frames (steps of time, with `frame_path="video"`) of a piece; large frames come in
                smaller pieces.

        Returns:
            [`Channel`] of [`PreparedFrames`], and at last the [`VideoFrames`] without their pixels.
        """
        frames = start_reading(workers, *self._as_read_video_takes_it(video, None, sampling))
        step = self.frames_per_step

        def prepare(channel: Channel) -> None:
            digest, finder = VideoDigest(None), self.duplicate_finder()
            for chunk in in_chunks(iter(frames), frames_per_chunk * step, CHUNK_BYTES, step):
                if isinstance(chunk, VideoFrames):
                    self._tell_of_duplicates(finder, chunk.source)
                    channel.put(chunk, 0)
                    return
                times = torch.as_tensor(self.times_of_steps(chunk.timestamps)).float()
                if chunk.start == 0:
                    digest, finder = VideoDigest(times), self.duplicate_finder()
                options = self.frame_options(len(chunk.timestamps))
                inputs, is_new = self._prepare_new(finder, chunk.frames, chunk.source, options)
                digest.feed({**inputs, IS_NEW: is_new})  # here, beside the model: it looks at every byte
                prepared = PreparedFrames(inputs, len(is_new), is_new, chunk.start // step, times, digest)
                num_bytes = sum(value.numel() * value.element_size() for value in inputs.values())
                channel.put(prepared, max(num_bytes, CHUNK_BYTES // 2))  # two wait at most, however small they are

        return workers.start(prepare, CHUNK_BYTES)

    def prepare_frames(self, frames: np.ndarray, source: str, options: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What the model takes of the image processor's output for frames of one video, under the base's names."""
        refused = f"The base's image processor refused the frames of {shown(source)}"
        steps = {} if self.frames_per_step == 1 else {"merges_steps": True}
        made = in_our_words(refused, self.bridge.frame_inputs, self.base_processor, list(frames), options, **steps)
        return {name: torch.as_tensor(made[name]) for name in made if name in self._frame_input_names}

    def duplicate_finder(self) -> DuplicateFinder:
        """Finds what `skip_duplicate_frames` says in the frames of one video."""
        return DuplicateFinder(levels_of(self.skip_duplicate_frames))

    def _prepare_new(
        self, finder: DuplicateFinder, frames: np.ndarray, source: str, options: Mapping[str, Any]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The new ones among the next frames of a video, as the model takes them, and which frames they are."""
        is_new = finder.find(frames, self.frames_per_step)
        new = frames_of_steps(frames, is_new, self.frames_per_step)
        return self.prepare_frames(new, source, options) if len(new) else {}, torch.from_numpy(is_new)

    def _tell_of_duplicates(self, finder: DuplicateFinder, source: str) -> None:
        if finder.num_new < finder.num_seen:
            unit = "frames" if self.frames_per_step == 1 else "steps of time"
            logger.info(
                f"{shown(source)}: {finder.num_seen - finder.num_new} of {finder.num_seen} {unit} repeat the one "
                f"before and are not encoded again; they differ by {finder.largest:.2f} levels of 255 at most "
                f"(skip_duplicate_frames={self.skip_duplicate_frames})."
            )

    def _read_together(self, videos: Sequence[Any], sampling: Sequence[Mapping[str, Any]]) -> list[VideoFrames]:
        """The videos of one request, each with its own sampling; they share the limits of a request."""
        with one_request():
            return [self.read_video(video, **own) for video, own in zip(videos, sampling, strict=True)]

    def video_inputs(
        self,
        video: Any,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_frames: int | None = None,
        video_backend: str | None = None,
        limits: VideoLimits | None = None,
        allow_urls: bool | None = None,
        timestamps: Sequence[float] | None = None,
        do_sample_frames: bool | None = None,
        video_metadata: Any = None,
    ) -> BatchFeature:
        """
        One video as [`LinVTForVideoQA.encode_video`] takes it.

        Args:
            video, num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls, timestamps,
                do_sample_frames, video_metadata: as in [`read_video`](LinVTProcessor.read_video).

        Returns:
            `BatchFeature` with the frames under the base's names with the prefix `frame_`, `frames_per_video` of shape
            `(1,)` and `video_timestamps` of shape `(num_frames,)` in seconds. Where frames repeat the one before
            them (`skip_duplicate_frames`), `frame_is_new` of shape `(num_frames,)` says which do not, and only those
            are there.
        """
        given = locals()
        named = {name: given[name] for name in SAMPLING_ARGUMENTS}
        return BatchFeature(self.frame_inputs([self.read_video(video, **named)]))

    def frame_inputs(self, videos: Sequence[VideoFrames], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Model inputs of the frames of several videos, one video after the other along the first axis.

        Every video goes through the image processor alone: frames of one call may have to share a size. Indices that
        an image processor counts over one call (Molmo2's pooling) therefore count from the first frame of their video.
        Of [`UnseenFrames`] only number and times become inputs.
        """
        if not videos:
            return {}
        each, is_new = [], []
        for video in videos:
            if not isinstance(video, UnseenFrames):
                finder, own = self.duplicate_finder(), self.frame_options(len(video.frames), options)
                prepared, new = self._prepare_new(finder, video.frames, video.source, own)
                each.append(prepared)
                is_new.append(new)
                self._tell_of_duplicates(finder, video.source)
        steps = [self.steps_of(video) for video in videos]
        names = each[0] if each else ()
        data = {FRAME_PREFIX + name: _concatenate([one[name] for one in each]) for name in names}
        if not all(bool(one.all()) for one in is_new):
            data[FRAME_PREFIX + IS_NEW] = torch.cat(is_new)
        data["frames_per_video"] = torch.tensor([len(video.frames) for video in steps])
        data["video_timestamps"] = torch.cat([torch.as_tensor(video.timestamps).float() for video in steps])
        return data

    def frame_options(self, num_frames: int, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Options of the image processor for the frames of one video; a size that the caller gives is the frames'."""
        given = dict(options or {})
        if given.keys() & _SIZES:
            return given
        limits = (self.max_frame_tokens, self.max_total_frame_tokens, self.frames_per_step)
        return {**self.bridge.frame_size(self.base_processor, num_frames, *limits), **given}

    def steps_of(self, video: VideoFrames) -> VideoFrames:
        """
        What the model sees as the frames of a video: the frames, or with `frame_path="video"` its steps of time.

        A step is shown by its first frame; its time is the middle between its first and its last frame, as Qwen3-VL
        counts it. The last frame is repeated to fill the last step.
        """
        size = self.frames_per_step
        if size == 1:
            return video
        return replace(video, frames=video.frames[::size], timestamps=self.times_of_steps(video.timestamps))

    def times_of_steps(self, timestamps: np.ndarray) -> np.ndarray:
        """The times of what [`steps_of`] makes of frames shown at `timestamps`."""
        size = self.frames_per_step
        times = np.append(timestamps, [timestamps[-1]] * (-len(timestamps) % size)).reshape(-1, size)
        return (times[:, 0] + times[:, -1]) / 2

    @cached_property
    def _frame_input_names(self) -> frozenset[str]:
        """What the model takes of the image processor's output; some of it only serves to write the prompt."""
        return self.bridge.frame_input_names(self.base_processor)


def _check_frames(video: VideoFrames) -> None:
    frames, times = np.asarray(video.frames), np.asarray(video.timestamps)
    if (
        frames.ndim != 4
        or frames.shape[-1] != 3
        or not frames.size
        or frames.dtype != np.uint8
        or len(times) != len(frames)
    ):
        raise LinVTInputError(
            f"VideoFrames has frames of shape {frames.shape} and type {frames.dtype} with {len(times)} timestamps; it "
            "needs (num_frames, height, width, 3), uint8, and a time for each. Use read_video to make it."
        )


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the first axis; smaller ones are padded with zeros at the end, as image processors pad a batch."""
    if len(tensors) == 1:
        return tensors[0]
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        pad = [
            amount for have, want in zip(tensor.shape[:0:-1], shape[::-1], strict=True) for amount in (0, want - have)
        ]
        padded.append(torch.nn.functional.pad(tensor, pad) if any(pad) else tensor)
    return torch.cat(padded)
