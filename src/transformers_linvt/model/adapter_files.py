"""
The adapter of a checkpoint, written and read by PEFT's own rules.

transformers 5.23 reads adapters by rules of its own, which misname what DoRA adds to a layer and leave it at its start
without an error.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.loading_report import LoadStateDictInfo

from ..bases.loading import HUB_ARGUMENTS
from ..errors import CheckpointError, LinVTInputError


_PEFT_PREFIX = "base_model.model."  # of the names in an adapter's file
ADAPTER_SUBFOLDER = "lora"  # where a one-folder checkpoint keeps its adapter


def is_of_base(name: str) -> bool:
    """
    Whether a weight that PEFT saves with an adapter is the base's own: embeddings that have LoRA on them.

    >>> is_of_base("embed_tokens.base_layer.weight"), is_of_base("embed_tokens.lora_embedding_A")
    (True, False)
    """
    return ".base_layer." in name


def adapter_weights(
    model: Any, adapter_name: str = "default", state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """
    The weights of an adapter by PEFT's names, as `get_adapter_state_dict` of transformers gives them.

    transformers 5.24 asks there for a PEFT that is newer than the newest one.

    Args:
        model: a model with the adapter.
        adapter_name: how the model calls it.
        state_dict: weights to take instead of the model's own.
    """
    from peft import get_peft_model_state_dict  # here, as in `put_adapter`

    return get_peft_model_state_dict(model, state_dict=state_dict, adapter_name=adapter_name)


def put_adapter(
    model: Any,
    path: str | os.PathLike,
    adapter_name: str = "default",
    *,
    is_trainable: bool = False,
    hub_arguments: Mapping[str, Any] | None = None,
) -> LoadStateDictInfo:
    """
    Put the adapter of a folder or repository onto a model, as `load_adapter` of transformers does.

    Args:
        model: a transformers model; changed in place.
        path: what holds `adapter_config.json` and `adapter_model.safetensors`, below `subfolder` if that is given.
        adapter_name: how the model calls it.
        is_trainable: whether it goes on training.
        hub_arguments: `revision`, `subfolder`, `token` and the like.

    Returns:
        `LoadStateDictInfo`: names of weights that are missing and of those that nobody expected.

    Raises:
        CheckpointError: one of the files is missing.
        LinVTInputError: the model has an adapter of that name.
    """
    # here, because it takes a second, and most checkpoints have no adapter
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

    if adapter_name in getattr(model, "peft_config", {}):
        raise LinVTInputError(f"The model has an adapter {adapter_name!r} already. Give adapter_name another name.")
    hub_arguments = {name: value for name, value in (hub_arguments or {}).items() if name in HUB_ARGUMENTS}
    settings_file, weights_file = (
        cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub_arguments)
        for name in (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
    )
    if settings_file is None or weights_file is None:
        raise CheckpointError(
            f"{os.fspath(path)!r} has no adapter: {ADAPTER_CONFIG_NAME} or {ADAPTER_SAFE_WEIGHTS_NAME} is missing"
            f"{' in ' + repr(hub_arguments['subfolder']) if hub_arguments.get('subfolder') else ''}."
        )
    config = PeftConfig.from_pretrained(os.path.dirname(settings_file))
    config.inference_mode = not is_trainable
    weights = {
        name.removeprefix(_PEFT_PREFIX): value
        for name, value in load_file(weights_file).items()
        if not is_of_base(name)
    }
    inject_adapter_in_model(config, model, adapter_name)
    model._hf_peft_config_loaded = True
    expected = {
        name.removeprefix(_PEFT_PREFIX) for name in get_peft_model_state_dict(model, adapter_name=adapter_name)
    }
    missing, unexpected = expected - weights.keys(), weights.keys() - expected
    if not missing:
        set_peft_model_state_dict(model, {name: weights[name] for name in expected}, adapter_name)
    if not is_trainable:
        model.eval()
        for name, parameter in model.named_parameters():
            if ".linvt." not in name:
                parameter.requires_grad_(False)
    return LoadStateDictInfo(
        missing_keys=missing,
        unexpected_keys=unexpected,
        mismatched_keys=set(),
        error_msgs=[],
        conversion_errors={},
        skipped_pp_keys=set(),
    )
