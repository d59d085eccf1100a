"""BLIP-2 and InstructBLIP: a Q-Former makes a fixed number of tokens of a picture, in front of the prompt."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import ModelOutput

from ...errors import UnsupportedBaseError
from ..base import EmbeddingsBridge, built_in
from ..chat_templates import WORDS_ALONE
from ..families import ENCODER_DECODER, Family
from ..markers import VisualMarkers


class BlipBridge(EmbeddingsBridge):
    """
    BLIP-2 and InstructBLIP: a Q-Former makes a fixed number of tokens of a picture, in front of the prompt.

    InstructBLIP's Q-Former reads the question too. Frames, and pictures beside a video, are encoded without one, so
    that a video can be asked often.
    """

    def check(self, base: Any) -> None:
        """Also for a language model that is an encoder-decoder; InstructBLIP's config does not say that it is one."""
        text: Any = getattr(getattr(base, "config", None), "text_config", None)
        if getattr(text, "is_encoder_decoder", False):
            raise UnsupportedBaseError(
                f"{base.config.model_type} with a {text.model_type} (Flan-T5) is not supported: {ENCODER_DECODER}. "
                "Use one with a language model that is a decoder: Salesforce/blip2-opt-2.7b, "
                "Salesforce/instructblip-vicuna-7b."
            )
        super().check(base)

    def encode(self, base: Any, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """With an instruction of no words, where the Q-Former takes one and none is given."""
        pictures = inputs["pixel_values"]
        instruction = {name: value for name, value in inputs.items() if name.startswith("qformer_")}
        if not instruction and "qformer_input_ids" in inspect.signature(base.get_image_features).parameters:
            nothing = torch.zeros(len(pictures), 0, dtype=torch.long, device=pictures.device)
            instruction = {"qformer_input_ids": nothing, "qformer_attention_mask": nothing}
        return base.get_image_features(pictures, **instruction, return_dict=True).pooler_output, [], "tensor"

    def forward(self, base: Any, **prepared: Any) -> ModelOutput:
        """Calls the language model where there is no picture: the base insists on one."""
        if prepared.get("pixel_values") is None and prepared.get("inputs_embeds") is None:
            return self.language_model(base)(**_without_instruction(prepared))
        return super().forward(base, **prepared)

    def generate(self, base: Any, **prepared: Any) -> Any:
        """Calls the language model where there is no picture: the base insists on one."""
        if prepared.get("pixel_values") is None:
            return self.language_model(base).generate(**_without_instruction(prepared))
        return super().generate(base, **prepared)

    def backbone(self, base: Any, **prepared: Any) -> ModelOutput:
        """Calls the language model; words for the Q-Former mean nothing where there is no picture."""
        return super().backbone(base, **(prepared if "pixel_values" in prepared else _without_instruction(prepared)))

    def picture_inputs_of(self, base: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, and the words of the Q-Former."""
        return {name: inputs[name] for name in inputs if name == "pixel_values" or name.startswith("qformer_")}

    def markers(self, processor: Any) -> VisualMarkers:
        """Nothing stands around the tokens of a picture."""
        token = str(processor.image_token)
        return VisualMarkers(token, token, processor.tokenizer.convert_tokens_to_ids(token), "", "")

    def tokens_of_frame(self, processor: Any, frame: np.ndarray) -> int:
        """The queries of the Q-Former, whatever the frame."""
        return processor.num_query_tokens

    def picture_inputs(
        self, processor: Any, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """The pixels alone, without the words that go to the Q-Former."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        made = processor.image_processor(flat, return_tensors="pt", **options)
        return dict(made), [str(processor.image_token) * processor.num_query_tokens] * len(flat)


def _without_instruction(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Without the words of a Q-Former, which InstructBLIP's processor writes where there is no picture, too."""
    return {name: value for name, value in prepared.items() if not name.startswith("qformer_")}


built_in(
    BlipBridge(
        Family(
            prepends_visuals=True,
            behind_visuals="bos_token",
            chat_template=WORDS_ALONE,
            notes=("with a decoder such as OPT or Vicuna; those with Flan-T5 are refused",),
        )
    ),
    "blip-2",
    "instructblip",
)

__all__ = ["BlipBridge"]
