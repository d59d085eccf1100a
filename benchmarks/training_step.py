"""
What a training step costs without a cache of frame tokens and, from the second epoch on, with one: both in one run.

    python benchmarks/training_step.py --model embedded
    python benchmarks/training_step.py --model embedded --stage 1 --num-frames 8 16 32 64
    python benchmarks/training_step.py --model scaled-qwen2-vl --batch-size 2 --num-frames 8
    python benchmarks/training_step.py --model CHECKPOINT --data clips/instruct.jsonl

The steps of the trainer itself, of stage 1 (LinVT alone, captions and contrast) or 2 (LinVT and LoRA), without data
loader workers. Both sides take the same batches in turn. `embedded` is the model in the package; `scaled-qwen2-vl` is
of the shape of a Qwen2-VL, scaled down, with random weights. Without `--data` the videos are H.264 files of
256 x 256 pixels, of twice as many frames as are sampled, that are drawn here. Medians over the steps, of CPU seconds,
or on a GPU of seconds.
"""

import argparse
import json
import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from scaled_models import scaled_qwen2_vl

from transformers_linvt import (
    LinVTContrastiveConfig,
    LinVTContrastiveTrainer,
    LinVTForVideoQA,
    LinVTProcessor,
    LinVTSFTConfig,
    LinVTSFTTrainer,
    embedded_model_path,
    load_video_dataset,
    lora_config,
)
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.training.lora import unwrap


SIDES = ("without", "with cache")


class Clock:
    """Seconds by name, one entry per step: of this process's CPU, or on a GPU those that pass."""

    def __init__(self, device: torch.device) -> None:
        self.is_gpu, self.seconds = device.type == "cuda", defaultdict(list)

    def measure(self, name: str, call: Callable[[], Any]) -> Any:
        """What `call` returns; the time it took goes under `name`."""
        start = self._now()
        result = call()
        self.seconds[name].append(self._now() - start)
        return result

    def _now(self) -> float:
        if not self.is_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def load(name: str) -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """A model without its adapter, which the trainer makes anew, and its processor."""
    if name == "scaled-qwen2-vl":
        return scaled_qwen2_vl()
    path = embedded_model_path() if name == "embedded" else name
    return LinVTForVideoQA.from_pretrained(path, adapter_subfolder=None), LinVTProcessor.from_pretrained(path)


def draw_clips(folder: Path, count: int, num_frames: int) -> Path:
    """A jsonl of `count` clips with a question each, beside them."""
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for seed in range(count):
            frames, questions = make_clip("scenes", seed, num_frames)
            write_clip(folder / f"{seed}.mp4", frames)
            prompt, completion = questions[0][:2]
            file.write(json.dumps({"video": f"{seed}.mp4", "prompt": prompt, "completion": completion}) + "\n")
    return folder / "train.jsonl"


def make_trainer(
    arguments: argparse.Namespace, num_frames: int, data: Any, folder: str, cache: str | None
) -> LinVTSFTTrainer:
    """A trainer around a fresh model."""
    model, processor = load(arguments.model)
    model.config.includes_base = True  # a base with random weights has no name
    settings = {
        "per_device_train_batch_size": arguments.batch_size, "num_frames": num_frames, "report_to": "none",
        "use_cpu": not torch.cuda.is_available(), "cache_frame_tokens": cache,
    }  # fmt: skip
    given = {"train_dataset": data, "processing_class": processor}
    if arguments.stage == 1:
        trainer: LinVTSFTTrainer = LinVTContrastiveTrainer(model, LinVTContrastiveConfig(folder, **settings), **given)
    else:
        lora = lora_config(model, lora_dropout=0.0)
        trainer = LinVTSFTTrainer(model, LinVTSFTConfig(folder, **settings), peft_config=lora, **given)
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer()
    return trainer


def take_step(trainer: LinVTSFTTrainer, rows: list[dict], clock: Clock, side: str) -> None:
    """One step, as the trainer makes it."""
    batch = clock.measure(f"{side}: read, prepare, tokenize", lambda: trainer.data_collator(rows))
    items = trainer._get_num_items_in_batch([batch], trainer.args.device)

    def step() -> None:
        trainer.training_step(trainer.model, batch, items)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    clock.measure(f"{side}: the rest of the step", step)


def measure_vision(trainer: LinVTSFTTrainer, rows: list[dict], clock: Clock) -> None:
    """What of a step without a cache is the vision side."""
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    frames = {name.removeprefix("frame_"): batch[name] for name in batch if name.startswith("frame_")}
    counts, backbone = batch["frames_per_video"].tolist(), unwrap(trainer.model).model
    with torch.no_grad(), trainer.accelerator.autocast():
        clock.measure("without: of it the vision side", lambda: backbone.encode_videos(counts, frames))


def measure(arguments: argparse.Namespace, num_frames: int, folder: Path) -> dict[str, float]:
    """Median seconds by name."""
    data = arguments.data
    if data is None:
        data = draw_clips(folder, arguments.batch_size * 2, 2 * num_frames)
    dataset = load_video_dataset(data).filter(lambda row: row["video"] is not None)
    folders = (None, str(folder / "cache"))
    trainers = [make_trainer(arguments, num_frames, dataset, str(folder / "out"), cache) for cache in folders]
    clock = Clock(trainers[0].args.device)
    for step in range(arguments.steps + 1):
        start = step * arguments.batch_size
        rows = [dataset[i % len(dataset)] for i in range(start, start + arguments.batch_size)]
        trainers[1]._prepare_inputs(trainers[1].data_collator(rows))  # the first epoch
        for side, trainer in zip(SIDES, trainers, strict=True):
            take_step(trainer, rows, clock, side)
        measure_vision(trainers[0], rows, clock)
        if step == 0:
            clock.seconds.clear()  # it warms up
    return {name: median(values) for name, values in clock.seconds.items()}


def report(seconds: dict[str, float]) -> list[str]:
    """The lines of the table, and how many times faster a step is."""
    totals = {
        side: seconds[f"{side}: read, prepare, tokenize"] + seconds[f"{side}: the rest of the step"] for side in SIDES
    }
    lines = []
    for side in SIDES:
        lines.append(f"{side:40} {totals[side]:8.3f} s")
        for name, value in seconds.items():
            if name.startswith(f"{side}: "):
                lines.append(f"  {name.removeprefix(f'{side}: '):38} {value:8.3f} s  {value / totals[side]:6.1%}")
    return [*lines, f"A step is {totals[SIDES[0]] / totals[SIDES[1]]:.2f} times faster from the second epoch on."]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, scaled-qwen2-vl, or a checkpoint")
    parser.add_argument("--data", help="a jsonl; drawn clips by default")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--stage", type=int, choices=(1, 2), default=2)
    parser.add_argument("--num-frames", type=int, nargs="+", default=[16], help="one measurement for each")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    print(f"{device}, torch {torch.__version__}, {arguments.threads} threads, stage {arguments.stage}")
    for num_frames in arguments.num_frames:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(arguments, num_frames, Path(folder))
        print(f"{arguments.model}, {arguments.batch_size} videos of {num_frames} frames a step")
        print("\n".join(report(seconds)), flush=True)


if __name__ == "__main__":
    main()
