"""
The pipeline answers whatever it is given as the model alone would, decodes and encodes once, and fails clearly.

A tiny LLaVA with random weights serves, because what is proved is that the ways to ask agree: one by one, in lists, in
batches, as chats, from datasets. The last tests ask the embedded model, which knows something.
"""

import io
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.utils import logging

from tiny_bases import build
from transformers_linvt import (
    LinVTError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    VideoEvidence,
    VideoQuestionAnsweringPipeline,
    VideoReadError,
    embedded_model_path,
)
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.model.attribution import tokens_of_answer, words_of_answer
from transformers_linvt.model.encoding import VideoEncoding
from transformers_linvt.pipeline import progress
from transformers_linvt.video import chunks, reading


VIDEO_TOKENS, NEW_TOKENS = 6, 5
LENGTHS = {"a": 5, "b": 8, "c": 3}  # frames of the clips
CHAT = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
QUESTIONS = ("What is in the video?", "Is there a red ball at the end of it?", "Where?")


@pytest.fixture(scope="module")
def model() -> LinVTForVideoQA:
    torch.manual_seed(0)
    base, _ = build("llava_phi")
    return LinVTForVideoQA.from_base(
        base,
        num_video_tokens=VIDEO_TOKENS,
        num_kept_tokens=20,
        bottleneck_size=8,
        num_heads=2,
        scale_mode="specific",
        init="free",
    )


@pytest.fixture(scope="module")
def processor() -> LinVTProcessor:
    return LinVTProcessor.from_base(build("llava_phi")[1], num_video_tokens=VIDEO_TOKENS, num_frames=16)


@pytest.fixture(scope="module")
def pipe(model, processor) -> VideoQuestionAnsweringPipeline:
    return pipeline(
        "video-question-answering",
        model=model,
        processor=processor,
        device="cpu",
        max_new_tokens=NEW_TOKENS,
        cache_size=0,  # what a call costs is counted; test_caching.py has what is remembered
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, str]:
    """Real files, of different lengths; in the last one scenes change."""
    folder, paths = tmp_path_factory.mktemp("clips"), {}
    for number, (name, length) in enumerate(LENGTHS.items()):
        paths[name] = str(folder / f"{name}.mp4")
        write_clip(paths[name], make_clip("scenes", seed=number, num_frames=length)[0])
    return paths


@pytest.fixture
def calls(pipe, monkeypatch) -> Counter:
    """Counts what is expensive: videos read, videos encoded, runs of the language model and their rows."""
    counter: Counter = Counter()
    base = pipe.model.base_vlm
    read, encode, generate = reading.read_into, VideoEncoding.finish, base.generate

    def counted_read(*args, **kwargs):
        counter["read"] += 1
        return read(*args, **kwargs)

    def counted_encode(encoding):
        counter["encoded"] += 1
        return encode(encoding)

    def counted_generate(**kwargs):
        counter["runs"] += 1
        counter["rows"] += len(kwargs["input_ids"])
        return generate(**kwargs)

    for module in (reading, chunks):
        monkeypatch.setattr(module, "read_into", counted_read)
    monkeypatch.setattr(VideoEncoding, "finish", counted_encode)
    monkeypatch.setattr(base, "generate", counted_generate)
    return counter


def chat(*parts, role: str = "user") -> dict:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": role, "content": content}


def video(path: str, **sampling) -> dict:
    return {"type": "video", "path": path, **sampling}


def answers_of(results) -> list:
    return [answers_of(one) if isinstance(one, list) else one["answer"] for one in results]


# --- one video -------------------------------------------------------------------------------------------------------


def test_one_question_gives_a_list_of_one_dictionary(pipe, clips):
    (result,) = pipe(video=clips["a"], question=QUESTIONS[0])
    patches = pipe.model.model.encode_videos([1], _first_frame(pipe, clips["a"]))[0].tokens.shape[1]
    assert isinstance(result.pop("answer"), str)
    assert result == {
        "question": QUESTIONS[0],
        "video": clips["a"],
        "frames_seen": LENGTHS["a"],
        "frame_tokens": LENGTHS["a"] * patches,
        "video_tokens": VIDEO_TOKENS,
    }


def _first_frame(pipe, path: str) -> dict:
    inputs = pipe.processor.video_inputs(path, num_frames=1)
    return {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}


def test_answer_is_that_of_the_model_alone(pipe, model, processor, clips):
    features = model.encode_video(**processor.video_inputs(clips["b"]))
    expected = model.answer(features, list(QUESTIONS), processor=processor, max_new_tokens=NEW_TOKENS)
    assert answers_of(pipe(video=clips["b"], question=list(QUESTIONS))) == expected
    inputs = processor.apply_chat_template([chat(video(clips["b"]), QUESTIONS[1])], **CHAT)
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS)[:, inputs["input_ids"].shape[1] :]
    assert processor.batch_decode(output, skip_special_tokens=True)[0].strip() == expected[1]


def test_several_questions_decode_and_encode_the_video_once(pipe, clips, calls):
    together = pipe(video=clips["b"], question=list(QUESTIONS))
    assert calls == {"read": 1, "encoded": 1, "runs": 3, "rows": 3}
    one_by_one = [pipe(video=clips["b"], question=question)[0] for question in QUESTIONS]
    assert together == one_by_one
    assert calls["read"] == calls["encoded"] == 4


def test_questions_go_through_the_language_model_in_batches(pipe, clips, calls):
    alone = pipe(video=clips["b"], question=list(QUESTIONS))
    calls.clear()
    assert pipe(video=clips["b"], question=list(QUESTIONS), batch_size=2) == alone
    assert calls == {"read": 1, "encoded": 1, "runs": 2, "rows": 3}


