"""Hidden states of a generation, kept while it is decoded: a drafter that drafts nothing and notes what it is handed.

`decode(target, StateRecorder(states), ...)` emits what the target alone emits, in the same passes, and afterwards the
recorder holds what a drafter of these states would have been handed: no second pass, and no change of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..decoding.chance import Chance
from ..decoding.drafters.protocol import Draft
from ..decoding.tree import Tree


class StateRecorder:
    """states: whose hidden states are wanted, counted as in `CausalLM.run`. A drafter by the loop's protocol."""

    nodes = 1
    context: int | None = None

    def __init__(self, states: Sequence[int]) -> None:
        self.states = tuple(states)
        self._root = -1
        self._parts: list[torch.Tensor] = []

    @property
    def hidden(self) -> torch.Tensor:
        """(prompt + output - 1, states * hidden) of the last generation, as far as it was iterated; on the CPU."""
        return torch.cat(self._parts)

    def begin(self, prompt: Sequence[int], length: int, hidden: torch.Tensor | None) -> None:
        self._root, self._parts = prompt[-1], []
        self._keep(hidden)

    def propose(self, depth: int, chance: Chance) -> Draft:
        return Draft(Tree.chain(self._root))

    def commit(self, draft: Draft, path: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self._root = emitted[-1]
        self._keep(hidden)

    def _keep(self, hidden: torch.Tensor | None) -> None:
        if hidden is not None:
            self._parts.append(hidden.cpu())
