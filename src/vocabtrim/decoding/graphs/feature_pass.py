"""EAGLE's and EAGLE-3's layers as programs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import embedding

from ..drafters.feature_body import FeatureBody, Out
from ..drafters.stepping import Levels
from .attention import grouped
from .program import Recorder
from .static_body import StaticBody
from .static_cache import SlotCache, StaticCache


class StaticFeatures(FeatureBody):
    """The body of a feature drafter: what it is read is the plain body's, how it is read is not."""

    def __init__(self, body: FeatureBody, record: Recorder | None, *, compiled: bool = False) -> None:
        super().__init__(body.layers, body.embedding, body.head, body.states, lean=False)
        self.static = _Features(self, record, torch.compile(body.layers.forward) if compiled else body.layers.forward)
        self.cache = self.static.cache

    def read_unread(self) -> bool:
        """Read what was emitted since; False behind a prompt of one token, which has no feature before it."""
        if not self._unread:
            return False
        self.static.hidden = torch.cat(self._hidden)
        self.static.read_tokens(self._unread)
        self._unread, self._hidden = [], []
        self._base, self._levels = self.cache.length, Levels(self.static.device)
        self._features = self.static.root_feature
        return True

    def catch_up(self) -> torch.Tensor | None:
        return self.head(self.static.root_reads) if self.read_unread() else None


class _Features(StaticBody):
    """hidden: (token, states * hidden), of the target, for the tokens that are read next."""

    def __init__(self, body: FeatureBody, record: Recorder | None, forward: Callable[..., Out]) -> None:
        config, head = body.layers.config, body.head
        cache = StaticCache(
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
            head.weight.dtype,
            head.weight.device,
        )
        super().__init__(cache, head, config.num_attention_heads // config.num_key_value_heads, record)
        self._layers, self._embedding, self._rotary = body.layers, body.embedding, body.rotary
        self._step = forward
        self.hidden = torch.empty(0)
        self._told_hidden: dict[int, torch.Tensor] = {}
        self.root_feature = torch.zeros(1, config.hidden_size, dtype=self.dtype, device=self.device)
        self._level = self.root_feature

    def tell_more(self, rows: int, start: int, count: int) -> None:
        if rows not in self._told_hidden:
            self._told_hidden[rows] = self.hidden.new_zeros(rows, self.hidden.shape[1])
        self._told_hidden[rows][:count] = self.hidden[start : start + count]

    def read_rows(
        self, tokens: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        features = self._layers.fuse(self._told_hidden[len(tokens)])
        out = self._forward(tokens, features, positions, slots, mask)
        self.root_feature.copy_(out.feature.index_select(0, last))
        return out.head_input.index_select(0, last)

    def begin_levels(self) -> None:
        self._level = self.root_feature

    def read_level(
        self, tokens: torch.Tensor, parents: torch.Tensor, places: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        out = self._forward(tokens, self._level[parents], *places)
        self._level = out.feature
        return out.head_input

    def _forward(
        self,
        tokens: torch.Tensor,
        features: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        mask: torch.Tensor,
    ) -> Out:
        embedded = embedding(tokens, self._embedding).to(features.dtype)
        turned = self._rotary(embedded, positions[None])
        with grouped(self._layers.config):
            return self._step(embedded, features, turned, mask, SlotCache(self.cache, slots, mask.shape[-1]))
