"""
Time and peak memory of the whole pipeline, per clip and per video backend.

    python benchmarks/read_clips.py FOLDER [--num-frames 32]

Runs the embedded model on every video of a folder, each (clip, backend) in a process of its own: seconds are those
from the path to the answer, after the model was loaded; memory is the peak of the process, and beside it what it was
when the model had been loaded and nothing been read.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import pipeline

from transformers_linvt import LinVTError, embedded_model_path


BACKENDS = ("pyav", "decord", "torchcodec")
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".ts"}


def measure(clip: str, backend: str, num_frames: int) -> dict:
    """One clip with one backend, in this process."""
    torch.set_num_threads(1)
    pipe = pipeline("video-question-answering", model=embedded_model_path())
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    try:
        result = pipe(video=clip, question="What can you see?", num_frames=num_frames, video_backend=backend)
    except LinVTError as error:
        return {"refused": str(error)}
    return {
        "seconds": time.perf_counter() - start,
        "loaded_mb": loaded,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "frames": result[0]["frames_seen"],
    }


def main() -> None:
    """Print a table of clips and backends."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-frames", type=int, default=32)
    parser.add_argument("--one", nargs=2, metavar=("CLIP", "BACKEND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.num_frames)))
        return
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, 1 thread; {arguments.num_frames} frames asked")
    print(f"{'clip':24} {'backend':11} {'frames':>6} {'seconds':>8} {'peak MB':>8} {'of it model MB':>15}")
    for clip in sorted(path for path in arguments.folder.iterdir() if path.suffix in SUFFIXES):
        for backend in BACKENDS:
            command = [sys.executable, __file__, str(arguments.folder), "--num-frames", str(arguments.num_frames)]
            done = subprocess.run([*command, "--one", str(clip), backend], capture_output=True, text=True, check=True)
            result = json.loads(done.stdout.splitlines()[-1])
            if "refused" in result:
                print(f"{clip.name:24} {backend:11} refused: {result['refused'][:150]}")
                continue
            print(
                f"{clip.name:24} {backend:11} {result['frames']:>6} {result['seconds']:>8.2f} "
                f"{result['peak_mb']:>8.0f} {result['loaded_mb']:>15.0f}"
            )


if __name__ == "__main__":
    main()
