"""
One training step, in as many processes as this is started in; writes the gradients. Started by test_distributed.py.

    python -m torch.distributed.run --nproc-per-node 2 distributed_program.py STAGE HOW FOLDER

STAGE: `align` (next-token and contrastive loss) or `instruct` (LoRA). HOW: `trainer` runs `trainer.train()`, which is
data parallel in several processes; `fsdp2` shards the model as accelerate does it on GPUs, where it falls back to data
parallelism on a CPU. FOLDER holds the model and the clips.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from accelerate import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from transformers_linvt import (
    LinVTContrastiveConfig,
    LinVTContrastiveTrainer,
    LinVTForVideoQA,
    LinVTProcessor,
    LinVTSFTConfig,
    LinVTSFTTrainer,
    load_video_dataset,
    lora_config,
)


BATCH = 6


class Gradients(TrainerCallback):
    """Keeps the gradients of the step, as the optimiser is about to use them."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.found = gradients_of(kwargs["model"])


def gradients_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """By name, without what wraps the model, and whole where they are sharded."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            found[name.removeprefix("module.")] = grad.detach().clone()
    return found


def make_trainer(stage: str, folder: Path, gradients: Gradients) -> LinVTSFTTrainer:
    """A trainer whose step over all processes has `BATCH` examples."""
    torch.manual_seed(0)
    model = LinVTForVideoQA.from_pretrained(folder)
    shared = {
        "model": model,
        "train_dataset": load_video_dataset(folder / "train.jsonl"),
        "processing_class": LinVTProcessor.from_pretrained(folder),
        "callbacks": [gradients],
    }
    arguments = {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_frames": 4,
    }
    if cache := os.environ.get("FRAME_TOKENS"):
        arguments |= {"cache_frame_tokens": cache, "cache_frame_tokens_dtype": "auto"}
    if stage == "align":
        return LinVTContrastiveTrainer(args=LinVTContrastiveConfig(contrastive_size=8, **arguments), **shared)
    return LinVTSFTTrainer(
        args=LinVTSFTConfig(**arguments), peft_config=lora_config(model, r=3, lora_dropout=0.0), **shared
    )


def sharded_step(trainer: LinVTSFTTrainer) -> dict[str, torch.Tensor]:
    """The same step with every parameter sharded over the processes."""
    rank, world = distributed.get_rank(), distributed.get_world_size()
    size = BATCH // world
    rows = [trainer.train_dataset[index] for index in range(rank * size, (rank + 1) * size)]
    trainer.accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
    )
    model = fsdp2_prepare_model(trainer.accelerator, trainer.model)
    units = sum(isinstance(module, FSDPModule) for module in model.modules())
    assert units > 4, f"{units} units: the blocks were not sharded one by one"
    model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer.data_collator(rows)
    items = trainer._get_num_items_in_batch([batch], trainer.args.device)
    trainer.compute_loss(model, batch, num_items_in_batch=items).backward()
    return gradients_of(model)


def main(stage: str, how: str, folder: Path) -> None:
    """Run, and let the first process write."""
    torch.set_num_threads(1)
    gradients = Gradients()
    trainer = make_trainer(stage, folder, gradients)
    if how == "fsdp2":
        gradients.found = sharded_step(trainer)
    else:
        trainer.train()
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if world == 1 or distributed.get_rank() == 0:
        torch.save(gradients.found, folder / f"{stage}-{how}-{world}.pt")
    if world > 1:
        distributed.barrier()
        # Taking the trainer down hung in one run of 16 (torch 2.13, gloo), after `main`. What is asked for is written.
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
