"""What was counted, laid along a run: every kept size with what it covers, costs and is predicted to gain.

The predictions are vocabulary/size_table.py's; here they meet what a run measured. No words, no pictures, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..calibrate.counts import TokenCounts
from ..cost import Cost
from ..errors import MismatchError
from ..measure.figures import complete, drafted_depth
from ..measure.metrics import Summary
from ..measure.records import AUTOREGRESSIVE, FULL, Run
from ..vocabulary.choose_size import rank_and_tabulate
from ..vocabulary.kept_size import MULTIPLE, best_size
from ..vocabulary.select import Ranking
from ..vocabulary.size_table import Curve, SizeRow, SizeTable

_STOPS = 160  # of the slider, about
_SMALLEST = 128  # the smallest of them is the full head by this, or less where less is wanted


@dataclass(frozen=True)
class SizePoint:
    """A kept size. predicted: from the counts. in_run: share of what the target alone wrote in the run, measured."""

    predicted: SizeRow
    in_run: float | None


@dataclass(frozen=True, eq=False)
class Sizes:
    """Every size along the counts' ranking. stops: some of them, ascending, the full head's last.

    table: predicts, for drafts as long and a full head as good as in the run. in_run: of what the target alone wrote.
    best: the size with the highest predicted MBSU; None where none beats the full head.
    """

    table: SizeTable
    in_run: Curve
    stops: tuple[int, ...]
    best: int | None

    def at(self, kept_size: int) -> SizePoint | None:
        """The point of a size; None for one that this head cannot have."""
        if kept_size == self.table.full_size:
            return SizePoint(self.table.row(None), self.in_run.share(None))
        if kept_size >= self.table.basis.covered.size:
            return None
        return SizePoint(self.table.row(kept_size), self.in_run.share(kept_size))

    @property
    def full(self) -> SizePoint:
        """The untrimmed head."""
        return SizePoint(self.table.row(None), self.in_run.share(None))

    @property
    def points(self) -> list[SizePoint]:
        """All stops."""
        return [point for point in map(self.at, self.stops) if point is not None]

    @property
    def held_out(self) -> bool:
        """Whether predictions rest on held-out tokens."""
        return self.table.basis is self.table.heldout


def sizes_of(run: Run, measured: Summary, trimmed: Iterable[int], counts: Sequence[TokenCounts]) -> Sizes | None:
    """What the counts predict for the full drafter's every size; None where it drafted nothing.

    measured: of the full drafter in the run: predictions are for drafts as long and as good as its own. trimmed: kept
    sizes that must be among the stops. counts: the primary first.
    Raises MismatchError for counts of another tokenizer than the run's, InputError for counts without a token.
    """
    _prove_same_tokenizer(run, counts)
    full = next(told for told in run.header["methods"] if told["name"] == FULL)
    draft_length = drafted_depth(full, measured)
    if not measured.drafted_at:
        return None
    available = None if full["kept_ids"] is None else np.asarray(full["kept_ids"], np.int64)
    ranking, table = rank_and_tabulate(
        counts,
        cost=Cost(**full["cost"]),
        available=available,
        block_efficiency=measured.block_efficiency,
        draft_length=draft_length,
    )
    written = [a.token_ids for answers in complete(run) for a in answers if a.method == AUTOREGRESSIVE]
    emitted = np.bincount(np.concatenate(written).astype(np.int64), minlength=counts[0].tokenizer.vocab_size)
    best = best_size(table, ranking)
    return Sizes(
        table=table,
        in_run=Curve.along(ranking.ids, emitted.astype(np.int64), available),
        stops=(*_stops(ranking, table.full_size, {best, *trimmed}), table.full_size),
        best=None if best is None or table.mbsu(best) <= table.mbsu(None) else best,
    )


def _prove_same_tokenizer(run: Run, counts: Sequence[TokenCounts]) -> None:
    expected = run.header["identity"].get("tokenizer")
    for part in counts:
        if part.tokenizer.hash != expected:
            raise MismatchError(
                "token counts were made with another tokenizer than the run",
                expected=f"tokenizer hash {expected}",
                found=part.tokenizer.hash,
                remedy="count the text with the target's own tokenizer",
            )


def _stops(ranking: Ranking, full_size: int, wanted: set[int | None]) -> list[int]:
    """Ascending sizes below the full head: evenly spread over its logarithm, what is wanted among them."""
    largest, least = min(ranking.ids.size, full_size - 1), max(len(ranking.always_keep), 1)
    smallest = max(min(full_size // _SMALLEST, *(size for size in wanted if size is not None), full_size), least)
    if smallest > largest:
        return []
    spread = np.geomspace(smallest, largest, _STOPS).astype(int)
    step = MULTIPLE if smallest >= MULTIPLE else 1
    sizes = {min(-(-int(size) // step) * step, largest) for size in spread}
    return sorted(sizes | {size for size in wanted if size is not None and least <= size <= largest})
