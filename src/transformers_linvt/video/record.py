"""A video without its pixels: what is known of it where its frames were encoded before."""

import json
from dataclasses import dataclass

import numpy as np

from .frames import VideoFrames, no_pixels


_NOT_TOLD = ("frames", "timestamps", "source")


@dataclass
class UnseenFrames(VideoFrames):
    """[`VideoFrames`] whose number and times are known, and whose pixels are not: `frames` are black, 1 x 1."""

    @classmethod
    def of(cls, video: VideoFrames) -> "UnseenFrames":
        """The same video without its pixels."""
        return cls(**{**vars(video), "frames": no_pixels(len(video.frames))})

    @classmethod
    def from_record(cls, text: str, source: str = "<encoded video>") -> "UnseenFrames":
        """
        The video of a [`record_of`].

        Raises:
            KeyError, TypeError, ValueError: a text that [`record_of`] did not write.
        """
        told = json.loads(text)
        times = np.asarray(told.pop("timestamps"), dtype=np.float64)
        return cls(no_pixels(len(times)), times, source=source, **told)


def record_of(video: VideoFrames) -> str:
    """
    All but pixels and name of a video, as text.

    >>> video = VideoFrames(no_pixels(2), np.array([0.0, 0.5]), "clip.mp4", "pyav", 1.0, 8, 8.0)
    >>> UnseenFrames.from_record(record_of(video)).timestamps.tolist()
    [0.0, 0.5]
    """
    told = {name: value for name, value in vars(video).items() if name not in _NOT_TOLD}
    return json.dumps(told | {"timestamps": [float(time) for time in video.timestamps]})


__all__ = ["UnseenFrames", "record_of"]
