"""
The evidence of an answer, as numbers and as a picture: which frame and which place it depended on.

Two things are told apart. *Weights* are W itself, summed over frames, places or video tokens: what the language model
was given. The *attribution* is what of it the answer depended on: the answer's log-probability, less what it would be
with the mean frame token in place of every video token, shared among the frame tokens by integrated gradients through
W (`model/attribution.py`). It is signed, in nats: what is negative speaks against the answer.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..errors import LinVTInputError
from ..files import replacing
from ..summaries import short_repr
from .answer_sheet import AnswerSheet
from .moments import Moment, moments_of
from .notebook import ShownInNotebooks
from .weights_sheet import WeightsSheet


WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)


class FrameShare(NamedTuple):
    """
    A frame, its time in seconds, its share of all weight (the shares of all frames sum to 1), and what the answer owes
    to it in nats where there is an attribution.
    """

    index: int
    seconds: float
    weight: float
    attribution: float | None = None


@dataclass
class VideoEvidence(ShownInNotebooks):
    """
    What one answer depended on, and where its video tokens came from.

    Args:
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`, *optional*):
            The sampled frames, uint8 RGB; None where they were not kept, and then nothing can be drawn.
        timestamps (`np.ndarray` of shape `(num_frames,)`):
            Seconds of each frame; NaN where they are not known.
        kept_indices (`np.ndarray` of shape `(num_kept,)`):
            The frame token of every slot, or the first of its run, ascending: frame `index // tokens_per_frame`, place
            `index % tokens_per_frame`.
        kept_weights (`np.ndarray` of shape `(num_video_tokens, num_kept)`):
            Weight of every slot in every video token, float32; rows sum to 1.
        significance (`np.ndarray` of shape `(num_frames, tokens_per_frame)`):
            Significance of every frame token in [0, 1], before any question was known.
        grid_size (`tuple[int, int]`):
            Rows and columns of a frame's tokens, in reading order. Tokens beyond them (a newline token) have no place.
        question (`str`, *optional*), answer (`str`, *optional*), source (`str`, *optional*):
            What was asked about which video, and what came out.
        region (`tuple[float, float, float, float]`, *optional*):
            Top, left, bottom and right of the part of a frame that the grid covers, as fractions of the frame: less
            than the whole where the base's image processor crops.
        is_exact (`bool`, *optional*, defaults to `True`):
            False for models with `aggregation="nonlinear"`, whose video tokens are not `W @ frame_tokens`.
        run_slots, run_weights (`np.ndarray` of shape `(num_frames * tokens_per_frame,)`, *optional*):
            For every frame token the slot it is averaged into and its weight there, which sums to 1 in every slot; by
            default every kept token is a slot of its own.
        attribution (`np.ndarray` of shape `(num_kept,)`, *optional*):
            What the answer owes to every slot, signed, in nats. Shared among the frame tokens of a slot by run weight.
        log_probs (`tuple[float, float]`, *optional*):
            Log-probability of the answer with the video, and with the mean frame token in place of every video token.
            The attribution sums to the difference, but for the error of the integral.
        no_attribution (`str`, *optional*):
            Why there is no attribution, where one was asked for.
        frames_per_step (`int`, *optional*, defaults to 1):
            Frames that the base merges into one (`frame_path="video"`). With more than one, "frames" are such steps of
            time here, each shown by its first frame.

    Raises:
        `LinVTInputError`: if the parts do not fit together.

    Example:

    >>> evidence = VideoEvidence(
    ...     frames=np.zeros((2, 8, 8, 3), dtype=np.uint8),
    ...     timestamps=np.array([0.5, 1.5]),
    ...     kept_indices=np.array([1, 4]),
    ...     kept_weights=np.array([[0.25, 0.75]], dtype=np.float32),
    ...     significance=np.ones((2, 4), dtype=np.float32),
    ...     grid_size=(2, 2),
    ... )
    >>> evidence.top_frames(1)
    [FrameShare(index=1, seconds=1.5, weight=0.75, attribution=None)]
    >>> evidence.place_weights[0].tolist()
    [[0.0, 0.25], [0.0, 0.0]]
    """

    frames: np.ndarray | None
    timestamps: np.ndarray
    kept_indices: np.ndarray
    kept_weights: np.ndarray
    significance: np.ndarray
    grid_size: tuple[int, int]
    question: str | None = None
    answer: str | None = None
    source: str | None = None
    region: tuple[float, float, float, float] = WHOLE_FRAME
    is_exact: bool = True
    run_slots: np.ndarray = None  # type: ignore[assignment] every token for itself, in __post_init__
    run_weights: np.ndarray = None  # type: ignore[assignment]
    attribution: np.ndarray | None = None
    log_probs: tuple[float, float] | None = None
    no_attribution: str | None = None
    frames_per_step: int = 1

    __repr__ = short_repr  # numbers by the thousand say nothing

    def __post_init__(self) -> None:
        num_frames, tokens_per_frame = self.significance.shape
        if self.run_slots is None or self.run_weights is None:
            self.run_slots = np.zeros(self.significance.size, dtype=np.int64)
            self.run_weights = np.zeros(self.significance.size, dtype=np.float32)
            if len(self.kept_indices) and 0 <= self.kept_indices.max() < self.significance.size:
                self.run_slots[self.kept_indices] = np.arange(len(self.kept_indices))
                self.run_weights[self.kept_indices] = 1.0
        rows, columns = self.grid_size
        fits = (
            (self.frames is None or (self.frames.ndim == 4 and len(self.frames) == num_frames))
            and len(self.timestamps) == num_frames > 0
            and self.kept_weights.shape[1:] == self.kept_indices.shape
            and rows * columns <= tokens_per_frame
            and len(self.kept_indices) > 0
            and self.kept_indices.min() >= 0
            and self.kept_indices.max() < num_frames * tokens_per_frame
            and self.run_slots.shape == self.run_weights.shape == (self.significance.size,)
            and (self.attribution is None or self.attribution.shape == self.kept_indices.shape)
        )
        if not fits:
            raise LinVTInputError(
                f"These are not the parts of one video: frames {_shape(self.frames)}, time stamps "
                f"{self.timestamps.shape}, significance {self.significance.shape}, grid {self.grid_size}, kept tokens "
                f"{self.kept_indices.shape}, weights {self.kept_weights.shape}, runs {self.run_slots.shape} and "
                f"{self.run_weights.shape}, attribution {_shape(self.attribution)}. Pass what one call returned."
            )

    @classmethod
    def from_output(
        cls,
        output: Any,
        index: int,
        frames: np.ndarray | None,
        timestamps: np.ndarray,
        grid_size: tuple[int, int],
        tokens_per_frame: int | None = None,
        attribution: Any = None,
        **about: Any,
    ) -> "VideoEvidence":
        """
        The evidence of one video out of a batch.

        Args:
            output ([`LinearVideoTokenizerOutput`]):
                What the linear video tokenizer returned. Shorter videos of its batch are padded; the padding is left
                out here.
            index (`int`):
                Position of the video in that batch.
            frames (`np.ndarray` of shape `(num_frames, height, width, 3)`), timestamps (`np.ndarray`):
                The sampled frames and their seconds.
            grid_size (`tuple[int, int]`):
                Rows and columns of a frame's tokens.
            tokens_per_frame (`int`, *optional*):
                Tokens of one frame of this video; those of the batch if not given.
            attribution (`torch.Tensor` of shape `(num_kept,)`, *optional*):
                Of the video's slots.
            about:
                `question`, `answer`, `source`, `region`, `log_probs`, `no_attribution`, `frames_per_step`.
        """
        weights = output.weights.select([index]).detach().to("cpu")
        padded, num_frames = weights.tokens_per_frame, len(timestamps)
        tokens_per_frame = padded if tokens_per_frame is None else tokens_per_frame
        filled = weights.kept_mask[0].numpy()
        frame, place = np.divmod(weights.kept_indices[0].numpy()[filled], padded)
        numbers = np.cumsum(filled) - 1  # of the filled slots alone
        unpadded = np.s_[:num_frames, :tokens_per_frame]
        slots, shares = (
            of_tokens[0].numpy().reshape(-1, padded)[unpadded].reshape(-1)
            for of_tokens in (weights.run_slots, weights.run_weights)
        )
        significance = output.significance[index].detach().float().cpu().numpy()
        return cls(
            frames=frames,
            timestamps=np.asarray(timestamps, dtype=np.float64),
            kept_indices=frame * tokens_per_frame + place,
            kept_weights=weights.kept()[0, weights.used[0]].float().numpy()[:, filled],
            significance=significance[unpadded],
            grid_size=grid_size,
            is_exact=weights.is_exact,
            run_slots=np.where(shares > 0, numbers[slots], 0),
            run_weights=shares.astype(np.float32),
            attribution=None if attribution is None else attribution.detach().float().cpu().numpy()[filled],
            **about,
        )

    # -- the numbers --

    @property
    def num_frames(self) -> int:
        """Frames sampled from the video, or steps of several frames; see `frames_per_step`."""
        return self.significance.shape[0]

    @property
    def counted_frames(self) -> str:
        """`num_frames` in words: "9 frames", or "5 steps of 2 frames"."""
        count, size = self.num_frames, self.frames_per_step
        several = "s" * (count > 1)
        return f"{count} frame{several}" if size == 1 else f"{count} step{several} of {size} frames"

    @property
    def tokens_per_frame(self) -> int:
        """Tokens that the base makes of one frame."""
        return self.significance.shape[1]

    @property
    def num_video_tokens(self) -> int:
        """Tokens the language model was given for the video."""
        return self.kept_weights.shape[0]

    @cached_property
    def frame_weights_per_token(self) -> np.ndarray:
        """Share of every frame in every video token, `(num_video_tokens, num_frames)`; rows sum to 1."""
        frames = np.arange(self.significance.size) // self.tokens_per_frame
        of_slots = np.zeros((len(self.kept_indices), self.num_frames), dtype=np.float32)
        np.add.at(of_slots, (self.run_slots, frames), self.run_weights)
        return self.kept_weights @ of_slots

    @cached_property
    def frame_weights(self) -> np.ndarray:
        """Share of every frame in all video tokens together, `(num_frames,)`; sums to 1."""
        return self._per_frame(self.kept_weights.mean(axis=0))

    @cached_property
    def place_weights(self) -> np.ndarray:
        """Share of every place in all video tokens together, `(num_frames, rows, columns)`; sums to 1 in all."""
        return self._to_grid(self._spread(self.kept_weights.mean(axis=0)))

    @cached_property
    def frame_attribution(self) -> np.ndarray | None:
        """What the answer owes to every frame, signed, in nats, `(num_frames,)`; None without an attribution."""
        return None if self.attribution is None else self._per_frame(self.attribution)

    @cached_property
    def place_attribution(self) -> np.ndarray | None:
        """What it owes to every place, signed, in nats, `(num_frames, rows, columns)`; None without an attribution."""
        return None if self.attribution is None else self._to_grid(self._spread(self.attribution))

    @cached_property
    def kept(self) -> np.ndarray:
        """True at the places whose tokens were kept, or begin a run, `(num_frames, rows, columns)`."""
        flat = np.zeros(self.significance.size, dtype=bool)
        flat[self.kept_indices] = True
        return self._to_grid(flat)

    @property
    def significance_map(self) -> np.ndarray:
        """Significance of every place, `(num_frames, rows, columns)`."""
        return self._to_grid(self.significance)

    def per_token(self, index: int) -> np.ndarray:
        """
        Weight of every place in one video token, `(num_frames, rows, columns)`.

        Raises:
            `LinVTInputError`: if there is no such video token.
        """
        if not 0 <= index < self.num_video_tokens:
            raise LinVTInputError(
                f"There is no video token {index}; they are numbered 0 to {self.num_video_tokens - 1}."
            )
        return self._to_grid(self._spread(self.kept_weights[index]))

    def top_frames(self, count: int = 5) -> list[FrameShare]:
        """
        The `count` frames that the answer owes most to, or without an attribution those with most weight, the first
        first; the earlier one where two have the same.
        """
        by = self.frame_weights if self.frame_attribution is None else self.frame_attribution
        owed = [None] * self.num_frames if self.frame_attribution is None else self.frame_attribution.tolist()
        order = np.argsort(-by, kind="stable")[: max(count, 0)]
        return [FrameShare(int(i), float(self.timestamps[i]), float(self.frame_weights[i]), owed[i]) for i in order]

    def moments(self, count: int = 3) -> list[Moment]:
        """
        When the answer's cause is seen: up to `count` stretches of the video, the strongest first.

        Of the attribution, or without one of the weights. See [`moments_of`]. None where the times are not known.
        """
        if np.isnan(self.timestamps).any():
            return []
        by = self.frame_weights if self.frame_attribution is None else self.frame_attribution
        return moments_of(by, self.timestamps, count)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """
        Condense anything that has one row per frame token, as the frame tokens were condensed.

        Args:
            values (`np.ndarray` of shape `(num_frames, tokens_per_frame, width)`):
                Values aligned with the frame tokens; the frame tokens themselves give the video tokens.

        Returns:
            `np.ndarray` of shape `(num_video_tokens, width)`.

        Raises:
            `LinVTInputError`: if the values are not aligned with the frame tokens.
        """
        if values.ndim != 3 or values.shape[:2] != self.significance.shape:
            raise LinVTInputError(
                f"Values must have one row per frame token, shape ({self.num_frames}, {self.tokens_per_frame}, "
                f"width), got {values.shape}."
            )
        averages = np.zeros((len(self.kept_indices), values.shape[-1]), dtype=np.result_type(values, np.float32))
        np.add.at(averages, self.run_slots, self.run_weights[:, None] * values.reshape(-1, values.shape[-1]))
        return self.kept_weights @ averages

    def to_dict(self, with_places: bool = False) -> dict[str, Any]:
        """
        Everything but the frames as plain numbers and strings that `json.dumps` takes.

        Args:
            with_places (`bool`, defaults to `False`):
                Add the maps of weights, of kept places and of the attribution, `num_frames * rows * columns` numbers
                each.
        """
        result = {
            "source": self.source,
            "question": self.question,
            "answer": self.answer,
            "num_frames": self.num_frames,
            "frames_per_step": self.frames_per_step,
            "tokens_per_frame": self.tokens_per_frame,
            "grid_size": list(self.grid_size),
            "num_kept_tokens": len(self.kept_indices),
            "num_video_tokens": self.num_video_tokens,
            "is_exact": self.is_exact,
            "timestamps": [float(seconds) for seconds in self.timestamps],
            "frame_weights": [float(weight) for weight in self.frame_weights],
            "kept_tokens_per_frame": self._kept_per_frame().tolist(),
            "frame_attribution": None if self.frame_attribution is None else self.frame_attribution.tolist(),
            "log_probs": None if self.log_probs is None else list(self.log_probs),
            "no_attribution": self.no_attribution,
        }
        if with_places:
            result["place_weights"] = self.place_weights.tolist()
            result["kept_places"] = self.kept.tolist()
            result["place_attribution"] = None if self.place_attribution is None else self.place_attribution.tolist()
        return result

    def _kept_per_frame(self) -> np.ndarray:
        return np.bincount(self.kept_indices // self.tokens_per_frame, minlength=self.num_frames)

    def _spread(self, of_slots: np.ndarray) -> np.ndarray:
        """What slots have, shared among their frame tokens, `(num_frames * tokens_per_frame,)`."""
        return of_slots[self.run_slots] * self.run_weights

    def _per_frame(self, of_slots: np.ndarray) -> np.ndarray:
        return self._spread(of_slots).reshape(self.num_frames, -1).sum(axis=1)

    def _to_grid(self, values: np.ndarray) -> np.ndarray:
        rows, columns = self.grid_size
        flat = values.reshape(self.num_frames, self.tokens_per_frame)[:, : rows * columns]
        return flat.reshape(self.num_frames, rows, columns)

    # -- the picture --

    def draw(self) -> Image.Image:
        """
        Draw the picture that `save` writes.

        Raises:
            `LinVTInputError`: the frames were not kept.
        """
        if self.frames is None:
            raise LinVTInputError(
                "This evidence has no frames to draw, only numbers: the video was given as it was encoded before. Ask "
                "about the video itself, or put its sampled frames in with dataclasses.replace(evidence, frames=...)."
            )
        return (WeightsSheet if self.attribution is None else AnswerSheet)(self).draw()

    def save(self, path: str | os.PathLike) -> None:
        """
        Draw what the answer depended on as a PNG of 800 pixels width.

        Above, a bar per frame over time: what the answer owes to the frame, and below the line what speaks against it.
        Then the frames it owes most to, large, each with a map of its places; then all frames as a strip. Maps show
        what speaks for the answer; the signed numbers are in `place_attribution`. Without an attribution the weights
        are drawn instead ([`WeightsSheet`]), and the picture says so. The file is written beside its place and moved
        there when whole.

        Args:
            path (`str` or `os.PathLike`):
                Where to, ending in `.png`; an existing file is replaced.

        Raises:
            `LinVTInputError`: if no PNG can be written there.
        """
        path = check_picture_path(path)
        try:
            with replacing(path) as partial:
                self.draw().save(partial, format="PNG")
        except OSError as error:
            raise LinVTInputError(f"{path} could not be written: {error.strerror or error}.") from error


def check_picture_path(path: str | os.PathLike) -> Path:
    """
    Refuse, before any work is done, a path that no PNG can be written to.

    Raises:
        `LinVTInputError`: for another ending than `.png`, or a folder that does not exist or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise LinVTInputError(f"{path} does not end in .png, and evidence is drawn as a PNG. Name it {path.stem}.png.")
    if path.is_dir():
        raise LinVTInputError(f"{path} is a folder. Give the name of a file in it.")
    if not path.parent.is_dir():
        raise LinVTInputError(f"{path} cannot be written: the folder {path.parent} does not exist. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise LinVTInputError(f"{path} cannot be written: no permission to write in {path.parent}.")
    return path


def evidence_of_video(
    output: Any, index: int, features: Any, video: Any, processor: Any, **about: Any
) -> VideoEvidence:
    """
    The evidence of one video out of a batch of encoded ones.

    Args:
        output, index, about: as of [`VideoEvidence.from_output`].
        features ([`VideoFeatures`]): the video as it was encoded.
        video ([`VideoFrames`], *optional*): its frames, or steps of time; without them nothing can be drawn.
        processor ([`LinVTProcessor`]): knows which part of a frame the model sees.
    """
    about["frames_per_step"] = processor.frames_per_step
    frames, times = None, features.timestamps
    if video is not None:
        frames, times = np.asarray(video.frames), video.timestamps
        about["region"] = region_seen(processor.image_processor, *frames.shape[1:3])
        about.setdefault("source", video.source)
    elif times is None:
        times = np.full(features.num_frames, np.nan)
    return VideoEvidence.from_output(
        output,
        index,
        frames=frames,
        timestamps=np.asarray(times, dtype=np.float64),
        grid_size=features.grid_size,
        tokens_per_frame=features.refined.tokens_per_frame,
        **about,
    )


def region_seen(image_processor: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """
    The part of a frame that an image processor passes on: all of it, or the middle where it crops.

    Args:
        image_processor: of the base model; `do_center_crop`, `size` and `crop_size` are looked at.
        height (`int`), width (`int`): of the frame in pixels.

    Returns:
        Top, left, bottom and right as fractions of the frame.

    Example (shortest edge to 336, then the middle 336 x 336, as CLIP does):

    >>> from types import SimpleNamespace
    >>> square = {"height": 336, "width": 336}
    >>> clip = SimpleNamespace(do_center_crop=True, size={"shortest_edge": 336}, crop_size=square)
    >>> region_seen(clip, height=100, width=200)
    (0.0, 0.25, 1.0, 0.75)
    """
    crop = getattr(image_processor, "crop_size", None)
    if not getattr(image_processor, "do_center_crop", False) or not crop:
        return WHOLE_FRAME
    size = getattr(image_processor, "size", None) or {}
    edge, box = _entry(size, "shortest_edge"), (_entry(size, "height"), _entry(size, "width"))
    resized: Any = (height, width)
    if getattr(image_processor, "do_resize", True) and edge:
        resized = (height * edge / min(height, width), width * edge / min(height, width))
    elif getattr(image_processor, "do_resize", True) and all(box):
        resized = box
    halves = [
        (_entry(crop, name) or length) / length / 2 for name, length in zip(("height", "width"), resized, strict=True)
    ]
    return 0.5 - halves[0], 0.5 - halves[1], 0.5 + halves[0], 0.5 + halves[1]


def _shape(values: np.ndarray | None) -> tuple[int, ...]:
    return () if values is None else values.shape


def _entry(size: Any, name: str) -> int | None:
    return size.get(name) if hasattr(size, "get") else getattr(size, name, None)
