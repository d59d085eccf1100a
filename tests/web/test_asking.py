"""
What the page does with a question, without a browser: its steps, its answer beside that of the base alone, the HTML
that shows them; errors in words without folders; the command refuses what cannot work before a model is read.
"""

import asyncio
import importlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from transformers_linvt import LinVTInputError, VideoEvidence, embedded_base_path, embedded_model_path
from transformers_linvt.bases.loading import load_base, load_base_processor
from transformers_linvt.cli import main
from transformers_linvt.cli import web as command
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.serving.running import take_port
from transformers_linvt.serving.watching import Watcher
from transformers_linvt.web import base_alone
from transformers_linvt.web.asking import Asking, Shown
from transformers_linvt.web.base_alone import ask_base_alone
from transformers_linvt.web.running import OnlyUploads
from transformers_linvt.web.settings import PageSettings
from transformers_linvt.web.showing import moments_html, result_html


QUESTION, FRAMES = "Which colour does the cross have?", 12


@pytest.fixture(scope="module")
def asking() -> Any:
    pipe = pipeline("video-question-answering", model=embedded_model_path(), device="cpu")
    asking = Asking(pipe, PageSettings("shapes", max_new_tokens=8))
    yield asking
    asking.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "scenes.mp4"
    write_clip(path, make_clip("scenes", 0, FRAMES)[0])
    return path


# --- answers ---------------------------------------------------------------------------------------------------------


def test_the_steps_end_with_the_answer_of_the_pipeline_and_its_evidence(asking: Asking, clip: Path):
    steps = list(asking.ask(str(clip), QUESTION, FRAMES, compares=False))
    (expected,) = asking.pipe(video=str(clip), question=QUESTION, num_frames=FRAMES, return_evidence=True)
    assert steps[0].stage and not steps[0].answer and not steps[-1].stage
    assert steps[-1].answer == expected["answer"] and steps[-1].alone is None
    assert steps[-1].result["evidence"].frame_attribution == pytest.approx(expected["evidence"].frame_attribution)
    assert all(expected["answer"].startswith(step.answer) for step in steps)


def test_the_base_alone_answers_as_the_base_does(asking: Asking, clip: Path):
    """The embedded LinVT carries an adapter, which would make it another model."""
    last = list(asking.ask(str(clip), QUESTION, FRAMES, compares=True))[-1]
    base, processor = load_base(embedded_base_path()), load_base_processor(embedded_base_path())
    frames = last.result["evidence"].frames
    content = [{"type": "image", "image": base_alone.Image.fromarray(one)} for one in frames]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    made = base.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert last.alone.text == processor.decode(made, skip_special_tokens=True).strip()
    assert (last.alone.num_pictures, last.alone.visual_tokens) == (FRAMES, FRAMES * 16)
    on = [one.disable_adapters for one in asking.pipe.model.modules() if hasattr(one, "disable_adapters")]
    assert on and not any(flag for flag in on if isinstance(flag, bool))


def test_the_base_alone_sees_as_many_frames_as_its_context_holds(asking: Asking, monkeypatch: pytest.MonkeyPatch):
    frames = make_clip("scenes", 0, FRAMES)[0]
    text = asking.pipe.model.config.get_text_config()

    def asked(context: int) -> Any:
        monkeypatch.setattr(text, "max_position_embeddings", context)
        watcher = Watcher(lambda ids: "")
        return ask_base_alone(asking.pipe, frames, QUESTION, 8, watcher)

    reply = asked(100)  # 8 for the answer, a few for the question, 16 per picture
    assert 2 <= reply.num_pictures <= 5 and reply.visual_tokens == 16 * reply.num_pictures
    assert reply.num_frames == FRAMES
    with pytest.raises(LinVTInputError, match="One frame takes .* has room for 2"):
        asked(10)


def test_who_stops_taking_steps_ends_the_answer(asking: Asking, clip: Path, monkeypatch: pytest.MonkeyPatch):
    watchers: list[Watcher] = []
    monkeypatch.setattr(
        "transformers_linvt.web.asking.Watcher", lambda *a, **k: watchers.append(Watcher(*a, **k)) or watchers[-1]
    )
    steps = asking.ask(str(clip), QUESTION, FRAMES, compares=False)
    next(steps), next(steps)
    steps.close()
    assert watchers[0].is_cancelled


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "question", "words"),
    [
        (None, "", QUESTION, "There is no clip yet"),
        (
            "clip.mp4",
            "#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n",
            QUESTION,
            "clip.mp4 cannot be read: it is a play list",
        ),
        ("clip.mp4", "", " ", "There is no question yet"),
        ("gone.mp4", None, QUESTION, "gone.mp4 does not exist"),
    ],
)
def test_an_error_is_said_in_words_without_folders(
    asking: Asking, tmp_path: Path, name: str | None, content: str | None, question: str, words: str
):
    path = None if name is None else tmp_path / name
    if path is not None and content is not None:
        path.write_text(content)
    last = list(asking.ask(None if path is None else str(path), question, 4, compares=True))[-1]
    assert words in last.error and str(tmp_path) not in last.error and "working directory" not in last.error
    assert f'role="alert">{words[:10]}' in result_html(last)


