"""
The next-token trainer: TRL's `SFTTrainer` with what a LinVT needs and what is easily forgotten already set.
"""

import inspect
import os
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from torch import nn
from transformers import TrainerCallback, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length
from transformers.utils import logging
from trl import SFTTrainer

from ..errors import LinVTInputError, VideoReadError
from ..model.checkpoint_saving import token_refused
from ..model.modeling_linvt import LinVTForVideoQA
from ..model.processing_linvt import LinVTProcessor
from . import card as training_card
from .checks import check_agreement, check_has_figures, check_has_steps, named_datasets
from .collator import BOOKKEEPING_KEYS, LinVTDataCollator
from .data import check_dataset, lengths_of, undecoded
from .frame_tokens import FRAME_TOKENS, FrameTokenCache
from .head import ThroughTheHead, WhereThereIsATarget, does_more
from .lora import save_instructed, unwrap, with_linvt
from .resume import find_checkpoint
from .sft_config import LinVTSFTConfig
from .stages import apply_stage, what_moves


logger = logging.get_logger(__name__)

_LINVT_PARAMETER = re.compile(r"(^|\.)linvt\.")
_SCORER_PARAMETER = re.compile(r"(^|\.)linvt\.(modules_to_save\.[^.]+\.)?scorer\.")
_LEAST_VIDEOS_TO_JUDGE = 32  # a share of fewer says little
_MOST_NAMES = 20


