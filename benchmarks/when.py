"""
When does it appear? Ways to tell a language model the times of a video, and what each learns from such questions.

    python benchmarks/when.py --folder FOLDER [--arms tokens even frames none evidence] [--steps 400] [--seeds 1 2]
    python benchmarks/when.py --folder FOLDER --arms tokens --split clip_choose --digits 0

A way is a layout of the prompt: where times stand among the video tokens, or behind them. Times are whole seconds;
`tokens` is what `add_timestamps="tokens"` writes. The embedded model is asked "When does the red circle appear?" about
clips of 32 frames, a second each, whose objects come in one after the other; its adapter is trained further on clips
of 16 frames that are between half a second and two seconds apart, with LinVT as it is. An answer is right where it is
at most a segment, an eighth of the clip, from the first frame that shows the object. The embedded base has seen no
digit in its training, so that its ten digits have nearly one embedding: their rows are trained too, as PEFT's
`trainable_token_indices` does, unless `--digits 0`.

`evidence` asks "Is there a red circle?" and reads the time off the attribution of the answer, with no time in the
prompt and no training on times.

One line of JSON per run is printed and goes to `--folder`/when.jsonl.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recipe_data import FIRST_EVALUATED, EncodedClips, evaluated_clips, stored, stored_clips, training_clips
from torch import nn
from training_recipe import Recipe, SmallModel, padded

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, embedded_model_path
from transformers_linvt.demo import shapes
from transformers_linvt.model.time_marks import first_frames, marked_tokens
from transformers_linvt.pipeline.video_question_answering import VideoQuestionAnsweringPipeline


KINDS = ("needle", "needles", "order", "moment")
SEGMENTS = 8
EVALUATED = 32  # frames, a second each
WORDING = "When does the {} {} appear?"
Layout = list[tuple[str, float]]  # ("token", its time) or ("time", what is written), in the order of the prompt


def none(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """Video tokens alone."""
    return [("token", 0.0)] * len(times)


def even(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """A time before every eighth of the video tokens: when the first of them begins."""
    return _marked(times, {round(i * len(times) / SEGMENTS) for i in range(SEGMENTS)})


def tokens(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """A time where it goes on most from one video token to the next: what `add_timestamps="tokens"` writes."""
    begins = [int((frames - one).abs().argmin()) for one in times]
    return _marked(times, marked_tokens(begins, [len(_digits(one)) for one in frames.tolist()]))


def behind(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """The same times as of `even`, in a list behind the video tokens."""
    made = even(times, frames)
    return [one for one in made if one[0] == "token"] + [one for one in made if one[0] == "time"]


def per_frame(times: torch.Tensor, frames: torch.Tensor) -> Layout:
    """The times of all frames in a list behind the video tokens: what `add_timestamps=True` writes."""
    return none(times, frames) + [("time", float(one)) for one in frames]


LAYOUTS: dict[str, Callable[[torch.Tensor, torch.Tensor], Layout]] = {
    "none": none, "even": even, "tokens": tokens, "behind": behind, "frames": per_frame,
}  # fmt: skip


def _marked(times: torch.Tensor, starts: set[int]) -> Layout:
    made: Layout = []
    for index, one in enumerate(times.tolist()):
        made += [("time", one)] if index in starts else []
        made.append(("token", one))
    return made


def _digits(seconds: float) -> str:
    return str(int(seconds + 0.5))


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


@dataclass
class Condensed:
    """A question and the video tokens that it is asked of: `(used, 128)`, and the frame that each begins with."""

    row: tuple[str, int, tuple[str, str], int]
    video_tokens: torch.Tensor
    begins: torch.Tensor
    num_frames: int

    @property
    def question(self) -> str:
        """What is asked."""
        return WORDING.format(*self.row[2])


class WhenModel(SmallModel):
    """The embedded model, asked about times in one layout; its LinVT is left as it is."""

    def __init__(self, layout: str, seed: int, with_digits: bool) -> None:
        super().__init__(Recipe(), seed, LinVTForVideoQA.from_pretrained(embedded_model_path()))
        self.linvt.eval()
        self.layout = LAYOUTS[layout]
        self.digits = torch.tensor([self.ids(str(number))[0] for number in range(10)])
        self.added = torch.zeros(10, self.embed.weight.shape[1], requires_grad=with_digits)

    @property
    def table(self) -> torch.Tensor:
        """Embeddings of all tokens, on both sides of the language model."""
        return self.embed.weight.detach().index_add(0, self.digits, self.added)

    @torch.no_grad()
    def condensed(self, asked: Asked, at_once: int = 64) -> list[Condensed]:
        """The video tokens of every question, of frames a second apart."""
        found = []
        for start in range(0, len(asked.rows), at_once):
            rows = asked.rows[start : start + at_once]
            frames = torch.stack([asked.clips[kind].tokens[index] for kind, index, _, _ in rows]).float()
            seconds = torch.arange(frames.shape[1]).float().expand(len(rows), -1)
            question_ids = [self.ids(WORDING.format(*name)) for _, _, name, _ in rows]
            ids, mask = padded(question_ids, 0), padded([[1] * len(one) for one in question_ids], 0).bool()
            made = self.linvt.aggregate(self.linvt.refine(frames, timestamps=seconds), self.embed(ids), mask)
            begins, used = first_frames(made.weights), made.weights.used
            found += [
                Condensed(row, made.video_tokens[i, used[i]].half(), begins[i, used[i]], frames.shape[1])
                for i, row in enumerate(rows)
            ]
        return found

    def logits_of(self, asked: list[Condensed], said: list[str], gaps: list[float]):
        """
        Logits of the answers' tokens and what they should be, and how many tokens the times of each prompt take.

        Args:
            asked: the questions.
            said: of each the answer so far, in digits.
            gaps: of each the seconds between two frames.
        """
        rows, labels, cost = [], [], []
        for one, text, gap in zip(asked, said, gaps, strict=True):
            made, written = [], 0
            for kind, value in self.layout(one.begins * gap, torch.arange(one.num_frames) * gap):
                part = [self.placeholder] if kind == "token" else [self.ids(digit)[0] for digit in _digits(value)]
                written += len(part) * (kind == "time")
                made += part
            prompt = self.ids("<|user|>") + made + self.ids(one.question) + self.ids("<|end|><|assistant|>")
            answer = [self.ids(digit)[0] for digit in text] + self.ids("<|end|>")
            rows.append(prompt + answer)
            labels.append([-100] * (len(prompt) - 1) + answer + [-100])
            cost.append(written)
        ids, wanted, table = padded(rows, 0), padded(labels, -100), self.table
        visual = torch.cat([one.video_tokens.float() for one in asked])
        embeds = F.embedding(ids, table).masked_scatter((ids == self.placeholder).unsqueeze(-1), visual)
        mask = padded([[1] * len(row) for row in rows], 0).bool()
        return self.language_model(embeds, mask, wanted != -100) @ table.T, wanted, cost

    def train(self, asked: list[Condensed], steps: int, seed: int, batch_size: int) -> None:
        """The adapter, and the digits; gaps between frames are drawn anew for every question."""
        rng, losses = np.random.default_rng(seed), []
        lora = [one for name, one in self.base.named_parameters() if "lora_" in name]
        for one in lora:
            one.requires_grad_(True)
        groups = [{"params": lora, "peak": 2e-3}, {"params": [self.added], "peak": 1e-2}][
            : 1 + self.added.requires_grad
        ]
        parameters = [one for group in groups for one in group["params"]]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, foreach=True)
        by_kind = {kind: [one for one in asked if one.row[0] == kind] for kind in KINDS}
        for step in range(steps):
            for group in groups:
                decay = 0.02 + 0.98 * (1 + np.cos(np.pi * step / steps)) / 2
                group["lr"] = group["peak"] * min(1.0, (step + 1) / 30) * decay
            chosen = [by_kind[kind][int(rng.integers(len(by_kind[kind])))] for kind in rng.choice(KINDS, batch_size)]
            gaps = rng.uniform(0.5, 2.0, batch_size).tolist()
            said = [_digits(one.row[3] * gap) for one, gap in zip(chosen, gaps, strict=True)]
            logits, wanted, _ = self.logits_of(chosen, said, gaps)
            loss = F.cross_entropy(logits, wanted[wanted != -100])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            losses.append(loss.item())
            if (step + 1) % 50 == 0:
                print(f"step {step + 1}: loss {np.mean(losses[-50:]):.4f}", flush=True)

    @torch.no_grad()
    def guesses(self, asked: list[Condensed], at_once: int = 100) -> tuple[list[float | None], list[int]]:
        """What the model says of every question, in seconds, and the tokens that times took; greedy, two digits."""
        digits = {int(one): str(number) for number, one in enumerate(self.digits)}
        found: list[float | None] = []
        costs: list[int] = []
        for start in range(0, len(asked), at_once):
            rows = asked[start : start + at_once]
            said = [""] * len(rows)
            for length in range(2):
                logits, wanted, cost = self.logits_of(rows, said, [1.0] * len(rows))
                # the last label of a row is the end of what was said so far; what is predicted there comes next
                words = logits[(wanted != -100).sum(1).cumsum(0) - 1].argmax(-1).tolist()
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
        "the best constant": best_constant([frame for _, _, _, frame in asked.rows], segment),
        "tokens of times": max(costs, default=0),
    }


def best_constant(frames: list[int], segment: float) -> float:
    """Percent that are right within a segment if the same second is said of every object, whichever is best."""
    far = np.abs(np.array(frames)[:, None] - np.arange(EVALUATED))
    return round(100 * float((far <= segment).mean(0).max()), 1)


def kept_condensed(path: Path, model: WhenModel, make: Callable[[], Asked]) -> list[Condensed]:
    """The video tokens of questions from a file, made first if there is none; LinVT is the same in every run."""
    return [Condensed(*one) for one in stored(path, lambda: [astuple(one) for one in model.condensed(make())])]


def asked_in_training(folder: Path, num_clips: int) -> Asked:
    """Questions about the clips to train on."""
    return Asked({kind: stored_clips(*training_clips(folder, kind, num_clips)) for kind in KINDS})


def main() -> None:
    """Train and ask."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["tokens"], choices=[*LAYOUTS, "evidence"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--clips", type=int, default=1500, help="to train on, of every kind")
    parser.add_argument("--evaluated", type=int, default=100, help="clips to ask about, of every kind")
    parser.add_argument("--split", default="clip")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--digits", type=int, default=1, choices=(0, 1), help="whether the rows of digits are trained")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    split, folder = arguments.split, arguments.folder
    clips = {kind: stored_clips(*evaluated_clips(folder, split, EVALUATED, kind, 100)) for kind in KINDS}
    asked, kept = Asked(clips, arguments.evaluated), folder / "when"
    for arm in arguments.arms:
        if arm == "evidence":
            checkpoint = LinVTForVideoQA.from_pretrained(embedded_model_path())
            fresh = SmallModel(Recipe(), arguments.seeds[0]).model
            for name, model in (("trained on other questions", checkpoint), ("untrained", fresh)):
                found = guesses_of_evidence(asked, split, model.eval())
                write(folder, report(arm, asked, found, [], model=name))
            continue
        for seed in arguments.seeds:
            model, began = WhenModel(arm, seed, bool(arguments.digits)), time.process_time()
            evaluated = kept_condensed(kept / f"{split}_{arguments.evaluated}.pt", model, lambda: asked)
            for steps in (0, arguments.steps):
                if steps:
                    make = functools.partial(asked_in_training, folder, arguments.clips)
                    training = kept_condensed(kept / f"train_{arguments.clips}.pt", model, make)
                    model.train(training, steps, seed, arguments.batch_size)
                found, costs = model.guesses(evaluated)
                about = {"steps": steps, "seed": seed, "split": split, "digits": arguments.digits}
                seconds = round(time.process_time() - began)
                write(folder, report(arm, asked, found, costs, **about, cpu_seconds=seconds))


def write(folder: Path, line: dict[str, Any]) -> None:
    """Print a line and keep it."""
    print(json.dumps(line), flush=True)
    with (folder / "when.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
