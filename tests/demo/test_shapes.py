"""
The world of shapes is what it says, and the shipped base model knows it.

Proven here: the pixels show the symbolic state and nothing else (shape, colour, place and number are read back from
the pixels alone), every answer follows from that state, answers are balanced, seeds are reproducible and splits
disjoint, clips keep their promises frame by frame and survive a real H.264 file, and the checkpoint in the package
loads through the Auto classes and answers held-out questions through its chat template.
"""

import collections
import re
from pathlib import Path

import av
import numpy as np
import pytest

from transformers_linvt.demo import shapes
from transformers_linvt.errors import LinVTError


ASSETS = Path(shapes.__file__).parent / "assets" / "shapes_vlm"
PLAIN = shapes.Background(level=120.0)
CELL = shapes.PICTURE_SIZE // shapes.GRID_SIZE


def thing(shape: str, colour: str, row: int, column: int) -> shapes.ShapeObject:
    return shapes.ShapeObject(shape, colour, row, column)


def read_cell(cell: np.ndarray) -> tuple[str, str] | None:
    """Shape and colour of what a noise-free cell shows, from its pixels alone, or `None` for an empty one."""
    spread = cell.max(-1).astype(int) - cell.min(-1)  # grey pixels have none
    inside = spread > max(60, 0.5 * spread.max())  # more than half covered
    if inside.sum() < 8:
        return None
    mean, paints = cell[inside].mean(0), {name: np.array(paint) for name, paint in shapes.COLOURS.items()}
    colour = max(paints, key=lambda name: mean @ paints[name] / np.linalg.norm(paints[name]))  # the smallest angle
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    box = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    third = len(box) // 3
    if box.mean() > 0.9:
        return "square", colour
    if box[:third].mean() < 0.6 * box[-third:].mean():
        return "triangle", colour
    return ("circle" if box.mean() > 0.65 else "cross"), colour


def read_picture(frame: np.ndarray) -> dict[tuple[int, int], tuple[str, str]]:
    found = {}
    for row in range(shapes.GRID_SIZE):
        for column in range(shapes.GRID_SIZE):
            cell = read_cell(frame[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL])
            if cell:
                found[row, column] = cell
    return found


def answer_from_pixels(question: str, frame: np.ndarray) -> str:
    """The answer to a plainly worded question from pixels and words only; written apart from the generator."""
    seen = [(shape, colour, place) for place, (shape, colour) in read_picture(frame).items()]
    words = re.findall(r"\w+", question.lower())
    shape = next((s for s in shapes.SHAPES if s in words or shapes.PLURALS[s] in words), None)
    colour = next((c for c in shapes.COLOURS if c in words), None)
    chosen = [item for item in seen if shape in (None, item[0]) and colour in (None, item[1])]
    if words[:2] == ["how", "many"]:
        return ["zero", "one", "two", "three", "four"][len(chosen)]
    if words[0] == "is":
        return "yes" if chosen else "no"
    (only,) = chosen
    if words[0] == "where":
        return f"{'top' if only[2][0] < 2 else 'bottom'} {'left' if only[2][1] < 2 else 'right'}"
    return only[1] if "colour" in words else only[0]


@pytest.mark.parametrize("kind", shapes.PICTURE_KINDS)
def test_answers_are_right_when_recomputed_from_the_pixels(kind):
    rng = np.random.default_rng(7)
    asked = 0
    while asked < 60:
        run = shapes.random_run(rng, 1)
        question = shapes.ask(kind, run, rng, plain=True)
        if question is None:
            continue
        (frame,) = shapes.render_pictures(run, [PLAIN], rng)
        assert answer_from_pixels(question.question, frame) == question.answer, (question, run)
        asked += 1


def test_pixels_show_the_symbolic_state_and_nothing_else():
    rng = np.random.default_rng(3)
    pictures = [shapes.random_picture(rng, count) for count in (0, 1, 2, 3, 4) * 12]
    frames = shapes.render_pictures(pictures, [PLAIN] * len(pictures), rng)
    for picture, frame in zip(pictures, frames, strict=True):
        assert read_picture(frame) == {(o.row, o.column): (o.shape, o.colour) for o in picture}


@pytest.mark.parametrize("size", [32, 64, 96])
def test_pictures_have_the_size_asked_for(size):
    frames, questions, pictures = shapes.make_pictures("colour", num_pictures=5, seed=2, size=size)
    assert frames.shape == (5, size, size, 3) and frames.dtype == np.uint8
    assert len(questions) == len(pictures) == 5


