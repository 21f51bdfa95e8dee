"""EAGLE-3 for TensorRT-LLM, speculators, SpecForge and Model-Optimizer: names, configs and refusals by their rules.

Opened by safetensors and torch alone. tests/engines/test_exports.py (mark `engine`) opens the last three by the
libraries themselves; TensorRT-LLM's loader needs a CUDA device, so its rules are all there is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from trimmed_drafters import EAGLE3, trimmed
from vocabtrim.errors import InputError, UnsupportedError
from vocabtrim.exports.export import export
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

ENGINES = ("tensorrt-llm", "speculators", "specforge", "model-optimizer")
BLOCK = {
    "tensorrt-llm": "midlayer.",
    "specforge": "midlayer.",
    "speculators": "layers.0.",
    "model-optimizer": "layers.0.",
}


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def config_of(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("published", [EAGLE3, "EAGLE-3, trimmed head, .bin, layers.0"])
@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_have_the_engines_names_and_the_sources_bytes(engine: str, published: str, tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, published)
    export(drafter, engine, out=tmp_path / "out", target=owner)
    written, source = load_file(tmp_path / "out" / "model.safetensors"), load_file(drafter / "model.safetensors")
    renamed = {
        name.replace("midlayer.", "layers.0.").replace("layers.0.", BLOCK[engine]): part
        for name, part in source.items()
    }
    if engine == "model-optimizer":  # a bare d2t, no mask
        del renamed["t2d"]
    assert written.keys() == renamed.keys()
    for name, tensor in written.items():
        assert tensor.dtype == renamed[name].dtype and torch.equal(tensor, renamed[name]), name
    kept = torch.from_numpy(KeptVocabulary.load(drafter / "kept.safetensors").ids.copy())
    assert written["d2t"].dtype == torch.int64
    assert torch.equal(written["d2t"] + torch.arange(len(kept)), kept)


def test_tensorrt_llm_adds_offsets_of_32_bits(tmp_path: Path) -> None:
    """modeling_speculative.py: the parameter is int32; eagle3.py: d2t[draft] + draft. Both must hold every id."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    serving = export(drafter, "tensorrt-llm", out=tmp_path / "out", target=owner).serving
    written = load_file(tmp_path / "out" / "model.safetensors")
    drafted = torch.arange(len(written["d2t"]), dtype=torch.int32)
    ids = torch.from_numpy(KeptVocabulary.load(drafter / "kept.safetensors").ids.copy())
    assert torch.equal(written["d2t"].to(torch.int32)[drafted.long()] + drafted, ids.int())
    config = config_of(tmp_path / "out")
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert config["vocab_size"] == TINY.head_rows != config["draft_vocab_size"] == len(ids)
    assert f'"speculative_model_dir": "{tmp_path / "out"}"}}' in serving.command


def test_tensorrt_llm_counts_the_outputs_of_layers(tmp_path: Path) -> None:
    """Its default is 1, n/2 - 1, n - 4: the outputs whose next layer's inputs are EAGLE-3's 2, n/2, n - 3."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    edit(owner, num_hidden_layers=8)
    for number, named in enumerate(([2, 4, 5], [1, 3, 4])):  # inputs as vLLM counts, outputs as SpecForge does
        edit(drafter, eagle_aux_hidden_state_layer_ids=named)
        serving = export(drafter, "tensorrt-llm", out=tmp_path / str(number), target=owner).serving
        assert '"eagle3_layers_to_capture": [1, 3, 4]' in serving.command
    with pytest.raises(InputError, match="pass it with --target"):
        export(drafter, "tensorrt-llm", out=tmp_path / "out")


def test_speculators_config_says_what_the_library_asks(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE3)
    edit(drafter, norm_output=True)
    export(drafter, "speculators", out=tmp_path / "out", target=owner)
    config = config_of(tmp_path / "out")
    assert config["speculators_model_type"] == "eagle3" and config["norm_before_residual"] is False
    assert config["norm_output"] is True and config["fc_norm"] is False
    layer = config["transformer_layer_config"]
    assert (
        layer["vocab_size"] == TINY.head_rows and layer["hidden_size"] == TINY.hidden and layer["model_type"] == "llama"
    )
    verifier = config["speculators_config"]["verifier"]
    assert verifier == {"name_or_path": str(owner), "architectures": config_of(owner)["architectures"]}
    with pytest.raises(InputError, match="names its verifier"):
        export(drafter, "speculators", out=tmp_path / "none")


def test_qwen3_layers_are_named_as_such_for_speculators(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, EAGLE3)
    weights = load_file(drafter / "model.safetensors")
    norms = {f"midlayer.self_attn.{part}_norm.weight": torch.ones(16) for part in "qk"}
    save_file(weights | norms, drafter / "model.safetensors")
    export(drafter, "speculators", out=tmp_path / "out", target=owner)
    assert config_of(tmp_path / "out")["transformer_layer_config"]["model_type"] == "qwen3"
    for engine in ("tensorrt-llm", "specforge", "model-optimizer", "sglang"):
        with pytest.raises(UnsupportedError, match="has no place for"):
            export(drafter, engine, out=tmp_path / engine, target=owner)


def test_specforge_gets_its_mapping_and_no_norm_output(tmp_path: Path) -> None:
    """There `norm_output: false` would take the norm away from the head."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    edit(drafter, norm_output=False)
    export(drafter, "specforge", out=tmp_path / "out", target=owner)
    mapping = torch.load(tmp_path / "out" / "vocab_mapping.pt", weights_only=True)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(mapping["d2t"], written["d2t"]) and torch.equal(mapping["t2d"], written["t2d"])
    assert mapping["t2d"].dtype == torch.bool and len(mapping["t2d"]) == TINY.head_rows
    config = config_of(tmp_path / "out")
    assert "norm_output" not in config and config["architectures"] == ["LlamaForCausalLMEagle3"]


