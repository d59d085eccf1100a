"""
Packages whose names are loaded when they are first used.

torch, PyAV and TRL take seconds to import, and some of them may be missing. The command line, the Auto classes of
transformers and lmms-eval import a package to hear of its names only. So an `__init__.py` that has names of such
modules gives them as below, and repeats them under `TYPE_CHECKING`, where type checkers and the tests of the layers
see them. Nothing else loads a part of this package by its name, but `auto.py` for transformers.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .errors import LinVTInputError


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        module_of: names, and the module inside of the package that each is from.

    Returns:
        What loads a name, or one of these modules, and what lists all names.
    """
    parts = {module.partition(".")[0] for module in module_of.values()}

    def load(name: str) -> Any:
        if name in module_of:
            value = getattr(importlib.import_module(f".{module_of[name]}", package), name)
            setattr(sys.modules[package], name, value)
            return value
        if name in parts:
            return importlib.import_module(f".{name}", package)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of})

    return load, names


def required(name: str, extra: str) -> Any:
    """A module that an extra of this package brings, or an error that says so."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LinVTInputError(
            f"This needs {name.partition('.')[0]}, which is not installed. Run: pip install "
            f'"transformers-linvt[{extra}]".'
        ) from error


__all__ = ["lazy_names", "required"]
