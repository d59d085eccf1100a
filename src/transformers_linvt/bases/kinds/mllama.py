"""
Mllama (Llama 3.2 Vision): visual tokens are the keys of cross-attention layers, and a picture is one word of a prompt.

Its head takes the keys encoded, but its mask of them is made for tiles of a fixed number of tokens. A video has
another number, so prompts with one go to the language model inside, which takes the keys and a mask for each of them.
The rules are those of its own pictures (transformers 5.23): a visual is seen by the words from its place to the next
visual; words in front of all visuals see them in their attention, and not in the layer behind it. They see the empty
tiles of a picture as well, which a video has none of.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import StaticLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from transformers.models.mllama.processing_mllama import (
    convert_sparse_cross_attention_mask_to_dense,
    get_cross_attention_token_mask,
)

from ...errors import LinVTInputError
from ..base import BaseBridge, built_in
from ..cache import CACHE_NAME
from ..families import Family
from ..generator import BorrowedGenerator
from ..layouts import FramePerSample
from ..loading import check_base
from ..markers import VisualMarkers


_PATCH_SIZE = 14  # of every published checkpoint; the processor does not say it
_PICTURES = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask")
# Attribute of a cache with keys, (batch, 2, keys): those that words behind the prompt see, and those of any word.
_SIGHT = "_sight_of_linvt"


@dataclass(frozen=True)
class OneTile(FramePerSample):
    """A frame is one tile; the tiles that its vision tower wants beside it are empty, as they are in its pictures."""

    def names(self, names: frozenset[str]) -> frozenset[str]:
        """The pixels alone: every frame has the same shape."""
        return frozenset(self.needed)

    def prepare(self, inputs: dict[str, Any], num_frames: int, height: int, width: int) -> dict[str, Any]:
        """The pixels of the one tile of the one picture of each sample."""
        return {"pixel_values": inputs["pixel_values"][:, 0, 0]}

    def as_pictures(self, base: Any, chunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A picture per sample, which fills the first of its tiles."""
        pixels = chunk["pixel_values"]
        tiles = pixels.new_zeros(len(pixels), 1, base.config.vision_config.max_num_tiles, *pixels.shape[1:])
        tiles[:, 0, 0] = pixels
        mask = torch.zeros(tiles.shape[:3], dtype=torch.long, device=pixels.device)
        mask[:, :, 0] = 1
        return {"pixel_values": tiles, "aspect_ratio_ids": mask[..., 0], "aspect_ratio_mask": mask}

    def by_frame(self, base: Any, features: Any, num_frames: int) -> torch.Tensor:
        """The class token, which has no place in the picture, goes behind the others: keys have no order."""
        return torch.stack(list(features)).roll(-1, dims=1)

    def grid(self, base: Any, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
        """A tile is a square of patches."""
        side = math.isqrt(num_tokens - 1)
        return side, side


class MllamaBridge(BaseBridge):
    """
    Mllama (Llama 3.2 Vision), whose cross-attention layers see the tokens of a video as keys.

    The prompt has one placeholder for a whole picture or video. Pictures alone go the base's own way.
    """

    has_place_per_token = False

    def __init__(self) -> None:
        super().__init__(
            Family(
                one_tile={"max_image_tiles": 1},
                layout=OneTile(),
                notes=(
                    "video tokens are keys of its cross-attention layers, and a video one word of the prompt; its "
                    "vision tower computes the empty tiles beside a frame as well",
                ),
            )
        )

    def check(self, base: Any) -> None:
        check_base(base, takes_encoded=False, image_token_id=self.image_token_id(getattr(base, "config", None)))

    # -- the model --

    def picture_inputs_of(self, base: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Pixels, what says which tiles are real, and which words see them."""
        return {name: inputs[name] for name in _PICTURES if inputs.get(name) is not None}

    def encode(self, base: Any, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """As its `forward` does; of each picture, or bare frame, the tokens of its real tiles."""
        if "aspect_ratio_ids" not in inputs:
            inputs = self.family.layout.as_pictures(base, dict(inputs))
        given = {name: inputs[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
        states = base.model.vision_model(**given).last_hidden_state
        states = base.model.multi_modal_projector(states).flatten(0, 1)
        if states.is_meta:  # for who counts operations: nothing tells which tiles are real
            return list(states.flatten(1, 2)), [], "list"
        are_real, is_picture = given["aspect_ratio_mask"].flatten(0, 1).bool(), given["aspect_ratio_ids"].flatten() > 0
        pictures = [tiles[real].flatten(0, 1) for tiles, real in zip(states, are_real, strict=True)]
        return [one for one, is_one in zip(pictures, is_picture.tolist(), strict=True) if is_one], [], "list"

    def place_videos(
        self, base: Any, is_video: torch.Tensor, used: torch.Tensor, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Which tokens of a video are keys, for [`hand_over`]."""
        return {**inputs, "used_tokens": (is_video, used)}

    def hand_over(
        self,
        base: Any,
        input_ids: torch.Tensor,
        tokens: torch.Tensor,
        deepstack: Sequence[torch.Tensor],
        lengths: Sequence[int],
        container: str,
        inputs: Mapping[str, Any],
    ) -> dict[str, Any]:
        """
        Keys for every row, padded with zeros, and what each word of a prompt sees of them.

        `lengths` are those of the placeholders and not of the rows.

        Raises:
            LinVTInputError: the cache holds a video or picture already.
        """
        inputs = dict(inputs)
        is_video, used = inputs.pop("used_tokens", (None, None))
        if getattr(inputs.get(CACHE_NAME), _SIGHT, None) is not None:
            raise LinVTInputError(
                f"A cache of {base.config.model_type} that holds a video cannot take another one. Pass the whole "
                "conversation without a cache."
            )
        is_key = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        if is_video is not None:
            of_video = is_video.to(tokens.device).repeat_interleave(torch.tensor(lengths, device=tokens.device))
            is_key[of_video] = used.to(tokens.device).flatten()
        visuals = list(zip(tokens.split(lengths), is_key.split(lengths), strict=True))
        states, sight = _keys_of_rows(input_ids, base.config.image_token_id, visuals)
        return {"input_ids": input_ids, **inputs, "cross_attention_states": states, "visible_states": sight}

    def forward(self, base: Any, **prepared: Any) -> ModelOutput:
        """Calls the language model and the head where there is a video, else the base."""
        if not _is_ours(prepared):
            return super().forward(base, **self._with_picture_mask(base, prepared))
        return run_with_keys(base, **prepared)

    def backbone(self, base: Any, **prepared: Any) -> ModelOutput:
        """As [`forward`], without the head."""
        if not _is_ours(prepared):
            return super().backbone(base, **self._with_picture_mask(base, prepared))
        return attend_to_keys(base, **prepared)

    def generate(self, base: Any, **prepared: Any) -> Any:
        """Generates with the language model where there is a video, else with the base."""
        if not _is_ours(prepared):
            return super().generate(base, **self._with_picture_mask(base, prepared))
        return MllamaGenerator(base).generate(**prepared)

    def _with_picture_mask(self, base: Any, prepared: dict[str, Any]) -> dict[str, Any]:
        """Pictures for every row, and which words see them: prompts that train are not written by its processor."""
        if prepared.get("pixel_values") is None or prepared.get("cross_attention_mask") is not None:
            return prepared
        ids, given = prepared["input_ids"], {name: prepared[name] for name in _PICTURES if name in prepared}
        places = [get_cross_attention_token_mask(row, base.config.image_token_id) for row in ids.tolist()]
        has_pictures = torch.tensor([bool(row) for row in places], device=ids.device)
        if int(has_pictures.sum()) != len(given["pixel_values"]):
            raise LinVTInputError(
                f"{int(has_pictures.sum())} prompts have pictures, and pictures of {len(given['pixel_values'])} were "
                "given. Pass the pictures through the same processor as the text."
            )
        of_rows = {name: value.new_zeros(len(ids), *value.shape[1:]) for name, value in given.items()}
        for name, value in given.items():
            of_rows[name][has_pictures] = value
        of_rows["aspect_ratio_mask"][~has_pictures, :, 0] = 1  # as its processor fills up a batch
        mask = convert_sparse_cross_attention_mask_to_dense(
            places,
            of_rows["aspect_ratio_mask"].sum(-1).tolist(),
            max_num_tiles=of_rows["aspect_ratio_mask"].shape[-1],
            length=ids.shape[1],
        )
        return {**prepared, **of_rows, "cross_attention_mask": torch.as_tensor(mask, device=ids.device)}

    def run_over_tokens(self, base: Any, num_tokens: int) -> ModelOutput:
        """One word, and the tokens as its keys."""
        word = torch.zeros(1, 1, dtype=torch.long, device=base.device)
        keys = torch.zeros(1, num_tokens, self.width(base), dtype=base.dtype, device=base.device)
        return self.decoder(base)(input_ids=word, cross_attention_states=keys, use_cache=True)

    # -- the processor --

    def markers(self, processor: Any) -> VisualMarkers:
        """Nothing stands around a picture."""
        token = str(processor.image_token)
        return VisualMarkers(token, token, processor.image_token_id, "", "")

    def tokens_of_frame(self, processor: Any, frame: np.ndarray, options: Mapping[str, Any] | None = None) -> int:
        """The patches of a tile and the class token, whatever the frame."""
        return (processor.image_processor.size["height"] // _PATCH_SIZE) ** 2 + 1

    def picture_inputs(
        self, processor: Any, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels of the pictures of each prompt that has any, and one word for each."""
        if not pictures:
            return {}, []
        made = processor.image_processor([list(row) for row in pictures], return_tensors="pt", **options)
        words = [str(processor.image_token) for row in pictures for _ in row]
        return {name: value for name, value in made.items() if name in _PICTURES}, words


class MllamaGenerator(BorrowedGenerator):
    """`generate` on the language model of Mllama, with a video among its keys."""

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        cross_attention_states: torch.Tensor | None = None,
        visible_states: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput:
        """One step of `generate`: the prompt with its keys, then words that see the keys in the cache."""
        return run_with_keys(
            self._held[0],
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            cross_attention_states=cross_attention_states,
            visible_states=visible_states,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )

    def _prepare_static_cache(self, *args: Any, model_kwargs: dict[str, Any], **kwargs: Any) -> Any:
        """A static cache holds as many keys as there are visual tokens in its cross-attention layers."""
        # the type of its `self` asks for attributes that no model has
        make = super()._prepare_static_cache  # pyright: ignore[reportAttributeAccessIssue]
        cache = make(*args, model_kwargs=model_kwargs, **kwargs)
        num_keys = model_kwargs["cross_attention_states"].shape[1]
        for number in self.config.get_text_config(decoder=True).cross_attention_layers:
            cache.layers[number] = StaticLayer(max_cache_len=num_keys)
        return cache


def run_with_keys(
    base: Any, labels: torch.Tensor | None = None, logits_to_keep: Any = 0, **prepared: Any
) -> ModelOutput:
    """[`attend_to_keys`] with the base's head, and its loss where there are labels."""
    of_loss = {name: prepared.pop(name) for name in ("num_items_in_batch", "shift_labels") if name in prepared}
    output: Any = attend_to_keys(base, **prepared)
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
    logits = base.lm_head(output.last_hidden_state[:, kept])
    loss = None
    if labels is not None:
        loss = base.loss_function(logits, labels, base.config.text_config.vocab_size, **of_loss)
    return CausalLMOutputWithPast(
        loss=loss,
        logits=logits,
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        **{CACHE_NAME: getattr(output, CACHE_NAME, None)},
    )


def attend_to_keys(
    base: Any,
    input_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    past_key_values: Any = None,
    cache: Any = None,
    cross_attention_states: torch.Tensor | None = None,
    visible_states: torch.Tensor | None = None,
    **rest: Any,
) -> BaseModelOutputWithPast:
    """
    Hidden states of the language model, whose words see the keys that they may.

    Args:
        base: the model.
        input_ids (`torch.LongTensor` of shape `(batch, length)`): of the prompt, or of a step behind it.
        inputs_embeds (`torch.Tensor` of shape `(batch, length, D)`, *optional*): instead of the ids.
        cache: what was seen before; it remembers what words behind the prompt see of its keys.
        past_key_values: the same, as transformers called it until 5.23.
        cross_attention_states (`torch.Tensor` of shape `(batch, keys, D)`, *optional*): unused beside keys in a cache.
        visible_states (`torch.BoolTensor` of shape `(batch, length of the prompt, keys)`, *optional*).
        rest: everything else that it takes.

    Raises:
        LinVTInputError: no video in the prompt, and none in the cache.
    """
    given: dict[str, Any] = {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
    (prompt,) = given.values()
    cache = past_key_values if cache is None else cache
    sight, length = getattr(cache, _SIGHT, None), prompt.shape[1]
    if sight is not None:
        cross_attention_states = None
        visible, are_real = sight[:, :1].expand(-1, length, -1), sight[:, 1]
    elif visible_states is not None:
        # without a cache every step of generate() has the whole text
        behind = visible_states[:, -1:].expand(-1, length - visible_states.shape[1], -1)
        visible, are_real = torch.cat([visible_states, behind], dim=1), visible_states.any(1)
    else:
        raise LinVTInputError(
            f"The prompt of {base.config.model_type} has no video and its cache holds none. Pass visible_states."
        )
    masks = _as_it_takes_them(visible, are_real, base.dtype)
    output = base.model.language_model(
        **given, cross_attention_states=cross_attention_states, **{CACHE_NAME: cache}, **masks, **rest
    )
    if (cache := getattr(output, CACHE_NAME, None)) is not None:
        setattr(cache, _SIGHT, torch.stack([visible[:, -1], are_real], dim=1))
    return output


def _keys_of_rows(
    input_ids: torch.Tensor, image_token_id: int, visuals: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The visuals of each row one behind the other, `(batch, keys, D)`, and which words see them.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`): with a placeholder for each visual.
        image_token_id: id of the placeholder.
        visuals: tokens `(n, D)` of each, and True at those that are to be seen.
    """
    places = [get_cross_attention_token_mask(row, image_token_id) for row in input_ids.tolist()]
    remaining = iter(visuals)
    of_rows = [[next(remaining) for _ in row] for row in places]
    num_keys, first = max(sum(len(tokens) for tokens, _ in row) for row in of_rows), visuals[0][0]
    states = first.new_zeros(len(of_rows), num_keys, first.shape[-1])
    sight = torch.zeros(*input_ids.shape, num_keys, dtype=torch.bool, device=states.device)
    for row, (spans, in_row) in enumerate(zip(places, of_rows, strict=True)):
        start = 0
        for (begin, end), (tokens, is_key) in zip(spans, in_row, strict=True):
            stop = start + len(tokens)
            states[row, start:stop] = tokens
            sight[row, begin : input_ids.shape[1] if end == -1 else end, start:stop] = is_key
            start = stop
    return states, sight


def _as_it_takes_them(visible: torch.Tensor, are_real: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """
    The mask of keys that is added to their scores, and the one of words that see any.

    A word that sees none attends to all keys of its row, as the base has it; a row without keys has zeros, which give
    nothing.
    """
    sees_any = visible.any(-1, keepdim=True)
    allowed = torch.where(sees_any, visible, are_real.unsqueeze(1))
    allowed = allowed | ~are_real.any(-1)[:, None, None]
    added = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    added = added.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)
    return {"cross_attention_mask": added, "full_text_row_masked_out_mask": sees_any.unsqueeze(1).to(dtype)}


def _is_ours(prepared: Mapping[str, Any]) -> bool:
    """Whether there is a video, in the prompt or in the cache."""
    return "visible_states" in prepared or getattr(prepared.get(CACHE_NAME), _SIGHT, None) is not None


built_in(MllamaBridge(), "mllama")

__all__ = ["MllamaBridge", "MllamaGenerator", "OneTile", "attend_to_keys", "run_with_keys"]
