"""
Mipha with SigLIP: with Phi-1.5 (Mipha-1.6B) and Phi-2 (Mipha-3B), with Phi-3, and with Gemma (Mipha-2.4B).

All have a LLaVA's parts. With Phi the head has a bias; with Gemma pictures are scaled as words are, before the first
layer, which transformers 5 does to words alone. With Phi-3 it is transformers' own LLaVA.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlavaConfig

from ..biased_llava.configuration_biased_llava import BiasedLlavaConfig
from .layout import (
    IMAGE,
    POLITE,
    Converted,
    Layout,
    Published,
    content,
    ends,
    siglip_config,
    text_config,
    tokenizer_with,
)
from .llava_biased import llava_processor
from .weights import Split, renamed


_POLITE_TEMPLATE = (
    f'{{{{- "{POLITE} " }}}}'
    "{%- for message in messages %}{{- 'USER: ' if message.role == 'user' else 'ASSISTANT: ' }}"
    + content(IMAGE, "\\n")
    + "{{- ' ' if message.role == 'user' else 'END' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"
)
_PHI3_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}{{- '<|system|>You are a helpful AI assistant.<|end|>' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|' + message.role + '|>' }}"
    + content(IMAGE, "\\n")
    + "{{- '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
_NAMES = {
    r"model\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"lm_head\.": "lm_head.",
    r"model\.": "model.language_model.",
}
_NESTED = {
    "vision_config": dict,
    "vision_config.vision_tower": dict,
    "vision_config.vision_tower.vision_model_name_or_path": str,
    "vision_config.mm_projector": dict,
    "vocab_size": int,
    "num_attention_heads": int,
}


def _phi(published: Published) -> Converted:
    template = _POLITE_TEMPLATE.replace("END", "<|endoftext|>")
    return _converted(published, BiasedLlavaConfig, {"model_type": "phi"}, template)


def _phi3(published: Published) -> Converted:
    return _converted(published, LlavaConfig, {"model_type": "phi3"}, _PHI3_TEMPLATE, "<|end|>")


def _gemma(published: Published) -> Converted:
    said = published.config
    # its code takes this one, whatever `hidden_act` says
    text = {"model_type": "gemma", "hidden_act": said.get("hidden_activation") or "gelu_pytorch_tanh"}
    own = {"head_bias": False, "feature_scale": said["hidden_size"] ** 0.5}
    return _converted(published, BiasedLlavaConfig, text, _POLITE_TEMPLATE.replace("END", "<eos>"), **own)


def _converted(
    published: Published,
    config_class: Any,
    text: Mapping[str, Any],
    template: str,
    *end: str,
    **own: Any,
) -> Converted:
    """
    What all of them share.

    Args:
        published: the checkpoint.
        config_class: of the new model.
        text: what its text config has beside or instead of what was published.
        template: its chat template.
        end: tokens that end an answer, beside the tokenizer's own.
        own: further fields of the config.
    """
    said, tower = published.config, published.config["vision_config"]["vision_tower"]
    projector = said["vision_config"]["mm_projector"]["mm_projector_type"]
    published.expect("mm_projector_type", projector, "mlp2x_gelu")
    if "siglip" not in tower["vision_model_name_or_path"].lower():
        published.expect("vision_model_name_or_path", tower["vision_model_name_or_path"], "a SigLIP")
    # what its own config class assumes where a config does not say it
    sizes = {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, **tower}
    sizes = published.vision_config or sizes
    is_tied = bool(said.get("tie_word_embeddings", text["model_type"] == "gemma"))
    tokenizer, image_id = tokenizer_with(published.folder, said["vocab_size"], IMAGE)
    config = config_class(
        vision_config=siglip_config(sizes),
        text_config={**text_config(said), **text},
        image_token_index=image_id[0],
        image_seq_length=(sizes["image_size"] // sizes["patch_size"]) ** 2,
        vision_feature_layer=tower.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        tie_word_embeddings=is_tied,
        architectures=[_ARCHITECTURES[config_class]],
        dtype=published.weights.dtype(),
        **own,
    )
    names = [name for name in published.weights if not (is_tied and name == "lm_head.weight")]
    fused = Split(r"model.language_model.layers.\1.self_attn.{}_proj.\2", ("q", "k", "v"), _by_head(said))
    steps = renamed(names, {r"model\.layers\.(\d+)\.self_attn\.query_key_value\.(weight|bias)$": fused, **_NAMES})
    processor = llava_processor(config, tokenizer, template)
    return Converted(steps, config, processor, ends(tokenizer, *end, tokenizer.eos_token))


_ARCHITECTURES = {
    BiasedLlavaConfig: "BiasedLlavaForConditionalGeneration",
    LlavaConfig: "LlavaForConditionalGeneration",
}


def _by_head(said: Mapping[str, Any]) -> Any:
    """Phi-1.5 keeps the rows of query, key and value of a head together, then those of the next head."""

    def cut(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        of_heads = tensor.unflatten(0, (said["num_attention_heads"], 3, -1))
        return tuple(part.flatten(0, 1) for part in of_heads.unbind(1))

    return cut


MIPHA_PHI = Layout("Mipha", _phi, _NESTED)
MIPHA_PHI3 = Layout("Mipha with Phi-3", _phi3, _NESTED)
MIPHA_GEMMA = Layout("Mipha with Gemma", _gemma, {**_NESTED, "hidden_size": int})

__all__ = ["MIPHA_GEMMA", "MIPHA_PHI", "MIPHA_PHI3"]
