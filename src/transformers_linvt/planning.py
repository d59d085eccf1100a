"""What a base will cost with LinVT around it and without, before a single weight is downloaded."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from .model.base_adapter import adapter_of
from .model.base_vlm import context_length
from .model.configuration_linvt import LinVTConfig
from .model.errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from .model.linear_video_tokenizer import LinearVideoTokenizer
from .model.processing_linvt import LinVTProcessor


logger = logging.get_logger(__name__)


@dataclass
class WrapPlan:
    """
    What a video costs the language model of a base, frame by frame and through LinVT.

    Attributes:
        base (`str`): repository id or folder.
        architecture (`str`): `config.model_type` of the base.
        num_frames (`int`), frame_size (`tuple[int, int]`): the video: frames, their height and width in pixels.
        tokens_per_frame (`int`): visual tokens of one frame, which is one tile.
        num_video_tokens (`int`): M.
        prefill_flops, prefill_flops_before (`int`, *optional*):
            Of the language model's layers for the visual tokens, with and without LinVT; attention over the full
            square, as PyTorch counts. None where the layers do not run on shapes alone.
        cache_bytes, cache_bytes_before (`int`, *optional*): keys and values of those tokens, likewise.
        parameters_added (`int`): LinVT's.
        parameters_of_base (`int`).
        notes (`tuple[str, ...]`): what is special about the family, and what will not fit.
    """

    base: str
    architecture: str
    num_frames: int
    frame_size: tuple[int, int]
    tokens_per_frame: int
    num_video_tokens: int
    prefill_flops: int | None
    prefill_flops_before: int | None
    cache_bytes: int | None
    cache_bytes_before: int | None
    parameters_added: int
    parameters_of_base: int
    notes: tuple[str, ...]

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of all frames as pictures: what the language model would get without LinVT."""
        return self.num_frames * self.tokens_per_frame


def plan_wrap(
    base: str,
    num_frames: int = 64,
    frame_size: tuple[int, int] = (360, 640),
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    **fields: Any,
) -> WrapPlan:
    """
    Compare a video in the language model of a base with and without LinVT. Reads the base's configs, not its weights.

    Args:
        base: repository id or folder of an image-text model.
        num_frames: frames of the video.
        frame_size: their height and width in pixels.
        dtype: precision of the language model, which decides the size of its cache; `"auto"` is the one it was saved
            in.
        revision: of the base.
        trust_remote_code: run the code that the base's repository brings.
        fields: of [`LinVTConfig`].

    Raises:
        CheckpointError: nothing there.
        UnsupportedBaseError: LinVT cannot go around this base; the message says why and what would work.
        LinVTInputError: numbers that cannot be.

    Example (the embedded base):

    >>> from transformers_linvt import embedded_base_path
    >>> plan = plan_wrap(embedded_base_path(), num_frames=16, num_video_tokens=16)
    >>> plan.tokens_per_frame, plan.frame_tokens, plan.num_video_tokens
    (16, 256, 16)
    """
    for name, value in (("num_frames", num_frames), ("height", frame_size[0]), ("width", frame_size[1])):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LinVTInputError(f"{name}={value!r} must be a whole number of 1 or more.")
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    base_config = _read_config(base, hub)
    config = LinVTConfig(base_config=base_config, **fields)
    if dtype == "auto":
        dtype = getattr(base_config, "dtype", None) or torch.float32
    model = _model_without_weights(base, base_config, dtype)
    processor = LinVTProcessor.from_base(
        base, num_video_tokens=config.num_video_tokens, frame_path=config.frame_path, **hub
    )
    processor.check_fits(config)
    adapter = adapter_of(base_config.model_type)
    frame = np.full((*frame_size, 3), 128, dtype=np.uint8)
    tokens_per_frame = adapter.tokens_of_frame(processor.base_processor, frame)
    with torch.device("meta"):
        linvt = LinearVideoTokenizer(adapter.width(model), **config.tokenizer_kwargs)
    flops, cache = _cost_of_tokens(model, config.num_video_tokens)
    flops_before, cache_before = _cost_of_tokens(model, num_frames * tokens_per_frame)
    plan = WrapPlan(
        base=base,
        architecture=base_config.model_type,
        num_frames=num_frames,
        frame_size=tuple(frame_size),
        tokens_per_frame=tokens_per_frame,
        num_video_tokens=config.num_video_tokens,
        prefill_flops=flops,
        prefill_flops_before=flops_before,
        cache_bytes=cache,
        cache_bytes_before=cache_before,
        parameters_added=sum(parameter.numel() for parameter in linvt.parameters()),
        parameters_of_base=sum(parameter.numel() for parameter in model.parameters()),
        notes=(),
    )
    plan.notes = tuple(_notes(plan, config, model))
    return plan


