"""Models to measure: of the shape of a published one, scaled down, with random weights; nothing is downloaded."""

import tokenizers
import torch
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from transformers_linvt import LinVTForVideoQA, LinVTProcessor
from transformers_linvt.bases.loading import NoVideoProcessor, video_processors_known


SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


INTERNVL_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")


def make_tokenizer(special: tuple[str, ...] = SPECIAL, **named: str) -> PreTrainedTokenizerFast:
    """One token per byte, and the special ones of a base."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", extra_special_tokens=named
    )


def scaled_qwen2_vl() -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """LinVT around a Qwen2-VL of 8 vision layers of 320 channels and 8 language layers of 512, in float32."""
    tokenizer = make_tokenizer()
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    text = {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 8, "embed_dim": 320, "num_heads": 8, "mlp_ratio": 4, "hidden_size": 512},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    base = Qwen2VLForConditionalGeneration(config).eval()
    with video_processors_known():  # the base's own needs torchvision, and nothing here uses it
        processor = Qwen2VLProcessor(Qwen2VLImageProcessorPil(), tokenizer, NoVideoProcessor(), chat_template=TEMPLATE)
    model = LinVTForVideoQA.from_base(base, num_video_tokens=64)
    return model, LinVTProcessor.from_base(processor, num_video_tokens=64)


def scaled_internvl() -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """LinVT around an InternVL of 224 pixels: 8 vision layers of 320 channels, 8 language layers of 512."""
    tokenizer = make_tokenizer(
        INTERNVL_SPECIAL, start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("<IMG_CONTEXT>", "<|im_end|>", "<|endoftext|>")}
    config = InternVLConfig(
        text_config={
            "model_type": "qwen2", "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192, "bos_token_id": None, "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "hidden_size": 320, "intermediate_size": 1280, "num_hidden_layers": 8, "num_attention_heads": 8,
            "image_size": (224, 224), "patch_size": (14, 14),
        },
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    base = InternVLForConditionalGeneration(config).eval()
    pictures = GotOcr2ImageProcessorPil(size={"height": 224, "width": 224}, min_patches=1, max_patches=12)
    template = TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
    with video_processors_known():
        processor = InternVLProcessor(
            pictures, tokenizer, NoVideoProcessor(), image_seq_length=64, chat_template=template
        )
    model = LinVTForVideoQA.from_base(base, num_video_tokens=64)
    return model, LinVTProcessor.from_base(processor, num_video_tokens=64)


SCALED = {"qwen2-vl": scaled_qwen2_vl, "internvl": scaled_internvl}
