"""
The trainer of stage 1: the next-token loss of captions and a symmetric InfoNCE loss of videos and captions.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..errors import LinVTInputError
from ..model.modeling_linvt import LinVTForVideoQA
from ..tokenizer.contrastive_head import INITIAL_TEMPERATURE
from .collator import IGNORED
from .lora import unwrap
from .losses import ContrastiveLoss, info_nce
from .sft_config import LinVTSFTConfig
from .sft_trainer import LinVTSFTTrainer
from .stages import find_linvt


logger = logging.get_logger(__name__)


@dataclass
class LinVTContrastiveConfig(LinVTSFTConfig):
    """
    Arguments of [`LinVTContrastiveTrainer`]: those of [`LinVTSFTConfig`] and the contrastive loss's.

    Other defaults: `stage="align"`, and `dataloader_drop_last=True`, because a filled-up last batch would hold the
    same video twice (it also holds for evaluation, and not for streams).

    Args:
        contrastive_weight (`float`, defaults to 1.0): of the InfoNCE loss; 0 leaves it out.
        cross_entropy_weight (`float`, defaults to 1.0): of the next-token loss.
        contrastive_size (`int`, defaults to 256): width of the space videos and captions are compared in, if the model
            has no head for it yet.
        temperature (`float`, defaults to 0.07): where the temperature of a new head starts; it is learned, and at
            least 0.01.
        contrastive_mini_batch_size (`int`, *optional*): GradCache: only so many examples at a time hold activations,
            while `per_device_train_batch_size` of them are compared. The gradient is that of the whole batch. With
            one process or DDP, not with FSDP or DeepSpeed.
    """

    stage: str = field(default="align", metadata={"help": "Which parameters move: align, instruct or linvt."})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out the last, smaller batch."})
    contrastive_weight: float = field(default=1.0, metadata={"help": "Weight of the InfoNCE loss."})
    cross_entropy_weight: float = field(default=1.0, metadata={"help": "Weight of the next-token loss."})
    contrastive_size: int = field(default=256, metadata={"help": "Width of the space of the contrastive loss."})
    temperature: float = field(default=INITIAL_TEMPERATURE, metadata={"help": "Where the temperature starts."})
    contrastive_mini_batch_size: int | None = field(
        default=None, metadata={"help": "Examples that hold activations at a time (GradCache)."}
    )

    def __post_init__(self) -> None:
        """Refuse what gives no contrast."""
        super().__post_init__()
        if self.contrastive_weight < 0 or self.cross_entropy_weight < 0:
            raise LinVTInputError("contrastive_weight and cross_entropy_weight cannot be negative.")
        if self.temperature < 0.01:
            raise LinVTInputError(f"temperature={self.temperature} must be at least 0.01.")
        if not self.contrastive_weight:
            return
        for name, default in (("loss_type", "nll"), ("label_smoothing_factor", 0.0)):
            if (value := getattr(self, name)) != default:
                raise LinVTInputError(
                    f"{name}={value!r} has no effect beside a contrastive loss. Leave it out, or set "
                    "contrastive_weight=0."
                )
        if self.per_device_train_batch_size * self.world_size < 2:
            raise LinVTInputError(
                "A batch of 1 has nothing to compare a video with. Raise per_device_train_batch_size (with "
                "contrastive_mini_batch_size if memory is short), or set contrastive_weight=0."
            )
        if self.gradient_accumulation_steps > 1:
            logger.warning(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} adds no negatives: every batch is "
                "compared with itself only. For more of them raise per_device_train_batch_size and set "
                "contrastive_mini_batch_size."
            )
        mini = self.contrastive_mini_batch_size
        if mini is not None and mini < 1:
            raise LinVTInputError(f"contrastive_mini_batch_size={mini} must be at least 1.")


class TemperatureLimit(TrainerCallback):
    """Keeps the learned temperature at 0.01 or above, from where a gradient can still raise it again."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every step of the optimiser."""
        if (head := find_linvt(kwargs["model"]).contrastive_head) is not None:
            head.limit_scale()


