"""The key-value cache of one sequence: allocated once, appended to, rewound, and committed along a path.

A pass over a tree appends one entry per node; committing gathers the accepted nodes behind what was there, so that the
cache holds exactly the tokens that were emitted. Models speak to it through transformers' own interface
(cache_utils.py). Knows entries by position; knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin


def cache_argument(forward: Callable[..., Any]) -> str | None:
    """By which name a module's forward takes a cache; None where it takes none.

    transformers 5.24 renamed `past_key_values` to `cache`. XLM's `cache` is an older thing of its own.
    """
    taken = signature(forward).parameters
    if "past_key_values" in taken:
        return "past_key_values"
    return "cache" if "cache" in taken and "dict" not in str(taken["cache"].annotation).lower() else None


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer: (1, heads, capacity, head_dim), of which the first `length` entries count."""

    def __init__(self) -> None:
        super().__init__()
        self.capacity = self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = key_states.new_empty(*key_states.shape[:2], self.capacity, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], self.capacity, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_mask_sizes(self, query_length: int | torch.Tensor) -> tuple[int, int]:
        # Older versions of transformers give positions.
        new = query_length if isinstance(query_length, int) else query_length.numel()
        return self.length + new, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    get_max_cache_shape = get_max_length  # its name in older versions

    def gather(self, entries: torch.Tensor, start: int) -> None:
        """Move `entries` (n,), positions in ascending order, to start, start + 1, ... and forget what is behind."""
        self.length = start + entries.numel()
        if not self.is_initialized:  # a layer that reads another one's keys and values, as Gemma 3n's last ones do
            return
        self.keys[:, :, start : self.length] = self.keys[:, :, entries]  # indexing copies first, so overlap is safe
        self.values[:, :, start : self.length] = self.values[:, :, entries]


class KeyValueCache(Cache):  # type: ignore[misc]
    """A cache for one sequence in `layers` decoder layers, empty and without memory until `reserve`."""

    def __init__(self, layers: int) -> None:
        super().__init__(layers=[_Layer() for _ in range(layers)])
        self._together: torch.Tensor | None = None

    @property
    def capacity(self) -> int:
        """Entries that fit."""
        return int(self.layers[0].capacity)

    @property
    def length(self) -> int:
        """Entries that count."""
        return int(self.layers[0].length)

    def reserve(self, capacity: int) -> None:
        """Forget everything and have room for `capacity` entries; memory that is large enough already is kept.

        The tensors themselves are made by the first pass, which knows heads, dtype and device.
        """
        for layer in self.layers:
            layer.length = 0
            if layer.capacity < capacity or not layer.is_initialized:
                layer.keys = layer.values = self._together = None  # gone before the larger ones are made
                layer.capacity, layer.is_initialized = capacity, False

    def together(self, heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
        """The memory of all layers, (layer, 2, heads, capacity, head_dim), keys and values, for layers that are alike.

        Made now where there is none yet. What was appended by `update` before is in it only if it was made before.
        """
        if self._together is None:
            self._together = torch.empty(len(self.layers), 2, heads, self.capacity, head_dim, dtype=dtype)
            for layer, (keys, values) in zip(self.layers, self._together, strict=True):
                layer.keys, layer.values, layer.is_initialized = keys[None], values[None], True
        return self._together

    def append(self, entries: int) -> None:
        """Count so many more entries, whose keys and values somebody wrote to where they belong."""
        for layer in self.layers:
            layer.length += entries

    def rewind(self, length: int) -> None:
        """Forget every entry from `length` on."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    @torch.inference_mode()
    def commit(self, start: int, path: Sequence[int]) -> None:
        """Of the entries from `start` on, one per node of a tree, keep those of `path` (ascending nodes), in order."""
        if list(path) == list(range(len(path))):
            self.rewind(start + len(path))  # a chain's accepted nodes already stand where they belong
            return
        entries = torch.tensor([start + node for node in path], device=self.layers[0].keys.device)
        if self._together is not None:  # as below, for all layers at once
            self._together[..., start : start + len(path), :] = self._together[..., entries, :]
            self.rewind(start + len(path))
            return
        for layer in self.layers:
            layer.gather(entries, start)
