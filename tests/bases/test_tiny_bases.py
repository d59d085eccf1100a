"""The tiny bases are fit to test with: they read pictures, the pictures move the answer, and they save and load.

What the rest of the suite takes for granted about the nine families is proved here on the bases alone, without LinVT:
the shapes that one tile per frame gives, the order of the feature rows, the containers, the type ids that matter, and
what happens to a processor on a machine without torchvision.
"""

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.utils import is_torchvision_available

from base_specs import BASES
from tiny_bases import Molmo2NumpyImageProcessor, build, build_model, build_processor, build_tokenizer, save_base
from transformers_linvt.bases.loading import NoVideoProcessor, load_base_processor
from transformers_linvt.errors import LinVTInputError


FAMILIES = sorted(BASES)
# The shapes of three frames of 48 x 80 pixels, and of the features of the first, worked out by hand from the configs.
FRAME_SHAPES = {
    "qwen2_vl": {"pixel_values": (3 * 6 * 10, 3 * 2 * 8 * 8), "image_grid_thw": (3, 3)},
    "qwen2_5_vl": {"pixel_values": (3 * 6 * 10, 3 * 2 * 8 * 8), "image_grid_thw": (3, 3)},
    "qwen3_vl": {"pixel_values": (3 * 6 * 10, 3 * 2 * 8 * 8), "image_grid_thw": (3, 3)},
    "internvl": {"pixel_values": (3, 3, 32, 32), "num_patches": (3,)},
    "llava_onevision": {"pixel_values": (3, 1, 3, 32, 32), "image_sizes": (3, 2), "batch_num_images": (1,)},
    "llava_phi": {"pixel_values": (3, 3, 30, 30)},
    "smolvlm": {"pixel_values": (3, 1, 3, 48, 48), "pixel_attention_mask": (3, 1, 48, 48)},
    "gemma3": {"pixel_values": (3, 3, 32, 32), "num_crops": (3,)},
    # Two views (global and one crop) of 4 x 4 patches for each frame, 2 x 2 tokens for each view.
    "molmo2": {
        "pixel_values": (3 * 2, 4 * 4, 3 * 8 * 8),
        "image_token_pooling": (3 * 2 * 2 * 2, 4),
        "image_grids": (3, 4),
        "image_num_crops": (3,),
    },
}
CONTAINERS = {
    "qwen2_vl": tuple,
    "qwen2_5_vl": tuple,
    "qwen3_vl": tuple,
    "internvl": torch.Tensor,
    "llava_onevision": list,
    "llava_phi": list,
    "smolvlm": list,
    "gemma3": torch.Tensor,
    "molmo2": tuple,
}
QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]


