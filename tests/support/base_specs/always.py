"""The families that every test of the package runs on, one per container, position, type id and merge."""

from .spec import CHATML_TOKENS, VOCAB, BaseSpec, TokenId, VocabSize


QWEN_VL_TEMPLATE = """\
{%- if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif item.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>
{%- elif item.type == 'text' %}{{ item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

INTERNVL_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}<IMG_CONTEXT>
{% elif item.type == 'video' %}<video>
{% elif item.type == 'text' %}{{ item.text }}
{%- endif %}
{%- endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Pictures first, then videos, then the text, whatever the order of the items: as the family's own template does.
LLAVA_ONEVISION_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}{{ ' ' }}
{%- if message.content is string %}{{ '\\n' + message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}<image>{% endfor %}
{%- for item in message.content if item.type == 'video' %}<video>{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ '\\n' + item.text }}{% endfor %}
{%- endif %}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAVA_TEMPLATE = """\
A chat between a curious user and an artificial intelligence assistant.{{ ' ' }}
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- (message.content if message.content is string else message.content[0].text) + ' ' }}
{%- else %}{{ message.role | upper }}:{{ ' ' }}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}{{ '<image>\\n' }}{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ item.text }}{% endfor %}
{%- endif %}
{%- if message.role == 'assistant' %}<|endoftext|>{% else %}{{ ' ' }}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}ASSISTANT:{% endif %}"""

SMOLVLM_TEMPLATE = """\
<|im_start|>
{%- for message in messages %}{{ message.role | capitalize }}
{%- if message.content is string %}{{ ': ' + message.content }}
{%- else %}{{ ':' if message.content[0].type == 'image' else ': ' }}
{%- for item in message.content %}
{%- if item.type == 'text' %}{{ item.text }}
{%- elif item.type == 'image' %}<image>
{%- elif item.type == 'video' %}<video>
{%- endif %}
{%- endfor %}
{%- endif %}<end_of_utterance>
{% endfor %}
{%- if add_generation_prompt %}Assistant:{% endif %}"""

GEMMA3_TEMPLATE = """\
{{ bos_token }}
{%- set ns = namespace(prefix='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}
{%- set ns.prefix = (message.content if message.content is string else message.content[0].text) + '\\n\\n' %}
{%- else %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{{ ns.prefix }}
{%- set ns.prefix = '' %}
{%- if message.content is string %}{{ message.content | trim }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}<start_of_image>
{%- elif item.type == 'text' %}{{ item.text | trim }}
{%- endif %}
{%- endfor %}
{%- endif %}<end_of_turn>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<start_of_turn>model
{% endif %}"""

MOLMO2_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}<|image|>{% endfor %}
{%- for item in message.content if item.type == 'video' %}<|video|>{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ item.text }}{% endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

QWEN_VL_TOKENS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_VL_IDS = {
    "image_token_id": TokenId("<|image_pad|>"),
    "video_token_id": TokenId("<|video_pad|>"),
    "vision_start_token_id": TokenId("<|vision_start|>"),
    "vision_end_token_id": TokenId("<|vision_end|>"),
}
# `size` is an area in pixels for this family; 96 x 96 keeps a 48 x 80 frame as it is.
QWEN_VL_PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
# Never the same number twice within one family, so that a swapped axis is an error and not luck.
SPECS: dict[str, BaseSpec] = {
    "qwen2_vl": BaseSpec(
        config_class="Qwen2VLConfig",
        config={
            "text_config": {
                "vocab_size": VOCAB,
                "hidden_size": 48,
                "intermediate_size": 72,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
                "bos_token_id": None,
                "eos_token_id": TokenId("<|im_end|>"),
                "pad_token_id": TokenId("<|endoftext|>"),
            },
            "vision_config": {
                "depth": 2,
                "embed_dim": 32,
                "hidden_size": 48,
                "num_heads": 2,
                "mlp_ratio": 2,
                "patch_size": 8,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
            },
            **QWEN_VL_IDS,
        },
        processor_class="Qwen2VLProcessor",
        image_processor_class="Qwen2VLImageProcessorPil",
        image_processor={"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": QWEN_VL_PIXELS},
        video_processor={"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 8, "merge_size": 2},
        chat_template=QWEN_VL_TEMPLATE,
        named_tokens=CHATML_TOKENS,
        special_tokens=QWEN_VL_TOKENS,
        tokens_per_frame=15,
        token_grid=(3, 5),
        type_ids="mm_token_type_ids",
    ),
    "qwen2_5_vl": BaseSpec(
        config_class="Qwen2_5_VLConfig",
        config={
            "text_config": {
                "vocab_size": VOCAB,
                "hidden_size": 40,
                "intermediate_size": 68,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 2, 2]},
                "bos_token_id": None,
                "eos_token_id": TokenId("<|im_end|>"),
                "pad_token_id": TokenId("<|endoftext|>"),
            },
            "vision_config": {
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 44,
                "num_heads": 2,
                "out_hidden_size": 40,
                "patch_size": 8,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
            **QWEN_VL_IDS,
        },
        processor_class="Qwen2_5_VLProcessor",
        image_processor_class="Qwen2VLImageProcessorPil",
        image_processor={"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": QWEN_VL_PIXELS},
        video_processor={"video_processor_type": "Qwen2VLVideoProcessor", "patch_size": 8, "merge_size": 2},
        chat_template=QWEN_VL_TEMPLATE,
        named_tokens=CHATML_TOKENS,
        special_tokens=QWEN_VL_TOKENS,
        tokens_per_frame=15,
        token_grid=(3, 5),
        type_ids="mm_token_type_ids",
    ),
    "qwen3_vl": BaseSpec(
        config_class="Qwen3VLConfig",
        config={
            "text_config": {
                "vocab_size": VOCAB,
                "hidden_size": 56,
                "intermediate_size": 76,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "max_position_embeddings": 2048,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [4, 2, 2],
                    "mrope_interleaved": True,
                },
                "pad_token_id": TokenId("<|endoftext|>"),
            },
            "vision_config": {
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 44,
                "num_heads": 2,
                "out_hidden_size": 56,
                "patch_size": 8,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [0, 1],
            },
            **QWEN_VL_IDS,
        },
        processor_class="Qwen3VLProcessor",
        image_processor_class="Qwen2VLImageProcessorPil",
        image_processor={"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": QWEN_VL_PIXELS},
        video_processor={"video_processor_type": "Qwen3VLVideoProcessor", "patch_size": 8, "merge_size": 2},
        chat_template=QWEN_VL_TEMPLATE,
        named_tokens=CHATML_TOKENS,
        special_tokens=QWEN_VL_TOKENS,
        tokens_per_frame=15,
        token_grid=(3, 5),
        type_ids="mm_token_type_ids",
    ),
    "internvl": BaseSpec(
        config_class="InternVLConfig",
        config={
            "text_config": {
                "model_type": "qwen2",
                "vocab_size": VOCAB,
                "hidden_size": 44,
                "intermediate_size": 70,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 2048,
                "bos_token_id": None,
                "eos_token_id": TokenId("<|im_end|>"),
                "pad_token_id": TokenId("<|endoftext|>"),
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "hidden_size": 36,
                "intermediate_size": 50,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": (32, 32),
                "patch_size": (4, 4),
                "use_mean_pooling": True,
            },
            "image_token_id": TokenId("<IMG_CONTEXT>"),
            "image_seq_length": 16,
            "downsample_ratio": 0.5,
            "tie_word_embeddings": True,
        },
        processor_class="InternVLProcessor",
        image_processor_class="GotOcr2ImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 4},
        video_processor={"video_processor_type": "InternVLVideoProcessor", "size": {"height": 32, "width": 32}},
        processor={"image_seq_length": 16},
        chat_template=INTERNVL_TEMPLATE,
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        special_tokens=("<|im_start|>",),
        one_tile={"crop_to_patches": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
    ),
    "llava_onevision": BaseSpec(
        config_class="LlavaOnevisionConfig",
        config={
            "text_config": {
                "model_type": "qwen2",
                "vocab_size": VOCAB,
                "hidden_size": 60,
                "intermediate_size": 74,
                "num_hidden_layers": 3,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "max_position_embeddings": 2048,
                "bos_token_id": None,
                "eos_token_id": TokenId("<|im_end|>"),
                "pad_token_id": TokenId("<|endoftext|>"),
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 28,
                "intermediate_size": 46,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
                "vision_use_head": False,
            },
            "image_token_index": TokenId("<image>"),
            "video_token_index": TokenId("<video>"),
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]],
            "tie_word_embeddings": True,
        },
        processor_class="LlavaOnevisionProcessor",
        image_processor_class="LlavaOnevisionImageProcessorPil",
        image_processor={
            "size": {"height": 32, "width": 32},
            "image_grid_pinpoints": [[32, 32], [32, 64], [64, 32], [64, 64]],
        },
        video_processor={"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 32, "width": 32}},
        processor={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        chat_template=LLAVA_ONEVISION_TEMPLATE,
        named_tokens=CHATML_TOKENS,
        special_tokens=("<|im_start|>", "<image>", "<video>"),
        frame_nesting="per_video",
        tokens_per_frame=17,
        token_grid=(4, 4),
    ),
    "llava_phi": BaseSpec(
        config_class="LlavaConfig",
        config={
            "text_config": {
                "model_type": "phi",
                "vocab_size": VOCAB,
                "hidden_size": 64,
                "intermediate_size": 78,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 2048,
                "partial_rotary_factor": 0.5,
                "bos_token_id": TokenId("<|endoftext|>"),
                "eos_token_id": TokenId("<|endoftext|>"),
                "pad_token_id": TokenId("<pad>"),
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 36,
                "intermediate_size": 52,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": 30,
                "patch_size": 6,
                "vision_use_head": False,
            },
            "image_token_index": TokenId("<image>"),
            "image_seq_length": 25,
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "full",
        },
        processor_class="LlavaProcessor",
        image_processor_class="SiglipImageProcessorPil",
        image_processor={"size": {"height": 30, "width": 30}},
        processor={"patch_size": 6, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0},
        chat_template=LLAVA_TEMPLATE,
        named_tokens={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"},
        special_tokens=("<image>",),
        tokens_per_frame=25,
        token_grid=(5, 5),
    ),
    "smolvlm": BaseSpec(
        config_class="SmolVLMConfig",
        config={
            "text_config": {
                "model_type": "llama",
                "vocab_size": VOCAB,
                "hidden_size": 54,
                "intermediate_size": 82,
                "num_hidden_layers": 3,
                "num_attention_heads": 3,
                "num_key_value_heads": 1,
                "max_position_embeddings": 2048,
                "bos_token_id": TokenId("<|im_start|>"),
                "eos_token_id": TokenId("<end_of_utterance>"),
                "pad_token_id": TokenId("<|im_end|>"),
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 58,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 48,
                "patch_size": 8,
            },
            "image_token_id": TokenId("<image>"),
            "pad_token_id": TokenId("<|im_end|>"),
            "scale_factor": 2,
        },
        processor_class="SmolVLMProcessor",
        image_processor_class="SmolVLMImageProcessorPil",
        image_processor={"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 48}},
        video_processor={
            "video_processor_type": "SmolVLMVideoProcessor",
            "size": {"longest_edge": 96},
            "max_image_size": {"longest_edge": 48},
            "num_frames": 8,
            "fps": 1,
        },
        processor={"image_seq_len": 9},
        chat_template=SMOLVLM_TEMPLATE,
        named_tokens={"bos_token": "<|im_start|>", "eos_token": "<end_of_utterance>", "pad_token": "<|im_end|>"},
        tokenizer_attributes={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
            "video_token": "<video>",
        },
        special_tokens=tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
        one_tile={"do_image_splitting": False},
        frame_nesting="per_frame",
        tokens_per_frame=9,
        token_grid=(3, 3),
    ),
    "gemma3": BaseSpec(
        config_class="Gemma3Config",
        config={
            "text_config": {
                "vocab_size": VOCAB,
                "hidden_size": 36,
                "intermediate_size": 66,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "query_pre_attn_scalar": 16,
                "max_position_embeddings": 2048,
                "sliding_window": 40,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "bos_token_id": TokenId("<bos>"),
                "eos_token_id": TokenId("<end_of_turn>"),
                "pad_token_id": TokenId("<pad>"),
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": 30,
                "intermediate_size": 42,
                "num_hidden_layers": 2,
                "num_attention_heads": 3,
                "image_size": 32,
                "patch_size": 4,
                "vision_use_head": False,
            },
            "mm_tokens_per_image": 16,
            "boi_token_index": TokenId("<start_of_image>"),
            "eoi_token_index": TokenId("<end_of_image>"),
            "image_token_index": TokenId("<image_soft_token>"),
        },
        processor_class="Gemma3Processor",
        image_processor_class="Gemma3ImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}},
        processor={"image_seq_length": 16},
        chat_template=GEMMA3_TEMPLATE,
        named_tokens={"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"},
        tokenizer_attributes={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        special_tokens=("<start_of_turn>",),
        adds_bos=True,
        one_tile={"do_pan_and_scan": False},
        tokens_per_frame=16,
        token_grid=(4, 4),
        type_ids="token_type_ids",
    ),
    "molmo2": BaseSpec(
        config_class="Molmo2Config",
        config={
            "text_config": {
                "vocab_size": VOCAB,
                "additional_vocab_size": VocabSize(additional=True),
                "hidden_size": 46,
                "intermediate_size": 62,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 14,
                "max_position_embeddings": 2048,
                "bos_token_id": TokenId("<|im_end|>"),
                "eos_token_id": TokenId("<|im_end|>"),
                "pad_token_id": TokenId("<|endoftext|>"),
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 58,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "image_size": [32, 32],
                "patch_size": 8,
            },
            "adapter_config": {
                "vision_feature_layer": [1, 0],
                "hidden_size": 32,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "intermediate_size": 54,
                "text_hidden_size": 46,
            },
            "image_start_token_id": TokenId("<im_start>"),
            "low_res_image_start_token_id": TokenId("<low_res_im_start>"),
            "image_end_token_id": TokenId("<im_end>"),
            "image_patch_id": TokenId("<im_patch>"),
            "frame_start_token_id": TokenId("<frame_start>"),
            "frame_end_token_id": TokenId("<frame_end>"),
        },
        processor_class="Molmo2Processor",
        image_processor_class="Molmo2NumpyImageProcessor",
        image_processor={
            "size": {"height": 32, "width": 32},
            "patch_size": 8,
            "pooling_size": [2, 2],
            "overlap_margins": [1, 1],
            "max_crops": 4,
        },
        video_processor={"video_processor_type": "Molmo2VideoProcessor", "size": {"height": 32, "width": 32}},
        chat_template=MOLMO2_TEMPLATE,
        named_tokens={"bos_token": "<|im_end|>", **CHATML_TOKENS},
        special_tokens=("<|im_start|>",),
        additional_tokens=(
            "<im_start>",
            "<im_end>",
            "<im_patch>",
            "<im_col>",
            "<low_res_im_start>",
            "<|image|>",
            "<im_low>",
            "<frame_start>",
            "<frame_end>",
            "<|video|>",
        ),
        one_tile={"max_crops": 1},
        tokens_per_frame=4,  # of the view of the whole; the crop would be the same again
        token_grid=(2, 2),
        type_ids="mm_token_type_ids",
    ),
}
