"""Configuration of LinVT: the base model's configuration plus the numbers of the linear video tokenizer."""

import copy
import os
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from ..errors import CheckpointError, LinVTError, LinVTInputError, first_line
from ..remote_code import came_with_a_checkpoint, class_reference, write_code


# What a checkpoint says about its classes, for a machine where this package is not installed.
AUTO_MAP = {
    "AutoConfig": class_reference("LinVTConfig"),
    "AutoModel": class_reference("LinVTForVideoQA"),
    "AutoModelForImageTextToText": class_reference("LinVTForVideoQA"),
    "AutoModelForMultimodalLM": class_reference("LinVTForVideoQA"),
    "AutoProcessor": class_reference("LinVTProcessor"),
}

# The same of its pipeline. One task: with several, `pipeline(model=...)` would not know which is meant.
CUSTOM_PIPELINES = {
    "video-question-answering": {
        "impl": class_reference("VideoQuestionAnsweringPipeline"),
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}

# What a processor has to set and a model has not
PROCESSOR_SETTINGS = ("num_frames", "add_timestamps", "base_model_type")

# The tokenizer's numbers: `LinearVideoTokenizer` takes these names as they are.
TOKENIZER_FIELDS = (
    "num_video_tokens",
    "num_kept_tokens",
    "pooling_scales",
    "scale_mode",
    "bottleneck_size",
    "num_heads",
    "num_scorer_layers",
    "num_aggregator_layers",
    "temporal_window",
    "selection",
    "aggregation",
    "text_conditioned",
    "init",
    "shift_windows",
    "contrastive_size",
)


def implementations(config: PreTrainedConfig, of: str) -> dict[str, Any]:
    """
    The implementation of attention (`of="attn"`) or of a mixture of experts (`of="experts"`) of a config and of all
    its sub-configs, in the nested form that transformers accepts.

    Needed because building a composite config around a *live* base config would otherwise reset the implementation of
    every part of the base to None: with it the causal mask of its language model, or the speed of its experts.
    """
    nested: dict[str, Any] = {"": getattr(config, f"_{of}_implementation")}
    for name in config.sub_configs:
        if (sub_config := getattr(config, name, None)) is not None:
            nested[name] = implementations(sub_config, of)
    return nested


def _of_unknown_kind(settings: dict[str, Any]) -> dict[str, Any] | PreTrainedConfig:
    """
    The settings of a base whose class transformers does not have (its code comes with it) as a plain config.

    Whoever loads the base puts its own config in this place; until then its numbers can be read.
    """
    model_type = settings.get("model_type")
    if not model_type or model_type in CONFIG_MAPPING:
        return settings
    values = {name: value for name, value in settings.items() if name != "model_type"}
    if isinstance(text := values.get("text_config"), dict):  # read through get_text_config
        values["text_config"] = PreTrainedConfig(
            **{name: value for name, value in text.items() if name != "model_type"}
        )
    config: Any = PreTrainedConfig(**values)
    config.model_type = model_type
    return config


@strict
class LinVTConfig(PreTrainedConfig):
    r"""
    Configuration of a [`LinVTForVideoQA`]: a base image-text model and the linear video tokenizer in front of its
    language model.

    Fields are explained once, beside their default. "Paper" is LinVT, arXiv 2412.05185; where it gives no value, the
    number is that of the authors' published code or ours, and it says so.

    Raises:
        LinVTInputError: a number that cannot work (zero tokens, windows below one, more scales than tokens ...).

    Example:

    >>> from transformers_linvt import LinVTConfig
    >>> LinVTConfig(num_video_tokens=64).num_video_tokens
    64
    """

    model_type = "linvt"
    # A base is always given in practice; the default is there because transformers builds configs from nothing.
    sub_configs_defaults = {"base_config": SubConfigSpec(config_class=AutoConfig, model_type="llava")}

    # -- the base model --
    base_config: dict | PreTrainedConfig | None = None  # its whole configuration, as the base saved it
    base_model_name_or_path: str | None = None  # repository id or folder; a relative one is seen from the checkpoint
    base_revision: str | None = None  # commit of that repository, so that a checkpoint keeps meaning the same model
    includes_base: bool = False  # whether the files of this checkpoint hold the base's weights too
    adapter_subfolder: str | None = None  # folder in the checkpoint with a LoRA adapter of the base's language model

    # -- the linear video tokenizer --
    # M, tokens the language model gets per video; the paper's value is not public, its code has 16, 32 and 64: ours
    num_video_tokens: int = 256
    num_kept_tokens: int | None = None  # k, "top-k" of the paper; None: 4 M (1024 of 256 in the authors' code)
    pooling_scales: tuple[int, ...] | list[int] = (1, 2, 4)  # windows of the multi-scale pooling; authors' code
    # "specific": the paper's scale-specific queries (Multi-C); only with "single" is a still video its picture: ours
    scale_mode: Literal["single", "shared", "specific"] = "single"
    bottleneck_size: int = 512  # d, width of the branch that computes the weights: ours
    # attention heads inside that branch; authors' demos (their training code passes 4, apparently swapped with layers)
    num_heads: int = 8
    num_scorer_layers: int = 2  # blocks of significance scoring: ours
    num_aggregator_layers: int = 4  # blocks of query interaction; authors' demos
    temporal_window: int = 16  # frames that see each other in temporal attention, so that cost is linear in T: ours
    selection: Literal["learned", "novelty", "uniform", "none"] = "learned"  # how the k tokens are chosen
    aggregation: Literal["linear", "nonlinear"] = "linear"  # "nonlinear" is an ablation: tokens are no averages then
    text_conditioned: bool = True  # whether the queries look at the question
    init: Literal["keyframes", "anchored", "free"] = "keyframes"  # what an untrained model does: ours
    shift_windows: bool = False  # pooling windows start half a window earlier; the paper says "shifted-window": ours
    contrastive_size: int = 0  # width of the space in which stage 1 compares videos and captions; 0: no head: ours

    # -- the seam to the base --
    # what is condensed: frames as pictures, or steps of several frames as the base's own video path merges them; that
    # is what from_base takes where there is such a path
    frame_path: Literal["image", "video"] = "image"
    # where video tokens stand for a base that counts positions in time, row and column: "text", one after the other as
    # words do; "grid", at the time, row and column they come from; "auto", "grid" if the base counts so and LinVT
    # starts from key frames, for then a still video stands where its picture would: ours
    video_positions: Literal["auto", "text", "grid"] = "auto"

    # -- limits --
    max_frames: int = 1024  # frames per video the model accepts: ours
    frames_per_chunk: int = 32  # frames that go through the vision tower at once, which bounds its memory: ours

    def __post_init__(self, **kwargs):
        if isinstance(self.base_config, dict):
            self.base_config = _of_unknown_kind(self.base_config)
        if isinstance(self.base_config, PreTrainedConfig):
            attention = implementations(self.base_config, "attn")
            kwargs.setdefault("attn_implementation", {"": attention[""], "base_config": attention})
            experts = implementations(self.base_config, "experts")  # LinVT has none itself
            kwargs.setdefault("experts_implementation", {"": None, "base_config": experts})
        super().__post_init__(**kwargs)
        self.pooling_scales = tuple(self.pooling_scales)
        self._check_numbers()

    def _check_numbers(self) -> None:
        for name in (
            "num_video_tokens",
            "num_kept_tokens",
            "bottleneck_size",
            "num_heads",
            "temporal_window",
            "max_frames",
            "frames_per_chunk",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LinVTInputError(f"{name}={getattr(self, name)} must be at least 1.")
        if not self.pooling_scales or min(self.pooling_scales) < 1:
            raise LinVTInputError(
                f"pooling_scales={self.pooling_scales} must be one or more window sizes of at least 1."
            )
        if self.scale_mode == "specific" and self.num_video_tokens < len(self.pooling_scales):
            raise LinVTInputError(
                f"num_video_tokens={self.num_video_tokens} is less than the {len(self.pooling_scales)} pooling "
                "scales, each of which has its own queries. Ask for more video tokens, or set scale_mode='shared'."
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As in transformers, with one error for whatever a config.json may hold.

        Raises:
            CheckpointError: values that no configuration has.
            LinVTInputError: a number that cannot work.
        """
        if not came_with_a_checkpoint():  # the pipeline of this package stands in transformers' registry already
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        try:
            return super().from_dict(config_dict, **kwargs)
        except LinVTError:
            raise
        except Exception as error:  # the checks of transformers and of the base's config raise what they like
            raise CheckpointError(
                f"The settings of a LinVT checkpoint (config.json) cannot be used: {first_line(error)}. Save or "
                "download the checkpoint again."
            ) from error

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the configuration, with the code that loads it. See [`PreTrainedConfig.save_pretrained`]."""
        self.auto_map = dict(AUTO_MAP)
        if not os.path.isfile(save_directory):
            write_code(save_directory)
        before = self.__dict__.pop("custom_pipelines", None)
        self.custom_pipelines = copy.deepcopy(CUSTOM_PIPELINES)
        try:
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            del self.custom_pipelines
            if before is not None:
                self.custom_pipelines = before

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing: a checkpoint gets its code from [`write_code`], and transformers would write it once more."""

    @property
    def tokenizer_kwargs(self) -> dict[str, Any]:
        """Arguments of [`LinearVideoTokenizer`], without the width, which is the base's."""
        return {name: getattr(self, name) for name in TOKENIZER_FIELDS}

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The language model's configuration: the base's own."""
        base_config: Any = self.base_config
        return base_config.get_text_config(decoder=decoder, encoder=encoder)

    @property
    def text_config(self) -> PreTrainedConfig:
        """The language model's configuration, under the name that other packages read it by."""
        return self.get_text_config()

    @property
    def hidden_size(self) -> int:
        """Width of the language model, by which DeepSpeed sets the sizes that are left to it ("auto")."""
        return self.get_text_config().hidden_size

    @property
    def image_token_id(self) -> int | None:
        """
        Id of the base's image placeholder, which video tokens stand on as well.

        A base that does not say it in its config has it written there when a model is made of it, under a name of
        ours: transformers takes every `..._token_id` for a row of the first table of embeddings.
        """
        given = getattr(self.base_config, "image_token_id", None)
        return getattr(self.base_config, "image_placeholder", None) if given is None else given

    @property
    def video_token_id(self) -> int | None:
        """Id that video tokens stand at: that of the base's image placeholder."""
        return self.image_token_id


# What a caller may set; the rest is known of the base.
LINVT_FIELDS = frozenset(LinVTConfig.__annotations__) - {
    "base_config",
    "base_model_name_or_path",
    "base_revision",
    "includes_base",
}


__all__ = ["LinVTConfig"]
