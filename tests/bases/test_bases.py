"""
Twelve families of image-text models, and with the mark `bases` every architecture of transformers that is supported,
keep every promise of the package with LinVT around them.

The bases are tiny and random (`tiny_bases.py`); the inputs are made by `LinVTProcessor` from random clips whose sizes
all differ. The checks are those of `promises.py`. The last part breaks each promise on purpose and expects the check
to notice.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Kosmos2Config

from base_specs import ALL_BASES, QUICK
from promises import (
    CHAT,
    FAMILIES,
    LINVT,
    NUM_VIDEO_TOKENS,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    check_batch_equals_single,
    check_comes_back,
    check_cost,
    check_generation,
    check_only_linvt_trains,
    check_refused,
    check_same_as_base,
    check_sft_moves_linvt,
    check_tokens_are_averages,
    in_precision,
    measure_flops,
    realigned,
    relative_difference,
    sent_visuals,
    stir,
    user,
    with_room_for_one_frame,
    wrapped,
)
from tiny_bases import build, build_model
from transformers_linvt import (
    LinVTConfig,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTModel,
    LinVTProcessor,
    VideoFeatures,
    VideoFrames,
)
from transformers_linvt.bases.base import BaseBridge
from transformers_linvt.bases.loading import load_base_processor
from transformers_linvt.bases.registry import bridge_of
from transformers_linvt.bases.visuals import flat_rows
from transformers_linvt.model import modeling_linvt, placing
from transformers_linvt.tokenizer.selection import RefinedVideo
from transformers_linvt.tokenizer.weights import FactoredWeights


OTHERS = [pytest.param(name, marks=pytest.mark.bases) for name in ALL_BASES if name not in QUICK]


@pytest.fixture(params=[*QUICK, *OTHERS])
def family(request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]) -> Wrapped:
    record_property("base", request.param)  # tests/support/bases_table.py reads it
    spec = ALL_BASES[request.param]
    if missing := [package for package in spec.needs if find_spec(package) is None]:
        pytest.skip(f"{request.param} needs {', '.join(missing)}: make test-bases installs it")
    # Of a test with a parameter, all runs or the one with this parameter.
    names = (request.node.originalname, request.node.name.replace(f"[{request.param}-", "["))
    if reason := next((spec.cannot[name] for name in names if name in spec.cannot), None):
        pytest.skip(f"{request.param} cannot, with or without LinVT: {reason}")
    return wrapped(request.param)


@pytest.fixture
def one(family: Wrapped) -> dict[str, Any]:
    """A question about a clip of 5 frames."""
    return family.inputs(user(family.clip(5), QUESTION))


@pytest.fixture
def two(family: Wrapped) -> dict[str, Any]:
    """A left-padded batch: a clip of 5 frames and one of 3, with questions of different length."""
    return family.inputs(user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION))


# ---------------------------------------------------------------------------------------------------------------------
# Forward
# ---------------------------------------------------------------------------------------------------------------------


def test_from_base_gives_a_model_with_finite_logits_and_the_bases_width(family: Wrapped, one: dict[str, Any]):
    output = family.model(**one)
    assert output.logits.shape[:2] == one["input_ids"].shape
    assert bool(output.logits.isfinite().all())
    hidden = family.model.model(**one).last_hidden_state
    assert hidden.shape == (*one["input_ids"].shape, family.base.config.get_text_config().hidden_size)
    assert one["video_mask"].sum().item() == places_of_videos(family, 1)
    assert not family.model.training


def test_head_and_backbone_compute_the_same(family: Wrapped, one: dict[str, Any]):
    check_head_and_backbone(family.model, one)


def test_head_and_backbone_compute_the_same_of_a_picture(family: Wrapped):
    check_head_and_backbone(family.model, family.inputs(user(family.picture(), QUESTION)))


def check_head_and_backbone(model: LinVTForVideoQA, inputs: dict[str, Any]) -> None:
    hidden = model.model(**inputs).last_hidden_state
    assert relative_difference(model.get_output_embeddings()(hidden), model(**inputs).logits) < 1e-5


def test_video_tokens_are_weighted_averages_of_frame_tokens(family: Wrapped, two: dict[str, Any]):
    check_tokens_are_averages(family.model, two)


def test_deep_layers_get_the_weights_of_the_first():
    family = wrapped("qwen3_vl")
    inputs = family.inputs(user(family.clip(5), QUESTION))
    prepared, condensed = family.model.model.prepare(**inputs)
    layers = prepared["mm_encoder_outputs"]["image"].deepstack_features
    assert len(layers) == 2
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    (video,) = family.model.model.encode_videos([5], frames)
    w = condensed.outputs.weights.dense()[0]
    for layer, values in zip(layers, video.deepstack, strict=True):
        torch.testing.assert_close(layer[0], w @ values.flatten(0, 1), atol=1e-5, rtol=1e-5)
    assert relative_difference(layers[0][0], layers[1][0]) > 0.1


def test_a_constant_video_gives_constant_tokens(family: Wrapped):
    video = family.clip(5)
    video.frames[:] = 77
    inputs = family.inputs(user(video, QUESTION))
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    (encoded,) = family.model.model.encode_videos([5], frames)
    # Places still differ (position embeddings of the vision tower), so the frame tokens are made constant by hand.
    encoded.tokens[:] = encoded.tokens[0, 0]
    tokens = family.model.model.condense([encoded]).tokens
    torch.testing.assert_close(tokens, encoded.tokens[:1, :1].expand_as(tokens), atol=1e-6, rtol=1e-5)


def test_another_video_gives_other_logits(family: Wrapped, two: dict[str, Any]):
    """The control of every test that says "equal": the video has a say in the logits."""
    swapped = family.inputs(user(family.clip(3, 1), QUESTION), user(family.clip(5), OTHER_QUESTION))
    assert torch.equal(swapped["input_ids"], two["input_ids"])
    for row in range(2):
        assert relative_difference(family.model(**swapped).logits[row, -1], family.model(**two).logits[row, -1]) > 1e-3


def test_another_question_gives_other_weights(family: Wrapped, one: dict[str, Any]):
    other = family.inputs(user(family.clip(5), OTHER_QUESTION))
    weights = [family.model.model.prepare(**inputs)[1].outputs.weights.dense() for inputs in (one, other)]
    assert relative_difference(*weights) > 1e-3


def test_the_order_of_the_frames_changes_the_logits(family: Wrapped, one: dict[str, Any]):
    video = family.clip(5)
    video.frames = video.frames[::-1].copy()
    backwards = family.inputs(user(video, QUESTION))
    assert relative_difference(family.model(**backwards).logits[0, -1], family.model(**one).logits[0, -1]) > 1e-3


def test_a_video_is_written_into_the_prompt_as_a_picture_is(family: Wrapped, one: dict[str, Any]):
    """Character by character what the base's processor writes, but for the number of tokens."""
    processor = family.processor.bridge.load_processor(str(family.base_folder))
    template = family.processor.chat_template
    prompt = user(PIL.Image.new("RGB", (224, 224)), QUESTION)  # Emu3 writes the size of a picture before it
    options = {"processor_kwargs": {**ALL_BASES[family.name].one_tile, **ALL_BASES[family.name].chat}}
    made = processor.apply_chat_template(prompt, chat_template=template, **CHAT, **options)
    theirs, placeholder = made["input_ids"][0], family.model.config.image_token_id
    if (places := made.get("image_embeds_position_mask")) is not None:  # Kosmos-2, whatever the ids there
        theirs = theirs.masked_fill(places[0].bool(), placeholder)

    def around(ids: torch.Tensor) -> list[list[int]]:
        places = (ids == placeholder).nonzero().flatten().tolist()
        return [ids[: places[0]].tolist(), ids[places[-1] + 1 :].tolist()]

    assert around(one["input_ids"][0]) == around(theirs)


