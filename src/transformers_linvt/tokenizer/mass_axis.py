"""Where what is new lies on the axis of mass, and how many video tokens share it. Ours, not the paper's."""

import torch


def place_on_axis(
    mass: torch.Tensor, filled: torch.Tensor, groups: torch.Tensor, num_video_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Where every slot lies on the axis of mass, and how many video tokens share the axis.

    Where there are no more groups than video tokens, every group gets a video token of its own and no group two: they
    lie evenly, whatever their mass, and the video tokens left over are not used. So a video that stands still is its
    picture, however many video tokens it could have.

    Args:
        mass, filled, groups (`torch.Tensor` of shape `(batch, num_slots)`):
            As `positions_on_mass`.
        num_video_tokens (`int`):
            M.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: positions `(batch, num_slots)` in [0, 1], and the number of video tokens
        in use, `(batch,)`, at least 1.

    Example:

    >>> mass = torch.tensor([[0.9, 0.6, 0.9, 0.0]])
    >>> filled = torch.tensor([[True, True, True, False]])
    >>> positions, used = place_on_axis(mass, filled, torch.tensor([[0, 1, 1, 1]]), num_video_tokens=4)
    >>> positions.tolist(), used.tolist()
    ([[0.25, 0.75, 0.75, 1.0]], [2])
    """
    num_groups = (groups.masked_fill(~filled, -1).amax(1) + 1).clamp(min=1)
    fits = num_groups <= num_video_tokens
    evenly = (groups + 0.5) / num_groups.unsqueeze(1)
    positions = torch.where(fits.unsqueeze(1) & filled, evenly.to(mass.dtype), positions_on_mass(mass, filled, groups))
    return positions, num_groups.clamp(max=num_video_tokens)


def positions_on_mass(mass: torch.Tensor, filled: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """
    Where every slot lies on the axis of mass: the mass before its group and half of the group's own, over all mass.

    Args:
        mass (`torch.Tensor` of shape `(batch, num_slots)`):
            Mass of the slots; 0 in empty ones.
        filled (`torch.Tensor` of the same shape):
            True where the slot holds anything.
        groups (`torch.Tensor` of the same shape):
            Number of the group of every slot, ascending; a group lies at one point.

    Returns:
        `torch.Tensor` of shape `(batch, num_slots)` in [0, 1]; 1 in empty slots.

    Example:

    >>> mass = torch.tensor([[1.0, 2.0, 1.0, 4.0]])
    >>> positions_on_mass(mass, torch.ones(1, 4, dtype=torch.bool), torch.tensor([[0, 1, 1, 2]])).tolist()
    [[0.0625, 0.3125, 0.3125, 0.75]]
    """
    of_group = torch.zeros_like(mass).scatter_add(1, groups, mass)
    total = mass.sum(dim=1, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    middle = (of_group.cumsum(dim=1) - of_group / 2) / total
    return middle.gather(1, groups).masked_fill(~filled, 1.0)
