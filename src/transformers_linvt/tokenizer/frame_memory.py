"""
The frames of a stream that need not end, in a memory that does not grow: what is least new is forgotten first.

A frame is forgotten into the one before it: the two are averaged, each by the number of frames it stands for. So what
is remembered is still a weighted average of what was seen, and a video token still one of frame tokens. Ours.
"""

from collections.abc import Sequence

import torch

from .keyframes import NOVELTY_LEVELS, ContrastSums, relative_distance


class FrameMemory:
    """
    At most so many frames of a stream, forgetting by significance.

    When one too many is there, every frame but the first is compared with the remembered frame before it, place by
    place. A token counts as new where the two are more than the noise floor of key frames apart: half of the contrast
    of all that was seen. The frame with the fewest new tokens goes into the frame before it, which keeps its time;
    among equal ones the one that differs least in all.

    So a frame stays for ever as long as fewer than `capacity` others bring as many new tokens; what repeats goes
    first, whenever it came.

    Args:
        capacity (`int`): frames that are kept, 2 or more.

    Example:

    >>> memory = FrameMemory(capacity=2)
    >>> for second, colour in enumerate([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]):
    ...     memory.push(torch.tensor([colour]), float(second))
    >>> memory.seconds, memory.counts  # what repeats went into what it repeats
    ([0.0, 2.0], [2, 2])
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.frames: list[tuple[torch.Tensor, ...]] = []  # tokens and deeper layers, (tokens_per_frame, dim) each
        self.seconds: list[float] = []
        self.counts: list[int] = []  # frames that each stands for
        self._distances: list[torch.Tensor] = []  # to the one before, (tokens_per_frame,)
        self._sums: ContrastSums | None = None

    def copy(self) -> "FrameMemory":
        """One that goes its own way."""
        other = FrameMemory(self.capacity)
        for name in ("frames", "seconds", "counts", "_distances"):
            setattr(other, name, list(getattr(self, name)))
        if self._sums is not None:
            other._sums = self._sums.copy()
        return other

    @torch.no_grad()
    def push(self, tokens: torch.Tensor, seconds: float, layers: Sequence[torch.Tensor] = ()) -> None:
        """
        Remember a frame.

        Args:
            tokens (`torch.Tensor` of shape `(tokens_per_frame, dim)`): its tokens.
            seconds (`float`): its time.
            layers: further tokens of the same shape, which are averaged as these are.
        """
        self._sums = ContrastSums(tokens[None]) if self._sums is None else self._sums
        self._sums.feed(tokens[None, None])
        self.frames.append((tokens, *layers))
        self.seconds.append(seconds)
        self.counts.append(1)
        self._distances.append(self._distance(len(self.frames) - 1))
        if len(self.frames) > self.capacity:
            self._forget(self._sums.contrast())

    def stacked(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The remembered frames `(num_frames, tokens_per_frame, dim)`, and their layers likewise."""
        tokens, *layers = (torch.stack(parts) for parts in zip(*self.frames, strict=True))
        return tokens, layers

    def _distance(self, place: int) -> torch.Tensor:
        """How far every token of a frame is from that of the frame before; the first is compared with nothing."""
        tokens = self.frames[place][0]
        return relative_distance(tokens, self.frames[place - 1][0] if place else tokens)

    def _forget(self, unit: torch.Tensor) -> None:
        distances = torch.stack(self._distances[1:]) / unit
        num_new = (distances > NOVELTY_LEVELS[0]).sum(dim=1)
        significance = num_new + distances.mean(dim=1) / (1 + distances.max())  # the second is below 1: it breaks ties
        place = 1 + int(significance.argmin())
        before = place - 1
        share = self.counts[place] / (self.counts[before] + self.counts[place])
        self.frames[before] = tuple(
            torch.lerp(old.float(), new.float(), share).to(old.dtype)
            for old, new in zip(self.frames[before], self.frames[place], strict=True)
        )
        self.counts[before] += self.counts[place]
        for kept in (self.frames, self.seconds, self.counts, self._distances):
            del kept[place]
        for changed in (before, place):
            if changed < len(self.frames):
                self._distances[changed] = self._distance(changed)


__all__ = ["FrameMemory"]
