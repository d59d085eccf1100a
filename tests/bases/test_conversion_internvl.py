"""
InternVL2, 2.5 and 3 as published become transformers' `internvl`, with every tensor in place.

The stand-ins are fused and named as published (`published_layouts.py`). That the published code computes the same was
measured outside of the tests.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForImageTextToText

from promises import (
    LINVT,
    NUM_VIDEO_TOKENS,
    QUESTION,
    Wrapped,
    check_generation,
    check_refused,
    check_same_as_base,
    relative_difference,
    stir,
    user,
)
from published_layouts import INTERN_VIT, INTERN_VIT_6B, INTERNVL_TEXTS, NUM_ROWS, published_internvl
from tiny_bases import build_tokenizer
from transformers_linvt import (
    CheckpointError,
    LinVTForVideoQA,
    LinVTProcessor,
    UnsupportedBaseError,
    convert_checkpoint,
)
from transformers_linvt.bases.conversion.internvl import internvl_config


OLDER = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
NEWER = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
# the language models, each with one of the towers
CASES = [(text, INTERN_VIT_6B if text in ("llama", "qwen3") else INTERN_VIT) for text in INTERNVL_TEXTS]


def convert(folder: Path, *arguments: Any, **own: Any) -> tuple[nn.Module, Path]:
    model = published_internvl(folder / "published", *arguments, **own)
    convert_checkpoint(folder / "published", folder / "converted")
    return model, folder / "converted"


@pytest.mark.parametrize(("text", "vision"), CASES, ids=list(INTERNVL_TEXTS))
@torch.no_grad()
def test_every_tensor_comes_back_and_computes_the_same(text: str, vision: dict[str, Any], tmp_path: Path):
    original, folder = convert(tmp_path, text, vision)
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    expected, found = original.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    image_id = model.config.image_token_id
    original.config.image_token_id = original.model.config.image_token_id = image_id
    inputs = {"input_ids": torch.tensor([[9, *[image_id] * 16, 7, 8]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    assert relative_difference(model(**inputs).logits, original(**inputs).logits) < 1e-6


# Of each published size the language model, the tower, and as many queries to a key, at a few numbers to a head
PUBLISHED = {
    "InternVL2-1B": ("qwen2", INTERN_VIT, {"hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 2}),
    "InternVL2-2B": (
        "internlm2",
        INTERN_VIT,
        {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 8},
    ),
    "InternVL2-4B": ("phi3", INTERN_VIT, {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 8}),
    "InternVL2-8B": (
        "internlm2",
        INTERN_VIT,
        {"hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 4},
    ),
    "InternVL2-26B": (
        "internlm2",
        INTERN_VIT_6B,
        {
            "hidden_size": 72,
            "num_attention_heads": 18,
            "num_key_value_heads": 3,
            "rope_scaling": {"type": "dynamic", "factor": 3.0},
        },
    ),
    "InternVL2-40B": (
        "llama",
        INTERN_VIT_6B,
        {"hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 2},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_the_shares_of_heads_of_every_published_size_come_back(name: str, tmp_path: Path):
    text, vision, language = PUBLISHED[name]
    original, folder = convert(tmp_path, text, vision, language=language)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    published, made = SIZES[name], model.config
    tower = published[0]
    assert (made.vision_config.attention_bias, made.vision_config.use_qk_norm, made.vision_config.norm_type) == (
        tower["qkv_bias"], tower["qk_normalization"], tower["norm_type"],
    )  # fmt: skip
    assert json.loads((tmp_path / "published" / "config.json").read_text())["llm_config"]["architectures"] == [
        published[1]
    ]
    heads, keys = made.text_config.num_attention_heads, made.text_config.num_key_value_heads
    assert heads * published[7] == keys * published[6]
    expected, found = original.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[one], value) for one, value in expected.items())
    has_bias = any(one.endswith("self_attn.q_proj.bias") for one in found)
    assert has_bias == (text == "qwen2")
    if "dynamic" in str(language):
        assert made.text_config.rope_parameters["factor"] == 3.0


# What transformers 4.37 wrote beside the sizes into configs: of 8B and 26B as published, of 1B and 2B in part
BESIDE_THE_SIZES = {
    "_name_or_path": "internlm/internlm2_5-7b-chat",
    "attn_implementation": "flash_attention_2",
    "add_cross_attention": False,
    "chunk_size_feed_forward": 0,
    "do_sample": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "length_penalty": 1.0,
    "max_length": 20,
    "num_beams": 1,
    "output_scores": False,
    "pruned_heads": {},
    "return_dict_in_generate": False,
    "tf_legacy_loss": False,
    "torch_dtype": "bfloat16",
    "torchscript": False,
    "transformers_version": "4.37.2",
    "use_bfloat16": True,
    "use_cache": True,
}
WINDOW = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 24}  # of 1B, which has none


@pytest.mark.parametrize("name", ["InternVL2-1B", "InternVL2-26B"])
def test_what_stands_beside_the_sizes_in_a_published_config_changes_nothing(name: str, tmp_path: Path):
    text, vision, language = PUBLISHED[name]
    _, folder = convert(tmp_path, text, vision, language=language)
    plain = json.loads((folder / "config.json").read_text())
    file = tmp_path / "published" / "config.json"
    said = json.loads(file.read_text())
    beside = {**BESIDE_THE_SIZES, **(WINDOW if text == "qwen2" else {})}
    said["llm_config"] = {**beside, **said["llm_config"]}
    said["vision_config"] |= {
        "drop_path_rate": 0.4,
        "initializer_range": 1e-10,
        "use_flash_attn": True,
        "dropout": 0.0,
    }
    said |= {"_commit_hash": None, "num_hidden_layers": 48, "use_backbone_lora": 0, "min_dynamic_patch": 1}
    file.write_text(json.dumps(said))
    convert_checkpoint(tmp_path / "published", tmp_path / "again")
    made = json.loads((tmp_path / "again" / "config.json").read_text())
    assert made["text_config"].get("sliding_window") is None
    for config in (made, plain):
        config["text_config"].pop("max_window_layers", None)
    assert made == plain


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Wrapped:
    _, folder = convert(tmp_path_factory.mktemp("internvl"))
    torch.manual_seed(0)
    model = stir(LinVTForVideoQA.from_base(folder, **LINVT))
    return Wrapped("internvl", model, LinVTProcessor.from_base(folder, num_video_tokens=NUM_VIDEO_TOKENS), folder)


def test_linvt_goes_around_it(family: Wrapped):
    inputs = family.inputs(user(family.clip(5), QUESTION))
    videos = family.model.model.encode_videos([5], {n[6:]: v for n, v in inputs.items() if n.startswith("frame_")})
    assert videos[0].tokens.shape == (5, 16, 48)
    check_generation(family.model, inputs)
    check_same_as_base(family.model, family.base, family.inputs(user(family.picture(), QUESTION)))


def test_a_picture_has_the_tiles_that_were_published(family: Wrapped):
    # 56 x 40 pixels: of at most four tiles two beside each other are nearest, and the picture as a whole behind them
    inputs = family.inputs(user(family.picture(), QUESTION))
    assert inputs["pixel_values"].shape == (3, 3, 32, 32)
    settings = json.loads((family.base_folder / "processor_config.json").read_text())["image_processor"]
    assert settings["image_mean"] == [0.485, 0.456, 0.406] and settings["max_patches"] == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("internlm2", f"<|im_start|>system\n{OLDER}<|im_end|><|im_start|>user\n{{}}<|im_end|><|im_start|>assistant\n"),
        ("phi3", f"<|system|>\n{OLDER}<|end|><|user|>\n{{}}<|end|><|assistant|>\n"),
        ("qwen2", f"<|im_start|>system\n{NEWER}<|im_end|>\n<|im_start|>user\n{{}}<|im_end|>\n<|im_start|>assistant\n"),
    ],
)
def test_a_prompt_is_the_published_one(text: str, expected: str, tmp_path: Path):
    _, folder = convert(tmp_path, text)
    processor = LinVTProcessor.from_base(folder, num_video_tokens=NUM_VIDEO_TOKENS)
    messages = user({"type": "image"}, "What?")
    written = processor.base_processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == expected.format("<IMG_CONTEXT>\nWhat?")
    generation = json.loads((folder / "generation_config.json").read_text())
    end = "<|end|>" if text == "phi3" else "<|im_end|>"
    assert processor.base_processor.tokenizer.convert_tokens_to_ids(end) in generation["eos_token_id"]


def test_words_of_the_system_in_the_config_come_first(tmp_path: Path):
    _, folder = convert(tmp_path, system_message="You see.")
    processor = LinVTProcessor.from_base(folder, num_video_tokens=NUM_VIDEO_TOKENS)
    written = processor.base_processor.apply_chat_template(user("What?"), tokenize=False)
    assert written.startswith("<|im_start|>system\nYou see.<|im_end|><|im_start|>user\n")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"ps_version": "v1"}, ("ps_version", "'v1'", "'v2'")),
        ({"use_llm_lora": 16}, ("use_llm_lora", "16")),
        ({"template": "internvl_zh"}, ("template", "internvl_zh", "internlm2-chat")),
        ({"pad2square": True}, ("pad2square",)),
        ({"use_thumbnail": False}, ("use_thumbnail",)),
        ({"llm_config": {"architectures": ["InternLM3ForCausalLM"], "num_attention_heads": 6, "vocab_size": 520}},
         ("InternLM3ForCausalLM", "InternLM2ForCausalLM", "-hf")),
    ],
)  # fmt: skip
def test_what_internvl_of_transformers_would_compute_otherwise_is_refused(own: dict, words: tuple, tmp_path: Path):
    published_internvl(tmp_path / "published", **own)
    check_refused(
        lambda: convert_checkpoint(tmp_path / "published", tmp_path / "converted"), UnsupportedBaseError, *words
    )
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_norms_of_queries_with_another_number_are_refused(tmp_path: Path):
    published_internvl(tmp_path / "published", "llama", INTERN_VIT_6B)
    file = tmp_path / "published" / "config.json"
    said = json.loads(file.read_text())
    said["vision_config"]["layer_norm_eps"] = 1e-5
    file.write_text(json.dumps(said))
    call = lambda: convert_checkpoint(tmp_path / "published", tmp_path / "converted")  # noqa: E731
    check_refused(call, UnsupportedBaseError, "layer_norm_eps", "1e-05")


def test_a_tokenizer_without_the_tokens_of_pictures_is_refused(tmp_path: Path):
    # they would get new ids, behind the last embedding
    tokenizer = build_tokenizer("qwen2_vl")
    tokenizer.add_tokens([f"<word {number}>" for number in range(NUM_ROWS - len(tokenizer))])
    published_internvl(tmp_path / "published", tokenizer=tokenizer)
    call = lambda: convert_checkpoint(tmp_path / "published", tmp_path / "converted")  # noqa: E731
    check_refused(call, CheckpointError, "do not belong together", str(NUM_ROWS))


def test_a_part_that_is_no_object_is_named(tmp_path: Path):
    published_internvl(tmp_path / "published", vision_config=5)
    call = lambda: convert_checkpoint(tmp_path / "published", tmp_path / "converted")  # noqa: E731
    check_refused(call, CheckpointError, "vision_config=5", "an object")


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_missing_head_is_the_table_of_words_only_where_the_config_says_so(is_tied: bool, tmp_path: Path):
    original = published_internvl(tmp_path / "published", "qwen2")
    for file in (tmp_path / "published").glob("*.safetensors"):
        weights = load_file(file)
        weights.pop("language_model.lm_head.weight", None)
        save_file(weights, file)
    said = json.loads((tmp_path / "published" / "config.json").read_text())
    said["llm_config"]["tie_word_embeddings"] = is_tied
    (tmp_path / "published" / "config.json").write_text(json.dumps(said))
    call = lambda: convert_checkpoint(tmp_path / "published", tmp_path / "converted")  # noqa: E731
    if not is_tied:
        check_refused(call, CheckpointError, "1 missing", "lm_head.weight")
        return
    call()
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "converted")
    assert torch.equal(model.lm_head.weight, original.model.language_model.embed_tokens.weight)


# ---------------------------------------------------------------------------------------------------------------------
# The published sizes. Numbers of 1B, 2B (in part), 8B and 26B are of their config.json; 4B and 40B are put together
# from the language model and the tower that their card names.
# ---------------------------------------------------------------------------------------------------------------------

SMALL_TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    **INTERN_VIT,
}
LARGE_TOWER = {
    "hidden_size": 3200,
    "intermediate_size": 12800,
    "num_hidden_layers": 45,
    "num_attention_heads": 25,
    "image_size": 448,
    "patch_size": 14,
    **INTERN_VIT_6B,
}
# tower, class of the language model, words, width, width inside, layers, heads, keys; parameters in millions
SIZES = {
    "InternVL2-1B": (SMALL_TOWER, "Qwen2ForCausalLM", 151655, 896, 4864, 24, 14, 2, 938.16),
    "InternVL2-2B": (SMALL_TOWER, "InternLM2ForCausalLM", 92553, 2048, 8192, 24, 16, 8, 2205.75),
    "InternVL2-4B": (SMALL_TOWER, "Phi3ForCausalLM", 32020, 3072, 8192, 32, 32, 32, 4146.86),
    "InternVL2-8B": (SMALL_TOWER, "InternLM2ForCausalLM", 92553, 4096, 14336, 32, 32, 8, 8075.37),
    "InternVL2-26B": (LARGE_TOWER, "InternLM2ForCausalLM", 92553, 6144, 16384, 48, 48, 8, 25514.19),
    "InternVL2-40B": (LARGE_TOWER, "LlamaForCausalLM", 64007, 7168, 20480, 60, 56, 8, 40068.68),
    "InternVL3-1B": (SMALL_TOWER, "Qwen2ForCausalLM", 151674, 896, 4864, 24, 14, 2, 938.19),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_published_size_has_its_parameters_and_256_tokens_a_tile(name: str):
    tower, architecture, *numbers, millions = SIZES[name]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = dict(zip((*names, "num_key_value_heads"), numbers, strict=True))
    llm = {**text, "architectures": [architecture], "bias": False, "rope_scaling": None, "pad_token_id": 0}
    if architecture == "Phi3ForCausalLM":  # a hundred numbers in the original
        llm["rope_scaling"] = {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
        llm |= {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    config = internvl_config({"llm_config": llm, "vision_config": tower, "force_image_size": 448})
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    assert sum(one.numel() for one in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert config.image_seq_length == 256
