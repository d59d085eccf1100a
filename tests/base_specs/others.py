"""Tiny bases that fit in no other group, as data."""

from typing import Any

from .spec import CHATML_TOKENS, BaseSpec, TokenId, chat_template, text_config, vision_config


MUSE_TOKENS = (
    "<|im_start|>",
    "<|patch|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|video|>",
    "<|vid_frame_separator|>",
    "<|vid_start|>",
    "<|vid_end|>",
)


def _muse_config(text: dict[str, Any], vision: dict[str, Any], **differences: Any) -> dict[str, Any]:
    """What the two Muse families share; `out_hidden_size` is the width of 2 x 2 patches side by side."""
    usual_text = text_config(
        head_dim=12,
        # The logits are scaled and bent after the head, which whoever applies the head alone does not see.
        final_logit_softcapping=1e4,
        output_multiplier=1.0,
        sliding_window=40,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        layer_rope_theta=[1e4, 0, 1e4],
    )
    usual_vision = vision_config(
        num_hidden_layers=3,
        pos_emb_height=4,
        pos_emb_width=4,
        patch_temporal=2,
        merge_size=2,
        layer_types=["window_attention", "full_attention", "window_attention"],
        rope_parameters={"rope_type": "axial", "rope_theta": 1e4},
    )
    vision_width = vision.get("hidden_size", usual_vision["hidden_size"])
    return {
        "text_config": {**usual_text, **text},
        "vision_config": {**usual_vision, **vision},
        "out_hidden_size": 4 * vision_width,
        "projector_hidden_size": 52,
        "image_token_id": TokenId("<|patch|>"),
        "video_token_id": TokenId("<|video|>"),
        **differences,
    }


SPECS: dict[str, BaseSpec] = {
    "muse_glimmer": BaseSpec(
        config_class="MuseGlimmerConfig",
        config=_muse_config({}, {}),
        processor_class="MuseGlimmerProcessor",
        image_processor_class="MuseGlimmerImageProcessor",
        image_processor={"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "max_image_tokens": 64},
        video_processor={"video_processor_type": "MuseGlimmerVideoProcessor", "patch_size": 8, "merge_size": 2},
        chat_template=chat_template("<|patch|>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=MUSE_TOKENS,
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
    "muse_spark": BaseSpec(
        config_class="MuseSparkConfig",
        config=_muse_config(
            {
                "hidden_size": 56,
                "head_dim": 14,
                "moe_hidden_size": 40,
                "moe_intermediate_size": 36,
                "num_local_experts": 4,
                "num_experts_per_tok": 2,
                "mlp_layer_types": ["sparse", "dense", "sparse"],
            },
            {"hidden_size": 48, "num_attention_heads": 4},
            audio_config={
                "patch_sizes": [4, 3],
                "hidden_sizes": [6, 10],
                "depths": [1, 1],
                "num_hidden_layers": 2,
                "out_hidden_size": 56,
            },
            audio_token_id=TokenId("<|audio|>"),
        ),
        processor_class="MuseSparkProcessor",
        image_processor_class="MuseGlimmerImageProcessor",
        image_processor={"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "max_image_tokens": 64},
        video_processor={"video_processor_type": "MuseGlimmerVideoProcessor", "patch_size": 8, "merge_size": 2},
        parts={"feature_extractor": ("MuseSparkFeatureExtractor", {"samples_per_token": 12})},
        chat_template=chat_template("<|patch|>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=(*MUSE_TOKENS, "<|audio|>", "<|soft_audio_start|>", "<|soft_audio_end|>"),
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
    "nemotron_h_omni": BaseSpec(
        config_class="NemotronH_Omni_Reasoning_V3_Config",
        config={
            "text_config": text_config(
                model_type="nemotron_h",
                layers_block_type=["linear_attention", "full_attention", "mlp", "moe"],
                head_dim=12,
                ssm_state_size=10,
                mamba_num_heads=6,
                mamba_head_dim=16,
                n_groups=2,
                chunk_size=16,
                time_step_min=1e-9,  # a step with a cache is not clamped, one without is (5.23)
                n_routed_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=36,
                moe_shared_expert_intermediate_size=40,
            ),
            "vision_config": vision_config(
                model_type="radio", max_img_size=96, num_cls_tokens=2, num_registers=1, video_temporal_patch_size=2
            ),
            "vision_hidden_size": 36,
            "projector_hidden_size": 52,
            "image_token_id": TokenId("<image>"),
            "video_token_id": TokenId("<video>"),
            "audio_token_id": TokenId("<so_embedding>"),
        },
        processor_class="NemotronH_Omni_Reasoning_V3Processor",
        image_processor_class="NemotronH_Omni_Reasoning_V3ImageProcessor",
        image_processor={"patch_size": 8, "min_num_patches": 4, "max_num_patches": 144},
        video_processor={
            "video_processor_type": "NemotronH_Omni_Reasoning_V3VideoProcessor",
            "patch_size": 8,
            "video_target_num_patches": 64,
        },
        parts={"feature_extractor": ("ParakeetFeatureExtractor", {})},
        chat_template=chat_template("<image>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=(
            "<|im_start|>",
            "<image>",
            "<video>",
            "<img>",
            "</img>",
            "<so_embedding>",
            "<so_start>",
            "<so_end>",
        ),
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
}
