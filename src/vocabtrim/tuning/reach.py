"""How far drafts of every shape reach on recorded output: all tree sizes and depths from one look at each place.

A dynamic tree of some nodes is the best of its candidates, and those of a shallower tree are the first levels of a
deeper one's. So one set of candidates at each place of the output tells how many nodes it takes to accept each depth,
and with that the rounds of every draft length and tree size, exactly. Pure: knows arrays; what fills them is
`redrafted.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .shapes import Shape

NEVER = np.iinfo(np.int16).max  # nodes that no tree has

Needed = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Reached:
    """One generation, by one kept vocabulary and one branching.

    needed: (place, limit, depth) of drafts `limit + 1` deep at most, behind so many tokens of the output: the nodes,
    root included, that a tree has as soon as it holds the output's next `depth + 1` tokens; `NEVER` where none does.
    room: (place,) how deep is drafted there at most: the last token is always the target's own. tokens: of the output.
    """

    needed: Needed
    room: npt.NDArray[np.int64]
    tokens: int


@dataclass(frozen=True)
class Rounds:
    """Sums over the rounds of one generation."""

    rounds: int
    emitted: int

    @property
    def block_efficiency(self) -> float:
        return self.emitted / self.rounds


def nothing_reached(places: int, depth: int) -> Needed:
    """(places, depth, depth), to be filled in."""
    return np.full((places, depth, depth), NEVER, np.int16)


def accepted(reached: Reached, shape: Shape) -> npt.NDArray[np.int64]:
    """(place,) drafted tokens that a round of that shape would have accepted there."""
    limits = np.minimum(shape.draft_length, reached.room)
    rows = reached.needed[np.arange(len(limits)), np.maximum(limits, 1) - 1]
    return np.where(limits > 0, (rows <= shape.nodes).sum(axis=1), 0)


def walk(reached: Reached, shape: Shape) -> Rounds:
    """The rounds that a shape would have had, one behind the other."""
    steps = (accepted(reached, shape) + 1).tolist()
    place = rounds = 0
    while place < reached.tokens:
        place += steps[place]
        rounds += 1
    return Rounds(rounds, reached.tokens)


def acceptance_by_depth(reached: Sequence[Reached], shape: Shape) -> list[float]:
    """At each depth from 1, the share of the rounds of that shape that accepted so deep."""
    hits, rounds = np.zeros(shape.draft_length), 0
    for one in reached:
        taken, place = accepted(one, shape), 0
        while place < one.tokens:
            hits[: taken[place]] += 1
            rounds += 1
            place += int(taken[place]) + 1
    return [float(share) for share in hits / max(rounds, 1)]
