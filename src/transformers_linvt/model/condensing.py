"""Frames -> frame tokens -> video tokens: the half of [`LinVTModel`] that comes before the language model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..bases.base import BaseBridge
from ..bases.layouts import EncodedFrames
from ..errors import CheckpointError, LinVTInputError
from ..summaries import short_repr
from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizerOutput
from .features import VideoFeatures
from .origin import digest_of_model
from .pretrained import LinVTPreTrainedModel, device_of
from .repeated_frames import FrameRepeater, take_is_new


logger = logging.get_logger(__name__)


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

    __repr__ = short_repr  # numbers by the thousand say nothing


class CondensesVideos(LinVTPreTrainedModel):
    """What [`LinVTModel`] does to videos before they meet a prompt."""

    bridge: BaseBridge

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Refuse: names and files of a checkpoint are those of the model around the backbone.

        Raises:
            CheckpointError: always.
        """
        raise CheckpointError(
            f"{os.fspath(save_directory)!r} is not written: LinVTModel is the inside of a LinVTForVideoQA. Save "
            "that one; LinVTModel.from_pretrained reads its checkpoint."
        )

    def encode_videos(
        self, frames_per_video: Sequence[int], frame_inputs: Mapping[str, torch.Tensor]
    ) -> list[EncodedFrames]:
        """
        Run the frames of several videos through the base's vision tower and projector.

        Args:
            frames_per_video: frames of each video.
            frame_inputs: image-processor output of all frames, one video after the other, under the base's names;
                with `is_new` of those frames that do not repeat the one before them.

        Raises:
            LinVTInputError: too many frames, or inputs that do not fit the number of frames.
        """
        for num_frames in frames_per_video:
            self.check_num_frames(num_frames)
        frame_inputs, is_new = take_is_new(frame_inputs, frames_per_video)
        counts = [int(one.sum()) for one in is_new]
        videos = self.bridge.family.layout.split(frame_inputs, counts)
        return [
            FrameRepeater().fill(
                self.bridge.encode_frames(self.base_vlm, video, count, self.config.frames_per_chunk), new
            )
            for video, count, new in zip(videos, counts, is_new, strict=True)
        ]

    def check_num_frames(self, num_frames: int, most: int | None = 0) -> None:
        """
        Refuse a video with more frames than the model takes, or than the caller allows where that is more.

        Args:
            num_frames: of the video.
            most: what the caller allows; None for any number.
        """
        limit = None if most is None else max(most, self.config.max_frames)
        if num_frames < 1 or (limit is not None and num_frames > limit):
            raise LinVTInputError(
                f"A video has {num_frames} frames; this model takes 1 to {limit}. Sample fewer with num_frames, raise "
                f"config.max_frames, or pass limits=VideoLimits(max_frames={num_frames}) where the video is read."
            )

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
        # a base spread over devices may leave its tokens on another one
        device, dtype = device_of(self.linvt), next(self.linvt.parameters()).dtype
        outputs = self.linvt(
            frame_tokens=[video.tokens.to(device, dtype) for video in videos],
            timestamps=[seconds.to(device) for seconds in timestamps] if timestamps is not None else None,
            grid_sizes=[video.grid_size for video in videos],
            question_embeds=question_embeds.to(device, dtype) if question_embeds is not None else None,
            question_mask=question_mask.to(device) if question_mask is not None else None,
            caption_embeds=caption_embeds.to(device, dtype) if caption_embeds is not None else None,
            caption_mask=caption_mask.to(device).bool() if caption_mask is not None else None,
        )
        layers = zip(*(video.deepstack for video in videos), strict=True)
        kept = [outputs.weights.average_each([one.to(device) for one in layer]) for layer in layers]
        return CondensedVideos(
            tokens=outputs.video_tokens,
            deepstack=[outputs.weights.apply_to_kept(layer) for layer in kept],
            container=videos[0].container,
            outputs=outputs,
            grid_sizes=[video.grid_size for video in videos],
            kept_deepstack=kept,
        )

    def condense_features(
        self,
        features: "Sequence[VideoFeatures]",
        question_embeds: torch.Tensor | None = None,
        question_mask: torch.Tensor | None = None,
    ) -> CondensedVideos:
        """Videos that went through SVR before ([`LinVTForVideoQA.encode_video`]) -> their tokens for the questions."""
        for video in features:
            self._warn_of_few_tokens(video.num_frames, video.refined.tokens_per_frame)
        device, dtype = device_of(self.linvt), next(self.linvt.parameters()).dtype
        stacked = VideoFeatures.stack(features).to(device, dtype)
        if stacked.width != (width := self.bridge.width(self.base_vlm)):
            raise LinVTInputError(
                f"The video features have width {stacked.width}, this model {width}: they were made by another model. "
                "Encode the video again with this one."
            )
        made_by, own = getattr(features[0].origin, "model", None), digest_of_model(self)
        if made_by is not None and own is not None and made_by != own:
            raise LinVTInputError(
                "The video features were made by another model, or by this one before it was trained further. Encode "
                "the video again with this one."
            )
        if question_embeds is not None:
            question_embeds = question_embeds.to(device, dtype)
            question_mask = question_mask.to(device) if question_mask is not None else None
        outputs = self.linvt.aggregate(stacked.refined, question_embeds, question_mask)
        return CondensedVideos(
            tokens=outputs.video_tokens,
            deepstack=[outputs.weights.apply_to_kept(layer) for layer in stacked.deepstack],
            container=stacked.container,
            outputs=outputs,
            grid_sizes=[video.grid_size for video in features],
            kept_deepstack=stacked.deepstack,
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
