"""What the published layouts share: what is read, what is made, and how configs, towers and tokenizers become new."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin
from transformers.utils import is_torchvision_available

from ...errors import CheckpointError, LinVTError, UnsupportedBaseError
from ..loading import NoVideoProcessor
from .sentencepiece_tokenizer import from_sentencepiece
from .weights import PublishedWeights, Step, json_kind, read_json


IMAGE, VIDEO = "<image>", "<video>"
POLITE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
# Vision towers that published configs name without giving their sizes.
VISION_TOWERS: dict[str, dict[str, Any]] = {
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
SIGLIP_MEAN = [0.5, 0.5, 0.5]


@dataclass
class Published:
    """
    A checkpoint as it was published.

    Attributes:
        folder: with its files.
        config: what its config.json says.
        weights: its tensors.
        vision_config: sizes of the vision tower that the user gave, instead of what the config says.
    """

    folder: Path
    config: dict[str, Any]
    weights: PublishedWeights
    vision_config: dict[str, Any] | None

    def expect(self, name: str, found: Any, *wanted: Any) -> None:
        """
        Refuse a value that this conversion would lose.

        Raises:
            UnsupportedBaseError: `found` is not in `wanted`.
        """
        if found not in wanted:
            allowed = " or ".join(repr(one) for one in wanted)
            raise UnsupportedBaseError(f"{str(self.folder)!r}: {name} is {found!r}; only {allowed} can be converted.")


@dataclass
class Converted:
    """
    Everything that is written.

    Attributes:
        steps: published tensors that become new ones.
        config: of the new model.
        processor: of the new model.
        generation: settings of generation.
    """

    steps: list[Step]
    config: PreTrainedConfig
    processor: ProcessorMixin
    generation: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """
    One way to publish a model.

    Attributes:
        title: of the models published so, for messages.
        convert: what becomes of a checkpoint.
        nested: what `convert` looks into, and the kind of value that has to be there; `a.b` is b in the object a.
    """

    title: str
    convert: Callable[[Published], Converted]
    nested: Mapping[str, type]


# ---------------------------------------------------------------------------------------------------------------------
# Configs
# ---------------------------------------------------------------------------------------------------------------------

_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
    "rms_norm_eps",
    "partial_rotary_factor",
    "rope_theta",
    "rope_scaling",
    "qk_layernorm",
    "attention_bias",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)


def check_nested(source: Path, kind: str, published: Mapping[str, Any], nested: Mapping[str, type]) -> None:
    """
    Refuse values of another kind than the published ones, by their name.

    Raises:
        CheckpointError: such a value. What is missing is named where it is needed.
    """
    for path, wanted in nested.items():
        value: Any = published
        for name in path.split("."):  # what is around it was looked at before
            if name not in value:
                break
            value = value[name]
        else:
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise CheckpointError(
                    f"The config.json in {str(source)!r} ({kind}) has {path}={value!r}, which must be "
                    f"{json_kind(wanted)}. Download it again."
                )


def text_config(published: Mapping[str, Any]) -> dict[str, Any]:
    """What a published config says of its language model, under the same names in transformers."""
    config = {name: published[name] for name in _TEXT_FIELDS if published.get(name) is not None}
    rope = config.get("rope_scaling")
    if isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type")) in ("su", "longrope"):
        # Phi-3 says the length of its first training beside these numbers, transformers 5 wants it among them
        length = config.get("original_max_position_embeddings", rope.get("original_max_position_embeddings"))
        numbers = {name: value for name, value in rope.items() if name != "type"}
        config["rope_scaling"] = {**numbers, "rope_type": "longrope", "original_max_position_embeddings": length}
    return config


def siglip_config(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a SigLIP tower of these sizes."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    optional = ("num_channels", "hidden_act", "layer_norm_eps", "attention_dropout")
    config = {name: sizes[name] for name in names} | {name: sizes[name] for name in optional if name in sizes}
    return {"model_type": "siglip_vision_model", **config}


def read_vision_config(file: str | os.PathLike) -> dict[str, Any]:
    """
    The sizes of a vision tower in a config.json, its own or that of a model with a text tower beside it.

    Raises:
        CheckpointError: no such file, or it is no config.
    """
    path = Path(file)
    said = read_json(path.parent, path.name)
    inner = said.get("vision_config")
    return inner if isinstance(inner, dict) else said


def known_tower(name: str) -> dict[str, Any]:
    """
    The sizes of a tower that is known by name.

    Raises:
        UnsupportedBaseError: it is not.
    """
    if name not in VISION_TOWERS:
        raise UnsupportedBaseError(
            f"The vision tower is {name!r}, whose sizes are not in the checkpoint and not known here. Pass "
            "vision_config (--vision-config) with its own config.json."
        )
    return VISION_TOWERS[name]


# ---------------------------------------------------------------------------------------------------------------------
# Processors
# ---------------------------------------------------------------------------------------------------------------------


def content(image: str, behind_picture: str) -> str:
    """The part of a chat template that writes a message: its pictures, each as `image`, then its text."""
    return (
        "{%- if message.content is string %}{{- message.content }}{%- else %}"
        "{%- for part in message.content if part.type == 'image' %}"
        f"{{{{- '{image}{behind_picture}' }}}}{{%- endfor %}}"
        "{%- for part in message.content if part.type == 'text' %}{{- part.text }}{%- endfor %}{%- endif %}"
    )


def load_tokenizer(folder: Path, special: Mapping[str, str] | None = None) -> PreTrainedTokenizerFast:
    """
    The tokenizer of a published checkpoint, made a fast one where it is a sentencepiece model.

    Args:
        folder: with its files.
        special: tokens that a processor knows by name, such as `{"start_image_token": "<img>"}`.

    Raises:
        CheckpointError: it is missing or damaged.
        UnsupportedBaseError: a package is missing that it needs.
    """
    named = {"model_specific_special_tokens": dict(special)} if special else {}
    try:
        if (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists():
            return from_sentencepiece(folder, **named)
        return AutoTokenizer.from_pretrained(folder, config=PreTrainedConfig(), trust_remote_code=False, **named)
    except LinVTError:
        raise
    except Exception as error:  # a damaged tokenizer.json is a bare Exception
        raise CheckpointError(f"The tokenizer in {str(folder)!r} could not be loaded: {error}") from error


def ready_for_chat(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Padded on the left, and without the chat template of the language model alone."""
    tokenizer.chat_template = None
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_ids(source: Path, tokenizer: PreTrainedTokenizerFast, ids: list[int], num_rows: int) -> None:
    """
    Refuse a tokenizer that is not the model's.

    Raises:
        CheckpointError: one of `ids` has no embedding.
    """
    if max(ids) >= num_rows:
        raise CheckpointError(
            f"The tokenizer in {str(source)!r} has {len(tokenizer)} tokens with those for pictures, the model "
            f"{num_rows} embeddings: they do not belong together."
        )


