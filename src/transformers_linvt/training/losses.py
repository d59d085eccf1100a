"""
Symmetric InfoNCE over all processes, with a gradient through the gathering.

Every process compares its own rows with everybody's. The gather has to carry the gradient: without it the direction of
the step is wrong (or its length, divided by the number of processes), and nothing looks wrong.
"""

from dataclasses import dataclass

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch.distributed.nn.functional import all_gather as gather_with_gradient


@dataclass
class ContrastiveLoss:
    """
    Args:
        loss (`torch.Tensor` scalar): mean over the rows of this process.
        video_to_text, text_to_video (`torch.Tensor` scalars): share of own rows whose partner is the nearest.
    """

    loss: torch.Tensor
    video_to_text: torch.Tensor
    text_to_video: torch.Tensor


def info_nce(
    video_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    video_ids: torch.Tensor | None = None,
    caption_ids: torch.Tensor | None = None,
) -> ContrastiveLoss:
    """
    Symmetric InfoNCE of the rows of this process against the rows of all processes.

    Averaged over processes, as data parallelism does it, this is the loss of the joined batch.

    Args:
        video_embeds, text_embeds (`torch.Tensor` of shape `(rows, size)`): row i of both belong together.
        logit_scale (`torch.Tensor`): 1 / temperature.
        video_ids, caption_ids (`torch.Tensor` of shape `(rows,)`, *optional*): equal for equal videos and captions:
            such pairs are no negatives of each other.
    """
    rows = len(video_embeds)
    rank = distributed.get_rank() if _is_distributed() else 0
    videos, texts = _everybodys(video_embeds), _everybodys(text_embeds)
    own = torch.arange(rows, device=video_embeds.device) + rank * rows
    excluded = torch.zeros(rows, len(videos), dtype=torch.bool, device=video_embeds.device)
    for ids in (video_ids, caption_ids):
        if ids is not None:
            excluded |= ids.unsqueeze(1) == _gathered(ids).unsqueeze(0)
    excluded[torch.arange(rows, device=own.device), own] = False
    losses, shares = [], []
    for left, right in ((video_embeds, texts), (text_embeds, videos)):
        logits = (logit_scale * left @ right.T).masked_fill(excluded, -torch.inf)
        losses.append(F.cross_entropy(logits, own))
        shares.append((logits.argmax(1) == own).float().mean().detach())
    return ContrastiveLoss((losses[0] + losses[1]) / 2, *shares)


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _everybodys(embeds: torch.Tensor) -> torch.Tensor:
    return torch.cat(gather_with_gradient(embeds)) if _is_distributed() and embeds.requires_grad else _gathered(embeds)


def _gathered(values: torch.Tensor) -> torch.Tensor:
    if not _is_distributed():
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)
