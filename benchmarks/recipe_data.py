"""
Clips and pictures of shapes as frame tokens: computed once by the frozen vision tower, then trained on many times.

    python benchmarks/recipe_data.py --folder FOLDER [--clips 1500] [--splits clip_choose clip] [--workers 8]

Writes `FOLDER/train/KIND.pt` (16 frames, split "clip_train"), `FOLDER/SPLIT_FRAMES/KIND.pt` (8, 16, 32 and 64 frames)
and pictures with questions, all in float16; about 2.5 GB and ten minutes on one core. What exists is left as it is.
"""

import argparse
import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from transformers_linvt import embedded_base_path
from transformers_linvt.demo import shapes


NUM_FRAMES = 16  # of clips to train on
EVALUATED_FRAMES = (8, 16, 32, 64)
EVALUATED_SPLITS = ("clip_choose", "clip")
FIRST_EVALUATED = 1000  # as in examples/shapes_clips.py: figures of both are of the same clips
MOTION_KINDS = ("direction", "traverse")  # twice as many clips to train on: they have one question each
WORDINGS_PER_QUESTION = 3  # each question of a clip to train on, asked anew
PICTURE_SEEDS = {"train": 0, "clip_choose": 1, "clip": 2}


@dataclass
class EncodedClips:
    """
    Clips of one kind, encoded.

    Attributes:
        tokens (`torch.Tensor` of shape `(clips, num_frames, 16, 128)`):
            Frame tokens, float16.
        scripts (`list[ClipScript]`):
            What each clip shows, and the questions that evaluation asks.
        questions (`list[list[Question]]`):
            What training asks: the same questions in other words and, where the clip allows, about other objects.
    """

    tokens: torch.Tensor
    scripts: list
    questions: list


@dataclass
class EncodedPictures:
    """Pictures of one kind of question, encoded: tokens `(pictures, 16, 128)` in float16, and their questions."""

    tokens: torch.Tensor
    questions: list


class Encoder:
    """The frozen vision tower and projector of the embedded base."""

    def __init__(self) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(embedded_base_path()).eval()
        processor = AutoProcessor.from_pretrained(embedded_base_path()).image_processor
        self.mean, self.std = (255 * torch.tensor(v) for v in (processor.image_mean, processor.image_std))

    @torch.no_grad()
    def __call__(self, frames: np.ndarray) -> torch.Tensor:
        """Pictures `(num, size, size, 3)` uint8 RGB -> tokens `(num, 16, 128)` in float16."""
        pixels = ((torch.from_numpy(frames).float() - self.mean) / self.std).permute(0, 3, 1, 2)
        features = self.model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        return torch.stack(list(features)).half()


@functools.cache
def the_encoder() -> Encoder:
    """The one of this process, loaded when something has to be encoded."""
    return Encoder()


def ask_anew(script: shapes.ClipScript, rng: np.random.Generator) -> Iterator[shapes.Question]:
    """The questions of a clip, each `WORDINGS_PER_QUESTION` times in words of its own."""
    changes = [now for before, now in zip([None, *script.pictures], script.pictures, strict=False) if now != before]
    for question, _ in itertools.product(script.questions, range(WORDINGS_PER_QUESTION)):
        answer = question.answer if question.kind == "existence" else None
        yield shapes.ask(question.kind, changes, rng, answer=answer)


def encode_clips(encoder: Encoder, kind: str, seeds: range, num_frames: int, split: str) -> dict:
    """Draw clips and encode them, a few at a time; the attributes of [`EncodedClips`]."""
    rng = np.random.default_rng([shapes.CLIP_KINDS.index(kind), num_frames])
    tokens, scripts, questions = [], [], []
    for start in range(seeds.start, seeds.stop, 16):
        part = range(start, min(start + 16, seeds.stop))
        frames = np.concatenate([shapes.make_clip(kind, seed, num_frames, split=split)[0] for seed in part])
        tokens.append(encoder(frames).unflatten(0, (len(part), num_frames)))
        scripts += [shapes.script_clip(kind, seed, num_frames, split) for seed in part]
        questions += [list(ask_anew(script, rng)) for script in scripts[-len(part) :]]
    return {"tokens": torch.cat(tokens), "scripts": scripts, "questions": questions}


def encode_pictures(encoder: Encoder, num_pictures: int, split: str) -> dict[str, dict]:
    """Pictures of every kind of question, answers balanced; the attributes of [`EncodedPictures`]."""
    pictures = {}
    for kind in shapes.PICTURE_KINDS:
        source = "train" if split == "train" else "test"
        frames, questions, _ = shapes.make_pictures(kind, num_pictures, PICTURE_SEEDS[split], split=source)
        tokens = [encoder(frames[start : start + 256]) for start in range(0, num_pictures, 256)]
        pictures[kind] = {"tokens": torch.cat(tokens), "questions": questions}
    return pictures


