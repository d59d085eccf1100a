"""Video tokens -> a prompt: the half of [`LinVTModel`] that finds their places and hands them to the base."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..bases.base import BaseBridge
from ..bases.loading import context_length
from ..bases.positions import (
    forget_positions,
    has_grid_positions,
    lay_out_positions,
    pass_over,
    positions_of_what_is_seen,
)
from ..bases.visuals import PICTURES, flat_rows
from ..errors import LinVTInputError
from ..tokenizer.aggregation import lattice_cells
from .condensing import CondensedVideos
from .pretrained import LinVTPreTrainedModel
from .time_marks import TIME_IDS, TIME_PLACES, with_times


class PlacesVideos(LinVTPreTrainedModel):
    """What [`LinVTModel`] does with condensed videos: which placeholders are theirs, and at which positions."""

    bridge: BaseBridge

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
            if self.bridge.picture_inputs_of(self.base_vlm, inputs):
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

    def _check_no_placeholders(
        self, input_ids: torch.Tensor | None, video_mask: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> None:
        """Refuse a new prompt with placeholders that nothing stands for: something on the way here dropped it."""
        if input_ids is None or inputs.get("inputs_embeds") is not None or self.config.image_token_id is None:
            return
        has_pictures = "mm_encoder_outputs" in inputs or self.bridge.picture_inputs_of(self.base_vlm, inputs)
        of_videos = 0 if video_mask is None else int(video_mask.sum())
        found = int((input_ids == self.config.image_token_id).sum())
        if of_videos or (found and not has_pictures):
            raise LinVTInputError(
                f"The prompts have {of_videos or found} placeholders of {'videos' if of_videos else 'visual tokens'} "
                "and no video was given. Pass everything that LinVTProcessor returned; a trainer or collator may have "
                "dropped frames_per_video and the frames (remove_unused_columns=False keeps them)."
            )

    def rows_of_videos(self, inputs: Mapping[str, Any], num_videos: int) -> list[int]:
        """The row of the batch that each video stands in."""
        video_mask = self._video_mask(inputs["input_ids"], inputs.get("video_mask"), inputs)
        return self._rows_of_videos(video_mask, num_videos, inputs.get(TIME_IDS) is not None)

    def _rows_of_videos(self, video_mask: torch.Tensor, num_videos: int, has_times: bool) -> list[int]:
        counts, num_tokens = video_mask.sum(1).tolist(), self.config.num_video_tokens
        places = self.bridge.places_of_video(num_tokens + TIME_PLACES * has_times)
        if any(count % places for count in counts) or sum(counts) != num_videos * places:
            raise LinVTInputError(
                f"The prompts have {sum(counts)} video placeholders {counts}, but {num_videos} videos of "
                f"num_video_tokens={num_tokens} need {num_videos * places}. Model and processor must have the "
                "same num_video_tokens, and text must not be cut inside a video."
            )
        return [row for row, count in enumerate(counts) for _ in range(count // places)]

    def _check_takes_times(self) -> None:
        """Refuse times among video tokens where not every place of a video is one token that can be passed over."""
        has_places = self.bridge.has_place_per_token and self.bridge.passes_tokens_over(self.base_vlm)
        if not has_places or has_grid_positions(self.base_vlm):
            raise LinVTInputError(
                f"The base ({self.base_vlm.config.model_type}) lays out visual tokens in its own way, or cannot "
                "pass over places that stay empty, so no times can stand among the video tokens. Use "
                "add_timestamps=True, which writes them behind the video."
            )

    def _merge_visuals(
        self,
        input_ids: torch.Tensor,
        video_mask: torch.Tensor,
        condensed: CondensedVideos,
        inputs: dict[str, Any],
        time_ids: torch.Tensor | None = None,
    ) -> dict[str, Any]:
        """Put video tokens, and pictures if there are any, in placeholder order and in the base's container."""
        placeholders = input_ids == self.config.image_token_id
        is_video = video_mask[placeholders]  # row after row, as the base scatters
        weights, container = condensed.outputs.weights, condensed.container
        tokens, used = condensed.tokens, weights.used
        if time_ids is not None:
            tokens, used = with_times(tokens, weights, time_ids, self.get_input_embeddings())
        tokens = tokens.flatten(0, 1)
        deepstack = [layer.flatten(0, 1) for layer in condensed.deepstack]
        lengths, of_video = [count for count in placeholders.sum(1).tolist() if count], is_video
        of_pictures = self.bridge.picture_inputs_of(self.base_vlm, inputs)
        has_pictures = bool(of_pictures.keys() & PICTURES)
        features, layers = [], []
        if has_pictures:
            features, layers, container = self.bridge.encode(self.base_vlm, of_pictures)
        elif not bool(is_video.all()):
            raise LinVTInputError(
                f"The prompts have {int((~is_video).sum())} image placeholders without a picture or a video."
            )
        if not self.bridge.has_place_per_token:
            lengths = _tokens_at_places(is_video, condensed.tokens.shape[1], features)
            of_video = is_video.repeat_interleave(torch.tensor(lengths, device=is_video.device))
        if has_pictures:
            pictures = flat_rows(features)
            if len(pictures) != int((~of_video).sum()):
                raise LinVTInputError(
                    f"The prompts have {int((~is_video).sum())} picture placeholders, but the pictures make "
                    f"{len(pictures)} tokens. Pass the pictures through the same processor as the text."
                )
            tokens = _interleave(of_video, tokens, pictures)
            deepstack = [
                _interleave(of_video, layer, flat_rows(of_picture))
                for layer, of_picture in zip(deepstack, layers, strict=True)
            ]
        # A picture grid stays: families with multimodal rotary positions place the pictures by it.
        grid = self.bridge.family.layout.grid_input
        inputs = {name: value for name, value in inputs.items() if name == grid or name not in of_pictures}
        inputs = self.bridge.place_videos(self.base_vlm, is_video, used, inputs)
        if self.bridge.has_place_per_token:
            inputs |= pass_over(input_ids, video_mask, used, inputs.get("attention_mask"))
        if inputs.get(grid) is None or not has_grid_positions(self.base_vlm):
            forget_positions(self.base_vlm)
            mask = inputs.get("attention_mask")
            inputs = {**positions_of_what_is_seen(self.bridge.family, input_ids, video_mask, mask), **inputs}
        tokens = tokens.to(next(self.get_input_embeddings().parameters()).dtype)
        prepared = self.bridge.hand_over(self.base_vlm, input_ids, tokens, deepstack, lengths, container, inputs)
        if self.has_video_grid:
            cells = self._cells(condensed)
            prepared["position_ids"] = lay_out_positions(self.base_vlm, input_ids, video_mask, cells, inputs)
        return prepared

    def _cells(self, condensed: CondensedVideos) -> torch.Tensor:
        """Time, row and column `(num_videos, M, 3)` that video tokens stand at: from W, or from the fixed lattice."""
        if self.linvt.init == "keyframes":
            return condensed.outputs.weights.cells(condensed.grid_sizes)
        return lattice_cells(self.linvt.aggregator.group_sizes).expand(len(condensed.tokens), -1, -1)


def _tokens_at_places(is_video: torch.Tensor, num_video_tokens: int, pictures: Sequence[torch.Tensor]) -> list[int]:
    """Visual tokens that each placeholder stands for, where it stands for a whole picture or video."""
    if (given := len(pictures)) != (written := int((~is_video).sum())):
        raise LinVTInputError(
            f"The prompts have {written} picture placeholders, but {given} pictures were given. Pass the pictures "
            "through the same processor as the text."
        )
    lengths = iter([len(picture) for picture in pictures])
    return [num_video_tokens if video else next(lengths) for video in is_video.tolist()]


def _interleave(is_video: torch.Tensor, videos: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Rows of two tensors in the order of a mask."""
    is_video = is_video.to(videos.device)
    merged = videos.new_empty(len(is_video), videos.shape[-1])
    merged[is_video] = videos
    merged[~is_video] = pictures.to(videos)
    return merged
