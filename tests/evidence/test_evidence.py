"""
The evidence says what W and the attribution say: values computed by hand, padded batches, and pixels of the pictures.

The pictures are checked by what can be read from them (which bar is longer, what is bright, what is dim), at places
that the layout itself names.
"""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_linvt import LinearVideoTokenizer, LinVTInputError, VideoEvidence
from transformers_linvt.evidence.answer_sheet import AnswerSheet
from transformers_linvt.evidence.drawing import AGAINST, tick_step, wrapped
from transformers_linvt.evidence.evidence import check_picture_path, region_seen
from transformers_linvt.evidence.weights_sheet import WeightsSheet


FRAMES, HEIGHT, WIDTH, ROWS, COLUMNS, EXTRA, VIDEO_TOKENS = 3, 40, 60, 2, 3, 1, 2
TOKENS = ROWS * COLUMNS + EXTRA  # one token per frame without a place, as a newline token
COLOUR = (200, 30, 40)


def make_evidence(**changes) -> VideoEvidence:
    """
    Two video tokens over three frames of 2 x 3 places and one token beyond them.

    Kept: frame 0 place 1; frame 1 places 0 and 5; frame 2 the token without a place.
    """
    parts = {
        "frames": np.full((FRAMES, HEIGHT, WIDTH, 3), COLOUR, dtype=np.uint8),
        "timestamps": np.array([0.5, 1.25, 4.0]),
        "kept_indices": np.array([1, TOKENS, TOKENS + 5, 2 * TOKENS + 6]),
        "kept_weights": np.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.25, 0.5, 0.25]], dtype=np.float32),
        "significance": np.linspace(0, 1, FRAMES * TOKENS, dtype=np.float32).reshape(FRAMES, TOKENS),
        "grid_size": (ROWS, COLUMNS),
        "question": "What is it?",
        "answer": "red",
        "source": "/somewhere/clip.mp4",
    }
    return VideoEvidence(**{**parts, **changes})


def evidence_of(num_frames: int, height: int, width: int, grid: tuple[int, int] = (4, 5)) -> VideoEvidence:
    """Random weights on a third of the places."""
    generator = np.random.default_rng(num_frames)
    total = num_frames * grid[0] * grid[1]
    kept = np.sort(generator.permutation(total)[: math.ceil(total / 3)])
    weights = generator.random((2, len(kept))).astype(np.float32)
    return make_evidence(
        frames=generator.integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8),
        timestamps=np.arange(num_frames) / 8,
        kept_indices=kept,
        kept_weights=weights / weights.sum(axis=1, keepdims=True),
        significance=np.ones((num_frames, grid[0] * grid[1]), dtype=np.float32),
        grid_size=grid,
    )


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_weights_of_frames_are_those_computed_by_hand():
    evidence = make_evidence()
    assert evidence.frame_weights_per_token.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.75, 0.25]]
    assert evidence.frame_weights.tolist() == [0.25, 0.625, 0.125]
    assert [share.index for share in evidence.top_frames(2)] == [1, 0]
    assert evidence.top_frames(1)[0] == (1, 1.25, 0.625, None)
    assert evidence.top_frames(0) == []


def test_weights_of_places_are_those_computed_by_hand_and_a_token_without_a_place_has_none():
    evidence = make_evidence()
    assert evidence.place_weights.shape == (FRAMES, ROWS, COLUMNS)
    assert evidence.place_weights[0].tolist() == [[0, 0.25, 0], [0, 0, 0]]
    assert evidence.place_weights[1].tolist() == [[0.25, 0, 0], [0, 0, 0.375]]
    assert evidence.place_weights[2].sum() == 0
    assert evidence.per_token(1)[1].tolist() == [[0.25, 0, 0], [0, 0, 0.5]]
    assert np.argwhere(evidence.kept).tolist() == [[0, 0, 1], [1, 0, 0], [1, 1, 2]]
    assert evidence.significance_map[1, 1, 2] == evidence.significance[1, 5]


