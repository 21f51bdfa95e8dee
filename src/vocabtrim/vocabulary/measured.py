"""What was measured at some kept sizes, laid between them: block efficiency and seconds of a round at any size.

Knows numbers by head rows; where they come from (a bench, a replay) is measure/'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class StageTimes:
    """Seconds. plain: of an autoregressive pass. target: of a round without its drafting.

    drafting: head rows -> of drafting one round.
    """

    plain: float
    target: float
    drafting: Mapping[int, float]

    def round(self, rows: int) -> float:
        """A round's seconds with a head of so many rows: drafting is a line over rows, fitted by least squares.

        One measured size says nothing of others: its own time is then taken for all.
        """
        sizes, seconds = np.array(list(self.drafting)), np.array(list(self.drafting.values()))
        if sizes.size == 1:
            return self.target + float(seconds[0])
        slope, start = np.polyfit(sizes, seconds, 1)
        return self.target + max(float(start + slope * rows), 0.0)


@dataclass(frozen=True)
class Measured:
    """Tokens per target pass at some sizes, and what a round takes.

    source: what was read. full_size: rows of the untrimmed head. draft_length: how deep was drafted.
    block_efficiencies: head rows -> tokens per target pass, the untrimmed head's among them. times: None where nothing
    was timed. Raises InputError without the untrimmed head's block efficiency.
    """

    source: str
    full_size: int
    draft_length: int
    block_efficiencies: Mapping[int, float]
    times: StageTimes | None = None

    def __post_init__(self) -> None:
        if self.full_size not in self.block_efficiencies:
            raise InputError(
                f"{self.source} does not tell what the full head reaches",
                expected=f"a drafter with {self.full_size:,} head rows",
                found=", ".join(f"{rows:,}" for rows in sorted(self.block_efficiencies)) or "no drafter",
                remedy="bench with --drafter too",
            )

    @property
    def full(self) -> float:
        """Block efficiency of the untrimmed head."""
        return self.block_efficiencies[self.full_size]

    def block_efficiency(self, rows: int, predicted: Callable[[int], float]) -> float:
        """At any size: `predicted`, corrected by how far it was off at the measured sizes around, by log size between.

        At a measured size it is what was measured; below the smallest, the smallest one's correction holds.
        """
        sizes = sorted(self.block_efficiencies)
        off = [self.block_efficiencies[size] / predicted(size) for size in sizes]
        return predicted(rows) * float(np.interp(np.log(rows), np.log(sizes), off))

    def speedup(self, rows: int, block_efficiency: float) -> float | None:
        """Over plain decoding, by measured stage times; None where nothing was timed."""
        if self.times is None:
            return None
        return block_efficiency * self.times.plain / self.times.round(rows)
