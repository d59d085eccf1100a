"""
docs/conventions.md, row by row: the messages and arguments that other packages document are answered with the frames
that they name, or refused with the sentence that the page promises.
"""

import base64
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModelForMultimodalLM, pipeline
from transformers.processing_utils import MultiModalData
from transformers.video_utils import VideoMetadata

from promises import QUESTION, Wrapped, check_refused, user, wrapped
from transformers_linvt import LinVTForVideoQA, LinVTInputError, VideoLimits
from transformers_linvt.demo.shapes import make_clip, write_clip


PAGE = Path(__file__).resolve().parents[2] / "docs" / "conventions.md"
ROW = re.compile(r"^\| ([^|`]+) \| `(\{.+\})` \| (answered|refused: )(.*?) \|$", re.MULTILINE)
TEXT = {"type": "text", "text": "What happens?"}
CLIP_FRAMES, FRAMES, PICTURES = 11, 5, 3  # of the file, of the array, of the lists of pictures


def rows(title: str) -> list[Any]:
    section = PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    found = ROW.findall(section)
    assert len(found) == section.count("\n| ") - 1, "a row of the page is not understood"
    return [pytest.param(*row, id=f"{row[0]}: {row[1]}"[:60]) for row in found]


@pytest.fixture(scope="module")
def llava() -> Wrapped:
    return wrapped("llava_phi")  # whose template writes the videos of a turn in front of its texts


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4", make_clip("scenes", 3, CLIP_FRAMES)[0], scale=1)
    PIL.Image.new("RGB", (64, 48), (200, 90, 10)).save(folder / "picture.jpg")
    return folder


@pytest.fixture(scope="module")
def address(media: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(media))

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def meant(form: str, media: Path, address: str) -> Any:
    """A form of the page with the files of this test in it."""
    picture = PIL.Image.open(media / "picture.jpg")
    jpeg, mp4 = (base64.b64encode((media / name).read_bytes()).decode() for name in ("picture.jpg", "clip.mp4"))
    for name, value in (
        ("https://example.com", address),
        ("file:///srv/media", media.as_uri()),
        ("JPEG", jpeg),
        ("MP4", mp4),
    ):
        form = form.replace(name, value)
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 48, 64, 3), dtype=np.uint8)
    return eval(form, {"frames": frames, "picture": picture})  # of our own page


def inputs_of(llava: Wrapped, content: list[Any], media: Path, **arguments: Any) -> dict[str, Any]:
    return llava.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        allow_urls=True,
        video_root=media,
        limits=VideoLimits(allow_private_addresses=True),
        **arguments,
    )


