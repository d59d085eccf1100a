"""
What the first Molmo (2024) needs: loading, running through its cache of tuples, pictures and prompts.

Its code lies in its repositories and not in transformers, and was written for transformers 4.4x: `from_pretrained`,
`generate` and its processor, which needs tensorflow, fail with 5.23; its modules work. So its class is built from its
config and filled by hand, run through the modules, and its tokenizer gets a processor of ours. The adapter that calls
all this stands in `base_adapter.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BatchFeature,
    DynamicCache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from ...errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from ..generator import BorrowedGenerator


START, END, PATCH, COLUMN, PICTURE = "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>"
# Its tokenizer has the words of the model's first table of embeddings, then these, in this order.
_EXTRA_TOKENS = (START, END, PATCH, COLUMN, PICTURE)
_FILES = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# Pictures stand in front of what is asked about them, roles are words, and there is no system: as it was trained.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{- raise_exception('Molmo knows no system message.') }}{%- endif %}"
    "{%- if message.content is not string %}"
    "{%- for part in message.content if part.type == 'image' %}<|image|>{%- endfor %}"
    "{%- endif %}"
    "{{- ' User: ' if message.role == 'user' else ' Assistant: ' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for part in message.content if part.type == 'text' %}{{- part.text }}{%- endfor %}"
    "{%- endif %}"
    "{%- if message.role == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- ' Assistant:' }}{%- endif %}"
)


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


def patch_token_id(config: Any) -> int | None:
    """Id of `<im_patch>`: from the config where it says it, else its place behind the first table of embeddings."""
    if (given := getattr(config, "image_token_id", None)) is not None:
        return given
    size = getattr(config, "embedding_size", None)
    return size + _EXTRA_TOKENS.index(PATCH) if isinstance(size, int) else None


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
    where = {name: kwargs.pop(name) for name in _FILES if name in kwargs}
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
    files = [find(name) for name in names]
    if not files or None in files:
        lacking = [name for name, file in zip(names, files, strict=True) if file is None] or [SAFE_WEIGHTS_NAME]
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
            config.eos_token_id = _load_tokenizer(name_or_path, **where).eos_token_id
        except (OSError, ValueError):  # a model without its tokenizer: who generates says where to stop
            return config
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    return config


def _load_tokenizer(name_or_path: str, **kwargs: Any) -> Any:
    # With any config given it does not look for the model's, whose class it would have to run code for.
    return AutoTokenizer.from_pretrained(name_or_path, config=PreTrainedConfig(), **kwargs)


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
        past_key_values ([`~transformers.DynamicCache`], *optional*): grows.
        use_cache: by default as the config says.
        output_hidden_states: of every layer.
        logits_to_keep: positions at the end to compute logits of; 0 means all.
        labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): -100 where no loss is wanted.
        num_items_in_batch: of the trainer's accumulated batch; the loss is divided by it.
        return_dict: ignored; there is always one.
    """
    if past_key_values is not None and not isinstance(past_key_values, DynamicCache):
        raise LinVTInputError(
            f"Molmo's own cache grows, and past_key_values is a {type(past_key_values).__name__}. Use a DynamicCache, "
            "and no cache_implementation."
        )
    length = inputs_embeds.shape[1]
    seen = past_key_values.get_seq_length() if past_key_values is not None else 0
    if attention_mask is None:  # Molmo would look for one in the ids, which are not there
        attention_mask = torch.ones(len(inputs_embeds), seen + length, dtype=torch.long, device=inputs_embeds.device)
    if position_ids is None:
        position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    use_cache = base.config.use_cache if use_cache is None else use_cache
    output = base(
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=[(layer.keys, layer.values) for layer in past_key_values.layers] if seen else None,
        use_cache=bool(use_cache),
        last_logits_only=logits_to_keep == 1,
        output_hidden_states=bool(output_hidden_states),
        return_dict=True,
    )
    logits, loss = output.logits, None
    if labels is not None:
        loss = ForCausalLMLoss(logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch)
    return CausalLMOutputWithPast(
        loss=loss,
        logits=logits[:, -logits_to_keep:] if logits_to_keep else logits,
        past_key_values=_as_cache(output.past_key_values, past_key_values) if use_cache else None,
        hidden_states=output.hidden_states if output_hidden_states else None,
    )


