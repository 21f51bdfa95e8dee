"""Ratios of sums, on rounds written by hand."""

from __future__ import annotations

import pytest

from vocabtrim.decoding.rounds import Round
from vocabtrim.measure.metrics import summarise


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
