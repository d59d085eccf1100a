"""
LinVT under DeepSpeed: the script of stage 2 with the configuration for ZeRO-2, in two processes on the CPU.

Needs `pip install deepspeed`, which the package does not. Its operators for the CPU would be compiled first, for
minutes; without them PyTorch's own collectives do the same. accelerate has no backend of its own for DeepSpeed on
a CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from transformers.training_args import TrainingArguments

from promises import QUESTION, user, wrapped
from transformers_linvt.demo.shapes import make_clip, write_clip


pytest.importorskip("deepspeed")

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = ("a cat", "two red cars stand on a road", "rain", "she opens the door")
WITHOUT_COMPILING = """
import os
if "RANK" in os.environ:
    import deepspeed.ops
    deepspeed.ops.__dict__["__compatible_ops__"] = {}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_zero_2_trains_linvt_and_saves_what_loads(tmp_path: Path):
    family = wrapped("llava_phi")
    family.model.save_pretrained(tmp_path / "model", include_base=True)
    family.processor.save_pretrained(tmp_path / "model")
    with (tmp_path / "train.jsonl").open("w") as file:
        for seed, caption in enumerate(CAPTIONS):
            write_clip(tmp_path / f"{seed}.mp4", make_clip("scenes", seed, 4 + seed)[0], scale=1)
            file.write(json.dumps({"video": f"{seed}.mp4", "prompt": "What?", "completion": caption}) + "\n")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_COMPILING)
    command = (
        f"-m accelerate.commands.accelerate_cli launch --config_file {ROOT}/examples/accelerate_configs/"
        f"deepspeed_zero2.yaml --num_processes 2 --mixed_precision no {ROOT}/examples/train_instruct.py "
        f"--model_name_or_path {tmp_path}/model --dataset_name {tmp_path}/train.jsonl --bf16 false --max_steps 2 "
        "--per_device_train_batch_size 1 --num_frames 4 --lora_r 2 --report_to none --logging_steps 1 "
        f"--disable_tqdm true --save_steps 2 --ddp_backend gloo --output_dir {tmp_path}/out"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command.split()], env=environment, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # the state of the optimiser lies divided among the processes: this was ZeRO and no plain data parallelism
    states = sorted(path.name for path in (tmp_path / "out/checkpoint-2").glob("global_step*/*optim_states.pt"))
    assert len(states) == 2 and all(f"zero_pp_rank_{rank}" in name for rank, name in enumerate(states))
    losses = [row["loss"] for row in json.loads((tmp_path / "out/trainer_state.json").read_text())["log_history"][:2]]
    assert all(0 < loss < 20 for loss in losses)
    before, after = AutoModel.from_pretrained(tmp_path / "model"), AutoModel.from_pretrained(tmp_path / "out")
    assert after.config.adapter_subfolder == "lora"
    moved = [
        not torch.equal(weight, dict(after.linvt.named_parameters())[name])
        for name, weight in before.linvt.named_parameters()
    ]
    assert sum(moved) > 0.9 * len(moved)
    inputs = family.inputs(user(family.clip(5), QUESTION))
    with torch.no_grad():
        assert not torch.equal(after(**inputs).logits, before(**inputs).logits)


def test_the_sizes_that_are_left_to_deepspeed_are_those_of_the_language_model(tmp_path: Path):
    settings = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}, "train_batch_size": "auto"}
    config = HfTrainerDeepSpeedConfig(settings)
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    model = wrapped("llava_phi").model
    config.trainer_config_process(arguments)
    config.trainer_config_finalize(arguments, model, 10)
    assert config.config["zero_optimization"]["reduce_bucket_size"] == model.config.hidden_size**2
