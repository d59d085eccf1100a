"""Tiny bases that fit in no other group, as data."""

from dataclasses import replace
from typing import Any

from transformers_linvt.bases.chat_templates import WORDS_ALONE

from . import always, ocr
from .spec import CHATML_TOKENS, VOCAB, BaseSpec, TokenId, chat_template, text_config, vision_config


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
    "mllama": BaseSpec(
        config_class="MllamaConfig",
        config={
            "text_config": text_config(
                num_hidden_layers=4,
                bos_token_id=TokenId("<|begin_of_text|>"),
                cross_attention_layers=[1, 3],
                rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            ),
            "vision_config": {
                "hidden_size": 36,
                "attention_heads": 3,
                "intermediate_size": 58,
                "num_hidden_layers": 3,
                "num_global_layers": 2,
                "image_size": 56,
                "patch_size": 14,
                "max_num_tiles": 4,
                "intermediate_layers_indices": [1, 2],
                "vision_output_dim": 108,  # of the last layer and of the two named ones
            },
            "image_token_index": TokenId("<|image|>"),
        },
        processor_class="MllamaProcessor",
        image_processor_class="MllamaImageProcessor",
        image_processor={"size": {"height": 56, "width": 56}, "max_image_tiles": 4},
        chat_template="<|begin_of_text|>" + chat_template("<|image|>"),
        named_tokens={**CHATML_TOKENS, "bos_token": "<|begin_of_text|>"},
        special_tokens=("<|im_start|>", "<|python_tag|>"),
        # its language model embeds it, and its head has no logit for it
        additional_tokens=("<|image|>",),
        adds_bos=True,
        frame_size=(40, 52),
        one_tile={"max_image_tiles": 1},
        frame_nesting="per_frame",
        tokens_per_frame=17,
        token_grid=(4, 4),
    ),
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


def _qformer_config(**differences: Any) -> dict[str, Any]:
    """BLIP-2 and InstructBLIP: what turns a picture of any size into `num_query_tokens` tokens."""
    usual = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "cross_attention_frequency": 1,
        "hidden_dropout_prob": 0.0,  # a frozen base is in training mode under a trainer
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": TokenId("<|endoftext|>"),
    }
    return {**usual, **differences}


def _opt_config(**differences: Any) -> dict[str, Any]:
    """The language model of BLIP-2."""
    return text_config(model_type="opt", ffn_dim=72, word_embed_proj_dim=48, dropout=0.0, **differences)


_IDENTITY = "test_pictures_and_text_are_bit_identical_to_the_base"
_ONE_PICTURE_IN_FRONT = {
    f"{_IDENTITY}[two pictures]": "its processor takes one picture per prompt",
    f"{_IDENTITY}[text]": "its forward() insists on a picture",
}

