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
    "BaseAdapter": "model.base_adapter",
    "CheckpointError": "model.errors",
    "EmbeddingsAdapter": "model.base_adapter",
    "FactoredWeights": "model.linear_video_tokenizer",
    "LinVTConfig": "model.configuration_linvt",
    "LinVTContrastiveConfig": "training.contrastive_trainer",
    "LinVTContrastiveTrainer": "training.contrastive_trainer",
    "LinVTDataCollator": "training.collator",
    "LinVTError": "model.errors",
    "LinVTForVideoQA": "model.modeling_linvt",
    "LinVTInputError": "model.errors",
    "LinVTModel": "model.modeling_linvt",
    "LinVTProcessor": "model.processing_linvt",
    "LinVTSFTConfig": "training.sft_trainer",
    "LinVTSFTTrainer": "training.sft_trainer",
    "LinearVideoTokenizer": "model.linear_video_tokenizer",
    "LinearVideoTokenizerOutput": "model.linear_video_tokenizer",
    "UnsupportedBaseError": "model.errors",
    "VideoEvidence": "evidence",
    "VideoFeatures": "model.video_features",
    "VideoFrames": "model.video_reading",
    "VideoLimits": "model.video_limits",
    "VideoQuestionAnsweringPipeline": "pipeline",
    "VideoReadError": "model.errors",
    "WrapPlan": "planning",
    "convert_checkpoint": "conversion",
    "embedded_base_path": "embedded",
    "embedded_model_path": "embedded",
    "language_model_targets": "training.adapters",
    "load_for_training": "training.adapters",
    "load_video_dataset": "training.examples",
    "lora_config": "training.adapters",
    "plan_wrap": "planning",
    "read_video": "model.video_reading",
    "register_base_vlm": "model.base_adapter",
    "save_instructed": "training.adapters",
}

__all__ = [*_MODULE_OF, "__version__"]

if TYPE_CHECKING:
    from .conversion import convert_checkpoint
    from .embedded import embedded_base_path, embedded_model_path
    from .evidence import VideoEvidence
    from .model.base_adapter import BaseAdapter, EmbeddingsAdapter, register_base_vlm
    from .model.configuration_linvt import LinVTConfig
    from .model.errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError, VideoReadError
    from .model.linear_video_tokenizer import FactoredWeights, LinearVideoTokenizer, LinearVideoTokenizerOutput
    from .model.modeling_linvt import LinVTForVideoQA, LinVTModel
    from .model.processing_linvt import LinVTProcessor
    from .model.video_features import VideoFeatures
    from .model.video_limits import VideoLimits
    from .model.video_reading import VideoFrames, read_video
    from .pipeline import VideoQuestionAnsweringPipeline
    from .planning import WrapPlan, plan_wrap
    from .training.adapters import language_model_targets, load_for_training, lora_config, save_instructed
    from .training.collator import LinVTDataCollator
    from .training.contrastive_trainer import LinVTContrastiveConfig, LinVTContrastiveTrainer
    from .training.examples import load_video_dataset
    from .training.sft_trainer import LinVTSFTConfig, LinVTSFTTrainer


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF.values():  # a module of its own is loaded when it is asked for, too
        return importlib.import_module(f".{name}", __name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULE_OF])


register()
