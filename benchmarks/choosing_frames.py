"""
Whether frames that are chosen cheaply, before the vision tower, are better than evenly spaced ones at equal cost.

    python benchmarks/choosing_frames.py diagnostics --folder FOLDER --clips 60
    python benchmarks/choosing_frames.py coverage FOLDER

Every way gives the tower the same number of frames of the same video (`--chosen` of `--pool`), and the language model
the same number of video tokens:

- *evenly spaced*: the package's own choice;
- *even change*: frames at equal steps of what changed until then, by thumbnails of 16 x 16 grey pixels;
- *unlike each other*: one after the other, the frame whose thumbnail is farthest from those of the frames chosen;
- *key frames of the file*: those that its encoder made, filled up with frames as far from them in time as can be.

`diagnostics` asks the embedded model about clips of `linvt eval`, written as H.264 and read back, and says what share
of the answers is right. What was answered is kept in `--folder`, clip by clip: killed and started again it goes on
where it was, and `--table` makes the table of the kinds that are done. `coverage` (an ImageNet network of the extra
`coverage`, as benchmarks/coverage.py) says what share of the variance of the tokens of *all* frames of the pool the
nearest video token leaves unexplained, on average and in the frame that is covered worst. Both say the CPU time of
choosing. One thread.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import av
import numpy as np
import PIL.Image
import torch
import transformers

from transformers_linvt import (
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    VideoFrames,
    embedded_model_path,
    read_video,
)
from transformers_linvt.demo.clips import write_clip
from transformers_linvt.evaluation.diagnostics import DiagnosticClip, make_clips
from transformers_linvt.evaluation.statistics import paired_difference
from transformers_linvt.files import replacing
from transformers_linvt.model.origin import digest_of_model


KINDS = ("static", "needle", "needles", "moment", "camera", "drift", "scenes", "order", "traverse", "count")
THUMBNAIL = 16  # pixels along a side
PAIRS, ALL = "twice as many, merged in pairs", "all frames of the pool"

Choice = Callable[[VideoFrames, str, int], list[int]]


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """Small grey pictures, `(num_frames, pixels)`, of the unit of a grey level."""
    small = [PIL.Image.fromarray(one).convert("L").reduce(_factors(one)) for one in frames]
    return (
        np.stack([np.asarray(one.resize((THUMBNAIL, THUMBNAIL), PIL.Image.Resampling.BOX)) for one in small])
        .reshape(len(frames), -1)
        .astype(np.float32)
    )


def _factors(frame: np.ndarray) -> tuple[int, int]:
    return max(1, frame.shape[1] // (2 * THUMBNAIL)), max(1, frame.shape[0] // (2 * THUMBNAIL))


def evenly_spaced(video: VideoFrames, path: str, count: int) -> list[int]:
    """The middles of equal segments."""
    return [(2 * i + 1) * len(video) // (2 * count) for i in range(count)]


def even_change(video: VideoFrames, path: str, count: int) -> list[int]:
    """The middles of segments with as much change; every frame counts a little, so a still video is spaced evenly."""
    small = thumbnails(video.frames)
    steps = np.abs(np.diff(small, axis=0, prepend=small[:1])).mean(1)
    along = np.cumsum(steps + max(float(steps.mean()), 1.0) * 1e-2)
    wanted = (2 * np.arange(count) + 1) / (2 * count) * along[-1]
    return distinct(np.searchsorted(along, wanted).tolist(), len(video), count)


def unlike_each_other(video: VideoFrames, path: str, count: int) -> list[int]:
    """Farthest first, from the middle frame on."""
    small = thumbnails(video.frames)
    chosen = [len(small) // 2]
    distances = np.full(len(small), np.inf)
    while len(chosen) < count:
        distances = np.minimum(distances, np.square(small - small[chosen[-1]]).mean(1))
        distances[chosen] = -1.0
        chosen.append(int(distances.argmax()))
    return sorted(chosen)


def key_frames(video: VideoFrames, path: str, count: int) -> list[int]:
    """The key frames nearest to frames of the pool; too many are thinned evenly, too few filled up."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        first = stream.start_time or 0
        seconds = [
            float((packet.pts - first) * stream.time_base)
            for packet in container.demux(stream)
            if packet.is_keyframe and packet.pts is not None
        ]
    places = sorted({int(np.abs(video.timestamps - one).argmin()) for one in seconds})
    if len(places) > count:
        places = [places[(2 * i + 1) * len(places) // (2 * count)] for i in range(count)]
    return distinct(places, len(video), count)


def distinct(places: list[int], total: int, count: int) -> list[int]:
    """`count` different places: those given, and then always the one that is farthest from all others."""
    chosen = sorted(set(places))[:count]
    while len(chosen) < count:
        away = np.abs(np.arange(total)[:, None] - np.array(chosen)).min(1)
        chosen = sorted([*chosen, int(away.argmax())])
    return chosen


WAYS: Mapping[str, Choice] = {
    "evenly spaced": evenly_spaced,
    "even change": even_change,
    "unlike each other": unlike_each_other,
    "key frames of the file": key_frames,
}


def in_pairs(video: VideoFrames, count: int, encode: Callable[[np.ndarray], torch.Tensor]) -> Any:
    """
    Twice as many frames, evenly spaced, each two of them merged before the tower, at the cost of one.

    A Qwen2-VL merges the two frames of a step in the first layer, which is linear. Here the two are averaged, which is
    what that layer does where it weighs them alike.
    """
    from coverage import Clip

    chosen = evenly_spaced(video, "", count)
    pairs = video.frames[chosen].reshape(count // 2, 2, *video.frames.shape[1:])
    tokens = encode(pairs.mean(axis=1).round().astype(np.uint8))
    times = torch.from_numpy(video.timestamps[chosen]).float().view(-1, 2).mean(1)
    return Clip("", "pairs", tokens.flatten(1, 2), times, tuple(tokens.shape[1:3]))


def only(video: VideoFrames, places: list[int]) -> VideoFrames:
    """Some frames of a video."""
    return replace(video, frames=video.frames[places], timestamps=video.timestamps[places])


class Answered:
    """
    What was answered about every clip, in a file that begins with what was asked and of which model.

    Args:
        path: of the file, a JSON a line.
        asked: what the answers depend on, and what times are compared on.

    Raises:
        LinVTInputError: the answers that are there are to something else.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path, self.rows = path, {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if lines:
            self._compare(json.loads(lines[0]), asked)
        for line in lines[1:]:
            try:
                row = json.loads(line)
            except ValueError:  # cut off when the process was killed; this clip is asked again
                break
            self.rows[row["kind"], row["number"]] = row
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as whole:  # without what was cut off
            kept = "".join(f"{json.dumps(row)}\n" for row in (asked, *self.rows.values()))
            whole.write_text(kept, encoding="utf-8")

    def add(self, row: dict[str, Any]) -> None:
        """Keep the answers about one clip."""
        self.rows[row["kind"], row["number"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The clips of a kind that are answered."""
        return [row for (own, _), row in self.rows.items() if own == kind]

    def _compare(self, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        for name, value in asked.items():
            if found.get(name) != value:
                raise LinVTInputError(
                    f"{self.path} has answers with {name}={found.get(name)!r}, and now {name}={value!r} is asked for. "
                    "Ask the same way, name another folder, or remove that file."
                )


def measure_diagnostics(arguments: argparse.Namespace) -> None:
    """A row per kind of clip, a column per way."""
    path = embedded_model_path()
    model, processor = LinVTForVideoQA.from_pretrained(path).eval(), LinVTProcessor.from_pretrained(path)
    asked = {name: getattr(arguments, name) for name in ("clips", "chosen", "pool", "seed")}
    asked |= {"model": digest_of_model(model.model), "machine": told_machine()}
    answered = Answered(arguments.folder / "choosing_frames.jsonl", asked)
    if not arguments.table:
        for kind in arguments.kinds:
            clips = make_clips(kind, arguments.clips, arguments.pool, arguments.seed, with_variants=False)
            for done, clip in enumerate(clips):
                if (kind, clip.number) not in answered.rows:
                    print(f"{kind}: {done} of {len(clips)} clips", file=sys.stderr, flush=True)
                    answered.add({"kind": kind, "number": clip.number, **ask(model, processor, clip, arguments)})
            print("\n".join(table_of(answered, [kind])), file=sys.stderr, flush=True)
    kinds = [kind for kind in arguments.kinds if len(answered.of_kind(kind)) >= arguments.clips]
    if missing := [kind for kind in arguments.kinds if kind not in kinds]:
        print(f"Not done, and not in the table: {', '.join(missing)}. Leave --table out to ask.", file=sys.stderr)
    print(f"\n{arguments.clips} clips of each kind, {arguments.chosen} of {arguments.pool} frames, M = "
          f"{model.config.num_video_tokens}, {told_machine()}\n")  # fmt: skip
    print("\n".join([*table_of(answered, kinds), "", *differences(answered, kinds)]))


def ask(
    model: LinVTForVideoQA, processor: LinVTProcessor, clip: DiagnosticClip, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Right or wrong by way and question about one clip, and the CPU seconds of choosing its frames."""
    right: dict[str, list[bool]] = {}
    seconds: dict[str, float] = {}
    questions = [one.question for one in clip.questions]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "clip.mp4")
        write_clip(file, clip.frames())
        video = read_video(file, num_frames=arguments.pool)
        for way, choose in WAYS.items():
            began = time.process_time()
            places = choose(video, file, arguments.chosen)
            seconds[way] = time.process_time() - began
            features = model.encode_video(only(video, places), processor)
            answers = model.answer(features, questions, processor, max_new_tokens=8, do_sample=False)
            right[way] = [answer == one.answer for answer, one in zip(answers, clip.questions, strict=True)]
    return {"right": right, "seconds": seconds}


def table_of(answered: Answered, kinds: list[str]) -> Iterator[str]:
    """The lines of the table of some kinds."""
    yield f"| right answers, % | {' | '.join(WAYS)} |\n|---|{'---:|' * len(WAYS)}"
    together = [row for kind in kinds for row in answered.of_kind(kind)]
    for kind in kinds:
        yield f"| {kind} | {' | '.join(percent(answered.of_kind(kind), way) for way in WAYS)} |"
    if len(kinds) > 1:
        yield f"| all | {' | '.join(percent(together, way) for way in WAYS)} |"
    if kinds:
        took = [1000 * mean(row["seconds"][way] for row in together) for way in WAYS]
        yield f"| choosing, ms of CPU a clip | {' | '.join(f'{one:.1f}' for one in took)} |"


def differences(answered: Answered, kinds: list[str]) -> Iterator[str]:
    """How every other way compares with evenly spaced frames, over all clips of some kinds."""
    rows = [row["right"] for kind in kinds for row in answered.of_kind(kind)]
    for way in list(WAYS)[1:] if rows else []:
        found = paired_difference([row["evenly spaced"] for row in rows], [row[way] for row in rows])
        yield f"{way} against evenly spaced: {found.points:+.1f} points ({found.low:+.1f} to {found.high:+.1f})"


def percent(rows: list[dict[str, Any]], way: str) -> str:
    """The share of right answers."""
    flat = [one for row in rows for one in row["right"][way]]
    return f"{100 * sum(flat) / len(flat):.1f}"


def measure_coverage(arguments: argparse.Namespace) -> None:
    """A row per number of video tokens and clip, a column per way."""
    from coverage import CLIPS, IMAGENET, Clip, condense, load_encoder, unexplained

    encode = load_encoder(IMAGENET)
    ways = [*WAYS, PAIRS, ALL]
    found: dict[tuple[int, str, str], tuple[float, float]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    paths = [path for path in sorted(arguments.folder.iterdir()) if path.stem in CLIPS]
    for path in paths:
        video = read_video(path, num_frames=arguments.pool)
        tokens = encode(video.frames)
        grid, flat = tokens.shape[1:3], tokens.flatten(1, 2)
        times = torch.from_numpy(video.timestamps).float()
        chosen = {}
        for way, choose in WAYS.items():
            began = time.process_time()
            chosen[way] = choose(video, str(path), arguments.chosen)
            seconds[way].append(time.process_time() - began)
        chosen[ALL] = list(range(len(video)))
        clips = {
            way: Clip(path.stem, "real", flat[places], times[places], tuple(grid)) for way, places in chosen.items()
        }
        clips[PAIRS] = in_pairs(video, 2 * arguments.chosen, encode)
        for way, clip in clips.items():
            for num_tokens in arguments.num_video_tokens:
                left = unexplained(flat, condense(clip, num_video_tokens=num_tokens).video_tokens[0])
                found[num_tokens, path.stem, way] = float(left.mean()), float(left.max())
        print(f"{path.stem} done", flush=True)
    print(f"\n{arguments.chosen} of {arguments.pool} frames, {told_machine()}\n")
    print(f"| M | clip | {' | '.join(ways)} |\n|---:|---|{'---:|' * len(ways)}")
    for num_tokens in arguments.num_video_tokens:
        for name in [path.stem for path in paths]:
            cells = [found[num_tokens, name, way] for way in ways]
            print(f"| {num_tokens} | {name} | {' | '.join(f'{a:.3f} / {b:.2f}' for a, b in cells)} |")
        cells = [np.mean([found[num_tokens, path.stem, way] for path in paths], axis=0) for way in ways]
        print(f"| {num_tokens} | mean | {' | '.join(f'{a:.3f} / {b:.2f}' for a, b in cells)} |")
    print(f"| | choosing, ms of CPU a clip | {' | '.join(f'{1000 * mean(seconds[way]):.0f}' for way in WAYS)} | | |")


def told_machine() -> str:
    """What it was measured on."""
    return f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread"


def main(words: list[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    diagnostics = parts.add_parser("diagnostics")
    diagnostics.add_argument("--clips", type=int, default=60, help="of every kind (default: 60)")
    diagnostics.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    diagnostics.add_argument("--seed", type=int, default=0)
    diagnostics.add_argument("--folder", type=Path, required=True, help="for answers, which are given once and kept")
    diagnostics.add_argument("--table", action="store_true", help="only make the table of what is there")
    diagnostics.set_defaults(run=measure_diagnostics)
    coverage = parts.add_parser("coverage")
    coverage.add_argument("folder", type=Path, help="of the clips of benchmarks/coverage.py")
    coverage.add_argument("--num-video-tokens", type=int, nargs="+", default=[256, 64])
    coverage.set_defaults(run=measure_coverage)
    for part in (diagnostics, coverage):
        part.add_argument("--pool", type=int, default=64, help="frames that are read (default: 64)")
        part.add_argument("--chosen", type=int, default=16, help="frames that are encoded (default: 16)")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    try:
        with torch.no_grad():
            arguments.run(arguments)
    except LinVTInputError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
