"""
The collator: every format of an example gives the same batch, the loss is on the answer and nowhere else, a video that
cannot be read is replaced, and what does not fit is refused.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from promises import NUM_VIDEO_TOKENS, Wrapped, check_refused, wrapped
from transformers_linvt import LinVTInputError
from transformers_linvt.shapes import make_clip, write_clip
from transformers_linvt.training.collator import IGNORED, LinVTDataCollator


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
