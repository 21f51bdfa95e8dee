"""Measured sizes: what was measured stands, sizes between are laid between, and times decide where there are some."""

from __future__ import annotations

import numpy as np
import pytest

from vocabtrim.calibrate.counts import SourceCounts, TokenCounts
from vocabtrim.calibrate.tokenizer import TokenizerFacts
from vocabtrim.cost import Cost
from vocabtrim.errors import InputError
from vocabtrim.vocabulary.choose_size import DO_NOT_TRIM, TRIM, Choice, choose
from vocabtrim.vocabulary.measured import Measured, StageTimes

FULL = 1024
COST = Cost(1_000_000, 10_000, 100.0, FULL, 1_000_000, 10_000, 100)


def measured(efficiencies: dict[int, float], times: StageTimes | None = None) -> Measured:
    return Measured("a run", FULL, 4, efficiencies, times)


def test_what_was_measured_is_what_is_said() -> None:
    found = measured({128: 2.0, 512: 2.4, FULL: 2.5})
    for rows, value in found.block_efficiencies.items():
        assert found.block_efficiency(rows, lambda _: 3.0) == pytest.approx(value)


def test_between_two_sizes_the_prediction_is_corrected_by_both() -> None:
    """Predictions twice too high at 64 rows and right at 256: half as far in log size, 1.5 times too high."""
    found = measured({64: 1.0, 256: 2.0, FULL: 2.0})
    assert found.block_efficiency(128, lambda _: 2.0) == pytest.approx(1.5)
    assert found.block_efficiency(16, lambda _: 2.0) == pytest.approx(1.0)  # below all, the smallest one's correction


def test_drafting_is_a_line_over_rows() -> None:
    times = StageTimes(plain=0.010, target=0.012, drafting={256: 0.004, 1024: 0.010})
    assert times.round(256) == pytest.approx(0.016) and times.round(640) == pytest.approx(0.019)
    assert times.round(0) == pytest.approx(0.014)
    assert StageTimes(0.01, 0.012, {256: 0.004}).round(999) == pytest.approx(0.016)
    falling = StageTimes(0.01, 0.012, {256: 0.001, 1024: 0.010})
    assert falling.round(0) == 0.012  # no drafting takes less than no time


def test_without_the_full_head_nothing_can_be_compared() -> None:
    with pytest.raises(InputError, match=r"a run does not tell what the full head reaches: expected .*1,024.*128"):
        measured({128: 2.0})


def chosen(counts: TokenCounts, found: Measured | None, **more: object) -> Choice:
    return choose(counts, cost=COST, multiple=64, measured=found, **more)  # type: ignore[arg-type]


@pytest.fixture
def counts() -> TokenCounts:
    """1,024 ids, each half as frequent as the one 32 places before."""
    tally = (2.0 ** (20 - np.arange(FULL) / 32)).astype(np.int64)
    source = SourceCounts("text", "raw", tally, np.zeros(FULL, np.int64))
    return TokenCounts(TokenizerFacts("one", FULL, FULL, {0: "stop token"}), (source,), documents=1)


def test_block_efficiencies_take_the_place_of_predictions(counts: TokenCounts) -> None:
    """The smallest trim keeps nothing of the acceptance, which coverage would not have told."""
    flat = chosen(counts, measured({256: 2.5, FULL: 2.5}))
    steep = chosen(counts, measured({64: 1.0, 512: 1.1, FULL: 2.5}))
    assert flat.verdict == TRIM and flat.picked is not None and flat.picked <= 256
    assert steep.verdict == DO_NOT_TRIM or (steep.picked or 0) > 512
    assert flat.block_efficiency == pytest.approx(2.5) and not flat.assumed and flat.measured == "a run"
    row = next(row for row in flat.sizes if row.kept_size == 256)
    assert row.measured and row.predicted_block_efficiency == pytest.approx(2.5) and row.speedup is None


def test_measured_times_decide_where_there_are_some(counts: TokenCounts) -> None:
    """By bytes a small head gains; by the clock drafting takes the same with any head, so only acceptance counts."""
    efficiencies = {64: 1.5, 512: 2.4, FULL: 2.5}
    same = StageTimes(plain=0.010, target=0.012, drafting={64: 0.004, 512: 0.004, FULL: 0.004})
    by_bytes, by_clock = chosen(counts, measured(efficiencies)), chosen(counts, measured(efficiencies, same))
    assert by_bytes.verdict == TRIM and by_clock.verdict == DO_NOT_TRIM
    assert "speed-up by measured times" in by_clock.reason
    assert by_clock.sizes[-1].speedup == pytest.approx(2.5 * 0.010 / 0.016)
    slow = StageTimes(plain=0.010, target=0.040, drafting={64: 0.001, 512: 0.008, FULL: 0.02})
    assert "the target alone is faster" in chosen(counts, measured(efficiencies, slow), keep=512).reason


def test_another_drafter_and_a_second_opinion_are_refused(counts: TokenCounts) -> None:
    with pytest.raises(InputError, match="another drafter"):
        choose(counts, 64, measured=measured({FULL: 2.5}))
    with pytest.raises(InputError, match="given twice"):
        chosen(counts, measured({FULL: 2.5}), block_efficiency=3.0)
