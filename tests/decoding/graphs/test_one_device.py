"""Nothing in a recorded step lies on the host: every tensor of a target's and of each drafter's steps is on the device.

Run on torch's meta device, which has shapes and no numbers: a stand-in for a GPU as far as places go. A tensor left on
the CPU would be an error or a wait there, and cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

import vocabtrim as vt
from vocabtrim.decoding.causal_lm import CausalLM
from vocabtrim.decoding.drafters.eagle import STATES, EagleLayers
from vocabtrim.decoding.drafters.eagle3 import Eagle3Layers
from vocabtrim.decoding.drafters.feature_body import FeatureBody, FeatureLayers
from vocabtrim.decoding.drafters.independent import IndependentBody
from vocabtrim.decoding.drafters.medusa import MedusaBlocks, MedusaDrafter
from vocabtrim.decoding.drafters.plans import Plan
from vocabtrim.decoding.drafters.variants import Eagle3Norms
from vocabtrim.decoding.graphs.feature_pass import StaticFeatures
from vocabtrim.decoding.graphs.fused_head import FusedHead
from vocabtrim.decoding.graphs.growth import propose
from vocabtrim.decoding.graphs.independent_pass import StaticIndependent
from vocabtrim.decoding.graphs.lm_pass import static_pass
from vocabtrim.decoding.graphs.medusa_pass import StaticMedusa
from vocabtrim.decoding.head import Head

META = torch.device("meta")
HIDDEN, VOCAB, KEPT = 32, 400, 300
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


class _OnlyMeta(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            parts = func.decompose(*args, **(kwargs or {}))
        if parts is not NotImplemented:
            return parts
        out = func(*args, **(kwargs or {}))
        places = {leaf.device.type for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)}
        assert places <= {"meta"}, f"{func} with tensors on {places}"
        return out


class _Looked:
    """Records nothing and looks at every step."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, step: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        with _OnlyMeta():
            out = step()
        self.steps += 1
        return lambda: None, out


def lm(family: str = "llama") -> Any:
    with META:
        config = AutoConfig.for_model(family, **SIZES)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def head() -> Head:
    weight = torch.empty(KEPT, HIDDEN, dtype=torch.bfloat16, device=META)
    return Head(weight, None, torch.empty(KEPT, dtype=torch.int64, device=META))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_targets(family: str) -> None:
    looked, target = _Looked(), CausalLM(lm(family), lean=False)
    static_pass(target, looked)
    target.cache.reserve(100)
    for _ in range(2):
        target.run(torch.tensor([1, 2, 3]), rows=3, states=(1, -1))
        target.run(torch.tensor([1, 2, 3]))
    assert looked.steps == 2


def layers(kind: str) -> tuple[FeatureLayers, tuple[int, ...]]:
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 1})
    config._attn_implementation = "sdpa"
    with META:
        made: FeatureLayers
        if kind == "EAGLE":
            made, states = EagleLayers(config), STATES
        else:
            made, states = Eagle3Layers(config, 3 * HIDDEN, 3, Eagle3Norms(), head_norms=True), (0, 1, 2)
        return made.to(torch.bfloat16), states


@pytest.mark.parametrize("plan", [vt.Chain(3), vt.DynamicTree(9, 3, 3)], ids=["chain", "tree"])
@pytest.mark.parametrize("kind", ["EAGLE", "EAGLE-3", "independent"])
def test_drafters(kind: str, plan: Plan) -> None:
    looked = _Looked()
    body: Any
    if kind == "independent":
        body = StaticIndependent(IndependentBody(lm(), head(), lean=False), looked)
    else:
        of, states = layers(kind)
        weight = torch.empty(VOCAB, HIDDEN, dtype=torch.bfloat16, device=META)
        body = StaticFeatures(FeatureBody(of, weight, head(), states, lean=False), looked)
    for _ in range(2):
        hidden = torch.empty(4, len(body.states) * HIDDEN, dtype=torch.bfloat16, device=META)
        body.begin([1, 2, 3, 4, 5], 100, hidden if body.states else None)
        assert body.read_unread()
    assert looked.steps == 1
    with torch.inference_mode(), _OnlyMeta():
        said = propose(plan, body.static, FusedHead(body.head), 256)
    assert said.shape == (1 + (3 if isinstance(plan, vt.Chain) else 3 * 8),)


def test_medusa() -> None:
    with META:
        blocks = [MedusaBlocks(HIDDEN, 1).to(torch.bfloat16) for _ in range(3)]
    drafter = StaticMedusa(MedusaDrafter(blocks, [head() for _ in range(3)]), None)
    with torch.inference_mode(), _OnlyMeta():
        said = drafter._programs.get((4, 2, 1), None)()
    assert said.shape == (8,)


def test_the_look_can_fail() -> None:
    rows = torch.ones(3, device=META)
    with pytest.raises(AssertionError, match="with tensors on"), _OnlyMeta():
        rows[torch.tensor([1])]
