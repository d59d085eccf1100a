"""
The contrastive loss and its head: the values are those computed by hand, what is the same is no negative, the video is
condensed without its question, and the head travels with the checkpoint.
"""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from promises import Wrapped, check_refused, user, wrapped
from transformers_linvt import LinVTForVideoQA, LinVTInputError
from transformers_linvt.tokenizer.contrastive_head import ContrastiveHead
from transformers_linvt.training.losses import info_nce


ROWS, SIZE = 5, 3
SCALE = torch.tensor([2.0])


@pytest.fixture
def family() -> Wrapped:
    return wrapped("llava_phi")


def embeds(seed: int, rows: int = ROWS) -> torch.Tensor:
    return F.normalize(torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_loops(videos: torch.Tensor, texts: torch.Tensor, scale: float, same: set[tuple[int, int]]) -> float:
    """The definition, one exponential at a time; pairs of `same` are left out."""
    total = 0.0
    for left, right in ((videos, texts), (texts, videos)):
        for i in range(len(left)):
            terms = {
                j: math.exp(scale * float(left[i] @ right[j]))
                for j in range(len(right))
                if (i, j) not in same and (j, i) not in same
            }
            total -= math.log(terms[i] / sum(terms.values()))
    return total / (2 * len(videos))


# --- the loss --------------------------------------------------------------------------------------------------------


def test_two_pairs_at_right_angles_cost_what_one_computes_by_hand():
    pairs = torch.eye(2)
    assert info_nce(pairs, pairs, SCALE).loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    swapped = info_nce(pairs, pairs.flip(0), SCALE)
    assert swapped.loss.item() == pytest.approx(math.log(1 + math.exp(2)))
    assert (swapped.video_to_text.item(), swapped.text_to_video.item()) == (0, 0)


def test_the_loss_is_the_definition_in_both_directions():
    videos, texts = embeds(0), embeds(1)
    assert info_nce(videos, texts, SCALE).loss.item() == pytest.approx(by_loops(videos, texts, 2.0, set()), rel=1e-5)


def test_the_same_video_and_the_same_caption_are_no_negatives():
    videos, texts = embeds(0), embeds(1)
    video_ids, caption_ids = torch.tensor([7, 8, 7, 9, 10]), torch.tensor([1, 2, 3, 4, 2])
    found = info_nce(videos, texts, SCALE, video_ids, caption_ids).loss.item()
    assert found == pytest.approx(by_loops(videos, texts, 2.0, {(0, 2), (1, 4)}), rel=1e-5)
    assert found < info_nce(videos, texts, SCALE).loss.item()


def test_no_gradient_flows_between_what_is_the_same():
    videos, texts = embeds(0).requires_grad_(), embeds(1).requires_grad_()
    ids = torch.full((ROWS,), 3)
    contrast = info_nce(videos, texts, SCALE, ids, torch.arange(ROWS))
    contrast.loss.backward()
    assert contrast.loss.item() == 0
    assert not videos.grad.any() and not texts.grad.any()


def test_retrieval_counts_each_direction_by_itself():
    texts = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    contrast = info_nce(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), texts, SCALE)  # products 1.00 0.80 / 0.60 0.96
    assert (contrast.video_to_text.item(), contrast.text_to_video.item()) == (1, 1)
    contrast = info_nce(torch.tensor([[1.0, 0.0], [0.99, 0.1]]), texts, SCALE)  # products 1.00 0.80 / 0.99 0.85
    assert (contrast.video_to_text.item(), contrast.text_to_video.item()) == (0.5, 1)


# --- the head --------------------------------------------------------------------------------------------------------


USED = torch.ones(2, 4, dtype=torch.bool)


def made_head(dim: int = 7) -> ContrastiveHead:
    torch.manual_seed(0)
    head = ContrastiveHead(dim, SIZE)
    head.init_weights()
    return head


def test_embeddings_have_length_one_and_the_scale_starts_at_a_temperature_of_seven_hundredths():
    embeddings = made_head()(torch.randn(2, 4, 7), USED, torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool))
    for one in (embeddings.video_embeds, embeddings.text_embeds):
        assert one.shape == (2, SIZE)
        torch.testing.assert_close(one.norm(dim=1), torch.ones(2))
    assert embeddings.logit_scale.shape == (1,)
    assert 1 / embeddings.logit_scale.item() == pytest.approx(0.07)


