"""
`linvt serve` as OpenAI's own client sees it, over loopback: the pipeline's answers, streamed and whole, many at once;
what is wrong is told with status 400 and in our words; nothing is opened that the server does not allow.
"""

import asyncio
import base64
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import pipeline

from transformers_linvt import CheckpointError, LinVTInputError, VideoLimits, embedded_model_path
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.serving.running import run_server, take_port
from transformers_linvt.serving.settings import ServerSettings


openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

NAME, IN_FLIGHT = "shapes", 64
QUESTIONS = ("Is there a red circle?", "Is there a blue square?", "How many objects are there?")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return pipeline("video-question-answering", model=embedded_model_path(), device="cpu")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number, kind in enumerate(("static", "scenes", "needle")):
        write_clip(folder / f"{number}.mp4", make_clip(kind, number, 6 + number)[0], scale=1)
    PIL.Image.fromarray(np.asarray(make_clip("static", 0, 1)[0][0])).save(folder / "picture.png")
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n")
    (folder.parent / "outside.mp4").write_bytes((folder / "0.mp4").read_bytes())
    return folder


@contextmanager
def serving(pipe: Any, **settings: Any) -> Iterator[str]:
    """A server in a thread, stopped as a signal would stop it."""
    started, found = threading.Event(), []

    def ready(*told: Any) -> None:
        found.extend(told)
        started.set()

    arguments = (lambda: pipe, ServerSettings(NAME, **settings), "127.0.0.1", 0, ready)
    thread = threading.Thread(target=run_server, args=arguments)
    thread.start()
    assert started.wait(60)
    yield found[0]
    found[1]()
    thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(pipe: Any, media: Path) -> Iterator[str]:
    with serving(pipe, media_root=str(media), max_videos=3, max_new_tokens=64, max_body_bytes=8 << 20) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return openai.OpenAI(base_url=address, api_key="-", max_retries=0, timeout=120)


def data_of(path: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def video(url: str, **sampling: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}, **sampling}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": [{"type": "text", "text": one} if isinstance(one, str) else one for one in parts]}
    ]


def answer(client: Any, messages: Any, **more: Any) -> Any:
    return client.chat.completions.create(model=NAME, messages=messages, **more)


# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["data", "file", "name"])
def test_an_answer_is_that_of_the_pipeline(client: Any, pipe: Any, media: Path, form: str):
    path = media / "1.mp4"
    url = {"data": data_of(path), "file": path.as_uri(), "name": path.name}[form]
    reply = answer(client, user(video(url, num_frames=4), QUESTIONS[0]))
    (expected,) = pipe(video=str(path), question=QUESTIONS[0], num_frames=4)
    assert reply.choices[0].message.content == expected["answer"] != ""
    assert reply.choices[0].finish_reason == "stop" and reply.model == NAME
    inputs = pipe.processor.question_inputs([QUESTIONS[0]])
    assert reply.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.prompt_tokens_details.video_tokens == expected["video_tokens"] > 0


def test_turns_videos_and_pictures_stand_side_by_side(client: Any, pipe: Any, media: Path):
    parts = [
        video("0.mp4", num_frames=2),
        video("2.mp4", fps=4),
        {"type": "image_url", "image_url": {"url": "picture.png"}},
    ]
    first = user(*parts, QUESTIONS[0])
    messages = [*first, {"role": "assistant", "content": "yes"}, *user(QUESTIONS[2])]
    reply = answer(client, messages, max_tokens=1, extra_body={"num_frames": 5, "evidence": True})
    (expected,) = pipe(messages, video_root=str(media), num_frames=5, max_new_tokens=1)
    assert reply.choices[0].message.content == expected["answer"]
    assert reply.linvt["frames_seen"] == expected["frames_seen"] == 2 + 4
    assert [len(one["timestamps"]) for one in reply.linvt["evidence"]] == [2, 4]
    assert [one["source"] for one in reply.linvt["evidence"]] == ["<media root>/0.mp4", "<media root>/2.mp4"]
    assert str(media) not in reply.model_dump_json()
    assert reply.usage.prompt_tokens_details.video_tokens == 2 * pipe.processor.num_video_tokens


