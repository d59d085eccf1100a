"""
Which of the video an answer depended on: the gradient of its log-probability, taken through W without loss.

The video tokens are `y_m = sum_i W_mi v_i`. Let `g_m` be the gradient by `y_m` of the answer's log-probability (the sum
over its tokens, each given those before it). To first order, had every video token been the mean video token `c`, the
log-probability would have been lower by

    sum_m <g_m, y_m - c> = sum_i a_i,    a_i = sum_m W_mi <g_m, v_i - c>

where the right side holds exactly, because W is linear and its rows sum to 1. `a_i` is the attribution of frame token i.
W alone says where the video tokens come from; the attribution says which of that the answer depended on. It is the
first order: a derivative at the video as it is, not the result of leaving something out.

Subtracting `c` was chosen by measurement (benchmarks/pointing_game.py): without it every token is also credited with
what all tokens of the video have in common.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from .base_vlm import Family
from .errors import AttributionError
from .linear_video_tokenizer import FactoredWeights
from .significance import without_autocast


_LEAST_DOUBT = 1e-6  # 1 - probability below which an answer's gradient is not scaled up any more


@dataclass
class AnswerGradient:
    """
    The gradient of answers' log-probabilities by what the base was given of the videos.

    Attributes:
        tokens (`torch.Tensor` of shape `(num_videos, M, D)`): by the video tokens, float32.
        deepstack (`list` of such tensors): by those of the base's deeper layers.
        log_probs (`torch.Tensor` of shape `(num_rows, length)`): of every answer token, given those before it; 0 where
            a token belongs to no answer.
    """

    tokens: torch.Tensor
    deepstack: list[torch.Tensor]
    log_probs: torch.Tensor


def attribute_answers(
    model: Any, inputs: Mapping[str, Any], condensed: Any, answers: torch.Tensor, belongs: torch.Tensor
) -> torch.Tensor:
    """
    What of the kept tokens of every video the answers depended on.

    One forward and one backward pass of the language model over prompts and answers; videos are not encoded again, no
    parameter gets a gradient, and the model is left as it was.

    Args:
        model ([`LinVTForVideoQA`]).
        inputs: of the prompts, what [`LinVTProcessor`] returned for them.
        condensed ([`CondensedVideos`]): what `model.model.prepare` made of the videos of these prompts.
        answers (`torch.LongTensor` of shape `(num_rows, length)`): the tokens that were generated.
        belongs (`torch.BoolTensor` of shape `(num_rows, length)`): True at those that belong to an answer.

    Returns:
        `torch.Tensor` of shape `(num_videos, num_kept)`, float32: signed, in nats of the answer's log-probability. The
        values of a video sum to `sum_m <g_m, y_m - c>`, over deep layers too.

    Raises:
        AttributionError: the base gives no gradient, or the video tokens are not `W @ frame_tokens`.
    """
    if not condensed.outputs.weights.is_exact:
        raise AttributionError(
            'No attribution of the answer: with aggregation="nonlinear" the video tokens are no averages of frame '
            'tokens, so a gradient does not go through to the frames. Use a model with aggregation="linear".'
        )
    gradient = answer_gradient(model, inputs, condensed, answers, belongs)
    outputs = condensed.outputs
    return attribute_to_kept(
        outputs.weights,
        [gradient.tokens, *gradient.deepstack],
        [outputs.kept_tokens, *condensed.kept_deepstack],
    )


def attribute_to_kept(
    weights: FactoredWeights, gradients: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]
) -> torch.Tensor:
    """
    `a_k = sum over layers and m of A_mk <g_m, v_k - c>`, with c the layer's mean video token.

    Args:
        weights: of the videos.
        gradients (sequence of `torch.Tensor` of shape `(num_videos, M, D)`): by the video tokens of each layer.
        kept (sequence of `torch.Tensor` of shape `(num_videos, num_kept, D)`): the kept tokens of each layer.

    Returns:
        `torch.Tensor` of shape `(num_videos, num_kept)`, float32.
    """
    device = weights.kept_indices.device
    with torch.no_grad(), without_autocast(device):
        shares = weights.kept()
        result = shares.new_zeros(shares.shape[0], shares.shape[2])
        for gradient, values in zip(gradients, kept, strict=True):
            gradient, values = gradient.to(device).float(), values.to(device).float()
            mean = shares.mean(dim=1, keepdim=True) @ values  # (num_videos, 1, D): c
            result += ((shares.transpose(1, 2) @ gradient) * (values - mean)).sum(-1)
    return result


def answer_gradient(
    model: Any, inputs: Mapping[str, Any], condensed: Any, answers: torch.Tensor, belongs: torch.Tensor
) -> AnswerGradient:
    """
    The gradient of the log-probability of every answer by the video tokens of its prompt.

    Args and errors: see [`attribute_answers`].
    """
    adapter, base = model.model.adapter, model.base_vlm
    # one that was written by chance is no picture: what follows it is left out
    belongs = belongs & (_before(answers == model.config.image_token_id) == 0)
    with torch.inference_mode(False), torch.enable_grad(), _as_found(model):
        inputs = {name: _usable(value) for name, value in inputs.items()}
        leaves = [_usable(one.detach()).clone().requires_grad_() for one in (condensed.tokens, *condensed.deepstack)]
        changed = replace(condensed, tokens=leaves[0], deepstack=leaves[1:])
        given = with_answers(adapter.family, inputs, _usable(answers), _usable(belongs))
        rows = model.model.rows_of_videos(inputs, len(leaves[0]))
        try:
            prepared, _ = model.model.prepare(**given, condensed_videos=changed)
            logits = adapter.forward(base, **prepared).logits[:, -answers.shape[1] :].float()
            log_probs = logits.log_softmax(-1).gather(-1, answers.to(logits.device)[..., None])[..., 0]
            log_probs = log_probs.masked_fill(~belongs.to(logits.device), 0.0)
            # a sure answer has a gradient so small that it would vanish in half precision
            scale = 1 / (-torch.expm1(log_probs.detach())).amax(dim=1).clamp(min=_LEAST_DOUBT)
            found = torch.autograd.grad((scale * log_probs.sum(dim=1)).sum(), leaves)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # kernels without a backward say so in many ways
            raise AttributionError(
                f"No attribution of the answer: the base ({model.config.base_config.model_type}) gives no gradient as "
                f"it was loaded ({str(error).splitlines()[0]}). Load it without its quantisation, or with kernels that "
                "have a backward."
            ) from error
    unscaled = [one.float() / scale[rows].view(-1, 1, 1).to(one.device) for one in found]
    return AnswerGradient(unscaled[0], unscaled[1:], log_probs.detach())


def with_answers(
    family: Family, inputs: Mapping[str, Any], answers: torch.Tensor, belongs: torch.Tensor
) -> dict[str, Any]:
    """
    Prompts with their answers behind them, but for the last token, which nothing follows.

    Args:
        family: traits of the base.
        inputs: of the prompts, padded on the left.
        answers, belongs: see [`attribute_answers`].
    """
    answers, belongs = answers[:, :-1], belongs[:, :-1]
    input_ids = inputs["input_ids"]
    result = dict(inputs)
    for name, value in inputs.items():
        if not torch.is_tensor(value) or value.shape[:2] != input_ids.shape:
            continue
        further = value.new_zeros(len(value), answers.shape[1], *value.shape[2:])
        if name == "input_ids":
            further = answers.masked_fill(~belongs, 0).to(value)
        elif name == "attention_mask":
            further = belongs.to(value)
        elif name == "token_type_ids" and family.type_ids == "answer":
            further += 1
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
    ends = [] if ends is None else torch.as_tensor(ends).flatten().tolist()
    is_end = torch.isin(tokens, torch.tensor(ends, dtype=tokens.dtype, device=tokens.device))
    before_end = _before(is_end) == 0
    if pad is None or pad in ends:
        return before_end
    # a row that a stop string ended has no end token, only padding behind it
    is_filled = (tokens != pad).long().flip(1).cumsum(dim=1).flip(1) > 0
    return before_end & is_filled


def _before(is_it: torch.Tensor) -> torch.Tensor:
    """How many of a row's earlier tokens are one, `(num_rows, length)`."""
    return is_it.long().cumsum(dim=1) - is_it.long()


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


__all__ = ["AnswerGradient", "answer_gradient", "attribute_answers", "attribute_to_kept", "tokens_of_answer"]
