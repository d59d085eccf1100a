"""The kinds of bases: what is registered, under the new names and the old, and that each file of `kinds/` is known."""

import importlib
import warnings
from pathlib import Path

import pytest
import torch

import transformers_linvt
from promises import LINVT, check_refused
from tiny_bases import build_model
from transformers_linvt import BaseBridge, EmbeddingsBridge, LinVTForVideoQA, LinVTInputError, register_base
from transformers_linvt.bases import base as seam
from transformers_linvt.bases import kinds
from transformers_linvt.bases.families import Family
from transformers_linvt.bases.registry import bridge_of


FILES = sorted(path.stem for path in Path(kinds.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seam, "_REGISTERED", {})


def test_a_registered_bridge_comes_before_a_built_in_one_and_that_before_the_common_one():
    ours = BaseBridge(Family(video_type_id=7))
    assert type(bridge_of("llama4")).__name__ == "Llama4Bridge" and type(bridge_of("llava")) is BaseBridge
    for model_type in ("llama4", "llava", "peephole"):
        register_base(model_type, ours)
        assert bridge_of(model_type) is ours


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("", BaseBridge()), ("model_type", "''")),
        (("x", Family()), ("BaseBridge", "Family(")),
        (("x", BaseBridge), ("'x'",)),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments: tuple, words: tuple[str, ...]):
    check_refused(lambda: register_base(*arguments), LinVTInputError, *words)


@pytest.mark.parametrize(
    ("old", "new"),
    [("BaseAdapter", BaseBridge), ("EmbeddingsAdapter", EmbeddingsBridge), ("register_base_vlm", register_base)],
)
def test_the_old_names_are_the_new_ones_with_a_warning(old: str, new: object):
    with pytest.warns(FutureWarning, match=f"{old} is now {new.__name__}"):
        assert getattr(transformers_linvt, old) is new
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(transformers_linvt, new.__name__) is new


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_kinds_is_imported_by_the_registry(name: str):
    """A file that nobody imports would leave its base to the common bridge, and nothing would say so."""
    registry = importlib.import_module("transformers_linvt.bases.registry")
    file = f"{kinds.__name__}.{name}"
    used = {getattr(value, "__module__", None) for value in vars(registry).values()}
    bridges = {type(bridge).__module__ for bridge in seam._BUILT_IN.values()}
    layouts = {type(bridge.family.layout).__module__ for bridge in seam._BUILT_IN.values()}
    assert file in used | {f"{kinds.__name__}.molmo_processor"}  # which molmo.py imports
    assert file in bridges | layouts | {f"{kinds.__name__}.molmo_processor"}


@pytest.mark.parametrize("name", ["llava_phi", "gemma3", "blip-2"])
def test_a_frozen_base_drops_nothing_while_linvt_trains(name: str):
    """Rates of one half everywhere: the loss of a step is that of `eval()`. With its gradients back it drops."""
    base = build_model(name)
    for config in [base.config, *(getattr(base.config, one) for one in base.config.sub_configs)]:
        for field in vars(config):
            if "drop" in field:
                setattr(config, field, 0.5)
    dropping = type(base)(base.config)
    dropping.load_state_dict(base.state_dict())
    model = LinVTForVideoQA.from_base(dropping, **LINVT)
    ids = torch.tensor([[4, 5, 6, 7, 8, 9]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        assert torch.equal(model.train()(input_ids=ids).logits, expected)
        model.model.base_vlm.requires_grad_(True)
        assert not torch.equal(model.train()(input_ids=ids).logits, expected)
