"""What each kept size would cover, cost and gain: the rows of the table that a size is chosen from.

Knows coverage curves along a ranking and how they become a predicted block efficiency; does not choose. The formula
and what it assumes stand in docs/choose.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..calibrate.counts import Counts, TokenCounts
from ..cost import Cost, chain_acceptance_rate, chain_block_efficiency, mbsu
from .kept import Ids
from .measured import Measured

# What is taken for a drafter that nobody measured: EAGLE drafters reach 0.75 to 0.85 on chat, mathematics and code
# (block efficiency 3.1 to 3.6 with four drafted tokens, VocabTrim).
ASSUMED_ACCEPTANCE_RATE = 0.8
DRAFT_LENGTH = 4


@dataclass(frozen=True)
class SizeRow:
    """One kept size. A figure is None where it cannot be known: no held-out text, or no drafter to cost.

    coverage, heldout_coverage: share of the primary counts' tokens inside the kept ids; by_source: of each source.
    measured: whether the block efficiency was measured at this very size. speedup: over plain decoding, by measured
    stage times. mbsu: by bytes read. mbsu_parameters: in the paper's mode, parameters with the input embedding.
    """

    kept_size: int
    coverage: float | None
    heldout_coverage: float | None
    coverage_by_source: Mapping[str, float | None]
    heldout_coverage_by_source: Mapping[str, float | None]
    head_bytes: int | None = None
    draft_step_bytes: int | None = None
    predicted_block_efficiency: float | None = None
    mbsu: float | None = None
    mbsu_parameters: float | None = None
    measured: bool = False
    speedup: float | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """Tokens of one vector of counts that the first n ranked ids cover.

    covered: (ranked + 1,) int64, tokens covered by the first n ids. full: by the untrimmed head. total: all tokens.
    """

    covered: Counts
    full: int
    total: int

    @classmethod
    def along(cls, ranked: Ids, counts: Counts, available: Ids | None) -> Curve:
        """The curve of `counts` (target_vocab,) along `ranked` (ranked,)."""
        inside = counts if available is None else counts[available[available < counts.size]]
        covered = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[ranked])])
        return cls(covered, int(inside.sum()), int(counts.sum()))

    def share(self, kept_size: int | None) -> float | None:
        """Coverage of a kept size; of the untrimmed head for None. None where there are no tokens."""
        if self.total == 0:
            return None
        return (self.full if kept_size is None else int(self.covered[kept_size])) / self.total

    def smallest(self, share: float) -> int | None:
        """The smallest kept size that covers `share` of the tokens; None where none does."""
        wanted = share * self.total * (1 - 1e-12)  # 0.99 has no exact binary form
        size = int(np.searchsorted(self.covered, wanted))
        return size if size < self.covered.size else None


@dataclass(frozen=True, eq=False)
class SizeTable:
    """Predicts any kept size along one ranking.

    basis: the curve that predictions rest on, the primary counts' held-out part where there is one. measured: what
    corrects them, None where nothing was.
    """

    in_sample: Curve
    heldout: Curve
    by_source: Mapping[str, tuple[Curve, Curve]]
    cost: Cost | None
    full_size: int
    acceptance_rate: float
    draft_length: int
    measured: Measured | None = None

    @property
    def basis(self) -> Curve:
        return self.heldout if self.heldout.total else self.in_sample

    def row(self, kept_size: int | None) -> SizeRow:
        """Everything about one kept size; None for the untrimmed head."""
        size = self.full_size if kept_size is None else kept_size
        row = SizeRow(
            kept_size=size,
            coverage=self.in_sample.share(kept_size),
            heldout_coverage=self.heldout.share(kept_size),
            coverage_by_source={name: curve.share(kept_size) for name, (curve, _) in self.by_source.items()},
            heldout_coverage_by_source={name: curve.share(kept_size) for name, (_, curve) in self.by_source.items()},
        )
        if self.cost is None:
            return row
        block_efficiency = self.block_efficiency(kept_size)
        cost_ratio_parameters = self.cost.cost_ratio(size, "parameters")
        return replace(
            row,
            head_bytes=self.cost.head_bytes(size),
            draft_step_bytes=self.cost.draft_step_bytes(size),
            predicted_block_efficiency=block_efficiency,
            mbsu=self.mbsu(kept_size),
            mbsu_parameters=mbsu(block_efficiency, cost_ratio_parameters, self.cost.steps(self.draft_length)),
            measured=self.measured is not None and size in self.measured.block_efficiencies,
            speedup=self.speedup(kept_size),
        )

    def block_efficiency(self, kept_size: int | None) -> float:
        """As measured, where it was; laid between what was measured; otherwise predicted."""
        if self.measured is None:
            return self._predicted(kept_size)
        rows = self.full_size if kept_size is None else kept_size
        return self.measured.block_efficiency(rows, lambda size: self._predicted(self._kept(size)))

    def _kept(self, rows: int) -> int | None:
        """A size along the ranking; None for one beyond it, which only the untrimmed head has."""
        return rows if rows < min(self.full_size, self.basis.covered.size) else None

    def _predicted(self, kept_size: int | None) -> float:
        """The full head's acceptance rate times the share of the tokens it covers that stay covered."""
        if kept_size is None or not self.basis.full:
            return chain_block_efficiency(self.acceptance_rate, self.draft_length)
        stays = int(self.basis.covered[kept_size]) / self.basis.full
        return chain_block_efficiency(self.acceptance_rate * stays, self.draft_length)

    def speedup(self, kept_size: int | None) -> float | None:
        """Over plain decoding, by measured stage times; None where nothing was timed."""
        if self.measured is None:
            return None
        rows = self.full_size if kept_size is None else kept_size
        return self.measured.speedup(rows, self.block_efficiency(kept_size))

    def worth(self, kept_size: int | None) -> float:
        """What sizes are compared by: the speed-up by measured times, or MBSU where nothing was timed."""
        speedup = self.speedup(kept_size)
        return self.mbsu(kept_size) if speedup is None else speedup

    def mbsu(self, kept_size: int | None) -> float:
        """Predicted by bytes read; None for the untrimmed head. Needs a cost."""
        assert self.cost is not None
        cost_ratio = self.cost.cost_ratio(self.full_size if kept_size is None else kept_size)
        return mbsu(self.block_efficiency(kept_size), cost_ratio, self.cost.steps(self.draft_length))


