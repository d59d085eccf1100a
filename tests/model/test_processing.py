"""
The processor: what chat messages with videos become, for all nine families, and what bad input gets.

Videos are random pixels, so that two frames are never the same, and no two sizes are. `M` video tokens, `T` frames.
"""

import base64
import copy
import http.server
import io
import json
import pickle
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils import logging

from base_specs import BASES
from tiny_bases import build_processor, save_base
from transformers_linvt import LinVTProcessor
from transformers_linvt.bases.kinds.molmo2 import Molmo2View
from transformers_linvt.bases.layouts import PatchGrid
from transformers_linvt.bases.registry import bridge_of
from transformers_linvt.errors import CheckpointError, LinVTInputError, UnsupportedBaseError, VideoReadError
from transformers_linvt.model.processing_linvt import VIDEO_TOKEN, RenderedPrompt
from transformers_linvt.video.frames import VideoFrames
from transformers_linvt.video.limits import VideoLimits


M = 6
QUESTION = "What is in the video?"
CHAT = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
FAMILIES = list(BASES)
FRAME_INPUTS = {  # what the vision tower takes; families that are not here take the pixels alone
    "qwen2_vl": {"pixel_values", "image_grid_thw"},
    "qwen2_5_vl": {"pixel_values", "image_grid_thw"},
    "qwen3_vl": {"pixel_values", "image_grid_thw"},
    "llava_onevision": {"pixel_values", "image_sizes"},
    "smolvlm": {"pixel_values", "pixel_attention_mask"},
    "molmo2": {"pixel_values", "image_token_pooling", "image_grids", "image_num_crops"},
}
TYPE_IDS_AT_VIDEOS = {  # name and value; families that are not here have none
    "qwen2_vl": ("mm_token_type_ids", 0),
    "qwen2_5_vl": ("mm_token_type_ids", 0),
    "qwen3_vl": ("mm_token_type_ids", 0),
    "gemma3": ("token_type_ids", 1),
    "molmo2": ("mm_token_type_ids", 1),
}
# Renders alike for every family: the placeholder, then the texts, and the assistant's words between generation tags.
GENERATION_TEMPLATE = """\
{%- for message in messages %}{{ message.role }}> {% if message.role == 'assistant' %}
{%- generation %}{{ message.content if message.content is string else message.content[0].text }} end{% endgeneration %}
{%- elif message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}{% if item.type == 'image' %}PLACEHOLDER{% else %}{{ item.text }}{% endif %}
{%- endfor %}
{%- endif %}
{% endfor %}"""


@pytest.fixture(scope="module")
def processors() -> dict[str, LinVTProcessor]:
    made = {name: build_processor(name) for name in FAMILIES}
    return {name: LinVTProcessor.from_base(one, num_video_tokens=M, frame_path="image") for name, one in made.items()}


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def processor(processors: dict[str, LinVTProcessor], name: str) -> LinVTProcessor:
    return processors[name]


@pytest.fixture
def llava(processors: dict[str, LinVTProcessor]) -> LinVTProcessor:
    return processors["llava_phi"]


@pytest.fixture(scope="module")
def h264(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames at 4 per second whose grey value is ten times their number."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.options = {"crf": "0"}
        for number in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 80, 3), 10 * number, np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def clip(num_frames: int, seed: int = 0, size: tuple[int, int] = (48, 80)) -> VideoFrames:
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, *size, 3), dtype=np.uint8)
    seconds = np.arange(num_frames) ** 1.5
    return VideoFrames(frames, seconds, "<frames in memory>", "memory", float(seconds[-1]) + 1.0, num_frames, None)


def picture(seed: int = 99, size: tuple[int, int] = (40, 60)) -> PIL.Image.Image:
    return PIL.Image.fromarray(clip(1, seed, size).frames[0])


def part(what: Any) -> dict[str, Any]:
    kind, key = ("text", "text") if isinstance(what, str) else ("video", "video")
    if isinstance(what, PIL.Image.Image):
        kind, key = "image", "image"
    return {"type": kind, key: what}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    return {"role": role, "content": [part(one) for one in parts]}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [turn("user", *parts)]


def asked(processor: LinVTProcessor, inputs: Any, row: int = 0) -> str:
    """The text at the question mask of a row."""
    ids = torch.as_tensor(inputs["input_ids"][row])
    return processor.tokenizer.decode(ids[torch.as_tensor(inputs["question_mask"][row]).bool()])


def same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[key].dtype == value.dtype, key
            assert torch.equal(ours[key], value), key
        else:
            np.testing.assert_array_equal(np.asarray(ours[key]), np.asarray(value), err_msg=key)


# ---------------------------------------------------------------------------------------------------------------------
# Placeholders, masks, type ids
# ---------------------------------------------------------------------------------------------------------------------


def test_a_video_is_m_image_tokens_between_the_markers_of_the_base(processor: LinVTProcessor):
    """The markers are what the base itself writes around a picture."""
    inputs = processor.apply_chat_template(user(clip(3), QUESTION), **CHAT)
    base, token = processor.base_processor, processor.markers.token
    alone = base(text=[base.image_token], images=[[picture()]], return_tensors="pt")
    of_picture = base.tokenizer.decode(alone["input_ids"][0])
    before, after = processor.markers.before, processor.markers.after
    assert f"{before}{token}" in of_picture
    assert f"{token}{after}" in of_picture
    written = base.tokenizer.decode(inputs["input_ids"][0])
    assert written.count(before + M * token + after) == 1
    assert written.count(token) == M


def test_the_video_mask_lies_on_the_placeholders_of_videos_and_on_nothing_else(processor: LinVTProcessor):
    inputs = processor.apply_chat_template(user(clip(3), picture(), QUESTION, clip(2, 1)), **CHAT)
    placeholders = inputs["input_ids"] == processor.markers.token_id
    assert inputs["video_mask"].sum() == 2 * M
    assert not (inputs["video_mask"].bool() & ~placeholders).any()
    of_picture = placeholders & ~inputs["video_mask"].bool()
    alone = processor.base_processor(text=[processor.markers.placeholder], images=[[picture()]], return_tensors="pt")
    assert of_picture.sum() == (alone["input_ids"] == processor.markers.token_id).sum()
    if processor.base_model_type not in ("llava", "llava_onevision", "molmo2"):  # their templates put pictures first
        kinds = inputs["video_mask"][placeholders].tolist()
        assert kinds == [1] * M + [0] * int(of_picture.sum()) + [1] * M


def test_type_ids_are_those_that_the_family_needs(processor: LinVTProcessor, name: str):
    inputs = processor.apply_chat_template(user(clip(3), picture(), QUESTION), **CHAT)
    found = [key for key in inputs if key.endswith("token_type_ids")]
    if name not in TYPE_IDS_AT_VIDEOS:
        assert found == []
        return
    key, value = TYPE_IDS_AT_VIDEOS[name]
    assert found == [key]
    assert set(inputs[key][inputs["video_mask"].bool()].tolist()) == {value}
    of_picture = (inputs["input_ids"] == processor.markers.token_id) & ~inputs["video_mask"].bool()
    assert set(inputs[key][of_picture].tolist()) == {1}
    assert set(inputs[key][inputs["question_mask"].bool()].tolist()) == {0}


def test_names_of_the_inputs_are_announced(processor: LinVTProcessor):
    inputs = processor.apply_chat_template(user(clip(3), picture(), QUESTION), **CHAT)
    announced = set(processor.model_input_names)
    assert set(inputs) <= announced and "frame_pixel_values" in announced
    # nothing of the base's own way of videos; times among the video tokens where they are asked for
    assert {name for name in announced - set(inputs) if "video" in name} == {"video_time_ids"}


# ---------------------------------------------------------------------------------------------------------------------
# The question
# ---------------------------------------------------------------------------------------------------------------------


def test_the_question_mask_holds_the_question_and_nothing_else(processor: LinVTProcessor):
    inputs = processor.apply_chat_template(user(clip(3), QUESTION), **CHAT)
    assert asked(processor, inputs).strip() == QUESTION
    assert not (inputs["question_mask"] & inputs["video_mask"]).any()


