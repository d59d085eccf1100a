"""
The code that travels with a checkpoint, in a process where the package is not installed: a pipeline by the folder's
name alone, and two checkpoints with code of two versions beside each other.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, pipeline

from promises import QUESTION, wrapped


# Each folder is called "linvt", as checkpoints of two people are.
WITHOUT_THE_PACKAGE = """
import os, sys
sys.modules["transformers_linvt"] = None  # importing it fails, wherever it is installed
import numpy as np, torch
from transformers import AutoModel, pipeline
torch.set_num_threads(1)
frames = np.load("frames.npy")

def check(folder, version, answer):
    ask = pipeline(model=folder, trust_remote_code=True, device="cpu", max_new_tokens=3)
    copy = type(ask).__module__.rpartition(".")[0]
    assert copy.startswith("transformers_modules.linvt."), copy
    for part in (ask.model, ask.processor, ask.model.config):  # one copy of the code for all, so that types agree
        assert type(part).__module__.rpartition(".")[0] == copy, (type(part), copy)
    assert sys.modules[copy + ".tokenizer_significance"].VERSION == version
    (result,) = ask(video=frames, question=sys.argv[1])
    assert result["answer"] == answer, (result["answer"], answer)
    features = ask.model.encode_video(**ask.processor.video_inputs(frames))
    assert ask(video=features, question=sys.argv[1])[0]["answer"] == answer
    (lost,) = ask(video="missing.mp4", question=["a"], on_error="record")
    assert lost["error"].startswith("missing.mp4 does not exist")
    return ask

asked = {version: check(f"{version}/linvt", version, sys.argv[2]) for version in ("old", "new")}
assert type(asked["old"]) is not type(asked["new"])
check("old/linvt", "old", sys.argv[2])
asked["old"].model.save_pretrained("third/linvt", include_base=True)
asked["old"].processor.save_pretrained("third/linvt")
assert sorted(os.listdir("third/linvt/code")) == sorted(os.listdir("old/linvt/code"))
assert not [name for name in os.listdir("third/linvt") if name.endswith(".py")]
check("third/linvt", "old", sys.argv[2])
print("asked")
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two checkpoints that differ in one line of their code, a clip, and the answer of the installed package."""
    folder, family = tmp_path_factory.mktemp("checkpoints"), wrapped("llava_phi")
    for version in ("old", "new"):
        family.model.save_pretrained(folder / version / "linvt", include_base=True)
        family.processor.save_pretrained(folder / version / "linvt")
        with (folder / version / "linvt" / "code" / "tokenizer_significance.py").open("a") as file:
            file.write(f"\nVERSION = {version!r}\n")
    frames = family.clip(5).frames
    np.save(folder / "frames.npy", frames)
    ask = pipeline("video-question-answering", model=str(folder / "old/linvt"), device="cpu", max_new_tokens=3)
    return folder, ask(video=frames, question=QUESTION)[0]["answer"]


@pytest.mark.timeout(300)
def test_a_pipeline_asks_by_the_name_alone_and_two_versions_stay_apart(folders: tuple[Path, str]):
    folder, answer = folders
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, QUESTION, answer],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "asked"


def test_the_installed_package_uses_its_own_pipeline(folders: tuple[Path, str]):
    """Nobody who has the package is asked to trust the code of a checkpoint."""
    config = AutoConfig.from_pretrained(folders[0] / "old/linvt")
    assert not hasattr(config, "custom_pipelines")
    for options in ({}, {"trust_remote_code": True}):
        ask = pipeline("video-text-to-text", model=str(folders[0] / "old/linvt"), device="cpu", **options)
        assert type(ask).__module__.startswith("transformers_linvt.")
