"""Janus, whose processor writes its system prompt in front of every prompt."""

import sys
from dataclasses import replace

from transformers import ProcessorMixin

from ..base import BaseBridge, built_in
from ..markers import AddedTexts


class JanusBridge(BaseBridge):
    """Janus."""

    def added_texts(self, processor: ProcessorMixin) -> AddedTexts:
        added = super().added_texts(processor)
        if not getattr(processor, "use_default_system_prompt", False):
            return added
        return replace(added, first=sys.modules[type(processor).__module__].DEFAULT_SYSTEM_PROMPT)


built_in(JanusBridge(), "janus")

__all__ = ["JanusBridge"]
