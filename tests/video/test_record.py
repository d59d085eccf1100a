"""Proves that a video without its pixels still says all that was known of it."""

from dataclasses import fields

import numpy as np

from transformers_linvt.video.frames import VideoFrames
from transformers_linvt.video.record import UnseenFrames, record_of


def test_all_but_the_pixels_and_the_name_comes_back():
    video = VideoFrames(
        np.zeros((3, 2, 5, 3), dtype=np.uint8), np.array([0.25, 0.5, 4.0]), "clip.mp4", "pyav",
        7.5, 60, 8.0, 2, 4, 1, False,
    )  # fmt: skip
    again = UnseenFrames.from_record(record_of(video), "other.mp4")
    assert (len(again), again.source) == (3, "other.mp4")
    for field in fields(VideoFrames):
        if field.name not in ("frames", "source"):
            assert np.array_equal(getattr(again, field.name), getattr(video, field.name)), field.name


def test_a_record_of_an_older_version_is_read():
    again = UnseenFrames.from_record(
        '{"video_backend": "pyav", "duration": 1.0, "total_frames": 8, "average_fps": 8.0, "timestamps": [0.0]}'
    )
    assert (again.num_broken_packets, again.is_intact) == (0, None)
