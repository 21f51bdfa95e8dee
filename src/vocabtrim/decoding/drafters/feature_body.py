"""What EAGLE-1/2 and EAGLE-3 share: a drafter that reads a token's embedding beside a feature of the token before it.

Features of tokens that the target has read come from the target; those of drafted tokens are the drafter's own output.
So what was drafted is forgotten after each round and read again with the target's features. A pair (token, feature
before it) takes one entry of the cache, at the position of the feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ..drafted import Nodes, Shape
from ..head import Head
from ..kv_cache import KeyValueCache
from ..lean.compiled import ready_kernels
from ..lean.library import Kernels
from ..lean.stack import LeanStack, NotLeanError, Passed
from ..passes import Branches, place
from .stepping import Levels


class Out(NamedTuple):
    """feature: (n, hidden), what the next step reads. head_input: (n, hidden), what the head reads."""

    feature: torch.Tensor
    head_input: torch.Tensor


class FeatureLayers(nn.Module):
    """The trained part. `fuse` makes features out of the target's hidden states; `forward` is one draft step."""

    config: LlamaConfig

    def fuse(self, hidden: torch.Tensor, kernels: Kernels | None = None) -> torch.Tensor:
        """(n, states * target hidden) -> (n, hidden) features. kernels: by which to multiply; None for torch."""
        raise NotImplementedError

    def lean(self, rotary: Any, embedding: torch.Tensor, cache: KeyValueCache) -> LeanStack:
        """The same layers by the kernels. Raises NotLeanError where they do not know them."""
        raise NotImplementedError

    @property
    def feature_is_normed(self) -> bool:
        """Whether the next step reads what the head reads."""
        return False

    def out(self, passed: Passed) -> Out:
        """What `forward` gives, of a pass by the kernels."""
        assert passed.features is not None
        return Out(passed.head_input if self.feature_is_normed else passed.features, passed.head_input)

    def forward(
        self,
        embedded: torch.Tensor,
        features: torch.Tensor,
        positions: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        cache: KeyValueCache,
    ) -> Out:
        """embedded, features: (n, hidden). positions: cosine and sine of each. mask: (1, 1, n, entries) additive."""
        raise NotImplementedError


class FeatureBody:
    """layers: the drafter's own. embedding: (ids, hidden), its own or the target's. states: whose hidden states of the
    target it reads. head: its own, or rows of the target's. lean: whether passes may go by our kernels."""

    context: int | None = None  # published configs say how long the training texts were, not how far the layers reach

    def __init__(
        self,
        layers: FeatureLayers,
        embedding: torch.Tensor,
        head: Head,
        states: tuple[int, ...],
        *,
        lean: bool = True,
    ) -> None:
        self.layers, self.embedding, self.head, self.states = layers, embedding, head, states
        self.rotary = LlamaRotaryEmbedding(layers.config).to(head.weight.device)
        self.cache = KeyValueCache(layers.config.num_hidden_layers)
        self._unread: list[int] = []
        self._hidden: list[torch.Tensor] = []  # of the target, one row for each unread token: of the token before it
        self._base = 0
        self._levels = Levels(head.weight.device)
        self._features = torch.empty(0)  # of the last level
        self._bytes = sum(weight.nbytes for weight in (*layers.parameters(), head.weight))
        self.lean: LeanStack | None = None
        if lean:
            with suppress(NotLeanError):
                self.lean = layers.lean(self.rotary, embedding, self.cache)

    def begin(self, prompt: Sequence[int], room: int, hidden: torch.Tensor | None) -> None:
        self.cache.reserve(room)
        self.head.kernels = None if self.lean is None else ready_kernels(self._bytes * room)
        self._unread = list(prompt[1:])
        self._hidden = [] if hidden is None else [hidden]
        self._base = 0

    def catch_up(self) -> torch.Tensor | None:
        """None behind a prompt of one token, which has no feature before it."""
        if not self._unread:
            return None
        tokens, rows = torch.tensor(self._unread), len(self._unread)
        branches = None  # plain causal attention, where nothing stands before
        if self.cache.length > 0 and rows > 1:
            branches = Branches(torch.arange(rows), torch.ones(rows, rows, dtype=torch.bool).tril())
        features = self.layers.fuse(torch.cat(self._hidden), self.head.kernels)
        logits = self._step(tokens, features, branches, last=True)
        self._unread, self._hidden = [], []
        self._base, self._levels = self.cache.length, Levels(self.head.weight.device)
        return logits

    def grow(self, root_logits: torch.Tensor, shape: Shape) -> Nodes | None:
        if self.lean is None:
            return None
        feature, normed = self._features.float().contiguous(), self.layers.feature_is_normed
        return self.lean.grow(self.head, root_logits, shape, root_feature=feature, normed_features=normed)

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
        return self._step(tokens, self._features[parents], self._levels.add(parents))

    def commit(self, entries: Sequence[int], emitted: Sequence[int], hidden: torch.Tensor | None) -> None:
        self.cache.rewind(self._base)
        self._unread += emitted
        self._hidden += [] if hidden is None else [hidden]

    @torch.inference_mode()
    def _step(
        self, tokens: torch.Tensor, features: torch.Tensor, branches: Branches | None, last: bool = False
    ) -> torch.Tensor:
        """Append pairs; logits (n, kept) behind each, or (1, kept) behind the last alone."""
        if self.lean is not None and self.head.kernels is not None:
            straight = None if last else branches  # what was emitted is a chain
            passed = self.lean.run(self.head.kernels, tokens, branches=straight, features=features)
            self._features, head_input = (part[-1:] if last else part for part in self.layers.out(passed))
            return self.head(head_input)  # type: ignore[no-any-return]
        device = self.head.weight.device
        positions, mask = place(branches, self.cache.length, len(tokens), features.dtype, device)
        embedded = nn.functional.embedding(tokens.to(device), self.embedding).to(features.dtype)
        out = self.layers(embedded, features, self.rotary(embedded, positions[None]), mask, self.cache)
        self._features, head_input = (part[-1:] if last else part for part in out)
        return self.head(head_input)  # type: ignore[no-any-return]
