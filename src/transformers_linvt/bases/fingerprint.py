"""
Whether the weights of a base are still what they were, told by a sum over their bits.

Of a large base that takes seconds, and reads all of its files, so what the files give is remembered between processes,
by their paths, sizes and times of change. It is what the *files* give: weights that differ from it have changed.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants, try_to_load_from_cache
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..files import replacing


logger = logging.get_logger(__name__)

Fingerprint = tuple[torch.Size, torch.dtype, int]

_HOW = "sum of words"  # how bits are added up: what was remembered of another way is not compared
_LEAST_BYTES = 1 << 28  # of a base that is worth remembering: summing less takes a tenth of a second
_WEIGHTS = (".safetensors", ".bin")
_MOST_REMEMBERED = 32  # bases; those that were used last
# Arguments of `from_pretrained` under which the same files give the same weights, but for their precision.
_HARMLESS = {
    "attn_implementation",
    "cache_dir",
    "device_map",
    "dtype",
    "force_download",
    "local_files_only",
    "low_cpu_mem_usage",
    "proxies",
    "revision",
    "token",
    "torch_dtype",
    "trust_remote_code",
    "use_safetensors",
}


def fingerprint_weights(base: nn.Module) -> dict[str, Fingerprint]:
    """
    Shape, precision and a sum over the bits of every weight of a base, to tell later whether it is still the same.

    Weights that are not plain floating-point tensors in memory (quantised, sharded, on the meta device) are left out.
    A layer with a LoRA adapter on it counts under the name it has without.
    """
    prints = {}
    for name, weight in base.named_parameters():
        if type(weight) is nn.Parameter and weight.is_floating_point() and not weight.is_meta:
            prints[name.replace(".base_layer.", ".")] = weight.shape, weight.dtype, _sum_of_bits(weight.detach())
    return prints


def fingerprint_loaded(base: PreTrainedModel, loading: Mapping[str, Any]) -> dict[str, Fingerprint]:
    """
    [`fingerprint_weights`] of a base that was just loaded; what is remembered of its files where there is something.

    Args:
        base: the model, which knows by its name where it is from.
        loading: arguments that it was loaded with. With any that could change its weights nothing is remembered.
    """
    file = _remembered_in(base, loading)
    if file is None:
        return fingerprint_weights(base)
    try:
        found = _decoded(json.loads(file.read_text(encoding="utf-8")))
        os.utime(file)
        return found
    except (OSError, ValueError, TypeError, AttributeError):  # not there, or not whole
        found = fingerprint_weights(base)
    try:
        _write(file, found)
    except OSError as error:
        logger.info(f"The sums of the weights are not remembered: {error}")
    return found


def _remembered_in(base: PreTrainedModel, loading: Mapping[str, Any]) -> Path | None:
    """The file for what these weight files give in this form; None where it is not worth it, or not sure."""
    given = {name for name, value in loading.items() if value is not None and not name.startswith("_")}
    parameters = [(name, list(one.shape), str(one.dtype)) for name, one in base.named_parameters()]
    if given - _HARMLESS or sum(one.numel() * one.element_size() for one in base.parameters()) < _LEAST_BYTES:
        return None
    files = _files_of(base, loading.get("cache_dir"))
    if not any(file.suffix in _WEIGHTS for file in files):
        return None
    where = [(str(file), (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    identity = json.dumps([_HOW, where, parameters, transformers.__version__])
    return Path(constants.HF_HOME, "linvt", "fingerprints", f"{hashlib.sha256(identity.encode()).hexdigest()}.json")


def _files_of(base: PreTrainedModel, cache_dir: str | os.PathLike | None) -> Collection[Path]:
    """What decides about weights in the base's folder, or in its snapshot in the cache of the Hub."""
    folder = base.name_or_path
    if folder and not os.path.isdir(folder):
        revision = getattr(base.config, "_commit_hash", None)
        cached = None if cache_dir is None else Path(cache_dir)
        found = try_to_load_from_cache(folder, "config.json", cache_dir=cached, revision=revision)
        folder = os.path.dirname(found) if revision and isinstance(found, str) else None
    if not folder:
        return []
    # the snapshot links to files that are named by their content
    return sorted(file.resolve() for file in Path(folder).iterdir() if file.suffix in (*_WEIGHTS, ".json", ".py"))


def _decoded(rows: Mapping[str, Any]) -> dict[str, Fingerprint]:
    return {name: (torch.Size(shape), getattr(torch, dtype), bits) for name, (shape, dtype, bits) in rows.items()}


def _write(file: Path, prints: Mapping[str, Fingerprint]) -> None:
    """Whole or not at all, also with several processes; the ones that were not used for longest go."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        name: [list(shape), str(dtype).removeprefix("torch."), bits] for name, (shape, dtype, bits) in prints.items()
    }
    with replacing(file) as partial:
        partial.write_text(json.dumps(rows), encoding="utf-8")
    by_age = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime_ns, reverse=True)
    for old in by_age[_MOST_REMEMBERED:]:
        old.unlink(missing_ok=True)


def _sum_of_bits(weight: torch.Tensor) -> int:
    # Eight bytes at a time: a hundred times faster on a CPU than number by number, and this reads the whole base.
    weight = weight.contiguous().reshape(-1)
    if weight.storage_offset() * weight.element_size() % 8:
        weight = weight.clone()
    data = weight.view(torch.uint8)
    whole = len(data) - len(data) % 8
    last = torch.nn.functional.pad(
        data[whole:], (0, 8 - len(data) % 8)
    )  # a word too: a sum of bytes forgets their order
    return int(data[:whole].view(torch.int64).sum()) + int(last.view(torch.int64))


def changed_weights(base: nn.Module, before: Mapping[str, Fingerprint]) -> list[str]:
    """Names of the weights that differ from earlier fingerprints; those of another precision now are not compared."""
    changed, now = [], fingerprint_weights(base)
    for name in before.keys() & now.keys():
        (shape, dtype, bits), (shape_now, dtype_now, bits_now) = before[name], now[name]
        if shape != shape_now or (dtype == dtype_now and bits != bits_now):
            changed.append(name)
    return sorted(changed)


__all__ = ["Fingerprint", "changed_weights", "fingerprint_loaded", "fingerprint_weights"]
