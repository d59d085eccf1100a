"""
The one parser of chats: every kind of part in one form, every key known or refused with the nearest name, addresses
only as far as the caller allows; and the same message is the same frames, or the same sentence, from the processor,
the pipeline and the training collator.
"""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from transformers import pipeline
from transformers.utils import logging

from promises import Wrapped, wrapped
from transformers_linvt import LinVTInputError, VideoFrames, VideoLimits, VideoReadError
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.model import video_inputs
from transformers_linvt.model.messages import (
    SAMPLING_ARGUMENTS,
    nearest_name,
    parse_conversations,
    parse_messages,
    resolved,
    sampling_of,
)
from transformers_linvt.training.collator import LinVTDataCollator
from transformers_linvt.video.chunks import FrameChunk
from transformers_linvt.video.media_address import path_below, read_data_url


FRAMES = 7  # of the clip; every test asks for fewer, and each for another number
ADDRESS = "https://example.com/clip.mp4"
DATA = "data:video/mp4;base64,AAAA"
TEXT = {"type": "text", "text": "What happens?"}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": 3}}}


def parsed(part: Any, **options: Any) -> Any:
    """A part as the parser understands it."""
    return parse_messages([{"role": "user", "content": [part]}], **options)[0]["content"][0]


def refusal(part: Any, **options: Any) -> str:
    with pytest.raises(LinVTInputError) as caught:
        parsed(part, **options)
    assert len(str(caught.value)) < 500
    return str(caught.value)


# --- one form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (TEXT, TEXT),
        ({"type": "video"}, {"type": "video"}),
        ({"type": "video", "path": "a.mp4", "fps": 2}, {"type": "video", "path": "a.mp4", "fps": 2}),
        ({"type": "video", "path": Path("a.mp4")}, {"type": "video", "path": "a.mp4"}),
        ({"type": "video", "video": b"abc"}, {"type": "video", "video": b"abc"}),
        ({"type": "video", "video": {"path": "a.mp4", "bytes": None}}, {"type": "video", "video": "a.mp4"}),
        ({"type": "video", "video": {"path": "a.mp4", "bytes": b"abc"}}, {"type": "video", "video": b"abc"}),
        ({"type": "video", "url": ADDRESS, "path": None}, {"type": "video", "url": ADDRESS}),
        ({"type": "video_url", "video_url": {"url": ADDRESS}}, {"type": "video", "url": ADDRESS}),
        ({"type": "video_url", "video_url": ADDRESS, "end": 3}, {"type": "video", "url": ADDRESS, "end": 3}),
        ({"type": "video_url", "video_url": {"url": DATA}}, {"type": "video", "url": DATA}),
        ({"type": "image"}, {"type": "image"}),
        ({"type": "image", "image": "a.png"}, {"type": "image", "image": "a.png"}),
        ({"type": "image_url", "image_url": {"url": ADDRESS}}, {"type": "image", "url": ADDRESS}),
        (
            {"type": "image_url", "image_url": {"url": ADDRESS, "detail": "auto"}},
            {"type": "image", "url": ADDRESS},
        ),
        ({"type": "image_url", "image_url": {"url": ADDRESS, "detail": None}}, {"type": "image", "url": ADDRESS}),
        ({"type": "image", "base64": "AAAA"}, {"type": "image", "url": "data:image/*;base64,AAAA"}),
        (
            {"type": "image", "base64": "data:image/png;base64,AAAA"},
            {"type": "image", "base64": "data:image/png;base64,AAAA"},
        ),
        ({**TEXT, "video": None, "num_frames": None}, TEXT),
    ],
)
def test_every_kind_of_part_comes_into_one_form(given: dict, meant: dict):
    before = dict(given)
    assert parsed(given) == meant
    assert given == before


def test_frames_and_times_in_memory_stay_the_same_objects():
    frames, times = np.zeros((5, 4, 6, 3), np.uint8), [0.0, 1.0, 2.0, 3.0, 4.0]
    part = parsed({"type": "video", "frames": frames, "timestamps": times}, video_root="clips")
    assert part["frames"] is frames and part["timestamps"] is times


