"""
The first Molmo, whose code comes with its weights: it loads, is run and keeps the promises of the package.

The base is a stand-in with its face (`molmo_stand_in.py`), in a folder as a repository of the Hub holds it, with its
code beside its weights. The checks are those of `promises.py`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, PreTrainedTokenizerFast, pipeline

import molmo_stand_in
from promises import (
    LINVT,
    NUM_VIDEO_TOKENS,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    check_batch_equals_single,
    check_comes_back,
    check_generation,
    check_only_linvt_trains,
    check_refused,
    check_sft_moves_linvt,
    check_tokens_are_averages,
    labels_of,
    realigned,
    relative_difference,
    stir,
    user,
)
from tiny_bases import _byte_level_model
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTInputError,
    LinVTProcessor,
    UnsupportedBaseError,
    VideoFrames,
    cli,
    plan_wrap,
)
from transformers_linvt.bases.kinds.molmo_processor import MolmoImageProcessor
from transformers_linvt.demo.shapes import make_clip, write_clip


NUM_WORDS = 512
EXTRA = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
PATCH_ID = NUM_WORDS + 2
SIZES = {
    "base_image_input_size": [32, 32],
    "image_patch_size": 8,
    "image_token_length_h": 2,
    "image_token_length_w": 2,
    "image_processor_type": "MolmoImageProcessor",
    "max_crops": 12,
}


class MolmoWrapped(Wrapped):
    """The stand-in with LinVT around it."""

    def clip(self, num_frames: int, seed: int = 0) -> VideoFrames:
        rng = np.random.default_rng(seed)
        frames = rng.integers(0, 256, (num_frames, 48, 80, 3), dtype=np.uint8)
        seconds = np.arange(num_frames) ** 1.5
        return VideoFrames(frames, seconds, "<frames in memory>", "memory", float(seconds[-1]) + 1.0, num_frames, None)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """As Molmo's: words, unused tokens that fill the first table, five more; the template is of another model."""
    tokenizer = tokenizers.Tokenizer.from_str(_byte_level_model())
    unused = [f"|<EXTRA_TOKENS_{i}>|" for i in range(NUM_WORDS - tokenizer.get_vocab_size() - 1)]
    special = ["<|endoftext|>", *unused, *EXTRA]
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=2048,
        extra_special_tokens=special[1:],
    )
    made.chat_template = "{% for message in messages %}<|im_start|>{{ message.content }}{% endfor %}"
    return made


def save_stand_in(folder: Path) -> Path:
    """A folder as a repository holds it: code, two files of weights, a tokenizer, settings for pictures."""
    folder.mkdir()
    shutil.copy(molmo_stand_in.__file__, folder / "modeling_molmo.py")
    config = molmo_stand_in.MolmoConfig().to_dict()
    config["auto_map"] = {
        "AutoConfig": "modeling_molmo.MolmoConfig",
        "AutoModelForCausalLM": "modeling_molmo.MolmoForCausalLM",
    }
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    weights = molmo_stand_in.MolmoForCausalLM(molmo_stand_in.MolmoConfig()).state_dict()
    weights["model.transformer.ff_out.weight"] *= 5
    names, files = sorted(weights), {}
    for number, part in enumerate((names[:10], names[10:])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name].clone() for name in part}, folder / file)
        files |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    build_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SIZES))
    return folder


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stand_in(tmp_path_factory.mktemp("molmo") / "base")


@pytest.fixture
def family(base_folder: Path) -> MolmoWrapped:
    torch.manual_seed(0)
    model = LinVTForVideoQA.from_base(base_folder, trust_remote_code=True, **{**LINVT, "num_kept_tokens": 7})
    stir(realigned(model))
    processor = LinVTProcessor.from_base(base_folder, num_video_tokens=NUM_VIDEO_TOKENS)
    return MolmoWrapped("molmo", model, processor, base_folder)


@pytest.fixture
def one(family: MolmoWrapped) -> dict[str, Any]:
    return family.inputs(user(family.clip(5), QUESTION))


@pytest.fixture
def two(family: MolmoWrapped) -> dict[str, Any]:
    return family.inputs(user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION))


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


def test_every_weight_of_every_file_is_in_the_base(family: MolmoWrapped, base_folder: Path):
    # A bug was: LinVT's own initialisation drew the weights of a base again that transformers had not loaded itself.
    stored = {k: v for file in base_folder.glob("*.safetensors") for k, v in load_file(file).items()}
    loaded = family.base.state_dict()
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], value) for name, value in stored.items())
    assert not family.base.training
    assert family.base.__class__.__module__.startswith("transformers_modules.")  # the code in the folder was run


