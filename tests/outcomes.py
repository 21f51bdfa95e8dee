"""Every outcome of a random procedure with its probability: exact tests without sampling noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable

import torch


class _Script:
    """Chance that follows a script of choices, and notes the alternatives where the script ends."""

    def __init__(self, script: list[int]) -> None:
        self.script, self.at, self.probability = script, 0, 1.0
        self.open: list[list[int]] = []  # scripts still to be walked

    def _choose(self, probs: list[float]) -> int:
        if self.at == len(self.script):
            possible = [choice for choice, probability in enumerate(probs) if probability > 0]
            self.open += [[*self.script, choice] for choice in possible[1:]]
            self.script = [*self.script, possible[0]]
        choice = self.script[self.at]
        self.at += 1
        self.probability *= probs[choice]
        return choice

    def draw(self, probs: torch.Tensor) -> int:
        return self._choose(probs.double().tolist())

    def happens(self, probability: float) -> bool:
        certain = min(1.0, max(0.0, probability))
        return self._choose([1 - certain, certain]) == 1


def outcomes(procedure: Callable[[_Script], Hashable]) -> dict[Hashable, float]:
    """What `procedure` returns, each result with its exact probability; `procedure` gets its chance as argument."""
    found: dict[Hashable, float] = defaultdict(float)
    waiting: list[list[int]] = [[]]
    while waiting:
        chance = _Script(waiting.pop())
        result = procedure(chance)
        found[result] += chance.probability
        waiting += chance.open
    return dict(found)
