"""
A still video is its picture: with as many video tokens as a frame has, every family of bases gets the picture's own
tokens, in the picture's own places, whatever the number of frames, and answers as it answers the picture.
"""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from base_specs import QUICK
from promises import LINVT, QUESTION, Wrapped, base_folder, in_precision, relative_difference, user, wrapped
from transformers_linvt import LinVTForVideoQA, LinVTProcessor


# These cut a picture into tiles, while a frame is one: a still video is there what a picture of one tile would be.
TILED = {"internvl", "llava_onevision", "smolvlm", "molmo2", "granite4_vision"}


def with_room_for_one_frame(name: str, **fields: object) -> Wrapped:
    """An untrained wrapper of a family with M = N."""
    family = wrapped(name)
    features = family.model.encode_video(**in_precision(family.processor.video_inputs(family.clip(1)), torch.float32))
    num_tokens, folder = features.refined.tokens_per_frame, base_folder(name)
    fields = {**LINVT, "num_video_tokens": num_tokens, "num_kept_tokens": None, **fields}
    model = LinVTForVideoQA.from_base(folder, **fields)
    return Wrapped(name, model, LinVTProcessor.from_base(folder, num_video_tokens=num_tokens), folder)


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
        if same_prompt:
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
    tokens = family.model.model.encode_videos([16], frames)[0].tokens[:1]
    assert relative_difference(output.video_tokens, tokens) < 2e-5


@pytest.mark.parametrize("fields", [{"init": "anchored"}, {"scale_mode": "specific"}, {"video_positions": "text"}])
def test_the_check_notices_another_start_other_groups_and_other_positions(fields: dict[str, str]):
    family = with_room_for_one_frame("qwen2_vl", **fields)
    clip = family.clip(1)
    picture = family.model(**family.inputs(user(PIL.Image.fromarray(clip.frames[0]), QUESTION))).logits[:, -1].detach()
    video = family.model(**family.inputs(user(still(clip, 5), QUESTION))).logits[:, -1].detach()
    assert relative_difference(video, picture) > 1e-3
