"""Moments are the stretches that stand out; a notebook shows evidence, and a line tells what objects hold."""

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_linvt import LinearVideoTokenizer, VideoEvidence, read_video
from transformers_linvt.evidence.moments import moments_of
from transformers_linvt.evidence.notebook import strip_of_maps
from transformers_linvt.model.features import VideoFeatures
from transformers_linvt.pipeline.results import Results


def spans(values: list[float], times: list[float], count: int = 3) -> list[tuple[float, float, int]]:
    return [(one.start, one.end, one.index) for one in moments_of(np.array(values), times, count)]


def test_a_moment_is_the_strongest_frame_with_its_neighbours_of_half_its_strength():
    times = [0.0, 0.5, 1.0, 2.0, 4.0, 4.5]
    # around 8: 4 and 5 belong, 3.9 does not; then 3.9 with the 2 before it; 0.5 is less than a tenth of the strongest
    assert spans([2, 3.9, 4, 8, 5, 0.5], times) == [(1.0, 4.5, 3), (0.0, 1.0, 1)]
    assert spans([2, 3.9, 4, 8, 5, 0.5], times, count=1) == [(1.0, 4.5, 3)]
    # the last frame lasts as long as the one before it, a single frame no time at all
    assert spans([0, 0, 0, 0, 0, 1], times) == [(4.5, 5.0, 5)]
    assert spans([1], [3.0]) == [(3.0, 3.0, 0)]
    assert spans([-1, 0, -2], [0, 1, 2]) == []


def test_a_moment_that_another_one_has_is_taken_once():
    found = moments_of(np.array([4, 1, 9, 10, 0, 6]), range(6), 9)
    assert [(one.start, one.end) for one in found] == [(2.0, 4.0), (5.0, 6.0), (0.0, 1.0), (1.0, 2.0)]
    assert sum(one.share for one in found) == pytest.approx(1, abs=1e-5)


def evidence(**changes: Any) -> VideoEvidence:
    parts: dict[str, Any] = {
        "frames": np.zeros((3, 8, 10, 3), dtype=np.uint8),
        "timestamps": np.array([0.0, 2.0, 4.0]),
        "kept_indices": np.array([1, 2, 5]),
        "kept_weights": np.array([[0.5, 0.25, 0.25]], dtype=np.float32),
        "significance": np.ones((3, 2), dtype=np.float32),
        "grid_size": (1, 2),
        "question": "Is <b> there?",
        "answer": "yes",
    }
    return VideoEvidence(**{**parts, **changes})


def test_moments_are_of_the_attribution_or_else_of_the_weights():
    assert evidence().moments(1)[0].index == 0
    assert evidence(attribution=np.array([0.0, -1.0, 2.0])).moments(1)[0].index == 2
    assert evidence(timestamps=np.full(3, np.nan)).moments() == []


def picture_in(html: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]*)\"", html)[1])))


def test_a_notebook_shows_the_table_and_the_picture_of_evidence():
    shown = evidence(attribution=np.array([0.0, 0.0, 2.0]), log_probs=(-0.5, -3.25))
    html = shown._repr_html_()
    assert "Is &lt;b&gt; there?" in html and "<b>" not in html
    assert "4.0 to 6.0 s (100%)" in html and "-0.50, without the video -3.25" in html
    drawn = shown.draw()
    for png in (Image.open(io.BytesIO(shown._repr_png_())), picture_in(html)):
        assert png.size == drawn.size and png.tobytes() == drawn.tobytes()
    assert evidence(frames=None)._repr_png_() is None and "<img" not in evidence(frames=None)._repr_html_()


def test_results_are_a_table_that_is_still_a_list_of_dictionaries():
    rows = [
        {"question": "Who?", "answer": "<i>", "video_tokens": 4, "evidence": evidence(), "video": "clip.mp4"},
        {"question": "Where?", "answer": None, "video_tokens": 0, "error": "no"},
    ]
    html = Results(rows)._repr_html_()
    assert html.startswith("<table><tr><th>question</th><th>answer</th><th>video tokens</th><th>error</th></tr>")
    assert "<td>&lt;i&gt;</td><td>4</td><td></td></tr><tr><td>Where?</td><td></td><td>0</td><td>no</td>" in html
    assert html.count("<img") == 1 and Results(rows) == rows and isinstance(Results(rows), list)
    assert Results([{"question": "Both?", "evidence": [evidence(), evidence()]}])._repr_html_().count("<img") == 2


def test_a_strip_has_a_map_per_frame_from_light_to_dark():
    maps = np.zeros((18, 2, 3))
    maps[17, 1, 2] = 1.0
    strip = np.asarray(strip_of_maps(maps))
    assert strip.shape == (2 * 25, 16 * 37, 3)
    dark = np.argwhere(strip.sum(axis=-1) < 200)
    assert dark.min(axis=0).tolist() == [25 + 12, 37 + 24] and len(dark) == 12 * 12


def test_objects_full_of_numbers_are_told_in_a_line():
    torch.manual_seed(0)
    tokenizer = LinearVideoTokenizer(8, num_video_tokens=3, num_kept_tokens=6, bottleneck_size=4, num_heads=2)
    tokens = torch.randn(1, 5, 4, 8)
    output, refined = tokenizer(tokens), tokenizer.refine(tokens)
    features = VideoFeatures(refined, [tokens[0, 0]], "list", (2, 2), torch.arange(5.0), about={"name": "clip"})
    told = {
        repr(evidence()): "frames=<uint8 (3, 8, 10, 3)>",
        repr(output): "video_tokens=<float32 (1, 3, 8)>",
        repr(output.weights): "aggregation=<tuple of",
        repr(refined): "significance=<float32 (1, 5, 4)>",
        repr(features): "RefinedVideo(...), deepstack=<list of 1>",
        repr(read_video(np.zeros((4, 8, 8, 3), dtype=np.uint8), fps=2)): "frames=<uint8 (4, 8, 8, 3)>",
    }
    for text, part in told.items():
        assert part in text and len(text) < 900 and "\n" not in text and "tensor(" not in text
    assert "<tr><th>frames</th><td>5 frames</td></tr>" in features._repr_html_() and "clip" in features._repr_html_()
    assert picture_in(features._repr_html_()).size == (5 * 25, 25)
    assert features._repr_png_()[:4] == b"\x89PNG"
