"""
LinVT around an image-text model: frames -> frame tokens -> M video tokens -> the base's own language model.

`LinVTModel` is the backbone and holds the condensing; `LinVTForVideoQA` is the thin head. The split is not cosmetic:
trainers call the backbone directly (TRL does), and a wrapper that condensed in its head would train without LinVT.
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from ..bases.base import BaseBridge
from ..bases.cache import CACHE_NAME, with_cache_named
from ..bases.dropout import rest_what_is_frozen
from ..bases.fingerprint import Fingerprint
from ..bases.layouts import FRAME_PREFIX
from ..bases.positions import check_grid_positions, forget_positions, go_on_from, has_grid_positions
from ..bases.registry import bridge_of
from ..errors import AttributionError, LinVTInputError, shown, unknown_argument
from ..evidence.evidence import VideoEvidence, evidence_of_video
from ..tokenizer.contrastive_head import INITIAL_TEMPERATURE, ContrastiveHead
from ..tokenizer.linear_video_tokenizer import LinearVideoTokenizer
from ..video.frames import VideoFrames
from .attribution import attribute_answers, words_of_answer
from .checkpoint_loading import LoadsCheckpoints
from .checkpoint_saving import SavesCheckpoints
from .condensing import CondensedVideos, CondensesVideos
from .configuration_linvt import LinVTConfig
from .encoding import encode_prepared, encode_while_reading
from .features import FEATURES_SUFFIX, VideoFeatures
from .messages import SAMPLING_ARGUMENTS
from .placing import PlacesVideos
from .pretrained import OWN_INPUTS, LinVTPreTrainedModel, with_named_inputs
from .time_marks import TIME_IDS


logger = logging.get_logger(__name__)

_TIMES = "video_timestamps"


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


_SEEN = "_seen_by_linvt"  # attribute of a cache: the attention mask of the prompt whose video tokens are in it


class LinVTModel(CondensesVideos, PlacesVideos):
    """
    The backbone: base backbone with video tokens in place of frames; returns hidden states.

    Args:
        config ([`LinVTConfig`]): sizes of LinVT, and the base's config.
        base_vlm ([`PreTrainedModel`], *optional*):
            A loaded base. Without it one is built from `config.base_config`, with random weights.

    Raises:
        UnsupportedBaseError: the base cannot take video tokens.
    """

    def __init__(self, config: LinVTConfig, base_vlm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        base_config: Any = config.base_config
        bridge = bridge_of(base_config.model_type)
        if base_vlm is None:
            base_vlm = bridge.build(base_config)
        else:
            # post_init below would draw the weights of a base again that was not loaded by transformers
            module: Any
            for module in base_vlm.modules():
                module._is_hf_initialized = True
        bridge.check(base_vlm)
        if config.video_positions == "grid":
            check_grid_positions(base_vlm)
        if getattr(base_config, "image_token_id", None) is None:  # Molmo's config does not say it
            base_config.image_placeholder = bridge.image_token_id(base_config)
        self.base_vlm = base_vlm
        self.linvt = LinearVideoTokenizer(bridge.width(base_vlm), **config.tokenizer_kwargs)
        self.linvt.aggregator.uses_all_queries = not bridge.passes_tokens_over(base_vlm)
        self._has_warned_of_few_tokens = self._has_told_of_nothing_to_learn = False
        self.freeze_base()
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """The backbone of a checkpoint: see [`LinVTForVideoQA.from_pretrained`], which loads it with its base."""
        loaded = LinVTForVideoQA.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        return (loaded[0].model, loaded[1]) if isinstance(loaded, tuple) else loaded.model

    @property
    def bridge(self) -> BaseBridge:
        """How this kind of base is talked to."""
        return bridge_of(getattr(self.config.base_config, "model_type", ""))

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
        """
        Training mode, but for what is frozen: batch norms of the base keep their averages, and its dropout is off.

        A base whose weights were given their gradient back drops as it always does; LoRA's own dropout stays.
        """
        super().train(mode)
        rest_what_is_frozen(self.base_vlm)
        return self

    def prepare(
        self, input_ids: torch.Tensor | None = None, **inputs: Any
    ) -> tuple[dict[str, Any], CondensedVideos | None]:
        """
        What [`LinVTProcessor`] made -> what the base takes, with the videos condensed.

        Without a video everything goes through as it came, so that pictures and text give the base's own result bit by
        bit. All tensors named `frame_*`, `frames_per_video`, `video_timestamps`, `video_time_ids` (times among the
        video tokens, see `add_timestamps` of [`LinVTProcessor`]), `video_mask`, `question_mask`,
        `video_features`, `encoded_frames`, `condensed_videos` (what this returned before, for the same videos) and
        `caption_mask` are consumed here.

        Returns:
            The base's keyword arguments, and the condensed videos (None without a video).

        Raises:
            LinVTInputError: placeholders, frames and pictures do not fit together.
        """
        inputs = with_cache_named(inputs)
        given = {name: inputs.pop(name, None) for name in OWN_INPUTS}
        frame_inputs = {
            name.removeprefix(FRAME_PREFIX): inputs.pop(name) for name in list(inputs) if name.startswith(FRAME_PREFIX)
        }
        if all(given[name] is None for name in ("frames_per_video", "video_features", "condensed_videos")):
            if frame_inputs:
                raise LinVTInputError(
                    f"Frames were given ({', '.join(FRAME_PREFIX + name for name in frame_inputs)}) without "
                    "frames_per_video. Pass everything that LinVTProcessor returned."
                )
            cache = inputs.get(CACHE_NAME)
            if cache is None or not cache.get_seq_length():  # a new prompt: an earlier video's offset is not its own
                self._check_no_placeholders(input_ids, given["video_mask"], inputs)
                forget_positions(self.base_vlm)
            elif (seen := getattr(cache, _SEEN, None)) is not None and input_ids is not None:
                inputs |= go_on_from(self.base_vlm, input_ids, seen, inputs, self.bridge.takes_positions)
            self._tell_of_nothing_to_learn()
            return {"input_ids": input_ids, **inputs}, None
        if input_ids is None:
            raise LinVTInputError(
                "A video needs input_ids with placeholders; inputs_embeds alone cannot hold one. Pass both. (PEFT's "
                "prompt, prefix and P-tuning pass embeddings alone: train LinVT with LoRA instead.)"
            )

        self._check_length(input_ids)
        video_mask = self._video_mask(input_ids, given["video_mask"], inputs)
        if (time_ids := given[TIME_IDS]) is not None:
            self._check_takes_times()
        if (condensed := given["condensed_videos"]) is not None:
            self._rows_of_videos(video_mask, len(condensed.tokens), time_ids is not None)
            return self._merge_visuals(input_ids, video_mask, condensed, inputs, time_ids), condensed
        features = given["video_features"]
        num_videos = len(features) if features is not None else len(given["frames_per_video"])
        rows = self._rows_of_videos(video_mask, num_videos, time_ids is not None)
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
        return self._merge_visuals(input_ids, video_mask, condensed, inputs, time_ids), condensed

    def _tell_of_nothing_to_learn(self) -> None:
        """Under a trainer that does not know LinVT a frozen base would not move, and nobody would say so."""
        if self._has_told_of_nothing_to_learn or not self.training or not torch.is_grad_enabled():
            return
        if any(weight.requires_grad for weight in self.base_vlm.parameters()):
            return
        self._has_told_of_nothing_to_learn = True
        logger.warning(
            "A batch without a video is trained on, and nothing is learnt from it: the base is frozen (from_base and "
            "from_pretrained do that), and LinVT takes no part. Train with LoRA (lora_config), or give the weights of "
            "the base that should move their gradient: model.base_vlm.requires_grad_(True)."
        )

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

    @with_named_inputs("states_to_keep")
    def forward(
        self, input_ids: torch.Tensor | None = None, states_to_keep: torch.Tensor | None = None, **inputs: Any
    ) -> ModelOutput:
        """
        Hidden states of the base's backbone, with videos condensed.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): with M image placeholders per video.
            states_to_keep (`torch.LongTensor` of shape `(batch, count)`, *optional*): places that are wanted; all.
            inputs: the rest of what [`LinVTProcessor`] returned, and any argument of the base's backbone.

        Returns:
            The base's backbone output; `last_hidden_state` has shape `(batch, length or count, D)`.
        """
        prepared, condensed = self.prepare(input_ids, **inputs)
        outputs = self.bridge.backbone(self.base_vlm, **_embedded_once(prepared, inputs))
        if states_to_keep is not None:
            states = outputs["last_hidden_state"]
            outputs["last_hidden_state"] = states.take_along_dim(states_to_keep.to(states.device).unsqueeze(-1), dim=1)
        return self.remember_seen(outputs, prepared, condensed)

    def remember_seen(
        self, outputs: ModelOutput, prepared: Mapping[str, Any], condensed: CondensedVideos | None
    ) -> ModelOutput:
        """The same outputs, whose cache knows which video tokens were passed over, for who goes on by hand."""
        cache = getattr(outputs, CACHE_NAME, None)
        if condensed is None or cache is None or not self.bridge.has_place_per_token:
            return outputs
        if not bool(condensed.outputs.weights.used.all()):
            setattr(cache, _SEEN, prepared["attention_mask"])
        return outputs


class LinVTForVideoQA(LoadsCheckpoints, SavesCheckpoints, GenerationMixin):
    """
    An image-text model that answers questions about videos: [`LinVTModel`] with the base's language head.

    Example (the embedded model, which knows coloured shapes only):

    >>> from transformers_linvt import LinVTForVideoQA, embedded_model_path
    >>> model = LinVTForVideoQA.from_pretrained(embedded_model_path())
    >>> model.config.num_video_tokens
    32
    """

    def __init__(self, config: LinVTConfig, base_vlm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.model = LinVTModel(config, base_vlm)
        # How the loss is counted and scaled under gradient accumulation is the base's business; trainers ask for it.
        self.accepts_loss_kwargs = _accepts_loss_kwargs(self.model.base_vlm)
        self.loss_type = getattr(self.model.base_vlm, "loss_type", None)
        self.generation_config = self.model.bridge.generation_config(self.model.base_vlm)
        for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # by these PEFT knows which layers of its own fit
            if getattr(self.model.base_vlm, name, False):
                setattr(self, name, True)
        self._base_as_loaded: dict[str, Fingerprint] | None = None  # of the base that config refers to, if known
        self._linvt_as_loaded: dict[str, Fingerprint] | None = (
            None  # of the checkpoint in name_or_path, if there is one
        )
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

    def get_output_embeddings(self) -> nn.Module | None:
        """The base's language head."""
        return self.model.bridge.head(self.base_vlm)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the base's language head."""
        self.base_vlm.set_output_embeddings(value)

    def get_decoder(self) -> nn.Module:
        """The base's language model."""
        return self.model.bridge.decoder(self.base_vlm)

    # -- use --

    @with_named_inputs("labels", "logits_to_keep")
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
            The base's own output: `logits`, the cache, and `loss` when labels are given. With `caption_mask`
            of shape `(batch, length)`, 1 at the caption of the video of each row, [`ContrastiveOutput`].
        """
        prepared, condensed = self.model.prepare(input_ids, **inputs)
        outputs: Any = self.model.bridge.forward(self.base_vlm, labels=labels, **_embedded_once(prepared, inputs))
        self.model.remember_seen(outputs, prepared, condensed)
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
        self.linvt.contrastive_head = ContrastiveHead(self.model.bridge.width(self.base_vlm), size)
        self.linvt.contrastive_head.init_weights(temperature)
        self.linvt.contrastive_head.to(weight.device, weight.dtype)
        self.config.contrastive_size = size

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """The base's `generate()` on condensed videos: the same path as `forward`, all its arguments and modes."""
        if inputs is not None:
            kwargs["input_ids"] = inputs
        prepared, _ = self.model.prepare(**kwargs)
        return self.generate_prepared(prepared)

    def generate_prepared(self, prepared: Mapping[str, Any], **kwargs: Any) -> Any:
        """
        The base's `generate()` on what [`LinVTModel.prepare`] returned.

        Args:
            prepared: the base's inputs.
            kwargs: arguments of `generate()`; without a `generation_config` among them, this model's holds.

        Raises:
            LinVTInputError: PEFT put prompt learning around this model, which would have no effect.
        """
        if "prepare_inputs_for_generation" in vars(self):  # put there by PEFT; the base below would never call it
            raise LinVTInputError(
                "Prompt, prefix and P-tuning have no effect on a LinVT, whose base generates by itself. Use LoRA "
                "(transformers_linvt.lora_config) or another method of PEFT that changes layers."
            )
        self.base_vlm.generation_config = self.generation_config
        if "mm_token_type_ids" not in inspect.signature(self.base_vlm.forward).parameters:
            # a processor that was asked for them writes them for any base; generate() refuses what it does not know
            prepared = {name: value for name, value in prepared.items() if name != "mm_token_type_ids"}
        given = {**prepared, **kwargs}
        if "tokenizer" in given:  # stop strings are looked up in it, and servers hand the processor over
            given["tokenizer"] = getattr(given["tokenizer"], "tokenizer", given["tokenizer"])
        return self.model.bridge.generate(self.base_vlm, **given)

    @torch.no_grad()
    def encode_video(
        self,
        video: Any = None,
        processor: Any = None,
        *,
        frames_per_video: Any = None,
        video_timestamps: Any = None,
        stream: bool = True,
        **inputs: Any,
    ) -> VideoFeatures:
        """
        One video, up to and including SVR: what no question changes. Ask it as often as you like with [`answer`].

        A video that is read here is read, prepared and encoded at the same time, a few frames each, and its frames are
        never together in memory. Of a long one the frame tokens lie in a temporary file until SVR has chosen among
        them; in memory stay a few numbers for every token.

        Args:
            video: what [`LinVTProcessor.video_inputs`] returned (with `**` as well); or, with a processor, whatever
                that reads: a path, [`VideoFrames`], frames in memory.
            processor ([`LinVTProcessor`], *optional*).
            frames_per_video, video_timestamps: of the processor's output, when it is given with `**`.
            stream: whether a video that is read here is encoded while it is read. With `False` all its frames are
                read first, then prepared, then encoded: the same result up to rounding, and more memory.
            inputs: the rest of it; or, beside a processor, sampling arguments (`num_frames`, `fps`, `start` ...).
                `limits=VideoLimits(max_frames=...)` allows more frames than the model's `max_frames`.

        Raises:
            LinVTInputError: not exactly one video, inputs that belong to a prompt, or a video without a processor.
            VideoReadError: the video cannot be read.
        """
        if video is not None and not isinstance(video, Mapping):
            _check_reader(processor, video, inputs)
            if stream:
                return encode_while_reading(self, processor, video, inputs)[0]
            return self.encode_video(processor.video_inputs(video, **inputs))
        if video is not None:
            if inputs or frames_per_video is not None or video_timestamps is not None:
                raise LinVTInputError("The processor's output was given twice. Pass it whole, or with **, not both.")
            inputs = dict(video)
            frames_per_video, video_timestamps = (inputs.pop(name, None) for name in ("frames_per_video", _TIMES))
        counts = torch.as_tensor(frames_per_video if frames_per_video is not None else []).tolist()
        if len(counts) != 1:
            raise LinVTInputError(f"encode_video takes one video, {len(counts)} were given. Call it once per video.")
        if foreign := [name for name in inputs if not name.startswith(FRAME_PREFIX)]:
            raise LinVTInputError(
                f"encode_video takes what processor.video_inputs(video) returns; {', '.join(foreign)} belongs to a "
                "prompt."
            )
        seconds = torch.as_tensor(video_timestamps).float() if video_timestamps is not None else None
        frame_inputs = {name.removeprefix(FRAME_PREFIX): value for name, value in inputs.items()}
        return encode_prepared(self, frame_inputs, counts, seconds)

    @overload
    def answer(self, features: Any, question: str, processor: Any = None, **generate_kwargs: Any) -> str: ...

    @overload
    def answer(
        self, features: Any, question: Sequence[str], processor: Any = None, **generate_kwargs: Any
    ) -> list[str]: ...

    @torch.no_grad()
    def answer(
        self, features: Any, question: str | Sequence[str], processor: Any = None, **generate_kwargs: Any
    ) -> str | list[str]:
        """
        Answer one or several questions about a video, all in one batch.

        Args:
            features ([`VideoFeatures`]): of [`encode_video`], or the path of a file that holds them
                (`.safetensors`). Whatever [`encode_video`] takes is encoded first, and again at the next call.
            question: one question, or a list of them.
            processor ([`LinVTProcessor`]): the model's.
            generate_kwargs: arguments of `generate()`. A `streamer` gets the words of one question as they come.

        Returns:
            The answer, or one per question.

        Raises:
            LinVTInputError: no processor, that of another model, features that another model made, or a streamer for
                several questions; or times are to be written, and the video was encoded without any.
        """
        return self._answer(self._encoded(features, processor), question, processor, generate_kwargs)[0]

    @overload
    def answer_with_evidence(
        self, features: Any, question: str, processor: Any = None, video: VideoFrames | None = None, **kwargs: Any
    ) -> tuple[str, VideoEvidence]: ...

    @overload
    def answer_with_evidence(
        self,
        features: Any,
        question: Sequence[str],
        processor: Any = None,
        video: VideoFrames | None = None,
        **kwargs: Any,
    ) -> tuple[list[str], list[VideoEvidence]]: ...

    @torch.no_grad()
    def answer_with_evidence(
        self,
        features: Any,
        question: str | Sequence[str],
        processor: Any = None,
        video: VideoFrames | None = None,
        **generate_kwargs: Any,
    ) -> tuple[str | list[str], VideoEvidence | list[VideoEvidence]]:
        """
        As [`answer`], and what each answer depended on.

        Costs a dozen passes of the language model, with backward, over prompt and answer ([`attribute_answers`]); the
        answer itself is generated once.

        Args:
            features, question, processor, generate_kwargs: as of [`answer`].
            video: the frames that were encoded, as `processor.read_video` returned them; without them the evidence has
                numbers and no picture.

        Returns:
            The answer and its [`VideoEvidence`], or a list of each: what a pipeline gives with `return_evidence=True`.
            Where no attribution can be had, the evidence and a warning say why.
        """
        features = self._encoded(features, processor)
        texts, inputs, condensed, answers = self._answer(features, question, processor, generate_kwargs)
        config = generate_kwargs.get("generation_config") or self.generation_config
        ends, pad = (
            generate_kwargs.get(name, getattr(config, name, None)) for name in ("eos_token_id", "pad_token_id")
        )
        found, why_not = None, None
        try:
            found = attribute_answers(self, inputs, condensed, answers, words_of_answer(answers, ends, pad))
        except AttributionError as error:
            logger.warning(str(error))
            why_not = str(error)
        steps, is_one = None if video is None else processor.steps_of(video), isinstance(question, str)
        asked_and_told = zip([question], [texts], strict=True) if is_one else zip(question, texts, strict=True)
        evidence = []
        for row, (asked, told) in enumerate(asked_and_told):
            about: dict[str, Any] = {"question": asked, "answer": told, "no_attribution": why_not}
            if found is not None:
                about |= {"attribution": found.values[row], "log_probs": tuple(found.log_probs[row].tolist())}
            evidence.append(evidence_of_video(condensed.outputs, row, features, steps, processor, **about))
        return texts, evidence[0] if is_one else evidence

    def _encoded(self, features: Any, processor: Any) -> VideoFeatures:
        """A video that was encoded before, in memory or in a file, or is encoded now."""
        if not hasattr(processor, "question_inputs"):
            raise LinVTInputError(
                f"The questions are written by the processor, and {shown(processor)} is not one. Pass processor=..., "
                "the LinVTProcessor of this model."
            )
        processor.check_fits(self.config)
        if isinstance(features, str | os.PathLike) and os.fspath(features).endswith(FEATURES_SUFFIX):
            features = VideoFeatures.load(features)
        return features if isinstance(features, VideoFeatures) else self.encode_video(features, processor)

    def _answer(
        self, features: VideoFeatures, question: str | Sequence[str], processor: Any, generate_kwargs: dict[str, Any]
    ) -> tuple[str | list[str], Mapping[str, Any], CondensedVideos, torch.Tensor]:
        """The answers, the prompts and videos they were given to, and the ids of the answers."""
        questions = [question] if isinstance(question, str) else list(question)
        if generate_kwargs.get("streamer") is not None and len(questions) > 1:
            raise LinVTInputError(
                f"A streamer takes the words of one answer, and {len(questions)} questions were asked at once. Ask "
                "them one after the other."
            )
        features.check_has_times(processor.add_timestamps)
        inputs = processor.question_inputs(questions, features.timestamps, features.duration).to(self.working_device)
        prepared, condensed = self.model.prepare(**inputs, video_features=[features] * len(questions))
        assert condensed is not None  # there are features
        generated = self.generate_prepared(prepared, **generate_kwargs)
        answers = generated[:, inputs["input_ids"].shape[1] :]
        texts = [text.strip() for text in processor.batch_decode(answers, skip_special_tokens=True)]
        return (texts[0] if isinstance(question, str) else texts), inputs, condensed, answers


def _check_reader(processor: Any, video: Any, sampling: Mapping[str, Any]) -> None:
    """Refuse to read a video without a processor, or by arguments that nobody knows."""
    if not hasattr(processor, "video_inputs"):
        raise LinVTInputError(
            f"A video ({shown(video)}) is read by the processor. Pass processor=..., the LinVTProcessor of this "
            "model; or encode_video(**processor.video_inputs(video))."
        )
    for name in sampling:
        if name not in SAMPLING_ARGUMENTS:
            raise LinVTInputError(unknown_argument(name, SAMPLING_ARGUMENTS))


def _embedded_once(prepared: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A base takes ids or embeddings: where both are given, the ids have served to find the placeholders."""
    if given.get("inputs_embeds") is None:
        return prepared
    return {name: value for name, value in prepared.items() if name != "input_ids"}


def _accepts_loss_kwargs(base: PreTrainedModel) -> bool:
    """Whether a base divides its loss by `num_items_in_batch`; where it does not say, whether it lets that through."""
    given = getattr(base, "accepts_loss_kwargs", None)
    parameters = inspect.signature(base.forward).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters) if given is None else given


__all__ = ["LinVTForVideoQA", "LinVTModel", "LinVTPreTrainedModel"]
