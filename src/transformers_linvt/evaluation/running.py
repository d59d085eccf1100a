"""A whole evaluation: every diagnostic at every length, resumable, as one JSON that says how it was made."""

import json
import os
import platform
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..demo.world import PICTURE_SIZE
from ..errors import LinVTInputError, unknown_argument
from ..files import replacing
from .answering import Answerer, Shown, parse_answer
from .diagnostics import DIAGNOSTICS, WITH_REVERSE, DiagnosticClip, chance_of, make_clips, options_of
from .limits import NUM_SCRIPTS, Group, ceilings, constant_score, group_of, policies_for
from .statistics import clustered_interval, wilson


FORMAT = "linvt-evaluation-1"

_CLIPS_AT_ONCE = 8  # after which what was answered is written down


@dataclass(frozen=True)
class EvaluationSettings:
    """
    What is asked; two evaluations can be compared where this is the same.

    Attributes:
        diagnostics (`tuple[str, ...]`): names of `DIAGNOSTICS`.
        num_frames (`tuple[int, ...]`): lengths of the clips; pictures have one frame.
        lengths (`tuple[int, ...]`): of the clips of `"length"`, longer than what was trained on.
        num_clips (`int`): of each diagnostic and length; of pictures per kind of question, of `"length"` per place.
        size (`int`): pixels per side, a multiple of 4.
        seed (`int`): of the clips.
        instruction (`str`), max_new_tokens (`int`): as in [`Answerer`].
        num_uniform, num_kept (`int`): frames and things of the policies whose ceilings are computed.
        num_scripts (`int`): clips that ceilings are computed from.

    Raises:
        LinVTInputError: an unknown diagnostic, or a number that cannot be.
    """

    diagnostics: tuple[str, ...] = tuple(DIAGNOSTICS)
    num_frames: tuple[int, ...] = (16, 32)
    lengths: tuple[int, ...] = (64, 256, 1024)
    num_clips: int = 100
    size: int = PICTURE_SIZE
    seed: int = 0
    instruction: str = ""
    max_new_tokens: int = 16
    num_uniform: int = 8
    num_kept: int = 2
    num_scripts: int = NUM_SCRIPTS

    def __post_init__(self) -> None:
        for name in self.diagnostics:
            if name not in DIAGNOSTICS:
                raise LinVTInputError(unknown_argument(name, DIAGNOSTICS))
        if not self.diagnostics:
            raise LinVTInputError(f"No diagnostic was named. Known are {', '.join(DIAGNOSTICS)}.")
        if self.size < 4 or self.size % 4:
            raise LinVTInputError(f"size={self.size} pixels is no positive multiple of 4.")
        for name, num_frames in self.cells():
            if num_frames < DIAGNOSTICS[name].least_frames:
                raise LinVTInputError(
                    f"num_frames={num_frames} is too few for {name!r} ({DIAGNOSTICS[name].shows}). Ask for "
                    f"{DIAGNOSTICS[name].least_frames} or more, or leave {name!r} out."
                )

    def cells(self) -> Iterator[tuple[str, int]]:
        """Every diagnostic with every number of frames."""
        for name in self.diagnostics:
            lengths = {"pictures": (1,), "length": self.lengths}.get(name, self.num_frames)
            for num_frames in dict.fromkeys(lengths):
                yield name, num_frames


@dataclass
class _Row:
    """One question as it was answered."""

    diagnostic: str
    num_frames: int
    number: int
    variant: str
    subject: str
    kind: str
    expected: str
    text: str
    parsed: str | None
    visual_tokens: int

    @property
    def is_right(self) -> bool:
        return self.parsed == self.expected


