# /// script
# dependencies = ["transformers-linvt[training]", "matplotlib"]
# ///
"""
Clips of coloured shapes to train a LinVT on, and the figures of a LinVT that was trained on them.

    python examples/shapes_clips.py draw --output clips
    python examples/shapes_clips.py evaluate CHECKPOINT [--frames 8 16 32 64] [--report report.json]
    python examples/shapes_clips.py plot STATE.json [STATE.json ...] --output curves.png
    python examples/shapes_clips.py embed CHECKPOINT

`draw` writes a folder as anybody's own data would be: H.264 files, `align.jsonl` with a caption per clip for stage 1
and `instruct.jsonl` with a question and an answer per line for stage 2. Nothing below this script knows how the clips
came about; `train_alignment.py` and `train_instruct.py` read the folder as they would read yours.

`evaluate` asks about clips that neither `draw` nor the choice of the recipe ever touched (`--choosing` asks about
others), and prints right answers in percent with 95 % intervals (Wilson) per kind of clip,
question and number of frames. Clips are given as frames, all of them are used, and an answer is right when it is the
right words and nothing else. Where an answer depends on the order of the frames, the clip is also shown shuffled, and
motions backwards, with the answer that holds then; of a clip that stands still its first frame is also shown as a
picture, and asked the same. The most that guessing without the order can reach is printed beside.

`embed` makes a checkpoint the one that the package carries; `make train-linvt-shapes` runs everything in order.
"""

import argparse
import json
import platform
import shutil
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from transformers_linvt import embedded_base_path, embedded_model_path, save_instructed
from transformers_linvt.demo import shapes
from transformers_linvt.evaluation.statistics import wilson


FRAMES_PER_SECOND = 8
FIRST_CLIP = 1000  # of those that figures are reported on; earlier ones were looked at while the recipe was chosen
CAPTION_KINDS = ("scenes", "static", "needle", "needles", "order", "direction", "moment", "traverse")
MOTION_KINDS = ("direction", "traverse")  # twice as many clips: each has one question only
# What is asked in stage 2: kind of clip, kind of question (None: any that the clip answers), share. "Which came
# first" needs many examples: with one in twenty it was not learned, with three in ten always (docs/train.md). Motions
# and how often something appears need thousands. A crowd does not fit into the video tokens: the question decides
# there what is kept, and is learned from.
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
# Questions about single pictures, the hard ones more often, so that the adapter leaves what the base knows
# about those as it was: without them counting fell from 100 % to 20 % (docs/train.md).
PICTURE_SHARE = 1 / 3
PICTURE_MIX = {
    "colour": 1,
    "shape": 1,
    "existence": 3,
    "position": 2,
    "count": 1,
    "attribute_count": 4,
}
SHUFFLED_KINDS = ("direction", "traverse", "count")  # also asked with the frames in random order


# ---------------------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------------------


def draw_clip(path: Path, kind: str, seed: int, num_frames: int) -> None:
    """One file, of pixels as large as the model sees: colours at half the resolution (H.264) are enough for it."""
    frames, _ = shapes.make_clip(kind, seed, num_frames, split="clip_train")
    shapes.write_clip(path, frames, fps=FRAMES_PER_SECOND, scale=1)


def clips_of(kind: str, num_clips: int) -> int:
    """How many clips of one kind are drawn."""
    return num_clips * (1 + (kind in MOTION_KINDS))


def ask_about(kind: str, seed: int, num_frames: int, wanted: str | None, rng: np.random.Generator) -> shapes.Question:
    """A question about a clip, in words of its own: the same clip can be asked many."""
    script = shapes.script_clip(kind, seed, num_frames, "clip_train")
    kinds = (wanted,) if wanted else tuple(question.kind for question in script.questions)
    changes = [now for before, now in zip([None, *script.pictures], script.pictures, strict=False) if now != before]
    while True:  # ends: the clip's own questions are of these kinds
        question_kind = kinds[int(rng.integers(len(kinds)))]
        answer = ("yes", "no")[int(rng.integers(2))] if question_kind == "existence" else None
        question = shapes.ask(question_kind, changes, rng, answer=answer)
        if question is not None:
            return question


def draw(arguments: argparse.Namespace) -> None:
    """Write clips, captions and questions."""
    folder, num_frames = arguments.output, arguments.num_frames
    jobs = []
    for kind in arguments.kinds:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for seed in range(clips_of(kind, arguments.clips)):
            jobs.append((folder / kind / f"{seed:05}.mp4", kind, seed, num_frames))
    missing = [job for job in jobs if not job[0].exists()]
    with ProcessPoolExecutor(arguments.processes) as pool:
        list(pool.map(draw_clip, *zip(*missing, strict=True), chunksize=32)) if missing else []
    rng = np.random.default_rng(arguments.seed)
    draw_captions(folder, arguments, rng)
    pictures = draw_pictures(folder, arguments.pictures, arguments.seed)
    draw_questions(folder, arguments, pictures, rng)
    print(
        f"{len(jobs)} clips of {num_frames} frames, {sum(map(len, pictures.values()))} pictures, "
        f"{arguments.captions} captions, {arguments.questions} questions"
    )


