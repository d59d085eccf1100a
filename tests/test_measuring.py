"""
`linvt bench`: every way asks about the same frames, its counts are those worked out by hand, and what LinVT cannot do
is said. The seconds are the machine's.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from promises import Wrapped, wrapped
from transformers_linvt import Bench, LinVTConfig, LinVTInputError, embedded_model_path
from transformers_linvt.cli import main
from transformers_linvt.measuring import WAYS, Cost, Stopwatch, table_of, verdicts


FRAMES = 5


@pytest.fixture(scope="module")
def family() -> Wrapped:
    return wrapped("llava_phi")


@pytest.fixture(scope="module")
def costs(family: Wrapped) -> dict[str, Cost]:
    bench = Bench(family.model, family.processor, repeats=1, answer_tokens=2)
    found = bench.measure(family.clip(FRAMES), FRAMES)
    assert [cost.way for cost in found] == list(WAYS)
    return {cost.way: cost for cost in found}


def test_every_way_looks_at_the_frames_that_its_name_says(family: Wrapped, costs: dict[str, Cost]):
    made = family.processor.video_inputs(family.clip(1))
    (one,) = family.model.model.encode_videos([1], {"pixel_values": made["frame_pixel_values"]})
    of_frame, most = one.tokens.shape[1], family.model.config.num_video_tokens
    few = max(1, most // of_frame)
    assert few < FRAMES
    assert {way: costs[way].visual_tokens for way in WAYS[:3]} == {
        "linvt": most, "all frames": FRAMES * of_frame, "fewer frames": few * of_frame,
    }  # fmt: skip
    assert [costs[way].frames_seen for way in WAYS[:3]] == [FRAMES, FRAMES, few]
    assert costs["own video path"].error == "this base has none"
    for way in WAYS[:3]:
        cost = costs[way]
        assert cost.first_token_s == cost.preprocess_s + cost.vision_s + (cost.linvt_s or 0) + cost.prefill_s
        assert cost.limit_s > 0 and cost.questions_per_s > 0 and cost.decode_s > 0


def test_the_cache_holds_keys_and_values_of_every_token(family: Wrapped, costs: dict[str, Cost]):
    text = family.base.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    of_token = 2 * text.num_hidden_layers * heads * (text.hidden_size // text.num_attention_heads) * 4
    sizes = {way: costs[way].cache_bytes / of_token - costs[way].visual_tokens for way in WAYS[:3]}
    words = sizes["linvt"]  # of the question
    assert words == int(words) > 0
    # the base's own processor may write marks around each picture
    assert all(size >= words for size in sizes.values())


def test_a_prompt_that_the_base_cannot_read_says_so_and_others_are_measured(family: Wrapped, monkeypatch: Any):
    monkeypatch.setattr(family.base.config.get_text_config(), "max_position_embeddings", 30)
    bench = Bench(family.model, family.processor, repeats=1, answer_tokens=2)
    found = {cost.way: cost for cost in bench.measure(family.clip(FRAMES), FRAMES, ("all frames", "fewer frames"))}
    assert "more than the base takes (30)" in found["all frames"].error
    assert "| more than" not in table_of(list(found.values())) and "more than the base takes" in table_of(
        list(found.values())
    )


def test_an_unknown_way_is_refused(family: Wrapped):
    with pytest.raises(LinVTInputError, match="Did you mean 'all frames'"):
        Bench(family.model, family.processor).measure(family.clip(2), 2, ("all frame",))


def test_a_stopwatch_sees_memory_and_time():
    seconds, peak = Stopwatch(torch.device("cpu"), 1).measure(lambda: torch.ones(40_000_000).sum().item())
    assert seconds > 0
    assert peak is None or peak > 100_000_000  # 160 MB of float32


def test_what_the_figures_say():
    """Where LinVT does not help, that is said."""
    mine = Cost("linvt", 8, 16, 8, 16, 0.1, 0.1, 0.5, 0.1, 0.1, 0.01, 9.0, 0.1, 1_000, 1)
    whole = replace(mine, way="all frames", visual_tokens=80, linvt_s=None, prefill_s=1.0, cache_bytes=5_000)
    (line,) = verdicts([mine, whole])
    assert line.startswith("8 frames, M = 16: the first token comes 2.00 times sooner than with all frames")
    assert line.endswith("its cache is 5.0 times smaller.")
    (line,) = verdicts([mine, replace(whole, prefill_s=0.05)])
    assert "LinVT saves no time (0.81 times as fast" in line and "takes 62% of the time" in line
    (line,) = verdicts([mine, replace(whole, visual_tokens=12)])
    assert "makes the prompt longer (16 for 12 tokens)" in line
    (line,) = verdicts([mine, replace(whole, error="does not fit the memory")])
    assert "without LinVT the frames cannot be asked about: does not fit the memory" in line


def test_the_command_prints_rows_as_json_and_refuses_what_is_not_there(capsys: Any, tmp_path: Any):
    how = ["--device", "cpu", "--repeats", "1", "--answer-tokens", "1", "--num-frames", "2"]
    own = LinVTConfig.from_pretrained(embedded_model_path()).num_video_tokens
    assert main(["bench", *how, "--ways", "linvt", "--video-tokens", str(own), "12", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["video_tokens"], row["visual_tokens"]) for row in rows] == [(own, own), (12, 12)]
    assert "CPU, torch" in rows[0]["machine"]
    assert main(["bench", str(tmp_path / "missing.mp4"), *how]) == 1
    assert "does not exist" in capsys.readouterr().err
