"""
What it takes to encode a video while it is read: memory and time by its length, and the preparation of its frames.

    python benchmarks/streaming.py memory --frames 256 1024 4096 10000
    python benchmarks/streaming.py large --frames 64 256
    python benchmarks/streaming.py preparation

`memory` encodes a file of so many frames with the embedded model, every length in a process of its own, and says the
peak of resident memory beyond what the process had with its model loaded, the size of what is kept, and the CPU
seconds; at last how well the seconds lie on a line. `large` does the same with 720p and a base that has the patches of
a Qwen2-VL and little else. `--whole` reads all frames first, prepares them all, and then encodes.

`preparation` sets the CPU time of making a vision tower's inputs of decoded frames beside that of resizing them alone,
with the resizing that the base's own image processor uses and with ours, and beside the base's own image processor.
Where torchvision is installed, also beside transformers' own path for videos, with the number of patches of each.
Videos are drawn here. One thread.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
import transformers
from scaled_models import scaled_qwen2_vl
from second_question import least
from transformers import GotOcr2ImageProcessorPil, Qwen2VLForConditionalGeneration, SiglipImageProcessorPil

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, VideoLimits, embedded_model_path
from transformers_linvt.bases.frame_pixels import find_recipe


UNLIMITED = VideoLimits(
    max_frames=None,
    max_duration=None,
    max_decode_seconds=None,
    max_output_bytes=None,
    max_request_frames=None,
    max_request_decode_seconds=None,
    max_request_output_bytes=None,
)
MIB = 1 << 20


def draw(num_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """A square that moves over a slope, and another slope every 64 frames."""
    y, x = np.mgrid[:height, :width]
    for number in range(num_frames):
        slope = ((x + y) * (1 + number // 64 % 5) // 4 % 256).astype(np.uint8)
        frame = np.stack([slope, 255 - slope, np.roll(slope, number // 64)], axis=-1)
        row, column = number * 3 % (height // 2), number * 5 % (width // 2)
        frame[row : row + height // 4, column : column + width // 4] = 230
        yield frame


def write(path: Path, num_frames: int, height: int, width: int) -> None:
    """A file of 10 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in draw(num_frames, height, width):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


def tiny_qwen() -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """The patches of a Qwen2-VL, one vision layer of 32 channels, and one language layer of 128."""
    model, processor = scaled_qwen2_vl()
    config = model.base_vlm.config
    vision, text = config.vision_config, config.text_config
    vision.depth, vision.embed_dim, vision.num_heads, vision.hidden_size = 1, 32, 2, 128
    text.hidden_size, text.intermediate_size, text.num_attention_heads, text.num_key_value_heads = 128, 256, 2, 2
    text.num_hidden_layers, text.layer_types = 1, text.layer_types[:1]
    base = Qwen2VLForConditionalGeneration(config).eval()
    return LinVTForVideoQA.from_base(base, num_video_tokens=64), processor


def encode_alone(arguments: argparse.Namespace) -> None:
    """In a process of its own: one line of JSON."""
    if arguments.height > 300:
        model, processor = tiny_qwen()
    else:
        path = embedded_model_path()
        model, processor = LinVTForVideoQA.from_pretrained(path), LinVTProcessor.from_pretrained(path)
    stream = not arguments.whole
    model.config.max_frames = arguments.count
    model.encode_video(arguments.path, processor, num_frames=8, stream=stream)  # what is loaded at first use
    # the peak before is not of this video: it is set back where the system lets us
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = resident("VmRSS"), time.process_time()
    features = model.encode_video(
        arguments.path, processor, num_frames=arguments.count, limits=UNLIMITED, stream=stream
    )
    seconds, peak = time.process_time() - began, resident("VmHWM")
    tensors = [*features.refined.to_tensors().values(), *features.deepstack]
    kept = sum(one.numel() * one.element_size() for one in tensors)
    told = {"frames": arguments.count, "steps": features.num_frames, "tokens": features.refined.tokens_per_frame}
    print(json.dumps({**told, "seconds": seconds, "peak": peak - before, "kept": kept}))


