"""The words of an answer while it is generated: nothing that may change is told, and nothing of a stop text."""

import pytest
import torch

from transformers_linvt.serving.watching import Watcher


WORDS = {0: "", 1: " Hello", 2: " wor", 3: "ld", 4: ".", 5: " STO", 6: "P now", 7: " STONE", 8: "\n", 9: " .", 10: "é"}


def decode(ids: list[int]) -> str:
    """A decoder that tidies up, as tokenizers do, and that shows half of a character until the rest is there."""
    text = "".join(WORDS[i] for i in ids).replace(" .", ".")
    return text[:-1] + "\ufffd" if text.endswith("é") and len(ids) % 2 else text


def told(tokens: list[int], stops: tuple[str, ...] = ()) -> tuple[list[str], Watcher]:
    pieces: list[str] = []
    watcher = Watcher(decode, stops, pieces.append)
    watcher.put(torch.tensor([[7, 7, 7]]))  # the prompt
    for token in tokens:
        watcher.put(torch.tensor([token]))
        if bool(watcher(torch.zeros(1, 4), None).all()):
            break
    watcher.end()
    watcher.finish()
    return pieces, watcher


@pytest.mark.parametrize(
    ("tokens", "stops", "text", "count"),
    [
        ([1, 2, 3, 4, 0], (), "Hello world.", 5),
        ([1, 2, 3, 8, 0], (), "Hello world", 5),
        ([1, 9, 0], (), "Hello.", 3),
        ([1, 10, 3, 0], (), "Helloéld", 4),
        ([1, 5, 6, 2, 0], ("STOP",), "Hello", 3),
        ([1, 7, 2, 0], ("STOP",), "Hello STONE wor", 4),
        ([1, 5, 0], ("STOP",), "Hello STO", 3),
        ([1, 2, 3, 4], ("lo", "Hel"), "", 1),
        ([1, 2, 3, 4], ("world", "wor"), "Hello", 2),
        ([], (), "", 0),
    ],
)
def test_the_pieces_make_the_answer(tokens: list[int], stops: tuple[str, ...], text: str, count: int):
    pieces, watcher = told(tokens, stops)
    assert "".join(pieces) == watcher.text == text
    assert len(watcher.tokens) == count and watcher.num_prompt_tokens == 3
    assert watcher.found_stop == (bool(stops) and text not in ("Hello STONE wor", "Hello STO"))


def test_words_are_told_before_the_end():
    pieces, _ = told([1, 2, 3, 1, 4])
    assert len(pieces) > 2


def test_a_cancelled_answer_ends_at_its_next_token():
    watcher = Watcher(decode)
    watcher.put(torch.tensor([[7]]))
    assert not watcher(torch.zeros(2, 3), None).any()
    watcher.cancel()
    assert watcher(torch.zeros(2, 3), None).tolist() == [True, True]
