"""
The times of video tokens, written among them: `add_timestamps="tokens"`.

Which video token begins when is known behind LinVT only, and the prompt is written before it. So the processor leaves
`TIME_PLACES` more places in every video and tells what each frame's time is in tokens; the model writes the times in
front of the video tokens where it goes on most, and passes over the places that are left. Ours, not the paper's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..errors import LinVTInputError, in_our_words, shown
from ..tokenizer.weights import FactoredWeights
from ..video.frames import VideoFrames
from .base_parts import HasBaseProcessor


TIME_PLACES = 32  # most tokens that the times of one video take
TIME_IDS = "video_time_ids"  # `(num_videos, most frames of a video, most tokens of a time)`, -1 where there are none
_EMPTY = -1


class WritesTimes(HasBaseProcessor):
    """What [`LinVTProcessor`] does with the times of frames."""

    def kind_of_times(self, given: bool | str | None) -> bool | str:
        """What a call writes: `False`, `True` (a line behind each video) or `"tokens"`, by itself or as always."""
        return self.add_timestamps if given is None else checked_kind(given)

    def num_places(self, kind: bool | str) -> int:
        """Visual tokens that a video has in a prompt, with the places for times."""
        return self.num_video_tokens + (TIME_PLACES if kind == "tokens" else 0)

    def time_ids(self, times: Sequence[Any]) -> torch.Tensor:
        """
        The times of frames as the language model reads them.

        Args:
            times: of each video the seconds of its frames. They are written as whole seconds where frames are a
                second or more apart, else with one decimal.

        Returns:
            `torch.LongTensor` of shape `(num_videos, most frames of a video, most tokens of a time)`, -1 where nothing
            is.
        """
        words = [_in_words([float(one) for one in seconds]) for seconds in times]
        flat = [word for one in words for word in one]
        refused = "The tokenizer refused the times of frames"
        ids = iter(in_our_words(refused, self.tokenizer, flat, add_special_tokens=False)["input_ids"])
        rows = [[next(ids) for _ in one] for one in words]
        longest = max((len(one) for row in rows for one in row), default=1)
        made = torch.full((len(rows), max(map(len, rows), default=1), longest), _EMPTY)
        for video, row in enumerate(rows):
            for frame, one in enumerate(row):
                made[video, frame, : len(one)] = torch.tensor(one)
        return made

    def times_of(self, videos: Sequence[VideoFrames]) -> list[Any]:
        """The seconds of what the model sees as frames, of each video."""
        return [self.times_of_steps(video.timestamps) for video in videos]

    times_of_steps: Any  # of ReadsVideos


def checked_kind(given: Any) -> bool | str:
    """
    `add_timestamps` as it was given; `"frames"` is another name of `True`.

    Raises:
        LinVTInputError: anything else than these, `False` and `"tokens"`.
    """
    if given is True or given is False or given == "tokens":
        return given
    if given == "frames":
        return True
    raise LinVTInputError(
        f"add_timestamps={shown(given)}: give False, True (or 'frames': a line with the times of all frames behind "
        "each video), or 'tokens' (times among the video tokens)."
    )


def _in_words(seconds: Sequence[float]) -> list[str]:
    apart = (seconds[-1] - seconds[0]) / (len(seconds) - 1) if len(seconds) > 1 else 1.0
    return [f"{one:.0f}" if apart >= 1.0 else f"{one:.1f}" for one in seconds]


def with_times(
    tokens: torch.Tensor, weights: FactoredWeights, time_ids: torch.Tensor, embed: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Video tokens with times among them.

    A time stands in front of the first video token and of those that begin more frames later than the one before
    them, the largest steps first, as many as fit in `TIME_PLACES`. A video token begins where the runs that it is the
    average of begin, on the average.

    Args:
        tokens (`torch.Tensor` of shape `(num_videos, M, D)`).
        weights ([`FactoredWeights`]): of the same videos.
        time_ids (`torch.LongTensor`): what [`WritesTimes.time_ids`] returned.
        embed: the language model's token embeddings.

    Returns:
        Visual tokens `(num_videos, M + TIME_PLACES, D)`, and which of them are to be seen, of shape `(num_videos, M +
        TIME_PLACES)`.
    """
    if len(time_ids) != len(tokens):
        raise LinVTInputError(
            f"{TIME_IDS} has {len(time_ids)} videos, the prompts have {len(tokens)}. Pass what the processor returned."
        )
    begins, all_ids = first_frames(weights).tolist(), time_ids.tolist()
    rows, used = [], tokens.new_zeros(len(tokens), tokens.shape[1] + TIME_PLACES, dtype=torch.bool)
    for video, ids in enumerate(all_ids):
        seen = weights.used[video].nonzero().squeeze(1).tolist()
        frames = [begins[video][one] for one in seen]
        words = [[token for token in one if token != _EMPTY] for one in ids]
        if max(frames) >= len(words) or not all(words[frame] for frame in frames):
            raise LinVTInputError(
                f"{TIME_IDS} has times of {sum(map(bool, words))} frames of video {video + 1}, which has more. Read "
                "the video and write its prompt with the same sampling."
            )
        marked = marked_tokens(frames, [len(one) for one in words])
        order, written = [], []
        for place, (token, frame) in enumerate(zip(seen, frames, strict=True)):
            if place in marked:
                order += range(tokens.shape[1] + len(written), tokens.shape[1] + len(written) + len(words[frame]))
                written += words[frame]
            order.append(token)
        used[video, : len(order)] = True
        order += [seen[-1]] * (used.shape[1] - len(order))  # passed over
        device = next(embed.parameters()).device
        embedded = embed(torch.tensor(written, device=device)).to(tokens)
        rows.append(torch.cat([tokens[video], embedded])[order])
    return torch.stack(rows), used


def first_frames(weights: FactoredWeights) -> torch.Tensor:
    """The frame that each video token of each video begins with, `(num_videos, M)`: the nearest to the average."""
    with torch.no_grad():
        first = (weights.kept_indices.clamp(min=0) // weights.tokens_per_frame).float()
        return torch.einsum("vmk,vk->vm", weights.kept().float(), first).round().long()


def marked_tokens(frames: Sequence[int], lengths: Sequence[int]) -> set[int]:
    """Places of the video tokens that get a time, which begin with `frames`; `lengths` are those of frames' times."""
    steps = [now - before for before, now in zip([-len(lengths), *frames], frames, strict=False)]
    marked: set[int] = set()
    left = TIME_PLACES
    for place in sorted((one for one, step in enumerate(steps) if step > 0), key=lambda one: -steps[one]):
        left -= lengths[frames[place]]
        if left < 0:
            break
        marked.add(place)
    return marked


__all__ = [
    "TIME_IDS",
    "TIME_PLACES",
    "WritesTimes",
    "checked_kind",
    "first_frames",
    "marked_tokens",
    "with_times",
]
