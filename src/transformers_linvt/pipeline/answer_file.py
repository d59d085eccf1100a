"""
A file of questions about videos -> a file of answers: over days, over processes, over whatever kills them.

Rows are answered in units of a batch. Every process appends whole rows to a part file beside the output; when all rows
are there the parts become the output in one step, in the order of the input. A run that was killed goes on with the
units that are not complete, so that a row is answered in the same batch whatever happened, and there once.
"""

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LinVTInputError, shown
from ..files import replacing


# What of an answer stands in its row, beside the answer itself
_TOLD = ("score", "frames_seen", "frame_tokens", "video_tokens", "error")
_SETTINGS = "linvt_run"  # the key of the first line of a part


@dataclass
class Row:
    """
    One line of the input.

    Attributes:
        number (`int`): of the line, from 1.
        id (`str` or `int`): the row's own, or the number.
        content (`dict`): of the line.
        error (`str`, *optional*): why it asks nothing.
    """

    number: int
    id: Any
    content: dict[str, Any]
    error: str | None = None


def read_rows(path: str | os.PathLike) -> list[Row]:
    """
    The rows of a file of JSON lines; a line that is no row becomes one that says why.

    Raises:
        LinVTInputError: the file cannot be read, has no row, or two rows have one id.
    """
    rows = []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows.append(_row_of(number, line))
    except OSError as error:
        raise LinVTInputError(f"{os.fspath(path)!r} cannot be read: {error.strerror}. Give a file of rows.") from error
    if not rows:
        raise LinVTInputError(f'{os.fspath(path)!r} has no row. Write {{"video": ..., "question": ...}} on each line.')
    first: dict[str, int] = {}
    for row in rows:
        if (before := first.setdefault(_text_of(row.id), row.number)) != row.number:
            raise LinVTInputError(
                f"Lines {before} and {row.number} of {os.fspath(path)!r} have the same id {shown(row.id)}. Give each "
                "its own, or none of them any."
            )
    return rows


def _row_of(number: int, line: bytes) -> Row:
    try:
        content = json.loads(line)
    except ValueError as error:
        return Row(number, number, {}, f"Line {number} is no JSON: {error}")
    if not isinstance(content, dict):
        return Row(number, number, {}, f"Line {number} is no row, but {shown(content)}.")
    given = content.get("id", number)
    if isinstance(given, bool) or not isinstance(given, str | int):
        return Row(number, number, content, f"The id of line {number} is {shown(given)}. Give text or a whole number.")
    return Row(number, given, content)


class AnswerFile:
    """
    The output of a run, and the parts that it grows from.

    Args:
        path: of the output.
        rows: of the input.
        settings: what answers depend on; parts of a run with others are refused.
        retries_errors: whether rows that have an error are answered again.
    """

    def __init__(
        self, path: str | os.PathLike, rows: Sequence[Row], settings: Mapping[str, Any], retries_errors: bool = False
    ) -> None:
        self.path, self.rows, self.retries_errors = Path(path), rows, retries_errors
        self.settings = json.loads(json.dumps(dict(settings)))
        if not self.path.absolute().parent.is_dir():
            raise LinVTInputError(f"The folder {self.path.absolute().parent} does not exist. Make it first.")

    def parts(self) -> list[Path]:
        """The part files that there are."""
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part-*"))

    def answered(self, with_errors: bool = True) -> dict[str, bytes]:
        """
        The lines that are there, by id.

        Args:
            with_errors: whether rows count that have an error.

        Raises:
            LinVTInputError: lines of another input, of other settings, or of something else.
        """
        asked = {_text_of(row.id): row for row in self.rows}
        found = {}
        for path in (self.path, *self.parts()):
            for line in self._lines(path):
                told = _object_of(line, path)
                row = asked.get(_text_of(told.get("id")))
                if row is None or any(
                    _text_of(told.get(name)) != _text_of(row.content.get(name)) for name in ("video", "question")
                ):
                    raise LinVTInputError(
                        f"{path} has the row {shown(told.get('id'))}, which is not one of this input. Name another "
                        "output, or delete it."
                    )
                if with_errors or "error" not in told:
                    found[_text_of(row.id)] = line
        return found

    def _lines(self, path: Path) -> Iterator[bytes]:
        """The whole lines of a file; a last one without its end is what a killed process left."""
        if not path.exists():
            return
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    return
                if path != self.path and not number:
                    self._check_settings(path, _object_of(line, path).get(_SETTINGS))
                    continue
                yield line

    def _check_settings(self, path: Path, settings: Any) -> None:
        if not isinstance(settings, dict):
            raise LinVTInputError(f"{path} is no part of a run. Move it, or name another output.")
        if settings != self.settings:
            names = sorted(settings.keys() | self.settings.keys())
            other = [name for name in names if settings.get(name) != self.settings.get(name)]
            raise LinVTInputError(
                f"{path} was begun with {', '.join(f'{name}={settings.get(name)!r}' for name in other)}, now it is "
                f"{', '.join(f'{name}={self.settings.get(name)!r}' for name in other)}. Go on as it was begun, name "
                "another output, or delete the part."
            )

    def open_units(self, size: int) -> tuple[list[list[Row]], list[Row]]:
        """
        What remains: rows in units of `size`, of which one that lacks a row is done again, and rows that ask nothing.

        Those that ask nothing take no place in a unit, so that all units but the last of a file are full.
        """
        done = self.answered(with_errors=not self.retries_errors)
        asking = [row for row in self.rows if row.error is None]
        units = [asking[start : start + size] for start in range(0, len(asking), size)]
        silent = [row for row in self.rows if row.error is not None and _text_of(row.id) not in done]
        return [unit for unit in units if not all(_text_of(row.id) in done for row in unit)], silent

    def append(self, process: int, units: Iterable[Sequence[bytes]]) -> None:
        """
        Write the lines of units to the part of a process, each unit as soon as it is there.

        Args:
            process: the number of this process.
            units: lines.
        """
        path = self.path.with_name(f"{self.path.name}.part-{process}")
        _cut_half_line(path)
        with path.open("ab", buffering=0) as file:
            if not file.tell():
                _write(file, _line({_SETTINGS: self.settings}))
            for lines in units:
                _write(file, b"".join(lines))

    def finish(self) -> int:
        """
        Put the parts together, in the order of the input; returns how many rows have an error.

        Raises:
            LinVTInputError: rows are missing.
        """
        done = self.answered()
        if missing := [row.id for row in self.rows if _text_of(row.id) not in done]:
            raise LinVTInputError(
                f"{len(missing)} of {len(self.rows)} rows are not answered, such as {shown(missing[0])}: a process "
                "ended early. Run the same command again, which goes on from here."
            )
        lines = [done[_text_of(row.id)] for row in self.rows]
        for stale in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.partial"):  # of one killed just here
            stale.unlink(missing_ok=True)
        with replacing(self.path) as partial, partial.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        for part in self.parts():
            part.unlink(missing_ok=True)
        return sum("error" in json.loads(line) for line in lines)


