"""
Stage 1 learns captions and leaves the base alone; GradCache gives the gradient of the whole batch; what gives no
contrast is refused before the first step.
"""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from promises import Wrapped, check_refused, snapshot, wrapped
from training_runs import CAPTIONS, FRAMES, ROUNDING, examples, relative_error, step, stream
from transformers_linvt import LinVTForVideoQA, LinVTInputError
from transformers_linvt.training.collator import IGNORED
from transformers_linvt.training.contrastive_trainer import LinVTContrastiveConfig, LinVTContrastiveTrainer


@pytest.fixture
def family() -> Wrapped:
    return wrapped("llava_phi")


def config(folder: Path, **kwargs: Any) -> LinVTContrastiveConfig:
    given = {
        "max_steps": 1,
        "per_device_train_batch_size": len(CAPTIONS),
        "contrastive_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "num_frames": 32,  # more than there are: all
        **kwargs,
    }
    return LinVTContrastiveConfig(str(folder), **given)


def trainer_of(family: Wrapped, folder: Path, rows: list | None = None, **kwargs: Any) -> LinVTContrastiveTrainer:
    torch.manual_seed(0)  # of the head
    rows = examples(family) if rows is None else rows
    arguments = {name: kwargs.pop(name) for name in ("eval_dataset",) if name in kwargs}
    return LinVTContrastiveTrainer(
        family.model,
        config(folder, **kwargs),
        train_dataset=stream(rows, 1000),
        processing_class=family.processor,
        **arguments,
    )


# --- learning --------------------------------------------------------------------------------------------------------


def test_stage_one_learns_to_tell_captions_and_moves_linvt_alone(family: Wrapped, tmp_path: Path):
    # with the usual weight the cross-entropy of a base with random weights goes up and down before it falls
    trained = {"max_steps": 60, "learning_rate": 3e-3, "lr_scheduler_type": "constant", "contrastive_weight": 0.1}
    trainer = trainer_of(family, tmp_path, **trained)
    before = snapshot(family.model)
    trainer.train()
    after = family.model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {name for name, p in family.model.named_parameters() if name.startswith("model.linvt.")}
    log = [entry for entry in trainer.state.log_history if "contrastive_loss" in entry]
    first, last = log[0], log[-1]
    assert last["contrastive_loss"] < first["contrastive_loss"] / 4
    assert last["cross_entropy_loss"] < first["cross_entropy_loss"]
    assert last["retrieval_video_to_text"] == last["retrieval_text_to_video"] == 1
    assert first["temperature"] == pytest.approx(0.07, rel=1e-3) and last["temperature"] != first["temperature"]
    for entry in (first, last):
        assert entry["loss"] == pytest.approx(0.1 * entry["contrastive_loss"] + entry["cross_entropy_loss"], rel=1e-3)
    assert last["frames_per_video"] == pytest.approx(sum(FRAMES) / len(FRAMES))
    assert last["tokens_per_video"] == 6 and last["unreadable_videos"] == 0 and last["num_tokens"] > 0


def test_evaluation_reports_the_same_figures(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, eval_dataset=stream(examples(family)), per_device_eval_batch_size=5)
    metrics = trainer.evaluate()
    total = metrics["eval_contrastive_loss"] + metrics["eval_cross_entropy_loss"]
    assert metrics["eval_loss"] == pytest.approx(total, rel=1e-4)
    assert 0 <= metrics["eval_retrieval_video_to_text"] <= 1
    loss, _ = step(trainer, examples(family))
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_the_weights_weigh_and_without_a_contrastive_one_it_is_the_next_token_trainer(family: Wrapped, tmp_path: Path):
    def gradients(**kwargs: float) -> dict[str, torch.Tensor]:
        copy = wrapped("llava_phi")
        return step(trainer_of(copy, tmp_path, **kwargs), examples(copy))[1]

    tokens, contrast = gradients(contrastive_weight=0.0), gradients(cross_entropy_weight=0.0)
    both = gradients(contrastive_weight=0.3, cross_entropy_weight=2.0)
    head = [name for name in both if "contrastive_head" in name]
    assert head and not [name for name in tokens if name in head]
    expected = {name: 2.0 * tokens.get(name, 0.0) + 0.3 * contrast[name] for name in both}
    assert relative_error(both, expected) < ROUNDING


def test_the_same_caption_twice_is_no_negative(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, cross_entropy_weight=0.0)
    different, _ = step(trainer, examples(family, ("a cat", "rain", "snow")))
    same, gradients = step(trainer, examples(family, ("rain", "rain", "rain")))
    assert different > 0.1 and same == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_instruction_tuning_leaves_the_head_alone(family: Wrapped, tmp_path: Path):
    family.model.add_contrastive_head(8)
    trainer_of(family, tmp_path, contrastive_weight=0.0, stage="instruct")
    trains = [name for name, p in family.model.named_parameters() if p.requires_grad]
    assert trains and not [name for name in trains if "contrastive_head" in name]


