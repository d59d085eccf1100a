"""The processor: chat messages with videos -> what [`LinVTForVideoQA`] takes."""

import json
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import TextKwargs
from transformers.utils import PROCESSOR_NAME, logging
from transformers.utils.chat_template_utils import render_jinja_template

from ..bases.base import BaseAdapter, adapter_of, default_video_tokens, load_processor_at
from ..bases.families import FRAME_PREFIX
from ..bases.loading import AddedTexts, VisualMarkers, model_type_of
from ..errors import CheckpointError, LinVTError, LinVTInputError, first_line, shown
from ..remote_code import write_code
from ..video.frames import VideoFrames
from ..video.limits import VideoLimits
from ..video.reading import read_video
from .configuration_linvt import AUTO_MAP
from .messages import (
    PICTURE_KEYS,
    SAMPLING_ARGUMENTS,
    Messages,
    nearest_name,
    parse_conversations,
    parse_messages,
    parts_of,
    resolved,
    sampling_of,
    source_of,
    texts_of,
    unknown_argument,
)
from .pictures import read_named_pictures, read_picture


logger = logging.get_logger(__name__)

VIDEO_TOKEN = (
    "<|linvt_video|>"  # stands for a video in rendered text, until it is expanded; never reaches the tokenizer
)

_SETTINGS = ("num_video_tokens", "base_model_type", "num_frames", "add_timestamps", "frame_path")
_HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
# What else users of transformers give `AutoProcessor.from_pretrained`; a pipeline adds arguments that are the model's.
_PART_ARGUMENTS = ("padding_side", "truncation_side", "model_max_length", "min_pixels", "max_pixels", "size")
_TOKENIZER_ARGUMENTS = (
    "padding",
    "padding_side",
    "truncation",
    "max_length",
    "pad_to_multiple_of",
    "add_special_tokens",
    "return_tensors",
    "return_mm_token_type_ids",
)
_SANE_LENGTH = 10**9  # tokenizers without a limit say 10**30
# Written around the question while a template renders, to see where it ends up. Private-use characters: templates
# neither strip nor change them.
_QUESTION_START, _QUESTION_END = "\U000f5a01", "\U000f5a02"

_Span = tuple[int, int]


class RenderedPrompt(str):
    """
    A rendered prompt that remembers where the question stands in it, and the assistant's words if asked for.

    It is a `str` in every other respect; one that was cut or glued together is a plain `str` and remembers nothing.

    Attributes:
        question_spans (`tuple[tuple[int, int], ...]`): first character and the one behind the last.
        assistant_spans (`tuple[tuple[int, int], ...]`, *optional*): None where they were not asked for.
    """

    question_spans: tuple[_Span, ...]
    assistant_spans: tuple[_Span, ...] | None

    def __new__(
        cls, text: str, question_spans: Iterable[_Span] = (), assistant_spans: Iterable[_Span] | None = None
    ) -> "RenderedPrompt":
        self = super().__new__(cls, text)
        self.question_spans = tuple(question_spans)
        self.assistant_spans = None if assistant_spans is None else tuple(assistant_spans)
        return self

    def replace_at(self, pieces: Sequence[tuple[int, int, str]]) -> "RenderedPrompt":
        """Write `new` over the characters `first` to `last` of every piece `(first, last, new)`; spans move along."""
        written, position, begins, ends, gained = [], 0, [], [], [0]
        for first, last, new in pieces:
            written += [self[position:first], new]
            position = last
            begins.append(first)
            ends.append(last)
            gained.append(gained[-1] + len(new) - (last - first))

        def moved(spans: Iterable[_Span]) -> list[_Span]:
            # What is written between two spans belongs to neither.
            return [
                (start + gained[bisect_right(ends, start)], stop + gained[bisect_left(begins, stop)])
                for start, stop in spans
            ]

        text = "".join([*written, self[position:]])
        return RenderedPrompt(
            text,
            moved(self.question_spans),
            None if self.assistant_spans is None else moved(self.assistant_spans),
        )


