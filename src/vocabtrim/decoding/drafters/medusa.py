"""Medusa's drafter (arXiv 2401.10774): one head per drafted position over the target's last hidden state, no memory.

Tensor names: FasterDecoding/Medusa, model/medusa_model.py. The tree's shape is fixed; each round fills it with each
head's best ids.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import nn

from ...errors import InputError
from ..chance import Chance
from ..head import Head
from ..lean.compiled import ready_kernels
from ..lean.library import DTYPES, Kernels
from ..tree import Tree
from .protocol import Draft

# A node's place in a static tree: at each depth, the rank of the id among its head's best.
Ranks = tuple[int, ...]


def static_tree(heads: int, nodes: int = 64) -> tuple[Ranks, ...]:
    """The `nodes` - 1 places that are most often right, parents first, if a head's id of rank r is right with
    probability 0.6 * 0.85 ** depth / (r + 1) ** 1.5.

    These rates are an assumption, of the order that Medusa's paper shows for its heads; a tree tuned on measured rates
    can be passed to `MedusaDrafter` instead. Grown best first: every prefix is itself the best tree of its size.
    """
    rate = [[0.6 * 0.85**depth / (rank + 1) ** 1.5 for rank in range(nodes)] for depth in range(heads)]
    waiting: list[tuple[float, Ranks]] = [(-rate[0][0], (0,))]
    places: list[Ranks] = []
    while waiting and len(places) < nodes - 1:
        worth, place = heapq.heappop(waiting)
        places.append(place)
        *before, rank = place
        depth = len(before)
        if rank + 1 < nodes:
            sibling = worth / rate[depth][rank] * rate[depth][rank + 1]
            heapq.heappush(waiting, (sibling, (*before, rank + 1)))
        if depth + 1 < heads:
            heapq.heappush(waiting, (worth * rate[depth + 1][0], (*place, 0)))
    return tuple(places)


class MedusaBlocks(nn.Module):
    """The residual blocks of one head: (row, hidden) -> (row, hidden)."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))

    def forward(self, hidden: torch.Tensor, kernels: Kernels | None = None) -> torch.Tensor:
        """kernels: by which to multiply; None for torch."""
        for linear in self.linears:
            product = linear(hidden) if kernels is None else kernels.project(linear, hidden)
            hidden = hidden + nn.functional.silu(product).to(hidden.dtype)
        return hidden


class MedusaDrafter:
    """blocks, heads: one of each per drafted position. tree: places, each behind its parent; a rank may not be taken
    twice. Ranks beyond a trimmed head's rows, and depths beyond what is asked for, are left out of the tree. lean:
    whether passes may go by our kernels."""

    states = (-1,)  # the hidden state that the target's head reads
    context: int | None = None

    def __init__(
        self, blocks: Sequence[MedusaBlocks], heads: Sequence[Head], tree: Sequence[Ranks] = (), *, lean: bool = True
    ) -> None:
        self.blocks, self.heads = list(blocks), list(heads)
        self.tree = tuple(tree) or static_tree(len(self.heads))
        _prove_places(self.tree, len(self.heads))
        self._root = -1
        first = heads[0].weight
        self._lean = lean and first.device.type == "cpu" and first.dtype in DTYPES
        self._bytes = sum(head.weight.nbytes for head in heads)
        self._hidden: torch.Tensor | None = None  # (1, hidden) of the token before the root

    @property
    def nodes(self) -> int:
        return len(self.tree) + 1

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self._root = prompt[-1]
        self._hidden = None if hidden is None else hidden[-1:]
        self.choose_way(length)

    def choose_way(self, tokens: int) -> None:
        """By the kernels or by torch, for a sequence of so many tokens."""
        kernels = ready_kernels(self._bytes * tokens) if self._lean else None
        for head in self.heads:
            head.kernels = kernels

    @torch.inference_mode()
    def propose(self, depth: int, chance: Chance) -> Draft:
        """The root alone behind a prompt of one token, which has no hidden state before it."""
        if self._hidden is None or depth == 0:
            return Draft(Tree.chain(self._root))
        scored = zip(self.widths(depth), self.heads, self.logits(self._hidden), strict=False)
        best = [head.best(logits, width).ids[0].tolist() for width, head, logits in scored]
        return Draft(self.filled(self._root, best))

    def widths(self, depth: int) -> Sequence[int]:
        """How many of each head's best ids the tree asks for, for as many heads as draft at most `depth` deep."""
        return _widths(self.tree, depth)

    def logits(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """(row, kept) of one head after the other, from hidden states (row, hidden); computed as they are asked for."""
        return (head(blocks(hidden, head.kernels)) for blocks, head in zip(self.blocks, self.heads, strict=True))

    def filled(self, root: int, best: Sequence[Sequence[int]]) -> Tree:
        """The tree behind a root. best: ids of as many heads as are asked, the best first."""
        filled, parents = _filled(self.tree, tuple(map(len, best)))
        return Tree(torch.tensor([root, *(best[depth][rank] for depth, rank in filled)]), parents)

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self._root = emitted[-1]
        self._hidden = None if hidden is None else hidden[-1:]


@cache
def _widths(tree: tuple[Ranks, ...], depth: int) -> tuple[int, ...]:
    widths = [0] * min(depth, max(map(len, tree)))
    for place in tree:
        if len(place) <= depth:
            widths[len(place) - 1] = max(widths[len(place) - 1], place[-1] + 1)
    return tuple(widths)


@cache
def _filled(tree: tuple[Ranks, ...], found: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Of a tree the places that can be filled where each head found so many ids: depth and rank of each, and parents,
    the root's first. Worked out once, since rounds hardly differ in it."""
    places = [
        place
        for place in tree
        if len(place) <= len(found) and all(rank < ids for rank, ids in zip(place, found, strict=False))
    ]
    node_of: dict[Ranks, int] = {(): 0} | {place: node for node, place in enumerate(places, start=1)}
    return (
        tuple((len(place) - 1, place[-1]) for place in places),
        (-1, *(node_of[place[:-1]] for place in places)),
    )


def _prove_places(tree: Sequence[Ranks], heads: int) -> None:
    known: set[Ranks] = {()}
    for place in tree:
        if place in known or place[:-1] not in known or len(place) > heads or place[-1] < 0:
            raise InputError(
                "a static tree's place is no new child of a place before it",
                expected=f"at most {heads} ranks, parents first, none twice",
                found=place,
                remedy="leave the tree out for the default one",
            )
        known.add(place)
