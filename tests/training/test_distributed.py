"""
Two processes learn what one learns: the gradient of a step is that of the joined batch, for both losses, data parallel
and sharded. Captions differ in length from process to process, so that a mean of means would show.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promises import wrapped
from training_runs import ROUNDING, relative_error
from transformers_linvt.demo.shapes import make_clip, write_clip


PROGRAM = Path(__file__).parents[1] / "support" / "distributed_program.py"
CAPTIONS = ("a cat", "two red cars stand on a road", "rain", "she opens the door", "an apple falls from a tree", "fog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with clips beside it."""
    folder = tmp_path_factory.mktemp("distributed")
    family = wrapped("llava_phi")
    family.model.save_pretrained(folder)
    family.processor.save_pretrained(folder)
    with (folder / "train.jsonl").open("w") as file:
        for seed, caption in enumerate(CAPTIONS):
            write_clip(folder / f"{seed}.mp4", make_clip("scenes", seed, 4 + seed)[0], scale=1)
            file.write(json.dumps({"video": f"{seed}.mp4", "prompt": "What?", "completion": caption}) + "\n")
    return folder


def gradients(folder: Path, stage: str, how: str, processes: int, **variables: str) -> dict[str, torch.Tensor]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    command = [sys.executable, *(launcher if processes > 1 else []), str(PROGRAM), stage, how, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1", "CI": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / f"{stage}-{how}-{processes}.pt", weights_only=True)


@pytest.fixture(scope="module", params=["align", "instruct"])
def joined(request: pytest.FixtureRequest, folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """The stage, and the gradients of the whole batch in one process."""
    found = gradients(folder, request.param, "trainer", 1)
    assert len(found) > 20 and all(bool(gradient.isfinite().all()) for gradient in found.values())
    return request.param, found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["trainer", "fsdp2"])
def test_two_processes_have_the_gradient_of_the_joined_batch(folder: Path, joined: tuple, how: str):
    stage, expected = joined
    found = gradients(folder, stage, how, 2)
    found = {name: value for name, value in found.items() if value.any() or name in expected}  # shards of zeros
    assert relative_error(found, expected) < ROUNDING


@pytest.mark.timeout(300)
def test_a_gather_without_a_gradient_would_be_noticed(folder: Path, joined: tuple, tmp_path: Path):
    """The control: the same step with detached negatives is off by far more than rounding."""
    stage, expected = joined
    if stage != "align":
        pytest.skip("the loss of stage 2 gathers nothing")
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.distributed.nn.functional as f, torch, torch.distributed as d\n"
        "def gather(x):\n"
        "    parts = [torch.empty_like(x) for _ in range(d.get_world_size())]\n"
        "    d.all_gather(parts, x.detach().contiguous())\n"
        "    parts[d.get_rank()] = x\n"
        "    return parts\n"
        "f.all_gather = gather\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    assert relative_error(gradients(folder, stage, "trainer", 2, PYTHONPATH=path), expected) > 0.01


@pytest.mark.timeout(300)
def test_two_processes_share_a_cache_of_frame_tokens(folder: Path, joined: tuple, tmp_path: Path):
    """The first run writes, both processes at once; the second finds every video there."""
    stage, expected = joined
    if stage != "instruct":
        pytest.skip("one stage shows it")
    kept = []
    for _ in range(2):
        found = gradients(folder, stage, "trainer", 2, FRAME_TOKENS=str(tmp_path / "cache"))
        assert relative_error(found, expected) < ROUNDING
        kept.append(sorted((path.name, path.stat().st_ino) for path in (tmp_path / "cache").rglob("*.safetensors")))
    assert kept[0] == kept[1] and len(kept[0]) == len(CAPTIONS)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".safetensors"] == []
