"""
The weights behind an answer, as numbers and as a picture: which frame and which place the video tokens came from.

Nothing is estimated. The video tokens are `W @ frame_tokens`, and what is shown here is W itself, summed over frames,
places or video tokens. It says what the language model was *given*, not which of it the language model then used.
"""

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .model.errors import LinVTInputError


WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)


class FrameShare(NamedTuple):
    """A frame, its time in seconds, and its share of all weight (the shares of all frames sum to 1)."""

    index: int
    seconds: float
    weight: float


@dataclass
class VideoEvidence:
    """
    Where the video tokens of one answer came from.

    Args:
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`):
            The sampled frames, uint8 RGB.
        timestamps (`np.ndarray` of shape `(num_frames,)`):
            Seconds of each frame.
        kept_indices (`np.ndarray` of shape `(num_kept,)`):
            The frame tokens that have weight, ascending: frame `index // tokens_per_frame`, place
            `index % tokens_per_frame`.
        kept_weights (`np.ndarray` of shape `(num_video_tokens, num_kept)`):
            Weight of every kept frame token in every video token, float32; rows sum to 1.
        significance (`np.ndarray` of shape `(num_frames, tokens_per_frame)`):
            Significance of every frame token in [0, 1], before any question was known.
        grid_size (`tuple[int, int]`):
            Rows and columns of a frame's tokens, in reading order. Tokens beyond them (a newline token) have no place.
        question (`str`, *optional*), answer (`str`, *optional*), source (`str`, *optional*):
            What was asked about which video, and what came out.
        region (`tuple[float, float, float, float]`, *optional*):
            Top, left, bottom and right of the part of a frame that the grid covers, as fractions of the frame: less
            than the whole where the base's image processor crops.
        is_exact (`bool`, *optional*, defaults to `True`):
            False for models with `aggregation="nonlinear"`, whose video tokens are not `W @ frame_tokens`.

    Raises:
        `LinVTInputError`: if the parts do not fit together.

    Example:

    >>> evidence = VideoEvidence(
    ...     frames=np.zeros((2, 8, 8, 3), dtype=np.uint8),
    ...     timestamps=np.array([0.5, 1.5]),
    ...     kept_indices=np.array([1, 4]),
    ...     kept_weights=np.array([[0.25, 0.75]], dtype=np.float32),
    ...     significance=np.ones((2, 4), dtype=np.float32),
    ...     grid_size=(2, 2),
    ... )
    >>> evidence.top_frames(1)
    [FrameShare(index=1, seconds=1.5, weight=0.75)]
    >>> evidence.place_weights[0].tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """

    frames: np.ndarray
    timestamps: np.ndarray
    kept_indices: np.ndarray
    kept_weights: np.ndarray
    significance: np.ndarray
    grid_size: tuple[int, int]
    question: str | None = None
    answer: str | None = None
    source: str | None = None
    region: tuple[float, float, float, float] = WHOLE_FRAME
    is_exact: bool = True

    def __post_init__(self) -> None:
        num_frames, tokens_per_frame = self.significance.shape
        rows, columns = self.grid_size
        fits = (
            self.frames.ndim == 4
            and len(self.frames) == len(self.timestamps) == num_frames > 0
            and self.kept_weights.shape[1:] == self.kept_indices.shape
            and rows * columns <= tokens_per_frame
            and len(self.kept_indices) > 0
            and self.kept_indices.min() >= 0
            and self.kept_indices.max() < num_frames * tokens_per_frame
        )
        if not fits:
            raise LinVTInputError(
                f"These are not the parts of one video: frames {self.frames.shape}, time stamps "
                f"{self.timestamps.shape}, significance {self.significance.shape}, grid {self.grid_size}, kept tokens "
                f"{self.kept_indices.shape}, weights {self.kept_weights.shape}. Pass what one model call returned."
            )

    @classmethod
    def from_output(
        cls,
        output: Any,
        index: int,
        frames: np.ndarray,
        timestamps: np.ndarray,
        grid_size: tuple[int, int],
        tokens_per_frame: int | None = None,
        **about: Any,
    ) -> "VideoEvidence":
        """
        The evidence of one video out of a batch.

        Args:
            output ([`LinearVideoTokenizerOutput`]):
                What the linear video tokenizer returned. Shorter videos of its batch are padded; the padding is left
                out here.
            index (`int`):
                Position of the video in that batch.
            frames (`np.ndarray` of shape `(num_frames, height, width, 3)`), timestamps (`np.ndarray`):
                The sampled frames and their seconds.
            grid_size (`tuple[int, int]`):
                Rows and columns of a frame's tokens.
            tokens_per_frame (`int`, *optional*):
                Tokens of one frame of this video; those of the batch if not given.
            about:
                `question`, `answer`, `source`, `region`.
        """
        weights = output.weights.select([index]).detach().to("cpu")
        padded, num_frames = weights.tokens_per_frame, len(frames)
        tokens_per_frame = padded if tokens_per_frame is None else tokens_per_frame
        filled = weights.kept_mask[0].numpy()
        frame, place = np.divmod(weights.kept_indices[0].numpy()[filled], padded)
        significance = output.significance[index].detach().float().cpu().numpy()
        return cls(
            frames=frames,
            timestamps=np.asarray(timestamps, dtype=np.float64),
            kept_indices=frame * tokens_per_frame + place,
            kept_weights=weights.kept()[0].float().numpy()[:, filled],
            significance=significance[:num_frames, :tokens_per_frame],
            grid_size=grid_size,
            is_exact=weights.is_exact,
            **about,
        )

    # -- the numbers --

    @property
    def num_frames(self) -> int:
        """Frames sampled from the video."""
        return self.significance.shape[0]

    @property
    def tokens_per_frame(self) -> int:
        """Tokens that the base makes of one frame."""
        return self.significance.shape[1]

    @property
    def num_video_tokens(self) -> int:
        """Tokens the language model was given for the video."""
        return self.kept_weights.shape[0]

    @cached_property
    def frame_weights_per_token(self) -> np.ndarray:
        """Share of every frame in every video token, `(num_video_tokens, num_frames)`; rows sum to 1."""
        return self._scattered(self.kept_indices // self.tokens_per_frame, self.num_frames)

    @cached_property
    def frame_weights(self) -> np.ndarray:
        """Share of every frame in all video tokens together, `(num_frames,)`; sums to 1."""
        return self.frame_weights_per_token.mean(axis=0)

    @cached_property
    def place_weights(self) -> np.ndarray:
        """Share of every place in all video tokens together, `(num_frames, rows, columns)`; sums to 1 in all."""
        return self._to_grid(self._scattered(self.kept_indices, self.significance.size).mean(axis=0))

    @cached_property
    def kept(self) -> np.ndarray:
        """True at the places whose tokens were kept, `(num_frames, rows, columns)`."""
        flat = np.zeros(self.significance.size, dtype=bool)
        flat[self.kept_indices] = True
        return self._to_grid(flat)

    @property
    def significance_map(self) -> np.ndarray:
        """Significance of every place, `(num_frames, rows, columns)`."""
        return self._to_grid(self.significance)

    def per_token(self, index: int) -> np.ndarray:
        """
        Weight of every place in one video token, `(num_frames, rows, columns)`.

        Raises:
            `LinVTInputError`: if there is no such video token.
        """
        if not 0 <= index < self.num_video_tokens:
            raise LinVTInputError(
                f"There is no video token {index}; they are numbered 0 to {self.num_video_tokens - 1}."
            )
        flat = np.zeros(self.significance.size, dtype=np.float32)
        flat[self.kept_indices] = self.kept_weights[index]
        return self._to_grid(flat)

    def top_frames(self, count: int = 5) -> list[FrameShare]:
        """The `count` frames with most weight, the heaviest first; the earlier one where two weigh the same."""
        order = np.argsort(-self.frame_weights, kind="stable")[: max(count, 0)]
        return [FrameShare(int(i), float(self.timestamps[i]), float(self.frame_weights[i])) for i in order]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """
        Condense anything that has one row per frame token, as the frame tokens were condensed.

        Args:
            values (`np.ndarray` of shape `(num_frames, tokens_per_frame, width)`):
                Values aligned with the frame tokens; the frame tokens themselves give the video tokens.

        Returns:
            `np.ndarray` of shape `(num_video_tokens, width)`.

        Raises:
            `LinVTInputError`: if the values are not aligned with the frame tokens.
        """
        if values.ndim != 3 or values.shape[:2] != self.significance.shape:
            raise LinVTInputError(
                f"Values must have one row per frame token, shape ({self.num_frames}, {self.tokens_per_frame}, "
                f"width), got {values.shape}."
            )
        return self.kept_weights @ values.reshape(-1, values.shape[-1])[self.kept_indices]

    def to_dict(self, with_places: bool = False) -> dict[str, Any]:
        """
        Everything but the frames as plain numbers and strings that `json.dumps` takes.

        Args:
            with_places (`bool`, defaults to `False`):
                Add the maps of weights and of kept places, `num_frames * rows * columns` numbers each.
        """
        result = {
            "source": self.source,
            "question": self.question,
            "answer": self.answer,
            "num_frames": self.num_frames,
            "tokens_per_frame": self.tokens_per_frame,
            "grid_size": list(self.grid_size),
            "num_kept_tokens": len(self.kept_indices),
            "num_video_tokens": self.num_video_tokens,
            "is_exact": self.is_exact,
            "timestamps": [float(seconds) for seconds in self.timestamps],
            "frame_weights": [float(weight) for weight in self.frame_weights],
            "kept_tokens_per_frame": self._kept_per_frame().tolist(),
        }
        if with_places:
            result["place_weights"] = self.place_weights.tolist()
            result["kept_places"] = self.kept.tolist()
        return result

    def _kept_per_frame(self) -> np.ndarray:
        return np.bincount(self.kept_indices // self.tokens_per_frame, minlength=self.num_frames)

    def _scattered(self, indices: np.ndarray, size: int) -> np.ndarray:
        summed = np.zeros((self.num_video_tokens, size), dtype=np.float32)
        np.add.at(summed.T, indices, self.kept_weights.T)
        return summed

    def _to_grid(self, values: np.ndarray) -> np.ndarray:
        rows, columns = self.grid_size
        flat = values.reshape(self.num_frames, self.tokens_per_frame)[:, : rows * columns]
        return flat.reshape(self.num_frames, rows, columns)

    # -- the picture --

    def draw(self) -> Image.Image:
        """The picture that [`save`](VideoEvidence.save) writes."""
        return _Sheet(self).draw()

    def save(self, path: str | os.PathLike) -> None:
        """
        Draw the frames on a time line, what was kept of them and how much weight each got, as a PNG.

        Above, the weight of every frame over time. Below, every sampled frame: places that were kept are outlined and
        bright, the others dimmed; where there is room, a map of the weight of every place; a bar for the weight of the
        frame. The file is written beside its place and moved there when whole.

        Args:
            path (`str` or `os.PathLike`):
                Where to, ending in `.png`; an existing file is replaced.

        Raises:
            `LinVTInputError`: if no PNG can be written there.
        """
        path = check_picture_path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            self.draw().save(partial, format="PNG")
            os.replace(partial, path)
        except OSError as error:
            raise LinVTInputError(f"{path} could not be written: {error.strerror or error}.") from error
        finally:
            partial.unlink(missing_ok=True)


def check_picture_path(path: str | os.PathLike) -> Path:
    """
    Refuse, before any work is done, a path that no PNG can be written to.

    Raises:
        `LinVTInputError`: for another ending than `.png`, or a folder that does not exist or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise LinVTInputError(f"{path} does not end in .png, and evidence is drawn as a PNG. Name it {path.stem}.png.")
    if path.is_dir():
        raise LinVTInputError(f"{path} is a folder. Give the name of a file in it.")
    if not path.parent.is_dir():
        raise LinVTInputError(f"{path} cannot be written: the folder {path.parent} does not exist. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise LinVTInputError(f"{path} cannot be written: no permission to write in {path.parent}.")
    return path


def region_seen(image_processor: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """
    The part of a frame that an image processor passes on: all of it, or the middle where it crops.

    Args:
        image_processor: of the base model; `do_center_crop`, `size` and `crop_size` are looked at.
        height (`int`), width (`int`): of the frame in pixels.

    Returns:
        Top, left, bottom and right as fractions of the frame.

    Example (shortest edge to 336, then the middle 336 x 336, as CLIP does):

    >>> from types import SimpleNamespace
    >>> square = {"height": 336, "width": 336}
    >>> clip = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 336}, crop_size=square)
    >>> region_seen(clip, height=100, width=200)
    (0.0, 0.25, 1.0, 0.75)
    """
    crop = getattr(image_processor, "crop_size", None)
    if not getattr(image_processor, "do_center_crop", False) or not crop:
        return WHOLE_FRAME
    size = getattr(image_processor, "size", None) or {}
    edge, box = _entry(size, "shortest_edge"), (_entry(size, "height"), _entry(size, "width"))
    resized = (height, width)
    if getattr(image_processor, "do_resize", True) and edge:
        resized = (height * edge / min(height, width), width * edge / min(height, width))
    elif getattr(image_processor, "do_resize", True) and all(box):
        resized = box
    halves = [
        (_entry(crop, name) or length) / length / 2 for name, length in zip(("height", "width"), resized, strict=True)
    ]
    return 0.5 - halves[0], 0.5 - halves[1], 0.5 + halves[0], 0.5 + halves[1]


def _entry(size: Any, name: str) -> int | None:
    return size.get(name) if hasattr(size, "get") else getattr(size, name, None)


# ---------------------------------------------------------------------------------------------------------------------
# The picture
# ---------------------------------------------------------------------------------------------------------------------

_MAX_WIDTH, _MIN_WIDTH, _MAX_SHEET_HEIGHT = 1600, 1120, 2400  # pixels; the sheet is the part with the frames
_MAX_THUMBNAIL = 232  # longer side of a frame
_MARGIN, _GAP = 40, 14
_CHART_HEIGHT = 96
_MIN_LABELLED, _MIN_TWO_PANELS = 54, 72  # width of a frame from which on it gets a label, a map of weights
_FULL_HEAT = 2.5  # times the equal share is the darkest colour, unless something weighs more: even weights look even
_MIN_OUTLINED_PLACE = 6  # size of a place from which on what was kept is outlined

_PAPER, _INK, _MUTED, _RULE, _TRACK = (255, 255, 255), (28, 32, 40), (108, 114, 126), (222, 226, 232), (238, 240, 244)
_HEAT = np.array(  # from light to dark and from yellow to red, so that it is read without colour as well
    [(255, 250, 225), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)], dtype=np.float32
)
_FONTS = (  # looked for where a text has letters that the font inside Pillow lacks
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf",
)  # fmt: skip


def _heat(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of values in [0, 1]."""
    position = np.clip(values, 0.0, 1.0) * (len(_HEAT) - 1)
    low = np.minimum(position.astype(int), len(_HEAT) - 2)
    return _HEAT[low] + (position - low)[..., None] * (_HEAT[low + 1] - _HEAT[low])


