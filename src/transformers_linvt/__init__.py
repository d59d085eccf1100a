"""
LinVT for transformers: a video goes into an image-text model as a few hundred weighted averages of its frame tokens.

Importing the package registers it with the Auto classes and pipelines of transformers, and does nothing else: names
are loaded when they are first used (see `lazy.py`).
"""

import sys
import warnings
from typing import TYPE_CHECKING, Any

from .auto import register
from .lazy import lazy_names


__version__ = "0.1.0.dev0"

_MODULE_OF = {
    "Answerer": "evaluation.answering",
    "BaseBridge": "bases.base",
    "Bench": "measuring",
    "CheckpointError": "errors",
    "EmbeddingsBridge": "bases.base",
    "EvaluationSettings": "evaluation.running",
    "FactoredWeights": "tokenizer.weights",
    "LinVTConfig": "model.configuration_linvt",
    "LinVTContrastiveConfig": "training.contrastive_trainer",
    "LinVTContrastiveTrainer": "training.contrastive_trainer",
    "LinVTDataCollator": "training.collator",
    "LinVTError": "errors",
    "LinVTForVideoQA": "model.modeling_linvt",
    "LinVTInputError": "errors",
    "LinVTModel": "model.modeling_linvt",
    "LinVTProcessor": "model.processing_linvt",
    "LinVTSFTConfig": "training.sft_config",
    "LinVTSFTTrainer": "training.sft_trainer",
    "LinearVideoTokenizer": "tokenizer.linear_video_tokenizer",
    "LinearVideoTokenizerOutput": "tokenizer.linear_video_tokenizer",
    "UnsupportedBaseError": "errors",
    "VideoEvidence": "evidence.evidence",
    "VideoFeatures": "model.features",
    "VideoFrames": "video.frames",
    "VideoLimits": "video.limits",
    "VideoQuestionAnsweringPipeline": "pipeline",
    "VideoReadError": "errors",
    "VideoStream": "model.video_stream",
    "WrapPlan": "planning",
    "answer_file": "pipeline.answer_file",
    "convert_checkpoint": "bases.conversion",
    "embedded_base_path": "demo.embedded",
    "embedded_model_path": "demo.embedded",
    "evaluate": "evaluation.running",
    "language_model_targets": "training.lora",
    "load_for_training": "training.lora",
    "load_video_dataset": "training.data",
    "lora_config": "training.lora",
    "plan_wrap": "planning",
    "read_video": "video.reading",
    "register_base": "bases.base",
    "save_instructed": "training.lora",
}

# Names of the version before, which still work, with a warning.
_RENAMED = {
    "BaseAdapter": "BaseBridge",
    "EmbeddingsAdapter": "EmbeddingsBridge",
    "register_base_vlm": "register_base",
}

__all__ = [*_MODULE_OF, "__version__"]

if TYPE_CHECKING:
    from .bases.base import BaseBridge, EmbeddingsBridge, register_base
    from .bases.conversion import convert_checkpoint
    from .demo.embedded import embedded_base_path, embedded_model_path
    from .errors import CheckpointError, LinVTError, LinVTInputError, UnsupportedBaseError, VideoReadError
    from .evaluation.answering import Answerer
    from .evaluation.running import EvaluationSettings, evaluate
    from .evidence.evidence import VideoEvidence
    from .measuring import Bench
    from .model.configuration_linvt import LinVTConfig
    from .model.features import VideoFeatures
    from .model.modeling_linvt import LinVTForVideoQA, LinVTModel
    from .model.processing_linvt import LinVTProcessor
    from .model.video_stream import VideoStream
    from .pipeline import VideoQuestionAnsweringPipeline
    from .pipeline.answer_file import answer_file
    from .planning import WrapPlan, plan_wrap
    from .tokenizer.linear_video_tokenizer import LinearVideoTokenizer, LinearVideoTokenizerOutput
    from .tokenizer.weights import FactoredWeights
    from .training.collator import LinVTDataCollator
    from .training.contrastive_trainer import LinVTContrastiveConfig, LinVTContrastiveTrainer
    from .training.data import load_video_dataset
    from .training.lora import language_model_targets, load_for_training, lora_config, save_instructed
    from .training.sft_config import LinVTSFTConfig
    from .training.sft_trainer import LinVTSFTTrainer
    from .video.frames import VideoFrames
    from .video.limits import VideoLimits
    from .video.reading import read_video


_load, __dir__ = lazy_names(__name__, _MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        return _load(name)
    new = _RENAMED[name]
    warnings.warn(f"{__name__}.{name} is now {new}; the old name will go.", FutureWarning, stacklevel=2)
    return getattr(sys.modules[__name__], new)


register()
