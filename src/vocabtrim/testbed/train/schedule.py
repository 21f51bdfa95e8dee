"""Learning rate by step: a warm-up, a plateau as long as there is time, then a decay whose start is decided late."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Schedule:
    """Warm-up, plateau, linear decay to zero. decay_from: None until the decay is asked for."""

    warmup: int
    decay_from: int | None = None
    decay_steps: int = 0

    def scale(self, step: int) -> float:
        """Share of the full learning rate at `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup)
        if self.decay_from is None:
            return warm
        return warm * min(1.0, max(0.0, 1 - (step - self.decay_from) / self.decay_steps))

    def over(self, step: int) -> bool:
        """Whether nothing is left to learn."""
        return self.decay_from is not None and step >= self.decay_from + self.decay_steps
