"""Objects full of numbers, told in a line: what is in them, of which type and shape."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


_LONGEST = 60  # characters of a text that are told; ours


def short_repr(self: Any) -> str:
    """
    A dataclass with its arrays and tensors told by type and shape; for `__repr__`.

    Args:
        self: an instance of a dataclass.

    Example:

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Walk:
    ...     steps: list
    ...     name: str
    >>> short_repr(Walk([1.0] * 900, "home"))
    "Walk(steps=<list of 900>, name='home')"
    """
    told = ", ".join(f"{one.name}={_told(getattr(self, one.name))}" for one in fields(self) if one.repr)
    return f"{type(self).__name__}({told})"


def _told(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}...")
    if is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}(...)"
    if isinstance(value, list | tuple | set | Mapping) and (_is_long(value) or any(map(_is_full, value))):
        return f"<{type(value).__name__} of {len(value)}>"
    return repr(value)


def _is_long(value: Any) -> bool:
    return len(value) > 8


def _is_full(value: Any) -> bool:
    return hasattr(value, "shape") or isinstance(value, list | tuple | dict)


__all__ = ["short_repr"]
