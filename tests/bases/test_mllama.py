"""
Mllama sees a video as it sees a picture: a still video is answered as its picture, whatever stands beside it, in a
cache of either kind; pictures that train are those that its processor writes.

The promises that every base keeps are in test_bases.py.
"""

from typing import Any

import PIL.Image
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import MllamaForConditionalGeneration

from promises import (
    CHAT,
    LINVT,
    NUM_VIDEO_TOKENS,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    relative_difference,
    user,
    wrapped,
)
from tiny_bases import build_model, randomise
from transformers_linvt import LinVTForVideoQA, LinVTInputError, LinVTProcessor
from transformers_linvt.bases.cache import CACHE_NAME
from transformers_linvt.bases.kinds.mllama import OneTile
from transformers_linvt.bases.loading import load_base_processor
from transformers_linvt.planning import plan_wrap


@pytest.fixture
def family() -> Wrapped:
    return wrapped("mllama")


def still(family: Wrapped, num_frames: int) -> Any:
    video = family.clip(num_frames)
    video.frames[:] = video.frames[0]
    return video


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [1, 4])
def test_a_still_video_is_its_picture_in_front_of_it_and_behind_it(family: Wrapped, num_frames: int):
    """
    With as many video tokens as a frame has, untrained, for the words in front and for those behind.

    The tower has one tile here: words in front of a picture see its empty tiles, too, and a video has none.
    """
    num_tokens = 17
    config = build_model("mllama").config
    config.vision_config.max_num_tiles, config.vision_config.supported_aspect_ratios = 1, [[1, 1]]
    base = MllamaForConditionalGeneration(config).eval()
    randomise(base, 0)
    parts = load_base_processor(str(family.base_folder))
    parts.image_processor.max_image_tiles = 1
    model = LinVTForVideoQA.from_base(base, **{**LINVT, "num_video_tokens": num_tokens})
    processor = LinVTProcessor(parts, num_video_tokens=num_tokens)
    video, own = (
        processor.apply_chat_template(user("Look at this:", one, QUESTION), **CHAT)
        for one in (still(family, num_frames), PIL.Image.fromarray(still(family, 1).frames[0]))
    )
    assert torch.equal(video["input_ids"], own["input_ids"])
    assert 0 < int(video["video_mask"][0].nonzero()[0]) < video["input_ids"].shape[1] - 1
    picture, expected = own["pixel_values"], base(**own).logits
    assert relative_difference(model(**video).logits, expected) < 1e-4
    assert relative_difference(base(**{**own, "pixel_values": picture.flip(-1)}).logits, expected) > 1e-2


@torch.no_grad()
def test_words_without_a_video_beside_one_are_the_words_alone(family: Wrapped):
    alone = family.inputs(user(OTHER_QUESTION))
    both = family.inputs(user(OTHER_QUESTION), user(family.clip(3), QUESTION))
    expected = family.base(**alone).logits[0]
    assert relative_difference(family.model(**both).logits[0, -len(expected) :], expected) < 1e-5


@torch.no_grad()
def test_a_row_of_shorter_keys_does_not_see_those_that_fill_it(family: Wrapped):
    """Two videos and one: what fills the second row is no key, for the words in front of its video either."""
    both = family.inputs(user(family.clip(2), family.clip(3, 1), QUESTION), user("Well,", family.clip(3), QUESTION))
    prepared, _ = family.model.model.prepare(**both)
    assert prepared["cross_attention_states"].shape[:2] == (2, 2 * NUM_VIDEO_TOKENS)
    prepared["cross_attention_states"][1, NUM_VIDEO_TOKENS:] = 7.0
    logits = family.model.model.bridge.forward(family.base, **prepared).logits[1]
    assert torch.equal(logits, family.model(**both).logits[1])


@torch.no_grad()
def test_an_unused_video_token_is_no_key(family: Wrapped):
    inputs = family.inputs(user("Well,", still(family, 3), QUESTION))
    prepared, condensed = family.model.model.prepare(**inputs)
    condensed.outputs.weights.used[:, -2:] = False
    expected = family.model(**inputs, condensed_videos=condensed).logits
    condensed.tokens[:, -2:] = 7.0
    assert torch.equal(family.model(**inputs, condensed_videos=condensed).logits, expected)
    condensed.outputs.weights.used[:] = True
    assert relative_difference(family.model(**inputs, condensed_videos=condensed).logits, expected) > 1e-3