def stored(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds; without one, what `make()` returns, written there. Plain values and tensors only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(make(), partial)
        partial.rename(path)
        print(path, flush=True)
    return torch.load(path, weights_only=False, mmap=True)


def stored_clips(path: Path, *arguments: Any) -> EncodedClips:
    """Clips from a file, encoded first if there is none; arguments of [`encode_clips`] behind the encoder."""
    return EncodedClips(**stored(path, lambda: encode_clips(the_encoder(), *arguments)))


def stored_pictures(path: Path, *arguments: Any) -> dict[str, EncodedPictures]:
    """Pictures from a file, encoded first if there is none; arguments of [`encode_pictures`] behind the encoder."""
    pictures = stored(path, lambda: encode_pictures(the_encoder(), *arguments))
    return {kind: EncodedPictures(**values) for kind, values in pictures.items()}


def load_training(folder: Path, num_clips: int = 1500, num_pictures: int = 3000) -> tuple[dict, dict]:
    """Clips by kind of clip and pictures by kind of question to train on; encoded first where they are missing."""
    clips = {kind: stored_clips(*training_clips(folder, kind, num_clips)) for kind in shapes.CLIP_KINDS}
    return clips, stored_pictures(folder / "pictures_train.pt", num_pictures, "train")


def load_evaluation(
    folder: Path, split: str, all_frames=EVALUATED_FRAMES, num_clips: int = 100, num_pictures: int = 200
) -> tuple[dict, dict]:
    """Clips by number of frames and kind of clip, and pictures by kind of question, to evaluate on."""
    clips: dict[int, dict] = {}
    for num_frames, kind in itertools.product(all_frames, shapes.CLIP_KINDS):
        arguments = evaluated_clips(folder, split, num_frames, kind, num_clips)
        clips.setdefault(num_frames, {})[kind] = stored_clips(*arguments)
    return clips, stored_pictures(folder / f"pictures_{split}.pt", num_pictures, split)


def training_clips(folder: Path, kind: str, num_clips: int) -> tuple:
    """Arguments of [`stored_clips`] for the clips of one kind to train on."""
    seeds = range(num_clips * (1 + (kind in MOTION_KINDS)))
    return folder / "train" / f"{kind}.pt", kind, seeds, NUM_FRAMES, "clip_train"


def evaluated_clips(folder: Path, split: str, num_frames: int, kind: str, num_clips: int) -> tuple:
    """Arguments of [`stored_clips`] for the clips of one kind to evaluate on."""
    seeds = range(FIRST_EVALUATED, FIRST_EVALUATED + num_clips)
    return folder / f"{split}_{num_frames}" / f"{kind}.pt", kind, seeds, num_frames, split


def write_one(name: str, *arguments: Any) -> None:
    """One file, in a process of its own."""
    torch.set_num_threads(1)
    {"clips": stored_clips, "pictures": stored_pictures}[name](*arguments)


def write_all(folder: Path, num_clips: int, num_pictures: int, splits: list[str], workers: int) -> None:
    """Every file that [`load_training`] and [`load_evaluation`] read, the largest first."""
    kinds = sorted(shapes.CLIP_KINDS, key=lambda kind: kind not in MOTION_KINDS)
    files = [("clips", *training_clips(folder, kind, num_clips)) for kind in kinds]
    files.append(("pictures", folder / "pictures_train.pt", num_pictures, "train"))
    for split in splits:
        for num_frames, kind in itertools.product(reversed(EVALUATED_FRAMES), kinds):
            files.append(("clips", *evaluated_clips(folder, split, num_frames, kind, 100)))
        files.append(("pictures", folder / f"pictures_{split}.pt", 200, split))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(write_one, *file) for file in files]:
            done.result()


def main() -> None:
    """Encode everything."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=1500, help="clips per kind to train on, twice as many of motions")
    parser.add_argument("--pictures", type=int, default=3000, help="pictures per kind of question to train on")
    parser.add_argument("--splits", nargs="+", default=list(EVALUATED_SPLITS), choices=EVALUATED_SPLITS)
    parser.add_argument("--workers", type=int, default=1, help="processes that encode, each on one core")
    arguments = parser.parse_args()
    write_all(arguments.folder, arguments.clips, arguments.pictures, arguments.splits, arguments.workers)


if __name__ == "__main__":
    main()