def draw_captions(folder: Path, arguments: argparse.Namespace, rng: np.random.Generator) -> None:
    """Write what stage 1 reads."""
    kinds = [kind for kind in CAPTION_KINDS if kind in arguments.kinds] or arguments.kinds
    with (folder / "align.jsonl").open("w", encoding="utf-8") as file:
        for index in range(arguments.captions):
            kind = kinds[index % len(kinds)]
            seed = int(rng.integers(clips_of(kind, arguments.clips)))
            script = shapes.script_clip(kind, seed, arguments.num_frames, "clip_train")
            prompt = shapes.ask("description", script.pictures[:1], rng).question  # its words, for any clip
            row = {"video": f"{kind}/{seed:05}.mp4", "prompt": prompt, "completion": script.caption}
            file.write(json.dumps(row) + "\n")


def draw_questions(folder: Path, arguments: argparse.Namespace, pictures: dict, rng: np.random.Generator) -> None:
    """Write what stage 2 reads: questions about clips, and among them about pictures."""
    mix = [row for row in MIX if row[0] in arguments.kinds] or [(kind, None, 1) for kind in arguments.kinds]
    kinds, weights = list(PICTURE_MIX), np.array(list(PICTURE_MIX.values()), float)
    shares = np.array([share for _, _, share in mix], float)
    with (folder / "instruct.jsonl").open("w", encoding="utf-8") as file:
        for choice in rng.choice(len(mix), arguments.questions, p=shares / shares.sum()):
            if rng.random() < arguments.picture_share:
                rows = pictures[kinds[rng.choice(len(kinds), p=weights / weights.sum())]]
                file.write(json.dumps(rows[int(rng.integers(len(rows)))]) + "\n")
                continue
            kind, wanted, _ = mix[choice]
            seed = int(rng.integers(clips_of(kind, arguments.clips)))
            question = ask_about(kind, seed, arguments.num_frames, wanted, rng)
            row = {"video": f"{kind}/{seed:05}.mp4", "prompt": question.question, "completion": question.answer}
            file.write(json.dumps(row) + "\n")


def draw_pictures(folder: Path, num_pictures: int, seed: int) -> dict[str, list[dict[str, str]]]:
    """Single pictures as files, and for every kind of question the rows of stage 2."""
    rows = defaultdict(list)
    for kind in shapes.PICTURE_KINDS:
        (folder / "pictures" / kind).mkdir(parents=True, exist_ok=True)
        frames, questions, _ = shapes.make_pictures(kind, num_pictures, seed, split="train")
        for number, (frame, question) in enumerate(zip(frames, questions, strict=True)):
            name = f"pictures/{kind}/{number:05}.png"
            Image.fromarray(frame).save(folder / name)
            rows[kind].append({"image": name, "prompt": question.question, "completion": question.answer})
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------------------------------------------------


def variants(kind: str) -> tuple[str, ...]:
    """The ways in which clips of one kind are shown: as they are, and where it tells something, otherwise."""
    shuffled = ("shuffled",) if kind in SHUFFLED_KINDS else ()
    backwards = ("backwards",) if kind in MOTION_KINDS else ()
    return ("", *shuffled, *backwards, *(("as a picture",) if kind == "static" else ()))


def vary(frames: np.ndarray, script: shapes.ClipScript, variant: str, seed: int) -> tuple[np.ndarray, tuple]:
    """Frames of a clip as the variant shows them, and the questions with the answers that then hold."""
    if variant == "backwards":
        return frames[::-1], script.backwards().questions
    if variant == "shuffled":
        frames = frames[np.random.default_rng(seed).permutation(len(frames))]
    return frames, script.questions


def answer_clips(
    model, processor, kind: str, num_clips: int, num_frames: int, variant: str, split: str
) -> dict[tuple[str, str], list]:
    """For every subject and kind of question, whether each was answered rightly."""
    right = defaultdict(list)
    for seed in range(FIRST_CLIP, FIRST_CLIP + num_clips):
        frames, _ = shapes.make_clip(kind, seed, num_frames, split=split)
        script = shapes.script_clip(kind, seed, num_frames, split)
        frames, questions = vary(frames, script, variant, seed)
        asked = [question.question for question in questions]
        if variant == "as a picture":
            answers = answer_pictures(model, processor, [frames[0]] * len(asked), asked)
        else:
            inputs = processor.video_inputs(frames, fps=float(FRAMES_PER_SECOND), max_frames=num_frames)
            answers = model.answer(model.encode_video(**inputs), asked, processor, max_new_tokens=12)
        for question, answer in zip(questions, answers, strict=True):
            right[question.subject, question.kind].append(answer == question.answer)
    return right


