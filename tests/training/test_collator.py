"""
The collator: every format of an example gives the same batch, the loss is on the answer and nowhere else, a video that
cannot be read is replaced, and what does not fit is refused.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from promises import FAMILIES, NUM_VIDEO_TOKENS, Wrapped, check_refused, wrapped
from transformers_linvt import LinVTInputError, VideoReadError
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.model.messages import parts_of
from transformers_linvt.model.prompt import WritesPrompts
from transformers_linvt.training.collator import BOOKKEEPING_KEYS, IGNORED, LinVTDataCollator


QUESTION, ANSWER = "What is in the video?", "a red ball"


@pytest.fixture(scope="module")
def llava() -> Wrapped:
    return wrapped("llava_phi")


@pytest.fixture(scope="module")
def qwen() -> Wrapped:
    return wrapped("qwen2_vl")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two clips, a truncated one and a text file that calls itself a video."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        write_clip(folder / name, make_clip("scenes", seed, 8)[0], scale=1)
    whole = (folder / "a.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (folder / "text.mp4").write_text("this is no video")
    return folder


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def turn(role: str, *parts: Any) -> dict[str, Any]:
    """A message: strings are text, anything else is a part."""
    return {"role": role, "content": [text(part) if isinstance(part, str) else part for part in parts]}


def row(video: Any = None, answer: str = ANSWER, question: str = QUESTION) -> dict[str, Any]:
    example = {"prompt": question, "completion": answer}
    return example if video is None else {**example, "video": video}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Two batches with the same names and, bit by bit, the same values."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


def ids_of(family: Wrapped, *pieces: str) -> list[int]:
    """Token ids of pieces that no token reaches across."""
    return [token for piece in pieces for token in family.processor.tokenizer.encode(piece, add_special_tokens=False)]


def learned(batch: dict[str, Any], number: int = 0) -> list[int]:
    """The labels of a row without what is not learned."""
    return [label for label in batch["labels"][number].tolist() if label != IGNORED]


# --- formats ---------------------------------------------------------------------------------------------------------


ASKED = turn("user", {"type": "video"}, QUESTION)
FORMATS = {
    "a column beside the messages": lambda v: {"messages": [ASKED, turn("assistant", ANSWER)], "video": v},
    "a column of lists": lambda v: {"messages": [ASKED, turn("assistant", ANSWER)], "videos": [v]},
    "a column that no part asks for": lambda v: {
        "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
        "video": v,
    },
    "a part with `path`": lambda v: {
        "messages": [turn("user", {"type": "video", "path": v}, QUESTION), turn("assistant", ANSWER)]
    },
    "strings": lambda v: {"prompt": QUESTION, "completion": ANSWER, "video": v},
    "lists of messages": lambda v: {"prompt": [ASKED], "completion": [turn("assistant", ANSWER)], "video": v},
    "a list and a string": lambda v: {"prompt": [ASKED], "completion": ANSWER, "videos": [v]},
    "LLaVA": lambda v: {
        "conversations": [
            {"from": "human", "value": f"<video>\n{QUESTION}"},
            {"from": "gpt", "value": ANSWER},
        ],
        "video": v,
    },
    "LLaVA without a mark": lambda v: {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}],
        "video": v,
    },
    "None in every other column": lambda v: {
        "messages": [ASKED, turn("assistant", {"type": "text", "text": ANSWER, "path": None, "num_frames": None})],
        "prompt": None,
        "completion": None,
        "conversations": None,
        "video": v,
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_batch(qwen: Wrapped, clips: Path, name: str):
    collator = LinVTDataCollator(qwen.processor, num_frames=4)
    path = str(clips / "a.mp4")
    expected = collator(
        [{"messages": [turn("user", {"type": "video", "video": path}, QUESTION), turn("assistant", ANSWER)]}]
    )
    assert_same(collator([FORMATS[name](path)]), expected)
    assert expected["frames_per_video"].tolist() == [4]
    assert learned(expected) == ids_of(qwen, ANSWER, "<|im_end|>", "\n")


# --- what is learned -------------------------------------------------------------------------------------------------


def test_the_loss_is_on_the_answer_and_its_end_of_turn_alone(qwen: Wrapped):
    batch = LinVTDataCollator(qwen.processor)([row(qwen.clip(3))])
    prompt = ids_of(
        qwen,
        "<|im_start|>",
        "system\nYou are a helpful assistant.",
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "user\n",
        "<|vision_start|>",
        *["<|image_pad|>"] * NUM_VIDEO_TOKENS,
        "<|vision_end|>",
        QUESTION,
        "<|im_end|>",
        "\n",
        "<|im_start|>",
        "assistant\n",
    )
    answer = ids_of(qwen, ANSWER, "<|im_end|>", "\n")
    assert batch["input_ids"][0].tolist() == prompt + answer
    assert batch["labels"][0].tolist() == [IGNORED] * len(prompt) + answer


def test_a_batch_without_an_example_is_refused(llava: Wrapped):
    check_refused(lambda: LinVTDataCollator(llava.processor)([]), LinVTInputError, "no example")


def test_every_turn_of_the_assistant_is_learned_and_nothing_else(qwen: Wrapped):
    messages = [
        turn("user", {"type": "video", "video": qwen.clip(3)}, QUESTION),
        turn("assistant", "a ball"),
        turn("user", "And now?"),
        turn("assistant", "no more"),
    ]
    batch = LinVTDataCollator(qwen.processor)([{"messages": messages}])
    assert learned(batch) == ids_of(qwen, "a ball", "<|im_end|>", "\n", "no more", "<|im_end|>", "\n")
    whole = LinVTDataCollator(qwen.processor, completion_only_loss=False)([{"messages": messages}])
    text_ids = [token for token in batch["input_ids"][0].tolist() if token != qwen.processor.markers.token_id]
    assert learned(whole) == text_ids


def test_of_a_completion_with_several_turns_assistant_only_learns_the_assistants(qwen: Wrapped):
    example = {
        "prompt": [turn("user", {"type": "video", "video": qwen.clip(3)}, QUESTION)],
        "completion": [turn("assistant", "a ball"), turn("user", "Sure?"), turn("assistant", "yes")],
    }
    both = learned(LinVTDataCollator(qwen.processor)([example]))
    only = learned(LinVTDataCollator(qwen.processor, assistant_only_loss=True)([example]))
    assert only == ids_of(qwen, "a ball", "<|im_end|>", "\n", "yes", "<|im_end|>", "\n")
    assert set(ids_of(qwen, "Sure?")) <= set(both) and len(both) > len(only)


TAGGED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content[0].text }}<|im_end|>{% endgeneration %}"
    "{% else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>{% endif %}\n{% endfor %}"
)


def test_a_template_that_marks_what_it_generates_decides(qwen: Wrapped):
    collator = LinVTDataCollator(qwen.processor, assistant_only_loss=True, chat_template=TAGGED)
    batch = collator([{"messages": [ASKED, turn("assistant", ANSWER)], "video": qwen.clip(3)}])
    assert learned(batch) == ids_of(qwen, ANSWER, "<|im_end|>")  # without the line end behind it


def test_padding_is_on_the_right_and_has_no_loss(qwen: Wrapped):
    rows = [row(qwen.clip(3)), row(qwen.clip(4, 1), "a red ball and many more things besides")]
    batch = LinVTDataCollator(qwen.processor)(rows)
    alone = LinVTDataCollator(qwen.processor)(rows[:1])
    length = alone["input_ids"].shape[1]
    assert batch["input_ids"].shape[1] > length
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(batch[name][0, :length], alone[name][0])
    assert not batch["attention_mask"][0, length:].any() and (batch["labels"][0, length:] == IGNORED).all()
    places = batch["input_ids"] == qwen.processor.markers.token_id
    assert places.sum() == 2 * NUM_VIDEO_TOKENS and (batch["labels"][places] == IGNORED).all()


def test_a_template_that_opens_an_answer_in_two_ways_is_understood():
    """LLaVA-OneVision's asks with `assistant\\n` and writes `assistant \\n`."""
    family = wrapped("llava_onevision")
    batch = LinVTDataCollator(family.processor)([row(family.clip(3))])
    assert learned(batch) == ids_of(family, ANSWER, "<|im_end|>")


