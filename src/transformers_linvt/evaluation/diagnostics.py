"""
Diagnostics: clips of coloured shapes of which every answer is known, and every way of cheating has a ceiling.

What a clip of each kind shows is in `demo/clips.py`, which the embedded model's training data come from too; these are
of the split `"clip_diagnose"`, with which training and the choice of recipes share no random stream. The answers are
balanced, so that a constant is at chance, and any number of frames can be asked for.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..demo.clips import ClipScript, script_clip, write_clip
from ..demo.drawing import render_pictures
from ..demo.questions import ANSWERS, MEDIA, PICTURE_KINDS, WORDINGS, Question, ask
from ..demo.world import (
    COLOURS,
    PICTURE_SIZE,
    SHAPES,
    SPLITS,
    pick,
    random_background,
    random_picture,
    random_run,
)
from ..errors import LinVTInputError, unknown_argument
from ..files import replacing


FRAMES_PER_SECOND = 8.0
SPLIT = "clip_diagnose"
WITH_REVERSE = "with its reverse"  # variant under which a clip counts as right only if its reverse is, too
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the needle in a clip of "length", as a share of the clip

_CANDIDATES = 8  # clips of which the one is taken whose answers were the rarest so far
_SEEDS = 1_000_000  # clips per seed of an evaluation
_DRIFT = 60.0  # grey levels by which the light changes over a clip
_PAN = 3  # pixels, of 64, by which the camera is off at most: no object is more than a little cut at an edge


@dataclass(frozen=True)
class Diagnostic:
    """
    One thing to find out.

    Attributes:
        name (`str`): how it is called on the command line.
        clips (`str`): kind of clip, one of `CLIP_KINDS`, or `"pictures"` or `"length"`.
        shows (`str`): in words.
        variants (`tuple[str, ...]`): further ways in which each clip is shown: `"backwards"`, with the answers that
            hold then, or `"shuffled"`, where the answers of the clip in order are expected and no longer to be seen.
        filming (`str`): `"still"`, `"drift"` (the light changes) or `"camera"` (the picture moves).
        least_frames (`int`): with fewer the clip cannot be shown.
    """

    name: str
    clips: str
    shows: str
    variants: tuple[str, ...] = ()
    filming: str = "still"
    least_frames: int = 1


DIAGNOSTICS = {
    one.name: one
    for one in (
        Diagnostic("pictures", "pictures", "single pictures, which never go through LinVT"),
        Diagnostic("static", "static", "one picture all along"),
        Diagnostic("needle", "needle", "one object for a moment"),
        Diagnostic("needles", "needles", "four objects, one after the other, of which one is asked for"),
        Diagnostic("scenes", "scenes", "four scenes, one after the other"),
        Diagnostic("moment", "moment", "two objects stand still, a third is there for a moment", least_frames=2),
        Diagnostic("drift", "moment", "the same while the light changes", filming="drift", least_frames=2),
        Diagnostic("camera", "moment", "the same while the camera moves", filming="camera", least_frames=2),
        Diagnostic("order", "order", "one object, then another", ("backwards", "shuffled"), least_frames=2),
        Diagnostic(
            "traverse", "traverse", "one object crosses the picture once", ("backwards", "shuffled"), least_frames=4
        ),
        Diagnostic(
            "direction", "direction", "eight steps with wrap-around", ("backwards", "shuffled"), least_frames=8
        ),
        Diagnostic("count", "count", "one object comes and goes, for random durations", ("shuffled",), least_frames=8),
        Diagnostic("length", "length", "one object for one frame, at a given place of a long clip", least_frames=8),
    )
}


@dataclass(frozen=True)
class DiagnosticClip:
    """
    A clip with its questions.

    Attributes:
        diagnostic (`str`), number (`int`), variant (`str`): which it is; variants of a clip have its number.
        seed (`int`): of the pixels.
        script ([`ClipScript`]): what it shows in time order, and the questions with the answers expected here.
        order (`tuple[int, ...]`): the frames of the script in the order in which they are shown.
        filming (`str`): as in [`Diagnostic`].
    """

    diagnostic: str
    number: int
    variant: str
    seed: int
    script: ClipScript
    order: tuple[int, ...]
    filming: str

    @property
    def num_frames(self) -> int:
        """Frames that are shown."""
        return len(self.order)

    @property
    def name(self) -> str:
        """A name for a file, without ending."""
        variant = f"_{self.variant}" if self.variant else ""
        return f"{self.diagnostic}_{self.num_frames:04}_{self.number:04}{variant}"

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is asked, with the answers expected."""
        return self.script.questions

    def frames(self, size: int = PICTURE_SIZE) -> np.ndarray:
        """Pixels `(num_frames, size, size, 3)`, uint8 RGB; `size` a multiple of 4."""
        return self._filmed(size)[0]

    def offsets(self, size: int = PICTURE_SIZE) -> np.ndarray:
        """Pixels, down and to the right, by which the camera is off in every frame, `(num_frames, 2)`."""
        return self._filmed(size)[1]

    def _filmed(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([SPLITS[SPLIT], self.seed, 1])
        count, still = len(self.script.pictures), self.script.background
        backgrounds = [still] * count
        if self.filming == "drift":
            # towards the farther end, so that it changes by as much whatever it starts from
            way = _DRIFT if still.level < 128 else -_DRIFT
            backgrounds = [replace(still, level=still.level + way * t / max(1, count - 1)) for t in range(count)]
        frames = render_pictures(self.script.pictures, backgrounds, rng, size=size)
        offsets = np.zeros((count, 2), dtype=int)
        if self.filming == "camera":
            frames, offsets = _moved(frames, rng)
        return frames[list(self.order)], offsets[list(self.order)]


def options_of(question: Question) -> tuple[str, ...]:
    """
    The answers a question allows: all of its kind, or the two that it names.

    >>> options_of(Question("order", "Which came first, the circle or the cross?", "cross"))
    ('circle', 'cross')
    """
    if question.kind != "order":
        return ANSWERS[question.kind]
    return tuple(word for word in re.findall(r"\w+", question.question) if word in ANSWERS["order"])


def chance_of(question: Question) -> float:
    """Percent of right answers of a guess among the options."""
    return 100 / len(options_of(question))


def make_clips(
    name: str, num_clips: int, num_frames: int, seed: int = 0, with_variants: bool = True
) -> list[DiagnosticClip]:
    """
    Clips of one diagnostic, the same for the same arguments; the answers of each kind of question are balanced.

    Args:
        name (`str`):
            One of `DIAGNOSTICS`.
        num_clips (`int`):
            How many, without variants; of `"pictures"` for every kind of question, of `"length"` for every place.
        num_frames (`int`):
            Frames of each; a picture has one.
        seed (`int`, defaults to 0):
            Clips of two seeds share no random stream.
        with_variants (`bool`, defaults to `True`):
            Whether each clip is followed by its variants.

    Raises:
        `LinVTInputError`: for an unknown name, no clips, or too few frames for what the clips show.

    Example:

    >>> clips = make_clips("order", num_clips=2, num_frames=6)
    >>> [(clip.variant, clip.questions[0].answer) for clip in clips[:2]], clips[0].frames().shape
    ([('', 'circle'), ('backwards', 'square')], (6, 64, 64, 3))
    """
    diagnostic = _checked(name, num_clips, num_frames, seed)
    clips = []
    for number, script in enumerate(_balanced(_candidates(diagnostic, num_frames, seed), _total(name, num_clips))):
        own_seed = seed * _SEEDS + number
        order = tuple(range(len(script.pictures)))
        clip = DiagnosticClip(name, number, "", own_seed, script, order, diagnostic.filming)
        clips.append(clip)
        for variant in diagnostic.variants if with_variants else ():
            shuffled = np.random.default_rng([SPLITS[SPLIT], own_seed, 2]).permutation(len(order))
            clips.append(
                replace(clip, variant=variant, script=_only_ordered(script.backwards()), order=order)
                if variant == "backwards"
                else replace(clip, variant=variant, script=_only_ordered(script), order=tuple(shuffled.tolist()))
            )
    return clips


def write_clips(folder: str | os.PathLike, clips: Iterable[DiagnosticClip], size: int = PICTURE_SIZE) -> Path:
    """
    Clips as files anybody can read: H.264 (a picture as PNG), and `questions.jsonl` with a line per question.

    Returns:
        The path of `questions.jsonl`; each line has `video` or `image`, `question`, `answer`, `options`, `kind`,
        `subject`, `diagnostic` and `variant`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        frames = clip.frames(size)
        medium, name = ("image", f"{clip.name}.png") if len(frames) == 1 else ("video", f"{clip.name}.mp4")
        if medium == "image":
            Image.fromarray(frames[0]).save(folder / name)
        else:
            write_clip(folder / name, frames, fps=round(FRAMES_PER_SECOND))
        for question in clip.questions:
            about = {"diagnostic": clip.diagnostic, "variant": clip.variant, "subject": question.subject}
            row = {medium: name, "question": question.question, "answer": question.answer}
            lines.append(json.dumps({**row, "options": options_of(question), "kind": question.kind, **about}))
    with replacing(folder / "questions.jsonl") as partial:
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder / "questions.jsonl"


def script_of(name: str, num_frames: int, seed: int, number: int) -> ClipScript:
    """
    One clip of a diagnostic, symbolically and not balanced; ceilings are computed from many of them.

    Args:
        name: one of `DIAGNOSTICS`.
        num_frames: frames of the clip.
        seed: of the random numbers.
        number: which clip; it says of what kind the question about a picture is, or where the needle is in a clip of
            `"length"`.
    """
    clips, rng = DIAGNOSTICS[name].clips, np.random.default_rng([SPLITS[SPLIT], seed, 0])
    if clips in _OWN_CLIPS:
        return _asked_evenly(_OWN_CLIPS[clips](rng, num_frames, number), rng)
    return _asked_evenly(script_clip(clips, seed, num_frames, SPLIT), rng)


def _checked(name: str, num_clips: int, num_frames: int, seed: int) -> Diagnostic:
    if name not in DIAGNOSTICS:
        raise LinVTInputError(unknown_argument(name, DIAGNOSTICS))
    for what, value, least in (("num_clips", num_clips, 1), ("num_frames", num_frames, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise LinVTInputError(f"{what}={value!r} is no whole number of {least} or more.")
    diagnostic = DIAGNOSTICS[name]
    if num_frames < diagnostic.least_frames:
        raise LinVTInputError(
            f"num_frames={num_frames} is too few for {name!r} ({diagnostic.shows}). Ask for "
            f"{diagnostic.least_frames} or more."
        )
    return diagnostic


def _total(name: str, num_clips: int) -> int:
    return num_clips * {"pictures": len(PICTURE_KINDS), "length": len(PLACES)}.get(name, 1)


def _candidates(diagnostic: Diagnostic, num_frames: int, seed: int) -> Callable[[int], Iterator[ClipScript]]:
    """For the number of a clip, some that it could be."""

    def of_number(number: int) -> Iterator[ClipScript]:
        for trial in range(_CANDIDATES):
            own = (seed * _SEEDS + number) * _CANDIDATES + trial
            yield script_of(diagnostic.name, num_frames, own, number)

    return of_number


def _balanced(candidates: Callable[[int], Iterator[ClipScript]], count: int) -> list[ClipScript]:
    """One script of every set of candidates: that whose answers were the rarest so far, the first of several."""
    used: Counter = Counter()
    scripts = []
    for number in range(count):
        script = min(candidates(number), key=lambda one: sum(used[answered(q)] ** 2 for q in one.questions))
        used.update(answered(question) for question in script.questions)
        scripts.append(script)
    return scripts


def answered(question: Question) -> tuple[str, str, str]:
    """
    What has to be balanced: the answer to a kind of question about a subject.

    Of two that are named the place counts, and whether it is the first or the last; the names follow from the clip.
    """
    if question.kind == "order":
        end = "last" if re.search(r"\blast\b", question.question) else "first"
        return question.subject, f"order {end}", str(options_of(question).index(question.answer))
    return question.subject, question.kind, question.answer


def _only_ordered(script: ClipScript) -> ClipScript:
    """Only the questions whose answers depend on the order of the frames: the others are asked once."""
    kinds = ("order", "direction", "occurrences")
    return replace(script, questions=tuple(one for one in script.questions if one.kind in kinds))


def _asked_evenly(script: ClipScript, rng: np.random.Generator) -> ClipScript:
    """
    The same clip with other questions about existence: "yes" and "no" in the same form of words.

    What training asks for is right for one word ("a circle") more often than for two ("a red circle"), so that three
    quarters of those questions could be answered unseen. Here the form is drawn first, among those that both answers
    allow in this clip, and all questions of the clip have it.
    """
    if all(question.kind != "existence" for question in script.questions):
        return script
    things = sorted(set().union(*script.pictures), key=lambda one: (one.row, one.column, one.colour, one.shape))
    colours, shapes = ({getattr(thing, name) for thing in things} for name in ("colour", "shape"))
    there = {(thing.colour, thing.shape) for thing in things}
    absent: dict[str, list] = {
        "pair": [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in there],
        "colour": [(colour, None) for colour in COLOURS if colour not in colours],
        "shape": [(None, shape) for shape in SHAPES if shape not in shapes],
    }
    form = pick(rng, [name for name, options in absent.items() if options])
    mixed = [(colour, shape) for colour, shape in absent[form] if colour in colours and shape in shapes]
    still = min(script.pictures, key=len)
    subjects = {"still": still, "short": [thing for thing in things if thing not in still]}
    questions = []
    for question in script.questions:
        if question.kind == "existence":
            if question.answer == "yes":
                thing = pick(rng, subjects.get(question.subject, things))
                named = (thing.colour if form != "shape" else None, thing.shape if form != "colour" else None)
            else:  # half of the pairs that are not there are of a colour and a shape that are
                named = pick(rng, mixed if mixed and rng.random() < 0.5 else absent[form])
            what = " ".join(word for word in ("a", named[0], named[1] or "object") if word)
            text = pick(rng, WORDINGS["existence"]).format(a_thing=what, medium=pick(rng, MEDIA))
            question = question._replace(question=text)
        questions.append(question)
    return replace(script, questions=tuple(questions))


def _moved(frames: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames as a hand holds a camera, and its offsets: it wanders and shakes, by whole pixels; edges are repeated."""
    count, size = frames.shape[:2]
    most = round(_PAN * size / PICTURE_SIZE)
    phase, turns = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.5, 1.5, 2)
    time = np.arange(count)[:, None] / max(1, count - 1)
    path = most * np.sin(phase + 2 * np.pi * turns * time) + rng.uniform(-0.5, 0.5, (count, 2)) * most / 2
    offsets = np.clip(np.rint(path), -most, most).astype(int)
    padded = np.pad(frames, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    places = zip(padded, offsets + most, strict=True)
    return np.stack([one[y : y + size, x : x + size] for one, (y, x) in places]), offsets


def _picture(rng: np.random.Generator, num_frames: int, number: int) -> ClipScript:
    """A picture with one question; the kinds of question take turns, and so do the answers that are tried for."""
    kind = PICTURE_KINDS[number % len(PICTURE_KINDS)]
    answer = pick(rng, ANSWERS[kind])
    while True:  # ends: every answer to every kind of question is the right one to some pictures
        run = random_run(rng, 1)
        question = ask(kind, run, rng, answer=answer)
        # in an empty picture there is nothing, whatever it is called
        if question is not None and (kind != "existence" or run[0]):
            return ClipScript(run, random_background(rng), (question,))


def _place(rng: np.random.Generator, num_frames: int, number: int) -> ClipScript:
    """A clip in which one object is there for one frame; the places take turns."""
    place = PLACES[number % len(PLACES)]
    (thing,) = random_picture(rng, 1, shapes=[pick(rng, SHAPES)], colours=[pick(rng, tuple(COLOURS))])
    pictures: list = [()] * num_frames
    pictures[round(place * (num_frames - 1))] = (thing,)
    asked = [(kind, None) for kind in ("colour", "shape", "position")] + [("existence", w) for w in ("yes", "no")]
    questions = [ask(kind, [(thing,)], rng, answer=answer) for kind, answer in asked]
    named = tuple(question._replace(subject=f"at {place:.0%}") for question in questions if question is not None)
    return ClipScript(tuple(pictures), random_background(rng), named)


_OWN_CLIPS = {"pictures": _picture, "length": _place}
