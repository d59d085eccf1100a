"""
What the scripts in `examples/` take on the command line: TRL's options of model and data, and LinVT's.

Every option has an effect or is refused. What a checkpoint decides by itself (the size of LinVT, the rank of an
adapter that it has) may be repeated, not contradicted.
"""

import os
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig
from trl import ModelConfig, ScriptArguments, get_quantization_config

from ..errors import LinVTInputError
from ..model.modeling_linvt import LinVTForVideoQA
from ..model.processing_linvt import LinVTProcessor
from .data import load_video_dataset
from .lora import load_for_training, lora_config


@dataclass
class LinVTModelConfig(ModelConfig):
    """
    The model: an image-text model to wrap, or a LinVT checkpoint to go on with.

    The fields of [`LinVTConfig`] are for wrapping; what is not given has the default of `from_base`. Those of LoRA
    that are not given have the default of [`lora_config`], or are those of the adapter that the checkpoint has.
    """

    lora_r: int | None = field(default=None, metadata={"help": "Rank of LoRA; 16 for a new adapter."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Alpha of LoRA; 32 for a new adapter."})
    lora_dropout: float | None = field(default=None, metadata={"help": "Dropout of LoRA; 0.05 for a new adapter."})
    use_rslora: bool | None = field(default=None, metadata={"help": "Rank-stabilised LoRA."})
    use_dora: bool | None = field(default=None, metadata={"help": "Weight-decomposed LoRA (DoRA)."})
    use_peft: bool | None = field(
        default=None, metadata={"help": "LoRA beside LinVT; by default in stage 2 and not in stage 1."}
    )
    num_video_tokens: int | None = field(default=None, metadata={"help": "M, tokens a video becomes."})
    num_kept_tokens: int | None = field(default=None, metadata={"help": "k, frame tokens kept before aggregation."})
    pooling_scales: list[int] | None = field(default=None, metadata={"help": "Kept tokens per window, each scale."})
    scale_mode: str | None = field(default=None, metadata={"help": "specific, shared or single."})
    bottleneck_size: int | None = field(default=None, metadata={"help": "d, width of the weight branch."})
    num_heads: int | None = field(default=None, metadata={"help": "Attention heads of the weight branch."})
    num_scorer_layers: int | None = field(default=None, metadata={"help": "Blocks of SVR."})
    num_aggregator_layers: int | None = field(default=None, metadata={"help": "Blocks of TTA."})
    init: str | None = field(default=None, metadata={"help": "keyframes, anchored or free."})

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if not self.model_name_or_path:
            raise LinVTInputError("Which model? Give --model_name_or_path: a repository, or a folder.")
        if self.model_revision != "main" and os.path.isdir(self.model_name_or_path):
            raise LinVTInputError(
                f"--model_revision {self.model_revision} has no effect on the folder {self.model_name_or_path!r}: "
                "revisions are of repositories."
            )
        if self.load_in_4bit and self.load_in_8bit:
            raise LinVTInputError("--load_in_4bit and --load_in_8bit are alternatives. Give one of them.")
        super().__post_init__()
        if not self.load_in_4bit:
            self._refuse_unless_default(
                "--load_in_4bit is not given", "bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"
            )
        if self.lora_task_type != "CAUSAL_LM":
            raise LinVTInputError(f"--lora_task_type {self.lora_task_type}: an answer is written, so it is CAUSAL_LM.")

    def check_without_lora(self, why: str) -> None:
        """
        Refuse options of LoRA where none is made.

        Args:
            why: words for the error.

        Raises:
            `LinVTInputError`: naming the option.
        """
        if self.use_peft:
            raise LinVTInputError(f"--use_peft has no effect: {why}.")
        self._refuse_unless_default(why, *_LORA_OPTIONS)

    def _refuse_unless_default(self, why: str, *names: str) -> None:
        defaults = {one.name: one.default for one in fields(self)}
        for name in names:
            if (value := getattr(self, name)) != defaults[name]:
                raise LinVTInputError(f"--{name} {_shown(value)} has no effect: {why}.")


@dataclass
class LinVTScriptArguments(ScriptArguments):
    """The data: what [`load_video_dataset`] takes, or a dataset of the Hub with one of its configurations."""

    def __post_init__(self) -> None:
        """Refuse a script without data."""
        if not self.dataset_name:
            raise LinVTInputError(
                "Which data? Give --dataset_name: a jsonl, a folder with train.jsonl, .tar shards, or a dataset of "
                "the Hub."
            )


LINVT_OPTIONS = (
    "num_video_tokens", "num_kept_tokens", "pooling_scales", "scale_mode", "bottleneck_size", "num_heads",
    "num_scorer_layers", "num_aggregator_layers", "init",
)  # fmt: skip
_LORA_OPTIONS = (
    "lora_r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_target_modules", "lora_target_parameters",
    "lora_modules_to_save",
)  # fmt: skip
_NAMES_IN_PEFT = {
    "lora_r": "r", "lora_target_modules": "target_modules", "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
}  # fmt: skip


def load_model(
    arguments: LinVTModelConfig, *, trust_remote_code: bool = False
) -> tuple[LinVTForVideoQA, LinVTProcessor]:
    """
    A LinVT checkpoint as it is, or an image-text model with a new LinVT around it.

    Args:
        arguments: of the command line.
        trust_remote_code: whether code that comes with the weights of the base may run.

    Raises:
        `LinVTInputError`: an option contradicts the checkpoint.
        `CheckpointError`: the model was not found.
    """
    name, revision = _name(arguments), arguments.model_revision
    config = _config(arguments, trust_remote_code)
    loading = _loading(arguments)
    if config.model_type == "linvt":
        _check_same_linvt(arguments, config)
        model: Any = AutoModelForImageTextToText.from_pretrained(name, **loading)
        return model, AutoProcessor.from_pretrained(name, revision=revision)
    chosen = {option: getattr(arguments, option) for option in LINVT_OPTIONS}
    model = LinVTForVideoQA.from_base(
        name,
        **loading,
        **({"trust_remote_code": True} if trust_remote_code else {}),
        **{option: value for option, value in chosen.items() if value is not None},
    )
    return model, LinVTProcessor.from_base(
        name,
        num_video_tokens=model.config.num_video_tokens,
        frame_path=model.config.frame_path,
        **({"trust_remote_code": True} if trust_remote_code else {}),
    )


def load_model_with_lora(
    arguments: LinVTModelConfig, *, trust_remote_code: bool = False
) -> tuple[torch.nn.Module, LinVTProcessor, LoraConfig | None]:
    """
    What stage 2 trains: a model, its processor, and the adapter to make, if it has none yet.

    Args:
        arguments: of the command line.
        trust_remote_code: see [`load_model`].

    Raises:
        `LinVTInputError`: an option contradicts the checkpoint.
        `CheckpointError`: the model was not found.
    """
    if arguments.use_peft is False:
        arguments.check_without_lora("--use_peft is false")
        return *load_model(arguments, trust_remote_code=trust_remote_code), None
    config = _config(arguments, trust_remote_code)
    if not getattr(config, "adapter_subfolder", None):
        model, processor = load_model(arguments, trust_remote_code=trust_remote_code)
        return model, processor, lora_config(model, **_lora_settings(arguments))
    _check_same_linvt(arguments, config)
    model = load_for_training(_name(arguments), **_loading(arguments))
    _check_same_adapter(arguments, model.peft_config["default"])
    processor = AutoProcessor.from_pretrained(_name(arguments), revision=arguments.model_revision)
    return model, processor, None


def load_datasets(arguments: LinVTScriptArguments, training_args: Any) -> dict[str, Any]:
    """
    The data to train on (`train_dataset`), and to evaluate on (`eval_dataset`) where `eval_strategy` asks for it.

    Args:
        arguments: of the command line.
        training_args ([`LinVTSFTConfig`]).

    Raises:
        `LinVTInputError`: see [`load_video_dataset`], or a split to evaluate on where nothing is evaluated.
    """
    splits = {"train_dataset": arguments.dataset_train_split}
    if training_args.eval_strategy != "no":
        splits["eval_dataset"] = arguments.dataset_test_split
    elif arguments.dataset_test_split != "test":
        raise LinVTInputError(
            f"--dataset_test_split {arguments.dataset_test_split} has no effect: nothing is evaluated. Give "
            "--eval_strategy steps, too."
        )
    return {
        name: load_video_dataset(
            str(arguments.dataset_name),
            config=arguments.dataset_config,
            split=split,
            streaming=arguments.dataset_streaming,
            video_root=training_args.video_root,
        )
        for name, split in splits.items()
    }


def ignore_bias_buffers(model: Any, arguments: LinVTScriptArguments) -> None:
    """Keep DDP from broadcasting buffers of truth values, which some backends cannot, if the command line asks."""
    if arguments.ignore_bias_buffers:
        model._ddp_params_and_buffers_to_ignore = [
            name for name, buffer in model.named_buffers() if buffer.dtype == torch.bool
        ]


def _name(arguments: LinVTModelConfig) -> str:
    if arguments.model_name_or_path is None:
        raise LinVTInputError("No model was named. Give --model_name_or_path.")
    return arguments.model_name_or_path


def _config(arguments: LinVTModelConfig, trust_remote_code: bool) -> Any:
    return AutoConfig.from_pretrained(
        _name(arguments), revision=arguments.model_revision, trust_remote_code=trust_remote_code
    )


def _loading(arguments: LinVTModelConfig) -> dict[str, Any]:
    loading: dict[str, Any] = {"dtype": arguments.dtype}
    if not os.path.isdir(_name(arguments)):
        loading["revision"] = arguments.model_revision
    if arguments.attn_implementation:
        loading["attn_implementation"] = arguments.attn_implementation
    if (quantization := _quantization(arguments)) is not None:
        loading["quantization_config"] = quantization
    return loading


def _quantization(arguments: LinVTModelConfig) -> BitsAndBytesConfig | None:
    try:
        return get_quantization_config(arguments)
    except ImportError as error:
        raise LinVTInputError(f"--load_in_4bit and --load_in_8bit need bitsandbytes: {error}") from error


def _lora_settings(arguments: LinVTModelConfig) -> dict[str, Any]:
    """Arguments of [`lora_config`]: those that were given."""
    given = {name: getattr(arguments, name) for name in _LORA_OPTIONS if getattr(arguments, name) is not None}
    settings = {_NAMES_IN_PEFT.get(name, name): value for name, value in given.items()}
    return settings


def _check_same_linvt(arguments: LinVTModelConfig, config: Any) -> None:
    for name in LINVT_OPTIONS:
        wanted, found = getattr(arguments, name), getattr(config, name)
        if wanted is not None and _plain(wanted) != _plain(found):
            raise LinVTInputError(
                f"--{name} {_shown(wanted)}: the checkpoint {arguments.model_name_or_path!r} has {_shown(found)}, "
                "which its weights were made for. Leave the option out, or start from the base."
            )


def _check_same_adapter(arguments: LinVTModelConfig, config: Any) -> None:
    for name in _LORA_OPTIONS:
        wanted, found = getattr(arguments, name), getattr(config, _NAMES_IN_PEFT.get(name, name))
        if name == "lora_modules_to_save" and wanted is not None:
            wanted, found = {*wanted, "linvt"}, {*(found or ()), "linvt"}
        if wanted is not None and _plain(wanted) != _plain(found):
            raise LinVTInputError(
                f"--{name} {_shown(wanted)}: the checkpoint {arguments.model_name_or_path!r} has an adapter already, "
                f"with {_shown(found)}. Leave the option out to go on with it, or merge it first."
            )


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple | set) else value


def _shown(value: Any) -> str:
    return " ".join(map(str, sorted(value, key=str))) if isinstance(value, list | tuple | set) else str(value)


__all__ = [
    "LinVTModelConfig",
    "LinVTScriptArguments",
    "ignore_bias_buffers",
    "load_datasets",
    "load_model",
    "load_model_with_lora",
]
