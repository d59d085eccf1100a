"""`linvt demo`: clips that are drawn, asked about, and compared with the right answers."""

import argparse
import time
from pathlib import Path
from typing import Any

from ..demo.embedded import EMBEDDED_MODEL_KNOWS
from ..demo.shapes import make_clip, write_clip
from .loading import load


# Kinds of clips of the demo with what they show. The first seed of each kind: nothing was picked.
_DEMO_CLIPS = {
    "static": "one picture all along",
    "scenes": "four scenes, one after the other",
    "order": "one object, then another",
    "needle": "one object, for a moment only",
    "moment": "two objects stand still, a third is there for a moment",
    "count": "one object comes and goes",
    "traverse": "one object crosses the picture",
}
_DEMO_FRAMES, _DEMO_FPS = 32, 8


def demo(arguments: argparse.Namespace) -> None:
    """Draw clips, ask about them, and count what is right."""
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    pipe = load(None, None, "auto")
    print(f"{EMBEDDED_MODEL_KNOWS} Its LinVT was trained on clips of 16 frames; these have {_DEMO_FRAMES}.")
    print("What it gets wrong is shown like what it gets right.\n")
    files, right, asked = [], 0, 0
    for kind, shows in _DEMO_CLIPS.items():
        frames, questions = make_clip(kind, seed=0, num_frames=_DEMO_FRAMES)
        video, picture = folder / f"{kind}.mp4", folder / f"{kind}.png"
        write_clip(video, frames, fps=_DEMO_FPS)
        results = pipe(
            video=str(video), question=[text for text, _ in questions], num_frames=_DEMO_FRAMES, return_evidence=True
        )
        results[0]["evidence"].save(picture)
        files += [video, picture]
        right += _print_answers(video, shows, results, [answer for _, answer in questions])
        asked += len(questions)
    print(
        f"{right} of {asked} right, in {time.monotonic() - began:.0f} s. Videos, and evidence for the first answers:"
    )
    for video, picture in zip(files[::2], files[1::2], strict=True):
        print(f"  {video}  {picture}")


def _print_answers(video: Path, shows: str, results: list[dict[str, Any]], right_answers: list[str]) -> int:
    """A table of answers beside the right ones; returns how many are right."""
    first = results[0]
    seconds = _DEMO_FRAMES / _DEMO_FPS
    print(f"{video} ({seconds:g} s of H.264: {shows})")
    before, after = first["frame_tokens"], first["video_tokens"]
    print(f"  {first['frames_seen']} frames, {before} frame tokens -> {after} video tokens")
    rows = [("question", "answer", "right answer", "")]
    for result, answer in zip(results, right_answers, strict=True):
        verdict = "ok" if result["answer"] == answer else "wrong"
        rows.append((result["question"], result["answer"] or "(nothing)", answer, verdict))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print()
    return sum(row[3] == "ok" for row in rows)