def test_messages_keep_what_the_template_may_want():
    turns = [
        {"role": "system", "content": "Be brief.", "name": "me", "weight": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3 cats", "tool_call_id": "a1"},
        {"role": "user", "content": (TEXT,)},
    ]
    assert parse_messages(turns) == [
        {"role": "system", "content": "Be brief.", "name": "me"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "3 cats", "tool_call_id": "a1"},
        {"role": "user", "content": [TEXT]},
    ]


def test_one_conversation_or_several():
    one = [{"role": "user", "content": "a"}]
    assert parse_conversations(one) == ([one], False)
    assert parse_conversations([one, one * 2, one * 3]) == ([one, one * 2, one * 3], True)


def test_sampling_of_a_video_comes_before_that_of_the_call():
    assert sampling_of({"num_frames": 3, "fps": None}, {"fps": 2, "start": 1}) == {"num_frames": 3, "start": 1}
    assert sampling_of({"start": 5}, {"fps": 2, "start": 1}) == {"fps": 2, "start": 5}


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "video", "path": "a", "num_frame": 4}, "A video part of message 1 has the key 'num_frame'"),
        ({"type": "video", "path": "a", "num_frame": 4}, "Did you mean 'num_frames'?"),
        ({"type": "video", "path": "a", "nframes": 4}, "Did you mean 'num_frames'?"),
        ({"type": "video", "path": "a", "max_frame": 4}, "Did you mean 'max_frames'?"),
        ({"type": "video", "path": "a", "video_start": 4}, "Did you mean 'start'?"),
        ({"type": "video", "path": "a", "video_end": 4}, "Did you mean 'end'?"),
        ({"type": "video", "path": "a", "backend": "pyav"}, "Did you mean 'video_backend'?"),
        (
            {"type": "video", "path": "a", "max_pixels": 4},
            "for a processor (max_frame_tokens) or a call (size, max_pixels)",
        ),
        ({"type": "video", "path": "a", "colour": 4}, "Known are type, video, path, url, frames, num_frames"),
        ({"type": "video", "paht": "a"}, "Did you mean 'path'?"),
        ({"type": "video_url", "video_url": ADDRESS, "num_frame": 4}, "Did you mean 'num_frames'?"),
        ({"type": "video_url", "url": ADDRESS}, "Known are type, video_url, num_frames"),
        ({"type": "video_url", "video_url": {"uri": ADDRESS}}, "'video_url' has the key 'uri'"),
        ({"type": "video_url", "video_url": {"url": ADDRESS, "detail": "auto"}}, "'video_url' has the key 'detail'"),
        ({"type": "video_url", "video_url": {}}, "A video_url part of message 1 has no address"),
        ({"type": "video_url"}, "A video_url part of message 1 has no address"),
        ({"type": "image", "imag": "a"}, "An image part of message 1 has the key 'imag'"),
        ({"type": "image", "imag": "a"}, "Did you mean 'image'?"),
        ({"type": "image", "path": "a", "num_frames": 4}, "Known are type, image, path, url, base64"),
        ({"type": "image_url", "image_url": {"url": ADDRESS, "detail": "high"}}, "detail='high'"),
        ({"type": "image_url", "image_url": {"url": ADDRESS, "details": "auto"}}, "Did you mean 'detail'?"),
        ({"type": "text", "text": "a", "texts": "b"}, "A text part of message 1 has the key 'texts'"),
        ({"type": "text", "text": 3}, "has no text, or none that is a string"),
        ({"type": "text"}, "has no text, or none that is a string"),
        ({"type": "vidoe", "path": "a"}, "has type 'vidoe'"),
        ({"type": "vidoe", "path": "a"}, "Did you mean 'video'?"),
        ({"type": "audio", "audio": "a"}, "has type 'audio'; 'video', 'image', 'text', 'video_url'"),
        ({"type": ["video"]}, "has type list"),
        ({"text": "a"}, "has type None"),
        ("a", "A content part of message 1 is 'a'"),
        ({"type": "video", "path": "a", "url": ADDRESS}, "A video part of message 1 names 2 sources: path, url"),
        ({"type": "video", "path": "a", "video": "a", "frames": "a"}, "names 3 sources: video, path, frames"),
        ({"type": "image", "path": "a", "base64": "AAAA"}, "An image part of message 1 names 2 sources: path, base64"),
        ({"type": "video", "url": 3}, "the address is 3"),
        ({"type": "image_url", "image_url": {"url": b"abc"}}, "the address is b'abc'"),
    ],
)
def test_what_nobody_knows_is_refused_with_the_nearest_name(part: Any, words: str):
    assert words in refusal(part)