def test_the_placeholder_is_known_without_being_in_the_config(family: MolmoWrapped):
    assert "image_token_id" not in json.loads((family.base_folder / "config.json").read_text())
    assert family.model.config.image_token_id == family.processor.markers.token_id == PATCH_ID
    family.processor.check_fits(family.model.config)


def test_an_answer_ends_with_the_tokenizers_end(family: MolmoWrapped):
    assert family.model.generation_config.eos_token_id == family.processor.tokenizer.eos_token_id


def test_weights_come_in_the_wanted_precision(base_folder: Path):
    model = LinVTForVideoQA.from_base(base_folder, trust_remote_code=True, dtype=torch.bfloat16, **LINVT)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, UnsupportedBaseError, ("trust_remote_code=True",)),
        ({"trust_remote_code": True, "device_map": "auto"}, LinVTInputError, ("device_map", "dtype")),
        ({"trust_remote_code": True, "attn_implementation": "flash_attention_2"}, LinVTInputError, ("attn_impl",)),
        ({"trust_remote_code": True, "quantization_config": {"load_in_4bit": True}}, LinVTInputError, ("quantiz",)),
    ],
)
def test_what_cannot_work_is_refused(base_folder: Path, arguments: dict, error: type[Exception], words: tuple):
    check_refused(lambda: LinVTForVideoQA.from_base(base_folder, **arguments), error, *words)


def test_damaged_and_missing_weights_are_refused(base_folder: Path, tmp_path: Path):
    def load() -> LinVTForVideoQA:
        return LinVTForVideoQA.from_base(broken, trust_remote_code=True)

    broken = Path(shutil.copytree(base_folder, tmp_path / "broken"))
    part = next(broken.glob("model-00002*"))
    weights = load_file(part)
    first = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != first}, part)
    check_refused(load, CheckpointError, "1 missing", first)
    part.write_bytes(b"no weights")
    check_refused(load, CheckpointError, "damaged", part.name)
    part.unlink()
    check_refused(load, CheckpointError, part.name)


def test_a_quantised_repository_is_refused(base_folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(base_folder, tmp_path / "quantised"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes"}})
    )
    load = lambda: LinVTForVideoQA.from_base(broken, trust_remote_code=True)  # noqa: E731
    check_refused(load, UnsupportedBaseError, "quantised")


def test_a_tokenizer_of_another_model_is_refused(base_folder: Path, tmp_path: Path):
    broken = Path(shutil.copytree(base_folder, tmp_path / "other"))
    text = (broken / "tokenizer.json").read_text().replace("<im_patch>", "<other>")
    (broken / "tokenizer.json").write_text(text)
    (broken / "tokenizer_config.json").write_text(
        (broken / "tokenizer_config.json").read_text().replace("<im_patch>", "<other>")
    )
    check_refused(lambda: LinVTProcessor.from_base(broken), UnsupportedBaseError, "<im_patch>")


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and pictures
# ---------------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_written_as_molmo_was_trained(family: MolmoWrapped):
    conversation = [
        *user(family.clip(3), "What?"),
        {"role": "assistant", "content": [{"type": "text", "text": "A ball."}]},
        *user("Where?"),
    ]
    text = family.processor.decode(family.inputs(conversation)["input_ids"][0])
    video = "<im_start>" + "<im_patch>" * NUM_VIDEO_TOKENS + "<im_col><im_end>"
    assert text == (f"<|endoftext|>{video} User: What? Assistant: A ball.<|endoftext|> User: Where? Assistant:")


def test_a_system_message_is_refused(family: MolmoWrapped):
    conversation = [{"role": "system", "content": "Be brief."}, *user(family.clip(3), "What?")]
    check_refused(lambda: family.inputs(conversation), LinVTInputError, "system")


def test_patches_of_a_picture_are_those_by_hand():
    picture = np.zeros((16, 32, 3), dtype=np.uint8)  # fills the middle half of a square of 32 x 32
    picture[:, 16:] = 255
    settings = {name: value for name, value in SIZES.items() if "image_p" in name or "size" in name}
    settings.pop("image_processor_type", None)
    processor = MolmoImageProcessor(**settings, image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.25))
    made = processor([picture], return_tensors="pt")
    assert made["pixel_values"].shape == (1, 16, 192) and made["image_masks"].shape == (1, 16)
    assert made["image_masks"][0].reshape(4, 4)[:, 0].tolist() == [0, 1, 1, 0]
    patches = made["pixel_values"][0].reshape(4, 4, 8, 8, 3)
    assert patches[1, 3, 0, 0].tolist() == [1, 1, 2]  # white
    assert patches[0, 0, 0, 0].tolist() == patches[2, 0, 7, 7].tolist() == [-1, -1, -2]  # padding is black


