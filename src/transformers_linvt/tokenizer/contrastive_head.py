"""
The head of stage 1: one vector per video and per caption, whose products an InfoNCE loss compares.

Ours: the paper names the loss and not the projections.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .attention import fill_parameter, init_layer_norm, init_linear


INITIAL_TEMPERATURE = 0.07  # as in CLIP
MOST_LOG_SCALE = math.log(100.0)  # as in CLIP: a sharper scale is unstable


@dataclass
class ContrastiveEmbeddings:
    """
    What is compared in stage 1.

    Args:
        video_embeds (`torch.Tensor` of shape `(num_videos, size)`): length 1.
        text_embeds (`torch.Tensor` of shape `(num_videos, size)`): length 1.
        logit_scale (`torch.Tensor` of shape `(1,)`): 1 / temperature, at most 100.
    """

    video_embeds: torch.Tensor
    text_embeds: torch.Tensor
    logit_scale: torch.Tensor


class ContrastiveHead(nn.Module):
    """
    Projects the mean of the video tokens and the mean of a caption's embeddings into one space.

    Args:
        dim (`int`): width of video tokens and text embeddings.
        size (`int`): width of the common space.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.video_norm, self.text_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.video_projection, self.text_projection = nn.Linear(dim, size), nn.Linear(dim, size)
        # one dimension and not none: FSDP cannot divide a scalar
        self.log_scale = nn.Parameter(torch.empty(1))

    def init_weights(self, temperature: float = INITIAL_TEMPERATURE) -> None:
        """(Re)initialise; can be called again after the module has left the meta device."""
        for norm in (self.video_norm, self.text_norm):
            init_layer_norm(norm)
        for linear in (self.video_projection, self.text_projection):
            init_linear(linear)
        fill_parameter(self.log_scale, torch.tensor([-math.log(temperature)]))

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Bring the scale back to its limit, for after a step: beyond it the scale would get no gradient any more."""
        self.log_scale.clamp_(max=MOST_LOG_SCALE)

    def forward(
        self, video_tokens: torch.Tensor, used: torch.Tensor, text_embeds: torch.Tensor, text_mask: torch.Tensor
    ) -> ContrastiveEmbeddings:
        """
        Args:
            video_tokens (`torch.Tensor` of shape `(num_videos, num_video_tokens, dim)`): of no question.
            used (`torch.Tensor` of shape `(num_videos, num_video_tokens)`): True at those that count.
            text_embeds (`torch.Tensor` of shape `(num_videos, length, dim)`): input embeddings.
            text_mask (`torch.Tensor` of shape `(num_videos, length)`): True at the caption.
        """
        dtype = self.video_norm.weight.dtype
        mask = text_mask.unsqueeze(-1).to(dtype)
        text = (text_embeds.to(dtype) * mask).sum(1) / mask.sum(1).clamp_min(1)
        used = used.unsqueeze(-1).to(dtype)
        video = (video_tokens.to(dtype) * used).sum(1) / used.sum(1)
        video = self.video_projection(self.video_norm(video))
        text = self.text_projection(self.text_norm(text))
        return ContrastiveEmbeddings(
            video_embeds=F.normalize(video.float(), dim=-1),
            text_embeds=F.normalize(text.float(), dim=-1),
            logit_scale=self.log_scale.float().clamp(max=MOST_LOG_SCALE).exp(),
        )