def make_pictures(num: int, size: tuple[int, int], seed: int = 0) -> list[PIL.Image.Image]:
    """`num` pictures of coarse noise, `size` = (height, width)."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, 256, (num, height // 8, width // 8, 3), dtype=np.uint8)
    return [PIL.Image.fromarray(np.repeat(np.repeat(picture, 8, axis=0), 8, axis=1)) for picture in coarse]


def nest(frames: list[Any], nesting: str) -> list[Any]:
    """The frames of one video in the form the image processor wants them."""
    return {"flat": frames, "per_video": [frames], "per_frame": [[frame] for frame in frames]}[nesting]


def features(model: PreTrainedModel, inputs: dict[str, Any]) -> Any:
    """`get_image_features` of the backbone with those of `inputs` that it takes."""
    get_image_features = model.base_model.get_image_features
    names = inspect.signature(get_image_features).parameters
    with torch.no_grad():
        return get_image_features(**{name: value for name, value in inputs.items() if name in names}, return_dict=True)


def rows(pooler_output: Any) -> torch.Tensor:
    """All feature rows of a container: (rows, D)."""
    return pooler_output.flatten(0, 1) if torch.is_tensor(pooler_output) else torch.cat(list(pooler_output))


def picture_inputs(processor: ProcessorMixin, picture: PIL.Image.Image) -> Any:
    """One question about one picture, as the processor prepares it."""
    text = processor.apply_chat_template(QUESTION, add_generation_prompt=True)
    return processor(text=[text], images=[picture], return_tensors="pt")


@functools.cache
def saved_base(name: str, directory: Path) -> Path:
    """Each base is saved once for all tests of the session."""
    return save_base(name, directory / name)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


# ----------------------------------------------------------------------------------------------------------- models


@pytest.mark.parametrize("name", FAMILIES)
def test_another_picture_gives_other_finite_logits(name: str) -> None:
    model, processor = build(name)
    logits = []
    for picture in make_pictures(2, BASES[name].frame_size):
        with torch.no_grad():
            output = model(**picture_inputs(processor, picture)).logits
        assert torch.isfinite(output).all()
        logits.append(output[0, -1])
    change = (logits[0] - logits[1]).norm() / logits[0].norm()
    assert change > 1e-2, f"{name}: a relative change of {change:.1e}"


@pytest.mark.parametrize("name", FAMILIES)
def test_there_are_as_many_placeholders_as_feature_rows(name: str) -> None:
    model, processor = build(name)
    inputs = picture_inputs(processor, make_pictures(1, BASES[name].frame_size)[0])
    num_placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    assert num_placeholders == rows(features(model, inputs).pooler_output).shape[0] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_is_the_same_with_and_without_a_cache_and_writes_no_placeholder(name: str) -> None:
    model, processor = build(name)
    inputs = picture_inputs(processor, make_pictures(1, BASES[name].frame_size)[0])
    arguments = {"max_new_tokens": 5, "do_sample": False}
    cached = model.generate(**inputs, **arguments)[:, inputs["input_ids"].shape[1] :]
    uncached = model.generate(**inputs, **arguments, use_cache=False)[:, inputs["input_ids"].shape[1] :]
    assert 1 <= cached.shape[1] <= 5
    assert torch.equal(cached, uncached)
    assert not (cached == model.config.image_token_id).any()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_always_gives_the_same_model_and_a_change_to_it_does_not_reach_the_next_one(name: str) -> None:
    first = build_model(name)
    before = {key: value.clone() for key, value in first.state_dict().items()}
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    again, other = build_model(name), build_model(name, seed=1)
    assert not again.training and {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    for key, value in again.state_dict().items():
        assert torch.equal(value, before[key])
    assert not torch.equal(again.get_output_embeddings().weight, other.get_output_embeddings().weight)


def test_the_hidden_sizes_of_the_families_all_differ() -> None:
    sizes = [build_model(name).config.get_text_config().hidden_size for name in FAMILIES]
    assert len(set(sizes)) == len(sizes) and max(sizes) <= 64


@pytest.mark.parametrize("name", FAMILIES)
def test_no_weight_matrix_is_zero_or_negligible(name: str) -> None:
    for key, parameter in build_model(name).named_parameters():
        assert parameter.std() > 0.05 or parameter.numel() < 4, f"{name}: {key}"


@pytest.mark.parametrize("name", ["gemma3", "molmo2"])
def test_the_type_ids_of_bidirectional_families_change_the_logits(name: str) -> None:
    model, processor = build(name)
    inputs = picture_inputs(processor, make_pictures(1, BASES[name].frame_size)[0])
    type_ids = BASES[name].type_ids
    assert inputs[type_ids].sum() >= BASES[name].tokens_per_frame
    with torch.no_grad():
        right = model(**inputs).logits[0, -1]
        wrong = model(**{**inputs, type_ids: torch.zeros_like(inputs[type_ids])}).logits[0, -1]
    assert (right - wrong).norm() / right.norm() > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_the_type_ids_named_in_the_data_are_those_of_processor_and_model(name: str) -> None:
    model, processor = build(name)
    inputs = picture_inputs(processor, make_pictures(1, BASES[name].frame_size)[0])
    given = {key for key in inputs if key.endswith("token_type_ids")}
    taken = {key for key in inspect.signature(model.forward).parameters if key.endswith("token_type_ids")}
    expected = {BASES[name].type_ids} - {None}
    assert given == expected and taken == expected


# ----------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("name", FAMILIES)
def test_three_frames_give_one_tile_each(name: str) -> None:
    model, processor = build(name)
    spec = BASES[name]
    frames = make_pictures(3, spec.frame_size)
    inputs = processor.image_processor(nest(frames, spec.frame_nesting), return_tensors="pt", **spec.one_tile)
    assert {key: tuple(value.shape) for key, value in inputs.items() if torch.is_tensor(value)} == FRAME_SHAPES[name]
    output = features(model, inputs)
    assert isinstance(output.pooler_output, CONTAINERS[name])
    assert len(output.pooler_output) == 3
    hidden = model.config.get_text_config().hidden_size
    views = 2 if name == "molmo2" else 1  # and its crop
    assert [tuple(frame.shape) for frame in output.pooler_output] == [(views * spec.tokens_per_frame, hidden)] * 3


@pytest.mark.parametrize("name", FAMILIES)
def test_frames_encoded_together_equal_frames_encoded_two_at_a_time(name: str) -> None:
    model, processor = build(name)
    spec = BASES[name]
    frames = make_pictures(4, spec.frame_size)

    def encode(part: list[PIL.Image.Image]) -> torch.Tensor:
        inputs = processor.image_processor(nest(part, spec.frame_nesting), return_tensors="pt", **spec.one_tile)
        return rows(features(model, inputs).pooler_output)

    torch.testing.assert_close(encode(frames), torch.cat([encode(frames[:2]), encode(frames[2:])]))


@pytest.mark.parametrize("name", FAMILIES)
def test_arrays_and_pictures_give_the_same_frames(name: str) -> None:
    processor = build_processor(name)
    spec = BASES[name]
    pictures = make_pictures(3, spec.frame_size)
    arrays = [np.asarray(picture) for picture in pictures]
    one = processor.image_processor(nest(pictures, spec.frame_nesting), return_tensors="pt", **spec.one_tile)
    two = processor.image_processor(nest(arrays, spec.frame_nesting), return_tensors="pt", **spec.one_tile)
    for key in FRAME_SHAPES[name]:
        assert torch.equal(one[key], two[key])


@pytest.mark.parametrize("name", FAMILIES)
def test_feature_rows_run_along_the_rows_of_the_frame(name: str) -> None:
    """A spot of light in one tile moves the feature of that tile most, once no tile sees another."""
    model, processor = build(name)
    spec = BASES[name]
    for key, parameter in model.base_model.named_parameters():
        in_vision = not any(part in key for part in ("language_model", "text_model", "multi_modal_projector"))
        if in_vision and any(part in key for part in ("out_proj", "attn.proj", "o_proj", "projection_layer")):
            parameter.data.zero_()
    # LLaVA-OneVision pads a frame to a square; only a square frame covers the whole grid.
    height, width = (48, 48) if name == "llava_onevision" else spec.frame_size
    num_rows, num_columns = spec.token_grid

    def encode(frame: np.ndarray) -> torch.Tensor:
        inputs = processor.image_processor(
            nest([frame, frame], spec.frame_nesting), return_tensors="pt", **spec.one_tile
        )
        return features(model, inputs).pooler_output[0]

    dark = np.full((height, width, 3), 90, dtype=np.uint8)
    for row, column in [(0, num_columns - 1), (num_rows - 1, 0), (1, 0)]:
        lit = dark.copy()
        y, x = int((row + 0.5) * height / num_rows), int((column + 0.5) * width / num_columns)
        lit[y - 2 : y + 3, x - 2 : x + 3] = 255
        moved = (encode(lit) - encode(dark)).norm(dim=-1)[: num_rows * num_columns]
        assert int(moved.argmax()) == row * num_columns + column


def test_deepstack_features_have_the_rows_of_the_features() -> None:
    model, processor = build("qwen3_vl")
    inputs = processor.image_processor(make_pictures(3, (48, 80)), return_tensors="pt")
    output = features(model, inputs)
    assert len(output.deepstack_features) == 2
    for layer in output.deepstack_features:
        assert [tuple(frame.shape) for frame in layer] == [(15, 56)] * 3


def test_the_last_row_of_a_llava_onevision_frame_is_the_newline() -> None:
    model, processor = build("llava_onevision")
    inputs = processor.image_processor([make_pictures(3, (48, 80))], return_tensors="pt")
    for frame in features(model, inputs).pooler_output:
        assert torch.equal(frame[-1], model.base_model.image_newline)


def test_a_single_llava_onevision_frame_is_one_tile_when_the_model_is_told_of_two() -> None:
    model, processor = build("llava_onevision")
    frame, other = make_pictures(2, (48, 80))
    alone = processor.image_processor([[frame]], return_tensors="pt")
    assert alone["pixel_values"].shape[1] == 5  # the frame and 2 x 2 tiles of it: not what a video wants
    pair = processor.image_processor([[frame, other]], return_tensors="pt")
    together = features(model, pair).pooler_output[0]
    first = {"pixel_values": pair["pixel_values"][:1], "image_sizes": pair["image_sizes"][:1]}
    single = features(model, {**first, "batch_num_images": torch.tensor([2])}).pooler_output
    assert len(single) == 1
    torch.testing.assert_close(single[0], together)


# ------------------------------------------------------------------------------------------------- text and messages


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokenizer_reads_any_text_and_knows_its_special_tokens(name: str) -> None:
    tokenizer = build_tokenizer(name)
    text = "Où est la 赤い balle, at 0:07?\n\tÉ"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    spec = BASES[name]
    tokens = [*spec.named_tokens.values(), *spec.tokenizer_attributes.values(), *spec.special_tokens]
    for token in [*tokens, *spec.additional_tokens]:
        assert len(tokenizer(token, add_special_tokens=False).input_ids) == 1
    for attribute, token in {**spec.named_tokens, **spec.tokenizer_attributes}.items():
        assert getattr(tokenizer, attribute) == token
        assert getattr(tokenizer, f"{attribute}_id") == tokenizer.get_vocab()[token]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_padded_on_the_left(name: str) -> None:
    batch = build_processor(name)(text=["Yes.", "What colour is the ball?"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][0, 0] == 0 and batch["attention_mask"][:, -1].tolist() == [1, 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_content_as_a_string_and_as_a_list_render_alike(name: str) -> None:
    processor = build_processor(name)
    text = [{"role": "user", "content": "What is it?"}]
    items = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]}]
    rendered = processor.apply_chat_template(text, add_generation_prompt=True)
    assert rendered == processor.apply_chat_template(items, add_generation_prompt=True)
    assert rendered.startswith(processor.apply_chat_template(text, add_generation_prompt=False))


# Two pictures, an answer and a second question without a picture.
CONVERSATION = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}, {"type": "image"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Yes."}]},
    {"role": "user", "content": "Where?"},
]
QWEN_CONVERSATION = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?"
    "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
)
RENDERED = {
    "qwen2_vl": QWEN_CONVERSATION,
    "qwen2_5_vl": QWEN_CONVERSATION,
    "qwen3_vl": QWEN_CONVERSATION,
    "internvl": (
        "<|im_start|>user\n<IMG_CONTEXT>\nWhat?<IMG_CONTEXT>\n<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llava_onevision": (
        "<|im_start|>user <image><image>\nWhat?<|im_end|>"
        "<|im_start|>assistant \nYes.<|im_end|><|im_start|>user \nWhere?<|im_end|><|im_start|>assistant\n"
    ),
    "llava_phi": (
        "A chat between a curious user and an artificial intelligence assistant. "
        "USER: <image>\n<image>\nWhat? ASSISTANT: Yes.<|endoftext|>USER: Where? ASSISTANT:"
    ),
    "smolvlm": (
        "<|im_start|>User:<image>What?<image><end_of_utterance>\n"
        "Assistant: Yes.<end_of_utterance>\nUser: Where?<end_of_utterance>\nAssistant:"
    ),
    "gemma3": (
        "<bos><start_of_turn>user\n<start_of_image>What?<start_of_image><end_of_turn>\n"
        "<start_of_turn>model\nYes.<end_of_turn>\n<start_of_turn>user\nWhere?<end_of_turn>\n<start_of_turn>model\n"
    ),
    "molmo2": (
        "<|im_start|>user\n<|image|><|image|>What?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_of_three_turns_renders_as_the_family_writes_it(name: str) -> None:
    assert build_processor(name).apply_chat_template(CONVERSATION, add_generation_prompt=True) == RENDERED[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_one_call_goes_from_messages_to_tensors(name: str) -> None:
    model, processor = build(name)
    picture = make_pictures(1, BASES[name].frame_size)[0]
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    expected = picture_inputs(processor, picture)
    if name == "gemma3":  # here the prompt is tokenised with the <bos> of the template alone
        expected["input_ids"] = inputs["input_ids"]
        assert (inputs["input_ids"] == processor.tokenizer.bos_token_id).sum() == 1
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


# -------------------------------------------------------------------------------------------------- save and load


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_loads_with_equal_weights(name: str, directory: Path) -> None:
    loaded = AutoModelForImageTextToText.from_pretrained(saved_base(name, directory)).state_dict()
    model = build_model(name).state_dict()
    assert loaded.keys() == model.keys()
    assert all(torch.equal(loaded[key], model[key]) for key in model)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_processor_loads_without_torchvision_and_does_the_same(
    name: str, directory: Path, tmp_path: Path
) -> None:
    source = saved_base(name, directory)
    processor, loaded = build_processor(name), load_base_processor(str(source))
    assert type(loaded) is type(processor) and loaded.chat_template == processor.chat_template
    picture = make_pictures(1, BASES[name].frame_size)[0]
    expected, found = picture_inputs(processor, picture), picture_inputs(loaded, picture)
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    # Saving it again loses nothing, the settings of the missing video processor included.
    loaded.save_pretrained(tmp_path)
    read = [json.loads((path / "processor_config.json").read_text()) for path in (source, tmp_path)]
    assert read[0] == read[1]


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "llava_onevision", "smolvlm"])
def test_a_processor_with_the_older_files_loads_without_torchvision(name: str, tmp_path: Path) -> None:
    """Many repositories hold a preprocessor_config.json and no processor_config.json."""
    save_base(name, tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").unlink()
    older = {**settings["image_processor"], "processor_class": settings["processor_class"]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(older))
    loaded = load_base_processor(str(tmp_path))
    assert type(loaded).__name__ == BASES[name].processor_class
    assert loaded.image_processor.to_dict() == build_processor(name).image_processor.to_dict()


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "llava_onevision", "smolvlm"])
def test_auto_processor_needs_torchvision_for_a_family_with_a_video_processor(name: str, directory: Path) -> None:
    """When this fails, transformers no longer needs our loading and it can go."""
    with pytest.raises(ImportError, match="VideoProcessor requires the Torchvision library"):
        AutoProcessor.from_pretrained(saved_base(name, directory))


def test_the_stand_in_for_a_video_processor_says_what_is_missing() -> None:
    processor = build_processor("qwen2_vl")
    assert isinstance(processor.video_processor, NoVideoProcessor)
    with pytest.raises(LinVTInputError, match="torchvision"):
        processor.video_processor(np.zeros((2, 48, 80, 3), dtype=np.uint8))


# -------------------------------------------------------------------------------------------- Molmo2's stand-in


def test_molmo2_pooling_windows_of_one_view_are_the_patches_worked_out_by_hand() -> None:
    processor = Molmo2NumpyImageProcessor(
        size={"height": 32, "width": 32}, patch_size=8, overlap_margins=(1, 1), max_crops=1
    )
    output = processor([np.zeros((48, 80, 3), np.uint8)] * 2, return_tensors="np")
    # 4 x 4 patches, numbered along the rows; windows of 2 x 2. The crop comes 16 later, the second picture 32.
    view = np.array([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])
    expected = np.concatenate([view, view + 16, view + 32, view + 48])
    assert np.array_equal(output["image_token_pooling"], expected)
    assert output["image_grids"].tolist() == [[2, 2, 2, 2], [2, 2, 2, 2]]
    assert output["image_num_crops"].tolist() == [2, 2]


def test_molmo2_crops_overlap_and_cover_each_patch_of_the_picture_once() -> None:
    processor = Molmo2NumpyImageProcessor(
        size={"height": 32, "width": 32}, patch_size=8, overlap_margins=(1, 1), max_crops=4
    )
    # A margin of 2 patches leaves windows of 16 pixels: (48 - 16) / 16 = 2 rows and (32 - 16) / 16 = 1 column.
    picture = np.repeat(np.arange(48, dtype=np.uint8)[:, None, None], 32, axis=1).repeat(3, axis=2)
    output = processor(picture, return_tensors="np")
    assert output["image_num_crops"].tolist() == [3] and output["image_grids"].tolist() == [[2, 2, 3, 2]]
    crops = output["image_token_pooling"][4:]
    # The canvas has 6 x 4 patches, each pooled once; the last row of the first crop and the first of the second go.
    assert sorted(crops.flatten().tolist()) == [*range(16, 16 + 12), *range(32 + 4, 32 + 16)]
    # The second crop begins 16 pixels below the first, and no pixel was interpolated.
    top = output["pixel_values"][1:, 0].reshape(2, 8, 8, 3)[:, :, 0, 0]
    assert np.allclose((top * 0.5 + 0.5) * 255, [np.arange(8), 16 + np.arange(8)], atol=1e-3)


def test_molmo2_honours_the_limit_of_crops() -> None:
    processor = build_processor("molmo2").image_processor
    counts = [
        int(processor(make_pictures(1, (96, 160)), max_crops=limit)["image_num_crops"][0]) for limit in (1, 2, 4, 6)
    ]
    assert counts == [2, 3, 5, 7]


def test_a_padded_pooling_window_is_marked_with_minus_one() -> None:
    processor = Molmo2NumpyImageProcessor(
        size={"height": 40, "width": 40}, patch_size=8, overlap_margins=(1, 1), max_crops=1
    )
    # 5 patches a side need 3 windows of 2; the missing column and row are added after the last.
    output = processor(np.zeros((40, 40, 3), np.uint8), return_tensors="np")
    assert output["image_grids"].tolist() == [[3, 3, 3, 3]]
    assert output["image_token_pooling"][2].tolist() == [4, -1, 9, -1]
    assert output["image_token_pooling"][8].tolist() == [24, -1, -1, -1]
