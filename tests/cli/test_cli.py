"""
The command line: what it prints, what it writes, and that every expected failure is one line and an exit status.

Most commands run inside this process, where they are quick; what only a process of its own shows (the exit status,
text of native libraries, a closed pipe) is run as one.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.utils import logging

import transformers_linvt
from transformers_linvt import (
    LinVTError,
    LinVTForVideoQA,
    LinVTProcessor,
    VideoFeatures,
    cli,
    embedded_base_path,
    embedded_model_path,
)
from transformers_linvt.cli.output import in_flags
from transformers_linvt.demo.shapes import COLOURS, SHAPES, make_clip, write_clip
from transformers_linvt.pipeline import progress
from transformers_linvt.video.duplicates import DuplicateFinder


SOURCES = Path(transformers_linvt.__file__).parents[1]
FRAMES, QUESTION = 12, "Is there a red circle?"


@pytest.fixture(scope="module", autouse=True)
def needs_embedded_model() -> None:
    try:
        embedded_model_path()
    except LinVTError as error:
        pytest.skip(f"no embedded model: {error}")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> tuple[str, str, str]:
    """A file, a question about the colour in it, and the right answer."""
    path = str(tmp_path_factory.mktemp("clip") / "clip.mp4")
    frames, questions = make_clip("static", seed=1, num_frames=FRAMES)
    write_clip(path, frames)
    return path, *questions[0]


@pytest.fixture
def linvt(capfd, monkeypatch, tmp_path):
    """Runs a command in an empty folder; returns exit status, stdout and the lines of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as stop:
            status = stop.code
        out, err = capfd.readouterr()
        return status, out, err.splitlines()

    return run


def in_a_process(*words: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "transformers_linvt.cli", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, **options)


# --- ask -------------------------------------------------------------------------------------------------------------


