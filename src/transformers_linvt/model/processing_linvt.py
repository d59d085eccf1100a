"""The processor: chat messages with videos -> what [`LinVTForVideoQA`] takes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BatchFeature, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PROCESSOR_NAME

from .base_processor import (
    VisualMarkers,
    check_base_processor,
    frame_inputs,
    load_base_processor,
    model_type_of,
)
from .base_vlm import FRAME_PREFIX, family_of
from .errors import CheckpointError, LinVTInputError
from .video_reading import VideoFrames, VideoLimits, read_video


VIDEO_TOKEN = "<|linvt_video|>"  # stands for a video in rendered text, until it is expanded; never reaches the tokenizer

_VIDEO_KEYS = ("video", "path", "url", "frames")
_PICTURE_KEYS = ("image", "path", "url", "base64")
_SAMPLING = (
    "num_frames",
    "fps",
    "start",
    "end",
    "max_frames",
    "video_backend",
    "limits",
    "allow_urls",
)
_LOADING_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
_SANE_LENGTH = 10**9  # tokenizers without a limit say 10**30


@dataclass
class _Conversation:
    """One conversation, rewritten for the base: videos are pictures now; what was rewritten is listed in order."""

    messages: list[dict[str, Any]]
    visuals: list[tuple[str, Any]]  # ("picture" or "video", source)
    texts: list[tuple[str, bool]]  # every text part in order, and whether it belongs to the question


class LinVTProcessor(ProcessorMixin):
    """
    A base model's processor that also takes videos.

    A video becomes `num_video_tokens` copies of the base's own image token between the base's own markers, its frames
    go through the base's own image processor, one tile each. Pictures and text are left to the base's processor.

    Args:
        base_processor ([`ProcessorMixin`]): of the base model.
        num_video_tokens (`int`, defaults to 256): tokens per video; the same number as the model's.
        base_model_type (`str`, *optional*): `config.model_type` of the base; read off the processor's class if it tells.
        num_frames (`int`, defaults to 32): frames sampled when a call says neither `num_frames` nor `fps`.
        add_timestamps (`bool`, defaults to `False`): write the times of the frames into the prompt, before the question.

    Raises:
        UnsupportedBaseError: the base's processor has no tokenizer or image processor, or does not say how it writes a
            picture.

    Example (the embedded model):

    >>> from transformers_linvt import LinVTProcessor, embedded_model_path
    >>> processor = LinVTProcessor.from_pretrained(embedded_model_path())
    >>> processor.question_inputs(["What colour is the circle?"])["video_mask"].sum().item()
    64
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        base_processor: ProcessorMixin,
        num_video_tokens: int = 256,
        base_model_type: str | None = None,
        num_frames: int = 32,
        add_timestamps: bool = False,
    ) -> None:
        check_base_processor(base_processor)
        if num_video_tokens < 1:
            raise LinVTInputError(f"num_video_tokens={num_video_tokens} must be at least 1, and equal to the model's.")
        self.base_processor = base_processor
        self.num_video_tokens = num_video_tokens
        self.base_model_type = base_model_type if base_model_type is not None else model_type_of(base_processor)
        self.num_frames = num_frames
        self.add_timestamps = add_timestamps

    @classmethod
    def get_attributes(cls) -> list[str]:
        """No sub-processors of its own: transformers would take any argument named after a modality for one."""
        return []

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base_processor.tokenizer

    @property
    def image_processor(self) -> Any:
        """The base's image processor."""
        return self.base_processor.image_processor

    @property
    def chat_template(self) -> str | None:
        """The base's chat template."""
        return getattr(self.base_processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)

    @chat_template.setter
    def chat_template(self, template: str | None) -> None:
        self.base_processor.chat_template = template

    @property
    def model_input_names(self) -> list[str]:
        """Names the model may get from this processor."""
        names = list(self.base_processor.model_input_names)
        frames = sorted(FRAME_PREFIX + name for name in self._visual_input_names)
        return [*names, *frames, "frames_per_video", "video_timestamps", "video_mask", "question_mask"]

    @cached_property
    def _visual_input_names(self) -> frozenset[str]:
        """What the model takes of the image processor's output; some of it only serves to write the prompt."""
        return frozenset(self.image_processor.model_input_names) - set(self.base_processor.unused_input_names)

    @cached_property
    def markers(self) -> VisualMarkers:
        """How the base writes a picture into the prompt."""
        return VisualMarkers.of(self.base_processor, family_of(self.base_model_type))

    # -- videos --

    def read_video(self, video: Any, **sampling: Any) -> VideoFrames:
        """
        Sampled frames of one video.

        Args:
            video: a path, bytes, frames in memory (array, tensor, list of pictures), a `datasets` video, a URL with
                `allow_urls=True`, or [`VideoFrames`], which come back as they are.
            sampling: `num_frames` or `fps` (with `max_frames`), `start`, `end`, `video_backend`, `limits`, `allow_urls`;
                see [`read_video`].

        Raises:
            VideoReadError: see [`read_video`].
        """
        if isinstance(video, VideoFrames):
            return video
        sampling = {name: value for name, value in sampling.items() if value is not None}
        backend = sampling.pop("video_backend", "auto")
        if "num_frames" not in sampling and "fps" not in sampling:
            sampling["num_frames"] = self.num_frames
        return read_video(video, backend=backend, **sampling)

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
    ) -> BatchFeature:
        """
        One video as [`LinVTForVideoQA.encode_video`] takes it; arguments as in [`read_video`](LinVTProcessor.read_video).

        Returns:
            `BatchFeature` with the frames under the base's names with the prefix `frame_`, `frames_per_video` of shape
            `(1,)` and `video_timestamps` of shape `(num_frames,)` in seconds.
        """
        sampling = (num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls)
        return self._frames_of([self.read_video(video, **dict(zip(_SAMPLING, sampling, strict=True)))])

    def _frames_of(self, videos: Sequence[VideoFrames]) -> BatchFeature:
        family = family_of(self.base_model_type)
        names = self._visual_input_names
        each = [
            {
                name: torch.as_tensor(value)
                for name, value in frame_inputs(self.base_processor, family, list(video.frames)).items()
                if name in names and name != "batch_num_images"
            }
            for video in videos
        ]
        data = {FRAME_PREFIX + name: _concatenate([one[name] for one in each]) for name in each[0]}
        data["frames_per_video"] = torch.tensor([len(video.frames) for video in videos])
        data["video_timestamps"] = torch.cat(
            [torch.as_tensor(video.timestamps, dtype=torch.float32) for video in videos]
        )
        return BatchFeature(data)

    # -- text --

    def question_inputs(self, questions: Sequence[str]) -> BatchFeature:
        """
        Prompts that ask each question about one video whose frames are given elsewhere (encoded before).

        Returns:
            `BatchFeature` with `input_ids`, `attention_mask`, `video_mask`, `question_mask`, all of shape
            `(len(questions), length)`, padded on the left, and the base's type ids where it has them.

        Raises:
            LinVTInputError: no question, an empty one, or one that holds a placeholder.
        """
        if isinstance(questions, str) or not questions:
            raise LinVTInputError("question_inputs takes a list of one or more questions.")
        conversations = [
            [{"role": "user", "content": [{"type": "video", "video": None}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        rewritten = [self._rewrite(conversation, for_answering=True) for conversation in conversations]
        texts = [self._render(conversation, None, {"add_generation_prompt": True}) for conversation in rewritten]
        return self._tokenize(texts, [], [one.texts for one in rewritten], {"return_tensors": "pt"}, left=True)

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Chat messages with videos, pictures and text -> a prompt, or all model inputs in one call.

        Args:
            conversation: messages, or a list of conversations. Content parts `{"type": "video", "path": ...}` (or
                `"video"`, `"url"`, `"frames"`), `{"type": "image", ...}`, `{"type": "text", ...}`; several videos,
                pictures and turns are fine. A video part may carry its own `num_frames`, `fps`, `start`, `end`.
            chat_template: instead of the base's own.
            tokenize: read the videos and return model inputs; otherwise the rendered prompt, in which every video is
                `<|linvt_video|>`, to be given to the processor's call together with the videos.
            add_generation_prompt, continue_final_message: as in transformers.
            return_dict: everything, instead of only `input_ids`.
            return_tensors: `"pt"`; kept for compatibility.
            processor_kwargs: as in transformers; may hold everything below as well.
            kwargs: `num_frames`, `fps`, `start`, `end`, `max_frames`, `video_backend`, `limits`, `allow_urls`,
                `add_timestamps`; tokenizer arguments (`padding`, `truncation`, `max_length`, `padding_side`); the rest
                goes to the template.

        Raises:
            LinVTInputError: an empty question, a placeholder typed into a text, a part without a source, a prompt longer
                than the tokenizer's limit, a base without chat template.
            VideoReadError: a video could not be read.
        """
        kwargs = {**kwargs, **(processor_kwargs or {})}
        sampling = {name: kwargs.pop(name) for name in _SAMPLING if name in kwargs}
        tokenizer_kwargs = {name: kwargs.pop(name) for name in _TOKENIZER_ARGUMENTS if name in kwargs}
        add_timestamps = kwargs.pop("add_timestamps", self.add_timestamps)
        is_batched = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversations = conversation if is_batched else [conversation]
        template_kwargs = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **kwargs,
        }
        rewritten, videos, pictures = [], [], []
        for messages in conversations:
            read: dict[int, VideoFrames] = {}
            if tokenize or add_timestamps:
                for part in _video_parts(messages):
                    own = {name: part[name] for name in _SAMPLING if name in part}
                    read[id(part)] = self.read_video(_source(part, _VIDEO_KEYS), **{**sampling, **own})
            one = self._rewrite(messages, add_generation_prompt, read, add_timestamps)
            rewritten.append(one)
            videos.extend(source for kind, source in one.visuals if kind == "video")
            pictures.append([source for kind, source in one.visuals if kind == "picture"])
        texts = [self._render(one, chat_template, template_kwargs) for one in rewritten]
        if not tokenize:
            return texts if is_batched else texts[0]
        if not videos:
            inputs = self._without_video(texts, pictures, {"return_tensors": return_tensors, **tokenizer_kwargs})
        else:
            inputs = self._with_videos(
                texts,
                videos,
                pictures,
                [one.texts for one in rewritten],
                {"return_tensors": return_tensors, **tokenizer_kwargs},
                left=add_generation_prompt,
            )
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
            videos: one video, or a list in the order of the placeholders; see
                [`read_video`](LinVTProcessor.read_video) for what a video may be.
            question: the question inside each prompt; TTA looks at it. All text of the prompt if not given.
            kwargs: sampling and tokenizer arguments, as in `apply_chat_template`.

        Raises:
            LinVTInputError: the number of placeholders is not that of the videos or pictures.
        """
        if videos is None:
            return self.base_processor(images=images, text=text, **kwargs)
        if text is None:
            raise LinVTInputError("videos were given without text. Use video_inputs for a video alone.")
        texts = [text] if isinstance(text, str) else list(text)
        questions = [question] if isinstance(question, str) else question
        parts = [[(one, True)] for one in questions] if questions is not None else [None] * len(texts)
        sampling = {name: kwargs.pop(name) for name in _SAMPLING if name in kwargs}
        videos = videos if isinstance(videos, list | tuple) and not _is_frame_list(videos) else [videos]
        frames = [self.read_video(video, **sampling) for video in _flatten(videos)]
        return self._with_videos(texts, frames, _per_prompt(images, texts, self.markers), parts, kwargs, left=False)

    # -- inside --

    def _rewrite(
        self,
        messages: Sequence[Mapping[str, Any]],
        for_answering: bool,
        read: Mapping[int, VideoFrames] | None = None,
        add_timestamps: bool = False,
    ) -> _Conversation:
        """Videos become pictures for the base's template; sources and texts are noted in order."""
        turns = [i for i, message in enumerate(messages) if message.get("role") == "user"]
        result = _Conversation([], [], [])
        for i, message in enumerate(messages):
            content = message.get("content")
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])
            new: list[dict[str, Any]] = []
            for part in parts:
                kind = part.get("type")
                if kind == "video":
                    source = (read or {}).get(id(part), _source(part, _VIDEO_KEYS) if read is None else None)
                    result.visuals.append(("video", source))
                    new.append({"type": "image"})
                    if add_timestamps and isinstance(source, VideoFrames):
                        new.append({"type": "text", "text": _times_in_words(source)})
                        result.texts.append((new[-1]["text"], False))
                elif kind == "image":
                    result.visuals.append(("picture", _source(part, _PICTURE_KEYS)))
                    new.append({"type": "image"})
                elif kind == "text":
                    self._refuse_placeholders(part.get("text") or "")
                    result.texts.append((part.get("text") or "", bool(turns) and i == turns[-1]))
                    new.append(dict(part))
                else:
                    raise LinVTInputError(
                        f"A content part has type {kind!r}; this processor knows 'video', 'image' and 'text'."
                    )
            # Templates of text-only turns may expect a plain string, which is what the user gave then.
            result.messages.append({**message, "content": content if isinstance(content, str) else new})
        has_video = any(kind == "video" for kind, _ in result.visuals)
        if has_video and for_answering and not any(own and text.strip() for text, own in result.texts):
            raise LinVTInputError("The question is empty. Ask something about the video.")
        return result

    def _refuse_placeholders(self, text: str) -> None:
        for token in (VIDEO_TOKEN, self.markers.placeholder, self.markers.token):
            if token in text:
                raise LinVTInputError(
                    f"The text {text[:60]!r} holds {token!r}, which stands for a picture or video in prompts of this "
                    "base. Remove it; videos and pictures are content parts of their own."
                )

    def _render(self, conversation: _Conversation, template: str | None, template_kwargs: dict[str, Any]) -> str:
        """The base's template, with `<|linvt_video|>` where a video stands."""
        if template is None and self.chat_template is None:
            raise LinVTInputError(
                f"{type(self.base_processor).__name__} has no chat template. Pass chat_template=..., or set "
                "processor.chat_template."
            )
        text = self.base_processor.apply_chat_template(
            conversation.messages, chat_template=template or self.chat_template, tokenize=False, **template_kwargs
        )
        pieces = text.split(self.markers.placeholder)
        if len(pieces) - 1 != len(conversation.visuals):
            raise LinVTInputError(
                f"The chat template wrote {len(pieces) - 1} placeholders {self.markers.placeholder!r} for "
                f"{len(conversation.visuals)} videos and pictures. It may not support several in one conversation."
            )
        names = [VIDEO_TOKEN if kind == "video" else self.markers.placeholder for kind, _ in conversation.visuals]
        return pieces[0] + "".join(name + piece for name, piece in zip(names, pieces[1:], strict=True))

    def _without_video(self, texts: list[str], pictures: list[list[Any]], kwargs: dict[str, Any]) -> BatchFeature:
        """Exactly what the base's processor makes of it."""
        images = pictures if any(pictures) else None
        kwargs = {**kwargs, **self._special_tokens(texts)}
        if len(texts) > 1:
            kwargs.setdefault("padding", True)
        return self.base_processor(text=texts, images=images, **kwargs)

    def _special_tokens(self, texts: list[str]) -> dict[str, bool]:
        # A template that wrote the first special token itself must not get a second one.
        begins = self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token)
        return {"add_special_tokens": False} if begins else {}

    def _with_videos(
        self,
        texts: list[str],
        videos: list[VideoFrames],
        pictures: list[list[Any]],
        parts: Sequence[list[tuple[str, bool]] | None],
        kwargs: dict[str, Any],
        left: bool,
    ) -> BatchFeature:
        wanted = sum(text.count(VIDEO_TOKEN) for text in texts)
        if wanted != len(videos):
            raise LinVTInputError(
                f"The prompts have {wanted} video placeholders {VIDEO_TOKEN!r}, {len(videos)} videos were given."
            )
        picture_inputs, replacements = self._picture_inputs(pictures)
        inputs = self._tokenize(texts, replacements, parts, kwargs, left)
        return BatchFeature({**inputs, **picture_inputs, **self._frames_of(videos)})

    def _picture_inputs(self, pictures: list[list[Any]]) -> tuple[dict[str, Any], list[str]]:
        """Pictures beside videos: the base's inputs for them, and what it writes for each."""
        if not any(pictures):
            return {}, []
        base = self.base_processor
        flat = [[picture] for row in pictures for picture in row]
        images, *_ = base.prepare_inputs_layout(images=flat, text=None)
        merged = base._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, return_tensors="pt")
        inputs, replacements = base._process_images(images, **merged["images_kwargs"])
        return {name: value for name, value in inputs.items() if name in self._visual_input_names}, replacements

    def _tokenize(
        self,
        texts: list[str],
        replacements: list[str],
        parts: Sequence[list[tuple[str, bool]] | None],
        kwargs: dict[str, Any],
        left: bool,
    ) -> BatchFeature:
        """Expand the placeholders, tokenise, and mark which tokens are the video's and which the question's."""
        base, pictures = self.base_processor, iter(replacements)
        video = self.markers.video(self.num_video_tokens)
        prefix = self.tokenizer.bos_token or self.tokenizer.eos_token
        expanded, visuals = [], []
        for text in texts:
            if family_of(self.base_model_type).begins_with_bos and not text.startswith(prefix):
                text = prefix + text
            written = list(self._expansions(text, pictures, video))
            expanded.append("".join(piece for piece, _ in written))
            visuals.append([(kind, piece.count(self.markers.token)) for piece, kind in written if kind])
        if next(pictures, None) is not None:
            raise LinVTInputError("More pictures were given than the prompts have picture placeholders.")
        kwargs = {**kwargs, **({} if "add_special_tokens" in kwargs else self._special_tokens(expanded))}
        return_tensors = kwargs.pop("return_tensors", "pt")
        kwargs.setdefault("padding", len(texts) > 1)
        if left:
            kwargs.setdefault("padding_side", "left")
        encoded = self.tokenizer(expanded, return_offsets_mapping=self.tokenizer.is_fast, **kwargs)
        self._check_length(encoded, kwargs)
        offsets = encoded.pop("offset_mapping", None)
        data = {name: value for name, value in encoded.items() if name in ("input_ids", "attention_mask")}
        data["video_mask"] = [self._mark_videos(ids, row) for ids, row in zip(encoded["input_ids"], visuals, strict=True)]
        data["question_mask"] = [
            self._mark_question(ids, expanded[i], parts[i], offsets[i] if offsets is not None else None)
            for i, ids in enumerate(encoded["input_ids"])
        ]
        if base.return_mm_token_type_ids:
            types = base.create_mm_token_type_ids(encoded["input_ids"])
            if (value := family_of(self.base_model_type).video_type_id) != 1:
                types = [
                    [value if is_video else kind for kind, is_video in zip(row, mask, strict=True)]
                    for row, mask in zip(types, data["video_mask"], strict=True)
                ]
            name = "token_type_ids" if "token_type_ids" in base.model_input_names else "mm_token_type_ids"
            data[name] = types
        return BatchFeature(data, tensor_type=return_tensors)

    def _expansions(self, text: str, pictures: Iterator[str], video: str) -> Iterator[tuple[str, str]]:
        """Pieces of a prompt with placeholders written out, each with the kind of visual it is ("" for text)."""
        first, *rest = text.split(VIDEO_TOKEN)
        for number, segment in enumerate([first, *rest]):
            if number:
                yield video, "video"
            plain, *after = segment.split(self.markers.placeholder)
            yield plain, ""
            for piece in after:
                if (picture := next(pictures, None)) is None:
                    raise LinVTInputError(
                        f"The prompts have more picture placeholders {self.markers.placeholder!r} than pictures given."
                    )
                yield picture, "picture"
                yield piece, ""

    def _check_length(self, encoded: Any, kwargs: Mapping[str, Any]) -> None:
        limit = self.tokenizer.model_max_length
        longest = max(len(ids) for ids in encoded["input_ids"])
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
                f"The prompt lost placeholders: {len(kinds)} were written, {found} are left after tokenising. Do not cut "
                "inside a video: raise max_length, or switch truncation off."
            )
        order = iter(kinds)
        return [int(token == self.markers.token_id and next(order) == "video") for token in ids]

    def _mark_question(
        self,
        ids: Sequence[int],
        text: str,
        parts: list[tuple[str, bool]] | None,
        offsets: Sequence[tuple[int, int]] | None,
    ) -> list[int]:
        """1 at the tokens of the question: the last user turn, or all text when no question is known."""
        special = {*self.tokenizer.all_special_ids, self.markers.token_id}
        spans, cursor = [], 0
        for part, is_question in parts or []:
            start = text.find(part.strip(), cursor)
            if start >= 0 and part.strip():
                cursor = start + len(part.strip())
                if is_question:
                    spans.append((start, cursor))
        if offsets is None or not spans:
            return [int(token not in special) for token in ids]
        return [
            int(token not in special and any(start < right and end > left for left, right in spans))
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]

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
            "auto_map": {"AutoProcessor": "processing_linvt.LinVTProcessor"},
            "linvt": {
                "num_video_tokens": self.num_video_tokens,
                "base_model_type": self.base_model_type,
                "num_frames": self.num_frames,
                "add_timestamps": self.add_timestamps,
            },
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(num_video_tokens={self.num_video_tokens}, base={self.base_processor!r})"

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """
        Save the base's processor and our settings into one folder, with the code that loads them.

        Args:
            save_directory: folder, made if missing.
            push_to_hub, kwargs: as in transformers.
        """
        if push_to_hub:
            raise LinVTInputError("Save first, then call processor.push_to_hub(repo_id).")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        files = list(self.base_processor.save_pretrained(save_directory, **kwargs) or [])
        custom_object_save(self, save_directory)
        path = Path(save_directory) / PROCESSOR_NAME
        settings = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**settings, **self.to_dict()}, indent=2, sort_keys=True) + "\n")
        return [*files, str(path)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "LinVTProcessor":
        """
        Load a processor that `save_pretrained` wrote, by folder or repository id.

        Raises:
            CheckpointError: nothing there, or the processor of another model.
        """
        source = os.fspath(pretrained_model_name_or_path)
        loading = {name: kwargs[name] for name in _LOADING_ARGUMENTS if kwargs.get(name) is not None}
        try:
            settings, _ = cls.get_processor_dict(source, **loading)
        except OSError as error:
            raise CheckpointError(f"No processor found at {source!r}: {error}") from error
        if "linvt" not in settings:
            raise CheckpointError(
                f"{source!r} holds a {settings.get('processor_class', 'processor')} without LinVT settings. For a base "
                "model use LinVTProcessor.from_base."
            )
        return cls(load_base_processor(source, **loading), **settings["linvt"])

    @classmethod
    def from_base(cls, base: "str | os.PathLike | ProcessorMixin", **kwargs: Any) -> "LinVTProcessor":
        """
        Put LinVT around a base model's processor.

        Args:
            base: repository id, folder, or a loaded processor.
            kwargs: `num_video_tokens` (the model's), `num_frames`, `add_timestamps`, `base_model_type`; arguments such
                as `revision` and `token` go to the base's `from_pretrained`.
        """
        own = {
            name: kwargs.pop(name)
            for name in ("num_video_tokens", "num_frames", "add_timestamps", "base_model_type")
            if name in kwargs
        }
        if isinstance(base, str | os.PathLike):
            source = os.fspath(base)
            base = load_base_processor(source, **kwargs)
            own.setdefault("base_model_type", _model_type_at(source, base, kwargs))
        return cls(base, **own)


_TOKENIZER_ARGUMENTS = (
    "padding",
    "padding_side",
    "truncation",
    "max_length",
    "pad_to_multiple_of",
    "add_special_tokens",
)


def _model_type_at(source: str, processor: ProcessorMixin, hub_arguments: Mapping[str, Any]) -> str:
    """The architecture that the model beside a processor has; the processor's class if there is no model."""
    try:
        return AutoConfig.from_pretrained(source, **hub_arguments).model_type
    except (OSError, ValueError):
        return model_type_of(processor)


def _source(part: Mapping[str, Any], keys: Sequence[str]) -> Any:
    for key in keys:
        if key in part:
            return part[key]
    raise LinVTInputError(
        f"A content part of type {part.get('type')!r} names no source: give one of {', '.join(keys)}. Found "
        f"{', '.join(part)}."
    )


def _video_parts(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        if not isinstance(content := message.get("content"), str):
            yield from (part for part in content or [] if part.get("type") == "video")


def _times_in_words(video: VideoFrames) -> str:
    times = ", ".join(f"{seconds:.1f}" for seconds in video.timestamps)
    return f"Video of {video.duration:.1f} seconds, frames at {times} seconds.\n"


def _concatenate(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Along the first axis; smaller ones are padded with zeros at the end, as image processors pad a batch."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        pad = [amount for have, want in zip(tensor.shape[:0:-1], shape[::-1], strict=True) for amount in (0, want - have)]
        padded.append(torch.nn.functional.pad(tensor, pad) if any(pad) else tensor)
    return torch.cat(padded)


def _is_frame_list(videos: Sequence[Any]) -> bool:
    """Whether a list is the frames of one video rather than several videos."""
    return bool(videos) and (getattr(videos[0], "ndim", None) == 3 or hasattr(videos[0], "getbands"))


def _flatten(videos: Sequence[Any]) -> Iterator[Any]:
    for video in videos:
        if isinstance(video, list | tuple) and not _is_frame_list(video):
            yield from video
        else:
            yield video


def _per_prompt(images: Any, texts: Sequence[str], markers: VisualMarkers) -> list[list[Any]]:
    """Pictures given flat or nested -> a list per prompt, by the number of placeholders in each."""
    if images is None:
        return [[] for _ in texts]
    flat = list(_flatten(images if isinstance(images, list | tuple) else [images]))
    counts = [text.count(markers.placeholder) for text in texts]
    if sum(counts) != len(flat):
        raise LinVTInputError(
            f"The prompts have {sum(counts)} picture placeholders {markers.placeholder!r}, {len(flat)} pictures were given."
        )
    pictures = iter(flat)
    return [[next(pictures) for _ in range(count)] for count in counts]


__all__ = ["LinVTProcessor", "VIDEO_TOKEN"]
