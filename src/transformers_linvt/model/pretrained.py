"""What the backbone and the head share with each other and with transformers."""

import inspect
import os
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..bases.cache import CACHE_NAME
from ..bases.layouts import FRAME_PREFIX
from ..errors import CheckpointError, shown
from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from .configuration_linvt import LinVTConfig
from .repeated_frames import IS_NEW


Forward = Callable[..., Any]

LINVT_PREFIX = "model.linvt."  # where LinVT's own weights live in a checkpoint; everything else is the base's
BASE_PREFIX = "model.base_vlm."

# What of a call is LinVT's own; everything else goes on to the base.
OWN_INPUTS = (
    "frames_per_video",
    "video_timestamps",
    "video_time_ids",
    "video_mask",
    "question_mask",
    "video_features",
    "encoded_frames",
    "condensed_videos",
    "caption_mask",
)
_TEXT_INPUTS = (
    "input_ids",
    "attention_mask",
    "token_type_ids",
    "mm_token_type_ids",
    "position_ids",
    CACHE_NAME,
    "inputs_embeds",
)
# Under these names the image processors of transformers give what a base encodes; frames have them behind `frame_`.
_PICTURE_INPUTS = (
    "pixel_values",
    "pixel_values_images",
    "pixel_values_local",
    "high_res_pixel_values",
    "pixel_attention_mask",
    "pixel_mask",
    "image_grid_thw",
    "image_grid_hw",
    "image_grids",
    "image_sizes",
    "image_merge_sizes",
    "image_num_crops",
    "image_position_ids",
    "image_token_pooling",
    "aspect_ratio_ids",
    "batch_num_images",
    "aspect_ratio_mask",
    "num_crops",
    "num_local_patches",
    "num_soft_tokens_per_image",
    "num_tiles",
    "spatial_shapes",
    "target_sizes",
)


def with_named_inputs(*further: str) -> Callable[[Forward], Forward]:
    """
    Name the inputs of a `forward(self, ..., **inputs)` in its signature.

    Trainers, PEFT and accelerate look there for what a model takes: `Trainer` drops every column that is not named,
    and with them it would drop the video.

    Args:
        further: names beside those of prompts, pictures and videos, which every forward has.
    """

    def named(forward: Forward) -> Forward:
        """The same function with the signature."""
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        frames = [FRAME_PREFIX + name for name in (*_PICTURE_INPUTS, IS_NEW)]
        names = [*_TEXT_INPUTS, *further, *_PICTURE_INPUTS, *frames, *OWN_INPUTS]
        own = inspect.signature(forward).parameters
        parameters = [own["self"], *(inspect.Parameter(name, kind, default=None) for name in names), own["inputs"]]
        forward.__signature__ = inspect.Signature(parameters)
        return forward

    return named


class LinVTPreTrainedModel(PreTrainedModel):
    """What [`LinVTModel`] and [`LinVTForVideoQA`] share."""

    config: LinVTConfig
    base_vlm: PreTrainedModel
    linvt: LinearVideoTokenizer

    config_class = LinVTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities: Any = ("image", "video", "text")
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
        self._no_split_modules = {name for name in self._no_split_modules or () if name in present}

    @property
    def working_device(self) -> torch.device:
        """The device of this model's weights; where they wait elsewhere to be fetched, the one they work on."""
        return device_of(self)

    def get_input_embeddings(self) -> nn.Module:
        """The base's token embeddings."""
        return self.base_vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the base's token embeddings."""
        self.base_vlm.set_input_embeddings(value)


def device_of(module: nn.Module) -> torch.device:
    """
    Where a module computes.

    Accelerate leaves an offloaded module without values ("meta") and fetches them to a device of its choice for the
    time of each forward.
    """
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    hooks = (getattr(part, "_hf_hook", None) for part in module.modules())
    for device in (getattr(hook, "execution_device", None) for hook in hooks):
        if device is not None:
            return torch.device(device)
    return torch.device("meta")


def check_subfolder(subfolder: Any, path: str) -> None:
    """Refuse a folder of an adapter that is not below the checkpoint: saving would write there."""
    if not subfolder:
        return
    parts = re.split(r"[/\\]", subfolder) if isinstance(subfolder, str) else []
    if not parts or ".." in parts or "" in parts or os.path.isabs(subfolder) or ":" in parts[0]:
        raise CheckpointError(
            f"The config of {path!r} has adapter_subfolder={shown(subfolder)}, which is no folder inside of the "
            "checkpoint. Give a name such as 'adapter'."
        )