def test_the_question_is_the_last_turn_of_the_user_wherever_else_it_stands(processor: LinVTProcessor):
    """The same words come before, in the system prompt and in the answer after it: only one place is marked."""
    messages = [
        turn("system", f"{QUESTION} Be brief."),
        turn("user", clip(3), QUESTION),
        turn("assistant", f"{QUESTION} A ball."),
        turn("user", QUESTION),
        turn("assistant", f"{QUESTION} A cat."),
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert asked(processor, inputs).strip() == QUESTION
    before = processor.apply_chat_template(messages[:3], tokenize=True, return_dict=True)["input_ids"].shape[1]
    after = processor.apply_chat_template(messages[:4], tokenize=True, return_dict=True)["input_ids"].shape[1]
    place = inputs["question_mask"][0].nonzero().flatten()
    assert before - 2 < place.min() and place.max() < after  # a template may end a turn with a token of the next


@pytest.mark.parametrize("text", ["  \n What is it? \n", "Où est la 赤い balle?", "a", "Who?\n\nAnd where?"])
def test_the_question_is_found_whatever_it_is_written_with(processor: LinVTProcessor, text: str):
    """Gemma's template strips texts."""
    inputs = processor.apply_chat_template(user(clip(2), text), **CHAT)
    assert asked(processor, inputs).strip() == text.strip()


def test_all_text_parts_of_the_turn_are_the_question(processor: LinVTProcessor):
    inputs = processor.apply_chat_template(user("First this:", clip(2), "what is it?"), **CHAT)
    assert "".join(asked(processor, inputs).split()) == "Firstthis:whatisit?"


def test_a_turn_without_text_leaves_the_question_to_the_turn_before(llava: LinVTProcessor):
    inputs = llava.apply_chat_template([turn("user", QUESTION), turn("user", clip(2))], **CHAT)
    assert asked(llava, inputs).strip() == QUESTION


def test_every_row_of_a_batch_has_its_own_question(processor: LinVTProcessor):
    questions = ["Who?", "Where does the red ball go at the end?"]
    inputs = processor.apply_chat_template([user(clip(2), questions[0]), user(clip(3, 1), questions[1])], **CHAT)
    assert [asked(processor, inputs, row).strip() for row in range(2)] == questions
    alone = processor.apply_chat_template(user(clip(2), questions[0]), **CHAT)
    length = alone["input_ids"].shape[1]
    for key in ("input_ids", "attention_mask", "video_mask", "question_mask"):
        assert torch.equal(inputs[key][:1, -length:], alone[key]), key
        assert inputs["attention_mask"][0, :-length].sum() == 0  # padded on the left


def test_a_template_that_changes_the_question_marks_all_text_only_when_there_is_no_answer_to_learn(
    llava: LinVTProcessor,
):
    template = llava.chat_template.replace("{{ item.text }}", "{{ item.text | capitalize }}")
    assert template != llava.chat_template
    messages = [*user(clip(2), "what is it?"), turn("assistant", "a ball")]
    inputs = llava.apply_chat_template(user(clip(2), "what is it?"), chat_template=template, **CHAT)
    assert "What is it?" in asked(llava, inputs)
    assert "ASSISTANT" in asked(llava, inputs)
    # all text is a span of the prompt in which the placeholders of the video stand: they ask nothing
    marked = inputs["input_ids"][inputs["question_mask"].bool()]
    assert not set(marked.tolist()) & {llava.markers.token_id, *llava.tokenizer.all_special_ids}
    assert not (inputs["question_mask"] & inputs["video_mask"]).any() and inputs["video_mask"].any()
    learnt = llava.apply_chat_template(messages, chat_template=template, tokenize=True, return_dict=True)
    assert asked(llava, learnt) == ""


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_tokenizer_without_offsets_finds_the_question_too(monkeypatch, llava: LinVTProcessor, side: str):
    messages = [turn("system", QUESTION), turn("user", clip(2), QUESTION), turn("assistant", "Yes. A ball.")]
    batch = [messages, user(clip(2), "Who is it, and why does he come so late?")]
    expected = llava.apply_chat_template(batch, tokenize=True, return_dict=True, padding_side=side)
    monkeypatch.setattr(type(llava.tokenizer), "is_fast", property(lambda self: False))
    found = llava.apply_chat_template(batch, tokenize=True, return_dict=True, padding_side=side)
    for row in range(2):
        assert asked(llava, found, row).strip() == asked(llava, expected, row).strip() != ""


def test_no_question_marks_nothing_when_learning_a_caption(processor: LinVTProcessor):
    """The caption itself must not condition the video tokens it is learnt from."""
    messages = [turn("user", clip(2)), turn("assistant", "A ball rolls.")]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert inputs["question_mask"].sum() == 0


def test_a_plain_prompt_takes_the_given_question_where_it_stands_last(llava: LinVTProcessor):
    text = f"{VIDEO_TOKEN} Who? USER: {VIDEO_TOKEN} Who? ASSISTANT:"
    inputs = llava(text=text, videos=[clip(2), clip(3, 1)], question="Who?")
    assert asked(llava, inputs).strip() == "Who?"
    assert inputs["question_mask"][0].nonzero().min() > inputs["video_mask"][0].nonzero().max()


def test_a_plain_prompt_marks_nothing_and_says_so_once(llava: LinVTProcessor, caplog: pytest.LogCaptureFixture):
    """All of its text would hold the answer too, when it is a prompt to learn from."""
    rendered = llava.apply_chat_template(user(clip(2), QUESTION), add_generation_prompt=True)
    joined = rendered + " A red ball."
    type(logging.get_logger("transformers_linvt")).warning_once.cache_clear()
    caplog.clear()
    for text in (joined, rendered[:-3], f"{VIDEO_TOKEN} Who?"):
        assert llava(text=text, videos=clip(2))["question_mask"].sum() == 0
    (warned,) = [one.getMessage() for one in caplog.records]
    assert "question=" in warned and "apply_chat_template" in warned
    mixed = llava(text=[rendered, joined], videos=[clip(2), clip(2)], padding=True)
    assert [asked(llava, mixed, row).strip() for row in range(2)] == [QUESTION, ""]
    assert asked(llava, llava(text=joined, videos=clip(2), question=QUESTION)).strip() == QUESTION
    caplog.clear()
    assert asked(llava, llava(text=rendered, videos=clip(2))).strip() == QUESTION
    assert not caplog.records


def test_question_inputs_are_the_prompt_of_a_chat_without_its_frames(processor: LinVTProcessor):
    alone = processor.question_inputs([QUESTION])
    chat = processor.apply_chat_template(user(clip(3), QUESTION), **CHAT)
    assert set(alone) == {key for key in chat if not key.startswith(("frame", "video_timestamps"))}
    for key in alone:
        assert torch.equal(alone[key], chat[key]), key
    several = processor.question_inputs(["Who?", QUESTION])
    assert [asked(processor, several, row).strip() for row in range(2)] == ["Who?", QUESTION]
    assert several["video_mask"].sum(1).tolist() == [M, M]


# ---------------------------------------------------------------------------------------------------------------------
# Frames
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 2, 5])
def test_every_frame_is_one_tile_and_the_same_as_alone(processor: LinVTProcessor, num_frames: int):
    """Also one frame: a family that splits a lone picture into tiles must not do it to a frame."""
    video = clip(num_frames)
    inputs = processor.video_inputs(video)
    assert inputs["frames_per_video"].tolist() == [num_frames]
    np.testing.assert_allclose(inputs["video_timestamps"], video.timestamps)
    layout = bridge_of(processor.base_model_type).family.layout
    if isinstance(layout, PatchGrid):
        assert inputs["frame_image_grid_thw"].tolist() == [[1, 6, 10]] * num_frames
    elif isinstance(layout, Molmo2View):
        assert inputs["frame_image_num_crops"].tolist() == [1] * num_frames
    else:
        assert len(inputs["frame_pixel_values"]) == num_frames
    alone = [processor.video_inputs(_frames(video, [i])) for i in range(num_frames)]
    assert torch.equal(inputs["frame_pixel_values"], torch.cat([one["frame_pixel_values"] for one in alone]))


def test_frames_come_under_the_names_of_the_base_with_a_prefix(processor: LinVTProcessor, name: str):
    """What the image processor only makes to write the prompt (Gemma's `num_crops`) is no input of the model."""
    frames = {f"frame_{one}" for one in FRAME_INPUTS.get(name, {"pixel_values"})}
    assert set(processor.video_inputs(clip(2))) == {*frames, "frames_per_video", "video_timestamps"}


def _frames(video: VideoFrames, places: list[int]) -> VideoFrames:
    return VideoFrames(video.frames[places], video.timestamps[places], "", "memory", 1.0, len(places), None)


