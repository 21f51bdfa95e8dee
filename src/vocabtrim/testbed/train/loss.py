"""Cross-entropy over a large vocabulary without ever holding all logits, forward and backward in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # rows of logits at once: 16 MB in bfloat16 over 16,384 ids, which is what a cache holds


def _chunk(hidden: Tensor, head: Tensor, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(loss of each row, gradient of hidden, gradient of head) of one chunk, by softmax minus one-hot."""
    logits = (hidden @ head.T).float()
    logsumexp = torch.logsumexp(logits, dim=-1, keepdim=True)
    loss = (logsumexp.squeeze(1) - logits.gather(1, wanted[:, None]).squeeze(1)) * weight
    gradient = torch.exp(logits - logsumexp) * weight[:, None]
    hit = torch.arange(logits.shape[1], device=logits.device)[None, :] == wanted[:, None]
    gradient = torch.where(hit, gradient - weight[:, None], gradient).to(hidden.dtype)
    return loss, gradient @ head, gradient.T @ hidden


_compiled = torch.compile(_chunk, dynamic=False)


def whole_chunks(weight: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """(places, their weights): those that have weight, padded to whole chunks by a place that is given none.

    weight: (places,) or (places, steps), 0 where a place does not count.
    """
    counts = weight if weight.ndim == 1 else weight.sum(1)
    chosen = torch.nonzero(counts).squeeze(1)
    padding = -chosen.numel() % chunk
    chosen = torch.cat([chosen, chosen.new_zeros(padding)])
    kept = weight[chosen]
    if padding:
        kept[-padding:] = 0
    return chosen, kept


class _HeadLoss(torch.autograd.Function):
    """Weighted cross-entropy of hidden states through a head; gradients are made in forward, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, wanted: Tensor, weight: Tensor, compiled: bool) -> Tensor:  # noqa: PLR0917
        step = _compiled if compiled else _chunk
        low, small = (hidden.to(torch.bfloat16), head.to(torch.bfloat16)) if compiled else (hidden, head)
        grad_hidden, grad_head = torch.empty_like(low), torch.zeros_like(head)
        losses = []
        for start in range(0, hidden.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            loss, grad_hidden[rows], part = step(low[rows], small, wanted[rows], weight[rows])
            grad_head += part
            losses.append(loss)
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), grad_head)
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        scale = gradients[0][0]  # the sum is taken outside: every row has the same
        return grad_hidden * scale, grad_head * scale, None, None, None


def head_loss(hidden: Tensor, head: Tensor, wanted: Tensor, weight: Tensor, *, compiled: bool = False) -> Tensor:
    """Weighted cross-entropy of each row, to be summed (no other use of it has the right gradient).

    hidden: (rows, hidden_size). head: (vocab, hidden_size). wanted: int64 (rows,). weight: float32 (rows,). Returns
    float32 (rows,). compiled: in bfloat16, through torch.compile; rows must then be a multiple of 512.
    """
    loss: Tensor = _HeadLoss.apply(hidden, head, wanted, weight, compiled)  # type: ignore[no-untyped-call]
    return loss
