"""Passes by the kernels against the plain path, which is the reference: logits, hidden states, prompts, chains, trees.

Random models of every family that the kernels know, windows among them that are smaller than what is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import vocabtrim as vt
from generation import decoded, emitted, random_prompts
from vocabtrim.decoding.target import Target
from vocabtrim.decoding.tree import Tree
from vocabtrim.errors import InputError

VOCAB, WINDOW = 40, 6
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SLIDING = SIZES | {"use_sliding_window": True, "sliding_window": WINDOW}
# Name -> config class, what it is made with.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", SIZES),
    "Llama, one head of keys": ("LlamaConfig", SIZES | {"num_key_value_heads": 1, "head_dim": 20}),
    "Llama, many queries to a key": ("LlamaConfig", SIZES | {"num_attention_heads": 24, "num_key_value_heads": 1}),
    "Llama, biases": ("LlamaConfig", SIZES | {"attention_bias": True, "mlp_bias": True}),
    "Llama 3's rotation": ("LlamaConfig", SIZES | {"rope_parameters": LLAMA3, "rope_scaling": LLAMA3}),
    "Llama, tied": ("LlamaConfig", SIZES | {"tie_word_embeddings": True}),
    "Llama, with a window in its config that it has not": ("LlamaConfig", SIZES | {"sliding_window": WINDOW}),
    "Qwen2": ("Qwen2Config", SIZES),
    "Qwen2, half of it sliding": ("Qwen2Config", SLIDING | {"max_window_layers": 2}),
    "Qwen3": ("Qwen3Config", SIZES),
    "Qwen3, all of it sliding": ("Qwen3Config", SLIDING | {"max_window_layers": 0}),
    "Mistral": ("MistralConfig", SIZES | {"sliding_window": None}),
    "Mistral, sliding": ("MistralConfig", SIZES | {"sliding_window": WINDOW}),
}
STATES = (0, 2, 4, -1)
PARENTS = (-1, 0, 0, 1, 1, 2, 3, 5, 6, 8, 9, 9)


def written(out: Path, config: str, sizes: dict[str, Any]) -> Path:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, config)(**sizes))
    for name, parameter in model.named_parameters():  # biases begin as nothing, norms as ones
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        assert name
    model.save_pretrained(out)
    return out


def both(folder: Path, dtype: str) -> tuple[Target, Target]:
    """By the kernels, and plain."""
    lean, plain = (vt.load_target(folder, dtype=dtype, lean=lean) for lean in (True, False))
    lean.lm.wait()
    assert lean.lm.way == "our kernels" and plain.lm.lean is None
    return lean, plain


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("model") / "target", *MODELS[request.param])


def test_passes_are_the_plain_ones(folder: Path) -> None:
    """A prompt longer than what is read at once, then trees behind trees, of which paths are committed."""
    lean, plain = both(folder, "float32")
    known = random_prompts(1, VOCAB, [600])[0]
    prompts = [target.begin(known, 700, STATES) for target in (lean, plain)]
    close(*prompts)
    for step, end in enumerate((7, 10, 4, 0)):
        tree = Tree(torch.tensor([known[-1], *((7 * node + step) % VOCAB for node in range(1, 12))]), PARENTS)
        mine, reference = (target.verify(tree, STATES) for target in (lean, plain))
        close(mine.logits, reference.logits)
        close(mine.hidden, reference.hidden)
        for target in (lean, plain):
            target.commit(tree, tree.path_to(end))
        known += [*tree.tokens[tree.path_to(end)].tolist(), 3]
        chain = Tree.chain(known[-1], [5, 9, 1])
        close(*(target.verify(chain).logits for target in (lean, plain)))
        for target in (lean, plain):
            target.commit(chain, [1, 2])
        known += [5, 9, 1]


def close(found: Any, expected: Any) -> None:
    """To what the order of sums makes of float32 in numbers of that size."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=2e-5)


