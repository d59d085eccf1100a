"""
The code that travels with a checkpoint: written flat, because that is all that transformers collects.

The package lies in folders; transformers loads code beside a checkpoint by following `from .x import y` within one
folder. So what the classes of a checkpoint need is written into one folder at saving, each file under a name that says
where it is from: `tokenizer/weights.py` becomes `tokenizer_weights.py`, and files of `model/`, whose names are in
`auto_map`, and of the top keep theirs. Code that was itself loaded from a checkpoint is flat already and is written as
it is.
"""

import ast
import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .files import replacing


CODE_FOLDER = "code"

_ROOT = Path(__file__).resolve().parent

# transformers takes two checkpoints for the same code if the file of their configuration and all that this one names
# are the same, and then runs the model of the first for both. So it names the model, in a line that is never run.
_CONFIGURATION, _MODEL = "configuration_linvt", "modeling_linvt"
_NAMES_THE_MODEL = "\n".join(
    (
        "",
        "from typing import TYPE_CHECKING  # noqa: E402",
        "",
        "",
        "if TYPE_CHECKING:",
        f"    from .{_MODEL} import LinVTForVideoQA  # noqa: F401",
        "",
    )
)


def class_reference(module: str, name: str) -> str:
    """
    How `auto_map` names a class that `write_code` wrote.

    >>> class_reference("modeling_linvt", "LinVTForVideoQA")
    'code/modeling_linvt.LinVTForVideoQA'
    """
    return f"{CODE_FOLDER}/{module}.{name}"


def write_code(folder: str | os.PathLike, *classes: type) -> list[str]:
    """
    Write what `classes` need of this package into `folder/code`, one flat folder of modules.

    Args:
        folder: of the checkpoint; made if missing.
        classes: classes of this package, or of a copy of it that came with a checkpoint.

    Returns:
        list of paths that were written.

    Raises:
        OSError: the folder cannot be written.
    """
    target = Path(folder) / CODE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    written = []
    paths = _reachable(Path(inspect.getfile(one)).resolve() for one in classes)
    has_model = (target / f"{_MODEL}.py").exists() or any(path.stem == _MODEL for path in paths)
    for path in paths:
        destination = target / f"{_flat_name(path)}.py"
        source = _flat_source(path).replace(_NAMES_THE_MODEL, "")
        source += _NAMES_THE_MODEL if has_model and path.stem == _CONFIGURATION else ""
        with replacing(destination) as partial:
            partial.write_text(source, encoding="utf-8")
        written.append(str(destination))
    return written


def _reachable(paths: Iterator[Path]) -> list[Path]:
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
