"""
The base's processor: loaded with and without torchvision, its markers, one tile per frame, and clear refusals.

What the package loads without torchvision is compared with the processor that was saved, built by hand in
`tiny_bases`; none of these tests needs torchvision or notices it.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers
from transformers import AutoConfig, ProcessorMixin, processing_utils
from transformers.utils import is_torchvision_available

from base_specs import BASES
from tiny_bases import build_processor, build_tokenizer, save_base
from transformers_linvt.bases import loading as seam
from transformers_linvt.bases.base import BaseBridge
from transformers_linvt.bases.loading import NoVideoProcessor, check_base_processor, load_base_processor
from transformers_linvt.bases.registry import bridge_of, model_type_of
from transformers_linvt.errors import CheckpointError, LinVTInputError, UnsupportedBaseError
from transformers_linvt.model.processing_linvt import LinVTProcessor


FAMILIES = list(BASES)
MODEL_TYPES = {**{name: name for name in FAMILIES}, "llava_phi": "llava"}
# placeholder in the template, repeated token, text before, text behind
MARKERS = {
    "qwen2_vl": ("<|image_pad|>", "<|image_pad|>", "", ""),
    "qwen2_5_vl": ("<|image_pad|>", "<|image_pad|>", "", ""),
    "qwen3_vl": ("<|image_pad|>", "<|image_pad|>", "", ""),
    "internvl": ("<IMG_CONTEXT>", "<IMG_CONTEXT>", "<img>", "</img>"),
    "llava_onevision": ("<image>", "<image>", "", ""),
    "llava_phi": ("<image>", "<image>", "", ""),
    "smolvlm": ("<image>", "<image>", "<fake_token_around_image><global-img>", "<fake_token_around_image>"),
    "gemma3": ("<start_of_image>", "<image_soft_token>", "\n\n<start_of_image>", "<end_of_image>\n\n"),
    "molmo2": ("<|image|>", "<im_patch>", "<low_res_im_start>", "<im_col><im_end>"),
}
without_torchvision = pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed here")


def frames(count: int, seed: int = 0, size: tuple[int, int] = (48, 80)) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


def bridge(name: str) -> BaseBridge:
    return bridge_of(MODEL_TYPES[name])


def same(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(value)), key


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["new", "old"])
def test_a_processor_is_loaded_from_its_folder(name: str, layout: str, tmp_path: Path):
    """Also from the older layout, which has the image processor's settings alone and no class of the processor."""
    expected = build_processor(name)
    folder = save_base(name, tmp_path)
    if layout == "old":
        settings = json.loads((folder / "processor_config.json").read_text())
        if len(settings.keys() - {"image_processor", "video_processor", "processor_class"}) > 0:
            own = {key: value for key, value in settings.items() if not key.endswith("_processor")}
            (folder / "processor_config.json").write_text(json.dumps(own))
        else:
            (folder / "processor_config.json").unlink()
        (folder / "preprocessor_config.json").write_text(json.dumps(settings["image_processor"]))
        if "video_processor" in settings:
            (folder / "video_preprocessor_config.json").write_text(json.dumps(settings["video_processor"]))
    loaded = load_base_processor(str(folder))
    assert type(loaded) is type(expected)
    assert loaded.chat_template == expected.chat_template
    token, picture = expected.image_token, PIL.Image.fromarray(frames(1)[0])
    call = {"text": [f"What is {token} in the video?"], "images": [[picture]], "return_tensors": "pt"}
    same(loaded(**call), expected(**call))


@without_torchvision
@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_settings_of_the_video_processor_are_kept_for_a_machine_that_can_use_them(name: str, tmp_path: Path):
    loaded = load_base_processor(str(save_base(name, tmp_path / "base")))
    loaded.save_pretrained(tmp_path / "again")
    before, after = (json.loads((tmp_path / one / "processor_config.json").read_text()) for one in ("base", "again"))
    assert before == after
    assert after["video_processor"]["video_processor_type"] == BASES[name].video_processor["video_processor_type"]


@without_torchvision
def test_the_videos_own_processor_refuses_with_the_way_out():
    stand_in = NoVideoProcessor({"num_frames": 7, "video_processor_type": "SmolVLMVideoProcessor"})
    assert (stand_in.num_frames, stand_in.fps) == (7, None)
    for again in (stand_in, copy.deepcopy(stand_in), pickle.loads(pickle.dumps(stand_in))):
        assert again.to_dict() == {"num_frames": 7, "video_processor_type": "SmolVLMVideoProcessor"}
        with pytest.raises(LinVTInputError, match="needs torchvision, which is not installed. Pass the video to"):
            again.preprocess([])


