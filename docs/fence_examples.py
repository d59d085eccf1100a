"""
For `make docs`: examples in docstrings (`>>>` lines and what they print) become blocks of code on the page.

Unfenced they are what doctest wants, and what Markdown takes for quotations.
"""

import re
from typing import Any

import griffe


def fenced(text: str) -> str:
    """The text with a fence around every block of `>>>` lines that has none; it ends at the next empty line."""
    lines, in_fence, indent = [], False, None
    for line in [*text.splitlines(), ""]:
        if indent is not None and not line.strip():
            lines.append(f"{indent}```")
            indent = None
        elif indent is None and not in_fence and (found := re.match(r"(\s*)>>> ", line)):
            indent = found[1]
            lines.append(f"{indent}```python")
        if indent is None and line.strip().startswith("```"):
            in_fence = not in_fence
        lines.append(line)
    return "\n".join(lines[:-1])


class FenceExamples(griffe.Extension):
    """Fences the examples of every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
