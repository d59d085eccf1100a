"""Weights on their way from published files to new ones: read one at a time, written one file at a time."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...errors import CheckpointError


# ours: what is in memory at once is one file of this size, and one tensor
MAX_FILE_SIZE = "2GB"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_JSON_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", bool: "true or false"}


def json_kind(kind: type) -> str:
    """What a kind of value is called in JSON."""
    return _JSON_KINDS.get(kind, "one value")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """
    A file with an object in it.

    Raises:
        CheckpointError: it is not there, no JSON, or holds something else.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(folder)!r} has no readable {name}: {error}. Give a folder with the whole checkpoint, as "
            "`hf download NAME --local-dir FOLDER` makes it."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"The {name} in {str(folder)!r} holds {json_kind(type(content))} and not an object with the settings of a "
            "model. Download it again."
        )
    return content


class PublishedWeights:
    """
    The tensors of a checkpoint in its safetensors files; what is computed from the config is left out.

    Args:
        folder: with the files.

    Attributes:
        shapes (`dict[str, torch.Tensor]`): every tensor on the meta device, which has a shape and a type only.

    Raises:
        CheckpointError: files that are missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, torch.Tensor] = {}
        self._files: dict[str, str] = {}
        for file in self._names_of_files():
            try:
                with safe_open(folder / file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - no mapping
                        self._note(name, file, opened.get_slice(name))
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{str(folder / file)!r} is missing or damaged: {error}") from error

    def _names_of_files(self) -> list[str]:
        if (self.folder / SAFE_WEIGHTS_NAME).exists():
            return [SAFE_WEIGHTS_NAME]
        if not (self.folder / SAFE_WEIGHTS_INDEX_NAME).exists():
            raise CheckpointError(
                f"{str(self.folder)!r} has no {SAFE_WEIGHTS_NAME}, whole or in parts. Weights in pickles (.bin) are "
                "not read: save them with safetensors first."
            )
        index = read_json(self.folder, SAFE_WEIGHTS_INDEX_NAME).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise CheckpointError(
                f"The {SAFE_WEIGHTS_INDEX_NAME} in {str(self.folder)!r} has no weight_map from weights to files. "
                "Download it again."
            )
        return sorted(set(index.values()))

    def _note(self, name: str, file: str, found: Any) -> None:
        if name.endswith(("rotary_emb.inv_freq", "position_ids")):
            return
        if found.get_dtype() not in _DTYPES:
            raise CheckpointError(
                f"The weight {name!r} in {str(self.folder / file)!r} is of the type {found.get_dtype()}, which is not "
                "converted. Take the checkpoint that is not quantised."
            )
        self._files[name] = file
        self.shapes[name] = torch.empty(found.get_shape(), dtype=_DTYPES[found.get_dtype()], device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def read(self, name: str) -> torch.Tensor:
        """One tensor with its values."""
        file = self.folder / self._files[name]
        try:
            with safe_open(file, framework="pt") as opened:
                return opened.get_tensor(name)
        except (OSError, SafetensorError) as error:  # gone since it was looked at
            raise CheckpointError(f"{str(file)!r} is missing or damaged: {error}") from error

    def dtype(self) -> torch.dtype:
        """The precision that most tensors have."""
        dtypes = [one.dtype for one in self.shapes.values()]
        return max(set(dtypes), key=dtypes.count) if dtypes else torch.float32


@dataclass(frozen=True)
class Step:
    """
    Published tensors that become new ones.

    Attributes:
        sources: names of the published ones.
        make: of their tensors, in this order, the new ones by name; meta tensors give meta tensors.
    """

    sources: tuple[str, ...]
    make: Callable[..., dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Split:
    """
    A tensor that holds several.

    Attributes:
        name: of the parts, with groups of the pattern and `{}` for the part: `r"layers.\\1.{}_proj.weight"`.
        parts: what stands for `{}`.
        cut: the tensor into the parts.
    """

    name: str
    parts: tuple[str, ...]
    cut: Callable[[torch.Tensor], Sequence[torch.Tensor]]


def renamed(names: Iterable[str], table: Mapping[str, str | Split]) -> list[Step]:
    """Tensors under new names: the first pattern that a name begins with decides; one that none fits stays."""
    return [_renamed(name, table) for name in names]


def _renamed(name: str, table: Mapping[str, str | Split]) -> Step:
    fitting = next((pattern for pattern in table if re.match(pattern, name)), None)
    target = table[fitting] if fitting else name
    if isinstance(target, str):
        new = re.sub(f"^{fitting}", target, name) if fitting else name
        return Step((name,), lambda tensor: {new: tensor})
    new_names = [re.sub(f"^{fitting}", target.name, name).format(part) for part in target.parts]
    return Step((name,), lambda tensor: dict(zip(new_names, target.cut(tensor), strict=True)))


@dataclass
class NewWeights:
    """
    Tensors under their new names, made when they are written.

    Args:
        published: where they come from.
        steps: what becomes of it.

    Attributes:
        shapes (`dict[str, torch.Tensor]`): every new tensor on the meta device.
    """

    published: PublishedWeights
    steps: list[Step]
    shapes: dict[str, torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.shapes, self._step_of = {}, {}
        for step in self.steps:
            made = step.make(*(self.published.shapes[name] for name in step.sources))
            self.shapes |= made
            self._step_of |= dict.fromkeys(made, step)

    @property
    def num_bytes(self) -> int:
        return sum(one.nbytes for one in self.shapes.values())

    def write(self, folder: Path, advance: Callable[[int], Any]) -> None:
        """
        Write all of them as safetensors files of at most `MAX_FILE_SIZE`, with their index where there are several.

        Args:
            folder: where to.
            advance: called with the bytes of each file that was written.
        """
        split = split_state_dict_into_shards_factory(
            self.shapes,
            get_storage_size=lambda one: one.nbytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=MAX_FILE_SIZE,
        )
        for file, names in split.filename_to_tensors.items():
            save_file(self._made(names), folder / file, metadata={"format": "pt"})
            advance(sum(self.shapes[name].nbytes for name in names))
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2), encoding="utf-8")

    def _made(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of one file. Parts of one tensor follow each other, so it is read once, or twice at an edge."""
        tensors: dict[str, torch.Tensor] = {}
        step, made = None, {}
        for name in names:
            if self._step_of[name] is not step:
                step = self._step_of[name]
                made = step.make(*(self.published.read(source) for source in step.sources))
            tensors[name] = made[name].contiguous()
        return tensors


__all__ = ["MAX_FILE_SIZE", "NewWeights", "PublishedWeights", "Split", "Step", "json_kind", "read_json", "renamed"]
