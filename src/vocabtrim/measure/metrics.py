"""Rounds -> the numbers of speculative decoding. Every ratio is a ratio of sums and is computed here, once.

Pure arithmetic over recorded rounds; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_RESAMPLES = 10_000


class RecordedRound(Protocol):
    """What is read of a round (`decoding.rounds.Round`, or one read back from a file)."""

    @property
    def emitted(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def drafted(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def draft_seconds(self) -> float: ...
    @property
    def target_seconds(self) -> float: ...
    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Summary:
    """Sums over rounds. accepted_at[d], drafted_at[d]: rounds that accepted, and that drafted, more than d tokens."""

    rounds: int
    emitted: int
    accepted: int
    drafted: int
    accepted_at: tuple[int, ...]
    drafted_at: tuple[int, ...]
    draft_seconds: float
    target_seconds: float
    seconds: float

    @property
    def block_efficiency(self) -> float:
        """Emitted tokens per target pass (Leviathan et al., arXiv 2211.17192); 0 without rounds."""
        return self.emitted / self.rounds if self.rounds else 0.0

    @property
    def acceptance_by_depth(self) -> tuple[float, ...]:
        """At each depth from 1: of the rounds that drafted so deep, the share that accepted so deep."""
        return tuple(accepted / drafted for accepted, drafted in zip(self.accepted_at, self.drafted_at, strict=True))

    @property
    def tokens_per_second(self) -> float:
        """Emitted tokens by the time of all rounds, the reading of the prompt apart; 0 where no time passed."""
        return self.emitted / self.seconds if self.seconds else 0.0


def summarise(rounds: Iterable[RecordedRound]) -> Summary:
    """Add up rounds of one generation or of many."""
    recorded = list(rounds)
    depths = range(max((round.depth for round in recorded), default=0))
    return Summary(
        rounds=len(recorded),
        emitted=sum(round.emitted for round in recorded),
        accepted=sum(round.accepted for round in recorded),
        drafted=sum(round.drafted for round in recorded),
        accepted_at=tuple(sum(round.accepted > depth for round in recorded) for depth in depths),
        drafted_at=tuple(sum(round.depth > depth for round in recorded) for depth in depths),
        draft_seconds=sum(round.draft_seconds for round in recorded),
        target_seconds=sum(round.target_seconds for round in recorded),
        seconds=sum(round.seconds for round in recorded),
    )


def ratio_interval(
    numerators: Sequence[Sequence[float]], denominators: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of a product of ratios of sums, each unit drawn again with all that was measured on it (bootstrap).

    numerators, denominators: one row per factor, one column per unit (a question). A ratio of sums is one row of
    each; a paired speed-up is two: emitted tokens over seconds of a method, seconds over emitted tokens of the other.
    Percentiles of 10,000 resamples (Efron 1979); (0, 0) without units. Deterministic for a seed.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    units = above.shape[-1]
    if not units:
        return 0.0, 0.0
    chance = np.random.default_rng(seed)
    times = chance.multinomial(units, np.full(units, 1 / units), size=_RESAMPLES)  # how often each unit is drawn
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.prod((times @ above.T) / (times @ below.T), axis=1)
    low, high = np.nanpercentile(ratios, [2.5, 97.5])
    return float(low), float(high)
