"""`pipeline("video-question-answering")`: videos and questions, or chats, in; answers and their evidence out."""

import difflib
import inspect
import itertools
import operator
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerationConfig,
    GenerationMixin,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    Pipeline,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.utils import logging

from .bases.layouts import FRAME_PREFIX
from .errors import AttributionError, LinVTError, LinVTInputError
from .evidence.evidence import VideoEvidence, region_seen
from .model.attribution import attribute_answers, tokens_of_answer, words_of_answer
from .model.messages import (
    SAMPLING_ARGUMENTS,
    check_keys,
    nearest_name,
    parse_messages,
    parts_of,
    sampling_of,
    source_of,
    texts_of,
)
from .video.media_address import is_data_url, name_of_address


logger = logging.get_logger(__name__)

_OWN_ARGUMENTS = (
    *SAMPLING_ARGUMENTS,
    "video_root",
    "return_evidence",
    "return_score",
    "on_error",
    "progress_bar",
    "generate_kwargs",
)
# A key of an input is taken for a misspelt one from this likeness on (0 to 1, as difflib counts): more than that of
# 'video_id' and 'question_id', which many datasets have. Ours.
_LIKENESS_OF_KEYS = 0.85
_OF_OTHER_PACKAGES = ("max_pixels", "min_pixels", "total_pixels")  # Qwen's, for the size of frames
_LONG_LIST = 10  # inputs from which on a progress bar is shown


@dataclass
class _Request:
    """
    One input: questions about a video, or one chat that a reply is wanted for; or why it is neither.

    `messages` is the chat as the parser understands it, `chat` as it was given.
    """

    video: Any = None
    questions: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    chat: Sequence[Mapping[str, Any]] | None = None
    error: LinVTInputError | None = None

    def names_of_videos(self) -> list[str]:
        """How results name the videos that could not be read."""
        if self.messages is None:
            return [_name_of(self.video)]
        return [_name_of(source_of(part, is_needed=False)) for part in parts_of(self.messages, "video")]


@dataclass
class _Read:
    """A request whose videos were decoded, or the error that this met."""

    request: _Request
    videos: list[Any] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    error: LinVTError | None = None


@dataclass
class _Answered:
    """What the model made of a request: one text per question and returned sequence."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] | None = None
    num_frame_tokens: int = 0
    num_video_tokens: int = 0
    evidence: list[list[VideoEvidence]] | None = None  # per text, per video
    error: LinVTError | None = None


@dataclass
class _Generated:
    """What `generate()` made of prompts: `num_return_sequences` rows for each."""

    texts: list[str]
    scores: list[float] | None
    tokens: torch.Tensor
    words: torch.Tensor  # True at the tokens that are an answer's words


class VideoQuestionAnsweringPipeline(Pipeline):
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
    (8, 128, 16)

    Arguments of a call (all may be given when the pipeline is made as well):

    Args:
        num_frames, fps, start, end, max_frames, video_backend, limits, allow_urls (*optional*):
            Which frames are read, and how; see [`LinVTProcessor.read_video`]. A dictionary of an input list, and a
            video part of a chat, may carry its own.
        video_root (*optional*):
            Folder that relative paths start from, and that files which a chat names by `url`, `video_url` or
            `image_url` have to lie in; without it these name none.
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
            inputs are answered, and a warning is logged.
        progress_bar (`bool`, *optional*):
            By default shown for lists of 10 inputs or more, on a terminal, unless transformers' bars are switched off.
        batch_size (`int`, *optional*, defaults to 1):
            Questions (rows) that go through the language model at once. Several questions about one video are split
            into such batches too; the video is decoded and encoded once in any case.
        num_workers (`int`, *optional*, defaults to 0):
            Threads that decode videos ahead of the model (decoders work outside of Python's lock). Not processes:
            forked from a program that has threads already, they can dead-lock.
        max_new_tokens, do_sample, num_beams, ... (*optional*):
            Arguments of `generate()`, also as `generate_kwargs={...}`. At most 256 new tokens if nothing is said.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
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
        if (pad := self.processor.tokenizer.pad_token_id) is not None:
            self._generation_defaults.setdefault("pad_token_id", pad)

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
        frames = self.processor.read_video(video, **{**self._preprocess_params, **sampling})
        model = self._linvt
        features = model.encode_video(**self._on_device(self.processor.video_inputs(frames)))
        if question is None:
            condensed = model.model.condense_features([features])
        else:
            prompt = self._on_device(self.processor.question_inputs(_questions(question)))
            _, condensed = model.model.prepare(**prompt, video_features=[features])
        found = self._evidence(condensed, 0, frames, (features.grid_size, features.refined.tokens_per_frame))
        return replace(found, question=question)

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
        if text is not None:
            if messages is not None or question is not None:
                raise LinVTInputError("text was given together with question or messages, which mean the same.")
            messages, question = (text, None) if _is_chat(text) or _is_list_of_chats(text) else (None, text)
        video_root = kwargs.get("video_root") or self._preprocess_params.get("video_root")
        requests = _requests(video, question, messages, video_root)
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
        return super().__call__(requests, batch_size=batch_size, rows_at_once=batch_size, **kwargs)

    def _sanitize_parameters(
        self, rows_at_once: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        generate_kwargs = dict(kwargs.pop("generate_kwargs", None) or {})
        own = {name: kwargs.pop(name) for name in _OWN_ARGUMENTS if kwargs.get(name) is not None}
        for name in list(kwargs):
            if name in _OWN_ARGUMENTS:  # given as None: not given
                kwargs.pop(name)
            elif name not in _GENERATION_ARGUMENTS:
                close = difflib.get_close_matches(name, [*_OWN_ARGUMENTS, *_GENERATION_ARGUMENTS], n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise LinVTInputError(f"{name!r} is no argument of this pipeline or of generate().{hint}")
        if twice := sorted(generate_kwargs.keys() & kwargs.keys()):
            raise LinVTInputError(f"{', '.join(twice)} was given twice: by itself and in generate_kwargs.")
        if own.get("on_error", "raise") not in ("raise", "record"):
            raise LinVTInputError(f"on_error={own['on_error']!r} must be 'raise' or 'record'.")
        preprocess = {name: own[name] for name in (*SAMPLING_ARGUMENTS, "video_root") if name in own}
        for one, other in (("num_frames", "fps"), ("fps", "num_frames")):
            if one in preprocess:  # they exclude each other: that of a call replaces either of the construction
                preprocess.setdefault(other, None)
        forward = {name: own[name] for name in ("return_evidence", "return_score") if name in own}
        _check_generation(
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
        inputs: _Request,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> list[dict[str, Any]]:
        """One input: errors are raised unless they are to be recorded."""
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
        videos = _in_threads(partial(self.preprocess, **preprocess_params), requests, num_workers)
        wanted = postprocess_params.get("progress_bar")
        if wanted is None:
            wanted = is_sized and len(inputs) >= _LONG_LIST
        on_error = postprocess_params.get("on_error", "record")
        total = len(inputs) if is_sized else None
        # disable=None: on a terminal only
        with logging.tqdm(total=total, desc="Videos", unit="video", disable=None if wanted else True) as bar:
            while batch := list(itertools.islice(videos, batch_size)):
                for read, answered in zip(batch, self.forward(batch, **forward_params), strict=True):
                    yield self.postprocess((read, answered), on_error=on_error)
                    bar.update(1)

    # -- reading, answering, reporting --

    def preprocess(self, request: _Request, video_root: str | os.PathLike | None = None, **sampling: Any) -> _Read:
        """Read the videos and pictures of a request; an expected failure is kept, to be raised or recorded later."""
        read = _Read(request, error=request.error)
        if request.error is not None:
            return read
        sampling = sampling_of(request.sampling, sampling)
        try:
            if request.messages is None:
                read.videos = [self.processor.read_video(request.video, video_root, **sampling)]
            else:
                read.messages = [self._read_message(message, sampling, read.videos) for message in request.messages]
        except LinVTError as error:
            read.error = error
        return read

    def _read_message(self, message: Mapping[str, Any], sampling: dict[str, Any], videos: list[Any]) -> dict[str, Any]:
        """A message with what was read in place of every video and picture; videos are appended to `videos` too."""
        if not isinstance(message.get("content"), list):
            return dict(message)
        content = []
        for part in message["content"]:
            if part["type"] == "video":
                videos.append(self.processor.read_video(source_of(part), **sampling_of(part, sampling)))
                part = {"type": "video", "video": videos[-1]}
            elif part["type"] == "image":
                part = {"type": "image", "image": self.processor.load_picture(source_of(part), sampling)}
            content.append(part)
        return {**message, "content": content}

    def _forward(self, batch: list[_Read], rows_at_once: int = 1, **how: Any) -> list[_Answered]:
        """Answer a batch of requests that were read."""
        answered: list[_Answered | None] = [_Answered(error=read.error) if read.error else None for read in batch]
        together = [
            i
            for i, read in enumerate(batch)
            if answered[i] is None and len(read.request.questions) <= 1 and not _is_continued(read.messages)
        ]
        if len(together) > 1:
            try:
                found = self._answer_chats([batch[i] for i in together], **how)
            except LinVTError:
                found = []  # one of them is to blame: each by itself, so that the others are answered
            for i, one in zip(together, found, strict=False):
                answered[i] = one
        for i, read in enumerate(batch):
            if answered[i] is not None:
                continue
            try:
                if read.request.messages is None and not self.processor.add_timestamps:
                    answered[i] = self._answer_questions(read, rows_at_once, **how)
                else:
                    answered[i] = self._answer_one_by_one(read, **how)
            except LinVTError as error:
                answered[i] = _Answered(error=error)
        return answered

    def _answer_questions(
        self, read: _Read, rows_at_once: int, return_evidence: bool = False, **how: Any
    ) -> _Answered:
        """Questions about one video, which goes through the vision tower and SVR once."""
        (video,), model = read.videos, self._linvt
        inputs = self._on_device(self.processor.video_inputs(video))
        features = model.encode_video(**inputs)
        result = _Answered(
            num_frame_tokens=features.num_frames * features.refined.tokens_per_frame,
            num_video_tokens=model.config.num_video_tokens,
            evidence=[] if return_evidence else None,
        )
        questions = read.request.questions
        for start in range(0, len(questions), rows_at_once):
            chunk = questions[start : start + rows_at_once]
            prompts = self._on_device(self.processor.question_inputs(chunk))
            prepared, condensed = model.model.prepare(**prompts, video_features=[features] * len(chunk))
            made = self._generate(prepared, **how)
            result.texts += made.texts
            result.scores = None if made.scores is None else [*(result.scores or []), *made.scores]
            if return_evidence:
                grid = (features.grid_size, features.refined.tokens_per_frame)
                seen = [[(row, video, grid)] for row in range(len(chunk))]
                result.evidence += self._evidence_of_answers(prompts, condensed, made, seen)
        return result

    def _answer_one_by_one(self, read: _Read, **how: Any) -> _Answered:
        """Every question of a request as a chat of its own: the way for prompts that name the times of the frames."""
        merged = _Answered(evidence=[] if how.get("return_evidence") else None)
        for one in _as_chats(read):
            (answered,) = self._answer_chats([one], **how)
            merged.texts += answered.texts
            merged.num_frame_tokens, merged.num_video_tokens = answered.num_frame_tokens, answered.num_video_tokens
            merged.scores = None if answered.scores is None else [*(merged.scores or []), *answered.scores]
            if merged.evidence is not None:
                merged.evidence += answered.evidence
        return merged

    def _answer_chats(self, batch: list[_Read], return_evidence: bool = False, **how: Any) -> list[_Answered]:
        """Chats, or single questions, about any number of videos each: one batch."""
        chats = [chat for read in batch for chat in _as_chats(read)]
        continued = _is_continued(chats[0].messages)
        inputs = self.processor.apply_chat_template(
            [chat.messages for chat in chats],
            tokenize=True,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            return_dict=True,
            return_tensors="pt",
            padding_side="left",
        )
        inputs = self._on_device(inputs)
        prepared, condensed = self._linvt.model.prepare(**inputs)
        made = self._generate(prepared, **how)
        per_chat = len(made.texts) // len(chats)
        firsts = [0, *itertools.accumulate(len(chat.videos) for chat in chats)]
        evidence = []
        if return_evidence:
            seen = [
                [(first + i, video, self._grid_of(video)) for i, video in enumerate(chat.videos)]
                for first, chat in zip(firsts, chats, strict=False)
            ]
            evidence = self._evidence_of_answers(inputs, condensed, made, seen)
        results = []
        for number, chat in enumerate(chats):
            rows = slice(number * per_chat, (number + 1) * per_chat)
            result = _Answered(made.texts[rows], made.scores[rows] if made.scores is not None else None)
            videos = range(firsts[number], firsts[number + 1])
            if chat.videos:
                # SVR gives every token that exists a significance above 0, padding exactly 0
                result.num_frame_tokens = int((condensed.outputs.significance[list(videos)] > 0).sum())
                result.num_video_tokens = len(videos) * condensed.tokens.shape[1]
            if return_evidence:
                result.evidence = evidence[rows]
            results.append(result)
        return results

    def _generate(
        self, prepared: Mapping[str, Any], generate_kwargs: dict[str, Any] | None = None, return_score: bool = False
    ) -> _Generated:
        """Texts of the rows, `num_return_sequences` for each, and how probable they were."""
        model = self._linvt
        kwargs = dict(self._prepare_generate_kwargs(generate_kwargs or {}, return_dict_in_generate=True))
        configs = (kwargs.get("generation_config"), model.generation_config)
        if kwargs.get("stop_strings") or any(getattr(config, "stop_strings", None) for config in configs):
            kwargs.setdefault("tokenizer", self.processor.tokenizer)
        if return_score:
            kwargs["output_logits"] = True
        model.base_vlm.generation_config = model.generation_config
        output = model.model.adapter.generate(model.base_vlm, **prepared, **kwargs)
        new_tokens = output.sequences[:, prepared["input_ids"].shape[1] :]
        texts = [text.strip() for text in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]
        settings = self._get_set_generation_params(kwargs)
        ends, pad = settings.get("eos_token_id"), settings.get("pad_token_id")
        words = words_of_answer(new_tokens, ends, pad)
        if not return_score:
            return _Generated(texts, None, new_tokens, words)
        log_probs = model.compute_transition_scores(
            output.sequences, output.logits, getattr(output, "beam_indices", None), normalize_logits=True
        )
        counts = tokens_of_answer(new_tokens, ends, pad) & log_probs.isfinite()
        mean = log_probs.masked_fill(~counts, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        return _Generated(texts, mean.exp().tolist(), new_tokens, words)

    def _evidence_of_answers(
        self,
        inputs: Mapping[str, Any],
        condensed: Any,
        made: _Generated,
        seen: Sequence[Sequence[tuple[int, Any, tuple[tuple[int, int], int]]]],
    ) -> list[list[VideoEvidence]]:
        """
        Per text, per video of its prompt: the weights, and what of the video the answer depended on.

        Args:
            inputs: of the prompts.
            condensed: their videos.
            made: the answers.
            seen: per prompt its videos: place in `condensed`, frames, and grid and number of the tokens of a frame.
        """
        if condensed is None:  # prompts without a video
            return [[] for _ in made.texts]
        per_prompt = len(made.texts) // len(seen)
        columns = []
        for nth in range(per_prompt):
            about: dict[str, Any] = {}
            try:
                found = attribute_answers(
                    self._linvt, inputs, condensed, made.tokens[nth::per_prompt], made.words[nth::per_prompt]
                )
            except AttributionError as error:
                logger.warning(str(error))
                found, about = None, {"no_attribution": str(error)}
            columns.append((found, about))
        result = []
        for number in range(len(made.texts)):
            row, (found, about) = number // per_prompt, columns[number % per_prompt]
            if found is not None:
                about = {"log_probs": tuple(found.log_probs[row].tolist())}
            videos = []
            for index, video, grid in seen[row]:
                values = None if found is None else found.values[index]
                videos.append(self._evidence(condensed, index, video, grid, attribution=values, **about))
            result.append(videos)
        return result

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors on the model's device; pixels in its precision, times and masks as they are."""
        moved = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                is_pixels = value.is_floating_point() and name.removeprefix(FRAME_PREFIX) != "video_timestamps"
                value = value.to(self.device, self.dtype if is_pixels else None)
            moved[name] = value
        return moved

    def _grid_of(self, video: Any) -> tuple[tuple[int, int], int]:
        """Grid and number of the tokens of a frame, found by encoding the first frame of the video by itself."""
        first = replace(video, frames=video.frames[:1], timestamps=video.timestamps[:1])
        inputs = self._on_device(self.processor.video_inputs(first))
        frame = {
            name.removeprefix(FRAME_PREFIX): value for name, value in inputs.items() if name.startswith(FRAME_PREFIX)
        }
        (encoded,) = self._linvt.model.encode_videos([1], frame)
        return encoded.grid_size, encoded.tokens.shape[1]

    def _evidence(
        self, condensed: Any, row: int, video: Any, grid: tuple[tuple[int, int], int], **about: Any
    ) -> VideoEvidence:
        video = self.processor.steps_of(video)
        height, width = video.frames.shape[1:3]
        return VideoEvidence.from_output(
            condensed.outputs,
            row,
            frames=np.asarray(video.frames),
            timestamps=video.timestamps,
            grid_size=grid[0],
            tokens_per_frame=grid[1],
            source=video.source,
            region=region_seen(self.processor.image_processor, height, width),
            **about,
        )

    def postprocess(self, outputs: tuple[_Read, _Answered], on_error: str = "raise") -> list[dict[str, Any]]:
        """The dictionaries of one request; its error is raised or recorded here."""
        read, answered = outputs
        request = read.request
        is_chat = request.messages is not None
        questions = [_last_question(request.messages)] if is_chat else request.questions
        if answered.error is not None:
            names = [video.source for video in read.videos] or request.names_of_videos()
            if on_error == "raise":
                raise answered.error
            logger.warning(f"{', '.join(names)} was not answered: {answered.error}")
        else:
            names = [video.source for video in read.videos]
        per_question = max(len(answered.texts) // len(questions), 1)
        results = []
        for number in range(len(questions) * per_question):
            question = questions[number // per_question]
            result = {
                "answer": answered.texts[number] if answered.error is None else None,
                "question": question,
                "video": names if is_chat else names[0],
                "frames_seen": sum(len(video.frames) for video in read.videos) if answered.error is None else 0,
                "frame_tokens": answered.num_frame_tokens,
                "video_tokens": answered.num_video_tokens,
            }
            if answered.error is not None:
                result["error"] = str(answered.error)
            elif is_chat:
                result["generated_text"] = _with_reply(request.chat, result["answer"])
            if answered.scores is not None:
                result["score"] = answered.scores[number]
            if answered.evidence is not None:
                found = [replace(one, question=question, answer=result["answer"]) for one in answered.evidence[number]]
                result["evidence"] = found if is_chat else found[0]
            results.append(result)
        return results


# What generate() takes: the fields of its configuration and its own arguments, but for the inputs.
_GENERATION_ARGUMENTS = frozenset(
    {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    | (set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "inputs", "kwargs"})
    | {"tokenizer"}
)


# What generate() builds from an argument, in the midst of a run: value that is off, class, whether for sampling only.
_BUILT_BY_GENERATE: dict[str, tuple[float | None, Callable[[Any], Any], bool]] = {
    "temperature": (1.0, TemperatureLogitsWarper, True),
    "top_k": (0, TopKLogitsWarper, True),
    "top_p": (1.0, TopPLogitsWarper, True),
    "min_p": (None, MinPLogitsWarper, True),
    "typical_p": (1.0, TypicalLogitsWarper, True),
    "epsilon_cutoff": (0.0, EpsilonLogitsWarper, True),
    "eta_cutoff": (0.0, EtaLogitsWarper, True),
    "repetition_penalty": (1.0, RepetitionPenaltyLogitsProcessor, False),
    "no_repeat_ngram_size": (0, NoRepeatNGramLogitsProcessor, False),
}
_LEAST = {
    "max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0, "num_beams": 1,
    "num_return_sequences": 1,
}  # fmt: skip


def _check_generation(given: Mapping[str, Any], of_model: GenerationConfig | None) -> None:
    """Refuse what generate() would refuse, before a video is read; the error names the argument."""
    given = {name: value for name, value in given.items() if value is not None}
    config = given.pop("generation_config", None)
    if config is not None and not isinstance(config, GenerationConfig):
        raise LinVTInputError(f"generation_config is a {type(config).__name__}. Give a GenerationConfig.")
    for name, least in _LEAST.items():
        if name in given and not _is_whole_number(given[name], least):
            raise LinVTInputError(f"{name}={given[name]!r}: give a whole number, {least} or more.")
    known = vars(GenerationConfig())
    set_before = {**(of_model.to_diff_dict() if of_model else {}), **(config.to_diff_dict() if config else {})}
    fields = {name: value for name, value in given.items() if name in known}
    together = {name: value for name, value in {**set_before, **fields}.items() if name in known}
    for name, (off, build, if_sampling) in _BUILT_BY_GENERATE.items():
        value = fields.get(name, off)
        if value == off:
            continue
        # where nothing is sampled, generate() leaves these alone, and temperature=0 is a usual way to say so
        unused = if_sampling and not together.get("do_sample")
        if unused and isinstance(value, int | float) and value >= 0:
            continue
        _refused_by(build, value, {name: value})
    if fields:
        _refused_by(lambda all_of_them: GenerationConfig(**all_of_them), together, fields)


def _refused_by(check: Callable[[Any], Any], value: Any, given: Mapping[str, Any]) -> None:
    """Call what checks a value; its complaint names the arguments it is about."""
    try:
        check(value)
    except (TypeError, ValueError) as error:
        to_blame = [name for name in given if name in str(error)] or list(given)
        shown = ", ".join(f"{name}={given[name]!r:.80}" for name in to_blame)
        raise LinVTInputError(f"generate() does not take {shown}: {error}") from error


def _is_whole_number(value: Any, least: int) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:
        return False


def _in_threads(read: Callable[[_Request], _Read], requests: Iterator[_Request], num_threads: int) -> Iterator[_Read]:
    """`map(read, requests)`, in order, at most `num_threads` requests ahead of what was taken."""
    if num_threads < 1:
        yield from map(read, requests)
        return
    waiting: deque[Future[_Read]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(read, request))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# ---------------------------------------------------------------------------------------------------------------------
# What a call may be given
# ---------------------------------------------------------------------------------------------------------------------


def _requests(
    video: Any, question: Any, messages: Any, video_root: str | os.PathLike | None = None
) -> "_Request | list[_Request] | Dataset | Iterator[_Request]":
    """
    The arguments of a call as one request, a list of them, or a lazy stream of them.

    A single input that makes no request is an error; one of several becomes a request that holds its error, so that
    the others are answered.
    """
    if messages is None and question is None and _is_collection(video):
        messages = video if _is_chat(video) or _is_list_of_chats(video) else None
        video = None if messages is not None else video
    if messages is not None:
        if video is not None or question is not None:
            raise LinVTInputError(
                "Chat messages were given together with a video or a question. Put both into the messages: "
                '{"role": "user", "content": [{"type": "video", "path": ...}, {"type": "text", "text": ...}]}.'
            )
        return _chat_requests(messages, video_root)
    if video is None:
        raise LinVTInputError(
            'No video was given. Call pipe(video="clip.mp4", question="..."), or pass chat messages.'
        )
    if _is_dataset(video):
        make = _RequestDataset if hasattr(video, "__len__") else _streamed
        return make(video, question, video_root)
    if isinstance(video, Iterator) and not hasattr(video, "read"):
        return _streamed(video, question, video_root)
    if not _is_several(video):
        return _request_of(video, question, video_root)
    if question is None or isinstance(question, str):
        return [_one_of_several(one, question, video_root) for one in video]
    if _is_dataset(question) or not isinstance(question, list | tuple) or len(question) != len(video):
        given = f"{len(question)} of them" if hasattr(question, "__len__") else type(question).__name__
        raise LinVTInputError(
            f"{len(video)} videos need one question for all, or a list with an entry per video; got {given}."
        )
    return [_one_of_several(one, about, video_root) for one, about in zip(video, question, strict=True)]


def _chat_requests(messages: Any, video_root: str | os.PathLike | None) -> "_Request | list[_Request]":
    if not isinstance(messages, list | tuple) or not messages:
        raise LinVTInputError(
            f"messages must be a chat, a list of dictionaries with role and content, or a list of chats; got "
            f"{_described(messages)}."
        )
    if isinstance(messages[0], list | tuple):
        return [_one_of_several(chat, None, video_root) for chat in messages]
    return _chat_request(messages, video_root)


def _chat_request(
    messages: Any, video_root: str | os.PathLike | None, sampling: Mapping[str, Any] | None = None
) -> _Request:
    """Check what can be checked of a chat before anything is read."""
    parsed = parse_messages(messages, video_root)
    return _Request(messages=parsed, chat=list(messages), sampling=dict(sampling or {}))


def _request_of(item: Any, question: Any, video_root: str | os.PathLike | None) -> _Request:
    """One input of any form but a stream."""
    if _is_chat(item):
        if question is not None:
            raise LinVTInputError("A chat holds its own question; leave the argument question out.")
        return _chat_request(item, video_root)
    sampling: dict[str, Any] = {}
    if isinstance(item, Mapping) and "video" in item:
        if question is not None and item.get("question") is not None:
            raise LinVTInputError("The input names a question of its own; leave the argument question out.")
        if "messages" in item:
            raise LinVTInputError("An input has both a video and messages. Put the video into the messages.")
        _check_input(item, ("video", "question", *SAMPLING_ARGUMENTS))
        sampling = sampling_of(item, {})
        question = item.get("question") if question is None else question
        item = item["video"]
    elif isinstance(item, Mapping) and "messages" in item:
        _check_input(item, ("messages", *SAMPLING_ARGUMENTS))
        return _chat_request(item["messages"], video_root, sampling_of(item, {}))
    elif isinstance(item, Mapping) and not {"path", "bytes"} & item.keys():
        raise LinVTInputError(
            f"An input has no 'video' and no 'messages'; it has {', '.join(map(repr, item)) or 'nothing'}."
        )
    if item is None:
        raise LinVTInputError("The video of an input is None. Give a path, frames, or what else read_video takes.")
    return _Request(video=item, questions=_questions(question), sampling=sampling)


def _check_input(item: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that was meant to do something and would not; an id or the right answer may stand beside."""
    meant = {key for key in item if key in _OF_OTHER_PACKAGES or nearest_name(key, known, _LIKENESS_OF_KEYS)}
    check_keys({key: item[key] for key in item if key in meant}, known, "An input")


def _one_of_several(item: Any, question: Any, video_root: str | os.PathLike | None) -> _Request:
    """The request of an input, or one that holds its error, with as much of it as a result can name."""
    try:
        return _request_of(item, question, video_root)
    except LinVTInputError as error:
        if _is_chat(item) or isinstance(item, list | tuple) or (isinstance(item, Mapping) and "messages" in item):
            return _Request(messages=[], error=error)
        if isinstance(item, Mapping) and "video" in item:
            question = item.get("question") if question is None else question
            item = item["video"]
        questions = question if isinstance(question, list | tuple) else [question]
        asked = [one for one in questions if isinstance(one, str)] or [""]
        return _Request(video=item, questions=asked, error=error)


def _questions(question: Any) -> list[str]:
    if question is None:
        raise LinVTInputError("No question was given. Ask something about the video: question='...'.")
    questions = [question] if isinstance(question, str) else question
    if not isinstance(questions, list | tuple) or not all(isinstance(one, str) for one in questions):
        raise LinVTInputError(f"question must be text or a list of texts, got {_described(question)}.")
    if not questions:
        raise LinVTInputError("question is an empty list. Ask something about the video.")
    for one in questions:
        if not one.strip():
            raise LinVTInputError("The question is empty. Ask something about the video.")
    return list(questions)


def _described(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a list of {', '.join(sorted({type(one).__name__ for one in value}))}"
    return type(value).__name__


class _RequestDataset(Dataset):
    """A dataset of videos or of dictionaries, with one question for all or a dataset of them beside it."""

    def __init__(self, videos: Any, questions: Any, video_root: str | os.PathLike | None) -> None:
        self.videos, self.questions, self.video_root = videos, questions, video_root
        self.is_paired = _is_dataset(questions)
        if self.is_paired and len(questions) != len(videos):
            raise LinVTInputError(f"{len(videos)} videos and {len(questions)} questions were given. Pair them.")

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> _Request:
        question = self.questions[index] if self.is_paired else self.questions
        return _one_of_several(self.videos[index], question, self.video_root)


def _streamed(items: Iterable[Any], question: Any, video_root: str | os.PathLike | None) -> Iterator[_Request]:
    # a generator, which is what Pipeline.__call__ recognises as a stream
    yield from (_one_of_several(item, question, video_root) for item in items)


def _is_message(value: Any) -> bool:
    """Whether a dictionary is meant as a message, be it a good one or not."""
    return isinstance(value, Mapping) and bool({"role", "content"} & value.keys()) and "video" not in value


def _is_chat(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_message(one) for one in value)


def _is_list_of_chats(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_chat(one) for one in value)


def _is_collection(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_several(video: Any) -> bool:
    """Whether a list holds several videos: one of pictures is the frames of a single one."""
    if not _is_collection(video):
        return False
    return not any(hasattr(one, "getbands") or getattr(one, "ndim", None) == 3 for one in video[:1])


def _is_dataset(value: Any) -> bool:
    """A torch dataset (KeyDataset is one), or anything of the library `datasets`."""
    return isinstance(value, Dataset) or type(value).__module__.partition(".")[0] == "datasets"


def _name_of(video: Any) -> str:
    if isinstance(video, Mapping):
        video = video.get("path")
    if isinstance(video, str) and is_data_url(video):
        return name_of_address(video)
    return str(video) if isinstance(video, str) or hasattr(video, "__fspath__") else f"<{type(video).__name__}>"


def _is_continued(messages: Sequence[Mapping[str, Any]] | None) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def _as_chats(read: _Read) -> list[_Read]:
    """A request as chats: itself, or one chat per question."""
    if read.messages is not None:
        return [read]
    return [
        replace(
            read,
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "video", "video": read.videos[0]}, {"type": "text", "text": question}],
                }
            ],
        )
        for question in read.request.questions
    ]


def _last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    return next((" ".join(texts_of([one])).strip() for one in reversed(messages) if one["role"] == "user"), "")


def _with_reply(chat: Sequence[Mapping[str, Any]], reply: str) -> list[dict[str, Any]]:
    """The chat with the reply: as a message of its own, or at the end of the one that it continues."""
    messages = [dict(message) for message in chat]
    if not _is_continued(messages):
        return [*messages, {"role": "assistant", "content": reply}]
    content = messages[-1].get("content") or ""
    messages[-1]["content"] = (
        content + reply if isinstance(content, str) else [*content, {"type": "text", "text": reply}]
    )
    return messages
