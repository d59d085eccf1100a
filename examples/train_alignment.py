# /// script
# dependencies = ["transformers-linvt[training]"]
# ///
"""
Stage 1, alignment: teach a LinVT to condense videos, with captions. The base stays frozen; LinVT alone moves.

The loss is the next-token loss of the caption plus a symmetric InfoNCE loss between videos and captions.

Own data is a folder of clips and a jsonl with a line per clip:

    {"video": "clip.mp4", "prompt": "Describe the video.", "completion": "A dog digs a hole."}

One GPU (or a CPU, with `--use_cpu`):

    python examples/train_alignment.py --model_name_or_path Qwen/Qwen2-VL-2B-Instruct --dtype bfloat16 \
        --dataset_name clips/align.jsonl --num_frames 32 --per_device_train_batch_size 16 \
        --learning_rate 1e-4 --output_dir linvt-aligned

Several GPUs, one after the other DDP, FSDP2 and DeepSpeed:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_alignment.py ...
    accelerate launch --config_file examples/accelerate_configs/fsdp2.yaml examples/train_alignment.py ...
    accelerate launch --config_file examples/accelerate_configs/deepspeed_zero2.yaml examples/train_alignment.py ...

Several nodes, on each of them with its own `--machine_rank`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml --num_machines 2 --num_processes 16 \
        --machine_rank 0 --main_process_ip 10.0.0.1 --main_process_port 29500 examples/train_alignment.py ...

All options can stand in a YAML file (`--config examples/configs/shapes_alignment.yaml`); the command line wins.

Expected memory: the base in its dtype, 16 bytes per parameter of LinVT (weights, gradient, two moments in float32),
and activations; docs/train.md has the formula. A 2-billion base in bfloat16 with a LinVT of 28 million parameters
needs 4.0 GB + 0.45 GB before activations.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from trl import ModelConfig, ScriptArguments, TrlParser

from transformers_linvt import (
    LinVTContrastiveConfig,
    LinVTContrastiveTrainer,
    LinVTForVideoQA,
    LinVTProcessor,
    load_video_dataset,
)


@dataclass
class LinVTArguments(ModelConfig):
    """
    The model: an image-text model to wrap, or a LinVT checkpoint to go on with.

    The fields of [`LinVTConfig`] are for wrapping only; what is not given has the default of `from_base`.
    """

    num_video_tokens: int | None = field(default=None, metadata={"help": "M, tokens a video becomes"})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "k, frame tokens kept before aggregation"})
    pooling_scales: list[int] | None = field(default=None, metadata={"help": "kept tokens per window, each scale"})
    scale_mode: str | None = field(default=None, metadata={"help": "specific, shared or single"})
    bottleneck_size: int | None = field(default=None, metadata={"help": "d, width of the weight branch"})
    num_heads: int | None = field(default=None, metadata={"help": "attention heads of the weight branch"})
    num_scorer_layers: int | None = field(default=None, metadata={"help": "blocks of SVR"})
    num_aggregator_layers: int | None = field(default=None, metadata={"help": "blocks of TTA"})
    init: str | None = field(default=None, metadata={"help": "keyframes, anchored or free"})


LINVT_FIELDS = (
    "num_video_tokens", "num_kept_tokens", "pooling_scales", "scale_mode", "bottleneck_size", "num_heads",
    "num_scorer_layers", "num_aggregator_layers", "init",
)  # fmt: skip


def load_model(arguments: LinVTArguments) -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """A LinVT checkpoint as it is, or an image-text model with a new LinVT around it."""
    name = arguments.model_name_or_path
    loading: dict[str, Any] = {"revision": arguments.model_revision, "dtype": arguments.dtype}
    if arguments.attn_implementation:
        loading["attn_implementation"] = arguments.attn_implementation
    if AutoConfig.from_pretrained(name, revision=arguments.model_revision).model_type == "linvt":
        model = AutoModelForImageTextToText.from_pretrained(name, **loading)
        return model, AutoProcessor.from_pretrained(name, revision=arguments.model_revision)
    fields = {name: getattr(arguments, name) for name in LINVT_FIELDS if getattr(arguments, name) is not None}
    model = LinVTForVideoQA.from_base(name, **loading, **fields)
    return model, LinVTProcessor.from_base(
        name, num_video_tokens=model.config.num_video_tokens, frame_path=model.config.frame_path
    )


def main(script_args: ScriptArguments, training_args: LinVTContrastiveConfig, model_args: LinVTArguments) -> None:
    """Train, save, push."""
    model, processor = load_model(model_args)
    splits = {"train": script_args.dataset_train_split}
    if training_args.eval_strategy != "no":
        splits["test"] = script_args.dataset_test_split
    datasets = {
        name: load_video_dataset(
            script_args.dataset_name,
            split=split,
            streaming=script_args.dataset_streaming,
            video_root=training_args.video_root,
        )
        for name, split in splits.items()
    }
    trainer = LinVTContrastiveTrainer(
        model=model,
        args=training_args,
        train_dataset=datasets["train"],
        eval_dataset=datasets.get("test"),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()  # the log, as trainer_state.json
    trainer.accelerator.print(f"Saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None) -> TrlParser:
    """The options of the script, as TRL's own scripts offer theirs."""
    types = (ScriptArguments, LinVTContrastiveConfig, LinVTArguments)
    if subparsers is not None:
        return subparsers.add_parser("align", help="Stage 1: train a LinVT with captions", dataclass_types=types)
    return TrlParser(types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
