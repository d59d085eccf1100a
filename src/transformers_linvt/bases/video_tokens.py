"""How many video tokens a base gets where nobody says it: as many as one of its frames has."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import ProcessorMixin
from transformers.utils import logging

from .loading import HUB_ARGUMENTS
from .registry import bridge_of, load_processor_at


logger = logging.get_logger(__name__)

COMMON_FRAME = (360, 640)  # height and width in pixels; for bases whose tokens per frame depend on the picture
_USUAL_VIDEO_TOKENS = 256  # M where a base cannot be asked for the tokens of a frame; as in LinVTConfig


def tokens_of_common_frame(processor: ProcessorMixin, model_type: str) -> int | None:
    """
    Visual tokens of one frame of 640 x 360 pixels, as the base's image processor makes it at its own settings.

    Most bases make every picture of one size, and then it is the number of any frame. What a base writes between the
    tokens (the newline of LLaVA-OneVision) counts.

    Returns:
        `int`, or None where the processor cannot count them.
    """
    frame = np.full((*COMMON_FRAME, 3), 128, dtype=np.uint8)
    try:
        return bridge_of(model_type).tokens_of_frame(processor, frame)
    except Exception as error:  # a processor of somebody else's may fail in any way
        logger.info(f"{type(processor).__name__} does not count the tokens of a frame: {error}")
        return None


def default_video_tokens(processor: ProcessorMixin, model_type: str) -> int:
    """
    M where nobody says it: as many video tokens as one frame of the base has, so that a still video loses nothing.

    Args:
        processor: of the base.
        model_type: its architecture.
    """
    num_tokens = tokens_of_common_frame(processor, model_type)
    if num_tokens is None:
        return _usual_video_tokens(f"{type(processor).__name__} does not count them")
    height, width = COMMON_FRAME
    logger.info_once(
        f"num_video_tokens={num_tokens}: as many as one frame of {height} x {width} pixels (height x width) has in "
        f"{model_type or 'this base'}. Give num_video_tokens, to model and processor alike, for another number."
    )
    return num_tokens


def default_video_tokens_at(name_or_path: str | None, loading: Mapping[str, Any]) -> int:
    """
    [`default_video_tokens`] of the base in a repository or folder; its processor is loaded for it.

    Args:
        name_or_path: None for a base that has no name.
        loading: arguments of `from_pretrained`; those that say where to look are used.
    """
    if not name_or_path:
        return _usual_video_tokens("the base is a loaded model without a name to find its processor by")
    where = {name: loading[name] for name in (*HUB_ARGUMENTS, "trust_remote_code") if loading.get(name) is not None}
    try:
        processor, model_type = load_processor_at(name_or_path, where)
    except Exception as error:  # a bridge of somebody else's may fail in any way
        return _usual_video_tokens(str(error))
    return default_video_tokens(processor, model_type)


def _usual_video_tokens(reason: str) -> int:
    logger.warning(
        f"num_video_tokens={_USUAL_VIDEO_TOKENS}, which may be less than one frame has: the tokens of a frame of this "
        f"base are not known ({reason}). Give num_video_tokens, to model and processor alike."
    )
    return _USUAL_VIDEO_TOKENS


__all__ = ["COMMON_FRAME", "default_video_tokens", "default_video_tokens_at", "tokens_of_common_frame"]