def answer_units(pipe: Any, units: Sequence[Sequence[Row]], size: int, **how: Any) -> Iterator[list[bytes]]:
    """
    The lines of units of rows, one unit after the other.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]).
        units: all of `size` rows but the last.
        size: rows that are answered at once.
        how: further arguments of the pipeline.
    """

    def inputs() -> Iterator[dict[str, Any]]:
        for unit in units:
            yield from (_input_of(row) for row in unit if row.error is None)

    answers = iter(pipe(inputs(), batch_size=size, on_error="record", **how))
    for unit in units:
        yield [_line(_told(row, next(answers) if row.error is None else None)) for row in unit]


def lines_of_errors(rows: Sequence[Row]) -> list[bytes]:
    """The lines of rows that ask nothing."""
    return [_line(_told(row, None)) for row in rows]


def _input_of(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.content.items() if name != "id"}


def _told(row: Row, results: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """A row of the output: what was asked, and the answer, or a list of them where a list was asked."""
    told = {"id": row.id, **{name: row.content[name] for name in ("video", "question") if name in row.content}}
    if results is None:
        return {**told, "answer": None, "error": row.error}
    is_list = isinstance(row.content.get("question"), list)
    told["answer"] = [one["answer"] for one in results] if is_list else results[0]["answer"]
    for name in _TOLD:
        if name in results[0]:
            told[name] = [one[name] for one in results] if is_list and name == "score" else results[0][name]
    return told


def share_of(units: Sequence[Any], process: int, num_processes: int) -> Sequence[Any]:
    """
    What of a list a process takes: neighbours, which often ask about one video.

    >>> [list(share_of(range(7), process, 3)) for process in range(3)]
    [[0, 1], [2, 3], [4, 5, 6]]
    """
    first, behind = (len(units) * (process + one) // num_processes for one in (0, 1))
    return units[first:behind]


def answer_file(
    make_pipe: Callable[[], Any],
    source: str | os.PathLike,
    target: str | os.PathLike,
    settings: Mapping[str, Any],
    batch_size: int = 1,
    retries_errors: bool = False,
    process: int = 0,
    num_processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    **how: Any,
) -> tuple[int, int]:
    """
    Answer the rows of a file.

    Args:
        make_pipe: makes the [`VideoQuestionAnsweringPipeline`], where there is something to answer.
        source: of JSON lines with `video` and `question` (or `messages`), `id` and sampling arguments, as they like.
        target: the file to write; a run that was killed goes on from the parts beside it.
        settings: what answers depend on, to tell a part of another run.
        batch_size: rows that are answered at once.
        retries_errors: whether rows that have an error are answered again.
        process, num_processes: of several processes that share the rows.
        wait: returns when all processes have come as far.
        how: further arguments of the pipeline.

    Returns:
        `tuple[int, int]`: the numbers of rows, and of those with an error.

    Raises:
        LinVTInputError: a file that cannot be read, or an output of another input or of other settings.
    """
    rows = read_rows(source)
    output = AnswerFile(target, rows, {**settings, "batch_size": batch_size}, retries_errors)
    units, silent = output.open_units(batch_size)
    wait()  # nobody writes before everybody has seen what is there
    if silent and not process:
        output.append(process, [lines_of_errors(silent)])
    if own := share_of(units, process, num_processes):
        output.append(process, answer_units(make_pipe(), own, batch_size, **how))
    wait()
    return len(rows), 0 if process else output.finish()


def _text_of(given: Any) -> str:
    return json.dumps(given)


def _line(told: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(told, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a pair of surrogates, which JSON may hold and UTF-8 may not
        return json.dumps(told).encode() + b"\n"


def _object_of(line: bytes, path: Path) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise LinVTInputError(f"{path} holds something else than rows. Move it, or name another output.")
    return told


def _write(file: Any, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _cut_half_line(path: Path) -> None:
    """Take off what a killed process wrote of a line."""
    if not path.exists():
        return
    with path.open("rb") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
    os.truncate(path, whole)


__all__ = ["AnswerFile", "Row", "answer_file", "answer_units", "lines_of_errors", "read_rows", "share_of"]