def test_sampling_arguments_decide_what_is_read(pipe, clips):
    def seen(**sampling) -> list[float]:
        (result,) = pipe(video=clips["b"], question="Who?", return_evidence=True, **sampling)
        return result["evidence"].timestamps.tolist()

    assert seen(num_frames=2) == [0.25, 0.75]  # frames 2 and 6 of 8 at 8 per second
    assert seen(fps=4) == [0.0, 0.25, 0.5, 0.75]
    assert seen(fps=8, start=0.25, end=0.5) == [0.25, 0.375, 0.5]
    assert seen(video_backend="pyav", num_frames=1) == [0.5]
    assert len(seen()) == LENGTHS["b"]  # the processor's 16, of which there are 8


def test_sampling_of_a_call_replaces_that_of_the_construction(model, processor, clips):
    ask = VideoQuestionAnsweringPipeline(
        model=model, processor=processor, device="cpu", num_frames=2, max_new_tokens=1
    )

    def seen(**sampling) -> int:
        return ask(video=clips["b"], question="Who?", **sampling)[0]["frames_seen"]

    assert [seen(), seen(num_frames=3), seen(fps=4), seen()] == [2, 3, 4, 2]
    assert ask.inspect(clips["b"], fps=4).num_frames == 4 and ask.inspect(clips["b"]).num_frames == 2


def test_frames_in_memory_are_a_video(pipe, clips):
    frames = pipe.processor.read_video(clips["c"])
    path = pipe(video=clips["c"], question="Who?")
    array = pipe(video=frames.frames, question="Who?", fps=8)
    pictures = pipe(video=[Image.fromarray(frame) for frame in frames.frames], question="Who?", fps=8)
    tensor = pipe(video=torch.from_numpy(frames.frames).permute(0, 3, 1, 2), question="Who?", fps=8)
    read = pipe(video=frames, question="Who?")
    assert answers_of(array) == answers_of(pictures) == answers_of(tensor) == answers_of(read) == answers_of(path)
    assert array[0]["video"] == pictures[0]["video"] == "<frames in memory>"
    assert pictures[0]["frames_seen"] == LENGTHS["c"]


# --- many videos -----------------------------------------------------------------------------------------------------


def singles(pipe, clips) -> list[list[dict]]:
    pairs = [("a", 0), ("b", 1), ("c", 2), ("b", 0), ("a", 2)]
    return [pipe(video=clips[name], question=QUESTIONS[number]) for name, number in pairs]


def as_inputs(results: list[list[dict]]) -> list[dict]:
    return [{"video": result[0]["video"], "question": result[0]["question"]} for result in results]


def test_list_of_inputs_gives_one_list_each_in_order(pipe, clips):
    expected = singles(pipe, clips)
    assert pipe(as_inputs(expected)) == expected


