"""A rendered prompt -> token ids, and which of them are the video's, the question's and the answer's."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from transformers.utils import logging

from ..errors import LinVTInputError, in_our_words
from ..video.frames import VideoFrames
from .arguments import TOKENIZER_ARGUMENTS, Arguments
from .base_parts import HasBaseProcessor
from .prompt import VIDEO_TOKEN, RenderedPrompt, Span
from .time_marks import TIME_IDS


logger = logging.get_logger(__name__)

_SANE_LENGTH = 10**9  # tokenizers without a limit say 10**30


class WritesTokens(HasBaseProcessor):
    """What [`LinVTProcessor`] does with rendered prompts."""

    # of ReadsVideos and WritesTimes
    frame_inputs: Any
    kind_of_times: Any
    num_places: Any
    time_ids: Any
    times_of: Any

    def _with_videos(
        self,
        prompts: Sequence[RenderedPrompt],
        videos: Sequence[VideoFrames],
        pictures: Sequence[Sequence[Any]],
        arguments: Arguments,
        timed: Sequence[VideoFrames],
    ) -> BatchFeature:
        """
        Model inputs of prompts with videos; the prompts are checked before the frames cost anything.

        `videos` are those whose frames become inputs, `timed` those of the prompts, whose times may be written.
        """
        if arguments.template:
            logger.warning_once(f"Ignored, as nothing here takes them: {', '.join(arguments.template)}.")
        text = dict(arguments.text)
        return_tensors = text.pop("return_tensors", "pt")
        if return_tensors not in (None, "pt", "np"):
            raise LinVTInputError(f"return_tensors={return_tensors!r}: choose 'pt', 'np' or None.")
        made, replacements = in_our_words(
            "The base's processor refused the pictures",
            self.bridge.picture_inputs,
            self.base_processor,
            [row for row in pictures if row],
            arguments.pictures,
        )
        kind = self.kind_of_times(arguments.add_timestamps)
        inputs = self._tokenize(prompts, replacements, text, return_tensors, self.num_places(kind))
        visual = {**made, **self.frame_inputs(videos, arguments.frames)}
        if kind == "tokens" and timed:
            visual[TIME_IDS] = self.time_ids(self.times_of(timed))
        if return_tensors == "np":
            visual = {name: np.asarray(value) for name, value in visual.items()}
        return BatchFeature({**inputs, **visual})

    def _tokenize(
        self,
        prompts: Sequence[RenderedPrompt],
        replacements: Sequence[str],
        kwargs: Mapping[str, Any],
        return_tensors: str | None,
        num_places: int,
    ) -> dict[str, Any]:
        """Expand the placeholders, tokenise, and mark which tokens are the video's and which the question's."""
        pictures = iter(replacements)
        expanded = [self._expand(prompt, pictures, num_places) for prompt in prompts]
        kwargs = {**self._tokenizer_defaults(), **kwargs}
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

    def _tokenizer_defaults(self) -> dict[str, Any]:
        """What the tokenizer was loaded with for its calls (`padding="max_length"`), which holds for pictures, too."""
        given = getattr(self.tokenizer, "init_kwargs", {})
        names = [name for name in TOKENIZER_ARGUMENTS if name in given and name != "return_tensors"]
        return {name: getattr(self.tokenizer, name, given[name]) for name in names}

    def _encode(self, prompts: Sequence[str], kwargs: Mapping[str, Any], return_tensors: str | None) -> dict[str, Any]:
        """The tokenizer's output as lists, with the base's own defaults and character offsets where there are any."""
        kwargs = {**getattr(self.base_processor, "text_kwargs", {}), **kwargs}
        kwargs.pop("return_mm_token_type_ids", None)
        if unknown := [name for name in kwargs if name not in TOKENIZER_ARGUMENTS and name != "return_token_type_ids"]:
            raise LinVTInputError(f"{', '.join(unknown)} cannot be used together with videos.")
        kwargs.setdefault("padding", len(prompts) > 1 and return_tensors is not None)
        # A template that wrote the first special token itself must not get a second one.
        bos = self.tokenizer.bos_token
        if bos is not None and (prompts[0].startswith(bos) or self.added.behind_visuals == bos):
            kwargs["add_special_tokens"] = False
        texts = [str(prompt) for prompt in prompts]
        offsets = {"return_offsets_mapping": True} if self.tokenizer.is_fast else {}
        refused = "The tokenizer refused the prompt"
        return dict(in_our_words(refused, self.tokenizer, texts, **{**kwargs, **offsets, "return_tensors": None}))

    def _expand(
        self, prompt: RenderedPrompt, pictures: Iterator[str], num_places: int
    ) -> tuple[RenderedPrompt, list[tuple[str, int]]]:
        """A prompt with its placeholders written out, and the kind and number of tokens of every visual in it."""
        video = self.markers.video(self.bridge.places_of_video(num_places))
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

    def _in_spans(self, encoded: Mapping[str, Any], row: int, prompt: str, spans: Sequence[Span]) -> list[int]:
        """1 at the tokens of a row that overlap one of the spans of characters; padding has no characters."""
        ids = encoded["input_ids"][row]
        if "offset_mapping" in encoded:
            offsets = encoded["offset_mapping"][row]
            return [int(any(first < stop and last > start for start, stop in spans)) for first, last in offsets]
        inside, real = [0] * len(ids), [i for i, real in enumerate(encoded["attention_mask"][row]) if real]

        def tokens_before(end: int) -> int:
            """How many tokens the prompt's first `end` characters are."""
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
        return self.bridge.type_ids(
            self.base_processor,
            ids,
            masks["video_mask"],
            masks.get("assistant_masks"),
            kwargs.get("return_mm_token_type_ids"),
        )
