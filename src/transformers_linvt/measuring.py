"""
What a question about a video costs on this machine, with LinVT and without it: both sides measured in one run.

The same base answers the same question about the same frames in up to four ways: through LinVT; with every frame as a
picture; with as many frames, evenly spaced, as fit the tokens that LinVT leaves; and by its own video path, where it
has one that runs here.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import PIL.Image
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .bases.layouts import FRAME_PREFIX
from .bases.loading import context_length
from .errors import LinVTError, LinVTInputError, advice, first_line, shown
from .model.repeated_frames import take_is_new
from .video.frames import VideoFrames


LINVT, ALL, FEWER, OWN = "linvt", "all frames", "fewer frames", "own video path"
WAYS = (LINVT, ALL, FEWER, OWN)
QUESTION = "What happens in the video?"
_RATE_WIDTH = 1024  # side of the matrices that say how fast this machine multiplies
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


@dataclass
class Cost:
    """
    What one way to ask costs; None where it was not measured.

    Attributes:
        way (`str`): of `WAYS`.
        frames (`int`): that were sampled; `frames_seen` are those that the way looks at.
        video_tokens (`int`): M of LinVT, and what the fewer frames may have.
        visual_tokens (`int`): that the language model gets.
        decode_s, preprocess_s, vision_s, linvt_s, prefill_s (`float`): seconds of the steps until the first token.
        per_token_s (`float`): seconds of a further token.
        questions_per_s (`float`): answers of one token about one encoded video.
        limit_s (`float`):
            Seconds that the matrix products of vision tower and prefill would take at the rate at which this machine
            multiplies large matrices.
        cache_bytes (`int`): keys and values of the prompt.
        peak_bytes (`int`): memory at the peak of the first token, beyond what was there before.
        error (`str`): why it could not be measured.
    """

    way: str
    frames: int
    video_tokens: int
    frames_seen: int | None = None
    visual_tokens: int | None = None
    decode_s: float | None = None
    preprocess_s: float | None = None
    vision_s: float | None = None
    linvt_s: float | None = None
    prefill_s: float | None = None
    per_token_s: float | None = None
    questions_per_s: float | None = None
    limit_s: float | None = None
    cache_bytes: int | None = None
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def first_token_s(self) -> float | None:
        """Seconds from frames that were read to the first token of an answer."""
        parts = [self.preprocess_s, self.vision_s, self.linvt_s or 0.0, self.prefill_s]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class Stopwatch:
    """
    Seconds and peak memory of a call, the device waited for.

    Args:
        device: whose memory counts.
        repeats: runs of which the median counts, after one that warms up.
    """

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.cuda, self.repeats = device.type == "cuda", repeats

    def measure(self, call: Callable[[], Any]) -> tuple[float, int | None]:
        """Median seconds, and the bytes at the peak beyond what was there before; None where that is not told."""
        seconds, peaks = [], []
        for repeat in range(self.repeats + 1):
            before = self._start()
            start = time.perf_counter()
            call()
            if self.cuda:
                torch.cuda.synchronize()
            if repeat:
                seconds.append(time.perf_counter() - start)
            after = self._peak()
            if before is not None and after is not None:
                peaks.append(max(0, after - before))
        return median(seconds), max(peaks, default=None)

    def _start(self) -> int | None:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        with suppress(OSError):
            _CLEAR.write_text("5")  # the highest use is counted from here on
            return _of_status("VmRSS")
        return None

    def _peak(self) -> int | None:
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        with suppress(OSError):
            return _of_status("VmHWM")
        return None


def _of_status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def answer_times(
    generate: Callable[..., Any], watch: Stopwatch, answer_tokens: int
) -> tuple[float, float, int | None]:
    """Seconds until the first token, seconds per further token, bytes at the peak."""

    def tokens(count: int) -> Any:
        return generate(max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)

    first, peak = watch.measure(lambda: tokens(1))
    whole, _ = watch.measure(lambda: tokens(1 + answer_tokens))
    return first, max(0.0, whole - first) / answer_tokens, peak


def machine_of(device: torch.device) -> str:
    """The device and the versions that a figure belongs to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"


