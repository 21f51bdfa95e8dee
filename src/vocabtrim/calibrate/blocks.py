"""Held-out counts in blocks of documents, so that what is measured on them can say how sure it is.

Knows documents by their hashes and counts as sparse vectors; knows nothing of intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[np.int64]

BLOCKS = 32  # documents fall into one by their hash; resampling 32 of them is coarse but enough for an interval
_COMPACTED = 1 << 16  # entries below which adding up is put off


def block_of(document_hash: int) -> int:
    """The block of a document by its hash: 0 to 31."""
    return document_hash % BLOCKS


class BlockTally:
    """Counts by block as they grow; memory as for the ids that each block has really seen."""

    def __init__(self, target_vocab: int) -> None:
        self._target_vocab = target_vocab
        self._parts: list[Blocks] = []
        self._entries, self._limit = 0, _COMPACTED

    def add(self, block: int, counts: npt.NDArray[np.int64]) -> None:
        """Add (target_vocab,) counts of documents of one block."""
        ids = np.flatnonzero(counts)
        self._parts.append(np.stack([block * self._target_vocab + ids, counts[ids]]))
        self._entries += ids.size
        self._compact()

    def _compact(self) -> None:
        if self._entries > self._limit:
            self._parts = [added_up(self._parts)]
            self._entries = self._parts[0].shape[1]
            self._limit = max(_COMPACTED, 2 * self._entries)

    def merge(self, other: BlockTally) -> None:
        """Add what was counted elsewhere."""
        self._parts.append(other.blocks())
        self._entries += self._parts[-1].shape[1]
        self._compact()

    def __getstate__(self) -> dict[str, Any]:
        """Each place once, which is what travels."""
        return self.__dict__ | {"_parts": [self.blocks()]}

    def blocks(self) -> Blocks:
        """(2, entries) int64: block * target_vocab + id, ascending, and how often the id occurs in the block."""
        return added_up(self._parts)


def added_up(parts: list[Blocks]) -> Blocks:
    """The sum of several."""
    if len(parts) < 2:
        return parts[0] if parts else np.zeros((2, 0), np.int64)
    places, occurrences = np.concatenate(parts, axis=1)
    if places.size < places.max(initial=0) // 16:
        found, where = np.unique(places, return_inverse=True)
    else:  # so many that a place for each is sooner made than they are sorted
        where, found = places, np.arange(places.max(initial=-1) + 1)
    total = np.zeros(found.size, np.int64)
    np.add.at(total, where, occurrences)
    seen = total > 0
    return np.stack([found[seen], total[seen]])


def summed(blocks: Blocks, target_vocab: int) -> npt.NDArray[np.int64]:
    """(target_vocab,) the counts of all blocks together."""
    total = np.zeros(target_vocab, np.int64)
    np.add.at(total, blocks[0] % target_vocab, blocks[1])
    return total


def by_block(blocks: Blocks, wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """(BLOCKS,) tokens of each block among the `wanted` (target_vocab,) ids."""
    block, token = np.divmod(blocks[0], wanted.size)
    total = np.zeros(BLOCKS, np.int64)
    np.add.at(total, block, blocks[1] * wanted[token])
    return total
