"""benchmarks/choosing_frames.py: every way chooses as many different frames, and those that it says it does."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from transformers_linvt import VideoFrames, read_video
from transformers_linvt.demo.clips import write_clip


SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "choosing_frames.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("choosing_frames", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def moment(tmp_path: Path) -> tuple[VideoFrames, str]:
    """24 frames that stand still, but for the 15th."""
    frames = np.full((24, 64, 64, 3), 90, dtype=np.uint8)
    frames[15, 10:40, 10:40] = 240
    path = str(tmp_path / "clip.mp4")
    write_clip(path, frames)
    return read_video(path, num_frames=24), path


def test_every_way_chooses_so_many_different_frames(script: ModuleType, moment: tuple[VideoFrames, str]):
    for way, choose in script.WAYS.items():
        places = choose(*moment, 6)
        assert places == sorted(set(places)) and len(places) == 6, way
        assert places[0] >= 0 and places[-1] < 24, way


def test_what_differs_is_chosen_by_thumbnails_and_missed_by_even_spaces(
    script: ModuleType, moment: tuple[VideoFrames, str]
):
    found = {way: 15 in choose(*moment, 3) for way, choose in script.WAYS.items()}
    assert found["even change"] and found["unlike each other"] and not found["evenly spaced"]


def test_too_few_places_are_filled_up_with_the_farthest(script: ModuleType):
    assert script.distinct([0], 9, 3) == [0, 4, 8]
    assert script.distinct([2, 2, 7], 9, 2) == [2, 7]


def test_what_was_answered_is_not_asked_again(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(script.transformers.utils.logging, "set_verbosity_error", lambda: None)  # other tests hear it

    def run(*more: str) -> tuple[list[str], str]:
        folder = ["diagnostics", "--folder", str(tmp_path), "--clips", "2", "--kinds", "static", "needle"]
        script.main([*folder, "--pool", "4", "--chosen", "2", *more])
        out, err = capsys.readouterr()
        return [line for line in out.splitlines() if not line.startswith("| choosing")], err  # CPU times differ

    whole, progress = run()
    assert "static: 1 of 2 clips" in progress and len([line for line in whole if line.startswith("| needle |")]) == 1
    file = tmp_path / "choosing_frames.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:30], encoding="utf-8")  # as it is when the last line was cut off
    table, told = run("--table")
    assert "needle" in told and not any(line.startswith("| needle |") for line in table)
    asked = []
    with monkeypatch.context() as patched:
        own = script.ask
        patched.setattr(script, "ask", lambda *rest: asked.append(rest[2].number) or own(*rest))
        again, _ = run()
    assert again == whole and asked == [1]
    assert [line.split('"seconds"')[0] for line in file.read_text(encoding="utf-8").splitlines(keepends=True)] == [
        line.split('"seconds"')[0] for line in lines
    ]
    with pytest.raises(SystemExit, match="chosen=2, and now chosen=3"):
        run("--chosen", "3")
