"""Two methods on the same questions: what is common to both cancels, and only what differs is uncertain."""

from __future__ import annotations

import pytest

from hand_runs import answer, header, method, run_of, three_way
from vocabtrim.measure.figures import complete
from vocabtrim.measure.paired import paired


def test_ratios_of_sums() -> None:
    found = paired(complete(three_way(faster=2.0)), "six", "full")
    assert found.questions == 8 and found.speed == pytest.approx(2) and found.speed_interval == pytest.approx((2, 2))
    # 8 tokens in 4 rounds, or in 5 where the question is odd: 64 / 36 against 64 / 32
    assert found.block_efficiency == pytest.approx(32 / 36)
    low, high = found.block_efficiency_interval
    assert 0.8 <= low < 32 / 36 < high <= 1


def test_what_questions_share_is_not_uncertain() -> None:
    """Questions differ a hundredfold in speed, methods by exactly two, which is what drawing both at once finds."""
    records = []
    for number in range(10):
        seconds = 1.0 if number % 2 else 100.0
        for name, slower in (("autoregressive", 1.0), ("full", 2.0), ("six", 1.0)):
            records.append(answer(f"q{number}", name, [1, 1], [(2, 1, seconds * slower)]))
    run = run_of(header(method("full"), method("six", [0, 1, 2, 3, 4, 5])), *records)
    found = paired(complete(run), "six", "full")
    assert found.speed == pytest.approx(2) and found.speed_interval == pytest.approx((2, 2))


def test_a_method_beside_itself() -> None:
    found = paired(complete(three_way()), "four", "four")
    assert (found.speed, found.block_efficiency) == (1, 1)
    assert found.speed_interval == pytest.approx((1, 1)) and found.block_efficiency_interval == pytest.approx((1, 1))
