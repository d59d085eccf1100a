"""Public benchmarks in miniature: annotations in the layout of each set, made here, with files for their videos."""

import json

from transformers_linvt.evaluation.benchmarks import main


def write_miniature(folder, name, rows=3):
    """Annotations and (empty) videos in the layout of one set; rows answered "red", or by the second choice."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    about = {"question": "What colour is the circle?", "answer": "red"}
    made = {
        "msvd_qa": [{**about, "id": n, "video_id": n + 1301} for n in range(rows)],
        "msrvtt_qa": [{**about, "id": n, "video_id": n + 7010, "category_id": 14} for n in range(rows)],
        "tgif_qa": [{"gif_name": f"tumblr_{n}", **about, "type": 2, "vid_id": f"FRAMEQA{n}"} for n in range(rows)],
        "videovista": [
            {
                "video_name": f"clip.{n}.mp4",
                "question_id": n,
                "Question": about["question"],
                "Answer_Choices": ["blue", "red", "green"],
                "Answer": 1,
            }
            for n in range(rows)
        ],
    }[name]
    stems = {"msvd_qa": "vid{}", "msrvtt_qa": "video{}", "tgif_qa": "{}", "videovista": "{}"}[name]
    for row in made:
        video = stems.format(row.get("video_id", row.get("gif_name", row.get("video_name"))))
        ending = {"tgif_qa": ".gif", "videovista": ""}.get(name, ".avi")
        (videos / f"{video}{ending}").touch()
    if name == "tgif_qa":
        annotations = folder / "Test_frameqa_question.csv"
        lines = ["\t".join(made[0]), *("\t".join(map(str, row.values())) for row in made)]
        annotations.write_text("\n".join(lines) + "\n")
    else:
        annotations = folder / "test_qa.json"
        annotations.write_text(json.dumps(made))
    return annotations, videos


def make(folder, name, *more):
    annotations, videos = folder / "test_qa.json", folder / "videos"
    if name == "tgif_qa":
        annotations = folder / "Test_frameqa_question.csv"
    given = ["--annotations", annotations, "--videos", videos, "--output", folder / "tasks", *more]
    return main([name, *map(str, given)])
