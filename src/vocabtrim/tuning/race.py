"""Combinations that answer questions live, in turns, beside the target alone; slow ones drop out on the way.

Knows who answers what and when it is enough (successive halving); how an answer comes about is handed in. Pure but for
that. In each step all answer one question, one right after the other, and a round's time is only ever held against that
of the target alone in the same step: what the machine does meanwhile befalls both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import NamedTuple

from .shapes import Combination

Contender = Combination | None  # None: the target alone
_FIRST = 3  # questions that all answer before anyone drops out
_PASSES = 3  # at most, over all questions


@dataclass(frozen=True)
class Answer:
    """One answer. seconds, draft_seconds: of all its rounds, each taken for as long as the median one, so that one
    hiccup of the machine does not decide."""

    emitted: int
    rounds: int
    seconds: float
    draft_seconds: float


class Asked(NamedTuple):
    """A contender's answers to one question. cost: of a round, as a multiple of the target's alone."""

    emitted: int
    rounds: int
    cost: float


@dataclass
class Race:
    """questions: how many there are. answers: of each contender by step, in which question `step % questions` was
    asked. left: who has not dropped out."""

    questions: int
    answers: dict[Contender, dict[int, Answer]] = field(default_factory=lambda: defaultdict(dict))
    left: list[Contender] = field(default_factory=list)

    def asked(self, contender: Contender) -> dict[int, Asked]:
        """By question; of one that was asked several times the median cost."""
        costs: dict[int, list[float]] = defaultdict(list)
        last: dict[int, Answer] = {}
        for step, answer in self.answers[contender].items():
            alone = self.answers[None][step]
            costs[step % self.questions].append((answer.seconds / answer.rounds) / (alone.seconds / alone.rounds))
            last[step % self.questions] = answer
        return {q: Asked(last[q].emitted, last[q].rounds, median(found)) for q, found in costs.items()}

    def common(self, *contenders: Contender) -> list[int]:
        """Questions that all of them answered."""
        first, *others = (self.asked(contender) for contender in contenders)
        return [question for question in first if all(question in other for other in others)]

    def speedup(self, contender: Contender, questions: Sequence[int]) -> float:
        """Over the target alone: tokens per round on these questions, by what a round costs."""
        asked = self.asked(contender)
        emitted, rounds = (sum(getattr(asked[q], name) for q in questions) for name in ("emitted", "rounds"))
        return float(emitted / rounds / median(one.cost for one in asked.values()))


def race(
    contenders: Sequence[Combination],
    questions: int,
    answer: Callable[[Contender, int], Answer],
    *,
    full_size: int,
    go_on: Callable[[], bool],
    refine: Callable[[Race], Sequence[Combination]] = lambda running: (),
) -> Race:
    """Let all answer until time is up. The target alone, the full head's best and the best of the trimmed heads stay
    to the end, for the verdict. refine: further contenders, once all have answered a few questions; they answer as many
    at least."""
    running = Race(questions, left=[None, *contenders])
    first = least = min(_FIRST, questions)
    for step in count():
        if step >= least and (step >= _PASSES * questions or not go_on()):
            return running
        turn = step % len(running.left)
        for contender in [*running.left[turn:], *running.left[:turn]]:
            running.answers[contender][step] = answer(contender, step % questions)
        if (step + 1) % first == 0:
            _drop(running, full_size)
        if step + 1 == first:
            new = [one for one in dict.fromkeys(refine(running)) if one not in running.answers]
            running.left += new
            least += first if new else 0
    raise AssertionError("counting ends nowhere")


def _drop(running: Race, full_size: int) -> None:
    """The slower half of those that the verdict does not need."""
    drafting = [one for one in running.left if one is not None]
    together = running.common(*drafting)
    ranked = sorted(drafting, key=lambda one: running.speedup(one, together), reverse=True)
    full = [one for one in ranked if one.kept_size == full_size][:1]
    trimmed = [one for one in ranked if one.kept_size != full_size][:1]
    stay = {*full, *trimmed, *ranked[: max(2, -(-len(ranked) // 2))]}
    running.left = [one for one in running.left if one is None or one in stay]
