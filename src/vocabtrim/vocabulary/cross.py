"""Each source's own list read on every source's text: which list fails which work, seen before it is served.

Knows counts and rankings; the table is plain numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..calibrate.counts import Counts, TokenCounts
from ..errors import InputError
from .choose_size import combined, one_tokenizer
from .kept import Ids
from .mixture import PRIOR_OPTION, with_weights
from .select import rank

MIXED = "all, mixed"
LOWEST = "lowest ids"
WORST = 0.05  # a cell is marked where this much more of a work's text is lost than by its own list


@dataclass(frozen=True)
class CrossRow:
    """One list. coverage: of each workload's held-out tokens, in the table's order; None where it has none."""

    name: str
    coverage: tuple[float | None, ...]


@dataclass(frozen=True)
class CrossTable:
    """Lists of one size, each on each workload.

    workloads: the sources by name. tokens: their held-out tokens. own: the row of each workload's own list.
    rows: the list of each source alone, ids it never saw in merge order; all sources mixed; the lowest ids.
    """

    kept_size: int
    workloads: tuple[str, ...]
    tokens: tuple[int, ...]
    rows: tuple[CrossRow, ...]

    def fails(self, row: CrossRow, column: int) -> bool:
        """Whether a list loses much more of a workload than the workload's own list does."""
        mine, own = row.coverage[column], self.rows[column].coverage[column]
        return mine is not None and own is not None and mine < own - WORST


def cross_coverage(counts: Sequence[TokenCounts], keep: int) -> CrossTable:
    """The table of all sources in `counts` at `keep` ids. Always-keep ids are in every list.

    Raises InputError for a size that the vocabulary does not have or where nothing was held out, MismatchError for
    counts of different tokenizers.
    """
    tokenizer = one_tokenizer(counts)
    forced = {token: reason for part in counts for token, reason in part.tokenizer.always_keep.items()}
    if not max(len(forced), 1) <= keep <= tokenizer.vocab_size:
        raise InputError(
            "no list has that size",
            expected=f"{max(len(forced), 1)} to {tokenizer.vocab_size}",
            found=keep,
            remedy="correct --keep",
        )
    heldout = [source.heldout for part in counts for source in part.sources]
    if not any(vector.any() for vector in heldout):
        raise InputError("nothing was held out to read lists on", remedy="count again with --heldout 0.1")
    mixed = combined(counts)
    lists = {source.name: with_weights(mixed, {source.name: 1.0}) for source in mixed.sources} | {MIXED: mixed}
    if mixed.merge_ordered:
        lists[LOWEST] = with_weights(mixed, {PRIOR_OPTION: 1.0})
    return CrossTable(
        kept_size=keep,
        workloads=tuple(source.name for source in mixed.sources),
        tokens=tuple(int(vector.sum()) for vector in heldout),
        rows=tuple(_row(name, rank(each, always_keep=forced).ids[:keep], heldout) for name, each in lists.items()),
    )


def _row(name: str, kept: Ids, heldout: Sequence[Counts]) -> CrossRow:
    return CrossRow(name, tuple(float(v[kept].sum() / v.sum()) if v.any() else None for v in heldout))
