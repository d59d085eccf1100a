"""What the page allows who opens it."""

from dataclasses import dataclass, field

from ..errors import LinVTInputError
from ..video.limits import VideoLimits


@dataclass(frozen=True)
class PageSettings:
    """
    What the page allows who opens it. The numbers are ours.

    Args:
        name (`str`): of the model, for the heading.
        max_waiting (`int`, defaults to 16): questions that wait; a further one is refused in words.
        max_new_tokens (`int`, defaults to 256): of one answer.
        max_file_bytes (`int`, defaults to 512 MiB): of a clip; a larger one is refused while it is sent.
        limits ([`VideoLimits`]): of each clip.
        has_examples (`bool`, defaults to `False`): whether the page offers clips of coloured shapes, as the embedded
            model knows them.

    Raises:
        LinVTInputError: a number that is none.
    """

    name: str
    max_waiting: int = 16
    max_new_tokens: int = 256
    max_file_bytes: int = 512 << 20
    limits: VideoLimits = field(default_factory=VideoLimits)
    has_examples: bool = False

    def __post_init__(self) -> None:
        for name in ("max_waiting", "max_new_tokens", "max_file_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LinVTInputError(f"{name}={value!r}: give a whole number, 1 or more.")


__all__ = ["PageSettings"]
