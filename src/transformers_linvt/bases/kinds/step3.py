"""Step3, which splits a picture that is much wider than high, whatever its options."""

from typing import Any

import numpy as np
import torch
from transformers import ProcessorMixin

from ..base import BaseBridge, built_in


class Step3Bridge(BaseBridge):
    """Step3: its global view alone is all of a frame."""

    def frame_inputs(
        self,
        processor: ProcessorMixin,
        frames: list[np.ndarray],
        options: Any = None,
        merges_steps: bool = False,
    ) -> dict[str, Any]:
        """Without the local patches."""
        inputs = super().frame_inputs(processor, frames, options, merges_steps)
        inputs = {name: inputs[name] for name in inputs if name not in ("pixel_values_local", "patch_newline_masks")}
        if (counts := inputs.get("num_local_patches")) is not None:
            inputs["num_local_patches"] = torch.zeros_like(counts)
        return inputs

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        return self.tokens_of_prepared_frame(processor, frame)


built_in(Step3Bridge(), "step3p7")

__all__ = ["Step3Bridge"]
