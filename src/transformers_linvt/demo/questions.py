"""
Questions about pictures of coloured shapes, and their answers.

[`ask`] only asks what the symbolic state answers unambiguously. Answers are balanced per kind of question: the answer
is drawn first, among those the pictures allow.
"""

import re
import string
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import LinVTInputError
from .world import COLOURS, DIRECTIONS, GRID_SIZE, QUADRANTS, SHAPES, Picture, ShapeObject, pick


PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
NUMBERS = ("zero", "one", "two", "three", "four")

PICTURE_KINDS = ("colour", "shape", "existence", "position", "count", "attribute_count")
RUN_KINDS = ("colour", "shape", "existence", "position", "order")
QUESTION_KINDS = PICTURE_KINDS + ("order", "direction", "occurrences", "description")

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
    right: str = pick(rng, answers)
    words = pick(rng, [option[1] for option in options if option[0] == right])
    if plain:
        return Question(kind, WORDINGS[kind][0].format(medium=MEDIA[0], **words), right)
    words["medium"] = pick(rng, MEDIA)
    text, extra = pick(rng, WORDINGS[kind]), rng.random(2)
    if extra[0] < 0.15:
        text = f"{pick(rng, LEAD_INS)} {text}"
    if extra[1] < 0.15 and kind != "description":
        text = f"{text} {pick(rng, INSTRUCTIONS)}"
    return Question(kind, text.format(**words), right)


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
