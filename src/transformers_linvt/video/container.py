"""The file as PyAV sees it: its demuxer, the video stream that is meant, its packets, the length that it declares."""

import io
import re
from collections.abc import Iterator
from typing import Any

import av
import av.codec
import av.error
import av.stream
import PIL.Image

from ..errors import VideoReadError, first_line
from .limits import Clock, VideoLimits, check_frame_size
from .source import VideoSource


_MAX_READ_ERRORS_IN_A_ROW = 16
# FFmpeg chooses the demuxer by content. Play lists (HLS, DASH, concat) would open other files and addresses, so only
# formats that hold their data themselves are on this list; the audio ones are there for a better message.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mpegvideo,h264,hevc,m4v,ivf,obu,mxf,nut,rm,"
    "dv,yuv4mpegpipe,mp3,wav,flac,aac,ac3,aiff"
)
# Decoders with other names than the codings they are for, and those of the sound that is found beside a video.
_FURTHER_DECODERS = (
    "libdav1d", "libaom-av1", "libvpx", "libvpx-vp9", "msmpeg4", "flv", "mpegvideo", "aac", "mp3", "mp3float", "mp2",
    "ac3", "eac3", "opus", "libopus", "vorbis", "flac", "alac", "pcm_s16le", "pcm_s16be", "pcm_u8", "wmav2",
)  # fmt: skip
# AVI stores no time stamps: a frame is shown at the place of its chunk among all chunks, the empty ones counted. What
# FFmpeg makes of that is wrong where B frames are packed together, and late by the delay of the decoder with H.264.
FORMATS_WITHOUT_TIME_STAMPS = {"avi"}
# Codings of single pictures, in which thumbnails are stored (and some videos, too).
_PICTURE_CODECS = {"mjpeg", "png", "bmp", "webp", "gif", "tiff", "jpeg2000", "libopenjpeg", "ljpeg", "apng"}


class VideoFile:
    """One opened video file: its video stream, its packets, and an end to both."""

    def __init__(
        self, source: VideoSource, clock: Clock, limits: VideoLimits, num_threads: int = 1, **options: str
    ) -> None:
        self.source, self.clock, self.limits = source, clock, limits
        try:
            self.container = _open_container(source.for_reading(), **_whitelist(limits), **options)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise VideoReadError(f"{source.name} cannot be read: {_describe_non_video(source, clock)}.") from error
        try:
            self.stream = self._video_stream()
            context = self.stream.codec_context
            declared = declared_num_bytes(source, clock) if context is None else None
            if declared is not None and declared > source.num_bytes:
                raise VideoReadError(f"{source.name} cannot be read: {_describe_non_video(source, clock)}.")
            if context is None:
                raise VideoReadError(
                    f"{source.name}: its video is in a codec that this build of FFmpeg does not know. Re-encode it, "
                    "for example to H.264."
                )
            if limits.allowed_codecs is not None and self.codec not in limits.allowed_codecs:
                raise VideoReadError(
                    f"{source.name}: its video is coded as {self.codec}, which is not among the codings that are "
                    f"decoded. Re-encode it, for example to H.264, or, if you trust where it comes from, pass "
                    f"limits=VideoLimits(allowed_codecs=({self.codec!r},))."
                )
            if self.codec == "h264":  # it then marks pictures of which it had to make up a part
                context.options = {"err_detect": "aggressive"}
            if self.codec == "hevc":  # this decoder keeps most errors to itself otherwise, and looks at no checksum
                context.options = {"err_detect": "explode+crccheck"}
            self.holds_pictures = self.codec in _PICTURE_CODECS
            if self.holds_pictures and limits.max_pixels is not None:
                # for those without a header that can be read; twice, as the decoder counts the padding of its rows
                context.options = {"max_pixels": str(2 * int(limits.max_pixels))}
            context.thread_count = num_threads
            context.thread_type = "AUTO" if num_threads > 1 else "SLICE"
        except BaseException:
            self.container.close()
            raise

    def _video_stream(self) -> Any:
        """
        The first stream that is no thumbnail, one that is marked as default before one that is not.

        Not simply the first: some programs put a thumbnail in front of the video as a stream of its own.
        """
        # A cover picture in an audio file is stored as a video stream of one frame.
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self.container.streams.video if not stream.disposition & cover]
        if not streams:
            kinds = sorted({stream.type for stream in self.container.streams}) or ["nothing"]
            raise VideoReadError(
                f"{self.source.name} holds no video, only {', '.join(kinds)}. Give a file with a picture track."
            )

        def rank(stream: Any) -> tuple[bool, bool]:
            return _is_thumbnail(stream), not stream.disposition & av.stream.Disposition.default

        return min(streams, key=rank)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.container.close()

    @property
    def format(self) -> str:
        return self.container.format.name.split(",")[0]

    @property
    def has_places_only(self) -> bool:
        """Whether the times of frames are the places of their packets, which the decoder is told as time stamps."""
        return self.format in FORMATS_WITHOUT_TIME_STAMPS

    @property
    def codec(self) -> str:
        """Name of the coding, not of the decoder: `"av1"` where the decoder is libdav1d."""
        context = self.stream.codec_context
        return getattr(context.codec, "canonical_name", None) or context.name

    def packets(self) -> Iterator[Any]:
        """
        Packets of the video stream in file order, the last one empty (it flushes the decoder).

        `None` stands for a place that could not be read; reading goes on behind it, but not for ever.
        """
        errors = 0
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    self.clock.check()
                    errors = 0
                    if self.holds_pictures and packet.size:
                        _check_picture_size(self.source.name, packet, self.limits)
                    yield packet
                return
            except (av.error.FFmpegError, OSError):
                self.clock.check()
                yield None
                errors += 1
                if errors >= _MAX_READ_ERRORS_IN_A_ROW:
                    return


