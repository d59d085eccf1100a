"""
The most that anybody can get right who sees only what a policy lets through: frames chosen or mixed without looking.

A model that is right significantly more often than the ceiling of its policy knows something that it should not. The
reader that a ceiling belongs to is ideal: it sees what is let through without error, knows how the clips are made, and
guesses the likeliest of what is left. Ceilings are computed from many scripted clips, never from pixels or models.
"""

import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..demo.clips import ClipScript
from ..demo.questions import NUMBERS, PLURALS, Question
from ..demo.world import COLOURS, DIRECTIONS, SHAPES, Picture, ShapeObject
from ..errors import LinVTInputError
from .diagnostics import DIAGNOSTICS, answered, options_of, script_of


NUM_SCRIPTS = 1000  # ours: a ceiling of 50 has a standard error of about 1.6 points
_FIRST_SEED = 1 << 36  # of scripts for ceilings: no clip that is asked about has one of these
_KEPT = re.compile(r"blind keep ([1-9][0-9]*)")
_UNIFORM = re.compile(r"uniform ([1-9][0-9]*)")
_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}

Group = tuple[str, str, str]  # variant, subject, kind of question


class _View(NamedTuple):
    """What a policy lets through: pictures, when they are in the clip (0 to 1), and whether that is known."""

    pictures: Sequence[Picture]
    times: Sequence[float]
    in_order: bool


class _Named(NamedTuple):
    """What a question names: a colour, a shape, or both."""

    colour: str | None
    shape: str | None

    def means(self, thing: ShapeObject) -> bool:
        return self.colour in (None, thing.colour) and self.shape in (None, thing.shape)


def policies_for(num_uniform: int = 8, num_kept: int = 2) -> tuple[str, ...]:
    """
    The policies whose ceilings stand beside every score.

    >>> policies_for(8, 2)
    ('first frame', 'middle frame', 'uniform 8', 'bag of frames', 'blind keep 2', 'all')
    """
    return ("first frame", "middle frame", f"uniform {num_uniform}", "bag of frames", f"blind keep {num_kept}", "all")


def group_of(clip_variant: str, question: Question) -> Group:
    """
    Questions whose shares are counted together.

    Whether something is there is one kind of question whatever it is about: that "yes" is right about all that is
    still, say, would otherwise make a constant look as if it had seen it.
    """
    is_one_kind = question.kind == "existence" and question.subject in ("still", "short", "absent")
    return clip_variant, "" if is_one_kind else question.subject, question.kind


def ceilings(
    name: str, num_frames: int, policies: tuple[str, ...] = policies_for(), num_scripts: int = NUM_SCRIPTS
) -> Mapping[Group, Mapping[str, float]]:
    """
    Percent of right answers an ideal reader reaches behind each policy, for every variant, subject and kind of
    question.

    Args:
        name (`str`):
            One of `DIAGNOSTICS`.
        num_frames (`int`):
            Frames of the clips.
        policies (`tuple[str, ...]`):
            `"first frame"`, `"middle frame"`, `"uniform K"` (K frames, each from the middle of its share of the clip),
            `"bag of frames"` (all, without their order), `"blind keep N"` (N of the things that are to be seen, drawn
            without knowing the question; one that moves or comes again is another thing) or `"all"`.
        num_scripts (`int`, defaults to 1000):
            Clips they are computed from.

    Returns:
        For every group, a share per policy, and `"question only"`: what the words of the question give away, learned
        from one half of the clips and tried on the other.

    Raises:
        `LinVTInputError`: an unknown policy.

    Example:

    >>> found = ceilings("needles", 16, ("blind keep 1",), 400)["", "", "colour"]
    >>> round(found["blind keep 1"] / 10) * 10, round(found["question only"] / 10) * 10
    (50, 20)
    """
    clips, variants = DIAGNOSTICS[name].clips, DIAGNOSTICS[name].variants
    # how clips are filmed changes no script: all diagnostics of the same clips have the same ceilings
    first = next(other for other, one in DIAGNOSTICS.items() if (one.clips, one.variants) == (clips, variants))
    return _ceilings(first, variants, num_frames, policies, num_scripts)


