"""Trimmed EAGLE-3 drafters as GGUF: what llama.cpp's own reader finds in the file, and what is refused.

That the engine loads it, drafts with it and that its own converter writes the same: tests/engines/test_llama_cpp.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vocabtrim as vt
from drafter_files import widen
from drafters import DRAFTERS
from tiny_tokenizer import edit, train
from vocabtrim.calibrate.tokenizer import tokenizer_facts
from vocabtrim.checkpoint.check import check
from vocabtrim.errors import InputError, MismatchError, UnsupportedError
from vocabtrim.exports.export import export
from vocabtrim.exports.llama_cpp import FILE, read_ids
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY, ModelShape
from vocabtrim.vocabulary.kept import KeptVocabulary

KEPT = 200
SHAPE = replace(TINY, layers=8, vocab=408, head_rows=416, bos=402, eos=(403,))  # the tiny tokenizer, and padded rows

BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_norm_2": "hidden_norm",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
AS_THEY_ARE = {
    "fc.weight": "fc.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
    **{f"blk.0.{theirs}.weight": f"midlayer.{ours}.weight" for theirs, ours in BLOCK.items()},
}


class World:
    """A target with a tokenizer, and drafters for it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tokenizer = folder, train(folder / "tokenizer")
        assert tokenizer_facts(self.tokenizer).vocab_size == SHAPE.vocab
        self.target = shapes.write_target(folder / "target", SHAPE, seed=1, tokenizer=self.tokenizer)

    def drafter(self, name: str, shape: ModelShape = SHAPE, config: dict[str, Any] | None = None, **how: Any) -> Path:
        """An EAGLE-3 drafter of the target, with a full head."""
        full = {"draft_vocab": shape.head_rows, "kept_ids": np.arange(shape.head_rows), "maps": False}
        return widen(shapes.write_eagle3(self.folder / name, shape, seed=4, **full, **how), config)

    def cut(self, drafter: Path, target: Path | None = None) -> Path:
        """The drafter trimmed to ids drawn at random, the stop id among them."""
        ids = shapes.draw_ids(SHAPE, KEPT, seed=0)
        kept = KeptVocabulary(ids, SHAPE.vocab, tokenizer_facts(self.tokenizer).hash)
        out = drafter.with_name(f"{drafter.name}-cut")
        return vt.trim(drafter, kept, target=target or self.target, out=out).out


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Entries and tensors by the library; tensors as float32, or as the integers that they are."""
    reader = gguf.GGUFReader(folder / FILE)
    entries = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {}
    for tensor in reader.tensors:
        integer = np.issubdtype(tensor.data.dtype, np.integer) and tensor.data.dtype != np.uint8
        tensors[tensor.name] = tensor.data if integer else gguf.dequantize(tensor.data, tensor.tensor_type)
    return entries, tensors


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("block", ["midlayer", "layers.0"])
def test_every_tensor_is_the_drafters_own(world: World, dtype: str, block: Any, tmp_path: Path) -> None:
    folder = world.cut(world.drafter("drafter", block=block))
    stored = load_file(folder / "model.safetensors")
    stored = {name: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for name, t in stored.items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(without_hashes(folder)))
    export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    entries, tensors = read(tmp_path / "out")
    theirs = {name.replace("layers.0.", "midlayer."): value for name, value in stored.items()}
    for name, ours in AS_THEY_ARE.items():
        np.testing.assert_array_equal(tensors[name], theirs[ours].float().numpy(), err_msg=name)
    for letter, heads in (("q", SHAPE.heads), ("k", SHAPE.kv_heads)):
        rows = theirs[f"midlayer.self_attn.{letter}_proj.weight"].float().numpy()
        halves = rows.reshape(heads, 2, SHAPE.head_dim // 2, -1)
        found = tensors[f"blk.0.attn_{letter}.weight"].reshape(heads, SHAPE.head_dim // 2, 2, -1)
        np.testing.assert_array_equal(found[:, :, 0], halves[:, 0])  # neighbours 2i, 2i + 1 were i, i + half
        np.testing.assert_array_equal(found[:, :, 1], halves[:, 1])
    kept = KeptVocabulary.load(folder / "kept.safetensors").ids
    assert tensors["d2t"].dtype == np.int64 and tensors["d2t"].tolist() == kept.tolist()
    assert len(tensors) == len(AS_THEY_ARE) + 3
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out" / FILE).tensors}
    assert types["output.weight"] == {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]
    assert {types[name] for name in types if "norm" in name} == {"F32"}
    assert entries["general.file_type"] == {"bfloat16": 32, "float16": 1, "float32": 0}[dtype]


def without_hashes(folder: Path) -> dict[str, Any]:
    """The config of a trimmed folder whose weights are changed on purpose."""
    about: dict[str, Any] = json.loads((folder / "config.json").read_text())
    about.pop("vocabtrim")
    return about


def test_the_numbers_and_the_tokens(world: World, tmp_path: Path) -> None:
    folder = world.cut(world.drafter("drafter", config={"norm_before_residual": True}))
    written = export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    entries, _ = read(tmp_path / "out")
    said = {name.removeprefix("eagle3."): value for name, value in entries.items() if name.startswith("eagle3.")}
    assert said == {
        "block_count": 1,
        "context_length": 512,
        "embedding_length": 64,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "rope.dimension_count": 16,
        "rope.freq_base": 10_000.0,
        "vocab_size": 416,
        "target_layers": [2, 4, 5],
        "target_hidden_size": 64,
        "norm_before_residual": True,
        "norm_before_fc": False,
    }
    tokens = entries["tokenizer.ggml.tokens"]
    vocab = json.loads((world.tokenizer / "tokenizer.json").read_bytes())["model"]["vocab"]
    assert len(tokens) == 416 and all(tokens[token] == text for text, token in vocab.items())
    assert tokens[408:] == [f"[PAD{token}]" for token in range(408, 416)]
    types = np.array(entries["tokenizer.ggml.token_type"])
    assert (types[:402] == 1).all() and (types[402:408] == 3).all() and (types[408:] == 5).all()
    assert entries["tokenizer.ggml.model"] == "gpt2" and len(entries["tokenizer.ggml.merges"]) > 100
    assert entries["vocabtrim.kept_hash"] == KeptVocabulary.load(folder / "kept.safetensors").hash
    assert "draft-eagle3" in written.serving.command and str(tmp_path / "out" / FILE) in written.serving.command
    assert str(world.target) in written.serving.command


def test_the_file_is_a_map_for_check_and_convert(world: World, tmp_path: Path) -> None:
    """Its map is read as any other engine's, and its tokenizer's hash is held against the target's."""
    export(world.cut(world.drafter("drafter")), "llama-cpp", target=world.target, out=tmp_path / "out")
    found = vt.read_map(tmp_path / "out" / FILE)
    assert found.ids.tolist() == read_ids(tmp_path / "out").tolist() and found.target_vocab == 416
    assert check(tmp_path / "out" / FILE, world.target).ok
    other = edit(world.tokenizer, tmp_path / "other", swap_two_tokens)
    stranger = shapes.write_target(tmp_path / "stranger", SHAPE, seed=1, tokenizer=other)
    assert "tokenizer.other" in {problem.rule for problem in check(tmp_path / "out" / FILE, stranger).problems}


