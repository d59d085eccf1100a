"""
SVR of a video that comes piece by piece: what `LinearVideoTokenizer.refine` makes of it, without holding its tokens.

How far a token must be from another to be new follows from the contrast of the whole video, and from how much is new
in it. So the frames are seen once, and their tokens twice more: as they come, they go to a temporary file, and the
scores, which are one number per token, stay in memory. Then the file is read to count what is new at every threshold,
and once more to find the runs at the one that was chosen, and average over them. Where a frame has more tokens than
the video gets, four passes more choose cells (`whole_cells`). Ours, not the paper's.
"""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import LinVTInputError
from .checks import check_timestamps
from .keyframes import (
    FRAMES_PER_CHUNK,
    NOVELTY_LEVELS,
    ContrastSums,
    NewTokens,
    NoveltyScan,
    Runs,
    RunSums,
    average_runs,
    choose_level,
    gather_runs,
)
from .linear_video_tokenizer import LinearVideoTokenizer
from .places import frame_times, positions_of, token_places
from .selection import RefinedVideo
from .significance import ScoringStream
from .whole_cells import CellSearch, with_whole_cells


# Frame tokens, and frames, up to which a video is refined as a whole, in memory: 32 frames of 1,024 tokens.
TOKENS_AT_ONCE, FRAMES_AT_ONCE = 1 << 15, 256


class TensorSpool:
    """
    Tensors that are written one after the other to a temporary file, and read again in the same order.

    The file has no name, and is gone when the spool is, however the process ends.

    Example:

    >>> spool = TensorSpool()
    >>> spool.append(torch.tensor([1.0, 2.0])), spool.append(torch.tensor([3.0]))
    (None, None)
    >>> [tensor.tolist() for tensor in spool]
    [[1.0, 2.0], [3.0]]
    """

    def __init__(self) -> None:
        self._shapes: list[tuple[int, ...]] = []
        self._num_bytes = 0
        self._dtype, self._device = torch.float32, torch.device("cpu")
        try:
            self._file = tempfile.TemporaryFile(prefix="linvt_tokens_")  # noqa: SIM115 (lives as long as the spool)
        except OSError as error:
            raise LinVTInputError(_no_room(error, 0)) from error

    def append(self, tensor: torch.Tensor) -> None:
        """
        Write a tensor; all are of one type.

        Raises:
            `LinVTInputError`: the disk is full.
        """
        if not tensor.numel():
            return
        self._dtype, self._device = tensor.dtype, tensor.device
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        try:
            self._file.write(data.data)
            self._file.flush()
        except OSError as error:
            raise LinVTInputError(_no_room(error, self._num_bytes + len(data))) from error
        self._shapes.append(tuple(tensor.shape))
        self._num_bytes += len(data)

    def __iter__(self) -> Iterator[torch.Tensor]:
        self._file.seek(0)
        for shape in self._shapes:
            count = torch.Size(shape).numel() * self._dtype.itemsize
            data = bytearray(self._file.read(count))
            if len(data) != count:
                raise LinVTInputError("The temporary file of frame tokens was cut off. Is the disk full or failing?")
            yield torch.frombuffer(data, dtype=self._dtype).view(shape).to(self._device)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _no_room(error: OSError, num_bytes: int) -> str:
    return (
        f"The frame tokens of a long video are kept in a temporary file, and after {num_bytes} bytes it cannot be "
        f"written ({error.strerror or error}). Make room in {tempfile.gettempdir()}, set TMPDIR to a folder with "
        "room, or sample fewer frames."
    )