@dataclass
class _Conversation:
    """One conversation, rewritten for the base: videos are pictures now; what was rewritten is listed in order."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    marked_messages: list[dict[str, Any]] = field(default_factory=list)  # with the question between private characters
    visuals: list[str] = field(default_factory=list)  # "picture" or "video"
    questions: list[str] = field(default_factory=list)  # text parts of the last user turn that has text


@dataclass
class _Arguments:
    """Keyword arguments of one call, by whom they are for."""

    sampling: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict)
    frames: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)
    add_timestamps: bool | None = None
    video_root: str | os.PathLike | None = None


class LinVTProcessor(ProcessorMixin):
    """
    A base model's processor that also takes videos.

    A video becomes `num_video_tokens` copies of the base's own image token between the base's own markers, its frames
    go through the base's own image processor, one tile each. Pictures and text are left to the base's processor: a
    prompt without a video gives exactly what the base's processor gives.

    Args:
        base_processor ([`ProcessorMixin`]): of the base model.
        num_video_tokens (`int`, defaults to 256): tokens per video; the same number as the model's.
        base_model_type (`str`, *optional*): `config.model_type` of the base; by default what the class tells.
        num_frames (`int`, defaults to 32): frames sampled when a call says neither `num_frames` nor `fps`.
        add_timestamps (`bool`, defaults to `False`): write the times of the frames into the prompt, behind each video.
        frame_path (`str`, defaults to `"image"`): the same as the model's. `"video"` merges frames into steps of time
            as the base's own video path does, where it has one that can.

    Raises:
        UnsupportedBaseError: the base's processor has no tokenizer or image processor, or does not say how it writes a
            picture.
        LinVTInputError: a number that is none, or a base that is a LinVTProcessor already.

    Example (the embedded model):

    >>> from transformers_linvt import LinVTProcessor, embedded_model_path
    >>> processor = LinVTProcessor.from_pretrained(embedded_model_path())
    >>> processor.question_inputs(["What colour is the circle?"])["video_mask"].sum().item()
    16
    """

    def __init__(
        self,
        base_processor: ProcessorMixin,
        num_video_tokens: int = 256,
        base_model_type: str | None = None,
        num_frames: int = 32,
        add_timestamps: bool = False,
        frame_path: str = "image",
    ) -> None:
        if isinstance(base_processor, LinVTProcessor):
            raise LinVTInputError("The base is a LinVTProcessor already. Pass its base_processor, or use it as it is.")
        for name, value in (("num_video_tokens", num_video_tokens), ("num_frames", num_frames)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise LinVTInputError(
                    f"{name}={value!r}: give a whole number, 1 or more"
                    + (", the same as the model's." if name == "num_video_tokens" else ".")
                )
        self.base_processor = base_processor
        self.num_video_tokens = num_video_tokens
        self.base_model_type = base_model_type if base_model_type is not None else model_type_of(base_processor)
        self.num_frames = num_frames
        self.add_timestamps = bool(add_timestamps)
        self.adapter.check_processor(base_processor)
        if frame_path not in ("image", "video"):
            raise LinVTInputError(f"frame_path={frame_path!r}: choose 'image' or 'video'.")
        self.frame_path = frame_path
        self.frames_per_step = self.adapter.frames_per_step(base_processor) if frame_path == "video" else 1
        self.markers = self.adapter.markers(base_processor)
        self.added = AddedTexts.of(base_processor, self.adapter.family)

    @classmethod
    def get_attributes(cls) -> list[str]:
        """No sub-processors of its own: transformers would take any argument named after a modality for one."""
        return []

    @property
    def adapter(self) -> BaseAdapter:
        """How this kind of base is talked to."""
        return adapter_of(self.base_model_type)

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base_processor.tokenizer

    @property
    def image_processor(self) -> Any:
        """The base's image processor."""
        return self.base_processor.image_processor

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The base's chat template, or ours where its checkpoints have none; setting it sets the base's."""
        return self.adapter.chat_template(self.base_processor)

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        self.base_processor.chat_template = template

    @property
    def model_input_names(self) -> list[str]:
        """Names the model may get from this processor."""
        names = list(self.base_processor.model_input_names)
        frames = sorted(FRAME_PREFIX + name for name in self._frame_input_names)
        return [*names, *frames, "frames_per_video", "video_timestamps", "video_mask", "question_mask"]

    @cached_property
    def _frame_input_names(self) -> frozenset[str]:
        """
        What the model takes of the image processor's output; some of it only serves to write the prompt.

        `batch_num_images` (LLaVA-OneVision) says which pictures belong together; frames are counted by
        `frames_per_video`.
        """
        unused = {*self.base_processor.unused_input_names, "batch_num_images"}
        family = self.adapter.family
        # Inkling counts a picture's patches for the prompt alone; a video is cut into its frames by them.
        needed = {"pixel_values", family.grid} if family.layout == "grid" else set()
        return (frozenset(self.image_processor.model_input_names) - unused) | needed

    @cached_property
    def _placeholders(self) -> tuple[str, ...]:
        """Texts that stand for something else in every prompt of this base."""
        own = (VIDEO_TOKEN, self.markers.placeholder, self.markers.token)
        return tuple(dict.fromkeys(map(str, [*own, *self.base_processor.all_special_multimodal_tokens])))

    @cached_property
    def _marker_tokens(self) -> tuple[str, ...]:
        """Special tokens that the base writes around a picture."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        ids = [i for i in self.base_processor.image_token_ids if i is not None]
        tokens = [
            *self.tokenizer.convert_ids_to_tokens(ids),
            *self.tokenizer.tokenize(self.markers.before),
            *self.tokenizer.tokenize(self.markers.after),
        ]
        return tuple(dict.fromkeys(token for token in tokens if token in added))

    @cached_property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Ids of everything that stands for a picture or around one; nobody says these words."""
        ids = [self.markers.token_id, *self.base_processor.image_token_ids]
        return tuple({i for i in [*ids, *self.tokenizer.convert_tokens_to_ids(self._marker_tokens)] if i is not None})

    def check_fits(self, config: Any) -> None:
        """
        Refuse a model that takes something else than this processor makes.

        Args:
            config ([`LinVTConfig`]): of the model.

        Raises:
            LinVTInputError: another number of video tokens, or another base.
        """
        if self.num_video_tokens != config.num_video_tokens:
            raise LinVTInputError(
                f"The processor writes num_video_tokens={self.num_video_tokens} tokens per video, the model has "
                f"{config.num_video_tokens}. Make both with the same number."
            )
        if self.frame_path != config.frame_path:
            raise LinVTInputError(
                f"The processor has frame_path={self.frame_path!r}, the model {config.frame_path!r}. Make both with "
                "the same."
            )
        image_token_id = self.adapter.image_token_id(config.base_config)
        if self.markers.token_id != image_token_id:
            raise LinVTInputError(
                f"The processor is of another base ({self.base_model_type or 'unknown'}): its image token "
                f"{self.markers.token!r} is {self.markers.token_id}, the model's "
                f"({config.base_config.model_type}) is {image_token_id}. Make it with "
                "LinVTProcessor.from_base of the model's base."
            )

    # -- videos --

    def read_video(self, video: Any, video_root: str | os.PathLike | None = None, **sampling: Any) -> VideoFrames:
        """
        Sampled frames of one video.

        Args:
            video: a path, bytes, frames in memory (array, tensor, list of pictures), a `datasets` video, a URL with
                `allow_urls=True`, or [`VideoFrames`], which come back as they are, whatever the sampling.
            video_root (*optional*): folder that a relative path starts from, instead of the current one.
            sampling: `num_frames` or `fps` (with `max_frames`), `start`, `end`, `video_backend`, `limits`,
                `allow_urls`, `timestamps` (seconds of each given frame, for frames in memory); see [`read_video`].
                With neither `num_frames` nor `fps` the processor's own `num_frames`, at most `max_frames`.

        Raises:
            LinVTInputError: an unknown argument.
            VideoReadError: see [`read_video`].
        """
        for name in sampling:
            if name not in SAMPLING_ARGUMENTS:
                raise LinVTInputError(unknown_argument(name, SAMPLING_ARGUMENTS))
        if isinstance(video, VideoFrames):
            _check_frames(video)
            return video
        sampling = {name: value for name, value in sampling.items() if value is not None}
        if "num_frames" not in sampling and "fps" not in sampling:
            most = sampling.get("max_frames")
            sampling["num_frames"] = min(self.num_frames, most) if isinstance(most, int) else self.num_frames
        return read_video(resolved(video, video_root), **sampling)

    def video_inputs(
        self,
        video: Any,
        num_frames: int | None = None,
        fps: float | None = None,
        start: float | None = None,
        end: float | None = None,
        max_frames: int | None = None,
        video_backend: str | None = None,
        limits: VideoLimits | None = None,
        allow_urls: bool | None = None,
        timestamps: Sequence[float] | None = None,
    ) -> BatchFeature:
        """
        One video as [`LinVTForVideoQA.encode_video`] takes it.

        Args:
            video, num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls, timestamps: as in
                [`read_video`](LinVTProcessor.read_video).

        Returns:
            `BatchFeature` with the frames under the base's names with the prefix `frame_`, `frames_per_video` of shape
            `(1,)` and `video_timestamps` of shape `(num_frames,)` in seconds.
        """
        sampling = (num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls, timestamps)
        named = dict(zip(SAMPLING_ARGUMENTS, sampling, strict=True))
        return BatchFeature(self._frames_of([self.read_video(video, **named)]))

    def _frames_of(self, videos: Sequence[VideoFrames], options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Model inputs of the frames of several videos, one video after the other along the first axis.

        Every video goes through the image processor alone: frames of one call may have to share a size. Indices that
        an image processor counts over one call (Molmo2's pooling) therefore count from the first frame of their video.
        """
        if not videos:
            return {}
        each = []
        for video in videos:
            refused = f"The base's image processor refused the frames of {shown(video.source)}"
            make, frames = self.adapter.frame_inputs, list(video.frames)
            made = self._foreign(refused, make, self.base_processor, frames, options)
            made = {name: torch.as_tensor(made[name]) for name in made if name in self._frame_input_names}
            each.append(made if self.frames_per_step == 1 else self.adapter.merge_frames(self.base_processor, made))
        steps = [self.steps_of(video) for video in videos]
        data = {FRAME_PREFIX + name: _concatenate([one[name] for one in each]) for name in each[0]}
        data["frames_per_video"] = torch.tensor([len(video.frames) for video in steps])
        data["video_timestamps"] = torch.cat([torch.as_tensor(video.timestamps).float() for video in steps])
        return data

    def steps_of(self, video: VideoFrames) -> VideoFrames:
        """
        What the model sees as the frames of a video: the frames, or with `frame_path="video"` its steps of time.

        A step is shown by its first frame; its time is the middle between its first and its last frame, as Qwen3-VL
        counts it. The last frame is repeated to fill the last step.
        """
        size = self.frames_per_step
        if size == 1:
            return video
        times = np.append(video.timestamps, [video.timestamps[-1]] * (-len(video.frames) % size)).reshape(-1, size)
        return replace(video, frames=video.frames[::size], timestamps=(times[:, 0] + times[:, -1]) / 2)

    # -- chat --

    def question_inputs(self, questions: Sequence[str]) -> BatchFeature:
        """
        Prompts that ask each question about one video whose frames are given elsewhere (encoded before).

        Returns:
            `BatchFeature` with `input_ids`, `attention_mask`, `video_mask`, `question_mask`, all of shape
            `(len(questions), length)`, padded on the left, and the base's type ids where it has them.

        Raises:
            LinVTInputError: no question, an empty one, or one that holds a placeholder.
        """
        if isinstance(questions, str) or not questions or not all(isinstance(one, str) for one in questions):
            raise LinVTInputError(f"question_inputs takes a list of one or more questions, not {shown(questions)}.")
        prompts = []
        for question in questions:
            content = [{"type": "video"}, {"type": "text", "text": question}]
            messages = parse_messages([{"role": "user", "content": content}])
            self._check_texts([messages], has_video=True)
            prompts.append(self._render(self._rewrite(messages), None, {"add_generation_prompt": True}))
        data = self._tokenize(prompts, [], {"padding_side": "left"}, "pt")
        return BatchFeature(data)

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "auto",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Chat messages with videos, pictures and text -> a prompt, or all model inputs in one call.

        The question, which TTA looks at, is the text of the last user turn that has any. Its tokens are found by where
        the template writes it, so it may stand elsewhere in the chat as well. Where a template changes the question's
        text itself, all text of the prompt is marked if an answer is to be generated, and none otherwise: an answer to
        learn must not condition its own video tokens. A tokenizer without character offsets gives the question's
        tokens by the number of tokens before it, which may be one off at its ends.

        Args:
            conversation: messages, or a list of conversations. Content parts `{"type": "video", "path": ...}` (or
                `"video"`, `"url"`, `"frames"`), `{"type": "image", ...}`, `{"type": "text", ...}`, and OpenAI's
                `video_url` and `image_url`; several videos, pictures and turns are fine, and so are turns that call
                tools. A video part may carry sampling arguments of its own, which come before those of the call, and
                the `timestamps` of frames in memory. A key that nobody knows is refused.
            chat_template: instead of the base's own.
            tokenize: read the videos and return model inputs; otherwise the rendered prompt, in which every video is
                `<|linvt_video|>`, to be given to the processor's call together with the videos.
            add_generation_prompt, continue_final_message: as in transformers. With `add_generation_prompt` batches are
                padded on the left.
            return_assistant_tokens_mask: add `assistant_masks`, 1 at what the template has between
                `{% generation %}` and `{% endgeneration %}`.
            return_dict: everything, instead of only `input_ids`.
            return_tensors: `"pt"`, `"np"` or None for lists. `"auto"` is `"pt"` where there is a video, and the base's
                own default where there is none. Frames stay tensors where lists are asked for.
            processor_kwargs: as in transformers; may hold everything below as well.
            kwargs: sampling (`num_frames`, `fps`, `start`, `end`, `max_frames`, `video_backend`, `limits`,
                `allow_urls`), `add_timestamps`, `video_root` (folder that relative paths start from, and that files
                named by `url`, `video_url` and `image_url` have to lie in; without it these name none); tokenizer
                arguments (`padding`, `truncation`, `max_length`, ...); options of the image processor, for pictures
                and frames; any of them in `videos_kwargs`, `text_kwargs` and `images_kwargs` (pictures only). The rest
                goes to the template.

        Raises:
            LinVTInputError: messages that are none, an empty question, a placeholder typed into a text, a part
                without a source or with two, an unknown key in a part, a prompt longer than the tokenizer's limit, a
                base without chat template, a misspelt argument.
            VideoReadError: a video could not be read.
        """
        template = self._template(chat_template)
        arguments = self._sort_arguments({**kwargs, **(processor_kwargs or {})}, template)
        conversations, is_batched = parse_conversations(conversation, arguments.video_root)
        video_parts = [list(parts_of(messages, "video")) for messages in conversations]
        self._check_texts(conversations, any(video_parts))
        _warn_of_lost_tool_calls(conversations, template)
        flags = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **arguments.template,
        }
        if not any(video_parts):
            given = {
                "tokenize": tokenize,
                "return_dict": return_dict,
                "return_tensors": return_tensors,
                "return_assistant_tokens_mask": return_assistant_tokens_mask,
                **flags,
            }
            return self._chat_without_video(conversations, is_batched, template, arguments, given)

        writes_times = self.add_timestamps if arguments.add_timestamps is None else arguments.add_timestamps
        sources = [[source_of(part, tokenize) for part in parts] for parts in video_parts]
        pictures = [self._pictures_of(messages, arguments, tokenize) for messages in conversations]
        videos: list[list[VideoFrames] | None] = [None] * len(conversations)
        if tokenize or writes_times:
            videos = [
                [self.read_video(one, **sampling_of(part, arguments.sampling)) for one, part in zip(*row, strict=True)]
                for row in zip(sources, video_parts, strict=True)
            ]
        rewritten = [
            self._rewrite(messages, frames if writes_times else None)
            for messages, frames in zip(conversations, videos, strict=True)
        ]
        prompts = [self._render(one, template, flags, return_assistant_tokens_mask) for one in rewritten]
        if not tokenize:
            return prompts if is_batched else prompts[0]
        if add_generation_prompt:
            arguments.text.setdefault("padding_side", "left")
        if return_tensors != "auto":
            arguments.text["return_tensors"] = return_tensors
        inputs = self._with_videos(prompts, [one for row in videos for one in row or []], pictures, arguments)
        return inputs if return_dict else inputs["input_ids"]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        question: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Rendered prompts with pictures and videos -> model inputs.

        Args:
            images: pictures as the base's processor takes them.
            text: prompts with the base's image placeholder per picture and `<|linvt_video|>` per video (what
                `apply_chat_template(tokenize=False)` returns).
            videos: one video, or a list in the order of the placeholders, or a list of such lists, one per prompt; see
                [`read_video`](LinVTProcessor.read_video) for what a video may be.
            question: the question inside each prompt, which TTA looks at (where it stands last). A prompt as
                `apply_chat_template` returned it knows its question. In any other string (one that was cut or joined
                too) nothing is marked without `question`, with a warning: it may hold the answer to be learnt, which
                must not condition its own video tokens.
            kwargs: sampling, tokenizer and image-processor arguments, as in `apply_chat_template`. `return_tensors` is
                `"pt"` where there is a video and the base's own default where there is none.

        Raises:
            LinVTInputError: the number of placeholders is not that of the videos or pictures, the question is not in
                the prompt, a misspelt argument.
            VideoReadError: a video could not be read.
        """
        arguments = self._sort_arguments(kwargs, None)
        texts = [text] if isinstance(text, str) else text
        if texts is not None and (
            not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts)
        ):
            raise LinVTInputError(f"text must be a string or a list of strings, not {shown(text)}.")
        sources = _nested_videos(videos)
        num_placeholders = sum(one.count(VIDEO_TOKEN) for one in texts or ())
        if not any(sources) and not num_placeholders:
            images = read_named_pictures(images, arguments.sampling)
            return self._base_inputs(text, images, {**arguments.text, **arguments.pictures, **arguments.template})
        if texts is None:
            raise LinVTInputError("videos were given without text. Use video_inputs for a video alone.")
        _check_video_counts(texts, sources)
        prompts = _with_questions(texts, question)
        pictures = _per_prompt(images, texts, self.markers)
        loaded = [[self.load_picture(one, arguments.sampling) for one in row] for row in pictures]
        frames = [self.read_video(video, **arguments.sampling) for row in sources for video in row]
        return self._with_videos(prompts, frames, loaded, arguments)

    # -- arguments --

    def _sort_arguments(self, kwargs: Mapping[str, Any], template: str | None) -> _Arguments:
        """Keyword arguments by whom they are for; what nobody knows is the template's, if it is no misspelling."""
        accepted = getattr(self.image_processor, "valid_kwargs", None)
        image_names = set(getattr(accepted, "__annotations__", ())) - {"return_tensors"}
        result, kwargs = _Arguments(), dict(kwargs)
        result.text.update(kwargs.pop("text_kwargs", None) or {})
        result.pictures.update(kwargs.pop("images_kwargs", None) or {})
        for name, value in dict(kwargs.pop("videos_kwargs", None) or {}).items():
            if name not in SAMPLING_ARGUMENTS and name not in image_names:
                raise LinVTInputError(f"videos_kwargs: {unknown_argument(name, (*SAMPLING_ARGUMENTS, *image_names))}")
            (result.sampling if name in SAMPLING_ARGUMENTS else result.frames)[name] = value
        own = ("add_timestamps", "video_root", "images", "videos", "text")
        known = (*SAMPLING_ARGUMENTS, *_TOKENIZER_ARGUMENTS, *own)
        for name, value in kwargs.items():
            if name in SAMPLING_ARGUMENTS:
                result.sampling[name] = value
            elif name in ("add_timestamps", "video_root"):
                setattr(result, name, value)
            elif name in _TOKENIZER_ARGUMENTS or name in TextKwargs.__annotations__:
                result.text[name] = value
            elif name in image_names:
                result.pictures[name] = result.frames[name] = value
            elif template is not None and re.search(rf"\b{re.escape(name)}\b", template):
                result.template[name] = value
            elif nearest_name(name, known):
                raise LinVTInputError(unknown_argument(name, known))
            else:
                result.template[name] = value
        return result

    def _template(self, chat_template: str | None) -> str:
        """The template to render: a given one, the base's own, or the one of several that has the given name."""
        own = self.chat_template
        if isinstance(own, Mapping):
            name = "default" if chat_template is None else chat_template
            if chat_template is None and name not in own:
                raise LinVTInputError(
                    f"The base has several chat templates ({', '.join(own)}), none named 'default'. Name one with "
                    "chat_template=..."
                )
            return own.get(name, name)
        if chat_template is None and own is None:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} has no chat template. Pass chat_template=..., or set "
                "processor.chat_template."
            )
        return chat_template if chat_template is not None else own

    def training_inputs(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        learned_turns: Sequence[Sequence[int]],
        videos: Sequence[Sequence[VideoFrames]],
        chat_template: str | None = None,
        by_generation_tags: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Whole conversations, answers included, as a model trains on them.

        An answer is found where the template writes it: behind the prompt rendered up to it (with the generation
        prompt), up to the end of the same conversation rendered with it. That is how the model will be asked.

        Args:
            conversations: as in [`apply_chat_template`]; with and without videos and pictures, mixed as one likes.
            learned_turns: for each conversation the positions of the messages that are to be learned.
            videos: for each conversation the frames of its videos, in order.
            chat_template: instead of the base's own.
            by_generation_tags: learn instead what the template has between `{% generation %}` and
                `{% endgeneration %}`.
            kwargs: `add_timestamps`, tokenizer arguments and options of the image processor, as in
                [`apply_chat_template`].

        Returns:
            `BatchFeature` padded on the right, with `assistant_masks` of shape `(batch, length)`, 1 at what is to be
            learned. Without any video there are no `frame_*`, `frames_per_video` and `video_timestamps`.

        Raises:
            LinVTInputError: as [`apply_chat_template`]; and if the template rewrites earlier turns when a later one
                is added, so that the answer cannot be found.
        """
        template = self._template(chat_template)
        arguments = self._sort_arguments(kwargs, template)
        checked, _ = parse_conversations([list(messages) for messages in conversations])
        self._check_texts(checked, any(videos))
        _warn_of_lost_tool_calls(checked, template)
        writes_times = self.add_timestamps if arguments.add_timestamps is None else arguments.add_timestamps
        pictures = [self._pictures_of(messages, arguments, True) for messages in checked]
        prompts = []
        for messages, turns, frames in zip(checked, learned_turns, videos, strict=True):
            if (found := len(list(parts_of(messages, "video")))) != len(frames):
                raise LinVTInputError(f"A conversation has {found} video parts and {len(frames)} videos were given.")
            times = frames if writes_times else None
            prompt = self._render(self._rewrite(messages, times), template, arguments.template, by_generation_tags)
            if not by_generation_tags:
                spans = [self._answer_span(messages, turn, times, template, arguments, prompt) for turn in turns]
                prompt = RenderedPrompt(str(prompt), prompt.question_spans, spans)
            prompts.append(prompt)
        arguments.template = {}
        arguments.text = {"padding": True, "padding_side": "right", "return_tensors": "pt", **arguments.text}
        return self._with_videos(prompts, [one for row in videos for one in row], pictures, arguments)

    def _answer_span(
        self,
        messages: Sequence[Mapping[str, Any]],
        turn: int,
        videos: Sequence[VideoFrames] | None,
        template: str,
        arguments: _Arguments,
        prompt: str,
    ) -> _Span:
        """Where message number `turn` stands in the rendered conversation."""

        def render(number: int, **flags: Any) -> str:
            if number == 0:
                return ""
            part = messages[:number]
            frames = videos[: len(list(parts_of(part, "video")))] if videos is not None else None
            return str(self._render(self._rewrite(part, frames), template, {**arguments.template, **flags}))

        is_answer = messages[turn]["role"] == "assistant"
        before, behind = render(turn, add_generation_prompt=is_answer), render(turn + 1)
        if is_answer and behind.startswith(before + self.added.last):
            before += self.added.last  # which the base's processor would write there
        if is_answer and not behind.startswith(before):
            before = _up_to_text(render(turn), behind, messages[turn])
        if not (behind.startswith(before) and prompt.startswith(behind)):
            raise LinVTInputError(
                f"The chat template writes message {turn + 1} differently when other messages follow, so its tokens "
                "cannot be told. Pass a chat template with {% generation %} tags and assistant_only_loss=True."
            )
        return len(before), len(behind)

    def _check_texts(self, conversations: Sequence[Sequence[Mapping[str, Any]]], has_video: bool) -> None:
        """Refuse texts that hold what stands for a picture or a video."""
        refused = (*self._placeholders, *(self._marker_tokens if has_video else ()))
        for messages in conversations:
            for text in texts_of(messages):
                if token := next((token for token in refused if token in text), None):
                    raise LinVTInputError(
                        f"The text {shown(text)} holds {token!r}, which stands for a picture or video in prompts of "
                        "this base. Remove it; videos and pictures are content parts of their own."
                    )

    # -- pictures --

    def _pictures_of(self, messages: Sequence[Mapping[str, Any]], arguments: _Arguments, needed: bool) -> list[Any]:
        parts = list(parts_of(messages, "image"))
        sources = [source_of(part, needed) for part in parts]
        return [self.load_picture(source, arguments.sampling) for source in sources] if needed else []

    def load_picture(self, source: Any, sampling: Mapping[str, Any] | None = None) -> Any:
        """
        A picture from a path, an address, base64 or bytes; arrays, tensors and pictures come back as they are.

        Args:
            source: see above, or an undecoded picture of `datasets`.
            sampling: `allow_urls` and `limits`, for addresses.

        Raises:
            LinVTInputError: no picture, or one that cannot be read.
        """
        return read_picture(source, sampling)

    # -- prompts --

    def _chat_without_video(
        self,
        conversations: list[list[dict[str, Any]]],
        is_batched: bool,
        template: str,
        arguments: _Arguments,
        given: Mapping[str, Any],
    ) -> Any:
        """Exactly what the base's processor makes of it, with batches padded if tensors are asked for."""
        if given["tokenize"]:
            for part in (part for messages in conversations for part in parts_of(messages, "image")):
                picture = self.load_picture(source_of(part), arguments.sampling)
                for key in PICTURE_KEYS:
                    part.pop(key, None)
                part["image"] = picture
        text = dict(arguments.text)
        if len(conversations) > 1 and given["return_tensors"] not in (None, "auto"):
            text.setdefault("padding", True)

        def make(chats: Sequence[Messages]) -> Any:
            return self._foreign(
                "The base's processor refused the conversation",
                self.base_processor.apply_chat_template,
                chats if is_batched else chats[0],
                chat_template=template,
                processor_kwargs={**text, **arguments.pictures},
                **given,
            )

        return _made_of_silent_turns(make, conversations)

    def _base_inputs(self, text: Any, images: Any, kwargs: Mapping[str, Any]) -> BatchFeature:
        refused = "The base's processor refused the inputs"
        return self._foreign(refused, self.base_processor, images=images, text=text, **kwargs)

    def _foreign(self, complaint: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call something of the base that sees what the user gave; its complaints come out as ours."""
        try:
            return function(*args, **kwargs)
        except LinVTError:
            raise
        except Exception as error:  # a template or a processor from anywhere may raise anything
            raise LinVTInputError(f"{complaint}: {first_line(error)}") from error

    def _rewrite(
        self, messages: Sequence[Mapping[str, Any]], videos: Sequence[VideoFrames] | None = None
    ) -> _Conversation:
        """Videos become pictures for the base's template; with `videos`, their times are written behind them."""
        return _rewritten(messages, None if videos is None else [self.steps_of(video) for video in videos])

    def _render(
        self,
        conversation: _Conversation,
        template: str | None,
        flags: Mapping[str, Any],
        with_assistant_spans: bool = False,
    ) -> RenderedPrompt:
        """The base's template, with `<|linvt_video|>` where a video stands, and where the question stands in it."""
        template = self._template(template)
        is_asked = any(question.strip() for question in conversation.questions)
        if flags.get("add_generation_prompt") and not is_asked:
            raise LinVTInputError("The question is empty. Ask something about the video.")

        def write(messages: list[dict[str, Any]]) -> str:
            refused = "The chat template refused the conversation"
            render = self.base_processor.apply_chat_template

            def make(chats: Sequence[Messages]) -> str:
                return self._foreign(refused, render, chats[0], chat_template=template, tokenize=False, **flags)

            return _made_of_silent_turns(make, [messages])

        text = write(conversation.messages)
        spans: list[_Span] = []
        if is_asked:
            without_marks, spans = _take_marks_out(write(conversation.marked_messages))
            if without_marks != text or not spans:
                logger.warning_once("The chat template changes the text of the question, so its tokens are not known.")
                spans = [(0, len(text))] if flags.get("add_generation_prompt") else []
        assistant = self._assistant_spans(conversation, template, flags, text) if with_assistant_spans else None
        if self.adapter.family.prepends_visuals:
            front = self.markers.placeholder * len(conversation.visuals)
            text, spans = front + text, [(start + len(front), stop + len(front)) for start, stop in spans]
            if assistant is not None:
                assistant = [(start + len(front), stop + len(front)) for start, stop in assistant]
        places = [match.start() for match in re.finditer(re.escape(self.markers.placeholder), text)]
        if len(places) != len(conversation.visuals):
            raise LinVTInputError(
                f"The chat template wrote {len(places)} placeholders {self.markers.placeholder!r} for "
                f"{len(conversation.visuals)} videos and pictures. It may not support them, or not several of them, "
                "where they stand."
            )
        length = len(self.markers.placeholder)
        pieces = [
            (place, place + length, VIDEO_TOKEN)
            for place, kind in zip(places, conversation.visuals, strict=True)
            if kind == "video"
        ]
        return RenderedPrompt(text, spans, assistant).replace_at(pieces)

    def _assistant_spans(
        self, conversation: _Conversation, template: str, flags: Mapping[str, Any], text: str
    ) -> list[_Span]:
        """Where the assistant's words stand in `text`: what the template has between its generation tags."""
        if not re.search(r"\{%-?\s*generation\s*-?%\}", template):
            raise LinVTInputError(
                "return_assistant_tokens_mask=True needs a chat template that marks the assistant's words with "
                "{% generation %} and {% endgeneration %}, and this one does not. Pass one as chat_template=..."
            )
        if flags.get("continue_final_message"):
            raise LinVTInputError("return_assistant_tokens_mask and continue_final_message do not go together.")
        written, spans = self._foreign(
            "The chat template refused the conversation",
            render_jinja_template,
            conversations=[conversation.messages],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **flags},
        )
        if written[0] != text:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} does not render its chat template as it is, so the assistant's "
                "words cannot be found in the prompt. Leave return_assistant_tokens_mask out."
            )
        return [tuple(span) for span in spans[0]]

    # -- tokens --

    def _with_videos(
        self,
        prompts: Sequence[RenderedPrompt],
        videos: Sequence[VideoFrames],
        pictures: Sequence[Sequence[Any]],
        arguments: _Arguments,
    ) -> BatchFeature:
        """Model inputs of prompts with videos; the prompts are checked before the frames cost anything."""
        if arguments.template:
            logger.warning_once(f"Ignored, as nothing here takes them: {', '.join(arguments.template)}.")
        text = dict(arguments.text)
        return_tensors = text.pop("return_tensors", "pt")
        if return_tensors not in (None, "pt", "np"):
            raise LinVTInputError(f"return_tensors={return_tensors!r}: choose 'pt', 'np' or None.")
        made, replacements = self._foreign(
            "The base's processor refused the pictures",
            self.adapter.picture_inputs,
            self.base_processor,
            [row for row in pictures if row],
            arguments.pictures,
        )
        inputs = self._tokenize(prompts, replacements, text, return_tensors)
        visual = {**made, **self._frames_of(videos, arguments.frames)}
        if return_tensors == "np":
            visual = {name: np.asarray(value) for name, value in visual.items()}
        return BatchFeature({**inputs, **visual})

    def _tokenize(
        self,
        prompts: Sequence[RenderedPrompt],
        replacements: Sequence[str],
        kwargs: Mapping[str, Any],
        return_tensors: str | None,
    ) -> dict[str, Any]:
        """Expand the placeholders, tokenise, and mark which tokens are the video's and which the question's."""
        pictures = iter(replacements)
        expanded = [self._expand(prompt, pictures) for prompt in prompts]
        encoded = self._encode([prompt for prompt, _ in expanded], kwargs, return_tensors)
        ids = encoded["input_ids"]
        self._check_length(ids, kwargs)
        data = {name: encoded[name] for name in ("input_ids", "attention_mask") if name in encoded}
        data["video_mask"] = [self._mark_videos(row, visuals) for row, (_, visuals) in zip(ids, expanded, strict=True)]
        special = {*self.tokenizer.all_special_ids, self.markers.token_id}
        data["question_mask"], assistant = [], []
        for number, (prompt, _) in enumerate(expanded):
            inside = self._in_spans(encoded, number, prompt, prompt.question_spans)
            data["question_mask"].append(
                [int(i and t not in special) for i, t in zip(inside, ids[number], strict=True)]
            )
            if prompt.assistant_spans is not None:
                assistant.append(self._in_spans(encoded, number, prompt, prompt.assistant_spans))
        if len(assistant) == len(expanded):
            data["assistant_masks"] = assistant
        data |= self._type_ids(ids, data, kwargs)
        if return_tensors is None:
            return data
        if len(lengths := {len(row) for row in ids}) > 1:
            raise LinVTInputError(
                f"The prompts have {min(lengths)} to {max(lengths)} tokens, which is no tensor. Pass padding=True, or "
                "return_tensors=None for lists."
            )
        make = torch.tensor if return_tensors == "pt" else np.array
        return {name: make(rows) for name, rows in data.items()}

    def _encode(self, prompts: Sequence[str], kwargs: Mapping[str, Any], return_tensors: str | None) -> dict[str, Any]:
        """The tokenizer's output as lists, with the base's own defaults and character offsets where there are any."""
        kwargs = {**getattr(self.base_processor, "text_kwargs", {}), **kwargs}
        kwargs.pop("return_mm_token_type_ids", None)
        if unknown := [
            name for name in kwargs if name not in _TOKENIZER_ARGUMENTS and name != "return_token_type_ids"
        ]:
            raise LinVTInputError(f"{', '.join(unknown)} cannot be used together with videos.")
        kwargs.setdefault("padding", len(prompts) > 1 and return_tensors is not None)
        # A template that wrote the first special token itself must not get a second one.
        bos = self.tokenizer.bos_token
        if bos is not None and (prompts[0].startswith(bos) or self.added.behind_visuals == bos):
            kwargs["add_special_tokens"] = False
        texts = [str(prompt) for prompt in prompts]
        offsets = {"return_offsets_mapping": True} if self.tokenizer.is_fast else {}
        refused = "The tokenizer refused the prompt"
        return dict(self._foreign(refused, self.tokenizer, texts, **{**kwargs, **offsets, "return_tensors": None}))

    def _expand(self, prompt: RenderedPrompt, pictures: Iterator[str]) -> tuple[RenderedPrompt, list[tuple[str, int]]]:
        """A prompt with its placeholders written out, and the kind and number of tokens of every visual in it."""
        video = self.markers.video(self.num_video_tokens)
        pieces, visuals = [], []
        pattern = f"{re.escape(VIDEO_TOKEN)}|{re.escape(self.markers.placeholder)}"
        for match in re.finditer(pattern, prompt):
            kind = "video" if match.group() == VIDEO_TOKEN else "picture"
            new = video if kind == "video" else next(pictures, None)
            if new is None:
                raise LinVTInputError(
                    f"The prompts have more picture placeholders {self.markers.placeholder!r} than pictures given."
                )
            pieces.append((*match.span(), new))
            visuals.append((kind, new.count(self.markers.token)))
        return prompt.replace_at(self._with_added_texts(prompt, pieces)), visuals

    def _with_added_texts(
        self, prompt: RenderedPrompt, pieces: Sequence[tuple[int, int, str]]
    ) -> list[tuple[int, int, str]]:
        """The pieces to write into a prompt, with what the base's processor adds to any."""
        added, behind = self.added, max((last for _, last, _ in pieces), default=0)
        result = [(behind, behind, added.behind_visuals)]
        if not prompt.startswith(added.first):
            result.append((0, 0, added.first))
        # A question that is answered ends where the answer begins, unless the template has written its end.
        ends = [start for start, _ in prompt.assistant_spans or ()] or [len(prompt)]
        ends = [end for end in ends if end == len(prompt) or not prompt[:end].endswith(added.last)]
        result += [(end, end, added.last) for end in ends]
        written = [piece for piece in result if piece[2]]
        return sorted([*pieces, *written], key=lambda piece: (piece[0], piece[1]))

    def _check_length(self, ids: Sequence[Sequence[int]], kwargs: Mapping[str, Any]) -> None:
        limit = self.tokenizer.model_max_length
        longest = max(len(row) for row in ids)
        if not kwargs.get("truncation") and limit < _SANE_LENGTH and longest > limit:
            raise LinVTInputError(
                f"The prompt has {longest} tokens ({self.num_video_tokens} of each video), the tokenizer's limit is "
                f"{limit}. Shorten the question, or use fewer videos or video tokens."
            )

    def _mark_videos(self, ids: Sequence[int], visuals: Sequence[tuple[str, int]]) -> list[int]:
        kinds = [kind for kind, count in visuals for _ in range(count)]
        found = sum(token == self.markers.token_id for token in ids)
        if found != len(kinds):
            raise LinVTInputError(
                f"The prompt lost placeholders: {len(kinds)} were written, {found} are left after tokenising. Do not "
                "cut inside a video: raise max_length, or switch truncation off."
            )
        order = iter(kinds)
        return [int(token == self.markers.token_id and next(order) == "video") for token in ids]

    def _in_spans(self, encoded: Mapping[str, Any], row: int, prompt: str, spans: Sequence[_Span]) -> list[int]:
        """1 at the tokens of a row that overlap one of the spans of characters; padding has no characters."""
        ids = encoded["input_ids"][row]
        if "offset_mapping" in encoded:
            offsets = encoded["offset_mapping"][row]
            return [int(any(first < stop and last > start for start, stop in spans)) for first, last in offsets]
        inside, real = [0] * len(ids), [i for i, real in enumerate(encoded["attention_mask"][row]) if real]

        def tokens_before(end: int) -> int:
            return len(self.tokenizer(str(prompt[:end]), add_special_tokens=False)["input_ids"])

        # Special tokens in front, and what truncation took away there, move all tokens by the same number.
        is_cut_left = self.tokenizer.truncation_side == "left"
        shift = len(real) - tokens_before(len(prompt)) if is_cut_left or len(real) > tokens_before(len(prompt)) else 0
        for start, stop in spans:
            for place in range(max(0, tokens_before(start) + shift), tokens_before(stop) + shift):
                if place < len(real):
                    inside[real[place]] = 1
        return inside

    def _type_ids(
        self, ids: Sequence[Sequence[int]], masks: Mapping[str, Sequence[Sequence[int]]], kwargs: Mapping[str, Any]
    ) -> dict[str, list[list[int]]]:
        """The base's type ids under its own name for them; at videos what the family needs there."""
        base = self.base_processor
        family = self.adapter.family
        if family.type_ids == "answer":
            answers = masks.get("assistant_masks", [[0] * len(row) for row in ids])
            # All that follows the first answer: a later question must not see what is asked of it, nor be seen.
            return {"token_type_ids": [list(accumulate(row, max)) for row in answers]}
        value = family.video_type_id
        # Multimodal rotary positions ask for them beside a picture, and Cosmos3 Edge's processor leaves them out.
        if not kwargs.get("return_mm_token_type_ids", base.return_mm_token_type_ids or value == 0):
            return {}
        types = base.create_mm_token_type_ids([list(row) for row in ids])
        if value != 1:
            types = [
                [value if is_video else kind for kind, is_video in zip(*rows, strict=True)]
                for rows in zip(types, masks["video_mask"], strict=True)
            ]
        is_renamed = "mm_token_type_ids" not in base.model_input_names and "token_type_ids" in base.model_input_names
        # Row by row: prompts that are not padded differ in length.
        further = {
            name: [getattr(base, f"create_{name}")([list(row)])[0] for row in ids] for name in family.further_type_ids
        }
        return {"token_type_ids" if is_renamed else "mm_token_type_ids": types, **further}

    # -- decoding, saving, loading --

    def batch_decode(self, *args: Any, **kwargs: Any) -> list[str]:
        """The tokenizer's `batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The tokenizer's `decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def post_process_image_text_to_text(self, generated_outputs: Any, **kwargs: Any) -> list[str]:
        """The base's own clean-up of generated text."""
        return self.base_processor.post_process_image_text_to_text(generated_outputs, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The base's settings with ours under `linvt`; one file describes both."""
        return {
            **self.base_processor.to_dict(),
            "processor_class": type(self).__name__,
            "base_processor_class": type(self.base_processor).__name__,
            "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
            "linvt": {name: getattr(self, name) for name in _SETTINGS},
        }

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SETTINGS)
        return f"{type(self).__name__}({type(self.base_processor).__name__}, {settings})"

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """
        Save the base's processor and our settings into one folder, with the code that loads them.

        Args:
            save_directory: folder, made if missing.
            push_to_hub: upload it as well, to `repo_id` or a repository with the folder's name.
            kwargs: of `push_to_hub` (`repo_id`, `token`, `private`, ...).

        Raises:
            CheckpointError: the folder cannot be written.
        """
        settings, folder = self.to_dict(), Path(save_directory)
        path = folder / PROCESSOR_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = list(self.base_processor.save_pretrained(folder) or [])
            files += write_code(folder, type(self))
            saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            whole = json.dumps({**saved, **settings}, indent=2, sort_keys=True) + "\n"
            unfinished = path.with_suffix(".tmp")
            unfinished.write_text(whole, encoding="utf-8")
            unfinished.replace(path)
        except OSError as error:
            raise CheckpointError(f"The processor cannot be saved into {str(folder)!r}: {error}") from error
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return list(dict.fromkeys([*map(str, files), str(path)]))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "LinVTProcessor":
        """
        Load a processor that `save_pretrained` wrote, by folder or repository id.

        Args:
            pretrained_model_name_or_path: folder or repository id.
            kwargs: `num_frames`, `add_timestamps`, `num_video_tokens` instead of the saved ones; `revision`,
                `subfolder`, `token` and the like; `padding_side`, `min_pixels` and the like for the base's parts.
                Others are ignored, as a pipeline adds arguments that are the model's.

        Raises:
            CheckpointError: nothing there, or the processor of another model.
            LinVTInputError: a misspelt argument.
        """
        source = os.fspath(pretrained_model_name_or_path)
        own = {name: kwargs[name] for name in _SETTINGS if name in kwargs}
        for name in kwargs:
            if name not in (*_SETTINGS, *_HUB_ARGUMENTS, *_PART_ARGUMENTS) and nearest_name(name, _SETTINGS):
                raise LinVTInputError(unknown_argument(name, _SETTINGS))
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        parts = {name: kwargs[name] for name in _PART_ARGUMENTS if name in kwargs}
        try:
            settings, _ = cls.get_processor_dict(source, **hub)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"No processor found at {source!r}: {error}") from error
        if "linvt" not in settings:
            found = settings.get("processor_class")
            raise CheckpointError(
                f"{source!r} holds {'a ' + found if found else 'no processor_config.json, or one'} without LinVT "
                "settings. For a base model use LinVTProcessor.from_base."
            )
        saved = {name: value for name, value in settings["linvt"].items() if name in _SETTINGS}
        settings = {**saved, **own}
        adapter = adapter_of(settings.get("base_model_type") or "")
        return cls(adapter.load_processor(source, **hub, **parts), **settings)

    @classmethod
    def from_base(cls, base: "str | os.PathLike | ProcessorMixin", **kwargs: Any) -> "LinVTProcessor":
        """
        Put LinVT around a base model's processor.

        Args:
            base: repository id, folder, or a loaded processor, which is used as it is and not changed.
            kwargs: `num_video_tokens` (the model's), `num_frames`, `add_timestamps`, `base_model_type`; other
                arguments such as `revision` and `token` go to the base's `from_pretrained`. Without
                `num_video_tokens` it is what one frame of the base has, 640 x 360 pixels where that depends on the
                size, as in [`LinVTForVideoQA.from_base`].

        Raises:
            CheckpointError: nothing there.
            UnsupportedBaseError: what is there has no tokenizer or image processor, or a package is missing.
            LinVTInputError: a misspelt argument, or one for loading beside a loaded processor.
        """
        own = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        is_loaded = not isinstance(base, str | os.PathLike)
        for name in kwargs:
            if is_loaded or nearest_name(name, _SETTINGS):
                raise LinVTInputError(unknown_argument(name, _SETTINGS))
        if not is_loaded:
            base, found = load_processor_at(os.fspath(base), kwargs, own.get("base_model_type"))
            if own.get("base_model_type") is None:
                own["base_model_type"] = found
        processor = cls(base, **own)
        if "num_video_tokens" not in own:
            processor.num_video_tokens = default_video_tokens(base, processor.base_model_type)
        return processor


