"""A causal LM by the kernels: what `CausalLM.run` gives, from the same weights, cache and places.

Which way a sequence goes is decided when it begins, so that no output hangs on when a compiler was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..drafted import Nodes, Shape
from ..head import Head
from ..kv_cache import KeyValueCache
from ..passes import Branches, Pass
from . import library
from .compiled import compilation, ready_kernels
from .library import Kernels
from .stack import LeanStack, NotLeanError, Parts, plain

_MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def _prove_ends(model: Any) -> None:
    """Embedding and head are what they seem, and nobody listens in on what the kernels would pass by."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is not nn.Embedding or type(head) not in (nn.Linear, Head):
        raise NotLeanError("embedding or head are of a kind of their own")
    tensors = [tensor for tensor in (head.weight, head.bias) if tensor is not None]
    if not all(plain(tensor, embedding.weight.dtype) for tensor in tensors):
        raise NotLeanError("the head's weights are not like the others")
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        raise NotLeanError("modules have hooks, which the kernels would pass by")


class LeanLM:
    """model: of transformers, loaded. Raises NotLeanError for models that the kernels do not know."""

    def __init__(self, model: Any, config: Any, cache: KeyValueCache) -> None:
        name = type(model).__name__
        if name not in _MODELS or not type(model).__module__.startswith("transformers."):
            raise NotLeanError(f"{name} is none of {', '.join(_MODELS)}")
        layers = model.model
        _prove_ends(model)
        self._model = model
        embedding = layers.embed_tokens.weight
        self._stack = LeanStack(Parts(config, layers.layers, layers.rotary_emb, embedding, layers.norm), cache)
        self._bytes = sum(parameter.nbytes for parameter in model.parameters())
        self.kernels: Kernels | None = None
        self._head: Any = None  # found once for a sequence: transformers looks for it at length

    def begin(self, tokens: int) -> None:
        """Decide for a sequence of so many tokens: by the kernels, if they are there or worth waiting for."""
        self.kernels = ready_kernels(self._bytes * tokens)
        self._head = self._model.get_output_embeddings()
        if isinstance(self._head, Head):
            self._head.kernels = self.kernels

    @property
    def way(self) -> str:
        """What computes the sequence that was begun last, in words."""
        if self.kernels is not None:
            return "our kernels"
        return f"transformers' modules: {compilation().why_not or 'done before the kernels were compiled'}"

    def grow(self, head: Head, root_logits: torch.Tensor, shape: Shape) -> Nodes | None:
        """See `LeanStack.grow`."""
        return self._stack.grow(head, root_logits, shape)

    def run(
        self, tokens: torch.Tensor, *, branches: Branches | None, rows: int, states: Sequence[int], likeliest: bool
    ) -> Pass:
        """As `CausalLM.run`. likeliest: the best ids are wanted in place of logits."""
        assert self.kernels is not None
        passed = self._stack.run(self.kernels, tokens, branches=branches, states=states)
        head_input = passed.head_input[-rows:]
        if isinstance(self._head, Head):
            return Pass(self._head(head_input), passed.hidden)
        matrix = library.matrix(self._head.weight, self._head.bias)
        if not likeliest:
            return Pass(self.kernels.multiply(matrix, head_input), passed.hidden)
        best = self.kernels.best(matrix, head_input, 1)
        if not best.finite:  # for whoever looks at logits to say what is wrong with them
            return Pass(self.kernels.multiply(matrix, head_input), passed.hidden)
        return Pass(torch.empty(0, matrix.out), passed.hidden, best.columns[:, 0])
