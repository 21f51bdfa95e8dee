"""Decoder layers of a loaded model as the kernels take them: where the weights lie that transformers loaded.

Nothing is copied. Knows the modules of Llama, Mistral, Qwen2 and Qwen3, and of EAGLE's drafters, which are made of
Llama's; knows nothing of drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ...errors import InputError
from ..drafted import Nodes, Shape
from ..head import Head, HeadRows
from ..kv_cache import KeyValueCache
from ..passes import Branches
from . import library
from .library import Kernels, address

_ROTATIONS = {"default", "linear", "llama3", "yarn"}  # the others rotate otherwise from some length on
_ROWS = 256  # of a prompt that are read at once: many enough to multiply at full speed, few enough to stay near


class NotLeanError(Exception):
    """Why a model cannot be run by the kernels; it then goes by transformers' own modules."""


class Passed(NamedTuple):
    """head_input: (row, hidden), what the head reads, in the weights' dtype. hidden: (row, states * hidden) or None.
    features: (row, hidden) float32, the same before the last norm; None of layers that read none."""

    head_input: torch.Tensor
    hidden: torch.Tensor | None
    features: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Parts:
    """blocks: decoder layers, or EAGLE-3's one wide layer. rotary: the module that makes cosines and sines. embedding:
    (ids, hidden). fuse: EAGLE-1/2's fc over embedding and feature. last_norm: before the head; None for none.
    normed_residual: see layers.h."""

    config: Any
    blocks: Sequence[Any]
    rotary: Any
    embedding: torch.Tensor
    last_norm: Any = None
    fuse: Any = None
    normed_residual: bool = False