def answer_pictures(model, processor, frames, questions: list[str]) -> list[str]:
    """One question about each picture, which never goes through LinVT."""
    chats = [
        [
            {
                "role": "user",
                "content": [{"type": "image", "image": Image.fromarray(frame)}, {"type": "text", "text": question}],
            }
        ]
        for frame, question in zip(frames, questions, strict=True)
    ]
    inputs = processor.apply_chat_template(
        chats,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        processor_kwargs={"return_tensors": "pt", "padding": True},
    )
    output = model.generate(**inputs, max_new_tokens=8)
    texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def picture_accuracy(model, processor, num_questions: int, seed: int) -> dict[str, float]:
    """Percent of right answers about single pictures."""
    accuracies = {}
    for kind in shapes.PICTURE_KINDS:
        right, (frames, questions, _) = 0, shapes.make_pictures(kind, num_questions, seed, split="test")
        for start in range(0, num_questions, 100):
            part = slice(start, start + 100)
            answers = answer_pictures(model, processor, frames[part], [q.question for q in questions[part]])
            right += sum(answer == q.answer for answer, q in zip(answers, questions[part], strict=True))
        accuracies[kind] = 100 * right / num_questions
    return accuracies


def ceiling(kind: str, num_clips: int, num_frames: int, seen: str = "shuffled") -> float:
    """
    Percent of right answers about order-dependent clips that the best guess can reach.

    Args:
        kind: `"count"`, `"direction"` or `"traverse"`.
        num_clips, num_frames: clips that the guess is made from, and their length.
        seen: what the guess knows: all frames without their order (`"shuffled"`), or the `"first"` frame alone.
    """
    table = defaultdict(lambda: defaultdict(int))
    for seed in range(num_clips):
        script = shapes.script_clip(kind, seed, num_frames)
        places = [tuple((thing.row, thing.column) for thing in picture) for picture in script.pictures]
        if kind == "count":
            places = [bool(place) for place in places]  # where it stands says nothing about how often
        knowledge = tuple(sorted(places)) if seen == "shuffled" else places[0]
        table[knowledge][script.questions[0].answer] += 1
    return 100 * sum(max(answers.values()) for answers in table.values()) / num_clips


