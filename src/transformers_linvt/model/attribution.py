"""
Which of the video an answer depended on: its log-probability shared among the frame tokens, through W without loss.

The video tokens are `y_m = sum_i W_mi v_i`. The baseline is a video without content: every video token is `c`, the
mean of the frame tokens. Let `g_m(t)` be the gradient of the answer's log-probability (the sum over its tokens, each
given those before it) by video token m, with all video tokens at `c + t (y - c)`. Then

    log p(y) - log p(c) = sum_m <integral of g_m(t) over t from 0 to 1, y_m - c>     (the gradient theorem)
                        = sum_i a_i,    a_i = sum_m W_mi <integral of g_m, v_i - c>  (rows of W sum to 1)

`a_i` is the attribution of frame token i, in nats: integrated gradients (Sundararajan et al. 2017), through W. The
second line is exact; the integral is a sum over a few points, and how well they add up shows in `log_probs`. W alone
says where the video tokens come from; the attribution says which of that the answer depended on.

Why not the gradient at the video alone (`t = 1`)? A sure answer has hardly any, and what it has points anywhere:
on clips of which it is known when and where the asked object is, the frame token of most attribution was the object's
in a third of the cases with that gradient, in more than nine of ten with the integral (benchmarks/pointing_game.py).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..bases.base import BaseBridge
from ..errors import AttributionError
from ..tokenizer.precision import without_autocast
from ..tokenizer.weights import FactoredWeights
from .time_marks import TIME_IDS


NUM_POINTS = 12  # of the integral; chosen with benchmarks/pointing_game.py: more change little, fewer miss the rise
_LEAST_DOUBT = 1e-6  # 1 - probability below which an answer's gradient is not scaled up any more


@dataclass
class AnswerAttribution:
    """
    What answers are due to.

    Attributes:
        values (`torch.Tensor` of shape `(num_videos, num_kept)`): attribution of every slot in nats, signed, float32.
            Within a slot it is shared by run weight (`FactoredWeights.spread`), as a slot's average is all that is
            known of its frame tokens.
        log_probs (`torch.Tensor` of shape `(num_rows, 2)`): log-probability of each answer with its videos, and with
            the mean in place of every video token. The values of a row's videos sum to the difference, but for the
            error of the integral.
    """

    values: torch.Tensor
    log_probs: torch.Tensor


def attribute_answers(
    model: Any,
    inputs: Mapping[str, Any],
    condensed: Any,
    answers: torch.Tensor,
    counted: torch.Tensor,
    num_points: int = NUM_POINTS,
) -> AnswerAttribution:
    """
    What of the videos the answers depended on.

    Costs `num_points` forward and backward passes of the language model over prompts and answers, and two more forward
    passes. Videos are not encoded and answers not generated again, no parameter gets a gradient, and the model is left
    as it was.

    Args:
        model ([`LinVTForVideoQA`]).
        inputs: of the prompts, what [`LinVTProcessor`] returned for them.
        condensed ([`CondensedVideos`]): what `model.model.prepare` made of the videos of these prompts.
        answers (`torch.LongTensor` of shape `(num_rows, length)`): the tokens that were generated.
        counted (`torch.BoolTensor` of shape `(num_rows, length)`): True at those whose probability is meant.
        num_points (`int`, *optional*, defaults to 12): of the integral.

    Raises:
        AttributionError: the base gives no gradient, or the video tokens are not `W @ frame_tokens`.
    """
    if not condensed.outputs.weights.is_exact:
        raise AttributionError(
            'No attribution of the answer: with aggregation="nonlinear" the video tokens are no averages of frame '
            'tokens, so nothing goes through to the frames. Use a model with aggregation="linear".'
        )
    passes = AnswerPasses(model, inputs, condensed, answers, counted)
    summed = [torch.zeros_like(layer, dtype=torch.float32) for layer in passes.layers]
    nodes, shares = np.polynomial.legendre.leggauss(num_points)
    for node, share in zip((nodes + 1) / 2, shares / 2, strict=True):
        for total, gradient in zip(summed, passes.gradients_at(float(node)), strict=True):
            total += float(share) * gradient
    log_probs = torch.stack([passes.log_probs_at(1.0), passes.log_probs_at(0.0)], dim=1)
    return AnswerAttribution(
        attribute_to_slots(condensed.outputs.weights, summed, passes.slots, passes.means), log_probs
    )


def attribute_to_slots(
    weights: FactoredWeights,
    gradients: Sequence[torch.Tensor],
    slots: Sequence[torch.Tensor],
    means: Sequence[torch.Tensor],
) -> torch.Tensor:
    """
    `a_k = sum over layers and m of A_mk <g_m, v_k - c>`, with A the weights of slots in video tokens.

    Args:
        weights: of the videos.
        gradients (sequence of `torch.Tensor` of shape `(num_videos, M, D)`): by the video tokens of each layer.
        slots (sequence of `torch.Tensor` of shape `(num_videos, num_kept, D)`): the averages that slots are.
        means (sequence of `torch.Tensor` of shape `(num_videos, 1, D)`): c of each layer.

    Returns:
        `torch.Tensor` of shape `(num_videos, num_kept)`, float32.
    """
    device = weights.kept_indices.device
    with torch.no_grad(), without_autocast(device):
        pulled_back = weights.kept().transpose(1, 2)
        result = pulled_back.new_zeros(pulled_back.shape[:2])
        for gradient, values, mean in zip(gradients, slots, means, strict=True):
            difference = values.to(device).float() - mean.to(device).float()
            result += ((pulled_back @ gradient.to(device).float()) * difference).sum(-1)
    return result


def mean_of_frame_tokens(weights: FactoredWeights, slots: torch.Tensor) -> torch.Tensor:
    """The mean of all frame tokens that are in a slot, `(num_videos, 1, D)`, float32, from the averages of slots."""
    in_slot = (weights.run_weights > 0).float()
    counts = in_slot.new_zeros(slots.shape[:2]).scatter_add_(1, weights.run_slots, in_slot)
    with torch.no_grad(), without_autocast(slots.device):
        shares = (counts / counts.sum(dim=1, keepdim=True)).to(slots.device)
        return shares.unsqueeze(1) @ slots.float()


class AnswerPasses:
    """Passes of the language model over prompts and answers, with the video tokens anywhere between mean and video."""

    def __init__(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        condensed: Any,
        answers: torch.Tensor,
        counted: torch.Tensor,
    ) -> None:
        self.model, self.condensed = model, condensed
        # an image placeholder that was written by chance would count as a picture: it and what follows is not shown
        is_placeholder = answers == model.config.image_token_id
        self.counted = counted & (count_before(is_placeholder) == 0)
        seen = self.counted & ~is_placeholder
        outputs = condensed.outputs
        with torch.inference_mode(False), torch.no_grad():
            self.answers, self.counted = _usable(answers), _usable(self.counted)
            prompts = {name: _usable(value) for name, value in inputs.items()}
            self.given = with_answers(model.model.bridge, prompts, self.answers, _usable(seen))
            self.rows = model.model.rows_of_videos(prompts, len(condensed.tokens))
            self.layers = [_usable(layer) for layer in (condensed.tokens, *condensed.deepstack)]
            self.slots = [_usable(layer) for layer in (outputs.kept_tokens, *condensed.kept_deepstack)]
            self.means = [mean_of_frame_tokens(outputs.weights, layer) for layer in self.slots]

    def gradients_at(self, position: float) -> list[torch.Tensor]:
        """
        Gradients of the answers' log-probabilities by each layer's video tokens, `(num_videos, M, D)` each, float32.

        Args:
            position: 0 for the mean in place of every video token, 1 for the video.
        """
        with torch.inference_mode(False), torch.enable_grad(), _as_found(self.model):
            leaves = [layer.requires_grad_() for layer in self._layers_at(position)]
            try:
                log_probs = self._log_probs(leaves)
                # a sure answer has a gradient so small that it would vanish in half precision
                doubt = -torch.expm1(log_probs.detach())
                scale = 1 / doubt.amax(dim=1).clamp(min=_LEAST_DOUBT)
                # a base may take its visual tokens in deep layers alone (Granite 4 Vision)
                found = torch.autograd.grad((scale * log_probs.sum(dim=1)).sum(), leaves, allow_unused=True)
                if all(one is None for one in found):
                    raise RuntimeError("its logits do not depend on the video tokens")
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # kernels without a backward say so in many ways
                raise AttributionError(
                    f"No attribution of the answer: the base ({self.model.config.base_config.model_type}) gives no "
                    f"gradient as it was loaded ({str(error).splitlines()[0]}). Load it without its quantisation, or "
                    "with kernels that have a backward."
                ) from error
        found = [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]
        return [one.float() / scale[self.rows].view(-1, 1, 1).to(one.device) for one in found]

    def log_probs_at(self, position: float) -> torch.Tensor:
        """The log-probability of each answer, `(num_rows,)`."""
        with torch.inference_mode(False), torch.no_grad(), _as_found(self.model):
            return self._log_probs(self._layers_at(position)).sum(dim=1)

    def _layers_at(self, position: float) -> list[torch.Tensor]:
        return [
            (mean.to(layer.device) + position * (layer.float() - mean.to(layer.device))).to(layer.dtype).detach()
            for layer, mean in zip(self.layers, self.means, strict=True)
        ]

    def _log_probs(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Log-probabilities of answer tokens, given those before them, `(num_rows, length)`; 0 where not counted."""
        backbone = self.model.model
        condensed = replace(self.condensed, tokens=layers[0], deepstack=list(layers[1:]))
        prepared, _ = backbone.prepare(**self.given, condensed_videos=condensed)
        output = backbone.bridge.forward(self.model.base_vlm, **prepared)
        logits = output.logits[:, -self.answers.shape[1] :].float()
        answers = self.answers.to(logits.device).unsqueeze(-1)
        return logits.log_softmax(-1).gather(-1, answers)[..., 0].masked_fill(~self.counted.to(logits.device), 0.0)


