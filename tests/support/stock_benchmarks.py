"""Public benchmarks that lmms-eval has, in miniature: rows in the layout of each set, and a task that reads them."""

import json
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from transformers_linvt.demo.shapes import make_clip, write_clip


NUM_ROWS = {"mlvu_dev": 7}  # of the others 4
LETTERS = ("A", "B", "C", "D", "E")


def _videomme(number: int) -> dict[str, Any]:
    about = {"video_id": str(number), "duration": "long", "domain": "Knowledge", "sub_category": "Humanity & History"}
    return {
        **about,
        "videoID": f"clip{number}",
        "question_id": f"{number}-1",
        "task_type": "Action Recognition",
        "question": "What colour is the circle?",
        "options": ["A. red", "B. blue", "C. green", "D. yellow"],
        "answer": LETTERS[number % 4],
    }


def _mlvu(number: int) -> dict[str, Any]:
    # the mean is over these, and one without a question counts as 0
    kinds = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
    question = f"What colour is circle {number}?\n(A) red\n(B) blue\n(C) green\n(D) yellow"
    return {
        "video_name": f"clip{number}.mp4",
        "duration": 9.5,
        "question": question,
        "answer": LETTERS[number % 4],
        "task_type": kinds[number],
    }


def _nextqa(number: int) -> dict[str, Any]:
    options = {f"a{index}": word for index, word in enumerate(("red", "blue", "green", "yellow", "grey"))}
    about = {"video": f"clip{number}", "frame_count": 16, "width": 256, "height": 256, "qid": number, "type": "DO"}
    return {**about, "question": "what colour is the circle", "answer": number % 5, **options}


def _egoschema(number: int) -> dict[str, Any]:
    words = ("red", "blue", "green", "yellow", "grey")
    options = [f"{letter}. {word}" for letter, word in zip(LETTERS, words, strict=True)]
    about = {"question_idx": str(number), "video_idx": f"clip{number}", "question": "What colour is the circle?"}
    return {**about, "option": options, "answer": str(number % 5)}


def _pope(number: int) -> dict[str, Any]:
    about = {"id": str(number), "question_id": str(number), "image_source": f"picture{number}", "category": "random"}
    return {**about, "question": "Is there a circle in the image?", "answer": ("yes", "no")[number % 2]}


def _mme(number: int) -> dict[str, Any]:
    about = {"question_id": f"existence/{number // 2}.jpg", "category": "existence"}
    question = "Is there a circle in this image? Please answer yes or no."
    return {**about, "question": question, "answer": ("Yes", "No")[number % 2]}


def _scienceqa(number: int) -> dict[str, Any]:
    words = {"question": "What colour is it?", "choices": ["red", "blue", "green", "yellow"], "hint": ""}
    return {**words, "answer": number % 4, "task": "closed choice", "grade": "grade2", "subject": "natural science"}


# task of lmms-eval: its file, a row, where its videos are to lie (None: a picture), its metric and the most of it
STOCK = {
    "videomme": ("videomme/videomme.yaml", _videomme, "videomme/data", "videomme_perception_score", 100),
    "mlvu_dev": ("mlvu/mlvu_dev.yaml", _mlvu, "mlvu", "mlvu_percetion_score", 100),
    "nextqa_mc_test": ("nextqa/nextqa_mc_test.yaml", _nextqa, "nextqa/NExTVideo", "exact_match", 1),
    "egoschema_subset": ("egoschema/egoschema_subset.yaml", _egoschema, "egoschema/videos", "score", 1),
    "pope": ("pope/pope.yaml", _pope, None, "pope_accuracy", 1),
    "mme": ("mme/mme.yaml", _mme, None, "mme_perception_score", 200),
    "scienceqa_img": ("scienceqa/scienceqa_img.yaml", _scienceqa, None, "exact_match", 1),
}


def rows_of(name: str) -> int:
    """How many questions a miniature has."""
    return NUM_ROWS.get(name, 4)


def right_answer(doc: dict[str, Any]) -> str:
    """What the scorer of a set wants to read."""
    answer = doc["answer"]
    return LETTERS[int(answer)] if isinstance(answer, int) or str(answer).isdigit() else str(answer)


def write_stock(name: str, tasks: Path, home: Path, stock_folder: Path) -> Path:
    """A task that scores as the stock one does and reads a miniature; its videos lie where the stock task looks."""
    source, row, place, *_ = STOCK[name]
    folder = tasks / name
    folder.mkdir(parents=True)
    rows = [row(number) for number in range(rows_of(name))]
    if place is None:
        for number, one in enumerate(rows):
            frames, _ = make_clip("needle", number, 4)
            one["image"] = Image.fromarray(frames[0])
    else:
        (home / place).mkdir(parents=True, exist_ok=True)
        for number in range(rows_of(name)):
            write_clip(home / place / f"clip{number}.mp4", make_clip("needle", number, 8)[0])
    datasets.Dataset.from_list(rows).to_parquet(folder / "test.parquet")
    lines = [
        f"include: {stock_folder / source}",
        f"task: linvt_mini_{name}",
        "dataset_path: parquet",
        "dataset_name: null",
        f"dataset_kwargs: {json.dumps({'data_files': {'test': str(folder / 'test.parquet')}})}",
    ]
    (folder / f"linvt_mini_{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder
