"""
Writes docs/bases.md from the results of `make test-bases`: what each architecture of transformers can do with LinVT.

    python tests/bases_table.py outputs/bases.xml docs/bases.md

Every status in the table is a result of that run; what an architecture is refused for is what the package itself says.
"""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

from base_specs import ALL_BASES


HEAD = """\
# Which models

<!-- written by `make test-bases`; do not edit by hand -->

Every image-text architecture of transformers {version} (`AutoModelForImageTextToText`), built tiny with random weights from
its own configuration and put through `tests/test_bases.py`: {supported} are supported, {refused} are refused when they are
wrapped{failing}. {tests} tests in {minutes:.0f} minutes ({machine}, torch {torch}). No released weights were run.

One frame is one tile everywhere. "Options" are what LinVT gives the image processor for that; "as" is how the base packs
visual tokens; "tokens" are those of the tiny model's frame, real ones are printed by `linvt wrap --dry-run BASE`. Where a
row says what a base cannot do, it cannot do it without LinVT either.
"""


def read_results(
    path: Path,
) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, str]], dict[str, list[str]], float]:
    """Counts by outcome, recorded properties and failures of every base, and the seconds of the run."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    properties: dict[str, dict[str, str]] = defaultdict(dict)
    failures: dict[str, list[str]] = defaultdict(list)
    seconds = 0.0
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        seconds += float(suite.get("time", 0.0))
        for case in suite.iter("testcase"):
            name, _, parameters = case.get("name", "").partition("[")
            base = next((one for one in parameters.rstrip("]").split("-") if one in ALL_BASES), None)
            if base is None and parameters.rstrip("]") in ALL_BASES:
                base = parameters.rstrip("]")
            if base is None:
                continue
            kinds = {child.tag for child in case}
            outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            counts[base][outcome] += 1
            if outcome == "failed":
                failures[base].append(name)
            for one in case.iter("property"):
                properties[base][one.get("name")] = one.get("value")
    return counts, properties, failures, seconds
