"""What the backbone and the head share with each other and with transformers."""

from torch import nn
from transformers import PreTrainedModel

from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from .configuration_linvt import LinVTConfig


LINVT_PREFIX = "model.linvt."  # where LinVT's own weights live in a checkpoint; everything else is the base's
BASE_PREFIX = "model.base_vlm."


class LinVTPreTrainedModel(PreTrainedModel):
    """What [`LinVTModel`] and [`LinVTForVideoQA`] share."""

    config_class = LinVTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    # The base decides; these say only that LinVT itself stands in nobody's way.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["SpatioTemporalBlock", "AggregatorBlock"]
    # What transformers quantises in a checkpoint that holds its base is the base: its quantisers pass these over.
    _keep_in_fp32_modules = ["model.linvt"]

    def _init_weights(self, module: nn.Module) -> None:
        # The tokenizer knows its own start; the base is another model and initialises itself.
        if isinstance(module, LinearVideoTokenizer):
            module.init_weights()

    def initialize_weights(self) -> None:
        """
        As in transformers, with the base's own initialisation for the base.

        Of a class outside of transformers it takes every module for foreign code, and passes over those that only
        compute something from the config (Falcon-H1's multipliers), which then hold whatever memory holds.
        """
        self.base_vlm.initialize_weights()
        super().initialize_weights()

    def post_init(self) -> None:
        """As in transformers, without names of modules that this base does not have (FSDP refuses those)."""
        super().post_init()
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = {name for name in self._no_split_modules if name in present}

    def get_input_embeddings(self) -> nn.Module:
        """The base's token embeddings."""
        return self.base_vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the base's token embeddings."""
        self.base_vlm.set_input_embeddings(value)
