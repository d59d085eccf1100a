"""The processor of the base model: loading it, also where torchvision is missing, and how it marks a picture."""

import contextlib
import copy
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
    processing_utils,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from ..errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError, check_folder
from .families import Family, family_of, lay_out_frames, tokens_along_tile


class NoVideoProcessor(VideoProcessorMixin):
    """
    Takes the place of the base's own video processor where torchvision is missing; calling it is an error.

    The video processors of transformers need torchvision, and a processor class that has one cannot be built without.
    LinVT uses the image path, so it needs neither.

    Args:
        settings (`dict`):
            Of the real video processor. They are saved again as they are, so that nothing is lost for a machine that
            has torchvision; SmolVLM's processor reads two of them, which are there as attributes.
    """

    num_frames: int | None = None
    fps: float | None = None

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.settings = dict(settings or {})
        for name, value in self.settings.items():
            setattr(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """The settings it was built from."""
        return copy.deepcopy(self.settings)

    def preprocess(self, videos: Any, **kwargs: Any) -> None:
        """
        Refuse.

        Raises:
            LinVTInputError: always; the base's own video path is not installed.
        """
        raise LinVTInputError(
            "The base's own video processor needs torchvision, which is not installed. Pass the video to "
            "LinVTProcessor, which uses the base's image path, or install torchvision."
        )


@contextlib.contextmanager
def video_processors_known() -> Iterator[None]:
    """Let processors with a video processor be built where torchvision is missing."""
    # Processors check the class of their parts among the top-level names of transformers, and without torchvision this
    # one is missing there (5.23: AttributeError in ProcessorMixin.check_argument_for_proper_class).
    names = processing_utils.transformers_module
    if hasattr(names, "VideoProcessorMixin"):
        yield
        return
    names.VideoProcessorMixin = VideoProcessorMixin
    try:
        yield
    finally:
        del names.VideoProcessorMixin


def _reason_and_advice(name_or_path: str, error: OSError) -> str:
    """Of a folder, the file that is missing: transformers speaks of its site, and the network is not asked."""
    if not os.path.isdir(name_or_path):
        return f"{error} Check the name and the network."
    if "preprocessor_config.json" not in str(error):
        return f"{error} Download or save it again."
    others = "processor_config.json"
    described = (
        f"its {others} describes none" if os.path.exists(os.path.join(name_or_path, others)) else f"no {others}"
    )
    return (
        f"the folder has no preprocessor_config.json, which says how pictures are prepared, and {described}. Download "
        "the whole repository, or save the base's processor into the folder."
    )


def load_base_processor(name_or_path: str, check: bool = True, **kwargs: Any) -> ProcessorMixin:
    """
    The processor of a base model, by repository id or folder; works without torchvision.

    Args:
        name_or_path: repository id or folder, of the base or of a LinVT model, whose base it then is.
        check: whether it has to be one that LinVT can use as it is.
        kwargs: of `from_pretrained`.

    Raises:
        CheckpointError: nothing there, or a part of it is missing or damaged.
        UnsupportedBaseError: what is there is no processor with a tokenizer and an image processor, or one of its
            parts needs a package that is missing.
    """
    check_folder(name_or_path)
    try:
        settings, _ = ProcessorMixin.get_processor_dict(name_or_path, **kwargs)
        processor = _load(name_or_path, settings, **kwargs)
    except LinVTError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"The processor of {name_or_path!r} could not be loaded: {_reason_and_advice(name_or_path, error)}"
        ) from error
    except ImportError as error:
        raise UnsupportedBaseError(f"The processor of {name_or_path!r} needs a package: {error}") from error
    except ValueError as error:  # "Unrecognized ...": no such processor in transformers
        raise UnsupportedBaseError(
            f"{name_or_path!r} has no processor that LinVT can use: {error} LinVT needs the processor of an "
            f"image-text model, such as Qwen2-VL, InternVL or LLaVA.{_torchvision_advice()}"
        ) from error
    except Exception as error:  # a damaged tokenizer.json is a bare Exception, a wrong type in a setting anything
        raise CheckpointError(
            f"The processor of {name_or_path!r} is damaged: {type(error).__name__}: {error}. Download or save it "
            "again."
        ) from error
    try:
        if check:
            check_base_processor(processor)
    except UnsupportedBaseError as error:
        raise UnsupportedBaseError(f"{name_or_path!r}: {error}") from None
    return processor


