"""Readers of documents and their kin: Idefics, GOT-OCR, Qianfan-OCR, DeepSeek-OCR, LFM2-VL, MiniCPM-V, Inkling."""

from typing import Any

from .always import SMOLVLM_TEMPLATE
from .spec import CHATML_TOKENS, BaseSpec, TokenId, VocabSize, chat_template, text_config, vision_config


IDEFICS_TOKENS = {"bos_token": "<s>", "eos_token": "<end_of_utterance>", "pad_token": "<pad>"}
IDEFICS_IDS = {
    "bos_token_id": TokenId("<s>"),
    "eos_token_id": TokenId("<end_of_utterance>"),
    "pad_token_id": TokenId("<pad>"),
}
IMAGE_IDS = {"image_token_id": TokenId("<image>")}

# SAM: windows of 4 x 4 patches and no attention over all of them, which would be slow at this number of patches.
SAM = {"output_channels": 20, "window_size": 4, "global_attn_indexes": [], "mlp_dim": 44}


def qwen3_5_text(**differences: Any) -> dict[str, Any]:
    """The language model of MiniCPM-V: linear attention and full attention in turns, positions in three parts."""
    return text_config(
        model_type="qwen3_5_text",
        head_dim=16,
        linear_conv_kernel_dim=3,
        linear_key_head_dim=10,
        linear_value_head_dim=14,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        rms_norm_eps=1e-3,  # linear attention starts near zero, and its norm would magnify the rounding of padded rows
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [2, 1, 1],
            "mrope_interleaved": True,
        },
        **differences,
    )


MINICPM_ATTRIBUTES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MINICPM_IDS = {"image_token_id": TokenId("<|image_pad|>"), "video_token_id": TokenId("<|video_pad|>")}
# A 48 x 80 picture is more than this squared, so that a picture is one overview and slices, and a frame must not be.
MINICPM_PIXELS = {"scale_resolution": 48, "patch_size": 4}


_GOT_HAS_NO_CHAT = "its processor refuses the nested pictures of apply_chat_template, and text without a picture"
_HEAD_DOES_MORE = "its head scales or caps the logits, beside its linear layer"
_TRL_DOES_NOT_SCALE = "TRL's own trainer does not divide by logits_mup_width_multiplier, `LinVTSFTTrainer` does"

