"""Answers to requests that were read: prompts, generation, scores, evidence."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.utils import logging

from ..bases.layouts import FRAME_PREFIX
from ..errors import AttributionError
from ..evidence.evidence import VideoEvidence, evidence_of_video
from ..model.attribution import attribute_answers, tokens_of_answer, words_of_answer
from ..model.encoding import encode_while_reading
from ..model.features import VideoFeatures
from ..model.messages import parts_of
from ..model.subtitle_words import SubtitleWords
from .caching import FeatureCache, SeenVideo
from .requests import Request, is_continued


logger = logging.get_logger(__name__)


@dataclass
class Read:
    """A request whose videos were looked at, or the error that this met."""

    request: Request
    videos: list[SeenVideo] = field(default_factory=list)
    messages: list[dict[str, Any]] | None = None
    subtitles: SubtitleWords | None = None
    error: Exception | None = None

    def num_subtitle_tokens(self) -> int | None:
        """Tokens that subtitles take in the prompt; None where none were given."""
        parts = parts_of(self.messages or (), "video")
        words = [self.subtitles] if self.messages is None else [part.get("subtitles") for part in parts]
        counts = [one.num_tokens for one in words if isinstance(one, SubtitleWords)]
        return sum(counts) if counts else None


@dataclass
class Answered:
    """What the model made of a request: one text per question and returned sequence."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] | None = None
    num_frame_tokens: int = 0
    num_video_tokens: int = 0
    evidence: list[list[VideoEvidence]] | None = None  # per text, per video
    error: Exception | None = None


@dataclass
class Generated:
    """What `generate()` made of prompts: `num_return_sequences` rows for each."""

    texts: list[str]
    scores: list[float] | None
    tokens: torch.Tensor
    words: torch.Tensor  # True at the tokens that are an answer's words


@dataclass
class Generation:
    """
    How answers are generated: the same for all requests of a call.

    Attributes:
        kwargs: arguments of `generate()`.
        ends, pad: ids of the tokens that end an answer, and of the one that fills a batch.
        return_score: whether answers get a score.
        return_evidence: whether they get evidence.
        rows_at_once: rows that go through the language model at once.
    """

    kwargs: dict[str, Any]
    ends: Any = None
    pad: int | None = None
    return_score: bool = False
    return_evidence: bool = False
    rows_at_once: int = 1


