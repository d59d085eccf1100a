"""Saving and loading a processor: the base's own files, and our settings in the same `processor_config.json`."""

import json
import os
from pathlib import Path
from typing import Any, Self

from transformers import ProcessorMixin
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


# What else users of transformers give `AutoProcessor.from_pretrained`; a pipeline adds arguments that are the model's.
_PART_ARGUMENTS = ("padding_side", "truncation_side", "model_max_length", "min_pixels", "max_pixels", "size")


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
                `subfolder`, `token` and the like; `padding_side`, `min_pixels` and the like for the base's parts.
                Others are ignored, as a pipeline adds arguments that are the model's.

        Raises:
            CheckpointError: nothing there, or the processor of another model.
            LinVTInputError: a misspelt argument.
        """
        source = os.fspath(pretrained_model_name_or_path)
        own = {name: kwargs[name] for name in _SETTINGS if name in kwargs}
        for name in kwargs:
            if name not in (*_SETTINGS, *_HUB_ARGUMENTS, *_PART_ARGUMENTS) and nearest_name(name, _SETTINGS):
                raise LinVTInputError(unknown_argument(name, _SETTINGS))
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        parts = {name: kwargs[name] for name in _PART_ARGUMENTS if name in kwargs}
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
        return cls(bridge.load_processor(source, **hub, **parts), **settings)

    @classmethod
    def from_base(cls, base: "str | os.PathLike | ProcessorMixin", **kwargs: Any) -> Self:
        """
        Put LinVT around a base model's processor.

        Args:
            base: repository id, folder, or a loaded processor, which is used as it is and not changed.
            kwargs: `num_video_tokens` (the model's), `num_frames`, `add_timestamps`, `base_model_type`; other
                arguments such as `revision` and `token` go to the base's `from_pretrained`. Without
                `num_video_tokens` it is what one frame of the base has, 640 x 360 pixels where that depends on the
                size, as in [`LinVTForVideoQA.from_base`].

        Raises:
            CheckpointError: nothing there.
            UnsupportedBaseError: what is there has no tokenizer or image processor, or a package is missing.
            LinVTInputError: a misspelt argument, or one for loading beside a loaded processor.
        """
        own = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs}
        is_loaded = not isinstance(base, str | os.PathLike)
        for name in kwargs:
            if name in LINVT_FIELDS:
                raise LinVTInputError(f"{name} is set in the model: LinVTForVideoQA.from_base(..., {name}=...).")
            if is_loaded or (name not in _HUB_ARGUMENTS and nearest_name(name, _SETTINGS)):
                raise LinVTInputError(unknown_argument(name, _SETTINGS))
        if not is_loaded:
            base, found = load_processor_at(os.fspath(base), kwargs, own.get("base_model_type"))
            if own.get("base_model_type") is None:
                own["base_model_type"] = found
        processor = cls(base, **own)
        if "num_video_tokens" not in own:
            processor.num_video_tokens = default_video_tokens(base, processor.base_model_type)
        return processor