def _font(size: int, text: str = "") -> Any:
    if any(ord(letter) > 0x17F for letter in text):
        for name in _FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrapped(text: str, font: Any, width: float, max_lines: int) -> list[str]:
    """The text in lines of at most `width` pixels; what does not fit into `max_lines` ends in dots."""
    lines, words = [""], " ".join(text.split()).split(" ")
    for word in words:
        while font.getlength(word) > width and len(word) > 1:  # a word as long as a line, or a script without spaces
            cut = max(1, int(len(word) * width / font.getlength(word)) - 1)
            lines.append(word[:cut])
            word = word[cut:]
        candidate = f"{lines[-1]} {word}".strip()
        if font.getlength(candidate) <= width:
            lines[-1] = candidate
        else:
            lines.append(word)
    lines = [line for line in lines if line] or [""]
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], last + "..."]
    return lines


def _tick_step(span: float, max_ticks: int) -> float:
    """The smallest round step with which at most `max_ticks` ticks fall into `span` seconds."""
    least = span / max(max_ticks, 1)
    steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]
    return next((step for step in steps if step >= least), math.ceil(least / 3600) * 3600.0)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


@dataclass
class _Cell:
    """Where one frame stands on the sheet, in pixels: its picture, its map of weights (if any), its bar."""

    picture: tuple[int, int, int, int]
    heat: tuple[int, int, int, int] | None
    bar: tuple[int, int, int, int]


