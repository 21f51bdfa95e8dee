"""Where two greedy answers part, and how near a tie that was.

In float32 a method's answer is the target's own token for token. In half precision the passes over a tree and over
one token round differently, so that two tokens with nearly equal logits may change places; the gap says which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from ..decoding.target import Target
from ..decoding.tree import Tree


def first_difference(expected: Sequence[int], found: Sequence[int]) -> tuple[int, int | None, int | None] | None:
    """(place, expected token, found token), None for an answer that has ended there; None where both are equal."""
    for place, (wanted, token) in enumerate(zip_longest(expected, found)):
        if wanted != token:
            return place, wanted, token
    return None


def logit_gap(target: Target, before: Sequence[int], expected: int, found: int) -> float:
    """Logit of `expected` less that of `found` behind the tokens `before`, read in one pass from the start.

    The target is begun anew by this: whatever was being generated with it cannot go on.
    """
    target.begin(before, len(before))
    row = target.verify(Tree.chain(before[-1])).logits[0]
    return float(row[expected].float() - row[found].float())
