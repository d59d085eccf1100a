"""
Checkpoints in layouts that transformers does not read, made into ones that it does.

Mipha and xGen-MM (BLIP-3, with Phi-3) become the LLaVA with a biased head of this package, Aquila-VL transformers' own
LLaVA-OneVision. Weights are renamed and not changed; what is written is checked against the new architecture first.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedConfig,
    ProcessorMixin,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, is_torchvision_available

from ..errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError
from ..files import replacing
from .biased_llava.configuration_biased_llava import BiasedLlavaConfig
from .loading import NoVideoProcessor, video_processors_known


IMAGE, VIDEO = "<image>", "<video>"
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
_SIGLIP_MEAN = [0.5, 0.5, 0.5]
_POLITE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
_CONTENT = (
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for part in message.content if part.type == 'image' %}<image>NEWLINE{%- endfor %}"
    "{%- for part in message.content if part.type == 'text' %}{{- part.text }}{%- endfor %}{%- endif %}"
)


def _content(behind_picture: str) -> str:
    return _CONTENT.replace("NEWLINE", f"{{{{- '{behind_picture}' }}}}" if behind_picture else "")


_MIPHA_TEMPLATE = (
    f'{{{{- "{_POLITE} " }}}}'
    "{%- for message in messages %}{{- 'USER: ' if message.role == 'user' else 'ASSISTANT: ' }}"
    + _content("\\n")
    + "{{- ' ' if message.role == 'user' else '<|endoftext|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
)
_AQUILA_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    + _content("\\n")
    + "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_XGENMM_TEMPLATE = (
    f"{{%- if messages[0].role != 'system' %}}{{{{- \"<|system|>\\n{_POLITE}<|end|>\\n\" }}}}{{%- endif %}}"
    "{%- for message in messages %}{{- '<|' + message.role + '|>\\n' }}"
    + _content("\\n")
    + "{{- '<|end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)


@dataclass
class _Converted:
    """Everything that is written: weights under their new names, and what stands beside them."""

    weights: dict[str, torch.Tensor]
    config: PreTrainedConfig
    processor: ProcessorMixin
    generation: dict[str, Any] = field(default_factory=dict)


def convert_checkpoint(
    source: str | os.PathLike, output: str | os.PathLike, vision_config: Mapping[str, Any] | None = None
) -> None:
    """
    Write the checkpoint in a folder as published as one that `AutoModelForImageTextToText` and LinVT load.

    Known are Mipha with Phi (`mipha_phi`), Aquila-VL and others in the layout of LLaVA-NeXT's code with Qwen2
    (`llava_qwen`), and xGen-MM / BLIP-3 with Phi-3 (`xgenmm`). None of the code they were published with is run, and
    their tensors are kept as they are.

    Args:
        source: folder with config, tokenizer and safetensors files; `hf download NAME --local-dir FOLDER` makes one.
        output: folder to make; must not exist or be empty.
        vision_config: sizes of the vision tower, where the published config names one that is not in `VISION_TOWERS`.

    Raises:
        UnsupportedBaseError: another layout, or a variant of a known one.
        CheckpointError: files or weights that are missing, or that are more than the architecture has.
        LinVTInputError: `output` exists.
    """
    source, output = Path(source), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LinVTInputError(f"{str(output)!r} exists already. Name a folder that does not, or an empty one.")
    published = _read_json(source, "config.json")
    kind = published.get("model_type")
    if not isinstance(kind, str | None) or kind not in _KINDS:
        raise UnsupportedBaseError(
            f"{str(source)!r} holds a {kind} model; known are {', '.join(_KINDS)}. What transformers loads needs no "
            "conversion; for others see docs/add_a_base.md."
        )
    _check_config(source, kind, published)
    try:
        converted = _KINDS[kind](source, published, dict(vision_config) if vision_config is not None else None)
        _check_weights(converted, source)
    except LinVTError:
        raise
    except KeyError as error:
        raise CheckpointError(f"The config.json in {str(source)!r} ({kind}) does not say {error}.") from error
    except (ArithmeticError, AttributeError, RuntimeError, StrictDataclassError, TypeError, ValueError) as error:
        # a number that is a text, or one that no layer can have: each class of config has errors of its own
        raise CheckpointError(
            f"The config.json in {str(source)!r} ({kind}) has a value it cannot have: {error}. Download it again."
        ) from error
    try:
        with replacing(output) as partial:
            partial.mkdir(parents=True)
            converted.config.save_pretrained(partial)
            GenerationConfig(**converted.generation).save_pretrained(partial)
            converted.processor.save_pretrained(partial)
            save_torch_state_dict(converted.weights, partial, metadata={"format": "pt"})
    except OSError as error:
        raise CheckpointError(f"{str(output)!r} cannot be written: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# The three layouts
# ---------------------------------------------------------------------------------------------------------------------

_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "layer_norm_eps",
    "rms_norm_eps",
    "partial_rotary_factor",
    "rope_theta",
    "rope_scaling",
    "qk_layernorm",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
)


def _mipha(source: Path, published: dict[str, Any], vision: dict[str, Any] | None) -> _Converted:
    tower = published["vision_config"]["vision_tower"]
    projector = published["vision_config"]["mm_projector"]["mm_projector_type"]
    _expect(source, "mm_projector_type", projector, "mlp2x_gelu")
    if "siglip" not in tower["vision_model_name_or_path"].lower():
        _expect(source, "vision_model_name_or_path", tower["vision_model_name_or_path"], "a SigLIP")
    weights = _renamed(
        _read_weights(source),
        {
            r"model\.vision_tower\.vision_model\.": "model.vision_tower.",
            r"model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
            r"model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
            r"lm_head\.": "lm_head.",
            r"model\.": "model.language_model.",
        },
    )
    # what its own config class assumes where a config does not say it
    sizes = {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, **tower}
    tokenizer, image_id = _tokenizer_with(source, published["vocab_size"], IMAGE)
    config = BiasedLlavaConfig(
        vision_config=_vision_config(vision or sizes),
        text_config={"model_type": "phi", **_text_config(published)},
        image_token_index=image_id[0],
        image_seq_length=(sizes["image_size"] // sizes["patch_size"]) ** 2,
        vision_feature_layer=tower.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=False,
        architectures=["BiasedLlavaForConditionalGeneration"],
        dtype=_dtype_of(weights),
    )
    processor = _llava_processor(config, tokenizer, _MIPHA_TEMPLATE)
    return _Converted(weights, config, processor, _ends(tokenizer, tokenizer.eos_token))


def _xgenmm(source: Path, published: dict[str, Any], vision: dict[str, Any] | None) -> _Converted:
    text = dict(published["text_config"])
    _expect(source, "text_config.model_type", text.get("model_type"), "phi3")
    own = {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32}
    text = {**own, "num_key_value_heads": 32, "max_position_embeddings": 4096, "sliding_window": 2047, **text}
    text.setdefault("bos_token_id", 1)
    text.setdefault("eos_token_id", 32000)
    text.setdefault("pad_token_id", 32000)
    num_words, weights = text["initial_tokenizer_len"], _read_weights(source)
    # The rows of the three tokens that were added join the others; the rest of the first tables was never used.
    for name, added in (
        ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias"),
    ):
        name, added = f"vlm.lang_model.{name}", f"vlm.lang_model.{added}"
        if name not in weights or added not in weights:
            raise CheckpointError(f"{str(source)!r} has no weight {added if name in weights else name!r}.")
        weights[name] = torch.cat([weights[name][:num_words], weights.pop(added)])
    weights = _renamed(
        weights,
        {
            r"vlm\.vision_encoder\.": "model.vision_tower.",
            r"vlm\.vision_tokenizer\.layers\.(\d+)\.0\.": r"model.multi_modal_projector.layers.\1.",
            r"vlm\.vision_tokenizer\.layers\.(\d+)\.1\.": r"model.multi_modal_projector.layers.\1.mlp.",
            r"vlm\.vision_tokenizer\.": "model.multi_modal_projector.",
            r"vlm\.lang_model\.lm_head\.": "lm_head.",
            r"vlm\.lang_model\.model\.": "model.language_model.",
        },
    )
    text["vocab_size"] = len(weights.get("lm_head.bias", ()))
    tower = published.get("vision_encoder_config", {}).get("model_name", "google/siglip-so400m-patch14-384")
    num_latents = published.get("vision_tokenizer_config", {}).get("num_vis_tokens", 128)
    tokenizer, image_id = _tokenizer_with(source, text["vocab_size"], IMAGE)
    config = BiasedLlavaConfig(
        vision_config=_vision_config(vision or _known_tower(tower)),
        text_config={"model_type": "phi3", **_text_config(text)},
        image_token_index=image_id[0],
        image_seq_length=num_latents,
        num_latents=num_latents,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        architectures=["BiasedLlavaForConditionalGeneration"],
        dtype=_dtype_of(weights),
    )
    processor = _llava_processor(config, tokenizer, _XGENMM_TEMPLATE)
    return _Converted(weights, config, processor, _ends(tokenizer, "<|end|>", tokenizer.eos_token))


def _llava_qwen(source: Path, published: dict[str, Any], vision: dict[str, Any] | None) -> _Converted:
    _expect(source, "mm_projector_type", published["mm_projector_type"], "mlp2x_gelu")
    if "unpad" not in published["mm_patch_merge_type"]:
        _expect(source, "mm_patch_merge_type", published["mm_patch_merge_type"], "spatial_unpad")
    _expect(source, "mm_vision_select_layer", published.get("mm_vision_select_layer", -2), -2)
    weights = _renamed(
        _read_weights(source),
        {
            r"model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
            r"model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
            r"model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
            r"model\.image_newline": "model.image_newline",
            r"lm_head\.": "lm_head.",
            r"model\.": "model.language_model.",
        },
    )
    if is_tied := bool(published.get("tie_word_embeddings")):
        weights.pop("lm_head.weight", None)
    sizes = _vision_config(vision or _known_tower(published["mm_vision_tower"]))
    # Their code drops the last layer of the tower, and takes what comes out of the last one left.
    sizes = {**sizes, "num_hidden_layers": sizes["num_hidden_layers"] - 1, "vision_use_head": False}
    tokenizer, (image_id, video_id) = _tokenizer_with(source, published["vocab_size"], IMAGE, VIDEO)
    grid = [list(pinpoint) for pinpoint in published["image_grid_pinpoints"]]
    config = LlavaOnevisionConfig(
        vision_config=sizes,
        text_config={"model_type": "qwen2", **_text_config(published)},
        image_token_index=image_id,
        video_token_index=video_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=grid,
        vision_aspect_ratio=published["image_aspect_ratio"],
        tie_word_embeddings=is_tied,
        architectures=["LlavaOnevisionForConditionalGeneration"],
        dtype=_dtype_of(weights),
    )
    processor = _onevision_processor(config, tokenizer, _AQUILA_TEMPLATE)
    return _Converted(weights, config, processor, _ends(tokenizer, "<|im_end|>", tokenizer.eos_token))


_KINDS: dict[str, Callable[[Path, dict[str, Any], dict[str, Any] | None], _Converted]] = {
    "mipha_phi": _mipha,
    "llava_qwen": _llava_qwen,
    "xgenmm": _xgenmm,
}


# ---------------------------------------------------------------------------------------------------------------------
# Configs
# ---------------------------------------------------------------------------------------------------------------------


# What the layouts look into, by the kind that it has to be; whatever is missing is named where it is needed.
_NESTED: dict[str, dict[str, type]] = {
    "mipha_phi": {
        "vision_config": dict,
        "vision_config.vision_tower": dict,
        "vision_config.vision_tower.vision_model_name_or_path": str,
        "vision_config.mm_projector": dict,
        "vocab_size": int,
    },
    "llava_qwen": {
        "mm_patch_merge_type": str,
        "mm_vision_tower": str,
        "image_grid_pinpoints": list,
        "image_aspect_ratio": str,
        "vocab_size": int,
    },
    "xgenmm": {
        "text_config": dict,
        "text_config.initial_tokenizer_len": int,
        "vision_encoder_config": dict,
        "vision_encoder_config.model_name": str,
        "vision_tokenizer_config": dict,
    },
}
_JSON_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def _check_config(source: Path, kind: str, published: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the published ones, by their name."""
    for path, wanted in _NESTED[kind].items():
        value: Any = published
        for name in path.split("."):  # what is around it was looked at before
            if name not in value:
                break
            value = value[name]
        else:
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise CheckpointError(
                    f"The config.json in {str(source)!r} ({kind}) has {path}={value!r}, which must be "
                    f"{_JSON_KINDS[wanted]}. Download it again."
                )


