"""Combinations that answer questions live, in turns, beside the target alone; slow ones drop out on the way.

Knows who answers what and when it is enough (successive halving); how an answer comes about is handed in. Pure but for
that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

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


@dataclass
class Race:
    """answers: of each contender by question, as often as it was asked. left: who has not dropped out."""

    answers: dict[Contender, dict[int, list[Answer]]] = field(default_factory=lambda: defaultdict(dict))
    left: list[Contender] = field(default_factory=list)

    def columns(self, contender: Contender, questions: Sequence[int]) -> tuple[list[float], list[float]]:
        """Emitted tokens and seconds on these questions, each question's answers averaged."""
        emitted, seconds = [], []
        for question in questions:
            answers = self.answers[contender][question]
            emitted.append(sum(one.emitted for one in answers) / len(answers))
            seconds.append(sum(one.seconds for one in answers) / len(answers))
        return emitted, seconds

    def common(self, *contenders: Contender) -> list[int]:
        """Questions that all of them answered."""
        first, *others = contenders
        return [q for q in self.answers[first] if all(q in self.answers[other] for other in others)]

    def speed(self, contender: Contender, questions: Sequence[int]) -> float:
        """Tokens per second."""
        emitted, seconds = self.columns(contender, questions)
        return sum(emitted) / sum(seconds)


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
    to the end, for the verdict. refine: further contenders, once all have answered a few questions."""
    running = Race(left=[None, *contenders])
    first = min(_FIRST, questions)
    for step in count():
        if step >= first and (step >= _PASSES * questions or not go_on()):
            return running
        turn = step % len(running.left)
        for contender in [*running.left[turn:], *running.left[:turn]]:
            _ask(running, contender, step % questions, answer)
        if step + 1 == first:
            for new in refine(running):
                if new not in running.left:
                    running.left.append(new)
                    for question in range(first):
                        _ask(running, new, question, answer)
        if step + 1 >= first and (step + 1) % first == 0:
            _drop(running, full_size)
    raise AssertionError("counting ends nowhere")


def _ask(running: Race, contender: Contender, question: int, answer: Callable[[Contender, int], Answer]) -> None:
    running.answers[contender].setdefault(question, []).append(answer(contender, question))


def _drop(running: Race, full_size: int) -> None:
    """The slower half of those that the verdict does not need."""
    drafting = [one for one in running.left if one is not None]
    speeds = {one: running.speed(one, running.common(None, *drafting)) for one in drafting}
    ranked = sorted(drafting, key=lambda one: speeds[one], reverse=True)
    full = [one for one in ranked if one.kept_size == full_size][:1]
    trimmed = [one for one in ranked if one.kept_size != full_size][:1]
    stay = {*full, *trimmed, *ranked[: max(2, -(-len(ranked) // 2))]}
    running.left = [one for one in running.left if one is None or one in stay]
