"""
A folder of files under keys: what one process made, the next one finds.

Written whole or not at all, safe for several processes at once, never larger than it may be, and never taken where it
was damaged: a file carries the digest of its content in its name.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transformers.utils import logging

from .errors import LinVTInputError


logger = logging.get_logger(__name__)

SUFFIX = ".safetensors"
_CHUNK = 1 << 22  # bytes read at once
_STALE_SECONDS = 24 * 3600.0  # nobody writes one file for so long

Found = TypeVar("Found")


def digest_of_file(path: str | os.PathLike) -> str:
    """A digest of the bytes of a file, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class FolderStore:
    """
    Args:
        folder: made if missing.
        option (`str`): what the user calls the folder, for messages.
        most_bytes (`int`, *optional*): of all files together; those that were not used for longest go first. Without
            it the disk is the limit.

    Raises:
        LinVTInputError: the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike, option: str, most_bytes: int | None = None) -> None:
        self.folder, self.option, self.most_bytes = Path(folder), option, most_bytes
        self._has_warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LinVTInputError(
                f"{option}={os.fspath(folder)!r} cannot be made: {error.strerror}. Name a folder."
            ) from error
        for path in self.folder.rglob("*.partial"):  # of a process that was killed while it wrote
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def get(self, key: str, load: Callable[[Path], Found]) -> Found | None:
        """
        What `load` makes of the file of a key; None where the file is missing or not whole.

        Args:
            key: hexadecimal digits.
            load: may raise [`LinVTInputError`], `OSError`, `KeyError`, `TypeError` or `ValueError`, for a file that
                is not one of its own: such a file is deleted.
        """
        for path in self._files_of(key):
            try:
                if digest_of_file(path) != path.name.split(".")[1]:
                    raise LinVTInputError(f"{path} is damaged.")
                found = load(path)
                os.utime(path)
            except FileNotFoundError:  # another process made room
                continue
            except (LinVTInputError, OSError, KeyError, TypeError, ValueError) as error:
                logger.warning(f"A file of {self.option} is not used, and the video encoded again: {error}")
                path.unlink(missing_ok=True)
                continue
            return found
        return None

    def has(self, key: str) -> bool:
        """Whether there is a file of a key, be it whole or not."""
        return bool(self._files_of(key))

    def put(self, key: str, save: Callable[[Path], Any]) -> None:
        """
        Keep what `save` writes at the path that it is given; a failure costs the file and is named once.

        Args:
            key: hexadecimal digits.
            save: may raise [`LinVTInputError`] or `OSError`, such as that of a full disk.
        """
        if self.has(key):  # another process was faster
            return
        folder = self.folder / key[:2]  # looking for one among very many files of a folder takes long
        partial = folder / f".{key}.{os.getpid()}.{threading.get_ident()}.partial"
        try:
            folder.mkdir(exist_ok=True)
            save(partial)
            size = partial.stat().st_size
            if self.most_bytes is None or size <= self.most_bytes:
                self._make_room(size)
                os.replace(partial, folder / f"{key}.{digest_of_file(partial)}{SUFFIX}")
        except (LinVTInputError, OSError) as error:  # a full disk costs the file, not the answer
            if not self._has_warned:
                logger.warning(
                    f"An encoded video was not kept in {self.option}={str(self.folder)!r}: "
                    f"{error.__cause__ or error}. Make room there, or name another folder. Further ones that cannot "
                    "be kept are not named."
                )
            self._has_warned = True
        finally:
            partial.unlink(missing_ok=True)

    def _files_of(self, key: str) -> list[Path]:
        return sorted((self.folder / key[:2]).glob(f"{key}.*{SUFFIX}"))

    def _make_room(self, size: int) -> None:
        if self.most_bytes is None:
            return
        files = []
        for path in self.folder.rglob(f"*{SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size_of_file for _, size_of_file, _ in files)
        for _, size_of_file, path in sorted(files):
            if total + size <= self.most_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size_of_file


__all__ = ["SUFFIX", "FolderStore", "digest_of_file"]