def size_table(
    counts: Sequence[TokenCounts],
    ranked: Ids,
    *,
    available: Ids | None,
    cost: Cost | None,
    block_efficiency: float | None,
    draft_length: int,
    measured: Measured | None = None,
) -> SizeTable:
    """The table of a ranking: `counts` as ranked, the primary first; held-out parts are only ever measured on.

    ranked: (ranked,) ids, first kept first. available: (rows,) ids of a head that was trimmed before, None for all.
    block_efficiency: of the drafter with its head as it is, where measured; None to assume.
    Raises InputError for a block efficiency that chains of `draft_length` cannot have.
    """

    def curve(vector: Counts) -> Curve:
        return Curve.along(ranked, vector, available)

    by_source: dict[str, tuple[Curve, Curve]] = {}
    for part in counts:
        for source in part.sources:
            name = source.name if source.name not in by_source else f"{source.name} ({len(by_source) + 1})"
            by_source[name] = curve(source.counts), curve(source.heldout)
    if cost is not None:
        full_size = cost.full_head_rows
    else:
        full_size = counts[0].tokenizer.vocab_size if available is None else available.size
    return SizeTable(
        in_sample=curve(counts[0].counts),
        heldout=curve(counts[0].heldout),
        by_source=by_source,
        cost=cost,
        full_size=full_size,
        acceptance_rate=ASSUMED_ACCEPTANCE_RATE
        if block_efficiency is None
        else chain_acceptance_rate(block_efficiency, draft_length),
        draft_length=draft_length,
        measured=measured,
    )
