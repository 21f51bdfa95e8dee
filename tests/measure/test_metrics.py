"""Ratios of sums, on rounds written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vocabtrim.decoding.rounds import Round
from vocabtrim.measure.metrics import ratio_interval, summarise


def done(emitted: int, accepted: int, drafted: int, depth: int) -> Round:
    return Round(tuple(range(emitted)), accepted, drafted, depth, None, 0.25, 0.5, 1.0)


def test_sums_and_ratios() -> None:
    """Three rounds; the second drafted only one token, the third was cut among the drafted ones."""
    summary = summarise([done(4, 3, 20, 3), done(1, 0, 1, 1), done(2, 2, 20, 4)])
    assert (summary.rounds, summary.emitted, summary.accepted, summary.drafted) == (3, 7, 5, 41)
    assert summary.block_efficiency == pytest.approx(7 / 3)
    assert summary.accepted_at == (2, 2, 1, 0)
    assert summary.drafted_at == (3, 2, 2, 1)
    assert summary.acceptance_by_depth == pytest.approx((2 / 3, 1, 1 / 2, 0))
    assert summary.tokens_per_second == pytest.approx(7 / 3)
    assert (summary.draft_seconds, summary.target_seconds) == (0.75, 1.5)


def test_the_block_efficiency_is_no_mean_of_ratios() -> None:
    """Two generations, of one long and nine short rounds: 15 / 10, not (6 + 1) / 2."""
    assert summarise([done(6, 5, 5, 5), *[done(1, 0, 5, 5)] * 9]).block_efficiency == pytest.approx(1.5)


def test_nothing_decoded() -> None:
    summary = summarise([])
    assert (summary.block_efficiency, summary.tokens_per_second, summary.acceptance_by_depth) == (0, 0, ())


def test_the_interval_of_a_ratio_holds_what_it_should() -> None:
    """Questions whose ratio is 2 with noise: of 200 intervals over 40 questions each, 95 % should hold the true one.

    Binomial: fewer than 178 of 200 hold it with probability below 0.001 where 0.94 of them should (which percentile
    intervals of so few units come to).
    """
    chance = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        passes = chance.integers(20, 60, size=40).astype(float)
        emitted = passes * chance.normal(2, 0.4, size=40)
        low, high = ratio_interval([emitted], [passes], seed=seed)
        hits += low <= 2 <= high
    assert 178 <= hits < 200


def test_an_interval_repeats_and_narrows() -> None:
    emitted, passes = [[3.0, 5.0, 8.0, 2.0]], [[1.0, 2.0, 4.0, 2.0]]
    once = ratio_interval(emitted, passes)
    assert once == ratio_interval(emitted, passes) and 1 <= once[0] < 18 / 9 < once[1] <= 3
    low, high = ratio_interval([emitted[0] * 25], [passes[0] * 25])
    assert once[0] < low < 2 < high < once[1]
    assert ratio_interval([[]], [[]]) == (0, 0)
