"""
Writes docs/bases.md from the results of `make test-bases`: what each architecture of transformers can do with LinVT.

    python tests/support/bases_table.py outputs/bases.xml docs/bases.md

Of several runs, such as one of everything and one of what was mended, the last result of a test counts, and the page
says how many there were. Every status in the table is a result of these runs; what an architecture is refused for is
what the package itself says.
"""

import platform
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from base_specs import ALL_BASES, QUICK
from tiny_bases import model_type_of
from transformers_linvt.bases.families import DENIED
from transformers_linvt.bases.registry import bridge_of


HEAD = """\
# Which models

<!-- written by `make test-bases`; do not edit by hand -->

Every image-text architecture of transformers {version} (`AutoModelForImageTextToText`), built tiny with random weights
from its own configuration and put through the tests of `make test-bases`: of {total}, {supported} are supported,
{refused} are refused when they are wrapped{failing}. {tests} tests, which took {minutes:.0f} minutes one after another
({machine}, torch {torch}{runs}). No released weights were run.

One frame is one tile unless a note says otherwise. "Packed as" is how the base packs the visual tokens of several
pictures; "tokens" are those of the tiny model's frame, real ones are printed by `linvt wrap --dry-run BASE`; "options"
is what LinVT gives the image processor so that a frame is one tile. What a note says that a base cannot do, it cannot
do without LinVT either; the test of that was left out. Those in **bold** are tested in every run of `make test`.

| architecture | status | packed as | tokens | options | notes |
|---|---|---|---|---|---|
"""


@dataclass
class Result:
    """What one base did: outcomes of its tests, what they recorded, and the names of those that failed."""

    outcomes: Counter = field(default_factory=Counter)
    recorded: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def read_results(paths: Sequence[Path]) -> tuple[dict[str, Result], float]:
    """Results by name of the base (which every test of one records), and the seconds of all tests."""
    results: dict[str, Result] = defaultdict(Result)
    cases = [case for path in paths for case in ElementTree.parse(path).getroot().iter("testcase")]
    last = {(case.get("classname"), case.get("name")): case for case in cases}
    seconds = 0.0
    for case in last.values():
        seconds += float(case.get("time", 0.0))
        recorded = {one.get("name"): one.get("value") for one in case.iter("property")}
        if (base := recorded.pop("base", None)) is None:
            continue
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        results[base].outcomes[outcome] += 1
        results[base].recorded |= recorded
        if outcome == "failed":
            results[base].failed.append(case.get("name", "").partition("[")[0])
    return results, seconds


def row(name: str, result: Result) -> str:
    """One base as a line of the table."""
    spec, model_type = ALL_BASES[name], model_type_of(name)
    family = bridge_of(model_type).family
    if result.failed:
        status = f"failing: {', '.join(sorted(set(result.failed)))}"
    else:
        status = "supported" if result.outcomes["passed"] else "not run"
    options = ", ".join(f"`{key}={value!r}`" for key, value in family.one_tile.items())
    notes = [*family.notes, *dict.fromkeys(spec.cannot.values())]
    if spec.needs:
        notes.append(f"needs {', '.join(spec.needs)}")
    title = f"**{name}**" if name in QUICK else name
    tokens, packed = result.recorded.get("tokens_per_frame", ""), result.recorded.get("container", "")
    return f"| {title} | {status} | {packed} | {tokens} | {options} | {'; '.join(notes)} |"


def write_table(results: dict[str, Result], seconds: float, num_runs: int = 1) -> str:
    """The page."""
    architectures = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    described = {model_type_of(name) for name in ALL_BASES}
    failing = {model_type_of(name) for name, result in results.items() if result.failed}
    passed = {model_type_of(name) for name, result in results.items() if result.outcomes["passed"]}
    supported = (passed - failing) & architectures
    head = HEAD.format(
        version=transformers.__version__,
        total=len(architectures),
        supported=len(supported),
        refused=len(architectures - described),
        failing=f", {len(failing)} fail a test" if failing else "",
        tests=sum(sum(result.outcomes.values()) for result in results.values()),
        minutes=seconds / 60,
        machine=f"{platform.machine()} CPU",
        torch=torch.__version__,
        runs=f"; the last result of each test in {num_runs} runs" if num_runs > 1 else "",
    )
    lines = [row(name, results[name]) for name in sorted(ALL_BASES)]
    lines += ["", "## Refused", "", "| architecture | reason |", "|---|---|"]
    lines += [f"| {name} | {DENIED[name]} |" for name in sorted(architectures - described)]
    return head + "\n".join(lines) + "\n"


def main(*arguments: str) -> None:
    """Read the results, write the page that is named last."""
    *results, output = (Path(one) for one in arguments)
    output.write_text(write_table(*read_results(results), len(results)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
