"""A video that is still going on: frames are pushed as they come, and asked about at any time."""

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from copy import copy
from typing import Any, overload

import numpy as np
import torch

from ..errors import LinVTInputError, shown
from ..tokenizer.frame_memory import FrameMemory
from ..video.duplicates import frames_of_steps
from ..video.limits import VideoLimits, as_number
from ..video.reading import read_video
from .features import FeatureOrigin, VideoFeatures
from .origin import VideoDigest, digest_of_model
from .pretrained import device_of
from .repeated_frames import FrameRepeater


_FRAMES_AT_ONCE = 8  # that go through the vision tower together
_LOCKS: "weakref.WeakKeyDictionary[Any, threading.RLock]" = weakref.WeakKeyDictionary()


class VideoStream:
    """
    What a camera, a screen or a network stream shows, asked about while it goes on.

    Frames are pushed with their times and may be asked about at any moment; an answer is about everything that was
    pushed until then. However long it goes on, at most `memory_frames` frames are remembered. When there are more,
    each is compared with the remembered one before it, place by place, and the one with the fewest tokens that are new
    is averaged into that, weighted by how many frames each stands for. A token is new that differs from the one of its
    place by more than half of the contrast among all tokens seen (which noise does not). So what repeats is forgotten
    first, however recent, and something that was seen once stays as long as fewer than `memory_frames` moments bring
    as many new tokens. What is forgotten is when, and how long, something was there; the average stays.

    Frames may be pushed in one thread and asked about in others. Nothing runs in the background: a push encodes what
    waits, every few frames. While a question is answered, pushes only wait in line, `max_waiting` frames at most;
    after that they wait for the answer. A stream that stalls is asked about what came before; one that ended
    (`close`) too. Streams of one model take turns.

    Args:
        model ([`LinVTForVideoQA`]): the model.
        processor ([`LinVTProcessor`]): its processor.
        memory_frames (`int`, *optional*, defaults to 128): frames that are remembered, 2 or more. In memory each takes
            what its frame tokens take.
        max_waiting (`int`, *optional*, defaults to 64): frames that may wait, as pixels, to be encoded.
        limits ([`VideoLimits`], *optional*): the largest frame (`max_pixels`).

    Raises:
        LinVTInputError: a setting that is not the number it has to be, or a processor of another model.

    Example (the embedded model, which knows coloured shapes only):

    >>> from transformers_linvt import LinVTForVideoQA, LinVTProcessor, VideoStream, embedded_model_path
    >>> from transformers_linvt.demo.shapes import make_clip
    >>> model = LinVTForVideoQA.from_pretrained(embedded_model_path())
    >>> processor = LinVTProcessor.from_pretrained(embedded_model_path())
    >>> frames, _ = make_clip("static", seed=0, num_frames=8)
    >>> stream = VideoStream(model, processor)
    >>> for second, frame in enumerate(frames):
    ...     stream.push(frame, second)
    >>> stream.num_frames, stream.seconds, isinstance(stream.ask("Is there a red circle?"), str)
    (8, 7.0, True)
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        memory_frames: int = 128,
        max_waiting: int = 64,
        limits: VideoLimits | None = None,
    ) -> None:
        for name, value, least in (("memory_frames", memory_frames, 2), ("max_waiting", max_waiting, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise LinVTInputError(f"{name}={shown(value)}: give a whole number of frames, {least} or more.")
        if not hasattr(processor, "prepare_frames"):
            raise LinVTInputError(f"The processor is {shown(processor)}. Pass the LinVTProcessor of this model.")
        processor.check_fits(model.config)
        self.model, self.processor, self.limits = model, processor, limits
        self.max_waiting = max_waiting
        self.num_frames = 0
        self.seconds: float | None = None
        self.is_closed = False
        self._frame_shape: tuple[int, ...] | None = None
        self._memory = FrameMemory(memory_frames)
        self._finder, self._repeater = processor.duplicate_finder(), FrameRepeater()
        self._waiting: deque[tuple[np.ndarray, float]] = deque()
        self._state = threading.Lock()  # of what waits; held for a moment
        self._model = _LOCKS.setdefault(model, threading.RLock())  # held while the model runs
        self._layout: tuple[str, tuple[int, int]] | None = None

    def __enter__(self) -> "VideoStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def num_remembered(self) -> int:
        """Frames in memory (steps of time, with `frame_path="video"`), without those that wait."""
        return len(self._memory.frames)

    def push(self, frame: Any, seconds: float) -> None:
        """
        A further frame.

        Args:
            frame: a PIL image, or an array or tensor `(height, width, 3)` or `(3, height, width)`, `uint8` or floating
                point in [0, 1]; all of one size.
            seconds (`float`): when it is shown, later than the one before: of any clock.

        Raises:
            LinVTInputError: a time that is not later, another size, or a stream that was closed. The frame is then not
                part of the stream, which goes on.
            VideoReadError: no picture, or one that is too large; likewise.
        """
        time = as_number(seconds)
        if time is None or not np.isfinite(time):
            raise LinVTInputError(f"seconds={shown(seconds)}: give the time of the frame in seconds, a finite number.")
        picture = read_video([frame], timestamps=[0.0], limits=self.limits).frames[0]
        with self._state:
            if self.is_closed:
                raise LinVTInputError("The stream was closed. Make another VideoStream for further frames.")
            if self.seconds is not None and time <= self.seconds:
                raise LinVTInputError(
                    f"A frame of {time} s came behind one of {self.seconds} s. Push frames in the order of time."
                )
            if self._frame_shape is not None and picture.shape != self._frame_shape:
                (height, width, _), (first_height, first_width, _) = picture.shape, self._frame_shape
                raise LinVTInputError(
                    f"A frame of {width}x{height} came in a stream of {first_width}x{first_height}. Bring it to that "
                    "size, or make another VideoStream."
                )
            self._frame_shape, self.seconds = picture.shape, time
            self.num_frames += 1
            self._waiting.append((picture, time))
            num_waiting = len(self._waiting)
        if num_waiting >= min(_FRAMES_AT_ONCE, self.max_waiting) and self._model.acquire(
            blocking=num_waiting >= self.max_waiting
        ):
            try:
                self._encode_waiting()
            finally:
                self._model.release()

    @overload
    def ask(self, question: str, **generate_kwargs: Any) -> str: ...

    @overload
    def ask(self, question: Sequence[str], **generate_kwargs: Any) -> list[str]: ...

    def ask(self, question: str | Sequence[str], **generate_kwargs: Any) -> str | list[str]:
        """
        Answer one or several questions about what was pushed until now.

        Args:
            question: one, or a list of them.
            generate_kwargs: arguments of `generate()`.

        Raises:
            LinVTInputError: nothing was pushed yet, or a question that is no text.
        """
        with self._model:
            return self.model.answer(self.features(), question, self.processor, **generate_kwargs)

    def features(self) -> VideoFeatures:
        """
        What was pushed until now as an encoded video: its frames are those that are remembered.

        Raises:
            LinVTInputError: nothing was pushed yet.
        """
        with self._model:
            memory = self._encode_waiting(also_unfinished=True)
            if not memory.frames or self._layout is None:
                raise LinVTInputError("Nothing was pushed yet. Push a frame before you ask.")
            tokens, layers = memory.stacked()
            seconds = torch.tensor(memory.seconds)
            container, grid_size = self._layout
            tokenizer = self.model.linvt
            device, dtype = device_of(tokenizer), next(tokenizer.parameters()).dtype
            with torch.no_grad():
                refined = tokenizer.refine(
                    tokens[None].to(device, dtype), timestamps=seconds[None].to(device), grid_sizes=[grid_size]
                )
                deepstack = [refined.average(layer[None].to(device)) for layer in layers]
            digest = VideoDigest(seconds)
            digest.feed({"tokens": tokens})
            origin = FeatureOrigin(digest_of_model(self.model.model), digest.hexdigest())
            return VideoFeatures(refined, deepstack, container, grid_size, seconds, origin)

    def close(self) -> None:
        """No further frames come. What was pushed can be asked about as before."""
        with self._state:
            self.is_closed = True

    def _encode_waiting(self, also_unfinished: bool = False) -> FrameMemory:
        """
        Encode and remember what waits, but for frames that a step of time is not complete of.

        Args:
            also_unfinished: return a memory with the unfinished step in it, which the stream's own goes on without.
        """
        step = self.processor.frames_per_step
        while True:
            with self._state:
                count = min(len(self._waiting), max(1, _FRAMES_AT_ONCE // step) * step) // step * step
                batch = [self._waiting.popleft() for _ in range(count)]
            if not batch:
                break
            try:
                self._remember(self._memory, batch)
            except BaseException:  # Ctrl-C too: nothing that was pushed is lost
                with self._state:
                    self._waiting.extendleft(reversed(batch))
                raise
        with self._state:
            rest = list(self._waiting)[: step - 1]
        if not also_unfinished or not rest:
            return self._memory
        memory = self._memory.copy()
        self._remember(memory, rest)
        return memory

    def _remember(self, memory: FrameMemory, batch: Sequence[tuple[np.ndarray, float]]) -> None:
        processor, model = self.processor, self.model.model
        options = processor.frame_options(memory.capacity * processor.frames_per_step)
        finder, repeater = copy(self._finder), copy(self._repeater)  # what fails, or is left behind, was not seen
        pictures, size = np.stack([picture for picture, _ in batch]), processor.frames_per_step
        is_new = finder.find(pictures, size)
        pictures = frames_of_steps(pictures, is_new, size)
        inputs = processor.prepare_frames(pictures, "<stream>", options) if len(pictures) else {}
        times = processor.times_of_steps(np.array([seconds for _, seconds in batch]))
        device, dtype = self.model.working_device, self.model.dtype
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }
        encoded, count = None, int(is_new.sum())
        with torch.no_grad():
            if count:
                encoded = model.bridge.encode_frames(model.base_vlm, inputs, count, model.config.frames_per_chunk)
            encoded = repeater.fill(encoded, torch.from_numpy(is_new))
        if memory is self._memory:
            self._finder, self._repeater = finder, repeater
        self._layout = (encoded.container, encoded.grid_size)
        for place, seconds in enumerate(times.tolist()):
            memory.push(encoded.tokens[place], seconds, [layer[place] for layer in encoded.deepstack])


__all__ = ["VideoStream"]
