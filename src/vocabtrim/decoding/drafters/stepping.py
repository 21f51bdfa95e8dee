"""A drafter that goes token by token: a body, which reads tokens, under a plan, which says what to draft.

Independent LMs and EAGLE's feature drafters differ in their body alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

import torch

from ..chance import Chance
from ..passes import Branches
from ..tree import Tree
from .plans import Body, DynamicTree, Grown, Plan, grow
from .protocol import Draft


class SteppingBody(Body, Protocol):
    """A body with a memory between proposals."""

    @property
    def states(self) -> tuple[int, ...]: ...

    @property
    def context(self) -> int | None: ...

    def begin(self, prompt: Sequence[int], room: int, hidden: torch.Tensor | None) -> None:
        """Forget everything and take a prompt. room: entries that the cache will ever need."""

    def commit(self, entries: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        """Of what was read behind the root keep `entries`, the first accepted tokens; `emitted` follow the old root."""


class SteppingDrafter:
    """The drafter protocol over a body and a plan. The plan may be changed between generations."""

    def __init__(self, body: SteppingBody, plan: Plan) -> None:
        self.body, self.plan = body, plan
        self._root = -1
        self._entries: Sequence[int] = [-1]

    @property
    def states(self) -> tuple[int, ...]:
        return self.body.states

    @property
    def nodes(self) -> int:
        return self.plan.nodes

    @property
    def context(self) -> int | None:
        return self.body.context

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self.body.begin(prompt, length + self.plan.reads, hidden)
        self._root = prompt[-1]

    def propose(self, depth: int, chance: Chance) -> Draft:
        logits = self.body.catch_up() if depth > 0 else None
        if logits is None:
            draft, self._entries = Draft(Tree.chain(self._root)), [-1]
        else:
            draft, self._entries = self._grown(logits, depth, chance)
        return draft

    def _grown(self, logits: torch.Tensor, depth: int, chance: Chance) -> Grown:
        shape = self.plan.shape(depth)
        nodes = None if shape is None else self.body.grow(logits, shape)
        if nodes is not None:
            return DynamicTree.grown(self._root, nodes)
        return grow(self.plan.growth(self.body.head, self._root, logits, depth, chance), self.body)

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        entries = takewhile(lambda entry: entry >= 0, (self._entries[node] for node in path))
        self.body.commit(list(entries), emitted, hidden)
        self._root = emitted[-1]


class Levels:
    """Who sees whom among the tokens that a body reads in one proposal, level by level."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._level = 0
        self._branches: Branches | None = None  # of the last level; None for a chain so far

    def add(self, parents: torch.Tensor) -> Branches | None:
        """One more level: tokens behind rows `parents` (n,) of the level before; None for a chain so far."""
        if self._branches is not None or len(parents) > 1:
            before = self._branches or self._chain()
            own = torch.eye(len(parents), dtype=torch.bool, device=self._device)
            visible = torch.cat([before.visible[parents], own], dim=1)
            self._branches = Branches(torch.cat([before.depths, torch.full_like(parents, self._level)]), visible)
        self._level += 1
        return self._branches

    def _chain(self) -> Branches:
        """All levels so far, of one token each."""
        depths = torch.arange(self._level, device=self._device)
        return Branches(depths, torch.ones(1, self._level, dtype=torch.bool, device=self._device))
