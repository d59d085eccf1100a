"""One video through the vision tower and SVR, piece by piece while further pieces are read."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import LinVTInputError, VideoReadError
from ..tokenizer.stream import VideoRefiner
from ..video.background import Workers
from ..video.frames import VideoFrames
from ..video.limits import VideoLimits
from ..video.progress import report
from .features import FeatureOrigin, VideoFeatures
from .origin import VideoDigest, digest_of_model
from .repeated_frames import IS_NEW, FrameRepeater, take_is_new


class VideoEncoding:
    """
    A video on its way through the vision tower and SVR. To be used in a `with` block, which frees what it holds.

    Args:
        model ([`LinVTForVideoQA`]): the model.
        num_frames (`int`): frames of the video (steps of time, with `frame_path="video"`).
        timestamps (`torch.Tensor` of shape `(num_frames,)`, *optional*): their times in seconds.
        most_frames (`int`, *optional*): most that the caller allows, where that is more than the model's `max_frames`;
            None for any number.
        digest ([`VideoDigest`], *optional*): of its frames, where somebody else feeds it.

    Raises:
        LinVTInputError: too many frames.
    """

    def __init__(
        self,
        model: Any,
        num_frames: int,
        timestamps: torch.Tensor | None = None,
        most_frames: int | None = 0,
        digest: VideoDigest | None = None,
    ) -> None:
        model.model.check_num_frames(num_frames, most_frames)
        if timestamps is not None and len(timestamps) != num_frames:
            raise LinVTInputError(
                f"video_timestamps has {len(timestamps)} entries, the video has {num_frames} frames."
            )
        self.model, self.timestamps = model, timestamps
        self.digest, self.feeds_digest = digest or VideoDigest(timestamps), digest is None
        self.refiner = VideoRefiner(model.linvt, num_frames if timestamps is None else timestamps)
        self.repeater, self.is_new = FrameRepeater(), torch.ones(num_frames, dtype=torch.bool)
        self.container, self.grid_size = "tensor", (1, 1)
        self.num_done, self.num_frames = 0, num_frames

    def __enter__(self) -> "VideoEncoding":
        return self

    def __exit__(self, *exception: object) -> None:
        self.refiner.__exit__(*exception)

    def feed(self, inputs: Mapping[str, Any], num_frames: int) -> None:
        """
        The next frames.

        Args:
            inputs: what the image processor made of those that are new, under the base's names; with `is_new`, if
                some repeat the one before.
            num_frames: how many they are.
        """
        if self.feeds_digest:
            self.digest.feed(inputs)
        inputs, (is_new,) = take_is_new(inputs, [num_frames])
        self.is_new[self.num_done : self.num_done + num_frames] = is_new
        model = self.model.model
        device, dtype = self.model.working_device, self.model.dtype
        moved = {name: torch.as_tensor(value) for name, value in inputs.items()}
        moved = {name: one.to(device, dtype if one.is_floating_point() else None) for name, one in moved.items()}
        encoded, count = None, int(is_new.sum())
        if count:
            encoded = model.bridge.encode_frames(model.base_vlm, moved, count, model.config.frames_per_chunk)
        encoded = self.repeater.fill(encoded, is_new)
        self.refiner.feed(encoded.tokens, encoded.deepstack, encoded.grid_size)
        self.container, self.grid_size = encoded.container, encoded.grid_size
        self.num_done += num_frames
        report("encode", self.num_done, self.num_frames)

    def finish(self) -> VideoFeatures:
        """The encoded video."""
        refined, deepstack = self.refiner.finish()
        return VideoFeatures(
            refined=refined,
            deepstack=deepstack,
            container=self.container,
            timestamps=self.timestamps,
            grid_size=self.grid_size,
            is_new=None if bool(self.is_new.all()) else self.is_new,
            origin=FeatureOrigin(digest_of_model(self.model.model), self.digest.hexdigest()),
        )


def encode_while_reading(
    model: Any, processor: Any, video: Any, sampling: Mapping[str, Any]
) -> tuple[VideoFeatures, VideoFrames]:
    """
    Read, prepare and encode a video at the same time, each in a thread of its own.

    Args:
        model ([`LinVTForVideoQA`]): the model.
        processor ([`LinVTProcessor`]): the processor.
        video, sampling: as of [`LinVTProcessor.read_video`].

    Returns:
        The encoded video, and what was read of it, without the pixels.

    Raises:
        VideoReadError: the video cannot be read.
        LinVTInputError: the frames do not fit the model.
    """
    limits, most = sampling.get("limits"), 0
    encoding: VideoEncoding | None = None
    if isinstance(limits, VideoLimits) and limits.max_frames != VideoLimits.max_frames:
        most = limits.max_frames
    with Workers() as workers:
        try:
            for item in processor.prepare_ahead(workers, video, model.config.frames_per_chunk, sampling):
                if isinstance(item, VideoFrames):
                    if encoding is None:
                        break
                    return encoding.finish(), item
                if encoding is None or item.start == 0:  # damage makes all that came before void
                    if encoding is not None:
                        encoding.__exit__(None, None, None)
                    encoding = VideoEncoding(model, len(item.timestamps), item.timestamps, most, item.digest)
                encoding.feed({**item.inputs, IS_NEW: item.is_new}, item.num_frames)
        finally:
            if encoding is not None:
                encoding.__exit__(None, None, None)
    raise VideoReadError("The video ended without a word. Read it again.")


def encode_prepared(
    model: Any, inputs: Mapping[str, Any], counts: Sequence[int], timestamps: torch.Tensor | None
) -> VideoFeatures:
    """A video whose frames were all prepared."""
    with VideoEncoding(model, counts[0], timestamps) as encoding:
        encoding.feed(inputs, counts[0])
        return encoding.finish()


__all__ = ["VideoEncoding", "encode_prepared", "encode_while_reading"]
