"""Weights that make a kept vocabulary cover a sample of real traffic best.

Searches over weights for coverage at given sizes, which is what a kept vocabulary is for; likelihood only gives a
place to start. Knows counts and mixtures; reads no text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..calibrate.counts import Counts, TokenCounts
from ..errors import InputError
from .kept import Ids
from .mixture import Mixture, likeliest_weights
from .select import rank

# A weight is tried at these multiples of itself, coarse steps first; 0 takes a source out, and a source that is out
# is tried at a hundredth of the rest.
_STEPS = ((0.0, 0.25, 4.0), (0.5, 2.0), (0.8, 1.25))
_RETURNING = 0.01
_LEAST_GAIN = 1e-6  # of mean coverage; less is noise


@dataclass(frozen=True)
class WorkloadRow:
    """Coverage of the workload's part that no weight was fitted on, by one size."""

    kept_size: int
    coverage: float
    default_coverage: float


@dataclass(frozen=True)
class WorkloadFit:
    """What weights were fitted on and what came of it. tokens: fitted on; read_tokens: read on, others."""

    tokens: int
    read_tokens: int
    rows: tuple[WorkloadRow, ...]


def fit_to_workload(
    mixture: Mixture,
    workload: TokenCounts,
    sizes: Sequence[int],
    *,
    always_keep: Mapping[int, str],
    available: Ids | None = None,
) -> tuple[Mixture, WorkloadFit]:
    """The mixture whose list covers most of the workload's calibration part, and what that is worth on the other part.

    sizes: kept sizes; the objective is the mean coverage at them. always_keep, available: as of `rank`.
    Raises InputError where either part of the workload has no token.
    """
    fitted_on, read_on = workload.counts, workload.heldout
    if not fitted_on.any() or not read_on.any():
        raise InputError(
            "the workload is too small to fit weights on one part and read them on the other",
            expected="documents on both sides",
            found=f"{int(fitted_on.sum())} and {int(read_on.sum())} tokens",
            remedy="pass more traffic, or a counts file made with --heldout 0.5",
        )
    covered = _objective(mixture, fitted_on, sizes, always_keep, available)
    weights = max(_starts(mixture, fitted_on), key=covered)
    for steps in _STEPS:
        weights = _climbed(weights, covered, steps)
    fitted = mixture.weighted(weights, "fitted to the workload")
    ranked = [rank(each, always_keep=always_keep, available=available).ids for each in (fitted, mixture)]
    rows = tuple(
        WorkloadRow(size, *(float(read_on[ids[:size]].sum() / read_on.sum()) for ids in ranked)) for size in sizes
    )
    return fitted, WorkloadFit(int(fitted_on.sum()), int(read_on.sum()), rows)


_Weights = tuple[float, ...]


def _objective(
    mixture: Mixture, counts: Counts, sizes: Sequence[int], always_keep: Mapping[int, str], available: Ids | None
) -> Callable[[_Weights], float]:
    """Weights -> the mean share of `counts` that lists of these sizes cover."""
    rows = mixture.rows()
    first = np.full(counts.size, -1.0 if available is not None else 0.0)  # what comes before and behind all estimates
    if available is not None:
        first[available[available < counts.size]] = 0
    first[[token for token in always_keep if first[token] == 0]] = 2
    bounds = [size - 1 for size in sizes]

    def covered(weights: _Weights) -> float:
        estimate = first.copy()
        for weight, row in zip(weights, rows, strict=True):
            estimate += weight / sum(weights) * row
        best = np.argpartition(-estimate, bounds)
        return float(np.mean([counts[best[:size]].sum() for size in sizes]) / counts.sum())

    return covered


def _starts(mixture: Mixture, counts: Counts) -> list[_Weights]:
    """Where to begin: the default, the likeliest weights, and each source nearly alone."""
    rows = mixture.rows()
    corners = [tuple(1.0 if n == alone else _RETURNING for n in range(len(rows))) for alone in range(len(rows))]
    likeliest = likeliest_weights(np.stack(rows), counts)
    return [tuple(mixture.weights_in_order), tuple(likeliest.tolist()), *corners]


def _climbed(weights: _Weights, covered: Callable[[_Weights], float], steps: Sequence[float]) -> _Weights:
    """One weight after the other at multiples of itself, for as long as anything is gained."""
    best, value = weights, covered(weights)
    gained = True
    while gained:
        gained = False
        for n, step in product(range(len(weights)), steps):
            moved = best[n] * step if best[n] else _RETURNING * sum(best) * step
            tried = (*best[:n], moved, *best[n + 1 :])
            if sum(tried) > 0 and (found := covered(tried)) > value + _LEAST_GAIN:
                best, value, gained = tried, found, True
    return best