@pytest.mark.parametrize("batch_size", [2, 3, 5, 8])
def test_batch_equals_one_by_one(pipe, clips, calls, batch_size):
    expected = singles(pipe, clips)
    calls.clear()
    assert pipe(as_inputs(expected), batch_size=batch_size) == expected
    assert calls["runs"] == -(-len(expected) // batch_size)  # it was indeed a batch
    assert calls["rows"] == len(expected)


@pytest.mark.parametrize("num_workers", [1, 2, 7])
def test_decoding_ahead_in_threads_changes_nothing(pipe, clips, calls, num_workers):
    expected = singles(pipe, clips)
    calls.clear()
    assert pipe(as_inputs(expected), num_workers=num_workers, batch_size=2) == expected
    assert calls["read"] == len(expected)


def test_decoding_ahead_stays_a_few_inputs_ahead(pipe, clips):
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield {"video": clips["c"], "question": "Who?"}

    results = pipe(items(), num_workers=2)
    next(results)
    assert len(taken) <= 4
    results.close()


def test_videos_share_a_question_or_have_their_own(pipe, clips):
    paths = [clips["a"], clips["c"]]
    shared = pipe(video=paths, question="Who?")
    assert shared == [pipe(video=path, question="Who?") for path in paths]
    own = pipe(video=paths, question=["Who?", ["Where?", "What?"]])
    assert own == [pipe(video=paths[0], question="Who?"), pipe(video=paths[1], question=["Where?", "What?"])]


def test_an_input_may_have_several_questions_and_its_own_sampling(pipe, clips, calls):
    inputs = [
        {"video": clips["a"], "question": list(QUESTIONS[:2]), "num_frames": 2, "id": 17},
        {"video": clips["b"], "question": QUESTIONS[0], "start": None},
    ]
    first, second = pipe(inputs, fps=8, batch_size=2)
    assert calls["read"] == 2
    assert [one["frames_seen"] for one in first] == [2, 2]  # its num_frames replaces fps of the call
    assert second[0]["frames_seen"] == LENGTHS["b"]
    assert answers_of(first) == answers_of(pipe(video=clips["a"], question=list(QUESTIONS[:2]), num_frames=2))


def test_generator_is_read_as_it_is_asked(pipe, clips):
    taken = []

    def items():
        for name in LENGTHS:
            taken.append(name)
            yield {"video": clips[name], "question": "Who?"}

    results = pipe(items())
    assert len(taken) <= 1  # transformers looks at the first input to tell chats from others
    assert next(results) == pipe(video=clips["a"], question="Who?")
    assert taken == ["a"]
    assert [one[0]["video"] for one in results] == [clips["b"], clips["c"]]


def test_datasets_are_streamed_with_one_question_or_one_each(pipe, clips):
    rows = [{"clip": clips[name], "about": question} for name, question in zip("abc", QUESTIONS, strict=True)]
    expected = [pipe(video=row["clip"], question=row["about"]) for row in rows]
    assert list(pipe(KeyDataset(rows, "clip"), question=KeyDataset(rows, "about"))) == expected
    shared = list(pipe(KeyDataset(rows, "clip"), question="Who?", batch_size=2))
    assert shared == [pipe(video=row["clip"], question="Who?") for row in rows]
    with pytest.raises(LinVTInputError, match="3 videos and 2 questions"):
        pipe(KeyDataset(rows, "clip"), question=KeyDataset(rows[:2], "about"))


def test_columns_and_rows_of_the_datasets_library_are_taken(pipe, clips):
    datasets = pytest.importorskip("datasets", reason="the library datasets is in the extra: training")
    rows = [{"video": clips[name], "question": "Who?", "answer": "?"} for name in LENGTHS]
    expected = [pipe(video=row["video"], question="Who?") for row in rows]
    table = datasets.Dataset.from_list(rows)
    assert list(pipe(table)) == expected
    assert list(pipe(table["video"], question="Who?")) == expected
    assert list(pipe(table.to_iterable_dataset())) == expected


def test_no_inputs_give_no_results(pipe):
    assert pipe([]) == []


# --- chats -----------------------------------------------------------------------------------------------------------


def test_chat_is_answered_like_the_question_it_holds(pipe, clips):
    messages = [chat(video(clips["b"]), QUESTIONS[0])]
    (plain,) = pipe(video=clips["b"], question=QUESTIONS[0])
    for results in (pipe(messages=messages), pipe(messages), pipe(text=messages)):
        (result,) = results
        assert result["answer"] == plain["answer"]
        assert result["generated_text"] == [*messages, {"role": "assistant", "content": plain["answer"]}]
        assert result["video"] == [clips["b"]] and result["question"] == QUESTIONS[0]
        assert result["frame_tokens"] == plain["frame_tokens"] and result["video_tokens"] == VIDEO_TOKENS


def test_several_videos_pictures_and_turns_in_one_chat(pipe, clips):
    picture = Image.new("RGB", (48, 64), (200, 30, 40))
    messages = [
        chat(video(clips["a"]), {"type": "image", "image": picture}, "What is this?"),
        chat("A room.", role="assistant"),
        chat(video(clips["b"], num_frames=3), "And this?"),
    ]
    (result,) = pipe(messages, return_evidence=True)
    assert result["question"] == "And this?"
    assert result["video"] == [clips["a"], clips["b"]]
    assert result["frames_seen"] == LENGTHS["a"] + 3
    assert result["video_tokens"] == 2 * VIDEO_TOKENS
    assert [one.num_frames for one in result["evidence"]] == [LENGTHS["a"], 3]
    assert len(result["generated_text"]) == 4


def test_chats_without_a_video_reach_the_base_as_they_are(pipe, model, processor):
    (result,) = pipe([chat("What colour is the object?")])
    inputs = processor.apply_chat_template([chat("What colour is the object?")], **CHAT)
    output = model.base_vlm.generate(**inputs, max_new_tokens=NEW_TOKENS)[:, inputs["input_ids"].shape[1] :]
    assert result["answer"] == processor.batch_decode(output, skip_special_tokens=True)[0].strip()
    assert (result["video"], result["frames_seen"], result["frame_tokens"], result["video_tokens"]) == ([], 0, 0, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_list_of_chats_equals_one_by_one(pipe, clips, batch_size):
    chats = [
        [chat(video(clips["a"]), QUESTIONS[0])],
        [chat(video(clips["c"]), video(clips["b"]), QUESTIONS[1])],
        [chat("No video at all. Yes?")],
        [chat(video(clips["c"]), "One?"), chat("Yes.", role="assistant"), chat("Where?")],
    ]
    assert pipe(chats, batch_size=batch_size) == [pipe(one) for one in chats]


def test_messages_of_a_dictionary_may_be_sampled(pipe, clips):
    (few,) = pipe([{"messages": [chat(video(clips["b"]), "Who?")], "num_frames": 3}])
    assert few[0]["frames_seen"] == 3


def test_a_turn_that_calls_a_tool_needs_no_content(pipe, clips):
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    for silent in ({"content": None}, {}):
        turns = [
            chat(video(clips["a"]), "Who?"),
            {"role": "assistant", **silent, "tool_calls": [call]},
            {"role": "user", "content": "And where?"},
        ]
        (result,) = pipe(turns)
        assert result["question"] == "And where?" and result["generated_text"][:3] == turns


def test_chat_that_ends_with_the_assistant_is_continued(pipe, clips):
    messages = [chat(video(clips["a"]), QUESTIONS[0]), chat("There is a", role="assistant")]
    (result,) = pipe(messages)
    assert len(result["generated_text"]) == 2
    assert result["generated_text"][-1]["content"][-1]["text"] == result["answer"]
    assert pipe([messages, [chat(video(clips["b"]), "Who?")]], batch_size=2)[0] == [result]


# --- evidence and scores ---------------------------------------------------------------------------------------------


def frame_tokens(pipe, path: str) -> np.ndarray:
    inputs = pipe.processor.video_inputs(path)
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    with torch.no_grad():
        return pipe.model.model.encode_videos(inputs["frames_per_video"].tolist(), frames)[0].tokens.numpy()


def video_tokens(pipe, path: str, question: str) -> np.ndarray:
    inputs = pipe.processor.apply_chat_template([chat(video(path), question)], **CHAT)
    with torch.no_grad():
        return pipe.model.model.prepare(**inputs)[1].tokens[0].numpy()


@pytest.mark.parametrize("way", ["single", "batch", "chats"])
def test_evidence_composes_to_the_video_tokens_exactly(pipe, clips, way):
    if way == "chats":
        results = pipe([[chat(video(clips[name]), "Who?")] for name in LENGTHS], return_evidence=True, batch_size=2)
        found = [result[0]["evidence"][0] for result in results]
    else:
        inputs = [{"video": clips[name], "question": "Who?"} for name in LENGTHS]
        results = pipe(inputs, return_evidence=True, batch_size=1 if way == "single" else 3)
        found = [result[0]["evidence"] for result in results]
    for name, evidence, result in zip(LENGTHS, found, results, strict=True):
        assert isinstance(evidence, VideoEvidence)
        np.testing.assert_allclose(evidence.kept_weights.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(evidence.frame_weights.sum(), 1, atol=1e-5)
        tokens = frame_tokens(pipe, clips[name])
        expected = video_tokens(pipe, clips[name], "Who?")
        np.testing.assert_allclose(evidence.apply(tokens), expected, atol=1e-4 * np.abs(expected).max())
        assert evidence.frames.shape[0] == LENGTHS[name] == evidence.num_frames
        assert (evidence.question, evidence.answer) == ("Who?", result[0]["answer"])
        assert evidence.source == clips[name]
        assert evidence.timestamps.tolist() == [number / 8 for number in range(LENGTHS[name])]
        json.dumps(evidence.to_dict(with_places=True))


def test_evidence_differs_with_the_question_and_can_be_saved(pipe, clips, tmp_path):
    first, second = pipe(video=clips["b"], question=list(QUESTIONS[:2]), return_evidence=True)
    assert not np.allclose(first["evidence"].kept_weights, second["evidence"].kept_weights)
    first["evidence"].save(tmp_path / "evidence.png")
    assert Image.open(tmp_path / "evidence.png").width == 800


def test_inspect_weighs_the_video_without_running_the_language_model(pipe, clips, calls):
    evidence = pipe.inspect(clips["b"], "Who?", num_frames=4)
    assert calls == {"read": 1, "encoded": 1}
    (result,) = pipe(video=clips["b"], question="Who?", num_frames=4, return_evidence=True)
    np.testing.assert_allclose(evidence.kept_weights, result["evidence"].kept_weights, atol=1e-6)
    assert (evidence.question, evidence.answer) == ("Who?", None)
    without = pipe.inspect(clips["b"], num_frames=4)
    assert without.question is None and not np.allclose(without.kept_weights, evidence.kept_weights)


def test_score_is_the_geometric_mean_of_the_probabilities_of_the_answer(pipe, model, processor, clips):
    (result,) = pipe(video=clips["a"], question="Who?", return_score=True)
    inputs = processor.apply_chat_template([chat(video(clips["a"]), "Who?")], **CHAT)
    length = inputs["input_ids"].shape[1]
    output = model.generate(**inputs, max_new_tokens=NEW_TOKENS)
    added = output.shape[1] - length
    inputs["input_ids"] = output
    inputs["attention_mask"] = torch.ones_like(output)
    for name in ("video_mask", "question_mask", "mm_token_type_ids", "token_type_ids"):
        if name in inputs:
            inputs[name] = torch.nn.functional.pad(inputs[name], (0, added))
    with torch.no_grad():
        logits = model(**inputs).logits[0, length - 1 : -1]
    log_probs = logits.float().log_softmax(-1).gather(1, output[0, length:, None])
    assert result["score"] == pytest.approx(log_probs.mean().exp().item(), rel=1e-3)
    batch = pipe([{"video": clips[name], "question": "Who?"} for name in "ab"], return_score=True, batch_size=2)
    assert batch[0][0]["score"] == pytest.approx(result["score"], rel=1e-3)


def test_score_of_a_short_answer_does_not_count_what_fills_its_batch(pipe, clips, monkeypatch):
    made = []
    generate = pipe.model.base_vlm.generate

    def spy(**kwargs):
        made.append(generate(**kwargs))
        return made[-1]

    monkeypatch.setattr(pipe.model.base_vlm, "generate", spy)
    asked = [{"video": clips[name], "question": question} for name, question in itertools.product("abc", QUESTIONS)]
    for one in asked:
        pipe(**one)
    answers = [output.sequences[0, -NEW_TOKENS:].tolist() for output in made]
    # two answers of which a token ends the first only
    first, other, end = next(
        (first, other, token)
        for first, other in itertools.permutations(range(len(asked)), 2)
        for token in answers[first][: NEW_TOKENS - 1]
        if token not in answers[other]
    )
    inputs, first = [asked[first], asked[other]], answers[first]
    alone = [pipe(**one, return_score=True, eos_token_id=end)[0]["score"] for one in inputs]
    batch = pipe(inputs, return_score=True, eos_token_id=end, batch_size=2)
    assert made[-1].sequences[0, -1] != first[-1]  # filled
    assert [one[0]["score"] for one in batch] == pytest.approx(alone, rel=1e-3)


def test_tokens_of_an_answer_end_with_the_end_token_or_where_the_padding_starts():
    tokens = torch.tensor([[5, 2, 0, 0], [5, 6, 7, 0], [5, 0, 7, 2], [2, 2, 2, 2]])

    def lengths(ends, pad, count=tokens_of_answer) -> list[int]:
        return count(tokens, ends, pad).sum(dim=1).tolist()

    assert lengths(2, 0) == [2, 3, 4, 1]
    assert lengths([2, 7], 0) == [2, 3, 3, 1]
    assert lengths(2, 2) == [2, 4, 4, 1]
    assert lengths(None, None) == [4, 4, 4, 4]
    assert lengths(2, 0, words_of_answer) == [1, 3, 3, 1]  # the last answer has no words but its end
    assert lengths([2, 7], 0, words_of_answer) == [1, 2, 2, 1]


def test_videos_of_one_batch_may_have_different_grids(tmp_path):
    torch.manual_seed(0)
    base, base_processor = build("qwen2_vl")
    model = LinVTForVideoQA.from_base(base, num_video_tokens=6, bottleneck_size=8, num_heads=2, init="free")
    processor = LinVTProcessor.from_base(base_processor, num_video_tokens=6)
    ask = VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu", max_new_tokens=3)
    frames = np.random.default_rng(0).integers(0, 255, (4, 56, 112, 3), dtype=np.uint8)
    videos = [frames, frames[:3, :, ::2].repeat(2, axis=1)]  # wide and tall, of 4 and 3 frames
    alone = [ask(video=one, question="Who?", fps=2, return_evidence=True)[0] for one in videos]
    batch = [one[0] for one in ask(video=videos, question="Who?", fps=2, return_evidence=True, batch_size=2)]
    grids = [one["evidence"].grid_size for one in alone]
    assert grids[0] != grids[1]
    for one, other in zip(alone, batch, strict=True):
        evidence, expected = other.pop("evidence"), one.pop("evidence")
        assert other == one
        assert (evidence.grid_size, evidence.tokens_per_frame) == (expected.grid_size, expected.tokens_per_frame)
        np.testing.assert_array_equal(evidence.kept_indices, expected.kept_indices)
        np.testing.assert_allclose(evidence.kept_weights, expected.kept_weights, atol=1e-5)
        rows, columns = evidence.grid_size
        assert other["frame_tokens"] == (other["frames_seen"] + 1) // 2 * rows * columns  # frames are merged in pairs


def test_times_in_the_prompt_are_those_of_a_chat(model, processor, clips, monkeypatch):
    timed = LinVTProcessor.from_base(processor.base_processor, num_video_tokens=VIDEO_TOKENS, add_timestamps=True)
    ask = VideoQuestionAnsweringPipeline(model=model, processor=timed, device="cpu", max_new_tokens=NEW_TOKENS)
    prompts = []
    generate = model.base_vlm.generate

    def spy(**kwargs):
        prompts.append(timed.batch_decode(kwargs["input_ids"])[0])
        return generate(**kwargs)

    monkeypatch.setattr(model.base_vlm, "generate", spy)
    results = ask(video=clips["a"], question=list(QUESTIONS[:2]), return_evidence=True, return_score=True)
    chats = [ask([chat(video(clips["a"]), question)])[0] for question in QUESTIONS[:2]]
    assert answers_of(results) == answers_of(chats)
    assert prompts[:2] == prompts[2:] and all("0.5" in prompt for prompt in prompts)  # the last frame is at 0.5 s
    assert [one["evidence"].question for one in results] == list(QUESTIONS[:2])


# --- generation ------------------------------------------------------------------------------------------------------


def test_generation_arguments_reach_generate(pipe, clips, monkeypatch):
    seen: dict = {}
    generate = pipe.model.base_vlm.generate

    def spy(**kwargs):
        seen.clear()
        seen.update(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(pipe.model.base_vlm, "generate", spy)
    pipe(video=clips["a"], question="Who?")
    assert seen["max_new_tokens"] == NEW_TOKENS  # from the construction
    pipe(video=clips["a"], question="Who?", max_new_tokens=2, do_sample=True, temperature=0.5)
    assert (seen["max_new_tokens"], seen["do_sample"], seen["temperature"]) == (2, True, 0.5)
    pipe([{"video": clips["a"], "question": "Who?"}] * 2, batch_size=2, generate_kwargs={"num_beams": 2})
    assert seen["num_beams"] == 2


def test_stop_strings_need_no_tokenizer_of_the_caller(pipe, clips):
    whole = pipe(video=clips["a"], question="Who?")[0]["answer"]
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, stop_strings=[whole[:1]])
    for stop in ({"stop_strings": [whole[:1]]}, {"generation_config": config}):
        assert len(pipe(video=clips["a"], question="Who?", **stop)[0]["answer"]) < len(whole)


def test_at_most_256_tokens_are_generated_if_nothing_is_said(model, processor, clips, monkeypatch):
    seen: dict = {}
    generate = model.base_vlm.generate
    monkeypatch.setattr(
        model.base_vlm, "generate", lambda **kwargs: seen.update(kwargs) or generate(**{**kwargs, "max_new_tokens": 1})
    )
    plain = VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu")
    plain(video=clips["a"], question="Who?")
    assert seen["max_new_tokens"] == 256


def test_several_returned_sequences_are_one_dictionary_each(pipe, clips):
    how = {"num_beams": 3, "num_return_sequences": 2}
    results = pipe(video=clips["a"], question=list(QUESTIONS[:2]), return_evidence=True, return_score=True, **how)
    assert [one["question"] for one in results] == [QUESTIONS[0]] * 2 + [QUESTIONS[1]] * 2
    assert all(0 < one["score"] <= 1 for one in results)
    beams = pipe(video=clips["a"], question=QUESTIONS[0], num_beams=3)
    assert results[0]["answer"] == beams[0]["answer"] == results[0]["evidence"].answer
    batch = pipe([{"video": clips[name], "question": QUESTIONS[0]} for name in "ab"], batch_size=2, **how)
    assert answers_of(batch[0]) == answers_of(results[:2])


def test_the_model_may_have_another_precision(clips):
    torch.manual_seed(0)
    base, base_processor = build("llava_phi")
    model = LinVTForVideoQA.from_base(base.bfloat16(), num_video_tokens=6, bottleneck_size=8, num_heads=2)
    processor = LinVTProcessor.from_base(base_processor, num_video_tokens=6)
    half = VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu")
    results = half([{"video": clips[name], "question": "Who?"} for name in "ab"], batch_size=2, max_new_tokens=2)
    assert all(isinstance(one[0]["answer"], str) for one in results)
    assert half(video=clips["a"], question="Who?", max_new_tokens=2, return_evidence=True)[0]["evidence"].is_exact


# --- what goes wrong -------------------------------------------------------------------------------------------------


def _frames(value: float) -> np.ndarray:
    return np.full((2, 8, 8, 3), value, dtype=np.float32)


BAD_CALLS = {
    "nothing": ({}, "No video was given"),
    "no question": ({"video": "CLIP"}, "No question was given"),
    "no video": ({"question": "Who?"}, "No video was given"),
    "empty question": ({"video": "CLIP", "question": "  "}, "question is empty"),
    "empty question in a list": ({"video": "CLIP", "question": ["Who?", ""]}, "question is empty"),
    "no questions in the list": ({"video": "CLIP", "question": []}, "empty list"),
    "question of a wrong type": ({"video": "CLIP", "question": 3}, "text or a list of texts, got int"),
    "questions of wrong types": ({"video": "CLIP", "question": ["Who?", 3]}, "a list of int, str"),
    "missing file": ({"video": "missing.mp4", "question": "Who?"}, r"missing\.mp4"),
    "not a video": ({"video": __file__, "question": "Who?"}, "test_pipeline"),
    "video of a wrong type": ({"video": 3.5, "question": "Who?"}, "float"),
    "broken frames": ({"video": _frames(float("nan")), "question": "Who?"}, "(?i)nan|finite"),
    "address": ({"video": "https://example.com/clip.mp4", "question": "Who?"}, "allow_urls"),
    "placeholder typed": ({"video": "CLIP", "question": "Who is <image>?"}, "<image>"),
    "chat and video": ({"video": "CLIP", "messages": [chat("Hello?")]}, "Put both into the messages"),
    "chat and question": ({"question": "Who?", "messages": [chat("Hello?")]}, "Put both into the messages"),
    "text and question": ({"video": "CLIP", "question": "Who?", "text": "Who?"}, "text was given together"),
    "no chat": ({"messages": "Hello?"}, "must be a chat"),
    "empty chat": ({"messages": []}, "must be a chat"),
    "half a chat": ({"messages": [{"role": "user"}]}, r"Message 1 \(user\) has no content"),
    "content of a wrong type": ({"messages": [{"role": "user", "content": 3}]}, "content of message 1 is 3"),
    "video part without a source": ({"messages": [chat({"type": "video"}, "Who?")]}, "names no source"),
    "chat without text": ({"messages": [chat({"type": "video", "path": "CLIP"})]}, "question is empty"),
    "fewer questions than videos": ({"video": ["CLIP", "CLIP"], "question": ["Who?"]}, "2 videos need one question"),
    "input without a video": ({"video": {"question": "Who?"}}, "has no 'video'"),
    "two questions for one input": ({"video": {"video": "CLIP", "question": "A?"}, "question": "B?"}, "of its own"),
    "misspelt key of an input": (
        {"video": {"video": "CLIP", "question": "A?", "num_frame": 4}},
        "An input has the key 'num_frame'.*'num_frames'",
    ),
    "key of another package": (
        {"video": {"video": "CLIP", "question": "A?", "max_pixels": 4096}},
        "An input has the key 'max_pixels'.*max_frame_tokens",
    ),
    "misspelt key beside messages": (
        {"video": {"messages": [chat("Hello?")], "nframes": 4}},
        "An input has the key 'nframes'.*'num_frames'",
    ),
    "both counts": ({"video": "CLIP", "question": "Who?", "num_frames": 2, "fps": 1.0}, "num_frames=2 and fps=1.0"),
    "video by another name": ({"videos": "CLIP", "question": "Who?"}, "'videos' is no argument.*'video'"),
    "question by another name": ({"video": "CLIP", "questions": "Who?"}, "'questions' is no argument.*'question'"),
    "question as a prompt": ({"video": "CLIP", "prompt": "Who?"}, "'prompt' is no argument.*'question'"),
    "no such argument": ({"video": "CLIP", "question": "Who?", "max_token": 3}, "Did you mean 'max_"),
    "an argument twice": (
        {"video": "CLIP", "question": "Who?", "max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 3}},
        "max_new_tokens was given twice",
    ),
    "batch of nothing": ({"video": "CLIP", "question": "Who?", "batch_size": -1}, "batch_size=-1"),
    "no new tokens": ({"video": "CLIP", "question": "Who?", "max_new_tokens": -1}, "max_new_tokens=-1"),
    "length in words": ({"video": "CLIP", "question": "Who?", "max_new_tokens": "3"}, "max_new_tokens='3'"),
    "no beams": ({"video": "CLIP", "question": "Who?", "num_beams": 0}, "num_beams=0"),
    "below zero": ({"video": "CLIP", "question": "Who?", "temperature": -1}, "temperature=-1"),
    "no temperature": (
        {"video": "CLIP", "question": "Who?", "temperature": 0.0, "do_sample": True},
        "temperature=0.0",
    ),
    "more than all": (
        {"video": "CLIP", "question": "Who?", "generate_kwargs": {"top_p": 3, "do_sample": True}},
        "top_p=3",
    ),
    "penalty": ({"video": "CLIP", "question": "Who?", "repetition_penalty": "a"}, "repetition_penalty='a'"),
    "no such cache": ({"video": "CLIP", "question": "Who?", "cache_implementation": "x"}, "cache_implementation='x'"),
    "no configuration": ({"video": "CLIP", "question": "Who?", "generation_config": 3}, "generation_config is a int"),
    "answers alike": (
        {"video": "CLIP", "question": "Who?", "num_return_sequences": 3},
        "num_return_sequences=3",
    ),
    "way to fail": ({"video": "CLIP", "question": "Who?", "on_error": "ignore"}, "'raise' or 'record'"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_input_gets_one_clear_error_of_ours(pipe, clips, calls, case):
    arguments, message = BAD_CALLS[case]

    def filled(value):
        if isinstance(value, list):
            return [filled(one) for one in value]
        if isinstance(value, dict):
            return {key: filled(one) for key, one in value.items()}
        return clips["a"] if isinstance(value, str) and value == "CLIP" else value

    with pytest.raises(LinVTError, match=message):
        pipe(**filled(arguments))
    assert calls["runs"] == 0


def test_wrong_types_are_noticed_before_anything_is_read(pipe, clips, calls):
    inputs = [{"video": clips["a"], "question": "Who?"}, {"video": clips["b"], "question": 3}]
    with pytest.raises(LinVTInputError, match="got int"):
        pipe(inputs, on_error="raise")
    assert calls == {}


@pytest.mark.parametrize("arguments", [{"max_new_tokens": -1}, {"temperature": -1}, {"top_k": -3, "do_sample": True}])
def test_bad_generation_arguments_are_noticed_before_anything_is_read(model, processor, clips, pipe, calls, arguments):
    """They are the call's mistake, not that of an input: also where errors of inputs are recorded."""
    inputs = [{"video": clips["a"], "question": "Who?"}, {"video": clips["b"], "question": "Where?"}]
    name, value = next(iter(arguments.items()))
    with pytest.raises(LinVTInputError, match=f"{name}={value}"):
        pipe(inputs, on_error="record", **arguments)
    with pytest.raises(LinVTInputError, match=f"{name}={value}"):
        pipe((one for one in inputs), **arguments)
    with pytest.raises(LinVTInputError, match=f"{name}={value}"):
        VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu", **arguments)
    assert calls == {}


def test_generation_arguments_that_are_fine_are_not_refused(pipe, clips):
    expected = pipe(video=clips["c"], question="Who?")
    assert pipe(video=clips["c"], question="Who?", temperature=0.0, top_k=None) == expected
    config = GenerationConfig(do_sample=True, max_new_tokens=2, num_return_sequences=3)
    assert len(pipe(video=clips["c"], question="Who?", generation_config=config)) == 3
    sampled = {"do_sample": True, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "max_new_tokens": np.int64(2)}
    assert len(pipe(video=clips["c"], question="Who?", **sampled)) == 1


def test_one_bad_input_does_not_lose_the_answers_of_the_others(pipe, clips, caplog):
    bad = [
        {"video": "missing.mp4", "question": ["Who?", "Where?"]},
        {"video": clips["b"], "question": "Who is <image>?"},
    ]
    good = [{"video": clips["a"], "question": "Who?"}, {"video": clips["c"], "question": "Where?"}]
    for batch_size in (1, 4):
        caplog.clear()
        results = pipe([good[0], *bad, good[1]], batch_size=batch_size)
        assert results[0] == pipe(**good[0]) and results[3] == pipe(**good[1])
        assert answers_of(results[1:3]) == [[None, None], [None]]
        assert [one["question"] for one in results[1]] == ["Who?", "Where?"]
        assert "missing.mp4" in results[1][0]["error"] and results[1][0]["video"] == "missing.mp4"
        assert "<image>" in results[2][0]["error"]
        warned = [one.getMessage() for one in caplog.records if "was not answered" in one.getMessage()]
        assert len(warned) == 2
    with pytest.raises(VideoReadError, match=r"missing\.mp4"):
        pipe([good[0], *bad], on_error="raise")
    (recorded,) = pipe(**bad[0] | {"question": "Who?"}, on_error="record")
    assert recorded["answer"] is None and recorded["frames_seen"] == 0


def _broken_inputs(clip: str) -> dict[str, tuple[object, str, object]]:
    """What makes no request at all: the input, a word of its error, and the video that its result names."""
    unknown = {"type": "video", "path": clip, "nframes": 4}
    return {
        "a question of a wrong type": ({"video": clip, "question": 3}, "got int", clip),
        "a misspelt key": ({"video": clip, "question": "Who?", "num_frame": 2}, "'num_frames'", clip),
        "a chat with an unknown key": ([chat(unknown, "Who?")], "'nframes'", []),
        "messages with an unknown key": ({"messages": [chat(unknown, "Who?")]}, "'nframes'", []),
        "a chat with a broken picture": ([chat({"type": "image", "image": b"no"}, "Who?")], "as a picture", []),
        "nothing": ({}, "has no 'video'", "<dict>"),
    }


@pytest.mark.parametrize("name", _broken_inputs(""))
@pytest.mark.parametrize("as_stream", [False, True])
def test_an_input_that_makes_no_request_is_recorded_among_the_others(pipe, clips, name, as_stream):
    bad, words, named = _broken_inputs(clips["b"])[name]
    good = [{"video": clips["a"], "question": "Who?"}, [chat(video(clips["c"]), "Where?")]]
    inputs = [good[0], bad, good[1]]
    first, recorded, last = pipe(iter(inputs)) if as_stream else pipe(inputs)
    assert first[0]["answer"] is not None and last[0]["answer"] is not None
    assert recorded[0]["answer"] is None and words in recorded[0]["error"]
    if named != "<dict>":
        assert recorded[0]["video"] == named


class _Decoding(torch.utils.data.Dataset):
    """A dataset that decodes where a row is asked for, as those of the library datasets do; its second row cannot."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        if index == 1:
            raise OSError("row 1 is gone")
        return self.paths[index]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_errors_of_other_packages_lose_no_other_answer(pipe, clips, monkeypatch, num_workers, batch_size):
    expected = [pipe(video=clips[name], question="Who?") for name in "ac"]
    how = {"num_workers": num_workers, "batch_size": batch_size}
    first, lost, last = pipe(_Decoding([clips[name] for name in "abc"]), question="Who?", **how)
    assert [first, last] == expected
    assert (lost[0]["error"], lost[0]["video"], lost[0]["question"]) == ("OSError: row 1 is gone", "<row 1>", "Who?")

    encode = VideoEncoding.finish

    def out_of_memory(encoding):
        if encoding.refiner.num_frames == LENGTHS["b"]:
            raise torch.OutOfMemoryError("too many frames")
        return encode(encoding)

    monkeypatch.setattr(VideoEncoding, "finish", out_of_memory)
    inputs = [{"video": clips[name], "question": "Who?"} for name in "abc"]
    first, lost, last = pipe(inputs, **how)
    assert [first, last] == expected
    assert lost[0]["error"] == "OutOfMemoryError: too many frames"
    with pytest.raises(torch.OutOfMemoryError):
        pipe(inputs, on_error="raise", **how)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_generator_that_breaks_gives_the_answers_of_what_came_before(pipe, clips, num_workers):
    def items():
        for name in "ac":
            yield {"video": clips[name], "question": "Who?"}
        raise ConnectionError("the queue is gone")

    given = []
    with pytest.raises(ConnectionError, match="the queue is gone"):
        for result in pipe(items(), batch_size=3, num_workers=num_workers):
            given.append(result[0]["video"])
    assert given == [clips["a"], clips["c"]]


def test_one_file_object_twice_is_told_apart_from_an_empty_file(pipe, clips):
    with open(clips["a"], "rb") as file:
        first, second = pipe(video=[file, file], question="Who?")
    assert first[0]["answer"] is not None
    assert "seek(0)" in second[0]["error"] and "is empty" not in second[0]["error"]


def test_unreadable_videos_raise_the_same_error_out_of_a_thread(pipe, clips):
    with pytest.raises(VideoReadError) as alone:
        pipe(video="missing.mp4", question="Who?")
    inputs = [{"video": "missing.mp4", "question": "Who?"}] + [{"video": clips["a"], "question": "Who?"}] * 3
    with pytest.raises(VideoReadError) as in_thread:
        pipe(inputs, num_workers=2, on_error="raise")
    assert str(in_thread.value) == str(alone.value)


def test_model_and_processor_must_agree(model, processor):
    other = LinVTProcessor.from_base(processor.base_processor, num_video_tokens=VIDEO_TOKENS + 1)
    with pytest.raises(LinVTInputError, match="writes num_video_tokens=7.* the model has 6"):
        VideoQuestionAnsweringPipeline(model=model, processor=other, device="cpu")
    with pytest.raises(LinVTInputError, match="not LinVTProcessor"):
        VideoQuestionAnsweringPipeline(model=model, processor=processor.base_processor, device="cpu")
    with pytest.raises(LinVTInputError, match=r"no LinVT model.*from_base"):
        VideoQuestionAnsweringPipeline(model=model.base_vlm, processor=processor, device="cpu")


# --- around it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["video-question-answering", "video-text-to-text"])
def test_saved_pipeline_comes_back_under_both_names(pipe, clips, tmp_path, task):
    pipe.save_pretrained(tmp_path / "saved", include_base=True)
    again = pipeline(task, model=str(tmp_path / "saved"), device="cpu", max_new_tokens=NEW_TOKENS)
    assert isinstance(again, VideoQuestionAnsweringPipeline)
    assert again(video=clips["b"], question="Who?") == pipe(video=clips["b"], question="Who?")


def test_progress_is_shown_for_lists_and_on_terminals_only(pipe, clips, capfd):
    shown = []

    def hook(factory, args, kwargs):
        shown.append((kwargs["total"], kwargs["disable"]))
        return factory(*args, **kwargs)

    previous = logging.set_tqdm_hook(hook)
    try:
        inputs = [{"video": clips["c"], "question": "Who?"}] * 10
        pipe(inputs, batch_size=5)
        pipe(inputs[:2])
        pipe(inputs[:2], progress_bar=True)
        pipe(inputs, progress_bar=False, batch_size=5)
    finally:
        logging.set_tqdm_hook(previous)
    # disable=None leaves it to tqdm, which shows nothing where stderr is no terminal
    assert shown == [(10, None), (2, None), (2, None), (10, True)]
    assert capfd.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "word"), [(True, "Encoding"), (False, "Reading")])
def test_a_long_video_shows_where_it_is(pipe, clips, monkeypatch, stream, word):
    monkeypatch.setattr(progress, "_SECONDS_BEFORE", 0.0)
    cases = ((None, True, True), (None, False, False), (True, False, True), (False, True, False))
    first = 2 if stream else 6  # each another sampling, so that none is remembered
    for count, (asked, are_on, is_shown) in enumerate(cases, first):
        monkeypatch.setattr(sys, "stderr", Terminal())
        monkeypatch.setattr(logging, "_tqdm_active", are_on)
        how = {"num_frames": count, "end": 1.0, "progress_bar": asked, "stream": stream}
        pipe(video=clips["b"], question="Who?", **how)
        written = sys.stderr.getvalue()
        assert (word in written and f"/{count}" in written) == is_shown, (asked, are_on)


@pytest.fixture(scope="module")
def embedded() -> VideoQuestionAnsweringPipeline:
    try:
        path = embedded_model_path()
    except LinVTError as error:
        pytest.skip(f"no embedded model: {error}")
    return pipeline("video-question-answering", model=path, device="cpu")


def test_embedded_model_is_right_about_most_still_clips(embedded, tmp_path):
    right = asked = 0
    for seed in range(12):
        frames, questions = make_clip("static", seed=seed, num_frames=8)
        path = Path(tmp_path / f"{seed}.mp4")
        write_clip(path, frames)
        results = embedded(video=str(path), question=[text for text, _ in questions], batch_size=8)
        right += sum(one["answer"] == answer for one, (_, answer) in zip(results, questions, strict=True))
        asked += len(questions)
    assert right / asked > 0.75, f"{right} of {asked}"