# --- GradCache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mini", [1, 2, 4])
def test_grad_cache_gives_the_gradient_of_the_whole_batch(family: Wrapped, tmp_path: Path, mini: int):
    trainer = trainer_of(family, tmp_path, contrastive_weight=0.7)
    loss, expected = step(trainer, examples(family))
    trainer.args.contrastive_mini_batch_size = mini
    calls = []
    tower = family.model.base_vlm.base_model.vision_tower
    tower.register_forward_hook(lambda *_: calls.append(1))
    cached_loss, found = step(trainer, examples(family))
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    assert relative_error(found, expected) < ROUNDING
    assert len(calls) == sum(-(-frames // 2) for frames in FRAMES)  # in chunks of 2 frames, each once


def test_grad_cache_under_accumulation_is_accumulation(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path)
    rows = examples(family)
    loss, expected = step(trainer, rows[:3], rows[3:])
    trainer.args.contrastive_mini_batch_size = 1
    cached_loss, found = step(trainer, rows[:3], rows[3:])
    assert cached_loss == pytest.approx(loss, rel=1e-5)
    assert relative_error(found, expected) < ROUNDING


def test_accumulation_is_exact_for_tokens_and_has_fewer_negatives(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, contrastive_weight=1.0, cross_entropy_weight=0.0)
    rows = examples(family)
    whole, parts = step(trainer, rows)[1], step(trainer, rows[:3], rows[3:])[1]
    of_each = [step(trainer, batch)[1] for batch in (rows[:3], rows[3:])]  # a batch is compared with itself alone
    mean = {name: sum(gradients[name] for gradients in of_each) / 2 for name in of_each[0]}
    assert relative_error(parts, mean) < ROUNDING
    assert relative_error(parts, whole) > 0.01
    trainer.args.cross_entropy_weight, trainer.args.contrastive_weight = 1.0, 1e-12
    whole, parts = step(trainer, rows)[1], step(trainer, rows[:3], rows[3:])[1]
    assert relative_error(parts, whole) < ROUNDING


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"per_device_train_batch_size": 1}, ("batch of 1", "contrastive_weight=0")),
        ({"contrastive_weight": -1.0}, ("negative",)),
        ({"contrastive_mini_batch_size": 0}, ("contrastive_mini_batch_size=0",)),
        ({"temperature": 0.0}, ("temperature=0.0",)),
        ({"stage": "second"}, ("'second'", "'align'")),
        ({"loss_type": "dft"}, ("loss_type='dft'", "contrastive_weight=0")),
        ({"label_smoothing_factor": 0.1}, ("label_smoothing_factor=0.1", "contrastive_weight=0")),
    ],
)
def test_arguments_without_a_contrast_are_refused(tmp_path: Path, arguments: dict, words: tuple[str, ...]):
    check_refused(lambda: config(tmp_path, **arguments), LinVTInputError, *words)


def test_a_batch_of_one_will_do_without_the_contrast(tmp_path: Path):
    assert config(tmp_path, per_device_train_batch_size=1, contrastive_weight=0.0).stage == "align"
    assert config(tmp_path).dataloader_drop_last


def test_accumulation_warns_that_negatives_do_not_grow(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("transformers_linvt.training.contrastive_trainer")
    logger.addHandler(caplog.handler)
    try:
        config(tmp_path, gradient_accumulation_steps=4)
    finally:
        logger.removeHandler(caplog.handler)
    assert "gradient_accumulation_steps=4 adds no negatives" in caplog.text


def test_examples_without_a_video_or_with_two_are_refused(family: Wrapped, tmp_path: Path):
    rows = examples(family)
    trainer = trainer_of(family, tmp_path, rows)
    text = {"prompt": "Hi?", "completion": "Hello."}
    check_refused(lambda: step(trainer, [*rows[:2], text]), LinVTInputError, "3 examples", "2 videos")
    two = {**rows[0], "video": None, "videos": [rows[0]["video"], rows[1]["video"]]}
    check_refused(lambda: step(trainer, [two, text]), LinVTInputError, "several")


def test_pictures_and_grad_cache_are_refused(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path, contrastive_mini_batch_size=1)
    rows = examples(family)[:2]
    content = [{"type": "image", "image": family.picture()}, {"type": "text", "text": "And this?"}]
    rows[0]["prompt"] = [{"role": "user", "content": content}]
    rows[0]["completion"] = [{"role": "assistant", "content": "a cat"}]
    check_refused(lambda: step(trainer, rows), LinVTInputError, "contrastive_mini_batch_size", "pictures")


def test_wrong_arguments_and_models_are_named(family: Wrapped, tmp_path: Path):
    check_refused(
        lambda: LinVTContrastiveTrainer(family.model, args={"lr": 1}), LinVTInputError, "LinVTContrastiveConfig"
    )
    check_refused(lambda: LinVTContrastiveTrainer("a/name", args=config(tmp_path)), LinVTInputError, "'a/name'")
    check_refused(
        lambda: LinVTContrastiveTrainer(family.model, config(tmp_path), compute_loss_func=lambda *_, **__: 0.0),
        LinVTInputError,
        "compute_loss_func",
        "contrastive_weight",
    )


def test_the_caption_is_what_has_labels(family: Wrapped, tmp_path: Path):
    trainer = trainer_of(family, tmp_path)
    batch = trainer.data_collator(examples(family))
    tokenizer = family.processor.tokenizer
    shown = [tokenizer.decode(row[row != IGNORED], skip_special_tokens=True).strip() for row in batch["labels"]]
    assert shown == list(CAPTIONS)


def test_a_head_that_is_there_stays_as_it_is(family: Wrapped, tmp_path: Path):
    assert isinstance(family.model, LinVTForVideoQA)
    family.model.add_contrastive_head(3)
    head = family.model.linvt.contrastive_head
    trainer_of(family, tmp_path, contrastive_size=8)
    assert family.model.linvt.contrastive_head is head and family.model.config.contrastive_size == 3
