"""What the command line says besides its results: one line on stderr, and nothing of the libraries."""

import contextlib
import logging
import re
import sys
import warnings
from collections.abc import Iterable, Iterator

import transformers

import transformers_linvt


# They tell of every attempt to reach the network; how it ends is in the error.
# torchao, which PEFT loads where it is installed, says which of its kernels this machine has no use for
_TALKATIVE = (
    "filelock",
    "httpcore",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "torch.utils._pytree",
    "torchao",
    "urllib3",
)


def complain(message: str) -> None:
    """One line on stderr, whatever the message looks like."""
    print("linvt:", " ".join(message.split()), file=sys.stderr)


def in_flags(message: str, given: Iterable[str]) -> str:
    """
    A message with arguments of Python as those of the command line.

    Args:
        message: of an error or a warning.
        given: names of the command's arguments, with underscores.

    Example:

    >>> in_flags("num_frames=2 and fps=1.0: pass one, or allow_urls=True.", ["num_frames", "fps", "allow_urls"])
    '--num-frames 2 and --fps 1.0: pass one, or --allow-urls.'
    """
    message = re.sub(r"limits=VideoLimits\((\w+=[^)]*)\)", r"--limit \1", message)
    names = "|".join(sorted(map(re.escape, given), key=len, reverse=True))
    pattern = rf"(?<![\w.'?&-])({names})=(\.\.\.|\([^)]*\)|'[^']*'|[^\s,;:)]*[^\s,;:).])"

    def flag(match: re.Match) -> str:
        option = f"--{match[1].replace('_', '-')}"
        return option if match[2] == "True" else f"{option} {match[2]}"

    return re.sub(pattern, flag, message) if names else message


@contextlib.contextmanager
def quiet(verbose: bool, notes: list[str]) -> Iterator[None]:
    """Keep the libraries silent, and our own warnings for the end, so that a failure is one line."""
    if verbose:
        yield
        return

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    own, collector = logging.getLogger(transformers_linvt.__name__), Collector(logging.WARNING)
    log, had_bars, propagated = transformers.logging, transformers.logging.is_progress_bar_enabled(), own.propagate
    verbosity = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    own.addHandler(collector)
    own.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        own.removeHandler(collector)
        own.propagate = propagated
        log.set_verbosity(verbosity)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if had_bars:
            log.enable_progress_bar()
