"""Videos and pictures named by an address that needs no network: `data:` holds them, `file://` leads to a path."""

import base64
import binascii
import os
import re
import urllib.parse
import urllib.request

from ..errors import VideoReadError
from .limits import shorten_name


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
# No slash behind the type: `data:` may also be the beginning of a path.
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[^,/]*)?),", re.IGNORECASE)
_LONGEST_HEAD = 1000  # characters in which the head of a data address has to end


def scheme_of(text: str) -> str | None:
    """
    What stands before `://`, in lower case; `None` for a path.

    Example:

    >>> scheme_of("HTTPS://example.com/clip.mp4"), scheme_of("clips/a.mp4")
    ('https', None)
    """
    found = _SCHEME.match(text)
    return found.group(1).lower() if found else None


def is_data_url(text: str) -> bool:
    """
    Whether a text is an address that holds its file itself (RFC 2397).

    Example:

    >>> is_data_url("data:video/mp4;base64,AAAA"), is_data_url("data:/clips/a,b.mp4")
    (True, False)
    """
    return _DATA_URL.match(text[:_LONGEST_HEAD]) is not None


def is_address(text: str) -> bool:
    """Whether a text is an address of any kind rather than a path."""
    return scheme_of(text) is not None or is_data_url(text)


def name_of_address(text: str) -> str:
    """
    How messages and results name an address or a path: of a data address no more than its type.

    Example:

    >>> name_of_address("data:video/mp4;base64,AAAAIGZ0eXBpc29t")
    '<data:video/mp4>'
    """
    if found := _DATA_URL.match(text[:_LONGEST_HEAD]):
        return f"<data:{shorten_name(found.group(1) or 'text/plain')}>"
    return shorten_name(text)


def read_data_url(text: str, max_bytes: int | None) -> bytes:
    """
    The bytes that a data address holds.

    Args:
        text (`str`): `data:<type>;base64,<data>`, or percent-encoded without `;base64`.
        max_bytes (`int`, *optional*): Most bytes that it may hold, checked before anything is decoded.

    Raises:
        [`VideoReadError`]: more than `max_bytes`, or not base64.

    Example:

    >>> read_data_url("data:image/png;base64,iVBORw==", max_bytes=10)
    b'\\x89PNG'
    """
    name, head = name_of_address(text), _DATA_URL.match(text[:_LONGEST_HEAD])
    if head is None:
        raise VideoReadError(f"{name} is not a data address. Write data:video/mp4;base64,<data>.")
    is_base64 = head.group(2).lower().endswith(";base64")
    # characters that stand for no byte of their own: of %3D all but one, and blanks between lines
    idle = 2 * text.count("%") + (sum(map(text.count, " \t\r\n")) if is_base64 else 0)
    least = len(text) - head.end() - idle
    least = least // 4 * 3 - 2 if is_base64 else least  # base64 holds 3 bytes in 4 characters
    if max_bytes is not None and least > max_bytes:
        raise VideoReadError(_too_many(name, least, max_bytes))
    body = text[head.end() :]
    if is_base64:
        try:
            body = urllib.parse.unquote(body) if "%" in body else body
            body = re.sub(r"\s+", "", body).rstrip("=")
            data = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise VideoReadError(
                f"{name} is not base64 behind its comma: {error}. Encode the file with base64.b64encode."
            ) from error
    else:
        data = urllib.parse.unquote_to_bytes(body)
    if max_bytes is not None and len(data) > max_bytes:
        raise VideoReadError(_too_many(name, len(data), max_bytes))
    return data


def _too_many(name: str, num_bytes: int, max_bytes: int) -> str:
    return (
        f"{name} holds at least {num_bytes} bytes, over the limit of {max_bytes}. Cut or re-encode it, or pass "
        "limits=VideoLimits(max_bytes=...)."
    )


def path_of_file_url(text: str) -> str:
    """
    The path that a `file://` address leads to, with `%20` and the like decoded.

    `?` and `#` belong to the name, as no file has a query or a fragment and many addresses are written without
    encoding them.

    Raises:
        [`VideoReadError`]: a relative path, or the file of another machine.

    Example:

    >>> path_of_file_url("file:///clips/a%20b.mp4")
    '/clips/a b.mp4'
    """
    host, slash, rest = text[len("file://") :].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise VideoReadError(
            f"{shorten_name(text)} names the machine {shorten_name(host)!r} before its path. Write the whole path "
            "behind three slashes: file:///folder/clip.mp4."
        )
    return urllib.request.url2pathname(f"/{rest}")


def path_below(path: str, root: str | os.PathLike) -> str | None:
    """
    Where a path leads, if that is in the folder `root`; `None` if it is not, whatever links it goes through.

    Args:
        path (`str`): Absolute, or relative to `root`.
        root (`str`): The folder.

    Example:

    >>> path_below("../etc/passwd", "/srv/media") is None
    True
    """
    if "\0" in path:
        return None
    folder = os.path.realpath(root)
    target = os.path.realpath(os.path.join(folder, path))
    try:
        return target if os.path.commonpath([folder, target]) == folder and target != folder else None
    except ValueError:  # two drives of Windows
        return None
