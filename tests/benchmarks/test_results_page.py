"""The page of results: every table on it is what the kept figures give, and stands between marks."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page():
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("results_page")
    sys.path.remove(folder)


@pytest.fixture
def copy(tmp_path):
    """The page with its figures, to be written."""
    shutil.copy(ROOT / "docs" / "results.md", tmp_path)
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "results")
    shutil.copytree(ROOT / "docs" / "linvt_shapes", tmp_path / "linvt_shapes")
    return tmp_path / "results.md"


def test_the_page_is_what_the_kept_figures_give(page, copy):
    before = copy.read_text(encoding="utf-8")
    written = page.write_page(copy)
    assert copy.read_text(encoding="utf-8") == before, "run make results"
    assert set(page.TABLES) <= set(written)
    runs = copy.with_suffix("") / "sixteen.jsonl"
    runs.write_text(runs.read_text().replace("[98, 100]", "[11, 100]"))
    page.write_page(copy)
    assert copy.read_text(encoding="utf-8") != before


def test_every_table_of_the_page_stands_between_marks():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    outside = re.sub(r"<!-- (?:table|study): (\w+) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    assert text.count("\n| --- |") > 10 and "\n|" not in outside


def test_no_figure_is_kept_that_stands_nowhere(page):
    kept = {path.stem for path in (ROOT / "docs" / "results").glob("*.jsonl")}
    assert kept == set(page.KEPT) == {table.runs for table in page.TABLES.values() if "/" not in table.runs}
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    studies = set(re.findall(r"<!-- study: (\w+) -->", text))
    for ending in ("json", "png"):
        assert {path.stem for path in (ROOT / "docs" / "results").glob(f"*.{ending}")} == studies


def test_runs_are_kept_by_seed_without_what_no_table_needs(page, tmp_path):
    def line(seed, tokens):
        recipe = {"num_video_tokens": tokens, "mix": [["needle", None, 1]]}
        clips = {"16": {"crowd | position": [71, 100], "crowd | existence": [183, 200]}}
        return json.dumps(
            {"arm": "default", "seed": seed, "loss": 1.5, "clips": clips, "pictures": {}, "recipe": recipe}
        )

    results = tmp_path / "results.jsonl"
    results.write_text(f"{line(8, 32)}\n{line(7, 32)}\n")
    runs = [json.loads(one) for one in page.keep("recipe", [results], tmp_path).read_text().splitlines()]
    assert [run["seed"] for run in runs] == [7, 8]
    assert set(runs[0]) == {"arm", "seed", "clips", "pictures", "recipe"} and "mix" not in runs[0]["recipe"]
    rows = page.table_of("recipe_crowds", tmp_path).splitlines()
    assert rows == ["| seed | 16 frames: position/existence |", "| --- | --- |", "| 7 | 71/91.5 |", "| 8 | 71/91.5 |"]
    results.write_text(f"{line(81, 32)}\n{line(81, 24)}\n")
    page.keep("more_tokens", [results], tmp_path)
    head, _, first, second = page.table_of("more_tokens", tmp_path).splitlines()
    assert head.startswith("| M | T |") and first.startswith("| 24 | 16 |") and second.startswith("| 32 | 16 |")
    with pytest.raises(ValueError, match="Did you mean 'recipe'"):
        page.keep("recip", [results], tmp_path)
