"""
Pushing and pulling with the real client of the Hub, against a small Hub on this machine (`hub_server.py`).

What is pushed is what comes back: the same logits from `AutoModel` by name, by branch and by commit, safetensors only,
with a card that says how to load it. What nobody could load again, or may not be written, is refused in one sentence.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError
from peft import get_peft_model
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from hub_server import TOKEN, HubServer, running_hub
from promises import (
    LINVT,
    NUM_VIDEO_TOKENS,
    QUESTION,
    Wrapped,
    base_folder,
    check_refused,
    relative_difference,
    stir,
    user,
    wrapped,
)
from training_runs import examples, stream
from transformers_linvt import CheckpointError, LinVTConfig, LinVTForVideoQA, LinVTProcessor, embedded_model_path
from transformers_linvt.model.model_card import make_card
from transformers_linvt.training import card as model_card
from transformers_linvt.training.contrastive_trainer import LinVTContrastiveConfig, LinVTContrastiveTrainer
from transformers_linvt.training.lora import lora_config, push_instructed
from transformers_linvt.training.sft_config import LinVTSFTConfig
from transformers_linvt.training.sft_trainer import LinVTSFTTrainer


FAMILY = "internvl"
BASE, REPOSITORY = "tester/base", "tester/linvt"
pytestmark = [
    # peft 0.21 asks whether checkpointing is on by the old name
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),
    # huggingface_hub 2.4 uploads large files with an argument that httpx2 is about to rename
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub of this test's own."""
    yield from running_hub(monkeypatch, tmp_path / "client")


def push_base(hub: HubServer) -> None:
    api = HfApi(token=TOKEN)
    api.create_repo(BASE)
    api.upload_folder(repo_id=BASE, folder_path=base_folder(FAMILY))
    hub.requests.clear()
    hub.uploaded.clear()


@pytest.fixture
def family(hub: HubServer) -> Wrapped:
    """A model around a base that is on the Hub."""
    push_base(hub)
    local = wrapped(FAMILY)
    model = stir(LinVTForVideoQA.from_base(BASE, **LINVT))
    return Wrapped(FAMILY, model, local.processor, local.base_folder)


def inputs_of(family: Wrapped) -> dict:
    return family.inputs(user(family.clip(5), QUESTION))


