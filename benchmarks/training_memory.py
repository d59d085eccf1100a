"""
The memory of a LoRA step beside the formula of docs/train.md: each term, their sum, and what a process really takes.

    python benchmarks/training_memory.py --batch-size 2 --num-frames 8

Stage 2 (LinVT and LoRA) of a base of the shape of a Qwen2-VL, scaled down, with random weights in float32 and a
vocabulary of a real size, on the CPU without gradient checkpointing. *Measured* is the peak of resident memory over
two steps, beyond what the process had before it made a model. One thread.
"""

import argparse
import platform
import tempfile
from pathlib import Path

import torch
import transformers
from scaled_models import scaled_qwen2_vl
from streaming import MIB, resident
from training_step import draw_clips
from transformers import Qwen2VLForConditionalGeneration

from transformers_linvt import LinVTForVideoQA, LinVTSFTConfig, LinVTSFTTrainer, load_video_dataset, lora_config


FLOAT = 4  # bytes of a number: float32
OF_LAYER = 17  # activations of a layer of the language model without checkpointing, in its inputs
OF_SCORER = 10  # activations of a block of LinVT's scorer, in its inputs


def make_trainer(arguments: argparse.Namespace, folder: Path) -> LinVTSFTTrainer:
    """A trainer around a base with a large vocabulary."""
    scaled, processor = scaled_qwen2_vl()
    config = scaled.base_vlm.config
    config.text_config.vocab_size = arguments.vocabulary
    model = LinVTForVideoQA.from_base(Qwen2VLForConditionalGeneration(config).eval(), num_video_tokens=64)
    model.config.includes_base = True  # a base with random weights has no name
    data = load_video_dataset(draw_clips(folder, arguments.batch_size * 2, 2 * arguments.num_frames))
    data = data.filter(lambda row: row["video"] is not None)
    settings = LinVTSFTConfig(
        str(folder / "out"), per_device_train_batch_size=arguments.batch_size, num_frames=arguments.num_frames,
        report_to="none", use_cpu=True, max_steps=2, gradient_checkpointing=False, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    return LinVTSFTTrainer(
        model, settings, train_dataset=data, processing_class=processor, peft_config=lora_config(model)
    )


def by_formula(trainer: LinVTSFTTrainer, batch: dict[str, torch.Tensor], vocabulary: int) -> dict[str, int]:
    """Bytes by term, as docs/train.md has them, in float32."""
    model = trainer.model.get_base_model()
    trained = {name: one.numel() for name, one in trainer.model.named_parameters() if one.requires_grad}
    lora = sum(count for name, count in trained.items() if "lora_" in name)
    linvt = sum(trained.values()) - lora
    base, config = sum(one.numel() for one in model.base_vlm.parameters()) - lora, model.config
    text = config.base_config.text_config
    grid = batch["frame_image_grid_thw"]
    tokens = int(grid.prod(1).sum()) // 4
    patches = int(grid[0].prod()) * min(len(grid), config.frames_per_chunk)
    words = batch["input_ids"].numel()
    vision = config.base_config.vision_config
    return {
        "base": FLOAT * base,
        "LinVT": 16 * linvt,
        "PEFT's frozen copy of LinVT": 4 * linvt,
        "LoRA": 16 * lora,
        "pixels of the frames": FLOAT * batch["frame_pixel_values"].numel(),
        "vision tower, a chunk of frames": FLOAT * patches * vision.embed_dim * OF_LAYER,
        "frame tokens": FLOAT * tokens * text.hidden_size * 2,
        "LinVT's activations": FLOAT * tokens * config.bottleneck_size * OF_SCORER * config.num_scorer_layers,
        "language model's activations": FLOAT * words * text.hidden_size * OF_LAYER * text.num_hidden_layers,
        "logits": 3 * FLOAT * words * vocabulary,
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(arguments, Path(folder))
        rows = [trainer.train_dataset[i] for i in range(arguments.batch_size)]
        terms = by_formula(trainer, trainer.data_collator(rows), arguments.vocabulary)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        trainer.train()
    measured, total = resident("VmHWM") - before, sum(terms.values())
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread, float32\n")
    print("| term | MiB |\n|---|---:|")
    for name, num_bytes in terms.items():
        print(f"| {name} | {num_bytes / MIB:,.0f} |")
    print(f"| sum | {total / MIB:,.0f} |\n| measured | {measured / MIB:,.0f} |")
    print(f"| measured / sum | {measured / total:.2f} |")


if __name__ == "__main__":
    main()
