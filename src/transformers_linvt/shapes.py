"""The old name of `transformers_linvt.demo.shapes`, which goes in the next version."""

import warnings
from typing import Any

from .demo import shapes as _shapes


def __getattr__(name: str) -> Any:
    value = getattr(_shapes, name)
    if not name.startswith("__"):
        warnings.warn(
            "transformers_linvt.shapes is transformers_linvt.demo.shapes now. Import it from there.",
            FutureWarning,
            stacklevel=2,
        )
    return value
