"""The order in which documents are learned: categories by weight, each category's documents in shuffled epochs.

Everything follows from the seed and a small state, so that a run that was cut off goes on with the very next batch.
Knows shards and rows; knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .shards import ROW, Shard

_POOL = 48  # documents to choose from when a row is filled: enough to leave few tokens of a row empty


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of whole documents, one after another.

    ids: int64 (rows, ROW), padded with 0. answer: bool (rows, ROW), whether the target would write the token.
    document: int64 (rows, ROW), the document's number in its row, -1 where padded. position: int64 (rows, ROW), the
    place inside its document.
    """

    ids: npt.NDArray[np.int64]
    answer: npt.NDArray[np.bool_]
    document: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]


class Mixture:
    """Batches without end. weights: category -> share of the tokens."""

    def __init__(self, shards: Mapping[str, Shard], weights: Mapping[str, float], *, rows: int, seed: int) -> None:
        self._shards, self._rows, self._seed = shards, rows, seed
        self._names = sorted(weights)
        self._weights = np.array([weights[name] for name in self._names])
        self._weights /= self._weights.sum()
        self._drawn = dict.fromkeys(self._names, 0)  # documents
        self._tokens = np.zeros(len(self._names))
        self._pool: list[tuple[str, int]] = []
        self._orders: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def state(self) -> dict[str, Any]:
        """What `resume` takes."""
        return {
            "drawn": dict(self._drawn),
            "tokens": self._tokens.tolist(),
            "weights": self._weights.tolist(),
            "pool": list(self._pool),
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Other weights than then hold from now on, and make up for nothing."""
        self._drawn = dict(state["drawn"])
        same = state.get("weights") == self._weights.tolist()
        self._tokens = np.array(state["tokens"]) if same else np.zeros(len(self._names))
        self._pool = [(str(name), int(number)) for name, number in state["pool"]]

    def next(self) -> Batch:
        """The next `rows` rows."""
        batch = Batch(
            np.zeros((self._rows, ROW), np.int64),
            np.zeros((self._rows, ROW), np.bool_),
            np.full((self._rows, ROW), -1, np.int64),
            np.zeros((self._rows, ROW), np.int64),
        )
        for row in range(self._rows):
            self._fill(batch, row)
        return batch

    def epochs(self) -> dict[str, float]:
        """How often each category has been seen."""
        return {name: self._drawn[name] / len(self._shards[name]) for name in self._names}

    def _fill(self, batch: Batch, row: int) -> None:
        """Put the longest document of the pool that fits into the row, as long as one does."""
        at = number = 0
        while True:
            while len(self._pool) < _POOL:
                self._pool.append(self._draw())
            fitting = [(self._length(item), -i) for i, item in enumerate(self._pool) if self._length(item) <= ROW - at]
            if not fitting:
                return
            # The oldest opens the row, so that none waits for ever; behind it the longest that fits.
            chosen = 0 if at == 0 else -max(fitting)[1]
            name, index = self._pool.pop(chosen)
            shard = self._shards[name]
            span = slice(int(shard.starts[index]), int(shard.starts[index + 1]))
            size = span.stop - span.start
            batch.ids[row, at : at + size] = shard.ids[span]
            batch.answer[row, at : at + size] = shard.answer[span]
            batch.document[row, at : at + size] = number
            batch.position[row, at : at + size] = np.arange(size)
            at, number = at + size, number + 1

    def _draw(self) -> tuple[str, int]:
        """The next document of the category that is furthest behind its share."""
        behind = int(np.argmin(self._tokens / self._weights))
        name = self._names[behind]
        epoch, place = divmod(self._drawn[name], len(self._shards[name]))
        item = name, int(self._order(name, epoch)[place])
        self._drawn[name] += 1
        self._tokens[behind] += self._length(item)
        return item

    def _order(self, name: str, epoch: int) -> npt.NDArray[np.int64]:
        if (name, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != name}
            rng = np.random.default_rng([self._seed, epoch, *name.encode()])
            self._orders[name, epoch] = rng.permutation(len(self._shards[name]))
        return self._orders[name, epoch]

    def _length(self, item: tuple[str, int]) -> int:
        starts = self._shards[item[0]].starts
        return int(starts[item[1] + 1] - starts[item[1]])
