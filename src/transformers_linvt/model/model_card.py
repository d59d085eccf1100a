"""The model card of a checkpoint: what the Hub shows beside it, and how to load it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError

from .base_reference import is_embedded
from .configuration_linvt import LinVTConfig


LIBRARY = "transformers-linvt"
PIPELINE_TAG = "video-text-to-text"
TAGS = ("linvt", "video", "video-question-answering", "token-compression")

_PROSE = """
# {name}

{what} LinVT condenses each video into {num_video_tokens} tokens, each a weighted average of frame tokens, and passes
them to the base's own language model.

## Use

```bash
pip install {library}
```

```python
import transformers_linvt  # makes LinVT known to transformers
from transformers import pipeline

ask = pipeline("video-question-answering", model="{place}")
for result in ask(video="clip.mp4", question="What happens in the video?"):
    print(result["answer"])
```

or `AutoModelForImageTextToText.from_pretrained("{place}")` and `AutoProcessor.from_pretrained("{place}")`.
{adapter}"""

_ADAPTER = """
The language model carries a LoRA adapter (`{subfolder}/`). `model.disable_adapters()` takes it off: pictures and text
are then answered bit for bit as by the base. `model.enable_adapters()` puts it on again.
"""


def is_local(name: str | os.PathLike | None) -> bool:
    """Whether a model is named by a folder of this machine, so that nobody else can load it."""
    name = os.fspath(name or "")
    return is_embedded(name) or name.startswith((".", "~")) or os.path.isabs(name) or os.path.isdir(name)


def make_card(
    config: LinVTConfig,
    repo_id: str | None = None,
    *,
    stage: str | None = None,
    datasets: str | Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    license: str | None = None,
    language: str | Sequence[str] | None = None,
) -> ModelCard:
    """
    A card with the metadata the Hub reads, and prose made from what is known.

    Folders of this machine are not named in it.

    Args:
        config: of the checkpoint; gives base, revision and numbers of tokens.
        repo_id: where the checkpoint is going to be loaded from.
        stage: how it was trained.
        datasets: names of data sets on the Hub, or what the data are.
        settings: of the training, by name.
        figures: results, by name; written as a table, as they are. Those of an evaluation (`eval_...`) also stand in
            the metadata, from where the Hub shows them.
        tags: more tags.
        license: of the checkpoint, as the Hub calls it (`"apache-2.0"`); the base's may bind it.
        language: code or codes of the language of questions and answers (`"en"`).
    """
    base = config.base_model_name_or_path
    base = None if is_local(base) else base or None
    named = [datasets] if isinstance(datasets, str) else list(datasets or ())
    data = ModelCardData(
        base_model=base,
        base_model_relation=("finetune" if config.includes_base else "adapter") if base else None,
        datasets=[name for name in named if _is_repository(name)] or None,
        library_name=LIBRARY,
        license=license,
        language=list(language) if isinstance(language, Sequence) and not isinstance(language, str) else language,
        pipeline_tag=PIPELINE_TAG,
        **_results(repo_id, named, figures or {}),
        tags=list(dict.fromkeys([*TAGS, *(["lora"] if config.adapter_subfolder else []), *tags])),
    )
    prose = _PROSE.format(
        name=(repo_id or "LinVT").rpartition("/")[2],
        what=_what_it_is(config, base),
        num_video_tokens=config.num_video_tokens,
        library=LIBRARY,
        place=repo_id or "path/to/this/folder",
        adapter=_ADAPTER.format(subfolder=config.adapter_subfolder) if config.adapter_subfolder else "",
    )
    if stage or named or settings:
        lines = [f"- stage: {stage}"] if stage else []
        lines += [f"- data: {', '.join(name for name in named if not is_local(name)) or 'not on the Hub'}"]
        lines += [f"- {name}: {value}" for name, value in (settings or {}).items() if not _is_path(value)]
        prose += "\n## Training\n\n" + "\n".join(lines) + "\n"
    if figures:
        rows = [f"| {name} | {_number(value)} |" for name, value in figures.items()]
        prose += "\n## Figures\n\n| | |\n|---|---|\n" + "\n".join(rows) + "\n"
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{prose}")


def card_for_upload(
    config: LinVTConfig, repo_id: str, tags: Sequence[str] | None, token: str | bool | None
) -> ModelCard:
    """
    The card to push: that of the repository where it was written by a person or by a training run, else a new one.

    The card that transformers puts there by itself, for instance with a processor, says nothing and is replaced.
    """
    new = make_card(config, repo_id, tags=tags or ())
    try:
        card = ModelCard.load(repo_id, token=cast(Any, token), ignore_metadata_errors=True)  # True: the stored one
    except EntryNotFoundError:
        return new
    data: Any = card.data
    if "This model card has been automatically generated" in card.text and data.library_name != LIBRARY:
        return new
    for name in ("base_model", "base_model_relation", "library_name", "pipeline_tag"):
        setattr(data, name, getattr(new.data, name))
    data.tags = list(dict.fromkeys([*(data.tags or ()), *cast(Any, new.data).tags]))
    return card


def _what_it_is(config: LinVTConfig, base: str | None) -> str:
    of = (
        f"[{base}](https://huggingface.co/{base})"
        if base
        else f"an image-text model ({getattr(config.base_config, 'model_type', 'of a kind that is not known')})"
    )
    at = f" at commit `{config.base_revision}`" if base and config.base_revision else ""
    holds = "it holds the base's weights too" if config.includes_base else "it refers to the base and holds LinVT only"
    return f"A LinVT checkpoint around {of}{at}: an image-text model that answers questions about videos; {holds}."


def _results(repo_id: str | None, datasets: Sequence[str], figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation as the Hub's metadata has them: of a task, on data, by name."""
    public = next((name for name in datasets if _is_repository(name)), None)
    found = [
        EvalResult(
            task_type=PIPELINE_TAG,
            dataset_type=public or "own",
            dataset_name=public or "data that are not on the Hub",
            metric_type=name.removeprefix("eval_"),
            metric_value=value,
        )
        for name, value in figures.items()
        if name.startswith("eval_") and isinstance(value, int | float)
    ]
    return {"model_name": (repo_id or "LinVT").rpartition("/")[2], "eval_results": found} if found else {}


def _is_repository(name: str) -> bool:
    return name.count("/") == 1 and " " not in name and not is_local(name)


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.isabs(value))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