@pytest.mark.parametrize("kind", shapes.PICTURE_KINDS)
@pytest.mark.parametrize("num_pictures", [1, 3])
def test_answers_are_balanced_to_within_one(kind, num_pictures):
    _, questions, _ = shapes.make_runs(kind, 83, num_pictures, seed=5, size=8)
    counts = collections.Counter(question.answer for question in questions)
    assert set(counts) == set(shapes.ANSWERS[kind])
    assert max(counts.values()) - min(counts.values()) <= 1


def test_questions_do_not_give_their_answer_away():
    """Every shape asked about goes with every colour answered equally often."""
    _, questions, _ = shapes.make_pictures("colour", num_pictures=800, seed=11, size=8)
    pairs = collections.Counter(
        (next(s for s in shapes.SHAPES if s in question.question), question.answer) for question in questions
    )
    assert len(pairs) == 16
    assert min(pairs.values()) > 25 and max(pairs.values()) < 80  # 50 each on average


def test_half_of_the_hard_existence_questions_are_no():
    """A question whose colour and whose shape are both visible must not be answerable by that."""
    _, questions, pictures = shapes.make_pictures("existence", num_pictures=1200, seed=4, size=8)
    hard = collections.Counter()
    for question, picture in zip(questions, pictures, strict=True):
        colours = [o.colour for o in picture if o.colour in question.question]
        forms = [o.shape for o in picture if o.shape in question.question]
        if colours and forms:
            hard[question.answer] += 1
    assert 0.3 < hard["no"] / (hard["no"] + hard["yes"]) < 0.7


def test_the_same_seed_gives_the_same_pixels_and_another_seed_or_split_does_not():
    first, questions, _ = shapes.make_pictures("shape", num_pictures=4, seed=6)
    again, same_questions, _ = shapes.make_pictures("shape", num_pictures=4, seed=6)
    assert np.array_equal(first, again) and questions == same_questions
    for seed, split in ((7, "test"), (6, "train")):
        other, _, _ = shapes.make_pictures("shape", num_pictures=4, seed=seed, split=split)
        assert not any(np.array_equal(a, b) for a in first for b in other)


def test_two_of_a_kind_in_one_picture_are_not_asked_for_as_the_one():
    picture = (thing("circle", "red", 0, 0), thing("circle", "blue", 2, 1))
    rng = np.random.default_rng(0)
    assert shapes.ask("colour", [picture], rng) is None
    assert {shapes.ask("shape", [picture], rng, plain=True).answer for _ in range(20)} == {"circle"}
    assert shapes.ask("position", [picture], rng, answer="bottom left", plain=True).question in (
        "Where is the blue circle?",
        "Where is the blue object?",
    )


def test_an_object_that_changes_between_pictures_is_not_asked_about():
    rng = np.random.default_rng(0)
    run = [(thing("circle", "red", 0, 0),), (thing("circle", "blue", 0, 0),)]
    assert shapes.ask("colour", run, rng) is None
    assert shapes.ask("count", run, rng) is None
    order = shapes.ask("order", run, rng, answer="red")
    assert order is not None and "first" in order.question and "red" in order.question and "blue" in order.question


def test_order_needs_one_to_leave_before_the_other_comes():
    circle, square = thing("circle", "red", 0, 0), thing("square", "red", 2, 2)
    rng = np.random.default_rng(0)
    assert shapes.ask("order", [(circle,), (circle, square), (square,)], rng) is None
    answers = collections.Counter()
    for _ in range(200):
        question = shapes.ask("order", [(circle,), (circle,), (square,)], rng)
        assert question.answer == ("circle" if "first" in question.question else "square")
        answers[question.answer] += 1
    assert min(answers.values()) > 60


def test_descriptions_follow_reading_order_and_time():
    late, early = thing("cross", "green", 3, 0), thing("square", "yellow", 0, 2)
    assert shapes.describe([(late, early), (late, early), ()]) == (
        "a yellow square at the top right and a green cross at the bottom left then nothing"
    )


def test_every_word_of_questions_and_answers_is_in_the_vocabulary():
    words, rng = set(shapes.vocabulary()), np.random.default_rng(1)
    for index in range(300):
        run = shapes.random_run(rng, 1 + index % 4)
        for kind in shapes.QUESTION_KINDS:
            question = shapes.ask(kind, run, rng)
            if question:
                assert set(re.findall(r"\w+", f"{question.question} {question.answer}".lower())) <= words