@torch.no_grad()
def test_a_static_cache_holds_all_keys(family: Wrapped):
    """Of M video tokens, more than the words that are written; transformers sizes its layers by words."""
    inputs = family.inputs(user(family.clip(5), family.clip(3, 1), QUESTION), user(family.clip(4, 2), OTHER_QUESTION))
    kwargs = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    expected = family.model.generate(**inputs, **kwargs)
    static = family.model.generate(**inputs, **kwargs, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, expected)


@torch.no_grad()
def test_a_second_video_on_a_cache_is_refused(family: Wrapped):
    inputs = family.inputs(user(family.clip(3), QUESTION))
    cache = family.model(**inputs, use_cache=True)[CACHE_NAME]
    mask = torch.ones(1, 2 * inputs["input_ids"].shape[1], dtype=torch.long)
    with pytest.raises(LinVTInputError, match="cannot take another one"):
        family.model(**{**inputs, "attention_mask": mask}, **{CACHE_NAME: cache})


@torch.no_grad()
def test_pictures_that_train_are_those_that_its_processor_writes(family: Wrapped):
    """Beside a prompt without one, and one with two, in a padded batch; logits and hidden states."""
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    prompts = [
        [*user(family.picture(), "a word between", family.picture(7), QUESTION), answer],
        [*user(OTHER_QUESTION), answer],
        [*user(family.picture(3), OTHER_QUESTION), answer],
    ]
    ours = family.processor.training_inputs(prompts, [[1]] * 3, [[]] * 3)
    assert "cross_attention_mask" not in ours
    processor = load_base_processor(str(family.base_folder))
    theirs = processor.apply_chat_template(
        prompts,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "right"},
    )
    assert torch.equal(ours["input_ids"], theirs["input_ids"])
    expected = family.base(**theirs).logits
    assert torch.equal(family.model(**ours).logits, expected)
    hidden = family.model.model(**ours).last_hidden_state
    assert torch.equal(family.model.get_output_embeddings()(hidden), expected)
    with pytest.raises(LinVTInputError, match="2 prompts have pictures, and pictures of 1 were given"):
        family.model(**{**ours, **{name: ours[name][:1] for name in ("pixel_values", "aspect_ratio_ids")}})


def test_a_frame_is_one_tile_whatever_its_size_and_its_class_token_comes_last(family: Wrapped):
    processor = family.processor
    wide = family.clip(2)
    wide.frames = wide.frames.repeat(5, axis=2)  # a picture of this shape has four tiles
    picture = processor.base_processor(text="<|image|>", images=wide.frames[0], return_tensors="pt")
    assert int(picture["aspect_ratio_mask"].sum()) > 1
    inputs = processor.video_inputs(wide)
    assert inputs["frame_pixel_values"].shape == (2, 3, 56, 56)
    tokens = torch.arange(2.0)[:, None, None] + torch.arange(17.0)[None, :, None] / 100
    rolled = OneTile().by_frame(family.base, list(tokens), 2)
    assert rolled[1, -1] == tokens[1, 0] and rolled[1, 0] == tokens[1, 1]


def test_a_plan_counts_keys_where_they_are_kept_and_the_empty_tiles_of_a_frame(family: Wrapped):
    """Of two layers of four, keys and values of M tokens, and of one word in the other two."""
    plan = plan_wrap(str(family.base_folder), num_frames=2, num_video_tokens=11)
    key_and_value = 2 * 24 * 4  # width of two heads of the keys, float32
    assert plan.cache_bytes == 2 * 11 * key_and_value + 2 * 1 * key_and_value
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        frames = family.processor.video_inputs(family.clip(2))["frame_pixel_values"]
        family.model.model.bridge.encode(family.base, {"pixel_values": frames})
    assert plan.vision_flops == pytest.approx(counter.get_total_flops(), rel=0.01)
