"""Who stays in the race, and what is made of it: on answers whose times are made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from vocabtrim.tuning.race import Answer, Contender, Race, race
from vocabtrim.tuning.shapes import Combination, Shape
from vocabtrim.tuning.verdict import DO_NOT_SPECULATE, DO_NOT_TRIM, TRIM, chance_of_better, judge

FULL = 1000
CHAIN = Shape(3, 1, 4)
FAST, GOOD, FAIR, SLOW = (Combination(size, CHAIN) for size in (100, 200, 300, 400))
WHOLE = Combination(FULL, CHAIN)


def answers(speeds: Mapping[Contender, float], spread: float = 0.0) -> Callable[[Contender, int], Answer]:
    """Ten tokens each; every other question is answered faster by `spread`, of the drafting ones alone."""

    def answer(contender: Contender, question: int) -> Answer:
        speed = speeds[contender] * (1 + spread * (contender is not None and question % 2))
        return Answer(10, 10 if contender is None else 5, 10 / speed, 0.0)

    return answer


def run(speeds: Mapping[Contender, float], steps: int = 12, questions: int = 4, spread: float = 0.0) -> Race:
    left = iter(range(steps))
    return race(
        [one for one in speeds if one is not None],
        questions,
        answers(speeds, spread),
        full_size=FULL,
        go_on=lambda: next(left, None) is not None,
    )


def test_the_slow_drop_out_but_not_what_the_verdict_needs() -> None:
    done = run({None: 1.0, FAST: 4.0, GOOD: 3.5, FAIR: 3.0, SLOW: 2.0, WHOLE: 0.5})
    assert set(done.left) == {None, FAST, GOOD, WHOLE}
    assert len(done.asked(FAST)) == 4 and len(done.asked(SLOW)) == 3
    assert done.answers[None].keys() == done.answers[WHOLE].keys() == set(range(12))


def test_no_time_at_all_still_asks_everyone_a_few_questions() -> None:
    done = run({None: 1.0, FAST: 4.0, WHOLE: 2.0}, steps=0)
    assert {one: len(found) for one, found in done.answers.items()} == {None: 3, FAST: 3, WHOLE: 3}
    assert run({None: 1.0, FAST: 2.0}, steps=0, questions=1).common(None, FAST) == [0]


def test_questions_are_not_asked_for_ever() -> None:
    done = run({None: 1.0, FAST: 4.0}, steps=10_000, questions=4)
    assert len(done.answers[FAST]) == 12


def test_whoever_joins_later_answers_a_few_questions_too() -> None:
    left = iter(range(0))
    done = race(
        [WHOLE],
        4,
        answers({None: 1.0, WHOLE: 2.0, FAST: 3.0}),
        full_size=FULL,
        go_on=lambda: next(left, None) is not None,
        refine=lambda running: [FAST, WHOLE],
    )
    assert (len(done.answers[WHOLE]), len(done.answers[FAST])) == (6, 3)
    assert done.left.count(WHOLE) == 1
    assert judge(done, FULL).picked == FAST


def test_the_fastest_trim_is_picked() -> None:
    found = judge(run({None: 1.0, FAST: 4.0, GOOD: 3.0, WHOLE: 2.0}), FULL)
    assert (found.verdict, found.picked, found.speculate) == (TRIM, FAST, True)
    assert found.pick.speedup == pytest.approx(4.0) and found.pick.speedup_interval == pytest.approx((4.0, 4.0))
    assert found.alone.combination is None and found.alone.speedup == pytest.approx(1.0)
    assert [one.combination for one in found.measured] == [None, FAST, GOOD, WHOLE]
    assert "100 head rows and a chain of 3: 4.00 times the target alone (4.00 to 4.00)" in found.reason
    assert "the full head, 1,000 head rows and a chain of 3: 2.00" in found.reason
    assert found.rival is not None and found.rival.better == 0.0


def test_do_not_trim() -> None:
    found = judge(run({None: 1.0, FAST: 1.5, WHOLE: 2.0}), FULL)
    assert (found.verdict, found.picked) == (DO_NOT_TRIM, WHOLE)
    assert "trimmed, 100 head rows and a chain of 3: 1.50" in found.reason


@pytest.mark.parametrize("alone", [2.0, 5.0], ids=["as fast", "faster"])
def test_do_not_speculate(alone: float) -> None:
    found = judge(run({None: alone, FAST: 2.0, WHOLE: 1.0}), FULL)
    assert (found.verdict, found.picked, found.speculate) == (DO_NOT_SPECULATE, FAST, False)
    assert f"{2 / alone:.2f} times the target alone" in found.reason


def test_a_drafter_that_has_one_size_alone() -> None:
    found = judge(run({None: 1.0, WHOLE: 2.0}), FULL)
    assert found.verdict == DO_NOT_TRIM and found.rival is None


def test_the_chance_of_a_better_one_is_that_of_the_questions() -> None:
    """Two are right on every other question each: of equal speed over all of them, either is as likely ahead when
    questions are drawn again, save for ties. One whose rounds cost more and bring less never is."""
    done = Race(20)
    for step in range(20):
        done.answers[None][step] = Answer(10, 10, 10.0, 0.0)
        for contender, rounds, cost in ((FAST, 5 - step % 2, 1.5), (GOOD, 4 + step % 2, 1.5), (SLOW, 6, 2.0)):
            done.answers[contender][step] = Answer(10, rounds, rounds * cost, 0.0)
    assert 0.35 < chance_of_better(done, GOOD, FAST) < 0.5
    assert chance_of_better(done, SLOW, FAST) == 0.0
    assert chance_of_better(done, FAST, SLOW) == 1.0


def test_what_the_machine_does_befalls_both_sides() -> None:
    """Steps in which everything takes ten times as long change nothing; one in which only one side did, no more than
    the median does."""
    done = Race(5)
    for step in range(5):
        slow = 10.0 if step % 2 else 1.0
        done.answers[None][step] = Answer(10, 10, 10 * slow, 0.0)
        done.answers[FAST][step] = Answer(10, 5, 10 * slow * (7 if step == 4 else 1), 0.0)
    assert done.speedup(FAST, range(5)) == pytest.approx(2 / 2)
    assert done.asked(FAST)[4].cost == pytest.approx(14) and done.asked(FAST)[1].cost == pytest.approx(2)


def test_answers_to_one_question_count_once() -> None:
    done = Race(1)
    for step, seconds in enumerate((1.0, 3.0, 2.0)):
        done.answers[None][step] = Answer(10, 10, 1.0, 0.0)
        done.answers[FAST][step] = Answer(10, 10, seconds, 0.0)
    assert done.asked(FAST) == {0: (10, 10, pytest.approx(2.0))}
