"""
What an answer depended on: the promise of `promises.check_attribution` for twelve families, the same by hand, and what
happens where there is no gradient. The last part breaks the promise on purpose and expects the check to notice.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from base_specs import QUICK
from promises import (
    LINVT,
    OTHER_QUESTION,
    QUESTION,
    Wrapped,
    base_folder,
    check_attribution,
    in_precision,
    language_linears,
    user,
    wrapped,
)
from transformers_linvt import LinVTForVideoQA, VideoFeatures, VideoQuestionAnsweringPipeline
from transformers_linvt.bases.base import BaseBridge
from transformers_linvt.bases.registry import bridge_of
from transformers_linvt.model import attribution
from transformers_linvt.model.attribution import attribute_answers, attribute_to_slots, with_answers
from transformers_linvt.tokenizer.weights import FactoredWeights


LENGTH = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}


def encoded(family: Wrapped, num_frames: int = 5) -> VideoFeatures:
    inputs = in_precision(family.processor.video_inputs(family.clip(num_frames)), family.base.dtype)
    return family.model.encode_video(**inputs)


@pytest.mark.parametrize("name", QUICK)
def test_attributions_sum_to_what_the_answer_owes_to_the_video(name: str):
    family = wrapped(name)
    check_attribution(family, encoded(family))


def test_features_from_a_file_and_those_made_in_inference_mode_give_the_same(tmp_path):
    family = wrapped("qwen3_vl")
    features = encoded(family)
    expected = check_attribution(family, features)
    features.save(tmp_path / "clip.safetensors")
    loaded = VideoFeatures.load(tmp_path / "clip.safetensors")
    torch.testing.assert_close(check_attribution(family, loaded), expected)
    with torch.inference_mode():
        made = encoded(family)
        _, evidence = family.model.answer_with_evidence(
            made, [QUESTION, OTHER_QUESTION], family.processor, **{**LENGTH, "max_new_tokens": 4, "min_new_tokens": 4}
        )
    found = torch.stack([torch.from_numpy(one.attribution) for one in evidence])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_row_of_a_batch_is_what_it_is_alone_also_where_answers_differ_in_length():
    family = wrapped("qwen2_vl")
    features, length = encoded(family), {**LENGTH, "max_new_tokens": 6, "min_new_tokens": 1}
    asked = (QUESTION, OTHER_QUESTION, "What is it?", "Where?", "How many are there?", "Why does it move?")
    answers = family.model._answer(features, list(asked), family.processor, length)[3].tolist()
    end, pair = next(  # a word that ends one answer and not the other
        (token, (asked[one], asked[other]))
        for one, first in enumerate(answers)
        for other, second in enumerate(answers)
        for token in first[1:5]
        if token not in second and token != first[0]
    )
    length["eos_token_id"] = end
    _, batch = family.model.answer_with_evidence(features, list(pair), family.processor, **length)
    for row, question in enumerate(pair):
        _, alone = family.model.answer_with_evidence(features, question, family.processor, **length)
        np.testing.assert_allclose(batch[row].attribution, alone.attribution, atol=1e-5, rtol=1e-3)
        np.testing.assert_allclose(batch[row].log_probs, alone.log_probs, atol=1e-5, rtol=1e-4)


def test_the_same_comes_out_with_lora_and_nothing_of_it_trains():
    family = wrapped("qwen2_vl")
    without = check_attribution(family, encoded(family))
    config = LoraConfig(target_modules=language_linears(family.model), init_lora_weights=False)
    inject_adapter_in_model(config, family.model)
    assert not torch.allclose(check_attribution(family, encoded(family)), without, atol=1e-3)


def test_bfloat16_comes_close_to_float32():
    family = wrapped("llava_phi")
    exact = family.model.answer_with_evidence(encoded(family), QUESTION, family.processor, **LENGTH)[1]
    tokens = family.model._answer(encoded(family), [QUESTION], family.processor, LENGTH)[3]
    half = family.model.bfloat16()
    features = encoded(family)
    prompts = family.processor.question_inputs([QUESTION])
    with torch.no_grad():
        _, condensed = half.model.prepare(**prompts, video_features=[features])
    found = attribute_answers(half, prompts, condensed, tokens, torch.ones_like(tokens, dtype=torch.bool)).values
    assert found.dtype == torch.float32
    scale = float(np.abs(exact.attribution).max())
    np.testing.assert_allclose(found[0].numpy() / scale, exact.attribution / scale, atol=0.1, rtol=0)


def test_slots_share_gradients_as_computed_by_hand():
    weights = FactoredWeights(
        kept_indices=torch.tensor([[0, 1]]),
        kept_mask=torch.ones(1, 2, dtype=torch.bool),
        run_slots=torch.tensor([[0, 1, 0]]),
        run_weights=torch.tensor([[0.5, 1.0, 0.5]]),
        pooling=(torch.ones(1, 2),),
        aggregation=(torch.tensor([[[0.25, 0.75], [1.0, 0.0]]]),),
        used=torch.ones(1, 2, dtype=torch.bool),
        scales=(1,),
        scales_of_groups=((1,),),
        num_frames=3,
        tokens_per_frame=1,
    )
    slots = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    mean = attribution.mean_of_frame_tokens(weights, slots)
    torch.testing.assert_close(mean, torch.tensor([[[2 / 3, 2 / 3]]]))  # slot 0 holds two of the three frame tokens
    gradient = torch.tensor([[[3.0, 0.0], [0.0, 6.0]]])
    found = attribute_to_slots(weights, [gradient], [slots], [mean])
    # pulled back: slot 0 0.25 (3, 0) + (0, 6), slot 1 0.75 (3, 0); less the mean (1/3, -2/3) and (-2/3, 4/3)
    torch.testing.assert_close(found, torch.tensor([[0.25 - 4.0, -1.5]]))
    torch.testing.assert_close(weights.spread(found.unsqueeze(1))[0, 0], torch.tensor([-1.875, -1.5, -1.875]))
    twice = attribute_to_slots(weights, [gradient, gradient], [slots, slots], [mean, mean])
    torch.testing.assert_close(twice, 2 * found)


def test_prompts_get_their_answers_without_the_last_token():
    inputs = {
        "input_ids": torch.tensor([[0, 5], [6, 7]]),
        "attention_mask": torch.tensor([[0, 1], [1, 1]]),
        "token_type_ids": torch.zeros(2, 2, dtype=torch.long),
        "pixel_values": torch.ones(3, 4),
    }
    answers, belongs = torch.tensor([[8, 9, 2], [8, 2, 1]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
    made = with_answers(BaseBridge(), inputs, answers, belongs)
    assert made["input_ids"].tolist() == [[0, 5, 8, 9], [6, 7, 8, 0]]
    assert made["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]
    assert made["token_type_ids"].tolist() == [[0] * 4] * 2
    assert made["pixel_values"] is inputs["pixel_values"]
    of_answers = with_answers(bridge_of("paligemma"), inputs, answers, belongs)
    assert of_answers["token_type_ids"].tolist() == [[0, 0, 1, 1]] * 2


def test_a_placeholder_that_is_written_by_chance_is_no_picture():
    family = wrapped("llava_phi")
    features, prompts = encoded(family), family.processor.question_inputs([QUESTION])
    with torch.no_grad():
        _, condensed = family.model.model.prepare(**prompts, video_features=[features])
    tokens = torch.tensor([[8, family.model.config.image_token_id, 9]])
    found = attribute_answers(family.model, prompts, condensed, tokens, torch.ones_like(tokens, dtype=torch.bool))
    shorter = attribute_answers(
        family.model, prompts, condensed, tokens[:, :2], torch.ones_like(tokens[:, :2], dtype=torch.bool)
    )
    torch.testing.assert_close(found.values, shorter.values)


# ---------------------------------------------------------------------------------------------------------------------
# In the pipeline
# ---------------------------------------------------------------------------------------------------------------------


def pipe_of(family: Wrapped) -> VideoQuestionAnsweringPipeline:
    return VideoQuestionAnsweringPipeline(
        model=family.model, processor=family.processor, device="cpu", **LENGTH, return_evidence=True
    )


def test_chats_with_pictures_and_several_videos_share_one_difference():
    family = wrapped("qwen3_vl")
    message = user(family.picture(), family.clip(5), family.clip(3, 1), QUESTION)
    (result,) = pipe_of(family)(message)
    long, short = result["evidence"]
    assert long.log_probs == short.log_probs
    owed = long.attribution.sum() + short.attribution.sum()
    assert owed == pytest.approx(long.log_probs[0] - long.log_probs[1], abs=1e-3)
    assert long.frame_attribution.shape == (5,) and short.frame_attribution.shape == (3,)
    assert short.frame_attribution.sum() == pytest.approx(short.attribution.sum(), abs=1e-5)


def test_every_returned_sequence_has_an_attribution_of_its_own():
    family = wrapped("qwen2_vl")
    results = pipe_of(family)(
        video=family.clip(5).frames, question=[QUESTION, OTHER_QUESTION], fps=2, num_beams=3, num_return_sequences=2
    )
    found = [one["evidence"] for one in results]
    assert len({one.log_probs for one in found}) == 4
    assert [one.answer for one in found] == [one["answer"] for one in results]
    for one in found:
        assert one.attribution.sum() == pytest.approx(one.log_probs[0] - one.log_probs[1], abs=5e-3)


def test_nothing_is_attributed_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("qwen2_vl")
    monkeypatch.setattr(attribution.AnswerPasses, "gradients_at", lambda *_: pytest.fail("a gradient was taken"))
    features = encoded(family)
    family.model.answer(features, QUESTION, family.processor, **LENGTH)
    (result,) = pipe_of(family)(video=family.clip(5).frames, question=QUESTION, fps=2, return_evidence=False)
    assert "evidence" not in result


# ---------------------------------------------------------------------------------------------------------------------
# Where there is none
# ---------------------------------------------------------------------------------------------------------------------


class WithoutBackward(torch.autograd.Function):
    """What a quantised kernel without a backward does."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    def backward(context, gradient):
        raise NotImplementedError("this kernel has no backward")


