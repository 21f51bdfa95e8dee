"""What was measured -> the pick, "do not speculate" or "do not trim", and how sure that is.

Pure: knows races.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..vocabulary.choose_size import DO_NOT_TRIM, TRIM
from .race import Contender, Race
from .shapes import Combination

DO_NOT_SPECULATE = "do not speculate"
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Measured:
    """A contender. combination: None for the target alone. speedup: over the target alone, on the questions that both
    answered, with its 95 % interval by questions. better: the chance that it is faster than the pick, by drawing the
    questions again; 0 for the pick itself."""

    combination: Contender
    questions: int
    block_efficiency: float
    tokens_per_second: float
    speedup: float
    speedup_interval: tuple[float, float]
    better: float


@dataclass(frozen=True)
class Verdict:
    """picked: the fastest that drafts, whatever the verdict. reason: a sentence with its numbers. measured: the target
    alone first, the others by their speed."""

    verdict: str
    reason: str
    picked: Combination
    measured: tuple[Measured, ...]

    @property
    def speculate(self) -> bool:
        return self.verdict != DO_NOT_SPECULATE

    @property
    def pick(self) -> Measured:
        return next(one for one in self.measured if one.combination == self.picked)

    @property
    def alone(self) -> Measured:
        return self.measured[0]

    @property
    def rival(self) -> Measured | None:
        """Of those that draft, the other one that is likeliest to be faster than the pick."""
        others = [one for one in self.measured if one.combination not in (None, self.picked)]
        return max(others, key=lambda one: one.better, default=None)


def judge(race: Race, full_size: int) -> Verdict:
    """The fastest of those that were not dropped; whoever dropped out was slower on the questions that it answered."""
    drafting = [one for one in race.left if one is not None]
    together = race.common(*drafting)
    picked = max(drafting, key=lambda one: race.speedup(one, together))
    found = [_measured(race, one, picked) for one in race.answers if one is not None]
    ranked = sorted(found, key=lambda one: one.speedup, reverse=True)
    measured = (_measured(race, None, picked), *ranked)
    pick = next(one for one in measured if one.combination == picked)
    drafts = DO_NOT_TRIM if picked.kept_size == full_size else TRIM
    verdict = drafts if pick.speedup > 1 else DO_NOT_SPECULATE
    return Verdict(verdict, _reason(verdict, pick, measured, full_size), picked, measured)


def _measured(race: Race, contender: Contender, picked: Combination) -> Measured:
    asked = race.asked(contender)
    questions = list(asked)
    speedup = race.speedup(contender, questions)
    low, high = np.percentile(drawn(race, contender, questions), [2.5, 97.5])
    alone = race.answers[None].values()
    return Measured(
        combination=contender,
        questions=len(questions),
        block_efficiency=sum(one.emitted for one in asked.values()) / sum(one.rounds for one in asked.values()),
        tokens_per_second=speedup * sum(one.emitted for one in alone) / sum(one.seconds for one in alone),
        speedup=speedup,
        speedup_interval=(float(low), float(high)),
        better=0.0 if contender == picked else chance_of_better(race, contender, picked),
    )


def chance_of_better(race: Race, contender: Contender, picked: Contender) -> float:
    """The share of draws of the questions that both answered in which `contender` is faster than `picked`."""
    questions = race.common(contender, picked)
    return float(np.mean(drawn(race, contender, questions) > drawn(race, picked, questions)))


def drawn(race: Race, contender: Contender, questions: Sequence[int]) -> npt.NDArray[np.float64]:
    """(draw,) speed-ups over the target alone with as many questions drawn again (bootstrap), the same for all."""
    asked = race.asked(contender)
    emitted, rounds, costs = np.array([asked[question] for question in questions], float).T
    draws = np.random.default_rng(0).integers(len(questions), size=(_RESAMPLES, len(questions)))
    return np.asarray(emitted[draws].sum(1) / rounds[draws].sum(1) / np.median(costs[draws], axis=1))


def _reason(verdict: str, pick: Measured, measured: Sequence[Measured], full_size: int) -> str:
    low, high = pick.speedup_interval
    reaches = f"{_words(pick)}: {pick.speedup:.2f} times the target alone ({low:.2f} to {high:.2f})"
    if verdict == DO_NOT_SPECULATE:
        return f"The target alone is faster; the best that drafts, {reaches}"
    others = (one for one in measured if one.combination is not None)
    kin = [one for one in others if _is_full(one, full_size) == (verdict == TRIM)]
    if not kin:
        return reaches
    other = max(kin, key=lambda one: one.speedup)
    return f"{reaches}; {'the full head' if verdict == TRIM else 'trimmed'}, {_words(other)}: {other.speedup:.2f}"


def _is_full(measured: Measured, full_size: int) -> bool:
    return measured.combination is not None and measured.combination.kept_size == full_size


def _words(measured: Measured) -> str:
    assert measured.combination is not None
    return f"{measured.combination.kept_size:,} head rows and {measured.combination.shape}"
