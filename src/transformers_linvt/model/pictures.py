"""Pictures from wherever a message names them: paths, addresses, base64, bytes, objects in memory."""

import base64
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers.image_utils import load_image

from ..errors import LinVTInputError, VideoReadError, first_line, shown
from ..video.download import check_url_allowed, download_video
from ..video.limits import VideoLimits, shorten_name
from ..video.media_address import is_data_url, name_of_address, path_of_file_url, read_data_url, scheme_of
from .arguments import Arguments
from .messages import parts_of, source_of


_MAX_PICTURE_BYTES = 64 << 20  # of a picture from an address, where the caller gives no limits; ours


class ReadsPictures:
    """What [`LinVTProcessor`] does with pictures."""

    def _pictures_of(self, messages: Sequence[Mapping[str, Any]], arguments: Arguments, needed: bool) -> list[Any]:
        parts = list(parts_of(messages, "image"))
        sources = [source_of(part, needed) for part in parts]
        return [self.load_picture(source, arguments.sampling) for source in sources] if needed else []

    def load_picture(self, source: Any, sampling: Mapping[str, Any] | None = None) -> Any:
        """
        A picture from a path, an address, base64 or bytes; arrays, tensors and pictures come back as they are.

        Args:
            source: see above, or an undecoded picture of `datasets`.
            sampling: `allow_urls` and `limits`, for addresses.

        Raises:
            LinVTInputError: no picture, or one that cannot be read.
        """
        return read_picture(source, sampling)


def read_picture(source: Any, sampling: Mapping[str, Any] | None = None) -> Any:
    """
    A picture from a path, an address, base64 or bytes; arrays, tensors and pictures come back as they are.

    Args:
        source: see above, or an undecoded picture of `datasets`. A `file://` address is a path.
        sampling: `allow_urls` and `limits`, for addresses.

    Raises:
        LinVTInputError: no picture, or one that cannot be read.
    """
    if isinstance(source, Mapping):  # an undecoded picture of `datasets`
        source = source.get("bytes") or source.get("path")
    if isinstance(source, PIL.Image.Image | np.ndarray | torch.Tensor):
        return source
    if isinstance(source, os.PathLike):
        source = os.fspath(source)
    name = shown(name_of_address(source) if isinstance(source, str) and is_data_url(source) else source)
    if isinstance(source, str):
        source = _opened_address(source, sampling or {})
    elif not isinstance(source, bytes):
        raise LinVTInputError(
            f"A picture is {name}. Give a path, an address, base64, bytes, a PIL picture, an array or a tensor."
        )
    try:
        with _opened(source) as picture:
            check_picture_size(name, *picture.size, (sampling or {}).get("limits") or VideoLimits())
            return load_image(picture)
    except LinVTInputError:
        raise
    except Exception as error:  # of PIL or base64: whatever it is, it is no picture
        raise LinVTInputError(f"{name} could not be read as a picture: {first_line(error)}") from error


def _opened(source: str | bytes) -> PIL.Image.Image:
    """A picture of which no more than the header is read yet."""
    if isinstance(source, str) and not os.path.isfile(source):
        text = source.partition(",")[2] if source.startswith("data:") else source
        try:
            return PIL.Image.open(io.BytesIO(base64.decodebytes(text.encode())))
        except (ValueError, OSError) as error:
            raise ValueError(f"{shorten_name(source)} is neither a file nor a picture in base64") from error
    return PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def check_picture_size(name: str, width: int, height: int, limits: VideoLimits) -> None:
    """
    Refuse a picture that would fill the memory, before it is decoded.

    Raises:
        LinVTInputError: it has more pixels than `limits.max_picture_pixels`.
    """
    if limits.max_picture_pixels is not None and width * height > limits.max_picture_pixels:
        raise LinVTInputError(
            f"The picture {name} has {width}x{height} = {width * height} pixels, over the limit of "
            f"{limits.max_picture_pixels}. Scale it down, or pass limits=VideoLimits(max_picture_pixels=...)."
        )


def read_named_pictures(images: Any, sampling: Mapping[str, Any]) -> Any:
    """
    Pictures in the lists that they were given in, with those read that a path or an address names.

    Anything else is left to the base's processor, which would open a path or an address itself, whatever it leads to.

    Args:
        images: one picture or nested lists of them.
        sampling: `allow_urls` and `limits`, for addresses.

    Raises:
        LinVTInputError: see [`read_picture`].
    """
    if isinstance(images, list | tuple):
        return type(images)([read_named_pictures(one, sampling) for one in images])
    return read_picture(images, sampling) if isinstance(images, str | os.PathLike) else images


def _opened_address(text: str, sampling: Mapping[str, Any]) -> str | bytes:
    """The bytes or the path that an address leads to; any other text as it is."""
    scheme, limits = scheme_of(text), sampling.get("limits") or VideoLimits(max_bytes=_MAX_PICTURE_BYTES)
    if scheme in ("http", "https") and not sampling.get("allow_urls"):
        raise LinVTInputError(
            f"The picture {shown(text)} is an address, and addresses are not opened unless the caller allows it. Pass "
            "allow_urls=True if you trust where it comes from, or download the picture first."
        )
    try:
        if is_data_url(text):
            return read_data_url(text, limits.max_bytes)
        if scheme == "file":
            return path_of_file_url(text)
        if scheme is None:
            return text
        check_url_allowed(text, scheme, allow_urls=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "picture"
            download_video(text, str(path), limits)
            return path.read_bytes()
    except VideoReadError as error:
        raise LinVTInputError(f"A picture could not be fetched. {error}") from error
