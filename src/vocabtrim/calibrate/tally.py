"""The counts of a source as they grow: calibration, held-out in blocks, and both by label where it is split.

Knows batches of documents and their counts; knows nothing of how they were read or tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .blocks import BlockTally
from .corpus import Ledger
from .counts import Counts, SourceCounts
from .encoder import Encoder
from .sources import Source
from .split import OTHER, refuse_many


@dataclass
class Batch:
    """Documents to tokenise in one go, all of one label and one side, and the stop tokens behind them.

    block: of the held-out documents; None for calibration.
    """

    label: str | None
    block: int | None
    texts: list[str] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    documents: int = 0
    characters: int = 0


class _Tally:
    """The counts of one source, or of one label of it, as they grow."""

    def __init__(self, target_vocab: int) -> None:
        self.counts = np.zeros(target_vocab, np.int64)
        self.heldout = np.zeros(target_vocab, np.int64)
        self.blocks = BlockTally(target_vocab)
        self.documents = self.heldout_documents = 0

    def add(self, batch: Batch, counts: Counts) -> None:
        self.documents += batch.documents
        if batch.block is None:
            self.counts += counts
        else:
            self.heldout += counts
            self.heldout_documents += batch.documents
            self.blocks.add(batch.block, counts)


class Tallies:
    """The counts of one source by label; all under None where it is not split."""

    def __init__(self, target_vocab: int, split_by: str | None) -> None:
        self._target_vocab, self._split_by = target_vocab, split_by
        self._by_label: dict[str | None, _Tally] = {}

    def add(self, batch: Batch, counts: Counts) -> None:
        if batch.label not in self._by_label:
            self._by_label[batch.label] = _Tally(self._target_vocab)
            refuse_many(len(self._by_label), str(self._split_by))
        self._by_label[batch.label].add(batch, counts)

    def sources(self, source: Source, ledger: Ledger, encoder: Encoder, *, alone: bool) -> Iterator[SourceCounts]:
        """In the order of their labels. alone: a label is enough of a name; otherwise the source's stands before it."""
        if not self._by_label:
            self._by_label[None if self._split_by is None else OTHER] = _Tally(self._target_vocab)
        skipped = dict(ledger.skipped)
        for label, tally in sorted(self._by_label.items(), key=lambda item: str(item[0])):
            name = source.name if label is None else label if alone else f"{source.name}: {label}"
            details: dict[str, Any] = {
                "argument": source.argument,
                "files": ledger.files,
                "documents": tally.documents,
                "heldout_documents": tally.heldout_documents,
                "forms": dict(ledger.forms),
                "skipped": skipped,
                "encoder": encoder.way,
                "encoder_why": encoder.why,
            }
            if label is not None:
                details |= {"split_by": self._split_by, "label": label}
            yield SourceCounts(name, source.origin, tally.counts, tally.heldout, details, blocks=tally.blocks.blocks())
            skipped = {}  # what was left out has no label, and is told once