@without_torchvision
def test_names_lent_to_transformers_are_taken_back(tmp_path: Path):
    load_base_processor(str(save_base("qwen2_vl", tmp_path)))
    assert not hasattr(processing_utils.transformers_module, "VideoProcessorMixin")


@without_torchvision
def test_molmo2_says_that_it_needs_torchvision(tmp_path: Path):
    """Its image processor exists for torchvision only; the tiny one of the tests is renamed to the real one."""
    folder = save_base("molmo2", tmp_path)
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace("Molmo2NumpyImageProcessor", "Molmo2ImageProcessor"))
    with pytest.raises(UnsupportedBaseError, match="[Tt]orchvision"):
        load_base_processor(str(folder))


@without_torchvision
def test_with_torchvision_the_processor_is_loaded_the_usual_way(monkeypatch, tmp_path: Path):
    """A folder of ours names the base's class beside ours, and that one is loaded, not ours again."""
    calls = []
    monkeypatch.setattr(seam, "is_torchvision_available", lambda: True)
    folder = save_base("llava_phi", tmp_path)
    monkeypatch.setattr(
        seam.AutoProcessor, "from_pretrained", lambda *args, **kwargs: calls.append(args) or build_processor("gemma3")
    )
    assert type(load_base_processor(str(folder))).__name__ == "Gemma3Processor"
    settings = json.loads((folder / "processor_config.json").read_text())
    settings = {**settings, "processor_class": "LinVTProcessor", "base_processor_class": "LlavaProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    assert type(load_base_processor(str(folder), backend="pil")).__name__ == "LlavaProcessor"
    assert len(calls) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Refusals
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/no/such/folder", "./nothing/here", "no-such/repository", "no-such"])
def test_where_nothing_is_is_an_error_that_names_it(where: str):
    with pytest.raises(CheckpointError, match=where):
        load_base_processor(where)


def test_an_empty_folder_and_a_text_model_are_refused(tmp_path: Path):
    with pytest.raises((CheckpointError, UnsupportedBaseError), match=str(tmp_path)):
        load_base_processor(str(tmp_path))
    AutoConfig.for_model("qwen2", hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    build_tokenizer("qwen2_vl").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBaseError, match="image-text model"):
        load_base_processor(str(tmp_path))


@pytest.mark.parametrize("file", ["tokenizer.json", "processor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", ["llava_phi", "qwen2_vl"])
def test_damaged_files_are_an_error_of_ours(name: str, file: str, tmp_path: Path):
    folder = save_base(name, tmp_path)
    (folder / file).write_text('{"a": ')
    with pytest.raises((CheckpointError, UnsupportedBaseError), match=str(tmp_path)):
        load_base_processor(str(folder))


@pytest.mark.parametrize("name", ["llava_phi", "qwen2_vl"])
def test_a_missing_tokenizer_is_an_error_of_ours(name: str, tmp_path: Path):
    folder = save_base(name, tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises((CheckpointError, UnsupportedBaseError), match=str(tmp_path)):
        load_base_processor(str(folder))


def test_a_class_that_this_transformers_does_not_have_is_named(tmp_path: Path):
    folder = save_base("llava_phi", tmp_path)
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**settings, "base_processor_class": "Llava9Processor"}))
    with pytest.raises(UnsupportedBaseError, match=f"Llava9Processor, which transformers {transformers.__version__}"):
        load_base_processor(str(folder))


def test_a_missing_package_is_named(monkeypatch, tmp_path: Path):
    folder = save_base("smolvlm", tmp_path)
    monkeypatch.setattr(transformers.models.smolvlm.processing_smolvlm, "num2words", None)
    with pytest.raises(UnsupportedBaseError, match="num2words"):
        load_base_processor(str(folder))


@pytest.mark.parametrize("missing", ["tokenizer", "image_processor"])
def test_a_processor_without_one_of_its_parts_is_refused(missing: str):
    processor = build_processor("llava_phi")
    setattr(processor, missing, None)
    with pytest.raises(UnsupportedBaseError, match=f"LlavaProcessor has no {missing}. LinVT needs"):
        check_base_processor(processor)


def test_a_processor_that_does_not_say_how_it_writes_a_picture_is_refused(monkeypatch):
    processor = build_processor("llava_phi")
    monkeypatch.setattr(type(processor), "replace_image_token", ProcessorMixin.replace_image_token)
    with pytest.raises(UnsupportedBaseError, match="LlavaProcessor does not say how it writes a picture"):
        bridge("llava_phi").markers(processor)
    processor = build_processor("llava_phi")
    processor.image_token = None
    with pytest.raises(UnsupportedBaseError, match="a video has no place there"):
        bridge("llava_phi").markers(processor)


