"""
The way of somebody new: eight clips, the lines of docs/train.md, both stages, a result that loads from anywhere, is
moved, trained on, pushed, asked by name, and whose card runs.
"""

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel, AutoProcessor, pipeline

from hub_server import TOKEN, HubServer, running_hub
from transformers_linvt import embedded_base_path
from transformers_linvt.demo.shapes import make_clip, write_clip


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # peft 0.21 asks whether checkpointing is on by the old name
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    # huggingface_hub 2.4 uploads large files with an argument that httpx2 is about to rename
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
BASE = "tester/base"
# What a CPU without time adds to the lines of the docs; the last of an option counts.
SMALL = (
    "--use_cpu --dtype float32 --max_steps 2 --num_frames 8 --report_to none --disable_tqdm true --save_strategy no "
    f"--hub_token {TOKEN}"
)
SIZES = "--bottleneck_size 16 --num_heads 2 --num_scorer_layers 1 --num_aggregator_layers 1 --contrastive_size 8"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    yield from running_hub(monkeypatch, tmp_path / "client")


def lines_of_the_docs() -> list[str]:
    """The commands of the two stages, as docs/train.md has them."""
    block = re.search(r"## Stage 1, stage 2, push\n\n```bash\n(.*?)```", (ROOT / "docs/train.md").read_text(), re.S)
    commands = block[1].replace("\\\n", " ").strip().splitlines()
    assert len(commands) == 2 and all(one.startswith("python examples/") for one in commands)
    return [
        one.replace("Qwen/Qwen2-VL-2B-Instruct", BASE).replace("me/linvt-instructed", "tester/linvt-instructed")
        for one in commands
    ]


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line `python examples/...` in this process."""
    path, *arguments = shlex.split(command)[1:]
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    module.main(*module.make_parser().parse_args_and_config())


def draw_clips(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines: dict[str, list[str]] = {"align": [], "instruct": []}
    for seed in range(8):
        frames, questions = make_clip("needle", seed, num_frames=8)
        write_clip(folder / f"{seed}.mp4", frames)
        row = f'{{"video": "{seed}.mp4", "prompt": "%s", "completion": "%s"}}'
        lines["align"].append(row % ("Describe the video.", f"clip number {seed}"))
        lines["instruct"].append(row % questions[0])
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


def check_card_runs(card: str, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of a card, as it stands there, in a folder with a clip.mp4."""
    code = re.search(r"```python\n(.*?)```", card, re.S)[1].replace("path/to/this/folder", place)
    capsys.readouterr()
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_from_eight_clips_to_a_model_on_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    api = HfApi(token=TOKEN)
    api.create_repo(BASE)
    api.upload_folder(repo_id=BASE, folder_path=embedded_base_path())
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=BASE)
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    draw_clips(work / "clips")
    elsewhere.mkdir()
    monkeypatch.chdir(work)
    align, instruct = lines_of_the_docs()
    run(f"{align} {SMALL} {SIZES}", monkeypatch)
    run(f"{instruct} {SMALL} --lora_r 2", monkeypatch)

    monkeypatch.chdir(elsewhere)
    shown = work / "clips" / "0.mp4"
    (elsewhere / "clip.mp4").write_bytes(shown.read_bytes())
    found = AutoModel.from_pretrained(work / "linvt-instructed")
    check_card_runs((work / "linvt-instructed" / "README.md").read_text(), str(work / "linvt-instructed"), capsys)
    (work / "linvt-instructed").rename(tmp_path / "moved")
    moved = AutoModel.from_pretrained(tmp_path / "moved")
    processor = AutoProcessor.from_pretrained(tmp_path / "moved")
    messages = [
        {"role": "user", "content": [{"type": "video", "path": str(shown)}, {"type": "text", "text": "What?"}]}
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", num_frames=8
    )
    with torch.no_grad():
        assert torch.equal(moved(**inputs).logits, found(**inputs).logits)

    data = work / "clips" / "instruct.jsonl"
    run(
        f"python examples/train_instruct.py --model_name_or_path {tmp_path / 'moved'} --dataset_name {data} "
        f"--per_device_train_batch_size 2 --output_dir more {SMALL}",
        monkeypatch,
    )
    more = AutoModel.from_pretrained("more")
    assert more.peft_config["default"].r == 2
    assert not torch.equal(more(**inputs).logits, found(**inputs).logits)

    ask = pipeline("video-question-answering", model="tester/linvt-instructed", device="cpu")
    (result,) = ask(video="clip.mp4", question="What happens?")
    assert isinstance(result["answer"], str) and ask.model.config.adapter_subfolder == "lora"
    card = ModelCard.load("tester/linvt-instructed")
    assert card.data.license == "mit" and card.data.base_model == BASE
    check_card_runs(card.text, "", capsys)