def evaluate(arguments: argparse.Namespace) -> None:
    """Print, and write down, what a checkpoint answers."""
    torch.set_num_threads(arguments.threads)
    model = AutoModel.from_pretrained(arguments.checkpoint)
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    print(f"machine: {platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    report = {"checkpoint": str(arguments.checkpoint), "clips": {}, "ceilings": {}, "pictures": {}}
    split = "clip_choose" if arguments.choosing else "clip"
    for num_frames in arguments.frames:
        for kind in arguments.kinds:
            for variant in variants(kind):
                start = time.perf_counter()
                answers = answer_clips(model, processor, kind, arguments.clips, num_frames, variant, split)
                seconds = time.perf_counter() - start
                for (subject, question_kind), values in sorted(answers.items()):
                    name = " ".join(word for word in (kind, variant, subject) if word)
                    low, high = wilson(sum(values), len(values))
                    report["clips"][f"{name} | {question_kind} | T={num_frames}"] = [sum(values), len(values)]
                    print(
                        f"{name:20} T={num_frames:<3} {question_kind:16} {100 * np.mean(values):5.1f} % "
                        f"[{low:.1f}, {high:.1f}] of {len(values)} ({seconds:.0f} s)",
                        flush=True,
                    )
        for kind in (kind for kind in SHUFFLED_KINDS if kind in arguments.kinds):
            seen = ("shuffled", "first") if kind == "traverse" else ("shuffled",)
            report["ceilings"][f"{kind} | T={num_frames}"] = {
                what: round(ceiling(kind, arguments.guesses, num_frames, what), 1) for what in seen
            }
            print(f"{kind}: ceilings of guesses at T={num_frames}:", report["ceilings"][f"{kind} | T={num_frames}"])
    if arguments.pictures:
        seed = 1 if arguments.choosing else 2
        report["pictures"] = compare_pictures(model, processor, arguments.pictures, seed)
    if arguments.report:
        arguments.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def compare_pictures(model, processor, num_questions: int, seed: int) -> dict[str, dict[str, float]]:
    """The base alone, and the checkpoint with its adapters on and off, on the same questions about pictures."""
    base = AutoModelForImageTextToText.from_pretrained(embedded_base_path())
    base_processor = AutoProcessor.from_pretrained(embedded_base_path())
    results = {"base": picture_accuracy(base, base_processor, num_questions, seed)}
    results["checkpoint"] = picture_accuracy(model, processor, num_questions, seed)
    if getattr(model, "peft_config", None):
        model.disable_adapters()
        results["adapters off"] = picture_accuracy(model, processor, num_questions, seed)
        model.enable_adapters()
    for name, accuracies in results.items():
        print(f"pictures, {name:12} " + "  ".join(f"{kind} {share:.1f}" for kind, share in accuracies.items()))
    return results


def embed(arguments: argparse.Namespace) -> None:
    """Save a trained checkpoint where the package carries its own, referring to the base beside it."""
    model = AutoModel.from_pretrained(arguments.checkpoint)
    model.config.base_model_name_or_path = f"../{Path(embedded_base_path()).name}"
    model.config.base_config.name_or_path = ""  # the folder it was trained in is nobody's business
    save_instructed(model, arguments.output)
    AutoProcessor.from_pretrained(arguments.checkpoint).save_pretrained(arguments.output)
    shutil.rmtree(arguments.output / "code")  # the installed package is the code; a copy in the wheel would grow old
    (arguments.output / "README.md").unlink()  # the card says how to load it from a Hub


def log_of(path: Path) -> list[dict]:
    """What a trainer logged, from its `trainer_state.json`."""
    return json.loads(path.read_text(encoding="utf-8"))["log_history"]


def plot(arguments: argparse.Namespace) -> None:
    """Losses and accuracies over steps, one column per log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(arguments.logs), figsize=(6 * len(arguments.logs), 4), squeeze=False)
    for axis, path in zip(axes[0], arguments.logs, strict=True):
        entries = log_of(path)
        shown = ("loss", "accuracy", "retrieval")
        names = sorted({name for entry in entries for name in entry if any(word in name for word in shown)})
        for name in names:
            points = [(entry["step"], entry[name]) for entry in entries if name in entry and "step" in entry]
            axis.plot(*zip(*points, strict=True), label=name.replace("_", " "))
        axis.set(xlabel="step", title=path.stem.replace("_", " "), ylim=(0, None))
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=110)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("draw", help="write clips, captions and questions")
    drawing.add_argument("--output", type=Path, required=True)
    drawing.add_argument("--clips", type=int, default=1200, help="clips of each kind, twice as many of motions")
    drawing.add_argument("--kinds", nargs="+", default=list(shapes.CLIP_KINDS), choices=shapes.CLIP_KINDS)
    drawing.add_argument("--pictures", type=int, default=3000, help="pictures for each kind of question about them")
    drawing.add_argument("--picture-share", type=float, default=PICTURE_SHARE, help="of the questions of stage 2")
    drawing.add_argument("--captions", type=int, default=20_000)
    drawing.add_argument("--questions", type=int, default=60_000)
    drawing.add_argument("--num-frames", type=int, default=16)
    drawing.add_argument("--seed", type=int, default=0)
    drawing.add_argument("--processes", type=int, default=2)
    drawing.set_defaults(run=draw)
    measuring = commands.add_parser("evaluate", help="ask a checkpoint about clips that no training saw")
    measuring.add_argument("checkpoint", type=Path)
    measuring.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64])
    measuring.add_argument("--kinds", nargs="+", default=list(shapes.CLIP_KINDS), choices=shapes.CLIP_KINDS)
    measuring.add_argument("--clips", type=int, default=200, help="clips of each kind")
    measuring.add_argument("--pictures", type=int, default=0, help="questions of each kind about pictures")
    measuring.add_argument("--guesses", type=int, default=5000, help="clips that ceilings of guesses are made from")
    measuring.add_argument("--choosing", action="store_true", help="other clips and pictures, for trying recipes")
    measuring.add_argument("--report", type=Path, help="JSON file for the figures")
    measuring.add_argument("--threads", type=int, default=1)
    measuring.set_defaults(run=evaluate)
    plotting = commands.add_parser("plot", help="draw the curves of training logs")
    plotting.add_argument("logs", type=Path, nargs="+", help="trainer_state.json of each stage")
    plotting.add_argument("--output", type=Path, required=True)
    plotting.set_defaults(run=plot)
    embedding = commands.add_parser("embed", help="make a checkpoint the one that the package carries")
    embedding.add_argument("checkpoint", type=Path)
    embedding.add_argument("--output", type=Path, default=Path(embedded_model_path()))
    embedding.set_defaults(run=embed)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
