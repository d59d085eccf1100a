"""
Registration with transformers: the only lines that touch the Auto classes and the pipeline registry.

`import transformers` loads neither torch nor its Auto classes, and neither does importing this package: each registry
is filled at the moment transformers imports it.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import wrapt


MODEL_TYPE = "linvt"
PIPELINE_TASKS = ("video-question-answering", "video-text-to-text")

_PACKAGE = __package__


class _LazyClass:
    """
    Stands in a registry for a class whose module is loaded at first use.

    A model class cannot be imported while transformers is still importing its own modules, which is when its registry
    becomes available. `from_pretrained` and everything else is that of the class.
    """

    def __init__(self, module: str, name: str, config_class: type) -> None:
        self.__module__ = f"{_PACKAGE}.{module}"
        self.__name__ = self.__qualname__ = name
        self.config_class = config_class

    def _load(self) -> type:
        return getattr(importlib.import_module(self.__module__), self.__name__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._load(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._load()(*args, **kwargs)


_CONFIGURATION = f"{_PACKAGE}.model.configuration_linvt"
_BIASED_CONFIGURATION = f"{_PACKAGE}.bases.biased_llava.configuration_biased_llava"  # what `linvt convert` writes
_PIPELINE = f"{_PACKAGE}.pipeline"


def _config_class() -> type:
    return importlib.import_module(_CONFIGURATION).LinVTConfig


def _biased_config_class() -> type:
    return importlib.import_module(_BIASED_CONFIGURATION).BiasedLlavaConfig


def _load_configs(_: ModuleType) -> None:
    # Where a configuration of ours is what made transformers load its registry, it is half-way through its own import
    # here: then the hook on it, which runs when that is done, is enough.
    for name in (_CONFIGURATION, _BIASED_CONFIGURATION):
        if name not in sys.modules:
            importlib.import_module(name)


def _register_config(module: ModuleType) -> None:
    module.AutoConfig.register(MODEL_TYPE, module.LinVTConfig, exist_ok=True)


def _register_biased_config(module: ModuleType) -> None:
    module.AutoConfig.register(module.BiasedLlavaConfig.model_type, module.BiasedLlavaConfig, exist_ok=True)


def _register_model(module: ModuleType) -> None:
    model = _LazyClass("model.modeling_linvt", "LinVTForVideoQA", _config_class())
    for auto_class in (module.AutoModel, module.AutoModelForImageTextToText, module.AutoModelForMultimodalLM):
        auto_class.register(_config_class(), model, exist_ok=True)
    biased = "bases.biased_llava.modeling_biased_llava", "BiasedLlavaForConditionalGeneration", _biased_config_class()
    module.AutoModelForImageTextToText.register(_biased_config_class(), _LazyClass(*biased), exist_ok=True)


def _register_processor(module: ModuleType) -> None:
    processor = _LazyClass("model.processing_linvt", "LinVTProcessor", _config_class())
    module.AutoProcessor.register(_config_class(), processor, exist_ok=True)


def _load_pipeline(_: ModuleType) -> None:
    # As for the configuration: our pipeline may be what made transformers load its own.
    if _PIPELINE not in sys.modules:
        importlib.import_module(_PIPELINE)


def _register_pipelines(module: ModuleType) -> None:
    pipelines = importlib.import_module("transformers.pipelines")
    for task in PIPELINE_TASKS:
        pipelines.PIPELINE_REGISTRY.register_pipeline(
            task,
            pipeline_class=module.VideoQuestionAnsweringPipeline,
            pt_model=pipelines.AutoModelForImageTextToText,
            type="multimodal",
        )


def register() -> None:
    """Make LinVT known to transformers: at once where a registry is loaded already, else when it is."""
    for name, function in (
        (_CONFIGURATION, _register_config),
        (_BIASED_CONFIGURATION, _register_biased_config),
        ("transformers.models.auto.configuration_auto", _load_configs),
        ("transformers.models.auto.modeling_auto", _register_model),
        ("transformers.models.auto.processing_auto", _register_processor),
        (_PIPELINE, _register_pipelines),
        ("transformers.pipelines", _load_pipeline),
    ):
        wrapt.register_post_import_hook(function, name)