def test_the_likeliest_ids_are_those_of_the_logits(folder: Path) -> None:
    lean, _ = both(folder, "bfloat16")
    tree = Tree(torch.tensor([3, *((7 * node) % VOCAB for node in range(1, 12))]), PARENTS)
    found = []
    for likeliest in (False, True):
        lean.begin(random_prompts(1, VOCAB, [9])[0], 40)
        found.append(lean.verify(tree, likeliest=likeliest))
    assert found[0].likeliest is None and found[1].logits.shape == (0, VOCAB)
    assert torch.equal(found[1].likeliest, found[0].logits.argmax(dim=-1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_node_rounds_exactly_as_at_the_end_of_a_chain(folder: Path, dtype: str) -> None:
    """Logits and hidden states to the bit, whether a token was read by itself, in a prompt, a chain or a tree: that is
    why half precision emits the same tokens with a drafter as without."""
    lean, _ = both(folder, dtype)
    known = random_prompts(1, VOCAB, [300])[0]
    tree = Tree(torch.tensor([known[-1], *((7 * node) % VOCAB for node in range(1, 12))]), PARENTS)
    lean.begin(known, 400)
    seen = lean.verify(tree, STATES)
    for node in range(tree.size):
        tokens = [*known, *tree.tokens[tree.path_to(node)].tolist()]
        lean.begin(tokens[:200], 400)  # the prompt in two parts of other sizes, then token by token
        lean.lm.run(torch.tensor(tokens[199:297]))
        for token in tokens[297:]:
            one = lean.lm.run(torch.tensor([token]), states=STATES)
        assert torch.equal(one.logits[0], seen.logits[node]) and one.hidden is not None and seen.hidden is not None
        assert torch.equal(one.hidden[0], seen.hidden[node])


def test_greedy_in_bfloat16_is_the_plain_loops(folder: Path) -> None:
    """With a drafter, here the model itself with another head's rounding, as without: token for token."""
    target, _ = both(folder, "bfloat16")
    plans = [vt.Chain(4), vt.DynamicTree(12, 3, 4)]
    noisy = vt.load_drafter(folder, target, plan=plans[0])
    for parameter in noisy.body.lm.model.parameters():
        if parameter.dim() == 2:
            parameter.data += 0.1 * parameter.data.std() * torch.randn_like(parameter)
    accepted = drafted = 0
    for plan in plans:
        noisy.plan = plan
        for prompt in random_prompts(6, VOCAB, [1, 4, 30], seed=3):
            rounds = decoded(target, noisy, prompt, 40)
            assert emitted(rounds) == emitted(decoded(target, None, prompt, 40))
            accepted += sum(one.accepted for one in rounds)
            drafted += sum(one.drafted for one in rounds)
    assert 0 < accepted < drafted


REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "another family": ("GemmaConfig", SIZES, "float32", "GemmaForCausalLM is none of"),
    "another activation": ("LlamaConfig", SIZES | {"hidden_act": "gelu"}, "float32", "activation is gelu"),
    "wider numbers": ("LlamaConfig", SIZES, "float64", "weights are float64"),
    "other halves": ("LlamaConfig", SIZES, "float16", "weights are float16"),
    "a rotation that changes with length": (
        "LlamaConfig",
        SIZES
        | {
            name: {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
            for name in ("rope_parameters", "rope_scaling")
        },
        "float32",
        "rotated by dynamic",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_kernels_do_not_know_goes_the_plain_way(tmp_path: Path, name: str) -> None:
    config, sizes, dtype, reason = REFUSED[name]
    target = vt.load_target(written(tmp_path / "target", config, sizes), dtype=dtype)
    assert target.lm.lean is None and reason in target.lm.way
    if dtype != "float16":
        assert len(emitted(decoded(target, None, [3, 4], 5))) == 5


def test_a_wrapped_projection_goes_the_plain_way(tmp_path: Path) -> None:
    """As an adapter would: weights of the module inside are not all that it computes."""

    class Adapted(torch.nn.Linear):
        pass

    target = vt.load_target(written(tmp_path / "target", "LlamaConfig", SIZES), dtype="float32")
    target.lm.model.model.layers[2].mlp.up_proj = Adapted(48, 72)
    again = Target(target.lm.model)
    assert again.lm.lean is None and "Adapted" in again.lm.way


def test_what_the_kernels_would_pass_by_goes_the_plain_way(tmp_path: Path) -> None:
    """A hook that somebody set, a head in other numbers than the layers."""
    model = vt.load_target(written(tmp_path / "target", "LlamaConfig", SIZES), dtype="float32").lm.model
    hook = model.model.layers[0].register_forward_hook(lambda *_: None)
    assert "hooks" in Target(model).lm.way
    hook.remove()
    assert Target(model).lm.lean is not None
    model.lm_head.bfloat16()
    assert "head" in Target(model).lm.way


def test_a_token_without_an_embedding_is_refused(tmp_path: Path) -> None:
    lean, _ = both(written(tmp_path / "target", "LlamaConfig", SIZES), "float32")
    lean.begin([1, 2], 8)
    for token in (-1, VOCAB):
        with pytest.raises(InputError, match="outside the model's vocabulary"):
            lean.lm.run(torch.tensor([token]))
    with pytest.raises(InputError, match="no room"):
        lean.lm.run(torch.arange(20))
