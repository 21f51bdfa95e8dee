"""A tree of drafted tokens: nodes, parents, depths, and the mask under which one target pass verifies all of them.

Node 0 is the root, the last emitted token, which the target has not read yet; every other node is a drafted token
whose parent stands before it. A chain is a tree without branches. Knows indices; knows no models and no probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

ROOT = 0


@dataclass(frozen=True, eq=False)
class Tree:
    """tokens: (node,) int64 target ids, the root's first. parents: (node,), parents[i] < i, and -1 for the root.

    No two children of a node carry the same token.
    """

    tokens: torch.Tensor
    parents: tuple[int, ...]

    @classmethod
    def chain(cls, root: int, drafted: Sequence[int] = ()) -> Tree:
        """The root and one drafted token behind the other."""
        return cls(torch.tensor([root, *drafted]), tuple(range(-1, len(drafted))))

    @property
    def size(self) -> int:
        """Number of nodes, the root among them: the rows of a target pass."""
        return len(self.parents)

    @property
    def drafted(self) -> int:
        """Number of drafted tokens."""
        return self.size - 1

    @property
    def depth(self) -> int:
        """Drafted tokens on the longest path."""
        return max(self._depths)

    @property
    def branches(self) -> bool:
        """Whether this is more than a chain."""
        return self.parents != tuple(range(-1, self.drafted))

    @cached_property
    def _depths(self) -> list[int]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    @cached_property
    def depths(self) -> torch.Tensor:
        """(node,) edges from the root."""
        return torch.tensor(self._depths)

    @cached_property
    def visible(self) -> torch.Tensor:
        """(node, node) bool: row i may attend to column j, which is i itself or an ancestor of i."""
        # In numpy, where small steps are not all overhead. The root is its own parent: climbing ends there.
        parents = np.array((0, *self.parents[1:]))
        visible = np.eye(self.size, dtype=np.bool_)
        rows, ancestors = np.arange(self.size), parents
        for _ in range(self.depth):
            visible[rows, ancestors] = True
            ancestors = parents[ancestors]
        return torch.from_numpy(visible)

    @cached_property
    def ids(self) -> list[int]:
        """The tokens, as numbers."""
        return self.tokens.tolist()

    @cached_property
    def children(self) -> dict[tuple[int, int], int]:
        """(node, token) -> the child of that node with that token."""
        tokens = self.ids
        return {(parent, tokens[node]): node for node, parent in enumerate(self.parents) if parent >= 0}

    def path_to(self, node: int) -> list[int]:
        """Nodes from below the root down to `node`, in order; empty for the root."""
        path: list[int] = []
        while node != ROOT:
            path.append(node)
            node = self.parents[node]
        return path[::-1]
