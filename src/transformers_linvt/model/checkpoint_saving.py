"""Saving a model with LinVT: its own weights and a reference to the base, or everything; the adapter; the Hub."""

import contextlib
import copy
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, logging

from ..bases.fingerprint import Fingerprint, changed_weights
from ..errors import CheckpointError, first_line
from ..remote_code import write_code
from .adapter_files import ADAPTER_SUBFOLDER, adapter_weights, is_of_base
from .base_reference import reference_from, will_outlive
from .model_card import card_for_upload, is_local, make_card
from .pretrained import LINVT_PREFIX, LinVTPreTrainedModel, check_subfolder
from .whole_folder import saved_as_one


logger = logging.get_logger(__name__)

_PUSH_ARGUMENTS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


class SavesCheckpoints(LinVTPreTrainedModel):
    """How [`LinVTForVideoQA`] is saved and pushed."""

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing: a checkpoint gets its code from [`write_code`], and transformers would write it once more."""

    _base_as_loaded: dict[str, Fingerprint] | None
    _linvt_as_loaded: dict[str, Fingerprint] | None
    _base_folder: str | None

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        include_base: bool | None = None,
        state_dict: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Save LinVT's weights and a reference to the base, or with `include_base=True` everything.

        Args:
            save_directory: folder, made if missing.
            include_base: write the base's weights too, so that the checkpoint needs nothing else. Do this when the
                base has no name to load it by. By default as the checkpoint had it that this model was loaded from,
                and False for a new model; and True, with a warning, where the base was changed (a merged adapter).
            state_dict: weights to save instead of the model's own.
            kwargs: see [`PreTrainedModel.save_pretrained`].

        A model with `config.adapter_subfolder` is saved with its LoRA adapter in that folder. Without, an adapter that
        was added (`add_adapter`, `load_adapter`) is saved alone, as transformers does it, if LinVT is still that of
        the checkpoint it was loaded from; else both are saved, with a warning. Whatever happens while it is written
        (a killed process, a full disk), the folder holds the checkpoint it held before or the new one, whole.

        Raises:
            CheckpointError: a reference is wanted and the base has no name, may be another one than the name stands
                for, or was changed; the whole is wanted and the base is quantised; or the folder cannot be written.
        """
        if os.path.isfile(save_directory):
            raise CheckpointError(f"{os.fspath(save_directory)!r} is a file. Name a folder to save into.")
        if self._would_lose_linvt():
            logger.warning(
                "LinVT has changed since it was loaded, or was in no checkpoint yet, and an adapter alone would lose "
                f"it: LinVT is saved with the adapter in {ADAPTER_SUBFOLDER}/."
            )
            with _temporarily(self.config, {"adapter_subfolder": ADAPTER_SUBFOLDER}):
                return self.save_pretrained(save_directory, include_base, state_dict, **kwargs)
        check_subfolder(self.config.adapter_subfolder, os.fspath(save_directory))
        push = {name: kwargs.pop(name) for name in ("push_to_hub", "repo_id", *_PUSH_ARGUMENTS) if name in kwargs}
        wants_push, is_main_process = push.pop("push_to_hub", False), kwargs.get("is_main_process", True)
        is_adapter_alone = self._hf_peft_config_loaded and not self.config.adapter_subfolder
        holds_base = bool(include_base) if is_adapter_alone else self.check_can_be_saved(include_base)
        if wants_push:
            self.check_can_be_pushed(holds_base)
        weights = dict(state_dict or self.state_dict())
        # The other processes of a training take part in gathering the weights and write none of the common files.
        whole = saved_as_one(save_directory) if is_main_process else contextlib.nullcontext(save_directory)
        try:
            with whole as folder:
                if is_adapter_alone:
                    super().save_pretrained(folder, state_dict=state_dict, **kwargs)
                else:
                    self._save_into(folder, os.fspath(save_directory), holds_base, weights, kwargs)
        except (OSError, SafetensorError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"The checkpoint cannot be saved into {os.fspath(save_directory)!r}: {first_line(error)}. What was "
                "there before is still there. Is there enough space, and may you write there?"
            ) from error
        if wants_push and is_main_process:
            repo_id = push.pop("repo_id", None) or Path(save_directory).absolute().name
            self.push_to_hub(repo_id, include_base=include_base, **push)

    def _would_lose_linvt(self) -> bool:
        """
        Whether an adapter that transformers would save alone leaves a LinVT behind that is nowhere else.

        Raises:
            CheckpointError: it would, and a checkpoint cannot hold an adapter of this kind beside LinVT.
        """
        if not self._hf_peft_config_loaded or self.config.adapter_subfolder:
            return False
        adapters = self.peft_config.values()
        if any("linvt" in (getattr(one, "modules_to_save", None) or ()) for one in adapters):
            return False  # it is part of the adapter
        if self._linvt_as_loaded is not None and not changed_weights(self.linvt, self._linvt_as_loaded):
            return False
        if kinds := sorted({str(getattr(one.peft_type, "value", one.peft_type)) for one in adapters} - {"LORA"}):
            raise CheckpointError(
                f"The adapter ({', '.join(kinds)}) would be saved alone, and LinVT has changed since it was loaded, "
                "or was in no checkpoint yet, so it would be lost. Save LinVT first, without the adapter, and add the "
                "adapter to what you load from there."
            )
        return True

    def _save_into(
        self,
        folder: str | os.PathLike,
        save_directory: str,
        include_base: bool,
        trained: dict[str, torch.Tensor],
        kwargs: dict[str, Any],
    ) -> None:
        """Write the checkpoint that will lie in `save_directory` into another folder."""
        subfolder, peft_config = self.config.adapter_subfolder, getattr(self, "peft_config", None)
        adapter_name = _only_adapter(peft_config) if subfolder and peft_config else None
        state_dict = _without_peft(trained) if peft_config else trained
        if not include_base:
            state_dict = {name: value for name, value in state_dict.items() if LINVT_PREFIX in name}
        saved_as = {
            "includes_base": include_base,
            "adapter_subfolder": subfolder if adapter_name else None,
            "base_model_name_or_path": reference_from(
                save_directory, self.config.base_model_name_or_path, self._base_folder
            ),
        }
        if not include_base and will_outlive(save_directory, saved_as["base_model_name_or_path"]):
            logger.warning(
                f"The checkpoint refers to its base in {saved_as['base_model_name_or_path']!r}, which is a place for "
                "temporary files, and cannot be loaded when that is gone. Move the base and wrap it from there, or "
                "save with include_base=True."
            )
        with _temporarily(self.config, saved_as), _temporarily(self, {"_hf_peft_config_loaded": False}):
            super().save_pretrained(folder, state_dict=state_dict, **kwargs)
            if not kwargs.get("is_main_process", True):
                return
            write_code(folder)
            if not (Path(save_directory) / "README.md").exists():
                make_card(self.config).save(Path(folder) / "README.md")
        if adapter_name and subfolder:
            self._save_adapter(os.path.join(folder, subfolder), adapter_name, trained)

    def check_can_be_saved(self, include_base: bool | None = None) -> bool:
        """
        Refuse what a checkpoint could not bring back. Worth asking before a training and not only after it.

        Args:
            include_base: as [`save_pretrained`] is going to be called.

        Returns:
            Whether the checkpoint will hold the base.

        Raises:
            CheckpointError: see [`save_pretrained`].
        """
        wants_base = self.config.includes_base if include_base is None else include_base
        changed = [] if wants_base else self._changed_weights()
        if changed and include_base is None and not getattr(self, "peft_config", None):
            logger.warning(
                f"{len(changed)} weights of the base have changed since it was loaded, such as {changed[0]!r} (a "
                "merged adapter, or training), so the checkpoint holds the base as well (include_base=True)."
            )
            wants_base = True
        if wants_base:
            self._check_base_can_be_written()
        else:
            self._check_reference(changed)
        return wants_base

    def check_can_be_pushed(self, include_base: bool | None = None) -> None:
        """
        Refuse to push what nobody else could load: LinVT's weights with a reference to a folder of this machine.

        Raises:
            CheckpointError: the base is a local folder and would not be part of the checkpoint.
        """
        include_base = self.config.includes_base if include_base is None else include_base
        is_adapter_alone = self._hf_peft_config_loaded and not self.config.adapter_subfolder
        if is_adapter_alone and is_local(self.name_or_path):
            raise CheckpointError(
                f"Only the adapter would be pushed, and it belongs to the local folder {self.name_or_path!r}. Merge "
                "it and push with include_base=True."
            )
        if not (include_base or is_adapter_alone) and is_local(self.config.base_model_name_or_path):
            raise CheckpointError(
                f"The base of this model is the local folder {self.config.base_model_name_or_path!r}, which nobody "
                "else has. Push with include_base=True; or push the base first, and set "
                "config.base_model_name_or_path to its repository."
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_base: bool | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> CommitInfo:
        """
        Upload the checkpoint, with its adapter if it has one, and a model card. The processor has its own push_to_hub.

        A push that was interrupted is repeated: what the Hub has already is not sent again.

        Args:
            repo_id: `"name"` or `"organisation/name"`; made if missing.
            include_base: see [`save_pretrained`].
            revision: branch to push to, made if missing.
            tags: more tags for the model card.

        Raises:
            CheckpointError: the base is a local folder and would not be part of it (nothing is uploaded then), or the
                Hub refused the token.
        """
        self.check_can_be_pushed(include_base)
        api = HfApi(token=token)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not revision.startswith("refs/pr"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder, include_base=include_base, max_shard_size=max_shard_size)
                saved = self.config.from_pretrained(folder) if os.path.exists(f"{folder}/config.json") else self.config
                card_for_upload(saved, repo_id, tags, token).save(os.path.join(folder, "README.md"))
                return api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message or "Upload LinVT",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )
        except HfHubHTTPError as error:
            raise token_refused(error, repo_id) from error

    def _save_adapter(self, folder: str, adapter_name: str, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the LoRA weights in PEFT's own format, without the copy of LinVT that PEFT may train beside them."""
        weights = adapter_weights(self, adapter_name, state_dict)
        config: Any = copy.copy(self.peft_config[adapter_name])
        # Whole names: PEFT shortens them to endings that are unambiguous only beside the modules of today.
        config.target_modules = sorted({name.split(".lora_")[0] for name in weights if ".lora_" in name})
        config.modules_to_save = [name for name in config.modules_to_save or () if name != "linvt"] or None
        config.base_model_name_or_path = None  # the checkpoint it lies in
        config.inference_mode = True
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True  # the weights are here; another start (PiSSA) would change the base again
        config.save_pretrained(folder)
        weights = {
            f"base_model.model.{name}": value.detach().contiguous().cpu()
            for name, value in weights.items()
            if LINVT_PREFIX not in name and not is_of_base(name)
        }
        save_file(weights, os.path.join(folder, ADAPTER_SAFE_WEIGHTS_NAME), metadata={"format": "pt"})

    def _changed_weights(self) -> list[str]:
        """Names of the base's weights that are not what its name stands for; none where that is not known."""
        return changed_weights(self.base_vlm, self._base_as_loaded) if self._base_as_loaded is not None else []

    def _check_reference(self, changed: Sequence[str]) -> None:
        """Whether a reference to the base is enough to get this model back."""
        if not self.config.base_model_name_or_path:
            raise CheckpointError(
                "The base of this model has no name to load it by again (it was built in memory). Save with "
                "include_base=True, or set config.base_model_name_or_path."
            )
        if self._base_as_loaded is None:
            raise CheckpointError(
                "The base came as a loaded model or out of a checkpoint that holds it, so it may not be what "
                f"{self.config.base_model_name_or_path!r} stands for, and a reference could lose it. Save with "
                "include_base=True; or say where it is: from_base(base, base_model_name_or_path=...)."
            )
        if changed:
            raise CheckpointError(
                f"{len(changed)} weights of the base have changed since it was loaded, such as {changed[0]!r} (a "
                "merged adapter, or training); a reference to it would lose that. Save with include_base=True."
            )

    def _check_base_can_be_written(self) -> None:
        """Whether a checkpoint can hold this base: not one whose code comes with it, nor most that were quantised."""
        model_type = getattr(self.config.base_config, "model_type", None)
        if not self.model.bridge.can_be_included:
            raise CheckpointError(
                f"The weights of this base ({model_type}) would not load again from a checkpoint that holds them. "
                "Save a reference to the base: include_base=False."
            )
        if model_type not in CONFIG_MAPPING:
            raise CheckpointError(
                f"The code of the base ({model_type}) comes with its weights and not with transformers, so a "
                "checkpoint that holds the weights alone could not be loaded. Save a reference to the base "
                "(include_base=False, the default of from_base)."
            )
        quantizer = getattr(self, "hf_quantizer", None)  # of a checkpoint that held its base and was quantised itself
        if quantizer is None:
            cannot = getattr(self.base_vlm, "is_quantized", False)
        else:  # its state dict is the one that is written, with the names that PEFT gives
            cannot = not quantizer.is_serializable() or bool(getattr(self, "peft_config", None))
        if cannot:
            raise CheckpointError(
                "The base is quantised, and its quantised weights would not come back from the checkpoint. Save a "
                "reference to the base (include_base=False, the default of from_base) and pass quantization_config "
                "to from_pretrained; or load the model without quantization_config and save that."
            )


def token_refused(error: HfHubHTTPError, repo_id: str) -> Exception:
    """An error of the Hub's in words if it refused a token, else the same error."""
    if getattr(error.response, "status_code", None) not in (401, 403):
        return error
    return CheckpointError(
        f"The Hub does not let this token write to {repo_id!r}: {error}. Log in with `hf auth login`, or pass "
        "token=... of a token with write access to that account or organisation."
    )


@contextlib.contextmanager
def _temporarily(thing: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Attributes of an object for as long as the block lasts."""
    before = {name: getattr(thing, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


def _only_adapter(peft_config: Mapping[str, Any]) -> str:
    """The name of the one adapter a checkpoint can hold."""
    if len(peft_config) != 1:
        raise CheckpointError(
            f"The model has {len(peft_config)} adapters ({', '.join(peft_config)}); a checkpoint holds one. Merge or "
            "delete the others."
        )
    return next(iter(peft_config))


def _without_peft(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as it would be without PEFT: no LoRA, and of a module that PEFT trained the trained copy."""
    plain: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if ".lora_" in name:
            continue
        if ".original_module." in name:
            plain.setdefault(name.replace(".original_module.", "."), value)
        else:
            plain[re.sub(r"\.modules_to_save\.[^.]+\.", ".", name).replace(".base_layer.", ".")] = value
    return plain
