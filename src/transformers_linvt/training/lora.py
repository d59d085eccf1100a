"""
Stage 2 with PEFT: LoRA on the language model of the base, LinVT trained beside it, and one checkpoint of both.

Ours: the paper trains the language model with LoRA in its second stage and does not say on which layers.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitInfo
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, logging

from ..errors import CheckpointError, LinVTInputError
from ..model.adapter_files import ADAPTER_SUBFOLDER, adapter_weights
from ..model.modeling_linvt import LinVTForVideoQA


logger = logging.get_logger(__name__)

ALL_LINEAR = "all-linear"  # as PEFT calls it
_PEFT_PREFIX = "base_model.model."  # of a PeftModel's parameters
_INSERTED_BY_PEFT = (BaseTunerLayer, AuxiliaryTrainingWrapper)
_ROUTERS = ("gate", "router")  # linear layers that choose experts: neither attention nor MLP


def language_model_targets(model: nn.Module) -> list[str]:
    """
    Full names of the attention and MLP projections of the base's language model, for `LoraConfig(target_modules=...)`.

    Full names and not endings such as `q_proj`: those would put LoRA on the vision tower and on LinVT as well. Taken
    from the model, so that families with other names (`fc1`, `dense`, a fused `qkv_proj`) need no table.

    Args:
        model ([`LinVTForVideoQA`]): or a [`~peft.PeftModel`] around one.

    Raises:
        LinVTInputError: another model, or a language model without linear layers.

    Example:

    >>> from transformers_linvt import LinVTForVideoQA, embedded_model_path
    >>> targets = language_model_targets(LinVTForVideoQA.from_pretrained(embedded_model_path()))
    >>> targets[0]
    'model.base_vlm.model.language_model.layers.0.self_attn.q_proj'
    """
    linvt_model = unwrap(model)
    decoder, head = linvt_model.get_decoder(), linvt_model.get_output_embeddings()
    prefix = next(name for name, module in linvt_model.named_modules() if module is decoder)
    targets = []
    for name, module in decoder.named_modules():
        last = name.rpartition(".")[2]
        if last == "base_layer" or ".lora_" in name:
            continue  # the inside of a layer that has LoRA already
        layer = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        is_inside_block = any(part.isdigit() for part in name.split("."))
        if isinstance(layer, nn.Linear) and is_inside_block and layer is not head and last not in _ROUTERS:
            targets.append(f"{prefix}.{name}")
    if not targets:
        raise LinVTInputError(
            f"The language model {type(decoder).__name__} has no torch.nn.Linear inside its layers, so there is "
            "nothing to put LoRA on. Name the modules yourself: LoraConfig(target_modules=[...])."
        )
    return targets


Kind = TypeVar("Kind", bound=PeftConfig)


def lora_config(
    model: nn.Module, r: int = 16, lora_alpha: int = 32, lora_dropout: float = 0.05, **kwargs: Any
) -> LoraConfig:
    """
    LoRA on the language model, and LinVT trained and saved with it: the second stage.

    LinVT stands in `modules_to_save`: without, PEFT would freeze it, or train it and lose it when saving. All else,
    such as the contrastive heads of the first stage, is frozen by PEFT.

    Args:
        model ([`LinVTForVideoQA`]): the model that the adapters are for.
        r, lora_alpha, lora_dropout: see [`~peft.LoraConfig`]; the values are those of TRL's `ModelConfig`.
        kwargs: further arguments of [`~peft.LoraConfig`], such as `use_rslora=True`. Of `target_modules`, endings such
            as `"q_proj"` and `"all-linear"` stand for the layers of the language model; `modules_to_save` comes
            beside LinVT.
    """
    targets = _in_language_model(model, kwargs.pop("target_modules", ALL_LINEAR))
    settings = {"target_modules": targets, "modules_to_save": None, **kwargs}
    return with_linvt(LoraConfig(r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, **settings))


def _in_language_model(model: nn.Module, wanted: str | Sequence[str]) -> str | list[str]:
    """Full names in the language model for endings such as `q_proj`; others, and regular expressions, are PEFT's."""
    known = language_model_targets(model)
    if wanted == ALL_LINEAR:
        return known
    found: list[str] = []
    for ending in [wanted] if isinstance(wanted, str) else wanted:
        matches = [name for name in known if name == ending or name.endswith(f".{ending}")]
        if isinstance(wanted, str) and not matches:
            return wanted
        found += matches or [ending]
    return found