def swap_two_tokens(said: dict[str, Any]) -> None:
    vocab = said["model"]["vocab"]
    first, second = list(vocab)[300:302]
    vocab[first], vocab[second] = vocab[second], vocab[first]


def test_rows_in_another_order_keep_it(world: World, tmp_path: Path) -> None:
    """Model-Optimizer's maps are in order of frequency: row i of the head stays row i, and d2t[i] its id."""
    ids = np.random.default_rng(1).permutation(shapes.draw_ids(SHAPE, KEPT, seed=2))
    folder = widen(shapes.write_eagle3(tmp_path / "d", SHAPE, seed=4, draft_vocab=KEPT, kept_ids=ids))
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("t2d")  # a mask knows no order
    save_file(tensors, folder / "model.safetensors")
    export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    _, found = read(tmp_path / "out")
    assert found["d2t"].tolist() == ids.tolist() == read_ids(tmp_path / "out").tolist()
    np.testing.assert_array_equal(found["output.weight"], tensors["lm_head.weight"].float().numpy())


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}),
        (
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256, "beta_fast": 16.0},
            {"type": "yarn", "factor": 2.0, "original_context_length": 256, "yarn_beta_fast": 16.0},
        ),
    ],
)
def test_scaled_positions(world: World, rope: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    folder = world.cut(world.drafter("drafter", config={"rope_scaling": rope}))
    export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    entries, _ = read(tmp_path / "out")
    start = "eagle3.rope.scaling."
    assert {name[len(start) :]: value for name, value in entries.items() if name.startswith(start)} == expected


def test_llama3s_scaling_is_that_of_transformers(world: World, tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    folder = world.cut(world.drafter("drafter", config={"rope_scaling": rope}))
    export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    _, tensors = read(tmp_path / "out")
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_theta=10_000.0, rope_scaling=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(tensors["rope_freqs.weight"], plain / scaled.numpy(), rtol=1e-5)
    assert len(set(tensors["rope_freqs.weight"].round(4).tolist())) > 2  # plain, divided, and in between


def test_a_tokenizer_with_byte_tokens(data: Path, tmp_path: Path) -> None:
    """Mistral's and Llama 2's: pieces with scores, and a token for each byte."""
    tokenizer = data / "tokenizers" / "mistral-v0.1"
    shape = replace(TINY, layers=6, vocab=32_000, head_rows=32_000)
    target = shapes.write_target(tmp_path / "target", shape, seed=1, tokenizer=tokenizer)
    folder = shapes.write_eagle3(tmp_path / "drafter", shape, seed=4, draft_vocab=KEPT)
    export(folder, "llama-cpp", target=target, out=tmp_path / "out")
    entries, _ = read(tmp_path / "out")
    types = np.array(entries["tokenizer.ggml.token_type"])
    assert entries["tokenizer.ggml.model"] == "llama" and entries["tokenizer.ggml.tokens"][13] == "<0x0A>"
    assert (types == 6).sum() == 256 and (types == 3).sum() == 3
    assert "tokenizer.ggml.merges" not in entries and len(entries["tokenizer.ggml.scores"]) == 32_000


# Refusals


Spoil = Callable[[dict[str, torch.Tensor]], None]


def second_layer(tensors: dict[str, torch.Tensor]) -> None:
    block = {name: value for name, value in tensors.items() if name.startswith("layers.0.")}
    tensors.update({name.replace("layers.0.", "layers.1."): value.clone() for name, value in block.items()})


def head_norms(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.0.self_attn.q_norm.weight"] = torch.ones(16)


def a_bias(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.0.self_attn.q_proj.bias"] = torch.ones(64)


def packed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["fc.weight"] = torch.zeros(tensors["fc.weight"].shape, dtype=torch.float8_e4m3fn)


SPOILT: dict[str, tuple[dict[str, Any], Spoil, str]] = {
    "several layers": ({"num_hidden_layers": 2}, second_layer, r"several layers.*one decoder layer.*found 2: layers.0"),
    "Qwen3's attention": ({}, head_norms, "no place for it.*found the tensor layers.0.self_attn.q_norm.weight.*vLLM"),
    "a bias": ({}, a_bias, "found the tensor layers.0.self_attn.q_proj.bias"),
    "quantized": ({}, packed, "fc.weight .*quantized.*expected F32, F16, BF16, found F8_E4M3; .*llama-quantize"),
    "EAGLE 3.1": ({"norm_output": True}, dict.keys, "EAGLE 3.1's norms.*vLLM"),
    "another activation": ({"hidden_act": "gelu"}, dict.keys, "SiLU, found hidden_act gelu"),
    "longrope": ({"rope_scaling": {"rope_type": "longrope"}}, dict.keys, "found rope_type longrope"),
    "two states": ({"eagle_aux_hidden_state_layer_ids": [2, 4]}, dict.keys, "it reads three, found 2 hidden states"),
    "parallel drafting": ({"parallel_drafting": True}, dict.keys, "parallel_drafting False, found True"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_the_engine_does_not_compute_is_refused(world: World, name: str, tmp_path: Path) -> None:
    """In one line that says what and where to go instead, and nothing is written."""
    config, spoil, expected = SPOILT[name]
    folder = world.cut(world.drafter("drafter", block="layers.0"))
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(without_hashes(folder) | config))
    with pytest.raises(UnsupportedError, match=expected):
        export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("independent", "128 ids at most.*docs/engines/llama-cpp.md"),
        ("EAGLE", "EAGLE-3 only.*SGLang"),
        ("Medusa, .pt", "no Medusa"),
        ("MTP, Qwen3-Next", "whole vocabulary.*SGLang"),
    ],
)
def test_other_kinds_are_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    target = shapes.write_target(tmp_path / "target", TINY, seed=1)
    drafter = DRAFTERS[name](tmp_path / "drafter")
    cut = vt.trim(drafter, KeptVocabulary(np.arange(2, 512, 3), 512), target=target, out=tmp_path / "cut").out
    with pytest.raises(UnsupportedError, match=rf"llama\.cpp serves no trimmed .*{reason}"):
        export(cut, "llama-cpp", target=target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_target_that_hands_out_no_states(world: World, tmp_path: Path) -> None:
    """The engine aborts with Qwen2 targets (tests/engines/test_llama_cpp.py), so nothing is exported for them."""
    folder = world.cut(world.drafter("drafter"))
    about = json.loads((world.target / "config.json").read_text())
    (world.target / "config.json").write_text(json.dumps(about | {"model_type": "qwen2"}))
    with pytest.raises(
        UnsupportedError, match=r"hands no hidden states.*llama, mistral.*found qwen2; .*vLLM or SGLang"
    ):
        export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")


def test_without_a_target_nothing_is_known_of_its_layers(world: World, tmp_path: Path) -> None:
    folder = world.cut(world.drafter("drafter"))
    with pytest.raises(InputError, match=r"config\.json and tokenizer\.json, found no target; pass it with --target"):
        export(folder, "llama-cpp", out=tmp_path / "out")
    bare = shapes.write_target(tmp_path / "bare", SHAPE, seed=1)
    with pytest.raises(InputError, match=r"bare without a tokenizer\.json"):
        export(folder, "llama-cpp", target=bare, out=tmp_path / "out")


def test_another_targets_drafter(world: World, tmp_path: Path) -> None:
    folder = world.cut(world.drafter("drafter"))
    wider = replace(SHAPE, hidden=128, heads=8, kv_heads=4)
    other = shapes.write_target(tmp_path / "other", wider, seed=1, tokenizer=world.tokenizer)
    with pytest.raises(MismatchError, match=r"fc\.weight of 384 columns, found 192"):
        export(folder, "llama-cpp", target=other, out=tmp_path / "out")


def test_a_tokenizer_that_is_no_bpe(world: World, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    pieces = [(f"piece{token}", -float(token)) for token in range(SHAPE.vocab)]
    Tokenizer(models.Unigram(pieces, 0)).save(str(world.target / "tokenizer.json"))
    folder = shapes.write_eagle3(tmp_path / "drafter", SHAPE, seed=4, draft_vocab=KEPT)
    with pytest.raises(UnsupportedError, match=r"expected BPE, found Unigram; convert .*convert_hf_to_gguf\.py"):
        export(folder, "llama-cpp", target=world.target, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_library(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match=r"gguf package; install it with: pip install 'vocabtrim\[gguf\]'"):
        export(world.cut(world.drafter("drafter")), "llama-cpp", target=world.target, out=tmp_path / "out")
