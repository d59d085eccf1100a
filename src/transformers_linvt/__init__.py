"""
LinVT for transformers: a video goes into an image-text model as a few hundred weighted averages of its frame tokens.

Importing the package registers it with the Auto classes and pipelines of transformers, and does nothing else: names
are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .auto import register


__version__ = "0.1.0.dev0"

_MODULE_OF = {
    "CheckpointError": "model.errors",
    "FactoredWeights": "model.linear_video_tokenizer",
    "LinVTConfig": "model.configuration_linvt",
    "LinVTError": "model.errors",
    "LinVTForVideoQA": "model.modeling_linvt",
    "LinVTInputError": "model.errors",
    "LinVTModel": "model.modeling_linvt",
    "LinVTProcessor": "model.processing_linvt",
    "LinearVideoTokenizer": "model.linear_video_tokenizer",
    "LinearVideoTokenizerOutput": "model.linear_video_tokenizer",
    "UnsupportedBaseError": "model.errors",
    "VideoEvidence": "evidence",
    "VideoFeatures": "model.video_features",
    "VideoFrames": "model.video_reading",
    "VideoLimits": "model.video_limits",
    "VideoQuestionAnsweringPipeline": "pipeline",
    "VideoReadError": "model.errors",
    "embedded_base_path": "embedded",
    "embedded_model_path": "embedded",
    "read_video": "model.video_reading",
}

__all__ = [*_MODULE_OF, "__version__"]

if TYPE_CHECKING:
    from .embedded import embedded_base_path, embedded_model_path
    from .evidence import VideoEvidence
    from .model.configuration_linvt import LinVTConfig
    from .model.errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError, VideoReadError
    from .model.linear_video_tokenizer import FactoredWeights, LinearVideoTokenizer, LinearVideoTokenizerOutput
    from .model.modeling_linvt import LinVTForVideoQA, LinVTModel
    from .model.processing_linvt import LinVTProcessor
    from .model.video_features import VideoFeatures
    from .model.video_limits import VideoLimits
    from .model.video_reading import VideoFrames, read_video
    from .pipeline import VideoQuestionAnsweringPipeline


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


register()