def test_messages_are_counted_from_the_first_of_the_conversation():
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "txt": "a"}]}]
    with pytest.raises(LinVTInputError, match=r"text part of message 2 has the key 'txt'.*'text'"):
        parse_messages(turns)
    with pytest.raises(LinVTInputError, match="text part of message 5 has"):
        parse_messages(turns, first=4)


@pytest.mark.parametrize("calls", [None, [], ()])
def test_a_turn_without_content_has_to_call_a_tool(calls: Any):
    with pytest.raises(LinVTInputError, match=r"Message 1 \(assistant\) has no content.*'tool_calls'"):
        parse_messages([{"role": "assistant", "content": None, "tool_calls": calls}])


def test_the_nearest_name_is_one_that_is_known():
    assert nearest_name("frames", SAMPLING_ARGUMENTS) == "num_frames"
    assert nearest_name("nframes", ("fps", "start")) is None
    # misspelt names of other packages mean the same, whatever known name looks more like them
    for name, meant in [
        ("nframe", "num_frames"),
        ("nframse", "num_frames"),
        ("video_ends", "end"),
        ("backends", "video_backend"),
    ]:
        assert nearest_name(name, (*SAMPLING_ARGUMENTS, "frames", "video")) == meant
    assert nearest_name("nframe", ("fps", "frames")) == "frames"
    assert nearest_name("video_id", ("video", "question")) == "video"
    assert nearest_name("video_id", ("video", "question"), 0.85) is None


