"""
A base that is quantised, partly on disk, or runs another attention is the base it was: LinVT around it stays whole.

The nine families of `tiny_bases.py` are loaded from folders, as from the Hub. What needs a package that is missing is
skipped and says so: torchao comes with `make test`; bitsandbytes and optimum-quanto do not, and are run where they
are.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PreTrainedConfig,
    QuantoConfig,
    TorchAoConfig,
)

from promises import (
    FAMILIES,
    LINVT,
    QUESTION,
    Wrapped,
    check_refused,
    labels_of,
    realigned,
    relative_difference,
    stir,
    user,
    wrapped,
)
from transformers_linvt import CheckpointError, LinVTForVideoQA
from transformers_linvt.model.configuration_linvt import implementations


# What is new, and what is kept, is a choice, and a vision tower that differs by 1 % may choose otherwise: here all are
# kept, and no edge of a stretch lies between them.
ALL_KEPT = {**LINVT, "num_kept_tokens": 1000, "init": "anchored"}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Wrapped:
    return keeping_all(request.param)


@pytest.fixture
def plain() -> Wrapped:
    return keeping_all("llava_phi")


def keeping_all(name: str) -> Wrapped:
    family = wrapped(name)
    torch.manual_seed(0)
    family.model = stir(LinVTForVideoQA.from_base(family.base_folder, **ALL_KEPT))
    return family


def around(family: Wrapped, **kwargs: Any) -> LinVTForVideoQA:
    """The base of a family, loaded again with `kwargs`, and the LinVT of the family around it."""
    model = LinVTForVideoQA.from_base(family.base_folder, **ALL_KEPT, **kwargs)
    model.linvt.load_state_dict(family.model.linvt.state_dict())
    return model


def ask(family: Wrapped) -> dict[str, Any]:
    return family.inputs(user(family.clip(5), QUESTION))


def saved(model: LinVTForVideoQA, folder: Path, include_base: bool = False) -> Path:
    model.save_pretrained(folder, include_base=include_base)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Quantised
# ---------------------------------------------------------------------------------------------------------------------


def torchao() -> TorchAoConfig:
    pytest.importorskip("torchao", reason="torchao is not installed: pip install torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def bitsandbytes() -> BitsAndBytesConfig:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=True)


def quanto() -> QuantoConfig:
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed: pip install optimum-quanto ninja")
    return QuantoConfig(weights="int8")


# How far the logits may be off; bitsandbytes rounds the activations to 8 bits as well.
TOLERANCE = {torchao: 0.05, quanto: 0.05, bitsandbytes: 0.15}
quantised_by = pytest.mark.parametrize("int8", TOLERANCE, ids=lambda int8: int8.__name__)
# transformers 5.23 takes several layers of Molmo2 out of one tensor: torchao loses all but one of them, quanto fails
LOST = {(torchao, "molmo2"), (quanto, "molmo2")}


def is_quantised(weight: torch.Tensor) -> bool:
    return type(weight) is not nn.Parameter or not weight.is_floating_point()


def check_base_is_quantised_and_linvt_is_not(model: LinVTForVideoQA) -> None:
    layers = [module for module in model.get_decoder().layers.modules() if isinstance(module, nn.Linear)]
    assert layers
    assert all(is_quantised(layer.weight) for layer in layers)
    assert not any(is_quantised(weight) for weight in model.linvt.parameters())
    assert {weight.dtype for weight in model.linvt.parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in model.linvt.parameters())
    assert not any(weight.requires_grad for weight in model.base_vlm.parameters())


@quantised_by
def test_a_quantised_base_answers_nearly_as_the_base(family: Wrapped, int8: Callable):
    config = int8()
    if (int8, family.name) in LOST:
        pytest.skip("see test_a_base_that_would_come_with_random_weights_is_refused")
    model, inputs = around(family, quantization_config=config), ask(family)
    check_base_is_quantised_and_linvt_is_not(model)
    assert not any(is_quantised(weight) for weight in family.model.parameters())  # the control of `is_quantised`
    logits = model(**inputs).logits
    assert 1e-4 < relative_difference(logits, family.model(**inputs).logits) < TOLERANCE[int8]
    generated = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert generated[0, inputs["input_ids"].shape[1]] == logits[0, -1].argmax()
    model.train()
    model(**inputs, labels=labels_of(model, inputs)).loss.backward()
    still = [name for name, weight in model.linvt.named_parameters() if not bool(weight.grad.abs().max() > 0)]
    assert not still


@quantised_by
def test_a_quantised_base_is_saved_as_a_reference_and_quantised_again(plain: Wrapped, int8: Callable, tmp_path: Path):
    config, inputs = int8(), ask(plain)
    model = around(plain, quantization_config=config)
    logits = model(**inputs).logits
    folder = saved(model, tmp_path)
    for load in (AutoModel, AutoModelForImageTextToText, LinVTForVideoQA):
        again = load.from_pretrained(folder, quantization_config=int8())
        check_base_is_quantised_and_linvt_is_not(again)
        assert relative_difference(again(**inputs).logits, logits) < 1e-6
    # The reference is to the base as its folder has it.
    assert relative_difference(AutoModel.from_pretrained(folder)(**inputs).logits, plain.model(**inputs).logits) < 1e-6


@quantised_by
def test_of_a_checkpoint_with_its_base_the_base_alone_is_quantised(plain: Wrapped, int8: Callable, tmp_path: Path):
    """transformers loads such a checkpoint as one model, and quantised the layers of LinVT with the others."""
    config, inputs = int8(), ask(plain)
    model = AutoModel.from_pretrained(saved(plain.model, tmp_path / "whole", True), quantization_config=config)
    check_base_is_quantised_and_linvt_is_not(model)
    logits = model(**inputs).logits
    assert relative_difference(logits, around(plain, quantization_config=config)(**inputs).logits) < 1e-5
    if int8 is quanto:  # transformers cannot save it
        check_refused(lambda: model.save_pretrained(tmp_path / "again"), CheckpointError, "quantised", "reference")
        return
    again = AutoModel.from_pretrained(saved(model, tmp_path / "again", True))
    check_base_is_quantised_and_linvt_is_not(again)
    assert relative_difference(again(**inputs).logits, logits) < 1e-6


@quantised_by
def test_a_quantised_base_is_not_saved_whole(plain: Wrapped, int8: Callable, tmp_path: Path):
    """It was, with 8-bit integers in place of weights: the reloaded model gave other logits without a word."""
    model = around(plain, quantization_config=int8())
    check_refused(
        lambda: model.save_pretrained(tmp_path, include_base=True), CheckpointError, "quantised", "include_base=False"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("include_base", [False, True])
def test_linvt_beside_a_base_in_float16_is_in_float16(plain: Wrapped, tmp_path: Path, include_base: bool):
    """What keeps the quantisers off LinVT is transformers' list of modules that stay in float32 then."""
    model = AutoModel.from_pretrained(saved(plain.model, tmp_path, include_base), dtype=torch.float16)
    assert {weight.dtype for weight in model.parameters()} == {torch.float16}


