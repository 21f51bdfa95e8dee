"""What a pass over new tokens is told, and what it gives: places, who sees whom, logits and hidden states.

Knows tensors; knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave.

    logits: (row, ids of the head), behind the last rows that were asked for; none where `likeliest` is there instead.
    hidden: (token, states * hidden), for every token the asked-for hidden states side by side; None where none were.
    likeliest: (row,) int64, the id of each row's largest logit, the lowest of equals; None where it was not asked for,
    or is left to whoever reads the logits.
    """

    logits: torch.Tensor
    hidden: torch.Tensor | None
    likeliest: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Branches:
    """How n new tokens, and the e newest entries before them, hang together where they are no straight line.

    depths: (e + n,) position of each, counted from the first of them. visible: (n, e + n) bool, what each new token may
    attend to among them; entries older than these are visible to all.
    """

    depths: torch.Tensor
    visible: torch.Tensor


def place(
    branches: Branches | None, past: int, new: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Positions (new,) of tokens behind `past` entries, and (1, 1, new, past + new) to be added to attention scores.

    The mask is None where no `branches` are: then the attention is plain and causal.
    """
    if branches is None:
        return torch.arange(past, past + new, device=device), None
    visible, depths = branches.visible.to(device), branches.depths.to(device)
    straight = past + new - depths.numel()  # entries that stand one behind the other, and that all may attend to
    mask = torch.zeros(1, 1, new, past + new, dtype=dtype, device=device)
    mask[..., straight:].masked_fill_(~visible, torch.finfo(dtype).min)
    return straight + depths[-new:], mask
