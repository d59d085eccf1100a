"""What the pictures of evidence have in common: colours, letters, lines of text, ticks, and maps over pixels."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageFont


PAPER, INK, MUTED, RULE, TRACK = (255, 255, 255), (28, 32, 40), (108, 114, 126), (222, 226, 232), (238, 240, 244)
AGAINST = (92, 124, 168)
HEAT = np.array(  # from light to dark and from yellow to red, so that it is read without colour as well
    [(255, 250, 225), (254, 217, 118), (253, 141, 60), (227, 26, 28), (128, 0, 38)], dtype=np.float32
)
_FONTS = (  # looked for where a text has letters that the font inside Pillow lacks
    "DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf",
)  # fmt: skip


def heat_colours(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` of values in [0, 1]."""
    position = np.clip(values, 0.0, 1.0) * (len(HEAT) - 1)
    low = np.minimum(position.astype(int), len(HEAT) - 2)
    return HEAT[low] + (position - low)[..., None] * (HEAT[low + 1] - HEAT[low])


def font_of(size: int, text: str = "") -> Any:
    """A font of `size` pixels that has the letters of a text: the one inside Pillow, or one of this system."""
    if any(ord(letter) > 0x17F for letter in text):
        for name in _FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def wrapped(text: str, font: Any, width: float, max_lines: int) -> list[str]:
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


def tick_step(span: float, max_ticks: int) -> float:
    """The smallest round step with which at most `max_ticks` ticks fall into `span` seconds."""
    least = span / max(max_ticks, 1)
    steps = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]
    return next((step for step in steps if step >= least), math.ceil(least / 3600) * 3600.0)


def percent(share: float) -> str:
    """A share in per cent, with a digit behind the point where it is small."""
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def over_pixels(grid: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float]) -> np.ndarray:
    """
    A map of places stretched over the pixels of a frame; 0 outside the region that the model sees.

    Args:
        grid (`np.ndarray` of shape `(rows, columns)`).
        size: width and height in pixels.
        region: top, left, bottom and right as fractions of the frame.
    """
    (width, height), (top, left, bottom, right) = size, region
    rows = ((np.arange(height) + 0.5) / height - top) / (bottom - top) * grid.shape[0]
    columns = ((np.arange(width) + 0.5) / width - left) / (right - left) * grid.shape[1]
    inside = ((rows >= 0) & (rows < grid.shape[0]))[:, None] & ((columns >= 0) & (columns < grid.shape[1]))
    row = np.clip(rows.astype(int), 0, grid.shape[0] - 1)
    column = np.clip(columns.astype(int), 0, grid.shape[1] - 1)
    return np.where(inside, grid[row[:, None], column], 0.0)


def frame_pixels(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame `(height, width, 3)` at another size, `(size[1], size[0], 3)`, float32."""
    resampling = Image.Resampling.BICUBIC if size[0] > frame.shape[1] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(frame).resize(size, resampling), dtype=np.float32)


def paste(image: Image.Image, pixels: np.ndarray, place: tuple[int, int]) -> None:
    """Put pixels `(height, width, 3)` of any number type into a picture."""
    image.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), place)
