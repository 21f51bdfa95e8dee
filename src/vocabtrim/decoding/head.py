"""A drafter's LM head, full or trimmed: hidden states -> logits of the kept rows -> target ids.

Only kept rows are ever computed, and ids are mapped after the best rows are found: no full-width row exists anywhere.
Rows can change between rounds (`replace`); nothing else in decoding/ holds ids of a head across rounds.
"""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import torch
from torch import nn

from ..errors import CheckpointError
from .lean.library import Kernels, Matrix, matrix
from .sampling import widened


class Best(NamedTuple):
    """ids: (row, width) int64 target ids, the best first. log_probs: (row, width) float32, over the head's own rows."""

    ids: torch.Tensor
    log_probs: torch.Tensor


class HeadRows:
    """Which target id each row of a head scores: logits of those rows -> the best ids. Computes no logits itself.

    kept_ids: (kept,) ascending int64 target ids; None where row i is id i. kernels: by which the best are found; None
    for torch.
    """

    def __init__(self, kept_ids: torch.Tensor | None = None, kernels: Kernels | None = None) -> None:
        self.kept_ids, self.kernels = kept_ids, kernels

    def likeliest(self, draft_logits: torch.Tensor) -> torch.Tensor:
        """(row,) the best id of each row of (row, kept) logits, the lowest of equals. Raises as `best`."""
        if self.kernels is not None:
            ranked = self.kernels.rank(draft_logits.float().contiguous(), 1, sums=False)
            if not ranked.finite:
                self.prove_numbers(ranked.values)
            return self.ids(ranked.columns[:, 0])
        largest, columns = widened(draft_logits).max(dim=-1)
        if not isfinite(largest.sum()):  # half the time of looking at each
            self.prove_numbers(largest)
        return self.ids(columns)

    def best(self, draft_logits: torch.Tensor, width: int) -> Best:
        """The `width` best ids of each row of (row, kept) logits, or as many as there are.

        Raises CheckpointError for logits that hold NaN or infinity.
        """
        logits, width = draft_logits.float(), min(width, draft_logits.shape[-1])
        if self.kernels is not None:
            columns, values, log_sums, finite = self.kernels.rank(logits.contiguous(), width)
            assert log_sums is not None
            if not finite:
                self.prove_numbers(values[:, 0])
            return Best(self.ids(columns), (values - log_sums[:, None]).clamp_(max=0))
        values, columns = logits.topk(width, dim=-1)
        self.prove_numbers(values[..., 0])
        log_probs = values - logits.logsumexp(dim=-1, keepdim=True)
        return Best(self.ids(columns), log_probs.clamp_(max=0))

    def ids(self, columns: torch.Tensor) -> torch.Tensor:
        """Target ids of the head's own row numbers."""
        return columns if self.kept_ids is None else self.kept_ids[columns]

    @staticmethod
    def prove_numbers(largest_logits: torch.Tensor) -> None:
        """Raises CheckpointError where the largest logit of a row is no number, which says the same of the row.

        Single ids may be ruled out by -inf; NaN counts as the largest.
        """
        if not torch.isfinite(largest_logits).all():
            raise CheckpointError(
                "the drafter's logits hold NaN or infinity",
                expected="finite numbers",
                found=f"{largest_logits[~torch.isfinite(largest_logits)].flatten()[0]} as the largest",
                remedy="`vocabtrim check` it, or decode in float32 instead of half",
            )


class Head(nn.Module, HeadRows):
    """weight: (kept, hidden). bias: (kept,) or None. kept_ids: (kept,) ascending int64 target ids; None when full."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, kept_ids: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.kernels = None
        self.replace(weight, bias, kept_ids)

    def replace(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, kept_ids: torch.Tensor | None = None
    ) -> None:
        """Take other rows from the next call on. Raises CheckpointError where rows, bias and ids are not as many."""
        sizes = {tensor.shape[0] for tensor in (weight, bias, kept_ids) if tensor is not None}
        if len(sizes) != 1:
            raise CheckpointError(
                "a head's rows, bias and ids are not as many",
                expected=f"{weight.shape[0]} of each",
                found=sorted(sizes),
                remedy="pass the ids that the head was cut with",
            )
        # Detached, so that a parameter stays the property of the model it came from.
        self.weight = weight.detach()
        self.kept_ids = None if kept_ids is None else kept_ids.to(torch.int64).contiguous()
        self._highest: int | None = None
        self.bias = None if bias is None else bias.detach()
        self.matrix: Matrix | None = None  # as the kernels take it
        tensors = [tensor for tensor in (self.weight, self.bias) if tensor is not None]
        if all(tensor.is_contiguous() and tensor.dtype == weight.dtype for tensor in tensors):
            self.matrix = matrix(self.weight, self.bias)

    @property
    def highest(self) -> int:
        """The highest id that can be drafted; worked out when first asked for, since a device has to be waited for."""
        if self._highest is None:
            self._highest = self.weight.shape[0] - 1 if self.kept_ids is None else int(self.kept_ids.max())
        return self._highest

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., hidden) -> (..., kept) logits."""
        # As a matrix: one row cut out of several as (1, 1, hidden) takes torch ten times as long in bfloat16.
        rows = hidden.reshape(-1, hidden.shape[-1])
        if self.kernels is not None and self.matrix is not None:
            logits = self.kernels.multiply(self.matrix, rows.to(self.weight.dtype).contiguous())
            return logits.view(*hidden.shape[:-1], -1)
        return nn.functional.linear(rows, self.weight, self.bias).view(*hidden.shape[:-1], -1)
