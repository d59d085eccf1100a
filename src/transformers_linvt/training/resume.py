"""Which checkpoint a run goes on from: the last that was written whole."""

import json
import os
import re
from collections.abc import Mapping

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..errors import CheckpointError


logger = logging.get_logger(__name__)


def find_whole_checkpoint(output_dir: str, wanted: str | bool) -> str:
    """
    The checkpoint to go on from.

    A checkpoint's `trainer_state.json` is written last: without it, or with half of it, the checkpoint is half-written
    (the run was killed while saving).

    Args:
        output_dir: where the run saves.
        wanted: a folder, or `True` for the last whole checkpoint of `output_dir`.

    Raises:
        `CheckpointError`: see above; the message names the last whole one.
    """
    folders = []
    if os.path.isdir(output_dir):
        numbered = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
        found = [(int(match[1]), name) for name in os.listdir(output_dir) if (match := numbered.fullmatch(name))]
        folders = [os.path.join(output_dir, name) for _, name in sorted(found)]
    whole = [folder for folder in folders if _is_whole(folder)]
    last = f"The last whole one is {whole[-1]!r}." if whole else "There is no whole one."
    if isinstance(wanted, bool):
        if not whole:
            raise CheckpointError(f"There is no whole checkpoint in {output_dir!r} to resume from. Start without one.")
        for folder in folders[folders.index(whole[-1]) + 1 :]:
            logger.warning(f"{folder} is half-written (the run was stopped while saving) and is left out.")
        return whole[-1]
    if not _is_whole(wanted):
        raise CheckpointError(f"{wanted!r} is no whole checkpoint: its trainer_state.json is missing or cut. {last}")
    return wanted


def find_checkpoint(output_dir: str, wanted: str | bool | None) -> str | None:
    """
    What `resume_from_checkpoint` says, in Python, in a YAML file or on a command line: a folder, or whether to go on.

    Args:
        output_dir: where the run saves.
        wanted: a folder; `True` or `"true"` for the last whole checkpoint; `False`, `"false"` or nothing for none. A
            folder of such a name is that folder.

    Raises:
        `CheckpointError`: see [`find_whole_checkpoint`].
    """
    if isinstance(wanted, str) and not os.path.isdir(wanted):
        wanted = _SAID.get(wanted.strip().lower(), wanted)
    return find_whole_checkpoint(output_dir, wanted) if wanted else None


_SAID = {**dict.fromkeys(("true", "yes", "1"), True), **dict.fromkeys(("false", "no", "0", "none", ""), False)}


def _is_whole(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "trainer_state.json"), encoding="utf-8") as file:
            return isinstance(json.load(file), Mapping)
    except (OSError, json.JSONDecodeError):
        return False
