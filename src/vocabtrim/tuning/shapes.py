"""What can be turned, and which combinations of it are looked at.

Pure: knows numbers and kinds of drafters; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..checkpoint.layouts import MEDUSA

DEPTH = 8  # the deepest draft that is looked at
BRANCHINGS = (1, 2, 4, 8)  # 1: a chain
NODES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # of trees, root included
STATIC = 0  # the branching of a Medusa drafter, whose tree is its own


@dataclass(frozen=True, order=True)
class Shape:
    """What is drafted in a round. draft_length: of a chain, a tree's depth, or the number of Medusa's heads.

    branching: 1 for a chain, `STATIC` for Medusa. nodes: rows of the target's pass, root included.
    """

    draft_length: int
    branching: int
    nodes: int

    @property
    def numbers(self) -> dict[str, int]:
        """As `choose_plan` takes them."""
        if self.branching == STATIC:
            return {"nodes": self.nodes}
        chain = {"draft_length": self.draft_length, "branching": self.branching}
        return chain if self.branching == 1 else chain | {"nodes": self.nodes}

    def __str__(self) -> str:
        if self.branching == STATIC:
            return f"{self.nodes} nodes"
        if self.branching == 1:
            return f"a chain of {self.draft_length}"
        return f"a tree of {self.nodes} nodes, {self.draft_length} deep, {self.branching} wide"


@dataclass(frozen=True, order=True)
class Combination:
    """kept_size: rows of the drafter's head."""

    kept_size: int
    shape: Shape


def shapes(kind: str, *, depth: int = DEPTH, heads: int = 0) -> list[Shape]:
    """All shapes that are looked at for a kind of drafter. heads: how many a Medusa drafter has."""
    if kind == MEDUSA:
        return [Shape(heads, STATIC, nodes) for nodes in NODES]
    found = [Shape(length, 1, length + 1) for length in range(1, depth + 1)]
    for branching in BRANCHINGS[1:]:
        for length in range(1, depth + 1):
            # A tree of no more nodes than a chain of that length needs steps that its nodes cannot show.
            sizes = (nodes for nodes in NODES if length + 1 < nodes <= candidates(branching, length) + 1)
            found += [Shape(length, branching, nodes) for nodes in sizes]
    return found


def candidates(branching: int, depth: int) -> int:
    """How many drafted tokens a dynamic tree is picked from."""
    return branching + branching * branching * (depth - 1)


def widest(found: Iterable[Shape]) -> int:
    return max(shape.nodes for shape in found)
