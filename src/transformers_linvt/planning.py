"""What a base will cost with LinVT around it and without, before a single weight is downloaded."""

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, PreTrainedModel
from transformers.utils import logging

from .bases.cache import CACHE_NAME
from .bases.loading import context_length, image_text_config, no_known_architecture
from .bases.positions import check_grid_positions
from .bases.registry import bridge_at, bridge_of
from .bases.video_tokens import COMMON_FRAME, tokens_of_common_frame
from .errors import CheckpointError, LinVTInputError, UnsupportedBaseError, advice, check_folder, first_line
from .model.configuration_linvt import LinVTConfig
from .model.processing_linvt import LinVTProcessor
from .tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from .video.limits import VideoLimits


logger = logging.get_logger(__name__)

_MEASURED_FRAMES, _MEASURED_WIDTH = 8, 1024  # of measure=True: frames that are prepared, side of a matrix

# What may be asked for; the base is given by its name.
_FIELDS = [name for name in LinVTConfig.__annotations__ if name != "includes_base" and not name.startswith("base_")]


@dataclass
class WrapPlan:
    """
    What a video costs the language model of a base, frame by frame and through LinVT.

    Attributes:
        base (`str`): repository id or folder.
        architecture (`str`): `config.model_type` of the base.
        num_frames (`int`), frame_size (`tuple[int, int]`): the video: frames, their height and width in pixels.
        tokens_per_frame (`int`): visual tokens of one frame, which is one tile, or of one step of several frames.
        num_video_tokens (`int`): M.
        prefill_flops, prefill_flops_before (`int`, *optional*):
            Of the language model's layers for the visual tokens, with and without LinVT; attention over the full
            square, as PyTorch counts. None where the layers do not run on shapes alone.
        cache_bytes, cache_bytes_before (`int`, *optional*): keys and values of those tokens, likewise.
        parameters_added (`int`): LinVT's.
        parameters_of_base (`int`): the base's own.
        own_step (`int`): frames that the base's own video path makes one step; 1 where every frame is a picture to it.
        vision_flops, vision_flops_before (`int`, *optional*):
            Of the vision tower and projector for all frames, as LinVT's frames go through it and on the base's own
            video path. None where they can neither be counted nor estimated; `notes` say why.
        linvt_flops (`int`): of LinVT, at most: every one of its parameters for every frame token.
        peak_bytes (`int`):
            Memory at the peak of answering, about: weights, frames, twice what the image processor makes of them (it
            holds its input and its output), frame tokens, and the cache.
        seconds (`dict[str, float]`, *optional*):
            What `measure=True` found: `"preprocessing"` as it was measured here, `"vision tower"`, `"LinVT"` and
            `"prefill"` at least, at the rate that this machine multiplies matrices.
        notes (`tuple[str, ...]`): what is special about the family, and what will not fit.
        frames_per_step (`int`): frames that the base's vision tower sees as one; 1 but for `frame_path="video"`.
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
    frames_per_step: int = 1
    own_step: int = 1
    vision_flops: int | None = None
    vision_flops_before: int | None = None
    linvt_flops: int = 0
    peak_bytes: int = 0
    seconds: dict[str, float] | None = None

    @property
    def frame_tokens_before(self) -> int:
        """Visual tokens that the language model gets from the base's own video path."""
        return -(-self.num_frames // self.own_step) * self.tokens_per_frame

    @property
    def num_steps(self) -> int:
        """What LinVT sees as frames: the frames, or the steps of time into which the base merges them."""
        return -(-self.num_frames // self.frames_per_step)

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of all frames, or steps: what LinVT condenses."""
        return self.num_steps * self.tokens_per_frame


def plan_wrap(
    base: str,
    num_frames: int = 64,
    frame_size: tuple[int, int] = COMMON_FRAME,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    measure: bool = False,
    **fields: Any,
) -> WrapPlan:
    """
    Compare a video with LinVT and on the base's own video path. Reads the base's configs, not its weights.

    Args:
        base: repository id or folder of an image-text model.
        num_frames: frames of the video.
        frame_size: their height and width in pixels.
        dtype: precision of the language model, which decides the size of its cache; `"auto"` is the one it was saved
            in.
        revision: of the base.
        trust_remote_code: run the code that the base's repository brings.
        measure: take some seconds to find out how fast this machine prepares frames and multiplies matrices.
        fields: of [`LinVTConfig`]. Without `num_video_tokens` as many as one frame of the base has, see
            [`LinVTForVideoQA.from_base`].

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
    _check_video(num_frames, frame_size)
    config, model, processor = check_wrap(base, dtype, revision, trust_remote_code, **fields)
    bridge = bridge_of(model.config.model_type)
    tokens_per_frame = _tokens_of_frame(base, processor, num_frames, frame_size)
    with torch.device("meta"):
        linvt = LinearVideoTokenizer(bridge.width(model), **config.tokenizer_kwargs)
    flops, cache = _cost_of_tokens(model, config.num_video_tokens)
    plan = WrapPlan(
        base=base,
        architecture=model.config.model_type,
        num_frames=num_frames,
        frame_size=(frame_size[0], frame_size[1]),
        tokens_per_frame=tokens_per_frame,
        num_video_tokens=config.num_video_tokens,
        prefill_flops=flops,
        prefill_flops_before=None,
        cache_bytes=cache,
        cache_bytes_before=None,
        parameters_added=sum(parameter.numel() for parameter in linvt.parameters()),
        parameters_of_base=sum(parameter.numel() for parameter in model.parameters()),
        notes=(),
        frames_per_step=processor.frames_per_step,
        own_step=_own_step(bridge, processor.base_processor),
    )
    plan.prefill_flops_before, plan.cache_bytes_before = _cost_of_tokens(model, plan.frame_tokens_before)
    plan.linvt_flops = 2 * plan.parameters_added * plan.frame_tokens
    notes = _add_cost_of_frames(plan, model, processor)
    if measure:
        plan.seconds = _measured(plan, model.dtype, processor)
    plan.notes = (*_notes(plan, config, model), *notes)
    common = tokens_of_common_frame(processor.base_processor, processor.base_model_type)
    if "num_video_tokens" not in fields and common == plan.num_video_tokens:
        height, width = COMMON_FRAME
        default = f"{common} video tokens by default: as many as one frame of {height} x {width} pixels has"
        plan.notes = (default, *plan.notes)
    return plan


def _tokens_of_frame(base: str, processor: LinVTProcessor, num_frames: int, frame_size: tuple[int, int]) -> int:
    frame = np.full((*frame_size, 3), 128, dtype=np.uint8)
    try:
        return processor.bridge.tokens_of_frame(processor.base_processor, frame, processor.frame_options(num_frames))
    except LinVTInputError:
        raise
    except ValueError as error:  # of the base's image processor: a frame too small, or too narrow
        raise LinVTInputError(
            f"frame_size={tuple(frame_size)} (height, width) cannot be prepared for {base!r}: {error}. Give the size "
            "of your videos, such as (360, 640)."
        ) from error


def _own_step(bridge: Any, base_processor: Any) -> int:
    try:
        return bridge.frames_per_step(base_processor)
    except LinVTInputError:  # it has no path of its own that merges frames
        return 1


def _add_cost_of_frames(plan: WrapPlan, model: PreTrainedModel, processor: LinVTProcessor) -> list[str]:
    """Vision tower and memory of a plan; returns what is to be said of the figures."""
    count = min(plan.num_frames, 2 * plan.own_step)  # whole steps on either path
    inputs, frames = _inputs_of_frames(processor, plan, count)
    per_step, how = _cost_of_frames(model, inputs)
    steps = -(-count // plan.frames_per_step)
    if per_step is not None:
        plan.vision_flops = per_step * plan.num_steps // steps
        # where two frames become one step, they cost the tower what one frame costs as a picture
        plan.vision_flops_before = per_step * -(-plan.num_frames // plan.own_step) // steps
    prepared = sum(value.numel() * value.element_size() for value in inputs.values())
    width = bridge_of(plan.architecture).width(model)
    bytes_each = torch.finfo(model.dtype).bits // 8
    plan.peak_bytes = (
        (plan.parameters_of_base + plan.parameters_added) * bytes_each
        + plan.num_frames * (frames[0].nbytes + 2 * prepared // count)
        + 2 * plan.frame_tokens * width * bytes_each
        + (plan.cache_bytes or 0)
    )
    return [how] if how else []


def _inputs_of_frames(
    processor: LinVTProcessor, plan: WrapPlan, count: int
) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """What the vision tower gets of frames of noise, and the frames; sized as in a video of the plan's length."""
    frames = np.random.default_rng(0).integers(0, 255, (count, *plan.frame_size, 3), dtype=np.uint8)
    options = processor.frame_options(plan.num_frames)
    steps = {"merges_steps": True} if processor.frames_per_step > 1 else {}
    made = processor.bridge.frame_inputs(processor.base_processor, list(frames), options, **steps)
    return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}, frames


def _cost_of_frames(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> tuple[int | None, str]:
    """FLOPs of vision tower and projector for these inputs, and how they are known where they were not counted."""
    bridge = bridge_of(model.config.model_type)
    shapes = {name: value.to("meta") if value.is_floating_point() else value for name, value in inputs.items()}
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            bridge.encode(model, shapes)
        return counter.get_total_flops(), ""
    except Exception as error:  # a tower that looks at values, such as the sizes of frames
        reason = first_line(error)
    vision = getattr(model.config, "vision_config", None)
    depth, width = getattr(vision, "depth", None), getattr(vision, "embed_dim", getattr(vision, "hidden_size", None))
    grids = [value for name, value in inputs.items() if name.endswith("grid_thw")]
    if not grids or not depth or not width:
        return None, f"the vision tower is not counted: it does not run without weights ({reason})"
    language = {id(weight) for weight in bridge.decoder(model).parameters()}
    if (head := model.get_output_embeddings()) is not None:
        language.add(id(head.weight))
    own = {name: weight.numel() for name, weight in model.named_parameters() if id(weight) not in language}
    per_patch = sum(count for name, count in own.items() if ".blocks." in name or "patch_embed" in name)
    per_token = (sum(own.values()) - per_patch) / getattr(vision, "spatial_merge_size", 1) ** 2
    patches = [int(grid.prod()) for grid in grids[0]]
    flops = sum(2 * (per_patch + per_token) * count + 4 * depth * width * count**2 for count in patches)
    return int(flops), (
        "the vision tower is estimated, as it does not run without weights: two FLOP per parameter and patch, and "
        "attention over a whole frame"
    )


def _measured(plan: WrapPlan, dtype: torch.dtype, processor: LinVTProcessor) -> dict[str, float]:
    """Seconds on this machine: preprocessing as it takes, the rest as long as its matrix products would."""
    count = min(plan.num_frames, _MEASURED_FRAMES)
    began = time.perf_counter()
    _inputs_of_frames(processor, plan, count)
    found = {"preprocessing": (time.perf_counter() - began) * plan.num_frames / count}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(_MEASURED_WIDTH, _MEASURED_WIDTH, dtype=dtype, device=device)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the device
        times.append(time.perf_counter() - began)
    rate = 2 * _MEASURED_WIDTH**3 / min(times)
    for name, flops in (
        ("vision tower", plan.vision_flops), ("LinVT", plan.linvt_flops), ("prefill", plan.prefill_flops),
    ):  # fmt: skip
        if flops is not None:
            found[name] = flops / rate
    return found


def check_wrap(
    base: str,
    dtype: torch.dtype | str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    **fields: Any,
) -> tuple[LinVTConfig, PreTrainedModel, LinVTProcessor]:
    """
    Refuse what cannot be wrapped, before its weights are read; arguments and errors are those of [`plan_wrap`].

    Returns:
        The config of the LinVT model, the base without weights, and the processor of both.
    """
    for name in fields:
        if name not in _FIELDS:
            raise LinVTInputError(f"{name!r} is no field of LinVTConfig. {advice(name, _FIELDS)}")
    if dtype != "auto" and not isinstance(dtype if isinstance(dtype, torch.dtype) else _dtype(dtype), torch.dtype):
        raise LinVTInputError(f"dtype={dtype!r} is no precision: give 'auto', 'bfloat16', 'float16' or 'float32'.")
    _linvt_config(fields)  # refuses bad numbers before anything is downloaded
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    bridge_at(base, hub)  # refuses a layout that has to be converted first
    base_config = _read_config(base, hub)
    if dtype == "auto":
        dtype = getattr(base_config, "dtype", None) or torch.float32
    model = _model_without_weights(base, base_config, dtype)
    if fields.get("video_positions") == "grid":
        check_grid_positions(model)
    shared = {name: fields[name] for name in ("num_video_tokens", "frame_path") if name in fields}
    processor = LinVTProcessor.from_base(base, **shared, **hub)
    fields = {**fields, "num_video_tokens": processor.num_video_tokens, "frame_path": processor.frame_path}
    config = _linvt_config({**fields, "base_config": base_config})
    placeholder = processor.bridge.image_token_id(config.base_config)
    if processor.markers.token_id != placeholder:
        raise LinVTInputError(
            f"The processor and the config of {base!r} disagree: to the processor the image token "
            f"{processor.markers.token!r} is {processor.markers.token_id}, to the config ({base_config.model_type}) "
            f"it is {placeholder}. One of them is of another base, or was edited: download or save both again."
        )
    processor.check_fits(config)
    return config, model, processor


def _check_video(num_frames: Any, frame_size: Any) -> None:
    if not isinstance(frame_size, list | tuple) or len(frame_size) != 2:
        raise LinVTInputError(f"frame_size={frame_size!r} must be height and width in pixels, such as (360, 640).")
    for name, value in (("num_frames", num_frames), ("height", frame_size[0]), ("width", frame_size[1])):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LinVTInputError(f"{name}={value!r} must be a whole number of 1 or more.")
    most = VideoLimits().max_pixels
    if most is not None and math.prod(frame_size) > most:  # larger ones are not read from a video either
        raise LinVTInputError(
            f"frame_size={tuple(frame_size)} is {math.prod(frame_size):,} pixels; a frame may have {most:,} (4096 x "
            "2304). Give height and width of your videos, such as (360, 640)."
        )


def _dtype(name: Any) -> Any:
    return getattr(torch, name, None) if isinstance(name, str) else None


def _linvt_config(fields: dict[str, Any]) -> LinVTConfig:
    try:
        return LinVTConfig(**fields)
    except StrictDataclassError as error:
        raise LinVTInputError(f"A field of LinVTConfig has a value it cannot have: {error}") from error


def _read_config(base: str, hub: dict[str, Any]) -> Any:
    check_folder(base)
    try:
        config = AutoConfig.from_pretrained(base, **hub)
    except OSError as error:
        raise CheckpointError(
            f"The base model {base!r} could not be loaded: {error} "
            + ("Download it again." if os.path.exists(base) else "Check the name, and the network or HF_HUB_OFFLINE.")
        ) from error
    except StrictDataclassError as error:
        raise CheckpointError(f"The config of {base!r} has a value it cannot have: {error}") from error
    except ValueError as error:
        if "trust_remote_code" in str(error):  # its own message names the option
            raise UnsupportedBaseError(
                f"{base!r} is no model that transformers knows: {error} LinVT needs an image-text model, such as a "
                "Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
            ) from error
        raise UnsupportedBaseError(no_known_architecture(base, error)) from error
    except (AttributeError, KeyError, TypeError) as error:  # JSON, and not that of a config
        raise CheckpointError(
            f"The config.json of {base!r} is not one of a model ({type(error).__name__}: {error}). Download it again."
        ) from error
    return image_text_config(config)


def _model_without_weights(base: str, config: Any, dtype: torch.dtype | str) -> PreTrainedModel:
    """The base on the meta device: shapes, no memory."""
    try:
        with torch.device("meta"):
            # The other ways to run experts choose them by value, and there are no values here.
            experts = {"experts_implementation": "batched_mm"} if _has_experts(config) else {}
            model = bridge_of(config.model_type).build(config, dtype=dtype, **experts)
    except ImportError as error:
        raise UnsupportedBaseError(f"The base {base!r} needs a package: {error}") from error
    except ValueError as error:
        raise UnsupportedBaseError(
            f"{base!r} ({config.model_type}) is no image-text model of transformers. LinVT needs one that "
            "AutoModelForImageTextToText can load, such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
        ) from error
    bridge_of(config.model_type).check(model)
    return model


def _has_experts(config: Any) -> bool:
    text = config.get_text_config()
    return any("expert" in name and isinstance(value, int) and value > 1 for name, value in vars(text).items())


def _cost_of_tokens(model: PreTrainedModel, num_tokens: int) -> tuple[int | None, int | None]:
    """FLOPs of the language model's layers over so many tokens, and bytes of the keys and values it keeps of them."""
    bridge = bridge_of(model.config.model_type)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = bridge.run_over_tokens(model, num_tokens)
    except Exception as error:  # some layers look at values, which are not there; each says so in its own way
        logger.info(f"The cost of {type(bridge.decoder(model)).__name__} cannot be counted without weights: {error}")
        return None, None
    return counter.get_total_flops(), _bytes_of(getattr(output, CACHE_NAME, None))


def _bytes_of(cache: Any) -> int | None:
    """Bytes of the tensors in a cache, whatever kinds of layers it has."""
    if cache is None:
        return None
    tensors = [value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _notes(plan: WrapPlan, config: LinVTConfig, model: PreTrainedModel) -> list[str]:
    notes = list(bridge_of(plan.architecture).family.notes)
    if plan.tokens_per_frame > plan.num_video_tokens:
        kind = "frame" if plan.frames_per_step == 1 else "step"
        notes.append(
            f"one {kind} is {plan.tokens_per_frame} tokens, more than the {plan.num_video_tokens} video tokens: not "
            "even a picture fits without loss"
        )
    if plan.num_steps > config.max_frames:
        kind = "frames" if plan.frames_per_step == 1 else f"steps of {plan.frames_per_step} frames"
        notes.append(f"{plan.num_steps} {kind} are more than max_frames={config.max_frames}: raise it")
    if (quantised := getattr(model.config, "quantization_config", None)) is not None:
        settings = quantised if isinstance(quantised, dict) else vars(quantised)
        notes.append(
            f"the base is quantised ({settings.get('quant_method', 'in some way')}): the bytes of its weights are not "
            "counted here, and loading it needs the package of that method"
        )
    limit = context_length(model)
    if limit is not None and bridge_of(plan.architecture).places_of_video(plan.num_video_tokens) >= limit:
        notes.append(f"{plan.num_video_tokens} video tokens do not fit into the {limit} positions of the base")
    if plan.prefill_flops is None:
        notes.append(
            "prefill and KV cache are not counted: the language model looks at values, and there are no weights"
        )
    if limit is not None and plan.frame_tokens_before >= limit:
        notes.append(f"without LinVT the frames would not fit into the {limit} positions of the base")
    if plan.frame_tokens <= plan.num_video_tokens:
        notes.append(
            f"{plan.frame_tokens} frame tokens are no more than {plan.num_video_tokens} video tokens: ask for fewer"
        )
    return notes


__all__ = ["WrapPlan", "plan_wrap"]
