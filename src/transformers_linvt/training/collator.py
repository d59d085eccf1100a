"""
From examples to a batch: decodes the videos (in the data loader's workers), renders, tokenises, marks what is learned.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.utils import logging

from ..errors import LinVTInputError, VideoReadError
from ..model.messages import sampling_of, source_of
from ..model.processing_linvt import LinVTProcessor
from ..video.frames import VideoFrames
from ..video.limits import VideoLimits, one_request
from .data import Example, parse_example
from .frame_tokens import FRAME_TOKENS, FrameTokenCache, LookedUp
from .identity import content_id


logger = logging.get_logger(__name__)

# What a batch carries for the trainer and not for the model: identities of videos and answers (which pairs are no
# negatives of each other), and the names of videos that could not be read.
BOOKKEEPING_KEYS = ("video_ids", "caption_ids", "unreadable_videos")
IGNORED = -100  # the label of tokens without a loss, as everywhere in transformers


class LinVTDataCollator:
    """
    Turns examples into a batch for [`LinVTForVideoQA`] with labels.

    Formats: `messages` with videos as content parts (or in a column `video` or `videos`), `prompt` and `completion`,
    or LLaVA's `conversations`; see [`parse_example`]. A video is a path (joined to `video_root`), bytes, a dictionary
    with `path` and `bytes`, frames in memory, or [`VideoFrames`]. Examples without a video, or with pictures, may be
    in the same batch.

    The loss is on the answer: the completion, or every turn of the assistant. Placeholders and padding never have one.
    An answer that is longer than `max_length` allows is cut at its end; what cannot be cut (video, pictures, question)
    is refused with both numbers.

    A video that cannot be read is replaced by the next readable example of the batch (cyclically, so the same batch
    always gives the same result), named once in the log, and listed under `unreadable_videos` for the trainer.

    Args:
        processor ([`LinVTProcessor`]): of the model that is trained.
        max_length (`int`, *optional*): most tokens of an example, those of its videos included.
        num_frames, fps, max_frames, video_backend, limits: sampling, as in [`LinVTProcessor.read_video`]; of a video
            part that has sampling arguments of its own those count.
        video_root (`str`, *optional*): folder that relative paths start from, by default the current one, and that
            files named by `url`, `video_url` and `image_url` have to lie in, which without it name none.
        completion_only_loss (`bool`, *optional*): `False` puts the loss on the whole text. The default (`None`) and
            `True` put it on the answer.
        assistant_only_loss (`bool`): learn what the chat template has between its `{% generation %}` tags; where it
            has none, the assistant's turns are found by rendering the conversation up to them.
        chat_template (`str`, *optional*): instead of the base's own.
        add_timestamps (`bool` or `str`, *optional*): write times into the prompt, as in [`LinVTProcessor`]; by default
            as the processor does.
        frame_tokens ([`FrameTokenCache`], *optional*): of videos that were encoded before, whose frames are then not
            read; a batch has what it knows of its videos under `frame_tokens`.

    Raises:
        `LinVTInputError`: from a call, for a row that is no example (its keys are named), or one that is too long.
        `VideoReadError`: from a call, if no video of the batch can be read.
    """

    def __init__(
        self,
        processor: LinVTProcessor,
        *,
        max_length: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        video_backend: str = "auto",
        video_root: str | None = None,
        limits: VideoLimits | None = None,
        completion_only_loss: bool | None = None,
        assistant_only_loss: bool = False,
        chat_template: str | None = None,
        add_timestamps: bool | str | None = None,
        frame_tokens: FrameTokenCache | None = None,
    ) -> None:
        self.processor = processor
        self.max_length = max_length
        self.sampling = {
            "num_frames": num_frames,
            "fps": fps,
            "max_frames": max_frames,
            "video_backend": video_backend,
            "limits": limits,
        }
        self.video_root = video_root
        self.completion_only_loss = completion_only_loss
        self.assistant_only_loss = assistant_only_loss
        self.chat_template = chat_template
        self.add_timestamps = add_timestamps
        self.frame_tokens = frame_tokens
        self._named: set[str] = set()

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            examples: rows of a dataset.

        Returns:
            What [`LinVTProcessor`] returns for the batch, `labels (batch, length)`, and [`BOOKKEEPING_KEYS`]:
            `video_ids` and `caption_ids (batch,)` int64, `unreadable_videos` a list of names.
        """
        if not examples:
            raise LinVTInputError("The collator got no example.")
        parsed = [parse_example(example, self.video_root) for example in examples]
        videos, unreadable = self._read(parsed)
        readable = [number for number, frames in enumerate(videos) if frames is not None]
        if not readable:
            raise VideoReadError(f"None of the {len(parsed)} videos of a batch can be read: " + "; ".join(unreadable))
        rows = [
            number if videos[number] is not None else next_readable(number, readable) for number in range(len(parsed))
        ]
        parsed, looked = [parsed[row] for row in rows], [videos[row] or [] for row in rows]
        batch = dict(self._tokenize(parsed, [[one.video for one in row] for row in looked]))
        batch["labels"] = self._labels(batch)
        self._cut(batch)
        batch["video_ids"] = torch.tensor([example.video_id() for example in parsed])
        batch["caption_ids"] = torch.tensor([content_id(example.answer_text()) for example in parsed])
        batch["unreadable_videos"] = unreadable
        if self.frame_tokens is not None:
            batch[FRAME_TOKENS] = [one.tokens for row in looked for one in row]
        return batch

    def _read(self, parsed: Sequence[Example]) -> tuple[list[list[LookedUp] | None], list[str]]:
        """The videos of every example, `None` where one cannot be read, and the names of those."""
        videos: list[list[LookedUp] | None] = []
        unreadable = []
        for example in parsed:
            try:
                self._load_pictures(example)
                with one_request():  # its videos share the limits of a request
                    videos.append(
                        [
                            self._look_up(source, sampling_of(own, self.sampling))
                            for source, own in zip(example.videos, example.sampling, strict=True)
                        ]
                    )
            except VideoReadError as error:
                videos.append(None)
                unreadable.append(example.name())
                if example.name() not in self._named:
                    self._named.add(example.name())
                    logger.warning(f"{error} Another example of the batch takes its place.")
        return videos, unreadable

    def _look_up(self, source: Any, sampling: Mapping[str, Any]) -> LookedUp:
        if self.frame_tokens is not None:
            return self.frame_tokens.look_up(self.processor, source, sampling)
        return LookedUp(self.processor.read_video(source, **sampling))

    def _load_pictures(self, example: Example) -> None:
        """Pictures from files; one that cannot be read costs its example, not the run."""
        for part in example.picture_parts():
            source = source_of(part)
            if isinstance(source, str | os.PathLike | bytes | Mapping):
                try:
                    picture = self.processor.load_picture(source)
                except LinVTInputError as error:
                    raise VideoReadError(str(error)) from error
                part.clear()
                part.update(type="image", image=picture)

    def _tokenize(self, parsed: Sequence[Example], videos: Sequence[Sequence[VideoFrames]]) -> Mapping[str, Any]:
        template = self.chat_template or self.processor.chat_template
        tags = self.assistant_only_loss and isinstance(template, str) and has_generation_tags(template)
        return self.processor.training_inputs(
            [example.messages for example in parsed],
            [example.learned_turns(self.assistant_only_loss) for example in parsed],
            videos,
            chat_template=self.chat_template,
            by_generation_tags=tags,
            add_timestamps=self.add_timestamps,
        )

    def _labels(self, batch: dict[str, Any]) -> torch.Tensor:
        """Input ids where something is learned, -100 elsewhere; never at a placeholder."""
        learned = batch.pop("assistant_masks").bool()
        if self.completion_only_loss is False and not self.assistant_only_loss:
            learned = batch["attention_mask"].bool()
        learned &= ~torch.isin(batch["input_ids"], torch.tensor(self.processor.visual_token_ids))
        return batch["input_ids"].masked_fill(~learned, IGNORED)

    def _cut(self, batch: dict[str, Any]) -> None:
        """Shorten all rows to `max_length`, which takes words off the ends of answers and nothing else."""
        shape = batch["input_ids"].shape
        if self.max_length is None or shape[1] <= self.max_length:
            return
        needed = (batch["input_ids"] == self.processor.markers.token_id) | batch["question_mask"].bool()
        first_label = (batch["labels"] != IGNORED).int().argmax(1)  # the prompt ends here
        places = torch.arange(shape[1])
        least = torch.maximum((needed * (places + 1)).amax(1), first_label + 1)
        if (least > self.max_length).any():
            raise LinVTInputError(
                f"An example needs {int(least.max())} tokens up to the first word of its answer, "
                f"{self.processor.num_video_tokens} of them per video, and max_length is {self.max_length}. Image "
                "features and image tokens do not match if a video is cut, so it is not: raise max_length, or use "
                "fewer video tokens or a shorter question."
            )
        for name, value in batch.items():
            if isinstance(value, torch.Tensor) and value.shape[:2] == shape:
                batch[name] = value[:, : self.max_length]


def next_readable(number: int, readable: Sequence[int]) -> int:
    """The first readable example behind `number`, going around."""
    return next((other for other in readable if other > number), readable[0])


def has_generation_tags(template: str) -> bool:
    """Whether a chat template says which words are the assistant's."""
    return re.search(r"\{%[-+]?\s*generation\b", template) is not None