@pytest.mark.parametrize("where", [{"num_frames": 3}, {"mm_processor_kwargs": {"num_frames": 3}},
                                   {"media_io_kwargs": {"video": {"num_frames": 3}}}])  # fmt: skip
def test_sampling_of_a_request_is_taken_where_vllm_has_it_too(client: Any, pipe: Any, where: dict):
    reply = answer(client, user(video("1.mp4"), QUESTIONS[0]), extra_body=where)
    num_video_tokens = pipe.processor.num_video_tokens
    assert reply.linvt == {"frames_seen": 3, "frame_tokens": 48, "video_tokens": num_video_tokens}


def test_a_stream_is_the_answer_in_pieces(client: Any, media: Path):
    whole = answer(client, user(video("1.mp4"), QUESTIONS[2]))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    events = list(answer(client, user(video("1.mp4"), QUESTIONS[2]), **options))
    pieces = [one.choices[0].delta.content or "" for one in events if one.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert events[-2].choices[0].finish_reason == "stop" and events[-1].usage == whole.usage
    assert len({one.id for one in events}) == 1


def test_stop_and_length_end_an_answer(client: Any):
    whole = answer(client, user(video("1.mp4"), QUESTIONS[0]))
    text = whole.choices[0].message.content
    stopped = answer(client, user(video("1.mp4"), QUESTIONS[0]), stop=["never", text[-1]])
    assert stopped.choices[0].message.content == text[: text.index(text[-1])].strip()
    assert stopped.choices[0].finish_reason == "stop"
    short = answer(client, user(video("1.mp4"), QUESTIONS[0]), max_tokens=1)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 1


def test_a_seed_repeats_what_is_drawn(client: Any):
    drawn = [
        answer(client, user(video("1.mp4"), QUESTIONS[2]), temperature=2.0, seed=seed, max_tokens=12)
        for seed in (3, 3, 4, 5, 6)
    ]
    texts = [one.choices[0].message.content for one in drawn]
    assert texts[0] == texts[1] and len(set(texts)) > 1


def test_subtitles_are_counted(client: Any):
    reply = answer(client, user(video("1.mp4", subtitles=[[0.5, "red"], [1.0, "blue"]]), QUESTIONS[0]))
    assert reply.usage.prompt_tokens_details.subtitle_tokens > 0


def test_models_and_health(client: Any, address: str):
    assert [one.id for one in client.models.list().data] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "transformers-linvt"
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.models.retrieve("other")
    assert raw(address, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n").startswith("HTTP/1.1 200")
    assert "This server knows /v1/chat/completions" in raw(address, "GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")


def test_a_video_that_is_asked_about_again_is_not_encoded_again(client: Any, pipe: Any, media: Path, monkeypatch: Any):
    encoded = []
    encode = pipe.model.encode_video
    monkeypatch.setattr(pipe.model, "encode_video", lambda *a, **k: encoded.append(1) or encode(*a, **k))
    for url in (data_of(media / "2.mp4"), "2.mp4", data_of(media / "2.mp4"), "2.mp4"):
        answer(client, user(video(url, num_frames=7), QUESTIONS[0]))
    assert len(encoded) <= 2  # by its frames, and by its file


@pytest.mark.timeout(600)
def test_many_requests_at_once_good_and_bad_get_each_its_own(address: str, pipe: Any, media: Path):
    cases = [(f"{i % 3}.mp4", QUESTIONS[i % 2], 3 + i % 3) for i in range(IN_FLIGHT)]
    expected = {
        case: pipe(video=str(media / case[0]), question=case[1], num_frames=case[2])[0]["answer"] for case in cases
    }

    async def ask(client: Any, number: int) -> Any:
        name, question, count = cases[number]
        if number % 4 == 3:
            name = ("playlist.mp4", "no.mp4", "../outside.mp4")[number % 3]
        url = data_of(media / name) if number % 4 == 1 else name
        messages = user(video(url, num_frames=count), question)
        if number % 4 != 2:
            return (await client.chat.completions.create(model=NAME, messages=messages)).choices[0].message.content
        stream = await client.chat.completions.create(model=NAME, messages=messages, stream=True)
        return "".join([event.choices[0].delta.content or "" async for event in stream])

    async def all_of_them() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=address, api_key="-", max_retries=0, timeout=240) as client:
            return await asyncio.gather(*(ask(client, i) for i in range(IN_FLIGHT)), return_exceptions=True)

    found = asyncio.run(all_of_them())
    for number, (case, reply) in enumerate(zip(cases, found, strict=True)):
        if number % 4 == 3:
            assert isinstance(reply, openai.BadRequestError), (number, reply)
        else:
            assert reply == expected[case], number


# --- what is wrong ---------------------------------------------------------------------------------------------------

GOOD = video("1.mp4")
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no messages": ({"messages": []}, "messages is \\[\\]"),
    "a wrong field": ({"num_frame": 3}, "'num_frame' is not known. Did you mean 'num_frames'"),
    "a wrong key": ({"messages": user({**GOOD, "nframes": 3}, "Who?")}, "Did you mean 'num_frames'"),
    "no question": ({"messages": user(GOOD)}, "The question is empty"),
    "no address": ({"messages": user({"type": "video"}, "Who?")}, "has no address"),
    "a path": (
        {"messages": user({"type": "video", "path": "1.mp4"}, "Who?")},
        "'path', which is not taken from clients",
    ),
    "limits": (
        {"messages": user({**GOOD, "allow_urls": True}, "Who?")},
        "'allow_urls', which is not taken from clients",
    ),
    "base64": ({"messages": user({"type": "image", "base64": "AAAA"}, "Who?")}, "'base64', which is not taken"),
    "outside": ({"messages": user(video("../outside.mp4"), "Who?")}, "leads out of"),
    "far outside": ({"messages": user(video("file:///etc/passwd"), "Who?")}, "leads out of"),
    "subtitles": ({"messages": user({**GOOD, "subtitles": "file:///etc/passwd"}, "Who?")}, "leads out of"),
    "the network": (
        {"messages": user(video("https://example.com/a.mp4"), "Who?")},
        "fetches nothing from the network",
    ),
    "a picture of it": (
        {"messages": user({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, "Who?")},
        "fetches nothing from the network",
    ),
    "another scheme": ({"messages": user(video("ftp://example.com/a.mp4"), "Who?")}, "of the kind 'ftp'"),
    "a playlist": ({"messages": user(video("playlist.mp4"), "Who?")}, "playlist.mp4"),
    "no file": ({"messages": user(video("no.mp4"), "Who?")}, "does not exist"),
    "no video": ({"messages": user(video("data:video/mp4;base64,AAAA"), "Who?")}, "<data:video/mp4>"),
    "many videos": ({"messages": user(*[GOOD] * 4, "Who?")}, "have 4 videos; this server takes 3"),
    "no frames": ({"num_frames": 0}, "num_frames=0: give a whole number"),
    "no number": ({"num_frames": "many"}, "num_frames='many'"),
    "two samplings": ({"num_frames": 3, "fps": 2}, "Choose one"),
    "given twice": ({"num_frames": 3, "mm_processor_kwargs": {"num_frames": 4}}, "is given twice"),
    "many tokens": ({"max_tokens": 65}, "at most 64 tokens"),
    "no tokens": ({"max_completion_tokens": 0}, "max_completion_tokens=0"),
    "hot": ({"temperature": 3}, "temperature=3"),
    "several answers": ({"n": 2}, "n=2 cannot be followed"),
    "log-probabilities": ({"logprobs": True}, "logprobs=True cannot be followed"),
    "tools": ({"tools": [{"type": "function"}]}, "tools=.* cannot be followed"),
    "an empty stop": ({"stop": [""]}, "none of them empty"),
    "many stops": ({"stop": list("abcde")}, "5 texts"),
    "a stream of 1": ({"stream": 1}, "send true or false"),
    "much text": ({"messages": user(GOOD, "a" * 200_001)}, "The texts have 200001 characters"),
    "a placeholder": ({"messages": user(GOOD, "What is <|linvt_video|>?")}, "stands for a picture or video"),
    "sound": ({"messages": user({"type": "input_audio", "input_audio": {}}, "Who?")}, "Sound is not heard"),
}


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_400_in_our_words(client: Any, media: Path, name: str, is_streamed: bool):
    wrong, words = WRONG[name]
    if "stream" in wrong and is_streamed:
        pytest.skip("says itself whether it is streamed")
    body = {"model": NAME, "messages": user(GOOD, "Who?"), **({"stream": True} if is_streamed else {}), **wrong}
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    told = caught.value.response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and told["type"] == "invalid_request_error"
    for hidden in (str(media), os.getcwd(), "Traceback"):
        assert hidden not in caught.value.response.text


def raw(address: str, text: str, body: Callable[[socket.socket], None] | None = None) -> str:
    """What a server answers to bytes that no client would send."""
    host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(text.encode())
        if body is not None:
            body(connection)
        chunks = []
        while (chunk := connection.recv(65536)) and b"}" not in chunk:  # all that is told is one object
            chunks.append(chunk)
        chunks.append(chunk)
        return b"".join(chunks).decode()


@pytest.mark.parametrize("kind", ["announced", "chunked"])
def test_five_gigabytes_are_refused_before_they_are_there(address: str, kind: str):
    megabyte = b"a" * (1 << 20)
    sent = 0

    def send(connection: socket.socket) -> None:
        nonlocal sent
        for _ in range(40):
            try:
                connection.sendall(megabyte if kind == "announced" else b"%x\r\n%s\r\n" % (len(megabyte), megabyte))
            except OSError:  # the server has heard enough
                break
            sent += 1
            connection.settimeout(0.01)
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except OSError:
                pass
            connection.settimeout(60)

    length = f"Content-Length: {5 << 30}" if kind == "announced" else "Transfer-Encoding: chunked"
    told = raw(address, f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{length}\r\n\r\n", send)
    assert told.startswith("HTTP/1.1 413") and "larger than the limit of 8388608" in told
    assert sent < 40


@pytest.mark.parametrize("body", ["{", "[]", "3", "\x00", "[" * 100_000])
def test_a_body_that_is_no_object_is_refused(address: str, body: str):
    told = raw(address, f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
    assert told.startswith("HTTP/1.1 400") and ("is not JSON" in told or "Send an object" in told)


def test_a_key_is_asked_for_where_there_is_one(pipe: Any):
    with serving(pipe, api_key="secret") as address:
        client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
        assert client.models.list().data[0].id == NAME
        with pytest.raises(openai.AuthenticationError, match="key is not right"):
            client.with_options(api_key="other").models.list()


def test_without_a_folder_no_file_is_opened_and_domains_are_exact(pipe: Any, media: Path):
    settings = {"allowed_domains": ("example.org", "*.example.net"), "limits": VideoLimits(max_download_seconds=1)}
    with serving(pipe, **settings) as address:
        client = openai.OpenAI(base_url=address, api_key="-", max_retries=0)
        for url, words in (
            ("0.mp4", "opens no files of its own"),
            ((media / "0.mp4").as_uri(), "opens no files of its own"),
            ("https://example.com/a.mp4", "no domain that this server fetches from"),
            ("https://example.org.evil.com/a.mp4", "no domain that this server fetches from"),
            ("https://example.org@evil.com/a.mp4", "no domain that this server fetches from"),
            ("https://example.net/a.mp4", "no domain that this server fetches from"),
            ("http://example.org/a.mp4", "no domain that this server fetches from"),
        ):
            with pytest.raises(openai.BadRequestError, match=words):
                answer(client, user(video(url), "Who?"))


# --- many, none, and the end -----------------------------------------------------------------------------------------


@contextmanager
def held(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, list[Any]]]:
    """Answers that begin and go on until they are let go, or cancelled."""
    let_go, watchers, forward = threading.Event(), [], pipe.forward

    def wait(batch: Any, **how: Any) -> Any:
        (watcher,) = how["generate_kwargs"]["stopping_criteria"]
        watchers.append(watcher)
        while not let_go.wait(0.01) and not watcher.is_cancelled:
            pass
        return forward(batch, **how)

    monkeypatch.setattr(pipe, "forward", wait)
    yield let_go, watchers
    let_go.set()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_comes_when_too_many_wait_is_told_to_come_again(pipe: Any, media: Path, monkeypatch: pytest.MonkeyPatch):
    with held(pipe, monkeypatch) as (let_go, watchers), serving(pipe, media_root=str(media), max_waiting=2) as address:
        client = openai.OpenAI(base_url=address, api_key="-", max_retries=0)
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(answer(client, user(GOOD, QUESTIONS[0])))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        until(lambda: '"waiting":2' in raw(address, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"))
        with pytest.raises(openai.RateLimitError, match="2 requests are being answered or wait") as caught:
            answer(client, user(GOOD, QUESTIONS[0]))
        assert caught.value.response.headers["retry-after"] == "1"
        let_go.set()
        for thread in threads:
            thread.join(60)
        assert len({one.choices[0].message.content for one in found}) == 1 and len(found) == 2


@pytest.mark.parametrize("is_streamed", [False, True])
def test_work_for_a_client_that_left_ends(pipe: Any, media: Path, monkeypatch: pytest.MonkeyPatch, is_streamed: bool):
    with held(pipe, monkeypatch) as (_, watchers), serving(pipe, media_root=str(media)) as address:
        client = openai.OpenAI(base_url=address, api_key="-", max_retries=0, timeout=0.5)
        with pytest.raises(openai.APITimeoutError):
            answer(client, user(GOOD, QUESTIONS[0]), stream=is_streamed)
        until(lambda: '"waiting":0' in raw(address, "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"))
        assert all(watcher.is_cancelled for watcher in watchers)


def test_a_server_that_is_asked_to_stop_finishes_what_it_answers(pipe: Any, media: Path, monkeypatch: Any):
    found: list[Any] = []
    with held(pipe, monkeypatch) as (let_go, watchers):
        with serving(pipe, media_root=str(media)) as address:
            client = openai.OpenAI(base_url=address, api_key="-", max_retries=0)
            thread = threading.Thread(target=lambda: found.append(answer(client, user(GOOD, QUESTIONS[0]))))
            thread.start()
            until(lambda: bool(watchers))
            threading.Timer(0.3, let_go.set).start()
        thread.join(60)
    assert found[0].choices[0].finish_reason == "stop"
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_memory_that_is_not_enough_is_503_and_the_server_goes_on(pipe: Any, media: Path, monkeypatch: Any):
    forward, calls = pipe.forward, []

    def too_much(*args: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(calls) == 2:
            raise ZeroDivisionError("a mistake of ours")
        return forward(*args, **how)

    monkeypatch.setattr(pipe, "forward", too_much)
    with serving(pipe, media_root=str(media)) as address:
        client = openai.OpenAI(base_url=address, api_key="-", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="memory of the device is not enough") as caught:
            answer(client, user(GOOD, QUESTIONS[0]))
        assert caught.value.status_code == 503
        with pytest.raises(openai.InternalServerError, match="did not expect") as caught:
            answer(client, user(GOOD, QUESTIONS[0]), stream=True)
        assert "ours" not in json.dumps(caught.value.response.json())
        assert answer(client, user(GOOD, QUESTIONS[0])).choices[0].message.content


def test_a_port_belongs_to_one_server():
    with take_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        loaded = []
        with pytest.raises(LinVTInputError, match=f"The port {port} of 127.0.0.1 cannot be used"):
            run_server(lambda: loaded.append(1), ServerSettings(NAME), "127.0.0.1", port)
        assert loaded == []  # before a model is read
    with pytest.raises(LinVTInputError, match="no address of this machine|cannot be used"):
        take_port("no.such.host.invalid", 0)


def test_a_model_that_cannot_be_loaded_leaves_the_port_free():
    def load() -> Any:
        raise CheckpointError("The model is too large.")

    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(CheckpointError, match="too large"):
        run_server(load, ServerSettings(NAME), "127.0.0.1", port)
    take_port("127.0.0.1", port).close()


@pytest.mark.parametrize("wrong", [{"max_waiting": 0}, {"readers": True}, {"max_body_bytes": 1.5}])
def test_settings_are_whole_numbers(wrong: dict):
    with pytest.raises(LinVTInputError, match="give a whole number"):
        ServerSettings(NAME, **wrong)
    assert replace(ServerSettings(NAME), max_new_tokens=5).default_new_tokens == 5


def test_a_root_that_would_show_clients_everything_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path.anchor, target_is_directory=True)
    for everything in (tmp_path.anchor, str(tmp_path / "link")):
        with pytest.raises(LinVTInputError, match="is the root of the file system: clients could name every file"):
            ServerSettings(NAME, media_root=everything)
    assert ServerSettings(NAME, media_root=str(tmp_path)).media_root == str(tmp_path)