def _expect(source: Path, name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise UnsupportedBaseError(f"{str(source)!r}: {name} is {found!r}; only {wanted!r} can be converted.")


def _text_config(published: Mapping[str, Any]) -> dict[str, Any]:
    return {name: published[name] for name in _TEXT_FIELDS if published.get(name) is not None}


def _vision_config(sizes: Mapping[str, Any]) -> dict[str, Any]:
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


def _known_tower(name: str) -> dict[str, Any]:
    if name not in VISION_TOWERS:
        raise UnsupportedBaseError(
            f"The vision tower is {name!r}, whose sizes are not in the checkpoint and not known here. Pass "
            "vision_config with those of its own config."
        )
    return VISION_TOWERS[name]


def _ends(tokenizer: Any, *tokens: str) -> dict[str, Any]:
    """Settings of generation: where an answer ends, and what pads."""
    ids = [tokenizer.convert_tokens_to_ids(token) for token in dict.fromkeys(tokens)]
    ids = [one for one in ids if one is not None and one != tokenizer.unk_token_id]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ids or None, "pad_token_id": pad}


# ---------------------------------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------------------------------


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{str(folder)!r} has no readable {name}: {error}. Give a folder with the whole checkpoint, as "
            "`hf download NAME --local-dir FOLDER` makes it."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"The {name} in {str(folder)!r} holds {_JSON_KINDS.get(type(content), 'one value')} and not an object "
            "with the settings of a model. Download it again."
        )
    return content


