"""Medusa's heads as one program: all of them are scored before a number is asked for."""

from __future__ import annotations

import torch

from ..chance import Chance
from ..drafters.medusa import MedusaDrafter
from ..drafters.protocol import Draft
from ..tree import Tree
from .fused_head import FusedHead
from .program import Program, Programs, Recorder


class StaticMedusa(MedusaDrafter):
    """compiled: as FusedHead's."""

    def __init__(self, drafter: MedusaDrafter, record: Recorder | None, *, compiled: bool = False) -> None:
        super().__init__(drafter.blocks, drafter.heads, drafter.tree, lean=False)
        self._record = record
        self._fused = [FusedHead(head, compiled=compiled) for head in self.heads]
        weight = self.heads[0].weight
        self._reads = torch.zeros(1, weight.shape[1], dtype=weight.dtype, device=weight.device)
        self._programs = Programs(self._make)

    @torch.inference_mode()
    def propose(self, depth: int, chance: Chance) -> Draft:
        if self._hidden is None or depth == 0:
            return Draft(Tree.chain(self._root))
        self._reads.copy_(self._hidden)
        widths = tuple(self.widths(depth))
        finite, *ids = self._programs.get(widths, tuple(id(head.weight) for head in self.heads))().tolist()
        if not finite:
            FusedHead.prove_numbers(torch.tensor([torch.nan]))
        best = []
        for width, head in zip(widths, self.heads, strict=False):
            found = min(width, head.weight.shape[0])
            best.append(ids[:found])
            ids = ids[found:]
        return Draft(self.filled(self._root, best))

    def _make(self, widths: tuple[int, ...]) -> Program[torch.Tensor]:
        @torch.inference_mode()
        def step() -> torch.Tensor:
            best, largest = [], []
            for width, blocks, head in zip(widths, self.blocks, self._fused, strict=False):
                best.append(head.best(blocks(self._reads), width).ids[0])
                largest.append(head.largest())
            return torch.cat([torch.stack(largest).isfinite().all().long()[None], *best])

        return Program(step, self._record)
