"""
What a language head does beside its matrix, which TRL does not see.

TRL computes the loss from the backbone's hidden states and the head's matrix, with the scale and the cap that it finds
in the config, so that the logits of a whole batch are never in memory. Where a head does more (it divides by a width,
it forbids codes of pictures), that is another loss than the model's own. What a head does is written nowhere that
could be read, so both are compared once, on the first batch; where they differ, the loss goes through the head.
"""

from typing import Any

import torch
from torch import nn
from trl.trainer.utils import FusedCausalLMOutput

from .collator import IGNORED


_COMPARED = 8  # columns with a target: few logits, and enough to tell two heads apart
_TOLERANCE = 1e-4  # of log-probabilities in float32, whose sums differ by their order
_ROUNDINGS = 4  # in a coarser type so many times its own rounding


class ThroughTheHead:
    """
    A model whose log-probabilities are those of its own logits, in the form in which TRL asks for them.

    Args:
        model: LinVT with whatever is around it (PEFT, data parallelism), as the trainer calls it.
        keeps (`bool`): whether the base makes logits of chosen positions alone (`logits_to_keep`).
    """

    def __init__(self, model: nn.Module, keeps: bool) -> None:
        self.model, self.keeps = model, keeps

    def __call__(
        self, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **inputs: Any
    ) -> Any:
        """With `fused_lm_head` TRL's output, `(batch, length - 1)` and zero without a label; else the model's."""
        if not fused_lm_head or labels is None:
            return self.model(*args, **inputs, **({} if labels is None else {"labels": labels}))
        mask = labels[:, 1:] != IGNORED
        columns = mask.any(0).nonzero()[:, 0]
        outputs = self.model(*args, **inputs, **({"logits_to_keep": columns} if self.keeps else {}))
        logits = outputs.logits if self.keeps else outputs.logits[:, columns.to(outputs.logits.device)]
        columns, mask, targets = (one.to(logits.device) for one in (columns, mask, labels[:, 1:]))
        logs = logits.float().log_softmax(-1)
        chosen = targets[:, columns].clamp(min=0)
        with torch.no_grad():
            entropy, is_top1 = -(logs.exp() * logs).sum(-1), logs.argmax(-1) == chosen

        def spread(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(mask.shape).index_copy(1, columns, values).masked_fill(~mask, 0)

        log_probs = spread(logs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1))
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / mask.sum().clamp(min=1),
            log_probs=log_probs,
            entropy=spread(entropy),
            is_top1=spread(is_top1),
            label_mask=mask,
            aux_loss=getattr(outputs, "aux_loss", None),
        )


class WhereThereIsATarget:
    """
    A model that TRL's log-probabilities are computed of where there is a target, and not of the whole prompt.

    TRL does that itself where it has Triton. Elsewhere it multiplies the states of every token, those of videos
    included, with the whole vocabulary.

    Args:
        model: LinVT with whatever is around it, as the trainer calls it, with TRL's fused head.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(
        self, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **inputs: Any
    ) -> Any:
        """With `fused_lm_head` TRL's output, `(batch, most targets of a row)`, zero behind them; else the model's."""
        if not fused_lm_head or labels is None or inputs.get("shift_labels") is not None:
            inputs |= {} if labels is None else {"labels": labels}
            return self.model(*args, **inputs, **({"fused_lm_head": True} if fused_lm_head else {}))
        targets = labels[:, 1:]
        has_target = targets != IGNORED
        count = max(1, int(has_target.sum(1).max()))
        places = has_target.int().argsort(dim=1, descending=True, stable=True)[:, :count]
        more = {"shift_labels": targets.gather(1, places), "states_to_keep": places}
        return self.model(*args, **inputs, **more, fused_lm_head=True)


@torch.no_grad()
def does_more(model: nn.Module, through_head: ThroughTheHead, inputs: dict[str, Any], dtype: torch.dtype) -> bool:
    """
    Whether the model's logits are others than TRL makes of its hidden states.

    Args:
        model: as the trainer calls it, with TRL's fused head.
        through_head: the same model.
        inputs: a batch with `labels`.
        dtype: that is computed in.
    """
    labels = inputs["labels"].clone()
    with_target = (labels[:, 1:] != IGNORED).any(0).nonzero()[:, 0]
    if not len(with_target):
        return False
    labels[:, int(with_target[:_COMPARED].max()) + 2 :] = IGNORED
    inputs = {**inputs, "labels": labels, "use_cache": False}
    was_training = model.training
    model.eval()  # dropout would draw twice
    try:
        found, own = (one(**inputs, fused_lm_head=True).log_probs for one in (model, through_head))
    finally:
        model.train(was_training)
    count = (labels[:, 1:] != IGNORED).sum()
    difference = (found.to(own.device) - own).abs().sum() / count
    tolerance = max(_TOLERANCE, _ROUNDINGS * torch.finfo(dtype).eps)
    return bool(difference > tolerance * (1 + own.abs().sum() / count))
