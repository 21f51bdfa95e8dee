"""What a drafter learns: the target's own distribution, at every place of an answer, from every root that reaches it.

Knows features, drafted hidden states and heads; knows nothing of how a drafter makes them.
"""

from __future__ import annotations

from math import log
from typing import Any

import torch
from torch import Tensor

from .loss import whole_chunks
from .mixture import Batch

_CHUNK = 512  # places at once; a place has one row of logits per step, and the target's


def aligned(drafted: list[Tensor]) -> Tensor:
    """(rows, seq, steps, hidden): at place j, what each step drafted for the token that follows j.

    drafted: step k's element i stands for the token of position i + k + 2, and so for place i + k + 1.
    """
    return torch.stack([torch.roll(step, number + 1, 1) for number, step in enumerate(drafted)], 2)


def valid(batch: Batch, steps: int) -> Tensor:
    """bool (rows, seq, steps): the following token is an answer's, and place and root are of one document."""
    document, answer = torch.from_numpy(batch.document), torch.from_numpy(batch.answer)
    seq = document.shape[1]
    following = torch.roll(answer, -1, 1) & (torch.roll(document, -1, 1) == document) & (document >= 0)
    following[:, -1] = False
    columns = []
    for step in range(steps):
        same = torch.roll(document, step + 1, 1) == document
        same[:, : min(step + 1, seq)] = False
        columns.append(following & same)
    return torch.stack(columns, 2)


def sampled_ids(seen: Tensor, common: Tensor, size: int, vocab: int) -> tuple[Tensor, Tensor]:
    """(ids, offset), `size` each: head rows that stand for all in a softmax, and what to add to their logits.

    The ids of `common` and `seen`, and others by lot, each of which stands for as many as were left out: sampled
    softmax (Bengio and Senecal 2008). Four fifths of a step's time went through a head of 16,384 rows. The lot follows
    from `seen`, so that a run that was cut off goes on alike. At least an eighth of the ids are drawn.
    """
    positive = torch.unique(torch.cat([common, seen.flatten()]))[: size - size // 8]
    left = torch.ones(vocab, dtype=torch.bool)
    left[positive] = False
    others = torch.nonzero(left).squeeze(1)
    chance = torch.Generator().manual_seed(int(seen.sum()))
    drawn = others[torch.randperm(others.numel(), generator=chance)[: size - positive.numel()]]
    offset = torch.zeros(size)
    offset[positive.numel() :] = log(others.numel() / drawn.numel())
    return torch.cat([positive, drawn]), offset


def _chunk(  # noqa: PLR0917
    drafted: Tensor, features: Tensor, head: Tensor, teacher_head: Tensor, offset: Tensor, weight: Tensor, learned: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(loss, gradient of drafted, gradient of head): cross-entropy of the drafter under the target's distribution.

    drafted: (places, steps, hidden). features: (places, target_hidden). offset: (vocab,). weight: (places, steps).
    learned: whether the head has a gradient.
    """
    places, steps, hidden = drafted.shape
    flat = drafted.reshape(places * steps, hidden)
    wanted = torch.softmax((features @ teacher_head.T).float() + offset, -1)
    logits = (flat @ head.T).float().reshape(places, steps, -1) + offset
    logsumexp = torch.logsumexp(logits, -1, keepdim=True)
    loss = (logsumexp.squeeze(-1) - (logits * wanted[:, None]).sum(-1)) * weight
    gradient = ((torch.exp(logits - logsumexp) - wanted[:, None]) * weight[..., None]).to(drafted.dtype)
    gradient = gradient.reshape(places * steps, -1)
    return loss.sum(), (gradient @ head).reshape(drafted.shape), gradient.T @ flat if learned else None


_compiled = torch.compile(_chunk, dynamic=False)


class _Distil(torch.autograd.Function):
    """Gradients are made in forward, chunk by chunk, so that logits are never held for a whole batch."""

    @staticmethod
    def forward(ctx: Any, drafted: Tensor, head: Tensor, fixed: tuple[Tensor, Tensor, Tensor, Tensor, bool]) -> Tensor:
        features, teacher_head, offset, weight, compiled = fixed
        step = _compiled if compiled else _chunk
        grad_drafted = torch.empty_like(drafted)
        learned = ctx.needs_input_grad[1]
        grad_head = torch.zeros_like(head, dtype=torch.float32) if learned else None
        total = torch.zeros(())
        low = head.to(drafted.dtype)
        for start in range(0, drafted.shape[0], _CHUNK):
            at = slice(start, start + _CHUNK)
            loss, grad_drafted[at], part = step(
                drafted[at], features[at], low, teacher_head, offset, weight[at], learned
            )
            if grad_head is not None and part is not None:
                grad_head += part
            total += loss
        ctx.save_for_backward(grad_drafted, grad_head)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        grad_drafted, grad_head = ctx.saved_tensors
        scale = gradients[0]
        return grad_drafted * scale, None if grad_head is None else grad_head * scale, None


def distil_loss(
    drafted: Tensor,
    features: Tensor,
    head: Tensor,
    teacher_head: Tensor,
    weight: Tensor,
    *,
    offset: Tensor | None = None,
    compiled: bool = False,
) -> Tensor:
    """Sum of weighted cross-entropies against the target's distribution.

    drafted: (places, steps, hidden). features: (places, target_hidden), the target's at the same places. head,
    teacher_head: (vocab, hidden), (vocab, target_hidden), or those rows of `sampled_ids`, whose offset (vocab,) is
    added to all logits. weight: (places, steps). compiled: in bfloat16, through torch.compile. Places without weight
    are left out; the rest is padded to whole chunks.
    """
    chosen, kept = whole_chunks(weight, _CHUNK)
    kind = torch.bfloat16 if compiled else drafted.dtype
    offset = torch.zeros(head.shape[0]) if offset is None else offset
    fixed = features[chosen].to(kind), teacher_head.detach().to(kind), offset, kept, compiled
    loss: Tensor = _Distil.apply(drafted[chosen].to(kind), head, fixed)  # type: ignore[no-untyped-call]
    return loss
