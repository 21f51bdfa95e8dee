"""From a drafter's published files to the object that drafts: one function per kind.

Knows tensor names and configs; knows nothing of decoding. Every tensor of a file is used or the file is refused: a
layer that is silently left out would only show as bad acceptance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig

from ...checkpoint import layouts
from ...checkpoint.read import NESTED, Checkpoint
from ...checkpoint.stored import StoredTensor
from ...errors import CheckpointError, MismatchError, UnsupportedError
from ...vocabulary.kept import Ids
from ..causal_lm import open_model
from ..ends import Ends, own_head
from ..head import Head
from ..stored_weights import load_weight
from . import eagle, eagle3
from .feature_body import FeatureBody
from .independent import IndependentBody
from .medusa import MedusaBlocks, MedusaDrafter, static_tree
from .plans import Chain, DynamicTree, Plan, StaticTree
from .protocol import Drafter
from .stepping import SteppingDrafter
from .variants import eagle3_norms, eagle3_states, refuse_variants

# In some published files beside the weights, and made anew from the config.
_DERIVED = ("rotary_emb.inv_freq",)

Builder = Callable[[layouts.Drafter, Ids | None, Ends, Any], Drafter]  # the last: a plan of its kind, or None


def independent(found: layouts.Drafter, ids: Ids | None, on: Ends, plan: Plan | None) -> Drafter:
    """Any causal LM; of a trimmed one the library makes everything but the head, which it could only make whole."""
    dtype, device = on.dtype, on.device
    if ids is None:
        model = open_model(found.checkpoint, dtype, device)
        head = own_head(model, on.vocab)
    else:
        body = {name: load_weight(found.checkpoint.tensors[name]) for name in found.body}
        model, head = open_model(found.checkpoint, dtype, device, body), _head(found.heads[0], ids, on)
    return SteppingDrafter(IndependentBody(model, head, lean=on.lean), plan or Chain())


def eagle_1_2(found: layouts.Drafter, ids: Ids | None, on: Ends, plan: Plan | None) -> Drafter:
    """One kind for EAGLE-1 and 2; the target's own head where the drafter has no trimmed one."""
    refuse_variants(found.checkpoint, eagle3=False)
    names = _body(found)
    _prove_features(found, on, 2 * on.hidden_size, _fused(found))
    with torch.device("meta"):
        layers = eagle.EagleLayers(
            _llama_config(found.checkpoint), input_norm="layers.0.input_layernorm.weight" in names
        )
    _fill(layers, names, found, on)
    head = on.head() if ids is None else _head(found.heads[0], ids, on)
    embedding = _embedding(found, on, layers.config.hidden_size)
    return SteppingDrafter(FeatureBody(layers, embedding, head, eagle.STATES, lean=on.lean), plan or DynamicTree())


def eagle_3(found: layouts.Drafter, ids: Ids | None, on: Ends, plan: Plan | None) -> Drafter:
    checkpoint = found.checkpoint
    refuse_variants(checkpoint, eagle3=True)
    states = eagle3_states(checkpoint, on.family, on.layers)
    _prove_features(found, on, len(states) * on.hidden_size, _fused(found))
    names = {name.replace("layers.0.", "midlayer.", 1): tensor for name, tensor in _body(found).items()}
    with torch.device("meta"):
        layers = eagle3.Eagle3Layers(
            _llama_config(checkpoint),
            _fused(found),
            len(states),
            eagle3_norms(checkpoint),
            head_norms="midlayer.self_attn.q_norm.weight" in names,
        )
    _fill(layers, names, found, on)
    embedding = _embedding(found, on, layers.config.hidden_size)
    body = FeatureBody(layers, embedding, _head(found.heads[0], ids, on), states, lean=on.lean)
    return SteppingDrafter(body, plan or DynamicTree())


def medusa(found: layouts.Drafter, ids: Ids | None, on: Ends, plan: Plan | StaticTree | None) -> Drafter:
    """As many heads as the file holds, whatever its config says."""
    if plan is not None and not isinstance(plan, StaticTree):
        raise UnsupportedError(
            f"{found.checkpoint.folder} is a Medusa drafter, whose tree is static",
            expected="no plan, or a StaticTree",
            found=type(plan).__name__,
            remedy="leave draft length and branching out",
        )
    blocks = []
    for head in found.heads:
        _prove_features(found, on, on.hidden_size, head.stored.hidden or head.main.shape[-1])
        prefix, _, layers = head.source.rpartition(".")
        with torch.device("meta"):
            block = MedusaBlocks(on.hidden_size, int(layers))
        names = {
            f"linears.{layer}.{suffix}": found.checkpoint.tensor(f"{prefix}.{layer}.linear.{suffix}")
            for layer in range(int(layers))
            for suffix in ("weight", "bias")
        }
        _fill(block, names, found, on)
        blocks.append(block)
    places = () if plan is None else static_tree(len(blocks), plan.nodes)
    return MedusaDrafter(blocks, [_head(head, ids, on) for head in found.heads], places, lean=on.lean)


