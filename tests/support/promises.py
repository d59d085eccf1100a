"""
The promises of the package as checks: each raises AssertionError when a model breaks it.

They are functions and not tests because each is used twice: on models that must keep the promise (every family of
`tiny_bases.BASES`), and on models that were broken on purpose, where it must raise. A check that cannot fail proves
nothing.

Everything is made from data here: clips with random pixels, sizes that all differ, and wrappers whose LinVT weights
are drawn at random ([`stir`]). At its anchored start LinVT does not look at the question at all, and a test on such a
model would not notice a question that leaks into another sample.
"""

import copy
import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, DynamicCache, PreTrainedModel

from base_specs import ALL_BASES, BASES
from tiny_bases import save_base
from transformers_linvt import LinVTForVideoQA, LinVTProcessor, VideoFeatures, VideoFrames
from transformers_linvt.bases.cache import CACHE_NAME
from transformers_linvt.bases.visuals import flat_rows
from transformers_linvt.model.attribution import AnswerPasses, attribute_answers, attribute_to_slots, words_of_answer
from transformers_linvt.tokenizer.keyframes import FRAMES_COMPARED_AT_ONCE


FAMILIES = tuple(BASES)
NUM_VIDEO_TOKENS = 6  # M
NUM_KEPT_TOKENS = 20  # k; every clip below has more frame tokens than this
BY_DEFAULT = {
    "num_video_tokens": NUM_VIDEO_TOKENS,
    "num_kept_tokens": NUM_KEPT_TOKENS,
    "bottleneck_size": 16,
    "num_heads": 4,
    "num_scorer_layers": 1,
    "num_aggregator_layers": 1,
    "temporal_window": 2,
    "frames_per_chunk": 2,
}
LINVT = {**BY_DEFAULT, "frame_path": "image"}  # for all families; bases/test_frame_path.py asks for the default
CHAT = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
QUESTION, OTHER_QUESTION = "What is in the video?", "Hi?"


def realigned(model: nn.Module) -> nn.Module:
    """
    The model with every weight in memory of its own.

    Weights that were loaded lie in the file's pages, aligned as the file has them, and some processors' matrix kernels
    round differently then (6e-7 relative was seen). What is compared bit by bit is brought to the same alignment.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


@dataclass
class Wrapped:
    """A family with LinVT around it: model, processor, and the folder its base lies in."""

    name: str
    model: LinVTForVideoQA
    processor: LinVTProcessor
    base_folder: Path

    @property
    def base(self) -> PreTrainedModel:
        """The base model inside."""
        return self.model.base_vlm

    def clip(self, num_frames: int, seed: int = 0) -> VideoFrames:
        """A clip of random pixels in the family's frame size."""
        return clip(self.name, num_frames, seed)

    def picture(self, seed: int = 99) -> PIL.Image.Image:
        """A picture of random pixels."""
        return PIL.Image.fromarray(self.clip(1, seed).frames[0])

    def inputs(self, *conversations: list[dict[str, Any]], **kwargs: Any) -> dict[str, Any]:
        """Model inputs of one conversation, or of several as one left-padded batch."""
        batch = list(conversations) if len(conversations) > 1 else conversations[0]
        chat = ALL_BASES[self.name].chat if self.name in ALL_BASES else {}  # bases of other tests are not in the table
        made = self.processor.apply_chat_template(batch, **{**CHAT, **chat, **kwargs})
        return in_precision(made, self.base.dtype)


def in_precision(inputs: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Inputs as users bring them to a model's precision (`inputs.to(dtype)`): Llama 4's pictures are in bfloat16."""
    pictures = {name for name, value in inputs.items() if "pixel" in name and torch.is_tensor(value)}
    # a mask of pixels stays one
    floating = {name for name in pictures if inputs[name].is_floating_point()}
    return {name: value.to(dtype) if name in floating else value for name, value in inputs.items()}


def clip(name: str, num_frames: int, seed: int = 0) -> VideoFrames:
    """
    Frames of random pixels, at distances in time that are not equal.

    Args:
        name: a key of `BASES`, which decides the size.
        num_frames: frames of the clip.
        seed: two seeds give two clips.
    """
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (num_frames, *ALL_BASES[name].frame_size, 3), dtype=np.uint8)
    seconds = np.arange(num_frames) ** 1.5
    return VideoFrames(frames, seconds, "<frames in memory>", "memory", float(seconds[-1]) + 1.0, num_frames, None)


def user(*parts: Any) -> list[dict[str, Any]]:
    """One user turn: strings are text, clips are videos, pictures are pictures."""
    return [{"role": "user", "content": [_part(part) for part in parts]}]


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, VideoFrames):
        return {"type": "video", "video": part}
    return {"type": "image", "image": part}


def stir(model: LinVTForVideoQA, seed: int = 0, amount: float = 0.5) -> LinVTForVideoQA:
    """Add noise to every LinVT parameter, so that all of them have a say in the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.linvt.named_parameters()):
            scale = amount / max(1, parameter.shape[-1]) ** 0.5 if parameter.dim() > 1 else amount
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return model


