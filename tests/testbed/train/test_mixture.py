"""The order of learning: whole documents, the shares asked for, and a cut-off run that goes on with the next batch."""

from __future__ import annotations

import json

import numpy as np

from vocabtrim.testbed.train.mixture import Batch, Mixture
from vocabtrim.testbed.train.shards import ROW, Shard

RNG = np.random.default_rng(5)


def shard(first: int, documents: int = 200) -> Shard:
    """Documents of 1 to 300 ids that count upwards from a start of their own, so that each can be known again."""
    lengths = RNG.integers(1, 300, documents)
    ids = np.concatenate([first + number + np.arange(length) for number, length in enumerate(lengths)])
    return Shard(ids.astype(np.uint16), np.ones(ids.size, np.bool_), np.cumsum([0, *lengths]))


SHARDS = {"even": shard(0), "odd": shard(20_000)}


def mixture(rows: int = 4) -> Mixture:
    return Mixture(SHARDS, {"even": 3.0, "odd": 1.0}, rows=rows, seed=7)


def whole_documents(batch: Batch) -> list[tuple[int, ...]]:
    """The documents of a batch, in row order."""
    found = []
    for ids, number in zip(batch.ids, batch.document, strict=True):
        found += [tuple(ids[number == document].tolist()) for document in range(number.max() + 1)]
    return found


def test_a_row_holds_whole_documents_from_their_own_first_place() -> None:
    known = {tuple(s.ids[a:b].tolist()) for s in SHARDS.values() for a, b in zip(s.starts, s.starts[1:], strict=False)}
    batch = mixture().next()
    assert set(whole_documents(batch)) <= known
    assert (batch.position[:, 0] == 0).all()
    new = np.diff(batch.document, axis=1) == 1
    assert (batch.position[:, 1:][new] == 0).all()
    assert not batch.answer[batch.document == -1].any()


def test_little_of_a_row_is_left_empty() -> None:
    learner = mixture()
    filled = np.mean([(learner.next().document >= 0).mean() for _ in range(20)])
    assert filled > 0.95


def test_tokens_come_in_the_shares_asked_for() -> None:
    learner = mixture()
    ids = np.concatenate([b.ids[b.document >= 0] for b in (learner.next() for _ in range(60))])
    assert abs((ids < 20_000).mean() - 0.75) < 0.02


def test_every_document_comes_once_an_epoch() -> None:
    learner = Mixture({"even": SHARDS["even"]}, {"even": 1.0}, rows=4, seed=7)
    seen: list[tuple[int, ...]] = []
    while len(seen) < 200:
        seen += whole_documents(learner.next())
    assert len(set(seen[:150])) == 150  # the pool may hold back a few of an epoch's last


def test_a_state_that_went_through_a_file_goes_on_with_the_very_next_batch() -> None:
    learner = mixture()
    for _ in range(5):
        learner.next()
    state = json.loads(json.dumps(learner.state()))
    following = [learner.next() for _ in range(3)]
    resumed = mixture()
    resumed.resume(state)
    for batch in following:
        again = resumed.next()
        assert np.array_equal(again.ids, batch.ids)
        assert np.array_equal(again.document, batch.document)


def test_another_seed_is_another_order() -> None:
    other = Mixture(SHARDS, {"even": 3.0, "odd": 1.0}, rows=4, seed=8)
    assert not np.array_equal(other.next().ids, mixture().next().ids)
    assert mixture().next().ids.shape == (4, ROW)
