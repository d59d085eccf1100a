"""
The seam to the base model: check it, encode frames with it, hand video tokens to it.

Everything that differs between families of image-text models is in this file, as data where it can be data. The base
is never subclassed, copied or patched: transformers lets every head accept visual tokens that were encoded before
(`mm_encoder_outputs`, in `forward` and in `generate`), and that is the only door used.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from .significance import infer_grid_size


FRAME_PREFIX = "frame_"  # the base's picture inputs come twice: as they are for pictures, with this prefix for frames


@dataclass(frozen=True)
class Family:
    """How one architecture differs from the others. The defaults fit most of them."""

    # Options of the image processor that make one frame one tile (a split frame would be N tokens several times over).
    one_tile: Mapping[str, Any] = field(default_factory=dict)
    # How the image processor wants the frames of one video: a flat list, `[[f] for f in frames]` or `[frames]`.
    nesting: Literal["flat", "per_frame", "per_video"] = "flat"
    # Fewest frames that one call of the vision tower treats as one tile each.
    min_frames_per_call: int = 1
    # How picture inputs lie along their first axis: a row per frame, patches of a grid, or Molmo2's crops and pools.
    layout: Literal["frame", "grid", "molmo2"] = "frame"
    # Type id at video placeholders. Families with multimodal rotary positions take 0: without a picture grid their
    # positions are those of text, one after the other.
    video_type_id: int = 1
    # Whether the base's processor begins every prompt with the first special token itself.
    begins_with_bos: bool = False
    # What else it writes itself: behind the last picture, and at the end of what the user says. A special token is
    # meant by its name ("bos_token").
    behind_visuals: str = ""
    ends_with: str = ""
    # What type ids of 1 mark: the visual tokens, or the answer, with 0 for a prompt whose tokens all see each other.
    type_ids: Literal["visuals", "answer"] = "visuals"
    # For a base whose checkpoints come without a chat template.
    chat_template: str | None = None


# What the frames of each layout cannot do without.
_NEEDED = {
    "frame": ("pixel_values",),
    "grid": ("pixel_values", "image_grid_thw"),
    "molmo2": ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops"),
}

_MROPE = {"layout": "grid", "video_type_id": 0}


def _turns(behind_question: str, behind_answer: str) -> str:
    """
    A chat template without roles: pictures, then text, and what closes a question (but the last) and an answer.

    The last question is closed by the base's processor.
    """
    return (
        "{%- for message in messages %}"
        "{%- if message.content is string %}{{ message.content }}{%- else %}"
        "{%- for part in message.content if part.type == 'image' %}<image>{%- endfor %}"
        "{%- for part in message.content if part.type == 'text' %}{{ part.text }}{%- endfor %}{%- endif %}"
        f"{{%- if message.role == 'assistant' %}}{{{{ {behind_answer} }}}}"
        f"{{%- elif not loop.last %}}{{{{ {behind_question} }}}}{{%- endif %}}"
        "{%- endfor %}"
    )


FAMILIES: dict[str, Family] = {
    "gemma3": Family(one_tile={"do_pan_and_scan": False}),
    "idefics2": Family(one_tile={"do_image_splitting": False}, nesting="per_frame"),
    "idefics3": Family(one_tile={"do_image_splitting": False}, nesting="per_frame"),
    "internvl": Family(one_tile={"crop_to_patches": False}),
    "llava_onevision": Family(nesting="per_video", min_frames_per_call=2),
    "molmo2": Family(one_tile={"max_crops": 1}, layout="molmo2", begins_with_bos=True),
    "qwen2_5_vl": Family(**_MROPE),
    "qwen2_vl": Family(**_MROPE),
    "qwen3_vl": Family(**_MROPE),
    "qwen3_vl_moe": Family(**_MROPE),
    "smolvlm": Family(one_tile={"do_image_splitting": False}, nesting="per_frame"),
    # Gemma and neighbours
    "aria": Family(one_tile={"split_image": False}),
    "chameleon": Family(ends_with="sep_token", chat_template=_turns("sep_token", "sep_token")),
    # Told where the channels are, its image processor looks for the size of a picture in the wrong place (5.23).
    "emu3": Family(one_tile={"input_data_format": None}, begins_with_bos=True),
    "ovis2": Family(one_tile={"crop_to_patches": False}),
    "paligemma": Family(
        behind_visuals="bos_token", ends_with="\n", type_ids="answer", chat_template=_turns("'\\n'", "eos_token")
    ),
}

# Architectures that have every attribute asked for below and still cannot work, with the reason.
DENIED = {
    "blip-2": "its generate() reads pixel_values even when the tokens are given",
    "instructblip": "its generate() reads pixel_values even when the tokens are given",
    "diffusion_gemma": "it writes blocks of text by diffusion, and has no loss for the next token to train LinVT with",
    "fuyu": "it has no projector between image patches and language model",
    "llama4": "its image features are taken before the projector",
    "shieldgemma2": "it sorts pictures by policies: its processor asks questions of its own, not the user's",
}


def family_of(model_type: str) -> Family:
    """The traits of an architecture, by `config.model_type`; the common ones when it is not listed."""
    return FAMILIES.get(model_type, Family())


# ---------------------------------------------------------------------------------------------------------------------
# Loading and checking
# ---------------------------------------------------------------------------------------------------------------------


def load_base(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """
    Load a base model by repository id or folder; `kwargs` go to `AutoModelForImageTextToText.from_pretrained`.

    Raises:
        CheckpointError: nothing loadable at `name_or_path`, or damaged weights.
        UnsupportedBaseError: something is there, but no image-text model.
    """
    try:
        return AutoModelForImageTextToText.from_pretrained(name_or_path, **kwargs)
    except OSError as error:
        raise CheckpointError(
            f"The base model {name_or_path!r} could not be loaded: {error} Check the name, the network or "
            "HF_HUB_OFFLINE, and that the revision still exists; a model saved with include_base=True needs no base."
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of the base model {name_or_path!r} are damaged: {error}. Download or save it again."
        ) from error
    except ValueError as error:
        if "Unrecognized configuration class" in str(error) or "Unrecognized model" in str(error):
            raise UnsupportedBaseError(
                f"{name_or_path!r} is no image-text model of transformers. LinVT needs one that "
                "AutoModelForImageTextToText can load, such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
            ) from error
        raise


def check_base(base: nn.Module) -> None:
    """
    Refuse a base that cannot take video tokens.

    Raises:
        UnsupportedBaseError: with the reason and what would work.
    """
    config = getattr(base, "config", None)
    model_type = getattr(config, "model_type", type(base).__name__)
    advice = (
        "A model whose forward() accepts `mm_encoder_outputs` works: Qwen2-VL, InternVL, LLaVA, SmolVLM, Gemma 3 ..."
    )
    if not isinstance(base, PreTrainedModel):
        raise UnsupportedBaseError(f"The base must be a transformers model, not {type(base).__name__}. {advice}")
    if model_type == "linvt":
        raise UnsupportedBaseError("The base is a LinVT model already. Load it with from_pretrained instead.")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedBaseError(
            f"{model_type} is an encoder-decoder: its language model has no placeholders for visual tokens. {advice}"
        )
    if model_type in DENIED:
        raise UnsupportedBaseError(f"{model_type} is not supported: {DENIED[model_type]}. {advice}")
    if "mm_encoder_outputs" not in inspect.signature(base.forward).parameters:
        raise UnsupportedBaseError(
            f"{model_type} ({type(base).__name__}) does not accept encoded visual tokens. {advice}"
        )
    if base.get_output_embeddings() is None:
        raise UnsupportedBaseError(
            f"{type(base).__name__} has no language head. Load it with AutoModelForImageTextToText. {advice}"
        )
    if _image_encoder(base) is None:
        raise UnsupportedBaseError(f"{model_type} has no get_image_features(), so frames cannot be encoded. {advice}")
    if not isinstance(getattr(config, "image_token_id", None), int):
        raise UnsupportedBaseError(
            f"{model_type}: config.image_token_id is {getattr(config, 'image_token_id', None)!r}, not a token id, so "
            "there is no placeholder for video tokens. Set it to the id of the tokenizer's image token."
        )


def _image_encoder(base: PreTrainedModel) -> Any:
    """`get_image_features` of the backbone, or of the head where only that has it."""
    for module in (base.base_model, base):
        if callable(encoder := getattr(module, "get_image_features", None)):
            return encoder
    return None


def visual_width(base: PreTrainedModel) -> int:
    """D, the width of the visual tokens, which is that of the language model."""
    return base.config.get_text_config().hidden_size


def context_length(base: PreTrainedModel) -> int | None:
    """Most tokens the language model has positions for; None where its config does not say."""
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


Fingerprint = tuple[torch.Size, torch.dtype, int]


def fingerprint_weights(base: nn.Module) -> dict[str, Fingerprint]:
    """
    Shape, precision and a sum over the bits of every weight of a base, to tell later whether it is still the same.

    Weights that are not plain floating-point tensors in memory (quantised, sharded, on the meta device) are left out.
    A layer with a LoRA adapter on it counts under the name it has without.
    """
    prints = {}
    for name, weight in base.named_parameters():
        if type(weight) is nn.Parameter and weight.is_floating_point() and not weight.is_meta:
            prints[name.replace(".base_layer.", ".")] = weight.shape, weight.dtype, _sum_of_bits(weight.detach())
    return prints


def _sum_of_bits(weight: torch.Tensor) -> int:
    # Eight bytes at a time: a hundred times faster on a CPU than number by number, and this reads the whole base.
    weight = weight.contiguous().reshape(-1)
    if weight.storage_offset() * weight.element_size() % 8:
        weight = weight.clone()
    data = weight.view(torch.uint8)
    whole = len(data) - len(data) % 8
    return int(data[:whole].view(torch.int64).sum()) + int(data[whole:].sum())


def changed_weights(base: nn.Module, before: Mapping[str, Fingerprint]) -> list[str]:
    """Names of the weights that differ from earlier fingerprints; those of another precision now are not compared."""
    changed, now = [], fingerprint_weights(base)
    for name in before.keys() & now.keys():
        (shape, dtype, bits), (shape_now, dtype_now, bits_now) = before[name], now[name]
        if shape != shape_now or (dtype == dtype_now and bits != bits_now):
            changed.append(name)
    return sorted(changed)


# ---------------------------------------------------------------------------------------------------------------------
# Frames -> frame tokens
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class EncodedFrames:
    """
    Visual tokens of the frames of one video, as the language model would get them.

    Attributes:
        tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, D)`).
        deepstack (`list` of such tensors):
            Tokens that the base adds in deeper layers (Qwen3-VL), one entry per layer; empty for other families.
        grid_size (`tuple[int, int]`):
            Rows and columns of a frame's tokens: from the base where it says so, else the nearest square.
        container (`str`):
            `"tensor"`, `"list"` or `"tuple"`: how the base packs the tokens of several pictures.
    """

    tokens: torch.Tensor
    deepstack: list[torch.Tensor]
    grid_size: tuple[int, int]
    container: str


def encoder_inputs(base: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `inputs` that the base's image encoder takes."""
    accepted = inspect.signature(_image_encoder(base)).parameters
    return {name: value for name, value in inputs.items() if name in accepted and value is not None}


def encode_frames(
    base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_frames: int, frames_per_chunk: int
) -> EncodedFrames:
    """
    Run the frames of one video through the base's vision tower and projector.

    Args:
        base: the base model.
        inputs: what the base's image processor made of the frames, under the base's own names.
        num_frames: frames in `inputs`.
        frames_per_chunk: frames encoded at once; bounds the memory of the vision tower whatever the video's length.

    Raises:
        LinVTInputError: the encoder returned a number of tokens that does not divide among the frames.
    """
    family = family_of(base.config.model_type)
    rows = _rows_per_frame(family, inputs, num_frames)
    tokens, deepstack, container = [], [], "tensor"
    for start in range(0, num_frames, frames_per_chunk):
        stop = min(start + frames_per_chunk, num_frames)
        chunk = _slice_frames(family, inputs, rows, start, stop)
        output = _image_encoder(base)(**encoder_inputs(base, chunk), return_dict=True)
        features, container = output.pooler_output, _container_of(output.pooler_output)
        encoded = max(stop - start, family.min_frames_per_call)
        tokens.append(_by_frame(features, encoded)[: stop - start])
        deepstack.append(
            [_by_frame(layer, encoded)[: stop - start] for layer in getattr(output, "deepstack_features", None) or []]
        )
    all_tokens = torch.cat(tokens)
    return EncodedFrames(
        tokens=all_tokens,
        deepstack=[torch.cat(layers) for layers in zip(*deepstack, strict=True)],
        grid_size=_grid_size(inputs, all_tokens.shape[1]) or infer_grid_size(all_tokens.shape[1]),
        container=container,
    )


def split_videos(
    base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], frames_per_video: Sequence[int]
) -> list[dict[str, torch.Tensor]]:
    """Frames of several videos, one after the other in every tensor -> one dictionary per video."""
    family = family_of(base.config.model_type)
    rows = _rows_per_frame(family, inputs, sum(frames_per_video))
    videos, start = [], 0
    for num_frames in frames_per_video:
        video = {}
        for name, value in inputs.items():
            if name == "batch_num_images":
                continue
            first, last = sum(rows[name][:start]), sum(rows[name][: start + num_frames])
            video[name] = value[first:last]
        videos.append(video)
        start += num_frames
    return videos


def _rows_per_frame(family: Family, inputs: Mapping[str, torch.Tensor], num_frames: int) -> dict[str, list[int]]:
    """For every input, how many rows of its first axis belong to each frame."""
    if missing := [FRAME_PREFIX + name for name in _NEEDED[family.layout] if inputs.get(name) is None]:
        raise LinVTInputError(
            f"The frames of the video are incomplete: {', '.join(missing)} missing, got "
            f"{', '.join(FRAME_PREFIX + name for name in inputs) or 'none'}. Use the processor of this base, and pass "
            "everything it returned."
        )
    rows = {name: [1] * num_frames for name in inputs if name != "batch_num_images"}
    if family.layout == "grid":
        rows["pixel_values"] = inputs["image_grid_thw"].prod(-1).tolist()
    elif family.layout == "molmo2":
        grids = inputs["image_grids"]
        rows["pixel_values"] = inputs["image_num_crops"].tolist()
        rows["image_token_pooling"] = (grids[:, 0] * grids[:, 1] + grids[:, 2] * grids[:, 3]).tolist()
    for name, counts in rows.items():
        if len(counts) != num_frames or sum(counts) != len(inputs[name]):
            raise LinVTInputError(
                f"{FRAME_PREFIX}{name} has {len(inputs[name])} rows, which do not fit {num_frames} frames. Pass the "
                "frames through LinVTProcessor, and frames_per_video unchanged."
            )
    return rows


def _slice_frames(
    family: Family, inputs: Mapping[str, torch.Tensor], rows: Mapping[str, list[int]], start: int, stop: int
) -> dict[str, torch.Tensor]:
    """The inputs of frames `start` to `stop` of one video."""
    chunk = {}
    for name, counts in rows.items():
        first, last = sum(counts[:start]), sum(counts[:stop])
        chunk[name] = inputs[name][first:last]
    if family.layout == "molmo2":  # pooling indices count patches from the first frame of the video
        patches = inputs["pixel_values"].shape[1] * sum(rows["pixel_values"][:start])
        pooling = chunk["image_token_pooling"]
        chunk["image_token_pooling"] = torch.where(pooling >= 0, pooling - patches, pooling)
    if family.nesting == "per_video":  # several pictures of one sample: one tile each; a lone one would be split
        if stop - start < family.min_frames_per_call:
            repeats = family.min_frames_per_call - (stop - start)
            chunk = {
                name: torch.cat([value, value[-1:].expand(repeats, *value.shape[1:])]) for name, value in chunk.items()
            }
        chunk["batch_num_images"] = torch.tensor([max(stop - start, family.min_frames_per_call)])
    return chunk


def _by_frame(features: Any, num_frames: int) -> torch.Tensor:
    """Visual features of `num_frames` frames, however packed -> `(num_frames, tokens_per_frame, D)`."""
    rows = _flat(features)
    if len(rows) % num_frames:
        raise LinVTInputError(
            f"The base made {len(rows)} visual tokens of {num_frames} frames, which is no whole number per frame: the "
            "frames of one video must have one size and be one tile each. Pass them through LinVTProcessor."
        )
    return rows.reshape(num_frames, -1, rows.shape[-1])


def _grid_size(inputs: Mapping[str, torch.Tensor], tokens_per_frame: int) -> tuple[int, int] | None:
    if (positions := inputs.get("image_position_ids")) is not None:  # (x, y) of every patch; -1 is padding (Gemma 4)
        columns, rows = (positions[0].amax(0) + 1).tolist()
    elif (grid := inputs.get("image_grid_thw")) is not None:
        rows, columns = int(grid[0, 1]), int(grid[0, 2])
    else:
        return None
    # Families name the side of the patches that become one token in ways of their own, so it is read off the numbers.
    merge = max(1, math.isqrt(rows * columns // tokens_per_frame))
    return rows // merge, columns // merge


# ---------------------------------------------------------------------------------------------------------------------
# Video tokens -> language model
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class EncodedVisuals(BaseModelOutputWithPooling):
    """What the base finds in `mm_encoder_outputs["image"]`: tokens in placeholder order, in its own container."""

    deepstack_features: list | None = None
    visual_indicator_features: torch.Tensor | None = None


def pack_visuals(
    tokens: torch.Tensor, deepstack: Sequence[torch.Tensor], lengths: Sequence[int], container: str
) -> EncodedVisuals:
    """
    Visual tokens of a batch, in placeholder order -> the base's container.

    Args:
        tokens (`torch.Tensor` of shape `(total, D)`).
        deepstack: tensors of the same shape, one per deep layer.
        lengths: tokens of each group; a row of the batch holds whole groups. Their sum is `total`.
        container: `"tensor"`, `"list"` or `"tuple"`.
    """
    if container == "tensor":
        # One tensor needs groups of one size; beam search repeats whole groups, so they may not cross rows.
        return EncodedVisuals(pooler_output=tokens.reshape(-1, math.gcd(*lengths), tokens.shape[-1]))
    pack = tuple if container == "tuple" else list
    return EncodedVisuals(
        pooler_output=pack(tokens.split(list(lengths))),
        deepstack_features=[pack(layer.split(list(lengths))) for layer in deepstack] or None,
    )


def encode_pictures(base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor], str]:
    """Pictures beside a video -> their tokens `(total, D)`, the same per deep layer, and the base's container."""
    output = _image_encoder(base)(**encoder_inputs(base, inputs), return_dict=True)
    deepstack = getattr(output, "deepstack_features", None) or []
    return _flat(output.pooler_output), [_flat(layer) for layer in deepstack], _container_of(output.pooler_output)


def _container_of(features: Any) -> str:
    return type(features).__name__ if isinstance(features, list | tuple) else "tensor"


def _flat(features: Any) -> torch.Tensor:
    if isinstance(features, list | tuple):
        features = torch.cat(list(features))
    return features.reshape(-1, features.shape[-1])


def visual_indicators(base: PreTrainedModel) -> torch.Tensor | None:
    """What stands at the markers around a picture, where the image encoder says it (Ovis2): `(markers, D)`."""
    table = getattr(base.base_model, "visual_embeddings_table", None)
    if table is None:
        return None
    # The same for every picture, and not kept with encoded videos: the last rows of a table of visual words.
    first = table.num_embeddings - base.config.vision_config.num_visual_indicator_tokens
    return table(torch.arange(first, table.num_embeddings, device=table.weight.device))


def forget_positions(base: PreTrainedModel) -> None:
    """
    Drop the position offset that a family with multimodal rotary positions keeps from an earlier picture.

    Without a picture grid these families do not recompute it, and the next cached step would use the stale one.
    """
    if getattr(base.base_model, "rope_deltas", None) is not None:
        base.base_model.rope_deltas = None
