"""The parts of a base's processor that everything of ours works with."""

from typing import Any

from transformers import ProcessorMixin

from ..bases.base import BaseBridge
from ..bases.markers import AddedTexts, VisualMarkers
from ..bases.registry import bridge_of


class HasBaseProcessor(ProcessorMixin):
    """A processor around the one of a base."""

    base_processor: Any
    base_model_type: str
    num_video_tokens: int
    num_frames: int
    add_timestamps: bool | str
    frame_path: str
    skip_duplicate_frames: bool | float
    max_frame_tokens: int | None
    max_total_frame_tokens: int | None
    frames_per_step: int
    markers: VisualMarkers
    added: AddedTexts

    @property
    def bridge(self) -> BaseBridge:
        """How this kind of base is talked to."""
        return bridge_of(self.base_model_type)

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer."""
        return self.base_processor.tokenizer

    @property
    def image_processor(self) -> Any:
        """The base's image processor."""
        return self.base_processor.image_processor

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The base's chat template, or ours where its checkpoints have none; setting it sets the base's."""
        return self.bridge.chat_template(self.base_processor)

    @chat_template.setter
    def chat_template(self, template: str | dict[str, str] | None) -> None:
        self.base_processor.chat_template = template
