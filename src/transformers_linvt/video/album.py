"""The returned frames: upright RGB in one array, made when the first of them shows its size."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import av
import av.sidedata.sidedata
import av.video.reformatter
import numpy as np

from ..errors import VideoReadError
from .damage import Damage
from .frames import VideoFrames, no_pixels
from .limits import VideoLimits, check_frame_size
from .progress import report
from .table import FrameTable


logger = logging.getLogger(__name__)

CHANNELS = 3

# Makes what the frames of a read are put into, of the name of the video, their times in seconds, and the limits.
MakeAlbum = Callable[[str, np.ndarray, VideoLimits], "Album"]


class Album:
    """The returned frames, one array made when the first frame shows its size; a second copy is never held."""

    def __init__(self, name: str, count: int, limits: VideoLimits) -> None:
        self.name, self.count, self.limits = name, count, limits
        self.frames: np.ndarray | None = None
        # One for all frames, and not each frame's own: a frame whose side data were looked at lies in a reference
        # cycle, and its scaler has threads. A forked data loader worker that collects it waits for them for ever.
        self.reformatter = av.video.reformatter.VideoReformatter()

    def put(self, place: int, image: np.ndarray) -> None:
        """Copy one upright frame of shape `(height, width, 3)` into its place."""
        if self.frames is None:
            num_bytes = self.count * image.size
            if self.limits.max_output_bytes is not None and num_bytes > self.limits.max_output_bytes:
                raise VideoReadError(
                    f"{self.name}: {self.count} frames of {image.shape[1]}x{image.shape[0]} take {num_bytes} bytes, "
                    f"over the limit of {self.limits.max_output_bytes}. Ask for fewer frames, scale the video down, "
                    "or pass limits=VideoLimits(max_output_bytes=...)."
                )
            self.frames = np.empty((self.count, *image.shape), dtype=np.uint8)
        self._check_size(image, self.frames.shape[1:])
        self.frames[place] = image
        report("read", place + 1, self.count)

    def _check_size(self, image: np.ndarray, shape: Sequence[int]) -> None:
        if image.shape != tuple(shape):
            raise VideoReadError(
                f"{self.name} changes its frame size from {shape[1]}x{shape[0]} to {image.shape[1]}x{image.shape[0]} "
                "on the way. Choose a window with start and end, or re-encode it."
            )

    def put_frame(self, place: int, frame: Any) -> None:
        """Convert one decoded frame to upright RGB and put it into its place."""
        check_frame_size(self.name, frame.height, frame.width, self.limits)
        # Said aloud because PyAV 15 does not look at the frame for them: BT.709 in most HD video, full range in some.
        image = self.reformatter.reformat(
            frame,
            format="rgb24",
            src_color_range=frame.color_range,
            dst_colorspace=av.video.reformatter.Colorspace.DEFAULT,
        ).to_ndarray()
        matrix = display_matrix(frame)
        self.put(place, image if matrix is None else upright(image, matrix, self.name))


def album_of_all(name: str, timestamps: np.ndarray, limits: VideoLimits) -> Album:
    """The album of a read that returns its frames together."""
    return Album(name, len(timestamps), limits)


class Relay(Album):
    """
    Hands every frame on as it comes, and keeps none.

    Frame 0 may come again: what was handed on before is then void (damage was found behind it).

    Args:
        take: called with the place of a frame and its picture.
    """

    def __init__(self, name: str, count: int, limits: VideoLimits, take: Callable[[int, np.ndarray], None]) -> None:
        super().__init__(name, count, limits)
        self.take = take
        self.shape: tuple[int, ...] | None = None

    def put(self, place: int, image: np.ndarray) -> None:
        """Hand on one upright frame of shape `(height, width, 3)`."""
        self.shape = image.shape if self.shape is None else self.shape
        self._check_size(image, self.shape)
        self.frames = no_pixels(self.count)
        self.take(place, image)


class Sketch(Album):
    """Takes frames and keeps none: for decoding that only looks for damage, at the size and turn of the pictures."""

    shape: tuple[int, ...] | None = None
    is_mirrored = False

    def put_frame(self, place: int, frame: Any) -> None:
        """Check the size of a decoded frame, and note that of the first as it is shown."""
        check_frame_size(self.name, frame.height, frame.width, self.limits)
        if self.shape is not None:
            return
        matrix = display_matrix(frame) or (65536, 0, 0, 65536)
        self.is_mirrored = matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0
        outline = np.broadcast_to(np.uint8(0), (frame.height, frame.width, CHANNELS))
        self.shape = upright(outline, matrix, self.name).shape


def differs_in_size(image_shape: Sequence[int], shape: Sequence[int]) -> str | None:
    """Why a picture of another decoder is not that of the video stream, by its size; `None` if it may be."""
    if tuple(image_shape) != tuple(shape):
        return (
            f"it gives frames of {image_shape[1]}x{image_shape[0]} where the video stream, shown upright, has "
            f"{shape[1]}x{shape[0]}"
        )
    return None


def finish(
    name: str,
    backend: str,
    album: Album,
    seconds: np.ndarray,
    chosen: list[int],
    duration: float,
    table: FrameTable | None = None,
    damage: Damage | None = None,
    num_damaged: int = 0,
) -> VideoFrames:
    """The result of a read, and the warnings about broken and missing packets."""
    num_broken = 0 if damage is None else len(damage.broken)
    if table is not None and table.may_have_lost:
        logger.warning(
            f"{name}: {table.num_gaps} packets are missing from its even clock. If they were lost, and not left out "
            f"by the recorder, frames behind them may be wrong, which {table.codec} does not tell (num_gaps)."
        )
    if num_broken:
        logger.warning(
            f"{name}: {num_broken} broken or lost packets; {num_damaged} of its {len(seconds)} frames are damaged by "
            "them and were left out. In the others no damage was found, which decoders do not always find. Copy or "
            "download the file again to see all of it."
        )
    assert album.frames is not None, "no frame was put into the album"
    return VideoFrames(
        frames=album.frames,
        timestamps=seconds[chosen],
        source=name,
        video_backend=backend,
        duration=duration,
        total_frames=len(seconds),
        average_fps=len(seconds) / duration if duration > 0 else None,
        num_broken_packets=num_broken,
        num_gaps=None if table is None else table.num_gaps,
        is_intact=False if num_broken else True if damage is not None and damage.is_ruled_out else None,
    )


def upright(image: np.ndarray, matrix: tuple[int, int, int, int], name: str) -> np.ndarray:
    """
    Apply a display matrix: `x' = a x + c y`, `y' = b x + d y`, in 16.16 fixed point, y pointing down.

    Args:
        image (`np.ndarray` of shape `(height, width, 3)`): As stored.
        matrix (`tuple[int, int, int, int]`): `(a, b, c, d)`.
        name (`str`): The file, for the message.

    Example:

    >>> one = 65536
    >>> upright(np.arange(6).reshape(2, 3, 1), (0, one, -one, 0), "clip.mp4")[..., 0].tolist()  # turned to the right
    [[3, 0], [4, 1], [5, 2]]
    """
    a, b, c, d = matrix
    along, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    rest = max(abs(b), abs(c)) if along else max(abs(a), abs(d))
    if rest * 50 > max(along, across):
        raise VideoReadError(
            f"{name} is to be shown turned by an angle that is no multiple of 90 degrees (display matrix {matrix}). "
            "Re-encode it upright."
        )
    flip_x, flip_y = a < 0, d < 0
    if across > along:
        image, flip_x, flip_y = image.swapaxes(0, 1), c < 0, b < 0
    if flip_x:
        image = image[:, ::-1]
    return image[::-1] if flip_y else image


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """`(a, b, c, d)` of a frame that is to be shown turned or mirrored, in 16.16 fixed point; `None` as it lies."""
    try:
        side_data = frame.side_data
    except ValueError:
        _name_unknown_side_data()
        side_data = frame.side_data
    # by name: what iterating gives differs between versions of PyAV
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    return (a, b, c, d)


def _name_unknown_side_data() -> None:
    """
    Give PyAV names for the kinds of side data that it does not know, as PyAV 19 has them itself.

    Before, one kind that is newer than PyAV (EXIF in the frames of a camera) keeps all others from being looked at.
    """
    kinds: Any = av.sidedata.sidedata.Type

    def named(cls: type, value: object) -> Any:
        if not isinstance(value, int):
            return None
        member = object.__new__(cls)
        member._name_, member._value_ = f"UNKNOWN_{value}", value
        return cls._value2member_map_.setdefault(value, member)

    kinds._missing_ = classmethod(named)
