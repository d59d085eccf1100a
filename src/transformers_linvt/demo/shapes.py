"""
Pictures, clips and questions about coloured shapes: everything the embedded base model knows, from a seed.

The world is small on purpose. Objects (four shapes, four colours) stand on a 4 x 4 grid whose cells are the patches of
the embedded vision tower, so a small model learns to see them in minutes, and every answer is known from the symbolic
state: a picture is a tuple of [`ShapeObject`], and [`ask`] only asks what that state answers unambiguously. Answers
are balanced per kind of question: the answer is drawn first, among those the pictures allow.

Everything here needs numpy alone; `write_clip` needs PyAV. The family of pictures and clips is ours (the paper trains
on real videos).
"""

import os
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ..errors import LinVTInputError


SHAPES = ("circle", "square", "triangle", "cross")
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
COLOURS = {"red": (215, 45, 40), "green": (45, 165, 60), "blue": (50, 75, 215), "yellow": (235, 205, 45)}
NUMBERS = ("zero", "one", "two", "three", "four")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")

GRID_SIZE = 4  # cells per side of a picture; one cell is one patch of the embedded vision tower
PICTURE_SIZE = 64  # pixels per side, 16 per cell
MAX_OBJECTS = 4  # objects in one picture, so that every count has a word in NUMBERS

PICTURE_KINDS = ("colour", "shape", "existence", "position", "count", "attribute_count")
RUN_KINDS = ("colour", "shape", "existence", "position", "order")
QUESTION_KINDS = PICTURE_KINDS + ("order", "direction", "occurrences", "description")
CLIP_KINDS = ("scenes", "static", "needle", "needles", "order", "direction", "count", "moment", "traverse")
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns) per step
OPPOSITES = {"left": "right", "right": "left", "up": "down", "down": "up"}

# First word of every seed: the streams of two splits never meet. Pictures have "train" and "test", clips the others:
# "clip" is what figures are reported on, "clip_train" what models are trained on, "clip_choose" what recipes are
# chosen on.
_SPLITS = {"train": 0, "test": 1, "clip": 2, "clip_train": 3, "clip_choose": 4}
CLIP_SPLITS = ("clip", "clip_train", "clip_choose")
_CLIP_STREAMS = 5  # kinds of clips whose streams are interleaved; a kind added later has a word of its own

WORDINGS: dict[str, tuple[str, ...]] = {
    "colour": (
        "What colour is the {shape}?",
        "What color is the {shape}?",
        "Which colour does the {shape} have?",
        "What is the colour of the {shape}?",
        "Tell me the colour of the {shape}.",
    ),
    "shape": (
        "What shape is the {colour} object?",
        "Which shape is {colour}?",
        "What is the shape of the {colour} object?",
        "What kind of shape is the {colour} thing?",
        "Tell me the shape of the {colour} object.",
    ),
    "existence": (
        "Is there {a_thing}?",
        "Can you see {a_thing}?",
        "Do you see {a_thing}?",
        "Does the {medium} show {a_thing}?",
        "Is there {a_thing} in the {medium}?",
    ),
    "position": (
        "Where is {the_thing}?",
        "In which corner is {the_thing}?",
        "In which part of the {medium} is {the_thing}?",
        "Where can {the_thing} be seen?",
    ),
    "count": (
        "How many objects are there?",
        "How many shapes are there?",
        "How many objects can you see?",
        "How many objects are in the {medium}?",
        "Count the objects.",
    ),
    "attribute_count": (
        "How many {things} are there?",
        "How many {things} can you see?",
        "How many {things} are in the {medium}?",
        "Count the {things}.",
    ),
    "order": (
        "Which came {end}, {the_thing} or {the_other}?",
        "What came {end}, {the_thing} or {the_other}?",
        "Which appeared {end}, {the_thing} or {the_other}?",
        "Which was shown {end}: {the_thing} or {the_other}?",
    ),
    "direction": (
        "In which direction does {the_thing} move?",
        "Which direction does {the_thing} move?",
        "In which direction is {the_thing} moving?",
        "Tell me the direction of {the_thing}.",
    ),
    "occurrences": (
        "How many times does {the_thing} appear?",
        "How many times can you see {the_thing}?",
        "How many times is {the_thing} shown?",
        "How often does {the_thing} appear?",
    ),
    "description": (
        "Describe the {medium}.",
        "What does the {medium} show?",
        "What can you see?",
        "What do you see in the {medium}?",
        "What happens in the {medium}?",
    ),
}
MEDIA = ("picture", "image", "video", "clip")
LEAD_INS = ("Please answer:", "Look at the {medium}.", "Here is a {medium}.", "Question:", "In the {medium}:")
INSTRUCTIONS = (
    "Answer with one word.",
    "Answer the question using a single word or phrase.",
    "Please answer briefly.",
    "Give a short answer.",
)


