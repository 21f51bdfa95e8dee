"""Acceptance and stage times -> tokens per second of every combination, and which of them are worth measuring.

Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .reach import Reached, Rounds, walk
from .shapes import Combination, Shape
from .stages import StageTimes

MOST_SIZES = 3  # of heads that are trimmed to be measured


@dataclass(frozen=True)
class Prediction:
    """rounds: sums over the generations that were replayed. seconds: of one round."""

    combination: Combination
    rounds: Rounds
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.rounds.block_efficiency / self.seconds


def all_rounds(
    reached: Mapping[tuple[int, int], Sequence[Reached]], kept_sizes: Sequence[int], shapes: Sequence[Shape]
) -> dict[Combination, Rounds]:
    """The rounds of every combination. reached: by the place of a kept size and by branching, all generations."""
    found = {}
    for number, size in enumerate(kept_sizes):
        for shape in shapes:
            parts = [walk(one, shape) for one in reached[number, shape.branching]]
            found[Combination(size, shape)] = Rounds(
                sum(part.rounds for part in parts), sum(part.emitted for part in parts)
            )
    return found


def predictions(rounds: Mapping[Combination, Rounds], times: StageTimes) -> list[Prediction]:
    """Every combination, the fastest first."""
    found = [Prediction(combination, passed, times.round(combination)) for combination, passed in rounds.items()]
    return sorted(found, key=lambda one: one.tokens_per_second, reverse=True)


def finalists(
    found: Sequence[Prediction], full_size: int, measurable: Collection[int] | None = None, *, most: int = 6
) -> list[Combination]:
    """What is worth measuring, the best first: of each kept size and branching the best, since what a prediction gets
    wrong is wrong for all of them alike; the full head's best always, and no more than `MOST_SIZES` other sizes.

    found: the fastest first. measurable: kept sizes that may be taken; all where None.
    """
    groups: dict[tuple[int, int], Combination] = {}
    sizes: dict[int, None] = {}
    for one in found:
        size = one.combination.kept_size
        if measurable is not None and size not in measurable:
            continue
        if size != full_size and size not in sizes and len(sizes) == MOST_SIZES:
            continue
        if size != full_size:
            sizes[size] = None
        groups.setdefault((size, one.combination.shape.branching), one.combination)
    ranked = list(groups.values())
    full = [combination for combination in ranked if combination.kept_size == full_size][:1]
    chosen = ranked[:most]
    return chosen if not full or full[0] in chosen else [*chosen[: most - 1], *full]


def corrected(
    found: Sequence[Prediction],
    group: tuple[int, int],
    *,
    times: StageTimes,
    draft_factor: float,
    pass_factor: float,
) -> list[Prediction]:
    """Predictions of one kept size and branching, with the stages as a live run of one of them showed them."""
    own = [one for one in found if (one.combination.kept_size, one.combination.shape.branching) == group]
    again = [
        Prediction(
            one.combination,
            one.rounds,
            draft_factor * times.draft(one.combination.kept_size, one.combination.shape)
            + pass_factor * times.verify(one.combination.shape),
        )
        for one in own
    ]
    return sorted(again, key=lambda one: one.tokens_per_second, reverse=True)