def test_ask_prints_the_answer_and_says_what_the_embedded_model_knows(linvt, clip):
    path, question, answer = clip
    status, out, err = linvt("ask", path, question)
    assert (status, out) == (0, f"{answer}\n")
    assert len(err) == 1 and "coloured shapes and nothing else" in err[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_quiet", [False, True])
def test_quiet_shows_neither_bars_nor_notes(linvt, clip, monkeypatch, is_quiet):
    monkeypatch.setattr(progress, "_SECONDS_BEFORE", 0.0)  # so that reading a short clip is worth a bar, too
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    path, question, answer = clip
    status, out, _ = linvt("ask", path, question, *["--quiet"] * is_quiet)
    written = terminal.getvalue()
    assert status == 0 and out == f"{answer}\n"
    assert ("Encoding" in written, "coloured shapes and nothing else" in written) == (not is_quiet, not is_quiet)
    assert not (is_quiet and written)


def test_ask_prints_every_question_with_its_answer(linvt, clip):
    path, question, answer = clip
    status, out, _ = linvt("ask", path, question, QUESTION)
    lines = out.splitlines()
    assert status == 0 and lines[:3] == [question, f"  {answer}", QUESTION] and len(lines) == 4


def test_ask_json_is_one_object_on_stdout_and_nothing_on_stderr(linvt, clip):
    path, question, answer = clip
    status, out, err = linvt("ask", path, question, QUESTION, "--json", "--num-frames", 5)
    assert (status, err) == (0, [])
    result = json.loads(out)
    assert (result["video"], result["model"]) == (path, "embedded")
    first = result["answers"][0]
    assert (first["question"], first["answer"], first["frames_seen"], first["video_tokens"]) == (
        question, answer, 5, 32
    )  # fmt: skip
    assert first["frame_tokens"] == 5 * 16
    assert "evidence" not in first  # a dozen passes of the language model, which nobody asked for
    status, out, _ = linvt("ask", path, question, "--num-frames", 5, "--json", "--evidence")
    evidence = json.loads(out)["answers"][0]["evidence"]
    assert len(evidence["timestamps"]) == 5
    assert sum(evidence["frame_weights"]) == pytest.approx(1, abs=1e-5)
    assert "evidence_picture" not in json.loads(out)["answers"][0]


def test_ask_takes_several_videos_and_one_bad_one_loses_no_other(linvt, clip, tmp_path):
    path, question, answer = clip
    for name in ("a.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(Path(path).read_bytes())
    (tmp_path / "b.mp4").write_text("<html>Not found</html>")
    status, out, err = linvt("ask", "a.mp4", "b.mp4", "c.mp4", question)
    assert status == 1
    assert out.splitlines() == ["a.mp4", answer, "c.mp4", answer]
    assert any("b.mp4 was not answered: b.mp4 cannot be read" in line for line in err)
    assert err[-1] == "linvt: 1 of 3 videos were not answered."
    status, out, _ = linvt("ask", "a.mp4", "b.mp4", question, QUESTION, "--json")
    first, second = json.loads(out)["videos"]
    assert status == 1 and [one["answer"] for one in second["answers"]] == [None, None]
    assert (first["video"], first["answers"][0]["answer"]) == ("a.mp4", answer)
    status, out, _ = linvt("ask", "a.mp4", "c.mp4", question, "--evidence", "out.png", "--num-frames", 3)
    assert status == 0 and {"out-1.png", "out-2.png"} < {file.name for file in tmp_path.iterdir()}


def test_an_empty_answer_is_said(linvt, clip, monkeypatch):
    monkeypatch.setattr(cli.asking, "load", lambda *model, **how: lambda **given: [{"question": "?", "answer": ""}])
    assert linvt("ask", clip[0], "Who?", "--model", "m")[1] == "(the answer is empty)\n"


def test_encode_writes_what_ask_takes(linvt, clip, tmp_path):
    path, question, answer = clip
    status, out, err = linvt("encode", path, "clip.safetensors", "--num-frames", 6)
    assert (status, err) == (0, []) and "clip.safetensors: 6 frames, 96 frame tokens in" in out
    assert [file.name for file in tmp_path.iterdir()] == ["clip.safetensors"]
    status, out, _ = linvt("ask", "clip.safetensors", question, QUESTION, "--json", "--evidence")
    first = json.loads(out)["answers"][0]
    assert (status, first["answer"], first["frames_seen"]) == (0, answer, 6)
    assert len(first["evidence"]["timestamps"]) == 6
    base = embedded_base_path()
    assert linvt("wrap", base, "other", "--num-video-tokens", 16, "--num-heads", 2, "--bottleneck-size", 16)[0] == 0
    status, _, err = linvt("ask", "clip.safetensors", question, "--model", "other")
    assert status == 1 and "encoded by another model" in err[0]


def test_repeats_are_encoded_once_as_the_command_says(linvt, tmp_path):
    grey = np.repeat([60, 90, 120, 150, 180], [4, 2, 3, 1, 2]) + np.arange(FRAMES) % 2  # held, but for the last level
    frames = np.broadcast_to(grey.astype(np.uint8)[:, None, None, None], (FRAMES, 64, 64, 3))
    write_clip("slides.mp4", np.ascontiguousarray(frames))
    for given, expected in (("8", 5), ("no", FRAMES)):
        assert linvt("encode", "slides.mp4", "v.safetensors", "--skip-duplicate-frames", given)[0] == 0
        assert VideoFeatures.load("v.safetensors").num_encoded_frames == expected
        # how it was made is in the file: no option of the command that asks
        assert linvt("ask", "v.safetensors", QUESTION)[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        "ask CLIP Who?", "run rows.jsonl out.jsonl", "inspect CLIP out.png",
        "eval --diagnostics static --frames 5 --clips 1",
    ],
)  # fmt: skip
def test_which_repeats_are_left_out_reaches_the_frames(linvt, clip, tmp_path, monkeypatch, command):
    row = {"id": "a", "video": clip[0], "question": QUESTION}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    found, make = [], DuplicateFinder.__init__
    monkeypatch.setattr(
        DuplicateFinder, "__init__", lambda self, levels: (found.append(levels), make(self, levels))[1]
    )
    words = [clip[0] if word == "CLIP" else word for word in command.split()]
    assert linvt(*words, "--skip-duplicate-frames", 7)[0] == 0
    assert found and set(found) == {7.0}


def test_a_folder_remembers_videos_between_commands(linvt, clip, tmp_path, monkeypatch):
    path, question, answer = clip
    assert linvt("ask", path, question, "--cache-dir", "cache")[1] == f"{answer}\n"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    encoding = "transformers_linvt.model.modeling_linvt.LinVTForVideoQA.encode_video"
    monkeypatch.setattr(encoding, lambda *args, **kwargs: pytest.fail("it was encoded again"))
    assert linvt("ask", path, question, "--cache-dir", "cache")[1] == f"{answer}\n"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("num_frames=2 and fps=1.0 exclude each other", "--num-frames 2 and --fps 1.0 exclude each other"),
        ("Pass allow_urls=True.", "Pass --allow-urls."),
        ("pass limits=VideoLimits(max_bytes=...).", "pass --limit max_bytes=...."),
        ("https://example.com/?fps=3 and the_fps=2 stay", "https://example.com/?fps=3 and the_fps=2 stay"),
        ("num_video_tokens=2 stays where no option has it", "num_video_tokens=2 stays where no option has it"),
        ("video_backend='pyav' reads it", "--video-backend 'pyav' reads it"),
    ],
)
def test_arguments_are_named_as_flags(message, told):
    names = ("num_frames", "fps", "allow_urls", "limits", "video_backend")
    assert in_flags(message, names) == told


