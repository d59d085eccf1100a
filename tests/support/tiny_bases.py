"""Tiny image models of nine families, each with a working processor, built in memory from data.

Nothing is downloaded: the weights are random, the tokenizer is trained here on a few sentences, and the chat templates
are short ones that render like the family's own. A family is one [`BaseSpec`] in `BASES`; everything else in this file
is the same for all of them, so another architecture is another entry.

The weights are drawn again after construction ([`randomise`]): several families start with a projection of zeros, or
so small that a picture cannot move the logits, and a test on such a model proves nothing.

torchvision is not needed. Processors that insist on a video processor get [`NoVideoProcessor`], and Molmo2, whose
image processor exists for torchvision only, gets [`Molmo2NumpyImageProcessor`].
"""

import copy
import functools
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tokenizers
import torch
import transformers
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images
from transformers.utils import is_torchvision_available

from base_specs import ALL_BASES
from base_specs.spec import BaseSpec, TokenId, VocabSize
from transformers_linvt.bases.loading import NoVideoProcessor, language_head, video_processors_known


# Sentences the byte-level BPE learns its merges from. Any other text is still tokenised: the alphabet is all bytes.
TRAINING_TEXT = (
    "What is in the video? What colour is the object at the end? Describe the picture in one sentence.",
    "How many people are there in the room? What happens after the red ball leaves the table?",
    "The small blue square is left of the large green circle. Yes. No. There are two. It is at the top.",
    "A chat between a curious user and an artificial intelligence assistant. You are a helpful assistant.",
    "user assistant system model User: Assistant: USER: ASSISTANT:",
)
NUM_MERGES = 48


# ------------------------------------------------------------------------------------------------------- tokenizers


@functools.cache
def _byte_level_model() -> str:
    """The trained byte-level BPE (JSON), the same for all families."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=len(alphabet) + NUM_MERGES, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer.to_str()


def build_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """
    The tokenizer of a tiny base: a byte-level BPE that reads any text, with the family's special tokens.

    Args:
        name (`str`): A key of `BASES`.

    Returns:
        `PreTrainedTokenizerFast`: `spec.additional_tokens` have the highest ids, in their order.

    Example:

    ```python
    >>> tokenizer = build_tokenizer("qwen2_vl")
    >>> tokenizer.decode(tokenizer("Où est la 赤い balle?").input_ids)
    'Où est la 赤い balle?'
    ```
    """
    spec = ALL_BASES[name]
    tokenizer = tokenizers.Tokenizer.from_str(_byte_level_model())
    special = [*spec.named_tokens.values(), *spec.tokenizer_attributes.values(), *spec.special_tokens]
    # Ids follow the order of addition, and a token named twice keeps its first id.
    special = list(dict.fromkeys([*special, *spec.additional_tokens]))
    kind = {"special": True, "normalized": False, "lstrip": spec.swallows_spaces}
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, **kind) for token in special])
    if spec.adds_bos:
        bos_token = spec.named_tokens["bos_token"]
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos_token} $A",
            pair=f"{bos_token} $A {bos_token} $B",
            special_tokens=[(bos_token, tokenizer.token_to_id(bos_token))],
        )
    named = set(spec.named_tokens.values()) | set(spec.tokenizer_attributes.values())
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side=spec.padding_side,
        model_max_length=2048,
        extra_special_tokens=[token for token in special if token not in named],
        model_specific_special_tokens=dict(spec.tokenizer_attributes),
        clean_up_tokenization_spaces=False,
        **spec.named_tokens,
    )


# ----------------------------------------------------------------------------------------------------------- models


def _resolve(value: Any, tokenizer: PreTrainedTokenizerFast, num_additional: int) -> Any:
    """`value` with every [`TokenId`] and [`VocabSize`] in it replaced by its number."""
    if isinstance(value, TokenId):
        token_id = tokenizer.get_vocab().get(value.token)
        if token_id is None:
            raise KeyError(f"The tokenizer has no token {value.token!r}, which the config asks for.")
        return token_id
    if isinstance(value, VocabSize):
        return num_additional if value.additional else len(tokenizer) - num_additional
    if isinstance(value, Mapping):
        return {key: _resolve(item, tokenizer, num_additional) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, tokenizer, num_additional) for item in value]
    return value


@torch.no_grad()
def randomise(model: PreTrainedModel, seed: int) -> None:
    """
    Draw every weight again, so that each input, the picture above all, moves the output.

    Matrices get variance 1 / fan-in, so that signals keep their size through the layers whatever the library's own
    start is (gemma3's projection starts at 0, molmo2's features have a standard deviation of 2e-8). Vectors keep their
    start (0 or 1) and get noise, so that a forgotten bias or norm shows. Embeddings get standard deviation 0.2, small
    beside what the layers add: with tied weights a model would otherwise write its last token again and again.

    Args:
        model (`PreTrainedModel`): Changed in place.
        seed (`int`): Of a generator used for nothing else; the parameters are drawn in the order of their names.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if id(parameter) in embeddings or (parameter.dim() == 3 and parameter.shape[0] == 1):
            parameter.copy_(0.2 * noise)  # a table of tokens, or of positions (1, positions, width)
        elif parameter.numel() == 1 and not parameter.any():
            parameter.copy_(0.5 + 0.1 * noise)  # a gate that starts closed, and what is behind it would not be tested
        elif parameter.dim() < 2 or parameter.numel() == max(parameter.shape):
            parameter.add_(0.1 * noise)
        else:
            # A convolution (out, in, height, width) sums over everything but its first axis, a linear layer likewise.
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    _silence_placeholders(model)