SPECS: dict[str, BaseSpec] = {
    "idefics2": BaseSpec(
        config_class="Idefics2Config",
        config={
            "text_config": text_config(model_type="mistral", sliding_window=None, **IDEFICS_IDS),
            "vision_config": vision_config(),
            "perceiver_config": {
                "hidden_size": 48,
                "resampler_n_latents": 8,
                "resampler_depth": 2,
                "resampler_n_heads": 3,
                "resampler_head_dim": 14,
                "num_key_value_heads": 1,
            },
            **IMAGE_IDS,
        },
        processor_class="Idefics2Processor",
        image_processor_class="Idefics2ImageProcessorPil",
        image_processor={"size": {"shortest_edge": 32, "longest_edge": 64}, "do_image_splitting": True},
        processor={"image_seq_len": 8},
        chat_template=SMOLVLM_TEMPLATE,
        named_tokens=IDEFICS_TOKENS,
        special_tokens=("<fake_token_around_image>", "<image>"),
        one_tile={"do_image_splitting": False},
        frame_nesting="per_frame",
        tokens_per_frame=8,
        token_grid=(2, 4),
    ),
    "idefics3": BaseSpec(
        config_class="Idefics3Config",
        config={
            "text_config": text_config(model_type="llama", **IDEFICS_IDS),
            "vision_config": vision_config(image_size=48),
            "scale_factor": 2,
            **IMAGE_IDS,
        },
        processor_class="Idefics3Processor",
        image_processor_class="Idefics3ImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}},
        processor={"image_seq_len": 9},
        chat_template=SMOLVLM_TEMPLATE,
        named_tokens=IDEFICS_TOKENS,
        special_tokens=(
            "<fake_token_around_image>",
            "<global-img>",
            "<image>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
        ),
        one_tile={"do_image_splitting": False},
        frame_nesting="per_frame",
        tokens_per_frame=9,
        token_grid=(3, 3),
    ),
    # The number of tokens of a picture, 256, is written into the processor.
    "got_ocr2": BaseSpec(
        config_class="GotOcr2Config",
        config={
            "text_config": text_config(model_type="qwen2"),
            "vision_config": vision_config(image_size=128, patch_size=2, **SAM),
            "image_token_index": TokenId("<imgpad>"),
            "image_seq_length": 256,
        },
        processor_class="GotOcr2Processor",
        image_processor_class="GotOcr2ImageProcessorPil",
        image_processor={"size": {"height": 128, "width": 128}},
        chat_template=chat_template("<imgpad>", before="<img>", after="</img>\n"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<img>", "</img>", "<imgpad>"),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=256,
        token_grid=(16, 16),
        cannot={
            "test_pictures_and_text_are_bit_identical_to_the_base": _GOT_HAS_NO_CHAT,
            "test_a_picture_beside_a_video_keeps_its_place_and_its_tokens": _GOT_HAS_NO_CHAT,
            "test_head_and_backbone_compute_the_same_of_a_picture": _GOT_HAS_NO_CHAT,
            "test_generation_after_a_picture_is_not_disturbed_by_it": _GOT_HAS_NO_CHAT,
            "test_a_video_is_written_into_the_prompt_as_a_picture_is": _GOT_HAS_NO_CHAT,
        },
    ),
    "qianfan_ocr": BaseSpec(
        config_class="QianfanOCRConfig",
        config={
            "text_config": text_config(model_type="qwen3", head_dim=14),
            "vision_config": vision_config(image_size=32, patch_size=4),
            "image_token_id": TokenId("<IMG_CONTEXT>"),
            "image_seq_length": 16,
        },
        processor_class="QianfanOCRProcessor",
        image_processor_class="GotOcr2ImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 4},
        processor={"image_seq_length": 16},
        chat_template=chat_template("<image>", after="\n"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
        special_tokens=("<|im_start|>",),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    # The tower has 144 queries for pictures up to 12 x 12 patches and 256 for larger ones, and a separator comes last.
    "deepseek_ocr2": BaseSpec(
        config_class="DeepseekOcr2Config",
        config={
            "text_config": text_config(
                n_routed_experts=4,
                n_shared_experts=1,
                num_experts_per_tok=2,
                moe_intermediate_size=28,
                mlp_layer_types=["dense", "sparse", "sparse"],
            ),
            "vision_config": {
                "sam_config": vision_config(
                    hidden_size=24, image_size=128, patch_size=2, downsample_channels=[22, 36], **SAM
                ),
                "encoder_config": text_config(hidden_size=36, num_attention_heads=2, num_key_value_heads=1),
            },
            **IMAGE_IDS,
        },
        processor_class="DeepseekOcr2Processor",
        image_processor_class="DeepseekOcr2ImageProcessorPil",
        image_processor={"size": {"height": 128, "width": 128}, "tile_size": 96},
        processor={"patch_size": 2},
        chat_template=chat_template("<image>", after="\n"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<image>"),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=145,
        token_grid=(12, 12),
        cannot={
            "test_tokens_of_a_frame_are_known_before_running_and_do_not_depend_on_the_others": (
                "its processor counts the tokens of a larger picture where it does not crop (5.23)"
            )
        },
    ),
    "unlimited_ocr": BaseSpec(
        config_class="UnlimitedOcrConfig",
        config={
            "text_config": text_config(
                n_routed_experts=4,
                n_shared_experts=1,
                num_experts_per_tok=2,
                moe_intermediate_size=28,
                sliding_window=20,
            ),
            "vision_config": {
                "sam_config": vision_config(
                    hidden_size=24, image_size=48, patch_size=4, downsample_channels=[22, 36], **SAM
                ),
                "encoder_config": vision_config(image_size=48, patch_size=16),
            },
            **IMAGE_IDS,
        },
        processor_class="UnlimitedOcrProcessor",
        image_processor_class="UnlimitedOcrImageProcessor",
        image_processor={"size": {"height": 48, "width": 48}, "tile_size": 32},
        processor={"patch_size": 4},
        chat_template=chat_template("<image>", after="\n"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<image>"),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=13,
        token_grid=(3, 4),
        needs=("torchvision",),
    ),
    "lfm2_vl": BaseSpec(
        config_class="Lfm2VlConfig",
        config={
            "text_config": text_config(
                model_type="lfm2",
                bos_token_id=TokenId("<|startoftext|>"),
                layer_types=["conv", "full_attention", "conv"],
            ),
            "vision_config": vision_config(model_type="siglip2_vision_model", num_patches=64, vision_use_head=False),
            "projector_hidden_size": 62,
            "downsample_factor": 2,
            **IMAGE_IDS,
        },
        processor_class="Lfm2VlProcessor",
        image_processor_class="Lfm2VlImageProcessor",
        image_processor={
            "encoder_patch_size": 8,
            "downsample_factor": 2,
            "tile_size": 32,
            "min_image_tokens": 2,
            "max_image_tokens": 10,
            "max_pixels_tolerance": 1.0,
        },
        chat_template="{{ bos_token }}" + chat_template("<image>"),
        named_tokens={"bos_token": "<|startoftext|>", **CHATML_TOKENS},
        special_tokens=(
            "<|im_start|>",
            "<image>",
            "<|image_start|>",
            "<|image_end|>",
            "<|img_thumbnail|>",
            *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5)),
        ),
        adds_bos=True,
        one_tile={"do_image_splitting": False},
        tokens_per_frame=8,
        token_grid=(2, 4),
        needs=("torchvision",),
    ),
    "minicpmv4_6": BaseSpec(
        config_class="MiniCPMV4_6Config",
        config={
            "text_config": qwen3_5_text(),
            "vision_config": vision_config(num_hidden_layers=3, image_size=48, patch_size=4),
            "insert_layer_id": 1,
            "image_size": 48,
            **MINICPM_IDS,
        },
        processor_class="MiniCPMV4_6Processor",
        image_processor_class="MiniCPMV4_6ImageProcessorPil",
        image_processor=MINICPM_PIXELS,
        video_processor={
            "video_processor_type": "MiniCPMV4_6VideoProcessor",
            "slice_mode": True,
            "downsample_mode": "16x",
        },
        chat_template=chat_template("<|image_pad|>", after="\n"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes=MINICPM_ATTRIBUTES,
        special_tokens=("<|im_start|>",),
        one_tile={"max_slice_nums": 1, "use_image_id": False},
        tokens_per_frame=8,
        token_grid=(2, 4),
    ),
    "minicpmv4_7": BaseSpec(
        config_class="MiniCPMV4_7Config",
        config={
            "text_config": qwen3_5_text(hidden_size=44),
            "vision_config": vision_config(num_hidden_layers=3, image_size=48, patch_size=4),
            "insert_layer_id": 1,
            "image_size": 48,
            "image_start_id": TokenId("<image>"),
            "image_end_id": TokenId("</image>"),
            "slice_start_id": TokenId("<slice>"),
            "slice_end_id": TokenId("</slice>"),
            "newline_id": TokenId("Ċ"),
            **MINICPM_IDS,
        },
        processor_class="MiniCPMV4_7Processor",
        image_processor_class="MiniCPMV4_6ImageProcessorPil",
        image_processor=MINICPM_PIXELS,
        video_processor={
            "video_processor_type": "MiniCPMV4_6VideoProcessor",
            "slice_mode": True,
            "downsample_mode": "16x",
        },
        chat_template=chat_template("<|image_pad|>", after="\n"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes=MINICPM_ATTRIBUTES,
        special_tokens=("<|im_start|>",),
        one_tile={"max_slice_nums": 1, "use_image_id": False},
        tokens_per_frame=8,
        token_grid=(2, 4),
        type_ids="mm_token_type_ids",
    ),
    "minicpm_ocr": BaseSpec(
        config_class="MiniCPMOcrConfig",
        config={
            "text_config": qwen3_5_text(hidden_size=52),
            "vision_config": vision_config(num_hidden_layers=3, image_size=48, patch_size=8),
            "insert_layer_id": 1,
            **MINICPM_IDS,
        },
        processor_class="MiniCPMOcrProcessor",
        image_processor_class="MiniCPMOcrImageProcessor",
        image_processor={"scale_resolution": 48, "patch_size": 8},
        video_processor={"video_processor_type": "MiniCPMOcrVideoProcessor"},
        chat_template=chat_template("<|image_pad|>", after="\n"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes=MINICPM_ATTRIBUTES,
        special_tokens=("<|im_start|>",),
        one_tile={"max_slice_nums": 1, "use_image_id": False},
        tokens_per_frame=8,
        token_grid=(2, 4),
        needs=("torchvision",),
    ),
    "inkling2": BaseSpec(
        config_class="Inkling2Config",
        config={
            "text_config": text_config(
                unpadded_vocab_size=VocabSize(),
                head_dim=14,
                swa_num_attention_heads=4,
                swa_num_key_value_heads=1,
                swa_head_dim=16,
                sliding_window_size=24,
                d_rel=6,
                rel_extent=40,
                layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
                moe_intermediate_size=28,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_layers_per_attn_res_block=2,
            ),
            "vision_config": vision_config(posemb_grid_size=6, projection_hidden_dim=62, text_hidden_size=48),
            "image_token_id": TokenId("<|unused_200054|>"),
        },
        processor_class="Inkling2Processor",
        image_processor_class="Inkling2ImageProcessor",
        image_processor={"size": {"height": 16, "width": 16}},
        chat_template=chat_template("<|unused_200054|>", before="<|content_image|>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<|content_image|>", "<|unused_200054|>"),
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
        cannot={
            "test_head_and_backbone_compute_the_same": _HEAD_DOES_MORE,
            "test_head_and_backbone_compute_the_same_of_a_picture": _HEAD_DOES_MORE,
        },
    ),
    "inkling_mm_model": BaseSpec(
        config_class="InklingConfig",
        config={
            "text_config": text_config(
                head_dim=14,
                swa_num_attention_heads=4,
                swa_num_key_value_heads=1,
                swa_head_dim=16,
                sliding_window_size=24,
                d_rel=6,
                rel_extent=40,
                layer_types=["hybrid_sliding", "hybrid", "hybrid_sliding"],
                mlp_layer_types=["dense", "sparse", "sparse"],
                moe_intermediate_size=28,
                n_routed_experts=4,
                num_experts_per_tok=2,
                n_shared_experts=1,
            ),
            "vision_config": vision_config(patch_size=16, temporal_patch_size=2),
            "audio_config": {"n_mel_bins": 8, "mel_vocab_size": 16},
            "image_token_id": TokenId("<|unused_200054|>"),
            "audio_token_id": TokenId("<|unused_200053|>"),
            "image_bos_token_id": TokenId("<|content_image|>"),
            "audio_bos_token_id": TokenId("<|content_audio_input|>"),
        },
        processor_class="InklingProcessor",
        image_processor_class="InklingImageProcessor",
        image_processor={"size": {"height": 16, "width": 16}},
        parts={"feature_extractor": ("InklingFeatureExtractor", {})},
        chat_template=chat_template("<|unused_200054|>", before="<|content_image|>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=(
            "<|im_start|>",
            "<|content_image|>",
            "<|content_audio_input|>",
            "<|unused_200053|>",
            "<|unused_200054|>",
        ),
        tokens_per_frame=18,
        token_grid=(3, 6),
        needs=("scipy", "torchvision"),
        cannot={
            "test_head_and_backbone_compute_the_same": _HEAD_DOES_MORE,
            "test_head_and_backbone_compute_the_same_of_a_picture": _HEAD_DOES_MORE,
            "test_sft_trainer_moves_linvt": _TRL_DOES_NOT_SCALE,
        },
    ),
}
