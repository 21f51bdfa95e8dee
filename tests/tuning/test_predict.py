"""Stage times and rounds -> tokens per second, on numbers whose answers can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import vocabtrim as vt
from vocabtrim.tuning.predict import MOST_SIZES, all_rounds, corrected, finalists, predictions
from vocabtrim.tuning.reach import NEVER, Reached, Rounds, nothing_reached
from vocabtrim.tuning.shapes import Combination, Shape
from vocabtrim.tuning.stages import Samples, StageTimes, rising

FULL, HALF, SMALL = 1000, 500, 100
CHAINS = [Shape(length, 1, length + 1) for length in (1, 2, 4)]
TREE = Shape(2, 2, 6)


def times() -> StageTimes:
    """A pass over n rows takes 10 + n; a draft step 1 at 100 rows and 10 at 1,000; a tree's step as much again."""
    steps = {size: size / 100 for size in (SMALL, FULL)}
    chain = {size: {1: step, 4: 4 * step} for size, step in steps.items()}
    tree = {size: {1: 2 * step, 4: 8 * step} for size, step in steps.items()}
    passes = {2: 12.0, 8: 18.0}
    return StageTimes(alone=11.0, drafting={1: chain, 2: tree}, passes={True: passes, False: passes})


def always_right(places: int, depth: int = 4) -> Reached:
    needed = nothing_reached(places, depth)
    for limit in range(depth):
        needed[:, limit, : limit + 1] = np.arange(2, limit + 3)
    return Reached(needed, np.arange(places - 1, -1, -1), places)


def test_a_round_is_laid_between_what_was_measured() -> None:
    assert times().round(Combination(FULL, CHAINS[1])) == pytest.approx(2 * 10 + 13)
    assert times().round(Combination(550, CHAINS[2])) == pytest.approx(4 * 5.5 + 15)
    assert times().round(Combination(SMALL, TREE)) == pytest.approx(2 * 2 + 16)


def test_outside_what_was_measured_the_nearest_counts() -> None:
    assert times().verify(Shape(8, 1, 20)) == 18.0


def test_the_fastest_comes_first() -> None:
    """Every draft is right: a chain of four emits five tokens a round, with steps of 1 in 4 + 15 seconds."""
    reached = {(number, branching): [always_right(20)] for number in (0, 1) for branching in (1, 2)}
    rounds = all_rounds(reached, [FULL, SMALL], [*CHAINS, TREE])
    found = predictions(rounds, times())
    assert len(found) == 8
    assert found[0].combination == Combination(SMALL, CHAINS[2])
    assert found[0].rounds == Rounds(4, 20) and found[0].tokens_per_second == pytest.approx(5 / 19)
    assert [one.tokens_per_second for one in found] == sorted((one.tokens_per_second for one in found), reverse=True)


def test_rounds_of_several_generations_add_up() -> None:
    wrong = replace(always_right(20), needed=np.full((20, 4, 4), NEVER, np.int16))
    rounds = all_rounds({(0, 1): [always_right(20), wrong]}, [FULL], CHAINS[2:])
    assert rounds == {Combination(FULL, CHAINS[2]): Rounds(24, 40)}
    assert Rounds(24, 40).block_efficiency == pytest.approx(40 / 24)


def test_finalists_are_the_best_of_their_groups_and_the_full_head() -> None:
    rounds = {
        Combination(size, shape): Rounds(10, 10 * (shape.draft_length + 1))
        for size in (FULL, HALF, SMALL, 200, 300)
        for shape in (*CHAINS, TREE)
    }
    found = predictions(rounds, times())
    chosen = finalists(found, FULL)
    groups = [(one.kept_size, one.shape.branching) for one in chosen]
    assert chosen[0] == found[0].combination
    assert len(set(groups)) == len(groups) == 6
    assert FULL in {size for size, _ in groups}
    assert len({size for size, _ in groups} - {FULL}) == MOST_SIZES
    alone = finalists([one for one in found if one.combination.kept_size == FULL], FULL)
    assert [one.kept_size for one in alone] == [FULL, FULL]


def test_what_a_live_run_showed_of_the_stages_changes_the_order_in_its_group() -> None:
    """Drafting turns out five times as slow: the short chain wins its group then."""
    rounds = {Combination(SMALL, shape): Rounds(10, 10 * (shape.draft_length + 1)) for shape in CHAINS}
    found = predictions(rounds, times())
    assert found[0].combination.shape == CHAINS[2]
    slow = corrected(found, (SMALL, 1), times=times(), draft_factor=20.0, pass_factor=1.0)
    assert slow[0].combination.shape == CHAINS[0]
    same = corrected(found, (SMALL, 1), times=times(), draft_factor=1.0, pass_factor=1.0)
    assert [one.combination for one in same] == [one.combination for one in found]
    assert corrected(found, (FULL, 1), times=times(), draft_factor=1.0, pass_factor=1.0) == []


def timed(draft_seconds: float, other: float, *, drafted: int) -> vt.Round:
    return vt.Round((1,), 0, drafted, 1, None, draft_seconds, other, draft_seconds + other)


def test_samples_become_medians() -> None:
    samples = Samples()
    samples.alone += [1.0, 2.0, 9.0]
    for draft_seconds in (0.1, 0.2, 5.0):
        samples.add(FULL, TREE, timed(draft_seconds, 1.0, drafted=4))
    samples.add(FULL, CHAINS[0], timed(0.3, 0.7, drafted=1))
    found = samples.times()
    assert found.alone == 2.0
    assert found.drafting == {2: {FULL: {2: 0.2}}, 1: {FULL: {1: 0.3}}}
    assert found.passes[False] == {5: pytest.approx(1.0)} and found.passes[True] == {2: pytest.approx(0.7)}
    assert samples.rounds == 7


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        ({1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.0}),
        ({1: 3.0, 2: 1.0}, {1: 2.0, 2: 2.0}),
        ({1: 1.0, 2: 5.0, 3: 3.0, 4: 4.0, 5: 9.0}, {1: 1.0, 2: 4.0, 3: 4.0, 4: 4.0, 5: 9.0}),
    ],
)
def test_times_that_fall_are_noise(measured: dict[int, float], expected: dict[int, float]) -> None:
    assert rising(measured) == expected
