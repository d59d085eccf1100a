"""
Why clips with a moving camera are answered badly: the base on single frames, LinVT untrained and trained.

    python benchmarks/studies/camera.py --folder FOLDER [--checkpoint CHECKPOINT] [--page docs/results.md]

All questions are about the two objects that stand still while the camera moves by up to 3 pixels of 64. The base is
shown every second frame as a picture, by how far the camera is off there; then the same clips go through an untrained
LinVT with 32 video tokens and with a token for every frame token, which averages nothing, and through the checkpoint
with its adapters off and on.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from shared import Figure, Result, figure_of, finish, parser_of

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, embedded_base_path, embedded_model_path
from transformers_linvt.errors import LinVTInputError
from transformers_linvt.evaluation import Answerer, make_clips, parse_answer
from transformers_linvt.evaluation.answering import Shown
from transformers_linvt.evaluation.diagnostics import DiagnosticClip, options_of
from transformers_linvt.files import replacing


KINDS = ("colour", "shape", "position", "existence")
EVERY = 2  # frames of a clip from one that the base is shown to the next

Row = list  # condition, clip, kind of question, right


def still(clip: DiagnosticClip) -> list:
    """The questions about what stands still."""
    return [question for question in clip.questions if question.subject == "still"]


def asked(
    answerer: Answerer, condition: Sequence[str], clips: Sequence[DiagnosticClip], frames: Sequence[np.ndarray]
) -> Iterator[Row]:
    """Every question about some frames of each clip; `condition` names what each is counted as."""
    shown = [Shown(one, [q.question for q in still(clip)]) for one, clip in zip(frames, clips, strict=True)]
    for name, clip, replies in zip(condition, clips, answerer.answer(shown), strict=True):
        for question, reply in zip(still(clip), replies, strict=True):
            right = parse_answer(reply.text, options_of(question)) == question.answer
            yield [name, clip.number, question.kind, right]


def untrained(num_video_tokens: int, seed: int, arguments) -> Answerer:
    """A LinVT around the embedded base as it starts."""
    torch.manual_seed(seed)
    options = {"num_video_tokens": num_video_tokens, "bottleneck_size": 64, "num_heads": 4}
    model = LinVTForVideoQA.from_base(embedded_base_path(), **options).to(arguments.device or "cpu")
    processor = LinVTProcessor.from_base(embedded_base_path(), num_video_tokens=num_video_tokens)
    return Answerer(model, processor, batch_size=arguments.batch_size)


def measure(seed: int, arguments) -> list[Row]:
    """Every answer of one seed."""
    clips = make_clips("camera", arguments.clips, arguments.frames, seed)
    frames = [clip.frames() for clip in clips]
    own = untrained(32, seed, arguments)
    base = Answerer(own.model.base_vlm, own.processor.base_processor, "middle", batch_size=arguments.batch_size)
    places = [(number, at) for number in range(len(clips)) for at in range(0, arguments.frames, EVERY)]
    off = [int(np.abs(clips[number].offsets()[at]).max()) for number, at in places]
    named = [f"the base, a frame that is off by {count} pixel{'s' * (count != 1)}" for count in off]
    single = [frames[number][at : at + 1] for number, at in places]
    rows = list(asked(base, named, [clips[number] for number, _ in places], single))
    most = 16 * arguments.frames  # frame tokens of a clip
    trained = Answerer.from_pretrained(
        arguments.checkpoint or embedded_model_path(), arguments.device, batch_size=arguments.batch_size
    )
    ways = {"LinVT, untrained": own, "LinVT, untrained, nothing averaged": untrained(most, seed, arguments)}
    for name, answerer in ways.items():
        rows += asked(answerer, [name] * len(clips), clips, frames)
    rows += asked(trained, ["the checkpoint"] * len(clips), clips, frames)
    if getattr(trained.model, "peft_config", None):
        trained.model.disable_adapters()
    rows += asked(trained, ["the checkpoint, adapters off"] * len(clips), clips, frames)
    return rows


def table(rows: Sequence[tuple[int, Row]]) -> Result:
    """Right answers with intervals over clips, a row per condition."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for seed, (condition, clip, kind, right) in rows:
        found[condition][kind][seed, clip].append(right)
    lines: list[tuple[str, ...]] = [("", *KINDS)]
    panels: dict[str, dict[str, Figure]] = {kind: {} for kind in KINDS}
    for condition in sorted(
        found, key=lambda name: (not name.startswith("the base"), name.startswith("the check"), name)
    ):
        cells = []
        for kind in KINDS:
            share, low, high = panels[kind][condition] = figure_of(found[condition][kind])
            cells.append(f"{share:.0f} [{low:.0f}, {high:.0f}]")
        lines.append((condition, *cells))
    return Result(lines, panels)


def main() -> None:
    """Ask what is missing, and make the table."""
    parser = parser_of(__doc__.split("\n\n")[0], clips=30)
    parser.add_argument("--frames", type=int, default=16)
    arguments = parser.parse_args()
    rows: list[tuple[int, Row]] = []
    for seed in arguments.seeds:
        path: Path = arguments.folder / f"camera_{arguments.frames}_{arguments.clips}_{seed}.json"
        if not path.exists():
            if arguments.table:
                raise LinVTInputError(f"There is no {path} to make a table of. Leave --table out to make it.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as whole:
                whole.write_text(json.dumps(measure(seed, arguments)) + "\n", encoding="utf-8")
            print(f"camera, seed {seed}: done", flush=True)
        rows += [(seed, row) for row in json.loads(path.read_text(encoding="utf-8"))]
    finish(arguments, "camera", table(rows))


if __name__ == "__main__":
    main()