def test_videos_of_different_sizes_go_into_one_batch(processor: LinVTProcessor):
    """The frames of a batch are those of each video alone, one video after the other."""
    videos = [clip(3, 0, (48, 80)), clip(2, 1, (80, 48)), clip(1, 2, (56, 56))]
    inputs = processor.apply_chat_template([user(one, QUESTION) for one in videos], **CHAT)
    assert inputs["frames_per_video"].tolist() == [3, 2, 1]
    assert len(inputs["video_timestamps"]) == 6
    alone = [processor.video_inputs(one) for one in videos]
    for key in alone[0]:
        expected = [one[key] for one in alone]
        if len({value.shape[1:] for value in expected}) == 1:
            assert torch.equal(inputs[key], torch.cat(expected)), key


def test_every_way_to_give_a_video_gives_the_same_frames(llava: LinVTProcessor, h264: Path):
    video = llava.read_video(h264, num_frames=12)
    np.testing.assert_allclose(video.frames.mean((1, 2, 3)), np.arange(12) * 10, atol=2)
    memory = {"timestamps": video.timestamps.tolist()}
    ways = [
        {"video": str(h264)},
        {"path": str(h264)},
        {"path": h264},
        {"path": h264.as_uri()},
        {"url": f"data:video/mp4;base64,{base64.b64encode(h264.read_bytes()).decode()}"},
        {"video": h264.read_bytes()},
        {"video": {"path": str(h264), "bytes": None}},
        {"video": video},
        {"video": video.frames, **memory},
        {"frames": torch.from_numpy(video.frames), **memory},
        {"frames": torch.from_numpy(video.frames).permute(0, 3, 1, 2), **memory},
        {"video": [PIL.Image.fromarray(frame) for frame in video.frames], **memory},
        {"frames": list(video.frames), **memory},
    ]
    expected = llava.video_inputs(h264, num_frames=12)
    for way in ways:
        messages = [{"role": "user", "content": [{"type": "video", **way}, part(QUESTION)]}]
        inputs = llava.apply_chat_template(messages, num_frames=12, **CHAT)
        for key in expected:
            assert torch.equal(inputs[key], expected[key]), (key, list(way))


def test_sampling_of_a_part_comes_before_that_of_the_call(llava: LinVTProcessor, h264: Path):
    def sampled(call: dict[str, Any], **own: Any) -> list[float]:
        messages = [{"role": "user", "content": [{"type": "video", "path": h264, **own}, part(QUESTION)]}]
        return llava.apply_chat_template(messages, **call, **CHAT)["video_timestamps"].tolist()

    assert len(sampled({})) == 12  # 32 asked for, all there are
    assert len(sampled({"num_frames": 3})) == 3
    assert len(sampled({"num_frames": 3}, num_frames=5)) == 5
    assert sampled({"num_frames": 3}, fps=1) == [0.0, 1.0, 2.0]
    assert len(sampled({"fps": 1}, num_frames=5)) == 5
    assert len(sampled({"max_frames": 7})) == 7
    assert sampled({"fps": 4, "start": 1.0}, end=1.5) == [1.0, 1.25, 1.5]
    assert len(sampled({"processor_kwargs": {"num_frames": 3}})) == 3
    assert len(sampled({"videos_kwargs": {"num_frames": 3}})) == 3
    assert len(sampled({"processor_kwargs": {"videos_kwargs": {"num_frames": 3}}})) == 3


def test_options_of_the_image_processor_reach_the_frames(processors: dict[str, LinVTProcessor]):
    """Qwen's `size` is an area in pixels: a smaller one gives fewer tokens per frame. One tile stays one tile."""
    small = {"videos_kwargs": {"size": {"shortest_edge": 256, "longest_edge": 48 * 32}}}
    inputs = processors["qwen2_vl"].apply_chat_template(user(clip(3), QUESTION), **small, **CHAT)
    assert inputs["frame_image_grid_thw"].tolist() == [[1, 2, 6]] * 3
    split = {"processor_kwargs": {"do_image_splitting": True}}
    inputs = processors["smolvlm"].apply_chat_template(user(clip(3), QUESTION), **split, **CHAT)
    assert inputs["frame_pixel_values"].shape[:2] == (3, 1)


def test_times_of_the_frames_are_written_behind_their_video_and_are_no_question(processor: LinVTProcessor):
    videos = [clip(3), clip(2, 1)]
    chat = user(videos[0], "Is it", videos[1], "or this?")
    inputs = processor.apply_chat_template(chat, add_timestamps=True, **CHAT)
    written = processor.tokenizer.decode(inputs["input_ids"][0])
    first = "Video of 3.8 seconds, frames at 0.0, 1.0, 2.8 seconds.\nIs it"
    second = "Video of 2.0 seconds, frames at 0.0, 1.0 seconds.\nor this?"
    assert written.count(first) == written.count(second) == 1
    assert written.index(first) < written.index(second)
    assert "".join(asked(processor, inputs).split()) == "Isitorthis?"
    assert "seconds" not in processor.apply_chat_template(chat, add_generation_prompt=True)
    last = processor.apply_chat_template([turn("user", QUESTION, videos[1])], add_timestamps=True, **CHAT)
    assert "frames at 0.0, 1.0 seconds." in processor.tokenizer.decode(last["input_ids"][0])


# ---------------------------------------------------------------------------------------------------------------------
# The two ways to call, and the base's own
# ---------------------------------------------------------------------------------------------------------------------


def conversations() -> dict[str, list[list[dict[str, Any]]]]:
    return {
        "one": [user(clip(3), QUESTION)],
        "text first": [user(QUESTION, clip(3))],
        "several": [user(clip(3), clip(2, 1), "Which is longer?")],
        "mixed": [user(clip(3), picture(), picture(98, (64, 32)), QUESTION, clip(2, 1))],
        "turns": [
            [
                turn("system", "Be brief."),
                turn("user", picture(), "What is this?"),
                turn("assistant", "A ball."),
                turn("user", clip(3), clip(1, 1), QUESTION),
            ]
        ],
        "batch": [
            user(clip(3), QUESTION),
            [{"role": "user", "content": "No video here. Is that fine?"}],
            user(picture(), clip(2, 1), "Which of them is it?", picture(97), clip(4, 2)),
        ],
    }


@pytest.mark.parametrize("what", list(conversations()))
@pytest.mark.parametrize("add_timestamps", [False, True])
def test_one_call_equals_rendering_and_then_processing(processor: LinVTProcessor, what: str, add_timestamps: bool):
    batch = conversations()[what]
    given: Any = batch if len(batch) > 1 else batch[0]
    flags = {"add_generation_prompt": True, "add_timestamps": add_timestamps}
    once = processor.apply_chat_template(given, **{**CHAT, **flags})
    prompts = processor.apply_chat_template(given, tokenize=False, **flags)
    parts = [one for messages in batch for m in messages if isinstance(m["content"], list) for one in m["content"]]
    videos = [one["video"] for one in parts if one["type"] == "video"]
    pictures = [one["image"] for one in parts if one["type"] == "image"]
    twice = processor(text=prompts, videos=videos, images=pictures or None, padding_side="left", return_tensors="pt")
    same(once, twice)
    assert once["frames_per_video"].tolist() == [len(video.frames) for video in videos]


def test_videos_and_pictures_may_be_given_per_prompt(llava: LinVTProcessor):
    texts = [f"{VIDEO_TOKEN}{VIDEO_TOKEN} a?", f"<image>{VIDEO_TOKEN}<image> b?"]
    videos, pictures = [clip(3), clip(2, 1), clip(1, 2)], [picture(), picture(98)]
    flat = llava(text=texts, videos=videos, images=pictures)
    same(llava(text=texts, videos=[videos[:2], videos[2:]], images=[[], pictures]), flat)
    frames = [list(one.frames) for one in videos]
    assert llava(text=texts, videos=frames, images=pictures)["frames_per_video"].tolist() == [3, 2, 1]


def test_a_prompt_remembers_its_question_through_a_pickle(llava: LinVTProcessor):
    prompt = llava.apply_chat_template(user(clip(3), QUESTION), add_generation_prompt=True)
    assert isinstance(prompt, RenderedPrompt) and isinstance(prompt, str)
    ((start, stop),) = prompt.question_spans
    assert prompt[start:stop] == QUESTION
    again = pickle.loads(pickle.dumps(prompt))
    assert again == prompt and again.question_spans == prompt.question_spans
    assert copy.deepcopy(prompt).question_spans == prompt.question_spans
    assert type(prompt + "!") is str


def without_video() -> dict[str, Any]:
    pictures = user(picture(), picture(98, (64, 32)), QUESTION)
    text = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    return {"a picture": user(picture(), QUESTION), "pictures": pictures, "text": text, "batch": [pictures, text]}


