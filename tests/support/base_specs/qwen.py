"""Tiny bases, as data: Qwen after Qwen3-VL and the families that take their pictures the same way."""

from typing import Any

from .always import QWEN_VL_IDS, QWEN_VL_PIXELS, QWEN_VL_TEMPLATE, QWEN_VL_TOKENS
from .spec import CHATML_TOKENS, BaseSpec, TokenId, chat_template, text_config, vision_config


# A picture is a grid of patches of 8 x 8, four of which become a token: 3 x 5 tokens for a frame of 48 x 80.
PATCHES = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": QWEN_VL_PIXELS}
GRID: dict[str, Any] = {
    "image_processor_class": "Qwen2VLImageProcessorPil",
    "image_processor": PATCHES,
    "video_processor": {"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 8, "merge_size": 2},
    "chat_template": QWEN_VL_TEMPLATE,
    "named_tokens": CHATML_TOKENS,
    "special_tokens": QWEN_VL_TOKENS,
    "tokens_per_frame": 15,
    "token_grid": (3, 5),
}
QWEN3_VL: dict[str, Any] = {**GRID, "processor_class": "Qwen3VLProcessor", "type_ids": "mm_token_type_ids"}
QWEN2_VL_VIDEO = {"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 8, "merge_size": 2}


def mrope(*section: int, interleaved: bool = True, **differences: Any) -> dict[str, Any]:
    """Rotary parameters with a section for time, height and width each."""
    return {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": list(section),
        **({"mrope_interleaved": True} if interleaved else {}),
        **differences,
    }


def vision_tower(out_hidden_size: int, **differences: Any) -> dict[str, Any]:
    """Arguments of the config of Qwen's vision tower, which says `depth` and `num_heads` for what others call so."""
    usual = vision_config(
        depth=3,
        hidden_size=32,
        intermediate_size=44,
        num_heads=2,
        out_hidden_size=out_hidden_size,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    unknown = ("num_hidden_layers", "num_attention_heads", "image_size")
    return {**{name: value for name, value in usual.items() if name not in unknown}, **differences}


OMNI_NAMES = ("image", "video", "audio", "vision_bos", "vision_eos", "audio_bos", "audio_eos")


def omni(*tokens: str) -> dict[str, Any]:
    """What differs from [`GRID`] for a processor with sound; `tokens` in the order of [`OMNI_NAMES`]."""
    named = {f"{name}_token": token for name, token in zip(OMNI_NAMES, tokens, strict=True)}
    return {
        **GRID,
        "video_processor": QWEN2_VL_VIDEO,
        "parts": {"feature_extractor": ("WhisperFeatureExtractor", {"feature_size": 16})},
        "chat_template": chat_template(named["image_token"], named["vision_bos_token"], named["vision_eos_token"]),
        "tokenizer_attributes": named,
        "special_tokens": ("<|im_start|>",),
    }


# Steps by hand with a cache need the mask of a padded batch; these take all of it for the mask of the new token.
OMNI_CANNOT = {"padded steps by hand": "forward() with a cache and a mask fails, also on text"}
AUDIO_TOWER = {"d_model": 24, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 30}

# Rotary positions for half of a head of 32, in sections of 4, 2 and 2; the linear layers have other heads. What such a
# head reads is brought to length 1, and where that is next to nothing (the first tokens of a random model) an epsilon
# of 1e-6 would blow up the rounding.
LINEAR_ATTENTION = {
    "head_dim": 32,
    "rope_parameters": mrope(4, 2, 2, partial_rotary_factor=0.5),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 14,
    "linear_conv_kernel_dim": 3,
    "rms_norm_eps": 1e-4,
}
EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 36}

SPECS: dict[str, BaseSpec] = {
    "qwen3_5": BaseSpec(
        config_class="Qwen3_5Config",
        config={
            "text_config": text_config(
                layer_types=["linear_attention", "full_attention", "linear_attention"], **LINEAR_ATTENTION
            ),
            "vision_config": vision_tower(48, num_position_embeddings=64),
            **QWEN_VL_IDS,
        },
        **QWEN3_VL,
    ),
    "qwen3_5_moe": BaseSpec(
        config_class="Qwen3_5MoeConfig",
        config={
            "text_config": text_config(
                hidden_size=52,
                layer_types=["linear_attention", "full_attention", "linear_attention"],
                shared_expert_intermediate_size=38,
                **LINEAR_ATTENTION,
                **EXPERTS,
            ),
            "vision_config": vision_tower(52, num_position_embeddings=64),
            **QWEN_VL_IDS,
        },
        **QWEN3_VL,
    ),
    "qwen3_vl_moe": BaseSpec(
        config_class="Qwen3VLMoeConfig",
        config={
            "text_config": text_config(hidden_size=56, head_dim=16, rope_parameters=mrope(4, 2, 2), **EXPERTS),
            "vision_config": vision_tower(56, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
            **QWEN_VL_IDS,
        },
        **QWEN3_VL,
    ),
    "qwen4_exp": BaseSpec(
        config_class="Qwen4ExpConfig",
        config={
            "text_config": text_config(
                hidden_size=40,
                layer_types=["linear_attention", "indexed_attention", "linear_attention"],
                shared_expert_intermediate_size=38,
                hc_count=2,
                hc_lowrank=12,
                ple_layer_ids=[1],
                ple_embed_dim=24,
                ple_conv_kernel_size=3,
                ngram_size=3,
                heads_per_ngram=2,
                ngram_vocab_size_base=50,
                make_ngram_vocab_size_divisible_by=8,
                split_ngram_parts=2,
                indexer_n_heads=2,
                indexer_kv_heads=1,
                indexer_head_dim=18,
                indexer_budget=16,
                indexer_compress_ratio=4,
                **LINEAR_ATTENTION,
                **EXPERTS,
            ),
            "vision_config": vision_tower(40, num_position_embeddings=64),
            **QWEN_VL_IDS,
        },
        **QWEN3_VL,
    ),
    "cosmos3_omni": BaseSpec(
        config_class="Cosmos3OmniConfig",
        config={
            "text_config": text_config(
                model_type="qwen3_vl_text", hidden_size=60, head_dim=16, rope_parameters=mrope(4, 2, 2)
            ),
            "vision_config": vision_tower(
                60, model_type="qwen3_vl_vision", num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
            ),
            **QWEN_VL_IDS,
        },
        **QWEN3_VL,
    ),
    "cosmos3_edge": BaseSpec(
        config_class="Cosmos3EdgeConfig",
        config={
            "text_config": text_config(head_dim=16, rope_parameters=mrope(4, 2, 2, interleaved=False)),
            "vision_config": vision_config(num_patches=64, spatial_merge_size=2),
            "projector_hidden_size": 62,
            **QWEN_VL_IDS,
        },
        processor_class="Cosmos3EdgeProcessor",
        type_ids="mm_token_type_ids",
        chat={"return_mm_token_type_ids": True},
        **{
            **GRID,
            "image_processor_class": "Cosmos3EdgeImageProcessorPil",
            "image_processor": {"patch_size": 8, "merge_size": 2, "size": QWEN_VL_PIXELS},
            "video_processor": {"video_processor_type": "Cosmos3EdgeVideoProcessor", "patch_size": 8},
        },
    ),
    "exaone4_5": BaseSpec(
        config_class="Exaone4_5_Config",
        config={
            "text_config": text_config(
                model_type="exaone4",
                head_dim=12,
                sliding_window=40,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
            "vision_config": vision_tower(
                48, num_heads=4, num_key_value_heads=2, window_size=32, fullatt_block_indexes=[1]
            ),
            **QWEN_VL_IDS,
        },
        processor_class="Exaone4_5_Processor",
        **{**GRID, "video_processor": QWEN2_VL_VIDEO},
    ),
    "hyperclovax_vision_v2": BaseSpec(
        config_class="HyperCLOVAXVisionV2Config",
        config={
            "text_config": text_config(
                model_type="hyperclovax", hidden_size=52, head_dim=14, tie_word_embeddings=True
            ),
            "vision_config": vision_tower(
                42, model_type="qwen2_5_vl_vision", window_size=32, fullatt_block_indexes=[1]
            ),
            "image_token_id": TokenId("<|image_pad|>"),
            "video_token_id": TokenId("<|video_pad|>"),
        },
        processor_class="HyperCLOVAXVisionV2Processor",
        **{**GRID, "video_processor": QWEN2_VL_VIDEO},
    ),
    "lfm3_vl": BaseSpec(
        config_class="Lfm3VlConfig",
        config={
            "text_config": text_config(
                model_type="lfm3",
                head_dim=14,
                sliding_window=40,
                conv_L_cache=3,
                bos_token_id=TokenId("<|im_start|>"),
                layer_types=["conv", "sliding_attention", "full_attention"],
            ),
            "vision_config": vision_config(
                hidden_size=32,
                num_attention_heads=4,
                num_key_value_heads=2,
                spatial_merge_size=2,
                temporal_patch_size=2,
                layer_types=["conv", "full_attention"],
            ),
            "projector_hidden_size": 62,
            **QWEN_VL_IDS,
        },
        processor_class="Lfm3VlProcessor",
        **GRID,
    ),
    "cohere_compass": BaseSpec(
        config_class="CohereCompassConfig",
        config={
            "text_config": text_config(
                hidden_size=64,
                sliding_window=40,
                logit_scale=1.0,
                bos_token_id=TokenId("<BOS_TOKEN>"),
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                rope_parameters={"sliding_attention": mrope(4, 2, 2), "full_attention": None},
            ),
            "vision_config": vision_tower(64, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
            "image_token_id": TokenId("<|IMAGE_PAD|>"),
            "video_token_id": TokenId("<|VIDEO_PAD|>"),
            "vision_start_token_id": TokenId("<|VISION_START|>"),
            "vision_end_token_id": TokenId("<|VISION_END|>"),
        },
        processor_class="CohereCompassProcessor",
        image_processor_class="CohereCompassImageProcessorPil",
        image_processor=PATCHES,
        video_processor={"video_processor_type": "CohereCompassVideoProcessor", "patch_size": 8, "merge_size": 2},
        chat_template=chat_template("<|IMAGE_PAD|>", "<|VISION_START|>", "<|VISION_END|>"),
        named_tokens={"bos_token": "<BOS_TOKEN>", **CHATML_TOKENS},
        special_tokens=("<|im_start|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_START|>", "<|VISION_END|>"),
        adds_bos=True,
        tokens_per_frame=15,
        token_grid=(3, 5),
        type_ids="mm_token_type_ids",
    ),
    "qwen2_5_omni_thinker": BaseSpec(
        config_class="Qwen2_5OmniThinkerConfig",
        config={
            "text_config": text_config(rope_parameters=mrope(2, 2, 2, interleaved=False)),
            "vision_config": vision_tower(48, window_size=32, fullatt_block_indexes=[1]),
            "audio_config": {**AUDIO_TOWER, "num_mel_bins": 16, "n_window": 10, "output_dim": 48},
            "image_token_index": TokenId("<|IMAGE|>"),
            "video_token_index": TokenId("<|VIDEO|>"),
            "audio_token_index": TokenId("<|AUDIO|>"),
            "vision_start_token_id": TokenId("<|vision_bos|>"),
            "audio_start_token_id": TokenId("<|audio_bos|>"),
            "audio_end_token_id": TokenId("<|audio_eos|>"),
        },
        processor_class="Qwen2_5OmniProcessor",
        cannot=OMNI_CANNOT,
        **omni(
            "<|IMAGE|>",
            "<|VIDEO|>",
            "<|AUDIO|>",
            "<|vision_bos|>",
            "<|vision_eos|>",
            "<|audio_bos|>",
            "<|audio_eos|>",
        ),
    ),
    "qwen3_omni_moe_thinker": BaseSpec(
        config_class="Qwen3OmniMoeThinkerConfig",
        config={
            "text_config": text_config(hidden_size=56, head_dim=16, rope_parameters=mrope(4, 2, 2), **EXPERTS),
            "vision_config": vision_tower(56, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]),
            "audio_config": {**AUDIO_TOWER, "num_mel_bins": 16, "output_dim": 56, "downsample_hidden_size": 12},
            "image_token_id": TokenId("<|image_pad|>"),
            "video_token_id": TokenId("<|video_pad|>"),
            "audio_token_id": TokenId("<|audio_pad|>"),
            "vision_start_token_id": TokenId("<|vision_start|>"),
            "audio_start_token_id": TokenId("<|audio_start|>"),
        },
        processor_class="Qwen3OmniMoeProcessor",
        cannot=OMNI_CANNOT,
        **omni(
            "<|image_pad|>",
            "<|video_pad|>",
            "<|audio_pad|>",
            "<|vision_start|>",
            "<|vision_end|>",
            "<|audio_start|>",
            "<|audio_end|>",
        ),
    ),
    "dots3_note": BaseSpec(
        config_class="Dots3NoteConfig",
        config={
            "text_config": text_config(
                num_key_value_heads=4,
                layer_types=["indexed_attention", "sliding_attention", "indexed_attention"],
                mlp_layer_types=["dense", "sparse", "sparse"],
                n_routed_experts=5,
                num_experts_per_tok=2,
                moe_intermediate_size=36,
                shared_experts_intermediate_size=28,
                q_lora_rank=18,
                kv_lora_rank=22,
                head_dim=20,
                qk_nope_head_dim=12,
                qk_rope_head_dim=8,
                v_head_dim=14,
                index_topk=24,
                index_head_dim=16,
                index_n_heads=16,
                sliding_window=40,
                swa_num_attention_heads=2,
                swa_num_key_value_heads=2,
                swa_q_lora_rank=18,
                swa_kv_lora_rank=26,
                swa_head_dim=16,
                swa_qk_nope_head_dim=10,
                swa_v_head_dim=14,
            ),
            "vision_config": vision_config(
                adapter_in_dim=36,
                adapter_out_dim=48,
                mlp_layer_types=["dense", "sparse"],
                moe_intermediate_size=28,
                num_local_experts=3,
                num_experts_per_tok=2,
            ),
            "audio_config": {
                "hidden_size": 24,
                "intermediate_size": 30,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "feature_size": 16,
                "downsample_hidden_size": 12,
                "adapter_input_size": 24,
                "adapter_out_dim": 48,
            },
            "image_token_id": TokenId("<|imgpad|>"),
            "video_token_id": TokenId("<|video_pad|>"),
            "audio_token_id": TokenId("<|audio_comp_pad|>"),
        },
        processor_class="Dots3NoteProcessor",
        parts={"feature_extractor": ("Dots3NoteFeatureExtractor", {"feature_size": 16})},
        **{
            **GRID,
            "image_processor": {**PATCHES, "temporal_patch_size": 1},
            "chat_template": chat_template("<|imgpad|>", "<|img|>", "<|endofimg|>"),
            "special_tokens": (
                "<|im_start|>",
                "<|img|>",
                "<|endofimg|>",
                "<|imgpad|>",
                "<|video_pad|>",
                "<|audio_comp_pad|>",
            ),
        },
    ),
}
