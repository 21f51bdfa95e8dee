"""What the files of each published layout hold: tensor names and shapes, in the order they are written.

Knows names and shapes; knows nothing of values, files or configurations.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .sizes import ModelShape
from .weights import Tensor


def linear(shape: ModelShape, name: str, rows: int, columns: int, *, bias: bool = False) -> list[Tensor]:
    """A projection: `{name}.weight` (rows, columns) and, where it has one, `{name}.bias` (rows,)."""
    weight = Tensor(f"{name}.weight", (rows, columns), shape.dtype)
    return [weight, Tensor(f"{name}.bias", (rows,), shape.dtype)] if bias else [weight]


def norm(shape: ModelShape, name: str, width: int | None = None) -> Tensor:
    """An RMS norm's weight: ones, (hidden,) where no width is given."""
    return Tensor(f"{name}.weight", (width or shape.hidden,), shape.dtype, "ones")


def attention(shape: ModelShape, prefix: str, *, inputs: int | None = None) -> list[Tensor]:
    """Grouped-query attention over `inputs` columns, hidden by default; Qwen2's has biases on q, k and v."""
    columns, bias = inputs or shape.hidden, shape.architecture == "qwen2"
    return [
        *linear(shape, f"{prefix}.q_proj", shape.query, columns, bias=bias),
        *linear(shape, f"{prefix}.k_proj", shape.key_value, columns, bias=bias),
        *linear(shape, f"{prefix}.v_proj", shape.key_value, columns, bias=bias),
        *linear(shape, f"{prefix}.o_proj", shape.hidden, shape.query),
    ]


def gated_mlp(shape: ModelShape, prefix: str, width: int | None = None) -> list[Tensor]:
    """A gated feed-forward block."""
    width = width or shape.intermediate
    return [
        *linear(shape, f"{prefix}.gate_proj", width, shape.hidden),
        *linear(shape, f"{prefix}.up_proj", width, shape.hidden),
        *linear(shape, f"{prefix}.down_proj", shape.hidden, width),
    ]


def layer(shape: ModelShape, prefix: str) -> list[Tensor]:
    """One decoder layer of a Llama or a Qwen2."""
    return [
        norm(shape, f"{prefix}.input_layernorm"),
        *attention(shape, f"{prefix}.self_attn"),
        norm(shape, f"{prefix}.post_attention_layernorm"),
        *gated_mlp(shape, f"{prefix}.mlp"),
    ]


def embedding(shape: ModelShape, name: str) -> list[Tensor]:
    """Input embedding, or a full-width head: (head_rows, hidden)."""
    return linear(shape, name, shape.head_rows, shape.hidden)


def copied(shape: ModelShape, name: str, original: str) -> list[Tensor]:
    """A full-width matrix that is stored a second time: written with the seed of its original, it is a copy."""
    return [replace(tensor, like=f"{original}.weight") for tensor in embedding(shape, name)]


def causal_lm(shape: ModelShape, *, sparse: bool = False, head_bias: bool = False) -> list[Tensor]:
    """A whole Llama or Qwen2. sparse: all but the embedding and the head are holes."""
    layers = [tensor for i in range(shape.layers) for tensor in layer(shape, f"model.layers.{i}")]
    if sparse:
        layers = [replace(tensor, fill="hole") for tensor in layers]
    head = [] if shape.tie else embedding(shape, "lm_head")
    bias = [Tensor("lm_head.bias", (shape.head_rows,), shape.dtype)] if head_bias else []
    return [*embedding(shape, "model.embed_tokens"), *layers, norm(shape, "model.norm"), *head, *bias]


def eagle(shape: ModelShape, *, embed: bool, fc_bias: bool) -> list[Tensor]:
    """EAGLE-1 and -2: one Llama layer without input norm behind fc; no final norm, no head of its own."""
    return [
        *(copied(shape, "embed_tokens", "model.embed_tokens") if embed else []),
        *linear(shape, "fc", shape.hidden, 2 * shape.hidden, bias=fc_bias),
        *attention(shape, "layers.0.self_attn"),
        *gated_mlp(shape, "layers.0.mlp"),
        norm(shape, "layers.0.post_attention_layernorm"),
    ]


def eagle3(shape: ModelShape, *, draft_vocab: int, block: str, embed: bool) -> list[Tensor]:
    """EAGLE-3: fc over three layers of the target, a layer that reads embedding and hidden state, a head of its own."""
    return [
        *(copied(shape, "embed_tokens", "model.embed_tokens") if embed else []),
        *linear(shape, "fc", shape.hidden, 3 * shape.hidden),
        norm(shape, f"{block}.hidden_norm"),
        norm(shape, f"{block}.input_layernorm"),
        *attention(shape, f"{block}.self_attn", inputs=2 * shape.hidden),
        norm(shape, f"{block}.post_attention_layernorm"),
        *gated_mlp(shape, f"{block}.mlp"),
        norm(shape, "norm"),
        *linear(shape, "lm_head", draft_vocab, shape.hidden),
    ]


def maps(kept_ids: npt.NDArray[np.int64], target_vocab: int) -> list[Tensor]:
    """`d2t` as offsets int64 (kept,) and `t2d` as a mask bool (target_vocab,)."""
    mask = np.zeros(target_vocab, np.bool_)
    mask[kept_ids] = True
    return [
        Tensor("d2t", kept_ids.shape, "int64", kept_ids - np.arange(kept_ids.size)),
        Tensor("t2d", mask.shape, "bool", mask),
    ]


def medusa(shape: ModelShape, *, heads: int, layers: int, prefix: str = "") -> list[Tensor]:
    """Medusa: `heads` chains of `layers` residual blocks, each chain with a full-width output."""
    tensors = []
    for head in range(heads):
        for block in range(layers):
            tensors += linear(shape, f"{prefix}{head}.{block}.linear", shape.hidden, shape.hidden, bias=True)
        tensors += embedding(shape, f"{prefix}{head}.{layers}")
    return tensors
