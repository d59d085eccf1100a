"""
Rows and columns of a frame's tokens are those of the picture that the base's image processor made, for every base and
for frames of odd sizes. Nothing fails when they are wrong: evidence and the scorer's places would be sheared.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from base_specs import ALL_BASES, QUICK
from promises import Wrapped, wrapped
from tiny_bases import build_model, build_processor, model_type_of
from transformers_linvt.bases.layouts import EncodedFrames
from transformers_linvt.bases.registry import bridge_of


MENDED = ("molmo2", "lighton_ocr", "emu3")  # which were laid out as the nearest square once
OTHERS = [pytest.param(name, marks=pytest.mark.bases) for name in ALL_BASES if name not in (*QUICK, *MENDED)]
SIZES = [(480, 640), (270, 480), (240, 426), (288, 352), (1, 1), (900, 2)]

# The sides of what one token stands for, in the unit of what the image processor says, where the specification's own
# frame does not tell; whether a part of one at the end counts; and columns for the ends of the lines.
ROUNDING = {
    "emu3": (8, False, 1),
    "hunyuan_vl": (2, False, 1),
    "lfm2_vl": (2, True, 0),
    "lighton_ocr": (16, False, 0),
}
SAID = ("image_grid_thw", "image_grid_hw", "target_sizes", "spatial_shapes", "num_patches", "image_sizes")
TILED = ("granite4_vision", "llava_next", "llava_next_video", "llava_onevision")  # `image_sizes` are of the file there


@pytest.fixture(params=[*dict.fromkeys([*QUICK, *MENDED]), *OTHERS])
def name(request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]) -> str:
    record_property("base", request.param)  # tests/support/bases_table.py reads it
    if missing := [package for package in ALL_BASES[request.param].needs if find_spec(package) is None]:
        pytest.skip(f"{request.param} needs {', '.join(missing)}: make test-bases installs it")
    return request.param


def said(name: str, inputs: Mapping[str, Any]) -> tuple[int, int] | None:
    """What the image processor says of the picture it made of a frame; None where all are of one size."""
    if "image_grids" in inputs:  # Molmo2
        return tuple(inputs["image_grids"][0, :2].tolist())
    if "image_position_ids" in inputs:  # Gemma 4: (x, y) of every patch
        width, height = (inputs["image_position_ids"][0].amax(0) + 1).tolist()
        return height, width
    if name in TILED:
        return None
    found = next((one for one in SAID if one in inputs), None)
    return None if found is None else tuple(torch.as_tensor(inputs[found])[0, -2:].tolist())


def encode(name: str, frames: list[np.ndarray], parts: tuple[Any, Any]) -> tuple[EncodedFrames, Mapping[str, Any]]:
    bridge, (base, processor) = bridge_of(model_type_of(name)), parts
    names = bridge.frame_input_names(processor)
    inputs = {one: torch.as_tensor(v) for one, v in bridge.frame_inputs(processor, frames).items() if one in names}
    with torch.no_grad():
        return bridge.encode_frames(base, inputs, len(frames), 2), inputs


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_rows_and_columns_are_those_of_the_picture_that_the_image_processor_made(name: str):
    spec, parts = ALL_BASES[name], (build_model(name), build_processor(name))
    usual, inputs = encode(name, [noise(spec.frame_size)], parts)
    assert (usual.grid_size, usual.tokens.shape[1]) == (spec.token_grid, spec.tokens_per_frame)
    first, (rows, columns) = said(name, inputs), spec.token_grid
    left_over = spec.tokens_per_frame - rows * columns
    for size in SIZES:
        try:
            found, inputs = encode(name, [noise(size)] * 2, parts)
        except (ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
            assert min(size) <= 2, f"{size}: {error}"  # of the base: such frames are too narrow for it
            continue
        expected = spec.token_grid
        if (now := said(name, inputs)) is not None:
            side, counts_parts, ends = ROUNDING.get(name, (first[0] // rows, False, 0))
            expected = tuple(-(-length // side) if counts_parts else length // side for length in now)
            expected = expected[0], expected[1] + ends
        assert found.grid_size == expected, size
        assert found.tokens.shape[1] == expected[0] * expected[1] + left_over, size


@pytest.mark.parametrize("name", ["molmo2", "lighton_ocr"])
def test_a_spot_of_light_is_found_where_it_is(name: str):
    """Of a frame of 480 x 640 in every corner: the token that changes most is that of the corner."""
    parts = build_model(name), build_processor(name)
    for key, parameter in parts[0].named_parameters():
        if "attn" in key or "attention" in key or "image_pooling_2d.q_proj" in key:
            parameter.data.mul_(0.05)  # a token is what stands in its cell, and little of what stands elsewhere
    dark = np.full((480, 640, 3), 90, dtype=np.uint8)
    (before, _) = encode(name, [dark], parts)
    rows, columns = before.grid_size
    for row in (0, rows - 1):
        for column in (0, columns - 1):
            lit, high, wide = dark.copy(), 480 / rows, 640 / columns
            lit[int(row * high) : int((row + 1) * high), int(column * wide) : int((column + 1) * wide)] = 255
            moved = (encode(name, [lit], parts)[0].tokens - before.tokens)[0].norm(dim=-1)
            assert divmod(int(moved.argmax()), columns) == (row, column)


def test_the_last_column_of_emu3_is_the_end_of_its_lines():
    """Its codes see far, so light moves many of them; but every line ends with one code, and nothing else is it."""
    base, processor = build_model("emu3"), build_processor("emu3")
    found, _ = encode("emu3", [noise((480, 640))], (base, processor))
    end = base.get_input_embeddings().weight[processor.tokenizer.convert_tokens_to_ids("<|extra_200|>")]
    is_end = (found.tokens[0] == end).all(-1).view(found.grid_size)
    assert bool(is_end[:, -1].all()) and not bool(is_end[:, :-1].any())


def test_a_frame_of_molmo2_is_the_view_of_the_whole_and_its_crop_would_be_the_same_again():
    """The features that the base makes of both: those of the crop are those of the view, number by number."""
    family: Wrapped = wrapped("molmo2")
    frames = list(family.clip(3).frames)
    both = family.processor.image_processor(frames, max_crops=1, return_tensors="pt")
    assert both["image_num_crops"].tolist() == [2, 2, 2]
    takes = ("pixel_values", "image_token_pooling", "image_grids")
    with torch.no_grad():
        features = family.base.base_model.get_image_features(**{one: both[one] for one in takes}).pooler_output
    found, _ = encode("molmo2", frames, (family.base, family.processor.base_processor))
    for of_both, tokens in zip(features, found.tokens, strict=True):
        torch.testing.assert_close(of_both[: len(tokens)], tokens, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(of_both[len(tokens) :], tokens, atol=1e-6, rtol=1e-6)
