"""The recipe of the trainers: k shrinks from all tokens to k, in the module that trains, and is left as it was."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from transformers_linvt.model.linear_video_tokenizer import LinearVideoTokenizer
from transformers_linvt.training.recipe import SelectionSchedule, find_linvt


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.linvt = LinearVideoTokenizer(
            dim=12, num_video_tokens=3, num_kept_tokens=4, bottleneck_size=8, num_heads=2, init="anchored"
        )


def test_k_falls_from_all_tokens_to_k_and_stays_there():
    model, schedule = Model().train(), SelectionSchedule(0.5)
    frame_tokens = torch.randn(1, 8, 8, 12)
    kept = []
    for step in (0, 5, 10, 15):
        schedule.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=20), None, model=model)
        kept.append(model.linvt.refine(frame_tokens).kept_indices.shape[1])
    assert kept == [64, 16, 4, 4]
    schedule.on_step_begin(None, SimpleNamespace(global_step=0, max_steps=20), None, model=model)
    schedule.on_train_end(None, None, None, model=model)
    assert model.linvt.refine(frame_tokens).kept_indices.shape[1] == 4


def test_without_a_warmup_nothing_is_relaxed():
    assert [SelectionSchedule(0.0).relaxation(step, 10) for step in range(10)] == [0.0] * 10


def test_under_peft_the_copy_that_trains_is_found():
    wrapped = get_peft_model(Model(), LoraConfig(target_modules=["head"], modules_to_save=["linvt"]))
    found = find_linvt(wrapped)
    assert all(parameter.requires_grad for parameter in found.parameters())
    with pytest.raises(ValueError, match="Linear holds no LinearVideoTokenizer"):
        find_linvt(nn.Linear(2, 3))
