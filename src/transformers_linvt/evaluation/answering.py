"""How a model is shown a clip and asked: through LinVT, or as pictures, or not at all; and what its answer means."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig

from ..bases.loading import load_base, load_base_processor
from ..demo.questions import NUMBERS
from ..errors import CheckpointError, LinVTInputError, check_folder, unknown_argument
from ..model.configuration_linvt import LinVTConfig
from ..model.modeling_linvt import LinVTForVideoQA
from ..model.origin import digest_of_model
from ..model.processing_linvt import LinVTProcessor
from ..video.duplicates import levels_of
from .diagnostics import FRAMES_PER_SECOND


ARMS = {
    "linvt": "every frame through LinVT",
    "middle": "the middle frame, as a picture",
    "uniform": "some frames, spread evenly, as pictures",
    "all": "every frame as a picture",
    "text": "the question alone",
}

_UNITS = {str(number): word for number, word in enumerate(NUMBERS)}
_SAME: dict[str, str] = {**_UNITS, "upper": "top", "lower": "bottom", "color": "colour", "none": "zero"}


class Reply(NamedTuple):
    """What was answered, and the visual tokens that the language model got for it."""

    text: str
    visual_tokens: int


class Shown(NamedTuple):
    """A clip in pixels `(num_frames, size, size, 3)`, uint8 RGB, and what is asked about it."""

    frames: np.ndarray
    questions: Sequence[str]


def parse_answer(text: str, options: Sequence[str]) -> str | None:
    """
    The option that an answer names, or None if it names none or several.

    Capitals, punctuation and other words do not matter, digits count as words.

    >>> parse_answer("It is in the Upper-Left corner.", ("top left", "bottom left"))
    'top left'
    >>> parse_answer("red or blue", ("red", "blue")) is None
    True
    """
    found: list[str] = re.findall(r"[a-z0-9]+", text.lower())
    words = f" {' '.join(_SAME.get(word, word) for word in found)} "
    named = [option for option in options if f" {option} " in words]
    return named[0] if len(named) == 1 else None


class Answerer:
    """
    A model with its processor, and the way in which it is shown clips.

    Args:
        model: a [`LinVTForVideoQA`], or an image-text model of transformers.
        processor: that of the model.
        arm (`str`, *optional*):
            One of `ARMS`; `"linvt"` for a LinVT, `"uniform"` for another model. A LinVT can be asked in every way; as
            pictures its frames go to the base, with whatever adapter is on.
        batch_size (`int`, defaults to 16):
            Prompts at a time.
        num_uniform (`int`, defaults to 8):
            Frames of the arm `"uniform"`.
        max_new_tokens (`int`, defaults to 16):
            Length of an answer at most.
        instruction (`str`, defaults to `""`):
            Written behind every question, such as "Answer with one word.".

    Raises:
        LinVTInputError: an unknown arm, or `"linvt"` for a model of another kind.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        arm: str | None = None,
        batch_size: int = 16,
        num_uniform: int = 8,
        max_new_tokens: int = 16,
        instruction: str = "",
    ) -> None:
        self.is_linvt = hasattr(model, "encode_video")
        arm = ("linvt" if self.is_linvt else "uniform") if arm is None else arm
        if arm not in ARMS:
            raise LinVTInputError(unknown_argument(arm, ARMS))
        if arm == "linvt" and not self.is_linvt:
            raise LinVTInputError(
                f"arm='linvt' needs a LinVT, not a {type(model).__name__}. Use arm='uniform', 'middle' "
                "or 'all', or put LinVT around it with linvt wrap."
            )
        self.model, self.processor, self.arm = model.eval(), processor, arm
        self.batch_size, self.num_uniform, self.max_new_tokens = batch_size, num_uniform, max_new_tokens
        self.instruction = instruction.strip()

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        device: str | None = None,
        dtype: str = "auto",
        loading: Mapping[str, Any] | None = None,
        skip_duplicate_frames: bool | float | None = None,
        **options: Any,
    ) -> "Answerer":
        """
        A LinVT checkpoint or an image-text model, by repository id or folder.

        Args:
            name, device, dtype: of the model; the fastest device there is if none is given.
            loading: further arguments of `from_pretrained`, such as `revision`.
            skip_duplicate_frames (`bool` or `float`, *optional*): instead of the processor's own setting; of the arm
                `"linvt"` only.
            options: arguments of the class.

        Raises:
            CheckpointError: nothing loadable, or the device is not there.
            LinVTInputError: frames are to be left out that do not go through LinVT.
        """
        check_folder(name)
        loading = dict(loading or {})
        try:
            kind = PreTrainedConfig.get_config_dict(name, **loading)[0].get("model_type")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"The model {name!r} has no config that can be read: {error}") from error
        if kind == LinVTConfig.model_type:
            model: Any = LinVTForVideoQA.from_pretrained(name, dtype=dtype, **loading)
            processor = LinVTProcessor.from_pretrained(name, **loading)
        else:
            model, processor = load_base(name, dtype=dtype, **loading), load_base_processor(name, **loading)
        try:
            model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except (RuntimeError, AssertionError) as error:
            raise CheckpointError(f"{name!r} could not be moved to the device {device!r}: {error}") from error
        answerer = cls(model, processor, **options)
        if skip_duplicate_frames is not None:
            if answerer.arm != "linvt":
                raise LinVTInputError(
                    f"skip_duplicate_frames={skip_duplicate_frames} has no effect with arm={answerer.arm!r}, whose "
                    "frames do not go through LinVT. Leave it out, or use arm='linvt'."
                )
            levels_of(skip_duplicate_frames)
            answerer.processor.skip_duplicate_frames = skip_duplicate_frames
        return answerer

    @property
    def policy(self) -> str | None:
        """The policy of `ceilings` that the arm is, where it is one."""
        policies = {"middle": "middle frame", "uniform": f"uniform {self.num_uniform}", "all": "all"}
        return policies.get(self.arm, "question only" if self.arm == "text" else None)

    def identity(self) -> dict[str, Any]:
        """What tells this model from another: its class, its sizes and, of a LinVT, a digest of its weights."""
        about = {"class": type(self.model).__name__, "arm": self.arm, "parameters": self._count_parameters()}
        if self.arm == "uniform":
            about["num_uniform"] = self.num_uniform
        if self.is_linvt:
            about["digest"] = digest_of_model(self.model.model)
            about["num_video_tokens"] = self.model.config.num_video_tokens
            if levels := levels_of(self.processor.skip_duplicate_frames):  # identical ones change no answer
                about["skip_duplicate_frames"] = levels
            if self.arm == "linvt" and self.processor.add_timestamps:
                about["add_timestamps"] = self.processor.add_timestamps
        return about

    @torch.no_grad()
    def answer(self, clips: Sequence[Shown]) -> list[list[Reply]]:
        """One reply per question of every clip. A clip of one frame is a picture and never goes through LinVT."""
        replies: list[list[Reply]] = [[] for _ in clips]
        rows = [(index, question) for index, clip in enumerate(clips) for question in clip.questions]
        through = [self.arm == "linvt" and len(clip.frames) > 1 for clip in clips]
        for is_through, ask in ((True, self._ask_linvt), (False, self._ask_pictures)):
            own = [row for row in rows if through[row[0]] is is_through]
            for (index, _), reply in zip(own, ask(clips, own), strict=True):
                replies[index].append(reply)
        return replies

    def _ask_linvt(self, clips: Sequence[Shown], rows: Sequence[tuple[int, str]]) -> Iterator[Reply]:
        features: dict[int, Any] = {}
        by_length = groupby(rows, lambda row: len(clips[row[0]].frames))  # clips of one length have the same times
        for part in (part for _, own in by_length for part in self._batches(list(own))):
            wanted = dict.fromkeys(index for index, _ in part)
            features = {index: features.get(index) or self._encode(clips[index].frames) for index in wanted}
            videos = [features[index] for index, _ in part]
            worded = [self._worded(question) for _, question in part]
            inputs = self.processor.question_inputs(worded, videos[0].timestamps).to(self.model.working_device)
            tokens = inputs["video_mask"].sum(1).tolist()
            output = self.model.generate(**inputs, video_features=videos, **self._how)
            yield from self._replies(output, inputs, tokens)

    def _encode(self, frames: np.ndarray) -> Any:
        seconds = [index / FRAMES_PER_SECOND for index in range(len(frames))]
        inputs = self.processor.video_inputs(frames, num_frames=len(frames), timestamps=seconds)
        return self.model.encode_video(**inputs)

    def _ask_pictures(self, clips: Sequence[Shown], rows: Sequence[tuple[int, str]]) -> Iterator[Reply]:
        for part in self._batches(rows):
            chats = []
            for index, question in part:
                content = [{"type": "image", "image": Image.fromarray(one)} for one in self._seen(clips[index].frames)]
                content.append({"type": "text", "text": self._worded(question)})
                chats.append([{"role": "user", "content": content}])
            inputs = self.processor.apply_chat_template(
                chats,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                processor_kwargs={"return_tensors": "pt", "padding": True, "padding_side": "left"},
            ).to(self.model.device)
            tokens = self.count_visual(inputs["input_ids"])
            yield from self._replies(self.model.generate(**inputs, **self._how), inputs, tokens)

    def _seen(self, frames: np.ndarray) -> np.ndarray:
        """The frames that become pictures."""
        count = len(frames)
        if self.arm == "text":
            return frames[:0]
        if self.arm == "middle":
            return frames[count // 2 : count // 2 + 1]
        if self.arm == "uniform":
            return frames[sorted({(2 * i + 1) * count // (2 * self.num_uniform) for i in range(self.num_uniform)})]
        return frames

    @property
    def _how(self) -> dict[str, Any]:
        return {"max_new_tokens": self.max_new_tokens, "do_sample": False}

    def _worded(self, question: str) -> str:
        return f"{question} {self.instruction}".strip()

    def _batches(self, rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(rows), self.batch_size):
            yield rows[start : start + self.batch_size]

    def _replies(self, output: torch.Tensor, inputs: Mapping[str, Any], tokens: Sequence[int]) -> Iterator[Reply]:
        answers = output[:, inputs["input_ids"].shape[1] :]
        for text, count in zip(self._decode(answers, skip_special_tokens=True), tokens, strict=True):
            yield Reply(text.strip(), count)

    @property
    def _decode(self) -> Callable[..., list[str]]:
        return self.processor.batch_decode

    def count_visual(self, input_ids: torch.Tensor) -> list[int]:
        """Visual tokens of every prompt `(batch, length)`; 0 where the base does not say what a visual token is."""
        config = getattr(self.model.config, "base_config", self.model.config)
        token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return (input_ids == token).sum(1).tolist() if token is not None else [0] * len(input_ids)

    def _count_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())
