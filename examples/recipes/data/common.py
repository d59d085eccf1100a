"""What the scripts of this folder share: rows with errors that name them, files that are there, one jsonl."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers_linvt.errors import LinVTError, LinVTInputError
from transformers_linvt.files import replacing


TURNS = {"human": "gpt", "gpt": "human"}  # who speaks after whom


def parser_of(description: str, medium: str = "videos") -> argparse.ArgumentParser:
    """The arguments of a set of which annotations and files are apart."""
    parser = argparse.ArgumentParser(description=description.split("\n\n")[0])
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, help="files of the set, as published")
    parser.add_argument(f"--{medium}", type=Path, required=True, help=f"folder that the names of {medium} start from")
    parser.add_argument("--output", type=Path, required=True, help="the jsonl to write")
    parser.add_argument("--rows", type=int, help="only so many")
    return parser


def rows_of(paths: Iterable[Path]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row of some JSON files, each with what an error calls it."""
    for path in paths:
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise LinVTInputError(f"{path} cannot be read as JSON: {error}. Download it again.") from error
        if not isinstance(rows, list):
            raise LinVTInputError(f"{path} is no list of rows. Is it a file of this set?")
        for number, row in enumerate(rows):
            yield f"row {number} of {path.name}", row


def value_of(row: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    """A field that has to be there."""
    if not isinstance(row, Mapping) or not isinstance(row.get(name), kind):
        known = ", ".join(row) if isinstance(row, Mapping) else type(row).__name__
        raise LinVTInputError(f"{where} has no {kind.__name__} {name!r}, only {known}. Is it a file of this set?")
    return row[name]


def conversation_of(row: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """LLaVA's turns, checked: question and answer by turns, the first with the mark of the video or picture."""
    turns = value_of(row, "conversations", list, where)
    speaker = "human"
    for turn in turns:
        if value_of(turn, "from", str, where) != speaker or not value_of(turn, "value", str, where).strip():
            raise LinVTInputError(f"{where} has a turn of {turn['from']!r} where {speaker!r} has to speak.")
        speaker = TURNS[speaker]
    if len(turns) < 2 or speaker != "human":
        raise LinVTInputError(f"{where} has {len(turns)} turns, the last without an answer.")
    return [{"from": turn["from"], "value": turn["value"]} for turn in turns]


def write(rows: Iterable[dict[str, Any] | None], output: Path, limit: int | None = None) -> int:
    """
    One jsonl, with paths from its own folder; rows whose file is missing (None) are counted and left out.

    Returns:
        The exit status.
    """
    written = missing = 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as whole, whole.open("w", encoding="utf-8") as file:
            for row in rows:
                if row is None:
                    missing += 1
                    continue
                for medium in ("video", "image"):
                    if medium in row:
                        row[medium] = os.path.relpath(row[medium], output.parent)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                written += 1
                if written == limit:
                    break
            if not written:
                raise LinVTInputError(f"No row could be used; of {missing} the file is missing. Check the folder.")
    except LinVTError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{output}: {written} rows" + (f"; {missing} left out, their files are missing" if missing else ""))
    return 0
