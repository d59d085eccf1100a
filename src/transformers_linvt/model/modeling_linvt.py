"""
LinVT around an image-text model: frames -> frame tokens -> M video tokens -> the base's own language model.

`LinVTModel` is the backbone and holds the condensing; `LinVTForVideoQA` is the thin head. The split is not cosmetic:
trainers call the backbone directly (TRL does), and a wrapper that condensed in its head would train without LinVT.
"""

import copy
import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ModelOutput
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
    logging,
)
from transformers.utils.hub import resolve_revision

from ..bases.base import BaseAdapter, adapter_at, adapter_of, default_video_tokens_at
from ..bases.families import (
    FRAME_PREFIX,
    PICTURES,
    EncodedFrames,
    Fingerprint,
    changed_weights,
    check_grid_positions,
    context_length,
    encode_frames,
    fingerprint_weights,
    flat_rows,
    forget_positions,
    grids_with_videos,
    has_grid_positions,
    lay_out_positions,
    pass_over,
    positions_without_padding,
    split_videos,
)
from ..errors import AttributionError, CheckpointError, LinVTInputError
from ..remote_code import write_code
from ..tokenizer.aggregation import lattice_cells
from ..tokenizer.contrastive_head import INITIAL_TEMPERATURE, ContrastiveHead
from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizer, LinearVideoTokenizerOutput
from .attribution import attribute_answers, words_of_answer
from .configuration_linvt import LinVTConfig
from .features import VideoFeatures
from .model_card import card_for_upload, is_local, make_card


logger = logging.get_logger(__name__)

LINVT_PREFIX = "model.linvt."  # where LinVT's own weights live in a checkpoint; everything else is the base's
_BASE_PREFIX = "model.base_vlm."
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_PUSH_ARGUMENTS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr", "tags")


@dataclass
class CondensedVideos:
    """
    The video tokens of a batch, before they meet the language model.

    Attributes:
        tokens (`torch.Tensor` of shape `(num_videos, M, D)`).
        deepstack (`list` of such tensors): the same weights applied to the base's deeper visual tokens.
        container (`str`): how the base packs visual tokens.
        outputs (`LinearVideoTokenizerOutput`): kept indices, significance and the weights, for all videos.
        grid_sizes (`list[tuple[int, int]]`): rows and columns of a frame's tokens, of each video.
        kept_deepstack (`list` of `torch.Tensor` of shape `(num_videos, k, D)`): what `deepstack` are averages of.
    """

    tokens: torch.Tensor
    deepstack: list[torch.Tensor]
    container: str
    outputs: LinearVideoTokenizerOutput
    grid_sizes: list[tuple[int, int]]
    kept_deepstack: list[torch.Tensor]


@dataclass
class ContrastiveOutput(ModelOutput):
    """
    The base's output together with what stage 1 compares, from one forward (as data parallelism needs it).

    Args:
        loss (`torch.Tensor` of shape `(1,)`, *optional*): next-token loss.
        logits (`torch.Tensor` of shape `(batch, length, vocabulary)`).
        video_embeds, text_embeds (`torch.Tensor` of shape `(num_videos, size)`): length 1.
        logit_scale (`torch.Tensor` of shape `(1,)`): 1 / temperature.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None


class LinVTPreTrainedModel(PreTrainedModel):
    """What [`LinVTModel`] and [`LinVTForVideoQA`] share."""

    config_class = LinVTConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    # The base decides; these say only that LinVT itself stands in nobody's way.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["SpatioTemporalBlock", "AggregatorBlock"]
    # What transformers quantises in a checkpoint that holds its base is the base: its quantisers pass these over.
    _keep_in_fp32_modules = ["model.linvt"]

    def _init_weights(self, module: nn.Module) -> None:
        # The tokenizer knows its own start; the base is another model and initialises itself.
        if isinstance(module, LinearVideoTokenizer):
            module.init_weights()

    def post_init(self) -> None:
        """As in transformers, without names of modules that this base does not have (FSDP refuses those)."""
        super().post_init()
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = {name for name in self._no_split_modules if name in present}

    def get_input_embeddings(self) -> nn.Module:
        """The base's token embeddings."""
        return self.base_vlm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the base's token embeddings."""
        self.base_vlm.set_input_embeddings(value)