@functools.cache
def base_folder(name: str) -> Path:
    """A folder with the base of a family as a repository of the Hub holds it; made once per test run."""
    return save_base(name, Path(_temporary_folder().name) / name)


@functools.cache
def _temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="linvt-bases-")


def _processor(folder: Path, num_video_tokens: int) -> LinVTProcessor:
    return LinVTProcessor.from_base(folder, num_video_tokens=num_video_tokens, frame_path=LINVT["frame_path"])


@functools.cache
def _cached_wrapped(name: str) -> Wrapped:
    folder = base_folder(name)
    torch.manual_seed(0)
    model = stir(LinVTForVideoQA.from_base(folder, **LINVT))
    return Wrapped(name, model, _processor(folder, NUM_VIDEO_TOKENS), folder)


def wrapped(name: str) -> Wrapped:
    """A family with a LinVT of random weights around it: a copy of its own, which a test may change."""
    return copy.deepcopy(_cached_wrapped(name))


def with_room_for_one_frame(name: str, more: int = 0, **fields: object) -> Wrapped:
    """An untrained wrapper of a family with M = N, or some more, and the frame path that it has by default."""
    family = wrapped(name)
    features = family.model.encode_video(**in_precision(family.processor.video_inputs(family.clip(1)), torch.float32))
    num_tokens, folder = features.refined.tokens_per_frame + more, base_folder(name)
    fields = {**BY_DEFAULT, "num_video_tokens": num_tokens, "num_kept_tokens": None, **fields}
    model = LinVTForVideoQA.from_base(folder, **fields)
    processor = LinVTProcessor.from_base(folder, num_video_tokens=num_tokens, frame_path=model.config.frame_path)
    return Wrapped(name, model, processor, folder)


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference as a share of the largest value, without logits that are set to the lowest of all numbers."""
    allowed = b > torch.finfo(b.dtype).min  # so Chameleon keeps itself from writing codes of pictures
    return float((a - b)[allowed].abs().max() / b[allowed].abs().max())


# ---------------------------------------------------------------------------------------------------------------------
# Promise 1: weighted averages
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_tokens_are_averages(model: LinVTForVideoQA, inputs: Mapping[str, Any]) -> None:
    """W >= 0, rows sum to 1, Y = W V recomputed by hand, Y lies in the hull of V; deep layers get the same W."""
    prepared, condensed = model.model.prepare(**inputs)
    frames = {name.removeprefix("frame_"): value for name, value in inputs.items() if name.startswith("frame_")}
    videos = model.model.encode_videos(inputs["frames_per_video"].tolist(), frames)
    weights = condensed.outputs.weights.dense()
    assert bool((weights >= 0).all()), "a weight is negative"
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]), atol=1e-5, rtol=0)
    sent, deep = sent_visuals(model, prepared)
    assert len(deep) == len(videos[0].deepstack)
    num_tokens, start = model.config.num_video_tokens, 0
    for video, w in zip(videos, weights, strict=True):
        w = w.unflatten(1, (condensed.outputs.weights.num_frames, -1))[:, : len(video.tokens), : video.tokens.shape[1]]
        for result, tokens in zip([sent, *deep], [video.tokens, *video.deepstack], strict=True):
            v = tokens.flatten(0, 1)
            by_hand = w.flatten(1) @ v
            torch.testing.assert_close(result[start : start + num_tokens], by_hand, atol=1e-5, rtol=1e-5)
            assert bool((by_hand <= v.max(0).values + 1e-5).all() and (by_hand >= v.min(0).values - 1e-5).all())
        start += num_tokens
    assert start == len(sent)


def sent_visuals(model: LinVTForVideoQA, prepared: Mapping[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the base gets at the placeholders, one row each, and the same per deep layer, however it gets them."""
    if (encoded := prepared.get("mm_encoder_outputs")) is not None:
        visuals = encoded["image"]
        # Granite 4 Vision's deep layers stand behind the number of their layer.
        layers = [one[1] if isinstance(one[0], int) else one for one in visuals.deepstack_features or []]
        return flat_rows(visuals.pooler_output), [flat_rows(layer) for layer in layers]
    if (keys := prepared.get("cross_attention_states")) is not None:
        return keys[(keys != 0).any(-1)], []  # shorter rows are filled with zeros
    return prepared["inputs_embeds"][prepared["input_ids"] == model.config.image_token_id], []


