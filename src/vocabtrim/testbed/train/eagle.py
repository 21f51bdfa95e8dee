"""EAGLE-1 and -2: the target's last feature and the next token's embedding -> the next feature; the target's head.

Parameter names are SafeAILab's; there is no input norm, no final norm and no head of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .block import Attention, GatedMLP
from .sizes import ONE_LAYER, Size


class Layer(nn.Module):
    """A Llama layer without its input norm."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.self_attn = Attention(size, size.hidden)
        self.mlp = GatedMLP(size)
        self.post_attention_layernorm = nn.RMSNorm(size.hidden, size.norm_eps)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor, past: list[tuple[Tensor, Tensor]]) -> Tensor:
        """One step: see Attention."""
        x = x + self.self_attn(x, position, mask, past)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


def pass_through(fc: nn.Linear, layer: nn.Module, shares: Sequence[float]) -> None:
    """Start as a sum of the inputs: learning needs far fewer tokens than from chance.

    shares: of each block of `hidden` inputs. Attention and feed-forward start without an output, which is no dead end:
    their output matrices learn first.
    """
    with torch.no_grad():
        fc.weight.normal_(0, 0.02)
        fc.weight += torch.cat([share * torch.eye(fc.out_features) for share in shares], 1)
        layer.self_attn.o_proj.weight.zero_()  # type: ignore[union-attr, operator]
        layer.mlp.down_proj.weight.zero_()  # type: ignore[union-attr, operator]


class Eagle(nn.Module):
    """fc, without a bias, which vLLM's EAGLE does not have, and one layer."""

    def __init__(self, size: Size = ONE_LAYER) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * size.hidden, size.hidden, bias=False)
        self.layers = nn.ModuleList([Layer(size)])
        pass_through(self.fc, self.layers[0], (1.0, 0.3))

    def forward(self, features: Tensor, embedded: Tensor, position: Tensor, mask: Tensor, steps: int) -> list[Tensor]:
        """Step k, index i: the drafted feature of position i + k + 1.

        features: (rows, seq, hidden), the target's, behind its final norm. embedded: (rows, seq, hidden), of the
        tokens themselves. position: (rows, seq). mask: see Attention.
        """
        hidden, past, drafted = features, [], []  # type: ignore[var-annotated]
        for step in range(steps):
            following = torch.roll(embedded, -step - 1, 1)
            hidden = self.layers[0](self.fc(torch.cat([following, hidden], -1)), position + step, mask, past)
            drafted.append(hidden)
        return drafted