def with_answers(
    bridge: BaseBridge, inputs: Mapping[str, Any], answers: torch.Tensor, belongs: torch.Tensor
) -> dict[str, Any]:
    """
    Prompts with their answers behind them, but for the last token, which nothing follows.

    Args:
        bridge: of the base.
        inputs: of the prompts, padded on the left.
        answers (`torch.LongTensor` of shape `(num_rows, length)`): the tokens that were generated.
        belongs (`torch.BoolTensor` of shape `(num_rows, length)`): True at those that are to be seen.
    """
    answers, belongs = answers[:, :-1], belongs[:, :-1]
    input_ids = inputs["input_ids"]
    result = dict(inputs)
    for name, value in inputs.items():
        if not torch.is_tensor(value) or value.shape[:2] != input_ids.shape or name == TIME_IDS:
            continue
        further = value.new_zeros(len(value), answers.shape[1], *value.shape[2:])
        if name == "input_ids":
            further = answers.masked_fill(~belongs, 0).to(value)
        elif name == "attention_mask":
            further = belongs.to(value)
        elif name == "token_type_ids":
            further += bridge.answer_type_id
        result[name] = torch.cat([value, further], dim=1)
    if "attention_mask" not in inputs and not bool(belongs.all()):
        ones = torch.ones_like(input_ids)
        result["attention_mask"] = torch.cat([ones, belongs.to(ones)], dim=1)
    return result


