"""An independent drafter's model as programs: its layers are a static pass's, its head is taken for itself."""

from __future__ import annotations

import torch

from ..drafters.independent import IndependentBody
from ..drafters.stepping import Levels
from .lm_pass import StaticPass
from .program import Recorder
from .static_body import StaticBody


class StaticIndependent(IndependentBody):
    """The body of an independent drafter: what it is read is the plain body's, how it is read is not."""

    def __init__(self, body: IndependentBody, record: Recorder | None) -> None:
        super().__init__(body.lm.model, body.head, lean=False)
        self.static = _Layers(StaticPass(self.lm, record), self)

    def read_unread(self) -> bool:
        """Read what was emitted since."""
        last_id = self.lm.vocab - 1  # as the plain body does with an id that only the target's padding has
        self.static.read_tokens([min(token, last_id) for token in self._unread])
        self._unread = []
        self._base, self._levels = self.lm.cache.length, Levels(self.lm.device)
        return True

    def catch_up(self) -> torch.Tensor:
        self.read_unread()
        return self.head(self.static.root_reads)  # type: ignore[no-any-return]


class _Layers(StaticBody):
    def __init__(self, static: StaticPass, body: IndependentBody) -> None:
        super().__init__(static.cache, body.head, static.group, static.record)
        self._pass = static

    def read_rows(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        return self._pass.forward(tokens, positions, slots, mask).index_select(0, last)

    def begin_levels(self) -> None:
        """Nothing is handed from level to level."""

    def read_level(
        self, tokens: torch.Tensor, parents: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        return self._pass.forward(tokens, *places)
