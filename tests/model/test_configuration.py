"""The configuration: what it takes and refuses, that a file keeps it, and that it leaves the base's config alone."""

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from promises import check_refused
from tiny_bases import build_model
from transformers_linvt import LinearVideoTokenizer, LinVTConfig, LinVTInputError
from transformers_linvt.model.configuration_linvt import TOKENIZER_FIELDS


# No value is a default, and no two are equal.
NUMBERS = {
    "contrastive_size": 10,
    "num_video_tokens": 6,
    "num_kept_tokens": 20,
    "pooling_scales": (1, 3),
    "scale_mode": "shared",
    "bottleneck_size": 16,
    "num_heads": 4,
    "num_scorer_layers": 1,
    "num_aggregator_layers": 3,
    "temporal_window": 5,
    "selection": "uniform",
    "aggregation": "nonlinear",
    "text_conditioned": False,
    "init": "free",
    "shift_windows": True,
    "max_frames": 99,
    "frames_per_chunk": 7,
}


def test_every_number_reaches_the_tokenizer_under_its_own_name():
    config = LinVTConfig(**NUMBERS)
    assert config.tokenizer_kwargs == {name: NUMBERS[name] for name in TOKENIZER_FIELDS}
    tokenizer = LinearVideoTokenizer(24, **config.tokenizer_kwargs)
    assert tokenizer.num_video_tokens == 6 and tokenizer.scales == (1, 3) and tokenizer.shift_windows


def test_the_tokenizers_defaults_are_the_configs():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(LinearVideoTokenizer.__init__).parameters.items()
        if name not in ("self", "dim")
    }
    config = LinVTConfig()
    assert set(defaults) == set(TOKENIZER_FIELDS)
    assert defaults == {name: getattr(config, name) for name in TOKENIZER_FIELDS}


@pytest.mark.parametrize("name", ["qwen3_vl", "gemma3", "llava_phi"])
def test_a_config_comes_back_from_a_file(name: str, tmp_path: Path):
    base = build_model(name).config
    config = LinVTConfig(base_config=base, base_model_name_or_path="org/base", base_revision="abc", **NUMBERS)
    config.save_pretrained(tmp_path)
    for load in (AutoConfig, LinVTConfig):
        again = load.from_pretrained(tmp_path)
        assert isinstance(again, LinVTConfig)
        assert {field: getattr(again, field) for field in NUMBERS} == NUMBERS
        assert (again.base_model_name_or_path, again.base_revision) == ("org/base", "abc")
        assert type(again.base_config) is type(base)
        assert _settings(again) == _settings(config)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "linvt"


def _settings(config: LinVTConfig) -> dict[str, Any]:
    """Everything but where it was loaded from."""
    settings = config.to_dict()
    del settings["_name_or_path"]
    settings["base_config"].pop("_name_or_path", None)
    return settings


def implementations(config: Any) -> list[str | None]:
    return [c._attn_implementation for c in (config, config.get_text_config(), config.vision_config)]


def test_a_live_base_config_keeps_its_attention_implementation():
    """A composite config around a live base config would reset it to None, and the causal mask with it."""
    base = build_model("qwen3_vl")
    base.set_attn_implementation("eager")
    base.config.vision_config._attn_implementation = "sdpa"
    before = implementations(base.config)
    config = LinVTConfig(base_config=base.config)
    assert config.base_config is base.config
    assert implementations(base.config) == before == ["eager", "eager", "sdpa"]
    assert implementations(copy.deepcopy(config).base_config) == before


def test_the_language_model_and_the_placeholder_are_the_bases():
    base = build_model("qwen3_vl").config
    config = LinVTConfig(base_config=base)
    assert config.get_text_config() is base.text_config
    assert config.image_token_id == base.image_token_id


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"num_video_tokens": 0}, ("num_video_tokens=0", "at least 1")),
        ({"num_kept_tokens": -3}, ("num_kept_tokens=-3",)),
        ({"bottleneck_size": 0}, ("bottleneck_size=0",)),
        ({"num_heads": 0}, ("num_heads=0",)),
        ({"temporal_window": 0}, ("temporal_window=0",)),
        ({"max_frames": 0}, ("max_frames=0",)),
        ({"frames_per_chunk": 0}, ("frames_per_chunk=0",)),
        ({"pooling_scales": ()}, ("pooling_scales=()",)),
        ({"pooling_scales": (2, 0)}, ("pooling_scales=(2, 0)",)),
        (
            {"num_video_tokens": 2, "scale_mode": "specific"},
            ("num_video_tokens=2", "3 pooling scales", "shared"),
        ),
    ],
)
def test_numbers_that_cannot_work_are_refused(wrong: dict[str, Any], words: tuple[str, ...]):
    check_refused(lambda: LinVTConfig(**wrong), LinVTInputError, *words)


@pytest.mark.parametrize("name", ["scale_mode", "selection", "aggregation", "init"])
def test_a_word_that_is_no_choice_is_refused_with_the_choices(name: str):
    with pytest.raises(Exception, match=name):
        LinVTConfig(**{name: "sometimes"})


def test_fewer_tokens_than_scales_are_fine_where_the_scales_share_their_queries():
    assert LinVTConfig(num_video_tokens=2, scale_mode="shared").num_video_tokens == 2
