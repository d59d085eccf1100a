"""
What other packages give a video as, in the terms of `read_video`: files of single frames, `video_metadata`, frames
that somebody else has sampled.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import LinVTInputError, shown
from ..video.limits import VideoLimits, as_number
from ..video.media_address import is_data_url
from ..video.memory import is_frames
from .messages import check_keys
from .pictures import read_picture


# transformers' VideoMetadata; vLLM adds the last
_METADATA = (
    "total_num_frames",
    "fps",
    "width",
    "height",
    "duration",
    "video_backend",
    "frames_indices",
    "do_sample_frames",
)
_ALL_THERE_ARE = 1 << 31  # frames; `limits` says how many may be returned
# vLLM's form of frames in one address: JPEGs as base64 with commas between them
_FRAMES_ADDRESS = re.compile(r"data:video/jpe?g;base64,", re.IGNORECASE)


def as_read_video_takes_it(video: Any, sampling: Mapping[str, Any]) -> tuple[Any, dict[str, Any], bool]:
    """
    A video and its sampling in the terms of [`read_video`].

    - a list of paths or addresses is one video, a picture per frame; so is `data:video/jpeg;base64,<1>,<2>,...`;
    - `video_metadata` gives the times of frames in memory;
    - `do_sample_frames=False` takes all frames: those that were given, or those of the file.

    Args:
        video: what a caller gave.
        sampling: the arguments of the call that are not None.

    Returns:
        The video, the sampling without `video_metadata` and `do_sample_frames`, and whether frames are sampled at all.

    Raises:
        LinVTInputError: these contradict each other, or a frame cannot be read.
    """
    sampling = dict(sampling)
    metadata, is_sampled = sampling.pop("video_metadata", None), sampling.pop("do_sample_frames", True)
    if not isinstance(is_sampled, bool):
        raise LinVTInputError(f"do_sample_frames={shown(is_sampled)}: give True or False.")
    if isinstance(video, str) and _FRAMES_ADDRESS.match(video[:40]):
        video = [f"data:image/jpeg;base64,{one}" for one in video.partition(",")[2].split(",")]
    if is_list_of_names(video):
        video = _read_frames(video, sampling)
    if metadata is not None:
        sampling["timestamps"] = _times_of(metadata, video, sampling)
    if is_sampled:
        return video, sampling, True
    if "num_frames" in sampling or ("fps" in sampling and not is_frames(video)):
        name = "num_frames" if "num_frames" in sampling else "fps"
        raise LinVTInputError(
            f"do_sample_frames=False takes all frames, and {name}={shown(sampling[name])} asks for some. Leave one "
            "out."
        )
    if not is_frames(video):
        sampling["num_frames"] = sampling.pop("max_frames", None) or _ALL_THERE_ARE
    return video, sampling, False


def is_list_of_names(video: Any) -> bool:
    """Whether a list names the files of single frames."""
    return (
        isinstance(video, list | tuple) and len(video) > 0 and all(isinstance(one, str | os.PathLike) for one in video)
    )


def _read_frames(names: Sequence[Any], sampling: Mapping[str, Any]) -> list[Any]:
    limits = sampling.get("limits") or VideoLimits()
    if isinstance(limits, VideoLimits) and limits.max_frames is not None and len(names) > limits.max_frames:
        raise LinVTInputError(
            f"{len(names)} files of frames are over the limit of {limits.max_frames} frames. Give every "
            f"{-(-len(names) // limits.max_frames)}th of them, or limits=VideoLimits(max_frames={len(names)})."
        )
    return [read_picture(name, sampling) for name in names]


def _times_of(metadata: Any, video: Any, sampling: Mapping[str, Any]) -> list[float]:
    """Seconds of each frame in memory, as `VideoMetadata.timestamps` counts them."""
    if isinstance(metadata, list | tuple) and len(metadata) == 1:
        (metadata,) = metadata
    if not isinstance(metadata, Mapping):
        raise LinVTInputError(
            f"video_metadata is {shown(metadata)}. Give a VideoMetadata of transformers, or a dictionary with 'fps' "
            "and 'frames_indices'."
        )
    check_keys(metadata, _METADATA, "video_metadata")
    if "timestamps" in sampling:
        raise LinVTInputError(
            "timestamps and video_metadata were both given; both say when frames are. Leave one out."
        )
    if not is_frames(video):
        name = f"the address {shown(video)}" if isinstance(video, str) and is_data_url(video) else shown(video)
        raise LinVTInputError(
            f"video_metadata was given together with {name}. A file brings its own times; leave it out, or hand over "
            "decoded frames."
        )
    count, indices, total = len(video), metadata.get("frames_indices"), metadata.get("total_num_frames")
    rate, duration = as_number(metadata.get("fps")), as_number(metadata.get("duration"))
    if rate is None and duration and (number := as_number(total)):
        rate = number / duration
    if rate is None or not 0 < rate < float("inf"):
        raise LinVTInputError(
            f"video_metadata has fps={shown(metadata.get('fps'))}, from which no times follow. Give the rate of the "
            "file that the frames are from."
        )
    indices = list(range(count)) if indices is None and total in (None, count) else indices
    if indices is None:
        raise LinVTInputError(
            f"video_metadata says total_num_frames={shown(total)} and {count} frames were given. Say in "
            "'frames_indices' which they are."
        )
    places = [place for index in indices if (place := as_number(index)) is not None]
    if len(indices) != count or len(places) != count:
        raise LinVTInputError(
            f"video_metadata has {len(indices)} frames_indices for {count} frames. Give the number of each frame in "
            "its file."
        )
    return [place / rate for place in places]


__all__ = ["as_read_video_takes_it", "is_list_of_names"]
