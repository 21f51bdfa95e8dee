"""A drafter's head from what it reads to the best target ids, as one function: product, best rows, id map.

No row is ever wider than the kept vocabulary, and no number leaves the device: whether the logits were numbers is
kept, to be asked for once. Compiled, the product's epilogue, the widening and both reductions become one or two
kernels; as it is, it is the same in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import linear, pad

from ..head import Best, Head, HeadRows

_TILE = 128  # rows of a head that are looked at together


class FusedHead(HeadRows):
    """`best` and `likeliest` of a head over what the head reads, (row, hidden), in the place of its logits.

    compiled: by torch.compile, at first use for each width and number of rows.
    """

    def __init__(self, head: Head, *, compiled: bool = False) -> None:
        super().__init__(head.kept_ids)
        self.head = head
        self._largest: list[torch.Tensor] = []
        self._best: Callable[..., tuple[torch.Tensor, ...]] = best_rows
        self._likeliest: Callable[..., tuple[torch.Tensor, ...]] = likeliest_row
        if compiled:
            self._best, self._likeliest = _compiled(best_rows), _compiled(likeliest_row)

    def best(self, draft_logits: torch.Tensor, width: int) -> Best:
        """draft_logits: (row, hidden), what the head reads."""
        head = self.head
        ids, log_probs, largest = self._best(draft_logits, head.weight, head.bias, head.kept_ids, width)
        self._largest.append(largest)
        return Best(ids, log_probs)

    def likeliest(self, draft_logits: torch.Tensor) -> torch.Tensor:
        """draft_logits: (row, hidden), what the head reads."""
        head = self.head
        ids, largest = self._likeliest(draft_logits, head.weight, head.bias, head.kept_ids)
        self._largest.append(largest)
        return ids

    def largest(self) -> torch.Tensor:
        """() a number where the largest logits of all rows since the last call were numbers; NaN or infinity if not."""
        largest, self._largest = torch.cat(self._largest), []
        return largest.abs().amax()


def _compiled(part: Callable[..., tuple[torch.Tensor, ...]]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Sizes are few and fixed, and a kernel for one size is quicker than one for any. The search for the best launch is
    what makes the compiler write the product of one row itself, joined with what follows."""
    return torch.compile(part, dynamic=False, options={"coordinate_descent_tuning": True})


def likeliest_row(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kept_ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(row,) the best target ids and their logits, float32 or wider; hidden: (row, hidden)."""
    largest, columns = _logits(hidden, weight, bias).max(dim=-1)
    return _target_ids(columns, kept_ids), largest


def best_rows(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, kept_ids: torch.Tensor | None, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(row, width) the best target ids, the best first, their log-probabilities, and (row,) the largest logits."""
    logits = _logits(hidden, weight, bias).float()
    values, columns = top_by_tiles(logits, min(width, logits.shape[-1]))
    log_probs = (values - logits.logsumexp(dim=-1, keepdim=True)).clamp(max=0)
    return _target_ids(columns, kept_ids), log_probs, values[:, 0]


def top_by_tiles(logits: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`logits.topk(width)`, by looking for the best tiles first: none of the best lies outside the `width` tiles whose
    largest are the largest. One pass over all columns, which a compiler joins with whatever made them, and sorting
    among a few hundred instead of tens of thousands."""
    rows, kept = logits.shape
    tiles = -(-kept // _TILE)
    if tiles <= width:
        values, columns = logits.topk(width, dim=-1)
        return values, columns
    tiled = pad(logits, (0, tiles * _TILE - kept), value=-torch.inf).view(rows, tiles, _TILE)
    chosen = tiled.amax(dim=-1).topk(width, dim=-1).indices.sort(dim=-1).values
    candidates = tiled.gather(1, chosen[..., None].expand(-1, -1, _TILE)).flatten(1)
    values, places = candidates.topk(width, dim=-1)
    return values, chosen.gather(1, places // _TILE) * _TILE + places % _TILE


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(row, kept), float32 or wider."""
    logits = linear(hidden, weight, bias)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _target_ids(columns: torch.Tensor, kept_ids: torch.Tensor | None) -> torch.Tensor:
    return columns if kept_ids is None else kept_ids[columns]
