"""PP-Chart2Table: GOT-OCR whose chat template asks for a table, whatever is said."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import ProcessorMixin

from ..base import BaseBridge, built_in
from ..families import Family
from ..markers import VisualMarkers


class PPChart2TableBridge(BaseBridge):
    """PP-Chart2Table: GOT-OCR whose chat template asks for a table, whatever is said, and writes pictures whole."""

    _PICTURE = "<img>" + "<imgpad>" * 256 + "</img>\n"

    def chat_template(self, processor: ProcessorMixin) -> str:
        """Its own, with what the user says in place of its instruction."""
        return (
            "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
            "{% if message.content is string %}{{ message.content }}{%- else %}{%- for part in message.content %}"
            "{%- if part.type == 'image' %}<img>{{ '<imgpad>' * 256 }}</img>\n"
            "{% elif part.type == 'text' %}{{ part.text }}{%- endif %}{%- endfor %}{%- endif %}<|im_end|>\n"
            "{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )

    def markers(self, processor: ProcessorMixin) -> VisualMarkers:
        """What its template writes for a picture is its placeholder."""
        token_id = processor.tokenizer.convert_tokens_to_ids("<imgpad>")
        return VisualMarkers(self._PICTURE, "<imgpad>", token_id, "<img>", "</img>\n")

    def tokens_of_frame(self, processor: ProcessorMixin, frame: np.ndarray) -> int:
        """The number is always the same."""
        return self._PICTURE.count("<imgpad>")

    def picture_inputs(
        self, processor: ProcessorMixin, pictures: Sequence[Sequence[Any]], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Pixels, and what its template writes."""
        flat = [picture for row in pictures for picture in row]
        if not flat:
            return {}, []
        return dict(processor.image_processor(flat, return_tensors="pt", **options)), [self._PICTURE] * len(flat)


built_in(
    PPChart2TableBridge(
        Family(notes=("asked as GOT-OCR is: its own chat template would ask for a table, whatever the question",))
    ),
    "pp_chart2table",
)

__all__ = ["PPChart2TableBridge"]
