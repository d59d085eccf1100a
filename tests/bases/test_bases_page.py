"""docs/bases.md, which a run of all architectures writes: what goes into it, and that it says what the code says."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import bases_table
from base_specs import ALL_BASES
from tiny_bases import model_type_of
from transformers_linvt.bases.families import DENIED
from transformers_linvt.bases.registry import bridge_of


ROOT = Path(__file__).resolve().parents[2]
CASE = """<testcase classname="tests.bases.test_bases" name="{name}" time="{seconds}">
<properties><property name="base" value="{base}"/>{more}</properties>{outcome}</testcase>"""
TOKENS = '<property name="tokens_per_frame" value="16"/><property name="container" value="list"/>'
FAILURE, SKIP = '<failure message="no">E</failure>', '<skipped message="cannot"/>'


def write(file: Path, *cases: tuple[str, str, str, str]) -> str:
    """A result of pytest; a case is the name of the test, that of the base, what it recorded, and how it ended."""
    lines = [
        CASE.format(name=f"{name}[{base}]", base=base, more=more, outcome=outcome, seconds=90)
        for name, base, more, outcome in cases
    ]
    file.write_text(f"<testsuites><testsuite>{''.join(lines)}</testsuite></testsuites>")
    return str(file)


def lines_of(page: Path) -> dict[str, str]:
    """The rows of its first table, by their first cell as it is written."""
    rows = [line.split("|") for line in page.read_text().partition("## Refused")[0].splitlines() if line[:2] == "| "]
    return {row[1].strip(): " ".join(cell.strip() for cell in row[2:5]).strip() for row in rows}


def test_the_page_has_the_last_result_of_every_test_of_several_runs(tmp_path: Path):
    runs = [
        write(
            tmp_path / "all.xml",
            ("test_chunks", "llava", TOKENS, FAILURE),
            ("test_chunks", "janus", "", FAILURE),
            ("test_turns", "janus", "", ""),
            ("test_turns", "qwen2_vl", "", SKIP),
        ),
        write(tmp_path / "again.xml", ("test_chunks", "llava", TOKENS, "")),
    ]
    page = tmp_path / "page.md"
    bases_table.main(*runs, str(page))
    rows = lines_of(page)
    assert rows["llava"] == "supported list 16"  # mended in the second run
    assert rows["janus"] == "failing: test_chunks"
    assert rows["**qwen2_vl**"] == rows["aria"] == "not run"  # where everything was left out nothing is shown
    text = page.read_text()
    assert re.search(
        r"1 are supported,\n\d+ are refused when they are wrapped, 1 fail a test\. 4 tests, which took 6 minutes", text
    )
    assert f"torch {torch.__version__}; the last result of each test in 2 runs)" in text
    bases_table.main(runs[0], str(page))
    assert lines_of(page)["llava"] == "failing: test_chunks list 16"
    assert f"torch {torch.__version__})" in page.read_text()


def test_the_page_gives_the_reasons_and_the_notes_of_the_code():
    """It is written by a run of all bases; its words are those of the package all the same."""
    page = (ROOT / "docs" / "bases.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    reasons = {row[0]: row[1] for row in rows if len(row) == 2}
    notes = {row[0]: row[-1] for row in rows if len(row) > 2}
    listed = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) & set(DENIED)
    assert listed and {name: reasons.get(name) for name in listed} == {name: DENIED[name] for name in listed}
    for name in ALL_BASES:
        for note in bridge_of(model_type_of(name)).family.notes:
            assert note in notes[name], name


@pytest.mark.skipif(transformers.__version__ != "5.23.0", reason="the page is of this version of transformers")
def test_nothing_in_the_page_is_written_by_hand():
    """What a run says, given again to what writes the page, makes the page: every word that is not a result is its."""
    text = (ROOT / "docs" / "bases.md").read_text(encoding="utf-8")
    results: dict[str, bases_table.Result] = {}
    for line in text.partition("## Refused")[0].splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells[0] in ALL_BASES:
            result = results[cells[0]] = bases_table.Result()
            result.outcomes["passed"] = int(cells[1] == "supported")
            result.recorded = {"container": cells[2], "tokens_per_frame": cells[3]}
    assert sorted(results) == sorted(ALL_BASES)

    def without_figures(page: str) -> str:
        """Without the numbers of tests and minutes, and the machine, which a run alone knows."""
        return re.sub(r"\. \d+ tests, which took \d+ minutes.*?\)\. No", ". No", page, flags=re.DOTALL)

    assert without_figures(bases_table.write_table(results, 60.0)) == without_figures(text)


def test_the_run_of_all_bases_has_every_file_with_tests_of_all_bases():
    makefile = (ROOT / "Makefile").read_text()
    listed = re.search(r"^BASES = ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert listed and "$(BASES)" in makefile.partition("\ntest-bases:")[2].partition("\n\n")[0]
    marked = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.bases" in path.read_text()]
    missing = {str(path.relative_to(ROOT)) for path in marked if path != Path(__file__)} - set(listed[1].split())
    assert not missing