# ---------------------------------------------------------------------------------------------------------------------
# The question, and the times of the frames
# ---------------------------------------------------------------------------------------------------------------------


def _rewritten(messages: Sequence[Mapping[str, Any]], steps: Sequence[VideoFrames] | None) -> _Conversation:
    """Messages with a picture for every video; with the steps of time of each, their times stand behind it."""
    result, frames = _Conversation(), iter(steps or ())
    asked = _question_turn(messages)
    for number, message in enumerate(messages):
        mark = _marked if number == asked else str
        content = message.get("content")
        if isinstance(content, str):
            result.questions += [content] if number == asked else []
            plain, marked = content, mark(content)
        else:
            plain, marked, times = [], [], ""
            for part in content or ():
                if part["type"] == "text":
                    # Times and text are one part: a template that strips texts would glue two together.
                    plain.append({**part, "text": times + part["text"]})
                    marked.append({**part, "text": times + mark(part["text"])})
                    result.questions += [part["text"]] if number == asked else []
                    times = ""
                    continue
                for target in (plain, marked):
                    target += [{"type": "text", "text": times}] if times else []
                    target.append({"type": "image"})
                result.visuals.append("video" if part["type"] == "video" else "picture")
                is_timed = part["type"] == "video" and steps is not None
                times = _times_in_words(next(frames)) if is_timed else ""
            for target in (plain, marked):
                target += [{"type": "text", "text": times}] if times else []
        has_content = "content" in message
        result.messages.append({**message, "content": plain} if has_content else dict(message))
        result.marked_messages.append({**message, "content": marked} if has_content else dict(message))
    return result