def test_model_optimizer_gets_a_bare_tensor_of_its_own_dtype(tmp_path: Path) -> None:
    """hf_eagle.py, `load_draft_vocab_cache`: shape and dtype must be those of the buffer, int64 (draft_vocab_size,)."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    export(drafter, "model-optimizer", out=tmp_path / "out", target=owner)
    bare = torch.load(tmp_path / "out" / "d2t.pt", weights_only=True)
    config = config_of(tmp_path / "out")
    assert bare.dtype == torch.int64 and bare.shape == (config["draft_vocab_size"],)
    assert torch.equal(bare, load_file(tmp_path / "out" / "model.safetensors")["d2t"])
    assert config["eagle_config"]["use_aux_hidden_state"] is True


VARIANTS = {
    "norm_before_residual": ("tensorrt-llm", "specforge", "model-optimizer", "sglang"),
    "norm_before_fc": ("tensorrt-llm", "specforge", "model-optimizer"),
    "fc_norm": ("tensorrt-llm", "model-optimizer"),
    "norm_output": ("tensorrt-llm", "specforge", "model-optimizer"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_that_an_engine_does_not_compute_are_refused(variant: str, tmp_path: Path) -> None:
    """Ignored, they would only show as bad acceptance."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    edit(drafter, **{variant: True})
    for engine in VARIANTS[variant]:
        with pytest.raises(UnsupportedError):
            export(drafter, engine, out=tmp_path / engine, target=owner)
        assert not (tmp_path / engine).exists()


def test_several_layers_are_refused_where_one_is_loaded(tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, "EAGLE-3, trimmed head, .bin, layers.0")
    weights = load_file(drafter / "model.safetensors")
    second = {
        name.replace("layers.0.", "layers.1."): part.clone()
        for name, part in weights.items()
        if name.startswith("layers.0.")
    }
    save_file(weights | second, drafter / "model.safetensors")
    for engine in ("tensorrt-llm", "specforge"):
        with pytest.raises(UnsupportedError, match=r"drafts with one decoder layer.*layers\.1\."):
            export(drafter, engine, out=tmp_path / engine, target=owner)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["independent", "EAGLE", "Medusa, .pt", "MTP, DeepSeek"])
def test_other_kinds_are_refused_with_the_reason(name: str, engine: str, tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, name)
    with pytest.raises(UnsupportedError, match=r"serves no trimmed .*: .*; export an EAGLE-3 drafter"):
        export(drafter, engine, out=tmp_path / "out", target=owner)
    assert not (tmp_path / "out").exists()


def test_rotary_positions_are_told_as_old_readers_take_them(tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters; engines that read rope_theta would fall back to 10,000 without a word."""
    drafter, owner = trimmed(tmp_path, EAGLE3)
    config = config_of(drafter)
    for key in ("rope_theta", "rope_scaling"):
        config.pop(key, None)
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0}
    (drafter / "config.json").write_text(json.dumps(config | {"rope_parameters": rope}))
    export(drafter, "tensorrt-llm", out=tmp_path / "out", target=owner)
    told = config_of(tmp_path / "out")
    assert told["rope_theta"] == 500_000.0 and told["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert told["rope_parameters"] == rope and told["torch_dtype"]
