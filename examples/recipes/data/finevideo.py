"""
FineVideo (`HuggingFaceFV/finevideo`): videos with descriptions for stage 1 and with questions for stage 2.

    hf download HuggingFaceFV/finevideo --repo-type dataset --local-dir finevideo
    python examples/recipes/data/finevideo.py --source finevideo/data --output data

Its parquet files hold a video in `mp4` and what is known of it in `json`: `content_metadata.description`, and pairs of
`question` and `answer` in `content_metadata.qAndA`. Writes `data/videos/`, `data/align.jsonl`, `data/instruct.jsonl`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from common import value_of, write

from transformers_linvt.errors import LinVTInputError


def samples(source: Path, videos: Path, limit: int | None) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Every video as a file, and what is known of it; files that are there are not written again."""
    files = sorted(map(str, source.rglob("*.parquet")))
    if not files:
        raise LinVTInputError(f"{source} has no parquet file. Download the set first.")
    videos.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)):
        if number == limit:
            return
        where, path = f"row {number}", videos / f"{number:06}.mp4"
        data = value_of(row, "mp4", bytes, where)
        if not path.exists() or path.stat().st_size != len(data):
            path.write_bytes(data)
        yield path, value_of(value_of(row, "json", dict, where), "content_metadata", dict, where), where


def main(arguments: list[str] | None = None) -> int:
    """Write videos and both files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder with the parquet files")
    parser.add_argument("--output", type=Path, required=True, help="folder for videos, align.jsonl and instruct.jsonl")
    parser.add_argument("--rows", type=int, help="only so many videos")
    given = parser.parse_args(arguments)
    questions: list[dict[str, Any]] = []

    def captions() -> Iterator[dict[str, Any]]:
        for path, about, where in samples(given.source, given.output / "videos", given.rows):
            for pair in about.get("qAndA") or ():
                prompt, completion = (value_of(pair, name, str, where).strip() for name in ("question", "answer"))
                if prompt and completion:
                    questions.append({"video": path, "prompt": prompt, "completion": completion})
            caption = value_of(about, "description", str, where).strip()
            if caption:
                yield {"video": path, "prompt": "Describe the video.", "completion": caption}

    return write(captions(), given.output / "align.jsonl") or write(questions, given.output / "instruct.jsonl")


if __name__ == "__main__":
    sys.exit(main())