class Question(NamedTuple):
    """
    A question with its one right answer, all lower case in the answer, as the embedded model writes it.

    Where a clip shows things that are seen in different ways, `subject` says which of them is asked about: of a
    `"moment"` clip `"still"`, `"short"`, or `"absent"` for what is not there.
    """

    kind: str
    question: str
    answer: str
    subject: str = ""


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


@dataclass(frozen=True)
class ClipScript:
    """What a clip shows, symbolically: the picture of every frame, the background of the clip, and the questions."""

    pictures: tuple[Picture, ...]
    background: Background
    questions: tuple[Question, ...]

    @property
    def caption(self) -> str:
        """What happens, in the words of [`describe`]; one sentence about a motion, which has no words there."""
        for question in self.questions:
            if question.kind == "direction":
                (thing,) = self.pictures[0]
                return f"a {thing.colour} {thing.shape} moves {question.answer}"
        return describe(self.pictures)

    def backwards(self) -> "ClipScript":
        """
        The clip from its end to its beginning, with the answers that then hold.

        A motion has the opposite direction and what came first comes last; no other answer depends on the order.

        >>> forwards = script_clip("traverse", seed=0, num_frames=8)
        >>> forwards.questions[0].answer, forwards.backwards().questions[0].answer
        ('down', 'up')
        """
        questions = []
        for question in self.questions:
            if question.kind == "direction":
                question = question._replace(answer=OPPOSITES[question.answer])
            elif question.kind == "order":
                (other,) = set(re.findall(r"\w+", question.question)) & set(ANSWERS["order"]) - {question.answer}
                question = question._replace(answer=other)
            questions.append(question)
        return replace(self, pictures=self.pictures[::-1], questions=tuple(questions))


def seeded_generator(split: str, seed: int) -> np.random.Generator:
    """
    Random numbers of one seed of one split (`"train"`, `"test"` or `"clip"`); no two of them share a stream.

    >>> bool(seeded_generator("train", 3).integers(1 << 62) == seeded_generator("test", 3).integers(1 << 62))
    False
    """
    return np.random.default_rng([_SPLITS[split], seed])


def _pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