def _load(source: str, settings: dict[str, Any], **kwargs: Any) -> Any:
    # A folder that LinVTProcessor saved names the base's own class beside ours.
    class_name = settings.get("base_processor_class")
    if class_name is not None and not hasattr(transformers, class_name):
        raise UnsupportedBaseError(
            f"The base's processor is a {class_name}, which transformers {transformers.__version__} does not have. "
            "Install the version of transformers that it was saved with."
        )
    if is_torchvision_available():
        processor_class = getattr(transformers, class_name) if class_name else AutoProcessor
        return processor_class.from_pretrained(source, **kwargs)
    return _load_parts(source, settings, **kwargs)


def _torchvision_advice() -> str:
    return "" if is_torchvision_available() else " torchvision is not installed, and some (Molmo2) need it."


def check_base_processor(processor: Any) -> None:
    """
    Refuse a processor that cannot make pictures and text.

    Raises:
        UnsupportedBaseError: no tokenizer, no image processor, or a tokenizer that does not know the image token.
    """
    for part in ("tokenizer", "image_processor"):
        if getattr(processor, part, None) is None:
            raise UnsupportedBaseError(
                f"{type(processor).__name__} has no {part}. LinVT needs the processor of an image-text model, such as "
                "AutoProcessor gives for Qwen2-VL, InternVL or LLaVA."
            )
    # transformers makes an empty tokenizer of some classes where the files are missing; what Aya Vision calls its
    # image token is text of its chat template, another one stands for the picture
    token = getattr(processor, "img_patch_token", getattr(processor, "image_token", None))
    vocabulary = processor.tokenizer.get_vocab()
    if isinstance(token, str) and token not in vocabulary:
        raise UnsupportedBaseError(
            f"The tokenizer of {type(processor).__name__} has {len(vocabulary)} tokens and not its image token "
            f"{token!r}. Its files are missing, or belong to another model."
        )


def _load_parts(source: str, settings: dict[str, Any], **kwargs: Any) -> Any:
    """The processor without torchvision: one that has a video processor is built from its parts, with a stand-in."""
    class_name = settings.get("base_processor_class") or settings.get("processor_class")
    if class_name is None:
        class_name = PROCESSOR_MAPPING_NAMES.get(AutoConfig.from_pretrained(source, **kwargs).model_type)
    processor_class = getattr(transformers, class_name or "", AutoProcessor)
    attributes = processor_class.get_attributes() if issubclass(processor_class, ProcessorMixin) else []
    if "video_processor" not in attributes:
        return processor_class.from_pretrained(source, **kwargs)
    kwargs.pop("backend", None)
    loaders = {
        "tokenizer": lambda: AutoTokenizer.from_pretrained(source, **kwargs),
        "feature_extractor": lambda: AutoFeatureExtractor.from_pretrained(source, **kwargs),
        "image_processor": lambda: AutoImageProcessor.from_pretrained(source, backend="pil", **kwargs),
        "video_processor": lambda: NoVideoProcessor(VideoProcessorMixin.get_video_processor_dict(source, **kwargs)[0]),
    }
    if unknown := [attribute for attribute in attributes if attribute not in loaders]:
        raise UnsupportedBaseError(
            f"{class_name} needs torchvision (it has a {', '.join(unknown)} as well). Install it."
        )
    parts = [loaders[attribute]() for attribute in attributes]
    with video_processors_known():
        return processor_class.from_args_and_dict(parts, settings)


# transformers knows the processor of Kosmos-2, and does not list it (5.23).
_PROCESSORS = {"kosmos-2": "Kosmos2Processor", **PROCESSOR_MAPPING_NAMES}


def model_type_of(processor: ProcessorMixin) -> str:
    """The architecture a processor's class, or one it derives from, belongs to; "" where that does not tell."""
    for one in type(processor).__mro__:
        types = [name for name, class_name in _PROCESSORS.items() if class_name == one.__name__]
        if types:
            return next((name for name in types if family_of(name) != Family()), types[0])
    return ""


