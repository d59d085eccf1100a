"""
Open answers judged by a language model behind any OpenAI-compatible server, as the Video-ChatGPT protocol does.

The judge sees question, right answer and prediction, never the video, and says whether they mean the same and how
well, 0 to 5. Accuracy is the share of "yes", the score a mean. Predictions are there before anything is judged, and
every verdict is written down as it comes: a server that goes away costs the questions that are still open. The words
of the prompt are ours: figures of other prompts, or of other judges, are not to be put beside these.
"""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LinVTError, LinVTInputError


PROMPT = (
    "You compare a predicted answer to a question about a video with the correct one. They match if they mean the "
    "same; synonyms and paraphrases do. Question: {question}\nCorrect answer: {answer}\nPredicted answer: "
    '{prediction}\nReply with JSON only, such as {{"pred": "yes", "score": 4}}: pred is yes or no, score a whole '
    "number from 0 (nothing in common) to 5 (the same)."
)
_VERDICT = re.compile(r"\{[^{}]*\}")


class JudgeError(LinVTError, RuntimeError):
    """A judge that did not answer, or not in the form asked for; what was judged before is kept."""


def judge(
    predictions: str | os.PathLike,
    verdicts: str | os.PathLike,
    url: str,
    model: str,
    key: str = "",
    timeout: float = 60.0,
) -> dict[str, Any]:
    """
    Judge every prediction that has no verdict yet.

    Args:
        predictions: lines of JSON with `id`, `question`, `answer` and `prediction`.
        verdicts: the file of verdicts, made or gone on with.
        url: of the server's `/v1`.
        model: the judge's name, which is part of the result.
        key: sent as a bearer token.
        timeout: seconds to wait for one verdict.

    Returns:
        `judge`, `asked`, `accuracy` in percent, `score` from 0 to 5, and `empty`: predictions without a word, which
        are wrong without being judged.

    Raises:
        LinVTInputError: a row without a field, named.
        JudgeError: the server does not answer, or not as asked.
    """
    rows, path = _read(Path(predictions)), Path(verdicts)
    known: dict[str, dict] = {}
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        known = {one["id"]: one for one in map(_json_or_none, lines) if one and one["judge"] == model}
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            if row["id"] in known:
                continue
            verdict = {"pred": "no", "score": 0}
            if str(row["prediction"]).strip():
                verdict = _ask(url, model, key, timeout, PROMPT.format(**row))
            known[row["id"]] = {"id": row["id"], "judge": model, **verdict}
            file.write(json.dumps(known[row["id"]]) + "\n")
            file.flush()
    own = [known[row["id"]] for row in rows]
    return {
        "judge": model,
        "asked": len(own),
        "accuracy": 100 * sum(one["pred"] == "yes" for one in own) / len(own),
        "score": sum(one["score"] for one in own) / len(own),
        "empty": sum(not str(row["prediction"]).strip() for row in rows),
    }


def predictions_of(samples: str | os.PathLike, output: str | os.PathLike) -> Path:
    """
    What lmms-eval logged with `--log_samples` (`*_samples_TASK.jsonl`) as predictions to be judged.

    Raises:
        LinVTInputError: a line without the fields of such a log, named.
    """
    output, lines = Path(output), []
    for number, line in enumerate(Path(samples).read_text(encoding="utf-8").splitlines()):
        entry = _json_or_none(line) or {}
        try:
            doc, answered = entry["doc"], entry["filtered_resps"]
            answered = answered[0] if isinstance(answered, list) else answered
            row = {"id": str(doc["id"]), "question": doc["question"], "answer": doc["answer"], "prediction": answered}
        except (KeyError, IndexError) as error:
            raise LinVTInputError(
                f"{samples}: row {number} has no {error}. Run lmms-eval with --log_samples."
            ) from error
        lines.append(json.dumps(row) + "\n")
    output.write_text("".join(lines), encoding="utf-8")
    return output


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        row = _json_or_none(line) or {}
        if missing := [name for name in ("id", "question", "answer", "prediction") if name not in row]:
            raise LinVTInputError(f"{path}: row {number} has no {missing[0]!r}.")
        rows.append({**row, "id": str(row["id"])})
    if not rows:
        raise LinVTInputError(f"{path} has no predictions.")
    return rows


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _ask(url: str, model: str, key: str, timeout: float, prompt: str) -> dict[str, Any]:
    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(
        f"{url.rstrip('/')}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            text = json.load(reply)["choices"][0]["message"]["content"]
    except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise JudgeError(
            f"The judge {model!r} at {url} did not answer: {error}. What was judged is kept; call again to go on."
        ) from error
    return _verdict(text, model)


def _verdict(text: str, model: str) -> dict[str, Any]:
    found = [one for one in map(_json_or_none, _VERDICT.findall(text or "")) if isinstance(one, Mapping)]
    for one in found:
        if (
            str(one.get("pred")).lower() in ("yes", "no")
            and str(one.get("score")).isdigit()
            and int(one["score"]) <= 5
        ):
            return {"pred": str(one["pred"]).lower(), "score": int(one["score"])}
    raise JudgeError(
        f"The judge {model!r} gave no verdict but {text!r}. What was judged is kept; call again to go on."
    )


__all__: Sequence[str] = ["JudgeError", "PROMPT", "judge", "predictions_of"]
