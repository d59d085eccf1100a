"""
The pointing game: is the frame token of most attribution one of the object that the question asks about?

    python benchmarks/pointing_game.py --clips 100 --seed 1000
    python benchmarks/pointing_game.py --split clip_choose --seed 0     (what the variant was chosen on)

On generated clips it is known when and where the asked object is. Of every clip the questions that name an object that
is there are asked, and where the answer is right, the frame token of most attribution is looked at: a hit is one whose
frame and place show the object. Beside the attribution stand simpler variants of it, W alone, a frame token by chance,
and the attribution of another clip's question about the same clip, which should not point at this one's object.
"""

import argparse
import platform
import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
import transformers

import transformers_linvt
from transformers_linvt import LinVTForVideoQA, LinVTProcessor, embedded_model_path
from transformers_linvt.demo.shapes import (
    CLIP_SPLITS,
    COLOURS,
    GRID_SIZE,
    SHAPES,
    ClipScript,
    Question,
    make_clip,
    script_clip,
)
from transformers_linvt.model.attribution import (
    NUM_POINTS,
    AnswerPasses,
    attribute_answers,
    attribute_to_slots,
    words_of_answer,
)


KINDS = ("scenes", "needles")
CHANCE = "a frame token by chance"
OTHER = "attribution of another clip's question"
ATTRIBUTION = f"**attribution** ({NUM_POINTS} points)"


def named_in(question: str) -> tuple[list[str], list[str]]:
    """Colours and shapes that a question names."""
    words = re.findall(r"[a-z]+", question.lower())
    return [colour for colour in COLOURS if colour in words], [shape for shape in SHAPES if shape in words]


def places_of(script: ClipScript, question: str) -> set[tuple[int, int, int]]:
    """Frame, row and column of every sighting of the object that a question names."""
    colours, shapes = named_in(question)
    return {
        (time, thing.row, thing.column)
        for time, picture in enumerate(script.pictures)
        for thing in picture
        if (not colours or thing.colour in colours) and (not shapes or thing.shape in shapes)
    }


def questions_of(script: ClipScript) -> list[Question]:
    """Those that name an object which is there: all but what is not there."""
    return [one for one in script.questions if any(named_in(one.question)) and places_of(script, one.question)]


class Game:
    """The model, and what it points at."""

    def __init__(self, checkpoint: str, num_frames: int) -> None:
        self.model = LinVTForVideoQA.from_pretrained(checkpoint)
        self.processor = LinVTProcessor.from_pretrained(checkpoint)
        self.num_frames = num_frames

    @torch.no_grad()
    def play(self, frames: np.ndarray, questions: list[str]) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Answers, and per way of pointing what every frame token has, `(questions, frames * tokens)`."""
        model = self.model
        video = self.processor.read_video(frames, fps=8)  # as write_clip has them
        features = model.encode_video(**self.processor.video_inputs(video))
        prompts = self.processor.question_inputs(questions).to(model.device)
        prepared, condensed = model.model.prepare(**prompts, video_features=[features] * len(questions))
        model.base_vlm.generation_config = model.generation_config
        generated = model.model.bridge.generate(model.base_vlm, **prepared, max_new_tokens=8)
        answers = generated[:, prompts["input_ids"].shape[1] :]
        texts = [text.strip().lower() for text in self.processor.batch_decode(answers, skip_special_tokens=True)]
        words = words_of_answer(answers, model.generation_config.eos_token_id, model.generation_config.pad_token_id)
        weights = condensed.outputs.weights
        passes = AnswerPasses(model, prompts, condensed, answers, words)
        at_video = passes.gradients_at(1.0)
        nothing = [torch.zeros_like(mean) for mean in passes.means]
        found = {
            ATTRIBUTION: attribute_answers(model, prompts, condensed, answers, words).values,
            "the same, 4 points": attribute_answers(model, prompts, condensed, answers, words, num_points=4).values,
            "gradient at the video, against the mean token": attribute_to_slots(
                weights, at_video, passes.slots, passes.means
            ),
            "gradient x input at the video": attribute_to_slots(weights, at_video, passes.slots, nothing),
            "W alone": (weights.kept() * weights.used.unsqueeze(-1)).sum(dim=1)
            / weights.used.sum(dim=1, keepdim=True),
        }
        return texts, {name: weights.spread(values.unsqueeze(1))[:, 0] for name, values in found.items()}


def hits_of_clip(game: Game, kind: str, seed: int, split: str) -> Iterator[tuple[str, float]]:
    """Way of pointing and whether it hit, for every question of a clip that is answered right."""
    script = script_clip(kind, seed, game.num_frames, split)
    frames, _ = make_clip(kind, seed, game.num_frames, split=split)
    own = questions_of(script)
    others = questions_of(script_clip(kind, seed + 1, game.num_frames, split))[: len(own)]
    texts, found = game.play(frames, [one.question for one in (*own, *others)])
    for row, question in enumerate(own):
        yield "right", float(texts[row] == question.answer)
        if texts[row] != question.answer:
            continue
        asked = places_of(script, question.question)
        for name, values in found.items():
            yield name, float(place_of_most(values[row], game.num_frames) in asked)
        yield CHANCE, len(asked) / (game.num_frames * GRID_SIZE**2)
        # a question about the same object points at it rightly
        if row < len(others) and not places_of(script, others[row].question) & asked:
            most = place_of_most(found[ATTRIBUTION][len(own) + row], game.num_frames)
            yield OTHER, float(most in asked)


def place_of_most(values: torch.Tensor, num_frames: int) -> tuple[int, int, int]:
    """Frame, row and column of the highest of `(frames * tokens,)`, for tokens that are the cells of the clips."""
    index = int(values.argmax())
    if len(values) != num_frames * GRID_SIZE**2:
        raise SystemExit(f"{len(values)} frame tokens are not {num_frames} frames of {GRID_SIZE} x {GRID_SIZE} cells.")
    time, cell = divmod(index, GRID_SIZE**2)
    return time, *divmod(cell, GRID_SIZE)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--checkpoint", default=embedded_model_path(), help="of the embedded base (default: embedded)")
    parser.add_argument("--clips", type=int, default=100, help="of every kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="of the first clip (default: %(default)s)")
    parser.add_argument("--split", choices=CLIP_SPLITS, default="clip", help="(default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="of a clip (default: %(default)s)")
    arguments = parser.parse_args()
    game = Game(arguments.checkpoint, arguments.frames)
    counts: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for kind in KINDS:
        for seed in range(arguments.seed, arguments.seed + arguments.clips):
            for name, hit in hits_of_clip(game, kind, seed, arguments.split):
                counts[name][kind].append(hit)
    print(
        f"{arguments.clips} clips of every kind, {arguments.frames} frames, split {arguments.split!r}, seeds from "
        f"{arguments.seed}; {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"transformers-linvt {transformers_linvt.__version__}\n"
    )
    print(f"| points at the asked object, % of right answers | {' | '.join(KINDS)} |\n|---|{'---|' * len(KINDS)}")
    for name in counts:
        if name != "right":
            print(f"| {name} | {' | '.join(f'{100 * np.mean(counts[name][kind]):.1f}' for kind in KINDS)} |")
    right = (f"{int(sum(counts['right'][kind]))} of {len(counts['right'][kind])}" for kind in KINDS)
    print(f"| (answers that are right) | {' | '.join(right)} |")


if __name__ == "__main__":
    main()
