"""GOT-OCR, which takes a list of pictures for the pages of a document."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import ProcessorMixin

from ..base import BaseBridge, built_in
from ..families import Family
from ..markers import write_pictures


class GotOcrBridge(BaseBridge):
    """GOT-OCR 2."""

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        return write_pictures(processor, pictures, options, are_nested=False)


built_in(GotOcrBridge(Family(one_tile={"crop_to_patches": False})), "got_ocr2")

__all__ = ["GotOcrBridge"]
