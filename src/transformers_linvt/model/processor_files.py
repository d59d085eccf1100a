"""Saving and loading a processor: the base's own files, and our settings in the same `processor_config.json`."""

import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from transformers import ProcessorMixin
from transformers.processing_utils import TextKwargs
from transformers.utils import PROCESSOR_NAME

from ..bases.loading import HUB_ARGUMENTS
from ..bases.registry import bridge_of, load_processor_at
from ..bases.video_tokens import default_video_tokens
from ..errors import CheckpointError, LinVTInputError, first_line, nearest_name, shown, unknown_argument
from ..remote_code import write_code
from .base_parts import HasBaseProcessor
from .configuration_linvt import AUTO_MAP, LINVT_FIELDS
from .whole_folder import finish_saving, saved_as_one


_SETTINGS = (
    "num_video_tokens",
    "base_model_type",
    "num_frames",
    "add_timestamps",
    "frame_path",
    "max_frame_tokens",
    "max_total_frame_tokens",
    "skip_duplicate_frames",
)


_HUB_ARGUMENTS = (*HUB_ARGUMENTS, "trust_remote_code")


# Of a model's `from_pretrained`. A pipeline gives them to the processor as well, and so do people.
_MODEL_ARGUMENTS = (
    "adapter_kwargs", "adapter_name", "allow_all_kernels", "attn_implementation", "code_revision", "config",
    "device_map", "device_mesh", "distributed_config", "dtype", "experts_implementation", "generation_config",
    "gguf_file", "ignore_mismatched_sizes", "kernel_config", "key_mapping", "load_in_4bit", "load_in_8bit",
    "low_cpu_mem_usage", "max_memory", "offload_buffers", "offload_folder", "offload_state_dict",
    "output_loading_info", "quantization_config", "state_dict", "torch_dtype", "tp_plan", "tp_size", "use_kernels",
    "use_safetensors", "variant", "weights_only",
)  # fmt: skip
# Of tokenizers, beside special tokens and what the classes name in `__init__`.
_TOKENIZER_ARGUMENTS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "additional_special_tokens", "backend", "chat_template",
    "clean_up_tokenization_spaces", "extra_special_tokens", "legacy", "max_length", "model_max_length",
    "padding_side", "split_special_tokens", "truncation_side", "use_fast",
)  # fmt: skip
_SURELY_MEANT = 0.85  # a base's own num_query_tokens is no misspelt num_video_tokens


