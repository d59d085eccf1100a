"""
Open answers judged by a language model behind any OpenAI-compatible server, as the Video-ChatGPT protocol does.

The judge sees question, right answer and prediction, never the video, and says whether they mean the same and how
well, 0 to 5. Accuracy is the share of "yes", the score a mean. Predictions are there before anything is judged, and
every verdict is written down as it comes: a server that goes away costs the questions that are still open. The words
of the prompt are ours: figures of other prompts, or of other judges, are not to be put beside these.
"""

import ast
import hashlib
import http.client
import json
import os
import re
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
_SCORE = re.compile(r"[0-5](\.[0-9]+)?")


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

    A verdict belongs to the question, the right answer and the prediction that it was given for: of another prediction
    with the same id, as of another model, it is not taken. A reply that is no verdict costs its own question, which is
    asked about again in the next call; one that does not come ends the call.

    Args:
        predictions: lines of JSON with `id`, `question`, `answer` and `prediction`.
        verdicts: the file of verdicts, made or gone on with.
        url: of the server's `/v1`.
        model: the judge's name, which is part of the result.
        key: sent as a bearer token.
        timeout: seconds to wait for one verdict.

    Returns:
        `judge`, `asked`, `accuracy` in percent, `score` from 0 to 5, `empty`: predictions without a word, which are
        wrong without being judged; and `unjudged`: those that got no verdict, which accuracy and score leave out.

    Raises:
        LinVTInputError: a row without a field, or with the id of another, named.
        JudgeError: the server does not answer, or gave no verdict on anything.
    """
    rows, path = _read(Path(predictions)), Path(verdicts)
    if not path.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {path.absolute().parent} for verdicts does not exist. Make it first.")
    known: dict[str, dict] = {}
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    for one in map(_json_or_none, before.splitlines()):
        if isinstance(one, Mapping) and one.get("judge") == model:
            known[one["id"]] = dict(one)
    last: JudgeError | None = None
    with path.open("a", encoding="utf-8") as file:
        if before and not before.endswith("\n"):
            file.write("\n")  # killed in the middle of a line
        for row in rows:
            if known.get(row["id"], {}).get("of") == _digest(row):
                continue
            known.pop(row["id"], None)
            verdict: Mapping[str, Any] = {"pred": "no", "score": 0}
            if str(row["prediction"]).strip():
                reply = _ask(url, model, key, timeout, PROMPT.format(**row))
                try:
                    verdict = _verdict(reply, model)
                except JudgeError as error:
                    last = error
                    continue
            known[row["id"]] = {"id": row["id"], "judge": model, "of": _digest(row), **verdict}
            file.write(json.dumps(known[row["id"]]) + "\n")
            file.flush()
    own = [known[row["id"]] for row in rows if row["id"] in known]
    if last is not None and not own:
        raise last
    return {
        "judge": model,
        "asked": len(rows),
        "accuracy": 100 * sum(one["pred"] == "yes" for one in own) / len(own),
        "score": sum(one["score"] for one in own) / len(own),
        "empty": sum(not str(row["prediction"]).strip() for row in rows),
        "unjudged": len(rows) - len(own),
    }


def _digest(row: Mapping[str, Any]) -> str:
    """What was judged: the same id with another prediction is another question to the judge."""
    text = json.dumps([str(row[name]) for name in ("question", "answer", "prediction")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def predictions_of(samples: str | os.PathLike, output: str | os.PathLike) -> Path:
    """
    What lmms-eval logged with `--log_samples` (`*_samples_TASK.jsonl`) as predictions to be judged.

    Ids are those of the set (`id` or `question_id`), or the number that lmms-eval gave to the question.

    Raises:
        LinVTInputError: a line without the fields of such a log, named.
    """
    output, lines = Path(output), []
    for number, line in enumerate(_lines_of(Path(samples))):
        entry = _json_or_none(line) or {}
        try:
            doc, answered = entry["doc"], entry["filtered_resps"]
            answered = answered[0] if isinstance(answered, list) else answered
            name = next((str(doc[key]) for key in ("id", "question_id") if key in doc), None)
            row = {
                "id": name or str(entry["doc_id"]),
                "question": doc["question"],
                "answer": doc["answer"],
                "prediction": answered,
            }
        except (KeyError, IndexError, TypeError) as error:
            raise LinVTInputError(
                f"{samples}: row {number} has no {error}. Run lmms-eval with --log_samples."
            ) from error
        lines.append(json.dumps(row) + "\n")
    output.write_text("".join(lines), encoding="utf-8")
    return output


def _read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    for number, line in enumerate(_lines_of(path)):
        found = _json_or_none(line)
        row = dict(found) if isinstance(found, Mapping) else {}
        if missing := [name for name in ("id", "question", "answer", "prediction") if name not in row]:
            raise LinVTInputError(f"{path}: row {number} has no {missing[0]!r}.")
        if (first := places.setdefault(str(row["id"]), number)) != number:
            raise LinVTInputError(f"{path}: rows {first} and {number} have the same id {str(row['id'])!r}.")
        rows.append({**row, "id": str(row["id"])})
    if not rows:
        raise LinVTInputError(f"{path} has no predictions.")
    return rows


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LinVTInputError(f"{path} cannot be read as lines of JSON: {error}.") from error


def _json_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _ask(url: str, model: str, key: str, timeout: float, prompt: str) -> str:
    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        address = f"{url.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, data=json.dumps(body).encode(), headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)["choices"][0]["message"]["content"] or ""
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
        raise JudgeError(
            f"The judge {model!r} at {url} did not answer: {error!r}. What was judged is kept; call again to go on."
        ) from error


def _verdict(text: str, model: str) -> dict[str, Any]:
    """The first verdict in a reply, as JSON or, as judges of this protocol often write it, as a dict of Python."""
    for one in map(_mapping_or_none, _VERDICT.findall(text)):
        said, score = str((one or {}).get("pred")).lower(), str((one or {}).get("score"))
        if said in ("yes", "no") and _SCORE.fullmatch(score) and float(score) <= 5:
            return {"pred": said, "score": float(score)}
    raise JudgeError(
        f"The judge {model!r} gave no verdict but {text!r}. What was judged is kept; call again to go on."
    )


def _mapping_or_none(text: str) -> Mapping[str, Any] | None:
    found = _json_or_none(text)
    if found is None:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
    return found if isinstance(found, Mapping) else None


__all__: Sequence[str] = ["JudgeError", "PROMPT", "judge", "predictions_of"]
