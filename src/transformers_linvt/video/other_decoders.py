"""
decord and torchcodec: the frames of the same table, or a refusal.

They are asked on the files where they are known to be right, and after PyAV has decoded what is wanted and met no
damage (neither of the two tells of any); they refuse on all others.
"""

from typing import Any

from ..errors import VideoReadError
from .album import Album, Sketch, finish
from .decord_decoder import fill_from_decord
from .frames import Request, VideoFrames
from .limits import Clock, check_duration
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
    fill = {"decord": fill_from_decord, "torchcodec": fill_from_torchcodec}[backend]
    library = import_backend(backend)
    reason = _why_not(backend, source, table)
    album: Any = None
    chosen: list[int] = []
    seconds = table.seconds
    if reason is None:
        check_duration(source.name, table.duration, request.limits)
        chosen = request.choose(seconds, table.duration, source.name)
        wanted = {table.pts[index]: place for place, index in enumerate(chosen)}
        sketch = Sketch(source.name, len(chosen), request.limits)
        reason = _why_wrong(backend, table, wanted) or _why_unsafe(
            PyAVReader(source, table, request, clock, num_threads), wanted, sketch
        )
    if reason is None:
        album = Album(source.name, len(chosen), request.limits)
        try:
            reason = fill(library, source, table, num_threads, chosen, album, sketch.shape or (), clock)
        except VideoReadError:
            raise
        except Exception as error:  # both raise a RuntimeError, an Exception subclass of their own, or a ValueError
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"it failed with: {lines[0][:200]}"
    if reason is not None:
        raise VideoReadError(
            f'{source.name} is not read with {backend}: {reason}. Use video_backend="pyav", which reads this kind of '
            "file exactly or says what is wrong with it."
        )
    return finish(source.name, backend, album, seconds, chosen, table.duration, table)


def import_backend(backend: str) -> Any:
    """Import decord or torchcodec. Being installed says little: torchcodec loads only with an FFmpeg that fits."""
    try:
        if backend == "decord":
            import decord

            decord.logging.set_level(decord.logging.QUIET)  # its FFmpeg writes to the terminal otherwise
            return decord
        import torchcodec.decoders  # pyright: ignore[reportMissingImports] an extra, which few install

        return torchcodec.decoders
    except Exception as error:  # OSError and RuntimeError where a shared library is missing, besides ImportError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        needs = {
            "decord": "which has wheels for Linux on x86-64 and Windows on AMD64",
            "torchcodec": "in the version that fits your torch, and FFmpeg 4 to 7",
        }
        raise VideoReadError(
            f'video_backend="{backend}" cannot be used: {lines[0][:200]}. Install it with '
            f'`pip install "transformers-linvt[{backend}]"`, {needs[backend]}, or use video_backend="pyav", which is '
            "always there."
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


def _why_wrong(backend: str, table: FrameTable, wanted: dict[int, int]) -> str | None:
    """Why this backend would seek wrongly to one of the wanted time stamps; `None` if it does not."""
    if backend != "decord":
        return None
    for position in {table.key_before(pts) for pts in wanted}:
        if position is None:
            continue
        if position + 1 < len(table.keys) and table.keys[position + 1][1] <= table.keys[position][0]:
            # Seen on an HEVC file with a key frame every other picture: decord landed one key frame too far.
            return "its key frames follow each other so closely that it seeks past them"
    return None


def _why_unsafe(check: PyAVReader, wanted: dict[int, int], sketch: Sketch) -> str | None:
    """
    Why the wanted frames cannot be had whole by seeking, or `None`: PyAV decodes them, and they are not converted.

    decord and torchcodec hand out what their decoder patched up for a broken picture, and say nothing. This is all
    that they cost beyond themselves.
    """
    is_whole = check.by_seeking(wanted, sketch)
    if check.damage.broken:
        return f"the file is damaged ({len(check.damage.broken)} broken packets), which it does not tell"
    if not is_whole:
        return "decoding cannot start at its key frames (intra-refresh or damage)"
    if sketch.is_mirrored:
        return "the picture is to be shown mirrored, and it only turns"
    return None
