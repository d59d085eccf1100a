"""Making and loading a model with LinVT: around a base, from a reference to one, or from a whole checkpoint."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, overload

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import (
    CONFIG_NAME,
    GENERATION_CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    find_adapter_config_file,
)
from transformers.utils.hub import resolve_revision

from ..bases.base import BaseBridge
from ..bases.fingerprint import Fingerprint, fingerprint_loaded, fingerprint_weights
from ..bases.loading import HUB_ARGUMENTS
from ..bases.registry import bridge_at, bridge_of
from ..bases.video_tokens import default_video_tokens_at
from ..errors import CheckpointError, LinVTInputError, first_line, nearest_name, shown
from .adapter_files import put_adapter
from .base_reference import base_location, reference_to
from .configuration_linvt import LINVT_FIELDS, PROCESSOR_SETTINGS, LinVTConfig
from .pretrained import BASE_PREFIX, LINVT_PREFIX, LinVTPreTrainedModel, check_subfolder
from .whole_folder import finish_saving


# Arguments of a base's `from_pretrained`, which resemble fields of ours but are meant
_LOADING_ARGUMENTS = (*HUB_ARGUMENTS, "config", "max_memory", "num_labels", "trust_remote_code", "variant")


class LoadsCheckpoints(LinVTPreTrainedModel):
    """How [`LinVTForVideoQA`] comes to be."""

    model: Any  # a LinVTModel
    _base_as_loaded: dict[str, Fingerprint] | None
    _linvt_as_loaded: dict[str, Fingerprint] | None
    _base_folder: str | None

    @classmethod
    def from_base(cls, base: "str | os.PathLike | PreTrainedModel", **kwargs: Any) -> Self:
        """
        Put LinVT around an image-text model.

        Args:
            base: a repository id, a folder, or a loaded model (which is wrapped, not copied). Only with
                `base_model_name_or_path=...` (and maybe `base_revision`), which vouches for where its weights can be
                found, is a loaded model saved as a reference.
            kwargs: fields of [`LinVTConfig`] (`num_video_tokens`, `num_kept_tokens`, ...); everything else goes to the
                base's `from_pretrained` (`dtype`, `device_map`, `attn_implementation`, `quantization_config`,
                `revision`, `token` ...).

        Without `num_video_tokens` a video gets as many tokens as one frame of the base has, so that a still video
        loses nothing; where that depends on the size of the picture, one of 640 x 360 pixels. The base's processor is
        loaded to count them, for a loaded model by its `name_or_path`; where it cannot be had, it is 256, with a
        warning. `LinVTProcessor.from_base` of the same base has the same number.

        Without `frame_path` frames go through the vision tower as in the base's own video path: a base that merges
        them in its patches (Qwen2-VL) gets steps of two frames (`"video"`), any other a picture of each (`"image"`).

        Raises:
            UnsupportedBaseError: the base cannot take video tokens; the message says why and what would work.
            CheckpointError: the base was not found.
            LinVTInputError: loading arguments together with a loaded model, or a wrong field of [`LinVTConfig`].
        """
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name in LINVT_FIELDS}
        for name in kwargs:
            if name in PROCESSOR_SETTINGS:
                raise LinVTInputError(
                    f"{name} is a setting of the processor: LinVTProcessor.from_base(..., {name}=...)."
                )
            if name not in _LOADING_ARGUMENTS and (meant := nearest_name(name, LINVT_FIELDS)):
                raise LinVTInputError(f"{name!r} is no field of LinVTConfig. Did you mean {meant!r}?")
        if isinstance(base, str | os.PathLike):
            name = os.path.abspath(base) if os.path.isdir(base) else os.fspath(base)
            revision = _commit_of(name, kwargs)
            base, loading = bridge_at(name, kwargs).load(name, **kwargs), kwargs
            known = fingerprint_loaded(base, kwargs)
        else:
            named, revision = kwargs.pop("base_model_name_or_path", None), kwargs.pop("base_revision", None)
            if kwargs:
                raise LinVTInputError(f"{', '.join(kwargs)} cannot be applied to a base that is loaded already.")
            _bridge_of_model(base).check(base)
            name = named or base.name_or_path or None
            loading = {"revision": revision or getattr(base.config, "_commit_hash", None)}
            known = fingerprint_weights(base) if named is not None else None
        _bridge_of_model(base).check(base)
        fields.setdefault("frame_path", _bridge_of_model(base).frame_path)
        if "num_video_tokens" not in fields:
            fields["num_video_tokens"] = default_video_tokens_at(name, loading)
        try:
            make: Any = LinVTConfig  # of its own fields and those of PreTrainedConfig
            config = make(
                base_config=base.config,
                base_model_name_or_path=reference_to(name) if name else None,
                base_revision=revision,
                # Not the base's name: an adapter trained on this model would be loaded onto the base without LinVT.
                name_or_path="",
                dtype=base.dtype,
                **fields,
            )
        except StrictDataclassError as error:
            raise LinVTInputError(f"A field of LinVTConfig has a value it cannot have: {error}") from error
        model = cls(config, base_vlm=base)
        model._place_linvt()
        model._base_as_loaded = known
        return model.eval()

    def _place_linvt(self) -> None:
        """Bring LinVT to the precision of the base, and to the device where the base embeds its tokens."""
        embeddings = self.get_input_embeddings()
        hook_device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        device = hook_device if hook_device is not None else next(embeddings.parameters()).device
        self.linvt.to(device=device, dtype=self.base_vlm.dtype)
        if device_map := getattr(self.base_vlm, "hf_device_map", None):
            self.hf_device_map = {f"{BASE_PREFIX}{name}".rstrip("."): place for name, place in device_map.items()}
            self.hf_device_map["model.linvt"] = device

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        output_loading_info: Literal[False] = False,
        **kwargs: Any,
    ) -> Self: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        output_loading_info: Literal[True],
        **kwargs: Any,
    ) -> tuple[Self, dict]: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        config: LinVTConfig | None = None,
        base_vlm: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> Self | tuple[Self, dict]:
        """
        Load a LinVT checkpoint and its base.

        Args:
            pretrained_model_name_or_path: repository id or folder.
            config: instead of the checkpoint's own.
            base_vlm: a loaded base to use instead of the one the checkpoint refers to; must be of the same kind.
            kwargs: as in transformers: `dtype`, `device_map`, `attn_implementation`, `quantization_config`, `revision`
                (of the LinVT checkpoint; the base's is in the config), `token`, `output_loading_info` ...

        Raises:
            CheckpointError: weights missing or not fitting, or the base not found. A random base is never put in.
        """
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        source = os.fspath(pretrained_model_name_or_path)
        _refuse_meta_device(source)
        if os.path.isdir(source):  # by its whole name, so that an adapter that is trained on it finds it from anywhere
            pretrained_model_name_or_path = source = os.path.abspath(source)
            if finish_saving(source) and getattr(config, "name_or_path", None) == source:
                config = None  # it was read before the save was finished
        if config is None and (lora := _adapter_alone(source, hub_arguments)) is not None:
            kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
            adapter_kwargs = {**hub_arguments, "_adapter_model_path": source}
            return cls.from_pretrained(lora, *model_args, base_vlm=base_vlm, adapter_kwargs=adapter_kwargs, **kwargs)
        # Code that came with a checkpoint may be loaded twice, so the class of the config may be a twin of ours.
        if not isinstance(config, PreTrainedConfig):
            config = _read_config(config or pretrained_model_name_or_path, hub_arguments)
        for name in LINVT_FIELDS & kwargs.keys():  # as in transformers, a field may be given instead of the saved one
            setattr(config, name, kwargs.pop(name))
        check_subfolder(config.adapter_subfolder, source)
        files = _weight_files(source, hub_arguments)
        generation_config = _read_generation_config(source, hub_arguments)
        if config.includes_base and base_vlm is None:
            return cls._load_whole(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        output_loading_info = kwargs.pop("output_loading_info", False)
        adapter_kwargs = dict(kwargs.pop("adapter_kwargs", None) or {})
        adapter_path = adapter_kwargs.pop("_adapter_model_path", None)
        for name in {*HUB_ARGUMENTS} - {"cache_dir", "local_files_only", "proxies", "token", "force_download"}:
            kwargs.pop(name, None)
        state_dict = _read_linvt_weights(source, files)
        if is_referenced := base_vlm is None:
            base_vlm = cls._load_referenced_base(config, source, kwargs)
        _check_same_kind(base_vlm, config)
        config.base_config = base_vlm.config
        model = cls(config, base_vlm=base_vlm)
        model._place_linvt()
        model._base_as_loaded = fingerprint_loaded(base_vlm, kwargs) if is_referenced else None
        model._load_linvt_weights(state_dict, source)
        model.name_or_path = config.name_or_path = source
        model._linvt_as_loaded = fingerprint_weights(model.linvt)
        model._base_folder = base_location(config.base_model_name_or_path, source)
        if generation_config is not None:
            model.generation_config = generation_config
        if adapter_path is not None:  # an adapter trained on from the checkpoint's own, which it replaces
            config.adapter_subfolder = None
            model.load_adapter(os.fspath(adapter_path), adapter_kwargs=adapter_kwargs)
        model._load_own_adapter(pretrained_model_name_or_path, hub_arguments)
        model.eval()
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if output_loading_info else model

    @classmethod
    def _load_whole(cls, path: str | os.PathLike, *model_args: Any, **kwargs: Any) -> Any:
        """A checkpoint that holds its base: transformers does it all; only the freezing has to be done again."""
        wants_info = kwargs.pop("output_loading_info", False)
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        try:
            loaded: Any = super().from_pretrained(path, *model_args, output_loading_info=True, **kwargs)
            model, info = loaded
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"The weights in {os.fspath(path)!r} cannot be loaded: {error} Save or download the checkpoint again."
            ) from error
        if info["missing_keys"]:
            raise CheckpointError(
                f"{os.fspath(path)!r} says that it holds its base, but {len(info['missing_keys'])} weights are "
                f"missing, such as {sorted(info['missing_keys'])[0]!r}. Save it again with include_base=True."
            )
        model.model.freeze_base()
        _check_finite(dict(model.linvt.named_parameters()), os.fspath(path))
        model.linvt.to(model.base_vlm.dtype)  # float32 beside a base in float16, see _keep_in_fp32_modules
        model._linvt_as_loaded = fingerprint_weights(model.linvt)
        if not model._hf_peft_config_loaded:
            model._load_own_adapter(path, hub_arguments)
        return (model, info) if wants_info else model

    def load_adapter(self, peft_model_id: str | None = None, adapter_name: str | None = None, **kwargs: Any) -> Any:
        """As in transformers, read by PEFT's own rules, which know what DoRA adds ([`put_adapter`])."""
        in_memory = [kwargs.get(name) for name in ("peft_config", "adapter_state_dict")]
        wants_swap = kwargs.get("hotswap", False) is True or getattr(self, "_hotswap_enabled", False)
        if peft_model_id is not None and in_memory == [None, None] and not wants_swap:
            return put_adapter(
                self,
                peft_model_id,
                adapter_name or "default",
                is_trainable=kwargs.get("is_trainable", False),
                hub_arguments={**kwargs, **(kwargs.get("adapter_kwargs") or {})},
            )
        conversions = getattr(self, "_weight_conversions", None)
        report = super().load_adapter(peft_model_id, adapter_name, **kwargs)
        # transformers 5.23 leaves those of the adapter's file behind, and would save every weight under such a name
        self._weight_conversions = conversions
        return report

    def _load_own_adapter(self, path: str | os.PathLike, hub_arguments: Mapping[str, Any]) -> None:
        """Put the LoRA adapter in `config.adapter_subfolder` of a checkpoint, if it has one, onto the base."""
        if not self.config.adapter_subfolder:
            return
        subfolder = "/".join(filter(None, (hub_arguments.get("subfolder"), self.config.adapter_subfolder)))
        try:
            report = self.load_adapter(os.fspath(path), adapter_kwargs={**hub_arguments, "subfolder": subfolder})
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError, KeyError) as error:
            raise CheckpointError(
                f"{os.fspath(path)!r} says that it has an adapter in {subfolder!r}, which cannot be loaded: {error} "
                "Save or download the checkpoint again, or load it without: from_pretrained(..., "
                "adapter_subfolder=None)."
            ) from error
        if wrong := sorted([*report.missing_keys, *report.unexpected_keys]):
            raise CheckpointError(
                f"The adapter in {subfolder!r} of {os.fspath(path)!r} does not fit the base: {len(wrong)} weights are "
                f"missing or unexpected, such as {wrong[0]!r}. Was it trained on another base?"
            )
        lora = {name: weight for name, weight in self.base_vlm.named_parameters() if ".lora_" in name}
        _check_finite(lora, os.path.join(os.fspath(path), subfolder))

    @classmethod
    def _load_referenced_base(cls, config: LinVTConfig, checkpoint: str, kwargs: dict[str, Any]) -> PreTrainedModel:
        """The base a checkpoint refers to, with the caller's loading arguments."""
        name = base_location(config.base_model_name_or_path, checkpoint)
        if not name:
            raise CheckpointError(
                "The checkpoint holds LinVT's weights only and does not say which base they belong to "
                "(base_model_name_or_path is empty). Pass the base with base_vlm=..."
            )
        if _is_linvt(name):
            raise CheckpointError(
                f"The base of {checkpoint!r} is said to be {name!r}, which holds a LinVT itself. Set "
                "base_model_name_or_path in config.json to the image-text model, or pass it with base_vlm=..."
            )
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("_")}
        if isinstance(device_map := kwargs.get("device_map"), Mapping):  # in our names, or already in the base's
            kwargs["device_map"] = {
                f"{key}.".removeprefix(BASE_PREFIX).rstrip("."): place
                for key, place in device_map.items()
                if not f"{key}.".startswith(LINVT_PREFIX)
            }
        if config.dtype is not None and kwargs.get("dtype", "auto") == "auto":  # as it was when it was saved
            kwargs["dtype"] = config.dtype
        if config._attn_implementation is not None:  # Auto classes move the argument into the config
            kwargs.setdefault("attn_implementation", config._attn_implementation)
        return _bridge_to(config).load(name, revision=config.base_revision, **kwargs)

    def _load_linvt_weights(self, state_dict: dict[str, torch.Tensor], path: str) -> None:
        own = {f"{LINVT_PREFIX}{name}": value for name, value in self.linvt.state_dict().items()}
        missing = sorted(own.keys() - state_dict.keys())
        wrong = sorted(name for name in own.keys() & state_dict.keys() if own[name].shape != state_dict[name].shape)
        unexpected = sorted(state_dict.keys() - own.keys())
        if missing or wrong or unexpected:
            raise CheckpointError(
                f"The LinVT weights in {path!r} do not fit its config: {len(missing)} missing {missing[:2]}, "
                f"{len(wrong)} of another shape {wrong[:2]}, {len(unexpected)} unexpected {unexpected[:2]}."
            )
        _check_finite(state_dict, path)
        self.linvt.load_state_dict({name.removeprefix(LINVT_PREFIX): value for name, value in state_dict.items()})


