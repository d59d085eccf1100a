"""
What trainers, PEFT, accelerate and DeepSpeed expect of a model, without knowing LinVT.

They read signatures and configs, move weights away and fetch them for each forward, pass embeddings instead of ids,
and drop what they do not know: none of that may lose the video without a word.
"""

import inspect
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModel, Trainer, TrainingArguments

from promises import FAMILIES, QUESTION, Wrapped, check_refused, language_linears, user, wrapped
from transformers_linvt import CheckpointError, LinVTForVideoQA, LinVTInputError
from transformers_linvt.bases.cache import CACHE_NAME


PLAIN, DEEP = "llava_phi", "qwen3_vl"


@pytest.fixture
def family() -> Wrapped:
    return wrapped(PLAIN)


def ask(family: Wrapped, num_frames: int = 5) -> dict[str, Any]:
    return family.inputs(user(family.clip(num_frames), QUESTION))


# --- signatures and configs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_names_whatever_the_processor_makes(name: str):
    family = wrapped(name)
    made = family.inputs(user(family.clip(3), family.picture(), QUESTION)) if name != "kosmos2" else ask(family)
    for forward in (family.model.forward, family.model.model.forward):
        assert set(made) - set(inspect.signature(forward).parameters) == set()
    assert {"labels", "logits_to_keep"} < set(inspect.signature(family.model.forward).parameters)


