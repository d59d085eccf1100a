"""The arguments of the next-token trainer: TRL's, with defaults that fit videos, and what videos need of their own."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers.trainer_utils import HubStrategy
from trl import SFTConfig

from ..errors import LinVTInputError
from .frame_tokens import DTYPES
from .stages import find_stage


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
        cache_frame_tokens (`str`, *optional*): a folder that keeps what the frozen vision side makes of every video,
            so that from the second epoch on, and in the next run, no video is read or encoded. Found by the content of
            the video, the sampling, the processor and the weights. Several runs and processes may share it.
        cache_frame_tokens_dtype (`str`, defaults to `"bfloat16"`): `"auto"` keeps the numbers as the vision side gives
            them: in a run in float32 twice the size, and the same training bit by bit as without a cache.
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
    cache_frame_tokens: str | None = field(
        default=None, metadata={"help": "Folder that keeps the frame tokens of every video."}
    )
    cache_frame_tokens_dtype: str = field(default="bfloat16", metadata={"help": "bfloat16 or auto."})

    def __post_init__(self) -> None:
        """Set what has to be set; refuse what cannot work."""
        has_gpu = torch.cuda.is_available() and not self.use_cpu
        if self.bf16 is None:
            self.bf16 = has_gpu and torch.cuda.is_bf16_supported() and not self.fp16
        if self.activation_checkpointing is None:  # transformers' new name for what TRL still calls by the old one
            asked = self.gradient_checkpointing
            self.activation_checkpointing = has_gpu if asked is None else asked
        self.remove_unused_columns = False
        self.dataset_kwargs = {**self._dataset_kwargs, "skip_prepare_dataset": True}
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
        if self.cache_frame_tokens_dtype not in DTYPES:
            known = ", ".join(map(repr, DTYPES))
            raise LinVTInputError(
                f"cache_frame_tokens_dtype={self.cache_frame_tokens_dtype!r}: choose one of {known}."
            )
        if self.cache_frame_tokens is None and self.cache_frame_tokens_dtype != "bfloat16":
            raise LinVTInputError("cache_frame_tokens_dtype has no effect without cache_frame_tokens. Name a folder.")
        self._refuse_what_has_no_effect()
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise LinVTInputError(
                f"hub_strategy={HubStrategy(self.hub_strategy).value!r}: the state of the optimiser is a pickle, and "
                "only safetensors are pushed. Leave hub_strategy='end' and push when training is done."
            )

    @property
    def _dataset_kwargs(self) -> dict[str, Any]:
        given: Any = self.dataset_kwargs or {}  # text on a command line, which transformers has read by now
        return given

    def _refuse_what_has_no_effect(self) -> None:
        """Options of TRL's own preparation of data, which examples with videos do not go through."""
        for name, reason in _WITHOUT_EFFECT.items():
            if (value := getattr(self, name)) != _DEFAULTS[name]:
                raise LinVTInputError(f"{name}={value!r} has no effect here: {reason}")
        if others := sorted(self._dataset_kwargs.keys() - {"skip_prepare_dataset"}):
            raise LinVTInputError(
                f"dataset_kwargs has {', '.join(others)}, which have no effect here: the collator takes the examples "
                "as they are. Leave them out."
            )


_WITHOUT_EFFECT = {
    "model_init_kwargs": "the model is loaded before. Give them to from_pretrained or from_base.",
    "dataset_text_field": "the words are in 'messages', 'prompt' and 'completion' or 'conversations'.",
    "dataset_num_proc": "examples are prepared by the collator. Set dataloader_num_workers.",
    "truncation_mode": "a video cannot be cut, so only the ends of answers are (max_length).",
    "shuffle_dataset": "the trainer shuffles in every epoch (train_sampling_strategy).",
    "packing_strategy": "nothing is packed.",
    "eval_packing": "nothing is packed.",
    "pad_to_multiple_of": "batches are padded to their longest example.",
    "pad_token": "it is that of the processor. Set processor.tokenizer.pad_token.",
}
_DEFAULTS = {one.name: one.default for one in fields(SFTConfig)}
