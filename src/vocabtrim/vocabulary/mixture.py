"""How probable each id is in the work, estimated from every source of counts and the tokenizer's merge order.

Linear interpolation: the estimate is a weighted sum of what each source says. Knows vectors of counts and weights;
knows nothing of files, sizes or which ids are kept. Which weights, and why these, stands in docs/choose.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..calibrate.counts import Counts
from ..errors import InputError
from .kept import ALWAYS_KEEP, MERGE_ORDER

Probabilities = npt.NDArray[np.float64]

PRIOR_OPTION = "merge-order"  # what `--weight` calls the prior

# The share of the estimate that is left to work the primary does not speak for, and merge order's part of that share.
OTHER_WORK = 0.3
_PRIOR_PART = 2 / 3

# The Zipf-Mandelbrot law, p(rank) ~ 1 / (rank + shift). Fits to eleven texts gave shifts of 100 to 300.
_SHIFT = 300
_ROUNDS = 60  # of expectation and maximisation; the weights stand still in the third decimal after some 30


@dataclass(frozen=True, eq=False)
class Source:
    """Counts that speak for ids. counts: (target_vocab,) int64. weight: its share of the estimate, 0 to 1."""

    name: str
    counts: Counts
    weight: float = 0.0


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sources and merge order with their weights, which sum to 1.

    merge_ordered: how many leading ids follow merge order; 0: no prior, and ids that nobody has seen are left out.
    prior_weight: that of merge order. At 0 it is a last resort: ids that nobody has seen come last, by their number.
    how: where the weights come from, in words.
    """

    sources: tuple[Source, ...]
    merge_ordered: int
    prior_weight: float
    how: str

    @property
    def weights(self) -> dict[str, float]:
        """By name, merge order last where there is one."""
        told = {source.name: source.weight for source in self.sources}
        return told | ({MERGE_ORDER: self.prior_weight} if self.merge_ordered else {})

    @property
    def weights_in_order(self) -> list[float]:
        """The sources' weights, then merge order's."""
        return [*(source.weight for source in self.sources), self.prior_weight]

    def rows(self) -> list[Probabilities]:
        """(target_vocab,) each: what every source says, then what merge order says."""
        said = [relative(source.counts) for source in self.sources]
        return [*said, prior(self.merge_ordered, self.sources[0].counts.size)]

    def parts(self) -> Iterator[Probabilities]:
        """(target_vocab,) each: what every source adds to the estimate, then what merge order adds."""
        for weight, row in zip(self.weights_in_order, self.rows(), strict=True):
            yield weight * row

    def estimate(self) -> Probabilities:
        """(target_vocab,) the estimated probability of each id. Added in order, so that equal ids stay equal."""
        total = np.zeros(self.sources[0].counts.size)
        for part in self.parts():
            total += part
        return total

    def weighted(self, weights: Sequence[float], how: str) -> Mixture:
        """The same with other weights: one per source, then merge order's; scaled to sum to 1."""
        shares = [weight / sum(weights) for weight in weights]
        sources = [replace(source, weight=share) for source, share in zip(self.sources, shares, strict=False)]
        return replace(self, sources=tuple(sources), prior_weight=shares[-1], how=how)


def relative(counts: Counts) -> Probabilities:
    """Counts as shares of their sum; all 0 where nothing was counted."""
    return counts / max(int(counts.sum()), 1)


def prior(merge_ordered: int, target_vocab: int) -> Probabilities:
    """(target_vocab,) what merge order says of each id: Zipf's law with Mandelbrot's shift, 0 from `merge_ordered` on.

    A byte-level BPE tokenizer found the frequent pairs first, so an id is about its rank in a large corpus. The first
    256 ids are single bytes, most of them rare, which is what the shift allows for.
    """
    law = np.zeros(target_vocab)
    law[:merge_ordered] = 1 / (np.arange(merge_ordered) + _SHIFT)
    return law / (law.sum() or 1)


def default_mixture(
    groups: Sequence[Sequence[tuple[str, Counts]]], merge_ordered: int, other_work: float = OTHER_WORK
) -> Mixture:
    """The mixture that is taken where no weights are given.

    groups: sources (name, (target_vocab,) counts), one group for each counts file; the first group is the primary.
        Within a group every token counts the same.

    other_work: the share for work that differs from the primary, 0 to below 1: two thirds of it to merge order, one
        third to the other groups evenly; what is not there is left to the fit.

    The rest is fitted to the primary by deleted interpolation (`fit`). Raises InputError for another share.
    """
    if not 0 <= other_work < 1:
        raise InputError(
            "share for other work is out of range", expected="0 to below 1", found=other_work, remedy="--other-work 0.3"
        )
    together = [np.sum([counts for _, counts in group], axis=0) for group in groups]
    others, has_prior = len(groups) - 1, merge_ordered > 0
    to_others = other_work * (1 - _PRIOR_PART) / max(others, 1)
    doubt = np.array([0.0, *[to_others] * others, other_work * _PRIOR_PART * has_prior])
    shares = (1 - doubt.sum()) * fit(together, prior(merge_ordered, together[0].size)) + doubt
    sources = []
    for group, group_counts, share in zip(groups, together, shares, strict=False):
        tokens = int(group_counts.sum())
        parts = [int(counts.sum()) / tokens if tokens else 1 / len(group) for _, counts in group]
        sources += [(name, counts, float(share) * part) for (name, counts), part in zip(group, parts, strict=True)]
    names = unique_names([name for name, _, _ in sources])
    told = tuple(Source(name, counts, weight) for name, (_, counts, weight) in zip(names, sources, strict=True))
    how = f"fitted to the primary, but for {doubt.sum():.2g} that is left to other work"
    return Mixture(told, merge_ordered, float(shares[-1]), how)


