"""One method over another on the same questions: what a trim gained or lost, with the luck of the questions in it.

Pure arithmetic over recorded answers; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .metrics import Summary, ratio_interval, summarise
from .records import Generated


@dataclass(frozen=True)
class Paired:
    """Ratios of a method over another, each with its 95 % interval: questions are drawn again, for both at once.

    speed: tokens per second over the other's. block_efficiency: likewise. questions: that both answered.
    """

    questions: int
    speed: float
    speed_interval: tuple[float, float]
    block_efficiency: float
    block_efficiency_interval: tuple[float, float]


def paired(questions: Sequence[Sequence[Generated]], method: str, other: str) -> Paired:
    """`method` over `other` on questions that both answered (`figures.complete`); each ratio is one of sums."""
    own, others = (_by_question(questions, name) for name in (method, other))
    emitted, seconds, passes = _columns(own)
    other_emitted, other_seconds, other_passes = _columns(others)
    return Paired(
        questions=len(questions),
        speed=_ratio(emitted, seconds) / _ratio(other_emitted, other_seconds),
        speed_interval=ratio_interval([emitted, other_seconds], [seconds, other_emitted]),
        block_efficiency=_ratio(emitted, passes) / _ratio(other_emitted, other_passes),
        block_efficiency_interval=ratio_interval([emitted, other_passes], [passes, other_emitted]),
    )


def _by_question(questions: Sequence[Sequence[Generated]], method: str) -> list[Summary]:
    return [
        summarise(round for answer in answers if answer.method == method for round in answer.rounds)
        for answers in questions
    ]


def _columns(summaries: Sequence[Summary]) -> tuple[list[int], list[float], list[int]]:
    """Emitted tokens, seconds and target passes, of each question."""
    return [s.emitted for s in summaries], [s.seconds for s in summaries], [s.rounds for s in summaries]


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return sum(above) / sum(below)
