"""Times among the video tokens: where they stand, that the base reads them as text, and who refuses them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from promises import CHAT, NUM_VIDEO_TOKENS, OTHER_QUESTION, QUESTION, Wrapped, user, wrapped
from transformers_linvt import LinVTDataCollator, LinVTInputError, LinVTProcessor
from transformers_linvt.model.time_marks import TIME_PLACES, with_times
from transformers_linvt.pipeline.video_question_answering import VideoQuestionAnsweringPipeline


TIMES = {"add_timestamps": "tokens"}


@pytest.fixture
def family() -> Wrapped:
    return wrapped("llava")


def timed(family: Wrapped) -> LinVTProcessor:
    """The processor of a family, which writes times by itself."""
    return LinVTProcessor.from_base(
        family.processor.base_processor, num_video_tokens=NUM_VIDEO_TOKENS, num_frames=7, **TIMES
    )


def written_by_hand(family: Wrapped, condensed: Any, times: list[str]) -> list[Any]:
    """Of one video: numbers of video tokens and ids of text, in the order of the prompt, by another way."""
    weights = condensed.outputs.weights
    starts, shares = weights.kept_indices[0] // weights.tokens_per_frame, weights.kept()[0]
    begins = [round((share * starts).sum().item()) for share in shares.detach()][: int(weights.used[0].sum())]
    jumps = sorted(range(1, len(begins)), key=lambda one: begins[one - 1] - begins[one])
    ids = {one: family.processor.tokenizer(times[frame], add_special_tokens=False).input_ids
           for one, frame in enumerate(begins)}  # fmt: skip
    chosen, left = [], TIME_PLACES
    for one in [0, *(jump for jump in jumps if begins[jump] > begins[jump - 1])]:
        left -= len(ids[one])
        if left < 0:
            break
        chosen.append(one)
    return [part for one in range(len(begins)) for part in ([*ids[one], (one,)] if one in chosen else [(one,)])]


@pytest.mark.parametrize("num_frames", [1, 7, 40])
def test_the_base_sees_what_it_would_with_the_times_written_by_hand(family: Wrapped, num_frames: int):
    clip = family.clip(num_frames)
    inputs = family.inputs(user(clip, QUESTION), **TIMES)
    _, condensed = family.model.model.prepare(**inputs)
    layout = written_by_hand(family, condensed, [f"{one:.0f}" for one in clip.timestamps])
    assert any(isinstance(one, int) for one in layout)
    embed, (mask,), (ids,) = family.model.get_input_embeddings(), inputs["video_mask"].bool(), inputs["input_ids"]
    first, last = mask.nonzero()[0].item(), mask.nonzero()[-1].item()
    assert last - first + 1 == NUM_VIDEO_TOKENS + TIME_PLACES
    rows = [
        condensed.tokens[0, one[0]] if isinstance(one, tuple) else embed(torch.tensor(one))
        for one in layout
    ]  # fmt: skip
    by_hand = torch.cat([embed(ids[:first]), torch.stack(rows), embed(ids[last + 1 :])])
    expected = family.base.model.language_model(inputs_embeds=by_hand[None]).last_hidden_state[0, -1]
    found = family.model.model(**inputs).last_hidden_state[0, -1]
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain = family.model.model(**family.inputs(user(clip, QUESTION))).last_hidden_state[0, -1]
    assert not torch.allclose(found, plain, rtol=1e-2)


def test_a_moment_late_in_a_still_video_has_its_time_before_it(family: Wrapped):
    still = family.clip(7)
    still.frames[:] = still.frames[:1]
    still.frames[5] = 255 - still.frames[5]
    inputs = family.inputs(user(still, QUESTION), **TIMES)
    prepared, condensed = family.model.model.prepare(**inputs)
    layout = written_by_hand(family, condensed, [f"{one:.0f}" for one in still.timestamps])
    seen = family.processor.tokenizer.decode([one for one in layout if isinstance(one, int)])
    assert seen.replace(" ", "").startswith("0")
    used = prepared["attention_mask"][inputs["video_mask"].bool()].sum()
    assert used == len(layout)


def test_a_budget_that_does_not_hold_all_times_holds_those_of_the_largest_steps(family: Wrapped):
    clip = family.clip(9)
    inputs = family.inputs(user(clip, QUESTION), **TIMES)
    _, condensed = family.model.model.prepare(**inputs)
    embed, weights = family.model.get_input_embeddings(), condensed.outputs.weights
    ids = torch.full((1, 9, TIME_PLACES // 2), 7)  # two times fit
    tokens, used = with_times(condensed.tokens, weights, ids, embed)
    num_seen = int(weights.used.sum())
    assert int(used.sum()) == num_seen + TIME_PLACES and tokens.shape[1] == NUM_VIDEO_TOKENS + TIME_PLACES
    is_time = (tokens[0, : num_seen + TIME_PLACES] == embed(torch.tensor(7))).all(-1)
    starts = weights.kept_indices[0] // weights.tokens_per_frame
    begins = (weights.kept()[0, :num_seen] @ starts.float()).round()
    assert bool(is_time[: TIME_PLACES // 2].all())
    steps = begins.diff()
    following = int((~is_time).cumsum(0)[is_time.nonzero()[-1]])  # the video token behind the second time
    assert steps[following - 1] == steps.max() > 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [([0.0, 1.0, 12.0], ["0", "1", "12"]), ([0.0, 0.5, 0.75], ["0.0", "0.5", "0.8"]), ([3.2], ["3"])],
)
def test_times_are_as_exact_as_frames_are_apart(family: Wrapped, seconds: list[float], words: list[str]):
    (made,) = family.processor.time_ids([seconds])
    tokenizer = family.processor.tokenizer
    expected = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    assert [[one for one in row if one >= 0] for row in made.tolist()] == expected


def test_a_batch_is_as_each_alone_and_a_cache_as_none(family: Wrapped):
    chats = [user(family.clip(5), QUESTION), user(family.clip(3, 1), family.clip(6, 2), OTHER_QUESTION)]
    batch = family.inputs(*chats, **TIMES)
    assert batch["video_time_ids"].shape[:2] == (3, 6)
    together = family.model(**batch).logits[:, -1]
    for row, one in enumerate(chats):
        assert_close(family.model(**family.inputs(one, **TIMES)).logits[0, -1], together[row], rtol=1e-4, atol=1e-4)
    settings = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(
        family.model.generate(**batch, **settings), family.model.generate(**batch, use_cache=False, **settings)
    )


def test_a_call_a_pipeline_and_an_encoded_video_give_one_answer(family: Wrapped):
    processor, clip = timed(family), family.clip(7)
    chat = user(clip, QUESTION)
    inputs = processor.apply_chat_template(chat, **CHAT)
    again = processor(text=processor.apply_chat_template(chat, add_generation_prompt=True), videos=clip)
    for name in ("input_ids", "video_time_ids", "question_mask"):
        assert torch.equal(inputs[name], again[name]), name
    new = family.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = processor.decode(new, skip_special_tokens=True).strip()
    settings = {"max_new_tokens": 6, "do_sample": False}
    answer, evidence = family.model.answer_with_evidence(
        family.model.encode_video(**processor.video_inputs(clip)), QUESTION, processor, **settings
    )
    assert answer == expected
    pipe = VideoQuestionAnsweringPipeline(model=family.model, processor=processor, device="cpu")
    (result,) = pipe(video=clip, question=QUESTION, return_evidence=True, **settings)
    assert result["answer"] == expected
    np.testing.assert_allclose(result["evidence"].attribution, evidence.attribution, rtol=1e-3, atol=1e-5)
    untimed = family.model.answer(clip, QUESTION, family.processor, **settings)
    assert untimed != expected


def test_it_is_trained_through_the_collator(family: Wrapped):
    rows = [
        {"messages": [*user(family.clip(frames, frames), QUESTION), {"role": "assistant", "content": "at three"}]}
        for frames in (3, 5)
    ]
    batch = LinVTDataCollator(family.processor, **TIMES)(rows)
    assert batch["video_time_ids"].shape[:2] == (2, 5)
    assert int(batch["video_mask"].sum()) == 2 * (NUM_VIDEO_TOKENS + TIME_PLACES)
    family.model(**batch).loss.backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in family.model.linvt.aggregator.parameters())


def test_a_setting_is_kept_and_a_wrong_one_refused(family: Wrapped, tmp_path: Path):
    timed(family).save_pretrained(tmp_path)
    assert LinVTProcessor.from_pretrained(tmp_path).add_timestamps == "tokens"
    assert timed(family)._get_num_multimodal_tokens(video_sizes=[(7, 4, 4)])["num_video_tokens"] == [
        NUM_VIDEO_TOKENS + TIME_PLACES
    ]
    for wrong in ("token", 1, None, "segments"):
        if wrong is not None:
            with pytest.raises(LinVTInputError, match="add_timestamps=.*'tokens'"):
                family.inputs(user(family.clip(2), QUESTION), add_timestamps=wrong)
        with pytest.raises(LinVTInputError, match="add_timestamps=.*'tokens'"):
            LinVTProcessor.from_base(family.processor.base_processor, num_video_tokens=6, add_timestamps=wrong)
    behind = family.inputs(user(family.clip(2), QUESTION), add_timestamps="frames")
    assert torch.equal(
        behind["input_ids"], family.inputs(user(family.clip(2), QUESTION), add_timestamps=True)["input_ids"]
    )


def test_a_base_that_lays_out_tokens_in_time_and_place_refuses_times_among_them():
    family = wrapped("qwen2_vl")
    with pytest.raises(LinVTInputError, match="qwen2_vl.*lays out visual tokens.*add_timestamps=True"):
        family.model(**family.inputs(user(family.clip(2), QUESTION), **TIMES))


def test_times_of_other_videos_are_refused(family: Wrapped):
    inputs = family.inputs(user(family.clip(7), QUESTION), **TIMES)
    ids = inputs["video_time_ids"]
    with pytest.raises(LinVTInputError, match="has 2 videos, the prompts have 1"):
        family.model(**{**inputs, "video_time_ids": ids.expand(2, -1, -1)})
    with pytest.raises(LinVTInputError, match="times of 1 frames of video 1, which has more"):
        family.model(**{**inputs, "video_time_ids": ids[:, :1]})
    with pytest.raises(LinVTInputError, match="video placeholders"):
        family.model(**{name: value for name, value in inputs.items() if name != "video_time_ids"})


def test_an_encoded_video_has_its_times_behind_it_as_in_a_chat(family: Wrapped, monkeypatch: pytest.MonkeyPatch):
    processor = LinVTProcessor.from_base(
        family.processor.base_processor, num_video_tokens=NUM_VIDEO_TOKENS, num_frames=7, add_timestamps=True
    )
    clip, prompts, prepare = family.clip(7), [], family.model.model.prepare

    def spy(**given: Any) -> Any:
        prompts.append(given["input_ids"])
        return prepare(**given)

    monkeypatch.setattr(family.model.model, "prepare", spy)
    even = replace(clip, timestamps=np.arange(7) / 2, duration=3.5)
    chat = processor.apply_chat_template(user(even, QUESTION), **CHAT)
    features = family.model.encode_video(**processor.video_inputs(even))
    family.model.answer(features, QUESTION, processor, max_new_tokens=1)
    assert torch.equal(prompts[0], chat["input_ids"])
    pipe = VideoQuestionAnsweringPipeline(model=family.model, processor=processor, device="cpu")
    family.model.answer(pipe.encode(clip, start=1.0, end=4.0), QUESTION, processor, max_new_tokens=1)
    part = processor.apply_chat_template(user(clip, QUESTION), start=1.0, end=4.0, **CHAT)
    assert torch.equal(prompts[1], part["input_ids"]) and not torch.equal(prompts[1], prompts[0])
    for kind in (True, "tokens"):
        processor.add_timestamps = kind
        with pytest.raises(LinVTInputError, match=f"add_timestamps={kind!r}.*without any"):
            family.model.answer(replace(features, timestamps=None), QUESTION, processor)
