"""A run's records -> its figures: per method, overall and per category. Sums first, ratios last.

Pure: knows records and what the run's header says of its methods; knows no models. A question with a failed answer
enters no figure of any method, so that all are over the same questions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..cost import Cost, mbsu
from .metrics import Summary, ratio_interval, summarise
from .records import AUTOREGRESSIVE, Difference, Generated, Run

OVERALL = "overall"


@dataclass(frozen=True)
class Parity:
    """Greedy answers beside the autoregressive ones. same: of `compared`, those with equal ids."""

    compared: int
    same: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Figures:
    """What a method came to over one category, or over all.

    kept_size: rows of its head; None without a drafter. questions: that have an answer of every method.
    block_efficiency_interval, speedup_interval: 95 %, by questions. mbsu: predicted from the block efficiency and the
    bytes of a draft step. speedup: tokens per second over the autoregressive method's, on the same questions.
    outside: share of emitted tokens that the drafter's head cannot draft. prompt_seconds: summed over answers.
    parity: None for the autoregressive method and above temperature 0.
    """

    method: str
    kept_size: int | None
    questions: int
    summary: Summary
    block_efficiency_interval: tuple[float, float]
    mbsu: float
    speedup: float
    speedup_interval: tuple[float, float]
    outside: float
    prompt_seconds: float
    parity: Parity | None


def figures(run: Run, kept_ids: dict[str, Collection[int]]) -> dict[str, list[Figures]]:
    """`OVERALL` and every category -> a `Figures` per method, in the run's order.

    kept_ids: method -> ids that its head drafts; a method that is not in it drafts all.
    """
    parts = by_category(complete(run))
    return {name: [_figures(run, method, part, kept_ids) for method in run.methods] for name, part in parts.items()}


def by_category(questions: list[list[Generated]]) -> dict[str, list[list[Generated]]]:
    """All questions as `OVERALL`, and those of every category; one that is itself called so is told apart."""
    parts = {OVERALL: questions}
    for question in questions:
        category = question[0].category
        parts.setdefault(f"{category} (category)" if category == OVERALL else category, []).append(question)
    return parts


def kept_ids(run: Run) -> dict[str, Collection[int]]:
    """Method -> ids that its head drafts, of those methods whose head drafts not all."""
    return {told["name"]: frozenset(told["kept_ids"]) for told in run.header["methods"] if told["kept_ids"] is not None}


def complete(run: Run) -> list[list[Generated]]:
    """Answers by question, of those questions where every method answered every turn."""
    by_question: dict[str, list[Generated]] = {}
    for answer in run.generated.values():
        by_question.setdefault(answer.question, []).append(answer)
    failed = {failure.question for failure in run.failed.values()}
    return [
        answers
        for name, answers in by_question.items()
        if name not in failed and len(answers) == answers[0].turns * len(run.methods)
    ]


def _figures(run: Run, method: str, questions: list[list[Generated]], kept_ids: dict[str, Collection[int]]) -> Figures:
    about = next(told for told in run.header["methods"] if told["name"] == method)
    own = [[answer for answer in answers if answer.method == method] for answers in questions]
    plain = [[answer for answer in answers if answer.method == AUTOREGRESSIVE] for answers in questions]
    answers = [answer for part in own for answer in part]
    summary = summarise(round for answer in answers for round in answer.rounds)
    plain_summary = summarise(round for part in plain for answer in part for round in answer.rounds)
    emitted, passes, seconds = ([_sum(part, name) for part in own] for name in ("emitted", "rounds", "seconds"))
    plain_emitted, plain_seconds = ([_sum(part, name) for part in plain] for name in ("emitted", "seconds"))
    speed = plain_summary.tokens_per_second
    return Figures(
        method=method,
        kept_size=about.get("kept_size"),
        questions=len(questions),
        summary=summary,
        block_efficiency_interval=ratio_interval([emitted], [passes]),
        mbsu=predicted_speedup(about, summary),
        speedup=summary.tokens_per_second / speed if speed else 0.0,
        speedup_interval=ratio_interval([emitted, plain_seconds], [seconds, plain_emitted]),
        outside=_outside(answers, kept_ids.get(method)),
        prompt_seconds=sum(answer.prompt_seconds for answer in answers),
        parity=_parity(run, method, own, plain),
    )


def predicted_speedup(about: dict[str, Any], summary: Summary) -> float:
    """MBSU of a method: its block efficiency over what a round reads."""
    if about.get("cost") is None:
        return summary.block_efficiency
    cost = Cost(**about["cost"])
    steps = cost.steps(drafted_depth(about, summary))
    return mbsu(summary.block_efficiency, cost.cost_ratio(about["kept_size"]), steps)


def drafted_depth(about: Mapping[str, Any], summary: Summary) -> int:
    """How deep a method drafts: as planned, else as deep as it ever did.

    A tree takes all its steps even where no node of the last one is among the best that are kept.
    """
    return about.get("depth") or len(summary.drafted_at)


def _sum(answers: Iterable[Generated], name: str) -> float:
    return float(getattr(summarise(round for answer in answers for round in answer.rounds), name))


def _outside(answers: list[Generated], kept: Collection[int] | None) -> float:
    emitted = [token for answer in answers for token in answer.token_ids]
    if kept is None or not emitted:
        return 0.0
    held = set(kept)
    return sum(token not in held for token in emitted) / len(emitted)


def _parity(run: Run, method: str, own: list[list[Generated]], plain: list[list[Generated]]) -> Parity | None:
    if method == AUTOREGRESSIVE or run.header["identity"]["temperature"] > 0:
        return None
    expected = {(answer.question, answer.turn): answer.token_ids for part in plain for answer in part}
    answers = [answer for part in own for answer in part]
    same = sum(answer.token_ids == expected[answer.question, answer.turn] for answer in answers)
    asked = {(answer.question, answer.turn, method) for answer in answers}
    return Parity(len(answers), same, tuple(found for key, found in run.differences.items() if key in asked))