def resident(name: str) -> int:
    """Bytes of this process as Linux counts them: `VmRSS` now, `VmHWM` at most."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_memory(arguments: argparse.Namespace, height: int, width: int) -> None:
    """A row per length."""
    print("| frames | steps | tokens of a step | peak, MiB | kept, MiB | peak without what is kept, MiB | CPU s |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.frames:
            path = Path(folder) / f"{count}.mp4"
            write(path, count, height, width)
            command = [sys.executable, __file__, "alone", str(path), str(count), str(height)]
            done = subprocess.run(
                [*command, *["--whole"] * arguments.whole], check=True, capture_output=True, text=True
            )
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            peak, kept = row["peak"] / MIB, row["kept"] / MIB
            print(
                f"| {row['frames']:,} | {row['steps']:,} | {row['tokens']} | {peak:,.0f} | {kept:,.1f} | "
                f"{peak - kept:,.0f} | {row['seconds']:.1f} |",
                flush=True,
            )
    if len(rows) > 2:
        print(f"\nSeconds against frames lie on a line with R² = {straightness(rows):.4f}.")


def straightness(rows: Sequence[dict[str, float]]) -> float:
    """R² of the line through the seconds of all lengths."""
    frames, seconds = (np.array([row[name] for row in rows], dtype=float) for name in ("frames", "seconds"))
    rest = seconds - np.polyval(np.polyfit(frames, seconds, 1), frames)
    return float(1 - (rest**2).sum() / ((seconds - seconds.mean()) ** 2).sum())


def measure_preparation(arguments: argparse.Namespace) -> None:
    """A row per image processor, for frames of 720p."""
    frames = np.stack(list(draw(arguments.count, 720, 1280)))
    _, qwen = scaled_qwen2_vl()
    options = qwen.frame_options(len(frames))
    patches = qwen.base_processor.image_processor
    kinds = {
        "Qwen2-VL, in pairs": (patches, options, True),
        "Qwen2-VL, one by one": (patches, options, False),
        "SigLIP 384": (SiglipImageProcessorPil(size={"height": 384, "width": 384}), {}, False),
        "InternVL 448": (
            GotOcr2ImageProcessorPil(size={"height": 448, "width": 448}), {"crop_to_patches": False}, False,
        ),
    }  # fmt: skip
    print("| 720p, ms a frame | resize, PIL | resize, ours | base's own processor | ours | ours / resize, PIL |"
          " ours / resize, ours |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, (image_processor, settings, in_steps) in kinds.items():
        found = ms_of_preparation(frames, image_processor, settings, in_steps, arguments.repeats)
        print(
            f"| {name} | {found['pil']:.1f} | {found['resize']:.1f} | {found['own']:.1f} | {found['ours']:.1f} | "
            f"{found['ours'] / found['pil']:.2f} | {found['ours'] / found['resize']:.2f} |",
            flush=True,
        )
    compare_with_own_video_path(arguments, qwen)


def ms_of_preparation(
    frames: np.ndarray, image_processor: Any, settings: dict[str, Any], in_steps: bool, repeats: int
) -> dict[str, float]:
    """Milliseconds of CPU time for a frame, by what is done with it; `in_steps` as the base's own video path does."""
    call = {"return_tensors": "pt", "input_data_format": "channels_last", **settings}

    def own(pictures: Sequence[np.ndarray]) -> dict[str, Any]:
        return dict(image_processor(list(pictures), **call))

    recipe = find_recipe(image_processor, settings, frames[0].shape, own)
    prepare = recipe.prepare_steps if in_steps else recipe.prepare
    height, width = recipe.size
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    pillow = PIL.Image.Resampling.BICUBIC if recipe.mode == "bicubic" else PIL.Image.Resampling.BILINEAR
    work = {
        "pil": lambda: [PIL.Image.fromarray(one).resize((width, height), pillow) for one in frames],
        "resize": lambda: F.interpolate(pixels, size=(height, width), mode=recipe.mode, antialias=True),
        "own": lambda: own(frames),
        "ours": lambda: [prepare(frames[start : start + 6]) for start in range(0, len(frames), 6)],
    }
    return {key: least(one, repeats) / len(frames) * 1000 for key, one in work.items()}


def compare_with_own_video_path(arguments: argparse.Namespace, merged: LinVTProcessor) -> None:
    """From a file to the inputs of a Qwen2-VL, with LinVT and with transformers' own video processor."""
    try:
        from transformers import Qwen2VLVideoProcessor
        from transformers.video_utils import load_video

        video_processor = Qwen2VLVideoProcessor()
    except ImportError as error:
        print(f"\ntransformers' own path for videos is not measured: {str(error).strip().splitlines()[0]}")
        return
    image = LinVTProcessor(merged.base_processor, merged.num_video_tokens, frame_path="image")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        write(Path(path), arguments.count, 720, 1280)

        def theirs() -> Any:
            frames, _ = load_video(path, backend="pyav")
            return video_processor(list(frames), return_tensors="pt", do_sample_frames=False)["pixel_values_videos"]

        ways = {
            "transformers' own video path": theirs,
            "LinVT, frame_path='video', the default": lambda: merged.video_inputs(path, num_frames=arguments.count),
            "LinVT, frame_path='image'": lambda: image.video_inputs(path, num_frames=arguments.count),
        }
        print(f"\n| {arguments.count} frames of 720p, from the file to inputs | patches | CPU s |\n|---|---:|---:|")
        for name, way in ways.items():
            made = way()
            patches = len(made) if isinstance(made, torch.Tensor) else len(made["frame_pixel_values"])
            print(f"| {name} | {patches:,} | {least(way, arguments.repeats):.2f} |", flush=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, frames in (("memory", [256, 1024, 4096, 10_000]), ("large", [64, 256])):
        part = parts.add_parser(name)
        part.add_argument("--frames", type=int, nargs="+", default=frames, help="frames of the videos")
        part.add_argument("--whole", action="store_true", help="read all frames first")
    part = parts.add_parser("preparation")
    part.add_argument("--count", type=int, default=32, help="frames (default: 32)")
    part.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts (default: 3)")
    alone = parts.add_parser("alone")
    for name, kind in (("path", str), ("count", int), ("height", int)):
        alone.add_argument(name, type=kind)
    alone.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    if arguments.part == "alone":
        encode_alone(arguments)
        return
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    if arguments.part == "preparation":
        measure_preparation(arguments)
    elif arguments.part == "memory":
        measure_memory(arguments, 204, 360)
    else:
        measure_memory(arguments, 720, 1280)


if __name__ == "__main__":
    main()