def _for_parts(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """
    What of the arguments of `from_pretrained` is for the base's processor and its parts.

    Raises:
        LinVTInputError: one of them is a misspelt setting, or one of the model's.
    """
    parts = {}
    for name, value in kwargs.items():
        if name in (*_SETTINGS, *_HUB_ARGUMENTS, *_MODEL_ARGUMENTS) or name.startswith("_"):
            continue
        if name in LINVT_FIELDS:
            if "_from_pipeline" in kwargs:  # which gives them to the model, too
                continue
            raise LinVTInputError(f"{name} is set in the model: LinVTForVideoQA.from_base(..., {name}=...).")
        if nearest_name(name, _SETTINGS, _SURELY_MEANT):
            raise LinVTInputError(unknown_argument(name, _SETTINGS))
        parts[name] = value
    return parts


def _check_arrived(processor: ProcessorMixin, names: Iterable[str]) -> None:
    """
    Refuse arguments that neither the base's processor nor its tokenizer or image processor knows.

    Raises:
        LinVTInputError: there is one.
    """
    parts: Any = processor
    accepted = getattr(parts.image_processor, "valid_kwargs", None)
    known = {*_TOKENIZER_ARGUMENTS, *TextKwargs.__annotations__, *getattr(accepted, "__annotations__", ())}
    known |= {*getattr(parts.tokenizer, "SPECIAL_TOKENS_ATTRIBUTES", ())}
    for made in (type(processor), *type(parts.tokenizer).__mro__):
        known |= {*inspect.signature(made.__init__).parameters} - {"self", "args", "kwargs"}
    for name in names:
        if name not in known:
            meant = nearest_name(name, sorted({*known, *_SETTINGS}))
            raise LinVTInputError(
                f"{name} is no argument of {type(processor).__name__}, its tokenizer or its image processor, and no "
                f"setting of LinVTProcessor ({', '.join(_SETTINGS)})."
                + (f" Did you mean {meant!r}?" if meant else " Leave it out.")
            )


class SavesProcessors(HasBaseProcessor):
    """How [`LinVTProcessor`] is made, saved and loaded."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        """No sub-processors of its own: transformers would take any argument named after a modality for one."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """The base's settings with ours under `linvt`; one file describes both."""
        return {
            **self.base_processor.to_dict(),
            "processor_class": type(self).__name__,
            "base_processor_class": type(self.base_processor).__name__,
            "auto_map": {"AutoProcessor": AUTO_MAP["AutoProcessor"]},
            "linvt": {name: getattr(self, name) for name in _SETTINGS},
        }

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SETTINGS)
        return f"{type(self).__name__}({type(self.base_processor).__name__}, {settings})"

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """
        Save the base's processor and our settings into one folder, with the code that loads them: all files or none.

        Args:
            save_directory: folder, made if missing.
            push_to_hub: upload it as well, to `repo_id` or a repository with the folder's name.
            kwargs: of `push_to_hub` (`repo_id`, `token`, `private`, ...).

        Raises:
            CheckpointError: the folder cannot be written.
        """
        settings, folder = self.to_dict(), Path(save_directory)
        try:
            with saved_as_one(folder) as staged:
                path = staged / PROCESSOR_NAME
                files = [*(self.base_processor.save_pretrained(staged) or []), *write_code(staged), path]
                saved = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
                path.write_text(json.dumps({**saved, **settings}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
                names = [Path(file).relative_to(staged) for file in files]
        except CheckpointError:
            raise
        except Exception as error:  # tokenizers raise a bare Exception on a full disk
            raise CheckpointError(
                f"The processor cannot be saved into {str(folder)!r}: {first_line(error)}. What was there before is "
                "still there. Is there enough space, and may you write there?"
            ) from error
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return list(dict.fromkeys(str(folder / name) for name in names))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """
        Load a processor that `save_pretrained` wrote, by folder or repository id.

        Args:
            pretrained_model_name_or_path: folder or repository id.
            kwargs: `num_frames`, `add_timestamps`, `num_video_tokens` instead of the saved ones; `revision`,
                `subfolder`, `token` and the like; what the base's own `from_pretrained` takes for its processor,
                tokenizer and image processor (`tokenizer`, `chat_template`, `padding_side`, `size`, `do_resize`).
                Those of a model (`dtype`, `device_map`) are left to the model: a pipeline gives them to both.

        Raises:
            CheckpointError: nothing there, or the processor of another model.
            LinVTInputError: an argument that nothing here takes.
        """
        source = os.fspath(pretrained_model_name_or_path)
        own = {name: kwargs[name] for name in _SETTINGS if name in kwargs}
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        parts = _for_parts(kwargs)
        if os.path.isdir(source):
            finish_saving(source)
        try:
            settings, _ = cls.get_processor_dict(source, **hub)
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:  # of any JSON that is no dict
            raise CheckpointError(f"No processor found at {source!r}: {first_line(error)}") from error
        if "linvt" not in settings:
            found = settings.get("processor_class")
            raise CheckpointError(
                f"{source!r} holds {'a ' + found if found else 'no processor_config.json, or one'} without LinVT "
                "settings. For a base model use LinVTProcessor.from_base."
            )
        saved = settings["linvt"]
        if not isinstance(saved, dict) or not isinstance(saved.get("base_model_type"), str | None):
            raise CheckpointError(
                f"The processor_config.json of {source!r} has the LinVT settings {shown(saved)}, which cannot be "
                "used. Save or download the processor again."
            )
        settings = {**{name: value for name, value in saved.items() if name in _SETTINGS}, **own}
        bridge = bridge_of(settings.get("base_model_type") or "")
        base_processor = bridge.load_processor(source, **hub, **parts)
        _check_arrived(base_processor, parts)
        return cls(base_processor, **settings)

    @classmethod
    def from_base(cls, base: "str | os.PathLike | ProcessorMixin", **kwargs: Any) -> Self:
        """
        Put LinVT around a base model's processor.

        Args:
            base: repository id, folder, or a loaded processor, which is used as it is and not changed.
            kwargs: `num_video_tokens` (the model's), `num_frames`, `add_timestamps`, `base_model_type`; other
                arguments such as `revision`, `token` and `size` go to the base's `from_pretrained`. Without
                `num_video_tokens` it is what one frame of the base has, 640 x 360 pixels where that depends on the
                size, and without `frame_path` that of the base's own video path, as in
                [`LinVTForVideoQA.from_base`].

        Raises:
            CheckpointError: nothing there.
            UnsupportedBaseError: what is there has no tokenizer or image processor, or a package is missing.
            LinVTInputError: an argument that nothing here takes, or one for loading beside a loaded processor.
        """
        own = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        is_loaded = not isinstance(base, str | os.PathLike)
        parts = _for_parts(kwargs)
        if is_loaded and kwargs:
            raise LinVTInputError(unknown_argument(next(iter(kwargs)), _SETTINGS))
        if not is_loaded:
            hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
            base, found = load_processor_at(os.fspath(base), {**hub, **parts}, own.get("base_model_type"))
            _check_arrived(base, parts)
            if own.get("base_model_type") is None:
                own["base_model_type"] = found
        processor = cls(base, **own)
        if "num_video_tokens" not in own:
            processor.num_video_tokens = default_video_tokens(base, processor.base_model_type)
        return processor
