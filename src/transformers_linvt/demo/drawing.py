"""Pictures of coloured shapes in pixels, clean, and as compression and cameras leave them. Needs numpy alone."""

from collections.abc import Sequence

import numpy as np

from ..errors import LinVTInputError
from .world import COLOURS, GRID_SIZE, PICTURE_SIZE, SHAPES, Background, Picture, ShapeObject


def _shape_masks(objects: Sequence[ShapeObject], cell: int) -> np.ndarray:
    """Coverage in [0, 1] of every object over its own cell, `(num_objects, cell, cell)`, smoothed by 3 x 3 samples."""
    fine = (np.arange(3 * cell) + 0.5) / (3 * cell) - 0.5  # in cells, from the middle of the cell
    drawing = np.array([(o.shift_down, o.shift_right, o.radius) for o in objects], np.float32).reshape(-1, 3, 1, 1)
    y = fine.astype(np.float32)[None, :, None] - drawing[:, 0]
    x = np.abs(fine.astype(np.float32)[None, None, :] - drawing[:, 1])
    radius = drawing[:, 2]
    height = np.abs(y)
    masks = {
        "circle": x * x + y * y <= radius * radius,
        "square": np.maximum(x, height) <= 0.85 * radius,
        "triangle": (height <= 0.95 * radius) & (2 * x <= y + 0.95 * radius),
        "cross": (np.maximum(x, height) <= radius) & (np.minimum(x, height) <= 0.3 * radius),
    }
    kind = np.array([SHAPES.index(o.shape) for o in objects])
    chosen = np.stack([masks[shape] for shape in SHAPES])[kind, np.arange(len(objects))]
    return chosen.reshape(-1, cell, 3, cell, 3).mean((2, 4), dtype=np.float32)


def render_pictures(
    pictures: Sequence[Picture],
    backgrounds: Sequence[Background],
    rng: np.random.Generator,
    size: int = PICTURE_SIZE,
) -> np.ndarray:
    """
    The pictures in pixels, all at once.

    Args:
        pictures (`Sequence[Picture]`), backgrounds (`Sequence[Background]`):
            One background per picture.
        rng (`np.random.Generator`):
            Draws the noise: the same picture rendered twice differs as two frames of a camera do.
        size (`int`, defaults to 64):
            Pixels per side, a multiple of 4.

    Returns:
        `np.ndarray` of shape `(len(pictures), size, size, 3)`, uint8 RGB.

    Raises:
        `LinVTInputError`: if `size` is no positive multiple of 4.
    """
    if size <= 0 or size % GRID_SIZE:
        raise LinVTInputError(
            f"size={size} pixels cannot be split into {GRID_SIZE} cells. Use a multiple of {GRID_SIZE}."
        )
    cell, num = size // GRID_SIZE, len(pictures)
    ramp = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    numbers = np.array([(b.level, b.rise_right, b.rise_down, b.noise) for b in backgrounds], np.float32)
    level, right, down, noise = numbers.reshape(num, 4).T[:, :, None, None]
    canvas = np.repeat((level + right * ramp[None, None, :] + down * ramp[None, :, None])[..., None], 3, axis=3)
    placed = [(index, thing) for index, picture in enumerate(pictures) for thing in picture]
    if placed:
        which = np.array([index for index, _ in placed])
        objects = [thing for _, thing in placed]
        rows, columns = np.array([(o.row, o.column) for o in objects]).T
        paint = np.array([COLOURS[o.colour] for o in objects], np.float32) * np.array(
            [[o.shade] for o in objects], np.float32
        )
        masks = _shape_masks(objects, cell)[..., None]
        cells = canvas.reshape(num, GRID_SIZE, cell, GRID_SIZE, cell, 3)
        under = cells[which, rows, :, columns]
        cells[which, rows, :, columns] = under + masks * (paint[:, None, None, :] - under)
    canvas += noise[..., None] * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def degrade_pictures(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """
    What compression, resizing and cameras do to pictures: smeared colour, blur, other brightness and contrast, noise.

    Each effect has a strength of its own per picture, drawn anew, often small. Colour is averaged over 2 x 2 pixels as
    in 4:2:0 video.

    Args:
        frames (`np.ndarray` of shape `(num, size, size, 3)`):
            uint8 RGB, `size` even.

    Returns:
        `np.ndarray` of the same shape and dtype.
    """
    num, size = frames.shape[:2]
    strength = rng.random((num, 5), dtype=np.float32)[:, :, None, None, None]
    out = frames.astype(np.float32)
    luma = out @ np.array([0.299, 0.587, 0.114], np.float32)
    chroma = out - luma[..., None]
    smeared = chroma.reshape(num, size // 2, 2, size // 2, 2, 3).mean((2, 4))
    smeared = smeared.repeat(2, axis=1).repeat(2, axis=2)
    out = luma[..., None] + chroma + (strength[:, 0] < 0.6) * (smeared - chroma)
    padded = np.pad(out, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    blurred = (padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]) / 4
    out += 0.6 * strength[:, 1] ** 2 * (blurred - out)
    out = (out - 128) * (0.75 + 0.4 * strength[:, 2]) + 128 + 40 * (strength[:, 3] - 0.5)
    out += 8 * strength[:, 4] ** 2 * rng.standard_normal(out.shape, dtype=np.float32)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)