class Bench:
    """
    Measures one model.

    Args:
        model ([`LinVTForVideoQA`]).
        processor ([`LinVTProcessor`]).
        repeats: runs of which the median counts.
        answer_tokens: further tokens that the time of one is measured on.
    """

    def __init__(self, model: Any, processor: Any, repeats: int = 3, answer_tokens: int = 8) -> None:
        self.model, self.processor, self.answer_tokens = model.eval(), processor, answer_tokens
        self.device, self.base, self.bridge = model.working_device, model.base_vlm, model.model.bridge
        self.watch = Stopwatch(self.device, repeats)
        self._rate: float | None = None

    def measure(self, video: Any, num_frames: int, ways: Sequence[str] = WAYS) -> list[Cost]:
        """
        The ways to ask about so many frames of a video, or about as many as it has.

        Args:
            video: what [`LinVTProcessor.read_video`] takes.
            num_frames: frames, spread evenly.
            ways: of `WAYS`.

        Raises:
            VideoReadError: the video could not be read.
            LinVTInputError: an unknown way.
        """
        for way in ways:
            if way not in WAYS:
                raise LinVTInputError(f"{shown(way)} is no way to ask. {advice(way, WAYS)}")
        seconds, _ = self.watch.measure(lambda: self.processor.read_video(video, num_frames=num_frames))
        frames = self.processor.read_video(video, num_frames=num_frames)
        measures = {LINVT: self._linvt, ALL: self._pictures, FEWER: self._pictures, OWN: self._own_video}
        costs = []
        for way in ways:
            cost = Cost(way, len(frames), self.model.config.num_video_tokens, len(frames), decode_s=seconds)
            costs.append(cost)
            try:
                with torch.inference_mode():
                    measures[way](cost, frames)
            except torch.OutOfMemoryError:
                cost.error = "does not fit the memory"
                torch.cuda.empty_cache()
            except LinVTError as error:
                cost.error = str(error)
        return costs

    # -- the ways --

    def _linvt(self, cost: Cost, frames: VideoFrames) -> None:
        backbone, processor = self.model.model, self.processor
        cost.preprocess_s, _ = self.watch.measure(lambda: processor.video_inputs(frames))
        made = self._on_device(processor.video_inputs(frames))
        counts, times = made["frames_per_video"].tolist(), [made["video_timestamps"].float()]
        inputs = {name.removeprefix(FRAME_PREFIX): made[name] for name in made if name.startswith(FRAME_PREFIX)}
        cost.vision_s, _ = self.watch.measure(lambda: backbone.encode_videos(counts, inputs))
        encoded = backbone.encode_videos(counts, inputs)
        prompt = self._on_device(processor.question_inputs([QUESTION]))
        question = backbone.question_embeddings(prompt["input_ids"], prompt["question_mask"], [0])
        cost.linvt_s, _ = self.watch.measure(lambda: backbone.condense(encoded, times, *question))
        prepared, _ = backbone.prepare(**prompt, condensed_videos=backbone.condense(encoded, times, *question))
        self._answer(cost, lambda **how: self.model.generate_prepared(dict(prepared), **how), cost.video_tokens)
        _, cost.peak_bytes = self.watch.measure(
            lambda: self.model.generate(**prompt, **made, max_new_tokens=1, do_sample=False, pad_token_id=0)
        )
        features = self.model.encode_video(**made)
        once, _ = self.watch.measure(
            lambda: self.model.answer(features, QUESTION, processor, max_new_tokens=1, do_sample=False, pad_token_id=0)
        )
        cost.questions_per_s = 1 / once
        self._limit(cost, inputs, counts[0], features.num_encoded_frames, prompt["input_ids"].shape[1])

    def _pictures(self, cost: Cost, frames: VideoFrames) -> None:
        """The base with frames as pictures, of the size and in the one tile that LinVT gives it."""
        count = len(frames)
        if cost.way == FEWER:
            fit = cost.video_tokens // self._tokens_of_picture(frames)
            count = cost.frames_seen = min(count, max(1, fit))
        places = [(2 * i + 1) * len(frames) // (2 * count) for i in range(count)]
        pictures = [PIL.Image.fromarray(frames.frames[place]) for place in places]
        cost.preprocess_s, _ = self.watch.measure(lambda: self._ask_pictures(pictures))
        made = self._on_device(self._ask_pictures(pictures))
        inputs = self.bridge.picture_inputs_of(self.base, made)
        vision, _ = self.watch.measure(lambda: self.bridge.encode(self.base, inputs))
        prefill = self._generate_from(cost, made, self.model.config.image_token_id, vision)
        cost.questions_per_s = 1 / (vision + prefill)
        as_frames = self._on_device(self.processor.video_inputs(frames))
        inputs = {
            name.removeprefix(FRAME_PREFIX): as_frames[name] for name in as_frames if name.startswith(FRAME_PREFIX)
        }
        self._limit(cost, inputs, int(as_frames["frames_per_video"]), count, made["input_ids"].shape[1])

    def _own_video(self, cost: Cost, frames: VideoFrames) -> None:
        base_processor, token = (
            self.processor.base_processor,
            getattr(self.model.config.base_config, "video_token_id", None),
        )
        if token is None or getattr(base_processor, "video_processor", None) is None:
            raise LinVTInputError("this base has none")
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}]

        def ask() -> Mapping[str, Any]:
            text = base_processor.apply_chat_template(messages, add_generation_prompt=True)
            return base_processor(
                text=[text], videos=[frames.frames], return_tensors="pt", videos_kwargs={"do_sample_frames": False}
            )

        try:
            made = self._on_device(ask())
        except Exception as error:  # what a base's video processor needs and may miss here is its own affair
            raise LinVTInputError(f"it does not run here: {first_line(error)}") from error
        cost.preprocess_s, _ = self.watch.measure(ask)
        self._generate_from(cost, made, token, 0.0)  # in the time of the prefill: there is no one name for it

    # -- parts of these --

    def _ask_pictures(self, pictures: Sequence[PIL.Image.Image]) -> Mapping[str, Any]:
        content = [{"type": "image", "image": picture} for picture in pictures]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            images_kwargs=self.processor.frame_options(len(pictures)),
        )

    def _tokens_of_picture(self, frames: VideoFrames) -> int:
        made = self._ask_pictures([PIL.Image.fromarray(frames.frames[0])])
        return max(1, int((made["input_ids"] == self.model.config.image_token_id).sum()))

    def _generate_from(self, cost: Cost, made: Mapping[str, Any], token: int, vision: float) -> float:
        """Seconds of the prefill, without the `vision` seconds in front of it."""
        cost.vision_s = vision
        visual, length = int((made["input_ids"] == token).sum()), made["input_ids"].shape[1]
        if (limit := context_length(self.base)) is not None and length + self.answer_tokens > limit:
            cost.visual_tokens = visual
            raise LinVTInputError(f"{length:,} tokens are more than the base takes ({limit:,})")
        prefill = cost.prefill_s = max(0.0, self._answer(cost, partial(self.base.generate, **made), visual) - vision)
        return prefill

    def _answer(self, cost: Cost, generate: Callable[..., Any], visual_tokens: int) -> float:
        cost.visual_tokens = visual_tokens
        prefill, cost.per_token_s, cost.peak_bytes = answer_times(generate, self.watch, self.answer_tokens)
        cost.prefill_s = prefill
        output = generate(max_new_tokens=1, do_sample=False, pad_token_id=0, return_dict_in_generate=True)
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            tensors = [
                value for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor)
            ]
            cost.cache_bytes = sum(one.numel() * one.element_size() for one in tensors)
        return prefill

    def _limit(
        self, cost: Cost, frame_inputs: Mapping[str, torch.Tensor], num_inputs: int, num_frames: int, length: int
    ) -> None:
        """Matrix products of `num_frames` frames, counted on the first, and of the language model's prefill."""
        frame_inputs, (is_new,) = take_is_new(frame_inputs, [num_inputs])
        one = self.bridge.family.layout.split(frame_inputs, [1] * int(is_new.sum()))[0]
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            self.bridge.encode_frames(self.base, one, 1, 1)
        decoder, text = self.bridge.decoder(self.base), self.base.config.get_text_config()
        weights = sum(one.numel() for name, one in decoder.named_parameters() if "embed" not in name)
        layers, width = getattr(text, "num_hidden_layers", 0), getattr(text, "hidden_size", 0)
        prefill = 2 * weights * length + 2 * layers * width * length**2
        cost.limit_s = (counter.get_total_flops() * num_frames + prefill) / self.rate()

    def rate(self) -> float:
        """Floating-point operations a second of large matrix products on this device, in the base's precision."""
        if self._rate is None:
            matrix = torch.ones(_RATE_WIDTH, _RATE_WIDTH, dtype=self.base.dtype, device=self.device)
            seconds, _ = self.watch.measure(lambda: float((matrix @ matrix)[0, 0]))  # reading a value waits
            self._rate = 2 * _RATE_WIDTH**3 / seconds
        return self._rate

    def _on_device(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        moved = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                is_pixels = value.is_floating_point() and name != "video_timestamps"
                value = value.to(self.device, self.base.dtype if is_pixels else None)
            moved[name] = value
        return moved


# ---------------------------------------------------------------------------------------------------------------------
# What is said
# ---------------------------------------------------------------------------------------------------------------------

_COLUMNS = (
    ("decode, s", "decode_s", 1.0, 3), ("prepare, s", "preprocess_s", 1.0, 3), ("vision, s", "vision_s", 1.0, 3),
    ("LinVT, s", "linvt_s", 1.0, 3), ("prefill, s", "prefill_s", 1.0, 3), ("first token, s", "first_token_s", 1.0, 3),
    ("limit, s", "limit_s", 1.0, 3), ("further token, ms", "per_token_s", 1e-3, 1),
    ("questions a second", "questions_per_s", 1.0, 2), ("cache, MiB", "cache_bytes", 2**20, 2),
    ("peak, MiB", "peak_bytes", 2**20, 0),
)  # fmt: skip


def shown_number(value: float | None, scale: float, digits: int) -> str:
    """
    A number in the unit of its column, or a dash.

    >>> shown_number(1536, 1024, 1), shown_number(None, 1, 1)
    ('1.5', '-')
    """
    return "-" if value is None else f"{value / scale:,.{digits}f}"


def table_of(costs: Sequence[Cost]) -> str:
    """Costs as a table in markdown."""
    names = [name for name, *_ in _COLUMNS]
    lines = [
        f"| frames | way to ask | visual tokens | {' | '.join(names)} |",
        "|---:|---" + "|---:" * (1 + len(names)) + "|",
    ]
    for cost in costs:
        way = f"{cost.way}, M = {cost.video_tokens}" if cost.way in (LINVT, FEWER) else cost.way
        if cost.error:
            lines.append(f"| {cost.frames} | {way} | {cost.error} |" + " |" * len(names))
            continue
        cells = [shown_number(getattr(cost, name), scale, digits) for _, name, scale, digits in _COLUMNS]
        lines.append(f"| {cost.frames} | {way} | {cost.visual_tokens:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(costs: Sequence[Cost]) -> list[str]:
    """What the figures say about LinVT, for each number of frames: where it saves, and where it cannot."""
    lines = []
    for mine in (cost for cost in costs if cost.way == LINVT and not cost.error):
        whole = next((one for one in costs if one.way == ALL and one.frames == mine.frames), None)
        start = f"{mine.frames} frames, M = {mine.video_tokens}:"
        if whole is None or whole.visual_tokens is None:
            continue
        if whole.error:
            lines.append(f"{start} without LinVT the frames cannot be asked about: {whole.error}.")
            continue
        if mine.visual_tokens is None or mine.vision_s is None or not mine.first_token_s or not whole.first_token_s:
            continue
        share = mine.vision_s / mine.first_token_s
        if mine.visual_tokens >= whole.visual_tokens:
            lines.append(
                f"{start} LinVT makes the prompt longer ({mine.visual_tokens} for {whole.visual_tokens} tokens)."
            )
            continue
        times = whole.first_token_s / mine.first_token_s
        cache = whole.cache_bytes / mine.cache_bytes if whole.cache_bytes and mine.cache_bytes else None
        saved = f"; its cache is {cache:.1f} times smaller" if cache else ""
        if times > 1.05:
            lines.append(f"{start} the first token comes {times:.2f} times sooner than with all frames{saved}.")
        else:
            lines.append(
                f"{start} LinVT saves no time ({times:.2f} times as fast as all frames): the language model reads "
                f"{whole.visual_tokens:,} tokens in {whole.prefill_s:.3f} s, and the vision tower, which LinVT "
                f"leaves as it is, takes {share:.0%} of the time until the first token{saved}."
            )
    return lines


__all__ = ["WAYS", "Bench", "Cost", "Stopwatch", "answer_times", "machine_of", "shown_number", "table_of", "verdicts"]
