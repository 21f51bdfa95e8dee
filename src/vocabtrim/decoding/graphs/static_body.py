"""What the drafters' models share as programs: reading what was emitted, however much, and being there for a growth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..head import Head
from .buckets import ROWS, context_bucket, row_bucket
from .places import block_mask
from .program import Program, Programs, Recorder
from .static_cache import StaticCache
from .told import Told


class StaticBody:
    """A model with a cache of its own that is read behind the root: `read_tokens`, then levels (growth.GrowingBody).

    base: () int64, entries of the cache behind `read_tokens`. root_reads: (1, hidden), what the head reads behind the
    last of its tokens.
    """

    def __init__(self, cache: StaticCache, head: Head, group: int, record: Recorder | None) -> None:
        self.cache, self.head, self.group, self.record = cache, head, group, record
        self.device, self.dtype = head.weight.device, head.weight.dtype
        self.base = torch.zeros((), dtype=torch.int64, device=self.device)
        self.root_reads = torch.zeros(1, head.weight.shape[1], dtype=self.dtype, device=self.device)
        self._programs = Programs(self._make)

    def tell_more(self, rows: int, start: int, count: int) -> None:
        """Of what is read beside the tokens, the part that belongs to `count` of them from `start` on."""

    def read_rows(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """Read tokens (rows,); (1, hidden) of what the head reads behind row `last` (1,)."""
        raise NotImplementedError

    @torch.inference_mode()
    def read_tokens(self, tokens: Sequence[int]) -> None:
        """Append tokens to the cache, as many at a time as the largest program takes."""
        for start in range(0, len(tokens), ROWS[-1]):
            part = torch.tensor(tokens[start : start + ROWS[-1]])
            count, past = len(part), self.cache.length
            rows = row_bucket(count) or 0
            told, program = self._programs.get((rows, context_bucket(past + count)), self.cache.moved)
            told.tell(part, base=past, first=past, padding=self.cache.padding_slot)
            self.tell_more(rows, start, count)
            program()
            self.cache.set_length(past + count)

    def _make(self, key: tuple[int, int]) -> tuple[Told, Program[None]]:
        rows, context = key
        told = Told(rows, rows, self.device)

        @torch.inference_mode()
        def step() -> None:
            mask = block_mask(told.base, told.visible, context, self.group, self.dtype)
            reads = self.read_rows(told.tokens, told.base + told.depths, told.slots, mask, told.last)
            self.root_reads.copy_(reads)
            self.base.copy_(told.base + told.last[0] + 1)

        return told, Program(step, self.record)
