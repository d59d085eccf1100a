"""Loading a base model and its processor, also where torchvision is missing, and refusing what cannot work."""

import contextlib
import copy
import inspect
import os
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
    processing_utils,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available
from transformers.video_processing_utils import VideoProcessorMixin

from ..errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError, check_folder
from .families import DENIED, ENCODER_DECODER
from .visuals import image_encoder


# Arguments of `from_pretrained` that say where the files are.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_CODE_ARGUMENTS = ("trust_remote_code", "code_revision")


# ---------------------------------------------------------------------------------------------------------------------
# The model
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
                "trust_remote_code=True; if LinVT does not know the architecture, register_base makes it known."
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
        "register_base."
        if "does not recognize" in reason
        else ""
    )
    return (
        f"{name_or_path!r} is no model that transformers knows: {reason}.{advice} LinVT needs an image-text model, "
        "such as a Qwen2-VL, InternVL, LLaVA or Gemma 3 checkpoint."
    )


def image_text_config(config: Any) -> Any:
    """
    The part of a config, or of its settings, that is the image-text model.

    Of Qwen Omni that is the part that thinks; the rest of the checkpoint is its voice, which is left out.
    """
    if isinstance(config, Mapping):
        part = config.get("thinker_config")
        return part if isinstance(part, Mapping) else config
    return getattr(config, "thinker_config", config)


def _from_pretrained(name_or_path: str, model_class: Any, **kwargs: Any) -> Any:
    try:
        return model_class.from_pretrained(name_or_path, **kwargs)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        where = {name: kwargs[name] for name in (*HUB_ARGUMENTS, *_CODE_ARGUMENTS) if name in kwargs}
        config = AutoConfig.from_pretrained(name_or_path, **where)
        if (part := image_text_config(config)) is config:
            if kwargs.get("trust_remote_code") and getattr(config, "auto_map", None):
                raise UnsupportedBaseError(
                    f"{name_or_path!r} ({config.model_type}) comes with code of its own, which gives "
                    "AutoModelForImageTextToText no class, so LinVT does not know how to talk to it. Write a bridge, "
                    "make it known with register_base(model_type, bridge) (docs/add_a_base.md), or take a version of "
                    "the model that transformers has; the names of many end in -hf."
                ) from error
            raise
        return AutoModelForImageTextToText.from_pretrained(name_or_path, config=part, **kwargs)


def check_base(base: nn.Module, takes_encoded: bool = True, image_token_id: int | None = None) -> None:
    """
    Refuse a base that cannot take video tokens.

    Args:
        base: the model.
        takes_encoded: whether it has to take them encoded (`mm_encoder_outputs`); a bridge may know another way.
        image_token_id: of its placeholder, as its bridge knows it; by default what its config says.

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
    if model_type in DENIED:
        raise UnsupportedBaseError(f"{model_type} is not supported: {DENIED[model_type]}. {advice}")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedBaseError(f"{model_type} is not supported: {ENCODER_DECODER}. {advice}")
    if takes_encoded and "mm_encoder_outputs" not in inspect.signature(base.forward).parameters:
        raise UnsupportedBaseError(
            f"{model_type} ({type(base).__name__}) does not accept encoded visual tokens. {advice}"
        )
    if language_head(base) is None:
        raise UnsupportedBaseError(
            f"{type(base).__name__} has no language head. Load it with AutoModelForImageTextToText. {advice}"
        )
    if takes_encoded and image_encoder(base) is None:
        raise UnsupportedBaseError(f"{model_type} has no get_image_features(), so frames cannot be encoded. {advice}")
    image_token_id = getattr(config, "image_token_id", None) if image_token_id is None else image_token_id
    if not isinstance(image_token_id, int):
        raise UnsupportedBaseError(
            f"{model_type}: config.image_token_id is {image_token_id!r}, not a token id, so there is no placeholder "
            "for video tokens. Set it to the id of the tokenizer's image token."
        )


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


# ---------------------------------------------------------------------------------------------------------------------
# The processor
# ---------------------------------------------------------------------------------------------------------------------


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
    names: Any = processing_utils.transformers_module
    if hasattr(names, "VideoProcessorMixin"):
        yield
        return
    names.VideoProcessorMixin = VideoProcessorMixin
    try:
        yield
    finally:
        del names.VideoProcessorMixin


def _reason_and_advice(name_or_path: str, error: OSError) -> str:
    """The file that a folder misses: transformers speaks of its site, and the network is not asked."""
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
    processor_class: Any = getattr(transformers, class_name or "", AutoProcessor)
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


__all__ = [
    "HUB_ARGUMENTS",
    "NoVideoProcessor",
    "check_base",
    "check_base_processor",
    "context_length",
    "image_text_config",
    "language_head",
    "load_base",
    "load_base_processor",
    "no_known_architecture",
    "video_processors_known",
    "visual_width",
]