class Detached(nn.Module):
    def __init__(self, inner: nn.Module, how) -> None:
        super().__init__()
        self.inner, self.how = inner, how

    def forward(self, *args, **kwargs):
        return self.how(self.inner(*args, **kwargs))


@pytest.mark.parametrize("how", [torch.Tensor.detach, WithoutBackward.apply])
def test_a_base_without_a_gradient_is_said_in_one_sentence_and_the_weights_stay(how, caplog: pytest.LogCaptureFixture):
    family = wrapped("qwen2_vl")
    head = family.base.lm_head
    family.base.lm_head = Detached(head, how)
    (result,) = pipe_of(family)(video=family.clip(5).frames, question=QUESTION, fps=2)
    evidence = result["evidence"]
    assert evidence.attribution is None and evidence.frame_weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert "gives no gradient as it was loaded" in evidence.no_attribution and "qwen2_vl" in evidence.no_attribution
    assert "\n" not in evidence.no_attribution
    assert evidence.draw().width > 800  # the sheet of the weights
    _, output = family.model.answer_with_evidence(encoded(family), QUESTION, family.processor, **LENGTH)
    assert output.attribution is None and output.log_probs is None
    assert output.no_attribution == evidence.no_attribution


def test_a_nonlinear_aggregation_has_no_attribution():
    family = wrapped("qwen2_vl")
    model = LinVTForVideoQA.from_base(base_folder("qwen2_vl"), **{**LINVT, "aggregation": "nonlinear"})
    found = pipe_of(replace(family, model=model))(video=family.clip(5).frames, question=QUESTION, fps=2)[0]["evidence"]
    assert found.attribution is None and 'aggregation="nonlinear"' in found.no_attribution


