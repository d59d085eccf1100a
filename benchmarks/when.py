"""
When does it appear? Ways to tell a language model the times of a video, and what each learns from such questions.

    python benchmarks/when.py --folder FOLDER [--arms none even adaptive frames evidence] [--steps 400] [--seed 100]

A way is a layout of the prompt: where times stand among the video tokens, or behind them. Times are whole seconds.
The small model of `training_recipe.py` is asked "When does the red circle appear?" about clips of 32 frames, a second
each, whose objects come in one after the other; it is trained on clips of 16 frames that are between half a second
and two seconds apart. An answer is right where it is at most a segment, an eighth of the clip, from the first frame
that shows the object. `evidence` asks "Is there a red circle?" and reads the time off the attribution of the answer,
with no time in the prompt and no training on times.

One line of JSON per run is printed and goes to `--folder`/when.jsonl.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recipe_data import FIRST_EVALUATED, EncodedClips, evaluated_clips, stored_clips, training_clips
from torch import nn
from training_recipe import Prompts, Recipe, SmallModel, padded

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, embedded_model_path
from transformers_linvt.demo import shapes
from transformers_linvt.pipeline.video_question_answering import VideoQuestionAnsweringPipeline


KINDS = ("needle", "needles", "order", "moment")
SEGMENTS = 8
BUDGET = 32  # tokens that times may take
EVALUATED = 32  # frames, a second each
WORDING = "When does the {} {} appear?"
Layout = list[tuple[str, float]]  # ("token", its time) or ("time", what is written), in the order of the prompt


def none(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """Video tokens alone."""
    return [("token", 0.0)] * len(times)


def even(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """A time before every eighth of the video tokens: when the first of them begins."""
    starts = {round(i * len(times) / SEGMENTS) for i in range(SEGMENTS)}
    return _marked(times, starts)


def adaptive(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """A time where it goes on most from one video token to the next, as many as the budget holds."""
    steps = torch.diff(times, prepend=times[:1] - 1e6)
    order = [int(i) for i in steps.argsort(descending=True) if steps[i] >= 0.5]
    taken: set[int] = set()
    cost = 0
    for index in order:
        cost += len(_digits(float(times[index])))
        if cost > BUDGET:
            break
        taken.add(index)
    return _marked(times, taken)


def behind(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """The same times as of `even`, in a list behind the video tokens."""
    made = even(times, frames)
    return [one for one in made if one[0] == "token"] + [one for one in made if one[0] == "time"]


def per_frame(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """The times of all frames in a list behind the video tokens: what `add_timestamps` writes."""
    return none(times, frames) + [("time", float(one)) for one in frames]


LAYOUTS: dict[str, Callable[[torch.Tensor, torch.Tensor], Layout]] = {
    "none": none, "even": even, "adaptive": adaptive, "behind": behind, "frames": per_frame,
}  # fmt: skip


def _marked(times: torch.Tensor, starts: set[int]) -> Layout:
    made: Layout = []
    for index, one in enumerate(times.tolist()):
        made += [("time", one)] if index in starts else []
        made.append(("token", one))
    return made


def _digits(seconds: float) -> str:
    return str(int(seconds + 0.5))


def onsets(weights, times: torch.Tensor) -> list[torch.Tensor]:
    """When each video token in use of every video begins: the times of the first frames of its runs, by W."""
    first = times.gather(1, weights.kept_indices.clamp(min=0) // weights.tokens_per_frame)
    made = torch.einsum("bmk,bk->bm", weights.kept().detach().float(), first.float())
    return [one[used] for one, used in zip(made, weights.used, strict=True)]


class Asked:
    """
    Questions about clips: kind and position of the clip, the object in words, and the frame in which it appears.

    About every object but those that are there from the first frame to the last, which do not appear.
    """

    def __init__(self, clips: dict[str, EncodedClips], num_clips: int | None = None) -> None:
        self.clips, self.rows = clips, []
        for kind in KINDS:
            for index, script in enumerate(clips[kind].scripts[:num_clips]):
                seen: dict[tuple[str, str], list[int]] = {}
                for frame, picture in enumerate(script.pictures):
                    for thing in picture:
                        seen.setdefault((thing.colour, thing.shape), []).append(frame)
                partly = {name: frames for name, frames in seen.items() if len(frames) < len(script.pictures)}
                self.rows += [(kind, index, name, frames[0]) for name, frames in partly.items()]


class WhenModel(SmallModel):
    """The small model, asked about times in one layout."""

    layout: Callable[[torch.Tensor, torch.Tensor], Layout] = staticmethod(none)

    def asked(self, tokens: torch.Tensor, times: torch.Tensor, pairs: list[tuple[str, str]]):
        """Prompts and the video tokens of their placeholders, of clips `(rows, T, 16, 128)` at `times` `(rows, T)`."""
        question_ids = [self.ids(question) for question, _ in pairs]
        ids, mask = padded(question_ids, 0), padded([[1] * len(one) for one in question_ids], 0).bool()
        refined = self.linvt.refine(tokens, timestamps=times)
        condensed = self.linvt.aggregate(refined, self.embed(ids), mask)
        rows, labels, cost = [], [], []
        for number, one in enumerate(onsets(condensed.weights, times)):
            made, written = [], 0
            for kind, value in self.layout(one, times[number]):
                part = [self.placeholder] if kind == "token" else self.ids(" ".join(_digits(value)) + ",")[:-1]
                written += len(part) * (kind == "time")
                made += part
            answered = self.ids(" ".join(pairs[number][1]) + "<|end|>")
            prompt = self.ids("<|user|>") + made + question_ids[number] + self.ids("<|end|><|assistant|>")
            rows.append(prompt + answered)
            labels.append([-100] * (len(prompt) - 1) + answered + [-100])
            cost.append(written)
        row_mask = padded([[1] * len(row) for row in rows], 0).bool()
        prompts = Prompts(padded(rows, 0), padded(labels, -100), row_mask, ids, mask)
        return prompts, condensed.video_tokens[condensed.weights.used], cost


def batches(asked: Asked, rng: np.random.Generator, size: int) -> Iterator[tuple]:
    """Batches to train on, without end."""
    by_kind = {kind: [row for row in asked.rows if row[0] == kind] for kind in KINDS}
    while True:
        rows = [by_kind[kind][int(rng.integers(len(by_kind[kind])))] for kind in rng.choice(KINDS, size)]
        tokens = torch.stack([asked.clips[kind].tokens[index] for kind, index, _, _ in rows]).float()
        gaps = torch.from_numpy(rng.uniform(0.5, 2.0, (size, 1))).float()
        times = torch.arange(tokens.shape[1])[None] * gaps
        pairs = [
            (WORDING.format(*name), _digits(float(times[number, frame])))
            for number, (_, _, name, frame) in enumerate(rows)
        ]
        yield tokens, times, pairs


def train(model: WhenModel, asked: Asked, steps: int, seed: int, batch_size: int) -> None:
    """LoRA and LinVT, as `training_recipe.py` trains them."""
    groups = [
        {"params": list(model.linvt.parameters()), "peak": 1e-3},
        {"params": model.add_lora(), "peak": model.recipe.lora_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
    parameters = [one for group in groups for one in group["params"]]
    made, losses = batches(asked, np.random.default_rng(seed), batch_size), []
    model.linvt.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            decay = 0.02 + 0.98 * (1 + np.cos(np.pi * step / steps)) / 2
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 50) * decay
        prompts, visual, _ = model.asked(*next(made))
        loss = F.cross_entropy(model.logits(prompts, visual), prompts.labels[prompts.labels != -100])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)
    model.linvt.eval()


@torch.no_grad()
def guesses(model: WhenModel, asked: Asked) -> tuple[list[float | None], list[int]]:
    """What the model says of every question, in seconds, and the tokens that times took; greedy, two digits."""
    digits = {model.ids(str(number))[0]: str(number) for number in range(10)}
    found: list[float | None] = []
    costs: list[int] = []
    for start in range(0, len(asked.rows), 64):
        rows = asked.rows[start : start + 64]
        tokens = torch.stack([asked.clips[kind].tokens[index] for kind, index, _, _ in rows]).float()
        times = torch.arange(tokens.shape[1]).float().expand(len(rows), -1)
        said = [""] * len(rows)
        for length in range(2):
            pairs = [(WORDING.format(*name), words) for (_, _, name, _), words in zip(rows, said, strict=True)]
            prompts, visual, cost = model.asked(tokens, times, pairs)
            # the last label of a row is the end of what was said so far; what is predicted there comes next
            ends = (prompts.labels != -100).sum(1).cumsum(0) - 1
            words = model.logits(prompts, visual)[ends].argmax(-1).tolist()
            said = [
                text + digits.get(word, "") if len(text) == length else text
                for text, word in zip(said, words, strict=True)
            ]
        found += [float(text) if text else None for text in said]
        costs += cost
    return found, costs


def guesses_of_evidence(asked: Asked, split: str, model: Any) -> list[float | None]:
    """The beginning of the strongest moment of the answer to "Is there a ...?", through the pipeline."""
    processor = LinVTProcessor.from_pretrained(embedded_model_path())
    pipe = VideoQuestionAnsweringPipeline(model=model, processor=processor, device="cpu")
    found: list[float | None] = []
    for kind, index in dict.fromkeys((kind, index) for kind, index, _, _ in asked.rows):
        names = [name for of_kind, of_clip, name, _ in asked.rows if (of_kind, of_clip) == (kind, index)]
        frames, _ = shapes.make_clip(kind, FIRST_EVALUATED + index, EVALUATED, split=split)
        answered = pipe(
            video=frames, question=[f"Is there a {colour} {shape}?" for colour, shape in names],
            timestamps=[float(second) for second in range(EVALUATED)], num_frames=EVALUATED, return_evidence=True,
        )  # fmt: skip
        for one in answered:
            moments = one["evidence"].moments(1)
            found.append(moments[0].start if moments else None)
    return found


def report(arm: str, asked: Asked, found: list[float | None], costs: list[int], **more: Any) -> dict[str, Any]:
    """Shares of right answers, in all and by kind of clip."""
    segment = EVALUATED / SEGMENTS
    off = [
        float("inf") if guess is None else abs(guess - frame)
        for guess, (_, _, _, frame) in zip(found, asked.rows, strict=True)
    ]

    def share(least: float, kind: str | None = None) -> float:
        own = [one for one, row in zip(off, asked.rows, strict=True) if kind in (None, row[0])]
        return round(100 * float(np.mean([one <= least for one in own])), 1)

    return {
        "arm": arm,
        **more,
        "asked": len(off),
        "within a segment": share(segment),
        "within a second": share(1.0),
        **{kind: share(segment, kind) for kind in KINDS},
        "tokens of times": max(costs, default=0),
    }


def main() -> None:
    """Train and ask."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["none", "even", "adaptive"], choices=[*LAYOUTS, "evidence"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--clips", type=int, default=1500, help="to train on, of every kind")
    parser.add_argument("--evaluated", type=int, default=100, help="clips to ask about, of every kind")
    parser.add_argument("--split", default="clip")
    parser.add_argument("--seed", type=int, default=100)
    arguments = parser.parse_args()
    split, folder = arguments.split, arguments.folder
    clips = {kind: stored_clips(*evaluated_clips(folder, split, EVALUATED, kind, 100)) for kind in KINDS}
    asked = Asked(clips, arguments.evaluated)
    for arm in arguments.arms:
        if arm == "evidence":
            checkpoint = LinVTForVideoQA.from_pretrained(embedded_model_path())
            fresh = SmallModel(Recipe(), arguments.seed).model
            for name, model in (("trained on other questions", checkpoint), ("untrained", fresh)):
                found = guesses_of_evidence(asked, split, model.eval())
                write(folder, report(arm, asked, found, [], model=name))
            continue
        model = WhenModel(Recipe(), arguments.seed)
        model.layout = LAYOUTS[arm]
        model.linvt.eval()
        began = time.monotonic()
        for steps in (0, arguments.steps):
            if steps:
                training = {kind: stored_clips(*training_clips(folder, kind, arguments.clips)) for kind in KINDS}
                train(model, Asked(training), steps, arguments.seed, arguments.batch_size)
            found, costs = guesses(model, asked)
            seconds = round(time.monotonic() - began)
            write(folder, report(arm, asked, found, costs, steps=steps, seed=arguments.seed, seconds=seconds))


def write(folder: Path, line: dict[str, Any]) -> None:
    """Print a line and keep it."""
    print(json.dumps(line), flush=True)
    with (folder / "when.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
