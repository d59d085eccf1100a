"""
The measure of benchmarks/coverage.py, against values that were worked out by hand, and the script from clip to table.

The script is loaded by its path and needs none of the packages that only its encoder needs.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import transformers

from transformers_linvt import LinVTConfig
from transformers_linvt.demo.shapes import make_clip, write_clip


SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    """The script, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location("linvt_benchmark_coverage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, make_clip("scenes", seed=1, num_frames=8)[0])
    return path


def random_clip(coverage: ModuleType, num_frames: int = 5, grid_size: tuple[int, int] = (3, 4), dim: int = 16):
    tokens = torch.randn(num_frames, math.prod(grid_size), dim, generator=torch.Generator().manual_seed(0))
    return coverage.Clip("random", coverage.REAL, tokens, torch.arange(num_frames).float(), grid_size)


# ---- the measure


def test_all_frame_tokens_explain_everything_and_the_mean_nothing(coverage):
    tokens = random_clip(coverage).tokens
    points = tokens.flatten(0, 1)
    assert coverage.unexplained(tokens, points).tolist() == [0.0] * 5
    at_the_mean = coverage.unexplained(tokens, points.mean(dim=0).expand(7, -1))
    assert at_the_mean.mean().item() == pytest.approx(1.0, abs=1e-6)
    assert at_the_mean.std() > 0


def test_the_measure_by_hand(coverage):
    """Tokens 0, 2 | 4, 10 with mean 4: squares 16 + 4 + 0 + 36 = 56, 28 a frame; centres 1 and 4 leave 2 | 36."""
    tokens = torch.tensor([[[0.0], [2.0]], [[4.0], [10.0]]])
    by_frame = coverage.unexplained(tokens, torch.tensor([[1.0], [4.0]]))
    assert by_frame.tolist() == pytest.approx([2 / 28, 36 / 28])
    assert by_frame.mean().item() == pytest.approx(38 / 56)


def test_k_means_of_k_distinct_points_is_exact(coverage):
    distinct = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    frames = distinct.repeat(4, 1).view(4, 6, 3)
    for seed, num_centres in ((0, 6), (1, 6), (2, 20), (3, 99)):
        centres = coverage.k_means(frames.flatten(0, 1), num_centres, seed=seed)
        assert len(centres) == 6
        assert coverage.unexplained(frames, centres).max() < 1e-12


def test_k_means_is_seeded_and_no_worse_than_the_mean_picture(coverage):
    clip = random_clip(coverage, num_frames=16)
    points = clip.tokens.flatten(0, 1)
    centres = coverage.k_means(points, 12)
    assert torch.equal(centres, coverage.k_means(points, 12))
    mean_picture = coverage.lattices(clip, 12)[coverage.MEAN_PICTURE]
    assert coverage.unexplained(clip.tokens, centres).mean() < coverage.unexplained(clip.tokens, mean_picture).mean()


@pytest.mark.parametrize("num_cells", [1, 7, 64, 256])
@pytest.mark.parametrize(("num_frames", "grid_size"), [(32, (14, 14)), (3, (2, 5))])
def test_a_lattice_divides_all_tokens_into_at_most_so_many_cells(coverage, num_cells, num_frames, grid_size):
    shapes = coverage.lattice_shapes(num_frames, grid_size, num_cells)
    assert shapes
    for shape in shapes:
        cells = coverage.lattice_cells(num_frames, grid_size, shape)
        assert cells.shape == (num_frames * math.prod(grid_size),)
        assert math.prod(shape) <= num_cells
        assert cells.unique().tolist() == list(range(math.prod(shape)))


def test_the_cells_of_a_lattice_are_boxes_of_neighbours(coverage):
    cells = coverage.lattice_cells(2, (2, 4), (1, 2, 2))
    assert cells.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] * 2
    tokens = torch.arange(16.0).view(16, 1)
    assert coverage.means_of(tokens, cells, 4).flatten().tolist() == [4.5, 6.5, 8.5, 10.5]


def test_the_best_lattice_of_a_still_clip_is_its_picture(coverage):
    picture = random_clip(coverage).tokens[:1]
    clip = coverage.Clip("still", coverage.REAL, picture.expand(5, -1, -1), torch.arange(5.0), (3, 4))
    for name, tokens in coverage.lattices(clip, 12).items():
        assert torch.allclose(tokens, picture[0], atol=1e-6), name


# ---- sizes of real bases, shares


@pytest.mark.parametrize(("rows", "columns", "extra"), [(2, 2, 0), (27, 27, 1), (2, 7, 0)])
def test_a_clip_is_resized_frame_by_frame(coverage, rows, columns, extra):
    clip = random_clip(coverage)
    resized = coverage.resized_clip(clip, rows, columns, extra)
    assert resized.tokens.shape == (5, rows * columns + extra, 16)
    assert resized.grid_size == (rows, columns)
    alone = coverage.Clip("one", coverage.REAL, clip.tokens[2:3], torch.zeros(1), (3, 4))
    assert torch.allclose(
        coverage.resized_clip(alone, rows, columns, 0).tokens[0], resized.tokens[2, : rows * columns]
    )


