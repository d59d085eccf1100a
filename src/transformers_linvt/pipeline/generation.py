"""What generate() takes and what it refuses, known before a video is read."""

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    GenerationMixin,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from ..errors import LinVTInputError


_GENERATES: Any = GenerationMixin  # its types do not name generate()
# What generate() takes: the fields of its configuration and its own arguments, but for the inputs.
GENERATION_ARGUMENTS = frozenset(
    {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    | (set(inspect.signature(_GENERATES.generate).parameters) - {"self", "inputs", "kwargs"})
    | {"tokenizer"}
)


# What generate() builds from an argument, in the midst of a run: value that is off, class, whether for sampling only.
_BUILT_BY_GENERATE: dict[str, tuple[float | None, Callable[[Any], Any], bool]] = {
    "temperature": (1.0, TemperatureLogitsWarper, True),
    "top_k": (0, TopKLogitsWarper, True),
    "top_p": (1.0, TopPLogitsWarper, True),
    "min_p": (None, MinPLogitsWarper, True),
    "typical_p": (1.0, TypicalLogitsWarper, True),
    "epsilon_cutoff": (0.0, EpsilonLogitsWarper, True),
    "eta_cutoff": (0.0, EtaLogitsWarper, True),
    "repetition_penalty": (1.0, RepetitionPenaltyLogitsProcessor, False),
    "no_repeat_ngram_size": (0, NoRepeatNGramLogitsProcessor, False),
}
_LEAST = {
    "max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_return_sequences": 1,
}  # fmt: skip


def check_generation(given: Mapping[str, Any], of_model: GenerationConfig | None) -> None:
    """Refuse what generate() would refuse, before a video is read; the error names the argument."""
    given = {name: value for name, value in given.items() if value is not None}
    config = given.pop("generation_config", None)
    if config is not None and not isinstance(config, GenerationConfig):
        raise LinVTInputError(f"generation_config is a {type(config).__name__}. Give a GenerationConfig.")
    for name, least in _LEAST.items():
        if name in given and not _is_whole_number(given[name], least):
            raise LinVTInputError(f"{name}={given[name]!r}: give a whole number, {least} or more.")
    known = vars(GenerationConfig())
    set_before = {**(of_model.to_diff_dict() if of_model else {}), **(config.to_diff_dict() if config else {})}
    fields = {name: value for name, value in given.items() if name in known}
    together = {name: value for name, value in {**set_before, **fields}.items() if name in known}
    for name, (off, build, if_sampling) in _BUILT_BY_GENERATE.items():
        value = fields.get(name, off)
        if value == off:
            continue
        # where nothing is sampled, generate() leaves these alone, and temperature=0 is a usual way to say so
        unused = if_sampling and not together.get("do_sample")
        if unused and isinstance(value, int | float) and value >= 0:
            continue
        _refused_by(build, value, {name: value})
    if fields:
        _refused_by(lambda all_of_them: GenerationConfig(**all_of_them), together, fields)


def _refused_by(check: Callable[[Any], Any], value: Any, given: Mapping[str, Any]) -> None:
    """Call what checks a value; its complaint names the arguments it is about."""
    try:
        check(value)
    except (TypeError, ValueError) as error:
        to_blame = [name for name in given if name in str(error)] or list(given)
        shown = ", ".join(f"{name}={given[name]!r:.80}" for name in to_blame)
        raise LinVTInputError(f"generate() does not take {shown}: {error}") from error


def _is_whole_number(value: Any, least: int) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False
