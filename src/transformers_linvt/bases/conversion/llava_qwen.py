"""Aquila-VL, and others in the layout of LLaVA-NeXT's code with Qwen2 and SigLIP: transformers' LLaVA-OneVision."""

from typing import Any

from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor

from ..loading import video_processors_known
from .layout import (
    IMAGE,
    SIGLIP_MEAN,
    VIDEO,
    Converted,
    Layout,
    Published,
    content,
    ends,
    image_processor,
    known_tower,
    siglip_config,
    text_config,
    tokenizer_with,
    video_processor,
)
from .weights import renamed


_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    + content(IMAGE, "\\n")
    + "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_NAMES = {
    r"model\.vision_tower\.vision_tower\.vision_model\.": "model.vision_tower.",
    r"model\.mm_projector\.0\.": "model.multi_modal_projector.linear_1.",
    r"model\.mm_projector\.2\.": "model.multi_modal_projector.linear_2.",
    r"model\.image_newline": "model.image_newline",
    r"lm_head\.": "lm_head.",
    r"model\.": "model.language_model.",
}


def _convert(published: Published) -> Converted:
    said = published.config
    published.expect("mm_projector_type", said["mm_projector_type"], "mlp2x_gelu")
    if "unpad" not in said["mm_patch_merge_type"]:
        published.expect("mm_patch_merge_type", said["mm_patch_merge_type"], "spatial_unpad")
    published.expect("mm_vision_select_layer", said.get("mm_vision_select_layer", -2), -2)
    is_tied = bool(said.get("tie_word_embeddings"))
    names = [name for name in published.weights if not (is_tied and name == "lm_head.weight")]
    sizes = siglip_config(published.vision_config or known_tower(said["mm_vision_tower"]))
    # Their code drops the last layer of the tower, and takes what comes out of the last one left.
    sizes = {**sizes, "num_hidden_layers": sizes["num_hidden_layers"] - 1, "vision_use_head": False}
    tokenizer, (image_id, video_id) = tokenizer_with(published.folder, said["vocab_size"], IMAGE, VIDEO)
    config = LlavaOnevisionConfig(
        vision_config=sizes,
        text_config={"model_type": "qwen2", **text_config(said)},
        image_token_index=image_id,
        video_token_index=video_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[list(pinpoint) for pinpoint in said["image_grid_pinpoints"]],
        vision_aspect_ratio=said["image_aspect_ratio"],
        tie_word_embeddings=is_tied,
        architectures=["LlavaOnevisionForConditionalGeneration"],
        dtype=published.weights.dtype(),
    )
    processor = _processor(config, tokenizer)
    return Converted(renamed(names, _NAMES), config, processor, ends(tokenizer, "<|im_end|>", tokenizer.eos_token))


def _processor(config: Any, tokenizer: Any) -> LlavaOnevisionProcessor:
    side = config.vision_config.image_size
    size, grid = {"height": side, "width": side}, config.image_grid_pinpoints
    statistics = {"image_mean": SIGLIP_MEAN, "image_std": SIGLIP_MEAN}
    with video_processors_known():
        return LlavaOnevisionProcessor(
            image_processor(
                "LlavaOnevisionImageProcessor", SIGLIP_MEAN, SIGLIP_MEAN, size=size, image_grid_pinpoints=grid
            ),
            tokenizer,
            video_processor("LlavaOnevisionVideoProcessor", size=size, **statistics),
            num_image_tokens=(side // config.vision_config.patch_size) ** 2,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=config.vision_aspect_ratio,
            image_token=IMAGE,
            video_token=VIDEO,
            chat_template=_TEMPLATE,
        )


LLAVA_QWEN = Layout(
    title="Aquila-VL",
    convert=_convert,
    nested={
        "mm_patch_merge_type": str,
        "mm_vision_tower": str,
        "image_grid_pinpoints": list,
        "image_aspect_ratio": str,
        "vocab_size": int,
    },
)

__all__ = ["LLAVA_QWEN"]
