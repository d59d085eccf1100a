"""Proves the tables of docs/results.md: shares and intervals of counts that are known, and a row for every run."""

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tables():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("results_tables")
    sys.path.remove(folder)


def run(seed: int, text_conditioned: bool = True, right: int = 7) -> dict:
    counts = {
        "needles | colour": [right, 10],
        "needles | existence": [18, 20],
        "static | count": [50, 100],
        "static as a picture | count": [51, 100],
        "count | occurrences": [97, 100],
        "count shuffled | occurrences": [25, 100],
    }
    recipe = {"text_conditioned": text_conditioned, "num_video_tokens": 32}
    return {"seed": seed, "clips": {"16": counts}, "pictures": {"pictures | colour": [199, 200]}, "recipe": recipe}


def test_a_row_holds_what_was_counted(tables):
    head, _, row = tables.seeds([run(71)], ["8", "16"]).splitlines()
    found = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert found["needles"] == "83.3"  # 25 of 30
    assert found["appearances (shuffled)"] == "97 (25)"
    assert found[tables.COLUMNS[0]] == "////50/" and found["the same clips as pictures"] == "////51/"
    assert "99.5" in tables.pictures([run(71)], []).splitlines()[2]
    assert tables.untrained([run(71)], ["16"]).splitlines()[2].startswith("| 32 | 16 | ////50/ |")


def test_runs_with_the_question_stand_beside_those_without(tables):
    lines = tables.question([run(5, True, 7), run(5, False, 1), run(6, True)], ["16"]).splitlines()
    assert lines[2:] == ["| 5 | 16 | 83.3 | 63.3 |"]  # seed 6 has no partner; 19 of 30 without


def test_words_alone_answer_more_than_half_of_what_is_asked_of_existence(tables):
    lines = tables.words([], [], num_clips=40).splitlines()
    shares = {kind.strip(): int(share) for _, kind, share, _ in (line.split("|") for line in lines[2:])}
    assert set(shares) == {"needle", "needles", "scenes", "static", "moment", "crowd"}
    assert all(60 < share < 95 for share in shares.values())


def test_intervals_have_a_row_for_every_kind_of_question(tables):
    lines = tables.intervals([run(71)], ["8", "16"]).splitlines()
    assert lines[0] == "| clips | question | 16 frames |"
    assert "| static: one picture all along | count | 50 [40, 60] |" in lines
    assert len(lines) == 2 + 6
