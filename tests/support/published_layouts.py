"""
Small checkpoints with random weights, as their authors published the real ones: names, config, tokenizer and files.

Each is written from a model of transformers, by renaming and fusing its tensors here, and returns that model: what a
conversion has to come back to.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tiny_bases import build_tokenizer, randomise
from transformers_linvt.bases.biased_llava.configuration_biased_llava import BiasedLlavaConfig
from transformers_linvt.bases.biased_llava.modeling_biased_llava import BiasedLlavaForConditionalGeneration


VISION = {
    "hidden_size": 36,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}
NUM_ROWS = 520


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer("qwen2_vl")  # ChatML; without a token for pictures of the kind that is added
    assert "<image>" not in tokenizer.get_vocab() and len(tokenizer) < NUM_ROWS - 8
    return tokenizer


_MIPHA_NAMES = {
    r"model\.vision_tower\.": "model.vision_tower.vision_model.",
    r"model\.multi_modal_projector\.linear_1": "model.mm_projector.0",
    r"model\.multi_modal_projector\.linear_2": "model.mm_projector.2",
    r"model\.language_model\.": "model.",
}


def published_mipha(folder: Path, kind: str = "phi", is_fused: bool = False, **own: Any) -> nn.Module:
    """Mipha with a language model of this kind; `is_fused`: Phi-1.5, with query, key and value of a head together."""
    text = {**TEXT, "vocab_size": NUM_ROWS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **own}
    text |= {} if kind == "phi3" else {"partial_rotary_factor": 0.5}
    settings = {
        "vision_config": {"model_type": "siglip_vision_model", **VISION},
        "text_config": {"model_type": kind, **text},
        "image_token_index": 5,
        "vision_feature_select_strategy": "full",
        "tie_word_embeddings": kind == "gemma",
    }
    if kind == "phi3":
        model: nn.Module = LlavaForConditionalGeneration(LlavaConfig(**settings))
    else:
        beyond = {"head_bias": False, "feature_scale": 48**0.5} if kind == "gemma" else {}
        model = BiasedLlavaForConditionalGeneration(BiasedLlavaConfig(**settings, **beyond))
    tower = {**VISION, "mm_vision_select_layer": -2, "vision_model_name_or_path": "google/siglip-so400m-patch14-384"}
    config = {
        **text,
        "model_type": f"mipha_{kind}",
        "vision_config": {"vision_tower": tower, "mm_projector": {"mm_projector_type": "mlp2x_gelu"}},
    }
    return write_published(folder, model, config, _MIPHA_NAMES, fuse=_of_heads if is_fused else None)


def _of_heads(weights: dict[str, torch.Tensor]) -> None:
    """Rows of query, key and value of the first head, then of the second."""
    for layer in range(TEXT["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            prefix = f"model.layers.{layer}.self_attn."
            parts = [weights.pop(f"{prefix}{one}_proj.{kind}") for one in "qkv"]
            size = len(parts[0]) // TEXT["num_attention_heads"]
            rows = [part[head * size : (head + 1) * size] for head in range(4) for part in parts]
            weights[f"{prefix}query_key_value.{kind}"] = torch.cat(rows)


def published_aquila(folder: Path) -> nn.Module:
    text = {**TEXT, "num_key_value_heads": 2, "vocab_size": NUM_ROWS, "tie_word_embeddings": True}
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config={
                "model_type": "siglip_vision_model",
                **VISION,
                "num_hidden_layers": VISION["num_hidden_layers"] - 1,
                "vision_use_head": False,
            },
            text_config={"model_type": "qwen2", **text},
            image_token_index=5,
            video_token_index=6,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            tie_word_embeddings=True,
        )
    )
    config = {
        **text,
        "model_type": "llava_qwen",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "google/siglip-so400m-patch14-384",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]],
    }
    names = {
        r"model\.vision_tower\.": "model.vision_tower.vision_tower.vision_model.",
        r"model\.multi_modal_projector\.linear_1": "model.mm_projector.0",
        r"model\.multi_modal_projector\.linear_2": "model.mm_projector.2",
        r"model\.language_model\.": "model.",
    }
    return write_published(folder, model, config, names)


def published_xgenmm(folder: Path) -> nn.Module:
    num_words = len(_tokenizer())
    text = {**TEXT, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
    model = BiasedLlavaForConditionalGeneration(
        BiasedLlavaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION},
            text_config={"model_type": "phi3", **text, "vocab_size": num_words + 3},
            image_token_index=5,
            num_latents=7,
            tie_word_embeddings=False,
        )
    )
    config = {
        "model_type": "xgenmm",
        "text_config": {**text, "model_type": "phi3", "vocab_size": NUM_ROWS, "initial_tokenizer_len": num_words},
        "vision_encoder_config": {"model_type": "xgenmm_vision_encoder"},
        "vision_tokenizer_config": {"model_type": "xgenmm_vision_tokenizer", "num_vis_tokens": 7},
    }
    names = {
        r"model\.vision_tower\.": "vlm.vision_encoder.",
        r"model\.multi_modal_projector\.layers\.(\d+)\.mlp\.": r"vlm.vision_tokenizer.layers.\1.1.",
        r"model\.multi_modal_projector\.layers\.(\d+)\.": r"vlm.vision_tokenizer.layers.\1.0.",
        r"model\.multi_modal_projector\.": "vlm.vision_tokenizer.",
        r"model\.language_model\.": "vlm.lang_model.model.",
        r"lm_head\.": "vlm.lang_model.lm_head.",
    }
    return write_published(folder, model, config, names, fuse=_two_tables)


def _two_tables(weights: dict[str, torch.Tensor]) -> None:
    """The last rows are tables of their own, and the first have rows nobody uses."""
    split_at = len(_tokenizer())
    for name, added in (
        ("model.embed_tokens.weight", "model.embed_tokens.additional_embedding.weight"),
        ("lm_head.weight", "lm_head.additional_fc.weight"),
        ("lm_head.bias", "lm_head.additional_fc.bias"),
    ):
        whole = weights[f"vlm.lang_model.{name}"]
        weights[f"vlm.lang_model.{added}"] = whole[split_at:].clone()
        unused = torch.full((NUM_ROWS - split_at, *whole.shape[1:]), 99.0)
        weights[f"vlm.lang_model.{name}"] = torch.cat([whole[:split_at], unused])


# what differs between the language models of InternVL: the published class, and the config of each
INTERNVL_TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "internlm2": (
        "InternLM2ForCausalLM",
        {"bias": False, "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    ),
    "llama": ("LlamaForCausalLM", {"rope_theta": 5000000.0}),
    "qwen2": ("Qwen2ForCausalLM", {"rope_theta": 1000000.0}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 10}),
    "phi3": ("Phi3ForCausalLM", {"num_key_value_heads": 6, "sliding_window": 262144, "pad_token_id": 0}),
}
_INTERNVL_TEMPLATES = {"internlm2": "internlm2-chat", "llama": "Hermes-2", "phi3": "phi3-chat"}
_TOWER, _THEIR_TOWER = r"model\.vision_tower\.embeddings\.", "vision_model.embeddings."
_LAYER, _THEIR_LAYER = r"model\.vision_tower\.encoder\.layer\.(\d+)\.", r"vision_model.encoder.layers.\1."
_INTERNVL_NAMES = {
    _TOWER + "cls_token": _THEIR_TOWER + "class_embedding",
    _TOWER + "position_embeddings": _THEIR_TOWER + "position_embedding",
    _TOWER + r"patch_embeddings\.projection": _THEIR_TOWER + "patch_embedding",
    _LAYER + r"attention\.projection_layer": _THEIR_LAYER + "attn.proj",
    _LAYER + r"attention\.": _THEIR_LAYER + "attn.",
    _LAYER + "layernorm_before": _THEIR_LAYER + "norm1",
    _LAYER + "layernorm_after": _THEIR_LAYER + "norm2",
    _LAYER + "lambda_": _THEIR_LAYER + "ls",
    _LAYER: _THEIR_LAYER,
    r"model\.multi_modal_projector\.layer_norm": "mlp1.0",
    r"model\.multi_modal_projector\.linear_1": "mlp1.1",
    r"model\.multi_modal_projector\.linear_2": "mlp1.3",
    r"lm_head": "language_model.lm_head",
    r"model\.language_model\.": "language_model.model.",
}
_INTERNLM2_NAMES = {
    "lm_head": "output",
    "embed_tokens": "tok_embeddings",
    "self_attn.o_proj": "attention.wo",
    "self_attn": "attention",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}
# InternViT-300M, and what InternViT-6B has otherwise
INTERN_VIT = {"qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm"}
INTERN_VIT_6B = {"qkv_bias": False, "qk_normalization": True, "norm_type": "rms_norm"}


def published_internvl(
    folder: Path,
    text: str = "internlm2",
    vision: Mapping[str, Any] = INTERN_VIT,
    tokenizer: PreTrainedTokenizerFast | None = None,
    language: Mapping[str, Any] | None = None,
    **own: Any,
) -> nn.Module:
    """InternVL with one of `INTERNVL_TEXTS`; `language` and `own` are further values of its two configs."""
    architecture, said = INTERNVL_TEXTS[text]
    llm = {
        **{**TEXT, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": NUM_ROWS},
        **{"rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", **said},
        **(language or {}),
    }
    tower = {"hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 3}
    tower |= {"image_size": 32, "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    kind = "llama" if text == "internlm2" else text
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={
                **tower,
                "attention_bias": vision["qkv_bias"],
                "use_qk_norm": vision["qk_normalization"],
                "norm_type": vision["norm_type"],
            },
            text_config={**llm, "model_type": kind, "tie_word_embeddings": False},
            image_token_id=5,
            image_seq_length=16,
            tie_word_embeddings=False,
        )
    )
    config = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "llm_config": {**llm, "architectures": [architecture], "model_type": text},
        "vision_config": {**tower, **vision, "model_type": "intern_vit_6b"},
        "template": _INTERNVL_TEMPLATES.get(text, "internvl2_5"),
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": 32,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "max_dynamic_patch": 4,
        **own,
    }

    def fuse(weights: dict[str, torch.Tensor]) -> None:
        _fuse_vision(weights)
        if text == "internlm2":
            _fuse_internlm2(weights, llm["num_key_value_heads"])

    return write_published(folder, model, config, _INTERNVL_NAMES, fuse, tokenizer or internvl_tokenizer())


def internvl_tokenizer() -> PreTrainedTokenizerFast:
    """With the tokens that mark a picture, and none for a video, as in the published ones."""
    tokenizer = _tokenizer()
    tokenizer.add_tokens(["<img>", "</img>", "<IMG_CONTEXT>", "<|end|>", "<quad>", "</quad>"], special_tokens=True)
    return tokenizer


def _fuse_vision(weights: dict[str, torch.Tensor]) -> None:
    for layer in range(2):
        for kind in ("weight", "bias"):
            prefix = f"vision_model.encoder.layers.{layer}.attn."
            if f"{prefix}q_proj.{kind}" in weights:
                parts = [weights.pop(f"{prefix}{one}_proj.{kind}") for one in "qkv"]
                weights[f"{prefix}qkv.{kind}"] = torch.cat(parts)


def _fuse_internlm2(weights: dict[str, torch.Tensor], num_keys: int) -> None:
    """Its names, and for every key the rows of the queries that share it, then its own and those of its value."""
    for layer in range(TEXT["num_hidden_layers"]):
        prefix = f"language_model.model.layers.{layer}.self_attn."
        q, k, v = (weights.pop(f"{prefix}{one}_proj.weight") for one in "qkv")
        groups = zip(q.chunk(num_keys), k.chunk(num_keys), v.chunk(num_keys), strict=True)
        weights[f"{prefix}wqkv.weight"] = torch.cat([rows for group in groups for rows in group])
    for name in [name for name in weights if name.startswith("language_model.")]:
        new = name
        for old, its in _INTERNLM2_NAMES.items():
            new = new.replace(old, its)
        weights[new] = weights.pop(name)


def write_published(
    folder: Path,
    model: nn.Module,
    config: Mapping[str, Any],
    names: Mapping[str, str],
    fuse: Callable[[dict[str, torch.Tensor]], None] | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> nn.Module:
    """A folder in the published layout with the weights of `model`, in two files; returns the model."""
    folder.mkdir(parents=True)
    randomise(model, 0)
    weights = {}
    for name, value in model.state_dict().items():
        pattern = next((one for one in names if re.match(one, name)), None)
        weights[re.sub(f"^{pattern}", names[pattern], name) if pattern else name] = value.clone()
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    if fuse is not None:
        fuse(weights)
    ordered, files = sorted(weights), {}
    for number, part in enumerate((ordered[::2], ordered[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}))
    (tokenizer or _tokenizer()).save_pretrained(folder)
    return model.eval()


PUBLISHED: dict[str, Callable[[Path], nn.Module]] = {
    "mipha_phi": published_mipha,
    "mipha_phi_fused": partial(published_mipha, is_fused=True),
    "mipha_phi3": partial(published_mipha, kind="phi3"),
    "mipha_gemma": partial(published_mipha, kind="gemma", head_dim=12, hidden_activation=None),
    "llava_qwen": published_aquila,
    "xgenmm": published_xgenmm,
}