def test_a_row_of_a_batch_is_the_row_alone(family: Wrapped, two: dict[str, Any], one: dict[str, Any]):
    check_batch_equals_single(family.model, two, [one, family.inputs(user(family.clip(3, 1), OTHER_QUESTION))])


def test_rows_with_different_visuals_are_the_rows_alone(family: Wrapped):
    """A row with two videos, one with a picture and a video, one with a video, in one batch."""
    rows = [
        user(family.clip(5), family.clip(3, 1), QUESTION),
        user(family.picture(), OTHER_QUESTION, family.clip(4, 2)),
        user(family.clip(2, 3), "Describe the picture in one sentence."),
    ]
    check_batch_equals_single(family.model, family.inputs(*rows), [family.inputs(row) for row in rows])


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"])
def test_a_picture_keeps_its_positions_beside_the_video_of_another_row(name: str):
    family = wrapped(name)
    rows = [user(family.picture(), OTHER_QUESTION), user(family.clip(4, 2), QUESTION)]
    check_batch_equals_single(family.model, family.inputs(*rows), [family.inputs(row) for row in rows])


def test_frames_in_chunks_are_the_frames_at_once(family: Wrapped, one: dict[str, Any]):
    logits = {}
    for frames_per_chunk in (1, 2, 100):
        family.model.config.frames_per_chunk = frames_per_chunk
        logits[frames_per_chunk] = family.model(**one).logits
    assert relative_difference(logits[1], logits[100]) < 1e-5
    assert relative_difference(logits[2], logits[100]) < 1e-5


def test_one_frame_is_a_video(family: Wrapped):
    inputs = family.inputs(user(family.clip(1), QUESTION))
    assert inputs["frames_per_video"].tolist() == [1]
    assert inputs["video_mask"].sum().item() == places_of_videos(family, 1)
    check_tokens_are_averages(family.model, inputs)
    assert bool(family.model(**inputs).logits.isfinite().all())


