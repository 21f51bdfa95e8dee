"""What is written for SGLang, opened by torch and safetensors alone and read by the rules of SGLang 0.5.23's files.

tests/engines/test_exports.py (mark `engine`) reads the same folders by SGLang's own code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from drafters import DRAFTERS
from trimmed_drafters import DEEPSEEK, EAGLE, EAGLE3, trimmed
from vocabtrim.errors import InputError, UnsupportedError
from vocabtrim.exports.export import export
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

TRIMMED = [name for name in DRAFTERS if name.startswith(("EAGLE", "MTP"))]


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def ids_of(drafter: Path) -> torch.Tensor:
    return torch.from_numpy(KeptVocabulary.load(drafter / "kept.safetensors").ids.copy())


@pytest.mark.parametrize("name", [name for name in TRIMMED if not name.startswith("EAGLE-3")])
def test_a_token_map_cuts_the_targets_head_to_the_trimmed_one(name: str, tmp_path: Path) -> None:
    """eagle_worker_v2.py, `init_lm_head`: head.data[hot_token_id]. Those rows are the trimmed head, bit for bit."""
    drafter, owner = trimmed(tmp_path, name)
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    hot = torch.load(tmp_path / "out" / "hot_tokens.pt", weights_only=True)
    assert isinstance(hot, list) and torch.equal(torch.tensor(hot, dtype=torch.int64), ids_of(drafter))
    head = load_file(owner / "model.safetensors")["lm_head.weight"]
    [trimmed_head] = [
        part for name, part in load_file(drafter / "model.safetensors").items() if name.endswith("head.weight")
    ]
    assert torch.equal(head[torch.tensor(hot)], trimmed_head)


@pytest.mark.parametrize("name", [name for name in TRIMMED if name.startswith("EAGLE-3")])
def test_an_eagle3_folder_holds_rows_and_offsets(name: str, tmp_path: Path) -> None:
    """llama_eagle3.py, `load_weights`: hot_token_id = d2t + arange; the rest by name."""
    drafter, owner = trimmed(tmp_path, name)
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    written, source = load_file(tmp_path / "out" / "model.safetensors"), load_file(drafter / "model.safetensors")
    assert torch.equal(written["d2t"] + torch.arange(written["d2t"].shape[0]), ids_of(drafter))
    for part, tensor in source.items():
        assert torch.equal(written[part.replace("midlayer.", "layers.0.")], tensor)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle3"] and config["tie_word_embeddings"] is False
    assert config["draft_vocab_size"] == written["lm_head.weight"].shape[0] and config["vocab_size"] == TINY.head_rows


def test_rows_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    """Row i of what is written is the source's row of the same id, whatever the source's order was."""
    drafter, _ = trimmed(tmp_path, EAGLE3)
    weights = load_file(drafter / "model.safetensors")
    ids = ids_of(drafter)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(ids)))
    shuffled = weights | {
        "lm_head.weight": weights["lm_head.weight"][order],
        "d2t": ids[order] - torch.arange(len(ids)),
    }
    del shuffled["t2d"]
    (drafter / "kept.safetensors").unlink()
    edit(drafter, vocabtrim=None)
    save_file(shuffled, drafter / "model.safetensors")
    export(drafter, "sglang", out=tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], weights["lm_head.weight"]) and torch.equal(
        written["d2t"], weights["d2t"]
    )


def test_a_body_without_bias_gets_one_of_zeros(tmp_path: Path) -> None:
    """llama_eagle.py: fc is a Linear with a bias, and what no file holds stays as torch drew it."""
    drafter, owner = trimmed(tmp_path, "EAGLE, no fc bias")
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["fc.bias"].shape == (TINY.hidden,) and not written["fc.bias"].any()
    assert written["fc.bias"].dtype == written["fc.weight"].dtype and "lm_head.weight" not in written
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLMEagle"]
    assert "bias" not in config  # SGLang's Llama would give its attention biases for it


def test_qwen2_bodies_are_named_as_such(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE)
    weights = load_file(drafter / "model.safetensors")
    biases = {
        f"layers.0.self_attn.{part}_proj.bias": weights[f"layers.0.self_attn.{part}_proj.weight"][:, 0].clone()
        for part in "qkv"
    }
    save_file(weights | biases, drafter / "model.safetensors")
    export(drafter, "sglang", out=tmp_path / "out", target=owner)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLMEagle"] and config["model_type"] == "qwen2"


def test_commands_name_what_was_written(tmp_path: Path) -> None:
    for name, algorithm in ((EAGLE, "EAGLE"), (EAGLE3, "EAGLE3"), (DEEPSEEK, "NEXTN")):
        drafter, owner = trimmed(tmp_path / algorithm, name)
        out = tmp_path / algorithm / "out with blanks"
        serving = export(drafter, "sglang", out=out, target=owner).serving
        assert f"--speculative-algorithm {algorithm} " in serving.command and f"--model-path {owner}" in serving.command
        assert ("--speculative-token-map" in serving.command) == (algorithm != "EAGLE3")
        assert ("--speculative-draft-model-path" in serving.command) == (algorithm != "NEXTN")
        assert f"'{out}" in serving.command  # quoted, as a shell needs it
        told = " ".join(serving.warnings)
        assert "--speculative-use-rejection-sampling" in told
        assert ("--tp 1" in told) == (algorithm != "EAGLE3")


def test_quantized_and_tied_targets_are_warned_of(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE)
    weights = load_file(owner / "model.safetensors")
    weights["lm_head.weight_scale"] = torch.ones(weights["lm_head.weight"].shape[0], 1)
    save_file(weights, owner / "model.safetensors")
    told = " ".join(export(drafter, "sglang", out=tmp_path / "quantized", target=owner).serving.warnings)
    assert "lm_head.weight_scale" in told and "unquantized head" in told
    assert "unquantized head" in " ".join(export_without_target(drafter, tmp_path / "unknown"))


def export_without_target(drafter: Path, out: Path) -> tuple[str, ...]:
    return export(drafter, "sglang", out=out).serving.warnings


def test_a_tied_target_of_eagle_is_warned_of_and_of_mtp_refused(tmp_path: Path) -> None:
    """qwen3_5_mtp.py keeps a tied module's whole head, and the worker would still map its rows."""
    drafter, owner = trimmed(tmp_path / "eagle", "EAGLE, no fc bias")
    weights = load_file(owner / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights.pop("lm_head.weight")
    save_file(weights, owner / "model.safetensors")
    edit(owner, tie_word_embeddings=True)
    assert "ties its head" in " ".join(export(drafter, "sglang", out=tmp_path / "out", target=owner).serving.warnings)
    drafter, owner = trimmed(tmp_path / "mtp", "MTP, Qwen3-Next")
    weights = load_file(owner / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["lm_head.weight"].clone()
    save_file(weights, owner / "model.safetensors")
    edit(owner, tie_word_embeddings=True)
    with pytest.raises(UnsupportedError, match="would draft wrong ids"):
        export(drafter, "sglang", out=tmp_path / "tied", target=owner)
    assert not (tmp_path / "tied").exists()


@pytest.mark.parametrize(("name", "why"), [("independent", "STANDALONE"), ("Medusa, .pt", "no Medusa worker")])
def test_what_sglang_cannot_serve_is_refused_with_the_reason(name: str, why: str, tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, name)
    with pytest.raises(UnsupportedError, match=why):
        export(drafter, "sglang", out=tmp_path / "out", target=owner)
    assert not (tmp_path / "out").exists()


def test_mtp_needs_the_checkpoint_that_holds_the_module(tmp_path: Path) -> None:
    drafter, _ = trimmed(tmp_path, DEEPSEEK)
    with pytest.raises(InputError, match="pass it with --target"):
        export(drafter, "sglang", out=tmp_path / "out")
    with pytest.raises(InputError, match="holds no MTP module"):
        other = shapes.write_target(tmp_path / "other", TINY, seed=1)
        export(drafter, "sglang", out=tmp_path / "out", target=other)


ALIEN: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "self_attn.q_norm": lambda weights: {"midlayer.self_attn.q_norm.weight": torch.ones(16)},
    "self_attn.q_proj.bias": lambda weights: {"midlayer.self_attn.q_proj.bias": torch.ones(64)},
    "fc.bias": lambda weights: {"fc.bias": torch.ones(weights["fc.weight"].shape[0])},
}


@pytest.mark.parametrize("name", ALIEN)
def test_tensors_that_sglang_would_leave_unread_are_refused(name: str, tmp_path: Path) -> None:
    drafter, _ = trimmed(tmp_path, EAGLE3)
    weights = load_file(drafter / "model.safetensors")
    save_file(weights | ALIEN[name](weights), drafter / "model.safetensors")
    with pytest.raises(UnsupportedError, match=r"SGLang has no place for .* silently \(srt/models/llama_eagle3.py\)"):
        export(drafter, "sglang", out=tmp_path / "out")


def test_a_residual_that_sglang_does_not_compute_is_refused(tmp_path: Path) -> None:
    drafter, _ = trimmed(tmp_path, EAGLE3)
    edit(drafter, norm_before_residual=True)
    with pytest.raises(UnsupportedError, match="norm_before_residual false"):
        export(drafter, "sglang", out=tmp_path / "out")


def test_states_are_named_where_sglang_looks_for_them(tmp_path: Path) -> None:
    """spec_aux_hidden_state.py reads `eagle_config` alone; at the top they would go unseen."""
    drafter, _ = trimmed(tmp_path, EAGLE3)
    edit(drafter, eagle_aux_hidden_state_layer_ids=[1, 3, 4], norm_output=True)
    export(drafter, "sglang", out=tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 3, 4] and config["norm_output"] is True
