"""
What is known of families of image-text models, as data: [`Family`], its traits, and the architectures that have them.

A family of the common kind is a line in `FAMILIES`, or in none where the defaults fit. One with a way of its own is a
class in a file of `kinds/`. What cannot work stands in `DENIED`, with the reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .chat_templates import turns
from .frame_size import FrameBudget
from .layouts import FrameLayout, FramePerSample, PatchGrid, PatchStrip, PictureTiles


@dataclass(frozen=True)
class Family:
    """
    How one architecture differs from the others. The defaults fit most of them.

    Attributes:
        one_tile:
            Options of the image processor that make one frame one tile (a split frame would be N tokens several times
            over).
        layout: how the inputs of frames lie along their first axis.
        frame_budget: tokens that frames may have, where they follow from the size of the frame.
        fits_whole_tokens:
            Whether the base's processor, and not its image processor, knows the `patch_size` that becomes one token.
        video_type_id:
            Type id at video placeholders. Families with multimodal rotary positions take 0: without a picture grid
            their positions are those of text, one after the other.
        counts_padding:
            Whether forward() counts padding in front of a prompt as positions, and they count for themselves and not
            only between two tokens: so it is with norms behind the rotation.
        numbers_what_is_seen:
            Whether generate() numbers the tokens that the attention mask leaves in, as nearly all do, and not all.
        begins_with_bos: whether the base's processor begins every prompt with the first special token itself.
        behind_visuals, ends_with:
            What else it writes itself: behind the last picture, and at the end of what the user says. A special token
            is meant by its name ("bos_token").
        prepends_visuals:
            Whether the base's processor puts pictures in front of a prompt, and its template writes no place for them.
        chat_template: for a base whose checkpoints come without one.
        notes: what a user should know before wrapping it.
    """

    one_tile: Mapping[str, Any] = field(default_factory=dict)
    layout: FrameLayout = FrameLayout()
    frame_budget: FrameBudget = FrameBudget()
    fits_whole_tokens: bool = False
    video_type_id: int = 1
    counts_padding: bool = False
    numbers_what_is_seen: bool = True
    begins_with_bos: bool = False
    behind_visuals: str = ""
    ends_with: str = ""
    prepends_visuals: bool = False
    chat_template: str | None = None
    notes: tuple[str, ...] = ()


_GRID = PatchGrid()
_MERGING = PatchGrid(merges_frames="colour_first")
_MERGING_BY_FRAME = PatchGrid(merges_frames="frame_first")
_SIZES = FrameLayout("image_sizes")
_MROPE = {"layout": _GRID, "video_type_id": 0}
_MROPE_MERGING = {"layout": _MERGING, "video_type_id": 0}
_QWEN2 = {**_MROPE_MERGING, "frame_budget": FrameBudget(768, 230_400)}
_QWEN3 = {**_MROPE_MERGING, "frame_budget": FrameBudget(768, 24_576)}
_GLM = {**_MROPE_MERGING, "frame_budget": FrameBudget(total=60_000, counts_time=True)}
# These number the pictures of a prompt; a video is not counted.
_MINICPM = {"one_tile": {"max_slice_nums": 1, "use_image_id": False}, "layout": PatchStrip("target_sizes")}

FAMILIES: dict[str, Family] = {
    "gemma3": Family(one_tile={"do_pan_and_scan": False}),
    "idefics3": Family(one_tile={"do_image_splitting": False}, layout=FramePerSample()),
    "internvl": Family(one_tile={"crop_to_patches": False}),
    "qwen2_5_vl": Family(**_QWEN2),
    "qwen2_vl": Family(**_QWEN2),
    "qwen3_vl": Family(**_QWEN3),
    "qwen3_vl_moe": Family(**_QWEN3),
    "smolvlm": Family(one_tile={"do_image_splitting": False}, layout=FramePerSample()),
    # GLM-V and others with patches of a grid
    "glm46v": Family(**_GLM),
    "glm4v": Family(**_GLM),
    "glm4v_moe": Family(**_GLM),
    "glm5_next": Family(layout=_MERGING),
    "glm_ocr": Family(**_MROPE_MERGING),
    "glmga": Family(**{**_GLM, "frame_budget": FrameBudget(total=111_580, counts_time=True)}),
    "kimi_k25": Family(layout=_GRID),
    "minimax_m3_vl": Family(
        layout=_GRID,
        notes=(
            "transformers answers a prompt of more than 128 tokens otherwise where it is padded on the left: generate "
            "for one prompt at a time",
        ),
    ),
    "paddleocr_vl": Family(**_MROPE),
    "video_llama_3": Family(layout=_GRID, frame_budget=FrameBudget(768)),
    # LLaVA and its relatives, Mistral, Granite, Cohere
    "aya_vision": Family(one_tile={"crop_to_patches": False}),
    "cohere2_vision": Family(one_tile={"crop_to_patches": False}),
    "llava": Family(layout=_SIZES),  # Pixtral is one of them
    "llava_next": Family(layout=PictureTiles()),
    "llava_next_video": Family(layout=PictureTiles()),
    "mistral3": Family(layout=_SIZES, fits_whole_tokens=True),
    # its attention scales by the logarithm of the position
    "mistral_large4": Family(layout=_SIZES, fits_whole_tokens=True, counts_padding=True),
    "granite_docling": Family(one_tile={"crop_to_patches": False}, layout=FramePerSample()),
    "perception_lm": Family(one_tile={"vision_input_type": "vanilla"}),
    "video_llava": Family(one_tile={"return_legacy_image_output": False}),  # the model's own name for the pixels
    # Gemma and neighbours
    "aria": Family(one_tile={"split_image": False}),
    "chameleon": Family(ends_with="sep_token", chat_template=turns("sep_token", "sep_token")),
    # Readers of documents and their kin
    "deepseek_ocr2": Family(
        one_tile={"crop_to_patches": False},
        notes=("a frame has fewer tokens than said before it is run: its processor counts those of a larger picture",),
    ),
    "inkling2": Family(layout=_GRID),
    "inkling_mm_model": Family(layout=PatchGrid("num_patches")),
    "lfm2_vl": Family(one_tile={"do_image_splitting": False}, layout=FrameLayout("spatial_shapes")),
    "minicpm_ocr": Family(**_MINICPM),
    "minicpmv4_6": Family(**_MINICPM),
    "minicpmv4_7": Family(**_MINICPM, video_type_id=0),
    "qianfan_ocr": Family(one_tile={"crop_to_patches": False}),
    "unlimited_ocr": Family(one_tile={"crop_to_patches": False}),
    # others
    "muse_glimmer": Family(layout=_MERGING_BY_FRAME),
    "muse_spark": Family(layout=_MERGING_BY_FRAME),
    "nemotron_h_omni": Family(layout=PatchGrid("image_grid_hw")),
    # Qwen after Qwen3-VL, and the families that take their pictures the same way
    "cohere_compass": Family(**_QWEN3),
    "cosmos3_edge": Family(**_MROPE),
    "cosmos3_omni": Family(**_QWEN3),
    "dots3_note": Family(layout=_GRID, frame_budget=_QWEN3["frame_budget"]),
    "exaone4_5": Family(layout=_MERGING, numbers_what_is_seen=False, frame_budget=_QWEN2["frame_budget"]),
    "hyperclovax_vision_v2": Family(layout=_MERGING, numbers_what_is_seen=False, frame_budget=_QWEN2["frame_budget"]),
    "lfm3_vl": Family(layout=_MERGING, frame_budget=_QWEN3["frame_budget"]),
    "qwen3_5": Family(**_QWEN3),
    "qwen3_5_moe": Family(**_QWEN3),
    "qwen4_exp": Family(**_QWEN3),
}

# Architectures that AutoModelForImageTextToText can load and that cannot work, with the reason.
ENCODER_DECODER = (
    "it is an encoder-decoder: its encoder reads the prompt and its decoder writes the answer, and LinVT is made for "
    "models that do both in one sequence"
)
_THINKER = "it is a thinker and a voice; give its name, or the thinker alone (model.thinker)"
DENIED = {
    "blip": (
        "it writes captions: no word of its prompts stands for a picture, and its cross-attention takes tokens as "
        "wide as its vision tower, which a question in the width of its language model cannot be compared with"
    ),
    "diffusion_gemma": "it writes blocks of text by diffusion, and has no loss for the next token to train LinVT with",
    "evolla": "it reads proteins and no pictures",
    "florence2": (
        "it is an encoder-decoder: its encoder takes video tokens at its image tokens and generate() writes from "
        "them, but the answer is a second sequence, so that nothing behind a prompt has logits, by which LinVT and "
        "TRL train and an answer is attributed"
    ),
    "fuyu": "its processor cuts off what its tokenizer writes before a picture, and a video would have no sure place",
    "git": "it takes pictures as pixels alone, and sets what it makes of them before the text without placeholders",
    "idefics": "it sees pictures through cross-attention, and it would need a bridge such as Mllama's",
    "instructblipvideo": "its processor has a video processor and none for pictures, so its frames cannot be prepared",
    "kosmos-2.5": "it takes visual tokens by a mask of their places; it would need a bridge such as Kosmos-2's",
    "mistral4": "it is a language model without a vision tower",
    "pi0": "it writes the movements of a robot and no text",
    "pix2struct": ENCODER_DECODER,
    "pp_formulanet": ENCODER_DECODER,
    "qwen2_5_omni": _THINKER,
    "qwen3_omni_moe": _THINKER,
    "t5gemma2": ENCODER_DECODER,
    "udop": ENCODER_DECODER,
    "vision-encoder-decoder": ENCODER_DECODER,
}


def family_of(model_type: str) -> Family:
    """The traits of an architecture of the common kind, by `config.model_type`; the defaults when it is not listed."""
    return FAMILIES.get(model_type, Family())


__all__ = ["DENIED", "ENCODER_DECODER", "FAMILIES", "Family", "family_of"]
