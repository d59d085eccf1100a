"""
Build the embedded LinVT checkpoint around the embedded base model, and measure what it answers about clips.

    python examples/build_embedded_model.py [--output DIR] [--clips 100]

The LinVT part is *untrained*: its anchored start averages tokens in (time, row, column) order, four segments of 4 x 4
places. What it answers is therefore what ordered averaging lets a picture model see; clips whose objects are there for
a moment only are beyond it. The checkpoint holds LinVT's weights and refers to the base beside it (`../shapes_vlm`).

Prints accuracy per kind of clip and question with 95 % intervals (Wilson). Takes about a minute on two CPU cores.
"""

import argparse
import math
import platform
from collections import defaultdict
from pathlib import Path

import torch

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, shapes


ASSETS = Path(shapes.__file__).parent / "assets"
CLIP_KINDS = ("static", "scenes", "order", "needles", "needle")
# Four segments of 4 x 4 places, as the base saw runs of one to four pictures; all tokens of 32 frames are kept,
# because the untrained significance is novelty, which would drop what stands still.
LINVT = {
    "num_video_tokens": 64,
    "num_kept_tokens": 512,
    "pooling_scales": (1,),
    "scale_mode": "single",
    "bottleneck_size": 128,
    "num_heads": 4,
    "num_scorer_layers": 2,
    "num_aggregator_layers": 2,
    "init": "anchored",
}


def wilson(right: int, asked: int) -> tuple[float, float]:
    """95 % interval of a share, in percent."""
    z, share = 1.96, right / asked
    centre = (share + z * z / (2 * asked)) / (1 + z * z / asked)
    half = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked)) / (1 + z * z / asked)
    return 100 * (centre - half), 100 * (centre + half)


def evaluate(model: LinVTForVideoQA, processor: LinVTProcessor, kind: str, num_clips: int, num_frames: int) -> None:
    """Print the accuracy on clips of one kind, generated from seeds that no training uses."""
    right, asked = defaultdict(int), defaultdict(int)
    for seed in range(num_clips):
        frames, _ = shapes.make_clip(kind, seed, num_frames)
        questions = shapes.script_clip(kind, seed, num_frames).questions
        features = model.encode_video(**processor.video_inputs(frames, fps=8.0, max_frames=num_frames))
        answers = model.answer(features, [q.question for q in questions], processor, max_new_tokens=12)
        for question, answer in zip(questions, answers, strict=True):
            asked[question.kind] += 1
            right[question.kind] += answer == question.answer
    for question_kind in sorted(asked):
        low, high = wilson(right[question_kind], asked[question_kind])
        share = 100 * right[question_kind] / asked[question_kind]
        print(
            f"{kind:8} T={num_frames:<3} {question_kind:16} {share:5.1f} % [{low:.1f}, {high:.1f}] "
            f"of {asked[question_kind]}"
        )


def main() -> None:
    """Build, save, load again, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=ASSETS / "linvt_shapes", help="folder of the checkpoint")
    parser.add_argument("--clips", type=int, default=100, help="clips per kind to measure on; 0 only builds")
    parser.add_argument("--frames", type=int, default=32)
    arguments = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(2)
    base = ASSETS / "shapes_vlm"
    model = LinVTForVideoQA.from_base(base, **LINVT)
    model.config.base_model_name_or_path = "../shapes_vlm"
    model.config.base_config.name_or_path = ""  # the folder it was built in is nobody's business
    model.save_pretrained(arguments.output)
    LinVTProcessor.from_base(base, num_video_tokens=LINVT["num_video_tokens"]).save_pretrained(arguments.output)
    for code in arguments.output.glob("*.py"):
        code.unlink()  # the installed package is the code; copies of it in the wheel would only grow old

    model = LinVTForVideoQA.from_pretrained(arguments.output)
    processor = LinVTProcessor.from_pretrained(arguments.output)
    print(f"machine: {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    linvt = sum(parameter.numel() for parameter in model.linvt.parameters())
    print(f"{linvt:,} parameters of LinVT, {model.base_vlm.num_parameters():,} of the base")
    for kind in CLIP_KINDS if arguments.clips else ():
        evaluate(model, processor, kind, arguments.clips, arguments.frames)


if __name__ == "__main__":
    main()
