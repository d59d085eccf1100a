"""The same question put to the base alone: frames as pictures, without LinVT and without its adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from transformers import StoppingCriteriaList

from ..errors import LinVTInputError


class AloneReply(NamedTuple):
    """What the base answered, how many of the frames it was shown, and the visual tokens that they took."""

    text: str
    num_pictures: int
    num_frames: int
    visual_tokens: int


@torch.no_grad()
def ask_base_alone(pipe: Any, frames: np.ndarray, question: str, max_new_tokens: int, watcher: Any) -> AloneReply:
    """
    The answer of the base to frames as pictures: all of them, or as many as its context holds, spread evenly.

    Args:
        pipe ([`VideoQuestionAnsweringPipeline`]): its model and processor.
        frames (`np.ndarray` of shape `(num_frames, height, width, 3)`): uint8 RGB, those that LinVT saw.
        question (`str`): what is asked.
        max_new_tokens (`int`): of the answer, for which the context has to have room.
        watcher ([`Watcher`]): gets the words, and may end them.

    Raises:
        LinVTInputError: the context does not hold a single picture, or the base does not take several.
    """
    model, processor = pipe.model, pipe.processor
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = None if context is None else context - max_new_tokens
    count = len(frames)
    while True:
        chosen = frames[[(2 * i + 1) * len(frames) // (2 * count) for i in range(count)]]
        content = [{"type": "image", "image": Image.fromarray(one)} for one in chosen]
        chat = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
        inputs = processor.apply_chat_template(
            chat, tokenize=True, add_generation_prompt=True, return_dict=True,
            processor_kwargs={"return_tensors": "pt"},
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        if room is None or length <= room:
            break
        if count == 1:
            raise LinVTInputError(
                f"One frame takes {length} tokens as a picture, and the base's context has room for {room}."
            )
        count = min(count - 1, max(1, count * room // length))
    ids = torch.tensor(processor.visual_token_ids)
    visual = int(torch.isin(inputs["input_ids"], ids).sum())
    with without_adapters(model):
        model.generate(
            **inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False, streamer=watcher,
            stopping_criteria=StoppingCriteriaList([watcher]),
        )  # fmt: skip
    watcher.finish()
    return AloneReply(watcher.text, count, len(frames), visual)


@contextmanager
def without_adapters(model: torch.nn.Module) -> Iterator[None]:
    """The model as it is without PEFT's layers; those that were on are on again afterwards."""
    layers = [one for one in model.modules() if isinstance(one, BaseTunerLayer) and not one.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


__all__ = ["AloneReply", "ask_base_alone", "without_adapters"]
