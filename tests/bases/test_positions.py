"""
Video tokens laid out in time, row and column, for bases that count positions so: against positions written down by
hand, against the base's own for a picture of that grid, and under every way to generate.
"""

from typing import Any

import pytest
import torch

from base_specs import ALL_BASES
from promises import (
    CHAT,
    LINVT,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    check_batch_equals_single,
    check_comes_back,
    check_generation,
    check_only_linvt_trains,
    check_refused,
    check_same_as_base,
    relative_difference,
    stir,
    user,
    wrapped,
)
from tiny_bases import build_model
from transformers_linvt import LinVTForVideoQA, LinVTInputError, LinVTProcessor
from transformers_linvt.bases.cache import CACHE_NAME
from transformers_linvt.bases.positions import lay_out_positions
from transformers_linvt.tokenizer.aggregation import lattice_cells


MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


MORE = ("cohere_compass", "cosmos3_edge", "cosmos3_omni", "ernie4_5_vl_moe", "glm46v", "glm4v", "glm4v_moe", "glm_ocr")
MORE += ("glmga", "minicpmv4_7", "paddleocr_vl", "qwen2_5_omni_thinker", "qwen3_5", "qwen3_5_moe")
MORE += ("qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp")

OTHER_GRIDS = {
    "minicpmv4_7": "it has a grid of slices, without time",
    "qwen2_5_omni_thinker": "it finds its pictures by placeholders, and a video's are none of its own",
    "qwen3_omni_moe_thinker": "it finds its pictures by placeholders, and a video's are none of its own",
}


@pytest.fixture(params=[*MROPE, *(pytest.param(name, marks=pytest.mark.bases) for name in MORE)])
def family(request: pytest.FixtureRequest) -> Wrapped:
    """A family whose video tokens stand in a grid."""
    made = wrapped(request.param)
    made.model.config.video_positions = "grid"
    return made


def test_cells_of_later_groups_are_those_of_the_first_at_the_same_time_and_place():
    assert lattice_cells([8]).tolist() == [[t, r, c] for t in (0, 1) for r in (0, 1) for c in (0, 1)]
    # 16 queries on 4 x 2 x 2; 4 on 1 x 2 x 2, whose centres are in the middle of the video
    assert lattice_cells([16, 4]).tolist()[16:] == [[2, 0, 0], [2, 0, 1], [2, 1, 0], [2, 1, 1]]


def test_positions_are_those_worked_out_by_hand():
    """Two of padding, 3 of text, a video of 4 tokens on 1 x 2 x 2, 2 of text: positions 3 to 4, then 5."""
    base = build_model("qwen2_vl")
    ids = torch.zeros(1, 11, dtype=torch.long)
    mask = torch.tensor([[0, 0] + [1] * 9])
    is_video = torch.tensor([[0] * 5 + [1] * 4 + [0] * 2])
    cells = torch.tensor([[[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]])
    positions = lay_out_positions(base, ids, is_video, cells, {"attention_mask": mask})
    assert positions[:, 0].tolist() == [
        [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 0, 0, 1, 2, 3, 3, 3, 3, 5, 6],
        [0, 0, 0, 1, 2, 3, 3, 4, 4, 5, 6],
        [0, 0, 0, 1, 2, 3, 4, 3, 4, 5, 6],
    ]
    assert base.base_model.rope_deltas.tolist() == [[7 - 9]]


def test_a_lattice_is_what_the_base_makes_of_a_picture_of_that_grid(family: Wrapped):
    """One group of 8 tokens on 2 x 2 x 2 against a picture with a grid of 2 x 4 x 4 patches, four to a token."""
    if family.name in OTHER_GRIDS:
        pytest.skip(f"{family.name} cannot take such a grid: {OTHER_GRIDS[family.name]}")
    fields = {**LINVT, "num_video_tokens": 8, "scale_mode": "shared", "init": "anchored", "video_positions": "grid"}
    model = stir(LinVTForVideoQA.from_base(family.base, **fields))
    processor = LinVTProcessor.from_base(family.base_folder, num_video_tokens=8)
    inputs = dict(processor.apply_chat_template(user(family.clip(5), QUESTION), **CHAT))
    logits = model(**inputs).logits
    prepared, _ = model.model.prepare(**inputs)
    del prepared["position_ids"]
    family.base.base_model.rope_deltas = None
    as_picture = {"image_grid_thw": torch.tensor([[2, 4, 4]]), "mm_token_type_ids": inputs["video_mask"].long()}
    assert relative_difference(family.base(**{**prepared, **as_picture}).logits, logits) < 1e-5


def test_positions_have_a_say_and_are_those_of_text_only_when_asked_for(family: Wrapped):
    inputs = family.inputs(user(family.clip(5), QUESTION))
    laid_out = family.model(**inputs).logits[0, -1]
    family.model.config.video_positions = "text"
    as_text = family.model(**inputs).logits[0, -1]
    assert relative_difference(laid_out, as_text) > 1e-3
    unasked = wrapped(family.name).model
    assert unasked.config.video_positions == "auto"
    assert relative_difference(unasked(**inputs).logits[0, -1], laid_out) < 1e-6


def prompts(family: Wrapped) -> dict[str, list[list[dict[str, Any]]]]:
    return {
        "a video": [user(family.clip(5), QUESTION)],
        "a batch": [user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION)],
        "a video, a picture": [user(family.clip(5), family.picture(), QUESTION)],
        "a picture, two videos": [user(family.picture(), OTHER_QUESTION, family.clip(4, 2), family.clip(3, 1))],
    }


