"""
What makes training sure: the same small model trained in many ways, each on several seeds.

    python benchmarks/training_recipe.py --folder FOLDER [--arms default anchored ...] [--seeds 100 101 102]
    python benchmarks/training_recipe.py --folder FOLDER --set num_video_tokens=32 num_kept_tokens=128 --steps 700
    python benchmarks/training_recipe.py --folder FOLDER --arms untrained --split clip
    python benchmarks/training_recipe.py --folder FOLDER --checkpoint CHECKPOINT --split clip
    python benchmarks/training_recipe.py --folder FOLDER --table

Every arm changes one thing of the default recipe; `--set` and `--mix` change it for all arms. Frame tokens of clips
and pictures are computed once by `recipe_data.py` and kept in `--folder`; what is trained is the product's own
`LinearVideoTokenizer` and LoRA, on the base's own language model, with pictures in every batch as in stage 2. Clips to
train on come from the split "clip_train". Evaluation asks about "clip_choose", for choosing between recipes, or with
`--split clip` about the clips that figures are reported on. `--checkpoint` evaluates what `train_instruct.py` saved in
two minutes, where `shapes_clips.py evaluate` takes half an hour through the processor and `generate`; a test holds
them to the same answers.

One line of JSON per run goes to `--folder`/results.jsonl, `--table` prints them as Markdown: mean and worst seed.
"""

import argparse
import functools
import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from recipe_data import (
    EVALUATED_FRAMES,
    EVALUATED_SPLITS,
    FIRST_EVALUATED,
    MOTION_KINDS,
    EncodedClips,
    EncodedPictures,
    load_evaluation,
    load_training,
)
from torch import nn
from transformers import AutoProcessor

from transformers_linvt import LinVTForVideoQA, embedded_base_path
from transformers_linvt.demo import shapes
from transformers_linvt.evaluation.arms import PLAIN_ARMS, plain_weights


FRAMES_PER_SECOND = 8.0
FRAME_TOKENS = 16  # of a frame, or picture
# Shares of the questions about clips: kind of clip, kind of question (None: any), share. As in
# examples/shapes_clips.py, and so are the shares of the questions about pictures.
MIX = (
    ("needle", None, 1),
    ("needles", None, 3),
    ("order", "order", 6),
    ("order", None, 1),
    ("static", None, 2),
    ("static", "attribute_count", 1.5),
    ("static", "count", 1),
    ("static", "position", 0.5),
    ("moment", None, 2),
    ("direction", None, 2),
    ("traverse", None, 5),
    ("count", None, 5),
    ("crowd", None, 3),
)
NEEDLES = (("needle", None, 1), ("needles", None, 2))
PICTURE_MIX = {"colour": 1, "shape": 1, "existence": 3, "position": 2, "count": 1, "attribute_count": 4}
CAPTION_KINDS = ("scenes", "static", "needle", "needles", "order", "direction", "moment", "traverse")
SHUFFLED_KINDS = ("direction", "traverse", "count")  # also asked with the frames in random order


@dataclass(frozen=True)
class Recipe:
    """One way to train; the defaults are the recipe of the examples."""

    init: str = "keyframes"
    selection: str = "learned"
    aggregation: str = "linear"
    text_conditioned: bool = True
    pooling_scales: tuple = (1,)
    scale_mode: str = "single"
    num_kept_tokens: int = 0  # 0: four per video token, as by default
    num_video_tokens: int = 32
    bottleneck_size: int = 64
    num_scorer_layers: int = 2
    num_aggregator_layers: int = 2
    steps: int = 1200
    caption_steps: int = 0
    batch_size: int = 48
    picture_share: float = 1 / 3
    learning_rate: float = 1e-3
    scorer_rate: float = 1e-3
    lora_rate: float = 2e-3
    lora_rank: int = 16
    schedule: str = "cosine"
    kept_at_start: int = 0  # k shrinks from here in the first half; not with key frames, where it is no rank
    easy_first: bool = False  # needles and static in the first third, then all
    uses_all_queries: bool = False  # also where less is new than there are video tokens
    spaces_tokens: bool = False  # video tokens in use are spread over the positions that all would take
    condenser: str = "linvt"  # or one of PLAIN_ARMS, with an adapter as large as LinVT
    mix: tuple = MIX


