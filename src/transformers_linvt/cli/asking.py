"""`linvt ask`, `linvt encode` and `linvt inspect`: questions about videos, and what is kept of them."""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import transformers

import transformers_linvt

from ..demo.embedded import EMBEDDED_MODEL_KNOWS
from ..errors import LinVTInputError, VideoReadError
from ..evidence.evidence import check_picture_path
from ..video.media_address import is_address
from ..video.subtitles import read_subtitles
from .loading import load, trusted
from .output import complain


ENCODED = ".safetensors"  # ending of the file of an encoded video
_SAMPLING = ("num_frames", "fps", "max_frames", "start", "end", "video_backend", "allow_urls", "limits")


def ask(arguments: argparse.Namespace) -> None:
    """Answer questions about one video or several."""
    videos, questions = _videos_and_questions([arguments.video, *arguments.questions])
    wants_evidence = arguments.evidence is not None
    pictures = _pictures(arguments.evidence or None, len(videos) * len(questions))
    if arguments.subtitles is not None:
        if len(videos) > 1:
            raise LinVTInputError(
                f"--subtitles is of one video, and {len(videos)} were given. Ask about one at a time."
            )
        read_subtitles(arguments.subtitles)
    elif arguments.max_subtitle_tokens is not None:
        raise LinVTInputError("--max-subtitle-tokens has no effect without --subtitles. Give both, or neither.")
    _check_has_an_effect(videos, arguments)
    for video in videos:
        _check_video(video, arguments, looks_inside=len(videos) == 1)
        if pictures and video.endswith(ENCODED):
            raise LinVTInputError(
                f"{video} has no frames to draw, only what became of them. Leave OUT.png out for the numbers, or ask "
                "about the video itself."
            )
    if arguments.stream and arguments.json:
        raise LinVTInputError(
            "--stream prints words as they come, --json an object at the end. Leave one of them out."
        )
    pipe = _load(arguments)
    how = {"return_evidence": wants_evidence, **sampling_of_arguments(arguments)}
    for name in ("max_new_tokens", "subtitles", "max_subtitle_tokens"):
        if (value := getattr(arguments, name)) is not None:
            how[name] = value
    if arguments.stream:
        answered = _streamed(pipe, videos, questions, how)
    elif len(videos) == 1:
        answered = iter([pipe(video=_opened(videos[0]), question=questions, **how)])
    else:
        answered = pipe(_inputs(videos, questions), **how)
    told, failed = [], []
    for video, results in zip(videos, answered, strict=True):
        results = [{**result, "video": video} for result in results]
        drawn = [pictures.pop(0) for _ in results] if pictures else []
        if "error" in results[0]:
            failed.append(video)
            complain(f"{video} was not answered: {results[0]['error']}")
        for result, picture in zip(results, drawn, strict=False):
            if "evidence" in result:
                result["evidence"].save(picture)
        if arguments.json:
            told.append({"video": video, "answers": [_as_numbers(*one) for one in _with_pictures(results, drawn)]})
        elif arguments.stream:
            _print_evidence(results, drawn)
        elif "error" not in results[0]:
            _print(results, drawn, names_video=len(videos) > 1)
    if arguments.json:
        _print_json(arguments, told)
    elif arguments.model is None and not arguments.quiet:
        sys.stdout.flush()
        complain(f"{EMBEDDED_MODEL_KNOWS} Name another with --model.")
    if failed:
        raise LinVTInputError(f"{len(failed)} of {len(videos)} videos were not answered.")


def encode(arguments: argparse.Namespace) -> None:
    """Encode a video once, to ask about it later."""
    output = Path(arguments.output)
    if output.suffix != ENCODED:
        raise LinVTInputError(f"{output} does not end in {ENCODED}, which the file of an encoded video does.")
    if not output.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {output.absolute().parent} does not exist. Make it first.")
    _check_video(arguments.video, arguments)
    features = _load(arguments).encode(arguments.video, **sampling_of_arguments(arguments))
    features.save(output)
    refined = features.refined
    total, kept = features.num_frames * refined.tokens_per_frame, int(refined.kept_mask.sum())
    print(f"{output}: {features.counted_frames}, {total} frame tokens in {kept}; ask with: linvt ask {output} ...")


