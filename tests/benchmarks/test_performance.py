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
