"""
Stage 2 learns answers and moves LinVT and LoRA alone; a killed run goes on as if nothing had happened; accumulation is
exact; what cannot be trained on is refused before the first step.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Video
from peft import IA3Config
from transformers import AutoModel, TrainerCallback

from promises import FAMILIES, NUM_VIDEO_TOKENS, Wrapped, check_refused, snapshot, user, wrapped
from training_runs import CAPTIONS, FRAMES, ROUNDING, examples, relative_error, step, stream
from transformers_linvt import CheckpointError, LinVTForVideoQA, LinVTInputError, LinVTProcessor, VideoReadError
from transformers_linvt.demo.shapes import make_clip, write_clip
from transformers_linvt.training.lora import load_for_training, lora_config
from transformers_linvt.training.resume import find_checkpoint, find_whole_checkpoint
from transformers_linvt.training.sft_config import LinVTSFTConfig
from transformers_linvt.training.sft_trainer import LinVTSFTTrainer
from transformers_linvt.training.stages import apply_stage, what_moves


# peft 0.21 asks whether checkpointing is on by the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
EVERY_FRAME = 32  # more than any clip here has


@pytest.fixture
def family() -> Wrapped:
    return wrapped("llava_phi")


def config(folder: Path, **kwargs: Any) -> LinVTSFTConfig:
    given = {
        "max_steps": 1,
        "per_device_train_batch_size": len(CAPTIONS),
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_frames": EVERY_FRAME,
        **kwargs,
    }
    return LinVTSFTConfig(str(folder), **given)


def trainer_of(family: Wrapped, folder: Path, rows: Any = None, lora: bool = True, **kwargs: Any) -> LinVTSFTTrainer:
    rows = stream(examples(family), 1000) if rows is None else rows
    own = {name: kwargs.pop(name) for name in ("eval_dataset", "callbacks") if name in kwargs}
    return LinVTSFTTrainer(
        family.model,
        config(folder, **kwargs),
        train_dataset=rows,
        processing_class=family.processor,
        peft_config=lora_config(family.model, r=3, lora_dropout=0.0) if lora else None,
        **own,
    )


def is_trained(name: str) -> bool:
    return ".lora_" in name or "linvt.modules_to_save." in name


# The limit is there for what never ends, and not to measure how much else the machine has to do.
SLOW_UNDER_LOAD = pytest.mark.timeout(1200)


# --- learning --------------------------------------------------------------------------------------------------------


@SLOW_UNDER_LOAD
def test_stage_two_learns_answers_and_moves_linvt_and_lora_alone(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, max_steps=120, learning_rate=5e-3)
    before = snapshot(trainer.model)
    trainer.train()
    after = trainer.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name in after if is_trained(name)}
    assert {name for name, p in trainer.model.named_parameters() if p.requires_grad} == moved
    log = [entry for entry in trainer.state.log_history if "mean_token_accuracy" in entry]
    assert log[-1]["loss"] < log[0]["loss"] / 20
    assert log[-1]["frames_per_video"] == pytest.approx(sum(FRAMES) / len(FRAMES))
    assert log[-1]["tokens_per_video"] == NUM_VIDEO_TOKENS and log[-1]["unreadable_videos"] == 0
    trainer.model.eval()
    answers = [
        trainer.model.generate(**family.inputs(user(row["video"], row["prompt"])), max_new_tokens=20, do_sample=False)
        for row in examples(family)
    ]
    said = [family.processor.batch_decode(answer, skip_special_tokens=True)[0] for answer in answers]
    assert sum(one.strip().endswith(caption) for one, caption in zip(said, CAPTIONS, strict=True)) >= 4, said


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_a_step_with_and_without_lora(name: str, tmp_path: Path):
    for lora, stage in ((True, "instruct"), (False, "align")):
        family = wrapped(name)
        rows = stream(examples(family)[:2], 1000)
        trainer = trainer_of(family, tmp_path, rows, lora, stage=stage, per_device_train_batch_size=2, max_steps=2)
        before = snapshot(trainer.model)
        trainer.train()
        after = trainer.model.state_dict()
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        expected = {name for name in after if (is_trained(name) if lora else name.startswith("model.linvt."))}
        assert moved <= expected and len(moved) > 0.9 * len(expected)  # softmax has weights whose gradient is 0


def test_linvt_and_its_scorer_have_rates_of_their_own(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, learning_rate=3e-3, linvt_learning_rate=2e-3, scorer_learning_rate=1e-3)
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    for name, rate in rates.items():
        assert rate == (3e-3 if ".lora_" in name else 1e-3 if ".scorer." in name else 2e-3), name
    decays = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(rates)


def test_one_times_eight_is_eight_times_one(family: Wrapped, tmp_path: Path):
    captions = (*CAPTIONS, "a dog barks", "the sun", "it snows on a hill")
    rows = [
        {"prompt": "Describe it.", "completion": caption, "video": family.clip(3 + i % 4, i)}
        for i, caption in enumerate(captions)
    ]
    trainer = trainer_of(family, tmp_path, stream(rows))
    trainer.model.train()
    loss, whole = step(trainer, rows)
    parts_loss, parts = step(trainer, *[[row] for row in rows])
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    assert relative_error(parts, whole) < ROUNDING
    trainer.model_accepts_loss_kwargs = False  # the control: a mean of means weighs short answers more
    assert relative_error(step(trainer, *[[row] for row in rows])[1], whole) > 0.01


def test_evaluation_is_the_loss_of_the_answers(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, eval_dataset=stream(examples(family)), per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    loss, _ = step(trainer, examples(family))
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["eval_tokens_per_video"] == NUM_VIDEO_TOKENS


def test_text_pictures_and_videos_train_in_one_batch(family: Wrapped, tmp_path: Path):
    rows = examples(family)[:2]
    rows.append({"prompt": "Hi?", "completion": "Hello."})
    rows.append({"prompt": "And this?", "completion": "a picture", "image": family.picture()})
    trainer = trainer_of(family, tmp_path, stream(rows), per_device_train_batch_size=4)
    loss, gradients = step(trainer, rows)
    assert loss > 0 and any(gradient.any() for gradient in gradients.values())
    only = [step(trainer, [row])[0] for row in rows]
    counts = [sum(label != -100 for label in trainer.data_collator([row])["labels"][0].tolist()) for row in rows]
    assert loss == pytest.approx(sum(a * b for a, b in zip(only, counts, strict=True)) / sum(counts), rel=1e-4)


def test_words_alone_move_nothing_where_there_is_no_lora(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, stream(examples(family)), lora=False, stage="linvt")
    loss, gradients = step(trainer, [{"prompt": "Hi?", "completion": "Hello."}])
    assert loss > 0 and gradients and not any(gradient.any() for gradient in gradients.values())


def test_answers_of_the_assistant_alone_need_no_template_that_trl_knows(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, assistant_only_loss=True)
    assert trainer.args.assistant_only_loss and trainer.data_collator.assistant_only_loss
    assert step(trainer, examples(family))[0] > 0


# --- what is saved ---------------------------------------------------------------------------------------------------


def test_the_result_is_one_folder_that_loads_as_it_is(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path / "out", max_steps=2, save_strategy="steps", save_steps=1)
    trainer.train()
    trainer.save_model()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "lora", "processor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))] and "adapter_config.json" not in names
    assert (tmp_path / "out" / "checkpoint-2" / "adapter_model.safetensors").exists()
    again = AutoModel.from_pretrained(tmp_path / "out")
    inputs = family.inputs(user(family.clip(5), "What?"))
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, trainer.model.eval()(**inputs).logits)
    LinVTProcessor.from_pretrained(tmp_path / "out")
    check_refused(
        lambda: trainer_of(Wrapped(family.name, again, family.processor, family.base_folder), tmp_path / "more"),
        LinVTInputError,
        "load_for_training",
    )
    more = load_for_training(tmp_path / "out")
    trainer = LinVTSFTTrainer(
        more, config(tmp_path), train_dataset=stream(examples(family)), processing_class=family.processor
    )
    assert step(trainer, examples(family))[0] > 0 and any("lora_A" in name for name, _ in more.named_parameters())


def test_an_adapter_of_another_kind_is_left_to_peft_and_names_its_model(family: Wrapped, tmp_path: Path):
    ia3 = IA3Config(target_modules=["q_proj"], feedforward_modules=[])

    def trainer_around(model: LinVTForVideoQA) -> LinVTSFTTrainer:
        return LinVTSFTTrainer(
            model, config(tmp_path / "out", learning_rate=0.01), train_dataset=stream(examples(family), 9),
            peft_config=ia3, processing_class=family.processor,
        )  # fmt: skip

    check_refused(lambda: trainer_around(family.model), LinVTInputError, "IA3", "never saved", "save_pretrained")
    family.model.save_pretrained(tmp_path / "model")
    trainer = trainer_around(LinVTForVideoQA.from_pretrained(tmp_path / "model"))
    assert {"LinVT", "ia3_l"} == set(trainer.parameter_counts["kinds"])
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "out" / "adapter_model.safetensors").exists() and not (tmp_path / "out" / "lora").exists()
    inputs = family.inputs(user(family.clip(5), "What?"))
    with torch.no_grad():
        again = AutoModel.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(again(**inputs).logits, trainer.model.eval()(**inputs).logits)


# --- what reaches nothing --------------------------------------------------------------------------------------------


def files(folder: Path, number: int, **kwargs: Any) -> Dataset:
    """Rows of clips in files that can be read."""
    write_clip(folder / "clip.mp4", make_clip("scenes", 1, 5)[0], scale=1)
    rows = [{"video": str(folder / "clip.mp4"), "prompt": "What?", "completion": f"{i} cats"} for i in range(number)]
    return Dataset.from_list(rows)


def test_fewer_examples_than_a_batch_are_refused_with_both_numbers(family: Wrapped, tmp_path: Path):
    few, enough = files(tmp_path, 3), files(tmp_path, 5)
    given = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "dataloader_drop_last": True}
    check_refused(
        lambda: trainer_of(family, tmp_path, few, **given), LinVTInputError, "3 examples", "batch has 4", "at most 3"
    )
    check_refused(
        lambda: trainer_of(family, tmp_path, enough, eval_dataset={"small": few}, **given),
        LinVTInputError, "'small'", "3 examples", "batch has 4", "at most 3",
    )  # fmt: skip
    trainer_of(family, tmp_path, few, per_device_train_batch_size=4).train()  # a smaller batch is one, too


def test_data_that_end_before_a_batch_are_not_taken_for_a_training(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, stream(examples(family)), eval_dataset=stream(examples(family)))
    trainer.train_dataset = trainer.eval_dataset = stream([])  # as a stream that can be read once
    check_refused(trainer.train, LinVTInputError, "before the first step", "5 examples")
    check_refused(trainer.evaluate, LinVTInputError, "no figures", "per_device_eval_batch_size")
    other = wrapped("llava_phi")
    check_refused(lambda: trainer_of(other, tmp_path, max_steps=-1), LinVTInputError, "max_steps")


def test_what_cannot_be_saved_is_refused_before_the_first_step(tmp_path: Path):
    def check(change: Any, *words: str) -> None:
        family = wrapped("llava_phi")
        change(family.model)
        check_refused(lambda: trainer_of(family, tmp_path), CheckpointError, *words)

    def come_from_memory(model: LinVTForVideoQA) -> None:
        model._base_as_loaded = None

    check(lambda model: model.resize_token_embeddings(400), "changed since it was loaded", "include_base=True")
    check(come_from_memory, "came as a loaded model", "include_base=True")
    family = wrapped("llava_phi")
    come_from_memory(family.model)
    family.model.config.includes_base = True  # then the base is saved, too
    trainer_of(family, tmp_path / "checkpoint-10").save_model()  # and a result is one, whatever its folder is called
    assert AutoModel.from_pretrained(tmp_path / "checkpoint-10").config.includes_base


def test_the_start_of_a_run_says_what_moves(family: Wrapped, tmp_path: Path):
    counts = trainer_of(family, tmp_path).parameter_counts
    assert (
        set(counts["kinds"]) == {"LinVT", "lora_A", "lora_B"} and sum(counts["kinds"].values()) == counts["trainable"]
    )
    line = what_moves("instruct", counts)
    assert f"LinVT {counts['kinds']['LinVT']:,}" in line and f"{counts['total']:,}" in line


def test_batches_of_like_length_need_no_column(family: Wrapped, tmp_path: Path):
    rows = Dataset.from_list(
        [{**row, "completion": "cat " * (1 + 40 * (i % 2))} for i, row in enumerate(files(tmp_path, 40))]
    )
    trainer = trainer_of(
        family, tmp_path, rows, per_device_train_batch_size=4, train_sampling_strategy="group_by_length"
    )
    words = [[len(rows[i]["completion"]) for i in batch] for batch in trainer.get_train_dataloader().batch_sampler]
    # transformers sorts every two batches by length: at most one of the two is mixed, and the first has the longest
    assert len(words) == 10 and sum(len(set(batch)) > 1 for batch in words) <= 6


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_videos_are_left_to_the_collator(family: Wrapped, tmp_path: Path, streaming: bool):
    rows = files(tmp_path, 4).cast_column("video", Video())
    trainer = trainer_of(family, tmp_path, rows.to_iterable_dataset() if streaming else rows, num_frames=4)
    trainer.train()
    assert trainer.state.log_history[0]["frames_per_video"] == 4


def test_the_best_step_is_brought_back_whole_and_older_ones_are_deleted(family: Wrapped, tmp_path: Path):
    seen = []

    class Score(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any):
            seen.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
            metrics["eval_mine"] = [9, 1, 5][len(seen) - 1]

    trainer = trainer_of(
        family, tmp_path, eval_dataset=stream(examples(family)[:2]), callbacks=[Score()], learning_rate=1e-2,
        max_steps=3, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1, save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="mine", greater_is_better=False,
    )  # fmt: skip
    trainer.train()
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in seen[1].items())  # LinVT and LoRA of the same step
    assert not all(torch.equal(now[name], value) for name, value in seen[2].items())
    assert not (tmp_path / "checkpoint-1").exists() and (tmp_path / "checkpoint-2").exists()


# --- stopped and resumed ---------------------------------------------------------------------------------------------


KILLED_AT, STEPS = 5, 8
PROGRAM = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
from transformers_linvt import LinVTForVideoQA, LinVTProcessor, LinVTSFTConfig, LinVTSFTTrainer, load_video_dataset
from transformers_linvt import lora_config

base, clips, out, killed_at, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
torch.set_num_threads(1)
torch.manual_seed(0)

class Killer(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

model = LinVTForVideoQA.from_pretrained(base)
seen = []
trainer = LinVTSFTTrainer(
    model,
    LinVTSFTConfig(
        out, max_steps=steps, per_device_train_batch_size=2, logging_steps=1, save_steps=2, report_to="none",
        disable_tqdm=True, use_cpu=True, num_frames=4, learning_rate=1e-2, seed=3,
    ),
    train_dataset=load_video_dataset(clips),
    processing_class=LinVTProcessor.from_pretrained(base),
    peft_config=lora_config(model, r=3, lora_dropout=0.1),
    callbacks=[Killer()],
)
collate = trainer.data_collator
trainer.data_collator = lambda rows: (seen.append([row["video"] for row in rows]), collate(rows))[1]
trainer.train(resume_from_checkpoint=killed_at < 0)
trainer.save_model()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
json.dump({"losses": losses, "seen": seen}, open(os.path.join(out, "log.json"), "w"))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five clips of different length, and a jsonl."""
    folder = tmp_path_factory.mktemp("clips")
    with (folder / "train.jsonl").open("w") as file:
        for seed, caption in enumerate(CAPTIONS):
            write_clip(folder / f"{seed}.mp4", make_clip("scenes", seed, 5 + seed)[0], scale=1)
            file.write(json.dumps({"video": f"{seed}.mp4", "prompt": "What?", "completion": caption}) + "\n")
    return folder


