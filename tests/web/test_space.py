"""The Hugging Face Space in examples/space: its settings fit the package, and `linvt` knows its program."""

import os
import re
import runpy
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from transformers_linvt.cli.arguments import make_parser
from transformers_linvt.serving.running import take_port


ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "examples" / "space"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def settings() -> dict[str, str]:
    """The lines above the text of the Space's README."""
    _, head, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return {name: value.strip().strip('"') for name, value in (line.split(":", 1) for line in head.splitlines())}


def test_its_settings_fit_the_package():
    told = settings()
    assert told["sdk"] == "gradio" and (SPACE / told["app_file"]).is_file()
    (gradio,) = (Requirement(one) for one in PROJECT["optional-dependencies"]["web"] if one.startswith("gradio"))
    assert told["sdk_version"] in gradio.specifier
    assert any(one.endswith(f":: {told['python_version']}") for one in PROJECT["classifiers"])
    (needed,) = map(Requirement, (SPACE / "requirements.txt").read_text().split())
    assert needed.name == PROJECT["name"] and needed.extras <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("model", [None, "me/linvt-mine"])
def test_its_program_is_a_command(monkeypatch: pytest.MonkeyPatch, model: str | None):
    monkeypatch.delenv("LINVT_MODEL", raising=False)
    if model is not None:
        monkeypatch.setenv("LINVT_MODEL", model)
    words = runpy.run_path(str(SPACE / "app.py"))["arguments"]
    arguments = make_parser().parse_args(words)
    assert (arguments.command, arguments.model, arguments.host) == ("web", model, "0.0.0.0")
    assert re.search(r"variable `?LINVT_MODEL`?", (SPACE / "README.md").read_text(encoding="utf-8"))


@pytest.mark.browser
def test_it_shows_the_page():
    pytest.importorskip("gradio")
    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    env = {**os.environ, "PORT": str(port), "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=env) as process:
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
                        assert b"gradio" in response.read()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < until
                    time.sleep(0.5)
        finally:
            process.terminate()
        assert process.wait(60) == 0
