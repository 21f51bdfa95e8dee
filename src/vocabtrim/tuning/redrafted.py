"""Recorded output and a drafter -> `Reached` of every kept vocabulary and branching, without the target.

At each place all vocabularies and branchings grow together over the same levels (`redraft.grow_together`): what the
drafter reads for one is read for all.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import torch

from ..decoding.drafters.medusa import MedusaDrafter, static_tree
from ..decoding.drafters.plans import Candidates, Chain, DynamicTree, Grown, Level
from ..decoding.drafters.protocol import Drafter
from ..decoding.drafters.stepping import SteppingDrafter
from ..decoding.tree import Tree
from ..errors import UnsupportedError
from ..measure.recording import Recorded
from ..measure.redraft import CHANCE, Pick, StaticBest, Walk, grow_together, pick_rows, right_path
from ..vocabulary.kept import Ids
from .reach import NEVER, Needed, Reached, nothing_reached
from .shapes import BRANCHINGS, NODES, STATIC

_Growth = Generator[Level, torch.Tensor, Candidates | Grown]


class Redrafted:
    """kept: for each vocabulary its ascending ids; None for the drafter's head as it is. depth: the deepest draft.

    Raises UnsupportedError for a drafter that is none of ours, and what `pick_rows` raises.
    """

    def __init__(self, drafter: Drafter, kept: Sequence[Ids | None], depth: int) -> None:
        self._reader: _Trees | _Heads
        if isinstance(drafter, SteppingDrafter):
            self._reader = _Trees(drafter, kept, depth)
        elif isinstance(drafter, MedusaDrafter):
            self._reader = _Heads(drafter, kept)
        else:
            raise UnsupportedError(
                f"{type(drafter).__name__} does not show what it drafts from",
                expected="a drafter of `load_drafter`",
                found=type(drafter).__name__,
                remedy="tune a drafter's folder",
            )

    def read(self, recorded: Recorded) -> dict[tuple[int, int], Reached]:
        """(number of the vocabulary, branching) -> how far it reaches on one generation."""
        tokens = len(recorded.output)
        limit = sys.maxsize if recorded.max_new_tokens is None else recorded.max_new_tokens - 1
        room = np.array([min(limit - place, 1 << 15) for place in range(tokens)], np.int64)
        found = self._reader.needed(recorded, room.tolist())
        return {key: Reached(needed, room, tokens) for key, needed in found.items()}


class _Trees:
    """Drafters that go token by token."""

    def __init__(self, drafter: SteppingDrafter, kept: Sequence[Ids | None], depth: int) -> None:
        self._picks = [pick_rows(drafter.body.head, ids) for ids in kept]
        self._depth = depth
        self._plans = {one: Chain(depth) if one == 1 else DynamicTree(2, depth, one) for one in BRANCHINGS}
        reads = sum(plan.reads for plan in self._plans.values()) * len(self._picks)
        self._walk = Walk(drafter.body, reads)

    def needed(self, recorded: Recorded, room: Sequence[int]) -> dict[tuple[int, int], Needed]:
        keys = [(number, branching) for number in range(len(self._picks)) for branching in self._plans]
        found = {key: nothing_reached(len(room), self._depth) for key in keys}
        self._walk.begin(recorded)
        for place, limit in enumerate(room):
            logits = self._walk.logits(place) if limit > 0 else None
            if logits is None:
                continue
            depth = min(limit, self._depth)
            following = recorded.output[place : place + depth]
            here = self._reaching(keys, logits, following[0])
            growths = [self._growth(branching, self._picks[number], logits, depth) for number, branching in here]
            picks = [self._picks[number] for number, _ in here]
            for key, grown in zip(here, grow_together(self._walk.body, growths, picks), strict=True):
                if isinstance(grown, Candidates):
                    fill_tree(found[key][place], grown, following)
                else:
                    fill_chain(found[key][place], grown.draft.tree, following)
        return found

    def _reaching(self, keys: Sequence[tuple[int, int]], logits: torch.Tensor, following: int) -> list[tuple[int, int]]:
        """Those that may hold the next token: of the others nothing is accepted. One more than a branching is looked
        at, since of equals either may come first."""
        widest = BRANCHINGS[-1] + 1
        best = [pick.rows.best(pick.of(logits), widest).ids[0].tolist() for pick in self._picks]
        return [(number, branching) for number, branching in keys if following in best[number][: branching + 1]]

    def _growth(self, branching: int, pick: Pick, logits: torch.Tensor, depth: int) -> _Growth:
        plan, picked = self._plans[branching], pick.of(logits)
        if isinstance(plan, DynamicTree):
            return plan.candidates(pick.rows, picked, depth)
        return plan.growth(pick.rows, 0, picked, depth, CHANCE)


def fill_chain(needed: Needed, chain: Tree, following: Sequence[int]) -> None:
    """needed: (limit, depth) of one place. following: the output's next tokens."""
    for depth in range(len(right_path(chain, following))):
        needed[depth:, depth] = depth + 2


def fill_tree(needed: Needed, found: Candidates, following: Sequence[int]) -> None:
    """The same of a dynamic tree's candidates: a token's rank among those of the first `limit` levels tells how many
    nodes the tree has as soon as it is in it. Of equal worth the earlier comes first, as in `DynamicTree`."""
    tokens, worth, parents = (part.cpu().numpy() for part in found[:3])
    path: list[int] = []
    node, begin = -1, 0
    for token, end in zip(following, found.ends, strict=False):
        right = np.flatnonzero((parents[begin:end] == node) & (tokens[begin:end] == token))
        if not right.size:
            break
        node = begin + int(right[0])
        path.append(node)
        begin = end
    for level, end in enumerate(found.ends):
        for depth, node in enumerate(path[: level + 1]):
            before = np.count_nonzero(worth[:end] > worth[node]) + np.count_nonzero(worth[:node] == worth[node])
            needed[level, depth] = min(before + 2, NEVER)


class _Heads:
    """Medusa: a static tree's places in their order, filled with each head's best ids."""

    def __init__(self, drafter: MedusaDrafter, kept: Sequence[Ids | None]) -> None:
        self._heads = len(drafter.heads)
        places = static_tree(self._heads, NODES[-1])
        self._nodes = {place: number + 2 for number, place in enumerate(places)}
        whole = MedusaDrafter(drafter.blocks, drafter.heads, places)
        self._best = StaticBest(whole, [pick_rows(drafter.heads[0], ids) for ids in kept])
        self._vocabularies = len(kept)

    def needed(self, recorded: Recorded, room: Sequence[int]) -> dict[tuple[int, int], Needed]:
        found: dict[tuple[int, int], Any] = {}
        self._best.begin(recorded)
        for number in range(self._vocabularies):
            needed = found[number, STATIC] = nothing_reached(len(room), self._heads)
            for place in range(len(room)):
                ranks: tuple[int, ...] = ()
                for depth, (ids, token) in enumerate(
                    zip(self._best.best(place, number), recorded.output[place:], strict=False)
                ):
                    ranks = (*ranks, ids.index(token)) if token in ids else ()
                    if ranks not in self._nodes:
                        break
                    needed[place, depth:, depth] = self._nodes[ranks]
        return found
