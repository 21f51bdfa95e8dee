"""Documents to counts: which side each is on, and what a batch of them adds up to.

Knows documents and vectors; knows nothing of threads or machines: the engines that count differ in those alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from .corpus import Ledger
from .counts import Counts
from .encoder import Encoder
from .forms import Document

# Characters tokenised in one call: long enough that a thread rarely comes back for Python's lock (about 60 ms of
# work), short enough that what waits for its turn stays small.
_BATCH = 1 << 20
_SAMPLE = 100_000  # characters that are tokenised both ways before the fast one is trusted


@dataclass
class Batch:
    """Documents to tokenise in one go: calibration and held-out texts, and the stop tokens behind them."""

    texts: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    stops: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    documents: list[int] = field(default_factory=lambda: [0, 0])
    characters: int = 0


@dataclass
class Tally:
    """Counts as they grow; of `documents`, and of a batch's parts, index 0 is calibration, 1 is held-out.

    counts, heldout: (target_vocab,) int64.
    """

    counts: Counts
    heldout: Counts
    documents: list[int] = field(default_factory=lambda: [0, 0])

    @classmethod
    def empty(cls, vocab_size: int) -> Tally:
        """Nothing counted yet."""
        return cls(np.zeros(vocab_size, np.int64), np.zeros(vocab_size, np.int64))

    @property
    def tokens(self) -> int:
        """Tokens counted, held-out ones included."""
        return int(self.counts.sum() + self.heldout.sum())

    def add(self, other: Tally) -> None:
        """Take in what was counted elsewhere."""
        self.counts += other.counts
        self.heldout += other.heldout
        self.documents = [before + more for before, more in zip(self.documents, other.documents, strict=True)]


@dataclass
class Counted:
    """A source, or a part of one, after counting. way, why: how it was tokenised, as the encoder says it."""

    tally: Tally
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
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < round(share * 2**64)


def batches(found: Iterable[Document], heldout: float) -> Iterator[Batch]:
    """Documents in batches, each put on its side by a hash of its key; heldout: the share of the second side."""
    batch = Batch()
    for document in found:
        side = int(is_held_out(document.key, heldout))
        batch.texts[side].extend(document.texts)
        batch.stops[side].extend(document.stops)
        batch.documents[side] += 1
        batch.characters += sum(map(len, document.texts)) + len(document.stops)
        if batch.characters >= _BATCH:
            yield batch
            batch = Batch()
    yield batch


def count_batch(batch: Batch, encoder: Encoder) -> Tally:
    """What the documents of a batch add up to, stop tokens included."""
    calibration, heldout = (encoder.count(texts) for texts in batch.texts)
    for counts, stops in zip((calibration, heldout), batch.stops, strict=True):
        np.add.at(counts, np.asarray(stops, np.int64), 1)
    return Tally(calibration, heldout, batch.documents)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
