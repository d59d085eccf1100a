"""
examples/vllm_prompt_embeds.py: the language model that it writes answers the prompts that it writes as LinVT does, in
transformers. That vLLM does too was tried by hand; docs/serving.md says with which version.
"""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from transformers_linvt import embedded_model_path
from transformers_linvt.demo.shapes import make_clip, write_clip


SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "vllm_prompt_embeds.py"


def test_the_language_model_alone_answers_the_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    frames, asked = make_clip("scenes", 1, 16)
    clip, folder = tmp_path / "clip.mp4", tmp_path / "made"
    write_clip(clip, frames, fps=8)
    questions = [question for question, _ in asked[:3]]
    monkeypatch.setattr(sys, "argv", ["", "prepare", embedded_model_path(), str(folder), str(clip), *questions])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    expected = pipeline("video-question-answering", model=embedded_model_path(), device="cpu")(
        video=str(clip), question=questions, max_new_tokens=6
    )
    assert json.loads((folder / "prompts" / "questions.json").read_text()) == questions
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]  # vLLM takes all for weights
    prompts = load_file(folder / "prompts" / "embeds.safetensors")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for number, result in enumerate(expected):
        embeds = prompts[str(number)][None]
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        made = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=6, do_sample=False)
        assert tokenizer.decode(made[0], skip_special_tokens=True).strip() == result["answer"]
    # the clip needs fewer video tokens than there may be, and those are not in the prompts
    words = len(tokenizer(questions[0]).input_ids)
    assert words < len(prompts["0"]) < words + 32
