"""The models that lmms-eval asks: a LinVT, or for comparison a bare model that is shown frames as pictures."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm
from lmms_eval.api.instance import GenerationResult, TokenCounts  # pyright: ignore[reportMissingImports]
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.protocol import ChatMessages  # pyright: ignore[reportMissingImports]
from PIL import Image

from ..errors import LinVTInputError
from ..model.processing_linvt import LinVTProcessor
from ..video.reading import read_video
from .answering import Answerer
from .harness_subtitles import subtitles_beside


_PLACEHOLDER = "<image>"  # by which tasks say where in the text a picture stands
_OWN_SUBTITLES = ("_w_subtitle", "_val_i", "_test_i")  # how tasks are named that write them into the text themselves
_GENERATION = ("max_new_tokens", "temperature", "top_p", "num_beams", "do_sample")


class _Answers(lmms):
    """
    A model as lmms-eval asks it.

    Args:
        pretrained (`str`): a LinVT checkpoint, or an image-text model of transformers.
        num_frames (`int`, defaults to 32): frames of a video, spread evenly.
        fps (`float`, *optional*), max_frames (`int`, *optional*): instead, so many a second.
        arm (`str`, *optional*): `"linvt"`, or `"uniform"` to show the frames as pictures.
        subtitles (`str`, *optional*), max_subtitle_tokens (`int`, *optional*):
            Folder with the subtitles of a set, which are written beside its videos with their times, see
            [`subtitles_beside`]; and the most tokens that they may take.
        revision, dtype, device, trust_remote_code: of the model.
        batch_size, max_batch_size: of lmms-eval; prompts are answered one at a time.
    """

    def __init__(
        self,
        pretrained: str,
        num_frames: int = 32,
        fps: float | None = None,
        max_frames: int | None = None,
        arm: str | None = None,
        subtitles: str | None = None,
        max_subtitle_tokens: int | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        loading = {"revision": revision} if revision else {}
        loading |= {"trust_remote_code": True} if trust_remote_code else {}
        answerer = Answerer.from_pretrained(pretrained, device=device, dtype=dtype, loading=loading, arm=arm)
        if answerer.arm not in ("linvt", "uniform"):
            raise LinVTInputError(f"arm={answerer.arm!r} is for linvt eval. Use arm=linvt or arm=uniform here.")
        self.answerer, self.model, self.processor = answerer, answerer.model, answerer.processor
        self.sampling = {"num_frames": int(num_frames)} if fps is None else {"fps": float(fps)}
        if max_frames is not None:
            self.sampling["max_frames"] = int(max_frames)
        self.subtitles, self.words = None if subtitles is None else Path(subtitles), {}
        if self.subtitles is not None and not self.subtitles.is_dir():
            raise LinVTInputError(f"subtitles={subtitles}: there is no such folder. Name the one of the set.")
        if max_subtitle_tokens is not None:
            if self.subtitles is None:
                raise LinVTInputError("max_subtitle_tokens needs subtitles=FOLDER. Give both, or neither.")
            self.words["max_subtitle_tokens"] = int(max_subtitle_tokens)
        has_writer = hasattr(self.processor, "subtitle_words") or self.subtitles is None
        self.writer = self.processor if has_writer else LinVTProcessor.from_base(pretrained, **loading)

    @abstractmethod
    def messages(self, arguments: Sequence[Any]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """The chat of one request, with pictures and videos in it, and how its answer is to be generated."""

    def generate_until(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Answers, each with the number of visual tokens that the language model read for it."""
        chats: Iterable[Any] = (self.messages(request.args) for request in requests)
        if self.subtitles is not None:
            chats = list(self._with_subtitles(requests, self.subtitles))
        return [self._answer(*chat) for chat in tqdm(chats, total=len(requests), desc="linvt", disable=None)]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not for this model."""
        raise LinVTInputError("LinVT answers in words; choose a task that is not of the type multiple_choice.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not for this model."""
        raise LinVTInputError("LinVT answers one question at a time; tasks of several rounds cannot be run with it.")

    def _with_subtitles(
        self, requests: Sequence[Any], folder: Path
    ) -> Iterator[tuple[list[dict[str, Any]], Mapping[str, Any]]]:
        """Chats whose videos have their subtitles; all are looked for before the first question is asked."""
        num_found, missing = 0, ""
        for request in requests:
            *_, doc_id, task, split = request.args
            if task.endswith(_OWN_SUBTITLES):
                raise LinVTInputError(
                    f"The task {task} writes subtitles itself. Choose that without, or no subtitles=."
                )
            messages, how = self.messages(request.args)
            for part in (part for one in messages for part in one["content"] if part["type"] == "video"):
                found = subtitles_beside(folder, self.task_dict[task][split][doc_id], part["video"])
                if found is None:
                    missing = part["video"]
                else:
                    part |= {"subtitles": found, **self.words}
                    num_found += 1
            yield messages, how
        if requests and not num_found:
            reason = f"none is named as {Path(missing).name}" if missing else "the task shows no video"
            raise LinVTInputError(f"subtitles={folder} has nothing for {len(requests)} questions: {reason}.")

    @torch.no_grad()
    def _answer(self, messages: list[dict[str, Any]], how: Mapping[str, Any]) -> GenerationResult:
        has_video = any(part["type"] == "video" for one in messages for part in one["content"])
        is_through = self.answerer.arm == "linvt"
        chat = messages if is_through or not has_video else [self._as_pictures(one) for one in messages]
        sampling = self.sampling if has_video and is_through else {}
        inputs = self.processor.apply_chat_template(
            chat,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            processor_kwargs={"return_tensors": "pt"},
            **sampling,
        ).to(self.model.device)
        generation = {name: how[name] for name in _GENERATION if how.get(name) is not None}
        if not generation.get("do_sample") and not generation.get("temperature"):
            generation = {name: generation[name] for name in ("max_new_tokens", "num_beams") if name in generation}
            generation["do_sample"] = False
        output = self.model.generate(**inputs, **generation)[:, inputs["input_ids"].shape[1] :]
        text = self.processor.batch_decode(output, skip_special_tokens=True)[0]
        visual = self.answerer.count_visual(inputs["input_ids"])[0]
        return GenerationResult(_cut(text, how.get("until")), TokenCounts(visual, output.shape[1]))

    def _as_pictures(self, message: Mapping[str, Any]) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for part in message["content"]:
            if part["type"] != "video":
                content.append(part)
                continue
            span = {name: part[name] for name in ("start", "end") if name in part}
            frames = read_video(part["video"], **self.sampling, **span).frames
            content += [{"type": "image", "image": Image.fromarray(frame)} for frame in frames]
            if "subtitles" in part:
                words = self.writer.subtitle_words(part["subtitles"], **span, **self.words)
                content.append({"type": "text", "text": words.text})
        return {**message, "content": content}