@torch.no_grad()
def test_a_picture_gives_the_logits_of_the_base_itself(family: MolmoWrapped):
    inputs = family.inputs(user(family.picture(), QUESTION))
    places = (inputs["input_ids"][0] == PATCH_ID).nonzero()[:, 0].view(1, 1, 4)
    native = family.base(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        images=inputs["pixel_values"][None],
        image_masks=inputs["image_masks"][None],
        image_input_idx=places,
    ).logits
    assert relative_difference(family.model(**inputs).logits, native) < 1e-6
    without = family.base(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    assert relative_difference(without, native) > 1e-2


@torch.no_grad()
def test_text_gives_the_logits_of_the_base_itself(family: MolmoWrapped):
    inputs = family.inputs(user(QUESTION))
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert torch.equal(family.model(**inputs).logits, family.base(**inputs).logits)


# ---------------------------------------------------------------------------------------------------------------------
# Promises
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_head_and_backbone_compute_the_same(family: MolmoWrapped, one: dict[str, Any]):
    hidden = family.model.model(**one).last_hidden_state
    logits = family.model.get_output_embeddings()(hidden)
    assert relative_difference(logits, family.model(**one).logits) < 1e-6


@torch.no_grad()
def test_video_tokens_are_averages_that_are_added(family: MolmoWrapped, two: dict[str, Any]):
    prepared, condensed = family.model.model.prepare(**two)
    embeds = family.base.get_input_embeddings()(two["input_ids"])
    added = prepared["inputs_embeds"] - embeds
    at = two["input_ids"] == PATCH_ID
    torch.testing.assert_close(added[at], condensed.tokens.flatten(0, 1), atol=1e-6, rtol=1e-5)
    assert not bool(added[~at].any())
    # without the embedding of <im_patch> what the base gets are the averages themselves
    family.base.model.transformer.wte.new_embedding[2] = 0
    check_tokens_are_averages(family.model, two)


def test_a_row_of_a_left_padded_batch_is_the_row_alone(family: MolmoWrapped, two: dict, one: dict):
    check_batch_equals_single(family.model, two, [one, family.inputs(user(family.clip(3, 1), OTHER_QUESTION))])


def test_generation_with_and_without_cache_and_by_hand_agree(family: MolmoWrapped, two: dict[str, Any]):
    check_generation(family.model, two)


def test_generation_from_a_video_and_a_picture_agrees_with_and_without_cache(family: MolmoWrapped):
    check_generation(family.model, family.inputs(user(family.picture(), family.clip(5), QUESTION)))


def test_beam_search_of_a_batch_is_that_of_each_row(family: MolmoWrapped, two: dict, one: dict):
    beams = {"num_beams": 3, "max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    generated = family.model.generate(**two, **beams)
    singles = [one, family.inputs(user(family.clip(3, 1), OTHER_QUESTION))]
    for row, single in zip(generated, singles, strict=True):
        assert row[-4:].tolist() == family.model.generate(**single, **beams)[0, -4:].tolist()


def test_another_kind_of_cache_is_refused(family: MolmoWrapped, one: dict[str, Any]):
    generate = lambda: family.model.generate(**one, max_new_tokens=2, cache_implementation="static")  # noqa: E731
    check_refused(generate, LinVTInputError, "StaticCache", "DynamicCache")


def test_every_linvt_parameter_trains_and_no_parameter_of_the_base(family: MolmoWrapped, two: dict[str, Any]):
    check_only_linvt_trains(family.model, two)


def test_the_loss_is_the_mean_over_the_labels(family: MolmoWrapped, two: dict[str, Any]):
    labels = labels_of(family.model, two)
    output = family.model(**two, labels=labels)
    by_hand = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(output.loss, by_hand)


# TRL 1.16 switches checkpointing on by the old name of the argument.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("with_lora", [False, True])
def test_sft_trainer_moves_linvt(family: MolmoWrapped, tmp_path: Path, with_lora: bool):
    check_sft_moves_linvt(family, tmp_path, with_lora)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_what_is_trained_is_the_loss_of_forward(family: MolmoWrapped, tmp_path: Path):
    from training_runs import check_trains_the_loss_of_forward

    check_trains_the_loss_of_forward(family, tmp_path)


def test_a_checkpoint_refers_to_the_base_and_comes_back(family: MolmoWrapped, one: dict[str, Any], tmp_path: Path):
    with torch.no_grad():
        logits = family.model(**one).logits
    family.model.save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)  # runs no code that came with the base
    assert (config.base_config.model_type, config.image_token_id) == ("molmo", PATCH_ID)
    assert config.get_text_config().hidden_size == 48
    check_comes_back(tmp_path, one, logits, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path)
    again = MolmoWrapped("molmo", family.model, processor, tmp_path).inputs(user(family.clip(5), QUESTION))
    assert all(torch.equal(again[name], one[name]) for name in one)
    check_refused(lambda: LinVTForVideoQA.from_pretrained(tmp_path), UnsupportedBaseError, "trust_remote_code=True")


def test_a_checkpoint_cannot_hold_a_base_whose_code_it_lacks(family: MolmoWrapped, tmp_path: Path):
    save = lambda: family.model.save_pretrained(tmp_path / "whole", include_base=True)  # noqa: E731
    check_refused(save, CheckpointError, "include_base=False", "molmo")
    assert not (tmp_path / "whole").exists()


def test_an_encoded_video_is_answered_as_the_video_itself(family: MolmoWrapped):
    inputs = family.processor.video_inputs(family.clip(5))
    features = family.model.encode_video(**inputs)
    answer = family.model.answer(features, QUESTION, family.processor, max_new_tokens=4, do_sample=False)
    one = family.inputs(user(family.clip(5), QUESTION))
    generated = family.model.generate(**one, max_new_tokens=4, do_sample=False)[:, one["input_ids"].shape[1] :]
    assert answer == family.processor.batch_decode(generated, skip_special_tokens=True)[0].strip()


def test_a_loaded_base_can_be_wrapped(base_folder: Path):
    with pytest.raises(AttributeError):  # why it is loaded by hand; when this passes, that can go
        AutoModelForCausalLM.from_pretrained(base_folder, trust_remote_code=True)
    base = LinVTForVideoQA.from_base(base_folder, trust_remote_code=True, **LINVT).base_vlm
    assert LinVTForVideoQA.from_base(base, **LINVT).base_vlm is base


def test_a_picture_is_a_picture_in_any_form(family: MolmoWrapped):
    pixels = family.clip(1).frames[0]
    inputs = [family.inputs(user(picture, QUESTION)) for picture in (PIL.Image.fromarray(pixels), pixels)]
    assert torch.equal(inputs[0]["pixel_values"], inputs[1]["pixel_values"])


def test_a_plan_counts_the_frames_without_weights(base_folder: Path):
    plan = plan_wrap(str(base_folder), num_frames=5, num_video_tokens=6, trust_remote_code=True)
    assert (plan.architecture, plan.tokens_per_frame, plan.frame_tokens) == ("molmo", 4, 20)
    assert plan.parameters_of_base == sum(p.numel() for p in _weights(base_folder))
    check_refused(lambda: plan_wrap(str(base_folder), num_frames=5), UnsupportedBaseError, "trust_remote_code")


def _weights(base_folder: Path) -> list[torch.Tensor]:
    return [value for file in base_folder.glob("*.safetensors") for value in load_file(file).values()]


def test_the_command_line_wraps_it_if_its_code_is_trusted(base_folder: Path, tmp_path: Path, capsys: Any):
    command = ["wrap", str(base_folder), str(tmp_path / "out"), "--num-video-tokens", "6"]
    assert cli.main(command) == 1
    assert "--trust-remote-code" in capsys.readouterr().err
    assert cli.main([*command, "--trust-remote-code"]) == 0
    frames, _ = make_clip("scenes", seed=0, num_frames=8)
    write_clip(tmp_path / "clip.mp4", frames)
    ask = ["ask", str(tmp_path / "clip.mp4"), "What?", "--model", str(tmp_path / "out"), "--max-new-tokens", "3"]
    capsys.readouterr()
    # A bug was: the pipeline called generate() of the base itself, which this one has not.
    assert cli.main([*ask, "--trust-remote-code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["question"] == "What?"
    assert cli.main(ask) == 1


def test_the_pipeline_says_how_sure_it_is(family: MolmoWrapped, one: dict[str, Any]):
    pipe = pipeline("video-question-answering", model=family.model, processor=family.processor)
    video = list(family.clip(5).frames)
    (sure,) = pipe(
        video=video, question=[QUESTION], return_score=True, max_new_tokens=4, timestamps=[0, 1, 2.83, 5.2, 8]
    )
    assert 0 < sure["score"] <= 1