@pytest.mark.parametrize("kind", ["static", "scenes"])
def test_ask_is_right_about_colour_and_shape(linvt, tmp_path, kind):
    """The first three clips of the kind, none picked; their first questions are the colour's and the shape's."""
    found = {}
    for seed in range(3):
        frames, questions = make_clip(kind, seed=seed, num_frames=FRAMES)
        write_clip(tmp_path / "clip.mp4", frames)
        known = [(text, answer) for text, answer in questions if answer in {*COLOURS, *SHAPES}]
        assert {answer in COLOURS for _, answer in known} == {True, False}
        status, out, _ = linvt("ask", "clip.mp4", *(text for text, _ in known), "--json")
        assert status == 0
        found[seed] = [(one["question"], one["answer"]) for one in json.loads(out)["answers"]], known
    assert {seed: got for seed, (got, _) in found.items()} == {seed: known for seed, (_, known) in found.items()}


def test_ask_draws_the_evidence_of_every_question(linvt, clip, tmp_path):
    path, question, _ = clip
    status, out, _ = linvt("ask", path, question, "--evidence", "one.png", "--num-frames", 4)
    assert status == 0 and "one.png" in out
    assert linvt("ask", path, question, QUESTION, "--evidence", "two.png", "--num-frames", 4)[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.png", "two-1.png", "two-2.png"]
    for file in tmp_path.iterdir():
        with Image.open(file) as picture:
            assert picture.width == 800


def test_sampling_and_generation_options_reach_the_pipeline(linvt, clip, monkeypatch):
    seen = {}

    class Pipe:
        def __call__(self, **given):
            seen.update(given)
            return [{"question": "?", "answer": "!"}]

    monkeypatch.setattr(cli.asking, "load", lambda *model, **how: seen.update(model=model) or Pipe())
    words = "--fps 2 --max-frames 9 --start 0.5 --end 1 --video-backend pyav --max-new-tokens 3 --model m --device cpu"
    assert linvt("ask", clip[0], "Who?", *words.split(), "--dtype", "bfloat16")[0] == 0
    assert seen == {
        "model": ("m", "cpu", "bfloat16", None), "video": clip[0], "question": ["Who?"], "return_evidence": False,
        "fps": 2.0, "max_frames": 9, "start": 0.5, "end": 1.0, "video_backend": "pyav", "max_new_tokens": 3,
    }  # fmt: skip


def test_warnings_of_ours_come_after_the_answer(linvt, clip, monkeypatch):
    class Pipe:
        def __call__(self, **given):
            logging.get_logger("transformers_linvt.pipeline").warning("2 broken\npackets")
            logging.get_logger("transformers.generation").warning("something about pad tokens")
            return [{"question": "?", "answer": "!"}]

    monkeypatch.setattr(cli.asking, "load", lambda *model, **how: Pipe())
    level = logging.get_verbosity()
    _, out, err = linvt("ask", clip[0], "Who?", "--model", "m")
    assert (out, err) == ("!\n", ["linvt: note: 2 broken packets"])
    assert logging.get_verbosity() == level  # and everything is as it was


# --- the other commands ----------------------------------------------------------------------------------------------


def test_inspect_draws_with_and_without_a_question(linvt, clip, tmp_path):
    status, out, err = linvt("inspect", clip[0], "frames.png", "--num-frames", 6)
    assert (status, err) == (0, [])
    assert "frames.png: 6 frames" in out and "16 video tokens" in out
    assert linvt("inspect", clip[0], "asked.png", "--num-frames", 6, "--question", QUESTION)[0] == 0
    with Image.open(tmp_path / "frames.png") as one, Image.open(tmp_path / "asked.png") as other:
        assert one.format == other.format == "PNG"


@pytest.mark.parametrize("include_base", [False, True])
def test_wrap_makes_a_checkpoint_that_ask_takes(linvt, clip, tmp_path, include_base):
    numbers = {"num-video-tokens": 12, "pooling-scales": "1,2", "num-heads": 2, "bottleneck-size": 16, "init": "free"}
    options = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    (tmp_path / "wrapped").mkdir()  # an empty folder is as good as none
    status, out, err = linvt(
        "wrap", embedded_base_path(), "wrapped", *options, *(["--include-base"] if include_base else [])
    )
    assert (status, err) == (0, []) and "12 tokens" in out
    assert [file.name for file in tmp_path.iterdir()] == ["wrapped"]
    model = LinVTForVideoQA.from_pretrained("wrapped")
    assert model.config.includes_base == include_base
    assert (model.config.num_video_tokens, model.config.pooling_scales, model.config.init) == (12, (1, 2), "free")
    assert LinVTProcessor.from_pretrained("wrapped").num_video_tokens == 12
    status, out, err = linvt("ask", clip[0], QUESTION, "--model", "wrapped", "--json")
    assert (status, err) == (0, [])
    assert json.loads(out)["answers"][0]["video_tokens"] == 12


def test_nothing_is_left_when_wrapping_breaks_off(linvt, tmp_path, monkeypatch):
    def full_disk(self, folder):
        (Path(folder) / "half.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LinVTProcessor, "save_pretrained", full_disk)
    status, out, err = linvt("wrap", embedded_base_path(), "wrapped", "--num-heads", 2)
    assert (status, out) == (1, "") and len(err) == 1 and "No space left" in err[0]
    assert list(tmp_path.iterdir()) == []


def test_demo_compares_with_the_right_answers_and_says_what_it_is(linvt, tmp_path):
    status, out, err = linvt("demo", "--output", "shown")
    assert (status, err) == (0, [])
    assert "coloured shapes and nothing else" in out and "16 frames" in out
    assert "512 frame tokens -> 32 video tokens" in out
    verdicts = [line.split()[-1] for line in out.splitlines() if line.endswith((" ok", " wrong"))]
    assert f"{verdicts.count('ok')} of {len(verdicts)} right" in out
    assert len(verdicts) >= 20 and verdicts.count("ok") / len(verdicts) > 0.8
    kinds = ["count", "moment", "needle", "order", "scenes", "static", "traverse"]
    assert sorted(file.name for file in (tmp_path / "shown").iterdir()) == sorted(
        [f"{kind}.mp4" for kind in kinds] + [f"{kind}.png" for kind in kinds]
    )
    video = transformers_linvt.read_video(tmp_path / "shown" / "scenes.mp4", num_frames=4)
    assert (video.total_frames, video.duration) == (32, 4.0)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path, clip) -> None:
    """What the bad commands name."""
    (tmp_path / "clip.mp4").write_bytes(Path(clip[0]).read_bytes())
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html><body>Not found</body></html>" * 50)
    (tmp_path / "cut.mp4").write_bytes(Path(clip[0]).read_bytes()[:700])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("here")
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')


BAD_COMMANDS = {  # command: exit status, what its line says
    "": (2, "required: COMMAND"),
    "benches": (2, "invalid choice: 'benches'"),
    "ask": (2, "required: VIDEO, QUESTION"),
    "ask clip.mp4": (2, "required: QUESTION"),
    "ask clip.mp4 clip.mp4": (1, "No question was given: clip.mp4 is a video"),
    "ask clip.mp4 gone.mp4": (1, "No question was given: gone.mp4 is a video"),
    "ask clip.mp4 Who? clip.mp4": (1, "clip.mp4 stands behind a question"),
    "ask clip.mp4 gone.mp4 Who?": (1, "gone.mp4 does not exist"),
    "ask clip.mp4 Who? --limit max_byte=3": (2, "did you mean max_bytes?"),
    "ask clip.mp4 Who? --limit max_bytes=x": (2, "'x' is not a number above 0"),
    "ask clip.mp4 Who? --limit max_bytes=3": (1, "over the limit of 3"),
    "ask gone.safetensors Who?": (1, "gone.safetensors does not exist"),
    "ask a.safetensors Who? --skip-duplicate-frames 2 --limit max_bytes=3": (
        1,
        "--limit, --skip-duplicate-frames has no effect: a.safetensors was encoded before",
    ),
    "ask clip.mp4 Who? --skip-duplicate-frames some": (2, "'some' is not yes, no, or a number of levels"),
    "run rows.jsonl out.jsonl --skip-duplicate-frames 256": (2, "'256' is not yes, no, or a number of levels"),
    "eval --arm uniform --skip-duplicate-frames 2": (
        1,
        "--skip-duplicate-frames 2.0 has no effect with --arm 'uniform'",
    ),
    **{
        f"eval --write-clips clips {given}": (1, f"{given.split()[0]} has no effect: --write-clips DIR asks no model")
        for given in (
            "--skip-duplicate-frames no",
            "--arm text",
            "--compare a.json b.json",
            "--output e.json",
            "--instruction Briefly.",
            "--batch-size 16",
            "--device cpu",
            "--trust-remote-code",
        )
    },
    "eval --diagnostics needle --lengths 64": (1, "--lengths has no effect with --diagnostics needle: it is of the"),
    "eval --diagnostics pictures length --frames 8": (1, "--frames has no effect with --diagnostics pictures length"),
    "eval slides --write-clips clips": (1, "MODEL has no effect: --write-clips DIR asks no model"),
    **{
        f"eval --compare a.json b.json {given}": (1, f"{given.split()[0]} has no effect: two evaluations that are")
        for given in ("--skip-duplicate-frames 2", "--arm all", "--uniform-frames 3", "--restart", "--dtype float32")
    },
    "encode clip.mp4 out.bin": (1, "does not end in .safetensors"),
    "encode clip.mp4 nowhere/out.safetensors": (1, "does not exist. Make it first"),
    "encode page.mp4 out.safetensors": (1, "page.mp4"),
    "ask clip.mp4 ''": (2, "the question is empty"),
    "ask clip.mp4 Who? --num-frames 0": (2, "'0' is not a whole number of 1 or more"),
    "ask clip.mp4 Who? --num-frames 2 --fps 1": (2, "not allowed with"),
    "ask clip.mp4 Who? --fps nan": (2, "'nan' is not a number above 0"),
    "ask clip.mp4 Who? --start -1": (2, "'-1' is not a number of 0 or more"),
    "ask clip.mp4 Who? --video-backend vlc": (2, "invalid choice: 'vlc'"),
    "ask clip.mp4 Who? --pixels 3": (2, "unrecognized arguments: --pixels 3"),
    "wrap base": (1, "Name the folder to make"),
    "wrap base out --pooling-scales 1,x": (2, "'x' is not a whole number"),
    "wrap base --dry-run --frame-size 360": (2, "'360' is not HxW"),
    "wrap base --dry-run --frame-size 360x640x3": (2, "'360x640x3' is not HxW"),
    "wrap base --dry-run --frame-size 100000x100000": (2, "at most 9,437,184 pixels"),
    "ask missing.mp4 Who?": (1, "missing.mp4"),
    "ask full Who?": (1, "full is a directory"),
    "ask empty.mp4 Who?": (1, "empty.mp4 is empty"),
    "ask page.mp4 Who?": (1, "page.mp4"),
    "ask cut.mp4 Who?": (1, "cut.mp4"),
    "ask https://example.com/clip.mp4 Who?": (1, "--allow-urls"),
    "ask http://127.0.0.1:9/clip.mp4 Who? --allow-urls": (1, "127.0.0.1"),
    "ask clip.mp4 Who? --start 99": (1, "beyond its end"),
    "ask clip.mp4 'Who is <image>?'": (1, "<image>"),
    "ask clip.mp4 Who? --model nowhere": (1, "'nowhere' could not be loaded"),
    "ask clip.mp4 Who? --model full": (1, "'full' could not be loaded"),
    "ask clip.mp4 Who? --model ./nowhere": (1, "There is no folder './nowhere'"),
    "ask clip.mp4 Who? --model llama": (1, "'llama' (llama) is no LinVT model. Put LinVT around it"),
    "ask clip.mp4 Who? --device nothing": (1, "on the device 'nothing'"),
    "ask clip.mp4 Who? --evidence nowhere/out.png": (1, "the folder nowhere does not exist"),
    "ask clip.mp4 Who? --evidence out.jpg": (1, "does not end in .png"),
    "inspect clip.mp4 out.gif": (1, "does not end in .png"),
    "inspect missing.mp4 out.png": (1, "missing.mp4"),
    "wrap nowhere out": (1, "nowhere"),
    "wrap nowhere full": (1, "full exists already"),
    "wrap nowhere missing/out": (1, "does not exist"),
    "wrap nowhere out --num-video-tokens 2 --scale-mode specific": (1, "--num-video-tokens 2"),
    "demo --output clip.mp4": (1, "clip.mp4"),
}


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_expected_failure_is_one_line_and_leaves_nothing(linvt, files, tmp_path, command):
    expected, message = BAD_COMMANDS[command]
    before = sorted(tmp_path.rglob("*"))
    words = ["" if word == "''" else word for word in command.replace("'Who is <image>?'", "Who:is:<image>?").split()]
    status, out, err = linvt(*(word.replace(":is:", " is ") for word in words))
    assert (status, out, len(err)) == (expected, "", 1), err
    assert message in err[0] and err[0].startswith("linvt: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_outputs_are_refused_before_a_model_is_loaded(linvt, files, monkeypatch):
    monkeypatch.setattr(cli.asking, "load", lambda *model, **how: pytest.fail("the model was loaded"))
    commands = (
        "ask clip.mp4 Who? --evidence nowhere/out.png", "inspect clip.mp4 out.gif", "ask gone.mp4 Who?",
        "ask page.mp4 Who?", "ask cut.mp4 Who?", "ask clip.mp4 Who? --start 99", "inspect page.mp4 out.png",
        "ask clip.mp4 Who? --limit max_pixels=100", "encode cut.mp4 out.safetensors",
    )  # fmt: skip
    for command in commands:
        assert linvt(*command.split())[0] == 1, command


def test_a_mistake_of_ours_keeps_its_traceback(linvt, files, monkeypatch):
    def broken(*model, **how):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.asking, "load", broken)
    with pytest.raises(ZeroDivisionError):
        linvt("ask", "clip.mp4", "Who?")


def test_interrupting_is_one_line(linvt, files, monkeypatch):
    def interrupted(*model, **how):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.asking, "load", interrupted)
    assert linvt("ask", "clip.mp4", "Who?") == (130, "", ["linvt: interrupted"])


