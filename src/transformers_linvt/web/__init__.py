"""
A page to ask about a clip, and to see what the answer depended on.

Names are loaded when they are first used: the command line asks for its arguments without torch.
"""

import importlib
from typing import Any


_MODULE_OF = {
    "PageSettings": "settings",
    "make_page": "page",
    "make_web_application": "running",
    "run_page": "running",
}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
