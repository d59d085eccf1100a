"""Frames that repeat the one before them: which are found, and how far what is skipped may be from what is shown."""

import io

import av
import numpy as np
import pytest

from promises import check_refused
from transformers_linvt import LinVTInputError, read_video
from transformers_linvt.demo.shapes import make_clip
from transformers_linvt.video.duplicates import SQUARE, DuplicateFinder, frames_of_steps, levels_apart, levels_of


def picture(seed: int = 0, height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)


def of_h264(frames: np.ndarray, crf: int) -> np.ndarray:
    """The frames as a codec gives them back."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": str(crf), "g": "5"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return read_video(file.getvalue(), num_frames=len(frames)).frames


def test_one_pixel_by_one_level_is_another_frame():
    frames = np.stack([picture()] * 4)
    frames[2, 49, 69, 1] += 1  # the last row, which is not among those that are looked at first
    assert DuplicateFinder(0.0).find(frames).tolist() == [True, False, True, True]
    assert DuplicateFinder(None).find(frames).tolist() == [True] * 4


def test_what_is_found_does_not_depend_on_the_pieces():
    frames = np.stack([picture(seed) for seed in (0, 0, 1, 1, 1, 0, 2, 2)])
    whole, pieces = DuplicateFinder(0.0), DuplicateFinder(0.0)
    found = whole.find(frames)
    assert found.tolist() == [True, False, True, False, False, True, True, False]
    assert [new for start in range(0, 8, 3) for new in pieces.find(frames[start : start + 3])] == found.tolist()
    assert (pieces.num_seen, pieces.num_new) == (whole.num_seen, whole.num_new) == (8, 4)


def test_a_slow_change_does_not_add_up():
    """Every frame is one level from the one before; what is skipped is at most two from what stands for it."""
    frames = np.stack([picture() + level for level in range(9)])
    finder = DuplicateFinder(2.0)
    assert finder.find(frames).tolist() == [True, False, False] * 3
    assert finder.largest == 2.0


@pytest.mark.parametrize("place", [(0, 0), (18, 35), (46, 66)])  # the last in a square that is cut off by both edges
def test_something_small_is_seen_wherever_it_is(place: tuple[int, int]):
    frames = np.stack([picture()] * 2)
    row, column = place
    frames[1, row : row + 4, column : column + 4] = 255
    assert levels_apart(*frames) > 3.0
    assert DuplicateFinder(3.0).find(frames).tolist() == [True, True]


def test_the_distance_is_the_mean_of_the_square_that_differs_most():
    frames = np.zeros((2, 40, 36, 3), np.uint8)
    frames[1, :SQUARE, :SQUARE, 0] = 30  # one colour of three
    frames[1, 32:, 32:] = 8  # the corner, 8 x 4 pixels
    assert levels_apart(*frames) == 10.0
    assert levels_apart(*frames[::-1]) == 10.0


def test_steps_of_time_repeat_as_a_whole():
    seeds = (0, 1, 0, 1, 1, 0, 2, 2, 2)
    frames = np.stack([picture(seed) for seed in seeds])
    finder = DuplicateFinder(0.0)
    found = finder.find(frames, 2)
    assert found.tolist() == [True, False, True, True, False]  # the last is filled up with its only frame
    assert np.array_equal(frames_of_steps(frames, found, 2), frames[[0, 1, 4, 5, 6, 7]])


@pytest.mark.parametrize("crf", [18, 28, 35])
def test_a_codecs_noise_is_skipped_and_what_appears_is_not(crf: int):
    still = np.repeat(make_clip("static", seed=3, num_frames=1)[0].repeat(2, axis=1).repeat(2, axis=2), 20, axis=0)
    still[11, 60:84, 80:104] = (250, 240, 20)
    frames = of_h264(still, crf)
    finder = DuplicateFinder(2.0)
    found = finder.find(frames)
    assert found[[0, 11, 12]].all() and found.sum() < 8
    kept = np.maximum.accumulate(np.where(found, np.arange(len(found)), 0))
    assert max(levels_apart(frames[i], frames[kept[i]]) for i in range(len(frames))) == finder.largest <= 2.0


def test_settings_that_say_nothing_are_refused():
    assert (levels_of(True), levels_of(False), levels_of(2), levels_of(0.5)) == (0.0, None, 2.0, 0.5)
    for given in (-1, 256, "yes", None, float("nan")):
        check_refused(lambda given=given: levels_of(given), LinVTInputError, "skip_duplicate_frames", "True", "2.0")