# --- the symbolic state ----------------------------------------------------------------------------------------------


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
        shapes = [_pick(rng, shapes)] + [_pick(rng, shapes)] * int(rng.integers(2))
    elif few < 0.5:
        colours = [_pick(rng, colours)] + [_pick(rng, colours)] * int(rng.integers(2))
    cells = np.sort(rng.permutation(GRID_SIZE**2)[:num_objects])
    drawing = rng.random((num_objects, 4))
    return tuple(
        ShapeObject(
            shape=_pick(rng, shapes),
            colour=_pick(rng, colours),
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


# --- questions -------------------------------------------------------------------------------------------------------


def _matches(thing: ShapeObject, colour: str | None, shape: str | None) -> bool:
    return (colour is None or thing.colour == colour) and (shape is None or thing.shape == shape)


def _name(colour: str | None, shape: str | None) -> str:
    return " ".join(word for word in (colour, shape or "object") if word)


def _the_one(pictures: Sequence[Picture], colour: str | None, shape: str | None) -> list[ShapeObject]:
    """All sightings of "the <colour> <shape>" over the pictures, or nothing when one picture shows two of them."""
    sightings = []
    for picture in pictures:
        found = [thing for thing in picture if _matches(thing, colour, shape)]
        if len(found) > 1:
            return []
        sightings += found
    return sightings


_PAIRS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_SINGLES = tuple((None, shape) for shape in SHAPES) + tuple((colour, None) for colour in COLOURS)


def _colour_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    options = []
    for shape in SHAPES:
        colours = {thing.colour for thing in _the_one(pictures, None, shape)}
        if len(colours) == 1:
            options.append((colours.pop(), {"shape": shape}))
    return options


def _shape_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    options = []
    for colour in COLOURS:
        shapes = {thing.shape for thing in _the_one(pictures, colour, None)}
        if len(shapes) == 1:
            options.append((shapes.pop(), {"colour": colour}))
    return options


def _existence_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    things = [thing for picture in pictures for thing in picture]
    colours, shapes = {thing.colour for thing in things}, {thing.shape for thing in things}
    options = []
    for colour, shape in _PAIRS + _SINGLES:
        answer = "yes" if any(_matches(thing, colour, shape) for thing in things) else "no"
        # Colour and shape are there but not together: the hard "no", asked about as often as all easy ones together,
        # so that having seen both is no sign of a "yes".
        hard = answer == "no" and colour in colours and shape in shapes
        options += [(answer, {"a_thing": f"a {_name(colour, shape)}"})] * (12 if hard else 1)
    return options


def _position_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    options = []
    for colour, shape in _PAIRS + _SINGLES:
        quadrants = {thing.quadrant for thing in _the_one(pictures, colour, shape)}
        if len(quadrants) == 1:
            options.append((quadrants.pop(), {"the_thing": f"the {_name(colour, shape)}"}))
    return options


def _count_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    if any(picture != pictures[0] for picture in pictures):
        return []  # "how many are there" has two meanings when objects come and go
    return [(NUMBERS[len(pictures[0])], {})]


def _attribute_count_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    if any(picture != pictures[0] for picture in pictures):
        return []
    options = []
    for colour, shape in _SINGLES:
        count = sum(_matches(thing, colour, shape) for thing in pictures[0])
        options.append((NUMBERS[count], {"things": PLURALS[shape] if shape else f"{colour} objects"}))
    return options


def _order_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    times: dict[tuple[str | None, str | None], list[int]] = {}
    for colour, shape in _SINGLES:
        times[colour, shape] = [
            time for time, picture in enumerate(pictures) if any(_matches(thing, colour, shape) for thing in picture)
        ]
    options = []
    for one in _SINGLES:
        for other in _SINGLES:
            alike = (one[0] is None) == (other[0] is None)  # a shape is compared with a shape, a colour with a colour
            if alike and times[one] and times[other] and times[one][-1] < times[other][0]:
                first, last = (pair[0] or pair[1] for pair in (one, other))
                names = [f"the {_name(*pair)}" for pair in (one, other)]
                for a, b in (names, names[::-1]):
                    options.append((first, {"end": "first", "the_thing": a, "the_other": b}))
                    options.append((last, {"end": "last", "the_thing": a, "the_other": b}))
    return options


def describe(pictures: Sequence[Picture]) -> str:
    """
    The pictures in words: objects in reading order joined by "and", changes in time by "then".

    >>> describe([(ShapeObject("circle", "red", 0, 3),), ()])
    'a red circle at the top right then nothing'
    """
    sentences = []
    for picture in pictures:
        things = sorted(picture, key=lambda thing: (thing.row, thing.column))
        words = (
            " and ".join(f"a {thing.colour} {thing.shape} at the {thing.quadrant}" for thing in things) or "nothing"
        )
        if not sentences or sentences[-1] != words:
            sentences.append(words)
    return " then ".join(sentences)


def _direction_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    if len(pictures) < 2 or any(len(picture) != 1 for picture in pictures):
        return []
    things = [picture[0] for picture in pictures]
    if len({(thing.shape, thing.colour) for thing in things}) > 1:
        return []
    steps = {
        ((after.row - before.row) % GRID_SIZE, (after.column - before.column) % GRID_SIZE)
        for before, after in zip(things, things[1:], strict=False)
    } - {(0, 0)}
    for direction, (down, right) in DIRECTIONS.items():
        if steps == {(down % GRID_SIZE, right % GRID_SIZE)}:
            return [
                (direction, {"the_thing": f"the {_name(*pair)}"})
                for pair in ((things[0].colour, None), (None, things[0].shape))
            ]
    return []


def _occurrence_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    options = []
    for colour, shape in _SINGLES:
        seen = [any(_matches(thing, colour, shape) for thing in picture) for picture in pictures]
        times = sum(now and not before for before, now in zip([False, *seen], seen, strict=False))
        if 0 < times < len(NUMBERS):
            options.append((NUMBERS[times], {"the_thing": f"the {_name(colour, shape)}"}))
    return options


def _description_options(pictures: Sequence[Picture]) -> list[tuple[str, dict]]:
    return [(describe(pictures), {})]


_OPTIONS = {
    "colour": _colour_options,
    "shape": _shape_options,
    "existence": _existence_options,
    "position": _position_options,
    "count": _count_options,
    "attribute_count": _attribute_count_options,
    "order": _order_options,
    "direction": _direction_options,
    "occurrences": _occurrence_options,
    "description": _description_options,
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "existence": ("yes", "no"),
    "position": QUADRANTS,
    "count": NUMBERS,
    "attribute_count": NUMBERS,
    "order": SHAPES + tuple(COLOURS),
    "direction": tuple(DIRECTIONS),
    "occurrences": NUMBERS[1:],
}


def _names_of(thing: ShapeObject) -> set[str]:
    """Every word or phrase by which a question can mean an object."""
    names = [_name(*pair) for pair in ((thing.colour, thing.shape), (None, thing.shape), (thing.colour, None))]
    return {thing.shape, thing.colour, *(f"{article} {name}" for name in names for article in ("a", "the"))}


def ask(
    kind: str,
    pictures: Sequence[Picture],
    rng: np.random.Generator,
    answer: str | None = None,
    plain: bool = False,
    about: Sequence[ShapeObject] | None = None,
) -> Question | None:
    """
    A question of one kind that the pictures answer unambiguously, or `None` when there is none.

    "The circle" is only asked for where no picture shows two of them and all sightings give the same answer; "how
    many" only where every picture shows the same. The answer is drawn first and the subject second, so that a frequent
    answer is not asked for more often.

    Args:
        kind (`str`):
            One of `QUESTION_KINDS`.
        pictures (`Sequence[Picture]`):
            Pictures that follow each other in time; the objects of all of them count as seen.
        rng (`np.random.Generator`):
            Draws the subject and the wording.
        answer (`str`, *optional*):
            Ask only what has this answer.
        plain (`bool`, defaults to `False`):
            The first wording, without lead-in or instruction.
        about (`Sequence[ShapeObject]`, *optional*):
            Ask only about these objects. No question of a kind that names no object is about one.

    Raises:
        `LinVTInputError`: for an unknown kind.

    Example:

    >>> ask("colour", [(ShapeObject("circle", "red", 0, 3),)], np.random.default_rng(0), plain=True)
    Question(kind='colour', question='What colour is the circle?', answer='red', subject='')
    """
    if kind not in _OPTIONS:
        raise LinVTInputError(f"kind={kind!r} is no kind of question. Use one of {', '.join(_OPTIONS)}.")
    options = _OPTIONS[kind](pictures)
    if about is not None:
        names = {name for thing in about for name in _names_of(thing)}
        options = [option for option in options if names & set(option[1].values())]
    answers = sorted({option[0] for option in options} if answer is None else {answer})
    if not options or (answer is not None and all(option[0] != answer for option in options)):
        return None
    answer = _pick(rng, answers)
    words = _pick(rng, [option[1] for option in options if option[0] == answer])
    if plain:
        return Question(kind, WORDINGS[kind][0].format(medium=MEDIA[0], **words), answer)
    words["medium"] = _pick(rng, MEDIA)
    text, extra = _pick(rng, WORDINGS[kind]), rng.random(2)
    if extra[0] < 0.15:
        text = f"{_pick(rng, LEAD_INS)} {text}"
    if extra[1] < 0.15 and kind != "description":
        text = f"{text} {_pick(rng, INSTRUCTIONS)}"
    return Question(kind, text.format(**words), answer)


def vocabulary() -> list[str]:
    """
    Every word that a question or an answer of this module can contain, lower case, sorted.

    >>> {"circle", "red", "four", "top", "colour"} <= set(vocabulary())
    True
    """
    texts: list[str] = [*LEAD_INS, *INSTRUCTIONS, *MEDIA, *SHAPES, *PLURALS.values(), *COLOURS, *NUMBERS, *QUADRANTS]
    texts += [wording for wordings in WORDINGS.values() for wording in wordings]
    texts += ["a the object objects yes no at and then nothing first last"]
    plain = "".join(piece[0] + " " for text in texts for piece in string.Formatter().parse(text))
    return sorted(set(re.findall(r"\w+", plain.lower())))


# --- pixels ----------------------------------------------------------------------------------------------------------


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


def make_runs(
    kind: str, num_runs: int, num_pictures: int, seed: int, split: str = "test", size: int = PICTURE_SIZE
) -> tuple[np.ndarray, list[Question], list[tuple[Picture, ...]]]:
    """
    Runs of pictures that follow each other in time, one question each, answers balanced to within one.

    Args:
        kind (`str`):
            One of `PICTURE_KINDS` or, with two pictures or more, `"order"`.
        num_runs (`int`), num_pictures (`int`):
            How many runs, and the pictures in each.
        seed (`int`), split (`str`, defaults to `"test"`):
            The embedded model was trained on the split `"train"`; no seed of `"test"` shares a random stream with it.
        size (`int`, defaults to 64):
            Pixels per side.

    Returns:
        Pictures `(num_runs, num_pictures, size, size, 3)` uint8 RGB, the question and the symbolic state of each run.

    Raises:
        `LinVTInputError`: for a kind that such runs cannot answer.
    """
    kinds = PICTURE_KINDS + (("order",) if num_pictures > 1 else ())
    if kind not in kinds or num_pictures < 1:
        raise LinVTInputError(
            f"kind={kind!r} is no question about num_pictures={num_pictures} pictures. Use one of {', '.join(kinds)} "
            "and at least one picture, two for an order."
        )
    rng = seeded_generator(split, seed)
    answers = ANSWERS[kind]
    ranks = rng.permutation(num_runs)
    runs, questions, backgrounds = [], [], []
    while len(runs) < num_runs:
        run = random_run(rng, num_pictures)
        question = ask(kind, run, rng, answer=answers[ranks[len(runs)] % len(answers)])
        if question is not None:
            runs.append(run)
            questions.append(question)
            backgrounds += [random_background(rng)] * num_pictures
    frames = render_pictures([picture for run in runs for picture in run], backgrounds, rng, size=size)
    return frames.reshape(num_runs, num_pictures, size, size, 3), questions, runs


def make_pictures(
    kind: str, num_pictures: int, seed: int, split: str = "test", size: int = PICTURE_SIZE
) -> tuple[np.ndarray, list[Question], list[Picture]]:
    """
    Single pictures with one question each: [`make_runs`] of one picture, without the axis of time.

    >>> frames, questions, pictures = make_pictures("count", num_pictures=10, seed=0)
    >>> frames.shape, sorted({question.answer for question in questions})
    ((10, 64, 64, 3), ['four', 'one', 'three', 'two', 'zero'])
    """
    frames, questions, runs = make_runs(kind, num_pictures, 1, seed, split, size)
    return frames[:, 0], questions, [run[0] for run in runs]


# --- clips -----------------------------------------------------------------------------------------------------------


def segment_bounds(num_frames: int, num_segments: int) -> list[tuple[int, int]]:
    """
    First frame and frame after the last of equal segments, as equal as whole frames allow; never an empty one.

    >>> segment_bounds(10, 4)
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    num_segments = min(num_segments, num_frames)
    edges = [num_frames * index // num_segments for index in range(num_segments + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _distinct_objects(rng: np.random.Generator, count: int) -> list[ShapeObject]:
    """Up to four objects that share no shape and no colour: every question about one of them has one answer."""
    objects = []
    for shape, colour in zip(rng.permutation(SHAPES)[:count], rng.permutation(list(COLOURS))[:count], strict=True):
        objects += random_picture(rng, 1, shapes=[str(shape)], colours=[str(colour)])
    return objects


def _scenes(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    bounds = segment_bounds(num_frames, 4)
    pictures: list[Picture] = []
    for start, stop in bounds:
        pictures += [random_picture(rng, 1 + int(rng.integers(2)))] * (stop - start)
    return pictures, ("colour", "shape", "existence", "position")


def _static(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    return [random_picture(rng, 1 + int(rng.integers(MAX_OBJECTS)))] * num_frames, PICTURE_KINDS


def _needle(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    length = 1 + int(rng.integers(max(1, num_frames // 8)))
    start = int(rng.integers(num_frames - length + 1))
    needle = random_picture(rng, 1)
    pictures: list[Picture] = [()] * num_frames
    pictures[start : start + length] = [needle] * length
    return pictures, ("colour", "shape", "existence", "position")


def _needles(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    pictures: list[Picture] = [()] * num_frames
    bounds = segment_bounds(num_frames, 4)
    for thing, (start, stop) in zip(_distinct_objects(rng, len(bounds)), bounds, strict=True):
        length = 1 + int(rng.integers(max(1, (stop - start) // 2)))
        first = start + int(rng.integers(stop - start - length + 1))
        pictures[first : first + length] = [(thing,)] * length
    return pictures, ("colour", "shape", "existence", "position")


def _order(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < 2:
        raise LinVTInputError(f"num_frames={num_frames} is too few to show an order. Ask for 2 frames or more.")
    earlier, later = _distinct_objects(rng, 2)
    change = num_frames // 4 + int(rng.integers(max(1, num_frames // 2)))
    change = min(max(change, 1), num_frames - 1)
    return [(earlier,)] * change + [(later,)] * (num_frames - change), ("order", "colour", "shape", "existence")


def _direction(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < 2 * GRID_SIZE:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few to show a motion of {2 * GRID_SIZE} steps. Ask for "
            f"{2 * GRID_SIZE} frames or more."
        )
    (thing,) = random_picture(rng, 1)
    down, right = DIRECTIONS[_pick(rng, tuple(DIRECTIONS))]
    pictures: list[Picture] = []
    for step, (start, stop) in enumerate(segment_bounds(num_frames, 2 * GRID_SIZE)):
        row, column = (thing.row + step * down) % GRID_SIZE, (thing.column + step * right) % GRID_SIZE
        pictures += [(replace(thing, row=row, column=column),)] * (stop - start)
    return pictures, ("direction",)


def _count(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < 2 * MAX_OBJECTS:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few to show an object {MAX_OBJECTS} times. Ask for {2 * MAX_OBJECTS} "
            "frames or more."
        )
    times = 1 + int(rng.integers(MAX_OBJECTS))
    thing = random_picture(rng, 1)
    # 2 * times + 1 stretches of random length, absent and present in turn; the outer absences may be empty
    spare = num_frames - (2 * times - 1)
    cuts = np.sort(rng.integers(0, spare + 1, 2 * times))
    lengths = np.diff([0, *cuts, spare]) + np.array([0, *[1] * (2 * times - 1), 0])
    pictures: list[Picture] = []
    for stretch, length in enumerate(lengths):
        pictures += [thing if stretch % 2 else ()] * int(length)
    return pictures, ("occurrences",)


def _moment(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < 2:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few to show something for a moment only. Ask for 2 frames or more."
        )
    cells = rng.permutation(GRID_SIZE**2)[:3]
    *still, short = (
        replace(thing, row=int(cell) // GRID_SIZE, column=int(cell) % GRID_SIZE)
        for thing, cell in zip(_distinct_objects(rng, 3), cells, strict=True)
    )
    length = 1 + int(rng.integers(max(1, num_frames // 8)))
    start = int(rng.integers(num_frames - length + 1))
    pictures: list[Picture] = [tuple(still)] * num_frames
    pictures[start : start + length] = [(*still, short)] * length
    return pictures, ("colour", "shape", "position", "existence")


def _traverse(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < GRID_SIZE:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few to cross a picture of {GRID_SIZE} cells. Ask for {GRID_SIZE} frames "
            "or more."
        )
    (thing,) = random_picture(rng, 1)
    last = GRID_SIZE - 1
    # Along a border, so that it starts in a corner: from the middle of a side there is one way only. Where segments
    # cannot be equal, which of them are longer is drawn, or the cells would say by their number which came first.
    border, (down, right) = last * int(rng.integers(2)), DIRECTIONS[_pick(rng, tuple(DIRECTIONS))]
    lengths = [stop - start for start, stop in segment_bounds(num_frames, GRID_SIZE)]
    pictures: list[Picture] = []
    for step, length in enumerate(lengths[:: _pick(rng, (1, -1))]):
        row = border if right else step if down > 0 else last - step
        column = border if down else step if right > 0 else last - step
        pictures += [(replace(thing, row=row, column=column),)] * length
    return pictures, ("direction",)


_CLIPS = {
    "scenes": _scenes,
    "static": _static,
    "needle": _needle,
    "needles": _needles,
    "order": _order,
    "direction": _direction,
    "count": _count,
    "moment": _moment,
    "traverse": _traverse,
}


def _clip_generator(kind: str, seed: int, split: str, stream: int = 0) -> np.random.Generator:
    """Random numbers of one clip; those of the first five kinds in the split "clip" are as they always were."""
    if kind not in CLIP_KINDS:
        raise LinVTInputError(f"kind={kind!r} is no kind of clip. Use one of {', '.join(CLIP_KINDS)}.")
    if split not in CLIP_SPLITS:
        raise LinVTInputError(f"split={split!r} is no split of clips. Use one of {', '.join(CLIP_SPLITS)}.")
    index = CLIP_KINDS.index(kind)
    if index < _CLIP_STREAMS:
        return seeded_generator(split, (stream << 40) + seed * _CLIP_STREAMS + index)
    return np.random.default_rng([_SPLITS[split], (stream << 40) + seed, index])


class _Wish(NamedTuple):
    """A question that a clip shall be asked: its kind and, where it matters, its answer and what it is about."""

    kind: str
    answer: str | None = None
    subject: str = ""
    about: Picture | None = None


def _wishes(kind: str, question_kinds: Sequence[str], pictures: Sequence[Picture], goals: dict) -> list[_Wish]:
    """One wish for every kind of question, existence with yes and no; of a moment, for what is still and what not."""
    if kind != "moment":
        wishes = [_Wish(name, goals.get(name)) for name in question_kinds if name != "existence"]
        return wishes + [_Wish("existence", word) for word in ("yes", "no") if "existence" in question_kinds]
    still, fullest = min(pictures, key=len), max(pictures, key=len)
    subjects = {"still": still, "short": tuple(thing for thing in fullest if thing not in still)}
    wishes = [
        _Wish(name, "yes" if name == "existence" else None, subject, things)
        for subject, things in subjects.items()
        for name in question_kinds
    ]
    return wishes + [_Wish("existence", "no", "absent")] * len(subjects)


def script_clip(kind: str, seed: int, num_frames: int, split: str = "clip") -> ClipScript:
    """
    What a clip shows and what is asked about it, before any pixel is drawn.

    Kinds: `"scenes"`, four equal segments with one or two objects each; `"static"`, one picture all along; `"needle"`,
    one object for at most an eighth of the clip, else nothing; `"needles"`, four objects without a shape or colour in
    common, one in each quarter, each for at most half of it; `"order"`, one object, then another; `"direction"`, one
    object that moves eight cells one way and comes in again on the other side, so that where it starts and ends says
    nothing; `"count"`, one object that comes and goes one to four times, for random durations; `"moment"`, two objects
    that stand still all along and a third, elsewhere, for at most an eighth of the clip, without a shape or colour in
    common; `"traverse"`, one object that crosses the picture once, along a border from corner to corner, a quarter of
    the clip in each cell, so that the first frame alone, and all frames without their order, leave two directions that
    are equally likely: guesses from those are right in half of the clips.

    One question of every kind the clip answers, two about existence (yes and no), in the same order for every seed; of
    a `"moment"`, one of every kind about what stands still, one about what is short, and two about what is absent.

    Args:
        kind (`str`), seed (`int`), num_frames (`int`):
            The same three, and the split, give the same clip.
        split (`str`, defaults to `"clip"`):
            One of `CLIP_SPLITS`; clips of two splits share no random stream.

    Raises:
        `LinVTInputError`: for an unknown kind or split, or too few frames.
    """
    rng = _clip_generator(kind, seed, split)
    if num_frames < 1:
        raise LinVTInputError(f"num_frames={num_frames}: a clip has at least one frame.")
    # Numbers are settled before pictures are tried, or pictures of few objects, answerable most often, would prevail.
    # One object less than all can share a colour or shape, or nothing would be left to ask for as "the one".
    count = 1 + int(rng.integers(MAX_OBJECTS))
    goals = {"count": NUMBERS[count], "attribute_count": NUMBERS[int(rng.integers(max(2, count)))]}
    while True:  # ends: every kind of clip draws answerable pictures with a good chance
        pictures, question_kinds = _CLIPS[kind](rng, num_frames)
        changes = [now for before, now in zip([None, *pictures], pictures, strict=False) if now != before]
        questions = []
        for wish in _wishes(kind, question_kinds, pictures, goals):
            question = ask(wish.kind, changes, rng, answer=wish.answer, about=wish.about)
            questions.append(question and question._replace(subject=wish.subject))
        if all(questions):
            return ClipScript(tuple(pictures), random_background(rng), tuple(questions))


def make_clip(
    kind: str, seed: int, num_frames: int, size: int = PICTURE_SIZE, split: str = "clip"
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """
    A clip in pixels with its questions.

    Args:
        kind (`str`), seed (`int`), num_frames (`int`):
            As in [`script_clip`]; the same three give the same clip.
        size (`int`, defaults to 64):
            Pixels per side, a multiple of 4.
        split (`str`, defaults to `"clip"`):
            As in [`script_clip`].

    Returns:
        Frames `(num_frames, size, size, 3)` uint8 RGB, and a list of `(question, answer)`.

    Example:

    >>> frames, questions = make_clip("scenes", seed=1, num_frames=8)
    >>> frames.shape, len(questions)
    ((8, 64, 64, 3), 5)
    """
    script = script_clip(kind, seed, num_frames, split)
    rng = _clip_generator(kind, seed, split, stream=1)
    frames = render_pictures(script.pictures, [script.background] * num_frames, rng, size=size)
    return frames, [(question.question, question.answer) for question in script.questions]


def write_clip(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: int = 8, scale: int = 4) -> None:
    """
    Write frames as a real H.264 MP4 file.

    The colour of H.264 (yuv420p) is stored at half the resolution, which would smear 64-pixel pictures: every pixel is
    therefore repeated `scale` times in both directions. The file is written beside its place and moved there when it
    is whole.

    Args:
        path (`str` or `os.PathLike`):
            Where to; an existing file is replaced.
        frames (iterable of `np.ndarray` of shape `(size, size, 3)`):
            uint8 RGB, at least one, all of one size; `size * scale` even.
        fps (`int`, defaults to 8):
            Frames per second.
        scale (`int`, defaults to 4):
            File pixels per picture pixel.

    Raises:
        `LinVTInputError`: without frames, or if their size times `scale` is odd.
    """
    import av  # only writing needs it: pictures and questions work without

    frames = [np.ascontiguousarray(np.asarray(frame).repeat(scale, axis=0).repeat(scale, axis=1)) for frame in frames]
    if not frames:
        raise LinVTInputError("There are no frames to write. Give at least one.")
    height, width = frames[0].shape[:2]
    if height % 2 or width % 2:
        raise LinVTInputError(
            f"A frame of {height} x {width} pixels (times scale={scale}) is odd; H.264 needs even sizes."
        )
    path = os.fspath(path)
    partial = f"{path}.{os.getpid()}.partial.mp4"
    try:
        with av.open(partial, mode="w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "fast"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
