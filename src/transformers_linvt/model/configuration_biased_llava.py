"""Configuration of a LLaVA with a bias on its language head, and a Perceiver for a projector where it has one."""

from huggingface_hub.dataclasses import strict
from transformers.models.llava.configuration_llava import LlavaConfig


@strict
class BiasedLlavaConfig(LlavaConfig):
    """
    [`LlavaConfig`] and what Mipha and xGen-MM (BLIP-3) have beyond it; their converted checkpoints are of this kind.

    Example:

    >>> from transformers_linvt.model.configuration_biased_llava import BiasedLlavaConfig
    >>> BiasedLlavaConfig().num_latents is None
    True
    """

    model_type = "linvt_llava"

    num_latents: int | None = None  # tokens of a picture behind a Perceiver; None: LLaVA's own projector
    perceiver_depth: int = 6  # blocks; this and the next two as in the code of xGen-MM
    perceiver_heads: int = 16
    perceiver_head_size: int = 96


__all__ = ["BiasedLlavaConfig"]