# ---------------------------------------------------------------------------------------------------------------------
# Promise 2: no sample sees another
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_batch_equals_single(
    model: LinVTForVideoQA, batch: Mapping[str, Any], singles: list[Mapping[str, Any]], tolerance: float = 1e-5
) -> None:
    """The logits of every row of a left-padded batch are those of the row alone, and so is the generated text."""
    logits = model(**batch).logits
    generated = model.generate(**batch, max_new_tokens=3, do_sample=False)
    length = batch["input_ids"].shape[1]
    assert len({single["input_ids"].shape[1] for single in singles}) > 1, "rows of one length leave padding untested"
    for row, single in enumerate(singles):
        alone = model(**single).logits[0]
        difference = relative_difference(logits[row, -len(alone) :], alone)
        assert difference < tolerance, f"row {row} differs from itself alone by {difference:.1e}"
        own = model.generate(**single, max_new_tokens=3, do_sample=False)[0, len(alone) :]
        assert generated[row, length : length + len(own)].tolist() == own.tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Promise 3: what trains and what does not
# ---------------------------------------------------------------------------------------------------------------------


def check_only_linvt_trains(model: LinVTForVideoQA, inputs: Mapping[str, Any], num_steps: int = 2) -> None:
    """
    Every LinVT parameter gets a gradient, nonzero at the latest after one step (some pieces start at zero); no
    parameter of the base has one; after the steps the base is bit-identical and LinVT is not.
    """
    model.train()
    before = snapshot(model)
    labels = labels_of(model, inputs)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        without = [n for n, p in model.linvt.named_parameters() if p.grad is None]
        assert not without, f"LinVT parameters without a gradient: {without}"
        optimizer.step()
    silent = [n for n, p in model.linvt.named_parameters() if not bool(p.grad.abs().max() > 0)]
    assert not silent, f"LinVT parameters whose gradient stays zero: {silent}"
    moved = [name for name, p in model.base_vlm.named_parameters() if p.grad is not None or p.requires_grad]
    assert not moved, f"base parameters that train: {moved[:3]}"
    check_only_linvt_moved(model, before)


def labels_of(model: LinVTForVideoQA, inputs: Mapping[str, Any]) -> torch.Tensor:
    """All text as labels; -100 at padding, at videos and where the head has no logit (Molmo2's markers)."""
    ignored = (inputs["attention_mask"] == 0) | inputs["video_mask"].bool()
    ignored[:, 0] = True  # nothing comes before it to predict it, but the trainer would count it in the mean
    ignored |= inputs["input_ids"] >= model.get_output_embeddings().weight.shape[0]
    return inputs["input_ids"].masked_fill(ignored, -100)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_only_linvt_moved(model: LinVTForVideoQA, before: Mapping[str, torch.Tensor]) -> None:
    """Every LinVT parameter differs from the snapshot, everything else is bit-identical."""
    after, trained = model.state_dict(), {f"model.linvt.{name}" for name, _ in model.linvt.named_parameters()}
    assert after.keys() == before.keys()
    still = sorted(name for name in trained if torch.equal(after[name], before[name]))
    if model.config.init == "keyframes":  # at the ceiling of the gate its sharpness has no gradient
        still = [name for name in still if not name.endswith("scorer.novelty_gain")]
    assert not still, f"LinVT weights that did not move: {still}"
    changed = sorted(n for n in after.keys() - trained if not torch.equal(after[n], before[n]))
    assert not changed, f"frozen weights that moved: {changed[:3]}"


# ---------------------------------------------------------------------------------------------------------------------
# Promise 4: pictures and text are the base's own
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_same_as_base(model: LinVTForVideoQA, base: PreTrainedModel, inputs: Mapping[str, Any]) -> None:
    """Logits and generated text without a video are those of the base, bit by bit."""
    assert "frames_per_video" not in inputs
    assert torch.equal(model(**inputs).logits, base(**inputs).logits), "logits differ from the base's own"
    own, its = (m.generate(**inputs, max_new_tokens=3, do_sample=False) for m in (model, base))
    assert torch.equal(own, its)


