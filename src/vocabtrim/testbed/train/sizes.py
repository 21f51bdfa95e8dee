"""The sizes of the family: one target, and drafters that fit it."""

from __future__ import annotations

from dataclasses import dataclass, replace

VOCAB = 16_384
END, END_OF_TEXT = VOCAB - 14, VOCAB - 16  # <|im_end|>, <|endoftext|>


@dataclass(frozen=True)
class Size:
    """A Llama's shape."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


# Eight layers: the fewest whose official EAGLE-3 taps (2, half, last but three) lie apart and not at the end.
TARGET = Size(hidden=256, intermediate=704, layers=8, heads=4, kv_heads=2, head_dim=64)
EAGLE3_TAPS = (2, TARGET.layers // 2, TARGET.layers - 3)
ONE_LAYER = replace(TARGET, layers=1)
INDEPENDENT = Size(hidden=128, intermediate=192, layers=4, heads=4, kv_heads=2, head_dim=32)
MEDUSA_HEADS = 3
