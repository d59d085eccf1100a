"""
The Ray Data job of `examples/`: two workers write the file that `linvt run` writes; one that is killed loses nothing.

Needs `ray[data]`, which nothing else here does: without it these tests are skipped.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from transformers_linvt.cli import main
from transformers_linvt.demo.shapes import make_clip, write_clip


pytest.importorskip("ray.data")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "ray_answer_videos.py"


def kill_a_worker(killed: list[int], done: threading.Event) -> None:
    """Kill the first actor that holds a model, once it is at work."""
    while not done.is_set() and not killed:
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                name = status.read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::MapWorker") and b".submit" in name:
                os.kill(int(status.parent.name), signal.SIGKILL)
                killed.append(int(status.parent.name))
                return
        time.sleep(0.01)


@pytest.mark.parametrize("kills", [False, True])
def test_two_workers_write_what_the_command_writes(tmp_path: Path, kills: bool):
    rows = []
    for seed in range(4):
        frames, questions = make_clip("static", seed, num_frames=4)
        write_clip(tmp_path / f"{seed}.mp4", frames)
        rows += [
            {"id": f"{seed}-{i}", "video": f"{seed}.mp4", "question": one[0]} for i, one in enumerate(questions[:3])
        ]
    rows.insert(5, {"video": "missing.mp4", "question": "Where?"})
    source = tmp_path / "input.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    how = ["--video-root", str(tmp_path), "--num-frames", "3"]
    assert main(["run", str(source), str(tmp_path / "alone.jsonl"), "--device", "cpu", *how]) == 0
    killed: list[int] = []
    done = threading.Event()
    killer = threading.Thread(target=kill_a_worker, args=(killed, done))
    if kills:
        killer.start()
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_ADDRESS": "",
        "RAY_raylet_start_wait_time_s": "300",
    }
    command = [sys.executable, str(SCRIPT), str(source), str(tmp_path / "ray.jsonl"), "--workers", "2", *how]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)
    done.set()
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(killed) == kills
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
