"""The model of a command: asked for once, and refused in words of ours."""

import argparse
import os
from typing import Any

import huggingface_hub
import transformers

import transformers_linvt

from ..errors import CheckpointError, LinVTError, LinVTInputError, check_folder


_CONNECT_SECONDS = 10


def load(
    model: str | None,
    device: str | None,
    dtype: str,
    skip_duplicate_frames: bool | float | None = None,
    **options: Any,
) -> Any:
    """The pipeline; what transformers and torch say about a bad name or device becomes an error of ours."""
    name = transformers_linvt.embedded_model_path() if model is None else model
    check_folder(name)
    check_reachable(name)
    kind = _kind_of(name)
    if kind not in (None, transformers_linvt.LinVTConfig.model_type):
        raise LinVTInputError(
            f"{name!r} ({kind}) is no LinVT model. Put LinVT around it with linvt wrap, or with "
            "LinVTForVideoQA.from_base(model) in Python."
        )
    try:
        make: Any = transformers.pipeline  # its types know the tasks of transformers alone
        pipe = make("video-question-answering", model=name, device=device, dtype=dtype, **options)
    except LinVTError:
        raise
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        on = f" on the device {device!r}" if device else ""
        raise CheckpointError(f"The model {name!r} could not be loaded{on}: {error}") from error
    if skip_duplicate_frames is not None:
        pipe.processor.skip_duplicate_frames = skip_duplicate_frames
    return pipe


def _kind_of(name: str) -> Any:
    """`model_type` of a config; None where it cannot be read: the loader says best why."""
    try:
        settings = transformers.PreTrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError, TypeError):
        return None
    return settings.get("model_type") if isinstance(settings, dict) else type(settings).__name__


def trusted(arguments: argparse.Namespace) -> dict[str, bool]:
    """What a loader is told where the code of a repository may run."""
    return {"trust_remote_code": True} if arguments.trust_remote_code else {}


def check_reachable(name: str, revision: str | None = None) -> None:
    """
    Ask once for a repository that is to be downloaded, without trying again.

    The loaders try six times for each of a dozen files, which takes minutes where there is no network.
    """
    hub = huggingface_hub
    if os.path.exists(name) or name.startswith(("/", ".", "~")) or hub.constants.HF_HUB_OFFLINE:
        return
    try:
        hub.utils.validate_repo_id(name)
    except ValueError:  # no id of a repository: the loader says so
        return
    if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "config.json", revision=revision), timeout=_CONNECT_SECONDS)
    except hub.errors.EntryNotFoundError:  # there, without this file: the loader says what is missing
        return
    except hub.errors.HfHubHTTPError as error:
        reason = str(error).strip()
        raise CheckpointError(
            f"The model {name!r} could not be loaded: the hub answered {reason} Check the name, and that you may "
            "read it."
        ) from error
    except Exception as error:  # of the HTTP library, which is not the same in all versions of the hub's
        raise CheckpointError(
            f"The model {name!r} could not be loaded: {hub.constants.ENDPOINT} was not reached "
            f"({error or type(error).__name__}). Check the network, or give a folder."
        ) from error
