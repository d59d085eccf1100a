"""The picture of an answer's evidence, 800 pixels wide: when, the frames that matter, and all frames as a strip."""

import math
from typing import Any

import numpy as np
from PIL import Image

from .drawing import (
    AGAINST,
    INK,
    MUTED,
    RULE,
    font_of,
    frame_pixels,
    heat_colours,
    paste,
    wrapped,
)
from .sheet import Sheet, shade


WIDTH = 800  # pixels
_MARGIN, _GAP = 24, 12
_CHART_HEIGHT = 110
_MAX_LARGE = 3  # frames shown large
_LEAST_LARGE = 0.05  # of what the answer owes to the first of them
_MAX_LARGE_HEIGHT = 260
_ALIKE = 0.9  # cosine of two frames' maps from which on one of them is enough
_STRIP_WIDTH, _STRIP_GAP, _MAX_STRIP = 86, 6, 48  # of the strip: width of a frame, and how many frames at most
_LITTLE = 0.1  # nats below which an answer hardly depends on the video


class AnswerSheet(Sheet):
    """The layout and the drawing of the attribution of one [`VideoEvidence`]."""

    def __init__(self, evidence: Any) -> None:
        inner = WIDTH - 2 * _MARGIN
        super().__init__(evidence)
        self.lay_out_title(evidence.question or "The answer", evidence.answer or "(no words)", (26, 24), inner)
        self.places = np.maximum(evidence.place_attribution, 0.0)
        self.place_scale = max(float(self.places.max()), 1e-12)
        self.frame_scale = max(float(np.abs(evidence.frame_attribution).max()), 1e-12)
        self.positive = max(float(np.maximum(evidence.frame_attribution, 0.0).sum()), 1e-12)
        self.large = self._frames_that_matter()
        self.strip = self._frames_of_strip()
        self.summary = wrapped(self._summary(), font_of(15), inner, 2)
        height, width = evidence.frames.shape[1:3]
        columns = max(len(self.large), 2)  # one frame has its map beside it, several have it below
        fit = min((inner - (columns - 1) * _GAP) / columns / width, _MAX_LARGE_HEIGHT / height)
        self.large_size = max(int(width * fit), 4), max(int(height * fit), 4)
        self.thumbnail = _STRIP_WIDTH, min(max(int(height * _STRIP_WIDTH / width), 4), 2 * _STRIP_WIDTH)
        self.strip_columns = (inner + _STRIP_GAP) // (_STRIP_WIDTH + _STRIP_GAP)
        self.chart_top = _MARGIN + 34 * len(self.question) + 32 * len(self.answer) + 21 * (len(self.summary) + 1) + 44
        self.large_top = self.chart_top + _CHART_HEIGHT + 76
        self.strip_top = self.large_top + (2 if len(self.large) > 1 else 1) * self.large_size[1] + 68
        rows = math.ceil(len(self.strip) / self.strip_columns)
        self.height = self.strip_top + rows * (self.thumbnail[1] + 30) + 74

    def _summary(self) -> str:
        if self.evidence.log_probs is None:
            return "What the answer depended on"
        with_video, without = self.evidence.log_probs
        found = (
            f"Probability of this answer: {_probability(with_video)}; with the average frame token in place of every "
            f"video token: {_probability(without)}"
        )
        if with_video - without < _LITTLE:
            return f"{found}: it does not come from this video."
        return f"{found}. The difference is shared among frames and places."

    def _frames_that_matter(self) -> list[int]:
        """The frames that the answer owes most to, in time order; of those whose maps are alike, the first."""
        owed = self.evidence.frame_attribution
        chosen: list[int] = []
        for frame in np.argsort(-owed, kind="stable"):
            matters = not chosen or owed[frame] > _LEAST_LARGE * owed.max()
            if len(chosen) < _MAX_LARGE and matters and not any(self._alike(frame)[one] for one in chosen):
                chosen.append(int(frame))
        return sorted(chosen)

    def _alike(self, frame: int) -> np.ndarray:
        """Whether each frame's map of places is like that of one, `(num_frames,)`: a run gives all its frames one."""
        maps = self.places.reshape(len(self.places), -1)
        lengths = np.linalg.norm(maps, axis=1)
        return maps @ maps[frame] >= _ALIKE * lengths * lengths[frame]

    def share_with_alike(self, frame: int) -> float:
        """What the answer owes to a frame and those that are like it, as a share of all that speaks for it."""
        owed = np.maximum(self.evidence.frame_attribution, 0.0)
        nearest = np.full(len(owed), -1)
        for one in self.large[::-1]:
            nearest[self._alike(one)] = one
        return float(owed[nearest == frame].sum()) / self.positive

    def _frames_of_strip(self) -> list[int]:
        """All, or as many as fit, evenly, and those that are large."""
        count = min(self.evidence.num_frames, _MAX_STRIP)
        evenly = {self.evidence.num_frames * i // count for i in range(count)}
        return sorted(evenly | set(self.large))

    def place_of_large(self, number: int) -> tuple[int, int]:
        """Left and top of the picture of a large frame."""
        return _MARGIN + number * (self.large_size[0] + _GAP), self.large_top

    def place_of_map(self, number: int) -> tuple[int, int]:
        """Left and top of its map: beside a single one, else below."""
        left, top = self.place_of_large(number)
        return (
            (left + self.large_size[0] + _GAP, top) if len(self.large) == 1 else (left, top + self.large_size[1] + 4)
        )

    def place_of_thumbnail(self, number: int) -> tuple[int, int]:
        """Left and top of a frame of the strip."""
        row, column = divmod(number, self.strip_columns)
        return _MARGIN + column * (_STRIP_WIDTH + _STRIP_GAP), self.strip_top + row * (self.thumbnail[1] + 30)

    # -- drawing --

    def draw(self) -> Image.Image:
        """The whole sheet."""
        self.begin(WIDTH, self.height)
        self._draw_title()
        self._draw_time_line()
        for number, frame in enumerate(self.large):
            self._draw_large(number, frame)
        self._draw_strip()
        self._draw_legend()
        return self.image

    def _draw_title(self) -> None:
        top = self.title((_MARGIN, _MARGIN - 6), (34, 32), shade(4))
        counts = f"{self.evidence.significance.size} frame tokens -> {self.evidence.num_video_tokens} video tokens"
        facts = [*self.facts(), counts]
        line = wrapped(", ".join(facts), font_of(15, self.evidence.source or ""), WIDTH - 2 * _MARGIN, 1)[0]
        for text in (*self.summary, line):
            self.text((_MARGIN, top + 4), text, 15, MUTED)
            top += 21

    def _draw_time_line(self) -> None:
        """A bar per frame: what the answer owes to it, and downwards what speaks against the answer."""
        evidence, top, bottom = self.evidence, self.chart_top, self.chart_top + _CHART_HEIGHT
        left, right = _MARGIN, WIDTH - _MARGIN
        seconds, owed = evidence.timestamps, evidence.frame_attribution
        first, last = float(seconds.min()), float(seconds.max())
        highest, lowest = max(float(owed.max()), 0.0), min(float(owed.min()), 0.0)
        scale = _CHART_HEIGHT / max(highest - lowest, 1e-12)
        zero = top + highest * scale if highest > lowest else bottom
        bar = min(max((right - left) / evidence.num_frames * 0.6, 1.0), 24.0)

        def x_of(time: float) -> float:
            room = right - left - bar - 4
            return (left + right) / 2 if last == first else left + bar / 2 + 2 + (time - first) / (last - first) * room

        self.text((left, top - 24), "What the answer owes to each frame, over time", 16, INK, "lm")
        for frame, (time, value) in enumerate(zip(seconds, owed, strict=True)):
            x, end = x_of(float(time)), zero - float(value) * scale
            colour = self._colour(value) if value >= 0 else AGAINST
            self.pen.rectangle((x - bar / 2, min(zero, end), x + bar / 2, max(zero, end)), fill=colour)
            if frame in self.large:
                self.pen.polygon([(x, bottom + 4), (x - 6, bottom + 13), (x + 6, bottom + 13)], fill=INK)
        self.pen.line((left, zero, right, zero), fill=INK)
        if zero < bottom - 1:
            self.pen.line((left, bottom, right, bottom), fill=RULE)
        self.ticks(seconds, x_of, bottom, below=17, most=10)

    def _colour(self, value: float) -> tuple[int, ...]:
        # not from the lightest: a small bar has to be seen on white
        return tuple(heat_colours(np.array(0.35 + 0.65 * value / self.frame_scale)).astype(int).tolist())

    def _draw_large(self, number: int, frame: int) -> None:
        evidence, size = self.evidence, self.large_size
        left, top = self.place_of_large(number)
        share = 100 * self.share_with_alike(frame)
        self.text((left, top - 6), f"{evidence.timestamps[frame]:.2f} s", 18, INK, "lb")
        self.text((left + size[0], top - 6), f"{share:.0f} %", 18, shade(4), "rb")
        picture = frame_pixels(evidence.frames[frame], size)
        heat = self.over_pixels(self.places[frame] / self.place_scale, size)
        paste(self.image, picture, (left, top))
        self._outline(frame, (left, top))
        light = 0.45 * picture.mean(axis=2, keepdims=True) + 0.55 * 255
        tint = np.clip(2.5 * heat, 0.0, 0.8)[..., None]
        paste(self.image, light + tint * (heat_colours(0.2 + 0.8 * heat) - light), self.place_of_map(number))

    def _outline(self, frame: int, place: tuple[int, int]) -> None:
        """A box around the places that the answer owes half as much to as to the most important one, or more."""
        rows, columns = self.places.shape[1:]
        top, left, bottom, right = self.evidence.region
        width, height = self.large_size
        for row, column in np.argwhere(self.places[frame] >= 0.5 * self.place_scale):
            box = [
                place[0] + width * (left + (right - left) * column / columns),
                place[1] + height * (top + (bottom - top) * row / rows),
                place[0] + width * (left + (right - left) * (column + 1) / columns) - 1,
                place[1] + height * (top + (bottom - top) * (row + 1) / rows) - 1,
            ]
            self.pen.rectangle(box, outline=shade(3), width=3)

    def _draw_strip(self) -> None:
        evidence, size = self.evidence, self.thumbnail
        shown, every = len(self.strip), evidence.num_frames
        noun = "frames" if evidence.frames_per_step == 1 else "steps"
        title = f"All {noun}" if shown == every else f"{shown} of {every} {noun}: spread evenly, and those above"
        self.text((_MARGIN, self.strip_top - 24), title, 16, INK, "lm")
        for number, frame in enumerate(self.strip):
            left, top = self.place_of_thumbnail(number)
            picture = frame_pixels(evidence.frames[frame], size)
            heat = self.over_pixels(self.places[frame] / self.place_scale, size)
            light = 0.55 * picture + 0.45 * 255
            tint = np.clip(2.5 * heat, 0.0, 0.75)[..., None]
            paste(self.image, light + tint * (heat_colours(0.2 + 0.8 * heat) - light), (left, top))
            if frame in self.large:
                self.pen.rectangle((left - 2, top - 2, left + size[0] + 1, top + size[1] + 1), outline=INK, width=2)
            self.text((left, top + size[1] + 4), f"{evidence.timestamps[frame]:.2f} s", 14, MUTED)

    def _draw_legend(self) -> None:
        top, left = self.height - 26, _MARGIN
        self.text((left, top), "nothing", 15, MUTED, "lm")
        start = left + 62
        self.ramp(start, top, 110, lightest=0.2)
        self.text((start + 120, top), f"{self.place_scale:.2g} nats for the answer", 15, MUTED, "lm")
        self.pen.rectangle((start + 332, top - 7, start + 348, top + 7), fill=AGAINST)
        self.text((start + 356, top), "against it (in the bars only)", 15, MUTED, "lm")
        words = "Percent: of all that speaks for the answer, in this frame and those like it"
        self.text((left, top - 24), words, 15, MUTED, "lm")


def _probability(log_prob: float) -> str:
    """A probability, without a space where a line could break."""
    probability = math.exp(log_prob)
    return f"{probability:.4f}" if probability >= 0.001 else f"{probability:.1e}"