def with_linvt(config: Kind) -> Kind:
    """
    A PEFT configuration under which LinVT is trained and saved: the same, or a copy with it among `modules_to_save`.

    Without, PEFT's checkpoints would hold the adapter alone, and a run that is resumed or that brings its best step
    back would have a LinVT of another step.

    Args:
        config: of any method that leaves weights beside the model.

    Raises:
        LinVTInputError: prompt learning and other methods that cannot train LinVT beside them, or biases of the base.

    Example:

    >>> with_linvt(LoraConfig(target_modules=["q_proj"])).modules_to_save
    ['linvt']
    """
    name = getattr(config.peft_type, "value", config.peft_type)
    if config.is_prompt_learning or not hasattr(config, "modules_to_save"):
        raise LinVTInputError(
            f"{name} has no modules_to_save, so PEFT cannot train LinVT beside it. Use LoRA (lora_config) or another "
            "method that adds weights to layers."
        )
    if (bias := getattr(config, "bias", "none")) != "none":
        raise LinVTInputError(
            f"bias={bias!r} trains biases of the base itself, which the checkpoint of an adapter does not "
            "bring back. Use bias='none', with lora_bias=True for biases of LoRA's own."
        )
    if parameters := getattr(config, "target_parameters", None):
        raise LinVTInputError(
            f"target_parameters={parameters!r} puts LoRA on parameters and not on layers, which the "
            "checkpoint of LinVT and LoRA does not bring back. Name layers in target_modules."
        )
    modules = list(getattr(config, "modules_to_save", None) or ())
    if any(one.rpartition(".")[2] == "linvt" for one in modules):
        return config
    changed: Any = copy.copy(config)
    changed.modules_to_save = [*modules, "linvt"]
    logger.info(f"'linvt' was added to modules_to_save of the {name} configuration, so that LinVT trains with it.")
    return changed


def save_instructed(model: nn.Module, save_directory: str | os.PathLike, **kwargs: Any) -> None:
    """
    Save a trained LinVT and its LoRA adapter as one checkpoint, which loads like any other.

    The folder holds LinVT's weights, the reference to the base, and the adapter in `lora/`.
    `AutoModel.from_pretrained(save_directory)` gives all of it; `model.disable_adapters()` takes the LoRA off, which
    makes pictures and text the base's own, bit by bit, and `model.enable_adapters()` puts it on again. The model can
    be trained on as before. An adapter that PEFT had saved directly in that folder is replaced.

    Args:
        model: the [`~peft.PeftModel`] that was trained, or a [`LinVTForVideoQA`] that was loaded with its adapter.
        save_directory: folder, made if missing.
        kwargs: see [`LinVTForVideoQA.save_pretrained`]; names of a `state_dict` may be PEFT's.

    Raises:
        CheckpointError: no adapter or several, one that is not LoRA, or a base that cannot be referred to.
    """
    linvt_model = _with_one_lora(model)
    if state_dict := kwargs.pop("state_dict", None):
        kwargs["state_dict"] = {name.removeprefix(_PEFT_PREFIX): value for name, value in state_dict.items()}
    with as_one_checkpoint(linvt_model):
        linvt_model.save_pretrained(save_directory, **kwargs)
    if kwargs.get("is_main_process", True):
        # A trainer leaves PEFT's own files in its output folder, and the Auto classes would load those first.
        for name in (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME):
            Path(save_directory, name).unlink(missing_ok=True)


def push_instructed(model: nn.Module, repo_id: str, **kwargs: Any) -> CommitInfo:
    """
    Push what [`save_instructed`] would save.

    Args:
        model: see [`save_instructed`].
        repo_id: `"name"` or `"organisation/name"`.
        kwargs: see [`LinVTForVideoQA.push_to_hub`].

    Raises:
        CheckpointError: as [`save_instructed`] and [`LinVTForVideoQA.push_to_hub`].
    """
    linvt_model = _with_one_lora(model)
    with as_one_checkpoint(linvt_model):
        return linvt_model.push_to_hub(repo_id, **kwargs)


