"""
Training data from files: jsonl, folders and WebDataset shards become the same rows; what is wrong with a line is said
with its number; the scripts take a folder of clips and a jsonl to a checkpoint that answers.
"""

import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, AutoProcessor

from promises import LINVT, Wrapped, check_refused, wrapped
from transformers_linvt import LinVTInputError, VideoReadError
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.training.collator import LinVTDataCollator
from transformers_linvt.training.data import check_dataset, load_video_dataset, parse_example


# peft 0.21 asks whether checkpointing is on by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CAPTIONS = ("a cat", "two red cars", "rain")


@pytest.fixture(scope="module")
def llava() -> Wrapped:
    return wrapped("llava_phi")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three clips of 6, 7 and 8 frames."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(len(CAPTIONS)):
        write_clip(folder / f"{seed}.mp4", make_clip("scenes", seed, 6 + seed)[0], scale=1)
    return folder


def rows() -> list[dict[str, Any]]:
    return [{"video": f"{i}.mp4", "prompt": "What?", "completion": caption} for i, caption in enumerate(CAPTIONS)]


def jsonl(path: Path, lines: list[Any]) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


# --- jsonl -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_paths_of_a_jsonl_start_from_its_folder(clips: Path, streaming: bool):
    path = jsonl(clips / "train.jsonl", rows())
    expected = [{**row, "video": str(clips / row["video"])} for row in rows()]
    for source in (path, clips):
        assert list(load_video_dataset(source, streaming=streaming)) == expected
    (clips / "all.json").write_text(json.dumps(rows()))
    assert list(load_video_dataset(clips / "all.json", streaming=streaming)) == expected


def test_a_folder_has_its_splits_and_metadata(clips: Path, tmp_path: Path):
    jsonl(tmp_path / "metadata.jsonl", rows())
    jsonl(tmp_path / "test.jsonl", rows()[:1])
    assert len(load_video_dataset(tmp_path)) == 3 and len(load_video_dataset(tmp_path, split="test")) == 1
    check_refused(
        lambda: load_video_dataset(clips, split="nowhere"), LinVTInputError, "nowhere.jsonl", "does not exist"
    )


def test_rows_of_different_kinds_keep_all_their_columns(llava: Wrapped, clips: Path):
    """The columns of the first row are not those of all."""
    llava.picture().save(clips / "picture.png")
    mixed = [rows()[0], {"image": "picture.png", "prompt": "And this?", "completion": "a dog"}, rows()[1]]
    dataset = load_video_dataset(jsonl(clips / "mixed.jsonl", mixed))
    assert dataset["image"][:] == [None, str(clips / "picture.png"), None]
    batch = LinVTDataCollator(llava.processor, num_frames=4)(list(dataset))
    assert batch["frames_per_video"].tolist() == [4, 4] and "pixel_values" in batch


def test_messages_written_in_two_ways_become_one_type(clips: Path):
    lines = [
        {
            "messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "rain"}],
            "video": "0.mp4",
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "video", "path": "1.mp4"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "snow"}]},
            ]
        },
    ]
    dataset = load_video_dataset(jsonl(clips / "messages.jsonl", lines))
    assert dataset[1]["messages"][0]["content"][0]["path"] == str(clips / "1.mp4")
    assert dataset[0]["messages"][1]["content"][0]["text"] == "rain"


def test_addresses_and_tool_calls_in_a_jsonl_are_read_as_the_processor_reads_them(clips: Path):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 3}}}
    other = {"type": "function", "function": {"name": "look", "arguments": {"place": "left"}}}
    lines = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video_url", "video_url": {"url": url}, "num_frames": 2},
                        {"type": "text", "text": "Who?"},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [made]},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "a cat"},
            ]
        }
        for url, made in (((clips / "0.mp4").as_uri(), call), ("1.mp4", other))
    ]
    dataset = load_video_dataset(jsonl(clips / "addresses.jsonl", lines))
    examples = [parse_example(row) for row in dataset]
    assert [one.videos for one in examples] == [[str(clips / "0.mp4")], [str(clips / "1.mp4")]]
    assert [one.sampling for one in examples] == [[{"num_frames": 2}]] * 2
    assert [one.messages[1] for one in examples] == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "assistant", "tool_calls": [other]},
    ]
    lines[1]["messages"][0]["content"][0]["video_url"]["url"] = "../secret.mp4"
    path = jsonl(clips / "out.jsonl", lines)
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "out.jsonl, line 2", "leads out of video_root")


