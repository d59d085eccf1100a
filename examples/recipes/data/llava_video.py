"""
LLaVA-Video-178K (`lmms-lab/LLaVA-Video-178K`): captions for stage 1 and questions for stage 2.

    cd 0_30_s_academic_v0_1
    python llava_video.py --annotations *_cap_processed.json --videos . --output ../data/align.jsonl
    python llava_video.py --annotations *_oe_v0_1_qa_processed.json --videos . --output ../data/llava_video.jsonl

Its files are lists of rows with `video`, a path, and `conversations`, whose first question has `<image>` where the
video goes. A caption has one question and one answer, and is written as these; longer conversations stay as they are.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import conversation_of, parser_of, rows_of, value_of, write


def rows(annotations: list[Path], videos: Path) -> Iterator[dict[str, Any] | None]:
    """Rows of ours; None where the video is missing."""
    for where, row in rows_of(annotations):
        path = videos / value_of(row, "video", str, where)
        turns = conversation_of(row, where)
        turns[0]["value"] = turns[0]["value"].replace("<image>", "").replace("<video>", "").strip()
        if not path.is_file():
            yield None
        elif len(turns) == 2:
            yield {"video": path, "prompt": turns[0]["value"], "completion": turns[1]["value"]}
        else:
            yield {"video": path, "conversations": turns}


def main(arguments: list[str] | None = None) -> int:
    """Write one file."""
    given = parser_of(__doc__).parse_args(arguments)
    return write(rows(given.annotations, given.videos), given.output, given.rows)


if __name__ == "__main__":
    sys.exit(main())
