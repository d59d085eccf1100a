"""
Ways of making few tokens of many that LinVT is compared with, none of which looks at the question or learns weights.

Each is a matrix of weights like LinVT's own: rows that are averages of frame tokens. What trains behind it, and how it
is trained, is for whoever compares; `benchmarks/training_recipe.py` gives every one an adapter of LinVT's size.
"""

from collections.abc import Callable

import torch

from ..errors import LinVTInputError, unknown_argument


_ROUNDS = 20  # of k-means; ours: the clusters of a clip of shapes stand still after five to ten


def plain_weights(arm: str, frame_tokens: torch.Tensor, num_tokens: int, seed: int = 0) -> torch.Tensor:
    """
    The weights by which one of `PLAIN_ARMS` makes tokens of a video.

    Args:
        arm (`str`):
            `"mean over time"`, every place averaged over all frames; `"uniform frames"`, as many whole frames as the
            budget holds, spread evenly; `"middle frame"`; `"lattice"`, blocks of time and reading order;
            `"k-means"`, clusters of tokens in the order of their mean times; `"all"`, every token, whatever the
            budget. Where a picture has more tokens than the budget, neighbours in reading order are averaged.
        frame_tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, dim)`):
            Tokens of one video.
        num_tokens (`int`):
            The budget.
        seed (`int`, defaults to 0):
            Of k-means.

    Returns:
        `torch.Tensor` of shape `(at most num_tokens, num_frames * tokens_per_frame)`, rows that sum to 1; of `"all"`
        the identity.

    Raises:
        LinVTInputError: an unknown arm, or a budget below 1.

    Example:

    >>> plain_weights("mean over time", torch.zeros(3, 4, 5), num_tokens=2)[0].tolist()[:4]
    [0.1666666716337204, 0.1666666716337204, 0.0, 0.0]
    """
    if arm not in PLAIN_ARMS:
        raise LinVTInputError(unknown_argument(arm, PLAIN_ARMS))
    if num_tokens < 1:
        raise LinVTInputError(f"num_tokens={num_tokens} is no budget. Give 1 or more.")
    return PLAIN_ARMS[arm](frame_tokens.detach(), num_tokens, seed)


def _groups(labels: torch.Tensor) -> torch.Tensor:
    """Labels 0, 1, ... of tokens, -1 for those left out -> rows that average each group."""
    rows = (labels[None] == torch.arange(int(labels.max()) + 1, device=labels.device)[:, None]).float()
    return rows / rows.sum(1, keepdim=True).clamp_min(1)


def _shares(count: int, num_groups: int, device: torch.device) -> torch.Tensor:
    """Which of `num_groups` equal stretches each of `count` things belongs to."""
    return torch.arange(count, device=device) * min(num_groups, count) // count


def _mean_over_time(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    num_frames, per_frame, _ = tokens.shape
    return _groups(_shares(per_frame, num_tokens, tokens.device).repeat(num_frames))


def _frames(tokens: torch.Tensor, chosen: list[int], num_tokens: int) -> torch.Tensor:
    """Some frames whole, one after the other, neighbours averaged where the budget is smaller."""
    num_frames, per_frame, _ = tokens.shape
    each = max(1, min(per_frame, num_tokens // len(chosen)))
    labels = torch.full((num_frames, per_frame), -1, device=tokens.device)
    for number, frame in enumerate(chosen):
        labels[frame] = number * each + _shares(per_frame, each, tokens.device)
    return _groups(labels.flatten())


def _uniform_frames(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    num_frames, per_frame, _ = tokens.shape
    count = min(num_frames, max(1, num_tokens // per_frame))
    return _frames(tokens, [(2 * i + 1) * num_frames // (2 * count) for i in range(count)], num_tokens)


def _middle_frame(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    return _frames(tokens, [len(tokens) // 2], num_tokens)


def _lattice(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    num_frames, per_frame, _ = tokens.shape
    # as many blocks of time as of reading order, as nearly as the budget allows
    places = min(per_frame, max(1, round(num_tokens**0.5)))
    times = min(num_frames, num_tokens // places)
    when = _shares(num_frames, times, tokens.device)[:, None]
    return _groups((when * places + _shares(per_frame, places, tokens.device)).flatten())


def _k_means(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    flat = tokens.flatten(0, 1).float()
    count = min(num_tokens, len(flat))
    chosen = [int(torch.randint(len(flat), (1,), generator=torch.Generator().manual_seed(seed)))]
    nearest = torch.cdist(flat, flat[chosen]).squeeze(1)
    while len(chosen) < count:  # the farthest from all before, which needs no luck
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.cdist(flat, flat[chosen[-1:]]).squeeze(1))
    centres = flat[chosen]
    for _ in range(_ROUNDS):
        labels = torch.cdist(flat, centres).argmin(1)
        weights = (labels[None] == torch.arange(count, device=labels.device)[:, None]).float()
        sizes = weights.sum(1, keepdim=True)
        centres = torch.where(sizes > 0, weights @ flat / sizes.clamp_min(1), centres)
    times = torch.arange(len(flat), device=flat.device).float()
    used = sizes.squeeze(1) > 0
    weights = weights[used] / sizes[used]
    return weights[(weights @ times).argsort()]


def _all(tokens: torch.Tensor, num_tokens: int, seed: int) -> torch.Tensor:
    return torch.eye(tokens.shape[0] * tokens.shape[1], device=tokens.device)


PLAIN_ARMS: dict[str, Callable[[torch.Tensor, int, int], torch.Tensor]] = {
    "mean over time": _mean_over_time,
    "uniform frames": _uniform_frames,
    "middle frame": _middle_frame,
    "lattice": _lattice,
    "k-means": _k_means,
    "all": _all,
}