def with_lora(family: Wrapped) -> torch.nn.Module:
    model = get_peft_model(family.model, lora_config(family.model, r=3)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


# --- push and pull ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_pushed_model_and_its_processor_come_back_by_name(hub: HubServer, family: Wrapped):
    inputs = inputs_of(family)
    family.processor.push_to_hub(REPOSITORY, token=TOKEN)
    family.model.push_to_hub(REPOSITORY, token=TOKEN)
    again = AutoModelForImageTextToText.from_pretrained(REPOSITORY)
    assert relative_difference(again(**inputs).logits, family.model(**inputs).logits) < 1e-5
    assert again.config.base_model_name_or_path == BASE
    assert again.config.base_revision == hub.repositories[BASE].find("main")
    processor = AutoProcessor.from_pretrained(REPOSITORY)
    assert isinstance(processor, LinVTProcessor) and processor.num_video_tokens == NUM_VIDEO_TOKENS
    files = hub.files(REPOSITORY)
    assert {"config.json", "model.safetensors", "README.md", "processor_config.json", "tokenizer.json"} <= files.keys()
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert len(files["model.safetensors"]) < 0.9 * len(hub.files(BASE)["model.safetensors"]), "the base was pushed too"


@torch.no_grad()
def test_each_commit_and_branch_comes_back_as_it_was(hub: HubServer, family: Wrapped):
    inputs = inputs_of(family)
    first = family.model(**inputs).logits
    commit = family.model.push_to_hub(REPOSITORY, token=TOKEN).oid
    stir(family.model, seed=7)
    second = family.model(**inputs).logits
    family.model.push_to_hub(REPOSITORY, token=TOKEN, revision="trial")
    stir(family.model, seed=8)
    family.model.push_to_hub(REPOSITORY, token=TOKEN)
    assert relative_difference(AutoModel.from_pretrained(REPOSITORY, revision=commit)(**inputs).logits, first) < 1e-5
    assert relative_difference(AutoModel.from_pretrained(REPOSITORY, revision="trial")(**inputs).logits, second) < 1e-5
    newest = AutoModel.from_pretrained(REPOSITORY)(**inputs).logits
    assert relative_difference(newest, family.model(**inputs).logits) < 1e-5
    assert relative_difference(newest, first) > 1e-3 and relative_difference(second, first) > 1e-3
    check_refused(lambda: AutoModel.from_pretrained(REPOSITORY, revision="none"), OSError, "none")


@torch.no_grad()
def test_linvt_and_its_adapter_are_pushed_as_one(hub: HubServer, family: Wrapped, tmp_path: Path):
    inputs, picture = inputs_of(family), family.inputs(user(family.picture(), QUESTION))
    plain = family.base(**picture).logits
    model = with_lora(family)
    push_instructed(model, REPOSITORY, token=TOKEN, revision="tuned")
    files = hub.files(REPOSITORY, "tuned")
    assert {"lora/adapter_config.json", "lora/adapter_model.safetensors", "model.safetensors"} <= files.keys()
    again = AutoModel.from_pretrained(REPOSITORY, revision="tuned")
    assert relative_difference(again(**inputs).logits, model(**inputs).logits) < 1e-5
    again.disable_adapters()
    assert torch.equal(again(**picture).logits, plain)
    assert "lora" in ModelCard(files["README.md"].decode()).data.tags


@torch.no_grad()
def test_an_adapter_of_a_pushed_checkpoint_is_pushed_alone(hub: HubServer, family: Wrapped):
    inputs = inputs_of(family)
    family.model.push_to_hub(REPOSITORY, token=TOKEN)
    loaded = LinVTForVideoQA.from_pretrained(REPOSITORY)
    model = with_lora(Wrapped(FAMILY, loaded, family.processor, family.base_folder))
    model.push_to_hub("tester/adapter", token=TOKEN)
    again = AutoModelForImageTextToText.from_pretrained("tester/adapter")
    # not bit by bit: how a product is rounded depends on where in memory a file's weights lie
    assert relative_difference(again(**inputs).logits, model(**inputs).logits) < 1e-5
    assert "model.safetensors" not in hub.files("tester/adapter")


def test_an_interrupted_push_goes_on_where_it_stopped(hub: HubServer, family: Wrapped, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    model = with_lora(family)  # two files for the large-file store: LinVT and the adapter
    hub.refuse_put = 1
    with pytest.raises(Exception) as raised:
        push_instructed(model, REPOSITORY, token=TOKEN)
    assert "upload" in str(raised.value).lower()
    assert len(hub.uploaded) == 1 and "model.safetensors" not in hub.files(REPOSITORY)
    hub.refuse_put = None
    push_instructed(model, REPOSITORY, token=TOKEN)
    sent = [oid for oid, _ in hub.uploaded]
    assert len(sent) == len(set(sent)) == 2, "what the Hub had already was sent again"
    inputs = inputs_of(family)
    with torch.no_grad():
        assert (
            relative_difference(AutoModel.from_pretrained(REPOSITORY)(**inputs).logits, model(**inputs).logits) < 1e-5
        )


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["hf_wrong", False])
def test_a_wrong_token_is_refused_in_words(hub: HubServer, family: Wrapped, token: str | bool):
    check_refused(
        lambda: family.model.push_to_hub(REPOSITORY, token=token),
        CheckpointError,
        REPOSITORY,
        "hf auth login",
        "write",
    )
    assert REPOSITORY not in hub.repositories and hub.uploaded == []
    with pytest.raises(HfHubHTTPError, match="401"):
        family.processor.push_to_hub(REPOSITORY, token=token)


def test_a_repository_of_somebody_else_is_refused(hub: HubServer, family: Wrapped):
    check_refused(
        lambda: family.model.push_to_hub("other/linvt", token=TOKEN), CheckpointError, "other/linvt", "rights"
    )


@pytest.mark.parametrize("how", ["push_to_hub", "save_pretrained", "adapter"])
def test_a_model_around_a_local_base_is_refused_before_anything_is_sent(hub: HubServer, tmp_path: Path, how: str):
    family = wrapped(FAMILY)
    calls = {
        "push_to_hub": lambda: family.model.push_to_hub(REPOSITORY, token=TOKEN),
        "save_pretrained": lambda: family.model.save_pretrained(
            tmp_path / "out", push_to_hub=True, repo_id=REPOSITORY, token=TOKEN
        ),
        "adapter": lambda: push_instructed(with_lora(family), REPOSITORY, token=TOKEN),
    }
    check_refused(calls[how], CheckpointError, "local folder", str(family.base_folder), "include_base=True")
    assert hub.requests == [] and not (tmp_path / "out").exists()


def test_the_embedded_model_is_pushed_with_its_base(hub: HubServer):
    model = LinVTForVideoQA.from_pretrained(embedded_model_path())
    check_refused(lambda: model.push_to_hub(REPOSITORY, token=TOKEN), CheckpointError, "../shapes_vlm", "include_base")
    model.push_to_hub(REPOSITORY, token=TOKEN, include_base=True)
    again = AutoModel.from_pretrained(REPOSITORY)
    assert again.config.includes_base
    expected, found = model.state_dict(), again.state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


# --- trainers --------------------------------------------------------------------------------------------------------


def trainer_of(family: Wrapped, folder: Path, stage: str, **kwargs: object) -> LinVTSFTTrainer:
    """A trainer that pushes, of two steps."""
    arguments = {
        "stage": stage, "max_steps": 2, "per_device_train_batch_size": 2, "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "save_steps": 1, "logging_steps": 1, "push_to_hub": True, "hub_model_id": REPOSITORY,
        "hub_token": TOKEN, **kwargs,
    }  # fmt: skip
    shared = {"train_dataset": stream(examples(family), 9), "processing_class": family.processor}
    if stage == "align":
        config = LinVTContrastiveConfig(str(folder), contrastive_size=8, **arguments)
        return LinVTContrastiveTrainer(family.model, config, **shared)
    config = LinVTSFTConfig(str(folder), **arguments)
    return LinVTSFTTrainer(family.model, config, peft_config=lora_config(family.model, r=3), **shared)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_a_trainer_pushes_what_loads_by_name(hub: HubServer, family: Wrapped, tmp_path: Path, stage: str):
    trainer = trainer_of(family, tmp_path / "out", stage)
    trainer.train()
    trainer.push_to_hub(dataset_name="org/clips", language="en")
    names = set(hub.files(REPOSITORY))
    assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl")) or "checkpoint-" in name]
    assert ("lora/adapter_model.safetensors" in names) == (stage == "instruct")
    again = AutoModel.from_pretrained(REPOSITORY)
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs_of(family)).logits
        torch.testing.assert_close(again(**inputs_of(family)).logits, expected)
    card = ModelCard.load(REPOSITORY)
    assert (
        card.data.base_model == BASE
        and card.data.datasets == ["org/clips"]
        and {"trl", "linvt"} <= set(card.data.tags)
    )
    assert card.data.language == "en" and card.data.license is None  # the base's card, which is not there, has none
    assert f"- stage: {stage}" in card.text and "- max_steps: 2" in card.text and "| loss |" in card.text
    assert ("lora" in card.data.tags) == (stage == "instruct") and f'model="{REPOSITORY}"' in card.text
    assert card.data.pipeline_tag == "video-text-to-text" and str(tmp_path) not in str(card)


