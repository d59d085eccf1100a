"""
Checkpoints in layouts that transformers does not read, made into ones that it does.

One file per layout, and their registry in `convert.py`. Weights are renamed, and cut or joined where the new
architecture has other tensors; no number changes. What is written is checked against the new architecture first.
"""

from .convert import LAYOUTS, convert_checkpoint
from .layout import VISION_TOWERS


__all__ = ["LAYOUTS", "VISION_TOWERS", "convert_checkpoint"]
