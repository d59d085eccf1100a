"""ShieldGemma 2: a Gemma 3 inside a classifier."""

from typing import Any

import transformers
from transformers import PreTrainedModel, ProcessorMixin

from ..base import BaseBridge, built_in
from ..families import Family
from ..loading import load_base, load_base_processor


class ShieldGemma2Bridge(BaseBridge):
    """ShieldGemma 2: a Gemma 3 inside a classifier, whose processor asks questions of its own."""

    can_be_included = False  # by itself transformers saves it under names that it does not load (5.23)

    def load(self, name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        """The Gemma 3 inside."""
        return load_base(name_or_path, transformers.ShieldGemma2ForImageClassification, **kwargs).model

    def load_processor(self, name_or_path: str, **kwargs: Any) -> ProcessorMixin:
        """Gemma 3's, around the same tokenizer and image processor."""
        parts: Any = load_base_processor(name_or_path, check=False, **kwargs)
        tokens = {"image_seq_length": parts.image_seq_length, "chat_template": parts.chat_template}
        return transformers.Gemma3Processor(parts.image_processor, parts.tokenizer, **tokens)


built_in(
    ShieldGemma2Bridge(
        Family(one_tile={"do_pan_and_scan": False}, notes=("asked as Gemma 3 is: its policies are not applied",))
    ),
    "shieldgemma2",
)

__all__ = ["ShieldGemma2Bridge"]
