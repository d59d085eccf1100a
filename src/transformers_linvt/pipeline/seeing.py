"""Videos of requests: found as they were encoded before, read, or told how they are to be read."""

import os
from collections.abc import Mapping
from typing import Any

from ..errors import LinVTInputError
from ..model.digests import is_still
from ..model.features import VideoFeatures
from ..model.messages import resolved, sampling_of, source_of
from .caching import FeatureCache, Keys, SeenVideo, seen_of_features


class SeesVideos:
    """What [`VideoQuestionAnsweringPipeline`] does with the videos of a request before the model runs."""

    processor: Any
    cache: FeatureCache
    _keys: Keys
    _linvt: Any

    def _read_message(
        self,
        message: Mapping[str, Any],
        sampling: dict[str, Any],
        with_pixels: bool,
        stream: bool,
        videos: list[SeenVideo],
    ) -> dict[str, Any]:
        """A message with what was read in place of every video and picture; videos are appended to `videos` too."""
        if not isinstance(message.get("content"), list):
            return dict(message)
        content = []
        for part in message["content"]:
            if part["type"] == "video":
                videos.append(self._see(source_of(part), None, with_pixels, stream, **sampling_of(part, sampling)))
                words = {"subtitles": part["subtitles"]} if "subtitles" in part else {}
                part = {"type": "video", "video": videos[-1].video, **words}
            elif part["type"] == "image":
                part = {"type": "image", "image": self.processor.load_picture(source_of(part), sampling)}
            content.append(part)
        return {**message, "content": content}

    def _see(
        self,
        video: Any,
        video_root: str | os.PathLike | None = None,
        with_pixels: bool = False,
        stream: bool = True,
        **sampling: Any,
    ) -> SeenVideo:
        """A video: as it was encoded before where that is known, else its frames, or how to read them."""
        if isinstance(video, VideoFeatures):
            self._check_encoder(video)
            return seen_of_features(video, self.processor.frames_per_step)
        source = resolved(video, video_root)
        of_file = self._keys.of_file(source, sampling) if self.cache.is_on else None
        key = of_file[0] if of_file else None
        found = self.cache.get(key)
        if found is not None and not with_pixels:
            return found.named(os.fspath(source))
        is_digested = of_file is not None or not self.cache.is_on
        if stream and is_digested and not with_pixels and not self.processor.add_timestamps:
            return SeenVideo.to_be_read(source, sampling, key, of_file[1] if of_file else None)
        frames = self.processor.read_video(source, **sampling)
        if of_file is not None and not is_still(source, of_file[1]):  # it was written while it was read
            found = key = None
        elif of_file is None and self.cache.is_on:
            key = self._keys.of_frames(frames)
            found = self.cache.get(key)
        return SeenVideo(frames, found.features if found is not None else None, key)

    def _check_encoder(self, features: VideoFeatures) -> None:
        made_by = features.about.get("encoder")
        if made_by is not None and made_by != Keys(self._linvt, self.processor, for_files=True).of_encoder(False):
            raise LinVTInputError(
                "The video was encoded by another model, or prepared by another processor, than this pipeline has. "
                "Encode it again with this one: pipe.encode(video)."
            )
