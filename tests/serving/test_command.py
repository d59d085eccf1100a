"""`linvt serve` in the shell: what cannot work is refused before a model is read, and a signal ends it cleanly."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from typing import Any

import pytest

from transformers_linvt.cli import main
from transformers_linvt.cli import serving as command
from transformers_linvt.serving.running import take_port


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading one would be a mistake, and the extra counts as installed."""

    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(command, "load", load)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--media-root", "no/such"], "--media-root 'no/such' is no folder"),
        (["--media-root", "/"], "--media-root '/' is the root of the file system"),
        (["--limit", "max_frames=-1"], "is not a number above 0"),
        (["--port", "65536"], "is not a port"),
        (["--max-waiting", "0"], "is not a whole number of 1 or more"),
        (["--allow-domain", "https://example.com/videos"], "without port and path"),
        (["--verbose", "--quiet"], "not allowed with"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_read(
    no_model: None, capsys: pytest.CaptureFixture, options: list[str], words: str
):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    try:
        status = main(["serve", *options])
    except SystemExit as left:
        status = left.code
    told = capsys.readouterr().err
    assert status in (1, 2) and words in told and told.count("\n") == 1


def test_a_port_that_is_taken_is_said_before_a_model_is_read(no_model: None, capsys: pytest.CaptureFixture):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    with take_port("127.0.0.1", 0) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 1
    assert "Another server may run there" in capsys.readouterr().err


def test_the_extra_is_named_where_it_is_missing(
    no_model: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    real = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name == "uvicorn":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["serve"]) == 1
    assert 'pip install "transformers-linvt[serving]"' in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number: int):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    arguments = [sys.executable, "-m", "transformers_linvt.cli", "serve", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        address = None
        for line in process.stderr:
            if found := re.search(r"serves embedded at (\S+)/v1", line):
                address = found[1]
                break
        with urllib.request.urlopen(f"{address}/health", timeout=60) as response:
            assert json.load(response)["status"] == "ok"
        process.send_signal(number)
        assert process.wait(60) == 0 and process.stderr.read() == ""