def _silence_placeholders(model: PreTrainedModel) -> None:
    """Give the picture and video placeholders a logit of 0, which greedy search never picks: a random model that
    writes a placeholder would ask for features that are not there."""
    weight = language_head(model).weight
    for attribute in ("image_token_id", "video_token_id"):
        token_id = getattr(model.config, attribute, None)
        if token_id is not None and token_id < weight.shape[0]:
            weight[token_id] = 0.0


def _build_pristine_model(name: str, seed: int) -> PreTrainedModel:
    spec = ALL_BASES[name]
    tokenizer = build_tokenizer(name)
    arguments = _resolve(spec.config, tokenizer, len(spec.additional_tokens))
    config = getattr(transformers, spec.config_class)(**arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, spec.model_class) if spec.model_class else AutoModelForImageTextToText
        build = model_class._from_config if spec.model_class else model_class.from_config
        model = build(config, dtype=torch.float32)
    randomise(model, seed)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model.eval()


@functools.cache
def _cached_model(name: str, seed: int) -> PreTrainedModel:
    return _build_pristine_model(name, seed)


def model_type_of(name: str) -> str:
    """The architecture of a tiny base; there may be several of one."""
    return getattr(transformers, ALL_BASES[name].config_class).model_type


def build_model(name: str, seed: int = 0) -> PreTrainedModel:
    """
    A tiny model of a family: random weights, float32, evaluation mode.

    Args:
        name (`str`): A key of `BASES`.
        seed (`int`): Two seeds give two different models, one seed always the same.

    Returns:
        `PreTrainedModel`: A copy of its own (changing it does not change the next one).
    """
    return copy.deepcopy(_cached_model(name, seed))


# ------------------------------------------------------------------------------------------------------- processors


