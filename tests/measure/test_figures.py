"""Figures of a run, on records written by hand: sums over sums, and the same questions for all methods."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from vocabtrim.cost import Cost
from vocabtrim.measure.figures import OVERALL, Figures, complete, figures, kept_ids
from vocabtrim.measure.records import Difference, Failed, Generated, RecordedRound, Run

COST = Cost(1000, 50, 1.0, 100, 1000, 50, 1)  # a draft step with its whole head reads 150 bytes of the target's 1000
METHODS = [
    {"name": "autoregressive", "kept_size": None, "kept_ids": None, "cost": None},
    {"name": "full", "kept_size": 100, "kept_ids": None, "cost": asdict(COST)},
    {"name": "cut", "kept_size": 50, "kept_ids": [7, 8], "cost": asdict(COST)},
]


def answer(
    question: str, category: str, method: str, tokens: list[int], rounds: list[tuple[int, int, float]]
) -> Generated:
    """rounds: (emitted, drafted depth, seconds)."""
    done = tuple(RecordedRound(n, n - 1, depth, depth, 0.0, 0.0, seconds) for n, depth, seconds in rounds)
    return Generated(question, category, 0, method, (1, 2), tuple(tokens), "length", 0.5, done)


def run_of(*records: Generated | Failed | Difference, temperature: float = 0.0) -> Run:
    run = Run({"identity": {"temperature": temperature}, "methods": METHODS})
    for record in records:
        run.add(record)
    return run


def measured() -> Run:
    return run_of(
        answer("a", "math", "autoregressive", [7, 8, 9], [(1, 0, 1.0)] * 3),
        answer("a", "math", "full", [7, 8, 9], [(3, 2, 1.0)]),
        answer("a", "math", "cut", [7, 8, 9], [(2, 2, 0.5), (1, 2, 0.5)]),
        answer("b", "code", "autoregressive", [7], [(1, 0, 1.0)]),
        answer("b", "code", "full", [7], [(1, 2, 1.0)]),
        answer("b", "code", "cut", [5], [(1, 2, 1.0)]),
        Difference("b", 0, "cut", 0, 7, 5, 0.001),
    )


def by_name(found: list[Figures]) -> dict[str, Figures]:
    return {figures.method: figures for figures in found}


def test_overall_is_sums_over_sums() -> None:
    run = measured()
    found = figures(run, kept_ids(run))
    assert list(found) == [OVERALL, "math", "code"]
    plain, full, cut = found[OVERALL]
    assert (plain.questions, plain.summary.emitted, plain.summary.block_efficiency) == (2, 4, 1)
    assert plain.speedup == 1 and plain.mbsu == 1 and plain.kept_size is None
    assert full.summary.block_efficiency == 2  # 4 tokens in 2 passes, where the mean of 3 and 1 is 2 too
    assert cut.summary.block_efficiency == pytest.approx(4 / 3)  # and the mean of 1.5 and 1 is not
    assert full.speedup == pytest.approx((4 / 2) / (4 / 4)) and cut.speedup == pytest.approx((4 / 2) / 1)
    assert full.mbsu == pytest.approx(2 / (0.15 * 2 + 1)) and cut.mbsu == pytest.approx(4 / 3 / (0.10 * 2 + 1))
    assert (full.outside, cut.outside) == (0, 0.5)  # 9 and 5 of 7 8 9 5
    assert full.prompt_seconds == 1.0
    assert by_name(found["math"])["cut"].summary.block_efficiency == pytest.approx(1.5)


def test_intervals_hold_the_ratio_and_come_from_questions() -> None:
    run = measured()
    cut = by_name(figures(run, {})[OVERALL])["cut"]
    low, high = cut.block_efficiency_interval
    assert (low, high) == (1.0, 1.5)  # both draws of one question, the extremes of two
    low, high = cut.speedup_interval
    assert low == pytest.approx(1) and high == pytest.approx(3)
    (one,) = [found for found in figures(run, {})["code"] if found.method == "full"]
    assert one.speedup_interval == (1.0, 1.0)  # one question says nothing of others


def test_parity_is_of_greedy_drafters() -> None:
    run = measured()
    plain, full, cut = figures(run, {})[OVERALL]
    assert plain.parity is None and full.parity is not None and cut.parity is not None
    assert (full.parity.same, full.parity.compared, full.parity.differences) == (2, 2, ())
    assert (cut.parity.same, cut.parity.compared) == (1, 2)
    assert [found.gap for found in cut.parity.differences] == [0.001]
    sampled = run_of(*measured().generated.values(), temperature=0.7)
    assert all(found.parity is None for found in figures(sampled, {})[OVERALL])


def test_a_question_that_one_method_failed_counts_for_none() -> None:
    run = measured()
    run.add(answer("c", "math", "autoregressive", [7] * 50, [(1, 0, 1.0)] * 50))
    run.add(answer("c", "math", "full", [7] * 50, [(1, 2, 1.0)] * 50))
    assert [found.questions for found in figures(run, {})[OVERALL]] == [2, 2, 2]  # not finished
    run.add(Failed("c", "math", 0, "cut", "out of memory"))
    assert figures(run, {})[OVERALL] == figures(measured(), {})[OVERALL]
    assert {question[0].question for question in complete(run)} == {"a", "b"}


def test_a_question_whose_last_turn_was_not_asked_yet_counts_for_none() -> None:
    whole = measured()
    begun = [replace(found, question="c", turns=2) for found in whole.generated.values() if found.question == "a"]
    run = run_of(*whole.generated.values(), *begun)
    assert by_name(figures(run, {})[OVERALL])["full"].questions == 2
    for found in begun:
        run.add(replace(found, turn=1))
    assert by_name(figures(run, {})[OVERALL])["full"].questions == 3


def test_a_tree_takes_all_its_steps_even_where_none_of_the_last_survive() -> None:
    run = measured()
    planned = Run({**run.header, "methods": [told | {"depth": 5} for told in METHODS]}, run.generated)
    full = figures(planned, {})[OVERALL][1]
    assert len(full.summary.drafted_at) == 2
    assert full.mbsu == pytest.approx(2 / (0.15 * 5 + 1))


def test_a_run_without_a_whole_question() -> None:
    plain, full, cut = figures(run_of(), {})[OVERALL]
    assert (plain.questions, full.speedup, full.summary.block_efficiency) == (0, 0, 0)
    assert cut.speedup_interval == (0, 0) and cut.outside == 0


def test_a_category_that_is_called_overall() -> None:
    """Its questions are not counted twice, and all others still count."""
    run = run_of(
        *(answer("a", "overall", name, [7], [(1, 1, 1.0)]) for name in ("autoregressive", "full", "cut")),
        *(answer("b", "code", name, [7], [(1, 1, 1.0)]) for name in ("autoregressive", "full", "cut")),
    )
    found = figures(run, {})
    assert {name: parts[0].questions for name, parts in found.items()} == {
        OVERALL: 2,
        "overall (category)": 1,
        "code": 1,
    }