class Answerer:
    """
    Answers requests that were read.

    Args:
        model ([`LinVTForVideoQA`]).
        processor ([`LinVTProcessor`]).
        device: where inputs go.
        cache: of the videos that were encoded before.
    """

    def __init__(self, model: Any, processor: Any, device: Any, cache: FeatureCache) -> None:
        self.model, self.processor, self.device, self.cache = model, processor, device, cache

    def answer(self, batch: Sequence[Read], how: Generation) -> list[Answered]:
        """Answer a batch; the error of one does not keep the others from being answered."""
        answered: list[Any] = [Answered(error=read.error) if read.error else None for read in batch]
        together = [
            i
            for i, read in enumerate(batch)
            if answered[i] is None and len(read.request.questions) <= 1 and not is_continued(read.messages)
        ]
        if len(together) > 1:
            try:
                found = self._answer_chats([batch[i] for i in together], how)
            except Exception:  # what a base raises is anything
                found = []  # one of them is to blame: each by itself, so that the others are answered
            for i, one in zip(together, found, strict=False):
                answered[i] = one
        for i, read in enumerate(batch):
            if answered[i] is not None:
                continue
            try:
                has_words = self.processor.add_timestamps or read.subtitles is not None
                if read.request.messages is None and not has_words:
                    answered[i] = self._answer_questions(read, how)
                else:
                    answered[i] = self._answer_one_by_one(read, how)
            except Exception as error:
                answered[i] = Answered(error=error)
        return answered

    def _answer_questions(self, read: Read, how: Generation) -> Answered:
        """Questions about one video, which goes through the vision tower and SVR once."""
        (seen,), model = read.videos, self.model
        features = self.features_of(seen)
        result = Answered(
            num_frame_tokens=_num_tokens(features),
            num_video_tokens=model.config.num_video_tokens,
            evidence=[] if how.return_evidence else None,
        )
        questions = read.request.questions
        for start in range(0, len(questions), how.rows_at_once):
            chunk = questions[start : start + how.rows_at_once]
            prompts = self.on_device(self.processor.question_inputs(chunk))
            prepared, condensed = model.model.prepare(**prompts, video_features=[features] * len(chunk))
            made = self._generate(prepared, how)
            result.texts += made.texts
            result.scores = None if made.scores is None else [*(result.scores or []), *made.scores]
            if result.evidence is not None:
                places = [[(row, seen)] for row in range(len(chunk))]
                result.evidence += self._evidence_of_answers(prompts, condensed, made, places)
        return result

    def _answer_one_by_one(self, read: Read, how: Generation) -> Answered:
        """Every question of a request as a chat of its own: for prompts with the times of frames or with subtitles."""
        merged = Answered(evidence=[] if how.return_evidence else None)
        for one in _as_chats(read):
            (answered,) = self._answer_chats([one], how)
            merged.texts += answered.texts
            merged.num_frame_tokens, merged.num_video_tokens = answered.num_frame_tokens, answered.num_video_tokens
            merged.scores = None if answered.scores is None else [*(merged.scores or []), *answered.scores]
            if merged.evidence is not None:
                merged.evidence += answered.evidence or []
        return merged

    def _answer_chats(self, batch: Sequence[Read], how: Generation) -> list[Answered]:
        """Chats, or single questions, about any number of videos each: one batch."""
        chats = [chat for read in batch for chat in _as_chats(read)]
        videos = [seen for chat in chats for seen in chat.videos]
        features = [self.features_of(seen) for seen in videos]
        continued = is_continued(chats[0].messages)
        inputs = self.processor.apply_chat_template(
            [chat.messages for chat in chats],
            tokenize=True,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            return_dict=True,
            return_tensors="pt",
            padding_side="left",
            with_frames=False,
        )
        inputs = self.on_device(inputs)
        prepared, condensed = self.model.model.prepare(**inputs, video_features=features or None)
        made = self._generate(prepared, how)
        per_chat = len(made.texts) // len(chats)
        firsts = [0, *itertools.accumulate(len(chat.videos) for chat in chats)]
        evidence = []
        if how.return_evidence:
            places = [
                [(first + i, seen) for i, seen in enumerate(chat.videos)]
                for first, chat in zip(firsts, chats, strict=False)
            ]
            evidence = self._evidence_of_answers(inputs, condensed, made, places)
        results = []
        for number, chat in enumerate(chats):
            rows = slice(number * per_chat, (number + 1) * per_chat)
            result = Answered(made.texts[rows], made.scores[rows] if made.scores is not None else None)
            result.num_frame_tokens = sum(map(_num_tokens, features[firsts[number] : firsts[number + 1]]))
            result.num_video_tokens = len(chat.videos) * self.model.config.num_video_tokens
            if how.return_evidence:
                result.evidence = evidence[rows]
            results.append(result)
        return results

    def _generate(self, prepared: Mapping[str, Any], how: Generation) -> Generated:
        """Texts of the rows, `num_return_sequences` for each, and how probable they were."""
        model = self.model
        output = model.generate_prepared(prepared, **how.kwargs)
        new_tokens = output.sequences[:, prepared["input_ids"].shape[1] :]
        texts = [text.strip() for text in self.processor.batch_decode(new_tokens, skip_special_tokens=True)]
        words = words_of_answer(new_tokens, how.ends, how.pad)
        if not how.return_score:
            return Generated(texts, None, new_tokens, words)
        log_probs = model.compute_transition_scores(
            output.sequences, output.logits, getattr(output, "beam_indices", None), normalize_logits=True
        )
        counts = tokens_of_answer(new_tokens, how.ends, how.pad) & log_probs.isfinite()
        mean = log_probs.masked_fill(~counts, 0.0).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
        return Generated(texts, mean.exp().tolist(), new_tokens, words)

    def _evidence_of_answers(
        self,
        inputs: Mapping[str, Any],
        condensed: Any,
        made: Generated,
        places: Sequence[Sequence[tuple[int, SeenVideo]]],
    ) -> list[list[VideoEvidence]]:
        """
        Per text, per video of its prompt: the weights, and what of the video the answer depended on.

        Args:
            inputs: of the prompts.
            condensed: their videos.
            made: the answers.
            places: per prompt its videos, with their places in `condensed`.
        """
        if condensed is None:  # prompts without a video
            return [[] for _ in made.texts]
        per_prompt = len(made.texts) // len(places)
        columns = []
        for nth in range(per_prompt):
            about: dict[str, Any] = {}
            try:
                found = attribute_answers(
                    self.model, inputs, condensed, made.tokens[nth::per_prompt], made.words[nth::per_prompt]
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
            for index, seen in places[row]:
                values = None if found is None else found.values[index]
                videos.append(self.evidence_of(condensed, index, seen, attribution=values, **about))
            result.append(videos)
        return result

    def on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Tensors on the model's device; pixels in its precision, times and masks as they are."""
        moved = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                is_pixels = value.is_floating_point() and name.removeprefix(FRAME_PREFIX) != "video_timestamps"
                value = value.to(self.device, self.model.dtype if is_pixels else None)
            moved[name] = value
        return moved

    def features_of(self, seen: SeenVideo) -> VideoFeatures:
        """A video after the vision tower and SVR, which it goes through once."""
        if seen.features is None and (found := self.cache.get(seen.key)) is not None:  # another request met it
            seen.features = found.features
            seen.video = found.named(seen.video.source).video if seen.unread is not None else seen.video
        if seen.features is None and seen.unread is not None:
            seen.features, seen.video = encode_while_reading(self.model, self.processor, *seen.unread)
            self.cache.put(None if seen.has_changed else seen.key, seen.video, seen.features)
        if (features := seen.features) is None:
            inputs = self.on_device(self.processor.video_inputs(seen.video))
            seen.features = features = self.model.encode_video(**inputs)
            self.cache.put(seen.key, seen.video, features)
        return features

    def evidence_of(self, condensed: Any, row: int, seen: SeenVideo, **about: Any) -> VideoEvidence:
        """
        The evidence of one video.

        Args:
            condensed, row: its batch and its place there.
            seen: the video, encoded; without its pixels the evidence has no frames to draw.
            about: of [`VideoEvidence.from_output`].
        """
        video = self.processor.steps_of(seen.video)
        about["source"] = video.source
        if not seen.has_pixels:
            video = None
        return evidence_of_video(condensed.outputs, row, seen.features, video, self.processor, **about)


def _num_tokens(features: VideoFeatures) -> int:
    return features.num_frames * features.refined.tokens_per_frame


def _as_chats(read: Read) -> list[Read]:
    """A request as chats: itself, or one chat per question."""
    if read.messages is not None:
        return [read]
    video = {"type": "video", "video": read.videos[0].video}
    if read.subtitles is not None:
        video["subtitles"] = read.subtitles
    return [
        replace(read, messages=[{"role": "user", "content": [video, {"type": "text", "text": question}]}])
        for question in read.request.questions
    ]
