"""
What a recipe will need on a card, computed before anything is downloaded but configs.

    python examples/recipes/costs.py examples/recipes/qwen2_vl_2b [--base FOLDER] [--frame-size 360 640]

Sizes and FLOPs are those of the product's dry run (`linvt wrap --dry-run`); memory follows docs/train.md, of which the
lines for activations are estimates; time is FLOPs over a share of what a card can do at most. Nobody has tried them.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from transformers_linvt import plan_wrap, planning
from transformers_linvt.bases.registry import bridge_of


# memory in GB, and dense bfloat16 multiplications at most in TFLOPS: of an A10 and of an A100
CARDS = {24: 125, 80: 312}
SHARE = 0.3  # of the most that a card can do; ours
WORDS = 160  # of question, answer and template; ours
RESERVE = 2.0  # GB for CUDA, the allocator and the vision tower at work; ours
GB = 1e9


@dataclasses.dataclass
class Sizes:
    """What the dry run says of a base with LinVT, and the LoRA of stage 2."""

    parameters_of_base: int
    parameters_of_linvt: int
    parameters_of_lora: int
    tokens_per_step: int  # a frame, or frames that the base merges
    num_steps: int
    num_frames: int
    num_video_tokens: int
    bottleneck_size: int
    num_scorer_layers: int
    width: int
    num_layers: int
    vocabulary: int
    vision_flops: int
    linvt_flops: int
    prefill_flops: int

    @property
    def length(self) -> int:
        """Tokens of an example in the language model."""
        return self.num_video_tokens + WORDS


def read_sizes(base: str, settings: dict[str, Any], frame_size: tuple[int, int], rank: int) -> Sizes:
    """The dry run of a base as a recipe sets it up."""
    fields = {"num_video_tokens": settings["num_video_tokens"]}
    plan = plan_wrap(base, settings["num_frames"], frame_size, dtype=settings["dtype"], **fields)
    config, model, _ = planning.check_wrap(base, settings["dtype"], **fields)
    bridge = bridge_of(model.config.model_type)
    decoder = bridge.decoder(model)
    linear = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    text = model.config.get_text_config()
    return Sizes(
        parameters_of_base=plan.parameters_of_base,
        parameters_of_linvt=plan.parameters_added,
        parameters_of_lora=sum(rank * (one.in_features + one.out_features) for one in linear),
        tokens_per_step=plan.tokens_per_frame,
        num_steps=plan.num_steps,
        num_frames=plan.num_frames,
        num_video_tokens=plan.num_video_tokens,
        bottleneck_size=min(config.bottleneck_size, text.hidden_size),
        num_scorer_layers=config.num_scorer_layers,
        width=text.hidden_size,
        num_layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        vision_flops=_estimated_tower(model, decoder, plan.num_frames)
        if plan.vision_flops is None
        else plan.vision_flops,
        linvt_flops=plan.linvt_flops,
        prefill_flops=plan.prefill_flops or 0,
    )


def _estimated_tower(model: nn.Module, decoder: nn.Module, num_frames: int) -> int:
    """Where the dry run cannot run the tower without weights: two FLOP per parameter and patch of a frame."""
    language = {id(weight) for weight in (*decoder.parameters(), *model.get_output_embeddings().parameters())}
    own = sum(weight.numel() for weight in model.parameters() if id(weight) not in language)
    vision = model.config.vision_config
    return 2 * own * num_frames * (vision.image_size // vision.patch_size) ** 2


def fixed_bytes(sizes: Sizes, stage: int) -> int:
    """Weights, gradients and moments: the base in bfloat16, what moves in float32."""
    moves = sizes.parameters_of_linvt + (sizes.parameters_of_lora if stage == 2 else 0)
    copy = 4 * sizes.parameters_of_linvt if stage == 2 else 0  # PEFT keeps what LinVT was
    return 2 * sizes.parameters_of_base + 16 * moves + copy


def bytes_per_example(sizes: Sizes) -> int:
    """Activations of one example whose backward pass is to come, with activation checkpointing."""
    frame_tokens = sizes.num_steps * sizes.tokens_per_step
    of_linvt = frame_tokens * sizes.bottleneck_size * 4 * 10 * max(1, sizes.num_scorer_layers)
    of_language_model = sizes.length * sizes.width * 2 * (sizes.num_layers + 17)  # one layer is held whole
    of_head = 2 * 4 * sizes.length * sizes.vocabulary  # logits in float32, and their gradient
    return 2 * frame_tokens * sizes.width + of_linvt + of_language_model + of_head


def kept_per_example(sizes: Sizes) -> int:
    """Of an example of stage 1 that waits for its turn (`contrastive_mini_batch_size`): its frame tokens."""
    return 2 * sizes.num_steps * sizes.tokens_per_step * sizes.width


def flops_per_example(sizes: Sizes) -> float:
    """Vision forward; LinVT forward and backward; the language model forward and backward to its inputs."""
    language_model = sizes.prefill_flops * sizes.length / sizes.num_video_tokens
    return sizes.vision_flops + 3 * sizes.linvt_flops + 2 * language_model


def most_at_once(sizes: Sizes, stage: int, gigabytes: float) -> int:
    """Examples at a time that a card holds, a power of two; 0 if none."""
    room = (gigabytes - RESERVE) * GB - fixed_bytes(sizes, stage)
    count = int(room // bytes_per_example(sizes))
    return 2 ** int(math.log2(count)) if count >= 1 else 0


def rows(sizes: Sizes, settings: dict[int, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A row per card and stage."""
    found = []
    for gigabytes, rate in CARDS.items():
        for stage, own in settings.items():
            at_once = own.get("contrastive_mini_batch_size") or own["per_device_train_batch_size"]
            waiting = own["per_device_train_batch_size"] - at_once
            used = fixed_bytes(sizes, stage) + at_once * bytes_per_example(sizes) + waiting * kept_per_example(sizes)
            hours = 1e5 * flops_per_example(sizes) / (SHARE * rate * 1e12) / 3600
            fits = "yes" if used / GB + RESERVE <= gigabytes else "no"
            found.append(
                (
                    f"{gigabytes} GB",
                    str(stage),
                    f"{fixed_bytes(sizes, stage) / GB:.1f}",
                    f"{bytes_per_example(sizes) / GB:.2f}",
                    f"{used / GB + RESERVE:.1f}",
                    fits,
                    str(most_at_once(sizes, stage, gigabytes)),
                    f"{hours:.1f}",
                )
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table of one recipe."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="a folder with align.yaml and instruct.yaml")
    parser.add_argument("--base", help="the base, if it lies in a folder; by default what align.yaml names")
    parser.add_argument("--frame-size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    given = parser.parse_args(arguments)
    settings = {
        stage: yaml.safe_load((given.recipe / f"{name}.yaml").read_text(encoding="utf-8"))
        for stage, name in ((1, "align"), (2, "instruct"))
    }
    base = given.base or settings[1]["model_name_or_path"]
    sizes = read_sizes(base, settings[1], tuple(given.frame_size), settings[2]["lora_r"])
    in_steps = "" if sizes.num_steps == sizes.num_frames else f" in {sizes.num_steps} steps"
    print(
        f"{sizes.parameters_of_base / 1e6:,.0f} M parameters, LinVT {sizes.parameters_of_linvt / 1e6:.1f} M, LoRA "
        f"{sizes.parameters_of_lora / 1e6:.1f} M; {sizes.num_frames} frames{in_steps} of {sizes.tokens_per_step} "
        f"tokens become {sizes.num_video_tokens}; {flops_per_example(sizes) / 1e12:.1f} TFLOP per example"
    )
    heading = ("card", "stage", "weights and moments, GB", "one example, GB", "the recipe, GB", "fits", "most at once")
    table = [(*heading, "hours per 100,000 examples"), ("---",) * (len(heading) + 1), *rows(sizes, settings)]
    print("\n".join(f"| {' | '.join(row)} |" for row in table))


if __name__ == "__main__":
    main()
