"""
Where the time of a training step goes: decoding, tokenizing, vision tower, LinVT, language model, backward.

    python benchmarks/training_step.py CHECKPOINT --data clips/instruct.jsonl [--threads 2]

Takes the steps of the trainer itself, one batch after the other, without data loader workers; medians over the steps.
A GPU is used where there is one.
"""

import argparse
import platform
import time
from collections import defaultdict
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_linvt import LinVTSFTConfig, LinVTSFTTrainer, load_video_dataset, lora_config


class Clock:
    """Seconds by name, one entry per step."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, defaultdict(list)

    def measure(self, name: str, call: Any) -> Any:
        """What `call` returns; the time it took goes under `name`."""
        self._wait()
        start = time.perf_counter()
        result = call()
        self._wait()
        self.seconds[name].append(time.perf_counter() - start)
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure_step(trainer: LinVTSFTTrainer, rows: list[dict], clock: Clock, optimizer: torch.optim.Optimizer) -> None:
    """One step, its pieces one by one, and the whole."""
    model, collator = trainer.model, trainer.data_collator
    inner = model.get_base_model()
    read = {name: value for name, value in collator.sampling.items() if value is not None}
    paths = [row["video"] for row in rows if row.get("video")]
    clock.measure("decode", lambda: [trainer.processing_class.read_video(path, **read) for path in paths])
    batch = trainer._prepare_inputs(clock.measure("collate, with decode", lambda: collator(rows)))
    frames = {name.removeprefix("frame_"): batch[name] for name in batch if name.startswith("frame_")}
    counts = batch["frames_per_video"].tolist()
    with torch.no_grad(), trainer.accelerator.autocast():
        encoded = clock.measure("vision tower", lambda: inner.model.encode_videos(counts, frames))
        clock.measure("LinVT", lambda: inner.model.condense(encoded))
        rest = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        for name in ("video_ids", "caption_ids", "labels"):
            rest.pop(name, None)
        clock.measure("forward, all of it", lambda: model(**rest))
    items = trainer._get_num_items_in_batch([batch], trainer.args.device)

    def step() -> None:
        trainer.training_step(model, dict(batch), items)
        optimizer.step()
        optimizer.zero_grad()

    clock.measure("step without collating", step)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = AutoModelForImageTextToText.from_pretrained(arguments.checkpoint)
    dataset = load_video_dataset(arguments.data).filter(lambda row: row["video"] is not None)
    config = LinVTSFTConfig(
        "outputs/step", per_device_train_batch_size=arguments.batch_size, num_frames=arguments.num_frames,
        report_to="none", use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = LinVTSFTTrainer(
        model,
        config,
        train_dataset=dataset,
        processing_class=AutoProcessor.from_pretrained(arguments.checkpoint),
        peft_config=lora_config(model, lora_dropout=0.0),
    )
    trainer.current_gradient_accumulation_steps = 1
    optimizer, clock = trainer.create_optimizer(), Clock(trainer.args.device)
    for step in range(arguments.steps + 1):
        if step == 1:
            clock.seconds.clear()  # the first one warms up
        start = step * arguments.batch_size
        measure_step(
            trainer, [dataset[i % len(dataset)] for i in range(start, start + arguments.batch_size)], clock, optimizer
        )
    seconds = {name: median(values) for name, values in clock.seconds.items()}
    forward, step = seconds["forward, all of it"], seconds["step without collating"]
    total = seconds["collate, with decode"] + step
    print(
        f"machine: {platform.machine()}, {trainer.args.device}, torch {torch.__version__}, {arguments.threads} threads"
    )
    print(f"{arguments.batch_size} videos of {arguments.num_frames} frames: {total:.2f} s per step")
    shares = {
        "decode": seconds["decode"],
        "tokenize and preprocess": seconds["collate, with decode"] - seconds["decode"],
        "vision tower": seconds["vision tower"],
        "LinVT, forward": seconds["LinVT"],
        "language model, forward": forward - seconds["vision tower"] - seconds["LinVT"],
        "backward and optimiser": step - forward,
    }
    for name, value in shares.items():
        print(f"  {name:24} {value:6.2f} s  {100 * value / total:5.1f} %")


if __name__ == "__main__":
    main()