def tokenizer_with(source: Path, num_rows: int, *tokens: str) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """The tokenizer with the tokens that stand for pictures, and their ids, for which there must be embeddings."""
    tokenizer = load_tokenizer(source)
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids: Any = tokenizer.convert_tokens_to_ids(list(tokens))
    check_ids(source, tokenizer, ids, num_rows)
    return ready_for_chat(tokenizer), ids


def ends(tokenizer: PreTrainedTokenizerFast, *tokens: Any) -> dict[str, Any]:
    """Settings of generation: where an answer ends, and what pads."""
    ids = [tokenizer.convert_tokens_to_ids(token) for token in dict.fromkeys(tokens)]
    ids = [one for one in ids if one is not None and one != tokenizer.unk_token_id]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ids or None, "pad_token_id": pad}


def video_processor(name: str, **settings: Any) -> Any:
    """A video processor of transformers by the name of its class, or what stands for it without torchvision."""
    if is_torchvision_available():
        return getattr(transformers, name)(**settings)
    return NoVideoProcessor({"video_processor_type": name, **settings})


def image_processor(name: str, mean: list[float], std: list[float], **settings: Any) -> Any:
    """An image processor of the class for PIL, which is saved under the name of both."""
    return getattr(transformers, f"{name}Pil")(image_mean=mean, image_std=std, **settings)


__all__ = [
    "IMAGE",
    "POLITE",
    "SIGLIP_MEAN",
    "VIDEO",
    "VISION_TOWERS",
    "Converted",
    "Layout",
    "Published",
    "check_ids",
    "check_nested",
    "content",
    "ends",
    "image_processor",
    "known_tower",
    "load_tokenizer",
    "read_vision_config",
    "ready_for_chat",
    "siglip_config",
    "text_config",
    "tokenizer_with",
    "video_processor",
]
