"""Attention under a mask whose keys and values are read once for all query heads of their group.

Where a mask is given, transformers' own sdpa first writes every key and value once per query head: three or four times
the bytes, in every layer. Here the queries of a group stand below each other instead, as rows. Registered with
transformers under a name of its own (its AttentionInterface), and on only while a pass runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "vocabtrim_grouped"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    *,
    scaling: float | None = None,
    **_others: Any,
) -> tuple[torch.Tensor, None]:
    """query: (1, heads, n, width). key, value: (1, key heads, entries, width). attention_mask: (1, 1, group * n,
    entries), added to the scores, n rows for each query head of a group. Returns (1, n, heads, width)."""
    heads, rows, width = query.shape[1:]
    queries = query.reshape(1, key.shape[1], -1, width)
    out = scaled_dot_product_attention(queries, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(1, heads, rows, -1).transpose(1, 2), None


@contextmanager
def grouped(config: Any) -> Iterator[None]:
    """All attention under this config is `grouped_attention`, until the end."""
    AttentionInterface.register(NAME, grouped_attention)
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
