"""
How a checkpoint names the base that it does not hold, and where that name leads.

A repository is named as on the Hub, a folder by its whole path, or by a relative one that starts with a dot and is
seen from the checkpoint. The base inside this package is named by itself: another environment has the package at
another place.
"""

import importlib.machinery
import os
import tempfile
from pathlib import Path

from ..errors import CheckpointError


_PACKAGE = "transformers_linvt"
_EMBEDDED = f"{_PACKAGE}:"
_ASSETS = Path("demo", "assets")


def is_embedded(name: str | os.PathLike | None) -> bool:
    """
    Whether a name stands for a model inside this package.

    >>> is_embedded("transformers_linvt:shapes_vlm"), is_embedded("org/base")
    (True, False)
    """
    return os.fspath(name or "").startswith(_EMBEDDED)


def reference_to(base: str | os.PathLike) -> str:
    """
    The name that a checkpoint gives a base: a folder by its whole path, a model inside this package by itself.

    >>> reference_to("org/base")
    'org/base'
    """
    name = os.fspath(base)
    if not os.path.isdir(name):
        return name
    folder = Path(name).resolve()
    for assets in _asset_folders():
        if folder.parent == assets:
            return f"{_EMBEDDED}{folder.name}"
    return os.path.abspath(name)


def base_location(name: str | None, checkpoint: str | os.PathLike) -> str | None:
    """
    Where the base that a checkpoint names can be loaded from.

    Args:
        name: in the checkpoint's config.
        checkpoint: folder or repository id. A folder may be a link: a relative name is seen from the folder that the
            link leads to, or, if nothing is there, from where the link lies.

    Raises:
        CheckpointError: the base is inside this package, which is not installed.
    """
    if name and is_embedded(name):
        return _embedded_folder(name)
    if not name or not name.startswith(".") or not os.path.isdir(checkpoint):
        return name
    seen_from = [os.path.realpath(checkpoint), os.path.abspath(checkpoint)]
    places = [os.path.normpath(os.path.join(folder, name)) for folder in seen_from]
    return next((place for place in places if os.path.isdir(place)), places[0])


def reference_from(save_directory: str | os.PathLike, name: str | None, found_at: str | None) -> str | None:
    """
    The name of the base as a checkpoint in `save_directory` gives it: a relative one may not lead there.

    Args:
        save_directory: of the checkpoint.
        name: in the config of the model.
        found_at: where the base was found when the model was loaded, if it was.
    """
    if not name or is_embedded(name):
        return name
    if not name.startswith("."):
        return reference_to(name)
    if found_at is None:
        return name
    leads_to = os.path.realpath(os.path.join(os.path.realpath(save_directory), name))
    return name if leads_to == os.path.realpath(found_at) else reference_to(found_at)


def will_outlive(save_directory: str | os.PathLike, base: str | None) -> bool:
    """
    Whether a checkpoint is likely to stay longer than the base that it refers to, a folder among temporary files.

    Args:
        save_directory: of the checkpoint.
        base: its reference to the base.
    """
    if not base or not os.path.isabs(base):
        return False
    temporary = Path(tempfile.gettempdir()).resolve()
    return Path(base).resolve().is_relative_to(temporary) and not Path(save_directory).resolve().is_relative_to(
        temporary
    )


def _embedded_folder(name: str) -> str:
    for assets in _asset_folders():
        if (folder := assets / name.removeprefix(_EMBEDDED) / "config.json").is_file():
            return str(folder.parent)
    raise CheckpointError(
        f"The base {name!r} is part of the package transformers-linvt, which was not found or is incomplete. Install "
        "it (pip install transformers-linvt), or save the checkpoint with include_base=True."
    )


def _asset_folders() -> list[Path]:
    """Where the models inside the package lie: beside this code, or, where it came with a checkpoint, installed."""
    own = Path(__file__).resolve().parents[1] / _ASSETS
    spec = None if own.is_dir() else importlib.machinery.PathFinder.find_spec(_PACKAGE)
    installed = spec.submodule_search_locations if spec is not None else ()
    return [own, *(Path(folder).resolve() / _ASSETS for folder in installed or ())]


__all__ = ["base_location", "is_embedded", "reference_from", "reference_to", "will_outlive"]