def test_a_device_without_memory_and_a_mistake_of_ours_are_said_in_words(
    asking: Asking, clip: Path, monkeypatch: pytest.MonkeyPatch
):
    def failing(error: Exception) -> str:
        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        monkeypatch.setattr(asking.pipe, "forward", fail)
        return list(asking.ask(str(clip), QUESTION, 4, compares=False))[-1].error

    assert "Ask with fewer frames" in failing(torch.OutOfMemoryError("CUDA out of memory"))
    assert "(KeyError: 'x')" in failing(KeyError("x"))


# --- what is shown ---------------------------------------------------------------------------------------------------


def evidence(**changes: Any) -> VideoEvidence:
    parts: dict[str, Any] = {
        "frames": np.zeros((4, 8, 8, 3), dtype=np.uint8),
        "timestamps": np.array([0.0, 1.0, 2.0, 3.0]),
        "kept_indices": np.array([0, 3, 5]),
        "kept_weights": np.array([[0.5, 0.25, 0.25]], dtype=np.float32),
        "significance": np.ones((4, 2), dtype=np.float32),
        "grid_size": (1, 2),
        "attribution": np.array([-1.0, 3.0, 1.0]),
        "region": (0.0, 0.25, 1.0, 0.75),
    }
    return VideoEvidence(**{**parts, **changes})


def test_the_line_has_a_bar_per_frame_and_a_button_per_moment():
    shown = moments_html(evidence())
    assert [float(one) for one in re.findall(r"<b style=\"height:([\d.]+)%", shown)] == [0, 100, 33.3, 0]
    assert re.findall(r"<button[^>]*data-seek=\"([\d.]+)\">([^<]*) <span>(\d+)%", shown) == [
        ("1.0010", "1.0 to 2.0 s", "75"),
        ("2.0010", "2.0 to 3.0 s", "25"),
    ]
    maps = json.loads(unescape(re.search(r"data-maps='([^']*)'", shown)[1]))
    assert maps["times"] == [0, 1, 2, 3] and maps["region"] == [0, 0.25, 1, 0.75] and len(maps["maps"]) == 4


def test_what_is_not_known_is_not_shown():
    unknown = evidence(timestamps=np.full(4, np.nan))
    assert "are not known" in moments_html(unknown) and "<button" not in moments_html(unknown)
    weights = moments_html(evidence(attribution=None, no_attribution="No <gradient>."))
    assert "Where the video tokens came from" in weights and "No &lt;gradient&gt;." in weights
    assert "No moment speaks for this answer" in moments_html(evidence(attribution=-np.ones(3)))


def test_words_of_models_and_people_are_no_html():
    shown = result_html(Shown(answer="<script>a</script>", error="<b>", alone_answer="<i>", stage="<u>"))
    assert not re.search(r"<(script|b|i|u)>", shown) and "&lt;script&gt;" in shown


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [("http://10.0.0.1/a.mp4", 400), ("{other}/a.mp4", 403), ("{own}/../a", 403), ("{own}/a.mp4", 200)],
)
def test_an_event_names_no_file_but_an_upload(tmp_path: Path, path: str, status: int):
    own, other = tmp_path / "own", tmp_path / "other"
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(json.loads((await receive())["body"]))
        await send({"type": "http.response.start", "status": 200})

    async def ask() -> int:
        named = path.format(own=own, other=other)
        body = json.dumps({"data": [[{"deep": {"path": named}}]]}).encode()
        pieces, statuses = [body[:7], body[7:]], []

        async def receive() -> Any:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/queue/join"}
        await OnlyUploads(application, [str(own)])(scope, receive, send)
        return statuses[0]

    assert asyncio.run(ask()) == status
    assert len(seen) == (status == 200)


def test_a_port_that_is_taken_is_said_before_a_model_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    pytest.importorskip("uvicorn")
    monkeypatch.setattr(command, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    monkeypatch.setattr("transformers_linvt.web.running.required", lambda name, extra: None)
    with take_port("127.0.0.1", 0) as taken:
        assert main(["web", "--port", str(taken.getsockname()[1])]) == 1
    assert "Another server may run there" in capsys.readouterr().err


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    real = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    monkeypatch.setattr(command, "load", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    assert main(["web"]) == 1
    assert 'pip install "transformers-linvt[web]"' in capsys.readouterr().err
    with pytest.raises(LinVTInputError, match="max_file_bytes=0: give a whole number"):
        PageSettings("shapes", max_file_bytes=0)