def evaluate(
    answerer: Answerer,
    settings: EvaluationSettings,
    output: str | os.PathLike,
    model_name: str = "",
    on_progress: Callable[[int, int, str], None] | None = None,
    restart: bool = False,
    reuse: bool = False,
) -> dict[str, Any]:
    """
    Ask everything, write the JSON, and return what is in it.

    What was answered is kept beside the output in `OUTPUT.partial.jsonl` as it comes: killed and started again the
    same way, an evaluation goes on where it was and ends in the same JSON. Nothing in it depends on the clock.

    Args:
        answerer ([`Answerer`]):
            The model and how it is asked; its instruction and length of an answer have to be those of the settings.
        settings ([`EvaluationSettings`]):
            What is asked.
        output (`str` or `os.PathLike`):
            The JSON to write.
        model_name (`str`, *optional*):
            How the model is called in it.
        on_progress (`Callable`, *optional*):
            Called with the clips done, all clips, and what is being asked.
        restart (`bool`, defaults to `False`):
            Whether answers that are there already, and an output, are to be thrown away.
        reuse (`bool`, defaults to `False`):
            Whether an output that is there already is returned as it is, if it was made with the same model, settings
            and versions.

    Raises:
        LinVTInputError: the output is there, or the answers in it or beside it are of another model or of other
            settings.
    """
    output = Path(output)
    partial = output.with_name(f"{output.name}.partial.jsonl")
    header = _header(answerer, settings, model_name)
    if restart:
        partial.unlink(missing_ok=True)
    elif output.exists() and reuse:
        report = read_report(output)
        _check_same(output, report, header)
        return report
    elif output.exists():
        raise LinVTInputError(f"{output} exists already. Name another file, or say restart=True to replace it.")
    rows = _Answers(partial, header)
    total = sum(len(make_clips(*_clips_of(settings, *cell))) for cell in settings.cells())
    done = 0
    for name, num_frames in settings.cells():
        clips = make_clips(*_clips_of(settings, name, num_frames))
        for start in range(0, len(clips), _CLIPS_AT_ONCE):
            part = clips[start : start + _CLIPS_AT_ONCE]
            key = f"{name} {num_frames} {start}"
            if key not in rows.by_key:
                if on_progress:
                    on_progress(done, total, f"{name}, {num_frames} frames")
                rows.add(key, _ask(answerer, part, settings.size))
            done += len(part)
    if on_progress:
        on_progress(total, total, "ceilings")
    report = header | summarise([row for part in rows.by_key.values() for row in part], settings, answerer.policy)
    with replacing(output) as whole:
        whole.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.unlink(missing_ok=True)
    return report


