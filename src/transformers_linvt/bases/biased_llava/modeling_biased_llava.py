"""
A LLaVA whose language head has a bias, as Mipha and xGen-MM (BLIP-3) have, and a Perceiver as xGen-MM has.

transformers' own LLaVA has no such bias and would drop it without a word. Folding it into the last norm is exact in
32 bits only.
"""

from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_biased_llava import BiasedLlavaConfig


class PerceiverBlock(nn.Module):
    """
    Latents look at a picture and at each other, then a feed-forward layer; both are added.

    Args:
        width: of patches and latents.
        num_heads, head_size: of the attention.
    """

    def __init__(self, width: int, num_heads: int, head_size: int) -> None:
        super().__init__()
        inner = num_heads * head_size
        self.num_heads = num_heads
        self.norm_media, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, False)
        )

    def forward(self, patches: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """`(pictures, patches, width)` and `(pictures, latents, width)` -> the latents."""
        normed = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(patches), normed], dim=1)
        parts = (self.to_q(normed), *self.to_kv(seen).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        latents = latents + self.to_out(attended.transpose(1, 2).flatten(2))
        return latents + self.mlp(latents)


class PerceiverProjector(nn.Module):
    """
    Patches of a picture -> `num_latents` tokens of the language model, which have no places in the picture.

    Args:
        config ([`BiasedLlavaConfig`]).
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.latents = nn.Parameter(torch.randn(config.num_latents, width) * width**-0.5)
        self.layers = nn.ModuleList(
            PerceiverBlock(width, config.perceiver_heads, config.perceiver_head_size)
            for _ in range(config.perceiver_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.text_config.hidden_size)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """`(pictures, patches, width)` -> `(pictures, latents, D)`."""
        latents = self.latents.expand(len(patches), -1, -1)
        for layer in self.layers:
            latents = layer(patches, latents)
        return self.projection(self.norm(latents))


class BiasedLlavaModel(LlavaModel):
    """The backbone: LLaVA's, with a Perceiver behind the last norm of the vision tower where there is one."""

    config_class = BiasedLlavaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.num_latents:
            self.multi_modal_projector = PerceiverProjector(config)
        self.post_init()

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Pictures `(pictures, channels, height, width)` -> a tensor `(tokens, D)` of each in `pooler_output`."""
        if not self.config.num_latents:
            output: Any = super().get_image_features(pixel_values, **kwargs)
            if self.config.feature_scale is not None:
                output.pooler_output = [self._scaled(tokens) for tokens in output.pooler_output]
            return output
        patches = self.vision_tower(pixel_values, return_dict=True).last_hidden_state
        tokens: Any = list(self.multi_modal_projector(patches))
        return BaseModelOutputWithPooling(last_hidden_state=patches, pooler_output=tokens)

    def _scaled(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * torch.tensor(self.config.feature_scale, dtype=tokens.dtype, device=tokens.device)


class BiasedLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    """
    The head with its bias on [`BiasedLlavaModel`].

    Args:
        config ([`BiasedLlavaConfig`]).
    """

    config_class = BiasedLlavaConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = BiasedLlavaModel(config)
        width, num_words = config.text_config.hidden_size, config.text_config.vocab_size
        self.lm_head = nn.Linear(width, num_words, bias=config.head_bias)
        self.post_init()


__all__ = ["BiasedLlavaForConditionalGeneration", "BiasedLlavaModel", "PerceiverProjector"]
