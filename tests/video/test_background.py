"""Threads that read ahead: in order, within bounds, and gone whatever ends them."""

import os
import shutil
import threading
import time

import numpy as np
import pytest

from transformers_linvt.errors import VideoReadError
from transformers_linvt.video.background import Channel, Workers
from transformers_linvt.video.chunks import in_chunks, start_reading
from transformers_linvt.video.frames import VideoFrames
from transformers_linvt.video.limits import Clock
from transformers_linvt.video.pyav_decoder import PyAVReader
from transformers_linvt.video.reading import read_video
from transformers_linvt.video.table import scan
from zoo import Recipe, encode


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "linvt-reader"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert readers() == []


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("background") / "clip.mp4"
    encode(path, Recipe(ticks=list(range(30))))
    return path


def test_what_waits_stays_within_its_bytes():
    made = []

    def work(channel):
        for number in range(20):
            channel.put(number, num_bytes=4)
            made.append(number)

    with Workers() as workers:
        channel = workers.start(work, max_bytes=10)
        items = iter(channel)
        for taken in range(20):
            assert next(items) == taken
            time.sleep(0.005)
            assert len(made) <= taken + 1 + 2 + 1  # those taken, two that wait, and one whose put just ended
    assert made == list(range(20))


def test_an_error_of_a_worker_comes_behind_what_it_made():
    def work(channel):
        channel.put(1, 1)
        raise VideoReadError("clip.mp4 is broken.")

    with Workers() as workers:
        items = iter(workers.start(work, max_bytes=10))
        assert next(items) == 1
        with pytest.raises(VideoReadError, match=r"clip.mp4 is broken\."):
            next(items)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_reader_ends_the_workers_before_it(error):
    """Two threads in a row, the first waits for room and the second for the first."""

    def endless(channel):
        while True:
            channel.put(np.zeros(4), 4)

    def pass_on(source):
        def work(channel):
            for item in source:
                channel.put(item, 4)

        return work

    with pytest.raises(error), Workers() as workers:
        first = workers.start(endless, max_bytes=8)
        for _ in workers.start(pass_on(first), max_bytes=8):
            raise error
    assert readers() == []


def test_a_worker_that_dies_without_a_word_is_missed(monkeypatch):
    monkeypatch.setattr("transformers_linvt.video.background._LOOK_AGAIN_SECONDS", 0.01)
    channel = Channel(max_bytes=1)
    channel.writer = threading.Thread(target=lambda: None)
    with pytest.raises(VideoReadError, match="ended without a result"):
        next(iter(channel))


def clip(num_frames=11, height=6, width=10):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8)
    return VideoFrames(frames, np.arange(num_frames) * 0.5, "clip", "memory", num_frames / 2, num_frames, 2.0)


def chunks_of(video, sampling=None, **bounds):
    with Workers() as workers:
        *chunks, last = in_chunks(iter(start_reading(workers, video, sampling or {})), **bounds)
    return chunks, last


@pytest.mark.parametrize("kind", ["VideoFrames", "array", "float list"])
def test_frames_in_memory_come_in_pieces(kind):
    video = clip()
    source = {"VideoFrames": video, "array": video.frames, "float list": list(video.frames / 255)}[kind]
    sampling = {} if kind == "VideoFrames" else {"timestamps": video.timestamps}
    chunks, last = chunks_of(source, sampling, max_frames=5, max_bytes=4 * 6 * 10 * 3, multiple=3)
    assert [len(one.frames) for one in chunks] == [3, 3, 3, 2]
    assert [one.start for one in chunks] == [0, 3, 6, 9]
    assert np.array_equal(np.concatenate([one.frames for one in chunks]), video.frames)
    assert all(np.array_equal(one.timestamps, video.timestamps) for one in chunks)
    assert len(last) == 11 and last.frames.shape == (11, 1, 1, 3)


def test_a_frame_larger_than_the_bound_comes_alone():
    chunks, _ = chunks_of(clip(3), max_frames=5, max_bytes=10)
    assert [len(one.frames) for one in chunks] == [1, 1, 1]


def test_a_file_in_pieces_gives_the_frames_of_the_file(clip_file):
    whole = read_video(clip_file, num_frames=13)
    chunks, last = chunks_of(clip_file, {"num_frames": 13}, max_frames=4, max_bytes=1 << 30)
    assert np.array_equal(np.concatenate([one.frames for one in chunks]), whole.frames)
    assert np.array_equal(last.timestamps, whole.timestamps) and last.source == whole.source


def test_time_that_frames_wait_for_their_reader_is_no_reading_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("transformers_linvt.video.limits.time.monotonic", lambda: now[0])
    clock = Clock("clip.mp4", 10.0)
    with clock.paused():
        now[0] += 60.0
    now[0] += 9.0
    clock.check()
    now[0] += 2.0
    with pytest.raises(VideoReadError, match="longer than the limit of 10.0 s"):
        clock.check()
    assert clock.waited == 60.0


def test_a_reader_that_leaves_ends_decoding_between_two_packets(clip_file):
    with Workers() as workers:
        channel = start_reading(workers, clip_file, {"num_frames": 20})
        next(iter(channel))
    assert readers() == []


@pytest.mark.parametrize("change", ["replaced", "appended", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(clip_file, tmp_path, change, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip_file.read_bytes())

    def changed(*arguments):
        table = scan(*arguments)
        if change == "replaced":
            os.replace(shutil.copy(clip_file, tmp_path / "other.mp4"), path)
        elif change == "appended":
            with path.open("ab") as file:
                file.write(bytes(9))
        else:
            path.unlink()
        return table

    monkeypatch.setattr("transformers_linvt.video.reading.scan", changed)
    for read in (read_video, lambda video, num_frames: chunks_of(video, {"num_frames": 3}, max_frames=9, max_bytes=9)):
        path.write_bytes(clip_file.read_bytes())
        with pytest.raises(VideoReadError, match="clip.mp4 was changed, replaced or removed while it was read"):
            read(path, num_frames=3)


def test_damage_that_is_found_late_begins_the_video_again(clip_file, monkeypatch):
    """Seeking gives frames and then fails: those are void, and the file is read from its start."""
    whole = read_video(clip_file, num_frames=9)

    def fails(self, wanted, album):
        self.from_start(dict(list(wanted.items())[:4]), album)
        return False

    monkeypatch.setattr(PyAVReader, "by_seeking", fails)
    chunks, _ = chunks_of(clip_file, {"num_frames": 9}, max_frames=3, max_bytes=1 << 30)
    starts = [one.start for one in chunks]
    assert starts == [0, 0, 3, 6]
    assert np.array_equal(np.concatenate([one.frames for one in chunks[1:]]), whole.frames)