@pytest.mark.parametrize(("source", "form", "outcome", "words"), rows("Messages"))
def test_a_documented_message_is_answered_or_refused_as_the_page_says(
    llava: Wrapped, media: Path, address: str, source: str, form: str, outcome: str, words: str
):
    part = meant(form, media, address)
    if outcome == "refused: ":
        check_refused(lambda: inputs_of(llava, [part, TEXT], media), LinVTInputError, words)
        return
    inputs = inputs_of(llava, [part, TEXT], media)
    video = part.get("video")
    if "video" not in part["type"]:
        assert "frames_per_video" not in inputs
        has_picture = bool((torch.as_tensor(inputs["input_ids"]) == llava.processor.image_token_id).any())
        assert has_picture == (part["type"] != "text")
        return
    expected = PICTURES if "JPEG,JPEG" in form or isinstance(video, list) else CLIP_FRAMES
    expected = FRAMES if isinstance(video, np.ndarray) else expected
    if isinstance(video, str) and "fps" in part:
        expected = -(-CLIP_FRAMES // 8)  # a frame per second of a clip of 8 frames per second
    assert inputs["frames_per_video"].tolist() == [expected]


@pytest.mark.parametrize(("source", "form", "outcome", "words"), rows("Arguments"))
def test_a_documented_argument_is_taken_or_refused_as_the_page_says(
    llava: Wrapped, media: Path, address: str, caplog: Any, source: str, form: str, outcome: str, words: str
):
    arguments = meant(form, media, address)
    video = meant("frames", media, address) if "of frames" in source else media / "clip.mp4"
    content = [{"type": "video", "video": video}, TEXT]
    if outcome == "refused: ":
        check_refused(lambda: inputs_of(llava, content, media, **arguments), LinVTInputError, words)
        return
    inputs = inputs_of(llava, content, media, **arguments)
    nested = {**arguments, **arguments.get("processor_kwargs", {})}
    expected = nested.get("num_frames", CLIP_FRAMES)
    if "video_metadata" in arguments:
        expected = FRAMES
        assert inputs["video_timestamps"].tolist() == [0, 1, 2, 3, 4]
    if "fps" in arguments:
        expected = -(-CLIP_FRAMES * arguments["fps"] // 8)
    assert inputs["frames_per_video"].tolist() == [expected]
    if "return_mm_token_type_ids" in arguments:
        assert inputs["mm_token_type_ids"].sum() == llava.processor.num_video_tokens
        llava.model.generate(**inputs, max_new_tokens=2)
    if "a warning says so" in words:
        assert "load_audio_from_video" in caplog.text


# --- frames that somebody else has read ------------------------------------------------------------------------------


def test_metadata_gives_the_times_and_frames_stay_as_they_are(llava: Wrapped):
    frames = np.random.default_rng(0).integers(0, 255, (6, 20, 24, 3), dtype=np.uint8)
    metadata = VideoMetadata(total_num_frames=60, fps=4.0, frames_indices=[2, 4, 8, 16, 32, 34])
    video = llava.processor.read_video(frames, video_metadata=[metadata], do_sample_frames=False)
    assert np.array_equal(video.frames, frames)
    assert video.timestamps.tolist() == [0.0, 0.5, 1.5, 3.5, 7.5, 8.0]  # counted from the first frame
    assert len(llava.processor.read_video(frames, video_metadata=metadata, num_frames=2)) == 2
    by_duration = {"total_num_frames": 6, "duration": 3.0}
    assert llava.processor.read_video(frames, video_metadata=by_duration).timestamps[1] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"video_metadata": {"fps": 2.0, "total_num_frames": 9}}, "Say in 'frames_indices' which they are"),
        ({"video_metadata": {"fps": 2.0, "frames_indices": [0, 1]}}, "2 frames_indices for 6 frames"),
        ({"video_metadata": {"frames_indices": [0, 1, 2, 3, 4, 5]}}, "has fps=None"),
        ({"video_metadata": {"fps": 2.0, "frame_indices": []}}, "Did you mean 'frames_indices'"),
        ({"video_metadata": 3}, "video_metadata is 3"),
        ({"video_metadata": {"fps": 2.0}, "timestamps": [0, 1, 2, 3, 4, 5]}, "both say when frames are"),
        ({"do_sample_frames": "no"}, "do_sample_frames='no'"),
        ({"do_sample_frames": False, "num_frames": 2}, "num_frames=2 asks for some"),
    ],
)
def test_metadata_from_which_no_times_follow_are_refused(llava: Wrapped, arguments: dict, words: str):
    frames = np.zeros((6, 20, 24, 3), dtype=np.uint8)
    check_refused(lambda: llava.processor.read_video(frames, **arguments), LinVTInputError, words)


def test_all_frames_of_a_file_are_taken_as_far_as_the_limits_allow(llava: Wrapped, media: Path):
    read = llava.processor.read_video
    assert len(read(media / "clip.mp4", do_sample_frames=False)) == CLIP_FRAMES
    limits = VideoLimits(max_frames=CLIP_FRAMES - 1)
    check_refused(lambda: read(media / "clip.mp4", do_sample_frames=False, limits=limits), Exception, "over the limit")
    check_refused(lambda: read(media / "clip.mp4", do_sample_frames=False, fps=2), LinVTInputError, "fps=2 asks")


def test_files_of_frames_are_one_video_within_the_limits(llava: Wrapped, media: Path, tmp_path: Path):
    frames = make_clip("scenes", 3, 4)[0]
    for number, frame in enumerate(frames):
        PIL.Image.fromarray(np.asarray(frame)).save(tmp_path / f"{number}.png")
    names = [f"{number}.png" for number in range(len(frames))]
    video = llava.processor.read_video(names, video_root=tmp_path, fps=2)
    assert np.array_equal(video.frames, np.stack([np.asarray(frame) for frame in frames]))
    assert video.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5]
    check_refused(
        lambda: llava.processor.read_video(names, video_root=tmp_path, limits=VideoLimits(max_frames=3)),
        LinVTInputError,
        "4 files of frames are over the limit of 3",
        "every 2th",
    )
    check_refused(lambda: llava.processor.read_video(["no.png"], video_root=tmp_path), LinVTInputError, "no.png")


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_others_ask_for_are_there(llava: Wrapped, tmp_path: Path):
    processor, config = llava.processor, llava.model.config
    assert processor.image_token_id == processor.video_token_id == config.image_token_id == config.video_token_id
    assert processor.get_vocab()[processor.image_token] == processor.image_token_id
    rendered = processor.apply_chat_template(user(llava.clip(3), QUESTION), add_generation_prompt=True)
    assert rendered.count(processor.video_token) == 1
    counted = processor._get_num_multimodal_tokens(video_sizes=[(8, 24, 32), (3, 48, 64)])
    assert isinstance(counted, MultiModalData) and counted.num_video_tokens == [processor.num_video_tokens] * 2
    llava.model.save_pretrained(tmp_path, include_base=True)
    assert isinstance(AutoModelForMultimodalLM.from_pretrained(tmp_path), LinVTForVideoQA)