def _bridge_of_model(base: Any) -> BaseBridge:
    """The bridge to a loaded model, whatever it is: what is no base is refused by the common one."""
    return bridge_of(getattr(getattr(base, "config", None), "model_type", ""))


def _bridge_to(config: LinVTConfig) -> BaseBridge:
    """The bridge to the base that a config describes."""
    return bridge_of(getattr(config.base_config, "model_type", ""))


def _check_same_kind(base: PreTrainedModel, config: LinVTConfig) -> None:
    """Refuse a base that is not of the kind the checkpoint was made with."""
    found, saved = base.config, config.base_config
    for what, of in (
        ("architecture", lambda one: one.model_type),
        ("width", lambda one: one.get_text_config().hidden_size),
        ("vocabulary", lambda one: one.get_text_config().vocab_size),
    ):
        if of(found) != of(saved):
            raise CheckpointError(
                f"The base {base.name_or_path!r} is not the one this checkpoint was made with: its {what} is "
                f"{of(found)}, not {of(saved)}. Put the right base there, pass it with base_vlm=..., or, if you "
                "changed the base, save with include_base=True."
            )


def _commit_of(name: str, kwargs: Mapping[str, Any]) -> str | None:
    """The commit a repository stands at, so that the checkpoint keeps meaning the same base; None for folders."""
    if os.path.isdir(name):
        return None
    where = {key: kwargs[key] for key in ("token", "local_files_only", "cache_dir") if key in kwargs}
    revision = resolve_revision(name, kwargs.get("revision"), **where)
    return getattr(revision, "resolved", None) or kwargs.get("revision")


