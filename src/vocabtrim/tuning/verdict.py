"""What was measured -> the pick, "do not speculate" or "do not trim", and how sure that is.

Pure: knows races.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..measure.metrics import ratio_interval
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
    together = race.common(None, *drafting)
    picked = max(drafting, key=lambda one: race.speed(one, together))
    contenders = sorted((one for one in race.answers if one is not None), key=lambda one: -_relative(race, one))
    measured = tuple(_measured(race, one, picked) for one in (None, *contenders))
    pick = next(one for one in measured if one.combination == picked)
    drafts = DO_NOT_TRIM if picked.kept_size == full_size else TRIM
    verdict = drafts if pick.speedup > 1 else DO_NOT_SPECULATE
    return Verdict(verdict, _reason(verdict, pick, measured, full_size), picked, measured)


def _relative(race: Race, contender: Contender) -> float:
    """Over the target alone: contenders answered different questions."""
    questions = race.common(contender, None)
    return race.speed(contender, questions) / race.speed(None, questions)


def _measured(race: Race, contender: Contender, picked: Combination) -> Measured:
    questions = race.common(contender, None)
    emitted, seconds = race.columns(contender, questions)
    plain_emitted, plain_seconds = race.columns(None, questions)
    answers = [one for part in race.answers[contender].values() for one in part]
    return Measured(
        combination=contender,
        questions=len(questions),
        block_efficiency=sum(one.emitted for one in answers) / sum(one.rounds for one in answers),
        tokens_per_second=race.speed(contender, questions),
        speedup=_relative(race, contender),
        speedup_interval=ratio_interval([emitted, plain_seconds], [seconds, plain_emitted]),
        better=0.0 if contender == picked else chance_of_better(race, contender, picked),
    )


def chance_of_better(race: Race, contender: Contender, picked: Contender, *, seed: int = 0) -> float:
    """The share of 10,000 draws of the questions that both answered in which `contender` is faster than `picked`."""
    questions = race.common(contender, picked)
    columns = np.array([*race.columns(contender, questions), *race.columns(picked, questions)])
    chance = np.random.default_rng(seed)
    times = chance.multinomial(len(questions), np.full(len(questions), 1 / len(questions)), size=_RESAMPLES)
    emitted, seconds, picked_emitted, picked_seconds = columns @ times.T
    faster = emitted * picked_seconds > picked_emitted * seconds
    return float(np.mean(faster))


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
