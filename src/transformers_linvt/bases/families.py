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
from fractions import Fraction
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from ..tokenizer.places import infer_grid_size


FRAME_PREFIX = "frame_"  # the base's picture inputs come twice: as they are for pictures, with this prefix for frames
PICTURES = {"pixel_values", "pixel_values_images"}  # names of the pictures themselves; the second is Video-LLaVA's


@dataclass(frozen=True)
class Family:
    """How one architecture differs from the others. The defaults fit most of them."""

    # Options of the image processor that make one frame one tile (a split frame would be N tokens several times over).
    one_tile: Mapping[str, Any] = field(default_factory=dict)
    # Its outputs to fill with a number, or to drop (None), where no option keeps it from splitting a frame.
    one_tile_outputs: Mapping[str, int | None] = field(default_factory=dict)
    # Attribute of the processor with the tokens of a frame, where it writes those of all tiles whatever the options.
    tokens_attribute: str | None = None
    # How the image processor wants the frames of one video: a flat list, `[[f] for f in frames]` or `[frames]`.
    nesting: Literal["flat", "per_frame", "per_video"] = "flat"
    # Whether the base's processor takes pictures as one list per prompt; GOT-OCR means the pages of a document by it.
    takes_nested_pictures: bool = True
    # Fewest frames that one call of the vision tower treats as one tile each.
    min_frames_per_call: int = 1
    # How picture inputs lie along their first axis: a row per frame, patches of a grid, or Molmo2's crops and pools.
    # "tiles" is a row per frame as well, for families that always split: frames take the places of a picture's tiles.
    layout: Literal["frame", "grid", "molmo2", "tiles"] = "frame"
    # The input that says how many rows and columns of patches a picture has, as its last two numbers.
    grid: str = "image_grid_thw"
    # Whether the base's processor, and not its image processor, knows the `patch_size` that becomes one token.
    fits_whole_tokens: bool = False
    # Whether pixel_values holds all patches side by side, as one strip of pixels, instead of one patch per row.
    is_strip: bool = False
    # How a row of patches holds the frames that the base's own video path merges: by colour and then by frame, or by
    # frame first. Families that have no such path, or one that is another tower or pooling, have nothing here.
    merges_frames: Literal["colour_first", "frame_first"] | None = None
    # Type id at video placeholders. Families with multimodal rotary positions take 0: without a picture grid their
    # positions are those of text, one after the other.
    video_type_id: int = 1
    # Further type ids of the base, made by its processor's `create_...`; a video has those of a picture there.
    further_type_ids: tuple[str, ...] = ()
    # Whether forward() counts padding in front of a prompt as positions, and they count for themselves and not only
    # between two tokens: so it is with norms behind the rotation.
    counts_padding: bool = False
    # Whether everything at picture placeholders is placed by a grid, whatever the type ids say: a video needs one too.
    video_has_grid: bool = False
    # Whether the base's processor begins every prompt with the first special token itself.
    begins_with_bos: bool = False
    # What a user should know before wrapping it.
    notes: tuple[str, ...] = ()
    # What else it writes itself: behind the last picture, and at the end of what the user says. A special token is
    # meant by its name ("bos_token").
    behind_visuals: str = ""
    ends_with: str = ""
    # Whether the base's processor puts pictures in front of a prompt, and its template writes no place for them.
    prepends_visuals: bool = False
    # What type ids of 1 mark: the visual tokens, or the answer, with 0 for a prompt whose tokens all see each other.
    type_ids: Literal["visuals", "answer"] = "visuals"
    # For a base whose checkpoints come without a chat template.
    chat_template: str | None = None


# What the frames of each layout cannot do without.
_NEEDED = {
    "frame": ("pixel_values",),
    "grid": ("pixel_values",),  # and the family's grid
    "molmo2": ("pixel_values", "image_token_pooling", "image_grids", "image_num_crops"),
    "tiles": ("pixel_values", "image_sizes"),
}