# --- sources ---------------------------------------------------------------------------------------------------------


SOURCES = {
    "bytes": lambda path: path.read_bytes(),
    "a dictionary with bytes": lambda path: {"bytes": path.read_bytes(), "path": None},
    "a dictionary with a path": lambda path: {"path": str(path), "bytes": None},
    "a Path": lambda path: path,
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_of_any_kind_gives_the_same_frames(llava: Wrapped, clips: Path, name: str):
    collator = LinVTDataCollator(llava.processor, num_frames=5)
    expected, found = collator([row(str(clips / "a.mp4"))]), collator([row(SOURCES[name](clips / "a.mp4"))])
    assert torch.equal(found["frame_pixel_values"], expected["frame_pixel_values"])
    assert torch.equal(found["labels"], expected["labels"])


def test_relative_paths_start_from_the_root_and_frames_in_memory_are_taken(llava: Wrapped, clips: Path):
    rooted = LinVTDataCollator(llava.processor, video_root=str(clips), num_frames=8)([row("a.mp4")])
    plain = LinVTDataCollator(llava.processor, num_frames=8)([row(str(clips / "a.mp4"))])
    assert_same(rooted, plain)
    video = llava.processor.read_video(str(clips / "a.mp4"), num_frames=8)
    for source in (video, video.frames):
        found = LinVTDataCollator(llava.processor, num_frames=8)([row(source)])
        assert torch.equal(found["frame_pixel_values"], plain["frame_pixel_values"])


def test_a_part_may_say_how_it_is_sampled(llava: Wrapped, clips: Path):
    messages = [
        turn("user", {"type": "video", "path": str(clips / "a.mp4"), "num_frames": 3}, {"type": "video"}, QUESTION),
        turn("assistant", ANSWER),
    ]
    batch = LinVTDataCollator(llava.processor, num_frames=5)([{"messages": messages, "video": str(clips / "b.mp4")}])
    assert batch["frames_per_video"].tolist() == [3, 5]


def test_pictures_come_from_parts_columns_and_marks(qwen: Wrapped, clips: Path):
    picture = qwen.picture()
    picture.save(clips / "picture.png")
    answer = turn("assistant", ANSWER)
    rows = [
        {"messages": [turn("user", {"type": "image", "image": picture}, QUESTION), answer]},
        {"messages": [turn("user", {"type": "image"}, QUESTION), answer], "image": picture},
        {"messages": [turn("user", QUESTION), answer], "images": ["picture.png"]},
        {"prompt": QUESTION, "completion": ANSWER, "image": "picture.png"},
        {
            "conversations": [
                {"from": "human", "value": f"<image>\n{QUESTION}"},
                {"from": "gpt", "value": ANSWER},
            ],
            "image": "picture.png",
        },
    ]
    collator = LinVTDataCollator(qwen.processor, video_root=str(clips))
    expected = collator(rows[:1])
    assert "pixel_values" in expected and learned(expected) == ids_of(qwen, ANSWER, "<|im_end|>", "\n")
    for other in rows[1:]:
        found = collator([other])
        for name in ("input_ids", "labels", "pixel_values"):
            assert torch.equal(found[name], expected[name])
    check_refused(
        lambda: collator([{"messages": [turn("user", {"type": "image"}, QUESTION), answer]}]),
        LinVTInputError,
        "image part",
        "'image' or 'images'",
    )


# --- length ----------------------------------------------------------------------------------------------------------


def test_only_the_end_of_an_answer_is_cut(qwen: Wrapped):
    rows = [row(qwen.clip(3), "a red ball that rolls over a long long floor"), row(qwen.clip(4), "yes")]
    whole = LinVTDataCollator(qwen.processor)(rows)
    length = int((whole["labels"][0] != IGNORED).int().argmax()) + 3  # three words of the answer stay
    cut = LinVTDataCollator(qwen.processor, max_length=length)(rows)
    for name in ("input_ids", "labels", "attention_mask", "video_mask", "question_mask"):
        assert torch.equal(cut[name], whole[name][:, :length]), name
    assert len(learned(cut)) == 3 and torch.equal(cut["frame_pixel_values"], whole["frame_pixel_values"])
    assert (cut["input_ids"] == qwen.processor.markers.token_id).sum() == 2 * NUM_VIDEO_TOKENS


def test_what_cannot_be_cut_is_refused_with_both_numbers(qwen: Wrapped):
    whole = LinVTDataCollator(qwen.processor)([row(qwen.clip(3))])
    least = int((whole["labels"][0] != IGNORED).int().argmax()) + 1
    LinVTDataCollator(qwen.processor, max_length=least)([row(qwen.clip(3))])
    collator = LinVTDataCollator(qwen.processor, max_length=least - 1)
    check_refused(
        lambda: collator([row(qwen.clip(3))]), LinVTInputError, f"needs {least}", f"max_length is {least - 1}"
    )


# --- unreadable videos -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["truncated.mp4", "text.mp4", "missing.mp4"])
def test_an_unreadable_video_gives_its_place_to_the_next(
    llava: Wrapped, clips: Path, broken: str, caplog: pytest.LogCaptureFixture
):
    collator = LinVTDataCollator(llava.processor, num_frames=3, video_root=str(clips))
    rows = [row("a.mp4", "first"), row(broken, "never"), row("b.mp4", "third"), row(broken, "never")]
    batch = collator(rows)
    assert_same(collator(rows), batch)
    expected = collator([rows[0], rows[2], rows[2], rows[0]])
    assert batch.pop("unreadable_videos") == [repr(str(clips / broken))] * 2
    expected.pop("unreadable_videos")
    assert_same(batch, expected)
    assert caplog.text.count("takes its place") == 1 and broken in caplog.text


def test_a_batch_of_nothing_but_broken_videos_is_refused(llava: Wrapped, clips: Path):
    collator = LinVTDataCollator(llava.processor, video_root=str(clips))
    check_refused(
        lambda: collator([row("text.mp4"), row("truncated.mp4")]),
        VideoReadError,
        "None of the 2",
        "text.mp4",
        "truncated",
    )


def test_the_same_video_and_the_same_answer_have_the_same_number(llava: Wrapped, clips: Path):
    collator = LinVTDataCollator(llava.processor, video_root=str(clips), num_frames=2)
    batch = collator([row("a.mp4", "cat"), row("b.mp4", "dog"), row("a.mp4", "dog"), row("b.mp4", " cat ")])
    videos, captions = batch["video_ids"].tolist(), batch["caption_ids"].tolist()
    assert videos[0] == videos[2] != videos[1] == videos[3]
    assert captions[0] == captions[3] != captions[1] == captions[2]


# --- more than one kind in a batch, and what is no example -----------------------------------------------------------


LEARNED = {  # words and end of turn, as each family's template writes them behind its generation prompt
    "llava_onevision": f"{ANSWER}<|im_end|>",
    "llava_phi": f" {ANSWER}<|endoftext|>",
    "smolvlm": f" {ANSWER}<end_of_utterance>\n",
    "gemma3": f"{ANSWER}<end_of_turn>\n",
}


def answer_span_by_whole_renderings(self, messages, turn, videos, template, flags, prompt):
    """Where an answer stands, with everything rendered for it alone, questions marked."""

    def render(number, **more):
        part = messages[:number]
        frames = None if videos is None else videos[: len(list(parts_of(part, "video")))]
        rewritten = self._rewrite(part, frames)
        return str(self._render(rewritten, template, {**flags, **more})) if number else ""

    is_answer = messages[turn]["role"] == "assistant"
    before, behind = render(turn, add_generation_prompt=is_answer), render(turn + 1)
    if is_answer and behind.startswith(before + self.added.last):
        before += self.added.last
    return len(before), len(behind)


@pytest.mark.parametrize("name", ["llava_phi", "qwen2_vl", "idefics3"])
def test_an_answer_is_found_with_fewer_renderings_as_with_all(name: str, monkeypatch: pytest.MonkeyPatch):
    """Two of a conversation, and one more for its last answer: what was rendered before is not rendered again."""
    family = wrapped(name)
    video = {"type": "video", "video": family.clip(4)}
    question, answer = turn("user", video, QUESTION), turn("assistant", ANSWER)
    several = [question, answer, turn("user", "Where?"), turn("assistant", "up")]
    rows = [row(family.clip(5)), row(), {"messages": several}, {"messages": several[:2]}]
    make = LinVTDataCollator(family.processor, add_timestamps=name == "qwen2_vl")
    processor, own, count = type(family.processor), WritesPrompts._render, 0

    def counted(self, *args, **kwargs):
        nonlocal count
        count += 1 + (kwargs.get("with_question_spans", True) and bool(args[0].questions))
        return own(self, *args, **kwargs)

    monkeypatch.setattr(processor, "_render", counted)
    found, few = make(rows), count
    monkeypatch.setattr(processor, "_answer_span", answer_span_by_whole_renderings)
    count = 0
    assert_same(found, make(rows))
    assert (few, count) == (14, 28)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_the_answer_behind_the_prompt_that_it_is_asked_with(name: str):
    family = wrapped(name)
    video, processor = family.clip(3), family.processor
    batch = LinVTDataCollator(processor)([row(video), row(family.clip(2, 1), "no")])
    labels = learned(batch)
    assert processor.tokenizer.decode(labels) == LEARNED.get(name, f"{ANSWER}<|im_end|>\n")
    assert max(labels) < family.model.get_output_embeddings().weight.shape[0]
    assert learned(batch, 1)[-1] == labels[-1] != learned(batch, 1)[0]
    start = int((batch["labels"][0] != IGNORED).int().argmax())
    prompt = family.inputs([turn("user", {"type": "video", "video": video}, QUESTION)])["input_ids"][0].tolist()
    if name == "llava_onevision":  # it opens an answer with a blank that its generation prompt lacks
        prompt = prompt[: -len(ids_of(family, "assistant\n"))] + ids_of(family, "assistant \n")
    assert batch["input_ids"][0, :start].tolist() == prompt


def test_rows_with_videos_pictures_and_words_alone_stand_in_one_batch(qwen: Wrapped):
    rows = [row(qwen.clip(3)), row(answer="no"), {**row(answer="a dog"), "image": qwen.picture()}]
    collator = LinVTDataCollator(qwen.processor)
    batch = collator(rows)
    singles = [collator([one]) for one in rows]
    assert len({single["input_ids"].shape[1] for single in singles}) == 3
    for number, single in enumerate(singles):
        length = single["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask", "video_mask", "question_mask"):
            assert torch.equal(batch[name][number, :length], single[name][0]), (number, name)
    assert torch.equal(batch["frame_pixel_values"], singles[0]["frame_pixel_values"])
    assert torch.equal(batch["pixel_values"], singles[2]["pixel_values"])
    assert batch["video_mask"].any(1).tolist() == [True, False, False]
    assert "frames_per_video" not in singles[1] and "pixel_values" not in singles[1]


def test_the_videos_of_an_example_come_in_the_order_of_its_parts(llava: Wrapped, clips: Path):
    collator = LinVTDataCollator(llava.processor, num_frames=3, video_root=str(clips))
    one, two = (collator([row(name)])["frame_pixel_values"] for name in ("a.mp4", "b.mp4"))
    assert not torch.equal(one, two)
    part = {"type": "video", "path": "b.mp4"}
    answer = turn("assistant", ANSWER)
    for example in (
        {"messages": [turn("user", {"type": "video"}, part, QUESTION), answer], "video": "a.mp4"},
        {
            "messages": [turn("user", {"type": "video"}, {"type": "video"}, QUESTION), answer],
            "videos": ["a.mp4", "b.mp4"],
        },
        {"prompt": [turn("user", part, QUESTION)], "completion": ANSWER, "video": "a.mp4"},  # in front of the part
        {**row(), "videos": ["a.mp4", "b.mp4"]},
    ):
        batch = collator([example])
        assert torch.equal(batch["frame_pixel_values"], torch.cat([one, two]))
        assert (batch["input_ids"] == llava.processor.markers.token_id).sum() == 2 * NUM_VIDEO_TOKENS
        assert batch["video_ids"] == collator([{**row(), "videos": ["a.mp4", "b.mp4"]}])["video_ids"]


def test_a_loss_on_the_whole_text_still_leaves_out_placeholders_and_padding(qwen: Wrapped):
    rows = [row(qwen.clip(3)), row(qwen.clip(4, 1), "a red ball and many more things besides")]
    batch = LinVTDataCollator(qwen.processor, completion_only_loss=False)(rows)
    text_only = batch["attention_mask"].bool() & (batch["input_ids"] != qwen.processor.markers.token_id)
    assert torch.equal(batch["labels"] != IGNORED, text_only)
    assert torch.equal(batch["labels"][text_only], batch["input_ids"][text_only])
    assert not bool(batch["attention_mask"].all())
    both = LinVTDataCollator(qwen.processor, completion_only_loss=False, assistant_only_loss=True)(rows)
    assert torch.equal(both["labels"], LinVTDataCollator(qwen.processor)(rows)["labels"])  # the narrower one counts


def test_times_are_written_into_the_prompt_and_never_learned(qwen: Wrapped):
    batch = LinVTDataCollator(qwen.processor, add_timestamps=True)([row(qwen.clip(3))])
    plain = LinVTDataCollator(qwen.processor, add_timestamps=False)([row(qwen.clip(3))])
    assert batch["input_ids"].shape[1] > plain["input_ids"].shape[1]
    assert learned(batch) == learned(plain)
    asked = [turn("user", {"type": "video", "video": qwen.clip(3)}, QUESTION)]
    prompt = qwen.inputs(asked, add_timestamps=True)["input_ids"][0].tolist()
    assert batch["input_ids"][0].tolist() == prompt + learned(batch)


def test_a_conversation_is_cut_behind_its_last_question(qwen: Wrapped):
    """LinVT looks at the last question, so that one has to stay."""
    messages = [ASKED, turn("assistant", "a ball"), turn("user", "And now?"), turn("assistant", "no more of them")]
    example = {"messages": messages, "video": qwen.clip(3)}
    whole = LinVTDataCollator(qwen.processor)([example])
    least = int(whole["question_mask"][0].nonzero().max()) + 1
    cut = LinVTDataCollator(qwen.processor, max_length=least)([example])
    assert cut["question_mask"].sum() == whole["question_mask"].sum() == len(ids_of(qwen, "And now?"))
    assert torch.equal(cut["labels"], whole["labels"][:, :least])
    assert learned(cut) == ids_of(qwen, "a ball", "<|im_end|>", "\n")
    check_refused(
        lambda: LinVTDataCollator(qwen.processor, max_length=least - 1)([example]), LinVTInputError, f"needs {least}"
    )


def test_one_broken_video_of_two_gives_the_whole_example_away(llava: Wrapped, clips: Path):
    collator = LinVTDataCollator(llava.processor, num_frames=3, video_root=str(clips))
    batch = collator([{**row(), "videos": ["a.mp4", "text.mp4"]}, row(answer="words alone")])
    assert batch["unreadable_videos"] == [f"{str(clips / 'a.mp4')!r}, {str(clips / 'text.mp4')!r}"]
    alone = collator([row(answer="words alone")] * 2)
    assert torch.equal(batch["labels"], alone["labels"]) and "frames_per_video" not in batch


NO_EXAMPLES = {
    "text": ("a text", ("not a str", "'messages'")),
    "unknown keys": ({"clip": "a.mp4", "question": "What?"}, ("'clip'", "'question'", "'messages'")),
    "a prompt alone": ({"prompt": "What?", "completion": None}, ("'prompt'",)),
    "no answer": ({"messages": [turn("user", "What?")]}, ("no answer to learn", "user")),
    "no messages": ({"messages": []}, ("no answer to learn",)),
    "a part without a source": ({"messages": [ASKED, turn("assistant", "x")]}, ("video part", "'video' or 'videos'")),
    "a video and no user": (
        {"messages": [turn("assistant", "x")], "video": "a.mp4"},
        ("video", "no message of a user"),
    ),
    "a turn of nobody": ({"conversations": [{"from": "robot", "value": "Hi"}]}, ("'human' or 'gpt'", "robot")),
    "a turn without text": ({"conversations": [{"from": "human", "value": None}]}, ("'human' or 'gpt'",)),
    "a text with a placeholder": ({"prompt": "What is <image>?", "completion": "x", "video": "a.mp4"}, ("'<image>'",)),
}


@pytest.mark.parametrize("name", NO_EXAMPLES)
def test_what_is_no_example_is_refused_with_what_was_found(llava: Wrapped, clips: Path, name: str):
    example, words = NO_EXAMPLES[name]
    collator = LinVTDataCollator(llava.processor, num_frames=2, video_root=str(clips))
    check_refused(lambda: collator([row("a.mp4"), example]), LinVTInputError, *words)


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(llava: Wrapped, clips: Path, context: str):
    rows = [row(str(clips / f"{name}.mp4"), name) for name in ("a", "b", "c", "truncated")]
    collator = LinVTDataCollator(llava.processor, num_frames=3)
    here = [collator(rows[start : start + 2]) for start in (0, 2)]
    loader = DataLoader(rows, 2, collate_fn=collator, num_workers=2, multiprocessing_context=context)
    there = list(loader)
    assert len(there) == 2
    for found, expected in zip(there, here, strict=True):
        assert_same(found, expected)


def test_real_clips_are_read(llava: Wrapped, videos_dir: Path):
    real = sorted(path for path in videos_dir.rglob("*.mp4"))[:2]
    batch = LinVTDataCollator(llava.processor, num_frames=7)([row(str(path)) for path in real])
    assert batch["frames_per_video"].tolist() == [7] * len(real) and len(real) == 2
    assert batch["unreadable_videos"] == []


# --- what people write -----------------------------------------------------------------------------------------------


def test_a_rate_of_the_part_wins_over_a_number_of_the_collator(llava: Wrapped, clips: Path):
    part = {"type": "video", "path": str(clips / "a.mp4"), "fps": 4}  # 8 frames in one second
    rows = [{"messages": [turn("user", part, QUESTION), turn("assistant", ANSWER)]}]
    assert LinVTDataCollator(llava.processor, num_frames=3)(rows)["frames_per_video"].tolist() == [4]


@pytest.mark.parametrize("tag", ["{% generation %}", "{%generation%}", "{%-  generation -%}"])
def test_tags_are_found_however_they_are_written(qwen: Wrapped, tag: str):
    template = TAGGED.replace("{% generation %}", tag)
    collator = LinVTDataCollator(qwen.processor, assistant_only_loss=True, chat_template=template)
    batch = collator([{"messages": [ASKED, turn("assistant", ANSWER)], "video": qwen.clip(3)}])
    assert learned(batch) == ids_of(qwen, ANSWER, "<|im_end|>")


def test_a_missing_picture_costs_its_example_and_not_the_run(llava: Wrapped, clips: Path):
    rows = [row(str(clips / "a.mp4")), {"prompt": "And?", "completion": "no", "image": str(clips / "gone.png")}]
    batch = LinVTDataCollator(llava.processor, num_frames=2)(rows)
    assert batch["frames_per_video"].tolist() == [2, 2] and len(batch["unreadable_videos"]) == 1
    assert "gone.png" in batch["unreadable_videos"][0]


def test_one_source_or_a_list_of_one_is_the_same_in_both_columns(llava: Wrapped, clips: Path):
    collator = LinVTDataCollator(llava.processor, num_frames=2)
    path = str(clips / "a.mp4")
    expected = collator([row(path)])
    for columns in ({"videos": path}, {"video": [path]}, {"videos": [path]}):
        assert_same(collator([{**row(), **columns}]), expected)


def test_llava_video_writes_image_where_the_video_goes(llava: Wrapped, clips: Path):
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}]
    collator = LinVTDataCollator(llava.processor, num_frames=2)
    path = str(clips / "a.mp4")
    assert_same(collator([{"conversations": turns, "video": path}]), collator([row(path)]))


def test_markers_of_pictures_are_never_learned():
    family = wrapped("molmo2")
    batch = LinVTDataCollator(family.processor, completion_only_loss=False)([row(family.clip(3))])
    assert max(learned(batch)) < family.model.get_output_embeddings().weight.shape[0]
    inputs = {name: value for name, value in batch.items() if name not in BOOKKEEPING_KEYS}
    assert torch.isfinite(family.model(**inputs).loss)


@pytest.mark.parametrize(
    "example",
    [
        {"messages": "hi"},
        {"messages": [{"content": "hi"}]},
        {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "hi"}], "video": "a.mp4"},
        {"messages": 3},
        {"prompt": 3, "completion": "hi"},
    ],
)
def test_what_is_no_conversation_is_refused_in_words(llava: Wrapped, example: dict):
    check_refused(lambda: LinVTDataCollator(llava.processor)([example]), LinVTInputError, "essage")
