"""The studies: their figures on cases computed by hand, and their tables where the page has a place for them."""

import sys
from pathlib import Path

import pytest
import torch


STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"


@pytest.fixture(scope="module")
def studies():
    sys.path.insert(0, str(STUDIES))
    import alignment
    import length
    import pictures
    import shared

    yield {"alignment": alignment, "length": length, "pictures": pictures, "shared": shared}
    sys.path.remove(str(STUDIES))


def report(diagnostic, num_frames, subject, kind, right):
    rows = [[diagnostic, num_frames, number, "", subject, kind, "red", "red", one] for number, one in enumerate(right)]
    return {"answers": rows}


def test_an_average_is_in_the_hull_and_what_is_no_average_is_not(studies):
    corners = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(3, 7, generator=torch.Generator().manual_seed(2)).softmax(1)
    distances = studies["alignment"].hull_distances
    assert distances(weights @ corners, corners, steps=2000).max() < 0.05
    away = corners.mean(0) + 10 * torch.eye(5)[:1]
    exact = (away - corners).norm(dim=1).min()
    assert 0.5 * exact < distances(away, corners).item() <= exact + 1e-4


def test_what_lies_in_the_plane_of_the_reference_is_inside_its_spectrum(studies):
    rng = torch.Generator().manual_seed(3)
    reference = torch.randn(40, 2, generator=rng) @ torch.randn(2, 6, generator=rng)
    inside = torch.randn(9, 2, generator=rng) @ torch.linalg.svd(reference).Vh[:2] + reference.mean(0)
    outside = studies["alignment"].outside_spectrum
    assert outside(inside, reference) == pytest.approx(0, abs=1e-4)
    beside = reference.mean(0) + torch.linalg.svd(reference - reference.mean(0)).Vh[2:3]
    assert outside(beside, reference) == pytest.approx(1, abs=1e-4)


def test_the_heat_map_has_a_row_per_place_and_a_column_per_length(studies):
    study, answers = studies["length"], studies["shared"].answers_of
    reports = [
        {
            "answers": [
                row
                for place, right in (("at 0%", [True] * 4), ("at 100%", [True, True, False, False]))
                for frames in (16, 64)
                for row in report("length", frames, place, "colour", right)["answers"]
            ]
            + [
                row
                for name, kind in (("needles", "colour"), ("order", "order"), ("count", "occurrences"))
                for frames in (16, 64)
                for row in report(name, frames, "", kind, [True] * 4)["answers"]
            ]
        }
    ] * 2
    lines = study.table(answers(reports), [16, 64]).splitlines()
    assert lines[0] == "| clips | 16 frames | 64 frames |"
    assert [line.split(" | ")[1].split()[0] for line in lines[2:]] == ["100.0", "50.0", "100.0", "100.0", "100.0"]
    assert lines[3].startswith("| needle at 100% | 50.0 [")


def test_pictures_before_and_after_are_paired(studies):
    study = studies["pictures"]
    before, after = ([True] * 8, [True] * 6 + [False] * 2)
    pictures = {
        condition: [report("pictures", 1, "", "colour", after if condition == "adapters on" else before)]
        for condition in study.CONDITIONS
    }
    clips = {arm: [report("static", 16, "", "colour", before)] for arm in ("linvt", "middle")}
    (row,) = study.table(pictures, clips).splitlines()[2:]
    cells = row.strip("| ").split(" | ")
    assert cells[:4] == ["colour", "100.0", "100.0", "75.0"]
    assert cells[4].startswith("+0.0") and cells[5].startswith("-25.0") and cells[-1].startswith("+0.0")


def test_a_table_is_written_between_its_marks_and_nowhere_else(studies, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: length -->\nold\n<!-- end of length -->\nafter\n")
    write = studies["shared"].write_into
    for text in ("| new |", "| newer |"):
        write(page, "length", text)
    assert page.read_text() == "before\n<!-- study: length -->\n\n| newer |\n\n<!-- end of length -->\nafter\n"
    with pytest.raises(ValueError, match="has no place"):
        write(page, "pictures", "| new |")


def test_an_untrained_model_is_measured_and_its_averages_stay_near_pictures(studies):
    alignment = studies["alignment"]
    found = {
        name: alignment.measure(alignment.load(name, None, 0), num_clips=2, num_frames=4, seed=0)
        for name in ("linear", "nonlinear")
    }
    assert found["linear"]["hull"] < found["nonlinear"]["hull"]
    assert found["linear"]["outside"] < found["nonlinear"]["outside"]
    assert found["linear"]["shift"] == pytest.approx(0, abs=1e-4)  # a still clip is its picture, untrained too
    assert alignment.table({"linear": [found["linear"]]}).count("\n") == 3


def test_a_study_that_is_there_is_not_run_again_and_other_settings_are_refused(studies, tmp_path, monkeypatch):
    shared = studies["shared"]
    settings = shared.EvaluationSettings(("needle",), (8,), num_clips=2)
    path = tmp_path / "needle.json"
    with pytest.raises(ValueError, match="Leave --table out"):
        shared.kept(path, settings, None, "needle")
    written = {"settings": {**vars(settings), "diagnostics": ["needle"], "num_frames": [8]}, "answers": []}
    monkeypatch.setattr(shared, "read_report", lambda _: written)
    path.touch()
    assert shared.kept(path, settings, None, "needle") is written
    with pytest.raises(ValueError, match="other settings"):
        shared.kept(path, shared.EvaluationSettings(("needle",), (8,), num_clips=3), None, "needle")
