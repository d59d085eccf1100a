"""
VideoChat2-IT (`OpenGVLab/VideoChat2-IT`): instructions for stage 2.

    python examples/recipes/data/videochat2.py --annotations video/reasoning/next_qa/train.json \
        --videos NExTQA/videos --output data/next_qa.jsonl

Its files are lists of rows with `video`, a path, and `QA`, a list of `i` (what is to be done, may be missing), `q`
(may be empty) and `a`; some rows have `start` and `end`, seconds of the video that the answers are about.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import parser_of, rows_of, value_of, write

from transformers_linvt.errors import LinVTInputError


def rows(annotations: list[Path], videos: Path) -> Iterator[dict[str, Any] | None]:
    """A row of ours for every question; None where the video is missing."""
    for where, row in rows_of(annotations):
        path = videos / value_of(row, "video", str, where)
        span = {name: float(row[name]) for name in ("start", "end") if row.get(name) is not None}
        for pair in value_of(row, "QA", list, where):
            words = [pair.get("i") or "", value_of(pair, "q", str, where)]
            prompt = "\n".join(word.strip() for word in words if word.strip())
            if not prompt:
                raise LinVTInputError(f"{where} has an answer and neither an instruction ('i') nor a question ('q').")
            completion = value_of(pair, "a", str, where).strip()
            if not path.is_file():
                yield None
            elif span:  # the video stands in a part, with what of it is looked at
                part = [{"type": "video", **span}, {"type": "text", "text": prompt}]
                turns = [{"role": "user", "content": part}, {"role": "assistant", "content": completion}]
                yield {"video": path, "messages": turns}
            else:
                yield {"video": path, "prompt": prompt, "completion": completion}


def main(arguments: list[str] | None = None) -> int:
    """Write one file."""
    given = parser_of(__doc__).parse_args(arguments)
    return write(rows(given.annotations, given.videos), given.output, given.rows)


if __name__ == "__main__":
    sys.exit(main())