def test_tokens_of_a_frame_are_known_before_running_and_do_not_depend_on_the_others(
    family: Wrapped, record_property: Callable[[str, Any], None]
):
    spec, processor = ALL_BASES[family.name], family.processor
    before = processor.bridge.tokens_of_frame(processor.base_processor, family.clip(1).frames[0])
    record_property("tokens_per_frame", before)
    assert before == spec.tokens_per_frame
    for num_frames in (1, 4):
        condensed = family.model.model.prepare(**family.inputs(user(family.clip(num_frames), QUESTION)))[1]
        record_property("container", condensed.container)
        assert condensed.outputs.weights.tokens_per_frame == before


# ---------------------------------------------------------------------------------------------------------------------
# Several visuals and turns
# ---------------------------------------------------------------------------------------------------------------------


def places_of_videos(family: Wrapped, num_videos: int) -> int:
    """Placeholders that so many videos have in a prompt: one for each, where their tokens are keys."""
    return num_videos * (NUM_VIDEO_TOKENS if family.model.model.bridge.has_place_per_token else 1)


def visuals_in_prompt(family: Wrapped, inputs: dict[str, Any]) -> torch.Tensor:
    """What the base gets, one row per visual token."""
    prepared, _ = family.model.model.prepare(**inputs)
    rows, _ = sent_visuals(family.model, prepared)
    if family.model.model.bridge.has_place_per_token:
        assert len(rows) == int((inputs["input_ids"] == family.model.config.image_token_id).sum())
    return rows


def video_tokens(family: Wrapped, video: VideoFrames, question: list[dict[str, Any]]) -> torch.Tensor:
    """The tokens of one video, condensed alone for the question of another prompt."""
    inputs = family.inputs(question)
    embeds, mask = family.model.model.question_embeddings(inputs["input_ids"], inputs["question_mask"], [0])
    own = family.processor.video_inputs(video)
    frames = {name.removeprefix("frame_"): value for name, value in own.items() if name.startswith("frame_")}
    encoded = family.model.model.encode_videos(own["frames_per_video"].tolist(), frames)
    return family.model.model.condense(encoded, [own["video_timestamps"]], embeds, mask).tokens[0]


@torch.no_grad()
def test_several_videos_stand_in_the_order_of_the_prompt(family: Wrapped):
    first, second = family.clip(5), family.clip(3, 1)
    prompt = user(first, second, QUESTION)
    rows = visuals_in_prompt(family, family.inputs(prompt))
    expected = torch.cat([video_tokens(family, video, prompt) for video in (first, second)])
    assert relative_difference(rows, expected) < 1e-5
    assert relative_difference(rows, expected.roll(NUM_VIDEO_TOKENS, 0)) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("picture_first", [True, False])
def test_a_picture_beside_a_video_keeps_its_place_and_its_tokens(family: Wrapped, picture_first: bool):
    video, picture = family.clip(5), family.picture()
    prompt = user(picture, video, QUESTION) if picture_first else user(video, picture, QUESTION)
    rows = visuals_in_prompt(family, family.inputs(prompt))
    # InstructBLIP's Q-Former reads the words beside a picture alone, and none beside a video
    alone = family.inputs(user(picture, QUESTION))
    alone = {name: value for name, value in alone.items() if not name.startswith("qformer_")}
    pictures = flat_rows(family.model.model.bridge.encode(family.base, alone)[0])
    tokens = video_tokens(family, video, prompt)
    expected = torch.cat([pictures, tokens] if picture_first else [tokens, pictures])
    assert rows.shape == expected.shape
    assert relative_difference(rows, expected) < 1e-5


def test_a_picture_beside_a_video_changes_the_logits(family: Wrapped):
    logits = [
        family.model(**family.inputs(user(family.clip(5), family.picture(seed), QUESTION))).logits[0, -1]
        for seed in (7, 8)
    ]
    assert relative_difference(*logits) > 1e-3


def test_a_conversation_of_several_turns_runs_and_the_last_question_is_the_question(family: Wrapped):
    conversation = [
        *user(family.clip(5), QUESTION),
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
        *user(family.picture(), "What colour is it?"),
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        *user(family.clip(3, 1), OTHER_QUESTION),
    ]
    inputs = family.inputs(conversation)
    asked = family.processor.decode(inputs["input_ids"][0][inputs["question_mask"][0].bool()])
    assert asked.strip() == OTHER_QUESTION
    assert inputs["video_mask"].sum().item() == places_of_videos(family, 2)
    check_generation(family.model, inputs, num_tokens=3, cannot=ALL_BASES[family.name].cannot)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures and text
# ---------------------------------------------------------------------------------------------------------------------


def pictures_and_text(family: Wrapped) -> dict[str, list[list[dict[str, Any]]]]:
    picture, other = family.picture(), family.picture(7)
    return {
        "a picture": [user(picture, QUESTION)],
        "two pictures": [user(picture, other, QUESTION)],
        "text": [[{"role": "user", "content": QUESTION}]],
        "a system prompt": [
            [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, *user(picture, QUESTION)]
        ],
        "a batch": [user(picture, QUESTION), user(other, OTHER_QUESTION)],
    }


