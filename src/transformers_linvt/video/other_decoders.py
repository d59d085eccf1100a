"""
decord and torchcodec: the frames of the same table, or a refusal.

They are asked on the files where they are known to be right, and after PyAV has decoded what is wanted and met no
damage (neither of the two tells of any); they refuse on all others.
"""

from typing import Any

from ..errors import VideoReadError
from .album import Album, NoAlbum, display_matrix, finish
from .container import VideoFile
from .damage import Damage, decoded, is_intra
from .decord_decoder import fill_from_decord
from .frames import Request, VideoFrames
from .limits import Clock, check_duration, check_frame_size
from .pyav_decoder import PyAVReader
from .source import VideoSource
from .table import SEEKABLE_FORMATS, FrameTable
from .torchcodec_decoder import fill_from_torchcodec


_CODECS_OF_OTHER_BACKENDS = {
    "decord": {"h264", "hevc", "vp9", "mpeg4", "mjpeg"},
    "torchcodec": {"h264", "hevc", "vp9", "mpeg4", "mjpeg", "av1"},
}


def read_other(
    source: VideoSource, table: FrameTable, request: Request, clock: Clock, num_threads: int, backend: str
) -> VideoFrames:
    """Frames of the table, decoded by decord or torchcodec after everything known to go wrong there was ruled out."""
    open_other = {"decord": fill_from_decord, "torchcodec": fill_from_torchcodec}[backend]
    library = import_backend(backend)
    reason = _why_not(backend, source, table)
    album, chosen = None, []
    if reason is None:
        seconds = table.seconds
        check_duration(source.name, table.duration, request.limits)
        chosen = request.choose(seconds, table.duration, source.name)
        wanted = [table.pts[index] for index in chosen]
        reason, first = _check_key_frames(backend, source, table, wanted, clock)
    if reason is None:
        reason = _why_damaged(source, table, wanted, request, clock, num_threads)
    if reason is None:
        check_frame_size(source.name, first.height, first.width, request.limits)
        expected = Album(source.name, 1, request.limits)
        expected.put_frame(0, first)
        album = Album(source.name, len(chosen), request.limits)
        try:
            reason = open_other(library, source, table, num_threads, chosen, album, expected.frames.shape[1:], clock)
        except VideoReadError:
            raise
        except Exception as error:  # both raise a RuntimeError, an Exception subclass of their own, or a ValueError
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"it failed with: {lines[0][:200]}"
    if reason is not None:
        raise VideoReadError(
            f'{source.name} is not read with {backend}: {reason}. Use backend="pyav", which reads this kind of file '
            "exactly or says what is wrong with it."
        )
    return finish(source.name, backend, album, seconds, chosen, table.duration)


def import_backend(backend: str) -> Any:
    """Import decord or torchcodec. Being installed says little: torchcodec loads only with an FFmpeg that fits."""
    try:
        if backend == "decord":
            import decord

            decord.logging.set_level(decord.logging.QUIET)  # its FFmpeg writes to the terminal otherwise
            return decord
        import torchcodec.decoders

        return torchcodec.decoders
    except Exception as error:  # OSError and RuntimeError where a shared library is missing, besides ImportError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        how = {
            "decord": "`pip install decord` (Linux on x86-64, Windows on AMD64)",
            "torchcodec": "`pip install torchcodec` in the version that fits your torch, and FFmpeg 4 to 7",
        }
        raise VideoReadError(
            f'backend="{backend}" cannot be used: {lines[0][:200]}. Install it with {how[backend]}, or use '
            'backend="pyav", which is always there.'
        ) from error


def _why_not(backend: str, source: VideoSource, table: FrameTable) -> str | None:
    """Why this backend would not give the right frames of this file; `None` if it does."""
    if table.format not in SEEKABLE_FORMATS:
        return f"it counts or seeks wrongly in {table.format} files"
    if table.codec not in _CODECS_OF_OTHER_BACKENDS[backend]:
        return f"the codec {table.codec} is not among those it was found right on"
    if table.has_hidden_packets:
        return "the file was trimmed without re-encoding (edit list), and it gives the frames that are to be hidden"
    if not table.can_seek:
        return "the packets of the file are damaged or carry no usable time stamps"
    if backend == "decord" and table.has_leading_frames:
        # It numbers key frames by their place in the file, which is off by the frames stored behind but shown before.
        return "frames are stored behind the key frame they are shown before (open GOP), and it miscounts those"
    if backend == "decord" and table.num_video_streams > 1:
        return f"the file has {table.num_video_streams} video streams, of which it may take another"
    return None


def _check_key_frames(
    backend: str, source: VideoSource, table: FrameTable, wanted: list[int], clock: Clock
) -> tuple[str | None, Any]:
    """
    Why decoding cannot start at the key frames before the wanted time stamps, or `None` and the first of them.

    In a stream with intra-refresh the packets marked as key frames are not whole pictures, and neither decord nor
    torchcodec notices. Each key frame needed is decoded alone, which costs one picture each.
    """
    needed = sorted({table.key_before(pts) for pts in wanted} - {None})
    first_frame = None
    with VideoFile(source, clock) as file:
        for position in needed:
            pts = table.keys[position][0]
            if backend == "decord" and position + 1 < len(table.keys) and table.keys[position + 1][1] <= pts:
                # Seen on an HEVC file with a key frame every other picture: decord landed one key frame too far.
                return "its key frames follow each other so closely that it seeks past them", None
            file.container.seek(table.keys[position][0], stream=file.stream)
            damage = Damage()
            frame = next((frame for frame in decoded(file, damage) if frame.pts is None or frame.pts >= pts), None)
            if frame is None or frame.pts != pts or not is_intra(frame) or frame.is_corrupt or damage.broken:
                return "decoding cannot start at its key frames (intra-refresh or damage)", None
            first_frame = frame if first_frame is None else first_frame
    matrix = None if first_frame is None else display_matrix(first_frame)
    if matrix is not None and matrix[0] * matrix[3] - matrix[1] * matrix[2] < 0:
        return "the picture is to be shown mirrored, and it only turns", None
    return (None, first_frame) if first_frame is not None else ("it does not begin with a key frame", None)


def _why_damaged(
    source: VideoSource, table: FrameTable, wanted: list[int], request: Request, clock: Clock, num_threads: int
) -> str | None:
    """
    Why the wanted frames are not all intact, or `None`: PyAV decodes them as if it were to return them.

    decord and torchcodec hand out what their decoder patched up for a broken picture, and say nothing. The pictures
    are decoded here once more for that, but not converted to RGB.
    """
    reader = PyAVReader(source, table, request, clock, num_threads)
    places = {pts: place for place, pts in enumerate(wanted)}
    album = NoAlbum(source.name, len(wanted), request.limits)
    is_whole = reader.by_seeking(places, album) or reader.from_start(places, album)
    if reader.damage.broken:
        return f"the file is damaged ({len(reader.damage.broken)} broken packets), which it does not tell"
    return None if is_whole else "not all the frames that its packets promise come out of decoding"
