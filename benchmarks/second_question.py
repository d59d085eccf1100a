"""
What a second question about a video costs through the pipeline, against the first: CPU time, for 8 to 64 frames.

    python benchmarks/second_question.py --frames 8 64

The base has the shape of a Qwen2-VL, scaled down, with random weights, so nothing is downloaded; the video is an H.264
file that is drawn here. *First* is a pipeline that remembers nothing (`cache_size=0`), *second* one that was asked
before, *folder* one that finds the video in `cache_dir`. All three read the file for its digest or its frames, write
a prompt and generate `--new-tokens` tokens. The figures are the least of `--repeats` runs of CPU time, one thread.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers
import torch
import transformers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from transformers_linvt import LinVTForVideoQA, LinVTProcessor, VideoQuestionAnsweringPipeline
from transformers_linvt.bases.loading import NoVideoProcessor, video_processors_known
from transformers_linvt.demo.shapes import make_clip, write_clip


SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the special ones of a Qwen2-VL."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_pipe(**options: object) -> VideoQuestionAnsweringPipeline:
    """LinVT around a Qwen2-VL of 8 vision layers of 320 channels and 8 language layers of 512, in float32."""
    tokenizer = make_tokenizer()
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    text = {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 8, "embed_dim": 320, "num_heads": 8, "mlp_ratio": 4, "hidden_size": 512},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    base = Qwen2VLForConditionalGeneration(config).eval()
    with video_processors_known():  # the base's own needs torchvision, and nothing here uses it
        processor = Qwen2VLProcessor(Qwen2VLImageProcessorPil(), tokenizer, NoVideoProcessor(), chat_template=TEMPLATE)
    model = LinVTForVideoQA.from_base(base, num_video_tokens=64)
    return VideoQuestionAnsweringPipeline(
        model=model, processor=LinVTProcessor.from_base(processor, num_video_tokens=64), device="cpu", **options
    )


def least(work: Callable[[], object], repeats: int) -> float:
    """CPU seconds of the fastest run."""
    found = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 64], help="frames of the video (default: 8 64)")
    parser.add_argument("--new-tokens", type=int, default=4, help="length of an answer (default: 4)")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts (default: 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    print(f"{'frames':>6} {'first s':>8} {'second s':>9} {'times':>6} {'folder s':>9} {'times':>6}")
    with tempfile.TemporaryDirectory() as folder:
        forgets, remembers = make_pipe(cache_size=0), make_pipe()
        on_disk = make_pipe(cache_size=0, cache_dir=Path(folder) / "cache")
        for count in arguments.frames:
            path = str(Path(folder) / f"{count}.mp4")
            write_clip(path, make_clip("scenes", seed=0, num_frames=count)[0])

            work = [
                lambda pipe=pipe, path=path, count=count: pipe(
                    video=path, question="Who?", num_frames=count, max_new_tokens=arguments.new_tokens, eos_token_id=-1
                )
                for pipe in (forgets, remembers, on_disk)
            ]
            for ask in work[1:]:
                ask()
            first, second, third = (least(ask, arguments.repeats) for ask in work)
            found = f"{second:>9.3f} {first / second:>6.1f} {third:>9.3f} {first / third:>6.1f}"
            print(f"{count:>6} {first:>8.2f} {found}")


if __name__ == "__main__":
    main()
