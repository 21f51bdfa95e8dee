"""What is exported for SGLang, read by the loaders of the installed package (`sglang_loaders.py` says which and why).

    pip install --no-deps --target SITE sglang==0.5.23
    VOCABTRIM_SGLANG_SITE=SITE python -m pytest -m engine tests/engines/test_sglang.py

Shown with 0.5.23. The server itself needs a GPU: its kernels are CUDA's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vocabtrim as vt
from trimmed_drafters import trimmed
from vocabtrim.testbed.family import member

pytestmark = pytest.mark.engine

PARTS = {"q_proj": "qkv_proj.weight:q", "k_proj": "qkv_proj.weight:k", "v_proj": "qkv_proj.weight:v"}
PARTS |= {"gate_proj": "gate_up_proj.weight:0", "up_proj": "gate_up_proj.weight:1"}


def read(what: str, where: Path, answer: Path) -> dict[str, torch.Tensor]:
    site = os.environ.get("VOCABTRIM_SGLANG_SITE")
    if not site:
        pytest.skip("VOCABTRIM_SGLANG_SITE names no folder with the package sglang")
    script = Path(__file__).with_name("sglang_loaders.py")
    command = [sys.executable, script, site, what, where, answer]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(answer)


def in_sglangs_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {}
    for name, tensor in weights.items():
        place = name.replace("midlayer.", "layers.0.")
        for part, fused in PARTS.items():
            place = place.replace(f".{part}.weight", f".{fused}")
        named[place if place.startswith("lm_head") else f"model.{place}"] = tensor
    return named


def kept_of(drafter: Path) -> torch.Tensor:
    return torch.from_numpy(vt.KeptVocabulary.load(drafter / "kept.safetensors").ids.copy())


def sources(place: Path, name: str) -> list[tuple[Path, Path]]:
    """A drafter of the published form, and the trained one of the built-in family cut to 2,000 ids."""
    drawn = np.random.default_rng(0).choice(16_384, 2_000, replace=False)
    kept = vt.KeptVocabulary(np.union1d(drawn, [16_368, 16_370]).astype(np.int64), 16_384)
    trained = member("eagle3" if "3" in name else "eagle")
    vt.trim(trained, kept, target=member("target"), out=place / "trained")
    return [trimmed(place, name), (place / "trained", member("target"))]


@pytest.mark.parametrize("name", ["EAGLE-3, trimmed head", "EAGLE-3, trimmed head, .bin, layers.0"])
def test_load_weights_takes_every_tensor_of_an_eagle3_folder(name: str, tmp_path: Path) -> None:
    for number, (drafter, owner) in enumerate(sources(tmp_path, name)):
        vt.export(drafter, "sglang", out=tmp_path / str(number), target=owner)
        found = read("eagle3", tmp_path / str(number), tmp_path / f"{number}.safetensors")
        assert torch.equal(found.pop("ids"), kept_of(drafter))
        expected = in_sglangs_names(load_file(drafter / "model.safetensors"))
        for left_out in ("model.d2t", "model.t2d"):
            del expected[left_out]
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[part], expected[part]) for part in found)


@pytest.mark.parametrize("name", ["EAGLE", "EAGLE, no fc bias", "EAGLE, .bin, no embedding"])
def test_load_weights_takes_an_eagle_body_and_load_token_map_its_ids(name: str, tmp_path: Path) -> None:
    for number, (drafter, owner) in enumerate(sources(tmp_path, name)):
        out = tmp_path / str(number)
        vt.export(drafter, "sglang", out=out, target=owner)
        ids = read("token-map", out / "hot_tokens.pt", tmp_path / "ids.safetensors")["ids"]
        assert ids.dtype == torch.int64 and torch.equal(ids, kept_of(drafter))
        found = read("eagle", out, tmp_path / f"{number}.safetensors")
        weights = load_file(drafter / "model.safetensors")
        weights.setdefault("fc.bias", torch.zeros_like(weights["fc.weight"][:, 0]))
        for left_out in ("lm_head.weight", "embed_tokens.weight"):  # SGLang shares the target's
            weights.pop(left_out, None)
        expected = in_sglangs_names(weights)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[part], expected[part]) for part in found)
        head = load_file(owner / "model.safetensors").get("lm_head.weight")
        if head is not None:  # eagle_worker_v2.py, init_lm_head
            assert torch.equal(head[ids], load_file(drafter / "model.safetensors")["lm_head.weight"])


@pytest.mark.parametrize("name", ["MTP, DeepSeek", "MTP, Qwen3-Next", "MTP, MiMo"])
def test_load_token_map_reads_the_ids_of_a_module(name: str, tmp_path: Path) -> None:
    drafter, owner = trimmed(tmp_path, name)
    vt.export(drafter, "sglang", out=tmp_path / "out", target=owner)
    ids = read("token-map", tmp_path / "out" / "hot_tokens.pt", tmp_path / "ids.safetensors")["ids"]
    assert torch.equal(ids, kept_of(drafter))