def _read_config(base: str, hub: dict[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(base, **hub)
    except OSError as error:
        raise CheckpointError(
            f"The base model {base!r} could not be read: {error} Check the name, and the network or HF_HUB_OFFLINE."
        ) from error
    except StrictDataclassError as error:
        raise CheckpointError(f"The config of {base!r} has a value it cannot have: {error}") from error
    except ValueError as error:
        raise UnsupportedBaseError(
            f"{base!r} is no model that transformers knows: {error} LinVT needs an image-text model, such as a "
            "Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
        ) from error


def _model_without_weights(base: str, config: Any, dtype: torch.dtype) -> PreTrainedModel:
    """The base on the meta device: shapes, no memory."""
    try:
        with torch.device("meta"):
            # The other ways to run experts choose them by value, and there are no values here.
            experts = {"experts_implementation": "batched_mm"} if _has_experts(config) else {}
            model = adapter_of(config.model_type).build(config, dtype=dtype, **experts)
    except ImportError as error:
        raise UnsupportedBaseError(f"The base {base!r} needs a package: {error}") from error
    except ValueError as error:
        raise UnsupportedBaseError(
            f"{base!r} ({config.model_type}) is no image-text model of transformers. LinVT needs one that "
            "AutoModelForImageTextToText can load, such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
        ) from error
    adapter_of(config.model_type).check(model)
    return model


def _has_experts(config: Any) -> bool:
    text = config.get_text_config()
    return any("expert" in name and isinstance(value, int) and value > 1 for name, value in vars(text).items())


def _cost_of_tokens(model: PreTrainedModel, num_tokens: int) -> tuple[int | None, int | None]:
    """FLOPs of the language model's layers over so many tokens, and bytes of the keys and values it keeps of them."""
    decoder = adapter_of(model.config.model_type).decoder(model)
    try:
        tokens = torch.zeros(1, num_tokens, dtype=torch.long, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = decoder(input_ids=tokens, use_cache=True)
    except Exception as error:  # some layers look at values, which are not there; each says so in its own way
        logger.info(f"The cost of {type(decoder).__name__} cannot be counted without weights: {error}")
        return None, None
    return counter.get_total_flops(), _bytes_of(getattr(output, "past_key_values", None))


def _bytes_of(cache: Any) -> int | None:
    """Of the tensors in a cache, whatever kinds of layers it has."""
    if cache is None:
        return None
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _notes(plan: WrapPlan, config: LinVTConfig, model: PreTrainedModel) -> list[str]:
    notes = list(adapter_of(plan.architecture).family.notes)
    if plan.num_frames > config.max_frames:
        notes.append(f"{plan.num_frames} frames are more than max_frames={config.max_frames}: raise it")
    limit = context_length(model)
    if limit is not None and plan.num_video_tokens >= limit:
        notes.append(f"{plan.num_video_tokens} video tokens do not fit into the {limit} positions of the base")
    if limit is not None and plan.frame_tokens >= limit:
        notes.append(f"without LinVT the frames would not fit into the {limit} positions of the base")
    if plan.frame_tokens <= plan.num_video_tokens:
        notes.append(
            f"{plan.frame_tokens} frame tokens are no more than {plan.num_video_tokens} video tokens: ask for fewer"
        )
    return notes


__all__ = ["WrapPlan", "plan_wrap"]
