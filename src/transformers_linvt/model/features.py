"""One video after SVR: everything about it that no question changes, in memory or in a safetensors file."""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn import functional

from ..errors import LinVTInputError
from ..evidence.notebook import html_of, png_of, strip_of_maps
from ..files import replacing
from ..summaries import short_repr
from ..tokenizer.selection import RefinedVideo
from .digests import digest_of, digest_of_weights


FEATURES_SUFFIX = ".safetensors"

_FORMAT = "linvt-video-features-3"
_CONTAINERS = ("tensor", "list", "tuple")
_ABOUT, _DIGEST = "about.", "digest"
_SLACK = 1e-3  # by which a number may leave its range in half precision


@dataclass(frozen=True)
class FeatureOrigin:
    """
    What features were made from; see `digest_of_model` and `VideoDigest`.

    Attributes:
        model (`str`, *optional*): digest of the weights that made them; None where those could not be read.
        video (`str`): digest of the sampled frames as the processor gave them, and of their times.
    """

    model: str | None
    video: str


@dataclass
class VideoFeatures:
    """
    A video that was decoded, encoded and refined once, to be asked many questions.

    Attributes:
        refined ([`RefinedVideo`]): kept tokens, their places and significance; batch of one, or of several (`stack`).
        deepstack (`list` of `torch.Tensor` of shape `(batch, k, D)`): the base's deeper tokens, kept alike.
        container (`str`): how the base packs visual tokens.
        timestamps (`torch.Tensor` of shape `(num_frames,)`, *optional*): seconds of the frames. With
            `frame_path="video"` frames are steps of time here, of two frames each.
        grid_size (`tuple[int, int]`): rows and columns of a frame's tokens.
        origin ([`FeatureOrigin`], *optional*): the model and the frames they come from; another model refuses them.
        is_new (`torch.BoolTensor` of shape `(num_frames,)`, *optional*): False at frames that repeat the one before
            and were not encoded again (`skip_duplicate_frames`); None where every frame was.
        about (`dict[str, str]`, *optional*): what else is to be known of the video; kept in its file.
    """

    refined: RefinedVideo
    deepstack: list[torch.Tensor]
    container: str
    grid_size: tuple[int, int]
    timestamps: torch.Tensor | None = None
    origin: FeatureOrigin | None = None
    about: dict[str, str] = field(default_factory=dict)
    is_new: torch.Tensor | None = None

    __repr__ = short_repr  # numbers by the thousand say nothing

    @property
    def duration(self) -> float | None:
        """Seconds of the whole video where that is known, as of what a pipeline encoded."""
        return json.loads(self.about["video"])["duration"] if "video" in self.about else None

    def check_has_times(self, add_timestamps: Any) -> None:
        """
        Look that a processor with this `add_timestamps` has times to write.

        Raises:
            LinVTInputError: it writes times, and the video was encoded without any.
        """
        if add_timestamps and self.timestamps is None:
            raise LinVTInputError(
                f"The processor writes times (add_timestamps={add_timestamps!r}), and the video was encoded without "
                "any. Encode it with its timestamps, or take a processor with add_timestamps=False."
            )

    def _repr_png_(self) -> bytes:
        """For notebooks: the significance of every place of the first video, a map per frame."""
        rows, columns = self.grid_size
        significance = self.refined.significance[0, :, : rows * columns].detach().float().cpu().numpy()
        return png_of(strip_of_maps(significance.reshape(-1, rows, columns)))

    def _repr_html_(self) -> str:
        total, kept = self.num_frames * self.refined.tokens_per_frame, int(self.refined.kept_mask[0].sum())
        told = [("frames", self.counted_frames), ("frame tokens", f"{total:,}, in {kept:,}")]
        if self.timestamps is not None:
            told.append(("seconds", f"{float(self.timestamps[0]):.2f} to {float(self.timestamps[-1]):.2f}"))
        return html_of([*told, *self.about.items()], self._repr_png_())

    @property
    def width(self) -> int:
        """D, the width of the tokens: that of the base's language model."""
        return self.refined.kept_tokens.shape[-1]

    @property
    def num_frames(self) -> int:
        """Frames of the video, or its steps of time with `frame_path="video"`."""
        return self.refined.num_frames

    @property
    def counted_frames(self) -> str:
        """`num_frames` in words: "9 frames", or "9 frames in 5 steps" of what a pipeline encoded in steps of time."""
        read = len(json.loads(self.about["video"])["timestamps"]) if "video" in self.about else self.num_frames
        of_steps = "" if read == self.num_frames else f" in {self.num_frames} step{'s' * (self.num_frames > 1)}"
        return f"{read} frame{'s' * (read > 1)}{of_steps}"

    @property
    def num_encoded_frames(self) -> int:
        """Frames that went through the vision tower; every other repeats the last of them."""
        return self.num_frames if self.is_new is None else int(self.is_new.sum())

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "VideoFeatures":
        """On another device; `dtype` applies to the tokens, while weights stay in float32."""
        refined = self.refined.to(device)
        if dtype is not None:
            refined = replace(
                refined,
                kept_tokens=refined.kept_tokens.to(dtype),
                kept_features=refined.kept_features.to(dtype),
            )
        return replace(self, refined=refined, deepstack=[layer.to(device, dtype) for layer in self.deepstack])

    @classmethod
    def stack(cls, features: "Sequence[VideoFeatures]") -> "VideoFeatures":
        """
        Encoded videos as one batch: one video for several questions, or several of whatever length, which are padded.

        Raises:
            LinVTInputError: the videos are of different models.
        """
        first = features[0]
        if all(other is first for other in features):
            rows = torch.zeros(len(features), dtype=torch.long)
            return replace(
                first,
                refined=first.refined.select(rows),
                deepstack=[layer.expand(len(features), *layer.shape[1:]) for layer in first.deepstack],
            )
        kinds = {
            (one.width, one.refined.kept_features.shape[-1], one.container, len(one.deepstack)) for one in features
        }
        if len(kinds) > 1:
            raise LinVTInputError(
                f"These videos were encoded by different models: width, bottleneck, container and layers are "
                f"{sorted(kinds)}. Encode them again with this one."
            )
        refined = RefinedVideo.stack([one.refined for one in features])
        num_kept = refined.kept_indices.shape[1]
        layers = zip(*(one.deepstack for one in features), strict=True)
        return replace(
            first,
            refined=refined,
            deepstack=[
                torch.cat([functional.pad(layer, (0, 0, 0, num_kept - layer.shape[1])) for layer in of_videos])
                for of_videos in layers
            ],
        )

    def save(self, path: str | os.PathLike) -> None:
        """
        Write to one safetensors file.

        Raises:
            LinVTInputError: the file cannot be written.
        """
        tensors = self.refined.to_tensors()
        tensors |= {f"deepstack.{i}": layer.contiguous() for i, layer in enumerate(self.deepstack)}
        if self.timestamps is not None:
            tensors["timestamps"] = self.timestamps.contiguous()
        if self.is_new is not None:
            tensors["is_new"] = self.is_new.contiguous()
        rows, columns = self.grid_size
        metadata = {"format": _FORMAT, "container": self.container, "grid_size": f"{rows}x{columns}"}
        if self.origin is not None:
            metadata |= {"video": self.origin.video} | ({"model": self.origin.model} if self.origin.model else {})
        metadata |= {_ABOUT + name: value for name, value in self.about.items()}
        metadata[_DIGEST] = digest_of(digest_of_weights(tensors), sorted(metadata.items()))
        try:
            with replacing(path) as partial:
                save_file(tensors, partial, metadata=metadata)
        except (OSError, SafetensorError) as error:
            advice = "Make room there, or name another file."
            if not Path(path).absolute().parent.is_dir():
                advice = "Its folder does not exist: make it first."
            raise LinVTInputError(f"{os.fspath(path)!r} cannot be written: {error}. {advice}") from error

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "VideoFeatures":
        """
        Read a file that `save` wrote.

        Raises:
            LinVTInputError: no such file, not one of ours, one that is damaged, or one whose numbers no encoded
                video has.
        """
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError) as error:
            raise LinVTInputError(f"{os.fspath(path)!r} cannot be read as video features: {error}") from error
        if metadata.get("format") != _FORMAT:
            raise LinVTInputError(
                f"{os.fspath(path)!r} holds no video features of this version (format {metadata.get('format')!r}, "
                f"expected {_FORMAT!r}). Encode the video again with model.encode_video."
            )
        digest = metadata.pop(_DIGEST, None)
        if digest not in (None, digest_of(digest_of_weights(tensors), sorted(metadata.items()))):
            raise LinVTInputError(
                f"{os.fspath(path)!r} is damaged: it is not what was written there. Encode the video again."
            )
        layers = sum(name.startswith("deepstack.") for name in tensors)
        grid = re.fullmatch(r"(\d{1,6})x(\d{1,6})", metadata.get("grid_size", ""))
        if grid is None or metadata.get("container") not in _CONTAINERS:
            raise LinVTInputError(f"{os.fspath(path)!r} does not say how its tokens lie. Encode the video again.")
        features = cls(
            refined=RefinedVideo.from_tensors(tensors),
            deepstack=[tensors.get(f"deepstack.{i}", torch.empty(0)) for i in range(layers)],
            container=metadata["container"],
            timestamps=tensors.get("timestamps"),
            is_new=tensors.get("is_new"),
            grid_size=(int(grid[1]), int(grid[2])),
            origin=FeatureOrigin(metadata.get("model"), metadata["video"]) if "video" in metadata else None,
            about={name.removeprefix(_ABOUT): text for name, text in metadata.items() if name.startswith(_ABOUT)},
        )
        features._check(os.fspath(path))
        return features

    def _check(self, path: str) -> None:
        """Refuse tensors that do not belong together or hold what no video has: on a GPU a wrong index is a crash."""
        refined = self.refined
        shape = refined.significance.shape
        frames, places = shape[1:] if len(shape) == 3 else (0, 0)
        num_kept, width = refined.kept_tokens.shape[-2:] if refined.kept_tokens.ndim == 3 else (0, 0)
        shapes = {
            "significance": (1, frames, places),
            "kept_tokens": (1, num_kept, width),
            "kept_features": (1, num_kept, refined.kept_features.shape[-1] if refined.kept_features.ndim else 0),
            "places": (1, num_kept, 3),
            **dict.fromkeys(("kept_indices", "kept_mask", "log_significance", "mass_positions"), (1, num_kept)),
            **dict.fromkeys(("run_slots", "run_weights"), (1, frames * places)),
        }
        ranges = {
            "kept_indices": (0, frames * places - 1),
            "run_slots": (0, num_kept - 1),
            **dict.fromkeys(("places", "mass_positions", "significance", "run_weights"), (-_SLACK, 1 + _SLACK)),
        }
        named = {name: getattr(refined, name) for name in shapes}
        for i, layer in enumerate(self.deepstack):
            named[f"deepstack.{i}"], shapes[f"deepstack.{i}"] = layer, (1, num_kept, width)
        if self.timestamps is not None:
            named["timestamps"], shapes["timestamps"] = self.timestamps, (frames,)
        if self.is_new is not None:
            named["is_new"], shapes["is_new"] = self.is_new, (frames,)
        # a base may put tokens between rows (LLaVA-OneVision), so places are not always rows times columns
        is_grid = all(1 <= size <= places for size in self.grid_size)
        wrong = "grid_size" if not frames or not num_kept or not is_grid else None
        for name, tensor in named.items():
            low, high = ranges.get(name, (-math.inf, math.inf))
            kind = _KINDS.get(name, torch.Tensor.is_floating_point)
            if tuple(tensor.shape) != shapes[name] or not kind(tensor) or not tensor.numel():
                wrong = f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype}"
            elif not bool(tensor.isfinite().all()) or tensor.min() < low or tensor.max() > high:
                wrong = f"{name} between {tensor.min().item()} and {tensor.max().item()}"
        if wrong is not None:
            raise LinVTInputError(
                f"{path!r} holds no encoded video: {wrong} does not fit the rest. Encode the video again."
            )


# What the tensors hold that are no real numbers
_KINDS = {
    "kept_indices": lambda tensor: tensor.dtype is torch.long,
    "run_slots": lambda tensor: tensor.dtype is torch.long,
    **dict.fromkeys(("kept_mask", "is_new"), lambda tensor: tensor.dtype is torch.bool),
}


__all__ = ["FEATURES_SUFFIX", "FeatureOrigin", "VideoFeatures"]
