"""How long the stages of a round take, laid between what was measured, and what a shape's round takes by them.

Pure: knows seconds; what measures them is `clock.py`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from ..measure.metrics import RecordedRound
from .shapes import Combination, Shape


@dataclass(frozen=True)
class StageTimes:
    """Medians over rounds, in seconds.

    alone: a round of the target alone. drafting: branching -> kept size -> draft length -> proposing.
    passes: whether the rows are a chain's -> rows -> all of a round but the proposing: the target's pass, accepting and
    committing.
    """

    alone: float
    drafting: Mapping[int, Mapping[int, Mapping[int, float]]]
    passes: Mapping[bool, Mapping[int, float]]

    def draft(self, kept_size: int, shape: Shape) -> float:
        """Straight lines between draft lengths, and between kept sizes."""
        by_size = self.drafting[shape.branching]
        sizes = sorted(by_size)
        return float(np.interp(kept_size, sizes, [_between(by_size[size], shape.draft_length) for size in sizes]))

    def verify(self, shape: Shape) -> float:
        """Straight lines between numbers of rows."""
        return _between(self.passes[shape.branching == 1], shape.nodes)

    def round(self, combination: Combination) -> float:
        return self.draft(combination.kept_size, combination.shape) + self.verify(combination.shape)


def _between(measured: Mapping[int, float], at: int) -> float:
    places = sorted(measured)
    return float(np.interp(at, places, [measured[place] for place in places]))


@dataclass
class Samples:
    """Seconds of single rounds, gathered: drafting by branching, kept size and draft length; passes by rows."""

    alone: list[float] = field(default_factory=list)
    drafting: dict[tuple[int, int, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    passes: dict[tuple[bool, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kept_size: int, shape: Shape, round: RecordedRound) -> None:
        """A round of a shape."""
        self.drafting[shape.branching, kept_size, shape.draft_length].append(round.draft_seconds)
        self.passes[shape.branching == 1, round.drafted + 1].append(round.seconds - round.draft_seconds)

    def times(self) -> StageTimes:
        drafting: dict[int, dict[int, dict[int, float]]] = {}
        for (branching, size, length), seconds in self.drafting.items():
            drafting.setdefault(branching, {}).setdefault(size, {})[length] = median(seconds)
        passes: dict[bool, dict[int, float]] = {}
        for (chain, rows), seconds in self.passes.items():
            passes.setdefault(chain, {})[rows] = median(seconds)
        return StageTimes(
            median(self.alone),
            {one: {size: rising(found) for size, found in sizes.items()} for one, sizes in drafting.items()},
            {chain: rising(found) for chain, found in passes.items()},
        )

    @property
    def rounds(self) -> int:
        return len(self.alone) + sum(map(len, self.drafting.values()))


def rising(measured: Mapping[int, float]) -> dict[int, float]:
    """More rows, or more steps, never take less time: what says so is noise, and spread over its neighbours (pool
    adjacent violators)."""
    pools: list[list[float]] = []  # mean, how many
    for rows in sorted(measured):
        pools.append([measured[rows], 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, many = pools.pop()
            below, fewer = pools.pop()
            pools.append([(mean * many + below * fewer) / (many + fewer), many + fewer])
    spread: Iterable[float] = (mean for mean, many in pools for _ in range(int(many)))
    return dict(zip(sorted(measured), spread, strict=True))