_GRID = {"layout": "grid", "merges_frames": "colour_first"}
_MROPE = {"layout": "grid", "video_type_id": 0}
_MROPE_MERGING = {**_MROPE, **_GRID}
# These number the pictures of a prompt; a video is none of them.
_MINICPM = {
    "one_tile": {"max_slice_nums": 1, "use_image_id": False},
    "layout": "grid",
    "grid": "target_sizes",
    "is_strip": True,
}


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
    "idefics2": Family(one_tile={"do_image_splitting": False}, tokens_attribute="image_seq_len", nesting="per_frame"),
    "idefics3": Family(one_tile={"do_image_splitting": False}, nesting="per_frame"),
    "internvl": Family(one_tile={"crop_to_patches": False}),
    "llava_onevision": Family(nesting="per_video", min_frames_per_call=2),
    "molmo2": Family(one_tile={"max_crops": 1}, layout="molmo2", begins_with_bos=True),
    "qwen2_5_vl": Family(**_MROPE_MERGING),
    "qwen2_vl": Family(**_MROPE_MERGING),
    "qwen3_vl": Family(**_MROPE_MERGING),
    "qwen3_vl_moe": Family(**_MROPE_MERGING),
    "smolvlm": Family(one_tile={"do_image_splitting": False}, nesting="per_frame"),
    # GLM-V and others with patches of a grid
    "ernie4_5_vl_moe": Family(
        **_MROPE,
        further_type_ids=("moe_mm_token_type_ids",),
        notes=("generate() fails with use_cache=False, with and without LinVT",),
    ),
    "glm46v": Family(**_MROPE_MERGING),
    "glm4v": Family(**_MROPE_MERGING),
    "glm4v_moe": Family(**_MROPE_MERGING),
    "glm5_next": Family(**_GRID),
    "glm_ocr": Family(**_MROPE_MERGING),
    "glmga": Family(**_MROPE_MERGING),
    "hunyuan_vl": Family(**_MROPE, counts_padding=True),
    "kimi_k25": Family(layout="grid"),
    "minimax_m3_vl": Family(
        layout="grid",
        notes=(
            "transformers answers a prompt of more than 128 tokens otherwise where it is padded on the left: generate "
            "for one prompt at a time",
        ),
    ),
    "paddleocr_vl": Family(**_MROPE),
    # A frame that is much wider than high is split; its global view alone is all of it.
    "step3p7": Family(
        one_tile_outputs={"num_local_patches": 0, "pixel_values_local": None, "patch_newline_masks": None}
    ),
    "video_llama_3": Family(layout="grid"),
    # LLaVA and its relatives, Mistral, Granite, Cohere
    "aya_vision": Family(one_tile={"crop_to_patches": False}),
    "cohere2_vision": Family(one_tile={"crop_to_patches": False}),
    "granite4_vision": Family(layout="tiles"),
    "llava": Family(grid="image_sizes"),  # Pixtral is one of them
    "llava_next": Family(layout="tiles"),
    "llava_next_video": Family(layout="tiles"),
    "lighton_ocr": Family(grid="image_sizes"),
    "mistral3": Family(grid="image_sizes", fits_whole_tokens=True),
    # its attention scales by the logarithm of the position
    "mistral_large4": Family(grid="image_sizes", fits_whole_tokens=True, counts_padding=True),
    "granite_docling": Family(one_tile={"crop_to_patches": False}, nesting="per_frame"),
    "perception_lm": Family(one_tile={"vision_input_type": "vanilla"}),
    "video_llava": Family(one_tile={"return_legacy_image_output": False}),  # the model's own name for the pixels
    # Gemma and neighbours
    "aria": Family(one_tile={"split_image": False}),
    "chameleon": Family(ends_with="sep_token", chat_template=_turns("sep_token", "sep_token")),
    # Told where the channels are, its image processor looks for the size of a picture in the wrong place (5.23).
    "emu3": Family(one_tile={"input_data_format": None}, begins_with_bos=True),
    "ovis2": Family(one_tile={"crop_to_patches": False}),
    "paligemma": Family(
        behind_visuals="bos_token", ends_with="\n", type_ids="answer", chat_template=_turns("'\\n'", "eos_token")
    ),
    # Readers of documents and their kin
    "deepseek_ocr2": Family(
        one_tile={"crop_to_patches": False},
        notes=("a frame has fewer tokens than said before it is run: its processor counts those of a larger picture",),
    ),
    "got_ocr2": Family(one_tile={"crop_to_patches": False}, takes_nested_pictures=False),
    "inkling2": Family(layout="grid"),
    "inkling_mm_model": Family(layout="grid", grid="num_patches"),
    "lfm2_vl": Family(one_tile={"do_image_splitting": False}, grid="spatial_shapes"),
    "minicpm_ocr": Family(**_MINICPM),
    "minicpmv4_6": Family(**_MINICPM),
    "minicpmv4_7": Family(**_MINICPM, video_type_id=0),
    "qianfan_ocr": Family(one_tile={"crop_to_patches": False}),
    "unlimited_ocr": Family(one_tile={"crop_to_patches": False}),
    # others
    "muse_glimmer": Family(layout="grid", merges_frames="frame_first"),
    "muse_spark": Family(layout="grid", merges_frames="frame_first"),
    "nemotron_h_omni": Family(layout="grid", grid="image_grid_hw"),
    # Qwen after Qwen3-VL, and the families that take their pictures the same way
    "cohere_compass": Family(**_MROPE_MERGING),
    "cosmos3_edge": Family(**_MROPE),
    "cosmos3_omni": Family(**_MROPE_MERGING),
    "dots3_note": Family(layout="grid"),
    "exaone4_5": Family(**_GRID),
    "hyperclovax_vision_v2": Family(**_GRID),
    "lfm3_vl": Family(**_GRID),
    "qwen2_5_omni_thinker": Family(**_GRID, video_has_grid=True),
    "qwen3_5": Family(**_MROPE_MERGING),
    "qwen3_5_moe": Family(**_MROPE_MERGING),
    "qwen3_omni_moe_thinker": Family(**_GRID, video_has_grid=True),
    "qwen4_exp": Family(**_MROPE_MERGING),
}