FEW_TOKENS = {
    "num_video_tokens": 4,
    "num_kept_tokens": 64,
    "steps": 300,
    "batch_size": 32,
    "picture_share": 0.0,
    "mix": NEEDLES,
}
CROWD = {
    "num_video_tokens": 16,
    "steps": 600,
    "batch_size": 32,
    "picture_share": 0.0,
    "mix": (("needles", None, 1), ("crowd", None, 2)),
}
ARMS: dict[str, dict] = {
    "default": {},
    "untrained": {"steps": 0},
    "anchored": {"init": "anchored", "kept_at_start": 256},
    "free": {"init": "free", "kept_at_start": 256},
    "k=32": {"num_kept_tokens": 32},
    "k=128": {"num_kept_tokens": 128},
    "k=all": {"num_kept_tokens": 256},
    "M=4": {"num_video_tokens": 4},
    "M=8": {"num_video_tokens": 8},
    "M=16": {"num_video_tokens": 16},
    "M=64": {"num_video_tokens": 64},
    "d=128": {"bottleneck_size": 128},
    "easy tasks first": {"easy_first": True},
    "captions first": {"caption_steps": 150},
    "rate held": {"schedule": "held"},
    "rate x 3": {"learning_rate": 3e-3, "scorer_rate": 3e-3},
    "rate / 3": {"learning_rate": 3e-4, "scorer_rate": 3e-4},
    "slow scorer": {"scorer_rate": 1e-4},
    "LoRA rate / 2": {"lora_rate": 1e-3},
    "LoRA rate / 4": {"lora_rate": 5e-4},
    "no LoRA": {"lora_rank": 0},
    "no pictures": {"picture_share": 0.0},
    "uniform selection": {"selection": "uniform"},
    "novelty selection": {"selection": "novelty"},
    "resampler": {"aggregation": "nonlinear"},
    # does the question matter? where not everything fits: one object of four, condensed to four tokens, and one of
    # eight to sixteen, condensed to as many tokens as usual
    "question seen": FEW_TOKENS,
    "question unseen": {**FEW_TOKENS, "text_conditioned": False},
    "question about a crowd seen": CROWD,
    "question about a crowd unseen": {**CROWD, "text_conditioned": False},
    "without crowds": {"mix": tuple(row for row in MIX if row[0] != "crowd")},
    # the same budget of tokens, data, steps and parameters, without LinVT; "all" has every token and is not cheaper
    **{arm: {"condenser": arm} for arm in PLAIN_ARMS},
}


def parse_mix(entries: Sequence[str]) -> tuple:
    """`needle=2 order:order=5` as in `MIX`: kind of clip, after a colon kind of question, share."""
    mix = []
    for entry in entries:
        kinds, share = entry.split("=")
        kind, _, question_kind = kinds.partition(":")
        if kind not in shapes.CLIP_KINDS:
            raise SystemExit(f"{kind} is no kind of clip. Use {', '.join(shapes.CLIP_KINDS)}.")
        mix.append((kind, question_kind or None, float(share)))
    return tuple(mix)


def parse_settings(entries: Sequence[str]) -> dict:
    """`num_video_tokens=32 init=free` as fields of [`Recipe`]."""
    types = {field.name: field.type for field in fields(Recipe)}
    settings = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if name not in types or types[name] is tuple:
            known = ", ".join(name for name in types if types[name] is not tuple)
            raise SystemExit(f"{name} is no setting. Use {known}.")
        settings[name] = value.lower() in ("true", "1", "yes") if types[name] is bool else types[name](value)
    return settings


