"""
The architectures that are known, each with its bridge: those of `families.py`, those of `kinds/`, and registered ones.

A file of `kinds/` makes its base known when it is imported, which is done here.
"""
# ruff: noqa: F401

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from ..errors import UnsupportedBaseError
from .base import BaseBridge, odd_bridge
from .convertible import CONVERTIBLE, how_to_convert
from .families import FAMILIES, family_of
from .kinds.blip import BlipBridge
from .kinds.emu3 import LinesOfCodes
from .kinds.ernie import ErnieBridge
from .kinds.got_ocr import GotOcrBridge
from .kinds.granite4 import Granite4Bridge
from .kinds.hunyuan import LinesWithEnds
from .kinds.idefics2 import Idefics2Bridge
from .kinds.janus import JanusBridge
from .kinds.kosmos import Kosmos2Bridge
from .kinds.lighton_ocr import WholeSquares
from .kinds.llama4 import Llama4Bridge
from .kinds.llava_onevision import PicturesOfOneSample
from .kinds.mllama import MllamaBridge
from .kinds.molmo import MolmoBridge
from .kinds.molmo2 import Molmo2View
from .kinds.ovis2 import Ovis2Bridge
from .kinds.paligemma import PaliGemmaBridge
from .kinds.pp_chart2table import PPChart2TableBridge
from .kinds.qwen_omni import QwenOmniBridge
from .kinds.shieldgemma2 import ShieldGemma2Bridge
from .kinds.step3 import Step3Bridge
from .loading import HUB_ARGUMENTS, image_text_config


def bridge_of(model_type: str) -> BaseBridge:
    """The bridge of an architecture: a registered one, else the common one with what is known of the family."""
    return odd_bridge(model_type) or BaseBridge(family_of(model_type))


# transformers (5.23) knows the processor of Kosmos-2 and does not list it; those of Qwen Omni it lists for the whole
# model, of which the thinker is what is wrapped.
_PROCESSORS = {
    "kosmos-2": "Kosmos2Processor",
    "qwen2_5_omni_thinker": "Qwen2_5OmniProcessor",
    "qwen3_omni_moe_thinker": "Qwen3OmniMoeProcessor",
    **PROCESSOR_MAPPING_NAMES,
}


def model_type_of(processor: ProcessorMixin) -> str:
    """The architecture a processor's class, or one it derives from, belongs to; "" where that does not tell."""
    for one in type(processor).__mro__:
        types = [name for name, class_name in _PROCESSORS.items() if class_name == one.__name__]
        if types:
            return next((name for name in types if name in FAMILIES or odd_bridge(name)), types[0])
    return ""


def bridge_at(name_or_path: str, loading: Mapping[str, Any]) -> BaseBridge:
    """
    The bridge of the base in a repository or folder; the common one, whose errors are good, if there is none.

    Raises:
        UnsupportedBaseError: it has to be converted first, and no bridge of its own is registered.
    """
    model_type = _architecture(_settings_at(name_or_path, loading))
    _check_needs_no_conversion(name_or_path, model_type)
    return bridge_of(model_type)


def _check_needs_no_conversion(name_or_path: str, model_type: str) -> None:
    if model_type in CONVERTIBLE and odd_bridge(model_type) is None:
        raise UnsupportedBaseError(how_to_convert(name_or_path, model_type))


def model_type_at(name_or_path: str, loading: Mapping[str, Any]) -> str:
    """What a repository or folder calls its architecture, or that of its base if it is a LinVT model; "" for none."""
    settings = _settings_at(name_or_path, loading)
    base = settings.get("base_config")
    return _architecture(base if isinstance(base, dict) else settings)


def load_processor_at(
    name_or_path: str, loading: Mapping[str, Any], model_type: str | None = None
) -> tuple[ProcessorMixin, str]:
    """
    The processor of the base in a repository or folder, and the architecture by which to talk to it.

    Args:
        name_or_path: of a base, or of a LinVT model, whose base it then is.
        loading: arguments of `from_pretrained`.
        model_type: instead of what is found there.

    Raises:
        CheckpointError, UnsupportedBaseError: see [`load_base_processor`]; also for a base to convert first.
    """
    found = model_type_at(name_or_path, loading)
    _check_needs_no_conversion(name_or_path, model_type or found)
    processor = bridge_of(model_type or found).load_processor(name_or_path, **loading)
    return processor, model_type or found or model_type_of(processor)


def _architecture(settings: Mapping[str, Any]) -> str:
    return image_text_config(settings).get("model_type") or ""


def _settings_at(name_or_path: str, loading: Mapping[str, Any]) -> dict[str, Any]:
    """A config as it stands in its file: its class may come with the checkpoint, and nobody has trusted that yet."""
    where = {name: loading[name] for name in HUB_ARGUMENTS if name in loading}
    try:
        settings = PreTrainedConfig.get_config_dict(name_or_path, **where)[0]
    except (OSError, ValueError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}  # JSON of another kind: whoever loads it says so


__all__ = ["bridge_at", "bridge_of", "load_processor_at", "model_type_at", "model_type_of"]
