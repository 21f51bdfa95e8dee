"""Documents to counts: which label and side each has, and what a source of them adds up to.

Held-out counts are kept in blocks as well. Knows documents and vectors; knows nothing of threads or machines: the
engines that count differ in those alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from .blocks import BlockTally, block_of
from .corpus import Ledger
from .counts import Counts, SourceCounts
from .encoder import Encoder
from .forms import Document
from .sources import Source
from .split import OTHER, Labeller, is_guess, refuse_many

# Characters tokenised in one call: long enough that a thread rarely comes back for Python's lock (about 60 ms of
# work), short enough that what waits for its turn stays small.
_BATCH = 1 << 20
_HELD_OUT_BATCH = 1 << 16  # the same for a block of held-out documents, of which there are many at a time
_SAMPLE = 100_000  # characters that are tokenised both ways before the fast one is trusted


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


class Tally:
    """The counts of one source, or of one label of it, as they grow.

    counts, heldout: (target_vocab,) int64.
    """

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

    def merge(self, other: Tally) -> None:
        self.counts += other.counts
        self.heldout += other.heldout
        self.blocks.merge(other.blocks)
        self.documents += other.documents
        self.heldout_documents += other.heldout_documents


class Tallies:
    """The counts of one source by label; all under None where it is not split."""

    def __init__(self, target_vocab: int, split_by: str | None) -> None:
        self._target_vocab, self._split_by = target_vocab, split_by
        self._by_label: dict[str | None, Tally] = {}

    @property
    def tokens(self) -> int:
        """Tokens counted, held-out ones included."""
        return sum(int(tally.counts.sum() + tally.heldout.sum()) for tally in self._by_label.values())

    def add(self, batch: Batch, counts: Counts) -> None:
        """Take in the counts of a batch."""
        self._of(batch.label).add(batch, counts)

    def merge(self, other: Tallies) -> None:
        """Take in what was counted elsewhere."""
        for label, tally in other._by_label.items():
            self._of(label).merge(tally)

    def _of(self, label: str | None) -> Tally:
        if label not in self._by_label:
            self._by_label[label] = Tally(self._target_vocab)
            refuse_many(len(self._by_label), str(self._split_by))
        return self._by_label[label]

    def sources(self, source: Source, counted: Counted, *, alone: bool) -> Iterator[SourceCounts]:
        """In the order of their labels. alone: a label is enough of a name; otherwise the source's stands before it."""
        if not self._by_label:
            self._of(None if self._split_by is None else OTHER)
        documents = sum(tally.documents for tally in self._by_label.values())
        for label in [
            one for one, tally in self._by_label.items() if is_guess(self._split_by, tally.documents, documents)
        ]:
            if label != OTHER:
                self._of(OTHER).merge(self._by_label.pop(label))
        skipped, ledger = dict(counted.ledger.skipped), counted.ledger
        for label, tally in sorted(self._by_label.items(), key=lambda item: str(item[0])):
            name = source.name if label is None else label if alone else f"{source.name}: {label}"
            details: dict[str, Any] = {
                "argument": source.argument,
                "files": ledger.files,
                "documents": tally.documents,
                "heldout_documents": tally.heldout_documents,
                "forms": dict(ledger.forms),
                "skipped": skipped,
                "encoder": counted.way,
                "encoder_why": counted.why,
            }
            if label is not None:
                details |= {"split_by": self._split_by, "label": label}
            yield SourceCounts(name, source.origin, tally.counts, tally.heldout, details, blocks=tally.blocks.blocks())
            skipped = {}  # what was left out has no label, and is told once


@dataclass
class Counted:
    """A source, or a part of one, after counting. way, why: how it was tokenised, as the encoder says it."""

    tallies: Tallies
    ledger: Ledger
    way: str
    why: str


def checked(found: Iterator[Document], encoder: Encoder) -> Iterable[Document]:
    """The same documents, after the encoder was checked on the first of them."""
    sample, size = [], 0
    for document in found:
        sample.append(document)
        size += sum(map(len, document.texts))
        if size >= _SAMPLE:
            break
    encoder.check([text for document in sample for text in document.texts])
    return chain(sample, found)


def is_held_out(key: str, share: float) -> bool:
    """Whether a document of that key is on the held-out side: by its hash, so that the same text always is."""
    return _digest(key) < round(share * 2**64)


def _digest(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def batches(found: Iterable[Document], heldout: float, label: Labeller | None) -> Iterator[Batch]:
    """Documents gathered by label and side until there are enough for a batch; heldout: the share of that side."""
    growing: dict[tuple[str | None, int | None], Batch] = {}
    for document in found:
        block = block_of(_digest(document.key)) if is_held_out(document.key, heldout) else None
        key = None if label is None else label(document), block
        batch = growing.setdefault(key, Batch(*key))
        batch.texts.extend(document.texts)
        batch.stops.extend(document.stops)
        batch.documents += 1
        batch.characters += sum(map(len, document.texts)) + len(document.stops)
        if batch.characters >= (_BATCH if block is None else _HELD_OUT_BATCH):
            yield growing.pop(key)
    yield from growing.values()


def count_batch(batch: Batch, encoder: Encoder) -> tuple[Batch, Counts]:
    """A batch and what its documents add up to, (target_vocab,) int64, stop tokens included."""
    counts = encoder.count(batch.texts)
    np.add.at(counts, np.asarray(batch.stops, np.int64), 1)
    return batch, counts


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
