"""What of a stored tensor a cut keeps: rows, columns, or codes packed into words; each as a stream of bytes.

Knows tensors and buffers; knows nothing of heads, formats or files to be written. A pick is worked out again from its
source wherever its bytes are needed, so a cut of any size passes through a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ..vocabulary.kept import Ids
from .packing import Packing, Words
from .stored import DTYPE_BITS, StoredTensor, first_difference


class Pick(Protocol):
    """ids: (n,) the rows, columns or codes that are kept, in any order. noun: what to call one of them.

    shape, blocks: of what is kept of a source. position: which of the n an element of that belongs to.
    difference: which of the n, the first, `written` does not hold as the source does; None where it holds all.
    """

    noun: ClassVar[str]

    @property
    def ids(self) -> Ids: ...
    def shape(self, source: StoredTensor) -> tuple[int, ...]: ...
    def blocks(self, source: StoredTensor) -> Iterator[memoryview]: ...
    def position(self, element: int, source: StoredTensor) -> int: ...
    def difference(self, source: StoredTensor, written: StoredTensor) -> int | None: ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Of the first axis, each any number of times."""

    ids: Ids
    noun: ClassVar[str] = "row"

    def shape(self, source: StoredTensor) -> tuple[int, ...]:
        return (self.ids.size, *source.shape[1:])

    def blocks(self, source: StoredTensor) -> Iterator[memoryview]:
        return source.blocks(self.ids)

    def position(self, element: int, source: StoredTensor) -> int:
        return element // (source.elements // source.rows)

    def difference(self, source: StoredTensor, written: StoredTensor) -> int | None:
        done = 0
        for theirs, ours in zip(self.blocks(source), written.blocks(), strict=True):
            if (at := first_difference(theirs, ours)) is not None:
                return (done + at) // source.row_bytes
            done += len(ours)
        return None


@dataclass(frozen=True, eq=False)
class Columns:
    """Of the second axis of a matrix."""

    ids: Ids
    noun: ClassVar[str] = "column"

    def shape(self, source: StoredTensor) -> tuple[int, ...]:
        return (source.shape[0], self.ids.size)

    def blocks(self, source: StoredTensor) -> Iterator[memoryview]:
        element = f"<u{DTYPE_BITS[source.dtype] // 8}"
        for block in source.blocks():
            rows = np.frombuffer(block, element).reshape(-1, source.shape[1])
            yield np.take(rows, self.ids, axis=1).data.cast("B")

    def position(self, element: int, source: StoredTensor) -> int:
        return element % self.ids.size

    def difference(self, source: StoredTensor, written: StoredTensor) -> int | None:
        theirs, ours = self.blocks(source), written.blocks(rows_at_once=source.rows_at_once)
        for expected, found in zip(theirs, ours, strict=True):
            if (at := first_difference(expected, found)) is not None:
                return self.position(at * 8 // DTYPE_BITS[source.dtype], source)
        return None


@dataclass(frozen=True, eq=False)
class Codes:
    """Of those that a matrix of 32-bit words packs along its axis.

    Along axis 0 the matrix is held in memory: there it is a zero point for each group of weights, small beside them.
    """

    ids: Ids
    packing: Packing
    axis: int
    noun: ClassVar[str] = "code"

    def shape(self, source: StoredTensor) -> tuple[int, ...]:
        words = self.packing.words_for(self.ids.size)
        return (words, source.shape[1]) if self.axis == 0 else (source.shape[0], words)

    def blocks(self, source: StoredTensor) -> Iterator[memoryview]:
        for words in self._words(source, source):
            moved = self.packing.move(words, self.ids)
            yield np.ascontiguousarray(moved.T if self.axis == 0 else moved).data.cast("B")

    def position(self, element: int, source: StoredTensor) -> int:
        """Of the first code of a word."""
        word = element // source.shape[1] if self.axis == 0 else element % self.shape(source)[1]
        return word * self.packing.codes // self.packing.words

    def difference(self, source: StoredTensor, written: StoredTensor) -> int | None:
        """Bit by bit, not by what packed them; a bit set that belongs to no code is the last code's."""
        order = np.arange(self.ids.size)
        for theirs, ours in zip(self._words(source, source), self._words(written, source), strict=True):
            bits = self.packing.bits_of(ours, order)
            differs = (bits != self.packing.bits_of(theirs, self.ids)).any(axis=0)
            if differs.any():
                return int(np.argmax(differs)) // self.packing.bits
            if int(bits.sum(dtype=np.int64)) != int(
                np.unpackbits(np.ascontiguousarray(ours).view(np.uint8)).sum(dtype=np.int64)
            ):
                return self.ids.size - 1
        return None

    def _words(self, tensor: StoredTensor, source: StoredTensor) -> Iterator[Words]:
        """(..., words) along the packed axis, as many rows at a time as of the source."""
        at_once = tensor.rows if self.axis == 0 else source.rows_at_once
        for block in tensor.blocks(rows_at_once=at_once):
            words = np.frombuffer(block, "<u4").reshape(-1, tensor.shape[1])
            yield words.T if self.axis == 0 else words
