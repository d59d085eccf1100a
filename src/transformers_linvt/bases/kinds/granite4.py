"""Granite 4 Vision, which adds all visual tokens in numbered layers and none at the embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..base import BaseBridge, built_in
from ..families import Family
from ..layouts import PictureTiles
from ..visuals import container_of, encoder_inputs, image_encoder


class Granite4Bridge(BaseBridge):
    """Granite 4 Vision: what enters first stands for the rest."""

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        layers = image_encoder(base)(**encoder_inputs(base, inputs), return_dict=True).deepstack_features
        features = min(layers, key=lambda pair: pair[0])[1]
        return features, [tokens for _, tokens in layers], container_of(features)

    def hand_over(
        self,
        base: PreTrainedModel,
        input_ids: torch.Tensor,
        tokens: torch.Tensor,
        deepstack: Sequence[torch.Tensor],
        lengths: Sequence[int],
        container: str,
        inputs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """As the common kind, with the numbers of the layers, in the base's own order."""
        prepared = super().hand_over(base, input_ids, tokens, deepstack, lengths, container, inputs)
        visuals, config = prepared["mm_encoder_outputs"]["image"], base.config
        numbers = (*(layer for _, layer in config.deepstack_layer_map), *config.spatial_target_layers)
        visuals.deepstack_features = list(zip(numbers, visuals.deepstack_features, strict=True))
        return prepared


built_in(Granite4Bridge(Family(layout=PictureTiles())), "granite4_vision")

__all__ = ["Granite4Bridge"]