def test_only_what_the_mask_shows_counts_as_caption():
    head, video, text = made_head(), torch.randn(2, 4, 7), torch.randn(2, 5, 7)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()
    expected = head(video, USED, text, mask).text_embeds
    changed = text.masked_fill(~mask.unsqueeze(-1), 9.0)
    torch.testing.assert_close(head(video, USED, changed, mask).text_embeds, expected)
    alone = head(video[:1], USED[:1], text[:1, 1:3], torch.ones(1, 2, dtype=torch.bool)).text_embeds
    torch.testing.assert_close(alone, expected[:1])


def test_the_scale_ends_at_a_hundred_and_can_come_back():
    head = made_head()
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    arguments = torch.randn(2, 4, 7), USED, torch.randn(2, 5, 7), torch.ones(2, 5, dtype=torch.bool)
    assert head(*arguments).logit_scale.item() == pytest.approx(100)
    head.limit_scale()
    scale = head(*arguments).logit_scale
    assert scale.item() == pytest.approx(100)
    scale.sum().backward()
    assert head.log_scale.grad.item() == pytest.approx(100)  # beyond the limit it would be 0, for good


# --- in the model ----------------------------------------------------------------------------------------------------


def captioned(family: Wrapped, *questions: str) -> dict:
    """Two clips with questions, and a mask as if the last three tokens were the caption."""
    inputs = family.inputs(*[user(family.clip(3 + i, i), question) for i, question in enumerate(questions)])
    mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    mask[:, -3:] = True
    return {**inputs, "caption_mask": mask}


@torch.no_grad()
def test_video_and_caption_are_embedded_without_the_question(family: Wrapped):
    family.model.add_contrastive_head(SIZE)
    one = family.model(**captioned(family, "What is it?", "Who is there?"))
    other = family.model(**captioned(family, "Why?", "Is there a cat in the red car?"))
    torch.testing.assert_close(one.video_embeds, other.video_embeds)
    assert one.video_embeds.shape == one.text_embeds.shape == (2, SIZE)
    assert not torch.allclose(one.video_embeds[0], one.video_embeds[1])
    assert not torch.allclose(one.logits[:, -1], other.logits[:, -1])  # the answer does look at the question


@torch.no_grad()
def test_a_caption_changes_neither_logits_nor_loss_and_svr_runs_once(family: Wrapped):
    inputs = captioned(family, "What is it?", "Who is there?")
    mask = inputs.pop("caption_mask")
    labels = inputs["input_ids"].masked_fill(~mask, -100)
    plain = family.model(**inputs, labels=labels)
    family.model.add_contrastive_head(SIZE)
    calls = []
    family.model.linvt.scorer.register_forward_hook(lambda *_: calls.append(1))
    found = family.model(**inputs, labels=labels, caption_mask=mask)
    assert torch.equal(found.logits, plain.logits) and torch.equal(found.loss, plain.loss)
    assert calls == [1, 1]  # once for each of the two videos, which are refined by themselves
    assert family.model(**inputs).get("video_embeds") is None


def test_captions_that_cannot_be_compared_are_refused(family: Wrapped):
    inputs = captioned(family, "What is it?", "Who is there?")
    check_refused(lambda: family.model(**inputs), LinVTInputError, "add_contrastive_head")
    family.model.add_contrastive_head(SIZE)
    two = family.inputs(user(family.clip(3), family.clip(4, 1), "Which?"))
    check_refused(
        lambda: family.model(**two, caption_mask=torch.ones_like(two["input_ids"])), LinVTInputError, "several"
    )


def test_every_piece_of_the_head_gets_a_gradient_and_nothing_of_the_base(family: Wrapped):
    family.model.add_contrastive_head(SIZE)
    outputs = family.model(**captioned(family, "What is it?", "Who is there?"))
    info_nce(outputs.video_embeds, outputs.text_embeds, outputs.logit_scale).loss.backward()
    head = family.model.linvt.contrastive_head
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert [name for name, p in family.model.base_vlm.named_parameters() if p.grad is not None] == []
    assert family.model.linvt.scorer.score_norm.weight.grad.any()


@pytest.mark.parametrize("include_base", [False, True])
def test_the_head_comes_back_with_the_checkpoint(family: Wrapped, tmp_path: Path, include_base: bool):
    family.model.add_contrastive_head(SIZE, temperature=0.2)
    family.model.save_pretrained(tmp_path, include_base=include_base)
    again, report = LinVTForVideoQA.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert again.config.contrastive_size == SIZE
    head, found = family.model.linvt.contrastive_head.state_dict(), again.linvt.contrastive_head.state_dict()
    assert head.keys() == found.keys() and all(torch.equal(head[name], found[name]) for name in head)
    inputs = captioned(family, "What is it?", "Who is there?")
    with torch.no_grad():
        assert 1 / again(**inputs).logit_scale.item() == pytest.approx(0.2)
