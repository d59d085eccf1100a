"""Configuration of a LLaVA with a bias on its language head, and a Perceiver for a projector where it has one."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import AutoConfig


@strict
class BiasedLlavaConfig(PreTrainedConfig):
    """
    The settings of transformers' `LlavaConfig`, and what Mipha and xGen-MM (BLIP-3) have beyond it.

    Not a subclass of it: that would load all model classes of transformers with the first config.

    Example:

    >>> from transformers_linvt.bases.biased_llava.configuration_biased_llava import BiasedLlavaConfig
    >>> BiasedLlavaConfig(image_token_index=7).image_token_id
    7
    """

    model_type = "linvt_llava"
    attribute_map = {"image_token_id": "image_token_index"}
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="siglip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="phi"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_token_index: int = 32000  # this and the next six as in LLaVA
    projector_hidden_act: str = "gelu"
    vision_feature_select_strategy: Literal["default", "full"] = "full"
    vision_feature_layer: int | list[int] = -2
    image_seq_length: int = 576
    multimodal_projector_bias: bool = True
    tie_word_embeddings: bool = False

    head_bias: bool = True
    feature_scale: float | None = None  # of a picture's tokens, where the language model scales its words alone
    num_latents: int | None = None  # tokens of a picture behind a Perceiver; None: LLaVA's own projector
    perceiver_depth: int = 6  # blocks; this and the next two as in the code of xGen-MM
    perceiver_heads: int = 16
    perceiver_head_size: int = 96


__all__ = ["BiasedLlavaConfig"]
