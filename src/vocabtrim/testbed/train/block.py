"""One Llama layer that drafts several steps ahead in training, every position of a row at once.

Index i of a row is a root: what is drafted after position i. Step 0 sees what the target computed at positions up to
i; each later step sees that and, on its own path alone, what the earlier steps of the same root made. That is what
drafting sees, so a drafter learns on its own mistakes (EAGLE-3's "training-time test"; HASS does the same).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .sizes import Size


class Attention(nn.Module):
    """Grouped-query attention over `inputs` columns. Parameter names are Llama's."""

    def __init__(self, size: Size, inputs: int) -> None:
        super().__init__()
        self.size = size
        self.q_proj = nn.Linear(inputs, size.heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(inputs, size.kv_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(inputs, size.kv_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.heads * size.head_dim, size.hidden, bias=False)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One step; its keys and values are appended to `past`.

        x: (rows, seq, inputs). position: (rows, seq), of this step's tokens. mask: bool (rows, 1, seq, seq), what
        each root sees of step 0.
        """
        query = _turned(self._heads(self.q_proj(x)), position, self.size.rope_theta)
        key = _turned(self._heads(self.k_proj(x)), position, self.size.rope_theta)
        past.append((self._shared(key), self._shared(self._heads(self.v_proj(x)))))
        (first_keys, first_values), later = past[0], past[1:]
        scores = (query @ first_keys.transpose(-1, -2)).masked_fill(~mask, float("-inf"))
        scores = torch.cat([scores, *((query * keys).sum(-1, keepdim=True) for keys, _ in later)], -1)
        shares = torch.softmax(scores / math.sqrt(self.size.head_dim), -1).to(first_values.dtype)
        seq = x.shape[1]
        mixed = shares[..., :seq] @ first_values
        for number, (_, values) in enumerate(later):
            mixed = mixed + shares[..., seq + number, None] * values
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        rows, seq, _ = x.shape
        return x.view(rows, seq, -1, self.size.head_dim).transpose(1, 2)

    def _shared(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.size.heads // self.size.kv_heads, dim=1)


class GatedMLP(nn.Module):
    """Llama's feed-forward block."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.up_proj = nn.Linear(size.hidden, size.intermediate, bias=False)
        self.down_proj = nn.Linear(size.intermediate, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> (..., hidden)."""
        out: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def _turned(x: Tensor, position: Tensor, theta: float) -> Tensor:
    """Rotary position embedding, Llama's halves. x: (rows, heads, seq, head_dim)."""
    half = x.shape[-1] // 2
    rates = theta ** (-torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angle = position[:, None, :, None].float() * rates
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], -1)
