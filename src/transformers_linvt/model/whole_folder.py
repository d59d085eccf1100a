"""
Saving several files as one: whenever a process is killed or a disk is full, all of them are the old or all the new.

New files are written into a folder inside the target (`.saving-...`), which is then renamed to `.saved`: from this
moment on they hold. What remains is to move them into place; if that is interrupted, whoever loads or saves next does
the rest. Until the rename nothing of what was there is touched.
"""

import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError


_STAGED, _READY, _LIST = ".saving-", ".saved", ".files"
_OLD = 24 * 3600  # seconds after which what another machine left unfinished is taken for dead; ours
_WEIGHTS = re.compile(r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


@contextlib.contextmanager
def saved_as_one(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A folder to write files into, which all appear in `folder` when the block ends, or none if it fails.

    Files of `folder` that are not written again stay; but weights that go do so with their shards and their index.

    Args:
        folder: made if missing.

    Raises:
        CheckpointError: a save that was interrupted cannot be finished.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    finish_saving(folder)
    _remove_remains(folder)
    staged = Path(tempfile.mkdtemp(prefix=f"{_STAGED}{socket.gethostname()}-{os.getpid()}-", dir=folder))
    try:
        yield staged
        names = [path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()]
        # config.json first: other programs read it before anything of ours is asked
        names.sort(key=lambda name: (name != "config.json", name))
        (staged / _LIST).write_text("\n".join(names), encoding="utf-8")
        _publish(staged, folder / _READY)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # somebody else has written into it
                folder.rmdir()
        raise
    finish_saving(folder)


def finish_saving(folder: str | os.PathLike) -> bool:
    """
    Finish a save that was interrupted after all files were written; whether there was one.

    Raises:
        CheckpointError: there was one, and the folder cannot be written.
    """
    folder = Path(folder)
    ready = folder / _READY
    try:
        names = (ready / _LIST).read_text(encoding="utf-8").split("\n")
    except OSError:  # none, or one of which only the empty folder is left
        if ready.is_dir():
            shutil.rmtree(ready, ignore_errors=True)
        return False
    try:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # moved before, or by another process at the same time
                os.replace(ready / name, folder / name)
        _remove_stale_weights(folder, names)
    except OSError as error:
        raise CheckpointError(
            f"Saving into {str(folder)!r} was interrupted when all files were written, and cannot be finished: "
            f"{error}. Make the folder writable and load or save once more."
        ) from error
    shutil.rmtree(ready, ignore_errors=True)
    return True


def _publish(staged: Path, ready: Path) -> None:
    for _ in range(100):  # another process that saves into the same folder may come in between, again and again
        try:
            staged.rename(ready)
            return
        except OSError:
            if not ready.exists():
                raise
            finish_saving(ready.parent)
    raise CheckpointError(f"Other processes keep saving into {str(ready.parent)!r}. Let one of them do it.")


def _remove_stale_weights(folder: Path, names: list[str]) -> None:
    """Remove shards and indices of the checkpoint before, which would be taken for parts of this one."""
    kinds = {kind for name in names if (kind := _kind_of_weights(name))}
    for parent, _ in kinds:
        for path in (folder / parent).iterdir():
            name = path.relative_to(folder).as_posix()
            if name not in names and _kind_of_weights(name) in kinds:
                path.unlink(missing_ok=True)


def _kind_of_weights(name: str) -> tuple[str, str | None] | None:
    """The folder of a file of weights and whether they are an adapter's; None of any other file."""
    parent, _, file = name.rpartition("/")
    found = _WEIGHTS.fullmatch(file)
    return (parent, found[1]) if found else None


def _remove_remains(folder: Path) -> None:
    """What processes that were killed left of their unfinished files."""
    for path in folder.glob(f"{_STAGED}*"):
        host, _, process = path.name.removeprefix(_STAGED).rpartition("-")[0].rpartition("-")
        with contextlib.suppress(OSError, ValueError):
            is_ours = host == socket.gethostname() and os.name == "posix"
            if not _is_alive(int(process)) if is_ours else time.time() - path.stat().st_mtime > _OLD:
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
