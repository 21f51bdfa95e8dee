"""An independent drafter: a small causal LM on the target's tokenizer, with a full or a trimmed head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..causal_lm import CausalLM
from ..drafted import Nodes, Shape
from ..head import Head
from .stepping import Levels


class IndependentBody:
    """model: a causal LM of transformers. head: takes the place of its own, so that logit scales and caps around the
    head stay the model's affair."""

    states: tuple[int, ...] = ()

    def __init__(self, model: Any, head: Head, *, lean: bool = True) -> None:
        model.set_output_embeddings(head)
        self.lm, self.head = CausalLM(model, lean=lean), head
        self._unread: list[int] = []
        self._levels = Levels(self.lm.device)
        self._base = 0  # entries up to the root: what is drafted stands behind them

    @property
    def context(self) -> int:
        return self.lm.context

    def begin(self, prompt: Sequence[int], room: int, hidden: torch.Tensor | None) -> None:
        self.lm.begin(room)
        self._unread = list(prompt)
        self._base = 0

    def catch_up(self) -> torch.Tensor:
        logits = self.read(self._unread, rows=1)
        self._unread = []
        self._base, self._levels = self.lm.cache.length, Levels(self.lm.device)
        return logits

    def read(self, tokens: Sequence[int], rows: int) -> torch.Tensor:
        """Append tokens to what was read; logits (rows, kept) behind the last `rows` of them."""
        # An id that only the target's padding has is read as the last one here: what is drafted behind it is verified.
        return self.lm.run(torch.tensor([min(token, self.lm.vocab - 1) for token in tokens]), rows=rows).logits

    def grow(self, root_logits: torch.Tensor, shape: Shape) -> Nodes | None:
        return None if self.lm.lean is None else self.lm.lean.grow(self.head, root_logits, shape)

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return self.lm.run(tokens, branches=self._levels.add(parents), rows=len(tokens)).logits

    def commit(self, entries: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self.lm.cache.commit(self._base, entries)
        self._unread += emitted[len(entries) :]
        self._base = self.lm.cache.length
