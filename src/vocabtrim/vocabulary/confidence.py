"""How sure a coverage is, and what more calibration text would bring.

Knows counts in blocks of documents and what repeats in them; knows nothing of rankings or costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..calibrate.blocks import Blocks, by_block
from ..calibrate.counts import Counts, TokenCounts

LEVEL = 0.95
_RESAMPLES = 2000
_FEWEST_BLOCKS = 8  # with documents in it; fewer say nothing of how documents differ


@dataclass(frozen=True)
class Interval:
    """Where a coverage lies, by the bootstrap over blocks of documents. level: share of such intervals that hold it."""

    low: float
    high: float
    level: float
    blocks: int


@dataclass(frozen=True)
class Unseen:
    """What the calibration text has not shown yet.

    good_turing: expected share of further tokens whose ids were never seen, by what was seen once.
    heldout: the share of held-out tokens whose ids calibration never saw; None where nothing is held out.
    heldout_lost: the part of it that is not kept either.
    to_halve: tokens of calibration text to add until the share is half; None where there is nothing to tell it by.
    """

    good_turing: float
    heldout: float | None
    heldout_lost: float | None
    to_halve: int | None


def coverage_interval(blocks: Sequence[Blocks], kept: npt.NDArray[np.bool_]) -> Interval | None:
    """The interval of the coverage of `kept` (target_vocab,) ids on held-out blocks; None for too few documents.

    The percentile bootstrap (Efron and Tibshirani 1993, chapter 13) of a ratio: blocks are drawn with replacement, as
    documents and not tokens are what was sampled. The same blocks give the same interval.
    """
    everything = np.ones_like(kept)
    covered = np.sum([by_block(part, kept) for part in blocks], axis=0)
    total = np.sum([by_block(part, everything) for part in blocks], axis=0)
    there = np.flatnonzero(total)
    if there.size < _FEWEST_BLOCKS:
        return None
    drawn = np.random.default_rng(0).choice(there, (_RESAMPLES, there.size))
    shares = covered[drawn].sum(axis=1) / total[drawn].sum(axis=1)
    low, high = np.quantile(shares, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), LEVEL, int(there.size))


def heldout_interval(counts: TokenCounts, kept: npt.NDArray[np.bool_]) -> Interval | None:
    """The same for counts; None also where a source was counted without blocks."""
    blocks = [source.blocks for source in counts.sources if source.blocks is not None]
    return coverage_interval(blocks, kept) if len(blocks) == len(counts.sources) else None


def unseen(counts: Counts, heldout: Counts, kept: npt.NDArray[np.bool_]) -> Unseen:
    """What calibration `counts` (target_vocab,) leave unseen, read on `heldout` counts; `kept`: the ids to keep."""
    never = counts == 0
    total = int(heldout.sum())
    return Unseen(
        good_turing=missing_mass(counts),
        heldout=int(heldout[never].sum()) / total if total else None,
        heldout_lost=int(heldout[never & ~kept].sum()) / total if total else None,
        to_halve=tokens_to_halve(counts),
    )


def missing_mass(counts: Counts) -> float:
    """The share of further tokens that will have ids not among `counts`: N1 / N (Good 1953, equation 16).

    True of tokens drawn one by one. Documents repeat their own ids, so fewer are seen once than there should be, and
    on real text two to seven times as much is missing (docs/choose.md).
    """
    return int(np.count_nonzero(counts == 1)) / max(int(counts.sum()), 1)


def tokens_to_halve(counts: Counts) -> int | None:
    """How many more tokens halve the share of tokens with unseen ids; None where no id or every id was seen once.

    By Heaps' law the number of distinct ids grows as tokens ** exponent; the exponent is about the share of distinct
    ids that were seen once, and the share of unseen ids falls as tokens ** (exponent - 1).
    """
    once, distinct = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts))
    if not 0 < once < distinct:
        return None
    tokens = int(counts.sum())
    return round(tokens * (2 ** (1 / (1 - once / distinct)) - 1))