def _read_weights(source: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, still in its files; what is computed from the config is left out."""
    if (source / SAFE_WEIGHTS_NAME).exists():
        names = [SAFE_WEIGHTS_NAME]
    elif (source / SAFE_WEIGHTS_INDEX_NAME).exists():
        index = _read_json(source, SAFE_WEIGHTS_INDEX_NAME).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise CheckpointError(
                f"The {SAFE_WEIGHTS_INDEX_NAME} in {str(source)!r} has no weight_map from weights to files. Download "
                "it again."
            )
        names = sorted(set(index.values()))
    else:
        raise CheckpointError(
            f"{str(source)!r} has no {SAFE_WEIGHTS_NAME}, whole or in parts. Weights in pickles (.bin) are not read: "
            "save them with safetensors first."
        )
    weights: dict[str, torch.Tensor] = {}
    for name in names:
        try:
            weights |= load_file(source / name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{str(source / name)!r} is missing or damaged: {error}") from error
    return {n: v for n, v in weights.items() if not n.endswith(("rotary_emb.inv_freq", "position_ids"))}


def _renamed(weights: Mapping[str, torch.Tensor], table: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Weights under new names: the first pattern that a name begins with decides; one that none fits stays."""
    renamed = {}
    for name, value in weights.items():
        fitting = next((pattern for pattern in table if re.match(pattern, name)), None)
        renamed[re.sub(f"^{fitting}", table[fitting], name) if fitting else name] = value.contiguous()
    return renamed


def _dtype_of(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The precision that most weights have."""
    dtypes = [value.dtype for value in weights.values()]
    return max(set(dtypes), key=dtypes.count) if dtypes else torch.float32


def _check_weights(converted: _Converted, source: Path) -> None:
    """Compare names and shapes with the new architecture, which costs no memory."""
    with torch.device("meta"):
        wanted = AutoModelForImageTextToText.from_config(converted.config).state_dict()
    if converted.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    given = converted.weights
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [f"{n} {tuple(given[n].shape)}" for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"The weights in {str(source)!r} do not fit its config: {len(missing)} missing {missing[:2]}, "
            f"{len(unknown)} unknown {unknown[:2]}, {len(wrong)} of another shape {sorted(wrong)[:2]} (new names). Is "
            "it whole, and published by the authors?"
        )


# ---------------------------------------------------------------------------------------------------------------------
# Processors
# ---------------------------------------------------------------------------------------------------------------------


def _tokenizer_with(source: Path, num_rows: int, *tokens: str) -> tuple[Any, list[int]]:
    """The tokenizer with the tokens that stand for pictures, and their ids, for which there must be embeddings."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, config=PreTrainedConfig())
    except Exception as error:  # a damaged tokenizer.json is a bare Exception
        raise CheckpointError(f"The tokenizer in {str(source)!r} could not be loaded: {error}") from error
    tokenizer.add_tokens(list(tokens), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    if max(ids) >= num_rows:
        raise CheckpointError(
            f"The tokenizer in {str(source)!r} has {len(tokenizer)} tokens with those for pictures, the model "
            f"{num_rows} embeddings: they do not belong together."
        )
    tokenizer.chat_template = None  # of the language model alone
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, ids


def _image_processor(name: str, **settings: Any) -> Any:
    """Of the class for PIL, which is saved under the name of both."""
    statistics = {"image_mean": _SIGLIP_MEAN, "image_std": _SIGLIP_MEAN}
    return getattr(transformers, f"{name}Pil")(**statistics, **settings)


def _llava_processor(config: BiasedLlavaConfig, tokenizer: Any, chat_template: str) -> LlavaProcessor:
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    # LlavaProcessor counts patches; a Perceiver's tokens are one "patch" as large as the picture, and the rest added.
    patch, num_added = (side, config.num_latents - 1) if config.num_latents else (patch, 0)
    return LlavaProcessor(
        _image_processor("SiglipImageProcessor", size={"height": side, "width": side}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=num_added,
        image_token=IMAGE,
        chat_template=chat_template,
    )


def _onevision_processor(config: LlavaOnevisionConfig, tokenizer: Any, chat_template: str) -> LlavaOnevisionProcessor:
    side = config.vision_config.image_size
    size = {"height": side, "width": side}
    grid = config.image_grid_pinpoints
    settings = {"size": size, "image_mean": _SIGLIP_MEAN, "image_std": _SIGLIP_MEAN}
    if is_torchvision_available():
        video_processor = transformers.LlavaOnevisionVideoProcessor(**settings)
    else:
        video_processor = NoVideoProcessor({"video_processor_type": "LlavaOnevisionVideoProcessor", **settings})
    with video_processors_known():
        return LlavaOnevisionProcessor(
            _image_processor("LlavaOnevisionImageProcessor", size=size, image_grid_pinpoints=grid),
            tokenizer,
            video_processor,
            num_image_tokens=(side // config.vision_config.patch_size) ** 2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=config.vision_aspect_ratio,
            image_token=IMAGE,
            video_token=VIDEO,
            chat_template=chat_template,
        )


__all__ = ["VISION_TOWERS", "convert_checkpoint"]
