"""
The world of coloured shapes: objects on a grid, what a picture is, and pictures drawn at random.

It is small on purpose. Objects (four shapes, four colours) stand on a 4 x 4 grid whose cells are the patches of the
embedded vision tower, so a small model learns to see them in minutes, and every answer is known from the symbolic
state: a picture is a tuple of [`ShapeObject`].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {"red": (215, 45, 40), "green": (45, 165, 60), "blue": (50, 75, 215), "yellow": (235, 205, 45)}
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

GRID_SIZE = 4  # cells per side of a picture; one cell is one patch of the embedded vision tower
PICTURE_SIZE = 64  # pixels per side, 16 per cell
MAX_OBJECTS = 4  # objects in one picture, so that every count has a word in NUMBERS

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns) per step
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up"}

# First word of every seed: the streams of two splits never meet. Pictures have "train" and "test", clips the others:
# "clip" is what figures are reported on, "clip_train" what models are trained on, "clip_choose" what recipes are
# chosen on, "clip_diagnose" what `linvt eval` asks about.
SPLITS = {"train": 0, "test": 1, "clip": 2, "clip_train": 3, "clip_choose": 4, "clip_diagnose": 5}
CLIP_SPLITS = ("clip", "clip_train", "clip_choose", "clip_diagnose")


@dataclass(frozen=True)
class ShapeObject:
    """
    One object: what it is, which cell it stands in, and how it is drawn there.

    Two objects are equal when they are the same to a question: the drawing (`shift_*` and `radius` in cells, `shade` a
    factor on the colour) does not count.
    """

    shape: str
    colour: str
    row: int
    column: int
    shift_down: float = field(default=0.0, compare=False)
    shift_right: float = field(default=0.0, compare=False)
    radius: float = field(default=0.38, compare=False)
    shade: float = field(default=1.0, compare=False)

    @property
    def quadrant(self) -> str:
        """Where the object is, one of `QUADRANTS`."""
        return QUADRANTS[2 * (self.row >= GRID_SIZE // 2) + (self.column >= GRID_SIZE // 2)]


@dataclass(frozen=True)
class Background:
    """A grey background: brightness in the middle, rise to the right and to the bottom, noise; all in 0 to 255."""

    level: float = 128.0
    rise_right: float = 0.0
    rise_down: float = 0.0
    noise: float = 0.0


Picture = tuple[ShapeObject, ...]


def seeded_generator(split: str, seed: int) -> np.random.Generator:
    """
    Random numbers of one seed of one split (`"train"`, `"test"` or `"clip"`); no two of them share a stream.

    >>> bool(seeded_generator("train", 3).integers(1 << 62) == seeded_generator("test", 3).integers(1 << 62))
    False
    """
    return np.random.default_rng([SPLITS[split], seed])


def pick(rng: np.random.Generator, options: Sequence):
    """One of the options, each as likely as the others."""
    return options[int(rng.integers(len(options)))]


def random_background(rng: np.random.Generator) -> Background:
    """A background: a third plain, a third noisy, a third with a slope; between dark and light grey."""
    level, style = float(rng.uniform(30, 225)), int(rng.integers(3))
    rise_right, rise_down = rng.uniform(-40, 40, 2) if style == 2 else (0.0, 0.0)
    noise = float(rng.uniform(6, 16)) if style == 1 else float(rng.uniform(0, 5))
    return Background(level, float(rise_right), float(rise_down), noise)


def random_picture(
    rng: np.random.Generator,
    num_objects: int,
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = tuple(COLOURS),
) -> Picture:
    """
    `num_objects` objects in different cells, in reading order.

    Half of the pictures draw from few shapes or few colours, so that "how many are red" has high answers too, and so
    that "is there a red circle" is not answered by having seen red and a circle.
    """
    few = rng.random()
    if few < 0.25:
        shapes = [pick(rng, shapes)] + [pick(rng, shapes)] * int(rng.integers(2))
    elif few < 0.5:
        colours = [pick(rng, colours)] + [pick(rng, colours)] * int(rng.integers(2))
    cells = np.sort(rng.permutation(GRID_SIZE**2)[:num_objects])
    drawing = rng.random((num_objects, 4))
    return tuple(
        ShapeObject(
            shape=pick(rng, shapes),
            colour=pick(rng, colours),
            row=int(cell) // GRID_SIZE,
            column=int(cell) % GRID_SIZE,
            shift_down=float(0.12 * u[0] - 0.06),
            shift_right=float(0.12 * u[1] - 0.06),
            radius=float(0.33 + 0.09 * u[2]),
            shade=float(0.85 + 0.25 * u[3]),
        )
        for cell, u in zip(cells, drawing, strict=True)
    )


def random_run(rng: np.random.Generator, num_pictures: int, max_objects: int = MAX_OBJECTS) -> tuple[Picture, ...]:
    """
    `num_pictures` pictures that follow each other in time.

    One picture: zero to `max_objects` objects. Several: a third repeat one picture (a static clip), a third show one
    or two new objects each, a third let every object come and go (each visible over its own span of pictures, or all).
    """
    count = int(rng.integers(max_objects + 1)) if rng.random() < 0.9 else 0
    picture = random_picture(rng, max(count, int(rng.random() < 0.8)))
    if num_pictures == 1:
        return (picture,)
    style = int(rng.integers(3))
    if style == 0:
        return (picture,) * num_pictures
    if style == 1:
        return tuple(random_picture(rng, 1 + int(rng.integers(min(2, max_objects)))) for _ in range(num_pictures))
    spans = np.sort(rng.integers(0, num_pictures, (len(picture), 2)), axis=1)
    return tuple(
        tuple(thing for thing, (first, last) in zip(picture, spans, strict=True) if first <= time <= last)
        for time in range(num_pictures)
    )
