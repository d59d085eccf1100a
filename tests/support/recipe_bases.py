"""The bases of examples/recipes at their real sizes, without weights: what a dry run reads, in a folder."""

from pathlib import Path

import transformers

from tiny_bases import build_processor


# Sizes as in the checkpoints' config.json; the parameters that come of them are those of the published weights.
_QWEN_TEXT = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
}
_QWEN_VISION = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4}
_INTERN_TEXT = {
    "model_type": "qwen2",
    "vocab_size": 151674,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
_INTERN_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": (448, 448),
    "patch_size": (14, 14),
    "use_mean_pooling": True,
}
_SMOL_TEXT = {
    "model_type": "llama",
    "vocab_size": 49280,
    "hidden_size": 960,
    "intermediate_size": 2560,
    "num_hidden_layers": 32,
    "num_attention_heads": 15,
    "num_key_value_heads": 5,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
_SMOL_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 512,
    "patch_size": 16,
}


def write_recipe_base(recipe: str, folder: Path) -> Path:
    """Config and processor of the base of a recipe, its tokenizer one of a few words."""
    kind = {"qwen2_vl_2b": "qwen2_vl", "internvl3_1b": "internvl", "smolvlm2_500m": "smolvlm"}[recipe]
    processor = build_processor(kind)
    ids, pictures = processor.tokenizer.get_vocab(), processor.image_processor
    if kind == "qwen2_vl":
        names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
        names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
        own = {f"{name}_token_id": ids[token] for name, token in names.items()}
        vision = {**_QWEN_VISION, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
        config = transformers.Qwen2VLConfig(
            text_config=_QWEN_TEXT, vision_config=vision, tie_word_embeddings=True, **own
        )
        pictures.patch_size, pictures.merge_size = 14, 2
        pictures.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    elif kind == "internvl":
        config = transformers.InternVLConfig(
            text_config=_INTERN_TEXT,
            vision_config=_INTERN_VISION,
            image_token_id=ids["<IMG_CONTEXT>"],
            image_seq_length=256,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        )
        pictures.size = {"height": 448, "width": 448}
        processor.image_seq_length = 256
    else:
        config = transformers.SmolVLMConfig(
            text_config=_SMOL_TEXT,
            vision_config=_SMOL_VISION,
            image_token_id=ids["<image>"],
            pad_token_id=ids["<|im_end|>"],
            scale_factor=4,
        )
        pictures.size, pictures.max_image_size = {"longest_edge": 2048}, {"longest_edge": 512}
        processor.image_seq_len = 64
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
