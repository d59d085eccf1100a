"""Subtitles are read from SRT and WebVTT files and from lists: times, words without markup; the rest is refused."""

import base64
from pathlib import Path
from typing import Any

import pytest

from transformers_linvt import VideoReadError
from transformers_linvt.video.subtitles import Subtitle, read_subtitles, within


SRT = """1
00:00:01,000 --> 00:00:02,500
Hello <i>there</i>, {\\an8}5 < 6

2
01:00:03,250 --> 01:00:04,000
Two lines
of words
"""
VTT = """WEBVTT - a title

NOTE nobody sees this

STYLE
::cue { color: red }

00:01.000 --> 00:02.500 align:start
<v Bob>Hello &amp; <c.loud>there</c>

last
01:00:03.250 --> 01:00:04.000
Go<00:00:03.500> on
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SRT, ["Hello there, 5 < 6", "Two lines of words"]),
        (VTT, ["Hello & there", "Go on"]),
        ("\ufeff" + SRT.replace("\n", "\r\n"), ["Hello there, 5 < 6", "Two lines of words"]),
    ],
)
@pytest.mark.parametrize("how", ["path", "address", "data", "bytes"])
def test_files_give_times_and_words(tmp_path: Path, text: str, words: list[str], how: str):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    data = f"data:text/vtt;base64,{base64.b64encode(path.read_bytes()).decode()}"
    source = {"path": path, "address": path.as_uri(), "data": data, "bytes": path.read_bytes()}[how]
    assert read_subtitles(source) == [Subtitle(1.0, 2.5, words[0]), Subtitle(3603.25, 3604.0, words[1])]


def test_lists_give_the_same_in_the_order_of_time():
    given = [{"start": 4, "text": "c"}, (1.5, 3, "a  b"), [2.0, "b"], {"start": 5, "end": 6.5, "text": "d"}]
    assert read_subtitles(given) == [
        Subtitle(1.5, 3.0, "a b"),
        Subtitle(2.0, 2.0, "b"),
        Subtitle(4.0, 4.0, "c"),
        Subtitle(5.0, 6.5, "d"),
    ]


def test_words_that_are_repeated_count_once_and_empty_ones_not_at_all():
    given = [(0, 1, "a"), (1, 2, "a"), (2, 3, "<i></i>"), (3, 4, "b"), (4, 5, "a")]
    assert read_subtitles(given) == [Subtitle(0, 2, "a"), Subtitle(3, 4, "b"), Subtitle(4, 5, "a")]


def test_a_window_has_what_is_on_screen_in_it():
    found = within([Subtitle(0, 1, "a"), Subtitle(2, 5, "b"), Subtitle(6, 7, "c")], 1.0, 5.5)
    assert [one.text for one in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, "of type int"),
        (["a"], "Subtitle 1 is 'a'"),
        ([(0, "a"), (1, 2, 3, "b")], "Subtitle 2 is"),
        ([(-1, "a")], "0 or more"),
        ([(float("nan"), "a")], "0 or more"),
        ([(0, 3)], "its words text"),
        ([(2, 1, "a")], "before it starts"),
        ([{"start": 1, "words": "a"}], "has the key 'words'"),
        ([(0, "a")] * 50_001, "over the limit of 50000"),
        ("https://example.com/a.srt", "are not fetched"),
        ("no/such.srt", "do not exist"),
        ("\0", "cannot be opened"),
        (b"\xff\xfe1\x00", "not text in UTF-8"),
        (b"hello", "holds no subtitles"),
        (b"", "holds no subtitles"),
        (b"WEBVTT\n\n", "holds no subtitles"),
        (b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n", "holds no subtitles"),
        (b"a" * ((8 << 20) + 1), "over the limit of 8388608"),
    ],
)
def test_what_holds_no_subtitles_is_refused(source: Any, words: str):
    with pytest.raises(VideoReadError, match=words.replace("(", r"\(")) as caught:
        read_subtitles(source)
    assert len(str(caught.value)) < 500


def test_a_folder_and_a_pipe_are_no_files(tmp_path: Path):
    with pytest.raises(VideoReadError, match="is no file"):
        read_subtitles(tmp_path)


def test_subtitles_that_could_not_be_read_are_told(caplog: pytest.LogCaptureFixture):
    broken = SRT + "\n3\n00:00:xx --> 01:00:09,000\nLost\n"
    assert len(read_subtitles(broken.encode())) == 2
    assert "3 lines with '-->', of which 2" in caplog.text