class VideoRefiner:
    """
    SVR of one video, fed frame after frame.

    Up to `tokens_at_once` tokens and 256 frames, and for tokenizers that do not start from key frames, it holds them
    and refines the video as a whole. Beyond, the memory it takes does not grow with the video but for a few numbers
    per token, and the result is the same up to rounding. For use without gradient.

    Args:
        tokenizer ([`LinearVideoTokenizer`]): the tokenizer.
        timestamps (`torch.Tensor` of shape `(num_frames,)`, or `int`): seconds of all frames that will come, or only
            how many they are.
        tokens_at_once (`int`, *optional*): see above; by default 32,768.

    Example:

    >>> tokenizer = LinearVideoTokenizer(dim=16, num_video_tokens=4, bottleneck_size=8, num_heads=2).eval()
    >>> video = torch.randn(40, 6, 16)
    >>> with VideoRefiner(tokenizer, torch.arange(40.0), tokens_at_once=0) as refiner:
    ...     for frames in video.split(9):
    ...         refiner.feed(frames, grid_size=(2, 3))
    ...     refined, _ = refiner.finish()
    >>> whole = tokenizer.refine(video[None], timestamps=torch.arange(40.0)[None], grid_sizes=[(2, 3)])
    >>> torch.allclose(refined.kept_tokens, whole.kept_tokens, atol=1e-5)
    True
    """

    def __init__(
        self,
        tokenizer: LinearVideoTokenizer,
        timestamps: torch.Tensor | int,
        tokens_at_once: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.tokens_at_once = TOKENS_AT_ONCE if tokens_at_once is None else tokens_at_once
        self.timestamps = None if isinstance(timestamps, int) else timestamps
        self.num_frames = timestamps if isinstance(timestamps, int) else len(timestamps)
        self.num_seen = 0
        self.tokens_per_frame = 0
        self.grid_size: tuple[int, int] | None = None
        self._whole: list[Sequence[torch.Tensor]] = []
        self._long: _LongVideo | None = None

    def __enter__(self) -> "VideoRefiner":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._long is not None:
            self._long.close()

    @torch.no_grad()
    def feed(
        self, tokens: torch.Tensor, layers: Sequence[torch.Tensor] = (), grid_size: tuple[int, int] | None = None
    ) -> None:
        """
        The next frames.

        Args:
            tokens (`torch.Tensor` of shape `(num_frames, tokens_per_frame, dim)`): their tokens.
            layers: tensors of that shape, which are averaged as the tokens are.
            grid_size (`tuple[int, int]`, *optional*): rows and columns of a frame's tokens, told with the first.

        Raises:
            `LinVTInputError`: more frames than times, another number of tokens than before, or a full disk.
        """
        parameter = next(self.tokenizer.parameters())
        # offloaded weights come where the tokens are
        device = tokens.device if parameter.is_meta else parameter.device
        tokens, *layers = (one.to(device, parameter.dtype) for one in (tokens, *layers))
        if self.num_seen == 0:
            self.tokens_per_frame, self.grid_size = tokens.shape[1], grid_size
            if grid_size is not None and self._is_long():
                times = None if self.timestamps is None else self.timestamps.to(tokens.device)[None]
                self._long = _LongVideo(self.tokenizer, tokens[None], len(layers), self.num_frames, times, grid_size)
        if tokens.shape[1] != self.tokens_per_frame or self.num_seen + len(tokens) > self.num_frames:
            raise LinVTInputError(
                f"Frames {self.num_seen} to {self.num_seen + len(tokens)} have {tokens.shape[1]} tokens each, in a "
                f"video of {self.num_frames} frames of {self.tokens_per_frame}. Feed the frames of one video."
            )
        self.num_seen += len(tokens)
        if self._long is None:
            self._whole.append((tokens, *layers))
            return
        for pieces in zip(*(one.split(FRAMES_PER_CHUNK) for one in (tokens, *layers)), strict=True):
            self._long.feed(*(one[None] for one in pieces))

    def _is_long(self) -> bool:
        """Whether the video is too long to be held, and this tokenizer can do without."""
        scorer = self.tokenizer.scorer
        # weights that are elsewhere are fetched for a forward only
        is_in_memory = not any(weight.is_meta for weight in self.tokenizer.parameters())
        can_stream = scorer.starts_from_keyframes and self.tokenizer.selection != "none" and is_in_memory
        num_tokens = self.num_frames * self.tokens_per_frame
        return can_stream and (num_tokens > self.tokens_at_once or self.num_frames > FRAMES_AT_ONCE)

    @torch.no_grad()
    def finish(self) -> tuple[RefinedVideo, list[torch.Tensor]]:
        """
        The refined video, and the layers averaged over its slots, `(1, num_kept, dim)` each.

        Raises:
            `LinVTInputError`: fewer frames came than there are times.
        """
        if self.num_seen != self.num_frames:
            raise LinVTInputError(
                f"{self.num_seen} of {self.num_frames} frames came. The video broke off; read it again."
            )
        if self._long is not None:
            return self._long.refine()
        parts = zip(*self._whole, strict=True)
        tokens, *layers = (one[0] if len(one) == 1 else torch.cat(one) for one in parts)
        self._whole = []
        times = None if self.timestamps is None else self.timestamps.to(tokens.device)[None]
        grids = None if self.grid_size is None else [self.grid_size]
        refined = self.tokenizer.refine(tokens[None], timestamps=times, grid_sizes=grids)
        return refined, [refined.average(layer[None]) for layer in layers]


class _LongVideo:
    """
    The tokens of a video in temporary files, and what is summed up of them while they come.

    Args:
        tokenizer ([`LinearVideoTokenizer`]): the tokenizer.
        tokens (`torch.Tensor` of shape `(1, num_frames, tokens_per_frame, dim)`): the first of them.
        num_layers (`int`): deeper layers that come beside the tokens.
        num_frames (`int`): of the video.
        times (`torch.Tensor` of shape `(1, num_frames)`, *optional*): their seconds.
        grid_size (`tuple[int, int]`): rows and columns.
    """

    def __init__(
        self,
        tokenizer: LinearVideoTokenizer,
        tokens: torch.Tensor,
        num_layers: int,
        num_frames: int,
        times: torch.Tensor | None,
        grid_size: tuple[int, int],
    ) -> None:
        every_frame = torch.ones(1, num_frames, dtype=torch.bool, device=tokens.device)
        check_timestamps(times, every_frame.unsqueeze(2))
        self.tokenizer, self.grid_size = tokenizer, grid_size
        self.sizes = (tokenizer.num_video_tokens, tokenizer.num_kept_tokens)
        self.places = token_places([grid_size], tokens.shape[2], tokens.device)
        self.seconds, self.fractions = frame_times(times, every_frame)
        self.sums, self.scoring = ContrastSums(tokens), ScoringStream(tokenizer.scorer)
        self.picture = torch.zeros_like(tokens[:, 0], dtype=self.sums.dtype)  # sum over all frames
        self.num_seen = 0
        self.scores: list[torch.Tensor] = []
        self.spools: list[TensorSpool] = []  # tokens, states, and the deeper layers
        try:
            for _ in range(2 + num_layers):
                self.spools.append(TensorSpool())
        except LinVTInputError:
            self.close()
            raise

    def close(self) -> None:
        """Give the files back."""
        for spool in self.spools:
            spool.close()

    def feed(self, tokens: torch.Tensor, *layers: torch.Tensor) -> None:
        """Sum up, score, and write the next frames, each `(1, num_frames, tokens_per_frame, dim)`."""
        now = slice(self.num_seen, self.num_seen + tokens.shape[1])
        self.num_seen = now.stop
        self.sums.feed(tokens)
        for frame in tokens.unbind(1):  # one by one, as where the whole video is there
            self.picture = self.picture + frame.to(self.sums.dtype)
        is_last = now.stop == self.seconds.shape[1]
        hidden, scores = self.scoring.feed(tokens, self.seconds[:, now], self.fractions[:, now], self.places, is_last)
        if scores is not None:
            self.scores.append(scores)
        for spool, values in zip(self.spools, (tokens, hidden, *layers), strict=True):
            spool.append(values)

    def refine(self) -> tuple[RefinedVideo, list[torch.Tensor]]:
        """As [`VideoRefiner.finish`]."""
        new, scores = self._find_new()
        log_significance = F.logsigmoid(self.tokenizer.scorer.score_new_tokens(new, scores))
        mask = torch.ones_like(new.is_new)
        runs = gather_runs(new, log_significance.exp(), mask, *self.sizes)
        tokens, hidden, *layers = (self._average(spool, runs) for spool in self.spools)
        places = average_runs(positions_of(self.fractions, self.places), runs.slots, runs.weights, hidden.shape[1])
        return RefinedVideo.of_runs(runs, tokens, hidden, places, log_significance.exp()), layers

    def _find_new(self) -> tuple[NewTokens, torch.Tensor | None]:
        """What is new, and the learned scores: one pass over the tokens chooses the threshold, one more applies it."""
        unit = self.sums.contrast()
        scores = torch.cat(self.scores, dim=1) if self.scores else None
        allowance = self.tokenizer.scorer.allowance(scores)
        num_frames, places = self.num_seen, self.places.shape[1]
        num_new = torch.zeros(1, places, len(NOVELTY_LEVELS), dtype=torch.long, device=unit.device)
        for _, is_new in self._scan(NoveltyScan(unit), allowance):
            num_new += is_new.sum(1)
        whole = torch.ones(1, places, dtype=torch.bool, device=unit.device)
        level, lattices = choose_level(num_new, whole, [self.grid_size], *self.sizes)
        threshold = NOVELTY_LEVELS[int(level)]
        found = zip(*self._scan(NoveltyScan(unit, (threshold,)), allowance), strict=True)
        novelty, is_new = (torch.cat(parts, dim=1).squeeze(-1) for parts in found)
        new = NewTokens(novelty, is_new, novelty.new_tensor([threshold]), lattices)
        if places <= self.tokenizer.num_video_tokens:
            return new, scores
        search = CellSearch.of_videos(
            lambda scan: self._scan(scan, allowance),
            unit,
            pictures=self.picture / num_frames,
            whole=whole,
            grid_sizes=[self.grid_size],
            num_video_tokens=self.sizes[0],
            num_kept=level.new_full((1,), max(self.sizes[1], num_frames)),
            allowance=allowance,
        )
        return with_whole_cells(new, torch.zeros_like(level), search.search()), scores

    def _scan(self, scan: NoveltyScan, allowance: torch.Tensor | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        start = 0
        for tokens in self.spools[0]:
            now = slice(start, start := start + tokens.shape[1])
            yield scan.feed(tokens, None, None if allowance is None else allowance[:, now])

    @staticmethod
    def _average(spool: TensorSpool, runs: Runs) -> torch.Tensor:
        parts = iter(spool)
        first = next(parts)
        sums = RunSums(first, runs.slots, runs.weights, runs.starts.shape[1])
        sums.feed(first)
        for values in parts:
            sums.feed(values)
        return sums.sums.to(first.dtype)


__all__ = ["FRAMES_AT_ONCE", "TOKENS_AT_ONCE", "TensorSpool", "VideoRefiner"]
