"""
What the first Molmo (2024) needs: loading, and running through its cache of tuples.

Its code lies in its repositories and not in transformers, and was written for transformers 4.4x: `from_pretrained`,
`generate` and its processor, which needs tensorflow, fail with 5.23; its modules work. So its class is built from its
config and filled by hand, run through the modules, and its tokenizer gets a processor of ours (`molmo_processor.py`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ...errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from ..base import BaseBridge, EmbeddingsBridge, built_in, without_ids
from ..cache import CACHE_NAME
from ..families import Family
from ..generator import BorrowedGenerator
from ..loading import HUB_ARGUMENTS
from .molmo_processor import EXTRA_TOKENS, PATCH, check_molmo_processor, load_molmo_processor, load_tokenizer


def patch_token_id(config: Any) -> int | None:
    """Id of `<im_patch>`: from the config where it says it, else its place behind the first table of embeddings."""
    if (given := getattr(config, "image_token_id", None)) is not None:
        return given
    size = getattr(config, "embedding_size", None)
    return size + EXTRA_TOKENS.index(PATCH) if isinstance(size, int) else None


def load_molmo(name_or_path: str, trust_remote_code: bool = False, **kwargs: Any) -> PreTrainedModel:
    """
    Molmo with its weights, in evaluation mode.

    Args:
        name_or_path: repository id or folder.
        trust_remote_code: must be true: the model's code is in the repository.
        kwargs: `dtype`, and where the files are (`revision`, `token`, ...).

    Raises:
        UnsupportedBaseError: without `trust_remote_code`, or quantised.
        LinVTInputError: an argument that its loading by hand has no place for.
        CheckpointError: files that are missing or damaged.
    """
    if not trust_remote_code:
        raise UnsupportedBaseError(
            f"The code of {name_or_path!r} (Molmo, first generation) is in its repository and not in transformers. "
            "Read it, and pass trust_remote_code=True."
        )
    where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    dtype = kwargs.pop("dtype", kwargs.pop("torch_dtype", None))
    _check_arguments(kwargs)
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=True, **where)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"The config of {name_or_path!r} could not be loaded: {error}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedBaseError(
            f"The weights of {name_or_path!r} are quantised, and Molmo's code does not load such weights with this "
            "transformers. Use the repository it was made from, such as allenai/Molmo-7B-D-0924."
        )
    base = build_molmo(config, dtype=dtype)
    _load_weights(base, name_or_path, where)
    base.name_or_path = config.name_or_path = name_or_path
    base.generation_config = _generation_config(name_or_path, where)
    return base.eval()


def _check_arguments(kwargs: Mapping[str, Any]) -> None:
    given = {name: value for name, value in kwargs.items() if value is not None}
    if given.get("attn_implementation", "sdpa") in ("sdpa", "eager"):  # its code always takes torch's own
        given.pop("attn_implementation", None)
    for name in ("low_cpu_mem_usage", "use_safetensors", "code_revision"):
        given.pop(name, None)
    if given:
        raise LinVTInputError(
            f"{', '.join(given)} cannot be used with Molmo of the first generation: its weights are loaded by hand, "
            "whole and onto the CPU, because from_pretrained fails on its code. Pass dtype only, and move the model "
            "afterwards: model.to('cuda')."
        )


def build_molmo(config: Any, dtype: torch.dtype | str | None = None, **kwargs: Any) -> PreTrainedModel:
    """
    Molmo with random weights.

    Args:
        config: as `AutoConfig.from_pretrained(..., trust_remote_code=True)` gave it: what trusted the code.
        dtype: `None` and `"auto"` mean the config's.
        kwargs: others of `from_config`, none of which Molmo's code knows.
    """
    if "AutoModelForCausalLM" not in (getattr(config, "auto_map", None) or {}) or type(config).model_type != "molmo":
        raise UnsupportedBaseError(
            "The code of Molmo is in its repository, and this config came without it. Load the base with "
            "trust_remote_code=True."
        )
    if dtype is None or dtype == "auto":
        dtype = getattr(config, "dtype", None) or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    try:
        return AutoModelForCausalLM.from_config(config, trust_remote_code=True).to(dtype)
    except ImportError as error:
        raise UnsupportedBaseError(f"Molmo's code needs a package: {error}") from error


def _load_weights(base: PreTrainedModel, name_or_path: str, where: Mapping[str, Any]) -> None:
    """Copy the safetensors file or files of a checkpoint into a model, one file at a time."""
    weights, seen, wrong = base.state_dict(), set(), []
    for file in _weight_files(name_or_path, where):
        try:
            loaded = load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file!r} is damaged: {error}. Download it again.") from error
        for name, value in loaded.items():
            if name not in weights or weights[name].shape != value.shape:
                wrong.append(name)
                continue
            weights[name].copy_(value)
            seen.add(name)
    missing = sorted(weights.keys() - seen)
    if missing or wrong:
        raise CheckpointError(
            f"The weights of {name_or_path!r} do not fit its config: {len(missing)} missing {missing[:2]}, "
            f"{len(wrong)} unknown or of another shape {wrong[:2]}. Download them again."
        )


def _weight_files(name_or_path: str, where: Mapping[str, Any]) -> list[str]:
    def find(name: str) -> str | None:
        return cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False, **where)

    if (single := find(SAFE_WEIGHTS_NAME)) is not None:
        return [single]
    index = find(SAFE_WEIGHTS_INDEX_NAME)
    names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values())) if index else []
    found = {name: find(name) for name in names}
    files = [file for file in found.values() if file is not None]
    if not files or len(files) < len(found):
        lacking = [name for name, file in found.items() if file is None] or [SAFE_WEIGHTS_NAME]
        raise CheckpointError(f"{name_or_path!r} has no {', '.join(lacking)}. Was it downloaded to the end?")
    return files


def _generation_config(name_or_path: str, where: Mapping[str, Any]) -> GenerationConfig:
    """The repository's; it does not say where an answer ends, its tokenizer does."""
    try:
        config = GenerationConfig.from_pretrained(name_or_path, **where)
    except OSError:
        config = GenerationConfig()
    if config.eos_token_id is None:
        try:
            config.eos_token_id = load_tokenizer(name_or_path, **where).eos_token_id
        except (OSError, ValueError):  # a model without its tokenizer: who generates says where to stop
            return config
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    return config


