"""Which shapes are recorded: a pass of any size goes into the next larger of a few.

Pure: knows numbers alone. A graph has fixed shapes, so rows are filled up with padding and attention looks at a
context that is longer than what was read, under a mask.
"""

from __future__ import annotations

ROWS = (1, 2, 4, 8, 16, 32, 64)
_SMALLEST_CONTEXT, _STEP = 256, 1024  # a step of Llama-3.1-8B's keys and values is under a hundredth of its weights


def row_bucket(rows: int) -> int | None:
    """Rows of the graph that a pass of `rows` tokens goes into; None for those that no graph is made for.

    Reading more tokens at once waits for arithmetic rather than for launches, and is done the plain way.
    """
    return next((bucket for bucket in ROWS if bucket >= rows), None)


def context_bucket(entries: int) -> int:
    """Entries that attention looks at where `entries` of them count: 256, 512, 1024, and on by 1024."""
    if entries > _STEP:
        return -(-entries // _STEP) * _STEP
    return max(_SMALLEST_CONTEXT, 1 << (entries - 1).bit_length())
