# /// script
# dependencies = ["transformers-linvt[training]"]
# ///
"""
Stage 2, instruction tuning: LinVT and LoRA adapters on the language model learn to answer questions about videos.

Own data is a folder of clips and a jsonl with a line per question:

    {"video": "clip.mp4", "prompt": "What does the dog dig?", "completion": "A hole."}

One GPU (or a CPU, with `--use_cpu`), starting from what stage 1 saved:

    python examples/train_instruct.py --model_name_or_path linvt-aligned --dtype bfloat16 \
        --dataset_name clips/instruct.jsonl --num_frames 32 --per_device_train_batch_size 8 \
        --learning_rate 1e-4 --lora_r 16 --lora_alpha 32 --output_dir linvt-instructed

Several GPUs, one after the other DDP, FSDP2 and DeepSpeed:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_instruct.py ...
    accelerate launch --config_file examples/accelerate_configs/fsdp2.yaml examples/train_instruct.py ...
    accelerate launch --config_file examples/accelerate_configs/deepspeed_zero2.yaml examples/train_instruct.py ...

Several nodes, on each of them with its own `--machine_rank`:

    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml --num_machines 2 --num_processes 16 \
        --machine_rank 0 --main_process_ip 10.0.0.1 --main_process_port 29500 examples/train_instruct.py ...

From a WebDataset, without downloading it first (`mp4` and `json` with prompt and completion in every sample):

    python examples/train_instruct.py --dataset_name "https://example.org/shards/{000..099}.tar" --dataset_streaming \
        --max_steps 10000 ...

Expected memory: as stage 1, plus 16 bytes per parameter of LoRA, plus the activations of the language model, which
LoRA needs; docs/train.md has the formula.

The result is one folder: LinVT's weights, the adapter in `lora/`, a reference to the base.
`AutoModel.from_pretrained` and `pipeline("video-question-answering")` load all of it.
"""

import argparse

from trl import TrlParser

from transformers_linvt import LinVTSFTConfig, LinVTSFTTrainer
from transformers_linvt.training.arguments import (
    LinVTModelConfig,
    LinVTScriptArguments,
    ignore_bias_buffers,
    load_datasets,
    load_model_with_lora,
)


def main(script_args: LinVTScriptArguments, training_args: LinVTSFTConfig, model_args: LinVTModelConfig) -> None:
    """Train, save, push."""
    model, processor, peft_config = load_model_with_lora(
        model_args, trust_remote_code=training_args.trust_remote_code
    )  # an adapter that the checkpoint has is trained on
    ignore_bias_buffers(model, script_args)
    trainer = LinVTSFTTrainer(
        model=model,
        args=training_args,
        processing_class=processor,
        peft_config=peft_config,
        **load_datasets(script_args, training_args),
    )
    trainer.accelerator.print(trainer.what_moves())
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)  # LinVT and lora/ in one folder
    trainer.save_state()  # the log, as trainer_state.json
    trainer.accelerator.print(f"Saved to {training_args.output_dir}.")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    trainer.end()


def make_parser(subparsers: argparse._SubParsersAction | None = None, prog: str | None = None) -> TrlParser:
    """The options of the script, as TRL's own scripts offer theirs."""
    types = (LinVTScriptArguments, LinVTSFTConfig, LinVTModelConfig)
    if subparsers is not None:
        return subparsers.add_parser("instruct", help="Stage 2: LinVT and LoRA with questions", dataclass_types=types)
    return TrlParser(types, prog=prog)


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())