# --- where files may lie ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `media` with a clip, one in a folder of its own and links out of it, beside a secret."""
    media = tmp_path / "media"
    (media / "deep").mkdir(parents=True)
    for path in (media / "a b.mp4", media / "deep" / "c.mp4", tmp_path / "secret.mp4"):
        path.write_bytes(b"video")
    (media / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (media / "up").symlink_to(tmp_path)
    return media


KINDS = {
    "url of a video": lambda address: {"type": "video", "url": address},
    "url of a picture": lambda address: {"type": "image", "url": address},
    "video_url": lambda address: {"type": "video_url", "video_url": {"url": address}},
    "image_url": lambda address: {"type": "image_url", "image_url": address},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_opens_files_below_the_root_of_the_caller_only(folder: Path, kind: str):
    make = KINDS[kind]
    for inside, path in (
        ((folder / "a b.mp4").as_uri(), folder / "a b.mp4"),
        (f"file://localhost{folder}/deep/../deep/c.mp4", folder / "deep" / "c.mp4"),
        ("deep/c.mp4", folder / "deep" / "c.mp4"),
        (str(folder / "a b.mp4"), folder / "a b.mp4"),
    ):
        assert "give your own file as 'path'" in refusal(make(inside)).replace("Give", "give")
        part = parsed(make(inside), video_root=folder)
        assert part == {"type": part["type"], "path": str(path)}
    secret = folder.parent / "secret.mp4"
    ways_out = (
        secret.as_uri(),
        str(secret),
        "../secret.mp4",
        f"file://{folder}/../secret.mp4",
        f"file://{folder}/%2e%2e/secret.mp4",
        f"FILE://{folder}/out.mp4",
        "up/secret.mp4",
        str(folder),
        "file:///etc/hostname",
        "a\0.mp4",
    )
    for outside in ways_out:
        assert "leads out of video_root=" in refusal(make(outside), video_root=folder), outside
    assert "three slashes" in refusal(make("file://host/a.mp4"), video_root=folder)
    for elsewhere in (ADDRESS, DATA, "ftp://example.com/a"):
        assert parsed(make(elsewhere), video_root=folder)["url"] == elsewhere


def test_a_folder_whose_name_begins_alike_is_another_folder(folder: Path):
    (folder.parent / "media2").mkdir()
    assert path_below(str(folder.parent / "media2" / "a.mp4"), folder) is None


def test_what_the_caller_names_is_opened_wherever_it_lies(folder: Path):
    secret = folder.parent / "secret.mp4"
    for key in ("path", "video"):
        assert parsed({"type": "video", key: str(secret)}, video_root=folder)[key] == str(secret)
        assert parsed({"type": "video", key: secret.as_uri()}, video_root=folder)[key] == secret.as_uri()
        assert parsed({"type": "video", key: "deep/c.mp4"}, video_root=folder)[key] == str(folder / "deep" / "c.mp4")
    assert resolved(DATA, folder) == DATA and resolved(b"abc", folder) == b"abc"
    assert resolved({"bytes": None, "path": None}) == {"bytes": None, "path": None}


@pytest.mark.parametrize("num_bytes", [0, 1, 2, 3, 700])
def test_a_data_address_holds_its_bytes_up_to_the_limit(num_bytes: int):
    data = bytes(range(256)) * 3
    data = data[:num_bytes]
    encoded = base64.b64encode(data).decode()
    ways = (encoded, encoded.rstrip("="), encoded.replace("=", "%3D"), "\n".join(encoded))
    for body in ways:
        assert read_data_url(f"data:image/png;base64,{body}", max_bytes=max(num_bytes, 1)) == data
        if num_bytes > 1:
            with pytest.raises(VideoReadError, match=f"over the limit of {num_bytes - 1}"):
                read_data_url(f"data:image/png;base64,{body}", max_bytes=num_bytes - 1)
    with pytest.raises(VideoReadError, match="not base64"):
        read_data_url("data:image/png;base64,AAAA!!!!", max_bytes=None)


def test_a_data_address_over_the_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch):
    decoded: list[Any] = []
    monkeypatch.setattr(base64, "b64decode", lambda text, **_: decoded.append(text))
    with pytest.raises(VideoReadError, match="over the limit of 50"):
        read_data_url("data:video/mp4;base64," + "AAAA" * 20, max_bytes=50)
    assert decoded == []


# --- the same from every door ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava() -> Wrapped:
    return wrapped("llava_phi")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", make_clip("scenes", 3, FRAMES)[0], scale=1)
    PIL.Image.new("RGB", (20, 30), (200, 90, 10)).save(folder / "a.png")
    return folder


def asked(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, TEXT]}]