@pytest.mark.parametrize("what", ["a picture", "two pictures", "text", "a system prompt", "a batch"])
def test_pictures_and_text_are_bit_identical_to_the_base(family: Wrapped, what: str):
    """Through both processors and both models: the inputs key by key, the logits and the generated text."""
    conversations = pictures_and_text(family)[what]
    base, processor = build_model(family.name), family.processor.bridge.load_processor(str(family.base_folder))
    # As LinVT's base: torch's own attention layer (Aria) rounds differently for weights that train.
    base.requires_grad_(False)
    ours = family.inputs(*conversations)
    batch = conversations if len(conversations) > 1 else conversations[0]
    options = {**({"padding": True} if len(conversations) > 1 else {}), **ALL_BASES[family.name].chat}
    template = family.processor.chat_template  # the base's own, where its class keeps one
    made = processor.apply_chat_template(batch, chat_template=template, **CHAT, processor_kwargs=options)
    theirs = in_precision(made, base.dtype)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name
    check_same_as_base(family.model, base, ours)


# ---------------------------------------------------------------------------------------------------------------------
# Generation
# ---------------------------------------------------------------------------------------------------------------------


def test_generation_with_and_without_cache_and_by_hand_agree(family: Wrapped, two: dict[str, Any]):
    check_generation(family.model, two, cannot=ALL_BASES[family.name].cannot)


def test_generation_after_a_picture_is_not_disturbed_by_it(family: Wrapped, one: dict[str, Any]):
    """Families with multimodal rotary positions keep an offset from the picture they saw last."""
    before = family.model.generate(**one, max_new_tokens=4, do_sample=False)
    family.model.generate(**family.inputs(user(family.picture(), QUESTION)), max_new_tokens=2, do_sample=False)
    check_generation(family.model, one, cannot=ALL_BASES[family.name].cannot)
    family.model(**family.inputs(user(family.picture(), QUESTION)))
    assert torch.equal(family.model.generate(**one, max_new_tokens=4, do_sample=False), before)


def test_generation_from_a_video_and_a_picture_agrees_with_and_without_cache(family: Wrapped):
    inputs = family.inputs(user(family.clip(5), family.picture(), QUESTION))
    check_generation(family.model, inputs, cannot=ALL_BASES[family.name].cannot)


def test_beam_search_of_a_batch_is_that_of_each_row(family: Wrapped):
    """Rows with one and with two videos: beams repeat whole rows, and a container split elsewhere would mix them."""
    rows = [user(family.clip(5), family.clip(3, 1), QUESTION), user(family.clip(4, 2), OTHER_QUESTION)]
    kwargs = {"max_new_tokens": 3, "min_new_tokens": 3, "num_beams": 3, "do_sample": False}
    batch = family.model.generate(**family.inputs(*rows), **kwargs)
    for row, conversation in enumerate(rows):
        alone = family.model.generate(**family.inputs(conversation), **kwargs)
        assert batch[row, -3:].tolist() == alone[0, -3:].tolist()


def test_sampling_with_a_seed_repeats_itself(family: Wrapped, one: dict[str, Any]):
    kwargs = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": True, "num_return_sequences": 3}
    samples = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        samples.append(family.model.generate(**one, **kwargs))
    assert samples[0].shape == (3, one["input_ids"].shape[1] + 4)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_an_encoded_video_is_answered_as_the_video_itself(family: Wrapped, tmp_path: Path):
    """`answer(encode_video(...))` in memory and from a file, several questions at once, against `generate`."""
    features = family.model.encode_video(**family.processor.video_inputs(family.clip(5)))
    features.save(tmp_path / "clip.safetensors")
    kwargs = {"max_new_tokens": 4, "do_sample": False}
    expected = []
    for question in (QUESTION, OTHER_QUESTION):
        inputs = family.inputs(user(family.clip(5), question))
        generated = family.model.generate(**inputs, **kwargs)[:, inputs["input_ids"].shape[1] :]
        expected.append(family.processor.batch_decode(generated, skip_special_tokens=True)[0].strip())
    for one in (features, VideoFeatures.load(tmp_path / "clip.safetensors")):
        assert family.model.answer(one, [QUESTION, OTHER_QUESTION], processor=family.processor, **kwargs) == expected
        assert family.model.answer(one, QUESTION, processor=family.processor, **kwargs) == expected[0]


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


def test_every_linvt_parameter_trains_and_no_parameter_of_the_base(family: Wrapped, two: dict[str, Any]):
    check_only_linvt_trains(family.model, two)


@pytest.mark.bases
def test_an_answer_of_paligemma_is_learned_as_its_processor_writes_one():
    """A prompt sees itself, what follows it sees what comes before: type ids of 0 and 1, and a line end between."""
    family = wrapped("paligemma")
    prompt = [*user(family.clip(5), QUESTION), {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}]
    ours = family.processor.training_inputs([prompt], [[1]], [[family.clip(5)]])
    theirs = load_base_processor(str(family.base_folder))(
        text=f"<image>{QUESTION}", images=family.picture(), suffix="Yes.", return_tensors="pt"
    )
    placeholder = family.base.config.image_token_id
    for name in ("input_ids", "token_type_ids"):
        own, its = (one[name][one["input_ids"] != placeholder].tolist() for one in (ours, theirs))
        assert own == its
    assert family.processor.decode(ours["input_ids"][ours["assistant_masks"].bool()]) == "Yes.<end_of_turn>"
    assert family.processor.decode(ours["input_ids"][ours["question_mask"].bool()]) == QUESTION


