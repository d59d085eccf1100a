"""
benchmarks/performance.py: what it counts is right, and every way to ask answers the same question.

The seconds are the machine's; the counts of tokens, bytes and operations are worked out by hand here.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "performance.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("performance", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def rows(script: ModuleType) -> dict[str, object]:
    script.ANSWER_TOKENS = 2
    base = script.Base("tiny", CPU, torch.float32)
    watch = script.Stopwatch(CPU, 1)
    planned = script.rows_of(base, "tiny", [5], [7], 5)
    return {row.arm: script.measure(base, row, watch, 1.0) for row in planned}


def test_every_way_to_ask_gives_a_first_token_and_says_how_many_visual_tokens_it_took(rows):
    per_frame = 13 * 23  # a token is 28 x 28 pixels of 360 x 640
    assert {arm: row.visual_tokens for arm, row in rows.items()} == {
        "linvt": 7,
        "linvt, merged frames": 7,
        "all frames": 5 * per_frame,
        "own video path": 3 * per_frame,  # two frames are a step
        "fewer frames": per_frame,
    }
    assert all(row.first_token_s > 0 and row.error is None for row in rows.values())
    assert all((row.vision_s is None) == (row.linvt_s is None) == ("linvt" not in row.arm) for row in rows.values())


def test_the_cache_holds_keys_and_values_of_visual_tokens_and_question(script, rows):
    of_token = 2 * 2 * 1 * 32 * 4  # keys and values, layers, heads of keys, width of a head, bytes of float32
    for row in rows.values():
        assert row.cache_bytes == (1 + script.QUESTION_TOKENS + row.visual_tokens) * of_token


def test_the_limit_counts_the_patches_of_every_frame_that_is_encoded(script, rows):
    base = script.Base("tiny", CPU, torch.float32)
    tower = sum(p.numel() for p in base.model.model.visual.parameters())
    text = base.model.model.language_model
    language = sum(p.numel() for name, p in text.named_parameters() if "embed" not in name)
    for arm, pictures in (("linvt", 5), ("linvt, merged frames", 3), ("all frames", 5), ("fewer frames", 1)):
        row = rows[arm]
        tokens = 1 + script.QUESTION_TOKENS + row.visual_tokens
        patches = 4 * 13 * 23 * pictures
        expected = 2 * tower * patches + 2 * language * tokens + 2 * 2 * 64 * tokens**2
        assert row.limit_s * 1e12 == pytest.approx(expected, rel=1e-6)


def test_the_table_names_the_machine_and_what_did_not_fit(script, rows, tmp_path):
    lines = [vars(row) | {"machine": "a machine"} for row in rows.values()]
    lines.append(vars(script.Row("tiny", "all frames", 900, 7, error="does not fit the memory", machine="a machine")))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = script.table([json.loads(line) for line in file.read_text().splitlines()])
    assert table.startswith("tiny, random weights, frames of 640x360; a machine")
    assert "| 5 | linvt, M = 7 | 7 |" in table and "| 900 | all frames | does not fit the memory |" in table


# --- the page --------------------------------------------------------------------------------------------------------


def measured(name: str) -> list[dict]:
    lines = (SCRIPT.parents[1] / "docs" / "performance" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_page_shows_what_was_measured(script):
    page = (SCRIPT.parents[1] / "docs" / "performance.md").read_text(encoding="utf-8")
    for card in ("h100", "h200"):
        assert script.table(measured(card)) in page
        assert all(row["machine"].startswith(f"NVIDIA {card.upper()}") for row in measured(card))


def test_the_sentences_of_the_page_are_what_was_measured():
    page = " ".join((SCRIPT.parents[1] / "docs" / "performance.md").read_text(encoding="utf-8").split())
    h100, h200 = (
        {(row["shape"], row["frames"], row["arm"]): row for row in measured(card)} for card in ("h100", "h200")
    )

    def times_smaller(rows: dict, shape: str, frames: int, arm: str, of: str) -> float:
        return rows[shape, frames, "own video path"][of] / rows[shape, frames, arm][of]

    for shape in ("qwen2-vl-2b", "qwen2-vl-7b"):
        assert times_smaller(h200, shape, 32, "linvt", "cache_bytes") == pytest.approx(16.7, abs=0.05)
    assert times_smaller(h100, "qwen2-vl-2b", 128, "linvt", "cache_bytes") == pytest.approx(66.3, abs=0.05)
    merged = "linvt, merged frames"
    sooner = times_smaller(h200, "qwen2-vl-7b", 32, merged, "first_token_s")
    assert f"comes {sooner:.2f} times sooner" in page
    seconds = [h200["qwen2-vl-2b", 32, arm]["first_token_s"] for arm in (merged, "own video path", "linvt")]
    assert all(f"{one:.3f} s" in page for one in seconds)
    large = h200["qwen2-vl-7b", 128, merged]
    assert f"{large['vision_s'] / large['first_token_s']:.0%}".replace("%", " %") in page
    assert f"{large['linvt_s'] / large['first_token_s']:.0%}".replace("%", " %") + " of it there" in page
    of_linvt = [1e3 * row["linvt_s"] for row in h200.values() if row["linvt_s"]]
    assert f"{min(of_linvt):.0f} to {max(of_linvt):.0f} ms" in page
    for rows in (h100, h200):
        for (shape, frames, arm), row in rows.items():
            if arm.startswith("linvt") and (shape, frames, "own video path") in rows:
                without = rows[shape, frames, "own video path"]["per_token_s"]
                assert row["per_token_s"] < 1.2 * without