@pytest.mark.parametrize("what", list(without_video()))
@pytest.mark.parametrize("tensors", ["pt", None, "auto"])
def test_pictures_and_text_give_what_the_base_gives(processor: LinVTProcessor, what: str, tensors: str | None):
    chat = without_video()[what]
    call = {"tokenize": True, "add_generation_prompt": True, "return_tensors": tensors}
    padding = {"padding": True} if what == "batch" and tensors == "pt" else {}
    theirs = processor.base_processor.apply_chat_template(
        copy.deepcopy(chat), return_dict=True, processor_kwargs=padding, **call
    )
    ours = processor.apply_chat_template(chat, num_frames=4, return_dict=True, **call)
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        assert type(ours[key]) is type(value), key
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[key], value), key
        else:
            assert _plain(ours[key]) == _plain(value), key
    ids = processor.apply_chat_template(chat, **call)
    assert _plain(ids) == _plain(theirs["input_ids"])
    rendered = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert rendered == processor.base_processor.apply_chat_template(chat, add_generation_prompt=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if hasattr(value, "tolist") else value


def test_a_rendered_picture_prompt_processes_as_with_the_base(processor: LinVTProcessor):
    chat = without_video()["pictures"]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    pictures = [[one["image"] for one in chat[0]["content"] if one["type"] == "image"]]
    same(
        processor(text=[text], images=pictures, return_tensors="pt"),
        processor.base_processor(text=[text], images=pictures, return_tensors="pt"),
    )


def test_pictures_beside_a_video_are_what_the_base_makes_of_them(processor: LinVTProcessor):
    pictures = [picture(), picture(98, (64, 32))]
    inputs = processor.apply_chat_template(user(clip(3), *pictures, QUESTION), **CHAT)
    alone = processor.apply_chat_template(user(*pictures, QUESTION), **CHAT)
    names = [key for key in alone if key.startswith(("pixel", "image", "batch"))]
    assert names
    for key in names:
        assert torch.equal(inputs[key], alone[key]), key


def test_keys_without_a_value_are_no_keys(processor: LinVTProcessor):
    """`datasets` gives all parts of a column the same keys; templates ask whether `image` is there."""
    sparse = [
        {
            "role": "user",
            "tool_calls": None,
            "content": [
                {"type": "video", "video": clip(3), "image": None, "text": None, "num_frames": None},
                {"type": "text", "text": QUESTION, "video": None, "image": None, "num_frames": None},
            ],
        }
    ]
    same(processor.apply_chat_template(sparse, **CHAT), processor.apply_chat_template(user(clip(3), QUESTION), **CHAT))


@pytest.mark.parametrize("has_video", [False, True])
def test_a_turn_that_calls_a_tool_may_go_without_content(processor: LinVTProcessor, has_video: bool):
    """SmolVLM's template looks into the first part of every turn and fails where there is none."""
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    chats = [
        [*user(*[clip(2)] * has_video, "Who?"), {"role": "assistant", **silent, "tool_calls": [call]}, *user(QUESTION)]
        for silent in ({"content": None}, {})
    ]
    same(*[processor.apply_chat_template(chat, **CHAT) for chat in chats])
    assert QUESTION in processor.apply_chat_template(chats[0], add_generation_prompt=True)


def test_messages_are_not_changed(llava: LinVTProcessor):
    chat = user(clip(2), picture(), QUESTION)
    before = [dict(one) for one in chat[0]["content"]]
    llava.apply_chat_template(chat, add_timestamps=True, **CHAT)
    llava.apply_chat_template(user_of_pictures := user(picture(), QUESTION), **CHAT)
    assert len(chat) == 1 and [list(one) for one in chat[0]["content"]] == [list(one) for one in before]
    assert list(user_of_pictures[0]["content"][0]) == ["type", "image"]


@pytest.mark.parametrize("form", ["path", "pathlib", "bytes", "openai", "file address", "datasets", "base64"])
def test_a_picture_may_be_given_as_a_file(llava: LinVTProcessor, tmp_path: Path, form: str):
    path = tmp_path / "picture.png"
    picture().save(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    forms = {
        "path": {"type": "image", "path": str(path)},
        "pathlib": {"type": "image", "image": path},
        "bytes": {"type": "image", "image": path.read_bytes()},
        "openai": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}", "detail": "auto"}},
        "file address": {"type": "image", "path": path.as_uri()},
        "datasets": {"type": "image", "image": {"path": None, "bytes": path.read_bytes()}},
        "base64": {"type": "image", "base64": encoded},
    }
    for others in ([], [clip(2)]):
        chat = [{"role": "user", "content": [forms[form], *map(part, others), part(QUESTION)]}]
        expected = llava.apply_chat_template(user(picture(), *others, QUESTION), **CHAT)
        same(llava.apply_chat_template(chat, **CHAT), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Forms of the output
# ---------------------------------------------------------------------------------------------------------------------


def test_padding_is_on_the_left_for_answers_and_where_it_is_asked_for_otherwise(processor: LinVTProcessor):
    side = processor.tokenizer.padding_side
    batch = [user(clip(2), "Who?"), user(clip(2), "What happens at the end of the video?")]
    answering = processor.apply_chat_template(batch, **CHAT)["attention_mask"]
    learning = processor.apply_chat_template(
        batch, tokenize=True, return_dict=True, processor_kwargs={"padding": True, "padding_side": "right"}
    )["attention_mask"]
    assert answering[0, 0] == 0 and answering[0, -1] == 1
    assert learning[0, 0] == 1 and learning[0, -1] == 0
    padded = processor.apply_chat_template(batch, padding="max_length", max_length=150, **CHAT)
    for key in ("input_ids", "attention_mask", "video_mask", "question_mask"):
        assert padded[key].shape == (2, 150), key
    assert asked(processor, padded).strip() == "Who?"
    assert processor.tokenizer.padding_side == side


def test_answers_are_padded_on_the_left_also_where_the_tokenizer_pads_on_the_right(llava: LinVTProcessor):
    other = copy.deepcopy(llava)
    other.tokenizer.padding_side = "right"
    batch = [user(clip(2), "Who?"), user(clip(2), "What happens at the end of the video?")]
    assert other.apply_chat_template(batch, **CHAT)["attention_mask"][0, 0] == 0
    assert other.apply_chat_template(batch, tokenize=True, return_dict=True)["attention_mask"][0, 0] == 1
    right = other.apply_chat_template(batch, padding_side="right", **CHAT)
    assert right["attention_mask"][0, 0] == 1
    assert asked(other, right).strip() == "Who?"


@pytest.mark.parametrize(
    ("given", "call"),
    [
        ({"padding": "max_length", "max_length": 130}, {}),
        ({"padding": "max_length", "max_length": 130, "padding_side": "right"}, {"add_generation_prompt": False}),
        ({"truncation": True, "max_length": 70, "truncation_side": "right"}, {"add_generation_prompt": False}),
    ],
)
def test_what_the_tokenizer_was_loaded_with_holds_for_videos_as_for_pictures(
    processors: dict[str, LinVTProcessor], tmp_path: Path, given: dict[str, Any], call: dict[str, Any]
):
    processors["llava_phi"].save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, **given)
    how, question = {**CHAT, **call}, f"{QUESTION} {'And what? ' * 4}"
    for processor in (
        AutoProcessor.from_pretrained(tmp_path, tokenizer=tokenizer),
        AutoProcessor.from_pretrained(tmp_path, **given),
    ):
        for visual in (picture(), clip(2)):
            there = processor.apply_chat_template(user(visual, question), **how)["attention_mask"][0].tolist()
            assert len(there) == given["max_length"]
            is_right = "padding_side" in given
            assert "truncation" in given or (there[0], there[-1]) == ((1, 0) if is_right else (0, 1))
        # what a call says comes before
        own = {"padding": "max_length", "max_length": 201, "truncation": False}
        assert processor.apply_chat_template(user(clip(2), question), **how, **own)["input_ids"].shape == (1, 201)


def test_lists_and_arrays_come_back_where_they_are_asked_for(processor: LinVTProcessor):
    chat = user(clip(2), picture(), QUESTION)
    tensors = processor.apply_chat_template(chat, **CHAT)
    lists = processor.apply_chat_template(chat, **{**CHAT, "return_tensors": None})
    arrays = processor.apply_chat_template(chat, **{**CHAT, "return_tensors": "np"})
    assert isinstance(lists["input_ids"], list) and isinstance(lists["question_mask"][0], list)
    for key, value in tensors.items():
        assert isinstance(arrays[key], np.ndarray), key
        np.testing.assert_array_equal(arrays[key], value.numpy())
        np.testing.assert_array_equal(np.asarray(lists[key]), value.numpy())
    ragged = [user(clip(2), "Who?"), user(clip(2), QUESTION)]
    unpadded = processor.apply_chat_template(ragged, **{**CHAT, "return_tensors": None})["input_ids"]
    assert len(unpadded[0]) < len(unpadded[1])
    default = processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)
    assert torch.equal(default, tensors["input_ids"])


