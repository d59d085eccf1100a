"""
How LinVT talks to one kind of base model, and how another kind is made known.

[`BaseAdapter`] is the whole conversation: load the base, encode pictures, hand video tokens over, run it, and the same
on the side of the processor. Its methods are those of transformers' own image-text models, which take encoded visual
tokens (`mm_encoder_outputs`). A kind that cannot is a subclass that says what it does instead, and
[`register_base_vlm`] makes it known. What differs between families of the common kind is data, in `base_vlm.py`.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput
from transformers.utils import logging

from ..errors import LinVTInputError
from .families import (
    PICTURES,
    Family,
    check_base,
    encode_images,
    encoder_inputs,
    family_of,
    flat_rows,
    language_head,
    load_base,
    merge_frames,
    numbered_layers,
    pack_visuals,
    visual_indicators,
    visual_width,
)
from .kinds.kosmos import END, PLACE, START, Kosmos2Generator, place_token_id, run_text
from .kinds.kosmos import encode_pictures as encode_kosmos_pictures
from .kinds.molmo import (
    MolmoGenerator,
    build_molmo,
    check_molmo,
    check_molmo_processor,
    encode_pictures,
    load_molmo,
    load_molmo_processor,
    patch_token_id,
    run_molmo,
    run_molmo_backbone,
)
from .loading import (
    VisualMarkers,
    check_base_processor,
    frame_inputs,
    load_base_processor,
    model_type_of,
    picture_inputs,
    tokens_of_frame,
)


logger = logging.get_logger(__name__)

COMMON_FRAME = (360, 640)  # height and width in pixels; for bases whose tokens per frame depend on the picture
_USUAL_VIDEO_TOKENS = 256  # M where a base cannot be asked for the tokens of a frame; as in LinVTConfig
_HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


class BaseAdapter:
    """
    One kind of base model. As it stands: any image-text model of transformers whose head takes `mm_encoder_outputs`.

    An adapter holds no state of a model; one instance serves all bases of its kind.

    Args:
        family ([`Family`], *optional*): traits of the architecture; the common ones by default.
    """

    # Whether a checkpoint can hold the base's weights and load them again.
    can_be_included = True

    def __init__(self, family: Family | None = None) -> None:
        self.family = family or Family()

    # -- the model --

    def load(self, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """The base in a repository or folder; `kwargs` are those of `from_pretrained`."""
        return load_base(name_or_path, **kwargs)

    def build(self, config: Any, **kwargs: Any) -> PreTrainedModel:
        """A base with random weights; `kwargs` are those of `from_config`."""
        return AutoModelForImageTextToText.from_config(config, **kwargs)

    def check(self, base: Any) -> None:
        """
        Refuse a base that cannot take video tokens.

        Raises:
            UnsupportedBaseError: with the reason and what would work.
        """
        check_base(base, image_token_id=self.image_token_id(getattr(base, "config", None)))

    def width(self, base: PreTrainedModel) -> int:
        """D, the width of visual tokens, which is that of the language model's embeddings."""
        return visual_width(base)

    def image_token_id(self, config: Any) -> int | None:
        """
        Id of the placeholder that stands for a visual token in the prompt.

        Where the base's own config does not say it, `LinVTModel` writes it there (`image_placeholder`), so that a
        saved config does.
        """
        return getattr(config, "image_token_id", None)

    def decoder(self, base: PreTrainedModel) -> nn.Module:
        """The language model without its head: where LoRA goes."""
        return base.get_decoder()

    def head(self, base: PreTrainedModel) -> nn.Module | None:
        """The layer that turns hidden states into logits."""
        return language_head(base)

    def picture_inputs_of(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a prompt's inputs that its pictures are encoded from; empty without a picture."""
        return encoder_inputs(base, inputs)

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """
        Pictures or frames through vision tower and projector.

        Args:
            base: the base model.
            inputs: what [`frame_inputs`] or the base's processor made of them.

        Returns:
            Visual tokens as the language model would get them, in the base's own container (a tensor whose last axis
            is D, or a list or tuple of such); a list with the same for every deep layer that gets tokens of its own;
            and the name of the container (`"tensor"`, `"list"` or `"tuple"`).
        """
        return encode_images(base, inputs)

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
        """
        The keyword arguments with which [`forward`], [`backbone`] and [`generate`] see these visual tokens.

        Args:
            base: the base model.
            input_ids (`torch.LongTensor` of shape `(batch, length)`): with a placeholder per visual token.
            tokens (`torch.Tensor` of shape `(total, D)`): of all placeholders, in their order.
            deepstack: tensors of the same shape, one per deep layer.
            lengths: visual tokens of each row that has any.
            container: as [`encode`] named it.
            inputs: everything else, without what pictures were encoded from.
        """
        visuals = pack_visuals(tokens, deepstack, lengths, container, numbered_layers(base))
        visuals.visual_indicator_features = visual_indicators(base)
        return {"input_ids": input_ids, **inputs, "mm_encoder_outputs": {"image": visuals}}

    def passes_tokens_over(self, base: PreTrainedModel) -> bool:
        """
        Whether the language model can be told by its attention mask to pass over tokens in the middle of a prompt.

        Layers with a state that goes from token to token cannot: what they are told to pass over, they count.
        """
        config = base.config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
        return all("attention" in kind and "linear" not in kind for kind in kinds)

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Logits, cache, and the loss where `labels` are given."""
        return base(**prepared)

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """As [`forward`] without the head: `last_hidden_state`, from which [`head`] makes the logits."""
        if base.base_model is not base:
            return base.base_model(**prepared)
        # NemotronH Omni is a single module around a language model that has a head already.
        output = base(**{**prepared, "output_hidden_states": True, "logits_to_keep": 1})
        return BaseModelOutputWithPast(
            last_hidden_state=output.hidden_states[-1],
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states if prepared.get("output_hidden_states") else None,
            attentions=output.attentions,
        )

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's settings of generation, which those of the model with LinVT begin with."""
        return getattr(base, "generation_config", None) or GenerationConfig()

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """Generated ids behind those of the prompt, as transformers' `generate`."""
        return base.generate(**prepared)

    # -- the processor --

    def load_processor(self, name_or_path: str, **kwargs: Any) -> ProcessorMixin:
        """The base's processor in a repository or folder."""
        return load_base_processor(name_or_path, **kwargs)

    def check_processor(self, processor: Any) -> None:
        """
        Refuse a processor that cannot make pictures and text.

        Raises:
            UnsupportedBaseError: with what is missing.
        """
        check_base_processor(processor)

    def chat_template(self, processor: ProcessorMixin) -> Any:
        """The base's own chat template, or several by name; ours where its checkpoints have none."""
        own = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
        return own or self.family.chat_template

    def markers(self, processor: ProcessorMixin) -> VisualMarkers:
        """How the base writes a picture into the prompt, and so a video."""
        return VisualMarkers.of(processor, self.family)

    def frame_inputs(
        self, processor: ProcessorMixin, frames: list[np.ndarray], options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Frames of one video through the base's image processor, one tile each: what [`encode`] takes."""
        return frame_inputs(processor, self.family, frames, options)

    def frames_per_step(self, processor: ProcessorMixin) -> int:
        """
        Frames that the base's own video path makes one step of time.

        Raises:
            LinVTInputError: it has none, or one that is another tower or pooling.
        """
        if self.family.merges_frames is None:
            raise LinVTInputError(
                f"frame_path='video' is for bases whose own video path merges frames in their patches (Qwen2-VL to "
                f"Qwen3.5, GLM-4V and others, see docs/bases.md), not for the base of {type(processor).__name__}. Use "
                "frame_path='image'."
            )
        return processor.image_processor.temporal_patch_size

    def merge_frames(self, processor: ProcessorMixin, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What [`frame_inputs`] made of frames -> the same for the steps of time of the base's own video path."""
        return merge_frames(self.family, inputs, self.frames_per_step(processor))

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """Visual tokens of a frame `(height, width, 3)`, counted without a model."""
        return tokens_of_frame(processor, self.family, frame)

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pictures beside videos: their inputs, and the text that stands for each in the prompt."""
        return picture_inputs(processor, pictures, options, self.family)


class EmbeddingsAdapter(BaseAdapter):
    """
    Bases that take no encoded pictures, but embedded prompts: visual tokens replace the placeholders' embeddings.

    The language model inside the base is run; the base itself serves pictures and text as it always does. A
    placeholder may stand for any number of visual tokens, as it may in the common kind.

    Args:
        family ([`Family`], *optional*): traits of the architecture.
        is_added (`bool`, defaults to `False`): visual tokens are added to the placeholders' embeddings (Molmo).
    """

    def __init__(self, family: Family | None = None, is_added: bool = False) -> None:
        super().__init__(family)
        self.is_added = is_added

    def language_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """The model with a language head that takes `inputs_embeds`."""
        return base.language_model

    def check(self, base: Any) -> None:
        check_base(base, takes_encoded=False, image_token_id=self.image_token_id(getattr(base, "config", None)))

    def head(self, base: PreTrainedModel) -> nn.Module | None:
        return self.language_model(base).get_output_embeddings()

    def decoder(self, base: PreTrainedModel) -> nn.Module:
        return self.language_model(base).get_decoder()

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
        """As the common kind, with the prompt embedded."""
        embeds = base.get_input_embeddings()(input_ids)
        is_placeholder = (input_ids == self.image_token_id(base.config)).unsqueeze(-1)
        visuals = tokens.to(embeds.device, embeds.dtype)
        if self.is_added:
            embeds = embeds + torch.zeros_like(embeds).masked_scatter(is_placeholder, visuals)
        else:
            embeds = embeds.masked_scatter(is_placeholder, visuals)
        inputs = {name: value for name, value in inputs.items() if name != self.family.grid}
        return {"input_ids": input_ids, "inputs_embeds": embeds, **inputs}

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model where there is a video, else of the base."""
        if prepared.get("inputs_embeds") is None:
            return super().forward(base, **prepared)
        return self.language_model(base)(**_without_ids(prepared))

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model; pictures without a video are encoded and embedded here."""
        if prepared.get("inputs_embeds") is None:
            prepared = self._embed_pictures(base, **prepared)
        return self.language_model(base).base_model(**_without_ids(prepared))

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's, or its language model's where it has none."""
        return getattr(base, "generation_config", None) or super().generation_config(self.language_model(base))

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """Of the language model where there is a video, else of the base."""
        if prepared.get("inputs_embeds") is None:
            return super().generate(base, **prepared)
        language_model = self.language_model(base)
        if not isinstance(base, GenerationMixin):  # else each has settings of its own
            language_model.generation_config = self.generation_config(base)
        # With the ids beside the embeddings the result begins with the prompt, as everywhere else.
        return language_model.generate(**prepared)

    def _embed_pictures(self, base: PreTrainedModel, input_ids: torch.Tensor, **inputs: Any) -> dict[str, Any]:
        of_pictures = self.picture_inputs_of(base, inputs)
        inputs = {name: value for name, value in inputs.items() if name not in of_pictures}
        if not of_pictures.keys() & PICTURES:
            return {"inputs_embeds": base.get_input_embeddings()(input_ids), **inputs}
        features, _, container = self.encode(base, of_pictures)
        return self.hand_over(base, input_ids, flat_rows(features), (), (), container, inputs)


def _without_ids(prepared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in prepared.items() if name != "input_ids"}


def _without_instruction(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Without the words of a Q-Former, which InstructBLIP's processor writes where there is no picture, too."""
    return {name: value for name, value in prepared.items() if not name.startswith("qformer_")}


# Words alone, one turn behind the other: for bases whose checkpoints come without a template and whose processor puts
# pictures in front.
WORDS_ALONE = (
    "{%- for message in messages %}"
    "{%- if message.content is string %}{{ message.content }}{%- else %}"
    "{%- for part in message.content if part.type == 'text' %}{{ part.text }}{%- endfor %}{%- endif %}"
    "{%- if message.role == 'assistant' %}{{ eos_token }}{%- endif %}"
    "{%- if not loop.last %}{{ ' ' }}{%- endif %}{%- endfor %}"
)

# ---------------------------------------------------------------------------------------------------------------------
# Kinds that are known
# ---------------------------------------------------------------------------------------------------------------------


class Llama4Adapter(EmbeddingsAdapter):
    """Llama 4, whose image features are taken before the projector, a linear layer."""

    def language_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """The base itself: with embedded prompts it is a language model."""
        return base

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """Through the projector as well."""
        # Its image processor gives bfloat16, whatever the model is in.
        pixel_values = inputs["pixel_values"].to(base.dtype)
        features = base.get_image_features(pixel_values=pixel_values, return_dict=True).last_hidden_state
        return base.multi_modal_projector(features), [], "tensor"

    def head(self, base: PreTrainedModel) -> nn.Module | None:
        """Of the language model inside."""
        return base.language_model.get_output_embeddings()

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model inside."""
        if prepared.get("inputs_embeds") is None:
            prepared = self._embed_pictures(base, **prepared)
        return base.language_model.model(**_without_ids(prepared))


class ShieldGemma2Adapter(BaseAdapter):
    """ShieldGemma 2: a Gemma 3 inside a classifier, whose processor asks questions of its own."""

    can_be_included = False  # by itself transformers saves it under names that it does not load (5.23)

    def load(self, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """The Gemma 3 inside."""
        return load_base(name_or_path, transformers.ShieldGemma2ForImageClassification, **kwargs).model

    def load_processor(self, name_or_path: str, **kwargs: Any) -> ProcessorMixin:
        """Gemma 3's, around the same tokenizer and image processor."""
        parts = load_base_processor(name_or_path, check=False, **kwargs)
        tokens = {"image_seq_length": parts.image_seq_length, "chat_template": parts.chat_template}
        return transformers.Gemma3Processor(parts.image_processor, parts.tokenizer, **tokens)


class PPChart2TableAdapter(BaseAdapter):
    """PP-Chart2Table: GOT-OCR whose chat template asks for a table, whatever is said, and writes pictures whole."""

    _PICTURE = "<img>" + "<imgpad>" * 256 + "</img>\n"

    def chat_template(self, processor: ProcessorMixin) -> str:
        """Its own, with what the user says in place of its instruction."""
        return (
            "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
            "{% if message.content is string %}{{ message.content }}{%- else %}{%- for part in message.content %}"
            "{%- if part.type == 'image' %}<img>{{ '<imgpad>' * 256 }}</img>\n"
            "{% elif part.type == 'text' %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n"
            "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )

    def markers(self, processor: ProcessorMixin) -> VisualMarkers:
        """What its template writes for a picture is its placeholder."""
        token_id = processor.tokenizer.convert_tokens_to_ids("<imgpad>")
        return VisualMarkers(self._PICTURE, "<imgpad>", token_id, "<img>", "</img>\n")

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """Always the same."""
        return self._PICTURE.count("<imgpad>")

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels, and what its template writes."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        return dict(processor.image_processor(flat, return_tensors="pt", **options)), [self._PICTURE] * len(flat)


class BlipAdapter(EmbeddingsAdapter):
    """
    BLIP-2 and InstructBLIP: a Q-Former makes a fixed number of tokens of a picture, in front of the prompt.

    InstructBLIP's Q-Former reads the question too. Frames, and pictures beside a video, are encoded without one, so
    that a video can be asked often.
    """

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """With an instruction of no words, where the Q-Former takes one and none is given."""
        pictures = inputs["pixel_values"]
        instruction = {name: value for name, value in inputs.items() if name.startswith("qformer_")}
        if not instruction and "qformer_input_ids" in inspect.signature(base.get_image_features).parameters:
            nothing = torch.zeros(len(pictures), 0, dtype=torch.long, device=pictures.device)
            instruction = {"qformer_input_ids": nothing, "qformer_attention_mask": nothing}
        return base.get_image_features(pictures, **instruction, return_dict=True).pooler_output, [], "tensor"

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model without a picture: the base insists on one."""
        if prepared.get("pixel_values") is None and prepared.get("inputs_embeds") is None:
            return self.language_model(base)(**_without_instruction(prepared))
        return super().forward(base, **prepared)

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """Of the language model without a picture: the base insists on one."""
        if prepared.get("pixel_values") is None:
            return self.language_model(base).generate(**_without_instruction(prepared))
        return super().generate(base, **prepared)

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model; words for the Q-Former mean nothing where there is no picture."""
        return super().backbone(base, **(prepared if "pixel_values" in prepared else _without_instruction(prepared)))

    def picture_inputs_of(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, and the words of the Q-Former."""
        return {name: inputs[name] for name in inputs if name == "pixel_values" or name.startswith("qformer_")}

    def markers(self, processor: ProcessorMixin) -> VisualMarkers:
        """Nothing stands around the tokens of a picture."""
        token = str(processor.image_token)
        return VisualMarkers(token, token, processor.tokenizer.convert_tokens_to_ids(token), "", "")

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """The queries of the Q-Former, whatever the frame."""
        return processor.num_query_tokens

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels alone; the words of the Q-Former are none."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        made = processor.image_processor(flat, return_tensors="pt", **options)
        return dict(made), [str(processor.image_token) * processor.num_query_tokens] * len(flat)


class MolmoAdapter(EmbeddingsAdapter):
    """
    Molmo, first generation (`allenai/Molmo-7B-D-0924`), whose code comes with its weights: see `base_molmo.py`.

    Its visual tokens are added to the embedding of `<im_patch>`, and a frame is one picture without Molmo's crops.
    """

    def __init__(self) -> None:
        super().__init__(Family(begins_with_bos=True), is_added=True)

    def load(self, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """By hand: `from_pretrained` fails on its code."""
        return load_molmo(name_or_path, **kwargs)

    def build(self, config: Any, **kwargs: Any) -> PreTrainedModel:
        """Of the class in its repository."""
        return build_molmo(config, **kwargs)

    def check(self, base: Any) -> None:
        """Also for the modules of its published code."""
        super().check(base)
        check_molmo(base)

    def image_token_id(self, config: Any) -> int | None:
        """Of `<im_patch>`, which its config does not give."""
        return patch_token_id(config)

    def decoder(self, base: PreTrainedModel) -> nn.Module:
        """A container of its layers, embeddings and head."""
        return base.model.transformer

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's own."""
        return BaseAdapter.generation_config(self, base)

    def head(self, base: PreTrainedModel) -> nn.Module | None:
        """A layer of its own; they are never tied."""
        return base.model.transformer.ff_out

    def picture_inputs_of(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Under the names of our image processor."""
        return {name: inputs[name] for name in ("pixel_values", "image_masks") if inputs.get(name) is not None}

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """Each picture as a whole."""
        return encode_pictures(base, inputs["pixel_values"], inputs["image_masks"]), [], "tensor"

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """With a cache of transformers."""
        return run_molmo(base, **_without_ids(self._embedded(base, prepared)))

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """With a cache of transformers."""
        return run_molmo_backbone(base, **_without_ids(self._embedded(base, prepared)))

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """Through transformers' `generate`, which its class has not."""
        return MolmoGenerator(base).generate(**self._embedded(base, prepared))

    def load_processor(self, name_or_path: str, **kwargs: Any) -> ProcessorMixin:
        """Ours, around its tokenizer."""
        return load_molmo_processor(name_or_path, **kwargs)

    def check_processor(self, processor: Any) -> None:
        """Refuse one that is not ours."""
        check_molmo_processor(processor)

    def _embedded(self, base: PreTrainedModel, prepared: dict[str, Any]) -> dict[str, Any]:
        if prepared.get("inputs_embeds") is not None:
            return prepared
        return {"input_ids": prepared["input_ids"], **self._embed_pictures(base, **prepared)}


class Kosmos2Adapter(EmbeddingsAdapter):
    """
    Kosmos-2, whose head insists on one picture in front of every prompt: see `base_kosmos.py`.

    Pictures alone go the base's own way; beside a video, and in training, all stand on `</chunk>` and are embedded.
    """

    def __init__(self) -> None:
        super().__init__(Family(prepends_visuals=True, begins_with_bos=True, chat_template=WORDS_ALONE))

    def language_model(self, base: PreTrainedModel) -> PreTrainedModel:
        """Under a name of its own."""
        return base.text_model

    def image_token_id(self, config: Any) -> int | None:
        """Of `</chunk>`: the base has no placeholder, and says by a mask where a picture stands."""
        return place_token_id(config)

    def decoder(self, base: PreTrainedModel) -> nn.Module:
        """The language model without its head."""
        return base.text_model.model

    def picture_inputs_of(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, and where they stand."""
        names = ("pixel_values", "image_embeds_position_mask")
        return {name: inputs[name] for name in names if inputs.get(name) is not None}

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """As its `forward` does: its head has no `get_image_features`."""
        return encode_kosmos_pictures(base, inputs["pixel_values"]), [], "tensor"

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model without a picture: the base insists on one."""
        prepared = self._embedded(base, prepared)
        if prepared.get("pixel_values") is None:
            return run_text(base.text_model, **prepared)
        return base(**prepared)

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Of the language model, which takes encoded pictures and their mask."""
        prepared = self._embedded(base, prepared)
        if (pixel_values := prepared.pop("pixel_values", None)) is not None:
            prepared["image_embeds"] = encode_kosmos_pictures(base, pixel_values)
        return run_text(base.text_model.model, **prepared)

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """Of the language model without a picture: the base insists on one."""
        prepared = self._embedded(base, prepared)
        if prepared.get("pixel_values") is None:
            return Kosmos2Generator(base).generate(**prepared)
        return base.generate(**prepared)

    def _embedded(self, base: PreTrainedModel, prepared: dict[str, Any]) -> dict[str, Any]:
        """Pictures that stand on `</chunk>`, as training has them, are embedded; the base's processor gives a mask."""
        if prepared.get("pixel_values") is None or prepared.get("image_embeds_position_mask") is not None:
            return prepared
        return {"input_ids": prepared["input_ids"], **self._embed_pictures(base, **prepared)}

    def markers(self, processor: ProcessorMixin) -> VisualMarkers:
        """A space behind the picture, as its processor writes it."""
        return VisualMarkers(START, PLACE, processor.tokenizer.convert_tokens_to_ids(PLACE), START, END + " ")

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """The queries of its resampler, whatever the frame."""
        return processor.num_image_tokens

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels, and a place for each token."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        made = processor.image_processor(flat, return_tensors="pt", **options)
        return dict(made), [self.markers(processor).video(processor.num_image_tokens)] * len(flat)


_IN_FRONT = {"prepends_visuals": True, "behind_visuals": "bos_token", "chat_template": WORDS_ALONE}
_BLIP = BlipAdapter(Family(**_IN_FRONT))

_ADAPTERS: dict[str, BaseAdapter] = {
    "molmo": MolmoAdapter(),
    "blip-2": _BLIP,
    "instructblip": _BLIP,
    "kosmos-2": Kosmos2Adapter(),
    "llama4": Llama4Adapter(Family(one_tile={"max_patches": 1})),
    "pp_chart2table": PPChart2TableAdapter(
        Family(notes=("asked as GOT-OCR is: its own chat template would ask for a table, whatever the question",)),
    ),
    "shieldgemma2": ShieldGemma2Adapter(
        Family(one_tile={"do_pan_and_scan": False}, notes=("asked as Gemma 3 is: its policies are not applied",)),
    ),
}


def register_base_vlm(model_type: str, adapter: BaseAdapter) -> None:
    """
    Make another kind of base model known, or another way to talk to a known one.

    Args:
        model_type: `config.model_type` of the base.
        adapter: an instance of [`BaseAdapter`] or of a subclass; docs/add_a_base.md leads through writing one.

    Raises:
        LinVTInputError: a name or an adapter that is none.
    """
    if not isinstance(model_type, str) or not model_type:
        raise LinVTInputError(f"model_type must be the base's config.model_type, a string, got {model_type!r}.")
    if not isinstance(adapter, BaseAdapter):
        raise LinVTInputError(
            f"The adapter of {model_type!r} must be an instance of BaseAdapter or of a subclass, got {adapter!r}. "
            "Where only data differs: BaseAdapter(Family(...))."
        )
    _ADAPTERS[model_type] = adapter


def adapter_of(model_type: str) -> BaseAdapter:
    """The adapter of an architecture: a registered one, else the common one with what is known of the family."""
    return _ADAPTERS.get(model_type) or BaseAdapter(family_of(model_type))


def adapter_at(name_or_path: str, loading: Mapping[str, Any]) -> BaseAdapter:
    """The adapter of the base in a repository or folder; the common one, whose errors are good, if there is none."""
    return adapter_of(_architecture(_settings_at(name_or_path, loading)))


def model_type_at(name_or_path: str, loading: Mapping[str, Any]) -> str:
    """What a repository or folder calls its architecture, or that of its base if it is a LinVT model; "" for none."""
    settings = _settings_at(name_or_path, loading)
    base = settings.get("base_config")
    return _architecture(base if isinstance(base, dict) else settings)


def load_processor_at(
    name_or_path: str, loading: Mapping[str, Any], model_type: str | None = None
) -> tuple[ProcessorMixin, str]:
    """
    The processor of the base in a repository or folder, and the architecture by which to talk to it.

    Args:
        name_or_path: of a base, or of a LinVT model, whose base it then is.
        loading: arguments of `from_pretrained`.
        model_type: instead of what is found there.

    Raises:
        CheckpointError, UnsupportedBaseError: see [`load_base_processor`].
    """
    found = model_type_at(name_or_path, loading)
    processor = adapter_of(model_type or found).load_processor(name_or_path, **loading)
    return processor, model_type or found or model_type_of(processor)


def tokens_of_common_frame(processor: ProcessorMixin, model_type: str) -> int | None:
    """
    Visual tokens of one frame of 640 x 360 pixels, as the base's image processor makes it at its own settings.

    Most bases make every picture of one size, and then it is the number of any frame. What a base writes between the
    tokens (the newline of LLaVA-OneVision) counts.

    Returns:
        `int`, or None where the processor cannot count them.
    """
    frame = np.full((*COMMON_FRAME, 3), 128, dtype=np.uint8)
    try:
        return adapter_of(model_type).tokens_of_frame(processor, frame)
    except Exception as error:  # a processor of somebody else's may fail in any way
        logger.info(f"{type(processor).__name__} does not count the tokens of a frame: {error}")
        return None


def default_video_tokens(processor: ProcessorMixin, model_type: str) -> int:
    """
    M where nobody says it: as many video tokens as one frame of the base has, so that a still video loses nothing.

    Args:
        processor: of the base.
        model_type: its architecture.
    """
    num_tokens = tokens_of_common_frame(processor, model_type)
    if num_tokens is None:
        return _usual_video_tokens(f"{type(processor).__name__} does not count them")
    height, width = COMMON_FRAME
    logger.info_once(
        f"num_video_tokens={num_tokens}: as many as one frame of {height} x {width} pixels (height x width) has in "
        f"{model_type or 'this base'}. Give num_video_tokens, to model and processor alike, for another number."
    )
    return num_tokens


def default_video_tokens_at(name_or_path: str | None, loading: Mapping[str, Any]) -> int:
    """
    [`default_video_tokens`] of the base in a repository or folder; its processor is loaded for it.

    Args:
        name_or_path: None for a base that has no name.
        loading: arguments of `from_pretrained`; those that say where to look are used.
    """
    if not name_or_path:
        return _usual_video_tokens("the base is a loaded model without a name to find its processor by")
    where = {name: loading[name] for name in (*_HUB_ARGUMENTS, "trust_remote_code") if loading.get(name) is not None}
    try:
        processor, model_type = load_processor_at(name_or_path, where)
    except Exception as error:  # an adapter of somebody else's may fail in any way
        return _usual_video_tokens(str(error))
    return default_video_tokens(processor, model_type)


def _usual_video_tokens(reason: str) -> int:
    logger.warning(
        f"num_video_tokens={_USUAL_VIDEO_TOKENS}, which may be less than one frame has: the tokens of a frame of this "
        f"base are not known ({reason}). Give num_video_tokens, to model and processor alike."
    )
    return _USUAL_VIDEO_TOKENS


def _architecture(settings: Mapping[str, Any]) -> str:
    thinker = settings.get("thinker_config")  # of Qwen Omni, whose voice is left out
    return (thinker if isinstance(thinker, dict) else settings).get("model_type") or ""


def _settings_at(name_or_path: str, loading: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it stands in its file: its class may come with the checkpoint, and nobody has trusted that yet."""
    where = {name: loading[name] for name in _HUB_ARGUMENTS if name in loading}
    try:
        settings = PreTrainedConfig.get_config_dict(name_or_path, **where)[0]
    except (OSError, ValueError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}  # JSON of another kind: whoever loads it says so


__all__ = [
    "COMMON_FRAME",
    "BaseAdapter",
    "EmbeddingsAdapter",
    "adapter_at",
    "adapter_of",
    "default_video_tokens",
    "default_video_tokens_at",
    "load_processor_at",
    "model_type_at",
    "register_base_vlm",
    "tokens_of_common_frame",
]
