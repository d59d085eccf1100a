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
        --dataset_name clips/align.jsonl --num_frames 32 --per_device_train_batch_size 8 \
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

from trl import TrlParser

from transformers_linvt import LinVTContrastiveConfig, LinVTContrastiveTrainer
from transformers_linvt.training.arguments import (
    LinVTModelConfig,
    LinVTScriptArguments,
    ignore_bias_buffers,
    load_datasets,
    load_model,
)


def main(
    script_args: LinVTScriptArguments, training_args: LinVTContrastiveConfig, model_args: LinVTModelConfig
) -> None:
    """Train, save, push."""
    why = "stage 1 moves LinVT alone; LoRA comes in stage 2 (train_instruct.py)"
    model_args.check_without_lora(why)
    model, processor = load_model(model_args, trust_remote_code=training_args.trust_remote_code)
    ignore_bias_buffers(model, script_args)
    trainer = LinVTContrastiveTrainer(
        model=model, args=training_args, processing_class=processor, **load_datasets(script_args, training_args)
    )
    trainer.accelerator.print(trainer.what_moves())
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.save_state()  # the log, as trainer_state.json
    trainer.accelerator.print(f"Saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None) -> TrlParser:
    """The options of the script, as TRL's own scripts offer theirs."""
    types = (LinVTScriptArguments, LinVTContrastiveConfig, LinVTModelConfig)
    if subparsers is not None:
        return subparsers.add_parser("align", help="Stage 1: train a LinVT with captions", dataclass_types=types)
    return TrlParser(types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
