"""Every architecture that is tested, as data: `BASES` in every run, `ALL_BASES` with `make test-bases`."""

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
