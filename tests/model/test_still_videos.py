"""
A still video is its picture: with as many video tokens as a frame has, or more, every family of bases gets the
picture's own tokens, in the picture's own places, however many frames, and answers as it answers the picture.
"""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from base_specs import QUICK
from promises import QUESTION, Wrapped, in_precision, relative_difference, user, with_room_for_one_frame


# These cut a picture into tiles, while a frame is one: a still video is there what a picture of one tile would be.
TILED = {"internvl", "llava_onevision", "smolvlm", "molmo2", "granite4_vision"}


def still(clip, num_frames: int):
    """A clip of one frame, shown for longer."""
    return replace(clip, frames=np.repeat(clip.frames, num_frames, axis=0), timestamps=np.arange(float(num_frames)))


@pytest.fixture(params=QUICK)
def family(request: pytest.FixtureRequest) -> Wrapped:
    return with_room_for_one_frame(request.param)


def test_a_still_video_is_answered_as_its_picture(family: Wrapped):
    one = family.clip(1)
    as_picture = family.inputs(user(PIL.Image.fromarray(one.frames[0]), QUESTION))
    of_one_frame = family.model(**family.inputs(user(one, QUESTION))).logits[:, -1].detach()
    for num_frames in (2, 5):
        inputs = family.inputs(user(still(one, num_frames), QUESTION))
        logits = family.model(**inputs).logits[:, -1].detach()
        assert relative_difference(logits, of_one_frame) < 2e-6
        same_prompt = torch.equal(inputs["input_ids"], as_picture["input_ids"])
        assert same_prompt == (family.name not in TILED)
        if (
            same_prompt and family.name != "mllama"
        ):  # whose picture has empty tiles; tests/bases/test_mllama.py has one tile
            assert relative_difference(logits, family.model(**as_picture).logits[:, -1].detach()) < 3e-5
            answers = [
                family.model.generate(**given, max_new_tokens=4, do_sample=False) for given in (inputs, as_picture)
            ]
            assert torch.equal(*answers)


def test_its_video_tokens_are_the_tokens_of_the_frame(family: Wrapped):
    clip = still(family.clip(1), 16)
    prepared = in_precision(family.processor.video_inputs(clip), family.base.dtype)
    features = family.model.encode_video(**prepared)
    output = family.model.linvt.aggregate(features.refined)
    frames = {name.removeprefix("frame_"): value for name, value in prepared.items() if name.startswith("frame_")}
    tokens = family.model.model.encode_videos(prepared["frames_per_video"].tolist(), frames)[0].tokens[:1]
    assert relative_difference(output.video_tokens, tokens) < 2e-5


@pytest.mark.parametrize("fields", [{"init": "anchored"}, {"scale_mode": "specific"}, {"video_positions": "text"}])
def test_the_check_notices_another_start_other_groups_and_other_positions(fields: dict[str, str]):
    family = with_room_for_one_frame("qwen2_vl", **fields)
    clip = family.clip(1)
    picture = family.model(**family.inputs(user(PIL.Image.fromarray(clip.frames[0]), QUESTION))).logits[:, -1].detach()
    video = family.model(**family.inputs(user(still(clip, 5), QUESTION))).logits[:, -1].detach()
    assert relative_difference(video, picture) > 1e-3


@pytest.mark.parametrize("name", QUICK)
def test_more_video_tokens_than_a_picture_has_change_nothing(name: str):
    """The tokens left over are passed over, and what follows stands where it stands behind the picture."""
    enough, more = with_room_for_one_frame(name), with_room_for_one_frame(name, more=11)
    for family in (enough, more):
        text = family.base.config.get_text_config()
        if getattr(text, "sliding_window", None):  # tokens that are passed over count in it; a prompt fits real ones
            text.sliding_window = 400
    clip = still(enough.clip(1), 4)
    logits, answers = [], []
    for family in (enough, more):
        inputs = family.inputs(user(clip, QUESTION))
        logits.append(family.model(**inputs).logits[:, -1].detach())
        generated = family.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        answers.append(generated[:, inputs["input_ids"].shape[1] :])
    assert relative_difference(*logits) < 3e-5
    assert torch.equal(*answers)


def one_change(clip, num_frames: int):
    """A still clip whose last frame is another one."""
    clip = still(clip, num_frames)
    frames = clip.frames.copy()
    frames[-1] = frames[-1, ::-1, ::-1]
    return replace(clip, frames=frames)


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_phi"])
def test_rows_of_a_batch_pass_over_as_many_tokens_as_each_alone(name: str):
    family = with_room_for_one_frame(name, more=11)
    clip = family.clip(1)
    prompts = [user(still(clip, 3), QUESTION), user(one_change(clip, 3), QUESTION + " " + QUESTION)]
    together = family.inputs(*prompts)
    assert not bool(together["attention_mask"].all())  # the shorter one is padded on the left
    logits = family.model(**together).logits[:, -1].detach()
    answers = family.model.generate(**together, max_new_tokens=4, do_sample=False)[:, -4:]
    for row, prompt in enumerate(prompts):
        alone = family.inputs(prompt)
        assert relative_difference(logits[row], family.model(**alone).logits[0, -1].detach()) < 2e-5
        assert torch.equal(answers[row], family.model.generate(**alone, max_new_tokens=4, do_sample=False)[0, -4:])


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_phi"])
def test_what_stands_at_tokens_that_are_passed_over_does_not_matter(name: str):
    family = with_room_for_one_frame(name, more=11)
    inputs = family.inputs(user(still(family.clip(1), 3), QUESTION))
    _, condensed = family.model.model.prepare(**inputs)
    used = condensed.outputs.weights.used
    assert int((~used).sum()) == 11
    logits = []
    for value in (0.0, 7.0):
        tokens = torch.where(used.unsqueeze(-1), condensed.tokens, value)
        changed = replace(condensed, tokens=tokens)
        prepared, _ = family.model.model.prepare(**inputs, condensed_videos=changed)
        logits.append(family.model.model.bridge.forward(family.base, **prepared).logits[:, -1].detach())
    assert torch.equal(*logits)


def test_the_check_of_more_video_tokens_notices_queries_that_are_all_used():
    family = with_room_for_one_frame("qwen2_vl", more=11)
    inputs = family.inputs(user(still(family.clip(1), 4), QUESTION))
    logits = family.model(**inputs).logits[:, -1].detach()
    family.model.linvt.aggregator.uses_all_queries = True
    assert relative_difference(family.model(**inputs).logits[:, -1].detach(), logits) > 1e-3


@pytest.mark.parametrize("name", ["qwen3_5", "exaone4_5"])
def test_a_base_that_would_count_what_it_passes_over_uses_all_queries(name: str):
    """Of the first some layers hand a state on from token to token, the second numbers all tokens while it answers."""
    family = with_room_for_one_frame(name, more=11)
    assert family.model.linvt.aggregator.uses_all_queries
    _, condensed = family.model.model.prepare(**family.inputs(user(still(family.clip(1), 4), QUESTION)))
    assert condensed.outputs.weights.used.all()
