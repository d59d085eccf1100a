"""The results of one input: a list of dictionaries, which a notebook shows as a table."""

from html import escape
from typing import Any


_COLUMNS = ("question", "answer", "frames_seen", "frame_tokens", "video_tokens", "score", "error")


class Results(list):
    """
    A list of dictionaries, one per question, that a notebook shows as a table with the evidence below it.

    >>> made = Results([{"question": "Who?", "answer": "<me>", "frames_seen": 8}])
    >>> made == [{"question": "Who?", "answer": "<me>", "frames_seen": 8}]
    True
    >>> "<td>&lt;me&gt;</td>" in made._repr_html_()
    True
    """

    def _repr_html_(self) -> str:
        names = [name for name in _COLUMNS if any(one.get(name) is not None for one in self)]
        heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
        rows = "".join(f"<tr>{''.join(self._cell(one.get(name)) for name in names)}</tr>" for one in self)
        shown = "".join(found._repr_html_() for one in self for found in self._evidence(one))
        return f"<table><tr>{heads}</tr>{rows}</table>{shown}"

    @staticmethod
    def _cell(value: Any) -> str:
        told = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
        return f"<td>{escape(told)}</td>"

    @staticmethod
    def _evidence(result: dict[str, Any]) -> list[Any]:
        found = result.get("evidence") or []
        return found if isinstance(found, list) else [found]


__all__ = ["Results"]
