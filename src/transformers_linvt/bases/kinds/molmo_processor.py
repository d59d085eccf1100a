"""The processor of the first Molmo, in place of its own, which needs tensorflow: its tokenizer, with pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoTokenizer, BatchFeature, PreTrainedConfig, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images

from ...errors import CheckpointError, UnsupportedBaseError
from ..loading import HUB_ARGUMENTS


START, END, PATCH, COLUMN, PICTURE = "<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>"
# Its tokenizer has the words of the model's first table of embeddings, then these, in this order.
EXTRA_TOKENS = (START, END, PATCH, COLUMN, PICTURE)
# Pictures stand in front of what is asked about them, roles are words, and there is no system: as it was trained.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'system' %}{{- raise_exception('Molmo knows no system message.') }}{%- endif %}"
    "{%- if message.content is not string %}"
    "{%- for part in message.content if part.type == 'image' %}<|image|>{%- endfor %}"
    "{%- endif %}"
    "{{- ' User: ' if message.role == 'user' else ' Assistant: ' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for part in message.content if part.type == 'text' %}{{- part.text }}{%- endfor %}"
    "{%- endif %}"
    "{%- if message.role == 'assistant' %}{{- eos_token }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- ' Assistant:' }}{%- endif %}"
)


class MolmoImageProcessor(BaseImageProcessor):
    """
    Pictures as Molmo sees them as a whole: resized into a square with padding around them, and cut into patches.

    Molmo looks at a picture a second time in crops of higher resolution, which this does not make.

    Args:
        base_image_input_size, image_patch_size, image_token_length_h, image_token_length_w, image_mean, image_std:
            as in Molmo's own `preprocessor_config.json`, whose values are the defaults.
    """

    model_input_names = ["pixel_values", "image_masks"]

    def __init__(
        self,
        base_image_input_size: Sequence[int] = (336, 336),
        image_patch_size: int = 14,
        image_token_length_h: int = 12,
        image_token_length_w: int = 12,
        image_mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        image_std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.base_image_input_size = list(base_image_input_size)
        self.image_patch_size = image_patch_size
        self.image_token_length_h, self.image_token_length_w = image_token_length_h, image_token_length_w
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """See [`preprocess`]."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(self, images: Any, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """
        Args:
            images: a picture or a list of them, nested or flat: PIL pictures or arrays `(height, width, 3)`, uint8.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(pictures, patches, values of a patch)` and `image_masks` of shape
            `(pictures, patches)`, the share of each patch that is picture and not padding.
        """
        pictures: Any = make_flat_list_of_images(images)
        made = [self._patches(picture) for picture in pictures]
        data = {
            "pixel_values": np.stack([patches for patches, _ in made]),
            "image_masks": np.stack([shares for _, shares in made]),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def _patches(self, picture: Any) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.array(picture.convert("RGB") if hasattr(picture, "convert") else picture)
        height, width = self.base_image_input_size
        # In 32 bits, as Molmo does: another rounding would be another size for some pictures.
        scale = min(np.float32(side) / np.float32(of) for side, of in zip((height, width), pixels.shape, strict=False))
        size = [max(1, int(of * scale)) for of in pixels.shape[:2]]
        resized = nn.functional.interpolate(
            torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
            size,
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0].clamp(0, 1)
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        canvas, is_picture = torch.zeros(3, height, width), torch.zeros(height, width)
        canvas[:, top : top + size[0], left : left + size[1]] = resized
        is_picture[top : top + size[0], left : left + size[1]] = 1
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        patch = self.image_patch_size
        cut = ((canvas - mean) / std).unfold(1, patch, patch).unfold(2, patch, patch)
        shares = is_picture.unfold(0, patch, patch).unfold(1, patch, patch).flatten(2).mean(-1)
        return cut.permute(1, 2, 3, 4, 0).reshape(-1, patch * patch * 3).numpy(), shares.flatten().numpy()


class MolmoProcessor(ProcessorMixin):
    """
    Molmo's tokenizer with pictures, in place of its own processor, which needs tensorflow.

    Args:
        image_processor ([`MolmoImageProcessor`]).
        tokenizer: Molmo's own.
        chat_template (`str`, *optional*): [`CHAT_TEMPLATE`] by default; that of its tokenizer is of another model.
    """

    image_token = PICTURE

    def __init__(
        self, image_processor: MolmoImageProcessor, tokenizer: Any, chat_template: str | None = CHAT_TEMPLATE
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.image_token_id = tokenizer.convert_tokens_to_ids(PICTURE)
        self.image_token_ids = tokenizer.convert_tokens_to_ids(list(EXTRA_TOKENS))

    @property
    def first_token(self) -> str:
        """What every prompt begins with: Qwen's tokenizer has no token for it but that of the end."""
        return self.tokenizer.bos_token or self.tokenizer.eos_token

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prompts with `<|image|>` where a picture stands -> `input_ids`, `attention_mask` and the pictures."""
        if text is not None:
            texts, first = ([text] if isinstance(text, str) else list(text)), self.first_token
            text = [one if one.startswith(first) else first + one for one in texts]
        return super().__call__(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """A picture in the prompt: a token for each of its own, row by row with a mark at the end of each."""
        rows, columns = self.image_processor.image_token_length_h, self.image_processor.image_token_length_w
        return START + (PATCH * columns + COLUMN) * rows + END


def load_molmo_processor(name_or_path: str, trust_remote_code: bool = False, **kwargs: Any) -> MolmoProcessor:
    """
    Our processor around the tokenizer in a repository or folder; none of its code is run.

    Args:
        name_or_path: repository id or folder, of Molmo or of a LinVT model around it.
        trust_remote_code: not needed.
        kwargs: of `from_pretrained`.

    Raises:
        CheckpointError: nothing there, or damaged.
    """
    where = {name: value for name, value in kwargs.items() if name in HUB_ARGUMENTS}
    try:
        tokenizer = load_tokenizer(name_or_path, **kwargs)
        settings = _image_settings(name_or_path, where)
        template = ProcessorMixin.get_processor_dict(name_or_path, **where)[0].get("chat_template")
    except Exception as error:  # a damaged tokenizer.json is a bare Exception
        raise CheckpointError(f"The processor of {name_or_path!r} could not be loaded: {error}") from error
    has_place = isinstance(template, str) and PICTURE in template  # else the tokenizer's, which is of another model
    return MolmoProcessor(MolmoImageProcessor(**settings), tokenizer, template if has_place else CHAT_TEMPLATE)


def _image_settings(name_or_path: str, where: Mapping[str, Any]) -> dict[str, Any]:
    try:
        settings, _ = MolmoImageProcessor.get_image_processor_dict(name_or_path, **where)
    except OSError:  # a model that came without it: there has been one setting only
        return {}
    known = MolmoImageProcessor().to_dict().keys() - {"image_processor_type"}
    return {name: value for name, value in settings.items() if name in known}


def check_molmo_processor(processor: Any) -> None:
    """
    Refuse a processor that is not ours, and a tokenizer without Molmo's tokens.

    Raises:
        UnsupportedBaseError: with what is missing.
    """
    if not isinstance(processor, MolmoProcessor):
        raise UnsupportedBaseError(
            f"{type(processor).__name__} is no processor that LinVT can use with Molmo. Use the one of this package: "
            "LinVTProcessor.from_base of the name or folder."
        )
    vocabulary = processor.tokenizer.get_vocab()
    if missing := [token for token in EXTRA_TOKENS if token not in vocabulary]:
        raise UnsupportedBaseError(
            f"The tokenizer has {len(vocabulary)} tokens and no {', '.join(missing)}: it belongs to another model."
        )


def load_tokenizer(name_or_path: str, **kwargs: Any) -> Any:
    """Molmo's own; `kwargs` are those of `from_pretrained`."""
    # With any config given it does not look for the model's, whose class it would have to run code for.
    return AutoTokenizer.from_pretrained(name_or_path, config=PreTrainedConfig(), **kwargs)


__all__ = [
    "CHAT_TEMPLATE",
    "EXTRA_TOKENS",
    "PATCH",
    "MolmoImageProcessor",
    "MolmoProcessor",
    "check_molmo_processor",
    "load_molmo_processor",
    "load_tokenizer",
]