def _adapter_alone(path: str, hub_arguments: Mapping[str, Any]) -> str | None:
    """The LinVT checkpoint that a folder with nothing but an adapter belongs to; None where there is more, or none."""
    adapter = find_adapter_config_file(path, **hub_arguments)
    if adapter is None or _find(path, CONFIG_NAME, hub_arguments) is not None:
        return None
    try:
        name = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{adapter!r} cannot be read: {first_line(error)}. Save the adapter again.") from error
    if not name or not isinstance(name, str):
        raise CheckpointError(
            f"{path!r} holds an adapter alone and does not say of which LinVT checkpoint (base_model_name_or_path in "
            "adapter_config.json). Load that checkpoint, then model.load_adapter(...)."
        )
    return name


def _find(path: str, name: str, hub_arguments: Mapping[str, Any]) -> str | None:
    """The path of a file of the checkpoint, fetched if need be; None where it has none."""
    return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub_arguments)


def _is_linvt(name: str) -> bool:
    """Whether a folder holds a LinVT, which no base can be: a checkpoint that is its own base would load for ever."""
    try:
        settings = json.loads(Path(name, CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.get("model_type") == LinVTConfig.model_type


def _check_finite(weights: Mapping[str, torch.Tensor], path: str) -> None:
    """Refuse weights that are no numbers: the model would answer nothing, without a word."""
    wrong = [name for name, value in weights.items() if not value.is_meta and not bool(value.isfinite().all())]
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} weights in {path!r} hold NaN or infinity, such as {wrong[0]!r}: a training that diverged, "
            "or a damaged file. Take an earlier checkpoint."
        )


