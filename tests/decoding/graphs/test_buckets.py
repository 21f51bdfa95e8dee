"""Shapes that are recorded: none too small, few enough to be made again and again."""

from __future__ import annotations

from vocabtrim.decoding.graphs.buckets import ROWS, context_bucket, row_bucket


def test_rows() -> None:
    assert [row_bucket(rows) for rows in (1, 2, 3, 5, 60, 64, 65)] == [1, 2, 4, 8, 64, 64, None]


def test_contexts_hold_what_counts_and_little_more() -> None:
    assert [context_bucket(entries) for entries in (1, 256, 257, 1000, 1024, 1025, 5000)] == [
        *(256, 256, 512, 1024, 1024, 2048, 5120)
    ]
    buckets = [context_bucket(entries) for entries in range(1, 9000)]
    assert all(entries <= bucket for entries, bucket in enumerate(buckets, start=1))
    assert len(set(buckets)) == 11 and all(bucket % 256 == 0 for bucket in buckets)
    assert max(ROWS) < min(buckets)