@torch.no_grad()
@pytest.mark.bases
@pytest.mark.parametrize("name", ["blip-2", "instructblip", "kosmos-2"])
def test_words_alone_are_answered_by_the_language_model_and_an_answer_ends(name: str):
    """Their own heads insist on a picture, and their processors have no template that could end an answer."""
    family = wrapped(name)
    words = family.inputs(user(QUESTION))
    check_head_and_backbone(family.model, words)
    logits = family.model(**words).logits
    made = family.model.generate(**words, max_new_tokens=1, do_sample=False)
    assert made[0, -1] == logits[0, -1].argmax()
    answer = {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    inputs = family.processor.training_inputs([[*user(QUESTION), answer]], [[1]], [[]])
    learned = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert learned[-1] == family.processor.tokenizer.eos_token_id


@pytest.mark.bases
def test_kosmos_2_is_known_by_its_processor_alone():
    processor = LinVTProcessor(build("kosmos-2")[1], num_video_tokens=NUM_VIDEO_TOKENS)
    assert processor.base_model_type == "kosmos-2"
    assert processor.markers.token == "</chunk>"
    processor.check_fits(wrapped("kosmos-2").model.config)
    assert bridge_of("kosmos-2").image_token_id(Kosmos2Config()) == 64005  # of the published tokenizer


@torch.no_grad()
@pytest.mark.bases
def test_pictures_of_kosmos_2_train_as_its_processor_writes_them():
    """Also where a prompt has none, or two, which its own processor refuses or its own head."""
    family = wrapped("kosmos-2")
    picture, answer = family.picture(), {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}
    prompts = [
        [*user(picture, QUESTION), answer],
        [*user(picture, family.picture(7), OTHER_QUESTION), answer],
        [*user(OTHER_QUESTION), answer],
    ]
    ours, both = (
        family.processor.training_inputs(some, [[1]] * len(some), [[]] * len(some)) for some in ([prompts[0]], prompts)
    )
    text = f"{QUESTION} Yes.{family.processor.tokenizer.eos_token}"
    theirs = load_base_processor(str(family.base_folder))(text=text, images=picture, return_tensors="pt")
    places = theirs["image_embeds_position_mask"].bool()
    placeholder = family.model.config.image_token_id
    assert torch.equal(ours["input_ids"], theirs["input_ids"].masked_fill(places, placeholder))
    expected = family.base(**theirs)
    assert torch.equal(family.model(**ours).logits, expected.logits)
    hidden = family.model.model(**ours).last_hidden_state
    assert torch.equal(family.model.get_output_embeddings()(hidden), expected.logits)
    batch = family.model(**both).logits
    assert relative_difference(batch[0, : places.shape[1]], expected.logits[0]) < 1e-5
    assert int((both["input_ids"] == placeholder).sum()) == 3 * 64


@torch.no_grad()
def test_later_tokens_do_not_change_what_comes_before(family: Wrapped):
    """
    A composite config around a live base config once reset its attention implementation to None, and the language
    model ran without a causal mask: after from_base with a base in memory, and with an all-ones mask.
    """
    base = build_model(family.name)
    experts = base.config.get_text_config()._experts_implementation
    model = LinVTForVideoQA.from_base(base, **LINVT)
    short = family.inputs(user(family.clip(5), QUESTION))
    length = short["input_ids"].shape[1]
    longer = dict(short)
    extra = short["input_ids"][:, -3:].flip(1)
    longer["input_ids"] = torch.cat([short["input_ids"], extra], dim=1)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    for name in [n for n in short if n in ("video_mask", "question_mask") or n.endswith("token_type_ids")]:
        value = ALL_BASES[family.name].answer_type_id if name.endswith("type_ids") else 0
        longer[name] = torch.cat([short[name], torch.full_like(extra, value)], dim=1)
    prefix, whole = (model.model(**inputs).last_hidden_state for inputs in (short, longer))
    assert relative_difference(whole[:, :length], prefix) < 1e-5
    assert model.base_vlm.config._attn_implementation is not None
    assert model.base_vlm.config.get_text_config()._attn_implementation is not None
    assert model.base_vlm.config.get_text_config()._experts_implementation == experts


# ---------------------------------------------------------------------------------------------------------------------
# Save and load
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_base", [False, True])
def test_a_saved_model_comes_back_whole(family: Wrapped, one: dict[str, Any], tmp_path: Path, include_base: bool):
    logits = family.model(**one).logits
    family.model.save_pretrained(tmp_path, include_base=include_base)
    family.processor.save_pretrained(tmp_path)
    check_comes_back(tmp_path, one, logits)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, LinVTProcessor)
    inputs = again.apply_chat_template(user(family.clip(5), QUESTION), **CHAT)
    assert inputs.keys() == one.keys()
    assert all(torch.equal(inputs[name], value) for name, value in one.items())
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(model, LinVTForVideoQA)
    assert torch.equal(realigned(model)(**inputs).logits, logits)