GOOD = json.dumps(rows()[0])
WRONG_LINES = {
    "no JSON": ('{"video": "0.mp4", "prompt"', ("line 3", "no JSON")),
    "unknown keys": ({"clip": "0.mp4", "question": "What?"}, ("line 3", "'clip'", "'question'", "'messages'")),
    "no answer": ({"video": "0.mp4", "prompt": "What?", "completion": []}, ("line 3", "no answer")),
    "no object": ("[1, 2]", ("line 3", "dictionary")),
    "a turn of nobody": (
        {"conversations": [{"from": "robot", "value": "Hi"}], "video": "0.mp4"},
        ("line 3", "'human' or 'gpt'"),
    ),
    "a key that nobody knows": (
        {"prompt": [{"role": "user", "content": [{"type": "video", "nframes": 4}]}], "completion": "x"},
        ("line 3", "'nframes'", "'num_frames'"),
    ),
    "a part without a source": (
        {"prompt": [{"role": "user", "content": [{"type": "video"}]}], "completion": "x"},
        ("line 3", "names no source"),
    ),
}


@pytest.mark.parametrize("name", WRONG_LINES)
def test_a_wrong_line_is_named(tmp_path: Path, name: str):
    line, words = WRONG_LINES[name]
    path = jsonl(tmp_path / "clips.jsonl", [GOOD, "", line, GOOD])
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "clips.jsonl", *words)
    check_refused(lambda: list(load_video_dataset(path, streaming=True)), LinVTInputError, *words)


def test_a_missing_file_is_named(tmp_path: Path):
    check_refused(lambda: load_video_dataset(tmp_path / "no.jsonl"), LinVTInputError, "no.jsonl", "does not exist")
    check_refused(lambda: load_video_dataset(f"{tmp_path}/*.tar"), LinVTInputError, "*.tar", "matches no file")


# --- WebDataset ------------------------------------------------------------------------------------------------------