def fit(groups: Sequence[Counts], prior_law: Probabilities) -> Probabilities:
    """(groups + 1,) weights, summing to 1, under which the primary's tokens are most probable; merge order's last.

    groups: (target_vocab,) counts, the primary first. prior_law: (target_vocab,) as of `prior`; all 0 for none.

    Deleted interpolation (Jelinek and Mercer 1980): each token of the primary is predicted from all the others, so a
    primary that is small, and sees many ids once, leaves more to the rest. Expectation maximisation, from even
    weights; rounded to 6 decimals, so that no machine's way of adding shows.
    """
    primary = groups[0]
    alone = np.maximum(primary - 1, 0) / max(int(primary.sum()) - 1, 1)
    return likeliest_weights(np.stack([alone, *map(relative, groups[1:]), prior_law]), primary)


def likeliest_weights(rows: Probabilities, counts: Counts) -> Probabilities:
    """(rows,) weights, summing to 1, of the rows (rows, target_vocab) under which `counts` are most probable.

    Ids that no row gives a chance say nothing of weights; without any other, all of it goes to the first row.
    """
    seen = np.flatnonzero((counts > 0) & (rows.sum(axis=0) > 0))
    told, occurrences = rows[:, seen], counts[seen]
    weights = np.full(len(rows), 1 / len(rows)) if seen.size else np.eye(len(rows))[0]
    for _ in range(_ROUNDS if seen.size else 0):
        joint = weights[:, None] * told
        weights = (joint * (occurrences / joint.sum(axis=0))).sum(axis=1) / occurrences.sum()
    weights = np.round(weights, 6)
    return np.asarray(weights / weights.sum())


def with_weights(mixture: Mixture, asked: Mapping[str, float]) -> Mixture:
    """The mixture with weights by name. Sources that are not named get none; merge order keeps its usual share.

    asked: weights of 0 or more by the names of sources, "merge-order" for the prior; only their ratio matters.
    Raises InputError for names that no source has, weights below 0, and weights that leave nothing.
    """
    names = [source.name for source in mixture.sources]
    prove_weights(asked, names, has_prior=mixture.merge_ordered > 0)
    weights = [float(asked.get(name, 0)) for name in names]
    share = OTHER_WORK * _PRIOR_PART
    usual = share / (1 - share) * sum(weights) if mixture.merge_ordered else 0.0
    weights.append(float(asked.get(PRIOR_OPTION, usual)))
    if sum(weights) == 0:
        raise InputError("all weights are 0", expected="one above 0", found=0, remedy="correct --weight")
    return mixture.weighted(weights, "as given")


def prove_weights(asked: Mapping[str, float], names: Sequence[str], *, has_prior: bool = True) -> None:
    """Raise InputError for weights of what is no source, by name, and for weights below 0."""
    known = [*unique_names(names), *([PRIOR_OPTION] if has_prior else [])]
    for name, weight in asked.items():
        if name not in known:
            raise InputError(
                f"--weight names no source: {name}", expected=", ".join(known), found=name, remedy="correct the name"
            )
        if not 0 <= weight < float("inf"):  # neither is NaN
            raise InputError(
                f"weight of {name} is out of range", expected="0 or more", found=weight, remedy="correct --weight"
            )


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """What `--weight` says, each NAME=W. Raises InputError for what is none, and for a name that comes twice."""
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = -1
        if not name or weight < 0 or name in weights:
            raise InputError(
                "--weight is no weight",
                expected="NAME=W, each name once, such as answers=1 or merge-order=0.2",
                found=repr(text),
                remedy="correct --weight",
            )
        weights[name] = weight
    return weights


def unique_names(names: Sequence[str]) -> list[str]:
    """Names that tell the sources apart, also from the two origins that are no source."""
    taken = {ALWAYS_KEEP, MERGE_ORDER, PRIOR_OPTION}
    unique = []
    for name in names:
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name} ({number})"
        taken.add(free)
        unique.append(free)
    return unique