def _open_container(file: str | io.BytesIO, **options: str) -> Any:
    """
    `av.open` with what every PyAV from 15 on takes, and further options of the demuxer.

    Before 19 it fails on a title that is not UTF-8 unless told what to do about it; 19 has no such argument.
    """
    # not `options`: PyAV 15 crashes on them where streams are found late (MPEG program streams)
    container_options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file", **options}
    try:
        return av.open(file, container_options=container_options, metadata_errors="replace")
    except TypeError:
        return av.open(file, container_options=container_options)


def _whitelist(limits: VideoLimits) -> dict[str, str]:
    """
    Options that keep FFmpeg from decoding what is not allowed while it looks for the streams.

    Nor pictures: they say their size themselves, whatever the header of the file says, and one of 16000 x 16000 takes
    hundreds of megabytes before anybody can look at a limit.
    """
    allowed = limits.allowed_codecs
    names = av.codec.codecs_available if allowed is None else [*allowed, *_FURTHER_DECODERS]
    return {"codec_whitelist": ",".join(name for name in names if name not in _PICTURE_CODECS)}


def _check_picture_size(name: str, packet: Any, limits: VideoLimits) -> None:
    """Refuse a picture that is larger than allowed by its own header; what has none is left to the decoder."""
    try:
        with PIL.Image.open(io.BytesIO(bytes(packet))) as picture:
            width, height = picture.size
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        if limits.max_pixels is None:
            return
        raise VideoReadError(
            f"{name} holds a picture that is too large: {first_line(error)} Scale it down."
        ) from error
    except Exception:  # of PIL: damaged, or a frame of a GIF, which lies in what the file says about all
        return
    check_frame_size(name, height, width, limits)


def _is_thumbnail(stream: Any) -> bool:
    """Whether a video stream is likely to be a single picture: in a coding of pictures, and not said to hold more."""
    context = stream.codec_context
    return context is not None and context.name in _PICTURE_CODECS and stream.frames <= 1


def _describe_non_video(source: VideoSource, clock: Clock) -> str:
    """What a file that no demuxer takes looks like, and what to do about it."""
    head = source.head.lstrip().lower()
    declared = declared_num_bytes(source, clock)
    if declared is not None and declared > source.num_bytes:
        return f"it is cut off, only {source.num_bytes} of its {declared} bytes are there. Download it again"
    if head.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<body")):
        return (
            "it is a web page (HTML), probably an error or log-in page saved in place of the video. Download it again"
        )
    if head.startswith((b"#extm3u", b"ffconcat", b"<mpd")):
        return "it is a play list that refers to other files, which are not followed. Give the video file itself"
    if source.head[4:8] == b"ftyp":
        return (
            "it begins like an MP4 but its index ('moov') is missing or damaged: the file is cut off or its recording "
            "was not finished. Download it again"
        )
    if not source.head.strip(b"\0"):
        return "it holds only zeros, as an unfinished download does. Download it again"
    return "its content is not that of a video file, or it is damaged at the very beginning. Check where it comes from"


def declared_num_bytes(source: VideoSource, clock: Clock) -> int | None:
    """
    How long the file says it is: the end of its last MP4 box, Matroska segment or RIFF chunk; `None` if it does not.

    Demuxers read a cut-off Matroska or fragmented MP4 file to where it stops and report no error at all.
    """
    with source.open_binary() as file:
        if source.head[:4] == b"\x1aE\xdf\xa3":
            return _declared_matroska_bytes(source.head)
        is_riff = source.head[:4] == b"RIFF"
        if not is_riff and source.head[4:8] not in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return None
        position = 0
        while position < source.num_bytes:
            clock.check()  # a file may be made of nothing but empty boxes
            file.seek(position)
            header = file.read(16)
            if is_riff:
                if header[:4] != b"RIFF" or len(header) < 8:
                    break
                size = 8 + int.from_bytes(header[4:8], "little")
                size += size % 2
            else:
                size = int.from_bytes(header[:4], "big")
                if size == 1:
                    size = int.from_bytes(header[8:16], "big")
                # A box of size 0 reaches to the end of the file; anything else below 8 is not a box.
                if size < 8 or len(header) < 8 or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", header[4:8]):
                    break
            position += size
        return max(position, source.num_bytes)


def _declared_matroska_bytes(head: bytes) -> int | None:
    def number(position: int) -> tuple[int | None, int]:
        """An EBML number: the leading zero bits of its first byte say how many bytes it has."""
        first = head[position] if position < len(head) else 0
        length = 9 - first.bit_length()
        raw = int.from_bytes(head[position : position + length], "big")
        value = raw & ((1 << (7 * length)) - 1)
        unknown = first == 0 or value == (1 << (7 * length)) - 1  # all ones: written by a live recording
        return (None if unknown else value), position + length

    size, position = number(4)
    segment = head.find(b"\x18S\x80g", position + (size or 0))
    if segment < 0:
        return None
    size, position = number(segment + 4)
    return None if size is None else position + size