def test_a_trainer_with_a_wrong_token_says_so_before_it_trains(hub: HubServer, family: Wrapped, tmp_path: Path):
    check_refused(
        lambda: trainer_of(family, tmp_path / "out", "instruct", hub_token="hf_wrong").train(),
        CheckpointError,
        REPOSITORY,
        "hf auth login",
    )
    assert not list(tmp_path.glob("out/checkpoint-*"))


# --- the card --------------------------------------------------------------------------------------------------------


def test_the_card_names_the_base_and_how_to_load_the_model(hub: HubServer, family: Wrapped):
    family.processor.push_to_hub(REPOSITORY, token=TOKEN)
    assert ModelCard.load(REPOSITORY).data.library_name == "transformers", "the card that transformers puts there"
    family.model.push_to_hub(REPOSITORY, token=TOKEN, tags=["mine"])
    card = ModelCard.load(REPOSITORY)
    assert card.data.pipeline_tag == "video-text-to-text" and card.data.library_name == "transformers-linvt"
    assert card.data.base_model == BASE and card.data.base_model_relation == "adapter"
    assert {"linvt", "mine"} <= set(card.data.tags) and "lora" not in card.data.tags
    assert f'model="{REPOSITORY}"' in card.text and f"`{hub.repositories[BASE].find('main')}`" in card.text
    assert f"{NUM_VIDEO_TOKENS} tokens" in card.text
    unsaid = make_card(LinVTConfig(num_kept_tokens=None)).text  # it once spoke of "the None frame tokens"
    assert "256 tokens" in unsaid and "None" not in unsaid


