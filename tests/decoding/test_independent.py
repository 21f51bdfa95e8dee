"""Independent drafters whose files differ from Llama's: biased heads, matrices stored as one, gates in attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import small_models
import vocabtrim as vt
from generation import decoded, emitted, noisy_copy, random_prompts

VOCAB, LENGTH, KEPT = 40, 16, range(36)
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
COMMON = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
# Config class -> what it is made with.
FAMILIES: dict[str, dict[str, Any]] = {
    "PhiConfig": SIZES | COMMON,
    "GPTJConfig": SIZES | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64, "rotary_dim": 4},
    "Phi3Config": SIZES | COMMON,
    "AfmoeConfig": SIZES | COMMON | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
BIASED = ["PhiConfig", "GPTJConfig"]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """target, near (the target with noise) and cut (near, trimmed) of one family."""
    root = tmp_path_factory.mktemp("family")
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(getattr(transformers, request.param)(**FAMILIES[request.param]))
    head = model.get_output_embeddings()
    assert (head.bias is not None) == (request.param in BIASED)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias, std=2.0)
    model.save_pretrained(root / "target")
    noisy_copy(root / "target", root / "near", scale=0.02)
    small_models.trim(root / "near", root / "target", KEPT, VOCAB, root / "cut")
    return root


@pytest.mark.parametrize("name", ["near", "cut"])
def test_greedy_output_is_the_targets_and_drafts_are_accepted(
    folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    target = vt.load_target(folder / "target", dtype="float32")
    drafter = vt.load_drafter(folder / name, target)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())
    rounds = []
    for prompt in random_prompts(6, VOCAB, [1, 3, 9]):
        one = decoded(target, drafter, prompt, LENGTH)
        assert emitted(one) == emitted(decoded(target, None, prompt, LENGTH))
        rounds += one
    assert sum(one.accepted for one in rounds) > len(rounds) // 3


def test_memory_that_ends_while_loading_is_not_the_folders_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    with pytest.raises(torch.OutOfMemoryError):
        vt.load_target(folder / "target")
