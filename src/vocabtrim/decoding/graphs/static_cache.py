"""Keys and values of all layers in one block of memory, written at slots that a tensor names.

A recorded pass must find them where they were, so they move only when a longer sequence asks for more room, and
`moved` counts how often they did. Everything that reads the plain cache reads this one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache

from ..kv_cache import KeyValueCache
from .buckets import context_bucket

_SPARE = 8  # entries behind the last one, the first of them for padding; eight keep rows aligned


class StaticCache(KeyValueCache):
    """A cache for one sequence: (layers, keys and values, heads, capacity + spare, width), zero where nothing was read.

    Zero and not just any bytes: what a mask hides still goes into sums, with weight 0, and 0 times NaN is NaN.
    """

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(layers)
        self._heads, self._width, self._dtype, self._device = heads, width, dtype, device
        self.moved = 0
        self._store = torch.empty(0)

    @property
    def padding_slot(self) -> int:
        """Where rows that are padding write; nothing ever attends to it."""
        return self.capacity

    @torch.inference_mode()
    def reserve(self, capacity: int) -> None:
        room = context_bucket(capacity)
        if self._store.numel() and room <= self.capacity:
            self._store.zero_()
        else:
            self._allocate(room)
        self.set_length(0)

    def _allocate(self, room: int) -> None:
        for layer in self.layers:
            layer.keys = layer.values = None
        self._store = torch.empty(0)  # gone before the larger one is made
        shape = (len(self.layers), 2, self._heads, room + _SPARE, self._width)
        self._store = torch.zeros(shape, dtype=self._dtype, device=self._device)
        for layer, (keys, values) in zip(self.layers, self._store, strict=True):
            layer.keys, layer.values = keys[None], values[None]
            layer.capacity, layer.is_initialized = room, True
        self.moved += 1

    def set_length(self, length: int) -> None:
        """How many entries count, after a pass that wrote at slots."""
        for layer in self.layers:
            layer.length = length

    @torch.inference_mode()
    def commit(self, start: int, path: Sequence[int]) -> None:
        """As the plain cache does, for all layers at once."""
        if list(path) != list(range(len(path))):
            entries = torch.tensor([start + node for node in path], device=self._device)
            self._store[:, :, :, start : start + len(path)] = self._store.index_select(3, entries)
        self.set_length(start + len(path))


class SlotCache(Cache):  # type: ignore[misc]
    """What the layers take for their cache in one recorded pass: writes at `slots` (n,), shows the first `context`."""

    def __init__(self, cache: StaticCache, slots: torch.Tensor, context: int) -> None:
        super().__init__(layers=list(cache.layers))
        self._slots, self._context = slots, context

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        layer = self.layers[layer_idx]
        layer.keys.index_copy_(2, self._slots, key_states)
        layer.values.index_copy_(2, self._slots, value_states)
        return layer.keys[:, :, : self._context], layer.values[:, :, : self._context]
