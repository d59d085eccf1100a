"""
What a batch of videos of different length costs beside the same videos one by one: CPU time of LinVT.

    python benchmarks/batches.py --frames 128 8 32

Frame tokens are random numbers of the width of a small language model. *Sum* is the time of all videos alone, *batch*
that of one call with all of them; the least of `--repeats` runs each, in turn. One thread.
"""

import argparse
import platform

import torch
from second_question import least

from transformers_linvt import LinearVideoTokenizer, LinVTConfig


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[128, 8, 32], help="of each video (128 8 32)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 64, 100], help="of a frame of each")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts (default: 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = LinearVideoTokenizer(arguments.width, **LinVTConfig().tokenizer_kwargs).eval()
    shapes = list(zip(arguments.frames, arguments.tokens, strict=True))
    videos = [torch.randn(frames, tokens, arguments.width) for frames, tokens in shapes]
    with torch.inference_mode():
        alone = [least(lambda video=video: tokenizer(frame_tokens=[video]), arguments.repeats) for video in videos]
        batch = least(lambda: tokenizer(frame_tokens=videos), arguments.repeats)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    print("| frames x tokens | CPU s |\n|---|---:|")
    for (frames, tokens), seconds in zip(shapes, alone, strict=True):
        print(f"| {frames} x {tokens} | {seconds:.2f} |")
    print(f"| sum | {sum(alone):.2f} |\n| batch | {batch:.2f} |\n| batch / sum | {batch / sum(alone):.2f} |")


if __name__ == "__main__":
    main()
