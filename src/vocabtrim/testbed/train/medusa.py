"""Medusa: head i reads the target's last feature and drafts the token i + 2 places on, through one residual block.

Only the blocks are learned. Every output matrix stays a copy of the target's head, so that what is carried is small
and the published layout can be put together from it and the target.
"""

from __future__ import annotations

from torch import Tensor, nn

from .sizes import MEDUSA_HEADS, ONE_LAYER, Size


class ResBlock(nn.Module):
    """x + SiLU(linear(x)), at first x itself."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        return x + nn.functional.silu(self.linear(x))


class Medusa(nn.Module):
    """The heads' residual blocks; `{head}.0.linear` in the published layout."""

    def __init__(self, size: Size = ONE_LAYER, heads: int = MEDUSA_HEADS) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.ModuleList([ResBlock(size.hidden)]) for _ in range(heads))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Head k, index i: what the target's head reads to draft the token of position i + k + 2.

        features: (rows, seq, hidden), the target's, behind its final norm.
        """
        return [head[0](features) for head in self.heads]  # type: ignore[index]