def test_text_behind_the_video_may_be_cut_but_no_video(llava: LinVTProcessor):
    chat = [*user(clip(2), "Who?"), turn("assistant", "A ball. " * 30)]
    whole = llava.apply_chat_template(chat, tokenize=True)
    cut = llava.apply_chat_template(chat, tokenize=True, truncation=True, max_length=whole.shape[1] - 9)
    assert torch.equal(cut, whole[:, :-9])
    with pytest.raises(LinVTInputError, match="lost placeholders: 6 were written, 0 are left"):
        llava.apply_chat_template(chat, tokenize=True, truncation=True, max_length=9)


def test_the_first_special_token_is_written_once(processors: dict[str, LinVTProcessor]):
    for name in ("gemma3", "molmo2", "llava_phi"):
        one = processors[name]
        ids = one.apply_chat_template(user(clip(2), QUESTION), **CHAT)["input_ids"][0].tolist()
        again = one(text=one.apply_chat_template(user(clip(2), QUESTION), add_generation_prompt=True), videos=clip(2))
        assert ids == again["input_ids"][0].tolist()
        if name != "llava_phi":
            assert ids[0] == one.tokenizer.bos_token_id != ids[1]


# ---------------------------------------------------------------------------------------------------------------------
# The assistant's words
# ---------------------------------------------------------------------------------------------------------------------


def test_assistant_masks_lie_on_the_assistants_words(processor: LinVTProcessor):
    """Placeholders before and between the words move them; each is where it was."""
    template = GENERATION_TEMPLATE.replace("PLACEHOLDER", processor.markers.placeholder)
    batch = [
        [
            turn("user", clip(2), picture(), "Who?"),
            turn("assistant", "A red ball"),
            turn("user", clip(3, 1), "And here?"),
            turn("assistant", "Two people"),
        ],
        [turn("user", clip(2), QUESTION), turn("assistant", "Nothing at all")],
    ]
    call = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "padding_side": "right"}
    inputs = processor.apply_chat_template(batch, chat_template=template, **call)
    masks = inputs["assistant_masks"]
    assert masks.shape == inputs["input_ids"].shape
    words = [processor.tokenizer.decode(inputs["input_ids"][row][masks[row].bool()]).strip() for row in range(2)]
    assert ["".join(text.split()) for text in words] == ["AredballendTwopeopleend", "Nothingatallend"]
    assert asked(processor, inputs).strip() == "And here?"
    assert not (masks & inputs["question_mask"]).any()
    prompts = processor.apply_chat_template(batch, chat_template=template, return_assistant_tokens_mask=True)
    videos = [clip(2), clip(3, 1), clip(2)]
    same(processor(text=prompts, videos=videos, images=[picture()], padding_side="right"), inputs)


def test_assistant_masks_without_video_are_those_of_the_base(llava: LinVTProcessor):
    template = GENERATION_TEMPLATE.replace("PLACEHOLDER", llava.markers.placeholder)
    chat = [turn("user", picture(), "Who?"), turn("assistant", "A red ball")]
    call = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True, "chat_template": template}
    ours = llava.apply_chat_template(chat, return_tensors="pt", **call)
    theirs = llava.base_processor.apply_chat_template(chat, return_tensors="pt", **call)
    same(ours, theirs)
    assert ours["assistant_masks"].sum() > 0


def test_assistant_masks_need_a_template_that_marks_the_words(llava: LinVTProcessor):
    chat = [turn("user", clip(2), "Who?"), turn("assistant", "A red ball")]
    with pytest.raises(LinVTInputError, match="generation %} and"):
        llava.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("num_frame", "num_frames"),
        ("nframes", "num_frames"),
        ("start_time", "start"),
        ("backend", "video_backend"),
        ("max_frame", "max_frames"),
        ("add_timestamp", "add_timestamps"),
        ("allow_url", "allow_urls"),
        ("pading", "padding"),
    ],
)
def test_a_misspelt_argument_is_refused_with_the_right_one(llava: LinVTProcessor, wrong: str, meant: str):
    chat = user(clip(2), QUESTION)
    for call in ({wrong: 1}, {"processor_kwargs": {wrong: 1}}):
        with pytest.raises(LinVTInputError, match=f"no argument '{wrong}' here. Did you mean '{meant}'"):
            llava.apply_chat_template(chat, **call, **CHAT)
    with pytest.raises(LinVTInputError, match=f"Did you mean '{meant}'"):
        llava(text=f"{VIDEO_TOKEN} a", videos=clip(2), **{wrong: 1})


def test_a_misspelt_key_of_a_video_part_is_refused(llava: LinVTProcessor):
    bad = [{"role": "user", "content": [{"type": "video", "video": clip(2), "nframes": 8}, part(QUESTION)]}]
    with pytest.raises(LinVTInputError, match="video part of message 1.*'nframes'.*'num_frames'"):
        llava.apply_chat_template(bad, **CHAT)
    with pytest.raises(LinVTInputError, match="videos_kwargs: .*'frame_count'"):
        llava.apply_chat_template(user(clip(2), QUESTION), videos_kwargs={"frame_count": 8}, **CHAT)
    with pytest.raises(LinVTInputError, match="'frame_count'"):
        llava.read_video(clip(2), frame_count=8)


@pytest.mark.parametrize(
    ("call", "name", "group"),
    [
        ({"num_frames": 4, "videos_kwargs": {"num_frames": 2}}, "num_frames", "videos_kwargs"),
        ({"num_frames": 4, "processor_kwargs": {"videos_kwargs": {"num_frames": 4}}}, "num_frames", "videos_kwargs"),
        ({"padding": True, "text_kwargs": {"padding": "longest"}}, "padding", "text_kwargs"),
        ({"do_resize": True, "images_kwargs": {"do_resize": False}}, "do_resize", "images_kwargs"),
        ({"fps": 2, "processor_kwargs": {"fps": 1}}, "fps", "processor_kwargs"),
        ({"processor_kwargs": {"return_tensors": "np"}}, "return_tensors", "processor_kwargs"),
    ],
)
def test_an_argument_that_is_given_twice_is_refused(
    llava: LinVTProcessor, call: dict[str, Any], name: str, group: str
):
    """One of the two would win in silence; transformers refuses them as well."""
    chats = [user(clip(2), QUESTION), user(picture(), QUESTION)]
    for chat in chats:
        with pytest.raises(LinVTInputError, match=f"{name} is given twice: in .*{group}"):
            llava.apply_chat_template(chat, **{**CHAT, **call})
    if "processor_kwargs" not in call:
        with pytest.raises(LinVTInputError, match=f"{name} is given twice: in {group}"):
            llava(text=f"{VIDEO_TOKEN} a", videos=clip(2), **call)


def test_the_same_form_of_output_may_be_asked_for_twice(llava: LinVTProcessor):
    chat = user(clip(2), QUESTION)
    same(
        llava.apply_chat_template(chat, **CHAT, text_kwargs={"return_tensors": "pt"}),
        llava.apply_chat_template(chat, **CHAT),
    )


def test_variables_of_the_template_get_there(llava: LinVTProcessor):
    template = "{{ style }} {{ nframes }} " + llava.chat_template
    text = llava.apply_chat_template(
        user(clip(2), QUESTION), chat_template=template, add_generation_prompt=True, style="Briefly.", nframes=3
    )
    assert text.startswith("Briefly. 3 ")
    plain = llava.apply_chat_template(user(clip(2), QUESTION), add_generation_prompt=True, enable_thinking=False)
    assert plain == llava.apply_chat_template(user(clip(2), QUESTION), add_generation_prompt=True)


def test_the_name_of_one_of_several_templates_picks_it(llava: LinVTProcessor):
    own = llava.chat_template
    several = LinVTProcessor.from_base(build_processor("llava_phi"), num_video_tokens=M)
    several.chat_template = {"default": own, "loud": "LOUD " + own}
    chat = user(clip(2), QUESTION)
    assert several.apply_chat_template(chat) == llava.apply_chat_template(chat)
    assert several.apply_chat_template(chat, chat_template="loud").startswith("LOUD ")
    several.chat_template = {"loud": own}
    with pytest.raises(LinVTInputError, match=r"several chat templates \(loud\), none named 'default'"):
        several.apply_chat_template(chat)


