"""
What a tiny base is, as data: the form in which the files of this folder describe every architecture.

`tiny_bases.py` builds models and processors from these descriptions; nothing here builds anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TokenId:
    """Stands for the id of a token in the data of a config; replaced when the tokenizer is known."""

    token: str


@dataclass(frozen=True)
class VocabSize:
    """Stands for the number of tokens in the data of a config; `additional=True`: of `additional_tokens` alone."""

    additional: bool = False


VOCAB = VocabSize()


@dataclass(frozen=True)
class BaseSpec:
    """
    One tiny base, as data.

    Args:
        config_class (`str`): Name of the config class in `transformers`.
        config (`dict`): Its arguments. [`TokenId`] and [`VocabSize`] anywhere inside are replaced by numbers.
        processor_class (`str`): Name of the processor class in `transformers`.
        image_processor_class (`str`): Name of an image processor in `transformers` or in this file.
        chat_template (`str`): Jinja source.
        image_processor (`dict`): Arguments of the image processor.
        video_processor (`dict`): Settings of the family's video processor, which are saved but not used here.
        processor (`dict`): Further arguments of the processor.
        named_tokens (`dict[str, str]`): Standard special tokens, e.g. `{"eos_token": "<|im_end|>"}`.
        tokenizer_attributes (`dict[str, str]`): Special tokens that the family's processor reads off the tokenizer
            as attributes, e.g. `{"start_image_token": "<img>"}`.
        special_tokens (`tuple[str, ...]`): Special tokens without an attribute.
        additional_tokens (`tuple[str, ...]`): Tokens beyond the language model's own vocabulary (Molmo2).
        swallows_spaces (`bool`): Whether special tokens take a space before them away.
        adds_bos (`bool`): Whether the tokenizer puts `bos_token` in front of a text.
        padding_side (`str`): `"left"` or `"right"`.
        frame_size (`tuple[int, int]`): Height and width in pixels of the frames that tests should use.
        one_tile (`dict`): Options of the image processor that give exactly one tile per frame.
        frame_nesting (`str`): How the frames of one video are handed to the image processor: `"flat"` ([f1, f2]),
            `"per_video"` ([[f1, f2]]) or `"per_frame"` ([[f1], [f2]]).
        tokens_per_frame (`int`): Visual tokens that LinVT gets of one frame of `frame_size`.
        token_grid (`tuple[int, int]`): Rows and columns of those tokens.
        type_ids (`str`, *optional*): Name of the type-id input of the model.
        answer_type_id (`int`): Type id of text that is generated.
        parts (`dict[str, tuple[str, dict]]`): Further parts of the processor: name of the argument, class in
            `transformers` and its arguments, e.g. `{"feature_extractor": ("Gemma4AudioFeatureExtractor", {})}`.
        chat (`dict`): Options of a call, without which the base's processor leaves out what its own model asks for.
        model_class (`str`, *optional*): Name of the model class, where `AutoModelForImageTextToText` does not know it.
        saved_inside (`str`, *optional*): Name of the model class around it in checkpoints, where it is the `model`.
        needs (`tuple[str, ...]`): Packages without which the base cannot be built.
        cannot (`dict[str, str]`): Names of tests that ask for what the base cannot do without LinVT either, and why;
            also `"name[case]"` for one case of a test, or parts of `promises.check_generation`.
    """

    config_class: str
    config: Mapping[str, Any]
    processor_class: str
    image_processor_class: str
    chat_template: str
    image_processor: Mapping[str, Any] = field(default_factory=dict)
    video_processor: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    named_tokens: Mapping[str, str] = field(default_factory=dict)
    tokenizer_attributes: Mapping[str, str] = field(default_factory=dict)
    special_tokens: tuple[str, ...] = ()
    additional_tokens: tuple[str, ...] = ()
    swallows_spaces: bool = False
    adds_bos: bool = False
    padding_side: str = "left"
    frame_size: tuple[int, int] = (48, 80)
    one_tile: Mapping[str, Any] = field(default_factory=dict)
    frame_nesting: str = "flat"
    tokens_per_frame: int = 0
    token_grid: tuple[int, int] = (0, 0)
    type_ids: str | None = None
    answer_type_id: int = 0
    parts: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    chat: Mapping[str, Any] = field(default_factory=dict)
    model_class: str | None = None
    saved_inside: str | None = None
    needs: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(default_factory=dict)


# The usual numbers of a tiny language model and a tiny vision tower. What a config class does not know it ignores; a
# family says only what differs. No two of them are equal, so that a swapped axis is an error and not luck.
def text_config(**differences: Any) -> dict[str, Any]:
    """Arguments of a language model's config: 3 layers of width 48."""
    usual = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 72,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": TokenId("<|im_end|>"),
        "pad_token_id": TokenId("<|endoftext|>"),
    }
    return {**usual, **differences}


def vision_config(**differences: Any) -> dict[str, Any]:
    """Arguments of a vision transformer's config: 2 layers of width 36, pictures of 32 x 32 in patches of 8 x 8."""
    usual = {
        "hidden_size": 36,
        "intermediate_size": 58,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
    }
    return {**usual, **differences}


def chat_template(image: str, before: str = "", after: str = "") -> str:
    """A ChatML template that writes `image` for a picture, with `before` and `after` around each."""
    return (
        "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% if message.content is string %}{{ message.content }}{%- else %}{%- for item in message.content %}"
        f"{{%- if item.type == 'image' %}}{before}{image}{after}"
        "{%- elif item.type == 'text' %}{{ item.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n"
        "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


CHATML_TOKENS = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