@dataclass(frozen=True)
class VisualMarkers:
    """
    How the base writes one picture into the prompt.

    Attributes:
        placeholder (`str`): what its chat template writes, to be replaced.
        token (`str`): the token that is repeated, once per visual token.
        token_id (`int`): its id; the model's `config.image_token_id`.
        before, after (`str`): the base's own markers around the repeated tokens.
    """

    placeholder: str
    token: str
    token_id: int
    before: str
    after: str

    @classmethod
    def of(cls, processor: ProcessorMixin, family: Family) -> "VisualMarkers":
        """
        Read the markers off what the base's processor writes for a grey picture.

        Raises:
            UnsupportedBaseError: the processor does not say how it writes a picture.
        """
        placeholder = placeholder_of(processor)
        picture = PIL.Image.new("RGB", (224, 224), (128, 128, 128))
        written, reason = "", ""
        try:
            if placeholder is not None:
                written = picture_inputs(processor, [[picture]], family.one_tile, family)[1][0]
        except Exception as error:  # a processor that does it another way may fail in any way
            reason = f": {type(error).__name__} {error}".rstrip()
        if not written:
            raise UnsupportedBaseError(
                f"{type(processor).__name__} does not say how it writes a picture into the prompt (image_token, "
                f"replace_image_token{reason}), so a video has no place there. The processors of Qwen2-VL, InternVL, "
                "LLaVA, SmolVLM, Gemma 3 and others do."
            )
        ids = processor.tokenizer(written, add_special_tokens=False)["input_ids"]
        token_id = Counter(ids).most_common(1)[0][0]
        token = processor.tokenizer.convert_ids_to_tokens(token_id)
        first, last = written.find(token), written.rfind(token) + len(token)
        return cls(placeholder, token, token_id, written[:first], written[last:])

    def video(self, num_video_tokens: int) -> str:
        """What stands for a whole video."""
        return self.before + self.token * num_video_tokens + self.after


def tokens_of_frame(processor: ProcessorMixin, family: Family, frame: np.ndarray) -> int:
    """
    Visual tokens of a frame, which is one tile: counted in what the base's processor writes for it, without a model.

    Args:
        processor: of the base.
        family: traits of the base's architecture.
        frame: array `(height, width, 3)`, uint8, RGB.
    """
    if family.tokens_attribute is not None:
        return getattr(processor, family.tokens_attribute)
    token = VisualMarkers.of(processor, family).token
    is_made_otherwise = (
        family.nesting == "per_video" or family.layout in ("tiles", "molmo2") or family.one_tile_outputs
    )
    if not is_made_otherwise:  # the processor writes a picture as it does a frame; some need their whole call for it
        picture = PIL.Image.fromarray(frame)
        return picture_inputs(processor, [[picture]], family.one_tile, family)[1][0].count(token)
    inputs = frame_inputs(processor, family, [frame])
    if family.layout == "tiles":  # the processor would count a picture's other tiles as well
        pixels, rate = inputs["pixel_values"].shape[-1], getattr(processor, "downsample_rate", None)
        return tokens_along_tile(pixels, processor.patch_size, rate) ** 2
    return processor.replace_image_token(inputs, image_idx=0).count(token)


@dataclass(frozen=True)
class AddedTexts:
    """
    What the base's processor writes into every prompt by itself.

    Attributes:
        first (`str`): in front.
        behind_visuals (`str`): behind the last picture or video; in front where there is none.
        last (`str`): at the end of what the user says.
    """

    first: str
    behind_visuals: str
    last: str

    @classmethod
    def of(cls, processor: ProcessorMixin, family: Family) -> "AddedTexts":
        """Read off the traits of the family, and off Janus' processor whether it writes its system prompt."""
        tokenizer = processor.tokenizer
        first = (tokenizer.bos_token or tokenizer.eos_token) if family.begins_with_bos else ""
        if getattr(processor, "use_default_system_prompt", False):
            first = sys.modules[type(processor).__module__].DEFAULT_SYSTEM_PROMPT
        named = tokenizer.special_tokens_map
        return cls(
            first,
            named.get(family.behind_visuals, family.behind_visuals),
            named.get(family.ends_with, family.ends_with),
        )


