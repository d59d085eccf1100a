"""
The code that travels with a checkpoint: written flat, because that is all that transformers collects.

The package lies in folders; transformers loads code beside a checkpoint by following `from .x import y` within one
folder. So what the classes of a checkpoint need is written into one folder at saving, each file under a name that says
where it is from: `tokenizer/weights.py` becomes `tokenizer_weights.py`, and files of `model/` and of the top keep
theirs. `linvt.py`, which `auto_map` names, has the classes. Code that was itself loaded from a checkpoint is flat
already and is written as it is.
"""

import ast
import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import replacing


CODE_FOLDER = "code"

# The file that names every class of a checkpoint. transformers copies code by the file that a class is asked of and
# what that one imports, and takes two checkpoints for one code if these files are the same: of one file for all
# classes there is one copy, which is the checkpoint's own.
_ENTRY = "linvt"
_CLASSES = {
    "LinVTConfig": "model/configuration_linvt.py",
    "LinVTForVideoQA": "model/modeling_linvt.py",
    "LinVTProcessor": "model/processing_linvt.py",
    "VideoQuestionAnsweringPipeline": "pipeline/video_question_answering.py",
}

_ROOT = Path(__file__).resolve().parent


def class_reference(name: str) -> str:
    """
    How `auto_map` and `custom_pipelines` name a class that `write_code` wrote.

    >>> class_reference("LinVTForVideoQA")
    'code/linvt.LinVTForVideoQA'
    """
    return f"{CODE_FOLDER}/{_ENTRY}.{name}"


def came_with_a_checkpoint() -> bool:
    """Whether this code is the copy of a checkpoint, and not the installed package."""
    return (_ROOT / f"{_ENTRY}.py").exists()


def write_code(folder: str | os.PathLike) -> list[str]:
    """
    Write what the classes of a checkpoint need of this package into `folder/code`, one flat folder of modules.

    Args:
        folder: of the checkpoint; made if missing.

    Returns:
        list of paths that were written.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(folder) / CODE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, source in _bundle().items():
        destination = target / f"{name}.py"
        with replacing(destination) as partial:
            partial.write_text(source, encoding="utf-8")
        written.append(str(destination))
    return written


@functools.cache
def _bundle() -> dict[str, str]:
    """The text of every file of the bundle, by its name."""
    entry = _ROOT / f"{_ENTRY}.py"
    if entry.exists():
        return {path.stem: path.read_text(encoding="utf-8") for path in _reachable([entry])}
    roots = {name: _ROOT / path for name, path in _CLASSES.items()}
    bundle = {_flat_name(path): _flat_source(path) for path in _reachable(roots.values())}
    lines = [f"from .{_flat_name(path)} import {name}" for name, path in roots.items()]
    bundle[_ENTRY] = "\n".join(
        ['"""The classes of this checkpoint."""', "", *lines, "", "", f"__all__ = {[*roots]}", ""]
    )
    return bundle


def _reachable(paths: Iterable[Path]) -> list[Path]:
    """The files themselves and all that they import of this package, directly or not, in alphabetical order."""
    waiting, found = list(paths), set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [imported for _, imported in _own_imports(path)]
    return sorted(found)


def _own_imports(path: Path) -> Iterator[tuple[ast.ImportFrom, Path]]:
    """Every `from .x import y` of a file, and the file that it names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            yield node, path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")


def _flat_name(path: Path) -> str:
    folders = [part for part in path.relative_to(_ROOT).parent.parts if part != "model"]
    return "_".join([*folders, path.stem])


def _flat_source(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n")
    for node, imported in _own_imports(path):
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = re.sub(r"from\s+\.+[\w.]+", f"from .{_flat_name(imported)}", line, count=1)
    return "\n".join(lines)