@functools.cache
def _ceilings(
    name: str, variants: tuple[str, ...], num_frames: int, policies: tuple[str, ...], num_scripts: int
) -> Mapping[Group, Mapping[str, float]]:
    eyes = {policy: _policy(policy) for policy in policies}
    rng = np.random.default_rng(0)
    tallies: dict[Group, dict] = defaultdict(lambda: {policy: defaultdict(Counter) for policy in policies})
    in_words: dict[Group, list[tuple]] = defaultdict(list)
    for number in range(num_scripts):
        script = script_of(name, num_frames, _FIRST_SEED + number, number)
        for variant in ("", *variants):
            shown = _shown(script, variant, rng)
            views = {policy: see(shown.pictures, rng) for policy, see in eyes.items()}
            for question in shown.questions:
                group = group_of(variant, question)
                in_words[group].append((_words(question), answered(question)[-1], len(options_of(question))))
                for policy, view in views.items():
                    clues = _clues(question, view._replace(in_order=view.in_order and variant != "shuffled"))
                    key = tuple(sorted(Counter(clues.values()).items(), key=repr))
                    tallies[group][policy][key][clues[question.answer]] += 1
    return {
        group: {policy: 100 * _best_guess(by_key) for policy, by_key in by_policy.items()}
        | {"question only": 100 * _from_words(in_words[group])}
        for group, by_policy in tallies.items()
    }


def constant_score(questions: Sequence[Question]) -> float:
    """
    Percent right of whoever always gives the answer that is the most frequent one among these questions.

    Of a question about two, "always the one that is named first" is a constant too.
    """
    kinds = {question.kind for question in questions}
    counts = Counter(question.answer for question in questions)
    if kinds == {"order"}:
        counts = Counter(answered(question)[-1] for question in questions)
    return 100 * max(counts.values()) / len(questions)


def _from_words(asked: Sequence[tuple]) -> float:
    """Share right of whoever knows how often which answer is right for which words, of other clips."""
    half = len(asked) // 2
    table: dict[Hashable, Counter] = defaultdict(Counter)
    for words, answer, _ in asked[:half]:
        table[words][answer] += 1
    right = 0.0
    for words, answer, num_options in asked[half:]:
        known = table[words].most_common()
        best = [likely for likely, count in known if count == known[0][1]]
        right += (answer in best) / len(best) if best else 1 / num_options
    return right / max(1, len(asked) - half)


# ---------------------------------------------------------------------------------------------------------------------
# What is let through
# ---------------------------------------------------------------------------------------------------------------------


def _shown(script: ClipScript, variant: str, rng: np.random.Generator) -> ClipScript:
    if variant == "backwards":
        return script.backwards()
    if variant == "shuffled":
        mixed = tuple(script.pictures[index] for index in rng.permutation(len(script.pictures)))
        return ClipScript(mixed, script.background, script.questions)
    return script