def frame_inputs(
    processor: ProcessorMixin, family: Family, frames: list[np.ndarray], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """
    Frames of one video through the base's image processor, one tile each.

    Args:
        processor: of the base.
        family: traits of the base's architecture.
        frames: arrays `(height, width, 3)`, uint8, RGB.
        options: of the image processor (`size`, `max_pixels`, ...); they do not undo what makes a frame one tile.

    Returns:
        Everything the image processor returned, as tensors, under its own names.
    """
    if family.nesting == "per_frame":
        nested: list[Any] = [[frame] for frame in frames]
    elif family.nesting == "per_video":  # a lone picture of a sample would be split into tiles
        nested = [frames + [frames[-1]] * (family.min_frames_per_call - len(frames))]
    else:
        nested = frames
    accepted = getattr(getattr(processor.image_processor, "valid_kwargs", None), "__annotations__", {})
    defaults = {name: value for name, value in getattr(processor, "images_kwargs", {}).items() if name in accepted}
    fixed = {"return_tensors": "pt", "input_data_format": "channels_last", **family.one_tile}
    if family.fits_whole_tokens:
        fixed["patch_size"] = processor.patch_size * processor.spatial_merge_size
    inputs = dict(processor.image_processor(nested, **{**defaults, **(options or {}), **fixed}))
    for name, value in family.one_tile_outputs.items():
        given = inputs.pop(name, None)
        if given is not None and value is not None:
            inputs[name] = torch.full_like(given, value)
    if family.nesting == "per_video":
        inputs = {n: v if n == "batch_num_images" else v[: len(frames)] for n, v in inputs.items()}
    if family.layout == "tiles":
        inputs["pixel_values"] = inputs["pixel_values"][:, :1]  # the frame as a whole, before its tiles
    return lay_out_frames(family, inputs, *frames[0].shape[:2])


def picture_inputs(
    processor: ProcessorMixin,
    pictures: Sequence[Sequence[Any]],
    options: Mapping[str, Any],
    family: Family | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """
    Pictures that stand beside videos: the base's own inputs for them, and what it writes for each into a prompt.

    Args:
        processor: of the base.
        pictures: pictures of each prompt that has any; some bases treat several of one prompt otherwise than one.
        options: of the image processor.
        family: traits of the base's architecture; by default what the processor's class tells.

    Returns:
        The base's picture inputs as tensors, and one text per picture.
    """
    if not pictures:
        return {}, []
    placeholder, family = placeholder_of(processor), family or family_of(model_type_of(processor))
    # HunYuan-VL's processor insists on what its chat template writes around a placeholder; others do not look.
    start, end = (getattr(processor, name, None) or "" for name in ("image_start_token", "image_end_token"))
    nested = [list(row) for row in pictures]
    made = processor(
        text=[(start + placeholder + end) * len(row) for row in pictures],
        images=nested if family.takes_nested_pictures else [picture for row in nested for picture in row],
        padding=True,
        return_tensors="pt",
        return_text_replacement_offsets=True,
        **options,
    )
    if "text_replacement_offsets" in made:
        replacements = [one["replacement"] for row in made.pop("text_replacement_offsets") for one in row]
    else:
        replacements = [_written_alone(processor, picture, options) for row in pictures for picture in row]
    of_text = {name for name in made if name.endswith("token_type_ids")}
    of_text |= {"labels", *processor.tokenizer.model_input_names}
    return {name: value for name, value in made.items() if name not in of_text}, replacements


def placeholder_of(processor: ProcessorMixin) -> str | None:
    """What the chat template writes for a picture: the image token itself, but for families that have one for each."""
    return getattr(processor, "image_placeholder_token", None) or getattr(processor, "image_token", None)


def _written_alone(processor: ProcessorMixin, picture: Any, options: Mapping[str, Any]) -> str:
    """What a processor that does not report its replacements (Idefics2) writes for a picture in front of a word."""
    word = "x"
    text = placeholder_of(processor) + word
    made = processor(text=[text], images=[[picture]], add_special_tokens=False, **options)
    return processor.tokenizer.decode(made["input_ids"][0]).removesuffix(word)


__all__ = [
    "AddedTexts",
    "NoVideoProcessor",
    "VisualMarkers",
    "check_base_processor",
    "frame_inputs",
    "load_base_processor",
    "model_type_of",
    "picture_inputs",
    "tokens_of_frame",
    "placeholder_of",
]
