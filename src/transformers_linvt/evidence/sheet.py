"""What the two pictures of evidence draw alike: the title, time below a chart, a ramp of colours."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from .drawing import HEAT, INK, MUTED, PAPER, font_of, heat_colours, over_pixels, tick_step, wrapped


Colour = tuple[int, ...]


def shade(number: int) -> Colour:
    """One of the colours of `HEAT`, from the lightest (0) to the darkest (4)."""
    return tuple(HEAT[number].astype(int).tolist())


class Sheet:
    """
    A picture of one [`VideoEvidence`]; what is drawn where is said by those that inherit.

    Args:
        evidence: what is drawn.
    """

    def __init__(self, evidence: Any) -> None:
        self.evidence = evidence

    def lay_out_title(self, question: str, answer: str | None, sizes: tuple[int, int], width: float) -> None:
        """Break question and answer into lines of at most `width` pixels, of letters of these sizes."""
        self.question_font, self.answer_font = font_of(sizes[0], question), font_of(sizes[1], answer or "")
        self.question = wrapped(question, self.question_font, width, 3)
        self.answer = [] if answer is None else wrapped(answer, self.answer_font, width, 3)

    def begin(self, width: int, height: int) -> None:
        """An empty picture, and the pen for it."""
        self.image = Image.new("RGB", (width, height), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def facts(self, of_frames: str = "") -> list[str]:
        """The name of the video, and the number of its frames with what is said of them."""
        names = [os.path.basename(self.evidence.source)] if self.evidence.source else []
        return [*names, f"{self.evidence.counted_frames}{of_frames}"]

    def over_pixels(self, grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map of places stretched over the pixels of a frame; see [`over_pixels`]."""
        return over_pixels(grid, size, self.evidence.region)

    def text(self, place: tuple[float, float], text: str, size: int, colour: Colour, anchor: str = "la") -> None:
        """Write a line."""
        self.pen.text(place, text, fill=colour, font=font_of(size, text), anchor=anchor)

    def title(self, place: tuple[int, int], steps: tuple[int, int], colour: Colour, gap: int = 0) -> int:
        """Question and answer; returns where the next line begins."""
        left, top = place
        for line in self.question:
            self.pen.text((left, top), line, fill=INK, font=self.question_font)
            top += steps[0]
        for line in self.answer:
            self.pen.text((left, top + gap), line, fill=colour, font=self.answer_font)
            top += steps[1]
        return top

    def ticks(
        self,
        seconds: Sequence[float],
        x_of: Callable[[float], float],
        bottom: float,
        below: int,
        most: int,
        mark: int = 0,
    ) -> None:
        """Times below a chart that ends at `bottom`, at most so many, with marks of a length."""
        first, last = float(min(seconds)), float(max(seconds))
        step = tick_step(max(last - first, 0.01), max_ticks=most)
        times = [number * step for number in range(math.ceil(first / step), math.floor(last / step) + 1)] or [first]
        for time in times:
            x = x_of(time)
            if mark:
                self.pen.line((x, bottom, x, bottom + mark), fill=INK)
            text = f"{time:.10g} s" if len(times) > 1 else f"{time:.2f} s"
            self.text((x, bottom + below), text, 15, MUTED, "ma")

    def ramp(self, left: int, middle: int, length: int, lightest: float = 0.0) -> None:
        """The colours of values, from the lightest that is used to the darkest."""
        for step in range(length):
            value = lightest + (1 - lightest) * step / (length - 1)
            colour = tuple(heat_colours(np.array(value)).astype(int))
            self.pen.line((left + step, middle - 7, left + step, middle + 7), fill=colour)


__all__ = ["Sheet", "shade"]
