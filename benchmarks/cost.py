"""
What LinVT costs and saves, by width of the language model: parameters, and visual tokens before and after.

    python benchmarks/cost.py

Builds the module on the meta device at three real widths (Qwen2-0.5B, Qwen2-7B, Qwen2-72B) with the default
configuration. Takes seconds and no memory.
"""

import torch

from transformers_linvt import LinearVideoTokenizer, LinVTConfig


FRAMES, TOKENS_PER_FRAME = 64, 256


def main() -> None:
    """Print one table."""
    config = LinVTConfig()
    print(f"{FRAMES} frames of {TOKENS_PER_FRAME} tokens, defaults of LinVTConfig")
    print(f"{'width D':>8} {'LinVT parameters':>17} {'tokens before':>14} {'after':>6} {'times fewer':>12}")
    for dim in (896, 3584, 8192):
        with torch.device("meta"):
            tokenizer = LinearVideoTokenizer(dim, **config.tokenizer_kwargs)
        parameters = sum(parameter.numel() for parameter in tokenizer.parameters())
        before, after = FRAMES * TOKENS_PER_FRAME, config.num_video_tokens
        print(f"{dim:>8} {parameters / 1e6:>15.1f} M {before:>14,} {after:>6} {before / after:>12.0f}")


if __name__ == "__main__":
    main()