class LeanStack:
    """Layers and the cache that they write to. Raises NotLeanError where the kernels do not know what the layers do."""

    def __init__(self, parts: Parts, cache: KeyValueCache) -> None:
        config, first = parts.config, parts.blocks[0]
        # Kept alive, whatever becomes of the modules: the kernels know addresses alone.
        weights = _weights(parts)
        _prove(parts, weights)
        self._weights = [weight.detach() for weight in weights]
        self._parts, self._cache = parts, cache
        self._dtype = parts.embedding.dtype
        size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        layers = [_layer(block, config, number) for number, block in enumerate(parts.blocks)]
        self._layers = (library.Layer * len(layers))(*layers)
        self._heads = (int(config.num_key_value_heads), size)
        self._stack = library.Stack(
            layers=len(layers),
            hidden=config.hidden_size,
            inner=first.mlp.gate_proj.weight.shape[0],
            ids=parts.embedding.shape[0],
            heads=library.Heads(config.num_attention_heads, self._heads[0], size, 0, first.self_attn.scaling),
            eps=config.rms_norm_eps,
            normed_residual=parts.normed_residual,
            layer=self._layers,
            embedding=parts.embedding.data_ptr(),
            fuse=library.Matrix() if parts.fuse is None else _matrix(parts.fuse),
            last_norm=None if parts.last_norm is None else parts.last_norm.weight.data_ptr(),
        )
        self._bound: tuple[int, int] | None = None  # the cache's memory that the layers point to, and its size
        self._turns: tuple[torch.Tensor, ...] = ()
        self._states: dict[tuple[int, ...], torch.Tensor] = {}

    def run(
        self,
        kernels: Kernels,
        tokens: torch.Tensor,
        *,
        branches: Branches | None = None,
        features: torch.Tensor | None = None,
        states: Sequence[int] = (),
    ) -> Passed:
        """Append tokens (n,) to the cache. features: (n, hidden) float32 of the tokens before, for EAGLE's layers.

        Raises InputError for a token without an embedding, and where the cache has no room.
        """
        if branches is None and len(tokens) > _ROWS:
            parts = [
                self.run(kernels, tokens[start : start + _ROWS], features=feature, states=states)
                for start, feature in zip(range(0, len(tokens), _ROWS), _split(features, len(tokens)), strict=True)
            ]
            told = [part.hidden for part in parts if part.hidden is not None]
            made = [part.features for part in parts if part.features is not None]
            return Passed(
                torch.cat([part.head_input for part in parts]),
                torch.cat(told) if told else None,
                torch.cat(made) if made else None,
            )
        rows, past = len(tokens), self._cache.length
        self._bind(past + rows)
        hidden_size = self._stack.hidden
        tokens = tokens.to(torch.int64).contiguous()
        positions, visible = _places(branches, past, rows)
        wanted = self._wanted(tuple(states))
        head_input = torch.empty(rows, hidden_size, dtype=self._dtype)
        hidden = torch.empty(rows, len(states) * hidden_size, dtype=self._dtype) if states else None
        out = None if features is None else torch.empty(rows, hidden_size)
        features = None if features is None else features.float().contiguous()
        call = library.Pass(
            tokens=tokens.data_ptr(),
            positions=address(positions),
            features=address(features),
            visible=address(visible),
            rows=rows,
            columns=0 if visible is None else visible.shape[1],
            past=past,
            states=wanted.data_ptr(),
            states_count=len(states),
            hidden=address(hidden),
            features_out=address(out),
            head_input=head_input.data_ptr(),
        )
        kernels.run(self._dtype, self._stack, call)
        self._cache.append(rows)
        return Passed(head_input, hidden, out)

    def _wanted(self, states: tuple[int, ...]) -> torch.Tensor:
        """States as the kernels count them."""
        if states not in self._states:
            numbers = [state % (len(self._layers) + 1) for state in states]
            self._states[states] = torch.tensor(numbers, dtype=torch.int64)
        return self._states[states]

    def grow(
        self,
        head: Head,
        root_logits: torch.Tensor,
        shape: Shape,
        *,
        root_feature: torch.Tensor | None = None,
        normed_features: bool = False,
    ) -> Nodes | None:
        """What `host_tree` drafts, in one call. root_logits: (1, kept) float32. root_feature: (1, hidden) float32.

        None where the head is not one for the kernels. Raises CheckpointError for logits that hold NaN or infinity.
        """
        fits = head.weight.dtype == self._dtype and head.weight.shape[1] == self._stack.hidden
        if head.kernels is None or head.matrix is None or not fits or head.highest >= self._stack.ids:
            return None
        past = self._cache.length
        self._bind(past + shape.branching * (shape.depth - 1))
        tokens, parents, entries = np.empty((3, shape.drafted), np.int64)
        told = library.Growth(
            root_logits=root_logits.data_ptr(),
            root_feature=address(root_feature),
            kept_ids=address(head.kept_ids),
            head=head.matrix,
            depth=shape.depth,
            branching=shape.branching,
            drafted=shape.drafted,
            past=past,
            ranked=shape.ranked,
            normed_features=normed_features,
            tokens=tokens.ctypes.data,
            parents=parents.ctypes.data,
            entries=entries.ctypes.data,
        )
        if not head.kernels.grow(self._dtype, self._stack, told):
            HeadRows.prove_numbers(torch.tensor([told.largest]))
        self._cache.append(told.read)
        count = told.count
        return Nodes(tokens[:count].tolist(), parents[:count].tolist(), entries[:count].tolist())

    def _bind(self, entries: int) -> None:
        """Point to the cache's memory, which is another after it grew, and to the turns of as many positions."""
        cache = self._cache
        if entries > cache.capacity:
            raise InputError(
                "the cache has no room for more tokens",
                expected=f"at most {cache.capacity}",
                found=entries,
                remedy="begin with more room",
            )
        memory = cache.together(*self._heads, self._dtype)
        if (memory.data_ptr(), cache.capacity) == self._bound:
            return
        for number, layer in enumerate(self._layers):
            layer.keys, layer.values = memory[number, 0].data_ptr(), memory[number, 1].data_ptr()
        self._stack.heads.capacity = cache.capacity
        turns = self._parts.rotary(torch.zeros(1, 1), torch.arange(cache.capacity)[None])
        self._turns = tuple(turn[0].float().contiguous() for turn in turns)
        self._stack.cosines, self._stack.sines = (turn.data_ptr() for turn in self._turns)
        self._bound = (memory.data_ptr(), cache.capacity)


