"""Every command of docs/models.md runs, on a small model with random weights in the layout of the one it names."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_molmo import save_stand_in

from published_layouts import VISION, published_aquila, published_internvl, published_mipha, published_xgenmm
from tiny_bases import save_base
from transformers_linvt import cli
from transformers_linvt.bases.conversion import VISION_TOWERS


PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
# What stands for a repository: who writes it into a folder, and the architecture that LinVT has to find around it
STAND_INS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "OpenGVLab/InternVL2-8B": (published_internvl, "internvl"),
    "BAAI/Aquila-VL-2B-llava-qwen": (published_aquila, "llava_onevision"),
    "zhumj34/Mipha-3B": (published_mipha, "linvt_llava"),
    "allenai/Molmo-7B-D-0924": (save_stand_in, "molmo"),
    "Salesforce/xgen-mm-phi3-mini-instruct-interleave-r-v1.5": (published_xgenmm, "linvt_llava"),
}
TINY = {
    "Qwen/Qwen2-VL-7B-Instruct": "qwen2_vl",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "Qwen/Qwen3.6-27B": "qwen3_5",
    "Qwen/Qwen3.6-35B-A3B": "qwen3_5_moe",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "google/gemma-4-E4B-it": "gemma4",
    "google/gemma-3-4b-it": "gemma3",
    "meta-llama/Llama-3.2-11B-Vision-Instruct": "mllama",
    "OpenGVLab/InternVL3_5-8B-HF": "internvl",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": "smolvlm",
    "llava-hf/llava-1.5-7b-hf": "llava",
}


def commands_of_page() -> list[list[str]]:
    """The lines of its shell blocks, as words, one list for each group that belongs together."""
    blocks = PAGE.read_text(encoding="utf-8").split("```bash\n")[1:]
    lines = [shlex.split(line) for block in blocks for line in block.partition("```")[0].splitlines()]
    return [words for words in lines if words[0] != "pip"]


def write_stand_in(name: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    if name in TINY:
        save_base(TINY[name], folder)
    else:
        STAND_INS[name][0](folder)


def test_every_command_makes_linvt_around_the_model_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(VISION_TOWERS, "google/siglip-so400m-patch14-384", VISION)
    options = {"--local-dir", "--trust-remote-code"}
    origins: dict[str, str] = {}  # of a folder, the repository that it was made from
    wrapped: dict[str, str] = {}
    for words in commands_of_page():
        program, command, source, target = [word for word in words if word not in options]
        if program == "hf":
            write_stand_in(source, tmp_path / target)
        elif source not in origins:
            write_stand_in(source, tmp_path / source)
        origins[target] = origins.get(source, source)
        if program == "linvt":
            assert cli.main(words[1:]) == 0, (words, capsys.readouterr().err)
        if command == "wrap":
            wrapped[origins[target]] = json.loads(Path(target, "config.json").read_text())["base_config"]["model_type"]
    assert wrapped == {**TINY, **{name: model_type for name, (_, model_type) in STAND_INS.items()}}


def test_the_page_names_the_six_of_the_paper_and_ten_of_today():
    named = [word for words in commands_of_page() for word in words if "/" in word]
    assert len(named) == len(set(named)) == 16