def test_a_base_that_would_come_with_random_weights_is_refused():
    """Molmo2 quantised by torchao: k_proj, v_proj and gate_proj stayed random (transformers 5.23), which is logged."""
    family, config = wrapped("molmo2"), torchao()
    check_refused(
        lambda: LinVTForVideoQA.from_base(family.base_folder, quantization_config=config, **LINVT),
        CheckpointError,
        "9 of its weights random",
        "gate_proj",
        "quantization_config",
    )


def test_a_quantisation_reaches_the_base_whatever_loads_it(
    plain: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The package of bitsandbytes is not needed for it: what transformers is asked for is looked at."""
    folder, given, load = saved(plain.model, tmp_path), [], AutoModelForImageTextToText.from_pretrained

    def noting(name: str, **kwargs: Any) -> Any:
        given.append((name, kwargs.pop("quantization_config", None)))
        return load(name, **kwargs)

    config = BitsAndBytesConfig(load_in_8bit=True)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", noting)
    LinVTForVideoQA.from_base(plain.base_folder, quantization_config=config, **LINVT)
    LinVTForVideoQA.from_pretrained(folder, quantization_config=config)
    AutoModel.from_pretrained(folder, quantization_config=config)
    LinVTForVideoQA.from_pretrained(folder)
    assert given == [(str(plain.base_folder), asked) for asked in (config, config, config, None)]


# ---------------------------------------------------------------------------------------------------------------------
# Partly on disk
# ---------------------------------------------------------------------------------------------------------------------


def places(module: nn.Module, on_disk: set[str], name: str = "") -> Iterator[tuple[str, str]]:
    """A device map with some modules on disk and everything else on the CPU, no entry inside another."""
    if name in on_disk or not any(other.startswith(f"{name}.".lstrip(".")) for other in on_disk):
        yield name, "disk" if name in on_disk else "cpu"
        return
    for part, _ in module.named_parameters(recurse=False):
        yield f"{name}.{part}".lstrip("."), "cpu"
    for part, child in module.named_children():
        yield from places(child, on_disk, f"{name}.{part}".lstrip("."))


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")  # parameters by name
def test_a_base_partly_on_disk_gives_the_same_and_linvt_is_where_it_computes(family: Wrapped, tmp_path: Path):
    decoder = next(name for name, module in family.base.named_modules() if module is family.base.get_decoder())
    on_disk = {f"{decoder}.layers.1"}
    if family.base.get_input_embeddings().weight is not family.base.get_output_embeddings().weight:
        # Tied ones accelerate refuses to part (1.15): the head on the CPU would want what is on disk.
        on_disk.add(f"{decoder}.embed_tokens")
    model = around(family, device_map=dict(places(family.base, on_disk)), offload_folder=tmp_path)
    assert {name for name, place in model.hf_device_map.items() if place == "disk"} == {
        f"model.base_vlm.{name}" for name in on_disk
    }
    assert all(weight.is_meta for weight in model.get_decoder().layers[1].parameters())
    assert not any(weight.is_meta for weight in model.get_decoder().layers[0].parameters())
    # The embeddings themselves may be on disk; where they compute is where LinVT belongs.
    assert {weight.device for weight in model.linvt.parameters()} == {torch.device("cpu")}
    assert torch.device(model.hf_device_map["model.linvt"]) == torch.device("cpu")
    inputs, greedy = ask(family), {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert relative_difference(model(**inputs).logits, family.model(**inputs).logits) < 1e-6
    assert torch.equal(model.generate(**inputs, **greedy), family.model.generate(**inputs, **greedy))


# ---------------------------------------------------------------------------------------------------------------------
# Another attention
# ---------------------------------------------------------------------------------------------------------------------


def names_in(implementations: dict[str, Any]) -> Iterator[str | None]:
    for value in implementations.values():
        if isinstance(value, dict):
            yield from names_in(value)
        else:
            yield value


def attention_of(base: nn.Module) -> list[str | None]:
    """Of the base's config, of each of its sub-configs, and of the config that each part of the base really has."""
    of_modules = [m.config for m in base.modules() if isinstance(getattr(m, "config", None), PreTrainedConfig)]
    configs = [base.config, base.config.get_text_config(), *of_modules]
    return [*names_in(implementations(base.config, "attn")), *(config._attn_implementation for config in configs)]


@torch.no_grad()
def test_eager_and_sdpa_attention_agree_and_are_what_was_asked_for(family: Wrapped, tmp_path: Path):
    inputs, folder = ask(family), saved(family.model, tmp_path)
    ways = {
        "from_base": functools.partial(around, family),
        "from_pretrained": functools.partial(LinVTForVideoQA.from_pretrained, folder),
        "AutoModel": functools.partial(AutoModel.from_pretrained, folder),
    }
    default = attention_of(family.base)
    assert len(default) > 4
    assert set(default) == {"sdpa"}  # so that "eager" below is not there by itself
    for way, load in ways.items():
        logits = {}
        for asked in ("eager", "sdpa"):
            model = load(attn_implementation=asked)
            assert set(attention_of(model.base_vlm)) == {asked}, way
            logits[asked] = realigned(model)(**inputs).logits
        assert relative_difference(logits["eager"], logits["sdpa"]) < 1e-5, way
        assert not torch.equal(logits["eager"], logits["sdpa"]), f"{way}: the same kernel ran twice"