IN_A_NEW_PROCESS = """
import json, sys
import torch
torch.set_num_threads(int(sys.argv[2]))
import tiny_bases  # Molmo2's image processor without torchvision
import transformers_linvt
from promises import CHAT, QUESTION, clip, realigned, user
from transformers import AutoModel, AutoProcessor

result = {}
for name, folder in json.loads(sys.argv[1]).items():
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(user(clip(name, 5), QUESTION), **CHAT)
    torch.save(realigned(model)(**inputs).logits, f"{folder}/logits.pt")
    result[name] = {key: sorted(map(str, value)) for key, value in report.items()}
print(json.dumps(result))
"""


def test_all_families_come_back_in_a_new_process(tmp_path: Path):
    folders, logits = {}, {}
    for name in FAMILIES:
        family = wrapped(name)
        folders[name] = str(tmp_path / name)
        family.model.save_pretrained(folders[name])
        family.processor.save_pretrained(folders[name])
        logits[name] = family.model(**family.inputs(user(family.clip(5), QUESTION))).logits
    result = subprocess.run(
        [sys.executable, "-c", IN_A_NEW_PROCESS, json.dumps(folders), str(torch.get_num_threads())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    reports = json.loads(result.stdout.splitlines()[-1])
    for name in FAMILIES:
        assert not any(reports[name].values()), (name, reports[name])
        assert torch.equal(torch.load(Path(folders[name]) / "logits.pt"), logits[name]), name


# ---------------------------------------------------------------------------------------------------------------------
# Cost
# ---------------------------------------------------------------------------------------------------------------------


def test_cost_is_constant_in_the_language_model_and_linear_elsewhere():
    family = wrapped("llava_phi")
    check_cost(family.model, lambda num_frames: family.inputs(user(family.clip(num_frames), QUESTION)))


def test_the_flops_of_the_language_model_are_those_counted_by_hand():
    """Phi: per layer 4 d^2 attention projections and 2 d m feed-forward, plus attention itself, 2 FLOPs each."""
    family = wrapped("llava_phi")
    inputs = family.inputs(user(family.clip(4), QUESTION))
    text = family.base.config.get_text_config()
    length, width = inputs["input_ids"].shape[1], text.hidden_size
    linear = 4 * width * width + 2 * width * text.intermediate_size
    attention = 2 * length * width  # QK^T and AV, over the full square
    by_hand = 2 * length * text.num_hidden_layers * (linear + attention)
    assert measure_flops(family.model, inputs)[0] == pytest.approx(by_hand, rel=0.01)


# ---------------------------------------------------------------------------------------------------------------------
# TRL
# ---------------------------------------------------------------------------------------------------------------------

# TRL 1.16 switches checkpointing on by the old name of the argument.
old_name_in_trl = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@old_name_in_trl
@pytest.mark.parametrize("with_lora", [False, True])
def test_sft_trainer_moves_linvt(family: Wrapped, tmp_path: Path, with_lora: bool):
    check_sft_moves_linvt(family, tmp_path, with_lora)


@old_name_in_trl
def test_what_is_trained_is_the_loss_of_forward(family: Wrapped, tmp_path: Path):
    # Here and not above: importing TRL takes seconds, and the tests of registration run without it.
    from training_runs import check_trains_the_loss_of_forward

    cannot_lora = "test_sft_trainer_moves_linvt[True]" in ALL_BASES[family.name].cannot
    check_trains_the_loss_of_forward(family, tmp_path, with_lora=not cannot_lora)


# ---------------------------------------------------------------------------------------------------------------------
# Broken on purpose: every check above notices when its promise is broken
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def noticed(*words: str) -> Iterator[None]:
    """The check inside raises AssertionError, and for this reason."""
    with pytest.raises(AssertionError) as caught:
        yield
    assert any(word in str(caught.value) for word in words), str(caught.value)


@pytest.fixture
def plain() -> Wrapped:
    return wrapped("llava_phi")


def batch_of(family: Wrapped) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION)]
    return family.inputs(*rows), [family.inputs(row) for row in rows]


def test_a_resampler_is_noticed_as_no_average():
    family = wrapped("llava_phi")
    model = stir(LinVTForVideoQA.from_base(family.base, **LINVT, aggregation="nonlinear"))
    with noticed("not close"):
        check_tokens_are_averages(model, batch_of(family)[0])


def test_weights_that_sum_to_less_than_one_are_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    kept = FactoredWeights.kept
    monkeypatch.setattr(FactoredWeights, "kept", lambda self: 0.999 * kept(self))
    with noticed("not close"):
        check_tokens_are_averages(plain.model, batch_of(plain)[0])


def test_negative_weights_are_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    kept = FactoredWeights.kept
    monkeypatch.setattr(FactoredWeights, "kept", lambda self: 2 * kept(self) - kept(self).flip(1))
    with noticed("negative"):
        check_tokens_are_averages(plain.model, batch_of(plain)[0])


