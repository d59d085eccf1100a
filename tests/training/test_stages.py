"""The module that trains is found whatever wraps it."""

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from transformers_linvt.tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from transformers_linvt.training.stages import find_linvt


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.linvt = LinearVideoTokenizer(
            dim=12, num_video_tokens=3, num_kept_tokens=4, bottleneck_size=8, num_heads=2
        )


def test_under_peft_the_copy_that_trains_is_found():
    wrapped = get_peft_model(Model(), LoraConfig(target_modules=["head"], modules_to_save=["linvt"]))
    found = find_linvt(wrapped)
    assert all(parameter.requires_grad for parameter in found.parameters())
    with pytest.raises(ValueError, match="Linear holds no LinearVideoTokenizer"):
        find_linvt(nn.Linear(2, 3))