def read_report(path: str | os.PathLike) -> dict[str, Any]:
    """
    An evaluation from its JSON.

    Raises:
        LinVTInputError: the file is missing or is no evaluation.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LinVTInputError(f"{path} cannot be read as an evaluation: {error}. Make one with linvt eval.") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise LinVTInputError(f"{path} is no evaluation of this version ({FORMAT}). Make one with linvt eval.")
    return report


def summarise(rows: Sequence[_Row], settings: EvaluationSettings, policy: str | None = None) -> dict[str, Any]:
    """Shares with intervals, baselines and ceilings for every kind of question; and every single answer."""
    results = []
    for name, num_frames in settings.cells():
        own = [row for row in rows if (row.diagnostic, row.num_frames) == (name, num_frames)]
        clips = make_clips(*_clips_of(settings, name, num_frames))
        policies = policies_for(settings.num_uniform, settings.num_kept)
        limits = ceilings(name, num_frames, policies, settings.num_scripts)
        results += list(_results_of(own, clips, limits, policy))
    answers = [
        [row.diagnostic, row.num_frames, row.number, row.variant, row.subject, row.kind]
        + [row.expected, row.text, row.is_right]
        for row in rows
    ]
    return {"results": results, "answers": answers}


def _results_of(
    rows: Sequence[_Row],
    clips: Sequence[DiagnosticClip],
    limits: Mapping[Group, Mapping[str, float]],
    policy: str | None,
) -> Iterator[dict[str, Any]]:
    asked: dict[Group, list] = defaultdict(list)
    answered: dict[Group, dict[int, list[_Row]]] = defaultdict(lambda: defaultdict(list))
    questions = [(clip.variant, question) for clip in clips for question in clip.questions]
    for (variant, question), row in zip(questions, rows, strict=True):
        group = group_of(variant, question)
        asked[group].append(question)
        answered[group][row.number].append(row)
    for group, by_clip in answered.items():
        flat = [row for of_clip in by_clip.values() for row in of_clip]
        right = [[row.is_right for row in of_clip] for of_clip in by_clip.values()]
        blind = {
            "chance": float(np.mean([chance_of(question) for question in asked[group]])),
            "constant": constant_score(asked[group]),
        }
        yield _result(flat, group, right, {**blind, **limits[group]}, policy)
        variant, subject, kind = group
        reverse = answered.get(("backwards", subject, kind))
        if not variant and reverse:
            pairs = [[all(row.is_right for row in (*by_clip[number], *reverse[number]))] for number in by_clip]
            chance = {"chance": blind["chance"] ** 2 / 100, "constant": 0.0}
            yield _result(flat, (WITH_REVERSE, subject, kind), pairs, chance, None)


def _result(
    rows: Sequence[_Row],
    group: Group,
    right: Sequence[Sequence[bool]],
    baselines: Mapping[str, float],
    policy: str | None,
) -> dict[str, Any]:
    variant, subject, kind = group
    num_right, num_asked = sum(map(sum, right)), sum(map(len, right))
    low, high = clustered_interval(right)
    ceiling = baselines.get(policy) if policy else None
    return {
        "diagnostic": rows[0].diagnostic,
        "num_frames": rows[0].num_frames,
        "variant": variant,
        "subject": subject,
        "question": kind,
        "right": num_right,
        "asked": num_asked,
        "percent": round(100 * num_right / num_asked, 2),
        "interval": [round(low, 2), round(high, 2)],
        "wilson": [round(bound, 2) for bound in wilson(num_right, num_asked)],
        "unparsed": sum(row.parsed is None for row in rows),
        "visual_tokens": round(float(np.mean([row.visual_tokens for row in rows])), 1),
        "baselines": {name: round(share, 1) for name, share in baselines.items()},
        # more than its own policy lets anybody know: something leaks
        "above_ceiling": bool(ceiling is not None and low > ceiling + 3),
    }


def _clips_of(settings: EvaluationSettings, name: str, num_frames: int) -> tuple[str, int, int, int]:
    return name, settings.num_clips, num_frames, settings.seed


def _header(answerer: Answerer, settings: EvaluationSettings, model_name: str) -> dict[str, Any]:
    from_settings = {"instruction": settings.instruction.strip(), "max_new_tokens": settings.max_new_tokens}
    of_answerer = {"instruction": answerer.instruction, "max_new_tokens": answerer.max_new_tokens}
    if from_settings != of_answerer:
        raise LinVTInputError(f"The model is asked with {of_answerer}, the settings say {from_settings}.")
    own = __name__.partition(".")[0]
    return {
        "format": FORMAT,
        "model": {"name": model_name, **answerer.identity(), "batch_size": answerer.batch_size},
        "settings": json.loads(json.dumps(asdict(settings))),
        "versions": {
            "transformers-linvt": sys.modules[own].__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def _ask(answerer: Answerer, clips: Sequence[DiagnosticClip], size: int) -> list[_Row]:
    shown = [Shown(clip.frames(size), [question.question for question in clip.questions]) for clip in clips]
    rows = []
    for clip, replies in zip(clips, answerer.answer(shown), strict=True):
        for question, reply in zip(clip.questions, replies, strict=True):
            parsed = parse_answer(reply.text, options_of(question))
            about = (clip.diagnostic, clip.num_frames, clip.number, clip.variant, question.subject, question.kind)
            rows.append(_Row(*about, question.answer, reply.text, parsed, reply.visual_tokens))
    return rows


class _Answers:
    """Answers as they come, in a file that begins with what they are answers to."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.by_key = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines:
            _check_same(path, json.loads(lines[0]), header)
            for line in lines[1:]:
                try:
                    entry = json.loads(line)
                except ValueError:  # cut off when the process was killed; it is asked again
                    break
                self.by_key[entry["key"]] = [_Row(*row) for row in entry["rows"]]
        with replacing(path) as whole:  # without what was cut off
            kept = [json.dumps(header), *(self._line(key) for key in self.by_key)]
            whole.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, key: str, rows: list[_Row]) -> None:
        self.by_key[key] = rows
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(key) + "\n")

    def _line(self, key: str) -> str:
        return json.dumps({"key": key, "rows": [list(asdict(row).values()) for row in self.by_key[key]]})


def _check_same(path: Path, found: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    for part in ("settings", "model", "versions"):
        different = [name for name in header[part] if found.get(part, {}).get(name) != header[part][name]]
        if different:
            name = different[0]
            raise LinVTInputError(
                f"{path} has answers that were given with {part} {name}={found.get(part, {}).get(name)!r}, and now "
                f"{name}={header[part][name]!r} is asked for. Ask the same way, name another output, or say "
                "restart=True to throw those answers away."
            )
