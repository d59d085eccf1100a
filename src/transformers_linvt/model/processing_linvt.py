"""The processor: chat messages with videos -> what [`LinVTForVideoQA`] takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from transformers import BatchFeature, ProcessorMixin

from ..bases.layouts import FRAME_PREFIX
from ..bases.registry import model_type_of
from ..errors import LinVTInputError, in_our_words, shown
from ..video.duplicates import levels_of
from ..video.frames import VideoFrames
from .arguments import (
    Arguments,
    check_given_once,
    check_video_counts,
    joined,
    nested_videos,
    pictures_per_prompt,
    sort_arguments,
)
from .messages import (
    PICTURE_KEYS,
    Messages,
    parse_conversations,
    parse_messages,
    parts_of,
    resolved,
    sampling_of,
    source_of,
)
from .pictures import ReadsPictures, read_named_pictures
from .processor_files import SavesProcessors
from .prompt import (
    VIDEO_TOKEN,
    RenderedPrompt,
    WritesPrompts,
    line_of_times,
    made_of_silent_turns,
    rewritten,
    warn_of_lost_tool_calls,
    with_questions,
)
from .prompt_tokens import WritesTokens
from .repeated_frames import IS_NEW
from .subtitle_words import WritesSubtitles
from .time_marks import TIME_IDS, WritesTimes, checked_kind
from .video_inputs import ReadsVideos
from .video_processor import HasConventionalNames


class LinVTProcessor(
    ReadsVideos,
    ReadsPictures,
    WritesSubtitles,
    WritesTimes,
    WritesPrompts,
    WritesTokens,
    HasConventionalNames,
    SavesProcessors,
):
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
        add_timestamps (`bool` or `str`, defaults to `False`): write times into the prompt. `True` (or `"frames"`) is a
            line with the times of all frames behind each video. `"tokens"` is a time in front of a video token where
            it goes on most from one to the next, in 32 tokens at most whatever the number of frames: for models that
            are trained with it, and for bases with plain positions.
        frame_path (`str`, *optional*): the same as the model's. `"video"` merges frames into steps of time as the
            base's own video path does, and is the default where it has one that can; `"image"` makes every frame a
            picture.
        max_frame_tokens, max_total_frame_tokens (`int`, *optional*): most visual tokens of one frame, and of all
            frames of a video together (where frames are merged, of all steps): larger frames are made smaller. By
            default as the base's own video processor caps them (Qwen2-VL: 768 a frame, and 230,400 shared by all
            frames as if none were merged). Only for bases whose tokens follow from the size of a frame; a size given
            in a call (`size`, `max_pixels`) comes before both.
        skip_duplicate_frames (`bool` or `float`, defaults to `True`): prepare and encode a frame that is identical to
            the one before it once, which changes no answer. A number of levels of 255 skips similar frames as well, of
            which no square of 16 x 16 pixels differs by more on average; `False` encodes every frame.

    Raises:
        UnsupportedBaseError: the base's processor has no tokenizer or image processor, or does not say how it writes a
            picture.
        LinVTInputError: a setting that is not the number it has to be, or a base that is a LinVTProcessor already.

    Example (the embedded model):

    >>> from transformers_linvt import LinVTProcessor, embedded_model_path
    >>> processor = LinVTProcessor.from_pretrained(embedded_model_path())
    >>> processor.question_inputs(["What colour is the circle?"])["video_mask"].sum().item()
    32
    """

    def __init__(
        self,
        base_processor: ProcessorMixin,
        num_video_tokens: int = 256,
        base_model_type: str | None = None,
        num_frames: int = 32,
        add_timestamps: bool | str = False,
        frame_path: str | None = None,
        max_frame_tokens: int | None = None,
        max_total_frame_tokens: int | None = None,
        skip_duplicate_frames: bool | float = True,
    ) -> None:
        if isinstance(base_processor, LinVTProcessor):
            raise LinVTInputError("The base is a LinVTProcessor already. Pass its base_processor, or use it as it is.")
        _check_count("num_video_tokens", num_video_tokens, "a whole number, 1 or more, the same as the model's")
        _check_count("num_frames", num_frames, "a whole number, 1 or more")
        self.base_processor = base_processor
        self.num_video_tokens = num_video_tokens
        self.base_model_type = base_model_type if base_model_type is not None else model_type_of(base_processor)
        self.num_frames = num_frames
        self.add_timestamps = checked_kind(add_timestamps)
        self.bridge.check_processor(base_processor)
        if frame_path not in (None, "image", "video"):
            raise LinVTInputError(f"frame_path={frame_path!r}: choose 'image' or 'video'.")
        self.frame_path = self.bridge.frame_path if frame_path is None else frame_path
        self.frames_per_step = self.bridge.frames_per_step(base_processor) if self.frame_path == "video" else 1
        limits = {"max_frame_tokens": max_frame_tokens, "max_total_frame_tokens": max_total_frame_tokens}
        for name, value in limits.items():
            if value is not None:
                _check_count(name, value, "a whole number of visual tokens, 1 or more, or None")
        self.max_frame_tokens, self.max_total_frame_tokens = max_frame_tokens, max_total_frame_tokens
        levels_of(skip_duplicate_frames)
        self.skip_duplicate_frames = skip_duplicate_frames
        self.bridge.frame_size(base_processor, 1, max_frame_tokens, max_total_frame_tokens)
        self.markers = self.bridge.markers(base_processor)
        self.added = self.bridge.added_texts(base_processor)

    @property
    def model_input_names(self) -> list[str]:
        """Names the model may get from this processor."""
        # the base's own video path is not taken, and "video_mask" below is another one than it may have
        names = [name for name in self.base_processor.model_input_names if "video" not in name]
        frames = sorted(FRAME_PREFIX + name for name in (*self._frame_input_names, IS_NEW))
        return [*names, *frames, "frames_per_video", "video_timestamps", TIME_IDS, "video_mask", "question_mask"]

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
        image_token_id = self.bridge.image_token_id(config.base_config)
        if self.markers.token_id != image_token_id:
            raise LinVTInputError(
                f"The processor is of another base ({self.base_model_type or 'unknown'}): its image token "
                f"{self.markers.token!r} is {self.markers.token_id}, the model's "
                f"({config.base_config.model_type}) is {image_token_id}. Make it with "
                "LinVTProcessor.from_base of the model's base."
            )

    # -- chat --

    def question_inputs(
        self, questions: Sequence[str], timestamps: Any = None, duration: float | None = None
    ) -> BatchFeature:
        """
        Prompts that ask each question about one video whose frames are given elsewhere (encoded before).

        Args:
            questions: as many as one likes.
            timestamps (*optional*): seconds of the frames, for a processor with `add_timestamps`; without them no
                times are written.
            duration (*optional*): seconds of the whole video, for `add_timestamps=True`; by default as many steps as
                there are frames.

        Returns:
            `BatchFeature` with `input_ids`, `attention_mask`, `video_mask`, `question_mask`, all of shape
            `(len(questions), length)`, padded on the left, and the base's type ids where it has them; with times
            `video_time_ids`.

        Raises:
            LinVTInputError: no question, an empty one, or one that holds a placeholder.
        """
        if isinstance(questions, str) or not questions or not all(isinstance(one, str) for one in questions):
            raise LinVTInputError(f"question_inputs takes a list of one or more questions, not {shown(questions)}.")
        kind = self.add_timestamps if timestamps is not None else False
        line = [line_of_times(timestamps, duration)] if kind is True else None
        prompts = []
        for question in questions:
            content = [{"type": "video"}, {"type": "text", "text": question}]
            messages = parse_messages([{"role": "user", "content": content}])
            self._check_texts([messages], has_video=True)
            prompts.append(self._render(rewritten(messages, line), None, {"add_generation_prompt": True}))
        data = self._tokenize(prompts, [], {"padding_side": "left"}, "pt", self.num_places(kind))
        times = {TIME_IDS: self.time_ids([timestamps] * len(questions))} if kind == "tokens" else {}
        return BatchFeature({**data, **times})

    # the types that a chat comes out as; with `return_dict=False` they are the tokenizer's affair
    @overload
    def apply_chat_template(
        self, conversation: Any, *, tokenize: Literal[True], return_dict: Literal[True], **kwargs: Any
    ) -> BatchFeature: ...

    @overload
    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, tokenize: Literal[False] = False, **kwargs: Any
    ) -> str: ...

    @overload
    def apply_chat_template(
        self, conversation: Sequence[Sequence[Mapping[str, Any]]], *, tokenize: Literal[False] = False, **kwargs: Any
    ) -> list[str]: ...

    @overload
    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any: ...

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
        with_frames: bool = True,
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
                tools. A video part may carry sampling arguments of its own, which come before those of the call, the
                `timestamps` of frames in memory, and `subtitles`. A key that nobody knows is refused.
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
            with_frames: whether the frames of the videos become inputs. They need not where the model gets the videos
                as it encoded them before (`video_features=[...]`); then they are read for times in the prompt only.
            processor_kwargs: as in transformers; may hold everything below as well.
            kwargs: sampling (`num_frames`, `fps`, `start`, `end`, `max_frames`, `video_backend`, `limits`,
                `allow_urls`, `do_sample_frames`, `video_metadata`), `subtitles` and `max_subtitle_tokens` (see
                [`subtitle_words`](LinVTProcessor.subtitle_words)), `add_timestamps`, `video_root` (folder that
                relative paths start from, and that files named by `url`, `video_url` and `image_url` have to lie in;
                without it these name none); tokenizer arguments (`padding`, `truncation`, `max_length`, ...); options
                of the image processor, for pictures and frames; any of them in `videos_kwargs`, `text_kwargs` and
                `images_kwargs` (pictures only). None may be given twice. The rest goes to the template.

        Raises:
            LinVTInputError: something that is not a list of messages, an empty question, a placeholder typed into a
                text, a part without a source or with two, an unknown key in a part, a prompt longer than the
                tokenizer's limit, a base without chat template, an argument that is misspelt or given twice.
            VideoReadError: a video could not be read.
        """
        template = self._template(chat_template)
        arguments = sort_arguments(joined(kwargs, processor_kwargs), self.image_processor, template)
        if return_tensors != "auto":
            check_given_once("return_tensors", return_tensors, arguments.text)
        conversations, is_batched = self._parsed(conversation, arguments)
        video_parts = [list(parts_of(messages, "video")) for messages in conversations]
        self._check_texts(conversations, any(video_parts))
        warn_of_lost_tool_calls(conversations, template)
        flags = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **arguments.template,
        }
        if not any(video_parts):
            given = {"tokenize": tokenize, "return_dict": return_dict, "return_tensors": return_tensors, **flags}
            given["return_assistant_tokens_mask"] = return_assistant_tokens_mask
            return self._chat_without_video(conversations, is_batched, template, arguments, given)

        kind = self.kind_of_times(arguments.add_timestamps)
        reads = tokenize and with_frames
        sources = [[source_of(part, reads) for part in parts] for parts in video_parts]
        pictures = [self._pictures_of(messages, arguments, tokenize) for messages in conversations]
        videos: list[list[VideoFrames] | None] = [None] * len(conversations)
        if reads or kind is True or (tokenize and kind):
            videos = [
                self._read_together(row, [sampling_of(part, arguments.sampling) for part in parts])
                for row, parts in zip(sources, video_parts, strict=True)
            ]
        for_template = [
            self._rewrite(messages, frames if kind is True else None)
            for messages, frames in zip(conversations, videos, strict=True)
        ]
        prompts = [self._render(one, template, flags, return_assistant_tokens_mask) for one in for_template]
        if not tokenize:
            return prompts if is_batched else prompts[0]
        if add_generation_prompt:
            arguments.text.setdefault("padding_side", "left")
        if return_tensors != "auto":
            arguments.text["return_tensors"] = return_tensors
        known = [one for row in videos for one in row or []]
        inputs = self._with_videos(prompts, known if with_frames else [], pictures, arguments, known)
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
                the prompt, an argument that is misspelt or given twice.
            VideoReadError: a video could not be read.
        """
        arguments = sort_arguments(kwargs, self.image_processor, None)
        if arguments.subtitles:
            raise LinVTInputError(
                f"{', '.join(arguments.subtitles)}: a prompt that is rendered already has its words. Give subtitles "
                "to apply_chat_template."
            )
        texts = [text] if isinstance(text, str) else text
        if texts is not None and (
            not isinstance(texts, list | tuple) or not texts or not all(isinstance(one, str) for one in texts)
        ):
            raise LinVTInputError(f"text must be a string or a list of strings, not {shown(text)}.")
        sources = nested_videos(videos)
        num_placeholders = sum(one.count(VIDEO_TOKEN) for one in texts or ())
        if not any(sources) and not num_placeholders:
            images = read_named_pictures(images, arguments.sampling)
            return self._base_inputs(text, images, {**arguments.text, **arguments.pictures, **arguments.template})
        if texts is None:
            raise LinVTInputError("videos were given without text. Use video_inputs for a video alone.")
        check_video_counts(texts, sources)
        prompts = with_questions(texts, question)
        pictures = pictures_per_prompt(images, texts, self.markers)
        loaded = [[self.load_picture(one, arguments.sampling) for one in row] for row in pictures]
        frames = [one for row in sources for one in self._read_together(row, [arguments.sampling] * len(row))]
        return self._with_videos(prompts, frames, loaded, arguments, frames)

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
        arguments = sort_arguments(kwargs, self.image_processor, template)
        checked, _ = parse_conversations([list(messages) for messages in conversations])
        checked = [self.with_subtitles(messages, arguments.subtitles) for messages in checked]
        self._check_texts(checked, any(videos))
        warn_of_lost_tool_calls(checked, template)
        kind = self.kind_of_times(arguments.add_timestamps)
        pictures = [self._pictures_of(messages, arguments, True) for messages in checked]
        prompts = []
        for messages, turns, frames in zip(checked, learned_turns, videos, strict=True):
            if (found := len(list(parts_of(messages, "video")))) != len(frames):
                raise LinVTInputError(f"A conversation has {found} video parts and {len(frames)} videos were given.")
            times = frames if kind is True else None
            prompt = self._render(self._rewrite(messages, times), template, arguments.template, by_generation_tags)
            if not by_generation_tags:
                flags = arguments.template
                spans = [self._answer_span(messages, turn, times, template, flags, prompt) for turn in turns]
                prompt = RenderedPrompt(str(prompt), prompt.question_spans, spans)
            prompts.append(prompt)
        arguments.template = {}
        # not the tokenizer's own defaults: what is cut is the collator's to say
        own = {"padding": True, "padding_side": "right", "truncation": False, "return_tensors": "pt"}
        arguments.text = {**own, **arguments.text}
        flat = [one for row in videos for one in row]
        return self._with_videos(prompts, flat, pictures, arguments, flat)

    # -- parts of these calls --

    def _parsed(self, conversation: Any, arguments: Arguments) -> tuple[list[Messages], bool]:
        """Checked conversations whose subtitles are in words, and whether there were several."""
        conversations, is_batched = parse_conversations(conversation, arguments.video_root)
        beside = {**arguments.sampling, **arguments.subtitles}
        beside["subtitles"] = resolved(beside.get("subtitles"), arguments.video_root)
        return [self.with_subtitles(messages, beside) for messages in conversations], is_batched

    def _chat_without_video(
        self,
        conversations: list[list[dict[str, Any]]],
        is_batched: bool,
        template: str,
        arguments: Arguments,
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
            return in_our_words(
                "The base's processor refused the conversation",
                self.base_processor.apply_chat_template,
                chats if is_batched else chats[0],
                chat_template=template,
                processor_kwargs={**text, **arguments.pictures},
                **given,
            )

        return made_of_silent_turns(make, conversations)

    def _base_inputs(self, text: Any, images: Any, kwargs: Mapping[str, Any]) -> BatchFeature:
        refused = "The base's processor refused the inputs"
        return in_our_words(refused, self.base_processor, images=images, text=text, **kwargs)


def _check_count(name: str, value: Any, wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LinVTInputError(f"{name}={value!r}: give {wanted}.")


__all__ = ["LinVTProcessor", "RenderedPrompt", "VIDEO_TOKEN"]
