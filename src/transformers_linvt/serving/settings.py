"""What a server allows its clients."""

import os
from dataclasses import dataclass, field, replace

from ..errors import LinVTInputError
from ..video.limits import VideoLimits


_COUNTS = ("max_waiting", "max_videos", "max_pictures", "max_new_tokens", "default_new_tokens", "max_body_bytes",
           "max_text_length")  # fmt: skip


@dataclass(frozen=True)
class ServerSettings:
    """
    What a server allows its clients. The numbers are ours.

    Args:
        name (`str`): what clients call the model.
        media_root (`str`, *optional*): folder that `file:` addresses may name files of; without it they name none.
        allowed_domains (`tuple[str, ...]`): hosts that videos and pictures may be fetched from; see `allowed_hosts` of
            [`VideoLimits`]. None by default: what a server fetches, it fetches from inside its network.
        max_waiting (`int`, defaults to 64): requests that are answered or wait; a further one gets status 429.
        readers (`int`, defaults to 2): threads that read videos while the model answers other requests.
        max_videos, max_pictures (`int`, default to 8 and 32): of one request.
        max_new_tokens (`int`, defaults to 2,048): most that a request may ask for.
        default_new_tokens (`int`, defaults to 256): of a request that says nothing.
        max_body_bytes (`int`, defaults to 128 MiB): of a request, videos as `data:` addresses included.
        max_text_length (`int`, defaults to 200,000): characters of all texts of a request together.
        limits ([`VideoLimits`]): of each video and of the videos of a request.
        api_key (`str`, *optional*): what clients have to send as `Authorization: Bearer ...`.

    Raises:
        LinVTInputError: a setting that is not the number it has to be, or a `media_root` that is no folder or the root
            of the file system.
    """

    name: str
    media_root: str | None = None
    allowed_domains: tuple[str, ...] = ()
    max_waiting: int = 64
    readers: int = 2
    max_videos: int = 8
    max_pictures: int = 32
    max_new_tokens: int = 2048
    default_new_tokens: int = 256
    max_body_bytes: int = 128 << 20
    max_text_length: int = 200_000
    limits: VideoLimits = field(default_factory=VideoLimits)
    api_key: str | None = None

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "readers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < (0 if name == "max_pictures" else 1):
                raise LinVTInputError(f"{name}={value!r}: give a whole number, 1 or more.")
        if self.media_root is not None:
            _check_media_root(self.media_root)
        if self.default_new_tokens > self.max_new_tokens:
            object.__setattr__(self, "default_new_tokens", self.max_new_tokens)
        object.__setattr__(self, "limits", replace(self.limits, allowed_hosts=tuple(self.allowed_domains)))


def _check_media_root(root: str) -> None:
    if not os.path.isdir(root):
        raise LinVTInputError(f"media_root={root!r} is no folder. Name the folder that clients may name files of.")
    folder = os.path.realpath(root)
    if folder == os.path.dirname(folder):
        raise LinVTInputError(
            f"media_root={root!r} is the root of the file system: clients could name every file that the server may "
            "read. Name the folder that has the videos."
        )


__all__ = ["ServerSettings"]
