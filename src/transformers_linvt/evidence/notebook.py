"""What a notebook shows of evidence and of other objects with a picture: a few numbers in a table, and the picture."""

import base64
import io
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from .drawing import RULE, heat_colours


_CELL = 12  # pixels of a place in a strip of maps; ours
_MAPS_PER_ROW = 16


def png_of(picture: Image.Image) -> bytes:
    """The file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def html_of(rows: Iterable[tuple[str, Any]], png: bytes | None = None) -> str:
    """
    A table of names and values, and a picture below it.

    >>> html_of([("answer", "<red>")])
    '<table><tr><th>answer</th><td>&lt;red&gt;</td></tr></table>'
    """
    told = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows)
    picture = "" if png is None else f'<img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    return f"<table>{told}</table>{picture}"


def strip_of_maps(maps: np.ndarray) -> Image.Image:
    """
    One small map per frame, in the order of time, 16 in a row.

    Args:
        maps (`np.ndarray` of shape `(num_frames, rows, columns)`): values in [0, 1].
    """
    num_frames, rows, columns = maps.shape
    across = min(num_frames, _MAPS_PER_ROW)
    down = -(-num_frames // across)
    height, width = rows * _CELL + 1, columns * _CELL + 1
    sheet = np.full((down * height, across * width, 3), RULE, dtype=np.uint8)
    for number, one in enumerate(np.rint(heat_colours(maps)).astype(np.uint8)):
        top, left = number // across * height, number % across * width
        sheet[top : top + height - 1, left : left + width - 1] = one.repeat(_CELL, axis=0).repeat(_CELL, axis=1)
    return Image.fromarray(sheet)


class ShownInNotebooks:
    """For `VideoEvidence`: its table and its picture. Without frames there is no picture, and numbers alone."""

    # of VideoEvidence
    frames: Any
    draw: Any
    moments: Any
    num_frames: int
    counted_frames: str
    tokens_per_frame: int
    num_video_tokens: int
    question: str | None
    answer: str | None
    log_probs: tuple[float, float] | None

    def _repr_png_(self) -> bytes | None:
        return None if self.frames is None else png_of(self.draw())

    def _repr_html_(self) -> str:
        rows: list[tuple[str, Any]] = [("question", self.question), ("answer", self.answer)]
        rows = [row for row in rows if row[1] is not None]
        found = [f"{one.start:.1f} to {one.end:.1f} s ({one.share:.0%})" for one in self.moments()]
        before = self.num_frames * self.tokens_per_frame
        rows.append(("video", f"{self.counted_frames}, {before:,} tokens, {self.num_video_tokens:,} video tokens"))
        rows += [("moments", ", ".join(found))] if found else []
        if self.log_probs is not None:
            rows.append(("log-probability", f"{self.log_probs[0]:.2f}, without the video {self.log_probs[1]:.2f}"))
        return html_of(rows, self._repr_png_())


__all__ = ["ShownInNotebooks", "html_of", "png_of", "strip_of_maps"]