def test_the_video_processor_makes_what_the_model_takes_of_a_video(llava: Wrapped):
    video = llava.clip(5)
    made = llava.processor.video_processor(video.frames, fps=2, return_metadata=True)
    expected = llava.processor.video_inputs(video.frames, fps=2)
    assert set(made) - {"video_metadata"} == set(expected)
    known = set(llava.processor.video_processor.model_input_names)
    assert known - set(expected) == {"frame_is_new"}  # where frames repeat the one before, which these do not
    assert all(torch.equal(made[name], expected[name]) for name in expected)
    assert made["video_metadata"][0].timestamps == [0.0, 0.5, 1.0, 1.5, 2.0]
    frames, metadata = llava.processor.video_processor.fetch_videos([video.frames, video.frames[:3]], fps=2)
    assert [len(one) for one in frames] == [one.total_num_frames for one in metadata] == [5, 3]


def test_stop_strings_are_looked_up_by_a_processor_as_by_its_tokenizer(llava: Wrapped):
    inputs = llava.inputs(user(llava.clip(4), QUESTION))
    whole = llava.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    words = llava.processor.decode(whole[0, inputs["input_ids"].shape[1] :][:2])
    short = [
        llava.model.generate(**inputs, max_new_tokens=6, do_sample=False, stop_strings=[words], tokenizer=one)
        for one in (llava.processor, llava.processor.tokenizer)
    ]
    assert torch.equal(*short) and short[0].shape[1] < whole.shape[1]


def chat_with_a_clip(media: Path) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "video", "path": str(media / "clip.mp4"), "num_frames": 4}, TEXT]}]


@pytest.mark.parametrize("task", ["image-text-to-text", "any-to-any"])
def test_the_pipelines_of_transformers_answer_a_chat_with_a_video(llava: Wrapped, media: Path, task: str):
    if task == "any-to-any":
        pytest.importorskip("torchvision", reason="transformers asks for it")
    chat = chat_with_a_clip(media)
    own = pipeline("video-question-answering", model=llava.model, processor=llava.processor, device="cpu")
    theirs = pipeline(task, model=llava.model, processor=llava.processor, device="cpu")
    expected = own(chat, max_new_tokens=4, do_sample=False)[0]["answer"]
    answered = theirs(text=chat, max_new_tokens=4, generate_kwargs={"do_sample": False}, return_full_text=False)
    assert answered[0]["generated_text"].strip() == expected


# --- subtitles -------------------------------------------------------------------------------------------------------

WORDS = [(float(second), f"Number {second} is said now.") for second in range(40)]


def test_subtitles_stand_behind_their_video_and_are_no_part_of_the_question(llava: Wrapped):
    video, other = llava.clip(4), llava.clip(3, seed=1)
    content = [
        {"type": "video", "video": video, "subtitles": [(1.0, "First words."), (0.5, "Words before.")]},
        {"type": "video", "video": other, "subtitles": [(2.0, 3.0, "Second words.")]},
        {"type": "text", "text": "Who speaks?"},
    ]
    chat = [{"role": "user", "content": content}]
    text = llava.processor.apply_chat_template(chat, add_generation_prompt=True)
    first, second = "video 1:\n0.5 s: Words before.\n1.0 s: First words.\n", "video 2:\n2.0 s: Second words.\nWho"
    places = [text.index(one) for one in ("<|linvt_video|>", first, second)]
    assert places == sorted(places)
    inputs = llava.inputs(chat)
    marked = inputs["input_ids"][inputs["question_mask"].bool()]
    assert "speaks" in llava.processor.decode(marked) and "words" not in llava.processor.decode(marked).lower()