class LinVTSFTTrainer(SFTTrainer):
    """
    Trains a LinVT with the next-token loss of the answers, with or without LoRA.

    Before the first step it checks the dataset ([`check_dataset`]) and that model and processor belong together, lets
    the parameters of the stage move and no others, and gives LinVT a learning rate of its own if asked to. The log has
    TRL's figures, and `unreadable_videos` (so far), `unreadable_share`, `frames_per_video` and `tokens_per_video`.

    Args:
        model ([`LinVTForVideoQA`] or [`~peft.PeftModel`]): loaded; for LoRA pass `peft_config=lora_config(model)`.
        args ([`LinVTSFTConfig`], *optional*): the settings, by default `LinVTSFTConfig("linvt-sft")`.
        train_dataset, eval_dataset: rows in a format of [`parse_example`]; see [`load_video_dataset`].
        processing_class ([`LinVTProcessor`]): of the model.
        data_collator (*optional*): [`LinVTDataCollator`] with the arguments' sampling by default.
        kwargs: as in [`~trl.SFTTrainer`].

    Raises:
        `LinVTInputError`, `VideoReadError`: what cannot be trained on; see [`check_dataset`].

    Example:

    >>> trainer = LinVTSFTTrainer(model, LinVTSFTConfig("out"), train_dataset=dataset)  # doctest: +SKIP
    """

    args: LinVTSFTConfig
    model: Any
    processing_class: Any
    accelerator: Any
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
        peft_config = with_linvt(peft_config) if peft_config is not None else None
        checked = _checked(model, inner, args, processing_class)
        _check_adapter_has_a_model(inner, [peft_config] if peft_config else getattr(inner, "peft_config", {}).values())
        if train_dataset is None:
            raise LinVTInputError("There is no train_dataset.")
        train_dataset, eval_datasets = _read_as_files(args, train_dataset, named_datasets(eval_dataset))
        if data_collator is None:
            data_collator = self.make_collator(args, checked)
        elif args.cache_frame_tokens is not None:
            raise LinVTInputError(
                "cache_frame_tokens and a data_collator of your own do not go together: it may change the frames of a "
                "video from epoch to epoch. Leave one of them out."
            )
        inner.linvt.float()  # before PEFT copies it: small updates are lost in half precision
        self.unreadable: deque[str] = deque(maxlen=_MOST_NAMES)
        self.num_unreadable, self.num_videos = 0, 0
        self._saves_to_resume = False
        self._head_does_more: bool | None = None  # known after the first batch
        # TRL asks for a chat template that it knows; here the collator, which is made already, finds the answers
        assistant_only_loss, args.assistant_only_loss = args.assistant_only_loss, False
        if peft_config is not None and _is_quantised(inner):
            set_seed(args.seed)
            model, peft_config = get_peft_model(model, peft_config), None
        with _in_full_precision(inner):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_datasets if isinstance(eval_dataset, Mapping) else eval_datasets.get("eval"),
                processing_class=checked,
                peft_config=peft_config,
                callbacks=callbacks,
                **kwargs,
            )
        args.assistant_only_loss = assistant_only_loss
        # Whatever the base's own forward takes: the loss is computed and divided outside of it. Without, the loss of
        # accumulated batches would be a mean of means, in which a word of a short answer counts more.
        self.model_accepts_loss_kwargs = True
        self.parameter_counts = apply_stage(self.model, args.stage)
        inner.check_can_be_saved()  # again: some adapters (PiSSA, OLoRA) change the base when they are made
        self.frame_tokens: FrameTokenCache | None = None
        if args.cache_frame_tokens:
            self.frame_tokens = self._frame_token_cache(args.cache_frame_tokens, inner, data_collator)

    @property
    def _folder(self) -> str:
        return str(self.args.output_dir)

    def what_moves(self) -> str:
        """A line that says which parameters are trained, with their numbers."""
        return what_moves(self.args.stage, self.parameter_counts)

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

    def _frame_token_cache(self, folder: str, inner: LinVTForVideoQA, collator: LinVTDataCollator) -> FrameTokenCache:
        """The cache of the arguments, given to the collator, after seeing that it can be of use."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise LinVTInputError(
                "cache_frame_tokens runs the vision side outside of the model's own forward, which FSDP and DeepSpeed "
                "do not allow. Train with DDP, or without cache_frame_tokens."
            )
        args = self.args
        precision = self.accelerator.mixed_precision
        cache = FrameTokenCache(folder, inner, collator.processor, args.cache_frame_tokens_dtype, precision)
        with self.accelerator.autocast():
            cache.check(inner, collator, self.train_dataset, is_told=self.is_world_process_zero())
        collator.frame_tokens = cache
        return cache

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

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """As in transformers, with lengths of ours where batches are to have examples of like length."""
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return self._by_length(dataset, batch) or super()._get_train_sampler(train_dataset)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """See `_get_train_sampler`."""
        return self._by_length(eval_dataset, self.args.eval_batch_size) or super()._get_eval_sampler(eval_dataset)

    def _by_length(self, dataset: Any, batch: int) -> LengthGroupedSampler | None:
        has_column = self.args.length_column_name in (getattr(dataset, "column_names", None) or ())
        if self.args.train_sampling_strategy != "group_by_length" or not has_length(dataset) or has_column:
            return None
        lengths = lengths_of(dataset, unwrap(self.model).config.num_video_tokens, self.args.video_root)
        return LengthGroupedSampler(batch, lengths=lengths)

    # -- steps --

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """As in transformers; with a cache, videos come as frame tokens."""
        inputs = super()._prepare_inputs(inputs)
        if seen := inputs.pop(FRAME_TOKENS, None):
            if self.frame_tokens is None:
                raise LinVTInputError(
                    "The data collator has frame tokens of another trainer's cache_frame_tokens. Make a collator of "
                    "its own for this trainer, or leave data_collator out."
                )
            inner = unwrap(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
            with self.accelerator.autocast():
                inputs["encoded_frames"] = self.frame_tokens.fill(inner, inputs, seen)
        return inputs

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss, through the base's head if that does more than TRL knows; bookkeeping is taken out first."""
        self._take_bookkeeping_out(inputs)
        result = super().compute_loss(self._with_its_head(model, inputs), inputs, return_outputs, num_items_in_batch)
        loss = result[0] if return_outputs else result
        if self.model.training and not loss.requires_grad:  # no video in the batch, and no LoRA
            loss = loss + 0 * sum(one.sum() for one in self.model.parameters() if one.requires_grad)
        return (loss, result[1]) if return_outputs else loss

    def _with_its_head(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        """What TRL is to call; see [`training.head`]."""
        if self._head_does_more is False:  # where TRL has Triton it looks at targets alone itself
            return model if inputs["input_ids"].device.type == "cuda" else WhereThereIsATarget(model)
        base = unwrap(self.accelerator.unwrap_model(self.model, keep_torch_compile=False)).base_vlm
        through_head = ThroughTheHead(model, "logits_to_keep" in inspect.signature(base.forward).parameters)
        if self._head_does_more is None:
            half = torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else base.dtype
            found = does_more(model, through_head, inputs, half)
            everywhere = self.accelerator.gather(torch.tensor([found], device=inputs["input_ids"].device))
            self._head_does_more = bool(everywhere.any())
            if self._head_does_more:
                logger.info(
                    f"The head of {type(base).__name__} does more than TRL computes of it, so the loss goes through "
                    "the model's own logits."
                )
        return through_head if self._head_does_more else self._with_its_head(model, inputs)

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
            metrics["tokens_per_video"].append(float(unwrap(self.model).config.num_video_tokens))
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
        As in transformers; `resume_from_checkpoint=True` (or `"true"`, as the command line gives it) goes on from the
        last checkpoint that was written whole.

        Raises:
            `CheckpointError`: the folder has no checkpoint, or the one that was named is half-written.
            `LinVTInputError`: the data ended before the first step.
        """
        resume_from_checkpoint = find_checkpoint(self._folder, resume_from_checkpoint)
        logger.info(self.what_moves())
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if not self.state.global_step:
            raise LinVTInputError(
                "The data ended before the first step: nothing was trained, and the loss of 0 says nothing. A batch "
                f"has {self.args.train_batch_size} examples on each device, and dataloader_drop_last="
                f"{self.args.dataloader_drop_last}. Bring more examples, or make batches smaller."
            )
        return result

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """
        As in transformers.

        Raises:
            `LinVTInputError`: there was no batch to evaluate on, so there are no figures.
        """
        metrics = super().evaluate(*args, **kwargs)
        if not any(name.endswith("loss") for name in metrics):
            raise LinVTInputError(
                "The data to evaluate on ended before the first batch, so there are no figures. A batch has "
                f"{self.args.eval_batch_size} examples on each device, and dataloader_drop_last="
                f"{self.args.dataloader_drop_last}. Set per_device_eval_batch_size lower."
            )
        return metrics

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers: what is written meanwhile is to resume from, whatever its folder is called."""
        self._saves_to_resume = True
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self._saves_to_resume = False

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """
        A checkpoint to resume from is transformers' and PEFT's own; the result of training is one that loads as it is.

        The result has no `training_args.bin`: it is a pickle, and what mattered of it stands in the model card.
        """
        folder = self._folder if output_dir is None else output_dir
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        kinds = {one.peft_type for one in model.peft_config.values()} if isinstance(model, PeftModel) else set()
        if self._saves_to_resume or kinds - {PeftType.LORA}:
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
            raise token_refused(error, self.args.hub_model_id or self._folder) from error

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        license: str | None = None,
        language: str | list[str] | None = None,
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
            license=license,
            language=language,
        )
        os.makedirs(self._folder, exist_ok=True)
        card.save(os.path.join(self._folder, "README.md"))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """
        Save and upload LinVT with its adapter, the processor and a model card, as transformers' trainer does it.

        The card takes `dataset_name`, `tags`, `language` and `license`; the licence of the base by default.

        Raises:
            `CheckpointError`: the base is a folder of this machine, so nobody else could load the result; or the Hub
                refused the token.
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        unwrap(model).check_can_be_pushed()
        if kwargs.get("license") is None and self.is_world_process_zero():
            kwargs["license"] = training_card.license_of_base(model)
        try:
            return super().push_to_hub(*args, **kwargs)
        except HfHubHTTPError as error:
            raise token_refused(error, str(self.hub_model_id)) from error


_QUANTISED = ("is_loaded_in_4bit", "is_loaded_in_8bit")  # how PEFT and TRL are told


def _is_quantised(inner: LinVTForVideoQA) -> bool:
    return any(getattr(inner, name, False) for name in _QUANTISED)


@contextmanager
def _in_full_precision(inner: LinVTForVideoQA) -> Iterator[None]:
    """For TRL as if no base were quantised: it would round all that trains to bfloat16, a trained LinVT as well."""
    flags = {name: getattr(inner, name) for name in _QUANTISED if getattr(inner, name, False)}
    try:
        for name in flags:
            setattr(inner, name, False)
        yield
    finally:
        for name, value in flags.items():
            setattr(inner, name, value)


def _checked(model: Any, inner: LinVTForVideoQA, args: LinVTSFTConfig, processor: Any) -> Any:
    """The processor of a model, if both go together and what is trained could be saved, now and not after hours."""
    if getattr(inner, "peft_config", None) and not isinstance(model, PeftModel):
        raise LinVTInputError(
            "The model was loaded with its adapter, which would be replaced by a new one or not be saved "
            "to resume from. Load it with load_for_training(...), and pass no peft_config."
        )
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            if with_linvt(config) is not config:
                raise LinVTInputError(
                    "The adapter was made without modules_to_save=['linvt'], so LinVT would not be trained, or would "
                    "be trained and not be saved. Pass the LinVT model itself and peft_config=lora_config(model)."
                )
    inner.check_can_be_saved()
    if args.push_to_hub:
        inner.check_can_be_pushed()
    if processor is None:
        if not inner.config.name_or_path:
            raise LinVTInputError(
                "The model was not loaded from a checkpoint, so its processor is not known. Pass processing_class="
                "LinVTProcessor.from_base(...) of the same base."
            )
        processor = LinVTProcessor.from_pretrained(inner.config.name_or_path)
    check_agreement(inner, processor)
    return processor


def _check_adapter_has_a_model(inner: LinVTForVideoQA, adapters: Collection[PeftConfig]) -> None:
    """An adapter that is not LoRA is saved in PEFT's own folder, which names the model that it belongs to."""
    kinds = [PeftType(one.peft_type).value for one in adapters if one.peft_type != PeftType.LORA]
    if kinds and not inner.name_or_path:
        raise LinVTInputError(
            f"The result of training with {', '.join(kinds)} is an adapter of PEFT's, which names the model that it "
            "belongs to, and this one was never saved. Save it and load it from there first: "
            "model.save_pretrained(folder), LinVTForVideoQA.from_pretrained(folder)."
        )


def _read_as_files(
    args: LinVTSFTConfig, train_dataset: Any, eval_datasets: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The datasets with videos left undecoded, after checking that they have videos and make at least a batch."""
    train_dataset = undecoded(train_dataset)
    eval_datasets = {name: undecoded(dataset) for name, dataset in eval_datasets.items()}
    for dataset in (train_dataset, *eval_datasets.values()):
        check_dataset(dataset, args.video_root, args.max_unreadable_share)
    check_has_steps(args, train_dataset)
    check_has_figures(args, eval_datasets)
    return train_dataset, eval_datasets


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
