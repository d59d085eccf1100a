"""
A sentencepiece model becomes a fast tokenizer that gives the same ids, in several scripts and around special tokens.

Compared with sentencepiece itself, on a small model that is trained here. The tokenizers of InternLM2 and Llama were
compared with those published outside of the tests.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from promises import check_refused
from published_layouts import published_internvl
from transformers_linvt import CheckpointError, LinVTProcessor, UnsupportedBaseError, convert_checkpoint
from transformers_linvt.bases.conversion.layout import load_tokenizer


# of sentencepiece 0.2: its classes of C have no module
pytestmark = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
sentencepiece = pytest.importorskip("sentencepiece")
pytest.importorskip("google.protobuf")
sentencepiece_model_pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")

SENTENCES = [
    "What is in the video? A red ball is left of the large green circle, and two dogs run.",
    "Что происходит на видео? Красный мяч лежит слева от зелёного круга.",
    "视频里有什么？红色的球在绿色的圆的左边。",
    "ماذا يوجد في الفيديو؟ كرة حمراء",
    "वीडियो में क्या है? लाल गेंद",
    "def f(x):\n    return x  # two  spaces",
]
TEXTS = [
    *SENTENCES,
    "",
    " ",
    "   three in front",
    "behind   ",
    "ビデオには何がありますか",
    "비디오에 무엇이",
    "emoji 😀👍🏽 and é",
    "tab\tand\r\nnew lines\n\n",
    "▁ a metaspace",
    "the tool that was renamed",
]
ADDED = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>"]
RENAMED = {"[UNUSED_1]": "<|im_end|>", "[UNUSED_2]": "<|im_start|>"}


def publish(folder: Path, has_prefix: bool = True, settings: dict[str, Any] | None = None, **rules: Any) -> Any:
    """A model with placeholders that the settings rename, as InternLM2's, and tokens behind it; returns the model."""
    folder.mkdir(exist_ok=True)
    text = folder / "text.txt"
    text.write_text("\n".join(SENTENCES * 3), encoding="utf-8")
    rules = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "model_type": "bpe"} | rules
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=370,
        byte_fallback=True,
        character_coverage=0.98,
        add_dummy_prefix=has_prefix,
        user_defined_symbols=["<tool>", *RENAMED],
        minloglevel=2,
        **rules,
    )
    text.unlink()
    model = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    special = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    decoder = {str(model.piece_to_id(old)): {"content": new, **special} for old, new in RENAMED.items()}
    decoder |= {str(len(model) + place): {"content": token, **special} for place, token in enumerate(ADDED)}
    said = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": decoder,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
        **(settings or {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    return model


@pytest.mark.parametrize("has_prefix", [True, False])
def test_text_in_any_script_has_the_ids_of_sentencepiece(has_prefix: bool, tmp_path: Path):
    model = publish(tmp_path, has_prefix)
    tokenizer = load_tokenizer(tmp_path)
    assert len({len(model.encode(text)) for text in TEXTS}) > 10
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids == [model.bos_id(), *model.encode(text)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("▁", " "), text
    # bytes stand for what the model has no piece for
    assert "<0xF0>" in tokenizer.convert_ids_to_tokens(tokenizer("😀")["input_ids"])


def test_it_comes_back_from_its_files(tmp_path: Path):
    publish(tmp_path / "published")
    tokenizer = load_tokenizer(tmp_path / "published")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [again(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<s>", "</s>", "</s>")


def test_special_tokens_are_found_and_text_between_them_begins_anew(tmp_path: Path):
    model = publish(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    start, end = model.piece_to_id("[UNUSED_2]"), model.piece_to_id("[UNUSED_1]")
    image = [len(model), *[len(model) + 2] * 2, len(model) + 1]
    text = "<|im_start|>user\nWhat?<|im_end|><img><IMG_CONTEXT><IMG_CONTEXT></img> A <tool>"
    a, b = model.encode("user\nWhat?"), model.encode(" A <tool>")
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == [start, *a, end, *image, *b]
    assert tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") == len(model) + 2
    written = tokenizer.decode([start, *a, end], skip_special_tokens=True)
    assert written == "user\nWhat?"


@pytest.mark.parametrize(
    ("settings", "around"), [({"add_bos_token": False}, (0, 0)), ({"add_eos_token": True}, (1, 1))]
)
def test_the_settings_say_what_is_around_a_text(settings: dict, around: tuple[int, int], tmp_path: Path):
    model = publish(tmp_path, settings=settings)
    ids = [*[model.bos_id()] * around[0], *model.encode("A ball"), *[model.eos_id()] * around[1]]
    assert load_tokenizer(tmp_path)("A ball")["input_ids"] == ids


def test_a_newer_llama_puts_a_space_before_the_first_text_alone(tmp_path: Path):
    model = publish(tmp_path, settings={"legacy": False, "add_bos_token": False})
    start = model.piece_to_id("[UNUSED_2]")
    tokenizer = load_tokenizer(tmp_path)
    proto = sentencepiece_model_pb2.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    without = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    assert tokenizer("ball")["input_ids"] == model.encode("ball")
    assert tokenizer("<|im_start|>ball")["input_ids"] == [start, *without.encode("ball")]


def test_internvl_with_it_writes_a_picture_into_the_prompt(tmp_path: Path):
    published_internvl(tmp_path / "published")
    for path in (tmp_path / "published").glob("tokenizer*"):
        path.unlink()
    (tmp_path / "published" / "chat_template.jinja").unlink(missing_ok=True)
    model = publish(tmp_path / "published")
    convert_checkpoint(tmp_path / "published", tmp_path / "converted")
    processor = LinVTProcessor.from_base(tmp_path / "converted", num_video_tokens=3).base_processor
    assert processor.image_token_id == len(model) + 2
    config = json.loads((tmp_path / "converted" / "config.json").read_text())
    assert config["image_token_id"] == len(model) + 2
    generation = json.loads((tmp_path / "converted" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [model.piece_to_id("[UNUSED_1]"), model.eos_id()]


def _rename_wrongly(folder: Path) -> None:
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said["added_tokens_decoder"]["999"] = {"content": "<far>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("spoil", "rules", "error", "words"),
    [
        (lambda f: (f / "tokenizer.model").write_bytes(b"\x07none"), {}, CheckpointError, ("tokenizer.model",)),
        (lambda f: (f / "tokenizer_config.json").unlink(), {}, CheckpointError, ("tokenizer_config.json",)),
        (_rename_wrongly, {}, CheckpointError, ("<far>", "999")),
        (lambda f: None, {"normalization_rule_name": "nmt_nfkc"}, UnsupportedBaseError, ("normalised characters",)),
        (lambda f: None, {"model_type": "unigram"}, UnsupportedBaseError, ("BPE",)),
        (lambda f: None, {"remove_extra_whitespaces": True}, UnsupportedBaseError, ("remove_extra_whitespaces",)),
    ],
)  # fmt: skip
def test_what_would_give_other_ids_is_refused(
    spoil: Callable, rules: dict, error: type[Exception], words: tuple, tmp_path: Path
):
    publish(tmp_path, **rules)
    spoil(tmp_path)
    check_refused(lambda: load_tokenizer(tmp_path), error, *words)


def test_without_sentencepiece_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path)
    module = sys.modules["transformers.convert_slow_tokenizer"]

    def missing(*names: Any) -> None:
        raise ImportError("sentencepiece")

    monkeypatch.setattr(module, "requires_backends", missing)
    check_refused(
        lambda: load_tokenizer(tmp_path),
        UnsupportedBaseError,
        "pip install sentencepiece protobuf",
        "sentencepiece model",
    )