def shard(path: Path, samples: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, sample in enumerate(samples):
            for extension, data in sample.items():
                info = tarfile.TarInfo(f"{path.stem}-{number}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def sample(clips: Path, row: dict[str, Any]) -> dict[str, bytes]:
    words = {name: value for name, value in row.items() if name != "video"}
    return {"mp4": (clips / row["video"]).read_bytes(), "json": json.dumps(words).encode()}


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_give_the_batches_of_the_files(llava: Wrapped, clips: Path, tmp_path: Path, streaming: bool):
    shard(tmp_path / "a-000.tar", [sample(clips, row) for row in rows()[:2]])
    shard(tmp_path / "a-001.tar", [sample(clips, rows()[2])])
    collator = LinVTDataCollator(llava.processor, num_frames=4, video_root=str(clips))
    expected = collator(rows())
    for source in (tmp_path, f"{tmp_path}/a-*.tar", f"{tmp_path}/a-{{000..001}}.tar"):
        found = list(load_video_dataset(source, streaming=streaming))
        batch = collator(found)
        for name in ("input_ids", "labels", "frame_pixel_values", "caption_ids"):
            assert torch.equal(batch[name], expected[name]), (source, name)


def test_a_sample_without_an_example_is_named(clips: Path, tmp_path: Path):
    shard(tmp_path / "b.tar", [{"mp4": (clips / "0.mp4").read_bytes(), "txt": b"a cat"}])
    dataset = load_video_dataset(tmp_path / "b.tar", streaming=True)
    check_refused(lambda: list(dataset), LinVTInputError, "'b-0'", "txt", "json")


# --- checks before the first step ------------------------------------------------------------------------------------


def many(number: int, missing: int = 0) -> list[dict[str, Any]]:
    """Rows of which the last ones name files that are not there."""
    names = ["0.mp4"] * (number - missing) + [f"gone-{i}.mp4" for i in range(missing)]
    return [{"video": name, "prompt": "What?", "completion": "rain", "id": i} for i, name in enumerate(names)]


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_to_train_on_is_refused(tmp_path: Path, streaming: bool):
    empty = load_video_dataset(jsonl(tmp_path / "empty.jsonl", []), streaming=streaming)
    check_refused(lambda: check_dataset(empty), LinVTInputError, "dataset is empty")
    words = load_video_dataset(
        jsonl(tmp_path / "words.jsonl", [{"prompt": "Why?", "completion": "so"}]), streaming=streaming
    )
    check_refused(lambda: check_dataset(words), LinVTInputError, "No example has a video", "'prompt'", "'video'")


@pytest.mark.parametrize("streaming", [False, True])
def test_what_can_be_trained_on_passes_without_a_word(clips: Path, streaming: bool, caplog: pytest.LogCaptureFixture):
    check_dataset(load_video_dataset(jsonl(clips / "good.jsonl", rows()), streaming=streaming))
    check_dataset(rows(), video_root=clips)  # a list of rows, as good as any dataset
    assert not caplog.records


def test_many_missing_files_are_refused_and_a_few_are_named(clips: Path, caplog: pytest.LogCaptureFixture):
    """Every distinct file counts once: 1 of 3 here, however many rows name the one that is there."""
    source = [{**row, "video": f"{i % 2}.mp4"} for i, row in enumerate(many(20))] + many(1, 1)
    dataset = load_video_dataset(jsonl(clips / "missing.jsonl", source))
    words = ("1 of 3 files", str(clips / "gone-0.mp4"), "video_root")
    check_refused(lambda: check_dataset(dataset), VideoReadError, *words)
    assert not caplog.records
    check_dataset(dataset, max_unreadable_share=0.34)
    assert all(word in caplog.text for word in (*words, "will be skipped"))


def test_of_a_column_of_paths_every_file_is_looked_for(clips: Path):
    """More rows than are parsed, and the missing files between those that are."""
    source = [dict(row, video=f"{i % 3}.mp4") for i, row in enumerate(many(100))]
    source[50:52] = many(2, 2)
    dataset = load_video_dataset(jsonl(clips / "long.jsonl", source))
    check_refused(lambda: check_dataset(dataset), VideoReadError, "2 of 5 files", "gone-0.mp4", "gone-1.mp4")


def test_more_than_five_missing_files_are_not_all_named(clips: Path):
    dataset = load_video_dataset(jsonl(clips / "gone.jsonl", many(9, 7)))
    check_refused(lambda: check_dataset(dataset), VideoReadError, "7 of 8 files", "gone-4.mp4' ...")


def test_missing_files_of_lists_and_parts_are_found(clips: Path):
    lists = [{"videos": ["0.mp4", "gone.mp4"], "prompt": "What?", "completion": "rain"}]
    parts = [{"type": "video", "path": "gone.mp4"}, {"type": "text", "text": "What?"}]
    for source in (lists, [{"prompt": [{"role": "user", "content": parts}], "completion": "rain"}]):
        dataset = load_video_dataset(jsonl(clips / "inner.jsonl", source))
        check_refused(lambda dataset=dataset: check_dataset(dataset), VideoReadError, str(clips / "gone.mp4"))


def test_files_that_are_there_and_cannot_be_read_are_refused_unless_one_can(tmp_path: Path, clips: Path):
    for number in range(3):
        (tmp_path / f"broken-{number}.mp4").write_text("this is no video")
    source = [{"video": f"broken-{i}.mp4", "prompt": "What?", "completion": "rain"} for i in range(3)]
    broken = load_video_dataset(jsonl(tmp_path / "broken.jsonl", source))
    check_refused(lambda: check_dataset(broken), VideoReadError, "None of 3", "broken-0.mp4", "broken-2.mp4")
    source[1]["video"] = str(clips / "0.mp4")
    check_dataset(load_video_dataset(jsonl(tmp_path / "one.jsonl", source)))


def test_an_example_of_no_known_format_is_named_by_its_number(clips: Path):
    dataset = Dataset.from_dict({"video": [str(clips / "0.mp4")] * 2, "prompt": ["a", "b"], "completion": ["c", None]})
    check_refused(
        lambda: check_dataset(dataset), LinVTInputError, "Example 1 of the dataset", "'prompt'", "'messages'"
    )


def test_a_json_file_says_which_entry_is_wrong(tmp_path: Path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps([rows()[0], {"clip": "0.mp4"}]))
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "all.json, entry 2", "'clip'")
    path.write_text("[{")
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "all.json is no JSON")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_late_sample_of_a_shard_without_an_example_is_named(clips: Path, tmp_path: Path, streaming: bool):
    """`datasets` learns the columns from the first five samples only."""
    samples = [sample(clips, rows()[0])] * 6 + [{"mp4": (clips / "0.mp4").read_bytes()}]
    shard(tmp_path / "late.tar", samples)
    check_refused(
        lambda: list(load_video_dataset(tmp_path / "late.tar", streaming=streaming)),
        LinVTInputError,
        "'late-6'",
        "late.tar",
        "json",
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_shards_are_checked_as_files_are(clips: Path, tmp_path: Path, streaming: bool):
    shard(tmp_path / "good.tar", [{"webm": (clips / "0.mp4").read_bytes(), "json": sample(clips, rows()[0])["json"]}])
    dataset = load_video_dataset(tmp_path / "good.tar", streaming=streaming)
    assert next(iter(dataset))["video"]["bytes"] == (clips / "0.mp4").read_bytes()
    check_dataset(dataset)
    shard(tmp_path / "wrong.tar", [{"mp4": (clips / "0.mp4").read_bytes(), "json": b'{"question": "What?"}'}])
    wrong = load_video_dataset(tmp_path / "wrong.tar", streaming=streaming)
    check_refused(lambda: check_dataset(wrong), LinVTInputError, "'question'", "'messages'")


# --- the scripts -----------------------------------------------------------------------------------------------------


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of examples/ as Python runs it: what lies beside it can be imported."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    module = script(name, monkeypatch)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    module.main(*module.make_parser().parse_args_and_config())


@pytest.mark.timeout(300)
def test_the_scripts_lead_from_clips_to_a_checkpoint_that_answers(
    llava: Wrapped, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = jsonl(clips / "train.jsonl", rows())
    options = tmp_path / "options.yaml"
    options.write_text(
        f"dataset_name: {data}\nnum_frames: 5\nper_device_train_batch_size: 2\nuse_cpu: true\nreport_to: none\n"
        "disable_tqdm: true\nsave_strategy: 'no'\nmax_steps: 3\nlearning_rate: 1.0e-3\n"
    )
    linvt = [
        f"--{name}={LINVT[name]}" for name in ("num_video_tokens", "num_kept_tokens", "bottleneck_size", "num_heads")
    ]
    run_script(
        "train_alignment", monkeypatch, "--config", str(options), "--model_name_or_path", str(llava.base_folder),
        "--output_dir", str(tmp_path / "aligned"), "--contrastive_size", "8", *linvt,
    )  # fmt: skip
    aligned = AutoModel.from_pretrained(tmp_path / "aligned")
    assert aligned.config.num_kept_tokens == LINVT["num_kept_tokens"] and aligned.config.contrastive_size == 8
    shards = tmp_path / "shards"
    shards.mkdir()
    shard(shards / "a.tar", [sample(clips, row) for row in rows()])
    run_script(
        "train_instruct", monkeypatch, "--config", str(options), "--model_name_or_path", str(tmp_path / "aligned"),
        "--output_dir", str(tmp_path / "instructed"), "--lora_r", "3", "--dataset_name", str(shards / "a.tar"),
        "--dataset_streaming", "true",
    )  # fmt: skip
    log = json.loads((tmp_path / "instructed" / "trainer_state.json").read_text())
    assert log["global_step"] == 3
    model = AutoModel.from_pretrained(tmp_path / "instructed")
    processor = AutoProcessor.from_pretrained(tmp_path / "instructed")
    assert model.peft_config["default"].r == 3
    run_script(
        "train_instruct", monkeypatch, "--config", str(options), "--model_name_or_path", str(tmp_path / "instructed"),
        "--output_dir", str(tmp_path / "more"), "--max_steps", "1",
    )  # fmt: skip
    more = AutoModel.from_pretrained(tmp_path / "more")
    assert more.peft_config["default"].r == 3  # the adapter that was there, not a new one of the default rank
    head, before = model.linvt.contrastive_head.state_dict(), aligned.linvt.contrastive_head.state_dict()
    assert all(torch.equal(head[name], before[name]) for name in before)  # frozen in stage 2
    features = model.encode_video(**processor.video_inputs(str(clips / "0.mp4"), num_frames=5))
    assert isinstance(model.answer(features, "What?", processor, max_new_tokens=3), str)


def test_clips_are_drawn_evaluated_and_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    module = script("shapes_clips", monkeypatch)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["shapes_clips.py", *arguments])
        module.main()

    folder = tmp_path / "clips"
    run(
        "draw", "--output", str(folder), "--clips", "2", "--captions", "6", "--questions", "40", "--pictures", "2",
        "--num-frames", "8", "--processes", "1",
    )  # fmt: skip
    questions = list(load_video_dataset(folder / "instruct.jsonl"))
    assert len(questions) == 40 and all(Path(row["video"] or row["image"]).exists() for row in questions)
    assert len(load_video_dataset(folder / "align.jsonl")) == 6
    model = module.embedded_model_path()
    run("evaluate", model, "--frames", "6", "--kinds", "needle", "--clips", "3", "--report", str(tmp_path / "r.json"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["clips"]["needle | colour | T=6"][1] == 3 and "needle" in capsys.readouterr().out
    assert report["ceilings"] == {}  # of a needle nothing depends on the order
    run("embed", model, "--output", str(tmp_path / "embedded"))
    assert (tmp_path / "embedded" / "lora" / "adapter_model.safetensors").exists()
    assert not list((tmp_path / "embedded").glob("*.py"))


class WatchedModel:
    """Stands in for a model and its processor: it remembers what it was shown, and always says the same."""

    def __init__(self, answer: str) -> None:
        self.said, self.shown = answer, []

    def video_inputs(self, frames, fps: float, max_frames: int) -> dict[str, Any]:
        assert len(frames) == max_frames
        return {"frames": frames}

    def encode_video(self, frames):
        self.shown.append(frames)

    def answer(self, features, questions: list[str], processor, max_new_tokens: int) -> list[str]:
        return [self.said] * len(questions)


def test_evaluation_shows_clips_in_other_ways_and_knows_the_answers(monkeypatch: pytest.MonkeyPatch):
    module = script("shapes_clips", monkeypatch)
    split, num_clips, num_frames = "clip_choose", 7, 9
    seeds = range(module.FIRST_CLIP, module.FIRST_CLIP + num_clips)
    scripts = [module.shapes.script_clip("traverse", seed, num_frames, split) for seed in seeds]
    answers = [script.questions[0].answer for script in scripts]
    model = WatchedModel(answers[0])
    frames = {}
    for variant in module.variants("traverse"):
        right = module.answer_clips(model, model, "traverse", num_clips, num_frames, variant, split)
        opposite = module.shapes.OPPOSITES[answers[0]] if variant == "backwards" else answers[0]
        assert right == {("", "direction"): [answer == opposite for answer in answers]}
        frames[variant], model.shown = model.shown, []
    assert list(frames) == ["", "shuffled", "backwards"]
    for as_they_are, shuffled, backwards in zip(*frames.values(), strict=True):
        assert (backwards == as_they_are[::-1]).all()
        assert sorted(map(bytes, shuffled)) == sorted(map(bytes, as_they_are))


def test_a_still_clip_is_asked_about_beside_its_first_frame(monkeypatch: pytest.MonkeyPatch):
    module = script("shapes_clips", monkeypatch)
    assert module.variants("static") == ("", "as a picture") and module.variants("needle") == ("",)
    asked = []

    def answer_pictures(model, processor, frames, questions):
        asked.append((frames, questions))
        return ["yes"] * len(questions)

    monkeypatch.setattr(module, "answer_pictures", answer_pictures)
    right = module.answer_clips(None, None, "static", 2, 5, "as a picture", "clip_choose")
    assert right["", "existence"] == [True, False] * 2  # "yes" is one of two answers, for every clip
    for seed, (frames, questions) in enumerate(asked, start=module.FIRST_CLIP):
        clip, expected = make_clip("static", seed, 5, split="clip_choose")
        assert questions == [question for question, _ in expected]
        assert all((frame == clip[0]).all() for frame in frames)


def test_guesses_without_the_order_reach_half_of_the_directions(monkeypatch: pytest.MonkeyPatch):
    module = script("shapes_clips", monkeypatch)
    for kind, seen in (("traverse", "shuffled"), ("traverse", "first"), ("direction", "shuffled")):
        assert 49 < module.ceiling(kind, 800, 8, seen) < 56
    assert module.ceiling("direction", 800, 8, "first") < 40  # a quarter, fitted to the clips it is counted on
    assert 38 < module.ceiling("count", 800, 16) < 48


# --- files of other people -------------------------------------------------------------------------------------------


def test_ids_of_two_kinds_do_no_harm_and_videos_of_two_kinds_are_named(clips: Path):
    mixed = [{**rows()[0], "id": 1}, {**rows()[1], "id": "a"}]
    assert load_video_dataset(jsonl(clips / "ids.jsonl", mixed))["completion"][:] == list(CAPTIONS[:2])
    path = jsonl(clips / "kinds.jsonl", [rows()[0], {**rows()[1], "video": ["1.mp4"]}])
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "kinds.jsonl", "'video'", "same way")


def test_encodings_are_read_or_named(clips: Path, tmp_path: Path):
    (clips / "bom.jsonl").write_text(json.dumps(rows()[0]), encoding="utf-8-sig")
    assert len(load_video_dataset(clips / "bom.jsonl")) == 1
    path = tmp_path / "latin.jsonl"
    path.write_bytes(
        json.dumps(rows()[0]).encode() + b'\n{"video": "0.mp4", "prompt": "Caf\xe9?", "completion": "x"}\n'
    )
    check_refused(lambda: load_video_dataset(path), LinVTInputError, "latin.jsonl", "line 2", "UTF-8")
    check_refused(lambda: load_video_dataset(tmp_path / "nowhere"), LinVTInputError, "nowhere", "does not exist")


def test_videos_in_parts_are_looked_for_beside_a_column(clips: Path):
    part = [{"role": "user", "content": [{"type": "video", "path": "gone.mp4"}, {"type": "text", "text": "What?"}]}]
    column = [{"role": "user", "content": [{"type": "text", "text": "What?"}]}]
    lines = [{"prompt": column, "completion": "x", "video": "0.mp4"}] + [{"prompt": part, "completion": "x"}] * 6
    dataset = load_video_dataset(jsonl(clips / "parts.jsonl", lines))
    check_refused(lambda: check_dataset(dataset), VideoReadError, "1 of 2", "gone.mp4")


def test_a_file_is_no_other_split_and_metadata_is_for_training(clips: Path, tmp_path: Path):
    path = jsonl(clips / "train.jsonl", rows())
    check_refused(lambda: load_video_dataset(path, split="test"), LinVTInputError, "no split 'test'", "test.jsonl")
    jsonl(tmp_path / "metadata.jsonl", rows())
    check_refused(lambda: load_video_dataset(tmp_path, split="test"), LinVTInputError, "test.jsonl", "does not exist")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_root_takes_the_place_of_the_jsonls_folder(clips: Path, tmp_path: Path, streaming: bool):
    dataset = load_video_dataset(jsonl(tmp_path / "a.jsonl", rows()), video_root=clips, streaming=streaming)
    assert next(iter(dataset))["video"] == str(clips / "0.mp4")


def test_a_stream_may_begin_without_a_video(clips: Path):
    lines = [{"prompt": "Hi?", "completion": "Hello."}, rows()[0]]
    check_dataset(load_video_dataset(jsonl(clips / "late.jsonl", lines), streaming=True))
    only = load_video_dataset(jsonl(clips / "words.jsonl", lines[:1]), streaming=True)
    check_refused(lambda: check_dataset(only), LinVTInputError, "No example has a video")
