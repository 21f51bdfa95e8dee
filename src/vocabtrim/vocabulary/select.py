"""From a mixture of counts to a ranking of the target's ids: which to keep first, and what says so for each.

Knows estimates and what is forced; knows nothing of weights, sizes, costs or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .kept import ALWAYS_KEEP, MERGE_ORDER, Ids, KeptVocabulary
from .mixture import Mixture


@dataclass(frozen=True, eq=False)
class Ranking:
    """Ids in the order in which they are kept; a kept vocabulary of n ids is the first n.

    ids: (ranked,) int64, unique. Ids that nothing speaks for are not in it.
    origin: (ranked,) uint8, for each the index into `origin_names` of what speaks for it: the always-keep ids,
        else the source, or the tokenizer's merge order, that gives the largest part of its estimate.
    seen: how many of them were always-keep ids or seen by some source with a weight.
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


def rank(mixture: Mixture, *, always_keep: Mapping[int, str], available: Ids | None = None) -> Ranking:
    """Rank the target's ids, the same way for the same input.

    First the always-keep ids, then by the mixture's estimate, equal ones by id. Ids that no source with a weight has
    seen are ranked as far as merge order goes.

    always_keep: ids to keep whatever was counted, each with its reason.
    available: (rows,) the ids that a head still has, where it was trimmed before; None for all.

    Raises InputError for an always-keep id outside the vocabulary, and for more sources than origins can tell apart.
    """
    names = (ALWAYS_KEEP, *(source.name for source in mixture.sources), MERGE_ORDER)
    if len(names) > np.iinfo(np.uint8).max:
        raise InputError(
            "too many sources to rank by",
            expected=f"at most {np.iinfo(np.uint8).max - 2}",
            found=len(mixture.sources),
            remedy="split by fewer values, or choose from some of the files",
        )
    estimate = mixture.estimate()
    target_vocab = estimate.size
    allowed = _mask(target_vocab, np.arange(target_vocab) if available is None else available)
    forced = _mask(target_vocab, _proven_ids(always_keep, target_vocab))

    origin = np.full(target_vocab, len(names), np.uint8)  # nothing speaks for the id
    origin[: mixture.merge_ordered] = len(names) - 1
    largest = np.zeros(target_vocab)
    for position, part in enumerate(mixture.parts(), start=1):
        origin[part > largest] = position
        largest = np.maximum(largest, part)
    origin[forced] = 0
    seen = forced | np.any([source.counts > 0 for source in mixture.sources if source.weight], axis=0)

    order = np.lexsort((np.arange(target_vocab), -estimate, ~forced))  # the last key is the strongest
    ranked = order[allowed[order] & (origin[order] < len(names))]
    return Ranking(
        ids=ranked.astype(np.int64),
        origin=origin[ranked],
        origin_names=names,
        seen=int(np.count_nonzero(seen[ranked])),
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