class Molmo2NumpyImageProcessor(BaseImageProcessor):
    """
    Molmo2's image processor in numpy: the same outputs as `Molmo2ImageProcessor`, which exists for torchvision only.

    A picture becomes one global view of `size` and up to `max_crops` overlapping crops of it; `image_token_pooling`
    says which patches each token pools (-1: none). Ported from
    `transformers/models/molmo2/image_processing_molmo2.py` (5.23). The one difference: PIL smooths when it shrinks a
    picture, the original does not.

    Args:
        size (`dict[str, int]`): Square side of a crop in pixels.
        patch_size (`int`): Side of a patch in pixels.
        pooling_size (`list[int]`): Patches pooled into a token, (height, width).
        overlap_margins (`list[int]`): Patches by which neighbouring crops overlap, (left and top, right and bottom).
        max_crops (`int`): Upper limit of the crops of one picture, without the global view.
    """

    model_input_names = ["pixel_values", "image_token_pooling", "image_grids", "image_num_crops"]

    def __init__(
        self,
        size: Mapping[str, int] | None = None,
        patch_size: int = 14,
        pooling_size: Sequence[int] = (2, 2),
        overlap_margins: Sequence[int] = (4, 4),
        max_crops: int = 8,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.size = dict(size or {"height": 378, "width": 378})
        self.patch_size = patch_size
        self.pooling_size = list(pooling_size)
        self.overlap_margins = list(overlap_margins)
        self.max_crops = max_crops
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def __call__(self, images: Any, **kwargs: Any) -> BatchFeature:
        return self.preprocess(images, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data, without the bookkeeping of the base class."""
        names = [name for name in inspect.signature(type(self)).parameters if name != "kwargs"]
        return {"image_processor_type": type(self).__name__, **{name: getattr(self, name) for name in names}}

    def select_tiling(self, height: int, width: int, window: int, max_crops: int) -> tuple[int, int]:
        """Rows and columns of crops whose canvas needs the least enlargement (or the most pixels if none fits)."""
        sides = range(1, max_crops + 1)
        tilings = [(rows, columns) for rows in sides for columns in sides if rows * columns <= max_crops]
        tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
        scales = np.array([min(rows * window / height, columns * window / width) for rows, columns in tilings])
        if (scales < 1).all():
            return tilings[int(scales.argmax())]
        return tilings[int(np.where(scales < 1, np.inf, scales).argmin())]

    def _to_pixels(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        """Resize (H, W, 3) uint8 and normalise: (height, width, 3) float32."""
        resized = PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR, reducing_gap=None)
        pixels = np.asarray(resized, dtype=np.float32) / 255.0
        return (pixels - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)

    def _to_patches(self, crop: np.ndarray) -> np.ndarray:
        """(S, S, 3) to (number of patches, patch_size * patch_size * 3), row by row."""
        side, patch = crop.shape[0] // self.patch_size, self.patch_size
        return crop.reshape(side, patch, side, patch, 3).transpose(0, 2, 1, 3, 4).reshape(side * side, -1)

    def _pool(self, index_grid: np.ndarray) -> tuple[np.ndarray, int, int]:
        """Group a grid of patch numbers into windows: (rows * columns, patches per window), rows, columns."""
        pool_h, pool_w = self.pooling_size
        pad_h, pad_w = -index_grid.shape[0] % pool_h, -index_grid.shape[1] % pool_w
        padding = ((pad_h // 2, (pad_h + 1) // 2), (pad_w // 2, (pad_w + 1) // 2))
        grid = np.pad(index_grid, padding, constant_values=-1)
        rows, columns = grid.shape[0] // pool_h, grid.shape[1] // pool_w
        windows = grid.reshape(rows, pool_h, columns, pool_w).transpose(0, 2, 1, 3)
        return windows.reshape(rows * columns, pool_h * pool_w), rows, columns

    def _crops(self, image: np.ndarray, max_crops: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The overlapping crops of one picture and the grid of patch numbers that covers the picture once."""
        left, right = self.overlap_margins
        crop = self.size["height"]
        side = crop // self.patch_size
        window, margin = (side - left - right) * self.patch_size, (left + right) * self.patch_size
        rows, columns = self.select_tiling(image.shape[0] - margin, image.shape[1] - margin, window, max_crops)
        canvas_h, canvas_w = rows * window + margin, columns * window + margin
        canvas = self._to_pixels(image, canvas_h, canvas_w)
        crops = [
            canvas[row * window : row * window + crop, column * window : column * window + crop]
            for row in range(rows)
            for column in range(columns)
        ]
        numbers = np.arange(rows * columns * side * side).reshape(rows, columns, side, side)
        # Where two crops overlap, each patch of the picture is taken from one of them only.
        if left:
            numbers[1:, :, :left, :] = -1
            numbers[:, 1:, :, :left] = -1
        if right:
            numbers[:-1, :, -right:, :] = -1
            numbers[:, :-1, :, -right:] = -1
        numbers = numbers.transpose(0, 2, 1, 3).reshape(-1)
        grid = numbers[numbers >= 0].reshape(canvas_h // self.patch_size, canvas_w // self.patch_size)
        return crops, grid

    def preprocess(
        self, images: Any, max_crops: int | None = None, return_tensors: str | None = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Args:
            images: One picture or a list (nested or flat) of PIL pictures or (H, W, 3) uint8 arrays.
            max_crops (`int`, *optional*): Instead of the processor's own.
            return_tensors (`str`, *optional*): `"pt"` or `"np"`.

        Returns:
            `BatchFeature`: `pixel_values` (crops of all pictures, patches, values of a patch), `image_token_pooling`
            (tokens of all pictures, patches per token) with numbers counted over all crops of the call, `image_grids`
            (pictures, 4): rows and columns of the global view, rows and columns of the crops; `image_num_crops`
            (pictures,): crops with the global view.
        """
        max_crops = self.max_crops if max_crops is None else max_crops
        side = self.size["height"] // self.patch_size
        pixels: list[np.ndarray] = []
        pooling: list[np.ndarray] = []
        grids: list[list[int]] = []
        counts: list[int] = []
        offset = 0
        for picture in make_flat_list_of_images(images):
            image = np.asarray(picture.convert("RGB") if isinstance(picture, PIL.Image.Image) else picture)
            crops, crop_grid = self._crops(image, max_crops)
            views = [self._to_pixels(image, self.size["height"], self.size["width"]), *crops]
            low, low_rows, low_columns = self._pool(np.arange(side * side).reshape(side, side))
            high, high_rows, high_columns = self._pool(crop_grid)
            # The global view comes first, so its patches push the numbers of the crops up.
            indices = np.concatenate([low, np.where(high >= 0, high + side * side, high)])
            pooling.append(np.where(indices >= 0, indices + offset, indices))
            pixels.append(np.stack([self._to_patches(view) for view in views]))
            grids.append([low_rows, low_columns, high_rows, high_columns])
            counts.append(len(views))
            offset += len(views) * side * side
        data = {
            "pixel_values": np.concatenate(pixels),
            "image_token_pooling": np.concatenate(pooling).astype(np.int32),
            "image_grids": np.array(grids, dtype=np.int64),
            "image_num_crops": np.array(counts, dtype=np.int64),
        }
        return BatchFeature(data=data, tensor_type=return_tensors)


class Molmo2NumpyConfig(PreTrainedConfig):
    """Registers [`Molmo2NumpyImageProcessor`], so that `AutoImageProcessor` finds it by the name in a saved file.

    `Molmo2Config` cannot take it: `AutoImageProcessor.register` refuses the missing torchvision class beside it.
    """

    model_type = "molmo2_numpy"


AutoImageProcessor.register(
    Molmo2NumpyConfig, image_processor_classes={"pil": Molmo2NumpyImageProcessor}, exist_ok=True
)


def _video_processor(spec: BaseSpec) -> Any:
    if not is_torchvision_available():
        return NoVideoProcessor(spec.video_processor)
    settings = dict(spec.video_processor)
    return getattr(transformers, settings.pop("video_processor_type"))(**settings)


def _build_pristine_processor(name: str) -> ProcessorMixin:
    spec = ALL_BASES[name]
    processor_class = getattr(transformers, spec.processor_class)
    image_processor_class = globals().get(spec.image_processor_class) or getattr(
        transformers, spec.image_processor_class
    )
    parts: dict[str, Any] = {
        "image_processor": image_processor_class(**spec.image_processor),
        "tokenizer": build_tokenizer(name),
    }
    if "video_processor" in processor_class.get_attributes():
        parts["video_processor"] = _video_processor(spec)
    if "qformer_tokenizer" in processor_class.get_attributes():
        parts["qformer_tokenizer"] = build_tokenizer(name)
    for part, (class_name, arguments) in spec.parts.items():
        parts[part] = getattr(transformers, class_name)(**arguments)
    with video_processors_known():
        processor = processor_class(**parts, **spec.processor)
    processor.chat_template = spec.chat_template  # not all classes take it as an argument (Chameleon)
    return processor


@functools.cache
def _cached_processor(name: str) -> ProcessorMixin:
    return _build_pristine_processor(name)


def build_processor(name: str) -> ProcessorMixin:
    """
    The processor of a tiny base: the family's own class around the tokenizer and the PIL image processor.

    Args:
        name (`str`): A key of `BASES`.

    Returns:
        `ProcessorMixin`: A copy of its own.
    """
    return copy.deepcopy(_cached_processor(name))


def build(name: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """`build_model(name)` and `build_processor(name)`."""
    return build_model(name), build_processor(name)


def save_base(name: str, directory: str | Path) -> Path:
    """
    Save model and processor the way a repository on the Hub holds them.

    Args:
        name (`str`): A key of `BASES`.
        directory (`str` or `Path`): Created if missing.

    Returns:
        `Path`: The directory. `AutoModelForImageTextToText.from_pretrained` loads the model;
        `transformers_linvt`'s `load_base_processor` loads the processor.
    """
    directory = Path(directory)
    model, processor = build(name)
    if (outer := ALL_BASES[name].saved_inside) is not None:
        whole = getattr(transformers, outer)(model.config)
        whole.model = model
        model = whole
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory
