"""`linvt bench`: what questions about a video cost on this machine, with a model and with its base alone."""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import transformers_linvt

from ..demo.shapes import make_clip, write_clip
from ..errors import LinVTInputError
from .loading import load, trusted


def bench(arguments: argparse.Namespace) -> None:
    """Print a table, or JSON lines."""
    pipe = load(arguments.model, arguments.device, arguments.dtype, cache_size=0, **trusted(arguments))
    model, processor = pipe._linvt, pipe.processor
    measuring = transformers_linvt.measuring
    costs: list[Any] = []
    ways = arguments.ways or measuring.WAYS
    with _video(arguments) as video:
        for number, tokens in enumerate(arguments.video_tokens or [model.config.num_video_tokens]):
            measured = transformers_linvt.Bench(
                *_with_tokens(model, processor, tokens), arguments.repeats, arguments.answer_tokens
            )
            for frames in arguments.num_frames:
                # the base's own ways do not depend on M, but for how many frames fit it
                again = ways if not number else [way for way in ways if way in ("linvt", "fewer frames")]
                costs += measured.measure(video, frames, again)
    if arguments.json:
        for cost in costs:
            print(json.dumps({**asdict(cost), "first_token_s": cost.first_token_s, "machine": _machine(pipe)}))
        return
    name = "the embedded model" if arguments.model is None else arguments.model
    print(f"{name}, {_machine(pipe)}; medians of {arguments.repeats}\n")
    print(measuring.table_of(sorted(costs, key=lambda cost: cost.frames)))
    if lines := measuring.verdicts(costs):
        print("\n" + "\n".join(f"- {line}" for line in lines))


def _machine(pipe: Any) -> str:
    return f"{transformers_linvt.measuring.machine_of(pipe.device)}, {str(pipe.dtype).removeprefix('torch.')}"


def _with_tokens(model: Any, processor: Any, num_video_tokens: int) -> tuple[Any, Any]:
    """A model with another number of video tokens, untrained: what it costs does not depend on its weights."""
    if num_video_tokens == model.config.num_video_tokens:
        return model, processor
    like = model.config
    base = model.base_vlm
    made = transformers_linvt.LinVTForVideoQA.from_base(
        base, num_video_tokens=num_video_tokens, frame_path=like.frame_path, bottleneck_size=like.bottleneck_size,
        num_heads=like.num_heads, num_scorer_layers=like.num_scorer_layers, max_frames=like.max_frames,
        num_aggregator_layers=like.num_aggregator_layers, text_conditioned=like.text_conditioned,
    )  # fmt: skip
    made.linvt.to(model.working_device, next(model.linvt.parameters()).dtype)
    return made, transformers_linvt.LinVTProcessor(
        processor.base_processor, num_video_tokens, processor.base_model_type, frame_path=processor.frame_path,
        max_frame_tokens=processor.max_frame_tokens, max_total_frame_tokens=processor.max_total_frame_tokens,
    )  # fmt: skip


@contextmanager
def _video(arguments: argparse.Namespace) -> Iterator[str]:
    """The video that was given, or one that is drawn."""
    if arguments.video is not None:
        if not Path(arguments.video).is_file():
            raise LinVTInputError(f"{arguments.video} does not exist. Leave VIDEO out to have a clip drawn.")
        yield arguments.video
        return
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        write_clip(path, make_clip("scenes", seed=0, num_frames=max(arguments.num_frames))[0])
        yield path