def test_other_weights_for_deep_layers_are_noticed(monkeypatch: pytest.MonkeyPatch):
    family, condense = wrapped("qwen3_vl"), LinVTModel.condense

    def other_weights(self: LinVTModel, *args: Any, **kwargs: Any) -> Any:
        condensed = condense(self, *args, **kwargs)
        condensed.deepstack = [layer.flip(1) for layer in condensed.deepstack]
        return condensed

    monkeypatch.setattr(LinVTModel, "condense", other_weights)
    with noticed("not close"):
        check_tokens_are_averages(family.model, batch_of(family)[0])


def test_a_leak_between_the_videos_of_a_batch_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    condense = LinVTModel.condense

    def leak(self: LinVTModel, *args: Any, **kwargs: Any) -> Any:
        condensed = condense(self, *args, **kwargs)
        condensed.tokens = condensed.tokens + 1e-3 * condensed.tokens.mean(0)
        return condensed

    monkeypatch.setattr(LinVTModel, "condense", leak)
    with noticed("differs from itself alone"):
        check_batch_equals_single(plain.model, *batch_of(plain))


@pytest.mark.parametrize("what", ["question", "frames", "prompt"])
def test_padding_that_counts_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch, what: str):
    batch, singles = batch_of(plain)
    if what == "question":
        embeddings = LinVTModel.question_embeddings

        def unmasked(self: LinVTModel, *args: Any) -> Any:
            embeds, mask = embeddings(self, *args)
            return embeds, torch.ones_like(mask)

        monkeypatch.setattr(LinVTModel, "question_embeddings", unmasked)
    elif what == "frames":
        plain = with_room_for_one_frame("llava_phi")
        pad, clip = RefinedVideo._padded, plain.clip(3, 1)
        still = replace(clip, frames=clip.frames[[0, 0, 0]])  # of which less is kept: slots stay empty
        rows = [user(plain.clip(5), QUESTION), user(still, OTHER_QUESTION)]
        batch, singles = plain.inputs(*rows), [plain.inputs(row) for row in rows]

        def filled(self: RefinedVideo, *sizes: int) -> RefinedVideo:
            padded = pad(self, *sizes)
            return replace(padded, kept_mask=torch.ones_like(padded.kept_mask))

        monkeypatch.setattr(RefinedVideo, "_padded", filled)
    else:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    with noticed("differs from itself alone"):
        check_batch_equals_single(plain.model, batch, singles)


def test_a_thawed_base_is_noticed(plain: Wrapped):
    plain.base.requires_grad_(True)
    with noticed("base parameters that train"):
        check_only_linvt_trains(plain.model, batch_of(plain)[0])