def check_molmo(base: Any) -> None:
    """
    Refuse a model that lacks the modules that are used here.

    Raises:
        UnsupportedBaseError: with their names.
    """
    inner = getattr(base, "model", None)
    transformer = getattr(inner, "transformer", None)
    lacking = [name for name in ("wte", "ff_out", "blocks", "ln_f") if not hasattr(transformer, name)]
    lacking = [f"model.transformer.{name}" for name in lacking]
    if not hasattr(inner, "vision_backbone"):
        lacking.append("model.vision_backbone")
    if lacking:
        raise UnsupportedBaseError(
            f"{type(base).__name__} calls itself a molmo and has no {', '.join(lacking)}. LinVT knows the code of "
            "allenai/Molmo-7B-D-0924."
        )


def encode_pictures(base: PreTrainedModel, pixel_values: torch.Tensor, image_masks: torch.Tensor) -> torch.Tensor:
    """
    Pictures through vision tower, pooling and projector.

    Args:
        base: the model.
        pixel_values (`torch.Tensor` of shape `(pictures, patches, values of a patch)`).
        image_masks (`torch.Tensor` of shape `(pictures, patches)`): share of each patch that is picture, not padding.

    Returns:
        `torch.Tensor` of shape `(pictures, tokens, D)`.
    """
    backbone = base.model.vision_backbone
    dtype = next(backbone.parameters()).dtype
    features, _ = backbone(pixel_values[:, None].to(dtype), image_masks[:, None])
    return features[:, 0]


def run_molmo(
    base: PreTrainedModel,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    cache: Any = None,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    output_hidden_states: bool | None = None,
    logits_to_keep: int = 0,
    labels: torch.Tensor | None = None,
    num_items_in_batch: Any = None,
    return_dict: bool | None = None,
) -> CausalLMOutputWithPast:
    """
    The language model on an embedded prompt, with a cache of transformers in place of Molmo's own tuples.

    Args:
        base: the model.
        inputs_embeds (`torch.Tensor` of shape `(batch, length, D)`).
        attention_mask (`torch.Tensor` of shape `(batch, past + length)`, *optional*): 0 at padding.
        position_ids (`torch.Tensor` of shape `(batch, length)`, *optional*): by default counted from the mask.
        cache ([`~transformers.DynamicCache`], *optional*): grows.
        past_key_values: the same, as transformers called it until 5.23.
        use_cache: by default as the config says.
        output_hidden_states: of every layer.
        logits_to_keep: positions at the end to compute logits of; 0 means all.
        labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): -100 where no loss is wanted.
        num_items_in_batch: of the trainer's accumulated batch; the loss is divided by it.
        return_dict: ignored; there is always one.
    """
    cache = past_key_values if cache is None else cache
    if cache is not None and not isinstance(cache, DynamicCache):
        raise LinVTInputError(
            f"Molmo's own cache grows, and {CACHE_NAME} is a {type(cache).__name__}. Use a DynamicCache, and no "
            "cache_implementation."
        )
    length = inputs_embeds.shape[1]
    seen = cache.get_seq_length() if cache is not None else 0
    layers: list[Any] = cache.layers if cache is not None else []
    if attention_mask is None:  # Molmo would look for one in the ids, which are not there
        attention_mask = torch.ones(len(inputs_embeds), seen + length, dtype=torch.long, device=inputs_embeds.device)
    if position_ids is None:
        position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    use_cache = base.config.use_cache if use_cache is None else use_cache
    output = base(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=[(layer.keys, layer.values) for layer in layers] if seen else None,
        use_cache=bool(use_cache),
        last_logits_only=logits_to_keep == 1,
        output_hidden_states=bool(output_hidden_states),
        return_dict=True,
    )
    logits, loss = output.logits, None
    if labels is not None:
        loss = ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch)
    keys_and_values: Any = _as_cache(getattr(output, CACHE_NAME), cache) if use_cache else None
    return CausalLMOutputWithPast(
        loss=loss,
        logits=logits[:, -logits_to_keep:] if logits_to_keep else logits,
        **{CACHE_NAME: keys_and_values},
        hidden_states=output.hidden_states if output_hidden_states else None,
    )


