"""
What transformers calls the cache of keys and values: `past_key_values` until 5.23, `cache` since 5.24.

5.24 still takes the old name and says that it is going; before it nothing knows the new one. A caller may use either.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers.modeling_outputs import CausalLMOutputWithPast

from ..errors import LinVTInputError


_OLD_NAME, _NEW_NAME = "past_key_values", "cache"
# of the transformers that is installed, in calls and in outputs
CACHE_NAME = _NEW_NAME if any(field.name == _NEW_NAME for field in fields(CausalLMOutputWithPast)) else _OLD_NAME


def with_cache_named(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """
    The same keyword arguments, with the cache under the name that the transformers that is installed has for it.

    Raises:
        LinVTInputError: it was given under both names.

    >>> list(with_cache_named({"past_key_values": None, "use_cache": True})) == [CACHE_NAME, "use_cache"]
    True
    """
    if _OLD_NAME in inputs and _NEW_NAME in inputs:
        raise LinVTInputError(
            f"The cache was given twice, as {_NEW_NAME} and as {_OLD_NAME}. Give {CACHE_NAME} alone."
        )
    return {CACHE_NAME if name in (_OLD_NAME, _NEW_NAME) else name: value for name, value in inputs.items()}


__all__ = ["CACHE_NAME", "with_cache_named"]
