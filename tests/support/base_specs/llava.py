"""Tiny bases, as data: LLaVA and its relatives, Mistral and Pixtral, Granite and Cohere."""

from .spec import CHATML_TOKENS, BaseSpec, TokenId, chat_template, text_config, vision_config


# Pictures before the text, whatever the order of the items, as LLaVA 1.5's own template has it.
LLAVA_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role != 'system' %}{{ message.role | upper }}:{{ ' ' }}{%- endif %}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}{{ '<image>\\n' }}{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ item.text }}{% endfor %}
{%- endif %}
{%- if message.role == 'assistant' %}</s>{% else %}{{ ' ' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""

VIPLLAVA_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- message.content if message.content is string else message.content[0].text }}
{%- else %}{{ '###' + ('Human' if message.role == 'user' else 'Assistant') + ': ' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}{{ '<image>\\n' }}{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ item.text }}{% endfor %}
{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}###Assistant:{% endif %}"""

# No space between an instruction's tags and its words, so that the words keep their tokens.
MISTRAL_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
{%- if message.role == 'system' %}[SYSTEM_PROMPT]
{{- message.content if message.content is string else message.content[0].text }}[/SYSTEM_PROMPT]
{%- else %}{{ '[INST]' if message.role == 'user' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}[IMG]{%- elif item.type == 'text' %}{{ item.text }}{%- endif %}
{%- endfor %}
{%- endif %}{{ '[/INST]' if message.role == 'user' else eos_token }}
{%- endif %}
{%- endfor %}"""

COHERE_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}<|START_OF_TURN_TOKEN|>
{{- {'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>'}[message.role] }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}PLACEHOLDER{%- elif item.type == 'text' %}{{ item.text }}{%- endif %}
{%- endfor %}
{%- endif %}<|END_OF_TURN_TOKEN|>
{%- endfor %}
{%- if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"""

LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
LLAMA_IDS = {
    "model_type": "llama",
    "bos_token_id": TokenId("<s>"),
    "eos_token_id": TokenId("</s>"),
    "pad_token_id": TokenId("<pad>"),
}
MISTRAL_IDS = {
    "bos_token_id": TokenId("<s>"),
    "eos_token_id": TokenId("</s>"),
    "pad_token_id": TokenId("<pad>"),
}
MISTRAL_TOKENS = (
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
)
PIXTRAL = {"model_type": "pixtral", "image_size": 96}
# What a language model multiplies by; 1.0 behind the head, so that hidden states times the head are the logits.
GRANITE_SCALES = {
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.25,
    "logits_scaling": 1.0,
}
# A picture is shrunk to the shorter side, and its middle is what CLIP sees.
CLIP_24 = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
CLIP_32 = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
WITH_CLASS_TOKEN = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
# The base and the image processor must agree on them.
PINPOINTS = [[32, 64], [64, 32], [64, 64]]

SPECS: dict[str, BaseSpec] = {
    "llava": BaseSpec(
        config_class="LlavaConfig",
        config={
            "text_config": text_config(**LLAMA_IDS, hidden_size=64),
            "vision_config": vision_config(model_type="clip_vision_model", image_size=24, patch_size=6),
            "image_token_index": TokenId("<image>"),
            "image_seq_length": 16,
        },
        processor_class="LlavaProcessor",
        image_processor_class="CLIPImageProcessorPil",
        image_processor=CLIP_24,
        processor={"patch_size": 6, **WITH_CLASS_TOKEN},
        chat_template=LLAVA_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=("<image>",),
        adds_bos=True,
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "vipllava": BaseSpec(
        config_class="VipLlavaConfig",
        config={
            "text_config": text_config(**LLAMA_IDS, hidden_size=44, num_attention_heads=2, num_key_value_heads=1),
            "vision_config": vision_config(
                model_type="clip_vision_model", image_size=30, patch_size=6, num_hidden_layers=3
            ),
            "vision_feature_layer": [-2, 1],
            "image_token_index": TokenId("<image>"),
            "image_seq_length": 25,
        },
        processor_class="LlavaProcessor",
        image_processor_class="CLIPImageProcessorPil",
        image_processor={"size": {"shortest_edge": 30}, "crop_size": {"height": 30, "width": 30}},
        processor={"patch_size": 6, **WITH_CLASS_TOKEN},
        chat_template=VIPLLAVA_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=("<image>",),
        adds_bos=True,
        tokens_per_frame=25,
        token_grid=(5, 5),
    ),
    "llava_next": BaseSpec(
        config_class="LlavaNextConfig",
        config={
            "text_config": text_config(**LLAMA_IDS),
            "vision_config": vision_config(model_type="clip_vision_model"),
            "image_token_index": TokenId("<image>"),
            "image_grid_pinpoints": PINPOINTS,
        },
        processor_class="LlavaNextProcessor",
        image_processor_class="LlavaNextImageProcessorPil",
        image_processor={**CLIP_32, "image_grid_pinpoints": PINPOINTS},
        processor={"patch_size": 8, **WITH_CLASS_TOKEN},
        chat_template=LLAVA_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=("<image>",),
        adds_bos=True,
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "llava_next_video": BaseSpec(
        config_class="LlavaNextVideoConfig",
        config={
            "text_config": text_config(**LLAMA_IDS, hidden_size=56),
            "vision_config": vision_config(model_type="clip_vision_model", image_size=24, patch_size=6),
            "image_token_index": TokenId("<image>"),
            "video_token_index": TokenId("<video>"),
            "image_grid_pinpoints": [[48, 72], [72, 48]],
        },
        processor_class="LlavaNextVideoProcessor",
        image_processor_class="LlavaNextImageProcessorPil",
        image_processor={**CLIP_24, "image_grid_pinpoints": [[48, 72], [72, 48]]},
        video_processor={"video_processor_type": "LlavaNextVideoVideoProcessor", **CLIP_24},
        processor={"patch_size": 6, **WITH_CLASS_TOKEN},
        chat_template=LLAVA_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=("<image>", "<video>"),
        adds_bos=True,
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "video_llava": BaseSpec(
        config_class="VideoLlavaConfig",
        config={
            "text_config": text_config(**LLAMA_IDS, hidden_size=56),
            "vision_config": vision_config(model_type="clip_vision_model", image_size=24, patch_size=6),
            "image_token_index": TokenId("<image>"),
            "video_token_index": TokenId("<video>"),
            "image_seq_length": 16,
        },
        processor_class="VideoLlavaProcessor",
        image_processor_class="VideoLlavaImageProcessor",
        image_processor=CLIP_24,
        video_processor={"video_processor_type": "VideoLlavaVideoProcessor", **CLIP_24},
        processor={"patch_size": 6, **WITH_CLASS_TOKEN},
        chat_template=LLAVA_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=("<image>", "<video>"),
        adds_bos=True,
        one_tile={"return_legacy_image_output": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    # Pixtral
    "llava_pixtral": BaseSpec(
        config_class="LlavaConfig",
        config={
            "text_config": text_config(model_type="mistral", **MISTRAL_IDS, hidden_size=40, head_dim=12),
            "vision_config": vision_config(**PIXTRAL, hidden_size=24, num_attention_heads=2, patch_size=16),
            "image_token_index": TokenId("[IMG]"),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        processor_class="PixtralProcessor",
        image_processor_class="PixtralImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "patch_size": 16},
        processor={"patch_size": 16},
        chat_template=MISTRAL_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=MISTRAL_TOKENS,
        adds_bos=True,
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
    "mistral3": BaseSpec(
        config_class="Mistral3Config",
        config={
            "text_config": text_config(model_type="mistral", **MISTRAL_IDS, head_dim=16, sliding_window=None),
            "vision_config": vision_config(**PIXTRAL),
            "image_token_index": TokenId("[IMG]"),
        },
        processor_class="PixtralProcessor",
        image_processor_class="PixtralImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "patch_size": 8},
        processor={"patch_size": 8, "spatial_merge_size": 2},
        chat_template=MISTRAL_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=MISTRAL_TOKENS,
        adds_bos=True,
        # no whole number of tokens: resized to 48 x 80
        frame_size=(40, 72),
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
    "mistral_large4": BaseSpec(
        config_class="MistralLarge4Config",
        config={
            "text_config": text_config(
                **MISTRAL_IDS,
                num_key_value_heads=4,
                final_logit_softcapping=1e4,
                moe_intermediate_size=20,
                n_routed_experts=3,
                num_experts_per_tok=2,
                kv_lora_rank=14,
                qk_rope_head_dim=8,
                qk_nope_head_dim=6,
                v_head_dim=10,
                index_n_heads=2,
                index_head_dim=12,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 512,
                    "attention_factor": 1.0,
                },
            ),
            "vision_config": vision_config(**PIXTRAL),
            "image_token_index": TokenId("[IMG]"),
        },
        processor_class="PixtralProcessor",
        image_processor_class="PixtralImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "patch_size": 8},
        processor={"patch_size": 8, "spatial_merge_size": 2},
        chat_template=MISTRAL_TEMPLATE,
        named_tokens=LLAMA_TOKENS,
        special_tokens=MISTRAL_TOKENS,
        adds_bos=True,
        frame_size=(40, 72),
        tokens_per_frame=15,
        token_grid=(3, 5),
        needs=("torchvision",),
    ),
    "lighton_ocr": BaseSpec(
        config_class="LightOnOcrConfig",
        config={
            "text_config": text_config(model_type="qwen3", hidden_size=52, head_dim=16),
            "vision_config": vision_config(**PIXTRAL),
            "image_token_id": TokenId("<|image_pad|>"),
        },
        processor_class="LightOnOcrProcessor",
        image_processor_class="PixtralImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "patch_size": 8},
        processor={"patch_size": 8, "spatial_merge_size": 2},
        chat_template=chat_template("<|image_pad|>"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
        special_tokens=("<|im_start|>",),
        tokens_per_frame=15,
        token_grid=(3, 5),
    ),
    "granite4_vision": BaseSpec(
        config_class="Granite4VisionConfig",
        config={
            "text_config": text_config(num_hidden_layers=5, hidden_size=56, **GRANITE_SCALES),
            # the projector has a head for every 64 channels
            "vision_config": vision_config(
                model_type="siglip_vision_model",
                hidden_size=64,
                num_attention_heads=4,
                num_hidden_layers=3,
                image_size=64,
                vision_use_head=False,
            ),
            "qformer_config": {
                "model_type": "blip_2_qformer",
                "num_hidden_layers": 1,
                "intermediate_size": 44,
                "cross_attention_frequency": 1,
                "use_qformer_text_input": False,
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
            "projector_dropout": 0.0,  # a loss while training is compared with one without
            "image_token_index": TokenId("<image>"),
            "vision_feature_select_strategy": "full",
            "image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]],
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[1, 2], [-1, 0]],
            "spatial_vision_layer": -1,
            "spatial_target_layers": [1, 3, 4],
        },
        processor_class="Granite4VisionProcessor",
        image_processor_class="LlavaNextImageProcessorPil",
        image_processor={
            "size": {"height": 64, "width": 64},
            "crop_size": {"height": 64, "width": 64},
            "image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]],
        },
        processor={"patch_size": 8, "vision_feature_select_strategy": "full", "downsample_rate": "1/2"},
        chat_template=chat_template("<image>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<image>"),
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "granite_docling": BaseSpec(
        config_class="GraniteDoclingConfig",
        config={
            "text_config": text_config(hidden_size=52, num_attention_heads=2, num_key_value_heads=1, **GRANITE_SCALES),
            "vision_config": vision_config(
                image_size=48, patch_size=4, out_hidden_size=52, scale_factor=4, deepstack_visual_indexes=[0, 1]
            ),
            "image_token_id": TokenId("<image>"),
            "pad_token_id": TokenId("<|endoftext|>"),
        },
        processor_class="GraniteDoclingProcessor",
        image_processor_class="GraniteDoclingImageProcessorPil",
        image_processor={"size": {"height": 48, "width": 48}, "max_patches": 4},
        processor={"image_seq_len": 9},
        chat_template=chat_template("<image>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=(
            "<|im_start|>",
            "<image>",
            "<fake_token_around_image>",
            "<global-img>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
        ),
        one_tile={"crop_to_patches": False},
        frame_nesting="per_frame",
        tokens_per_frame=9,
        token_grid=(3, 3),
    ),
    "aya_vision": BaseSpec(
        config_class="AyaVisionConfig",
        config={
            "text_config": text_config(
                model_type="cohere2",
                hidden_size=40,
                sliding_window=64,
                logit_scale=1.0,
                bos_token_id=TokenId("<BOS_TOKEN>"),
                eos_token_id=TokenId("<|END_OF_TURN_TOKEN|>"),
                pad_token_id=TokenId("<PAD>"),
            ),
            "vision_config": vision_config(model_type="siglip_vision_model", patch_size=4, vision_use_head=False),
            "image_token_index": TokenId("<|IMG_PATCH|>"),
        },
        processor_class="AyaVisionProcessor",
        image_processor_class="GotOcr2ImageProcessorPil",
        image_processor={
            "size": {"height": 32, "width": 32},
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": 4,
        },
        processor={"patch_size": 4, "img_size": 32, "downsample_factor": 2},
        chat_template=COHERE_TEMPLATE.replace("PLACEHOLDER", "<image>"),
        named_tokens={"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>"},
        # `<image>` is written by the template and replaced before anything is tokenised: it is no token
        special_tokens=(
            "<|START_OF_TURN_TOKEN|>",
            "<|USER_TOKEN|>",
            "<|CHATBOT_TOKEN|>",
            "<|SYSTEM_TOKEN|>",
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_PATCH|>",
            "<|IMG_LINE_BREAK|>",
            "TILE",
            "TILE_GLOBAL",
        ),
        adds_bos=True,
        one_tile={"crop_to_patches": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "cohere2_vision": BaseSpec(
        config_class="Cohere2VisionConfig",
        config={
            "text_config": text_config(
                model_type="cohere2",
                hidden_size=44,
                num_attention_heads=2,
                num_key_value_heads=1,
                sliding_window=64,
                logit_scale=1.0,
                bos_token_id=TokenId("<BOS_TOKEN>"),
                eos_token_id=TokenId("<|END_OF_TURN_TOKEN|>"),
                pad_token_id=TokenId("<PAD>"),
            ),
            "vision_config": vision_config(
                model_type="siglip_vision_model", image_size=24, patch_size=4, vision_use_head=False
            ),
            "alignment_intermediate_size": 70,
            "image_token_id": TokenId("<|IMG_PATCH|>"),
        },
        processor_class="Cohere2VisionProcessor",
        image_processor_class="Cohere2VisionImageProcessor",
        # `patch_size` is the number of tokens along a side here
        image_processor={"size": {"height": 24, "width": 24}, "patch_size": 3, "min_patches": 1, "max_patches": 4},
        chat_template=COHERE_TEMPLATE.replace("PLACEHOLDER", "<|IMG_PATCH|>"),
        named_tokens={"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>"},
        tokenizer_attributes={
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "image_token": "<|IMG_PATCH|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
        special_tokens=("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        adds_bos=True,
        one_tile={"crop_to_patches": False},
        tokens_per_frame=9,
        token_grid=(3, 3),
        needs=("torchvision",),
    ),
    "perception_lm": BaseSpec(
        config_class="PerceptionLMConfig",
        config={
            "text_config": text_config(**LLAMA_IDS, hidden_size=40),
            "vision_config": {
                "model_type": "timm_wrapper",
                "architecture": "vit_pe_core_large_patch14_336",
                "model_args": {
                    "embed_dim": 36,
                    "img_size": [48, 48],
                    "patch_size": 8,
                    "depth": 2,
                    "num_heads": 3,
                    "global_pool": "",
                    "use_post_transformer_norm": False,
                    "init_values": 0.1,
                    "ref_feat_shape": [6, 6],
                },
            },
            "projector_pooling_ratio": 2,
            "image_token_id": TokenId("<|image|>"),
            "video_token_id": TokenId("<|video|>"),
        },
        processor_class="PerceptionLMProcessor",
        image_processor_class="PerceptionLMImageProcessor",
        image_processor={"tile_size": 48, "size": {"height": 48, "width": 48}, "max_num_tiles": 4},
        video_processor={
            "video_processor_type": "PerceptionLMVideoProcessor",
            "size": {"height": 48, "width": 48},
        },
        processor={"patch_size": 8, "pooling_ratio": 2},
        chat_template=LLAVA_TEMPLATE.replace("<image>", "<|image|>"),
        named_tokens=LLAMA_TOKENS,
        tokenizer_attributes={"image_token": "<|image|>", "video_token": "<|video|>"},
        adds_bos=True,
        one_tile={"vision_input_type": "vanilla"},
        tokens_per_frame=9,
        token_grid=(3, 3),
        needs=("timm", "torchvision"),
    ),
    "fast_vlm": BaseSpec(
        config_class="FastVlmConfig",
        config={
            "text_config": text_config(model_type="qwen2"),
            "vision_config": {
                "model_type": "timm_wrapper",
                "architecture": "fastvit_mci3",
                "do_pooling": True,
                "global_pool": "avg",
                "hidden_size": 64,
                "model_args": {
                    "inference_mode": True,
                    "layers": [1, 1, 1, 1, 1],
                    "embed_dims": [4, 8, 16, 32, 32],
                    "mlp_ratios": [2, 2, 2, 2, 2],
                    "layer_scale_init_value": 1.0,
                },
            },
            "image_token_index": TokenId("<image>"),
            "image_seq_length": 16,
        },
        processor_class="LlavaProcessor",
        image_processor_class="CLIPImageProcessorPil",
        # A token for every 64 x 64 pixels. A tower of convolutions with random weights averages noise away: few
        # pixels, large numbers.
        image_processor={
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 256, "width": 256},
            "image_std": [1e-4, 1e-4, 1e-4],
        },
        processor={"patch_size": 64, "vision_feature_select_strategy": "full"},
        chat_template=chat_template("<image>"),
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<image>"),
        frame_size=(12, 20),
        tokens_per_frame=16,
        token_grid=(4, 4),
        needs=("timm", "torchvision"),
    ),
}