class LinVTContrastiveTrainer(LinVTSFTTrainer):
    """
    Stage 1: aligns a LinVT with captions.

    Takes what [`LinVTSFTTrainer`] takes, with one video in every example; the answers are the captions. Videos and
    captions of all processes are compared, with a gradient through the gathering; the same video or the same caption
    is never a negative of itself.

    The log has `cross_entropy_loss`, `contrastive_loss`, `temperature`, and the share of rows whose partner is the
    nearest of the batch, `retrieval_video_to_text` and `retrieval_text_to_video`.

    Raises:
        `LinVTInputError`: see [`LinVTSFTTrainer`] and [`LinVTContrastiveConfig`].
    """

    args: LinVTContrastiveConfig
    _tag_names = ["trl", "sft", "linvt", "contrastive"]
    _name = "LinVT alignment"
    loss_is_scaled_for_ga = True  # both losses are divided here

    def __init__(self, model: Any, args: LinVTContrastiveConfig | None = None, **kwargs: Any) -> None:
        args = args if args is not None else LinVTContrastiveConfig(output_dir="linvt-aligned")
        if not isinstance(args, LinVTContrastiveConfig):
            raise LinVTInputError(f"args must be a LinVTContrastiveConfig, not a {type(args).__name__}.")
        if args.contrastive_weight and kwargs.get("compute_loss_func") is not None:
            raise LinVTInputError(
                "compute_loss_func has no effect beside a contrastive_weight. Leave one of them out."
            )
        inner = unwrap(model)
        if args.contrastive_weight and inner.linvt.contrastive_head is None:
            inner.add_contrastive_head(args.contrastive_size, args.temperature)
        super().__init__(model, args, **kwargs)
        if not args.contrastive_weight:
            return
        self.add_callback(TemperatureLimit())
        if args.contrastive_mini_batch_size and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise LinVTInputError(
                "contrastive_mini_batch_size runs LinVT twice, once outside the model's own forward, which FSDP and "
                "DeepSpeed do not allow. Train with DDP, or without contrastive_mini_batch_size."
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted sum of both losses; without a contrastive weight TRL's loss."""
        if not self.args.contrastive_weight:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ids = self._take_bookkeeping_out(inputs)
        self._check_one_video_each(inputs)
        rows, mini = len(inputs["input_ids"]), self.args.contrastive_mini_batch_size
        if self.model.training and mini is not None and mini < rows:
            return self._cached_loss(model, inputs, ids, num_items_in_batch, mini)
        outputs, cross_entropy = self._forward(model, inputs, num_items_in_batch)
        contrast = info_nce(
            outputs.video_embeds, outputs.text_embeds, outputs.logit_scale, ids["video_ids"], ids["caption_ids"]
        )
        self._log(cross_entropy.detach(), contrast, outputs.logit_scale, inputs)
        loss = self.args.cross_entropy_weight * cross_entropy + self._contrastive_share() * contrast.loss
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any) -> tuple[Any, torch.Tensor]:
        """One forward for everything, as data parallelism needs it, and the next-token loss."""
        labels = inputs["labels"]
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**rest, caption_mask=labels != IGNORED, use_cache=False)
        targets = labels[:, 1:].to(outputs.logits.device)
        chosen = targets != IGNORED
        total = F.cross_entropy(outputs.logits[:, :-1][chosen].float(), targets[chosen], reduction="sum")
        count = chosen.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        cross_entropy = total / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            cross_entropy = cross_entropy * self.accelerator.num_processes  # data parallelism averages
        return outputs, cross_entropy

    def _contrastive_share(self) -> float:
        steps = self.current_gradient_accumulation_steps if self.model.training else 1
        return self.args.contrastive_weight / steps

    # -- GradCache --

    def _cached_loss(
        self, model: Any, inputs: dict[str, Any], ids: dict[str, Any], num_items_in_batch: Any, mini: int
    ) -> torch.Tensor:
        """
        The loss of the whole batch, with the activations of `mini` examples at a time (GradCache, Gao et al. 2021).

        First the embeddings of all examples without a graph; then the gradient of the contrastive loss with respect to
        them; then every part again, with a graph, for the part's next-token loss and the product of its embeddings
        with that gradient. The vision tower, which is frozen, runs once. The gradients of all parts but the last are
        computed here; the loss that is returned brings the last and the value of the whole.
        """
        inner = unwrap(self.accelerator.unwrap_model(model, keep_torch_compile=False))
        parts = self._parts(inner, inputs, mini)
        embeds = [self._embed(inner, part) for part in parts]
        videos, texts = (torch.cat(one).requires_grad_() for one in zip(*[pair[:2] for pair in embeds], strict=True))
        scale = embeds[0][2].requires_grad_()
        contrast = info_nce(videos, texts, scale, ids["video_ids"], ids["caption_ids"])
        gradients = torch.autograd.grad(self._contrastive_share() * contrast.loss, (videos, texts, scale))
        total = loss = torch.zeros((), device=videos.device)
        for number, part in enumerate(parts):
            is_last = number == len(parts) - 1
            rows = slice(number * mini, number * mini + len(part["input_ids"]))
            with nullcontext() if is_last or not hasattr(model, "no_sync") else model.no_sync():
                outputs, cross_entropy = self._forward(model, part, num_items_in_batch or _count_labels(inputs))
                products = [
                    (outputs.video_embeds * gradients[0][rows]).sum(),
                    (outputs.text_embeds * gradients[1][rows]).sum(),
                    (outputs.logit_scale * gradients[2]).sum() / len(parts),
                ]
                loss = self.args.cross_entropy_weight * cross_entropy + sum(products)
                total = total + cross_entropy.detach()
                if not is_last:
                    self.accelerator.backward(loss)
        self._log(total, contrast, scale, inputs)
        value = self.args.cross_entropy_weight * total + self._contrastive_share() * contrast.loss.detach()
        return loss + (value - loss).detach()

    def _parts(self, inner: LinVTForVideoQA, inputs: dict[str, Any], mini: int) -> list[dict[str, Any]]:
        """The batch in parts of `mini` rows, with the frames encoded already."""
        if "pixel_values" in inputs:
            raise LinVTInputError(
                "contrastive_mini_batch_size takes a batch apart by examples, and pictures do not say whose they are. "
                "Leave out examples with pictures, or contrastive_mini_batch_size."
            )
        counts = inputs["frames_per_video"].tolist()
        frames = {name.removeprefix("frame_"): inputs[name] for name in inputs if name.startswith("frame_")}
        if (encoded := inputs.pop("encoded_frames", None)) is None:
            with torch.no_grad(), self.accelerator.autocast():
                encoded = inner.model.encode_videos(counts, frames)
        times = inputs["video_timestamps"].split(counts) if "video_timestamps" in inputs else None
        rows, parts = len(inputs["input_ids"]), []
        for start in range(0, rows, mini):
            chosen = slice(start, min(start + mini, rows))
            part = {
                name: value[chosen]
                for name, value in inputs.items()
                if not name.startswith("frame") and name != "video_timestamps"
            }
            part["frames_per_video"], part["encoded_frames"] = inputs["frames_per_video"][chosen], encoded[chosen]
            if times is not None:
                part["video_timestamps"] = torch.cat(times[chosen])
            parts.append(part)
        return parts

    @torch.no_grad()
    def _embed(self, inner: LinVTForVideoQA, part: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings of the videos and captions of a part, without the language model."""
        counts = part["frames_per_video"].tolist()
        with self.accelerator.autocast():
            condensed = inner.model.condense(
                part["encoded_frames"],
                part["video_timestamps"].split(counts) if "video_timestamps" in part else None,
                caption_embeds=inner.get_input_embeddings()(part["input_ids"]),
                caption_mask=part["labels"] != IGNORED,
            )
        contrast: Any = condensed.outputs.contrast
        return contrast.video_embeds, contrast.text_embeds, contrast.logit_scale.clone()

    # -- checks and figures --

    def _check_one_video_each(self, inputs: dict[str, Any]) -> None:
        videos, rows = len(inputs.get("frames_per_video", ())), len(inputs["input_ids"])
        if videos != rows:
            raise LinVTInputError(
                f"A batch of {rows} examples has {videos} videos; the contrastive loss compares one video with one "
                "caption. Leave out examples without a video or with several, or set contrastive_weight=0."
            )

    def _log(
        self, cross_entropy: torch.Tensor, contrast: ContrastiveLoss, scale: torch.Tensor, inputs: dict[str, Any]
    ) -> None:
        is_training = self.model.training
        metrics = self._metrics["train" if is_training else "eval"]
        steps = self.current_gradient_accumulation_steps if is_training else 1
        values = torch.stack(
            [
                cross_entropy * steps,
                contrast.loss.detach(),
                contrast.video_to_text,
                contrast.text_to_video,
                1 / scale.detach().view(()),
            ]
        )
        names = (
            "cross_entropy_loss",
            "contrastive_loss",
            "retrieval_video_to_text",
            "retrieval_text_to_video",
            "temperature",
        )
        means = self.accelerator.gather(values.unsqueeze(0)).mean(0).tolist()
        for name, value in zip(names, means, strict=True):
            metrics[name].append(value)
        if is_training:
            tokens = self.accelerator.gather(inputs["attention_mask"].sum()).sum().item()
            self._total_train_tokens += tokens
        metrics["num_tokens"] = [self._total_train_tokens]


def _count_labels(inputs: dict[str, Any]) -> torch.Tensor:
    return (inputs["labels"][:, 1:] != IGNORED).sum().clamp(min=1)