def test_weights_condense_whatever_is_aligned_with_the_frame_tokens():
    evidence = make_evidence()
    values = np.arange(FRAMES * TOKENS, dtype=np.float32).reshape(FRAMES, TOKENS, 1)
    first = 0.5 * 1 + 0.25 * TOKENS + 0.25 * (TOKENS + 5)
    second = 0.25 * TOKENS + 0.5 * (TOKENS + 5) + 0.25 * (2 * TOKENS + 6)
    assert evidence.apply(values).ravel().tolist() == [first, second]
    with pytest.raises(LinVTInputError, match=r"\(3, 7, width\)"):
        evidence.apply(values[:, 1:])


def make_attributed(**changes) -> VideoEvidence:
    """
    With runs and an attribution: slot 0 is place 1 of frames 0 and 1, slot 1 is place 5 of frame 1 alone, slot 2 is
    the token without a place of frame 2, and slot 3 is place 0 of frames 1 (a quarter) and 2 (three quarters).
    """
    slots, shares = np.zeros(FRAMES * TOKENS, dtype=np.int64), np.zeros(FRAMES * TOKENS, dtype=np.float32)
    runs = [(1, 0, 0.5), (TOKENS + 1, 0, 0.5), (TOKENS + 5, 1, 1.0), (2 * TOKENS + 6, 2, 1.0), (TOKENS, 3, 0.25)]
    for token, slot, share in [*runs, (2 * TOKENS, 3, 0.75)]:
        slots[token], shares[token] = slot, share
    attributed = {
        "kept_indices": np.array([1, TOKENS + 5, 2 * TOKENS + 6, TOKENS]),
        "run_slots": slots,
        "run_weights": shares,
        "attribution": np.array([1.0, 2.0, -0.5, -1.0], dtype=np.float32),
        "log_probs": (-0.01, -1.51),
    }
    return make_evidence(**{**attributed, **changes})


def test_attribution_of_frames_and_places_is_that_computed_by_hand():
    evidence = make_attributed()
    assert evidence.frame_attribution.tolist() == [0.5, 0.5 + 2.0 - 0.25, -0.5 - 0.75]
    assert evidence.place_attribution[0].tolist() == [[0, 0.5, 0], [0, 0, 0]]
    assert evidence.place_attribution[1].tolist() == [[-0.25, 0.5, 0], [0, 0, 2.0]]
    assert evidence.place_attribution[2].tolist() == [[-0.75, 0, 0], [0, 0, 0]]  # the newline token has no place
    assert evidence.frame_attribution.sum() == evidence.attribution.sum()
    assert [(one.index, one.attribution) for one in evidence.top_frames(3)] == [(1, 2.25), (0, 0.5), (2, -1.25)]
    assert make_evidence().frame_attribution is None and make_evidence().place_attribution is None


def test_weights_of_runs_are_those_computed_by_hand():
    evidence = make_attributed()
    assert evidence.place_weights[1].tolist() == [[0.125 * 0.25, 0.125, 0], [0, 0, 0.25]]
    np.testing.assert_allclose(evidence.frame_weights_per_token[0], [0.25, 0.25 + 0.25, 0.25])
    np.testing.assert_allclose(evidence.frame_weights, evidence.frame_weights_per_token.mean(axis=0), atol=1e-7)
    values = np.arange(FRAMES * TOKENS, dtype=np.float32).reshape(FRAMES, TOKENS, 1)
    second = 0.25 * (TOKENS + 5) + 0.5 * (2 * TOKENS + 6) + 0.25 * (0.25 * TOKENS + 0.75 * 2 * TOKENS)
    assert evidence.apply(values).ravel()[1] == second


def test_dictionary_holds_the_signed_attribution():
    plain = json.loads(json.dumps(make_attributed().to_dict(with_places=True)))
    assert plain["frame_attribution"] == [0.5, 2.25, -1.25] and plain["log_probs"] == [-0.01, -1.51]
    assert plain["place_attribution"][2] == [[-0.75, 0, 0], [0, 0, 0]]
    without = make_evidence(no_attribution="No attribution: none.").to_dict(with_places=True)
    assert without["frame_attribution"] is without["place_attribution"] is without["log_probs"] is None
    assert without["no_attribution"] == "No attribution: none."