class Answers(torch.utils.data.Dataset):
    """One clip each, with answers of different lengths, as a plain trainer gets them."""

    def __init__(self, family: Wrapped) -> None:
        self.rows = []
        for length in (1, 2, 3, 9):
            row = dict(ask(family, 4))
            more = torch.arange(20, 20 + length)[None]
            width = row["input_ids"].shape[1]
            row["input_ids"] = torch.cat([row["input_ids"], more], dim=1)
            for key in ("attention_mask", "video_mask", "question_mask"):
                fill = torch.full_like(more, int(key == "attention_mask"))
                row[key] = torch.cat([row[key], fill.to(row[key])], dim=1)
            row["labels"] = torch.cat([torch.full((1, width), -100), more], dim=1)
            row["labels"][0, 0] = 7  # a target that no position predicts: it must not be counted either
            self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def together(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of different lengths padded on the right, their frames one behind the other."""
    width = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if values[0].ndim == 2 and key in ("input_ids", "attention_mask", "video_mask", "question_mask", "labels"):
            fill = -100 if key == "labels" else 0
            values = [torch.nn.functional.pad(one, (0, width - one.shape[1]), value=fill) for one in values]
        batch[key] = torch.cat(values)
    return batch


def first_loss(model: LinVTForVideoQA, data: Answers, batch: int, folder: Path, **options: Any) -> float:
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=len(data) // batch,
        max_steps=1,
        learning_rate=0.0,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )
    trainer = Trainer(model, args, train_dataset=data, data_collator=together)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def test_a_plain_trainer_keeps_the_video_and_accumulates_what_one_batch_gives(family: Wrapped, tmp_path: Path):
    data = Answers(family)
    for weight in family.model.linvt.parameters():
        weight.requires_grad_(True)
    with torch.no_grad():
        rows = [family.model(**{**row, "labels": row["labels"]}) for row in data]
    counts = [int((row["labels"][:, 1:] != -100).sum()) for row in data]
    by_hand = sum(float(row.loss) * count for row, count in zip(rows, counts, strict=True)) / sum(counts)
    losses = [first_loss(family.model, data, batch, tmp_path) for batch in (4, 2, 1)]
    assert losses == pytest.approx([by_hand] * 3, abs=1e-5)
    other = Answers(family)
    for row in other.rows:
        row["frame_pixel_values"] = row["frame_pixel_values"].flip(0) * -1.0
    assert abs(first_loss(family.model, other, 4, tmp_path) - by_hand) > 1e-4, "the video has no say"


def test_trainers_see_how_the_base_counts_its_loss(family: Wrapped):
    assert family.model.loss_type == family.base.loss_type
    assert family.model.accepts_loss_kwargs is True  # llava says nothing, and lets num_items_in_batch through
    family.base.accepts_loss_kwargs = False
    try:
        assert LinVTForVideoQA.from_base(family.base, num_video_tokens=6).accepts_loss_kwargs is False
    finally:
        del family.base.accepts_loss_kwargs


def test_the_language_model_is_described_where_others_look_for_it(family: Wrapped):
    text = family.base.config.get_text_config()
    assert family.model.config.text_config is text
    assert family.model.config.hidden_size == text.hidden_size
    assert "text_config" not in family.model.config.to_dict()


# --- placeholders without frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PLAIN, DEEP])
def test_placeholders_that_lost_their_video_are_refused_everywhere(name: str):
    family = wrapped(name)
    inputs = ask(family)
    text = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    for call in (family.model, family.model.model, family.model.generate):
        check_refused(lambda call=call: call(**text), LinVTInputError, "no video was given", "remove_unused_columns")
        with_mask = {**text, "video_mask": inputs["video_mask"]}
        check_refused(lambda call=call, given=with_mask: call(**given), LinVTInputError, "placeholders of videos")
    # what follows a prompt has its visuals behind it
    cache = family.model(**inputs, use_cache=True)[CACHE_NAME]
    family.model(input_ids=text["input_ids"][:, :1], **{CACHE_NAME: cache}, use_cache=True)


# --- embeddings, offloading, adapters --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PLAIN, DEEP])
def test_embeddings_beside_the_ids_take_their_place(name: str):
    family = wrapped(name)
    inputs = ask(family)
    embeds = family.model.get_input_embeddings()(inputs["input_ids"])
    with torch.no_grad():
        expected = family.model(**inputs).logits
        torch.testing.assert_close(family.model(**inputs, inputs_embeds=embeds).logits, expected)
        last = inputs["question_mask"].nonzero()[-1]
        embeds[last[0], last[1]] += torch.randn(embeds.shape[-1], generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(family.model(**inputs, inputs_embeds=embeds).logits, expected, atol=1e-3)
    without = {key: value for key, value in inputs.items() if key != "input_ids"}
    check_refused(lambda: family.model(**without, inputs_embeds=embeds), LinVTInputError, "Pass both", "LoRA")


def test_offloaded_weights_answer_as_the_others(family: Wrapped):
    inputs, video = ask(family), family.processor.video_inputs(family.clip(5))
    with torch.no_grad():
        expected = family.model(**inputs).logits
    answer = family.model.answer(family.model.encode_video(**video), QUESTION, family.processor, max_new_tokens=3)
    accelerate.cpu_offload(family.model, execution_device="cpu")
    assert next(family.model.linvt.parameters()).is_meta
    with torch.no_grad():
        torch.testing.assert_close(family.model(**inputs).logits, expected, rtol=0, atol=0)
    features = family.model.encode_video(**video)
    assert family.model.answer(features, QUESTION, family.processor, max_new_tokens=3) == answer


def test_a_checkpoint_too_large_for_its_memory_is_loaded_all_the_same(family: Wrapped, tmp_path: Path):
    inputs = ask(family)
    with torch.no_grad():
        expected = family.model(**inputs).logits
    family.model.save_pretrained(tmp_path / "whole", include_base=True)
    size = sum(weight.numel() * 4 for weight in family.model.parameters())
    loaded = LinVTForVideoQA.from_pretrained(
        tmp_path / "whole", device_map="auto", max_memory={"cpu": int(size * 0.6)}, offload_folder=tmp_path / "disk"
    )
    assert next(loaded.linvt.parameters()).is_meta
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, expected)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT 0.21 asks by the old name
def test_prompt_learning_is_refused_instead_of_having_no_effect(family: Wrapped):
    sizes = {"num_layers": 2, "token_dim": family.model.config.hidden_size, "num_attention_heads": 2}
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, **sizes)
    prompted = get_peft_model(family.model, config)
    check_refused(lambda: prompted.generate(**ask(family)), LinVTInputError, "no effect on a LinVT", "LoRA")
    check_refused(lambda: prompted(**ask(family)), LinVTInputError, "LoRA")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_merged_model_is_saved_whole_without_being_asked(
    family: Wrapped, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = LinVTForVideoQA.from_base(family.base, num_video_tokens=6, base_model_name_or_path="org/base")
    inputs = ask(family)
    targets = [name for name in language_linears(model) if name.endswith(("q_proj", "v_proj"))]
    lora = get_peft_model(model, LoraConfig(r=2, target_modules=targets, init_lora_weights=False)).eval()
    merged = lora.merge_and_unload()
    with torch.no_grad():
        expected = merged(**inputs).logits
    check_refused(lambda: merged.save_pretrained(tmp_path / "x", include_base=False), CheckpointError, "have changed")
    assert not (tmp_path / "x").exists()
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(AutoModel.from_pretrained(tmp_path / "merged")(**inputs).logits, expected)


@pytest.mark.parametrize("load", [LinVTForVideoQA.from_pretrained, AutoModel.from_pretrained])
def test_a_folder_with_an_adapter_alone_finds_its_model(
    family: Wrapped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Any
):
    family.model.save_pretrained(tmp_path / "model", include_base=True)
    monkeypatch.chdir(tmp_path)
    model = LinVTForVideoQA.from_pretrained("model")  # by a relative name, which means nothing elsewhere
    targets = [name for name in language_linears(model) if name.endswith("q_proj")]
    model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    inputs = ask(family)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    monkeypatch.chdir(tmp_path.parent)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "adapter").eval()(**inputs).logits, expected)