def _policy(policy: str) -> Callable[[Sequence[Picture], np.random.Generator], _View]:
    def frames(choose: Callable[[int], Sequence[int]], in_order: bool = True) -> Callable:
        def see(pictures: Sequence[Picture], rng: np.random.Generator) -> _View:
            chosen = choose(len(pictures))
            return _View([pictures[i] for i in chosen], [i / len(pictures) for i in chosen], in_order)

        return see

    fixed = {
        "first frame": frames(lambda count: [0]),
        "middle frame": frames(lambda count: [count // 2]),
        "bag of frames": frames(range, in_order=False),
        "all": frames(range),
    }
    if policy in fixed:
        return fixed[policy]
    if match := _UNIFORM.fullmatch(policy):
        num = int(match[1])
        return frames(lambda count: sorted({(2 * i + 1) * count // (2 * num) for i in range(num)}))
    if match := _KEPT.fullmatch(policy):
        return functools.partial(_keep, int(match[1]))
    raise LinVTInputError(f"policy={policy!r} is unknown. Known are {', '.join(policies_for())}, with other numbers.")


def _keep(num_kept: int, pictures: Sequence[Picture], rng: np.random.Generator) -> _View:
    """Some sightings only: a thing at its place, from when it comes to when it goes."""
    sightings, open_now = [], {}
    for time, picture in enumerate(pictures):
        open_now = {thing: open_now.get(thing, len(sightings) + index) for index, thing in enumerate(picture)}
        for thing, number in open_now.items():
            if number >= len(sightings):
                sightings.append((thing, []))
                open_now[thing] = number = len(sightings) - 1
            sightings[number][1].append(time)
    kept = sorted(rng.permutation(len(sightings))[:num_kept])
    shown: list[Picture] = [()] * len(pictures)
    for number in kept:
        thing, times = sightings[number]
        for time in times:
            shown[time] = (*shown[time], thing)
    return _View(shown, [time / len(pictures) for time in range(len(pictures))], True)


def _best_guess(by_key: Mapping[tuple[tuple[Any, int], ...], Counter]) -> float:
    """Share right of a reader that, of options it cannot tell apart, takes one of the likeliest kind."""
    right = asked = 0.0
    for key, found in by_key.items():
        alike = dict(key)
        right += max(count / alike[clue] for clue, count in found.items())
        asked += sum(found.values())
    return right / asked


# ---------------------------------------------------------------------------------------------------------------------
# What a reader learns from it, for every option; options with the same clue cannot be told apart
# ---------------------------------------------------------------------------------------------------------------------


def _words(question: Question) -> tuple:
    """What a question names, and where in time."""
    return tuple(_named(question)), "last" in re.findall(r"\w+", question.question)


def _named(question: Question) -> list[_Named]:
    """What a question is about: the two of an order, otherwise one."""
    words = [_SINGULARS.get(word, word) for word in re.findall(r"\w+", question.question.lower())]
    found = [word for word in words if word in COLOURS or word in SHAPES]
    singles = [_Named(word, None) if word in COLOURS else _Named(None, word) for word in found]
    if question.kind == "order" or len(singles) < 2:
        return singles
    return [_Named(*(next((one[i] for one in singles if one[i]), None) for i in (0, 1)))]


def _clues(question: Question, view: _View) -> dict[str, Hashable]:
    return _CLUES[question.kind](question, view)


def _by_value(value_of: Callable[[ShapeObject], str]) -> Callable[[Question, _View], dict[str, Hashable]]:
    """For a colour, shape or position: whether what is asked for was seen with it, and whether something else was."""

    def clues(question: Question, view: _View) -> dict[str, Hashable]:
        (named,) = _named(question)
        things = [thing for picture in view.pictures for thing in picture]
        asked = {value_of(thing) for thing in things if named.means(thing)}
        others = {value_of(thing) for thing in things if not named.means(thing)}
        return {option: (option in asked, option in others) for option in options_of(question)}

    return clues


def _existence(question: Question, view: _View) -> dict[str, Hashable]:
    (named,) = _named(question)
    things = {thing for picture in view.pictures for thing in picture}
    seen = (
        any(map(named.means, things)),
        named.colour is not None and any(named.colour == thing.colour for thing in things),
        named.shape is not None and any(named.shape == thing.shape for thing in things),
        min(len(things), 4),
    )
    return {option: (option, *seen) for option in options_of(question)}


def _count(question: Question, view: _View) -> dict[str, Hashable]:
    seen = max(map(len, view.pictures))
    return {option: NUMBERS.index(option) == seen for option in options_of(question)}


def _attribute_count(question: Question, view: _View) -> dict[str, Hashable]:
    (named,) = _named(question)
    seen = max(sum(map(named.means, picture)) for picture in view.pictures)
    return {option: NUMBERS.index(option) == seen for option in options_of(question)}


def _order(question: Question, view: _View) -> dict[str, Hashable]:
    end = "last" if "last" in re.findall(r"\w+", question.question) else "first"
    times = {
        option: [
            time for time, picture in zip(view.times, view.pictures, strict=True) if any(map(named.means, picture))
        ]
        for option, named in zip(options_of(question), _named(question), strict=True)
    }
    clues: dict[str, Hashable] = {}
    for option, own in times.items():
        (other,) = (times[name] for name in times if name != option)
        if not view.in_order:
            relation: Hashable = np.sign(len(own) - len(other)).item()
        elif own and other:
            relation = own[-1] < other[0]
        else:  # of what is seen alone: about when
            relation = (tuple(round(4 * own[index]) for index in (0, -1)) if own else None), bool(other)
        clues[option] = end, bool(own), relation
    return clues


def _direction(question: Question, view: _View) -> dict[str, Hashable]:
    places = [(thing.row, thing.column) for picture in view.pictures for thing in picture[:1]]
    return {name: _along(step, places, view) for name, step in DIRECTIONS.items()}


def _along(step: tuple[int, int], places: Sequence[tuple[int, int]], view: _View) -> Hashable:
    """How the places look to somebody who walks in one direction: None if they are beside the way."""
    down, right = step
    if len({column if down else row for row, column in places}) != 1:
        return None
    line = [row if down else column for row, column in places]
    steps = [place if down + right > 0 else 3 - place for place in line]
    if not view.in_order:
        return tuple(steps.count(place) for place in range(4))
    return frozenset((after - before) % 4 for before, after in zip(steps, steps[1:], strict=False)), (
        steps[0],
        steps[-1],
    )


def _occurrences(question: Question, view: _View) -> dict[str, Hashable]:
    (named,) = _named(question)
    seen = [any(map(named.means, picture)) for picture in view.pictures]
    runs = sum(now and not before for before, now in zip([False, *seen], seen, strict=False)) if view.in_order else 0
    present = round(min(32, len(seen)) * sum(seen) / len(seen))
    return {option: (option, runs, present) for option in options_of(question)}


_CLUES = {
    "colour": _by_value(lambda thing: thing.colour),
    "shape": _by_value(lambda thing: thing.shape),
    "position": _by_value(lambda thing: thing.quadrant),
    "existence": _existence,
    "count": _count,
    "attribute_count": _attribute_count,
    "order": _order,
    "direction": _direction,
    "occurrences": _occurrences,
}
