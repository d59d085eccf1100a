"""Subtitles of benchmarks, from the layouts in which they are published; `test_harness.py` shows them to a model."""

import json

import pytest

from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation.harness_subtitles import subtitles_beside


DOC = {"subtitle_path": "a_en.json", "duration": 10.0, "starting_timestamp_for_subtitles": 60.0}


def written(tmp_path, entries):
    (tmp_path / "a_en.json").write_text(json.dumps(entries))
    return subtitles_beside(tmp_path, DOC, "videos/a.mp4")


def test_times_are_those_of_the_part_that_was_cut_out(tmp_path):
    entries = [
        {"timestamp": [50.0, 59.0], "text": "before"},
        {"timestamp": [58.0, 61.5], "text": "across the cut"},
        {"timestamp": [65.0, None], "text": "to the end"},
        {"timestamp": [66.0, float("nan")], "text": "to the end as well"},
        {"timestamp": [69.0, 80.0], "text": "over the end"},
        {"timestamp": [71.0, 72.0], "text": "after"},
        {"start": "00:01:02.5", "end": "00:01:03", "line": "of the other layout"},
    ]
    assert written(tmp_path, entries) == [
        (0.0, 1.5, "across the cut"),
        (5.0, 10.0, "to the end"),
        (6.0, 10.0, "to the end as well"),
        (9.0, 10.0, "over the end"),
        (2.5, 3.0, "of the other layout"),
    ]


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_a_video_has_the_file_of_its_name_or_none(ending, tmp_path):
    (tmp_path / f"abc.{ending}").touch()
    assert subtitles_beside(tmp_path, {"videoID": "abc"}, "data/abc.mp4") == str(tmp_path / f"abc.{ending}")
    assert subtitles_beside(tmp_path, {"videoID": "abd"}, "data/abd.mp4") is None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"timestamp": [61, 62], "text": "a"}, {"timestamp": [61], "text": "b"}], "Entry 1 of .*a_en.json"),
        ([{"timestamp": [None, 62], "text": "a"}], "Entry 0 .* says not when it starts"),
        ([{"begin": 3}], "Entry 0 .* no subtitle of this set"),
        ({"timestamp": [61, 62]}, "Entry 0 .* no subtitle of this set"),
    ],
)
def test_what_is_no_subtitle_is_named(entries, message, tmp_path):
    with pytest.raises(LinVTInputError, match=message):
        written(tmp_path, entries)


def test_a_file_that_a_row_names_has_to_be_there(tmp_path):
    with pytest.raises(LinVTInputError, match="a_en.json cannot be read"):
        subtitles_beside(tmp_path, DOC, "videos/a.mp4")
