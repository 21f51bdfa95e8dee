"""Intervals on coverage and what calibration has not seen: known answers, and a simulation of the interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vocabtrim.calibrate.blocks import BLOCKS, BlockTally, by_block, summed
from vocabtrim.vocabulary.confidence import coverage_interval, missing_mass, tokens_to_halve, unseen

VOCAB = 10
KEPT = np.arange(VOCAB) < 5


def blocks_of(covered: list[int], lost: list[int]) -> np.ndarray:
    """Blocks with so many tokens of id 0, which is kept, and of id 9, which is not."""
    tally = BlockTally(VOCAB)
    for block, (inside, outside) in enumerate(zip(covered, lost, strict=True)):
        tally.add(block, np.array([inside, *[0] * 8, outside], np.int64))
    return tally.blocks()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(st.integers(0, BLOCKS - 1), st.lists(st.integers(0, 3), min_size=4, max_size=4))))
def test_blocks_add_up(parts: list[tuple[int, list[int]]]) -> None:
    tally, dense = BlockTally(4), np.zeros((BLOCKS, 4), np.int64)
    for block, counts in parts:
        tally.add(block, np.array(counts, np.int64))
        dense[block] += counts
    blocks = tally.blocks()
    assert (np.diff(blocks[0]) > 0).all()
    assert np.array_equal(summed(blocks, 4), dense.sum(axis=0))
    wanted = np.array([True, False, True, False])
    assert np.array_equal(by_block(blocks, wanted), dense[:, wanted].sum(axis=1))


def test_blocks_that_are_all_alike_leave_no_doubt() -> None:
    interval = coverage_interval([blocks_of([90] * 32, [10] * 32)], KEPT)
    assert interval is not None and interval.blocks == 32
    assert (interval.low, interval.high) == (pytest.approx(0.9), pytest.approx(0.9))


def test_too_few_blocks_give_no_interval() -> None:
    assert coverage_interval([blocks_of([90] * 7, [10] * 7)], KEPT) is None
    assert coverage_interval([blocks_of([90] * 8, [10] * 8)], KEPT) is not None


def test_sources_are_drawn_together() -> None:
    """Two sources whose losses cancel in every block: together each block covers the same share."""
    up, down = [80 + n for n in range(20)], [100 - n for n in range(20)]
    interval = coverage_interval([blocks_of(up, [20] * 20), blocks_of(down, [20] * 20)], KEPT)
    assert interval is not None and interval.high - interval.low < 1e-12


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """200 collections of 320 documents whose coverage varies around 0.9. A 95 % interval out of 32 blocks should hold
    0.9 about 187 times (the percentile bootstrap of 32 is a little narrow); outside 175 to 199 in one of 1,000 runs."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        lost = rng.binomial(50, rng.beta(2, 18, 320))
        block = rng.integers(0, BLOCKS, 320)
        outside, inside = (np.bincount(block, weights, BLOCKS).astype(int) for weights in (lost, 50 - lost))
        interval = coverage_interval([blocks_of(inside.tolist(), outside.tolist())], KEPT)
        assert interval is not None
        held += interval.low <= 0.9 <= interval.high
    assert 175 <= held <= 199


def test_missing_mass_is_what_was_seen_once() -> None:
    assert missing_mass(np.array([6, 3, 1, 0])) == 0.1
    assert missing_mass(np.array([6, 4, 0, 0])) == 0
    assert missing_mass(np.zeros(4, np.int64)) == 0


def test_good_turing_is_right_of_tokens_drawn_one_by_one() -> None:
    """20,000 draws from Zipf's law over 50,000 ids: the mass that was not drawn is N1 / N to a tenth of it."""
    law = 1 / np.arange(1, 50_001)
    law /= law.sum()
    counts = np.bincount(np.random.default_rng(0).choice(50_000, 20_000, p=law), minlength=50_000)
    assert missing_mass(counts) == pytest.approx(law[counts == 0].sum(), rel=0.1)


def test_tokens_to_halve_by_hand() -> None:
    """Half of the distinct ids seen once: the share falls as tokens ** -0.5, so four times as many halve it."""
    assert tokens_to_halve(np.array([1, 1, 4, 4])) == 30
    assert tokens_to_halve(np.array([2, 2])) is None
    assert tokens_to_halve(np.array([1, 1])) is None


def test_what_is_unseen_is_read_on_held_out_tokens() -> None:
    """Ids 2 and 9 were never seen and have 3 of 10 held-out tokens; id 9 with one of them is not kept."""
    counts = np.array([8, 1, *[0] * 8])
    heldout = np.array([7, 0, 2, *[0] * 6, 1])
    told = unseen(counts, heldout, KEPT)
    assert (told.heldout, told.heldout_lost) == (pytest.approx(0.3), pytest.approx(0.1))
    assert told.good_turing == pytest.approx(1 / 9)
    assert unseen(counts, np.zeros(10, np.int64), KEPT).heldout is None
