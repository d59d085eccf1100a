"""
A tiny model with the face of the first Molmo, written for the tests of `base_molmo.py`.

The same attributes and call signatures, and the same habits: no `generate`, keys and values as tuples, a table of
embeddings in two parts without `.weight`, visual tokens added at `image_input_idx`, a mask demanded beside embedded
prompts. Nothing inside is Molmo's. This file is copied into the folder of a base, as its code, so it imports nothing
of the tests.
"""

import math

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class MolmoConfig(PretrainedConfig):
    model_type = "molmo"

    def __init__(
        self,
        vocab_size=512,
        embedding_size=512,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
        use_cache=True,
        patch_values=192,
        tie_word_embeddings=False,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        self.patch_values = patch_values
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)


class TwoTables(nn.Module):
    """Embeddings of words, and behind them those of the tokens that were added for pictures."""

    def __init__(self, size, width, num_added=16):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(size, width) * 0.2)
        self.new_embedding = nn.Parameter(torch.randn(num_added, width) * 0.2)

    def forward(self, ids):
        return nn.functional.embedding(ids, torch.cat([self.embedding, self.new_embedding]))


def rotate(x, position_ids):
    """Rotary embedding of pairs of neighbours, at given positions."""
    width = x.shape[-1]
    angles = position_ids[:, None, :, None] * 100.0 ** (-torch.arange(0, width, 2, device=x.device) / width)
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(turned, -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attn_norm, self.ff_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.att_proj, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, config.intermediate_size, bias=False)
        self.ff_out = nn.Linear(config.intermediate_size, width, bias=False)

    def forward(self, x, attention_bias, position_ids, layer_past=None, use_cache=False):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.att_proj(self.attn_norm(x)).chunk(3, -1)
        )
        q, k = rotate(q, position_ids), rotate(k, position_ids)
        if layer_past is not None:
            k, v = torch.cat([layer_past[0], k], -2), torch.cat([layer_past[1], v], -2)
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_bias.to(q.dtype))
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        return x + self.ff_out(nn.functional.silu(self.ff_proj(self.ff_norm(x)))), (k, v) if use_cache else None


class VisionBackbone(nn.Module):
    """(batch, pictures, patches, values), (batch, pictures, patches) -> (batch, pictures, patches / 4, D), None."""

    def __init__(self, config):
        super().__init__()
        self.patch_embedding = nn.Linear(config.patch_values, 36)
        self.pad_embed = nn.Parameter(torch.randn(2, 36))
        self.mix = nn.Linear(36, 36)
        self.projector = nn.Linear(4 * 36, config.hidden_size)

    def forward(self, images, image_masks):
        x = self.patch_embedding(images)
        x = x + self.pad_embed[0] * (image_masks == 0).to(x.dtype).unsqueeze(-1)
        x = x + self.pad_embed[1] * ((image_masks > 0) & (image_masks < 1)).to(x.dtype).unsqueeze(-1)
        x = x + torch.tanh(self.mix(x - x.mean(-2, keepdim=True)))
        side = math.isqrt(x.shape[-2])
        x = x.unflatten(-2, (side // 2, 2, side // 2, 2)).transpose(-4, -3)
        return self.projector(x.flatten(-3).flatten(-3, -2)), None


class Molmo(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": TwoTables(config.embedding_size, config.hidden_size),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers)),
                "ln_f": nn.RMSNorm(config.hidden_size),
                "ff_out": nn.Linear(config.hidden_size, config.embedding_size, bias=False),
            }
        )
        self.vision_backbone = VisionBackbone(config)


class MolmoForCausalLM(PreTrainedModel):
    config_class = MolmoConfig
    base_model_prefix = "model"

    def __init__(self, config):
        super().__init__(config)  # and no post_init, as in the published code
        self.model = Molmo(config)

    def forward(
        self,
        input_ids=None,
        inputs_embeds=None,
        attention_mask=None,
        images=None,
        image_masks=None,
        image_input_idx=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        last_logits_only=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        assert past_key_values is None or isinstance(past_key_values[0], tuple)
        assert images is None or (inputs_embeds is None and past_key_values is None)
        transformer = self.model.transformer
        if attention_mask is None:
            attention_mask = input_ids != -1
        x = transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        past = 0 if past_key_values is None else past_key_values[0][0].shape[-2]
        length = x.shape[1]
        if position_ids is None:
            position_ids = (attention_mask.int().cumsum(-1) - 1).clamp(min=0)
        if images is not None:
            features = self.model.vision_backbone(images, image_masks)[0].flatten(1, 2)
            places = image_input_idx.flatten(1)
            rows = torch.arange(len(x))[:, None].expand_as(places)
            x = x.clone()
            x[rows[places >= 0], places[places >= 0]] += features[places >= 0]
        assert attention_mask.shape[1] >= past + length
        causal = torch.full((past + length, past + length), torch.finfo(torch.float32).min).triu(1)
        bias = causal[past:] + (1.0 - attention_mask[:, None, None, : past + length].float()) * causal.min()
        bias = bias.clamp(min=torch.finfo(torch.float32).min)
        hidden, pairs = [], []
        for number, block in enumerate(transformer.blocks):
            hidden.append(x)
            layer_past = past_key_values[number] if past_key_values is not None else None
            x, pair = block(x, bias, position_ids, layer_past, use_cache)
            pairs.append(pair)
        x = transformer.ln_f(x[:, -1:] if last_logits_only else x)
        return CausalLMOutputWithPast(
            logits=transformer.ff_out(x),
            past_key_values=pairs if use_cache else None,
            hidden_states=(*hidden, x) if output_hidden_states else None,
        )

    def can_generate(self):
        return True

    def get_input_embeddings(self):
        return self.model.transformer.wte

    def get_output_embeddings(self):
        return self.model.transformer.ff_out

    def tie_weights(self):
        pass
