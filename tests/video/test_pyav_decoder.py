"""
The reader's decisions, one by one, on frames that are made up: which it takes, at which it stops, at which it gives up
seeking and decodes from the start. Whole files are read in test_zoo.py and test_damage.py.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import av
import pytest

from transformers_linvt.video import pyav_decoder
from transformers_linvt.video.frames import Request
from transformers_linvt.video.limits import Clock, VideoLimits
from transformers_linvt.video.pyav_decoder import PyAVReader
from transformers_linvt.video.table import MAX_REORDERED, FrameTable


KINDS = {name: getattr(av.video.frame.PictureType, name) for name in "IPB"}
COUNT = 60


def frame(pts: int | None, kind: str = "P", key: bool | None = None) -> SimpleNamespace:
    is_key = kind == "I" if key is None else key
    return SimpleNamespace(pts=pts, pict_type=KINDS[kind], key_frame=is_key, is_corrupt=False)


class Reader(PyAVReader):
    """Reads frames that are given, and counts how many of them it asked for."""

    def __init__(self, keys: list[int], can_seek: bool = True, **more: Any) -> None:
        pts = list(range(COUNT))
        table = FrameTable(pts, pts, [(one, one) for one in keys], 0.04, 2.4, can_seek=can_seek, **more)
        request = Request(None, None, None, None, None, VideoLimits())
        super().__init__(SimpleNamespace(name="made up"), table, request, Clock("made up", None), 1)
        self.shown_frames: list[SimpleNamespace] = []
        self.num_asked = 0
        self.sought_at: list[int] = []

    @contextlib.contextmanager
    def open(self) -> Iterator[Any]:
        stream = SimpleNamespace(average_rate=25, guessed_rate=None, base_rate=None)
        container = SimpleNamespace(seek=lambda pts, stream: self.sought_at.append(pts))
        yield SimpleNamespace(stream=stream, container=container)


@pytest.fixture(autouse=True)
def given_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[Reader] = []
    made = Reader.__init__

    def remember(self: Reader, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        readers.append(self)

    def decoded(file: Any, damage: Any) -> Iterator[Any]:
        reader = readers[-1]
        begin = reader.sought_at[-1] if reader.sought_at else 0
        for one in [one for one in reader.shown_frames if one.pts is None or one.pts >= begin]:
            reader.num_asked += 1
            yield one

    monkeypatch.setattr(Reader, "__init__", remember)
    monkeypatch.setattr(pyav_decoder, "decoded", decoded)


class Album:
    def __init__(self) -> None:
        self.places: dict[int, int] = {}

    def put_frame(self, place: int, frame: Any) -> None:
        self.places[place] = frame.pts


def from_start(reader: Reader, *wanted: int) -> tuple[bool, dict[int, int]]:
    album = Album()
    return reader.from_start({pts: place for place, pts in enumerate(wanted)}, album), album.places


def by_seeking(reader: Reader, *wanted: int) -> tuple[bool, dict[int, int]]:
    album = Album()
    return reader.by_seeking({pts: place for place, pts in enumerate(wanted)}, album), album.places


def test_a_b_frame_is_certain_when_as_many_came_as_can_be_reordered() -> None:
    """Or a frame of another kind: to that it may refer, and it has come out without a complaint."""
    reader = Reader([0])
    reader.shown_frames = [frame(0, "I"), *(frame(pts, "B") for pts in range(1, COUNT))]
    assert from_start(reader, 1) == (True, {0: 1})
    assert reader.num_asked == 2 + MAX_REORDERED
    reader = Reader([0])
    reader.shown_frames = [frame(0, "I"), *(frame(pts, "P" if pts % 5 == 0 else "B") for pts in range(1, COUNT))]
    assert from_start(reader, 1, 3) == (True, {0: 1, 1: 3})
    assert reader.num_asked == 6


def test_what_comes_too_late_or_without_a_time_ends_the_search_at_once() -> None:
    for first in (frame(4), frame(None)):
        reader = Reader([0])
        reader.shown_frames = [first, *(frame(pts) for pts in range(5, COUNT))]
        assert from_start(reader, 2) == (False, {}) and reader.num_asked == 1
    reader = Reader([0])
    reader.shown_frames = [frame(0, "I"), frame(1), frame(3), frame(2), *(frame(pts) for pts in range(4, COUNT))]
    assert from_start(reader, 30) == (False, {}) and reader.num_asked == 3


def test_the_end_without_all_that_was_wanted_is_no_success() -> None:
    reader = Reader([0])
    reader.shown_frames = [frame(0, "I"), frame(1), frame(2)]
    assert from_start(reader, 1, 3) == (False, {0: 1})


@pytest.mark.parametrize(
    ("first", "is_taken"),
    [
        (frame(20, "I"), True),
        (frame(20, "P"), False),  # of intra-refresh: marked, and no whole picture
        (frame(20, "I", key=False), False),
        (frame(21, "I"), False),  # whole, and not where the table has a key frame
    ],
)
def test_after_a_seek_decoding_begins_at_a_whole_picture_that_the_table_knows(first: Any, is_taken: bool) -> None:
    reader = Reader([0, 20, 40])
    reader.shown_frames = [first, *(frame(pts) for pts in range(first.pts + 1, COUNT))]
    assert by_seeking(reader, 25)[0] is is_taken
    assert reader.sought_at == [20] and reader.num_asked == (6 if is_taken else 1)


def test_only_behind_a_hidden_key_frame_a_file_may_begin_with_another_picture() -> None:
    for pts, is_hidden, is_taken in ((0, True, True), (0, False, False), (1, True, False)):
        reader = Reader([-5, 40], has_hidden_packets=is_hidden)
        reader.shown_frames = [frame(one) for one in range(pts, COUNT)]
        assert by_seeking(reader, 3)[0] is is_taken


def test_the_key_frame_that_was_sought_has_to_be_whole_also_behind_others() -> None:
    """Frames of an open group come out in front of it."""
    for kind, is_taken in (("I", True), ("P", False)):
        reader = Reader([18, 20])
        reader.shown_frames = [frame(18, "I"), frame(19, "B"), frame(20, kind), *map(frame, range(21, COUNT))]
        reader.sought = 20
        assert reader.collect(None, {22: 0}, Album(), has_sought=True) is is_taken


def test_another_key_frame_than_the_one_that_was_sought_has_to_be_whole_too() -> None:
    for kind, is_taken in (("I", True), ("P", False)):
        reader = Reader([10, 20])
        reader.shown_frames = [
            frame(10, kind),
            *map(frame, range(11, 20)),
            frame(20, "I"),
            *map(frame, range(21, COUNT)),
        ]
        reader.sought = 20  # a demuxer may land further in front
        assert reader.collect(None, {22: 0}, Album(), has_sought=True) is is_taken


def test_every_group_of_frames_is_sought_for_itself_and_begins_without_doubt() -> None:
    reader = Reader([0, 20, 40])
    reader.shown_frames = [frame(pts, "I" if pts % 20 == 0 else "P") for pts in range(COUNT)]
    reader.damage.doubtful_since = 0  # something before was broken
    assert by_seeking(reader, 45, 3, 21, 41) == (True, {0: 45, 1: 3, 2: 21, 3: 41})
    assert reader.sought_at == [40, 0, 20]
    reader = Reader([10])
    assert by_seeking(reader, 5) == (False, {}) and reader.sought_at == []


def test_decoding_from_the_start_forgets_what_was_sought() -> None:
    reader = Reader([0, 20])
    reader.shown_frames = [frame(0, "I"), *(frame(pts) for pts in range(1, COUNT))]  # 20 turns out to be no key frame
    assert by_seeking(reader, 25) == (False, {})
    reader.sought_at.clear()
    reader.damage.doubtful_since = 0
    assert from_start(reader, 25) == (True, {0: 25})


def test_what_may_refer_to_a_missing_frame_is_doubtful_from_there_to_the_next_key_frame() -> None:
    reader = Reader([4, 20])
    kinds = {4: "I", 20: "I", 8: "B", 9: "B"}
    gone = {1, 10}  # the first was shown before the first key frame, whose own predecessors were cut off
    reader.shown_frames = [frame(pts, kinds.get(pts, "P")) for pts in range(COUNT) if pts not in gone]
    stamps, intact, seconds = reader.shown()
    doubted = [pts for pts, is_intact in zip(stamps, intact, strict=True) if not is_intact]
    assert doubted == [8, 9, *range(11, 20)] and reader.damage.broken == {10} and seconds == 1 / 25
    reader = Reader([4, 20])
    reader.shown_frames = [frame(pts, kinds.get(pts, "P")) for pts in range(COUNT) if pts != 4]
    assert reader.shown()[1][:4].all() and not reader.shown()[1][4:19].any()  # the key frame itself is missing


def test_where_times_go_back_nothing_can_be_said_to_be_missing() -> None:
    reader = Reader([0])
    reader.shown_frames = [frame(0, "I"), frame(2), frame(1), frame(5)]
    assert reader.shown()[1].all() and not reader.damage.broken


def test_a_table_that_is_not_sure_is_not_used_to_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav_decoder, "finish", lambda name, backend, album, *rest: album.places)
    for can_seek in (True, False):
        reader = Reader([0, 20, 40], can_seek)
        reader.shown_frames = [frame(pts, "I" if pts % 20 == 0 else "P") for pts in range(COUNT)]
        monkeypatch.setattr(pyav_decoder, "PyAVReader", lambda *args, reader=reader: reader)
        monkeypatch.setattr(reader.request, "num_frames", 1)
        found = pyav_decoder.read_pyav(
            reader.source, reader.table, reader.request, reader.clock, 1, make_album=lambda *args: Album()
        )
        assert found == {0: 30}
        assert reader.sought_at == ([20] if can_seek else [])
