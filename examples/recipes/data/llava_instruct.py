"""
LLaVA-Instruct-150K (`liuhaotian/LLaVA-Instruct-150K`): pictures for a third of stage 2.

    python examples/recipes/data/llava_instruct.py --annotations llava_instruct_150k.json --pictures train2017 \
        --output data/pictures.jsonl

Its file is a list of rows with `image`, the name of a picture of COCO's train2017, and `conversations`, whose first
question has `<image>`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import conversation_of, parser_of, rows_of, value_of, write


def rows(annotations: list[Path], pictures: Path) -> Iterator[dict[str, Any] | None]:
    """Rows of ours; None where the picture is missing."""
    for where, row in rows_of(annotations):
        path = pictures / value_of(row, "image", str, where)
        turns = conversation_of(row, where)
        turns[0]["value"] = turns[0]["value"].replace("<image>", "").strip()
        yield {"image": path, "conversations": turns} if path.is_file() else None


def main(arguments: list[str] | None = None) -> int:
    """Write one file."""
    given = parser_of(__doc__, medium="pictures").parse_args(arguments)
    return write(rows(given.annotations, given.pictures), given.output, given.rows)


if __name__ == "__main__":
    sys.exit(main())
