"""Clips of coloured shapes: what happens in them, as a script; in pixels with questions; and as a file."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import LinVTInputError
from ..files import replacing
from .drawing import render_pictures
from .questions import ANSWERS, NUMBERS, PICTURE_KINDS, Question, ask, describe
from .world import (
    CLIP_SPLITS,
    COLOURS,
    DIRECTIONS,
    GRID_SIZE,
    MAX_OBJECTS,
    OPPOSITES,
    PICTURE_SIZE,
    SHAPES,
    SPLITS,
    Background,
    Picture,
    ShapeObject,
    pick,
    random_background,
    random_picture,
    random_run,
    seeded_generator,
)


CLIP_KINDS = ("scenes", "static", "needle", "needles", "order", "direction", "count", "moment", "traverse", "crowd")
_CLIP_STREAMS = 5  # kinds of clips whose streams are interleaved; a kind added later has a word of its own


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
    down, right = DIRECTIONS[pick(rng, tuple(DIRECTIONS))]
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
    border, (down, right) = last * int(rng.integers(2)), DIRECTIONS[pick(rng, tuple(DIRECTIONS))]
    lengths = [stop - start for start, stop in segment_bounds(num_frames, GRID_SIZE)]
    pictures: list[Picture] = []
    for step, length in enumerate(lengths[:: pick(rng, (1, -1))]):
        row = border if right else step if down > 0 else last - step
        column = border if down else step if right > 0 else last - step
        pictures += [(replace(thing, row=row, column=column),)] * length
    return pictures, ("direction",)


def _crowd(rng: np.random.Generator, num_frames: int) -> tuple[list[Picture], tuple[str, ...]]:
    if num_frames < 2 * MAX_OBJECTS:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few to show a crowd. Ask for {2 * MAX_OBJECTS} frames or more."
        )
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS]
    count = min(2 * MAX_OBJECTS + int(rng.integers(len(pairs) - 2 * MAX_OBJECTS + 1)), num_frames)
    pictures: list[Picture] = [()] * num_frames
    for pair, (start, stop) in zip(rng.permutation(len(pairs)), segment_bounds(num_frames, count), strict=False):
        shape, colour = pairs[int(pair)]
        length = 1 + int(rng.integers(max(1, (stop - start) // 2)))
        first = start + int(rng.integers(stop - start - length + 1))
        pictures[first : first + length] = [random_picture(rng, 1, shapes=[shape], colours=[colour])] * length
    return pictures, ("position", "existence")


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
    "crowd": _crowd,
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
    return np.random.default_rng([SPLITS[split], (stream << 40) + seed, index])


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
    are equally likely: guesses from those are right in half of the clips; `"crowd"`, eight to sixteen objects that all
    differ, one after the other, each for at most half of its share of the clip, so that more is new than 16 video
    tokens hold, or 32.

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
    with replacing(path) as partial, av.open(str(partial), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
