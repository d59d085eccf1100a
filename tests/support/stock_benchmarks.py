"""Public benchmarks that lmms-eval has, in miniature: rows in the layout of each set, and a task that reads them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from transformers_linvt.demo.shapes import make_clip, write_clip


LETTERS = ("A", "B", "C", "D", "E")
COLOURS = ("red", "blue", "green", "yellow", "grey")
MVBENCH = [
    "action_antonym",
    "action_count",
    "action_localization",
    "action_prediction",
    "action_sequence",
    "character_order",
    "counterfactual_inference",
    "egocentric_navigation",
    "episodic_reasoning",
    "fine_grained_action",
    "fine_grained_pose",
    "moving_attribute",
    "moving_count",
    "moving_direction",
    "object_existence",
    "object_interaction",
    "object_shuffle",
    "scene_transition",
    "state_change",
    "unexpected_action",
]


def _videomme(number: int) -> dict[str, Any]:
    about = {"video_id": str(number), "domain": "Knowledge", "sub_category": "Humanity & History"}
    return {
        **about,
        "duration": ("long", "short")[number // 4],  # half of them are of the long ones
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
    about = {"video_name": f"clip{number}.mp4", "duration": 9.5, "question": question}
    return {**about, "answer": LETTERS[number % 4], "task_type": kinds[number]}


def _nextqa(number: int) -> dict[str, Any]:
    options = {f"a{index}": word for index, word in enumerate(COLOURS)}
    about = {"video": f"clip{number}", "frame_count": 16, "width": 256, "height": 256, "qid": number, "type": "DO"}
    return {**about, "question": "what colour is the circle", "answer": number % 5, **options}


def _egoschema(number: int) -> dict[str, Any]:
    options = [f"{letter}. {word}" for letter, word in zip(LETTERS, COLOURS, strict=True)]
    about = {"question_idx": str(number), "video_idx": f"clip{number}", "question": "What colour is the circle?"}
    return {**about, "option": options, "answer": str(number % 5)}


def _mvbench(number: int) -> dict[str, Any]:
    about = {"video": f"clip{number}.mp4", "question": "What colour is the circle?"}
    return {**about, "candidates": list(COLOURS[:4]), "answer": COLOURS[number % 4]}


def _longvideobench(number: int) -> dict[str, Any]:
    options = {f"option{index}": word for index, word in enumerate((*COLOURS[:4], "N/A"))}
    about = {"id": f"clip{number}_0", "video_id": f"clip{number}", "video_path": f"clip{number}.mp4"}
    times = {"duration": 4.0, "duration_group": 15, "starting_timestamp_for_subtitles": 100.0}
    about |= {"question_category": "S2E", "subtitle_path": f"clip{number}_en.json", **times}
    return {**about, "question": "What colour is the circle?", "correct_choice": number % 4, **options}


def _activitynetqa(number: int) -> dict[str, Any]:
    about = {"video_name": f"clip{number}", "question_id": f"q{number}", "type": 4}
    return {**about, "question": "what colour is the circle", "answer": COLOURS[number % 4]}


def _tempcompass(question: str, answers: tuple[str, ...]) -> Callable[[int], dict[str, Any]]:
    dimensions = ("speed", "direction", "action", "order", "attribute_change")

    def row(number: int) -> dict[str, Any]:
        about = {"video_id": f"clip{number}", "question": question, "dim": dimensions[number % 5]}
        return {**about, "answer": answers[number % len(answers)]}

    return row


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


def _mmbench(number: int) -> dict[str, Any]:
    about = {
        "index": number,
        "question": "What colour is the circle?",
        "hint": "nan",
        "source": "made",
        "split": "dev",
    }
    about |= {"category": "attribute_recognition", "L2-category": "finegrained_perception"}
    return {**about, **dict(zip(LETTERS[:4], COLOURS, strict=False)), "answer": LETTERS[number % 4]}


def _seed(number: int) -> dict[str, Any]:
    about = {"question_id": str(number), "question": "What colour is the circle?", "question_type_id": 1}
    choices = {f"choice_{letter.lower()}": word for letter, word in zip(LETTERS[:4], COLOURS, strict=False)}
    # half of its questions are about a picture, half about frames of a video
    return {**about, **choices, "data_type": ("image", "video")[number // 4], "answer": LETTERS[number % 4]}


@dataclass(frozen=True)
class Stock:
    """
    A task of lmms-eval.

    Attributes:
        source (`str`): its file.
        row (`Callable`): a number -> a row of the set.
        place (`str`, *optional*): where in `HF_HOME` its videos lie; None: pictures.
        metric (`str`), most (`float`): what is read of the results, and what who knows everything has.
        constant (`str`), chance (`float`): an answer given always, and its share of the most.
        rows (`int`): in the miniature.
        video (`str`): how a video is called.
        specific (`dict`, *optional*): options that the task wants and a copy of it loses.
    """

    source: str
    row: Callable[[int], dict[str, Any]]
    place: str | None
    metric: str
    most: float = 1
    constant: str = "B"
    chance: float = 1 / 4
    rows: int = 4
    video: str = "clip{}.mp4"


_OPTIONS = "What colour is it?\nA. red\nB. blue\nC. green\nD. yellow"
_CAPTIONS = "Which caption matches?\nCaption A: it is red\nCaption B: it is blue"
_TEMPCOMPASS = {"place": "tempcompass/videos", "metric": "avg_accuracy", "most": 100}
STOCK = {
    **{
        f"mvbench_{name}": Stock(f"mvbench/mvbench_{name}.yaml", _mvbench, "mvbench_video", "mvbench_accuracy", 100)
        for name in MVBENCH
    },
    "nextqa_mc_test": Stock("nextqa/nextqa_mc_test.yaml", _nextqa, "nextqa/NExTVideo", "exact_match"),
    "egoschema_subset": Stock("egoschema/egoschema_subset.yaml", _egoschema, "egoschema/videos", "score"),
    "tempcompass_multi_choice": Stock(
        "tempcompass/tempcompass_mc.yaml",
        _tempcompass(_OPTIONS, ("A. red", "B. blue", "C. green", "D. yellow")),
        **_TEMPCOMPASS,
        rows=8,
    ),
    "tempcompass_yes_no": Stock(
        "tempcompass/tempcompass_yes_no.yaml",
        _tempcompass("Is it red?", ("yes", "no")),
        **_TEMPCOMPASS,
        constant="yes",
        chance=1 / 2,
        rows=8,
    ),
    "tempcompass_caption_matching": Stock(
        "tempcompass/tempcompass_caption_matching.yaml",
        _tempcompass(_CAPTIONS, ("Caption A: it is red", "Caption B: it is blue")),
        **_TEMPCOMPASS,
        chance=1 / 2,
        rows=8,
    ),
    "videomme": Stock("videomme/videomme.yaml", _videomme, "videomme/data", "videomme_perception_score", 100, rows=8),
    "videomme_w_subtitle": Stock(
        "videomme/videomme_w_subtitle.yaml", _videomme, "videomme/data", "videomme_perception_score", 100, rows=8
    ),
    # of eight rows half are long
    "videomme_long": Stock(
        "videomme/videomme_long.yaml", _videomme, "videomme/data", "videomme_perception_score", 100, rows=8
    ),
    "mlvu_dev": Stock("mlvu/mlvu_dev.yaml", _mlvu, "mlvu", "mlvu_percetion_score", 100, chance=2 / 7, rows=7),
    "longvideobench_val_v": Stock(
        "longvideobench/longvideobench_val_v.yaml", _longvideobench, "datasets/longvideobench/videos", "lvb_acc"
    ),
    "activitynetqa": Stock(
        "activitynetqa/activitynetqa_generation.yaml",
        _activitynetqa,
        "activitynetqa/all_test",
        "gpt_eval_accuracy",
        100,
        constant="B",
        chance=0,  # an open question
        video="v_clip{}.mp4",
    ),
    "mme": Stock("mme/mme.yaml", _mme, None, "mme_perception_score", 200, constant="yes"),
    "mmbench_en_dev_static": Stock("mmbench/mmbench_en_dev_static.yaml", _mmbench, None, "gpt_eval_score", 100),
    "pope": Stock("pope/pope.yaml", _pope, None, "pope_accuracy", constant="yes", chance=1 / 2),
    "seedbench": Stock("seedbench/seedbench.yaml", _seed, None, "seed_all", rows=8),
    "scienceqa_img": Stock("scienceqa/scienceqa_img.yaml", _scienceqa, None, "exact_match"),
}


def right_answer(doc: dict[str, Any]) -> str:
    """What the scorer of a set wants to read."""
    if "correct_choice" in doc:
        return LETTERS[doc["correct_choice"]]
    if "candidates" in doc:
        return LETTERS[doc["candidates"].index(doc["answer"])]
    answer = doc["answer"]
    return LETTERS[int(answer)] if isinstance(answer, int) or str(answer).isdigit() else str(answer)


def asked_of(name: str) -> int:
    """How many questions of a miniature the task asks."""
    return STOCK[name].rows // (2 if "_long" in name else 1)


def write_stock(name: str, tasks: Path, home: Path, stock_folder: Path) -> Path:
    """A task that scores as the stock one does and reads a miniature; its videos lie where the stock task looks."""
    stock, folder = STOCK[name], tasks / name
    folder.mkdir(parents=True)
    rows = [stock.row(number) for number in range(stock.rows)]
    if stock.place is None:
        for number, one in enumerate(rows):
            picture = Image.fromarray(make_clip("needle", number, 4)[0][0])
            one["image"] = picture if name != "seedbench" else [picture] * (1 + 2 * (one["data_type"] == "video"))
    else:
        write_videos(stock, home, stock_folder, name)
    datasets.Dataset.from_list(rows).to_parquet(folder / "data.parquet")
    split = {"longvideobench_val_v": "validation", "mmbench_en_dev_static": "dev"}.get(name, "test")
    split = "train" if name.startswith("mvbench") else split
    lines = [
        f"include: {stock_folder / stock.source}",
        f"task: linvt_mini_{name}",
        "dataset_path: parquet",
        "dataset_name: null",
        f"dataset_kwargs: {json.dumps({'data_files': {split: str(folder / 'data.parquet')}})}",
    ]
    (folder / f"linvt_mini_{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder


def write_videos(stock: Stock, home: Path, stock_folder: Path, name: str) -> None:
    """Clips of a needle, once; of MVBench a copy in the folder where each of its tasks looks."""
    place = home / stock.place
    if name.startswith("mvbench"):
        from lmms_eval.tasks.mvbench.utils import DATA_LIST

        place /= DATA_LIST[name.removeprefix("mvbench_")]
    place.mkdir(parents=True, exist_ok=True)
    for number in range(stock.rows):
        drawn = home / "drawn" / f"{number}.mp4"
        if not drawn.exists():
            drawn.parent.mkdir(parents=True, exist_ok=True)
            write_clip(drawn, make_clip("needle", number, 8)[0])
        if not (place / stock.video.format(number)).exists():
            shutil.copy(drawn, place / stock.video.format(number))
