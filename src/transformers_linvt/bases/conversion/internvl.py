"""
InternVL2, 2.5 and 3 as published (`internvl_chat`): InternViT and a language model, made transformers' own `internvl`.

The language model is a Llama, an InternLM2 (which becomes a Llama), a Qwen2, a Qwen3 or a Phi-3. InternViT-6B, in the
sizes from 26B on, has norms of another kind, and norms of queries and keys; transformers' `internvl` knows both.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import InternVLConfig, InternVLProcessor, PreTrainedTokenizerFast

from ...errors import UnsupportedBaseError
from ..loading import video_processors_known
from .layout import (
    Converted,
    Layout,
    Published,
    check_ids,
    content,
    ends,
    image_processor,
    load_tokenizer,
    ready_for_chat,
    text_config,
    video_processor,
)
from .weights import Split, renamed


_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet, as in its code
_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
# The processor insists on one for its own videos, which it replaces in the prompt: it needs no embedding.
_VIDEO = {"video_token": "<|internvl_video|>"}
# The published classes of language models, and the model type of transformers that has the same parts.
_LANGUAGE_MODELS = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_OLDER = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
_NEWER = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
# What a prompt looks like, by the published `template`: the words of the system, and the ends of a role and a message.
_PROMPTS = {
    "Hermes-2": (_OLDER, "<|im_start|>{}\\n", "<|im_end|>"),
    "internlm2-chat": (_OLDER, "<|im_start|>{}\\n", "<|im_end|>"),
    "internvl2_5": (_NEWER, "<|im_start|>{}\\n", "<|im_end|>\\n"),
    "phi3-chat": (_OLDER, "<|{}|>\\n", "<|end|>"),
}


def _convert(published: Published) -> Converted:
    said = published.config
    _check(published)
    is_tied = _is_tied(published)
    config: Any = internvl_config(said, is_tied)
    tokenizer = ready_for_chat(load_tokenizer(published.folder, {**_TOKENS, **_VIDEO}))
    ids: Any = tokenizer.convert_tokens_to_ids(list(_TOKENS.values()))
    check_ids(published.folder, tokenizer, ids, config.text_config.vocab_size)
    config.image_token_id, config.dtype = ids[-1], published.weights.dtype()
    names = [name for name in published.weights if not (is_tied and name == "language_model.lm_head.weight")]
    steps = renamed(names, {**_VISION_NAMES, **_text_names(said["llm_config"])})
    words, role, end = _PROMPTS[said["template"]]
    template = _chat_template(said.get("system_message") or words, role, end)
    processor = _processor(said, config, tokenizer, template)
    generation = ends(tokenizer, end.removesuffix("\\n"), tokenizer.eos_token)
    return Converted(steps, config, processor, generation)


def _check(published: Published) -> None:
    """
    Refuse what transformers' `internvl` would compute otherwise.

    Raises:
        UnsupportedBaseError: such a value.
    """
    said, vision = published.config, published.config["vision_config"]
    architecture = _architecture(said)
    if architecture not in _LANGUAGE_MODELS:
        raise UnsupportedBaseError(
            f"{str(published.folder)!r}: the language model is a {architecture}; those that can be converted are "
            f"{', '.join(_LANGUAGE_MODELS)}. Look for a checkpoint of this model that transformers loads: its name "
            "ends in -hf."
        )
    published.expect("template", said["template"], *_PROMPTS)
    # the first way to shuffle turns the picture on its side
    published.expect("ps_version", said.get("ps_version", "v1"), "v2")
    for name in ("use_backbone_lora", "use_llm_lora"):  # adapters beside the weights that they change
        published.expect(name, said.get(name, 0), 0)
    published.expect("pad2square", said.get("pad2square", False), False)
    if said.get("dynamic_image_size", False):
        published.expect("use_thumbnail", said.get("use_thumbnail", False), True)
    if vision.get("qk_normalization", True):  # transformers has this number in its code
        published.expect("vision_config.layer_norm_eps", vision.get("layer_norm_eps", 1e-6), 1e-6)
    published.expect("vision_config.num_channels", vision.get("num_channels", 3), 3)


def _architecture(said: Mapping[str, Any]) -> str:
    return (said["llm_config"].get("architectures") or [""])[0]


def _is_tied(published: Published) -> bool:
    """Its code ties the head to the embeddings in no size, whatever the config of the language model says."""
    given = published.weights
    has_head = "language_model.lm_head.weight" in given or "language_model.output.weight" in given
    return not has_head and bool(published.config["llm_config"].get("tie_word_embeddings"))


def internvl_config(said: Mapping[str, Any], is_tied: bool = False) -> InternVLConfig:
    """
    The config of transformers for a published one.

    Args:
        said: the published config.json.
        is_tied: whether the head of the language model is the table of embeddings.
    """
    vision, text = said["vision_config"], text_config(said["llm_config"])
    architecture = _architecture(said)
    if architecture == "InternLM2ForCausalLM":
        text["attention_bias"] = bool(said["llm_config"].get("bias", True))
    # what its own config class assumes where a config does not say it: the numbers of InternViT-6B
    sizes = {
        "hidden_size": vision.get("hidden_size", 3200),
        "intermediate_size": vision.get("intermediate_size", 12800),
        "num_hidden_layers": vision.get("num_hidden_layers", 48),
        "num_attention_heads": vision.get("num_attention_heads", 25),
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 14),
        "hidden_act": vision.get("hidden_act", "gelu"),
        "norm_type": vision.get("norm_type", "rms_norm"),
        "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
        "attention_bias": vision.get("qkv_bias", False),
        "use_qk_norm": vision.get("qk_normalization", True),
    }
    ratio = said.get("downsample_ratio", 0.5)
    return InternVLConfig(
        vision_config=sizes,
        text_config={**text, "model_type": _LANGUAGE_MODELS[architecture], "tie_word_embeddings": is_tied},
        image_seq_length=int((_side(said) // sizes["patch_size"]) ** 2 * ratio**2),
        downsample_ratio=ratio,
        vision_feature_layer=said.get("select_layer", -1),
        vision_feature_select_strategy="default",  # without the class token, as its code
        tie_word_embeddings=is_tied,
        architectures=["InternVLForConditionalGeneration"],
    )


def _side(said: Mapping[str, Any]) -> int:
    """The side of a tile in pixels."""
    return said.get("force_image_size") or said["vision_config"].get("image_size", 224)


# ---------------------------------------------------------------------------------------------------------------------
# Weights
# ---------------------------------------------------------------------------------------------------------------------

_LAYER = r"vision_model\.encoder\.layers\.(\d+)\."
_NEW_LAYER = r"model.vision_tower.encoder.layer.\1."
_VISION_NAMES: dict[str, str | Split] = {
    r"vision_model\.embeddings\.class_embedding": "model.vision_tower.embeddings.cls_token",
    r"vision_model\.embeddings\.position_embedding": "model.vision_tower.embeddings.position_embeddings",
    r"vision_model\.embeddings\.patch_embedding\.": "model.vision_tower.embeddings.patch_embeddings.projection.",
    _LAYER + r"attn\.qkv\.(weight|bias)$": Split(
        _NEW_LAYER + r"attention.{}_proj.\2", ("q", "k", "v"), lambda tensor: tensor.chunk(3)
    ),
    _LAYER + r"attn\.proj\.": _NEW_LAYER + "attention.projection_layer.",
    _LAYER + r"attn\.([qk])_norm\.": _NEW_LAYER + r"attention.\2_norm.",
    _LAYER + r"norm1\.": _NEW_LAYER + "layernorm_before.",
    _LAYER + r"norm2\.": _NEW_LAYER + "layernorm_after.",
    _LAYER + "ls1": _NEW_LAYER + "lambda_1",
    _LAYER + "ls2": _NEW_LAYER + "lambda_2",
    _LAYER: _NEW_LAYER,
    r"mlp1\.0\.": "model.multi_modal_projector.layer_norm.",
    r"mlp1\.1\.": "model.multi_modal_projector.linear_1.",
    r"mlp1\.3\.": "model.multi_modal_projector.linear_2.",
}
_TEXT_NAMES: dict[str, str | Split] = {
    r"language_model\.lm_head\.": "lm_head.",
    r"language_model\.model\.": "model.language_model.",
}


def _text_names(text: Mapping[str, Any]) -> dict[str, str | Split]:
    """Those of InternLM2 are its own; the others have the names of transformers."""
    if text["architectures"][0] != "InternLM2ForCausalLM":
        return _TEXT_NAMES
    layer, new_layer = r"language_model\.model\.layers\.(\d+)\.", r"model.language_model.layers.\1."
    heads, groups = text["num_attention_heads"], text.get("num_key_value_heads") or text["num_attention_heads"]

    def by_group(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The rows of the queries that share a key, then that key and its value; then the next such group."""
        rows = tensor.unflatten(0, (groups, heads // groups + 2, -1))
        return rows[:, :-2].flatten(0, 2), rows[:, -2].flatten(0, 1), rows[:, -1].flatten(0, 1)

    return {
        r"language_model\.output\.": "lm_head.",
        r"language_model\.model\.tok_embeddings\.": "model.language_model.embed_tokens.",
        layer + r"attention\.wqkv\.(weight|bias)$": Split(
            new_layer + r"self_attn.{}_proj.\2", ("q", "k", "v"), by_group
        ),
        layer + r"attention\.wo\.": new_layer + "self_attn.o_proj.",
        layer + r"feed_forward\.w1\.": new_layer + "mlp.gate_proj.",
        layer + r"feed_forward\.w2\.": new_layer + "mlp.down_proj.",
        layer + r"feed_forward\.w3\.": new_layer + "mlp.up_proj.",
        layer + r"attention_norm\.": new_layer + "input_layernorm.",
        layer + r"ffn_norm\.": new_layer + "post_attention_layernorm.",
        **_TEXT_NAMES,
    }


# ---------------------------------------------------------------------------------------------------------------------
# Processor
# ---------------------------------------------------------------------------------------------------------------------


def _chat_template(words: str, role: str, end: str) -> str:
    before = role.replace("{}", "' + message.role + '")
    return (
        "{%- if messages[0].role != 'system' %}"
        f"{{{{- '{role.format('system')}{words}{end}' }}}}{{%- endif %}}"
        f"{{%- for message in messages %}}{{{{- '{before}' }}}}"
        + content(_TOKENS["context_image_token"], "\\n")
        + f"{{{{- '{end}' }}}}{{%- endfor %}}"
        f"{{%- if add_generation_prompt %}}{{{{- '{role.format('assistant')}' }}}}{{%- endif %}}"
    )


def _processor(
    said: Mapping[str, Any], config: InternVLConfig, tokenizer: PreTrainedTokenizerFast, template: str
) -> InternVLProcessor:
    size = {"height": _side(said), "width": _side(said)}
    is_tiled = said.get("dynamic_image_size", False)
    tiles = {
        "min_patches": said.get("min_dynamic_patch", 1) if is_tiled else 1,
        "max_patches": said.get("max_dynamic_patch", 6) if is_tiled else 1,
    }
    videos = video_processor("InternVLVideoProcessor", size=size, image_mean=_MEAN, image_std=_STD)
    with video_processors_known():
        return InternVLProcessor(
            image_processor("GotOcr2ImageProcessor", _MEAN, _STD, size=size, **tiles),
            tokenizer,
            videos,
            image_seq_length=config.image_seq_length,
            chat_template=template,
        )


INTERNVL = Layout(
    title="InternVL2, 2.5 and 3",
    convert=_convert,
    nested={
        "vision_config": dict,
        "llm_config": dict,
        "llm_config.architectures": list,
        "llm_config.num_attention_heads": int,
        "llm_config.vocab_size": int,
        "template": str,
    },
)

__all__ = ["INTERNVL", "internvl_config"]