def _read_generation_config(path: str, hub_arguments: Mapping[str, Any]) -> GenerationConfig | None:
    """The settings of generation in a checkpoint; None where it has none, and the base's hold."""
    if _find(path, GENERATION_CONFIG_NAME, hub_arguments) is None:
        return None
    try:
        return GenerationConfig.from_pretrained(path, **hub_arguments)
    except Exception as error:  # of any JSON, or of values that no generation has
        raise CheckpointError(
            f"The {GENERATION_CONFIG_NAME} of {path!r} cannot be used: {first_line(error)}. Mend or remove the file."
        ) from error


def _refuse_meta_device(source: str) -> None:
    if torch.empty(0).device.type == "meta":  # torch 2.6's get_default_device overlooks a `with`
        raise CheckpointError(
            f"{source!r} cannot be loaded where the default device is 'meta', which holds no weights. Load it "
            "outside of torch.device('meta'); an empty model is LinVTForVideoQA(config)."
        )


def _read_config(path: str | os.PathLike, hub_arguments: dict[str, Any]) -> LinVTConfig:
    """The config of a LinVT checkpoint; that of another model is refused."""
    try:
        settings, _ = LinVTConfig.get_config_dict(path, **hub_arguments)
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)!r} has no readable config.json: {error}") from error
    except Exception as error:  # of any JSON that is no config
        raise CheckpointError(f"The config.json of {os.fspath(path)!r} cannot be read: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"The config.json of {os.fspath(path)!r} holds no settings but {shown(settings)}.")
    if (found := settings.get("model_type")) is None:
        raise CheckpointError(f"{os.fspath(path)!r} has no config.json that names a model. Is it a checkpoint?")
    if found != LinVTConfig.model_type:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a {found} model, no LinVT checkpoint. Put LinVT around it with "
            "LinVTForVideoQA.from_base."
        )
    try:
        return LinVTConfig.from_dict(settings)
    except LinVTInputError as error:
        raise CheckpointError(f"The config.json of {os.fspath(path)!r} does not work: {error}") from error


