"""Where a video comes from: a path, bytes, a file object, an address, a `datasets` entry, all as one kind."""

import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import VideoReadError
from .download import check_url_allowed, download_video
from .limits import VideoLimits, check_num_bytes, shorten_name
from .media_address import is_data_url, name_of_address, path_of_file_url, read_data_url, scheme_of


_COPY_CHUNK = 1 << 20  # bytes


@dataclass
class VideoSource:
    """A video file as a path or as bytes, under its full name and the one that messages use for it."""

    full_name: str
    path: str | None = None
    data: bytes | None = None
    head: bytes = field(default=b"", repr=False)
    num_bytes: int = 0

    @property
    def name(self) -> str:
        return shorten_name(self.full_name)

    def for_reading(self) -> str | io.BytesIO:
        """What PyAV and decord open; each call gives an independent reader."""
        return io.BytesIO(self.data) if self.data is not None else str(self.path)

    @property
    def state(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file or puts another one in its place; empty of bytes."""
        if self.path is None:
            return ()
        try:
            status = os.stat(self.path)
        except OSError:
            return (-1,)
        return status.st_size, status.st_mtime_ns, status.st_ino

    def open_binary(self) -> Any:
        return io.BytesIO(self.data) if self.data is not None else open(str(self.path), "rb")


@contextmanager
def opened_source(video: Any, limits: VideoLimits, allow_urls: bool) -> Iterator[Any]:
    """A [`VideoSource`] for anything that holds a video file, or the decoder itself if its file cannot be reached."""
    if isinstance(video, dict):
        video = _from_datasets_dict(video)
    elif hasattr(video, "get_frame_at") and hasattr(video, "metadata"):
        encoded = getattr(video, "_hf_encoded", None)
        if not isinstance(encoded, dict):
            yield video
            return
        video = _from_datasets_dict(encoded)
    if isinstance(video, os.PathLike):
        video = os.fspath(video)
    with ExitStack() as stack:
        if isinstance(video, str):
            if is_data_url(video):
                yield _source_from_bytes(read_data_url(video, limits.max_bytes), limits, name_of_address(video))
                return
            scheme = scheme_of(video)
            if scheme in (None, "file"):
                yield _source_from_path(video if scheme is None else path_of_file_url(video), limits)
                return
            check_url_allowed(video, scheme, allow_urls)
            path = stack.enter_context(_temporary_path())
            name = download_video(video, path, limits)
            yield _source_from_path(path, limits, name=name)
        elif isinstance(video, bytes | bytearray | memoryview):
            yield _source_from_bytes(video, limits, "<bytes in memory>")
        elif hasattr(video, "read"):
            path = stack.enter_context(_temporary_path())
            name = getattr(video, "name", None)
            name = name if isinstance(name, str) else "<file object>"
            _copy_file_object(video, path, shorten_name(name), limits)
            yield _source_from_path(path, limits, name=name)
        else:
            raise VideoReadError(
                f"A video of type {type(video).__name__} is not understood. Give a path, bytes, a file object, an "
                "array or tensor of frames, a list of PIL images, or an entry of a `datasets` video column."
            )


def _from_datasets_dict(entry: dict) -> Any:
    data, path = entry.get("bytes"), entry.get("path")
    if data is not None:
        return data
    if path is not None:
        return path
    raise VideoReadError(
        f"A dictionary with the keys {sorted(map(str, entry))} holds no video: 'bytes' or 'path' must be there and "
        "not None, as in a `datasets` video column."
    )


def _source_from_path(path: str, limits: VideoLimits, name: str | None = None) -> VideoSource:
    """Check that `path` is a readable file of a bearable size, before any decoder sees it."""
    full_name = path if name is None else name
    name = shorten_name(full_name)
    if "\0" in path:
        raise VideoReadError(f"{name!r} holds a null character, which no file name can. Was it meant as bytes?")
    # An absolute path cannot be taken for a protocol ("concat:a|b") by the decoders.
    path = os.path.abspath(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoReadError(f"{name} is a directory, not a video file. Give the path of one file in it.")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for its other end
            raise VideoReadError(f"{name} is a pipe or a device, not a file. Save the video to a file first.")
        with open(path, "rb") as file:
            head = file.read(4096)
    except FileNotFoundError as error:
        raise VideoReadError(
            f"{name} does not exist. Check the path (the working directory is {os.getcwd()})."
        ) from error
    except PermissionError as error:
        raise VideoReadError(
            f"{name} cannot be opened: no permission to read it. Change its mode or owner."
        ) from error
    except OSError as error:
        raise VideoReadError(f"{name} cannot be opened: {error.strerror or error}.") from error
    except UnicodeError as error:  # half of a surrogate pair, as from a name that was decoded wrongly
        raise VideoReadError(f"{name!a} holds a character that no file name can. How was it decoded?") from error
    check_num_bytes(name, status.st_size, limits)
    return VideoSource(full_name=full_name, path=path, head=head, num_bytes=status.st_size)


def _source_from_bytes(data: Any, limits: VideoLimits, name: str) -> VideoSource:
    data = bytes(data)
    check_num_bytes(name, len(data), limits)
    return VideoSource(full_name=name, data=data, head=data[:4096], num_bytes=len(data))


@contextmanager
def _temporary_path() -> Iterator[str]:
    """Path of an empty file that is gone afterwards, whatever happens. Not open: Windows opens a file only once."""
    try:
        handle, path = tempfile.mkstemp(prefix="linvt_video_")
    except OSError as error:
        raise VideoReadError(
            f"No temporary file can be made for a video ({error.strerror or error}). Set TMPDIR to a folder with room."
        ) from error
    os.close(handle)
    try:
        yield path
    finally:
        os.unlink(path)


def _copy_file_object(reader: Any, path: str, name: str, limits: VideoLimits) -> None:
    num_bytes = 0
    with open(path, "wb") as file:
        while True:
            try:
                chunk = reader.read(_COPY_CHUNK)
            except Exception as error:  # a reader from anywhere may raise anything
                raise VideoReadError(
                    f"{name} broke off after {num_bytes} bytes ({type(error).__name__}: {str(error)[:100]}). Look at "
                    "where it reads from."
                ) from error
            if isinstance(chunk, str):
                raise VideoReadError(f"{name} delivers text, not bytes. Open the file in binary mode ('rb').")
            if chunk is not None and not isinstance(chunk, bytes | bytearray | memoryview):
                raise VideoReadError(
                    f"{name} delivers {type(chunk).__name__}, not bytes. Give an object whose read(n) returns bytes."
                )
            if not chunk:
                _check_position(reader, name, num_bytes)
                return
            num_bytes += len(chunk)
            if limits.max_bytes is not None and num_bytes > limits.max_bytes:
                raise VideoReadError(
                    f"{name} delivers more than the limit of {limits.max_bytes} bytes. Cut or re-encode the video, or "
                    "pass limits=VideoLimits(max_bytes=...)."
                )
            try:
                file.write(chunk)
            except OSError as error:
                raise VideoReadError(
                    f"{name} cannot be copied to a temporary file ({error.strerror or error}). Make room, set TMPDIR "
                    "to a folder with room, or give a path."
                ) from error


def _check_position(reader: Any, name: str, num_bytes: int) -> None:
    """Say of a file object that was read before that it was: it is not empty, it stands at its end."""
    position = 0
    with suppress(Exception):  # a reader from anywhere may know no position, or raise anything
        position = int(reader.tell())
    if num_bytes == 0 and position > 0:
        raise VideoReadError(
            f"{name} has nothing left to read: it stands at byte {position}, its end. Call seek(0) before giving it "
            "again."
        )
