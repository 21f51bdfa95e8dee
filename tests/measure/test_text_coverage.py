"""Coverage by hand: three small outputs and a kept vocabulary of four ids."""

from __future__ import annotations

import numpy as np
import pytest

from vocabtrim.measure.recording import Recorded
from vocabtrim.measure.text_coverage import STRETCHES, CoverageTally, Covered, Lost, TextCoverage

KEPT = np.array([1, 2, 3, 10])
OUTPUTS = [
    Recorded("a", prompt=(5, 1), output=(1, 2, 5, 5, 6), category="x", source="one"),
    Recorded("b", prompt=(6,), output=(10, 11, 6), category="y", source="one"),
    Recorded("c", prompt=(9,), output=(3, 5), category="x", source="two"),
]


@pytest.fixture
def coverage() -> TextCoverage:
    tally = CoverageTally(KEPT)
    for one in OUTPUTS:
        tally.add(one)
    return tally.result()


def test_coverage_overall_and_by_its_parts(coverage: TextCoverage) -> None:
    assert coverage.overall == Covered(tokens=10, covered=4) and coverage.overall.share == 0.4
    assert coverage.by_source == {"one": Covered(8, 3), "two": Covered(2, 1)}
    assert coverage.by_category == {"x": Covered(7, 3), "y": Covered(3, 1)}
    assert coverage.by_stretch == {"1-16": Covered(10, 4)}


def test_lost_tokens_and_those_that_stand_in_their_own_prompt(coverage: TextCoverage) -> None:
    """5 three times, twice behind a prompt with a 5; 6 twice, once behind a prompt with a 6; 11 once."""
    assert coverage.lost == (Lost(5, 3, 2), Lost(6, 2, 1), Lost(11, 1, 0))
    assert coverage.lost_in_prompt == 3 / 6


def test_stretches_of_the_output() -> None:
    """Token n of 2,000 is id n; even ids are kept."""
    tally = CoverageTally(np.arange(0, 2000, 2))
    tally.add(Recorded("long", (0,), tuple(range(2000))))
    found = tally.result().by_stretch
    assert list(found) == ["1-16", "17-64", "65-256", "257-1024", "1025-"]
    lengths = [end - start for start, end in zip(STRETCHES, (*STRETCHES[1:], 2000), strict=True)]
    assert list(found.values()) == [Covered(length, length // 2) for length in lengths]


def test_all_ids_and_no_text() -> None:
    whole = CoverageTally(None)
    whole.add(OUTPUTS[0])
    assert whole.result().overall == Covered(5, 5) and whole.result().lost_in_prompt == 0
    assert CoverageTally(KEPT).result().overall.share == 1