def test_a_card_that_somebody_wrote_stays(hub: HubServer, family: Wrapped):
    HfApi(token=TOKEN).create_repo(REPOSITORY)
    mine = "---\nlicense: mit\ntags:\n- kitchen\n---\n# Mine\n\nTrained in a kitchen.\n"
    HfApi(token=TOKEN).upload_file(path_or_fileobj=mine.encode(), path_in_repo="README.md", repo_id=REPOSITORY)
    family.model.push_to_hub(REPOSITORY, token=TOKEN)
    card = ModelCard.load(REPOSITORY)
    assert card.text.strip() == "# Mine\n\nTrained in a kitchen."
    assert (
        card.data.license == "mit"
        and card.data.tags[0] == "kitchen"
        and card.data.pipeline_tag == "video-text-to-text"
    )


def test_a_saved_folder_has_a_card_that_names_no_folder(tmp_path: Path):
    family = wrapped(FAMILY)
    family.model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model is None and card.data.pipeline_tag == "video-text-to-text"
    assert str(family.base_folder) not in str(card) and "internvl" in card.text
    (tmp_path / "README.md").write_text("mine")
    family.model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_the_card_of_a_training_run_says_how_it_was_trained(tmp_path: Path):
    class Arguments:
        stage, learning_rate, max_steps, seed, output_dir = "instruct", 1e-4, 17, 3, str(tmp_path)

    family = wrapped(FAMILY)
    log = [{"loss": 2.5, "step": 1}, {"loss": 0.125, "step": 17}, {"eval_loss": 0.5, "eval_runtime": 9.0}]
    card = model_card.create(
        with_lora(family),
        repo_id=REPOSITORY,
        args=Arguments(),
        datasets=["org/clips", "my own clips", str(tmp_path)],
        log_history=log,
        figures={"needle, T = 16": 97.03125},
    )
    for line in ("- stage: instruct", "- max_steps: 17", "- data: org/clips, my own clips", "| loss | 0.125 |"):
        assert line in card.text
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("loss", 0.5, "org/clips")
    assert "| eval_loss | 0.5 |" in card.text and "| needle, T = 16 | 97.03 |" in card.text
    assert "runtime" not in card.text and str(tmp_path) not in str(card)
    assert card.data.datasets == ["org/clips"] and "lora" in card.data.tags and card.data.base_model is None
