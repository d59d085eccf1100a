"""
How LinVT talks to one kind of base model, and how another kind is made known.

[`BaseBridge`] is the whole conversation: load the base, encode pictures, hand video tokens over, run it, and the same
on the side of the processor. Its methods are those of transformers' own image-text models, which take encoded visual
tokens (`mm_encoder_outputs`); the base is never subclassed, copied or patched. A kind that cannot is a subclass that
says what it does instead, and [`register_base`] makes it known. What differs between families of the common kind is
data, in `families.py`; the kinds that are known stand in `kinds/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import PIL.Image
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput

from ..errors import LinVTInputError
from .cache import CACHE_NAME
from .families import Family
from .frame_pixels import RecipeBook
from .frame_size import pixels_per_token, size_within
from .layouts import EncodedFrames
from .loading import (
    check_base,
    check_base_processor,
    language_head,
    load_base,
    load_base_processor,
    visual_width,
)
from .markers import AddedTexts, VisualMarkers, write_pictures
from .visuals import PICTURES, encode_images, encoder_inputs, flat_rows, pack_visuals


_RECIPES = RecipeBook()


class BaseBridge:
    """
    One kind of base model. As it stands: any image-text model of transformers whose head takes `mm_encoder_outputs`.

    A bridge holds no state of a model; one instance serves all bases of its kind.

    Args:
        family ([`Family`], *optional*): traits of the architecture; the common ones by default.
    """

    # Whether a checkpoint can hold the base's weights and load them again.
    can_be_included = True
    # The type id of an answer behind its prompt.
    answer_type_id = 0
    # Whether every visual token stands at a placeholder of its own in the prompt. Where it does not, visual tokens are
    # keys of cross-attention layers, and one placeholder stands for a whole picture or video.
    has_place_per_token = True

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

    def encode_frames(
        self, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_frames: int, frames_per_chunk: int
    ) -> EncodedFrames:
        """
        Run the frames of one video through the base's vision tower and projector.

        Args:
            base: the base model.
            inputs: what [`frame_inputs`] made of the frames.
            num_frames: frames in `inputs`.
            frames_per_chunk: frames encoded at once; bounds the memory of the vision tower for a video of any length.

        Raises:
            LinVTInputError: inputs that do not fit, or tokens that do not divide among the frames.
        """
        layout = self.family.layout
        rows = layout.rows(inputs, num_frames)
        chunks, container = [], "tensor"
        for start in range(0, num_frames, frames_per_chunk):
            stop = min(start + frames_per_chunk, num_frames)
            pictures = layout.as_pictures(base, layout.slice(inputs, rows, start, stop))
            features, layers, container = self.encode(base, pictures)
            chunks.append([layout.by_frame(base, one, stop - start) for one in (features, *layers)])
        tokens, *deepstack = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return EncodedFrames(tokens, deepstack, layout.grid(base, inputs, tokens.shape[1]), container)

    def places_of_video(self, num_video_tokens: int) -> int:
        """Placeholders that a video of so many tokens has in a prompt."""
        return num_video_tokens if self.has_place_per_token else 1

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
            lengths: visual tokens of each row that has any; of each placeholder where it stands for several.
            container: as [`encode`] named it.
            inputs: everything else, without what pictures were encoded from.
        """
        visuals = pack_visuals(tokens, deepstack, lengths, container)
        return {"input_ids": input_ids, **inputs, "mm_encoder_outputs": {"image": visuals}}

    def place_videos(
        self, base: PreTrainedModel, is_video: torch.Tensor, used: torch.Tensor, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """
        A prompt's inputs with what tells the base where videos stand; most bases need nothing.

        Args:
            base: the base model.
            is_video (`torch.BoolTensor` of shape `(num_placeholders,)`): whether a placeholder is a video's or a
                picture's.
            used (`torch.BoolTensor` of shape `(num_videos, num_video_tokens)`): which tokens of each video the base
                is to see.
            inputs: everything but the visual tokens.
        """
        return inputs

    @property
    def takes_positions(self) -> bool:
        """Whether the language model is told positions that begin with 0, and does not count in a way of its own."""
        return True

    def passes_tokens_over(self, base: PreTrainedModel) -> bool:
        """
        Whether the base can be told by its attention mask to pass over tokens in the middle of a prompt.

        Layers with a state that goes from token to token cannot: what they are told to pass over, they count.
        """
        text = getattr(base.config, "get_text_config", lambda: base.config)()
        kinds = getattr(text, "layer_types", None) or getattr(text, "layers_block_type", None) or ()
        has_states = any("attention" not in kind or "linear" in kind for kind in kinds)
        return self.family.numbers_what_is_seen and not has_states

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
            **{CACHE_NAME: getattr(output, CACHE_NAME, None)},
            hidden_states=output.hidden_states if prepared.get("output_hidden_states") else None,
            attentions=output.attentions,
        )

    def run_over_tokens(self, base: PreTrainedModel, num_tokens: int) -> ModelOutput:
        """The language model over so many tokens of a video and nothing else, for who counts what they cost."""
        tokens = torch.zeros(1, num_tokens, dtype=torch.long, device=base.device)
        return self.decoder(base)(input_ids=tokens, use_cache=True)

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's settings of generation, which those of the model with LinVT begin with."""
        return getattr(base, "generation_config", None) or GenerationConfig()

    def generate(self, base: Any, **prepared: Any) -> Any:
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
        return VisualMarkers.of(processor, self.picture_inputs, self.family.one_tile)

    def added_texts(self, processor: ProcessorMixin) -> AddedTexts:
        """What the base's processor writes into every prompt by itself."""
        return AddedTexts.of(processor, self.family)

    def frame_input_names(self, processor: ProcessorMixin) -> frozenset[str]:
        """Those outputs of the image processor that the model takes; some only serve to write the prompt."""
        made = frozenset(processor.image_processor.model_input_names) - set(processor.unused_input_names)
        return self.family.layout.names(made)

    def frame_inputs(
        self,
        processor: Any,
        frames: list[np.ndarray],
        options: Mapping[str, Any] | None = None,
        merges_steps: bool = False,
    ) -> dict[str, Any]:
        """
        Frames of one video as the base's image processor makes them, one tile each: what [`encode_frames`] takes.

        Where plain resizing and scaling of many frames at once gives the same within 2 levels of 255, they are made
        so (`frame_pixels.py`).

        Args:
            processor: of the base.
            frames: arrays `(height, width, 3)`, uint8, RGB.
            options: of the image processor (`size`, `max_pixels`, ...); they do not undo what makes a frame one tile.
            merges_steps: whether frames become steps of time, as the base's own video path has them
                ([`frames_per_step`]).

        Returns:
            Everything the image processor returned, as tensors, under its own names.
        """
        accepted = getattr(getattr(processor.image_processor, "valid_kwargs", None), "__annotations__", {})
        defaults = {name: value for name, value in getattr(processor, "images_kwargs", {}).items() if name in accepted}
        fixed = {"return_tensors": "pt", "input_data_format": "channels_last", **self.family.one_tile}
        if self.family.fits_whole_tokens:
            fixed["patch_size"] = processor.patch_size * processor.spatial_merge_size
        layout, image_processor = self.family.layout, processor.image_processor
        settings = {**defaults, **(options or {}), **fixed}

        def own(frames: list[np.ndarray]) -> dict[str, Any]:
            return dict(image_processor(layout.nested(frames), **settings))

        recipe = _RECIPES.find(image_processor, settings, frames[0].shape, own)
        if recipe is None:
            made = own(frames)
        elif merges_steps and recipe.patch is not None and getattr(layout, "merges_frames", None) == "colour_first":
            return recipe.prepare_steps(np.stack(frames))
        else:
            made = recipe.prepare(np.stack(frames))
        made = layout.prepare(made, len(frames), *frames[0].shape[:2])
        if not merges_steps:
            return made
        steps = self.frames_per_step(processor)  # which checks that the layout is one that merges
        return cast(Any, layout).merge_frames(made, steps)

    def frame_size(
        self,
        processor: ProcessorMixin,
        num_frames: int,
        max_frame_tokens: int | None = None,
        max_total_frame_tokens: int | None = None,
        frames_per_step: int = 1,
    ) -> dict[str, Any]:
        """
        Options of [`frame_inputs`] that keep frames small enough.

        Args:
            processor: of the base.
            num_frames: of the video.
            max_frame_tokens (*optional*):
                Most visual tokens of a frame; by default as the base's own video processor caps them.
            max_total_frame_tokens (*optional*):
                Most of all frames together; by default likewise.
            frames_per_step: frames that become one, whose tokens count once.

        Raises:
            LinVTInputError: a limit for a base whose frames have as many tokens whatever their size.
        """
        given = (max_frame_tokens, max_total_frame_tokens)
        if any(limit is not None for limit in given) and pixels_per_token(processor) is None:
            raise LinVTInputError(
                f"max_frame_tokens={max_frame_tokens} and max_total_frame_tokens={max_total_frame_tokens} have no "
                f"effect with {type(processor).__name__}: the tokens of its frames do not follow from their size in "
                "pixels. Leave them out."
            )
        own = self.family.frame_budget
        if max_frame_tokens is not None:
            own = replace(own, per_frame=max_frame_tokens)
        if max_total_frame_tokens is not None:
            own = replace(own, total=max_total_frame_tokens * frames_per_step)
        return size_within(processor, own, -(-num_frames // frames_per_step) * frames_per_step)

    @property
    def frame_path(self) -> Literal["image", "video"]:
        """
        How frames go through the vision tower where nobody says it: as the base's own video path has them.

        `"video"` where that path merges frames in their patches, which is half of the tower's work, else `"image"`.
        """
        return "image" if getattr(self.family.layout, "merges_frames", None) is None else "video"

    def frames_per_step(self, processor: ProcessorMixin) -> int:
        """
        Frames that the base's own video path makes one step of time.

        Raises:
            LinVTInputError: it has none, or one that is another tower or pooling.
        """
        if self.frame_path == "image":
            raise LinVTInputError(
                f"frame_path='video' is for bases whose own video path merges frames in their patches (Qwen2-VL to "
                f"Qwen3.5, GLM-4V and others, see docs/bases.md), not for the base of {type(processor).__name__}. Use "
                "frame_path='image'."
            )
        return processor.image_processor.temporal_patch_size

    def tokens_of_frame(
        self, processor: ProcessorMixin, frame: np.ndarray, options: Mapping[str, Any] | None = None
    ) -> int:
        """Visual tokens of a frame `(height, width, 3)`, counted without a model in what the processor writes."""
        if self.family.layout.splits_pictures:
            return self.tokens_of_prepared_frame(processor, frame)
        # the processor writes a picture as it does a frame; some need their whole call for it
        written = self.picture_inputs(
            processor, [[PIL.Image.fromarray(frame)]], {**(options or {}), **self.family.one_tile}
        )[1][0]
        return written.count(self.markers(processor).token)

    def tokens_of_prepared_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """As [`tokens_of_frame`], for a base whose processor splits a picture where a frame is one tile."""
        inputs, token = self.frame_inputs(processor, [frame]), self.markers(processor).token
        return self.family.layout.tokens_of_frame(processor, inputs, token)

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pictures beside videos: their inputs, and the text that stands for each in the prompt."""
        return write_pictures(processor, pictures, options)

    def type_ids(
        self,
        processor: ProcessorMixin,
        ids: Sequence[Sequence[int]],
        video_mask: Sequence[Sequence[int]],
        answer_mask: Sequence[Sequence[int]] | None = None,
        is_asked: bool | None = None,
    ) -> dict[str, list[list[int]]]:
        """
        The base's type ids of prompts under its own name for them; at videos what the family needs there.

        Args:
            processor: of the base.
            ids: of each prompt; prompts that are not padded differ in length.
            video_mask: 1 at video tokens.
            answer_mask: 1 at what the assistant says, where it is known.
            is_asked: whether the caller wants them; by default as the base's processor does it.
        """
        value = self.family.video_type_id
        # Multimodal rotary positions ask for them beside a picture, and Cosmos3 Edge's processor leaves them out.
        if not (processor.return_mm_token_type_ids or value == 0 if is_asked is None else is_asked):
            return {}
        types = processor.create_mm_token_type_ids([list(row) for row in ids])
        if value != 1:
            types = [
                [value if is_video else kind for kind, is_video in zip(*rows, strict=True)]
                for rows in zip(types, video_mask, strict=True)
            ]
        names = processor.model_input_names
        is_renamed = "mm_token_type_ids" not in names and "token_type_ids" in names
        return {"token_type_ids" if is_renamed else "mm_token_type_ids": types}


class EmbeddingsBridge(BaseBridge):
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

    def language_model(self, base: Any) -> Any:
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
        inputs = {name: value for name, value in inputs.items() if name != self.family.layout.grid_input}
        return {"input_ids": input_ids, "inputs_embeds": embeds, **inputs}

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Logits of the language model where there is a video, else of the base."""
        if prepared.get("inputs_embeds") is None:
            return super().forward(base, **prepared)
        return self.language_model(base)(**without_ids(prepared))

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Calls the language model; pictures without a video are encoded and embedded here."""
        if prepared.get("inputs_embeds") is None:
            prepared = self.embed_pictures(base, **prepared)
        return self.language_model(base).base_model(**without_ids(prepared))

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's, or its language model's where it has none."""
        return getattr(base, "generation_config", None) or super().generation_config(self.language_model(base))

    def generate(self, base: PreTrainedModel, **prepared: Any) -> Any:
        """What the language model generates where there is a video, else the base."""
        if prepared.get("inputs_embeds") is None:
            return super().generate(base, **prepared)
        language_model = self.language_model(base)
        if not isinstance(base, GenerationMixin):  # else each has settings of its own
            language_model.generation_config = self.generation_config(base)
        # With the ids beside the embeddings the result begins with the prompt, as everywhere else.
        return language_model.generate(**prepared)

    def embed_pictures(self, base: PreTrainedModel, input_ids: torch.Tensor, **inputs: Any) -> dict[str, Any]:
        """A prompt with pictures and no video, embedded."""
        of_pictures = self.picture_inputs_of(base, inputs)
        inputs = {name: value for name, value in inputs.items() if name not in of_pictures}
        if not of_pictures.keys() & PICTURES:
            return {"inputs_embeds": base.get_input_embeddings()(input_ids), **inputs}
        features, _, container = self.encode(base, of_pictures)
        return self.hand_over(base, input_ids, flat_rows(features), (), (), container, inputs)


def without_ids(prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an embedded prompt for a model that takes either ids or embeddings."""
    return {name: value for name, value in prepared.items() if name != "input_ids"}


_BUILT_IN: dict[str, BaseBridge] = {}
_REGISTERED: dict[str, BaseBridge] = {}


def built_in(bridge: BaseBridge, *model_types: str) -> None:
    """For the files of `kinds/`: the bridge of architectures that this package knows."""
    _BUILT_IN.update(dict.fromkeys(model_types, bridge))


def odd_bridge(model_type: str) -> BaseBridge | None:
    """The bridge of an architecture with a way of its own, a registered one before a built-in one."""
    return _REGISTERED.get(model_type) or _BUILT_IN.get(model_type)


def register_base(model_type: str, bridge: BaseBridge) -> None:
    """
    Make another kind of base model known, or another way to talk to a known one.

    Args:
        model_type: `config.model_type` of the base.
        bridge: an instance of [`BaseBridge`] or of a subclass; docs/add_a_base.md leads through writing one.

    Raises:
        LinVTInputError: a name that is not a string, or something else than a bridge.
    """
    if not isinstance(model_type, str) or not model_type:
        raise LinVTInputError(f"model_type must be the base's config.model_type, a string, got {model_type!r}.")
    if not isinstance(bridge, BaseBridge):
        raise LinVTInputError(
            f"The bridge of {model_type!r} must be an instance of BaseBridge or of a subclass, got {bridge!r}. "
            "Where only data differs: BaseBridge(Family(...))."
        )
    _REGISTERED[model_type] = bridge


__all__ = [
    "BaseBridge",
    "EmbeddingsBridge",
    "built_in",
    "odd_bridge",
    "register_base",
    "without_ids",
]