class _Sheet:
    """The layout and the drawing of one evidence."""

    def __init__(self, evidence: VideoEvidence) -> None:
        self.evidence = evidence
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
        self.question_font = _font(28, evidence.question or "")
        self.answer_font = _font(24, evidence.answer or "")
        title = evidence.question or "What was kept of the video, without a question"
        self.question = _wrapped(title, self.question_font, inner, 3)
        self.answer = _wrapped(evidence.answer, self.answer_font, inner, 3) if evidence.answer is not None else []
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
        self.image = Image.new("RGB", (self.width, self.height), _PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self._draw_title()
        self._draw_chart()
        for index in range(self.evidence.num_frames):
            self._draw_frame(index)
        self._draw_legend()
        return self.image

    def _text(self, place: tuple[float, float], text: str, size: int, colour: tuple, anchor: str = "la") -> None:
        self.pen.text(place, text, fill=colour, font=_font(size, text), anchor=anchor)

    def _draw_title(self) -> None:
        top = _MARGIN - 6
        for line in self.question:
            self.pen.text((_MARGIN, top), line, fill=_INK, font=self.question_font)
            top += 36
        for line in self.answer:
            self.pen.text((_MARGIN, top + 2), line, fill=tuple(_HEAT[3].astype(int)), font=self.answer_font)
            top += 34
        evidence = self.evidence
        kept, total = len(evidence.kept_indices), evidence.significance.size
        facts = [
            os.path.basename(evidence.source) if evidence.source else None,
            f"{evidence.num_frames} frame{'s' * (evidence.num_frames > 1)} of {evidence.tokens_per_frame} tokens",
            f"{kept} of {total} frame tokens kept",
            f"{evidence.num_video_tokens} video tokens for the language model",
            None if evidence.is_exact else "weights are approximate (nonlinear aggregation)",
        ]
        font = _font(16, evidence.source or "")
        text = _wrapped("   |   ".join(fact for fact in facts if fact), font, self.width - 2 * _MARGIN, 1)[0]
        self.pen.text((_MARGIN, top + 8), text.replace(" | ", "   |   "), fill=_MUTED, font=font)

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

        self._text((left - 12, top), _percent(highest), 15, _MUTED, "rm")
        self._text((left - 12, bottom), "0 %", 15, _MUTED, "rm")
        self._text((_MARGIN, top - 30), "Weight of each frame over time", 16, _INK, "lm")
        self.pen.line((left, top, right, top), fill=_RULE)
        for time, weight in zip(seconds, weights, strict=True):
            x, height = x_of(float(time)), float(weight) * scale
            colour = self._frame_colour(float(weight))
            self.pen.rectangle((x - bar / 2, bottom - max(height, 1), x + bar / 2, bottom), fill=colour)
        equal = bottom - scale / evidence.num_frames
        for x in range(left, right, 12):
            self.pen.line((x, equal, x + 5, equal), fill=_MUTED)
        label = right - self.pen.textlength("if all weighed the same", font=_font(14))
        self._text((right, top - 30), "if all weighed the same", 14, _MUTED, "rm")
        for x in range(int(label) - 44, int(label) - 10, 12):
            self.pen.line((x, top - 30, x + 5, top - 30), fill=_MUTED)
        self.pen.line((left, bottom, right, bottom), fill=_INK)
        self._draw_ticks(first, last, x_of, bottom)

    def _draw_ticks(self, first: float, last: float, x_of: Any, bottom: float) -> None:
        step = _tick_step(max(last - first, 0.01), max_ticks=12)
        ticks = [number * step for number in range(math.ceil(first / step), math.floor(last / step) + 1)] or [first]
        for time in ticks:
            x = x_of(time)
            self.pen.line((x, bottom, x, bottom + 5), fill=_INK)
            self._text((x, bottom + 9), f"{time:.10g} s" if len(ticks) > 1 else f"{time:.2f} s", 15, _MUTED, "ma")

    def _draw_frame(self, index: int) -> None:
        evidence, cell = self.evidence, self.cell(index)
        share = float(evidence.frame_weights[index])
        highest = max(float(evidence.frame_weights.max()), 1e-9)
        seconds = f"{evidence.timestamps[index]:.2f} s"
        if self.label_height:
            self._text((cell.picture[0], cell.picture[1] - 5), seconds, 15, _INK, "lb")
            self._text((cell.bar[0], cell.bar[3] + 4), _percent(share), 14, _MUTED, "la")
        elif index % self.columns == 0:
            self._text((_MARGIN + self._row_labels - 10, cell.picture[1]), seconds, 14, _MUTED, "ra")
        self._paste_panels(index, cell)
        left, top, right, bottom = cell.bar
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill=_TRACK)
        length = round((right - left) * share / highest)
        if length > 0:
            colour = self._frame_colour(share)
            self.pen.rectangle((left, top, left + length - 1, bottom - 1), fill=colour)

    def _frame_colour(self, weight: float) -> tuple[int, ...]:
        return tuple(_heat(np.array(weight / self.frame_scale)).astype(int).tolist())

    def _paste_panels(self, index: int, cell: _Cell) -> None:
        evidence = self.evidence
        size = self.thumbnail
        grow = size[0] > evidence.frames.shape[2]
        resampling = Image.Resampling.BICUBIC if grow else Image.Resampling.LANCZOS
        picture = np.asarray(Image.fromarray(evidence.frames[index]).resize(size, resampling), dtype=np.float32)
        grey = picture.mean(axis=2, keepdims=True)
        kept = self._over_pixels(evidence.kept[index].astype(np.float32)) > 0.5
        heat = self._over_pixels(evidence.place_weights[index] / self.place_scale)
        shown = np.where(kept[..., None], picture, 0.6 * 240 + 0.4 * (0.4 * picture + 0.6 * grey))
        if self.panels == 1:
            tint = 0.6 * np.sqrt(heat)[..., None] * kept[..., None]
            shown = shown + tint * (_heat(heat) - shown)
        place = min(size[0] / evidence.grid_size[1], size[1] / evidence.grid_size[0])
        if place >= _MIN_OUTLINED_PLACE:
            shown = self._outlined(shown, kept, 2 if place >= 2.5 * _MIN_OUTLINED_PLACE else 1)
        self.image.paste(Image.fromarray(np.clip(shown, 0, 255).astype(np.uint8)), cell.picture[:2])
        if cell.heat is not None:
            light = 0.35 * grey + 0.65 * 255
            painted = np.where(kept[..., None], 0.22 * light + 0.78 * _heat(heat), 0.5 * light + 0.5 * 245)
            self.image.paste(Image.fromarray(np.clip(painted, 0, 255).astype(np.uint8)), cell.heat[:2])

    def _over_pixels(self, grid: np.ndarray) -> np.ndarray:
        """A map of places stretched over the pixels of a thumbnail; 0 outside the region that the model sees."""
        width, height = self.thumbnail
        top, left, bottom, right = self.evidence.region
        rows = (((np.arange(height) + 0.5) / height - top) / (bottom - top) * grid.shape[0]).astype(float)
        columns = (((np.arange(width) + 0.5) / width - left) / (right - left) * grid.shape[1]).astype(float)
        inside = ((rows >= 0) & (rows < grid.shape[0]))[:, None] & ((columns >= 0) & (columns < grid.shape[1]))
        row = np.clip(rows.astype(int), 0, grid.shape[0] - 1)
        column = np.clip(columns.astype(int), 0, grid.shape[1] - 1)
        return np.where(inside, grid[row[:, None], column], 0.0)

    def _outlined(self, picture: np.ndarray, kept: np.ndarray, width: int) -> np.ndarray:
        """The picture with a line along the border of what was kept, on its inside."""
        padded = np.pad(kept, width)
        inner = np.ones_like(kept)
        for down in range(2 * width + 1):
            for right in range(2 * width + 1):
                inner &= padded[down : down + kept.shape[0], right : right + kept.shape[1]]
        line = kept & ~inner
        return np.where(line[..., None], _HEAT[2], picture)

    def _draw_legend(self) -> None:
        """What the colours mean, below the frames."""
        top, left = self.height - _MARGIN - 4, _MARGIN
        self.pen.rectangle((left, top - 8, left + 20, top + 8), outline=tuple(_HEAT[2].astype(int)), width=2)
        self._text((left + 30, top), "kept", 15, _MUTED, "lm")
        self.pen.rectangle((left + 82, top - 8, left + 102, top + 8), fill=(214, 214, 218))
        self._text((left + 112, top), "not kept", 15, _MUTED, "lm")
        what = "lower picture: weight of each place" if self.panels == 2 else "tint: weight of each place"
        self._text((left + 200, top), f"{what},  0", 15, _MUTED, "lm")
        start = left + 210 + int(self.pen.textlength(f"{what},  0", font=_font(15)))
        for step in range(120):
            colour = tuple(_heat(np.array(step / 119)).astype(int))
            self.pen.line((start + step, top - 7, start + step, top + 7), fill=colour)
        self._text((start + 130, top), f"{100 * self.place_scale:.2g} % of all", 15, _MUTED, "lm")
        bar = "bar: weight of the frame, full for the heaviest"
        self._text((self.width - _MARGIN, top), bar, 15, _MUTED, "rm")