# ---------------------------------------------------------------------------------------------------------------------
# The model, and what it is asked
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Prompts:
    """
    Prompts with their answers, padded on the right, which a causal model does not see.

    Attributes:
        input_ids (`torch.Tensor` of shape `(rows, length)`):
            Ids, placeholders for video or picture included.
        labels (`torch.Tensor` of shape `(rows, length)`):
            The ids to predict *at* each place, that is the next ones; -100 outside of answers.
        mask (`torch.Tensor` of shape `(rows, length)`):
            False at padding.
        question_ids (`torch.Tensor` of shape `(rows, words)`), question_mask (`torch.Tensor`, the same shape):
            The question alone, for LinVT.
        positions (`torch.Tensor` of shape `(rows, length)`):
            For the rotary embedding: one after the other, but for gaps between the tokens of a video.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    question_ids: torch.Tensor
    question_mask: torch.Tensor
    positions: torch.Tensor

    def to(self, device: torch.device) -> "Prompts":
        """The same on another device."""
        return Prompts(*(getattr(self, field.name).to(device) for field in fields(self)))


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of different length as one tensor, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _same_length(videos: list[torch.Tensor]) -> torch.Tensor:
    """Videos as one batch; one that needs fewer tokens (k-means of a still clip) has its last again."""
    longest = max(map(len, videos))
    return torch.stack([torch.cat([one, one[-1:].expand(longest - len(one), -1)]) for one in videos])


def weight_of(linear: nn.Module) -> torch.Tensor:
    """The weight of a linear layer, with what LoRA adds to it: for matrices this small less work than beside it."""
    if not hasattr(linear, "lora_A"):
        return linear.weight
    (name,) = linear.lora_A
    added = linear.lora_B[name].weight @ linear.lora_A[name].weight
    weight = linear.base_layer.weight
    return torch.add(weight, added, alpha=linear.scaling[name]).to(weight.dtype)


class PackedLlama:
    """
    The forward pass of a Llama, without the work that training on short answers has no use for.

    Nothing is computed for padding outside of attention, nothing but keys and values of the last layer where no answer
    is; LoRA is added to the weights. The same as the model's own forward up to rounding.
    """

    def __init__(self, language_model: nn.Module) -> None:
        self.model, config = language_model, language_model.config
        self.num_heads, self.eps = config.num_attention_heads, config.rms_norm_eps

    def __call__(
        self, embeds: torch.Tensor, mask: torch.Tensor, wanted: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Args:
            embeds (`torch.Tensor` of shape `(rows, length, dim)`): padded on the right.
            mask (`torch.Tensor` of shape `(rows, length)`): False at padding.
            wanted (`torch.Tensor` of shape `(rows, length)`): True where the last hidden state is asked for.
            positions (`torch.Tensor` of shape `(rows, length)`, *optional*): for the rotary embedding; 0, 1, 2, ...

        Returns:
            `torch.Tensor` of shape `(number wanted, dim)`.
        """
        if positions is None:
            positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        rotation = [one.unsqueeze(1) for one in self.model.rotary_emb(embeds, positions)]  # for every head
        places = mask.flatten().nonzero().squeeze(1)  # of what is no padding
        answers = wanted[mask].nonzero().squeeze(1)
        packed, last = embeds.flatten(0, 1).index_select(0, places), len(self.model.layers) - 1
        for number, layer in enumerate(self.model.layers):
            attended = self._attend(layer, packed, places, mask.shape, rotation)
            if number == last:
                packed, places = packed.index_select(0, answers), places.index_select(0, answers)
            attended = attended.index_select(0, places)
            packed = packed + F.linear(attended, weight_of(layer.self_attn.o_proj))
            packed = packed + self._feed_forward(layer, packed)
        return self._norm(self.model.norm, packed)

    def _attend(self, layer, packed: torch.Tensor, places: torch.Tensor, shape: torch.Size, rotation: tuple):
        projections = (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj)
        weight = torch.cat([weight_of(projection) for projection in projections])
        states = F.linear(self._norm(layer.input_layernorm, packed), weight)
        full = states.new_zeros(shape.numel(), states.shape[-1]).index_copy(0, places, states)
        full = full.view(*shape, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (3, rows, heads, length, width)
        both, (cos, sin) = full[:2], rotation
        half = both.shape[-1] // 2
        turned = torch.cat([-both[..., half:], both[..., :half]], dim=-1)
        q, k = (both * cos + turned * sin).unbind(0)
        return F.scaled_dot_product_attention(q, k, full[2], is_causal=True).transpose(1, 2).reshape(shape.numel(), -1)

    def _feed_forward(self, layer, packed: torch.Tensor) -> torch.Tensor:
        mlp = layer.mlp
        weight = torch.cat([weight_of(mlp.gate_proj), weight_of(mlp.up_proj)])
        gate, up = F.linear(self._norm(layer.post_attention_layernorm, packed), weight).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, weight_of(mlp.down_proj))

    def _norm(self, norm: nn.Module, states: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(states, states.shape[-1:], norm.weight, self.eps)


@dataclass
class PlainVideos:
    """Videos condensed by a plain arm: tokens `(clips, tokens, dim)`, before the adapter."""

    tokens: torch.Tensor

    def select(self, rows: torch.Tensor) -> "PlainVideos":
        """The video of every row."""
        return PlainVideos(self.tokens[rows])


class Adapter(nn.Module):
    """A residual layer of two matrices with about `num_parameters` weights, which starts as the identity."""

    def __init__(self, dim: int, num_parameters: int) -> None:
        super().__init__()
        hidden = max(1, num_parameters // (2 * dim))
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of any shape that ends in `dim`."""
        return tokens + self.layers(tokens)


class SmallModel:
    """A base, the embedded one if not given, with a LinVT of one recipe, or of a checkpoint, fed with frame tokens."""

    head, tail, end = (
        "<|user|>",
        "<|end|><|assistant|>",
        "<|end|>",
    )  # of a prompt: before the video, and around answers

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        model: LinVTForVideoQA | None = None,
        device: torch.device | str = "cpu",
        base: Path | str | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.device = recipe, device
        base = base or embedded_base_path()
        self.model = model or LinVTForVideoQA.from_base(
            base,
            num_video_tokens=recipe.num_video_tokens,
            num_kept_tokens=recipe.num_kept_tokens or None,
            pooling_scales=recipe.pooling_scales,
            scale_mode=recipe.scale_mode,
            bottleneck_size=recipe.bottleneck_size,
            num_heads=4,
            num_scorer_layers=recipe.num_scorer_layers,
            num_aggregator_layers=recipe.num_aggregator_layers,
            init=recipe.init,
            selection=recipe.selection,
            aggregation=recipe.aggregation,
            text_conditioned=recipe.text_conditioned,
        )
        self.model.to(device)
        self.linvt, self.base = self.model.linvt, self.model.base_vlm
        self.linvt.aggregator.uses_all_queries = recipe.uses_all_queries
        self.adapter = None
        if recipe.condenser != "linvt":
            size = sum(parameter.numel() for parameter in self.linvt.parameters())
            self.adapter = Adapter(self.linvt.dim, size).to(device)
        self.base.requires_grad_(False)
        self.language_model = PackedLlama(self.base.model.language_model)
        self.embed = self.model.get_input_embeddings()
        tokenizer = AutoProcessor.from_pretrained(base).tokenizer
        self.ids = functools.cache(lambda text: tokenizer(text).input_ids)
        self.placeholder = tokenizer.convert_tokens_to_ids("<image>")

    def add_lora(self) -> list[nn.Parameter]:
        """LoRA in every linear layer of the language model; its parameters."""
        targets = [
            name
            for name, module in self.base.named_modules()
            if "language_model" in name and isinstance(module, nn.Linear)
        ]
        rank = self.recipe.lora_rank
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), self.base)
        return [parameter for name, parameter in self.base.named_parameters() if "lora_" in name]

    def prompts(self, pairs: Sequence[tuple[str, str]], numbers_of_tokens: Sequence[int]) -> Prompts:
        """Prompts of `(question, answer)` pairs, each with its number of tokens of a video or picture."""
        head, tail = self.ids(self.head), self.ids(self.tail)
        rows, labels, questions, positions = [], [], [], []
        for (question, answer), num_tokens in zip(pairs, numbers_of_tokens, strict=True):
            asked, answered = self.ids(question), self.ids(answer + self.end)
            prompt = head + [self.placeholder] * num_tokens + asked + tail
            rows.append(prompt + answered)
            labels.append([-100] * (len(prompt) - 1) + answered + [-100])
            questions.append(asked)
            positions.append(self._positions(len(rows[-1]), num_tokens))
        mask, question_mask = (padded([[1] * len(row) for row in part], 0).bool() for part in (rows, questions))
        questions = padded(questions, 0), question_mask
        prompts = Prompts(padded(rows, 0), padded(labels, -100), mask, *questions, padded(positions, 0))
        return prompts.to(self.device)

    def _positions(self, length: int, num_tokens: int) -> list[int]:
        """Of a prompt with so many tokens of a video or picture; as many as a picture has stand as those do."""
        room, start = num_tokens, len(self.ids(self.head))
        if self.recipe.spaces_tokens and num_tokens > FRAME_TOKENS:
            room = max(num_tokens, self.recipe.num_video_tokens)
        visual = [start + number * room // num_tokens for number in range(num_tokens)]
        return [*range(start), *visual, *range(start + room, length + room - num_tokens)]

    def refine(self, frame_tokens: torch.Tensor):
        """SVR of clips `(clips, num_frames, 16, 128)`."""
        if self.adapter is not None:
            budget, arm = self.recipe.num_video_tokens, self.recipe.condenser
            condensed = [plain_weights(arm, one, budget) @ one.flatten(0, 1) for one in frame_tokens]
            return PlainVideos(_same_length(condensed))
        times = torch.arange(frame_tokens.shape[1], device=frame_tokens.device) / FRAMES_PER_SECOND
        return self.linvt.refine(frame_tokens, timestamps=times.expand(len(frame_tokens), -1))

    def numbers_of_tokens(self, refined) -> list[int]:
        """How many video tokens the language model sees of each clip."""
        if self.adapter is not None:
            return [refined.tokens.shape[1]] * len(refined.tokens)
        return self.linvt.aggregator.used_queries(refined.num_used).sum(1).tolist()

    def condense(self, refined, prompts: Prompts) -> torch.Tensor:
        """Video tokens in use `(of all clips, 128)`, knowing the questions of the first rows of the prompts."""
        if self.adapter is not None:
            return self.adapter(refined.tokens).flatten(0, 1)
        num_clips = len(refined.kept_tokens)
        question = self.embed(prompts.question_ids[:num_clips])
        condensed = self.linvt.aggregate(refined, question, prompts.question_mask[:num_clips])
        return condensed.video_tokens[condensed.weights.used]

    def logits(self, prompts: Prompts, *visual_tokens: torch.Tensor) -> torch.Tensor:
        """Logits `(answer tokens of all rows, vocabulary)`; `visual_tokens` stand for the placeholders, in order."""
        embeds = self.embed(prompts.input_ids)
        visual = torch.cat([tokens.flatten(0, -2) for tokens in visual_tokens])  # one row per placeholder
        embeds = embeds.masked_scatter((prompts.input_ids == self.placeholder).unsqueeze(-1), visual)
        asked = embeds, prompts.mask, prompts.labels != -100
        where = (prompts.positions,) if self.recipe.spaces_tokens else ()
        return self.base.lm_head(self.language_model(*asked, *where))


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------


class Trainer:
    """
    Captions first if the recipe says so, then questions about clips and pictures.

    Args:
        model ([`SmallModel`]).
        clips (`dict[str, EncodedClips]`), pictures (`dict[str, EncodedPictures]`): to train on.
        seed: of the draws.
        log: called with a line every hundred steps.
    """

    def __init__(
        self,
        model: SmallModel,
        clips: dict[str, EncodedClips],
        pictures: dict[str, EncodedPictures],
        seed: int,
        log: Callable[[str], None] = print,
    ) -> None:
        self.model, self.recipe, self.clips, self.pictures, self.log = model, model.recipe, clips, pictures, log
        self.seed, self.rng, self.num_kept_tokens = seed, np.random.default_rng(seed), model.linvt.num_kept_tokens
        by_kind: dict = defaultdict(list)  # (kind of clip, kind of question) -> positions of clip and question
        for kind, encoded in clips.items():
            for index, questions in enumerate(encoded.questions):
                for number, question in enumerate(questions):
                    by_kind[kind, question.kind].append((index, number))
                    by_kind[kind, None].append((index, number))
        self.by_kind = by_kind

    def run(self) -> dict[str, float]:
        """Train; the mean loss of the last tenth of the steps, and seconds per step by the clock and of the CPU."""
        start, cpu, recipe = time.perf_counter(), time.process_time(), self.recipe
        self.model.linvt.train()
        losses = self._steps(recipe.caption_steps, captions=True) if recipe.caption_steps else []
        losses = self._steps(recipe.steps, captions=False) if recipe.steps else losses
        self.model.linvt.eval()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        steps = recipe.steps + recipe.caption_steps
        if not steps:
            return {}
        last = losses[-max(1, len(losses) // 10) :]
        return {
            "loss": round(float(np.mean(last)), 4),
            "seconds_per_step": round(seconds / steps, 3),
            "cpu_seconds_per_step": round(cpu / steps, 3),
        }

    def _steps(self, steps: int, captions: bool) -> list[float]:
        groups = self._parameter_groups(with_lora=not captions and self.recipe.lora_rank > 0)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
        parameters = [parameter for group in groups for parameter in group["params"]]
        losses = []
        for step in range(steps):
            self._schedule(optimizer, step, steps)
            loss = self.loss(*(self._draw_captions() if captions else self._draw(step / steps)))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            losses.append(loss.item())
            if (step + 1) % 100 == 0:
                self.log(f"step {step + 1}: loss {np.mean(losses[-100:]):.4f}")
        self.model.linvt.num_kept_tokens = self.num_kept_tokens
        return losses

    def _schedule(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        recipe, done = self.recipe, step / steps
        decay = 1.0 if recipe.schedule == "held" else 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * decay
        if recipe.kept_at_start:
            shrink = (self.num_kept_tokens / recipe.kept_at_start) ** min(1.0, 2 * done)
            self.model.linvt.num_kept_tokens = round(recipe.kept_at_start * shrink)

    def _parameter_groups(self, with_lora: bool) -> list[dict]:
        linvt, adapter = self.model.linvt, self.model.adapter
        learned = linvt.aggregator if adapter is None else adapter
        groups = [{"params": list(learned.parameters()), "peak": self.recipe.learning_rate}]
        if adapter is None and (scorer := list(linvt.scorer.parameters())):
            groups.append({"params": scorer, "peak": self.recipe.scorer_rate})
        if with_lora:
            groups.append({"params": self.model.add_lora(), "peak": self.recipe.lora_rate})
        return groups

    def _draw(self, done: float) -> tuple[list, list]:
        """Positions of clips and their questions, then of pictures and theirs."""
        easy = self.recipe.easy_first and done < 1 / 3
        mix = [row for row in self.recipe.mix if not easy or row[0] in ("needle", "needles", "static")]
        num_pictures = round(self.recipe.batch_size * self.recipe.picture_share)
        clips, pictures = [], []
        for choice in self._choose([share for _, _, share in mix], self.recipe.batch_size - num_pictures):
            kind, question_kind, _ = mix[choice]
            options = self.by_kind[kind, question_kind]
            index, number = options[int(self.rng.integers(len(options)))]
            clips.append((kind, index, self.clips[kind].questions[index][number]))
        kinds = list(PICTURE_MIX)
        for choice in self._choose(list(PICTURE_MIX.values()), num_pictures):
            encoded = self.pictures[kinds[choice]]
            index = int(self.rng.integers(len(encoded.questions)))
            pictures.append((kinds[choice], index, encoded.questions[index]))
        return clips, pictures

    def _draw_captions(self) -> tuple[list, list]:
        clips = []
        for kind in self.rng.choice(CAPTION_KINDS, self.recipe.batch_size):
            script = self.clips[kind].scripts[index := int(self.rng.integers(len(self.clips[kind].scripts)))]
            wording = shapes.ask("description", script.pictures[:1], self.rng).question
            clips.append((kind, index, shapes.Question("description", wording, script.caption)))
        return clips, []

    def _choose(self, shares: list[float], count: int) -> np.ndarray:
        return self.rng.choice(len(shares), count, p=np.array(shares, float) / sum(shares))

    def loss(self, clips: list, pictures: list) -> torch.Tensor:
        """Mean cross-entropy of the answers' tokens."""
        visual, numbers = [], []
        if clips:
            frame_tokens = self._stack([self.clips[kind].tokens[index] for kind, index, _ in clips])
            refined = self.model.refine(frame_tokens)
            numbers += self.model.numbers_of_tokens(refined)
        if pictures:
            visual.append(self._stack([self.pictures[kind].tokens[index] for kind, index, _ in pictures]))
            numbers += [visual[0].shape[1]] * len(pictures)
        prompts = self.model.prompts([(q.question, q.answer) for _, _, q in clips + pictures], numbers)
        if clips:
            visual.insert(0, self.model.condense(refined, prompts))
        return F.cross_entropy(self.model.logits(prompts, *visual), prompts.labels[prompts.labels != -100])

    def _stack(self, tokens: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(tokens).to(self.model.device).float()


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


def variants(kind: str, encoded: EncodedClips, num_orders: int = 1) -> Iterator[tuple[str, torch.Tensor, list]]:
    """
    The ways in which clips of one kind are asked about: a name, frame tokens, and the questions of every clip.

    As they are; "shuffled", frames in random order, `num_orders` times over; "backwards", with the answers that hold
    then.
    """
    questions = [script.questions for script in encoded.scripts]
    yield kind, encoded.tokens, questions
    if kind in SHUFFLED_KINDS:
        num_frames = encoded.tokens.shape[1]
        for number in range(num_orders):
            seeds = [[FIRST_EVALUATED + clip, number][: 2 if number else 1] for clip in range(len(questions))]
            orders = [torch.from_numpy(np.random.default_rng(seed).permutation(num_frames)) for seed in seeds]
            shuffled = torch.stack([tokens[order] for tokens, order in zip(encoded.tokens, orders, strict=True)])
            yield f"{kind} shuffled", shuffled, questions
    if kind in MOTION_KINDS:
        backwards = [script.backwards().questions for script in encoded.scripts]
        yield f"{kind} backwards", encoded.tokens.flip(1), backwards


class Evaluator:
    """Right answers of a [`SmallModel`], counted as `[right, asked]` per kind of clip or picture and question."""

    def __init__(self, model: SmallModel, clips_at_once: int = 25, num_orders: int = 1) -> None:
        self.model, self.clips_at_once, self.num_orders = model, clips_at_once, num_orders

    @torch.no_grad()
    def clips(self, clips: dict[str, EncodedClips]) -> dict[str, list[int]]:
        """
        Clips of one number of frames, by kind.

        Names are `"needle | colour"`, with subject `"moment still | colour"`. Static clips are asked about as
        pictures, too, their first frame without LinVT: `"static as a picture | colour"`.
        """
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for kind, encoded in clips.items():
            for name, tokens, questions in variants(kind, encoded, self.num_orders):
                for start in range(0, len(questions), self.clips_at_once):
                    part = slice(start, start + self.clips_at_once)
                    self._count(counts, name, tokens[part], questions[part])
            if kind == "static":
                questions = [script.questions for script in encoded.scripts]
                self._count(counts, "static as a picture", encoded.tokens[:, 0], questions)
        return dict(counts)

    @torch.no_grad()
    def pictures(self, pictures: dict[str, EncodedPictures]) -> dict[str, list[int]]:
        """Single pictures, by kind of question: `"pictures | colour"`."""
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for encoded in pictures.values():
            self._count(counts, "pictures", encoded.tokens, [[question] for question in encoded.questions])
        return dict(counts)

    def _count(self, counts: dict, name: str, tokens: torch.Tensor, questions: Sequence) -> None:
        """Count answers about clips `(clips, num_frames, 16, 128)` or pictures `(pictures, 16, 128)`."""
        right, asked = self.right(tokens, questions), [question for several in questions for question in several]
        for question, one in zip(asked, right, strict=True):
            key = f"{name}{question.subject and ' ' + question.subject} | {question.kind}"
            counts[key][0] += one
            counts[key][1] += 1

    @torch.no_grad()
    def right(self, tokens: torch.Tensor, questions: Sequence) -> list[bool]:
        """
        Whether each question is answered rightly, those about the first clip or picture first.

        Args:
            tokens (`torch.Tensor` of shape `(clips, num_frames, 16, 128)` or `(pictures, 16, 128)`).
            questions (`Sequence`): of every clip or picture, the questions about it.
        """
        asked = [(row, question) for row, several in enumerate(questions) for question in several]
        rows = torch.tensor([row for row, _ in asked], device=self.model.device)
        tokens = tokens.to(self.model.device).float()
        if is_clip := tokens.dim() == 4:
            refined = self.model.refine(tokens).select(rows)
        numbers = self.model.numbers_of_tokens(refined) if is_clip else [tokens.shape[1]] * len(asked)
        prompts = self.model.prompts([(q.question, q.answer) for _, q in asked], numbers)
        visual = self.model.condense(refined, prompts) if is_clip else tokens[rows]
        guesses, is_answer = self.model.logits(prompts, visual).argmax(-1), prompts.labels != -100
        agree = torch.ones_like(is_answer)
        agree[is_answer] = guesses == prompts.labels[is_answer]
        return agree.all(1).tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Many runs
# ---------------------------------------------------------------------------------------------------------------------

SIX = ("colour", "shape", "position", "existence", "count", "attribute_count")
FOUR = ("colour", "shape", "position", "existence")
# Columns of the table: title, and the names whose shares stand beside each other; None is all kinds of question
COLUMNS = (
    (f"static {'/'.join(SIX)}", [("static", kind) for kind in SIX]),
    ("as a picture", [("static as a picture", kind) for kind in SIX]),
    ("needle", [("needle", None)]),
    ("needles", [("needles", None)]),
    ("which first", [("order", "order")]),
    ("traverse/shuffled/backwards", [(f"traverse{name}", None) for name in ("", " shuffled", " backwards")]),
    ("direction/shuffled", [(f"direction{name}", None) for name in ("", " shuffled")]),
    ("count/shuffled", [(f"count{name}", None) for name in ("", " shuffled")]),
    ("scenes", [("scenes", None)]),
    (f"moment, still {'/'.join(FOUR)}", [("moment still", kind) for kind in FOUR]),
    ("moment, short, the same", [("moment short", kind) for kind in FOUR]),
    ("moment, absent", [("moment absent", None)]),
    ("crowd position/existence", [("crowd", "position"), ("crowd", "existence")]),
)


def percent(counts: dict[str, list[int]], name: str, question_kind: str | None) -> float:
    """Percent of right answers under one name; NaN where nothing was asked."""
    chosen = [
        value
        for key, value in counts.items()
        if key.split(" | ")[0] == name and question_kind in (None, key.split(" | ")[1])
    ]
    right, asked = (sum(value[index] for value in chosen) for index in (0, 1))
    return 100 * right / asked if asked else math.nan


def print_table(path: Path, split: str) -> None:
    """Mean and, of several seeds, worst seed of every arm, as Markdown."""
    runs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["split"] == split:
            runs[entry["arm"], entry["changed"], entry["recipe"]["steps"]].append(entry)
    print("| arm | seeds | T | " + " | ".join(title for title, _ in COLUMNS) + " |")
    print("|---|" + "---|" * (len(COLUMNS) + 2))

    def cell(counts: list[dict], names: list) -> str:
        shares = np.array([[percent(one, *name) for name in names] for one in counts])
        means = "/".join(f"{value:.0f}" if value == round(value) else f"{value:.1f}" for value in shares.mean(0))
        return means if len(counts) == 1 else f"{means} ({'/'.join(f'{value:.0f}' for value in shares.min(0))})"

    for (arm, changed, steps), entries in runs.items():
        seeds = ", ".join(str(entry["seed"]) for entry in entries)
        title = f"{arm}{changed and f' ({changed})'}, {steps} steps"
        for num_frames in entries[0]["clips"]:
            cells = [cell([entry["clips"][num_frames] for entry in entries], names) for _, names in COLUMNS]
            print(f"| {title} | {seeds} | {num_frames} | {' | '.join(cells)} |")
        if pictures := [entry["pictures"] for entry in entries if entry["pictures"]]:
            print(f"| {title} | {seeds} | pictures | {cell(pictures, [('pictures', kind) for kind in SIX])} |")


def run_one(
    recipe: Recipe, seed: int, train: tuple, evaluation: tuple, device: str = "cpu", num_orders: int = 1
) -> dict:
    """Train one recipe on one seed and evaluate it."""
    model = SmallModel(recipe, seed, device=device)
    trained = Trainer(model, *train, seed, lambda line: print(line, flush=True)).run() if train else {}
    return {**trained, **evaluate(model, evaluation, num_orders)}


def evaluate(model: SmallModel, evaluation: tuple, num_orders: int = 1) -> dict:
    """What a model answers about clips of every length, and about pictures."""
    start = time.perf_counter()
    model.linvt.eval()
    evaluator, (clips, pictures) = Evaluator(model, num_orders=num_orders), evaluation
    entry = {
        "clips": {num_frames: evaluator.clips(by_kind) for num_frames, by_kind in clips.items()},
        "pictures": evaluator.pictures(pictures),
    }
    return {**entry, "seconds_of_evaluation": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Run every arm on every seed, write results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="frame tokens, see recipe_data.py, and results")
    parser.add_argument("--arms", nargs="+", default=["default"], choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, help="of all arms")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of Recipe, for all arms")
    parser.add_argument("--mix", nargs="+", default=[], metavar="KIND[:QUESTION]=SHARE", help="what is asked")
    parser.add_argument("--split", default="clip_choose", choices=EVALUATED_SPLITS, help="clips to evaluate on")
    parser.add_argument("--frames", nargs="+", type=int, default=list(EVALUATED_FRAMES), help="to evaluate at")
    parser.add_argument("--kinds", nargs="+", default=list(shapes.CLIP_KINDS), choices=shapes.CLIP_KINDS)
    parser.add_argument("--orders", type=int, default=1, help="in which each shuffled clip is shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="to train and evaluate on, such as cuda")
    parser.add_argument("--results", default="results.jsonl", help="file in --folder")
    parser.add_argument("--checkpoint", type=Path, help="evaluate it, train nothing")
    parser.add_argument("--table", action="store_true", help="only print what the results file holds")
    arguments = parser.parse_args()
    results = arguments.folder / arguments.results
    if arguments.table:
        print_table(results, arguments.split)
        return
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # sharp softmax weights and late Adam steps are denormal, and those are slow
    changes = parse_settings(arguments.set)
    changes |= {"mix": parse_mix(arguments.mix)} if arguments.mix else {}
    changes |= {} if arguments.steps is None else {"steps": arguments.steps}
    changed = " ".join([*arguments.set, *arguments.mix])
    clips, pictures = load_evaluation(arguments.folder, arguments.split, arguments.frames)
    clips = {frames: {kind: by_kind[kind] for kind in arguments.kinds} for frames, by_kind in clips.items()}
    if arguments.checkpoint:
        model = LinVTForVideoQA.from_pretrained(arguments.checkpoint)
        entry = {"arm": str(arguments.checkpoint), "changed": "", "seed": 0, "split": arguments.split}
        recipe = Recipe(num_video_tokens=model.config.num_video_tokens, steps=0)
        small = SmallModel(recipe, 0, model, arguments.device)
        entry |= evaluate(small, (clips, pictures), arguments.orders) | {"recipe": asdict(recipe)}
        write(entry, results)
        return
    train = None
    for seed, arm in itertools.product(arguments.seeds, arguments.arms):
        recipe = replace(Recipe(), **{**ARMS[arm], **changes})
        if recipe.steps or recipe.caption_steps:
            train = train or load_training(arguments.folder)
        entry = {"arm": arm, "changed": changed, "seed": seed, "split": arguments.split}
        entry |= run_one(recipe, seed, train, (clips, pictures), arguments.device, arguments.orders)
        entry |= {"recipe": asdict(recipe)}
        write(entry, results)


def write(entry: dict, results: Path) -> None:
    """Keep one line of results, and print what fits on a line of the terminal."""
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
    print(json.dumps({name: entry[name] for name in entry if name not in ("clips", "pictures", "recipe")}))


if __name__ == "__main__":
    main()
