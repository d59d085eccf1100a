"""The pipeline: what it may be told, and the way of a request through it."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, Pipeline
from transformers.utils import logging

from ..errors import LinVTError, LinVTInputError, nearest_name
from ..evidence.evidence import VideoEvidence
from ..model.features import VideoFeatures
from ..model.messages import SAMPLING_ARGUMENTS, SUBTITLE_ARGUMENTS, parts_of, resolved, sampling_of
from ..video.limits import one_request
from .answering import Answered, Answerer, Generation, Read
from .caching import FeatureCache, Keys, with_about
from .generation import GENERATION_ARGUMENTS, check_generation
from .progress import frames_bar, make_bar
from .requests import (
    OTHER_NAMES,
    Request,
    as_chat,
    is_chat,
    is_list_of_chats,
    last_question,
    questions_of,
    requests_of,
    with_reply,
)
from .results import Results
from .seeing import SeesVideos


logger = logging.get_logger(__name__)
_OWN_ARGUMENTS = (
    *SAMPLING_ARGUMENTS,
    *SUBTITLE_ARGUMENTS,
    "video_root",
    "stream",
    "return_evidence",
    "return_score",
    "on_error",
    "progress_bar",
    "generate_kwargs",
)
_INPUTS, _OF_PIPELINE = ("video", "question", "messages", "text"), ("batch_size", "num_workers")


class VideoQuestionAnsweringPipeline(SeesVideos, Pipeline):
    """
    Answers questions about videos with a [`LinVTForVideoQA`]. Task names: `"video-question-answering"` and
    `"video-text-to-text"`.

    Example (the embedded model knows coloured shapes only):

    >>> from transformers import pipeline
    >>> from transformers_linvt import embedded_model_path
    >>> from transformers_linvt.demo.shapes import make_clip
    >>> ask = pipeline("video-question-answering", model=embedded_model_path(), device="cpu")
    >>> frames, questions = make_clip("static", seed=0, num_frames=8)
    >>> result = ask(video=frames, question="Is there a red circle?", fps=8)
    >>> result[0]["frames_seen"], result[0]["frame_tokens"], result[0]["video_tokens"]
    (8, 128, 32)

    Arguments of a call (all may be given when the pipeline is made as well):

    Args:
        num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls, ... (*optional*):
            Which frames are read, and how; see [`LinVTProcessor.read_video`]. A dictionary of an input list, and a
            video part of a chat, may carry its own.
        subtitles, max_subtitle_tokens (*optional*):
            Words beside the video at their times: an SRT or WebVTT file, or pairs of seconds and words, and the most
            tokens that they take (1,024); see [`LinVTProcessor.subtitle_words`]. Also in dictionaries and video parts;
            that of a call is for a single video. The result has `subtitle_tokens`.
        video_root (*optional*):
            Folder that relative paths start from, and that files which a chat names by `url`, `video_url` or
            `image_url` have to lie in; without it these name none.
        stream (`bool`, *optional*, defaults to `True`):
            Encode a video file while it is read, a few frames at a time, so that its pixels are never all
            in memory. With `False`, with `num_workers`, with `return_evidence`, for chats of several videos, and where
            prompts name the times of frames, all frames are read first: the same answers.
        return_evidence (`bool`, *optional*, defaults to `False`):
            Add `"evidence"`, a [`VideoEvidence`] (for chats a list, one per video): frames, time stamps, the weights
            that made the video tokens, and the attribution of the answer, per frame and place. Costs a dozen passes of
            the language model, with backward, over prompt and answer. Where a base gives no gradient, the evidence
            says so, a warning is logged, and the weights are all there is.
        return_score (`bool`, *optional*, defaults to `False`):
            Add `"score"`: the geometric mean of the probabilities that the model gave the tokens of its answer. It
            says how sure the model was, not how right.
        on_error (`str`, *optional*):
            What an input that cannot be answered does (an unreadable video, an impossible question, a chat with an
            unknown key). `"raise"`, the default for a single input: the error is raised. `"record"`, the default for
            lists, datasets and generators: its result has `answer=None` and the message under `"error"`, the other
            inputs are answered, and a warning is logged; the message of an error of another package
            begins with its kind. A generator that raises ends the answers, after those of all inputs before.
        progress_bar (`bool`, *optional*):
            By default a bar is shown on a terminal for every list, and for a single video that takes longer than a
            second (frames read, then encoded), unless transformers' bars are switched off.
        batch_size (`int`, *optional*, defaults to 1):
            Questions (rows) that go through the language model at once. Several questions about one video are split
            into such batches too; the video is decoded and encoded once in any case.
        cache_size, cache_bytes (`int`, *optional*, default to 8 and 1 GiB):
            Videos that are remembered as they were encoded, and the most memory that they take together, on the CPU. A
            further question about one of them, in any call or chat, neither decodes nor encodes it. They are found by
            content: of the file, the sampling, the processor's settings and the weights. 0 switches this off. Only
            when the pipeline is made, like the next two.
        cache_dir, cache_dir_bytes (*optional*; 10 GiB):
            A folder that remembers them from one process to the next, also for several processes at once, and the most
            that its files take; those not used for longest go first.
        num_workers (`int`, *optional*, defaults to 0):
            Threads that decode videos ahead of the model (decoders work outside of Python's lock). Not processes:
            forked from a program that has threads already, they can dead-lock.
        max_new_tokens, do_sample, num_beams, ... (*optional*):
            Arguments of `generate()`, also as `generate_kwargs={...}`. At most 256 new tokens if nothing is said. A
            `streamer` gets the words of an answer as they come, one answer after the other.
    """

    processor: Any  # a LinVTProcessor
    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(
        self,
        *args: Any,
        cache_size: int = 8,
        cache_bytes: int = 1 << 30,
        cache_dir: str | os.PathLike | None = None,
        cache_dir_bytes: int = 10 << 30,
        **kwargs: Any,
    ) -> None:
        self.cache = FeatureCache(cache_size, cache_bytes, cache_dir, cache_dir_bytes)
        super().__init__(*args, **kwargs)
        if not hasattr(self._linvt, "encode_video"):
            raise LinVTInputError(
                f"{type(self.model).__name__} is no LinVT model. Put LinVT around it with "
                "LinVTForVideoQA.from_base(model), and give the pipeline a LinVTProcessor too."
            )
        if not hasattr(self.processor, "question_inputs"):
            raise LinVTInputError(
                f"The processor is {type(self.processor).__name__}, not LinVTProcessor. Make one with "
                "LinVTProcessor.from_base(...), and pass it as processor=..."
            )
        self.processor.check_fits(self._linvt.config)
        if self.device.type == "cpu" and self.dtype == torch.float16:
            logger.warning(
                "The model is in float16 on a CPU, which computes that slowly, or not at all. Load it with "
                'dtype="bfloat16" or dtype="float32".'
            )
        self._keys = Keys(self._linvt, self.processor, for_files=cache_dir is not None)
        if (pad := self.processor.tokenizer.pad_token_id) is not None:
            self._generation_defaults.setdefault("pad_token_id", pad)

    @property
    def _answerer(self) -> Answerer:
        return Answerer(self._linvt, self.processor, self.device, self.cache)

    @property
    def _linvt(self) -> Any:
        """The LinVT model, also where PEFT is wrapped around it."""
        unwrap = getattr(self.model, "get_base_model", None)
        return unwrap() if callable(unwrap) else self.model

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """
        Save model and processor into one folder, from which `pipeline(..., model=folder)` comes back.

        Args:
            save_directory: folder, made if missing.
            kwargs: of [`LinVTForVideoQA.save_pretrained`], such as `include_base=True`.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    @torch.no_grad()
    def inspect(self, video: Any, question: str | None = None, **sampling: Any) -> VideoEvidence:
        """
        What is kept of a video and how much weight each place gets, without an answer: the language model is not run.

        Args:
            video: what [`LinVTProcessor.read_video`] takes.
            question: what the video is condensed for; without one, as for an empty question.
            sampling: `num_frames`, `fps` and the other sampling arguments.

        Raises:
            VideoReadError: the video could not be read.
            LinVTInputError: an empty question, or an unknown argument.
        """
        sampling, *_ = self._sanitize_parameters(**sampling)
        sampling = {**self._preprocess_params, **sampling, "with_pixels": True}
        model = self._linvt
        with frames_bar(self._postprocess_params.get("progress_bar")):
            seen = self._see(video, **sampling)
            features = self._answerer.features_of(seen)
        if question is None:
            condensed = model.model.condense_features([features])
        else:
            prompt = self._answerer.on_device(self.processor.question_inputs(questions_of(question)))
            _, condensed = model.model.prepare(**prompt, video_features=[features])
        return replace(self._answerer.evidence_of(condensed, 0, seen), question=question)

    @torch.no_grad()
    def encode(self, video: Any, **sampling: Any) -> VideoFeatures:
        """
        A video to be asked later, by this model: `pipe(video=features, question=...)`, in this process or from a file
        ([`VideoFeatures.save`]).

        Args:
            video: what [`LinVTProcessor.read_video`] takes.
            sampling: `num_frames`, `fps` and the other sampling arguments.

        Raises:
            VideoReadError: the video could not be read.
            LinVTInputError: an unknown argument.
        """
        sampling, *_ = self._sanitize_parameters(**sampling)
        with frames_bar(self._postprocess_params.get("progress_bar")):
            seen = self._see(video, **{**self._preprocess_params, **sampling})
            features = self._answerer.features_of(seen)
        encoder = Keys(self._linvt, self.processor, for_files=True).of_encoder(counts_repeats=False)
        return with_about(features, seen.video, encoder=encoder)

    # -- what is asked --

    def __call__(
        self, video: Any = None, question: Any = None, messages: Any = None, text: Any = None, **kwargs: Any
    ) -> Any:
        """
        Answer questions about videos.

        Args:
            video:
                What [`LinVTProcessor.read_video`] takes, or a list of such. In first place also: a dictionary with
                `video` and `question`, or with `messages` (and sampling arguments), a list of those, chat messages, a
                list of chats, and a dataset or generator of any of them. A key that looks like one of these misspelt
                is refused; others (an id, the right answer) do nothing.
            question (`str`, `list[str]` or a dataset of those):
                One question, or several about the same video. With a list of videos: one for all of them, or a list
                with an entry (one question or several) per video.
            messages (`list[dict]` or `list[list[dict]]`):
                One chat or several: `[{"role": "user", "content": [{"type": "video", "path": ...}, {"type": "text",
                "text": ...}]}]`, with any number of videos, pictures and turns, as
                [`LinVTProcessor.apply_chat_template`] takes them. A chat that ends with the assistant is continued.
            text: the same as `messages`, or as `question`: the name that transformers' other pipelines use.
            kwargs: see the class.

        Returns:
            For one input a list with one dictionary per question (times `num_return_sequences`); for a list of inputs
            a list of such lists; for a dataset or a generator an iterator over such lists, which reads as it is asked.
            A dictionary has `answer`, `question`, `video` (its path or address, a list for chats), `frames_seen`,
            `frame_tokens` (tokens the base made of the frames), `video_tokens` (what the language model got of them),
            for chats `generated_text` (the chat with the reply), and what was asked for: `score`, `evidence`, `error`.

        Raises:
            LinVTInputError: something is missing, of a wrong type, given twice, or not known.
            VideoReadError: a video could not be read (unless errors are recorded).
        """
        self._check_names(kwargs)
        if text is not None:
            if messages is not None or question is not None:
                raise LinVTInputError("text was given together with question or messages, which mean the same.")
            messages, question = (text, None) if is_chat(text) or is_list_of_chats(text) else (None, text)
        video_root = kwargs.get("video_root") or self._preprocess_params.get("video_root")
        requests = requests_of(video, question, messages, video_root)
        if isinstance(requests, list) and not requests:
            return []
        on_error = kwargs.get("on_error") or self._postprocess_params.get("on_error")
        if on_error == "raise" and isinstance(requests, list):  # before anything is read
            for request in requests:
                if request.error is not None:
                    raise request.error
        batch_size = kwargs.pop("batch_size", None) or self._batch_size or 1
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise LinVTInputError(f"batch_size={batch_size!r}: give a whole number, 1 or more.")
        if kwargs.get("streamer") is not None and batch_size > 1:
            raise LinVTInputError(
                f"A streamer takes the words of one answer at a time, and batch_size={batch_size}. Leave one of them "
                "out."
            )
        return super().__call__(requests, batch_size=batch_size, rows_at_once=batch_size, **kwargs)

    @staticmethod
    def _check_names(given: Iterable[str]) -> None:
        """Refuse what is no argument, with the one that was meant; before anything else is said of the call."""
        known = [*_OWN_ARGUMENTS, *_OF_PIPELINE, *GENERATION_ARGUMENTS]
        for name in given:
            if name not in known:
                meant = OTHER_NAMES.get(name) or nearest_name(name, [*_INPUTS, *known], least_likeness=0.6)
                hint = f" Did you mean {meant!r}?" if meant else ""
                raise LinVTInputError(f"{name!r} is no argument of this pipeline or of generate().{hint}")

    def _sanitize_parameters(
        self, rows_at_once: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        generate_kwargs = dict(kwargs.pop("generate_kwargs", None) or {})
        own = {name: kwargs.pop(name) for name in _OWN_ARGUMENTS if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in _OWN_ARGUMENTS}  # None: not given
        self._check_names(kwargs)
        if twice := sorted(generate_kwargs.keys() & kwargs.keys()):
            raise LinVTInputError(f"{', '.join(twice)} was given twice: by itself and in generate_kwargs.")
        if own.get("on_error", "raise") not in ("raise", "record"):
            raise LinVTInputError(f"on_error={own['on_error']!r} must be 'raise' or 'record'.")
        if not isinstance(own.get("stream", True), bool):
            raise LinVTInputError(f"stream={own['stream']!r}: give True or False.")
        of_reading = (*SAMPLING_ARGUMENTS, *SUBTITLE_ARGUMENTS, "video_root", "stream")
        preprocess = {name: own[name] for name in of_reading if name in own}
        if "return_evidence" in own:
            preprocess["with_pixels"] = own["return_evidence"]
        for one, other in (("num_frames", "fps"), ("fps", "num_frames")):
            if one in preprocess:  # they exclude each other: that of a call replaces either of the construction
                preprocess.setdefault(other, None)
        forward = {name: own[name] for name in ("return_evidence", "return_score") if name in own}
        check_generation(
            {**getattr(self, "_generate_kwargs", {}), **generate_kwargs, **kwargs},
            getattr(self.model, "generation_config", None),
        )
        if generate_kwargs or kwargs:
            forward["generate_kwargs"] = {**generate_kwargs, **kwargs}
        if rows_at_once is not None:
            forward["rows_at_once"] = rows_at_once
        return preprocess, forward, {name: own[name] for name in ("on_error", "progress_bar") if name in own}

    def run_single(
        self,
        inputs: Request,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """One input: errors are raised unless they are to be recorded."""
        answered: Any
        with frames_bar(postprocess_params.get("progress_bar")):
            read = self.preprocess(inputs, **preprocess_params)
            (answered,) = self.forward([read], **forward_params)
        return self.postprocess((read, answered), on_error=postprocess_params.get("on_error", "raise"))

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[dict[str, Any]]]:
        """Many inputs: decoded by `num_workers` threads, answered `batch_size` at a time, in order."""
        is_sized = hasattr(inputs, "__len__")
        requests = (inputs[index] for index in range(len(inputs))) if is_sized else iter(inputs)
        if num_workers:  # they read ahead of the model, each a whole video
            preprocess_params = {**preprocess_params, "stream": False}
        videos = _in_threads(partial(self.preprocess, **preprocess_params), requests, num_workers)
        on_error = postprocess_params.get("on_error", "record")
        total = len(inputs) if is_sized else None
        with make_bar(postprocess_params.get("progress_bar"), total=total, desc="Videos", unit="video") as bar:
            for batch in _batches(videos, batch_size):
                answers: Any = self.forward(batch, **forward_params)
                for read, answered in zip(batch, answers, strict=True):
                    yield self.postprocess((read, answered), on_error=on_error)
                    bar.update(1)

    # -- reading, answering, reporting --

    def preprocess(
        self,
        request: Request,
        video_root: str | os.PathLike | None = None,
        with_pixels: bool = False,
        stream: bool = True,
        subtitles: Any = None,
        max_subtitle_tokens: int | None = None,
        **sampling: Any,
    ) -> Read:
        """Read the videos and pictures of a request; an expected failure is kept, to be raised or recorded later."""
        read = Read(request, error=request.error)
        if request.error is not None:
            return read
        sampling = sampling_of(request.sampling, sampling)
        try:
            beside = {"subtitles": resolved(subtitles, video_root), "max_subtitle_tokens": max_subtitle_tokens}
            window = {name: sampling.get(name) for name in ("start", "end")}
            messages = self.processor.with_subtitles(as_chat(request, video_root), {**beside, **window})
            if request.messages is None:
                read.subtitles = next(parts_of(messages, "video")).get("subtitles")
                read.videos = [self._see(request.video, video_root, with_pixels, stream, **sampling)]
            else:
                stream = stream and sum(1 for _ in parts_of(messages, "video")) == 1
                with one_request():  # its videos share the limits of a request
                    read.messages = [
                        self._read_message(message, sampling, with_pixels, stream, read.videos) for message in messages
                    ]
        except Exception as error:  # raised or recorded behind the model, like those of the model
            read.error = error
        return read

    def _forward(
        self,
        batch: list[Read],
        rows_at_once: int = 1,
        generate_kwargs: Mapping[str, Any] | None = None,
        return_evidence: bool = False,
        return_score: bool = False,
    ) -> list[Answered]:
        """Answer a batch of requests that were read."""
        kwargs = dict(self._prepare_generate_kwargs(dict(generate_kwargs or {}), return_dict_in_generate=True))
        configs = (kwargs.get("generation_config"), self._linvt.generation_config)
        if kwargs.get("stop_strings") or any(getattr(config, "stop_strings", None) for config in configs):
            kwargs.setdefault("tokenizer", self.processor.tokenizer)
        if return_score:
            kwargs["output_logits"] = True
        settings = self._get_set_generation_params(kwargs)
        ends, pad = settings.get("eos_token_id"), settings.get("pad_token_id")
        return self._answerer.answer(batch, Generation(kwargs, ends, pad, return_score, return_evidence, rows_at_once))

    def postprocess(self, outputs: tuple[Read, Answered], on_error: str = "raise") -> list[dict[str, Any]]:
        """The dictionaries of one request; its error is raised or recorded here."""
        read, answered = outputs
        request = read.request
        is_chat = request.messages is not None
        questions = [last_question(request.messages)] if request.messages is not None else request.questions
        if answered.error is not None:
            names = [seen.video.source for seen in read.videos] or request.names_of_videos()
            if on_error == "raise":
                raise answered.error
            logger.warning(f"{', '.join(names)} was not answered: {_told(answered.error)}")
        else:
            names = [seen.video.source for seen in read.videos]
        per_question = max(len(answered.texts) // len(questions), 1)
        results = []
        for number in range(len(questions) * per_question):
            question = questions[number // per_question]
            result = {
                "answer": answered.texts[number] if answered.error is None else None,
                "question": question,
                "video": names if is_chat else names[0],
                "frames_seen": sum(len(seen.video.frames) for seen in read.videos) if answered.error is None else 0,
                "frame_tokens": answered.num_frame_tokens,
                "video_tokens": answered.num_video_tokens,
            }
            if (subtitle_tokens := read.num_subtitle_tokens()) is not None:
                result["subtitle_tokens"] = subtitle_tokens
            if answered.error is not None:
                result["error"] = _told(answered.error)
            elif request.chat is not None:
                result["generated_text"] = with_reply(request.chat, result["answer"])
            if answered.scores is not None:
                result["score"] = answered.scores[number]
            if answered.evidence is not None:
                found = [replace(one, question=question, answer=result["answer"]) for one in answered.evidence[number]]
                result["evidence"] = found if is_chat else found[0]
            results.append(result)
        return Results(results)


def _told(error: Exception) -> str:
    """Ours say all there is to say; of others, which kind they are."""
    return str(error) if isinstance(error, LinVTError) else f"{type(error).__name__}: {error}"


def _until_it_fails(items: Iterator[Any], failures: list[Exception]) -> Iterator[Any]:
    """The items until getting one fails; the error is kept, for whoever has used what came before it."""
    try:
        yield from items
    except Exception as error:
        failures.append(error)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items; where getting one fails, those before it come first, and then its error."""
    failures: list[Exception] = []
    items = _until_it_fails(items, failures)
    while batch := list(itertools.islice(items, size)):
        yield batch
    if failures:
        raise failures[0]


def _in_threads(read: Callable[[Request], Read], requests: Iterator[Request], num_threads: int) -> Iterator[Read]:
    """`map(read, requests)`, in order, at most `num_threads` requests ahead of what was taken."""
    if num_threads < 1:
        yield from map(read, requests)
        return
    waiting: deque[Future[Read]] = deque()
    failures: list[Exception] = []
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for request in _until_it_fails(requests, failures):
                waiting.append(pool.submit(read, request))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    if failures:
        raise failures[0]