def test_there_is_no_video_token_beyond_the_last():
    with pytest.raises(LinVTInputError, match="numbered 0 to 1"):
        make_evidence().per_token(2)


def test_dictionary_survives_json_and_holds_the_maps_on_request():
    evidence = make_evidence()
    plain = json.loads(json.dumps(evidence.to_dict()))
    assert plain == evidence.to_dict()
    assert plain["timestamps"] == [0.5, 1.25, 4.0]
    assert plain["frame_weights"] == [0.25, 0.625, 0.125]
    assert plain["kept_tokens_per_frame"] == [1, 2, 1]
    assert (plain["num_kept_tokens"], plain["num_video_tokens"], plain["grid_size"]) == (4, 2, [2, 3])
    assert "place_weights" not in plain
    places = json.loads(json.dumps(evidence.to_dict(with_places=True)))
    assert places["place_weights"][1][1] == [0.0, 0.0, 0.375]
    assert places["kept_places"][0] == [[False, True, False], [False, False, False]]


@pytest.mark.parametrize(
    "change",
    [
        {"timestamps": np.zeros(FRAMES + 1)},
        {"kept_indices": np.array([1, 2, 3])},
        {"kept_indices": np.array([0, 1, 2, FRAMES * TOKENS])},
        {"kept_indices": np.array([-1, 1, 2, 3])},
        {"grid_size": (ROWS + 1, COLUMNS)},
        {"frames": np.zeros((FRAMES - 1, HEIGHT, WIDTH, 3), dtype=np.uint8)},
        {"attribution": np.zeros(3)},
        {"run_slots": np.zeros(3, dtype=int), "run_weights": np.zeros(3)},
    ],
    ids=["timestamps", "fewer kept", "index too high", "index below 0", "grid", "frames", "attribution", "runs"],
)
def test_parts_that_do_not_fit_together_are_refused(change):
    with pytest.raises(LinVTInputError, match="not the parts of one video"):
        make_evidence(**change)


@pytest.mark.parametrize("scale_mode", ["specific", "shared", "single"])
def test_evidence_out_of_a_padded_batch_is_the_dense_w_without_the_padding(scale_mode):
    torch.manual_seed(0)
    dim, sizes, grids = 12, ((5, 6), (3, 4)), [(2, 3), (2, 2)]  # frames and tokens per frame of two videos
    tokenizer = LinearVideoTokenizer(
        dim,
        num_video_tokens=7,
        num_kept_tokens=11,
        scale_mode=scale_mode,
        bottleneck_size=8,
        num_heads=2,
        init="keyframes",
    )
    tokens, mask = torch.randn(2, 5, 6, dim), torch.zeros(2, 5, 6, dtype=torch.bool)
    for i, (frames, places) in enumerate(sizes):
        mask[i, :frames, :places] = True
    with torch.no_grad():
        output = tokenizer(tokens, frame_mask=mask, grid_sizes=grids)
    dense = output.weights.dense().view(2, 7, 5, 6).numpy()
    for i, (frames, places) in enumerate(sizes):
        evidence = VideoEvidence.from_output(
            output, i, np.zeros((frames, 8, 8, 3), np.uint8), np.arange(frames), grids[i], tokens_per_frame=places
        )
        summed = np.stack([evidence.per_token(m) for m in range(7)])
        np.testing.assert_allclose(summed.reshape(7, frames, places), dense[i, :, :frames, :places], atol=1e-6)
        np.testing.assert_allclose(evidence.frame_weights.sum(), 1, atol=1e-5)
        np.testing.assert_allclose(
            evidence.apply(tokens[i, :frames, :places].numpy()), output.video_tokens[i].numpy(), atol=1e-5
        )
        assert evidence.significance.shape == (frames, places)


# --- where the model looks -------------------------------------------------------------------------------------------


def test_region_is_the_whole_frame_unless_the_image_processor_crops():
    assert region_seen(SimpleNamespace(size={"height": 64, "width": 64}), 100, 300) == (0, 0, 1, 1)
    square = {"height": 50, "width": 50}
    clip = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 50}, crop_size=square)
    assert region_seen(clip, 100, 400) == (0.0, 0.375, 1.0, 0.625)
    assert region_seen(clip, 400, 100) == (0.375, 0.0, 0.625, 1.0)
    smaller = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 100}, crop_size=square)
    assert region_seen(smaller, 77, 77) == (0.25, 0.25, 0.75, 0.75)