# ---------------------------------------------------------------------------------------------------------------------
# Broken on purpose
# ---------------------------------------------------------------------------------------------------------------------


def test_the_check_notices_deep_layers_that_are_left_out(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("qwen3_vl")
    original = attribution.attribute_to_slots
    for module in (attribution, __import__("promises")):
        monkeypatch.setattr(
            module, "attribute_to_slots", lambda weights, *layers: original(weights, *(one[:1] for one in layers))
        )
    with pytest.raises(AssertionError, match="close"):
        check_attribution(family, encoded(family))


def test_the_check_notices_a_wrong_baseline(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("llava_phi")
    original = attribution.attribute_to_slots

    def without_mean(weights, gradients, slots, means):
        return original(weights, gradients, slots, [torch.zeros_like(mean) for mean in means])

    for module in (attribution, __import__("promises")):
        monkeypatch.setattr(module, "attribute_to_slots", without_mean)
    with pytest.raises(AssertionError, match="close"):
        check_attribution(family, encoded(family))


def test_the_check_notices_answers_that_are_seen_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("paligemma")  # the tokens of its prompts see each other; those of an answer must not
    original = attribution.with_answers
    monkeypatch.setattr(attribution, "with_answers", lambda _, *rest: original(BaseBridge(), *rest))
    with pytest.raises(AssertionError, match="close"):
        check_attribution(family, encoded(family))


def test_the_check_notices_a_gradient_that_stays_behind(monkeypatch: pytest.MonkeyPatch):
    family = wrapped("llava_phi")
    original = attribution.AnswerPasses.gradients_at

    def leaving(self, position):
        weight = next(family.model.linvt.parameters())
        weight.grad = torch.zeros_like(weight)
        return original(self, position)

    monkeypatch.setattr(attribution.AnswerPasses, "gradients_at", leaving)
    with pytest.raises(AssertionError, match="grad"):
        check_attribution(family, encoded(family))
