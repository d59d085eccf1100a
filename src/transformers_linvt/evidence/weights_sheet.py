"""The picture of the weights: what was kept of every frame, and how much of it is in the video tokens."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .drawing import (
    HEAT,
    INK,
    MUTED,
    RULE,
    TRACK,
    font_of,
    frame_pixels,
    heat_colours,
    paste,
    percent,
    wrapped,
)
from .sheet import Sheet, shade


_MAX_WIDTH, _MIN_WIDTH, _MAX_SHEET_HEIGHT = 1600, 1120, 2400  # pixels; the sheet is the part with the frames
_MAX_THUMBNAIL = 232  # longer side of a frame
_MARGIN, _GAP = 40, 14
_CHART_HEIGHT = 96
_MIN_LABELLED, _MIN_TWO_PANELS = 54, 72  # width of a frame from which on it gets a label, a map of weights
_FULL_HEAT = 2.5  # times the equal share is the darkest colour, unless something weighs more: even weights look even
_MIN_OUTLINED_PLACE = 6  # size of a place from which on what was kept is outlined


@dataclass
class _Cell:
    """Where one frame stands on the sheet, in pixels: its picture, its map of weights (if any), its bar."""

    picture: tuple[int, int, int, int]
    heat: tuple[int, int, int, int] | None
    bar: tuple[int, int, int, int]


class WeightsSheet(Sheet):
    """The layout and the drawing of the weights of one [`VideoEvidence`]."""

    def __init__(self, evidence: Any) -> None:
        super().__init__(evidence)
        self.place_scale = max(float(evidence.place_weights.max()), _FULL_HEAT / len(evidence.kept_indices))
        self.frame_scale = max(float(evidence.frame_weights.max()), _FULL_HEAT / evidence.num_frames)
        columns, self.thumbnail, self.panels = self._fit()
        self.rows = math.ceil(evidence.num_frames / columns)
        self.columns = math.ceil(evidence.num_frames / self.rows)  # the last row as full as the others, if it can be
        self.label_height = 20 if self.thumbnail[0] >= _MIN_LABELLED else 0
        self.bar_height = 10 if self.label_height else 4
        used = self.columns * (self.thumbnail[0] + self._gap) - self._gap + 2 * _MARGIN + self._row_labels
        self.width = min(max(used, _MIN_WIDTH), _MAX_WIDTH)
        inner = self.width - 2 * _MARGIN
        title = evidence.question or "What was kept of the video, without a question"
        self.lay_out_title(title, evidence.answer, (28, 24), inner)
        self.chart_top = _MARGIN + 36 * len(self.question) + 34 * len(self.answer) + 34 + 44
        self.sheet_top = self.chart_top + _CHART_HEIGHT + 64
        self.height = self.sheet_top + self.rows * self._row_height + _MARGIN + 34

    # -- layout --

    @property
    def _gap(self) -> int:
        return _GAP if self.thumbnail[0] >= _MIN_LABELLED else 3

    @property
    def _row_labels(self) -> int:
        """Width of the column of times, which stands in for the labels that small frames have no room for."""
        return 0 if self.thumbnail[0] >= _MIN_LABELLED else 76

    @property
    def _row_height(self) -> int:
        heights = self.panels * (self.thumbnail[1] + 4) + self.bar_height
        return heights + 2 * self.label_height + (22 if self.label_height else 8)

    def _fit(self) -> tuple[int, tuple[int, int], int]:
        """The number of columns with which the frames are largest, their size, and the pictures per frame (1 or 2)."""
        num_frames = self.evidence.num_frames
        height, width = self.evidence.frames.shape[1:3]
        best = (0.0, 0, 1, (4, 4), 1)
        for columns in range(1, min(num_frames, 128) + 1):
            rows = math.ceil(num_frames / columns)
            for panels in (2, 1):
                for labelled in (True, False):
                    gap, aside = (_GAP, 0) if labelled else (3, 76)
                    room_x = (_MAX_WIDTH - 2 * _MARGIN - aside + gap) / columns - gap
                    around = 72 if labelled else 20
                    room_y = (_MAX_SHEET_HEIGHT / rows - around) / panels - 4
                    scale = min(room_x / width, room_y / height, _MAX_THUMBNAIL / max(width, height))
                    size = max(int(width * scale), 4), max(int(height * scale), 4)
                    if scale <= 0 or labelled != (size[0] >= _MIN_LABELLED):
                        continue
                    if panels == 2 and size[0] < _MIN_TWO_PANELS:
                        continue
                    # two pictures of a frame are worth more than one that is a little larger
                    candidate = (size[0] * size[1] * (2.0 if panels == 2 else 1.0), columns, columns, size, panels)
                    best = max(best, candidate)
        if not best[1]:  # frames so tall or so wide, and so many, that not even 4 pixels fit: squeezed
            columns = min(num_frames, 64)
            return columns, (16, max(4, _MAX_SHEET_HEIGHT // math.ceil(num_frames / columns) - 16)), 1
        return best[2], best[3], best[4]

    def cell(self, index: int) -> _Cell:
        """Where frame `index` stands."""
        row, column = divmod(index, self.columns)
        left = _MARGIN + self._row_labels + column * (self.thumbnail[0] + self._gap)
        top = self.sheet_top + row * self._row_height + self.label_height
        width, height = self.thumbnail
        heat_top = top + height + 4
        bar_top = top + self.panels * (height + 4) + 2
        return _Cell(
            picture=(left, top, left + width, top + height),
            heat=(left, heat_top, left + width, heat_top + height) if self.panels == 2 else None,
            bar=(left, bar_top, left + width, bar_top + self.bar_height),
        )

    # -- drawing --

    def draw(self) -> Image.Image:
        """The whole sheet."""
        self.begin(self.width, self.height)
        self._draw_title()
        self._draw_chart()
        for index in range(self.evidence.num_frames):
            self._draw_frame(index)
        self._draw_legend()
        return self.image

    def _draw_title(self) -> None:
        top = self.title((_MARGIN, _MARGIN - 6), (36, 34), shade(3), gap=2)
        evidence = self.evidence
        kept, total = len(evidence.kept_indices), evidence.significance.size
        facts = [
            *self.facts(f", {evidence.tokens_per_frame} tokens each"),
            f"{kept} of {total} frame tokens kept"
            if evidence.run_weights.astype(bool).sum() <= kept
            else f"{total} frame tokens averaged into {kept}",
            f"{evidence.num_video_tokens} video tokens for the language model",
            None if evidence.is_exact else "weights are approximate (nonlinear aggregation)",
            "no attribution of the answer" if evidence.no_attribution else None,
        ]
        font = font_of(16, evidence.source or "")
        text = wrapped("   |   ".join(fact for fact in facts if fact), font, self.width - 2 * _MARGIN, 1)[0]
        self.pen.text((_MARGIN, top + 8), text.replace(" | ", "   |   "), fill=MUTED, font=font)

    def _draw_chart(self) -> None:
        """The weight of every frame over time, with the equal share as a dashed line."""
        evidence, top, bottom = self.evidence, self.chart_top, self.chart_top + _CHART_HEIGHT
        left, right = _MARGIN + 64, self.width - _MARGIN
        seconds, weights = evidence.timestamps, evidence.frame_weights
        first, last = float(seconds.min()), float(seconds.max())
        span = max(last - first, 1e-6)
        bar = min(max((right - left) / max(evidence.num_frames, 1) * 0.55, 1.0), 22.0)
        highest = max(float(weights.max()), 1e-9)
        scale = _CHART_HEIGHT / highest

        def x_of(time: float) -> float:
            middle = (left + right) / 2
            return middle if last == first else left + 14 + (time - first) / span * (right - left - 28)

        self.text((left - 12, top), percent(highest), 15, MUTED, "rm")
        self.text((left - 12, bottom), "0 %", 15, MUTED, "rm")
        self.text((_MARGIN, top - 30), "Weight of each frame in the video tokens, over time", 16, INK, "lm")
        self.pen.line((left, top, right, top), fill=RULE)
        for time, weight in zip(seconds, weights, strict=True):
            x, height = x_of(float(time)), float(weight) * scale
            colour = self._frame_colour(float(weight))
            self.pen.rectangle((x - bar / 2, bottom - max(height, 1), x + bar / 2, bottom), fill=colour)
        equal = bottom - scale / evidence.num_frames
        for x in range(left, right, 12):
            self.pen.line((x, equal, x + 5, equal), fill=MUTED)
        label = right - self.pen.textlength("if all weighed the same", font=font_of(14))
        self.text((right, top - 30), "if all weighed the same", 14, MUTED, "rm")
        for x in range(int(label) - 44, int(label) - 10, 12):
            self.pen.line((x, top - 30, x + 5, top - 30), fill=MUTED)
        self.pen.line((left, bottom, right, bottom), fill=INK)
        self.ticks(seconds, x_of, bottom, below=9, most=12, mark=5)

    def _draw_frame(self, index: int) -> None:
        evidence, cell = self.evidence, self.cell(index)
        share = float(evidence.frame_weights[index])
        highest = max(float(evidence.frame_weights.max()), 1e-9)
        seconds = f"{evidence.timestamps[index]:.2f} s"
        if self.label_height:
            self.text((cell.picture[0], cell.picture[1] - 5), seconds, 15, INK, "lb")
            self.text((cell.bar[0], cell.bar[3] + 4), percent(share), 14, MUTED, "la")
        elif index % self.columns == 0:
            self.text((_MARGIN + self._row_labels - 10, cell.picture[1]), seconds, 14, MUTED, "ra")
        self._paste_panels(index, cell)
        left, top, right, bottom = cell.bar
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill=TRACK)
        length = round((right - left) * share / highest)
        if length > 0:
            colour = self._frame_colour(share)
            self.pen.rectangle((left, top, left + length - 1, bottom - 1), fill=colour)

    def _frame_colour(self, weight: float) -> tuple[int, ...]:
        return tuple(heat_colours(np.array(weight / self.frame_scale)).astype(int).tolist())

    def _paste_panels(self, index: int, cell: _Cell) -> None:
        evidence = self.evidence
        size = self.thumbnail
        picture = frame_pixels(evidence.frames[index], size)
        grey = picture.mean(axis=2, keepdims=True)
        kept = self.over_pixels(evidence.kept[index].astype(np.float32), size) > 0.5
        heat = self.over_pixels(evidence.place_weights[index] / self.place_scale, size)
        shown = np.where(kept[..., None], picture, 0.6 * 240 + 0.4 * (0.4 * picture + 0.6 * grey))
        if self.panels == 1:
            tint = 0.6 * np.sqrt(heat)[..., None] * kept[..., None]
            shown = shown + tint * (heat_colours(heat) - shown)
        place = min(size[0] / evidence.grid_size[1], size[1] / evidence.grid_size[0])
        if place >= _MIN_OUTLINED_PLACE:
            shown = self._outlined(shown, kept, 2 if place >= 2.5 * _MIN_OUTLINED_PLACE else 1)
        paste(self.image, shown, cell.picture[:2])
        if cell.heat is not None:
            light = 0.35 * grey + 0.65 * 255
            painted = np.where(kept[..., None], 0.22 * light + 0.78 * heat_colours(heat), 0.5 * light + 0.5 * 245)
            paste(self.image, painted, cell.heat[:2])

    def _outlined(self, picture: np.ndarray, kept: np.ndarray, width: int) -> np.ndarray:
        """The picture with a line along the border of what was kept, on its inside."""
        padded = np.pad(kept, width)
        inner = np.ones_like(kept)
        for down in range(2 * width + 1):
            for right in range(2 * width + 1):
                inner &= padded[down : down + kept.shape[0], right : right + kept.shape[1]]
        line = kept & ~inner
        return np.where(line[..., None], HEAT[2], picture)

    def _draw_legend(self) -> None:
        """What the colours mean, below the frames."""
        top, left = self.height - _MARGIN - 4, _MARGIN
        self.pen.rectangle((left, top - 8, left + 20, top + 8), outline=shade(2), width=2)
        self.text((left + 30, top), "kept", 15, MUTED, "lm")
        self.pen.rectangle((left + 82, top - 8, left + 102, top + 8), fill=(214, 214, 218))
        self.text((left + 112, top), "as before", 15, MUTED, "lm")
        what = "lower picture: weight of each place" if self.panels == 2 else "tint: weight of each place"
        self.text((left + 200, top), f"{what},  0", 15, MUTED, "lm")
        start = left + 210 + int(self.pen.textlength(f"{what},  0", font=font_of(15)))
        self.ramp(start, top, 120)
        self.text((start + 130, top), f"{100 * self.place_scale:.2g} % of all", 15, MUTED, "lm")
        bar = "bar: weight of the frame, full for the heaviest"
        self.text((self.width - _MARGIN, top), bar, 15, MUTED, "rm")