# Architectures that the seam of transformers does not carry as it is.
SPECIAL_SPECS: dict[str, BaseSpec] = {
    "blip-2": BaseSpec(
        config_class="Blip2Config",
        config={
            "text_config": _opt_config(),
            "vision_config": vision_config(),
            "qformer_config": _qformer_config(),
            "num_query_tokens": 6,
            "image_token_index": TokenId("<image>"),
        },
        processor_class="Blip2Processor",
        image_processor_class="BlipImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}},
        processor={"num_query_tokens": 6},
        chat_template=WORDS_ALONE,
        named_tokens={"bos_token": "<|im_end|>", **CHATML_TOKENS},
        special_tokens=("<|im_start|>", "<image>"),
        adds_bos=True,
        tokens_per_frame=6,
        token_grid=(2, 3),
        cannot=_ONE_PICTURE_IN_FRONT,
    ),
    "instructblip": BaseSpec(
        config_class="InstructBlipConfig",
        config={
            "text_config": text_config(model_type="llama", hidden_size=56),
            "vision_config": vision_config(),
            "qformer_config": _qformer_config(),
            "num_query_tokens": 6,
            "image_token_index": TokenId("<image>"),
        },
        processor_class="InstructBlipProcessor",
        image_processor_class="BlipImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}},
        processor={"num_query_tokens": 6},
        chat_template=WORDS_ALONE,
        named_tokens={"bos_token": "<|im_end|>", **CHATML_TOKENS},
        special_tokens=("<|im_start|>", "<image>"),
        adds_bos=True,
        tokens_per_frame=6,
        token_grid=(2, 3),
        cannot=_ONE_PICTURE_IN_FRONT,
    ),
    "llama4": BaseSpec(
        config_class="Llama4Config",
        config={
            "text_config": text_config(
                head_dim=12,
                intermediate_size_mlp=80,
                num_hidden_layers=4,
                num_local_experts=4,
                num_experts_per_tok=1,
                interleave_moe_layer_step=2,
                attention_chunk_size=400,
            ),
            # `intermediate_size` is that of 2 x 2 patches side by side, for this family alone
            "vision_config": vision_config(
                intermediate_size=144,
                projector_input_dim=44,
                projector_output_dim=44,
                vision_output_dim=44,
                pixel_shuffle_ratio=0.5,
            ),
            "boi_token_index": TokenId("<|image_start|>"),
            "eoi_token_index": TokenId("<|image_end|>"),
            "image_token_index": TokenId("<|patch|>"),
        },
        processor_class="Llama4Processor",
        image_processor_class="Llama4ImageProcessor",
        image_processor={"size": {"height": 32, "width": 32}, "max_patches": 4, "resize_to_max_canvas": False},
        processor={"patch_size": 8, "pixel_shuffle_ratio": 0.5},
        chat_template=chat_template("<|image|>"),
        named_tokens={"bos_token": "<|im_end|>", **CHATML_TOKENS},
        special_tokens=(
            "<|im_start|>",
            "<|image|>",
            "<|image_start|>",
            "<|image_end|>",
            "<|patch|>",
            "<|tile_x_separator|>",
            "<|tile_y_separator|>",
        ),
        one_tile={"max_patches": 1},
        tokens_per_frame=4,
        token_grid=(2, 2),
        needs=("torchvision",),
    ),
}

# in the order in which its processor adds them; the places in a picture come last
_KOSMOS_TOKENS = (
    "</doc>",
    "<image>",
    "</image>",
    "</chunk>",
    "</line>",
    "<phrase>",
    "</phrase>",
    "<object>",
    "</object>",
    "</delimiter_of_multi_objects/>",
    "<grounding>",
    *(f"<patch_index_{index:04}>" for index in range(1024)),
)

SPECS |= SPECIAL_SPECS
SPECS["kosmos-2"] = BaseSpec(
    config_class="Kosmos2Config",
    config={
        "text_config": {
            "vocab_size": VOCAB,
            "embed_dim": 48,
            "layers": 3,
            "ffn_dim": 72,
            "attention_heads": 4,
            "max_position_embeddings": 2048,
            "dropout": 0.0,  # a frozen base is in training mode under a trainer
            "attention_dropout": 0.0,
            "pad_token_id": TokenId("<pad>"),
            "bos_token_id": TokenId("<s>"),
            "eos_token_id": TokenId("</s>"),
        },
        "vision_config": vision_config(),
        "latent_query_num": 64,  # as many as its processor writes, if nobody says otherwise
    },
    processor_class="Kosmos2Processor",
    image_processor_class="CLIPImageProcessorPil",
    image_processor={"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    chat_template=WORDS_ALONE,
    named_tokens={"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    special_tokens=_KOSMOS_TOKENS,
    swallows_spaces=True,
    adds_bos=True,
    tokens_per_frame=64,
    token_grid=(8, 8),
    cannot=_ONE_PICTURE_IN_FRONT,
)
SPECS["pp_chart2table"] = replace(
    ocr.SPECS["got_ocr2"],
    config_class="PPChart2TableConfig",
    processor_class="PPChart2TableProcessor",
    image_processor_class="PPChart2TableImageProcessorPil",
    one_tile={},
    cannot={f"{_IDENTITY}[text]": "its processor insists on a picture"},
)
SPECS["shieldgemma2"] = replace(
    always.SPECS["gemma3"],
    config_class="ShieldGemma2Config",
    processor_class="ShieldGemma2Processor",
    saved_inside="ShieldGemma2ForImageClassification",
    cannot={"test_a_saved_model_comes_back_whole[True]": "saved by itself, its Gemma 3 does not load again"},
)