@pytest.fixture
def doors(llava: Wrapped, monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[..., list[VideoFrames]]]:
    """Ways that a chat goes into the package; each gives the videos that were read for it."""
    ask = pipeline(
        "video-question-answering", model=llava.model, processor=llava.processor, device="cpu", max_new_tokens=1
    )
    videos: list[VideoFrames] = []
    read = video_inputs.read_video
    monkeypatch.setattr(video_inputs, "read_video", lambda *a, **k: videos.append(read(*a, **k)) or videos[-1])
    start_reading = video_inputs.start_reading

    def ahead(*arguments: Any) -> Iterator[Any]:  # where a video is encoded while it is read
        pixels = []
        for item in start_reading(*arguments):
            if isinstance(item, FrameChunk):
                pixels.append(item.frames)
            else:
                videos.append(VideoFrames(**{**vars(item), "frames": np.concatenate(pixels)}))
            yield item

    monkeypatch.setattr(video_inputs, "start_reading", ahead)

    def through(call: Callable[..., Any]) -> Callable[..., list[VideoFrames]]:
        def run(chat: Any, **options: Any) -> list[VideoFrames]:
            videos.clear()
            call(chat, **options)
            return list(videos)

        return run

    answer = {"role": "assistant", "content": "A cat."}
    render = {"tokenize": True, "add_generation_prompt": True, "return_dict": True}

    def train(chat: Any, **options: Any) -> None:
        LinVTDataCollator(llava.processor, **options)([{"messages": [*chat, answer]}])

    return {
        "processor": through(lambda chat, **options: llava.processor.apply_chat_template(chat, **render, **options)),
        "pipeline": through(lambda chat, **options: ask(messages=chat, **options)),
        "positional": through(lambda chat, **options: ask(chat, **options)),
        "dictionary": through(lambda chat, **options: ask({"messages": chat}, **options)),
        "collator": through(train),
        "prompt": through(
            lambda chat, **options: LinVTDataCollator(llava.processor, **options)(
                [{"prompt": chat, "completion": "A cat."}]
            )
        ),
    }


DOORS = ("processor", "pipeline", "positional", "dictionary", "collator", "prompt")


def data_of(path: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


GOOD = {
    "path": (lambda clip: {"type": "video", "path": clip}, 5),
    "path with frames": (lambda clip: {"type": "video", "path": clip, "num_frames": 3}, 3),
    "path with None": (lambda clip: {"type": "video", "path": clip, "url": None, "num_frames": None}, 5),
    "file address": (lambda clip: {"type": "video", "video": clip.as_uri(), "max_frames": 2, "fps": 8}, 2),
    "bytes": (lambda clip: {"type": "video", "video": clip.read_bytes(), "num_frames": 4}, 4),
    "datasets": (lambda clip: {"type": "video", "video": {"path": str(clip), "bytes": None}, "num_frames": 6}, 6),
    "data": (lambda clip: {"type": "video", "url": data_of(clip), "num_frames": 4}, 4),
    "video_url": (lambda clip: {"type": "video_url", "video_url": {"url": data_of(clip)}, "num_frames": 6}, 6),
    "file below the root": (lambda clip: {"type": "video_url", "video_url": {"url": clip.as_uri()}}, 5),
    "name below the root": (lambda clip: {"type": "video", "url": clip.name, "num_frames": 2}, 2),
    "relative path": (lambda clip: {"type": "video", "path": clip.name, "num_frames": 1}, 1),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", GOOD)
def test_a_message_gives_the_same_frames_from_every_door(
    llava: Wrapped, clips: Path, doors: dict, name: str, door: str
):
    make, count = GOOD[name]
    (video,) = doors[door](asked(make(clips / "a.mp4")), num_frames=5, video_root=str(clips))
    expected = llava.processor.read_video(clips / "a.mp4", num_frames=count)
    assert len(video) == count and np.array_equal(video.timestamps, expected.timestamps)
    assert np.array_equal(video.frames, expected.frames)


REFUSED = {
    "num_frame": (
        {"type": "video", "path": "CLIP", "num_frame": 4},
        "has the key 'num_frame'.*Did you mean 'num_frames'",
    ),
    "nframes": ({"type": "video", "path": "CLIP", "nframes": 4}, "has the key 'nframes'.*Did you mean 'num_frames'"),
    "max_pixels": (
        {"type": "video", "path": "CLIP", "max_pixels": 4096},
        "has the key 'max_pixels'.*max_frame_tokens",
    ),
    "video_start": ({"type": "video", "path": "CLIP", "video_start": 1}, "has the key 'video_start'.*'start'"),
    "two sources": ({"type": "video", "path": "CLIP", "video": "CLIP"}, "names 2 sources: video, path"),
    "path and url": ({"type": "video", "path": "CLIP", "url": ADDRESS}, "names 2 sources: path, url"),
    "a wrong type": ({"type": "vidoe", "path": "CLIP"}, "Did you mean 'video'"),
    "a text with more": ({"type": "text", "text": "a", "txt": "b"}, "text part of message 1 has the key 'txt'"),
    "a file of others": ({"type": "video_url", "video_url": {"url": "file:///etc/hostname"}}, "below a folder"),
    "a picture with more": ({"type": "image", "path": "a.png", "max_pixels": 4}, "An image part of message 1 has"),
    "no part": (3, "A content part of message 1 is 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_message_is_refused_with_the_same_sentence_by_every_door(clips: Path, doors: dict, name: str):
    part, words = REFUSED[name]
    if isinstance(part, dict):
        part = {key: str(clips / "a.mp4") if value == "CLIP" else value for key, value in part.items()}
    sentences = set()
    for door in doors.values():
        with pytest.raises(LinVTInputError, match=words) as caught:
            door(asked(part))
        sentences.add(str(caught.value))
    assert len(sentences) == 1


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"role": "user"}, r"Message 1 \(user\) has no content"),
        ({"role": "user", "content": None}, r"Message 1 \(user\) has no content"),
        ({"role": "user", "content": 3}, "content of message 1 is 3"),
        ({"content": "Who?"}, "Message 1 has no role"),
    ],
)
def test_a_message_that_is_none_is_refused_with_the_same_sentence_by_every_door(doors: dict, turn: dict, words: str):
    sentences = set()
    for door in doors.values():
        with pytest.raises(LinVTInputError, match=words) as caught:
            door([turn])
        sentences.add(str(caught.value))
    assert len(sentences) == 1


