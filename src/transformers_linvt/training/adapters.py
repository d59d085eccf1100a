"""The old name of `transformers_linvt.training.lora`, which goes in the next version."""

import warnings
from typing import Any

from . import lora as _lora


def __getattr__(name: str) -> Any:
    value = getattr(_lora, name)
    if not name.startswith("__"):
        warnings.warn(
            "transformers_linvt.training.adapters is transformers_linvt.training.lora now. Import it from there.",
            FutureWarning,
            stacklevel=2,
        )
    return value
