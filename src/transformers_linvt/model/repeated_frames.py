"""Frames that repeat the one before them: what is encoded once, and counts in W as often as it was shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from ..bases.layouts import EncodedFrames
from ..errors import LinVTInputError


# Among the inputs of frames: False at every frame that repeats the one before, of which there are no pixels.
IS_NEW = "is_new"


class FrameRepeater:
    """
    Tokens for all frames of a video, fed piece by piece, from those of the frames that are new.

    A frame that repeats another gets its tokens, so all that follows is as if each had been encoded: times, masses,
    the weights of W and the evidence are those of all frames. What is saved is the vision tower.

    Example:

    >>> encoded = EncodedFrames(torch.tensor([[[1.0]], [[2.0]]]), [], (1, 1), "tensor")
    >>> repeater = FrameRepeater()
    >>> repeater.fill(encoded, torch.tensor([True, False, True])).tokens.flatten().tolist()
    [1.0, 1.0, 2.0]
    >>> repeater.fill(None, torch.tensor([False])).tokens.flatten().tolist()
    [2.0]
    """

    def __init__(self) -> None:
        self._shown: EncodedFrames | None = None  # the last frame that was new

    def fill(self, encoded: EncodedFrames | None, is_new: torch.Tensor) -> EncodedFrames:
        """
        The next frames.

        Args:
            encoded ([`EncodedFrames`], *optional*): of the new ones; None where there is none.
            is_new (`torch.BoolTensor` of shape `(num_frames,)`): which they are.

        Raises:
            LinVTInputError: the first frame of a video is said to repeat one.
        """
        before, parts = self._shown, [one for one in (self._shown, encoded) if one is not None]
        if not parts or (before is None and not bool(is_new[0])):
            raise LinVTInputError(
                "The first frame of a video is marked as one that repeats the frame before it. Pass frame_is_new as "
                "LinVTProcessor returned it."
            )
        last = parts[-1]
        self._shown = _map(last, lambda one: one[-1:].clone())  # not the whole piece
        if encoded is not None and bool(is_new.all()):
            return encoded
        joined = parts[0] if len(parts) == 1 else _joined(*parts)
        place = is_new.to(last.tokens.device).cumsum(0) - int(before is None)
        return _map(joined, lambda one: one.index_select(0, place))


def _map(encoded: EncodedFrames, change: Callable[[torch.Tensor], torch.Tensor]) -> EncodedFrames:
    return replace(encoded, tokens=change(encoded.tokens), deepstack=[change(one) for one in encoded.deepstack])


def _joined(before: EncodedFrames, encoded: EncodedFrames) -> EncodedFrames:
    layers = zip(before.deepstack, encoded.deepstack, strict=True)
    return replace(
        encoded,
        tokens=torch.cat([before.tokens, encoded.tokens]),
        deepstack=[torch.cat(pair) for pair in layers],
    )


def take_is_new(
    frame_inputs: Mapping[str, torch.Tensor], frames_per_video: Sequence[int]
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """
    The inputs of the frames that are new, and for each video which they are.

    Raises:
        LinVTInputError: `frame_is_new` does not fit the number of frames.
    """
    inputs = dict(frame_inputs)
    if (given := inputs.pop(IS_NEW, None)) is None:
        return inputs, [torch.ones(count, dtype=torch.bool) for count in frames_per_video]
    is_new = torch.as_tensor(given).bool().cpu()
    if is_new.ndim != 1 or len(is_new) != sum(frames_per_video):
        raise LinVTInputError(
            f"frame_is_new has the shape {tuple(is_new.shape)}, the videos have {sum(frames_per_video)} frames. Pass "
            "it and frames_per_video as LinVTProcessor returned them."
        )
    return inputs, list(is_new.split(list(frames_per_video)))


__all__ = ["FrameRepeater", "IS_NEW", "take_is_new"]
