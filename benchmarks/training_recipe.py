"""
What makes training sure: the same small model trained in many ways, each on several seeds.

    python benchmarks/training_recipe.py --folder clips [--arms default free anchored ...] [--seeds 100 101 102]
    python benchmarks/training_recipe.py --folder clips --table

Every arm changes one thing of the default recipe. The frame tokens of all clips are computed once, by the frozen
vision tower of the embedded base, and kept in `--folder` (about 1 GB); what is trained afterwards is the product's own
`LinearVideoTokenizer` and LoRA, on the base's own language model. Clips to train on come from the split "clip_train",
clips to choose on from "clip_choose"; the split "clip", which figures are reported on, is never touched here.

One line of JSON per run goes to `--folder`/results.jsonl, `--table` prints them as Markdown: mean and worst seed.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import AutoProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from transformers_linvt import LinVTForVideoQA, embedded_base_path, shapes


NUM_FRAMES, LONGER = 16, 32
FRAMES_PER_SECOND = 8.0
# Shares of the training examples: kind of clip, kinds of question (None: any), share
MIX = (
    ("needle", None, 2),
    ("needles", None, 4),
    ("order", ("order",), 5),
    ("order", None, 1),
    ("static", None, 2),
    ("direction", None, 1),
    ("count", None, 1),
)
FEW_ORDER_QUESTIONS = tuple((kind, None, 2 if kind == "order" else 1) for kind in shapes.CLIP_KINDS)
BARS = (("needle", 16), ("needles", 16), ("order", 16), ("needle", 32), ("needles", 32), ("order", 32))


@dataclass(frozen=True)
class Recipe:
    """One way to train; the defaults are the recipe of the examples."""

    init: str = "anchored"
    selection: str = "learned"
    aggregation: str = "linear"
    text_conditioned: bool = True
    num_kept_tokens: int = 64
    num_video_tokens: int = 16
    bottleneck_size: int = 64
    steps: int = 400
    caption_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    scorer_rate: float = 1e-3
    lora_rate: float = 2e-3
    lora_rank: int = 16
    schedule: str = "cosine"
    kept_at_start: int = 0  # k shrinks from here to num_kept_tokens in the first half
    score_noise: float = 0.0  # Gumbel noise on the scores, falling to 0 over the first 70 %
    merge: bool = False  # tokens that are not kept are averaged into the nearest kept one
    times_in_prompt: bool = False  # the seconds of first and last frame are said before the question
    sort_by_time: bool = False  # video tokens in the order of their mean time
    tasks: str = "mixed"  # "easy first": needles and static in the first third, then all
    mix: tuple = MIX


ARMS: dict[str, dict] = {
    "default": {},
    "free": {"init": "free"},
    "slow scorer": {"scorer_rate": 1e-4},
    "k shrinks from all": {"kept_at_start": 256},
    "free, k shrinks": {"init": "free", "kept_at_start": 256},
    "noise on scores": {"score_noise": 1.0},
    "merge unselected": {"merge": True},
    "k=32": {"num_kept_tokens": 32},
    "k=128": {"num_kept_tokens": 128},
    "k=all": {"num_kept_tokens": 256},
    "M=8": {"num_video_tokens": 8},
    "M=32": {"num_video_tokens": 32},
    "d=128": {"bottleneck_size": 128},
    "time in prompt": {"times_in_prompt": True},
    "sorted by time": {"sort_by_time": True},
    "easy tasks first": {"tasks": "easy first"},
    "few order questions": {"mix": FEW_ORDER_QUESTIONS},
    "captions first": {"caption_steps": 150},
    "rate held": {"schedule": "held"},
    "rate x 3": {"learning_rate": 3e-3, "scorer_rate": 3e-3},
    "rate / 3": {"learning_rate": 3e-4, "scorer_rate": 3e-4},
    "LoRA rate / 4": {"lora_rate": 5e-4},
    "no LoRA": {"lora_rank": 0},
    "question unseen": {"text_conditioned": False},
    "uniform selection": {"selection": "uniform"},
    "novelty selection": {"selection": "novelty"},
    "resampler": {"aggregation": "nonlinear"},
}


# ---------------------------------------------------------------------------------------------------------------------
# Clips as frame tokens
# ---------------------------------------------------------------------------------------------------------------------


def encode_clips(path: Path, split: str, num_frames: int, clips_per_kind: int) -> dict:
    """Frame tokens `(clips, num_frames, 16, 128)` in float16, with kinds, questions and captions; kept on disk."""
    if path.exists():
        return torch.load(path, weights_only=False)
    model = LinVTForVideoQA.from_base(embedded_base_path()).base_vlm
    processor = AutoProcessor.from_pretrained(embedded_base_path()).image_processor
    mean, std = (255 * torch.tensor(values) for values in (processor.image_mean, processor.image_std))
    tokens, clips = [], []
    for kind in shapes.CLIP_KINDS:
        for seed in range(clips_per_kind):
            frames, _ = shapes.make_clip(kind, seed, num_frames, split=split)
            script = shapes.script_clip(kind, seed, num_frames, split)
            pixels = ((torch.from_numpy(frames).float() - mean) / std).permute(0, 3, 1, 2)
            with torch.no_grad():
                features = model.base_model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
            tokens.append(torch.stack(list(features)).half())
            clips.append({"kind": kind, "questions": [tuple(q) for q in script.questions], "caption": script.caption})
    encoded = {"tokens": torch.stack(tokens), "clips": clips}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(encoded, path)
    return encoded


# ---------------------------------------------------------------------------------------------------------------------
# One run
# ---------------------------------------------------------------------------------------------------------------------


class Run:
    """One model, trained by one recipe on one seed."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self.recipe, self.rng = recipe, np.random.default_rng(seed)
        self.model = LinVTForVideoQA.from_base(
            embedded_base_path(),
            num_video_tokens=recipe.num_video_tokens,
            num_kept_tokens=recipe.num_kept_tokens,
            pooling_scales=(1,),
            scale_mode="single",
            bottleneck_size=recipe.bottleneck_size,
            num_heads=4,
            num_scorer_layers=2,
            num_aggregator_layers=2,
            init=recipe.init,
            selection=recipe.selection,
            aggregation=recipe.aggregation,
            text_conditioned=recipe.text_conditioned,
        )
        self.linvt, self.base = self.model.linvt, self.model.base_vlm
        self.tokenizer = AutoProcessor.from_pretrained(embedded_base_path()).tokenizer
        self.noise = 0.0
        self._add_noise()

    def _add_noise(self) -> None:
        score = self.linvt.scorer._score

        def noisy(*inputs):
            scores = score(*inputs)
            if self.noise and self.linvt.training:
                scores = scores + self.noise * torch.distributions.Gumbel(0.0, 1.0).sample(scores.shape)
            return scores

        self.linvt.scorer._score = noisy

    def batch(self, pairs: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
        """Prompts with answers, padded on the right; labels are the answers."""
        rows, labels, questions = [], [], []
        for question, answer in pairs:
            asked = self.tokenizer(question).input_ids
            extra = f"0 to {int(self.seconds)} seconds" if self.recipe.times_in_prompt else ""
            said = self.tokenizer(extra).input_ids if extra else []
            head, tail = self.tokenizer("<|user|>").input_ids, self.tokenizer("<|end|><|assistant|>").input_ids
            video = self.tokenizer.convert_tokens_to_ids(["<image>"]) * self.recipe.num_video_tokens
            prompt = head + video + said + asked + tail
            answered = self.tokenizer(f"{answer}<|end|>").input_ids
            rows.append(prompt + answered)
            labels.append([-100] * len(prompt) + answered)
            questions.append(asked)
        return {
            "input_ids": padded(rows, 0),
            "labels": padded(labels, -100),
            "attention_mask": padded([[1] * len(row) for row in rows], 0),
            "question_ids": padded(questions, 0),
            "question_mask": padded([[1] * len(row) for row in questions], 0).bool(),
        }

    def logits(self, tokens: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits `(answer tokens of the batch, vocabulary)` at the places of the labels."""
        times = torch.arange(tokens.shape[1]) / FRAMES_PER_SECOND
        self.seconds = float(times[-1])
        refined = self.linvt.refine(tokens, timestamps=times.expand(len(tokens), -1))
        if self.recipe.merge:
            refined = replace(refined, kept_tokens=merge_unselected(refined, tokens))
        question = self.model.get_input_embeddings()(batch["question_ids"])
        output = self.linvt.aggregate(refined, question, batch["question_mask"])
        video = output.video_tokens
        if self.recipe.sort_by_time:
            order = output.weights.per_frame().matmul(times).argsort(1)
            video = video.gather(1, order.unsqueeze(-1).expand_as(video))
        encoded = {"image": BaseModelOutputWithPooling(pooler_output=list(video))}
        hidden = self.base.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            mm_encoder_outputs=encoded,
            use_cache=False,
        ).last_hidden_state
        return self.base.lm_head(hidden[:, :-1][batch["labels"][:, 1:] != -100])

    def train(self, data: dict) -> None:
        """Captions first if the recipe says so, then questions."""
        self.seconds = (NUM_FRAMES - 1) / FRAMES_PER_SECOND
        by_kind = defaultdict(list)
        for index, clip in enumerate(data["clips"]):
            by_kind[clip["kind"]].append(index)
        self.linvt.train()
        if self.recipe.caption_steps:
            self._run(data, by_kind, self.recipe.caption_steps, captions=True)
        self._run(data, by_kind, self.recipe.steps, captions=False)

    def _run(self, data: dict, by_kind: dict, steps: int, captions: bool) -> None:
        recipe = self.recipe
        groups = self._parameter_groups(with_lora=not captions and recipe.lora_rank > 0)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
        parameters = [parameter for group in groups for parameter in group["params"]]
        for step in range(steps):
            done = step / steps
            decay = 1.0 if recipe.schedule == "held" else 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * decay
            if recipe.kept_at_start:
                shrink = (recipe.num_kept_tokens / recipe.kept_at_start) ** min(1.0, 2 * done)
                self.linvt.num_kept_tokens = round(recipe.kept_at_start * shrink)
            self.noise = recipe.score_noise * max(0.0, 1 - done / 0.7)
            indices, pairs = self._draw(data, by_kind, captions, done)
            batch = self.batch(pairs)
            logits = self.logits(data["tokens"][indices].float(), batch)
            labels = batch["labels"][:, 1:]
            loss = F.cross_entropy(logits, labels[labels != -100])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        self.linvt.num_kept_tokens, self.noise = recipe.num_kept_tokens, 0.0

    def _parameter_groups(self, with_lora: bool) -> list[dict]:
        scorer = list(self.linvt.scorer.parameters())
        rest = list(self.linvt.aggregator.parameters())
        groups = [{"params": rest, "peak": self.recipe.learning_rate}]
        if scorer:
            groups.append({"params": scorer, "peak": self.recipe.scorer_rate})
        if with_lora:
            targets = [
                name
                for name, module in self.base.named_modules()
                if "language_model" in name and isinstance(module, nn.Linear)
            ]
            rank = self.recipe.lora_rank
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), self.base)
            lora = [parameter for name, parameter in self.base.named_parameters() if "lora_" in name]
            groups.append({"params": lora, "peak": self.recipe.lora_rate})
        return groups

    def _draw(self, data: dict, by_kind: dict, captions: bool, done: float) -> tuple[list[int], list]:
        easy = self.recipe.tasks == "easy first" and done < 1 / 3
        mix = [row for row in self.recipe.mix if not easy or row[0] in ("needle", "needles", "static")]
        shares = np.array([share for _, _, share in mix], float)
        indices, pairs = [], []
        for choice in self.rng.choice(len(mix), self.recipe.batch_size, p=shares / shares.sum()):
            kind, wanted, _ = mix[choice]
            index = int(self.rng.choice(by_kind[kind]))
            clip = data["clips"][index]
            asked = [q for q in clip["questions"] if wanted is None or q[0] in wanted]
            if captions:
                pairs.append(("describe the video.", clip["caption"]))
            else:
                pairs.append(asked[int(self.rng.integers(len(asked)))][1:])
            indices.append(index)
        return indices, pairs

    @torch.no_grad()
    def evaluate(self, data: dict) -> dict[str, float]:
        """Percent of right answers per kind of clip; of order clips only "which came first" counts."""
        self.linvt.eval()
        right = defaultdict(list)
        items = [
            (index, clip["kind"], question)
            for index, clip in enumerate(data["clips"])
            for question in clip["questions"]
            if clip["kind"] != "order" or question[0] == "order"
        ]
        for start in range(0, len(items), 128):
            chunk = items[start : start + 128]
            batch = self.batch([question[1:] for _, _, question in chunk])
            guesses = self.logits(data["tokens"][[index for index, _, _ in chunk]].float(), batch).argmax(-1)
            labels = batch["labels"][:, 1:]
            agree = torch.ones(labels.shape, dtype=torch.bool)
            agree[labels != -100] = guesses == labels[labels != -100]
            for (_, kind, _), ok in zip(chunk, agree.all(1).tolist(), strict=True):
                right[kind].append(ok)
        return {kind: round(100 * float(np.mean(values)), 1) for kind, values in right.items()}


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of different length as one tensor, padded on the right."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def merge_unselected(refined, tokens: torch.Tensor) -> torch.Tensor:
    """Kept tokens, each averaged with the tokens that were not kept and lie nearest to it; still weighted averages."""
    batch, num_frames, tokens_per_frame, dim = tokens.shape
    side = math.isqrt(tokens_per_frame)
    frame, place = refined.kept_indices // tokens_per_frame, refined.kept_indices % tokens_per_frame
    kept = torch.stack([frame, place // side, place % side], -1).float()
    every = torch.arange(num_frames * tokens_per_frame)
    place = every % tokens_per_frame
    every = torch.stack([every // tokens_per_frame, place // side, place % side], -1).float().expand(batch, -1, -1)
    nearest = torch.cdist(every, kept).argmin(-1)
    weights = F.one_hot(nearest, kept.shape[1]).to(tokens.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1)
    return weights.transpose(1, 2) @ tokens.flatten(1, 2)


# ---------------------------------------------------------------------------------------------------------------------
# Many runs
# ---------------------------------------------------------------------------------------------------------------------


def print_table(path: Path) -> None:
    """Mean and worst seed of every arm, as Markdown."""
    runs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        runs[entry["arm"], entry["steps"]].append(entry)
    print("| arm | seeds | steps | s / run | " + " | ".join(f"{kind} T={length}" for kind, length in BARS) + " |")
    print("|---|" + "---|" * (len(BARS) + 3))
    for (arm, steps), entries in runs.items():
        cells = []
        for kind, length in BARS:
            values = [entry[f"T={length}"][kind] for entry in entries]
            cells.append(f"{np.mean(values):.1f} ({min(values):.1f})")
        seconds = np.mean([entry["seconds"] for entry in entries])
        print(f"| {arm} | {len(entries)} | {steps} | {seconds:.0f} | {' | '.join(cells)} |")


def main() -> None:
    """Encode the clips once, run every arm on every seed, write results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--clips", type=int, default=1500, help="clips per kind to train on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what results.jsonl holds")
    arguments = parser.parse_args()
    results = arguments.folder / "results.jsonl"
    if arguments.table:
        print_table(results)
        return
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)  # sharp softmax weights and late Adam steps are denormal, and those are slow
    train = encode_clips(arguments.folder / "train.pt", "clip_train", NUM_FRAMES, arguments.clips)
    choose = {
        t: encode_clips(arguments.folder / f"choose_{t}.pt", "clip_choose", t, 100) for t in (NUM_FRAMES, LONGER)
    }
    for seed in arguments.seeds:
        for arm in arguments.arms:
            recipe = replace(Recipe(steps=arguments.steps), **ARMS[arm])
            start = time.perf_counter()
            run = Run(recipe, seed)
            run.train(train)
            entry = {"arm": arm, "seed": seed, "steps": recipe.steps, "seconds": time.perf_counter() - start}
            entry |= {f"T={length}": run.evaluate(data) for length, data in choose.items()}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry | {"recipe": asdict(recipe)}) + "\n")
            print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    main()