def test_a_budget_cuts_subtitles_evenly_and_says_so(llava: Wrapped, caplog: pytest.LogCaptureFixture):
    whole = llava.processor.subtitle_words(WORDS, max_subtitle_tokens=5000)
    count = len(llava.processor.tokenizer(whole.text, add_special_tokens=False)["input_ids"])
    assert whole.num_tokens == count and whole.num_written == whole.num_given == 40 and not caplog.records
    budget = count // 3
    cut = llava.processor.subtitle_words(WORDS, max_subtitle_tokens=budget)
    assert cut.num_tokens <= budget < cut.num_tokens + 2 * count / 40
    assert f"Of 40 subtitles {cut.num_written} are written" in caplog.text
    seconds = [float(line.split(" s:")[0]) for line in cut.text.splitlines()[1:]]
    assert len(seconds) == cut.num_written and max(np.diff([0.0, *seconds, 39.0])) <= 2 * 40 / len(seconds)
    assert llava.processor.subtitle_words(WORDS, max_subtitle_tokens=2).text == ""


def test_subtitles_of_the_part_that_is_looked_at_are_written(llava: Wrapped):
    text = llava.processor.subtitle_words(WORDS, start=7.0, end=9.5).text
    assert [line.split(":")[0] for line in text.splitlines()[1:]] == ["7.0 s", "8.0 s", "9.0 s"]


def test_a_pipeline_answers_with_subtitles_and_says_what_they_cost(llava: Wrapped, media: Path, tmp_path: Path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nLook there.\n")
    ask = pipeline(
        "video-question-answering", model=llava.model, processor=llava.processor, device="cpu", max_new_tokens=3
    )
    plain, told = (
        ask(video=str(media / "clip.mp4"), question=["Who?", "Where?"], num_frames=4, subtitles=subtitles)
        for subtitles in (None, tmp_path / "a.srt")
    )
    expected = llava.processor.subtitle_words(tmp_path / "a.srt").num_tokens
    assert [one.get("subtitle_tokens") for one in (*plain, *told)] == [None, None, expected, expected]
    content = [{"type": "video", "path": media / "clip.mp4", "num_frames": 4, "subtitles": tmp_path / "a.srt"}]
    chat = [{"role": "user", "content": [*content, {"type": "text", "text": "Who?"}]}]
    inputs = llava.inputs(chat)
    generated = llava.model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    answer = llava.processor.batch_decode(generated, skip_special_tokens=True)[0].strip()
    in_list = ask([{"video": str(media / "clip.mp4"), "question": "Who?", "subtitles": [(0.5, 1.0, "Look there.")]}])
    assert ask(chat)[0]["answer"] == told[0]["answer"] == answer and in_list[0][0]["subtitle_tokens"] == expected


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ([{"type": "video", "subtitles": [(0, "<<b></b>image>")]}], {}, "stands for a picture or video"),
        ([{"type": "video"}, {"type": "video"}], {"subtitles": [(0, "a")]}, "a conversation with 2 videos"),
        ([], {"subtitles": [(0, "a")]}, "a conversation with 0 videos"),
        ([{"type": "video", "max_subtitle_tokens": 4}], {}, "max_subtitle_tokens and no subtitles"),
        ([{"type": "video", "subtitles": [(0, "a")], "max_subtitle_tokens": 0}], {}, "max_subtitle_tokens=0"),
        ([{"type": "video", "subtitle": [(0, "a")]}], {}, "Did you mean 'subtitles'"),
        ([{"type": "video_url", "video_url": "data:video/mp4,a", "subtitles": "/etc/hostname"}], {}, "below a folder"),
    ],
)
def test_subtitles_that_cannot_be_written_are_refused(llava: Wrapped, content: list, arguments: dict, words: str):
    chat = [{"role": "user", "content": [*content, TEXT]}]
    check_refused(lambda: llava.processor.apply_chat_template(chat, **arguments), LinVTInputError, words)


def test_rendered_prompts_take_no_subtitles(llava: Wrapped):
    text = llava.processor.apply_chat_template(user(llava.clip(3), QUESTION), add_generation_prompt=True)
    call = {"text": text, "videos": llava.clip(3), "subtitles": [(0.0, "a")]}
    check_refused(lambda: llava.processor(**call), LinVTInputError, "Give subtitles to apply_chat_template")
