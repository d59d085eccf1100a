"""
The same answers on a GPU as on the CPU: run with `-m gpu` on a machine that has one.

Every family goes through forward, generate, encode-once-ask-often and the pipeline on the device, so that no mask,
timestamp or index is left behind on the CPU.
"""

import pytest
import torch
from transformers import pipeline

from promises import FAMILIES, QUESTION, relative_difference, user, wrapped
from transformers_linvt import VideoFeatures


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_video_and_a_picture_give_the_same_logits_as_on_the_cpu(name: str):
    family = wrapped(name)
    one, other = family.clip(5), family.clip(3, seed=1)
    inputs = family.inputs(user(one, QUESTION, family.picture()), user(other, QUESTION, family.picture(7)))
    with torch.no_grad():
        expected = family.model(**inputs).logits[:, -1]
        family.model.to("cuda")
        inputs = {key: value.to("cuda") for key, value in inputs.items()}
        found = family.model(**inputs).logits[:, -1].cpu()
    assert relative_difference(found, expected) < 1e-3
    generated = family.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert generated.device.type == "cuda"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_video_encoded_on_the_gpu_is_saved_and_asked_again(name: str, tmp_path):
    family = wrapped(name)
    family.model.to("cuda", torch.bfloat16)
    features = family.model.encode_video(**family.processor.video_inputs(family.clip(5)))
    features.save(tmp_path / "clip.safetensors")
    arguments = {"processor": family.processor, "max_new_tokens": 4, "do_sample": False}
    answers = family.model.answer(features, [QUESTION, QUESTION], **arguments)
    again = family.model.answer(VideoFeatures.load(tmp_path / "clip.safetensors"), QUESTION, **arguments)
    assert answers == [again, again]


def test_the_pipeline_shows_its_evidence_on_a_gpu(tmp_path):
    family = wrapped("llava_phi")
    ask = pipeline("video-question-answering", model=family.model, processor=family.processor, device="cuda")
    (result,) = ask(video=family.clip(5), question=QUESTION, return_evidence=True, max_new_tokens=4)
    assert result["evidence"].frame_weights.sum() == pytest.approx(1.0, abs=1e-4)
    result["evidence"].save(tmp_path / "evidence.png")
    assert (tmp_path / "evidence.png").stat().st_size > 0