@pytest.mark.parametrize("num_frames", [2, 5, 8, 16, 33])
@pytest.mark.parametrize("kind", shapes.CLIP_KINDS)
def test_clip_questions_are_answered_by_what_the_clip_shows(kind, num_frames):
    fewest = {"direction": 8, "count": 8, "traverse": 4, "crowd": 8}.get(kind, 2)
    if num_frames < fewest:
        with pytest.raises(LinVTError, match=f"{fewest} frames"):
            shapes.script_clip(kind, 0, num_frames)
        return
    for seed in range(3):
        script = shapes.script_clip(kind, seed, num_frames)
        frames, questions = shapes.make_clip(kind, seed, num_frames)
        assert frames.shape == (num_frames, 64, 64, 3) and len(script.pictures) == num_frames
        assert questions == [(q.question, q.answer) for q in script.questions]
        rng = np.random.default_rng(0)
        for question in script.questions:
            other = shapes.ask(question.kind, script.pictures, rng, answer=question.answer)
            assert other is not None and other.answer == question.answer


def test_clip_answers_are_balanced_over_seeds():
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for seed in range(200):
        for question in shapes.script_clip("static", seed, 4).questions:
            counts[question.kind][question.answer] += 1
    for kind, most in {"colour": 0.4, "shape": 0.4, "position": 0.4, "count": 0.4, "existence": 0.5}.items():
        assert max(counts[kind].values()) <= most * counts[kind].total(), (kind, counts[kind])
    assert set(counts["attribute_count"]) == {"zero", "one", "two", "three"}


def test_scenes_are_four_equal_segments_held_for_their_whole_length():
    pictures = shapes.script_clip("scenes", 3, 20).pictures
    assert all(pictures[index] == pictures[index - index % 5] for index in range(20))
    assert all(1 <= len(picture) <= 2 for picture in pictures)


def test_a_needle_is_short_and_alone():
    for seed in range(20):
        pictures = shapes.script_clip("needle", seed, 32).pictures
        shown = [index for index, picture in enumerate(pictures) if picture]
        assert 1 <= len(shown) <= 4 and shown == list(range(shown[0], shown[-1] + 1))
        assert all(len(pictures[index]) == 1 for index in shown)


def test_needles_share_neither_shape_nor_colour():
    pictures = shapes.script_clip("needles", 5, 24).pictures
    things = {o for picture in pictures for o in picture}
    assert len(things) == len({o.shape for o in things}) == len({o.colour for o in things}) == 4


def test_a_crowd_is_more_than_video_tokens_hold():
    """Every object comes and goes: two new tokens each, beside the 16 of the first frame."""
    counts = set()
    for seed in range(60):
        pictures = shapes.script_clip("crowd", seed, 16).pictures
        things = [(thing.shape, thing.colour) for picture in pictures for thing in picture]
        assert len(things) == len(set(things)) and max(map(len, pictures)) == 1  # 16 frames: each for one of them
        counts.add(len(things))
    assert counts == set(range(8, 17))
    assert max(len(p) for p in shapes.script_clip("crowd", 3, 64).pictures) == 1


def test_a_moving_object_says_its_direction_only_by_moving():
    """Eight cells along a row of four: twice around, so that every place is seen equally often and start meets end."""
    answers = collections.Counter()
    for seed in range(60):
        script = shapes.script_clip("direction", seed, 16)
        (question,) = script.questions
        places = [(picture[0].row, picture[0].column) for picture in script.pictures]
        assert collections.Counter(places).most_common() == [(place, 4) for place in dict.fromkeys(places)]
        (row, column), (next_row, next_column) = places[0], places[2]
        right = {(0, 1): "right", (0, 3): "left", (1, 0): "down", (3, 0): "up"}
        assert question.answer == right[(next_row - row) % 4, (next_column - column) % 4]
        assert script.caption.endswith(f"moves {question.answer}")
        answers[question.answer] += 1
    assert len(answers) == 4 and min(answers.values()) >= 6


def test_an_object_is_seen_as_often_as_the_answer_says_for_times_that_say_nothing():
    answers, shown = collections.Counter(), collections.defaultdict(list)
    for seed in range(200):
        script = shapes.script_clip("count", seed, 16)
        (question,) = script.questions
        seen = [bool(picture) for picture in script.pictures]
        times = sum(now and not before for before, now in zip([False, *seen], seen, strict=False))
        assert question.answer == ["zero", "one", "two", "three", "four"][times]
        answers[times] += 1
        shown[times].append(sum(seen))
    assert set(answers) == {1, 2, 3, 4} and min(answers.values()) >= 30
    assert max(shown[1]) > min(shown[4])  # one long stay and four short ones: the share of frames is no answer


