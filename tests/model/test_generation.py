"""
Ways to generate that change when words come, or how fast, and never which: streams, caches of a fixed size, compiled
parts.
"""

import itertools
from typing import Any

import pytest
import torch
from transformers import TextIteratorStreamer

from promises import Wrapped, user, wrapped
from transformers_linvt import LinVTInputError, VideoQuestionAnsweringPipeline


FAMILIES = ("llava_phi", "qwen2_vl")
HOW = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Wrapped:
    return wrapped(request.param)


def two_prompts(family: Wrapped) -> dict[str, Any]:
    """Two questions of different length about videos of different length."""
    return family.inputs(user(family.clip(3), "Who?"), user(family.clip(5, 1), "Where is the dog of the man?"))


class Words(TextIteratorStreamer):
    """Keeps the pieces as they come; the model works in the same thread here."""

    def __init__(self, processor: Any) -> None:
        super().__init__(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def pieces(self) -> list[str]:
        return list(itertools.takewhile(lambda piece: piece is not self.stop_signal, iter(self.text_queue.get, None)))


def test_a_stream_has_the_words_of_the_answer_in_pieces():
    family = wrapped("llava_phi")
    model, processor = family.model, family.processor
    features = model.encode_video(**processor.video_inputs(family.clip(4)))
    expected = model.answer(features, "Who?", processor, **HOW)
    words = Words(processor)
    assert model.answer(features, "Who?", processor, streamer=words, **HOW) == expected
    pieces = words.pieces()
    assert "".join(pieces).strip() == expected and len(pieces) > 1
    one = family.inputs(user(family.clip(4), "Who?"))
    words = Words(processor)
    generated = model.generate(**one, streamer=words, **HOW)
    answer = processor.batch_decode(generated[:, one["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert "".join(words.pieces()) == answer
    pipe = VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu")
    words = Words(processor)
    (result,) = pipe(video=family.clip(4), question="Who?", streamer=words, **HOW)
    assert "".join(words.pieces()).strip() == result["answer"] == expected
    with pytest.raises(LinVTInputError, match="one answer, and 2 questions"):
        model.answer(features, ["Who?", "Where?"], processor, streamer=words, **HOW)
    with pytest.raises(LinVTInputError, match="batch_size=2"):
        pipe(video=family.clip(4), question=["Who?", "Where?"], streamer=words, batch_size=2, **HOW)


def test_a_cache_of_a_fixed_size_gives_the_same_words(family: Wrapped):
    inputs = two_prompts(family)
    expected = family.model.generate(**inputs, **HOW)
    assert torch.equal(family.model.generate(**inputs, cache_implementation="static", **HOW), expected)


@pytest.mark.slow
def test_compiled_parts_give_the_same():
    """The backend leaves out the C++ compiler, which a machine may lack; what is traced is the same."""
    family = wrapped("llava_phi")
    inputs = two_prompts(family)
    with torch.no_grad():
        expected, words = family.model(**inputs).logits, family.model.generate(**inputs, **HOW)
        family.model.linvt.compile(backend="eager")
        torch.testing.assert_close(family.model(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        family.model.get_decoder().compile(backend="eager")
        torch.testing.assert_close(family.model(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(family.model.generate(**inputs, **HOW), words)
