"""How a base writes pictures, and so videos, into a prompt: its markers, and what it adds by itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
from transformers import ProcessorMixin

from ..errors import UnsupportedBaseError
from .families import Family


# Pictures of each prompt and options of the image processor -> their inputs, and the text that stands for each.
PictureWriter = Callable[
    [ProcessorMixin, Sequence[Sequence[Any]], Mapping[str, Any]], tuple[dict[str, Any], list[str]]
]


@dataclass(frozen=True)
class VisualMarkers:
    """
    How the base writes one picture into the prompt.

    Attributes:
        placeholder (`str`): what its chat template writes, to be replaced.
        token (`str`): the token that is repeated, once per visual token.
        token_id (`int`): its id; the model's `config.image_token_id`.
        before, after (`str`): the base's own markers around the repeated tokens.
    """

    placeholder: str
    token: str
    token_id: int
    before: str
    after: str

    @classmethod
    def of(cls, processor: ProcessorMixin, write: PictureWriter, options: Mapping[str, Any]) -> "VisualMarkers":
        """
        Read the markers off what the base's processor writes for a grey picture.

        Args:
            processor: of the base.
            write: `picture_inputs` of its bridge.
            options: of the image processor, those that make a picture one tile.

        Raises:
            UnsupportedBaseError: the processor does not say how it writes a picture.
        """
        placeholder = placeholder_of(processor)
        picture = PIL.Image.new("RGB", (224, 224), (128, 128, 128))
        written, reason = "", ""
        try:
            if placeholder is not None:
                written = write(processor, [[picture]], options)[1][0]
        except Exception as error:  # a processor that does it another way may fail in any way
            reason = f": {type(error).__name__} {error}".rstrip()
        if not written:
            raise UnsupportedBaseError(
                f"{type(processor).__name__} does not say how it writes a picture into the prompt (image_token, "
                f"replace_image_token{reason}), so a video has no place there. The processors of Qwen2-VL, InternVL, "
                "LLaVA, SmolVLM, Gemma 3 and others do."
            )
        ids = processor.tokenizer(written, add_special_tokens=False)["input_ids"]
        token_id = Counter(ids).most_common(1)[0][0]
        token = processor.tokenizer.convert_ids_to_tokens(token_id)
        first, last = written.find(token), written.rfind(token) + len(token)
        return cls(str(placeholder), token, token_id, written[:first], written[last:])

    def video(self, num_video_tokens: int) -> str:
        """What stands for a whole video."""
        return self.before + self.token * num_video_tokens + self.after


@dataclass(frozen=True)
class AddedTexts:
    """
    What the base's processor writes into every prompt by itself.

    Attributes:
        first (`str`): in front.
        behind_visuals (`str`): behind the last picture or video; in front where there is none.
        last (`str`): at the end of what the user says.
    """

    first: str
    behind_visuals: str
    last: str

    @classmethod
    def of(cls, processor: ProcessorMixin, family: Family) -> "AddedTexts":
        """Read off the traits of the family."""
        tokenizer = processor.tokenizer
        first = (tokenizer.bos_token or tokenizer.eos_token) if family.begins_with_bos else ""
        named = tokenizer.special_tokens_map
        return cls(
            first,
            named.get(family.behind_visuals, family.behind_visuals),
            named.get(family.ends_with, family.ends_with),
        )


def write_pictures(
    processor: Any,
    pictures: Sequence[Sequence[Any]],
    options: Mapping[str, Any],
    are_nested: bool = True,
) -> tuple[dict[str, Any], list[str]]:
    """
    Pictures that stand beside videos: the base's own inputs for them, and what it writes for each into a prompt.

    Args:
        processor: of the base.
        pictures: pictures of each prompt that has any; some bases treat several of one prompt otherwise than one.
        options: of the image processor.
        are_nested: whether the processor takes the pictures of each prompt as a list of their own.

    Returns:
        The base's picture inputs as tensors, and one text per picture.
    """
    if not pictures:
        return {}, []
    placeholder = placeholder_of(processor) or ""
    # HunYuan-VL's processor insists on what its chat template writes around a placeholder; others do not look.
    start, end = (getattr(processor, name, None) or "" for name in ("image_start_token", "image_end_token"))
    nested = [list(row) for row in pictures]
    made = processor(
        text=[(start + placeholder + end) * len(row) for row in pictures],
        images=nested if are_nested else [picture for row in nested for picture in row],
        padding=len(pictures) > 1,  # a tokenizer without a padding token does one prompt
        return_tensors="pt",
        return_text_replacement_offsets=True,
        **options,
    )
    if "text_replacement_offsets" in made:
        replacements = [one["replacement"] for row in made.pop("text_replacement_offsets") for one in row]
    else:
        replacements = [_written_alone(processor, picture, options) for row in pictures for picture in row]
    of_text = {name for name in made if name.endswith("token_type_ids")}
    of_text |= {"labels", *processor.tokenizer.model_input_names}
    return {name: value for name, value in made.items() if name not in of_text}, replacements


def placeholder_of(processor: ProcessorMixin) -> str | None:
    """What the chat template writes for a picture: the image token itself, but for families that have one for each."""
    return getattr(processor, "image_placeholder_token", None) or getattr(processor, "image_token", None)


def _written_alone(processor: Any, picture: Any, options: Mapping[str, Any]) -> str:
    """What a processor that does not report its replacements (Idefics2) writes for a picture in front of a word."""
    word = "x"
    text = (placeholder_of(processor) or "") + word
    made = processor(text=[text], images=[[picture]], add_special_tokens=False, **options)
    return processor.tokenizer.decode(made["input_ids"][0]).removesuffix(word)


__all__ = ["AddedTexts", "PictureWriter", "VisualMarkers", "placeholder_of", "write_pictures"]