def test_a_final_message_is_continued(llava: LinVTProcessor):
    chat = [*user(clip(2), "Who?"), turn("assistant", "It is")]
    text = llava.apply_chat_template(chat, continue_final_message=True)
    assert text.endswith("It is")
    inputs = llava.apply_chat_template(chat, continue_final_message=True, tokenize=True, return_dict=True)
    assert asked(llava, inputs).strip() == "Who?"


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


def test_a_placeholder_in_a_text_is_refused(processor: LinVTProcessor):
    """Ours and every one of the base's, in any turn; the base's video token would otherwise reach the model."""
    base = processor.base_processor
    tokens = [VIDEO_TOKEN, processor.markers.placeholder, processor.markers.token, *base.all_special_multimodal_tokens]
    for token in dict.fromkeys(tokens):
        for chat in (
            user(clip(2), f"What is {token} here?"),
            [turn("system", f"a{token}"), *user(clip(2), QUESTION)],
            [{"role": "user", "content": f"What is {token}?"}],
        ):
            with pytest.raises(LinVTInputError) as caught:
                processor.apply_chat_template(chat, **CHAT)
            assert repr(token) in str(caught.value)
        with pytest.raises(LinVTInputError, match="stands for a picture or video"):
            if token != VIDEO_TOKEN:
                processor.question_inputs([f"What is {token}?"])
            else:
                processor.apply_chat_template(user(clip(2), token), **CHAT)


def test_what_the_base_writes_around_a_picture_is_refused_beside_a_video(processors: dict[str, LinVTProcessor]):
    """Typed by a user it would be read as the edge of a picture; without a video it is the base's own affair."""
    refused = 0
    for processor in processors.values():
        tokenizer, added = processor.tokenizer, processor.tokenizer.get_added_vocab()
        around = {*tokenizer.tokenize(processor.markers.before + processor.markers.after)} & {*added}
        for token in around - {processor.markers.token, *processor.base_processor.all_special_multimodal_tokens}:
            with pytest.raises(LinVTInputError, match=f"holds {re.escape(repr(token))}, which stands for a picture"):
                processor.apply_chat_template(user(clip(2), f"What is {token} here?"), **CHAT)
            assert token in processor.apply_chat_template([turn("user", f"What is {token}?")])
            refused += 1
    assert refused >= 2


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], r"not \[\]"),
        ("What?", "list of messages"),
        ({"role": "user", "content": "a"}, "list of messages"),
        (None, "not None"),
        ([[]], "conversation of the batch is"),
        ([[["a"]]], "Message 1 is list"),
        ([[[{"role": "user", "content": "a"}]]], "Message 1 is list"),
        (["What?"], "Message 1 is 'What\\?'"),
        ([{"content": "a"}], "Message 1 has no role"),
        ([{"role": "user"}], r"Message 1 \(user\) has no content"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": "user", "content": 3}], "content of message 1 is 3"),
        ([{"role": "user", "content": ["a"]}], "part of message 1 is 'a'"),
        ([{"role": "user", "content": [{"type": "audio", "audio": "a.wav"}]}], "type 'audio'"),
        ([{"role": "user", "content": [{"text": "a"}]}], "type None"),
        ([{"role": "user", "content": [{"type": "text"}]}], "has no text"),
        ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "has no text"),
        ([{"role": "user", "content": [{"type": "video"}, part("a")]}], "names no source"),
        ([{"role": "user", "content": [{"type": "video", "video": None}, part("a")]}], "names no source"),
        (
            [{"role": "user", "content": [{"type": "video", "path": "a", "url": "b"}, part("a")]}],
            "2 sources: path, url",
        ),
        ([{"role": "user", "content": [{"type": "image"}, part("a")]}], "names no source"),
        ([{"role": "user", "content": [{"type": "image", "image": 3}, part("a")]}], "A picture is 3"),
        (
            [{"role": "user", "content": [{"type": "image", "path": "no.png"}, part("a")]}],
            "'no.png' could not be read",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "path": __file__}, part("a")]}],
            "could not be read as a picture",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": b"no"}, part("a")]}],
            "could not be read as a picture",
        ),
        ([{"role": "user", "content": [{"type": "image", "url": "https://a.b/c.png"}, part("a")]}], "allow_urls=True"),
        (user(clip(2)), "question is empty"),
        (user(clip(2), ""), "question is empty"),
        (user(clip(2), " \n\t "), "question is empty"),
        ([turn("system", "Be brief."), turn("user", clip(2))], "question is empty"),
        (user(clip(2), "What? " * 2000), "limit is 2048. Shorten the question"),
    ],
)
def test_bad_messages_get_one_clear_error(llava: LinVTProcessor, chat: Any, message: str):
    with pytest.raises(LinVTInputError, match=message) as caught:
        llava.apply_chat_template(chat, **CHAT)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.7", "169.254.169.254", "localhost"])
def test_a_private_address_of_a_picture_is_refused_without_a_connection(
    llava: LinVTProcessor, monkeypatch: pytest.MonkeyPatch, host: str
):
    connected = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: connected.append(to) or connect(self, ("", 1)))
    url = f"http://{host}:9/x"
    ways = [{"url": url}, {"image": url}, {"image": {"path": url, "bytes": None}}, {"url": url.replace("h", "H", 1)}]
    for way in ways:
        for parts in ([], [part(clip(2))]):
            content = [*parts, {"type": "image", **way}, part(QUESTION)]
            with pytest.raises(LinVTInputError, match="private, local or reserved"):
                llava.apply_chat_template([{"role": "user", "content": content}], allow_urls=True, **CHAT)
    for call in ({"text": f"<image>{VIDEO_TOKEN} a", "videos": clip(2)}, {"text": "<image> a"}):
        with pytest.raises(LinVTInputError, match="private, local or reserved"):
            llava(images=[url], allow_urls=True, **call)
        with pytest.raises(LinVTInputError, match="allow_urls=True"):
            llava(images=[url], **call)
    assert connected == []


def test_a_picture_is_fetched_within_the_limits(llava: LinVTProcessor):
    stream = io.BytesIO()
    picture().save(stream, "PNG")
    data = stream.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            away = self.path == "/away"
            self.send_response(302 if away else 200)
            if away:
                self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            self.wfile.write(b"" if away else data)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def fetched(path: str, **limits: Any) -> Any:
            address = {"type": "image", "url": f"http://127.0.0.1:{server.server_port}{path}"}
            messages = [{"role": "user", "content": [address, part(clip(2)), part(QUESTION)]}]
            allowed = VideoLimits(allow_private_addresses=True, **limits)
            return llava.apply_chat_template(messages, allow_urls=True, limits=allowed, **CHAT)

        same(fetched("/picture"), llava.apply_chat_template(user(picture(), clip(2), QUESTION), **CHAT))
        with pytest.raises(LinVTInputError, match=f"limit of {len(data) - 1} bytes"):
            fetched("/picture", max_bytes=len(data) - 1)
        with pytest.raises(LinVTInputError, match="neither http nor https"):
            fetched("/away")
        server.shutdown()


def test_an_empty_question_is_refused_for_the_encoded_video_too(llava: LinVTProcessor):
    for questions in ([" "], ["Who?", ""], [], "Who?", [None]):
        with pytest.raises(LinVTInputError, match="[Qq]uestion"):
            llava.question_inputs(questions)
    with pytest.raises(LinVTInputError, match="limit is 2048"):
        llava.question_inputs(["What? " * 2000])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"text": f"{VIDEO_TOKEN} a"}, r"1 video placeholders .* \[1\], 0 videos"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": []}, "0 videos were given"),
        ({"text": "a", "videos": [clip(2)]}, r"0 video placeholders .*, 1 videos"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": [clip(2), clip(2)]}, "1 video placeholders .*, 2 videos"),
        ({"text": [f"{VIDEO_TOKEN} a", "b"], "videos": [[], [clip(2)]]}, r"\[1, 0\], 1 videos were given \[0, 1\]"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": [[[clip(2)]]]}, "nested too deep"),
        ({"videos": [clip(2)]}, "without text"),
        ({"text": 3, "videos": [clip(2)]}, "text must be a string or a list of strings, not 3"),
        ({"text": [], "videos": [clip(2)]}, r"not \[\]"),
        ({"text": [["a", "b"]], "videos": [clip(2)]}, "text must be a string"),
        ({"text": f"<image>{VIDEO_TOKEN} a", "videos": clip(2)}, "1 picture placeholders '<image>'.*0 pictures"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": clip(2), "images": picture()}, "0 picture placeholders .*1 pictures"),
        ({"text": f"<image>{VIDEO_TOKEN}", "videos": clip(2), "images": ["no.png"]}, "could not be read as a picture"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": clip(2), "question": "b?"}, "'b\\?' does not stand in its prompt"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": clip(2), "question": ["a", "a"]}, "2 entries for 1 prompts"),
        ({"text": f"{VIDEO_TOKEN} a", "videos": clip(2), "return_tensors": "tf"}, "choose 'pt', 'np' or None"),
        (
            {"text": f"{VIDEO_TOKEN} a", "videos": clip(2), "return_overflowing_tokens": True},
            "cannot be used together",
        ),
        (
            {"text": [f"{VIDEO_TOKEN} a", "b"], "videos": clip(2), "padding": False},
            "which is no tensor. Pass padding=True",
        ),
        ({"text": "<image> a"}, "1 <image> tokens"),
        ({}, "refused the inputs"),
    ],
)
def test_bad_calls_get_one_clear_error(llava: LinVTProcessor, call: dict[str, Any], message: str):
    with pytest.raises(LinVTInputError, match=message):
        llava(**call)


