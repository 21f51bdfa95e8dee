"""Families of models with their own masks, caps and windows: each decodes exactly, under trees too.

Small random configs of transformers' own classes, saved and opened as anyone would. Sliding windows are smaller than
what is generated, so that a window that forgot the depths of a tree would show.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import small_models
import vocabtrim as vt
from generation import decoded, emitted, generated, noisy_copy, random_prompts
from vocabtrim.decoding.rounds import Round
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.errors import InputError, UnsupportedError

VOCAB, WINDOW, LENGTH = 40, 6, 16
TREE = vt.DynamicTree(nodes=30, depth=4, branching=6)
PROMPT_LENGTHS = (1, 3, 5, 14)
PARENTS = (-1, 0, 0, 1, 1, 2, 3, 5, 6, 8, 9, 9)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
GEMMA = SIZES | {"query_pre_attn_scalar": 8, "sliding_window": WINDOW}
# Name -> config class and what it is made with.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SIZES),
    "Qwen2": ("Qwen2Config", SIZES),
    "Qwen2, half of it sliding": (
        "Qwen2Config",
        SIZES | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
    ),
    "Qwen3": ("Qwen3Config", SIZES),
    "Qwen3, all of it sliding": (
        "Qwen3Config",
        SIZES | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0},
    ),
    "Mistral": ("MistralConfig", SIZES | {"sliding_window": None}),
    "Mistral, sliding": ("MistralConfig", SIZES | {"sliding_window": WINDOW}),
    "Gemma": ("GemmaConfig", SIZES),
    "Gemma 2": ("Gemma2Config", GEMMA | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "Gemma 3": (
        "Gemma3TextConfig",
        GEMMA | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    ),
    "Gemma 3, all of it sliding": ("Gemma3TextConfig", GEMMA | {"layer_types": ["sliding_attention"] * 4}),
}


class Family:
    """A target of one family, prompts, and what `generate` says behind each."""

    def __init__(self, root: Path, config: str, sizes: dict[str, Any], length: int = LENGTH) -> None:
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(getattr(transformers, config)(**sizes)).save_pretrained(root / "target")
        self.root = root
        self.target = vt.load_target(root / "target", dtype="float32")
        self.prompts = random_prompts(6, VOCAB, PROMPT_LENGTHS)
        self.expected = generated(self.target, self.prompts, length)

    def prove_greedy(self, drafter: Any) -> list[Round]:
        rounds = []
        for prompt, expected in zip(self.prompts, self.expected, strict=True):
            one = decoded(self.target, drafter, prompt, LENGTH)
            assert emitted(one) == expected
            rounds += one
        return rounds


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"), *FAMILIES[request.param])


def plain_logits(target: Target, tokens: Sequence[int]) -> torch.Tensor:
    """(vocab,) behind those tokens, by the library's own call without any cache or mask of ours."""
    with torch.inference_mode():
        logits: torch.Tensor = target.lm.model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


def farthest_node(target: Target, prompt: Sequence[int]) -> float:
    """The largest difference of any logit of any node to a plain pass over the node's own path, over three rounds of a
    deep and wide tree behind a prompt that is longer than the windows."""
    known, farthest = list(prompt), 0.0
    target.begin(known, 100)
    for step in range(3):
        tree = Tree(torch.tensor([known[-1], *((7 * node + step) % VOCAB for node in range(1, 12))]), PARENTS)
        seen = target.verify(tree).logits
        for node in range(tree.size):
            expected = plain_logits(target, [*known, *tree.tokens[tree.path_to(node)].tolist()])
            farthest = max(farthest, float((seen[node] - expected).abs().max()))
        path = tree.path_to(7 if step == 0 else 10)
        target.commit(tree, path)
        known += [*tree.tokens[path].tolist(), 3]
    return farthest


def test_every_node_of_a_tree_is_a_plain_pass_over_its_path(family: Family) -> None:
    """In float64 to within 1e-14 (1e-5 where the library's own softmax is float32's), so that it is the same sum."""
    target = vt.load_target(family.target.folder, dtype="float64")
    assert farthest_node(target, family.prompts[3]) < (1e-5 if "Gemma2" in type(target.lm.model).__name__ else 1e-13)


def test_a_tree_mask_without_the_window_would_be_found_out(family: Family) -> None:
    target = vt.load_target(family.target.folder, dtype="float64")
    has_window = getattr(target.lm.config, "sliding_window", None) is not None
    target.lm.config = copy(target.lm.config)  # ours to make masks by; the model keeps its own
    target.lm.config.sliding_window = None
    assert (farthest_node(target, family.prompts[3]) > 1) == has_window


