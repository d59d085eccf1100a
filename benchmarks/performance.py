"""
What a question about a video costs at the sizes of published models: with LinVT and without it, in one run.

    python benchmarks/performance.py --shapes qwen2-vl-2b --frames 8 32 128 512 --video-tokens 256 --output OUT.jsonl
    python benchmarks/performance.py --table OUT.jsonl

The models have the sizes of published ones and random weights, so nothing is downloaded; time and memory do not depend
on the values. Frames are 640x360, as patches on the device: reading and resizing are not part of it. Five ways to ask
the same model about the same frames are compared:

- `linvt`: frame tokens condensed into M video tokens, every frame encoded as a picture
- `linvt, merged frames`: the same with `frame_path="video"`, for a base whose own video path merges two frames
- `all frames`: the base with every frame as a picture
- `own video path`: the base with the frames as its own kind of video (two frames merge in a Qwen2-VL)
- `fewer frames`: the base with as many frames, evenly spaced, as fit M tokens (at least one, LLaVA-OneVision two)

Columns: visual tokens; seconds until the first token of the answer, and what of it are vision tower and LinVT; the
limit, which is the time that the matrix products alone take at the peak rate that `--peak-tflops` names; seconds per
further token; bytes of the cache of keys and values; bytes at the peak beyond the weights. Medians of `--repeats` runs
after one that warms up. What does not fit the memory says so.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from transformers_linvt import LinVTForVideoQA
from transformers_linvt.measuring import Stopwatch, answer_times, machine_of
from transformers_linvt.measuring import shown_number as shown


QUESTION_TOKENS, ANSWER_TOKENS = 32, 32
HEIGHT, WIDTH = 360, 640
LINVT_ARMS = ("linvt", "linvt, merged frames")


def qwen2_vl(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int) -> Any:
    """The configuration of a Qwen2-VL; its vision tower is the same at every size."""
    text = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": hidden}
    config = transformers.Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
    )
    return transformers.Qwen2VLForConditionalGeneration, config


def llava_onevision() -> Any:
    """The configuration of LLaVA-OneVision 0.5B: SigLIP so400m at 384 pixels, Qwen2 0.5B."""
    text = {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 152_000,
        "max_position_embeddings": 32_768,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 1_152,
        "intermediate_size": 4_304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=151_646,
        video_token_id=151_647,
        image_grid_pinpoints=[[384, 384]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return transformers.LlavaOnevisionForConditionalGeneration, config


def tiny() -> Any:
    """A Qwen2-VL that runs on a processor in seconds, to try the script."""
    kind, config = qwen2_vl(64, 96, 2, 2, 1, 152_000)
    config.text_config.rope_parameters["mrope_section"] = [4, 6, 6]
    config.vision_config.depth, config.vision_config.embed_dim, config.vision_config.num_heads = 2, 32, 2
    return kind, config


SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": tiny,
    "llava-onevision-0.5b": llava_onevision,
    "qwen2-vl-2b": lambda: qwen2_vl(1_536, 8_960, 28, 12, 2, 151_936),
    "qwen2-vl-7b": lambda: qwen2_vl(3_584, 18_944, 28, 28, 4, 152_064),
}


@dataclass
class Row:
    """What one way to ask cost."""

    shape: str
    arm: str
    frames: int
    video_tokens: int
    visual_tokens: int | None = None
    first_token_s: float | None = None
    vision_s: float | None = None
    linvt_s: float | None = None
    limit_s: float | None = None
    per_token_s: float | None = None
    cache_bytes: int | None = None
    peak_bytes: int | None = None
    error: str | None = None
    machine: str = ""


class Base:
    """A base with random weights on the device, and the inputs that it takes for frames."""

    def __init__(self, shape: str, device: torch.device, dtype: torch.dtype) -> None:
        kind, config = SHAPES[shape]()
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device:
                self.model: PreTrainedModel = kind(config).eval()
        finally:
            torch.set_default_dtype(default)
        self.is_grid = config.model_type == "qwen2_vl"
        self.fewest_pictures = 1 if self.is_grid else 2  # LLaVA-OneVision cuts a picture that is alone into tiles
        self.config, self.device, self.dtype = config, device, dtype

    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens of a frame."""
        if self.is_grid:
            return round(HEIGHT / 28), round(WIDTH / 28)
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return side, side

    def tokens_per_frame(self) -> int:
        """N, with the newline token that LLaVA-OneVision puts at the end of a picture of one tile."""
        rows, columns = self.grid()
        return rows * columns + (0 if self.is_grid else 1)

    def pictures(self, count: int) -> dict[str, torch.Tensor]:
        """`count` frames as pictures."""
        rows, columns = self.grid()
        if self.is_grid:
            patches = torch.randn(count * rows * columns * 4, 1_176, device=self.device, dtype=self.dtype)
            grids = torch.tensor([[1, 2 * rows, 2 * columns]] * count, device=self.device)
            return {"pixel_values": patches, "image_grid_thw": grids}
        size = self.config.vision_config.image_size
        pixels = torch.randn(count, 1, 3, size, size, device=self.device, dtype=self.dtype)
        sizes = torch.tensor([[size, size]] * count, device=self.device)
        # several pictures in one question are one tile each
        return {"pixel_values": pixels, "image_sizes": sizes, "batch_num_images": torch.tensor([count])}

    def video(self, count: int) -> tuple[dict[str, torch.Tensor], int]:
        """The same frames as the base's own kind of video, and the number of its tokens."""
        rows, columns = self.grid()
        if self.is_grid:
            steps = (count + 1) // 2
            patches = torch.randn(steps * rows * columns * 4, 1_176, device=self.device, dtype=self.dtype)
            grid = torch.tensor([[steps, 2 * rows, 2 * columns]], device=self.device)
            return {"pixel_values_videos": patches, "video_grid_thw": grid}, steps * rows * columns
        size = self.config.vision_config.image_size
        pixels = torch.randn(1, count, 3, size, size, device=self.device, dtype=self.dtype)
        return {"pixel_values_videos": pixels}, count * ((rows + 1) // 2) * ((columns + 1) // 2) + 1

    def prompt(self, placeholder: int, lengths: Sequence[int]) -> dict[str, torch.Tensor]:
        """A question after runs of placeholders, between the marks that a base counts pictures by."""
        start, end = (151_652, 151_653) if self.is_grid else (9, 9)
        ids = [7]
        for length in lengths:
            ids += [start, *[placeholder] * length, end]
        ids += [11] * QUESTION_TOKENS
        input_ids = torch.tensor([ids], device=self.device)
        prompt = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if self.is_grid:
            kinds = {self.config.image_token_id: 1, self.config.video_token_id: 2}
            prompt["mm_token_type_ids"] = torch.full_like(input_ids, 0).masked_fill(
                input_ids == placeholder, kinds[placeholder]
            )
        return prompt

    def cache_bytes(self, tokens: int) -> int:
        """Keys and values of `tokens` tokens."""
        text = self.config.get_text_config()
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return tokens * text.num_hidden_layers * text.num_key_value_heads * head * 2 * self.dtype.itemsize

    def operations(self, patches: int, tokens: int) -> float:
        """Floating-point operations of the tower's and the language model's matrix products, and of its attention."""
        text = self.config.get_text_config()
        named = dict(self.model.named_parameters())
        tower = sum(p.numel() for name, p in named.items() if "visual" in name or "vision_tower" in name)
        language = sum(p.numel() for name, p in named.items() if "language_model" in name and "embed" not in name)
        attention = 2 * text.num_hidden_layers * text.hidden_size * tokens**2  # half of the square: causal
        return 2.0 * (tower * patches + language * tokens) + attention


def generate_with(model: PreTrainedModel, inputs: dict[str, Any]) -> Callable[..., Any]:
    """`generate()` on these inputs."""
    return lambda **how: model.generate(**inputs, **how)


def linvt_inputs(base: Base, frames: int, num_video_tokens: int) -> dict[str, torch.Tensor]:
    """What [`LinVTProcessor`] would make of a video of random frames."""
    prompt = base.prompt(base.config.image_token_id, [num_video_tokens])
    video_mask = (prompt["input_ids"] == base.config.image_token_id).long()
    question_mask = (prompt["input_ids"] == 11).long()
    if "mm_token_type_ids" in prompt:
        prompt["mm_token_type_ids"] = torch.zeros_like(video_mask)
    pictures = {f"frame_{name}": value for name, value in base.pictures(frames).items() if name != "batch_num_images"}
    times = torch.arange(frames, device=base.device, dtype=torch.float32)
    counts = torch.tensor([frames], device=base.device)
    return {
        **prompt,
        **pictures,
        "video_mask": video_mask,
        "question_mask": question_mask,
        "frames_per_video": counts,
        "video_timestamps": times,
    }


def time_of_condensing(model: LinVTForVideoQA, encoded: Any, watch: Stopwatch) -> float:
    """Seconds for frame tokens to video tokens."""
    return watch.measure(lambda: model.model.condense(encoded))[0]


def measure_linvt(base: Base, row: Row, watch: Stopwatch) -> None:
    """Fill in what LinVT costs."""
    merged = row.arm != "linvt"
    pictures = (row.frames + 1) // 2 if merged else row.frames
    model = LinVTForVideoQA.from_base(
        base.model, num_video_tokens=row.video_tokens, frame_path="video" if merged else "image"
    ).eval()
    inputs = linvt_inputs(base, pictures, row.video_tokens)
    frames = {name.removeprefix("frame_"): inputs[name] for name in inputs if name.startswith("frame_")}
    row.visual_tokens = row.video_tokens
    row.vision_s, _ = watch.measure(lambda: model.model.encode_videos([pictures], frames))
    row.linvt_s = time_of_condensing(model, model.model.encode_videos([pictures], frames), watch)
    row.first_token_s, row.per_token_s, row.peak_bytes = answer_times(
        generate_with(model, inputs), watch, ANSWER_TOKENS
    )


def measure_base(base: Base, row: Row, watch: Stopwatch) -> None:
    """Fill in what the base alone costs, in the way that `row.arm` names."""
    per_frame = base.tokens_per_frame()
    if row.arm == "own video path":
        visuals, row.visual_tokens = base.video(row.frames)
        inputs = base.prompt(base.config.video_token_id, [row.visual_tokens])
    else:
        frames = (
            row.frames
            if row.arm == "all frames"
            else min(row.frames, max(base.fewest_pictures, row.video_tokens // per_frame))
        )
        visuals, row.visual_tokens = base.pictures(frames), frames * per_frame
        inputs = base.prompt(base.config.image_token_id, [per_frame] * frames)
    row.first_token_s, row.per_token_s, row.peak_bytes = answer_times(
        generate_with(base.model, {**inputs, **visuals}), watch, ANSWER_TOKENS
    )


def measure(base: Base, row: Row, watch: Stopwatch, peak_tflops: float | None) -> Row:
    """One row of the table; what does not fit the memory is said in it."""
    try:
        with torch.inference_mode():
            (measure_linvt if row.arm in LINVT_ARMS else measure_base)(base, row, watch)
    except torch.OutOfMemoryError:
        row.error = "does not fit the memory"
        torch.cuda.empty_cache()
        return row
    tokens = 1 + QUESTION_TOKENS + row.visual_tokens
    row.cache_bytes = base.cache_bytes(tokens)
    if peak_tflops:
        patches_per_token = 4 if base.is_grid else 1
        pictures = {"linvt": row.frames, "linvt, merged frames": (row.frames + 1) // 2}.get(row.arm)
        seen = pictures * base.tokens_per_frame() if pictures else row.visual_tokens
        row.limit_s = base.operations(seen * patches_per_token, tokens) / (peak_tflops * 1e12)
    return row


def rows_of(
    base: Base, shape: str, frames: Sequence[int], video_tokens: Sequence[int], most_pictures: int
) -> list[Row]:
    """The rows to measure; the base's own ways do not depend on M."""
    rows = []
    arms = LINVT_ARMS if base.is_grid else LINVT_ARMS[:1]
    for count in frames:
        rows += [Row(shape, arm, count, tokens) for arm in arms for tokens in video_tokens]
        if count <= most_pictures:
            rows += [Row(shape, arm, count, video_tokens[0]) for arm in ("all frames", "own video path")]
        rows += [Row(shape, "fewer frames", count, tokens) for tokens in video_tokens]
    return rows


def table(rows: Sequence[dict]) -> str:
    """Markdown, a table for each shape."""
    lines = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own = [row for row in rows if row["shape"] == shape]
        lines += ["", f"{shape}, random weights, frames of {WIDTH}x{HEIGHT}; {own[0]['machine']}", ""]
        lines += [
            "| frames | way to ask | visual tokens | first token, s | of it vision, s | of it LinVT, ms | limit, s "
            "| further token, ms | cache, MiB | peak beyond weights, GiB |",
            "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for row in own:
            way = (
                f"{row['arm']}, M = {row['video_tokens']}"
                if row["arm"] in (*LINVT_ARMS, "fewer frames")
                else row["arm"]
            )
            if row["error"]:
                lines.append(f"| {row['frames']} | {way} | {row['error']} | | | | | | | |")
                continue
            lines.append(
                f"| {row['frames']} | {way} | {row['visual_tokens']:,} | {shown(row['first_token_s'], 1, 3)} "
                f"| {shown(row['vision_s'], 1, 3)} | {shown(row['linvt_s'], 1e-3, 1)} | {shown(row['limit_s'], 1, 3)} "
                f"| {shown(row['per_token_s'], 1e-3, 1)} | {shown(row['cache_bytes'], 2**20, 1)} "
                f"| {shown(row['peak_bytes'], 2**30, 2)} |"
            )
    return "\n".join(lines).strip()


def main() -> None:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["qwen2-vl-2b"])
    parser.add_argument("--frames", nargs="+", type=int, default=[8, 32, 128])
    parser.add_argument("--video-tokens", nargs="+", type=int, default=[256])
    parser.add_argument("--most-pictures", type=int, default=128, help="frames up to which the base sees all of them")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the device in the precision used, for the limit")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--output", type=Path, help="a file of JSON lines that results are added to")
    parser.add_argument("--table", type=Path, help="print the table of such a file and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for line in arguments.table.read_text(encoding="utf-8").splitlines()]))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    watch = Stopwatch(device, arguments.repeats)
    for shape in arguments.shapes:
        base = Base(shape, device, getattr(torch, arguments.dtype))
        rows = []
        for row in rows_of(base, shape, arguments.frames, arguments.video_tokens, arguments.most_pictures):
            row.machine = f"{machine_of(device)}, {arguments.dtype}"
            rows.append(asdict(measure(base, row, watch, arguments.peak_tflops)))
            if arguments.output:
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
        print(table(rows), flush=True)
        del base
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
