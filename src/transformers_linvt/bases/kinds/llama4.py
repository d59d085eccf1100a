"""Llama 4, whose image features are taken before the projector."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from ..base import EmbeddingsBridge, built_in, without_ids
from ..families import Family


class Llama4Bridge(EmbeddingsBridge):
    """Llama 4, whose image features are taken before the projector, a linear layer."""

    def language_model(self, base: Any) -> PreTrainedModel:
        """The base itself: with embedded prompts it is a language model."""
        return base

    def encode(self, base: Any, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """Through the projector as well."""
        # Its image processor gives bfloat16, whatever the model is in.
        pixel_values = inputs["pixel_values"].to(base.dtype)
        features = base.get_image_features(pixel_values=pixel_values, return_dict=True).last_hidden_state
        return base.multi_modal_projector(features), [], "tensor"

    def head(self, base: Any) -> nn.Module | None:
        """The head of the language model inside."""
        return base.language_model.get_output_embeddings()

    def backbone(self, base: Any, **prepared: Any) -> ModelOutput:
        """Hidden states of the language model inside."""
        if prepared.get("inputs_embeds") is None:
            prepared = self.embed_pictures(base, **prepared)
        return base.language_model.model(**without_ids(prepared))


built_in(Llama4Bridge(Family(one_tile={"max_patches": 1})), "llama4")

__all__ = ["Llama4Bridge"]