def _places(branches: Branches | None, past: int, rows: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Positions (rows,), and which of the newest entries each row sees, (rows, columns) bool; None for a chain."""
    if branches is None:
        return None, None
    straight = past + rows - branches.depths.numel()
    return straight + branches.depths[-rows:], branches.visible.contiguous()


def _split(features: torch.Tensor | None, rows: int) -> Sequence[torch.Tensor | None]:
    return [None] * -(-rows // _ROWS) if features is None else torch.split(features, _ROWS)


def _prove(parts: Parts, weights: Sequence[torch.Tensor]) -> None:
    config, dtype = parts.config, parts.embedding.dtype
    if parts.embedding.device.type != "cpu":
        raise NotLeanError(f"the kernels are for processors, not for {parts.embedding.device}")
    if dtype not in library.DTYPES:
        raise NotLeanError(f"weights are {str(dtype).removeprefix('torch.')}, not float32 or bfloat16")
    if getattr(config, "hidden_act", None) != "silu":
        raise NotLeanError(f"the activation is {getattr(config, 'hidden_act', None)}, not silu")
    if (kind := getattr(parts.rotary, "rope_type", None)) not in _ROTATIONS:
        raise NotLeanError(f"positions are rotated by {kind}, not by one of {', '.join(sorted(_ROTATIONS))}")
    if not all(plain(weight, dtype) for weight in weights):
        raise NotLeanError("weights are of several dtypes, on several devices, or in no plain order")


def plain(weight: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a weight lies as the kernels read it: numbers of that dtype one behind the other, on a processor."""
    known = type(weight) in (torch.Tensor, nn.Parameter)  # others may keep their numbers elsewhere, packed say
    return known and weight.device.type == "cpu" and weight.dtype == dtype and weight.is_contiguous()


def _weights(parts: Parts) -> list[torch.Tensor]:
    """All that the kernels read."""
    modules = [module for module in (*parts.blocks, parts.last_norm, parts.fuse) if module is not None]
    return [parts.embedding, *(weight for module in modules for weight in module.parameters())]


def _layer(block: Any, config: Any, number: int) -> library.Layer:
    attention, mlp = block.self_attn, block.mlp
    beside = hasattr(block, "hidden_norm")  # EAGLE-3's: the embedding is normed by what is called the input's norm
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return library.Layer(
        _norm(block.hidden_norm if beside else block.input_layernorm),
        _norm(block.input_layernorm) if beside else None,
        *(_matrix(getattr(attention, name)) for name in names),
        *(_matrix(projection) for projection in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
        *(_norm(getattr(attention, name, None)) for name in ("q_norm", "k_norm")),
        _norm(block.post_attention_layernorm),
        None,
        None,
        _window(config, number),
    )


def _window(config: Any, number: int) -> int:
    """Positions that a layer looks back, as transformers' masks have it; 0 for all."""
    window = getattr(config, "sliding_window", None)
    if not window or config.model_type == "llama":  # which has none, whatever its config says
        return 0
    kinds = None if config.model_type == "mistral" else getattr(config, "layer_types", None)
    return int(window) if kinds is None or kinds[number] == "sliding_attention" else 0


def _matrix(linear: Any) -> library.Matrix:
    if type(linear) is not nn.Linear:
        raise NotLeanError(f"a projection is {type(linear).__name__}, not a plain matrix")
    return library.matrix(linear.weight, linear.bias)


def _norm(module: Any) -> int | None:
    if module is None or isinstance(module, nn.Identity):
        return None
    if not type(module).__name__.endswith("RMSNorm"):
        raise NotLeanError(f"a norm is {type(module).__name__}, not by root mean square")
    return int(module.weight.data_ptr())