def load_for_training(path: str | os.PathLike, **kwargs: Any) -> PeftModel:
    """
    A checkpoint of [`save_instructed`] as a [`~peft.PeftModel`] whose LoRA and LinVT go on training.

    What it saves by itself is an adapter of the checkpoint in `path`; [`save_instructed`] writes a new checkpoint.

    Args:
        path: repository id or folder.
        kwargs: see [`LinVTForVideoQA.from_pretrained`].

    Raises:
        CheckpointError: the checkpoint has no adapter.
    """
    if "output_loading_info" in kwargs:
        raise LinVTInputError("output_loading_info has no effect here: what does not load whole is refused.")
    loaded: Any = LinVTForVideoQA.from_pretrained(path, **kwargs)
    if not (subfolder := loaded.config.adapter_subfolder):
        raise CheckpointError(
            f"{os.fspath(path)!r} has no adapter. Start one: get_peft_model(model, lora_config(model))."
        )
    config, weights = loaded.peft_config["default"], adapter_weights(loaded)
    model: Any = LinVTForVideoQA.from_pretrained(path, base_vlm=None, **{**kwargs, "adapter_subfolder": None})
    del loaded
    config.modules_to_save, config.inference_mode = [*(config.modules_to_save or ()), "linvt"], False
    peft_model = get_peft_model(model, config)
    linvt = {f"model.linvt.{name}": value for name, value in model.linvt.original_module.state_dict().items()}
    set_peft_model_state_dict(peft_model, {f"{_PEFT_PREFIX}{k}": v for k, v in {**weights, **linvt}.items()})
    model.config.adapter_subfolder = subfolder
    return peft_model


def merge(model: nn.Module) -> LinVTForVideoQA:
    """
    Add the LoRA adapter to the weights of the base and take it out: the same answers, a little faster.

    The base is another one from then on, so the result is saved with its base (`config.includes_base` is set).

    Args:
        model: a [`~peft.PeftModel`] around a LinVT model, which is used up, or a [`LinVTForVideoQA`] that was loaded
            with its adapter.

    Raises:
        CheckpointError: the model has no adapter.
    """
    linvt_model = unwrap(model)
    if not getattr(linvt_model, "peft_config", None):
        raise CheckpointError("The model has no adapter to merge.")
    if any(getattr(linvt_model, name, False) for name in ("is_loaded_in_4bit", "is_loaded_in_8bit")):
        logger.warning(
            "The base is quantised, so what is merged is rounded again and answers change. Save the adapter, load it "
            "without quantization_config, and merge that."
        )
    linvt_model = model.merge_and_unload() if isinstance(model, PeftModel) else _merge_layers(linvt_model)
    linvt_model.config.adapter_subfolder, linvt_model.config.includes_base = None, True
    return linvt_model


def _merge_layers(model: LinVTForVideoQA) -> LinVTForVideoQA:
    """What `merge_and_unload` does, for an adapter that transformers loaded."""
    inserted = [(name, module) for name, module in model.named_modules() if isinstance(module, _INSERTED_BY_PEFT)]
    for name, module in inserted:
        module.enable_adapters(True)
        if isinstance(module, AuxiliaryTrainingWrapper):
            plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        elif name.endswith(".token_adapter"):
            continue  # the inside of the one above
        else:
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        parent, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(parent), own_name, plain)
    model.model.freeze_base()
    model._hf_peft_config_loaded = False
    del model.peft_config
    return model


def _with_one_lora(model: nn.Module) -> LinVTForVideoQA:
    linvt_model = unwrap(model)
    if not (peft_config := getattr(linvt_model, "peft_config", None)):
        raise CheckpointError("The model has no adapter. Save it with model.save_pretrained(folder).")
    if kinds := [one.peft_type.value for one in peft_config.values() if one.peft_type.value != "LORA"]:
        raise CheckpointError(f"The adapter is {', '.join(kinds)}; a checkpoint of LinVT holds LoRA only.")
    return linvt_model


@contextmanager
def as_one_checkpoint(model: LinVTForVideoQA) -> Iterator[None]:
    """The model as one that is saved together with its adapter; see [`save_instructed`]."""
    before = model.config.adapter_subfolder
    model.config.adapter_subfolder = before or ADAPTER_SUBFOLDER
    try:
        yield
    finally:
        model.config.adapter_subfolder = before


def unwrap(model: nn.Module) -> LinVTForVideoQA:
    """
    The LinVT model inside PEFT's.

    Raises:
        LinVTInputError: the model has no LinVT.
    """
    found = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(found, LinVTForVideoQA):
        return found
    if isinstance(found, str):
        raise LinVTInputError(
            f"A LinVTForVideoQA is needed here, not the name {found!r}. Load it first: "
            "LinVTForVideoQA.from_pretrained(...) or from_base(...)."
        )
    raise LinVTInputError(
        f"A LinVTForVideoQA is needed here, maybe with PEFT around it; {type(found).__name__} was given."
    )


__all__ = [
    "language_model_targets",
    "load_for_training",
    "lora_config",
    "merge",
    "push_instructed",
    "save_instructed",
    "unwrap",
    "with_linvt",
]
