"""Model passes that are computed once: walking through every outcome of decoding repeats the same few passes.

A pass is recognised by all that goes into it, byte for byte: tokens or features, positions, mask, and the keys and
values that stand in the cache. A cache that was committed wrongly holds other bytes, so it is computed with, not
covered up.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import nn

from vocabtrim.decoding.drafters.medusa import MedusaDrafter
from vocabtrim.decoding.drafters.protocol import Drafter
from vocabtrim.decoding.drafters.stepping import SteppingDrafter
from vocabtrim.decoding.kv_cache import KeyValueCache
from vocabtrim.decoding.target import Target


def remember_all(target: Target, drafter: Drafter) -> None:
    """Let target and drafter remember every pass of theirs."""
    modules: list[nn.Module] = [target.lm.model]
    if isinstance(drafter, SteppingDrafter):
        body: Any = drafter.body
        modules.append(body.lm.model if hasattr(body, "lm") else body.layers)
    elif isinstance(drafter, MedusaDrafter):
        modules += drafter.blocks
    for module in modules:
        remember(module)


def remember(module: nn.Module) -> None:
    """Replace a module's forward by one that looks up what it gave, and appended to its cache, for the same input."""
    compute, known = module.forward, {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        caches = [value for value in (*args, *kwargs.values()) if isinstance(value, KeyValueCache)]
        key = _bytes((args, tuple(kwargs.items())))
        if key in known:
            result, appended = known[key]
            for cache, entries in zip(caches, appended, strict=True):
                for layer, (keys, values) in zip(cache.layers, entries, strict=True):
                    layer.update(keys, values)
            return result
        before = [cache.length for cache in caches]
        result = compute(*args, **kwargs)
        appended = [_entries(cache, start) for cache, start in zip(caches, before, strict=True)]
        known[key] = result, [[(keys.clone(), values.clone()) for keys, values in entries] for entries in appended]
        return result

    module.forward = forward


def _entries(cache: KeyValueCache, start: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each layer's keys and values from `start` on."""
    if cache.length == start:
        return []
    return [
        (layer.keys[:, :, start : layer.length], layer.values[:, :, start : layer.length]) for layer in cache.layers
    ]


def _bytes(value: Any) -> Hashable:
    """All that a value holds, as something that can be looked up."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, KeyValueCache):
        return _bytes(_entries(value))
    if isinstance(value, tuple | list):
        return tuple(map(_bytes, value))
    return value
