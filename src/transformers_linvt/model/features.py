"""One video after SVR: everything about it that no question changes, in memory or in a safetensors file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..bases.layouts import EncodedFrames
from ..errors import LinVTInputError
from ..tokenizer.selection import RefinedVideo


_FORMAT = "linvt-video-features-2"


@dataclass
class VideoFeatures:
    """
    A video that was decoded, encoded and refined once, to be asked many questions.

    Attributes:
        refined ([`RefinedVideo`]): kept tokens, their places and significance; batch of one, or of several (`stack`).
        deepstack (`list` of `torch.Tensor` of shape `(batch, k, D)`): the base's deeper tokens, kept alike.
        container (`str`): how the base packs visual tokens.
        timestamps (`torch.Tensor` of shape `(num_frames,)`, *optional*): seconds of the frames.
        grid_size (`tuple[int, int]`): rows and columns of a frame's tokens.
    """

    refined: RefinedVideo
    deepstack: list[torch.Tensor]
    container: str
    grid_size: tuple[int, int]
    timestamps: torch.Tensor | None = None

    @classmethod
    def from_refined(
        cls, refined: RefinedVideo, video: EncodedFrames, timestamps: torch.Tensor | None
    ) -> "VideoFeatures":
        """Of one video: what SVR kept, and the deeper tokens at the same places."""
        return cls(
            refined=refined,
            deepstack=[refined.average(layer[None].to(refined.run_slots.device)) for layer in video.deepstack],
            container=video.container,
            timestamps=timestamps,
            grid_size=video.grid_size,
        )

    @property
    def width(self) -> int:
        """D, the width of the tokens: that of the base's language model."""
        return self.refined.kept_tokens.shape[-1]

    @property
    def num_frames(self) -> int:
        """Frames of the video."""
        return self.refined.num_frames

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
        Several questions about one video, as one batch.

        Raises:
            LinVTInputError: the features are not all of one video; videos of different lengths go one by one.
        """
        first = features[0]
        if any(other is not first for other in features):
            raise LinVTInputError(
                "Encoded videos are asked one at a time: pass the same VideoFeatures for every row of the batch."
            )
        rows = torch.zeros(len(features), dtype=torch.long)
        return replace(
            first,
            refined=first.refined.select(rows),
            deepstack=[layer.expand(len(features), *layer.shape[1:]) for layer in first.deepstack],
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
        rows, columns = self.grid_size
        metadata = {"format": _FORMAT, "container": self.container, "grid_size": f"{rows}x{columns}"}
        try:
            save_file(tensors, path, metadata=metadata)
        except (OSError, SafetensorError) as error:
            raise LinVTInputError(f"{os.fspath(path)!r} cannot be written: {error}. Does its folder exist?") from error

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu") -> "VideoFeatures":
        """
        Read a file that `save` wrote.

        Raises:
            LinVTInputError: no such file, or not one of ours.
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
        layers = sum(name.startswith("deepstack.") for name in tensors)
        rows, columns = metadata["grid_size"].split("x")
        return cls(
            refined=RefinedVideo.from_tensors(tensors),
            deepstack=[tensors[f"deepstack.{i}"] for i in range(layers)],
            container=metadata["container"],
            timestamps=tensors.get("timestamps"),
            grid_size=(int(rows), int(columns)),
        )


__all__ = ["VideoFeatures"]