def run_program(base: Path, clips: Path, out: Path, killed_at: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", PROGRAM, base, clips, out, killed_at, STEPS]
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@SLOW_UNDER_LOAD
def test_a_killed_run_goes_on_bit_for_bit(clips: Path, tmp_path: Path):
    family = wrapped("llava_phi")
    family.model.save_pretrained(tmp_path / "model")
    family.processor.save_pretrained(tmp_path / "model")
    whole = run_program(tmp_path / "model", clips, tmp_path / "whole", STEPS + 1)
    assert whole.returncode == 0, whole.stderr[-2000:]
    killed = run_program(tmp_path / "model", clips, tmp_path / "killed", KILLED_AT)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "log.json").exists()
    (tmp_path / "killed" / "checkpoint-6").mkdir()  # as if it had been killed while saving
    resumed = run_program(tmp_path / "model", clips, tmp_path / "killed", -1)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "checkpoint-6 is half-written" in resumed.stderr
    expected, found = (json.loads((tmp_path / name / "log.json").read_text()) for name in ("whole", "killed"))
    assert len(expected["losses"]) == STEPS and found["losses"] == expected["losses"]
    assert len({tuple(batch) for batch in expected["seen"]}) > STEPS / 2
    left = expected["seen"][KILLED_AT // 2 * 2 :]  # after the last checkpoint
    assert found["seen"][-len(left) :] == left
    one, other = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_half_written_checkpoint_is_named(tmp_path: Path):
    for number, state in ((2, "{}"), (4, '{"global_step": 4}'), (10, '{"global_st'), (12, None)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-x").mkdir()
    assert find_whole_checkpoint(str(tmp_path), True).endswith("checkpoint-4")
    for number in (10, 12):
        named = str(tmp_path / f"checkpoint-{number}")
        check_refused(lambda named=named: find_whole_checkpoint(str(tmp_path), named), CheckpointError, "checkpoint-4")
    check_refused(lambda: find_whole_checkpoint(str(tmp_path / "new"), True), CheckpointError, "no whole checkpoint")
    for said in (True, "true", "True", "yes"):  # as Python, a YAML file and a command line say it
        assert find_checkpoint(str(tmp_path), said).endswith("checkpoint-4")
    for said in (None, False, "false", "no"):
        assert find_checkpoint(str(tmp_path), said) is None


# --- unreadable videos -----------------------------------------------------------------------------------------------


def mixed(clips: Path, folder: Path, good: int, bad: int) -> Dataset:
    """Rows of good clips and then of broken ones."""
    rows = [{"video": str(clips / f"{i % 5}.mp4"), "prompt": "What?", "completion": "a cat"} for i in range(good)]
    for number in range(bad):
        (folder / f"bad{number}.mp4").write_bytes(b"no video")
        rows.append({"video": str(folder / f"bad{number}.mp4"), "prompt": "What?", "completion": "a dog"})
    return Dataset.from_list(rows)


def test_a_few_unreadable_videos_are_counted(family: Wrapped, clips: Path, tmp_path: Path):
    rows = mixed(clips, tmp_path, 7, 1)
    trainer = trainer_of(family, tmp_path, rows, per_device_train_batch_size=8, max_steps=2, max_unreadable_share=0.2)
    trainer.train()
    assert trainer.state.log_history[1]["unreadable_videos"] == 2  # once in each epoch
    assert trainer.state.log_history[1]["unreadable_share"] == 2 / 16


def test_too_many_unreadable_videos_stop_the_run_with_their_names(family: Wrapped, clips: Path, tmp_path: Path):
    rows = mixed(clips, tmp_path, 28, 12)
    trainer = trainer_of(family, tmp_path, rows, per_device_train_batch_size=20, max_steps=9, max_unreadable_share=0.1)
    with pytest.raises(VideoReadError) as caught:
        trainer.train()
    found = re.match(r"(\d+) of (\d+) examples", str(caught.value))
    assert int(found[1]) > 0.1 * int(found[2]) and int(found[2]) <= 40
    assert re.search(r"bad\d+\.mp4", str(caught.value)) and "max_unreadable_share=0.1" in str(caught.value)


# --- refusals, all before the first step -----------------------------------------------------------------------------


GOOD = {"prompt": "What?", "completion": "a cat"}
BAD_DATASETS = {
    "empty": (lambda folder: Dataset.from_list([]), LinVTInputError, ("empty",)),
    "an empty stream": (lambda folder: stream([]), LinVTInputError, ("empty",)),
    "no video": (lambda folder: Dataset.from_list([GOOD]), LinVTInputError, ("No example has a video", "'prompt'")),
    "no answer": (
        lambda folder: Dataset.from_list([{"prompt": "What?", "video": "a.mp4"}]),
        LinVTInputError,
        ("Example 0", "'prompt'", "'video'", "'completion'"),
    ),
    "missing files": (
        lambda folder: Dataset.from_list([{**GOOD, "video": "nowhere.mp4"}]),
        VideoReadError,
        ("1 of 1", "nowhere.mp4", "video_root"),
    ),
    "missing pictures": (
        lambda folder: Dataset.from_list([{**GOOD, "video": __file__, "image": "nowhere.png"}]),
        VideoReadError,
        ("1 of 2", "nowhere.png"),
    ),
    "broken files": (lambda folder: mixed(folder, folder, 0, 3), VideoReadError, ("bad0.mp4",)),
    "nothing": (lambda folder: None, LinVTInputError, ("train_dataset",)),
}


@pytest.mark.parametrize("name", BAD_DATASETS)
def test_what_cannot_be_trained_on_is_refused(family: Wrapped, tmp_path: Path, name: str):
    make, error, words = BAD_DATASETS[name]
    rows = make(tmp_path)
    check_refused(
        lambda: LinVTSFTTrainer(family.model, config(tmp_path), train_dataset=rows, processing_class=family.processor),
        error,
        *words,
    )


def test_a_processor_of_another_model_is_refused(family: Wrapped, tmp_path: Path):
    def check(processor: Any, *words: str) -> None:
        rows = stream(examples(family))
        check_refused(
            lambda: LinVTSFTTrainer(family.model, config(tmp_path), train_dataset=rows, processing_class=processor),
            LinVTInputError,
            *words,
        )

    check(LinVTProcessor(family.processor.base_processor, num_video_tokens=7), "num_video_tokens=7", "has 6")
    check(wrapped("qwen2_vl").processor, "another base", "309", "306")
    check(family.processor.tokenizer, "LinVTProcessor")
    assert not family.model.config.name_or_path
    check(None, "was not loaded from a checkpoint", "processing_class=")
    without = wrapped("llava_phi").processor
    without.base_processor.chat_template = without.base_processor.tokenizer.chat_template = None
    check(without, "no chat template", "processor.chat_template")


def test_an_answer_that_leaves_no_room_is_refused_with_both_numbers(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, max_length=NUM_VIDEO_TOKENS + 2)
    with pytest.raises(LinVTInputError, match=rf"needs \d+ tokens.*max_length is {NUM_VIDEO_TOKENS + 2}"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stage": "third"}, ("'third'", "'instruct'")),
        ({"packing": True}, ("packing",)),
        ({"num_frames": 4, "fps": 2.0}, ("num_frames and fps",)),
        ({"max_unreadable_share": 1.5}, ("max_unreadable_share=1.5",)),
        ({"push_to_hub": True, "hub_strategy": "every_save"}, ("every_save", "pickle")),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path: Path, arguments: dict, words: tuple[str, ...]):
    check_refused(lambda: config(tmp_path, **arguments), LinVTInputError, *words)


def test_a_model_that_nobody_else_could_load_is_refused_before_it_is_trained(family: Wrapped, tmp_path: Path):
    check_refused(
        lambda: trainer_of(family, tmp_path, push_to_hub=True, hub_model_id="me/clip"),
        CheckpointError,
        str(family.base_folder),
        "include_base=True",
    )


def test_a_stage_without_its_parameters_is_refused(family: Wrapped):
    check_refused(lambda: apply_stage(family.base, "align"), LinVTInputError, "'align'", "nothing to train")
    assert isinstance(family.model, LinVTForVideoQA)
    counts = apply_stage(family.model, "align")
    assert counts["trainable"] == sum(p.numel() for p in family.model.linvt.parameters())
    assert counts["total"] == sum(p.numel() for p in family.model.parameters())