def test_extra_tokens_are_the_same_in_every_frame(coverage):
    extra = coverage.resized_clip(random_clip(coverage), 3, 3, 2).tokens[:, 9:]
    assert torch.equal(extra, extra[:1, :1].expand_as(extra))


def test_the_largest_difference_is_that_of_weight_and_new_tokens(coverage):
    """Kept tokens stand for themselves with the start "anchored": where a run starts is where it is."""
    output = coverage.condense(random_clip(coverage), num_video_tokens=6, init="anchored")
    weight = output.weights.dense()[0].mean(dim=0).view(5, 12).sum(dim=1).tolist()
    output.significance = torch.full((1, 5, 12), 0.4)
    output.significance[0, 0, :3] = output.significance[0, 3, 5] = 0.6
    expected = 100 * max(abs(a - b) for a, b in zip(weight, [0.75, 0.0, 0.0, 0.25, 0.0], strict=True))
    assert coverage.largest_differences(output) == pytest.approx((expected, expected), abs=1e-3)


def test_the_weight_of_a_still_clip_is_where_its_runs_start(coverage):
    """5 frames that are the same: all that is new is in the first, and W has a fifth of the weight there."""
    picture = random_clip(coverage).tokens[:1]
    clip = coverage.Clip("still", coverage.REAL, picture.expand(5, -1, -1), torch.arange(5.0), (3, 4))
    starting, spread = coverage.largest_differences(coverage.condense(clip, num_video_tokens=12, init="keyframes"))
    assert starting < 0.1
    assert spread == pytest.approx(80, abs=0.1)


def test_the_default_configuration_is_among_the_methods(coverage):
    config, methods = LinVTConfig(), coverage.our_methods()
    assert methods[coverage.default_method()] == {
        "init": config.init,
        "selection": config.selection,
        "scale_mode": config.scale_mode,
    }
    assert len(methods) == len(coverage.STARTS) * 4 * 3


# ---- from a video file to the table


def test_a_still_clip_shows_one_picture_after_the_codec(coverage, clip_file):
    def pixels(frames: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(frames[:, ::16, ::16]).float()

    still, noisy = (coverage.still_clip(clip_file, 4, pixels, kind) for kind in coverage.STILLS)
    real = coverage.real_clip(clip_file, 4, pixels)
    assert still.tokens.shape == noisy.tokens.shape == real.tokens.shape == (4, 256, 3)
    assert real.timestamps.tolist() == still.timestamps.tolist()
    over_time = [clip.tokens.std(dim=0).mean() for clip in (still, noisy, real)]
    assert over_time[0] < over_time[1] < over_time[2]


def vision_model(kind: str) -> transformers.PreTrainedModel:
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    vision = dict(sizes, image_size=32, patch_size=8)
    if kind == "siglip":  # a model of pictures and texts, as the checkpoints of the Hub are
        text = dict(sizes, vocab_size=9, max_position_embeddings=4, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))  # has a class token


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_any_vision_tower_serves_and_the_report_has_every_clip(coverage, kind, clip_file, tmp_path, capsys):
    folder = tmp_path / kind
    vision_model(kind).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    if kind == "siglip":
        transformers.SiglipImageProcessor(size=size).save_pretrained(folder)
    else:
        transformers.CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    words = [str(clip_file.parent), "--clips", "clip", "--encoder", str(folder), "--num-frames", "4"]
    figures = tmp_path / "figures.json"
    coverage.main([*words, "--num-video-tokens", "16", "--only-default", "--json", str(figures)])
    printed = capsys.readouterr().out
    assert f"| **{coverage.default_method()}** |" in printed
    for row in ("| clip, real |", "| clip, still |", "| Qwen2-VL, 720p, 1196 tokens |", f"| {coverage.K_MEANS} |"):
        assert row in printed
    found = json.loads(figures.read_text())
    assert {entry["method"] for entry in found["unexplained"]} == {
        coverage.default_method(),
        coverage.K_MEANS,
        coverage.LATTICE,
        coverage.MEAN_PICTURE,
    }
    for entry in found["unexplained"]:
        assert entry["num_video_tokens"] == 16
        assert 0 <= entry["unexplained"] <= entry["worst_frame"]
    assert {entry["base"] for entry in found["shares"]} == set(coverage.BASES)
    assert all(0 <= entry["points"] <= 100 for entry in found["shares"])
    limits = [
        e["unexplained"] for e in found["unexplained"] if e["method"] == coverage.K_MEANS and "still" in e["kind"]
    ]
    assert max(limits) < 0.01  # as many tokens as a frame has: a still picture is all there