def test_interrupting_while_it_is_imported_is_one_line_too():
    """Torch and transformers take seconds."""
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'transformers_linvt.cli.asking': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "import transformers_linvt.cli\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "linvt: interrupted\n")


# --- in a process of its own -----------------------------------------------------------------------------------------


def test_version_and_help_are_printed_quickly():
    done = in_a_process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"linvt {transformers_linvt.__version__}\n"
    code = (
        "import sys; from transformers_linvt import cli\n"
        "try: cli.main(['ask', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'av', 'transformers.pipelines'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]" and "--evidence" in done.stdout


def test_process_answers_and_fails_with_its_exit_status(clip, tmp_path):
    path, question, answer = clip
    done = in_a_process("ask", path, question, "--evidence", tmp_path / "evidence.png", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["answers"][0]["answer"] == answer
    assert (tmp_path / "evidence.png").is_file()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(Path(path).read_bytes()[:700])
    done = in_a_process("inspect", cut, tmp_path / "frames.png")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert not (tmp_path / "frames.png").exists()


@pytest.mark.parametrize("command", ["wrap nobody/none out", "ask CLIP Who? --model nobody/none"])
def test_unreachable_hub_is_one_line_and_soon(clip, tmp_path, command):
    env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    env |= {"PYTHONPATH": str(SOURCES), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    words = [clip[0] if word == "CLIP" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "transformers_linvt.cli", *words],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=45,
    )  # fmt: skip
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
    assert "'nobody/none' could not be loaded: http://127.0.0.1:9 was not reached" in done.stderr
    assert not (tmp_path / "out").exists()


def test_reader_that_leaves_early_is_no_failure_worth_a_word(clip):
    code = (
        "import sys; from transformers_linvt import cli\n"
        "cli.asking.load = lambda *model, **how: lambda **given: [{'question': '?', 'answer': 'a long one ' * 9999}]\n"
        f"sys.exit(cli.main(['ask', {clip[0]!r}, 'Who?']))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


# --- real clips ------------------------------------------------------------------------------------------------------

CLIPS = (
    "av1_video.mkv", "baby_reads.mp4", "h264_10bits.mp4", "h265_video.mp4", "juggle.mp4", "nasa_13013.mp4",
    "sample_demo_3.mp4", "sample_demo_9.mp4",
)  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_ask_takes_real_clips_with_every_backend_or_names_another(linvt, videos_dir, name):
    status, out, _ = linvt("ask", videos_dir / name, QUESTION, "--num-frames", 8, "--video-backend", "pyav")
    assert (status, len(out.splitlines())) == (0, 1)
    for backend in ("decord", "torchcodec"):
        status, other, err = linvt("ask", videos_dir / name, QUESTION, "--num-frames", 8, "--video-backend", backend)
        if status == 0 and name == "h264_10bits.mp4":
            # From 10 bits the builds of FFmpeg place colour differently (test_video_zoo.py), and a model that knows
            # shapes alone may answer otherwise about such a picture.
            assert len(other.splitlines()) == 1
        else:
            assert other == out if status == 0 else (status, len(err)) == (1, 1) and "pyav" in err[0]


def test_words_are_printed_as_they_come_and_are_those_of_the_answer(clip, tmp_path, capsys):
    path, question, answer = clip
    assert cli.main(["ask", path, question, "--stream", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{answer}\n"
    assert cli.main(["ask", path, question, "Is it red?", "--stream", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [question, answer, "Is it red?"] and len(lines) == 4
    assert cli.main(["ask", path, question, "--stream", "--json"]) == 1
    assert "Leave one of them out" in capsys.readouterr().err
