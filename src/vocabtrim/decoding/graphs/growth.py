"""A whole proposal as one step on the device: every level's pass, its best rows, and the tree that is picked.

Numbers come to the host once, when all is drawn. Knows plans and what they ask for; the models behind are bodies.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol, TypeVar, cast

import torch

from ..drafters.plans import Chain, DynamicTree, Grown, Level, Plan
from ..drafters.stepping import Levels
from ..passes import Branches
from .fused_head import FusedHead
from .places import block_mask

Said = TypeVar("Said")


class Places:
    """Where drafted tokens stand, level by level, behind `base` entries: a tensor, so that a recording holds for any.

    group: query heads to a key head. dtype: of the mask.
    """

    def __init__(self, base: torch.Tensor, context: int, group: int, dtype: torch.dtype) -> None:
        self._base, self._context, self._group, self._dtype = base, context, group, dtype
        self._levels = Levels(base.device)
        self._read = 0

    def add(self, parents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Positions and slots (n,) and mask of one more level, behind rows `parents` (n,) of the level before."""
        first, self._read = self._read, self._read + len(parents)
        branches = self._levels.add(parents) or self._line()
        entries = torch.arange(first, self._read, device=parents.device)
        mask = block_mask(self._base, branches.visible, self._context, self._group, self._dtype)
        return self._base + branches.depths[first:], self._base + entries, mask

    def _line(self) -> Branches:
        seen = torch.ones(1, self._read, dtype=torch.bool, device=self._base.device)
        return Branches(torch.arange(self._read, device=self._base.device), seen)


class GrowingBody(Protocol):
    """A drafter's model that reads levels without a word from the host.

    base: () int64, the entries of its cache before the first level. root_reads: (1, hidden), what the head reads behind
    the root. group, dtype: of its attention.
    """

    base: torch.Tensor
    root_reads: torch.Tensor
    group: int
    dtype: torch.dtype

    def begin_levels(self) -> None:
        """The next level stands behind the root."""

    def read_level(
        self, tokens: torch.Tensor, parents: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """Tokens (n,) behind rows `parents` (n,) of the level before, or of the root; what the head reads, (n, hidden),
        behind each."""


def recordable(plan: Plan) -> bool:
    """Whether a plan's proposals hang on nothing but the model: those that are drawn ask for chance on the host."""
    return isinstance(plan, DynamicTree) or (isinstance(plan, Chain) and not plan.sampled)


def steps(plan: Plan) -> int:
    """How deep a `recordable` plan drafts where nothing cuts it short."""
    assert isinstance(plan, Chain | DynamicTree)
    return plan.length if isinstance(plan, Chain) else plan.depth


def propose(plan: Plan, body: GrowingBody, head: FusedHead, context: int) -> torch.Tensor:
    """All that a proposal says, in one row of int64: 1 where all logits were numbers, then what `proposed` takes.

    context: entries that attention looks at.
    """
    body.begin_levels()
    places = Places(body.base, context, body.group, body.dtype)
    if isinstance(plan, Chain):
        said = _driven(plan.likeliest(head, body.root_reads, plan.length), body, places)
    else:
        assert isinstance(plan, DynamicTree)
        said = plan.picked(_driven(plan.candidates(head, body.root_reads, plan.depth), body, places)).flatten()
    return torch.cat([head.largest().isfinite().long()[None], said])


def proposed(plan: Plan, root: int, said: Sequence[int]) -> Grown:
    """What `propose` said, without its first number, as the plan's own growth gives it."""
    if isinstance(plan, Chain):
        return plan.grown(root, said)
    assert isinstance(plan, DynamicTree)
    nodes = len(said) // 3
    return plan.grown(root, [said[:nodes], said[nodes : 2 * nodes], said[2 * nodes :]])


def _driven(growth: Generator[Level, torch.Tensor, Said], body: GrowingBody, places: Places) -> Said:
    try:
        level = next(growth)
        while True:
            level = growth.send(body.read_level(level.tokens, level.parents, places.add(level.parents)))
    except StopIteration as done:
        return cast(Said, done.value)
