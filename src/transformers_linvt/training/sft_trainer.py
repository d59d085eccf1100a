"""
The next-token trainer: TRL's `SFTTrainer` with what a LinVT needs and what is easily forgotten already set.
"""

import json
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel, PeftType
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from ..errors import CheckpointError, LinVTInputError, VideoReadError
from ..model.checkpoint_saving import token_refused
from ..model.modeling_linvt import LinVTForVideoQA
from ..model.processing_linvt import LinVTProcessor
from . import card as training_card
from .collator import BOOKKEEPING_KEYS, LinVTDataCollator
from .data import check_dataset
from .lora import save_instructed, unwrap
from .stages import apply_stage, find_stage


logger = logging.get_logger(__name__)

_LINVT_PARAMETER = re.compile(r"(^|\.)linvt\.")
_SCORER_PARAMETER = re.compile(r"(^|\.)linvt\.(modules_to_save\.[^.]+\.)?scorer\.")
_LEAST_VIDEOS_TO_JUDGE = 32  # a share of fewer says little
_MOST_NAMES = 20


@dataclass
class LinVTSFTConfig(SFTConfig):
    """
    Arguments of [`LinVTSFTTrainer`]: those of TRL's [`~trl.SFTConfig`], with other defaults, and some of its own.

    Set and not to be changed: `remove_unused_columns=False` and `skip_prepare_dataset` (the collator takes the
    examples as they are), no packing, and `hub_strategy="end"` (checkpoints in between hold pickles). Other defaults:
    `max_length=None` (TRL's 1,024 would cut videos), bfloat16 and activation checkpointing only where there is a GPU,
    and `router_aux_loss_coef=0.0`: the routers of a mixture of experts are frozen, and that loss would ask LinVT to
    spread their load.

    Args:
        stage (`str`, defaults to `"instruct"`): which parameters move, see `STAGES`.
        num_frames (`int`, *optional*): frames per video, spread evenly; the processor's own by default.
        fps (`float`, *optional*): frames per second instead; `max_frames` is the most.
        max_frames (`int`, *optional*): see `fps`.
        video_backend (`str`, defaults to `"auto"`): `"pyav"`, `"decord"` or `"torchcodec"`.
        video_root (`str`, *optional*): folder that relative paths of videos start from.
        max_unreadable_share (`float`, defaults to 0.05): stop when more than this share of the videos was unreadable.
        linvt_learning_rate (`float`, *optional*): of LinVT; `learning_rate` by default, which is LoRA's.
        scorer_learning_rate (`float`, *optional*): of SVR's scorer; that of LinVT by default.
    """

    max_length: int | None = field(default=None, metadata={"help": "Most tokens of an example; only answers are cut."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute activations in the backward pass. By default where there is a GPU."}
    )
    hub_strategy: str = field(default="end", metadata={"help": "Only 'end': checkpoints in between stay here."})
    router_aux_loss_coef: float | None = field(
        default=0.0, metadata={"help": "Weight of the load-balancing loss of a mixture of experts."}
    )
    stage: str = field(default="instruct", metadata={"help": "Which parameters move: align, instruct or linvt."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames per video, spread evenly."})
    fps: float | None = field(default=None, metadata={"help": "Frames per second, instead of num_frames."})
    max_frames: int | None = field(default=None, metadata={"help": "Most frames per video with fps."})
    video_backend: str = field(default="auto", metadata={"help": "auto, pyav, decord or torchcodec."})
    video_root: str | None = field(default=None, metadata={"help": "Folder that relative video paths start from."})
    max_unreadable_share: float = field(
        default=0.05, metadata={"help": "Stop when more than this share of the videos was unreadable."}
    )
    linvt_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of LinVT; learning_rate by default."}
    )
    scorer_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the scorer (SVR); that of LinVT by default."}
    )

    def __post_init__(self) -> None:
        """Set what has to be set; refuse what cannot work."""
        has_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported() and not self.fp16
        if self.activation_checkpointing is None:  # transformers' new name for what TRL still calls by the old one
            asked = self.gradient_checkpointing
            self.activation_checkpointing = has_gpu if asked is None else asked
        self.remove_unused_columns = False
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        find_stage(self.stage)
        if self.packing or self.padding_free:
            raise LinVTInputError(
                "packing and padding_free do not go together with videos: every example has its own frames. Leave "
                "them off."
            )
        if not 0 <= self.max_unreadable_share <= 1:
            raise LinVTInputError(f"max_unreadable_share={self.max_unreadable_share} must lie between 0 and 1.")
        if self.num_frames is not None and self.fps is not None:
            raise LinVTInputError("num_frames and fps are alternatives. Give one of them.")
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise LinVTInputError(
                f"hub_strategy={self.hub_strategy.value!r}: the state of the optimiser is a pickle, and only "
                "safetensors are pushed. Leave hub_strategy='end' and push when training is done."
            )


class LinVTSFTTrainer(SFTTrainer):
    """
    Trains a LinVT with the next-token loss of the answers, with or without LoRA.

    Before the first step it checks the dataset ([`check_dataset`]) and that model and processor belong together, lets
    the parameters of the stage move and no others, and gives LinVT a learning rate of its own if asked to. The log has
    TRL's figures, and `unreadable_videos` (so far), `unreadable_share`, `frames_per_video` and `tokens_per_video`.

    Args:
        model ([`LinVTForVideoQA`] or [`~peft.PeftModel`]): loaded; for LoRA pass `peft_config=lora_config(model)`.
        args ([`LinVTSFTConfig`], *optional*).
        train_dataset, eval_dataset: rows in a format of [`parse_example`]; see [`load_video_dataset`].
        processing_class ([`LinVTProcessor`]): of the model.
        data_collator (*optional*): [`LinVTDataCollator`] with the arguments' sampling by default.
        kwargs: as in [`~trl.SFTTrainer`].

    Raises:
        `LinVTInputError`, `VideoReadError`: what cannot be trained on; see [`check_dataset`].

    Example:

    >>> trainer = LinVTSFTTrainer(model, LinVTSFTConfig("out"), train_dataset=dataset)  # doctest: +SKIP
    """

    _tag_names = ["trl", "sft", "linvt"]
    _name = "LinVT SFT"

    def __init__(
        self,
        model: Any,
        args: LinVTSFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: LinVTProcessor | None = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else LinVTSFTConfig(output_dir="linvt-sft")
        if not isinstance(args, LinVTSFTConfig):
            raise LinVTInputError(f"args must be a LinVTSFTConfig, not a {type(args).__name__}.")
        inner = unwrap(model)
        if getattr(inner, "peft_config", None) and not isinstance(model, PeftModel):
            raise LinVTInputError(
                "The model was loaded with its adapter, which would be replaced by a new one or not be saved "
                "to resume from. Load it with load_for_training(...), and pass no peft_config."
            )
        if args.push_to_hub:
            inner.check_can_be_pushed()  # now and not after hours of training
        if processing_class is None:
            processing_class = LinVTProcessor.from_pretrained(inner.config.name_or_path)
        check_agreement(inner, processing_class)
        if train_dataset is None:
            raise LinVTInputError("There is no train_dataset.")
        for dataset in (train_dataset, *_datasets_of(eval_dataset)):
            check_dataset(dataset, args.video_root, args.max_unreadable_share)
        if data_collator is None:
            data_collator = self.make_collator(args, processing_class)
        inner.linvt.float()  # before PEFT copies it: small updates are lost in half precision
        self.unreadable: deque[str] = deque(maxlen=_MOST_NAMES)
        self.num_unreadable, self.num_videos = 0, 0
        # TRL asks for a chat template that it knows; here the collator, which is made already, finds the answers
        assistant_only_loss, args.assistant_only_loss = args.assistant_only_loss, False
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
            **kwargs,
        )
        args.assistant_only_loss = assistant_only_loss
        # Whatever the base's own forward takes: the loss is computed and divided outside of it. Without, the loss of
        # accumulated batches would be a mean of means, in which a word of a short answer counts more.
        self.model_accepts_loss_kwargs = True
        self.parameter_counts = apply_stage(self.model, args.stage)

    def make_collator(self, args: LinVTSFTConfig, processor: LinVTProcessor) -> LinVTDataCollator:
        """The collator that the arguments describe."""
        return LinVTDataCollator(
            processor,
            max_length=args.max_length,
            num_frames=args.num_frames,
            fps=args.fps,
            max_frames=args.max_frames,
            video_backend=args.video_backend,
            video_root=args.video_root,
            completion_only_loss=args.completion_only_loss,
            assistant_only_loss=args.assistant_only_loss,
        )

    # -- optimiser --

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in transformers, with groups of their own for LinVT and its scorer where they have their own rate."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.linvt_learning_rate
        scorer_rate = rate if self.args.scorer_learning_rate is None else self.args.scorer_learning_rate
        if is_new and (rate is not None or scorer_rate is not None):
            names = {id(parameter): name for name, parameter in (model or self.model).named_parameters()}
            _split_group(optimizer, names, _SCORER_PARAMETER, scorer_rate)
            _split_group(optimizer, names, _LINVT_PARAMETER, rate, spare=_SCORER_PARAMETER)
        return optimizer

    # -- steps --

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss; what the batch carries for the trainer is taken out first."""
        self._take_bookkeeping_out(inputs)
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if self.model.training and not loss.requires_grad:  # no video in the batch, and no LoRA
            loss = loss + 0 * sum(one.sum() for one in self.model.parameters() if one.requires_grad)
        return (loss, result[1]) if return_outputs else loss

    def _take_bookkeeping_out(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Remove and return what is not for the model; count videos, and stop when too many are unreadable."""
        taken = {name: inputs.pop(name, None) for name in BOOKKEEPING_KEYS}
        unreadable = taken["unreadable_videos"] or []
        frames = inputs.get("frames_per_video")
        self.unreadable.extend(unreadable)
        device = inputs["input_ids"].device
        counts = torch.tensor([len(unreadable), len(inputs["input_ids"])], device=device)
        bad, seen = self.accelerator.gather(counts).view(-1, 2).sum(0).tolist()
        self.num_unreadable, self.num_videos = self.num_unreadable + bad, self.num_videos + seen
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["unreadable_videos"] = [float(self.num_unreadable)]
        metrics["unreadable_share"] = [self.num_unreadable / self.num_videos]
        if frames is not None and "video_mask" in inputs:
            metrics["frames_per_video"].append(frames.float().mean().item())
            metrics["tokens_per_video"].append(inputs["video_mask"].sum().item() / len(frames))
        if self.num_videos >= _LEAST_VIDEOS_TO_JUDGE:
            self._check_share()
        return taken

    def _check_share(self) -> None:
        if self.num_unreadable > self.args.max_unreadable_share * self.num_videos:
            raise VideoReadError(
                f"{self.num_unreadable} of {self.num_videos} examples had a video that cannot be read, more than "
                f"max_unreadable_share={self.args.max_unreadable_share}. The last of them: "
                f"{', '.join(self.unreadable)}."
            )

    # -- checkpoints --

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """
        As in transformers; `resume_from_checkpoint=True` goes on from the last checkpoint that was written whole.

        Raises:
            `CheckpointError`: there is none, or the one that was named is half-written.
        """
        if resume_from_checkpoint:
            resume_from_checkpoint = find_whole_checkpoint(self.args.output_dir, resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """
        A checkpoint to resume from is transformers' and PEFT's own; the result of training is one that loads as it is.

        The result has no `training_args.bin`: it is a pickle, and what mattered of it stands in the model card.
        """
        folder = output_dir if output_dir is not None else self.args.output_dir
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        kinds = {one.peft_type for one in model.peft_config.values()} if isinstance(model, PeftModel) else set()
        is_to_resume = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", os.path.basename(os.path.normpath(folder)))
        if is_to_resume or kinds - {PeftType.LORA}:
            super()._save(folder, state_dict)
        elif self.args.should_save:
            save = save_instructed if kinds else type(model).save_pretrained
            save(model, folder, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)

    # -- the Hub --

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        As in transformers.

        Raises:
            `CheckpointError`: the Hub refused the token.
        """
        try:
            super().init_hf_repo(token=token, private=private)
        except HfHubHTTPError as error:
            raise token_refused(error, self.args.hub_model_id or self.args.output_dir) from error

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write `README.md`: base, stage, data, settings, figures, how to load it. See [`training.card.create`]."""
        if not self.is_world_process_zero():
            return
        tags = [tags] if isinstance(tags, str) else list(tags or ())
        card = training_card.create(
            self.accelerator.unwrap_model(self.model, keep_torch_compile=False),
            repo_id=self.hub_model_id,
            args=self.args,
            datasets=dataset_name,
            log_history=self.state.log_history,
            tags=[*self._tag_names, *tags],
        )
        os.makedirs(self.args.output_dir, exist_ok=True)
        card.save(os.path.join(self.args.output_dir, "README.md"))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        Save and upload LinVT with its adapter, the processor and a model card, as transformers' trainer does it.

        Raises:
            `CheckpointError`: the base is a folder of this machine, so nobody else could load the result; or the Hub
                refused the token.
        """
        unwrap(self.accelerator.unwrap_model(self.model, keep_torch_compile=False)).check_can_be_pushed()
        try:
            return super().push_to_hub(*args, **kwargs)
        except HfHubHTTPError as error:
            raise token_refused(error, self.hub_model_id) from error


def check_agreement(model: LinVTForVideoQA, processor: Any) -> None:
    """
    Whether a processor makes what a model takes.

    Raises:
        `LinVTInputError`: it is of another base, has another number of video tokens, or no chat template.
    """
    if not isinstance(processor, LinVTProcessor):
        raise LinVTInputError(f"processing_class must be a LinVTProcessor, not a {type(processor).__name__}.")
    processor.check_fits(model.config)
    if processor.chat_template is None:
        raise LinVTInputError(
            "The base has no chat template, so it is not known how a question is asked. Set processor.chat_template, "
            "or train from a base that was tuned to chat."
        )


def find_whole_checkpoint(output_dir: str, wanted: str | bool) -> str:
    """
    The checkpoint to go on from.

    A checkpoint's `trainer_state.json` is written last: without it, or with half of it, the checkpoint is half-written
    (the run was killed while saving).

    Args:
        output_dir: where the run saves.
        wanted: a folder, or `True` for the last whole checkpoint of `output_dir`.

    Raises:
        `CheckpointError`: see above; the message names the last whole one.
    """
    folders = []
    if os.path.isdir(output_dir):
        numbered = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
        found = [(int(match[1]), name) for name in os.listdir(output_dir) if (match := numbered.fullmatch(name))]
        folders = [os.path.join(output_dir, name) for _, name in sorted(found)]
    whole = [folder for folder in folders if _is_whole(folder)]
    last = f"The last whole one is {whole[-1]!r}." if whole else "There is no whole one."
    if isinstance(wanted, bool):
        if not whole:
            raise CheckpointError(f"There is no whole checkpoint in {output_dir!r} to resume from. Start without one.")
        for folder in folders[folders.index(whole[-1]) + 1 :]:
            logger.warning(f"{folder} is half-written (the run was stopped while saving) and is left out.")
        return whole[-1]
    if not _is_whole(wanted):
        raise CheckpointError(f"{wanted!r} is no whole checkpoint: its trainer_state.json is missing or cut. {last}")
    return wanted


def _is_whole(folder: str) -> bool:
    try:
        with open(os.path.join(folder, "trainer_state.json"), encoding="utf-8") as file:
            return isinstance(json.load(file), Mapping)
    except (OSError, json.JSONDecodeError):
        return False


def _datasets_of(eval_dataset: Any) -> list[Any]:
    if eval_dataset is None:
        return []
    return list(eval_dataset.values()) if isinstance(eval_dataset, dict) else [eval_dataset]


def _split_group(
    optimizer: torch.optim.Optimizer,
    names: Mapping[int, str],
    wanted: re.Pattern,
    rate: float | None,
    spare: re.Pattern | None = None,
) -> None:
    """Move the parameters of a name from the groups they are in to groups with another learning rate."""
    if rate is None:
        return
    for group in list(optimizer.param_groups):
        chosen = [
            parameter
            for parameter in group["params"]
            if wanted.search(names[id(parameter)]) and not (spare and spare.search(names[id(parameter)]))
        ]
        if chosen:
            taken = {id(parameter) for parameter in chosen}
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
            settings = {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
            optimizer.add_param_group({**settings, "params": chosen, "lr": rate})