@pytest.mark.parametrize("door", DOORS)
def test_addresses_and_limits_hold_at_every_door(clips: Path, doors: dict, door: str):
    data = (clips / "a.mp4").stat().st_size
    with pytest.raises((LinVTInputError, VideoReadError), match=r"allow_urls=True|None of the 1 videos"):
        doors[door](asked({"type": "video_url", "video_url": {"url": ADDRESS}}))
    with pytest.raises((LinVTInputError, VideoReadError), match=f"limit of {data - 1}|None of the 1 videos"):
        chat = asked({"type": "video", "url": data_of(clips / "a.mp4")})
        doors[door](chat, limits=VideoLimits(max_bytes=data - 1))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("silent", [{"content": None}, {}])
def test_a_turn_that_calls_a_tool_is_taken_by_every_door(clips: Path, doors: dict, door: str, silent: dict):
    chat = [
        *asked({"type": "video", "path": clips / "a.mp4", "num_frames": 3}),
        {"role": "assistant", **silent, "tool_calls": [CALL]},
        {"role": "user", "content": "And then?"},
    ]
    (video,) = doors[door](chat)
    assert len(video) == 3


def test_tool_calls_that_the_template_does_not_write_are_said(
    llava: Wrapped, doors: dict, clips: Path, caplog: pytest.LogCaptureFixture
):
    logging.get_logger().warning_once.cache_clear()
    chat = [
        *asked({"type": "video", "path": clips / "a.mp4", "num_frames": 3}),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "user", "content": "And then?"},
    ]
    assert "tool_calls" not in llava.processor.chat_template
    doors["processor"](chat)
    assert "does not write tool calls" in caplog.text


def test_a_picture_of_a_chat_is_opened_as_far_as_the_call_of_the_pipeline_allows(
    clips: Path, doors: dict, llava: Wrapped
):
    stream = io.BytesIO()
    PIL.Image.open(clips / "a.png").save(stream, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    limit = len(stream.getvalue()) - 1
    for part in ({"type": "image_url", "image_url": {"url": address}}, {"type": "image", "path": "a.png"}):
        doors["pipeline"](asked(part), video_root=clips)
    for name in ("processor", "pipeline"):
        with pytest.raises(LinVTInputError, match=f"limit of {limit}"):
            chat = asked({"type": "image_url", "image_url": {"url": address}})
            doors[name](chat, limits=VideoLimits(max_bytes=limit))
