"""Gemma and the families around it that read a picture from patches (DeepSeek-VL, Ovis) or from codes (Chameleon)."""

from .spec import CHATML_TOKENS, VOCAB, BaseSpec, TokenId, chat_template, text_config, vision_config


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<end_of_turn>", "pad_token": "<pad>"}
GEMMA_IDS = {
    "bos_token_id": TokenId("<bos>"),
    "eos_token_id": TokenId("<end_of_turn>"),
    "pad_token_id": TokenId("<pad>"),
}
GEMMA4_TOKENS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
GEMMA4_IDS = {
    "boi_token_id": TokenId("<|image>"),
    "eoi_token_id": TokenId("<image|>"),
    "image_token_id": TokenId("<|image|>"),
    "video_token_id": TokenId("<|video|>"),
    "audio_token_id": TokenId("<|audio|>"),
    "boa_token_id": TokenId("<|audio>"),
    "eoa_token_index": TokenId("<audio|>"),
}

# Pictures first, then the text, as the family was trained; its processor adds the first token behind the pictures and
# the end of line behind the last text.
PALIGEMMA_TEMPLATE = """\
{%- for message in messages %}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content if item.type == 'image' %}<image>{% endfor %}
{%- for item in message.content if item.type == 'text' %}{{ item.text }}{% endfor %}
{%- endif %}
{%- if message.role == 'assistant' %}{{ eos_token }}
{%- elif not loop.last %}{{ '\\n' }}
{%- endif %}
{%- endfor %}"""
# A family that reads a picture as codes has a token for each. Chameleon writes digits as letters: A is 0.
NUM_CODES = 60
CHAMELEON_CODES = tuple(
    "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z" for code in range(NUM_CODES)
)
EMU3_CODES = tuple(f"<|visual token {code:06}|>" for code in range(NUM_CODES))
# A turn ends with a separator; the last one's is written by the processor.
CHAMELEON_TEMPLATE = """\
{%- for message in messages %}
{%- if message.content is string %}{{ message.content }}
{%- else %}
{%- for item in message.content %}
{%- if item.type == 'image' %}<image>{% elif item.type == 'text' %}{{ item.text }}{% endif %}
{%- endfor %}
{%- endif %}
{%- if not loop.last or message.role == 'assistant' %}{{ sep_token }}{% endif %}
{%- endfor %}"""

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
            "vision_config": vision_config(image_size=40, mlp_ratio=1.5, projection_dim=40, num_image_tokens=25),
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
            **GEMMA4_IDS,
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
        chat_template="{{ bos_token }}" + chat_template("<|image|>"),
        named_tokens=GEMMA_TOKENS,
        tokenizer_attributes=GEMMA4_TOKENS,
        special_tokens=("<|video|>", "<|im_start|>", "<|im_end|>"),
        adds_bos=True,
        tokens_per_frame=60,
        token_grid=(6, 10),
        type_ids="mm_token_type_ids",
    ),
    "gemma4_unified": BaseSpec(
        config_class="Gemma4UnifiedConfig",
        config={
            "text_config": text_config(
                **GEMMA_IDS,
                hidden_size=44,
                head_dim=12,
                global_head_dim=20,
                num_global_key_value_heads=1,
                attention_k_eq_v=True,
                sliding_window=40,
                layer_types=["sliding_attention", "full_attention", "full_attention"],
            ),
            "vision_config": {
                "patch_size": 4,
                "pooling_kernel_size": 2,
                "mm_embed_dim": 38,
                "mm_posemb_size": 80,
                "output_proj_dims": 38,
            },
            "audio_config": None,
            **GEMMA4_IDS,
        },
        processor_class="Gemma4UnifiedProcessor",
        image_processor_class="Gemma4UnifiedImageProcessor",
        image_processor={"patch_size": 4, "pooling_kernel_size": 2, "max_soft_tokens": 70},
        video_processor={
            "video_processor_type": "Gemma4UnifiedVideoProcessor",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "max_soft_tokens": 70,
        },
        processor={"image_seq_length": 70},
        parts={"feature_extractor": ("Gemma4UnifiedAudioFeatureExtractor", {})},
        chat_template="{{ bos_token }}" + chat_template("<|image|>"),
        named_tokens=GEMMA_TOKENS,
        tokenizer_attributes=GEMMA4_TOKENS,
        special_tokens=("<|video|>", "<|im_start|>", "<|im_end|>"),
        adds_bos=True,
        tokens_per_frame=60,
        token_grid=(6, 10),
        type_ids="mm_token_type_ids",
        needs=("torchvision",),
    ),
    "gemma3n": BaseSpec(
        config_class="Gemma3nConfig",
        config={
            "text_config": text_config(
                **GEMMA_IDS,
                hidden_size=40,
                head_dim=14,
                sliding_window=40,
                num_hidden_layers=4,
                layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
                num_kv_shared_layers=2,
                hidden_size_per_layer_input=10,
                vocab_size_per_layer_input=VOCAB,
                altup_num_inputs=2,
                laurel_rank=6,
                final_logit_softcapping=1e5,  # none to speak of; it cannot be switched off
                activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
            ),
            "vision_config": {
                "architecture": "mobilenetv5_300m_enc",
                "hidden_size": 2048,
                "vocab_size": 8,
                "vocab_offset": 5000,
                "do_pooling": False,
                "model_args": {"channel_multiplier": 0.02},
            },
            "audio_config": {
                "vocab_size": 8,
                "vocab_offset": 5008,
                "hidden_size": 16,
                "conf_num_hidden_layers": 1,
                "conf_num_attention_heads": 2,
                "sscp_conv_channel_size": [4, 2],
            },
            "vision_soft_tokens_per_image": 256,
            "boi_token_id": TokenId("<start_of_image>"),
            "eoi_token_id": TokenId("<end_of_image>"),
            "image_token_id": TokenId("<image_soft_token>"),
            "audio_token_id": TokenId("<audio_soft_token>"),
            "boa_token_id": TokenId("<start_of_audio>"),
            "eoa_token_id": TokenId("<end_of_audio>"),
        },
        processor_class="Gemma3nProcessor",
        image_processor_class="SiglipImageProcessorPil",
        image_processor={"size": {"height": 96, "width": 96}},
        processor={"image_seq_length": 256, "audio_seq_length": 12},
        parts={"feature_extractor": ("Gemma3nAudioFeatureExtractor", {})},
        chat_template="{{ bos_token }}" + chat_template("<image_soft_token>"),
        named_tokens=GEMMA_TOKENS,
        tokenizer_attributes={
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "audio_token": "<audio_soft_token>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
        },
        special_tokens=("<|im_start|>", "<|im_end|>"),
        adds_bos=True,
        tokens_per_frame=256,
        token_grid=(16, 16),
        type_ids="token_type_ids",
        needs=("timm", "torchvision"),
        cannot={"test_sft_trainer_moves_linvt[True]": "in training it goes around a layer of AltUp, and its LoRA"},
    ),
    "paligemma": BaseSpec(
        config_class="PaliGemmaConfig",
        config={
            "text_config": text_config(
                **GEMMA_IDS,
                model_type="gemma2",
                head_dim=14,
                query_pre_attn_scalar=14,
                final_logit_softcapping=None,
                sliding_window=60,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
            "vision_config": vision_config(model_type="siglip_vision_model", vision_use_head=False),
            "image_token_index": TokenId("<image>"),
            "vocab_size": VOCAB,
            "projection_dim": 48,
            "hidden_size": 48,
        },
        processor_class="PaliGemmaProcessor",
        image_processor_class="SiglipImageProcessorPil",
        image_processor={"size": {"height": 32, "width": 32}, "image_seq_length": 16},
        chat_template=PALIGEMMA_TEMPLATE,
        named_tokens=GEMMA_TOKENS,
        special_tokens=("<image>",),
        tokens_per_frame=16,
        token_grid=(4, 4),
        type_ids="token_type_ids",
        answer_type_id=1,
        cannot={"test_pictures_and_text_are_bit_identical_to_the_base[text]": "its processor needs a picture"},
    ),
    "aria": BaseSpec(
        config_class="AriaConfig",
        config={
            "text_config": text_config(
                moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1, hidden_size=56, intermediate_size=36
            ),
            # The processor asks for pictures of 980 pixels; of smaller ones its image processor knows 490 only.
            "vision_config": vision_config(model_type="idefics3_vision", image_size=980, patch_size=196),
            "projector_patch_to_query_dict": {25: 12},
            "image_token_index": TokenId("<|img|>"),
        },
        processor_class="AriaProcessor",
        image_processor_class="AriaImageProcessorPil",
        processor={"size_conversion": {490: 6, 980: 12}},
        chat_template=chat_template("<|img|>", "<fim_prefix>", "<fim_suffix>"),
        named_tokens=CHATML_TOKENS,
        tokenizer_attributes={"image_token": "<|img|>"},
        special_tokens=("<|im_start|>", "<fim_prefix>", "<fim_suffix>"),
        one_tile={"split_image": False},
        tokens_per_frame=12,
        token_grid=(3, 4),
    ),
    "chameleon": BaseSpec(
        config_class="ChameleonConfig",
        config=text_config(
            eos_token_id=TokenId("<reserved08706>"),
            pad_token_id=TokenId("<pad>"),
            vq_config={
                "embed_dim": 6,
                "num_embeddings": NUM_CODES,
                "latent_channels": 10,
                "resolution": 32,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 2, 2],
                "num_res_blocks": 1,
            },
            vocabulary_map={token: TokenId(token) for token in ("<image>", *CHAMELEON_CODES)},
        ),
        processor_class="ChameleonProcessor",
        image_processor_class="ChameleonImageProcessorPil",
        image_processor={"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        processor={"image_seq_length": 16},
        chat_template=CHAMELEON_TEMPLATE,
        named_tokens={
            "bos_token": "<s>",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "sep_token": "<reserved08706>",
        },
        special_tokens=("<image>", "<racm3:break>", "<eoss>", *CHAMELEON_CODES),
        adds_bos=True,
        tokens_per_frame=16,
        token_grid=(4, 4),
        cannot={
            "test_sft_trainer_moves_linvt": "TRL's own trainer computes the loss without the head's ban on "
            "codes of pictures, `LinVTSFTTrainer` with it"
        },
    ),
    "emu3": BaseSpec(
        config_class="Emu3Config",
        config={
            "text_config": text_config(
                bos_token_id=TokenId("<|extra_203|>"),
                eos_token_id=TokenId("<|extra_204|>"),
                attention_dropout=0.0,
            ),
            "vq_config": {
                "codebook_size": NUM_CODES,
                # in two dimensions codes lie so close that other frames get other codes
                "embed_dim": 2,
                "latent_channels": 6,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 2],
                "num_res_blocks": 1,
                "attn_resolutions": [3],
                "hidden_size": 64,
                "num_attention_heads": 1,
            },
            "vocabulary_map": {token: TokenId(token) for token in ("<image>", "<|extra_200|>", *EMU3_CODES)},
        },
        processor_class="Emu3Processor",
        image_processor_class="Emu3ImageProcessor",
        image_processor={"min_pixels": 16 * 16, "max_pixels": 32 * 40},
        chat_template=chat_template("<image>"),
        named_tokens={"bos_token": "<|extra_203|>", "eos_token": "<|extra_204|>", "pad_token": "<|endoftext|>"},
        tokenizer_attributes={
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
        special_tokens=("<|im_start|>", "<|im_end|>", "<|extra_200|>", *EMU3_CODES),
        tokens_per_frame=18,
        token_grid=(3, 6),
    ),
}
