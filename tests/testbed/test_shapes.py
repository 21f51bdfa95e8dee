"""The random models are what their publishers' files look like, and the libraries that read those read these."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from vocabtrim.provenance import sha256_file
from vocabtrim.testbed import shapes
from vocabtrim.testbed.builtin import TOKENIZER
from vocabtrim.testbed.shapes import TINY

H, V = TINY.hidden, TINY.vocab


def config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


def generate(folder: Path, loader: Any = AutoModelForCausalLM) -> tuple[list[int], dict[str, Any]]:
    """Eight greedy tokens in float32, and what the loader found missing or unexpected."""
    model, report = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    tokens = model.generate(torch.tensor([[1, 7, 9]]), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert model.generation_config.eos_token_id == [2]
    return tokens[0].tolist(), report


@pytest.mark.parametrize("shape", [TINY, replace(TINY, tie=True), replace(TINY, architecture="qwen2", head_rows=576)])
def test_target_generates_single_and_sharded(shape: shapes.ModelShape, tmp_path: Path) -> None:
    shapes.write_target(tmp_path / "one", shape, seed=3)
    shapes.write_target(tmp_path / "three", shape, seed=3, shards=3)
    tokens, report = generate(tmp_path / "one")
    assert not report["unexpected_keys"]
    assert generate(tmp_path / "three")[0] == tokens
    index = json.loads((tmp_path / "three" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 3
    assert ("lm_head.weight" in index["weight_map"]) == (not shape.tie)
    assert config(tmp_path / "one")["vocab_size"] == shape.head_rows


def test_independent_carries_a_head_bias(tmp_path: Path) -> None:
    shapes.write_independent(tmp_path / "drafter", TINY, seed=3, head_bias=True)
    _, report = generate(tmp_path / "drafter")
    assert set(report["unexpected_keys"]) == {"lm_head.bias"}  # a Llama has none; other families do


def test_the_seed_is_the_model(tmp_path: Path) -> None:
    hashes = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        shapes.write_eagle(tmp_path / name, TINY, seed=seed)
        hashes.append(sha256_file(tmp_path / name / "model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]


def test_rows_differ_and_are_finite(tmp_path: Path) -> None:
    """A wrong row must never compare equal to the right one, in small and in large matrices."""
    shape = replace(TINY, vocab=80_000, head_rows=80_000)
    shapes.write_independent(tmp_path / "drafter", shape, seed=0)
    head = load_file(tmp_path / "drafter" / "model.safetensors")["lm_head.weight"]
    assert torch.isfinite(head).all()
    assert len(np.unique(head.view(torch.int16).numpy(), axis=0)) == 80_000


def test_sparse_target_is_holes_between_real_matrices(tmp_path: Path) -> None:
    shape = replace(TINY, hidden=256, intermediate=4096, layers=4)
    shapes.write_target(tmp_path / "target", shape, seed=0, sparse=True)
    file = tmp_path / "target" / "model.safetensors"
    tensors = load_file(file)
    assert tensors["lm_head.weight"].std() > 0.01 and tensors["model.embed_tokens.weight"].std() > 0.01
    assert not tensors["model.layers.3.mlp.down_proj.weight"].any()
    stat = file.stat()
    assert stat.st_blocks * 512 < stat.st_size / 10


def names(folder: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}


def test_eagle_has_no_head_no_input_norm_no_final_norm(tmp_path: Path) -> None:
    held = names(shapes.write_eagle(tmp_path / "eagle", TINY, seed=0))
    assert held["fc.weight"] == ([H, 2 * H], "BF16") and held["embed_tokens.weight"] == ([V, H], "BF16")
    assert "fc.bias" in held and "bias" not in config(tmp_path / "eagle")
    assert not {"lm_head.weight", "norm.weight", "layers.0.input_layernorm.weight"} & set(held)
    held = names(shapes.write_eagle(tmp_path / "bare", TINY, seed=0, embed=False, fc_bias=False))
    assert not {"fc.bias", "embed_tokens.weight"} & set(held)
    assert config(tmp_path / "bare")["bias"] is False


def test_bin_files_hold_the_same_and_load_as_weights_only(tmp_path: Path) -> None:
    shapes.write_eagle(tmp_path / "bin", TINY, seed=4, container="bin")
    shapes.write_eagle(tmp_path / "safe", TINY, seed=4)
    state = torch.load(tmp_path / "bin" / "pytorch_model.bin", weights_only=True)
    tensors = load_file(tmp_path / "safe" / "model.safetensors")
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in state)


@pytest.mark.parametrize("block", ["midlayer", "layers.0"])
def test_eagle3_maps_agree_with_each_other(block: Any, tmp_path: Path) -> None:
    folder = shapes.write_eagle3(tmp_path / "eagle3", TINY, seed=0, draft_vocab=100, block=block)
    tensors = load_file(folder / "model.safetensors")
    assert tensors["fc.weight"].shape == (H, 3 * H) and tensors["lm_head.weight"].shape == (100, H)
    assert tensors[f"{block}.self_attn.q_proj.weight"].shape == (TINY.query, 2 * H)
    ids = tensors["d2t"] + torch.arange(100)
    assert torch.equal(ids, tensors["t2d"].nonzero()[:, 0])
    assert set(TINY.eos) <= set(ids.tolist())
    assert tensors["t2d"].dtype is torch.bool and tensors["d2t"].dtype is torch.int64
    assert config(folder)["draft_vocab_size"] == 100


def test_eagle3_map_variants(tmp_path: Path) -> None:
    frequent = np.array([40, 3, 200])
    folder = shapes.write_eagle3(tmp_path / "unsorted", TINY, seed=0, draft_vocab=3, kept_ids=frequent, container="bin")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    assert state["d2t"].tolist() == [40, 2, 198] and state["t2d"].sum() == 3
    zero = names(shapes.write_eagle3(tmp_path / "zero", TINY, seed=0, draft_vocab=V, maps="zero", embed=True))
    assert zero["d2t"] == ([V], "I64") and "t2d" not in zero and "embed_tokens.weight" in zero
    none = names(shapes.write_eagle3(tmp_path / "none", TINY, seed=0, draft_vocab=V, maps=False))
    assert not {"d2t", "t2d", "embed_tokens.weight"} & set(none)


def test_medusa_config_says_two_and_the_file_holds_five(tmp_path: Path) -> None:
    folder = shapes.write_medusa(tmp_path / "medusa", TINY, seed=0, layers=2)
    state = torch.load(folder / "medusa_lm_head.pt", weights_only=True)
    assert {name.split(".")[0] for name in state} == set("01234")
    assert state["4.2.weight"].shape == (V, H) and state["4.1.linear.bias"].shape == (H,)
    assert config(folder)["medusa_num_heads"] == 2 and config(folder)["medusa_num_layers"] == 2
    merged = shapes.write_medusa(tmp_path / "merged", TINY, seed=0, container="safetensors", merged=True)
    assert {"model.norm.weight", "lm_head.weight", "medusa_head.4.1.weight"} <= set(names(merged))


@pytest.mark.parametrize(
    ("family", "loader", "block", "head"),
    [
        ("deepseek", AutoModelForCausalLM, "model.layers.2.", "model.layers.2.shared_head.head.weight"),
        ("qwen3-next", AutoModelForCausalLM, "mtp.", "lm_head.weight"),
        ("mimo", Qwen2ForCausalLM, "model.mtp_layers.0.", "lm_head.weight"),
    ],
)
def test_mtp_is_a_block_inside_a_target_that_generates(
    family: Any, loader: Any, block: str, head: str, tmp_path: Path
) -> None:
    """The library knows the three architectures and loads them whole; all it leaves aside is the block."""
    folder = shapes.write_mtp(tmp_path / family, TINY, seed=0, family=family)
    _, report = generate(folder, loader)
    assert all(name.startswith(block) for name in report["unexpected_keys"])
    tensors = load_file(folder / "model.safetensors")
    assert any(name.startswith(block) for name in tensors)
    assert torch.equal(tensors[head], tensors["lm_head.weight"])


@pytest.mark.parametrize(("name", "parameters"), [("llama-3.1-8b", 8_030_261_248), ("qwen2.5-7b", 7_615_616_512)])
@pytest.mark.slow
def test_real_shapes_have_the_published_size(name: str, parameters: int, tmp_path: Path) -> None:
    """As many parameters as the model cards say, on disk as two bytes each, most of them holes."""
    folder = shapes.REAL[name](tmp_path / "target", None)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * parameters
    assert sum(path.stat().st_blocks * 512 for path in folder.iterdir()) < 2.5e9


def test_command_copies_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_tiny(out: Path, tokenizer: Path | None) -> Path:
        return shapes.write_target(out, TINY, seed=0, tokenizer=tokenizer)

    monkeypatch.setitem(shapes.REAL, "tiny", write_tiny)
    assert shapes.main(["tiny", str(tmp_path / "out"), str(TOKENIZER)]) == 0
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (TOKENIZER / "tokenizer.json").read_bytes()


def test_command_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert shapes.main(["no-such-model", "out"]) == 2
    assert "llama-3.1-8b-eagle3" in capsys.readouterr().err
