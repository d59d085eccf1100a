"""What Mipha and xGen-MM become: a LLaVA, with a biased head where theirs has one."""

from typing import Any

from transformers import LlavaProcessor

from ..biased_llava.configuration_biased_llava import BiasedLlavaConfig
from .layout import IMAGE, SIGLIP_MEAN, image_processor


def llava_processor(config: Any, tokenizer: Any, chat_template: str) -> LlavaProcessor:
    """
    LLaVA's processor with SigLIP's pictures.

    Args:
        config: of the new model, a `BiasedLlavaConfig` or transformers' `LlavaConfig`.
        tokenizer: with `<image>`.
        chat_template: of the published model.
    """
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    num_latents = config.num_latents if isinstance(config, BiasedLlavaConfig) else None
    # LlavaProcessor counts patches; a Perceiver's tokens are one "patch" as large as the picture, and the rest added.
    patch, num_added = (side, num_latents - 1) if num_latents else (patch, 0)
    return LlavaProcessor(
        image_processor("SiglipImageProcessor", SIGLIP_MEAN, SIGLIP_MEAN, size={"height": side, "width": side}),
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=num_added,
        image_token=IMAGE,
        chat_template=chat_template,
    )


__all__ = ["llava_processor"]