def run_molmo_backbone(base: PreTrainedModel, **prepared: Any) -> BaseModelOutputWithPast:
    """As [`run_molmo`], to the hidden states behind the last norm, of which `ff_out` makes the logits."""
    wanted = prepared.pop("output_hidden_states", None)
    output = run_molmo(base, **prepared, output_hidden_states=True)
    return BaseModelOutputWithPast(
        last_hidden_state=output.hidden_states[-1],
        past_key_values=output.past_key_values,
        hidden_states=output.hidden_states if wanted else None,
    )


def _as_cache(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], cache: DynamicCache | None) -> DynamicCache:
    """Keys and values of all positions so far, as Molmo returns them, in a cache of transformers."""
    cache = DynamicCache() if cache is None else cache
    for number, (keys, values) in enumerate(pairs):
        if number < len(cache.layers) and cache.layers[number].is_initialized:
            cache.layers[number].keys, cache.layers[number].values = keys, values
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
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            output_hidden_states=output_hidden_states,
        )


# ---------------------------------------------------------------------------------------------------------------------
# The processor
# ---------------------------------------------------------------------------------------------------------------------


class MolmoImageProcessor(BaseImageProcessor):
    """
    Pictures as Molmo sees them as a whole: resized into a square with padding around them, and cut into patches.

    Molmo looks at a picture a second time in crops of higher resolution, which this does not make.

    Args:
        base_image_input_size, image_patch_size, image_token_length_h, image_token_length_w, image_mean, image_std:
            as in Molmo's own `preprocessor_config.json`, whose values are the defaults.
    """

    model_input_names = ["pixel_values", "image_masks"]

    def __init__(
        self,
        base_image_input_size: Sequence[int] = (336, 336),
        image_patch_size: int = 14,
        image_token_length_h: int = 12,
        image_token_length_w: int = 12,
        image_mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        image_std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base_image_input_size = list(base_image_input_size)
        self.image_patch_size = image_patch_size
        self.image_token_length_h, self.image_token_length_w = image_token_length_h, image_token_length_w
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """See [`preprocess`]."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """
        Args:
            images: a picture or a list of them, nested or flat: PIL pictures or arrays `(height, width, 3)`, uint8.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(pictures, patches, values of a patch)` and `image_masks` of shape
            `(pictures, patches)`, the share of each patch that is picture and not padding.
        """
        made = [self._patches(picture) for picture in make_flat_list_of_images(images)]
        data = {
            "pixel_values": np.stack([patches for patches, _ in made]),
            "image_masks": np.stack([shares for _, shares in made]),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def _patches(self, picture: Any) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.array(picture.convert("RGB") if hasattr(picture, "convert") else picture)
        height, width = self.base_image_input_size
        # In 32 bits, as Molmo does: another rounding would be another size for some pictures.
        scale = min(np.float32(side) / np.float32(of) for side, of in zip((height, width), pixels.shape, strict=False))
        size = [max(1, int(of * scale)) for of in pixels.shape[:2]]
        resized = nn.functional.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
            size,
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0].clamp(0, 1)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        canvas, is_picture = torch.zeros(3, height, width), torch.zeros(height, width)
        canvas[:, top : top + size[0], left : left + size[1]] = resized
        is_picture[top : top + size[0], left : left + size[1]] = 1
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        patch = self.image_patch_size
        cut = ((canvas - mean) / std).unfold(1, patch, patch).unfold(2, patch, patch)
        shares = is_picture.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2).mean(-1)
        return cut.permute(1, 2, 3, 4, 0).reshape(-1, patch * patch * 3).numpy(), shares.flatten().numpy()


class MolmoProcessor(ProcessorMixin):
    """
    Molmo's tokenizer with pictures, in place of its own processor, which needs tensorflow.

    Args:
        image_processor ([`MolmoImageProcessor`]).
        tokenizer: Molmo's own.
        chat_template (`str`, *optional*): [`CHAT_TEMPLATE`] by default; that of its tokenizer is of another model.
    """

    image_token = PICTURE

    def __init__(
        self, image_processor: MolmoImageProcessor, tokenizer: Any, chat_template: str | None = CHAT_TEMPLATE
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = tokenizer.convert_tokens_to_ids(PICTURE)
        self.image_token_ids = tokenizer.convert_tokens_to_ids(list(_EXTRA_TOKENS))

    @property
    def first_token(self) -> str:
        """What every prompt begins with: Qwen's tokenizer has no token for it but that of the end."""
        return self.tokenizer.bos_token or self.tokenizer.eos_token

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prompts with `<|image|>` where a picture stands -> `input_ids`, `attention_mask` and the pictures."""
        if text is not None:
            texts, first = ([text] if isinstance(text, str) else list(text)), self.first_token
            text = [one if one.startswith(first) else first + one for one in texts]
        return super().__call__(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """A picture in the prompt: a token for each of its own, row by row with a mark at the end of each."""
        rows, columns = self.image_processor.image_token_length_h, self.image_processor.image_token_length_w
        return START + (PATCH * columns + COLUMN) * rows + END


def load_molmo_processor(name_or_path: str, trust_remote_code: bool = False, **kwargs: Any) -> MolmoProcessor:
    """
    Our processor around the tokenizer in a repository or folder; none of its code is run.

    Args:
        name_or_path: repository id or folder, of Molmo or of a LinVT model around it.
        trust_remote_code: not needed.
        kwargs: of `from_pretrained`.

    Raises:
        CheckpointError: nothing there, or damaged.
    """
    where = {name: value for name, value in kwargs.items() if name in _FILES}
    try:
        tokenizer = _load_tokenizer(name_or_path, **kwargs)
        settings = _image_settings(name_or_path, where)
        template = ProcessorMixin.get_processor_dict(name_or_path, **where)[0].get("chat_template")
    except Exception as error:  # a damaged tokenizer.json is a bare Exception
        raise CheckpointError(f"The processor of {name_or_path!r} could not be loaded: {error}") from error
    has_place = isinstance(template, str) and PICTURE in template  # else the tokenizer's, which is of another model
    return MolmoProcessor(MolmoImageProcessor(**settings), tokenizer, template if has_place else CHAT_TEMPLATE)


def _image_settings(name_or_path: str, where: Mapping[str, Any]) -> dict[str, Any]:
    try:
        settings, _ = MolmoImageProcessor.get_image_processor_dict(name_or_path, **where)
    except OSError:  # a model that came without it: there has been one setting only
        return {}
    known = MolmoImageProcessor().to_dict().keys() - {"image_processor_type"}
    return {name: value for name, value in settings.items() if name in known}


def check_molmo_processor(processor: Any) -> None:
    """
    Refuse a processor that is not ours, and a tokenizer without Molmo's tokens.

    Raises:
        UnsupportedBaseError: with what is missing.
    """
    if not isinstance(processor, MolmoProcessor):
        raise UnsupportedBaseError(
            f"{type(processor).__name__} is no processor that LinVT can use with Molmo. Use the one of this package: "
            "LinVTProcessor.from_base of the name or folder."
        )
    vocabulary = processor.tokenizer.get_vocab()
    if missing := [token for token in _EXTRA_TOKENS if token not in vocabulary]:
        raise UnsupportedBaseError(
            f"The tokenizer has {len(vocabulary)} tokens and no {', '.join(missing)}: it belongs to another model."
        )


__all__ = [
    "CHAT_TEMPLATE",
    "MolmoGenerator",
    "MolmoImageProcessor",
    "MolmoProcessor",
    "build_molmo",
    "check_molmo",
    "check_molmo_processor",
    "encode_pictures",
    "load_molmo",
    "load_molmo_processor",
    "patch_token_id",
    "run_molmo",
    "run_molmo_backbone",
]
