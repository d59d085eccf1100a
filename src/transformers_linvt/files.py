"""Files and folders that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """
    A path to write a file or a folder at, which takes the place of `path` when the block ends, in one step.

    If the block fails, or the process is killed, what was at `path` is still there; a folder replaces only an empty
    folder or none.

    Raises:
        OSError: the file cannot be put into its place.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/answer.txt") as partial:
    ...         written = partial.write_text("red")
    ...     os.listdir(folder)
    ['answer.txt']
    """
    path = Path(path).absolute()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