def inspect(arguments: argparse.Namespace) -> None:
    """Draw what is kept of a video."""
    picture = check_picture_path(arguments.output)
    _check_video(arguments.video, arguments)
    evidence = _load(arguments).inspect(arguments.video, arguments.question, **sampling_of_arguments(arguments))
    evidence.save(picture)
    total = evidence.num_frames * evidence.tokens_per_frame
    print(
        f"{picture}: {evidence.counted_frames}, {len(evidence.kept_indices)} of {total} frame tokens kept, "
        f"{evidence.num_video_tokens} video tokens"
    )
    for share in evidence.top_frames(3):
        print(f"  {share.seconds:8.2f} s  {100 * share.weight:5.1f} % of the weight in the video tokens")


# ---------------------------------------------------------------------------------------------------------------------
# What is asked
# ---------------------------------------------------------------------------------------------------------------------


def _videos_and_questions(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files and addresses come first, questions behind them; `d/*.mp4` becomes several files."""
    count = 1
    while count < len(words) and _is_video(words[count]):
        count += 1
    videos, questions = list(words[:count]), list(words[count:])
    if not questions:
        raise LinVTInputError(f"No question was given: {videos[-1]} is a video. Write questions behind the videos.")
    for word in questions:
        if _is_video(word):
            raise LinVTInputError(f"{word} stands behind a question. Write all videos first, then the questions.")
    return videos, questions


def _is_video(word: str) -> bool:
    """Whether a word names a file or an address, be it there or not: no question is one word that ends in `.mp4`."""
    return os.path.exists(word) or is_address(word) or bool(re.fullmatch(r"\S+\.[A-Za-z][A-Za-z0-9]{1,10}", word))


def _streamed(
    pipe: Any, videos: Sequence[str], questions: Sequence[str], how: dict[str, Any]
) -> Iterator[list[dict[str, Any]]]:
    """The results of each video, whose answers are printed word by word as they are made."""
    streamer = transformers.TextStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    for video in videos:
        if len(videos) > 1:
            print(video)
        results = []
        for question in questions:
            if len(questions) > 1:
                print(question)
            given = {"video": _opened(video), "question": question}
            results += pipe([given], streamer=streamer, on_error="raise" if len(videos) == 1 else "record", **how)[0]
        yield results


def _opened(video: str) -> Any:
    return transformers_linvt.VideoFeatures.load(video) if video.endswith(ENCODED) else video


def _inputs(videos: Sequence[str], questions: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One input per video; a file of an encoded one that cannot be read is refused where it is its turn."""
    for video in videos:
        try:
            opened = _opened(video)
        except LinVTInputError:
            opened = video  # the reader of videos says what it is instead
        yield {"video": opened, "question": list(questions)}


def _load(arguments: argparse.Namespace) -> Any:
    folder = getattr(arguments, "cache_dir", None)
    cache = {"cache_dir": folder} if folder is not None else {}
    # the libraries' own bars are off here
    bars = {"progress_bar": not arguments.quiet}
    return load(
        arguments.model, arguments.device, arguments.dtype, arguments.skip_duplicate_frames,
        **cache, **bars, **trusted(arguments),
    )  # fmt: skip


def sampling_of_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The sampling arguments that were given, as the pipeline takes them."""
    given = {name: getattr(arguments, name) for name in _SAMPLING}
    if given["limits"] is not None:
        given["limits"] = transformers_linvt.VideoLimits(**dict(given["limits"]))
    return {name: value for name, value in given.items() if value is not None}


def _check_has_an_effect(videos: Sequence[str], arguments: argparse.Namespace) -> None:
    """Refuse what says how a video is read where every one was read and encoded before."""
    names = [name for name in (*_SAMPLING, "skip_duplicate_frames") if getattr(arguments, name) is not None]
    if names and all(video.endswith(ENCODED) for video in videos):
        options = ", ".join(
            f"--{name.removesuffix('s') if name == 'limits' else name.replace('_', '-')}" for name in names
        )
        raise LinVTInputError(
            f"{options} has no effect: {', '.join(videos)} was encoded before. Leave it out, or encode the video "
            "again with it (linvt encode)."
        )


def _check_video(video: str, arguments: argparse.Namespace, looks_inside: bool = True) -> None:
    """Refuse what cannot be read before a model is loaded, which takes seconds to minutes."""
    if arguments.allow_urls and is_address(video):
        return
    if video.endswith(ENCODED):
        if not os.path.isfile(video):
            raise VideoReadError(f"{video} does not exist. Check the path (the working directory is {os.getcwd()}).")
        return
    if looks_inside or not os.path.isfile(video):
        sampling = sampling_of_arguments(arguments)
        window = {name: sampling[name] for name in ("start", "end", "limits") if name in sampling}
        transformers_linvt.read_video(video, num_frames=1, **window)


def _pictures(output: str | None, count: int) -> list[Path]:
    """Where the evidence of each answer goes, checked before anything is run."""
    if output is None:
        return []
    path = check_picture_path(output)
    if count == 1:
        return [path]
    return [check_picture_path(path.with_name(f"{path.stem}-{number + 1}{path.suffix}")) for number in range(count)]


# ---------------------------------------------------------------------------------------------------------------------
# What is said
# ---------------------------------------------------------------------------------------------------------------------


def _with_pictures(results: list[dict[str, Any]], drawn: list[Path]) -> Iterator[tuple[dict[str, Any], Path | None]]:
    yield from zip(results, drawn or [None] * len(results), strict=True)


def _print(results: list[dict[str, Any]], drawn: list[Path], names_video: bool) -> None:
    """Answers, with their questions where there are several, under the name of the video where there are several."""
    if names_video:
        print(results[0]["video"])
    for result, picture in _with_pictures(results, drawn):
        answer = result["answer"] or "(the answer is empty)"
        print(f"{result['question']}\n  {answer}" if len(results) > 1 else answer)
        _print_evidence([result], [] if picture is None else [picture])


def _print_evidence(results: list[dict[str, Any]], drawn: list[Path]) -> None:
    """What stands below an answer that was printed already."""
    for result, picture in _with_pictures(results, drawn):
        if picture is not None:
            print(f"  evidence: {picture}")
        if "evidence" in result:
            for line in _owed(result["evidence"]):
                print(f"  {line}")


def _owed(evidence: Any) -> list[str]:
    """The frames that an answer owes most to; why nothing is known of it; or nothing, of chats."""
    if evidence.attribution is None:
        return [evidence.no_attribution] if evidence.no_attribution else []
    top = [share for share in evidence.top_frames(3) if share.attribution > 0]
    return [f"{share.seconds:8.2f} s  {share.attribution:6.3f} nats of the answer's log-probability" for share in top]


def _as_numbers(result: dict[str, Any], picture: Path | None) -> dict[str, Any]:
    """An answer as JSON takes it; of evidence the numbers, without the frames."""
    if "evidence" in result:
        result = {**result, "evidence": result["evidence"].to_dict()}
    return result if picture is None else {**result, "evidence_picture": str(picture)}


def _print_json(arguments: argparse.Namespace, told: list[dict[str, Any]]) -> None:
    """One object: that of the video, or one that lists them."""
    model = {"model": arguments.model if arguments.model is not None else "embedded"}
    found = {"video": told[0]["video"], **model, "answers": told[0]["answers"]}
    print(json.dumps(found if len(told) == 1 else {**model, "videos": told}, indent=2, ensure_ascii=False))