BUILDERS: dict[str, Builder] = {
    layouts.INDEPENDENT: independent,
    layouts.EAGLE: eagle_1_2,
    layouts.EAGLE3: eagle_3,
    layouts.MEDUSA: medusa,
}


def _body(found: layouts.Drafter) -> dict[str, StoredTensor]:
    """Name -> tensor of a drafter's layers, without embeddings and without what is derived."""
    return {
        name.removeprefix("model."): found.checkpoint.tensors[name]
        for name in found.body
        if not name.endswith(_DERIVED) and not name.startswith(tuple(found.embeddings) or ("\0",))
    }


def _fused(found: layouts.Drafter) -> int:
    """Columns of fc."""
    return found.checkpoint.tensor("fc.weight").shape[-1]


def _prove_features(found: layouts.Drafter, on: Ends, expected: int, columns: int) -> None:
    if columns != expected:
        raise MismatchError(
            f"{found.checkpoint.folder} does not read the hidden states of this target, whose hidden size is "
            f"{on.hidden_size}",
            expected=f"{expected} columns",
            found=columns,
            remedy="use the target that the drafter was made for",
        )


def _llama_config(checkpoint: Checkpoint) -> LlamaConfig:
    """The drafter's layers are Llama's, whatever family its target is of."""
    said: dict[str, Any] = dict(checkpoint.config)
    for name in NESTED:
        said |= said.get(name) or {}
    said.pop("model_type", None)
    config = LlamaConfig(**said)
    config._attn_implementation = "sdpa"
    return config


def _fill(module: nn.Module, tensors: Mapping[str, StoredTensor], found: layouts.Drafter, on: Ends) -> None:
    """Give a module on the meta device its weights. Raises CheckpointError where they are not just those it has."""
    folder = found.checkpoint.folder
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and (f"{name}.bias" in tensors) != (layer.bias is not None):
            bias = nn.Parameter(torch.empty(layer.out_features, device="meta")) if layer.bias is None else None
            layer.register_parameter("bias", bias)
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if wanted.keys() != tensors.keys():
        raise CheckpointError(
            f"{folder} does not hold the tensors of a {found.kind} drafter",
            expected=", ".join(sorted(wanted.keys() - tensors.keys())) or "no others",
            found=", ".join(sorted(tensors.keys() - wanted.keys())) or "none of them",
            remedy="the drafter is incomplete, or of a variant that is not decoded with here",
        )
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{tensors[name].name} of {folder} has another shape than its config.json says",
                expected=list(shape),
                found=list(tensors[name].shape),
                remedy="fetch config and weights again, from one place",
            )
    weights = {name: load_weight(tensor).to(on.device, on.dtype) for name, tensor in tensors.items()}
    module.load_state_dict(weights, assign=True)
    module.requires_grad_(False).eval()


def _head(head: layouts.Head, ids: Ids | None, on: Ends) -> Head:
    """A stored head; rows in ascending order of their ids, whatever order the file has."""
    if head.stored.quantized:
        raise UnsupportedError(
            f"head {head.source} of {head.owner.folder} is quantized",
            expected="weight and bias alone",
            found=", ".join(sorted(head.tensors)),
            remedy="use the drafter with an unquantized head",
        )
    order = None if ids is None else torch.from_numpy(np.argsort(ids))
    parts = {}
    for suffix, tensor in head.tensors.items():
        rows = load_weight(tensor)
        parts[suffix] = (rows if order is None else rows[order]).to(on.device, on.dtype)
    kept_ids = None if ids is None else torch.from_numpy(np.sort(ids)).to(on.device)
    return Head(parts["weight"], parts.get("bias"), kept_ids)


def _embedding(found: layouts.Drafter, on: Ends, hidden: int) -> torch.Tensor:
    """The drafter's own embedding, or of the target's where it has none: without the factor that some targets
    put behind theirs, as SafeAILab's trainer and vLLM take the bare weight."""
    if not found.embeddings:
        weight = on.embedding()
    else:
        stored = found.checkpoint.tensor(f"{found.embeddings[0]}.weight")
        weight = load_weight(stored).to(on.device, on.dtype)
    if weight.shape[0] < on.vocab or weight.shape[1] != hidden:
        raise MismatchError(
            f"the embedding that {found.checkpoint.folder} reads does not fit it and the target",
            expected=f"{on.vocab} rows or more of {hidden}",
            found=list(weight.shape),
            remedy="use the target that the drafter was made for",
        )
    return weight