def run_molmo_backbone(base: PreTrainedModel, **prepared: Any) -> BaseModelOutputWithPast:
    """As [`run_molmo`], to the hidden states behind the last norm, of which `ff_out` makes the logits."""
    wanted = prepared.pop("output_hidden_states", None)
    output: Any = run_molmo(base, **prepared, output_hidden_states=True)
    return BaseModelOutputWithPast(
        last_hidden_state=output.hidden_states[-1],
        **{CACHE_NAME: getattr(output, CACHE_NAME)},
        hidden_states=output.hidden_states if wanted else None,
    )


def _as_cache(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], cache: DynamicCache | None) -> DynamicCache:
    """Keys and values of all positions so far, as Molmo returns them, in a cache of transformers."""
    cache = DynamicCache() if cache is None else cache
    layers: list[Any] = cache.layers
    for number, (keys, values) in enumerate(pairs):
        if number < len(layers) and layers[number].is_initialized:
            layers[number].keys, layers[number].values = keys, values
        else:
            cache.update(keys, values, number)
    return cache


class MolmoGenerator(BorrowedGenerator):
    """`generate` on Molmo, whose own class has none any more."""

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
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """One step of `generate`: the embedded prompt, then ids."""
        (base,) = self._held
        return run_molmo(
            base,
            base.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=past_key_values if cache is None else cache,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=output_hidden_states,
        )


class MolmoBridge(EmbeddingsBridge):
    """
    Molmo, first generation (`allenai/Molmo-7B-D-0924`), whose code comes with its weights.

    Its visual tokens are added to the embedding of `<im_patch>`, and a frame is one picture without Molmo's crops.
    """

    def __init__(self) -> None:
        super().__init__(Family(begins_with_bos=True), is_added=True)

    def load(self, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """The weights are put in by hand: `from_pretrained` fails on its code."""
        return load_molmo(name_or_path, **kwargs)

    def build(self, config: Any, **kwargs: Any) -> PreTrainedModel:
        """The model is one of the class in its repository."""
        return build_molmo(config, **kwargs)

    def check(self, base: Any) -> None:
        """Also for the modules of its published code."""
        super().check(base)
        check_molmo(base)

    def image_token_id(self, config: Any) -> int | None:
        """The id of `<im_patch>`, which its config does not give."""
        return patch_token_id(config)

    def decoder(self, base: PreTrainedModel) -> nn.Module:
        """A container of its layers, embeddings and head."""
        return base.model.transformer

    def generation_config(self, base: PreTrainedModel) -> GenerationConfig:
        """The base's own."""
        return BaseBridge.generation_config(self, base)

    def head(self, base: PreTrainedModel) -> nn.Module | None:
        """A layer of its own; they are never tied."""
        return base.model.transformer.ff_out

    def picture_inputs_of(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What our image processor made, under its names."""
        return {name: inputs[name] for name in ("pixel_values", "image_masks") if inputs.get(name) is not None}

    def encode(self, base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
        """Each picture as a whole."""
        return encode_pictures(base, inputs["pixel_values"], inputs["image_masks"]), [], "tensor"

    def forward(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Logits, with a cache of transformers."""
        return run_molmo(base, **without_ids(self._embedded(base, prepared)))

    def backbone(self, base: PreTrainedModel, **prepared: Any) -> ModelOutput:
        """Hidden states, with a cache of transformers."""
        return run_molmo_backbone(base, **without_ids(self._embedded(base, prepared)))

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
        return {"input_ids": prepared["input_ids"], **self.embed_pictures(base, **prepared)}


built_in(MolmoBridge(), "molmo")

__all__ = [
    "MolmoBridge",
    "MolmoGenerator",
    "build_molmo",
    "check_molmo",
    "encode_pictures",
    "load_molmo",
    "patch_token_id",
    "run_molmo",
    "run_molmo_backbone",
]