@pytest.mark.parametrize("video", ["no.mp4", "https://example.com/a.mp4", b"no video", 3, np.zeros((2, 3)), []])
def test_what_is_no_video_is_an_error_of_the_reader(llava: LinVTProcessor, video: Any):
    messages = [{"role": "user", "content": [{"type": "video", "video": video}, part(QUESTION)]}]
    with pytest.raises(VideoReadError):
        llava.apply_chat_template(messages, **CHAT)


def test_frames_that_do_not_fit_their_times_are_refused(llava: LinVTProcessor):
    good = clip(3)
    for bad in (
        VideoFrames(good.frames, good.timestamps[:2], "", "memory", 1.0, 3, None),
        VideoFrames(good.frames[0], good.timestamps, "", "memory", 1.0, 3, None),
        VideoFrames(good.frames / 255.0, good.timestamps, "", "memory", 1.0, 3, None),
        VideoFrames(good.frames[:0], good.timestamps[:0], "", "memory", 1.0, 0, None),
    ):
        with pytest.raises(LinVTInputError, match="VideoFrames has frames of shape"):
            llava.video_inputs(bad)


@pytest.mark.parametrize("number", [0, -1, 2.0, "6", True, None])
def test_a_number_of_tokens_that_is_none_is_refused(number: Any):
    with pytest.raises(LinVTInputError, match="num_video_tokens=.*whole number, 1 or more, the same as the model's"):
        LinVTProcessor(build_processor("llava_phi"), num_video_tokens=number)
    with pytest.raises(LinVTInputError, match="num_frames="):
        LinVTProcessor(build_processor("llava_phi"), num_frames=number)


def test_a_base_without_chat_template_says_so():
    base = build_processor("llava_phi")
    base.chat_template = None
    processor = LinVTProcessor.from_base(base, num_video_tokens=M)
    with pytest.raises(LinVTInputError, match="LlavaProcessor has no chat template"):
        processor.apply_chat_template(user(clip(2), QUESTION), **CHAT)
    with pytest.raises(LinVTInputError, match="LlavaProcessor has no chat template"):
        processor.question_inputs([QUESTION])
    template = build_processor("llava_phi").chat_template
    assert (
        processor.apply_chat_template(user(clip(2), QUESTION), chat_template=template, **CHAT)["video_mask"].sum() == M
    )
    base.tokenizer.chat_template = template  # where older repositories have it
    assert processor.apply_chat_template(user(clip(2), QUESTION), **CHAT)["video_mask"].sum() == M


def test_a_template_that_refuses_or_forgets_pictures_is_named(llava: LinVTProcessor):
    with pytest.raises(LinVTInputError, match="chat template refused the conversation: .*roles must alternate"):
        template = "{{ raise_exception('roles must alternate') }}"
        llava.apply_chat_template(user(clip(2), QUESTION), chat_template=template, **CHAT)
    with pytest.raises(LinVTInputError, match="wrote 0 placeholders '<image>' for 1 videos"):
        llava.apply_chat_template(user(clip(2), QUESTION), chat_template="{{ messages[0].role }}", **CHAT)


def test_what_cannot_be_a_base_is_refused():
    tokenizer = build_processor("llava_phi").tokenizer
    with pytest.raises(UnsupportedBaseError, match="has no tokenizer"):
        LinVTProcessor(tokenizer)
    with pytest.raises(UnsupportedBaseError, match="has no tokenizer"):
        LinVTProcessor(None)
    with pytest.raises(LinVTInputError, match="LinVTProcessor already"):
        LinVTProcessor.from_base(LinVTProcessor(build_processor("llava_phi")))
    with pytest.raises(LinVTInputError, match="'num_video_token' here. Did you mean 'num_video_tokens'"):
        LinVTProcessor.from_base(build_processor("llava_phi"), num_video_token=4)
    with pytest.raises(LinVTInputError, match="no argument 'revision'"):
        LinVTProcessor.from_base(build_processor("llava_phi"), revision="main")


# ---------------------------------------------------------------------------------------------------------------------
# Copies, saving, loading
# ---------------------------------------------------------------------------------------------------------------------


def test_copies_work_like_the_original(processor: LinVTProcessor):
    """Data loaders send the processor to their workers."""
    expected = processor.apply_chat_template(user(clip(2), QUESTION), **CHAT)
    for again in (copy.copy(processor), copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        same(again.apply_chat_template(user(clip(2), QUESTION), **CHAT), expected)
    assert len(repr(processor)) < 250
    assert f"num_video_tokens={M}" in repr(processor)


def test_the_base_is_left_as_it_is(tmp_path: Path):
    base = build_processor("qwen2_vl")
    before = base.chat_template, len(base.tokenizer), base.tokenizer.padding_side, base.to_json_string()
    processor = LinVTProcessor.from_base(base, num_video_tokens=M)
    processor.apply_chat_template(user(clip(2), picture(), QUESTION), **CHAT)
    processor.save_pretrained(tmp_path)
    after = base.chat_template, len(base.tokenizer), base.tokenizer.padding_side, base.to_json_string()
    assert before == after
    assert processor.base_processor is base
    assert VIDEO_TOKEN not in base.tokenizer.get_vocab()


def test_a_saved_processor_comes_back(processor: LinVTProcessor, tmp_path: Path):
    chat = user(clip(3), picture(), QUESTION)
    processor.save_pretrained(tmp_path / "new" / "folder")
    again = AutoProcessor.from_pretrained(tmp_path / "new" / "folder")
    assert type(again) is LinVTProcessor
    assert type(again.base_processor) is type(processor.base_processor)
    same(again.apply_chat_template(chat, **CHAT), processor.apply_chat_template(chat, **CHAT))
    assert again.to_dict() == processor.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert tokenizer(QUESTION)["input_ids"] == processor.tokenizer(QUESTION)["input_ids"]
    other = LinVTProcessor.from_pretrained(tmp_path / "new" / "folder", num_frames=5, add_timestamps=True)
    assert (other.num_frames, other.add_timestamps, other.num_video_tokens) == (5, True, M)


def seen(processor: LinVTProcessor) -> torch.Tensor:
    return processor.apply_chat_template(user(clip(3), QUESTION), **CHAT)["frame_pixel_values"]


@pytest.mark.parametrize("name", ["llava_phi", "qwen2_vl"])  # the parts of the second are loaded one by one
def test_what_a_processor_is_loaded_with_arrives_at_its_parts(
    processors: dict[str, LinVTProcessor], tmp_path: Path, name: str
):
    processors[name].save_pretrained(tmp_path)
    plain = AutoProcessor.from_pretrained(tmp_path)
    tokenizer = copy.deepcopy(plain.tokenizer)
    assert AutoProcessor.from_pretrained(tmp_path, tokenizer=tokenizer).tokenizer is tokenizer
    image_processor = copy.deepcopy(plain.image_processor)
    assert AutoProcessor.from_pretrained(tmp_path, image_processor=image_processor).image_processor is image_processor
    template = plain.base_processor.chat_template.replace("user", "visitor")
    other = AutoProcessor.from_pretrained(tmp_path, chat_template=template)
    assert other.apply_chat_template(user(clip(2), QUESTION)) == plain.apply_chat_template(
        user(clip(2), QUESTION), chat_template=template
    )
    for changed in ({"do_normalize": False}, {"image_mean": [0.1, 0.2, 0.3]}):
        assert not torch.equal(seen(AutoProcessor.from_pretrained(tmp_path, **changed)), seen(plain))
    size = {"longest_edge": 48 * 32, "shortest_edge": 256} if name == "qwen2_vl" else {"height": 16, "width": 16}
    assert seen(AutoProcessor.from_pretrained(tmp_path, size=size)).numel() < seen(plain).numel()
    assert AutoProcessor.from_pretrained(tmp_path, cls_token="<first>").tokenizer.cls_token == "<first>"
    assert AutoProcessor.from_pretrained(tmp_path, num_frames=5, dtype="auto", device_map="cpu").num_frames == 5
    save_base(name, tmp_path / "base")
    assert not LinVTProcessor.from_base(tmp_path / "base", do_normalize=False).image_processor.do_normalize


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"nonsense": 1}, "nonsense is no argument of LlavaProcessor, .* Leave it out"),
        ({"do_normalise": False}, "Did you mean 'do_normalize'"),
        ({"paddingside": "left"}, "Did you mean 'padding_side'"),
        ({"num_frame": 5}, "Did you mean 'num_frames'"),
        ({"num_kept_tokens": 5}, "num_kept_tokens is set in the model"),
    ],
)
def test_what_nothing_in_a_processor_takes_is_refused_at_loading(
    llava: LinVTProcessor, tmp_path: Path, wrong: dict[str, Any], words: str
):
    llava.save_pretrained(tmp_path)
    save_base("llava_phi", tmp_path / "base")
    for load in (AutoProcessor.from_pretrained, LinVTProcessor.from_pretrained):
        with pytest.raises(LinVTInputError, match=words):
            load(tmp_path, **wrong)
    with pytest.raises(LinVTInputError, match=words):
        LinVTProcessor.from_base(tmp_path / "base", **wrong)


