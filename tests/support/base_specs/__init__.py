"""
Every architecture that is tested, as data: `BASES` by every test of the package, `QUICK` by those of test_bases.py in
every run, `ALL_BASES` with `make test-bases`.
"""

from . import always, gemma, glm, llava, ocr, others, qwen
from .spec import BaseSpec


BASES: dict[str, BaseSpec] = always.SPECS
ALL_BASES: dict[str, BaseSpec] = {
    **BASES,
    **qwen.SPECS,
    **glm.SPECS,
    **llava.SPECS,
    **gemma.SPECS,
    **ocr.SPECS,
    **others.SPECS,
}
# One more for each way that the nine do not have: prompts whose tokens all see each other, tokens for numbered deep
# layers out of tiles, a language model that takes embedded prompts alone, and tokens as keys of cross-attention.
QUICK: tuple[str, ...] = (*BASES, "paligemma", "granite4_vision", "blip-2", "mllama")
