"""Where randomness comes from: a generator in use, a script in a test that walks through every outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


class Chance(Protocol):
    """Where randomness comes from."""

    def draw(self, probs: torch.Tensor) -> int:
        """An index of probs (n,), each with its probability."""

    def happens(self, probability: float) -> bool:
        """True with that probability."""


@dataclass(frozen=True)
class TorchChance:
    """Chance from a generator of the caller's; nothing is seeded here."""

    generator: torch.Generator | None = None

    def draw(self, probs: torch.Tensor) -> int:
        if int(torch.count_nonzero(probs)) == 1:  # greedy: certain, so no random number is spent
            return int(probs.argmax())
        return int(torch.multinomial(probs, 1, generator=self.generator))

    def happens(self, probability: float) -> bool:
        if probability >= 1:
            return True
        device = "cpu" if self.generator is None else self.generator.device
        return bool(torch.rand((), generator=self.generator, device=device) < probability)
