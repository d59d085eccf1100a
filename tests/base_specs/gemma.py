"""Gemma and the families around it that read a picture from patches (DeepSeek-VL, Ovis) or from codes (Chameleon)."""

from .spec import VOCAB, BaseSpec, TokenId, chat_template, text_config, vision_config
from .spec import CHATML_TOKENS


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"}
GEMMA_IDS = {
    "bos_token_id": TokenId("<bos>"),
    "eos_token_id": TokenId("<end_of_turn>"),
    "pad_token_id": TokenId("<pad>"),
}

SPECS: dict[str, BaseSpec] = {
    "deepseek_vl": BaseSpec(
        config_class="DeepseekVLConfig",
        config={
            "text_config": text_config(model_type="llama", hidden_size=40, intermediate_size=70),
            "vision_config": vision_config(model_type="siglip_vision_model", vision_use_head=False),
            "image_token_id": TokenId("<image_placeholder>"),
            "tie_word_embeddings": True,
        },
        processor_class="DeepseekVLProcessor",
        image_processor_class="DeepseekVLImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}},
        processor={"num_image_tokens": 16},
        chat_template=chat_template("<image_placeholder>"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={"image_token": "<image_placeholder>"},
        special_tokens=("<|im_start|>",),
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "deepseek_vl_hybrid": BaseSpec(
        config_class="DeepseekVLHybridConfig",
        config={
            "text_config": text_config(model_type="llama", hidden_size=56, intermediate_size=74),
            "vision_config": vision_config(model_type="siglip_vision_model", vision_use_head=False),
            "high_res_vision_config": {
                "model_type": "sam_vision_model",
                "hidden_size": 30,
                "output_channels": 10,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1, 2],
                "num_pos_feats": 15,
                "mlp_dim": 46,
            },
            "image_token_id": TokenId("<image_placeholder>"),
            "tie_word_embeddings": True,
        },
        processor_class="DeepseekVLHybridProcessor",
        image_processor_class="DeepseekVLHybridImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}, "high_res_size": {"height": 64, "width": 64}},
        processor={"num_image_tokens": 16},
        chat_template=chat_template("<image_placeholder>"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={"image_token": "<image_placeholder>"},
        special_tokens=("<|im_start|>",),
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "janus": BaseSpec(
        config_class="JanusConfig",
        config={
            "text_config": text_config(model_type="llama", hidden_size=40, intermediate_size=66),
            "vision_config": vision_config(
                image_size=40, mlp_ratio=1.5, projection_dim=40, num_image_tokens=25
            ),
            # Of the part that draws pictures, which nothing here runs.
            "vq_config": {
                "embed_dim": 6,
                "num_embeddings": 12,
                "latent_channels": 32,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "projection_dim": 40,
                "image_token_embed_dim": 40,
            },
            "image_token_id": TokenId("<image_placeholder>"),
            "tie_word_embeddings": True,
        },
        processor_class="JanusProcessor",
        image_processor_class="JanusImageProcessorPil",
        image_processor={"size": {"height": 40, "width": 40}},
        processor={"num_image_tokens": 25, "use_default_system_prompt": True},
        chat_template=chat_template("<image_placeholder>", after="\n"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
        special_tokens=("<|im_start|>",),
        tokens_per_frame=25,
        token_grid=(5, 5),
    ),
    "ovis2": BaseSpec(
        config_class="Ovis2Config",
        config={
            "text_config": text_config(model_type="qwen2", tie_word_embeddings=True),
            "vision_config": vision_config(
                num_attention_heads=2, patch_size=4, hidden_stride=2, vocab_size=26, num_visual_indicator_tokens=5
            ),
            "image_token_id": TokenId("<IMG_ATOM>"),
            "visual_indicator_token_ids": [
                TokenId(token) for token in ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
            ],
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "tie_word_embeddings": True,
        },
        processor_class="Ovis2Processor",
        image_processor_class="Ovis2ImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}, "crop_to_patches": True, "max_patches": 4},
        processor={"image_seq_length": 16},
        chat_template=chat_template("<image>", after="\n"),
        named_tokens=CHATML_TOKENS,
        special_tokens=(
            "<|im_start|>",
            "<image>",
            "<IMG_ATOM>",
            "<IMG_START>",
            "<IMG_GRID>",
            "<IMG_COL>",
            "<IMG_ROW>",
            "<IMG_END>",
        ),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "gemma4": BaseSpec(
        config_class="Gemma4Config",
        config={
            "text_config": text_config(
                **GEMMA_IDS,
                hidden_size=36,
                head_dim=16,
                global_head_dim=20,
                sliding_window=40,
                num_hidden_layers=4,
                layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
                num_kv_shared_layers=2,
                hidden_size_per_layer_input=10,
                vocab_size_per_layer_input=VOCAB,
                use_bidirectional_attention="vision",
            ),
            "vision_config": vision_config(
                num_key_value_heads=3, head_dim=12, patch_size=4, pooling_kernel_size=2, position_embedding_size=80
            ),
            "boi_token_id": TokenId("<|image>"),
            "eoi_token_id": TokenId("<image|>"),
            "image_token_id": TokenId("<|image|>"),
            "video_token_id": TokenId("<|video|>"),
            "audio_token_id": TokenId("<|audio|>"),
            "boa_token_id": TokenId("<|audio>"),
            "eoa_token_index": TokenId("<audio|>"),
        },
        processor_class="Gemma4Processor",
        image_processor_class="Gemma4ImageProcessorPil",
        image_processor={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        video_processor={
            "video_processor_type": "Gemma4VideoProcessor",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "max_soft_tokens": 70,
        },
        processor={"image_seq_length": 70},
        parts={"feature_extractor": ("Gemma4AudioFeatureExtractor", {})},
        chat_template=chat_template("<|image|>"),
        named_tokens=GEMMA_TOKENS,
        tokenizer_attributes={
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        special_tokens=("<|video|>", "<|im_start|>", "<|im_end|>"),
        adds_bos=True,
        tokens_per_frame=60,
        token_grid=(6, 10),
        type_ids="mm_token_type_ids",
    ),
}