# Architectures that AutoModelForImageTextToText can load and that cannot work, with the reason.
_ENCODER_DECODER = "it is an encoder-decoder: its language model has no placeholders for visual tokens"
_CROSS_ATTENTION = "it sees pictures through cross-attention: they have no tokens among those of its text"
_THINKER = "it is a thinker and a voice; give its name, or the thinker alone (model.thinker)"
DENIED = {
    "blip": _CROSS_ATTENTION,
    "diffusion_gemma": "it writes blocks of text by diffusion, and has no loss for the next token to train LinVT with",
    "evolla": "it reads proteins and no pictures",
    "florence2": _ENCODER_DECODER,
    "fuyu": "its processor cuts off what its tokenizer writes before a picture, and a video would have no sure place",
    "git": "it takes pictures as pixels alone, and sets what it makes of them before the text without placeholders",
    "idefics": _CROSS_ATTENTION,
    "instructblipvideo": "its processor has a video processor and none for pictures, so its frames cannot be prepared",
    "kosmos-2.5": "it takes visual tokens by a mask of their places; it would need an adapter such as Kosmos-2's",
    "mistral4": "it is a language model without a vision tower",
    "mllama": _CROSS_ATTENTION,
    "pi0": "it writes the movements of a robot and no text",
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "qwen2_5_omni": _THINKER,
    "qwen3_omni_moe": _THINKER,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "vision-encoder-decoder": _ENCODER_DECODER,
}


def family_of(model_type: str) -> Family:
    """The traits of an architecture, by `config.model_type`; the common ones when it is not listed."""
    return FAMILIES.get(model_type, Family())


# ---------------------------------------------------------------------------------------------------------------------
# Loading and checking
# ---------------------------------------------------------------------------------------------------------------------


def load_base(name_or_path: str, model_class: Any = AutoModelForImageTextToText, **kwargs: Any) -> PreTrainedModel:
    """
    Load a base model by repository id or folder; `kwargs` go to `model_class.from_pretrained`.

    Raises:
        CheckpointError: nothing loadable at `name_or_path`, weights that are damaged, missing or not those of its
            config, or a package is missing that it needs.
        UnsupportedBaseError: something is there, but no image-text model.
    """
    try:
        base, report = _from_pretrained(name_or_path, model_class, output_loading_info=True, **kwargs)
    except OSError as error:
        raise CheckpointError(
            f"The base model {name_or_path!r} could not be loaded: {error} Check the name, the network or "
            "HF_HUB_OFFLINE, and that the revision still exists; a model saved with include_base=True needs no base."
        ) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of the base model {name_or_path!r} are damaged: {error}. Download or save it again."
        ) from error
    except StrictDataclassError as error:
        raise CheckpointError(
            f"The config of the base model {name_or_path!r} has a value it cannot have: {error}"
        ) from error
    except ImportError as error:  # of a quantised base, the package that its weights were made with
        raise CheckpointError(
            f"The base model {name_or_path!r} cannot be loaded without a package: {str(error).strip()}. Install "
            "it, or give a base that does not need it (one that is not quantised)."
        ) from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise CheckpointError(
            f"The weights and the config of the base model {name_or_path!r} disagree: some weights have other shapes "
            "than its config.json says. Was it edited, or is one of the files another model's? Download or save both "
            "again."
        ) from error
    except ValueError as error:
        if "does not recognize this architecture" in str(error):
            raise UnsupportedBaseError(no_known_architecture(name_or_path, error)) from error
        if "Unrecognized configuration class" in str(error) or "Unrecognized model" in str(error):
            raise UnsupportedBaseError(
                f"{name_or_path!r} is no image-text model of transformers. LinVT needs one that "
                "AutoModelForImageTextToText can load, such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
            ) from error
        if "trust_remote_code" in str(error):
            raise UnsupportedBaseError(
                f"The code of {name_or_path!r} comes with it and not with transformers. Read it, and pass "
                "trust_remote_code=True; if LinVT does not know the architecture, register_base_vlm makes it known."
            ) from error
        raise
    # transformers only logs it. torchao on Molmo2 is such a case (5.23): weights that it splits when it loads them.
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"Loading the base model {name_or_path!r} left {len(missing)} of its weights random, such as "
            f"{missing[0]!r}. Is the checkpoint whole, and can its architecture be loaded with {', '.join(kwargs)}? "
            "If they may be random, load the base yourself and pass it to from_base."
        )
    return base