def test_a_base_that_moves_without_a_gradient_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    forward = plain.base.forward

    def drift(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            next(plain.base.parameters()).mul_(1 + 1e-6)
        return forward(*args, **kwargs)

    monkeypatch.setattr(plain.base, "forward", drift)
    with noticed("frozen weights that moved"):
        check_only_linvt_trains(plain.model, batch_of(plain)[0])


def test_a_linvt_parameter_without_a_gradient_is_noticed(plain: Wrapped):
    plain.model.linvt.unused = torch.nn.Parameter(torch.ones(3))
    with noticed("without a gradient: ['unused']"):
        check_only_linvt_trains(plain.model, batch_of(plain)[0])


def test_a_parameter_whose_gradient_stays_zero_is_noticed(plain: Wrapped):
    plain.model.linvt.scorer.score_weight.register_hook(torch.zeros_like)
    with noticed("stays zero: ['scorer.score_weight']"):
        check_only_linvt_trains(plain.model, batch_of(plain)[0])


def test_a_picture_that_goes_through_linvt_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    base, _ = build("llava_phi")
    inputs = plain.inputs(user(plain.picture(), QUESTION))
    check_same_as_base(plain.model, base, inputs)
    prepare = LinVTModel.prepare

    def touched(self: LinVTModel, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if "pixel_values" in kwargs:
            kwargs["pixel_values"] = kwargs["pixel_values"] * (1 + 1e-6)
        return prepare(self, input_ids, **kwargs)

    monkeypatch.setattr(LinVTModel, "prepare", touched)
    with noticed("logits differ"):
        check_same_as_base(plain.model, base, inputs)


def test_a_stale_offset_of_an_earlier_picture_is_noticed(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("qwen2_vl")
    family.model.config.video_positions = "text"  # in a grid every prompt sets an offset of its own
    inputs = family.inputs(user(family.clip(5), QUESTION))
    family.model(**family.inputs(user(family.picture(), QUESTION)))
    for module in (modeling_linvt, placing):
        monkeypatch.setattr(module, "forget_positions", lambda base: None)
    family.base.generate = lambda *args, generate=family.base.generate, **kwargs: _keeping_offset(
        family, generate, *args, **kwargs
    )
    with noticed("by hand"):
        check_generation(family.model, inputs)


def _keeping_offset(family: Wrapped, generate: Callable, *args: Any, **kwargs: Any) -> Any:
    offset = family.base.model.rope_deltas
    result = generate(*args, **kwargs)
    family.base.model.rope_deltas = offset
    return result


def test_generation_that_does_not_see_the_video_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    generate = plain.base.generate

    def blind(*args: Any, **kwargs: Any) -> Any:
        for visuals in kwargs["mm_encoder_outputs"].values():
            visuals.pooler_output = [tokens * 0 for tokens in visuals.pooler_output]
        return generate(*args, **kwargs)

    monkeypatch.setattr(plain.base, "generate", blind)
    with noticed("does not start from what forward() computes"):
        check_generation(plain.model, batch_of(plain)[0])


def test_a_saved_weight_that_differs_is_noticed(plain: Wrapped, tmp_path: Path):
    inputs = batch_of(plain)[0]
    logits = plain.model(**inputs).logits
    with torch.no_grad():
        plain.model.linvt.scorer.score_weight.mul_(1.01)
    plain.model.save_pretrained(tmp_path)
    with noticed("other logits"):
        check_comes_back(tmp_path, inputs, logits)


def test_a_random_base_in_place_of_the_right_one_is_noticed(plain: Wrapped, tmp_path: Path):
    inputs = batch_of(plain)[0]
    logits = plain.model(**inputs).logits
    build_model(plain.name, seed=1).save_pretrained(tmp_path / "base")
    plain.model.config.base_model_name_or_path = str(tmp_path / "base")
    plain.model.save_pretrained(tmp_path / "linvt")
    with noticed("other logits"):
        check_comes_back(tmp_path / "linvt", inputs, logits)


def test_loading_that_thaws_the_base_is_noticed(plain: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inputs = batch_of(plain)[0]
    plain.model.save_pretrained(tmp_path, include_base=True)
    monkeypatch.setattr(LinVTModel, "freeze_base", lambda self: None)
    with noticed("thawed"):
        check_comes_back(tmp_path, inputs, plain.model(**inputs).logits)


def test_video_tokens_that_grow_with_the_frames_are_noticed(plain: Wrapped):
    with noticed("the language model's cost depends on the frames"):
        check_cost(plain.model, lambda n: plain.inputs(user(*[plain.clip(1)] * n, QUESTION)), unit=4)


def test_cost_that_grows_faster_than_the_frames_is_noticed(plain: Wrapped):
    model = LinVTForVideoQA.from_base(plain.base, **{**LINVT, "temporal_window": 100})
    with noticed("cost per further frame is not constant"):
        check_cost(model, lambda n: plain.inputs(user(plain.clip(n), QUESTION)))


def test_frames_that_are_encoded_all_at_once_are_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    encode = BaseBridge.encode_frames
    monkeypatch.setattr(BaseBridge, "encode_frames", lambda *args: encode(*args[:-1], args[-2]))
    with noticed("frames per call of the vision tower"):
        check_cost(plain.model, lambda n: plain.inputs(user(plain.clip(n), QUESTION)))


@old_name_in_trl
def test_condensing_in_the_head_is_noticed_under_sft_trainer(plain: Wrapped, tmp_path: Path):
    """TRL calls the backbone: a model that condenses in its head trains without LinVT, and nobody notices."""

    class CondensesInItsHead(LinVTForVideoQA):
        @property
        def base_model(self) -> torch.nn.Module:
            return BackboneWithoutLinVT(self)

    class BackboneWithoutLinVT:
        def __init__(self, model: LinVTForVideoQA) -> None:
            self.model = model

        def __call__(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
            prepared, _ = self.model.model.prepare(input_ids, **kwargs)
            for visuals in prepared["mm_encoder_outputs"].values():
                visuals.pooler_output = [tokens.detach() for tokens in visuals.pooler_output]
            embeddings = self.model.get_input_embeddings()(input_ids)
            output = self.model.base_vlm.base_model(**prepared)
            output.last_hidden_state = output.last_hidden_state + 0 * embeddings.detach().requires_grad_()
            return output

    plain.model.__class__ = CondensesInItsHead
    with noticed("did not move"):
        check_sft_moves_linvt(plain, tmp_path)


def test_an_error_of_another_kind_is_noticed(plain: Wrapped, monkeypatch: pytest.MonkeyPatch):
    """A prompt with the placeholders of two videos and the frames of one, once the model no longer looks."""
    inputs = plain.inputs(user(plain.clip(5), plain.clip(3), QUESTION))
    inputs["frames_per_video"] = torch.tensor([8])
    words = ("12 video placeholders", "1 videos")
    check_refused(lambda: plain.model(**inputs), LinVTInputError, *words)
    monkeypatch.setattr(LinVTModel, "_rows_of_videos", lambda self, mask, num_videos: [0] * num_videos)
    with noticed("instead of LinVTInputError"):
        check_refused(lambda: plain.model(**inputs), LinVTInputError, *words)
    with noticed("no LinVTInputError"):
        check_refused(lambda: None, LinVTInputError)
    with noticed("does not say"):
        check_refused(lambda: LinVTConfig(max_frames=0), LinVTInputError, "13")
