"""Where and when a frame token is: grids of a frame, seconds, and their sinusoidal embeddings."""

import math
from collections.abc import Sequence

import torch
import torch.utils.checkpoint


# Wavelengths of the sinusoidal embeddings, ours. Seconds: as in "Attention Is All You Need" from 2 pi, which is no
# multiple of a second, so that one frame per second does not land on the zeros of the sine, up to hours. Relative
# positions: from a hundredth of a video and a sixteenth of a picture up to 2, so that the longest is monotone.
SECONDS_WAVELENGTHS = (2 * math.pi, 10_000.0)
RELATIVE_TIME_WAVELENGTHS = (1 / 128, 2.0)
PLACE_WAVELENGTHS = (1 / 16, 2.0)


def infer_grid_size(tokens_per_frame: int) -> tuple[int, int]:
    """
    Rows and columns of a frame's tokens when only their number is known.

    A square number is a square. One more than a square (from 5 on) is a square and an extra last token, which is how
    LLaVA ends a picture (`image_newline`). Anything else becomes the flattest near-square grid that holds all tokens;
    its last row may be short. Ours; pass the real grid where it is known.

    Args:
        tokens_per_frame (`int`):
            Number of tokens of one frame, at least 1.

    Returns:
        `tuple[int, int]`: rows and columns, in reading order.

    Example:

    >>> [infer_grid_size(n) for n in (16, 17, 6, 7, 1, 2)]
    [(4, 4), (4, 4), (2, 3), (2, 4), (1, 1), (1, 2)]
    """
    root = math.isqrt(tokens_per_frame)
    if root * root == tokens_per_frame:
        return root, root
    root_without_newline = math.isqrt(tokens_per_frame - 1)
    if root_without_newline > 1 and root_without_newline**2 == tokens_per_frame - 1:
        return root_without_newline, root_without_newline
    return root, math.ceil(tokens_per_frame / root)


def token_places(grid_sizes: Sequence[tuple[int, int]], tokens_per_frame: int, device: torch.device) -> torch.Tensor:
    """
    Row and column of every token as fractions of the picture: cell centres, so any grid covers the same square.

    Args:
        grid_sizes (sequence of `(rows, columns)`):
            Grid of each video, tokens in reading order.
        tokens_per_frame (`int`):
            Tokens per frame, padding included. Tokens beyond `rows * columns` belong to no cell and get place (1, 1).
        device (`torch.device`):
            Where the result is needed.

    Returns:
        `torch.Tensor` of shape `(batch, tokens_per_frame, 2)`, float32, in [0, 1].

    Example:

    >>> token_places([(1, 2)], 3, torch.device("cpu")).tolist()
    [[[0.5, 0.25], [0.5, 0.75], [1.0, 1.0]]]
    """
    rows, columns = torch.tensor(grid_sizes, device=device).view(-1, 2, 1).unbind(1)  # (batch, 1) each
    index = torch.arange(tokens_per_frame, device=device)
    places = torch.stack([(index // columns + 0.5) / rows, (index % columns + 0.5) / columns], dim=-1)
    return places.masked_fill((index >= rows * columns).unsqueeze(-1), 1.0)


def frame_times(timestamps: torch.Tensor | None, frame_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Time of every frame, in seconds and as a fraction of the video.

    A frame stands for the interval around it: of T frames at equal distances, frame i is at (i + 0.5) / T, whatever
    the distance in seconds. Unequal distances keep their proportions.

    Args:
        timestamps (`torch.Tensor` of shape `(batch, num_frames)`, *optional*):
            Seconds. Without them frame i counts as second i.
        frame_mask (`torch.Tensor` of shape `(batch, num_frames)`):
            True where the frame exists.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: seconds and fractions in [0, 1], both `(batch, num_frames)`, float32; 0
        for frames that do not exist.

    Example:

    >>> seconds, fractions = frame_times(torch.tensor([[3.0, 5.0, 7.0, 9.0]]), torch.ones(1, 4, dtype=torch.bool))
    >>> fractions.tolist()
    [[0.125, 0.375, 0.625, 0.875]]
    """
    index = frame_mask.cumsum(dim=1) - 1
    count = frame_mask.sum(dim=1, keepdim=True)
    fractions = (index + 0.5) / count
    if timestamps is None:
        seconds = index.float()
    else:
        seconds = timestamps.float()
        first = seconds.masked_fill(~frame_mask, torch.inf).amin(dim=1, keepdim=True)
        last = seconds.masked_fill(~frame_mask, -torch.inf).amax(dim=1, keepdim=True)
        span = last - first
        interval = span / (count - 1).clamp(min=1)
        by_seconds = (seconds - first + interval / 2) / (span + interval)
        # one frame, or all at the same second: there is no distance to go by, only the order
        fractions = torch.where(span > 0, by_seconds, fractions)
    return seconds.masked_fill(~frame_mask, 0.0), fractions.masked_fill(~frame_mask, 0.0).float()


def positions_of(fractions: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """
    Time, row and column of every token, `(batch, num_frames, tokens_per_frame, 3)` in [0, 1].

    Args:
        fractions (`torch.Tensor` of shape `(batch, num_frames)`):
            Of [`frame_times`].
        places (`torch.Tensor` of shape `(batch, tokens_per_frame, 2)`):
            Of [`token_places`].
    """
    time = fractions[:, :, None, None].expand(-1, -1, places.shape[1], -1)
    return torch.cat([time, places.unsqueeze(1).expand(-1, fractions.shape[1], -1, -1)], dim=-1)


def sinusoidal_embedding(values: torch.Tensor, size: int, wavelengths: tuple[float, float]) -> torch.Tensor:
    """
    Sines and cosines of `values` at wavelengths spread geometrically between two bounds; works for any value.

    Args:
        values (`torch.Tensor` of any shape):
            Positions, float32.
        size (`int`):
            Width of the embedding, any number (an odd one lacks the last cosine).
        wavelengths (`tuple[float, float]`):
            Shortest and longest wavelength, in the unit of `values`.

    Returns:
        `torch.Tensor` of shape `(*values.shape, size)`, float32.

    Example:

    >>> sinusoidal_embedding(torch.tensor([0.0]), 4, (1.0, 2.0)).tolist()
    [[0.0, 0.0, 1.0, 1.0]]
    """
    num_wavelengths = (size + 1) // 2
    shortest, longest = wavelengths
    exponents = torch.linspace(
        1.0, 0.0, num_wavelengths, device=values.device
    )  # longest first: it is the one kept if alone
    lengths = shortest * (longest / shortest) ** exponents
    angles = values.unsqueeze(-1) * (2 * math.pi / lengths)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :size]
