"""`linvt ask` and `linvt inspect`: questions about a video, and what is kept of it."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import transformers_linvt

from ..demo.embedded import EMBEDDED_MODEL_KNOWS
from ..evidence.evidence import check_picture_path
from .loading import load, trusted
from .output import complain


def ask(arguments: argparse.Namespace) -> None:
    """Answer questions about a video."""
    pictures = _pictures(arguments.evidence, len(arguments.questions))
    _check_video(arguments)
    pipe = load(arguments.model, arguments.device, arguments.dtype, **trusted(arguments))
    given = {"max_new_tokens": arguments.max_new_tokens} if arguments.max_new_tokens else {}
    results = pipe(
        video=arguments.video,
        question=arguments.questions,
        return_evidence=bool(pictures) or arguments.json,
        **_sampling(arguments),
        **given,
    )
    for result, picture in zip(results, pictures, strict=False):
        result["evidence"].save(picture)
    if arguments.json:
        _print_json(arguments, results, pictures)
        return
    for number, result in enumerate(results):
        if len(results) > 1:
            print(f"{result['question']}\n  {result['answer']}")
        else:
            print(result["answer"])
        if pictures:
            print(f"  evidence: {pictures[number]}")
            for line in _owed(result["evidence"]):
                print(f"  {line}")
    sys.stdout.flush()
    if arguments.model is None:
        complain(f"{EMBEDDED_MODEL_KNOWS} Name another with --model.")


def _owed(evidence: Any) -> list[str]:
    """The frames that an answer owes most to; why nothing is known of it; or nothing, of chats."""
    if evidence.attribution is None:
        return [evidence.no_attribution] if evidence.no_attribution else []
    top = [share for share in evidence.top_frames(3) if share.attribution > 0]
    return [f"{share.seconds:8.2f} s  {share.attribution:6.3f} nats of the answer's log-probability" for share in top]


def _print_json(arguments: argparse.Namespace, results: list[dict[str, Any]], pictures: list[Path]) -> None:
    """One object; the evidence as numbers, without the frames."""
    answers = []
    for number, result in enumerate(results):
        result = {**result, "evidence": result["evidence"].to_dict()}
        if pictures:
            result["evidence_picture"] = str(pictures[number])
        answers.append(result)
    model = arguments.model if arguments.model is not None else "embedded"
    print(json.dumps({"video": arguments.video, "model": model, "answers": answers}, indent=2, ensure_ascii=False))


def inspect(arguments: argparse.Namespace) -> None:
    """Draw what is kept of a video."""
    picture = check_picture_path(arguments.output)
    _check_video(arguments)
    pipe = load(arguments.model, arguments.device, arguments.dtype, **trusted(arguments))
    evidence = pipe.inspect(arguments.video, arguments.question, **_sampling(arguments))
    evidence.save(picture)
    total = evidence.num_frames * evidence.tokens_per_frame
    print(
        f"{picture}: {evidence.num_frames} frames, {len(evidence.kept_indices)} of {total} frame tokens kept, "
        f"{evidence.num_video_tokens} video tokens"
    )
    for share in evidence.top_frames(3):
        print(f"  {share.seconds:8.2f} s  {100 * share.weight:5.1f} % of the weight in the video tokens")


def _sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("num_frames", "fps", "max_frames", "start", "end", "video_backend", "allow_urls")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _check_video(arguments: argparse.Namespace) -> None:
    """Refuse what is no file at all before a model is loaded, which can take minutes."""
    if os.path.isfile(arguments.video) or (arguments.allow_urls and "://" in arguments.video):
        return
    transformers_linvt.read_video(arguments.video, num_frames=1)


def _pictures(output: str | None, count: int) -> list[Path]:
    """Where the evidence of each question goes, checked before anything is run."""
    if output is None:
        return []
    path = check_picture_path(output)
    if count == 1:
        return [path]
    return [check_picture_path(path.with_name(f"{path.stem}-{number + 1}{path.suffix}")) for number in range(count)]