def test_a_pipeline_gives_the_processor_what_is_the_models(llava: LinVTProcessor, tmp_path: Path):
    llava.save_pretrained(tmp_path)
    given = {"num_kept_tokens": 5, "dtype": "auto", "attn_implementation": "eager", "_commit_hash": None}
    assert AutoProcessor.from_pretrained(tmp_path, _from_pipeline="any", **given).num_video_tokens == M


def test_saving_over_another_processor_leaves_nothing_of_it(processors: dict[str, LinVTProcessor], tmp_path: Path):
    processors["smolvlm"].save_pretrained(tmp_path)
    changed = LinVTProcessor(build_processor("qwen2_vl"), num_video_tokens=4, num_frames=9, add_timestamps=True)
    files = changed.save_pretrained(str(tmp_path))
    assert all(Path(file).exists() for file in files)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert repr(again) == repr(changed)
    same(again.question_inputs([QUESTION]), changed.question_inputs([QUESTION]))
    assert "image_seq_len" not in json.loads((tmp_path / "processor_config.json").read_text())
    assert not list(tmp_path.glob("*.tmp"))


def test_a_base_is_wrapped_from_its_folder_or_its_object(tmp_path: Path):
    save_base("gemma3", tmp_path / "base")
    from_folder = LinVTProcessor.from_base(tmp_path / "base", num_video_tokens=M)
    from_object = LinVTProcessor.from_base(build_processor("gemma3"), num_video_tokens=M)
    assert from_folder.base_model_type == from_object.base_model_type == "gemma3"
    chat = user(clip(3), picture(), QUESTION)
    same(from_folder.apply_chat_template(chat, **CHAT), from_object.apply_chat_template(chat, **CHAT))
    from_folder.save_pretrained(tmp_path / "wrapped")
    (tmp_path / "wrapped" / "config.json").write_text(
        json.dumps({"model_type": "linvt", "base_config": {"model_type": "gemma3"}})
    )
    rewrapped = LinVTProcessor.from_base(tmp_path / "wrapped", num_video_tokens=3)
    assert (rewrapped.base_model_type, type(rewrapped.base_processor).__name__) == ("gemma3", "Gemma3Processor")


def test_the_model_beside_a_processor_says_what_architecture_it_is(tmp_path: Path):
    """One class of processors serves several architectures."""
    build_processor("qwen3_vl").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_vl_moe"}))
    assert LinVTProcessor.from_base(tmp_path).base_model_type == "qwen3_vl_moe"
    assert LinVTProcessor.from_base(tmp_path, base_model_type="qwen3_vl").base_model_type == "qwen3_vl"
    (tmp_path / "config.json").unlink()
    assert LinVTProcessor.from_base(tmp_path).base_model_type == "qwen3_vl"


def test_a_subfolder_and_a_revision_get_through(processors: dict[str, LinVTProcessor], tmp_path: Path):
    processors["qwen2_vl"].save_pretrained(tmp_path / "processor")
    again = LinVTProcessor.from_pretrained(tmp_path, subfolder="processor", revision="main", dtype=torch.float32)
    assert again.num_video_tokens == M
    save_base("llava_phi", tmp_path / "base" / "here")
    wrapped = LinVTProcessor.from_base(tmp_path / "base", subfolder="here", revision="main", num_video_tokens=M)
    assert wrapped.base_model_type == "llava"


def test_a_folder_that_holds_no_linvt_processor_is_an_error_with_advice(tmp_path: Path):
    for source in (tmp_path / "nothing", tmp_path, "/no/such/folder", "no-such/repository"):
        with pytest.raises(CheckpointError):
            LinVTProcessor.from_pretrained(source)
    save_base("llava_phi", tmp_path / "base")
    with pytest.raises(CheckpointError, match="LlavaProcessor without LinVT settings.*from_base"):
        LinVTProcessor.from_pretrained(tmp_path / "base")
    with pytest.raises(LinVTInputError, match="'num_frame' here. Did you mean 'num_frames'"):
        LinVTProcessor.from_pretrained(tmp_path / "base", num_frame=5)


def test_a_place_that_cannot_be_written_is_an_error_of_ours(llava: LinVTProcessor, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be saved into"):
        llava.save_pretrained(tmp_path / "file")


def test_pushing_uploads_what_was_saved(monkeypatch, llava: LinVTProcessor, tmp_path: Path):
    calls = []
    monkeypatch.setattr(LinVTProcessor, "push_to_hub", lambda self, *args, **kwargs: calls.append((args, kwargs)))
    llava.save_pretrained(tmp_path / "name", push_to_hub=True, private=True)
    llava.save_pretrained(tmp_path / "name", push_to_hub=True, repo_id="me/name")
    assert calls == [(("name",), {"private": True}), (("me/name",), {})]
    assert (tmp_path / "name" / "processor_config.json").exists()


NEW_PROCESS = """
import builtins, json, sys
def no_input(*args): raise AssertionError("asked for input")
builtins.input = no_input
import torch
from transformers import AutoProcessor
if sys.argv[1] == "package":
    import transformers_linvt
results = {}
for folder in sys.argv[2:]:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=sys.argv[1] == "code")
    inputs = processor.question_inputs(["What is in the video?"])
    video = processor.video_inputs(__import__("numpy").arange(3 * 48 * 80 * 3, dtype="uint8").reshape(3, 48, 80, 3),
                                   timestamps=[0.0, 1.0, 2.0])
    results[folder] = [type(processor).__name__, inputs["input_ids"].tolist(), inputs["question_mask"].tolist(),
                       video["frame_pixel_values"].double().sum().item()]
assert sys.argv[1] == "package" or "transformers_linvt" not in sys.modules
print(json.dumps(results))
"""


@pytest.mark.parametrize("how", ["package", "code"])
def test_a_new_process_makes_the_same_inputs(
    processors: dict[str, LinVTProcessor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    """With the package, and without it from the code beside the settings; nobody is asked whether to run it."""
    names = [one for one in FAMILIES if one != "molmo2"] if how == "package" else ["llava_phi", "qwen2_vl"]
    for one in names:
        processors[one].save_pretrained(tmp_path / one)
    source = Path(__file__).parents[2] / "src"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("PYTHONPATH", str(source) if how == "package" else "")
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, how, *(str(tmp_path / one) for one in names)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    frames = np.arange(3 * 48 * 80 * 3, dtype=np.uint8).reshape(3, 48, 80, 3)
    for one in names:
        kind, ids, mask, pixels = results[str(tmp_path / one)]
        inputs = processors[one].question_inputs([QUESTION])
        video = processors[one].video_inputs(frames, timestamps=[0.0, 1.0, 2.0])
        assert kind == "LinVTProcessor"
        assert (ids, mask) == (inputs["input_ids"].tolist(), inputs["question_mask"].tolist())
        assert pixels == pytest.approx(video["frame_pixel_values"].double().sum().item(), rel=1e-9)
