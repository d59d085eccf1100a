"""
A tokenizer published as a sentencepiece model alone, as one of the `tokenizers` library.

InternLM2, Phi-3 and Yi in InternVL2 come so, and the class of the first comes as code with the checkpoint. The model
and the settings beside it are read, so that none of that code is run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor, generate_merges

from ...errors import CheckpointError, UnsupportedBaseError
from .weights import read_json


_SPACE = "▁"  # how sentencepiece writes a space
# kinds of pieces in a sentencepiece model
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2  # kind of model


def from_sentencepiece(folder: Path, **named: Any) -> PreTrainedTokenizerFast:
    """
    The tokenizer of the files tokenizer.model and tokenizer_config.json.

    Args:
        folder: with the files; added_tokens.json and special_tokens_map.json are read where they are.
        named: further arguments of the new tokenizer.

    Raises:
        CheckpointError: a file is damaged, or the ids of two files disagree.
        UnsupportedBaseError: sentencepiece is not installed, or the model is of a kind that is not converted.
    """
    model = _read(folder)
    settings = read_json(folder, "tokenizer_config.json")
    special = read_json(folder, "special_tokens_map.json") if (folder / "special_tokens_map.json").exists() else {}
    added = _added_tokens(folder, model, settings)
    is_legacy, adds_space = (bool(settings.get(name, True)) for name in ("legacy", "add_prefix_space"))
    backend = _backend(folder, model, added, is_legacy, adds_space)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None}
    for name in names:
        given = settings.get(name, special.get(name, names[name]))
        names[name] = given.get("content") if isinstance(given, dict) else given
    _add_ends(backend, names, settings)
    length = settings.get("model_max_length")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=length if isinstance(length, int) else None,
        clean_up_tokenization_spaces=bool(settings.get("clean_up_tokenization_spaces", False)),
        **names,
        **named,
    )


def _read(folder: Path) -> Any:
    """The sentencepiece model, whose normalisation has to be one that is done here too."""
    path = folder / "tokenizer.model"
    try:
        model: Any = SentencePieceExtractor(str(path)).proto
    except ImportError as error:
        raise UnsupportedBaseError(
            f"The tokenizer in {str(folder)!r} is a sentencepiece model, which needs two packages to be read: pip "
            "install sentencepiece protobuf."
        ) from error
    except Exception as error:  # protobuf has errors of its own
        raise CheckpointError(f"{str(path)!r} is damaged: {error}. Download it again.") from error
    rules = model.normalizer_spec
    found = {
        "a model of another kind than BPE": model.trainer_spec.model_type != _BPE,
        "a table of normalised characters": bool(rules.precompiled_charsmap),
        "remove_extra_whitespaces": rules.remove_extra_whitespaces,
        "no escape_whitespaces": not rules.escape_whitespaces,
        "treat_whitespace_as_suffix": model.trainer_spec.treat_whitespace_as_suffix,
    }
    if others := [name for name, there in found.items() if there]:
        raise UnsupportedBaseError(
            f"The sentencepiece model {str(path)!r} has {', '.join(others)}, which is not converted. Put a "
            "tokenizer.json beside it."
        )
    return model


def _added_tokens(folder: Path, model: Any, settings: Mapping[str, Any]) -> dict[int, tokenizers.AddedToken]:
    """Tokens that are found before any piece: what the model says of itself, and what the files add, by their ids."""
    kinds = {_CONTROL: True, _UNKNOWN: True, _USER_DEFINED: False}
    added = {
        number: tokenizers.AddedToken(piece.piece, special=kinds[piece.type], normalized=False)
        for number, piece in enumerate(model.pieces)
        if piece.type in kinds
    }
    if (folder / "added_tokens.json").exists():
        special = settings.get("additional_special_tokens", [])
        for token, number in read_json(folder, "added_tokens.json").items():
            added[number] = tokenizers.AddedToken(token, special=token in special, normalized=False)
    for number, token in settings.get("added_tokens_decoder", {}).items():
        flags = {name: token.get(name, False) for name in ("lstrip", "rstrip", "single_word", "special")}
        added[int(number)] = tokenizers.AddedToken(token["content"], normalized=False, **flags)
    return added


def _backend(
    folder: Path, model: Any, added: Mapping[int, tokenizers.AddedToken], is_legacy: bool, adds_space: bool
) -> tokenizers.Tokenizer:
    pieces = [added[number].content if number in added else piece.piece for number, piece in enumerate(model.pieces)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: model.pieces[number].score for number, piece in enumerate(pieces)}
    # the score of a piece decides what is joined first; what is found whole, and bytes, are never joined
    whole = {pieces[number] for number, piece in enumerate(model.pieces) if piece.type != _NORMAL or number in added}
    merges = generate_merges(vocabulary, scores, skip_tokens=whole)
    spec = model.trainer_spec
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token=spec.unk_piece, fuse_unk=True, byte_fallback=spec.byte_fallback)
    )
    spaces = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if not (model.normalizer_spec.add_dummy_prefix if is_legacy else adds_space):
        backend.normalizer = normalizers.Replace(" ", _SPACE)
    elif is_legacy:  # every text between two special tokens begins with a space
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
        spaces.append(decoders.Strip(" ", left=1))
    else:  # the first one only, by whoever reads it, not by the model
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first", split=False)
        spaces.append(decoders.Strip(" ", left=1))
    backend.decoder = decoders.Sequence(spaces)
    for number, token in sorted(added.items()):
        backend.add_tokens([token])
        if backend.token_to_id(token.content) != number:
            raise CheckpointError(
                f"The tokenizer in {str(folder)!r} gives {token.content!r} the id {number}, which its tokenizer.model "
                f"with {len(pieces)} pieces and the tokens before it make {backend.token_to_id(token.content)}. "
                "Download it again."
            )
    return backend


def _add_ends(backend: tokenizers.Tokenizer, names: Mapping[str, str | None], settings: Mapping[str, Any]) -> None:
    """Around a text, the tokens that begin and end it, where the settings say so."""
    begins = [names["bos_token"]] if settings.get("add_bos_token", True) and names["bos_token"] else []
    finishes = [names["eos_token"]] if settings.get("add_eos_token", False) and names["eos_token"] else []
    if begins or finishes:
        backend.post_processor = processors.TemplateProcessing(
            single=[*begins, "$A", *finishes],
            pair=[*begins, "$A", *finishes, *(f"{token}:1" for token in begins), "$B:1"]
            + [f"{token}:1" for token in finishes],
            special_tokens=[(token, backend.token_to_id(token)) for token in {*begins, *finishes}],
        )


__all__ = ["from_sentencepiece"]
