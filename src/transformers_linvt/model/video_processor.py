"""`processor.video_processor`, where packages around transformers look for what prepares videos."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData
from transformers.video_utils import VideoMetadata

from ..errors import LinVTInputError
from ..video.frames import VideoFrames
from .arguments import nested_videos
from .base_parts import HasBaseProcessor
from .prompt import VIDEO_TOKEN


class LinVTVideoProcessor:
    """
    The part of a [`LinVTProcessor`] that makes frames of videos and inputs of frames, under the names of transformers.

    Not a `BaseVideoProcessor`: those need torchvision, and resize by themselves what here the base's own image
    processor prepares.

    Args:
        processor ([`LinVTProcessor`]): whose settings count.

    Example (the embedded model):

    >>> import numpy as np
    >>> from transformers_linvt import LinVTProcessor, embedded_model_path
    >>> processor = LinVTProcessor.from_pretrained(embedded_model_path())
    >>> clip = np.zeros((5, 32, 48, 3), dtype=np.uint8)
    >>> processor.video_processor(clip, fps=2)["video_timestamps"].tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @property
    def num_frames(self) -> int:
        """Frames sampled where a call says nothing."""
        return self.processor.num_frames

    @property
    def model_input_names(self) -> list[str]:
        """Names of what a call returns."""
        names = self.processor.model_input_names
        return [name for name in names if name.startswith("frame") or name == "video_timestamps"]

    def fetch_videos(self, videos: Any, **sampling: Any) -> tuple[Any, Any]:
        """
        Frames and their [`VideoMetadata`], of one video or of a list of them.

        Args:
            videos: see [`read_video`](LinVTProcessor.read_video).
            sampling: see there.
        """
        rows = nested_videos(videos)
        read = [self.processor.read_video(one, **sampling) for row in rows for one in row]
        pairs = [(video.frames, metadata_of(video)) for video in read]
        if rows == [[videos]]:
            return pairs[0]
        return [frames for frames, _ in pairs], [metadata for _, metadata in pairs]

    def __call__(
        self, videos: Any, return_metadata: bool = False, return_tensors: str | None = "pt", **sampling: Any
    ) -> BatchFeature:
        """
        Videos as the model takes them beside a prompt.

        Args:
            videos: one, or a list of them.
            return_metadata: add `video_metadata`, a list with one [`VideoMetadata`] per video.
            return_tensors: `"pt"`, the only kind there is.
            sampling: see [`read_video`](LinVTProcessor.read_video).

        Raises:
            LinVTInputError: tensors of another kind, or an unknown argument.
            VideoReadError: a video could not be read.
        """
        if return_tensors != "pt":
            raise LinVTInputError(f"return_tensors={return_tensors!r}: frames are tensors of torch; leave it out.")
        read = [self.processor.read_video(one, **sampling) for row in nested_videos(videos) for one in row]
        made = self.processor.frame_inputs(read)
        if return_metadata:
            made["video_metadata"] = [metadata_of(video) for video in read]
        return BatchFeature(made)

    def to_dict(self) -> dict[str, Any]:
        """Its settings."""
        return {"video_processor_type": type(self).__name__, "num_frames": self.num_frames}


def metadata_of(video: VideoFrames) -> VideoMetadata:
    """What transformers tells of a video that was read; the numbers of its frames follow from their times."""
    rate = video.average_fps or None
    return VideoMetadata(
        total_num_frames=video.total_frames,
        fps=rate,
        width=video.frames.shape[2],
        height=video.frames.shape[1],
        duration=video.duration,
        video_backend=video.video_backend,
        frames_indices=None if rate is None else np.rint(np.asarray(video.timestamps) * rate).astype(int).tolist(),
    )


class HasConventionalNames(HasBaseProcessor):
    """Names by which packages around transformers ask a processor, whatever its base calls them."""

    num_places: Any  # of WritesTimes

    @property
    def image_token(self) -> str:
        """The base's placeholder of a picture, which video tokens stand on as well."""
        return self.markers.token

    @property
    def image_token_id(self) -> int:
        """Its id."""
        return self.markers.token_id

    @property
    def video_token(self) -> str:
        """What stands for a video in a rendered prompt; `num_video_tokens` image tokens take its place."""
        return VIDEO_TOKEN

    @property
    def video_token_id(self) -> int:
        """The id at which video tokens stand: that of the base's image token."""
        return self.markers.token_id

    @property
    def video_processor(self) -> LinVTVideoProcessor:
        """What prepares videos."""
        return LinVTVideoProcessor(self)

    def get_vocab(self) -> dict[str, int]:
        """The tokenizer's vocabulary; `generate(stop_strings=..., tokenizer=processor)` asks for it."""
        return self.tokenizer.get_vocab()

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def post_process_image_text_to_text(self, generated_outputs: Any, **kwargs: Any) -> list[str]:
        """The base's own clean-up of generated text."""
        return self.base_processor.post_process_image_text_to_text(generated_outputs, **kwargs)

    def _get_num_multimodal_tokens(
        self,
        image_sizes: Sequence[Sequence[int]] | None = None,
        video_sizes: Sequence[Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Tokens of pictures and videos in the prompt, which serving engines reserve room by.

        Args:
            image_sizes: height and width of each picture; counted by the base.
            video_sizes: frames, height and width of each video: always `num_video_tokens`.
        """
        count = getattr(self.base_processor, "_get_num_multimodal_tokens", None)
        if count is None and image_sizes is not None:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} does not say how many tokens a picture takes. Ask for videos "
                "alone."
            )
        counted = MultiModalData() if count is None else count(image_sizes=image_sizes, **kwargs)
        if video_sizes is not None:
            counted.num_video_tokens = [self.num_places(self.add_timestamps)] * len(video_sizes)
        return counted


__all__ = ["HasConventionalNames", "LinVTVideoProcessor", "metadata_of"]
