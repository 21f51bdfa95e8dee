"""Where the tokens of a recorded pass stand and whom they see, out of numbers that lie on the device.

The plain path knows the length of the cache on the host (`causal_lm.place`); a recorded pass is told it by a tensor.
"""

from __future__ import annotations

import torch


def block_mask(base: torch.Tensor, visible: torch.Tensor, context: int, group: int, dtype: torch.dtype) -> torch.Tensor:
    """(1, 1, group * n, context), to be added to attention scores.

    base: () int64, entries that all see. visible: (n, block) bool, what each sees of the block of entries behind them.
    Nothing behind the block is seen. group: query heads that share a key head; the rows are repeated for each.
    """
    block = visible.shape[1]
    column = torch.arange(context, device=base.device) - base
    inside = visible[:, column.clamp(0, block - 1)]
    seen = (column < 0) | (inside & (column < block))
    mask = torch.zeros(seen.shape, dtype=dtype, device=base.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask.repeat(group, 1)[None, None]
