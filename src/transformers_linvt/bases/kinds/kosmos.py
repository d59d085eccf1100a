"""
What Kosmos-2 needs: a place for video tokens in its vocabulary, its encoder, and its language model run by itself.

Its head insists on a picture of a fixed number of tokens in every prompt and says by a mask where it stands, so videos
and text go to the language model inside, embedded. That one counts positions from the padding, and forgets it in steps
with a cache; they are counted here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from ..base import EmbeddingsBridge, built_in
from ..cache import CACHE_NAME
from ..chat_templates import WORDS_ALONE
from ..families import Family
from ..generator import BorrowedGenerator
from ..markers import VisualMarkers


# Of the tokens that its processor adds, in its order, the one for the end of a chunk of a document: no prompt for a
# picture holds it. Whatever is embedded there is replaced.
START, END, PLACE = "<image>", "</image>", "</chunk>"
_TAGS = ("</doc>", START, END, PLACE, "</line>", "<phrase>", "</phrase>", "<object>", "</object>")
_NUM_TAGS = len(_TAGS) + 2  # and those between several objects, and for answers with places
_NUM_PATCH_TOKENS = 1024  # places in a picture, at the end of the vocabulary; its processor's default


def place_token_id(config: Any) -> int | None:
    """Id of `</chunk>`: 64005 of the published 65037."""
    size = getattr(getattr(config, "text_config", None), "vocab_size", None)
    return size - _NUM_PATCH_TOKENS - _NUM_TAGS + _TAGS.index(PLACE) if isinstance(size, int) else None


def encode_pictures(base: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """
    Pictures through vision tower and resampler, as the base's own `forward` does it.

    Args:
        base: the model.
        pixel_values (`torch.Tensor` of shape `(pictures, 3, height, width)`).

    Returns:
        `torch.Tensor` of shape `(pictures, tokens, D)`.
    """
    patches = base.vision_model(pixel_values=pixel_values, return_dict=True).last_hidden_state
    normal = nn.functional.normalize(base.vision_model.model.post_layernorm(patches), dim=-1)
    return base.image_to_text_projection(normal)[0]


def run_text(
    model: Any,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cache: Any = None,
    past_key_values: Any = None,
    **rest: Any,
) -> ModelOutput:
    """
    The language model with or without its head, at positions that do not count padding.

    Args:
        model: `base.text_model`, or its `model` for hidden states.
        input_ids (`torch.LongTensor` of shape `(batch, length)`, *optional*): unused beside embeddings.
        inputs_embeds (`torch.Tensor` of shape `(batch, length, D)`, *optional*): before they are scaled.
        attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
        position_ids (`torch.Tensor` of shape `(batch, length)`, *optional*): by default counted from the mask.
        cache: what was seen before.
        past_key_values: the same, as transformers called it until 5.23.
        rest: everything else that it takes.
    """
    cache = past_key_values if cache is None else cache
    given = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    if position_ids is None:
        prompt: Any = next(iter(given.values()))
        length, mask = prompt.shape[1], attention_mask
        if mask is None:
            seen = cache.get_seq_length() if cache is not None else 0
            mask = torch.ones(len(prompt), seen + length, dtype=torch.long, device=prompt.device)
        # as its table has them: padding lies at the id of its token, the first word behind that
        position_ids = (mask.long().cumsum(-1) * mask.long() + model.config.pad_token_id)[:, -length:].contiguous()
    return model(**given, attention_mask=attention_mask, position_ids=position_ids, **{CACHE_NAME: cache}, **rest)


class Kosmos2Generator(BorrowedGenerator):
    """`generate` on the language model of Kosmos-2, with the positions of [`run_text`] in every step."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput:
        """One step of `generate`: the embedded prompt, then ids; `position_ids`, which begin elsewhere, are unused."""
        return run_text(
            self._held[0].text_model,
            input_ids,
            inputs_embeds,
            attention_mask,
            cache=past_key_values if cache is None else cache,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )


class Kosmos2Bridge(EmbeddingsBridge):
    """
    Kosmos-2, whose head insists on one picture in front of every prompt.

    Pictures alone go the base's own way; beside a video, and in training, all stand on `</chunk>` and are embedded.
    """

    def __init__(self) -> None:
        super().__init__(Family(prepends_visuals=True, begins_with_bos=True, chat_template=WORDS_ALONE))

    def language_model(self, base: Any) -> PreTrainedModel:
        """The language model, which this base has under a name of its own."""
        return base.text_model

    def image_token_id(self, config: Any) -> int | None:
        """The id of `</chunk>`: the base has no placeholder, and says by a mask where a picture stands."""
        return place_token_id(config)

    def decoder(self, base: Any) -> nn.Module:
        """The language model without its head."""
        return base.text_model.model

    def picture_inputs_of(self, base: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, and where they stand."""
        names = ("pixel_values", "image_embeds_position_mask")
        return {name: inputs[name] for name in names if inputs.get(name) is not None}

    def encode(self, base: Any, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """As its `forward` does: its head has no `get_image_features`."""
        return encode_pictures(base, inputs["pixel_values"]), [], "tensor"

    @property
    def takes_positions(self) -> bool:
        return False

    def hand_over(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As the common kind, without positions: its own begin elsewhere, and [`run_text`] counts them."""
        prepared = super().hand_over(*args, **kwargs)
        prepared.pop("position_ids", None)
        return prepared

    def forward(self, base: Any, **prepared: Any) -> ModelOutput:
        """Calls the language model where there is no picture: the base insists on one."""
        prepared = self._embedded(base, prepared)
        if prepared.get("pixel_values") is None:
            return run_text(base.text_model, **prepared)
        return base(**prepared)

    def backbone(self, base: Any, **prepared: Any) -> ModelOutput:
        """Calls the language model, which takes encoded pictures and their mask."""
        prepared = self._embedded(base, prepared)
        if (pixel_values := prepared.pop("pixel_values", None)) is not None:
            prepared["image_embeds"] = encode_pictures(base, pixel_values)
        return run_text(base.text_model.model, **prepared)

    def generate(self, base: Any, **prepared: Any) -> Any:
        """Calls the language model where there is no picture: the base insists on one."""
        prepared = self._embedded(base, prepared)
        if prepared.get("pixel_values") is None:
            return Kosmos2Generator(base).generate(**prepared)
        return base.generate(**prepared)

    def _embedded(self, base: Any, prepared: dict[str, Any]) -> dict[str, Any]:
        """Pictures that stand on `</chunk>`, as training has them, are embedded; the base's processor gives a mask."""
        if prepared.get("pixel_values") is None or prepared.get("image_embeds_position_mask") is not None:
            return prepared
        return {"input_ids": prepared["input_ids"], **self.embed_pictures(base, **prepared)}

    def markers(self, processor: Any) -> VisualMarkers:
        """A space behind the picture, as its processor writes it."""
        return VisualMarkers(START, PLACE, processor.tokenizer.convert_tokens_to_ids(PLACE), START, END + " ")

    def tokens_of_frame(self, processor: Any, frame: np.ndarray) -> int:
        """The queries of its resampler, whatever the frame."""
        return processor.num_image_tokens

    def picture_inputs(
        self, processor: Any, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels, and a place for each token."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        made = processor.image_processor(flat, return_tensors="pt", **options)
        return dict(made), [self.markers(processor).video(processor.num_image_tokens)] * len(flat)


built_in(Kosmos2Bridge(), "kosmos-2")

__all__ = [
    "END",
    "PLACE",
    "START",
    "Kosmos2Bridge",
    "Kosmos2Generator",
    "encode_pictures",
    "place_token_id",
    "run_text",
]
