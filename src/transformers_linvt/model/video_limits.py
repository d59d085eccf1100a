"""What a video may cost at most."""

from dataclasses import dataclass, fields

from .errors import VideoReadError


@dataclass(frozen=True)
class VideoLimits:
    """
    What a video may cost at most. Every limit is on by default; `None` switches one off.

    The numbers are ours: they let through an hour of 4K and stop what would fill a machine or keep it busy for hours.

    Args:
        max_bytes (`int`, defaults to 2 GiB): Size of the file, or of what a URL or a file object may deliver.
        max_duration (`float`, defaults to 3600): Length of the file in seconds, whatever part of it is asked for.
        max_pixels (`int`, defaults to 4096 * 2304): Height times width of a frame.
        max_frames (`int`, defaults to 1024): Frames returned.
        max_output_bytes (`int`, defaults to 4 GiB): Memory of the returned frames together.
        max_decode_seconds (`float`, defaults to 120): Wall time for reading and decoding, looked at between packets.
        max_download_seconds (`float`, defaults to 120): Wall time for fetching a URL.
        allow_private_addresses (`bool`, defaults to `False`):
            Whether a URL may lead to loopback, private, link-local or reserved addresses.

    Raises:
        [`VideoReadError`]: if a limit is not a positive number or `None`.

    Example:

    >>> VideoLimits(max_duration=7200.0).max_duration
    7200.0
    """

    max_bytes: int | None = 2 << 30
    max_duration: float | None = 3600.0
    max_pixels: int | None = 4096 * 2304
    max_frames: int | None = 1024
    max_output_bytes: int | None = 4 << 30
    max_decode_seconds: float | None = 120.0
    max_download_seconds: float | None = 120.0
    allow_private_addresses: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.name == "allow_private_addresses" or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise VideoReadError(
                    f"VideoLimits({entry.name}={value!r}): a limit is a positive number, or None for no limit."
                )
