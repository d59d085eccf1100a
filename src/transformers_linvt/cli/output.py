"""What the command line says besides its results: one line on stderr, and nothing of the libraries."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

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