# ---------------------------------------------------------------------------------------------------------------------
# Markers, frames, pictures
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_markers_are_those_of_the_family(name: str):
    processor = build_processor(name)
    markers = bridge(name).markers(processor)
    assert (markers.placeholder, markers.token, markers.before, markers.after) == MARKERS[name]
    assert processor.tokenizer.convert_tokens_to_ids(markers.token) == markers.token_id
    assert markers.video(3) == MARKERS[name][2] + 3 * MARKERS[name][1] + MARKERS[name][3]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_type_is_read_off_the_class_and_its_parents(name: str):
    processor = build_processor(name)
    assert model_type_of(processor) == MODEL_TYPES[name]
    processor.__class__ = type("MyProcessor", (type(processor),), {})
    assert model_type_of(processor) == MODEL_TYPES[name]
    assert model_type_of(NoVideoProcessor()) == ""


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("count", [1, 4])
def test_frames_are_one_tile_each_in_their_order(name: str, count: int):
    """As many tokens as the family has per frame: the text that the base would write for the same frames says so."""
    processor, ours = build_processor(name), bridge(name)
    made = ours.frame_inputs(processor, frames(count))
    tokens = [processor.replace_image_token(made, image_idx=index).count(MARKERS[name][1]) for index in range(count)]
    assert tokens == [BASES[name].tokens_per_frame] * count
    first = ours.frame_inputs(processor, frames(count)[:1])
    assert torch.equal(made["pixel_values"][: len(first["pixel_values"])], first["pixel_values"])


@pytest.mark.parametrize("name", FAMILIES)
def test_options_do_not_undo_the_one_tile(name: str):
    processor, ours = build_processor(name), bridge(name)
    splitting = {"do_image_splitting": True, "crop_to_patches": True, "do_pan_and_scan": True, "max_crops": 4}
    options = {key: value for key, value in splitting.items() if key in ours.family.one_tile}
    same(ours.frame_inputs(processor, frames(2), options), ours.frame_inputs(processor, frames(2)))


def test_options_reach_the_image_processor():
    processor = build_processor("llava_phi")
    made = bridge("llava_phi").frame_inputs(processor, frames(2), {"do_normalize": False})
    assert made["pixel_values"].min() >= 0


@pytest.mark.parametrize("name", FAMILIES)
def test_pictures_beside_videos_are_written_as_the_base_writes_them(name: str):
    """Prompts with one and with two pictures: LLaVA-OneVision splits a lone picture and not one of several."""
    processor = build_processor(name)
    rows = [[PIL.Image.fromarray(frames(1)[0])], [PIL.Image.fromarray(one) for one in frames(2, 1, (40, 60))]]
    made, written = bridge(name).picture_inputs(processor, rows, {})
    token = processor.image_token
    text = [f"a {token} b", f"c {token} d {token} e"]
    theirs = processor(text=text, images=rows, padding=True, return_tensors="pt")
    pieces = [f"a {written[0]} b", f"c {written[1]} d {written[2]} e"]
    if bridge(name).family.begins_with_bos:
        pieces = [processor.tokenizer.bos_token + piece for piece in pieces]
    assert torch.equal(
        processor.tokenizer(pieces, padding=True, return_tensors="pt")["input_ids"], theirs["input_ids"]
    )
    same(made, {key: value for key, value in theirs.items() if key.startswith(("pixel", "image", "batch"))})
    assert bridge(name).picture_inputs(processor, [], {}) == ({}, [])


def test_a_base_without_a_padding_token_does_single_prompts_and_says_so_of_several():
    processor = copy.deepcopy(build_processor("llava"))
    processor.tokenizer.pad_token = None
    wrapped = LinVTProcessor.from_base(processor, num_video_tokens=5)
    picture = {"type": "image", "image": PIL.Image.new("RGB", (30, 20))}
    clip = {"type": "video", "video": np.zeros((2, 20, 30, 3), dtype=np.uint8), "fps": 1.0}
    chats = [
        [{"role": "user", "content": [clip, picture, {"type": "text", "text": words}]}]
        for words in ("What is it?", "And what is this thing here?")
    ]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    assert len(wrapped.apply_chat_template(chats[0], **options)["input_ids"]) == 1
    with pytest.raises(LinVTInputError, match="pad"):
        wrapped.apply_chat_template(chats, **options)
