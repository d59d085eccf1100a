"""Tiny models that LinVT refuses to wrap, each for a reason of its own."""

import transformers
from torch import nn


TEXT = {"vocab_size": 13, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}
VISION = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 12}


def encoder_decoder() -> nn.Module:
    parts = {**TEXT, "num_key_value_heads": 2, "head_dim": 4}
    config = transformers.T5GemmaConfig(encoder=dict(parts), decoder=dict(parts), vocab_size=13)
    return transformers.T5GemmaForConditionalGeneration(config)


def captioner() -> nn.Module:
    """Pictures through cross-attention of an encoder-decoder."""
    encoder = transformers.ViTConfig(**VISION, image_size=16, patch_size=8)
    decoder = transformers.GPT2Config(vocab_size=13, n_positions=11, n_embd=8, n_layer=1, n_head=2)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return transformers.VisionEncoderDecoderModel(config)


def text_only() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))


def audio() -> nn.Module:
    config = transformers.Qwen2AudioConfig(
        audio_config={"d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 12},
        text_config={"model_type": "qwen2", **TEXT, "num_key_value_heads": 2},
        audio_token_index=3,
    )
    return transformers.Qwen2AudioForConditionalGeneration(config)


def idefics() -> nn.Module:
    config = transformers.IdeficsConfig(
        **TEXT,
        additional_vocab_size=0,
        cross_layer_interval=1,
        use_resampler=False,
        vision_config={
            "embed_dim": 8,
            "image_size": 16,
            "patch_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    )
    return transformers.IdeficsForVisionText2Text(config)


def florence2() -> nn.Module:
    """Pictures of 2 x 2 tokens among the words of its encoder."""
    text = {"model_type": "bart", "vocab_size": 23, "d_model": 16, "max_position_embeddings": 40, "encoder_layers": 1}
    text |= {"decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 20}
    text |= {
        "decoder_ffn_dim": 20,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]}
    vision |= {"patch_prenorm": [False, True], "embed_dim": [8, 12], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision |= {"window_size": 2, "projection_dim": 16, "drop_path_rate": 0.0}
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=22)
    return transformers.Florence2ForConditionalGeneration(config).eval()


def blip_with_t5(is_instructed: bool = False) -> nn.Module:
    """A Q-Former in front of an encoder-decoder, as in the repositories with Flan-T5; InstructBLIP does not say so."""
    parts = {
        "vision_config": {**VISION, "image_size": 16, "patch_size": 8},
        "qformer_config": {**TEXT, "encoder_hidden_size": 8},
        "text_config": {
            "model_type": "t5",
            "vocab_size": 13,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 12,
            "num_layers": 1,
            "num_heads": 2,
        },
        "num_query_tokens": 2,
        "image_token_index": 3,
    }
    name = "InstructBlip" if is_instructed else "Blip2"
    config = getattr(transformers, f"{name}Config")(**parts)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config)