def tokens_of_answer(tokens: torch.Tensor, ends: Any, pad: int | None) -> torch.Tensor:
    """
    True up to and with the token that ended each row; what follows fills the batch.

    Args:
        tokens (`torch.LongTensor` of shape `(num_rows, length)`): as `generate()` returns them, without the prompt.
        ends (`int` or `list[int]`, *optional*): ids that end an answer.
        pad (`int`, *optional*): id that fills a batch.

    Returns:
        `torch.BoolTensor` of the same shape.
    """
    is_end = _is_one_of(tokens, ends)
    before_end = count_before(is_end) == 0
    if pad is None or bool(_is_one_of(torch.tensor(pad), ends)):
        return before_end
    # a row that a stop string ended has no end token, only padding behind it
    is_filled = (tokens != pad).long().flip(1).cumsum(dim=1).flip(1) > 0
    return before_end & is_filled


def words_of_answer(tokens: torch.Tensor, ends: Any, pad: int | None) -> torch.Tensor:
    """As [`tokens_of_answer`] without the token that ended the row, unless there is nothing else."""
    belongs = tokens_of_answer(tokens, ends, pad)
    words = belongs & ~_is_one_of(tokens, ends)
    return torch.where(words.any(dim=1, keepdim=True), words, belongs)


def count_before(is_it: torch.Tensor) -> torch.Tensor:
    """How many of a row's earlier tokens are one, `(num_rows, length)`."""
    return is_it.long().cumsum(dim=1) - is_it.long()


def _is_one_of(tokens: torch.Tensor, ids: Any) -> torch.Tensor:
    ids = torch.as_tensor([] if ids is None else ids, dtype=tokens.dtype, device=tokens.device).flatten()
    return torch.isin(tokens, ids)


def _usable(value: Any) -> Any:
    """A tensor that autograd may keep: those made in inference mode are copied."""
    return value.clone() if torch.is_tensor(value) and value.is_inference() else value


@contextmanager
def _as_found(model: Any) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was, with the offset of positions that its base remembers."""
    training = [module for module in model.modules() if module.training]
    backbone = model.base_vlm.base_model
    offsets = getattr(backbone, "rope_deltas", None)
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
        if hasattr(backbone, "rope_deltas"):
            backbone.rope_deltas = offsets


__all__ = [
    "AnswerAttribution",
    "AnswerPasses",
    "attribute_answers",
    "attribute_to_slots",
    "tokens_of_answer",
    "words_of_answer",
]
