"""A bar for a single video that takes long: how many of its frames are read, then how many are encoded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm
from transformers.utils import logging

from ..video.progress import listening


_SECONDS_BEFORE = 1.0  # most videos are through before; ours
_WORDS = {"read": "Reading", "encode": "Encoding"}


def make_bar(asked: bool | None, **options: Any) -> Any:
    """
    A bar that is shown on a terminal only: transformers' own, which a program may hook; where its bars are switched
    off and one is asked for all the same, that of tqdm.

    Args:
        asked: what a caller said of bars; None where nothing, and transformers' setting counts.
        options: of tqdm.
    """
    is_on = logging.is_progress_bar_enabled()
    wanted = is_on if asked is None else asked
    return (logging.tqdm if is_on else tqdm)(disable=None if wanted else True, **options)


@contextmanager
def frames_bar(asked: bool | None = None) -> Iterator[None]:
    """
    Show on a terminal how far the video is that is worked on inside, if it takes longer than a second.

    Args:
        asked: see [`make_bar`].
    """
    with make_bar(asked, unit="frame", delay=_SECONDS_BEFORE, leave=False) as bar:
        stage_shown, began = None, time.monotonic()

        def show(stage: str, done: int, total: int) -> None:
            nonlocal stage_shown
            if (stage, total) != stage_shown:
                stage_shown = stage, total
                bar.total, bar.n, bar.last_print_n = total, 0, 0
                bar.set_description(_WORDS[stage], refresh=time.monotonic() - began >= _SECONDS_BEFORE)
            bar.update(done - bar.n)

        with listening(show):
            yield


__all__ = ["frames_bar", "make_bar"]
