"""EAGLE-3: three fused layers of the target and the next token's embedding -> a hidden state under an own head.

Parameter names are SafeAILab's. Later steps go on from the drafter's own hidden state, unfused.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .block import Attention, GatedMLP
from .eagle import pass_through
from .sizes import ONE_LAYER, VOCAB, Size


class MidLayer(nn.Module):
    """A Llama layer that reads embedding and hidden state side by side, each behind a norm of its own."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn = Attention(size, 2 * size.hidden)
        self.mlp = GatedMLP(size)
        self.hidden_norm = nn.RMSNorm(size.hidden, size.norm_eps)
        self.input_layernorm = nn.RMSNorm(size.hidden, size.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden, size.norm_eps)

    def forward(
        self, embedded: Tensor, hidden: Tensor, position: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """One step: see Attention."""
        both = torch.cat([self.input_layernorm(embedded), self.hidden_norm(hidden)], -1)
        hidden = hidden + self.self_attn(both, position, mask, past)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Eagle3(nn.Module):
    """fc over three taps, one layer, norm and a full head."""

    def __init__(self, size: Size = ONE_LAYER, vocab: int = VOCAB) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * size.hidden, size.hidden, bias=False)
        self.midlayer = MidLayer(size)
        pass_through(self.fc, self.midlayer, (0.0, 0.0, 1.0))
        self.norm = nn.RMSNorm(size.hidden, size.norm_eps)
        self.lm_head = nn.Linear(size.hidden, vocab, bias=False)

    def forward(self, taps: Tensor, embedded: Tensor, position: Tensor, mask: Tensor, steps: int) -> list[Tensor]:
        """Step k, index i: what the head reads to draft the token of position i + k + 2.

        taps: (rows, seq, 3 * hidden), what enters layers 2, half and last but three. embedded: (rows, seq, hidden), of
        the tokens themselves. position: (rows, seq). mask: see Attention.
        """
        hidden, past, drafted = self.fc(taps), [], []  # type: ignore[var-annotated]
        for step in range(steps):
            hidden = self.midlayer(torch.roll(embedded, -step - 1, 1), hidden, position + step, mask, past)
            drafted.append(self.norm(hidden))
        return drafted
