"""
What a second question about a video costs through the pipeline, against the first: CPU time, for 8 to 64 frames.

    python benchmarks/second_question.py --frames 8 64
    python benchmarks/second_question.py --model internvl

The base has the shape of a Qwen2-VL or an InternVL, scaled down, with random weights, so nothing is downloaded; the
video is an H.264 file that is drawn here. *First* is a pipeline that remembers nothing (`cache_size=0`), *second* one
that was asked before, *folder* one that finds the video in `cache_dir`. All three read the file for its digest or its
frames, write a prompt and generate `--new-tokens` tokens. The figures are the least of `--repeats` runs of CPU time,
one thread.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from scaled_models import SCALED

from transformers_linvt import VideoQuestionAnsweringPipeline
from transformers_linvt.demo.shapes import make_clip, write_clip


def make_pipe(name: str, **options: object) -> VideoQuestionAnsweringPipeline:
    """The pipeline of a scaled model."""
    model, processor = SCALED[name]()
    return VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu", **options)


def least(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest run."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SCALED, default="qwen2-vl", help="whose shape (default: qwen2-vl)")
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 64], help="frames of the video (default: 8 64)")
    parser.add_argument("--new-tokens", type=int, default=4, help="length of an answer (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts (default: 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    print(f"{arguments.model}, {platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"{'frames':>6} {'first s':>8} {'second s':>9} {'times':>6} {'folder s':>9} {'times':>6}")
    with tempfile.TemporaryDirectory() as folder:
        forgets, remembers = make_pipe(arguments.model, cache_size=0), make_pipe(arguments.model)
        on_disk = make_pipe(arguments.model, cache_size=0, cache_dir=Path(folder) / "cache")
        for count in arguments.frames:
            path = str(Path(folder) / f"{count}.mp4")
            write_clip(path, make_clip("scenes", seed=0, num_frames=count)[0])

            work = [
                lambda pipe=pipe, path=path, count=count: pipe(
                    video=path, question="Who?", num_frames=count, max_new_tokens=arguments.new_tokens, eos_token_id=-1
                )
                for pipe in (forgets, remembers, on_disk)
            ]
            for ask in work[1:]:
                ask()
            first, second, third = (least(ask, arguments.repeats) for ask in work)
            found = f"{second:>9.3f} {first / second:>6.1f} {third:>9.3f} {first / third:>6.1f}"
            print(f"{count:>6} {first:>8.2f} {found}")


if __name__ == "__main__":
    main()