def test_places_outside_the_region_are_drawn_as_not_kept():
    grid = np.ones((2, 2), dtype=np.float32)
    sheet = WeightsSheet(make_evidence(region=(0.25, 0.5, 0.75, 1.0)))
    stretched = sheet.over_pixels(grid, sheet.thumbnail)
    width, height = sheet.thumbnail
    assert stretched[height // 2, width // 4] == 0
    assert stretched[height // 8, 3 * width // 4] == 0
    assert stretched[height // 2, 3 * width // 4] == 1
    assert abs(stretched.mean() - 0.25) < 0.02


# --- the picture -----------------------------------------------------------------------------------------------------


def pixels(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.crop(box), dtype=int)


def colourfulness(colours: np.ndarray) -> np.ndarray:
    return colours.max(axis=-1) - colours.min(axis=-1)


def test_bars_are_as_long_as_the_weights_of_their_frames():
    evidence = make_evidence()
    sheet = WeightsSheet(evidence)
    image = sheet.draw()
    lengths = []
    for index in range(FRAMES):
        bar = pixels(image, sheet.cell(index).bar)
        filled = colourfulness(bar[len(bar) // 2]) > 20  # the empty track is grey
        assert filled[: filled.sum()].all()  # filled from the left
        lengths.append(filled.sum())
    width = sheet.thumbnail[0]
    assert lengths == [round(width * 0.25 / 0.625), width, round(width * 0.125 / 0.625)]


def test_a_frame_with_more_weight_has_the_darker_bar():
    sheet = WeightsSheet(make_evidence())
    image = sheet.draw()
    brightness = [pixels(image, sheet.cell(index).bar)[5, 1].sum() for index in range(FRAMES)]
    assert brightness[1] < brightness[0] < brightness[2]


def test_kept_places_keep_their_colour_and_the_others_are_dimmed():
    evidence = make_evidence()
    sheet = WeightsSheet(evidence)
    image = sheet.draw()
    width, height = sheet.thumbnail
    for index in range(FRAMES):
        left, top, *_ = sheet.cell(index).picture
        for row in range(ROWS):
            for column in range(COLUMNS):
                middle = (left + int(width * (column + 0.5) / COLUMNS), top + int(height * (row + 0.5) / ROWS))
                colour = image.getpixel(middle)
                if evidence.kept[index, row, column]:
                    assert colour == COLOUR
                else:
                    assert colourfulness(np.array(colour)) < 0.5 * colourfulness(np.array(COLOUR))


def test_kept_places_are_outlined():
    sheet = WeightsSheet(make_evidence())
    image = sheet.draw()
    left, top, *_ = sheet.cell(0).picture
    width, height = sheet.thumbnail
    edge = image.getpixel((left + width // 2, top))  # upper border of the kept place in the middle of the first row
    assert edge not in (COLOUR, (255, 255, 255)) and colourfulness(np.array(edge)) > 100
    assert colourfulness(np.array(image.getpixel((left + width // 2, top + height - 1)))) < 100


def test_the_map_of_places_is_darkest_where_the_weight_is():
    evidence = make_evidence()
    sheet = WeightsSheet(evidence)
    assert sheet.panels == 2
    image = sheet.draw()
    left, top, *_ = sheet.cell(1).heat
    width, height = sheet.thumbnail

    def brightness(row: int, column: int) -> int:
        middle = (left + int(width * (column + 0.5) / COLUMNS), top + int(height * (row + 0.5) / ROWS))
        return sum(image.getpixel(middle))

    assert brightness(1, 2) < brightness(0, 0) < brightness(0, 1) == brightness(1, 1)


def test_equal_weights_look_equal_and_not_like_a_peak():
    equal = make_evidence(
        kept_indices=np.array([0, TOKENS, 2 * TOKENS]), kept_weights=np.full((1, 3), 1 / 3, dtype=np.float32)
    )
    sheet = WeightsSheet(equal)
    image = sheet.draw()
    colours = {tuple(pixels(image, sheet.cell(index).bar)[5, 1]) for index in range(FRAMES)}
    assert len(colours) == 1
    assert sum(colours.pop()) > sum(sheet._frame_colour(sheet.frame_scale)) + 100


@pytest.mark.parametrize("num_frames", [1, 2, 7, 16, 100, 1024])
def test_picture_has_a_bearable_size_for_any_number_of_frames(num_frames):
    sheet = WeightsSheet(evidence_of(num_frames, height=36, width=64))
    image = sheet.draw()
    assert 1000 <= image.width <= 1600 and image.height <= 3000
    boxes = [sheet.cell(index) for index in range(num_frames)]
    rights, bottoms = [box.bar[2] for box in boxes], [box.bar[3] for box in boxes]
    assert max(rights) <= image.width and max(bottoms) < image.height - 40  # room for the legend
    assert len({box.picture[:2] for box in boxes}) == num_frames
    assert [box.picture[:2] for box in boxes] == sorted([box.picture[:2] for box in boxes], key=lambda p: (p[1], p[0]))


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (4, 4), (31, 47), (1, 2000), (2000, 1)])
@pytest.mark.parametrize("num_frames", [1, 9, 300])
def test_picture_can_be_drawn_for_any_shape_of_frames(height, width, num_frames):
    image = make_drawing(num_frames, height, width)
    assert image.width <= 1600 and image.height <= 4000


def make_drawing(num_frames: int, height: int, width: int) -> Image.Image:
    return evidence_of(num_frames, height, width, grid=(3, 3)).draw()


def test_frames_keep_their_shape():
    for height, width in ((36, 64), (64, 36)):
        thumbnail = WeightsSheet(evidence_of(9, height, width)).thumbnail
        assert abs(thumbnail[0] / thumbnail[1] - width / height) < 0.02


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (None, None),
        ("", ""),
        ("word " * 400, "yes " * 300),
        ("x" * 3000, "no"),
        ("什么颜色?", "红色"),
        ("line\nbreak\tand\0control", "\n"),
    ],
)
def test_any_question_and_answer_can_be_drawn(question, answer):
    image = make_evidence(question=question, answer=answer, source=None).draw()
    assert image.height < 1500


def test_text_is_wrapped_at_the_width_and_cut_with_dots():
    font = SimpleNamespace(getlength=lambda text: 10 * len(text))
    assert wrapped("one two three", font, 70, 3) == ["one two", "three"]
    assert wrapped("aaaaaaaaaaaa", font, 50, 9) == ["aaaa", "aaaa", "aaaa"]
    assert wrapped("one two three four five", font, 80, 2) == ["one two", "three..."]


def test_ticks_are_round_and_few():
    assert [tick_step(span, 12) for span in (0.1, 1.9, 4.0, 59.0, 3600.0)] == [0.01, 0.2, 0.5, 5, 300]
    for span in np.geomspace(0.01, 1e6, 50):
        assert span / tick_step(span, 12) <= 12 + 1e-9


# --- the picture of an answer ----------------------------------------------------------------------------------------


def test_an_attribution_is_drawn_800_pixels_wide_and_weights_where_there_is_none():
    assert make_attributed().draw().width == 800
    assert np.array_equal(np.asarray(make_evidence().draw()), np.asarray(WeightsSheet(make_evidence()).draw()))


def test_frames_that_the_answer_owes_most_to_are_large_and_of_a_run_one():
    assert AnswerSheet(make_attributed()).large == [0, 1]
    assert AnswerSheet(make_attributed(attribution=np.array([1.0, 0.0, 0.0, 0.0]))).large == [0]  # a run of 0 and 1
    assert AnswerSheet(make_attributed(attribution=-np.ones(4))).large == [0]


def test_a_large_frame_stands_for_those_that_are_like_it():
    sheet = AnswerSheet(make_attributed(attribution=np.array([1.0, 0.0, 0.0, 0.25])))
    assert sheet.large == [1, 2]  # the map of frame 0 is nearly that of frame 1, which has a quarter of slot 3, too
    assert sheet.share_with_alike(1) == pytest.approx((0.5 + 0.5 + 0.0625) / 1.25)
    assert sheet.share_with_alike(2) == pytest.approx(0.1875 / 1.25)


def test_the_map_of_a_large_frame_is_coloured_where_the_attribution_is_positive():
    evidence = make_attributed()
    sheet = AnswerSheet(evidence)
    image = sheet.draw()
    left, top = sheet.place_of_map(sheet.large.index(1))
    width, height = sheet.large_size
    found = np.array(
        [
            [
                colourfulness(
                    np.array(
                        image.getpixel(
                            (int(left + width * (column + 0.5) / COLUMNS), int(top + height * (row + 0.5) / ROWS))
                        )
                    )
                )
                for column in range(COLUMNS)
            ]
            for row in range(ROWS)
        ]
    )
    assert found[1, 2] > 80 and found[0, 1] > 40  # 2.0 and 0.5 nats
    assert max(found[0, 0], found[0, 2], found[1, 0], found[1, 1]) < 10  # the first is -0.25


def test_bars_of_the_time_line_go_up_for_the_answer_and_down_against_it():
    evidence = make_attributed()
    sheet = AnswerSheet(evidence)
    line = pixels(sheet.draw(), (0, sheet.chart_top, 800, sheet.chart_top + 111))
    against = (line == AGAINST).all(axis=-1)
    warm = line[..., 0] - line[..., 2] > 60
    last = slice(700, 800)  # the last frame stands at the right end
    assert against[:, last].any() and not warm[:, last].any() and not against[:, :700].any()
    assert np.argwhere(against)[:, 0].min() > np.argwhere(warm)[:, 0].max()
    heights = [warm[:, columns].any(axis=1).sum() for columns in (slice(0, 60), slice(60, 700))]
    assert heights[1] / heights[0] == pytest.approx(2.25 / 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("log_probs", "words"), [((-0.1, -0.12), "does not come from this video"), ((-0.1, -9.0), "shared")]
)
def test_the_picture_says_whether_the_answer_comes_from_the_video(log_probs, words):
    assert words in AnswerSheet(make_attributed(log_probs=log_probs))._summary()


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (4, 4), (31, 47), (1, 2000)])
@pytest.mark.parametrize("num_frames", [1, 9, 300])
def test_an_answer_can_be_drawn_for_any_shape_and_number_of_frames(height, width, num_frames):
    evidence = evidence_of(num_frames, height, width)
    generator = np.random.default_rng(1)
    evidence.attribution = generator.standard_normal(len(evidence.kept_indices)).astype(np.float32)
    image, sheet = evidence.draw(), AnswerSheet(evidence)
    assert image.width == 800 and image.height <= 3000
    assert set(sheet.large) <= set(sheet.strip) and len(sheet.strip) >= min(num_frames, 48)


# --- the file --------------------------------------------------------------------------------------------------------


def test_saved_picture_is_the_one_that_was_drawn_and_nothing_else_is_left(tmp_path):
    evidence = make_evidence()
    path = tmp_path / "evidence.png"
    path.write_bytes(b"old")
    evidence.save(path)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert np.array_equal(np.asarray(saved), np.asarray(evidence.draw()))
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_behind_when_drawing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(VideoEvidence, "draw", lambda self: SimpleNamespace(save=full_disk))
    with pytest.raises(LinVTInputError, match="No space left"):
        make_evidence().save(tmp_path / "evidence.png")
    assert list(tmp_path.iterdir()) == []


def full_disk(path, **options) -> None:
    path.write_bytes(b"half a pict")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evidence.jpg", "does not end in .png"),
        ("evidence", "does not end in .png"),
        ("missing/evidence.png", "does not exist"),
        ("folder.png", "is a folder"),
    ],
)
def test_a_path_that_no_picture_can_go_to_is_refused_by_name(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(LinVTInputError, match=message) as refusal:
        check_picture_path(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)
    with pytest.raises(LinVTInputError, match=message):
        make_evidence().save(tmp_path / name)
