"""xGen-MM (BLIP-3) with Phi-3: this package's LLaVA with a biased head and a Perceiver."""

import torch

from ...errors import CheckpointError
from ..biased_llava.configuration_biased_llava import BiasedLlavaConfig
from .layout import (
    IMAGE,
    POLITE,
    Converted,
    Layout,
    Published,
    content,
    ends,
    known_tower,
    siglip_config,
    text_config,
    tokenizer_with,
)
from .llava_biased import llava_processor
from .weights import Step, renamed


_TEMPLATE = (
    f"{{%- if messages[0].role != 'system' %}}{{{{- \"<|system|>\\n{POLITE}<|end|>\\n\" }}}}{{%- endif %}}"
    "{%- for message in messages %}{{- '<|' + message.role + '|>\\n' }}"
    + content(IMAGE, "\\n")
    + "{{- '<|end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)
_NAMES = {
    r"vlm\.vision_encoder\.": "model.vision_tower.",
    r"vlm\.vision_tokenizer\.layers\.(\d+)\.0\.": r"model.multi_modal_projector.layers.\1.",
    r"vlm\.vision_tokenizer\.layers\.(\d+)\.1\.": r"model.multi_modal_projector.layers.\1.mlp.",
    r"vlm\.vision_tokenizer\.": "model.multi_modal_projector.",
    r"vlm\.lang_model\.lm_head\.": "lm_head.",
    r"vlm\.lang_model\.model\.": "model.language_model.",
}
# The rows of the three tokens that were added, and the table that they are behind.
_ADDED = {
    "model.embed_tokens.weight": "model.embed_tokens.additional_embedding.weight",
    "lm_head.weight": "lm_head.additional_fc.weight",
    "lm_head.bias": "lm_head.additional_fc.bias",
}
# what the code of xGen-MM takes where a config does not say it
_ASSUMED = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "sliding_window": 2047,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}


def _convert(published: Published) -> Converted:
    said = published.config
    published.expect("text_config.model_type", said["text_config"].get("model_type"), "phi3")
    text = {**_ASSUMED, **said["text_config"]}
    steps = _steps(published, text["initial_tokenizer_len"])
    added = published.weights.shapes["vlm.lang_model.lm_head.additional_fc.bias"]
    text["vocab_size"] = text["initial_tokenizer_len"] + len(added)
    tower = said.get("vision_encoder_config", {}).get("model_name", "google/siglip-so400m-patch14-384")
    num_latents = said.get("vision_tokenizer_config", {}).get("num_vis_tokens", 128)
    tokenizer, image_id = tokenizer_with(published.folder, text["vocab_size"], IMAGE)
    config = BiasedLlavaConfig(
        vision_config=siglip_config(published.vision_config or known_tower(tower)),
        text_config={"model_type": "phi3", **text_config(text)},
        image_token_index=image_id[0],
        image_seq_length=num_latents,
        num_latents=num_latents,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
        architectures=["BiasedLlavaForConditionalGeneration"],
        dtype=published.weights.dtype(),
    )
    processor = llava_processor(config, tokenizer, _TEMPLATE)
    return Converted(steps, config, processor, ends(tokenizer, "<|end|>", tokenizer.eos_token))


def _steps(published: Published, num_words: int) -> list[Step]:
    """The rows of the tokens that were added join the others; the rest of the first tables was never used."""
    tables = {f"vlm.lang_model.{name}": f"vlm.lang_model.{added}" for name, added in _ADDED.items()}
    for name in (*tables, *tables.values()):
        if name not in published.weights:
            raise CheckpointError(f"{str(published.folder)!r} has no weight {name!r}.")
    steps = []
    for step in renamed([name for name in published.weights if name not in tables.values()], _NAMES):
        (name,) = step.sources
        steps.append(_joined(step, tables[name], num_words) if name in tables else step)
    return steps


def _joined(step: Step, added: str, num_words: int) -> Step:
    return Step((*step.sources, added), lambda table, rows: step.make(torch.cat([table[:num_words], rows])))


XGENMM = Layout(
    title="BLIP-3 (xGen-MM)",
    convert=_convert,
    nested={
        "text_config": dict,
        "text_config.initial_tokenizer_len": int,
        "vision_encoder_config": dict,
        "vision_encoder_config.model_name": str,
        "vision_tokenizer_config": dict,
    },
)

__all__ = ["XGENMM"]
