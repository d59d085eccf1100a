"""PaliGemma, whose prompt is a prefix that all its tokens see, and whose type ids mark the answer."""

from collections.abc import Sequence
from itertools import accumulate

from transformers import ProcessorMixin

from ..base import BaseBridge, built_in
from ..chat_templates import turns
from ..families import Family


class PaliGemmaBridge(BaseBridge):
    """PaliGemma."""

    answer_type_id = 1

    def type_ids(
        self,
        processor: ProcessorMixin,
        ids: Sequence[Sequence[int]],
        video_mask: Sequence[Sequence[int]],
        answer_mask: Sequence[Sequence[int]] | None = None,
        is_asked: bool | None = None,
    ) -> dict[str, list[list[int]]]:
        """1 from the first answer on: a later question must not see what is asked of it, nor be seen."""
        answers = [[0] * len(row) for row in ids] if answer_mask is None else answer_mask
        return {"token_type_ids": [list(accumulate(row, max)) for row in answers]}


built_in(
    PaliGemmaBridge(
        Family(behind_visuals="bos_token", ends_with="\n", chat_template=turns("'\\n'", "eos_token")),
    ),
    "paligemma",
)

__all__ = ["PaliGemmaBridge"]
