"""
Frames merged into steps of time as a base's own video path merges them: the very tokens of that path, with its times,
through processor, model, pipeline and files.
"""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from base_specs import ALL_BASES, QUICK
from promises import (
    BY_DEFAULT,
    LINVT,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    base_folder,
    check_batch_equals_single,
    check_comes_back,
    check_generation,
    check_only_linvt_trains,
    check_refused,
    check_tokens_are_averages,
    realigned,
    relative_difference,
    stir,
    user,
    with_room_for_one_frame,
    wrapped,
)
from tiny_bases import model_type_of
from transformers_linvt import LinVTForVideoQA, LinVTInputError, LinVTProcessor
from transformers_linvt.bases import registry
from transformers_linvt.bases.layouts import PatchGrid
from transformers_linvt.bases.registry import bridge_of
from transformers_linvt.bases.visuals import flat_rows


MERGING = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

MORE = ("cohere_compass", "cosmos3_omni", "exaone4_5", "glm46v", "glm4v", "glm4v_moe", "glm5_next", "glm_ocr", "glmga")
MORE += ("hyperclovax_vision_v2", "lfm3_vl", "muse_glimmer", "muse_spark", "qwen2_5_omni_thinker", "qwen3_5")
MORE += ("qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl_moe", "qwen4_exp")


@pytest.fixture(params=[*MERGING, *(pytest.param(name, marks=pytest.mark.bases) for name in MORE)])
def family(request: pytest.FixtureRequest) -> Wrapped:
    """With the frame path that it has by default."""
    plain = wrapped(request.param)
    model = stir(realigned(LinVTForVideoQA.from_base(plain.base_folder, **BY_DEFAULT)))
    fields = {"num_video_tokens": LINVT["num_video_tokens"]}
    return Wrapped(plain.name, model, LinVTProcessor.from_base(plain.base_folder, **fields), plain.base_folder)


@pytest.mark.parametrize("order", ["colour_first", "frame_first"])
def test_patches_of_frames_are_interleaved_as_written_down(order: str):
    """Three frames of one patch of 1 x 1 pixel and 3 colours, two to a step: the last frame twice."""
    frames = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    twice = frames.repeat_interleave(2, dim=1) if order == "colour_first" else frames.repeat(1, 2)
    grid = torch.tensor([[1, 1, 1]] * 3)
    layout = PatchGrid(merges_frames=order)
    merged = layout.merge_frames({"pixel_values": twice, "image_grid_thw": grid}, 2)
    expected = {
        "colour_first": [[1.0, 4.0, 2.0, 5.0, 3.0, 6.0], [7.0, 7.0, 8.0, 8.0, 9.0, 9.0]],
        "frame_first": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 8.0, 9.0, 7.0, 8.0, 9.0]],
    }
    assert merged["pixel_values"].tolist() == expected[order]
    assert merged["image_grid_thw"].tolist() == [[1, 1, 1]] * 2
    twice[0, 0] += 1
    check_refused(
        lambda: layout.merge_frames({"pixel_values": twice, "image_grid_thw": grid}, 2), LinVTInputError, "copies"
    )


@torch.no_grad()
def test_tokens_are_those_of_the_bases_own_video_path(family: Wrapped):
    """get_video_features() on the same patches; the control: not the mean of the two frames as pictures."""
    inputs = family.processor.video_inputs(family.clip(5))
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    (encoded,) = family.model.model.encode_videos(inputs["frames_per_video"].tolist(), frames)
    grid = frames["image_grid_thw"]
    as_video = torch.tensor([[len(grid), *grid[0, 1:].tolist()]])
    native = family.base.base_model.get_video_features(frames["pixel_values"], as_video, return_dict=True)
    assert len(encoded.tokens) == 3
    assert relative_difference(encoded.tokens.flatten(0, 1), flat_rows(native.pooler_output)) < 1e-6
    for layer, its in zip(encoded.deepstack, getattr(native, "deepstack_features", None) or [], strict=True):
        assert relative_difference(layer.flatten(0, 1), flat_rows(its)) < 1e-6
    plain = wrapped(family.name)
    own = plain.processor.video_inputs(family.clip(4))
    pictures = {name.removeprefix("frame_"): value for name, value in own.items() if name.startswith("frame_")}
    (singly,) = plain.model.model.encode_videos([4], pictures)
    assert relative_difference(singly.tokens.unflatten(0, (2, 2)).mean(1), encoded.tokens[:2]) > 0.1


def test_times_of_steps_are_the_middles_of_their_frames_and_the_last_frame_fills_the_last_step(family: Wrapped):
    video = family.clip(5)
    inputs = family.processor.video_inputs(video)
    t = video.timestamps
    expected = [(t[0] + t[1]) / 2, (t[2] + t[3]) / 2, t[4]]
    assert inputs["frames_per_video"].tolist() == [3]
    assert inputs["video_timestamps"].tolist() == pytest.approx(expected)
    steps = family.processor.steps_of(video)
    assert np.array_equal(steps.frames, video.frames[[0, 2, 4]])
    written = family.processor.apply_chat_template(user(video, QUESTION), add_timestamps=True)
    assert f"{expected[0]:.1f}" in written and f"{t[1]:.1f}s" not in written