@pytest.mark.parametrize("what", ["a video", "a batch", "a video, a picture", "a picture, two videos"])
def test_generation_with_and_without_cache_and_by_hand_agree(family: Wrapped, what: str):
    cannot = dict(ALL_BASES[family.name].cannot)
    if family.name == "ernie4_5_vl_moe":
        cannot["generation without a cache"] = "it does not lengthen the type ids that choose the experts (5.23)"
    check_generation(family.model, family.inputs(*prompts(family)[what]), cannot=cannot)


def test_a_row_of_a_batch_is_the_row_alone(family: Wrapped):
    rows = [user(family.clip(5), family.clip(3, 1), QUESTION), user(family.picture(), family.clip(4, 2), "Hi?")]
    check_batch_equals_single(family.model, family.inputs(*rows), [family.inputs(row) for row in rows])


def test_beams_and_an_encoded_video_stand_in_the_grid_too(family: Wrapped):
    rows = prompts(family)["a batch"]
    kwargs = {"max_new_tokens": 3, "min_new_tokens": 3, "num_beams": 3, "do_sample": False}
    batch = family.model.generate(**family.inputs(*rows), **kwargs)
    alone = [family.model.generate(**family.inputs(row), **kwargs) for row in rows]
    assert [batch[row, -3:].tolist() for row in range(2)] == [one[0, -3:].tolist() for one in alone]
    features = family.model.encode_video(**family.processor.video_inputs(family.clip(5)))
    inputs = family.processor.question_inputs([QUESTION])
    direct = family.model(**family.inputs(rows[0])).logits
    encoded = family.model(**inputs, video_features=[features]).logits
    assert relative_difference(encoded, direct) < 1e-5


def test_pictures_and_text_stay_the_bases_own_after_a_video(family: Wrapped):
    family.model(**family.inputs(user(family.clip(5), QUESTION)))
    for prompt in (user(family.picture(), QUESTION), user(QUESTION)):
        check_same_as_base(family.model, build_model(family.name).requires_grad_(False), family.inputs(prompt))


def test_words_after_a_video_are_counted_from_their_own_beginning(family: Wrapped):
    """In two steps with a cache: the base keeps the offset of the last video until it is told to forget it."""
    words = family.inputs(user(QUESTION))
    ids = words["input_ids"]

    def in_two_steps() -> torch.Tensor:
        first = family.model(input_ids=ids[:, :-1], use_cache=True)
        return family.model(input_ids=ids[:, -1:], **{CACHE_NAME: first[CACHE_NAME]}, use_cache=True).logits

    before = in_two_steps()
    family.model(**family.inputs(user(family.clip(5), QUESTION)))
    assert torch.equal(in_two_steps(), before)


def test_linvt_trains_and_the_setting_is_saved(family: Wrapped, tmp_path):
    inputs = family.inputs(*prompts(family)["a batch"])
    check_only_linvt_trains(family.model, inputs)
    family.model.eval().save_pretrained(tmp_path)
    again = check_comes_back(tmp_path, inputs, family.model(**inputs).logits)
    assert again.config.video_positions == "grid"


def test_a_base_with_positions_of_text_alone_refuses_the_grid():
    fields = {**LINVT, "video_positions": "grid"}
    check_refused(
        lambda: LinVTForVideoQA.from_base(build_model("llava_phi"), **fields), LinVTInputError, "llava", "'text'"
    )
    check_refused(
        lambda: LinVTForVideoQA.from_base(build_model("qwen2_vl"), **{**LINVT, "video_positions": "cells"}),
        LinVTInputError,
        "video_positions",
    )
