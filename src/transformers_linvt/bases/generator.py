"""`generate` of transformers for bases that cannot run it by themselves on embedded prompts with a video."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel


class BorrowedGenerator(PreTrainedModel, GenerationMixin):
    """
    `generate` of transformers around a base that cannot run it by itself; subclasses say what a step is (`forward`).

    It holds no weights and is made for one call: the model is kept beside it, not in it.

    Args:
        base: the model.
    """

    generate: Any  # of GenerationMixin, whose types do not name it
    _supports_sdpa = True
    main_input_name = "input_ids"

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__(base.config)
        self._held = (base,)
        self.generation_config = getattr(base, "generation_config", None) or GenerationConfig()

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self._held[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model."""
        return self._held[0].dtype

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings of the model."""
        return self._held[0].get_input_embeddings()


__all__ = ["BorrowedGenerator"]