def test_the_promises_hold_for_steps_of_time(family: Wrapped, tmp_path):
    rows = [user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION)]
    batch, singles = family.inputs(*rows), [family.inputs(row) for row in rows]
    check_tokens_are_averages(family.model, batch)
    check_batch_equals_single(family.model, batch, singles)
    check_generation(family.model, batch, cannot=ALL_BASES[family.name].cannot)
    check_only_linvt_trains(family.model, batch)
    family.model.eval().save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    check_comes_back(tmp_path, batch, family.model(**batch).logits)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.frame_path == "video" and AutoModel.from_pretrained(tmp_path).config.frame_path == "video"
    inputs = again.video_inputs(family.clip(5))
    assert torch.equal(
        inputs["frame_pixel_values"], family.processor.video_inputs(family.clip(5))["frame_pixel_values"]
    )


def test_evidence_of_the_pipeline_is_of_the_steps(family: Wrapped):
    pipe = pipeline("video-question-answering", model=family.model, processor=family.processor, device="cpu")
    video = family.clip(5)
    (result,) = pipe(video=video.frames, question=QUESTION, max_new_tokens=2, return_evidence=True)
    evidence = result["evidence"]
    assert result["frames_seen"] == 5 and evidence.num_frames == 3
    assert evidence.counted_frames == "3 steps of 2 frames" and evidence.to_dict()["frames_per_step"] == 2
    assert "3 steps of 2 frames" in evidence._repr_html_()
    features = pipe.encode(video.frames)
    assert features.counted_frames == "5 frames in 3 steps" and "5 frames in 3 steps" in features._repr_html_()
    assert sum(share.weight for share in evidence.top_frames(3)) == pytest.approx(1.0, abs=1e-5)


def test_by_default_it_is_the_bases_own_video_path(family: Wrapped):
    """As much for the vision tower as that path, and for a base without one every frame as a picture."""
    assert family.model.config.frame_path == family.processor.frame_path == "video"
    inputs = family.processor.video_inputs(family.clip(6))
    grid = inputs["frame_image_grid_thw"]
    assert len(inputs["frame_pixel_values"]) == int(grid.prod(-1).sum()) == 3 * int(grid[0].prod())
    as_pictures = LinVTProcessor.from_base(family.base_folder, num_video_tokens=6, frame_path="image")
    assert len(as_pictures.video_inputs(family.clip(6))["frame_pixel_values"]) == 2 * len(inputs["frame_pixel_values"])
    assert LinVTProcessor(family.processor.base_processor, 6).frame_path == "video"


@torch.no_grad()
def test_a_still_video_of_steps_is_its_picture(family: Wrapped):
    """Such a base makes a picture a step of two equal frames."""
    family = with_room_for_one_frame(family.name)
    assert family.model.config.frame_path == "video"
    frame = family.clip(1)
    still = replace(frame, frames=frame.frames.repeat(5, axis=0), timestamps=np.arange(5.0))
    video, picture = (family.inputs(user(one, QUESTION)) for one in (still, PIL.Image.fromarray(frame.frames[0])))
    assert torch.equal(video["input_ids"], picture["input_ids"])
    logits = [family.model(**inputs).logits[:, -1] for inputs in (video, picture)]
    assert relative_difference(*logits) < 3e-5


@pytest.mark.parametrize("name", [name for name in QUICK if name not in MERGING])
def test_without_such_a_path_every_frame_is_a_picture(name: str):
    folder = base_folder(name)
    assert LinVTForVideoQA.from_base(folder, **BY_DEFAULT).config.frame_path == "image"
    assert LinVTProcessor.from_base(folder, num_video_tokens=6).frame_path == "image"


def test_a_loaded_processor_takes_the_path_that_its_model_takes():
    """Of a processor alone its class is known, and of a model its architecture."""
    whole = {f"{name}_thinker": name for name in ("qwen2_5_omni", "qwen3_omni_moe")}  # the class is the whole model's
    asked = {model_type_of(name) for name in ALL_BASES} & {*PROCESSOR_MAPPING_NAMES, *whole}
    assert len(asked) > 60
    for model_type in asked:
        class_name = PROCESSOR_MAPPING_NAMES[whole.get(model_type, model_type)]
        processor = type(class_name, (), {})()
        assert bridge_of(registry.model_type_of(processor)).frame_path == bridge_of(model_type).frame_path, model_type


def test_one_path_for_model_and_processor_and_only_where_the_base_has_it(family: Wrapped):
    plain = wrapped(family.name)
    check_refused(lambda: plain.processor.check_fits(family.model.config), LinVTInputError, "'image'", "'video'")
    folder = base_folder("llava_phi")
    fields = {"num_video_tokens": 6, "frame_path": "video"}
    check_refused(lambda: LinVTProcessor.from_base(folder, **fields), LinVTInputError, "own video path", "'image'")
    check_refused(
        lambda: LinVTProcessor.from_base(plain.base_folder, frame_path="film"), LinVTInputError, "'film'", "'video'"
    )