def no_known_architecture(name_or_path: str, error: Exception) -> str:
    """The message for a model that transformers does not know; its own goes on about ways to update it."""
    reason = str(error).split(" This could be")[0].strip().rstrip(".")
    advice = (
        " A newer transformers may know it; one whose code comes with it needs trust_remote_code=True and maybe "
        "register_base_vlm."
        if "does not recognize" in reason
        else ""
    )
    return (
        f"{name_or_path!r} is no model that transformers knows: {reason}.{advice} LinVT needs an image-text model, "
        "such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
    )


def _from_pretrained(name_or_path: str, model_class: Any, **kwargs: Any) -> Any:
    try:
        return model_class.from_pretrained(name_or_path, **kwargs)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        hub = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
        config = AutoConfig.from_pretrained(name_or_path, **{name: kwargs[name] for name in hub if name in kwargs})
        if not hasattr(config, "thinker_config"):
            raise
        # Qwen Omni: the part that thinks is the image-text model, the rest of the checkpoint is its voice.
        return AutoModelForImageTextToText.from_pretrained(name_or_path, config=config.thinker_config, **kwargs)


def check_base(base: nn.Module, takes_encoded: bool = True, image_token_id: int | None = None) -> None:
    """
    Refuse a base that cannot take video tokens.

    Args:
        base: the model.
        takes_encoded: whether it has to take them encoded (`mm_encoder_outputs`); an adapter may know another way.
        image_token_id: of its placeholder, as its adapter knows it; by default what its config says.

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
        raise UnsupportedBaseError(f"{model_type} is not supported: {_ENCODER_DECODER}. {advice}")
    if model_type in DENIED:
        raise UnsupportedBaseError(f"{model_type} is not supported: {DENIED[model_type]}. {advice}")
    if takes_encoded and "mm_encoder_outputs" not in inspect.signature(base.forward).parameters:
        raise UnsupportedBaseError(
            f"{model_type} ({type(base).__name__}) does not accept encoded visual tokens. {advice}"
        )
    if language_head(base) is None:
        raise UnsupportedBaseError(
            f"{type(base).__name__} has no language head. Load it with AutoModelForImageTextToText. {advice}"
        )
    if takes_encoded and _image_encoder(base) is None:
        raise UnsupportedBaseError(f"{model_type} has no get_image_features(), so frames cannot be encoded. {advice}")
    image_token_id = getattr(config, "image_token_id", None) if image_token_id is None else image_token_id
    if not isinstance(image_token_id, int):
        raise UnsupportedBaseError(
            f"{model_type}: config.image_token_id is {image_token_id!r}, not a token id, so there is no placeholder "
            "for video tokens. Set it to the id of the tokenizer's image token."
        )


def _image_encoder(base: PreTrainedModel) -> Any:
    """`get_image_features` of the backbone, or of the head where only that has it."""
    for module in (base.base_model, base):
        if callable(encoder := getattr(module, "get_image_features", None)):
            return encoder
    return None


def language_head(base: PreTrainedModel) -> nn.Module | None:
    """The layer that turns hidden states into logits: of the base, or of the language model where only that has it."""
    head = base.get_output_embeddings()
    if head is None and hasattr(decoder := base.get_decoder(), "get_output_embeddings"):
        head = decoder.get_output_embeddings()
    return head


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
    adapter: Any, base: PreTrainedModel, inputs: Mapping[str, torch.Tensor], num_frames: int, frames_per_chunk: int
) -> EncodedFrames:
    """
    Run the frames of one video through the base's vision tower and projector.

    Args:
        adapter ([`BaseAdapter`]): of the base.
        base: the base model.
        inputs: what the base's image processor made of the frames, under the base's own names.
        num_frames: frames in `inputs`.
        frames_per_chunk: frames encoded at once; bounds the memory of the vision tower whatever the video's length.

    Raises:
        LinVTInputError: the encoder returned a number of tokens that does not divide among the frames.
    """
    family = adapter.family
    rows = _rows_per_frame(family, inputs, num_frames)
    tokens, deepstack, container = [], [], "tensor"
    for start in range(0, num_frames, frames_per_chunk):
        stop = min(start + frames_per_chunk, num_frames)
        chunk = _slice_frames(family, inputs, rows, start, stop)
        if family.layout == "tiles":
            chunk = _frames_as_tiles(base, chunk)
        features, layers, container = adapter.encode(base, chunk)
        encoded = max(stop - start, family.min_frames_per_call)
        by_frame = [
            _tiles_as_frames(base, one) if family.layout == "tiles" else _by_frame(one, encoded)
            for one in (features, *layers)
        ]
        by_frame = [one[: stop - start] for one in by_frame]
        tokens.append(by_frame[0])
        deepstack.append(by_frame[1:])
    all_tokens = torch.cat(tokens)
    return EncodedFrames(
        tokens=all_tokens,
        deepstack=[torch.cat(layers) for layers in zip(*deepstack, strict=True)],
        grid_size=_grid_size(family, inputs, all_tokens.shape[1]),
        container=container,
    )


def split_videos(
    family: Family, inputs: Mapping[str, torch.Tensor], frames_per_video: Sequence[int]
) -> list[dict[str, torch.Tensor]]:
    """Frames of several videos, one after the other in every tensor -> one dictionary per video."""
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
    needed = (*_NEEDED[family.layout], *((family.grid,) if family.layout == "grid" else ()))
    if missing := [FRAME_PREFIX + name for name in needed if inputs.get(name) is None]:
        raise LinVTInputError(
            f"The frames of the video are incomplete: {', '.join(missing)} missing, got "
            f"{', '.join(FRAME_PREFIX + name for name in inputs) or 'none'}. Use the processor of this base, and pass "
            "everything it returned."
        )
    rows = {name: [1] * num_frames for name in inputs if name != "batch_num_images"}
    if family.layout == "grid":
        patches = inputs[family.grid].prod(-1)
        # A patch of a strip is as many columns of pixels as it is high; see `lay_out_frames`.
        rows["pixel_values"] = (patches * inputs["pixel_values"].shape[-1] if family.is_strip else patches).tolist()
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
    if family.is_strip:
        chunk["pixel_values"] = chunk["pixel_values"].movedim(0, -1)
    if family.nesting == "per_video":  # several pictures of one sample: one tile each; a lone one would be split
        if stop - start < family.min_frames_per_call:
            repeats = family.min_frames_per_call - (stop - start)
            chunk = {
                name: torch.cat([value, value[-1:].expand(repeats, *value.shape[1:])]) for name, value in chunk.items()
            }
        chunk["batch_num_images"] = torch.tensor([max(stop - start, family.min_frames_per_call)])
    return chunk


def lay_out_frames(family: Family, inputs: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
    """
    Image-processor output of frames of `height` x `width` pixels, in the form in which it can be cut into frames.

    A strip of patches `(1, channels, patch, columns)` is laid down, one column of pixels per row. Numbers of patches
    alone (Inkling) become rows and columns of the frame's shape. Everything else stays as it is.
    """
    inputs = dict(inputs)
    if family.is_strip:
        inputs["pixel_values"] = inputs["pixel_values"].movedim(-1, 0)
    counts = inputs.get(family.grid)
    if counts is not None and counts.dim() == 1:
        inputs[family.grid] = torch.tensor([_factors(count, height / width) for count in counts.tolist()])
    return inputs


def merge_frames(family: Family, inputs: Mapping[str, torch.Tensor], num_merged: int) -> dict[str, torch.Tensor]:
    """
    Patches of single frames -> patches of `num_merged` frames each, as the base's own video path has them.

    The image path of these families fills a patch with copies of its one frame; here every copy is another frame, and
    the vision tower sees one step of time instead of `num_merged` pictures. The last frame is repeated to fill its
    group, as the base's video processor does.

    Args:
        family: one with `merges_frames`.
        inputs: what the image processor made of the frames of one video.
        num_merged: frames in a patch (`temporal_patch_size`).

    Returns:
        The same inputs for `ceil(num_frames / num_merged)` steps of time.

    Raises:
        LinVTInputError: patches that do not hold copies of one frame.
    """
    pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
    num_frames, is_frame_first = len(grid), family.merges_frames == "frame_first"
    inside = (num_merged, -1) if is_frame_first else (3, num_merged, pixels.shape[-1] // (3 * num_merged))
    copies = pixels.reshape(num_frames, int(grid[0].prod()), *inside)
    axis = 2 if is_frame_first else 3
    if not bool((copies == copies.select(axis, 0).unsqueeze(axis)).all()):
        raise LinVTInputError(
            "The image processor does not fill a patch with copies of one frame, so frames cannot be merged: use "
            "frame_path='image'."
        )
    frames = copies.select(axis, 0)
    frames = torch.cat([frames, frames[-1:].expand(-num_frames % num_merged, *frames.shape[1:])])
    steps = frames.unflatten(0, (-1, num_merged)).movedim(1, axis)
    return {**inputs, "pixel_values": steps.reshape(-1, pixels.shape[-1]), "image_grid_thw": grid[: len(steps)]}


def _factors(count: int, ratio: float) -> tuple[int, int]:
    """Rows and columns that make `count`, with rows / columns nearest to `ratio`."""
    pairs = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1] / ratio)))


def _by_frame(features: Any, num_frames: int) -> torch.Tensor:
    """Visual features of `num_frames` frames, however packed -> `(num_frames, tokens_per_frame, D)`."""
    rows = flat_rows(features)
    if len(rows) % num_frames:
        raise LinVTInputError(
            f"The base made {len(rows)} visual tokens of {num_frames} frames, which is no whole number per frame: the "
            "frames of one video must have one size and be one tile each. Pass them through LinVTProcessor."
        )
    return rows.reshape(num_frames, -1, rows.shape[-1])


def _frames_as_tiles(base: PreTrainedModel, chunk: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Frames in the places of the tiles of as few pictures as it takes, the last frame repeated to fill them.

    LLaVA-NeXT encodes a picture as a whole and in tiles, two at least, by its size. It encodes each of them alone, so
    what it makes of a frame in any of these places is what it makes of a picture as a whole.
    """
    (height, width), rows, columns = _smallest_tiling(base)
    frames, tiles = chunk["pixel_values"][:, 0], 1 + rows * columns
    missing = -len(frames) % tiles
    frames = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
    sizes = chunk["image_sizes"].new_tensor([[height, width]]).expand(len(frames) // tiles, 2)
    return {**chunk, "pixel_values": frames.unflatten(0, (-1, tiles)), "image_sizes": sizes}


def _tiles_as_frames(base: PreTrainedModel, features: Sequence[torch.Tensor]) -> torch.Tensor:
    """Features of pictures made by `_frames_as_tiles` -> `(frames, tokens_per_frame, D)`, with the repeated ones."""
    _, rows, columns = _smallest_tiling(base)
    vision = base.config.vision_config
    side = tokens_along_tile(vision.image_size, vision.patch_size, getattr(base.config, "downsample_rate", None))
    frames = []
    for picture in features:
        # the picture as a whole, then all tiles line by line, each line of the picture with a token at its end
        whole, lines = picture[: side * side], picture[side * side :]
        lines = lines.unflatten(0, (rows, side, columns * side + 1))[:, :, :-1]
        frames += [whole[None], lines.unflatten(2, (columns, side)).transpose(1, 2).flatten(2, 3).flatten(0, 1)]
    return torch.cat(frames)


def tokens_along_tile(pixels: int, patch_size: int, downsample_rate: str | None) -> int:
    """Tokens along a side of a tile; `downsample_rate` is that of Granite 4 Vision, such as "1/2"."""
    return int(pixels // patch_size * Fraction(downsample_rate or 1))


def _smallest_tiling(base: PreTrainedModel) -> tuple[tuple[int, int], int, int]:
    """The size in pixels that the base splits into the fewest tiles, and their rows and columns."""
    height, width = min(base.config.image_grid_pinpoints, key=math.prod)
    side = base.config.vision_config.image_size
    return (height, width), height // side, width // side


def _grid_size(family: Family, inputs: Mapping[str, torch.Tensor], num_tokens: int) -> tuple[int, int]:
    """
    Rows and columns of a frame's tokens: from the grid of its patches, of which squares become one token.

    Families name the side of these squares in ways of their own, so it is read off the numbers. Tokens that are left
    over stand at the ends of the rows (HunYuan-VL). Where no grid fits, the nearest square, of whole rows: 13 tokens
    are 3 x 4, and one that has no place.
    """
    if (positions := inputs.get("image_position_ids")) is not None:  # (x, y) of every patch; -1 is padding (Gemma 4)
        width, height = (positions[0].amax(0) + 1).tolist()
    elif (grid := inputs.get(family.grid)) is not None:
        height, width = grid[0, -2:].tolist()
    else:
        height, width = infer_grid_size(num_tokens)
    merge = max(1, round(math.sqrt(height * width / num_tokens)))
    rows, columns = math.ceil(height / merge), math.ceil(width / merge)
    if rows * columns > num_tokens:
        rows, columns = infer_grid_size(num_tokens)
    return rows, num_tokens // rows if rows * columns != num_tokens else columns


# ---------------------------------------------------------------------------------------------------------------------
# Video tokens -> language model
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class EncodedVisuals(BaseModelOutputWithPooling):
    """What the base finds in `mm_encoder_outputs["image"]`: tokens in placeholder order, in its own container."""

    deepstack_features: list | None = None
    router_logits: torch.Tensor | None = None  # of Granite Docling, which reads them whatever they are
    visual_indicator_features: torch.Tensor | None = None


def numbered_layers(base: PreTrainedModel) -> tuple[int, ...]:
    """Numbers of the layers to which a base adds visual tokens, in its own order, where it wants to be told them."""
    config = base.config
    if (spatial := getattr(config, "spatial_target_layers", None)) is None:
        return ()
    return (*(layer for _, layer in config.deepstack_layer_map), *spatial)


def pack_visuals(
    tokens: torch.Tensor,
    deepstack: Sequence[torch.Tensor],
    lengths: Sequence[int],
    container: str,
    numbers: tuple[int, ...] = (),
) -> EncodedVisuals:
    """
    Visual tokens of a batch, in placeholder order -> the base's container.

    Args:
        tokens (`torch.Tensor` of shape `(total, D)`).
        deepstack: tensors of the same shape, one per deep layer.
        lengths: tokens of each group; a row of the batch holds whole groups. Their sum is `total`.
        container: `"tensor"`, `"list"` or `"tuple"`.
        numbers: of the deep layers, where the base wants to be told them.
    """
    if container == "tensor":
        # One tensor needs groups of one size; beam search repeats whole groups, so they may not cross rows.
        return EncodedVisuals(pooler_output=tokens.reshape(-1, math.gcd(*lengths), tokens.shape[-1]))
    pack = tuple if container == "tuple" else list
    layers: list[Any] = [pack(layer.split(list(lengths))) for layer in deepstack]
    if numbers:
        layers = list(zip(numbers, layers, strict=True))
    return EncodedVisuals(pooler_output=pack(tokens.split(list(lengths))), deepstack_features=layers or None)


def encode_images(base: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[Any, list[Any], str]:
    """What the base's image encoder makes of its inputs: tokens, the same per deep layer, and their container."""
    output = _image_encoder(base)(**encoder_inputs(base, inputs), return_dict=True)
    features, layers = output.pooler_output, getattr(output, "deepstack_features", None) or []
    if (
        features is None
    ):  # Granite 4 Vision adds all there is in numbered layers; what enters first stands for the rest
        features, layers = min(layers, key=lambda pair: pair[0])[1], [tokens for _, tokens in layers]
    return features, list(layers), _container_of(features)


def _container_of(features: Any) -> str:
    return type(features).__name__ if isinstance(features, list | tuple) else "tensor"


def flat_rows(features: Any) -> torch.Tensor:
    """Visual tokens in any container -> one row per token, `(total, D)`."""
    if isinstance(features, list | tuple):
        features = torch.cat(list(features))
    return features.reshape(-1, features.shape[-1])


def visual_indicators(base: PreTrainedModel) -> torch.Tensor | None:
    """What stands at the markers around a picture where the image encoder says it (Ovis2): `(markers, D)`."""
    table = getattr(base.base_model, "visual_embeddings_table", None)
    if table is None:
        return None
    # The same for every picture, and not kept with encoded videos: the last rows of a table of visual words.
    first = table.num_embeddings - base.config.vision_config.num_visual_indicator_tokens
    return table(torch.arange(first, table.num_embeddings, device=table.weight.device))


def has_grid_positions(base: PreTrainedModel) -> bool:
    """
    Whether the base counts the positions of pictures in time, row and column (multimodal rotary positions).

    Those that count a fourth axis beside them (HunYuan-VL) do not.
    """
    text = getattr(base.config, "get_text_config", lambda: base.config)()
    sections = (getattr(text, "rope_parameters", None) or {}).get("mrope_section", (1, 1, 1))
    return callable(getattr(base.base_model, "get_rope_index", None)) and len(sections) == 3


def check_grid_positions(base: PreTrainedModel) -> None:
    """Refuse a base that has no place for `video_positions="grid"`."""
    if not has_grid_positions(base):
        raise LinVTInputError(
            "video_positions='grid' lays video tokens out in time, row and column, and the base "
            f"({base.config.model_type}) counts places in the text only. Use video_positions='text'. Qwen2-VL to "
            "Qwen3.5, GLM-4V, PaddleOCR-VL and ERNIE 4.5 VL take both."
        )


def lay_out_positions(
    base: PreTrainedModel,
    input_ids: torch.Tensor,
    video_mask: torch.Tensor,
    cells: torch.Tensor,
    inputs: Mapping[str, Any],
) -> torch.Tensor:
    """
    Positions of a prompt whose video tokens stand in time, row and column; what follows goes on behind them.

    The base is told where the next token stands (`rope_deltas`), so that it can go on from its cache.

    Args:
        base: a base of which `has_grid_positions` is true.
        input_ids (`torch.LongTensor` of shape `(batch, length)`).
        video_mask (`torch.Tensor` of shape `(batch, length)`): True at video tokens.
        cells (`torch.Tensor` of shape `(num_videos, num_video_tokens, 3)`): time, row and column of the tokens of
            every video, one after the other as they stand in the rows, integers.
        inputs: the base's other inputs; `attention_mask`, and type ids and grid of pictures where there are any.

    Returns:
        `torch.LongTensor` of shape `(4, batch, length)`: places in the text, and time, rows, columns.
    """
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(input_ids) if mask is None else mask.to(input_ids.device)
    in_text = (mask.long().cumsum(-1) - 1).clamp(min=0)
    positions = _positions_of_pictures(base, input_ids, {**inputs, "attention_mask": mask})
    positions = in_text.expand(3, -1, -1).clone() if positions is None else positions.to(input_ids.device)
    num_tokens, of_videos = cells.shape[1], iter(cells.to(input_ids.device))
    for row, is_video in enumerate(video_mask.bool()):
        for start in is_video.nonzero().flatten()[::num_tokens].tolist():  # two videos side by side are two
            stop, first, offsets = start + num_tokens, positions[:, row, start].clone(), next(of_videos).T
            positions[:, row, stop:] += int(offsets.max()) + 1 - int(mask[row, start:stop].sum())
            positions[:, row, start:stop] = first[:, None] + offsets
    positions = positions.masked_fill(mask == 0, 0)
    base.base_model.rope_deltas = (positions.amax((0, 2)) + 1 - mask.sum(1)).unsqueeze(1)
    return torch.cat([in_text.unsqueeze(0), positions])


def _positions_of_pictures(
    base: PreTrainedModel, input_ids: torch.Tensor, inputs: Mapping[str, Any]
) -> torch.Tensor | None:
    """`(3, batch, length)` as the base counts them, with videos as text; None without a picture."""
    if inputs.get("image_grid_thw") is None:
        return None
    count = base.base_model.get_rope_index
    accepted = inspect.signature(count).parameters
    return count(input_ids=input_ids, **{name: value for name, value in inputs.items() if name in accepted})[0]


def grids_with_videos(
    base: PreTrainedModel, is_video: torch.Tensor, num_video_tokens: int, picture_grids: torch.Tensor | None
) -> torch.Tensor:
    """
    Patch grids of pictures and videos in placeholder order; a video is a strip that is one token high.

    Args:
        base: the base model.
        is_video (`torch.Tensor` of shape `(num_placeholders,)`): whether a placeholder is a video's or a picture's.
        num_video_tokens: tokens of a video.
        picture_grids (`torch.Tensor` of shape `(num_pictures, 3)`, *optional*): of the pictures alone.
    """
    merge = base.config.vision_config.spatial_merge_size
    strip = torch.tensor([1, merge, merge * num_video_tokens], device=is_video.device)
    pictures = iter(() if picture_grids is None else picture_grids.to(is_video.device))
    kinds, grids, place = is_video.tolist(), [], 0
    while place < len(kinds):
        grids.append(strip if kinds[place] else next(pictures))
        place += int(grids[-1].prod()) // merge**2
    return torch.stack(grids)


def forget_positions(base: PreTrainedModel) -> None:
    """
    Drop the position offset that a family with multimodal rotary positions keeps from an earlier picture.

    Without a picture grid these families do not recompute it, and the next cached step would use the stale one.
    """
    if getattr(base.base_model, "rope_deltas", None) is not None:
        base.base_model.rope_deltas = None


def pass_over(
    input_ids: torch.Tensor, video_mask: torch.Tensor, used: torch.Tensor, inputs: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """
    What keeps a base from seeing the video tokens that are not used: what follows stands as if they were not there.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch, length)`).
        video_mask (`torch.Tensor` of shape `(batch, length)`): True at video tokens.
        used (`torch.Tensor` of shape `(num_videos, num_video_tokens)`): True at those that are used, of every video,
            one after the other as they stand in the rows.
        inputs: the base's other inputs; an `attention_mask` may begin with what stands in a cache already.

    Returns:
        The `attention_mask`; nothing where all are used.
    """
    if bool(used.all()):
        return {}
    given = inputs.get("attention_mask")
    mask = torch.ones_like(input_ids) if given is None else given.clone()
    mask[:, -input_ids.shape[1] :].masked_scatter_(video_mask, used.to(mask))
    return {"attention_mask": mask}


def positions_without_padding(
    family: Family,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    video_mask: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """
    The `position_ids` that generate() gives prompts, where forward() would count what is masked.

    So it does in front of a prompt for some families, which is no harm to the others (all positions move alike), and
    for all of them inside of a video.
    """
    if attention_mask is None:
        return {}
    visible = attention_mask[:, -input_ids.shape[1] :].bool()
    has_gap = video_mask is not None and bool((video_mask & ~visible).any())
    if not (family.counts_padding or has_gap):
        return {}
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    return {"position_ids": positions[:, -input_ids.shape[1] :]}
