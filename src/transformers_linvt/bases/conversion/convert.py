"""The registry of published layouts, and the conversion of a checkpoint from first look to the last file."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import tqdm
from transformers import AutoModelForImageTextToText, GenerationConfig

from ...errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError
from .internvl import INTERNVL
from .layout import Converted, Layout, Published, check_nested, read_vision_config
from .llava_qwen import LLAVA_QWEN
from .mipha import MIPHA_GEMMA, MIPHA_PHI, MIPHA_PHI3
from .weights import NewWeights, PublishedWeights, read_json
from .xgenmm import XGENMM


# by what a published config.json calls its model; ../convertible.py names the same
LAYOUTS: dict[str, Layout] = {
    "internvl_chat": INTERNVL,
    "llava_qwen": LLAVA_QWEN,
    "mipha_gemma": MIPHA_GEMMA,
    "mipha_phi": MIPHA_PHI,
    "mipha_phi3": MIPHA_PHI3,
    "xgenmm": XGENMM,
}


def convert_checkpoint(
    source: str | os.PathLike,
    output: str | os.PathLike,
    vision_config: Mapping[str, Any] | str | os.PathLike | None = None,
    show_progress: bool = False,
) -> None:
    """
    Write the checkpoint in a folder as published as one that `AutoModelForImageTextToText` and LinVT load.

    Known are the layouts of `LAYOUTS`: InternVL2, 2.5 and 3 (`internvl_chat`), Aquila-VL and others in the layout of
    LLaVA-NeXT's code with Qwen2 (`llava_qwen`), Mipha (`mipha_phi`, `mipha_phi3`, `mipha_gemma`), and xGen-MM / BLIP-3
    with Phi-3 (`xgenmm`). None of the code they were published with is run, and no number of their tensors is changed.

    In memory is one new file of weights at a time (2 GB). The folder appears when all of it is written.

    Args:
        source: folder with config, tokenizer and safetensors files; `hf download NAME --local-dir FOLDER` makes one.
        output: folder to make; must not exist or be empty.
        vision_config: sizes of the vision tower, or its config.json, where the published config names one that is not
            in `VISION_TOWERS`. InternVL's are always in the checkpoint.
        show_progress: whether to show a bar of the bytes that are written.

    Raises:
        UnsupportedBaseError: another layout, or a variant of a known one.
        CheckpointError: files or weights that are missing, or that are more than the architecture has.
        LinVTInputError: `output` exists, cannot be written, or there is no room for it.
    """
    source, output = Path(source), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LinVTInputError(f"{str(output)!r} exists already. Name a folder that does not, or an empty one.")
    said = read_json(source, "config.json")
    kind = said.get("model_type")
    if not isinstance(kind, str | None) or kind not in LAYOUTS:
        raise UnsupportedBaseError(
            f"{str(source)!r} holds a {kind} model; known are {', '.join(LAYOUTS)}. What transformers loads needs no "
            "conversion; for others see docs/add_a_base.md."
        )
    _check_precision(source, said)
    check_nested(source, kind, said, LAYOUTS[kind].nested)
    if isinstance(vision_config, str | os.PathLike):
        vision_config = read_vision_config(vision_config)
    published = Published(source, said, PublishedWeights(source), dict(vision_config) if vision_config else None)
    converted, weights = _converted(published, kind)
    _write(converted, weights, output, show_progress)


def _check_precision(source: Path, said: Mapping[str, Any]) -> None:
    parts = [said, *(part for part in said.values() if isinstance(part, dict))]
    if any(part.get("quantization_config") for part in parts):
        raise UnsupportedBaseError(
            f"{str(source)!r} is quantised. Convert the checkpoint it was made of, and quantise that: from_base takes "
            "quantization_config."
        )


def _converted(published: Published, kind: str) -> tuple[Converted, NewWeights]:
    """What is to be written, looked at without its values: a config that is wrong shows here."""
    source = str(published.folder)
    try:
        converted = LAYOUTS[kind].convert(published)
        weights = NewWeights(published.weights, converted.steps)
        _check_weights(converted, weights, source)
    except LinVTError:
        raise
    except KeyError as error:
        raise CheckpointError(f"The config.json in {source!r} ({kind}) does not say {error}.") from error
    except (ArithmeticError, AttributeError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        # a number that is a text, or one that no layer can have: each class of config has errors of its own
        raise CheckpointError(
            f"The config.json in {source!r} ({kind}) has a value it cannot have: {error}. Download it again."
        ) from error
    return converted, weights


def _check_weights(converted: Converted, weights: NewWeights, source: str) -> None:
    """Compare names and shapes with the new architecture, which costs no memory."""
    with torch.device("meta"):
        wanted = AutoModelForImageTextToText.from_config(converted.config).state_dict()
    if converted.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    given = weights.shapes
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [f"{n} {tuple(given[n].shape)}" for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"The weights in {source!r} do not fit its config: {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}, {len(wrong)} of another shape {sorted(wrong)[:2]} (new names). Is "
            "it whole, and published by the authors?"
        )


def _write(converted: Converted, weights: NewWeights, output: Path, show_progress: bool) -> None:
    """Everything into a folder beside the one to make, which takes its name at the end."""
    partial = output.absolute().with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        _check_room(partial, weights.num_bytes)
        converted.config.save_pretrained(partial)
        GenerationConfig(**converted.generation).save_pretrained(partial)
        converted.processor.save_pretrained(partial)
        bar = {"total": weights.num_bytes, "unit": "B", "unit_scale": True, "desc": "writing weights"}
        with tqdm(**bar, disable=not show_progress) as progress:
            weights.write(partial, progress.update)
        os.replace(partial, output)
    except OSError as error:
        raise CheckpointError(f"{str(output)!r} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_room(folder: Path, num_bytes: int) -> None:
    if (free := shutil.disk_usage(folder).free) < num_bytes:
        raise LinVTInputError(
            f"The new weights need {num_bytes / 1e9:.1f} GB, and the disk of {str(folder.parent)!r} has "
            f"{free / 1e9:.1f} GB left. Name a folder on another one."
        )


__all__ = ["LAYOUTS", "convert_checkpoint"]