@pytest.mark.parametrize("num_frames", [2, 7, 24])
def test_a_moment_is_short_beside_two_that_stand_still(num_frames):
    starts, lengths = set(), set()
    for seed in range(60):
        pictures = shapes.script_clip("moment", seed, num_frames).pictures
        still, fullest = set(min(pictures, key=len)), max(pictures, key=len)
        if num_frames > 2:
            assert len(still) == 2
        assert all(still <= set(picture) for picture in pictures) and len(fullest) == 3
        assert len({o.shape for o in fullest}) == len({o.colour for o in fullest}) == 3
        assert len({(o.row, o.column) for o in fullest}) == 3
        shown = [index for index, picture in enumerate(pictures) if len(picture) == 3]
        assert shown == list(range(shown[0], shown[-1] + 1))
        starts.add(shown[0])
        lengths.add(len(shown))
    assert lengths == set(range(1, max(1, num_frames // 8) + 1))
    assert min(starts) == 0 and max(starts) == num_frames - 1  # the first and the last frame, too


def test_questions_about_a_moment_say_which_of_its_objects_they_mean():
    answers: dict[tuple, collections.Counter] = collections.defaultdict(collections.Counter)
    for seed in range(200):
        script = shapes.script_clip("moment", seed, 16)
        fullest, still = max(script.pictures, key=len), min(script.pictures, key=len)
        asked = collections.Counter()
        for question in script.questions:
            words = re.findall(r"\w+", question.question.lower())
            shape = next((s for s in shapes.SHAPES if s in words), None)
            colour = next((c for c in shapes.COLOURS if c in words), None)
            meant = [o for o in fullest if shape in (None, o.shape) and colour in (None, o.colour)]
            if question.subject == "absent":
                assert meant == [] and question.answer == "no"
            else:
                (only,) = meant
                assert (only in still) == (question.subject == "still")
                right = {"colour": only.colour, "shape": only.shape, "position": only.quadrant, "existence": "yes"}
                assert question.answer == right[question.kind]
            asked[question.subject] += 1
            answers[question.subject, question.kind][question.answer] += 1
        assert asked == {"still": 4, "short": 4, "absent": 2}
    for (_, kind), counts in answers.items():
        if kind != "existence":
            assert len(counts) == 4 and max(counts.values()) <= 0.4 * counts.total()


def test_questions_can_be_about_some_objects_only():
    picture = (thing("circle", "red", 0, 0), thing("square", "blue", 2, 1), thing("cross", "green", 3, 3))
    rng = np.random.default_rng(0)
    for kind, answers in {"colour": {"blue"}, "position": {"bottom left"}, "existence": {"yes"}}.items():
        questions = [shapes.ask(kind, [picture], rng, about=picture[1:2]) for _ in range(20)]
        assert {question.answer for question in questions} == answers
        assert not any(word in question.question for question in questions for word in ("red", "circle", "cross"))
    assert shapes.ask("colour", [picture], rng, answer="red", about=picture[1:]) is None
    assert shapes.ask("count", [picture], rng, about=picture) is None  # names nobody


@pytest.mark.parametrize("num_frames", [4, 10, 13, 16])
def test_a_traverse_goes_from_corner_to_corner_once(num_frames):
    answers = collections.Counter()
    for seed in range(80):
        script = shapes.script_clip("traverse", seed, num_frames)
        (question,) = script.questions
        places = [(picture[0].row, picture[0].column) for picture in script.pictures]
        (row, column), (last_row, last_column) = places[0], places[-1]
        assert {row, column, last_row, last_column} <= {0, 3} and places[0] != places[-1]
        steps = list(dict.fromkeys(places))
        assert len(steps) == 4
        lengths = [places.count(place) for place in steps]
        assert max(lengths) - min(lengths) <= (num_frames % 4 > 0)
        assert places == [place for place, length in zip(steps, lengths, strict=True) for _ in range(length)]
        moved = {(0, 3): "right", (0, -3): "left", (3, 0): "down", (-3, 0): "up"}
        assert question.answer == moved[last_row - row, last_column - column]
        assert script.caption.endswith(f"moves {question.answer}")
        answers[question.answer] += 1
    assert len(answers) == 4 and min(answers.values()) >= 8


@pytest.mark.parametrize("num_frames", [8, 10, 13])
def test_what_shows_no_order_leaves_two_directions_of_a_traverse(num_frames):
    """Best guesses from what is seen without the order: half are right. With 10 frames two cells are seen longer."""
    num_clips = 600
    rng = np.random.default_rng(2)
    views = {
        "all frames": lambda places: tuple(sorted(places)),
        "the first": lambda places: places[0],
        "the last": lambda places: places[-1],
        "any": lambda places: places[int(rng.integers(num_frames))],
    }
    tables = {name: collections.defaultdict(collections.Counter) for name in views}
    for seed in range(num_clips):
        script = shapes.script_clip("traverse", seed, num_frames)
        places = [(picture[0].row, picture[0].column) for picture in script.pictures]
        for name, view in views.items():
            tables[name][view(places)][script.questions[0].answer] += 1
    for name, table in tables.items():
        right = sum(max(counts.values()) for counts in table.values())
        assert 0.4 < right / num_clips < 0.57, (name, right / num_clips)  # fitted to the clips it is counted on


def test_backwards_a_motion_is_the_opposite_and_what_came_first_comes_last():
    for kind, num_frames in (("traverse", 11), ("direction", 9), ("order", 6), ("moment", 5)):
        for seed in range(15):
            script = shapes.script_clip(kind, seed, num_frames)
            backwards = script.backwards()
            assert backwards.pictures == script.pictures[::-1] and backwards.backwards() == script
            (first,), (second,), (last,) = (backwards.pictures[index][:1] for index in (0, 3, -1))
            for question, before in zip(backwards.questions, script.questions, strict=True):
                assert question.question == before.question
                if kind == "order" and question.kind == "order":
                    asked = first if "first" in question.question else last
                    assert question.answer in (asked.shape, asked.colour)
                elif question.kind == "direction":
                    step = np.sign([second.row - first.row, second.column - first.column])
                    assert question.answer != before.answer
                    assert kind == "direction" or tuple(step) == shapes.DIRECTIONS[question.answer]
                else:
                    assert question == before


@pytest.mark.parametrize("kind", shapes.CLIP_KINDS)
def test_clips_to_train_on_and_to_choose_on_are_not_those_that_are_reported(kind):
    first, *others = ([shapes.script_clip(kind, seed, 8, split) for seed in range(40)] for split in shapes.CLIP_SPLITS)
    for other in others:
        assert len({repr(script.pictures) for script in first} & {repr(script.pictures) for script in other}) <= 2
    frames = [shapes.make_clip(kind, 3, 8, split=split)[0] for split in shapes.CLIP_SPLITS]
    assert not any(np.array_equal(frames[0], other) for other in frames[1:])


def test_reported_clips_are_the_ones_they_were_when_there_were_five_kinds():
    """Figures of the README are of these clips."""
    sums = [int(shapes.make_clip(kind, 7, 5)[0].sum()) for kind in ("scenes", "static", "needle", "needles", "order")]
    assert sums == [6334899, 2813332, 11600202, 5176142, 9237506]
    assert [int(shapes.make_clip(kind, 7, 9)[0].sum()) for kind in ("direction", "count")] == [12072592, 17955148]


def test_frames_of_a_static_clip_differ_by_noise_only():
    frames, _ = shapes.make_clip("static", 8, 7)
    assert not np.array_equal(frames[0], frames[1])
    assert np.abs(frames[0].astype(int) - frames[1]).mean() < 20


def test_a_written_clip_is_h264_and_shows_the_frames(tmp_path):
    frames, _ = shapes.make_clip("scenes", 2, 11)
    shapes.write_clip(tmp_path / "clip.mp4", frames, fps=5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 5
        decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    assert decoded.shape == (11, 256, 256, 3)
    small = decoded.reshape(11, 64, 4, 64, 4, 3).mean((2, 4))
    assert np.abs(small - frames).mean() < 8
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: shapes.make_pictures("smell", 3, 0),
        lambda: shapes.make_pictures("order", 3, 0),
        lambda: shapes.make_pictures("colour", 3, 0, size=63),
        lambda: shapes.make_clip("film", 0, 8),
        lambda: shapes.make_clip("static", 0, 0),
        lambda: shapes.make_clip("order", 0, 1),
        lambda: shapes.make_clip("static", 0, 8, split="train"),
        lambda: shapes.ask("smell", [()], np.random.default_rng(0)),
        lambda: shapes.write_clip("nowhere.mp4", []),
        lambda: shapes.write_clip("nowhere.mp4", np.zeros((2, 5, 5, 3), np.uint8), scale=1),
    ],
)
def test_bad_arguments_get_an_error_of_our_own_and_leave_nothing(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LinVTError):
        wrong()
    assert list(tmp_path.iterdir()) == []


# --- the shipped checkpoint ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, report = AutoModelForImageTextToText.from_pretrained(ASSETS, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return model.eval(), AutoProcessor.from_pretrained(ASSETS)


def generate(base, conversations: list) -> list[str]:
    model, processor = base
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    output = model.generate(**inputs, max_new_tokens=8)
    return processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def turn(frames, text: str) -> list:
    from PIL import Image

    images = [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def test_the_checkpoint_is_a_small_llava_of_a_few_megabytes(base):
    model, processor = base
    assert type(model).__name__ == "LlavaForConditionalGeneration" and type(processor).__name__ == "LlavaProcessor"
    assert sum(parameter.numel() for parameter in model.parameters()) < 2_500_000
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) <= 8 * 1024**2


def test_the_checkpoint_reaches_its_bars_on_held_out_pictures(base):
    # Counting one colour or shape is learned last and worst (83 % of 1,000): its bar only guards against losing it.
    bars = {"colour": 95, "shape": 95, "existence": 95, "position": 90, "count": 90, "attribute_count": 75}
    for kind, bar in bars.items():
        frames, questions, _ = shapes.make_pictures(kind, num_pictures=100, seed=99)
        answers = generate(base, [turn([frame], q.question) for frame, q in zip(frames, questions, strict=True)])
        right = sum(answer == q.answer for answer, q in zip(answers, questions, strict=True))
        assert right >= bar, (kind, right)


@pytest.mark.parametrize("kind", ["colour", "shape", "existence"])
def test_the_checkpoint_answers_about_four_pictures_in_one_run(base, kind):
    frames, questions, _ = shapes.make_runs(kind, 40, 4, seed=98)
    answers = generate(base, [turn(run, q.question) for run, q in zip(frames, questions, strict=True)])
    assert sum(answer == q.answer for answer, q in zip(answers, questions, strict=True)) >= 37


def test_the_checkpoint_answers_after_the_h264_round_trip(base, tmp_path):
    conversations, expected = [], []
    for seed in range(8):
        frames, questions = shapes.make_clip("scenes", seed, 8)
        shapes.write_clip(tmp_path / "clip.mp4", frames)
        with av.open(str(tmp_path / "clip.mp4")) as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        conversations += [turn(decoded[::2], question) for question, _ in questions]
        expected += [answer for _, answer in questions]
    answers = generate(base, conversations)
    assert np.mean([a == b for a, b in zip(answers, expected, strict=True)]) >= 0.9


def test_pictures_of_any_shape_become_sixteen_tokens_and_are_not_cropped(base):
    model, processor = base
    frame, wide = np.full((64, 64, 3), 120, np.uint8), np.full((48, 160, 3), 120, np.uint8)
    wide[:, -1] = 255  # the last column survives only without a crop
    pixels = processor.image_processor([frame, wide], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (2, 3, 64, 64)
    assert float(pixels[1, :, :, -1].min()) > float(pixels[0].max())
    features = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    assert [tuple(feature.shape) for feature in features] == [(16, 128)] * 2


def test_the_tokenizer_bears_capitals_punctuation_and_unknown_words(base):
    tokenizer = base[1].tokenizer
    assert tokenizer("WHAT colour, is the Circle?!").input_ids[-2:] == tokenizer("? !").input_ids
    assert tokenizer("What Colour").input_ids == tokenizer("what colour").input_ids
    assert tokenizer("zyxwv circle").input_ids == [tokenizer.unk_token_id, *tokenizer("circle").input_ids]
    assert tokenizer.decode(tokenizer("top left").input_ids) == "top left"
    assert len(tokenizer("12.5 s").input_ids) == 5


def test_the_chat_template_renders_all_roles_and_marks_what_the_assistant_says(base):
    processor = base[1]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is the cross?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "top left"}]},
        {"role": "user", "content": "What colour?"},
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|system|>You are a helpful assistant.<|end|><|user|><image>Where is the cross?<|end|>"
        "<|assistant|>top left<|end|><|user|>What colour?<|end|><|assistant|>"
    )
    tokens = processor.tokenizer.apply_chat_template(
        messages,
        chat_template=processor.chat_template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    said = [token for token, mask in zip(tokens["input_ids"], tokens["assistant_masks"], strict=True) if mask]
    assert processor.tokenizer.decode(said) == "top left <|end|>"