# ---------------------------------------------------------------------------------------------------------------------
# Promise 5: generation
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_generation(
    model: LinVTForVideoQA, inputs: Mapping[str, Any], num_tokens: int = 4, cannot: Mapping[str, str] | None = None
) -> None:
    """
    generate() starts from the logits of forward(), and cached, uncached and hand-made decoding agree.

    What `BaseSpec.cannot` names is left out: "generation without a cache", "padded steps by hand".
    """
    cannot = cannot or {}
    length = inputs["input_ids"].shape[1]
    greedy = {
        "max_new_tokens": num_tokens,
        "min_new_tokens": num_tokens,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    cached = model.generate(**inputs, **greedy)
    difference = relative_difference(cached.logits[0], model(**inputs).logits[:, -1])
    assert difference < 1e-5, f"generate() does not start from what forward() computes: {difference:.1e}"
    if "generation without a cache" not in cannot:
        uncached = model.generate(**inputs, **greedy, use_cache=False)
        assert torch.equal(cached.sequences, uncached.sequences), "cached and uncached generation differ"
        for step, (a, b) in enumerate(zip(cached.logits, uncached.logits, strict=True)):
            assert relative_difference(a, b) < 1e-4, f"logits with and without cache differ at step {step}"
    output = model(**inputs, use_cache=True)
    if getattr(output, CACHE_NAME, None) is None:  # Granite 4 Vision begins no cache itself, also without LinVT (5.23)
        cache = DynamicCache(config=model.base_vlm.config.get_text_config())
        output = model(**inputs, use_cache=True, **{CACHE_NAME: cache})
    mask, positions = inputs["attention_mask"], model.model.prepare(**inputs)[0].get("position_ids")
    # Qwen2-VL after a picture takes the whole mask for that of the new token (5.23), also without LinVT.
    padded = not bool(mask.all())
    if padded and "padded steps by hand" in cannot:
        return
    for step in range(1, num_tokens):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        token = cached.sequences[:, length + step - 1, None]
        kwargs = {"attention_mask": mask} if padded else {}
        if padded and positions is not None:  # in a grid: the base goes on by itself only where nothing is padded
            kwargs["position_ids"] = positions[..., -1:] + step
        output = model(input_ids=token, **{CACHE_NAME: output[CACHE_NAME]}, use_cache=True, **kwargs)
        difference = relative_difference(output.logits[:, -1], cached.logits[step])
        assert difference < 1e-4, f"step {step} by hand with a cache differs: {difference:.1e}"


# ---------------------------------------------------------------------------------------------------------------------
# Promise 6: save and load
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_comes_back(folder: Path, inputs: Mapping[str, Any], logits: torch.Tensor, **kwargs: Any) -> LinVTForVideoQA:
    """The checkpoint in `folder` loads with an empty report, frozen, in evaluation mode, to the same logits."""
    model, report = AutoModel.from_pretrained(folder, output_loading_info=True, **kwargs)
    assert not any(report.values()), report
    assert not model.training
    assert torch.equal(realigned(model)(**inputs).logits, logits), "the reloaded model gives other logits"
    assert not any(p.requires_grad for p in model.base_vlm.parameters()), "loading has thawed the base"
    assert all(p.requires_grad for p in model.linvt.parameters())
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Promise 7: cost
# ---------------------------------------------------------------------------------------------------------------------


def measure_flops(model: LinVTForVideoQA, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Floating-point operations of a forward pass: of the language model without its head, and of everything else."""
    language_model = model.base_vlm.get_decoder()
    inside, counter = [0], FlopCounterMode(display=False)

    def enter(*_: Any) -> None:
        inside[0] -= counter.get_total_flops()

    def leave(*_: Any) -> None:
        inside[0] += counter.get_total_flops()

    hooks = [language_model.register_forward_pre_hook(enter), language_model.register_forward_hook(leave)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        # the counter's module hooks fail under no_grad on a module that gets a parameter (torch 2.13)
        for parameter in trained:
            parameter.requires_grad_(False)
        # the fused attention of the CPU is not counted, the plain one is
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(**inputs)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    return inside[0], counter.get_total_flops() - inside[0]


def check_cost(
    model: LinVTForVideoQA, inputs_of: Callable[[int], Mapping[str, Any]], unit: int = FRAMES_COMPARED_AT_ONCE
) -> None:
    """
    The language model's cost is the same for `unit`, 2 and 4 times as many frames; the rest grows by the same amount
    per frame; and the vision tower never gets more than `frames_per_chunk` frames at once. Frames are compared so many
    at once, each with all others, so that the cost grows by the same amount from one such group to the next.
    """
    language, rest = zip(*(measure_flops(model, inputs_of(unit * factor)) for factor in (1, 2, 4)), strict=True)
    assert language[0] > 0 and len(set(language)) == 1, f"the language model's cost depends on the frames: {language}"
    first, second = (rest[1] - rest[0]) / unit, (rest[2] - rest[1]) / (2 * unit)
    assert first > 0 and abs(second / first - 1) < 0.01, f"cost per further frame is not constant: {first}, {second}"
    calls: list[int] = []
    base = model.base_vlm.base_model
    original = base.get_image_features

    @functools.wraps(original)
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["image_grid_thw"] if "image_grid_thw" in kwargs else kwargs["pixel_values"]))
        return original(*args, **kwargs)

    base.get_image_features = counting
    try:
        with torch.no_grad():
            model(**inputs_of(4 * unit))
    finally:
        del base.get_image_features
    assert calls and max(calls) <= model.config.frames_per_chunk, f"frames per call of the vision tower: {calls}"
    assert sum(calls) == 4 * unit


# ---------------------------------------------------------------------------------------------------------------------
# Promise 3 under TRL
# ---------------------------------------------------------------------------------------------------------------------


def check_sft_moves_linvt(family: Wrapped, output_dir: Path, with_lora: bool = False) -> PreTrainedModel:
    """
    Two steps of TRL's `SFTTrainer` move every LinVT weight and nothing else; with LoRA on the language model and
    `modules_to_save=["linvt"]` the adapter and LinVT. The first loss is the one the model computes by itself.

    Returns:
        The trained model, a `PeftModel` with LoRA.
    """
    # Here and not above: importing TRL takes seconds, and the tests of registration run without it.
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model = family.model
    rows = [user(family.clip(5), QUESTION), user(family.clip(3, 1), OTHER_QUESTION)]

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        inputs = family.inputs(*[rows[example["row"]] for example in examples])
        return {**inputs, "labels": labels_of(model, inputs)}

    num_linvt = len(list(model.linvt.parameters()))
    with torch.no_grad():
        expected = model(**collate([{"row": 0}, {"row": 1}])).loss.item()
    adapter = LoraConfig(target_modules=language_linears(model), modules_to_save=["linvt"]) if with_lora else None
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output_dir),
            max_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            per_device_train_batch_size=2,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            router_aux_loss_coef=0.0,  # the loss of a mixture of experts would ask LinVT to spread a frozen router
        ),
        train_dataset=Dataset.from_list([{"row": 0}, {"row": 1}]),
        data_collator=collate,
        processing_class=family.processor,
        peft_config=adapter,
    )
    before = snapshot(trainer.model)
    trainer.train()
    first_loss = trainer.state.log_history[0]["loss"]
    assert abs(first_loss / expected - 1) < 2e-3, f"TRL trains on another loss: {first_loss}, the model's: {expected}"
    after = trainer.model.state_dict()
    parts = ("lora_", "linvt.modules_to_save.") if with_lora else ("model.linvt.",)
    trained = {name for name, _ in trainer.model.named_parameters() if any(part in name for part in parts)}
    assert len(trained) > num_linvt if with_lora else len(trained) == num_linvt
    still = sorted(name for name in trained if torch.equal(after[name], before[name]))
    if model.config.init == "keyframes":  # at the ceiling of the gate its sharpness has no gradient
        still = [name for name in still if not name.endswith("scorer.novelty_gain")]
    assert not still, f"weights that SFTTrainer did not move: {still[:3]}"
    moved = sorted(name for name in after.keys() - trained if not torch.equal(after[name], before[name]))
    assert not moved, f"frozen weights that SFTTrainer moved: {moved[:3]}"
    return trainer.model


def language_linears(model: LinVTForVideoQA) -> list[str]:
    """Names of the linear layers of the language model: not those of the vision tower, of LinVT or the head."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    head = model.get_output_embeddings()
    linears = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(decoder) and module is not head
    ]
    # An indexer (GLM-5, MiniMax-M3) chooses what is attended to and gets no gradient, from a video or from text; Llama
    # 4's router is a layer that returns two things, and PEFT knows layers that return one.
    return [name for name in linears if ".indexer." not in name and not name.endswith(".router")]


# ---------------------------------------------------------------------------------------------------------------------
# Evidence of the answer
# ---------------------------------------------------------------------------------------------------------------------


def check_attribution(family: Wrapped, features: VideoFeatures, num_tokens: int = 4) -> torch.Tensor:
    """
    Asking for evidence changes no answer and nothing of the model; the probability whose gradient is taken is the one
    that generate() had; at any point between mean and video, attributions sum to the derivative on the way there, and
    those of the integral to the whole difference.

    Returns:
        The attributions `(2, num_kept)` of two questions.
    """
    model, processor, questions = family.model, family.processor, [QUESTION, OTHER_QUESTION]
    length = {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens, "do_sample": False}
    expected = model.answer(features, questions, processor, **length)
    before, offsets = snapshot(model), getattr(model.base_vlm.base_model, "rope_deltas", None)
    model.train()
    model.base_vlm.eval()
    modes = [module.training for module in model.modules()]
    answers, evidence = model.answer_with_evidence(features, questions, processor, **length)
    assert [module.training for module in model.modules()] == modes, "asking for evidence changed the mode"
    model.eval()
    assert answers == expected, "asking for evidence changed the answers"
    left = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert not left, f"parameters that got a grad: {left[:3]}"
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    now = getattr(model.base_vlm.base_model, "rope_deltas", None)
    assert (now is None) == (offsets is None) and (now is None or torch.equal(now, offsets))

    with torch.no_grad():
        prompts = processor.question_inputs(questions)
        prepared, condensed = model.model.prepare(**prompts, video_features=[features] * 2)
        model.base_vlm.generation_config = model.generation_config
        made = model.model.bridge.generate(
            model.base_vlm, **prepared, **length, output_logits=True, return_dict_in_generate=True
        )
    tokens = made.sequences[:, prompts["input_ids"].shape[1] :]
    words = words_of_answer(tokens, model.generation_config.eos_token_id, model.generation_config.pad_token_id)
    passes = AnswerPasses(model, prompts, condensed, tokens, words)
    of_tokens = torch.stack(made.logits, dim=1).float().log_softmax(-1).gather(-1, tokens.unsqueeze(-1))[..., 0]
    generated = of_tokens.masked_fill(~passes.counted, 0.0).sum(dim=1)
    log_probs = torch.tensor([one.log_probs for one in evidence])
    attribution = torch.stack([torch.from_numpy(one.attribution) for one in evidence])
    torch.testing.assert_close(log_probs[:, 0], generated, atol=1e-3, rtol=1e-4)

    weights, step = condensed.outputs.weights, 0.001
    for position in (0.4, 0.9):
        summed = attribute_to_slots(weights, passes.gradients_at(position), passes.slots, passes.means).sum(dim=1)
        slope = (passes.log_probs_at(position + step) - passes.log_probs_at(position - step)) / (2 * step)
        torch.testing.assert_close(summed, slope, atol=2e-3, rtol=2e-2)
    difference = log_probs[:, 0] - log_probs[:, 1]
    # random weights make a rough way from mean to video: with as many points as are used the integral is 1 or 2 % off
    torch.testing.assert_close(attribution.sum(dim=1), difference, atol=2e-3, rtol=2e-2)
    fine = attribute_answers(model, prompts, condensed, tokens, words, num_points=32)
    torch.testing.assert_close(fine.values.sum(dim=1), difference, atol=1e-3, rtol=1e-2)
    assert bool((difference.abs() > 1e-3).all()), "an answer that does not depend on the video tests nothing"
    return attribution


# ---------------------------------------------------------------------------------------------------------------------
# Promise 8: bad input
# ---------------------------------------------------------------------------------------------------------------------


def check_refused(call: Callable[[], Any], error: type[Exception], *words: str) -> None:
    """The call ends in one error of our own type whose message holds all the words."""
    try:
        call()
    except error as raised:
        missing = [word for word in words if word not in str(raised)]
        assert not missing, f"the message {str(raised)!r} does not say {missing}"
    except Exception as raised:
        raise AssertionError(f"{type(raised).__name__} instead of {error.__name__}: {raised}") from raised
    else:
        raise AssertionError(f"no {error.__name__} was raised")