def test_the_plain_loop_is_generate(family: Family) -> None:
    family.prove_greedy(None)
    assert len({tuple(output) for output in family.expected}) > 3


@pytest.mark.parametrize("plan", [vt.Chain(4), TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("kept", [None, 25], ids=["full", "trimmed"])
def test_an_independent_drafter_of_the_same_family(family: Family, plan: Any, kept: int | None) -> None:
    full, cut = family.root / "drafter", family.root / "cut"
    if not full.exists():
        noisy_copy(family.target.folder, full, scale=0.02)
    if kept is not None and not cut.exists():
        small_models.trim(full, family.target.folder, range(kept), VOCAB, cut)
    drafter = vt.load_drafter(full if kept is None else cut, family.target, plan=plan)
    rounds = family.prove_greedy(drafter)
    assert any(one.accepted > 1 for one in rounds) and any(one.accepted < one.depth for one in rounds)


@pytest.mark.parametrize("kept", [None, 25], ids=["full", "trimmed"])
def test_an_eagle_drafter(family: Family, kept: int | None) -> None:
    """Its layers are Llama's, whatever the target's are."""
    full, cut = family.root / "EAGLE", family.root / "EAGLE, cut"
    sizes = {"hidden": 32, "intermediate": 48, "heads": 4, "kv_heads": 2, "head_dim": 8, "max_positions": 128}
    if not full.exists():
        small_models.write_drafter(full, "EAGLE", replace(small_models.shape(VOCAB), **sizes))
    if kept is not None and not cut.exists():
        small_models.trim(full, family.target.folder, range(kept), VOCAB, cut)
    drafter = vt.load_drafter(full if kept is None else cut, family.target, plan=vt.DynamicTree(60, 3, 20))
    assert sum(one.accepted for one in family.prove_greedy(drafter)) > 0


def test_gemma_2_keeps_its_soft_caps(tmp_path: Path) -> None:
    """An attention that ignored them would say other things; the library's eager one is the yardstick."""
    family = Family(tmp_path, *FAMILIES["Gemma 2"])
    eager = AutoModelForCausalLM.from_pretrained(family.target.folder, attn_implementation="eager", dtype=torch.float32)
    expected = plain_logits(Target(eager), family.prompts[3])
    assert float((plain_logits(family.target, family.prompts[3]) - expected).abs().max()) < 2e-5


STATEFUL: dict[str, dict[str, Any]] = {
    "MambaConfig": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Qwen3NextConfig": SIZES
    | {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "RwkvConfig": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    "RecurrentGemmaConfig": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "lru_width": 32,
    },
}


SHIFTED: dict[str, dict[str, Any]] = {
    "MptConfig": {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4},
    "BloomConfig": {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "FalconConfig": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "alibi": True,
    },
    "GPTNeoConfig": {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
    },
}


@pytest.mark.parametrize("config", SHIFTED)
def test_layers_that_count_entries_are_refused(config: str) -> None:
    """Under a tree, where siblings stand behind one another in the cache, their logits missed by 0.2 to 0.5."""
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**SHIFTED[config]))
    with pytest.raises(UnsupportedError, match="position from its place in the cache") as raised:
        Target(model)
    assert "\n" not in str(raised.value)


def test_no_output_crosses_a_change_of_rotation(tmp_path: Path) -> None:
    """Phi-3's longrope rotates all positions of a pass otherwise beyond a length. On either side of it decoding is
    `generate`'s; across it the keys in the cache would be of the other rotation (logits missed by over 1)."""
    ropes = {"rope_type": "longrope", "type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    family = Family(
        tmp_path, "Phi3Config", SIZES | {"original_max_position_embeddings": 24, "rope_scaling": ropes}, length=4
    )
    drafter = vt.load_drafter(noisy_copy(family.target.folder, tmp_path / "near", 0.02), family.target, plan=TREE)
    for length, new in ((5, 20), (1, 24), (26, 20), (40, 20)):
        prompts = random_prompts(1, VOCAB, [length], seed=length)
        expected = generated(family.target, prompts, new)
        assert [emitted(decoded(family.target, drafter, prompts[0], new))] == expected
    for length, new in ((5, 21), (1, 25), (25, 2), (24, 5)):
        with pytest.raises(InputError, match="rotates positions otherwise"):
            decoded(family.target, drafter, random_prompts(1, VOCAB, [length])[0], new)


@pytest.mark.parametrize("config", STATEFUL)
def test_layers_that_cannot_be_rewound_are_refused(config: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**STATEFUL[config]))
    model.save_pretrained(tmp_path / "target")
    with pytest.raises(UnsupportedError, match="cannot be rewound") as raised:
        vt.load_target(tmp_path / "target", dtype="float32")
    assert "\n" not in str(raised.value)
