"""`linvt wrap` and `linvt convert`: an untrained LinVT around a base model, and what it would cost."""

import argparse
import sys
from pathlib import Path
from typing import Any

import transformers_linvt

from ..errors import LinVTInputError
from ..files import replacing
from .loading import check_reachable, trusted


def wrap(arguments: argparse.Namespace) -> None:
    """Make a folder with an untrained LinVT around a base, or say what it would cost."""
    options = {name: value for name, value in vars(arguments).items() if value is not None}
    given = {name: options[name] for name in transformers_linvt.LinVTConfig.__annotations__ if name in options}
    hub = {**({"revision": arguments.revision} if arguments.revision else {}), **trusted(arguments)}
    if arguments.measure and not arguments.dry_run:
        raise LinVTInputError("--measure belongs to --dry-run: linvt wrap BASE --dry-run --measure.")
    if arguments.dry_run:
        check_reachable(arguments.base, arguments.revision)
        _print_plan(_plan(arguments, given, hub))
        return
    if arguments.output is None:
        raise LinVTInputError("Name the folder to make: linvt wrap BASE OUT. With --dry-run none is made.")
    output = Path(arguments.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise LinVTInputError(f"{output} exists already. Name a folder that does not, or an empty one.")
    if not output.absolute().parent.is_dir():
        raise LinVTInputError(f"The folder {output.absolute().parent} does not exist. Make it first.")
    transformers_linvt.LinVTConfig(**given)  # refuses bad numbers before a repository is asked for
    check_reachable(arguments.base, arguments.revision)
    # what --dry-run refuses
    planning = transformers_linvt.planning
    config, _, processor = planning.check_wrap(arguments.base, **hub, **given)
    given["num_video_tokens"] = config.num_video_tokens
    model = transformers_linvt.LinVTForVideoQA.from_base(arguments.base, dtype=arguments.dtype, **given, **hub)
    with replacing(output) as partial:
        model.save_pretrained(partial, include_base=arguments.include_base)
        processor.save_pretrained(partial)
    weights = sum(parameter.numel() for parameter in model.linvt.parameters())
    of_frame = planning.tokens_of_common_frame(processor.base_processor, processor.base_model_type)
    height, width = planning.COMMON_FRAME
    frame = f"; one frame of {height} x {width} pixels is {of_frame}" if of_frame is not None else ""
    print(f"{output}: LinVT with {weights:,} parameters, untrained, around {arguments.base}")
    print(f"  a video becomes {config.num_video_tokens} tokens of the language model, however long it is{frame}")
    if processor.frames_per_step > 1:
        print(f"  {processor.frames_per_step} frames are one step of time, as in the base's own video path")
    print(
        "  the base's weights are in the folder too" if arguments.include_base else "  the base is referred to by name"
    )


def convert(arguments: argparse.Namespace) -> None:
    """Make a published checkpoint one that can be wrapped."""
    transformers_linvt.convert_checkpoint(
        arguments.source, arguments.output, arguments.vision_config, show_progress=sys.stderr.isatty()
    )
    print(f"{arguments.output}: loads with AutoModelForImageTextToText; put LinVT around it with linvt wrap")


def _plan(arguments: argparse.Namespace, given: dict[str, Any], hub: dict[str, Any]) -> Any:
    return transformers_linvt.plan_wrap(
        arguments.base,
        num_frames=arguments.frames,
        frame_size=arguments.frame_size,
        dtype=arguments.dtype,
        measure=arguments.measure,
        **hub,
        **given,
    )


def _print_plan(plan: Any) -> None:
    """What a video costs the language model, before and after."""
    height, width = plan.frame_size
    print(f"{plan.base}: {plan.architecture}, {plan.parameters_of_base:,} parameters")
    print(f"  LinVT adds {plan.parameters_added:,} parameters")
    size, frames = f"{height} x {width} pixels", f"{plan.num_frames} frames"
    if plan.frames_per_step == 1:
        print(f"  a frame of {size} is {plan.tokens_per_frame} tokens, {frames}:")
    else:
        step = f"a step of {plan.frames_per_step} frames of {size}"
        print(f"  {step} is {plan.tokens_per_frame} tokens, {frames} are {plan.num_steps} steps:")
    rows = [("", "own video path" if plan.own_step > 1 else "frame by frame", "with LinVT", "")]
    for name, before, after, unit in (
        ("visual tokens", plan.frame_tokens_before, plan.num_video_tokens, ""),
        ("vision tower", plan.vision_flops_before, plan.vision_flops, "FLOP"),
        ("prefill", plan.prefill_flops_before, plan.prefill_flops, "FLOP"),
        ("KV cache", plan.cache_bytes_before, plan.cache_bytes, "B"),
    ):
        if before is None or after is None:
            rows.append((name, "not known", "not known", ""))
        else:
            rows.append((name, _figure(before, unit), _figure(after, unit), _compared(before, after)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    print(f"  LinVT itself takes at most {_figure(plan.linvt_flops, 'FLOP')}")
    print(f"  memory at the peak of answering, with weights: about {_figure(plan.peak_bytes, 'B')}")
    for what, seconds in (plan.seconds or {}).items():
        print(f"  {what}: {seconds:.2g} s here" + (" (measured)" if what == "preprocessing" else " at least"))
    for note in plan.notes:
        print(f"  note: {note}")


def _compared(before: float, after: float) -> str:
    """What LinVT saves, or costs where the frames are fewer than its tokens."""
    larger, smaller = max(before, after), max(min(before, after), 1)
    times = f"{larger / smaller:,.0f}" if larger >= 2 * smaller else f"{larger / smaller:.2g}"
    return "as much" if times == "1" else f"{times} times {'less' if before > after else 'more'}"


def _figure(value: float, unit: str) -> str:
    """A number as people write it: 16,384 or 3.05 TFLOP."""
    if not unit:
        return f"{value:,}"
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while value >= 1000 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}"