class LinVTModel(LinVTPreTrainedModel):
    """
    The backbone: base backbone with video tokens in place of frames; returns hidden states.

    Args:
        config ([`LinVTConfig`]).
        base_vlm ([`PreTrainedModel`], *optional*):
            A loaded base. Without it one is built from `config.base_config`, with random weights.

    Raises:
        UnsupportedBaseError: the base cannot take video tokens.
    """

    def __init__(self, config: LinVTConfig, base_vlm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        adapter = adapter_of(config.base_config.model_type)
        if base_vlm is None:
            base_vlm = adapter.build(config.base_config)
        else:
            # post_init below would draw the weights of a base again that was not loaded by transformers
            for module in base_vlm.modules():
                module._is_hf_initialized = True
        adapter.check(base_vlm)
        if config.video_positions == "grid":
            check_grid_positions(base_vlm)
        if getattr(config.base_config, "image_token_id", None) is None:  # Molmo's config does not say it
            config.base_config.image_placeholder = adapter.image_token_id(config.base_config)
        self.base_vlm = base_vlm
        self.linvt = LinearVideoTokenizer(adapter.width(base_vlm), **config.tokenizer_kwargs)
        self.linvt.aggregator.uses_all_queries = not adapter.passes_tokens_over(base_vlm)
        self._has_warned_of_few_tokens = False
        self.freeze_base()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """The backbone of a checkpoint: see [`LinVTForVideoQA.from_pretrained`], which loads it with its base."""
        loaded = LinVTForVideoQA.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return (loaded[0].model, loaded[1]) if isinstance(loaded, tuple) else loaded.model

    @property
    def adapter(self) -> BaseAdapter:
        """How this kind of base is talked to."""
        return adapter_of(self.config.base_config.model_type)

    @property
    def has_video_grid(self) -> bool:
        """Whether video tokens stand at times, rows and columns; see `video_positions` in [`LinVTConfig`]."""
        if self.config.video_positions == "auto":
            return self.linvt.init == "keyframes" and has_grid_positions(self.base_vlm)
        return self.config.video_positions == "grid"

    def freeze_base(self) -> None:
        """Take the gradient from every parameter of the base: LinVT is what trains (LoRA adds its own parameters)."""
        self.base_vlm.requires_grad_(False)

    def train(self, mode: bool = True) -> "LinVTModel":
        """Training mode, but for what would learn from mere looking: batch norms of the base keep their averages."""
        super().train(mode)
        for module in self.base_vlm.modules():
            if getattr(module, "track_running_stats", False):
                module.eval()
        return self

    # -- frames -> video tokens --

    def encode_videos(
        self, frames_per_video: Sequence[int], frame_inputs: Mapping[str, torch.Tensor]
    ) -> list[EncodedFrames]:
        """
        Run the frames of several videos through the base's vision tower and projector.

        Args:
            frames_per_video: frames of each video.
            frame_inputs: image-processor output of all frames, one video after the other, under the base's names.

        Raises:
            LinVTInputError: too many frames, or inputs that do not fit the number of frames.
        """
        for num_frames in frames_per_video:
            if not 1 <= num_frames <= self.config.max_frames:
                raise LinVTInputError(
                    f"A video has {num_frames} frames; this model takes 1 to {self.config.max_frames}. Sample fewer "
                    "with num_frames, or raise config.max_frames."
                )
        videos = split_videos(self.adapter.family, frame_inputs, frames_per_video)
        return [
            encode_frames(self.adapter, self.base_vlm, video, num_frames, self.config.frames_per_chunk)
            for video, num_frames in zip(videos, frames_per_video, strict=True)
        ]

    def condense(
        self,
        videos: Sequence[EncodedFrames],
        timestamps: Sequence[torch.Tensor] | None = None,
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
        caption_embeds: torch.Tensor | None = None,
        caption_mask: torch.Tensor | None = None,
    ) -> CondensedVideos:
        """
        Frame tokens of several videos -> M video tokens each.

        Args:
            videos: frame tokens; videos may differ in frames and in tokens per frame.
            timestamps: seconds of each video's frames.
            question_embeds (`torch.Tensor` of shape `(num_videos, L, D)`, *optional*): the question about each video.
            question_mask (`torch.Tensor` of shape `(num_videos, L)`, *optional*): 1 at real question tokens.
            caption_embeds, caption_mask: of the same shapes, the caption of each video; asks for `outputs.contrast`.

        Where less is new than M tokens, the last ones are copies that the language model is not to see
        (`outputs.weights.used`). Where the base cannot pass tokens over, or without key frames, a video with fewer
        frame tokens than M gives M tokens all the same, with a warning, once for a model.
        """
        for video in videos:
            self._warn_of_few_tokens(*video.tokens.shape[:2])
        tokens, mask = _pad_videos([video.tokens for video in videos])
        weight = next(self.linvt.parameters())  # a base spread over devices may leave its tokens on another one
        device, dtype = weight.device, weight.dtype
        outputs = self.linvt(
            frame_tokens=tokens.to(device, dtype),
            frame_mask=mask.to(device),
            timestamps=_pad_rows(timestamps, tokens.shape[1]).to(device) if timestamps is not None else None,
            grid_sizes=[video.grid_size for video in videos],
            question_embeds=question_embeds.to(device, dtype) if question_embeds is not None else None,
            question_mask=question_mask.to(device) if question_mask is not None else None,
            caption_embeds=caption_embeds.to(device, dtype) if caption_embeds is not None else None,
            caption_mask=caption_mask.to(device).bool() if caption_mask is not None else None,
        )
        layers = [_pad_videos([video.deepstack[i] for video in videos])[0] for i in range(len(videos[0].deepstack))]
        kept = [outputs.weights.average(layer.to(device)) for layer in layers]
        return CondensedVideos(
            tokens=outputs.video_tokens,
            deepstack=[outputs.weights.apply_to_kept(layer) for layer in kept],
            container=videos[0].container,
            outputs=outputs,
            grid_sizes=[video.grid_size for video in videos],
            kept_deepstack=kept,
        )

    def question_embeddings(
        self, input_ids: torch.Tensor, question_mask: torch.Tensor | None, rows: Sequence[int]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The question tokens of `rows` of a batch as the base embeds them: `(len(rows), L, D)` and their mask."""
        if not self.config.text_conditioned:
            return None, None
        if question_mask is None:
            logger.warning_once(
                "No question_mask: LinVT condenses the video without looking at the question. LinVTProcessor gives it."
            )
            return None, None
        ids = [input_ids[row][question_mask[row].bool()] for row in rows]
        lengths = torch.tensor([len(row_ids) for row_ids in ids])
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True)  # any id will do: masked
        if padded.shape[1] == 0:
            return None, None
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return self.get_input_embeddings()(padded), mask.to(padded.device)

    # -- video tokens -> language model --

    def prepare(
        self, input_ids: torch.Tensor | None = None, **inputs: Any
    ) -> tuple[dict[str, Any], CondensedVideos | None]:
        """
        What [`LinVTProcessor`] made -> what the base takes, with the videos condensed.

        Without a video everything goes through as it came, so that pictures and text give the base's own result bit by
        bit. All tensors named `frame_*`, `frames_per_video`, `video_timestamps`, `video_mask`, `question_mask`,
        `video_features`, `encoded_frames`, `condensed_videos` (what this returned before, for the same videos) and
        `caption_mask` are consumed here.

        Returns:
            The base's keyword arguments, and the condensed videos (None without a video).

        Raises:
            LinVTInputError: placeholders, frames and pictures do not fit together.
        """
        own = (
            "frames_per_video",
            "video_timestamps",
            "video_mask",
            "question_mask",
            "video_features",
            "encoded_frames",
            "condensed_videos",
            "caption_mask",
        )
        given = {name: inputs.pop(name, None) for name in own}
        frame_inputs = {
            name.removeprefix(FRAME_PREFIX): inputs.pop(name) for name in list(inputs) if name.startswith(FRAME_PREFIX)
        }
        if all(given[name] is None for name in ("frames_per_video", "video_features", "condensed_videos")):
            if frame_inputs:
                raise LinVTInputError(
                    f"Frames were given ({', '.join(FRAME_PREFIX + name for name in frame_inputs)}) without "
                    "frames_per_video. Pass everything that LinVTProcessor returned."
                )
            cache = inputs.get("past_key_values")
            if cache is None or not cache.get_seq_length():  # a new prompt: an earlier video's offset is not its own
                forget_positions(self.base_vlm)
            return {"input_ids": input_ids, **inputs}, None
        if input_ids is None:
            raise LinVTInputError("A video needs input_ids with placeholders; inputs_embeds alone cannot hold one.")

        self._check_length(input_ids)
        video_mask = self._video_mask(input_ids, given["video_mask"], inputs)
        if (condensed := given["condensed_videos"]) is not None:
            self._rows_of_videos(video_mask, len(condensed.tokens))
            return self._merge_visuals(input_ids, video_mask, condensed, inputs), condensed
        features = given["video_features"]
        num_videos = len(features) if features is not None else len(given["frames_per_video"])
        rows = self._rows_of_videos(video_mask, num_videos)
        question_embeds, question_mask = self.question_embeddings(input_ids, given["question_mask"], rows)
        if features is not None:
            condensed = self.condense_features(features, question_embeds, question_mask)
        else:
            frames_per_video = torch.as_tensor(given["frames_per_video"]).tolist()
            timestamps = given["video_timestamps"]
            if timestamps is not None and len(timestamps) != sum(frames_per_video):
                raise LinVTInputError(
                    f"video_timestamps has {len(timestamps)} entries, the videos have {sum(frames_per_video)} frames."
                )
            encoded = given["encoded_frames"]
            condensed = self.condense(
                self.encode_videos(frames_per_video, frame_inputs) if encoded is None else encoded,
                torch.as_tensor(timestamps).float().split(frames_per_video) if timestamps is not None else None,
                question_embeds,
                question_mask,
                *self._captions(input_ids, given["caption_mask"], rows),
            )
        return self._merge_visuals(input_ids, video_mask, condensed, inputs), condensed

    def _captions(
        self, input_ids: torch.Tensor, caption_mask: torch.Tensor | None, rows: Sequence[int]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The embedded texts of the rows of the videos and where the captions stand in them."""
        if caption_mask is None:
            return None, None
        if len(set(rows)) != len(rows):
            raise LinVTInputError(
                "Captions are compared with one video each; an example of the batch has several. Train on those "
                "without a contrastive loss."
            )
        return self.get_input_embeddings()(input_ids[rows]), caption_mask[rows]

    def condense_features(
        self,
        features: "Sequence[VideoFeatures]",
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> CondensedVideos:
        """Videos that went through SVR before ([`LinVTForVideoQA.encode_video`]) -> their tokens for the questions."""
        self._warn_of_few_tokens(features[0].num_frames, features[0].refined.tokens_per_frame)
        weight = next(self.linvt.parameters())
        device, dtype = weight.device, weight.dtype
        stacked = VideoFeatures.stack(features).to(device, dtype)
        if stacked.width != (width := self.adapter.width(self.base_vlm)):
            raise LinVTInputError(
                f"The video features have width {stacked.width}, this model {width}: they were made by another model. "
                "Encode the video again with this one."
            )
        if question_embeds is not None:
            question_embeds, question_mask = question_embeds.to(device, dtype), question_mask.to(device)
        outputs = self.linvt.aggregate(stacked.refined, question_embeds, question_mask)
        return CondensedVideos(
            tokens=outputs.video_tokens,
            deepstack=[outputs.weights.apply_to_kept(layer) for layer in stacked.deepstack],
            container=stacked.container,
            outputs=outputs,
            grid_sizes=[stacked.grid_size] * len(outputs.video_tokens),
            kept_deepstack=stacked.deepstack,
        )

    def _warn_of_few_tokens(self, num_frames: int, tokens_per_frame: int) -> None:
        """Say, once for a model, that the language model gets more tokens of a video than its frames have."""
        num_tokens, most = num_frames * tokens_per_frame, self.config.num_video_tokens
        if num_tokens >= most or self._has_warned_of_few_tokens or self.linvt.aggregator.counts_what_is_new:
            return
        self._has_warned_of_few_tokens = True
        unit = "frames" if self.config.frame_path == "image" else "steps of time"
        logger.warning(
            f"A video has {num_tokens} frame tokens ({unit}: {num_frames}, tokens of each: {tokens_per_frame}) and "
            f"becomes {most} video tokens (num_video_tokens): LinVT makes it longer, not shorter. Sample "
            f"{-(-most // tokens_per_frame)} {unit} or more, or make model and processor with num_video_tokens="
            f"{num_tokens} or less. Further videos like it are not named."
        )

    def _check_length(self, input_ids: torch.Tensor) -> None:
        length, limit = input_ids.shape[1], context_length(self.base_vlm)
        if limit is not None and length > limit:
            raise LinVTInputError(
                f"The prompt has {length} tokens ({self.config.num_video_tokens} of each video), the base takes "
                f"{limit} (max_position_embeddings). Shorten the question, or use fewer videos or video tokens."
            )

    def _video_mask(
        self, input_ids: torch.Tensor, video_mask: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        placeholders = input_ids == self.config.image_token_id
        if video_mask is None:
            if self.adapter.picture_inputs_of(self.base_vlm, inputs):
                raise LinVTInputError(
                    "Pictures and videos were given without video_mask, so it is unknown which placeholders belong to "
                    "the video. LinVTProcessor returns it."
                )
            return placeholders
        video_mask = video_mask.to(input_ids.device).bool()
        if video_mask.shape != input_ids.shape or (video_mask & ~placeholders).any():
            raise LinVTInputError(
                f"video_mask of shape {tuple(video_mask.shape)} does not lie on the image placeholders (token "
                f"{self.config.image_token_id}) of input_ids of shape {tuple(input_ids.shape)}. Was the text cut "
                "after the processor, or does the processor belong to another base?"
            )
        return video_mask

    def rows_of_videos(self, inputs: Mapping[str, Any], num_videos: int) -> list[int]:
        """Of a batch of prompts: the row that each video stands in."""
        return self._rows_of_videos(
            self._video_mask(inputs["input_ids"], inputs.get("video_mask"), inputs), num_videos
        )

    def _rows_of_videos(self, video_mask: torch.Tensor, num_videos: int) -> list[int]:
        counts = video_mask.sum(1).tolist()
        num_tokens = self.config.num_video_tokens
        if any(count % num_tokens for count in counts) or sum(counts) != num_videos * num_tokens:
            raise LinVTInputError(
                f"The prompts have {sum(counts)} video placeholders {counts}, but {num_videos} videos of "
                f"num_video_tokens={num_tokens} need {num_videos * num_tokens}. Model and processor must have the "
                "same num_video_tokens, and text must not be cut inside a video."
            )
        return [row for row, count in enumerate(counts) for _ in range(count // num_tokens)]

    def _merge_visuals(
        self, input_ids: torch.Tensor, video_mask: torch.Tensor, condensed: CondensedVideos, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Put video tokens, and pictures if there are any, in placeholder order and in the base's container."""
        placeholders = input_ids == self.config.image_token_id
        is_video = video_mask[placeholders]  # row after row, as the base scatters
        container, tokens = condensed.container, condensed.tokens.flatten(0, 1)
        deepstack = [layer.flatten(0, 1) for layer in condensed.deepstack]
        of_pictures = self.adapter.picture_inputs_of(self.base_vlm, inputs)
        if of_pictures.keys() & PICTURES:
            features, layers, container = self.adapter.encode(self.base_vlm, of_pictures)
            pictures = flat_rows(features)
            if len(pictures) != int((~is_video).sum()):
                raise LinVTInputError(
                    f"The prompts have {int((~is_video).sum())} picture placeholders, but the pictures make "
                    f"{len(pictures)} tokens. Pass the pictures through the same processor as the text."
                )
            tokens = _interleave(is_video, tokens, pictures)
            deepstack = [
                _interleave(is_video, layer, flat_rows(of_picture))
                for layer, of_picture in zip(deepstack, layers, strict=True)
            ]
        elif not bool(is_video.all()):
            raise LinVTInputError(
                f"The prompts have {int((~is_video).sum())} image placeholders without a picture or a video."
            )
        # A picture grid stays: families with multimodal rotary positions place the pictures by it.
        grid = self.adapter.family.grid
        inputs = {name: value for name, value in inputs.items() if name == grid or name not in of_pictures}
        if self.adapter.family.video_has_grid:
            num_tokens = self.config.num_video_tokens
            inputs[grid] = grids_with_videos(self.base_vlm, is_video, num_tokens, inputs.get(grid))
        inputs |= pass_over(input_ids, video_mask, condensed.outputs.weights.used, inputs)
        if inputs.get(grid) is None or not has_grid_positions(self.base_vlm):
            forget_positions(self.base_vlm)
            mask = inputs.get("attention_mask")
            inputs = {**positions_without_padding(self.adapter.family, input_ids, mask, video_mask), **inputs}
        lengths = [count for count in placeholders.sum(1).tolist() if count]
        tokens = tokens.to(next(self.get_input_embeddings().parameters()).dtype)
        prepared = self.adapter.hand_over(self.base_vlm, input_ids, tokens, deepstack, lengths, container, inputs)
        if self.has_video_grid:
            cells = self._cells(condensed)
            prepared["position_ids"] = lay_out_positions(self.base_vlm, input_ids, video_mask, cells, inputs)
        return prepared

    def _cells(self, condensed: CondensedVideos) -> torch.Tensor:
        """Time, row and column `(num_videos, M, 3)` that video tokens stand at: from W, or from the fixed lattice."""
        if self.linvt.init == "keyframes":
            return condensed.outputs.weights.cells(condensed.grid_sizes)
        return lattice_cells(self.linvt.aggregator.group_sizes).expand(len(condensed.tokens), -1, -1)

    def forward(self, input_ids: torch.Tensor | None = None, **inputs: Any) -> ModelOutput:
        """
        Hidden states of the base's backbone, with videos condensed.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): with M image placeholders per video.
            inputs: the rest of what [`LinVTProcessor`] returned, and any argument of the base's backbone.

        Returns:
            The base's backbone output; `last_hidden_state` has shape `(batch, length, D)`.
        """
        prepared, _ = self.prepare(input_ids, **inputs)
        return self.adapter.backbone(self.base_vlm, **prepared)


class LinVTForVideoQA(LinVTPreTrainedModel, GenerationMixin):
    """
    An image-text model that answers questions about videos: [`LinVTModel`] with the base's language head.

    Example (the embedded model, which knows coloured shapes only):

    >>> from transformers_linvt import LinVTForVideoQA, embedded_model_path
    >>> model = LinVTForVideoQA.from_pretrained(embedded_model_path())
    >>> model.config.num_video_tokens
    16
    """

    def __init__(self, config: LinVTConfig, base_vlm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.model = LinVTModel(config, base_vlm)
        # How the loss is scaled under gradient accumulation is the base's business.
        self.accepts_loss_kwargs = getattr(self.model.base_vlm, "accepts_loss_kwargs", None)
        self.generation_config = self.model.adapter.generation_config(self.model.base_vlm)
        self._base_as_loaded: dict[str, Fingerprint] | None = None  # of the base that config refers to, if known
        self._base_folder: str | None = None  # where a base that was named by a relative path was found
        self.post_init()

    @property
    def base_vlm(self) -> PreTrainedModel:
        """The wrapped image-text model."""
        return self.model.base_vlm

    @property
    def linvt(self) -> LinearVideoTokenizer:
        """The linear video tokenizer."""
        return self.model.linvt

    def get_output_embeddings(self) -> nn.Module:
        """The base's language head."""
        return self.model.adapter.head(self.base_vlm)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the base's language head."""
        self.base_vlm.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """The base's language model."""
        return self.model.adapter.decoder(self.base_vlm)

    # -- use --

    def forward(
        self, input_ids: torch.Tensor | None = None, labels: torch.Tensor | None = None, **inputs: Any
    ) -> ModelOutput:
        """
        Logits of the base, with videos condensed.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): with M image placeholders per video.
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): -100 where no loss is wanted.
            inputs: the rest of what [`LinVTProcessor`] returned, and any argument of the base.

        Returns:
            The base's own output: `logits`, `past_key_values`, and `loss` when labels are given. With `caption_mask`
            of shape `(batch, length)`, 1 at the caption of the video of each row, [`ContrastiveOutput`].
        """
        prepared, condensed = self.model.prepare(input_ids, **inputs)
        outputs = self.model.adapter.forward(self.base_vlm, labels=labels, **prepared)
        if condensed is None or (contrast := condensed.outputs.contrast) is None:
            return outputs
        return ContrastiveOutput(
            loss=outputs.loss,
            logits=outputs.logits,
            video_embeds=contrast.video_embeds,
            text_embeds=contrast.text_embeds,
            logit_scale=contrast.logit_scale,
        )

    def add_contrastive_head(self, size: int = 256, temperature: float = INITIAL_TEMPERATURE) -> None:
        """A new head for stage 1, which compares videos and captions in a space of `size` dimensions."""
        weight = next(self.linvt.parameters())
        self.linvt.contrastive_head = ContrastiveHead(self.model.adapter.width(self.base_vlm), size)
        self.linvt.contrastive_head.init_weights(temperature)
        self.linvt.contrastive_head.to(weight.device, weight.dtype)
        self.config.contrastive_size = size

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The base's `generate()` on condensed videos: the same path as `forward`, all its arguments and modes."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        prepared, _ = self.model.prepare(**kwargs)
        self.base_vlm.generation_config = self.generation_config
        return self.model.adapter.generate(self.base_vlm, **prepared)

    @torch.no_grad()
    def encode_video(self, frames_per_video: Any = None, video_timestamps: Any = None, **inputs: Any) -> VideoFeatures:
        """
        One video, up to and including SVR: what no question changes. Ask it as often as you like with [`answer`].

        Args:
            frames_per_video, video_timestamps, inputs: what [`LinVTProcessor.video_inputs`] returns.

        Raises:
            LinVTInputError: not exactly one video, or inputs that belong to a prompt.
        """
        counts = torch.as_tensor(frames_per_video if frames_per_video is not None else []).tolist()
        if len(counts) != 1:
            raise LinVTInputError(f"encode_video takes one video, {len(counts)} were given. Call it once per video.")
        if foreign := [name for name in inputs if not name.startswith(FRAME_PREFIX)]:
            raise LinVTInputError(
                f"encode_video takes what processor.video_inputs(video) returns; {', '.join(foreign)} belongs to a "
                "prompt."
            )
        frame_inputs = {name.removeprefix(FRAME_PREFIX): value.to(self.device) for name, value in inputs.items()}
        video = self.model.encode_videos(counts, frame_inputs)[0]
        weight = next(self.linvt.parameters())
        tokens = video.tokens[None].to(weight.device, weight.dtype)
        seconds = torch.as_tensor(video_timestamps).float() if video_timestamps is not None else None
        refined = self.linvt.refine(
            tokens,
            timestamps=seconds[None].to(tokens.device) if seconds is not None else None,
            grid_sizes=[video.grid_size],
        )
        return VideoFeatures.from_refined(refined, video, seconds)

    @torch.no_grad()
    def answer(
        self, features: VideoFeatures, question: str | Sequence[str], processor: Any, **generate_kwargs: Any
    ) -> str | list[str]:
        """
        Answer one or several questions about an encoded video, all in one batch.

        Args:
            features: of [`encode_video`], maybe loaded from a file.
            question: one question, or a list of them.
            processor ([`LinVTProcessor`]).
            generate_kwargs: arguments of `generate()`.

        Returns:
            The answer, or one per question.
        """
        return self._answer(features, question, processor, generate_kwargs)[0]

    @torch.no_grad()
    def answer_with_evidence(
        self, features: VideoFeatures, question: str | Sequence[str], processor: Any, **generate_kwargs: Any
    ) -> tuple[str | list[str], LinearVideoTokenizerOutput]:
        """
        As [`answer`], and what each answer depended on.

        Costs a dozen passes of the language model, with backward, over prompt and answer ([`attribute_answers`]); the
        answer itself is generated once.

        Returns:
            The answer or answers, and the output of the linear video tokenizer, one row per question: `weights` are W,
            where the video tokens came from; `attribution` of shape `(num_questions, num_kept)` is what of it the
            answer depended on, in nats, and `answer_log_probs` of shape `(num_questions, 2)` what it sums to. Both are
            None where they cannot be had, and a warning says why.
        """
        texts, inputs, condensed, answers = self._answer(features, question, processor, generate_kwargs)
        config = generate_kwargs.get("generation_config") or self.generation_config
        ends, pad = (
            generate_kwargs.get(name, getattr(config, name, None)) for name in ("eos_token_id", "pad_token_id")
        )
        try:
            found = attribute_answers(self, inputs, condensed, answers, words_of_answer(answers, ends, pad))
        except AttributionError as error:
            logger.warning(str(error))
            return texts, condensed.outputs
        return texts, replace(condensed.outputs, attribution=found.values, answer_log_probs=found.log_probs)

    def _answer(
        self, features: VideoFeatures, question: str | Sequence[str], processor: Any, generate_kwargs: dict[str, Any]
    ) -> tuple[str | list[str], Mapping[str, Any], CondensedVideos, torch.Tensor]:
        """The answers, the prompts and videos they were given to, and the ids of the answers."""
        questions = [question] if isinstance(question, str) else list(question)
        inputs = processor.question_inputs(questions).to(self.device)
        prepared, condensed = self.model.prepare(**inputs, video_features=[features] * len(questions))
        self.base_vlm.generation_config = self.generation_config
        generated = self.model.adapter.generate(self.base_vlm, **prepared, **generate_kwargs)
        answers = generated[:, inputs["input_ids"].shape[1] :]
        texts = [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]
        return (texts[0] if isinstance(question, str) else texts), inputs, condensed, answers

    # -- make, save, load --

    @classmethod
    def from_base(cls, base: "str | os.PathLike | PreTrainedModel", **kwargs: Any) -> "LinVTForVideoQA":
        """
        Put LinVT around an image-text model.

        Args:
            base: a repository id, a folder, or a loaded model (which is wrapped, not copied). Only with
                `base_model_name_or_path=...` (and maybe `base_revision`), which vouches for where its weights can be
                found, is a loaded model saved as a reference.
            kwargs: fields of [`LinVTConfig`] (`num_video_tokens`, `num_kept_tokens`, ...); everything else goes to the
                base's `from_pretrained` (`dtype`, `device_map`, `attn_implementation`, `quantization_config`,
                `revision`, `token` ...).

        Without `num_video_tokens` a video gets as many tokens as one frame of the base has, so that a still video
        loses nothing; where that depends on the size of the picture, one of 640 x 360 pixels. The base's processor is
        loaded to count them, for a loaded model by its `name_or_path`; where it cannot be had, it is 256, with a
        warning. `LinVTProcessor.from_base` of the same base has the same number.

        Raises:
            UnsupportedBaseError: the base cannot take video tokens; the message says why and what would work.
            CheckpointError: the base was not found.
            LinVTInputError: loading arguments together with a loaded model, or a wrong field of [`LinVTConfig`].
        """
        fields = {name: kwargs.pop(name) for name in list(kwargs) if name in _LINVT_FIELDS}
        for name in kwargs:
            if close := difflib.get_close_matches(name, _LINVT_FIELDS, n=1, cutoff=0.85):
                raise LinVTInputError(f"{name!r} is no field of LinVTConfig. Did you mean {close[0]!r}?")
        if isinstance(base, str | os.PathLike):
            name, is_known = os.path.abspath(base) if os.path.isdir(base) else os.fspath(base), True
            revision = _commit_of(name, kwargs)
            base, loading = adapter_at(name, kwargs).load(name, **kwargs), kwargs
        else:
            named, revision = kwargs.pop("base_model_name_or_path", None), kwargs.pop("base_revision", None)
            if kwargs:
                raise LinVTInputError(f"{', '.join(kwargs)} cannot be applied to a base that is loaded already.")
            _adapter_of_model(base).check(base)
            name, is_known = named or base.name_or_path or None, named is not None
            loading = {"revision": revision or getattr(base.config, "_commit_hash", None)}
        _adapter_of_model(base).check(base)
        if "num_video_tokens" not in fields:
            fields["num_video_tokens"] = default_video_tokens_at(name, loading)
        try:
            config = LinVTConfig(
                base_config=base.config,
                base_model_name_or_path=name,
                base_revision=revision,
                # Not the base's name: an adapter trained on this model would be loaded onto the base without LinVT.
                name_or_path="",
                dtype=base.dtype,
                **fields,
            )
        except StrictDataclassError as error:
            raise LinVTInputError(f"A field of LinVTConfig has a value it cannot have: {error}") from error
        model = cls(config, base_vlm=base)
        model._place_linvt()
        model._base_as_loaded = fingerprint_weights(base) if is_known else None
        return model.eval()

    def _place_linvt(self) -> None:
        """Bring LinVT to the precision of the base, and to the device where the base embeds its tokens."""
        embeddings = self.get_input_embeddings()
        hook_device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
        device = hook_device if hook_device is not None else next(embeddings.parameters()).device
        self.linvt.to(device=device, dtype=self.base_vlm.dtype)
        if device_map := getattr(self.base_vlm, "hf_device_map", None):
            self.hf_device_map = {f"{_BASE_PREFIX}{name}".rstrip("."): place for name, place in device_map.items()}
            self.hf_device_map["model.linvt"] = device

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        include_base: bool | None = None,
        state_dict: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Save LinVT's weights and a reference to the base, or with `include_base=True` everything.

        Args:
            save_directory: folder, made if missing.
            include_base: write the base's weights too, so that the checkpoint needs nothing else. Do this when the
                base was changed (a merged adapter), or has no name to load it by. By default as the checkpoint had it
                that this model was loaded from, and False for a new model.
            state_dict: weights to save instead of the model's own.
            kwargs: see [`PreTrainedModel.save_pretrained`].

        A model with `config.adapter_subfolder` is saved with its LoRA adapter in that folder. Without, an adapter that
        was loaded with `load_adapter` is saved alone, as transformers does it.

        Raises:
            CheckpointError: a reference is wanted and the base has no name, may be another one than the name stands
                for, or was changed; the whole is wanted and the base is quantised; or `save_directory` is a file.
        """
        if os.path.isfile(save_directory):
            raise CheckpointError(f"{os.fspath(save_directory)!r} is a file. Name a folder to save into.")
        include_base = self.config.includes_base if include_base is None else include_base
        subfolder, peft_config = self.config.adapter_subfolder, getattr(self, "peft_config", None)
        if self._hf_peft_config_loaded and not subfolder:
            return super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        self.check_can_be_saved(include_base)
        adapter_name = _only_adapter(peft_config) if subfolder and peft_config else None
        trained = dict(state_dict or self.state_dict())
        state_dict = _without_peft(trained) if peft_config else trained
        if not include_base:
            state_dict = {name: value for name, value in state_dict.items() if LINVT_PREFIX in name}
        saved_as = {
            "includes_base": include_base,
            "adapter_subfolder": subfolder if adapter_name else None,
            "base_model_name_or_path": self._reference_from(save_directory),
        }
        push = {name: kwargs.pop(name) for name in ("push_to_hub", "repo_id", *_PUSH_ARGUMENTS) if name in kwargs}
        if wants_push := push.pop("push_to_hub", False):
            self.check_can_be_pushed(include_base)
        is_main_process = kwargs.get("is_main_process", True)
        with _temporarily(self.config, saved_as), _temporarily(self, {"_hf_peft_config_loaded": False}):
            super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
            if is_main_process:
                write_code(save_directory, type(self))
            if is_main_process and not (card := Path(save_directory) / "README.md").exists():
                make_card(self.config).save(card)
        if adapter_name and is_main_process:
            self._save_adapter(os.path.join(save_directory, subfolder), adapter_name, trained)
        if wants_push and is_main_process:
            repo_id = push.pop("repo_id", None) or Path(save_directory).absolute().name
            self.push_to_hub(repo_id, include_base=include_base, **push)

    def check_can_be_saved(self, include_base: bool | None = None) -> None:
        """
        Refuse what a checkpoint could not bring back. Worth asking before a training and not only after it.

        Args:
            include_base: as [`save_pretrained`] is going to be called.

        Raises:
            CheckpointError: see [`save_pretrained`].
        """
        if self.config.includes_base if include_base is None else include_base:
            self._check_base_can_be_written()
        else:
            self._check_reference()

    def check_can_be_pushed(self, include_base: bool | None = None) -> None:
        """
        Refuse to push what nobody else could load: LinVT's weights with a reference to a folder of this machine.

        Raises:
            CheckpointError: the base is a local folder and would not be part of the checkpoint.
        """
        include_base = self.config.includes_base if include_base is None else include_base
        is_adapter_alone = self._hf_peft_config_loaded and not self.config.adapter_subfolder
        if is_adapter_alone and is_local(self.name_or_path):
            raise CheckpointError(
                f"Only the adapter would be pushed, and it belongs to the local folder {self.name_or_path!r}. Merge "
                "it and push with include_base=True."
            )
        if not (include_base or is_adapter_alone) and is_local(self.config.base_model_name_or_path):
            raise CheckpointError(
                f"The base of this model is the local folder {self.config.base_model_name_or_path!r}, which nobody "
                "else has. Push with include_base=True; or push the base first, and set "
                "config.base_model_name_or_path to its repository."
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        include_base: bool | None = None,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        tags: list[str] | None = None,
    ) -> CommitInfo:
        """
        Upload the checkpoint, with its adapter if it has one, and a model card. The processor has its own push_to_hub.

        A push that was interrupted is repeated: what the Hub has already is not sent again.

        Args:
            repo_id: `"name"` or `"organisation/name"`; made if missing.
            include_base: see [`save_pretrained`].
            revision: branch to push to, made if missing.
            tags: more tags for the model card.

        Raises:
            CheckpointError: the base is a local folder and would not be part of it (nothing is uploaded then), or the
                Hub refused the token.
        """
        self.check_can_be_pushed(include_base)
        api = HfApi(token=token)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not revision.startswith("refs/pr"):
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder, include_base=include_base, max_shard_size=max_shard_size)
                saved = self.config.from_pretrained(folder) if os.path.exists(f"{folder}/config.json") else self.config
                card_for_upload(saved, repo_id, tags, token).save(os.path.join(folder, "README.md"))
                return api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    commit_message=commit_message or "Upload LinVT",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )
        except HfHubHTTPError as error:
            raise token_refused(error, repo_id) from error

    def _save_adapter(self, folder: str, adapter_name: str, state_dict: dict[str, torch.Tensor]) -> None:
        """Write the LoRA weights in PEFT's own format, without the copy of LinVT that PEFT may train beside them."""
        with _temporarily(self, {"_hf_peft_config_loaded": True}):  # PEFT does not tell transformers of its adapters
            weights = self.get_adapter_state_dict(adapter_name, state_dict)
        config = copy.copy(self.peft_config[adapter_name])
        # Whole names: PEFT shortens them to endings that are unambiguous only beside the modules of today.
        config.target_modules = sorted({name.split(".lora_")[0] for name in weights if ".lora_" in name})
        config.modules_to_save = [name for name in config.modules_to_save or () if name != "linvt"] or None
        config.base_model_name_or_path = None  # the checkpoint it lies in
        config.inference_mode = True
        config.save_pretrained(folder)
        weights = {
            f"base_model.model.{name}": value.detach().contiguous().cpu()
            for name, value in weights.items()
            if LINVT_PREFIX not in name
        }
        save_file(weights, os.path.join(folder, ADAPTER_SAFE_WEIGHTS_NAME), metadata={"format": "pt"})

    def _reference_from(self, save_directory: str | os.PathLike) -> str | None:
        """The name of the base as a checkpoint in `save_directory` gives it: a relative one may not fit there."""
        name = self.config.base_model_name_or_path
        if not name or not name.startswith(".") or self._base_folder is None:
            return name
        seen_from_there = os.path.realpath(os.path.join(save_directory, name))
        return name if seen_from_there == os.path.realpath(self._base_folder) else self._base_folder

    def _check_reference(self) -> None:
        """Whether a reference to the base is enough to get this model back."""
        if not self.config.base_model_name_or_path:
            raise CheckpointError(
                "The base of this model has no name to load it by again (it was built in memory). Save with "
                "include_base=True, or set config.base_model_name_or_path."
            )
        if self._base_as_loaded is None:
            raise CheckpointError(
                "The base came as a loaded model or out of a checkpoint that holds it, so it may not be what "
                f"{self.config.base_model_name_or_path!r} stands for, and a reference could lose it. Save with "
                "include_base=True; or say where it is: from_base(base, base_model_name_or_path=...)."
            )
        if changed := changed_weights(self.base_vlm, self._base_as_loaded):
            raise CheckpointError(
                f"{len(changed)} weights of the base have changed since it was loaded, such as {changed[0]!r} (a "
                "merged adapter, or training); a reference to it would lose that. Save with include_base=True."
            )

    def _check_base_can_be_written(self) -> None:
        """Whether a checkpoint can hold this base: not one whose code comes with it, nor most that were quantised."""
        model_type = self.config.base_config.model_type
        if not self.model.adapter.can_be_included:
            raise CheckpointError(
                f"The weights of this base ({model_type}) would not load again from a checkpoint that holds them. "
                "Save a reference to the base: include_base=False."
            )
        if model_type not in CONFIG_MAPPING:
            raise CheckpointError(
                f"The code of the base ({model_type}) comes with its weights and not with transformers, so a "
                "checkpoint that holds the weights alone could not be loaded. Save a reference to the base "
                "(include_base=False, the default of from_base)."
            )
        quantizer = getattr(self, "hf_quantizer", None)  # of a checkpoint that held its base and was quantised itself
        if quantizer is None:
            cannot = getattr(self.base_vlm, "is_quantized", False)
        else:  # its state dict is the one that is written, with the names that PEFT gives
            cannot = not quantizer.is_serializable() or bool(getattr(self, "peft_config", None))
        if cannot:
            raise CheckpointError(
                "The base is quantised, and its quantised weights would not come back from the checkpoint. Save a "
                "reference to the base (include_base=False, the default of from_base) and pass quantization_config "
                "to from_pretrained; or load the model without quantization_config and save that."
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        config: LinVTConfig | None = None,
        base_vlm: PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> "LinVTForVideoQA | tuple[LinVTForVideoQA, dict]":
        """
        Load a LinVT checkpoint and its base.

        Args:
            pretrained_model_name_or_path: repository id or folder.
            config: instead of the checkpoint's own.
            base_vlm: a loaded base to use instead of the one the checkpoint refers to; must be of the same kind.
            kwargs: as in transformers: `dtype`, `device_map`, `attn_implementation`, `quantization_config`, `revision`
                (of the LinVT checkpoint; the base's is in the config), `token`, `output_loading_info` ...

        Raises:
            CheckpointError: weights missing or not fitting, or the base not found. A random base is never put in.
        """
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        # Code that came with a checkpoint may be loaded twice, so the class of the config may be a twin of ours.
        if not isinstance(config, PreTrainedConfig):
            config = _read_config(config or pretrained_model_name_or_path, hub_arguments)
        for name in _LINVT_FIELDS & kwargs.keys():  # as in transformers, a field may be given instead of the saved one
            setattr(config, name, kwargs.pop(name))
        if config.includes_base and base_vlm is None:
            return cls._load_whole(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        output_loading_info = kwargs.pop("output_loading_info", False)
        adapter_path = (kwargs.pop("adapter_kwargs", None) or {}).pop("_adapter_model_path", None)
        for name in _HUB_ARGUMENTS:
            if name not in ("cache_dir", "local_files_only", "proxies", "token", "force_download"):
                kwargs.pop(name, None)
        state_dict = _read_linvt_weights(pretrained_model_name_or_path, hub_arguments)
        if is_referenced := base_vlm is None:
            base_vlm = cls._load_referenced_base(config, os.fspath(pretrained_model_name_or_path), kwargs)
        _check_same_kind(base_vlm, config)
        config.base_config = base_vlm.config
        model = cls(config, base_vlm=base_vlm)
        model._place_linvt()
        model._base_as_loaded = fingerprint_weights(base_vlm) if is_referenced else None
        model._load_linvt_weights(state_dict, os.fspath(pretrained_model_name_or_path))
        model.name_or_path = config.name_or_path = os.fspath(pretrained_model_name_or_path)
        model._base_folder = _base_location(config, os.fspath(pretrained_model_name_or_path))
        try:
            model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **hub_arguments)
        except OSError:
            logger.info("No generation_config.json in the checkpoint: the base's is used.")
        if adapter_path is not None:  # an adapter trained on from the checkpoint's own, which it replaces
            config.adapter_subfolder = None
            model.load_adapter(adapter_path)
        model._load_own_adapter(pretrained_model_name_or_path, hub_arguments)
        model.eval()
        if not output_loading_info:
            return model
        return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}

    @classmethod
    def _load_whole(cls, path: str | os.PathLike, *model_args: Any, **kwargs: Any) -> Any:
        """A checkpoint that holds its base: transformers does it all; only the freezing has to be done again."""
        wants_info = kwargs.pop("output_loading_info", False)
        hub_arguments = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
        try:
            model, info = super().from_pretrained(path, *model_args, output_loading_info=True, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"The weights in {os.fspath(path)!r} cannot be loaded: {error} Save or download the checkpoint again."
            ) from error
        if info["missing_keys"]:
            raise CheckpointError(
                f"{os.fspath(path)!r} says that it holds its base, but {len(info['missing_keys'])} weights are "
                f"missing, such as {sorted(info['missing_keys'])[0]!r}. Save it again with include_base=True."
            )
        model.model.freeze_base()
        model.linvt.to(model.base_vlm.dtype)  # float32 beside a base in float16, see _keep_in_fp32_modules
        if not model._hf_peft_config_loaded:
            model._load_own_adapter(path, hub_arguments)
        return (model, info) if wants_info else model

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, and the model can still be saved whole: the names in its own checkpoint stay known."""
        conversions = getattr(self, "_weight_conversions", None)
        report = super().load_adapter(*args, **kwargs)
        # transformers 5.23 leaves those of the adapter's file behind, and would save every weight under such a name
        self._weight_conversions = conversions
        return report

    def _load_own_adapter(self, path: str | os.PathLike, hub_arguments: Mapping[str, Any]) -> None:
        """Put the LoRA adapter in `config.adapter_subfolder` of a checkpoint, if it has one, onto the base."""
        if not self.config.adapter_subfolder:
            return
        subfolder = "/".join(filter(None, (hub_arguments.get("subfolder"), self.config.adapter_subfolder)))
        try:
            report = self.load_adapter(os.fspath(path), adapter_kwargs={**hub_arguments, "subfolder": subfolder})
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{os.fspath(path)!r} says that it has an adapter in {subfolder!r}, which cannot be loaded: {error} "
                "Save or download the checkpoint again, or load it without: from_pretrained(..., "
                "adapter_subfolder=None)."
            ) from error
        if wrong := sorted([*report.missing_keys, *report.unexpected_keys]):
            raise CheckpointError(
                f"The adapter in {subfolder!r} of {os.fspath(path)!r} does not fit the base: {len(wrong)} weights are "
                f"missing or unexpected, such as {wrong[0]!r}. Was it trained on another base?"
            )

    @classmethod
    def _load_referenced_base(cls, config: LinVTConfig, checkpoint: str, kwargs: dict[str, Any]) -> PreTrainedModel:
        """The base a checkpoint refers to, with the caller's loading arguments."""
        name = _base_location(config, checkpoint)
        if not name:
            raise CheckpointError(
                "The checkpoint holds LinVT's weights only and does not say which base they belong to "
                "(base_model_name_or_path is empty). Pass the base with base_vlm=..."
            )
        kwargs = {key: value for key, value in kwargs.items() if not key.startswith("_")}
        if isinstance(device_map := kwargs.get("device_map"), Mapping):  # in our names, or already in the base's
            kwargs["device_map"] = {
                f"{key}.".removeprefix(_BASE_PREFIX).rstrip("."): place
                for key, place in device_map.items()
                if not f"{key}.".startswith(LINVT_PREFIX)
            }
        if config._attn_implementation is not None:  # Auto classes move the argument into the config
            kwargs.setdefault("attn_implementation", config._attn_implementation)
        return adapter_of(config.base_config.model_type).load(name, revision=config.base_revision, **kwargs)

    def _load_linvt_weights(self, state_dict: dict[str, torch.Tensor], path: str) -> None:
        own = {f"{LINVT_PREFIX}{name}": value for name, value in self.linvt.state_dict().items()}
        missing = sorted(own.keys() - state_dict.keys())
        wrong = sorted(name for name in own.keys() & state_dict.keys() if own[name].shape != state_dict[name].shape)
        unexpected = sorted(state_dict.keys() - own.keys())
        if missing or wrong or unexpected:
            raise CheckpointError(
                f"The LinVT weights in {path!r} do not fit its config: {len(missing)} missing {missing[:2]}, "
                f"{len(wrong)} of another shape {wrong[:2]}, {len(unexpected)} unexpected {unexpected[:2]}."
            )
        self.linvt.load_state_dict({name.removeprefix(LINVT_PREFIX): value for name, value in state_dict.items()})


def _adapter_of_model(base: Any) -> BaseAdapter:
    """The adapter of a loaded model, whatever it is: one that is none is refused by the common one."""
    return adapter_of(getattr(getattr(base, "config", None), "model_type", ""))


_LINVT_FIELDS = frozenset(LinVTConfig.__annotations__) - {
    "base_config",
    "base_model_name_or_path",
    "base_revision",
    "includes_base",
}


def _check_same_kind(base: PreTrainedModel, config: LinVTConfig) -> None:
    """Refuse a base that is not of the kind the checkpoint was made with."""
    found, saved = base.config, config.base_config
    for what, of in (
        ("architecture", lambda one: one.model_type),
        ("width", lambda one: one.get_text_config().hidden_size),
        ("vocabulary", lambda one: one.get_text_config().vocab_size),
    ):
        if of(found) != of(saved):
            raise CheckpointError(
                f"The base {base.name_or_path!r} is not the one this checkpoint was made with: its {what} is "
                f"{of(found)}, not {of(saved)}. Put the right base there, pass it with base_vlm=..., or, if you "
                "changed the base, save with include_base=True."
            )


def _base_location(config: LinVTConfig, checkpoint: str) -> str | None:
    """The name to load the base by: a relative one is beside the checkpoint, wherever that is."""
    name = config.base_model_name_or_path
    if name and name.startswith(".") and os.path.isdir(checkpoint):
        return os.path.abspath(os.path.join(checkpoint, name))
    return name


def token_refused(error: HfHubHTTPError, repo_id: str) -> Exception:
    """An error of the Hub's in words if it refused a token, else the same error."""
    if getattr(error.response, "status_code", None) not in (401, 403):
        return error
    return CheckpointError(
        f"The Hub does not let this token write to {repo_id!r}: {error}. Log in with `hf auth login`, or pass "
        "token=... of a token with write access to that account or organisation."
    )


@contextmanager
def _temporarily(thing: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Attributes of an object for as long as the block lasts."""
    before = {name: getattr(thing, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(thing, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(thing, name, value)


def _only_adapter(peft_config: Mapping[str, Any]) -> str:
    """The name of the one adapter a checkpoint can hold."""
    if len(peft_config) != 1:
        raise CheckpointError(
            f"The model has {len(peft_config)} adapters ({', '.join(peft_config)}); a checkpoint holds one. Merge or "
            "delete the others."
        )
    return next(iter(peft_config))


def _without_peft(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as it would be without PEFT: no LoRA, and of a module that PEFT trained the trained copy."""
    plain: dict[str, torch.Tensor] = {}
    for name, value in state_dict.items():
        if ".lora_" in name:
            continue
        if ".original_module." in name:
            plain.setdefault(name.replace(".original_module.", "."), value)
        else:
            plain[re.sub(r"\.modules_to_save\.[^.]+\.", ".", name).replace(".base_layer.", ".")] = value
    return plain


def _commit_of(name: str, kwargs: Mapping[str, Any]) -> str | None:
    """The commit a repository stands at, so that the checkpoint keeps meaning the same base; None for folders."""
    if os.path.isdir(name):
        return None
    where = {key: kwargs[key] for key in ("token", "local_files_only", "cache_dir") if key in kwargs}
    revision = resolve_revision(name, kwargs.get("revision"), **where)
    return getattr(revision, "resolved", None) or kwargs.get("revision")


def _read_config(path: str | os.PathLike, hub_arguments: dict[str, Any]) -> LinVTConfig:
    """The config of a LinVT checkpoint; that of another model is refused."""
    try:
        settings, _ = LinVTConfig.get_config_dict(path, **hub_arguments)
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)!r} has no readable config.json: {error}") from error
    if (found := settings.get("model_type")) is None:
        raise CheckpointError(f"{os.fspath(path)!r} has no config.json that names a model. Is it a checkpoint?")
    if found != LinVTConfig.model_type:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a {found} model, no LinVT checkpoint. Put LinVT around it with "
            "LinVTForVideoQA.from_base."
        )
    return LinVTConfig.from_dict(settings)


def _read_linvt_weights(path: str | os.PathLike, hub_arguments: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights below `model.linvt.` of a checkpoint, whole or in shards."""

    def find(name: str) -> str | None:
        return cached_file(path, name, _raise_exceptions_for_missing_entries=False, **hub_arguments)

    if (single := find(SAFE_WEIGHTS_NAME)) is not None:
        files = [single]
    elif (index := find(SAFE_WEIGHTS_INDEX_NAME)) is not None:
        weight_map = json.loads(Path(index).read_text())["weight_map"]
        files = [find(name) for name in sorted({f for key, f in weight_map.items() if key.startswith(LINVT_PREFIX)})]
    else:
        files = []
    if not files or None in files:
        raise CheckpointError(
            f"{os.fspath(path)!r} has no LinVT weights ({SAFE_WEIGHTS_NAME}). Is it a LinVT checkpoint, and was it "
            "saved or downloaded to the end?"
        )
    state_dict: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state_dict.update(load_file(file))
        except Exception as error:  # safetensors raises its own kinds for damaged files
            raise CheckpointError(f"{file!r} is damaged: {error}. Download or save the checkpoint again.") from error
    return {name: value for name, value in state_dict.items() if name.startswith(LINVT_PREFIX)}


def _pad_videos(videos: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors `(T_i, N_i, D)` -> one `(num_videos, T, N, D)` and the mask `(num_videos, T, N)` of real tokens."""
    frames, places = max(len(video) for video in videos), max(video.shape[1] for video in videos)
    padded = videos[0].new_zeros(len(videos), frames, places, videos[0].shape[-1])
    mask = torch.zeros(padded.shape[:3], dtype=torch.bool, device=padded.device)
    for i, video in enumerate(videos):
        padded[i, : len(video), : video.shape[1]] = video
        mask[i, : len(video), : video.shape[1]] = True
    return padded, mask


def _pad_rows(rows: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    padded = torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def _interleave(is_video: torch.Tensor, videos: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Rows of two tensors in the order of a mask."""
    is_video = is_video.to(videos.device)
    merged = videos.new_empty(len(is_video), videos.shape[-1])
    merged[is_video] = videos
    merged[~is_video] = pictures.to(videos)
    return merged


__all__ = ["LinVTForVideoQA", "LinVTModel", "LinVTPreTrainedModel"]