def _question_turn(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """The last turn of the user that has text."""
    turns = [
        i for i, one in enumerate(messages) if one["role"] == "user" and any(text.strip() for text in texts_of([one]))
    ]
    return turns[-1] if turns else None


def _made_of_silent_turns(make: Callable[[Sequence[Messages]], Any], conversations: Sequence[Messages]) -> Any:
    """What is made of conversations; turns without content get an empty text where a template needs one (SmolVLM)."""
    try:
        return make(conversations)
    except LinVTInputError:
        if all("content" in message for messages in conversations for message in messages):
            raise
        empty = {"content": [{"type": "text", "text": ""}]}
        return make([[{**empty, **message} for message in messages] for messages in conversations])


def _warn_of_lost_tool_calls(conversations: Sequence[Sequence[Mapping[str, Any]]], template: str) -> None:
    """Tool calls that a template has no words for would vanish without a sign."""
    if "tool_calls" not in template and any(one.get("tool_calls") for messages in conversations for one in messages):
        logger.warning_once(
            "The chat template of this base does not write tool calls, so the model does not see which were made. Put "
            "them into the text of the turn, or pass a chat_template that writes message.tool_calls."
        )


def _up_to_text(before: str, behind: str, message: Mapping[str, Any]) -> str:
    """
    `behind` up to the words of its last message, for templates that open an answer in two ways.

    LLaVA-OneVision's asks for an answer with `assistant\\n` and writes one that is there as `assistant \\n`.
    """
    words = next(iter(texts_of([message])), "").strip()
    place = behind.find(words, len(before)) if behind.startswith(before) else -1
    return behind[:place] if words and place >= 0 else before


def _marked(text: str) -> str:
    """A text between marks; blanks at its ends stay outside, where a template may strip them."""
    inner = text.strip()
    if not inner:
        return text
    start = text.index(inner)
    return text[:start] + _QUESTION_START + inner + _QUESTION_END + text[start + len(inner) :]


def _take_marks_out(text: str) -> tuple[str, list[_Span]]:
    """A text without its marks, and the spans that were between them."""
    pieces = re.split(f"({_QUESTION_START}|{_QUESTION_END})", text)
    spans, clean, start = [], "", 0
    for piece in pieces:
        if piece == _QUESTION_START:
            start = len(clean)
        elif piece == _QUESTION_END:
            spans.append((start, len(clean)))
        else:
            clean += piece
    return clean, spans


def _times_in_words(video: VideoFrames) -> str:
    times = ", ".join(f"{seconds:.1f}" for seconds in video.timestamps)
    return f"Video of {video.duration:.1f} seconds, frames at {times} seconds.\n"


# ---------------------------------------------------------------------------------------------------------------------
# Prompts and visuals given apart
# ---------------------------------------------------------------------------------------------------------------------


def _with_questions(texts: Sequence[str], question: str | Sequence[str] | None) -> list[RenderedPrompt]:
    """Prompts that know their question: the given one where it stands last, their own, or none."""
    if question is None:
        if any(VIDEO_TOKEN in one and not isinstance(one, RenderedPrompt) for one in texts):
            # all of the text would be a leak: it holds the answer when the prompt is one to learn from
            logger.warning_once(
                "A prompt is a plain string, in which the question cannot be told from an answer, so no question is "
                "marked and the video tokens are not conditioned on it. Pass question=..., or what "
                "apply_chat_template returned, neither cut nor joined."
            )
        return [one if isinstance(one, RenderedPrompt) else RenderedPrompt(one) for one in texts]
    questions = [question] if isinstance(question, str) else list(question)
    if len(questions) != len(texts) or not all(isinstance(one, str) for one in questions):
        raise LinVTInputError(
            f"question has {len(questions)} entries for {len(texts)} prompts. Give a string for each."
        )
    prompts = []
    for text, asked in zip(texts, questions, strict=True):
        start = text.rfind(asked.strip())
        if start < 0 or not asked.strip():
            raise LinVTInputError(f"The question {shown(asked)} does not stand in its prompt {shown(text)}.")
        spans = getattr(text, "assistant_spans", None)
        prompts.append(RenderedPrompt(text, [(start, start + len(asked.strip()))], spans))
    return prompts


def _is_frame_list(videos: Any) -> bool:
    """Whether a list is the frames of one video rather than several videos."""
    if not isinstance(videos, list | tuple) or not videos:
        return False
    return getattr(videos[0], "ndim", None) == 3 or isinstance(videos[0], PIL.Image.Image)


def _nested_videos(videos: Any) -> list[list[Any]]:
    """Videos as a list of lists: one list in all, or one per prompt where they were given so."""
    if videos is None:
        return []
    if getattr(videos, "ndim", None) == 5:
        videos = list(videos)  # (videos, frames, ...)
    if not isinstance(videos, list | tuple) or _is_frame_list(videos):
        return [[videos]]
    is_nested = any(isinstance(one, list | tuple) and not _is_frame_list(one) for one in videos)
    if not is_nested:
        return [list(videos)]
    rows = []
    for row in videos:
        if not isinstance(row, list | tuple) or _is_frame_list(row):
            row = [row]
        if any(isinstance(one, list | tuple) and not _is_frame_list(one) for one in row):
            raise LinVTInputError(
                "videos is nested too deep: give a list of videos, or one list of videos per prompt."
            )
        rows.append(list(row))
    return rows


def _check_video_counts(texts: Sequence[str], videos: Sequence[Sequence[Any]]) -> None:
    wanted, given = [text.count(VIDEO_TOKEN) for text in texts], [len(row) for row in videos]
    if sum(wanted) != sum(given) or (len(given) > 1 and given != wanted):
        raise LinVTInputError(
            f"The prompts have {sum(wanted)} video placeholders {VIDEO_TOKEN!r} {wanted}, {sum(given)} videos were "
            f"given {given}. Give one video for each."
        )


def _per_prompt(images: Any, texts: Sequence[str], markers: VisualMarkers) -> list[list[Any]]:
    """Pictures given flat or nested -> a list per prompt, by the number of placeholders in each."""
    rows = images if isinstance(images, list | tuple) else [] if images is None else [images]
    flat = [one for row in rows for one in (row if isinstance(row, list | tuple) else [row])]
    counts = [text.count(markers.placeholder) for text in texts]
    is_nested = any(isinstance(row, list | tuple) for row in rows)
    if sum(counts) != len(flat) or (is_nested and counts != [len(row) for row in rows]):
        raise LinVTInputError(
            f"The prompts have {sum(counts)} picture placeholders {markers.placeholder!r} {counts}, {len(flat)} "
            "pictures were given" + (f" {[len(row) for row in rows]}." if is_nested else ".")
        )
    pictures = iter(flat)
    return [[next(pictures) for _ in range(count)] for count in counts]


def _check_frames(video: VideoFrames) -> None:
    frames, times = np.asarray(video.frames), np.asarray(video.timestamps)
    if (
        frames.ndim != 4
        or frames.shape[-1] != 3
        or not frames.size
        or frames.dtype != np.uint8
        or len(times) != len(frames)
    ):
        raise LinVTInputError(
            f"VideoFrames has frames of shape {frames.shape} and type {frames.dtype} with {len(times)} timestamps; it "
            "needs (num_frames, height, width, 3), uint8, and a time for each. Use read_video to make it."
        )


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the first axis; smaller ones are padded with zeros at the end, as image processors pad a batch."""
    if len(tensors) == 1:
        return tensors[0]
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        pad = [
            amount for have, want in zip(tensor.shape[:0:-1], shape[::-1], strict=True) for amount in (0, want - have)
        ]
        padded.append(torch.nn.functional.pad(tensor, pad) if any(pad) else tensor)
    return torch.cat(padded)


__all__ = ["LinVTProcessor", "RenderedPrompt", "VIDEO_TOKEN"]
