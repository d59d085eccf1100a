"""The studies: their figures on cases computed by hand, and their tables where the page has a place for them."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image


STUDIES = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"


@pytest.fixture(scope="module")
def studies():
    sys.path.insert(0, str(STUDIES))
    import aggregation
    import alignment
    import camera
    import length
    import order
    import page
    import pictures
    import pooling
    import pretrained
    import question
    import scales
    import shared
    import sizes
    import starts
    import trained

    every = (
        aggregation,
        alignment,
        camera,
        length,
        order,
        page,
        pictures,
        pooling,
        question,
        scales,
        shared,
        sizes,
        starts,
    )
    every += (trained, pretrained)
    yield {module.__name__: module for module in every}
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
    rows = study.table(answers(reports), [16, 64])
    assert rows[0] == ("clips", "16 frames", "64 frames")
    assert [row[1].split()[0] for row in rows[1:]] == ["100.0", "50.0", "100.0", "100.0", "100.0"]
    assert rows[2][0] == "needle at 100%" and rows[2][1].startswith("50.0 [")


def test_pictures_before_and_after_are_paired(studies):
    study = studies["pictures"]
    before, after = ([True] * 8, [True] * 6 + [False] * 2)
    pictures = {
        condition: [report("pictures", 1, "", "colour", after if condition == "adapters on" else before)]
        for condition in study.CONDITIONS
    }
    clips = {arm: [report("static", 16, "", "colour", before)] for arm in ("linvt", "middle")}
    found = study.table(pictures, clips)
    _, cells = found.rows
    assert list(cells[:4]) == ["colour", "100.0", "100.0", "75.0"]
    assert cells[4].startswith("+0.0") and cells[5].startswith("-25.0") and cells[-1].startswith("+0.0")
    drawn = {name: value for name, (value, low, high) in found.panels["colour"].items() if low <= value <= high}
    assert drawn == {"base": 100, "adapters off": 100, "adapters on": 75, "still clip": 100, "its picture": 100}


def test_a_table_is_written_between_its_marks_and_nowhere_else(studies, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: length -->\n<!-- end of length -->\nafter\n")
    write = studies["shared"].write_into
    for text in ("| new |", "| newer |"):
        write(page, "length", text)
        assert f"\n\n{text}\n\n<!-- end" in page.read_text()  # else the mark is a row of the table
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
    assert len(alignment.table({"linear": [found["linear"]]}).rows) == 3


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


def run(seed, right, tokens=32):
    """A run of one arm, with an answer to each of four questions about clips and one about a picture."""
    answers = [["needle", clip, "", "colour", one] for clip, one in enumerate(right)]
    answers += [
        ["order", 0, "", "order", True],
        ["order", 0, "", "colour", False],
        ["pictures", 0, "", "colour", True],
    ]
    return {"seed": seed, "tokens": tokens, "cpu_seconds_per_step": 0.25, "answers": answers}


def test_arms_are_paired_by_clip_over_all_seeds(studies, tmp_path):
    right, wrong = [True] * 4, [True, True, False, False]
    runs = {"LinVT": [run(1, right), run(2, right)], "mean": [run(1, wrong), run(2, wrong)]}
    result = studies["trained"].result_of(runs, "LinVT")
    heading, own, mean, gain = result.rows
    assert heading == ("", "tokens of a clip", "ms per step", "needle", "which came first", "pictures")
    assert own[1:4] == ("32", "250", "100.0 [51, 100]")  # four clips, not eight answers
    assert mean[3].startswith("50.0 [")
    assert gain[0] == "LinVT less mean" and gain[3].startswith("+50.0 [+")
    assert gain[4] == "+0.0 [-79.3, +79.3]"  # one clip; of order clips only which came first is counted
    assert result.panels["needle"]["mean"][0] == 50


def test_the_study_of_order_compares_arms_after_the_same_steps(studies):
    right = [True] * 4
    first = {"LinVT": [run(1, right)], "all": [run(1, right)]}
    later = {name: [{**of[0], "answers": [list(row) for row in of[0]["answers"]]}] for name, of in first.items()}
    for row in first["LinVT"][0]["answers"]:
        row[4] = row[4] and row[3] != "order"  # which came first is wrong after the fewest steps only
    result = studies["order"].result_of({200: first, 400: later})
    assert result.rows[0] == ("", "200 steps", "400 steps")
    assert [[cell.split(" ")[0] for cell in row[1:]] for row in result.rows[1:]] == [
        ["0.0", "100.0"],
        ["100.0", "100.0"],
        ["-100.0", "+0.0"],
    ]
    parser = studies["trained"].parser_of("", (1,), studies["order"].STEPS, 24, 32)
    given = ["--tokens", "t", "--folder", "f"]
    assert parser.parse_args(given).steps == studies["order"].STEPS
    assert parser.parse_args([*given, "--steps", "2", "3"]).steps == [2, 3]
    assert studies["trained"].parser_of("", (1,), 200, 24, 32).parse_args([*given, "--steps", "9"]).steps == 9


def test_the_best_setting_is_named_and_so_is_what_it_does_not_beat(studies):
    right, wrong = [True] * 40, [True] * 20 + [False] * 20
    almost = [*right[:-1], False]
    runs = {name: [run(1, found)] for name, found in (("LinVT", almost), ("M=8", wrong), ("M=64", right))}
    best = studies["trained"].best_of
    assert (
        best(runs, ["needle"]) == "Best in needle: M=64. Within the interval of the best in every column: LinVT, M=64."
    )
    runs["M=64"][0]["answers"] = [[*row[:4], row[0] == "needle"] for row in runs["M=64"][0]["answers"]]
    runs["LinVT"] = runs.pop("M=8")
    assert best(runs, ["needle", "pictures"]).startswith("Best in needle: M=64; pictures: LinVT. ")
    many = {"LinVT": [run(1, wrong)], "M=64": [run(1, right)]}
    for row in many["M=64"][0]["answers"]:
        row[4] = row[4] if row[0] == "needle" else False
    many = {name: [{**of[0], "answers": of[0]["answers"] * 9}] for name, of in many.items()}
    assert best(many, ["needle", "pictures"]).endswith(
        "No setting is within the interval of the best in every column."
    )


def test_more_video_tokens_and_a_scorer_are_more_work(studies):
    sizes = studies["sizes"]
    tokens = torch.randn(6, 16, 128, generator=torch.Generator().manual_seed(5))
    question = SimpleNamespace(question="What colour is the circle?", answer="red")
    work = {name: sizes.work_of(sizes.ARMS[name], tokens, question) for name in ("LinVT", "M=8", "no scorer")}
    assert work["M=8"] < work["LinVT"] > work["no scorer"]
    model = sizes.SmallModel(sizes.Recipe(), 0)
    by_weights = 2e-6 * sum(one.numel() for one in model.base.model.language_model.layers[0].parameters())
    assert work["LinVT"] > 32 * by_weights  # every video token goes through every matrix of a layer at least once


def test_a_study_writes_table_figures_and_plot_beside_the_page(studies, tmp_path, capsys):
    shared, page = studies["shared"], tmp_path / "page.md"
    page.write_text("<!-- study: sizes -->\n<!-- end of sizes -->\n")
    panels = {title: {"LinVT": (90.0, 80.0, 95.0), "M=8": (70.0, 65.0, 75.0)} for title in ("a", "b", "c", "d", "e")}
    result = shared.Result([("", "needle"), ("LinVT", "90")], panels, note="Best in needle: LinVT.")
    given = SimpleNamespace(page=page, plot=tmp_path / "own.png")
    shared.finish(given, "sizes", result)
    table = "|  | needle |\n| --- | --- |\n| LinVT | 90 |\n\nBest in needle: LinVT."
    assert capsys.readouterr().out == f"{table}\n"
    shown = f"{table}\n\n![The same figures, drawn](page/sizes.png)"
    assert page.read_text() == f"<!-- study: sizes -->\n\n{shown}\n\n<!-- end of sizes -->\n"
    for path in (tmp_path / "own.png", tmp_path / "page" / "sizes.png"):
        with Image.open(path) as picture:
            assert picture.width == 800
    assert shared.block(tmp_path / "page", "sizes") == shown


@pytest.fixture(scope="module")
def frame_tokens(tmp_path_factory, studies):
    """A few clips and pictures, encoded."""
    import recipe_data

    folder, encoder = tmp_path_factory.mktemp("tokens"), recipe_data.Encoder()
    for kind in recipe_data.shapes.CLIP_KINDS:
        for place, frames, split in (("train", 8, "clip_train"), ("clip_8", 8, "clip")):
            made = recipe_data.encode_clips(encoder, kind, range(1000, 1003), frames, split)
            recipe_data.stored(folder / place / f"{kind}.pt", lambda made=made: made)
    for split in ("train", "clip"):
        made = recipe_data.encode_pictures(encoder, 3, split)
        recipe_data.stored(folder / f"pictures_{split}.pt", lambda made=made: made)
    return folder


def test_a_run_is_kept_answer_by_answer_and_not_made_again(studies, frame_tokens, tmp_path, monkeypatch):
    trained, pooling = studies["trained"], studies["pooling"]
    given = ["--tokens", str(frame_tokens), "--folder", str(tmp_path), "--steps", "2", "--questions", "6"]
    given += ["--frames", "8", "--clips", "3", "--seeds", "5", "--kinds", "needle", "static"]
    arguments = trained.parser_of("", (1,), 9, 9, 9).parse_args([*given, "--arms", "LinVT", "mean over time"])
    runs = trained.run_all(pooling.ARMS, arguments)
    (own,), (mean,) = runs["LinVT"], runs["mean over time"]
    assert mean["tokens"] == 16 and 0 < own["tokens"] <= 32
    assert {row[0] for row in own["answers"]} == {"needle", "static", "pictures"}
    assert {row[1] for row in own["answers"] if row[0] == "needle"} == {0, 1, 2}
    assert [row[:4] for row in own["answers"]] == [row[:4] for row in mean["answers"]]
    monkeypatch.setattr(trained, "_run", lambda *_: pytest.fail("run again"))
    assert trained.run_all(pooling.ARMS, arguments) == runs
    arguments.clips = 2
    with pytest.raises(ValueError, match="made with other settings"):
        trained.run_all(pooling.ARMS, arguments)
    arguments.arms = ["mean over space"]
    with pytest.raises(ValueError, match="'mean over space' is no arm"):
        trained.run_all(pooling.ARMS, arguments)
    arguments.arms, arguments.seeds, arguments.table = ["LinVT", "all"], [6], True
    with pytest.raises(ValueError, match="no seed that every arm"):
        trained.run_all(pooling.ARMS, arguments)


@pytest.mark.parametrize("name", ["aggregation", "pooling", "question", "scales", "sizes", "starts"])
def test_every_arm_of_a_study_is_a_model_that_can_be_trained(name, studies, frame_tokens):
    """Built, and its loss finite with a gradient in what is to learn; one step of one question each."""
    trained, study = studies["trained"], studies[name]
    clips, pictures = trained.load_training(frame_tokens)
    for arm, changed in study.ARMS.items():
        common = {"mix": trained.MIX, **getattr(study, "FEW_TOKENS", {}), "steps": 1, "batch_size": 3}
        recipe = trained.replace(trained.Recipe(), **{**common, **changed})
        model = trained.SmallModel(recipe, 1)
        before = [parameter.clone() for parameter in (model.adapter or model.linvt.aggregator).parameters()]
        assert trained.Trainer(model, clips, pictures, 1).run()["loss"] < float("inf")
        after = (model.adapter or model.linvt.aggregator).parameters()
        assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True)), arm


def test_a_camera_is_off_by_what_the_base_is_asked_at(studies, monkeypatch):
    camera = studies["camera"]
    arguments = SimpleNamespace(clips=2, frames=4, checkpoint=None, device="cpu", batch_size=8)
    rows = camera.measure(0, arguments)
    (clip, other) = camera.make_clips("camera", 2, 4, 0)
    off = [int(abs(one.offsets()[at]).max()) for one in (clip, other) for at in (0, 2)]
    named = [row for row in rows if row[0].startswith("the base") and row[2] == "colour"]
    assert [int(row[0].split("off by ")[1][0]) for row in named] == off
    assert [row[1] for row in named] == [0, 0, 1, 1]
    ways = {row[0] for row in rows if not row[0].startswith("the base")}
    assert len(ways) == 4 and all(sum(row[0] == way for row in rows) == 8 for way in ways)
    row = camera.table([(0, ["the checkpoint", 0, kind, True]) for kind in camera.KINDS]).rows[1]
    assert row[0] == "the checkpoint" and row[1].startswith("100 [")


def test_one_command_makes_every_table_of_the_page_again(studies, tmp_path, monkeypatch):
    page = STUDIES.parents[1] / "docs" / "results.md"
    text = page.read_text(encoding="utf-8")
    marked = re.findall(r"<!-- study: (\w+) -->", text)
    asked = studies["page"].commands(tmp_path, tmp_path / "tokens", page)
    assert sorted(Path(command[1]).stem for command in asked) == sorted(marked)
    for command in asked:  # each is one that its script understands, with the settings that stand on the page
        study = studies[Path(command[1]).stem]
        monkeypatch.setattr(sys, "argv", [*command[1:], "--table"])
        with pytest.raises(ValueError, match="There is no"):
            study.main()
        assert command.count("--clips") == 0 or f"--clips {command[command.index('--clips') + 1]}" in text
    (only,) = studies["page"].commands(tmp_path, None, page, ["camera"])
    assert Path(only[1]).stem == "camera"
    assert "pooling" not in str(studies["page"].commands(tmp_path, None, page))  # it trains, and there are no tokens
    with pytest.raises(ValueError, match="Did you mean 'camera'"):
        studies["page"].commands(tmp_path, None, page, ["camra"])
