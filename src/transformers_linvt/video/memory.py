"""Frames in memory: arrays, tensors and lists of pictures, checked like those of a file."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from ..errors import VideoReadError
from .album import CHANNELS, MakeAlbum, album_of_all, finish
from .frames import Request, VideoFrames
from .limits import check_duration, check_frame_size


logger = logging.getLogger(__name__)


_IN_MEMORY = "<frames in memory>"


def is_frames(video: Any) -> bool:
    """Whether something is frames in memory, and not a place of a video file."""
    return isinstance(video, np.ndarray | list | tuple | PIL.Image.Image) or _is_tensor(video)


def read_memory(
    video: Any,
    request: Request,
    timestamps: Sequence[float] | np.ndarray | None,
    make_album: MakeAlbum = album_of_all,
) -> VideoFrames:
    """Check frames in memory like those of a file, and sample them if fewer are asked for than there are."""
    if isinstance(video, PIL.Image.Image):
        raise VideoReadError("A single picture is not a video. Give it as a list of one frame, or as an image.")
    frames = _stack_frames(video) if isinstance(video, list | tuple) else _as_array(video)
    frames = channels_last(frames)
    if frames.size == 0:
        raise VideoReadError(f"{_IN_MEMORY} of shape {frames.shape} are empty. Give at least one frame.")
    limits = request.limits
    check_frame_size(_IN_MEMORY, frames.shape[1], frames.shape[2], limits)
    seconds, given_fps = _memory_timestamps(len(frames), request.fps, timestamps)
    gap = float(np.diff(seconds).mean()) if len(seconds) > 1 else 1.0 / (given_fps or 1.0)
    duration = float(seconds[-1]) + gap
    check_duration(_IN_MEMORY, duration, limits)
    if request.num_frames is None and (request.fps is None or given_fps is not None):
        first, last = request.window(seconds, duration, _IN_MEMORY)
        chosen = list(range(first, last + 1))  # they were chosen by whoever made them
        if request.cap is not None and len(chosen) > request.cap:
            raise VideoReadError(
                f"{len(chosen)} frames in memory are over the limit of {request.cap}. Pass num_frames to sample them, "
                "or raise max_frames or VideoLimits(max_frames=...)."
            )
        request.check_count(len(chosen), _IN_MEMORY)
    else:
        chosen = request.choose(seconds, duration, _IN_MEMORY)
    album = make_album(_IN_MEMORY, seconds[chosen], limits)
    for place, index in enumerate(chosen):
        album.put(place, _to_uint8(frames[index : index + 1])[0])
    return finish(_IN_MEMORY, "memory", album, seconds, chosen, duration)


def _picture(image: PIL.Image.Image) -> np.ndarray:
    """
    A PIL image as an array of shape `(height, width, 3)`: bytes, or the numbers of its own type if it has wider ones.

    Pillow cuts off what is above 255 of those (depth, heat); they are checked and scaled like arrays of the same type.
    """
    try:
        if image.mode == "F" or image.mode.startswith("I"):
            return np.repeat(np.asarray(image)[..., None], CHANNELS, axis=-1)
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoReadError(
            f"{_IN_MEMORY}: a PIL image of mode {image.mode} cannot be turned into RGB ({str(error)[:200]}). Convert "
            "it, or look at the file that it is read from."
        ) from error


def _stack_frames(video: Sequence[Any]) -> np.ndarray:
    """A list of PIL images, or of arrays of one frame each, as one array."""
    if len(video) == 0:
        raise VideoReadError("An empty list holds no frames. Give at least one frame.")
    if all(isinstance(frame, PIL.Image.Image) for frame in video):
        arrays = [_picture(frame) for frame in video]
    elif all(isinstance(frame, np.ndarray) or _is_tensor(frame) for frame in video):
        arrays = [_as_array(frame) for frame in video]
    else:
        kinds = sorted({type(frame).__name__ for frame in video})
        raise VideoReadError(
            f"A list of {', '.join(kinds)} is not one video. Give one path, or a list of frames that are all PIL "
            "images or all arrays; several videos are read one at a time."
        )
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) > 1:
        raise VideoReadError(f"The frames of the list differ in shape: {shapes[:4]}. Bring them to one size.")
    kinds = sorted({str(array.dtype) for array in arrays})
    if len(kinds) > 1:
        raise VideoReadError(f"The frames of the list differ in type: {', '.join(kinds[:4])}. Bring them to one.")
    return np.stack(arrays)


def _memory_timestamps(
    count: int, fps: float | None, timestamps: Sequence[float] | np.ndarray | None
) -> tuple[np.ndarray, float | None]:
    """Seconds of each given frame from the first, and the rate they were given at, if it is known."""
    if timestamps is None:
        if fps is None:
            logger.warning(
                "The frames were given without their times; one frame per second is assumed. Pass timestamps=[...] in "
                "seconds, or fps=... if they are evenly spaced."
            )
        return np.arange(count) / (1.0 if fps is None else fps), fps
    try:
        seconds = np.asarray(_as_array(timestamps), dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise VideoReadError(
            f"timestamps={timestamps!r:.100} are not numbers. Give one number of seconds per frame."
        ) from error
    if seconds.shape != (count,):
        raise VideoReadError(
            f"timestamps have the shape {seconds.shape} for {count} frames. Give one number of seconds per frame."
        )
    if not np.isfinite(seconds).all() or (np.diff(seconds) <= 0).any():
        raise VideoReadError(
            "timestamps have to be finite seconds that increase from frame to frame. Sort the frames."
        )
    return seconds - seconds[0], None


def _is_tensor(value: Any) -> bool:
    """A torch tensor, told by its methods: this file does not import torch."""
    return all(hasattr(value, method) for method in ("detach", "cpu", "numpy"))


def _as_array(value: Any) -> np.ndarray:
    if _is_tensor(value):
        value = value.detach().cpu()
        try:
            return value.numpy()
        except TypeError:  # bfloat16 has no counterpart in numpy
            return value.float().numpy()
    return np.asarray(value)


def channels_last(frames: np.ndarray, name: str = _IN_MEMORY) -> np.ndarray:
    """Bring frames of shape `(T, H, W, 3)` or `(T, 3, H, W)` to the former; any other shape is an error."""
    if frames.ndim == 4 and frames.shape[-1] == CHANNELS and frames.shape[1] != CHANNELS:
        return frames
    if frames.ndim == 4 and frames.shape[1] == CHANNELS and frames.shape[-1] != CHANNELS:
        return np.moveaxis(frames, 1, -1)
    if frames.ndim == 4 and frames.shape[-1] == CHANNELS:
        raise VideoReadError(
            f"{name} of shape {frames.shape} could be (frames, height, width, 3) or (frames, 3, height, width). "
            "Frames three pixels high or wide are not accepted in an array; give a list of PIL images."
        )
    hint = {
        2: "this is one grey picture",
        3: "for one picture add an axis in front; for grey frames repeat them in three channels",
        5: "this is a batch of videos; give one video at a time",
    }.get(frames.ndim, "grey frames have to be repeated in three channels, and transparency dropped")
    raise VideoReadError(
        f"{name} have the shape {frames.shape}, expected (frames, height, width, 3) or (frames, 3, height, width) in "
        f"RGB; {hint}."
    )


def _to_uint8(frames: np.ndarray) -> np.ndarray:
    """Floating point frames in [0, 1] to bytes; anything that is neither those nor bytes is an error."""
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise VideoReadError(
            f"{_IN_MEMORY} are of type {frames.dtype}, expected uint8 in [0, 255] or floating point in [0, 1]. "
            "Divide them by the largest value that they can have (65535 for 16 bits) and give the floating point "
            "result, or, if they lie in [0, 255], convert them with .astype(np.uint8)."
        )
    if not np.isfinite(frames).all():
        bad = int((~np.isfinite(frames)).reshape(len(frames), -1).any(axis=1).sum())
        raise VideoReadError(
            f"{_IN_MEMORY}: {bad} of {len(frames)} frames hold NaN or infinite values. Look at what computed them."
        )
    low, high = float(frames.min()), float(frames.max())
    if low < 0.0 or high > 1.0:
        raise VideoReadError(
            f"{_IN_MEMORY} of type {frames.dtype} lie in [{low:.4g}, {high:.4g}], expected [0, 1]. Undo the "
            "normalisation, or divide by 255 (or convert to uint8) if they are bytes."
        )
    return np.rint(frames.astype(np.float32) * 255.0).astype(np.uint8)
