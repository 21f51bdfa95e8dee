"""From token counts to a ranking of the target's ids: which to keep first, and what says so for each.

Knows vectors of counts and the order they are trusted in; knows nothing of sizes, costs or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibrate.counts import Counts
from ..errors import InputError
from .kept import ALWAYS_KEEP, MERGE_ORDER, Ids, KeptVocabulary


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ids in the order in which they are kept; a kept vocabulary of n ids is the first n.

    ids: (ranked,) int64, unique. Ids that nothing speaks for are not in it.
    origin: (ranked,) uint8, for each the index into `origin_names` of what put it there: the always-keep ids, else
        the first source of counts that saw it, else the tokenizer's merge order.
    seen: how many of them were always-keep ids or seen by some source.
    always_keep: the forced ids, each with its reason. unavailable: those that the head no longer has.
    """

    ids: Ids
    origin: npt.NDArray[np.uint8]
    origin_names: tuple[str, ...]
    seen: int
    always_keep: Mapping[int, str]
    unavailable: Mapping[int, str]

    def kept(self, size: int, target_vocab: int, tokenizer_hash: str, provenance: Mapping[str, Any]) -> KeptVocabulary:
        """The first `size` ids as a kept vocabulary. `size` must lie between the always-keep ids and all ranked."""
        order = np.argsort(self.ids[:size])
        return KeptVocabulary(
            ids=self.ids[:size][order],
            target_vocab=target_vocab,
            tokenizer_hash=tokenizer_hash,
            origin=self.origin[:size][order],
            origin_names=self.origin_names,
            always_keep=self.always_keep,
            provenance=provenance,
        )


def rank(
    sources: Sequence[tuple[str, Counts]],
    *,
    always_keep: Mapping[int, str],
    merge_ordered: int = 0,
    available: Ids | None = None,
) -> Ranking:
    """Rank the target's ids, the same way for the same input.

    First the always-keep ids, then by the counts of the first source; ids that it never saw, and ties, go by the next
    source, and so on; then the leading `merge_ordered` ids by merge order, in which byte-level BPE found the frequent
    ones first; equal ones by id.

    sources: (name, (target_vocab,) int64 counts) in the order of trust: the text most like the work first.
    merge_ordered: how many leading ids follow merge order; 0 leaves out every id that nobody has seen.
    available: (rows,) the ids that a head still has, where it was trimmed before; None for all.

    Raises InputError for an always-keep id outside the vocabulary.
    """
    target_vocab = sources[0][1].size
    allowed = _mask(target_vocab, np.arange(target_vocab) if available is None else available)
    forced = _mask(target_vocab, _proven_ids(always_keep, target_vocab))

    names = (ALWAYS_KEEP, *_unique([name for name, _ in sources]), MERGE_ORDER)
    origin = np.full(target_vocab, len(names), np.uint8)  # nothing speaks for the id
    origin[:merge_ordered] = len(names) - 1
    for position, (_, counts) in reversed(list(enumerate(sources, start=1))):
        origin[counts > 0] = position
    origin[forced] = 0

    ids = np.arange(target_vocab)
    by_trust = [-counts for _, counts in sources]
    order = np.lexsort((ids, *reversed(by_trust), ~forced))  # the last key is the strongest; merge order is id order
    ranked = order[allowed[order] & (origin[order] < len(names))]
    return Ranking(
        ids=ranked.astype(np.int64),
        origin=origin[ranked],
        origin_names=names,
        seen=int(np.count_nonzero(origin[ranked] < len(names) - 1)),
        always_keep={token: reason for token, reason in always_keep.items() if allowed[token]},
        unavailable={token: reason for token, reason in always_keep.items() if not allowed[token]},
    )


def _mask(target_vocab: int, ids: Ids) -> npt.NDArray[np.bool_]:
    """(target_vocab,) True at `ids`; ids beyond the tokenizer are a head's padded rows and left out."""
    mask = np.zeros(target_vocab, bool)
    mask[ids[ids < target_vocab]] = True
    return mask


def _proven_ids(always_keep: Mapping[int, str], target_vocab: int) -> Ids:
    ids = np.array(sorted(always_keep), np.int64)
    outside = ids[(ids < 0) | (ids >= target_vocab)]
    if outside.size:
        raise InputError(
            f"always-keep id {outside[0]} lies outside the target's vocabulary",
            expected=f"0 to {target_vocab - 1}",
            found=int(outside[0]),
            remedy="correct --always-keep",
        )
    return ids


def _unique(names: Sequence[str]) -> list[str]:
    """Names that tell the sources apart, also from the two origins that are no source."""
    taken = {ALWAYS_KEEP, MERGE_ORDER}
    unique = []
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name} ({number})"
        taken.add(free)
        unique.append(free)
    return unique