def _weight_files(path: str, hub_arguments: dict[str, Any]) -> dict[str, str]:
    """
    Where the weights of a checkpoint lie: its file, or its shards by the names that stand in the index.

    Raises:
        CheckpointError: no weights, an index that cannot be read, or one that leads out of the checkpoint.
    """
    missing = CheckpointError(
        f"{path!r} has no LinVT weights ({SAFE_WEIGHTS_NAME}). Is it a LinVT checkpoint, and was it saved or "
        "downloaded to the end?"
    )
    if (single := _find(path, SAFE_WEIGHTS_NAME, hub_arguments)) is not None:
        return {SAFE_WEIGHTS_NAME: single}
    if (index := _find(path, SAFE_WEIGHTS_INDEX_NAME, hub_arguments)) is None:
        raise missing
    try:
        weight_map = dict(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
        names = sorted({file for name, file in weight_map.items() if name.startswith(LINVT_PREFIX)})
        outside = [file for file in weight_map.values() if re.search(r"[/\\:]", file)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index!r} is no index of weights: {first_line(error)}. Download or save the checkpoint again."
        ) from error
    if outside:
        raise CheckpointError(
            f"{index!r} names {shown(outside[0])}, which is no file of the checkpoint. Do not trust where it is from."
        )
    found = {name: _find(path, name, hub_arguments) for name in names}
    files = {name: file for name, file in found.items() if file is not None}
    if not files or len(files) < len(found):
        raise missing
    return files


def _read_linvt_weights(path: str, files: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The weights below `model.linvt.` of a checkpoint, whole or in shards."""
    state_dict: dict[str, torch.Tensor] = {}
    for file in files.values():
        try:
            state_dict.update(load_file(file))
        except Exception as error:  # safetensors raises its own kinds for damaged files
            raise CheckpointError(f"{file!r} is damaged: {error}. Download or save the checkpoint again.") from error
    return {name: value for name, value in state_dict.items() if name.startswith(LINVT_PREFIX)}
