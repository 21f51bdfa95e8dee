"""What recorded text alone says of a kept vocabulary: how much of it could be drafted, where the rest stands.

A token outside the kept ids is never drafted, so every one of them ends a draft. Sums over tokens; knows ids, and
nothing of drafters or tokenizers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..vocabulary.kept import Ids
from .recording import Recorded

# First places of the stretches of an output that are told apart, counted from 0.
STRETCHES = (0, 16, 64, 256, 1024)


@dataclass(frozen=True)
class Covered:
    """Emitted tokens, and those of them that are kept."""

    tokens: int
    covered: int

    @property
    def share(self) -> float:
        """The coverage; 1 where nothing was emitted."""
        return self.covered / self.tokens if self.tokens else 1.0


@dataclass(frozen=True)
class Lost:
    """An emitted id that is not kept. count: how often. in_prompt: how often it stands in the prompt of that output."""

    token: int
    count: int
    in_prompt: int


@dataclass(frozen=True)
class TextCoverage:
    """Of one kept vocabulary. by_source, by_category: in the order of their first appearance. by_stretch: by place in
    the output, named by its first and last token, counted from 1. lost: the most frequent first."""

    overall: Covered
    by_source: Mapping[str, Covered]
    by_category: Mapping[str, Covered]
    by_stretch: Mapping[str, Covered]
    lost: tuple[Lost, ...]

    @property
    def lost_in_prompt(self) -> float:
        """Share of lost tokens that stand in their own prompt, where a drafter could copy them from; 0 without any."""
        lost = self.overall.tokens - self.overall.covered
        return sum(token.in_prompt for token in self.lost) / lost if lost else 0.0


class CoverageTally:
    """Adds up generations. kept: ascending ids; None for all."""

    def __init__(self, kept: Ids | None) -> None:
        self._is_kept: npt.NDArray[np.bool_] | None = None  # by id; False behind its end
        if kept is not None:
            self._is_kept = np.zeros(int(kept[-1]) + 2, bool)
            self._is_kept[kept] = True
        self._sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        self._lost: Counter[int] = Counter()
        self._in_prompt: Counter[int] = Counter()

    def add(self, recorded: Recorded) -> None:
        output = np.asarray(recorded.output, np.int64)
        kept = np.ones(output.size, bool) if self._is_kept is None else self._is_kept.take(output, mode="clip")
        for part, name in (("", ""), ("source", recorded.source), ("category", recorded.category)):
            self._count(part, name, kept)
        for start, stretch in zip(STRETCHES, np.split(kept, STRETCHES[1:]), strict=True):
            if stretch.size:
                self._count("stretch", _stretch(start), stretch)
        lost = output[~kept]
        self._lost.update(lost.tolist())
        self._in_prompt.update(lost[np.isin(lost, recorded.prompt)].tolist())

    def result(self) -> TextCoverage:
        """What was added so far."""
        stretches = self._part("stretch")
        return TextCoverage(
            overall=self._part("").get("", Covered(0, 0)),
            by_source=self._part("source"),
            by_category=self._part("category"),
            by_stretch={name: stretches[name] for name in map(_stretch, STRETCHES) if name in stretches},
            lost=tuple(Lost(token, count, self._in_prompt[token]) for token, count in self._ranked()),
        )

    def _count(self, part: str, name: str, kept: npt.NDArray[np.bool_]) -> None:
        sums = self._sums[part, name]
        sums[0] += kept.size
        sums[1] += int(kept.sum())

    def _part(self, part: str) -> dict[str, Covered]:
        return {name: Covered(*sums) for (of, name), sums in self._sums.items() if of == part}

    def _ranked(self) -> Sequence[tuple[int, int]]:
        return sorted(self._lost.items(), key=lambda pair: (-pair[1], pair[0]))


def _stretch(start: int) -> str:
    """A stretch by its first and last token, counted from 1."""
    place = STRETCHES.index(start)
    return f"{start + 1}-{STRETCHES[place + 1]}" if place + 1 < len(STRETCHES) else f"{start + 1}-"
