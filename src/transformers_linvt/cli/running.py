"""`linvt run`: the questions of a file, answered by as many processes as there are."""

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import transformers_linvt

from ..errors import LinVTInputError
from .asking import sampling_of_arguments
from .loading import load, trusted
from .output import complain


_PATIENCE = timedelta(days=30)  # processes wait for the slowest of them


def run(arguments: argparse.Namespace) -> None:
    """Answer the rows of a file of JSON lines; the same command goes on where it was stopped."""
    process, num_processes, device, wait = _processes(arguments.device)
    sampling = sampling_of_arguments(arguments)
    settings = {
        "model": "embedded" if arguments.model is None else arguments.model,
        "dtype": arguments.dtype,
        "max_new_tokens": arguments.max_new_tokens,
        **{name: repr(value) for name, value in sampling.items()},
    }
    if arguments.skip_duplicate_frames is not None:
        settings["skip_duplicate_frames"] = repr(arguments.skip_duplicate_frames)
    how: dict[str, Any] = {**sampling, "num_workers": arguments.num_workers, "progress_bar": False}
    if arguments.max_new_tokens:
        how["max_new_tokens"] = arguments.max_new_tokens
    if arguments.video_root is not None:
        how["video_root"] = arguments.video_root
    rows, errors = transformers_linvt.answer_file(
        lambda: load(arguments.model, device, arguments.dtype, arguments.skip_duplicate_frames, **trusted(arguments)),
        arguments.input,
        arguments.output,
        settings,
        batch_size=arguments.batch_size,
        retries_errors=arguments.retry_errors,
        process=process,
        num_processes=num_processes,
        wait=wait,
        **how,
    )
    if process:
        return
    print(f"{arguments.output}: {rows} rows, {errors} with an error")
    if errors == rows:
        raise LinVTInputError("No row was answered. The errors are in the output.")
    if errors:
        complain(f"note: {errors} of {rows} rows were not answered; --retry-errors tries them again.")


def _processes(device: str | None) -> tuple[int, int, str | None, Callable[[], None]]:
    """The number of this process, how many there are, its device, and how it waits for the others."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1, device, lambda: None
    try:
        import torch
        from accelerate import PartialState
    except ImportError as error:
        raise LinVTInputError(
            "Several processes need accelerate. Install it (pip install accelerate), or start linvt run alone."
        ) from error
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=_PATIENCE)
    return state.process_index, state.num_processes, device or str(state.device), state.wait_for_everyone
