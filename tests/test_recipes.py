"""
The recipes of examples/recipes: published formats become rows that training reads, configurations are those of the
scripts, and the figures of the page are those that are computed. Nothing is trained: no real base is here.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from recipe_bases import write_recipe_base
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.training.data import load_video_dataset, parse_example


EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RECIPES = ("qwen2_vl_2b", "internvl3_1b", "smolvlm2_500m")


@pytest.fixture(scope="module")
def scripts():
    folders = [str(EXAMPLES / "recipes" / "data"), str(EXAMPLES / "recipes")]
    sys.path[:0] = folders
    names = ("common", "costs", "finevideo", "llava_instruct", "llava_video", "videochat2")
    yield {name: importlib.import_module(name) for name in names}
    for folder in folders:
        sys.path.remove(folder)
    for name in names:
        sys.modules.pop(name)


@pytest.fixture
def clips(tmp_path):
    folder = tmp_path / "set" / "part"
    folder.mkdir(parents=True)
    for number in range(2):
        write_clip(folder / f"clip{number}.mp4", make_clip("needle", number, 6)[0])
    Image.fromarray(np.full((40, 48, 3), 99, np.uint8)).save(tmp_path / "set" / "picture.jpg")
    return tmp_path / "set"


def read(path):
    """Examples of a jsonl as training reads them."""
    dataset = load_video_dataset(path)
    examples = [parse_example(row, path.parent) for row in dataset]
    assert all(Path(video).is_file() for one in examples for video in one.videos if isinstance(video, str))
    return examples


def words(example):
    """Who says what."""
    return [
        (one["role"], one["content"] if isinstance(one["content"], str) else one["content"][-1]["text"])
        for one in example.messages
    ]


def annotate(folder, rows, name="rows.json"):
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def turns(question="<image>\nWhat colour is it?", *more):
    said = [question, "red", *more]
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(said)]


def test_llava_video_becomes_questions_and_conversations(scripts, clips, tmp_path, capsys):
    rows = [
        {"id": "0", "video": "part/clip0.mp4", "data_source": "part", "conversations": turns()},
        {"id": "1", "video": "part/clip1.mp4", "conversations": turns("<image>\nWhat is it?", "Where?", "here")},
        {"id": "2", "video": "part/gone.mp4", "conversations": turns()},
    ]
    given = ["--annotations", annotate(clips, rows), "--videos", clips, "--output", tmp_path / "data" / "x.jsonl"]
    assert scripts["llava_video"].main(list(map(str, given))) == 0
    assert "2 rows; 1 left out" in capsys.readouterr().out
    one, other = read(tmp_path / "data" / "x.jsonl")
    assert words(one) == [("user", "What colour is it?"), ("assistant", "red")]
    assert [text for _, text in words(other)] == ["What is it?", "red", "Where?", "here"]
    assert len(one.videos) == len(other.videos) == 1


def test_videochat2_keeps_instructions_and_the_part_of_the_video(scripts, clips, tmp_path):
    pairs = [{"i": "Answer briefly.", "q": "What colour?", "a": "red"}, {"q": "Where?", "a": "top"}]
    rows = [
        {"video": "part/clip0.mp4", "QA": pairs},
        {
            "video": "part/clip1.mp4",
            "QA": [{"i": "Describe it.", "q": "", "a": "A circle."}],
            "start": 0.1,
            "end": 0.5,
        },
    ]
    given = ["--annotations", annotate(clips, rows), "--videos", clips, "--output", tmp_path / "x.jsonl"]
    assert scripts["videochat2"].main(list(map(str, given))) == 0
    first, second, third = read(tmp_path / "x.jsonl")
    assert words(first)[0] == ("user", "Answer briefly.\nWhat colour?") and words(second)[0] == ("user", "Where?")
    assert words(third) == [("user", "Describe it."), ("assistant", "A circle.")]
    assert third.sampling == [{"start": 0.1, "end": 0.5}] and first.sampling == [{}]
    assert [Path(video).name for video in third.videos] == ["clip1.mp4"]


def test_llava_instruct_becomes_pictures(scripts, clips, tmp_path):
    rows = [{"id": "7", "image": "picture.jpg", "conversations": turns("What is it?\n<image>", "Where?", "there")}]
    given = ["--annotations", annotate(clips, rows), "--pictures", clips, "--output", tmp_path / "x.jsonl"]
    assert scripts["llava_instruct"].main(list(map(str, given))) == 0
    (one,) = read(tmp_path / "x.jsonl")
    assert [text for _, text in words(one)] == ["What is it?", "red", "Where?", "there"]
    assert not one.videos and len(one.picture_parts()) == 1


def test_finevideo_becomes_files_captions_and_questions(scripts, clips, tmp_path):
    about = {
        "content_fine_category": "Drawing",
        "content_metadata": {
            "description": "A circle appears.",
            "qAndA": [{"question": "What colour?", "answer": "red"}, {"question": "What?", "answer": "a circle"}],
        },
    }
    rows = [{"mp4": (clips / "part" / f"clip{number}.mp4").read_bytes(), "json": about} for number in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(clips / "data" / "train-00000.parquet")
    given = ["--source", clips, "--output", tmp_path / "data"]
    assert scripts["finevideo"].main(list(map(str, given))) == 0
    captions, questions = (read(tmp_path / "data" / f"{name}.jsonl") for name in ("align", "instruct"))
    assert [words(one) for one in captions] == [
        [("user", "Describe the video."), ("assistant", "A circle appears.")]
    ] * 2
    assert len(questions) == 4 and words(questions[3])[1] == ("assistant", "a circle")
    assert (tmp_path / "data" / "videos" / "000001.mp4").read_bytes() == rows[1]["mp4"]


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("llava_video", {"conversations": turns()}, "row 1 of rows.json has no str 'video', only conversations"),
        ("llava_video", {"video": "part/clip0.mp4", "conversations": turns()[:1]}, "row 1 of rows.json has 1 turns"),
        ("llava_video", {"video": "part/clip0.mp4", "conversations": turns()[::-1]}, "a turn of 'gpt' where 'human'"),
        (
            "videochat2",
            {"video": "part/clip0.mp4", "QA": [{"q": "Who?"}]},
            "row 1 of rows.json has no str 'a', only q",
        ),
        ("videochat2", {"video": "part/clip0.mp4", "QA": [{"q": "", "a": "red"}]}, "neither an instruction"),
    ],
)
def test_a_row_that_is_none_is_named_and_nothing_is_written(name, row, message, scripts, clips, tmp_path, capsys):
    good = {"video": "part/clip0.mp4", "conversations": turns(), "QA": [{"q": "Who?", "a": "red"}]}
    given = ["--annotations", annotate(clips, [good, row]), "--videos", clips, "--output", tmp_path / "x.jsonl"]
    assert scripts[name].main(list(map(str, given))) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()


def test_a_folder_without_any_of_the_files_is_an_error(scripts, clips, tmp_path, capsys):
    rows = [{"video": "clip9.mp4", "conversations": turns()}]
    given = ["--annotations", annotate(clips, rows), "--videos", clips, "--output", tmp_path / "x.jsonl"]
    assert scripts["llava_video"].main(list(map(str, given))) == 1
    assert "of 1 the file is missing" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("script", "config"), [("train_alignment", "align"), ("train_instruct", "instruct")])
def test_a_configuration_is_one_of_its_script(recipe, script, config):
    make_parser = runpy.run_path(str(EXAMPLES / f"{script}.py"))["make_parser"]
    path = EXAMPLES / "recipes" / recipe / f"{config}.yaml"
    script_args, training, model = make_parser().parse_args_and_config(["--config", str(path), "--use_cpu"])
    assert script_args.dataset_name == f"data/{config}.jsonl"
    assert training.output_dir == f"outputs/{recipe}/{config}ed"
    assert training.stage == {"align": "align", "instruct": "instruct"}[config]
    start = model.model_name_or_path
    assert start == f"outputs/{recipe}/aligned" if config == "instruct" else "/" in start and model.num_video_tokens


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_figures_of_the_page_are_those_that_are_computed(recipe, scripts, tmp_path, capsys):
    folder = EXAMPLES / "recipes"
    scripts["costs"].main([str(folder / recipe), "--base", str(write_recipe_base(recipe, tmp_path / "base"))])
    about, *table = capsys.readouterr().out.splitlines()
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`{recipe}`: {about}\n\n" + "\n".join(table) + "\n" in page
    parameters = {"qwen2_vl_2b": 2209, "internvl3_1b": 938, "smolvlm2_500m": 507}  # of the published weights, in M
    assert about.startswith(f"{parameters[recipe]:,} M parameters")
    assert all(line.split(" | ")[5] == "yes" for line in table[2:])  # every recipe fits both cards


def test_memory_grows_with_what_is_held(scripts):
    costs = scripts["costs"]
    sizes = costs.Sizes(10**9, 10**7, 10**6, 100, 8, 16, 50, 64, 2, 512, 4, 1000, 10**12, 10**10, 10**11)
    assert costs.fixed_bytes(sizes, 1) == 2 * 10**9 + 16 * 10**7
    assert costs.fixed_bytes(sizes, 2) == costs.fixed_bytes(sizes, 1) + 16 * 10**6 + 4 * 10**7
    per_example = costs.bytes_per_example(sizes)
    assert costs.most_at_once(sizes, 1, 2 + (costs.fixed_bytes(sizes, 1) + 9 * per_example) / 1e9) == 8
    assert costs.most_at_once(sizes, 1, 3) == 0
    assert costs.flops_per_example(sizes) == 10**12 + 3 * 10**10 + 2 * 10**11 * (50 + costs.WORDS) / 50