class LinVTChat(_Answers):
    """The class for tasks that write chats; of others the harness makes chats by itself."""

    is_simple = False

    def messages(self, arguments: Sequence[Any]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """As the task writes them."""
        _, doc_to_messages, how, doc_id, task, split = arguments
        chat = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id]))
        return [{"role": one.role, "content": list(map(_part_of, one.content))} for one in chat.messages], how


class LinVTSimple(_Answers):
    """The class for tasks that give visuals and a text: `--force_simple`."""

    is_simple = True

    def messages(self, arguments: Sequence[Any]) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
        """Visuals where the text says, or else before it."""
        text, how, doc_to_visual, doc_id, task, split = arguments
        visuals = [_visual(one) for one in _flat(doc_to_visual(self.task_dict[task][split][doc_id]))]
        return [{"role": "user", "content": list(_interleaved(text, visuals))}], how


def _part_of(content: Any) -> dict[str, Any]:
    """A part of a chat of the harness as one of ours."""
    if content.type == "text":
        return {"type": "text", "text": content.text}
    if content.type == "image":
        return {"type": "image", "image": content.url}
    if content.type != "video":
        raise LinVTInputError(f"A part of the type {content.type!r} cannot be shown to LinVT. Choose a task without.")
    span = {"start": content.start_time, "end": content.end_time}
    return {"type": "video", "video": content.url} | {name: at for name, at in span.items() if at is not None}


def _visual(visual: Any) -> dict[str, Any]:
    return {"type": "video", "video": visual} if isinstance(visual, str) else {"type": "image", "image": visual}


def _flat(visuals: Any) -> Iterator[Any]:
    for one in visuals or ():
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield one


def _interleaved(text: str, visuals: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Text and visuals in their order; a text with another number of placeholders than visuals stands behind them."""
    pieces = text.split(_PLACEHOLDER)
    if len(pieces) != len(visuals) + 1:
        yield from visuals
        pieces, visuals = ["".join(pieces)], []
    for index, piece in enumerate(pieces):
        if piece.strip():
            yield {"type": "text", "text": piece.strip()}
        yield from visuals[index : index + 1]


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """The answer up to the first of the words that end it."""
    for stop in [until] if isinstance(until, str) else until or ():
        text = text.partition(stop)[0] if stop and text.strip() else text
    return text.strip()
